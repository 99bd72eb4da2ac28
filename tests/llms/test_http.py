import asyncio
import json
import logging
import pickle
import random
import re
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version

import pytest

from armap.errors import ConfigError, LLMError
from armap.llms.http import HTTPLLM
from armap.types import Message, SamplingParams, Usage

from .hostile_server import (
    HostileServer,
    answer,
    body,
    choice,
    dripping_body,
    echo,
    endless_body,
    half_body,
    half_chunked_body,
    hang_up,
    late,
    refusal,
    reset,
)

KEY = "sk-canary-0123456789"
QUESTION = [Message(role="user", content="Where to?")]
SAMPLING = SamplingParams(temperature=0.5, top_p=0.9, max_tokens=32)
DIRECTIONS = ("go north", "go south")


@asynccontextmanager
async def asking(*script, otherwise=echo, **settings):
    async with HostileServer(script, otherwise=otherwise) as server:
        quick = {"base_url": server.base_url, "model": "m", "backoff_s": 0.002, "max_attempts": 4}
        llm = HTTPLLM(**(quick | settings))
        try:
            yield llm, server
        finally:
            await llm.close()


async def texts(llm, *, n=1, sampling=SAMPLING, choices=None, messages=QUESTION):
    return [c.text for c in await llm.generate(messages, n=n, sampling=sampling, choices=choices)]


def said_to(server):
    return [request["messages"][0]["content"] for request in server.requests]


def as_json(*actions):
    return [json.dumps({"action": action}) for action in actions]


# What is sent


async def test_a_request_says_what_was_asked_and_nothing_that_was_left_open():
    async with asking(api_key=KEY) as (llm, server):
        await texts(llm)
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Where to?"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 32,
        }
    ]
    assert server.targets == ["/v1/chat/completions"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["user-agent"] == f"armap/{version('armap')}"


async def test_a_top_p_that_means_nothing_is_not_sent():
    async with asking() as (llm, server):
        await texts(llm, sampling=SamplingParams(top_p=1.0))
    assert "top_p" not in server.requests[0]


COMPLAINTS = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
    "seed": "property 'seed' is unsupported",
    "temperature": "Unsupported value: 'temperature' does not support 0.5 with this model. Only 1 is supported.",
    "top_p": "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
}


def refuses(*fields, status=400):
    async def behave(request, writer):
        refused = next((name for name in fields if name in request), None)
        await (refusal(status, COMPLAINTS[refused]) if refused else echo)(request, writer)

    return behave


@pytest.mark.parametrize("fields", [["max_tokens"], ["seed"], ["temperature"], ["top_p"], [*COMPLAINTS]], ids=str)
@pytest.mark.parametrize("status", [400, 422])
async def test_what_a_server_does_not_take_is_left_out_from_then_on(fields, status):
    sampling = SAMPLING.model_copy(update={"seed": 7})
    async with asking(otherwise=refuses(*fields, status=status), max_attempts=1) as (llm, server):
        for _ in range(2):
            assert len(await texts(llm, n=2, sampling=sampling)) == 2
    sent = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 32, "seed": 7}
    left = {name: value for name, value in sent.items() if name not in fields}
    left |= {"max_completion_tokens": 32} if "max_tokens" in fields else {}
    told = [{name: value for name, value in one.items() if name in {*sent, *left}} for one in server.requests]
    assert told[-2:] == [left, left]
    assert len(told) == 2 + len(fields)


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        (["max_tokens"], None),
        (["seed", "top_p"], "m @ {} does not take seed and top_p: its answers were drawn with its own."),
        (["temperature"], "m @ {} does not take temperature: its answers were drawn with its own, greedy ones too."),
    ],
)
async def test_what_is_left_out_is_told(fields, remark):
    async with asking(otherwise=refuses(*fields)) as (llm, server):
        assert llm.remarks() == []
        await texts(llm, sampling=SAMPLING.model_copy(update={"seed": 7}))
        assert llm.remarks() == ([] if remark is None else [remark.format(server.base_url)])


