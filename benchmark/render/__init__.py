"""Tables to pages: the static leaderboard and its version for the terminal."""

from pruneboard.benchmark.render.pages import build_site
from pruneboard.benchmark.render.terminal import terminal_table
from pruneboard.benchmark.render.views import comparison_table

__all__ = ["build_site", "comparison_table", "terminal_table"]
