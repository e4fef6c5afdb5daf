"""Building the static leaderboard from tables: no torch, no network, no clock."""

import dataclasses
import functools
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import pandas as pd
import vl_convert

from pruneboard.benchmark.errors import SiteError
from pruneboard.benchmark.render.charts import Chart, Style, family_class, rate_chart, shots_chart, styles
from pruneboard.benchmark.render.speed import view_speeds
from pruneboard.benchmark.render.tuning import current_studies, view_tuning
from pruneboard.benchmark.render.views import Estimate, Line, Section, SuiteView, view_suite, with_display_names
from pruneboard.benchmark.schema import COLUMNS, PublishedPoint, Suite, display_name
from pruneboard.benchmark.speeds import Speed, current_speeds, write_speeds
from pruneboard.benchmark.stats import curves
from pruneboard.benchmark.store import points_and_jobs
from pruneboard.benchmark.studies import Study, write_trials

_SITE = Path(__file__).resolve().parents[2] / "site"
_MARKER = ".pruneboard-site"
_MARKER_TEXT = "Made by `pruneboard site build`, which replaces this folder as a whole.\n"
_ORDER = ["model", "granularity", "criterion", "seed", "shots", "rate", "key"]


@dataclasses.dataclass(frozen=True)
class _SectionCharts:
    """A section's figures: one for each network, and one over the shots unless there is only one number of them."""

    section: Section
    by_rate: tuple[Chart, ...]
    by_shots: Chart | None


@dataclasses.dataclass(frozen=True)
class _Notes:
    """What is said beside the rows of each suite: their source, what others published, what was tuned, how fast."""

    sources: Mapping[str, str]
    published: Mapping[str, Sequence[PublishedPoint]]
    studies: Mapping[str, Sequence[Study]]
    speeds: Mapping[str, Sequence[Speed]]


