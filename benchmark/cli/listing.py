"""Listing and showing criteria, models and data sets."""

import json
from dataclasses import asdict
from pathlib import Path

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Criterion, Model, Recipe, Weights
from pruneboard.benchmark.assets import recorded_facts
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli.suite_listing import make_table, print_facts, print_suite
from pruneboard.benchmark.data import datasets
from pruneboard.benchmark.discovery import is_path
from pruneboard.benchmark.registry import unknown_name
from pruneboard.benchmark.suites import load_suite, suite_names, suite_path


def print_list(kind: str) -> None:
    """Print the registered criteria, models or data sets."""
    match kind:
        case "criteria":
            table = make_table("criterion", "family", "needs", "tunable", "preset of", "from")
            for name in plugins.criteria().names():
                criterion = plugins.criteria().get(name)
                tunable = "yes" if plugins.is_tunable(criterion) else "no"
                preset_of = "" if criterion.name == name else criterion.name
                origin = plugins.criteria().origin(name)
                table.add_row(name, criterion.family, criterion.needs, tunable, preset_of, origin)
        case "models":
            table = make_table("model", "family", "units", "pixels", "recipe")
            for name in plugins.models().names():
                model = plugins.models().get(name)
                units, dataset = ", ".join(model.granularities), model.recipe.dataset if model.recipe else "none"
                table.add_row(name, model.family, units, str(model.input_size[-1]), dataset)
        case "datasets":
            table = make_table("data set", "where", "title")
            for info in datasets():
                table.add_row(info.name, info.where, info.title)
    make_console().print(table)
    hints = {
        "criteria": "`pruneboard show CRITERION` says what it scores by, its parameters and its source.",
        "models": "`pruneboard show MODEL` says what it is, its weights and its recipe, for `pruneboard train`.",
    }
    if kind in hints:
        make_console().print(hints[kind])


def print_details(name: str) -> None:
    """Print everything known about the criterion, model or suite of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if is_path(name) and not name.endswith(".toml"):
        for found in plugins.criteria_of_file(Path(name)):
            _print_criterion(found, plugins.criteria().get(found))
    elif name in plugins.criteria().names():
        _print_criterion(name, plugins.criteria().get(name))
    elif name in plugins.models().names():
        _print_model(plugins.models().get(name))
    elif name in suite_names() or name.endswith(".toml"):
        print_suite(load_suite(suite_path(name)))
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
        "tuning": _tuning(criterion),
        "deterministic": "yes" if criterion.deterministic else "no",
        "from": plugins.criteria().origin(name),
        "code": f"sha256 {plugins.criterion_digest(criterion)}",
    }
    print_facts(facts, plugins.documentation(criterion))


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
        "images": _framing(model),
        "weights": _published(weights) if weights else _made(model),
        "trained": _trained(model),
        "recipe": _recipe(model.recipe) if model.recipe else "none: its weights were made elsewhere",
    }
    print_facts(facts, model.description)


def _tuning(criterion: Criterion) -> str:
    if not plugins.is_tunable(criterion):
        return "no parameter to tune"
    return f"`pruneboard tune {criterion.name} --suite SUITE` searches over its parameters"


def _framing(model: Model) -> str:
    framing = model.framing
    if framing.crop is None:
        return f"resized as a whole, {framing.interpolation}"
    return f"resized, {framing.interpolation}, and the middle cut out, {framing.crop:g} of the shorter side"


def _published(weights: Weights) -> str:
    sha256 = weights.sha256 or "recorded at first use"
    return f"{weights.file}, sha256 {sha256}{f', from the hub, {weights.hub}' if weights.hub else ''}"


def _recipe(recipe: Recipe) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(recipe).items() if value not in ("", False))


def _trained(model: Model) -> str:
    """Say what a training recorded in the weights that are at hand."""
    if (path := model.weights_file) is None:
        how = f"; `pruneboard train {model.name}` makes them" if model.recipe and model.weights is None else ""
        return f"no weights at hand{how}"
    facts = recorded_facts(path)
    if not facts:
        return "elsewhere"
    recipe = facts["recipe"]
    start = f" from the weights of {facts['start']['source']}" if "start" in facts else ""
    images = f" ({facts['n_train']:,} images)" if "n_train" in facts else ""
    dataset = facts.get("dataset", recipe["dataset"])
    return (
        f"{recipe['epochs']} epochs on {dataset}{images}{start}; top-1 {facts['test_top1']:.4f} on "
        f"{facts['test_n_images']:,} images that it has not seen"
    )


def _made(model: Model) -> str:
    if model.made_file is None:
        return "none"
    missing = "trained at first use" if model.made_when_used else "not made on this machine yet"
    state = f"digest {model.weights_digest}" if model.weights_digest else missing
    return f"{model.made_file}, {state}"


def _parameters(criterion: Criterion) -> str:
    return ", ".join(f"{k}={json.dumps(v)}" for k, v in plugins.criterion_parameters(criterion).items()) or "none"
