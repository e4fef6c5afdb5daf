"""Rows of a suite from the published tables and from a run folder, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.schema import HERE_SUFFIX, Suite
from pruneboard.benchmark.store import ResultsStore, RunStore, concatenate, in_grid

_CELL = ["model", "granularity", "criterion", "seed"]
_NETWORK = ["model", "granularity"]
_SAME_CRITERION = ("criterion_digest", "parameters", "tuning")


@dataclass(frozen=True)
class Sourced:
    """Rows with where they come from.

    Attributes:
        rows: rows of the suite as it is now; their column `origin` is `published` or `here`.
        stale: rows of another version of the suite, or of models, criteria or seeds that it no longer has.
        source: a sentence on where the rows come from.
        notes: what a reader has to be told of rows that are left out.
    """

    rows: pd.DataFrame
    stale: pd.DataFrame
    source: str
    notes: tuple[str, ...]


def read_sources(suite: Suite, runs: Path | None, results: Path | None) -> Sourced:
    """Read a suite's rows from a run folder and the published tables, either of which may be None.

    A job of the run folder takes the place of the same published job, of which it is a repetition. Where both have a
    cell with different jobs, because code, parameters or data differ, the criterion gets a second line: `taylor (here)`
    beside `taylor`. Published rows of other data or weights than those here cannot stand beside them and are left out,
    and so are networks that were measured here only, because every published criterion would lack them.

    Raises:
        PruneboardError: a file is damaged.
    """
    here, left_here = _of_grid(None if runs is None else RunStore(runs).read(suite.name), suite)
    published, left = _of_grid(None if results is None else ResultsStore(results).read(suite.name), suite)
    stale = concatenate([left, left_here])
    notes = [f"{n} jobs of another version of suite `{suite.name}` are out of date."] if (n := _n_jobs(stale)) else []
    if here.empty or published.empty:
        rows = published if here.empty else here
        return Sourced(
            _marked(rows, here), stale, "published in results/" if here.empty else "measured here", tuple(notes)
        )
    published, other = _on_same_data(published, here)
    if other:
        notes.append(f"published rows of {', '.join(other)} are left out: they were measured on other data or weights.")
    if not published.empty:
        here, alone = _on_same_networks(here, published)
        if alone:
            notes.append(f"{', '.join(alone)} was measured here only and is left out; `--local` shows it.")
    published, here = _side_by_side(published, here)
    rows = concatenate([published, here])
    source = "published in results/" if here.empty else "measured here"
    if not here.empty and not published.empty:
        source = f"{_n_jobs(published)} of them published in results/, {_n_jobs(here)} measured here"
    return Sourced(_marked(rows, here), stale, source, tuple(notes))


def _marked(rows: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(origin=rows["key"].isin(here["key"]).map({True: "here", False: "published"}))


def _of_grid(rows: pd.DataFrame | None, suite: Suite) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that belong to the suite as it is now, and the others."""
    if rows is None:
        rows = concatenate([])
    current = in_grid(rows, suite)
    return rows[current].reset_index(drop=True), rows[~current].reset_index(drop=True)


def _n_jobs(rows: pd.DataFrame) -> int:
    return int(rows["key"].nunique())


def _on_same_data(published: pd.DataFrame, here: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leave out published rows of data sets and networks that have other digests here; return their networks too."""
    differs = pd.Series(False, index=published.index)
    for name, digest in (("dataset", "data_digest"), ("model", "data_digest"), ("model", "weights_digest")):
        known: Mapping[str, set[str]] = here.groupby(name)[digest].agg(set).to_dict()
        pairs = zip(published[name], published[digest], strict=True)
        differs |= pd.Series([value not in known.get(key, {value}) for key, value in pairs], index=published.index)
    return published[~differs], sorted(map(str, published.loc[differs, "model"].unique()))


def _on_same_networks(here: pd.DataFrame, published: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    known = set(published[_NETWORK].itertuples(index=False, name=None))
    shared = pd.Series([cell in known for cell in here[_NETWORK].itertuples(index=False, name=None)], index=here.index)
    return here[shared], sorted(map(str, here.loc[~shared, "model"].unique()))


def _side_by_side(published: pd.DataFrame, here: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop published jobs that were repeated here, and rename criteria that were measured differently here."""
    published = published[~published["key"].isin(here["key"])]
    cells = set(published[_CELL].itertuples(index=False, name=None))
    twice = [cell in cells for cell in here[_CELL].itertuples(index=False, name=None)]
    renamed = set(here.loc[twice, "criterion"])
    for criterion, part in here.groupby("criterion"):
        before = published.loc[published["criterion"] == criterion]
        for column in _SAME_CRITERION:
            # A tuned criterion has parameters of its own on each network.
            keys = ["criterion"] if column == "criterion_digest" else _NETWORK
            both = part[[*keys, column]].merge(before[[*keys, column]], on=keys, suffixes=("", "_before"))
            if (both[column].fillna("") != both[f"{column}_before"].fillna("")).any():
                renamed.add(criterion)
    named = here["criterion"].where(~here["criterion"].isin(renamed), here["criterion"] + HERE_SUFFIX)
    return published, here.assign(criterion=named)