async def test_a_field_that_a_server_names_in_form_only_is_left_out_too():
    complaint = body({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, status=422)
    async with asking(complaint) as (llm, server):
        await texts(llm, n=3, sampling=SamplingParams(seed=7))
    assert [(one["n"], "seed" in one) for one in server.requests] == [(3, True), (3, False)]


async def test_no_field_is_given_up_because_of_a_refusal_that_had_another_reason():
    bad = refusal(400, "The temperature that the prompt asks about, and the seed, are unknown.")
    sampling = SamplingParams(seed=7, top_p=0.5)
    async with asking(otherwise=moody(bad)) as (llm, server):
        with pytest.raises(LLMError, match="HTTP 400"):
            await texts(llm, messages=POISON, sampling=sampling)
        await texts(llm, sampling=sampling)
    assert {"temperature", "seed", "top_p"} <= server.requests[-1].keys()


VALUES = [
    "temperature must be between 0 and 0.4",
    "seed must be even",
    "max_tokens > 30",
    "temperature value of 4.0 but the supported range is from 0 (inclusive) to 2.0001 (exclusive).",
    "temperature: values above 2 are not supported",
    "Unsupported value: 'top_p' is lower than the minimum of 0.95.",
]


@pytest.mark.parametrize("complaint", VALUES)
async def test_a_value_that_a_server_does_not_take_is_no_field_that_it_does_not_take(complaint):
    async with asking(otherwise=refusal(400, complaint)) as (llm, server):
        with pytest.raises(LLMError, match=rf"HTTP 400 \({re.escape(complaint)}\)") as caught:
            await texts(llm, sampling=SAMPLING.model_copy(update={"seed": 7}))
    # With these settings nothing can be asked.
    assert caught.value.unavailable
    assert said_to(server) == ["Where to?", "Hello"]
    assert all({"temperature", "seed", "top_p", "max_tokens"} <= request.keys() for request in server.requests)
    assert llm.remarks() == []


async def test_n_stop_and_seed_are_sent_when_they_are_asked_for():
    async with asking() as (llm, server):
        await texts(llm, n=3, sampling=SamplingParams(stop=("\n", "END"), seed=7))
    (request,) = server.requests
    assert (request["n"], request["stop"], request["seed"]) == (3, ["\n", "END"], 7)


async def test_any_seed_is_sent_in_a_range_that_every_server_takes():
    async with asking() as (llm, server):
        for seed in (0, -1, 2**31, 2**63, 2**64 - 1):
            await texts(llm, sampling=SamplingParams(seed=seed))
    assert all(0 <= request["seed"] < 2**31 for request in server.requests)


async def test_the_query_of_the_base_url_is_sent_with_every_request():
    async with HostileServer() as server:
        llm = HTTPLLM(base_url=f"{server.base_url}/?api-version=3", model="m")
        await texts(llm)
        await llm.close()
    assert server.targets == ["/v1/chat/completions?api-version=3"]


async def test_a_user_name_in_the_base_url_is_sent_as_basic_authentication():
    async with HostileServer() as server:
        llm = HTTPLLM(base_url=f"http://ann:secret@{server.address}/v1", model="m")
        await texts(llm)
        await llm.close()
    assert server.headers[0]["authorization"] == "Basic YW5uOnNlY3JldA=="


async def test_servers_on_this_machine_are_reached_without_the_proxy(monkeypatch):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with asking() as (llm, _):
        assert await texts(llm)


async def test_servers_elsewhere_are_reached_through_the_proxy(monkeypatch):
    async with HostileServer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        llm = HTTPLLM(base_url="http://model.invalid/v1", model="m")
        await texts(llm)
        await llm.close()
    assert proxy.targets == ["http://model.invalid/v1/chat/completions"]


# Several answers


async def test_several_answers_come_from_one_request_where_the_server_takes_n():
    async with asking() as (llm, server):
        assert len(set(await texts(llm, n=5))) == 5
    assert len(server.requests) == 1


async def test_answers_beyond_n_are_cut():
    async with asking(otherwise=answer("a", "b", "c")) as (llm, _):
        assert await texts(llm, n=2) == ["a", "b"]
        assert await texts(llm, n=1) == ["a"]


async def test_a_server_that_ignores_n_is_asked_for_the_rest_and_never_for_n_again():
    async with asking(answer("a"), answer("b"), answer("c")) as (llm, server):
        assert sorted(await texts(llm, n=3)) == ["a", "b", "c"]
        await texts(llm, n=2)
    assert [request.get("n") for request in server.requests] == [3, None, None, None, None]


async def test_a_server_that_gives_some_at_a_time_gives_the_same_whatever_was_asked_before():
    async def at_most_two(request, writer):
        texts = [f"{request['seed']}/{i}" for i in range(min(2, request.get("n", 1)))]
        await answer(*texts)(request, writer)

    found = []
    for before in (0, 3):
        async with asking(otherwise=at_most_two) as (llm, _):
            for seed in range(before):
                await texts(llm, n=5, sampling=SAMPLING.model_copy(update={"seed": seed}))
            found.append(await texts(llm, n=5, sampling=SAMPLING.model_copy(update={"seed": 99})))
    assert found[0] == found[1]
    assert len(set(found[0])) == 5


@pytest.mark.parametrize(
    "complaint",
    [
        refusal(400, "Unsupported value: 'n' must be 1."),
        refusal(400, "Only one completion choice is allowed"),
        body({"error": {"message": "Unsupported parameter.", "param": "n"}}, status=400),
        body({"detail": [{"loc": ["body", "n"], "msg": "Extra inputs are not permitted"}]}, status=422),
    ],
)
async def test_a_server_that_refuses_n_gets_separate_requests_from_then_on(complaint):
    async with asking(complaint, answer("a"), answer("b")) as (llm, server):
        assert sorted(await texts(llm, n=2)) == ["a", "b"]
        await texts(llm, n=2)
    assert [request.get("n") for request in server.requests] == [2, None, None, None, None]


async def test_n_is_not_given_up_because_of_a_refusal_that_had_another_reason():
    async def refuse_long_prompts(request, writer):
        too_long = refusal(400, "With n = 2 the prompt is too long.")
        await (too_long if len(request["messages"]) > 1 else echo)(request, writer)

    async with asking(otherwise=refuse_long_prompts) as (llm, server):
        with pytest.raises(LLMError, match="HTTP 400"):
            await texts(llm, n=2, messages=QUESTION * 2)
        await texts(llm, n=2)
    assert server.requests[-1]["n"] == 2


@pytest.mark.parametrize("first", [answer("{}"), refusal(400, "n is not supported"), refusal(503)])
async def test_separate_requests_draw_the_same_samples_whether_or_not_n_was_tried_first(first):
    async with asking(first, otherwise=_seed_only) as (llm, server):
        await texts(llm, n=3, sampling=SamplingParams(seed=10))
        await texts(llm, n=3, sampling=SamplingParams(seed=10))
    assert sorted(request["seed"] for request in server.requests[-3:]) == [10, 11, 12]


async def _seed_only(request, writer):
    await answer(str(request["seed"]))(request, writer)


async def test_an_unusable_answer_among_several_is_drawn_again_with_a_seed_not_yet_used():
    choices = {"choices": [choice("a"), choice(None), choice("c")]}
    async with asking(body(choices)) as (llm, server):
        assert len(await texts(llm, n=3, sampling=SamplingParams(seed=10))) == 3
        await texts(llm, n=3)
    assert [request.get("seed") for request in server.requests] == [10, 13, None]
    assert server.requests[-1]["n"] == 3


async def test_a_bad_reply_is_not_asked_for_again_with_the_same_seed():
    async with asking(answer(None), answer(None)) as (llm, server):
        await texts(llm, sampling=SamplingParams(seed=10))
    assert len({request["seed"] for request in server.requests}) == 3


async def test_the_seed_behind_a_bad_reply_does_not_depend_on_how_many_answers_are_still_to_come():
    seeds = set()
    for n in (1, 2, 5):
        async with asking(answer(None)) as (llm, server):
            await texts(llm, n=n, sampling=SamplingParams(seed=10))
        seeds.add(server.requests[1]["seed"])
    assert len(seeds) == 1


async def test_a_busy_server_is_asked_again_with_the_same_seed():
    async with asking(refusal(503), hang_up) as (llm, server):
        await texts(llm, sampling=SamplingParams(seed=10))
    assert [request["seed"] for request in server.requests] == [10, 10, 10]


# Choices


async def test_choices_are_offered_as_a_strict_schema():
    async with asking(answer(*as_json("go south"))) as (llm, server):
        assert await texts(llm, choices=DIRECTIONS, sampling=SamplingParams(stop=('"',))) == ["go south"]
    (request,) = server.requests
    schema = request["response_format"]["json_schema"]
    assert request["response_format"]["type"] == "json_schema"
    assert schema["strict"] is True
    assert schema["schema"] == {
        "type": "object",
        "properties": {"action": {"type": "string", "enum": ["go north", "go south"]}},
        "required": ["action"],
        "additionalProperties": False,
    }
    assert "stop" not in request


async def test_a_long_choice_is_not_cut_short_by_max_tokens():
    async with asking(answer("x" * 900)) as (llm, server):
        await texts(llm, choices=["y", "x" * 900], sampling=SamplingParams(max_tokens=8))
    assert server.requests[0]["max_tokens"] > 900


async def test_a_choice_is_understood_as_json_or_bare():
    forms = ["go south", " go south\n", '"go south"', "`go south`", '{ "action":"go south" }']
    forms += [f"<think>\nNorth? go north?\n</think>\n\n{form}" for form in forms]
    async with asking(*map(answer, forms), max_attempts=1) as (llm, _):
        for _ in forms:
            assert await texts(llm, choices=DIRECTIONS) == ["go south"]


async def test_a_choice_comes_back_letter_for_letter():
    odd = ["42", "null", '{"action": 1}', ' "quoted" ', "wörld \U0001f600"]
    async with asking(*map(answer, as_json(*odd)), *map(answer, odd), max_attempts=1) as (llm, _):
        for choice in odd * 2:
            assert await texts(llm, choices=odd) == [choice]


@pytest.mark.parametrize("content", ["go west", "", "{}", '{"action": "go"}', '{"action": ["go north"]}', "[" * 99999])
async def test_an_answer_outside_the_choices_is_asked_for_again(content):
    async with asking(answer(content), answer(content), answer(*as_json("go north"))) as (llm, _):
        assert await texts(llm, choices=DIRECTIONS) == ["go north"]


async def test_a_server_that_never_picks_a_choice_is_an_error_after_all_attempts():
    async with asking(otherwise=answer("go west")) as (llm, server):
        with pytest.raises(LLMError, match=r"no usable answer in 4 attempts.*go west") as caught:
            await texts(llm, choices=DIRECTIONS)
    assert caught.value.retryable
    assert "collect with --free" in str(caught.value)
    assert len(server.requests) == 4


async def test_good_choices_of_one_reply_are_kept_and_bad_ones_drawn_again():
    async with asking(answer(*as_json("go north", "fly")), answer(*as_json("go south"))) as (llm, server):
        assert await texts(llm, n=2, choices=DIRECTIONS) == ["go north", "go south"]
    assert len(server.requests) == 2


# Failures that pass


async def test_passing_refusals_are_waited_out():
    statuses = [408, 409, 425, 429, 500, 502, 503, 504, 529]
    async with asking(*map(refusal, statuses), answer("here"), max_attempts=10, retry_after_cap_s=0.01) as (llm, _):
        assert await texts(llm) == ["here"]


async def test_broken_connections_are_made_again():
    breaks = [hang_up, reset, half_body, half_chunked_body]
    async with asking(*breaks, answer("here"), max_attempts=5) as (llm, _):
        assert await texts(llm) == ["here"]


@pytest.mark.parametrize("broken", [hang_up, reset, half_body, half_chunked_body])
async def test_a_connection_that_always_breaks_is_an_error(broken):
    async with asking(otherwise=broken, max_attempts=2) as (llm, server):
        with pytest.raises(LLMError, match=r"in 2 attempts; the last one brought \w+Error"):
            await texts(llm)
    # After both something tiny was asked.
    assert len(server.requests) == 3


BAD_BODIES = [
    b"",
    b"{",
    b"<html>not here</html>",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}",
    [],
    None,
    17,
    {},
    {"choices": None},
    {"choices": []},
    {"choices": {"0": choice("a")}},
    {"choices": [None]},
    {"choices": [{}]},
    {"choices": [{"message": "a"}]},
    {"choices": [choice(None)]},
    {"choices": [choice(None, reasoning_content="hm, let me think")]},
    {"choices": [choice([])]},
    {"choices": [choice([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])]},
    {"choices": [choice([{"type": "text", "text": 3}, {"type": "text"}, "text"])]},
    {"choices": [choice(3)]},
    {"choices": [choice("", finish_reason="length")]},
    {"choices": [choice("", finish_reason=None)]},
    {"choices": [choice("go no", finish_reason="error", error={"message": "overloaded", "code": 502})]},
    {"error": {"message": "overloaded", "code": 429}},
]


