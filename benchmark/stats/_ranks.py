"""Average ranks over blocks with critical differences, within a suite and across all networks."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from pruneboard.benchmark.stats._intervals import ALPHA, DECIMALS, Floats, wilson
from pruneboard.benchmark.stats._pairs import complete_cells
from pruneboard.benchmark.stats._points import check_by

PostHoc = Literal["nemenyi", "wilcoxon_holm"]

NETWORK = ("suite", "model", "granularity")
"""What is one network in a ranking across suites."""

_FEWEST_FRACTION = 0.5
_FEWEST_CRITERIA = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticalDifference:
    """What a critical-difference diagram shows.

    Attributes:
        criteria: names, smallest average rank first.
        average_ranks: average rank of each, from 1 (best) to the number of criteria.
        n_blocks: blocks that were ranked.
        statistic: Friedman's chi-squared; None where there are fewer than 3 criteria or 2 blocks.
        p_value: of Friedman's test; None where there is none.
        posthoc: test between pairs, `nemenyi` or `wilcoxon_holm`.
        critical_distance: distance of average ranks from which Nemenyi's test tells apart; None for the other test, and
            where there is no test.
        p_values: of the pairs, corrected for their number, in the order of `criteria`; empty without test.
        cliques: what a bar connects, best first: the longest runs of criteria of which none are told apart.
        left_out: criteria that lack a block, sorted.
    """

    criteria: tuple[str, ...]
    average_ranks: tuple[float, ...]
    n_blocks: int
    statistic: float | None
    p_value: float | None
    posthoc: PostHoc
    critical_distance: float | None
    p_values: tuple[tuple[float, ...], ...] = dataclasses.field(repr=False)
    cliques: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether Friedman's test finds any difference; without it no pair is told apart."""
        return self.p_value is not None and self.p_value <= ALPHA

    def told_apart(self, first: int, second: int) -> bool:
        """Tell whether the criteria at two places of `criteria` differ."""
        return self.differs and self.p_values[first][second] <= ALPHA


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Overall:
    """A ranking across networks.

    Attributes:
        standings: a line per criterion, best first: `criterion`, `rank_low`, `rank_high`, `average_rank`, `a_pr` (mean
            over networks), `win_rate` with `_low` and `_high`, and `n_networks`.
        critical_difference: average ranks and what tells them apart.
        networks: the networks that were ranked, as suite, model and granularity, sorted.
        left_out: networks on which too few criteria were measured, sorted.
    """

    standings: pd.DataFrame
    critical_difference: CriticalDifference
    networks: tuple[tuple[str, str, str], ...]
    left_out: tuple[tuple[str, str, str], ...]


def critical_difference(
    areas: pd.DataFrame, blocks: Sequence[str] = ("model", "seed"), posthoc: PostHoc | None = None
) -> CriticalDifference:
    """Rank criteria within blocks, and say which average ranks can be told apart.

    Method: within each block the criteria are ranked by their mean A_PR, 1 for the highest, equal ones sharing the mean
    of their ranks. Friedman's test asks whether the average ranks differ at all; only if it finds so at 5 % are pairs
    told apart, by one of two tests.

    - `nemenyi`: average ranks differ by at least q(0.05, k) sqrt(k (k + 1) / 6 n) for k criteria and n blocks, with
      Tukey's studentised range q divided by sqrt(2). It is the critical distance of the diagram. Whether two criteria
      are told apart depends on which others are ranked beside them (Benavoli et al. 2016).
    - `wilcoxon_holm`: signed-rank tests of each pair's differences of A_PR, zeros split evenly, corrected by Holm. They
    do
      not depend on the others, but cannot reject with few blocks: the smallest p value of n blocks is 2^(1 - n).

    None takes `wilcoxon_holm` where it could reject (2^(1 - n) k (k - 1) / 2 <= 0.05), else `nemenyi`.

    Assumption: the blocks are independent. With the blocks (model, seed), for one suite, this speaks of these networks
    and other draws of reference images; with the blocks `NETWORK`, for several suites, of other networks like these.
    Shots are never blocks: those of one network and seed hardly differ, and counting each would feign evidence.

    References: Friedman, JASA 32 (1937); Nemenyi, thesis, Princeton (1963); Demsar, "Statistical comparisons of
    classifiers over multiple data sets", JMLR 7 (2006); Benavoli, Corani and Mangili, "Should we really use post-hoc
    tests based on mean-ranks?", JMLR 17 (2016). The tests are those of scipy and scikit-posthocs.

    Args:
        areas: what `area_under_curve` returns.
        blocks: columns that identify a block.
        posthoc: test between pairs.

    Returns:
        The average ranks of the criteria that have every curve that any has in these blocks.

    Raises:
        TableError: suites or granularities would be mixed in a block.
    """
    check_by(areas, (*(name for name in blocks if name != "seed"), "criterion"))
    cells = complete_cells(areas, blocks)
    left_out = sorted(set(map(str, areas["criterion"].unique())) - set(map(str, cells.columns)))
    return _critical_difference(cells, tuple(left_out), posthoc)


