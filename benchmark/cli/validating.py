"""The command that validates published results."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from pruneboard.benchmark.cards import SUFFIX
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.errors import PruneboardError, StoreError
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.store import ResultsStore, RunStore, concatenate
from pruneboard.benchmark.suites import load_suite, suite_names, suite_path
from pruneboard.benchmark.validation import (
    Finding,
    Report,
    drift,
    drift_fault,
    job_of,
    rerun_faults,
    same_source,
    sample,
    validate_folder,
    validate_suite,
)

_EMBEDDED = ("sklearn", "points")
"""Kinds of data sets of which nothing is fetched or looked for."""


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Choices of `pruneboard validate`, as its options name them.

    Attributes:
        path: results folder, the folder of a suite in it, or one file of that.
        rerun: number of jobs to run again.
        seed: seed of their choice.
        device: what they run on.
        workers: worker processes; None for one per core.
        embedded: run only jobs again whose data and weights come with the code.
        report: file to write everything that was found to, as JSON; None for none.
    """

    path: Path
    rerun: int = 0
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    embedded: bool = False
    report: Path | None = None


@dataclass(frozen=True)
class _Target:
    """What a path names: a results folder, and perhaps one suite and one criterion of it."""

    folder: Path
    suite: str | None
    criterion: str | None


def validate(options: ValidationOptions) -> bool:
    """Validate results, print what was found, and return whether they are valid.

    Raises:
        PruneboardError: there are no results at the path, or they cannot be run again.
    """
    console, target = make_console(), _target(options.path)
    report = Report()
    if target.suite is None:
        report = validate_folder(target.folder)
    else:
        validate_suite(target.folder, load_suite(suite_path(target.suite)), report)
    shown = [finding for finding in report.findings if _is_about(finding, target)]
    if options.rerun and any(finding.level == "error" for finding in shown):
        console.print("No job is run again, because what is published is broken already.")
    elif options.rerun:
        shown += _rerun(target, options, console)
    _print(report, shown, console)
    if options.report is not None:
        _write(options.report, report, shown)
    return not any(finding.level == "error" for finding in shown)


def _target(path: Path) -> _Target:
    if path.is_dir():
        if path.resolve().name in suite_names() and _is_suite_folder(path):
            return _Target(path.resolve().parent, path.resolve().name, None)
        return _Target(path, None, None)
    for suffix in (".jobs.csv", SUFFIX, ".csv"):
        if path.is_file() and path.name.endswith(suffix) and path.resolve().parent.name in suite_names():
            folder = path.resolve().parent.parent
            return _Target(folder, path.resolve().parent.name, path.name.removesuffix(suffix))
    raise StoreError(
        f"validation needs a results folder, the folder of a suite in it, or a table or card in that, but `{path}` is "
        "none; correct the path."
    )


def _is_suite_folder(path: Path) -> bool:
    return any(path.glob("*.jobs.csv")) or any(path.glob(f"*{SUFFIX}"))


def _suites(target: _Target) -> list[Suite]:
    names = [target.suite] if target.suite else [n for n in suite_names() if ResultsStore(target.folder).criteria(n)]
    return [load_suite(suite_path(name)) for name in names]


def _is_about(finding: Finding, target: _Target) -> bool:
    """Whether a finding is about what was asked for, a folder or one criterion of it."""
    return target.criterion is None or finding.path.name.partition(".")[0] in (target.criterion, "__init__")


