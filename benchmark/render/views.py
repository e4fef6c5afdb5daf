"""What a page shows of one suite, as frozen records made from its rows."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from pruneboard.benchmark.errors import SiteError
from pruneboard.benchmark.schema import GRANULARITIES, PublishedPoint, Suite, display_name
from pruneboard.benchmark.stats import area_under_curve, compare, standings, summarise

_PREFERRED_SHOTS = 10  # what PXP (arXiv 2408.12568) takes per class


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, which is empty when there is one seed."""

    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width, or None when there is one seed."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclasses.dataclass(frozen=True)
class ModelHead:
    """A network as the head of a column.

    Attributes:
        name: network.
        family: its family.
        unpruned: smallest and largest accuracy at rate 0, in [0, 1]; they differ when devices do.
        n_units: units of the section's granularity.
    """

    name: str
    family: str
    unpruned: tuple[float, float]
    n_units: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One criterion in one ranking.

    Attributes:
        rank: 1 is best; None when cells are missing.
        ranks: smallest and largest rank that it may have, with 95 % confidence for all lines together; None without
            rank.
        criterion: registered name.
        family: family of the criterion.
        needs: what it looks at; a tuned one looked at labelled images in any case.
        a_pr: mean accuracy over the rates.
        auc: area by the trapezoidal rule.
        top_pr: largest rate that keeps 95 % of the unpruned accuracy.
        by_shots: A_PR for each of the section's shots, None where there is no result.
        by_model: A_PR for each of the section's models, None where there is no result.
        win_rate: share of comparisons with the others, cell by cell, that it wins; None without rank, or without
            others.
        n_seeds: seeds behind the means.
        n_cells: cells (model, seed, shots) behind the means.
        n_cells_grid: cells that any criterion of the ranking has.
    """

    rank: int | None
    ranks: tuple[int, int] | None
    criterion: str
    family: str
    needs: str
    a_pr: Estimate
    auc: Estimate
    top_pr: Estimate
    by_shots: tuple[Estimate | None, ...]
    by_model: tuple[Estimate | None, ...]
    win_rate: Estimate | None
    n_seeds: int
    n_cells: int
    n_cells_grid: int


@dataclasses.dataclass(frozen=True)
class Section:
    """The ranking of one granularity."""

    granularity: str
    lines: tuple[Line, ...]
    shots: tuple[int, ...]
    models: tuple[ModelHead, ...]


@dataclasses.dataclass(frozen=True)
class ComparedCell:
    """A published accuracy beside the measured one.

    Attributes:
        measured: accuracy, None when it was not measured.
        published: accuracy, in [0, 1].
        differs: whether the published one lies outside the measured interval; None when there is no interval.
    """

    measured: Estimate | None
    published: float
    differs: bool | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The published accuracies of one network at one rate.

    Attributes:
        model: network.
        granularity: kind of unit.
        rate: fraction of units removed.
        shots: numbers of shots as the head of the columns.
        lines: criterion and its cells, one for each of `shots`, None where nothing was published.
        sources: where the numbers were published, with the link if it is a web address.
    """

    model: str
    granularity: str
    rate: float
    shots: tuple[int, ...]
    lines: tuple[tuple[str, tuple[ComparedCell | None, ...]], ...]
    sources: tuple[tuple[str, str | None], ...]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Jobs without a result that share model, criterion, status and reason."""

    criterion: str
    model: str
    granularity: str
    status: str
    reason: str
    n_jobs: int


@dataclasses.dataclass(frozen=True)
class CriterionCard:
    """What the rows say about one criterion; `link` is its source when that is a web address."""

    name: str
    family: str
    needs: str
    version: str
    parameters: str
    source: str
    link: str | None


@dataclasses.dataclass(frozen=True)
class Fact:
    """One line of the provenance: a term and its values."""

    term: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteView:
    """Everything that is said about one suite."""

    suite: Suite
    source: str
    sections: tuple[Section, ...]
    comparisons: tuple[Comparison, ...]
    problems: tuple[Problem, ...]
    criteria: tuple[CriterionCard, ...]
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    default_shots: int
    n_rows: int
    n_jobs: int

    @property
    def n_problems(self) -> int:
        """Jobs without a result."""
        return sum(problem.n_jobs for problem in self.problems)


def view_suite(rows: pd.DataFrame, suite: Suite, source: str, published: Sequence[PublishedPoint] = ()) -> SuiteView:
    """Gather what a page says about `suite`.

    Args:
        rows: a table with the columns of `schema.Row` that holds rows of this suite only.
        suite: the suite as its file has it now.
        source: a sentence on where the rows come from.
        published: what others published for cells of the suite.

    Raises:
        TableError: the rows do not allow the statistics.
    """
    areas = area_under_curve(rows)
    shots = tuple(int(value) for value in sorted(areas["shots"].unique()))
    return SuiteView(
        suite=suite,
        source=source,
        sections=tuple(_section(areas, rows, name) for name in in_order(areas["granularity"].unique())),
        comparisons=view_comparisons(comparison_table(rows, published)),
        problems=_problems(rows),
        criteria=_criteria(rows),
        facts=_facts(rows, suite),
        notes=_notes(rows, suite),
        default_shots=_PREFERRED_SHOTS if _PREFERRED_SHOTS in shots or not shots else shots[len(shots) // 2],
        n_rows=len(rows),
        n_jobs=rows["key"].nunique(),
    )


def comparison_table(rows: pd.DataFrame, published: Sequence[PublishedPoint]) -> pd.DataFrame:
    """Return what `stats.compare` says of the rows of one suite and what was published of it, empty without either."""
    columns = [field.name for field in dataclasses.fields(PublishedPoint)]
    lines = [] if rows.empty else [dataclasses.asdict(point) for point in published]
    return compare(rows, pd.DataFrame(lines, columns=columns)) if lines else pd.DataFrame()


def view_comparisons(table: pd.DataFrame) -> tuple[Comparison, ...]:
    """Arrange what `comparison_table` returns by network and rate, criteria and networks in the order of its lines."""
    groups = table.groupby(["model", "granularity", "rate"], sort=False) if len(table) else ()
    return tuple(_comparison(part) for _, part in groups)


def _comparison(part: pd.DataFrame) -> Comparison:
    shots = tuple(sorted(int(value) for value in part["shots"].unique()))
    cells: dict[str, dict[int, ComparedCell]] = {}
    for record in part.to_dict("records"):
        measured = None if pd.isna(record["mean"]) else _interval(record["mean"], record["low"], record["high"])
        differs = None if pd.isna(record["differs"]) else bool(record["differs"])
        cell = ComparedCell(measured, float(record["published"]), differs)
        cells.setdefault(str(record["criterion"]), {})[int(record["shots"])] = cell
    first = part.iloc[0]
    return Comparison(
        model=str(first["model"]),
        granularity=str(first["granularity"]),
        rate=float(first["rate"]),
        shots=shots,
        lines=tuple((name, tuple(map(by_shots.get, shots))) for name, by_shots in cells.items()),
        sources=tuple((source, web_link(source)) for source in dict.fromkeys(map(str, part["source"]))),
    )


def with_display_names(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the names of criteria as people read them."""
    return rows.assign(criterion=rows["criterion"].map(display_name))


