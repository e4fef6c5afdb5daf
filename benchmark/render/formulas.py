"""Formulas as docstrings write them, `s_i = |1/N sum of dL/da_i|`, to MathML, which browsers show and read aloud.

Only what is surely a formula is taken for one: a run of symbols, numbers and operators in which something has an index
or a power, is a derivative or stands between bars. Words end a run and stay words; all of it is escaped.
"""

import re
from collections.abc import Iterator, Sequence

from markupsafe import Markup, escape

_GREEK = dict(
    zip(
        ("alpha", "beta", "gamma", "delta", "epsilon", "lambda", "mu", "rho", "sigma", "tau", "theta"),
        "αβγδελμρστθ",
        strict=True,
    )
)
_NAME = rf"(?:{'|'.join(_GREEK)}|[A-Za-z])"
_SYMBOL = re.compile(
    rf"(?P<d>d(?={_NAME}))?(?P<name>{_NAME})(?:_(?P<index>[A-Za-z0-9]+))?(?P<prime>')?(?![A-Za-z0-9_'])"
)
_TOKEN = re.compile(
    rf"(?P<symbol>(?<![A-Za-z0-9_]){_SYMBOL.pattern})"
    r"|(?P<word>[A-Za-z_][\w']*)|(?P<number>\d+(?:\.\d+)?(?![\w.]))|(?P<bars>\|\|?(?:_(?P<norm>[A-Za-z0-9]))?)"
    r"|(?P<power>\^(?P<exponent>[A-Za-z0-9]))|(?P<operator>[-=+*/()])|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)
_SURE = re.compile(rf"[A-Za-z]_\w|(?<![A-Za-z])[A-Za-z]'|\^|\|.+\||d{_NAME}\w*/d{_NAME}", re.DOTALL)
_SIGNS = {"-": "−", "*": "·"}
_Token = re.Match[str]


def with_formulas(text: str) -> Markup:
    """Return a text, escaped, with its formulas as MathML."""
    parts: list[str] = []
    run: list[_Token] = []
    for token in [*_TOKEN.finditer(text), None]:
        if token is not None and token.lastgroup and not (token["word"] or token["other"]):
            run.append(token)
            continue
        parts.extend(_shown(run))
        run = []
        if token is not None:
            parts.append(escape(token[0]))
    return Markup("").join(Markup(part) for part in parts)


def _shown(run: Sequence[_Token]) -> Iterator[str]:
    """Yield a run as a formula between its spaces, or as the text that it is."""
    first = next((i for i, token in enumerate(run) if not token["space"]), len(run))
    last = next((i for i in range(len(run), first, -1) if not run[i - 1]["space"]), first)
    inner = run[first:last]
    text = "".join(token[0] for token in inner)
    yield escape("".join(token[0] for token in run[:first]))
    yield f"<math>{''.join(_rows(inner))}</math>" if _SURE.search(text) else escape(text)
    yield escape("".join(token[0] for token in run[last:]))


def _rows(tokens: Sequence[_Token]) -> list[str]:
    """Return the elements of a formula; a quotient takes the element or the bracket on either side of its stroke."""
    done: list[str] = []
    open_at: list[int] = []
    stroke = -1
    for token in tokens:
        if token["space"]:
            continue
        if token[0] == "/" and done:
            stroke = len(done)
            continue
        if token["power"]:
            done[-1:] = [f"<msup>{done[-1] if done else '<mi></mi>'}{_letter(token['exponent'])}</msup>"]
            continue
        done.append(_element(token))
        if token[0] == "(":
            open_at.append(len(done) - 1)
        elif token[0] == ")" and open_at:
            begin = open_at.pop()
            done[begin:] = [f"<mrow>{''.join(done[begin:])}</mrow>"]
        if stroke >= 0 and not [begin for begin in open_at if begin >= stroke]:
            top, bottom = (_bare(part) for part in (done[stroke - 1], done[stroke]))
            done[stroke - 1 :] = [f"<mfrac>{top}{bottom}</mfrac>"]
            stroke = -1
    if stroke >= 0:
        # Nothing stands behind the stroke, or a bracket that never closes.
        done.insert(stroke, "<mo>/</mo>")
    return done


def _bare(element: str) -> str:
    """Take the brackets from a whole bracket: the fraction's bar stands for them."""
    inner = element.removeprefix("<mrow><mo>(</mo>").removesuffix("<mo>)</mo></mrow>")
    return element if inner == element or "<mo>(" in inner else f"<mrow>{inner}</mrow>"


def _element(token: _Token) -> str:
    if token["symbol"]:
        return _symbol(token)
    if token["number"]:
        return f"<mn>{token[0]}</mn>"
    if token["bars"]:
        bars = f'<mo stretchy="false">{"‖" if token[0].startswith("||") else "|"}</mo>'
        return f"<msub>{bars}{_letter(token['norm'])}</msub>" if token["norm"] else bars
    return f"<mo>{_SIGNS.get(token[0], token[0])}</mo>"


def _symbol(token: _Token) -> str:
    name = _letter(token["name"])
    if token["index"]:
        name = f"<msub>{name}{_letter(token['index'])}</msub>"
    if token["prime"]:
        name = f"<msup>{name}<mo>′</mo></msup>"
    return f"<mrow><mo>∂</mo>{name}</mrow>" if token["d"] else name


def _letter(text: str) -> str:
    return f"<mn>{text}</mn>" if text.isdigit() else f"<mi>{_GREEK.get(text, text)}</mi>"
