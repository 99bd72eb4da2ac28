"""Who may come in."""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from armap.serve.bodies import error_body
from armap.serve.listening import is_loopback
from armap.serve.metrics import Meters


class Guard:
    """Lets in only who may come in, and counts.

    Args:
        app: what is guarded.
        token: what everyone has to show, but for asking after the service's health; None to let in everyone who calls
            the service by a name of this machine, as a page from elsewhere in somebody's browser cannot.
        meters: counts.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, meters: Meters) -> None:
        self._app = app
        self._token = None if token is None else sha256(token.encode()).digest()
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope)
        try:
            refusal = self._refusal(request)
            await (self._app if refusal is None else refusal)(scope, receive, note)
        finally:
            self._meters.answered(scope["path"], status, time.monotonic() - started)

    def _refusal(self, request: Request) -> Response | None:
        if self._token is None:
            if is_loopback(_name_in(request.headers.get("host", ""))):
                return None
            return error_response(
                HTTPStatus.MISDIRECTED_REQUEST, "This service is for its own machine; call it localhost."
            )
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        equal = hmac.compare_digest(sha256(shown.strip().encode()).digest(), self._token)
        # Not of the address, a part of which the client says.
        if request.scope["path"] == "/health" or (equal and scheme.lower() == "bearer"):
            return None
        response = error_response(HTTPStatus.UNAUTHORIZED, "The token is missing or wrong.")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response


def error_response(status: int, message: str, param: str | None = None) -> Response:
    """Return an answer that says what went wrong."""
    return JSONResponse(error_body(status, message, param), status)


def _name_in(host: str) -> str:
    """Return the name in a Host header, or nothing if it holds none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
