"""Running one job: the only place that sees every stage from the model to the rows."""

import datetime
import functools
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.api import Batch, Context, Criterion, Model, Scores, SumCriterion
from pruneboard.benchmark.checks import Snapshot, check_contributions, check_scores
from pruneboard.benchmark.counts import count_sizes
from pruneboard.benchmark.data import Dataset, draw_reference, find_dataset
from pruneboard.benchmark.errors import Unsupported
from pruneboard.benchmark.evaluate import Evaluation, accuracy_curve
from pruneboard.benchmark.ranking import rank
from pruneboard.benchmark.schema import ENGINE_VERSION, SCHEMA_VERSION, CurvePoint, Job, Row, Status, digest
from pruneboard.benchmark.units import Layer, find_layers

_LONGEST_REASON = 500


@dataclass(frozen=True)
class _LoadedModel:
    """A network on its device, with the images it is evaluated on."""

    plugin: Model
    network: nn.Module
    evaluation: Evaluation


@dataclass(frozen=True)
class _Scoring:
    """Scores at every number of shots, and what they cost."""

    by_shots: dict[int, Scores]
    seconds: float
    peak_bytes: int | None


class Workbench:
    """What the jobs of one process share: the device, loaded networks, decoded images, measured masks.

    Args:
        device: where networks run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._dataset = functools.cache(find_dataset)
        self._models: dict[tuple[str, str, str], _LoadedModel] = {}

    def dataset(self, job: Job) -> Dataset:
        """Return the data set that the job's suite runs on.

        Raises:
            AssetError: none of the suite's data sets is at hand or can be fetched.
        """
        return self._dataset(job.suite.datasets)

    def model(self, job: Job) -> _LoadedModel:
        """Return the job's network; the one loaded last is kept.

        Raises:
            AssetError, ModelError: the weights or the evaluation images cannot be loaded.
        """
        name = (job.model, job.suite.name, job.suite.evaluation_split)
        if name not in self._models:
            self._models.clear()
            plugin = plugins.models().get(job.model)
            split = self.dataset(job).split(job.suite.evaluation_split)
            pixels = split.images(size=plugin.input_size).to(self.device)
            images = plugin.normalise(pixels.float() / 255)
            labels = torch.from_numpy(split.labels).to(self.device)
            self._models[name] = _LoadedModel(plugin, plugin.load().to(self.device), Evaluation(images, labels))
        return self._models[name]

    def forget_models(self) -> None:
        """Drop the loaded network, because a plugin may have damaged it."""
        self._models.clear()

    def key(self, job: Job) -> str:
        """Return the digest of everything that decides the job's result."""
        model, criterion = plugins.models().get(job.model), plugins.criteria().get(job.criterion)
        return digest(
            {
                "engine": ENGINE_VERSION,
                "suite": job.suite.digest,
                "data": self.dataset(job).digest,
                "model": [model.name, model.version, model.weights.digest if model.weights else ""],
                "granularity": job.granularity,
                "criterion": [job.criterion, criterion.version, plugins.criterion_digest(criterion)],
                "parameters": plugins.criterion_parameters(criterion),
                "seed": job.seed,
            }
        )


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
    plugins.criteria().get(job.criterion)
    loaded = bench.model(job)
    try:
        layers = find_layers(loaded.network, job.granularity, loaded.evaluation.images[:1])
        scoring = _score(job, bench, loaded, layers)
        points = list(_curves(job, loaded, layers, scoring))
        size = count_sizes(loaded.network, layers, [_all_kept(layers)], loaded.evaluation.images[:1])[0]
    except Unsupported as refusal:
        return [_row(job, bench, status="unsupported", reason=str(refusal), seconds=time.perf_counter() - started)]
    # A plugin is foreign code: whatever it raises is its result, and the suite goes on.
    except Exception as error:  # noqa: BLE001
        bench.forget_models()
        seconds = time.perf_counter() - started
        return [_row(job, bench, status="failed", reason=describe(error), seconds=seconds)]
    row = replace(
        _row(job, bench, status="ok", reason="", seconds=time.perf_counter() - started),
        n_units=sum(layer.n_units for layer in layers),
        params_total=size.params,
        macs_total=size.macs,
        score_seconds=scoring.seconds,
        score_peak_bytes=scoring.peak_bytes,
    )
    return [replace(row, shots=shots, **asdict(point)) for shots, point in points]


def failed_row(job: Job, bench: Workbench, reason: str) -> Row:
    """Return the row of a job whose process did not live to report."""
    return _row(job, bench, status="failed", reason=reason, seconds=None)


