"""Vega-Lite specifications made with altair: data inside, as wide as their place, no colours of their own.

Colours, fonts and line styles come from the page's theme (``assets/page.js``), which knows light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

HEIGHT = 240
# Names of mark styles that the page's theme gives a colour.
REFERENCE, REFERENCE_TEXT = "reference", "reference-text"


def require_altair() -> None:
    """Checks for what charts need.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    for module in ("altair", "vl_convert"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"A report needs {module}: pip install 'corral[report]'", name=module)


def inline(rows: Iterable[Mapping[str, object]]) -> Any:
    """Rows as data inside a chart; NaN and infinities, which JSON lacks, become null."""
    import altair

    return altair.InlineData(
        values=[
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for row in rows
        ]
    )


def specification(chart: Any, label: str, height: int = HEIGHT) -> dict[str, Any]:
    """The chart as JSON types, as wide as its container, without altair's own theme."""
    spec: dict[str, Any] = chart.properties(width="container", height=height, description=label).to_dict()
    spec.pop("config", None)
    return spec


def lines(
    rows: Sequence[Mapping[str, object]],
    x: str,
    y: str,
    colour: str | None = None,
    *,
    label: str,
    x_title: str,
    y_title: str,
    whole_x: bool = False,
    points: bool = True,
    log: bool = False,
    log_x: bool = False,
    reference: tuple[float, str] | None = None,
    height: int = HEIGHT,
) -> dict[str, Any]:
    """Lines of ``y`` against ``x``, one a value of ``colour``.

    Args:
        rows: the data.
        x: column of numbers.
        y: column of numbers.
        colour: column of names, shown in the legend in their first order.
        label: what the chart says, in words.
        x_title: name of the axis.
        y_title: name of the axis.
        whole_x: x counts something: no ticks between whole numbers.
        points: mark each point.
        log: both axes logarithmic.
        log_x: the x axis alone.
        reference: a place on x to mark with a line, and its words.
        height: in pixels.
    """
    import altair

    values = [float(str(row[x])) for row in rows]
    if log:
        scale, y_scale = altair.Scale(type="log", nice=False), altair.Scale(type="log")
        powers = altair.Axis(format="~s", values=[10**power for power in range(10)])
        axis, y_axis = powers, powers
    else:
        # A lone value has no range of its own: show it above zero.
        y_scale = altair.Scale(zero=len(set(values)) < 2)
        scale, axis, y_axis = altair.Scale(zero=False, nice=not whole_x), altair.Axis(), altair.Axis()
        if whole_x:
            axis = altair.Axis(format="d", tickMinStep=1)
            if values and max(values) - min(values) <= 12:
                axis = altair.Axis(format="d", values=sorted({round(value) for value in values}))
        if log_x:
            scale = altair.Scale(type="log", nice=False)
            axis = altair.Axis(format="~s", values=[step * 10**power for power in range(10) for step in (1, 2, 5)])
    tooltip = [
        altair.Tooltip(x, type="quantitative", title=x_title),
        altair.Tooltip(y, type="quantitative", title=y_title, format=".4~g"),
    ]
    encoding: dict[str, Any] = {
        "x": altair.X(x, type="quantitative", title=x_title, scale=scale, axis=axis),
        "y": altair.Y(y, type="quantitative", title=y_title, scale=y_scale, axis=y_axis),
        "tooltip": tooltip,
    }
    if colour is not None:
        names = list(dict.fromkeys(str(row[colour]) for row in rows))
        encoding["color"] = altair.Color(
            colour,
            type="nominal",
            title=None,
            sort=names,
            legend=altair.Legend(symbolType="stroke", symbolStrokeWidth=3),
        )
        tooltip.insert(0, altair.Tooltip(colour, type="nominal", title="line"))
    mark = altair.Chart(inline(rows)).mark_line(point=points).encode(**encoding)
    layers = [mark]
    if reference is not None:
        place, words = reference
        ends = (min(values), max(values)) if values else (0.0, 0.0)
        mid = math.sqrt(ends[0] * ends[1]) if log or log_x else (ends[0] + ends[1]) / 2.0
        data = inline([{x: place, "words": words}])
        at = altair.X(x, type="quantitative")
        right = place <= mid
        layers.append(altair.Chart(data).mark_rule(style=REFERENCE).encode(at))
        layers.append(
            altair.Chart(data)
            .mark_text(
                style=REFERENCE_TEXT,
                align="left" if right else "right",
                dx=5 if right else -5,
                baseline="bottom",
            )
            .encode(at, altair.Text("words", type="nominal"), y=altair.value(height - 6))
        )
    return specification(altair.layer(*layers), label, height)


