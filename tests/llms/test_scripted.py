import math
from collections import Counter

import pytest

from armap.errors import LLMError
from armap.llms.scripted import ScriptedLLM
from armap.types import Message, SamplingParams

QUESTION = [Message(role="system", content="Be brief."), Message(role="user", content="Where do we go now?")]
SAMPLING = SamplingParams(seed=3)
DIRECTIONS = ("north", "south", "east", "west")


def _dice(messages, rng):
    return f"{len(messages)} {rng.random()}"


async def _texts(llm, messages=QUESTION, *, n=4, sampling=SAMPLING, choices=None):
    return [c.text for c in await llm.generate(messages, n=n, sampling=sampling, choices=choices)]


async def test_the_same_request_gets_the_same_answers_whatever_was_asked_before():
    asked_before = ScriptedLLM(_dice)
    await _texts(asked_before, QUESTION[1:])
    assert await _texts(asked_before) == await _texts(ScriptedLLM(_dice))


async def test_asking_for_fewer_answers_gives_the_first_of_them():
    assert await _texts(ScriptedLLM(_dice), n=2) == (await _texts(ScriptedLLM(_dice), n=5))[:2]


@pytest.mark.parametrize(
    "other",
    [
        {"llm": ScriptedLLM(_dice, name="other")},
        {"messages": [QUESTION[0], Message(role="user", content="Where?")]},
        {"messages": [QUESTION[0], Message(role="assistant", content=QUESTION[1].content)]},
        {"sampling": SamplingParams(seed=4)},
        {"sampling": SamplingParams()},
    ],
)
async def test_another_name_conversation_or_seed_draws_other_answers(other):
    assert await _texts(**({"llm": ScriptedLLM(_dice)} | other)) != await _texts(ScriptedLLM(_dice))


async def test_without_a_reply_function_choices_are_drawn_uniformly_and_say_so():
    answers = await ScriptedLLM().generate(QUESTION, n=4000, sampling=SAMPLING, choices=DIRECTIONS)
    counts = Counter(answer.text for answer in answers)
    assert set(counts) == set(DIRECTIONS)
    assert all(900 < count < 1100 for count in counts.values())
    assert {answer.choice_entropy_nats for answer in answers} == {math.log(4)}


async def test_without_a_reply_function_a_free_question_is_refused():
    with pytest.raises(LLMError, match="no reply function"):
        await _texts(ScriptedLLM())


async def test_a_reply_that_is_one_of_the_choices_is_taken_without_claiming_a_distribution():
    llm = ScriptedLLM(lambda messages, rng: "west")
    answers = await llm.generate(QUESTION, n=2, sampling=SAMPLING, choices=DIRECTIONS)
    assert [(a.text, a.choice_entropy_nats, a.choice_mass) for a in answers] == [("west", None, None)] * 2


async def test_a_reply_outside_the_choices_is_an_error_that_names_it():
    with pytest.raises(LLMError, match=r"'up', which is none of the 4 offered choices"):
        await _texts(ScriptedLLM(lambda messages, rng: "up"), choices=DIRECTIONS)


async def test_the_first_of_several_answers_carries_the_whole_cost_in_words():
    answers = await ScriptedLLM(lambda messages, rng: "to the west").generate(QUESTION, n=3, sampling=SAMPLING)
    first, *others = [answer.usage for answer in answers]
    assert (first.calls, first.prompt_tokens, first.completion_tokens) == (1, 7, 9)
    assert all(usage.calls == usage.tokens == 0 for usage in others)


async def test_recorded_replies_come_in_order_until_they_run_out():
    llm = ScriptedLLM.replaying(["one", "two", "three"])
    assert await _texts(llm, n=2) == ["one", "two"]
    assert await _texts(llm, n=1) == ["three"]
    with pytest.raises(LLMError, match="all of its 3 recorded replies"):
        await _texts(llm, n=1)
