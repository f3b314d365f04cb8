"""From a transition that is news to its alert JSON, and to the list of who gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from actions import metrics
from actions.alert import Alert, Evidence
from actions.base import Action
from actions.delivery.identity import News
from actions.delivery.noise import Cooldown, Flood
from actions.delivery.records import Address, Composed
from actions.delivery.topic import ALERTS
from actions.text import escaped
from detection.durations import spoken
from detection.rules import Scalar
from detection.times import iso
from detection.transitions import Transition
from settings import RuleSettings, Settings
from settings.actions import ActionSettings, NotifySettings
from settings.templates import Template, compile_template

_log = structlog.get_logger()


class Composer:
    """Composes by the rules of the present configuration.

    A transition of another version of a rule (it was changed or removed, so its alerts end as cancelled) is
    composed from what was told of the alert before, and a removed rule's goes to `actions_of(alert id)`.
    """

    def __init__(
        self,
        settings: Settings,
        actions: Mapping[str, Action[ActionSettings]],
        actions_of: Callable[[str], list[str]],
    ) -> None:
        versions = {rule.name: rule.version for rule in settings.detection_rules()}
        self._rules = {rule.name: (rule, versions[rule.name]) for rule in settings.rules}
        self._templates = {
            rule.name: (compile_template(rule.message), compile_template(rule.resolved_message))
            for rule in settings.rules
        }
        self._actions = actions
        self._configured = frozenset(settings.actions)
        self._actions_of = actions_of
        self._failed: set[str] = set()

    def __call__(self, news: News) -> Composed | None:
        """None (which is logged) where neither the configuration nor the outbox knows what it is about."""
        t = news.transition
        rule, version = self._rules.get(t.rule, (None, None))
        if rule is not None and version == t.rule_version:
            alert = self._alert(t, rule)
        elif news.previous:
            alert = _from_previous(t, Alert.model_validate_json(news.previous))
        else:
            _log.warning("An alert of a rule that is gone ended, and nothing is known of it", alert=t.alert_id)
            return None
        cooldown = None if rule is None else cooldown_of(rule)
        return Composed(alert.to_json(), alert.severity, cooldown, tuple(self._to(t, rule)))

    def _to(self, t: Transition, rule: RuleSettings | None) -> Iterator[Address]:
        yield Address(ALERTS, tuple(self._actions[ALERTS].recipients()), people=False)
        names: Sequence[str] = ()
        if t.told:
            names = rule.actions if rule is not None else self._actions_of(t.alert_id)
        for name in names:
            if name in self._configured and t.status in self._actions[name].settings.send:
                action = self._actions[name]
                yield Address(name, tuple(action.recipients()), flood=_flood_of(action.settings))

    def _alert(self, t: Transition, rule: RuleSettings) -> Alert:
        key = dict(zip(rule.key, t.key, strict=True))
        return Alert(
            id=t.alert_id,
            sequence=t.sequence,
            rule=t.rule,
            rule_version=t.rule_version,
            severity=rule.severity,
            status=t.status,
            key=key,
            peak=t.peak,
            peak_exact=t.peak_exact,
            events=t.events,
            threshold=rule.count.threshold,
            window_ms=rule.count.window_ms,
            opened_at=t.opened_at_ms,
            resolves_at=t.resolves_at_ms,
            message=self._message(t, rule, key),
            evidence=_evidence(t),
            merged_into=t.merged_into,
            cancelled=t.cancelled,
            reopened=t.reopened,
        )

    def _message(self, t: Transition, rule: RuleSettings, key: dict[str, Scalar]) -> str:
        if t.merged_into is not None:
            return f"{t.rule}: {_listed(key)} is part of an alert that was opened before, and goes on as that one"
        template: Template = self._templates[rule.name][t.status == "resolved"]
        try:
            return template.render(
                {
                    "key": key,
                    "count": t.peak,
                    "peak": t.peak,
                    "events": t.events,
                    "threshold": rule.count.threshold,
                    "window": spoken(rule.count.window_ms),
                    "rule": rule.name,
                    "severity": rule.severity,
                    "opened_at": iso(t.opened_at_ms),
                    "resolves_at": iso(t.resolves_at_ms),
                    "duration": spoken(t.resolves_at_ms - t.opened_at_ms),
                }
            )
        except ValueError as error:
            metrics.RENDERING_ERRORS.labels(f"rule {rule.name}").inc()
            if rule.name not in self._failed:  # once for each start: a rule that fails may do so at every alert
                self._failed.add(rule.name)
                _log.error(
                    "The message of a rule cannot be made; a plain one is sent",
                    rule=rule.name,
                    error=escaped(str(error)),
                )
            return f"{t.rule}: {_listed(key)} {t.status}, peak {t.peak}, {t.events} events"


def cooldown_of(rule: RuleSettings) -> Cooldown | None:
    """The cooldown of a rule, if it has one."""
    return None if rule.cooldown is None else Cooldown(rule.cooldown.first_ms, rule.cooldown.cap_ms)


def _flood_of(settings: ActionSettings) -> Flood | None:
    if isinstance(settings, NotifySettings) and settings.flood is not None:
        return Flood(settings.flood.more_than, settings.flood.within_ms)
    return None


def _listed(key: Mapping[str, Scalar]) -> str:
    return ", ".join(str(value) for value in key.values())[:200]


def _from_previous(t: Transition, previous: Alert) -> Alert:
    how = "was cancelled: its rule was changed or removed" if t.cancelled else t.status
    return previous.model_copy(
        update={
            "sequence": t.sequence,
            "status": t.status,
            "peak": t.peak,
            "peak_exact": t.peak_exact,
            "events": t.events,
            "opened_at": t.opened_at_ms,
            "resolves_at": t.resolves_at_ms,
            "message": f"{t.rule}: {_listed(previous.key)} {how}",
            "evidence": _evidence(t),
            "merged_into": t.merged_into,
            "cancelled": t.cancelled,
            "reopened": t.reopened,
        }
    )


def _evidence(t: Transition) -> Evidence:
    source = t.source
    return Evidence(topic=source.topic, partition=source.partition, offset=source.offset, timestamp=source.timestamp_ms)
