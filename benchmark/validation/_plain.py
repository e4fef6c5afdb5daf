"""Rules that the texts, times and provenance of rows keep, whoever reads them: a browser, a spreadsheet, a terminal."""

import datetime
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pruneboard.benchmark.schema import COLUMNS

LONGEST = 1000
"""Longest text but for lists, in characters; reasons are cut at half of it."""

_LISTS = ("layers", "units_left", "parameters", "finetuning", "task")
_LONGEST_LIST = 1_000_000
_MOST_THREADS = 1024
_COSTS = ("score_seconds", "score_peak_bytes", "job_seconds")


def text_fault(text: str, longest: int = LONGEST) -> str | None:
    """Return what is wrong with a text that anyone may open anywhere; None when nothing is."""
    if len(text) > longest:
        return f"it has {len(text)} characters, more than {longest}"
    if not text.isprintable():
        return f"it holds {next(c for c in text if not c.isprintable())!r}, which cannot be printed"
    if text.startswith(("=", "+", "-", "@")):
        return f"it begins with `{text[0]}`, which spreadsheets take for a formula"
    return None


def plain_faults(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with the texts and the costs of rows, each kind of fault once.

    Args:
        rows: a table with the columns of `schema.Row`.
    """
    for column in (column.name for column in COLUMNS if column.kind is str):
        longest = _LONGEST_LIST if column in _LISTS else LONGEST
        for text in rows[column].astype(str).unique():
            if (fault := text_fault(text, longest)) is not None:
                yield f"texts of a table must be plain, but {fault}: `{column}` is {text[:80]!r}; measure it again."
                break
    jobs = rows.drop_duplicates("key")
    for column in _COSTS:
        values = jobs[column].astype("float64")
        wrong = values[values.notna() & ~(np.isfinite(values) & (values >= 0))]
        if len(wrong):
            yield f"`{column}` must be finite and not below 0, got {wrong.iloc[0]:g}; measure the job again."
    wrong_threads = jobs.loc[~jobs["threads"].between(1, _MOST_THREADS).fillna(False), "threads"]
    if len(wrong_threads):
        yield f"`threads` must be from 1 to {_MOST_THREADS}, got {wrong_threads.iloc[0]}; measure the job again."
    for text in jobs["time_utc"].astype(str).unique():
        if not _is_utc(text):
            yield f"`time_utc` must be a time of UTC such as 2026-01-31T12:00:00+00:00, got {text[:80]!r}."
            return


def _is_utc(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).utcoffset() == datetime.timedelta(0)
    except ValueError:
        return False