def describe(error: Exception) -> str:
    """Return an exception in one line: its type, message, and the last line of code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (in `{frames[-1].name}`, line {frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:_LONGEST_REASON] + where


def _generator(job: Job, purpose: str) -> torch.Generator:
    """Independent streams for the criterion and for ties, so that neither depends on what the other draws."""
    return torch.Generator().manual_seed(int(digest([job.seed, purpose])[:15], 16))


def _reference(job: Job, bench: Workbench, plugin: Model) -> Batch:
    split = bench.dataset(job).split(job.suite.reference_split)
    indices = draw_reference(split.labels, max(job.suite.shots), job.seed)
    pixels = split.images(indices, size=plugin.input_size).to(bench.device)
    return Batch(plugin.normalise(pixels.float() / 255), torch.from_numpy(split.labels[indices]).to(bench.device))


def _score(job: Job, bench: Workbench, loaded: _LoadedModel, layers: Sequence[Layer]) -> _Scoring:
    criterion = plugins.criteria().get(job.criterion)
    data = None
    if criterion.needs != "nothing":
        data = _reference(job, bench, loaded.plugin)
    context = Context(
        model=loaded.network,
        layers=tuple(layers),
        generator=_generator(job, "criterion"),
        data=_allowed(criterion, data),
    )
    snapshot = Snapshot(loaded.network)
    with provenance.peak_memory(bench.device) as memory:
        started = time.perf_counter()
        by_shots = _score_all_shots(criterion, context, job.suite.shots, layers)
        if bench.device.type == "cuda":
            torch.cuda.synchronize(bench.device)
        seconds = time.perf_counter() - started
    snapshot.check()
    for scores in by_shots.values():
        check_scores(scores, layers)
    return _Scoring(by_shots, seconds, memory.n_bytes)


def _allowed(criterion: Criterion, data: Batch | None) -> Batch | None:
    """Hide the labels from a criterion that does not declare them."""
    if data is None or criterion.needs == "labels":
        return data
    return Batch(data.images, torch.full_like(data.labels, -1))


def _score_all_shots(
    criterion: Criterion, context: Context, shots: Sequence[int], layers: Sequence[Layer]
) -> dict[int, Scores]:
    """Score at every number of shots; images are in shot-major order, so k shots are a prefix."""
    if context.data is None:
        return dict.fromkeys(shots, criterion.score(context))
    per_shot = len(context.data.images) // max(shots)
    if isinstance(criterion, SumCriterion):
        contributions = criterion.all_contributions(context)
        check_contributions(contributions, layers, len(context.data.images))
        return {k: criterion.reduce_prefix(contributions, k * per_shot) for k in shots}
    by_shots = {}
    for k in shots:
        part = Batch(context.data.images[: k * per_shot], context.data.labels[: k * per_shot])
        by_shots[k] = criterion.score(
            Context(model=context.model, layers=context.layers, generator=context.generator, data=part)
        )
    return by_shots


def _curves(
    job: Job, loaded: _LoadedModel, layers: Sequence[Layer], scoring: _Scoring
) -> Iterator[tuple[int, CurvePoint]]:
    known: dict[int, list[CurvePoint]] = {}
    for shots, scores in scoring.by_shots.items():
        # Without data the same scores serve every number of shots, and so does their curve.
        if id(scores) not in known:
            ordered = {layer.name: scores[layer.name] for layer in layers}
            ranking = rank(ordered, job.suite.scope, _generator(job, "ties"))
            known[id(scores)] = accuracy_curve(loaded.network, layers, ranking, job.suite.rates, loaded.evaluation)
        for point in known[id(scores)]:
            yield shots, point


def _all_kept(layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
    return {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}


def _row(job: Job, bench: Workbench, *, status: Status, reason: str, seconds: float | None) -> Row:
    """Fill in a job's provenance; what was measured stays empty."""
    model, criterion = plugins.models().get(job.model), plugins.criteria().get(job.criterion)
    dataset = bench.dataset(job)
    commit, clean = provenance.commit()
    return Row(
        schema_version=SCHEMA_VERSION,
        key=bench.key(job),
        suite=job.suite.name,
        suite_version=job.suite.version,
        suite_digest=job.suite.digest,
        dataset=dataset.name,
        data_digest=dataset.digest,
        model=job.model,
        model_family=model.family,
        weights_digest=model.weights.digest if model.weights else "",
        granularity=job.granularity,
        criterion=job.criterion,
        criterion_family=criterion.family,
        criterion_version=criterion.version,
        criterion_digest=plugins.criterion_digest(criterion),
        criterion_needs=criterion.needs,
        criterion_source=criterion.source,
        parameters=json.dumps(plugins.criterion_parameters(criterion), sort_keys=True),
        seed=job.seed,
        status=status,
        reason=reason,
        n_units=None,
        params_total=None,
        macs_total=None,
        score_seconds=None,
        score_peak_bytes=None,
        job_seconds=seconds,
        device=provenance.device_name(bench.device),
        threads=torch.get_num_threads(),
        **provenance.versions(),
        commit=commit,
        clean=clean,
        time_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        shots=None,
        rate=None,
        n_units_removed=None,
        top1=None,
        top5=None,
        cross_entropy=None,
        n_images=None,
        params_left=None,
        macs_left=None,
    )
