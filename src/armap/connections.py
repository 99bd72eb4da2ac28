"""Requests to one address of an HTTP server, over connections that are kept open.

A general client costs a millisecond of processor time per request, and more the more connections it has; hundreds of
requests to the same address at a time need next to nothing of what it can do. Where a proxy stands in between, it is a
general client all the same.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple, Protocol
from urllib.request import getproxies, proxy_bypass

import httpx

from armap.errors import ConfigError

CONNECT_TIMEOUT_S = 10.0
"""A server that is there accepts at once, however long it then thinks."""
_IDLE_S = 5.0
"""How long a connection is kept that nobody uses; whoever stands in between may forget it later on."""
_LOCAL = ("localhost", "127.0.0.1", "::1")
"""This machine, which no proxy can reach."""


class Reply(NamedTuple):
    """What a server answered."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str]
    """By lower-case name."""
    content: bytes
    """The body; its beginning, if it is too long."""
    whole: bool
    """Whether that is all of it."""


class Limits(NamedTuple):
    """Most that is read of a body, in bytes."""

    success: int
    """Where the status says success."""
    error: int
    """Otherwise."""

    def of(self, status: int) -> int:
        """Return the limit that applies to a status."""
        return self.success if 200 <= status < 300 else self.error


class Connections(Protocol):
    """Connections to one address."""

    async def post(self, body: bytes) -> Reply:
        """Send a request and return its reply.

        Raises:
            httpx.RequestError: there is no reply, or none that can be read.
        """
        ...

    async def close(self) -> None:
        """Close all that nobody uses; nothing can be sent any more."""
        ...


def reachable(address: str) -> httpx.URL | None:
    """Return an address, or None if nothing could ever answer there.

    That is none that begins with http:// or https://, has a name that can be looked up, and a port that there is.
    """
    try:
        url = httpx.URL(address)
        host = url.host
        # Whoever looks the name up encodes it so first.
        url.raw_host.decode().encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        return None
    there = url.scheme in ("http", "https") and host and (url.port is None or 0 < url.port < 2**16)
    return url if there else None


def connections_to(url: httpx.URL, headers: Sequence[tuple[str, str]], limits: Limits) -> Connections:
    """Return connections to an address, through the proxy that the environment names for it, if any.

    Args:
        url: the address, with the path that requests are sent to, without a user name.
        headers: sent with every request.
        limits: how much is read.

    Raises:
        ConfigError: the proxy cannot be used.
    """
    proxies = getproxies()
    named = (url.scheme in proxies or "all" in proxies) and not proxy_bypass(url.host)
    return _Proxied(url, headers, limits) if named and url.host not in _LOCAL else _Direct(url, headers, limits)


class _Idle(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since_s: float


class _Direct:
    """Speaks HTTP/1.1 as far as it takes to post and to read the reply."""

    def __init__(self, url: httpx.URL, headers: Sequence[tuple[str, str]], limits: Limits) -> None:
        self._host = url.raw_host.decode()
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = _tls() if url.scheme == "https" else None
        own = (("Host", url.netloc.decode()), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
        lines = [f"POST {url.raw_path.decode()} HTTP/1.1", *(f"{name}: {value}" for name, value in (*own, *headers))]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()
        self._limits = limits
        self._idle: list[_Idle] = []

    async def post(self, body: bytes) -> Reply:
        reader, writer = await self._connection()
        reusable = False
        try:
            writer.write(self._head + b"%d\r\n\r\n" % len(body) + body)
            reply, reusable = await _read_reply(reader, self._limits)
        except OSError as error:
            raise httpx.ReadError(str(error)) from error
        except asyncio.IncompleteReadError:
            raise httpx.RemoteProtocolError("the server ended the connection in the middle of a reply") from None
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise httpx.RemoteProtocolError(f"no reply in HTTP: {error}") from error
        finally:
            if reusable:
                self._idle.append(_Idle(reader, writer, asyncio.get_running_loop().time()))
            else:
                writer.transport.abort()
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise httpx.DecodingError("a compressed reply, which was not asked for")
        return reply

    async def close(self) -> None:
        while self._idle:
            writer = self._idle.pop().writer
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the connection used last that is still good, or a new one."""
        while self._idle:
            reader, writer, since_s = self._idle.pop()
            fresh = asyncio.get_running_loop().time() - since_s < _IDLE_S
            if fresh and not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"not connected within {CONNECT_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error


class _Proxied:
    """Goes through a proxy."""

    def __init__(self, url: httpx.URL, headers: Sequence[tuple[str, str]], limits: Limits) -> None:
        try:
            self._client = httpx.AsyncClient(
                headers=[*headers],
                verify=_tls(),
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
                limits=httpx.Limits(max_connections=None),
            )
        except (ImportError, ValueError):
            raise ConfigError(
                "The proxy in the environment (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) cannot be used; "
                "correct it, or install httpx[socks] if it is a SOCKS proxy."
            ) from None
        self._url = url
        self._limits = limits

    async def post(self, body: bytes) -> Reply:
        async with self._client.stream("POST", self._url, content=body) as response:
            limit = self._limits.of(response.status_code)
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > limit:
                    break
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status_code, headers, bytes(content[:limit]), len(content) <= limit)

    async def close(self) -> None:
        await self._client.aclose()


@cache
def _tls() -> ssl.SSLContext:
    """Return what connections are secured with; reading the certificates takes 40 ms, so all share it."""
    return httpx.create_ssl_context()


async def _read_reply(reader: asyncio.StreamReader, limits: Limits) -> tuple[Reply, bool]:
    """Return a reply, and whether another one may follow on the same connection.

    Raises:
        OSError: the connection broke.
        IncompleteReadError: it was closed.
        ValueError, LimitOverrunError: what comes is no HTTP.
    """
    status = 100
    while status < 200:
        # Whatever begins with 1 only announces the reply.
        first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        status = int(rest[:3])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    limit = limits.of(status)
    ends = True
    if "chunked" in headers.get("transfer-encoding", "").lower():
        content = await _read_chunks(reader, limit)
    elif "content-length" in headers:
        content = await reader.readexactly(min(int(headers["content-length"]), limit + 1))
    else:
        content, ends = await _read_to_the_end(reader, limit), False
    whole = len(content) <= limit
    reusable = ends and whole and version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    return Reply(status, headers, content[:limit], whole), reusable


async def _read_chunks(reader: asyncio.StreamReader, limit: int) -> bytes:
    content = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        content += await reader.readexactly(min(size, limit + 1 - len(content)))
        if len(content) > limit:
            return bytes(content)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # headers that come after the body
    return bytes(content)


async def _read_to_the_end(reader: asyncio.StreamReader, limit: int) -> bytes:
    content = bytearray()
    while len(content) <= limit and (chunk := await reader.read(2**16)):
        content += chunk
    return bytes(content)
