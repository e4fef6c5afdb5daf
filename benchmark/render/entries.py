"""What the pages of single criteria and networks say."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.catalogue import Catalogue, CriterionEntry, ModelEntry
from pruneboard.benchmark.render.estimates import Estimate
from pruneboard.benchmark.render.links import slug, web_link
from pruneboard.benchmark.render.provenance import CriterionCard, Problem
from pruneboard.benchmark.render.views import Section, SuiteView
from pruneboard.benchmark.schema import Suite

_CRITERIA = Path(__file__).resolve().parents[2] / "criteria"
_TUNED = " (tuned)"
_CONTROL = "random"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Credit:
    """Who handed in a criterion: author, licence of the code, where others get it, and a line on what it scores by."""

    author: str
    licence: str
    url: str
    summary: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """How a criterion does on one network.

    Attributes:
        suite: suite.
        model: network.
        granularity: kind of unit.
        a_pr: mean over shots and seeds.
        place: 1 is best among the criteria that have results there.
        n_compared: how many these are.
        best: criterion with the best A_PR there.
        behind: that A_PR minus this one, in [0, 1].
        over_control: this A_PR minus that of random scores; None where these were not measured.
    """

    suite: Suite
    model: str
    granularity: str
    a_pr: Estimate
    place: int
    n_compared: int
    best: str
    behind: float
    over_control: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriterionPage:
    """Everything that is said about one criterion.

    Attributes:
        name: displayed name.
        slug: file name of its page.
        card: what its rows say, of one of the suites.
        entry: what the catalogue says; None when it does not know it.
        credit: who handed it in; None without a submission card.
        link: its publication, when that is a web address.
        sources: source files as they are now, with their texts; empty when they are not at hand.
        standings: how it does, best place first.
        problems: suite and jobs without a result.
        suites: suites that have rows of it.
    """

    name: str
    slug: str
    card: CriterionCard
    entry: CriterionEntry | None
    credit: Credit | None
    link: str | None
    sources: tuple[tuple[str, str], ...]
    standings: tuple[Standing, ...]
    problems: tuple[tuple[Suite, Problem], ...]
    suites: tuple[Suite, ...]

    @property
    def is_tuned(self) -> bool:
        """Whether its parameters were tuned for each network."""
        return self.name.endswith(_TUNED)

    @property
    def n_wins(self) -> int:
        """Networks on which no other criterion has a higher A_PR."""
        return sum(standing.place == 1 for standing in self.standings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appearance:
    """A network in one suite.

    Attributes:
        suite: suite.
        granularity: kind of unit.
        n_units: how many.
        unpruned: smallest and largest accuracy at rate 0.
        n_params: parameters of the unpruned network.
        n_macs: its multiply-accumulates for one image.
        dataset: data set.
        n_images: evaluation images.
        lines: criteria and their A_PR, best first.
    """

    suite: Suite
    granularity: str
    n_units: int
    unpruned: tuple[float, float]
    n_params: int | None
    n_macs: int | None
    dataset: str
    n_images: int
    lines: tuple[tuple[str, Estimate], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelPage:
    """Everything that is said about one network."""

    name: str
    slug: str
    family: str
    entry: ModelEntry | None
    link: str | None
    weights: tuple[str, ...]
    appearances: tuple[Appearance, ...]


def view_criteria(
    views: Sequence[SuiteView], catalogue: Catalogue, credits_of: Mapping[str, Credit]
) -> tuple[CriterionPage, ...]:
    """Gather what is known about each criterion, sorted by name.

    Args:
        views: views of the suites.
        catalogue: what is registered.
        credits_of: who handed in what, by registered name.
    """
    names = sorted({card.name for view in views for card in view.criteria})
    return tuple(_criterion(name, views, catalogue, credits_of) for name in names)


def view_models(rows: pd.DataFrame, views: Sequence[SuiteView], catalogue: Catalogue) -> tuple[ModelPage, ...]:
    """Gather what rows with displayed names, the suites' views and the catalogue say about each network."""
    pages = []
    for name, part in rows.groupby("model", sort=True):
        entry = catalogue.models.get(str(name))
        pages.append(
            ModelPage(
                name=str(name),
                slug=slug(str(name)),
                family=str(part["model_family"].iloc[0]),
                entry=entry,
                link=web_link(entry.source) if entry else None,
                weights=tuple(sorted(map(str, part["weights_digest"].dropna().unique()))),
                appearances=tuple(_appearances(str(name), part, views)),
            )
        )
    return tuple(pages)


