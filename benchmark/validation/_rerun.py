"""Published jobs that are run again: which ones, and whether they give what was published."""

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pruneboard.benchmark.schema import TUNED_SUFFIX, Job, Suite, Tuned
from pruneboard.benchmark.stats import t_p_value

MEAN_TOLERANCE = 0.01
"""How far A_PR may be off on another device, with another release of PyTorch or number of threads, or in float32 again
what was measured in less."""

POINT_TOLERANCE = 0.05
"""How far the accuracy at one rate and number of shots may be off there: rounding decides between units of near
scores."""

SIZE_TOLERANCE = 0.05
"""How far parameters and multiply-accumulates left may be off there, of all."""

DRIFT_LEVEL = 0.001
"""Probability with which the mean of honest differences elsewhere is taken for a lie."""

LEAST_DRIFT = 0.001
"""Mean signed difference of accuracies over the jobs that is never taken for one."""

LOSS_TOLERANCE = 1e-6
"""How far, relatively, the cross-entropy may be off on the same device: the order of a sum is no part of a result."""

_FEWEST_DRIFTS = 3
_LEAST_SPREAD = 1e-4
"""Jobs that are all off by exactly as much are no more certain than rounding lets them be."""

_EXACT = ("top1", "top5", "n_images", "n_units_removed", "params_left", "macs_left")
_COUNTS = ("n_images", "n_units_removed")
_DECLARED = ("dataset", "model_family", "criterion_family", "criterion_needs", "criterion_source")
_SIZES = (("params_left", "params_total"), ("macs_left", "macs_total"))


def sample(rows: pd.DataFrame, n_jobs: int, seed: int) -> list[str]:
    """Choose jobs at random, and return their keys.

    Args:
        rows: a table with the columns of `schema.Row`; jobs that failed are never chosen.
        n_jobs: how many, or all where there are fewer.
        seed: the same seed chooses the same jobs from the same rows.
    """
    jobs = rows.drop_duplicates("key")
    keys = sorted(jobs.loc[jobs["status"] != "failed", "key"])
    return random.Random(seed).sample(keys, min(n_jobs, len(keys)))


def job_of(row: pd.Series, suite: Suite) -> Job:
    """Return the job of a row."""
    tuned = None
    if row["tuning"]:
        tuned = Tuned(
            base=str(row["criterion"]).removesuffix(TUNED_SUFFIX),
            parameters=str(row["parameters"]),
            study=str(row["tuning"]),
            n_trials=int(row["tuned_trials"]),
            n_images=int(row["tuned_images"]),
        )
    return Job(
        suite=suite,
        model=str(row["model"]),
        granularity=row["granularity"],
        criterion=str(row["criterion"]),
        seed=int(row["seed"]),
        tuned=tuned,
    )


def is_same_machine(published: pd.Series, measured: pd.Series) -> bool:
    """Whether two rows come from devices, releases of PyTorch, threads and precisions that give equal numbers."""
    return all(str(published[name]) == str(measured[name]) for name in ("device", "torch", "threads", "evaluation"))