def overall(areas: pd.DataFrame, posthoc: PostHoc | None = None) -> Overall:
    """Rank criteria across networks, suites and kinds of unit.

    Method: that of `critical_difference` with a network and its kind of unit as the block, whose value is the mean A_PR
    over seeds and shots. A network counts when at least half as many criteria (and 3) have all of its curves as on the
    network with the most; then a criterion counts when it has all of these networks. The ranks that a criterion may
    have are those of `standings`, with the pairs that the diagram tells apart. The win rate is the share of comparisons
    with other criteria, network by network, with the interval of `wilson` for as many cases as there are networks.

    Assumption: the networks are independent examples of those that one would prune. Neurons and heads of one
    transformer, and networks trained on the same images, are less than that, so the limits are somewhat too narrow.

    Args:
        areas: what `area_under_curve` returns, for suites of one protocol.
        posthoc: test between pairs, as for `critical_difference`.
    """
    blocks = _by_network(areas)
    n_criteria = blocks.notna().sum(axis=1)
    counts = (n_criteria >= max(_FEWEST_FRACTION * n_criteria.max(), _FEWEST_CRITERIA)) if len(blocks) else []
    kept = blocks.loc[counts].dropna(axis="columns")
    missing = tuple(sorted(set(map(str, blocks.columns)) - set(map(str, kept.columns))))
    diagram = _critical_difference(kept, missing, posthoc)
    return Overall(
        standings=_overall_standings(kept, diagram),
        critical_difference=diagram,
        networks=_networks(kept),
        left_out=_networks(blocks.drop(index=kept.index)),
    )


def _by_network(areas: pd.DataFrame) -> pd.DataFrame:
    """Return the mean A_PR of networks (rows) and criteria (columns), empty where curves are missing."""
    parts = [complete_cells(part, NETWORK) for _, part in areas.groupby(list(NETWORK), sort=True)]
    if not parts:
        return pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=NETWORK))
    return pd.concat(parts).sort_index(axis="columns")


def _networks(blocks: pd.DataFrame) -> tuple[tuple[str, str, str], ...]:
    return tuple((str(suite), str(model), str(granularity)) for suite, model, granularity in blocks.index)


