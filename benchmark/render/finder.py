"""What the front page's finder knows: accuracy that is lost at each rate, and what can be told apart from the best."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from pruneboard.benchmark.render.links import slug
from pruneboard.benchmark.schema import GRANULARITIES, HERE_SUFFIX, PROTOCOLS, Suite
from pruneboard.benchmark.stats import ALPHA, CONFIDENCE, holm

EMBEDDED_DATASETS = frozenset({"digits"})
"""Data sets that come with a library and need no download, so that a command is sure to run."""

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
_NETWORK = ["suite", "model"]


def kind_of(family: str) -> str | None:
    """Return `CNN` or `transformer` for a family of networks; None for perceptrons, which the finder leaves out."""
    return None if family == "MLP" else _KINDS.get(family, "CNN")


def finder_data(rows: pd.DataFrame, suites: Sequence[Suite], tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Gather losses for every kind of network, kind of unit and protocol.

    Method: the loss is the unpruned accuracy minus that at a rate; within each seed the mean over the networks, then
    over the seeds the mean and the two-sided 95 % Student-t interval. A criterion is behind the best one that may be
    used when the paired t test over seeds, with Holm's correction, tells them apart. Of several networks only what all
    of them have is compared; what that leaves out is named, and each network has an answer of its own. A network that
    several suites measure is pooled once, from the suite with the most criteria.

    Args:
        rows: a table with the columns of `schema.Row`, displayed names.
        suites: suites of the rows.
        tags: what each displayed name looks at.

    Returns:
        A record for each group, in order of kind, kind of unit and protocol. Its `answers` are that of all networks
        together, where there are several, and that of each; losses are whole hundredths of a percent.
    """
    known = rows.assign(kind=rows["model_family"].map(kind_of)).dropna(subset=["kind"])
    # A suite of two rates is no grid of rates that one could look anything up in.
    gridded = {suite.name for suite in suites if len(suite.rates) > 2}
    known = known.loc[known["suite"].isin(gridded)]
    groups = []
    for (kind, granularity, protocol), part in known.groupby(["kind", "granularity", "protocol"], sort=True):
        answers = _answers(part, tags)
        if answers:
            group = {"kind": str(kind), "granularity": str(granularity), "protocol": str(protocol)}
            groups.append({**group, "answers": answers})
    return sorted(groups, key=_place)


def _place(group: Mapping[str, Any]) -> tuple[int, int, int]:
    places = (_KIND_ORDER, GRANULARITIES, PROTOCOLS)
    return tuple(  # type: ignore[return-value]
        order.index(group[name]) if group[name] in order else len(order)
        for name, order in zip(("kind", "granularity", "protocol"), places, strict=True)
    )


