"""Pure statistics on result tables: areas under curves, means and intervals, paired comparisons and ranks."""

from pruneboard.benchmark.stats._areas import METRICS, TOP_PR_FRACTION, area_under_curve
from pruneboard.benchmark.stats._intervals import ALPHA, CONFIDENCE, holm, t_half_width, t_p_value, wilson
from pruneboard.benchmark.stats._pairs import compare_criteria, standings
from pruneboard.benchmark.stats._points import CURVE_KEYS, checked_points
from pruneboard.benchmark.stats._ranks import (
    NETWORK,
    CriticalDifference,
    Overall,
    PostHoc,
    critical_difference,
    overall,
)
from pruneboard.benchmark.stats._summaries import compare, compare_tuned, curves, curves_of, summarise

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "CURVE_KEYS",
    "METRICS",
    "NETWORK",
    "TOP_PR_FRACTION",
    "CriticalDifference",
    "Overall",
    "PostHoc",
    "area_under_curve",
    "checked_points",
    "compare",
    "compare_criteria",
    "compare_tuned",
    "critical_difference",
    "curves",
    "curves_of",
    "holm",
    "overall",
    "standings",
    "summarise",
    "t_half_width",
    "t_p_value",
    "wilson",
]
