"""Whether the classes of a data set are those of its splits and of a network."""

import numpy as np

from pruneboard.benchmark.data._splits import Dataset, Labels
from pruneboard.benchmark.errors import AssetError

_MOST_NAMED = 5


def check_outputs(model: str, n_outputs: int, dataset: Dataset, labels: Labels) -> None:
    """Raise unless a network has one output for each class of a data set.

    Where labels have no names and their number is not known, each must have an output.

    Args:
        model: name of the network.
        n_outputs: its outputs.
        dataset: what it is run on.
        labels: those of a split of it, (n,).

    Raises:
        AssetError: it has other outputs.
    """
    n_classes = dataset.n_labels if dataset.classes is None else len(dataset.classes)
    if n_classes is None and (largest := int(labels.max())) >= n_outputs:
        raise AssetError(
            f"labels must be below the number of outputs of `{model}`, {n_outputs}, but `{dataset.name}` has label "
            f"{largest}; choose another data set, or adapt the network with `pruneboard train --from`."
        )
    if n_classes is not None and n_classes != n_outputs:
        named = ", ".join((dataset.classes or ())[:_MOST_NAMED])
        more = ", ..." if dataset.classes is not None and n_classes > _MOST_NAMED else ""
        raise AssetError(
            f"a network must have an output for each class, but `{model}` has {n_outputs} and `{dataset.name}` "
            f"{n_classes} classes{f' ({named}{more})' if named else ''}; complete the data, remove folders that are no "
            "classes, adapt the network with `pruneboard train --from`, or put images of some of its classes into "
            "parquet files with the labels that it knows them by."
        )


def check_same_classes(dataset: str, splits: dict[str, Labels]) -> None:
    """Raise unless the labels of splits, (n,) each, are of the same classes.

    Raises:
        AssetError: a split lacks a class of another one.
    """
    present = {split: np.unique(labels) for split, labels in splits.items()}
    for split, classes in present.items():
        for other, others in present.items():
            if len(lacking := np.setdiff1d(classes, others)):
                raise AssetError(
                    f"the splits of a data set must have the same classes, but label {lacking[0]} of `{dataset}` is in "
                    f"`{split}` and not in `{other}`; complete the data, or leave the class out of both."
                )
