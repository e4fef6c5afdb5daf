"""Everything in a results folder that is computed from rows, computed again: rankings, comparisons, studies, speeds."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.leaderboards import DECIMALS, LeaderboardStore, leaderboard, read_texts
from pruneboard.benchmark.render import comparison_table, current_studies, tuning_table, view_tuning
from pruneboard.benchmark.schema import TUNED_SUFFIX, Suite, digest
from pruneboard.benchmark.speeds import SpeedStore
from pruneboard.benchmark.store import ResultsStore
from pruneboard.benchmark.studies import StudyStore
from pruneboard.benchmark.suites import load_published, suite_path

Fault = tuple[Path, str]

_TOLERANCE = 2 * 10.0**-DECIMALS
_RATIO_TOLERANCE = 1e-9


def derived_faults(folder: Path, rows: pd.DataFrame, suite: Suite) -> Iterator[Fault]:
    """Yield where a published ranking or comparison is not what the rows say.

    Args:
        folder: results folder.
        rows: all rows of the suite.
        suite: the suite as it is now.
    """
    store = LeaderboardStore(folder)
    ranks = store.path(suite.name)
    try:
        derived = leaderboard(rows)
    except PruneboardError as error:
        yield ranks, str(error)
        return
    if not ranks.exists():
        yield (
            ranks,
            "published rows must have their ranking, but it is missing; write it with `pruneboard validate --derive`.",
        )
    else:
        yield from _differences(ranks, derived, ["granularity", "criterion"])
    published = ResultsStore(folder).comparison_path(suite.name)
    if published.exists():
        table = comparison_table(rows, load_published(suite, suite_path(suite.name)))
        yield from _differences(published, table, ["model", "granularity", "criterion", "shots", "rate"])
    studies = StudyStore(folder)
    tuned = studies.comparison_path(suite.name)
    if tuned.exists():
        lines = view_tuning(current_studies(studies.read(suite.name), suite), rows)
        yield from _differences(tuned, tuning_table(lines), ["model", "granularity", "criterion"])


def study_faults(folder: Path, rows: pd.DataFrame, suite: Suite) -> Iterator[Fault]:
    """Yield where a study is not what its trials say, or a tuned row not what a study chose."""
    store = StudyStore(folder)
    try:
        studies = store.read(suite.tuned_on or suite.name)
    except PruneboardError as error:
        yield store.comparison_path(suite.tuned_on or suite.name), str(error)
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
        best = max((trial.value for trial in study.trials if trial.value is not None), default=None)
        if study.outcome.n_trials != len(study.trials) or study.outcome.value != best:
            yield (
                store.path(study),
                f"the outcome of a study must be the best of its {len(study.trials)} trials, {best}, got "
                f"{study.outcome.value} of {study.outcome.n_trials}.",
            )
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
        if not speed.clean:
            yield (
                path,
                f"published speeds must be measured with exactly one commit, but {what} was not; measure it again.",
            )


def _differences(path: Path, derived: pd.DataFrame, keys: list[str]) -> Iterator[Fault]:
    """Yield the first cell in which a published table differs from the derived one."""
    remedy = "write it again with `pruneboard validate --derive`"
    found = read_texts(path)
    text = io.StringIO(derived.to_csv(index=False, float_format=f"%.{DECIMALS}f"))
    expected = pd.read_csv(text, dtype="str", keep_default_na=False)
    if found is None or list(found.columns) != list(expected.columns) or len(found) != len(expected):
        shape = "none" if found is None else f"{len(found)} of {len(found.columns)} columns"
        yield (
            path,
            (
                f"a derived table must be what the rows say, {len(expected)} lines of {len(expected.columns)} "
                f"columns, got {shape}; {remedy}."
            ),
        )
        return
    for claimed, line in zip(found.to_dict("records"), expected.to_dict("records"), strict=True):
        for column, value in line.items():
            if not _same(claimed[column], value):
                where = " / ".join(str(claimed[key]) for key in keys)
                yield (
                    path,
                    f"`{column}` of {where} must be {value}, which the rows say, got {claimed[column]}; {remedy}.",
                )
                return


def _same(claimed: str, derived: str) -> bool:
    if claimed == derived:
        return True
    try:
        return math.isclose(float(claimed), float(derived), rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    except ValueError:
        return False
