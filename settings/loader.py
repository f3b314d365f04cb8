"""`tua.yaml` to Settings: every mistake at once, each with its place.

The file is read once into plain values (document.py), and each model judges its part of them. A reference where a
model wants a plain value is resolved when the model refuses it, and the model judges again, so that only fields
made for secrets ever keep one. Names that refer to each other are compared on the values, not on the models: a
rule with another mistake still gets its unknown action reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from settings.actions import ActionSettings
from settings.base import SettingsModel
from settings.document import MISSING, At, read_document
from settings.fields import check_action_name, check_topic_name
from settings.intake import IntakeSettings
from settings.judge import Judge
from settings.models import DeliverySettings, KafkaSettings, RuleSettings, Settings, StateSettings, TopicSettings
from settings.problems import ConfigError, Mistake, Problem, closest, did_you_mean
from settings.secrets import is_reference

BOOTSTRAP_VARIABLE = "TUA_BOOTSTRAP_SERVERS"

# Every section has a default but `rules`.
_DEFAULTS: dict[str, object] = {
    "kafka": {},
    "topics": {"products": {}},
    "rules": (),
    "actions": {"log": {"type": "log"}},
    "delivery": {},
    "state": {},
    "intake": {},
}

M = TypeVar("M", bound=SettingsModel)


def config_path(given: Path | None = None) -> Path:
    """Where the configuration is: as given on a command line, else by TUA_CONFIG, else `tua.yaml`."""
    return given or Path(os.environ.get("TUA_CONFIG") or "tua.yaml")


def load(path: Path, action_types: Mapping[str, type[ActionSettings]]) -> Settings:
    """Read a configuration. Raises ConfigError with all that is wrong in it, in the order of the file.

    `action_types` maps what `type:` of an action may be to its model, and may raise Mistake for one that is of no
    use. Paths of `{file: …}` are relative to the directory of the configuration. No secret is resolved.
    """
    return _Loader(Judge(read_document(path), path.parent), action_types).settings()


class _Loader:
    def __init__(self, judge: Judge, action_types: Mapping[str, type[ActionSettings]]) -> None:
        self._judge = judge
        self._document = judge.document
        self._action_types = action_types

    def settings(self) -> Settings:
        self._sections()
        kafka = self._judge.model(KafkaSettings, ("kafka",))
        topics = dict(self._named("topics", check_topic_name, lambda at: self._judge.model(TopicSettings, at)))
        actions = dict(self._named("actions", check_action_name, self._action))
        rules = tuple(self._rules())
        delivery = self._judge.model(DeliverySettings, ("delivery",))
        state = self._judge.model(StateSettings, ("state",))
        intake = self._judge.model(IntakeSettings, ("intake",))
        self._compare_topics(kafka, topics, actions)
        self._compare_intake()
        if self._judge.problems or kafka is None or delivery is None or state is None or intake is None:
            raise ConfigError(tuple(sorted(self._judge.problems, key=lambda one: (one.line, one.column))))
        notes = [*self._notes(topics, rules, actions)]
        notes += (self._document.problem(("intake",), note, key=True, note=True) for note in intake.notes())
        return Settings(
            kafka=kafka,
            topics=topics,
            rules=rules,
            actions=actions,
            delivery=delivery,
            state=state,
            intake=intake,
            notes=tuple(sorted(notes, key=lambda one: (one.line, one.column))),
        )

    def _sections(self) -> None:
        for name in self._document.values:
            if name not in _DEFAULTS:
                hint = did_you_mean(name, _DEFAULTS, self._document.values)
                self._judge.wrong((name,), f"unknown setting '{name}'", hint, key=True)
        for name, default in _DEFAULTS.items():
            if self._document.get((name,)) in (None, MISSING):  # a section of comments alone is as good as none
                self._document.put((name,), default)
        if (servers := os.environ.get(BOOTSTRAP_VARIABLE)) and isinstance(self._document.get(("kafka",)), dict):
            self._judge.take_environment(("kafka", "bootstrap_servers"), BOOTSTRAP_VARIABLE, servers)

    def _named(
        self, section: str, check: Callable[[str], str], build: Callable[[At], M | None]
    ) -> Iterator[tuple[str, M]]:
        """The entries of a section that maps names to settings, without those that have a mistake."""
        entries = self._document.get((section,))
        if not isinstance(entries, dict):
            message = f"'{section}' must hold names, each with its settings"
            self._judge.wrong((section,), message, f"below `{section}:`, further to the right, write `name:`")
            return
        for name, entry in entries.items():
            try:
                check(name)
            except Mistake as mistake:
                self._judge.wrong((section, name), mistake.message, mistake.hint, key=True)
            if entry in (None, MISSING):
                self._document.put((section, name), {})
            if (model := build((section, name))) is not None:
                yield name, model

    def _action(self, at: At) -> ActionSettings | None:
        kinds = ", ".join(self._action_types)
        settings = self._document.get(at)
        if isinstance(settings, dict) and "type" not in settings:
            if meant := closest("type", settings):
                self._judge.wrong((*at, meant), f"unknown setting '{meant}'", "did you mean 'type'?", key=True)
            else:
                self._judge.wrong(at, "'type' is missing", f"add `type:` with one of: {kinds}", key=True)
            return None
        kind = self._judge.text((*at, "type"))
        if kind is None:
            if not is_reference(self._document.get((*at, "type"))):  # one that leads nowhere is already reported
                self._judge.wrong((*at, "type"), f"this must be one of: {kinds}")
            return None
        if kind not in self._action_types:
            # What does not look like a name may be anything, a URL with a token too.
            named = f" '{kind}'" if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", kind) else " of that name"
            self._judge.wrong(
                (*at, "type"), f"there is no type of action{named}", did_you_mean(kind, self._action_types)
            )
            return None
        try:
            model = self._action_types[kind]
        except Mistake as mistake:
            self._judge.wrong((*at, "type"), mistake.message, mistake.hint)
            return None
        return self._judge.model(model, at)

    def _rules(self) -> Iterator[RuleSettings]:
        rules = self._document.get(("rules",))
        if rules == ():
            self._judge.wrong(("rules",), "there are no rules", "below `rules:` start one with `- name:`")
        elif not isinstance(rules, tuple):
            self._judge.wrong(("rules",), "'rules' must be a list", "start each rule with `- name:`")
            return
        names: set[str] = set()
        for index in range(len(rules)):
            at: At = ("rules", index)
            rule = self._judge.model(RuleSettings, at)
            name = self._judge.text((*at, "name"))
            if name is not None and name in names:
                self._judge.wrong((*at, "name"), f"two rules are called '{name}'", "give this one another name")
            names |= {name} if name is not None else set()
            self._refer((*at, "topic"), "topic")
            listed = self._document.get((*at, "actions"))
            for position in range(len(listed) if isinstance(listed, tuple) else 0):
                self._refer((*at, "actions", position), "action")
            if rule is not None:
                yield rule

    def _refer(self, at: At, kind: str) -> None:
        known = self._document.get((f"{kind}s",))
        name = self._judge.text(at)
        if name is not None and isinstance(known, dict) and name not in known:
            self._judge.wrong(at, f"there is no {kind} '{name}' below `{kind}s:`", did_you_mean(name, known))

    def _compare_topics(
        self, kafka: KafkaSettings | None, topics: Mapping[str, TopicSettings], actions: Mapping[str, ActionSettings]
    ) -> None:
        own = {kafka.alerts_topic, kafka.rejected_topic, kafka.dead_letters_topic} if kafka is not None else set()
        for name in own & topics.keys():
            message = f"'{name}' is written by the job itself: reading it would never end"
            self._judge.wrong(("topics", name), message, "change kafka.topic_prefix", key=True)
        for name, action in actions.items():
            written = action.writes_to()
            if written in topics:
                message = f"'{written}' is read by the job itself: what it writes there would come back"
                self._judge.wrong(("actions", name, "topic"), message, "write to another topic")
            elif written in own:
                message = f"'{written}' is a topic of the job's own"
                self._judge.wrong(("actions", name, "topic"), message, "write to another topic")

    def _compare_intake(self) -> None:
        self._refer(("intake", "products_topic"), "topic")
        keys = self._document.get(("intake", "api_keys"))
        for name in keys if isinstance(keys, dict) else ():
            if ":" in str(name):
                message = f"'{name}' has a colon, which ends the name in an event's id"
                self._judge.wrong(("intake", "api_keys", name), message, "such as shop or shop-app", key=True)
            at: At = ("intake", "api_keys", name, "topics")
            listed = self._document.get(at)
            for position in range(len(listed) if isinstance(listed, tuple) else 0):
                self._refer((*at, position), "topic")

    def _notes(
        self,
        topics: Mapping[str, TopicSettings],
        rules: tuple[RuleSettings, ...],
        actions: Mapping[str, ActionSettings],
    ) -> Iterator[Problem]:
        for index, rule in enumerate(rules):
            if not rule.actions:
                message = f"the rule '{rule.name}' names no actions: its alerts go to the alerts topic alone"
                yield self._document.problem(("rules", index), message, note=True)
            for path, values in rule.where.items():
                for position, value in enumerate(values):
                    if isinstance(value, str) and value.startswith(("<", ">")):
                        message = f"'{value}' is compared as text: a condition knows no more and no less"
                        yield self._document.problem(("rules", index, "where", path, position), message, note=True)
        for name in topics.keys() - {rule.topic for rule in rules}:
            yield self._document.problem(("topics", name), f"no rule reads the topic '{name}'", key=True, note=True)
        for name in actions.keys() - {action for rule in rules for action in rule.actions}:
            at = ("actions", name)
            if self._document.nearest(at) == at:  # the default ones are not in the file
                yield self._document.problem(at, f"no rule uses the action '{name}'", key=True, note=True)
        for name, action in actions.items():
            for note in action.notes():
                yield self._document.problem(("actions", name), f"{name}: {note}", key=True, note=True)
