"""The registered criteria and models, from wherever plugins come."""

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from pruneboard.benchmark import discovery
from pruneboard.benchmark.api import Criterion, Model
from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.errors import PluginError, PruneboardError
from pruneboard.benchmark.foreign import Description, ForeignCriterion, describe
from pruneboard.benchmark.registry import Registry
from pruneboard.benchmark.schema import FAMILIES, TUNED_SUFFIX, Job, Needs, as_hashable, digest

BUILTIN = "builtin"
"""Origin of the project's own plugins."""

_CRITERIA, _MODELS = "pruneboard.criteria", "pruneboard.models"


def criteria() -> Registry[Criterion]:
    """Return all criteria, each preset under its own name: the project's, of installed packages, of named files.

    Only the project's own are imported; the others run in processes of their own.

    Raises:
        PluginError: one cannot be imported or lacks a declaration.
        PruneboardError: two have the same name.
    """
    return _criteria(discovery.named_files())


def models() -> Registry[Model]:
    """Return all models: the project's, of installed packages, of named files.

    Those of others are imported when they are asked for, because networks run where they are evaluated.

    Raises:
        PluginError: one cannot be imported.
        PruneboardError: two have the same name.
    """
    return _models(discovery.named_files())


@functools.cache
def _criteria(files: tuple[Path, ...]) -> Registry[Criterion]:
    registry: Registry[Criterion] = Registry("criterion", Criterion)  # type: ignore[type-abstract]
    for module in discovery.own_modules(_CRITERIA):
        for name, criterion in criteria_in(module):
            registry.register(name, criterion, BUILTIN)
    for source in discovery.sources(_CRITERIA):
        for name, foreign in description_of(source).criteria.items():
            _check_declared(foreign, foreign.facts.code)
            _check_name(name)
            registry.register(name, foreign, source.origin)
    return registry


@functools.cache
def _models(files: tuple[Path, ...]) -> Registry[Model]:
    registry = Registry("model", Model)
    for module in discovery.own_modules(_MODELS):
        for name, model in models_in(module):
            registry.register(name, model, BUILTIN)
    for source in discovery.sources(_MODELS):
        for name in description_of(source).models:
            registry.register_loader(name, functools.partial(_load_model, source, name), source.origin)
    return registry


_descriptions: dict[Source, Description] = {}


def description_of(source: Source) -> Description:
    """Return what a source of foreign plugins defines, as a process of its own said when it was first asked for.

    Raises:
        PluginError: it cannot be imported, or lacks a declaration.
    """
    if source not in _descriptions:
        found = _descriptions[source] = describe(source)
        if found.printed:
            print(
                f"warning: a plugin should print nothing when it is imported, but {source.origin} prints "
                f"{found.printed!r}; move that into a function.",
                file=sys.stderr,
            )
    return _descriptions[source]


def descriptions() -> dict[Source, Description]:
    """Return what is known of foreign plugins, for processes that this one starts."""
    return dict(_descriptions)


def know(found: Mapping[Source, Description]) -> None:
    """Take over what another process found out about foreign plugins."""
    _descriptions.update(found)


def definitions(source: Source) -> tuple[list[tuple[str, Criterion]], list[tuple[str, Model]]]:
    """Import a source of foreign plugins, and return its criteria and models by registered name.

    Raises:
        PluginError: it cannot be imported, or defines no plugin.
    """
    module, named = source.load()
    found = list(criteria_in(module)), list(models_in(module))
    if named is not module:
        found = (
            [(name, one) for name, one in found[0] if one is named or type(one) is named],
            [(name, one) for name, one in found[1] if one is named],
        )
    kinds = {_CRITERIA: found[:1], _MODELS: found[1:]}
    if not any(kinds.get(source.group, found)):
        if source.path:
            raise PluginError(
                f"a plugin file must define a criterion or a model, but `{source.path}` defines none; write one with "
                "`pruneboard new`."
            )
        raise PluginError(
            f"an entry point of `{source.group}` must name a module that defines a plugin, or the plugin, but "
            f"`{source.entry} = {source.value}` has none; correct it in the package's pyproject.toml."
        )
    return found


def imported_criterion(source: Source, name: str, parameters: Mapping[str, Any]) -> Criterion:
    """Import a foreign criterion, for a process that runs nothing else.

    Raises:
        PluginError: it cannot be imported, or is not there.
        PruneboardError: the parameters are not those of the criterion.
    """
    for known, criterion in definitions(source)[0]:
        if known == name:
            return _made(type(criterion), name, {key: as_hashable(value) for key, value in parameters.items()})
    raise PluginError(f"a criterion must stay where it was found, but {source.origin} defines no `{name}` any more.")


def own_criterion(name: str) -> Criterion:
    """Return a criterion as an object of its class, foreign ones too, for a process that runs nothing else.

    Raises:
        UnknownNameError: there is none of that name.
        PluginError: it cannot be imported.
    """
    criterion = criteria().get(name)
    if isinstance(criterion, ForeignCriterion):
        return imported_criterion(criterion.origin, name, criterion.parameters)
    return criterion


