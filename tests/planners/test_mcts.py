import asyncio
import json
import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from statistics import fmean, stdev

import pytest
from pydantic import ValidationError

from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.toy import Toy
from armap.errors import EnvError, PolicyError
from armap.llms.scripted import ScriptedLLM
from armap.planners.best_of_n import BestOfN
from armap.planners.mcts import MCTS
from armap.protocols import StepResult
from armap.seeds import rng_for, stable_hash
from armap.types import Action, Completion, History, Message, SearchBudget, SearchResult, SearchTree, Trajectory
from armap.world import LiveWorld

from .players import CountingPolicy, Held, Whim, search, solved

TASK = toy.tasks(1, 0, "train")[0]
SMALL = TASK.model_copy(update={"config": {**TASK.config, "step_limit": 2}})
PUZZLES = game24.tasks(901, 1000, split="test")


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


@pytest.mark.parametrize("settings", [{}, {"leaf": "value", "backup": "open"}])
async def test_a_small_world_is_tried_out_completely_and_then_the_search_ends(settings):
    # Six things and the door, then six things (the one held is not on the shelf) and the door.
    result = await search(MCTS(num_simulations=1000, proposals=30, **settings), SMALL)
    ends = {candidate.trajectory.actions for candidate in result.candidates}
    assert len(result.candidates) == len(ends) == 1 + 6 * 6
    assert solved(result) == 1


async def test_what_is_asked_is_asked_in_one_request_and_used():
    policy = CountingPolicy()
    planner = MCTS(num_simulations=25, proposals=13, wave=5)
    tree = (await search(planner, PUZZLES[2], make=Game24, policy=policy)).tree
    assert set(policy.wanted) == {13}
    ways = [()]
    for parent, action in zip(tree.parents[1:], tree.actions[1:], strict=True):
        ways.append((*ways[parent], action))
    went_on = {ways[parent] for parent in tree.parents[1:]}
    assert set(policy.asked) <= went_on


