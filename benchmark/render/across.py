"""The ranking across networks, suites and kinds of unit."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from pruneboard.benchmark.render.estimates import Estimate
from pruneboard.benchmark.render.views import Line, SuiteView
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.stats import CriticalDifference, Overall, area_under_curve, overall

_PROTOCOL = "one_shot"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverallLine:
    """One criterion across networks.

    Attributes:
        ranks: smallest and largest rank that it may have.
        criterion: displayed name.
        family: its family.
        needs: what it looks at.
        average_rank: over the networks, 1 is best.
        a_pr: mean over the networks.
        win_rate: share of comparisons with the others that it wins, network by network.
    """

    ranks: tuple[int, int]
    criterion: str
    family: str
    needs: str
    average_rank: float
    a_pr: float
    win_rate: Estimate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverallView:
    """The ranking across networks.

    Attributes:
        lines: best first.
        networks: what was ranked on, as suite, network and kind of unit.
        left_out: networks on which too few criteria were measured.
        missing: criteria that lack one of the networks.
        diagram: the test behind the ranks.
    """

    lines: tuple[OverallLine, ...]
    networks: tuple[tuple[str, str, str], ...]
    left_out: tuple[tuple[str, str, str], ...]
    missing: tuple[str, ...]
    diagram: CriticalDifference


def rank_across(rows: pd.DataFrame, suites: Sequence[Suite]) -> Overall:
    """Rank criteria across the networks of all suites that score once and measure on another split than `train`.

    Args:
        rows: a table with the columns of `schema.Row`; rows of other suites are left out.
        suites: suites of the rows.

    Raises:
        TableError: the rows do not allow the statistics.
    """
    counted = [suite.name for suite in suites if _counts(suite)]
    return overall(area_under_curve(rows.loc[rows["suite"].isin(counted)]))


def _counts(suite: Suite) -> bool:
    return suite.protocol == _PROTOCOL and suite.on_unseen_images


def view_overall(views: Sequence[SuiteView]) -> OverallView | None:
    """Show what `rank_across` finds.

    Args:
        views: views of the suites, with displayed names.

    Returns:
        The ranking; None when there are fewer than two networks or criteria to rank.
    """
    measured = [view.areas for view in views if _counts(view.suite) and len(view.areas)]
    if not measured:
        return None
    found = overall(pd.concat(measured, ignore_index=True))
    if len(found.networks) < 2 or len(found.standings) < 2:
        return None
    lines: Mapping[str, Line] = {
        line.criterion: line for view in reversed(views) for section in view.sections for line in section.lines
    }
    return OverallView(
        lines=tuple(
            OverallLine(
                ranks=(int(record["rank_low"]), int(record["rank_high"])),
                criterion=str(record["criterion"]),
                family=lines[str(record["criterion"])].family,
                needs=lines[str(record["criterion"])].needs,
                average_rank=float(record["average_rank"]),
                a_pr=float(record["a_pr"]),
                win_rate=None
                if pd.isna(record["win_rate"])
                else Estimate(*(float(record[f"win_rate{part}"]) for part in ("", "_low", "_high"))),
            )
            for record in found.standings.to_dict("records")
        ),
        networks=found.networks,
        left_out=found.left_out,
        missing=found.critical_difference.left_out,
        diagram=found.critical_difference,
    )
