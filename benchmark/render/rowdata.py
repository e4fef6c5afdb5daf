"""The rows behind the numbers, as scripts that the page of rows loads one at a time."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pandas as pd

from pruneboard.benchmark.render.links import slug
from pruneboard.benchmark.render.payload import embed_json

_JOB_COLUMNS = (
    *("key", "model", "granularity", "seed", "status", "reason", "suite_version", "criterion_version", "parameters"),
    *("score_seconds", "score_peak_bytes", "evaluation", "device", "threads", "python", "torch", "timm", "zennit"),
    *("pruneboard", "commit", "clean", "time_utc", "dataset", "data_digest", "weights_digest", "suite_digest"),
    *("criterion_digest", "tuning", "stale"),
)
_POINT_COLUMNS = (
    *("shots", "rate", "n_units_removed", "top1", "top5", "cross_entropy", "n_images", "params_left", "macs_left"),
    *("params_total", "macs_total"),
)
_OF_ONE_FILE = ["suite", "criterion"]
_ORDER = [*_OF_ONE_FILE, "model", "granularity", "seed", "key", "shots", "rate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsFile:
    """The rows of one criterion in one suite.

    Attributes:
        suite: suite.
        criterion: displayed name.
        name: name under which the page asks for them.
        script: script that hands them to the page.
    """

    suite: str
    criterion: str
    name: str
    script: str


def rows_files(rows: pd.DataFrame) -> Iterator[RowsFile]:
    """Yield the rows of every criterion in every suite, by suite and criterion.

    Args:
        rows: a table with the columns of `schema.Row`, displayed names and a column `stale`.
    """
    ordered = rows.sort_values(_ORDER, kind="stable", ignore_index=True)
    jobs = ordered.drop_duplicates([*_OF_ONE_FILE, "key"])
    points = ordered.loc[ordered["status"] == "ok"]
    # Columns become lists once: there are a hundred small files, and each step of pandas costs more than their rows.
    job_lists = {name: _listed(jobs[name]) for name in _JOB_COLUMNS}
    point_lists = {name: _listed(points[name]) for name in ("key", *_POINT_COLUMNS)}
    n_jobs = jobs.groupby(_OF_ONE_FILE, sort=True).size()
    n_points = points.groupby(_OF_ONE_FILE, sort=True).size().reindex(n_jobs.index, fill_value=0)
    job, point = 0, 0
    for (suite, criterion), job_end, point_end in zip(n_jobs.index, n_jobs.cumsum(), n_points.cumsum(), strict=True):
        number = {key: i for i, key in enumerate(job_lists["key"][job:job_end])}
        content = {
            "suite": suite,
            "criterion": criterion,
            "jobs": {name: _shortened(values[job:job_end]) for name, values in job_lists.items()},
            "points": {
                "job": [number[key] for key in point_lists["key"][point:point_end]],
                **{name: _shortened(point_lists[name][point:point_end]) for name in _POINT_COLUMNS},
            },
        }
        job, point = job_end, point_end
        name = f"{suite}.{slug(criterion)}"
        script = f"pruneboard.receive({embed_json(name)},{embed_json(content)});\n"
        yield RowsFile(suite=suite, criterion=criterion, name=name, script=script)


def _listed(values: "pd.Series[Any]") -> list[Any]:
    """Return a column as JSON has it, None where it is empty."""
    if pd.api.types.is_float_dtype(values):
        values = values.round(6)
    return values.astype(object).where(values.notna(), None).tolist()


def _shortened(values: list[Any]) -> Any:
    """Return values that are all the same as that one value."""
    return {"every": values[0]} if values and values.count(values[0]) == len(values) else values
