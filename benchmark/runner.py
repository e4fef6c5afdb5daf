"""Running one job: the only place that sees every stage from the model to the rows."""

import datetime
import functools
import gc
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.api import Batch, Context, Criterion, Model
from pruneboard.benchmark.counts import count_sizes
from pruneboard.benchmark.data import (
    Dataset,
    Framing,
    Labels,
    Split,
    check_outputs,
    check_same_classes,
    draw_classes,
    draw_reference,
    find_dataset,
)
from pruneboard.benchmark.errors import CheckpointError, ForeignError, SuiteError, Unsupported
from pruneboard.benchmark.evaluate import Accuracy, Answers, Evaluation, Pruning, prepare_pruning, unchanged
from pruneboard.benchmark.failures import clean_reason, describe_error, is_out_of_memory
from pruneboard.benchmark.networks import check_network
from pruneboard.benchmark.protocols import Checkpoints, Curves, Experiment, Training, iterative, one_shot
from pruneboard.benchmark.schema import (
    SCHEMA_VERSION,
    Granularity,
    Job,
    JobIdentity,
    Precision,
    Row,
    Status,
    digest,
)
from pruneboard.benchmark.scoring import batch_size_for
from pruneboard.benchmark.training import TrainingImages
from pruneboard.benchmark.units import Layer, find_layers

_log = logging.getLogger(__name__)
# Who wants the tracebacks of plugins says where to; by default they are not printed.
_log.addHandler(logging.NullHandler())

T = TypeVar("T")
Rows = npt.NDArray[np.intp]

_Name = tuple[str, str, str, bytes]
"""Network, suite, evaluation split and classes of a task: what decides what is measured of a network."""

_N_PROBE_IMAGES = 8
_EVALUATION_SEED = 0
"""Of the images of a suite that measures on some of each class."""
_EVALUATION_IMAGES = 125
_EVALUATION_BYTES = 16 * 2**20
"""Most images, and on a CPU most memory of their pixels as float32, in one pass of evaluation."""


@dataclass(frozen=True)
class LoadedModel:
    """A network on its device, with the images it is evaluated on."""

    plugin: Model
    network: nn.Module
    evaluation: Evaluation
    _layers: dict[Granularity, tuple[Layer, ...]] = field(default_factory=dict)
    _prunings: dict[Granularity, Pruning] = field(default_factory=dict)

    def layers(self, granularity: Granularity) -> tuple[Layer, ...]:
        """Return the layers that hold a kind of unit."""
        if granularity not in self._layers:
            self._layers[granularity] = find_layers(self.network, granularity, self.probe[:1])
        return self._layers[granularity]

    def pruning(self, granularity: Granularity) -> Pruning:
        """Return the network as it is pruned by a kind of unit; to be asked for while the network is undamaged."""
        if granularity not in self._prunings:
            self._prunings[granularity] = prepare_pruning(self.network, self.layers(granularity), self.probe)
        return self._prunings[granularity]

    @property
    def probe(self) -> torch.Tensor:
        """A few images whose logits tell whether the network still computes what it did."""
        return self.evaluation.batch(slice(_N_PROBE_IMAGES))


