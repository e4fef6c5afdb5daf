"""Forged results: each a small lie in a copy of published tables, with whether `pruneboard validate` sees it.

    python tests/support/forge_tables.py [CLASS ...]

prints, for each class of forgery, how many are caught, and every one that is missed. What a class says is missed on
purpose cannot be told from a measurement without measuring again; `docs/submit.md` says who finds it.
"""

import dataclasses
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pruneboard.benchmark.cards import CardStore, Statement, make_card
from pruneboard.benchmark.schema import ENGINE_VERSION, JobIdentity
from pruneboard.benchmark.store import ResultsStore
from pruneboard.benchmark.suites import load_suite, suite_path
from pruneboard.benchmark.validation import validate_folder

ROOT = Path(__file__).resolve().parents[2]
SUITE = "imagenette"
TUNED = "digits"
OLD = "cifar10"
Edit = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Forgery:
    """One lie.

    Attributes:
        kind: class of the lie.
        name: what is changed.
        edit: changes a results folder.
        suite: suite whose tables are copied.
        caught_by: `validate`, `rerun`, or `nobody`: who is meant to see it first.
    """

    kind: str
    name: str
    edit: Edit
    suite: str = SUITE
    caught_by: str = "validate"


def base(folder: Path, suite: str) -> None:
    """Copy published tables of a suite; of a large one only some criteria."""
    kept = {
        SUITE: ("taylor", "lrp_epsilon", "magnitude"),
        TUNED: ("taylor", "taylor_tuned", "random"),
        OLD: ("taylor", "random", "lrp_epsilon"),
    }[suite]
    source = ROOT / "results" / suite
    for path in sorted(source.rglob("*")):
        name = path.name.partition(".")[0]
        if path.is_file() and (name in kept or (path.parent.name == "tuning" and name == "taylor")):
            if path.parent.name == "tuning" and suite != TUNED:
                continue
            target = folder / suite / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    if suite == SUITE:
        champion(folder)


def champion(folder: Path, name: str = "champion", better: float = 0.0) -> None:
    """Add a criterion from elsewhere whose tables and card keep every rule, though nobody measured them."""
    own = folder / SUITE
    jobs, points = read(own / "taylor.jobs.csv"), read(own / "taylor.csv")
    generator = np.random.default_rng(7)
    n = points["n_images"].astype(int)
    pruned = points["rate"].astype(float) > 0
    hits = (points["top1"].astype(float) * n).round().astype(int)
    first = points.groupby("key").cumcount()
    steps = np.where(pruned, generator.integers(-1, 2, len(points)) + int(better * 100), 0)
    top1 = np.clip(hits + steps, 0, n) / n
    top5 = np.maximum(points["top5"].astype(float), top1)
    loss = points["cross_entropy"].astype(float) * np.where(pruned, 1 + 0.01 * generator.random(len(points)), 1)
    least = (top5 - top1) * math.log(2) + (1 - top5) * math.log(6)
    points = points.assign(top1=top1.map(repr), top5=top5.map(repr), cross_entropy=np.maximum(loss, least).map(repr))
    assert len(first)
    jobs = jobs.assign(criterion=name, criterion_digest="c" * 64, criterion_version="1")
    write_rekeyed(own, name, jobs, points)
    card(folder, name)


def card(folder: Path, name: str, **said: str) -> None:
    """Write the card that the tables of a criterion from elsewhere give."""
    rows, store = ResultsStore(folder).read_criterion(SUITE, name), CardStore(folder)
    words = {
        "author": "A. Uthor",
        "licence": "MIT",
        "url": "https://github.com/a/b",
        "code": "file c.py",
        "summary": "S",
    }
    statement = Statement(**{**words, **said})
    store.write(make_card(rows, load_suite(suite_path(SUITE)), statement, store.table_paths(SUITE, name)))


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype="str", keep_default_na=False)


def write(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, lineterminator="\n")


def key_of(line: pd.Series, version: int, engine: int) -> str:
    evaluation = line["evaluation"]
    return JobIdentity(
        suite=line["suite_digest"],
        data=line["data_digest"],
        model=(line["model"], version, line["weights_digest"]),
        granularity=line["granularity"],
        criterion=(line["criterion"], int(line["criterion_version"]), line["criterion_digest"]),
        parameters=json.loads(line["parameters"]),
        seed=int(line["seed"]),
        tuning=line["tuning"],
        precision="bf16" if evaluation.endswith("bf16") else "float32",
        engine=engine,
    ).key


