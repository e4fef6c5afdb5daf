"""Reading the list of claims."""

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pruneboard.benchmark.errors import ClaimError
from pruneboard.benchmark.registry import unknown_name
from pruneboard.benchmark.schema import GRANULARITIES, PROTOCOLS, Granularity, Protocol

FILE = Path(__file__).resolve().with_name("claims.toml")
_FORMAT = 1

Kind = Literal["criteria", "shots", "families", "protocols"]
Metric = Literal["a_pr", "top_pr"]

_NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "criteria": ("rivals",),
    "shots": ("few_shots",),
    "families": ("families", "other_families"),
    "protocols": ("rivals", "other_protocol"),
}
_OF_SOME_KIND = frozenset(name for names in _NEEDS.values() for name in names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says, as a contrast of rows that is above or below a number.

    Attributes:
        name: lower_snake name, unique.
        text: the claim, one sentence.
        paper: who claims it.
        source: DOI or URL of the paper.
        note: how the contrast stands for the claim.
        kind: kind of contrast: `criteria` compares with each rival on the same network, shots and seed; `shots` the
            most shots with `few_shots`; `families` each network of some families with the mean over others of its
            suite; `protocols` the lead over each rival under one protocol with that under another.
        criterion: criterion that the claim is about, as rows name it.
        protocol: protocol of the suites that count.
        metric: statistic of the curves that is compared.
        above: the contrast is larger than this, in percentage points; None when the claim is an upper limit.
        below: the contrast is smaller than this, in percentage points; None when the claim is a lower limit.
        rivals: criteria that it is compared with; the claim is about each of them.
        shots: numbers of shots that count; empty for all.
        granularities: kinds of unit that count; empty for all.
        few_shots: of the kind `shots`: number that the most is compared with.
        families: of the kind `families`: families of the networks that it is claimed of.
        other_families: of the kind `families`: those that they are compared with.
        other_protocol: of the kind `protocols`: what the lead is compared with.
    """

    name: str
    text: str
    paper: str
    source: str
    note: str
    kind: Kind
    criterion: str
    protocol: Protocol
    metric: Metric = "a_pr"
    above: float | None = None
    below: float | None = None
    rivals: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    granularities: tuple[Granularity, ...] = ()
    few_shots: int | None = None
    families: tuple[str, ...] = ()
    other_families: tuple[str, ...] = ()
    other_protocol: Protocol | None = None

    def __post_init__(self) -> None:
        checks = {
            "kind": (self.kind, typing.get_args(Kind)),
            "metric": (self.metric, typing.get_args(Metric)),
            "protocol": (self.protocol, PROTOCOLS),
            "other_protocol": (self.other_protocol, (None, *PROTOCOLS)),
        }
        for name, (value, choices) in checks.items():
            if value not in choices:
                raise self._unknown(name, value, choices)
        for kind in self.granularities:
            if kind not in GRANULARITIES:
                raise self._unknown("granularities", kind, GRANULARITIES)
        for name in _OF_SOME_KIND:
            given = getattr(self, name) not in ((), None)
            if given != (name in _NEEDS[self.kind]):
                verb = "must not" if given else "must"
                raise ClaimError(f"claim `{self.name}` of kind `{self.kind}` {verb} have `{name}`; correct it.")
        if (self.above is None) == (self.below is None) or not math.isfinite(self.threshold):
            raise ClaimError(f"claim `{self.name}` must have one finite number, `above` or `below`; correct it.")

    def _unknown(self, name: str, value: object, choices: tuple[object, ...]) -> ClaimError:
        known = ", ".join(str(choice) for choice in choices if choice is not None)
        return ClaimError(f"`{name}` of claim `{self.name}` must be of {known}, got {value!r}.")

    @property
    def threshold(self) -> float:
        """What the contrast is compared with, in percentage points."""
        return self.above if self.above is not None else (self.below or 0.0)

    def margin(self, effect: float) -> float:
        """Return how far an effect lies on the side that is claimed, in percentage points; negative on the other."""
        return effect - self.threshold if self.above is not None else self.threshold - effect


def load_claims(path: Path = FILE, *, name: str | None = None) -> tuple[Claim, ...]:
    """Read a list of claims, in its order.

    Args:
        path: TOML file; that of pruneboard is the one to copy.
        name: only this claim.

    Raises:
        UnknownNameError: there is no claim of this name.
        ClaimError: the file is unreadable or breaks a rule; the message names the claim.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ClaimError(f"claims must be a readable TOML file, but `{path}` is not: {error}.") from error
    entries = document.get("claims")
    if document.get("format") != _FORMAT or set(document) != {"format", "claims"} or not isinstance(entries, list):
        raise ClaimError(f"`{path}` must hold `format = {_FORMAT}` and a list of [[claims]], and nothing else.")
    claims = tuple(_claim(entry, number) for number, entry in enumerate(entries, start=1))
    names = [claim.name for claim in claims]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ClaimError(f"claims must have names of their own, but `{path}` has `{repeated[0]}` twice; rename one.")
    if name is not None and name not in names:
        raise unknown_name("claim", name, names)
    return tuple(claim for claim in claims if name in (None, claim.name))


def _claim(entry: Any, number: int) -> Claim:
    if not isinstance(entry, dict):
        raise ClaimError(f"claim {number} must be a table, got {entry!r}; begin it with [[claims]].")
    name = entry.get("name", number)
    hints = typing.get_type_hints(Claim)
    unknown = sorted(set(entry) - set(hints))
    if unknown:
        raise ClaimError(f"claim `{name}` must have known keys, got `{unknown[0]}`; known are {', '.join(hints)}.")
    required = [f.name for f in dataclasses.fields(Claim) if f.default is dataclasses.MISSING]
    missing = [key for key in required if key not in entry]
    if missing:
        raise ClaimError(f"claim `{name}` must have `{missing[0]}`; add it.")
    return Claim(**{key: _typed(name, key, value, hints[key]) for key, value in entry.items()})


def _typed(claim: object, key: str, value: Any, hint: Any) -> Any:
    """Return a value of a TOML file as a field holds it."""
    if typing.get_origin(hint) is tuple:
        kind = int if hint == tuple[int, ...] else str
        if isinstance(value, list) and value and all(type(item) is kind for item in value):
            return tuple(value)
        raise ClaimError(f"`{key}` of claim `{claim}` must be a list of {_WORDS[kind]}, got {value!r}.")
    inner = [part for part in typing.get_args(hint) if part is not types.NoneType]
    wanted = next((kind for kind in (int, float) if hint is kind or kind in inner), str)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted or value == "":
        raise ClaimError(f"`{key}` of claim `{claim}` must be a {_WORDS[wanted][:-1]}, got {value!r}.")
    return value


_WORDS: Mapping[type, str] = {int: "whole numbers", float: "numbers", str: "texts"}
