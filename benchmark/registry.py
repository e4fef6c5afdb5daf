"""Names to plugins: one registry class for criteria and models."""

import difflib
from collections.abc import Iterable
from typing import Generic, TypeVar

from pruneboard.benchmark.errors import PruneboardError, UnknownNameError

T = TypeVar("T")


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
        if not isinstance(plugin, self._base):
            raise PruneboardError(
                f"a {self._kind} must be a `{self._base.__name__}`, but `{name}` is a `{type(plugin).__name__}`."
            )
        if not name.isidentifier() or name != name.lower():
            raise PruneboardError(f"the name of a {self._kind} must be lower_snake, got `{name}`; rename it.")
        if name in self._plugins:
            both = " and ".join(f"`{where}`" for where in (self._origins[name], origin) if where)
            raise PruneboardError(
                f"the name of a {self._kind} must be unique, but `{name}` is taken{f': by {both}' if both else ''}; "
                "rename one."
            )
        self._plugins[name], self._origins[name] = plugin, origin

    def get(self, name: str) -> T:
        """Return the plugin of a name.

        Raises:
            UnknownNameError: no plugin has it; the message says the nearest names.
        """
        try:
            return self._plugins[name]
        except KeyError:
            raise unknown_name(self._kind, name, self._plugins) from None

    def origin(self, name: str) -> str:
        """Return where the plugin of a name came from, for people.

        Raises:
            UnknownNameError: no plugin has it.
        """
        self.get(name)
        return self._origins[name]

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._plugins))