class LatestInputs:
    """Inputs of a split, decoded when they are first asked for; only the latest are kept, as images are large.

    Args:
        device: where they are kept.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._key: tuple[Split, tuple[int, int, int], Framing, bytes | None] | None = None
        self._inputs = torch.empty(0)

    def of(self, split: Split, rows: Rows | None, plugin: Model) -> torch.Tensor:
        """Return rows (k,) of a split, or all, as a network's inputs are stored; not to be written to.

        Raises:
            AssetError: they cannot be loaded.
        """
        key = (split, plugin.input_size, plugin.framing, None if rows is None else rows.tobytes())
        if key != self._key:
            # Freed first, so that two sets of images are never held at once.
            self._key, self._inputs = None, torch.empty(0)
            self._inputs = split.stored(rows, size=plugin.input_size, framing=plugin.framing, device=self._device)
            self._key = key
        return self._inputs


class Workbench:
    """What the jobs of one process share: the device, loaded networks, decoded images, measured masks.

    Args:
        device: where networks run.
        precision: what evaluation computes in; scoring is always in float32.
        run_folder: where jobs that go step by step keep their last step; None keeps none.

    Attributes:
        device: where networks run.
        precision: what evaluation computes in.
    """

    def __init__(self, device: torch.device, precision: Precision = "float32", run_folder: Path | None = None) -> None:
        self._run_folder = run_folder
        self.device = device
        self.precision = precision
        if device.type == "cuda":
            # Convolutions round to ten bits there unless told otherwise, more coarsely than ties can bear.
            torch.backends.cudnn.allow_tf32 = False
        self._dataset = functools.cache(find_dataset)
        # Labels of a million images take seconds to read.
        self._split = functools.cache(Dataset.split)
        self._evaluation_inputs = LatestInputs(device)
        self._reference_inputs = LatestInputs(device)
        self._training_inputs = LatestInputs(device)
        self._models: dict[_Name, LoadedModel] = {}
        # Measured on networks that were found to be as they should, so it outlives them.
        self._seen: dict[_Name, dict[bytes, Accuracy]] = {}

    def dataset(self, job: Job) -> Dataset:
        """Return the data set that the job's suite runs its network on.

        Raises:
            AssetError: none of the network's data sets is at hand or can be fetched.
        """
        return self._dataset(job.suite.datasets_of(job.model))

    def model(self, job: Job) -> LoadedModel:
        """Return the job's network; the one loaded last is kept.

        Raises:
            AssetError, ModelError: the weights or the evaluation images cannot be loaded, or do not fit each other.
        """
        name = (job.model, job.suite.name, job.suite.evaluation_split, self._task_of(job))
        if name not in self._models:
            self._models.clear()
            plugin = plugins.models().get(job.model)
            evaluation = replace(self.evaluation(job, plugin), seen=self._seen.setdefault(name, {}))
            loaded = LoadedModel(plugin, plugin.load().to(self.device), evaluation)
            self.check_outputs(job, check_network(job.model, loaded.network, loaded.probe))
            self._models[name] = loaded
        return self._models[name]

    def check_outputs(self, job: Job, logits: torch.Tensor) -> None:
        """Raise unless the job's network, whose logits (n_images, n_outputs) are given, fits the classes of its data.

        Raises:
            AssetError: it has others, or the labels cannot be loaded.
        """
        dataset = self.dataset(job)
        labels = self._split(dataset, job.suite.reference_split).labels
        check_outputs(job.model, logits.shape[1], dataset, labels)

    def evaluation(self, job: Job, plugin: Model) -> Evaluation:
        """Return the images that the job's accuracies are measured on: the evaluation split, or what is taken of it.

        Raises:
            AssetError: they cannot be loaded, or are of other classes than the reference images.
        """
        split = job.suite.evaluation_split
        labels = self.labels(job)[split]
        rows, n_images = None, job.suite.evaluation_per_class
        if n_images is not None:
            rows = np.sort(draw_reference(labels, n_images, _EVALUATION_SEED))
        return self._evaluation_on(job, split, self._of_task(job, labels, rows), plugin)

    def labels(self, job: Job) -> dict[str, Labels]:
        """Return the labels of the splits that the job's suite uses.

        Raises:
            AssetError: they cannot be loaded, or the splits have other classes than each other.
        """
        dataset, suite = self.dataset(job), job.suite
        found = {split: self._split(dataset, split).labels for split in (suite.reference_split, suite.evaluation_split)}
        check_same_classes(dataset.name, found)
        return found

    def classes(self, job: Job) -> Labels | None:
        """Return the classes of the job's task, ascending; None when its suite has no task.

        They are drawn from the reference split, so that tuning need not open the other.
        """
        task = job.suite.task
        if task is None:
            return None
        return draw_classes(self._split(self.dataset(job), job.suite.reference_split).labels, task.n_classes, job.seed)

    def _task_of(self, job: Job) -> bytes:
        classes = self.classes(job)
        return b"" if classes is None else classes.tobytes()

    def _of_task(self, job: Job, labels: Labels, rows: Rows | None) -> Rows | None:
        """Return those of some rows of a split, None for all, that are of the job's task."""
        classes = self.classes(job)
        if classes is None:
            return rows
        rows = np.arange(len(labels)) if rows is None else rows
        return rows[np.isin(labels[rows], classes)]

    def _evaluation_on(self, job: Job, split: str, rows: Rows | None, plugin: Model) -> Evaluation:
        """Return rows of a split, or all, to measure a network on."""
        dataset = self.dataset(job)
        labels = self._split(dataset, split).labels
        inputs = self._evaluation_inputs.of(self._split(dataset, split), rows, plugin)
        chosen = torch.from_numpy(labels if rows is None else labels[rows]).to(self.device)
        n_bytes = 4 * math.prod(plugin.input_size)
        # On a CPU few large images keep it busy, and many need gigabytes.
        most = _EVALUATION_BYTES // n_bytes if self.device.type == "cpu" else _EVALUATION_IMAGES
        n_at_once = max(1, min(_EVALUATION_IMAGES, most))
        return Evaluation(
            inputs,
            chosen,
            plugin.prepare,
            batch_size=n_at_once,
            precision=self.precision,
            answers=answers_to(job, self.classes(job)),
        )

    def reference_rows(self, job: Job) -> Rows:
        """Return the rows of the job's reference images, classes in ascending order within each shot.

        Raises:
            AssetError: a class has too few images.
        """
        labels = self._split(self.dataset(job), job.suite.reference_split).labels
        candidates = self._of_task(job, labels, None)
        if candidates is None:
            return draw_reference(labels, max(job.suite.shots), job.seed)
        return candidates[draw_reference(labels[candidates], max(job.suite.shots), job.seed)]

    def reference(self, job: Job, plugin: Model) -> Batch:
        """Return the job's reference images and labels, classes in ascending order within each shot.

        Raises:
            AssetError: they cannot be loaded, or a class has too few.
        """
        split = self._split(self.dataset(job), job.suite.reference_split)
        rows = self.reference_rows(job)
        stored = self._reference_inputs.of(split, rows, plugin)
        return Batch(plugin.prepare(stored), torch.from_numpy(split.labels[rows]).to(self.device))

    def training_images(self, job: Job, plugin: Model, shots: int) -> TrainingImages:
        """Return what a network is fine-tuned on: the reference images of a number of shots, or their whole split.

        Raises:
            AssetError: they cannot be loaded, or a class has too few.
        """
        recipe = job.suite.finetuning
        if recipe is not None and recipe.images == "train":
            split = self._split(self.dataset(job), job.suite.reference_split)
            rows = self._of_task(job, split.labels, None)
            labels = split.labels if rows is None else split.labels[rows]
            stored = self._training_inputs.of(split, rows, plugin)
            return TrainingImages(stored, torch.from_numpy(labels).to(self.device), plugin.prepare)
        data = self.reference(job, plugin)
        n_images = len(data.images) // max(job.suite.shots) * shots
        return TrainingImages(data.images[:n_images], data.labels[:n_images], unchanged)

    def checkpoints(self, job: Job) -> Checkpoints:
        """Return where the steps of a job are kept."""
        folder = None if self._run_folder is None else self._run_folder / job.suite.name / "steps"
        device, n_threads = provenance.device_name(self.device), torch.get_num_threads()
        machine = f"torch {torch.__version__} on {device}, {n_threads} threads"
        return Checkpoints(folder, self.key(job), machine, with_weights=job.suite.finetuning is not None)

    def reload_model(self, job: Job) -> None:
        """Load the job's network anew, because a plugin may have damaged it."""
        self._models.clear()
        self.model(job)

    def key(self, job: Job) -> str:
        """Return the digest of everything that decides the job's result."""
        model, criterion = plugins.models().get(job.model), plugins.criterion_of(job)
        return JobIdentity(
            suite=job.suite.digest,
            data=self.dataset(job).digest,
            model=(model.name, model.version, model.weights_digest),
            granularity=job.granularity,
            criterion=(job.criterion, criterion.version, plugins.criterion_digest(criterion)),
            parameters=plugins.criterion_parameters(criterion),
            seed=job.seed,
            tuning=job.tuned.study if job.tuned else "",
            precision=self.precision,
        ).key


