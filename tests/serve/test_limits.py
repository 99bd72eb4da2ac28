"""Who is let in, how much is taken on, and what becomes of clients that are slow or leave."""

import asyncio
import json
import re
import signal
import socket
import time

import httpx
import pytest

from armap.errors import ConfigError
from armap.serve.listening import require_token
from serve.process import odd_server


@pytest.fixture(scope="module")
def address():
    """Of a server with little patience and little room."""
    limits = {"waiting": 4, "batch": 2, "body_bytes": 10_000, "held_bytes": 15_000, "idle_s": 1, "body_s": 1.5}
    with odd_server(limits=limits) as server:
        yield server.address


@pytest.fixture
async def client(address):
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        yield client


def ask(client: httpx.AsyncClient, text: str) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(client.post("/classify", json={"input": text}))


async def metric(client: httpx.AsyncClient, name: str) -> float:
    return float(re.search(rf"^{re.escape(name)} (.*)$", (await client.get("/metrics")).text, re.MULTILINE)[1])


async def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def held(client: httpx.AsyncClient, count: int) -> None:
    """Wait until as many trajectories wait or are being scored."""

    async def there() -> bool:
        return await metric(client, "armap_waiting") == count

    await wait_until(there)


def connection(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def post(body: bytes, *, length: int | None = None, host: str = "localhost") -> bytes:
    head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def everything(open_connection: socket.socket) -> bytes:
    """Read until the server closes."""
    content = b""
    try:
        while chunk := open_connection.recv(65536):
            content += chunk
    except ConnectionError:
        pass
    return content


# Room


async def test_beyond_the_queue_clients_are_told_when_to_come_back(client):
    slow = [ask(client, f"say={i} wait=1") for i in range(4)]
    await held(client, 4)
    refused = await client.post("/classify", json={"input": "say=9"})
    assert refused.status_code == 503
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert "come back" in refused.json()["error"]["message"]
    assert [(await one).json()["data"][0]["probs"] for one in slow] == [[0.0], [1.0], [2.0], [3.0]]
    assert (await client.post("/classify", json={"input": "say=9"})).status_code == 200


async def test_a_request_that_never_fits_the_queue_is_refused_whole(client):
    before = await metric(client, "armap_scored_total")
    assert (await client.post("/classify", json={"input": ["say=1"] * 5})).status_code == 413
    assert await metric(client, "armap_waiting") == 0
    assert await metric(client, "armap_scored_total") == before


async def test_a_long_body_is_refused_announced_or_not(client):
    for content in (b" " * 10_001, chunks(3, 5_000)):
        answer = await client.post("/classify", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, "10,000 bytes" in answer.json()["error"]["message"]) == (413, True)


async def chunks(count: int, size: int):
    for _ in range(count):
        yield b" " * size


def test_an_absurd_length_is_refused_at_once(address):
    with connection(address) as one:
        one.sendall(post(b"", length=10**15))
        assert b" 413 " in one.recv(65536).split(b"\r\n")[0]


async def test_bodies_that_are_being_received_share_a_limit(client, address):
    with connection(address) as first, connection(address) as second:
        for one in (first, second):
            one.sendall(post(b" " * 8_000, length=9_000))
        answers = [await asyncio.to_thread(everything, one) for one in (first, second)]
    # One waits for the rest of its body, until that is late.
    assert sorted(re.search(rb"^HTTP/1.1 (\d+)", answer)[1] for answer in answers) == [b"408", b"503"]


# Slow clients and those who leave


@pytest.mark.parametrize("start", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localh"])
def test_a_request_that_does_not_arrive_is_not_waited_for(address, start):
    with connection(address) as one:
        one.sendall(start)
        assert everything(one) == b""


def test_a_request_that_trickles_in_is_not_waited_for_either(address):
    with connection(address) as one, pytest.raises(ConnectionError):
        trickle(one)


def trickle(one: socket.socket) -> None:
    for _ in range(200):
        one.sendall(b"X")
        time.sleep(0.1)


def test_a_body_that_does_not_arrive_is_not_waited_for(address):
    with connection(address) as one:
        one.sendall(post(b'{"input": "a', length=500))
        assert everything(one).startswith(b"HTTP/1.1 408 ")


async def test_whoever_leaves_frees_their_place_and_is_never_scored(client, address):
    slow = [ask(client, "say=1 wait=1.5") for _ in range(2)]
    await held(client, 2)
    before = await metric(client, "armap_scored_total")
    with connection(address) as one:
        one.sendall(post(b'{"input": ["say=1", "say=2"]}'))
        await held(client, 4)
    await held(client, 2)
    assert [(await one).status_code for one in slow] == [200, 200]
    assert (await client.post("/classify", json={"input": "say=9"})).status_code == 200
    assert await metric(client, "armap_scored_total") == before + 3


def test_what_is_no_http_is_answered_and_harms_nobody(address):
    for junk in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"POST /classify HTTP/1.1\r\n\r\n", b"\x00" * 100_000):
        with connection(address) as one:
            one.sendall(junk)
            assert b" 400 " in everything(one).split(b"\r\n")[0]
    assert httpx.get(f"{address}/health").status_code == 200


# Who may come in


async def test_without_a_token_only_names_of_this_machine_are_answered(client):
    for name in ("localhost", "127.0.0.1:80", "[::1]:8025"):
        assert (await client.get("/v1/models", headers={"Host": name})).status_code == 200
    # A page in somebody's browser whose name was pointed at this machine.
    for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[", "10.0.0.1"):
        answer = await client.get("/v1/models", headers={"Host": name})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, 421)


def test_with_a_token_nobody_comes_in_without_it():
    with odd_server(token="s3cret-t0ken") as server, httpx.Client(base_url=server.address, timeout=60) as client:
        for wrong in (
            {},
            {"Authorization": "Bearer s3cret-t0ke"},
            {"Authorization": "s3cret-t0ken"},
            {"Authorization": "Basic s3cret-t0ken"},
            {"Authorization": b"Bearer \xff"},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/classify", "/nowhere"):
                answer = client.get(path, headers=wrong)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
                assert "s3cret" not in answer.text
        assert client.get("/health").status_code == 200
        right = {"Authorization": "bearer s3cret-t0ken", "Host": "reward.example"}
        assert client.get("/v1/models", headers=right).status_code == 200
        assert client.post("/classify", json={"input": "say=1"}, headers=right).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "reward.example", "localhost.example"])
