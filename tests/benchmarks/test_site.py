"""The site: building it from 100,000 rows, and the largest page until it answers."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright

import synthetic
from pruneboard.benchmark.cli.tables import build
from pruneboard.benchmark.render import build_site
from pruneboard.benchmark.store import ResultsStore, concatenate

RESULTS = Path(__file__).resolve().parents[2] / "results"
CHROMIUM = shutil.which("chromium")
# Sorts the first ranking as soon as the page has it, and says when it was done.
SORTS = """
const heads = () => [...document.querySelectorAll("table.ranking thead th")];
const head = () => heads().find((th) => th.textContent.startsWith("criterion"));
const answered = () => (head().ariaSort ? (window.answered = true) : setTimeout(answered));
const ready = () => {
  if (document.documentElement?.dataset.tables !== "ready") return void setTimeout(ready);
  head().click();
  answered();
};
ready();
"""


def read_tables(folder):
    for path in sorted(folder.rglob("*.csv")):
        pd.read_csv(path)


def test_the_site_of_all_published_tables(compare, tmp_path, request):
    results = RESULTS
    if not request.config.getoption("--benchmark-enable"):
        results = tmp_path / "results"
        shutil.copytree(RESULTS / "toy", results / "toy")
    compare(
        "site of all published tables",
        "site build",
        reference=lambda: read_tables(results),
        reference_name="pandas reads them",
        ours=lambda: build(None, results, tmp_path / "site"),
        rounds=3,
    )


@pytest.fixture(scope="module")
def suites(request):
    """Five suites of 11 criteria, 4 networks, 5 seeds, 5 numbers of shots and 20 rates; a small one without timing."""
    if request.config.getoption("--benchmark-enable"):
        return [synthetic.make_suite(f"digits_{i}") for i in range(5)]
    return [synthetic.make_suite(seeds=(0, 1), shots=(1, 5), rates=(0.0, 0.5, 0.95))]


def test_the_site_of_many_rows(compare, suites, tmp_path):
    store = ResultsStore(tmp_path / "results")
    for suite in suites:
        store.write(synthetic.make_rows(suite))
    n_rows = sum(len(store.read(suite.name)) for suite in suites)

    def ours():
        rows = concatenate(store.read(suite.name) for suite in suites)
        build_site(rows, suites, tmp_path / "site", sources={suite.name: "made up" for suite in suites})

    compare(
        "site of many rows",
        f"{n_rows} rows",
        reference=lambda: read_tables(tmp_path / "results"),
        reference_name="pandas reads them",
        ours=ours,
        rounds=3,
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no program `chromium` on the path")
def test_the_largest_page_until_it_answers(compare, suites, tmp_path, request):
    """From the beginning of the navigation until a ranking is sorted as was asked, from file:// in a new context."""
    if request.config.getoption("--benchmark-enable"):
        front = build(None, RESULTS, tmp_path / "site")
    else:
        front = build_site(synthetic.make_rows(suites[0]), suites, tmp_path / "site", sources={"digits": "made up"})
    largest = max((front.parent / "suites").glob("*.html"), key=lambda page: page.stat().st_size)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])

        def visit(*, scripts):
            context = browser.new_context(offline=True, java_script_enabled=scripts)
            context.set_default_timeout(120_000)
            page = context.new_page()
            if scripts:
                page.add_init_script(SORTS)
            page.goto(largest.as_uri())
            while scripts and not page.evaluate("window.answered === true"):
                page.wait_for_timeout(5)
            context.close()

        compare(
            "page until it answers",
            f"{largest.name}, {largest.stat().st_size / 1e6:.1f} MB",
            reference=lambda: visit(scripts=False),
            reference_name="the same without scripts",
            ours=lambda: visit(scripts=True),
            rounds=5,
        )
        browser.close()
