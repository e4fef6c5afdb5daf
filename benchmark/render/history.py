"""When results were measured: the changelog that the rows themselves keep."""

import dataclasses

import pandas as pd


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What was measured of one suite on one day with one state of the code.

    Attributes:
        day: UTC, as `2026-05-01`.
        suite: suite.
        suite_version: its version then.
        criteria: displayed names.
        networks: networks.
        n_jobs: jobs.
        n_failed: jobs of these without a result.
        commit: commit of the code, empty when unknown.
        clean: whether the code was that commit.
        devices: where.
        stale: whether all of it is out of date.
    """

    day: str
    suite: str
    suite_version: int
    criteria: tuple[str, ...]
    networks: tuple[str, ...]
    n_jobs: int
    n_failed: int
    commit: str
    clean: bool
    devices: tuple[str, ...]
    stale: bool


def view_history(rows: pd.DataFrame) -> tuple[Change, ...]:
    """Return what was measured when, latest first.

    Args:
        rows: a table with the columns of `schema.Row`, displayed names and a column `stale`.
    """
    jobs = rows.drop_duplicates("key")
    jobs = jobs.assign(day=jobs["time_utc"].astype(str).str[:10], commit=jobs["commit"].fillna("").astype(str))
    keys = ["day", "suite", "suite_version", "commit", "clean", "stale"]
    changes = [
        Change(
            day=str(day),
            suite=str(suite),
            suite_version=int(version),
            criteria=_distinct(part, "criterion"),
            networks=_distinct(part, "model"),
            n_jobs=len(part),
            n_failed=int((part["status"] != "ok").sum()),
            commit=str(commit),
            clean=bool(clean),
            devices=_distinct(part, "device"),
            stale=bool(stale),
        )
        for (day, suite, version, commit, clean, stale), part in jobs.groupby(keys, sort=True)
    ]
    return tuple(sorted(changes, key=lambda change: change.day, reverse=True))


def _distinct(jobs: pd.DataFrame, column: str) -> tuple[str, ...]:
    return tuple(sorted(map(str, jobs[column].unique())))
