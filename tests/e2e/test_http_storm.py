import asyncio
import json
import random
import sys

import pytest

from armap.store import RunFolder
from armap.types import Trajectory
from llms.hostile_server import HostileServer, answer, body, half_body, half_chunked_body, hang_up, refusal, reset

from .runs import API_KEY, environment

TASKS, SAMPLES = 12, 3
MISCHIEF = (
    refusal(429, "slow down", Retry_After="0"),
    refusal(500, f"something broke while I looked at {API_KEY}"),
    hang_up,
    reset,
    half_body,
    half_chunked_body,
    answer(None),
    answer('{"action": "take everything"}'),
    body(b'{"choices": [{"message": {"content": "take'),
    body({"choices": []}),
)


def storm(*refused: str):
    """Answers four requests of five by a random choice, and the others by mischief; never for a refused instruction."""
    rng = random.Random(0)

    async def behave(request, writer):
        asked = " ".join(message["content"] for message in request["messages"][-7:])
        if any(instruction in asked.rpartition("Leave with")[2][:20] for instruction in refused):
            await refusal(400, f"nobody with the key {API_KEY} may ask for this")(request, writer)
        elif rng.random() < 1 / 5:
            await rng.choice(MISCHIEF)(request, writer)
        else:
            legal = request["response_format"]["json_schema"]["schema"]["properties"]["action"]["enum"]
            contents = [json.dumps({"action": rng.choice(legal)}) for _ in range(request.get("n", 1))]
            # A server may also lose a part of what it was asked for.
            lost = [None] if len(contents) > 1 and rng.random() < 0.2 else []
            usage = {"prompt_tokens": 50, "completion_tokens": 5 * len(contents)}
            await answer(*contents[len(lost) :], *lost, usage=usage)(request, writer)

    return behave


