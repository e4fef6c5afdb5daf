"""The command that hands in a criterion: measured, checked, written, validated, and how to open the pull request."""

import importlib.metadata
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.cards import CardStore, Statement, make_card
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli._criteria import with_criteria
from pruneboard.benchmark.cli.checking import check_names
from pruneboard.benchmark.cli.running import RunOptions, run_jobs
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.store import ResultsStore, RunStore, atomic_file, in_grid
from pruneboard.benchmark.suites import expand, load_suite, suite_names
from pruneboard.benchmark.suites import suite_path as path_of
from pruneboard.benchmark.validation import Report, reference_fault, statement_faults, validate_suite

_PROJECT = Path(__file__).resolve().parents[2]
_BUILTIN = "builtin"
_OWN_LICENCE = "BSD-3-Clause"


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Choices of `pruneboard submit`, as its options name them.

    Attributes:
        criteria: names, or paths of plugin files.
        suite: name of a suite that comes with pruneboard.
        author: who hands it in; None for the user of git.
        licence: licence of the criterion's code; None for what its package says, or this project's.
        url: where others get the code; None for what its package says.
        results: results folder.
        pull_request: whether to open the pull request with `gh`.
        run: how to run jobs.
    """

    criteria: Sequence[str]
    suite: str
    author: str | None
    licence: str | None
    url: str | None
    results: Path
    pull_request: bool
    run: RunOptions


@dataclass(frozen=True)
class Submitted:
    """How it went.

    Attributes:
        done: whether everything was written and is valid.
        interrupted: whether a signal ended it.
    """

    done: bool
    interrupted: bool = False


def submit(options: SubmitOptions) -> Submitted:
    """Check, run or reuse, write and validate; nothing is written to the results folder unless all of it is valid.

    Raises:
        PruneboardError: bad input, found before any job runs, or an incomplete grid.
    """
    console = make_console()
    if options.suite not in suite_names():
        raise PruneboardError(
            f"`--suite` must be one that comes with pruneboard, {', '.join(suite_names())}, got `{options.suite}`."
        )
    suite, names = with_criteria(load_suite(path_of(options.suite)), options.criteria)
    for name in names:
        plugins.criteria().get(name)
    statements = {name: _statement(name, options) for name in names}
    _check_commit()
    if options.pull_request:
        _check_pull_request(options.results)
    console.print("1. The contract:")
    if not check_names(names, console):
        console.print("Nothing was run or written; mend the criterion and hand it in again.")
        return Submitted(done=False)
    console.print("2. The grid:")
    summary = run_jobs(suite.name, expand(suite, criteria=names), options.run)
    if summary.interrupted:
        return Submitted(done=False, interrupted=True)
    rows = RunStore(options.run.out).read(suite.name)
    rows = rows[in_grid(rows, suite) & rows["criterion"].isin(names)]
    _check_complete(rows, suite, names)
    console.print("3. The tables and the card:")
    report, files = _write(rows, suite, statements, options.results)
    for finding in report.errors:
        console.print(f"error: {finding.path}: {finding.message}", soft_wrap=True)
    if report.errors:
        console.print(f"Nothing was written to {options.results}, because {len(report.errors)} rules are broken.")
        return Submitted(done=False)
    for path in files:
        console.print(f"   {path}", soft_wrap=True)
    console.print(f"Valid: {len(rows)} rows of {', '.join(names)}.")
    _hand_in(names, suite, files, options, console)
    return Submitted(done=True)


def _statement(name: str, options: SubmitOptions) -> Statement:
    """Return what the author says: by option, else by the metadata of the package, git, or this project."""
    criterion, code = plugins.criteria().get(name), plugins.criteria().origin(name)
    package = _metadata(code)
    author = options.author or _git_user() or package.get("Author", "")
    licence = options.licence or package.get("License-Expression") or package.get("License", "")
    url = options.url or _homepage(package)
    if code == _BUILTIN:
        licence, url = options.licence or _OWN_LICENCE, options.url or ""
    missing = [
        option
        for option, value in (("--author", author), ("--licence", licence), ("--url", url or code == _BUILTIN))
        if not value
    ]
    if missing:
        raise PruneboardError(
            f"a submission must say who made `{name}`, under which licence, and where others get the code; give "
            f"{' and '.join(f'`{option}`' for option in missing)}."
        )
    summary = plugins.documentation(criterion).partition("\n")[0]
    statement = Statement(author=author, licence=licence, url=url, code=code, summary=summary)
    # What would be refused at the end is said before anything runs.
    if (fault := next(statement_faults(statement), None) or reference_fault(criterion.source)) is not None:
        raise PruneboardError(f"what is said of `{name}` cannot stand on its card: {fault}")
    return statement


def _metadata(code: str) -> dict[str, str]:
    """Return what the package of a criterion says of itself; nothing for one that is in no package."""
    kind, _, rest = code.partition(" ")
    if kind != "package":
        return {}
    try:
        found = importlib.metadata.metadata(rest.partition(" ")[0])
    except importlib.metadata.PackageNotFoundError:
        return {}
    urls = [value.partition(",")[2].strip() for value in found.get_all("Project-URL") or []]
    fields = {
        name: str(found[name]) for name in ("Author", "License-Expression", "License", "Home-page") if name in found
    }
    return {**fields, "Urls": "\n".join(urls)}


def _homepage(package: dict[str, str]) -> str:
    urls = [package.get("Home-page", ""), *package.get("Urls", "").splitlines()]
    return next((url for url in urls if url), "")


def _check_commit() -> None:
    commit, clean = provenance.commit()
    if not commit:
        raise PruneboardError(
            "results must be measured with a commit of pruneboard, so that others can measure them again, but this "
            "one is no git checkout; clone the project and install it with `make setup`."
        )
    if not clean:
        raise PruneboardError(
            f"results must be measured with exactly one commit of pruneboard, but its code differs from {commit[:12]}; "
            "commit your changes, also a new file in `criteria/`, and hand it in again."
        )


def _check_complete(rows: pd.DataFrame, suite: Suite, names: Sequence[str]) -> None:
    jobs = rows.drop_duplicates("key")
    failed = jobs[jobs["status"] == "failed"]
    if len(failed):
        line = failed.iloc[0]
        raise PruneboardError(
            f"every job must succeed or be declined, but {len(failed)} failed, such as {line['model']} / "
            f"{line['granularity']} / seed {line['seed']}: {line['reason']}; mend that and hand it in again."
        )
    n_expected = len(expand(suite, criteria=names))
    if len(jobs) != n_expected:
        raise PruneboardError(
            f"the grid must be complete, {n_expected} jobs, but {len(jobs)} are there; the same command runs the rest."
        )


def _write(
    rows: pd.DataFrame, suite: Suite, statements: dict[str, Statement], results: Path
) -> tuple[Report, list[Path]]:
    """Write tables and cards, validate them, and only then put them into the results folder."""
    with tempfile.TemporaryDirectory(prefix="pruneboard-") as name:
        folder = Path(name)
        if (results / suite.name).is_dir():
            shutil.copytree(results / suite.name, folder / suite.name)
        files = ResultsStore(folder).write(rows)
        cards = CardStore(folder)
        for criterion, statement in statements.items():
            tables = cards.table_paths(suite.name, criterion)
            own = ResultsStore(folder).read_criterion(suite.name, criterion)
            files.append(cards.write(make_card(own, suite, statement, tables)))
        report = Report()
        validate_suite(folder, suite, report)
        if report.errors:
            return report, []
        targets = [results / path.relative_to(folder) for path in files]
        for source, target in zip(files, targets, strict=True):
            with atomic_file(target) as temporary:
                shutil.copyfile(source, temporary)
    return report, targets


def _hand_in(
    names: Sequence[str], suite: Suite, files: Sequence[Path], options: SubmitOptions, console: Console
) -> None:
    """Open the pull request, or say how."""
    root, published = _checkout_of(options.results), _PROJECT / "results"
    if published.is_dir() and options.results.resolve() != published:
        console.print(f"Note: the results of this pruneboard are in {published}; name them by `--results`.")
    if root is not None:
        files = [path.resolve().relative_to(root) for path in files]
    steps = _steps(names, suite, files)
    if not options.pull_request:
        console.print("4. Open the pull request (with `gh`, --pull-request does all of this):")
        if root not in (None, Path.cwd()):
            steps.insert(0, ["cd", str(root)])
        for step in steps:
            console.print(f"   {shlex.join(step)}", soft_wrap=True)
        return
    console.print("4. The pull request:")
    for step in steps:
        done = subprocess.run(step, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PruneboardError(
                f"the results are written and valid, but `{shlex.join(step[:3])}` failed: "
                f"{(done.stderr or done.stdout).strip()[:500]}; go on by hand from there."
            )
        last = done.stdout.strip().splitlines()[-1:] if step[0] == "gh" else []
        for line in last:
            console.print(f"   {line}", soft_wrap=True)


def _steps(names: Sequence[str], suite: Suite, files: Sequence[Path]) -> list[list[str]]:
    title = f"Results of {', '.join(names)} on {suite.name}"
    branch = f"submit-{names[0]}-{suite.name}".replace("_", "-")
    body = (
        f"Measured, checked and validated with `pruneboard submit {' '.join(names)} --suite {suite.name}`. What the "
        "card says is derived from the tables; the workflow `submission` derives it again and runs some jobs once more."
    )
    given = list(map(str, files))
    return [
        ["git", "switch", "--create", branch],
        ["git", "add", "--", *given],
        # Whatever else is staged stays out of it.
        ["git", "commit", "--message", title, "--", *given],
        ["git", "push", "--set-upstream", "origin", branch],
        ["gh", "pr", "create", "--title", title, "--body", body],
    ]


def _checkout_of(results: Path) -> Path | None:
    """Return the checkout that a results folder is in."""
    return next((path for path in (results.resolve(), *results.resolve().parents) if (path / ".git").exists()), None)


def _check_pull_request(results: Path) -> None:
    """Raise unless the results folder is in a checkout, and `gh` is there and knows its user."""
    if _checkout_of(results) is None:
        raise PruneboardError(f"`--pull-request` needs a checkout of the project around `{results}`; clone it first.")
    try:
        done = subprocess.run(["gh", "auth", "status"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise PruneboardError(
            "`--pull-request` needs the GitHub command line, but there is no `gh`; leave the option out to see the "
            "steps."
        ) from error
    if done.returncode != 0:
        raise PruneboardError("`--pull-request` needs `gh` to know you; log in with `gh auth login`.")


def _git_user() -> str:
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
