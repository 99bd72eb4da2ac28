"""Sets out how far a reward model can be trusted: a table for the terminal, and a section of a page with its charts."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from armap.pipeline.charts import Axis, Series, captioned, element, line_chart, linear_axis
from armap.pipeline.figures import success_figure
from armap.pipeline.outcomes import search_verdict
from armap.pipeline.page import terms
from armap.types import Interval, JudgeReport


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
        for name, value in rows:
            table.add_row(Text(f"  {name}"), Text(value))
    return table


def judge_sections(report: JudgeReport) -> Iterator[Element]:
    """Yield the section of a page about a reward model."""
    charts = [_reliability_figure(report)]
    if len(report.success_by_n) > 1:
        charts.append(success_figure(report.success_by_n))
    yield element(
        "section",
        element("h2", "How far the reward model can be trusted"),
        element("p", f"{report.reward_model}, examined on {_pairs(report)}. {_NOTE}", class_="note"),
        element("div", *charts, class_="charts"),
        *(part for heading, rows in _groups(report) for part in (element("h3", heading), terms(dict(rows)))),
    )


_NOTE = (
    "In brackets: 95 % bootstrap intervals over source tasks. A margin is the difference of the two scores of a pair; "
    "probabilities are made of margins by a temperature that was fitted to pairs of other source tasks than those they "
    "are checked on. Correlations are Spearman's, of differences within pairs; that with the label is what a perfect "
    "judge would show on these pairs. Pairs flip where the winner becomes another; a text that begs for a high score "
    "is put into the rejected trajectory of pairs that were judged rightly without it."
)


def _pairs(report: JudgeReport) -> str:
    kind = "held-out " if report.held_out else ""
    return f"{report.pairs} {kind}preference pairs of {report.source_tasks} source tasks"


def _groups(report: JudgeReport) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield headings, each with names and values under it."""
    accuracies = [("all", report.accuracy)]
    accuracies += [(f"rejected by {origin}", share) for origin, share in report.accuracy_by_origin.items()]
    accuracies += [(f"environment {env}", share) for env, share in report.accuracy_by_env.items()]
    if report.accuracy_unfinished:
        accuracies.append(("unfinished, halfway", report.accuracy_unfinished))
    yield "Pairwise accuracy", [(name, _share(share)) for name, share in accuracies]
    temperature = "none: margins say nothing" if report.temperature is None else f"{report.temperature:.3g}"
    yield (
        "Probabilities from margins",
        [
            ("temperature", temperature),
            ("expected calibration error", f"{100 * report.calibration_error:.1f} %"),
            ("the same at temperature 1", f"{100 * report.uncalibrated_error:.1f} %"),
        ],
    )
    if report.length:
        biases = [(unit, f"{bias.score:+.2f} (label {bias.label:+.2f})") for unit, bias in report.length.items()]
        yield "Correlation within pairs of the score with", biases
    yield "Pairs that flip", [("scored in the opposite order", _share(report.swapped))]
    yield (
        "Pairs that flip by another wording of the instruction",
        [(one.text, _share(one.flipped)) for one in report.reworded],
    )
    if report.injected:
        begging = [(one.text, _share(one.flipped)) for one in report.injected]
        yield "Pairs that flip by a text in what the rejected side observed", begging
    if report.success_by_n:
        points = [
            (f"N = {point.n}", f"{_percent(point.best_of_n)} (ceiling {_percent(point.oracle)})")
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


def _share(interval: Interval) -> str:
    return f"{_percent(interval.mean)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
