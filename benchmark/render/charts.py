"""Vega-Lite specifications of every kind of chart; the page's script fills in data, names and colours.

A list of one name that begins with `@`, and a text of such a name, stand for what the script puts there: `["@names"]`
for the names that are drawn in colour, `["@colours"]` and `["@dashes"]` for how, `@x` and `@y` for titles of axes, and
so on.
"""

import functools
from typing import Any

import altair as alt

_Layers = alt.LayerChart | alt.FacetChart  # what altair says that its `layer` may return
_DIMMED = "#8a929b"
_HEAT = alt.Scale(scheme="teals", reverse=True, domain=["@least", "@most"])
_SHARE = alt.Scale(scheme="oranges", domain=[0, 1])


@functools.cache
def chart_templates() -> dict[str, dict[str, Any]]:
    """Return the specifications by kind: `curve`, `shots`, `cost`, `heat`, `layers` and `ranks`."""
    return {
        "curve": _template(_curve(), height=300),
        "shots": _template(_shots(), height=300),
        "cost": _template(_cost(), height=320),
        "heat": _template(_heat(), height="@height"),
        "layers": _template(_layers(), height="@height"),
        "ranks": _template(_ranks(), height="@height"),
    }


def _template(chart: _Layers | alt.Chart, height: int | str) -> dict[str, Any]:
    spec: dict[str, Any] = chart.properties(width="container", description="@description").to_dict()
    spec.pop("config", None)
    spec.pop("$schema", None)
    return spec | {"height": height, "autosize": {"type": "fit-x", "contains": "padding"}}


def _data(name: str) -> alt.Chart:
    return alt.Chart(alt.NamedData(name=name))


def _colour() -> alt.Color:
    scale = alt.Scale(domain=["@names"], range=["@colours"])
    return alt.Color("name:N", sort=None, scale=scale, legend=_legend())


def _legend() -> alt.Legend:
    return alt.Legend(
        title=None, orient="bottom", symbolType="stroke", symbolSize=260, symbolStrokeWidth=2.4, symbolOpacity=1
    )


def _lines(x: alt.X, y: alt.Y, tooltip: list[alt.Tooltip]) -> list[alt.Chart]:
    """Return dimmed lines for the context, bands and lines in colour, and points that answer to the pointer."""
    dashes = alt.StrokeDash(
        "name:N", sort=None, scale=alt.Scale(domain=["@names"], range=["@dashes"]), legend=_legend()
    )
    # Names of views and parameters are given because Altair counts unnamed ones through the process.
    hover = alt.selection_point(
        name="hover", fields=["name", "x"], nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    context = (
        _data("context")
        .mark_line(strokeWidth=1, color=_DIMMED, opacity=0.4, clip=True)
        .encode(x=x, y=y, detail="name:N")
        .properties(name="context")
    )
    bands = (
        _data("drawn")
        .mark_area(opacity=0.15, clip=True)
        .encode(x=x, y=alt.Y("low:Q", title="@y"), y2="high:Q", color=_colour())
        .properties(name="bands")
    )
    lines = (
        _data("drawn")
        .mark_line(strokeWidth=2, clip=True)
        .encode(x=x, y=y, color=_colour(), strokeDash=dashes)
        .properties(name="lines")
    )
    dots = (
        _data("all")
        .mark_point(filled=True, size=50, clip=True, color=_DIMMED)
        .encode(x=x, y=y, opacity=alt.when(hover).then(alt.value(1)).otherwise(alt.value(0)), tooltip=tooltip)
        .properties(name="dots")
        .add_params(hover)
    )
    return [context, bands, lines, dots]


def _tooltip(x: alt.Tooltip, y: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("name:N", title="criterion"),
        x,
        alt.Tooltip("y:Q", title=y, format=".2%"),
        alt.Tooltip("interval:N", title="95 % interval"),
    ]


def _curve() -> _Layers:
    x = alt.X("x:Q", title="@x", axis=alt.Axis(format="%", tickCount=10), scale=alt.Scale(domain=[0, 1], nice=False))
    y = alt.Y("y:Q", title="@y", axis=alt.Axis(format="%", tickCount=6), scale=alt.Scale(domain=["@bottom", 1]))
    threshold = _data("threshold").mark_rule(strokeDash=[1, 3], color=_DIMMED).encode(y="y:Q")
    tooltip = _tooltip(alt.Tooltip("rate:Q", title="units removed", format=".0%"), "top-1 accuracy")
    tooltip[2:2] = [
        alt.Tooltip("params:N", title="parameters left"),
        alt.Tooltip("macs:N", title="MACs left"),
    ]
    return alt.layer(threshold.properties(name="threshold"), *_lines(x, y, tooltip))


def _shots() -> _Layers:
    axis = alt.Axis(values=["@ticks"], format="d", grid=False)
    x = alt.X("x:Q", title="@x", scale=alt.Scale(type="symlog", nice=False), axis=axis)
    y = alt.Y("y:Q", title="@y", axis=alt.Axis(format="%", tickCount=6), scale=alt.Scale(zero=False))
    return alt.layer(*_lines(x, y, _tooltip(alt.Tooltip("x:Q", title="images per class"), "A_PR")))


def _cost() -> _Layers:
    x = alt.X("x:Q", title="@x", scale=alt.Scale(type="log", nice=False, padding=24), axis=alt.Axis(format="~g"))
    y = alt.Y("y:Q", title="@y", axis=alt.Axis(format="%", tickCount=6), scale=alt.Scale(zero=False, padding=16))
    tooltip = [
        alt.Tooltip("name:N", title="criterion"),
        alt.Tooltip("x:Q", title="seconds of scoring", format=".3~g"),
        alt.Tooltip("y:Q", title="A_PR", format=".2%"),
        alt.Tooltip("interval:N", title="95 % interval"),
    ]
    front = (
        _data("front")
        .mark_line(interpolate="step-after", color=_DIMMED, strokeDash=[3, 3], strokeWidth=1.2)
        .encode(x=x, y=y)
    )
    dots = (
        _data("all")
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=x, y=y, color=alt.Color("colour:N", scale=None), tooltip=tooltip)
    )
    text: dict[str, Any] = {"dy": -6, "fontSize": 11, "color": "@text"}
    right = _data("right").mark_text(align="left", dx=8, **text).encode(x=x, y=y, text="name:N")
    left = _data("left").mark_text(align="right", dx=-8, **text).encode(x=x, y=y, text="name:N")
    return alt.layer(
        front.properties(name="front"),
        dots.properties(name="dots"),
        right.properties(name="right"),
        left.properties(name="left"),
    )