def declaration(name: str, criterion: Criterion) -> dict[str, Any]:
    """Return what a criterion declares, as `foreign.Facts` and its parameters hold it."""
    return {
        "registered": name,
        "name": criterion.name,
        "version": criterion.version,
        "family": criterion.family,
        "source": criterion.source,
        "needs": criterion.needs,
        "deterministic": criterion.deterministic,
        "tunable": is_tunable(criterion),
        "code": type(criterion).__qualname__,
        "documentation": documentation(criterion),
        "parameters": criterion_parameters(criterion),
    }


def _load_model(source: Source, name: str) -> Model:
    for known, model in definitions(source)[1]:
        if known == name:
            return model
    raise PluginError(f"a model must stay where it was found, but {source.origin} defines no `{name}` any more.")


def criteria_of_file(path: Path) -> tuple[str, ...]:
    """Make a plugin file known to this process and its workers, and return the names of its criteria.

    Raises:
        PluginError: it cannot be imported, or defines no criterion.
    """
    own = discovery.own_name(_CRITERIA, path)
    if own is not None:
        names = tuple(name for name in criteria().names() if type(criteria().get(name)).__module__ == own)
    else:
        names = tuple(description_of(Source(path=str(discovery.name_file(path)))).criteria)
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
            _check_declared(value, value.__qualname__)
            # The source is read now, when it is imported: editing it later does not change what this process runs.
            _class_digest(value)
            for name, parameters in ((value.name, {}), *value.presets.items()):
                _check_name(name)
                yield name, _made(value, name, parameters)


def _check_name(name: str) -> None:
    if name.endswith(TUNED_SUFFIX):
        raise PruneboardError(
            f"the name of a criterion must not end in `{TUNED_SUFFIX}`, which marks tuned ones, got `{name}`; rename "
            "it."
        )


def criterion_of(job: Job) -> Criterion:
    """Return the criterion that a job runs: the registered one, or its tuned form.

    Raises:
        UnknownNameError: there is none of that name.
        PruneboardError: the tuned parameters are not, or no longer, those of the criterion.
    """
    if job.tuned is None:
        return criteria().get(job.criterion)
    parameters = {name: as_hashable(value) for name, value in json.loads(job.tuned.parameters).items()}
    return with_parameters(criteria().get(job.tuned.base), job.criterion, parameters)


def _check_declared(criterion: Criterion | type[Criterion], code: str) -> None:
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
                f"`{attribute}` of criterion `{code}` must be {expected.get(attribute, 'a text')}, got {value!r}; "
                "declare it in the class."
            )


def with_parameters(criterion: Criterion, name: str, parameters: Mapping[str, Any]) -> Criterion:
    """Return a criterion of the same class with some parameters given, the others at their defaults.

    Raises:
        PruneboardError: one of them is no field of the criterion or no plain finite value.
        CriterionError: the criterion refuses a value.
    """
    if isinstance(criterion, ForeignCriterion):
        base = criteria().get(criterion.name)
        known = base.parameters if isinstance(base, ForeignCriterion) else criterion.parameters
        if unknown := sorted(parameters.keys() - known.keys()):
            raise PruneboardError(f"the parameters of criterion `{name}` must be its fields, got `{unknown[0]}`.")
        return dataclasses.replace(criterion, parameters={**known, **parameters})
    return _made(type(criterion), name, parameters)


def _made(criterion: type[Criterion], name: str, parameters: Mapping[str, Any]) -> Criterion:
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


def criterion_digest(criterion: Criterion) -> str:
    """Return the sha256 of a criterion's source as it was when it was imported or described."""
    return criterion.digest if isinstance(criterion, ForeignCriterion) else _class_digest(type(criterion))


@functools.cache
def _class_digest(criterion: type[Criterion]) -> str:
    return discovery.module_digest(sys.modules[criterion.__module__])


def installed_digests(names: Iterable[str]) -> dict[str, str]:
    """Return the digests of the criteria among some names that come from installed packages; absent ones are left out.

    Tuned criteria go by the name of what was tuned.
    """
    bases = {name.removesuffix(TUNED_SUFFIX) for name in names} & {*criteria().names()}
    return {
        name: criterion_digest(criteria().get(name))
        for name in sorted(bases)
        if criteria().origin(name).startswith("package ")
    }


def criterion_parameters(criterion: Criterion) -> dict[str, Any]:
    """Return a criterion's parameters by name."""
    return dict(criterion.parameters) if isinstance(criterion, ForeignCriterion) else asdict(criterion)


def is_tunable(criterion: Criterion) -> bool:
    """Whether a criterion declares a search space."""
    if isinstance(criterion, ForeignCriterion):
        return criterion.facts.tunable
    return type(criterion).search_space is not Criterion.search_space


def documentation(criterion: Criterion) -> str:
    """Return the docstring of a criterion's class, without its indentation."""
    if isinstance(criterion, ForeignCriterion):
        return criterion.facts.documentation
    return inspect.getdoc(type(criterion)) or ""
