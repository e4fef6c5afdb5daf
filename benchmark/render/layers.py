"""Which layers a criterion removes units from."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pruneboard.benchmark.errors import SiteError

_N_RATES = 10


def layers_removed(rows: pd.DataFrame, criteria: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the share of each layer's units that is gone, mean over seeds, for each network.

    Args:
        rows: rows of one suite, granularity and number of shots whose status is `ok`; those of an older schema, which
            say nothing of layers, are left out.
        criteria: names in the order of the answer.

    Returns:
        By network: `names` and `units` of its layers, `rates`, and `removed` in whole percent, by criterion (in the
        order of `criteria`, None without rows), rate and layer.

    Raises:
        SiteError: a row does not say how many units each layer has left.
    """
    known = rows.loc[(rows["units_left"].fillna("") != "") & (rows["layers"].fillna("") != "")]
    answer: dict[str, dict[str, Any]] = {}
    for model, part in known.groupby("model", sort=True):
        layers: dict[str, int] = json.loads(str(part["layers"].iloc[0]))
        # Rows of networks that were changed under one name cannot be averaged layer by layer.
        part = part.loc[part["layers"] == part["layers"].iloc[0]]
        rates = _spread([float(rate) for rate in sorted(part["rate"].unique()) if rate > 0])
        answer[str(model)] = {
            "names": list(layers),
            "units": list(layers.values()),
            "rates": rates,
            "removed": _removed(part.loc[part["rate"].isin(rates)], criteria, rates, list(layers.values())),
        }
    return answer


def _spread(rates: Sequence[float]) -> list[float]:
    """Return about ten of the rates, evenly spread, so that a page stays small."""
    step = max(1, round(len(rates) / _N_RATES))
    return list(rates)[step - 1 :: step]


def _removed(
    rows: pd.DataFrame, criteria: Sequence[str], rates: Sequence[float], units: Sequence[int]
) -> list[list[list[int]] | None]:
    try:
        left = np.array(" ".join(rows["units_left"]).split(), dtype=float).reshape(len(rows), len(units))
    except ValueError as error:
        raise SiteError(
            f"`units_left` must hold a number for each of the {len(units)} layers in `layers`, but a row of "
            f"{rows['suite'].iloc[0]} / {rows['model'].iloc[0]} does not; measure that job again."
        ) from error
    places = rows.groupby(["criterion", "rate"], sort=False).indices
    return [
        [_percent(1 - left[places[name, rate]].mean(axis=0) / units) for rate in rates]
        if rates and all((name, rate) in places for rate in rates)
        else None
        for name in criteria
    ]


def _percent(shares: np.ndarray) -> list[int]:
    return [round(100 * share) for share in shares.tolist()]
