"""Chooses a few trajectories of a run to read, and sets them out as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from armap.pipeline.charts import element
from armap.pipeline.outcomes import is_solved, kind, paid
from armap.types import Candidate, SearchResult, Step


class _Reading(NamedTuple):
    """One candidate, and why it is worth reading."""

    reason: str
    result: SearchResult
    candidate: Candidate


def readings(searches: Sequence[SearchResult]) -> Iterator[Element]:
    """Yield a section of trajectories, or nothing if there are none.

    Shown are the answers to two solved tasks, to one that was missed though a candidate solved it, with that
    candidate, and to one that no candidate solved: the first of each by task id, as far as there are any. They come
    from Best-of-N or, where it was not run, from the first planner by name.
    """
    planner = min(
        {result.planner for result in searches}, key=lambda name: (kind(name) != "best_of_n", name), default=None
    )
    found = sorted((result for result in searches if result.planner == planner), key=lambda result: result.task.id)
    chosen = list(_choose(found))
    if chosen:
        legend = element("p", "Boxes are what the agent saw, boxes with a bar what it did.", class_="note")
        yield element("section", element("h2", "Trajectories to read"), legend, *map(_article, chosen))


def _choose(results: Sequence[SearchResult]) -> Iterator[_Reading]:
    answered = [(result, result.candidates[result.answer]) for result in results if result.answer is not None]
    for result, answer in [pair for pair in answered if is_solved(pair[1])][:2]:
        yield _Reading("Solved", result, answer)
    open_tasks = [(result, answer) for result, answer in answered if not is_solved(answer)]
    for result, answer in [pair for pair in open_tasks if _solution(pair[0])][:1]:
        yield _Reading("Missed: the answer", result, answer)
        solution = _solution(result)
        assert solution is not None
        yield _Reading("Missed: a candidate that solves the task and was passed over", result, solution)
    for result, answer in [pair for pair in open_tasks if not _solution(pair[0])][:1]:
        yield _Reading(f"Solved by none of {len(result.candidates)} candidates: the answer", result, answer)


def _solution(result: SearchResult) -> Candidate | None:
    return next(filter(is_solved, result.candidates), None)


def _article(reading: _Reading) -> Element:
    candidate, trajectory = reading.candidate, reading.candidate.trajectory
    score = "no score" if candidate.score is None else f"score {candidate.score:.3f}"
    verdict = f"the environment paid {paid(candidate):g}"
    return element(
        "article",
        element("h3", reading.reason),
        element("p", trajectory.task.instruction),
        element("p", f"{trajectory.id}: {score}; {verdict}; {trajectory.stop_reason}", class_="note"),
        element("ol", *map(_step, trajectory.steps)),
        element("pre", trajectory.final_observation.text),
    )


def _step(step: Step) -> Element:
    item = element("li", element("pre", step.observation.text))
    if step.action.thought:
        item.append(element("p", step.action.thought, class_="thought"))
    item.append(element("pre", step.action.text, class_="action"))
    return item
