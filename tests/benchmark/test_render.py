import dataclasses
import hashlib
import html.parser
import io
import itertools
import json
import re
import time
import urllib.parse
from pathlib import Path

import altair as alt
import pandas as pd
import psutil
import pytest
from rich.console import Console

import synthetic
from pruneboard.benchmark.catalogue import Catalogue, CriterionEntry
from pruneboard.benchmark.claims import load_claims
from pruneboard.benchmark.cli.cataloguing import make_catalogue
from pruneboard.benchmark.errors import SiteError, TableError
from pruneboard.benchmark.render import Credit, Extras, build_site, libraries, terminal_table
from pruneboard.benchmark.render.areas import areas_script
from pruneboard.benchmark.render.charts import chart_templates
from pruneboard.benchmark.render.links import rows_link, slug, web_link
from pruneboard.benchmark.render.payload import _costs, embed_json
from pruneboard.benchmark.render.styles import styles
from pruneboard.benchmark.render.templates import _settings, make_environment
from pruneboard.benchmark.schema import COLUMNS, PublishedPoint
from pruneboard.benchmark.stats import area_under_curve, curves, standings, summarise

ROOT = Path(__file__).resolve().parents[2]
SUITE = synthetic.make_suite(seeds=(0, 1, 2), shots=(1, 10))
TINY = synthetic.make_suite(
    seeds=(0, 1),
    shots=(1,),
    criteria=("taylor", "random"),
    models=(synthetic.SuiteModel(name="digits_vgg", granularities=("filters",)),),
)
SOURCES = {SUITE.name: "published in results/"}
VOID = {"meta", "link", "img", "input", "br", "path", "circle"}
HOSTILE = '</script><img src=x onerror="alert(1)">&\u2028{{ 7*7 }}'


