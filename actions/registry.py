"""The types of action there are: one for each file of this folder that has one, and those of installed packages.

A package brings its own by an entry point of the group `tua.actions`: the type's name, and its class.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import actions
from actions.base import Action, ActionError, Context
from settings.actions import ActionSettings
from settings.problems import Mistake

GROUP = "tua.actions"

ActionClass = type[Action[Any]]


def _own() -> Iterator[tuple[str, ActionClass]]:
    for module in pkgutil.iter_modules(actions.__path__):
        if not module.ispkg:
            for member in vars(import_module(f"actions.{module.name}")).values():
                if _is_action(member) and member.__module__ == f"actions.{module.name}":
                    yield _type_of(member), member


def _is_action(member: object) -> bool:
    return inspect.isclass(member) and issubclass(member, Action) and not inspect.isabstract(member)


def _type_of(action: ActionClass) -> str:
    return str(action.settings_type.model_fields["type"].default)


class ActionTypes(Mapping[str, type[ActionSettings]]):
    """What `type:` may say in the configuration, and the settings that go with it.

    Classes of other packages are loaded when they are asked for: one that is broken and not used breaks nothing.
    """

    def __init__(self) -> None:
        self._own: dict[str, ActionClass] = dict(_own())
        self._lent: dict[str, ActionClass] = {}
        self._brought: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=GROUP):
            self._brought.setdefault(point.name, []).append(point)

    def __getitem__(self, name: str) -> type[ActionSettings]:
        """Raises KeyError for an unknown name, Mistake for one whose class is of no use."""
        return self.action_class(name).settings_type

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._own, *self._brought, *self._lent)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(self)  # that of Mapping would load the class

    def action_class(self, name: str) -> ActionClass:
        """As `__getitem__`, the class of the action itself."""
        if name in self._lent:
            return self._lent[name]
        own, brought = self._own.get(name), self._brought.get(name, [])
        if len(brought) + (own is not None) > 1:
            whose = [*(["tua itself"] if own else []), *sorted(map(_package, brought))]
            raise Mistake(f"the type '{name}' comes from {' and from '.join(whose)}", "uninstall what is not wanted")
        if own is None and not brought:
            raise KeyError(name)
        return own or _loaded(brought[0])

    @contextmanager
    def lent(self, action: ActionClass) -> Iterator[None]:
        """Within it, a class stands for its type, whether it is installed or not: for the tests of an action."""
        name = _type_of(action)
        self._lent[name] = action
        try:
            yield
        finally:
            del self._lent[name]


def _loaded(point: EntryPoint) -> ActionClass:
    package = _package(point)
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # whatever its module raises
        said = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"the type '{point.name}' cannot be loaded: {point.value} raised {said}"
        raise Mistake(message, f"update or mend the package {package}") from error
    if fault := _fault(loaded, point.name):
        message = f"the type '{point.name}' is of no use: {point.value} of the package {package} {fault}"
        raise Mistake(message, "docs/actions.md shows how an action is made")
    return loaded  # type: ignore[no-any-return]


def _fault(loaded: object, name: str) -> str | None:
    """Why it cannot be the action of that name."""
    if not (inspect.isclass(loaded) and issubclass(loaded, Action)):
        return "is no subclass of Action"
    if missing := ", ".join(sorted(loaded.__abstractmethods__)):
        return f"lacks {missing}"
    settings = getattr(loaded, "settings_type", None)
    if not (inspect.isclass(settings) and issubclass(settings, ActionSettings)):
        return "has no settings_type that is a subclass of ActionSettings"
    if _type_of(loaded) != name:
        return f'has settings whose type is not \'{name}\' by default, as in `type: Literal["{name}"] = "{name}"`'
    return None


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


ACTION_TYPES = ActionTypes()


def create(name: str, settings: ActionSettings, context: Context) -> Action[ActionSettings]:
    """The action that these settings describe; its secrets are resolved here. Raises ActionError."""
    try:
        return ACTION_TYPES.action_class(settings.type)(name, settings, context)
    except Mistake as error:
        raise ActionError(f"action {name}: {error.message}") from error
