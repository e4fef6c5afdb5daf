"""Accuracy curves to numbers."""

import numpy as np
import pandas as pd

from pruneboard.benchmark.stats._points import CURVE_KEYS, checked_points

METRICS = ("a_pr", "auc_trapz", "top_pr")
"""The statistics of a curve that `summarise` averages; it ranks by the first one."""

TOP_PR_FRACTION = 0.95
"""Fraction of the unpruned accuracy that Top-PR asks for."""

_ACCURACY_TOLERANCE = 1e-12


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
    points, n_rates = checked_points(rows)
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
