"""Numbers in documents are those of the tables that they name."""

import csv
import importlib
import re
from fnmatch import fnmatch
from pathlib import Path

from api_page import MODULES, PAGE, page

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_on_performance_shows_the_table_of_ratios():
    lines = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    with (ROOT / "docs" / "performance.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 30
    for row in rows:
        times = [f"{float(row[name]):.3g}" for name in ("reference_s", "ours_s")]
        if row["what"] == "accuracy at 20 rates":
            share = f"{float(row['share_of_bound']):.0%}"
            speed, matmul = float(row["gflops_per_s"]), float(row["matmul_gflops_per_s"])
            expected = [row["on"], *times, f"{float(row['ratio']):.2f}", f"{float(row['mac_bound']):.2f}", share]
            expected += [f"{speed:.3g}", f"{speed / matmul:.0%}"]
        else:
            expected = [row["what"], row["on"], row["reference"], *times, f"{float(row['ratio']):.2f}"]
        assert expected in shown
        assert row["clean"] == "True"


def test_the_page_on_results_explains_every_file():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    explained = [
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall("`([^`]+)`", line.split("|")[1])
    ]
    patterns = [re.sub("SUITE|CRITERION|NAME", "*", name) for name in explained]
    patterns += ["*/tuning/*.trials.csv"]
    folder = ROOT / "results"
    unexplained = [
        name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(fnmatch(name := path.relative_to(folder).as_posix(), p) for p in patterns)
    ]
    assert not unexplained


def test_the_reference_for_plugin_authors_is_that_of_the_code():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again with `python tests/support/api_page.py`"


def test_everything_that_plugin_authors_import_is_explained():
    """No name without a sentence."""
    parts = re.split(r"^### ", page(), flags=re.MULTILINE)[1:]
    names = {name for module in MODULES for name in importlib.import_module(module).__all__}

    assert len(parts) == sum(len(importlib.import_module(module).__all__) for module in MODULES) >= len(names)
    assert not [part.splitlines()[0] for part in parts if len(part.split("\n", 1)[1].strip()) < 10]
