"""The command that sets what papers claim beside the rows."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from pruneboard.benchmark.claims import (
    ClaimResult,
    Contrast,
    Effect,
    Verdict,
    evaluate_claims,
    load_claims,
)
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli.tables import rows_of_all_suites
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import display_name
from pruneboard.benchmark.stats import CONFIDENCE

_STYLES: dict[Verdict, str] = {"supported": "green", "contradicted": "red", "mixed": "yellow"}
_METRICS = {"a_pr": "A_PR", "top_pr": "Top-PR"}


def print_claims(runs: Path | None, results: Path, name: str | None = None) -> None:
    """Print the claims with their verdicts.

    Args:
        runs: run folder whose rows take the place of published ones, suite by suite.
        results: folder of published tables.
        name: only this claim, with every network.

    Raises:
        PruneboardError: there are no rows, no such claim, or a file is damaged.
    """
    rows, suites = rows_of_all_suites(runs, results)
    if rows.empty:
        raise StoreError(f"claims need rows, but there are none in `{runs or results}`; name another folder.")
    outcomes = evaluate_claims(rows, suites, load_claims(name=name))
    console = make_console()
    for outcome in outcomes:
        console.print(_outcome(outcome, every_network=name is not None))
    level = f"{100 * CONFIDENCE:g} %"
    console.print(
        Text(
            f"Differences in percentage points with {level} intervals over seeds, on the networks that were measured, "
            "each with each kind of unit; docs/claims.md says how verdicts come about.",
            style="dim italic",
        )
    )


def _outcome(outcome: ClaimResult, *, every_network: bool) -> RenderableType:
    head = Text(outcome.verdict, style=f"bold {_STYLES.get(outcome.verdict, 'dim')}")
    head.append(f"  {outcome.claim.name}: ", style="bold").append(outcome.claim.text, style="not bold default")
    lines: list[Text] = []
    for contrast in outcome.contrasts:
        if contrast.effect is not None:
            lines.append(Text(_contrast(outcome, contrast, contrast.effect)))
        if every_network:
            lines += [Text(f"  {line}", style="dim") for line in _networks(contrast)]
    if outcome.missing:
        lines.append(Text(f"no data against {', '.join(map(display_name, outcome.missing))}", style="dim"))
    if every_network:
        lines += [Text(outcome.claim.note, style="italic"), Text(f"{outcome.claim.paper}, {outcome.claim.source}")]
    return Group(head, Padding(Group(*lines), (0, 0, 1, 4)))


def _contrast(outcome: ClaimResult, contrast: Contrast, effect: Effect) -> str:
    metric = _METRICS[outcome.claim.metric]
    return (
        f"{contrast.verdict} against {display_name(contrast.name)}: {metric} {_interval(effect)}; "
        f"of {len(contrast.networks)} networks {contrast.count('supported')} support, "
        f"{contrast.count('contradicted')} contradict"
    )


def _networks(contrast: Contrast) -> list[str]:
    return [
        f"{network.suite} / {network.model} / {network.granularity}: {_interval(network.effect)}, {network.verdict}"
        for network in contrast.networks
    ]


def _interval(effect: Effect) -> str:
    return (
        f"{effect.mean:+.2f}" if effect.low is None else f"{effect.mean:+.2f} ({effect.low:+.2f} to {effect.high:+.2f})"
    )
