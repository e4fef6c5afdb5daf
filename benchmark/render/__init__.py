"""Tables to pages: the static leaderboard and its version for the terminal."""

from pruneboard.benchmark.render.across import rank_across
from pruneboard.benchmark.render.entries import Credit
from pruneboard.benchmark.render.overall import overall_table
from pruneboard.benchmark.render.pages import Extras, build_site
from pruneboard.benchmark.render.published import comparison_table
from pruneboard.benchmark.render.terminal import terminal_table
from pruneboard.benchmark.render.tuning import current_studies, view_tuning
from pruneboard.benchmark.render.views import with_display_names

__all__ = [
    "Credit",
    "Extras",
    "build_site",
    "comparison_table",
    "current_studies",
    "overall_table",
    "rank_across",
    "terminal_table",
    "view_tuning",
    "with_display_names",
]
