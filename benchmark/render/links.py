"""Addresses on the site, and which addresses of others it links to."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
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


Network = tuple[str, str, str]
"""A network in a suite, with the kind of unit that is pruned: suite, network, granularity."""


def rows_link(suite: str, *criteria: str, show: str | None = None, **cell: object) -> str:
    """Return the address of the rows behind a number, relative to the site's root.

    Args:
        suite: suite.
        criteria: displayed names; of several, the first is compared with the others.
        show: `wins` to set the criterion beside all others of the suite.
        cell: any of `granularity`, `model`, `shots`, `rate` and `seed`; None leaves one open.
    """
    return _rows([("suite", suite)], criteria, show, cell)


def pooled_link(networks: Iterable[Network], *criteria: str, show: str | None = None, **cell: object) -> str:
    """Return the address of the rows behind a number that pools networks, as `rows_link` for one suite."""
    return _rows([("network", "~".join(network)) for network in networks], criteria, show, cell)


def _rows(
    where: Sequence[tuple[str, str]], criteria: Sequence[str], show: str | None, cell: Mapping[str, object]
) -> str:
    given = [(name, str(value)) for name, value in {**cell, "show": show}.items() if value is not None]
    return f"rows.html?{urlencode([*where, *(('criterion', name) for name in criteria), *given])}"


def web_link(source: str) -> str | None:
    """Return `source` if it is an http or https address that is safe to link to, else None."""
    if any(character.isspace() or not character.isprintable() for character in source):
        return None
    try:
        parts = urlsplit(source)
    except ValueError:
        return None
    return source if parts.scheme in ("http", "https") and parts.hostname else None
