import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import pytest

from armap.engines.local import each
from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.toy import Toy
from armap.errors import EnvError
from armap.llms.cached import CachedLLM
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.plan import AnyPlanner
from armap.planners.beam import Beam
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.planners.mcts import MCTS
from armap.planners.reflexion import Reflexion
from armap.planners.sampling import Sampling
from armap.policy import PromptedPolicy
from armap.protocols import Planner, RewardModel, StepResult
from armap.rewards.linear import LinearRewardModel
from armap.seeds import rng_for
from armap.store import Ledger, RunFolder
from armap.types import Completion, Message, SamplingParams, SearchResult, Task
from armap.world import LiveWorld
from planners.players import Whim
from rewards.toy_pairs import toy_pairs

PLANNERS: list[AnyPlanner] = [
    Greedy(),
    Sampling(n=6),
    BestOfN(n=6),
    Reflexion(trials=4, threshold=0.9),
    Reflexion.paper(4),
    Beam(width=3, proposals=3),
    MCTS(num_simulations=6),
    MCTS(num_simulations=8, leaf="both", wave=3),
    MCTS(num_simulations=8, leaf="value", wave=2),
    MCTS.paper(6),
]
TASKS = {"game24": game24.tasks(1, 16, split="test"), "toy": toy.tasks(16, 0, "test")}
TASK = TASKS["toy"][0]
LEARNED = LinearRewardModel.fit(toy_pairs(50, 1), seed=0)

every_planner = pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: planner.name)
every_world = pytest.mark.parametrize("env", TASKS)


class LateLLM(ScriptedLLM):
    """Draws among the choices, late and in no order."""

    lateness = Random(0)

    async def generate(
        self, messages: Sequence[Message], *, n: int, sampling: SamplingParams, choices: Sequence[str] | None = None
    ) -> list[Completion]:
        for _ in range(self.lateness.randrange(4)):
            await asyncio.sleep(0)
        return await super().generate(messages, n=n, sampling=sampling, choices=choices)


class UnpaidToy(Toy):
    """The same world without pay."""

    def step(self, action: str) -> StepResult:
        return super().step(action)._replace(env_reward=0.0)


class UnpaidGame24(Game24):
    """The same world without pay."""

    def step(self, action: str) -> StepResult:
        return super().step(action)._replace(env_reward=0.0)


class Ruin(Toy):
    """A world that breaks at the first step."""

    def step(self, action: str) -> StepResult:
        raise EnvError("everything is broken")


MAKE: dict[str, Callable[[], Game24 | Toy]] = {"game24": Game24, "toy": Toy}
MAKE_UNPAID: dict[str, Callable[[], Game24 | Toy]] = {"game24": UnpaidGame24, "toy": UnpaidToy}


async def search(
    planner: Planner, task: Task, world: LiveWorld, *, seed: int = 0, reward_model: RewardModel = LEARNED
) -> SearchResult:
    policy = PromptedPolicy(LateLLM(), rules="Act.", sampling=SamplingParams())
    return await planner.plan(task, world, policy, reward_model, rng_for(seed, task.id))


@every_planner
@every_world
async def test_the_answer_is_a_whole_candidate_of_the_task(planner, env):
    world = LiveWorld(MAKE[env])
    for task in TASKS[env]:
        result = await search(planner, task, world)
        assert (result.task, result.planner, result.failure) == (task, planner.name, None)
        answer = result.candidates[result.answer].trajectory
        assert answer.failure is None
        assert all(candidate.trajectory.task == task for candidate in result.candidates)
        assert SearchResult.model_validate_json(result.model_dump_json()) == result


@every_planner
@every_world
async def test_the_same_seed_gives_the_same_answers_whatever_runs_at_the_same_time(planner, env):
    async def answers(concurrency: int, others: Sequence[Planner]) -> dict[str, SearchResult]:
        world, found = LiveWorld(MAKE[env]), {}

        async def work(task: Task) -> None:
            for other in others:
                await search(other, task, world, seed=9)
            found[task.id] = await search(planner, task, world)

        await each(TASKS[env], work, concurrency=concurrency, on_progress=lambda done, total: None)
        return found

    alone = await answers(1, [])
    assert await answers(16, []) == alone
    assert await answers(16, PLANNERS) == alone