class Page(html.parser.HTMLParser):
    """A parsed page; refuses tags that are not balanced, and collects what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.tables, self.json, self.links = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(attrs["href"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "script" and attrs.get("type") == "application/json":
            self.json.append("")

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.json[-1] += data
        elif {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def read(folder, page="suites/digits.html"):
    return (folder / page).read_text(encoding="utf-8")


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def rows():
    return synthetic.make_rows(SUITE)


@pytest.fixture(scope="module")
def tiny():
    return synthetic.make_rows(TINY)


@pytest.fixture(scope="module")
def site(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "out"
    empty = synthetic.make_suite("cifar10", title="CIFAR-10")
    assert build_site(rows, [SUITE, empty], folder, sources=SOURCES) == folder / "index.html"
    return folder


def build(rows, tmp_path, suites=(SUITE,)):
    build_site(rows, suites, tmp_path / "out", sources=SOURCES)
    return tmp_path / "out"


PAGES = (
    *(
        "index.html",
        "criteria.html",
        "models.html",
        "protocols.html",
        "method.html",
        "submit.html",
        "changes.html",
        "claims.html",
    ),
    *("rows.html", "suites/digits.html", "suites/cifar10.html", "criteria/taylor.html", "models/digits_vit.html"),
)


def test_the_site_has_a_page_for_every_criterion_and_network(site):
    names = {str(path.relative_to(site)) for path in site.rglob("*.html")}

    assert names >= set(PAGES)
    assert {f"criteria/{name}.html" for name in synthetic.CRITERIA} <= names
    assert {f"models/{name}.html" for name in synthetic.MODELS} <= names


def test_the_method_explains_every_statistic_with_what_it_assumes(site):
    text = read(site, "method.html")
    for anchor in ("intervals", "ranks", "wins", "diagram", "overall"):
        section = re.search(rf'<div id="{anchor}">(.*?)</div>', text, re.DOTALL)[1]
        assert "Assumes that" in section
    for name in ("Holm", "Mogstad", "Friedman", "Nemenyi", "Wilcoxon", "Wilson", "Demšar", "Benavoli"):
        assert name in text.partition('id="statistics"')[2].partition('id="rules"')[0]
    assert "method.html#power" in read(site)
    assert 'id="power"' in text


def test_pages_say_what_the_overall_ranking_mixes(site):
    text = read(site, "index.html")

    assert "never mixed" not in text
    assert "a network and the kind of unit that is removed from it" in text


def test_the_foot_of_every_page_names_libraries_and_leads_to_all_commits(tiny, tmp_path):
    foot = read(build(tiny, tmp_path), "method.html").partition("<footer>")[2]
    for library in ("pruneboard 0.1.0", "Python 3.11.7", "PyTorch 2.9.0", "timm 1.0.31", "zennit 0.5.1"):
        assert library in foot
    assert '<a href="changes.html">commit</a> <code>0123456789</code>' in foot
    many = tiny.assign(commit=[str(i % 5) * 40 for i in range(len(tiny))])
    foot = read(build(many, tmp_path), "suites/digits.html").partition("<footer>")[2]
    assert '<a href="../changes.html">5 commits</a>' in foot


@pytest.mark.parametrize(("scope", "words"), [("global", "over all layers together"), ("layer", "within each layer")])
def test_provenance_says_in_words_how_units_are_ranked(tiny, tmp_path, scope, words):
    suite = dataclasses.replace(TINY, scope=scope)
    text = read(build(tiny, tmp_path, suites=[suite]))

    assert f"one shot; units are ranked {words}; reference images" in text.partition('id="provenance"')[2]


def test_a_criterions_page_links_its_parameters_to_what_explains_them(tmp_path):
    rows = synthetic.make_rows(TINY, criteria=("lrp_epsilon_plus", "random"))
    catalogue = make_catalogue()
    build_site(rows, [TINY], tmp_path / "out", sources=SOURCES, extras=Extras(catalogue=catalogue))
    text = read(tmp_path / "out", "criteria/lrp_epsilon_plus.html")

    links = {link for link in Page(text).links if "method.html#" in link}
    anchors = {"rules", "sign", "rule-z_plus", "rule-epsilon", "sign-pxp", "softmax-attn_lrp"}
    assert links == {f"../method.html#{anchor}" for anchor in anchors}
    method = read(tmp_path / "out", "method.html")
    assert all(f'id="{anchor}"' in method for anchor in anchors)
    shown = re.sub("<[^>]*>", "", text)
    assert "It follows the z+ rule in all hidden layers, the epsilon rule in the classifier." in shown


def test_claims_are_told_apart_by_their_first_line():
    texts = [claim.text for claim in load_claims()]

    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_well_formed_and_self_contained(site, page):
    parsed = Page(read(site, page))

    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert [tag for tag, _ in parsed.tags].count("h1") == 1
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all("scope" in attrs for tag, attrs in parsed.tags if tag == "th")
    assert all(attrs.get("style") is None for _, attrs in parsed.tags)
    loaded = [
        attrs.get("src") or attrs["href"]
        for tag, attrs in parsed.tags
        if tag in ("script", "link", "img") and attrs.get("type") != "application/json"
    ]
    for address in loaded + [link for link in parsed.links if not link.startswith("http")]:
        name, _, anchor = address.partition("#")
        name = name.partition("?")[0]
        target = (site / page).parent / name if name else site / page
        assert target.is_file(), address
        if anchor:
            assert f'id="{anchor}"' in target.read_text(encoding="utf-8")
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and "Content-Security" in a.get("http-equiv", ""))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'none'" in policy


def test_every_number_of_the_ranking_is_the_statistics_own(site, rows):
    areas = area_under_curve(rows)
    by = ("suite", "granularity", "criterion")
    summary = summarise(areas, by)
    by_shots = summarise(areas, (*by, "shots")).set_index(["granularity", "criterion", "shots"])["a_pr_mean"]
    possible = standings(areas, by).set_index(["granularity", "criterion"])
    at_half = curves(rows, by).set_index(["granularity", "criterion", "rate"])
    shown = [table for table in Page(read(site)).tables if table[0][0].strip() == "rank"]

    assert len(shown) == 3
    for granularity, table in zip(("filters", "neurons", "heads"), shown, strict=True):
        expected = summary.loc[summary["granularity"] == granularity]
        assert len(table) == len(expected) + 1
        heads = [cell.strip() for cell in table[0]]
        for cells, line in zip(table[1:], expected.itertuples(index=False), strict=True):
            name = line.criterion
            told = {head: cell.strip() for head, cell in zip(heads, cells, strict=True)}
            low, high = possible.loc[(granularity, name), ["rank_low", "rank_high"]].astype(int)
            assert told["rank"] == (str(low) if low == high else f"{low}–{high}")
            assert told["criterion"].split()[:2] == [name, synthetic.CRITERIA[name][0]]
            assert told["looks at"] == synthetic.CRITERIA[name][1]
            assert told["APR"] == f"{100 * line.a_pr_mean:.2f}"
            assert told["95 % interval"] == f"{100 * line.a_pr_low:.2f} to {100 * line.a_pr_high:.2f}"
            won, least, most = 100 * possible.loc[(granularity, name), ["win_rate", "win_rate_low", "win_rate_high"]]
            assert told["wins"] == f"{won:.0f} {least:.0f} to {most:.0f}"
            top_pr = [100 * getattr(line, f"top_pr_{end}") for end in ("mean", "low", "high")]
            assert [float(text) for text in told["Top-PR"].replace("to", "").split()] == pytest.approx(
                top_pr, abs=0.0551
            )
            accuracy = 100 * at_half.loc[(granularity, name, 0.5), ["mean", "low", "high"]]
            assert told["accuracy at 50 %"] == "{:.2f} {:.2f} to {:.2f}".format(*accuracy)
            assert told["1 image"] == f"{100 * by_shots[granularity, name, 1]:.2f}"
            assert told["10 images"] == f"{100 * by_shots[granularity, name, 10]:.2f}"
            assert told["AUC"].split()[0] == f"{line.auc_trapz_mean:.4f}"
            assert told["seeds"] == "3"


def test_sizes_are_those_of_the_rows(site, rows):
    table = Page(read(site)).tables[0]
    ok = rows.loc[(rows["status"] == "ok") & (rows["granularity"] == "filters")]
    ok = ok.assign(params=ok["params_left"].astype(float) / ok["params_total"].astype(float))
    kept = []
    for _, curve in ok.groupby(["criterion", "model", "seed", "shots"]):
        left = curve.sort_values("rate")
        stays = (left["top1"] >= 0.95 * left["top1"].iloc[0] - 1e-12).cummin()
        kept.append((left["criterion"].iloc[0], left.loc[stays, "params"].iloc[-1]))
    at_top_pr = pd.DataFrame(kept, columns=["criterion", "params"]).groupby("criterion")["params"].mean()
    at_half = ok.loc[ok["rate"] == 0.5].groupby("criterion")["params"].mean()

    heads = [cell.strip() for cell in table[0]]
    for cells in table[1:]:
        told = {head: cell.strip() for head, cell in zip(heads, cells, strict=True)}
        name = told["criterion"].split()[0]
        assert float(told["parameters at 50 %"]) == pytest.approx(100 * at_half[name], abs=0.0501)
        assert float(told["parameters at Top-PR: 95 % of the unpruned"]) == pytest.approx(
            100 * at_top_pr[name], abs=0.0501
        )


def test_table_by_network_shows_the_unpruned_accuracy(site, rows):
    table = next(t for t in Page(read(site)).tables if t[-1] and t[-1][0].strip() == "unpruned accuracy")
    areas = area_under_curve(rows)
    unpruned = areas.groupby("model")["unpruned"].first()

    assert [cell.strip() for cell in table[-1][1:]] == [
        f"{100 * unpruned[model]:.2f}" for model in ("digits_resnet", "digits_vgg", "digits_vit", "digits_vit")
    ]


def embedded(text, name):
    """Return what a page's script element of that id holds."""
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', text, flags=re.S)
    return json.loads(found)


