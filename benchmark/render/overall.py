"""The ranking across networks for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pruneboard.benchmark.stats import CriticalDifference, Overall

_POSTHOC = {"nemenyi": "Nemenyi", "wilcoxon_holm": "Wilcoxon with Holm's correction"}


def overall_table(ranking: Overall) -> RenderableType:
    """Return a ranking across networks as a table, with what it rests on below."""
    if ranking.standings.empty:
        return Text(
            "No network has three criteria with all of their seeds yet, so there is no ranking across networks."
        )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("#", "criterion", "average rank", "A_PR", "wins", "95 %"):
        table.add_column(name, justify="left" if name == "criterion" else "right", no_wrap=name != "criterion")
    for line in ranking.standings.to_dict("records"):
        low, high = int(line["rank_low"]), int(line["rank_high"])
        table.add_row(
            str(low) if low == high else f"{low}-{high}",
            str(line["criterion"]),
            f"{line['average_rank']:.2f}",
            f"{100 * line['a_pr']:.2f}",
            f"{100 * line['win_rate']:.0f}",
            f"{100 * line['win_rate_low']:.0f} to {100 * line['win_rate_high']:.0f}",
        )
    return Group(table, *(Text(line, style="dim italic") for line in _notes(ranking)))


def _notes(ranking: Overall) -> list[str]:
    diagram = ranking.critical_difference
    notes = [
        "#: ranks that a criterion may have on networks like these (95 %). A_PR: mean over networks in %. wins: share "
        "of comparisons with other criteria, network by network, with its 95 % interval.",
        f"Ranked on {diagram.n_blocks} networks: {_listed(ranking.networks)}. {_tests(diagram)}",
    ]
    if diagram.left_out:
        notes.append(f"Not ranked, because a network lacks them: {', '.join(diagram.left_out)}.")
    if ranking.left_out:
        notes.append(f"Left out, because few criteria were measured there: {_listed(ranking.left_out)}.")
    return notes


def _tests(diagram: CriticalDifference) -> str:
    if diagram.p_value is None:
        return "With one network or two criteria there is no test, and nothing is told apart."
    p = "p < 0.001" if diagram.p_value < 0.001 else f"p = {diagram.p_value:.3f}"
    friedman = f"Friedman: chi-squared {diagram.statistic:.1f}, {p}; pairs: {_POSTHOC[diagram.posthoc]}"
    if diagram.critical_distance is None:
        return f"{friedman}."
    return f"{friedman}, which tells average ranks apart from a distance of {diagram.critical_distance:.2f} on."


def _listed(networks: Sequence[tuple[str, str, str]]) -> str:
    return ", ".join(f"{model} {granularity} ({suite})" for suite, model, granularity in networks)
