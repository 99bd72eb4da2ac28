"""How a trajectory is written out for a reward model: one way, in training, scoring and serving."""

from __future__ import annotations

from armap.types import Action, Trajectory

CLOSING_QUESTION = "Was the task done?"
"""Ends every rendering, so that the score is always read at the same words. Source: ARMAP's released code, where the
wording is another; any fixed one serves a model that is trained with it."""


def render(trajectory: Trajectory) -> str:
    """Return the task, every observation and action in order, and the closing question, one per line.

    Trajectories of one task that begin alike are rendered alike up to where they part.
    """
    lines = [f"Task: {trajectory.task.instruction}"]
    for step in trajectory.steps:
        lines += [step.observation.text, _said(step.action)]
    return "\n".join([*lines, trajectory.final_observation.text, CLOSING_QUESTION])


def _said(action: Action) -> str:
    thought = f"Thought: {action.thought}\n" if action.thought else ""
    return f"{thought}Action: {action.text}"
