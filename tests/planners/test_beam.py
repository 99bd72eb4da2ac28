from collections import Counter
from collections.abc import Sequence
from random import Random
from statistics import fmean

import pytest

from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.toy import Toy
from armap.errors import EnvError, PolicyError
from armap.planners.beam import Beam
from armap.protocols import StepResult
from armap.types import Action, History, Trajectory

from .players import CountingPolicy, Held, Whim, search, solved

TASKS = toy.tasks(20, 0, "test")
PUZZLE = game24.tasks(901, 901, split="test")[0]


class Watching(Held):
    """Remembers what it was asked to judge, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[list[Trajectory]] = []

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        self.batches.append([*trajectories])
        return await super().score(trajectories)


async def test_it_goes_on_from_the_states_the_reward_model_likes_best():
    judge, policy = Watching(), CountingPolicy()
    await search(Beam(width=2, proposals=20), TASKS[0], judge=judge, policy=policy)
    first, second = judge.batches[:2]
    assert {len(trajectory.steps) for trajectory in first} == {1}
    wanted = f"the {TASKS[0].config['wanted']}."
    liked = [trajectory for trajectory in first if wanted in trajectory.final_observation.text]
    assert len(liked) == 1
    assert liked[0].actions in {trajectory.actions[:1] for trajectory in second}
    assert all(1 <= count <= 2 for count in Counter(map(len, policy.asked)).values())


async def test_with_a_reward_model_that_knows_the_way_it_arrives():
    assert fmean([solved(await search(Beam(proposals=8), task, judge=Held())) for task in TASKS]) > 0.8


async def test_states_that_are_the_same_after_other_orders_of_actions_are_gone_on_from_once():
    class Nameless(Game24):
        snapshot = None  # type: ignore[assignment]

    planner = Beam(width=1000, proposals=100)
    merged, apart = CountingPolicy(), CountingPolicy()
    await search(planner, PUZZLE, make=Game24, judge=Whim(), policy=merged)
    await search(planner, PUZZLE, make=Nameless, judge=Whim(), policy=apart)
    assert len(merged.asked) < len(apart.asked)


async def test_every_state_is_asked_once_for_all_proposals():
    policy = CountingPolicy()
    await search(Beam(width=4, proposals=7), PUZZLE, make=Game24, judge=Whim(), policy=policy)
    assert max(Counter(policy.asked).values()) == 1
    assert set(policy.wanted) == {7}


async def test_ends_are_candidates_whenever_they_come():
    result = await search(Beam(width=3, proposals=20), TASKS[0], judge=Held())
    lengths = {len(candidate.trajectory.steps) for candidate in result.candidates}
    assert {1, 2} <= lengths
    assert solved(result) == 1


@pytest.mark.parametrize("broken", ["leave", "take"])
async def test_what_breaks_is_recorded_and_the_others_go_on(broken):
    class Trap(Toy):
        def step(self, action: str) -> StepResult:
            if action.startswith(broken) and self._steps_left == 4:
                raise EnvError("it broke")
            return super().step(action)

    result = await search(Beam(width=3, proposals=30), TASKS[0], make=Trap, judge=Held())
    failed = [candidate for candidate in result.candidates if candidate.trajectory.failure]
    assert len(failed) == (1 if broken == "leave" else 6)
    assert all(candidate.score is None for candidate in failed)
    assert result.candidates[result.answer].trajectory.failure is None


async def test_a_policy_that_falls_silent_at_one_state_leaves_the_others():
    class Shy(CountingPolicy):
        async def propose(self, history: History, *, n: int, rng: Random, **settings: object) -> list[Action]:
            if history.actions and "red" in history.actions[0]:
                raise PolicyError("not red")
            return await super().propose(history, n=n, rng=rng)

    result = await search(Beam(width=9, proposals=30), TASKS[0], judge=Held(), policy=Shy())
    assert "not red" in {c.trajectory.failure.message for c in result.candidates if c.trajectory.failure}
    assert result.answer is not None
