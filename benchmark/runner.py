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
from pruneboard.benchmark.api import Batch, Context, Criterion, Model
from pruneboard.benchmark.counts import count_sizes
from pruneboard.benchmark.data import Dataset, draw_reference, find_dataset
from pruneboard.benchmark.errors import Unsupported
from pruneboard.benchmark.evaluate import Evaluation, accuracy_curve
from pruneboard.benchmark.ranking import rank
from pruneboard.benchmark.schema import ENGINE_VERSION, SCHEMA_VERSION, CurvePoint, Job, Row, Status, digest
from pruneboard.benchmark.scoring import Scoring, score_all_shots
from pruneboard.benchmark.units import Layer, find_layers

_LONGEST_REASON = 500
_N_PROBE_IMAGES = 8


@dataclass(frozen=True)
class _LoadedModel:
    """A network on its device, with the images it is evaluated on."""

    plugin: Model
    network: nn.Module
    evaluation: Evaluation

    @property
    def probe(self) -> torch.Tensor:
        """A few images whose logits tell whether the network still computes what it did."""
        return self.evaluation.images[:_N_PROBE_IMAGES]


class Workbench:
    """What the jobs of one process share: the device, loaded networks, decoded images, measured masks.

    Args:
        device: where networks run.

    Attributes:
        device: where networks run.
        tainted: whether a plugin changed the process so that a newly loaded network computes something else; no
            further job must run in it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tainted = False
        self._dataset = functools.cache(find_dataset)
        self._models: dict[tuple[str, str, str], _LoadedModel] = {}
        self._logits: dict[tuple[str, str, str], torch.Tensor] = {}

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
            loaded = _LoadedModel(plugin, plugin.load().to(self.device), Evaluation(images, labels))
            with torch.no_grad():
                logits = loaded.network(loaded.probe)
            self.tainted |= not torch.allclose(logits, self._logits.setdefault(name, logits), rtol=1e-4, atol=1e-5)
            self._models[name] = loaded
        return self._models[name]

    def reload_model(self, job: Job) -> None:
        """Load the job's network anew, because a plugin may have damaged it, and see whether that mends it."""
        self._models.clear()
        self.model(job)

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
                "criterion": [job.criterion, criterion.version, plugins.criterion_digest(type(criterion))],
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
    criterion = plugins.criteria().get(job.criterion)
    loaded = bench.model(job)
    layers = find_layers(loaded.network, job.granularity, loaded.probe[:1])
    context = Context(
        model=loaded.network,
        layers=layers,
        generator=_generator(job, "criterion"),
        data=_reference(job, bench, loaded.plugin, criterion),
    )
    status: Status
    try:
        scoring = score_all_shots(criterion, context, job.suite.shots, loaded.probe)
        points = list(_curves(job, loaded, layers, scoring))
    except Unsupported as refusal:
        reason, status = clean_reason(refusal), "unsupported"
    # A plugin is foreign code: whatever it raises, even sys.exit(), is its result, and the suite goes on.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        bench.reload_model(job)
        reason, status = describe(error), "failed"
    else:
        size = count_sizes(loaded.network, layers, [_all_kept(layers)], loaded.probe[:1])[0]
        row = replace(
            make_row(job, bench, status="ok", reason="", seconds=time.perf_counter() - started),
            n_units=sum(layer.n_units for layer in layers),
            params_total=size.params,
            macs_total=size.macs,
            score_seconds=scoring.seconds,
            score_peak_bytes=scoring.peak_bytes,
        )
        return [replace(row, shots=shots, **asdict(point)) for shots, point in points]
    return [make_row(job, bench, status=status, reason=reason, seconds=time.perf_counter() - started)]


def describe(error: BaseException) -> str:
    """Return an exception in one line: its type, message, and the last line of code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (in `{frames[-1].name}`, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {clean_reason(error)}{where}"


def clean_reason(error: BaseException) -> str:
    """Return an exception's message as one short line of printable text, whatever a plugin put into it."""
    try:
        message = str(error)
    # The message of a foreign exception is foreign code as well.
    except Exception as failure:  # noqa: BLE001
        message = f"its message cannot be read: {type(failure).__name__}"
    text = message[: 10 * _LONGEST_REASON].encode("utf-8", "replace").decode()
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:_LONGEST_REASON]


def _generator(job: Job, purpose: str) -> torch.Generator:
    """Independent streams for each purpose, so that none depends on what another draws."""
    return torch.Generator().manual_seed(int(digest([job.seed, purpose])[:15], 16))


def _reference(job: Job, bench: Workbench, plugin: Model, criterion: Criterion) -> Batch | None:
    """Return the reference images and labels, as far as the criterion declares that it needs them."""
    if criterion.needs == "nothing":
        return None
    split = bench.dataset(job).split(job.suite.reference_split)
    indices = draw_reference(split.labels, max(job.suite.shots), job.seed)
    labels = torch.from_numpy(split.labels[indices])
    if criterion.needs == "images":
        # Classes come in order within each shot, so without labels the images of a shot are shuffled as well.
        generator = _generator(job, "order of images")
        n_classes = len(indices) // max(job.suite.shots)
        shots = torch.arange(len(indices)).reshape(-1, n_classes)
        order = torch.cat([shot[torch.randperm(n_classes, generator=generator)] for shot in shots])
        indices, labels = indices[order.numpy()], torch.full_like(labels, -1)
    pixels = split.images(indices, size=plugin.input_size).to(bench.device)
    return Batch(plugin.normalise(pixels.float() / 255), labels.to(bench.device))


def _curves(
    job: Job, loaded: _LoadedModel, layers: Sequence[Layer], scoring: Scoring
) -> Iterator[tuple[int, CurvePoint]]:
    known: dict[int, list[CurvePoint]] = {}
    for shots, scores in scoring.by_shots.items():
        # Without data the same scores serve every number of shots, and so does their curve.
        if id(scores) not in known:
            ranking = rank(scores, job.suite.scope, _generator(job, "ties"))
            known[id(scores)] = accuracy_curve(loaded.network, layers, ranking, job.suite.rates, loaded.evaluation)
        for point in known[id(scores)]:
            yield shots, point


def _all_kept(layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
    return {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}


def make_row(job: Job, bench: Workbench, *, status: Status, reason: str, seconds: float | None) -> Row:
    """Fill in a job's provenance; what was measured stays empty."""
    model, criterion = plugins.models().get(job.model), plugins.criteria().get(job.criterion)
    dataset = bench.dataset(job)
    versions, (commit, clean) = provenance.versions(), provenance.commit()
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
        criterion_digest=plugins.criterion_digest(type(criterion)),
        criterion_needs=criterion.needs,
        criterion_source=criterion.source,
        parameters=json.dumps(plugins.criterion_parameters(criterion), sort_keys=True),
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
