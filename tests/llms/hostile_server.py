"""A chat completion server on loopback that misbehaves exactly as its script says."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain, repeat
from typing import Any, Self

Request = dict[str, Any]
"""The decoded body of a request."""

Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request; whoever wants the connection closed afterwards closes it."""


def choice(content: Any, *, finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}


def answer(*contents: Any, usage: Any = None, finish_reason: str | None = "stop") -> Behaviour:
    """A proper reply with one choice per content, however many were asked for."""
    choices = [choice(content, finish_reason=finish_reason) for content in contents]
    return body({"choices": choices} | ({"usage": usage} if usage is not None else {}))


def body(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Behaviour:
    """A complete reply with any body; what is not bytes is sent as JSON."""
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, {"Content-Length": str(len(payload)), **(headers or {})}) + payload)

    return reply


def refusal(status: int, message: str = "no", **headers: str) -> Behaviour:
    """An error in the form OpenAI gives it; underscores in header names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return body({"error": {"message": message}}, status=status, headers=named)


def late(seconds: float, then: Behaviour) -> Behaviour:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await then(request, writer)

    return reply


async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answers every sample with the last message, the sample's index and the seed."""
    contents = [
        json.dumps([request["messages"][-1]["content"], index, request.get("seed")])
        for index in range(request.get("n", 1))
    ]
    await answer(*contents, usage={"prompt_tokens": 7, "completion_tokens": 2 * len(contents)})(request, writer)


async def hang_up(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def half_body(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(_head(200, {"Content-Length": "500"}) + b'{"choices": [{"mess')
    writer.close()


async def half_chunked_body(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(_head(200, {"Transfer-Encoding": "chunked"}) + b'f\r\n{"choices": [{"\r\n40\r\nmess')
    writer.close()


def endless_body(status: int = 200) -> Behaviour:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, {"Transfer-Encoding": "chunked"}))
        while not writer.is_closing():
            writer.write(b"40000\r\n" + b"x" * 0x40000 + b"\r\n")
            await writer.drain()

    return reply


async def dripping_body(request: Request, writer: asyncio.StreamWriter) -> None:
    """Never pauses for long, and never ends."""
    writer.write(_head(200, {"Transfer-Encoding": "chunked"}))
    while not writer.is_closing():
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class HostileServer:
    """Serves one behaviour of the script per request, in order of arrival, and then `otherwise` for ever.

    Attributes:
        requests: decoded bodies, in order of arrival.
        headers: headers with lower-case names, in the same order.
        targets: paths with their queries, in the same order.
        most_at_once: most requests that had arrived and were not answered yet.
    """

    def __init__(self, script: Iterable[Behaviour] = (), *, otherwise: Behaviour = echo) -> None:
        self.requests: list[Request] = []
        self.headers: list[dict[str, str]] = []
        self.targets: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._behaviours = chain(script, repeat(otherwise))
        self._connections: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        self.address = "127.0.0.1:{1}".format(*self._server.sockets[0].getsockname())
        self.base_url = f"http://{self.address}/v1"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(asyncio.current_task())
        try:
            while not writer.is_closing():
                request = await self._read_request(reader)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    await next(self._behaviours)(request, writer)
                finally:
                    self._at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the test is over
        finally:
            writer.close()

    async def _read_request(self, reader: asyncio.StreamReader) -> Request:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        named = [line.partition(": ") for line in lines if line]
        headers = {name.lower(): value for name, _, value in named}
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.targets.append(first.split()[1])
        self.headers.append(headers)
        self.requests.append(request)
        return request