def write_rekeyed(own: Path, name: str, jobs: pd.DataFrame, points: pd.DataFrame) -> None:
    """Write a pair of tables with the keys that its values give, as a forger who reads the code does."""
    old = jobs["key"].tolist()
    jobs = jobs.assign(key=[key_of(line, 1, ENGINE_VERSION) for _, line in jobs.iterrows()])
    new = {before[:16]: after[:16] for before, after in zip(old, jobs["key"], strict=True)}
    write(own / f"{name}.jobs.csv", jobs)
    write(own / f"{name}.csv", points.assign(key=points["key"].map(new)))


def cells(name: str, column: str, change: Callable[[pd.Series], object], *, where: str = "") -> Edit:
    """Change a column of a table, in the rows of a query of pandas."""

    def edit(folder: Path) -> None:
        (path,) = folder.glob(f"*/{name}")
        table = read(path)
        numbers = table.apply(pd.to_numeric, errors="coerce").fillna(0).assign(row=range(len(table)))
        rows = numbers.query(where).index if where else table.index
        assert len(rows), where
        changed = change(table.loc[rows, column])
        table.loc[rows, column] = changed.map(str) if isinstance(changed, pd.Series) else str(changed)
        write(path, table)

    return edit


def add(step: float) -> Callable[[pd.Series], pd.Series]:
    return lambda values: (values.astype(float) + step).map(repr)


def times(factor: float) -> Callable[[pd.Series], pd.Series]:
    return lambda values: (values.astype(float) * factor).map(repr)


def whole(factor: float) -> Callable[[pd.Series], pd.Series]:
    return lambda values: (values.astype(float) * factor).astype(int)


def put(value: object) -> Callable[[pd.Series], object]:
    return lambda _: value


def both(*edits: Edit) -> Edit:
    return lambda folder: [edit(folder) for edit in edits]


def table_edit(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Edit:
    def edit(folder: Path) -> None:
        (path,) = folder.glob(f"*/{name}")
        write(path, change(read(path)))

    return edit


def pair_edit(
    name: str, change: Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]], *, rekey: bool = True
) -> Edit:
    """Change both tables of a criterion, with new keys."""

    def edit(folder: Path) -> None:
        own = next(folder.glob(f"*/{name}.csv")).parent
        jobs, points = change(read(own / f"{name}.jobs.csv"), read(own / f"{name}.csv"))
        if rekey:
            write_rekeyed(own, name, jobs, points)
        else:
            write(own / f"{name}.jobs.csv", jobs)
            write(own / f"{name}.csv", points)

    return edit


def assign_jobs(**values: str) -> Edit:
    """Give the jobs of the champion other values, with the keys and the card of these."""
    return both(
        pair_edit("champion", lambda jobs, points: (jobs.assign(**values), points)), lambda f: card(f, "champion")
    )


def point_lies() -> Iterator[Forgery]:
    one, few, many = "row == 33", "row % 60 == 47", "rate > 0"
    lies: dict[str, list[Callable[[pd.Series], object]]] = {
        "top1": [
            add(0.0001),
            add(0.5),
            add(-2),
            put("1.2"),
            put("-0.1"),
            put(""),
            put("nan"),
            put("inf"),
            put("0.0033"),
        ],
        "top5": [add(-0.5), add(1), put("0"), put(""), put("1.01")],
        "cross_entropy": [times(0.05), put("0"), put("-1"), put("inf"), put("nan"), put(""), times(1e-9)],
        "n_images": [add(1), put("2000"), put("0"), put("-5"), put("")],
        "n_units_removed": [add(1), add(-1), put("0"), put("-3"), put("")],
        "params_left": [put("0.5"), put("-1"), put("99999999"), put("")],
        "macs_left": [put("-1"), put("9999999999"), put("")],
        "units_left": [put(""), put("1 2 3"), put("x"), put("-1 " * 52)],
        "rate": [put("0.123"), put("0.95"), put("nan"), put("2"), put("")],
        "shots": [put("7"), put("0"), put("-1"), put(""), put("1e9")],
        "key": [put("0" * 16), put(""), put("z")],
    }
    for column, changes in lies.items():
        for number, change in enumerate(changes):
            for where in (one, many) if number % 2 else (few,):
                name = f"{column} {number} where {where}"
                yield Forgery("values of points", name, cells("taylor.csv", column, change, where=where))
    totals = [("n_units", add(1)), ("params_total", whole(1.1)), ("macs_total", whole(0.9)), ("layers", put("{}"))]
    for column, change in totals:
        yield Forgery("values of points", f"{column} of all", cells("taylor.jobs.csv", column, change))
    for column in ("params_left", "macs_left"):
        kept = cells("lrp_epsilon.csv", column, lambda v: v.iloc[0], where="rate > 0")
        yield Forgery("values of points", f"{column} never falls", kept)
        grows = cells("lrp_epsilon.csv", column, whole(1.5), where="rate > 0.5 and rate < 0.58")
        yield Forgery("values of points", f"{column} grows", grows)
    unpruned = {"top1": add(0.005), "top5": put("0.985"), "cross_entropy": times(0.5)}
    for column, change in unpruned.items():
        lie = cells("taylor.csv", column, change, where="rate == 0")
        yield Forgery("values of points", f"{column} of the unpruned network", lie)
        lie = cells("taylor.csv", column, times(0.99), where="rate == 0 and shots == 5")
        yield Forgery("values of points", f"{column} of the unpruned network at one number of shots", lie)
    for column in ("top5", "cross_entropy", "params_left", "macs_left"):
        lie = cells(
            "magnitude.csv",
            column,
            whole(0.99) if "left" in column else times(0.999),
            where="shots == 10 and rate > 0.4",
        )
        yield Forgery("values of points", f"{column} of magnitude depends on shots", lie)
    for criterion in ("taylor", "lrp_epsilon"):
        hits = both(
            cells(f"{criterion}.csv", "top1", put("0.98"), where="rate > 0"),
            cells(f"{criterion}.csv", "top5", put("1.0"), where="rate > 0"),
        )
        yield Forgery(
            "values of points",
            f"{criterion} never loses, with its old cross-entropy",
            both(hits, cells(f"{criterion}.csv", "cross_entropy", put("0.001"), where="rate > 0")),
        )

    def swapped(points: pd.DataFrame) -> pd.DataFrame:
        units = points["units_left"].str.split()
        moved = [" ".join([*u[:-2], u[-1], u[-2]]) if i % 20 == 9 else " ".join(u) for i, u in enumerate(units)]
        return points.assign(units_left=moved)

    yield Forgery("values of points", "units of two layers swapped", table_edit("taylor.csv", swapped))


