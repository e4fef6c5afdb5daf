"""Rules that the rows of one criterion keep by themselves: values, keys and grid."""

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np
import pandas as pd

from pruneboard.benchmark.schema import (
    ENGINE_VERSION,
    FAMILIES,
    GRANULARITIES,
    FineTuning,
    Granularity,
    JobIdentity,
    Needs,
    Precision,
    Suite,
    Task,
    n_removed,
    parse_json,
)

_EVALUATION = r"(compact|masked: .+)( in (bf16|tf32))?"
_MOST_MODEL_VERSIONS = 64
_ROUNDING = 1e-3
"""How far, relatively, a cross-entropy may be below what exact arithmetic allows."""
_MEASURED = ("top1", "top5", "cross_entropy", "params_left", "macs_left")
_UNITS = ["layers", "units_left", "n_units_removed", "n_units"]
_CELL = ["model", "granularity", "criterion", "seed"]
_WHOLE = 1e-6
"""How far the number of hits, accuracy times images, may be from a whole number: rounding in a CSV file."""


def row_faults(rows: pd.DataFrame, suite: Suite) -> Iterator[str]:
    """Yield what is wrong with the rows of one criterion, each kind of fault once, for the first row that has it.

    Args:
        rows: a table with the columns of `schema.Row`.
        suite: the suite as it is now.
    """
    jobs = rows.drop_duplicates("key")
    yield from _job_faults(jobs, suite)
    points = rows.loc[rows["status"] == "ok"]
    numbers = ["rate", "shots", "n_units", "n_units_removed", "top1", "top5", "cross_entropy", "n_images"]
    numbers += ["params_left", "macs_left", "params_total", "macs_total"]
    empty = points[numbers].isna().any(axis=1)
    if empty.any():
        name = next(name for name in numbers if points[name].isna().any())
        yield f"a job of status ok must have every number, but `{name}` is empty in {_cell(points[empty].iloc[0])}."
        return
    foreign = points[~points["rate"].isin(suite.rates)]
    if len(foreign):
        line = foreign.iloc[0]
        yield f"`rate` must be one of the suite's, got {line['rate']:g} in {_cell(line)}; remove that point."
        return
    yield from _point_faults(points.astype(dict.fromkeys(numbers, "float64")), suite)
    yield from _unit_faults(points)


def _job_faults(jobs: pd.DataFrame, suite: Suite) -> Iterator[str]:
    checks: Mapping[str, tuple[pd.Series, str]] = {
        "suite_digest": (
            (jobs["suite_digest"] == suite.digest) & (jobs["suite_version"] == suite.version),
            f"rows must be of the present version {suite.version} of suite `{suite.name}`; measure them again",
        ),
        "protocol": (jobs["protocol"] == suite.protocol, f"rows must be of the suite's protocol, {suite.protocol}"),
        "finetuning": (
            jobs["finetuning"].astype(str).map(functools.partial(_is_json_of, suite.finetuning)),
            "rows must be of the suite's recipe of fine-tuning",
        ),
        "task": (
            jobs["task"].astype(str).map(functools.partial(_is_json_of, suite.task)),
            "rows must be of the suite's task",
        ),
        "dataset": (
            jobs.apply(lambda line: line["dataset"] in suite.datasets_of(line["model"]), axis=1),
            "rows must be of a data set that the suite accepts for the network",
        ),
        "criterion_needs": (
            jobs["criterion_needs"].isin(get_args(Needs)),
            f"`criterion_needs` must be one of {', '.join(get_args(Needs))}",
        ),
        "criterion_family": (
            jobs["criterion_family"].isin(FAMILIES),
            f"`criterion_family` must be one of {', '.join(FAMILIES)}",
        ),
        "evaluation": (
            jobs["evaluation"].astype(str).str.fullmatch(_EVALUATION) | (jobs["status"] != "ok"),
            "`evaluation` must be `compact` or `masked: REASON`, with ` in PRECISION` where that is no float32",
        ),
        "tuned_trials": (
            (jobs["tuning"] != "") | (jobs["tuned_trials"].isna() & jobs["tuned_images"].isna()),
            "only tuned rows have trials and images of tuning",
        ),
        "status": (jobs["status"].isin(["ok", "unsupported", "failed"]), "`status` must be ok, unsupported or failed"),
        "reason": (
            (jobs["reason"] == "") == (jobs["status"] == "ok"),
            "a job has a reason if and only if it is not ok",
        ),
        "clean": (
            jobs["clean"] & jobs["commit"].str.fullmatch(r"[0-9a-f]{40}"),
            "published rows must be measured with exactly one commit, so that they can be measured again; commit your "
            "changes and run once more",
        ),
    }
    for column, (holds, rule) in checks.items():
        if not holds.all():
            line = jobs.loc[~holds.astype(bool)].iloc[0]
            yield f"{rule}; `{column}` is {str(line[column])!r} in {_cell(line)}."
    known: dict[str, tuple[int, int]] = {}
    for _, line in jobs.iterrows():
        if not _has_own_key(line, known):
            yield (
                "a job's key must be the digest of what decided its result, but the key of "
                f"{_cell(line)} is of other values; a digest, a parameter, the seed or the key was edited. Measure the "
                "job again."
            )
            return


