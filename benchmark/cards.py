"""Submission cards: who hands in a criterion's results on a suite, what they were measured with, and what they claim.

A card is `SUITE/CRITERION.card.json` of a results folder, beside the two tables that it is about. Everything in it but
author, licence and address is derived from these tables, so that it can be derived again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import Suite, parse_json
from pruneboard.benchmark.stats import METRICS, area_under_curve, summarise
from pruneboard.benchmark.store import ResultsStore, atomic_file

FORMAT = 1
SUFFIX = ".card.json"

_ROUND = 6
_PROVENANCE = ("python", "torch", "timm", "zennit", "pruneboard", "commit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """What a criterion reaches with one kind of unit: means over networks, shots and seeds, rounded to 6 decimals.

    Attributes:
        granularity: kind of unit.
        n_cells: curves that the means are over.
        n_seeds: seeds.
        a_pr: A_PR, in [0, 1].
        a_pr_low: lower end of its 95 % interval over the seeds; None with one seed.
        a_pr_high: upper end.
        auc_trapz: integral of the accuracy over the rate.
        top_pr: Top-PR, in [0, 1).
    """

    granularity: str
    n_cells: int
    n_seeds: int
    a_pr: float
    a_pr_low: float | None
    a_pr_high: float | None
    auc_trapz: float
    top_pr: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """One submission.

    Attributes:
        suite: name of the suite.
        suite_version: its version.
        suite_digest: sha256 of its deciding fields.
        criterion: registered name.
        criterion_version: its version.
        criterion_digest: sha256 of its source.
        criterion_family: its family.
        criterion_needs: `nothing`, `images` or `labels`.
        summary: one line on what it scores by.
        author: who hands it in.
        reference: DOI or URL of the publication.
        licence: licence of the criterion's code, as an SPDX expression.
        code: where the code came from: `builtin`, `package NAME VERSION` or `file NAME`.
        url: where others get the code; empty when it is part of this project.
        hardware: devices, by name.
        measured_with: versions of the libraries and commit of pruneboard, each the distinct values in the rows.
        clean: whether all rows were measured with exactly that commit.
        data: name of each data set to its sha256.
        weights: name of each network to the sha256 of its weights.
        n_jobs: number of jobs by status.
        claims: what it reaches, by granularity.
        tables: name of each table to the sha256 of the file.
        time_utc: when the last job ended, UTC.
    """

    suite: str
    suite_version: int
    suite_digest: str
    criterion: str
    criterion_version: int
    criterion_digest: str
    criterion_family: str
    criterion_needs: str
    summary: str
    author: str
    reference: str
    licence: str
    code: str
    url: str
    hardware: tuple[str, ...]
    measured_with: Mapping[str, tuple[str, ...]]
    clean: bool
    data: Mapping[str, str]
    weights: Mapping[str, str]
    n_jobs: Mapping[str, int]
    claims: tuple[Claim, ...]
    tables: Mapping[str, str]
    time_utc: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """What nobody but the author can say.

    Attributes:
        author: who hands the criterion in.
        licence: licence of its code, as an SPDX expression.
        url: where others get the code; empty when it is part of this project.
        code: where it came from on the author's machine.
        summary: one line on what it scores by.
    """

    author: str
    licence: str
    url: str
    code: str
    summary: str


class CardStore:
    """The submission cards of a results folder.

    Args:
        folder: results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, suite: str, criterion: str) -> Path:
        """Return the file of a card."""
        return self.folder / suite / f"{criterion}{SUFFIX}"

    def table_paths(self, suite: str, criterion: str) -> tuple[Path, Path]:
        """Return the two tables that a card is about."""
        folder = self.folder / suite
        return folder / f"{criterion}.csv", folder / f"{criterion}.jobs.csv"

    def read(self, suite: str) -> list[Card]:
        """Read the cards of all tables of a suite, sorted by criterion.

        Raises:
            StoreError: a card is damaged, foreign, or of another version.
        """
        paths = (self.path(suite, criterion) for criterion in ResultsStore(self.folder).criteria(suite))
        return [read_card(path) for path in paths if path.exists()]

    def read_one(self, suite: str, criterion: str) -> Card:
        """Read the card of one criterion.

        Raises:
            StoreError: it is missing, damaged, foreign, or of another version.
        """
        return read_card(self.path(suite, criterion))

    def write(self, card: Card) -> Path:
        """Write a card, and return its file.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self.path(card.suite, card.criterion)
        with atomic_file(path) as temporary:
            text = json.dumps({"format": FORMAT, **dataclasses.asdict(card)}, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        return path


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        StoreError: it is damaged, foreign, or of another version.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError(f"its format must be {FORMAT}")
        card = Card(**document)
        card = dataclasses.replace(
            card,
            hardware=tuple(card.hardware),
            measured_with={name: tuple(values) for name, values in card.measured_with.items()},
            claims=tuple(Claim(**claim) for claim in document["claims"]),
        )
        _check_types(card)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"a submission card must be a JSON file of the known fields, but `{path}` cannot be used: "
            f"{type(error).__name__}: {error}; write it again with `pruneboard submit`."
        ) from error
    if path.name != f"{card.criterion}{SUFFIX}":
        raise StoreError(
            f"a submission card must be named like its criterion, `{card.criterion}{SUFFIX}`, but it is `{path}`; "
            "rename it."
        )
    return card


def make_card(rows: pd.DataFrame, suite: Suite, statement: Statement, tables: tuple[Path, ...]) -> Card:
    """Derive a card from the rows of one criterion on a suite.

    Args:
        rows: a table with the columns of `schema.Row` that holds rows of one criterion and one suite.
        suite: the suite.
        statement: what the author says.
        tables: the files that the rows are in.

    Raises:
        TableError: the rows break a rule of `stats.area_under_curve`.
        StoreError: a table cannot be read.
    """
    first, jobs = rows.iloc[0], rows.drop_duplicates("key")
    return Card(
        suite=suite.name,
        suite_version=int(first["suite_version"]),
        suite_digest=str(first["suite_digest"]),
        criterion=str(first["criterion"]),
        criterion_version=int(first["criterion_version"]),
        criterion_digest=str(first["criterion_digest"]),
        criterion_family=str(first["criterion_family"]),
        criterion_needs=str(first["criterion_needs"]),
        summary=statement.summary,
        author=statement.author,
        reference=str(first["criterion_source"]),
        licence=statement.licence,
        code=statement.code,
        url=statement.url,
        hardware=_distinct(jobs["device"]),
        measured_with={name: _distinct(jobs[name]) for name in _PROVENANCE},
        clean=bool(jobs["clean"].all()),
        data=_pairs(jobs, "dataset", "data_digest"),
        weights=_pairs(jobs, "model", "weights_digest"),
        n_jobs={str(status): int(n) for status, n in sorted(jobs["status"].value_counts().items())},
        claims=claims_of(rows),
        tables={path.name: file_digest(path) for path in tables},
        time_utc=max(map(str, jobs["time_utc"])),
    )


def claims_of(rows: pd.DataFrame) -> tuple[Claim, ...]:
    """Return what rows of one criterion and suite say that it reaches, by granularity; nothing where it declined all.

    Raises:
        TableError: the rows break a rule of `stats.area_under_curve`.
    """
    areas = area_under_curve(rows)
    if areas.empty:
        return ()
    claims = []
    for line in summarise(areas, ("granularity", "criterion")).sort_values("granularity").to_dict("records"):
        low, high = (
            None if pd.isna(line[f"a_pr_{end}"]) else round(line[f"a_pr_{end}"], _ROUND) for end in ("low", "high")
        )
        means = {metric: round(line[f"{metric}_mean"], _ROUND) for metric in METRICS}
        claims.append(
            Claim(
                granularity=line["granularity"],
                n_cells=int(line["n_cells"]),
                n_seeds=int(line["n_seeds"]),
                a_pr_low=low,
                a_pr_high=high,
                **means,
            )
        )
    return tuple(claims)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StoreError(f"a card needs its tables, but `{path}` cannot be read: {error.strerror}.") from error


def _distinct(values: pd.Series) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values}))


def _pairs(jobs: pd.DataFrame, name: str, value: str) -> dict[str, str]:
    return {str(key): str(digest) for key, digest in sorted({*zip(jobs[name], jobs[value], strict=True)})}


def _check_types(card: Card) -> None:
    kinds: Mapping[type, tuple[str, ...]] = {
        int: ("suite_version", "criterion_version"),
        bool: ("clean",),
        dict: ("data", "weights", "n_jobs", "tables"),
    }
    of = {name: kind for kind, names in kinds.items() for name in names}
    others = {"hardware": tuple, "measured_with": dict, "claims": tuple}
    for field in dataclasses.fields(card):
        value: Any = getattr(card, field.name)
        kind = of.get(field.name) or others.get(field.name, str)
        if type(value) is not kind:
            raise ValueError(f"`{field.name}` must be of type {kind.__name__}, got {value!r}")
