"""How a trajectory is written out for a reward model: one way, in training, scoring and serving."""

from __future__ import annotations

from collections.abc import Iterator

from armap.types import Action, Trajectory

CLOSING_QUESTION = "Was the task done?"
"""Ends every rendering, so that the score is always read at the same words. Source: ARMAP's released code, where the
wording is another; any fixed one serves a model that is trained with it."""


_OBSERVATION_CHARS = (None, 1600, 800, 400, 200, 100, 50, 0)
"""How much of an earlier observation is kept, tried in this order until a trajectory fits. Few and fixed steps, so that
trajectories of one task that begin alike are mostly shortened alike."""


def render(trajectory: Trajectory, *, observation_chars: int | None = None) -> str:
    """Return the task, every observation and action in order, and the closing question, one per line.

    Trajectories of one task that begin alike are rendered alike up to where they part.

    Args:
        trajectory: what is written out.
        observation_chars: longest observation, in characters, but for the last two, which are whole; None for no limit.
    """
    lines = [f"Task: {trajectory.task.instruction}"]
    for step in trajectory.steps[:-1]:
        lines += [_cut(step.observation.text, observation_chars), _said(step.action)]
    for step in trajectory.steps[-1:]:
        lines += [step.observation.text, _said(step.action)]
    return "\n".join([*lines, trajectory.final_observation.text, CLOSING_QUESTION])


def renderings(trajectory: Trajectory | str) -> Iterator[str]:
    """Return the renderings of a trajectory, the whole one first and the shortest last.

    The instruction, every action and the end are whole in all of them. A text is its own and only rendering.
    """
    if isinstance(trajectory, str):
        yield trajectory
        return
    for chars in _OBSERVATION_CHARS:
        yield render(trajectory, observation_chars=chars)


def _cut(text: str, chars: int | None) -> str:
    return text if chars is None or len(text) <= chars else f"{text[:chars]}..."


def _said(action: Action) -> str:
    thought = f"Thought: {action.thought}\n" if action.thought else ""
    return f"{thought}Action: {action.text}"
