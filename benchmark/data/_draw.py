"""The draw of classes, and of images of each class, from a split."""

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


def draw_classes(labels: Labels, n_classes: int | None, seed: int) -> Labels:
    """Draw classes of a task, without repetition; a larger task of the same seed holds the smaller ones.

    Args:
        labels: class of each image, (n,).
        n_classes: how many; None takes all.
        seed: at least 0.

    Returns:
        Labels (n_classes,), ascending.

    Raises:
        AssetError: there are fewer classes.
    """
    present = np.unique(labels)
    if n_classes is None:
        return present
    if n_classes > len(present):
        raise AssetError(f"a task must have no more classes than its data, {len(present)}, got {n_classes}; lower it.")
    return np.sort(np.random.default_rng(seed).permutation(present)[:n_classes])