@pytest.mark.parametrize("wave", [1, 8])
async def test_as_many_requests_are_on_their_way_as_simulations_may_be(wave):
    class Slow(ScriptedLLM):
        on_their_way: list[int]

        def __init__(self) -> None:
            super().__init__()
            self.now, self.on_their_way = 0, []

        async def generate(self, messages: Sequence[Message], **settings: object) -> list[Completion]:
            self.now += 1
            self.on_their_way.append(self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super().generate(messages, **settings)

    llm = Slow()
    planner = MCTS(num_simulations=100, wave=wave, widening=None)
    await search(planner, PUZZLES[0], make=Game24, policy=CountingPolicy(llm))
    assert max(llm.on_their_way) == wave
    # A round of k requests counts them from 1 to k.
    rounds = llm.on_their_way.count(1)
    assert len(llm.on_their_way) > 0.7 * wave * rounds


async def test_a_simulation_that_comes_to_what_was_tried_to_the_end_keeps_no_other_waiting():
    class Rounds(CountingPolicy):
        now = rounds = 0

        async def propose(self, *args: object, **settings: object) -> list[Action]:
            self.rounds += not self.now
            self.now += 1
            await asyncio.sleep(0)
            self.now -= 1
            return await super().propose(*args, **settings)

    policy = Rounds()
    puzzles = game24.tasks(1, 30, split="test")
    for puzzle in puzzles:
        await search(MCTS(num_simulations=48, wave=16), puzzle, make=Game24, policy=policy, judge=Whim())
    # Three at least: an end is three actions away. Waiting for all that are under way took 5.5 on average.
    assert policy.rounds < 5.4 * len(puzzles)


async def test_states_that_are_the_same_after_other_orders_of_actions_are_one_node():
    class Nameless(Game24):
        snapshot = None  # type: ignore[assignment]

    merged, apart = CountingPolicy(), CountingPolicy()
    planner = MCTS(num_simulations=300, proposals=60)
    await search(planner, PUZZLES[0], make=Game24, policy=merged)
    await search(planner, PUZZLES[0], make=Nameless, policy=apart)
    assert len(merged.asked) < len(apart.asked)


async def test_states_are_judged_as_they_are_where_that_is_wanted_and_the_search_still_ends_in_an_answer():
    result = await search(MCTS(num_simulations=5, leaf="value", wave=1), TASK, judge=Held())
    assert result.answer is not None
    assert result.tree is not None
    assert {score for score in result.tree.scores if score is not None} <= {0.0, 1.0, 2.0}
    assert fmean([solved(await search(MCTS(num_simulations=40, leaf="value"), task, judge=Held()))
                  for task in toy.tasks(20, 0, "test")]) > 0.8  # fmt: skip


@pytest.mark.parametrize("wave", [1, 4])
async def test_the_best_open_state_is_gone_on_from_and_what_was_tried_to_the_end_attracts_no_more(wave):
    class Misled:
        """Takes a third of all states for promising, and for no end what it was taken for."""

        async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
            return [
                -1.0 if one.stop_reason == "terminated" else float(stable_hash(one.final_observation.text) % 3 == 0)
                for one in trajectories
            ]

    settings = {"leaf": "value", "backup": "open", "proposals": 300, "widening": None, "exploration": 0.0}
    planner = MCTS(num_simulations=250, wave=wave, **settings)
    tree = (await search(planner, PUZZLES[0], make=Game24, judge=Misled())).tree
    children: dict[int, list[int]] = {}
    for number, parent in enumerate(tree.parents):
        children.setdefault(parent, []).append(number)
    promising = {number for number, score in enumerate(tree.scores) if score == 1.0}
    went_on = {number for number in children if number > 0}
    assert len(went_on) > 10
    # A promising state that was known before is left for a poor one by nobody, but for those that were under way.
    assert len(went_on - promising) < wave


async def test_best_open_states_need_states_that_are_judged_as_they_are():
    with pytest.raises(
        ValidationError, match="backup=open needs leaf=value: it compares what states are worth as they are"
    ):
        MCTS(backup="open")


async def test_a_good_enough_trajectory_ends_the_search():
    result = await search(MCTS(num_simulations=1000, wave=1, stop_score=1.0), TASK)
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


async def test_a_policy_that_fails_when_it_is_asked_again_ends_one_simulation_and_no_more():
    class Once(CountingPolicy):
        async def propose(self, history: History, *, n: int, rng: Random, **settings: object) -> list[Action]:
            if history.actions in set(self.asked):
                raise PolicyError("asked before")
            return await super().propose(history, n=n, rng=rng)

    result = await search(MCTS(num_simulations=60, proposals=2, wave=5), SMALL, policy=Once())
    failed = [candidate for candidate in result.candidates if candidate.trajectory.failure]
    assert len(failed) == len({candidate.trajectory.actions for candidate in failed}) > 0
    assert len(result.candidates) <= 60
    assert result.answer is not None


# Budget


@pytest.mark.parametrize("calls", [1, 2, 5, 17])
@pytest.mark.parametrize("leaf", ["rollout", "value", "both"])
async def test_no_more_calls_are_made_than_allowed_and_there_is_an_answer_all_the_same(calls, leaf):
    policy = CountingPolicy()
    planner = MCTS(num_simulations=100, leaf=leaf, budget=SearchBudget(max_calls=calls))
    result = await search(planner, TASK, policy=policy)
    assert len(policy.asked) <= calls
    assert result.answer is not None


async def test_the_most_visited_way_is_brought_to_an_end_as_far_as_the_budget_goes():
    planner = MCTS(num_simulations=50, leaf="value", budget=SearchBudget(max_calls=3))
    result = await search(planner, PUZZLES[0], make=Game24, judge=Whim())
    (candidate,) = result.candidates
    assert len(candidate.trajectory.actions) >= 2
    assert candidate.score is not None


@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_no_more_trajectories_are_tried_than_allowed(limit):
    result = await search(MCTS(num_simulations=100, budget=SearchBudget(max_trajectories=limit)), TASK)
    assert len(result.candidates) == limit


# The record


async def test_the_tree_is_recorded_with_what_every_node_is_worth():
    result = await search(MCTS(num_simulations=60, proposals=20), PUZZLES[1], make=Game24)
    tree = result.tree
    assert tree is not None
    assert SearchResult.model_validate_json(result.model_dump_json()) == result
    # A simulation that comes to what was tried to the end already is back too, and is none of the sixty.
    assert 60 <= tree.visits[0] <= 65
    behind = Counter[int]()
    for parent, visits in zip(tree.parents[1:], tree.visits[1:], strict=True):
        behind[parent] += visits
    assert behind[0] == tree.visits[0]
    assert all(0 < prior <= 1 for prior in tree.priors)
    for candidate in result.candidates:
        node = 0
        for action in candidate.trajectory.actions[:1]:
            node = next(i for i, parent in enumerate(tree.parents) if parent == node and tree.actions[i] == action)
        assert tree.visits[node] > 0


async def test_numbers_in_the_record_are_short_so_that_large_trees_stay_small():
    result = await search(MCTS(num_simulations=200, leaf="both"), PUZZLES[3], make=Game24, judge=Whim())
    tree = result.tree
    assert len(tree.parents) > 200
    assert len(tree.model_dump_json()) < 60 * len(tree.parents)
    assert max(len(repr(number)) for number in (*tree.priors, *tree.values, *tree.scores) if number is not None) <= 9


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


# What does not stop it


@pytest.mark.parametrize("wave", [1, 4])
@pytest.mark.parametrize("leaf", ["rollout", "value", "both"])
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 1e308])
async def test_scores_beyond_all_measure_end_a_search(score, leaf, wave):
    class Beyond:
        async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
            return [score * (-1) ** len(trajectory.steps) for trajectory in trajectories]

    planner = MCTS(num_simulations=50, leaf=leaf, wave=wave)
    result = await asyncio.wait_for(search(planner, TASK, judge=Beyond()), 60)
    assert (result.answer is None) == (not math.isfinite(score))
    assert result.failure is None or result.failure.kind == "RewardModelError"


