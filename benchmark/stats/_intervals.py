"""Intervals, p values and their correction: the formulas that every comparison shares."""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr, stdtrit

CONFIDENCE = 0.95
"""Level of every interval, and of every decision."""

ALPHA = 1 - CONFIDENCE
"""Largest p value, corrected where there are several, at which a difference counts."""

DECIMALS = 12
"""Decimals to which means agree when they are called equal; beyond them is the rounding of sums."""

Floats = npt.NDArray[np.float64]


def t_half_width(error: npt.ArrayLike, degrees: npt.ArrayLike) -> Floats:
    """Return half of the width of two-sided 95 % Student-t intervals.

    Args:
        error: standard errors of the means.
        degrees: degrees of freedom; 0 has no quantile and leaves the interval empty.
    """
    degrees = np.asarray(degrees, dtype=float)
    quantile = stdtrit(np.where(degrees > 0, degrees, np.nan), 0.5 + CONFIDENCE / 2)
    return np.asarray(quantile * np.asarray(error, dtype=float))


def t_p_value(mean: npt.ArrayLike, error: npt.ArrayLike, degrees: npt.ArrayLike) -> Floats:
    """Return the two-sided p values of Student's t test that means are 0.

    Without spread a mean is known exactly: p is 1 when it is 0 and 0 when it is not, to 12 decimals. Without degrees of
    freedom there is no test, and p is empty.

    Args:
        mean: means.
        error: their standard errors.
        degrees: degrees of freedom.
    """
    mean, error, degrees = (np.asarray(values, dtype=float) for values in (mean, error, degrees))
    exact = np.round(error, DECIMALS) == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(degrees, -np.abs(mean) / np.where(exact, np.nan, error))
    p = np.where(exact, np.where(np.round(mean, DECIMALS) == 0, 1.0, 0.0), p)
    return np.where(degrees > 0, p, np.nan)


def holm(p_values: npt.ArrayLike) -> Floats:
    """Correct the p values of several tests so that the chance of any false finding stays at the level of one.

    Method: with the p values in ascending order, p_(i) becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1.
    Nothing is assumed of how the tests depend on one another. Empty p values stay empty and do not count among the m.

    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979).

    Args:
        p_values: p values (n_tests,), in [0, 1].
    """
    given = np.asarray(p_values, dtype=float)
    corrected = np.full(given.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(given))
    order = tests[np.argsort(given[tests], kind="stable")]
    corrected[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return corrected


def wilson(rate: npt.ArrayLike, n: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the limits of the 95 % Wilson score interval of a rate.

    Method: with z = 1.96 the limits are (r + z^2 / 2n -+ z sqrt(r (1 - r) / n + z^2 / 4n^2)) / (1 + z^2 / n). It is
    not empty where every case was a win, unlike the interval of a mean.

    Assumption: the rate is a mean of n independent cases in [0, 1]. Where a case is itself a fraction, as the share of
    a seed's cells that were won, its variance is at most r (1 - r), so that the interval is too wide rather than too
    narrow.

    Reference: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Args:
        rate: rates in [0, 1].
        n: numbers of cases.
    """
    rate, n = np.asarray(rate, dtype=float), np.asarray(n, dtype=float)
    z = ndtri(0.5 + CONFIDENCE / 2)
    centre = rate + z**2 / (2 * n)
    spread = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return np.clip((centre - spread) / scale, 0, 1), np.clip((centre + spread) / scale, 0, 1)