def test_charts_are_given_the_statistics_own_numbers(site, rows):
    data = embedded(read(site), "data-filters")
    by = ("granularity", "model", "criterion", "shots")
    expected = curves(rows, by).set_index([*by, "rate"])
    over_shots = curves(rows, by[:3]).set_index([*by[:3], "rate"])

    assert [network["name"] for network in data["networks"]] == ["digits_resnet", "digits_vgg"]
    assert data["shots"] == ["all", "1", "10"]
    for network in data["networks"]:
        for i, criterion in enumerate(data["criteria"]):
            for j, rate in enumerate(data["rates"]):
                cell = ("filters", network["name"], criterion["name"])
                for shots in ("all", "1", "10"):
                    line = over_shots.loc[(*cell, rate)] if shots == "all" else expected.loc[(*cell, int(shots), rate)]
                    told = [network["curves"][shots][name][i][j] for name in ("top1", "low", "high")]
                    assert told == pytest.approx([1e4 * line[name] for name in ("mean", "low", "high")], abs=0.51)


def test_layers_are_given_as_the_share_that_is_gone(site):
    (network, _) = embedded(read(site), "data-filters")["networks"]
    layers = network["layers"]

    assert (layers["names"], layers["units"]) == (["first", "second"], [100, 140])
    at_half = layers["rates"].index(0.5)
    assert layers["removed"][0][at_half] == [50, 50]


def test_what_scores_alike_is_one_line_in_charts_and_says_so(tmp_path):
    suite = synthetic.make_suite(seeds=(0, 1), shots=(1,), criteria=("taylor", "random"))
    rows = synthetic.make_rows(suite)
    twin = rows.loc[rows["criterion"] == "taylor"].assign(criterion="copy")
    twin["key"] = twin["key"].map(lambda key: synthetic.digest([key]))
    text = read(build(pd.concat([rows, twin], ignore_index=True), tmp_path, suites=[suite]))
    criteria = {entry["name"]: entry for entry in embedded(text, "data-filters")["criteria"]}

    assert text.count("same results as") == 6
    assert {name: entry["leads"] for name, entry in criteria.items()} == {"taylor": True, "copy": False, "random": True}
    assert criteria["taylor"]["twins"] == ["copy"]


