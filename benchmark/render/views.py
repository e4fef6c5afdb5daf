"""What a page shows of one suite, as frozen records made from its rows."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from pruneboard.benchmark.errors import SiteError
from pruneboard.benchmark.render.estimates import Estimate, estimate
from pruneboard.benchmark.render.provenance import (
    CriterionCard,
    Fact,
    Problem,
    criterion_cards,
    facts_of,
    notes_on,
    problems,
)
from pruneboard.benchmark.render.published import Comparison, comparison_table, view_comparisons
from pruneboard.benchmark.schema import GRANULARITIES, PublishedPoint, Suite, display_name
from pruneboard.benchmark.stats import CriticalDifference, area_under_curve, critical_difference, standings, summarise

ALL_SHOTS = "all"
"""Key of the mean over all numbers of shots."""

_RANKING = ("suite", "granularity", "criterion")
_PREFERRED_SHOTS = 10  # what PXP (arXiv 2408.12568) takes per class


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
        origin: `published`, `here` where its rows were measured on this machine, or `both`.
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
    origin: str
    a_pr: Estimate
    auc: Estimate
    top_pr: Estimate
    by_shots: tuple[Estimate | None, ...]
    by_model: tuple[Estimate | None, ...]
    win_rate: Estimate | None
    n_seeds: int
    n_cells: int
    n_cells_grid: int

    @property
    def looks(self) -> str:
        """What it looks at, as the filters take it: `free` (no data), `data` or `tuned`."""
        return "tuned" if "tuning" in self.needs else "free" if self.needs == "nothing" else "data"


@dataclasses.dataclass(frozen=True)
class Section:
    """The ranking of one granularity.

    Attributes:
        granularity: kind of unit.
        lines: one for each criterion, best first.
        shots: numbers of reference images per class.
        models: networks.
        twins: groups of criteria that gave the same accuracies everywhere, each with the one that stands for it first.
        diagram: average ranks within (network, seed), and what can be told apart by them.
        summaries: what `stats.summarise` says of the criteria, over all shots together (`ALL_SHOTS`) and for each
            number of shots.
        possible: what `stats.standings` says of them, likewise.
    """

    granularity: str
    lines: tuple[Line, ...]
    shots: tuple[int, ...]
    models: tuple[ModelHead, ...]
    twins: tuple[tuple[str, ...], ...]
    diagram: CriticalDifference
    summaries: Mapping[str, pd.DataFrame] = dataclasses.field(repr=False, compare=False)
    possible: Mapping[str, pd.DataFrame] = dataclasses.field(repr=False, compare=False)

    def line_of(self, criterion: str) -> Line | None:
        """Return the line of a criterion, None when it has no result here."""
        return next((line for line in self.lines if line.criterion == criterion), None)

    def twins_of(self, criterion: str) -> tuple[str, ...]:
        """Return the other criteria that gave the same accuracies."""
        group = next((group for group in self.twins if criterion in group), ())
        return tuple(name for name in group if name != criterion)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteView:
    """Everything that is said about one suite; `areas` is what `stats.area_under_curve` returns for its rows."""

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
    areas: pd.DataFrame = dataclasses.field(repr=False, compare=False)

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
        sections=tuple(_section(areas, rows, name, suite) for name in in_order(areas["granularity"].unique())),
        comparisons=view_comparisons(comparison_table(rows, published)),
        problems=problems(rows),
        criteria=criterion_cards(rows),
        facts=facts_of(rows, suite),
        notes=notes_on(rows, suite),
        default_shots=_PREFERRED_SHOTS if _PREFERRED_SHOTS in shots or not shots else shots[len(shots) // 2],
        n_rows=len(rows),
        n_jobs=rows["key"].nunique(),
        areas=areas,
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


def _section(all_areas: pd.DataFrame, rows: pd.DataFrame, granularity: str, suite: Suite) -> Section:
    areas = all_areas.loc[all_areas["granularity"] == granularity]
    measured = rows.loc[(rows["granularity"] == granularity) & (rows["status"] == "ok")]
    summaries, possible = (for_each_shots(partial(make, areas)) for make in (summarise, standings))
    by_model = _estimates(summarise(areas, (*_RANKING, "model")), "model")
    shots = sorted(areas["shots"].unique())
    by_shots = {key: value for n in shots for key, value in _estimates(summaries[str(n)], "shots").items()}
    heads = _model_heads(areas, measured)
    tags = rows.drop_duplicates("criterion").set_index("criterion")
    standing_of = {str(record["criterion"]): record for record in possible[ALL_SHOTS].to_dict("records")}
    origins = _origins(measured)
    lines: list[Line] = []
    for record in summaries[ALL_SHOTS].to_dict("records"):
        name = str(record["criterion"])
        standing = standing_of.get(name)
        lines.append(
            Line(
                rank=None if pd.isna(record["rank"]) else int(record["rank"]),
                ranks=None if standing is None else (int(standing["rank_low"]), int(standing["rank_high"])),
                criterion=name,
                family=str(tags.loc[name, "criterion_family"]),
                needs=str(tags.loc[name, "criterion_needs"]) + (" + tuning" if tags.loc[name, "tuning"] else ""),
                origin=origins[name],
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
    return Section(
        granularity=granularity,
        lines=tuple(lines),
        shots=tuple(int(value) for value in shots),
        models=heads,
        twins=_twins(measured, suite.criteria),
        diagram=critical_difference(areas),
        summaries=summaries,
        possible=possible,
    )


def for_each_shots(make: Callable[[Sequence[str]], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return what `make` says of each criterion over all shots together, and for each number of shots.

    Args:
        make: takes the columns that tell the lines of its answer apart.
    """
    parts = {str(shots): part for shots, part in make((*_RANKING, "shots")).groupby("shots", sort=True)}
    return {ALL_SHOTS: make(_RANKING), **parts}


def _win_rate(standing: Mapping[Hashable, Any]) -> Estimate | None:
    rate, low, high = (float(standing[f"win_rate{part}"]) for part in ("", "_low", "_high"))
    return None if math.isnan(rate) else Estimate(rate, low, high)


def _origins(rows: pd.DataFrame) -> dict[str, str]:
    """Return where each criterion's rows are from: their column `origin`, which a table of one source need not have."""
    if "origin" not in rows.columns:
        rows = rows.assign(origin="published")
    found = rows.groupby("criterion", sort=True)["origin"].unique()
    return {str(name): str(values[0]) if len(values) == 1 else "both" for name, values in found.items()}


def _twins(rows: pd.DataFrame, order: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Group the criteria whose accuracies are the same in every cell, as presets are that differ in attentions only."""
    ordered = rows.sort_values(["model", "seed", "shots", "rate"], kind="stable")
    groups: dict[tuple[bytes, int], list[str]] = {}
    for name, part in ordered.groupby("criterion", sort=True):
        cells = pd.util.hash_pandas_object(part[["model", "seed", "shots", "rate", "top1"]], index=False)
        groups.setdefault((cells.to_numpy().tobytes(), len(part)), []).append(str(name))
    place = {name: i for i, name in enumerate(order)}
    return tuple(
        tuple(sorted(names, key=lambda name: (place.get(name, len(place)), name)))
        for names in groups.values()
        if len(names) > 1
    )


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
