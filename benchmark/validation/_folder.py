"""Validating a results folder, suite by suite."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.cards import SUFFIX, Card, CardStore
from pruneboard.benchmark.discovery import own_digest
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.registry import name_fault
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.speeds import SpeedStore
from pruneboard.benchmark.store import ResultsStore, concatenate, in_grid
from pruneboard.benchmark.suites import load_suite, suite_names, suite_path
from pruneboard.benchmark.validation._cards import card_faults
from pruneboard.benchmark.validation._commits import unknown_commits
from pruneboard.benchmark.validation._derived import derived_faults, speed_faults, study_faults
from pruneboard.benchmark.validation._files import file_faults
from pruneboard.benchmark.validation._findings import Report
from pruneboard.benchmark.validation._plain import plain_faults
from pruneboard.benchmark.validation._rows import grid_faults, missing_cells, row_faults
from pruneboard.benchmark.validation._together import together_faults

_OTHER_TABLES = (".jobs.csv", ".published.csv", ".ranks.csv")


def validate_folder(folder: Path) -> Report:
    """Validate all suites of a results folder.

    Folders without tables of jobs, such as measurements of speed, are noted and left alone.

    Raises:
        StoreError: there is no such folder, or it holds no results.
    """
    report = Report()
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for name in names:
        store = ResultsStore(folder)
        if not store.criteria(name) and not any((folder / name).glob(f"[!.]*{SUFFIX}")):
            report.notes.append(f"`{folder / name}` holds no tables of jobs and is left alone.")
        elif name not in suite_names():
            known = ", ".join(suite_names())
            report.error(folder / name, f"the folder must be named like a suite, one of {known}; rename or remove it.")
        else:
            validate_suite(folder, load_suite(suite_path(name)), report)
    if not report.n_jobs and not report.findings:
        raise StoreError(
            f"validation needs results, but `{folder}` has no folder of a suite with tables; name a results folder, "
            "the folder of a suite in it, or one of its files."
        )
    return report


def validate_suite(folder: Path, suite: Suite, report: Report) -> None:
    """Validate the results of one suite.

    Args:
        folder: results folder.
        suite: the suite as it is now.
        report: what is found is added to it.
    """
    store, own = ResultsStore(folder), folder / suite.name
    report.n_jobs[suite.name] = report.n_rows[suite.name] = 0
    if unreadable := list(file_faults(own)):
        for path, message in unreadable:
            report.error(path, message)
        return
    tables: dict[str, pd.DataFrame] = {}
    for criterion in store.criteria(suite.name):
        path = own / f"{criterion}.jobs.csv"
        if (fault := name_fault("criterion", criterion)) is not None:
            report.error(path, fault)
            continue
        try:
            tables[criterion] = store.read_criterion(suite.name, criterion)
        except StoreError as error:
            report.error(path, str(error))
    _check_files(own, tables, report)
    report.n_jobs[suite.name] = sum(rows["key"].nunique() for rows in tables.values())
    report.n_rows[suite.name] = sum(map(len, tables.values()))
    for criterion, rows in tables.items():
        _check_criterion(own / f"{criterion}.jobs.csv", criterion, rows, suite, report)
    _check_networks(own, tables, suite, report)
    for criterion, commit in unknown_commits(tables).items():
        report.warn(
            own_table(folder, suite.name, criterion),
            f"rows must name a commit that others can get, but {commit[:12]} is not in this checkout; merge it without "
            "squashing, or measure the jobs again.",
        )
    for criterion, message in together_faults(tables):
        report.error(own / f"{criterion}.jobs.csv", message)
    _check_cards(folder, tables, suite, report)
    # What is derived from broken rows says nothing more.
    whole = concatenate(tables.values())
    whole = whole[in_grid(whole, suite)] if len(whole) else whole
    if not report.errors and len(whole):
        _check_derived(folder, whole, suite, report)


def _check_derived(folder: Path, rows: pd.DataFrame, suite: Suite, report: Report) -> None:
    for path, message in (
        *derived_faults(folder, rows, suite),
        *study_faults(folder, rows, suite),
        *speed_faults(folder, suite),
    ):
        report.error(path, message)


def _check_files(own: Path, tables: Mapping[str, pd.DataFrame], report: Report) -> None:
    for path in sorted(own.glob("[!.]*.csv")):
        if not path.name.endswith(_OTHER_TABLES) and path != SpeedStore(own.parent).path(own.name):
            partner = path.with_suffix(".jobs.csv")
            if not partner.exists():
                report.error(path, f"a table of points must have its table of jobs, but there is no `{partner.name}`.")
    for path in sorted(own.glob(f"[!.]*{SUFFIX}")):
        if path.name.removesuffix(SUFFIX) not in tables:
            report.error(path, "a submission card must have its tables beside it, but they are missing or damaged.")


def _check_criterion(path: Path, criterion: str, rows: pd.DataFrame, suite: Suite, report: Report) -> None:
    names = set(rows["criterion"].astype(str)) | set(rows["suite"].astype(str))
    if names != {criterion, suite.name}:
        report.error(path, f"a table must hold rows of `{suite.name}` and `{criterion}` only, got {sorted(names)}.")
        return
    for message in (*plain_faults(rows), *row_faults(rows, suite), *grid_faults(rows, suite)):
        report.error(path, message)
    failed = rows.loc[rows["status"] == "failed"].drop_duplicates("key")
    if len(failed):
        line = failed.iloc[0]
        report.warn(path, f"{len(failed)} jobs failed, the first one so: {line['reason']}")


def _check_networks(own: Path, tables: Mapping[str, pd.DataFrame], suite: Suite, report: Report) -> None:
    """A criterion must be measured on every network that others are, whether or not it does well there."""
    untuned = {criterion: rows for criterion, rows in tables.items() if (rows["tuning"] == "").all()}
    missing = {criterion: missing_cells(rows, suite) for criterion, rows in untuned.items()}
    for cell in [(model.name, granularity) for model in suite.models for granularity in model.granularities]:
        without = [criterion for criterion, cells in missing.items() if cell in cells]
        if len(without) == len(untuned):
            report.notes.append(f"suite `{suite.name}`: {' / '.join(cell)} is not measured by any criterion.")
            continue
        for criterion in without:
            report.error(
                own / f"{criterion}.jobs.csv",
                f"a criterion must be measured on all networks that others are, but `{criterion}` lacks "
                f"{' / '.join(cell)}; a criterion that cannot handle it declines with a reason. Run the rest.",
            )


def _check_cards(folder: Path, tables: Mapping[str, pd.DataFrame], suite: Suite, report: Report) -> None:
    store = CardStore(folder)
    cards: dict[str, Card] = {}
    for criterion, rows in tables.items():
        path = store.path(suite.name, criterion)
        if path.exists():
            try:
                cards[criterion] = store.read_one(suite.name, criterion)
            except StoreError as error:
                report.error(path, str(error))
            else:
                for message in card_faults(cards[criterion], rows, suite, store):
                    report.error(path, message)
        elif criterion not in suite.criteria and (rows["tuning"] == "").all():
            report.error(
                path,
                f"a criterion that suite `{suite.name}` does not list must have a submission card; write it with "
                f"`pruneboard submit {criterion}`.",
            )
    sources = _present_sources()
    for criterion, rows in tables.items():
        card = cards.get(criterion)
        if (card is None or card.code == "builtin") and not set(rows["criterion_digest"].astype(str)) <= sources:
            report.warn(
                own_table(folder, suite.name, criterion),
                f"version {rows.iloc[0]['criterion_version']} of the criterion was measured with another source "
                "than the present one; `--rerun` tells whether the numbers still hold.",
            )


def own_table(folder: Path, suite: str, criterion: str) -> Path:
    """Return the file of a criterion's jobs."""
    return folder / suite / f"{criterion}.jobs.csv"


def _present_sources() -> set[str]:
    """Return the source digests of the criteria of this project, without importing any of them."""
    folders = importlib.import_module("pruneboard.criteria").__path__
    return set(_digests(path for folder in map(Path, folders) if folder.is_dir() for path in folder.iterdir()))


def _digests(paths: Iterable[Path]) -> Iterable[str]:
    for path in paths:
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield own_digest(path)