def heat_map(
    rows: Sequence[Mapping[str, object]],
    x: str,
    y: str,
    value: str,
    *,
    label: str,
    x_title: str,
    y_title: str,
    value_title: str,
    percent: bool = False,
    height: int = 300,
) -> dict[str, Any]:
    """One coloured cell a row, in the order of the rows: ``x`` from left to right, ``y`` from top to bottom.

    Args:
        rows: the data.
        x: column of names.
        y: column of names.
        value: column of numbers.
        label: what the chart says, in words.
        x_title: name of the axis.
        y_title: name of the axis.
        value_title: what the colour means.
        percent: values are shares of one.
        height: in pixels.
    """
    import altair

    across, down = (list(dict.fromkeys(str(row[name]) for row in rows)) for name in (x, y))
    form = ".0%" if percent else ".3~g"
    axis = altair.Axis(labelLimit=150, labelAngle=-40, labelOverlap=False)
    chart = (
        altair.Chart(inline(rows))
        .mark_rect()
        .encode(
            altair.X(x, type="nominal", title=x_title, sort=across, axis=axis),
            altair.Y(y, type="nominal", title=y_title, sort=down, axis=altair.Axis(labelLimit=200)),
            altair.Color(value, type="quantitative", title=value_title, legend=altair.Legend(format=form)),
            tooltip=[
                altair.Tooltip(y, type="nominal", title=y_title),
                altair.Tooltip(x, type="nominal", title=x_title),
                altair.Tooltip(value, type="quantitative", title=value_title, format=".1%" if percent else ".4~g"),
            ],
        )
    )
    return specification(chart, label, height)


def bars(
    rows: Sequence[Mapping[str, object]],
    name: str,
    value: str,
    colour: str,
    *,
    label: str,
    value_title: str,
    stacked: bool = False,
    percent: bool = False,
) -> dict[str, Any]:
    """Horizontal bars: one line a ``name``, one bar a ``colour``, in the order of the rows.

    Args:
        rows: the data.
        name: column of names, down the left side.
        value: column of numbers, >= 0.
        colour: column of names, shown in the legend.
        label: what the chart says, in words.
        value_title: name of the axis.
        stacked: one behind the other; otherwise one below the other.
        percent: values are shares of one.
    """
    import altair

    names = list(dict.fromkeys(str(row[name]) for row in rows))
    colours = list(dict.fromkeys(str(row[colour]) for row in rows))
    form = ".0%" if percent else ".3~g"
    ordered = [{**row, "_order": colours.index(str(row[colour]))} for row in rows]
    chart = (
        altair.Chart(inline(ordered))
        .mark_bar()
        .encode(
            altair.X(
                value,
                type="quantitative",
                title=value_title,
                axis=altair.Axis(format=form),
                stack="zero" if stacked else None,
            ),
            altair.Y(name, type="nominal", title=None, sort=names, axis=altair.Axis(labelLimit=150)),
            altair.Color(colour, type="nominal", title=None, sort=colours),
            altair.Order("_order", type="quantitative"),
            tooltip=[
                altair.Tooltip(name, type="nominal", title="part"),
                altair.Tooltip(colour, type="nominal", title="what"),
                altair.Tooltip(value, type="quantitative", title=value_title, format=".2%" if percent else ".4~g"),
            ],
        )
    )
    step = 26 if stacked else 14 * max(1, len(colours)) + 8
    if not stacked:
        chart = chart.encode(altair.YOffset(colour, type="nominal", sort=colours))
    return specification(chart, label, max(60, step * len(names)))