async def collect(run, server, *more, concurrency=12):
    """Return exit code, stdout and stderr of collecting from a server."""
    options = [*more, "--run", run, "--env", "toy", "--model", "x", "--base-url", server.base_url]
    options += ["--tasks", TASKS, "--samples", SAMPLES, "--concurrency", concurrency]
    process = await asyncio.create_subprocess_exec(
        *map(str, [sys.executable, "-m", "armap.cli", "collect", *options]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment() | {"PYTHONWARNINGS": "error"},
    )
    async with asyncio.timeout(60):
        stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


def trajectories(run):
    with RunFolder(run, writable=False) as folder:
        return folder.read("trajectories", Trajectory)


def assert_key_is_nowhere(run, *texts):
    assert all(API_KEY not in text for text in texts)
    assert all(API_KEY.encode() not in path.read_bytes() for path in run.rglob("*") if path.is_file())


async def test_a_server_that_fails_now_and_then_costs_no_trajectory(tmp_path):
    run = tmp_path / "run"
    async with HostileServer(otherwise=storm()) as server:
        code, stdout, stderr = await collect(run, server)
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {API_KEY}"}
    assert code == 0, stderr
    assert stdout.startswith(f"{TASKS * SAMPLES} trajectories")
    assert stdout.endswith("none failed\n")
    assert len({trajectory.id for trajectory in trajectories(run)}) == TASKS * SAMPLES
    assert_key_is_nowhere(run, stdout, stderr)


async def test_what_a_server_refuses_for_good_is_counted_and_the_rest_goes_on(tmp_path):
    run = tmp_path / "run"
    refused = ("red", "blue")
    async with HostileServer(otherwise=storm(*refused)) as server:
        code, stdout, stderr = await collect(run, server)
    assert code == 1, stderr
    found = trajectories(run)
    failed = [trajectory for trajectory in found if trajectory.failure]
    assert len(found) == len({trajectory.id for trajectory in found}) == TASKS * SAMPLES
    assert 0 < len(failed) < len(found)
    assert all(any(colour in trajectory.task.instruction for colour in refused) for trajectory in failed)
    assert {trajectory.failure.kind for trajectory in failed} == {"LLMError"}
    assert f"; {len(failed)} failed, the first with: " in stdout
    assert "HTTP 400 (nobody with the key [secret] may ask for this)" in stdout
    assert_key_is_nowhere(run, stdout, stderr)


async def test_a_failed_collection_goes_on_without_asking_again(tmp_path):
    run = tmp_path / "run"
    async with HostileServer(otherwise=storm("red")) as server:
        assert (await collect(run, server))[0] == 1
        asked, before = len(server.requests), trajectories(run)
        assert (await collect(run, server))[0] == 1
        assert len(server.requests) == asked
    assert trajectories(run) == before


async def test_a_wrong_key_is_explained(tmp_path):
    async with HostileServer(otherwise=refusal(401, f"wrong key {API_KEY}")) as server:
        code, stdout, stderr = await collect(tmp_path / "run", server)
    assert code == 2
    assert "HTTP 401" in stderr
    assert "check the API key (ARMAP_API_KEY)" in stderr
    assert "Traceback" not in stderr
    assert_key_is_nowhere(tmp_path / "run", stdout, stderr)
    assert len([line for line in stderr.splitlines() if line and "0:00:" not in line]) == 1


async def test_what_a_server_does_not_take_is_left_out_and_told_once(tmp_path):
    served = storm()

    async def behave(request, writer):
        unknown = "temperature" in request
        await (refusal(400, "Unsupported value: 'temperature'") if unknown else served)(request, writer)

    async with HostileServer(otherwise=behave) as server:
        code, _, stderr = await collect(tmp_path / "run", server)
    assert code == 0, stderr
    assert stderr.count(f"x @ {server.base_url} does not take temperature: its answers were drawn with its own") == 1


async def test_settings_that_a_server_does_not_take_end_a_command_with_what_it_says(tmp_path):
    said = "a temperature value of 4.0 but the supported range is from 0 (inclusive) to 2.0001 (exclusive)"

    async def behave(request, writer):
        await (refusal(400, said) if request["temperature"] > 2 else storm())(request, writer)

    async with HostileServer(otherwise=behave) as server:
        code, _, stderr = await collect(tmp_path / "run", server, "--temperature", 4)
        assert (code, f"HTTP 400 ({said})" in stderr) == (2, True)
        code, _, stderr = await collect(tmp_path / "run", server, "--temperature", 2)
        assert code == 0, stderr


async def test_nothing_is_held_against_a_server_that_knew_no_key_or_no_credit_or_was_away(tmp_path):
    run = tmp_path / "run"
    behaviour = refusal(401)

    async def behave(request, writer):
        await behaviour(request, writer)

    async with HostileServer(otherwise=behave) as server:
        # Not every server that has no credit left says 402.
        for status in (401, 402, 400):
            behaviour = refusal(status, "Your credit balance is too low.")
            code, _, stderr = await collect(run, server)
            assert (code, f"HTTP {status} (Your credit balance is too low.)" in stderr) == (2, True)
            assert not trajectories(run)
        behaviour = storm()
        code, stdout, _ = await collect(run, server)
        assert (code, stdout.endswith("none failed\n")) == (0, True)
    there = trajectories(run)
    code, _, stderr = await collect(tmp_path / "another", server)
    assert (code, "ConnectError" in stderr) == (2, True)
    assert not trajectories(tmp_path / "another")
    assert trajectories(run) == there


async def test_replies_that_cannot_be_used_count_against_the_limits(tmp_path):
    run = tmp_path / "run"
    too_long = answer(None, finish_reason="length", usage={"prompt_tokens": 50, "completion_tokens": 64})
    async with HostileServer(otherwise=too_long) as server:
        code, _, stderr = await collect(run, server, "--max-tokens", 300, concurrency=1)
        paid = len(server.requests)
        assert (code, paid, "max_tokens=300" in stderr) == (3, 4, True)
        assert (await collect(run, server, "--max-tokens", 300))[0] == 3
        assert len(server.requests) == paid


async def test_a_limit_on_money_ends_a_collection_and_a_higher_one_lets_it_go_on(tmp_path):
    run = tmp_path / "run"
    prices = ["--prompt-price", 1000, "--completion-price", 1000]
    async with HostileServer(otherwise=storm()) as server:
        code, _, stderr = await collect(run, server, *prices, "--max-cost-usd", 1)
        assert (code, "max_cost_usd=1" in stderr) == (3, True)
        code, stdout, _ = await collect(run, server, *prices, "--max-cost-usd", 1000, "--json")
    assert code == 0
    assert json.loads(stdout)["trajectories"] == TASKS * SAMPLES
    assert json.loads(stdout)["cost_usd"] == pytest.approx(json.loads(stdout)["tokens"] / 1000)


async def test_a_limit_on_money_without_prices_is_refused(tmp_path):
    async with HostileServer(otherwise=storm()) as server:
        code, _, stderr = await collect(tmp_path / "run", server, "--max-cost-usd", 1)
    assert code == 2
    assert "--prompt-price" in stderr
    assert server.requests == []
