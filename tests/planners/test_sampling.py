from collections.abc import Sequence

import pytest

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import LLMError
from armap.llms.scripted import ScriptedLLM
from armap.planners.sampling import Sampling
from armap.policy import PromptedPolicy
from armap.seeds import rng_for
from armap.types import Completion, Message, SamplingParams, SearchResult, Trajectory
from armap.world import LiveWorld

(TASK,) = toy.tasks(1, 0, "train")


class Unasked:
    """A reward model that must not be asked."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        raise AssertionError("nobody needs a score here")


class UneasyLLM(ScriptedLLM):
    """Draws among the choices, but answers nothing where it reads a certain word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    async def generate(
        self, messages: Sequence[Message], *, n: int, sampling: SamplingParams, choices: Sequence[str] | None = None
    ) -> list[Completion]:
        if self._word in messages[-1].content:
            raise LLMError("not that")
        return await super().generate(messages, n=n, sampling=sampling, choices=choices)


async def sample(n: int, *, llm: ScriptedLLM, seed: int = 0) -> SearchResult:
    policy = PromptedPolicy(llm, rules=Toy.rules, sampling=SamplingParams())
    return await Sampling(n=n).plan(TASK, LiveWorld(Toy), policy, Unasked(), rng_for(seed))


async def test_the_first_trajectory_is_the_answer_and_none_is_scored():
    result = await sample(8, llm=ScriptedLLM())
    assert (result.planner, result.answer, result.failure) == ("sampling", 0, None)
    assert [candidate.score for candidate in result.candidates] == [None] * 8
    assert len({candidate.trajectory.id for candidate in result.candidates}) == 8


async def test_a_first_trajectory_that_failed_is_a_failed_search_even_if_others_did_not():
    for seed in range(100):
        result = await sample(8, llm=UneasyLLM("You hold the green"), seed=seed)
        failures = [candidate.trajectory.failure for candidate in result.candidates]
        assert result.failure == failures[0]
        assert result.answer == (None if failures[0] else 0)
        if failures[0] and not all(failures):
            return
    pytest.fail("no seed made the first trajectory fail alone")


async def test_if_every_trajectory_failed_so_did_the_search():
    result = await sample(3, llm=UneasyLLM("On the shelf"))
    assert result.answer is None
    assert result.failure.kind == "LLMError"
    assert len(result.candidates) == 3


def test_fewer_than_one_trajectory_is_refused():
    with pytest.raises(ValueError, match="greater than 0"):
        Sampling(n=0)
