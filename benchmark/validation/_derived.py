"""Studies and speeds of a results folder, of which everything that can be computed is computed again."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.schema import TUNED_SUFFIX, Suite, digest
from pruneboard.benchmark.speeds import SpeedStore
from pruneboard.benchmark.studies import Outcome, Study, StudyStore
from pruneboard.benchmark.validation._plain import text_fault, time_fault

Fault = tuple[Path, str]

_RATIO_TOLERANCE = 1e-9


def study_faults(folder: Path, rows: pd.DataFrame, suite: Suite) -> Iterator[Fault]:
    """Yield where a study is not what its trials say, or a tuned row not what a study chose."""
    store = StudyStore(folder)
    try:
        studies = store.read(suite.tuned_on or suite.name)
    except PruneboardError as error:
        yield folder / (suite.tuned_on or suite.name), str(error)
        return
    chosen = {}
    for study in studies:
        if study.outcome is None:
            yield store.path(study), "a published study must have ended, but it has no outcome; tune to the end."
            continue
        results = [[trial.parameters, trial.status, trial.value] for trial in study.trials]
        if study.outcome.study != digest([study.settings, results]):
            yield (
                store.path(study),
                "the digest of a study must be that of its settings and trials, but it is of others; a trial or a "
                "setting was edited. Tune again.",
            )
        yield from ((store.path(study), message) for message in _outcome_faults(study, study.outcome))
        if study.tuned is not None:
            chosen[study.tuned_name, study.model, study.granularity] = study.tuned
    jobs = rows.loc[rows["tuning"] != ""].drop_duplicates("key")
    for line in jobs.to_dict("records"):
        path = folder / suite.name / f"{line['criterion']}.jobs.csv"
        tuned = chosen.get((line["criterion"], line["model"], line["granularity"]))
        if not str(line["criterion"]).endswith(TUNED_SUFFIX):
            yield path, f"a tuned criterion must be named so, with `{TUNED_SUFFIX}`, got `{line['criterion']}`."
        elif tuned is None:
            yield (
                path,
                f"a tuned row must have its study, but there is none of {line['model']} / {line['granularity']}.",
            )
        elif (tuned.study, tuned.parameters, tuned.n_trials, tuned.n_images) != (
            line["tuning"],
            line["parameters"],
            line["tuned_trials"],
            line["tuned_images"],
        ):
            yield (
                path,
                f"tuned rows must be measured with what their study chose, but those of {line['model']} / "
                f"{line['granularity']} / seed {line['seed']} were not; run `pruneboard run {suite.name} --tuned`.",
            )


def _outcome_faults(study: Study, outcome: Outcome) -> Iterator[str]:
    """Yield what a study says of its trials that they do not."""
    best = max((trial.value for trial in study.trials if trial.value is not None), default=None)
    winner = next((trial for trial in study.trials if trial.value is not None and trial.value == best), None)
    default = next((trial for trial in study.trials if trial.proposed_by == "default"), None)
    searched = {} if winner is None else json.loads(winner.parameters)
    expected = {
        "n_trials": len(study.trials),
        "value": best,
        "winner": None if winner is None else winner.number,
        "searched": searched,
        "parameters": {} if winner is None else {**study.settings.get("defaults", {}), **searched},
        "default_value": None if default is None else default.value,
    }
    for name, value in expected.items():
        if getattr(outcome, name) != value:
            yield (
                f"the outcome of a study must be the best of its {len(study.trials)} trials, `{name}` {value}, got "
                f"{getattr(outcome, name)}; tune again."
            )
    named = (study.settings.get("granularity"), *study.settings.get("model", ())[:1])
    if named != (study.granularity, study.model):
        yield f"the settings of a study must be of its network, got {named}; tune again."
    if not outcome.clean:
        yield "a published study must be made with exactly one commit, but this one was not; tune again."
    if (fault := time_fault(outcome.time_utc)) is not None:
        yield f"`time_utc` of a study {fault}"
    for text in (*(trial.reason for trial in study.trials), *(trial.proposed_by for trial in study.trials)):
        if (fault := text_fault(text)) is not None:
            yield f"texts of a study must be plain, but {fault}: {text[:80]!r}."
            return


def speed_faults(folder: Path, suite: Suite) -> Iterator[Fault]:
    """Yield where measured speeds contradict themselves."""
    store = SpeedStore(folder)
    path = store.path(suite.name)
    try:
        speeds = store.read(suite.name)
    except PruneboardError as error:
        yield path, str(error)
        return
    for speed in speeds:
        what = (
            f"{speed.model} / {speed.granularity} / {speed.criterion} / rate {speed.rate:g}, batch {speed.batch_size}"
        )
        if not math.isclose(speed.speedup, speed.unpruned_seconds / speed.latency_seconds, rel_tol=_RATIO_TOLERANCE):
            yield path, f"`speedup` must be `unpruned_seconds` / `latency_seconds`, got {speed.speedup:g} for {what}."
        if not math.isclose(
            speed.images_per_second * speed.latency_seconds, speed.batch_size, rel_tol=_RATIO_TOLERANCE
        ):
            yield path, f"`images_per_second` must be `batch_size` / `latency_seconds`, but it is not for {what}."
        if (fault := time_fault(speed.time_utc)) is not None:
            yield path, f"`time_utc` {fault}"
        if not speed.clean:
            yield (
                path,
                f"published speeds must be measured with exactly one commit, but {what} was not; measure it again.",
            )
