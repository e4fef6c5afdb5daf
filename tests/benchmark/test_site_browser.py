"""The site in a real browser, from file:// and without a network."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

import synthetic
from pruneboard.benchmark.render import build_site

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no program `chromium` on the path")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PAGES = ("index.html", "suites/digits.html", "suites/cifar10.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    hostile = "</script><script>document.title='taken'</script>"
    suite = synthetic.make_suite(seeds=(0, 1, 2), shots=(1, 10), criteria=(*synthetic.CRITERIA, hostile))
    folder = tmp_path_factory.mktemp("browser") / "site"
    suites = [suite, synthetic.make_suite("cifar10", title="CIFAR-10")]
    return build_site(synthetic.make_rows(suite), suites, folder, sources={"digits": "made up"}).parent


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def visit(browser, site):
    """Open a page; whatever goes wrong in it fails the test at its end."""
    contexts, problems = [], []

    def open_page(name, *, scheme="light", width=1280, javascript=True):
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True, java_script_enabled=javascript
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:", "blob:")) else problems.append(request.url)
            ),
        )
        page.goto((site / name).as_uri())
        if javascript and page.locator(".plot").count():
            page.wait_for_selector("html[data-charts=drawn]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()

    assert problems == []


def until(page, condition):
    """Wait for a condition; Playwright's own wait needs eval in the page, which the page's policy forbids."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(50)
    pytest.fail("the page did not change within 10 s")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_pages_load_without_errors_and_fit_the_screen(visit, name, scheme, width):
    page = visit(name, scheme=scheme, width=width)

    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert "taken" not in page.title()
    plots = page.locator(".plot")
    for i in range(plots.count()):
        assert plots.nth(i).locator("svg.marks path").count() > 10
    assert plots.count() == (7 if "digits" in name else 0)


def test_pages_and_charts_follow_the_colour_scheme(visit):
    page = visit("suites/digits.html")
    paint = "getComputedStyle(document.body).backgroundColor"
    surface = "document.querySelector('.plot svg.marks').style.backgroundColor"

    assert page.evaluate(paint) == "rgb(255, 255, 255)"
    assert page.evaluate(surface) in ("rgb(255, 255, 255)", "white")
    page.emulate_media(color_scheme="dark")
    until(page, lambda: page.evaluate(f"{surface} === {paint}"))
    assert page.evaluate(paint) == "rgb(20, 23, 27)"


def test_shots_can_be_chosen(visit):
    page = visit("suites/digits.html")
    lines = (
        "[...document.querySelector('.plot svg.marks').querySelectorAll('path')].map(p => p.getAttribute('d')).join()"
    )
    before = page.evaluate(lines)

    page.locator(".picker").first.get_by_text("1", exact=True).click()
    until(page, lambda: page.evaluate(lines) != before)
    page.locator(".picker").first.get_by_text("10", exact=True).click()
    until(page, lambda: page.evaluate(lines) == before)


def test_a_legend_entry_singles_out_its_line(visit):
    page = visit("suites/digits.html")
    faded = (
        "document.querySelectorAll('.plot svg.marks')[0].querySelectorAll('g.mark-line path[opacity=\"0.1\"]').length"
    )

    assert page.evaluate(faded) == 0
    page.locator(".plot").first.get_by_text("random", exact=True).click()
    until(page, lambda: page.evaluate(faded) == 11)


def test_pointing_at_a_line_shows_its_numbers(visit):
    page = visit("suites/digits.html")
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 120)
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + 123)
    page.wait_for_selector("#vg-tooltip-element.visible")

    assert "95 % interval from" in page.locator("#vg-tooltip-element").inner_text()


def test_rankings_can_be_sorted(visit):
    page = visit("suites/digits.html")
    table = page.locator("table[data-sortable]").first
    names = table.locator("tbody th")
    before = names.all_inner_texts()
    table.get_by_role("button", name="criterion").click()

    assert names.all_inner_texts() == sorted(before)
    table.get_by_role("button", name="rank").click()
    assert names.all_inner_texts() == before


def test_charts_can_be_saved(visit):
    page = visit("suites/digits.html")
    figure = page.locator(".plot").first
    figure.locator("summary").click()

    assert figure.locator(".vega-actions a").all_inner_texts() == ["Save as SVG", "Save as PNG"]


def test_numbers_are_there_without_javascript(visit):
    page = visit("suites/digits.html", javascript=False)

    assert page.locator("table.numbers").count() == 7
    assert page.locator(".picker").first.is_hidden()
    page.locator("figure details").first.locator("summary").click()
    assert page.locator("table.numbers").first.is_visible()
