"""The registered criteria and models, from wherever plugins come."""

import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args

from pruneboard.benchmark import discovery
from pruneboard.benchmark.api import Criterion, Model
from pruneboard.benchmark.errors import PluginError, PruneboardError
from pruneboard.benchmark.registry import Registry
from pruneboard.benchmark.schema import FAMILIES, TUNED_SUFFIX, Job, Needs, digest

P = TypeVar("P")


def criteria() -> Registry[Criterion]:
    """Return all criteria, each preset under its own name: the project's, of installed packages, of named files.

    Raises:
        PluginError: one cannot be imported or lacks a declaration.
        PruneboardError: two have the same name.
    """
    return _criteria(discovery.named_files())


def models() -> Registry[Model]:
    """Return all models: the project's, of installed packages, of named files.

    Raises:
        PluginError: one cannot be imported.
        PruneboardError: two have the same name.
    """
    return _models(discovery.named_files())


@functools.cache
def _criteria(files: tuple[Path, ...]) -> Registry[Criterion]:
    registry: Registry[Criterion] = Registry("criterion", Criterion)  # type: ignore[type-abstract]
    return _fill(registry, "pruneboard.criteria", files, criteria_in)


@functools.cache
def _models(files: tuple[Path, ...]) -> Registry[Model]:
    return _fill(Registry("model", Model), "pruneboard.models", files, models_in)


def _fill(
    registry: Registry[P],
    group: str,
    files: tuple[Path, ...],
    collect: Callable[[ModuleType], Iterable[tuple[str, P]]],
) -> Registry[P]:
    """Register the plugins of a kind from all three places, and return the registry."""

    def register(module: ModuleType, found: Iterable[tuple[str, P]]) -> None:
        origin = discovery.source_name(module)
        for name, plugin in found:
            registry.register(name, plugin, origin)

    for module in discovery.plugin_modules(group):
        register(module, collect(module))
    for entry, value in discovery.installed_plugins(group):
        module, found = _named_by(entry, value, collect)
        if not found:
            raise PluginError(
                f"an entry point of `{group}` must name a module that defines a plugin, or the plugin, but "
                f"`{entry.name} = {entry.value}` has none; correct it in the package's pyproject.toml."
            )
        register(module, found)
    for path in files:
        module = discovery.file_module(path)
        if not [*criteria_in(module), *models_in(module)]:
            raise PluginError(
                f"a plugin file must define a criterion or a model, but `{path}` defines none; write one with "
                "`pruneboard new`."
            )
        register(module, collect(module))
    return registry


def _named_by(
    entry: EntryPoint, value: object, collect: Callable[[ModuleType], Iterable[tuple[str, P]]]
) -> tuple[ModuleType, list[tuple[str, P]]]:
    """Return the module of an entry point, and of its plugins all, or those of the one class or instance it names."""
    if isinstance(value, ModuleType):
        return value, list(collect(value))
    module = importlib.import_module(value.__module__ if isinstance(value, type) else entry.module)
    return module, [(name, plugin) for name, plugin in collect(module) if plugin is value or type(plugin) is value]


def criteria_of_file(path: Path) -> tuple[str, ...]:
    """Make a plugin file known to this process and its workers, and return the names of its criteria.

    Raises:
        PluginError: it cannot be imported, or defines no criterion.
    """
    module = discovery.own_module("pruneboard.criteria", path) or discovery.file_module(discovery.name_file(path))
    names = tuple(name for name, _ in criteria_in(module))
    if not names:
        raise PluginError(
            f"a file that is named as a criterion must define one, but `{path}` defines none; subclass `Criterion` of "
            "`pruneboard.benchmark.api` there."
        )
    # All of them at once, so that a name that is taken is said here.
    criteria()
    return names


def resolve_criteria(given: Iterable[str]) -> tuple[str, ...]:
    """Return the names of criteria that are given by name, or by the path of a file, which is made known.

    Raises:
        PluginError: a file cannot be used.
    """
    names: list[str] = []
    for text in given:
        names += criteria_of_file(Path(text)) if discovery.is_path(text) else [text]
    return tuple(dict.fromkeys(names))


