"""Rules that the files of a results folder keep before any of them is read."""

import csv
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pruneboard.benchmark.cards import SUFFIX
from pruneboard.benchmark.registry import name_fault
from pruneboard.benchmark.schema import GRANULARITIES, Suite
from pruneboard.benchmark.store import JOB_FILE_COLUMNS, POINT_FILE_COLUMNS

_MOST_BYTES = 64 * 2**20
"""Largest table; those of the largest suite have a hundredth of it."""
_MOST_BYTES_JSON = 2**20
_ENDS = (".jobs.csv", ".csv", SUFFIX)
_SPEED = "speed.csv"
_TUNING = "tuning"


def file_faults(folder: Path, suite: Suite) -> Iterator[tuple[Path, str]]:
    """Yield the files of a suite that must not be read: links, devices, giants, and what is no result at all.

    Everything in a results folder is a pair of tables, a card, a table of speeds or a study; nothing else is read by
    anyone, and nothing else may lie there.

    Args:
        folder: the suite's folder of results.
        suite: the suite as it is now.
    """
    for path in _below(folder):
        try:
            found = path.lstat()
        except OSError as error:
            yield path, f"a results folder must be readable, but this cannot be looked at: {error.strerror}."
            continue
        most = _MOST_BYTES_JSON if path.suffix == ".json" else _MOST_BYTES
        if stat.S_ISLNK(found.st_mode):
            yield (
                path,
                f"results must be files of their own, but this is a link to `{_target(path)}`; put it here.",
            )
        elif not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            yield path, "results must be plain files, but this is a device, pipe or socket; remove it."
        elif (fault := _name_fault(path.relative_to(folder), suite, is_folder=stat.S_ISDIR(found.st_mode))) is not None:
            yield path, fault
        elif stat.S_ISREG(found.st_mode) and found.st_size > most:
            yield (
                path,
                f"a file of results must have at most {most >> 20} MiB, got {found.st_size / 2**20:.0f} MiB; "
                "write it again with `pruneboard table --publish`.",
            )


def line_faults(folder: Path, criterion: str, suite: Suite) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with the lines of a criterion's two tables before their values are looked at.

    A table has the present columns, each once and in order, as many fields in each line, and no more lines than the
    suite has cells, so that nothing later takes long.
    """
    n_jobs = len(suite.seeds) * sum(len(model.granularities) for model in suite.models)
    for path, columns, most in (
        (folder / f"{criterion}.jobs.csv", JOB_FILE_COLUMNS, n_jobs),
        (folder / f"{criterion}.csv", POINT_FILE_COLUMNS, n_jobs * len(suite.shots) * len(suite.rates)),
    ):
        try:
            fault = _lines_fault(path, columns, most)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            fault = f"a published table must be a CSV file in UTF-8, but this one is not: {error}; publish it again."
        if fault is not None:
            yield path, fault


def _lines_fault(path: Path, columns: Sequence[str], most: int) -> str | None:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        if header != list(columns):
            wrong = [name for name in header if name not in columns or header.count(name) > 1]
            missing = [name for name in columns if name not in header]
            what = (
                f"it has `{wrong[0][:40]}`"
                if wrong
                else f"it lacks `{missing[0]}`"
                if missing
                else "their order is not"
            )
            return (
                f"a published table must have the {len(columns)} columns of the schema, each once and in order, "
                f"but {what}; write it again with `pruneboard table --publish`."
            )
        for number, line in enumerate(reader, start=1):
            if number > most:
                return (
                    f"a published table must have no more lines than its suite has cells, {most}, but it has more; "
                    "write it again with `pruneboard table --publish`."
                )
            if len(line) != len(columns):
                return (
                    f"each line of a table must have {len(columns)} fields, but {reader.line_num} has {len(line)}; "
                    "write it again with `pruneboard table --publish`."
                )
    return None


def _name_fault(path: Path, suite: Suite, *, is_folder: bool) -> str | None:
    """Return why nothing of this name lies in a suite's folder of results; None when it may."""
    stray = f"everything in results must be a table, a card or a study, but `{path.as_posix()}` is none; remove it."
    if len(path.parts) > 1 or is_folder:
        return None if path == Path(_TUNING) or (not is_folder and _is_study(path, suite)) else stray
    if path.name == _SPEED:
        return None
    end = next((end for end in _ENDS if path.name.endswith(end)), None)
    # Hidden files, and what derived tables were once called, are no names of criteria either.
    name = path.name.removesuffix(end or "")
    return stray if end is None or "." in name else name_fault("criterion", name)


def _is_study(path: Path, suite: Suite) -> bool:
    """Whether a path is `tuning/CRITERION.MODEL.GRANULARITY.json` or the table of its trials."""
    end = next((end for end in (".trials.csv", ".json") if path.name.endswith(end)), "")
    criterion, _, rest = path.name.removesuffix(end).partition(".")
    model, _, granularity = rest.partition(".")
    known = (model in {entry.name for entry in suite.models}, granularity in GRANULARITIES)
    return bool(end) and path.parts[:-1] == (_TUNING,) and all(known) and name_fault("criterion", criterion) is None


def _below(folder: Path) -> Iterator[Path]:
    """Yield a folder, if it is a link, and all that is in it, without following links."""
    if folder.is_symlink():
        yield folder
        return
    for top, folders, files in os.walk(folder):
        yield from (Path(top) / name for name in sorted([*folders, *files]))


def _target(path: Path) -> str:
    return str(path.readlink())[:200]
