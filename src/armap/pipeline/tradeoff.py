"""Sets out sweeps as tables and charts: what an objective buys at every weight, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from armap.pipeline.charts import Series, element, line_chart, linear_axis
from armap.types import Interval, Sweep, Sweeps


def sweep_table(swept: Sweep) -> Table:
    """Return a sweep as a table for the terminal."""
    table = Table(
        title=Text(f"{swept.objective}, over the candidates of {swept.searches} for {swept.tasks} tasks"),
        title_justify="left",
        caption="Below estimates: 95 % intervals. Difference: to the answer of the highest score, paired by task.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in _headings(swept):
        table.add_column(heading, justify="right")
    for cells in _rows(swept):
        table.add_row(*map(Text, cells))
    return table


def tradeoffs(sweeps: Sweeps | None) -> Iterator[Element]:
    """Yield a section with every sweep of a run, or nothing if there is none."""
    if sweeps is None:
        return
    yield element(
        "section",
        element("h2", "Objectives"),
        element("p", _NOTE, class_="note"),
        *(part for swept in sweeps.by_objective.values() for part in _sweep(swept)),
    )


_NOTE = (
    "Each weight W chooses anew among the same candidates, without a new call. Reward is what the environment pays for "
    "the answer, averaged over tasks; the difference is to the answer of the highest score, paired by task; below "
    "each: its 95 % bootstrap interval. Metrics are means over the answers that have them."
)


def _sweep(swept: Sweep) -> Iterator[Element]:
    yield element("h3", f"{swept.objective} ({swept.searches}, {swept.tasks} tasks)")
    head = element("thead", element("tr", *(element("th", heading, scope="col") for heading in _headings(swept))))
    rows = [element("tr", *(element("td", element("span", cell)) for cell in cells)) for cells in _rows(swept)]
    yield element("div", element("table", head, element("tbody", *rows)), class_="scroll")
    if len(swept.points) > 1:
        yield element("div", *_charts(swept), class_="charts")


def _charts(swept: Sweep) -> Iterator[Element]:
    rewards = [(point.weight, point.env_reward.mean) for point in swept.points]
    yield _chart(swept, "environment reward", rewards)
    for metric in _metrics(swept):
        known = [
            (point.weight, point.answer_metrics[metric]) for point in swept.points if metric in point.answer_metrics
        ]
        yield _chart(swept, metric, known)


def _chart(swept: Sweep, quantity: str, points: Sequence[tuple[float, float]]) -> Element:
    x = linear_axis("weight W", [point.weight for point in swept.points])
    y = linear_axis(quantity, [0.0, *(value for _, value in points)])
    title = f"{quantity} against the weight in {swept.objective}"
    return element(
        "figure",
        line_chart(title, [Series(quantity, points)], x, y),
        element("figcaption", title[:1].upper() + title[1:]),
    )


def _metrics(swept: Sweep) -> list[str]:
    return sorted({metric for point in swept.points for metric in point.answer_metrics})


def _headings(swept: Sweep) -> list[str]:
    return ["W", "Reward", "Difference", *_metrics(swept), "Changed"]


def _rows(swept: Sweep) -> list[list[str]]:
    return [
        [
            f"{point.weight:g}",
            _interval(point.env_reward, ""),
            _interval(point.difference, "+"),
            *(_mean(point.answer_metrics.get(metric)) for metric in _metrics(swept)),
            f"{100 * point.changed_share:.0f} %",
        ]
        for point in swept.points
    ]


def _mean(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _interval(interval: Interval, sign: str) -> str:
    return f"{interval.mean:{sign}.3f}\n{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"
