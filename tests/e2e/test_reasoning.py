import asyncio
import json
import random
import re

from llms.hostile_server import HostileServer, answer

from .runs import armap, records

LONG = 4000


async def thinking(request, writer):
    """Think on several lines where everybody can read it, and then do as asked."""
    rng = random.Random(json.dumps(request))
    asked = request["messages"][-1]["content"]
    if "response_format" in request:
        legal = request["response_format"]["json_schema"]["schema"]["properties"]["action"]["enum"]
        said = [json.dumps({"action": rng.choice(legal)}) for _ in range(request.get("n", 1))]
    elif "Tasks of others" in asked:
        said = ["Go out with a cube.\nThat should do."]
    elif held := re.findall(r"You left with the (.*)\.", asked):
        said = [f"Go out with the {held[-1]}."]
    else:
        said = ["Look at what is asked for."]
    await answer(*(f"<think>\nHm.\n\nWhy not?\n</think>\n\n{text}" for text in said))(request, writer)


async def test_a_model_that_thinks_before_it_replies_has_the_room_to_do_so_whatever_it_is_asked(tmp_path):
    run = tmp_path / "run"

    async def do(*command):
        await asyncio.to_thread(armap, *command, "--run", run)

    async with HostileServer(otherwise=thinking) as server:
        there = ("--base-url", server.base_url, "--model", "m", "--reply-tokens", LONG)
        await do("collect", "--env", "toy", *there, "--tasks", 6, "--samples", 4, "--invent")
        await do("synthesize", "--writer", "model", "--judge", "model")
        searched = ("--planner", "reflexion", "--n", 2, "--tasks", 2, "--set", "reflexion.threshold=1")
        await do("evaluate", "--reward-model", "prompted", *searched)
        system = " ".join(request["messages"][0]["content"] for request in server.requests)
    for purpose in ("You invent tasks", "write the task it fulfilled", "two attempts at it", "say how far the task"):
        assert purpose in system
    assert any("what went wrong" in request["messages"][-1]["content"] for request in server.requests)
    assert {request["max_tokens"] for request in server.requests} == {LONG}
    tried = {json.loads(line)["task"]["instruction"] for line in records(run, "trajectories")}
    assert tried == {"Go out with a cube."}
    for name in ("trajectories", "pairs", "discarded", "searches"):
        assert not any("think" in line or "LLMError" in line for line in records(run, name))