def _answers(rows: pd.DataFrame, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    measured = rows.loc[rows["status"] == "ok", [*_NETWORK, "dataset"]].drop_duplicates(_NETWORK)
    networks = measured.sort_values(_NETWORK, ignore_index=True).reset_index(names="network")
    known = rows.merge(networks[[*_NETWORK, "network"]], on=_NETWORK, validate="many_to_one")
    tried = known[["network", "criterion", "status"]].drop_duplicates()
    points = _losses(known.loc[known["status"] == "ok"])
    singles = [networks.iloc[[place]] for place in range(len(networks))]
    pooled = _once_each(networks, tried)
    parts = [pooled, *singles] if len(pooled) > 1 else singles
    answers = [_answer(part, tried, points, tags) for part in parts]
    return [answer for answer in answers if answer is not None]


def _once_each(networks: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
    """Keep of a network that several suites measure the one with the most criteria, so that it counts once."""
    n_criteria = tried.loc[tried["status"] == "ok"].groupby("network")["criterion"].nunique()
    richest = networks.assign(n=networks["network"].map(n_criteria)).sort_values("n", ascending=False, kind="stable")
    return networks.loc[networks.index.isin(richest.drop_duplicates("model").index)]


def _losses(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of the unpruned network, and what is lost of it, by network, criterion, seed, shots, rate."""
    cell = ["network", "criterion", "seed", "shots"]
    points = measured[[*cell, "rate", "top1"]].astype({"seed": int, "shots": int, "rate": float, "top1": float})
    unpruned = points.loc[points["rate"] == 0, [*cell, "top1"]].rename(columns={"top1": "unpruned"})
    points = points.merge(unpruned, on=cell, validate="many_to_one")
    return points.assign(loss=points["unpruned"] - points["top1"])


def _answer(
    networks: pd.DataFrame, tried: pd.DataFrame, points: pd.DataFrame, tags: Mapping[str, str]
) -> dict[str, Any] | None:
    """Compare the criteria on some of the networks; None where no criterion has all that is compared."""
    tried, points = (table.loc[table["network"].isin(networks["network"])] for table in (tried, points))
    shared = _shared(points, len(networks))
    left_out = _left_out(tried, shared, list(networks["network"]))
    compared = shared.loc[~shared["criterion"].isin([criterion["name"] for criterion in left_out])]
    if not (compared["rate"] > 0).any():
        return None
    names, shots, rates, seeds = (sorted(compared[column].unique().tolist()) for column in _AXES)
    losses = compared.sort_values([*_AXES, "network"])["loss"].to_numpy()
    losses = losses.reshape(len(names), len(shots), len(rates), len(seeds), len(networks))
    over_networks = losses.mean(axis=-1)
    mean, half_width = _interval(over_networks)
    unpruned = compared.groupby("network", sort=True)["unpruned"].mean().to_numpy()
    allowed = _allowed([tags[name] for name in names])
    return {
        "networks": [_network(record) for record in networks.to_dict("records")],
        "criteria": [_criterion(name, tags) for name in names],
        "shots": shots,
        "rates": rates,
        "n_seeds": len(seeds),
        # Other seeds than those that all networks have are not averaged.
        "seeds": None if len(seeds) == points["seed"].nunique() else ".".join(map(str, seeds)),
        "unpruned": int(np.rint(_UNIT * unpruned.mean())),
        "unpruned_by_network": _whole(unpruned),
        "loss": _whole(mean),
        "half_width": None if half_width is None else _whole(half_width),
        "loss_by_network": _whole(losses.mean(axis=-2)),
        "behind": {key: _behind(over_networks, lets_in) for key, lets_in in allowed.items()},
        "left_out": left_out,
        "shots_left_out": sorted(set(points["shots"].unique().tolist()) - set(shots)),
    }


def _shared(points: pd.DataFrame, n_networks: int) -> pd.DataFrame:
    """Keep the shots, rates and seeds that all networks have."""
    for column in ("shots", "rate", "seed"):
        having = points[["network", column]].drop_duplicates()[column].value_counts()
        points = points.loc[points[column].isin(having.index[having == n_networks])]
    return points


def _left_out(tried: pd.DataFrame, shared: pd.DataFrame, networks: Sequence[int]) -> list[dict[str, Any]]:
    """Say of each criterion that lacks a number of shots, a rate or a seed what it is, by the place of the network."""
    n_cells = shared["shots"].nunique() * shared["rate"].nunique() * shared["seed"].nunique()
    sizes = shared.groupby(["network", "criterion"]).size().to_dict()
    statuses = tried.groupby(["network", "criterion"])["status"].agg(set).to_dict()
    lacking = {
        name: [
            [place, _why_not(statuses.get((network, name), set()))]
            for place, network in enumerate(networks)
            if sizes.get((network, name), 0) < n_cells
        ]
        for name in sorted(tried["criterion"].unique())
    }
    return [{"name": str(name), "slug": slug(str(name)), "lacks": lacks} for name, lacks in lacking.items() if lacks]


def _why_not(statuses: Collection[str]) -> str:
    if not statuses:
        return "not measured"
    if "ok" in statuses:
        return "incomplete"
    return "failed" if "failed" in statuses else "declined"


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


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return mean and half of the interval's width along the last axis; one value has no interval."""
    n = values.shape[-1]
    mean = values.mean(axis=-1)
    if n < 2:
        return mean, None
    return mean, stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * values.std(axis=-1, ddof=1) / np.sqrt(n)


def _network(record: Mapping[Hashable, Any]) -> dict[str, Any]:
    dataset = str(record["dataset"])
    return {
        "suite": str(record["suite"]),
        "model": str(record["model"]),
        "dataset": dataset,
        "embedded": dataset in EMBEDDED_DATASETS,
    }


def _criterion(name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    registered = name.removesuffix(HERE_SUFFIX)
    tuned = registered.endswith(" (tuned)")
    return {
        "name": name,
        "registered": registered.removesuffix(" (tuned)"),
        "tuned": tuned,
        "slug": slug(name),
        "needs": tags[name],
    }


def _whole(values: np.ndarray) -> Any:
    return np.rint(_UNIT * values).astype(int).tolist()
