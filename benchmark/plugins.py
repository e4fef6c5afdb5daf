"""The registered criteria and models, found in their folders."""

import functools
import sys
from collections.abc import Iterator
from dataclasses import asdict
from types import ModuleType
from typing import Any

from pruneboard.benchmark.api import Criterion, Model
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.registry import Registry, fill, source_digest


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
            for attribute in ("name", "version", "family", "source", "needs"):
                if not hasattr(value, attribute):
                    raise PruneboardError(
                        f"every criterion must declare `{attribute}`, but `{value.__qualname__}` does not; add it."
                    )
            yield value.name, value()
            for name, parameters in value.presets.items():
                yield name, value(**parameters)


def models_in(module: ModuleType) -> Iterator[tuple[str, Model]]:
    """Yield the models that a module defines."""
    for value in vars(module).values():
        if isinstance(value, Model):
            yield value.name, value


def criterion_digest(criterion: Criterion) -> str:
    """Return the sha256 of a criterion's source."""
    return source_digest(sys.modules[type(criterion).__module__])


def criterion_parameters(criterion: Criterion) -> dict[str, Any]:
    """Return a criterion's parameters by name."""
    return asdict(criterion)
