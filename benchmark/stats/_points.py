"""The measured points of a table, checked: each cell once, and nothing compared that was measured differently."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pruneboard.benchmark.errors import TableError

CURVE_KEYS = ("suite", "model", "granularity", "criterion", "seed", "shots")
"""What identifies one accuracy curve."""

CELL = ("model", "seed", "shots")
"""What identifies a curve among those of one criterion in one comparison."""

_SAME_WITHIN = (
    ("data_digest", ("suite", "dataset")),
    ("data_digest", ("suite", "model")),
    ("suite_digest", ("suite",)),
    ("weights_digest", ("suite", "model")),
    ("criterion_digest", ("suite", "criterion")),
    ("parameters", ("suite", "criterion", "tuned_for")),
    ("tuning", ("suite", "criterion", "tuned_for")),
)
_TUNED_FOR = "tuned_for"
_MARKS = dict.fromkeys(c for column, within in _SAME_WITHIN for c in (column, *within))
_COLUMNS = dict.fromkeys((*CURVE_KEYS, "rate", "top1", *_MARKS))
"""What the checks look at. Rows have four times as many columns, which would be copied over and over."""


def checked_points(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the measured points sorted by curve and rate, and the number of rates of each suite."""
    keys = list(CURVE_KEYS)
    points = rows.loc[rows["status"] == "ok", [name for name in _COLUMNS if name != _TUNED_FOR]]
    empty = points[[*keys, "rate", "top1"]].isna().any(axis=1) | ~points["top1"].between(0, 1)
    if empty.any():
        line = points.loc[empty].iloc[0]
        raise TableError(
            f"a row of status `ok` must name its cell and a `top1` in [0, 1], got {line['top1']} for {_cell(line)}; "
            "measure that job again."
        )
    points = points.assign(
        **{name: points[name].astype("int64") for name in ("seed", "shots")},
        **{name: points[name].astype("float64") for name in ("rate", "top1")},
    ).sort_values([*keys, "rate"], kind="stable", ignore_index=True)
    # A tuned criterion has parameters of its own on each network and granularity; an untuned one the same everywhere.
    tuned_for = points["model"].astype(str) + " / " + points["granularity"].astype(str)
    points = points.assign(tuned_for=tuned_for.where(points["tuning"].fillna("") != "", ""))
    repeated = points.duplicated([*keys, "rate"])
    if repeated.any():
        raise TableError(f"a cell must occur once, got {_cell(points.loc[repeated].iloc[0])} twice; remove one.")
    # What must be the same is so in most rows: what is left without repetitions is small.
    distinct = points[list(_MARKS)].drop_duplicates()
    for column, within in _SAME_WITHIN:
        n_values = distinct.groupby(list(within), sort=True)[column].nunique(dropna=False)
        if (n_values > 1).any():
            _raise_mixed(distinct, column, within)
    n_rates: dict[str, int] = {}
    for suite, part in points.groupby("suite", sort=True):
        n_rates[str(suite)] = _check_rates(part)
    return points, n_rates


def check_by(table: pd.DataFrame, by: Sequence[str]) -> None:
    allowed = tuple(name for name in CURVE_KEYS if name != "seed")
    if "criterion" not in by or len(set(by)) != len(by) or not set(by) <= set(allowed):
        raise TableError(f"`by` must hold `criterion` and may hold others of {allowed}, once each, got {tuple(by)}.")
    for name in ("suite", "granularity"):
        if name not in by and table[name].nunique() > 1:
            mixed = ", ".join(map(repr, sorted(table[name].unique())))
            raise TableError(f"one ranking must not mix values of `{name}`, got {mixed}; add `{name}` to `by`.")


def _check_rates(part: pd.DataFrame) -> int:
    """Check the sorted curves of one suite and return how many rates each has."""
    keys = list(CURVE_KEYS)
    rates_of = part.groupby(keys, sort=True)["rate"]
    without_zero = part.loc[rates_of.transform("min") != 0]
    if len(without_zero):
        line = without_zero.iloc[0]
        raise TableError(f"a curve must have rate 0, the unpruned network, but it is missing for {_cell(line)}.")
    # The commonest number of rates is taken for the suite's, so that the message names the odd curve.
    n_rates = int(rates_of.size().mode().iloc[-1])
    expected = np.resize(part.loc[rates_of.transform("size") == n_rates, "rate"].to_numpy()[:n_rates], len(part))
    differs = part["rate"].to_numpy() != expected
    if differs.any() or len(part) % n_rates:
        odd = part.loc[(rates_of.transform("size") != n_rates) | differs].iloc[0]
        own = part.loc[(part[keys] == odd[keys]).all(axis=1), "rate"].tolist()
        raise TableError(
            f"the curves of a suite must share their rates, but {_cell(odd, rate=False)} has {own} and others have "
            f"{expected[:n_rates].tolist()}; measure that job again or keep it out of the table."
        )
    return n_rates


def _raise_mixed(points: pd.DataFrame, column: str, within: tuple[str, ...]) -> None:
    for _, part in points.groupby(list(within), sort=True):
        values = sorted(map(str, part[column].unique()))
        if len(values) > 1:
            where = " / ".join(str(part[name].iloc[0]) for name in within if str(part[name].iloc[0]))
            raise TableError(
                f"the rows of `{where}` must share one `{column}`, got {', '.join(values)}; "
                "run what is older again, or keep it in a table of its own."
            )


def _cell(line: pd.Series, *, rate: bool = True) -> str:
    names = (*CURVE_KEYS, "rate") if rate else CURVE_KEYS
    return " / ".join(f"{name} {line[name]}" for name in names)
