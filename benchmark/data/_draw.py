"""The draw of reference images from a split."""

import numpy as np
import numpy.typing as npt

from pruneboard.benchmark.data._splits import Labels
from pruneboard.benchmark.errors import AssetError


def draw_reference(labels: Labels, shots: int, seed: int) -> npt.NDArray[np.intp]:
    """Draw reference images: the same number of each class, without repetition.

    Each class has its own random stream, so what is drawn from one does not depend on the others, nor on `shots`.

    Args:
        labels: class of each image, (n,).
        shots: images per class, at least 1.
        seed: at least 0.

    Returns:
        Rows (shots * n_classes,), classes in ascending order within each shot: the first k * n_classes are the draw of
        k shots.

    Raises:
        AssetError: a class has too few images, or an argument is out of range.
    """
    if shots < 1 or seed < 0:
        raise AssetError(f"`shots` must be at least 1 and `seed` at least 0, got {shots} and {seed}.")
    draws = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < shots:
            raise AssetError(
                f"each class must have at least {shots} images for {shots} shots, but class {label} has {len(rows)}; "
                "ask for fewer shots."
            )
        draws.append(np.random.default_rng([seed, int(label)]).permutation(rows)[:shots])
    return np.stack(draws, axis=1).reshape(-1)
