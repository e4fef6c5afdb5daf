"""Reading the numbers that others published for the cells of a suite.

They stand in `SUITE.published.csv` beside the suite file; `toy.published.csv` beside this module is the one to copy.
"""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pruneboard.benchmark.errors import SuiteError
from pruneboard.benchmark.schema import GRANULARITIES, PublishedPoint, Suite

_COLUMNS = tuple(field.name for field in dataclasses.fields(PublishedPoint))


def load_published(suite: Suite, suite_file: Path) -> tuple[PublishedPoint, ...]:
    """Read the published numbers that belong to a suite; none when there is no such file.

    Args:
        suite: the suite.
        suite_file: its file; the numbers are in the one beside it that ends in `.published.csv`.

    Raises:
        SuiteError: the file is unreadable, or a line of it is no cell of the suite; the message names the line.
    """
    path = suite_file.with_suffix(".published.csv")
    if not path.exists():
        return ()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SuiteError(f"published numbers must be a readable CSV file, but `{path}` is not: {error}.") from error
    if tuple(reader.fieldnames or ()) != _COLUMNS:
        raise SuiteError(f"the columns of `{path}` must be {','.join(_COLUMNS)}, got {reader.fieldnames}.")
    points: dict[tuple[object, ...], PublishedPoint] = {}
    for number, line in enumerate(lines, start=2):
        point = _point(suite, line, f"line {number} of `{path}`")
        cell = (point.model, point.granularity, point.criterion, point.shots, point.rate)
        if points.setdefault(cell, point) is not point:
            raise SuiteError(f"each cell must be published once, but line {number} of `{path}` repeats {cell}.")
    return tuple(points.values())


def _point(suite: Suite, line: Mapping[str, str | None], where: str) -> PublishedPoint:
    if len(line) != len(_COLUMNS) or None in line.values():
        raise SuiteError(f"each line must have {len(_COLUMNS)} fields, but {where} has more or fewer.")
    fields = {name: (value or "").strip() for name, value in line.items()}
    granularity = next((name for name in GRANULARITIES if name == fields["granularity"]), None)
    if granularity is None:
        raise SuiteError(f"`granularity` must be one of {GRANULARITIES}, got {fields['granularity']!r} in {where}.")
    try:
        point = PublishedPoint(
            model=fields["model"],
            granularity=granularity,
            criterion=fields["criterion"],
            shots=int(fields["shots"]),
            rate=float(fields["rate"]),
            top1=float(fields["top1"]),
            source=fields["source"],
        )
    except ValueError as error:
        raise SuiteError(f"`shots`, `rate` and `top1` must be numbers, but in {where}: {error}.") from error
    units = {model.name: model.granularities for model in suite.models}
    rules = {
        "model": (point.model in units, f"one of {', '.join(units)}"),
        "granularity": (granularity in units.get(point.model, ()), "one that the model is pruned by"),
        "criterion": (point.criterion in suite.criteria, f"one of {', '.join(suite.criteria)}"),
        "shots": (point.shots in suite.shots, f"one of {suite.shots}"),
        "rate": (point.rate in suite.rates, f"one of {suite.rates}"),
        "top1": (0 <= point.top1 <= 1, "in [0, 1]"),
        "source": (point.source != "", "a text that is not empty"),
    }
    for name, (is_kept, rule) in rules.items():
        if not is_kept:
            raise SuiteError(f"`{name}` must be {rule} in suite `{suite.name}`, got {fields[name]!r} in {where}.")
    return point
