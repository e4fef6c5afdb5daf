"""Where plugins come from: the project's own folders, installed packages, and files that are named.

An installed package names its plugins by entry points of the group `pruneboard.criteria` or `pruneboard.models`. A
file, or a folder with an `__init__.py`, is named on the command line or in `$PRUNEBOARD_PLUGINS`, which worker
processes inherit.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from types import ModuleType

from pruneboard.benchmark.errors import PluginError

FILES_VARIABLE = "PRUNEBOARD_PLUGINS"
"""Environment variable with the paths of plugin files, separated as in `$PATH`."""

SENT_FOLDER = "sent_plugins"
"""Beside the packages of code that was sent here: the plugin files that were named where it came from."""

_ROOT = Path(__file__).resolve().parents[1]
_OWN = ("pruneboard.criteria", "pruneboard.models")
_FILE_PREFIX = "pruneboard_file_"


def plugin_modules(package: str) -> Iterator[ModuleType]:
    """Import and yield the modules of a plugin package, sorted by name, except those whose name starts with `_`.

    Raises:
        PluginError: a module cannot be imported; nothing is skipped silently.
    """
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            try:
                module = importlib.import_module(f"{package}.{info.name}")
            # A plugin is foreign code, and whatever it raises is a fault of that one file.
            except Exception as error:
                raise _not_importable(f"every file of `{package}`", f"`{info.name}`", error) from error
            yield module


def installed_plugins(group: str) -> Iterator[tuple[importlib.metadata.EntryPoint, object]]:
    """Import and yield what installed packages name in an entry point group: a module, a class or an instance.

    Raises:
        PluginError: one cannot be imported.
    """
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        try:
            plugin = entry.load()
        # As above.
        except Exception as error:
            origin = f" of package `{entry.dist.name}`" if entry.dist is not None else ""
            rule, what = f"every entry point of `{group}`", f"`{entry.name} = {entry.value}`{origin}"
            raise _not_importable(rule, what, error) from error
        yield entry, plugin


def named_files() -> tuple[Path, ...]:
    """Return the plugin files that were named, in order: in `$PRUNEBOARD_PLUGINS`, then what was sent with the code."""
    named = filter(None, os.environ.get(FILES_VARIABLE, "").split(os.pathsep))
    return (*map(Path, named), *sorted((_ROOT / SENT_FOLDER).glob("*/*")))


def name_file(path: Path) -> Path:
    """Add a plugin file to those that this process and all that it starts know, and return it as it is known.

    Raises:
        PluginError: there is no such file, or it is no Python file.
    """
    known = path.resolve()
    if not (known.is_file() and known.suffix == ".py") and not (known / "__init__.py").is_file():
        state = "not" if known.exists() else "not there"
        raise PluginError(
            f"a plugin must be a Python file, or a folder with an `__init__.py`, but `{path}` is {state}; correct the "
            "path."
        )
    if os.pathsep in str(known):
        raise PluginError(f"the path of a plugin must not hold `{os.pathsep}`, got `{known}`; move the file.")
    if known not in named_files():
        before = os.environ.get(FILES_VARIABLE)
        os.environ[FILES_VARIABLE] = os.pathsep.join([before, str(known)] if before else [str(known)])
    return known


def own_module(package: str, path: Path) -> ModuleType | None:
    """Return the module of a file that lies where the project's own plugins are; None for any other file.

    Raises:
        PluginError: it cannot be imported.
    """
    folders = [Path(folder).resolve() for folder in importlib.import_module(package).__path__]
    known = path.resolve()
    if known.parent not in folders or not known.exists():
        return None
    return next((module for module in plugin_modules(package) if module.__name__ == f"{package}.{known.stem}"), None)


def is_path(text: str) -> bool:
    """Whether a text names a plugin file rather than a registered plugin, whose name has neither dot nor slash."""
    return text.endswith(".py") or "/" in text or os.sep in text


@functools.cache
def file_module(path: Path) -> ModuleType:
    """Import a plugin file, or the package of a folder.

    Raises:
        PluginError: it cannot be imported.
    """
    file = path / "__init__.py" if path.is_dir() else path
    # The name is one that nothing else has, so that a file named like a library does not take its place.
    name = f"{_FILE_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    folders = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python file")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    # As above, but files may also end the process, as a script does that was named by mistake.
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise _not_importable("a plugin file", f"`{path}`", error) from error
    return module


def source_digest(module: ModuleType) -> str:
    """Return the sha256 of a plugin's source: all files that can change its result, by their names and contents.

    Of a file in `criteria/` or `models/` these are the file with the shared helpers (`_name.py`) beside it, or all
    Python files of its folder; of an installed package or a named folder all of its Python files; of a single file that
    one.
    """
    if module.__file__ is None:
        raise PluginError(f"a plugin must come from a file, but `{module.__name__}` has none.")
    path = Path(module.__file__)
    if not module.__name__.startswith(_OWN):
        return _digest(_package_files(module))
    return own_digest(path.parent if path.name == "__init__.py" else path)


def own_digest(path: Path) -> str:
    """Return the sha256 of the source of a plugin in `criteria/` or `models/`, a file or a folder."""
    return _digest([*path.rglob("*.py")] if path.is_dir() else [path, *path.parent.glob("_*.py")])


def source_name(module: ModuleType) -> str:
    """Return where a plugin's module came from, for people: `builtin`, a package with its version, or a file."""
    if module.__name__.startswith(_OWN):
        return "builtin"
    if module.__name__.startswith(_FILE_PREFIX):
        path = Path(module.__file__ or "")
        return f"file {path.parent.name if path.name == '__init__.py' else path.name}"
    top = module.__name__.partition(".")[0]
    names = sorted(set(importlib.metadata.packages_distributions().get(top, ())))
    return f"package {' '.join(f'{name} {importlib.metadata.version(name)}' for name in names) or top}"


def _package_files(module: ModuleType) -> list[Path]:
    """Return the Python files of the outermost package around a module that is no namespace, or its own file."""
    parts = module.__name__.split(".")
    for depth in range(1, len(parts) + 1):
        outer = sys.modules.get(".".join(parts[:depth]))
        file = getattr(outer, "__file__", None)
        if file is not None:
            path = Path(file)
            return [*path.parent.rglob("*.py")] if path.name == "__init__.py" else [path]
    return [Path(module.__file__ or "")]


def _digest(files: list[Path]) -> str:
    return contents_digest({file: file.read_bytes() for file in files})


def contents_digest(contents: Mapping[PurePath, bytes]) -> str:
    """Return the sha256 of source files, by their names and contents."""
    joined = hashlib.sha256()
    for file in sorted(contents):
        joined.update(file.name.encode() + b"\0" + hashlib.sha256(contents[file]).digest())
    return joined.hexdigest()


def _not_importable(rule: str, what: str, error: BaseException) -> PluginError:
    return PluginError(
        f"{rule} must be importable, but {what} is not: {type(error).__name__}: {error}; mend it or move it away."
    )