@pytest.mark.parametrize("content", BAD_BODIES, ids=lambda content: str(content)[:40])
async def test_a_reply_of_the_wrong_shape_is_tried_again_and_never_makes_it_into_an_answer(content):
    async with asking(body(content), answer("here"), otherwise=body(content), max_attempts=2) as (llm, server):
        assert await texts(llm) == ["here"]
        with pytest.raises(LLMError, match="no usable answer in 2 attempts"):
            await texts(llm)
    assert said_to(server).count("Where to?") == 4


async def test_a_body_that_is_not_what_its_encoding_says_is_tried_again():
    async with asking(body(b"plain", headers={"Content-Encoding": "gzip"}), answer("here")) as (llm, _):
        assert await texts(llm) == ["here"]


async def test_attempts_are_bounded_and_the_error_says_what_the_last_one_brought():
    async with asking(otherwise=refusal(503, "model\nis \x1b[31mloading\x00")) as (llm, server):
        with pytest.raises(LLMError, match=r"in 4 attempts; .* HTTP 503 \(model is \[31mloading\)") as caught:
            await texts(llm)
    assert (caught.value.retryable, caught.value.status) == (True, 503)
    # After all of them something tiny was asked.
    assert len(server.requests) == 5


POISON = [Message(role="user", content="poison")]


