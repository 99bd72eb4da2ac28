from collections.abc import Sequence
from random import Random

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import LLMError
from armap.llms.scripted import ScriptedLLM
from armap.planners.greedy import Greedy
from armap.policy import PromptedPolicy
from armap.types import Completion, Message, SamplingParams, SearchResult, Trajectory
from armap.world import LiveWorld

(TASK,) = toy.tasks(1, 0, "train")


class Unasked:
    """A reward model that must not be asked."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        raise AssertionError("nobody needs a score here")


class ColdLLM(ScriptedLLM):
    """Takes the last choice when it is asked for the likeliest, and answers nothing else."""

    async def generate(
        self, messages: Sequence[Message], *, n: int, sampling: SamplingParams, choices: Sequence[str] | None = None
    ) -> list[Completion]:
        if not choices or sampling.temperature > 0:
            raise LLMError("too hot")
        return [Completion(text=choices[-1])] * n


async def act(llm: ScriptedLLM, seed: int = 0) -> SearchResult:
    policy = PromptedPolicy(llm, rules=Toy.rules, sampling=SamplingParams(temperature=0.9))
    return await Greedy().plan(TASK, LiveWorld(Toy), policy, Unasked(), Random(seed))


async def test_one_trajectory_of_most_likely_actions_is_the_answer():
    result = await act(ColdLLM())
    (candidate,) = result.candidates
    assert candidate.trajectory.actions == ("leave",)
    assert (result.planner, result.answer, candidate.score, result.merged_proposals) == ("greedy", 0, None, 0)


async def test_the_seed_does_not_matter_to_a_model_that_is_sure():
    assert await act(ColdLLM(), seed=1) == await act(ColdLLM(), seed=2)


async def test_a_failed_trajectory_is_a_failed_search():
    result = await act(ScriptedLLM(lambda messages, rng: "dance"))
    assert result.answer is None
    assert result.failure.kind == "LLMError"
    assert "'dance', which is none of the 7 offered choices" in result.failure.message
    assert len(result.candidates) == 1
