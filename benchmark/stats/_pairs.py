"""Paired comparisons of criteria on the same networks, shots and seeds, and the ranks that they leave possible."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pruneboard.benchmark.stats._intervals import ALPHA, DECIMALS, Floats, holm, t_half_width, t_p_value, wilson
from pruneboard.benchmark.stats._points import CELL, check_by

_PAIR_COLUMNS = (
    *("first", "second", "n_cells", "n_seeds", "difference", "difference_low", "difference_high"),
    *("p_value", "p_corrected", "told_apart", "n_wins", "n_ties", "n_losses"),
    *("win_rate", "win_rate_low", "win_rate_high"),
)
_STANDING_COLUMNS = ("rank_low", "rank_high", "win_rate", "win_rate_low", "win_rate_high", "n_cells", "n_seeds")


@dataclasses.dataclass(frozen=True, eq=False)
class _Pairs:
    """Every criterion against every other one on the cells of one comparison; arrays are (n_criteria, n_criteria).

    Attributes:
        criteria: names of the criteria that have all cells, sorted.
        n_cells: cells of each.
        n_seeds: seeds of each.
        difference: mean of the first minus mean of the second; rows are first.
        half_width: half of the 95 % interval of the difference.
        p_value: of the paired t test.
        p_corrected: by Holm over all pairs.
        n_wins: cells where the first has the higher A_PR.
        n_ties: cells where both are equal.
        win_rate: mean over seeds of the share of cells won; a tie is half a win.
    """

    criteria: tuple[str, ...]
    n_cells: int
    n_seeds: int
    difference: Floats
    half_width: Floats
    p_value: Floats
    p_corrected: Floats
    n_wins: Floats
    n_ties: Floats
    win_rate: Floats

    @property
    def n_better(self) -> Floats:
        """How many criteria are told apart from each and better, (n_criteria,)."""
        return np.asarray(((self.p_corrected <= ALPHA) & (self.difference < 0)).sum(axis=1))

    @property
    def n_worse(self) -> Floats:
        """How many criteria are told apart from each and worse, (n_criteria,)."""
        return np.asarray(((self.p_corrected <= ALPHA) & (self.difference > 0)).sum(axis=1))


def compare_criteria(areas: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Compare every two criteria by their A_PR on the same cells (model, seed, shots).

    Method: a criterion's value for a seed is its mean A_PR over the models and shots of the comparison, as in
    `summarise`. The differences of two criteria are paired by seed, because a seed gives both the same reference
    images; their mean is tested by the two-sided paired t test, and all pairs of a comparison are corrected together by
    `holm`. Two criteria are told apart where the corrected p value is at most 0.05. Intervals are 95 % for the single
    pair, without correction. The win rate is the share of a seed's cells where the first has the higher A_PR, a tie
    counting half, averaged over seeds, with the interval of `wilson` for as many cases as there are seeds.

    Assumption: the seed is the unit that is sampled, and the seeds' differences are independent and about normal. Cells
    of one seed are no further evidence, since k shots are among the first of more shots and networks share the images.
    So all is about these networks and evaluation images, and other draws of reference images. Two criteria that do not
    depend on the draw differ by a fixed amount, and are told apart unless it is 0, to 12 decimals. With one seed
    there is no test: p values and intervals are empty, and nothing is told apart.

    Only criteria that have every cell that any of their comparison has are compared, as in the ranks of `summarise`.

    References: Student, "The probable error of a mean", Biometrika 6 (1908); Holm 1979; Wilson 1927.

    Args:
        areas: what `area_under_curve` returns.
        by: columns that tell criteria and comparisons apart, as for `summarise`.

    Returns:
        Two lines per pair, one for either order, with the columns of `by` but criterion, `first`, `second`, `n_cells`,
        `n_seeds`, `difference` (first - second) with `_low` and `_high`, `p_value`, `p_corrected`, `told_apart`, the
        numbers of cells `n_wins`, `n_ties` and `n_losses`, and `win_rate` with `_low` and `_high`; sorted.

    Raises:
        TableError: `by` is not as described, or suites or granularities would be mixed.
    """
    comparison = [name for name in by if name != "criterion"]
    frames = []
    for keys, pairs in _comparisons(areas, by):
        first, second = np.nonzero(~np.eye(len(pairs.criteria), dtype=bool))
        at = (first, second)
        low, high = wilson(pairs.win_rate[at], pairs.n_seeds)
        names = np.asarray(pairs.criteria, dtype=object)
        columns: dict[str, Any] = {
            "first": names[first],
            "second": names[second],
            "n_cells": pairs.n_cells,
            "n_seeds": pairs.n_seeds,
            "difference": pairs.difference[at],
            "difference_low": pairs.difference[at] - pairs.half_width[at],
            "difference_high": pairs.difference[at] + pairs.half_width[at],
            "p_value": pairs.p_value[at],
            "p_corrected": pairs.p_corrected[at],
            "told_apart": pairs.p_corrected[at] <= ALPHA,
            "n_wins": pairs.n_wins[at],
            "n_ties": pairs.n_ties[at],
            "n_losses": pairs.n_cells - pairs.n_wins[at] - pairs.n_ties[at],
            "win_rate": pairs.win_rate[at],
            "win_rate_low": low,
            "win_rate_high": high,
        }
        frames.append(pd.DataFrame(keys | columns, index=range(len(first))))
    return _stacked(frames, [*comparison, *_PAIR_COLUMNS])


