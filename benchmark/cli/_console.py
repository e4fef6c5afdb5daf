"""The console that the commands print to."""

from rich.console import Console, RenderableType
from rich.measure import Measurement

_ANY_WIDTH = 10_000


def make_console(*, stderr: bool = False) -> Console:
    """Make a console that prints texts as they are: a name or title may look like markup, a number or an emoji."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_whole(console: Console, table: RenderableType) -> None:
    """Print a table of names and numbers with none of them cut, beyond the edge of the terminal where it has to be."""
    needed = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum
    console.print(table, width=max(console.width, needed), crop=False, soft_wrap=needed > console.width)
