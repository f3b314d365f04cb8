"""The types of action there are: one for each file of this folder that has one, and those of installed packages.

A package brings its own by an entry point of the group `tua.actions`: the type's name, and its class.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator, Mapping
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
        self._brought: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=GROUP):
            self._brought.setdefault(point.name, []).append(point)

    def __getitem__(self, name: str) -> type[ActionSettings]:
        """Raises KeyError for an unknown name, Mistake for one whose class is of no use."""
        return self.action_class(name).settings_type

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._own, *self._brought)))

    def __len__(self) -> int:
        return len(self._own.keys() | self._brought.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._brought

    def action_class(self, name: str) -> ActionClass:
        """As `__getitem__`, the class of the action itself."""
        own, brought = self._own.get(name), self._brought.get(name, [])
        if len(brought) + (own is not None) > 1:
            whose = [*(["tua itself"] if own else []), *sorted(map(_package, brought))]
            raise Mistake(f"the type '{name}' comes from {' and from '.join(whose)}", "uninstall what is not wanted")
        if own is None and not brought:
            raise KeyError(name)
        return own or _loaded(brought[0])


def _loaded(point: EntryPoint) -> ActionClass:
    package = _package(point)
    try:
        loaded = point.load()
    except Exception as error:  # whatever its module raises
        message = f"the type '{point.name}' cannot be loaded: {point.value} raised {type(error).__name__}: {error}"
        raise Mistake(message, f"update or mend the package {package}") from error
    if not _is_action(loaded) or not hasattr(loaded, "settings_type") or _type_of(loaded) != point.name:
        message = f"{point.value} of the package {package} is no action whose settings say type '{point.name}'"
        raise Mistake(message, "docs/actions.md shows how one is made")
    return loaded  # type: ignore[no-any-return]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


ACTION_TYPES = ActionTypes()


def create(name: str, settings: ActionSettings, context: Context) -> Action[ActionSettings]:
    """The action that these settings describe; its secrets are resolved here. Raises ActionError."""
    try:
        return ACTION_TYPES.action_class(settings.type)(name, settings, context)
    except Mistake as error:
        raise ActionError(f"action {name}: {error.message}") from error