async def test_where_every_attempt_breaks_no_more_are_made_than_were_asked_for():
    class Broken(Toy):
        def step(self, action: str) -> StepResult:
            raise EnvError("the floor gave way")

    result = await search(MCTS(num_simulations=3), TASK, make=Broken)
    assert (len(result.candidates), result.answer, result.failure.kind) == (3, None, "EnvError")


async def test_what_is_proposed_and_not_legal_does_not_count_as_tried_out():
    class Dreamer(CountingPolicy):
        async def propose(
            self, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
        ) -> list[Action]:
            drawn = await super().propose(history, n=n, rng=rng, greedy=greedy)
            return [Action(text=f"fly {rng.random()}") if rng.random() < 0.8 else action for action in drawn]

    result = await search(MCTS(num_simulations=300, proposals=10), PUZZLES[0], make=Game24, policy=Dreamer())
    assert len(result.candidates) == 300


@pytest.mark.parametrize("selection", ["puct", "uct"])
async def test_a_way_is_worth_what_backup_says_whatever_selects(selection):
    tried = []
    for backup in ("mean", "max"):
        planner = MCTS(num_simulations=60, selection=selection, backup=backup, exploration=0.1)
        result = await search(planner, PUZZLES[3], make=Game24, judge=Whim())
        tried.append([candidate.trajectory.actions for candidate in result.candidates])
    assert tried[0] != tried[1]


async def test_a_world_that_forgets_is_searched_alike():
    found = []
    for memory_bytes in (0, 2**29):
        world = LiveWorld(Toy, memory_bytes=memory_bytes)
        result = await MCTS(num_simulations=40).plan(TASK, world, CountingPolicy(), Whim(), rng_for("memory"))
        found.append([candidate.trajectory.actions for candidate in result.candidates])
    assert found[0] == found[1]
