"""Draws what a run achieved: success against candidates, training, and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from xml.etree.ElementTree import Element

from armap.pipeline.charts import Axis, Series, captioned, element, histogram, line_chart, linear_axis
from armap.pipeline.outcomes import is_solved
from armap.pipeline.success_by_n import search_verdict
from armap.types import Metrics, SearchResult, SuccessAtN, TrainingPoint


def figures(
    metrics: Metrics | None, training: Sequence[TrainingPoint], searches: Sequence[SearchResult]
) -> Iterator[Element]:
    """Yield a section with the charts for which there is anything to draw, or nothing."""
    drawn = [*_training_figures(training), *_score_figures(searches)]
    if metrics and len(metrics.success_by_n) > 1:
        drawn.insert(0, success_figure(metrics.success_by_n))
    if drawn:
        yield element("section", element("h2", "Figures"), element("div", *drawn, class_="charts"))


def success_figure(points: Sequence[SuccessAtN]) -> Element:
    """Draw success against the number of candidates, two or more numbers of them."""
    lines = {
        "sampling": [(float(point.n), point.sampling) for point in points],
        "best of N": [(float(point.n), point.best_of_n) for point in points],
        "oracle": [(float(point.n), point.oracle) for point in points],
    }
    x = Axis("candidates N", [float(point.n) for point in points], logarithmic=True)
    y = linear_axis("success", [0.0, *(value for line in lines.values() for _, value in line)], percent=True)
    series = [Series(name, lines[name]) for name in ("sampling", "best of N", "oracle")]
    return captioned(
        line_chart("Success against the number of candidates", series, x, y),
        "Success against the number of candidates N: the exact mean over all subsets of N candidates. By Best-of-N, "
        f"{search_verdict(points)}.",
    )


def _training_figures(training: Sequence[TrainingPoint]) -> Iterator[Element]:
    # A resumed fit tells some steps again; the last telling counts.
    points = sorted({point.step: point for point in training}.values(), key=lambda point: point.step)
    if not points:
        return
    x = linear_axis("optimiser step", [0.0, float(points[-1].step)])
    for quantity, unit, percent in (("loss", "loss (nats)", False), ("accuracy", "pairwise accuracy", True)):
        trained, heldout = (
            [(float(point.step), value) for point in points if (value := getattr(point, name)) is not None]
            for name in (quantity, f"heldout_{quantity}")
        )
        y = linear_axis(unit, [0.0, *(value for _, value in (*trained, *heldout))], percent=percent)
        chart = line_chart(
            f"{quantity.capitalize()} during training", [Series("training", trained), Series("held out", heldout)], x, y
        )
        yield captioned(chart, f"Training of the reward model: {unit} on each step's pairs and on the held-out pairs.")


def _score_figures(searches: Sequence[SearchResult]) -> Iterator[Element]:
    groups: dict[str, list[float]] = {"unsolved": [], "solved": []}
    for result in searches:
        scored = [(candidate, candidate.score) for candidate in result.candidates if candidate.score is not None]
        if scored:
            middle = fmean(score for _, score in scored)
            for candidate, score in scored:
                groups["solved" if is_solved(candidate) else "unsolved"].append(score - middle)
    shown = {name: values for name, values in groups.items() if values}
    if shown:
        yield captioned(
            histogram("Scores of solved and unsolved candidates", shown, "score minus the task's mean score"),
            "Scores of the candidates, each from the mean of its task, because scores compare only within one task.",
        )
