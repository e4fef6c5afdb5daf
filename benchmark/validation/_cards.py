"""Rules that a submission card keeps: whatever is derived from its rows is derived again."""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from pruneboard.benchmark.cards import Card, CardStore, Statement, make_card
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.validation._plain import address_fault, text_fault

_LONGEST = 500
_LONGEST_SHOWN = 200
_DOI = re.compile(r"(doi:)?10\.[0-9]{4,9}/[!-~]+")
_SKELETON = re.compile(r"One line (that|on what)\b.*")
_CODE = re.compile(r"builtin|package \S+( \S+)*|file \S.*")


def card_faults(card: Card, rows: pd.DataFrame, suite: Suite, store: CardStore) -> Iterator[str]:
    """Yield what is wrong with a card.

    Args:
        card: the card.
        rows: the rows of its tables.
        suite: the suite as it is now.
        store: the cards of the results folder.
    """
    says = {field.name: getattr(card, field.name) for field in dataclasses.fields(Statement)}
    yield from statement_faults(Statement(**says))
    if (fault := reference_fault(card.reference)) is not None:
        yield fault
    if card.n_jobs.get("failed"):
        yield (
            f"every job of a submission must succeed or be declined, but {card.n_jobs['failed']} failed; mend the "
            "criterion and run `pruneboard submit` again."
        )
    try:
        derived = make_card(rows, suite, Statement(**says), store.table_paths(card.suite, card.criterion))
    except PruneboardError as error:
        yield str(error)
        return
    for field in dataclasses.fields(Card):
        claimed, found = getattr(card, field.name), getattr(derived, field.name)
        if claimed != found:
            yield (
                f"`{field.name}` of a card must be what its tables say, {_shown(found)}, got {_shown(claimed)}; "
                "write the card again with `pruneboard submit`."
            )


def statement_faults(statement: Statement) -> Iterator[str]:
    """Yield what is wrong with what an author says."""
    for field in dataclasses.fields(Statement):
        text = getattr(statement, field.name)
        if not text.strip() and field.name != "url":
            yield f"a card must name its `{field.name}`, but it is empty; give it to `pruneboard submit`."
        if (fault := text_fault(text, _LONGEST)) is not None:
            yield f"texts of a card must be plain, but {fault}: `{field.name}` is {text[:80]!r}; write it plainly."
    if statement.code != "builtin" and not statement.url.strip():
        yield (
            f"a criterion from elsewhere (`{statement.code}`) must say where its code can be had, but `url` is empty; "
            "give `--url` to `pruneboard submit`."
        )
    if statement.url.strip() and (fault := address_fault(statement.url)) is not None:
        yield f"`url` {fault}, got {statement.url[:80]!r}; give the real one by `--url`."
    if _SKELETON.match(statement.summary):
        yield (
            f"`summary` must say what the criterion scores by, got the skeleton's {statement.summary[:80]!r}; "
            "write the first line of the class's documentation."
        )
    if not _CODE.fullmatch(statement.code):
        yield f"`code` must be `builtin`, `package NAME VERSION` or `file NAME`, got {statement.code[:80]!r}."


def reference_fault(source: str) -> str | None:
    """Return what is wrong with where a criterion says that it is published; None when nothing is."""
    if _DOI.fullmatch(source) or (fault := address_fault(source)) is None:
        return None
    return f"the `source` of a criterion {fault}, got {source[:80]!r}; declare its publication, or its repository."


def _shown(value: Any) -> str:
    plain = (
        [dataclasses.asdict(part) for part in value]
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0])
        else value
    )
    text = json.dumps(plain, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
