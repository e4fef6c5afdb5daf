"""Names to plugins: one registry class for criteria and models."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from pruneboard.benchmark.errors import PruneboardError, UnknownNameError

T = TypeVar("T")

_PLAIN = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
_TAKEN = {"speed"}
"""What other files of a results folder are called."""


def name_fault(kind: str, name: str) -> str | None:
    """Return why a name cannot be that of a plugin, whose files are called by it; None when it can."""
    if not _PLAIN.fullmatch(name):
        shown = name if len(name) <= 64 else f"{name[:64]}..."
        return (
            f"the name of a {kind} must be lower_snake, such as my_taylor, of at most 64 of a-z, 0-9 and _, got "
            f"`{shown}`; rename it."
        )
    if name in _DEVICES | _TAKEN:
        return f"the name of a {kind} must be free on every system, but files cannot be called `{name}`; add a word."
    return None


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Make the error for a name that does not exist, with the nearest ones and the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""
    return UnknownNameError(f"there is no {kind} `{name}`.{hint} Known: {', '.join(names) or 'none'}.")


class Registry(Generic[T]):
    """Plugins of one kind under unique names.

    Args:
        kind: word for messages, such as `criterion`.
        base: class that every plugin must be an instance of.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self._kind = kind
        self._base = base
        self._plugins: dict[str, T] = {}
        self._loaders: dict[str, Callable[[], T]] = {}
        self._origins: dict[str, str] = {}

    def register(self, name: str, plugin: T, origin: str = "") -> None:
        """Add a plugin.

        Args:
            name: its name.
            plugin: what is found under the name.
            origin: where it came from, for people.

        Raises:
            PruneboardError: the name is taken or not lower_snake, or the plugin is of another kind.
        """
        self._take(name, origin)
        self._plugins[name] = self._checked(name, plugin)

    def register_loader(self, name: str, load: Callable[[], T], origin: str) -> None:
        """Add a plugin that is loaded when it is first asked for.

        Raises:
            PruneboardError: the name is taken or not lower_snake.
        """
        self._take(name, origin)
        self._loaders[name] = load

    def get(self, name: str) -> T:
        """Return the plugin of a name.

        Raises:
            UnknownNameError: no plugin has it; the message says the nearest names.
            PruneboardError: it cannot be loaded, or is of another kind.
        """
        if name not in self._origins:
            raise unknown_name(self._kind, name, self._origins)
        if name not in self._plugins:
            self._plugins[name] = self._checked(name, self._loaders[name]())
        return self._plugins[name]

    def origin(self, name: str) -> str:
        """Return where the plugin of a name came from, for people.

        Raises:
            UnknownNameError: no plugin has it.
        """
        if name not in self._origins:
            raise unknown_name(self._kind, name, self._origins)
        return self._origins[name]

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._origins))

    def _take(self, name: str, origin: str) -> None:
        if (fault := name_fault(self._kind, name)) is not None:
            raise PruneboardError(fault)
        if name in self._origins:
            both = " and ".join(f"`{where}`" for where in (self._origins[name], origin) if where)
            raise PruneboardError(
                f"the name of a {self._kind} must be unique, but `{name}` is taken{f': by {both}' if both else ''}; "
                "rename one."
            )
        self._origins[name] = origin

    def _checked(self, name: str, plugin: T) -> T:
        if not isinstance(plugin, self._base):
            raise PruneboardError(
                f"a {self._kind} must be a `{self._base.__name__}`, but `{name}` is a `{type(plugin).__name__}`."
            )
        return plugin