def moody(behaviour):
    """Treats one question so, and answers all others."""

    async def behave(request, writer):
        await (behaviour if request["messages"][0]["content"] == "poison" else echo)(request, writer)

    return behave


@asynccontextmanager
async def others_asking(llm):
    """Ask other things all the time."""

    async def others():
        while True:
            await texts(llm)
            await asyncio.sleep(0.001)

    asking_others = asyncio.create_task(others())
    try:
        yield
    finally:
        asking_others.cancel()


@pytest.mark.parametrize("bad", [refusal(500), refusal(503), hang_up, late(5, echo)])
async def test_a_server_that_answers_nobody_is_away(bad):
    async with asking(otherwise=bad, timeout_s=0.1, max_attempts=3) as (llm, server):
        with pytest.raises(LLMError) as away:
            await texts(llm)
    assert away.value.unavailable
    assert server.requests[-1] == server.requests[0] | {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("bad", [refusal(500), refusal(503), hang_up, late(5, echo)])
async def test_a_question_that_a_server_cannot_answer_is_no_sign_that_it_is_away(bad):
    async with asking(otherwise=moody(bad), timeout_s=0.1, max_attempts=3) as (llm, server):
        with pytest.raises(LLMError, match="in 3 attempts") as alone:
            await llm.generate(POISON, n=2, sampling=SAMPLING)
        asked = [request["messages"][0]["content"] for request in server.requests]
        async with others_asking(llm):
            with pytest.raises(LLMError, match="in 3 attempts") as bad_question:
                await texts(llm, messages=POISON)
    assert asked == ["poison"] * 3 + ["Hello"]
    # What it took to find out is paid for.
    assert alone.value.usage == Usage(calls=1, prompt_tokens=7, completion_tokens=2)
    assert (alone.value.unavailable, bad_question.value.unavailable) == (False, False)


async def test_whether_a_server_is_there_is_asked_as_the_question_was():
    async with asking(otherwise=refusal(500), max_attempts=1) as (llm, server):
        with pytest.raises(LLMError, match="HTTP 500"):
            await texts(llm, n=2, choices=DIRECTIONS, sampling=SAMPLING.model_copy(update={"seed": 7}))
    asked, hello = server.requests
    offered = hello.pop("response_format")["json_schema"]["schema"]["properties"]["action"]["enum"]
    del asked["response_format"], asked["n"]
    # Whether it takes schemas, and not whether it takes this one.
    assert offered == ["go north"]
    assert hello == asked | {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("status", [400, 403, 412, 422])
async def test_a_server_that_refuses_hello_alike_refuses_everybody(status):
    async with asking(answer("here"), otherwise=refusal(status, "Your credit balance is too low.")) as (llm, server):
        # A credit may also end on the way.
        await texts(llm)
        for _ in range(2):
            with pytest.raises(LLMError, match=rf"HTTP {status} \(Your credit balance is too low\.\)") as caught:
                await texts(llm)
            assert (caught.value.unavailable, caught.value.retryable) == (True, False)
    assert said_to(server) == ["Where to?", *["Where to?", "Hello"] * 2]


@pytest.mark.parametrize("passing", [refusal(429), refusal(503), hang_up])
async def test_a_refusal_of_one_question_is_about_it_however_long_the_server_takes_to_say_hello(passing):
    script = [refusal(400), passing, passing]
    async with asking(*script, retry_after_cap_s=0.01) as (llm, server):
        with pytest.raises(LLMError, match="HTTP 400") as caught:
            await texts(llm)
    assert not caught.value.unavailable
    assert said_to(server) == ["Where to?", *["Hello"] * 3]
    # What it took to find out is paid for.
    assert caught.value.usage == Usage(calls=1, prompt_tokens=7, completion_tokens=2)


async def test_hello_is_not_said_for_every_question_that_is_refused_but_again_once_somebody_was_answered():
    async with asking(otherwise=moody(refusal(400))) as (llm, server):
        for messages in (POISON, POISON, POISON, QUESTION, POISON):
            with suppress(LLMError):
                await texts(llm, messages=messages)
    assert said_to(server) == ["poison", "Hello", "poison", "poison", "Where to?", "poison", "Hello"]


async def test_the_key_is_to_be_checked_only_where_it_may_be_to_blame():
    async with asking(otherwise=moody(refusal(403))) as (llm, _):
        with pytest.raises(LLMError, match=r"HTTP 403 \(no\)\.$"):
            await texts(llm, messages=POISON)
    async with asking(otherwise=refusal(403)) as (llm, _):
        with pytest.raises(LLMError, match=r"HTTP 403 \(no\); check the API key"):
            await texts(llm)


async def test_a_rate_limit_that_only_one_question_meets_to_the_last_is_about_it():
    async with asking(otherwise=moody(refusal(429)), max_attempts=3) as (llm, server):
        with pytest.raises(LLMError, match=r"in 3 attempts.*HTTP 429") as caught:
            await texts(llm, messages=POISON)
    assert (caught.value.unavailable, caught.value.retryable) == (False, True)
    assert said_to(server) == [*["poison"] * 3, "Hello"]


async def test_a_rate_limit_that_everybody_meets_is_never_about_a_question():
    async with asking(answer("here"), otherwise=refusal(429), max_attempts=3) as (llm, server):
        await texts(llm)
        with pytest.raises(LLMError, match=r"in 3 attempts.*HTTP 429") as caught:
            await texts(llm)
    assert caught.value.unavailable
    assert said_to(server) == [*["Where to?"] * 4, "Hello"]


async def test_a_rate_limit_until_later_than_anybody_waits_is_never_about_a_question():
    """Of so many tokens a day, `Hello` may still get its few."""
    limited = refusal(429, Retry_After="89")
    async with asking(otherwise=moody(limited), max_attempts=3, retry_after_cap_s=0.01) as (llm, server):
        with pytest.raises(LLMError, match="HTTP 429") as caught:
            await texts(llm, messages=POISON)
    assert caught.value.unavailable
    assert said_to(server) == ["poison"] * 3


TOO_LARGE = refusal(429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 36278.")


async def test_a_request_that_is_larger_than_a_limit_is_not_waited_for():
    async with asking(otherwise=moody(TOO_LARGE)) as (llm, server):
        with pytest.raises(LLMError, match=r"will not on asking again: HTTP 429 \(Request too large") as caught:
            await texts(llm, messages=POISON)
    assert (caught.value.unavailable, caught.value.retryable) == (False, False)
    assert said_to(server) == ["poison", "Hello"]


async def test_settings_with_which_every_request_is_larger_than_a_limit_end_everything():
    async with asking(otherwise=TOO_LARGE) as (llm, server):
        with pytest.raises(LLMError, match="Request too large") as caught:
            await texts(llm)
    assert caught.value.unavailable
    assert len(server.requests) == 2


async def test_questions_that_meet_a_rate_limit_for_ever_have_an_end_once_nobody_else_is_under_way():
    async with asking(otherwise=moody(refusal(429)), max_attempts=3) as (llm, server):
        others = [texts(llm, messages=[Message(role="user", content=f"question {i}")]) for i in range(20)]
        limited = [texts(llm, messages=POISON) for _ in range(4)]
        outcomes = await asyncio.gather(*limited, *others, return_exceptions=True)
    assert [isinstance(outcome, LLMError) for outcome in outcomes] == [True] * 4 + [False] * 20
    assert not any(outcome.unavailable for outcome in outcomes[:4])
    # That one of them has said Hello is no sign to the others that anybody gets through.
    assert said_to(server).count("poison") <= 4 * 5


async def test_a_rate_limit_is_waited_out_for_as_long_as_others_get_through():
    script = [refusal(429)] * 40 + [answer("here")]
    poisoned = iter(script)

    async def limited(request, writer):
        await next(poisoned)(request, writer)

    settings = {"retry_after_cap_s": 0.01, "max_attempts": 3}
    async with asking(otherwise=moody(limited), **settings) as (llm, _), others_asking(llm):
        assert await texts(llm, messages=POISON) == ["here"]


@pytest.mark.parametrize("limited", [refusal(429), refusal(429, Retry_After="0")])
async def test_after_a_rate_limit_the_wait_is_longer_and_never_short(limited):
    settings = {"otherwise": limited, "max_attempts": 4, "backoff_s": 0.05, "retry_after_cap_s": 0.1}
    async with asking(**settings) as (llm, _):
        started = time.monotonic()
        with pytest.raises(LLMError):
            await texts(llm)
    # At least the halves of four times the back-off and of twice the cap, twice.
    assert 0.3 <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("code", "requests", "unavailable"),
    [(402, 1, True), (401, 1, True), (400, 2, True), (429, 3, True), (502, 3, True)],
)
@pytest.mark.parametrize("beside", [{}, {"choices": []}, {"choices": None}], ids=str)
@pytest.mark.parametrize("form", [int, str])
async def test_a_refusal_that_comes_as_a_success_is_the_refusal_that_it_says(code, requests, unavailable, form, beside):
    refused = body({"error": {"message": "because", "code": form(code)}, **beside})
    async with asking(otherwise=refused, max_attempts=2) as (llm, server):
        with pytest.raises(LLMError, match=rf"HTTP {code} \(because\)") as caught:
            await texts(llm)
    assert (caught.value.status, caught.value.unavailable) == (code, unavailable)
    assert caught.value.usage == Usage()
    assert len(server.requests) == requests


async def test_a_server_that_is_not_there_is_an_error_that_says_so():
    async with HostileServer() as server:
        base_url = server.base_url
    llm = HTTPLLM(base_url=base_url, model="m", max_attempts=2, backoff_s=0.001)
    with pytest.raises(LLMError, match=r"m @ http://127\.0\.0\.1:\d+/v1 gave no usable answer.*ConnectError"):
        await texts(llm)
    await llm.close()


async def test_a_reasoning_model_that_runs_out_of_tokens_is_told_apart():
    thinking = body({"choices": [choice(None, finish_reason="length", reasoning_content="hm")]})
    async with asking(otherwise=thinking, max_attempts=1) as (llm, _):
        for choices in (None, DIRECTIONS):
            with pytest.raises(LLMError, match=r"cut short by max_tokens=32 .* more --reply-tokens") as caught:
                await texts(llm, choices=choices)
            assert "--free" not in str(caught.value)
    async with asking(otherwise=answer("I should", finish_reason="length")) as (llm, _):
        with pytest.raises(LLMError, match=r"more --reply-tokens; .* collect with --free"):
            await texts(llm, choices=DIRECTIONS)


async def test_an_answer_that_is_too_long_is_paid_for_twice_and_not_for_ever():
    too_long = answer(None, finish_reason="length")
    async with asking(otherwise=too_long, max_attempts=8) as (llm, server):
        for n in (1, 3):
            with pytest.raises(LLMError, match=r"in 2 attempts; the last one brought .* cut short"):
                await texts(llm, n=n)
    assert len(server.requests) == 4


@pytest.mark.parametrize("cut", ["I think that I should first", [{"type": "text", "text": "Let me see"}]], ids=str)
async def test_words_that_are_cut_short_and_no_choice_are_drawn_again_like_any_that_are_none(cut):
    chatty = answer(cut, finish_reason="length")
    async with asking(*[chatty] * 3, answer("go south"), otherwise=chatty) as (llm, server):
        assert await texts(llm, choices=DIRECTIONS) == ["go south"]
        with pytest.raises(LLMError, match=r"in 4 attempts.* more --reply-tokens; .* collect with --free"):
            await texts(llm, choices=DIRECTIONS)
    assert len(server.requests) == 8


@pytest.mark.parametrize("cut", ["<think>\nNorth or", [{"type": "thinking", "thinking": []}], "", []], ids=str)
async def test_a_thought_that_is_cut_short_is_paid_for_twice_wherever_it_stands(cut):
    async with asking(otherwise=answer(cut, finish_reason="length")) as (llm, server):
        with pytest.raises(LLMError, match=r"in 2 attempts.* more --reply-tokens") as caught:
            await texts(llm, choices=DIRECTIONS)
    assert caught.value.cut
    assert "--free" not in str(caught.value)
    assert len(server.requests) == 2


async def test_an_answer_says_whether_it_was_cut_short_and_was_not_where_it_is_wanted_no_further():
    said = answer("I go. Then", finish_reason="length")
    async with asking(said, answer("I go. Then"), said) as (llm, _):
        asked = (SAMPLING, SAMPLING, SamplingParams(stop=(".",)))
        answers = [one for sampling in asked for one in await llm.generate(QUESTION, n=1, sampling=sampling)]
    assert [one.cut for one in answers] == [True, False, False]


async def test_an_answer_that_is_too_long_is_asked_for_again_where_others_are_short_enough():
    too_long = answer(None, finish_reason="length")
    async with asking(answer("a"), *[too_long] * 3, answer("b")) as (llm, _):
        assert await texts(llm, n=2) == ["a", "b"]


# Failures that stay


@pytest.mark.parametrize("status", [301, 302, 400, 401, 402, 403, 404, 405, 413, 422])
async def test_a_lasting_refusal_is_an_error_at_once(status):
    async with asking(refusal(status, "because")) as (llm, server):
        with pytest.raises(LLMError, match=rf"HTTP {status} \(because\)") as caught:
            await texts(llm)
    assert (caught.value.retryable, caught.value.status) == (False, status)
    about_it = status in (400, 403, 413, 422)
    assert caught.value.unavailable != about_it
    assert said_to(server) == ["Where to?", *["Hello"] * about_it]


@pytest.mark.parametrize(
    "content",
    [
        {"error": {"message": f"bad key {KEY}"}},
        {"error": f"bad key {KEY}"},
        {"detail": f"{'x' * 190}{KEY}"},
        {"message": f"\x00\x07\u202e{KEY}\n" * 500},
        f"<p>Bearer {KEY}</p>".encode(),
    ],
)
async def test_the_key_is_never_raised_logged_or_shown_even_if_the_server_echoes_it(content, caplog):
    caplog.set_level(logging.DEBUG)
    async with asking(body(content, status=401), api_key=KEY, max_attempts=1) as (llm, _):
        with pytest.raises(LLMError, match="check the API key") as caught:
            await texts(llm)
        shown = f"{llm!r}{llm.name}{caught.value!r}{caught.value.__cause__!r}{caplog.text}"
    message = str(caught.value)
    assert "canary" not in shown
    assert message.isprintable()
    assert len(message) < 350


async def test_secrets_of_the_base_url_stay_out_of_errors_and_the_name_is_the_model_s_alone(caplog):
    caplog.set_level(logging.INFO)
    async with HostileServer([refusal(404, "no user ann:hidden-1 with hidden-2")]) as server:
        llm = HTTPLLM(base_url=f"http://ann:hidden-1@{server.address}/v1?key=hidden-2#x", model="m")
        with pytest.raises(LLMError) as caught:
            await texts(llm)
        await llm.close()
    assert llm.name == "m"
    assert str(caught.value).startswith(f"m @ {server.base_url} gave")
    assert "hidden" not in str(caught.value)
    assert "hidden-1" not in caplog.text


async def test_an_error_of_a_separate_request_is_a_plain_error_that_survives_pickling():
    async with asking(answer("a"), otherwise=refusal(403)) as (llm, _):
        with pytest.raises(LLMError) as caught:
            await texts(llm, n=3)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(caught.value), str(copy), copy.status) == (LLMError, str(caught.value), 403)


# Time and size


async def seconds_until_answered(*retry_after, cap_s=30.0):
    script = [refusal(429, Retry_After=value) for value in retry_after]
    settings = {"max_attempts": len(script) + 1, "retry_after_cap_s": cap_s, "backoff_s": 0.0001}
    async with asking(*script, answer("here"), **settings) as (llm, _):
        started = time.monotonic()
        assert await texts(llm) == ["here"]
        return time.monotonic() - started


@pytest.mark.parametrize(("retry_after", "least_s"), [("1", 1), ("0.2", 0.2)])
async def test_retry_after_is_honoured(retry_after, least_s):
    assert await seconds_until_answered(retry_after) >= least_s


async def test_a_retry_after_that_is_over_or_garbage_means_the_usual_back_off():
    over = ["0", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59"]
    garbage = ["-3", "soon", "nan", "", "Fri, 31 Dec 99999 23:59:59 GMT"]
    # None of them may become a wait up to the cap.
    assert await seconds_until_answered(*over, *garbage) < 30


async def test_a_wait_beyond_the_cap_is_cut_to_the_cap():
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 0.3 <= await seconds_until_answered("89", "9" * 400, in_an_hour, cap_s=0.1) < 89


async def test_waiting_for_a_busy_server_does_not_hold_up_other_calls():
    async with asking(refusal(429, Retry_After="2"), concurrency=1) as (llm, _):
        waiting = asyncio.create_task(texts(llm))
        await asyncio.sleep(0.05)
        await texts(llm)
        assert not waiting.done()
        await waiting


@pytest.mark.parametrize("slow", [late(5, answer("late")), dripping_body])
async def test_an_answer_that_takes_too_long_is_given_up_however_it_is_slow(slow):
    async with asking(slow, answer("here"), otherwise=slow, timeout_s=0.1, max_attempts=2) as (llm, _):
        assert await texts(llm) == ["here"]
        with pytest.raises(LLMError, match=r"no answer within 0\.1 s"):
            await texts(llm)


async def test_a_call_can_be_cancelled_and_leaves_its_place_to_others():
    async with asking(late(5, echo), concurrency=1) as (llm, _):
        call = asyncio.create_task(texts(llm))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.wait_for(texts(llm), 1)


async def test_a_megabyte_of_answer_arrives_whole():
    async with asking(answer("x" * 2**20)) as (llm, _):
        assert [len(text) for text in await texts(llm)] == [2**20]


async def test_an_endless_reply_is_cut_off_and_not_asked_for_again():
    async with asking(otherwise=endless_body()) as (llm, server):
        with pytest.raises(LLMError, match="a reply of more than 16,777,216 bytes"):
            await texts(llm)
    assert said_to(server) == ["Where to?", "Hello"]


async def test_an_endless_error_page_is_still_the_error_it_is():
    async with asking(endless_body(503), endless_body(404)) as (llm, server):
        with pytest.raises(LLMError, match="HTTP 404"):
            await texts(llm)
    assert len(server.requests) == 2


# What comes back


async def test_an_empty_answer_is_an_answer_if_the_model_stopped_there():
    async with asking(answer("")) as (llm, _):
        assert await texts(llm) == [""]


async def test_an_answer_in_parts_is_its_texts_without_the_thoughts():
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "go "}, {"type": "text", "text": "south"}]
    async with asking(answer(parts), answer(parts), max_attempts=1) as (llm, _):
        assert await texts(llm) == ["go south"]
        assert await texts(llm, choices=DIRECTIONS) == ["go south"]


