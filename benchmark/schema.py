"""The frozen records of pruneboard and the columns of its result tables, with their units."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

SCHEMA_VERSION = 6
"""Version of the columns below; rises when a column is added, removed or changes its meaning."""

ENGINE_VERSION = 1
"""Rises when a change of the engine changes a result, so that older jobs are not taken for done."""

Granularity = Literal["filters", "neurons", "heads"]
Scope = Literal["global", "layer"]
Status = Literal["ok", "unsupported", "failed"]
Precision = Literal["float32", "tf32", "bf16"]

Needs = Literal["nothing", "images", "labels"]
"""What a criterion looks at; `labels` includes the images. It is given no more than it declares."""

FAMILIES = ("control", "weights", "activation", "gradient", "attribution")
"""Families of criteria that the tables and the site tell apart."""

GRANULARITIES: tuple[Granularity, ...] = typing.get_args(Granularity)
SCOPES: tuple[Scope, ...] = typing.get_args(Scope)
Protocol = Literal["one_shot", "iterative", "iterative_finetune"]
PROTOCOLS: tuple[Protocol, ...] = typing.get_args(Protocol)
Argmax = Literal["task", "all", "zeroed"]
ARGMAXES: tuple[Argmax, ...] = typing.get_args(Argmax)

TUNED_SUFFIX = "_tuned"
"""Ends the name of a criterion in rows that were measured with tuned parameters; no registered name may end so."""


def digest(value: Any) -> str:
    """Return the sha256 of a JSON-serialisable `value` in canonical form, as 64 hexadecimal digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def parse_json(text: str) -> Any:
    """Parse JSON in which no object has a name twice and every number is finite.

    Raises:
        ValueError: it is none; of two values under one name, other readers might take the other one.
        RecursionError: it is nested too deeply.
    """

    def refuse(number: str) -> float:
        raise ValueError(f"numbers must be finite, got {number}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"a name must be there once, got `{next(n for n in names if names.count(n) > 1)}` twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


HERE_SUFFIX = " (here)"
"""Ends the name of a criterion in rows of this machine that stand beside published ones of the same name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobIdentity:
    """Everything that decides a job's result.

    Attributes:
        suite: digest of the suite.
        data: digest of the data set.
        model: name, version and weights digest of the network.
        granularity: kind of unit.
        criterion: name, version and source digest of the criterion.
        parameters: parameters of the criterion by name.
        seed: seed of the reference draw and of random ties.
        tuning: digest of the study that chose the parameters, empty when untuned.
        precision: what evaluation computes in.
        engine: version of the engine.
    """

    suite: str
    data: str
    model: tuple[str, int, str]
    granularity: str
    criterion: tuple[str, int, str]
    parameters: Mapping[str, Any]
    seed: int
    tuning: str = ""
    precision: Precision = "float32"
    engine: int = ENGINE_VERSION

    @property
    def key(self) -> str:
        """The digest that names the job."""
        parts = dataclasses.asdict(self)
        if not self.tuning:
            del parts["tuning"]
        if self.precision == "float32":
            del parts["precision"]
        return digest(parts)


def n_removed(rate: float, n_units: int) -> int:
    """Return floor(rate * n_units), with the rate taken as the decimal number it was written as.

    In floating point 0.29 * 100 is below 29.
    """
    return int(Fraction(str(rate)) * n_units)


def display_name(criterion: str) -> str:
    """Return a criterion's name as people read it: `lrp (tuned)` for `lrp_tuned`."""
    name = criterion.removesuffix(HERE_SUFFIX)
    base = name.removesuffix(TUNED_SUFFIX)
    return criterion if base == name else f"{base} (tuned){criterion.removeprefix(name)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteModel:
    """One network of a suite.

    Attributes:
        name: registered name.
        granularities: kinds of unit that are pruned in it.
        datasets: accepted data sets, where they are others than the suite's.
    """

    name: str
    granularities: tuple[Granularity, ...]
    datasets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a network is trained after each step of pruning; every step begins with a fresh optimiser.

    Attributes:
        images: `shots` trains on the reference images, `train` on the whole split that they are drawn from.
        optimiser: `sgd` or `adamw`.
        learning_rate: constant.
        momentum: of `sgd`, in [0, 1).
        weight_decay: at least 0.
        epochs: passes over the images in each step; the network after the last one is measured.
        batch_size: images in one step of the optimiser.
        batch_norms: `frozen` keeps their running statistics and normalises by them, `updated` trains as usual.
    """

    images: Literal["shots", "train"]
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    momentum: float
    weight_decay: float
    epochs: int
    batch_size: int
    batch_norms: Literal["frozen", "updated"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Which classes of a data set a network is pruned for: reference and evaluation images are theirs alone.

    Source: the tasks of Hatefi et al. 2024, arXiv 2408.12568, of 3, 100 and 1000 classes of ImageNet.

    Attributes:
        n_classes: how many are drawn, anew by each seed; None takes all that the reference split has.
        argmax: which logits compete. `task` takes those of the task's classes, so that chance is one of them; `all`
            takes all of the network's; `zeroed` does so after the logits of other classes were set to 0, as the code of
            Hatefi et al. does, where a label whose logit is negative can never win.
    """

    n_classes: int | None
    argmax: Argmax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """A fixed, versioned grid: which data, networks, criteria, rates, shots and seeds, under which protocol.

    Attributes:
        name: lower_snake name, equal to the stem of the file.
        version: rises when results of the suite would change.
        title: a line for people.
        description: a paragraph for people.
        datasets: accepted data sets, in order of preference; the first one at hand is used and named in every row.
            Empty when each network names its own.
        reference_split: split that the reference images are drawn from.
        evaluation_split: split that accuracy is measured on.
        protocol: how units are removed. `one_shot` scores once, for all rates; `iterative` goes from rate to rate,
            scores what is left anew and never brings a unit back; `iterative_finetune` trains after each rate as well.
        scope: `global` ranks the units of all layers together, `layer` within each layer.
        rates: fractions of units removed, strictly increasing in [0, 1), the first one 0.
        shots: numbers of reference images per class, strictly increasing.
        seeds: seeds of the reference draw and of random ties.
        criteria: registered names of the criteria.
        models: the networks with their granularities.
        finetuning: the recipe of `iterative_finetune`; None for the other protocols.
        tuned_on: suite whose studies choose the parameters of tuned criteria; empty for this one.
        task: the classes that count; None takes all images, and all logits of the network.
        evaluation_per_class: images of each class that accuracy is measured on, the same for all jobs; None takes all.
    """

    name: str
    version: int
    title: str
    description: str
    datasets: tuple[str, ...]
    reference_split: str
    evaluation_split: str
    protocol: Protocol
    scope: Scope
    rates: tuple[float, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    criteria: tuple[str, ...]
    models: tuple[SuiteModel, ...]
    finetuning: FineTuning | None = None
    tuned_on: str = ""
    task: Task | None = None
    evaluation_per_class: int | None = None

    def datasets_of(self, model: str) -> tuple[str, ...]:
        """Return the data sets that a network of the suite accepts, in order of preference."""
        return next((entry.datasets for entry in self.models if entry.name == model), ()) or self.datasets

    @property
    def all_datasets(self) -> tuple[str, ...]:
        """Every data set that the suite names, once each."""
        return tuple(dict.fromkeys(name for model in self.models for name in model.datasets or self.datasets))

    @property
    def on_unseen_images(self) -> bool:
        """Whether accuracy is measured on another split than the one that networks are trained on."""
        return self.evaluation_split != "train"

    @property
    def digest(self) -> str:
        """Digest of what decides a single job's numbers.

        The lists of models, criteria and seeds say which jobs exist, not what one of them measures, and the titles are
        for people: growing a suite by a criterion keeps the finished jobs valid.
        """
        decides = ("name", "version", "reference_split", "evaluation_split", "protocol", "scope", "rates", "shots")
        # What came later counts only where it is set, so that the digests of older suites stay.
        later = {
            "finetuning": self.finetuning and dataclasses.asdict(self.finetuning),
            "task": self.task and dataclasses.asdict(self.task),
            "evaluation_per_class": self.evaluation_per_class,
        }
        chosen = {name: value for name, value in later.items() if value is not None}
        return digest({name: getattr(self, name) for name in decides} | chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """An accuracy that was published elsewhere for one cell of a suite.

    Attributes:
        model: network of the suite.
        granularity: kind of unit.
        criterion: criterion of the suite that is nearest to what was published.
        shots: reference images per class.
        rate: fraction of units removed.
        top1: top-1 accuracy, in [0, 1].
        source: where it was published.
    """

    model: str
    granularity: Granularity
    criterion: str
    shots: int
    rate: float
    top1: float
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """Parameters that a study chose for one network and granularity.

    Attributes:
        base: registered name of the criterion.
        parameters: all of its parameters, as JSON.
        study: digest of the study.
        n_trials: configurations that the study tried.
        n_images: labelled images that it used.
    """

    base: str
    parameters: str
    study: str
    n_trials: int
    n_images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One cell of a suite's grid: one scoring pass, evaluated at all shots and all rates.

    Attributes:
        suite: the suite.
        model: registered name of the network.
        granularity: kind of unit.
        criterion: registered name of the criterion, or that of its tuned form, which ends in `TUNED_SUFFIX`.
        seed: seed of the reference draw and of random ties.
        tuned: the parameters of a tuned criterion; None takes those registered under the name.
    """

    suite: Suite
    model: str
    granularity: Granularity
    criterion: str
    seed: int
    tuned: Tuned | None = None

    @property
    def cell(self) -> str:
        """What tells the job from all others of its suite, as a part of a file name."""
        return f"{self.model}.{self.granularity}.{self.criterion}.{self.seed}"

    def __str__(self) -> str:
        return f"{self.suite.name} / {self.model} / {self.granularity} / {self.criterion} / seed {self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Accuracy and size of a network at one rate."""

    rate: float
    n_units_removed: int
    top1: float
    top5: float
    cross_entropy: float
    n_images: int
    params_left: int
    macs_left: int
    units_left: str


def _column(level: Literal["job", "point"], meaning: str, unit: str = "", *, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"level": level, "meaning": meaning, "unit": unit})


def _measured(level: Literal["job", "point"], meaning: str, unit: str = "") -> Any:
    """A column that stays empty when nothing was measured."""
    return _column(level, meaning, unit, default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a result table: one rate and one number of shots of one job, with its provenance.

    A job that failed, or that its criterion declined, is a single row whose point columns are empty.
    """

    schema_version: int = _column("job", "version of these columns")
    key: str = _column("job", "digest of everything that decides the job's result")
    suite: str = _column("job", "suite")
    suite_version: int = _column("job", "version of the suite")
    suite_digest: str = _column("job", "sha256 of the suite's deciding fields")
    protocol: str = _column("job", "how units were removed: one_shot, iterative or iterative_finetune")
    finetuning: str = _column("job", "recipe of training between the steps, as JSON; empty without", default="")
    task: str = _column(
        "job", "number of classes, null for all, and which logits compete, as JSON; empty without", default=""
    )
    dataset: str = _column("job", "data set that was used")
    data_digest: str = _column("job", "sha256 of the files or arrays of the data set")
    model: str = _column("job", "network")
    model_family: str = _column("job", "family of the network, such as VGG, ResNet or ViT")
    weights_digest: str = _column("job", "sha256 of the weights file")
    granularity: str = _column("job", "kind of unit that was pruned")
    criterion: str = _column("job", "criterion")
    criterion_family: str = _column("job", "family of the criterion")
    criterion_version: int = _column("job", "version of the criterion")
    criterion_digest: str = _column("job", "sha256 of the criterion's source")
    criterion_needs: str = _column("job", "what the criterion looks at: nothing, images, or images and labels")
    criterion_source: str = _column("job", "where the criterion is published")
    parameters: str = _column("job", "parameters of the criterion, as JSON")
    tuned_trials: int | None = _measured("job", "configurations that were tried to tune the parameters")
    tuned_images: int | None = _measured("job", "labelled images that tuning used, beyond the reference images")
    tuning: str = _column("job", "digest of the study that tuned the parameters, empty when untuned", default="")
    seed: int = _column("job", "seed of the reference draw and of random ties")
    status: str = _column("job", "ok, unsupported or failed")
    reason: str = _column("job", "why there is no result; empty when status is ok")
    n_units: int | None = _measured("job", "units of this granularity in the network")
    layers: str = _column(
        "job", "layers that hold units, in the order of the network, with their numbers of units, as JSON", default=""
    )
    params_total: int | None = _measured("job", "parameters of the unpruned network")
    macs_total: int | None = _measured("job", "multiply-accumulates of the unpruned network for one image")
    evaluation: str = _column(
        "job",
        "how accuracies under masks came about: compact computes only what is left, masked computes everything; the "
        "predictions are the same. `in bf16` or `in tf32` is added where evaluation was not in float32",
        default="",
    )
    score_seconds: float | None = _measured("job", "time of scoring at the largest number of shots", "s")
    score_peak_bytes: int | None = _measured("job", "peak memory added by the scoring pass", "byte")
    job_seconds: float | None = _measured("job", "time of the whole job", "s")
    device: str = _column("job", "device, by name")
    threads: int = _column("job", "CPU threads used by the job")
    python: str = _column("job", "version of Python")
    torch: str = _column("job", "version of PyTorch")
    timm: str = _column("job", "version of timm")
    zennit: str = _column("job", "version of zennit")
    pruneboard: str = _column("job", "version of pruneboard")
    commit: str = _column("job", "commit of the code, empty for an installed package")
    clean: bool = _column("job", "whether the code was exactly that commit")
    time_utc: str = _column("job", "when the job ended, UTC")
    shots: int | None = _measured("point", "reference images per class")
    rate: float | None = _measured("point", "fraction of units removed, in [0, 1)")
    n_units_removed: int | None = _measured(
        "point", "floor(rate * n_units), summed over layers when each layer is ranked for itself"
    )
    top1: float | None = _measured("point", "top-1 accuracy, in [0, 1]")
    top5: float | None = _measured("point", "top-5 accuracy, in [0, 1]")
    cross_entropy: float | None = _measured("point", "mean cross-entropy of the logits", "nat")
    n_images: int | None = _measured("point", "evaluation images")
    params_left: int | None = _measured("point", "parameters that still meet a live input and a kept output")
    macs_left: int | None = _measured("point", "multiply-accumulates left for one image, counted like params_left")
    units_left: str = _column("point", "units left in each of `layers`, separated by spaces", default="")


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the result tables.

    Attributes:
        name: column name.
        kind: `str`, `int`, `float` or `bool`.
        nullable: whether a row may leave it empty.
        level: `job` when all rows of a job share the value, else `point`.
        meaning: what it holds.
        unit: physical unit, empty for counts, fractions and names.
    """

    name: str
    kind: type
    nullable: bool
    level: Literal["job", "point"]
    meaning: str
    unit: str


def _columns() -> tuple[Column, ...]:
    hints = typing.get_type_hints(Row)
    columns = []
    for field in dataclasses.fields(Row):
        hint = hints[field.name]
        nullable = isinstance(hint, types.UnionType)
        kind = typing.get_args(hint)[0] if nullable else hint
        metadata: Mapping[str, Any] = field.metadata
        columns.append(
            Column(field.name, kind, nullable, metadata["level"], metadata["meaning"], metadata["unit"]),
        )
    return tuple(columns)


COLUMNS: tuple[Column, ...] = _columns()
"""Every column in file order."""


def as_hashable(value: Any) -> Any:
    """Return a value read from JSON with its lists as tuples, as a parameter of a frozen dataclass has them."""
    return tuple(map(as_hashable, value)) if isinstance(value, list) else value
