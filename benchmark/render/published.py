"""What others published, beside what was measured."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from pruneboard.benchmark.render.estimates import Estimate, interval
from pruneboard.benchmark.render.links import web_link
from pruneboard.benchmark.schema import PublishedPoint
from pruneboard.benchmark.stats import compare


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
        measured = None if pd.isna(record["mean"]) else interval(record["mean"], record["low"], record["high"])
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
