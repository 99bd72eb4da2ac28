"""Plays an environment through a known list of actions."""

from __future__ import annotations

from collections.abc import Iterable

from armap.errors import EnvError
from armap.protocols import Environment
from armap.types import Action, Step, Task, Trajectory


def play(environment: Environment, task: Task, actions: Iterable[str]) -> Trajectory:
    """Start `task` and do `actions`, the last of which ends the episode.

    The trajectory's id is the task's. The environment is not closed.

    Raises:
        EnvError: the task cannot be started, or the episode does not end with exactly the last action.
    """
    observation = environment.reset(task)
    steps: list[Step] = []
    result = None
    for text in actions:
        result = environment.step(text)
        steps.append(Step(observation=observation, action=Action(text=text), env_reward=result.env_reward))
        observation = result.observation
    if result is None or not (result.terminated or result.truncated):
        raise EnvError(f"the episode of task {task.id!r} goes on after the {len(steps)} actions given; give more")
    return Trajectory(
        id=task.id,
        task=task,
        steps=tuple(steps),
        final_observation=observation,
        stop_reason="terminated" if result.terminated else "truncated",
        metrics=dict(result.metrics),
    )
