"""The command that prunes: a smaller network as files, and what it says of it."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pruneboard.benchmark import plugins
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli.running import make_plugins_ready
from pruneboard.benchmark.cli.suite_listing import make_table
from pruneboard.benchmark.discovery import FILES_VARIABLE
from pruneboard.benchmark.errors import ModelError, PluginError, SuiteError
from pruneboard.benchmark.physical import (
    Facts,
    Form,
    Pruned,
    Scored,
    Targets,
    build,
    check_targets,
    facts_of,
    score,
    targets_of,
    write,
)
from pruneboard.benchmark.provenance import resolve_device
from pruneboard.benchmark.registry import unknown_name
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.schema import GRANULARITIES, Granularity, Job, Suite, n_removed
from pruneboard.benchmark.suites import load_suite, suite_names, suite_path


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Choices of `pruneboard prune`, as its options name them.

    Attributes:
        model: registered name of the network.
        criterion: registered name of the criterion.
        rate: fraction of units to remove.
        out: the safetensors file to write.
        granularity: kind of unit; None for the network's only one.
        suite: suite that decides data and protocol; None for the one that lists the network.
        shots: reference images per class; None for the suite's largest number.
        seed: seed of the reference draw and of random ties; None for the suite's first.
        form: how units that share a channel are removed.
        onnx: whether ONNX is written as well.
        device: name of the device, or `auto`.
        overwrite: whether existing files may be replaced.
    """

    model: str
    criterion: str
    rate: float
    out: Path
    granularity: str | None = None
    suite: str | None = None
    shots: int | None = None
    seed: int | None = None
    form: Form = "exact"
    onnx: bool = False
    device: str = "auto"
    overwrite: bool = False


def prune(options: PruneOptions) -> bool:
    """Write a smaller network and report on it; return whether Ctrl-C stopped it.

    Raises:
        PruneboardError: bad input, found before any work, or a network that cannot be pruned like that.
    """
    console = make_console()
    if not 0 <= options.rate < 1:
        raise ModelError(f"`--rate` must be in [0, 1), got {options.rate:g}; give the fraction of units to remove.")
    job = job_of(options)
    shots = max(job.suite.shots) if options.shots is None else options.shots
    if shots not in job.suite.shots:
        raise SuiteError(f"`--shots` must be one of {job.suite.shots} in suite `{job.suite.name}`, got {shots}.")
    targets = targets_of(options.out, onnx=options.onnx)
    check_targets(targets, overwrite=options.overwrite)
    bench = Workbench(resolve_device(options.device))
    before = targets.stamps()
    try:
        make_plugins_ready([job], bench, console)
        scored = score(job, shots, bench)
        try:
            pruned = build(scored, options.rate, options.form)
            facts = facts_of(scored, pruned, options.rate, options.form, bench)
            write(pruned.network, facts, targets, scored.loaded.probe)
        except ModelError as error:
            raise ModelError(f"`{options.model}` by {job.granularity}: {error}") from error
    except KeyboardInterrupt:
        console.print(_what_stopped(targets, before), soft_wrap=True)
        return True
    _report(scored, pruned, facts, targets, console)
    return False


def job_of(options: PruneOptions) -> Job:
    """Return the job whose row the pruned network stands for.

    Raises:
        UnknownNameError: there is no such model, criterion or suite.
        SuiteError: no suite lists the model, or the suite does not; the seed is negative.
        ModelError: the model has not this granularity, or several and none is named.
    """
    criterion = _criterion_of(options.criterion)
    known = plugins.models().get(options.model).granularities
    suite = _suite_of(options.model, options.suite)
    seed = suite.seeds[0] if options.seed is None else options.seed
    if seed < 0:
        raise SuiteError(f"`--seed` must be a whole number from 0, got {seed}.")
    granularity = _granularity_of(options, known)
    return Job(suite=suite, model=options.model, granularity=granularity, criterion=criterion, seed=seed)


def _criterion_of(given: str) -> str:
    names = plugins.resolve_criteria([given])
    if len(names) > 1:
        raise PluginError(
            f"`--criterion` must be one criterion, but `{given}` defines {', '.join(names)}; name the file in "
            f"`${FILES_VARIABLE}`, and one of these here."
        )
    plugins.criteria().get(names[0])
    return names[0]


def _suite_of(model: str, name: str | None) -> Suite:
    if name is None:
        shipped = (load_suite(suite_path(shipped)) for shipped in suite_names())
        for suite in shipped:
            if model in {entry.name for entry in suite.models}:
                return suite
        raise SuiteError(f"`--suite` must name a suite that lists `{model}`, as none that comes with pruneboard does.")
    suite = load_suite(suite_path(name))
    if model not in {entry.name for entry in suite.models}:
        raise unknown_name(f"model in suite `{suite.name}`:", model, (entry.name for entry in suite.models))
    return suite


