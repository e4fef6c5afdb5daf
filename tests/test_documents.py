"""Numbers in documents are those of the tables that they name."""

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_on_performance_shows_the_table_of_ratios():
    lines = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    with (ROOT / "results" / "performance" / "cpu.csv").open(encoding="utf-8", newline="") as file:
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
