"""What is known of a physically pruned network, and written beside its weights."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Form = Literal["exact", "coupled"]
"""`exact` removes each unit by itself, as masks do; `coupled` removes together what a residual stream couples."""

FORMAT = 1
"""Version of what is written; rises when a reader of older files would misread newer ones."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything known of a pruned network.

    Attributes:
        model: registered name of the network it was made of.
        granularity: kind of unit.
        criterion: registered name of the criterion.
        parameters: the criterion's parameters.
        rate: fraction of units that was asked to be removed, in [0, 1).
        seed: seed of the reference draw and of random ties.
        shots: reference images per class.
        suite: name of the suite that decides data and protocol.
        form: how units were removed.
        input_size: (channels, height, width) of an image.
        mean: per channel, subtracted from pixel values in [0, 1].
        std: per channel, divided by afterwards.
        n_classes: number of logits.
        n_units: units before.
        n_units_removed: units removed.
        units_kept: units kept of each layer, by position.
        params_before: parameters of the unpruned network.
        params: parameters.
        macs_before: multiply-accumulates of the unpruned network for one image.
        macs: multiply-accumulates for one image.
        top1_before: accuracy of the unpruned network, in [0, 1].
        top1: accuracy, in [0, 1].
        dataset: data set of the accuracies.
        split: its split.
        n_images: number of its images.
        licence: licence of the weights it was made of.
        source: where their architecture is published.
        weights_digest: digest of the weights it was made of.
        pruneboard: version of pruneboard.
        commit: commit of the code, empty for an installed package.
        clean: whether the code was exactly that commit.
    """

    model: str
    granularity: str
    criterion: str
    parameters: dict[str, Any]
    rate: float
    seed: int
    shots: int
    suite: str
    form: Form
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    n_classes: int
    n_units: int
    n_units_removed: int
    units_kept: dict[str, list[int]]
    params_before: int
    params: int
    macs_before: int
    macs: int
    top1_before: float
    top1: float
    dataset: str
    split: str
    n_images: int
    licence: str
    source: str
    weights_digest: str
    pruneboard: str
    commit: str
    clean: bool

    def document(self) -> dict[str, Any]:
        """Return it as values that JSON can hold, with the version of the format in front."""
        return {"format": FORMAT, **asdict(self)}
