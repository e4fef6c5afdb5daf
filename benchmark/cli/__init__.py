"""The `pruneboard` command: thin typer functions over the engine."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from pruneboard.benchmark.cli._criteria import with_criteria
from pruneboard.benchmark.cli._help import SuiteCommand
from pruneboard.benchmark.cli._runs import runs
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.schema import Job, Precision
from pruneboard.benchmark.suites import expand, load_suite, suite_path

app = typer.Typer(
    help="Which criterion to prune a network by when you have only a few images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
site = typer.Typer(help="Build or serve the static leaderboard.", no_args_is_help=True)
app.add_typer(site, name="site")
app.add_typer(runs, name="runs")

Out = Annotated[Path, typer.Option("--out", help="Run folder: one file per finished job; a later run continues it.")]
Runs = Annotated[Path, typer.Option("--runs", help="Run folder to read.")]
Results = Annotated[Path, typer.Option("--results", help="Folder of published tables.")]
Local = Annotated[bool, typer.Option("--local", help="Leave the published rows out.")]
SiteRuns = Annotated[Path | None, typer.Option("--runs", help="Show this run folder's rows beside the published ones.")]
SiteSuites = Annotated[
    list[Path] | None,
    typer.Option(
        "--suite", help="Show rows of this suite file too, beside those of pruneboard's own suites; may be repeated."
    ),
]
SiteOut = Annotated[Path, typer.Option("--out", help="Folder of the site; replaced as a whole.")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; 0 runs in this one. Default: one per core, or per GPU.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ..., or auto: the GPU where there is one.")]

Criteria = Annotated[
    list[str] | None,
    typer.Option(
        help="Only this criterion, a name or the path of a plugin file, also one that the suite does not list; may be "
        "repeated."
    ),
]

EXIT_FAILED_JOBS = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_RUN_EPILOG = """
Exit status: 0 all jobs are done; 1 some failed, and are rows with their reason; 2 bad input, or the run could not go
on, such as with a full disk; 130 interrupted by Ctrl-C; 143 ended by SIGTERM or SIGHUP. Finished jobs are kept in every
case, and the same command continues.

The first Ctrl-C finishes the jobs that run, the second drops them; SIGTERM and SIGHUP drop them. Several runs on one
folder, on this machine or others that share it, divide the jobs among themselves.

Beside the rows in OUT/SUITE: status/RUN.json holds how a run stands, logs/ what jobs printed and the tracebacks of
those that failed.
"""


def main() -> None:
    """Run the command line; errors that pruneboard raises on purpose become one message and exit status 2."""
    try:
        app()
    except PruneboardError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_ERROR)


@app.command(cls=SuiteCommand, epilog=_RUN_EPILOG)
def run(
    suite: Annotated[str, typer.Argument(help="Name of a suite, or path of a suite file (.toml).")],
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    criterion: Criteria = None,
    device: Device = "auto",
    workers: Workers = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each worker. Default: the cores divided among them.")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="End a job after 90, 90s, 10m or 2h; it becomes a failed row. Default: never."
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="End a job whose worker, with all it started, holds more than 500MB or 4GB; as above."
        ),
    ] = None,
    out: Out = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Run jobs again that are already done.")] = False,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Run tuned criteria, with the parameters that `tune` chose before.")
    ] = False,
    precision: Annotated[
        Precision,
        typer.Option(help="What evaluation computes in. tf32 (GPUs) and bf16 are faster and coarser, and rows say so."),
    ] = "float32",
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what would run, how long it would take and what is not at hand; run nothing."
        ),
    ] = False,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="Where jobs run: on this machine, or on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster: HOST:PORT of its head, ray://HOST:PORT, or auto. Default: auto, the one of this machine."
        ),
    ] = None,
) -> None:
    """Run a suite's jobs; finished ones are kept and not repeated."""
    if address is not None and executor != "ray":
        raise PruneboardError(f"`--address` must come with `--executor ray`, got `{address}` alone; add that.")
    loaded = load_suite(suite_path(suite))
    if tuned:
        from pruneboard.benchmark.cli.tuning import run_tuned

        source = load_suite(suite_path(suite).with_name(f"{loaded.tuned_on}.toml")) if loaded.tuned_on else loaded
        jobs: Sequence[Job] = run_tuned(loaded, source, [out, Path("results")], model or (), criterion or ())
    else:
        loaded, names = with_criteria(loaded, criterion or ())
        jobs = expand(loaded, models=model or (), criteria=names)

    from pruneboard.benchmark.cli._quantities import parse_bytes, parse_seconds
    from pruneboard.benchmark.cli.running import RunOptions, dry_run, run_jobs
    from pruneboard.benchmark.workers import Limits

    options = RunOptions(
        device=device,
        n_workers=workers,
        out=out,
        fresh=fresh,
        n_threads=threads,
        limits=Limits(
            seconds=None if time_limit is None else parse_seconds("--time-limit", time_limit),
            n_bytes=None if memory_limit is None else parse_bytes("--memory-limit", memory_limit),
        ),
        precision=precision,
        address=(address or "auto") if executor == "ray" else None,
    )
    if dry:
        dry_run(jobs, options)
        return
    summary = run_jobs(suite, jobs, options)
    if summary.interrupted:
        sys.exit(EXIT_TERMINATED if summary.terminated else EXIT_INTERRUPTED)
    if summary.n_failed:
        sys.exit(EXIT_FAILED_JOBS)


