"""How criteria are drawn: a colour and a dash for each, the same on every page."""

import dataclasses

import pandas as pd

_FALLBACK_FAMILY = "other"

# One hue per family after Okabe and Ito's colour-blind-safe palette, told apart within the family by lightness and
# dashes; the second tuple serves dark pages.
_HUES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "control": (("#5f6368", "#8d9196", "#2f3337", "#a9adb2"), ("#c3c7cc", "#8f949a", "#eceef0", "#70757b")),
    "weights": (("#0067a8", "#4b9fdd", "#003b66", "#7fb6e3"), ("#63b8f0", "#2f86c9", "#b9e0fa", "#4a7ba3")),
    "activation": (("#a87400", "#d99a00", "#6b4a00", "#c7a24a"), ("#f0bd45", "#bd8a12", "#fbe0a0", "#a08040")),
    "gradient": (("#c94f00", "#ef8344", "#843300", "#d97a5a"), ("#ff9152", "#d4661c", "#ffc6a3", "#b56a45")),
    "attribution": (("#00805c", "#31b98f", "#004d38", "#6f9f3a"), ("#35cb9c", "#129a70", "#a4ecd3", "#9dc55f")),
    _FALLBACK_FAMILY: (("#9b4a86", "#cc79a7", "#5f2751", "#b58ac0"), ("#e39dc9", "#b8679a", "#f5cfe4", "#9a78b5")),
}
_DASHES = ((1, 0), (6, 3), (2, 2), (9, 3, 2, 3))


@dataclasses.dataclass(frozen=True)
class Style:
    """How one criterion is drawn on every page.

    Attributes:
        criterion: displayed name.
        family: its family if it has a hue of its own, else `other`.
        light: colour on light pages.
        dark: colour on dark pages.
        dash: stroke and gap lengths.
    """

    criterion: str
    family: str
    light: str
    dark: str
    dash: tuple[int, ...]


def family_class(family: str) -> str:
    """Return the family whose hue a criterion takes."""
    return family if family in _HUES else _FALLBACK_FAMILY


def styles(rows: pd.DataFrame) -> tuple[Style, ...]:
    """Give every criterion of a table its colour and dash, grouped by family and sorted by name within."""
    pairs = rows[["criterion", "criterion_family"]].drop_duplicates("criterion").astype(str)
    members: dict[str, list[str]] = {family: [] for family in _HUES}
    for criterion, family in pairs.sort_values(["criterion", "criterion_family"]).itertuples(index=False):
        members[family_class(family)].append(criterion)
    answer: list[Style] = []
    for family, names in members.items():
        light, dark = _HUES[family]
        for i, name in enumerate(names):
            # Beyond one round of hues the dashes shift, so that sixteen members still differ.
            dash = _DASHES[(i + i // len(light)) % len(_DASHES)]
            answer.append(Style(name, family, light[i % len(light)], dark[i % len(dark)], dash))
    return tuple(answer)