def in_order(granularities: Iterable[str]) -> list[str]:
    """Sort kinds of unit as the schema lists them.

    Raises:
        SiteError: one of them is unknown.
    """
    names = set(granularities)
    unknown = sorted(names - set(GRANULARITIES))
    if unknown:
        raise SiteError(f"`granularity` must be one of {GRANULARITIES}, got {unknown[0]!r}; correct that row.")
    return sorted(names, key=GRANULARITIES.index)


def web_link(source: str) -> str | None:
    """Return `source` if it is an http or https address that is safe to link to, else None."""
    if any(character.isspace() or not character.isprintable() for character in source):
        return None
    try:
        parts = urlsplit(source)
    except ValueError:
        return None
    return source if parts.scheme in ("http", "https") and parts.hostname else None


def _section(all_areas: pd.DataFrame, rows: pd.DataFrame, granularity: str) -> Section:
    areas = all_areas.loc[all_areas["granularity"] == granularity]
    by = ("suite", "granularity", "criterion")
    by_shots = _estimates(summarise(areas, (*by, "shots")), "shots")
    by_model = _estimates(summarise(areas, (*by, "model")), "model")
    shots = sorted(areas["shots"].unique())
    heads = _model_heads(areas, rows.loc[(rows["granularity"] == granularity) & (rows["status"] == "ok")])
    tags = rows.drop_duplicates("criterion").set_index("criterion")
    possible = {str(record["criterion"]): record for record in standings(areas, by).to_dict("records")}
    lines: list[Line] = []
    for record in summarise(areas, by).to_dict("records"):
        name = str(record["criterion"])
        standing = possible.get(name)
        lines.append(
            Line(
                rank=None if pd.isna(record["rank"]) else int(record["rank"]),
                ranks=None if standing is None else (int(standing["rank_low"]), int(standing["rank_high"])),
                criterion=name,
                family=str(tags.loc[name, "criterion_family"]),
                needs=str(tags.loc[name, "criterion_needs"]) + (" + tuning" if tags.loc[name, "tuning"] else ""),
                a_pr=estimate(record, "a_pr"),
                auc=estimate(record, "auc_trapz"),
                top_pr=estimate(record, "top_pr"),
                by_shots=tuple(by_shots.get((name, value)) for value in shots),
                by_model=tuple(by_model.get((name, head.name)) for head in heads),
                win_rate=None if standing is None else _win_rate(standing),
                n_seeds=int(record["n_seeds"]),
                n_cells=int(record["n_cells"]),
                n_cells_grid=int(record["n_cells_grid"]),
            )
        )
    return Section(granularity, tuple(lines), tuple(int(value) for value in shots), heads)