@every_planner
@every_world
async def test_what_the_environment_pays_changes_no_answer(planner, env):
    paid, unpaid = LiveWorld(MAKE[env]), LiveWorld(MAKE_UNPAID[env])
    for seed in range(3):
        for task in TASKS[env]:
            one, other = await search(planner, task, paid, seed=seed), await search(planner, task, unpaid, seed=seed)
            assert one.answer == other.answer
            assert [(c.score, c.trajectory.actions) for c in one.candidates] == [
                (c.score, c.trajectory.actions) for c in other.candidates
            ]
            assert all(candidate.trajectory.env_reward == 0 for candidate in other.candidates)


@pytest.fixture(scope="module")
def attempts_at_random() -> dict[str, float]:
    """How often an attempt at random succeeds, by task."""

    async def draw() -> dict[str, float]:
        world, tasks = LiveWorld(Toy), toy.tasks(100, 0, "train")
        drawn = [await search(Sampling(n=6), task, world) for task in tasks]
        return {result.task.id: fmean(c.trajectory.env_reward for c in result.candidates) for result in drawn}

    return asyncio.run(draw())


@every_planner
async def test_with_a_reward_model_that_knows_nothing_no_planner_is_better_than_sampling(planner, attempts_at_random):
    world, gains = LiveWorld(Toy), []
    for task in toy.tasks(100, 0, "train"):
        result = await search(planner, task, world, reward_model=Whim())
        gains.append(result.candidates[result.answer].trajectory.env_reward - attempts_at_random[task.id])
    assert fmean(gains) < 3 * stdev(gains) / len(gains) ** 0.5


@every_planner
async def test_two_searches_that_ask_the_same_at_the_same_time_buy_it_once(planner, tmp_path):
    async def both(folder: Path, searches: int) -> tuple[list[SearchResult], int]:
        with RunFolder(folder) as run:
            ledger = Ledger(run)
            llm = CachedLLM(LateLLM(), ledger)
            policies = [PromptedPolicy(llm, rules="Act.", sampling=SamplingParams()) for _ in range(searches)]
            plans = (planner.plan(TASK, LiveWorld(Toy), policy, LEARNED, rng_for(0)) for policy in policies)
            return await asyncio.gather(*plans), ledger.spent.calls

    (alone,), calls = await both(tmp_path / "alone", 1)
    assert await both(tmp_path / "both", 2) == ([alone, alone], calls)


@every_planner
async def test_a_world_in_which_everything_breaks_gives_a_failure_and_no_answer(planner):
    result = await search(planner, TASKS["toy"][0], LiveWorld(Ruin))
    assert result.answer is None
    assert (result.failure.kind, result.failure.message) == ("EnvError", "everything is broken")
    assert all(candidate.trajectory.failure and candidate.score is None for candidate in result.candidates)


class Mute(PromptedPolicy):
    """Breaks its promise to propose an action."""

    async def propose(self, history, *, n, rng, greedy=False, reflections=()):
        return []


@every_planner
async def test_a_policy_that_proposes_nothing_gives_a_failure_and_no_answer(planner):
    policy = Mute(LateLLM(), rules="Act.", sampling=SamplingParams())
    result = await planner.plan(TASK, LiveWorld(Toy), policy, LEARNED, rng_for(0))
    assert (result.answer, result.failure.kind) == (None, "PolicyError")
    assert result.failure.message.startswith(
        f"the policy proposes no action for task {TASK.id!r}; it must propose 1 to"
    )


@every_planner
async def test_a_task_that_cannot_start_is_an_error(planner):
    with pytest.raises(EnvError, match="cannot start task"):
        await search(planner, TASKS["game24"][0], LiveWorld(Toy))


@every_planner
def test_a_planner_is_a_record_of_its_settings(planner):
    assert type(planner).model_validate_json(planner.model_dump_json()) == planner
    assert planner.model_dump()["name"] == planner.name