async def test_text_that_cannot_be_stored_is_made_storable():
    content = rb'{"choices": [{"message": {"content": "a\ud800b\u0000c\ud83d\ude00"}}]}'
    async with asking(body(content)) as (llm, _):
        (completion,) = await llm.generate(QUESTION, n=1, sampling=SAMPLING)
    assert completion.text == "a\ufffdb\ufffdc\U0001f600"
    assert type(completion).model_validate_json(completion.model_dump_json()) == completion


async def test_an_answer_ends_before_its_stop_text_even_if_the_server_sent_on():
    async with asking(answer("one\ntwo END three")) as (llm, _):
        assert await texts(llm, sampling=SamplingParams(stop=("END", "\n"))) == ["one"]


async def test_the_first_answer_carries_the_cost_of_all_requests_the_call_needed():
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    script = [refusal(503), answer(None, usage=usage), answer("a", usage=usage), answer("b", usage=usage)]
    async with asking(*script, price_usd_per_million=(2.0, 50.0)) as (llm, _):
        first, second = await llm.generate(QUESTION, n=2, sampling=SAMPLING)
    assert first.usage.model_copy(update={"cost_usd": 0}) == Usage(
        calls=3, prompt_tokens=3000, cached_tokens=1800, completion_tokens=30
    )
    assert first.usage.cost_usd == pytest.approx(3 * (1000 * 2 + 10 * 50) / 1e6)
    assert second.usage == Usage()


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "much",
        {"prompt_tokens": None},
        {"prompt_tokens": -5},
        {"prompt_tokens": 10**400},
        {"prompt_tokens": "9"},
    ],
)
async def test_an_answer_without_sensible_usage_counts_as_a_call_without_tokens(usage):
    async with asking(answer("a", usage=usage), price_usd_per_million=(1.0, 1.0)) as (llm, _):
        (completion,) = await llm.generate(QUESTION, n=1, sampling=SAMPLING)
    assert completion.usage == Usage(calls=1)


