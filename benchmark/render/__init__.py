"""Tables to pages: the static leaderboard and its version for the terminal."""

from pruneboard.benchmark.render.inventory import inventory, with_inventory, write_inventory
from pruneboard.benchmark.render.pages import Extras, build_site
from pruneboard.benchmark.render.published import comparison_table
from pruneboard.benchmark.render.terminal import terminal_table
from pruneboard.benchmark.render.tuning import current_studies, tuning_table, view_tuning

__all__ = [
    "Extras",
    "build_site",
    "comparison_table",
    "current_studies",
    "inventory",
    "terminal_table",
    "tuning_table",
    "view_tuning",
    "with_inventory",
    "write_inventory",
]
