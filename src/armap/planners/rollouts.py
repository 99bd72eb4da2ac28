"""The rollout: how the planners that try independent trajectories obtain them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from armap.errors import RunError
from armap.protocols import Policy, World
from armap.seeds import rng_for
from armap.types import Action, Failure, History, Task, Trajectory


class _Failed(NamedTuple):
    """Where a rollout broke, and why."""

    history: History
    failure: Failure


class Rollouts(NamedTuple):
    """Independent trajectories of one task."""

    trajectories: list[Trajectory]
    """In the order they were drawn; failed ones included."""
    merged_proposals: int
    """Proposals that shared the request of an identical state."""


async def rollouts(task: Task, world: World, policy: Policy, *, n: int, rng: Random, greedy: bool = False) -> Rollouts:
    """Draw `n` independent trajectories.

    Those that are still in the same state, thoughts included, ask for their next actions together, in one request for
    as many proposals. Proposals are independent draws from one distribution, so this changes no trajectory's
    distribution; it only saves requests. What is drawn at a state depends on the seed and the state alone, not on what
    runs at the same time.

    Args:
        task: the problem.
        world: where it is tried.
        policy: who acts.
        n: number of trajectories.
        rng: decides the draws.
        greedy: take the most likely action at each step.

    Raises:
        EnvError: the task cannot be started.
        BudgetError: the run may not spend more.
    """
    seed = rng.getrandbits(48)
    start = await world.start(task)
    states: list[History | _Failed] = [start] * n
    merged = 0
    while groups := _open_groups(states):
        merged += sum(len(members) - 1 for members in groups.values())
        expanded = await asyncio.gather(
            *(
                _expand(history, len(groups[said]), world, policy, rng_for(seed, list(said)), greedy)
                for said, history in ((key, states[members[0]]) for key, members in groups.items())
                if isinstance(history, History)
            )
        )
        for members, outcomes in zip(groups.values(), expanded, strict=True):
            for member, outcome in zip(members, outcomes, strict=True):
                states[member] = outcome
    return Rollouts([_trajectory(f"{task.id}#{i}", state) for i, state in enumerate(states)], merged)


def _open_groups(states: Sequence[History | _Failed]) -> dict[tuple[str, ...], list[int]]:
    """Return which trajectories stand at which state, by what the agent said, for those that can go on."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, state in enumerate(states):
        if isinstance(state, History) and state.stop_reason is None:
            # Thoughts count: a policy may show them to its model, and each trajectory keeps its own.
            said = tuple("\n".join(filter(None, (step.action.thought, step.action.text))) for step in state.steps)
            groups.setdefault(said, []).append(i)
    return groups


async def _expand(
    history: History, n: int, world: World, policy: Policy, rng: Random, greedy: bool
) -> list[History | _Failed]:
    """Return `n` continuations of a state by one action."""
    try:
        actions = await policy.propose(history, n=n, rng=rng, greedy=greedy)
    except RunError as error:
        return [_failed(history, error)] * n
    # Replies that could not be read are drawn again from those that could, which keeps their distribution.
    drawn = [*actions, *(rng.choice(actions) for _ in range(n - len(actions)))]
    return [await _advance(history, action, world) for action in drawn]


async def _advance(history: History, action: Action, world: World) -> History | _Failed:
    try:
        return await world.advance(history, action)
    except RunError as error:
        return _failed(history, error)


def _failed(history: History, error: RunError) -> _Failed:
    return _Failed(history, Failure(kind=type(error).__name__, message=str(error)))


def _trajectory(name: str, state: History | _Failed) -> Trajectory:
    history, failure = state if isinstance(state, _Failed) else (state, None)
    return Trajectory(
        id=name,
        task=history.task,
        steps=history.steps,
        final_observation=history.observation,
        stop_reason="failed" if failure else history.stop_reason or "truncated",
        metrics=history.metrics,
        failure=failure,
    )
