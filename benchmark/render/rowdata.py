"""The rows behind the numbers, as scripts that the page of rows loads one at a time."""

from typing import Any

import pandas as pd

from pruneboard.benchmark.render.payload import embed_json

_JOB_COLUMNS = (
    *("key", "model", "granularity", "seed", "status", "reason", "suite_version", "criterion_version", "parameters"),
    *("score_seconds", "evaluation", "device", "threads", "python", "torch", "timm", "zennit", "pruneboard", "commit"),
    *("clean", "time_utc", "dataset", "data_digest", "weights_digest", "suite_digest", "criterion_digest", "tuning"),
)
_POINT_COLUMNS = (
    *("shots", "rate", "n_units_removed", "top1", "top5", "cross_entropy", "n_images", "params_left", "macs_left"),
)
ROW_COLUMNS = ("suite", "criterion", *_JOB_COLUMNS, *_POINT_COLUMNS, "stale")
"""What `rows_script` reads."""

_ORDER = ["model", "granularity", "seed", "key", "shots", "rate"]


def rows_script(rows: pd.DataFrame, suite: str, criterion: str, file: str) -> str:
    """Return a script that hands the rows of one criterion to the page.

    Args:
        rows: its rows, with a column `stale`.
        suite: suite.
        criterion: displayed name.
        file: name under which the page asked for them.
    """
    ordered = rows.sort_values(_ORDER, kind="stable", ignore_index=True)
    jobs = ordered.drop_duplicates("key")
    number = {key: i for i, key in enumerate(jobs["key"])}
    points = ordered.loc[ordered["status"] == "ok"]
    content = {
        "suite": suite,
        "criterion": criterion,
        "jobs": {name: _plain(jobs[name]) for name in (*_JOB_COLUMNS, "stale")},
        "points": {
            "job": [number[key] for key in points["key"]],
            **{name: _plain(points[name]) for name in _POINT_COLUMNS},
        },
    }
    return f"pruneboard.receive({embed_json(file)},{embed_json(content)});\n"


def _plain(values: "pd.Series[Any]") -> Any:
    """Return a column as JSON has it; one that is the same everywhere as that one value in a list of its own."""
    if pd.api.types.is_float_dtype(values):
        values = values.round(6)
    listed = values.astype(object).where(values.notna(), None).tolist()
    if listed and all(value == listed[0] and type(value) is type(listed[0]) for value in listed):
        return {"every": _native(listed[0])}
    return [_native(value) for value in listed]


def _native(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