def _rerun(target: _Target, options: ValidationOptions, console: Console) -> list[Finding]:
    """Run a random sample of jobs again, and return how they differ from what was published."""
    from pruneboard.benchmark import plugins
    from pruneboard.benchmark.cli.running import RunOptions, run_jobs
    from pruneboard.benchmark.data import datasets

    store = ResultsStore(target.folder)
    suites = {suite.name: suite for suite in _suites(target)}
    rows = concatenate(
        store.read_criterion(name, criterion)
        for name in suites
        for criterion in store.criteria(name)
        if target.criterion in (None, criterion)
    )
    known = {*plugins.criteria().names()}
    bases = rows["criterion"].str.removesuffix("_tuned").where(rows["tuning"] != "", rows["criterion"])
    absent = sorted(set(bases) - known)
    if absent:
        console.print(f"not run again, as they are not installed here: {', '.join(absent)}")
    rows = rows[bases.isin(known)]
    if options.embedded:
        elsewhere = ~rows["dataset"].astype(str).isin([d.name for d in datasets() if d.kind in _EMBEDDED])
        if elsewhere.any():
            names = sorted(set(rows.loc[elsewhere, "dataset"].astype(str)))
            console.print(f"not run again, as their data do not come with the code: jobs on {', '.join(names)}")
        rows = rows[~elsewhere]
        if rows.empty:
            return []
    keys = sample(rows, options.rerun, options.seed)
    if not keys:
        raise PruneboardError("`--rerun` needs jobs whose criterion is known here; install it, or name its file.")
    chosen = {key: rows[rows["key"] == key] for key in keys}
    faults: list[Finding] = []
    pairs: list[tuple[pd.Series, pd.Series]] = []
    drifts: dict[Path, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="pruneboard-") as folder:
        for suite in suites.values():
            published = [part for part in chosen.values() if part.iloc[0]["suite"] == suite.name]
            for threads in sorted({int(part.iloc[0]["threads"]) for part in published}):
                jobs = [job_of(part.iloc[0], suite) for part in published if part.iloc[0]["threads"] == threads]
                run = RunOptions(
                    device=options.device,
                    n_workers=options.workers,
                    out=Path(folder),
                    fresh=False,
                    # What a row says must not have this machine start more threads than it has cores.
                    n_threads=None if options.workers == 0 or threads > (os.cpu_count() or 1) else threads,
                )
                if run_jobs(suite.name, jobs, run, announce=False).interrupted:
                    raise PruneboardError("the jobs that are run again must come to their end, but they were stopped.")
            measured = RunStore(Path(folder)).read(suite.name) if published else rows.iloc[:0]
            for part in published:
                now = _of_cell(measured, part.iloc[0])
                path = target.folder / suite.name / f"{part.iloc[0]['criterion']}.jobs.csv"
                faults += [Finding("error", path, message) for message in rerun_faults(part, now)]
                pairs.append((part.iloc[0], now.iloc[0]))
                if (off := drift(part, now)) is not None:
                    drifts.setdefault(path, []).append(off)
    same = same_source([old for old, _ in pairs], [new for _, new in pairs])
    console.print(
        f"{len(pairs)} jobs run again (seed {options.seed}), {same} of them with the very key that was published; "
        f"{len(pairs) - len({finding.message for finding in faults})} agree."
    )
    # Each table by itself, and all together: a lie may be in one, or spread thinly.
    together = {target.folder: [off for offs in drifts.values() for off in offs]} if len(drifts) > 1 else {}
    for path, offs in {**drifts, **together}.items():
        if (message := drift_fault(offs)) is not None:
            faults.append(Finding("error", path, message))
    return faults


def _of_cell(rows: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    for name in ("criterion", "model", "granularity", "seed"):
        rows = rows.loc[rows[name] == row[name]]
    return rows


def _print(report: Report, shown: Sequence[Finding], console: Console) -> None:
    for finding in shown:
        console.print(f"{finding.level}: {finding.path}: {finding.message}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    for suite, n_jobs in report.n_jobs.items():
        console.print(f"{suite}: {n_jobs} jobs, {report.n_rows[suite]} rows.")
    n_errors = sum(finding.level == "error" for finding in shown)
    verdict = f"Invalid: {n_errors} errors" if n_errors else "Valid"
    console.print(f"{verdict}, {len(shown) - n_errors} warnings.")


def _write(path: Path, report: Report, shown: Sequence[Finding]) -> None:
    content = {
        "valid": not any(finding.level == "error" for finding in shown),
        "findings": [{"level": f.level, "path": str(f.path), "message": f.message} for f in shown],
        "notes": report.notes,
        "jobs": report.n_jobs,
        "rows": report.n_rows,
    }
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"`--report` must be a file that can be written, but `{path}` cannot: {error.strerror}."
        ) from error
