"""The leaderboard of one suite for the terminal."""

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pruneboard.benchmark.render.views import Estimate, Section, SuiteView, view_suite
from pruneboard.benchmark.schema import Suite


def terminal_table(rows: pd.DataFrame, suite: Suite) -> RenderableType:
    """Return the rankings of `suite`, one table per granularity, and the jobs without a result.

    Args:
        rows: a table with the columns of `schema.Row`; rows of other suites are left out.
        suite: the suite to show.

    Raises:
        TableError: the rows do not allow the statistics.
    """
    view = view_suite(rows.loc[rows["suite"] == suite.name], suite, "")
    if not view.n_rows:
        return Text(f"No results of suite {suite.name} yet; make them with: pruneboard run {suite.name}")
    parts: list[RenderableType] = [_ranking(view, section) for section in view.sections]
    if not view.sections:
        parts.append(Text(f"No job of suite {suite.name} has a result yet."))
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


def _ranking(view: SuiteView, section: Section) -> Table:
    incomplete = any(line.rank is None for line in section.lines)
    caption = "Accuracies in %; interval: 95 % over reference draws." + (
        " No rank: cells that others have are missing." if incomplete else ""
    )
    models = ", ".join(f"{head.name} {_unpruned(head.unpruned)} unpruned" for head in section.models)
    table = Table(
        title=Text(f"{view.suite.title}: {section.granularity} ({models})"),
        caption=Text(caption),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("#", justify="right")
    table.add_column("criterion", overflow="fold")
    table.add_column("needs")
    table.add_column("A_PR", justify="right", style="bold")
    table.add_column("interval", justify="right")
    for shots in section.shots:
        table.add_column(f"{shots} shot{'s' if shots > 1 else ''}", justify="right")
    table.add_column("AUC", justify="right")
    table.add_column("Top-PR", justify="right")
    table.add_column("seeds", justify="right")
    for line in section.lines:
        table.add_row(
            "-" if line.rank is None else str(line.rank),
            Text(line.criterion),
            Text(line.needs),
            _percent(line.a_pr),
            _interval(line.a_pr),
            *(_percent(value) for value in line.by_shots),
            f"{line.auc.mean:.4f}",
            f"{100 * line.top_pr.mean:.1f}",
            str(line.n_seeds),
            style="dim" if line.rank is None else "",
        )
    return table


def _percent(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{100 * estimate.mean:.2f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "one seed"
    return f"{100 * estimate.low:.2f} to {100 * estimate.high:.2f}"


def _unpruned(extent: tuple[float, float]) -> str:
    low, high = (f"{100 * value:.2f}" for value in extent)
    return low if low == high else f"{low} to {high}"
