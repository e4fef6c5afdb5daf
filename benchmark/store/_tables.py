"""Tables of rows in memory: one type for each column, fixed order, and each cell once."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pruneboard.benchmark.schema import COLUMNS, Column, Suite
from pruneboard.benchmark.store._format import SCHEMA, STRINGS
from pruneboard.benchmark.store._reading import Indices, Stack

CELL = ["model", "granularity", "criterion", "seed"]
SORT = ["suite", "criterion", "model", "granularity", "seed", "shots", "rate"]
NAMES = [column.name for column in COLUMNS]

# What tables are grouped, joined and searched by. All other texts are provenance, which a million rows carry along.
_TEXT = {"key", "suite", "model", "model_family", "granularity", "criterion", "status", "reason", "tuning", "commit"}
_CATEGORIES = [name for name in STRINGS if name not in _TEXT]
# Types, because their names are looked up anew for every column of every file.
PANDAS = {
    kind: pd.api.types.pandas_dtype(name)
    for kind, name in {str: "str", int: "Int64", float: "float64", bool: "bool"}.items()
}


def typed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns of the schema, in their order and types.

    Texts by which tables are grouped are `str`; those of provenance are categories in alphabetical order.

    Raises:
        ValueError, TypeError: a value is of another type.
    """
    rows = with_categories(rows[NAMES])
    return rows.astype({c.name: PANDAS[c.kind] for c in COLUMNS if c.name not in _CATEGORIES})


