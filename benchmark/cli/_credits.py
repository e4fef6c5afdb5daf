"""Who handed in which criterion, from the submission cards beside the published tables."""

import json
from pathlib import Path

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.render import Credit

_CARDS = "*/*.card.json"


def read_credits(results: Path) -> dict[str, Credit]:
    """Return author, licence and address of each criterion that has a card, of the card that is last by its path.

    Raises:
        StoreError: a card is damaged.
    """
    found: dict[str, Credit] = {}
    for path in sorted(results.glob(_CARDS)):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            texts = {name: str(card[name]) for name in ("author", "licence", "url", "summary")}
            found[str(card["criterion"])] = Credit(**texts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"a submission card must say criterion, author, licence, address and summary, but `{path}` does not: "
                f"{error}; write it again, or remove it."
            ) from error
    return found