def run_job(job: Job, bench: Workbench) -> list[Row]:
    """Run one job to its rows; a plugin's failure becomes a row with its reason.

    Args:
        job: what to run.
        bench: the process's workbench.

    Raises:
        UnknownNameError: there is no such model or criterion.
        AssetError, ModelError: the network or the data cannot be loaded, which no other job could mend.
    """
    started = time.perf_counter()
    criterion = plugins.criterion_of(job)
    loaded = bench.model(job)
    # It is prepared while the network is undamaged.
    pruning = loaded.pruning(job.granularity)
    reference = reference_of(job, bench, loaded.plugin, criterion)

    def measure(n_at_once: int | None) -> Curves:
        return _measure(_experiment(job, bench, reference, n_at_once), job, bench)

    measured = _in_memory(measure, _experiment(job, bench, reference), job, bench)
    if isinstance(measured, NoResult):
        seconds = time.perf_counter() - started
        return [make_row(job, bench, status=measured.status, reason=measured.reason, seconds=seconds)]
    loaded = bench.model(job)
    size = count_sizes(loaded.network, pruning.layers, [_all_kept(pruning.layers)], loaded.probe[:1])[0]
    row = replace(
        make_row(job, bench, status="ok", reason="", seconds=measured.earlier_seconds + time.perf_counter() - started),
        n_units=sum(layer.n_units for layer in pruning.layers),
        evaluation=pruning.how + (f" in {bench.precision}" if bench.precision != "float32" else ""),
        layers=json.dumps({layer.name: layer.n_units for layer in pruning.layers}),
        params_total=size.params,
        macs_total=size.macs,
        score_seconds=measured.score_seconds,
        score_peak_bytes=measured.score_peak_bytes,
    )
    return [replace(row, shots=shots, **asdict(point)) for shots, point in measured.points]