def test_templates_of_charts_are_vega_lite_once_they_are_filled():
    names = {"names": ["a"], "colours": ["#000"], "dashes": [[1, 0]], "ticks": [1], "order": ["a"], "height": 100}
    names |= {"bottom": 0, "least": 0, "most": 1, "text": "#000", "page": "#fff"}

    def fill(value):
        if isinstance(value, str) and value.startswith("@"):
            return names.get(value[1:], value[1:])
        if isinstance(value, list):
            if len(value) == 1 and isinstance(value[0], str) and value[0].startswith("@"):
                return names[value[0][1:]]
            return [fill(entry) for entry in value]
        return {key: fill(entry) for key, entry in value.items()} if isinstance(value, dict) else value

    for template in chart_templates().values():
        filled = fill(template)
        alt.Chart.from_dict(filled | {"datasets": {}})
        assert "@" not in json.dumps(filled)
        assert "http" not in json.dumps(template)


def test_jobs_without_a_result_are_listed_with_their_number(site):
    text = read(site)

    assert "18 of 132 jobs have no result" in text
    table = next(t for t in Page(text).tables if t[0][-1] == "reason")
    assert ["bn_scale", "digits_vit", "heads", "unsupported", "3", "the network has no batch norm"] in table


def test_downloads_hold_every_row_as_it_was(site, rows):
    points, jobs = (
        pd.read_csv(site / "data" / f"digits.{name}.csv", keep_default_na=False, na_values=[""])
        for name in ("points", "jobs")
    )
    jobs["full_key"], jobs["key"] = jobs["key"], jobs["key"].str[:16]
    joined = jobs.merge(points, on="key", how="left", validate="1:m").assign(key=lambda table: table["full_key"])
    order = ["key", "shots", "rate"]
    expected = rows.sort_values(order, ignore_index=True)
    joined = joined.sort_values(order, ignore_index=True)

    assert len(joined) == len(rows)
    for column in COLUMNS:
        assert (
            joined[column.name].astype(object).fillna("").tolist()
            == expected[column.name].astype(object).fillna("").tolist()
        )
    assert ",10.0," not in (site / "data" / "digits.points.csv").read_text(encoding="utf-8")


def test_equal_input_gives_equal_bytes_in_any_order_of_rows(site, rows, tmp_path):
    suites = [SUITE, synthetic.make_suite("cifar10", title="CIFAR-10")]
    build_site(rows.sample(frac=1, random_state=1), suites, tmp_path / "again", sources=SOURCES)

    assert digests(tmp_path / "again") == digests(site)


def test_names_of_others_are_only_ever_text(tmp_path):
    suite = synthetic.make_suite(seeds=(0, 1), shots=(1, 10), criteria=("taylor", HOSTILE))
    rows = synthetic.make_rows(suite)
    text_columns = [
        "dataset",
        "criterion_family",
        "criterion_needs",
        "criterion_source",
        "parameters",
        "device",
        "commit",
        "torch",
        "model_family",
        "time_utc",
    ]
    rows[text_columns] = HOSTILE
    rows.loc[rows["model"] == "digits_vit", "model"] = HOSTILE
    failed = synthetic.job_values(suite, "digits_vgg", "filters", "slow", 0) | {"status": "failed", "reason": HOSTILE}
    rows = pd.concat([rows, synthetic.table([failed])], ignore_index=True)
    build_site(rows, [suite], tmp_path / "out", sources={"digits": HOSTILE})

    for path in (tmp_path / "out").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        parsed = Page(text)
        assert "<img src=x" not in text
        assert "49" not in re.sub(r"<script.*?</script>|[0-9a-f]{10,}", "", text, flags=re.S).split("x49")[1:]
        assert not any("onerror" in attrs for _, attrs in parsed.tags)
        allowed = re.compile(r"#|\.\./|(suites|criteria|models|data)/|[a-z]+\.html|https://(arxiv|doi|www\.jmlr)\.org/")
        assert all(allowed.match(link) for link in parsed.links)
        assert all(re.fullmatch(r"[a-z0-9._/-]+\.html", part) for part in [str(path.relative_to(tmp_path / "out"))])
    names = {entry["name"] for entry in embedded(read(tmp_path / "out"), "data-filters")["criteria"]}
    assert names == {"taylor", HOSTILE}
    for script in (tmp_path / "out" / "data" / "rows").iterdir():
        text = script.read_text(encoding="utf-8")
        assert re.fullmatch(r"pruneboard\.receive\([^<>&]*\);\n", text)
        assert re.fullmatch(r"digits\.[a-z0-9._-]+\.js", script.name)


def test_names_become_file_names_of_their_own():
    names = ["taylor", "lrp (tuned)", "lrp-tuned", "lrp (here)", "x (tuned) (here)", "../../etc", "", "É", "é", HOSTILE]
    files = [slug(name) for name in names]

    assert files[:2] == ["taylor", "lrp-tuned"]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch("[a-z0-9._-]+", file) and ".." not in file for file in files)


def test_links_to_rows_carry_any_name():
    address = rows_link("digits", HOSTILE, shots=5, rate=0.3, model=None)
    query = urllib.parse.parse_qs(address.partition("?")[2])

    assert query == {"suite": ["digits"], "criterion": [HOSTILE], "shots": ["5"], "rate": ["0.3"]}


