import asyncio
from collections.abc import Sequence

import pytest

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import ConfigError, EnvError, LLMError
from armap.planners.beam import Beam
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.planners.mcts import MCTS
from armap.planners.reflexion import Reflexion
from armap.planners.sampling import Sampling
from armap.protocols import StepResult
from armap.types import Completion, Message, SearchBudget, Usage

from .players import CountingPolicy, Held, PricedLLM, search

(TASK,) = toy.tasks(1, 0, "test")
PLANNERS = [
    Greedy(),
    Sampling(n=20),
    BestOfN(n=20),
    Reflexion(trials=20, threshold=1),
    Beam(width=6, proposals=6),
    MCTS(num_simulations=40),
    MCTS(num_simulations=40, leaf="value", wave=7),
    MCTS(num_simulations=40, leaf="both", wave=1),
    MCTS.paper(40),
]
MOST_AT_ONCE = 8
"""Requests that any of them makes together, without waiting for what they cost."""

every_planner = pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: planner.name)


async def limited(planner, **limits):
    """Search within limits; return the result and the model that was asked."""
    llm = PricedLLM()
    budget = SearchBudget(**limits)
    result = await search(planner.model_copy(update={"budget": budget}), TASK, judge=Held(), policy=CountingPolicy(llm))
    assert result.failure is None
    answer = result.candidates[result.answer]
    assert answer.trajectory.failure is None
    scores = [candidate.score for candidate in result.candidates]
    if planner.name in ("best_of_n", "beam", "mcts", "reflexion"):
        assert answer.score == max(scores)
    return result, llm


@every_planner
@pytest.mark.parametrize("limit", [0, 1, 2, 7, 40])
async def test_no_planner_makes_more_calls_than_it_may_and_each_has_an_answer_all_the_same(planner, limit):
    _, llm = await limited(planner, max_calls=limit)
    assert len(llm.asked) <= limit


@every_planner
@pytest.mark.parametrize("limit", [0.01, 0.1])
async def test_money_that_is_spent_ends_a_search(planner, limit):
    result, llm = await limited(planner, max_cost_usd=limit)
    assert len(llm.asked) < limit / 0.01 + MOST_AT_ONCE
    assert len(result.candidates) > 0


@every_planner
async def test_tokens_that_are_used_up_end_a_search(planner):
    unlimited, _ = await limited(planner)
    result, llm = await limited(planner, max_tokens=60)
    assert 1 <= len(llm.asked) <= 2 * MOST_AT_ONCE
    assert len(result.candidates) <= len(unlimited.candidates)


class Silent(CountingPolicy):
    """Counts its requests, but not what they take."""

    async def propose(self, history, *, n, rng, greedy=False, reflections=()):
        actions = await super().propose(history, n=n, rng=rng, greedy=greedy, reflections=reflections)
        self.usage = Usage(calls=len(self.asked))
        return actions


@every_planner
@pytest.mark.parametrize("limits", [{"max_tokens": 60}, {"max_cost_usd": 0.1}])
async def test_a_limit_on_what_nobody_counts_is_refused(planner, limits):
    budget = SearchBudget(**limits)
    with pytest.raises(ConfigError, match="limit its calls instead"):
        await search(planner.model_copy(update={"budget": budget}), TASK, policy=Silent())


class Unlucky(CountingPolicy):
    """At first, gets a reply that is no answer, and whose tokens nobody counts."""

    async def propose(self, history, *, n, rng, greedy=False, reflections=()):
        first = not self.asked
        actions = await super().propose(history, n=n, rng=rng, greedy=greedy, reflections=reflections)
        if first:
            self.usage = Usage(calls=1)
            raise LLMError("the reply was unusable")
        return actions


@every_planner
@pytest.mark.parametrize("limits", [{"max_tokens": 60}, {"max_cost_usd": 0.1}])
async def test_a_reply_that_is_no_answer_may_lack_its_count(planner, limits):
    budget = SearchBudget(**limits)
    policy = Unlucky(PricedLLM())
    result = await search(planner.model_copy(update={"budget": budget}), TASK, policy=policy)
    assert "the reply was unusable" in result.model_dump_json()


@every_planner
async def test_when_time_is_up_nothing_is_asked_any_more(planner):
    result, llm = await limited(planner, max_seconds=0)
    assert llm.asked == []
    assert [candidate.trajectory.stop_reason for candidate in result.candidates] == ["truncated"]


@every_planner
async def test_time_that_runs_out_on_the_way_ends_a_search_with_what_there_is(planner):
    class Slow(PricedLLM):
        async def generate(self, messages: Sequence[Message], **settings: object) -> list[Completion]:
            await asyncio.sleep(0.02)
            return await super().generate(messages, **settings)

    llm = Slow()
    budget = SearchBudget(max_seconds=0.07)
    result = await search(planner.model_copy(update={"budget": budget}), TASK, judge=Held(), policy=CountingPolicy(llm))
    # The last ones may set out just before the time is up.
    assert 1 <= len(llm.asked) <= 4 * MOST_AT_ONCE
    assert result.candidates[result.answer].trajectory.failure is None


@every_planner
@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_trajectories_are_tried_than_allowed_failed_ones_included(planner, limit):
    result, _ = await limited(planner, max_trajectories=limit)
    assert len(result.candidates) <= limit

    class Trap(Toy):
        def step(self, action: str) -> StepResult:
            if action == "leave":
                raise EnvError("the door broke")
            return super().step(action)

    budget = SearchBudget(max_trajectories=limit)
    broken = await search(planner.model_copy(update={"budget": budget}), TASK, make=Trap)
    assert 1 <= len(broken.candidates) <= limit


async def test_no_call_is_made_once_all_trajectories_are_tried():
    for planner in PLANNERS:
        _, llm = await limited(planner, max_trajectories=1)
        # Four steps, a reflection, and what a wave or a beam asks together on its way to its first end.
        assert len(llm.asked) <= 4 * MOST_AT_ONCE


@pytest.mark.parametrize("planner", [Sampling(n=30), BestOfN(n=30)], ids=lambda planner: planner.name)
async def test_a_budget_for_some_of_the_trajectories_gives_whole_ones_and_not_the_beginnings_of_all(planner):
    result, _ = await limited(planner, max_calls=30)
    assert len(result.candidates) >= 5
    undisturbed, _ = await limited(planner)
    there = [candidate.trajectory.actions for candidate in undisturbed.candidates]
    assert all(candidate.trajectory.actions in there for candidate in result.candidates)


async def test_what_is_cut_off_is_an_answer_only_where_nothing_is_whole():
    cut, _ = await limited(BestOfN(n=5), max_calls=1)
    (candidate,) = cut.candidates
    assert (len(candidate.trajectory.steps), candidate.trajectory.stop_reason) == (1, "truncated")
    assert candidate.score is not None
    whole, _ = await limited(BestOfN(n=5), max_calls=9)
    assert all(candidate.trajectory.final_observation.actions is None for candidate in whole.candidates)


async def test_candidates_are_named_in_the_order_in_which_they_were_found():
    for planner in PLANNERS:
        result, _ = await limited(planner)
        names = [candidate.trajectory.id for candidate in result.candidates]
        assert names == [f"{TASK.id}#{i}" for i in range(len(names))]
