"""Tables to pages: the static leaderboard and its version for the terminal."""

from pruneboard.benchmark.render.entries import Credit
from pruneboard.benchmark.render.pages import Extras, build_site
from pruneboard.benchmark.render.published import comparison_table
from pruneboard.benchmark.render.terminal import terminal_table
from pruneboard.benchmark.render.tuning import current_studies, tuning_table, view_tuning

__all__ = [
    "Credit",
    "Extras",
    "build_site",
    "comparison_table",
    "current_studies",
    "terminal_table",
    "tuning_table",
    "view_tuning",
]