def _granularity_of(options: PruneOptions, known: tuple[Granularity, ...]) -> Granularity:
    given = options.granularity
    if given is None and len(known) > 1:
        raise ModelError(f"`--granularity` must be one of {', '.join(known)} for `{options.model}`; choose one.")
    found = known[0] if given is None else next((name for name in GRANULARITIES if name == given), None)
    if found not in known:
        raise ModelError(f"`--granularity` must be one of {', '.join(known)} for `{options.model}`, got `{given}`.")
    return found


def _what_stopped(targets: Targets, before: Mapping[Path, tuple[int, int]]) -> str:
    """Say what Ctrl-C left: files appear one after another, so it can come between them."""
    now = targets.stamps()
    written = {path: "was replaced" if path in before else "is new" for path in now if now[path] != before.get(path)}
    if not written:
        return "Stopped; nothing was written."
    parts = [f"`{path}` {written.get(path, 'was not written')}" for path in targets.paths]
    return f"Stopped while the files were put in place: {', '.join(parts)}. Write them again with `--overwrite`."


def _report(scored: Scored, pruned: Pruned, facts: Facts, targets: Targets, console: Console) -> None:
    console.print(
        Text(
            f"{facts.model}: {facts.n_units_removed} of {facts.n_units} {facts.granularity} removed by "
            f"{facts.criterion}",
            style="bold",
        )
    )
    console.print(
        f"Suite {facts.suite}: {facts.shots} reference images per class, seed {facts.seed}, {scored.job.suite.scope} "
        f"ranking, {facts.form} form."
    )
    console.print(_sizes(facts))
    console.print(_layers(pruned))
    for sentence in _sentences(pruned, facts):
        console.print(sentence)
    console.print(f"Its logits differ from the masked network's by {pruned.difference:.1g} of the largest.")
    console.print("Written, and found to give its logits in a fresh interpreter:")
    for path in targets.paths:
        note = "" if path in targets.checked else "; not loaded, as onnxruntime is not installed"
        console.print(f"  {path} ({path.stat().st_size:,} bytes{note})", soft_wrap=True)
    console.print(textwrap.indent(_how_to_load(facts, targets), "  "), soft_wrap=True)


def _sizes(facts: Facts) -> object:
    table = make_table("", "before", "after", "left")
    table.add_row(
        f"accuracy on {facts.dataset} {facts.split}, {facts.n_images} images",
        f"{100 * facts.top1_before:.2f} %",
        f"{100 * facts.top1:.2f} %",
        "",
    )
    counts = (
        (facts.granularity, facts.n_units, facts.n_units - facts.n_units_removed),
        ("parameters", facts.params_before, facts.params),
        ("multiply-accumulates", facts.macs_before, facts.macs),
    )
    for name, before, after in counts:
        table.add_row(name, f"{before:,}", f"{after:,}", f"{100 * after / before:.1f} %")
    return table


def _layers(pruned: Pruned) -> object:
    removal = pruned.removal
    together = {name for group in removal.coupled for name in group}
    table = make_table("layer", "units", "kept", "removed")
    for name, mask in pruned.masks.items():
        if name in removal.empty:
            how = "whole layer; what it emits is a constant"
        elif name in removal.indexed:
            how = "by itself; outputs are put back to their places"
        elif name in together:
            how = "with the layers it shares channels with"
        else:
            how = "by itself, with the inputs that read it" if name in removal.free else ""
        table.add_row(name, str(len(mask)), str(int(mask.sum())), how)
    return table


def _sentences(pruned: Pruned, facts: Facts) -> list[str]:
    """Say in words what the table of layers cannot."""
    removal, found = pruned.removal, []
    if removal.readers:
        found.append(f"Inputs that are always zero were cut from {', '.join(removal.readers)}.")
    for number, group in enumerate(removal.coupled, start=1):
        found.append(f"Coupled group {number}: {', '.join(group)}.")
    if removal.coupled:
        found.append("Units of a group that share a channel were removed together; their scores were added.")
    if removal.whole:
        found.append(
            f"Some units of {', '.join(removal.whole)} were kept whatever their scores: their channels are not zero "
            "without them, so cutting them would change what the network computes."
        )
    asked = n_removed(facts.rate, facts.n_units)
    if facts.form == "coupled" and facts.n_units_removed < asked:
        found.append(
            f"{facts.n_units_removed} units were removed rather than {asked}: only whole channels can be, and each "
            "layer keeps one."
        )
    return found


def _how_to_load(facts: Facts, targets: Targets) -> str:
    stem = targets.module.stem
    if stem.isidentifier():
        first = f"from {stem} import load, normalise"
    else:
        first = (
            f'load, normalise = map(__import__("runpy").run_path({targets.module.name!r}).get, ("load", "normalise"))'
        )
    shape = ", ".join(map(str, facts.input_size))
    return f"{first}\nnetwork = load()\nlogits = network(normalise(images))  # images (n, {shape}), pixels in [0, 1]"
