"""What a page says of the studies of a suite."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from pruneboard.benchmark.render.estimates import Estimate, estimate
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.stats import area_under_curve, compare_tuned
from pruneboard.benchmark.studies import Study

_N_IMPORTANT = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningLine:
    """One study beside what its criterion gives on the evaluation split.

    Attributes:
        study: the study, which has ended.
        parameters: the winner's searched parameters, readable; empty when there is no winner.
        important: the parameters that matter most, with their shares.
        untuned: A_PR of the untuned criterion on the evaluation split; None where it was not measured.
        tuned: A_PR of the tuned one.
        difference: of the two, paired by seed.
        n_seeds: seeds behind them.
    """

    study: Study
    parameters: str
    important: str
    untuned: Estimate | None
    tuned: Estimate | None
    difference: Estimate | None
    n_seeds: int

    @property
    def download(self) -> str:
        """Name of the file of the study's trials on the site."""
        return f"{self.study.suite}.tuning.{self.study.name}.csv"


def current_studies(studies: Sequence[Study], suite: Suite) -> list[Study]:
    """Return the studies that have ended, of the suite as it is now."""
    cells = {(model.name, granularity) for model in suite.models for granularity in model.granularities}
    return [
        study
        for study in studies
        if study.outcome is not None
        and study.settings.get("suite") == suite.digest
        and (study.model, study.granularity) in cells
    ]


def view_tuning(studies: Sequence[Study], rows: pd.DataFrame) -> tuple[TuningLine, ...]:
    """Set each study beside the rows that were measured with what it chose.

    Args:
        studies: studies of one suite that have ended.
        rows: a table with the columns of `schema.Row`, of this suite, with the names that rows have.

    Raises:
        TableError: the rows do not allow the statistics.
    """
    if not studies:
        return ()
    # Rows that were measured with what an earlier study chose say nothing of this one.
    digests = {study.outcome.study for study in studies if study.outcome is not None}
    names = {name for study in studies for name in (study.tuned_name, study.untuned)}
    known = rows.loc[((rows["tuning"] == "") | rows["tuning"].isin(digests)) & rows["criterion"].isin(names)]
    compared = compare_tuned(area_under_curve(known), {study.tuned_name: study.untuned for study in studies})
    found = {(line["criterion"], line["model"], line["granularity"]): line for line in compared.to_dict("records")}
    lines = []
    for study in sorted(studies, key=lambda study: (study.model, study.granularity, study.criterion)):
        line = found.get((study.tuned_name, study.model, study.granularity))
        lines.append(
            TuningLine(
                study=study,
                parameters=_readable(study.outcome.searched) if study.outcome else "",
                important=_important(study.outcome.importances) if study.outcome else "",
                untuned=estimate(line, "untuned") if line else None,
                tuned=estimate(line, "tuned") if line else None,
                difference=estimate(line, "difference") if line else None,
                n_seeds=int(line["n_seeds"]) if line else 0,
            )
        )
    return tuple(lines)


def _readable(parameters: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def _important(importances: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(importances.items())[:_N_IMPORTANT])
