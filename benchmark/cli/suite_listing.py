"""Listing and showing suites, which needs no plugin."""

from dataclasses import asdict

from rich.table import Table

from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.suites import expand, load_suite, suite_names, suite_path


def print_suites() -> None:
    """Print the suites that come with pruneboard."""
    table = make_table("suite", "jobs", "data sets", "title")
    for name in suite_names():
        suite = load_suite(suite_path(name))
        table.add_row(name, str(len(expand(suite))), ", ".join(suite.all_datasets), suite.title)
    make_console().print(table)


def print_suite(suite: Suite) -> None:
    """Print everything known about a suite."""
    facts = {
        "suite": f"{suite.name}, version {suite.version}",
        "title": suite.title,
        "data sets": ", ".join(suite.all_datasets),
        "splits": f"reference images from {suite.reference_split}, accuracy on {suite.evaluation_split}",
        **_task(suite),
        "protocol": f"{suite.protocol}, {suite.scope} ranking",
        **_finetuning(suite),
        "models": "; ".join(f"{m.name}: {', '.join(m.granularities)}" for m in suite.models),
        "criteria": ", ".join(suite.criteria),
        "rates": ", ".join(f"{rate:g}" for rate in suite.rates),
        "shots": ", ".join(map(str, suite.shots)),
        "seeds": ", ".join(map(str, suite.seeds)),
        **(
            {"tuned on": f"{suite.tuned_on}, whose studies choose the parameters of `--tuned`"}
            if suite.tuned_on
            else {}
        ),
        "jobs": str(len(expand(suite))),
        "digest": suite.digest,
    }
    print_facts(facts, suite.description.strip())


def _task(suite: Suite) -> dict[str, str]:
    facts = {}
    if suite.task is not None:
        drawn = "all classes" if suite.task.n_classes is None else f"{suite.task.n_classes} classes, drawn by each seed"
        facts["task"] = f"{drawn}; argmax: {suite.task.argmax}"
    if suite.evaluation_per_class is not None:
        facts["measured on"] = f"{suite.evaluation_per_class} images of each class, the same for all jobs"
    return facts


def _finetuning(suite: Suite) -> dict[str, str]:
    if suite.finetuning is None:
        return {}
    return {"fine-tuning": ", ".join(f"{name} {value}" for name, value in asdict(suite.finetuning).items())}


def print_facts(facts: dict[str, str], text: str) -> None:
    """Print names and values in two columns, and a text below."""
    console = make_console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)
    console.print()
    console.print(text)


def make_table(*columns: str) -> Table:
    """Make an empty table without borders whose first column is never broken."""
    table = Table(box=None, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table
