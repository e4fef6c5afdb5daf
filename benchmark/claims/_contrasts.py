"""The kinds of contrast: from areas under curves to one difference per network and seed."""

from collections.abc import Callable, Mapping

import pandas as pd

from pruneboard.benchmark.claims._load import Claim, Kind

COLUMNS = ("contrast", "suite", "model", "granularity", "seed", "difference")
"""What a contrast gives: its name, the network, the seed, and the difference in percentage points."""

_NETWORK = ["suite", "model", "granularity"]


def differences(claim: Claim, areas: pd.DataFrame) -> pd.DataFrame:
    """Return the paired differences that a claim is about, sorted.

    Each is the mean over the shots of one seed that both sides have.

    Args:
        claim: the claim.
        areas: what `area_under_curve` returns, with `model_family`, `data_digest` and `protocol` of each line.

    Returns:
        A line per contrast, network and seed with the columns `COLUMNS`; none where rows are missing.
    """
    chosen = areas.assign(value=100 * areas[claim.metric])
    if claim.shots:
        chosen = chosen.loc[chosen["shots"].isin(claim.shots)]
    if claim.granularities:
        chosen = chosen.loc[chosen["granularity"].isin(claim.granularities)]
    table = _KINDS[claim.kind](claim, chosen)
    keys = list(COLUMNS[:-1])
    return table.groupby(keys, sort=True)["difference"].mean().reset_index()


def _criteria(claim: Claim, areas: pd.DataFrame) -> pd.DataFrame:
    own = areas.loc[areas["protocol"] == claim.protocol]
    return _leads(claim, own).rename(columns={"rival": "contrast"})


def _protocols(claim: Claim, areas: pd.DataFrame) -> pd.DataFrame:
    key = ["rival", "data_digest", "model", "granularity", "seed", "shots"]
    with_, without = (
        _leads(claim, areas.loc[areas["protocol"] == protocol]) for protocol in (claim.other_protocol, claim.protocol)
    )
    both = with_.merge(without.drop(columns="suite"), on=key, suffixes=("_with", "_without"))
    both["difference"] = both["difference_without"] - both["difference_with"]
    return both.rename(columns={"rival": "contrast"})


def _leads(claim: Claim, areas: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the claim's criterion leads each rival, by network, seed and shots."""
    key = [*_NETWORK, "data_digest", "seed", "shots"]
    own = areas.loc[areas["criterion"] == claim.criterion, [*key, "value"]]
    rivals = areas.loc[areas["criterion"].isin(claim.rivals), [*key, "criterion", "value"]]
    both = own.merge(rivals.rename(columns={"criterion": "rival"}), on=key, suffixes=("", "_rival"))
    both["difference"] = both["value"] - both["value_rival"]
    return both[[*key, "rival", "difference"]]


def _shots(claim: Claim, areas: pd.DataFrame) -> pd.DataFrame:
    own = areas.loc[(areas["protocol"] == claim.protocol) & (areas["criterion"] == claim.criterion)]
    few = own.loc[own["shots"] == claim.few_shots, [*_NETWORK, "seed", "value"]]
    more = own.loc[own["shots"] > (claim.few_shots or 0)]
    most = more.loc[more["shots"] == more.groupby(_NETWORK)["shots"].transform("max"), [*_NETWORK, "seed", "value"]]
    both = most.merge(few, on=[*_NETWORK, "seed"], suffixes=("_most", "_few"))
    both["difference"] = both["value_most"] - both["value_few"]
    return both.assign(contrast=f"{claim.few_shots} shots")


def _families(claim: Claim, areas: pd.DataFrame) -> pd.DataFrame:
    own = areas.loc[(areas["protocol"] == claim.protocol) & (areas["criterion"] == claim.criterion)]
    key = ["suite", "data_digest", "seed", "shots"]
    of_some = own.loc[own["model_family"].isin(claim.families), [*key, "model", "granularity", "value"]]
    others = own.loc[own["model_family"].isin(claim.other_families)]
    mean = others.groupby(key)["value"].mean().reset_index()
    both = of_some.merge(mean, on=key, suffixes=("", "_others"))
    both["difference"] = both["value"] - both["value_others"]
    return both.assign(contrast=" ".join(claim.other_families))


_KINDS: Mapping[Kind, Callable[[Claim, pd.DataFrame], pd.DataFrame]] = {
    "criteria": _criteria,
    "shots": _shots,
    "families": _families,
    "protocols": _protocols,
}


def contrast_names(claim: Claim) -> tuple[str, ...]:
    """Return the names of a claim's contrasts, measured or not."""
    match claim.kind:
        case "shots":
            return (f"{claim.few_shots} shots",)
        case "families":
            return (" ".join(claim.other_families),)
        case _:
            return claim.rivals