def _has_own_key(line: pd.Series, known: dict[str, tuple[int, int]]) -> bool:
    """Whether a row's key is that of its values; version of the network and of the engine are in no row, so tried."""
    evaluation = str(line["evaluation"])
    precision: Precision = (
        "bf16" if evaluation.endswith("bf16") else "tf32" if evaluation.endswith("tf32") else "float32"
    )
    model = str(line["model"])
    try:
        parameters = parse_json(str(line["parameters"]))
    except (ValueError, RecursionError):
        return False
    candidates = [(v, e) for e in range(ENGINE_VERSION, 0, -1) for v in range(1, _MOST_MODEL_VERSIONS)]
    # A job without a result does not say what it would have been evaluated in.
    precisions: tuple[Precision, ...] = (precision,) if evaluation else ("float32", "bf16", "tf32")
    for version, engine in [known[model]] if model in known else candidates:
        for tried in precisions:
            identity = JobIdentity(
                suite=str(line["suite_digest"]),
                data=str(line["data_digest"]),
                model=(model, version, str(line["weights_digest"])),
                granularity=str(line["granularity"]),
                criterion=(str(line["criterion"]), int(str(line["criterion_version"])), str(line["criterion_digest"])),
                parameters=parameters,
                seed=int(str(line["seed"])),
                tuning=str(line["tuning"]),
                precision=tried,
                engine=engine,
            )
            if _key_of(identity) == line["key"]:
                known[model] = (version, engine)
                return True
    return False


def _key_of(identity: JobIdentity) -> str:
    try:
        return identity.key
    # Parameters of an edited table may be no plain finite values.
    except ValueError:
        return ""


def _is_json_of(record: FineTuning | Task | None, text: str) -> bool:
    """Whether a text is a record of a suite as JSON, empty for none."""
    if record is None or not text:
        return record is None and not text
    try:
        return bool(parse_json(text) == json.loads(json.dumps(dataclasses.asdict(record))))
    except (ValueError, RecursionError):
        return False