def rerun_faults(published: pd.DataFrame, measured: pd.DataFrame) -> Iterator[str]:
    """Yield how one job, run again, differs from what was published.

    On the same device, with the same release of PyTorch and number of threads, accuracies and counts must be equal, and
    the cross-entropy up to `LOSS_TOLERANCE`. Elsewhere counts of images and removed units must be equal, A_PR may be
    off by `MEAN_TOLERANCE`, each accuracy by `POINT_TOLERANCE`, and each size by `SIZE_TOLERANCE`.

    Args:
        published: the rows of the job in the results folder.
        measured: its rows now.
    """
    old, new = published.iloc[0], measured.iloc[0]
    what = f"{old['model']} / {old['granularity']} / {old['criterion']} / seed {old['seed']}"
    if old["status"] != new["status"]:
        reason = f" ({new['reason']})" if new["reason"] else ""
        yield f"a job must end as it was published, {old['status']}, but {what} is now {new['status']}{reason}."
        return
    same_source = old["criterion_digest"] == new["criterion_digest"]
    for column in (*_DECLARED, "parameters") if same_source else _DECLARED:
        if str(old[column]) != str(new[column]):
            yield f"`{column}` must be what the job says now, {new[column]}, but {old[column]} is published for {what}."
            return
    if old["status"] != "ok":
        return
    both = published.merge(measured, on=["shots", "rate"], suffixes=("", "_now"))
    if len(both) != len(published):
        yield (
            f"a job must have the points that were published, but of {what} {len(published) - len(both)} are "
            "missing now."
        )
        return
    same = is_same_machine(old, new)
    for column in _EXACT if same else _COUNTS:
        differs = both[column].astype(float) != both[f"{column}_now"].astype(float)
        if differs.any():
            line = both[differs].iloc[0]
            yield (
                f"`{column}` must be what the same job gives again{' on the same device' if same else ''}, "
                f"{line[f'{column}_now']:.9g}, but {line[column]:.9g} is published for {what} / shots "
                f"{line['shots']} / rate {line['rate']:g} ({int(differs.sum())} of {len(both)} points differ)."
            )
            return
    loss, loss_now = (both[name].astype(float) for name in ("cross_entropy", "cross_entropy_now"))
    if same and not np.allclose(loss, loss_now, rtol=LOSS_TOLERANCE, atol=LOSS_TOLERANCE):
        yield (
            f"`cross_entropy` must be what the same job gives again, within {LOSS_TOLERANCE:g}, but of {what} it "
            "is not."
        )
        return
    if same:
        return
    off = (both["top1"] - both["top1_now"]).astype(float)
    mean = float(np.abs(off.groupby(both["shots"]).mean()).max())
    if mean > MEAN_TOLERANCE or float(off.abs().max()) > POINT_TOLERANCE:
        yield (
            f"on another device A_PR must be within {MEAN_TOLERANCE} of what was published and each accuracy within "
            f"{POINT_TOLERANCE}, but of {what} they are off by up to {mean:.4f} and {float(off.abs().max()):.4f}."
        )
        return
    for left, total in _SIZES:
        apart = ((both[left] - both[f"{left}_now"]) / both[total]).astype(float).abs().max()
        if apart > SIZE_TOLERANCE:
            yield (
                f"on another device `{left}` must be within {SIZE_TOLERANCE} of `{total}`, but of {what} it is off by "
                f"{apart:.4f}."
            )
            return


def drift(published: pd.DataFrame, measured: pd.DataFrame) -> float | None:
    """Return the mean signed difference of a job's accuracies, published - now; None where they must be equal."""
    if published.iloc[0]["status"] != "ok" or is_same_machine(published.iloc[0], measured.iloc[0]):
        return None
    both = published.merge(measured, on=["shots", "rate"], suffixes=("", "_now"))
    return float((both["top1"] - both["top1_now"]).astype(float).mean()) if len(both) else None


def drift_fault(drifts: Sequence[float]) -> str | None:
    """Return what the signed differences of several jobs say together; None when nothing.

    Rounding moves accuracies up as often as down, so that small lies that keep within the tolerances of every job show
    in the mean over jobs. Method: Student's t, two-sided, at `DRIFT_LEVEL`; assumption: honest differences are
    independent, about normal, and of mean 0.
    """
    n, mean = len(drifts), float(np.mean(drifts)) if drifts else 0.0
    if n < _FEWEST_DRIFTS or abs(mean) <= LEAST_DRIFT:
        return None
    error = max(float(np.std(drifts, ddof=1)), _LEAST_SPREAD) / math.sqrt(n)
    if float(t_p_value(mean, error, n - 1)) > DRIFT_LEVEL:
        return None
    return (
        f"differences on another device must be up as often as down, but over {n} jobs what is published is "
        f"{mean:+.4f} off in the mean, {abs(mean) / error:.1f} standard errors; measure the table again."
    )


def same_source(published: Sequence[pd.Series], measured: Sequence[pd.Series]) -> int:
    """Return how many of some jobs still have their published key, so that nothing that decides them has changed."""
    return sum(old["key"] == new["key"] for old, new in zip(published, measured, strict=True))
