"""Help of `pruneboard run SUITE --help`: that of the command, and what there is to know of the suite."""

from typing import Any

import typer
from typer.core import TyperCommand

from pruneboard.benchmark.suites import expand, load_suite, suite_names, suite_path


class SuiteCommand(TyperCommand):
    """A command whose first argument is a suite."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember which suite was named, as help is printed before arguments are read."""
        ctx.meta["suite"] = next((name for name in args if name in suite_names()), None)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Add what the named suite says of itself."""
        super().format_help(ctx, formatter)
        if (name := ctx.meta.get("suite")) is not None:
            typer.echo(_about(name))


def _about(name: str) -> str:
    suite = load_suite(suite_path(name))
    models = "\n".join(f"    pruneboard run {name} --model {model.name}" for model in suite.models)
    return (
        f"{suite.title} ({len(expand(suite))} jobs)\n\n{suite.description.strip()}\n\n"
        f"How long it takes is told, once a job of each kind is done, by\n\n    pruneboard run {name} --dry-run\n\n"
        f"and parts of it are run with\n\n{models}\n"
    )
