"""Rows of older versions of the schema, brought to the present one step by step.

Each step is a pure function from the rows of one version to those of the next; nothing of what was measured changes.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from pruneboard.benchmark.schema import SCHEMA_VERSION


def _to_2(rows: pd.DataFrame) -> pd.DataFrame:
    """Nothing was tuned before version 2."""
    return rows.assign(tuned_trials=None, tuned_images=None, tuning="")


def _to_3(rows: pd.DataFrame) -> pd.DataFrame:
    """Every accuracy was measured on the whole network under masks before version 3."""
    return rows.assign(evaluation=np.where(rows["status"].astype(str) == "ok", "masked", ""))


def _to_4(rows: pd.DataFrame) -> pd.DataFrame:
    """All units were removed at once before version 4."""
    return rows.assign(protocol="one_shot", finetuning="")


def _to_5(rows: pd.DataFrame) -> pd.DataFrame:
    """Which layers lost their units was not kept before version 5."""
    return rows.assign(layers="", units_left="")


def _to_6(rows: pd.DataFrame) -> pd.DataFrame:
    """All classes of a data set were taken before version 6."""
    return rows.assign(task="")


_STEPS: Mapping[int, Callable[[pd.DataFrame], pd.DataFrame]] = {1: _to_2, 2: _to_3, 3: _to_4, 4: _to_5, 5: _to_6}
"""By the version that a step starts from."""

OLDEST = min(_STEPS)
"""The oldest version that is read."""


def migrate(rows: pd.DataFrame, version: int) -> pd.DataFrame:
    """Return rows of a version, at least `OLDEST`, as rows of the present one, with columns in any order."""
    for step in range(version, SCHEMA_VERSION):
        rows = _STEPS[step](rows)
    return rows.assign(schema_version=SCHEMA_VERSION)
