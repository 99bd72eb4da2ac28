import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from armap.connections import Connections, Limits, connections_to

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


Talk = tuple[Connections, list[bytes], list[int]]
"""Connections, the requests that came, and one entry per connection made."""


@asynccontextmanager
async def talking_to(
    *answers: bytes, closes: bool = False
) -> AsyncIterator[tuple[Connections, list[bytes], list[int]]]:
    """Serve the answers in turn."""
    requests: list[bytes] = []
    made: list[int] = []
    script = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(1)
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            requests.append(head + await reader.readexactly(length))
            writer.write(next(script))
            if closes:
                break
        writer.close()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, StopIteration):
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    connections = connections_to(httpx.URL(f"http://127.0.0.1:{port}/v1/x?y=1"), [("A", "b")], Limits(100, 10))
    try:
        yield connections, requests, made
    finally:
        await connections.close()
        server.close()


async def test_a_request_is_what_http_wants():
    async with talking_to(PLAIN) as (connections, requests, _):
        reply = await connections.post(b'{"q": 1}')
    assert (reply.status, reply.content, reply.whole) == (200, b"body", True)
    lines = requests[0].split(b"\r\n")
    assert lines[0] == b"POST /v1/x?y=1 HTTP/1.1"
    assert lines[1].startswith(b"Host: 127.0.0.1:")
    assert {b"A: b", b"Content-Length: 8", b'{"q": 1}'} <= set(lines)


async def test_a_connection_is_used_again():
    async with talking_to(*[PLAIN] * 5) as (connections, _, made):
        for _ in range(5):
            await connections.post(b"{}")
    assert len(made) == 1


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\n\r\nbody",
    ],
)
async def test_a_connection_that_ends_is_not_used_again(answer):
    async with talking_to(answer, PLAIN, closes=True) as (connections, _, made):
        assert (await connections.post(b"{}")).content == b"body"
        assert (await connections.post(b"{}")).content == b"body"
    assert len(made) == 2


async def test_a_connection_that_the_server_left_in_the_meantime_is_made_anew():
    async with talking_to(PLAIN, PLAIN, closes=True) as (connections, _, made):
        await connections.post(b"{}")
        await asyncio.sleep(0.05)
        await connections.post(b"{}")
    assert len(made) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nLate: header\r\nLater: one\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        b"HTTP/1.1 200\r\nContent-Length:4\r\n\r\nbody",
    ],
)
async def test_every_form_of_a_body_is_read_and_the_next_reply_after_it(answer):
    async with talking_to(answer, PLAIN) as (connections, _, made):
        assert (await connections.post(b"{}")).content == b"body"
        assert (await connections.post(b"{}")).content == b"body"
    assert len(made) == 1


@pytest.mark.parametrize(("status", "limit"), [(200, 100), (503, 10)])
@pytest.mark.parametrize("chunked", [True, False])
async def test_no_more_is_read_than_the_limit(status, limit, chunked):
    body = b"x" * 200
    head = b"Transfer-Encoding: chunked\r\n\r\nc8\r\n" if chunked else b"Content-Length: 200\r\n\r\n"
    async with talking_to(b"HTTP/1.1 %d Hm\r\n" % status + head + body, PLAIN) as (connections, _, made):
        reply = await connections.post(b"{}")
        assert (reply.status, reply.content, reply.whole) == (status, b"x" * limit, False)
        assert (await connections.post(b"{}")).content == b"body"
    assert len(made) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nlots\r\nbody",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**17 + b"\r\n\r\n",
        PLAIN.replace(b"OK\r\n", b"OK\r\nContent-Encoding: br\r\n"),
        b"",
    ],
    ids=lambda answer: str(answer[:50]),
)
async def test_what_is_no_reply_is_an_error(answer):
    async with talking_to(answer, closes=True) as (connections, _, _):
        with pytest.raises(httpx.RequestError):
            await connections.post(b"{}")


async def test_requests_at_the_same_time_have_a_connection_each():
    async with talking_to(*[PLAIN] * 20) as (connections, _, made):
        for _ in range(2):
            replies = await asyncio.gather(*(connections.post(b"{}") for _ in range(10)))
            assert {reply.content for reply in replies} == {b"body"}
    assert len(made) == 10