PAID = {"prompt_tokens": 100, "completion_tokens": 7}


async def test_what_was_spent_in_vain_is_part_of_the_failure():
    script = [answer("a", usage=PAID), answer("b", usage=PAID), answer(None, usage=PAID), refusal(503)]
    settings = {"concurrency": 1, "max_attempts": 2, "price_usd_per_million": (10.0, 0.0)}
    async with asking(*script, otherwise=refusal(400), **settings) as (llm, _):
        with pytest.raises(LLMError) as caught:
            await llm.generate(QUESTION, n=3, sampling=SAMPLING)
        with pytest.raises(LLMError) as refused:
            await llm.generate(QUESTION, n=3, sampling=SAMPLING)
    usage = caught.value.usage
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (3, 300, 21)
    assert usage.cost_usd == pytest.approx(0.003)
    assert refused.value.usage == Usage()


@pytest.mark.parametrize("takes_n", [True, False])
async def test_whoever_stops_waiting_learns_which_answers_there_are_if_they_came_one_at_a_time(takes_n):
    async def hang(request, writer):
        call.cancel()
        await asyncio.sleep(60)

    first = answer(*"ab", usage=PAID) if takes_n else answer("a", usage=PAID)
    async with asking(first, answer("c", usage=PAID), otherwise=hang, concurrency=1) as (llm, _):
        call = asyncio.create_task(llm.generate(QUESTION, n=6, sampling=SAMPLING))
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
    spent = caught.value.__cause__
    assert isinstance(spent, LLMError)
    assert (spent.usage.calls, spent.usage.tokens) == (2, 214)
    assert [one.text for one in spent.answers] == ([] if takes_n else ["a", "c"])
    assert sum((one.usage for one in spent.answers), Usage()) == (Usage() if takes_n else spent.usage)


