import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from armap.llms.cached import CachedLLM
from armap.llms.http import HTTPLLM
from armap.llms.scripted import ScriptedLLM
from armap.protocols import LLM
from armap.seeds import rng_for
from armap.store import Ledger, RunFolder
from armap.types import Message, SamplingParams, Usage
from llms.hostile_server import HostileServer, answer

ASK = [
    Message(role="system", content="Take objects from the shelf ."),
    Message(role="user", content="On the shelf : red ball , blue cone . You hold nothing ."),
]
ASK_MORE = [*ASK, Message(role="assistant", content="take red ball"), Message(role="user", content="You hold red ball")]
CHOICES = ("take red ball", "take blue cone", "leave")
SAMPLING = SamplingParams(seed=5, temperature=20.0, max_tokens=6)

Opened = AbstractAsyncContextManager[LLM]


async def serve(request, writer):
    """Answer as a proper server does: every sample from the seed, and from the schema where there is one."""
    format = request.get("response_format")
    contents = []
    for index in range(request.get("n", 1)):
        rng = rng_for(request["messages"], request["temperature"] and request["seed"] + index)
        if format is None:
            contents.append(" ".join(rng.choices(["red", "ball", "leave"], k=4)))
        else:
            offered = format["json_schema"]["schema"]["properties"]["action"]["enum"]
            contents.append(json.dumps({"action": rng.choice(offered)}))
    usage = {"prompt_tokens": 30, "completion_tokens": 4 * len(contents)}
    await answer(*contents, usage=usage)(request, writer)


def speak(messages, rng):
    return rng.choice(CHOICES)


@asynccontextmanager
async def scripted(folder: Path) -> AsyncIterator[LLM]:
    yield ScriptedLLM(speak)


@asynccontextmanager
async def cached(folder: Path) -> AsyncIterator[LLM]:
    with RunFolder(folder / "run") as run:
        yield CachedLLM(ScriptedLLM(speak), Ledger(run))


@asynccontextmanager
async def http(folder: Path) -> AsyncIterator[LLM]:
    async with HostileServer(otherwise=serve) as server:
        llm = HTTPLLM(base_url=server.base_url, model="m", backoff_s=0.002, max_attempts=2)
        yield llm
        await llm.close()


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[LLM]:
    from armap.llms.local import LocalLLM
    from tiny_model import make_tiny_model

    yield LocalLLM(make_tiny_model(folder / "model", seed=3))


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the local extra is not installed: no local model is tested"
)
every_llm = pytest.mark.parametrize("opened", [scripted, cached, http, pytest.param(local, marks=needs_torch)])
with_and_without_choices = pytest.mark.parametrize("choices", [None, CHOICES])


@every_llm
@with_and_without_choices
@pytest.mark.parametrize("n", [1, 2, 9])
async def test_exactly_as_many_answers_come_as_were_asked_for(opened: Callable[[Path], Opened], n, choices, tmp_path):
    async with opened(tmp_path) as llm:
        assert len(await llm.generate(ASK, n=n, sampling=SAMPLING, choices=choices)) == n


@every_llm
async def test_every_answer_is_one_of_the_choices_and_no_choice_is_left_out_for_ever(opened, tmp_path):
    async with opened(tmp_path) as llm:
        answers = await llm.generate(ASK, n=60, sampling=SAMPLING, choices=CHOICES)
        assert {answer.text for answer in answers} == set(CHOICES)


@pytest.mark.parametrize("opened", [http, pytest.param(local, marks=needs_torch)])
async def test_a_single_choice_is_taken(opened, tmp_path):
    async with opened(tmp_path) as llm:
        answers = await llm.generate(ASK, n=3, sampling=SAMPLING, choices=["leave"])
        assert [answer.text for answer in answers] == ["leave"] * 3


@every_llm
@with_and_without_choices
async def test_the_same_seed_gives_the_same_answers_and_another_one_others(opened, choices, tmp_path):
    async with opened(tmp_path) as llm:

        async def texts(seed: int) -> list[str]:
            sampling = SAMPLING.model_copy(update={"seed": seed})
            return [answer.text for answer in await llm.generate(ASK, n=20, sampling=sampling, choices=choices)]

        first, other, again = await texts(1), await texts(2), await texts(1)
        assert first == again != other
        assert len(set(first)) > 1


@every_llm
async def test_what_is_asked_at_the_same_time_changes_no_answer(opened, tmp_path):
    async with opened(tmp_path / "alone") as llm:
        alone = [await llm.generate(ask, n=4, sampling=SAMPLING, choices=CHOICES) for ask in (ASK, ASK_MORE)]
    async with opened(tmp_path / "together") as llm:
        requests = [llm.generate(ask, n=4, sampling=SAMPLING, choices=CHOICES) for ask in (ASK, ASK_MORE) * 4]
        together = await asyncio.gather(*requests)
    for i, answers in enumerate(together):
        assert [answer.text for answer in answers] == [answer.text for answer in alone[i % 2]]


@every_llm
@with_and_without_choices
async def test_usage_is_never_negative_and_the_first_answer_carries_it_all(opened, choices, tmp_path):
    async with opened(tmp_path) as llm:
        first, *others = await llm.generate(ASK, n=5, sampling=SAMPLING, choices=choices)
    assert first.usage.calls >= 1
    assert first.usage.prompt_tokens > 0
    assert all(value >= 0 for value in first.usage.model_dump().values())
    assert first.usage.cached_tokens <= first.usage.prompt_tokens
    assert [answer.usage for answer in others] == [Usage()] * 4


@every_llm
@with_and_without_choices
async def test_a_model_that_knows_its_distribution_over_the_choices_says_what_can_be_true(opened, choices, tmp_path):
    async with opened(tmp_path) as llm:
        for completion in await llm.generate(ASK, n=5, sampling=SAMPLING, choices=choices):
            entropy, mass = completion.choice_entropy_nats, completion.choice_mass
            assert entropy is None or (choices and 0 <= entropy <= 1.0987)
            assert mass is None or (choices and 0 <= mass <= 1)


@every_llm
async def test_every_model_has_a_name_and_does_not_change_what_it_is_asked(opened, tmp_path):
    messages, choices = list(ASK), list(CHOICES)
    async with opened(tmp_path) as llm:
        assert llm.name
        await llm.generate(messages, n=2, sampling=SAMPLING, choices=choices)
    assert (messages, choices) == (ASK, list(CHOICES))