def with_categories(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose texts of provenance, as far as they have them, are categories in alphabetical order."""
    return rows.assign(**{name: _categories(rows[name]) for name in _CATEGORIES if name in rows})


def concatenate(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return tables of rows as one; an empty one of all columns when there are none."""
    found = [table for table in tables if len(table)]
    if not found:
        return _no_rows().copy()
    if len(found) == 1:
        return found[0].reset_index(drop=True)
    found = [with_categories(table[NAMES]) for table in found]
    for name in _CATEGORIES:
        # Columns whose categories differ would become texts again.
        every = pd.Index(sorted(set().union(*(table[name].cat.categories for table in found))), dtype="str")
        found = [table.assign(**{name: table[name].cat.set_categories(every)}) for table in found]
    return typed(pd.concat(found, ignore_index=True))


@functools.cache
def _no_rows() -> pd.DataFrame:
    return typed(pd.DataFrame(columns=NAMES))


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows, and drop those that are there twice."""
    return rows.drop_duplicates(["key", "shots", "rate"]).sort_values(SORT, ignore_index=True)


def frame_of(stack: Stack) -> pd.DataFrame:
    """Return the latest version of each cell, sorted."""
    table, chosen = stack.table, _latest(stack)
    columns: dict[str, Any] = {}
    for column in COLUMNS:
        columns[column.name] = _take(column, table[column.name], chosen)
        table = table.drop_columns(column.name)
    return pd.DataFrame(columns, copy=False)


def _latest(stack: Stack) -> Indices:
    """Return the places of the rows that count, in the order of `SORT`.

    Of each cell the last job counts: in the newest file, and in a file the one whose rows come last.
    """
    if not len(stack.rows):
        return stack.rows
    codes = {name: _codes(stack.table[name])[stack.rows] for name in {"suite", "key", *CELL, *SORT}}
    cells = _groups([codes[name] for name in ("suite", *CELL)])
    jobs = _groups([cells, stack.file, codes["key"]])
    # A later file has greater places, so the last row of a cell belongs to its latest version.
    kept = np.flatnonzero(_last(cells)[cells] == _last(jobs)[jobs])
    return stack.rows[kept[np.lexsort([codes[name][kept] for name in reversed(SORT)])]]


def jobs_of(stack: Stack) -> pd.DataFrame:
    """Return one line per job and file, from the oldest file, whether or not it is the latest version of its cell.

    Returns:
        The columns that a job's rows share, `n_rows`, `file` (number of the file) and `latest`.
    """
    names = [column for column in COLUMNS if column.level == "job"]
    if not len(stack.rows):
        return pd.DataFrame(columns=[*(column.name for column in names), "n_rows", "file", "latest"])
    codes = {name: _codes(stack.table[name])[stack.rows] for name in ("suite", "key", *CELL)}
    cells = _groups([codes[name] for name in ("suite", *CELL)])
    jobs = _groups([stack.file, cells, codes["key"]])
    first = np.unique(jobs, return_index=True)[1]
    lines = pd.DataFrame({c.name: _take(c, stack.table[c.name], stack.rows[first]) for c in names}, copy=False)
    return lines.assign(
        n_rows=np.bincount(jobs), file=stack.file[first], latest=_last(cells)[cells[first]] == _last(jobs)[jobs[first]]
    )


def in_grid(rows: pd.DataFrame, suite: Suite) -> "pd.Series[bool]":
    """Tell which rows are of the present version of a suite, and of models, granularities and seeds that it has.

    Of which criterion they are does not matter: a suite lists what runs by default, and others are handed in.
    """
    listed = pd.Series(False, index=rows.index)
    for model in suite.models:
        listed |= (rows["model"] == model.name) & rows["granularity"].isin(model.granularities)
    return (rows["suite_digest"] == suite.digest) & rows["seed"].isin(suite.seeds) & listed


def arrow_of(rows: pd.DataFrame) -> pa.Table:
    """Return rows as they are written."""
    plain = rows[NAMES].astype(dict.fromkeys(STRINGS, "str"))
    return pa.Table.from_pandas(plain, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)


def distinct_jobs(stack: Stack, n_jobs: int) -> list[pa.Table]:
    """Return the latest rows of each key of each cell, from the oldest job, as tables of at most `n_jobs` jobs."""
    versions = _groups([_codes(stack.table[name])[stack.rows] for name in ("suite", *CELL, "key")])
    jobs = _groups([versions, stack.file])
    last_row = _last(jobs)[jobs]
    kept = np.flatnonzero(_last(versions)[versions] == last_row)
    kept = kept[np.lexsort([kept, last_row[kept]])]
    starts = np.flatnonzero(np.diff(last_row[kept], prepend=-1))[::n_jobs]
    return [stack.table.take(pa.array(stack.rows[part])) for part in np.split(kept, starts[1:])]


def _last(groups: Indices) -> Indices:
    """Return the last place of each group."""
    last = np.zeros(groups.max(initial=-1) + 1, dtype=np.intp)
    np.maximum.at(last, groups, np.arange(len(groups)))
    return last


def _groups(keys: Sequence[Indices]) -> Indices:
    """Return a number from 0 for each distinct combination of codes."""
    combined = keys[0]
    for codes in keys[1:]:
        combined = combined * (codes.max() + 1) + codes
        combined = np.unique(combined, return_inverse=True)[1]
    return combined


def _codes(column: pa.ChunkedArray) -> Indices:
    """Return numbers in the order of the values, the same for equal ones; empty values come last."""
    if pa.types.is_dictionary(column.type):
        return _sorted_dictionary(column)[0]
    values = column.to_numpy()
    return np.unique(values, return_inverse=True)[1].astype(np.intp)


def _sorted_dictionary(column: pa.ChunkedArray) -> tuple[Indices, pa.Array]:
    """Return the codes of a column of texts, and its distinct texts in alphabetical order."""
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    order = array.dictionary.to_numpy(zero_copy_only=False).argsort()
    ranks = np.empty(len(order), dtype=np.intp)
    ranks[order] = np.arange(len(order))
    return ranks[array.indices.to_numpy()], array.dictionary.take(pa.array(order))


def _take(column: Column, values: pa.ChunkedArray, rows: Indices) -> Any:
    if column.kind is str:
        codes, texts = _sorted_dictionary(values)
        codes = codes[rows]
        if column.name in _TEXT:
            return pd.Series(texts.take(pa.array(codes)).to_pandas(), dtype="str")
        used, codes = np.unique(codes, return_inverse=True)
        categories = pd.Index(texts.take(pa.array(used)).to_pandas(), dtype="str")
        return pd.Categorical.from_codes(codes, categories=categories)
    if column.kind is int:
        empty = values.is_null().to_numpy()
        return pd.arrays.IntegerArray(values.fill_null(0).to_numpy()[rows], empty[rows])
    return values.to_numpy()[rows]


def _categories(texts: "pd.Series[Any]") -> pd.Categorical:
    if isinstance(texts.dtype, pd.CategoricalDtype):
        used = pd.Categorical(texts).remove_unused_categories()
        return used.set_categories(used.categories.astype("str").sort_values())
    codes, found = pd.factorize(texts.astype("str"), sort=True)
    return pd.Categorical.from_codes(codes, categories=found)
