from statistics import fmean

import pytest

from armap.errors import LLMError, RewardModelError
from armap.llms.scripted import ScriptedLLM
from armap.rewards.prompted import PromptedRewardModel
from rewards.toy_pairs import toy_trajectories

TRAJECTORIES = toy_trajectories(6, 1)


async def test_a_score_is_the_mean_of_what_the_model_says_of_the_trajectory_whatever_its_company():
    def says(messages, rng):
        return str(len(messages[-1].content) % 11)

    model = PromptedRewardModel(ScriptedLLM(says))
    scores = await model.score(TRAJECTORIES)
    assert all(0 <= score <= 1 for score in scores)
    assert await model.score(TRAJECTORIES[::-1]) == scores[::-1]
    assert [(await model.score([one]))[0] for one in TRAJECTORIES] == scores


async def test_the_model_is_asked_for_several_grades_and_sees_the_whole_attempt():
    drawn = []

    def says(messages, rng):
        assert TRAJECTORIES[0].task.instruction in messages[-1].content
        assert all(text in messages[-1].content for text in TRAJECTORIES[0].actions)
        drawn.append(rng.randrange(11))
        return str(drawn[-1])

    (score,) = await PromptedRewardModel(ScriptedLLM(says)).score(TRAJECTORIES[:1])
    assert len(drawn) > 1
    assert score == pytest.approx(fmean(drawn) / 10)


async def test_a_model_that_reasons_has_room_to_do_so():
    longest = []

    class Recording(ScriptedLLM):
        async def generate(self, messages, *, n, sampling, choices=None):
            longest.append(sampling.max_tokens)
            return await super().generate(messages, n=n, sampling=sampling, choices=choices)

    for settings in ({}, {"reply_tokens": 4000}):
        await PromptedRewardModel(Recording(), **settings).score(TRAJECTORIES[:1])
    assert longest == [4, 4000]


async def test_a_model_without_an_answer_gives_no_score():
    def mute(messages, rng):
        raise LLMError("the server is down")

    with pytest.raises(RewardModelError, match="no grade: the server is down"):
        await PromptedRewardModel(ScriptedLLM(mute)).score(TRAJECTORIES)
