"""Protocols: units are removed at once, or step by step, with or without training between the steps."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pruneboard.benchmark.api import Batch, Context, Criterion
from pruneboard.benchmark.checks import Scoring
from pruneboard.benchmark.errors import CheckpointError, StoreError
from pruneboard.benchmark.evaluate import Evaluation, Pruning, accuracy_curve, points_under, prepare_pruning
from pruneboard.benchmark.pruned import PrunedNetwork
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.schema import SCHEMA_VERSION, CurvePoint, FineTuning, Scope
from pruneboard.benchmark.scoring import score_all_shots
from pruneboard.benchmark.store import atomic_file
from pruneboard.benchmark.training import TrainingImages, finetune


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a protocol works with in one job.

    Attributes:
        criterion: what scores.
        context: what it may look at, with the reference images of the largest number of shots.
        pruning: the unpruned network as it is evaluated.
        evaluation: images to measure on.
        probe: images whose logits tell whether a network still computes what it did.
        shots: numbers of reference images per class, increasing.
        rates: fractions of units removed, increasing from 0.
        scope: what is ranked together.
        stream: gives an independent generator, on the CPU, for each purpose.
    """

    criterion: Criterion
    context: Context
    pruning: Pruning
    evaluation: Evaluation
    probe: Tensor
    shots: Sequence[int]
    rates: Sequence[float]
    scope: Scope
    stream: Callable[[str], torch.Generator]


@dataclass(frozen=True)
class Curves:
    """What a protocol measured.

    Attributes:
        points: number of shots and a point of its curve, in the order of both.
        score_seconds: time of all scoring at the largest number of shots.
        score_peak_bytes: memory that scoring added at most; None where the system does not tell.
        earlier_seconds: time of steps that were taken before the job was begun again.
    """

    points: list[tuple[int, CurvePoint]]
    score_seconds: float
    score_peak_bytes: int | None
    earlier_seconds: float = 0.0


def one_shot(experiment: Experiment) -> Curves:
    """Score once, and remove units in the order of these scores."""
    scoring = score_all_shots(experiment.criterion, experiment.context, experiment.shots, experiment.probe)
    return Curves(list(_curves(experiment, scoring)), scoring.seconds, scoring.peak_bytes)


def _curves(experiment: Experiment, scoring: Scoring) -> Iterator[tuple[int, CurvePoint]]:
    known: dict[int, list[CurvePoint]] = {}
    for shots, scores in scoring.by_shots.items():
        # Without data the same scores serve every number of shots, and so does their curve.
        if id(scores) not in known:
            ranking = rank(scores, experiment.scope, experiment.stream("ties"))
            known[id(scores)] = accuracy_curve(experiment.pruning, ranking, experiment.rates, experiment.evaluation)
        for point in known[id(scores)]:
            yield shots, point


@dataclass(frozen=True)
class Training:
    """How and on what a network is trained between the steps.

    Attributes:
        recipe: how.
        data: gives the images and labels for a number of shots.
    """

    recipe: FineTuning
    data: Callable[[int], TrainingImages]


def iterative(experiment: Experiment, training: Training | None, checkpoints: "Checkpoints") -> Curves:
    """Go from rate to rate: score what is left, remove the least important, train if the protocol says so.

    A step from rate r to rate s removes floor(s n) - floor(r n) of n units, and what was removed stays so. With all
    rates 5 % apart that is the schedule of Yeom et al. 2019, arXiv 1912.08881 (5 % of all units in each step).

    Args:
        experiment: the job.
        training: None leaves the weights as they are.
        checkpoints: keep every step, so that a job which is begun again goes on behind the last one.
    """
    points: list[tuple[int, CurvePoint]] = []
    state, earlier = _State(), 0.0
    # Without data and training all numbers of shots see the same.
    alike = experiment.context.data is None and training is None
    for shots in experiment.shots:
        if not (alike and points):
            state = _trajectory(experiment, training, checkpoints, shots)
            earlier += state.earlier_seconds
        points += [(shots, point) for point in state.points]
    return Curves(points, state.seconds, state.peak_bytes, earlier)


@dataclass
class _State:
    """How far a trajectory has come."""

    points: list[CurvePoint] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int | None = None
    earlier_seconds: float = 0.0
    all_seconds: float = 0.0


