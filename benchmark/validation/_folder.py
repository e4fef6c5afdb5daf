"""Validating a results folder, suite by suite."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.cards import SUFFIX, Card, CardStore
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import TUNED_SUFFIX, Suite
from pruneboard.benchmark.store import ResultsStore, concatenate, in_grid
from pruneboard.benchmark.suites import load_suite, suite_names, suite_path
from pruneboard.benchmark.validation._cards import card_faults
from pruneboard.benchmark.validation._derived import speed_faults, study_faults
from pruneboard.benchmark.validation._files import file_faults, line_faults
from pruneboard.benchmark.validation._findings import Report
from pruneboard.benchmark.validation._plain import plain_faults
from pruneboard.benchmark.validation._rows import grid_faults, missing_cells, row_faults
from pruneboard.benchmark.validation._sources import (
    Declared,
    criteria_at,
    package_faults,
    present_criteria,
    schema_version_at,
    split_commits,
)
from pruneboard.benchmark.validation._together import together_faults

_BUILTIN = "builtin"
_LAYERS_SINCE = 5
"""Version of the schema from which rows say their layers."""


def validate_folder(folder: Path) -> Report:
    """Validate all suites of a results folder, in which nothing else may lie.

    Nothing of a plugin is imported or run: whatever criteria declare is read as text.

    Raises:
        StoreError: there is no such folder, or it holds no results.
    """
    report = Report()
    known = suite_names()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name in known and (path.is_dir() or path.is_symlink()):
            validate_suite(folder, load_suite(suite_path(path.name)), report)
        else:
            report.error(
                path, f"a results folder must hold folders named like suites, one of {', '.join(known)}; remove this."
            )
    if not report.n_jobs:
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
    for path, message in package_faults():
        if all(finding.path != path for finding in report.findings):
            report.error(path, message)
    if unreadable := list(file_faults(own, suite)):
        for path, message in unreadable:
            report.error(path, message)
        return
    tables: dict[str, pd.DataFrame] = {}
    for criterion in store.criteria(suite.name):
        if broken := list(line_faults(own, criterion, suite)):
            for path, message in broken:
                report.error(path, message)
            continue
        try:
            tables[criterion] = store.read_criterion(suite.name, criterion)
        except StoreError as error:
            report.error(own / f"{criterion}.jobs.csv", str(error))
    _check_files(own, tables, report)
    report.n_jobs[suite.name] = sum(rows["key"].nunique() for rows in tables.values())
    report.n_rows[suite.name] = sum(map(len, tables.values()))
    for criterion, rows in tables.items():
        _check_criterion(own / f"{criterion}.jobs.csv", criterion, rows, suite, report)
    _check_networks(own, tables, suite, report)
    for criterion, message in together_faults(tables):
        report.error(own / f"{criterion}.jobs.csv", message)
    cards = _check_cards(folder, tables, suite, report)
    _check_sources(own, tables, cards, report)
    # What is derived from broken rows says nothing more.
    whole = concatenate(tables.values())
    whole = whole[in_grid(whole, suite)] if len(whole) else whole
    if not report.errors and len(whole):
        _check_derived(folder, whole, suite, report)


def _check_derived(folder: Path, rows: pd.DataFrame, suite: Suite, report: Report) -> None:
    for path, message in (
        *study_faults(folder, rows, suite),
        *speed_faults(folder, suite),
    ):
        report.error(path, message)


def _check_files(own: Path, tables: Mapping[str, pd.DataFrame], report: Report) -> None:
    for path in sorted(own.glob("*.csv")):
        partner = path.with_suffix(".jobs.csv")
        if not path.name.endswith((".jobs.csv", "speed.csv")) and not partner.exists():
            report.error(path, f"a table of points must have its table of jobs, but there is no `{partner.name}`.")
    for path in sorted(own.glob(f"*{SUFFIX}")):
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


def _check_cards(
    folder: Path, tables: Mapping[str, pd.DataFrame], suite: Suite, report: Report
) -> Mapping[str, Card | None]:
    """Check the card of each criterion, and return them; None where there is none or it is damaged."""
    store = CardStore(folder)
    cards: dict[str, Card | None] = dict.fromkeys(tables)
    for criterion, rows in tables.items():
        path = store.path(suite.name, criterion)
        if path.exists():
            try:
                cards[criterion] = card = store.read_one(suite.name, criterion)
            except StoreError as error:
                report.error(path, str(error))
            else:
                for message in card_faults(card, rows, suite, store):
                    report.error(path, message)
        elif criterion not in suite.criteria and (rows["tuning"] == "").all():
            report.error(
                path,
                f"a criterion that suite `{suite.name}` does not list must have a submission card; write it with "
                f"`pruneboard submit {criterion}`.",
            )
    return cards


def _check_sources(
    own: Path, tables: Mapping[str, pd.DataFrame], cards: Mapping[str, Card | None], report: Report
) -> None:
    """Hold what rows say of a criterion of this project against its source, at their commits and now."""
    held, missing = split_commits({commit for rows in tables.values() for commit in set(rows["commit"].astype(str))})
    for criterion, rows in tables.items():
        path, card = own / f"{criterion}.jobs.csv", cards[criterion]
        for commit in sorted(missing.intersection(rows["commit"].astype(str))):
            report.warn(
                path,
                f"rows must name a commit that others can get, but {commit[:12]} is not in this checkout; merge it "
                "without squashing, or measure the jobs again.",
            )
            break
        unsaid = rows.loc[(rows["status"] == "ok") & (rows["layers"] == ""), "commit"].astype(str).unique()
        if later := [c for c in unsaid if c in missing or (c in held and schema_version_at(c) >= _LAYERS_SINCE)]:
            report.error(
                path,
                f"a job of status ok must say its layers, but `layers` is empty in rows of {later[0][:12]}, which "
                "writes them; measure the jobs again.",
            )
        base, present = criterion.removesuffix(TUNED_SUFFIX), present_criteria()
        is_own = base in present or (card is None and bool(held))
        if card is not None and (card.code == _BUILTIN) != (base in present):
            report.error(
                path,
                f"`code` of a card must be `{_BUILTIN}` if and only if the project has the criterion, got "
                f"`{card.code}` for `{base}`; correct the card, or rename the criterion.",
            )
        elif is_own:
            for message in dict.fromkeys(_source_faults(rows, base, held)):
                report.error(path, message)
            digest = present[base].digest if base in present else ""
            if set(rows["criterion_digest"].astype(str)) != {digest}:
                report.warn(
                    path,
                    f"version {rows.iloc[0]['criterion_version']} of the criterion was measured with another source "
                    "than the present one; `--rerun` tells whether the numbers still hold.",
                )


def _source_faults(rows: pd.DataFrame, base: str, held: frozenset[str]) -> Iterator[str]:
    """Yield what rows say otherwise than the source at their commit, or, where that is not held, than the present."""
    columns = [f"criterion_{name}" for name in ("version", "family", "needs", "source", "digest")]
    said = rows[["commit", *columns]].astype(str).drop_duplicates()
    for commit, *values in said.itertuples(index=False, name=None):
        then = criteria_at(commit) if commit in held else present_criteria()
        if base not in then:
            if commit in held:
                yield f"rows must be of a criterion of their commit, but {commit[:12]} has no `{base}`; measure again."
            continue
        found: Declared = then[base]
        declared = (found.version, found.family, found.needs, found.source, found.digest)
        for column, value, right in zip(columns, values, map(str, declared), strict=True):
            # Without its commit, rows of another source may be those of an older one.
            if value != right and (
                commit in held or (column != "criterion_digest" and values[0] == str(found.version))
            ):
                yield (
                    f"`{column}` must be what `{base}` declares at commit {commit[:12]}, {right}, got {value}; measure "
                    "the jobs again."
                )
