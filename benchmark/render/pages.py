"""Building the static leaderboard from tables: no torch, no network, no clock."""

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from pruneboard.benchmark.catalogue import Catalogue
from pruneboard.benchmark.claims import claim_table, evaluate_claims, load_claims, network_table
from pruneboard.benchmark.errors import SiteError
from pruneboard.benchmark.render.across import view_overall
from pruneboard.benchmark.render.areas import areas_script
from pruneboard.benchmark.render.charts import chart_templates
from pruneboard.benchmark.render.entries import Credit, view_criteria, view_models
from pruneboard.benchmark.render.finder import finder_data
from pruneboard.benchmark.render.folder import replaced
from pruneboard.benchmark.render.history import view_history
from pruneboard.benchmark.render.libraries import VegaScript, tables_script
from pruneboard.benchmark.render.payload import SectionData, embed_json, section_data
from pruneboard.benchmark.render.protocols import view_protocols
from pruneboard.benchmark.render.provenance import VERSION_COLUMNS
from pruneboard.benchmark.render.rowdata import rows_files
from pruneboard.benchmark.render.speed import view_speeds
from pruneboard.benchmark.render.styles import Style, styles
from pruneboard.benchmark.render.templates import make_environment
from pruneboard.benchmark.render.tuning import TuningLine, current_studies, view_tuning
from pruneboard.benchmark.render.views import SuiteView, view_suite, with_display_names
from pruneboard.benchmark.schema import COLUMNS, PublishedPoint, Suite, digest
from pruneboard.benchmark.speeds import Speed, current_speeds, write_speeds
from pruneboard.benchmark.store import points_and_jobs
from pruneboard.benchmark.studies import Study, write_trials

