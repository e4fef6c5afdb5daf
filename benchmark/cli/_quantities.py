"""Times and amounts of memory as people type and read them."""

import math
import re

from pruneboard.benchmark.errors import PruneboardError

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_FORM = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]*)", re.IGNORECASE)


def parse_seconds(option: str, text: str) -> float:
    """Return the seconds of a text such as `90`, `90s`, `10m`, `2h` or `1d`.

    Raises:
        PruneboardError: it is no such text, or no time at all.
    """
    found = _FORM.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS.get(found[2].lower(), math.nan) if found else math.nan
    if not 0 < seconds < math.inf:
        raise PruneboardError(f"`{option}` must be a time such as 90, 90s, 10m, 2h or 1d, got {text!r}; give one.")
    return seconds


def parse_bytes(option: str, text: str) -> int:
    """Return the bytes of a text such as `4GB`, `500MB` or `8GiB`.

    Raises:
        PruneboardError: it is no such text, or no memory at all.
    """
    found = _FORM.fullmatch(text.strip())
    n_bytes = float(found[1]) * _BYTES.get(found[2].upper(), math.nan) if found else math.nan
    if not 1 <= n_bytes < math.inf:
        raise PruneboardError(
            f"`{option}` must be an amount of memory such as 500MB, 4GB or 8GiB, got {text!r}; give one with its unit."
        )
    return int(n_bytes)


def format_seconds(seconds: float | None) -> str:
    """Return a time as people read it: `0.42 s`, `8.3 s`, `4 min`, `3 h 20 min`, or `?` when it is not known."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
