"""How a trajectory is written out for a reward model: one way, in training, scoring and serving."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from armap.types import Action, Trajectory

CLOSING_QUESTION = "Was the task done?"
"""Ends every rendering, so that the score is always read at the same words. Source: ARMAP's released code, where the
wording is another; any fixed one serves a model that is trained with it."""


_OBSERVATION_CHARS = (None, 1600, 800, 400, 200, 100, 50, 0)
"""How much of an observation is kept, tried in this order until a trajectory fits: of the earlier ones first, then of
the one before the last action too, and of the final one last. Few and fixed steps, so that trajectories of one task
that begin alike are mostly shortened alike."""


class Limits(NamedTuple):
    """How long an observation may be, in characters; None for no limit."""

    earlier: int | None = None
    """Of those before the last two."""
    last: int | None = None
    """Of the one before the last action."""
    final: int | None = None
    """Of the one after it."""


_WHOLE = Limits()
_LIMITS = (
    *(Limits(earlier=chars) for chars in _OBSERVATION_CHARS),
    *(Limits(earlier=0, last=chars) for chars in _OBSERVATION_CHARS[1:]),
    *(Limits(earlier=0, last=0, final=chars) for chars in _OBSERVATION_CHARS[1:]),
)


def render(trajectory: Trajectory, limits: Limits = _WHOLE) -> str:
    """Return the task, every observation and action in order, and the closing question, one per line.

    Trajectories of one task that begin alike are rendered alike up to where they part.
    """
    lines = [f"Task: {trajectory.task.instruction}"]
    for place, step in enumerate(trajectory.steps, 1):
        chars = limits.earlier if place < len(trajectory.steps) else limits.last
        lines += [_cut(step.observation.text, chars), _said(step.action)]
    return "\n".join([*lines, _cut(trajectory.final_observation.text, limits.final), CLOSING_QUESTION])


def renderings(trajectory: Trajectory) -> Iterator[str]:
    """Return the renderings of a trajectory, the whole one first and the shortest last.

    The instruction and every action are whole in all of them.
    """
    return (render(trajectory, limits) for limits in _LIMITS)


def _cut(text: str, chars: int | None) -> str:
    return text if chars is None or len(text) <= chars else f"{text[:chars]}..."


def _said(action: Action) -> str:
    thought = f"Thought: {action.thought}\n" if action.thought else ""
    return f"{thought}Action: {action.text}"
