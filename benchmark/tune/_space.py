"""The configurations that tuning may try, in an order of their own."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruneboard.benchmark.errors import CriterionError

Configuration = Mapping[str, Any]
"""Searched parameter to its value."""


def as_text(value: Any) -> str:
    """Return a value or a configuration as JSON in canonical form, by which configurations are told apart."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class Space:
    """The product of the values that each parameter may take.

    Attributes:
        values: parameter to its distinct values, in the criterion's order.
    """

    values: Mapping[str, tuple[Any, ...]]

    @property
    def size(self) -> int:
        """Number of configurations; 0 when there is no parameter."""
        return math.prod(map(len, self.values.values())) if self.values else 0

    def at(self, index: int) -> dict[str, Any]:
        """Return the configuration at a place in [0, size), the last parameter varying fastest."""
        configuration = {}
        for name in reversed(list(self.values)):
            values = self.values[name]
            index, place = divmod(index, len(values))
            configuration[name] = values[place]
        return {name: configuration[name] for name in self.values}

    def __contains__(self, configuration: Configuration) -> bool:
        """Whether every parameter has one of its values."""
        return self.values.keys() == configuration.keys() and all(
            as_text(configuration[name]) in map(as_text, values) for name, values in self.values.items()
        )

    def untried(self, tried: Collection[str], seed: Sequence[int]) -> dict[str, Any]:
        """Draw a configuration that was not tried; there must be one.

        Args:
            tried: texts of configurations.
            seed: numbers that decide the draw.
        """
        generator = np.random.default_rng(list(seed))
        while as_text(drawn := self.at(int(generator.integers(self.size)))) in tried:
            continue
        return drawn


def make_space(searched: object, parameters: Collection[str]) -> Space:
    """Check what a criterion says that it can tune.

    Args:
        searched: what its `search_space` returned.
        parameters: names of all of its parameters.

    Raises:
        CriterionError: it is no mapping of parameters to distinct values that can be written as JSON.
    """
    if not isinstance(searched, Mapping):
        raise CriterionError(f"a search space must map parameters to values, got a `{type(searched).__name__}`.")
    for name, values in searched.items():
        if name not in parameters:
            raise CriterionError(
                f"a search space must name parameters, got {name!r}; the criterion has {', '.join(parameters)}."
            )
        try:
            distinct = {as_text(value) for value in values}
        except (TypeError, ValueError) as error:
            raise CriterionError(
                f"the values of `{name}` must be writable as JSON, got {values!r}: {error}."
            ) from error
        if not isinstance(values, tuple) or not values or len(distinct) != len(values):
            raise CriterionError(
                f"the values of `{name}` must be a tuple of one or more distinct ones, got {values!r}."
            )
    return Space(dict(searched))
