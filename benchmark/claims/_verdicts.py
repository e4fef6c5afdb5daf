"""From differences to verdicts, by rules that are fixed in advance."""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from pruneboard.benchmark.claims._contrasts import contrast_names, differences
from pruneboard.benchmark.claims._load import Claim
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.stats import ALPHA, area_under_curve, holm, t_half_width, t_p_value

Verdict = Literal["supported", "contradicted", "mixed", "undecided", "no data"]

_NETWORK = ["suite", "model", "granularity"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """A mean difference in percentage points with its 95 % interval, which is None where there is one seed."""

    mean: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """A contrast on one network.

    Attributes:
        suite: suite.
        model: network.
        granularity: kind of unit.
        n_seeds: seeds behind the effect.
        effect: mean over seeds, with the Student-t interval over them.
        p_value: two-sided, that the effect is the claim's number; None with one seed.
        p_corrected: the same corrected by Holm for the networks of the contrast.
        verdict: `supported` or `contradicted` where the corrected p value is at most 0.05, else `undecided`.
    """

    suite: str
    model: str
    granularity: str
    n_seeds: int
    effect: Effect
    p_value: float | None
    p_corrected: float | None
    verdict: Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """One contrast of a claim.

    Attributes:
        name: what the criterion is compared with.
        verdict: see `evaluate_claims`.
        effect: mean over the networks, with the interval over seeds for these networks; None without data.
        other_networks: the 95 % Student-t limits of the mean when the networks are the sample; None below two networks.
        networks: the results behind it, sorted.
    """

    name: str
    verdict: Verdict
    effect: Effect | None = None
    other_networks: tuple[float, float] | None = None
    networks: tuple[NetworkResult, ...] = ()

    def count(self, verdict: Verdict) -> int:
        """Return on how many networks a verdict was reached."""
        return sum(network.verdict == verdict for network in self.networks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim with its verdict.

    Attributes:
        claim: the claim.
        verdict: see `evaluate_claims`.
        contrasts: all of its contrasts, measured or not, in the order of the claim.
    """

    claim: Claim
    verdict: Verdict
    contrasts: tuple[Contrast, ...]

    @property
    def hardest(self) -> Contrast | None:
        """The measured contrast whose effect supports the claim least, None without data."""
        measured = [(self.claim.margin(c.effect.mean), c.name, c) for c in self.contrasts if c.effect is not None]
        return min(measured, key=lambda item: item[:2])[2] if measured else None

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the contrasts that nothing was measured of."""
        return tuple(contrast.name for contrast in self.contrasts if contrast.effect is None)


def evaluate_claims(rows: pd.DataFrame, suites: Sequence[Suite], claims: Sequence[Claim]) -> tuple[ClaimResult, ...]:
    """Say of each claim what the rows say.

    Method: a contrast is a difference in percentage points, paired by network, kind of unit and seed, and averaged over
    shots. On one network its interval is Student's t over the seeds; the p value that it is the claim's number is
    corrected by Holm for the networks of the contrast, and a network supports or contradicts where that is at most
    0.05. The effect of a contrast is the mean over networks. Within a suite its error is that of the seeds' means over
    networks, since networks share the reference images of a seed; suites are independent, and the degrees of freedom of
    their mean are those of Satterthwaite.

    Verdict of a contrast: `mixed` where networks both support and contradict; `supported` where its 95 % interval lies
    on the claimed side and no network contradicts; `contradicted` where it lies on the other side and no network
    supports; `undecided` otherwise, and `no data` without rows.

    Verdict of a claim: `supported` where every contrast is; `contradicted` where one is and none is supported; `mixed`
    where one is contradicted and another supported, or one is mixed; `no data` where nothing was measured; `undecided`
    otherwise, so also where a contrast lacks data and the others are supported.

    Assumption: the seeds' differences are independent and about normal. Verdicts are about the networks and evaluation
    images that were measured; `Contrast.other_networks` has the limits that take the networks for a sample.

    Only suites count whose evaluation images the networks were not trained on, with what they measured at the same
    shots.

    References: Student 1908; Satterthwaite, Biometrics Bulletin 2 (1946); Holm 1979.

    Args:
        rows: a table with the columns of `schema.Row`.
        suites: the suites of the rows.
        claims: the claims.

    Raises:
        TableError: the rows do not allow the statistics.
    """
    areas = _with_facts(rows, suites)
    return tuple(_evaluate(claim, differences(claim, areas)) for claim in claims)


def _with_facts(rows: pd.DataFrame, suites: Sequence[Suite]) -> pd.DataFrame:
    """Return the areas under the curves of the suites that count, with what contrasts need to know of them."""
    counted = {suite.name for suite in suites if suite.on_unseen_images}
    measured = rows.loc[rows["suite"].isin(counted) & (rows["status"] == "ok")]
    facts = measured[["suite", "model", "model_family", "data_digest", "protocol"]].astype(str).drop_duplicates()
    return area_under_curve(measured).merge(facts, on=["suite", "model"], how="left", validate="many_to_one")


def _evaluate(claim: Claim, table: pd.DataFrame) -> ClaimResult:
    contrasts = tuple(_contrast(claim, name, table.loc[table["contrast"] == name]) for name in contrast_names(claim))
    found = {contrast.verdict for contrast in contrasts}
    verdict: Verdict
    if found == {"no data"}:
        verdict = "no data"
    elif found == {"supported"}:
        verdict = "supported"
    elif "mixed" in found or {"supported", "contradicted"} <= found:
        verdict = "mixed"
    elif "contradicted" in found:
        verdict = "contradicted"
    else:
        verdict = "undecided"
    return ClaimResult(claim=claim, verdict=verdict, contrasts=contrasts)


def _contrast(claim: Claim, name: str, table: pd.DataFrame) -> Contrast:
    if table.empty:
        return Contrast(name=name, verdict="no data")
    networks = _networks(claim, table)
    mean, error, degrees = _pooled(table)
    effect = _effect(mean, error, degrees)
    counts = {network.verdict for network in networks}
    decided = _decided(claim, effect)
    verdict: Verdict
    if {"supported", "contradicted"} <= counts:
        verdict = "mixed"
    elif decided == "supported" and "contradicted" not in counts:
        verdict = "supported"
    elif decided == "contradicted" and "supported" not in counts:
        verdict = "contradicted"
    else:
        verdict = "undecided"
    return Contrast(
        name=name,
        verdict=verdict,
        effect=effect,
        other_networks=_other_networks([network.effect.mean for network in networks]),
        networks=networks,
    )


def _networks(claim: Claim, table: pd.DataFrame) -> tuple[NetworkResult, ...]:
    groups = table.groupby(_NETWORK, sort=True)["difference"]
    summary = pd.DataFrame({"mean": groups.mean(), "sd": groups.std(ddof=1), "n": groups.size()}).reset_index()
    summary["error"] = summary["sd"] / np.sqrt(summary["n"])
    summary["p"] = t_p_value(summary["mean"] - claim.threshold, summary["error"], summary["n"] - 1)
    summary["p_corrected"] = holm(summary["p"])
    return tuple(_network(claim, line) for line in summary.to_dict("records"))


def _network(claim: Claim, line: Mapping[Hashable, Any]) -> NetworkResult:
    effect = _effect(float(line["mean"]), float(line["error"]), int(line["n"]) - 1)
    side: Verdict = "supported" if claim.margin(effect.mean) > 0 else "contradicted"
    return NetworkResult(
        suite=str(line["suite"]),
        model=str(line["model"]),
        granularity=str(line["granularity"]),
        n_seeds=int(line["n"]),
        effect=effect,
        p_value=_or_none(line["p"]),
        p_corrected=_or_none(line["p_corrected"]),
        verdict=side if line["p_corrected"] <= ALPHA else "undecided",
    )


def _pooled(table: pd.DataFrame) -> tuple[float, float, float]:
    """Return the mean over networks, its standard error over seeds, and the degrees of freedom of that."""
    parts = []
    for _, part in table.groupby("suite", sort=True):
        by_seed = part.pivot(index="seed", columns=["model", "granularity"], values="difference")
        common = by_seed.dropna().mean(axis=1)
        of_mean = common.var(ddof=1) / len(common) if len(common) > 1 else math.nan
        parts.append((by_seed.mean().mean(), of_mean, len(common) - 1, by_seed.shape[1]))
    mean, variance, degrees, n_networks = (np.array(values, dtype=float) for values in zip(*parts, strict=True))
    weight = n_networks / n_networks.sum()
    terms = weight**2 * variance
    total = float(terms.sum())
    # Without spread every number of degrees gives the same interval, of width zero.
    pooled_degrees = total**2 / (terms**2 / degrees).sum() if total > 0 else degrees.sum()
    return float((weight * mean).sum()), math.sqrt(total), float(pooled_degrees)


def _other_networks(effects: Sequence[float]) -> tuple[float, float] | None:
    n = len(effects)
    if n < 2:
        return None
    half_width = float(t_half_width(np.std(effects, ddof=1) / np.sqrt(n), n - 1))
    mean = float(np.mean(effects))
    return mean - half_width, mean + half_width


def _effect(mean: float, error: float, degrees: float) -> Effect:
    half_width = float(t_half_width(error, degrees))
    if np.isnan(half_width):
        return Effect(mean=mean, low=None, high=None)
    return Effect(mean=mean, low=mean - half_width, high=mean + half_width)


def _decided(claim: Claim, effect: Effect) -> Verdict:
    """Return on which side of the claim's number the whole interval lies."""
    if effect.low is None or effect.high is None:
        return "undecided"
    worst, best = sorted((claim.margin(effect.low), claim.margin(effect.high)))
    return "supported" if worst > 0 else "contradicted" if best < 0 else "undecided"


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
