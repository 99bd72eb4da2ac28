import math
from collections.abc import Callable, Sequence
from random import Random

import pytest
from pydantic import ValidationError

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import EnvError, LLMError
from armap.llms.scripted import ScriptedLLM
from armap.planners.reflexion import Reflexion
from armap.policy import PromptedPolicy
from armap.protocols import RewardModel, StepResult
from armap.rewards.calibration import Calibrated
from armap.types import Calibration, Message, SamplingParams, SearchResult, Task, Trajectory

from .players import search

(TASK,) = toy.tasks(1, 0, "test")
ASKED_TO_REFLECT = "say what went wrong"


class Thinker:
    """Leaves with what the attempt's number says, and learns the sentence `Lesson 1.`, `Lesson 2.`, ..."""

    def __init__(self, *, mute: bool = False) -> None:
        self.conversations: list[list[str]] = []
        self.reflected = 0
        self.mute = mute

    def __call__(self, messages: Sequence[Message], rng: Random) -> str:
        self.conversations.append([message.content for message in messages])
        if ASKED_TO_REFLECT in messages[-1].content:
            self.reflected += 1
            if self.mute:
                raise LLMError("no idea")
            return f"  Lesson\n{self.reflected}. "
        return "leave" if "You hold nothing" not in messages[-1].content else rng.choice(_things(messages))

    @property
    def attempts(self) -> list[list[str]]:
        """The first message of the user in every attempt's first request."""
        return [talk for talk in self.conversations if ASKED_TO_REFLECT not in talk[-1] and len(talk) == 2]


def _things(messages: Sequence[Message]) -> list[str]:
    shelf = messages[-1].content.rpartition("On the shelf: ")[2].partition(".")[0]
    return [f"take {thing}" for thing in shelf.split(", ")]


class Scores:
    """Gives the n-th attempt the n-th score."""

    def __init__(self, *scores: float) -> None:
        self._scores = iter(scores)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [next(self._scores) for _ in trajectories]


async def reflect(
    planner: Reflexion,
    judge: RewardModel,
    thinker: Thinker | None = None,
    *,
    task: Task = TASK,
    make: Callable[[], Toy] = Toy,
) -> SearchResult:
    policy = PromptedPolicy(ScriptedLLM(thinker or Thinker()), rules="Act.", sampling=SamplingParams(), choose=False)
    return await search(planner, task, judge=judge, policy=policy, make=make)


# Reflections


async def test_what_the_policy_makes_of_an_attempt_stands_in_the_prompt_of_the_next_ones_oldest_first():
    thinker = Thinker()
    await reflect(Reflexion(trials=4), Scores(-1, -1, -1, -1), thinker)
    lessons = [
        [line.removeprefix("From an earlier attempt: ") for line in talk[1].splitlines() if "earlier attempt" in line]
        for talk in thinker.attempts
    ]
    assert lessons == [[], ["Lesson 1."], ["Lesson 1.", "Lesson 2."], ["Lesson 1.", "Lesson 2.", "Lesson 3."]]


@pytest.mark.parametrize(("memory", "longest"), [(1, 1), (2, 2), (None, 6)])
async def test_only_the_latest_reflections_are_remembered(memory, longest):
    thinker = Thinker()
    await reflect(Reflexion(trials=7, memory=memory), Scores(*[-1] * 7), thinker)
    counts = [talk[1].count("earlier attempt") for talk in thinker.attempts]
    assert counts == [min(trial, longest) for trial in range(7)]
    assert f"Lesson {7 - 1}." in thinker.attempts[-1][1]


async def test_the_policy_reflects_on_what_it_did_and_saw_and_knows_its_earlier_reflections():
    thinker = Thinker()
    result = await reflect(Reflexion(trials=3), Scores(-1, -1, -1), thinker)
    first, second = [talk for talk in thinker.conversations if ASKED_TO_REFLECT in talk[-1]]
    for talk, candidate in zip((first, second), result.candidates, strict=False):
        assert [said for said in talk if said in candidate.trajectory.actions] == [*candidate.trajectory.actions]
        assert candidate.trajectory.final_observation.text in talk[-1]
    assert "Lesson 1." not in " ".join(first)
    assert "Lesson 1." in second[1]


