"""Addresses on the site, and which addresses of others it links to."""

import hashlib
import re
from urllib.parse import urlencode, urlsplit

_PLAIN = re.compile(r"[a-z][a-z0-9_]*")
_MARKED = re.compile(r"([a-z][a-z0-9_]*) \((tuned|here)\)(?: \((here)\))?")


def slug(name: str) -> str:
    """Return a file name for a displayed name: itself where it is lower_snake, `lrp-tuned` for `lrp (tuned)`.

    Any other name gets what is left of it and a digest, so that no two names share a file.
    """
    if _PLAIN.fullmatch(name):
        return name
    if marked := _MARKED.fullmatch(name):
        return "-".join(part for part in marked.groups() if part)
    kept = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{kept}.{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}".lstrip(".")


def rows_link(suite: str, criterion: str, **cell: object) -> str:
    """Return the address of the rows behind a number, relative to the site's root.

    Args:
        suite: suite.
        criterion: displayed name.
        cell: any of `granularity`, `model`, `shots`, `rate` and `seed`; None leaves one open.
    """
    given = {name: str(value) for name, value in cell.items() if value is not None}
    return f"rows.html?{urlencode({'suite': suite, 'criterion': criterion, **given})}"


def web_link(source: str) -> str | None:
    """Return `source` if it is an http or https address that is safe to link to, else None."""
    if any(character.isspace() or not character.isprintable() for character in source):
        return None
    try:
        parts = urlsplit(source)
    except ValueError:
        return None
    return source if parts.scheme in ("http", "https") and parts.hostname else None
