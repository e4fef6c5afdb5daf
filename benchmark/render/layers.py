"""Which layers a criterion removes units from."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

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
    """
    known = rows.loc[(rows["units_left"].fillna("") != "") & (rows["layers"].fillna("") != "")]
    answer: dict[str, dict[str, Any]] = {}
    for model, part in known.groupby("model", sort=True):
        layers: dict[str, int] = json.loads(str(part["layers"].iloc[0]))
        units = np.array(list(layers.values()), dtype=float)
        # Rows of networks that were changed under one name cannot be averaged layer by layer.
        part = part.loc[part["layers"] == part["layers"].iloc[0]]
        rates = _spread([float(rate) for rate in sorted(part["rate"].unique()) if rate > 0])
        removed = [_of_criterion(part.loc[part["criterion"] == name], rates, units) for name in criteria]
        answer[str(model)] = {
            "names": list(layers),
            "units": list(layers.values()),
            "rates": rates,
            "removed": removed,
        }
    return answer


def _spread(rates: Sequence[float]) -> list[float]:
    """Return about ten of the rates, evenly spread, so that a page stays small."""
    step = max(1, round(len(rates) / _N_RATES))
    return list(rates)[step - 1 :: step]


def _of_criterion(rows: pd.DataFrame, rates: Sequence[float], units: np.ndarray) -> list[list[int]] | None:
    if rows.empty:
        return None
    answer = []
    for rate in rates:
        left = [np.array(text.split(), dtype=float) for text in rows.loc[rows["rate"] == rate, "units_left"]]
        share = 1 - np.mean(left, axis=0) / units
        answer.append([round(100 * value) for value in share])
    return answer
