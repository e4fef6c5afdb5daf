"""The commands that read rows: the table in the terminal, published tables, the site."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.text import Text

from pruneboard.benchmark.cards import CardStore
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli._sources import Sourced, read_sources
from pruneboard.benchmark.cli.suite_listing import make_table
from pruneboard.benchmark.errors import StoreError, SuiteError
from pruneboard.benchmark.render import (
    Credit,
    Extras,
    build_site,
    current_studies,
    overall_table,
    rank_across,
    terminal_table,
    with_display_names,
)
from pruneboard.benchmark.schema import TUNED_SUFFIX, Suite
from pruneboard.benchmark.speeds import Speed, SpeedStore, current_speeds
from pruneboard.benchmark.stats import area_under_curve, compare_tuned
from pruneboard.benchmark.store import ResultsStore, RunStore, concatenate, in_grid
from pruneboard.benchmark.studies import Study, StudyStore
from pruneboard.benchmark.suites import load_published, load_suite, suite_names, suite_path

_PROJECT = Path(__file__).resolve().parents[2]


def print_table(name: str, runs: Path, results: Path | None) -> None:
    """Print the leaderboard of a suite, from a run folder and the published tables; None leaves these out.

    Raises:
        PruneboardError: there is no such suite, there are no rows of it, or a file is damaged.
    """
    console = make_console()
    suite = load_suite(suite_path(name))
    found = _read(suite, runs, results)
    if found.rows.empty:
        raise _no_rows(suite, [runs] if results is None else [runs, results])
    n_jobs = found.rows["key"].nunique()
    console.print(Text(f"{suite.title}: {n_jobs} job{'' if n_jobs == 1 else 's'}, {found.source}", style="bold"))
    console.print(terminal_table(found.rows, suite, load_published(suite, suite_path(name))))


def print_overall(runs: Path, results: Path | None) -> None:
    """Print the ranking across the networks of all suites, from the same rows as `print_table`.

    Raises:
        PruneboardError: a file is damaged.
    """
    suites = _all_suites()
    rows = concatenate(_read(suite, runs, results).rows for suite in suites)
    console = make_console()
    console.print(Text("Across networks: suites that score once and measure on unseen images", style="bold"))
    console.print(overall_table(rank_across(with_display_names(rows), suites)))


def print_comparison(suite: Suite, runs: Path, studies: Sequence[Study]) -> None:
    """Print how the criteria of studies do tuned and untuned on the rows of a run folder."""
    areas = area_under_curve(_of_grid(RunStore(runs).read(suite.name), suite))
    table = make_table("criterion", "model", "units", "untuned", "tuned", "difference", "+-")
    measured = {(study.tuned_name, study.model, study.granularity) for study in studies}
    compared = compare_tuned(areas, {study.tuned_name: study.untuned for study in studies})
    for line in compared.to_dict("records"):
        if (line["criterion"], line["model"], line["granularity"]) in measured:
            half_width = (line["difference_high"] - line["difference_low"]) / 2
            table.add_row(
                *(line["criterion"].removesuffix(TUNED_SUFFIX), line["model"], line["granularity"]),
                *(f"{100 * line[name]:.2f}" for name in ("untuned_mean", "tuned_mean")),
                f"{100 * line['difference_mean']:+.2f}",
                "one seed" if pd.isna(half_width) else f"{100 * half_width:.2f}",
            )
    console = make_console()
    console.print(
        f"A_PR in % on `{suite.evaluation_split}`, mean over shots and seeds; differences are paired by seed, with "
        "their 95 % intervals:"
    )
    console.print(table)


def publish(name: str, runs: Path, results: Path) -> None:
    """Write the rows and studies of a run folder to the published tables, and print the files.

    Raises:
        PruneboardError: the run folder has no rows of the suite, or a file cannot be written.
    """
    suite = load_suite(suite_path(name))
    rows = _of_grid(RunStore(runs).read(suite.name), suite)
    if rows.empty:
        raise _no_rows(suite, [runs])
    paths = ResultsStore(results).write(rows)
    studies = StudyStore(results)
    paths += studies.publish(current_studies(StudyStore(runs).read(suite.name), suite))
    for path in paths:
        make_console().print(str(path), soft_wrap=True)


def build(
    runs: Path | None, results: Path, out: Path, *, local: bool = False, suite_files: Sequence[Path] = ()
) -> Path:
    """Build the site, and return its front page.

    Args:
        runs: run folder whose rows stand beside the published ones.
        results: folder of published tables.
        out: folder of the site.
        local: leave the published rows out.
        suite_files: files of suites beside those that come with pruneboard.

    Raises:
        PruneboardError: a table or suite file is damaged, or the site cannot be written.
    """
    files = _suite_files(suite_files)
    suites = list(files)
    read = {suite.name: _read(suite, runs, None if local else results) for suite in suites}
    rows = concatenate(found.rows for found in read.values())
    if rows.empty:
        looked = " or ".join(f"`{folder}`" for folder in (None if local else results, runs) if folder is not None)
        raise StoreError(
            f"a site needs rows, but there are none of any suite in {looked or 'no folder'}; name a folder that has "
            "some by `--results` or `--runs`."
        )
    # It imports every plugin, and with them torch, which nothing else here needs.
    from pruneboard.benchmark.cli.cataloguing import make_catalogue

    origins = pd.concat([found.rows[["key", "origin"]] for found in read.values()])
    rows = rows.assign(origin=rows["key"].map(origins.drop_duplicates("key").set_index("key")["origin"]))
    published = {suite.name: load_published(suite, path) for suite, path in files.items()}
    besides = runs is not None and not local
    advice = concatenate(read_sources(suite, None, results).rows for suite in suites) if besides else concatenate([])
    page = build_site(
        rows,
        suites,
        out,
        sources={name: found.source for name, found in read.items()},
        extras=Extras(
            published=published,
            studies={suite.name: _studies(suite, runs, results, read[suite.name].rows) for suite in suites},
            speeds={suite.name: _speeds(suite, runs, results) for suite in suites},
            stale=concatenate(found.stale for found in read.values()),
            # What was measured here only must not change what is advised.
            advice=None if advice.empty else advice,
            catalogue=make_catalogue(),
            credits=_credits(suites, results),
        ),
    )
    found = set() if runs is None else set(RunStore(runs).suites())
    for folder in sorted(found - read.keys()):
        make_console(stderr=True).print(
            f"note: rows of `{folder}` are not shown, because no suite is called so; name its file by `--suite`.",
            soft_wrap=True,
        )
    return page


def published_in(results: Path) -> Path:
    """Return the results folder for a site: outside the clone, the default one is that of this pruneboard.

    Raises:
        StoreError: there is none.
    """
    if results != Path("results"):
        folders = [results] if results.is_dir() else []
    else:
        # A folder of this name may be of something else.
        folders = [folder for folder in (results, _PROJECT / "results") if any(folder.glob("*/*.jobs.csv"))]
    if folders:
        return folders[0]
    raise StoreError(
        f"a site needs published tables, but `{results}` holds none; name their folder by `--results`, or show the "
        "rows of a run folder alone by `--runs` and `--local`."
    )


def rows_of_all_suites(runs: Path | None, results: Path) -> tuple[pd.DataFrame, list[Suite]]:
    """Return the rows of all suites, each from the run folder where it has some, else as published, and the suites.

    Raises:
        PruneboardError: a file is damaged.
    """
    suites = _all_suites()
    here = [_read(suite, runs, None).rows if runs is not None else pd.DataFrame() for suite in suites]
    return concatenate(
        rows if len(rows) else _read(suite, None, results).rows for suite, rows in zip(suites, here, strict=True)
    ), suites


def _all_suites() -> list[Suite]:
    return list(_suite_files())


def _suite_files(others: Sequence[Path] = ()) -> dict[Suite, Path]:
    """Return all suites, each with its file: those that come with pruneboard, and others.

    Raises:
        SuiteError: a file is no suite, or has the name of another suite.
    """
    paths = {path.resolve(): path for path in (*map(suite_path, suite_names()), *others)}
    found = {path: load_suite(path) for path in paths.values()}
    named: dict[str, Path] = {}
    for path, suite in found.items():
        if named.setdefault(suite.name, path) != path:
            raise SuiteError(
                f"each suite must have a name of its own, but `{suite.name}` is that of `{named[suite.name]}` and of "
                f"`{path}`; give one of them another `name`."
            )
    return {suite: path for path, suite in found.items()}


def _studies(suite: Suite, runs: Path | None, results: Path, rows: pd.DataFrame) -> list[Study]:
    """Studies of a suite: from the run folder where it has some, else the published ones that its rows measure."""
    found = [] if runs is None else current_studies(StudyStore(runs).read(suite.name), suite)
    published = current_studies(StudyStore(results).read(suite.name), suite)
    if runs is None or rows.empty:
        return found or published
    measured = set(rows[["criterion", "model", "granularity"]].drop_duplicates().itertuples(index=False, name=None))
    return found or [s for s in published if (s.tuned_name, s.model, s.granularity) in measured]


def _speeds(suite: Suite, runs: Path | None, results: Path) -> list[Speed]:
    """Measured speeds of a suite: from the run folder where it has some, else the published ones."""
    found = [] if runs is None else current_speeds(SpeedStore(runs).read(suite.name), suite)
    return found or current_speeds(SpeedStore(results).read(suite.name), suite)


def _read(suite: Suite, runs: Path | None, results: Path | None) -> Sourced:
    """Read a suite's rows, and say on the error stream what is left out."""
    found = read_sources(suite, runs, results)
    for note in found.notes:
        make_console(stderr=True).print(f"note: {note}")
    return found


def _of_grid(rows: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Leave out rows of another version of the suite, and of models, criteria or seeds it no longer has."""
    current = in_grid(rows, suite)
    left_out = rows.loc[~current, "key"].nunique()
    if left_out:
        make_console(stderr=True).print(
            f"note: {left_out} jobs of another version of suite `{suite.name}` are left out."
        )
    return rows[current].reset_index(drop=True)


def _no_rows(suite: Suite, folders: list[Path]) -> StoreError:
    looked = " or ".join(f"`{folder}`" for folder in folders)
    return StoreError(
        f"a table needs rows, but there are none of suite `{suite.name}` in {looked}; "
        f"make them with `pruneboard run {suite.name}`."
    )


def _credits(suites: Sequence[Suite], results: Path) -> dict[str, Credit]:
    """Return who handed in each criterion that has a card; of several suites the last one by name decides."""
    cards = [card for suite in suites for card in CardStore(results).read(suite.name)]
    return {
        card.criterion: Credit(author=card.author, licence=card.licence, url=card.url, summary=card.summary)
        for card in cards
    }