_SITE = Path(__file__).resolve().parents[2] / "site"
_ORDER = ["model", "granularity", "criterion", "seed", "shots", "rate", "key"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extras:
    """What is known beside the rows, by suite where it is a mapping.

    Attributes:
        published: what others published for cells of a suite.
        studies: studies that tuned criteria; those of another version of a suite are left out.
        speeds: measured speeds; those of another version of a suite are left out.
        catalogue: what is registered.
        credits: who handed in what, by registered name of the criterion.
        stale: rows that the present version of a suite has left behind, which are listed and never ranked.
        advice: rows that the front page's finder and its ranking across networks rest on; None for all of the site's.
    """

    published: Mapping[str, Sequence[PublishedPoint]] = dataclasses.field(default_factory=dict)
    studies: Mapping[str, Sequence[Study]] = dataclasses.field(default_factory=dict)
    speeds: Mapping[str, Sequence[Speed]] = dataclasses.field(default_factory=dict)
    catalogue: Catalogue = dataclasses.field(default_factory=Catalogue)
    credits: Mapping[str, Credit] = dataclasses.field(default_factory=dict)
    stale: pd.DataFrame | None = None
    advice: pd.DataFrame | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SuitePage:
    """One suite with all that its page needs."""

    view: SuiteView
    rows: pd.DataFrame
    data: Mapping[str, SectionData]
    tuning: tuple[TuningLine, ...]
    speeds: tuple[Speed, ...]
    stale: pd.DataFrame


def build_site(
    rows: pd.DataFrame, suites: Sequence[Suite], out: Path, *, sources: Mapping[str, str], extras: Extras | None = None
) -> Path:
    """Write the leaderboard of `suites` into the folder `out`, replacing an earlier one only when all of it is done.

    Equal input gives equal bytes, whatever the order of the rows.

    Args:
        rows: a table with the columns of `schema.Row`, and maybe a column `origin` that says where a row is from.
        suites: the suites to show, in this order; each gets a page, with or without rows.
        out: folder to write; it must not exist, be empty, or hold an earlier site.
        sources: for each suite that has rows, a sentence on where they come from.
        extras: what is known beside the rows.

    Returns:
        The path of `index.html`.

    Raises:
        SiteError: `out` cannot be written or is not ours to replace, or rows, suites and sources do not fit together.
        TableError: the rows do not allow the statistics.
    """
    _check_input(rows, suites, sources)
    ordered = rows.sort_values(_ORDER, kind="stable", ignore_index=True)
    with replaced(out) as folder, VegaScript() as vega:
        _write(folder, ordered, suites, sources, extras or Extras())
        _write_assets(folder / "assets", vega.result())
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


def _write(
    folder: Path, rows: pd.DataFrame, suites: Sequence[Suite], sources: Mapping[str, str], extras: Extras
) -> None:
    for name in ("assets", "suites", "criteria", "models", "data", "data/areas", "data/rows"):
        (folder / name).mkdir(parents=True)
    shown = with_display_names(rows)
    drawn = styles(shown)
    pages = [_suite_page(rows, shown, suite, sources.get(suite.name, ""), extras) for suite in suites]
    # Suites with results come first.
    pages.sort(key=lambda page: not page.view.n_rows)
    write = _Writer(folder, make_environment(_SITE / "templates"), [page.view for page in pages], rows)
    for page in pages:
        _write_data(page, folder / "data")
        write.text(f"data/areas/{page.view.suite.name}.js", areas_script(page.view.suite.name, page.view.areas))
        _write_suite(page, write, drawn, extras)
    _write_entries(shown, pages, write, extras)
    _write_index(shown, extras.advice, pages, write)
    _write_rest(shown, pages, write, extras)
    _write_claims(rows, pages, write)


def _suite_page(rows: pd.DataFrame, shown: pd.DataFrame, suite: Suite, source: str, extras: Extras) -> _SuitePage:
    part, part_shown = rows.loc[rows["suite"] == suite.name], shown.loc[shown["suite"] == suite.name]
    view = view_suite(part_shown, suite, source, extras.published.get(suite.name, ()))
    ok = part_shown.loc[part_shown["status"] == "ok"]
    data = {}
    for section in view.sections:
        here, areas = (table.loc[table["granularity"] == section.granularity] for table in (ok, view.areas))
        data[section.granularity] = section_data(here, areas, section, view.default_shots)
    stale = shown.iloc[:0] if extras.stale is None else with_display_names(extras.stale)
    return _SuitePage(
        view=view,
        rows=part,
        data=data,
        tuning=view_tuning(current_studies(extras.studies.get(suite.name, ()), suite), part),
        speeds=tuple(current_speeds(extras.speeds.get(suite.name, ()), suite)),
        stale=stale.loc[stale["suite"] == suite.name],
    )


class _Writer:
    """Renders templates into the site's folder, with what all pages share."""

    def __init__(
        self, folder: Path, environment: jinja2.Environment, views: Sequence[SuiteView], rows: pd.DataFrame
    ) -> None:
        self._folder = folder
        self._environment = environment
        self._shared = {"views": views, "built": _built_from(rows)}

    def __call__(self, template: str, path: str, **values: Any) -> None:
        """Render `template` with `values` into the file `path`, relative to the site."""
        root = "../" * path.count("/")
        page = self._environment.get_template(template).render(**self._shared, root=root, here=path, **values)
        self.text(path, page)

    def text(self, path: str, content: str) -> None:
        """Write a file, relative to the site."""
        (self._folder / path).write_text(content, encoding="utf-8", newline="\n")


def _built_from(rows: pd.DataFrame) -> dict[str, Any]:
    """Return what every page says of all rows together: the latest date, the commits and versions."""
    times = sorted(map(str, rows["time_utc"].dropna().unique()))
    return {
        "latest": times[-1][:10] if times else "",
        "commits": sorted({str(commit)[:10] for commit in rows["commit"].dropna().unique() if commit}),
        "versions": [(title, sorted(map(str, rows[name].dropna().unique()))) for title, name in VERSION_COLUMNS],
        "devices": sorted(map(str, rows["device"].dropna().unique())),
        "n_rows": len(rows),
        "n_jobs": int(rows["key"].nunique()),
        "digest": digest(sorted(map(str, rows["key"].unique()))),
    }


def _write_suite(page: _SuitePage, write: _Writer, drawn: Sequence[Style], extras: Extras) -> None:
    view = page.view
    current = extras.catalogue.criteria
    outdated = {
        card.name: entry.version
        for card in view.criteria
        if (entry := current.get(card.name.removesuffix(" (tuned)"))) is not None and card.version != str(entry.version)
    }
    stale = page.stale.drop_duplicates("key").groupby(["criterion", "model", "granularity", "suite_version"], sort=True)
    write(
        "suite.html",
        f"suites/{view.suite.name}.html",
        view=view,
        data=page.data,
        embedded={
            name: numbers.embedded(section, view.suite.name, drawn, view.default_shots)
            for (name, numbers), section in zip(page.data.items(), view.sections, strict=True)
        },
        templates=embed_json(chart_templates()),
        tuning=page.tuning,
        speeds=view_speeds(page.speeds),
        outdated=outdated,
        stale=[(*map(str, keys), len(part)) for keys, part in stale],
        datasets=extras.catalogue.datasets,
    )


def _write_entries(shown: pd.DataFrame, pages: Sequence[_SuitePage], write: _Writer, extras: Extras) -> None:
    views = [page.view for page in pages]
    criteria = view_criteria(views, extras.catalogue, extras.credits)
    for criterion in criteria:
        write("criterion.html", f"criteria/{criterion.slug}.html", page=criterion)
    write("criteria.html", "criteria.html", criteria=criteria)
    models = view_models(shown, views, extras.catalogue)
    for model in models:
        write("model.html", f"models/{model.slug}.html", page=model)
    write("models.html", "models.html", models=models)


def _write_index(shown: pd.DataFrame, advice: pd.DataFrame | None, pages: Sequence[_SuitePage], write: _Writer) -> None:
    views = [page.view for page in pages]
    if advice is not None:
        shown = with_display_names(advice.sort_values(_ORDER, kind="stable", ignore_index=True))
        views = [view_suite(shown.loc[shown["suite"] == view.suite.name], view.suite, view.source) for view in views]
    tags = {line.criterion: line.needs for view in views for section in view.sections for line in section.lines}
    groups = finder_data(shown, [view.suite for view in views], tags)
    families = {style.criterion: style.family for style in styles(shown)}
    write(
        "index.html",
        "index.html",
        finder=embed_json({"groups": groups, "families": families}),
        n_groups=len(groups),
        overall=view_overall(views),
        published_only=advice is not None,
    )


def _write_rest(shown: pd.DataFrame, pages: Sequence[_SuitePage], write: _Writer, extras: Extras) -> None:
    stale = [page.stale.assign(stale=True) for page in pages if len(page.stale)]
    everything = pd.concat([shown.assign(stale=False), *stale])
    data = {(page.view.suite.name, name): numbers for page in pages for name, numbers in page.data.items()}
    groups = view_protocols([page.view for page in pages], data)
    shots = dict.fromkeys(key for group in groups for entry in group.curves["protocols"] for key in entry["shots"])
    write(
        "protocols.html",
        "protocols.html",
        groups=groups,
        shots=list(shots),
        embedded=[embed_json(group.curves) for group in groups],
        templates=embed_json(chart_templates()),
    )
    write("history.html", "changes.html", changes=view_history(everything))
    write("method.html", "method.html", datasets=extras.catalogue.datasets)
    write("submit.html", "submit.html")
    index: dict[str, dict[str, str]] = {}
    for file in rows_files(everything):
        index.setdefault(file.suite, {})[file.criterion] = file.name
        write.text(f"data/rows/{file.name}.js", file.script)
    write("rows.html", "rows.html", files=embed_json(index))


def _write_claims(rows: pd.DataFrame, pages: Sequence[_SuitePage], write: _Writer) -> None:
    results = evaluate_claims(rows, [page.view.suite for page in pages], load_claims()) if len(rows) else ()
    write("claims.html", "claims.html", claims=results)
    if not results:
        return
    for table, name in ((claim_table(results), "claims"), (network_table(results), "claims.networks")):
        write.text(f"data/{name}.csv", table.to_csv(index=False, lineterminator="\n"))


def _write_data(page: _SuitePage, folder: Path) -> None:
    suite = page.view.suite.name
    for line in page.tuning:
        write_trials(line.study, folder / line.download)
    if page.speeds:
        write_speeds(page.speeds, folder / f"{suite}.speed.csv")
    if page.view.n_rows:
        for table, name in zip(points_and_jobs(page.rows), ("points", "jobs"), strict=True):
            table.to_csv(folder / f"{suite}.{name}.csv", index=False, lineterminator="\n")
            table.to_parquet(folder / f"{suite}.{name}.parquet", index=False)


def _write_assets(folder: Path, vega: str) -> None:
    for asset in sorted((_SITE / "assets").iterdir()):
        shutil.copyfile(asset, folder / asset.name)
    for name, script in (("vega.js", vega), ("datatables.js", tables_script())):
        (folder / name).write_text(script, encoding="utf-8", newline="\n")
