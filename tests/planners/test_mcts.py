import json
from collections import Counter
from collections.abc import Sequence
from random import Random
from statistics import fmean, stdev

import pytest

from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.toy import Toy
from armap.errors import EnvError, PolicyError
from armap.llms.scripted import ScriptedLLM
from armap.planners.best_of_n import BestOfN
from armap.planners.mcts import MCTS
from armap.policy import PromptedPolicy
from armap.protocols import Environment, RewardModel, StepResult
from armap.seeds import rng_for, stable_hash
from armap.types import Action, History, SamplingParams, SearchBudget, SearchResult, SearchTree, Task, Trajectory
from armap.world import LiveWorld

TASK = toy.tasks(1, 0, "train")[0]
SMALL = TASK.model_copy(update={"config": {**TASK.config, "step_limit": 2}})
PUZZLES = game24.tasks(901, 1000, split="test")


class Verdict:
    """Knows what the environment pays."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [trajectory.env_reward for trajectory in trajectories]


class Whim:
    """Likes trajectories for no reason, but the same one always as much."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [Random(stable_hash(list(trajectory.actions))).random() for trajectory in trajectories]


class Held:
    """Likes to hold what is asked for, and likes still more to leave with it."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [
            float(f"the {trajectory.task.config['wanted']}." in trajectory.final_observation.text)
            * (2 if trajectory.stop_reason == "terminated" else 1)
            for trajectory in trajectories
        ]


class CountingPolicy(PromptedPolicy):
    """Remembers where it was asked."""

    def __init__(self) -> None:
        super().__init__(ScriptedLLM(), rules="Act.", sampling=SamplingParams())
        self.asked: list[tuple[str, ...]] = []

    async def propose(self, history: History, *, n: int, rng: Random, **settings: object) -> list[Action]:
        self.asked.append(history.actions)
        return await super().propose(history, n=n, rng=rng)


async def search(
    planner: MCTS | BestOfN,
    task: Task = TASK,
    *,
    make: type[Environment] = Toy,
    judge: RewardModel | None = None,
    policy: PromptedPolicy | None = None,
    seed: int = 0,
) -> SearchResult:
    policy = policy or CountingPolicy()
    return await planner.plan(task, LiveWorld(make), policy, judge or Verdict(), rng_for(seed, task.id))


def solved(result: SearchResult) -> float:
    return 0.0 if result.answer is None else result.candidates[result.answer].trajectory.env_reward


# What a simulation does


@pytest.mark.parametrize("leaf", ["rollout", "both"])
@pytest.mark.parametrize("wave", [1, 4, 7])
async def test_every_simulation_brings_a_trajectory_nobody_tried(leaf, wave):
    result = await search(MCTS(num_simulations=40, wave=wave, leaf=leaf, proposals=20), PUZZLES[0], make=Game24)
    actions = [candidate.trajectory.actions for candidate in result.candidates]
    assert len(actions) == len(set(actions)) == 40


async def test_no_state_is_asked_for_actions_again_before_all_known_ones_are_tried_to_the_end():
    policy = CountingPolicy()
    await search(MCTS(num_simulations=30, proposals=200), PUZZLES[0], make=Game24, policy=policy)
    assert max(Counter(policy.asked).values()) == 1


async def test_a_small_world_is_tried_out_completely_and_then_the_search_ends():
    # Six things and the door, then six things (the one held is not on the shelf) and the door.
    result = await search(MCTS(num_simulations=1000, proposals=30), SMALL)
    ends = {candidate.trajectory.actions for candidate in result.candidates}
    assert len(result.candidates) == len(ends) == 1 + 6 * 6
    assert solved(result) == 1


async def test_states_that_are_the_same_after_other_orders_of_actions_are_one_node():
    class Nameless(Game24):
        snapshot = None  # type: ignore[assignment]

    merged, apart = CountingPolicy(), CountingPolicy()
    planner = MCTS(num_simulations=300, proposals=60)
    await search(planner, PUZZLES[0], make=Game24, policy=merged)
    await search(planner, PUZZLES[0], make=Nameless, policy=apart)
    assert len(merged.asked) < len(apart.asked)


async def test_states_are_judged_as_they_are_where_that_is_wanted_and_the_search_still_ends_in_an_answer():
    result = await search(MCTS(num_simulations=5, leaf="value", wave=1), judge=Held())
    assert result.answer is not None
    assert result.tree is not None
    assert {score for score in result.tree.scores if score is not None} <= {0.0, 1.0, 2.0}
    assert fmean([solved(await search(MCTS(num_simulations=40, leaf="value"), task, judge=Held()))
                  for task in toy.tasks(20, 0, "test")]) > 0.8  # fmt: skip


async def test_a_good_enough_trajectory_ends_the_search():
    result = await search(MCTS(num_simulations=1000, wave=1, stop_score=1.0))
    assert [candidate.score for candidate in result.candidates].index(1.0) == len(result.candidates) - 1


# How good it is


async def test_it_finds_what_best_of_n_does_not_find_with_as_many_trajectories():
    tasks = toy.tasks(100, 3, "train")
    planner = MCTS(num_simulations=12, leaf="both")
    tree = [solved(await search(planner, task, judge=Held())) for task in tasks]
    independent = [solved(await search(BestOfN(n=12), task, judge=Held())) for task in tasks]
    gains = [a - b for a, b in zip(tree, independent, strict=True)]
    assert fmean(gains) > 2 * stdev(gains) / len(gains) ** 0.5


async def test_with_a_reward_model_that_knows_nothing_it_is_no_better_than_an_attempt_at_random():
    def chance(result: SearchResult) -> float:
        return fmean(candidate.trajectory.env_reward for candidate in result.candidates)

    results = [await search(MCTS(num_simulations=8), task, judge=Whim()) for task in toy.tasks(300, 0, "train")]
    gains = [solved(result) - chance(result) for result in results]
    assert abs(fmean(gains)) < 3 * stdev(gains) / len(gains) ** 0.5


# Failures


async def test_an_action_that_breaks_the_world_is_recorded_and_never_tried_again():
    class Trap(Toy):
        def step(self, action: str) -> StepResult:
            if action == "leave":
                raise EnvError("the door broke")
            return super().step(action)

    result = await search(MCTS(num_simulations=30, proposals=30), SMALL, make=Trap)
    failed = [c for c in result.candidates if c.trajectory.failure]
    assert result.tree is not None
    assert {failure.message for failure in result.tree.failures.values()} == {"the door broke"}
    assert len(failed) == len(result.tree.failures) == len({c.trajectory.actions for c in failed})
    assert all(candidate.score is None for candidate in failed)
    assert result.answer is not None


async def test_a_policy_that_falls_silent_somewhere_ends_that_branch_only():
    class Shy(CountingPolicy):
        async def propose(self, history: History, *, n: int, rng: Random, **settings: object) -> list[Action]:
            if history.actions and "red" in history.actions[0]:
                raise PolicyError("not red")
            return await super().propose(history, n=n, rng=rng)

    result = await search(MCTS(num_simulations=200, proposals=30), SMALL, policy=Shy())
    silent = [candidate for candidate in result.candidates if candidate.trajectory.failure]
    assert {candidate.trajectory.failure.message for candidate in silent} == {"not red"}
    assert result.answer is not None
    assert len(result.candidates) > len(silent) + 10


# Budget


@pytest.mark.parametrize("calls", [1, 2, 5, 17])
@pytest.mark.parametrize("leaf", ["rollout", "value", "both"])
async def test_no_more_calls_are_made_than_allowed_and_there_is_an_answer_all_the_same(calls, leaf):
    policy = CountingPolicy()
    planner = MCTS(num_simulations=100, leaf=leaf, budget=SearchBudget(max_calls=calls))
    result = await search(planner, policy=policy)
    assert len(policy.asked) <= calls
    assert (result.answer is not None) or calls < 4


@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_no_more_trajectories_are_tried_than_allowed(limit):
    result = await search(MCTS(num_simulations=100, budget=SearchBudget(max_trajectories=limit)))
    assert len(result.candidates) == limit


# The record


async def test_the_tree_is_recorded_with_what_every_node_is_worth():
    result = await search(MCTS(num_simulations=60, proposals=20), PUZZLES[1], make=Game24)
    tree = result.tree
    assert tree is not None
    assert SearchResult.model_validate_json(result.model_dump_json()) == result
    assert tree.visits[0] == 60
    behind = Counter[int]()
    for parent, visits in zip(tree.parents[1:], tree.visits[1:], strict=True):
        behind[parent] += visits
    assert behind[0] == 60
    assert all(0 < prior <= 1 for prior in tree.priors)
    for candidate in result.candidates:
        node = 0
        for action in candidate.trajectory.actions[:1]:
            node = next(i for i, parent in enumerate(tree.parents) if parent == node and tree.actions[i] == action)
        assert tree.visits[node] > 0


def test_a_tree_of_a_hundred_thousand_nodes_stays_a_few_megabytes():
    n = 100_000
    tree = SearchTree(
        parents=(-1, *(i // 4 for i in range(n - 1))),
        actions=tuple("8 * 3" for _ in range(n)),
        priors=tuple(round(1 / (i % 7 + 1), 4) for i in range(n)),
        visits=tuple(range(n)),
        values=(None,) * n,
        scores=tuple(i / 1000 for i in range(n)),
    )
    text = tree.model_dump_json()
    assert len(text) < 5_000_000
    assert SearchTree.model_validate(json.loads(text)) == tree


def test_a_tree_whose_columns_do_not_fit_is_refused():
    column = {"actions": ("",), "priors": (1.0,), "visits": (1,), "values": (None,), "scores": (None,)}
    SearchTree(parents=(-1,), **column)
    with pytest.raises(ValueError, match="equally long"):
        SearchTree(parents=(-1, 0), **column)
    with pytest.raises(ValueError, match="behind its parent"):
        SearchTree(parents=(0,), **column)
