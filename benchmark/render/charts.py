"""Vega-Lite charts of a suite: accuracy against the rate of each network, and A_PR against the shots."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
from markupsafe import Markup

_Layers = alt.LayerChart | alt.FacetChart  # what altair says that its `layer` may return
_FALLBACK_FAMILY = "other"
_DIGITS = 6

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
        criterion: registered name.
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


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with the numbers it shows.

    Attributes:
        name: identifier, unique on its page.
        title: heading of the figure.
        caption: sentences under the figure.
        payload: JSON for the page's script, escaped so that it can stand in a script element.
        head: column heads of the table of numbers.
        body: a criterion and its values, in [0, 1] or None, for each line of that table.
        table_caption: what the table of numbers shows.
    """

    name: str
    title: str
    caption: str
    payload: Markup
    head: tuple[str, ...]
    body: tuple[tuple[str, tuple[float | None, ...]], ...]
    table_caption: str


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


def rate_chart(
    points: pd.DataFrame, drawn: Sequence[Style], *, name: str, model: str, unpruned: float, shots: int
) -> Chart:
    """Draw the accuracy of one network against the rate.

    Args:
        points: `stats.curves` by criterion and shots, for this network and granularity.
        drawn: styles of all criteria; those without points are left out.
        name: identifier, unique on its page.
        model: network.
        unpruned: its accuracy at rate 0, in [0, 1].
        shots: number of reference images per class that is shown first.
    """
    seen = _present(points, drawn)
    selected = alt.param(name="shots", value=shots)
    base = alt.Chart(alt.NamedData(name="points")).transform_filter("datum.shots === shots")
    x = alt.X("rate:Q", title="units removed", axis=alt.Axis(format="%", tickCount=10))
    chart = _layers(base, x, seen, points, "rate")
    rule = (
        alt.Chart(alt.NamedData(name="threshold"), name="threshold")
        .mark_rule(strokeDash=[1, 3], color="#888888")
        .encode(y=alt.Y("y:Q"))
    )
    spec = _spec(
        alt.layer(rule, *chart).add_params(selected),
        points,
        ["shots", "rate"],
        f"Top-1 accuracy of {model} against units removed",
    )
    spec["datasets"]["threshold"] = [{"y": round(0.95 * unpruned, _DIGITS)}]
    table = points.loc[points["shots"] == shots]
    rates = sorted(table["rate"].unique())
    return Chart(
        name=name,
        title=model,
        caption=f"Unpruned accuracy {100 * unpruned:.2f} %. The dotted line is 95 % of it, which Top-PR asks for.",
        payload=embed_json({"spec": spec, "colours": _colours(seen), "file": f"{name}"}),
        head=tuple(f"{100 * rate:g} %" for rate in rates),
        body=_body(table, "rate", rates, seen),
        table_caption=f"Top-1 accuracy of {model} in %, mean over seeds, at each rate, with {shots} images per class",
    )


def shots_chart(points: pd.DataFrame, drawn: Sequence[Style], *, name: str) -> Chart:
    """Draw A_PR against the number of reference images per class.

    Args:
        points: `stats.curves` by criterion along the axis `shots`, for one granularity.
        drawn: styles of all criteria; those without points are left out.
        name: identifier, unique on its page.
    """
    seen = _present(points, drawn)
    shots = [int(value) for value in sorted(points["shots"].unique())]
    scale = alt.Scale(type="log" if shots[0] > 0 else "symlog", nice=False)
    axis = alt.Axis(values=shots, format="d", grid=False)
    x = alt.X("shots:Q", title="reference images per class", scale=scale, axis=axis)
    chart = _layers(alt.Chart(alt.NamedData(name="points")), x, seen, points, "shots")
    return Chart(
        name=name,
        title="All networks",
        caption="A_PR, mean over the networks above.",
        payload=embed_json(
            {
                "spec": _spec(alt.layer(*chart), points, ["shots"], "A_PR against reference images per class"),
                "colours": _colours(seen),
                "file": name,
            }
        ),
        head=tuple(map(str, shots)),
        body=_body(points, "shots", shots, seen),
        table_caption="A_PR in %, mean over networks and seeds, at each number of images per class",
    )


