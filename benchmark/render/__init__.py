"""Tables to pages: the static leaderboard and its version for the terminal."""

from pruneboard.benchmark.render.pages import build_site
from pruneboard.benchmark.render.terminal import terminal_table

__all__ = ["build_site", "terminal_table"]