async def test_what_is_asked_of_an_attempt_begins_as_what_was_asked_in_it_so_that_a_prompt_cache_knows_it():
    thinker = Thinker()
    policy = PromptedPolicy(
        ScriptedLLM(thinker), rules="Act.", examples=Toy.examples, sampling=SamplingParams(), choose=False
    )
    await search(Reflexion(trials=2), TASK, judge=Scores(-1, -1), policy=policy)
    (asked,) = [i for i, talk in enumerate(thinker.conversations) if ASKED_TO_REFLECT in talk[-1]]
    last_action = thinker.conversations[asked - 1]
    assert thinker.conversations[asked][: len(last_action)] == last_action


async def test_nobody_is_asked_for_a_reflection_that_nobody_would_read():
    thinker = Thinker()
    await reflect(Reflexion(trials=3), Scores(-1, -1, -1), thinker)
    assert thinker.reflected == 2
    thinker = Thinker()
    await reflect(Reflexion(trials=3), Scores(1), thinker)
    assert thinker.reflected == 0


async def test_a_policy_that_cannot_reflect_goes_on_without_and_that_is_recorded():
    thinker = Thinker(mute=True)
    result = await reflect(Reflexion(trials=3), Scores(-3, -1, -2), thinker)
    assert [candidate.score for candidate in result.candidates] == [-3, -1, -2]
    assert [(failure.kind, failure.message) for failure in result.setbacks] == [("LLMError", "no idea")] * 2
    assert (result.answer, result.failure) == (1, None)
    assert not any("earlier attempt" in talk[1] for talk in thinker.attempts)


async def test_an_attempt_that_broke_is_no_lesson():
    class Trap(Toy):
        broken = False

        def step(self, action: str) -> StepResult:
            if not Trap.broken:
                Trap.broken = True
                raise EnvError("the shelf fell")
            return super().step(action)

    thinker = Thinker()
    result = await reflect(Reflexion(trials=2), Scores(-1), thinker, make=Trap)
    assert [candidate.score for candidate in result.candidates] == [None, -1]
    assert (thinker.reflected, result.answer) == (0, 1)


# Threshold and answer


async def test_the_first_attempt_that_is_probably_good_is_the_answer_and_the_last():
    result = await reflect(Reflexion(trials=5), Scores(-0.1, 0.0, 0.1))
    assert [candidate.score for candidate in result.candidates] == [-0.1, 0.0, 0.1]
    assert result.answer == 2


@pytest.mark.parametrize(("threshold", "attempts"), [(0.88, 1), (0.89, 2), (0.953, 3), (1, 4)])
async def test_without_calibration_the_threshold_is_on_the_logistic_function_of_the_score(threshold, attempts):
    # Their probabilities are 0.881, 0.891, 0.954 and 1 as far as numbers can say.
    judge = Scores(math.log(0.881 / 0.119), 2.1, 3.03, 1000.0)
    result = await reflect(Reflexion(trials=4, threshold=threshold), judge)
    assert len(result.candidates) == attempts


@pytest.mark.parametrize(("threshold", "attempts"), [(0.4, 1), (0.6, 2), (0.9, 3)])
async def test_with_calibration_it_is_on_the_reward_models_own_probability(threshold, attempts):
    # Scores about 10, of which half are good, and a point is worth little.
    judge = Calibrated(Scores(10, 12, 100), Calibration(slope=0.5, intercept=-5, pairs=9))
    result = await reflect(Reflexion(trials=3, threshold=threshold), judge)
    assert len(result.candidates) == attempts


@pytest.mark.parametrize(("rule", "place"), [("best", 1), ("last", 3), ("first", 0)])
async def test_if_no_attempt_is_good_enough_the_rule_decides(rule, place):
    result = await reflect(Reflexion(trials=4, answer=rule), Scores(-3, -1, -1, -2))
    assert result.answer == place


@pytest.mark.parametrize("threshold", [0, -1, 1.1, math.nan])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValidationError, match="threshold"):
        Reflexion(threshold=threshold)


def test_the_rules_of_the_released_code_answer_with_the_last_attempt_and_remember_everything():
    paper = Reflexion.paper(7)
    assert (paper.trials, paper.answer, paper.memory, paper.greedy) == (7, "last", None, True)
