"""The `pruneboard runs` commands: thin typer functions."""

from pathlib import Path
from typing import Annotated

import typer

runs = typer.Typer(help="List, inspect, tidy and merge run folders.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--out", help="Run folder.")]


@runs.command("list")
def list_(out: Folder = Path("runs")) -> None:
    """List the suites of a run folder: jobs by status, rows, size, times, hardware, code, and what is wrong."""
    from pruneboard.benchmark.cli import run_folders

    run_folders.print_runs(out)


@runs.command()
def show(
    suite: Annotated[str, typer.Argument(help="Suite in the run folder.")],
    job: Annotated[
        str | None, typer.Argument(help="Show all of one job: MODEL.GRANULARITY.CRITERION.SEED, or how its key begins.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only ok, unsupported or failed jobs; may be repeated.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    criterion: Annotated[list[str] | None, typer.Option(help="Only this criterion; may be repeated.")] = None,
    out: Folder = Path("runs"),
) -> None:
    """Show the jobs of a suite with status, time and reason, or everything known about one job."""
    from pruneboard.benchmark.cli import run_folders

    wanted = run_folders.JobFilter(job=job, statuses=status or (), models=model or (), criteria=criterion or ())
    run_folders.print_jobs(out, suite, wanted)


@runs.command()
def prune(
    suite: Annotated[
        str | None, typer.Argument(help="Suite in the run folder, or path of its file (.toml). Default: all of them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    out: Folder = Path("runs"),
) -> None:
    """Remove what no table needs: superseded and stale jobs, damaged files, leftovers of killed writers."""
    from pruneboard.benchmark import plugins
    from pruneboard.benchmark.cli import run_folders

    criteria = plugins.criteria()
    versions = {name: criteria.get(name).version for name in criteria.names()}
    run_folders.prune_runs(out, suite, versions, dry_run=dry_run, yes=yes)


@runs.command()
def merge(
    source: Annotated[list[Path], typer.Argument(help="Run folders to merge; they are only read.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to merge into; may be new.")],
) -> None:
    """Merge run folders of several machines; exit status 1 when they disagree about a result."""
    from pruneboard.benchmark.cli import run_folders

    if run_folders.merge_runs(source, out):
        raise typer.Exit(1)


@runs.command()
def fold(out: Folder = Path("runs")) -> None:
    """Fold job files into few large segments, which are read faster; `run` does so by itself where there are many."""
    from pruneboard.benchmark.cli import run_folders

    run_folders.fold_runs(out)


@runs.command()
def migrate(out: Folder = Path("runs")) -> None:
    """Write files of older schema versions again at the present one; they are read without that as well."""
    from pruneboard.benchmark.cli import run_folders

    run_folders.migrate_runs(out)