async def test_answers_are_not_mixed_up_among_concurrent_calls_in_a_storm():
    draw = random.Random(0)
    weights = {refusal(429, Retry_After="0"): 30, refusal(500): 10, reset: 5, half_body: 2, late(0.02, echo): 53}
    storm = draw.choices(list(weights), list(weights.values()), k=1000)
    async with asking(*storm, concurrency=8, max_attempts=20) as (llm, server):
        nonces = [f"nonce {index}" for index in range(200)]
        calls = [texts(llm, n=1 + i % 3, messages=[Message(role="user", content=x)]) for i, x in enumerate(nonces)]
        answers = await asyncio.wait_for(asyncio.gather(*calls), 8)
    for index, (nonce, got) in enumerate(zip(nonces, answers, strict=True)):
        assert [json.loads(text)[:2] for text in got] == [[nonce, sample] for sample in range(1 + index % 3)]
    assert server.most_at_once == 8
    assert len(server.requests) <= 3 * len(nonces)


# Settings


UNREACHABLE = ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1", "http://x\x00"]
UNREACHABLE += ["http://a..b/v1", "http://.foo/v1", f"http://{'a' * 64}.com/v1", "http://xn--/v1"]
UNREACHABLE += ["http://localhost:99999/v1", "http://localhost:65536/v1", "http://localhost:0/v1"]


