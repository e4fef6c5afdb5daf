"""A_PR of all criteria in each cell, as scripts that the page of rows loads to compare one with all others."""

from typing import Any

import numpy as np
import pandas as pd

from pruneboard.benchmark.render.payload import embed_json

_CELL = ["model", "granularity", "seed", "shots"]
_DECIMALS = 8  # accuracies differ by more than that, since they are shares of fewer images


def areas_script(suite: str, areas: pd.DataFrame) -> str:
    """Return the script of one suite.

    Args:
        suite: suite.
        areas: what `stats.area_under_curve` returns for its rows, with displayed names.

    Returns:
        A call that hands the page `cells` (network, granularity, seed, shots) and, by criterion, A_PR in each of them
        (None where it has no result) in units of 1e-8.
    """
    grid = areas.pivot(index=_CELL, columns="criterion", values="a_pr").sort_index()
    scaled = np.rint(grid.to_numpy(dtype=float).T * 10**_DECIMALS)
    content: dict[str, Any] = {
        "suite": suite,
        "cells": [
            [str(model), str(granularity), int(seed), int(shots)] for model, granularity, seed, shots in grid.index
        ],
        "a_pr": {
            str(name): [None if np.isnan(value) else int(value) for value in values]
            for name, values in zip(grid.columns, scaled, strict=True)
        },
    }
    return f"pruneboard.receive({embed_json(f'areas/{suite}')},{embed_json(content)});\n"
