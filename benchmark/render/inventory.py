"""What the published tables hold, as the part of results/README.md that is made from them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import TUNED_SUFFIX, Suite
from pruneboard.benchmark.store import atomic_file

_BEGIN = "<!-- made by `pruneboard table --publish`: begin -->"
_END = "<!-- made by `pruneboard table --publish`: end -->"
_SECONDS_PER_HOUR = 3600


def inventory(suites: Sequence[tuple[Suite, pd.DataFrame]]) -> str:
    """Say in Markdown what was measured of each suite, on what, in how long, by which code, and how to do it again.

    Args:
        suites: suites as their files have them now, each with its published rows; those without rows are left out.
    """
    return "\n\n".join(_suite(suite, rows) for suite, rows in suites if not rows.empty)


def with_inventory(text: str, made: str) -> str:
    """Return a document with another inventory in the place of its own.

    Raises:
        StoreError: the document has no such place.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise StoreError(f"results/README.md must hold the lines `{_BEGIN}` and `{_END}`; put them back.")
    return f"{before}{_BEGIN}\n\n{made}\n\n{_END}{after}"


def write_inventory(path: Path, suites: Sequence[tuple[Suite, pd.DataFrame]]) -> bool:
    """Bring the inventory of a results folder's README up to date; return whether there is one.

    Raises:
        StoreError: it has no place for the inventory, or cannot be written.
    """
    if not path.is_file():
        return False
    text = with_inventory(path.read_text(encoding="utf-8"), inventory(suites))
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def _suite(suite: Suite, rows: pd.DataFrame) -> str:
    measured = rows.loc[rows["status"] == "ok"]
    jobs = rows.drop_duplicates("key")
    without = jobs["status"].value_counts().drop("ok", errors="ignore").sort_index()
    networks = measured[["model", "granularity"]].drop_duplicates().sort_values(["model", "granularity"])
    names = sorted(map(str, rows["criterion"].unique()))
    tuned = [name for name in names if name.endswith(TUNED_SUFFIX)]
    facts = {
        "What": f"suite `{suite.name}`, version {_all(rows, 'suite_version')}, protocol {_all(rows, 'protocol')}; "
        f"{len(rows)} rows of {len(jobs)} jobs" + "".join(f", {n} of them {status}" for status, n in without.items()),
        "Networks": ", ".join(f"`{model}` ({kind})" for model, kind in networks.itertuples(index=False)),
        "Criteria": f"{len(names) - len(tuned)} untuned, {len(tuned)} tuned; "
        f"{_numbers(measured['shots'])} reference images per class; seeds {_numbers(measured['seed'])}",
        "On": "; ".join(_data(measured)),
        "By": f"{_all(rows, 'device')}, threads per job: {_all(rows, 'threads')}; PyTorch {_all(rows, 'torch')}, "
        f"timm {_all(rows, 'timm')}, zennit {_all(rows, 'zennit')}, Python {_all(rows, 'python')}",
        "In": f"{jobs['job_seconds'].sum() / _SECONDS_PER_HOUR:.2f} hours of all jobs together, on {_days(rows)}",
        "With": ", ".join(_code(rows)),
        "Again": "; ".join(f"`{command}`" for command in _commands(suite, set(networks["model"]), bool(tuned))),
    }
    return f"### {suite.name}\n\n" + "\n".join(f"- {name}: {text}" for name, text in facts.items())


def _all(rows: pd.DataFrame, column: str) -> str:
    values = rows[column].dropna().unique()
    return ", ".join(map(str, sorted(values)))


def _data(rows: pd.DataFrame) -> list[str]:
    sets = rows[["dataset", "data_digest", "n_images"]].drop_duplicates().sort_values(["dataset", "n_images"])
    return [
        f"`{name}`, {int(n)} evaluation images, sha256 {sha[:12]}"
        for name, sha, n in sets.itertuples(index=False, name=None)
    ]


def _code(rows: pd.DataFrame) -> list[str]:
    versions = rows[["commit", "clean"]].drop_duplicates().sort_values(["commit", "clean"])
    return [
        (f"commit {commit[:12]}" if commit else "an installed package") + ("" if clean else ", changed since")
        for commit, clean in versions.itertuples(index=False, name=None)
    ]


def _numbers(column: "pd.Series[int]") -> str:
    """Return whole numbers, those that follow one another by their ends."""
    values = sorted(map(int, column.dropna().unique()))
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def _days(rows: pd.DataFrame) -> str:
    days = sorted({str(time)[:10] for time in rows["time_utc"].unique()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _commands(suite: Suite, models: set[str], tuned: bool) -> list[str]:
    listed = [model.name for model in suite.models]
    chosen = "" if set(listed) <= models else "".join(f" --model {name}" for name in listed if name in models)
    run = f"pruneboard run {suite.name}{chosen}"
    return [run, *([f"{run} --tuned"] if tuned else []), f"pruneboard table {suite.name} --publish"]
