import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import Random

import pytest

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import BudgetError, EnvError, LLMError, PolicyError
from armap.llms.scripted import ScriptedLLM
from armap.planners.rollouts import Rollouts, rollouts
from armap.policy import PromptedPolicy
from armap.protocols import LLM, StepResult
from armap.seeds import rng_for
from armap.types import Completion, Message, SamplingParams, Task, Trajectory
from armap.world import LiveWorld

(TASK,) = toy.tasks(1, 0, "train")
UNIFORM = ScriptedLLM()


class CountingLLM(ScriptedLLM):
    """Draws among the choices, late and in no order, and remembers how many answers it was asked for, and where."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[tuple[Message, ...], int]] = []
        self.seeds: list[int | None] = []
        self._lateness = Random(0)

    async def generate(
        self, messages: Sequence[Message], *, n: int, sampling: SamplingParams, choices: Sequence[str] | None = None
    ) -> list[Completion]:
        self.asked.append((tuple(messages), n))
        self.seeds.append(sampling.seed)
        for _ in range(self._lateness.randrange(5)):
            await asyncio.sleep(0)
        return await super().generate(messages, n=n, sampling=sampling, choices=choices)


class UneasyLLM(ScriptedLLM):
    """Draws among the choices, but will not touch anything blue."""

    async def generate(
        self, messages: Sequence[Message], *, n: int, sampling: SamplingParams, choices: Sequence[str] | None = None
    ) -> list[Completion]:
        if "You hold the blue" in messages[-1].content:
            raise LLMError("not blue")
        return await super().generate(messages, n=n, sampling=sampling, choices=choices)


class Trap(Toy):
    """A room whose door breaks for whoever leaves with nothing."""

    def step(self, action: str) -> StepResult:
        result = super().step(action)
        if result.observation.text == "You left with nothing.":
            raise EnvError("the door broke")
        return result


async def draw(
    n: int,
    *,
    llm: LLM = UNIFORM,
    seed: int = 0,
    task: Task = TASK,
    make: Callable[[], Toy] = Toy,
    world: LiveWorld | None = None,
    **settings: bool,
) -> Rollouts:
    policy = PromptedPolicy(llm, rules=Toy.rules, sampling=SamplingParams(), **settings)
    return await rollouts(task, world or LiveWorld(make), policy, n=n, rng=rng_for(seed))


# Identical states


def open_states(trajectories: Sequence[Trajectory]) -> Counter[tuple[str, ...]]:
    """How many trajectories asked for an action at each state."""
    return Counter(trajectory.actions[:i] for trajectory in trajectories for i in range(len(trajectory.steps)))


async def test_identical_states_share_one_request_for_as_many_proposals():
    llm = CountingLLM()
    drawn = await draw(50, llm=llm)
    states = open_states(drawn.trajectories)
    assert 1 < len(states) < states.total()
    assert sorted(n for _, n in llm.asked) == sorted(states.values())
    assert len({messages for messages, _ in llm.asked}) == len(llm.asked) == len(states)
    assert drawn.merged_proposals == states.total() - len(states)


async def test_a_single_trajectory_merges_nothing():
    assert (await draw(1)).merged_proposals == 0


async def test_trajectories_are_whole_records_of_the_task_in_the_order_drawn():
    trajectories = (await draw(20)).trajectories
    assert [trajectory.id for trajectory in trajectories] == [f"{TASK.id}#{i}" for i in range(20)]
    for trajectory in trajectories:
        assert trajectory.task == TASK
        assert trajectory.final_observation.actions is None
        assert all(step.action.text in step.observation.actions for step in trajectory.steps)
    assert {trajectory.stop_reason for trajectory in trajectories} == {"terminated", "truncated"}


# Distribution


def outcomes(shelf: tuple[str, ...], held: str = "nothing", steps_left: int = 4) -> Counter[str]:
    """The probability of every last observation under uniform play."""
    things = [thing for thing in shelf if thing != held]
    share = 1 / (len(things) + 1)
    found = Counter({f"left with {held}": share})
    for thing in things:
        if steps_left == 1:
            found[f"held {thing}"] += share
        else:
            for outcome, p in outcomes(shelf, thing, steps_left - 1).items():
                found[outcome] += share * p
    return found


def outcome(trajectory: Trajectory) -> str:
    last = trajectory.final_observation.text
    if last.startswith("You left"):
        return last.removeprefix("You ").removesuffix(".").replace("the ", "")
    return "held " + last.rpartition("You hold the ")[2].removesuffix(".")


EXPECTED = outcomes(tuple(text.removeprefix("take ") for text in Toy().reset(TASK).actions[:-1]))


def chi_square(counts: Mapping[str, int], expected: Mapping[str, float]) -> float:
    """How many standard deviations the chi-square statistic lies above its mean."""
    total, freedom = sum(counts.values()), len(expected) - 1
    statistic = sum((counts.get(key, 0) - total * p) ** 2 / (total * p) for key, p in expected.items())
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [1, 5, 400])
async def test_outcomes_are_as_frequent_as_under_independent_play_however_many_are_drawn_together(n):
    world, counts = LiveWorld(Toy), Counter()
    for seed in range(2000 // n):
        counts.update(map(outcome, (await draw(n, world=world, seed=seed)).trajectories))
    assert sum(EXPECTED.values()) == pytest.approx(1)
    assert set(counts) <= set(EXPECTED)
    assert chi_square(counts, EXPECTED) < 4


async def test_the_test_of_frequencies_would_notice_a_bias():
    counts = Counter(map(outcome, (await draw(2000)).trajectories))
    biased = {key: p * (1.6 if "ball" in key else 1) for key, p in EXPECTED.items()}
    assert chi_square(counts, {key: p / sum(biased.values()) for key, p in biased.items()}) > 4


def assert_independent(pairs: Sequence[tuple[str, str]], expected: Mapping[str, float]) -> None:
    joint = {f"{a}|{b}": expected[a] * expected[b] for a, b in product(expected, repeat=2)}
    assert chi_square(Counter(f"{a}|{b}" for a, b in pairs), joint) < 4


async def test_trajectories_drawn_together_are_independent():
    world = LiveWorld(Toy)
    batches = [(await draw(4, world=world, seed=seed)).trajectories for seed in range(1000)]
    ways = [[outcome(one).split()[0] for one in batch] for batch in batches]
    left = sum(p for key, p in EXPECTED.items() if key.startswith("left"))
    pairs = [(way[i], way[j]) for way in ways for i, j in ((0, 1), (2, 3))]
    assert_independent(pairs, {"left": left, "held": 1 - left})


# Thoughts


def dreamer(messages: Sequence[Message], rng: Random) -> str:
    """Think of an object, wait for a step, and take what it thought of."""
    said = [message.content for message in messages if message.role == "assistant"]
    if not said:
        return f"Thought: {rng.choice(['red ball', 'red cone'])}\nAction: wait"
    if len(said) == 1:
        return f"Thought: Now.\nAction: take {said[0].removeprefix('Thought: ').partition(chr(10))[0]}"
    return "Action: leave"


SHELF_0 = Task(id="t", env="toy", instruction="Leave.", config={"shelf": 0, "wanted": "red cube"})


async def test_trajectories_with_the_same_actions_keep_the_thoughts_they_had():
    drawn = await draw(40, llm=ScriptedLLM(dreamer), task=SHELF_0, choose=False, strict=True)
    for trajectory in drawn.trajectories:
        assert f"take {trajectory.steps[0].action.thought}" == trajectory.steps[1].action.text
    assert len({trajectory.actions for trajectory in drawn.trajectories}) == 2
    assert drawn.merged_proposals == 39 + 38 + 38


async def test_trajectories_that_think_are_independent():
    world, llm = LiveWorld(Toy), ScriptedLLM(dreamer)
    pairs = []
    for seed in range(300):
        drawn = await draw(2, llm=llm, task=SHELF_0, world=world, seed=seed, choose=False, strict=True)
        pairs.append(tuple(trajectory.actions[1] for trajectory in drawn.trajectories))
    assert_independent(pairs, {"take red ball": 0.5, "take red cone": 0.5})


# Repeatability


async def test_the_same_seed_draws_the_same_and_another_seed_draws_others():
    assert await draw(20) == await draw(20)
    assert (await draw(20)).trajectories != (await draw(20, seed=1)).trajectories


async def test_every_state_has_a_seed_of_its_own_for_models_whose_draws_depend_on_the_seed_alone():
    llm = CountingLLM()
    await draw(50, llm=llm)
    assert len(set(llm.seeds)) == len(llm.seeds) > 50
    assert None not in llm.seeds


async def test_what_runs_at_the_same_time_changes_nothing():
    alone = [(await draw(10, seed=seed)).trajectories for seed in range(16)]
    llm, world = CountingLLM(), LiveWorld(Toy)
    together = await asyncio.gather(*(draw(10, llm=llm, world=world, seed=seed) for seed in range(16)))
    assert [drawn.trajectories for drawn in together] == alone


# Failures


def assert_only_some_failed(drawn: Rollouts, undisturbed: Rollouts, kind: str, message: str) -> list[Trajectory]:
    """Return what failed; everything else is as if nothing had failed."""
    failed = [trajectory for trajectory in drawn.trajectories if trajectory.failure]
    assert 0 < len(failed) < len(drawn.trajectories)
    for found, other in zip(drawn.trajectories, undisturbed.trajectories, strict=True):
        if found.failure is None:
            assert found == other
        else:
            assert found.actions == other.actions[: len(found.actions)]
            assert (found.stop_reason, found.failure.kind, found.failure.message) == ("failed", kind, message)
    return failed


async def test_a_model_that_fails_at_one_state_leaves_the_other_trajectories_as_they_would_have_been():
    failed = assert_only_some_failed(await draw(30, llm=UneasyLLM()), await draw(30), "LLMError", "not blue")
    assert all("You hold the blue" in trajectory.final_observation.text for trajectory in failed)


async def test_an_environment_that_breaks_leaves_the_other_trajectories_as_they_would_have_been():
    failed = assert_only_some_failed(await draw(30, make=Trap), await draw(30), "EnvError", "the door broke")
    assert {trajectory.actions for trajectory in failed} == {()}


async def test_replies_that_cannot_be_read_are_drawn_again_from_those_that_can():
    def mumble(messages: Sequence[Message], rng: Random) -> str:
        return rng.choice(["", "", "leave", "wait"])

    drawn = await draw(200, llm=ScriptedLLM(mumble), choose=False)
    assert not any(trajectory.failure for trajectory in drawn.trajectories)
    first = Counter(trajectory.actions[0] for trajectory in drawn.trajectories)
    assert set(first) == {"leave", "wait"}
    assert all(60 < count < 140 for count in first.values())


async def test_no_readable_reply_at_all_fails_every_trajectory_and_raises_nothing():
    drawn = await draw(3, llm=ScriptedLLM(lambda messages, rng: " "), choose=False)
    assert [trajectory.failure.kind for trajectory in drawn.trajectories] == [PolicyError.__name__] * 3


async def test_a_task_that_cannot_start_is_an_error():
    with pytest.raises(EnvError, match="cannot start task"):
        await draw(3, task=TASK.model_copy(update={"config": {}}))


async def test_a_spent_budget_is_not_taken_for_a_failed_trajectory():
    def broke(messages: Sequence[Message], rng: Random) -> str:
        raise BudgetError("spent")

    with pytest.raises(BudgetError, match="spent"):
        await draw(3, llm=ScriptedLLM(broke), choose=False)
