"""The commands that look into run folders and tidy them; they need neither torch nor plugins."""

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.filesize import decimal

from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli.suite_listing import make_table, print_facts
from pruneboard.benchmark.errors import PruneboardError, StoreError
from pruneboard.benchmark.registry import unknown_name
from pruneboard.benchmark.schema import COLUMNS, SCHEMA_VERSION, Suite
from pruneboard.benchmark.store import (
    MARKER,
    RunStore,
    Survey,
    merge_suite,
    migrate_files,
    prune,
    shown,
    stale,
    survey,
)
from pruneboard.benchmark.suites import load_suite, suite_names, suite_path

_STATUSES = ("ok", "unsupported", "failed")


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs `pruneboard runs show` lists; None and empty tuples leave none out.

    Attributes:
        job: cell, or first digits of a key, of the one job to show.
        statuses: only these.
        models: only these.
        criteria: only these.
    """

    job: str | None = None
    statuses: Sequence[str] = ()
    models: Sequence[str] = ()
    criteria: Sequence[str] = ()

    def of(self, jobs: pd.DataFrame) -> pd.DataFrame:
        """Return the jobs that it leaves."""
        for column, values in (("status", self.statuses), ("model", self.models), ("criterion", self.criteria)):
            if values:
                jobs = jobs[jobs[column].isin(values)]
        return jobs


def print_runs(folder: Path) -> None:
    """Print the suites of a run folder and what is in them.

    Raises:
        StoreError: it is no run folder, or cannot be read.
    """
    store, console = open_run_folder(folder), make_console()
    table = make_table("suite", "jobs", *_STATUSES, "rows", "size")
    lines = []
    for suite in store.suites():
        found = survey(store.suite_folder(suite))
        jobs = found.current
        counts = jobs["status"].value_counts()
        table.add_row(
            *(shown(suite), str(len(jobs)), *(str(counts.get(status, 0)) for status in _STATUSES)),
            *(str(jobs["n_rows"].sum()), decimal(found.n_bytes)),
        )
        lines += [f"{shown(suite)}: {line}" for line in (*_origins(jobs), *_troubles(found))]
    if not table.row_count:
        console.print(f"`{shown(folder)}` is a run folder without any finished job.")
        return
    console.print(table)
    for line in lines:
        console.print(line)


def _origins(jobs: pd.DataFrame) -> list[str]:
    if not len(jobs):
        return []
    times = jobs["time_utc"].astype("str")
    devices = ", ".join(sorted(jobs["device"].astype("str").unique()))
    commits = ", ".join(sorted(commit[:10] or "an installed package" for commit in jobs["commit"].unique()))
    return [f"measured from {_minute(times.min())} to {_minute(times.max())} UTC on {devices}; code {commits}"]


def _troubles(found: Survey) -> list[str]:
    lines = []
    if n_superseded := int((~found.jobs["current"].astype(bool)).sum()):
        lines.append(f"{n_superseded} superseded jobs; `pruneboard runs prune` removes them")
    versions = found.jobs.loc[found.jobs["written_version"] != SCHEMA_VERSION, "written_version"]
    for version, n_jobs in versions.value_counts().sort_index().items():
        lines.append(f"{n_jobs} jobs of schema version {version}; `pruneboard runs migrate` writes them anew")
    lines += [f"`{shown(file.path)}` is damaged or newer ({error.why})" for file, error in found.unreadable]
    lines += [f"`{shown(file.path)}` disagrees with the job of the same key" for file in found.conflicts]
    if found.leftovers:
        lines.append(f"{len(found.leftovers)} leftovers of killed writers; `pruneboard runs prune` removes them")
    return lines


def print_jobs(folder: Path, suite: str, wanted: JobFilter) -> None:
    """Print the jobs of a suite in a run folder, or everything known about one of them.

    Raises:
        PruneboardError: it is no run folder, or there is no such suite or job in it.
    """
    store = open_run_folder(folder)
    for status in wanted.statuses:
        if status not in _STATUSES:
            raise PruneboardError(f"`--status` must be one of {', '.join(_STATUSES)}, got `{status}`.")
    found = survey(store.suite_folder(_suite_in(store, suite)))
    if wanted.job is not None:
        _print_job(_one_job(found.jobs, wanted.job))
        return
    jobs = wanted.of(found.current).sort_values(["model", "granularity", "criterion", "seed"])
    console, table = make_console(), make_table("cell", "key", "status", "seconds", "reason")
    for job in jobs.to_dict("records"):
        seconds = "" if pd.isna(job["job_seconds"]) else f"{job['job_seconds']:.1f}"
        table.add_row(_cell(job), str(job["key"])[:16], str(job["status"]), seconds, str(job["reason"]))
    console.print(table)
    console.print(f"{len(jobs)} of {len(found.current)} jobs")
    for line in _troubles(found):
        console.print(line)


def _one_job(jobs: pd.DataFrame, name: str) -> pd.Series:
    cells = pd.Series([_cell(job) for job in jobs.to_dict("records")], index=jobs.index, dtype="str")
    chosen = jobs[(cells == name) & jobs["current"].astype(bool)] if (cells == name).any() else jobs[:0]
    if not len(chosen):
        chosen = jobs[jobs["key"].str.startswith(name)] if name else jobs[:0]
    # Of files that hold one key, the newest comes last.
    chosen = chosen.drop_duplicates("key", keep="last")
    if not len(chosen):
        raise PruneboardError(
            "`JOB` must be a cell such as `digits_vgg.filters.taylor.0`, or the first digits of a key, of a job that "
            f"is there, got `{name}`; list them without it."
        )
    if len(chosen) > 1:
        keys = ", ".join(f"`{key[:16]}`" for key in sorted(chosen["key"])[:5])
        raise PruneboardError(f"`JOB` must name one job, but `{name}` begins {len(chosen)} keys: {keys}; give more.")
    return chosen.iloc[0]


def _print_job(job: pd.Series) -> None:
    facts = {}
    for column in COLUMNS:
        if column.level == "job" and not pd.isna(job[column.name]):
            unit = f" {column.unit}" if column.unit else ""
            facts[column.name] = f"{job[column.name]}{unit}"
    facts["schema_version"] = f"{job['written_version']}"
    facts |= {"rows": f"{job['n_rows']}", "file": shown(job["path"])}
    print_facts(facts, "Tables show this job." if job["current"] else "Superseded: tables do not show this job.")


def prune_runs(folder: Path, suite: str | None, versions: Mapping[str, int], *, dry_run: bool, yes: bool) -> None:
    """Say what no table needs, and remove it.

    Args:
        folder: run folder.
        suite: name of the suite, or path of a suite file; None takes every suite in the folder.
        versions: present version of each registered criterion.
        dry_run: only say it.
        yes: do not ask.

    Raises:
        PruneboardError: it is no run folder, there is no such suite in it, or nobody can be asked.
    """
    store, console = open_run_folder(folder), make_console()
    names = store.suites() if suite is None else [_suite_in(store, suite)]
    todo = []
    for name in names:
        known = _suite_file(name, suite)
        if known is None:
            console.print(f"{shown(name)}: no suite file is known, so jobs of other versions are not looked for.")
        found = survey(store.suite_folder(name))
        parts = stale(found, known, versions)
        for part in parts:
            size = f", {decimal(part.n_bytes)}" if part.files else ", in segments"
            console.print(f"{shown(name)}: {part.n} {part.why}{size}")
        for file, error in found.unreadable:
            kept = "" if file in found.damaged else " and is kept"
            console.print(f"{shown(name)}: `{shown(file.path)}` is {error.why}{kept}")
        if found.conflicts:
            console.print(f"{shown(name)}: {len(found.conflicts)} files in conflicts/ are kept; remove them by hand.")
        todo += [(name, part) for part in parts]
    if not todo:
        console.print("Nothing to remove.")
        return
    if dry_run:
        console.print("Nothing was removed.")
        return
    if not yes and not sys.stdin.isatty():
        raise PruneboardError("`--yes` must be given where nobody can be asked; `--dry-run` only says what would go.")
    if not yes and not typer.confirm("Remove them?"):
        console.print("Nothing was removed.")
        return
    n_removed = sum(prune(store.suite_folder(name), [part for n, part in todo if n == name]) for name in names)
    console.print(f"Removed {n_removed} jobs and files.")


def merge_runs(sources: Sequence[Path], folder: Path) -> bool:
    """Merge run folders into one, say what became of their jobs, and return whether results disagreed.

    Raises:
        PruneboardError: a source is no run folder or is the target, or a file is damaged or cannot be written.
    """
    console, target = make_console(), RunStore(folder)
    opened = [open_run_folder(source, "a source") for source in sources]
    for source in sources:
        if source.resolve() == folder.resolve():
            raise PruneboardError(f"a source must be another folder than `--out`, got `{shown(source)}` for both.")
    target.prepare()
    conflicts = []
    for store in opened:
        for suite in store.suites():
            merged = merge_suite(store, target, suite)
            conflicts += merged.conflicts
            console.print(
                f"{shown(store.folder)}: {shown(suite)}: {merged.n_added} added, {merged.n_same} there before, "
                f"{merged.n_newer} newer, {merged.n_older} older and set aside, {len(merged.conflicts)} in conflict"
            )
            others = [name for name in ("tuning", "speed.csv") if (store.folder / suite / name).exists()]
            if others:
                console.print(f"note: only jobs are merged, without {' and '.join(others)} of {shown(suite)}.")
    for path in conflicts:
        make_console(stderr=True).print(
            f"conflict: `{shown(path)}` has other results under the same key", soft_wrap=True
        )
    if conflicts:
        make_console(stderr=True).print(
            "The target's results stay; one machine computes something else than the other, so find out which is right."
        )
    return bool(conflicts)


def fold_runs(folder: Path) -> None:
    """Fold the job files of a run folder into few segments.

    Raises:
        StoreError: it is no run folder, a segment is damaged, or the folder cannot be written.
    """
    store, console = open_run_folder(folder), make_console()
    for suite in store.suites():
        n_files = len(store.suite_folder(suite).job_files())
        n_segments = store.compact(suite)
        n_left = len(store.suite_folder(suite).job_files())
        console.print(f"{shown(suite)}: {n_files - n_left} job files folded, {n_segments} segments")
        if n_left:
            console.print(f"{shown(suite)}: {n_left} files cannot be used and stay; see `pruneboard runs list`.")


def migrate_runs(folder: Path) -> None:
    """Write the files of older versions in a run folder again at the present one.

    Raises:
        StoreError: it is no run folder, a file is damaged, or the folder cannot be written.
    """
    store, console = open_run_folder(folder), make_console()
    for suite in store.suites():
        n_files = migrate_files(store.suite_folder(suite))
        console.print(f"{shown(suite)}: {n_files} files written at schema version {SCHEMA_VERSION}")


def open_run_folder(folder: Path, what: str = "`--out`") -> RunStore:
    """Return the store of a run folder.

    Raises:
        StoreError: it is none.
    """
    store = RunStore(folder)
    if not folder.is_dir():
        why = "is a file" if folder.exists() else "does not exist"
    elif not (folder / MARKER).is_file() and not store.suites():
        why = f"has neither `{MARKER}` nor files of jobs"
    else:
        return store
    raise StoreError(f"{what} must be a run folder, but `{shown(folder)}` {why}; name one that `pruneboard run` made.")


def _suite_in(store: RunStore, suite: str) -> str:
    name = Path(suite).stem if suite.endswith(".toml") else suite
    if name not in store.suites():
        raise unknown_name(f"suite in run folder `{shown(store.folder)}`:", name, store.suites())
    return name


def _suite_file(name: str, given: str | None) -> Suite | None:
    if given is not None and given.endswith(".toml"):
        return load_suite(Path(given))
    return load_suite(suite_path(name)) if name in suite_names() else None


def _cell(job: Mapping[Hashable, Any]) -> str:
    return ".".join(str(job[name]) for name in ("model", "granularity", "criterion", "seed"))


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
