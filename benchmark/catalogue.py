"""What is known of criteria, networks and data sets beyond their rows, for the pages of the site."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a criterion: its name, its value as JSON, and what it means."""

    name: str
    value: str
    meaning: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriterionEntry:
    """One registered criterion.

    Attributes:
        name: registered name.
        base: registered name of its class, which a preset does not share.
        version: version of the class; rows of another one are out of date.
        family: family.
        needs: what it looks at.
        source: DOI or URL of the publication.
        summary: first sentence, most often with the formula.
        details: further paragraphs.
        parameters: its parameters with the values that the name stands for.
        files: source files, relative to the folder of criteria.
        digest: sha256 of the source.
        tunable: whether it has parameters to tune.
    """

    name: str
    base: str
    version: int
    family: str
    needs: str
    source: str
    summary: str
    details: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    files: tuple[str, ...]
    digest: str
    tunable: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One registered network.

    Attributes:
        name: registered name.
        version: version.
        family: family.
        description: one or two sentences.
        source: DOI or URL of the architecture.
        licence: licence of the weights.
        granularities: kinds of unit.
        input_size: (channels, height, width).
        mean: per channel.
        std: per channel.
        weights: where its weights come from.
        recipe: how they were trained here, as names and values; empty when they were not.
    """

    name: str
    version: int
    family: str
    description: str
    source: str
    licence: str
    granularities: tuple[str, ...]
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    recipe: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """One data set: its title, its terms, and what its images say about unseen ones."""

    name: str
    title: str
    terms: str
    contamination: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All entries by name."""

    criteria: Mapping[str, CriterionEntry] = dataclasses.field(default_factory=dict)
    models: Mapping[str, ModelEntry] = dataclasses.field(default_factory=dict)
    datasets: Mapping[str, DatasetEntry] = dataclasses.field(default_factory=dict)
