"""The command that checks a criterion, and what it prints."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pruneboard.benchmark import plugins
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.contract import NETWORKS, Cost, Outcome, check_isolated, failures
from pruneboard.benchmark.errors import PluginError
from pruneboard.benchmark.skeletons import Kind, Skeleton, write_files

_MOST_WORKERS = 4


def write_new(name: str, kind: Kind, folder: Path, *, package: bool) -> None:
    """Write a skeleton, and print its files and what to do with them.

    Raises:
        PruneboardError: the name is taken or no name, or a file exists.
    """
    skeleton = Skeleton(name=name, kind=kind)
    if name in plugins.criteria().names():
        origin = plugins.criteria().origin(name)
        raise PluginError(f"the name of a criterion must be new, but `{name}` is taken ({origin}); choose another.")
    files = skeleton.package_files(folder) if package else skeleton.files(folder)
    console = make_console()
    written = list(write_files(files))
    for path in written:
        console.print(str(path), soft_wrap=True)
    if package:
        console.print(f"Next: pip install --editable {written[0].parent}, then pruneboard check {name}", soft_wrap=True)
    else:
        console.print(f"Next: pruneboard check {written[0]}", soft_wrap=True)


def check(given: Sequence[str]) -> bool:
    """Check criteria by name or file, print what was found, and return whether all keep their contract.

    Raises:
        PruneboardError: there is no such criterion or file.
    """
    return check_names(plugins.resolve_criteria(given), make_console())


def check_names(names: Sequence[str], console: Console) -> bool:
    """Check registered criteria, and return whether all keep their contract.

    Raises:
        UnknownNameError: there is no such criterion.
    """
    for name in names:
        plugins.criteria().get(name)
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    costs: dict[str, Cost | None] = {}
    n_workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    for checked in check_isolated(names, n_workers=n_workers):
        outcomes[checked.criterion] += checked.outcomes
        if checked.cost is not None:
            costs[checked.criterion] = checked.cost
    kept = True
    for name in names:
        found = failures(outcomes[name])
        kept &= not found
        _print(name, outcomes[name], found, costs.get(name), console)
    return kept


def _print(name: str, outcomes: Sequence[Outcome], found: Sequence[str], cost: Cost | None, console: Console) -> None:
    n_passed = sum(one.status == "passed" for one in outcomes)
    order = list(NETWORKS)
    networks = sorted({one.network for one in outcomes}, key=order.index)
    console.print(f"{name}: {n_passed} checks passed on {len(networks)} networks, {len(found)} failed.")
    by_result: dict[str, list[str]] = defaultdict(list)
    for network in networks:
        own = [one for one in outcomes if one.network == network]
        declined = next((one.message for one in own if one.status == "declined"), None)
        passed = ", ".join(one.check for one in own if one.status == "passed")
        by_result[f"declined: {declined}" if declined is not None else f"passed: {passed or 'none'}"].append(network)
    for one in outcomes:
        if one.status == "skipped":
            by_result[f"not checked: {one.check}, because {one.message}"].append(one.network)
    for result, where in by_result.items():
        console.print(f"   {', '.join(where)}: {result}", soft_wrap=True)
    if cost is not None:
        console.print(f"   cost on {cost.model}, 100 images: {_cost(cost)}", soft_wrap=True)
    for line in found:
        console.print(f"   FAILED {line}", soft_wrap=True)


def _cost(cost: Cost) -> str:
    text = f"{cost.seconds:.3g} s, {cost.seconds / cost.pass_seconds:.1f} times a forward and backward pass"
    if cost.n_bytes is None or cost.pass_bytes is None:
        return text
    return f"{text}; {cost.n_bytes / 1e6:.0f} MB, where the pass adds {cost.pass_bytes / 1e6:.0f} MB"
