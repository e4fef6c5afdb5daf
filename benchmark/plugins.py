"""The registered criteria and models, found in their folders."""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from types import ModuleType
from typing import Any, get_args

from pruneboard.benchmark.api import Criterion, Model, Needs
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.registry import Registry, fill, source_digest
from pruneboard.benchmark.schema import TUNED_SUFFIX, Job, digest

FAMILIES = ("control", "weights", "activation", "gradient", "attribution")
"""Families that the tables and the site tell apart."""


@functools.cache
def criteria() -> Registry[Criterion]:
    """Return all criteria, each preset under its own name."""
    registry: Registry[Criterion] = Registry("criterion", Criterion)  # type: ignore[type-abstract]
    return fill(registry, "pruneboard.criteria", criteria_in)


@functools.cache
def models() -> Registry[Model]:
    """Return all models."""
    return fill(Registry("model", Model), "pruneboard.models", models_in)


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
            raise PruneboardError(
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
    return source_digest(sys.modules[criterion.__module__])


def criterion_parameters(criterion: Criterion) -> dict[str, Any]:
    """Return a criterion's parameters by name."""
    return asdict(criterion)