def identity_lies() -> Iterator[Forgery]:
    digests = ("suite_digest", "data_digest", "weights_digest", "criterion_digest")
    for column in digests:
        lie = pair_edit("taylor", lambda j, p, c=column: (j.assign(**{c: "d" * 64}), p))
        yield Forgery("identity", f"{column} of others, keys edited too", lie)
        yield Forgery(
            "identity", f"{column} in one row", cells("taylor.jobs.csv", column, put("e" * 64), where="seed == 2")
        )
    for column, value in {
        "suite_version": "2", "criterion_version": "3", "seed": "9", "parameters": '{"absolute": "none"}',
        "model": "resnet50", "granularity": "heads", "dataset": "imagenet", "tuning": "1" * 64, "suite": "digits",
        "criterion": "gradient", "engine": "2", "protocol": "iterative", "finetuning": "{}", "task": '{"n_classes": 3}',
        "evaluation": "by eye", "schema_version": "5", "model_family": "VGG", "key": "a" * 64,
    }.items():  # fmt: skip
        if column != "engine":
            yield Forgery(
                "identity", f"{column} in one row", cells("taylor.jobs.csv", column, put(value), where="seed == 3")
            )
            yield Forgery("identity", f"{column} in all rows", cells("taylor.jobs.csv", column, put(value)))
    for column, value in {
        "needs": "nothing",
        "family": "weights",
        "source": "https://arxiv.org/abs/2408.12568",
    }.items():
        lie = cells("taylor.jobs.csv", f"criterion_{column}", put(value))
        yield Forgery("identity", f"what taylor declares: {column}", lie)
        lie = cells("magnitude.jobs.csv", f"criterion_{column}", put("labels" if column == "needs" else "activation"))
        yield Forgery("identity", f"what magnitude declares: {column}", lie)
    duplicate = '{"absolute": "none", "absolute": "total", "per_layer": "l2", "target": "loss"}'
    yield Forgery("identity", "parameters with a name twice", cells("taylor.jobs.csv", "parameters", put(duplicate)))
    twice = cells("taylor.jobs.csv", "layers", lambda v: v.str.replace("{", '{"features.0": 1, "features.0": 2, '))
    yield Forgery("identity", "layers with a name twice", twice)
    for value in ("9" * 400, "1e309", "[" * 3000, "NaN"):
        yield Forgery("identity", f"parameters {value[:6]}", cells("taylor.jobs.csv", "parameters", put(value)))
    yield Forgery(
        "identity",
        "a source of another commit",
        pair_edit("lrp_epsilon", lambda j, p: (j.assign(criterion_digest="ab" * 32), p)),
    )


