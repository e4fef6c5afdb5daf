"""Studies on disk: what tuning tried on one network, and what it chose.

A study is two files: `NAME.trials.csv`, the table of its trials, which is written after every trial and is what a
study is continued from; and `NAME.json`, its settings from the start, and what came out once it has ended.
"""

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import TUNED_SUFFIX, Status, Tuned, digest, parse_json
from pruneboard.benchmark.store import atomic_file

FORMAT = 1
_FOLDER = "tuning"
_SUPERSEDED = "superseded"
_DIGITS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        number: place in the study, from 0.
        proposed_by: `default`, `gp`, `tpe`, `grid`, or `random` where a sampler repeated itself.
        parameters: the searched parameters, as JSON.
        status: `ok`, `unsupported` or `failed`.
        value: A_PR on the validation images, in [0, 1]; None when there is none.
        reason: why there is no value; empty when there is one.
        seconds: time it took, in s.
    """

    number: int
    proposed_by: str
    parameters: str
    status: Status
    value: float | None
    reason: str
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a study.

    Attributes:
        status: `ok` when any trial has a value; else `unsupported` when the criterion declined every one, or `failed`.
        reason: of the first trial without a value, when none has one.
        study: digest of the settings and of what every trial gave.
        n_trials: configurations tried, with those that failed.
        winner: number of the best trial, of several the earliest.
        searched: the winner's searched parameters.
        parameters: all of its parameters.
        value: its A_PR on the validation images, in [0, 1].
        default_value: that of the default parameters, None when they have none.
        importances: share of each searched parameter in the variance of A_PR over the space, in [0, 1], largest first;
            empty when there are too few trials to tell.
        versions: versions of Python and of the libraries.
        commit: commit of the code, empty for an installed package.
        clean: whether the code was exactly that commit.
        device: device, by name.
        seconds: time of all trials together, in s.
        time_utc: when the study ended, UTC.
    """

    status: Status
    reason: str
    study: str
    n_trials: int
    winner: int | None
    searched: Mapping[str, Any]
    parameters: Mapping[str, Any]
    value: float | None
    default_value: float | None
    importances: Mapping[str, float]
    versions: Mapping[str, str]
    commit: str
    clean: bool
    device: str
    seconds: float
    time_utc: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A study: one criterion on one network and granularity of a suite.

    Attributes:
        suite: name of the suite.
        model: registered name of the network.
        granularity: kind of unit.
        criterion: registered name of the criterion, with its default parameters.
        untuned: criterion that the tuned one is compared with; of the same class, with the default parameters.
        settings: everything that decides what a trial gives and which is tried next.
        space_size: number of configurations in the search space.
        n_reference: labelled images that the criterion was given in any draw.
        n_validation: labelled images that A_PR was measured on; none of them is among the former.
        outcome: what came out; None while it has not ended.
        trials: the table of trials, by number.
    """

    suite: str
    model: str
    granularity: str
    criterion: str
    untuned: str
    settings: Mapping[str, Any]
    space_size: int
    n_reference: int
    n_validation: int
    outcome: Outcome | None = None
    trials: tuple[Trial, ...] = ()

    def __str__(self) -> str:
        return f"{self.suite} / {self.model} / {self.granularity} / {self.criterion}"

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.criterion}.{self.model}.{self.granularity}"

    @property
    def tuned_name(self) -> str:
        """Name of the tuned criterion in rows."""
        return self.criterion + TUNED_SUFFIX

    @property
    def settings_digest(self) -> str:
        """Digest of the settings."""
        return digest(self.settings)

    @property
    def tuned(self) -> Tuned | None:
        """The parameters it chose, None when it has chosen none."""
        if self.outcome is None or self.outcome.winner is None:
            return None
        return Tuned(
            base=self.criterion,
            parameters=json.dumps(self.outcome.parameters, sort_keys=True),
            study=self.outcome.study,
            n_trials=self.outcome.n_trials,
            n_images=self.n_reference + self.n_validation,
        )


_TRIAL_COLUMNS = tuple(field.name for field in dataclasses.fields(Trial))


class StudyStore:
    """The studies of a run folder or of a results folder, in `SUITE/tuning/`.

    A study that was made under other settings is set aside in `superseded/`, and comes back when its settings do.

    Args:
        folder: run folder or results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, study: Study) -> Path:
        """Return the file of a study's settings and outcome."""
        return self.folder / study.suite / _FOLDER / f"{study.name}.json"

    def trials_path(self, study: Study) -> Path:
        """Return the file of a study's trials."""
        return self.path(study).with_name(f"{study.name}.trials.csv")

    def read(self, suite: str) -> list[Study]:
        """Read all studies of a suite but the superseded ones, sorted by the names of their files.

        Raises:
            StoreError: a file is damaged, foreign, or of another version.
        """
        return [_read(path) for path in sorted((self.folder / suite / _FOLDER).glob("[!.]*.json"))]

    def begin(self, study: Study, *, fresh: bool = False) -> Study:
        """Write a study's settings, and return it with the trials and the outcome that it has already.

        Args:
            study: the study, without trials and outcome.
            fresh: forget what it has.

        Raises:
            StoreError: a file is damaged or cannot be written.
        """
        path = self.path(study)
        before = _read(path) if path.exists() else None
        if before is not None and before.settings_digest != study.settings_digest:
            self._set_aside(before)
            before = None
        aside = self._aside(study)
        if before is None and aside[0].exists():
            before = _read(aside[0])
            for source, target in zip(aside, (path, self.trials_path(study)), strict=True):
                _move(source, target)
        if before is None or fresh:
            self.save_trials(dataclasses.replace(study, trials=()))
            before = dataclasses.replace(study, outcome=None, trials=())
        # Which criterion it is compared with is no setting: the suite may have come to list another since.
        known = dataclasses.replace(study, outcome=before.outcome, trials=before.trials)
        self.save(known)
        return known

    def save(self, study: Study) -> None:
        """Write a study's settings and outcome.

        Raises:
            StoreError: the folder cannot be written.
        """
        values = {name: value for name, value in dataclasses.asdict(study).items() if name != "trials"}
        with atomic_file(self.path(study)) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **values}, indent=1) + "\n", encoding="utf-8")

    def save_trials(self, study: Study) -> None:
        """Write a study's table of trials.

        Raises:
            StoreError: the folder cannot be written.
        """
        with atomic_file(self.trials_path(study)) as temporary:
            write_trials(study, temporary)

    def publish(self, studies: Iterable[Study]) -> list[Path]:
        """Write whole studies, and return the files.

        Raises:
            StoreError: the folder cannot be written.
        """
        paths = []
        for study in studies:
            self.save(study)
            self.save_trials(study)
            paths += [self.path(study), self.trials_path(study)]
        return paths

    def _aside(self, study: Study) -> tuple[Path, Path]:
        folder = self.path(study).parent / _SUPERSEDED
        stem = f"{study.name}.{study.settings_digest[:_DIGITS]}"
        return folder / f"{stem}.json", folder / f"{stem}.trials.csv"

    def _set_aside(self, study: Study) -> None:
        for source, target in zip((self.path(study), self.trials_path(study)), self._aside(study), strict=True):
            _move(source, target)


