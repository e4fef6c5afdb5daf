"""Means over seeds with their intervals: of areas, of curves, of tuned beside untuned, of ours beside others'."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from pruneboard.benchmark.errors import TableError
from pruneboard.benchmark.stats._areas import METRICS
from pruneboard.benchmark.stats._intervals import DECIMALS, t_half_width
from pruneboard.benchmark.stats._points import CELL, check_by, checked_points

_COMPARED = (
    *("untuned_mean", "tuned_mean"),
    *(f"difference_{part}" for part in ("mean", "sd", "low", "high")),
)
_PUBLISHED_CELL = ("model", "granularity", "criterion", "shots", "rate")
_PUBLISHED_ROUNDING = 5e-5


def summarise(areas: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average the areas over everything that is not in `by`, with intervals over seeds, and rank the criteria.

    Method: within each seed the plain mean over all models and numbers of shots of the group, then over the seeds the
    mean, the sample standard deviation (n - 1) and the two-sided 95 % Student-t interval of the mean,
    mean +- t(0.975, n - 1) sd / sqrt(n). With one seed sd and interval are empty, not zero.

    Assumption: the seeds' means are independent and about normal. The interval describes the spread over draws of the
    reference images (and of random ties) on these very networks and evaluation images; it says nothing about other
    networks. A criterion that looks at no images and has no ties therefore has an interval of width zero. Intervals
    that overlap say little of a difference, which is paired: `standings` says which criteria share ranks.

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
    check_by(areas, by)
    columns = list(by)
    comparison = [name for name in columns if name != "criterion"]
    summary = _over_seeds(areas, columns, METRICS)
    summary["n_cells"] = areas.groupby(columns, sort=True).size().to_numpy()
    cells = areas[[*dict.fromkeys((*comparison, *CELL))]].drop_duplicates()
    if comparison:
        grid = cells.groupby(comparison, sort=True).size().rename("n_cells_grid").reset_index()
        summary = summary.merge(grid, on=comparison, how="left", validate="many_to_one")
    else:
        summary["n_cells_grid"] = len(cells)
    summary["complete"] = summary["n_cells"] == summary["n_cells_grid"]
    score = summary["a_pr_mean"].round(DECIMALS).where(summary["complete"])
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
    return curves_of(checked_points(rows)[0], by, axis=axis)


def curves_of(points: pd.DataFrame, by: Sequence[str], *, axis: Literal["rate", "shots"] = "rate") -> pd.DataFrame:
    """Return what `curves` does, from points that `checked_points` has returned: for several tables of the same rows.

    Args:
        points: the points.
        by: as for `curves`.
        axis: as for `curves`.

    Raises:
        TableError: `by` breaks a rule of `summarise`.
    """
    check_by(points, by)
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
    points, n_rates = checked_points(rows)
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
    for value in values:
        mean, sd = groups[value].mean(), groups[value].std(ddof=1)
        half_width = t_half_width(sd / np.sqrt(n), n - 1)
        columns |= {
            f"{value}_mean": mean,
            f"{value}_sd": sd,
            f"{value}_low": mean - half_width,
            f"{value}_high": mean + half_width,
        }
    return pd.DataFrame(columns).reset_index()