def embed_json(value: Any) -> Markup:
    """Serialise a value so that it can stand inside a script element, whatever strings it holds."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _layers(base: alt.Chart, x: alt.X, seen: Sequence[Style], points: pd.DataFrame, axis: str) -> list[alt.Chart]:
    """Return bands (if there are intervals), lines and hover points, with a legend that highlights."""
    names = [style.criterion for style in seen]
    legend = alt.Legend(
        title=None,
        orient="bottom",
        symbolType="stroke",
        symbolSize=260,
        symbolOpacity=1,
        symbolStrokeWidth=2,
        labelLimit=170,
    )
    # Names of views and parameters are given because Altair counts unnamed ones through the process.
    highlight = alt.selection_point(name="highlight", fields=["criterion"], bind="legend")
    hover = alt.selection_point(
        name="hover", fields=["criterion", axis], nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    y = alt.Y("mean:Q", title="top-1 accuracy" if axis == "rate" else "A_PR", axis=alt.Axis(format="%", tickCount=6))
    y = y.scale(domain=[0, 1]) if axis == "rate" else y.scale(zero=False)
    colour = alt.Color("criterion:N", sort=None, scale=alt.Scale(domain=names, range="category"), legend=legend)
    dashes = alt.Scale(domain=names, range=[list(style.dash) for style in seen])
    lines = (
        base.mark_line(strokeWidth=1.8, interpolate="linear")
        .encode(
            x=x,
            y=y,
            color=colour,
            strokeDash=alt.StrokeDash("criterion:N", sort=None, scale=dashes, legend=legend),
            opacity=alt.when(highlight).then(alt.value(1)).otherwise(alt.value(0.1)),
        )
        .properties(name="lines")
        .add_params(highlight)
    )
    tooltip = [
        alt.Tooltip("criterion:N"),
        alt.Tooltip(f"{axis}:Q", title="units removed", format=".0%")
        if axis == "rate"
        else alt.Tooltip("shots:Q", title="images per class"),
        alt.Tooltip("mean:Q", title="accuracy" if axis == "rate" else "A_PR", format=".2%"),
        alt.Tooltip("low:Q", title="95 % interval from", format=".2%"),
        alt.Tooltip("high:Q", title="to", format=".2%"),
    ]
    dots = (
        base.mark_point(filled=True, size=55)
        .encode(
            x=x,
            y=y,
            color=colour,
            opacity=alt.when(hover).then(alt.value(1)).otherwise(alt.value(0)),
            tooltip=tooltip if points["low"].notna().any() else tooltip[:3],
        )
        .properties(name="dots")
        .add_params(hover)
    )
    if not points["low"].notna().any():
        return [lines, dots]
    bands = (
        base.mark_area(interpolate="linear", clip=True)
        .encode(
            x=x,
            y=alt.Y("low:Q"),
            y2=alt.Y2("high:Q"),
            color=colour,
            opacity=alt.when(highlight).then(alt.value(0.14)).otherwise(alt.value(0)),
        )
        .properties(name="bands")
    )
    return [bands, lines, dots]


def _spec(chart: _Layers, points: pd.DataFrame, axes: list[str], description: str) -> dict[str, Any]:
    spec: dict[str, Any] = chart.properties(width="container", height=300, description=description).to_dict()
    spec.pop("config", None)
    columns = ["criterion", *axes, "mean", "low", "high"]
    numbers = points[columns].round(dict.fromkeys(("mean", "low", "high"), _DIGITS))
    records = numbers.astype(object).where(numbers.notna(), None).to_dict("records")
    spec["datasets"] = {"points": records}
    return spec


def _present(points: pd.DataFrame, drawn: Sequence[Style]) -> list[Style]:
    names = set(points["criterion"])
    return [style for style in drawn if style.criterion in names]


def _colours(seen: Sequence[Style]) -> dict[str, list[str]]:
    return {"light": [style.light for style in seen], "dark": [style.dark for style in seen]}


def _body(
    points: pd.DataFrame, axis: str, values: Sequence[float], seen: Sequence[Style]
) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    known = {(str(c), v): float(m) for c, v, m in points[["criterion", axis, "mean"]].itertuples(index=False)}
    return tuple((s.criterion, tuple(known.get((s.criterion, value)) for value in values)) for s in seen)