def _heat() -> _Layers:
    x = alt.X(
        "column:N", sort=None, title=None, axis=alt.Axis(orient="top", labelLimit=170, labelOverlap=False, ticks=False)
    )
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=190, ticks=False))
    colour = alt.Color(
        "behind:Q",
        title="behind the best of the column",
        scale=_HEAT,
        legend=alt.Legend(format=".0%", orient="bottom", gradientLength=220, gradientThickness=10, titleLimit=320),
    )
    tooltip = [
        alt.Tooltip("name:N", title="criterion"),
        alt.Tooltip("column:N", title="network"),
        alt.Tooltip("value:Q", title="A_PR", format=".2%"),
        alt.Tooltip("behind:Q", title="behind the best", format=".2%"),
    ]
    cells = _data("all").mark_rect(stroke="@page", strokeWidth=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
    ink = alt.when("datum.dark").then(alt.value("#ffffff")).otherwise(alt.value("#10262b"))
    numbers = _data("all").mark_text(fontSize=11).encode(x=x, y=y, text=alt.Text("value:Q", format=".1%"), color=ink)
    return alt.layer(cells.properties(name="cells"), numbers.properties(name="numbers"))


def _layers() -> alt.Chart:
    x = alt.X("layer:N", sort=None, title="@x", axis=alt.Axis(labelAngle=-45, labelLimit=240, labelOverlap=True))
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=190, ticks=False))
    colour = alt.Color(
        "removed:Q",
        title="units of the layer removed",
        scale=_SHARE,
        legend=alt.Legend(format=".0%", orient="bottom", gradientLength=220, gradientThickness=10, titleLimit=320),
    )
    tooltip = [
        alt.Tooltip("name:N", title="criterion"),
        alt.Tooltip("layer:N", title="layer"),
        alt.Tooltip("units:Q", title="units"),
        alt.Tooltip("removed:Q", title="removed", format=".0%"),
    ]
    cells: alt.Chart = (
        _data("all")
        .mark_rect(stroke="@page", strokeWidth=0.5)
        .encode(x=x, y=y, color=colour, tooltip=tooltip)
        .properties(name="cells")
    )
    return cells


def _ranks() -> _Layers:
    x = alt.X("rank:Q", title="@x", scale=alt.Scale(zero=False, nice=True, padding=8), axis=alt.Axis(orient="top"))
    order = alt.Scale(domain=["@order"])
    y = alt.Y("name:N", sort=None, scale=order, title=None, axis=alt.Axis(labelLimit=190, ticks=False))
    cliques = (
        _data("cliques")
        .mark_rule(strokeWidth=5, strokeCap="round", opacity=0.55, color=_DIMMED)
        .encode(x=alt.X("place:Q"), y=alt.Y("first:N", sort=None, scale=order), y2="last:N")
    )
    dots = (
        _data("all")
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("colour:N", scale=None),
            tooltip=[
                alt.Tooltip("name:N", title="criterion"),
                alt.Tooltip("rank:Q", title="mean rank", format=".2f"),
            ],
        )
    )
    return alt.layer(cliques.properties(name="cliques"), dots.properties(name="dots"))