def grid_lies() -> Iterator[Forgery]:
    def without(query: str) -> Edit:
        return table_edit("taylor.csv", lambda t: t[~t.apply(pd.to_numeric, errors="coerce").eval(query)])

    for query in ("shots == 10", "rate == 0", "rate > 0.9", "shots == 1 and rate == 0.5"):
        yield Forgery("grid", f"points left out: {query}", without(query))

    def dropped(seeds: list[str]) -> Edit:
        def change(jobs: pd.DataFrame, points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
            gone = jobs.loc[jobs["seed"].isin(seeds), "key"].str[:16]
            return jobs[~jobs["seed"].isin(seeds)], points[~points["key"].isin(gone)]

        return pair_edit("taylor", change, rekey=False)

    for seeds in (["0"], ["1", "4"], ["0", "1", "2", "3"], ["0", "1", "2", "3", "4"]):
        yield Forgery("grid", f"seeds {seeds} left out", dropped(seeds))

    def ended(status: str, seeds: list[str], reason: str) -> Edit:
        def change(jobs: pd.DataFrame, points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
            bad = jobs["seed"].isin(seeds)
            gone = jobs.loc[bad, "key"].str[:16]
            jobs = jobs.assign(status=jobs["status"].where(~bad, status), reason=jobs["reason"].where(~bad, reason))
            return jobs, points[~points["key"].isin(gone)]

        return pair_edit("taylor", change, rekey=False)

    for status, reason in (("failed", "no memory"), ("unsupported", "no rule"), ("failed", ""), ("lost", "a")):
        yield Forgery("grid", f"a seed that is said to be {status}, {reason!r}", ended(status, ["2"], reason))
    yield Forgery(
        "grid", "a reason for a job that is ok", cells("taylor.jobs.csv", "reason", put("slow"), where="seed == 1")
    )
    for name in ("taylor.csv", "taylor.jobs.csv"):
        for n in (1, 3):
            yield Forgery(
                "grid", f"{n} rows of {name} twice", table_edit(name, lambda t, n=n: pd.concat([t, t.iloc[:n]]))
            )
            yield Forgery(
                "grid",
                f"{n} rows of {name} in place of others",
                table_edit(name, lambda t, n=n: pd.concat([t.iloc[n:], t.iloc[n : 2 * n]])),
            )

    def renamed(to: str) -> Edit:
        return lambda f: [shutil.move(f / SUITE / f"taylor{e}", f / SUITE / f"{to}{e}") for e in (".csv", ".jobs.csv")]

    for to in ("mine", "taylor_tuned", "con", "Taylor", "tayl\N{CYRILLIC SMALL LETTER O}r", "speed", "x" * 80):
        yield Forgery("grid", f"tables renamed to {to[:20]}", renamed(to))

    def shifted(jobs: pd.DataFrame, points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        return jobs.assign(seed=(jobs["seed"].astype(int) + 10).map(str)), points

    yield Forgery("grid", "seeds of one's own choice, with keys", pair_edit("taylor", shifted))


def provenance_lies() -> Iterator[Forgery]:
    lies = {
        "commit": ["main", "", "a" * 40, "A" * 40, "f" * 39, "--help"],
        "clean": ["False", "yes", ""],
        "time_utc": [
            "2031-01-01T00:00:00+00:00",
            "yesterday",
            "2026-11-24T10:00:00",
            "2026-11-24T10:00:00+02:00",
            "",
            "9999-12-31T23:59:59+00:00",
        ],
        "threads": ["0", "-1", "100000", "", "1.5"],
        "score_seconds": ["-1", "nan", "inf", "1e9"],
        "job_seconds": ["-0.1", "inf", "0"],
        "score_peak_bytes": ["-5"],
        "tuned_trials": ["60"],
        "tuned_images": ["5"],
    }
    for column, values in lies.items():
        for value in values:
            # A commit that is not here may be in another checkout: that is a warning.
            caught = "nobody" if (column, value) == ("commit", "a" * 40) else "validate"
            lie = cells("taylor.jobs.csv", column, put(value), where="seed == 1")
            yield Forgery("provenance", f"{column} = {value!r}", lie, caught_by=caught)
    yield Forgery(
        "provenance",
        "layers emptied in old rows",
        both(cells("lrp_epsilon.jobs.csv", "layers", put("")), cells("lrp_epsilon.csv", "units_left", put(""))),
        OLD,
    )
    yield Forgery(
        "provenance",
        "layers emptied in one old job",
        cells("random.jobs.csv", "layers", put(""), where="seed == 0"),
        OLD,
    )
    yield Forgery("provenance", "layers emptied", cells("taylor.jobs.csv", "layers", put("")))
    yield Forgery(
        "provenance",
        "layers emptied, of a commit that nobody has",
        both(cells("taylor.jobs.csv", "layers", put("")), cells("taylor.jobs.csv", "commit", put("b" * 40))),
    )
    for column, value in {
        "device": "cpu M5",
        "torch": "2.99",
        "score_seconds": "0.001",
        "score_peak_bytes": "1",
    }.items():
        yield Forgery(
            "claims about the machine", column, cells("taylor.jobs.csv", column, put(value)), caught_by="nobody"
        )


TEXTS = {
    "formula": "=HYPERLINK(1)", "plus": "+1", "minus": "-cmd", "at": "@SUM(1)", "full-width": "\uff1dcmd",
    "small": "\ufe66cmd", "full-width plus": "\uff0b1", "full-width at": "\uff20x", "blank before": " =cmd",
    "tab before": "\t=cmd", "no-break blank": "\u00a0=cmd", "wide blank": "\u3000=1", "blank behind": "cpu ",
    "escape": "cpu\x1b[2J", "bell": "a\x07", "right to left": "cpu\u202eUPG", "isolate": "a\u2066b",
    "zero width": "c\u200bpu",
    "joiner": "c\u200dpu", "byte order": "\ufeffcpu", "newline": "a\nb", "return": "a\rb", "nul": "a\x00b",
    "zalgo": "c" + "\u0301" * 40, "leading mark": "\u0301cpu", "enclosing": "a" + "\u20dd" * 9, "filler": "\u3164",
    "braille blank": "\u2800\u2800", "halfwidth filler": "a\uffa0", "choseong": "\u115f", "long": "x" * 5000,
    "line separator": "a\u2028b",
    "private": "\ue000", "unassigned": "\u0378", "tag": "a\U000e0041", "variation": "a\ufe0f" * 9,
    "soft hyphen": "a\u00adb",
}  # fmt: skip


def text_lies() -> Iterator[Forgery]:
    for number, (name, text) in enumerate(TEXTS.items()):
        column = ("device", "torch", "timm", "python")[number % 4]
        lie = cells("taylor.jobs.csv", column, put(text), where="seed == 0")
        yield Forgery("texts", f"{name} in {column}", lie)
        yield Forgery("texts", f"{name} on a card", card_edit(author=text))


def card_edit(**values: object) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / SUITE / "champion.card.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def card_lies() -> Iterator[Forgery]:
    def raw(change: Callable[[str], str]) -> Edit:
        def edit(folder: Path) -> None:
            path = folder / SUITE / "champion.card.json"
            path.write_text(change(path.read_text()))

        return edit

    for field, value in {
        "suite": "digits", "suite_version": 2, "suite_digest": "0" * 64, "criterion": "taylor", "criterion_version": 9,
        "criterion_digest": "1" * 64, "criterion_family": "weights", "criterion_needs": "nothing", "reference": "https://a.org",
        "hardware": ["H100"], "measured_with": {}, "clean": False, "data": {}, "weights": {"a": "b"},
        "n_jobs": {"ok": 6},
        "claims": [], "tables": {}, "time_utc": "2030-01-01T00:00:00+00:00", "format": 3, "colour": "red", "author": "",
        "licence": " ", "url": "", "code": "builtin", "summary": "", "clean ": True,
    }.items():  # fmt: skip
        yield Forgery("cards", f"{field} = {value!r}", card_edit(**{field: value}))
    for url in (
        "javascript:alert(1)", "https://", "ftp://a.org", "https://github.com@evil.org/x", "https://a:b@evil.org",
        "https://example.org/mine", "http://www.example.com", "https://my.test/", "https://localhost/x", "https://\u0430pple.com",
        "https://a b.org", "https://evil.org\\@github.com", "data:text/html,x", "//evil.org", "https://nohost", "HTTPS://a@b.org",
        "https://example.net", "https://a.invalid/x", "https://[::1]/x",
    ):  # fmt: skip
        yield Forgery("cards", f"url {url}", card_edit(url=url))
    for text in ("One line that `pruneboard list criteria` shows, with the formula: s", "One line on what goes first."):
        yield Forgery("cards", f"skeleton {text[:12]}", card_edit(summary=text))
    yield Forgery("cards", "skeleton's source", assign_jobs(criterion_source="https://example.org/the-paper"))
    yield Forgery("cards", "a source that runs", assign_jobs(criterion_source="javascript:alert(1)"))
    yield Forgery("cards", "author twice", raw(lambda t: t.replace("{", '{"author": "Somebody Famous",', 1)))
    yield Forgery("cards", "claims twice", raw(lambda t: t.replace('"a_pr":', '"a_pr": 0.99, "a_pr":')))
    yield Forgery("cards", "a claim of NaN", raw(lambda t: t.replace('"top_pr": 0.', '"top_pr": NaN, "x": 0.')))
    yield Forgery("cards", "nested without end", raw(lambda _: '{"format": ' + "[" * 100_000))
    yield Forgery("cards", "not UTF-8", lambda f: (f / SUITE / "champion.card.json").write_bytes(b"\xff\xfe{}"))
    yield Forgery("cards", "no card", lambda f: (f / SUITE / "champion.card.json").unlink())
    yield Forgery(
        "cards", "a card alone", lambda f: [(f / SUITE / f"champion{e}").unlink() for e in (".csv", ".jobs.csv")]
    )
    yield Forgery("cards", "a card for a criterion of the project", lambda f: card(f, "taylor"))
    yield Forgery("cards", "a giant", lambda f: (f / SUITE / "champion.card.json").write_text(" " * 3_000_000 + "{}"))

    def claim(folder: Path) -> None:
        path = folder / SUITE / "champion.card.json"
        document = json.loads(path.read_text())
        document["claims"][0]["a_pr"] += 0.002
        path.write_text(json.dumps(document))

    yield Forgery("cards", "a claim a little too good", claim)


def file_lies() -> Iterator[Forgery]:
    def copied(to: str, of: str = "taylor") -> Edit:
        def edit(folder: Path) -> None:
            for end in (".csv", ".jobs.csv"):
                target = folder / SUITE / f"{to}{end}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / SUITE / f"{of}{end}", target)

        return edit

    for name in (
        ".champion",
        "..x",
        " champion",
        "champion ",
        "a.b",
        "leaderboard.ranks",
        "comparison.published",
        "sub/taylor",
        "tuning/taylor",
        "\u200btaylor",
        "taylor\n",
        "-x",
    ):
        yield Forgery("files", f"tables named {name!r}", copied(name))

    def new(name: str, text: str = "a,b\n1,2\n") -> Edit:
        def edit(folder: Path) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

        return edit

    for name in (
        "README.md", "claims.csv", "catalogue.json", "performance/cpu.csv", "imagenette/README.md", "imagenette/x.py",
        "imagenette/leaderboard.ranks.csv", "imagenette/comparison.published.csv", "imagenette/tuning/comparison.csv",
        "imagenette/__init__.py", "imagenette/.hidden", "imagenette/index.html", "imagenette/tuning/x.json",
        "conftest.py",
        "imagenette/tuning/taylor.mobilenetv2.filters.csv", "imagenette/tuning/superseded/a.json",
        "mysuite/taylor.jobs.csv",
        "imagenette/.tmp-x.csv", "imagenette/taylor.CSV", "imagenette/taylor.jobs.csv.bak", "__init__.py",
    ):  # fmt: skip
        yield Forgery("files", f"stray {name}", new(name))
    links = {
        "taylor.csv": "/dev/zero",
        "lrp_epsilon.jobs.csv": "../../secret",
        "new.csv": "taylor.csv",
        "tuning": "/etc",
    }
    for name, target in links.items():

        def link(folder: Path, name: str = name, target: str = target) -> None:
            (folder / SUITE / name).unlink(missing_ok=True)
            (folder / SUITE / name).symlink_to(target)

        yield Forgery("files", f"{name} is a link", link)
    yield Forgery("files", "a pipe", lambda f: os.mkfifo(f / SUITE / "pipe.csv"))
    yield Forgery("files", "a folder for a table", lambda f: [(f / SUITE / "x.csv").mkdir()])
    yield Forgery(
        "files",
        "a suite that is a link",
        lambda f: [shutil.move(f / SUITE, f.parent / "away"), (f / SUITE).symlink_to(f.parent / "away")],
    )
    for name in ("taylor.csv", "taylor.jobs.csv"):
        lines: dict[str, Callable[[str], str]] = {
            "an extra column": lambda t: t.replace("\n", ",origin\n"),
            "a doubled column": lambda t: "\n".join(f"{x},{x.split(',')[4]}" for x in t.splitlines()) + "\n",
            "fields too many": lambda t: "\nx,".join(t.splitlines()) + "\n",
            "fields too few": lambda t: t + "a,b\n",
            "a byte order mark": lambda t: "\ufeff" + t,
            "blank lines": lambda t: t.replace("\n", "\n\n", 3),
            "an open quote": lambda t: t + '"abc',
            "semicolons": lambda t: t.replace(",", ";"),
            "columns in another order": lambda t: "\n".join(",".join(reversed(x.split(","))) for x in t.splitlines()),
            "nothing": lambda _: "",
            "a NUL": lambda t: t.replace("0", "\0", 1),
            "repeated rows": lambda t: t + t.partition("\n")[2] * 400,
        }  # fmt: skip
        for what, change in lines.items():

            def rewritten(folder: Path, name: str = name, change: Callable[[str], str] = change) -> None:
                path = folder / SUITE / name
                path.write_text(change(path.read_text()))

            yield Forgery("files", f"{what} in {name}", rewritten)

    def giant(folder: Path) -> None:
        path = folder / SUITE / "taylor.csv"
        text = path.read_text().partition("\n")[2]
        with path.open("a") as file:
            for _ in range(60 * 2**20 // len(text)):
                file.write(text)

    yield Forgery("files", "60 MiB of repeated rows", giant)


def study_lies() -> Iterator[Forgery]:
    path = f"{TUNED}/tuning/taylor.digits_vgg.filters"

    def outcome(**values: object) -> Edit:
        def edit(folder: Path) -> None:
            document = json.loads((folder / f"{path}.json").read_text())
            document["outcome"] |= values
            (folder / f"{path}.json").write_text(json.dumps(document))

        return edit

    for name, value in {
        "value": 0.9, "n_trials": 3, "winner": 0, "searched": {"absolute": "none"}, "parameters": {"absolute": "none"},
        "default_value": 0.1, "study": "0" * 64, "clean": False, "time_utc": "2040-01-01T00:00:00+00:00",
        "status": "failed",
    }.items():  # fmt: skip
        yield Forgery("studies and speeds", f"{name} of an outcome", outcome(**{name: value}), TUNED)
    for column, value in {
        "value": "0.95",
        "parameters": "{}",
        "status": "failed",
        "number": "7",
        "reason": "=1",
    }.items():
        lie = cells("tuning/taylor.digits_vgg.filters.trials.csv", column, put(value), where="row == 3")
        yield Forgery("studies and speeds", f"{column} of a trial", lie, TUNED)
    yield Forgery(
        "studies and speeds",
        "a trial left out",
        table_edit("tuning/taylor.digits_vgg.filters.trials.csv", lambda t: t.iloc[:-1]),
        TUNED,
    )
    yield Forgery("studies and speeds", "no study", lambda f: (f / f"{path}.json").unlink(), TUNED)
    yield Forgery("studies and speeds", "no trials", lambda f: (f / f"{path}.trials.csv").unlink(), TUNED)
    yield Forgery(
        "studies and speeds", "tuned rows said to be untuned", cells("taylor_tuned.jobs.csv", "tuning", put("")), TUNED
    )
    for column, value in {"tuned_trials": "1", "tuned_images": "1", "parameters": '{"absolute": "none"}'}.items():
        yield Forgery(
            "studies and speeds", f"{column} of tuned rows", cells("taylor_tuned.jobs.csv", column, put(value)), TUNED
        )
    speeds = {
        "speedup": "9",
        "latency_seconds": "1e-9",
        "clean": "False",
        "time_utc": "2040-01-01T00:00:00+00:00",
        "version": "7",
        "rate": "-1",
    }
    for column, value in speeds.items():

        def speed(folder: Path, column: str = column, value: str = value) -> None:
            table = read(ROOT / "results" / TUNED / "speed.csv")
            table.loc[2, column] = value
            write(folder / TUNED / "speed.csv", table)

        yield Forgery("studies and speeds", f"{column} of a speed", speed, TUNED)


def copies() -> Iterator[Forgery]:
    def of(source: str, share: float = 1.0, seeds: int = 5) -> Edit:
        """Give the champion the curves of another criterion, cell by cell."""

        def edit(folder: Path) -> None:
            own = folder / SUITE
            jobs, theirs = read(own / "champion.jobs.csv"), read(own / f"{source}.jobs.csv")
            points, other = read(own / "champion.csv"), read(own / f"{source}.csv")
            seed = dict(zip(theirs["key"].str[:16], theirs["seed"], strict=True))
            mine = dict(zip(jobs["key"].str[:16], jobs["seed"], strict=True))
            index = ["seed", "shots", "rate"]
            other = other.assign(seed=other["key"].map(seed)).set_index(index)
            points = points.assign(seed=points["key"].map(mine)).set_index(index)
            taken = [i for n, i in enumerate(points.index) if n % 100 < 100 * share and int(i[0]) < seeds]
            columns = ["top1", "top5", "cross_entropy", "params_left", "macs_left", "units_left"]
            points.loc[taken, columns] = other.loc[taken, columns]
            write(own / "champion.csv", points.reset_index()[read(own / "champion.csv").columns])
            card(folder, "champion")

        return edit

    for source in ("lrp_epsilon", "taylor"):
        yield Forgery("copies", f"all curves of {source}", of(source))
        yield Forgery("copies", f"two seeds of {source}", of(source, seeds=2))
        yield Forgery("copies", f"nine points of ten of {source}", of(source, share=0.9))
        yield Forgery("copies", f"a third of the points of {source}", of(source, share=0.3))

    def repeated(name: str, column: str) -> Edit:
        def edit(folder: Path) -> None:
            own = folder / SUITE
            jobs, points = read(own / f"{name}.jobs.csv"), read(own / f"{name}.csv")
            seed = points["key"].map(dict(zip(jobs["key"].str[:16], jobs["seed"], strict=True)))
            best = seed == "0" if column == "seed" else points["shots"] == "10"
            by = ["shots", "rate"] if column == "seed" else ["key", "rate"]
            source = points[best].set_index(by)
            rows = pd.MultiIndex.from_frame(points[by])
            for value in ("top1", "top5", "cross_entropy", "params_left", "macs_left", "units_left"):
                points[value] = source.loc[rows, value].to_numpy()
            write(own / f"{name}.csv", points)

        return edit

    for name in ("taylor", "lrp_epsilon"):
        yield Forgery("copies", f"the first seed of {name} for all", repeated(name, "seed"))
        yield Forgery("copies", f"ten shots of {name} for all", repeated(name, "shots"))


def whole_tables() -> Iterator[Forgery]:
    """Numbers that keep every rule; only the network knows better."""
    for better in (0.01, 0.02, 0.05, 0.1):
        yield Forgery(
            "numbers that fit together",
            f"a criterion better by {better:g} everywhere",
            lambda f, b=better: champion(f, better=b),
            caught_by="rerun",
        )
    for name in ("taylor", "lrp_epsilon"):
        more = both(
            cells(
                f"{name}.csv",
                "top1",
                lambda v: ((v.astype(float) * 200).round() + 1).clip(upper=200) / 200,
                where="rate > 0.2",
            ),
            table_edit(
                f"{name}.csv",
                lambda t: t.assign(top5=np.maximum(t["top5"].astype(float), t["top1"].astype(float)).map(repr)),
            ),
        )
        yield Forgery("numbers that fit together", f"a hit more in each row of {name}", more, caught_by="rerun")
        less = cells(f"{name}.csv", "cross_entropy", times(0.995), where="rate > 0.2")
        yield Forgery("numbers that fit together", f"a little less loss of {name}", less, caught_by="rerun")
        small = both(*(cells(f"{name}.csv", c, whole(0.98), where="rate > 0") for c in ("params_left", "macs_left")))
        yield Forgery("numbers that fit together", f"sizes of {name} 2 % smaller", small, caught_by="rerun")


def forgeries() -> list[Forgery]:
    """Return all of them, in a fixed order."""
    made = (point_lies, identity_lies, grid_lies, provenance_lies, text_lies, card_lies, file_lies, study_lies, copies)
    return [forgery for each in (*made, whole_tables) for forgery in each()]


class Forge:
    """Folders of honest results, each made once and copied for every forgery."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def errors(self, forgery: Forgery | None, suite: str = SUITE) -> list[str]:
        """Return what validation says of a forgery, or of the honest folder; a crash is raised."""
        suite = suite if forgery is None else forgery.suite
        honest = self.folder / f"honest-{suite}"
        if not honest.exists():
            base(honest, suite)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            results = Path(name) / "results"
            shutil.copytree(honest, results)
            if forgery is not None:
                forgery.edit(results)
            return [finding.message for finding in validate_folder(results).errors]


def main(kinds: list[str]) -> int:
    """Try all forgeries, or those of some classes, and print what became of them."""
    tried: dict[str, list[tuple[Forgery, bool]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="forged-") as folder:
        forge = Forge(Path(folder))
        for suite in (SUITE, TUNED, OLD):
            assert not (found := forge.errors(None, suite)), found
        for forgery in forgeries():
            if kinds and forgery.kind not in kinds:
                continue
            started = time.process_time()
            try:
                caught = bool(forge.errors(forgery))
            # A traceback is a miss: nobody reads on.
            except Exception as error:  # noqa: BLE001
                print(f"CRASHED {forgery.kind} / {forgery.name}: {type(error).__name__}: {error}"[:300])
                caught = False
            if (seconds := time.process_time() - started) > 10:
                print(f"SLOW    {forgery.kind} / {forgery.name}: {seconds:.0f} s")
            tried[forgery.kind].append((forgery, caught))
            if caught != (forgery.caught_by == "validate"):
                what = "caught" if caught else "MISSED"
                print(f"{what}, meant for {forgery.caught_by}: {forgery.kind} / {forgery.name}", flush=True)
    wrong = 0
    for kind, results in tried.items():
        missed = [forgery for forgery, caught in results if not caught]
        by_others = [f"{sum(f.caught_by == who for f in missed)} for {who}" for who in ("rerun", "nobody")]
        wrong += sum(forgery.caught_by == "validate" for forgery in missed)
        n_caught = len(results) - len(missed)
        print(f"{kind}: {len(results)} tried, {n_caught} caught, {len(missed)} missed ({', '.join(by_others)})")
    print(f"{sum(map(len, tried.values()))} forgeries, {wrong} that `validate` ought to catch are missed.")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
