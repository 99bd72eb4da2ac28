"""A language model server that answers at once or late, and always the same: for benchmarks.

It speaks the OpenAI chat protocol on loopback, in a process of its own. Sample i of an answer is chosen by a hash of
the conversation and i: among the actions that a schema in the request lists, or else among a few that it makes up.
Every answer takes the same time, however many samples it has.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ANSWERS = ["north", "south", "east", "west", "take lamp", "open door", "read note", "wait"]


@contextmanager
def serving(latency_s: float) -> Iterator[str]:
    """Start a server; give the address that stands before `/chat/completions`."""
    command = [sys.executable, str(Path(__file__)), str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def answer(request: dict[str, object]) -> bytes:
    """Return the body of a reply."""
    messages = json.dumps(request["messages"])
    schema = request.get("response_format")
    listed = schema["json_schema"]["schema"]["properties"]["action"]["enum"] if isinstance(schema, dict) else None
    choices = []
    n = request.get("n", 1)
    assert isinstance(n, int)
    for index in range(n):
        digest = hashlib.blake2b(f"{index}{messages}".encode(), digest_size=8).digest()
        among = listed or _ANSWERS
        text = among[int.from_bytes(digest) % len(among)]
        content = json.dumps({"action": text}) if listed else text
        message = {"role": "assistant", "content": content}
        choices.append({"index": index, "message": message, "finish_reason": "stop"})
    usage = {
        "prompt_tokens": len(messages) // 4,
        "completion_tokens": 4 * n,
        "total_tokens": len(messages) // 4 + 4 * n,
    }
    reply = {"id": "simulated", "object": "chat.completion", "created": 0, "model": request["model"]}
    return json.dumps({**reply, "choices": choices, "usage": usage}).encode()


class Connection(asyncio.Protocol):
    """Reads requests one after the other and answers each a while later."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if len(rest) >= length:
            self._received = rest[length:]
            due = asyncio.get_running_loop().time() + self._latency_s
            body = answer(json.loads(bytes(rest[:length])))
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            asyncio.get_running_loop().call_at(due, self._reply, head + body)

    def _reply(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


async def main(latency_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(latency_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
