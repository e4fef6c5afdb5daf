"""Names to plugins: one registry class for criteria and models, filled from the modules of a package."""

import difflib
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
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

    def register(self, name: str, plugin: T) -> None:
        """Add a plugin.

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
            raise PruneboardError(f"the name of a {self._kind} must be unique, but `{name}` is taken; rename one.")
        self._plugins[name] = plugin

    def get(self, name: str) -> T:
        """Return the plugin of a name.

        Raises:
            UnknownNameError: no plugin has it; the message says the nearest names.
        """
        try:
            return self._plugins[name]
        except KeyError:
            raise unknown_name(self._kind, name, self._plugins) from None

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._plugins))


def plugin_modules(package: str) -> Iterator[ModuleType]:
    """Import and yield the modules of a plugin package, sorted by name, except those whose name starts with `_`.

    Raises:
        PruneboardError: a module cannot be imported; nothing is skipped silently.
    """
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            name = f"{package}.{info.name}"
            try:
                yield importlib.import_module(name)
            # A plugin is foreign code, and whatever it raises is a fault of that one file.
            except Exception as error:
                raise PruneboardError(
                    f"every file of `{package}` must be importable, but `{info.name}` is not: "
                    f"{type(error).__name__}: {error}; mend the file or move it away."
                ) from error


def fill(registry: Registry[T], package: str, collect: Callable[[ModuleType], Iterable[tuple[str, T]]]) -> Registry[T]:
    """Register what `collect` finds in each module of a plugin package, and return the registry."""
    for module in plugin_modules(package):
        for name, plugin in collect(module):
            registry.register(name, plugin)
    return registry


def source_digest(module: ModuleType) -> str:
    """Return the sha256 of a plugin's source: its file, or every Python file of its folder.

    Shared helpers (`_name.py` beside a plugin file) are part of it, because they can change its result.
    """
    if module.__file__ is None:
        raise PruneboardError(f"a plugin must come from a file, but `{module.__name__}` has none.")
    path = Path(module.__file__)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path, *path.parent.glob("_*.py")]
    joined = hashlib.sha256()
    for file in sorted(files):
        joined.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return joined.hexdigest()