def _experiment(job: Job, bench: Workbench, reference: Batch | None, n_at_once: int | None = None) -> Experiment:
    """Return what the protocol works with; `n_at_once` is the most images in any pass, None for as many as are fast."""
    loaded = bench.model(job)
    context, evaluation = context_of(job, loaded, reference), loaded.evaluation
    if n_at_once is not None:
        context = replace(context, batch_size=min(context.batch_size, n_at_once))
        evaluation = replace(evaluation, batch_size=min(evaluation.batch_size, n_at_once), most_at_once=n_at_once)
    return Experiment(
        criterion=plugins.criterion_of(job),
        context=context,
        pruning=loaded.pruning(job.granularity),
        evaluation=evaluation,
        probe=loaded.probe,
        shots=job.suite.shots,
        rates=job.suite.rates,
        scope=job.suite.scope,
        stream=functools.partial(generator_for, job),
    )


def _measure(experiment: Experiment, job: Job, bench: Workbench) -> Curves:
    """Carry out the protocol of the job's suite."""
    recipe, plugin = job.suite.finetuning, plugins.models().get(job.model)
    match job.suite.protocol:
        case "one_shot":
            return one_shot(experiment)
        case "iterative":
            training = None
        case "iterative_finetune":
            if recipe is None:
                raise SuiteError(f"the protocol of `{job.suite.name}` must have a recipe; add `protocol.finetuning`.")
            training = Training(recipe, lambda shots: bench.training_images(job, plugin, shots))
    return iterative(experiment, training, bench.checkpoints(job))


@dataclass(frozen=True)
class NoResult:
    """That a plugin gave none, and why.

    Attributes:
        status: `unsupported` or `failed`.
        reason: why, in one line.
        out_of_memory: whether memory ran out, so that a smaller call may succeed.
    """

    status: Status
    reason: str
    out_of_memory: bool = False


def attempt(call: Callable[[], T], job: Job, bench: Workbench) -> T | NoResult:
    """Return what a call into a plugin returns; one that fails is a result as well, and the network is loaded anew."""
    try:
        return call()
    except (CheckpointError, KeyboardInterrupt):
        raise
    except Unsupported as refusal:
        return NoResult("unsupported", clean_reason(refusal))
    except ForeignError as failure:
        # It failed in a process of its own, and nothing here has to be mended.
        if failure.trace:
            _log.error("%s failed\n%s", job, failure.trace)
        return NoResult("failed", clean_reason(failure), failure.out_of_memory)
    # A plugin is foreign code: whatever it raises, even sys.exit(), is its result, and the suite goes on.
    except BaseException as error:  # noqa: BLE001
        _log.error("%s failed", job, exc_info=error)
        failed = NoResult("failed", describe_error(error), is_out_of_memory(error))
    # Only now are the frames of the call gone, and with them what they held.
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    bench.reload_model(job)
    return failed


