"""Sets out how far a reward model can be trusted: a table for the terminal, and a section of a page with its charts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from xml.etree.ElementTree import Element

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from armap.pipeline.charts import Axis, Series, captioned, element, interval_mark, line_chart, linear_axis, scatter
from armap.pipeline.figures import success_figure
from armap.pipeline.page import terms
from armap.pipeline.success_by_n import search_verdict
from armap.types import Interval, JudgeReport, ProbeResult


def judge_table(report: JudgeReport) -> Table:
    """Return a report as a table for the terminal, 80 characters wide."""
    table = Table(
        title=Text(f"{report.reward_model} on {_pairs(report)}"),
        title_justify="left",
        caption="In brackets: 95 % intervals over source tasks.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_header=False,
    )
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    for heading, rows in _groups(report):
        table.add_row(Text(heading, style="bold"), "")
        for row in rows:
            table.add_row(Text(f"  {row.name}"), Text(row.value))
    return table


def judge_sections(report: JudgeReport) -> Iterator[Element]:
    """Yield the section of a page about a reward model."""
    charts = [_reliability_figure(report), _length_figure(report)]
    if len(report.success_by_n) > 1:
        charts.append(success_figure(report.success_by_n))
    yield element(
        "section",
        element("h2", "How far the reward model can be trusted"),
        element("p", f"{report.reward_model}, examined on {_pairs(report)}. {_NOTE}", class_="note"),
        element("div", *charts, class_="charts"),
        *(
            part
            for heading, rows in _groups(report)
            for part in (element("h3", heading), terms({row.name: _drawn(row) for row in rows}))
        ),
    )


_NOTE = (
    "In brackets: 95 % bootstrap intervals over source tasks, and exact ones where all pairs agree. A margin is the "
    "difference of the two scores of a pair; probabilities are made of margins by a temperature that was fitted to "
    "pairs of other source tasks than those they are checked on. Correlations are Spearman's, of differences within "
    "pairs; that with the label is what a perfect judge would show on these pairs. Pairs flip where the winner "
    "becomes another; a text that begs for a high score is put into the rejected trajectory of pairs that were "
    "judged rightly without it. As if unread are pairs whose scores did not change at all."
)


def _pairs(report: JudgeReport) -> str:
    kind = "held-out " if report.held_out else ""
    return f"{report.pairs} {kind}preference pairs of {report.source_tasks} source tasks"


class _Row(NamedTuple):
    """Something that was found out."""

    name: str
    value: str
    share: Interval | None = None
    """The same as numbers, where it is a share."""


def _groups(report: JudgeReport) -> Iterator[tuple[str, list[_Row]]]:
    """Yield headings, each with what was found out under it."""
    accuracies = [("all", report.accuracy)]
    accuracies += [(f"rejected by {origin}", share) for origin, share in report.accuracy_by_origin.items()]
    accuracies += [(f"environment {env}", share) for env, share in report.accuracy_by_env.items()]
    if report.accuracy_unfinished:
        accuracies.append(("unfinished, halfway", report.accuracy_unfinished))
    yield "Pairwise accuracy", [_share(name, share) for name, share in accuracies]
    temperature = "none: margins say nothing" if report.temperature is None else f"{report.temperature:.3g}"
    yield (
        "Probabilities from margins",
        [
            _Row("temperature", temperature),
            _Row("expected calibration error", _percent(report.calibration_error)),
            _Row("the same at temperature 1", _percent(report.uncalibrated_error)),
        ],
    )
    biases = {unit: report.length.get(unit) for unit in ("characters", "steps")}
    yield (
        "Correlation within pairs of the score with",
        [
            _Row(unit, f"{bias.score:+.2f} (label {bias.label:+.2f})" if bias else "none: both sides have as many")
            for unit, bias in biases.items()
        ],
    )
    yield "Pairs that flip", [_share("scored in the opposite order", report.swapped)]
    if report.reworded:
        worded = [_share(one.text, one.flipped) for one in report.reworded]
        yield "Pairs that flip by another wording of the instruction", worded
    if report.injected:
        yield "Pairs that flip by a text in what the rejected side observed", list(map(_probe, report.injected))
    if report.success_by_n:
        points = [
            _Row(f"N = {point.n}", f"{_percent(point.best_of_n)} (ceiling {_percent(point.oracle)})")
            for point in report.success_by_n
        ]
        yield f"Best-of-N: {search_verdict(report.success_by_n)}", points


def _reliability_figure(report: JudgeReport) -> Element:
    measured = [(one.confidence, one.accuracy) for one in report.reliability]
    x = Axis("probability that the higher score is right", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], percent=True)
    y = linear_axis("share that is right", [0.0, 1.0], percent=True)
    series = [Series("measured", measured), Series("perfectly calibrated", [(0.5, 0.5), (1.0, 1.0)])]
    return captioned(
        line_chart("Reliability", series, x, y),
        "Reliability: how often pairs are judged rightly, against how probable their margins say that is. Each mark "
        f"stands for some {report.pairs // len(report.reliability)} pairs.",
    )


def _length_figure(report: JudgeReport) -> Element:
    points = [(float(pair.characters), pair.margin) for pair in report.margins]
    x = linear_axis("by how many characters the chosen side is longer", [0.0, *(length for length, _ in points)])
    y = linear_axis("margin (points of score)", [0.0, *(margin for _, margin in points)])
    return captioned(
        scatter("Length", points, x, y),
        "Length: each mark is a pair, above 0 where it is judged rightly. Marks that rise from left to right say that "
        "longer trajectories score higher.",
    )


def _share(name: str, share: Interval) -> _Row:
    return _Row(name, f"{_percent(share.mean)} [{100 * share.low:.1f}, {100 * share.high:.1f}]", share)


def _probe(probe: ProbeResult) -> _Row:
    row = _share(probe.text, probe.flipped)
    return row._replace(name=f"{row.name} ({_percent(probe.unmoved)} as if unread)") if probe.unmoved else row


def _drawn(row: _Row) -> str | Element:
    """Return what was found out as a page shows it, a share with a mark of its interval."""
    return row.value if row.share is None else element("span", interval_mark(row.share), f" {row.value}")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
