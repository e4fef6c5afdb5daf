"""What a training says while it goes on, and what it leaves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """Progress after one epoch.

    Attributes:
        epoch: epochs done, from 1.
        n_epochs: epochs in all.
        loss: mean training loss of the epoch, in nat, label smoothing included.
        top1: fraction of the epoch's images, changed at random as the recipe says, that were classified rightly while
            the network was learning; of mixed images, those whose larger part was.
        learning_rate: of the epoch's last step.
        seconds: spent on all epochs so far, those before an interruption included.
    """

    epoch: int
    n_epochs: int
    loss: float
    top1: float
    learning_rate: float
    seconds: float


Progress = Callable[[TrainingStep], None]


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training produced.

    Attributes:
        model: name of the model.
        file: the weights, in safetensors.
        top1: accuracy on the evaluation split, in [0, 1].
        n_images: images of that split.
        sha256: of the file.
        tensors_digest: of the tensors, whatever the file's layout and metadata.
        seconds: of the training alone, that before an interruption included.
    """

    model: str
    file: Path
    top1: float
    n_images: int
    sha256: str
    tensors_digest: str
    seconds: float