@pytest.mark.parametrize(
    "source",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "10.1234/5",
        "",
        "http://",
        "https://[x",
        "https://a b",
        "https://a\n",
        " https://a",
        "//a",
        "JavaScript:alert(1)//https://a",
    ],
)
def test_only_web_addresses_become_links(source):
    assert web_link(source) is None


PAPER = [
    PublishedPoint(
        model="digits_vgg",
        granularity="filters",
        criterion=criterion,
        shots=shots,
        rate=0.5,
        top1=top1,
        source="https://example.org/paper?a=1&b=2",
    )
    for criterion, shots, top1 in (("taylor", 1, 0.0123), ("taylor", 10, 0.0456), ("random", 10, 0.0789))
]


def test_published_numbers_stand_beside_ours_with_their_source(rows, tmp_path):
    build_site(rows, [SUITE], tmp_path / "out", sources=SOURCES, extras=Extras(published={"digits": PAPER}))
    text = read(tmp_path / "out")
    (table,) = [table for table in Page(text).tables if table[0] == ["criterion", "1 shot", "10 shots"]]
    ours = curves(rows, ("suite", "granularity", "model", "criterion", "shots"))
    ours = ours.set_index(["granularity", "model", "criterion", "shots", "rate"])
    assert [line[0] for line in table[1:]] == ["taylor", "random"]
    assert table[2][1] == "–"
    shown = {("taylor", 1): table[1][1], ("taylor", 10): table[1][2], ("random", 10): table[2][2]}
    for point in PAPER:
        line = ours.loc[("filters", "digits_vgg", point.criterion, point.shots, 0.5)]
        mean, low, high = (f"{100 * line[name]:.2f}" for name in ("mean", "low", "high"))
        cell = shown[point.criterion, point.shots].replace("to", " ")
        assert cell.replace(mean, f"{mean} ", 1).replace(f"{high}", f"{high} ", 1).split()[:2] == [mean, low]
        assert cell.endswith(f"{high}{100 * point.top1:.2f} ≠")
    assert 'href="https://example.org/paper?a=1&amp;b=2"' in text
    assert '<a href="#published">' in text
    without = read(build(rows, tmp_path / "without"))
    assert "published numbers" not in without


def test_terminal_shows_published_numbers_below_ours(rows):
    text = printed(terminal_table(rows, SUITE, PAPER), width=80)
    lines = text[text.index("digits_vgg, 0.5 of the filters removed") :].splitlines()
    told = next(line for line in lines if "published" in line)

    assert told.split() == ["published", "*1.23", "*4.56"]
    assert "(3 cells). Published: https://example.org/paper?a=1&b=2" in " ".join(text.split())
    assert "published" not in printed(terminal_table(rows, SUITE))
    assert "(0 cells)" in printed(terminal_table(rows[rows["seed"] == 0], SUITE, PAPER))


def test_sources_that_are_web_addresses_are_links(site):
    assert web_link("https://arxiv.org/abs/2408.12568") == "https://arxiv.org/abs/2408.12568"
    assert "https://arxiv.org/abs/2408.12568" in Page(read(site)).links


def test_json_in_a_page_survives_any_string():
    value = {"a": HOSTILE + "\u2029<!--<script>"}
    text = str(embed_json(value))

    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_colours_are_stable_and_differ(rows):
    first = styles(rows)
    fewer = styles(rows.loc[rows["model"] == "digits_vgg"].iloc[::-1])

    assert first == fewer
    assert len({(style.light, style.dash) for style in first}) == len(first)
    assert len({(style.dark, style.dash) for style in first}) == len(first)


def test_many_members_of_a_family_still_differ():
    table = pd.DataFrame({"criterion": [f"c{i:02}" for i in range(16)], "criterion_family": "weights"})

    assert len({(style.light, style.dash) for style in styles(table)}) == 16


def test_site_without_results_names_the_command(tmp_path):
    folder = build(synthetic.table([]), tmp_path)

    for page in ("index.html", "suites/digits.html"):
        Page(read(folder, page))
        assert "pruneboard run digits" in read(folder, page)
    assert not list((folder / "data").glob("*.*"))


def test_site_without_suites_is_a_page(tmp_path):
    folder = build(synthetic.table([]), tmp_path, suites=())

    assert "pruneboard list suites" in read(folder, "index.html")


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": (0,)},
        {"shots": (5,)},
        {"criteria": ("taylor",)},
        {"seeds": (0,), "shots": (1,), "criteria": ("random",)},
    ],
)
def test_small_grids_give_sensible_pages(tmp_path, changes):
    suite = synthetic.make_suite(**{"seeds": (0, 1), "shots": (1, 5)} | changes)
    build_site(synthetic.make_rows(suite), [suite], tmp_path / "out", sources=SOURCES)
    text = read(tmp_path / "out")
    parsed = Page(text)

    assert not re.search(r"\bnan\b", text, flags=re.I)
    assert ("one seed" in text) == (len(suite.seeds) == 1)
    charts = [attrs["data-kind"] for _, attrs in parsed.tags if "data-kind" in attrs]
    assert charts.count("curve") == 4
    assert charts.count("shots") == (0 if len(suite.shots) == 1 else 3)
    assert charts.count("ranks") == (0 if len(suite.criteria) == 1 else 3)
    curves_of = embedded(text, "data-filters")["networks"][0]["curves"]["all"]
    assert ("low" in curves_of) == (len(suite.seeds) > 1)
    for page in PAGES[:8]:
        Page(read(tmp_path / "out", page))