def build_site(
    rows: pd.DataFrame,
    suites: Sequence[Suite],
    out: Path,
    *,
    sources: Mapping[str, str],
    published: Mapping[str, Sequence[PublishedPoint]] | None = None,
    studies: Mapping[str, Sequence[Study]] | None = None,
    speeds: Mapping[str, Sequence[Speed]] | None = None,
) -> Path:
    """Write the leaderboard of `suites` into the folder `out`, replacing an earlier one only when all of it is done.

    Equal input gives equal bytes, whatever the order of the rows.

    Args:
        rows: a table with the columns of `schema.Row`.
        suites: the suites to show, in this order; each gets a page, with or without rows.
        out: folder to write; it must not exist, be empty, or hold an earlier site.
        sources: for each suite that has rows, a sentence on where they come from.
        published: for some suites, what others published for their cells.
        studies: for some suites, the studies that tuned criteria; those of another version of a suite are left out.
        speeds: for some suites, measured speeds; those of another version of a suite are left out.

    Returns:
        The path of `index.html`.

    Raises:
        SiteError: `out` cannot be written or is not ours to replace, or rows, suites and sources do not fit together.
        TableError: the rows do not allow the statistics.
    """
    _check_input(rows, suites, sources)
    target = out.resolve()
    _check_target(target, out)
    ordered = rows.sort_values(_ORDER, kind="stable", ignore_index=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        fresh = scratch / "site"
        _write(fresh, ordered, suites, _Notes(sources, published or {}, studies or {}, speeds or {}))
        _swap(fresh, target, scratch / "old")
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out / "index.html"


def _check_input(rows: pd.DataFrame, suites: Sequence[Suite], sources: Mapping[str, str]) -> None:
    missing = [column.name for column in COLUMNS if column.name not in rows.columns]
    if missing:
        raise SiteError(f"the rows must have every column of the schema, but `{missing[0]}` is missing; read it too.")
    names = [suite.name for suite in suites]
    for name in names:
        # The name becomes a file name and an address.
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise SiteError(f"a suite's name must be lower_snake to be a page, got {name!r}; rename the suite.")
        if names.count(name) > 1:
            raise SiteError(f"each suite must be given once, got `{name}` {names.count(name)} times; leave one.")
    for name in sorted(map(str, rows["suite"].unique())):
        if name not in names:
            raise SiteError(f"every row must belong to a given suite, got rows of {name!r}; give that suite as well.")
        if name not in sources:
            raise SiteError(f"`sources` must say where the rows of each suite come from, but lacks `{name}`; add it.")


def _check_target(target: Path, out: Path) -> None:
    if target.exists() and not target.is_dir():
        raise SiteError(f"the site must go into a folder, but `{out}` is a file; name another folder.")
    if target.is_dir() and not (target / _MARKER).is_file() and any(target.iterdir()):
        raise SiteError(
            f"the site may only replace an empty folder or an earlier site, but `{out}` holds other files; "
            "name another folder or empty it."
        )


def _unwritable(out: Path, error: OSError) -> SiteError:
    return SiteError(f"the site's folder must be writable, but `{out}` is not: {error.strerror}; name another folder.")


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put `fresh` in the place of `target`, which goes to `old`; if that fails, `target` is as before."""
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise


def _write(folder: Path, rows: pd.DataFrame, suites: Sequence[Suite], notes: _Notes) -> None:
    for name in ("assets", "suites", "data"):
        (folder / name).mkdir(parents=True)
    (folder / _MARKER).write_text(_MARKER_TEXT, encoding="utf-8")
    for asset in sorted((_SITE / "assets").iterdir()):
        shutil.copyfile(asset, folder / "assets" / asset.name)
    (folder / "assets" / "vega.js").write_text(_vega_bundle(), encoding="utf-8", newline="\n")
    environment = _environment()
    all_styles = styles(with_display_names(rows))
    views: list[SuiteView] = []
    for suite in suites:
        part = rows.loc[rows["suite"] == suite.name]
        shown = with_display_names(part)
        view = view_suite(shown, suite, notes.sources.get(suite.name, ""), notes.published.get(suite.name, ()))
        tuning = view_tuning(current_studies(notes.studies.get(suite.name, ()), suite), part)
        for line in tuning:
            write_trials(line.study, folder / "data" / line.download)
        speeds = current_speeds(notes.speeds.get(suite.name, ()), suite)
        if speeds:
            write_speeds(speeds, folder / "data" / f"{suite.name}.speed.csv")
        views.append(view)
        if view.n_rows:
            _write_tables(part, folder / "data", suite.name)
        page = environment.get_template("suite.html").render(
            view=view,
            suites=suites,
            figures=_figures(shown, view, all_styles),
            tuning=tuning,
            speeds=view_speeds(speeds),
            root="../",
        )
        (folder / "suites" / f"{suite.name}.html").write_text(page, encoding="utf-8", newline="\n")
    index = environment.get_template("index.html").render(views=views, suites=suites, root="")
    (folder / "index.html").write_text(index, encoding="utf-8", newline="\n")


@functools.cache
def _vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script that makes `vegaEmbed` known to the page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _figures(rows: pd.DataFrame, view: SuiteView, drawn: Sequence[Style]) -> tuple[_SectionCharts, ...]:
    figures: list[_SectionCharts] = []
    if not view.sections:
        return ()
    by_rate = curves(rows, ("granularity", "model", "criterion", "shots"))
    by_shots = curves(rows, ("granularity", "criterion"), axis="shots")
    for section in view.sections:
        here = by_rate.loc[by_rate["granularity"] == section.granularity]
        charts = tuple(
            rate_chart(
                here.loc[here["model"] == head.name],
                drawn,
                name=f"{view.suite.name}-{section.granularity}-{i}",
                model=head.name,
                unpruned=head.unpruned[0],
                shots=view.default_shots,
            )
            for i, head in enumerate(section.models, start=1)
        )
        over_shots = None
        if len(section.shots) > 1:
            points = by_shots.loc[by_shots["granularity"] == section.granularity]
            over_shots = shots_chart(points, drawn, name=f"{view.suite.name}-{section.granularity}-shots")
        figures.append(_SectionCharts(section, charts, over_shots))
    return tuple(figures)


def _write_tables(rows: pd.DataFrame, folder: Path, suite: str) -> None:
    for table, name in zip(points_and_jobs(rows), ("points", "jobs"), strict=True):
        table.to_csv(folder / f"{suite}.{name}.csv", index=False, lineterminator="\n")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_SITE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "extent": _extent,
        "family_class": family_class,
        "display_name": display_name,
    }
    environment.globals["whiskers"] = _whiskers
    return environment


def _percent(fraction: float, n_decimals: int = 2) -> str:
    return f"{100 * fraction:.{n_decimals}f}"


def _extent(values: tuple[float, float]) -> str:
    low, high = map(_percent, values)
    return low if low == high else f"{low} to {high}"


@dataclasses.dataclass(frozen=True)
class _Whisker:
    """Positions in [0, 100] of an interval and its mean within a column."""

    low: str
    mean: str
    high: str


def _whiskers(lines: Sequence[Line]) -> dict[str, _Whisker]:
    """Place the intervals of A_PR on a common scale, keyed by criterion."""
    ends = [_ends(line.a_pr) for line in lines]
    smallest, largest = min(low for low, _ in ends), max(high for _, high in ends)
    span = largest - smallest
    if not math.isfinite(span) or span <= 0:
        span = 1.0

    def place(value: float) -> str:
        return f"{4 + 92 * (value - smallest) / span:.2f}"

    return {
        line.criterion: _Whisker(place(low), place(line.a_pr.mean), place(high))
        for line, (low, high) in zip(lines, ends, strict=True)
    }


def _ends(estimate: Estimate) -> tuple[float, float]:
    if estimate.low is None or estimate.high is None:
        return estimate.mean, estimate.mean
    return estimate.low, estimate.high