@app.command()
def tune(
    criterion: Annotated[
        list[str], typer.Argument(help="Criteria to tune, by the names of their classes or the paths of plugin files.")
    ],
    suite: Annotated[str, typer.Option(help="Name of a suite, or path of a suite file (.toml).")],
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    granularity: Annotated[list[str] | None, typer.Option(help="Only this kind of unit; may be repeated.")] = None,
    trials: Annotated[int, typer.Option(help="Configurations to try for each criterion, model and kind of unit.")] = 60,
    sampler: Annotated[
        Literal["gp", "tpe", "grid"],
        typer.Option(help="Gaussian process, tree of Parzen estimators, or all configurations in seeded order."),
    ] = "gp",
    images: Annotated[
        int | None, typer.Option(help="Validation images per class. Default: 50, or as many as are left.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of reference images that each trial averages over.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draws of images and of the sampler.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
    out: Out = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Search again from nothing, and run all jobs again.")] = False,
    search_only: Annotated[bool, typer.Option("--search-only", help="Stop after the search.")] = False,
) -> None:
    """Tune criteria on images of the train split, then measure them tuned and untuned; trials are kept.

    A study is one criterion on one network and kind of unit. Studies that are stopped go on with the same command, and
    further with more --trials.
    """
    loaded = load_suite(suite_path(suite))

    from pruneboard.benchmark import plugins
    from pruneboard.benchmark.cli import tuning
    from pruneboard.benchmark.cli.running import RunOptions
    from pruneboard.benchmark.tune import Budget, Draws

    options = tuning.TuneOptions(
        criteria=plugins.resolve_criteria(criterion),
        models=model or (),
        granularities=granularity or (),
        budget=Budget(n_trials=trials, sampler=sampler, draws=Draws(draws, images, seed)),
        search_only=search_only,
        run=RunOptions(device=device, n_workers=workers, out=out, fresh=fresh),
    )
    summary = tuning.tune(suite, loaded, options)
    if summary.interrupted:
        sys.exit(EXIT_TERMINATED if summary.runs is not None and summary.runs.terminated else EXIT_INTERRUPTED)
    if summary.n_failed:
        sys.exit(EXIT_FAILED_JOBS)


@app.command("list")
def list_(
    kind: Annotated[Literal["criteria", "models", "suites", "datasets"], typer.Argument(help="What to list.")],
) -> None:
    """List what is registered."""
    if kind == "suites":
        from pruneboard.benchmark.cli import suite_listing

        suite_listing.print_suites()
    else:
        from pruneboard.benchmark.cli import listing

        listing.print_list(kind)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A criterion, model or suite, or the path of a plugin or suite file.")],
) -> None:
    """Show everything known about a criterion, model or suite."""
    from pruneboard.benchmark.cli import listing

    listing.print_details(name)


@app.command()
def table(
    suite: Annotated[
        str | None,
        typer.Argument(help="Name of a suite, or path of a suite file (.toml). Default: across the networks of all."),
    ] = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    local: Local = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the run folder's rows to the published tables.")
    ] = False,
) -> None:
    """Show the leaderboard of a suite: published rows, and those of the run folder beside them.

    Without SUITE: the ranking across networks, from the same rows of every suite.
    """
    from pruneboard.benchmark.cli import tables

    if suite is None:
        if publish:
            raise PruneboardError("`--publish` must come with a suite, got none; name one.")
        tables.print_overall(runs, None if local else results)
        return
    tables.print_table(suite, runs, None if local else results)
    if publish:
        tables.publish(suite, runs, results)


