"""What a run would do, and how long it would take."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from pruneboard.benchmark.cli._console import print_whole
from pruneboard.benchmark.cli._estimates import Kind, kind_of
from pruneboard.benchmark.cli._quantities import format_seconds
from pruneboard.benchmark.schema import Job


def print_dry_run(
    jobs: Sequence[Job], done: Sequence[bool], past: Mapping[Kind, float], n_workers: int, console: Console
) -> None:
    """Print the jobs of each network, granularity and criterion: done, to run, and the time that they will take.

    Args:
        jobs: jobs of one suite, at least one.
        done: for each job, whether it need not run.
        past: mean time of a job of each kind, in s, where it is known.
        n_workers: jobs that would run at a time.
        console: where to print.
    """
    n_all = Counter(map(kind_of, jobs))
    n_todo = Counter(kind_of(job) for job, is_done in zip(jobs, done, strict=True) if not is_done)
    table = Table("model", "granularity", "criterion", box=None, pad_edge=False)
    for title in ("done", "to run", "each", "together"):
        table.add_column(title, justify="right")
    for kind, n_jobs in n_all.items():
        each, n_left = past.get(kind), n_todo[kind]
        together = "" if not n_left else format_seconds(None if each is None else n_left * each)
        table.add_row(*kind, str(n_jobs - n_left), str(n_left), format_seconds(each), together)
    print_whole(console, table)
    known = sum(n * past[kind] for kind, n in n_todo.items() if kind in past)
    n_unknown = sum(n for kind, n in n_todo.items() if kind not in past)
    n_left = n_todo.total()
    time = f"about {format_seconds(known / max(1, min(n_workers, n_left)))} on {n_workers} workers at a time"
    console.print(
        f"{jobs[0].suite.title}: {len(jobs)} jobs, {len(jobs) - n_left} done, {n_left} to run"
        + (f"; {time}" if n_left > n_unknown else "")
        + (f"; no earlier row tells how long {n_unknown} of them take" if n_unknown else "")
        + "."
    )
    console.print("Nothing was run.")
