"""Rows for tests that need no network."""

import dataclasses
import functools

from pruneboard.benchmark.schema import SCHEMA_VERSION, Job, Row, Suite
from pruneboard.benchmark.suites import load_suite, suite_path

_JOB = Row(
    schema_version=SCHEMA_VERSION,
    key="",
    suite="digits",
    suite_version=1,
    suite_digest="5" * 64,
    protocol="one_shot",
    dataset="digits",
    data_digest="d" * 64,
    model="digits_vgg",
    model_family="VGG",
    weights_digest="e" * 64,
    granularity="filters",
    criterion="taylor",
    criterion_family="gradient",
    criterion_version=1,
    criterion_digest="c" * 64,
    criterion_needs="labels",
    criterion_source="https://arxiv.org/abs/1611.06440",
    parameters='{"per_layer": "l2", "target": "loss"}',
    seed=0,
    status="ok",
    reason="",
    n_units=200,
    layers='{"a": 80, "b": 120}',
    params_total=1000,
    macs_total=5000,
    score_seconds=0.1234567890123,
    score_peak_bytes=None,
    job_seconds=1.5,
    device="cpu",
    threads=1,
    python="3.11.7",
    torch="2.9.0",
    timm="1.0.31",
    zennit="0.5.1",
    pruneboard="0.1.0",
    commit="a" * 40,
    clean=True,
    time_utc="2026-01-01T00:00:00+00:00",
    shots=None,
    rate=None,
    n_units_removed=None,
    top1=None,
    top5=None,
    cross_entropy=None,
    n_images=None,
    params_left=None,
    macs_left=None,
    units_left="",
)


def job_rows(*, key: str, rates=(0.0, 0.05, 0.1), shots=(1, 2), **changes) -> list[Row]:
    """Make the rows of one job; a job whose status is not ok has a single row."""
    job = dataclasses.replace(_JOB, key=key, **changes)
    if job.status != "ok":
        return [dataclasses.replace(job, n_units=None, params_total=None, macs_total=None, score_seconds=None)]
    return [
        dataclasses.replace(
            job,
            shots=k,
            rate=rate,
            n_units_removed=int(rate * 200),
            top1=1 / 3 - rate / 7 + k / 1000,
            top5=0.9,
            cross_entropy=0.1 + rate,
            n_images=599,
            params_left=1000,
            macs_left=5000,
            units_left=f"{80 - int(rate * 200)} 120",
        )
        for k in shots
        for rate in rates
    ]


@functools.cache
def _suite(name: str) -> Suite:
    return load_suite(suite_path(name))


def job_of(rows) -> Job:
    """Return the job that rows say they are of."""
    row = rows[0]
    return Job(
        suite=_suite(row.suite),
        model=row.model,
        granularity=row.granularity,
        criterion=row.criterion,
        seed=row.seed,
    )


def save(store, rows):
    """Save the rows of one job, and return the file."""
    return store.save(job_of(rows), rows)