def write_trials(study: Study, path: Path) -> None:
    """Write a study's table of trials to a file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _TRIAL_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for trial in study.trials:
            values = dataclasses.asdict(trial)
            writer.writerow(values | {"value": "" if trial.value is None else repr(trial.value)})


def _read(path: Path) -> Study:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise _damaged(path, "its format is of another version")
        outcome = document.pop("outcome")
        trials = _read_trials(path.with_name(f"{path.name.removesuffix('.json')}.trials.csv"))
        return Study(**document, outcome=None if outcome is None else Outcome(**outcome), trials=trials)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _read_trials(path: Path) -> tuple[Trial, ...]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            trials = tuple(_trial(line) for line in reader)
            names = reader.fieldnames
    except (OSError, ValueError, TypeError, KeyError, csv.Error, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if tuple(names or ()) != _TRIAL_COLUMNS or [trial.number for trial in trials] != list(range(len(trials))):
        raise _damaged(path, f"it must have the columns {', '.join(_TRIAL_COLUMNS)} and trials numbered from 0")
    return trials


def _trial(line: Mapping[str, Any]) -> Trial:
    parse_json(line["parameters"])
    if line["status"] not in get_args(Status):
        raise ValueError(f"a trial's status is {line['status']!r}")
    value = float(line["value"]) if line["value"] else None
    if (value is None) == (line["status"] == "ok") or not 0 <= (value or 0.0) <= 1:
        raise ValueError(f"a trial of status {line['status']} has the value {line['value']!r}")
    return Trial(
        number=int(line["number"]),
        proposed_by=line["proposed_by"],
        parameters=line["parameters"],
        status=line["status"],
        value=value,
        reason=line["reason"],
        seconds=float(line["seconds"]),
    )


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"a study must be a whole pair of .json and .trials.csv, but `{path}` cannot be used: {why}; delete both and "
        "tune again."
    )


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    except OSError as error:
        raise StoreError(f"`{source}` must be movable to `{target}`, but {error.strerror}; mend its folder.") from error