def test_only_failures_give_a_page_with_the_reasons(tmp_path):
    failed = synthetic.job_values(SUITE, "digits_vgg", "filters", "taylor", 0)
    folder = build(synthetic.table([failed | {"status": "failed", "reason": "out of memory"}]), tmp_path)
    text = read(folder)

    assert "No job has a result yet" in text
    assert "out of memory" in text
    assert Page(text).json == []
    assert 'href="suites/digits.html#problems"' in read(folder, "index.html")
    Page(read(folder, "index.html"))


def test_incomplete_criteria_are_shown_without_a_rank(rows, tmp_path):
    lacking = (rows["criterion"] == "lrp_epsilon_plus") & (rows["model"] == "digits_vgg") & (rows["seed"] == 1)
    table = Page(read(build(rows.loc[~lacking], tmp_path))).tables[0]

    assert [cell.strip().split() for cell in table[-1][:2]] == [
        ["–"],
        ["lrp_epsilon_plus", "attribution", "10", "of", "12", "cells"],
    ]


def test_rows_of_another_version_and_dirty_code_are_said_to_be_so(tiny, tmp_path):
    text = read(build(tiny.assign(clean=False), tmp_path, suites=[synthetic.make_suite(version=2)]))

    assert "measured under another version of the suite" in text
    assert "measured with uncommitted changes" in text
    assert "with uncommitted changes" in text.partition('id="provenance"')[2]


def test_provenance_names_data_weights_code_and_versions(site):
    text = read(site).partition('id="provenance"')[2]

    for fact in (
        SUITE.digest,
        synthetic.digest("data"),
        synthetic.digest("digits_vgg"),
        "450",
        "2.9.0",
        "3.11.7",
        "commit 0123456789abcdef0123456789abcdef01234567, clean",
        "2026-05-01T10:00:00Z to 2026-05-03",
    ):
        assert fact in text


