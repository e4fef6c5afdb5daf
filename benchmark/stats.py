"""Pure statistics on result tables: areas under the curves, summaries over seeds, and ranks."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from pruneboard.benchmark.errors import TableError

CURVE_KEYS = ("suite", "model", "granularity", "criterion", "seed", "shots")
"""What identifies one accuracy curve."""

METRICS = ("a_pr", "auc_trapz", "top_pr")
"""The statistics of a curve that `summarise` averages; it ranks by the first one."""

TOP_PR_FRACTION = 0.95
"""Fraction of the unpruned accuracy that Top-PR asks for."""

CONFIDENCE = 0.95
"""Level of every interval."""

_CELL = ("model", "seed", "shots")
_SAME_WITHIN = (
    ("data_digest", ("suite", "dataset")),
    ("data_digest", ("suite", "model")),
    ("suite_digest", ("suite",)),
    ("weights_digest", ("suite", "model")),
    ("criterion_digest", ("suite", "criterion")),
    ("parameters", ("suite", "criterion", "tuned_for")),
    ("tuning", ("suite", "criterion", "tuned_for")),
)
_COMPARED = (
    *("untuned_mean", "tuned_mean"),
    *(f"difference_{part}" for part in ("mean", "sd", "low", "high")),
)
_PUBLISHED_CELL = ("model", "granularity", "criterion", "shots", "rate")
_PUBLISHED_ROUNDING = 5e-5
_ACCURACY_TOLERANCE = 1e-12
_RANK_DECIMALS = 12


def area_under_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Reduce every accuracy curve to three numbers; jobs whose status is not `ok` are left out.

    With rates r_0 = 0 < r_1 < ... < r_m-1 and top-1 accuracies a_i the columns are

    - `a_pr`: A_PR = (a_0 + ... + a_m-1) / m, in [0, 1] (Pruning by Explaining, arXiv 2408.12568);
    - `auc_trapz`: the integral of a over r by the trapezoidal rule, as in that paper's code; its maximum is r_m-1;
    - `top_pr`: the largest r_i such that a_j >= 0.95 a_0 for all j <= i. Equality counts as kept, up to 1e-12, since
      0.95 a_0 is seldom a float. A later recovery of the accuracy does not count;
    - `unpruned`: a_0.

    Assumption: the curves of a suite share their rates, else their means would not be comparable; this is checked.

    Args:
        rows: a table with the columns of `schema.Row`, in any order.

    Returns:
        One line per suite, model, granularity, criterion, seed and shots, sorted by these.

    Raises:
        TableError: a cell occurs twice, has no accuracy in [0, 1], or a curve has no rate 0 or other rates than the
            rest of its suite; or a suite mixes suite digests, data or weights of a network, or versions of a criterion.
    """
    points, n_rates = _checked_points(rows)
    keys = list(CURVE_KEYS)
    areas: list[pd.DataFrame] = []
    for suite, part in points.groupby("suite", sort=True):
        shape = (-1, n_rates[str(suite)])
        accuracy = part["top1"].to_numpy(dtype=float).reshape(shape)
        rates = part["rate"].to_numpy(dtype=float)[: shape[1]]
        curve = part[keys].iloc[:: shape[1]].reset_index(drop=True)
        kept = accuracy >= TOP_PR_FRACTION * accuracy[:, :1] - _ACCURACY_TOLERANCE
        n_kept = np.logical_and.accumulate(kept, axis=1).sum(axis=1)
        curve["a_pr"] = accuracy.mean(axis=1)
        curve["auc_trapz"] = np.trapezoid(accuracy, rates, axis=1)
        curve["top_pr"] = rates[n_kept - 1]
        curve["unpruned"] = accuracy[:, 0]
        areas.append(curve)
    if not areas:
        empty = points[keys].copy()
        return empty.assign(**dict.fromkeys((*METRICS, "unpruned"), pd.Series(dtype=float)))
    return pd.concat(areas, ignore_index=True)