def test_listening_to_others_needs_a_token(host):
    with pytest.raises(ConfigError, match="put a secret of your own into ARMAP_SERVE_TOKEN"):
        require_token(host, None, variable="ARMAP_SERVE_TOKEN")
    require_token(host, "secret", variable="ARMAP_SERVE_TOKEN")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_listening_to_this_machine_needs_none(host):
    require_token(host, None, variable="ARMAP_SERVE_TOKEN")


@pytest.mark.parametrize("token", ["", " secret", "secret\n", "sécret"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    with pytest.raises(ConfigError, match="ARMAP_SERVE_TOKEN"):
        require_token("127.0.0.1", token, variable="ARMAP_SERVE_TOKEN")


# The end


def test_told_to_end_it_answers_what_it_has_begun_and_leaves_nothing_behind():
    with odd_server(limits={"drain_s": 30}) as server:
        with connection(server.address) as one, connection(server.address) as idle:
            one.sendall(post(b'{"input": "say=5 wait=1.5"}'))
            with httpx.Client(base_url=server.address, timeout=60) as client:
                while "armap_waiting 1.0" not in client.get("/metrics").text:
                    time.sleep(0.05)
            server.process.send_signal(signal.SIGINT)
            answer = everything(one)
            assert everything(idle) == b""
        assert server.process.wait(timeout=60) == 0
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["data"][0]["probs"] == [5.0]
        assert server.process.stdout.read() == "left over: 0\n"
        with pytest.raises(ConnectionError):
            connection(server.address)
