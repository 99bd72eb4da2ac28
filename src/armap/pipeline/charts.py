"""Charts as inline SVG, for a page without scripts.

Text is always passed to `element`, which escapes it. Colours, fonts and line styles come from the page's style sheet:
series are the classes `series-0`, `series-1`, ... in the order in which they are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from armap.types import Interval

# In units of the drawing, which are about CSS pixels where the page is wide.
_WIDTH, _HEIGHT = 440, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 22, 34, 48
_LEAST_TICK_DISTANCE = 24
_MOST_MARKED_POINTS = 20
_BINS = 24


class Series(NamedTuple):
    """A named line."""

    name: str
    """For the legend."""
    points: Sequence[tuple[float, float]]
    """From left to right."""


class Axis(NamedTuple):
    """What one direction of a chart means; it reaches from the first tick to the last."""

    label: str
    """Quantity and unit."""
    ticks: Sequence[float]
    """Two or more rising values."""
    percent: bool = False
    """Whether the values are shares."""
    logarithmic: bool = False
    """Whether equal distances are equal ratios; all ticks are positive then."""

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies, from 0 to 1."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def text(self, value: float) -> str:
        """Return a value in words."""
        return f"{100 * value:.3g} %" if self.percent else f"{value:.4g}"


def element(tag: str, *children: str | Element, **attributes: str | float) -> Element:
    """Return an element with text and elements inside, all of it escaped when it is rendered.

    Args:
        tag: its name.
        children: what is inside, in order.
        attributes: underscores stand for hyphens, and one at the end is dropped, as in `class_`.
    """
    texts = {
        name.rstrip("_").replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    made = Element(tag, texts)
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def captioned(chart: Element, caption: str) -> Element:
    """Return a chart with a text under it."""
    return element("figure", chart, element("figcaption", caption))


def linear_axis(label: str, values: Iterable[float], *, percent: bool = False) -> Axis:
    """Return an axis over one or more values with round ticks, some six of them."""
    values = list(values)
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5
    magnitude = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(
        magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor * 6 >= (high - low) * (1 - 1e-9)
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, [round(step * i, 12) for i in range(first, max(last, first + 1) + 1)], percent=percent)


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Element:
    """Draw lines that share their axes."""
    chart = _frame(title, [line.name for line in series], x, y)
    for number, line in enumerate(series):
        places = [(_across(x, left), _up(y, height)) for left, height in line.points]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
        chart.append(element("polyline", class_=f"line series-{number}", points=path))
        if len(places) <= _MOST_MARKED_POINTS:
            for (left, top), (at, value) in zip(places, line.points, strict=True):
                told = element("title", f"{line.name}, {x.label} {x.text(at)}: {y.text(value)}")
                chart.append(element("circle", told, class_=f"mark series-{number}", cx=left, cy=top, r=3))
    return chart


def scatter(title: str, points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> Element:
    """Draw points, and a line at 0 in either direction."""
    chart = _frame(title, [], x, y)
    left, right, top, bottom = _across(x, x.ticks[0]), _across(x, x.ticks[-1]), _up(y, y.ticks[-1]), _up(y, y.ticks[0])
    if 0 <= x.share(0) <= 1:
        chart.append(element("line", class_="axis", x1=_across(x, 0), y1=top, x2=_across(x, 0), y2=bottom))
    if 0 <= y.share(0) <= 1:
        chart.append(element("line", class_="axis", x1=left, y1=_up(y, 0), x2=right, y2=_up(y, 0)))
    for at, value in points:
        told = element("title", f"{x.text(at)}: {y.text(value)}")
        chart.append(element("circle", told, class_="dot", cx=_across(x, at), cy=_up(y, value), r=3))
    return chart


def histogram(title: str, groups: Mapping[str, Sequence[float]], x_label: str) -> Element:
    """Draw how the values of each group are distributed, as shares of the group so that sizes do not matter.

    Args:
        title: what is shown.
        groups: one or more values each.
        x_label: what the values are.
    """
    x = linear_axis(x_label, (value for values in groups.values() for value in values))
    edges = np.linspace(x.ticks[0], x.ticks[-1], _BINS + 1)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in groups.items()}
    y = linear_axis("share of the group", (0.0, max(float(share.max()) for share in shares.values())), percent=True)
    chart = _frame(title, [f"{name} ({len(values)})" for name, values in groups.items()], x, y)
    for number, share in enumerate(shares.values()):
        outline = [(edges[0], 0.0)]
        for low, high, height in zip(edges[:-1], edges[1:], share, strict=True):
            outline += [(low, height), (high, height)]
        outline.append((edges[-1], 0.0))
        path = " ".join(f"{_across(x, left):.1f},{_up(y, height):.1f}" for left, height in outline)
        chart.append(element("polygon", class_=f"area series-{number}", points=path))
    return chart


def interval_mark(interval: Interval) -> Element:
    """Draw an interval of shares on a line from 0 to 100 %, small enough for a table."""
    low, mean, high = (4 + 112 * min(max(value, 0.0), 1.0) for value in (interval.low, interval.mean, interval.high))
    return element(
        "svg",
        element("line", class_="rail", x1=4, y1=8, x2=116, y2=8),
        element("line", class_="whisker", x1=low, y1=8, x2=high, y2=8),
        element("circle", class_="estimate", cx=mean, cy=8, r=4),
        class_="interval",
        viewBox="0 0 120 16",
        aria_hidden="true",
    )


def count_bar(count: int, most: int) -> Element:
    """Draw a count as a bar whose full width is `most`."""
    return element(
        "svg",
        element("rect", class_="bar", x=0, y=0, width=100 * count / max(most, 1), height=8),
        class_="count",
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _frame(title: str, names: Sequence[str], x: Axis, y: Axis) -> Element:
    """Draw what all charts have: axes, ticks, labels and the legend."""
    chart = element(
        "svg", element("title", title), class_="chart", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=title
    )
    for number, name in enumerate(names):
        start = _LEFT + number * (_WIDTH - _LEFT - _RIGHT) // len(names)
        chart.append(element("line", class_=f"line series-{number}", x1=start, y1=14, x2=start + 22, y2=14))
        chart.append(element("text", name, x=start + 28, y=18))
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in y.ticks:
        top = _up(y, value)
        chart.append(element("line", class_="grid", x1=_LEFT, y1=top, x2=right, y2=top))
        chart.append(element("text", y.text(value), x=_LEFT - 7, y=top + 4, text_anchor="end"))
    chart.append(element("line", class_="axis", x1=_LEFT, y1=bottom, x2=right, y2=bottom))
    nearest = math.inf
    for value in reversed(x.ticks):
        left = _across(x, value)
        chart.append(element("line", class_="axis", x1=left, y1=bottom, x2=left, y2=bottom + 4))
        if nearest - left >= _LEAST_TICK_DISTANCE:
            chart.append(element("text", x.text(value), x=left, y=bottom + 18, text_anchor="middle"))
            nearest = left
    middle = (_LEFT + right) / 2
    chart.append(element("text", x.label, class_="label", x=middle, y=_HEIGHT - 8, text_anchor="middle"))
    turned = f"translate(13 {(_TOP + bottom) / 2}) rotate(-90)"
    chart.append(element("text", y.label, class_="label", transform=turned, text_anchor="middle"))
    return chart


def _across(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(float(value)) * (_WIDTH - _LEFT - _RIGHT)


def _up(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.share(float(value)) * (_HEIGHT - _TOP - _BOTTOM)
