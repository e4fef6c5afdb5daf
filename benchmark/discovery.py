"""Where plugins come from: the project's own folders, installed packages, and files that are named.

An installed package names its plugins by entry points of the group `pruneboard.criteria` or `pruneboard.models`. A
file, or a folder with an `__init__.py`, is named on the command line or in `$PRUNEBOARD_PLUGINS`, which worker
processes inherit. Only the project's own plugins are imported where networks are evaluated.
"""

import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import ModuleType

from pruneboard.benchmark.errors import PluginError

FILES_VARIABLE = "PRUNEBOARD_PLUGINS"
"""Environment variable with the paths of plugin files, separated as in `$PATH`."""

SENT_FOLDER = "sent_plugins"
"""Beside the packages of code that was sent here: the plugin files that were named where it came from."""

ROOT = Path(__file__).resolve().parents[1]
"""Folder of the project's own `criteria` and `models`."""

_FILE_PREFIX = "pruneboard_file_"
_imported: list[str] = []
_hidden: list[bool] = []


@dataclass(frozen=True, order=True)
class Source:
    """Where foreign plugins come from.

    Attributes:
        path: the named file or folder; empty for an entry point.
        group: group of the entry point; empty for a file.
        entry: name of the entry point.
        value: what the entry point names, as `module` or `module:attribute`.
        package: name and version of the package that declares it.
    """

    path: str = ""
    group: str = ""
    entry: str = ""
    value: str = ""
    package: str = ""

    @property
    def origin(self) -> str:
        """Where the plugins came from, for people: a package with its version, or a file."""
        return f"file {Path(self.path).name}" if self.path else f"package {self.package}"

    @property
    def label(self) -> str:
        """What to look for where the plugins are named, for people."""
        return f"`{self.path}`" if self.path else f"`{self.entry} = {self.value}` of {self.origin}"

    def digest(self) -> str:
        """Return the sha256 of all files that can change what a plugin does, without importing any.

        Of a single file that is the file; of a named folder or an installed package all of its Python files.

        Raises:
            PluginError: they cannot be read.
        """
        try:
            if self.path:
                path = Path(self.path)
                return _digest([*path.rglob("*.py")] if path.is_dir() else [path])
            return _digest(_package_files(self.value.partition(":")[0]))
        except OSError as error:
            raise _not_importable("a plugin", self.label, error) from error

    def load(self) -> tuple[ModuleType, object]:
        """Import it, and return its module with what it names there: the module itself, a class or an instance.

        Raises:
            PluginError: it cannot be imported.
        """
        if self.path:
            module = file_module(Path(self.path))
            return module, module
        try:
            value = importlib.metadata.EntryPoint(self.entry, self.value, self.group).load()
            if isinstance(value, ModuleType):
                return value, value
            name = value.__module__ if isinstance(value, type) else self.value.partition(":")[0]
            return importlib.import_module(name), value
        # A plugin is foreign code, and whatever it raises is a fault of that one.
        except (Exception, SystemExit) as error:
            raise _not_importable(f"every entry point of `{self.group}`", self.label, error) from error


def hide_foreign() -> None:
    """Let this process, which runs one foreign plugin, know no others beside the project's own."""
    _hidden.append(True)


def sources(group: str) -> tuple[Source, ...]:
    """Return where foreign plugins of a group come from: installed packages, sorted, then named files in order."""
    if _hidden:
        return ()
    entries = {
        Source(
            group=group,
            entry=entry.name,
            value=entry.value,
            package=f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown",
        )
        for entry in importlib.metadata.entry_points(group=group)
    }
    return (*sorted(entries), *(Source(path=str(path)) for path in named_files()))


def own_modules(package: str) -> Iterator[ModuleType]:
    """Import and yield the modules of one of the project's own plugin folders, except those whose name begins with `_`.

    Args:
        package: `pruneboard.criteria` or `pruneboard.models`.

    Raises:
        PluginError: a module cannot be imported, or another one stands in its place.
    """
    folder = ROOT / package.rpartition(".")[2]
    for info in sorted(pkgutil.iter_modules([str(folder)]), key=lambda info: info.name):
        if not info.name.startswith("_"):
            try:
                module = importlib.import_module(f"{package}.{info.name}")
                if not Path(module.__file__ or "").resolve().is_relative_to(folder):
                    raise ImportError(f"`{module.__file__}` takes its place")
            except Exception as error:
                raise _not_importable(f"every file of `{package}`", f"`{info.name}`", error) from error
            yield module


def named_files() -> tuple[Path, ...]:
    """Return the plugin files that were named, in order: in `$PRUNEBOARD_PLUGINS`, then what was sent with the code."""
    named = filter(None, os.environ.get(FILES_VARIABLE, "").split(os.pathsep))
    return (*map(Path, named), *sorted((ROOT / SENT_FOLDER).glob("*/*")))


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


def own_name(package: str, path: Path) -> str | None:
    """Return the module name of a file or folder that lies among the project's own plugins; None for any other."""
    known = path.resolve()
    if known.parent != ROOT / package.rpartition(".")[2] or not known.exists():
        return None
    return f"{package}.{known.stem}"


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
    _imported.append(str(path))
    return module


def module_digest(module: ModuleType) -> str:
    """Return the sha256 of the source of one of the project's own plugins, or of a module that a test defines."""
    if module.__file__ is None:
        raise PluginError(f"a plugin must come from a file, but `{module.__name__}` has none.")
    path = Path(module.__file__)
    if not path.resolve().is_relative_to(ROOT / "criteria"):
        return _digest([path])
    if path.name == "__init__.py":
        return _digest([*path.parent.rglob("*.py")])
    return _digest([path, *path.parent.glob("_*.py")])


def imported_files() -> list[str]:
    """Return the paths of the plugin files that this process has imported, because they hold networks that it runs."""
    return list(_imported)


def _package_files(module: str) -> list[Path]:
    """Return the Python files of the outermost package around a module that is no namespace, or its own file.

    Nothing is imported, so folders are searched in place of asking the modules.
    """
    name, _, rest = module.partition(".")
    spec = importlib.util.find_spec(name)
    while spec is not None and spec.origin is None and rest:
        name, _, rest = rest.partition(".")
        spec = importlib.machinery.PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"there is no module `{module}`")
    path = Path(spec.origin)
    return [*path.parent.rglob("*.py")] if path.name == "__init__.py" else [path]


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