def test_a_failed_build_leaves_the_old_site(tiny, tmp_path):
    folder = build(tiny, tmp_path)
    before = digests(folder)

    with pytest.raises(TableError):
        build(pd.concat([tiny, tiny], ignore_index=True), tmp_path)
    assert digests(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_swap_puts_the_old_site_back(tiny, tmp_path, monkeypatch):
    folder = build(tiny, tmp_path)
    before = digests(folder)
    rename = Path.rename

    def refuse(self, target):
        if self.name == "site":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(
        SiteError, match=r"must be writable, but .* is not: No space left on device; name another folder"
    ):
        build(tiny, tmp_path)
    assert digests(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("code", "why"), [("import vl_convert_of_old", "No module named 'vl_convert_of_old'"), ("exit(3)", "no message")]
)
def test_without_vega_there_is_one_error_and_the_old_site(tiny, tmp_path, monkeypatch, code, why):
    folder = build(tiny, tmp_path)
    before = digests(folder)
    monkeypatch.setattr(libraries, "_BUNDLE", code)
    with pytest.raises(SiteError, match=rf"needs Vega out of .* failed \(.*{why}\); install the version"):
        build(tiny, tmp_path)

    assert digests(folder) == before


def test_a_failed_build_leaves_no_process(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, "_BUNDLE", "import time; time.sleep(600)")
    before = set(psutil.Process().children())
    with pytest.raises(TableError):
        build(pd.concat([tiny, tiny], ignore_index=True), tmp_path)

    assert set(psutil.Process().children()) <= before


def test_a_site_is_replaced_as_a_whole(tiny, tmp_path):
    folder = build(tiny, tmp_path)
    (folder / "suites" / "gone.html").write_text("old", encoding="utf-8")
    build(tiny, tmp_path)

    assert not (folder / "suites" / "gone.html").exists()
    assert (folder / "suites" / "digits.html").is_file()


def test_a_folder_of_someone_else_is_refused(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("all my work", encoding="utf-8")

    with pytest.raises(
        SiteError, match=r"may only replace an empty folder or an earlier site, but .* holds other files"
    ):
        build(tiny, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()

    assert (build(synthetic.table([]), tmp_path) / "index.html").is_file()


def test_a_file_or_a_folder_inside_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("x", encoding="utf-8")

    with pytest.raises(SiteError, match=r"must go into a folder, but .* is a file; name another folder"):
        build(synthetic.table([]), tmp_path)
    with pytest.raises(SiteError, match=r"must be writable, but .* is not: .*; name another folder"):
        build(synthetic.table([]), tmp_path / "out")


@pytest.mark.parametrize("name", ["../up", "A", "a b", "", "index.html"])
def test_suites_that_cannot_be_file_names_are_refused(tmp_path, name):
    with pytest.raises(SiteError, match="must be lower_snake"):
        build(synthetic.table([]), tmp_path, suites=[synthetic.make_suite(name)])


def test_rows_suites_and_sources_must_fit_together(tiny, tmp_path):
    with pytest.raises(SiteError, match="must belong to a given suite, got rows of 'digits'"):
        build(tiny, tmp_path, suites=[])
    with pytest.raises(SiteError, match=r"`sources` must say .* lacks `digits`"):
        build_site(tiny, [SUITE], tmp_path / "out", sources={})
    with pytest.raises(SiteError, match="each suite must be given once, got `digits` 2 times"):
        build(tiny, tmp_path, suites=[SUITE, SUITE])
    with pytest.raises(SiteError, match="must have every column of the schema, but `torch` is missing"):
        build(tiny.drop(columns="torch"), tmp_path)
    with pytest.raises(SiteError, match=r"`granularity` must be one of .* got 'blocks'"):
        build(tiny.assign(granularity="blocks"), tmp_path)


def test_templates_escape_and_refuse_unknown_names():
    environment = make_environment(Path("nowhere"))

    assert environment.autoescape is True
    assert environment.from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"
    with pytest.raises(Exception, match="'y' is undefined"):
        environment.from_string("{{ y }}").render()


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_less_than_ten_seconds_of_processor_time(tmp_path):
    suite = synthetic.make_suite(seeds=tuple(range(27)))
    rows = synthetic.make_rows(suite)
    assert len(rows) > 100_000

    start = time.process_time()
    build_site(rows, [suite], tmp_path / "out", sources=SOURCES)
    assert time.process_time() - start < 10


def printed(renderable, width=170):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_terminal_shows_the_same_numbers(rows):
    text = printed(terminal_table(rows, SUITE))
    areas, by = area_under_curve(rows), ("suite", "granularity", "criterion")
    summary = summarise(areas, by)
    possible = standings(areas, by).set_index(["granularity", "criterion"])[["rank_low", "rank_high"]].T.to_dict("list")

    for line in summary.itertuples(index=False):
        half = 100 * (line.a_pr_high - line.a_pr_low) / 2
        low, high = possible.get((line.granularity, line.criterion), (None, None))
        ranks = "-" if low is None else str(low) if low == high else f"{low}-{high}"
        assert re.search(rf"^ *{ranks} +{line.criterion} .*{100 * line.a_pr_mean:.2f} +{half:.2f} ", text, re.MULTILINE)
    assert "18 of 132 jobs have no result" in text
    assert "bn_scale on digits_vit (heads), 3 jobs unsupported: the network has no batch norm" in text


def test_terminal_takes_no_markup_from_names():
    suite = synthetic.make_suite(seeds=(0,), shots=(1,), criteria=("[red]x[/red]", "taylor"))
    text = printed(terminal_table(synthetic.make_rows(suite), suite))

    assert "[red]x[/red]" in text
    assert "One seed has no interval, and tells nothing apart." in " ".join(text.split())


def test_an_ordinary_terminal_shows_every_number_whole(rows):
    console = Console(width=80, file=io.StringIO())
    console.print(terminal_table(rows, SUITE))
    text = console.file.getvalue()

    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for header in ("criterion", "A_PR", "+-", "Top-PR", *map(str, SUITE.shots)):
        assert re.search(rf" {re.escape(header)} ", text)


def test_terminal_without_results_names_the_command(rows):
    other = synthetic.make_suite("cifar10")
    failed = synthetic.job_values(SUITE, "digits_vgg", "filters", "taylor", 0) | {"status": "failed", "reason": "boom"}

    assert "pruneboard run cifar10" in printed(terminal_table(rows, other))
    assert "boom" in printed(terminal_table(synthetic.table([failed]), SUITE))


def test_a_submission_card_credits_its_author(tiny, tmp_path):
    credits_of = {"taylor": Credit(author="A. <b>", licence="MIT", url="javascript:alert(1)", summary="")}
    build_site(tiny, [TINY], tmp_path / "out", sources=SOURCES, extras=Extras(credits=credits_of))
    text = read(tmp_path / "out", "criteria/taylor.html")

    assert "A. &lt;b&gt;, licence MIT, javascript:alert(1)" in text
    assert 'href="javascript' not in text


def test_backticks_are_code_and_all_else_is_escaped():
    shown = make_environment(Path("nowhere")).filters["prose"]

    assert shown("a `<b>` c <i>") == "a <code>&lt;b&gt;</code> c &lt;i&gt;"
    assert shown("one ` <i>") == "one ` &lt;i&gt;"


def test_rows_of_another_version_are_listed_as_out_of_date_and_never_ranked(tiny, tmp_path):
    old = tiny.assign(suite_version=0, suite_digest="0" * 64, top1=tiny["top1"] / 2)
    old["key"] = old["key"].map(lambda key: synthetic.digest([key, "old"]))
    without = read(build(tiny, tmp_path / "without", suites=[TINY]))
    build_site(tiny, [TINY], tmp_path / "out", sources=SOURCES, extras=Extras(stale=old))
    text = read(tmp_path / "out")

    assert embedded(text, "data-filters") == embedded(without, "data-filters")
    table = next(table for table in Page(text).tables if table[0][-2:] == ["suite version", "jobs"])
    assert ["taylor", "digits_vgg", "filters", "0", "2"] in table
    script = read(tmp_path / "out", "data/rows/digits.taylor.js")
    content = json.loads(script.removeprefix('pruneboard.receive("digits.taylor",').removesuffix(");\n"))
    assert sorted(content["jobs"]["stale"]) == [False, False, True, True]
    assert "out of date" in read(tmp_path / "out", "changes.html")


def test_a_criterion_with_a_newer_version_is_marked(tiny, tmp_path):
    entry = CriterionEntry(
        name="taylor",
        base="taylor",
        version=2,
        family="gradient",
        needs="labels",
        source="",
        summary="s_i = |a_i g_i|.",
        details=(),
        parameters=(),
        files=("../../etc/passwd",),
        digest="f" * 64,
        tunable=False,
    )
    extras = Extras(catalogue=Catalogue(criteria={"taylor": entry}))
    build_site(tiny, [TINY], tmp_path / "out", sources=SOURCES, extras=extras)

    assert "<strong>taylor</strong> is at version 2 by now" in read(tmp_path / "out")
    page = read(tmp_path / "out", "criteria/taylor.html")
    assert "it is at version 2 by now" in page
    assert "<math><msub><mi>s</mi><mi>i</mi></msub><mo>=</mo>" in page
    assert "root:" not in page


def test_memory_is_the_median_over_jobs_and_zero_where_most_saw_nothing(rows):
    ok = rows.loc[(rows["suite"] == "digits") & (rows["status"] == "ok") & (rows["granularity"] == "filters")].copy()
    names = sorted(ok["criterion"].unique())[:3]
    seen_by = ([0, 0, 0, 0, 5e6, 5e6], [1e6, 1e6, 2e6, 3e6, 4e6, 9e9], [None] * 6)
    for name, seen in zip(names, seen_by, strict=True):
        keys = ok.loc[ok["criterion"] == name, "key"].unique()
        for key, value in zip(keys, seen, strict=True):
            ok.loc[ok["key"] == key, "score_peak_bytes"] = value
    costs, _ = _costs(ok, names)

    assert costs["bytes"] == [0, 2_500_000, None]


def test_areas_hold_a_pr_of_every_criterion_in_every_cell(rows):
    areas = area_under_curve(rows.loc[rows["suite"] == "digits"])
    name, content = re.fullmatch(r"pruneboard\.receive\((.*?),(\{.*\})\);\n", areas_script("digits", areas)).groups()
    found = json.loads(content)

    assert json.loads(name) == "areas/digits"
    values = areas.set_index(["criterion", "model", "granularity", "seed", "shots"])["a_pr"]
    given = {
        (who, *cell): value
        for who, line in found["a_pr"].items()
        for cell, value in zip(found["cells"], line, strict=True)
    }
    assert {key: value for key, value in given.items() if value is not None}.keys() == set(values.index)
    for key, value in values.items():
        assert given[key] / 1e8 == pytest.approx(value, abs=1e-8)


def test_criteria_without_recorded_layers_are_named(rows, tmp_path):
    some = rows.loc[rows["suite"] == "digits"].copy()
    some.loc[(some["criterion"] == "taylor") & (some["model"] == "digits_vgg"), ["layers", "units_left"]] = ""
    site = build_site(some, [SUITE], tmp_path / "site", sources=SOURCES).parent
    page = (site / "suites" / "digits.html").read_text(encoding="utf-8")

    assert re.findall(r"data-unrecorded>([^<]*)<", page) == ["Layers are not recorded for taylor."]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{}", "–"),
        ('{"epsilon": 0.25, "rule": "cp"}', "epsilon = 0.25, rule = cp"),
        ('{"a": 1}, {"a": [1, null]}', "a = 1; a = [1, null]"),
        ("tuned for each network", "tuned for each network"),
        ("3, 4", "3, 4"),
        ("", "–"),
    ],
)
def test_parameters_are_readable_and_anything_else_is_shown_as_it_is(text, shown):
    assert _settings(text) == shown