def summarise(areas: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average the areas over everything that is not in `by`, with intervals over seeds, and rank the criteria.

    Method: within each seed the plain mean over all models and numbers of shots of the group, then over the seeds the
    mean, the sample standard deviation (n - 1) and the two-sided 95 % Student-t interval of the mean,
    mean +- t(0.975, n - 1) sd / sqrt(n). With one seed sd and interval are empty, not zero.

    Assumption: the seeds' means are independent and about normal. The interval describes the spread over draws of the
    reference images (and of random ties) on these very networks and evaluation images; it says nothing about other
    networks. A criterion that looks at no images and has no ties therefore has an interval of width zero. Intervals
    that overlap do not share a rank here: shared ranks by paired tests come with a later release.

    Ranks: criteria are compared where all other columns of `by` agree. The grid of such a comparison is every (model,
    seed, shots) that any of its criteria has; only criteria that have all of it are `complete` and ranked, since a
    mean over easier cells is no better. Rank 1 is the highest mean `a_pr`; means that agree to 12 decimals share the
    smallest rank (1, 2, 2, 4).

    Reference: Student, "The probable error of a mean", Biometrika 6 (1908).

    Args:
        areas: what `area_under_curve` returns.
        by: columns that tell the lines of the answer apart: `criterion` and any of suite, granularity, model, shots.

    Returns:
        A line per group, best first within each comparison, with the columns of `by`, `rank` (empty when incomplete),
        `complete`, `n_cells`, `n_cells_grid`, `n_seeds`, and `_mean`, `_sd`, `_low`, `_high` of each of `METRICS`.

    Raises:
        TableError: `by` is not as described, or suites or granularities would be mixed.
    """
    _check_by(areas, by)
    columns = list(by)
    comparison = [name for name in columns if name != "criterion"]
    summary = _over_seeds(areas, columns, METRICS)
    summary["n_cells"] = areas.groupby(columns, sort=True).size().to_numpy()
    cells = areas[[*dict.fromkeys((*comparison, *_CELL))]].drop_duplicates()
    if comparison:
        grid = cells.groupby(comparison, sort=True).size().rename("n_cells_grid").reset_index()
        summary = summary.merge(grid, on=comparison, how="left", validate="many_to_one")
    else:
        summary["n_cells_grid"] = len(cells)
    summary["complete"] = summary["n_cells"] == summary["n_cells_grid"]
    score = summary["a_pr_mean"].round(_RANK_DECIMALS).where(summary["complete"])
    ranked = score.groupby([summary[name] for name in comparison]) if comparison else score
    summary["rank"] = ranked.rank(method="min", ascending=False).astype("Int64")
    order = [*comparison, "rank", "criterion"]
    front = [*columns, "rank", "complete", "n_cells", "n_cells_grid", "n_seeds"]
    rest = [name for name in summary.columns if name not in front]
    return summary.sort_values(order, na_position="last", kind="stable", ignore_index=True)[front + rest]


def curves(rows: pd.DataFrame, by: Sequence[str], *, axis: Literal["rate", "shots"] = "rate") -> pd.DataFrame:
    """Average the top-1 accuracy at each rate, or at each number of shots, with intervals over seeds.

    Method, assumption and treatment of one seed are those of `summarise`. With the axis `shots` the mean over the rates
    is part of the average, so that the values are A_PR.

    Args:
        rows: a table with the columns of `schema.Row`, in any order; jobs whose status is not `ok` are left out.
        by: columns that tell the curves apart, as for `summarise`; `shots` cannot be both here and the axis.
        axis: column that the curves run along.

    Returns:
        A line per curve and value of the axis with the columns of `by`, the axis, `n_seeds`, `mean`, `sd`, `low` and
        `high`, sorted.

    Raises:
        TableError: `rows` breaks a rule of `area_under_curve`, or `by` one of `summarise`.
    """
    points, _ = _checked_points(rows)
    _check_by(points, by)
    if axis in by:
        raise TableError(f"the axis of `curves` must not be in `by`, got `{axis}` in both; leave it out of `by`.")
    answer = _over_seeds(points, [*by, axis], ("top1",))
    return answer.rename(columns=lambda name: name.removeprefix("top1_"))


def compare_tuned(areas: pd.DataFrame, partners: Mapping[str, str]) -> pd.DataFrame:
    """Compare tuned criteria with their untuned partners, seed by seed, on each network and granularity.

    Method: for each seed the mean A_PR over the numbers of shots that both have; the difference tuned - untuned of a
    seed is paired, since both scored from the same reference images; then over the seeds the mean, the sample standard
    deviation (n - 1) and the two-sided 95 % Student-t interval of the mean difference. With one seed sd and interval
    are empty.

    Assumption: the seeds' differences are independent and about normal. The interval describes the spread over draws of
    reference images on these very networks and evaluation images, not over repetitions of the tuning, which is one.

    Reference: Student, "The probable error of a mean", Biometrika 6 (1908).

    Args:
        areas: what `area_under_curve` returns.
        partners: tuned criterion to the untuned one that it is compared with.

    Returns:
        A line per suite, model, granularity and tuned criterion with cells in common, sorted by these, with `untuned`,
        `n_seeds`, the means `untuned_mean` and `tuned_mean`, and `difference_mean`, `_sd`, `_low` and `_high`.
    """
    keys = ["suite", "model", "granularity"]
    cell = [*keys, "seed", "shots"]
    answer: list[pd.DataFrame] = []
    for criterion, untuned in sorted(partners.items()):
        both = areas.loc[areas["criterion"] == criterion, [*cell, "a_pr"]].merge(
            areas.loc[areas["criterion"] == untuned, [*cell, "a_pr"]], on=cell, suffixes=("_tuned", "_untuned")
        )
        both = both.rename(columns={"a_pr_tuned": "tuned", "a_pr_untuned": "untuned"})
        both["difference"] = both["tuned"] - both["untuned"]
        lines = _over_seeds(both, keys, ("untuned", "tuned", "difference"))
        lines = lines.assign(criterion=criterion, untuned=untuned)
        answer.append(lines[[*keys, "criterion", "untuned", "n_seeds", *_COMPARED]])
    if not answer:
        return pd.DataFrame(columns=[*keys, "criterion", "untuned", "n_seeds", *_COMPARED])
    return pd.concat(answer, ignore_index=True).sort_values([*keys, "criterion"], ignore_index=True)


def compare(rows: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Set published accuracies beside the measured ones.

    Method, assumption and treatment of one seed are those of `summarise`, for the top-1 accuracy of a cell. A published
    accuracy differs when it lies outside the measured mean's 95 % interval by more than 0.00005, the rounding of a
    percentage with two decimals. Nothing is known of its own uncertainty, so among many cells that agree some differ: 1
    in 20 when the published numbers are exact, more when they are not. Where the interval has width zero, as for a
    criterion that looks at no images, every other number differs.

    Args:
        rows: a table with the columns of `schema.Row` that holds rows of one suite, in any order.
        published: a table with the columns of `schema.PublishedPoint`, each cell once.

    Returns:
        The lines of `published` in their order with the columns `model`, `granularity`, `criterion`, `shots`, `rate`,
        `n_seeds`, `mean`, `sd`, `low`, `high`, `published`, `difference` (mean - published), `differs` and `source`.
        What was not measured is empty; so are interval and `differs` with one seed.

    Raises:
        TableError: `rows` breaks a rule of `area_under_curve`, or holds rows of several suites.
    """
    points, n_rates = _checked_points(rows)
    if len(n_rates) > 1:
        raise TableError(f"a comparison must be of one suite, got rows of {', '.join(sorted(n_rates))}; leave one.")
    cell = list(_PUBLISHED_CELL)
    measured = _over_seeds(points, cell, ("top1",)).rename(columns=lambda name: name.removeprefix("top1_"))
    given = published.rename(columns={"top1": "published"})
    answer = given.merge(measured, on=cell, how="left", validate="one_to_one")
    answer["difference"] = answer["mean"] - answer["published"]
    below = answer["published"] < answer["low"] - _PUBLISHED_ROUNDING
    above = answer["published"] > answer["high"] + _PUBLISHED_ROUNDING
    answer["differs"] = (below | above).astype("boolean").where(answer["low"].notna())
    answer["n_seeds"] = answer["n_seeds"].astype("Int64")
    statistics = ["n_seeds", "mean", "sd", "low", "high", "published", "difference", "differs"]
    return answer[[*cell, *statistics, "source"]]


def _over_seeds(table: pd.DataFrame, by: list[str], values: Sequence[str]) -> pd.DataFrame:
    """Return mean, sd and t interval over seeds of the means within a seed, one line per group, sorted by `by`."""
    per_seed = table.groupby([*by, "seed"], sort=True)[list(values)].mean()
    groups = per_seed.groupby(level=list(range(len(by))), sort=True)
    n_seeds = groups.size()
    columns: dict[str, pd.Series] = {"n_seeds": n_seeds}
    n = n_seeds.to_numpy(dtype=float)
    # Student's t has no quantile for 0 degrees of freedom: one seed leaves the interval empty.
    quantile = stdtrit(np.where(n > 1, n - 1, np.nan), 0.5 + CONFIDENCE / 2)
    for value in values:
        mean, sd = groups[value].mean(), groups[value].std(ddof=1)
        half_width = quantile * sd / np.sqrt(n)
        columns |= {
            f"{value}_mean": mean,
            f"{value}_sd": sd,
            f"{value}_low": mean - half_width,
            f"{value}_high": mean + half_width,
        }
    return pd.DataFrame(columns).reset_index()


def _check_by(table: pd.DataFrame, by: Sequence[str]) -> None:
    allowed = tuple(name for name in CURVE_KEYS if name != "seed")
    if "criterion" not in by or len(set(by)) != len(by) or not set(by) <= set(allowed):
        raise TableError(f"`by` must hold `criterion` and may hold others of {allowed}, once each, got {tuple(by)}.")
    for name in ("suite", "granularity"):
        if name not in by and table[name].nunique() > 1:
            mixed = ", ".join(map(repr, sorted(table[name].unique())))
            raise TableError(f"one ranking must not mix values of `{name}`, got {mixed}; add `{name}` to `by`.")


def _checked_points(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the measured points sorted by curve and rate, and the number of rates of each suite."""
    keys = list(CURVE_KEYS)
    points = rows.loc[rows["status"] == "ok"]
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
    for column, within in _SAME_WITHIN:
        n_values = points.groupby(list(within), sort=True)[column].nunique(dropna=False)
        if (n_values > 1).any():
            _raise_mixed(points, column, within)
    n_rates: dict[str, int] = {}
    for suite, part in points.groupby("suite", sort=True):
        n_rates[str(suite)] = _check_rates(part)
    return points, n_rates


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