def _point_faults(points: pd.DataFrame, suite: Suite) -> Iterator[str]:
    hits = points["top1"] * points["n_images"]
    first = points["rate"] == 0
    one_pass = suite.protocol != "iterative_finetune"
    checks: list[tuple[str, pd.Series, str]] = [
        ("top1", points["top1"].between(0, 1), "`top1` must be in [0, 1]"),
        ("top5", points["top5"].between(0, 1) & (points["top5"] >= points["top1"]), "`top5` must be in [`top1`, 1]"),
        (
            "top1",
            (hits - hits.round()).abs() <= _WHOLE * points["n_images"],
            "`top1` must be a whole number of hits among `n_images`",
        ),
        (
            "cross_entropy",
            (points["cross_entropy"] >= 0) & np.isfinite(points["cross_entropy"]),
            "`cross_entropy` must be finite and not below 0",
        ),
        (
            "cross_entropy",
            points["cross_entropy"] >= (1 - _ROUNDING) * _least_loss(points),
            "`cross_entropy` must be what the accuracies allow: the label of a wrong image has at most half of the "
            "probability, and a sixth where five others are before it",
        ),
        (
            "params_left",
            points["params_left"].between(0, points["params_total"] - points["n_units_removed"]),
            "`params_left` must be in [0, total], and each removed unit had a parameter",
        ),
        (
            "macs_left",
            points["macs_left"].between(0, points["macs_total"] - points["n_units_removed"]),
            "`macs_left` must be in [0, total], and each removed unit had a multiply-accumulate",
        ),
        ("n_units_removed", ~first | (points["n_units_removed"] == 0), "at rate 0 no unit is removed"),
        ("params_left", ~first | (points["params_left"] == points["params_total"]), "at rate 0 everything is left"),
        ("macs_left", ~first | (points["macs_left"] == points["macs_total"]), "at rate 0 everything is left"),
    ]
    if suite.scope == "global":
        expected = [n_removed(rate, int(n)) for rate, n in zip(points["rate"], points["n_units"], strict=True)]
        rule = "`n_units_removed` must be floor(`rate` * `n_units`)"
        checks.append(("n_units_removed", points["n_units_removed"] == expected, rule))
    curves = points.sort_values(["key", "shots", "rate"], kind="stable")
    same = curves.duplicated(["key", "shots"])
    # Behind a layer without units others are gone already, and take nothing with them.
    units = curves["units_left"].astype(str)
    least = curves["n_units_removed"].diff().where((units != "") & ~units.str.contains(r"\b0\b"), 0)
    for column in ("params_left", "macs_left"):
        stays = (same & (curves[column].diff() > -least)).reindex(points.index)
        rule = f"`{column}` must fall with the rate, by no less than the units that are removed, as masks nest"
        checks.append((column, ~stays, rule))
    for column in _MEASURED:
        same_shots = points.groupby(["key", "rate"])[column].transform("nunique") == 1
        if one_pass:
            checks.append((column, ~first | same_shots, "at rate 0 the network is the same for all shots"))
        if suite.protocol == "one_shot":
            rule = "a criterion that needs nothing gives the same with all shots"
            checks.append((column, (points["criterion_needs"] != "nothing") | same_shots, rule))
    for column, holds, rule in checks:
        if not holds.all():
            line = points.loc[~holds].iloc[0]
            yield f"{rule}, got `{column}` = {line[column]:g} in {_point(line)}; measure the job again."


def _least_loss(points: pd.DataFrame) -> "pd.Series[float]":
    """The cross-entropy, in nat, that two accuracies leave at least."""
    return (points["top5"] - points["top1"]) * math.log(2) + (1 - points["top5"]) * math.log(6)


def _unit_faults(points: pd.DataFrame) -> Iterator[str]:
    """Check the units left in each layer, which rows before schema version 5 lack."""
    lines = points[["key", "shots", "rate", *_UNITS, *_CELL]].astype({"layers": "str", "units_left": "str"})
    lines = lines[lines["layers"] != ""].sort_values(["key", "shots", "rate"], kind="stable")
    for (layers, n_units), part in lines.groupby(["layers", "n_units"], sort=False):
        try:
            sizes = np.array([int(size) for size in parse_json(str(layers)).values()])
            left = np.array([[int(n) for n in text.split()] for text in part["units_left"]])
            fits = (left.shape[1:] == sizes.shape) & (left >= 0).all(axis=1) & (left <= sizes).all(axis=1)
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            yield (
                "`layers` must be JSON and `units_left` whole numbers, one for each layer, but they are not in "
                f"{_cell(part.iloc[0])}; measure the job again."
            )
            return
        fits &= (sizes.sum() - left.sum(axis=1) == part["n_units_removed"].to_numpy()) & (sizes.sum() == n_units)
        if not fits.all():
            line, units = part[~fits].iloc[0], left[~fits][0].tolist()
            yield (
                f"`units_left` must be what `n_units_removed` leaves of `layers`, got {units} of {sizes.tolist()} with "
                f"{line['n_units_removed']} removed in {_point(line)}; measure the job again."
            )
            return
        grows = (np.diff(left, axis=0) > 0).any(axis=1) & part.duplicated(["key", "shots"]).to_numpy()[1:]
        if grows.any():
            yield (
                "`units_left` must not grow with the rate in any layer, as masks nest, but it does in "
                f"{_point(part.iloc[1:][grows].iloc[0])}; measure the job again."
            )
            return