@app.command()
def claims(
    claim: Annotated[str | None, typer.Argument(help="Only this claim, network by network. Default: all.")] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Use this run folder's rows in place of published ones.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Say of each claim of the papers whether the rows support it, by how much, and how sure that is."""
    from pruneboard.benchmark.cli import claiming

    claiming.print_claims(runs, results, claim)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the criterion, lower_snake.")],
    kind: Annotated[
        Literal["images", "weights", "function"],
        typer.Option(
            help="What it scores by: values at each position of activations, weights, or a function of yours."
        ),
    ] = "images",
    package: Annotated[
        bool, typer.Option("--package", help="Write a pip package of its own, in a new folder.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="Where to; in a checkout of pruneboard the files go to criteria/ and tests/.")
    ] = Path(),
) -> None:
    """Write a working criterion with comments and a test, to be changed step by step."""
    from pruneboard.benchmark.cli import checking

    checking.write_new(name, kind, folder, package=package)


@app.command()
def check(
    criterion: Annotated[list[str], typer.Argument(help="Names of criteria, or paths of plugin files.")],
) -> None:
    """Check that criteria keep their contract, on tiny networks of every family; exit status 1 when one does not.

    What is checked: names, shapes and types of scores, finite values, seeds, `needs`, permutation of units, positive
    factors, batches, that network, images and process are left alone, CPU and GPU, time and memory.
    """
    from pruneboard.benchmark.cli import checking

    if not checking.check(criterion):
        sys.exit(EXIT_FAILED_JOBS)


@app.command()
def submit(
    criterion: Annotated[list[str], typer.Argument(help="Names of criteria, or paths of plugin files.")],
    suite: Annotated[str, typer.Option(help="Suite that comes with pruneboard.")] = "digits",
    author: Annotated[str | None, typer.Option(help="Who hands it in. Default: the user of git.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the criterion's code (SPDX). Default: that of its package.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Where others get the code. Default: what its package says.")] = None,
    device: Device = "auto",
    workers: Workers = None,
    out: Out = Path("runs"),
    results: Results = Path("results"),
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="Open the pull request with `gh`, rather than say how.")
    ] = False,
) -> None:
    """Hand in a criterion: check it, run or reuse the suite's jobs, write tables and card, validate them.

    Exit status 0 when all of it is written and valid, 1 when a check, a job or a rule failed. Nothing is written to the
    results folder unless it is valid; finished jobs are kept, and the same command continues.
    """
    from pruneboard.benchmark.cli import submitting
    from pruneboard.benchmark.cli.running import RunOptions

    options = submitting.SubmitOptions(
        criteria=criterion,
        suite=suite,
        author=author,
        licence=licence,
        url=url,
        results=results,
        pull_request=pull_request,
        run=RunOptions(device=device, n_workers=workers, out=out, fresh=False),
    )
    outcome = submitting.submit(options)
    if outcome.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if not outcome.done:
        sys.exit(EXIT_FAILED_JOBS)


