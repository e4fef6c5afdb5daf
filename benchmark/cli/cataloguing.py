"""The catalogue of what is registered, for the pages of the site."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Criterion, Model
from pruneboard.benchmark.catalogue import (
    Catalogue,
    CriterionEntry,
    DatasetEntry,
    ModelEntry,
    Parameter,
)
from pruneboard.benchmark.data import datasets
from pruneboard.benchmark.foreign import ForeignCriterion


def make_catalogue() -> Catalogue:
    """Describe every registered criterion, network and data set."""
    criteria, models = plugins.criteria(), plugins.models()
    return Catalogue(
        criteria={name: _criterion(name, criteria.get(name)) for name in criteria.names()},
        models={name: _model(models.get(name)) for name in models.names()},
        datasets={
            info.name: DatasetEntry(
                name=info.name, title=info.title, terms=info.terms, contamination=info.contamination
            )
            for info in sorted(datasets(), key=lambda info: info.name)
        },
    )


def _criterion(name: str, criterion: Criterion) -> CriterionEntry:
    text = plugins.documentation(criterion)
    prose, _, attributes = text.partition("\nAttributes:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in prose.strip().split("\n\n")]
    meanings = dict(_meanings(attributes))
    return CriterionEntry(
        name=name,
        base=criterion.name,
        version=criterion.version,
        family=criterion.family,
        needs=criterion.needs,
        source=criterion.source,
        summary=paragraphs[0],
        details=tuple(paragraphs[1:]),
        parameters=tuple(
            Parameter(name=key, value=json.dumps(value), meaning=meanings.get(key, ""))
            for key, value in plugins.criterion_parameters(criterion).items()
        ),
        files=_files(criterion),
        digest=plugins.criterion_digest(criterion),
        tunable=plugins.is_tunable(criterion),
    )


def _meanings(attributes: str) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of a Google-style list of attributes."""
    for entry in re.split(r"\n(?=    \w+: )", "\n" + attributes):
        name, _, meaning = entry.strip().partition(": ")
        if meaning:
            yield name, " ".join(meaning.split())


def _files(criterion: Criterion) -> tuple[str, ...]:
    """Return the source files of a criterion, its own first, relative to the folder of criteria."""
    if isinstance(criterion, ForeignCriterion):
        return ()
    module = sys.modules[type(criterion).__module__]
    path = Path(module.__file__ or "")
    if path.name != "__init__.py":
        return (path.name,)
    others = sorted(file.name for file in path.parent.glob("*.py") if file != path)
    return tuple(f"{path.parent.name}/{file}" for file in (path.name, *others))


def _model(model: Model) -> ModelEntry:
    return ModelEntry(
        name=model.name,
        version=model.version,
        family=model.family,
        description=model.description,
        source=model.source,
        licence=model.licence,
        granularities=model.granularities,
        input_size=model.input_size,
        mean=model.mean,
        std=model.std,
        weights=_weights(model),
        recipe=tuple((name, str(value)) for name, value in dataclasses.asdict(model.recipe).items() if value != "")
        if model.recipe
        else (),
    )


def _weights(model: Model) -> str:
    if model.weights is None:
        return "trained here by its recipe, at first use"
    shipped = f"shipped as {model.weights.file}" if model.weights.package else f"file {model.weights.file}"
    url = getattr(model.weights, "url", None)
    return f"published at {url}" if url else shipped