def criteria_in(module: ModuleType) -> Iterator[tuple[str, Criterion]]:
    """Yield the criteria that a module defines: the class with its defaults, and each of its presets.

    Raises:
        PruneboardError: a class lacks something that every criterion declares.
    """
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Criterion) and value.__module__ == module.__name__:
            _check_declared(value)
            # The source is read now, when it is imported: editing it later does not change what this process runs.
            criterion_digest(value)
            for name, parameters in ((value.name, {}), *value.presets.items()):
                if name.endswith(TUNED_SUFFIX):
                    raise PruneboardError(
                        f"the name of a criterion must not end in `{TUNED_SUFFIX}`, which marks tuned ones, got "
                        f"`{name}`; rename it."
                    )
                yield name, make_criterion(value, name, parameters)


def criterion_of(job: Job) -> Criterion:
    """Return the criterion that a job runs: the registered one, or its tuned form.

    Raises:
        UnknownNameError: there is none of that name.
        PruneboardError: the tuned parameters are not, or no longer, those of the criterion.
    """
    if job.tuned is None:
        return criteria().get(job.criterion)
    parameters = {name: as_hashable(value) for name, value in json.loads(job.tuned.parameters).items()}
    return make_criterion(type(criteria().get(job.tuned.base)), job.criterion, parameters)


def as_hashable(value: Any) -> Any:
    """Return a value read from JSON with its lists as tuples, as a parameter of a frozen dataclass has them."""
    return tuple(map(as_hashable, value)) if isinstance(value, list) else value


def _check_declared(criterion: type[Criterion]) -> None:
    """Raise unless a criterion declares what every row will say of it."""
    valid: dict[str, Callable[[Any], bool]] = {
        "name": lambda value: isinstance(value, str),
        "version": lambda value: type(value) is int and value >= 1,
        "family": lambda value: value in FAMILIES,
        "source": lambda value: isinstance(value, str),
        "needs": lambda value: value in get_args(Needs),
    }
    expected = {
        "version": "a whole number from 1",
        "family": f"one of {', '.join(FAMILIES)}",
        "needs": f"one of {', '.join(get_args(Needs))}",
    }
    for attribute, is_valid in valid.items():
        value = getattr(criterion, attribute, None)
        if not is_valid(value):
            raise PluginError(
                f"`{attribute}` of criterion `{criterion.__qualname__}` must be {expected.get(attribute, 'a text')}, "
                f"got {value!r}; declare it in the class."
            )


def make_criterion(criterion: type[Criterion], name: str, parameters: Mapping[str, Any]) -> Criterion:
    """Make a criterion with some parameters given.

    Raises:
        PruneboardError: one of them is no field of the criterion or no plain finite value.
        CriterionError: the criterion refuses a value.
    """
    try:
        made = criterion(**parameters)
        digest(asdict(made))
    except (TypeError, ValueError) as error:
        raise PruneboardError(
            f"the parameters of criterion `{name}` must be its fields with plain finite values, got "
            f"{dict(parameters)}: {error}."
        ) from error
    return made


def models_in(module: ModuleType) -> Iterator[tuple[str, Model]]:
    """Yield the models that a module defines."""
    for value in vars(module).values():
        if isinstance(value, Model):
            yield value.name, value


@functools.cache
def criterion_digest(criterion: type[Criterion]) -> str:
    """Return the sha256 of a criterion's source as it was when it was imported."""
    return discovery.source_digest(sys.modules[criterion.__module__])


def installed_digests(names: Iterable[str]) -> dict[str, str]:
    """Return the digests of the criteria among some names that come from installed packages; absent ones are left out.

    Tuned criteria go by the name of what was tuned.
    """
    bases = {name.removesuffix(TUNED_SUFFIX) for name in names} & {*criteria().names()}
    return {
        name: criterion_digest(type(criteria().get(name)))
        for name in sorted(bases)
        if criteria().origin(name).startswith("package ")
    }


def criterion_parameters(criterion: Criterion) -> dict[str, Any]:
    """Return a criterion's parameters by name."""
    return asdict(criterion)