def _trajectory(experiment: Experiment, training: Training | None, checkpoints: "Checkpoints", shots: int) -> _State:
    context = experiment.context
    pruned = PrunedNetwork(context.model, context.layers, experiment.probe)
    started, state = time.perf_counter(), checkpoints.load(shots, pruned)
    given = _first_shots(context, shots, max(experiment.shots))
    for step, rate in list(enumerate(experiment.rates))[len(state.points) :]:
        if step > 0:
            _take_step(experiment, pruned, replace(given, model=pruned.network), (step, rate), state)
            if training is not None:
                finetune(pruned, training.recipe, training.data(shots), experiment.stream(f"training, step {step}"))
        pruning, evaluation = experiment.pruning, experiment.evaluation
        if training is not None and step > 0:
            pruning = prepare_pruning(pruned.network, context.layers, experiment.probe)
            evaluation = replace(evaluation, seen={})
        state.points += points_under(pruning, [rate], [pruned.masks], evaluation)
        state.all_seconds = state.earlier_seconds + time.perf_counter() - started
        checkpoints.save(shots, pruned, state)
    return state


def _take_step(
    experiment: Experiment, pruned: PrunedNetwork, context: Context, at: tuple[int, float], state: _State
) -> None:
    """Score what is left, and remove the least important of it."""
    step, rate = at
    # The first step is that of `one_shot`, ties included.
    suffix = "" if step == 1 else f", step {step}"
    context = replace(
        context,
        generator=experiment.stream(f"criterion{suffix}"),
    )
    # The images of one number of shots are all that the context holds.
    scoring = score_all_shots(experiment.criterion, context, (1,), experiment.probe, kept=pruned.masks)
    ranking = rank(scoring.by_shots[1], experiment.scope, experiment.stream(f"ties{suffix}"), pruned.masks)
    pruned.remove(masks_at(ranking, rate))
    state.seconds += scoring.seconds
    if scoring.peak_bytes is not None:
        state.peak_bytes = max(scoring.peak_bytes, state.peak_bytes or 0)


def _first_shots(context: Context, shots: int, most: int) -> Context:
    """Leave the first images of each class; those of a shot stand together."""
    if context.data is None:
        return context
    n_images = len(context.data.images) // most * shots
    return replace(context, data=Batch(context.data.images[:n_images], context.data.labels[:n_images]))


class Checkpoints:
    """The last finished step of a job at each number of shots, so that a job which was killed goes on there.

    Args:
        folder: where they are kept; None keeps none.
        job_key: digest of everything that decides the job's result.
        machine: what else may decide its last bits; steps that were taken on another one are taken again.
        with_weights: whether weights change from step to step.
    """

    def __init__(self, folder: Path | None, job_key: str, machine: str, *, with_weights: bool) -> None:
        self._folder = folder
        self._key = job_key
        self._machine = machine
        self._with_weights = with_weights

    def _path(self, shots: int) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._key}.{shots}.safetensors"

    def save(self, shots: int, pruned: PrunedNetwork, state: _State) -> None:
        """Keep a step in place of the one before it.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        path = self._path(shots)
        if path is None:
            return
        tensors = {f"mask.{name}": mask for name, mask in pruned.masks.items()}
        if self._with_weights:
            tensors |= {f"state.{name}": value for name, value in pruned.network.state_dict().items()}
        facts = {
            "schema": SCHEMA_VERSION,
            "key": self._key,
            "machine": self._machine,
            "all_seconds": state.all_seconds,
            "points": [asdict(point) for point in state.points],
            "seconds": state.seconds,
            "peak_bytes": state.peak_bytes,
        }
        content = safetensors.torch.save(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            metadata={"pruneboard": json.dumps(facts)},
        )
        try:
            with atomic_file(path) as temporary:
                temporary.write_bytes(content)
        except StoreError as error:
            raise CheckpointError(str(error)) from error

    def load(self, shots: int, pruned: PrunedNetwork) -> _State:
        """Bring a network to the last finished step and return how far that is; a damaged file counts as none."""
        state = _State()
        path = self._path(shots)
        if path is None or not path.is_file():
            return state
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["pruneboard"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, ValueError, KeyError, safetensors.SafetensorError):
            return state
        if (facts.get("schema"), facts["key"], facts["machine"]) != (SCHEMA_VERSION, self._key, self._machine):
            return state
        weights = {name.removeprefix("state."): v for name, v in tensors.items() if name.startswith("state.")}
        pruned.restore({layer.name: tensors[f"mask.{layer.name}"] for layer in pruned.layers}, weights)
        state.points = [CurvePoint(**point) for point in facts["points"]]
        state.seconds, state.peak_bytes = facts["seconds"], facts["peak_bytes"]
        state.earlier_seconds = facts["all_seconds"]
        return state

    def forget(self, shots: Sequence[int]) -> None:
        """Remove the steps of a job whose rows are stored."""
        for path in filter(None, map(self._path, shots)):
            path.unlink(missing_ok=True)
