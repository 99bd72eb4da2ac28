"""Listening for requests: who is let in at all, for how long, and what happens when the service is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from armap.errors import ConfigError
from armap.serve.limits import Limits

_KEEP_ALIVE_S = 15
"""How long a connection is kept for the next request: longer than clients do, whose requests would meet its closing."""


def serve(app: ASGIApp, *, host: str, port: int, limits: Limits, announce: Callable[[str], None]) -> None:
    """Serve until the process is interrupted or told to end; requests under way are answered first.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        limits: what is taken on.
        announce: told the service's address once requests are heard.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"The service cannot listen on {host}, port {port}: {error.strerror}; choose another."
        ) from error
    config = uvicorn.Config(
        app,
        # What makes a protocol does as well as its class.
        http=cast(Any, partial(_Impatient, limits)),
        ws="none",
        lifespan="on",
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=limits.drain_s,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    # Connections inherit it; without, an answer's body waits 40 ms for the client to confirm its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener, suppress(KeyboardInterrupt):
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])


def require_token(host: str, token: str | None, *, variable: str) -> None:
    """Check that nobody from elsewhere can come in without a token.

    Args:
        host: address to listen on.
        token: what everyone has to show; None for nothing.
        variable: name of the environment variable that holds it.

    Raises:
        ConfigError: anybody could.
    """
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise ConfigError(f"The token in {variable} must be of letters, digits and signs, without blanks around it.")
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"Others can reach {host}, so a token is needed: put a secret of your own into {variable}, or listen on "
            "127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Return whether a name or an address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Impatient(H11Protocol):
    """Uvicorn's protocol with an end to its patience with connections on which no request is under way.

    It would wait for ever for a first line and headers, and for the end of a body that was refused.

    Args:
        limits: how many connections, and how long they may take.
        uvicorns: what uvicorn gives it.
    """

    def __init__(self, limits: Limits, **uvicorns: Any) -> None:  # noqa: ANN401 - uvicorn's own business
        super().__init__(**uvicorns)
        self._limits = limits
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's own kinds differ by version
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._patience is None and not self.transport.is_closing():
            self._patience = self.loop.call_later(self._limits.idle_s, self.transport.abort)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
