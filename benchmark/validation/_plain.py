"""Rules that the texts, times and provenance of rows keep, whoever reads them: a browser, a spreadsheet, a terminal."""

import datetime
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pruneboard.benchmark.schema import COLUMNS

LONGEST = 1000
"""Longest text but for lists, in characters; reasons are cut at half of it."""

_LISTS = ("layers", "units_left", "parameters", "finetuning", "task")
_LONGEST_LIST = 1_000_000
_MOST_THREADS = 1024
_MOST_MARKS = 3
_SELECTOR = "VARIATION SELECTOR"
_BLANK = "\u034f\u115f\u1160\u2800\u3164\uffa0"
"""Characters that count as letters or symbols and show nothing."""
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+", re.IGNORECASE)
_RESERVED = re.compile(r"(.*\.)?(example|invalid|test|localhost|example\.(com|net|org))", re.IGNORECASE)
_CLOCK = datetime.timedelta(hours=1)
"""How far a clock may be ahead."""
_COSTS = ("score_seconds", "score_peak_bytes", "job_seconds")


def text_fault(text: str, longest: int = LONGEST) -> str | None:
    """Return what is wrong with a text that anyone may open anywhere; None when nothing is."""
    if len(text) > longest:
        return f"it has {len(text)} characters, more than {longest}"
    odd = next((c for c in text if not c.isprintable() or c in _BLANK or _SELECTOR in unicodedata.name(c, "")), None)
    if odd is not None:
        return f"it holds {odd!a}, which cannot be printed"
    if text != text.strip():
        return "it begins or ends with a blank"
    # Spreadsheets and people take the full-width forms for the same characters.
    shown = unicodedata.normalize("NFKC", text).lstrip()
    if shown.startswith(("=", "+", "-", "@")):
        return f"it begins with `{text[0]}`, which spreadsheets take for a formula"
    marks = "".join("m" if unicodedata.category(c).startswith("M") else "." for c in f".{text}")
    if _MOST_MARKS * "m" + "m" in marks or marks.startswith(".m"):
        return "it piles up combining marks, which cover other text"
    return None


def plain_faults(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with the texts and the costs of rows, each kind of fault once.

    Args:
        rows: a table with the columns of `schema.Row`.
    """
    jobs = rows.drop_duplicates("key")
    for column, level in ((column.name, column.level) for column in COLUMNS if column.kind is str):
        longest = _LONGEST_LIST if column in _LISTS else LONGEST
        for text in (jobs if level == "job" else rows)[column].astype(str).unique():
            if (fault := text_fault(text, longest)) is not None:
                yield f"texts of a table must be plain, but {fault}: `{column}` is {text[:80]!r}; measure it again."
                break
    for column in _COSTS:
        values = jobs[column].astype("float64")
        wrong = values[values.notna() & ~(np.isfinite(values) & (values >= 0))]
        if len(wrong):
            yield f"`{column}` must be finite and not below 0, got {wrong.iloc[0]:g}; measure the job again."
    wrong_threads = jobs.loc[~jobs["threads"].between(1, _MOST_THREADS).fillna(False), "threads"]
    if len(wrong_threads):
        yield f"`threads` must be from 1 to {_MOST_THREADS}, got {wrong_threads.iloc[0]}; measure the job again."
    for text in jobs["time_utc"].astype(str).unique():
        if (fault := time_fault(text)) is not None:
            yield f"`time_utc` {fault}"
            return
    late = jobs[jobs["score_seconds"].astype("float64") > jobs["job_seconds"].astype("float64")]
    if len(late):
        yield (
            f"`score_seconds` must be part of `job_seconds`, {late.iloc[0]['job_seconds']:g}, got "
            f"{late.iloc[0]['score_seconds']:g}; measure the job again."
        )


def time_fault(text: str) -> str | None:
    """Return what is wrong with the time of a measurement; None when nothing is."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.utcoffset() != datetime.timedelta(0):
        return f"must be a time of UTC such as 2026-01-31T12:00:00+00:00, got {text[:80]!r}."
    if time > datetime.datetime.now(datetime.UTC) + _CLOCK:
        return f"must not lie in the future, got {text}; set the clock and measure again."
    return None


def address_fault(text: str) -> str | None:
    """Return what is wrong with an address on the web, which pages link to; None when nothing is."""
    try:
        parts = urllib.parse.urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urllib.parse.SplitResult("", "", "", "", ""), ""
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or not text.isascii() or "\\" in text:
        return "must be an address that begins with https:// or http:// and names a host in plain ASCII"
    if any(c.isspace() for c in text):
        return "must be an address without blanks"
    if "@" in parts.netloc:
        return "must name its host alone, and nothing before an `@`, which is taken for the host"
    if _RESERVED.fullmatch(host):
        return f"must be where it can be had, and not the placeholder `{host}`"
    return None