def _overall_standings(blocks: pd.DataFrame, diagram: CriticalDifference) -> pd.DataFrame:
    k, n = len(diagram.criteria), diagram.n_blocks
    apart = np.array([[diagram.told_apart(i, j) for j in range(k)] for i in range(k)], dtype=bool).reshape(k, k)
    ranks = np.array(diagram.average_ranks)
    win_rate = (k - ranks) / (k - 1) if k > 1 else np.full(k, np.nan)
    low, high = wilson(win_rate, n) if n else (win_rate, win_rate)
    return pd.DataFrame(
        {
            "criterion": diagram.criteria,
            "rank_low": 1 + (apart & (ranks[None, :] < ranks[:, None])).sum(axis=1),
            "rank_high": k - (apart & (ranks[None, :] > ranks[:, None])).sum(axis=1),
            "average_rank": ranks,
            "a_pr": blocks[list(diagram.criteria)].mean().to_numpy(dtype=float),
            "win_rate": win_rate,
            "win_rate_low": low,
            "win_rate_high": high,
            "n_networks": n,
        }
    )


def _critical_difference(
    blocks: pd.DataFrame, left_out: tuple[str, ...], posthoc: PostHoc | None
) -> CriticalDifference:
    """Rank blocks (rows) of criteria (columns) without empty cells."""
    values = blocks.round(DECIMALS)
    n, k = values.shape
    average = values.rank(axis="columns", ascending=False).mean().fillna(0.0)
    order = sorted(map(str, average.index), key=lambda name: (average[name], name))
    values = values[order]
    chosen = posthoc or _choose(n, k)
    statistic, p_value = _friedman(values.to_numpy(dtype=float))
    testable = p_value is not None
    p_values = _pair_p_values(values, chosen) if testable else np.empty((0, 0))
    answer = CriticalDifference(
        criteria=tuple(order),
        average_ranks=tuple(float(average[name]) for name in order),
        n_blocks=n,
        statistic=statistic,
        p_value=p_value,
        posthoc=chosen,
        critical_distance=_critical_distance(n, k) if testable and chosen == "nemenyi" else None,
        p_values=tuple(tuple(map(float, line)) for line in p_values),
        cliques=(),
        left_out=left_out,
    )
    return dataclasses.replace(answer, cliques=_cliques(answer))


def _choose(n_blocks: int, n_criteria: int) -> PostHoc:
    smallest = 2.0 ** (1 - n_blocks) * math.comb(n_criteria, 2)
    return "wilcoxon_holm" if smallest <= ALPHA and n_criteria > 1 else "nemenyi"


def _friedman(values: Floats) -> tuple[float | None, float | None]:
    """Return Friedman's chi-squared and its p value, None where the test is not defined."""
    n, k = values.shape
    if n < 2 or k < _FEWEST_CRITERIA:
        return None, None
    if (values == values[:, :1]).all():
        return 0.0, 1.0
    # Imported where it is needed: it would double the time in which commands start.
    from scipy.stats import friedmanchisquare

    result = friedmanchisquare(*values.T)
    return float(result.statistic), float(result.pvalue)


def _pair_p_values(values: pd.DataFrame, posthoc: PostHoc) -> Floats:
    import scikit_posthocs

    if posthoc == "nemenyi":
        table = scikit_posthocs.posthoc_nemenyi_friedman(values.to_numpy(dtype=float))
    else:
        long = values.melt(var_name="criterion", value_name="a_pr")
        table = scikit_posthocs.posthoc_wilcoxon(
            long, val_col="a_pr", group_col="criterion", zero_method="zsplit", p_adjust="holm"
        )
    return np.asarray(table, dtype=float)


def _critical_distance(n_blocks: int, n_criteria: int) -> float:
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(1 - ALPHA, n_criteria, np.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(n_criteria * (n_criteria + 1) / (6 * n_blocks)))


def _cliques(diagram: CriticalDifference) -> tuple[tuple[str, ...], ...]:
    """Return the longest runs of at least two criteria of which no two are told apart."""
    k = len(diagram.criteria)
    cliques: list[tuple[str, ...]] = []
    last = 0
    for first in range(k):
        end = first + 1
        while end < k and not any(diagram.told_apart(i, end) for i in range(first, end)):
            end += 1
        if end > last and end - first > 1:
            cliques.append(diagram.criteria[first:end])
        last = max(last, end)
    return tuple(cliques)