def _win_rate(standing: Mapping[Hashable, Any]) -> Estimate | None:
    rate, low, high = (float(standing[f"win_rate{part}"]) for part in ("", "_low", "_high"))
    return None if math.isnan(rate) else Estimate(rate, low, high)


def estimate(record: Mapping[Hashable, Any], metric: str) -> Estimate:
    """Return a metric of one line of a summary over seeds, without interval where the summary has none."""
    return _interval(*(record.get(f"{metric}_{part}", math.nan) for part in ("mean", "low", "high")))


def _interval(mean: float, low: float, high: float) -> Estimate:
    mean, low, high = float(mean), float(low), float(high)
    return Estimate(mean, None if math.isnan(low) else low, None if math.isnan(high) else high)


def _estimates(summary: pd.DataFrame, column: str) -> dict[tuple[str, object], Estimate]:
    records = summary.to_dict("records")
    return {(record["criterion"], record[column]): estimate(record, "a_pr") for record in records}


def _model_heads(areas: pd.DataFrame, rows: pd.DataFrame) -> tuple[ModelHead, ...]:
    heads: list[ModelHead] = []
    for model in sorted(areas["model"].unique()):
        unpruned = areas.loc[areas["model"] == model, "unpruned"]
        first = rows.loc[rows["model"] == model].iloc[0]
        extent = (float(unpruned.min()), float(unpruned.max()))
        heads.append(ModelHead(model, str(first["model_family"]), extent, int(first["n_units"])))
    return tuple(heads)


def _problems(rows: pd.DataFrame) -> tuple[Problem, ...]:
    columns = ["granularity", "criterion", "model", "status", "reason"]
    jobs = rows.loc[rows["status"] != "ok", [*columns, "key"]].fillna({"reason": ""}).drop_duplicates()
    counts = jobs.groupby(columns, sort=True).size().reset_index(name="n_jobs")
    return tuple(
        Problem(
            criterion=str(record["criterion"]),
            model=str(record["model"]),
            granularity=str(record["granularity"]),
            status=str(record["status"]),
            reason=str(record["reason"]),
            n_jobs=int(record["n_jobs"]),
        )
        for record in counts.to_dict("records")
    )


