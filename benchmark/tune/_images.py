"""The images that tuning sees: some for the criterion, others to measure accuracy on, all of the reference split."""

from dataclasses import dataclass

import numpy as np
import torch

from pruneboard.benchmark.api import Model
from pruneboard.benchmark.data import Labels, draw_reference
from pruneboard.benchmark.errors import SuiteError
from pruneboard.benchmark.evaluate import Evaluation
from pruneboard.benchmark.runner import Rows, Workbench
from pruneboard.benchmark.schema import Job, Suite, digest

MOST_IMAGES = 50
"""Validation images per class, where there are so many and no other number was asked for."""


@dataclass(frozen=True)
class Draws:
    """How images are drawn.

    Attributes:
        n_draws: draws of reference images, which the objective averages over; at least 1.
        n_images: validation images per class; None takes what is left, but at most `MOST_IMAGES`.
        seed: of all of these draws; at least 0.
    """

    n_draws: int = 1
    n_images: int | None = None
    seed: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each draw, in a stream that no suite's seeds are of."""
        return tuple(_stream(self.seed, "reference", draw) for draw in range(self.n_draws))


@dataclass(frozen=True)
class Images:
    """Rows of the reference split.

    Attributes:
        reference: rows of each draw, classes in ascending order within each shot.
        validation: rows to measure on; none of them is a reference image of any draw or of any seed of the suite.
    """

    reference: tuple[Rows, ...]
    validation: Rows


def draw_images(suite: Suite, labels: Labels, draws: Draws) -> Images:
    """Draw the images of a study from the labels of the reference split.

    Raises:
        SuiteError: the suite measures on the split that it draws from, or too few images are left to validate on.
        AssetError: a class has fewer images than the suite's largest number of shots.
    """
    if suite.evaluation_split == suite.reference_split:
        raise SuiteError(
            f"a suite to tune on must measure accuracy on another split than it draws from, but `{suite.name}` uses "
            f"`{suite.reference_split}` for both, so that tuning would see what it is judged by; tune on another suite."
        )
    if suite.tuned_on:
        raise SuiteError(
            f"a suite to tune on must have studies of its own, but `{suite.name}` takes its tuned parameters from "
            f"`{suite.tuned_on}`; tune on that."
        )
    if suite.protocol != "one_shot":
        raise SuiteError(
            f"a suite to tune on must prune at once, but `{suite.name}` has the protocol `{suite.protocol}`; tune on "
            "one of the protocol `one_shot`."
        )
    if suite.task is not None and suite.task.n_classes is not None:
        raise SuiteError(
            f"a suite to tune on must have the same classes for all seeds, but `{suite.name}` draws "
            f"{suite.task.n_classes} anew for each; tune on one whose task has all classes."
        )
    most_shots = max(suite.shots)
    reference = tuple(draw_reference(labels, most_shots, seed) for seed in draws.seeds)
    used = np.concatenate([*reference, *(draw_reference(labels, most_shots, seed) for seed in suite.seeds)])
    left = np.setdiff1d(np.arange(len(labels)), used)
    fewest = min(int((labels[left] == label).sum()) for label in np.unique(labels))
    wanted = min(fewest, MOST_IMAGES) if draws.n_images is None else draws.n_images
    if fewest < wanted or wanted < 1:
        raise SuiteError(
            f"tuning on `{suite.name}` must find {max(wanted, 1)} validation images per class in its split "
            f"`{suite.reference_split}` that no seed and no draw takes for reference, but a class has {fewest} left; "
            "ask for fewer with `--images`, for fewer `--draws`, or tune on a suite with fewer shots or seeds."
        )
    return Images(reference, left[draw_reference(labels[left], wanted, _stream(draws.seed, "validation", 0))])


def _stream(seed: int, purpose: str, draw: int) -> int:
    return int(digest(["tuning", seed, purpose, draw])[:15], 16)


class TuningBench(Workbench):
    """A workbench whose accuracies are measured on validation images; it never opens an evaluation split.

    Args:
        device: where networks run.
        draws: how images are drawn.
    """

    def __init__(self, device: torch.device, draws: Draws) -> None:
        super().__init__(device)
        self.draws = draws

    def images(self, job: Job) -> Images:
        """Return the rows of the reference split that tuning on the job's suite sees."""
        return draw_images(job.suite, self.dataset(job).split(job.suite.reference_split).labels, self.draws)

    def evaluation(self, job: Job, plugin: Model) -> Evaluation:
        """Return the validation images in place of the evaluation split."""
        rows = self.images(job).validation
        return self._evaluation_on(job, job.suite.reference_split, rows, plugin)