@app.command()
def validate(
    path: Annotated[
        Path, typer.Argument(help="Results folder, the folder of a suite in it, or one table or card.")
    ] = Path("results"),
    rerun: Annotated[int, typer.Option(min=0, help="Run this many jobs again, chosen at random, and compare.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of their choice.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run only jobs again whose data come with the code, and fetch nothing.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="File to write what was found to, as JSON.")] = None,
) -> None:
    """Derive everything that published results claim again from their rows; exit status 1 when something is not so.

    Jobs that are run again must give equal numbers on the same device, with the same release of PyTorch and number of
    threads; elsewhere A_PR within 0.01 and each accuracy within 0.05.
    """
    from pruneboard.benchmark.cli import validating

    options = validating.ValidationOptions(
        path=path, rerun=rerun, seed=seed, device=device, workers=workers, embedded=embedded, report=report
    )
    if not validating.validate(options):
        sys.exit(EXIT_FAILED_JOBS)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Name of a model with a recipe; with --from, of any network of timm's.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Transfer: pretrained weights of MODEL to start from, as a file or a model's name.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set to learn, by its name or folder. Default: that of the recipe.")
    ] = None,
    layers: Annotated[
        Literal["classifier", "all"],
        typer.Option(help="Transfer: train the new classifier only, from features computed once, or all layers."),
    ] = "classifier",
    size: Annotated[
        int | None, typer.Option(min=1, help="Transfer: pixels that images are brought to. Default: those of MODEL.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split. Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step. Default: the recipe's.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the one-cycle schedule. Default: the recipe's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of first weights, order and augmentation. Default: the recipe's.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Weights file to write. Default: MODEL.safetensors here, or MODEL_DATASET.safetensors for a transfer; "
            "its file in the cache where the model has no other weights and its recipe is not changed."
        ),
    ] = None,
    device: Device = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Train a model by its recipe, or adapt a pretrained one to another data set (--from WEIGHTS --dataset D).

    The same command gives the same weights on the same kind of machine, and goes on where it was stopped. Accuracy is
    measured once, at the end, on the split `test`, `validation` or `val`, which is not touched before.
    """
    from pruneboard.benchmark.cli import training

    options = training.TrainOptions(
        model=model,
        start=start,
        dataset=dataset,
        layers=layers,
        size=size,
        changes={"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed},
        half=half,
        out=out,
        device=device,
        overwrite=overwrite,
    )
    if training.train_model(options):
        sys.exit(EXIT_INTERRUPTED)


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="Name of a model.")],
    criterion: Annotated[
        str, typer.Option(help="Criterion that decides which units go: a name, or the path of a plugin file with one.")
    ],
    rate: Annotated[float, typer.Option(help="Fraction of units to remove, in [0, 1).")],
    out: Annotated[Path, typer.Option(help="Weights file to write (.safetensors); a Python module is put beside it.")],
    granularity: Annotated[
        str | None, typer.Option(help="filters, neurons or heads. Default: the model's only kind of unit.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Suite that decides data and ranking. Default: the one that lists the model.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Reference images per class. Default: the suite's most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the reference images. Default: the suite's first.")] = None,
    coupled: Annotated[
        bool, typer.Option("--coupled", help="Remove units that share a channel together: a network without indices.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX as well.")] = False,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a physically smaller network: weights, and a Python module that needs only torch and safetensors.

    It is the network that the row of a leaderboard stands for: same scores, ranking, accuracy and size. With --coupled
    it is a plainer one, in which units that share a channel of a residual stream go together.
    """
    from pruneboard.benchmark.cli import pruning

    options = pruning.PruneOptions(
        model=model,
        criterion=criterion,
        rate=rate,
        out=out,
        granularity=granularity,
        suite=suite,
        shots=shots,
        seed=seed,
        form="coupled" if coupled else "exact",
        onnx=onnx,
        device=device,
        overwrite=overwrite,
    )
    if pruning.prune(options):
        sys.exit(EXIT_INTERRUPTED)


@app.command()
def speed(
    suite: Annotated[str, typer.Argument(help="Name of a suite, or path of a suite file (.toml).")],
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    criterion: Criteria = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="Rate to measure; may be repeated. Default: 0, 0.25, 0.5, 0.75 and 0.9.")
    ] = None,
    coupled: Annotated[
        bool, typer.Option("--coupled", help="Remove units that share a channel together: networks without indices.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, measured beside one image.")] = 64,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: as many as torch uses.")] = None,
    out: Out = Path("runs"),
    results: Results = Path("results"),
    publish: Annotated[bool, typer.Option("--publish", help="Write the table to the published ones.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is already measured.")] = False,
) -> None:
    """Measure the latency of physically pruned networks, in turns with the unpruned ones; finished rows are kept."""
    loaded, names = with_criteria(load_suite(suite_path(suite)), criterion or ())

    from pruneboard.benchmark.cli import measuring

    options = measuring.SpeedOptions(
        models=model or (),
        criteria=names,
        rates=rate or (),
        form="coupled" if coupled else "exact",
        batch_size=batch_size,
        device=device,
        threads=threads,
        out=out,
        results=results,
        publish=publish,
        fresh=fresh,
    )
    summary = measuring.measure_speed(loaded, options)
    if summary.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if summary.n_failed:
        sys.exit(EXIT_FAILED_JOBS)


@site.command()
def build(
    runs: SiteRuns = None,
    results: Results = Path("results"),
    out: SiteOut = Path("_site"),
    local: Local = False,
    suite: SiteSuites = None,
) -> None:
    """Build the static site from result tables."""
    from pruneboard.benchmark.cli import tables

    results = results if local else tables.published_in(results)
    typer.echo(str(tables.build(runs, results, out, local=local, suite_files=suite or ())))


@site.command()
def serve(
    runs: SiteRuns = None,
    results: Results = Path("results"),
    out: SiteOut = Path("_site"),
    local: Local = False,
    suite: SiteSuites = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 picks a free one.")] = 8000,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Build again when a table or a template changes.")
    ] = True,
) -> None:
    """Build the site and serve it on this machine until Ctrl-C; open pages show each new build by themselves."""
    from pruneboard.benchmark.cli import serving, tables

    results = results if local else tables.published_in(results)
    options = serving.SiteOptions(runs=runs, results=results, out=out, local=local, suite_files=tuple(suite or ()))
    serving.serve(options, port, watch=watch)
