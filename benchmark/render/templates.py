"""The environment that pages are rendered in: everything is escaped, and unknown names are errors."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from pruneboard.benchmark.render.estimates import Estimate
from pruneboard.benchmark.render.evidence import claim_link
from pruneboard.benchmark.render.formulas import with_formulas
from pruneboard.benchmark.render.links import pooled_link, rows_link, slug, web_link
from pruneboard.benchmark.render.rules import meaning, rules_in_words
from pruneboard.benchmark.render.styles import family_class
from pruneboard.benchmark.render.views import Line
from pruneboard.benchmark.schema import display_name

_PROTOCOLS = {
    "one_shot": "one shot",
    "iterative": "step by step",
    "iterative_finetune": "step by step, with fine-tuning",
}


def make_environment(folder: Path) -> jinja2.Environment:
    """Make the environment for the templates of a folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "rate": lambda rate: f"{round(100 * rate, 2):g} %",
        "hundredths": _hundredths,
        "extent": _extent,
        "count": _count,
        "bytes": _bytes,
        "prose": _prose,
        "settings": _settings,
        "protocol": lambda name: _PROTOCOLS.get(name, name),
        "family_class": family_class,
        "display_name": display_name,
        "slug": slug,
        "web_link": web_link,
        "zip": lambda first, second: list(zip(first, second, strict=True)),
    }
    environment.globals |= {
        "whiskers": _whiskers,
        "rows_link": rows_link,
        "pooled_link": pooled_link,
        "claim_link": claim_link,
        "rows_of_line": _rows_of_line,
        "meaning": meaning,
        "rules_in_words": rules_in_words,
    }
    return environment


def _rows_of_line(root: str, suite: str, granularity: str, model: str | None = None) -> Callable[[str], str]:
    """Return what gives the address of the rows behind one criterion's line of a table."""
    return lambda criterion: root + rows_link(suite, criterion, granularity=granularity, model=model)


def _percent(fraction: float, n_decimals: int = 2) -> str:
    return f"{100 * fraction:.{n_decimals}f}"


def _hundredths(value: int | None, n_decimals: int = 2) -> str:
    """Show a whole number of hundredths of a percent as a percentage."""
    return "–" if value is None else f"{value / 100:.{n_decimals}f}"


def _extent(values: tuple[float, float]) -> str:
    low, high = map(_percent, values)
    return low if low == high else f"{low} to {high}"


def _count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one: `1 job`, `2 jobs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _prose(text: str) -> Markup:
    """Return a text with what stands in backticks as code, and formulas as MathML; all else is escaped."""
    parts = text.split("`")
    # An odd number of backticks is no pair of quotes.
    if len(parts) % 2 == 0:
        return with_formulas(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else with_formulas(part) for i, part in enumerate(parts)
    )


def _settings(text: str) -> str:
    """Show parameters that are objects in JSON as `name = value`; whatever else they are is shown as it is."""
    try:
        found = json.loads(f"[{text}]")
    except ValueError:
        return text
    if not all(isinstance(entry, dict) for entry in found):
        return text
    shown = (
        ", ".join(f"{name} = {value if isinstance(value, str) else json.dumps(value)}" for name, value in entry.items())
        for entry in found
    )
    return "; ".join(filter(None, shown)) or "–"


def _bytes(number: float) -> str:
    return f"{number / 1e6:.3g} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"


@dataclasses.dataclass(frozen=True)
class _Whisker:
    """Positions in [0, 100] of an interval and its mean within a column."""

    low: str
    mean: str
    high: str


def _whiskers(lines: Sequence[Line]) -> dict[str, _Whisker]:
    """Place the intervals of A_PR on a common scale, keyed by criterion."""
    ends = [_ends(line.a_pr) for line in lines]
    smallest, largest = min(low for low, _ in ends), max(high for _, high in ends)
    span = largest - smallest
    if not math.isfinite(span) or span <= 0:
        span = 1.0

    def place(value: float) -> str:
        return f"{4 + 92 * (value - smallest) / span:.2f}"

    return {
        line.criterion: _Whisker(place(low), place(line.a_pr.mean), place(high))
        for line, (low, high) in zip(lines, ends, strict=True)
    }


def _ends(estimate: Estimate) -> tuple[float, float]:
    if estimate.low is None or estimate.high is None:
        return estimate.mean, estimate.mean
    return estimate.low, estimate.high
