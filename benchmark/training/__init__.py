"""Training: a network of ours by its recipe, a pretrained one for other data, or what is left of a pruned one."""

from pruneboard.benchmark.training._adapt import AdaptOptions, adapt_to
from pruneboard.benchmark.training._augment import random_flip, random_shift
from pruneboard.benchmark.training._finetune import TrainingImages, finetune
from pruneboard.benchmark.training._fit import Going, fit
from pruneboard.benchmark.training._records import TrainingResult, TrainingStep
from pruneboard.benchmark.training._start import Start, start_from_file, start_from_model
from pruneboard.benchmark.training._train import train

__all__ = [
    "AdaptOptions",
    "Going",
    "Start",
    "TrainingImages",
    "TrainingResult",
    "TrainingStep",
    "adapt_to",
    "finetune",
    "fit",
    "random_flip",
    "random_shift",
    "start_from_file",
    "start_from_model",
    "train",
]
