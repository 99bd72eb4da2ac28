"""Makes rejected trajectories: what could be taken for the chosen one and came to something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, get_args

from rapidfuzz import fuzz, process

from armap.protocols import Policy, World
from armap.types import Action, Check, History, Task, Trajectory

Origin = Literal["other_outcome", "altered_action", "near_neighbour"]
"""The rejected side is another attempt at the same task; the chosen one with an action changed, and what the policy
does after it; or what fulfils the most similar instruction."""
ORIGINS: tuple[Origin, ...] = get_args(Origin)

_NEAREST = 10
"""Neighbours looked at."""


class Discard(Exception):
    """This pair cannot be made.

    Args:
        check: what it did not pass.
        reason: why, in a few words that are the same for the same cause.
    """

    def __init__(self, check: Check, reason: str) -> None:
        super().__init__(reason)
        self.check = check
        self.reason = reason


async def execute(world: World, task: Task, actions: Sequence[Action]) -> Trajectory:
    """Do `actions` under `task`; what comes after the end of the world is not done any more.

    Raises:
        Discard: they do not lead to an end.
        EnvError: something broke.
    """
    history = await world.start(task)
    for action in actions:
        if history.stop_reason is None:
            history = await world.advance(history, action)
    return finished(history)


def finished(history: History) -> Trajectory:
    """Return a history that has ended as a trajectory.

    Raises:
        Discard: it has not.
    """
    if history.stop_reason is None:
        raise Discard("outcome", "the same actions did not lead to an end again")
    return Trajectory(
        id=history.task.id,
        task=history.task,
        steps=history.steps,
        final_observation=history.observation,
        stop_reason=history.stop_reason,
        metrics=dict(history.metrics),
    )


def other_attempts(chosen: Trajectory, attempts: Sequence[Trajectory], rng: Random) -> list[Trajectory]:
    """Return other attempts at the source task, each way of acting once, in any order.

    By the toss of a coin, those with more steps than the chosen one come first, or those with fewer, so that length
    does not tell the sides apart.
    """
    by_actions = {one.actions: one for one in attempts if one.failure is None and one.actions != chosen.actions}
    drawn = list(by_actions.values())
    rng.shuffle(drawn)
    longer = rng.random() < 0.5
    return sorted(drawn, key=lambda one: _in_place(len(one.steps) - len(chosen.steps), longer))


def _in_place(difference: int, longer: bool) -> int:
    if not difference:
        return 1
    return 0 if (difference > 0) == longer else 2


async def altered(world: World, policy: Policy, chosen: Trajectory, rng: Random) -> Trajectory | None:
    """Return the chosen trajectory with an action changed by the policy, and whatever it does after that.

    None if the policy knows no other action there.
    """
    at = rng.randrange(len(chosen.steps))
    before = History(task=chosen.task, steps=chosen.steps[:at], observation=chosen.steps[at].observation)
    action = await _another_action(policy, before, chosen.steps[at].action, rng)
    if action is None:
        return None
    history = await world.start(chosen.task)
    for step in chosen.steps[:at]:
        history = await world.advance(history, step.action)
    history = await world.advance(history, action)
    while history.stop_reason is None:
        (action, *_) = await policy.propose(history, n=1, rng=rng)
        history = await world.advance(history, action)
    return finished(history)


async def _another_action(policy: Policy, before: History, taken: Action, rng: Random) -> Action | None:
    """Return what the policy would do if the action that was taken were not to be had."""
    legal = before.observation.actions
    if legal is None:
        proposed = [action for action in await policy.propose(before, n=4, rng=rng) if action.text != taken.text]
        return proposed[0] if proposed else None
    left = tuple(text for text in legal if text != taken.text)
    if not left:
        return None
    without = before._replace(observation=before.observation.model_copy(update={"actions": left}))
    (action, *_) = await policy.propose(without, n=1, rng=rng)
    return action


class Neighbourhood:
    """Trajectories, to be found by what their instructions are like.

    Args:
        fulfilled: trajectories under the instructions they fulfil.
    """

    def __init__(self, fulfilled: Sequence[Trajectory]) -> None:
        self._fulfilled = fulfilled
        self._instructions = [one.task.instruction for one in fulfilled]

    def of(self, chosen: Trajectory) -> Iterator[Trajectory]:
        """Yield those whose instructions are most like the chosen one's but not the same, the nearest first."""
        instruction = chosen.task.instruction
        # Nothing is nearer than the same.
        looked_at = self._instructions.count(instruction) + _NEAREST
        nearest = process.extract(instruction, self._instructions, scorer=fuzz.ratio, limit=looked_at)
        return (self._fulfilled[place] for found, _, place in nearest if found != instruction)