def standings(areas: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Say which ranks each criterion may have, and how often it wins.

    Method: with the tests of `compare_criteria`, a criterion's smallest rank is 1 + the number of criteria that are
    told apart from it and better, and its largest rank is the number of criteria - those that are told apart and worse.
    As the correction keeps the chance of any false finding at 5 %, the ranks of all criteria together lie within these
    limits with 95 % confidence. Criteria that cannot be told apart so share ranks. The win rate is the share of
    comparisons with other criteria, cell by cell, that it wins, a tie counting half; its interval is that of `wilson`
    for as many cases as there are seeds.

    Assumption: that of `compare_criteria`. With one seed nothing is told apart, and every rank is possible.

    Reference: Mogstad, Romano, Shaikh and Wilhelm, "Inference for ranks", Review of Economic Studies 91 (2024).

    Args:
        areas: what `area_under_curve` returns.
        by: columns that tell criteria and comparisons apart, as for `summarise`.

    Returns:
        A line per comparison and criterion that has all cells, with the columns of `by`, `rank_low`, `rank_high`,
        `win_rate` with `_low` and `_high` (empty without rivals), `n_cells` and `n_seeds`, sorted by `by`.

    Raises:
        TableError: `by` is not as described, or suites or granularities would be mixed.
    """
    frames = []
    for keys, pairs in _comparisons(areas, by):
        k = len(pairs.criteria)
        rivals = ~np.eye(k, dtype=bool)
        win_rate = pairs.win_rate.sum(axis=1, where=rivals) / (k - 1) if k > 1 else np.full(k, np.nan)
        low, high = wilson(win_rate, pairs.n_seeds)
        columns: dict[str, Any] = {
            "criterion": pairs.criteria,
            "rank_low": 1 + pairs.n_better,
            "rank_high": k - pairs.n_worse,
            "win_rate": win_rate,
            "win_rate_low": low,
            "win_rate_high": high,
            "n_cells": pairs.n_cells,
            "n_seeds": pairs.n_seeds,
        }
        frames.append(pd.DataFrame(keys | columns, index=range(k)))
    answer = _stacked(frames, [*by, *_STANDING_COLUMNS])
    return answer.sort_values(list(by), kind="stable", ignore_index=True)


def complete_cells(areas: pd.DataFrame, cell: Sequence[str]) -> pd.DataFrame:
    """Return the mean A_PR by cell (rows) and criterion (columns), of criteria that have every curve that any has."""
    curves = areas.pivot(index=list(dict.fromkeys((*cell, *CELL))), columns="criterion", values="a_pr")
    return curves.dropna(axis="columns").groupby(level=list(cell), sort=True).mean()


def _comparisons(areas: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], _Pairs]]:
    """Yield the values of the columns that tell comparisons apart, and all pairs of one comparison."""
    check_by(areas, by)
    comparison = [name for name in by if name != "criterion"]
    if not comparison:
        if len(areas):
            yield {}, _pairs(complete_cells(areas, CELL))
        return
    for values, part in areas.groupby(comparison, sort=True):
        yield dict(zip(comparison, values, strict=True)), _pairs(complete_cells(part, CELL))


def _pairs(cells: pd.DataFrame) -> _Pairs:
    seeds = cells.index.get_level_values("seed")
    per_seed = cells.groupby(seeds, sort=True).mean().to_numpy()
    n_seeds, k = per_seed.shape
    differences = per_seed[:, :, None] - per_seed[:, None, :]
    mean = differences.mean(axis=0)
    spread = differences.std(axis=0, ddof=1) if n_seeds > 1 else np.full((k, k), np.nan)
    error = spread / np.sqrt(n_seeds)
    p_value = t_p_value(mean, error, n_seeds - 1)
    upper = np.triu_indices(k, 1)
    p_corrected = np.full((k, k), np.nan)
    p_corrected[upper] = holm(p_value[upper])
    p_corrected.T[upper] = p_corrected[upper]
    values = cells.to_numpy()
    gaps = np.round(values[:, :, None] - values[:, None, :], DECIMALS)
    shares = (gaps > 0) + 0.5 * (gaps == 0)
    by_seed = [shares[seeds == seed].mean(axis=0) for seed in seeds.unique().sort_values()]
    return _Pairs(
        criteria=tuple(map(str, cells.columns)),
        n_cells=len(cells),
        n_seeds=n_seeds,
        difference=mean,
        half_width=t_half_width(error, np.full((k, k), n_seeds - 1)),
        p_value=p_value,
        p_corrected=p_corrected,
        n_wins=(gaps > 0).sum(axis=0),
        n_ties=(gaps == 0).sum(axis=0),
        win_rate=np.mean(by_seed, axis=0),
    )


def _stacked(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
