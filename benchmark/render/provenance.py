"""Where rows come from: jobs without a result, versions, digests, and what is to be said of them."""

import dataclasses
from collections.abc import Callable

import pandas as pd

from pruneboard.benchmark.render.links import web_link
from pruneboard.benchmark.schema import Suite


@dataclasses.dataclass(frozen=True)
class Problem:
    """Jobs without a result that share model, criterion, status and reason."""

    criterion: str
    model: str
    granularity: str
    status: str
    reason: str
    n_jobs: int


@dataclasses.dataclass(frozen=True)
class CriterionCard:
    """What the rows say about one criterion; `link` is its source when that is a web address."""

    name: str
    family: str
    needs: str
    version: str
    parameters: str
    source: str
    link: str | None
    tuned: bool = False

    @property
    def looks_at(self) -> str:
        """What it looks at, tuning included."""
        return self.needs + (" + tuning" if self.tuned else "")


@dataclasses.dataclass(frozen=True)
class Fact:
    """One line of the provenance: a term and its values."""

    term: str
    values: tuple[str, ...]


def problems(rows: pd.DataFrame) -> tuple[Problem, ...]:
    """Return the jobs without a result, those together that share a reason."""
    columns = ["granularity", "criterion", "model", "status", "reason"]
    jobs = rows.loc[rows["status"] != "ok", [*columns, "key"]].fillna({"reason": ""}).drop_duplicates()
    counts = jobs.groupby(columns, sort=True).size().reset_index(name="n_jobs")
    return tuple(
        Problem(
            criterion=str(record["criterion"]),
            model=str(record["model"]),
            granularity=str(record["granularity"]),
            status=str(record["status"]),
            reason=str(record["reason"]),
            n_jobs=int(record["n_jobs"]),
        )
        for record in counts.to_dict("records")
    )


def criterion_cards(rows: pd.DataFrame) -> tuple[CriterionCard, ...]:
    """Return what the rows of each criterion say of it, sorted by name."""
    cards: list[CriterionCard] = []
    for name, part in rows.groupby("criterion", sort=True):
        family, needs, source, version, parameters = (
            ", ".join(_values(part, column))
            for column in (
                "criterion_family",
                "criterion_needs",
                "criterion_source",
                "criterion_version",
                "parameters",
            )
        )
        tuned = bool((part["tuning"].fillna("") != "").any())
        if tuned:
            parameters = "tuned for each network and kind of unit"
        cards.append(CriterionCard(str(name), family, needs, version, parameters, source, web_link(source), tuned))
    return tuple(cards)


def _values(rows: pd.DataFrame, column: str, as_text: Callable[[object], str] = str) -> tuple[str, ...]:
    """Return the distinct non-empty values of a column as sorted text."""
    values = rows[column].dropna()
    return tuple(sorted({text for text in map(as_text, values.unique()) if text}))


def facts_of(rows: pd.DataFrame, suite: Suite) -> tuple[Fact, ...]:
    """Return where the rows of a suite come from: digests, code, versions, devices, times."""
    if rows.empty:
        return ()
    ok = rows.loc[rows["status"] == "ok"]
    measured = ok if len(ok) else rows
    weights = measured[["model", "weights_digest"]].drop_duplicates().sort_values(["model", "weights_digest"])
    data = measured[["dataset", "data_digest"]].drop_duplicates().sort_values(["dataset", "data_digest"])
    code = rows[["commit", "clean"]].fillna({"commit": ""}).drop_duplicates().sort_values(["commit", "clean"])
    times = _values(rows, "time_utc")
    facts = [
        Fact("Suite", tuple(f"{suite.name}, version {version}" for version in _values(rows, "suite_version"))),
        Fact("Suite digest", _values(rows, "suite_digest")),
        Fact("Data set", tuple(f"{name}, sha256 {sha}" for name, sha in data.itertuples(index=False))),
        Fact("Evaluation images", _values(rows, "n_images", lambda value: f"{pd.to_numeric(str(value)):.0f}")),
        Fact("Weights", tuple(f"{model}, sha256 {sha}" for model, sha in weights.itertuples(index=False))),
        Fact("Code", tuple(_commit_text(commit, bool(clean)) for commit, clean in code.itertuples(index=False))),
        *(Fact(title, _values(rows, name)) for title, name in VERSION_COLUMNS),
        Fact("Device", _values(rows, "device")),
        Fact("CPU threads", _values(rows, "threads")),
        Fact("Measured (UTC)", times if len(times) < 2 else (f"{times[0]} to {times[-1]}",)),
    ]
    return tuple(fact for fact in facts if fact.values)


VERSION_COLUMNS = (
    ("pruneboard", "pruneboard"),
    ("Python", "python"),
    ("PyTorch", "torch"),
    ("timm", "timm"),
    ("zennit", "zennit"),
)
"""How each column that names a version is called."""


def _commit_text(commit: str, clean: bool) -> str:
    if not commit:
        return "an installed package, commit unknown"
    return f"commit {commit}, {'clean' if clean else 'with uncommitted changes'}"


def notes_on(rows: pd.DataFrame, suite: Suite) -> tuple[str, ...]:
    """Return what a reader has to know before the numbers of a suite."""
    notes: list[str] = []
    if len(rows) and set(_values(rows, "suite_digest")) != {suite.digest}:
        notes.append(
            f"These rows were measured under another version of the suite than its file now has (version "
            f"{suite.version}, digest {suite.digest[:12]}); run `pruneboard run {suite.name}` to bring them up to date."
        )
    if len(rows) and not rows["clean"].astype(bool).all():
        notes.append("Some rows were measured with uncommitted changes or an installed package; see Provenance.")
    return tuple(notes)
