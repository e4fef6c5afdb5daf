"""Points in the plane, generated from fixed seeds: moons, circles and a spiral.

Source: the toy data of Yeom et al. 2019 (arXiv 1912.08881), section 4.1; its code says the noise, the shape of the
spiral and the numbers of points, which are followed here.
"""

import functools
import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pruneboard.benchmark.data._splits import Labels, PointSplit

POINT_SPLITS = ("reference", "test", "train")
"""`train` is what networks learn, `reference` has fresh points like it, `test` fresh points with additional noise."""

_N_PER_CLASS: Mapping[str, int] = {"train": 500, "reference": 5000, "test": 5000}
_SEEDS: Mapping[str, int] = {"train": 0, "reference": 1, "test": 2}
_TEST_NOISE = 0.3

Points2D = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """One split of a generated data set: `toy_moons`, `toy_circles` or `toy_spiral`."""

    dataset: str
    split: str

    def fingerprint(self) -> list[tuple[str, str]]:
        points, labels = _generate(self.dataset, self.split)
        parts = {"points": points.astype("<f4").tobytes(), "labels": labels.astype("<i8").tobytes()}
        return [(name, hashlib.sha256(part).hexdigest()) for name, part in parts.items()]

    def placed_files(self) -> list[tuple[str, Path]]:
        return []

    def load(self, name: str) -> PointSplit:
        points, labels = _generate(self.dataset, self.split)
        return PointSplit(name, labels, points)


@functools.cache
def _generate(dataset: str, split: str) -> tuple[npt.NDArray[np.float32], Labels]:
    generator = np.random.default_rng(_SEEDS[split])
    if dataset == "toy_spiral":
        points, labels = spiral(_N_PER_CLASS[split], generator)
    else:
        # Importing scikit-learn takes a second, which runs on other data need not wait for.
        sklearn = importlib.import_module("sklearn.datasets")
        make, options = (sklearn.make_moons, {}) if dataset == "toy_moons" else (sklearn.make_circles, {"factor": 0.3})
        points, labels = make(2 * _N_PER_CLASS[split], noise=0.1, random_state=_SEEDS[split], **options)
    if split == "test":
        points = points + generator.normal(scale=_TEST_NOISE, size=points.shape)
    return points.astype(np.float32), labels.astype(np.int64)


def spiral(n_per_class: int, generator: np.random.Generator) -> tuple[Points2D, Labels]:
    """Generate four arms that turn by 4 radians around the origin on their way out.

    Point i of n on arm c lies at the radius r = i / (n - 1) and the angle 4 (c + r) + e, with e normal of standard
    deviation 0.2 in radians: x = (r sin, r cos) of that angle. All arms begin at the origin, where no network can tell
    them apart.

    Args:
        n_per_class: points of each arm, at least 2.
        generator: draws the noise.

    Returns:
        Coordinates (4 * n_per_class, 2) in the unit disc, arm by arm from the inside out, and the arm of each point.
    """
    radius = np.tile(np.linspace(0.0, 1.0, n_per_class), 4)
    labels = np.repeat(np.arange(4), n_per_class)
    angle = 4 * (labels + radius) + generator.normal(scale=0.2, size=len(labels))
    return radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1), labels
