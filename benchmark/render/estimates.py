"""A mean over seeds with its interval."""

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, which is empty when there is one seed."""

    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width, or None when there is one seed."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(record: Mapping[Hashable, Any], metric: str) -> Estimate:
    """Return a metric of one line of a summary over seeds, without interval where the summary has none."""
    return interval(*(record.get(f"{metric}_{part}", math.nan) for part in ("mean", "low", "high")))


def interval(mean: float, low: float, high: float) -> Estimate:
    """Return an estimate from three numbers, of which the ends may be nan."""
    mean, low, high = float(mean), float(low), float(high)
    return Estimate(mean, None if math.isnan(low) else low, None if math.isnan(high) else high)