def _criterion(
    name: str, views: Sequence[SuiteView], catalogue: Catalogue, credits_of: Mapping[str, Credit]
) -> CriterionPage:
    having = [view for view in views if any(card.name == name for card in view.criteria)]
    card = next(card for card in having[0].criteria if card.name == name)
    entry = catalogue.criteria.get(name.removesuffix(_TUNED))
    standings = [
        standing for view in having for section in view.sections for standing in _standings(name, view, section)
    ]
    return CriterionPage(
        name=name,
        slug=slug(name),
        card=card,
        entry=entry,
        credit=credits_of.get(name.removesuffix(_TUNED)),
        link=card.link,
        sources=() if entry is None else _sources(entry),
        standings=tuple(sorted(standings, key=lambda s: (s.place, s.behind, s.suite.name, s.model, s.granularity))),
        problems=tuple((view.suite, p) for view in having for p in view.problems if p.criterion == name),
        suites=tuple(view.suite for view in having),
    )


def _sources(entry: CriterionEntry) -> tuple[tuple[str, str], ...]:
    """Return the source files of a criterion that lie where criteria are installed."""
    paths = [(file, (_CRITERIA / file).resolve()) for file in entry.files]
    return tuple(
        (file, path.read_text(encoding="utf-8", errors="replace"))
        for file, path in paths
        if path.is_file() and path.suffix == ".py" and path.is_relative_to(_CRITERIA)
    )


def _standings(name: str, view: SuiteView, section: Section) -> Iterator[Standing]:
    for i, head in enumerate(section.models):
        found = {line.criterion: line.by_model[i] for line in section.lines}
        values: Mapping[str, Estimate] = {key: value for key, value in found.items() if value is not None}
        if name not in values:
            continue
        own = values[name].mean
        control = values.get(_CONTROL)
        best = max(values, key=lambda key: values[key].mean)
        yield Standing(
            suite=view.suite,
            model=head.name,
            granularity=section.granularity,
            a_pr=values[name],
            place=1 + sum(value.mean > own for value in values.values()),
            n_compared=len(values),
            best=best,
            behind=values[best].mean - own,
            over_control=None if control is None else own - control.mean,
        )


def _appearances(name: str, rows: pd.DataFrame, views: Sequence[SuiteView]) -> Iterator[Appearance]:
    for view in views:
        for section in view.sections:
            for i, head in enumerate(section.models):
                if head.name != name:
                    continue
                part = rows.loc[
                    (rows["suite"] == view.suite.name)
                    & (rows["granularity"] == section.granularity)
                    & (rows["status"] == "ok")
                ]
                first = part.iloc[0]
                lines = [(line.criterion, line.by_model[i]) for line in section.lines]
                yield Appearance(
                    suite=view.suite,
                    granularity=section.granularity,
                    n_units=head.n_units,
                    unpruned=head.unpruned,
                    n_params=None if pd.isna(first["params_total"]) else int(first["params_total"]),
                    n_macs=None if pd.isna(first["macs_total"]) else int(first["macs_total"]),
                    dataset=str(first["dataset"]),
                    n_images=int(first["n_images"]),
                    lines=tuple(
                        sorted(
                            ((criterion, value) for criterion, value in lines if value is not None),
                            key=lambda pair: (-pair[1].mean, pair[0]),
                        )
                    ),
                )