@pytest.mark.parametrize("base_url", UNREACHABLE)
def test_an_address_that_cannot_work_is_one_clear_sentence(base_url):
    with pytest.raises(ConfigError, match="complete http:// or https:// address"):
        HTTPLLM(base_url=base_url, model="m")


@pytest.mark.parametrize("api_key", [f"{KEY}\n", f" {KEY}", f"{KEY}ü", f"{KEY}\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(api_key):
    with pytest.raises(ConfigError, match="API key") as caught:
        HTTPLLM(base_url="http://localhost/v1", model="m", api_key=api_key)
    assert "canary" not in str(caught.value)


def test_a_key_and_a_password_together_are_refused():
    with pytest.raises(ConfigError, match="remove one") as caught:
        HTTPLLM(base_url="http://ann:canary@localhost/v1", model="m", api_key=KEY)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("setting", ["concurrency", "max_attempts"])
def test_limits_below_one_are_refused(setting):
    with pytest.raises(ConfigError, match="at least 1"):
        HTTPLLM(base_url="http://localhost/v1", model="m", **{setting: 0})


def test_a_proxy_that_cannot_be_used_is_one_clear_sentence(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://user:canary@proxy:1")
    with pytest.raises(ConfigError, match="proxy in the environment") as caught:
        HTTPLLM(base_url="http://model.invalid/v1", model="m")
    assert "canary" not in str(caught.value)


async def test_the_environment_names_server_model_and_key():
    async with HostileServer() as server:
        environ = {"ARMAP_BASE_URL": server.base_url, "ARMAP_MODEL": "small", "ARMAP_API_KEY": KEY}
        llm = HTTPLLM.from_environment(environ)
        await texts(llm)
        await llm.close()
    assert llm.name == "small"
    assert len(server.requests) == 1
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_the_openai_variables_stand_in_but_their_key_goes_to_no_other_server():
    async with HostileServer() as server:
        openai = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY, "ARMAP_MODEL": "small"}
        for environ in (openai, openai | {"ARMAP_BASE_URL": server.base_url}):
            llm = HTTPLLM.from_environment(environ)
            await texts(llm)
            await llm.close()
    assert [headers.get("authorization") for headers in server.headers] == [f"Bearer {KEY}", None]


@pytest.mark.parametrize(
    ("environ", "missing"),
    [({"ARMAP_MODEL": "m"}, "ARMAP_BASE_URL"), ({"ARMAP_BASE_URL": "http://localhost/v1"}, "ARMAP_MODEL")],
)
def test_a_missing_variable_is_named(environ, missing):
    with pytest.raises(ConfigError, match=f"set {missing}"):
        HTTPLLM.from_environment(environ)