def _criteria(rows: pd.DataFrame) -> tuple[CriterionCard, ...]:
    cards: list[CriterionCard] = []
    for name, part in rows.groupby("criterion", sort=True):
        family, needs, source, version, parameters = (
            ", ".join(_values(part, column))
            for column in (
                "criterion_family",
                "criterion_needs",
                "criterion_source",
                "criterion_version",
                "parameters",
            )
        )
        if (part["tuning"].fillna("") != "").any():
            parameters = "tuned for each network and kind of unit"
        cards.append(CriterionCard(str(name), family, needs, version, parameters, source, web_link(source)))
    return tuple(cards)


def _values(rows: pd.DataFrame, column: str, as_text: Callable[[object], str] = str) -> tuple[str, ...]:
    """Return the distinct non-empty values of a column as sorted text."""
    values = rows[column].dropna()
    return tuple(sorted({text for text in map(as_text, values.unique()) if text}))


def _facts(rows: pd.DataFrame, suite: Suite) -> tuple[Fact, ...]:
    if rows.empty:
        return ()
    ok = rows.loc[rows["status"] == "ok"]
    measured = ok if len(ok) else rows
    weights = measured[["model", "weights_digest"]].drop_duplicates().sort_values(["model", "weights_digest"])
    data = measured[["dataset", "data_digest"]].drop_duplicates().sort_values(["dataset", "data_digest"])
    code = rows[["commit", "clean"]].fillna({"commit": ""}).drop_duplicates().sort_values(["commit", "clean"])
    times = _values(rows, "time_utc")
    facts = [
        Fact("Suite", tuple(f"{suite.name}, version {version}" for version in _values(rows, "suite_version"))),
        Fact("Suite digest", _values(rows, "suite_digest")),
        Fact("Data set", tuple(f"{name}, sha256 {sha}" for name, sha in data.itertuples(index=False))),
        Fact("Evaluation images", _values(rows, "n_images", lambda value: f"{pd.to_numeric(str(value)):.0f}")),
        Fact("Weights", tuple(f"{model}, sha256 {sha}" for model, sha in weights.itertuples(index=False))),
        Fact("Code", tuple(_commit_text(commit, bool(clean)) for commit, clean in code.itertuples(index=False))),
        *(Fact(title, _values(rows, name)) for title, name in _VERSION_COLUMNS),
        Fact("Device", _values(rows, "device")),
        Fact("CPU threads", _values(rows, "threads")),
        Fact("Measured (UTC)", times if len(times) < 2 else (f"{times[0]} to {times[-1]}",)),
    ]
    return tuple(fact for fact in facts if fact.values)


_VERSION_COLUMNS = (
    ("pruneboard", "pruneboard"),
    ("Python", "python"),
    ("PyTorch", "torch"),
    ("timm", "timm"),
    ("zennit", "zennit"),
)


def _commit_text(commit: str, clean: bool) -> str:
    if not commit:
        return "an installed package, commit unknown"
    return f"commit {commit}, {'clean' if clean else 'with uncommitted changes'}"


def _notes(rows: pd.DataFrame, suite: Suite) -> tuple[str, ...]:
    notes: list[str] = []
    if len(rows) and set(_values(rows, "suite_digest")) != {suite.digest}:
        notes.append(
            f"These rows were measured under another version of the suite than its file now has (version "
            f"{suite.version}, digest {suite.digest[:12]}); run `pruneboard run {suite.name}` to bring them up to date."
        )
    if len(rows) and not rows["clean"].astype(bool).all():
        notes.append("Some rows were measured with uncommitted changes or an installed package; see Provenance.")
    return tuple(notes)