def _in_memory(
    measure: Callable[[int | None], Curves], planned: Experiment, job: Job, bench: Workbench
) -> Curves | NoResult:
    """Measure with fewer images at once, half as many each time, for as long as memory runs out.

    Args:
        measure: takes the most images in any pass, None for as many as are fast.
        planned: what it would work with then.
        job: the job, whose network is loaded anew after a failure.
        bench: the process's workbench.
    """
    n_at_once, limit = max(planned.context.batch_size, planned.evaluation.batch_size), None
    while True:
        result = attempt(functools.partial(measure, limit), job, bench)
        if not isinstance(result, NoResult) or not result.out_of_memory:
            return result
        if n_at_once == 1:
            return replace(result, reason=f"memory ran out even with one image at once: {result.reason}")
        n_at_once //= 2
        limit = n_at_once


def answers_to(job: Job, classes: Labels | None) -> Answers:
    """Return which logits compete in a job."""
    task = job.suite.task
    if task is None or classes is None or task.argmax == "all":
        return Answers()
    return Answers(torch.from_numpy(classes), "out" if task.argmax == "task" else "zero")


def generator_for(job: Job, purpose: str) -> torch.Generator:
    """Return an independent stream for each purpose, so that none depends on what another draws."""
    return torch.Generator().manual_seed(int(digest([job.seed, purpose])[:15], 16))


def context_of(job: Job, loaded: LoadedModel, data: Batch | None) -> Context:
    """Return what a criterion may look at in a job.

    Args:
        job: the job.
        loaded: its network.
        data: the reference images and labels, as far as the criterion declares that it needs them.
    """
    layers = loaded.layers(job.granularity)
    return Context(
        model=loaded.network,
        layers=layers,
        generator=generator_for(job, "criterion"),
        data=data,
        batch_size=batch_size_for(loaded.network, layers, loaded.probe[:1]),
    )


def reference_of(job: Job, bench: Workbench, plugin: Model, criterion: Criterion) -> Batch | None:
    """Return the reference images and labels, as far as the criterion declares that it needs them."""
    if criterion.needs == "nothing":
        return None
    reference = bench.reference(job, plugin)
    if criterion.needs == "labels":
        return reference
    # Classes come in order within each shot, so without labels the images of a shot are shuffled as well.
    generator = generator_for(job, "order of images")
    n_images = len(reference.images)
    n_classes = n_images // max(job.suite.shots)
    shots = torch.arange(n_images).reshape(-1, n_classes)
    order = torch.cat([shot[torch.randperm(n_classes, generator=generator)] for shot in shots])
    return Batch(reference.images[order.to(bench.device)], torch.full_like(reference.labels, -1))


def _all_kept(layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
    return {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}


def make_row(job: Job, bench: Workbench, *, status: Status, reason: str, seconds: float | None) -> Row:
    """Fill in a job's provenance; what was measured stays empty."""
    model, criterion = plugins.models().get(job.model), plugins.criterion_of(job)
    dataset, recipe = bench.dataset(job), job.suite.finetuning
    versions, (commit, clean) = provenance.versions(), provenance.commit()
    return Row(
        schema_version=SCHEMA_VERSION,
        key=bench.key(job),
        suite=job.suite.name,
        suite_version=job.suite.version,
        suite_digest=job.suite.digest,
        protocol=job.suite.protocol,
        finetuning="" if recipe is None else json.dumps(asdict(recipe), sort_keys=True),
        task="" if job.suite.task is None else json.dumps(asdict(job.suite.task), sort_keys=True),
        dataset=dataset.name,
        data_digest=dataset.digest,
        model=job.model,
        model_family=model.family,
        weights_digest=model.weights_digest,
        granularity=job.granularity,
        criterion=job.criterion,
        criterion_family=criterion.family,
        criterion_version=criterion.version,
        criterion_digest=plugins.criterion_digest(criterion),
        criterion_needs=criterion.needs,
        criterion_source=criterion.source,
        parameters=json.dumps(plugins.criterion_parameters(criterion), sort_keys=True),
        tuned_trials=job.tuned.n_trials if job.tuned else None,
        tuned_images=job.tuned.n_images if job.tuned else None,
        tuning=job.tuned.study if job.tuned else "",
        seed=job.seed,
        status=status,
        reason=reason,
        job_seconds=seconds,
        device=provenance.device_name(bench.device),
        threads=torch.get_num_threads(),
        python=versions["python"],
        torch=versions["torch"],
        timm=versions["timm"],
        zennit=versions["zennit"],
        pruneboard=versions["pruneboard"],
        commit=commit,
        clean=clean,
        time_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