def grid_faults(rows: pd.DataFrame, suite: Suite) -> Iterator[str]:
    """Yield what a criterion's rows have too much or too little of the grid of their suite.

    Of every network and granularity that is there, all seeds have to be, and of a job that succeeded all shots and
    rates. Whether a network may be missing altogether depends on other criteria.

    Args:
        rows: a table with the columns of `schema.Row`.
        suite: the suite as it is now.
    """
    jobs = rows.drop_duplicates("key")
    cells = {(model.name, granularity) for model in suite.models for granularity in model.granularities}
    for _, line in jobs.iterrows():
        if (line["model"], line["granularity"]) not in cells or line["seed"] not in suite.seeds:
            yield f"rows must be of cells of suite `{suite.name}`, but it has no {_cell(line)}; remove them."
            return
    repeated = jobs.duplicated(["model", "granularity", "seed"])
    if repeated.any():
        yield f"a cell must be measured once, but {_cell(jobs[repeated].iloc[0])} is there twice; remove one."
    for (model, granularity), part in jobs.groupby(["model", "granularity"], sort=True):
        missing = [seed for seed in suite.seeds if seed not in set(part["seed"])]
        if missing:
            yield (
                f"all {len(suite.seeds)} seeds must be there, but {_seeds(missing)} missing of {model} / "
                f"{granularity}; run the suite to its end and publish it again. No seed may be left out."
            )
        yield from _status_faults(part)
    expected = {(shots, rate) for shots in suite.shots for rate in suite.rates}
    points = rows.loc[rows["status"] == "ok", ["key", "model", "granularity", "criterion", "seed", "shots", "rate"]]
    for _, part in points.groupby("key", sort=False):
        found: Mapping[tuple[int, float], int] = collections.Counter(zip(part["shots"], part["rate"], strict=True))
        if found.keys() != expected or max(found.values()) > 1:
            absent = sorted(expected - found.keys())
            some = absent or sorted(point for point, n in found.items() if n > 1 or point not in expected)
            what = "missing" if absent else "there too often, or not of the suite"
            shown = f"shots {some[0][0]}, rate {some[0][1]:g}" if some else "some"
            yield (
                f"a job must have each of its {len(expected)} points once, but of {_cell(part.iloc[0])} {len(some)} "
                f"are {what}, such as {shown}; publish it again."
            )
            return


def _status_faults(jobs: pd.DataFrame) -> Iterator[str]:
    """What a criterion cannot handle is the network, and never the seed; a seed without a number is one left out."""
    statuses = jobs["status"].value_counts()
    if len(statuses) > 1:
        odd = jobs[jobs["status"] != "ok"].iloc[0]
        yield (
            f"all seeds of a network must end alike, but {_cell(odd)} is {odd['status']} ({odd['reason']}) and "
            f"{int(statuses.drop(odd['status']).sum())} of {len(jobs)} seeds are not; run it again. No seed may be "
            "left out."
        )


def missing_cells(rows: pd.DataFrame, suite: Suite) -> list[tuple[str, Granularity]]:
    """Return the networks and granularities of a suite of which there is no row."""
    found = {*zip(rows["model"].astype(str), rows["granularity"].astype(str), strict=True)}
    cells = [(model.name, granularity) for model in suite.models for granularity in model.granularities]
    return [cell for cell in cells if cell not in found and cell[1] in GRANULARITIES]


def _seeds(seeds: list[int]) -> str:
    return f"seed {seeds[0]} is" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))} are"


def _cell(line: pd.Series) -> str:
    return f"{line['model']} / {line['granularity']} / {line['criterion']} / seed {line['seed']}"


def _point(line: pd.Series) -> str:
    shots = "" if math.isnan(line["shots"]) else f" / shots {line['shots']:g} / rate {line['rate']:g}"
    return f"{_cell(line)}{shots}"
