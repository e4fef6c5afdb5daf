"""The commands that tell what is registered."""

import inspect
import json

from rich.console import Console
from rich.table import Table

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Criterion, Model
from pruneboard.benchmark.data import datasets
from pruneboard.benchmark.registry import unknown_name
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.suites import expand, load_suite, suite_names, suite_path


def print_list(kind: str) -> None:
    """Print the registered criteria, models, suites or data sets."""
    match kind:
        case "criteria":
            table = _table("criterion", "family", "needs", "parameters", "what it scores by")
            for name in plugins.criteria().names():
                criterion = plugins.criteria().get(name)
                table.add_row(name, criterion.family, criterion.needs, _parameters(criterion), _first_line(criterion))
        case "models":
            table = _table("model", "family", "granularities", "trained here", "what it is")
            for name in plugins.models().names():
                model = plugins.models().get(name)
                trained = "yes" if model.recipe else "no"
                table.add_row(name, model.family, ", ".join(model.granularities), trained, model.description)
        case "suites":
            table = _table("suite", "jobs", "data sets", "title")
            for name in suite_names():
                suite = load_suite(suite_path(name))
                table.add_row(name, str(len(expand(suite))), ", ".join(suite.datasets), suite.title)
        case "datasets":
            table = _table("data set", "where", "title")
            for info in datasets():
                table.add_row(info.name, info.where, info.title)
    Console(markup=False).print(table)


def print_details(name: str) -> None:
    """Print everything known about the criterion, model or suite of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if name in plugins.criteria().names():
        _print_criterion(name, plugins.criteria().get(name))
    elif name in plugins.models().names():
        _print_model(plugins.models().get(name))
    elif name in suite_names() or name.endswith(".toml"):
        _print_suite(load_suite(suite_path(name)))
    else:
        known = (*plugins.criteria().names(), *plugins.models().names(), *suite_names())
        raise unknown_name("criterion, model or suite", name, known)


def _print_criterion(name: str, criterion: Criterion) -> None:
    facts = {
        "criterion": name,
        "family": criterion.family,
        "needs": criterion.needs,
        "version": str(criterion.version),
        "source": criterion.source,
        "parameters": _parameters(criterion),
        "deterministic": "yes" if criterion.deterministic else "no",
        "code": f"{type(criterion).__module__}, sha256 {plugins.criterion_digest(criterion)}",
    }
    _print_facts(facts, inspect.getdoc(type(criterion)) or "")


def _print_model(model: Model) -> None:
    weights = model.weights
    facts = {
        "model": model.name,
        "family": model.family,
        "granularities": ", ".join(model.granularities),
        "version": str(model.version),
        "source": model.source,
        "licence": model.licence,
        "input": " x ".join(map(str, model.input_size)),
        "mean, std": f"{model.mean}, {model.std}",
        "weights": f"{weights.file}, sha256 {weights.sha256}" if weights else "none",
        "recipe": str(model.recipe) if model.recipe else "not trained here",
    }
    _print_facts(facts, model.description)


def _print_suite(suite: Suite) -> None:
    facts = {
        "suite": f"{suite.name}, version {suite.version}",
        "title": suite.title,
        "data sets": ", ".join(suite.datasets),
        "splits": f"reference images from {suite.reference_split}, accuracy on {suite.evaluation_split}",
        "protocol": f"{suite.protocol}, {suite.scope} ranking",
        "models": "; ".join(f"{m.name}: {', '.join(m.granularities)}" for m in suite.models),
        "criteria": ", ".join(suite.criteria),
        "rates": ", ".join(f"{rate:g}" for rate in suite.rates),
        "shots": ", ".join(map(str, suite.shots)),
        "seeds": ", ".join(map(str, suite.seeds)),
        "jobs": str(len(expand(suite))),
        "digest": suite.digest,
    }
    _print_facts(facts, suite.description.strip())


def _print_facts(facts: dict[str, str], text: str) -> None:
    console = Console(markup=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table, highlight=False)
    console.print()
    console.print(text, highlight=False, markup=False)


def _parameters(criterion: Criterion) -> str:
    return ", ".join(f"{k}={json.dumps(v)}" for k, v in plugins.criterion_parameters(criterion).items()) or "none"


def _first_line(criterion: Criterion) -> str:
    return (inspect.getdoc(type(criterion)) or "").partition("\n")[0]


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table
