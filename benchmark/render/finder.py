"""What the front page's finder knows: accuracy that is lost at each rate, and what can be told apart from the best."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from pruneboard.benchmark.render.links import slug
from pruneboard.benchmark.schema import GRANULARITIES, PROTOCOLS, TUNED_SUFFIX, Suite
from pruneboard.benchmark.stats import ALPHA, CONFIDENCE, holm

_KINDS = {"ViT": "transformer", "VGG": "CNN", "ResNet": "CNN", "MobileNetV2": "CNN"}
_MAY_USE: Mapping[str, Callable[[str], bool]] = {
    "any": lambda needs: True,
    "data": lambda needs: "tuning" not in needs,
    "images": lambda needs: needs in ("nothing", "images"),
    "free": lambda needs: needs == "nothing",
}
_KIND_ORDER = ("CNN", "transformer")
_UNIT = 10_000
_AXES = ["criterion", "shots", "rate", "seed"]


def kind_of(family: str) -> str | None:
    """Return `CNN` or `transformer` for a family of networks; None for perceptrons, which the finder leaves out."""
    return None if family == "MLP" else _KINDS.get(family, "CNN")


def finder_data(rows: pd.DataFrame, suites: Sequence[Suite], tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Gather losses for every kind of network, kind of unit and protocol.

    Method: the loss is the unpruned accuracy minus that at a rate; within each seed the mean over the networks, then
    over the seeds the mean and the two-sided 95 % Student-t interval. A criterion is behind the best one that may be
    used when the paired t test over seeds, with Holm's correction, tells them apart. Only criteria with results in
    every cell of a network that any criterion has are compared.

    Args:
        rows: a table with the columns of `schema.Row`, displayed names.
        suites: suites of the rows.
        tags: what each displayed name looks at.

    Returns:
        A record for each group, in order of kind, kind of unit and protocol, with whole hundredths of a percent.
    """
    measured = rows.loc[rows["status"] == "ok"]
    measured = measured.assign(kind=measured["model_family"].map(kind_of)).dropna(subset=["kind"])
    # A suite of two rates is no grid of rates that one could look anything up in.
    gridded = {suite.name for suite in suites if len(suite.rates) > 2}
    measured = measured.loc[measured["suite"].isin(gridded)]
    groups = []
    for (kind, granularity, protocol), part in measured.groupby(["kind", "granularity", "protocol"], sort=True):
        group = _group(part, tags)
        if group is not None:
            groups.append({"kind": str(kind), "granularity": str(granularity), "protocol": str(protocol), **group})
    return sorted(groups, key=_place)


def _place(group: Mapping[str, Any]) -> tuple[int, int, int]:
    places = (_KIND_ORDER, GRANULARITIES, PROTOCOLS)
    return tuple(  # type: ignore[return-value]
        order.index(group[name]) if group[name] in order else len(order)
        for name, order in zip(("kind", "granularity", "protocol"), places, strict=True)
    )


def _group(rows: pd.DataFrame, tags: Mapping[str, str]) -> dict[str, Any] | None:
    networks = rows[["suite", "model"]].drop_duplicates().sort_values(["suite", "model"])
    cell = ["suite", "model", "criterion", "seed", "shots"]
    points = rows[[*cell, "rate", "top1"]].astype({"seed": int, "shots": int, "rate": float, "top1": float})
    unpruned = points.loc[points["rate"] == 0, [*cell, "top1"]].rename(columns={"top1": "unpruned"})
    points = points.merge(unpruned, on=cell, validate="many_to_one")
    points["loss"] = points["unpruned"] - points["top1"]
    n_seeds = points["seed"].nunique()
    points = _common(points, len(networks))
    if points.empty:
        return None
    loss = points.groupby(_AXES, sort=True)["loss"].mean().unstack("seed")
    names = list(dict.fromkeys(loss.index.get_level_values("criterion")))
    shots = sorted(set(loss.index.get_level_values("shots")))
    rates = sorted(set(loss.index.get_level_values("rate")))
    values = loss.to_numpy().reshape(len(names), len(shots), len(rates), -1)
    mean, half_width = _interval(values)
    return {
        "networks": [{"suite": str(suite), "model": str(model)} for suite, model in networks.itertuples(index=False)],
        "criteria": [_criterion(name, tags) for name in names],
        "shots": shots,
        "rates": rates,
        "n_seeds": values.shape[-1],
        # Other seeds than those that all networks have are not averaged.
        "seeds": None if loss.shape[1] == n_seeds else ".".join(map(str, loss.columns)),
        "unpruned": int(np.rint(_UNIT * points["unpruned"].mean())),
        "loss": _whole(mean),
        "half_width": _whole(half_width),
        "behind": {key: _behind(values, allowed) for key, allowed in _allowed([tags[name] for name in names]).items()},
    }


def _allowed(needs: Sequence[str]) -> dict[str, np.ndarray]:
    """Return which criteria each answer to what a criterion may use lets in."""
    return {name: np.array([fits(text) for text in needs], dtype=bool) for name, fits in _MAY_USE.items()}


def _behind(values: np.ndarray, allowed: np.ndarray) -> list[list[str]]:
    """Tell by criterion, shots and rate (a digit each) which are behind the best of the allowed ones.

    The differences to the best are paired by seed, and tested by the two-sided paired t test with Holm's correction for
    the other allowed criteria; `1` where the corrected p value is at most 0.05.
    """
    answer = np.zeros(values.shape[:3], dtype=int)
    n = values.shape[-1]
    if allowed.sum() > 1 and n > 1:
        inside = values[allowed]
        best = inside.mean(axis=-1).argmin(axis=0)
        difference = np.round(inside - np.take_along_axis(inside, best[None, :, :, None], axis=0), 12)
        mean, error = difference.mean(axis=-1), difference.std(axis=-1, ddof=1) / np.sqrt(n)
        with np.errstate(divide="ignore", invalid="ignore"):
            p_values = np.where(mean == 0, 1.0, 2 * stdtr(n - 1, -np.abs(mean / error)))
        is_best = np.arange(len(inside))[:, None, None] == best[None]
        told = np.zeros_like(is_best)
        for shots, rate in np.ndindex(*best.shape):
            others = ~is_best[:, shots, rate]
            told[others, shots, rate] = holm(p_values[others, shots, rate]) <= ALPHA
        answer[allowed] = told
    return [["".join(map(str, line)) for line in block] for block in answer]


def _common(points: pd.DataFrame, n_networks: int) -> pd.DataFrame:
    """Keep the shots, rates and seeds that all networks have, and the criteria that have all of these."""
    for column in ("shots", "rate", "seed"):
        shared = points.groupby(column)[["suite", "model"]].apply(lambda part: len(part.drop_duplicates()))
        points = points.loc[points[column].isin(shared.index[shared == n_networks])]
    sizes = points.groupby("criterion").size()
    return points.loc[points["criterion"].isin(sizes.index[sizes == sizes.max()])]


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and half of the interval's width along the last axis, nan for one value."""
    n = values.shape[-1]
    mean = values.mean(axis=-1)
    if n < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * values.std(axis=-1, ddof=1) / np.sqrt(n)


def _criterion(name: str, tags: Mapping[str, str]) -> dict[str, str]:
    raw = name.removesuffix(" (tuned)") + TUNED_SUFFIX if name.endswith(" (tuned)") else name
    return {"name": name, "raw": raw, "slug": slug(name), "needs": tags[name]}


def _whole(values: np.ndarray) -> Any:
    scaled = np.rint(_UNIT * values)
    return [[[None if np.isnan(v) else int(v) for v in line] for line in block] for block in scaled]
