"""The console that the commands print to."""

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """Make a console that prints texts as they are: a name or title may look like markup, a number or an emoji."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)
