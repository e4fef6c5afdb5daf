"""What is known of criteria, networks and data sets beyond their rows, as one file beside the published tables."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruneboard.benchmark.errors import StoreError

FILE = "catalogue.json"
_FORMAT = 1


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


def write_catalogue(catalogue: Catalogue, folder: Path) -> Path:
    """Write the catalogue into a folder of results, and return the file.

    Raises:
        StoreError: it cannot be written.
    """
    path = folder / FILE
    text = json.dumps({"format": _FORMAT, **dataclasses.asdict(catalogue)}, indent=1, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise StoreError(f"the catalogue must be writable, but `{path}` is not: {error.strerror}.") from error
    return path


def read_catalogue(folder: Path) -> Catalogue:
    """Read the catalogue of a folder of results, empty when there is none.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    path = folder / FILE
    if not path.is_file():
        return Catalogue()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        return Catalogue(
            criteria={name: _criterion(entry) for name, entry in found["criteria"].items()},
            models={name: _model(entry) for name, entry in found["models"].items()},
            datasets={name: DatasetEntry(**entry) for name, entry in found["datasets"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"a catalogue must be what `pruneboard site catalogue` writes, but `{path}` is not: {error}; "
            "write it again, or remove it."
        ) from error


def _criterion(entry: Mapping[str, Any]) -> CriterionEntry:
    parameters = tuple(Parameter(**parameter) for parameter in entry["parameters"])
    lists = {name: tuple(entry[name]) for name in ("details", "files")}
    return CriterionEntry(**{**entry, **lists, "parameters": parameters})


def _model(entry: Mapping[str, Any]) -> ModelEntry:
    lists = {name: tuple(entry[name]) for name in ("granularities", "input_size", "mean", "std")}
    return ModelEntry(**{**entry, **lists, "recipe": tuple((name, value) for name, value in entry["recipe"])})
