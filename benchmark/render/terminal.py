"""The leaderboard of one suite for the terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pruneboard.benchmark.render.estimates import Estimate
from pruneboard.benchmark.render.published import ComparedCell, Comparison
from pruneboard.benchmark.render.views import Line, Section, view_suite, with_display_names
from pruneboard.benchmark.schema import PublishedPoint, Suite


def terminal_table(rows: pd.DataFrame, suite: Suite, published: Sequence[PublishedPoint] = ()) -> RenderableType:
    """Return the rankings of `suite`, one table per granularity, the comparison with what others published, and the
    jobs without a result.

    Args:
        rows: a table with the columns of `schema.Row`; rows of other suites are left out.
        suite: the suite to show.
        published: what others published for cells of the suite.

    Raises:
        TableError: the rows do not allow the statistics.
    """
    view = view_suite(with_display_names(rows.loc[rows["suite"] == suite.name]), suite, "", published)
    if not view.n_rows:
        return Text(f"No results of suite {suite.name} yet; make them with: pruneboard run {suite.name}")
    parts: list[RenderableType] = [_Ranking(section) for section in view.sections]
    if not view.sections:
        parts.append(Text(f"No job of suite {suite.name} has a result yet."))
    parts.extend(map(_compared, view.comparisons))
    parts.extend(Text(note, style="yellow") for note in view.notes)
    if view.problems:
        parts.append(Text(f"{view.n_problems} of {view.n_jobs} jobs have no result:", style="bold"))
    parts.extend(
        Text(f"  {problem.criterion} on {problem.model} ({problem.granularity}), {problem.n_jobs} jobs ")
        .append(problem.status, style="red" if problem.status == "failed" else "dim")
        .append(f": {problem.reason}")
        for problem in view.problems
    )
    return Group(*parts)


def _compared(comparison: Comparison) -> RenderableType:
    """Return a table with three lines for each criterion: measured, half of the interval's width, published."""
    differing = [cell for _, cells in comparison.lines for cell in cells if cell is not None and cell.differs]
    sources = ", ".join(source for source, _ in comparison.sources)
    title = f"{comparison.model}, {comparison.rate:g} of the {comparison.granularity} removed; accuracy in % by shots"
    caption = f"*: outside our 95 % interval over seeds ({len(differing)} cells). Published: {sources}"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("criterion", no_wrap=True)
    table.add_column("", no_wrap=True)
    for shots in comparison.shots:
        table.add_column(str(shots), justify="right", no_wrap=True)
    for criterion, cells in comparison.lines:
        ours = [None if cell is None else cell.measured for cell in cells]
        table.add_row(criterion, "ours", *("-" if e is None else _percent(e) for e in ours))
        table.add_row("", "+-", *("-" if e is None else _half_width(e, "{:.2f}", 100) for e in ours), style="dim")
        table.add_row("", "published", *map(_published, cells))
    # A table breaks its own title and caption at its width, which is less than theirs.
    return Group(Text(title, style="italic"), table, Text(caption, style="dim italic"), Text())


def _published(cell: ComparedCell | None) -> str:
    return "-" if cell is None else f"{'*' if cell.differs else ''}{100 * cell.published:.2f}"


@dataclass(frozen=True)
class _Column:
    """One column of a ranking.

    Attributes:
        header: its head.
        cell: what it says of a line.
        rest: how well a narrow terminal does without it; columns with 0 are always there.
        left: whether it is aligned to the left.
    """

    header: str
    cell: Callable[[Line], str]
    rest: int = 0
    left: bool = False

    def width(self, lines: Sequence[Line]) -> int:
        """Return the room that it takes, with the two spaces behind it."""
        return 2 + max(map(cell_len, (self.header, *map(self.cell, lines))))


@dataclass(frozen=True)
class _Ranking:
    """The ranking of a section, with as many columns as the terminal has room for."""

    section: Section

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Make the table for the width at hand."""
        section = self.section
        models = ", ".join(f"{head.name} {_unpruned(head.unpruned)}" for head in section.models)
        table = Table(
            title=Text(f"Pruning {section.granularity}; unpruned accuracy: {models}"),
            caption=Text(self._caption()),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column in (columns := _fitting(section, options.max_width)):
            table.add_column(column.header, justify="left" if column.left else "right", no_wrap=True)
        for line in section.lines:
            cells = (Text(column.cell(line)) for column in columns)
            table.add_row(*cells, style="dim" if line.rank is None else "")
        yield table

    def _caption(self) -> str:
        many = len(self.section.shots) > 1
        by_shots = f" Columns {_ends(self.section.shots)}: with that many reference images per class." if many else ""
        unranked = any(line.rank is None for line in self.section.lines)
        missing = " No rank: cells that others have are missing." if unranked else ""
        single = any(line.a_pr.high is None for line in self.section.lines)
        one_seed = " One seed has no interval, and tells nothing apart." if single else ""
        ranks = (
            " #: ranks it may have on these networks and images; those that share none are told apart "
            "(paired t tests over seeds, Holm, 95 %)."
        )
        return f"Accuracies in %; +-: 95 % interval over seeds.{one_seed}{ranks}{by_shots}{missing}"


def _columns(section: Section) -> list[_Column]:
    return [
        _Column("#", _ranks),
        _Column("criterion", lambda line: line.criterion, left=True),
        _Column("needs", lambda line: line.needs, rest=2, left=True),
        _Column("A_PR", lambda line: _percent(line.a_pr)),
        _Column("+-", lambda line: _half_width(line.a_pr, "{:.2f}", 100)),
        *(
            _Column(str(shots), _at_shots(i), rest=_rest(i, len(section.shots)))
            for i, shots in enumerate(section.shots)
        ),
        _Column("AUC", lambda line: f"{line.auc.mean:.4f}", rest=2),
        _Column("+-", lambda line: _half_width(line.auc, "{:.4f}", 1), rest=2),
        _Column("Top-PR", lambda line: f"{100 * line.top_pr.mean:.1f}"),
        _Column("+-", lambda line: _half_width(line.top_pr, "{:.1f}", 100), rest=2),
        _Column("wins", lambda line: "-" if line.win_rate is None else f"{100 * line.win_rate.mean:.0f}", rest=2),
        _Column("seeds", lambda line: str(line.n_seeds), rest=2),
    ]


def _rest(index: int, n_shots: int) -> int:
    """The fewest and the most shots are shown wherever there is room for numbers at all."""
    return 0 if index in (0, n_shots - 1) else 1


def _fitting(section: Section, width: int) -> list[_Column]:
    """Leave out columns, from the right, until no name and no number is cut."""
    columns = _columns(section)
    while 1 + sum(column.width(section.lines) for column in columns) > width and any(column.rest for column in columns):
        most = max(column.rest for column in columns)
        del columns[max(i for i, column in enumerate(columns) if column.rest == most)]
    return columns


def _ranks(line: Line) -> str:
    if line.ranks is None:
        return "-"
    low, high = line.ranks
    return str(low) if low == high else f"{low}-{high}"


def _at_shots(index: int) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        estimate = line.by_shots[index]
        return "-" if estimate is None else f"{100 * estimate.mean:.1f}"

    return cell


def _ends(shots: tuple[int, ...]) -> str:
    return f"{shots[0]} to {shots[-1]}"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.2f}"


def _half_width(estimate: Estimate, form: str, scale: int) -> str:
    return "-" if estimate.half_width is None else form.format(scale * estimate.half_width)


def _unpruned(extent: tuple[float, float]) -> str:
    low, high = (f"{100 * value:.2f}" for value in extent)
    return low if low == high else f"{low} to {high}"
