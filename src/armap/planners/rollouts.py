"""The rollout: how planners obtain whole trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from armap.errors import PolicyError, RunError
from armap.protocols import Policy, World
from armap.seeds import rng_for
from armap.together import together
from armap.types import Action, Failure, History, Task, Trajectory


class FailedRollout(NamedTuple):
    """Where a rollout broke, and why."""

    history: History
    failure: Failure


class Rollouts(NamedTuple):
    """Independent trajectories of one task."""

    trajectories: list[Trajectory]
    """In the order they were drawn; failed ones included."""
    merged_proposals: int
    """Proposals that shared the request of an identical state."""
    unfinished: frozenset[int] = frozenset()
    """Those that could have gone on, but were not allowed to."""


async def rollouts(
    task: Task,
    world: World,
    policy: Policy,
    *,
    n: int,
    rng: Random,
    greedy: bool = False,
    start: History | None = None,
    reflections: Sequence[str] = (),
    may_ask: Callable[[], bool] = lambda: True,
    at_once: int | None = None,
) -> Rollouts:
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
        start: where to go on from; the beginning of the task if None.
        reflections: what the policy made of earlier attempts.
        may_ask: asked before every request to the policy; False ends all trajectories where they are.
        at_once: states gone on from at a time, those of the first trajectories first, so that some are whole when the
            rest must end; None for all, which is fastest.

    Raises:
        EnvError: the task cannot be started.
        BudgetError: the run may not spend more.
    """
    seed = rng.getrandbits(48)
    states: list[History | FailedRollout] = [start or await world.start(task)] * n
    merged = 0
    while groups := _open_groups(states):
        # In the order of their beginnings, so that a server finds what it computed for the neighbour.
        wanted = sorted(list(groups)[:at_once])
        order = [said for said in wanted if may_ask()]
        merged += sum(len(groups[said]) - 1 for said in order)
        expanded = await together(
            _expand(history, len(groups[said]), world, policy, rng_for(seed, list(said)), greedy, reflections)
            for said, history in ((said, states[groups[said][0]]) for said in order)
            if isinstance(history, History)
        )
        for said, outcomes in zip(order, expanded, strict=True):
            for member, outcome in zip(groups[said], outcomes, strict=True):
                states[member] = outcome
        if len(order) < len(wanted):
            break
    return Rollouts(
        [as_trajectory(f"{task.id}#{i}", state) for i, state in enumerate(states)],
        merged,
        frozenset(member for members in _open_groups(states).values() for member in members),
    )


def _open_groups(states: Sequence[History | FailedRollout]) -> dict[tuple[str, ...], list[int]]:
    """Return which trajectories stand at which state, by what the agent said, for those that can go on."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, state in enumerate(states):
        if isinstance(state, History) and state.stop_reason is None:
            groups.setdefault(said(state), []).append(i)
    return groups


def said(history: History) -> tuple[str, ...]:
    """Return what the agent said at each step.

    Thoughts count: a policy may show them to its model, and each trajectory keeps its own.
    """
    return tuple([words(step.action) for step in history.steps])


def words(action: Action) -> str:
    """Return what the agent said at a step."""
    return f"{action.thought}\n{action.text}" if action.thought else action.text


async def proposals(
    policy: Policy, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
) -> list[Action]:
    """Return what a policy proposes; see `armap.protocols.Policy.propose`.

    Raises:
        PolicyError: nothing, which the protocol does not allow.
    """
    actions = await policy.propose(history, n=n, rng=rng, greedy=greedy, reflections=reflections)
    if not actions:
        raise PolicyError(f"the policy proposes no action for task {history.task.id!r}; it must propose 1 to {n}")
    return actions


async def _expand(
    history: History,
    n: int,
    world: World,
    policy: Policy,
    rng: Random,
    greedy: bool,
    reflections: Sequence[str],
) -> list[History | FailedRollout]:
    """Return `n` continuations of a state by one action."""
    try:
        actions = await proposals(policy, history, n=n, rng=rng, greedy=greedy, reflections=reflections)
    except RunError as error:
        return [failed(history, error)] * n
    # Replies that could not be read are drawn again from those that could, which keeps their distribution.
    drawn = [*actions, *(rng.choice(actions) for _ in range(n - len(actions)))]
    return await together(advance(history, action, world) for action in drawn)


async def advance(history: History, action: Action, world: World) -> History | FailedRollout:
    """Return `history` after one more action, or that this broke something."""
    try:
        return await world.advance(history, action)
    except RunError as error:
        return failed(history, error)


def failed(history: History, error: RunError) -> FailedRollout:
    """Return that a rollout ended at `history` with an error."""
    return FailedRollout(history, Failure(kind=type(error).__name__, message=str(error)))


def as_trajectory(name: str, state: History | FailedRollout) -> Trajectory:
    """Return what came of a rollout as a record; one that could have gone on counts as truncated."""
    history, failure = state if isinstance(state, FailedRollout) else (state, None)
    return Trajectory(
        id=name,
        task=history.task,
        steps=history.steps,
        final_observation=history.observation,
        stop_reason="failed" if failure else history.stop_reason or "truncated",
        metrics=dict(history.metrics),
        failure=failure,
    )
