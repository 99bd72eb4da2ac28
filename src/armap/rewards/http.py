"""A reward model behind the `/classify` route of `armap serve` or of vLLM."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import ssl
from collections.abc import Sequence
from functools import cache

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from armap.connections import reachable
from armap.errors import ConfigError, RewardModelError, UnavailableError
from armap.images import ImageFolder
from armap.replies import decoded, member, retry_after_s, server_message
from armap.rewards.conversation import Turn, as_turns
from armap.rewards.rendering import shortening_remarks
from armap.together import together
from armap.types import Trajectory

SHORTENED, WITHOUT_STEPS, UNREAD_PICTURES = "X-Armap-Shortened", "X-Armap-Without-Steps", "X-Armap-Unread-Pictures"
"""Headers in which `armap serve` says how many trajectories of a request it shortened, of how many of these it left out
whole steps, and how many pictures it did not read."""
_CONNECT_S = 10.0
"""A server that is there accepts at once, however long it then thinks."""
_REPLY_BYTES = 2**20
"""Whoever says more than this about one trajectory is no reward model, and is not read further."""
_EXCERPT_CHARS = 200
"""What is quoted of a server's words."""
_RETRYABLE = frozenset({408, 425, 429, 502, 503, 504})
"""What passes: too slow, too early, too many requests, and a server that is gone or overloaded for the moment."""
_ADVICE = {
    # Whoever is refused for one of these is refused whatever is asked.
    401: "; put the server's token into ARMAP_SERVE_TOKEN",
    403: "; put the server's token into ARMAP_SERVE_TOKEN",
    404: "; name the server's root, such as http://localhost:8025, without a path of its own, and a model that it has",
}


class HTTPRewardModel:
    """Asks a server for the scores of trajectories, one request for each, and takes them as they are.

    A trajectory is sent as the conversation that `armap.rewards.conversation` makes of it, which `armap serve` scores
    exactly as it would be scored in this process. Any other server writes the conversation out as its own chat template
    says, and has to read it whole.

    Use one instance per server, in one event loop, so that its limit holds.

    Args:
        url: the server's root, which `/classify` is put behind.
        token: sent as a bearer token; None for servers that want none.
        model: the server's name for the model; None for the only one it has.
        images: where the pictures are that trajectories name; None if there are none.
        concurrency: most requests on their way at once.
        timeout_s: longest time that one attempt may take.
        patience_s: longest time from the first attempt at a trajectory's score to the last.
        backoff_s: longest wait after the first failed attempt; it doubles with each further one.

    Attributes:
        name: identity for records.

    Raises:
        ConfigError: a setting cannot work.

    Source: vLLM 0.33.0, `vllm/entrypoints/pooling/classify/protocol.py`, for the request and the answer.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        model: str | None = None,
        images: ImageFolder | None = None,
        concurrency: int = 32,
        timeout_s: float = 120.0,
        patience_s: float = 600.0,
        backoff_s: float = 0.5,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency ({concurrency}) must be at least 1.")
        root = _checked(url)
        self.name = str(root)
        self._url = root.copy_with(path=root.path.rstrip("/") + "/classify")
        self._token = token
        self._model = model
        self._images = images
        self._client = _client(token)
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._backoff = wait_random_exponential(multiplier=backoff_s, max=30)
        self._was_there = False
        self._scored = 0
        self._unread = dict.fromkeys((SHORTENED, WITHOUT_STEPS, UNREAD_PICTURES), 0)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return one score per trajectory; see `armap.protocols.RewardModel.score`.

        Raises:
            RewardModelError: the server has no usable score for one of them.
            UnavailableError: the token or the address is refused, or nothing came within the time of patience.
            ConfigError: nobody has ever answered there, or there are pictures to send and no folder to read them from.
            DataError: a picture is missing.
        """
        return await together(map(self._ask, trajectories))

    def remarks(self) -> list[str]:
        """Return what the server says that it did not read as it was, a sentence each; others than ours say nothing."""
        shortened, without_steps, pictures = self._unread.values()
        limit = f"what {self.name} reads"
        found = shortening_remarks(shortened, without_steps, count=self._scored, limit=limit)
        if pictures:
            found.append(f"{pictures} pictures were not read by {self.name}: it sees none, or not so many.")
        return found

    async def close(self) -> None:
        """Close the connections; the server cannot be asked again."""
        await self._client.aclose()

    def _body(self, trajectory: Trajectory) -> bytes:
        messages = [{"role": turn.role, "content": self._content(turn)} for turn in as_turns(trajectory)]
        fields: dict[str, object] = {"messages": messages, "use_activation": False}
        if self._model is not None:
            fields["model"] = self._model
        return json.dumps(fields).encode()

    def _content(self, turn: Turn) -> str | list[dict[str, object]]:
        if len(turn.texts) == 1 and not turn.images:
            return turn.texts[0]
        if turn.images and self._images is None:
            raise ConfigError("A trajectory names pictures, and there is no folder to read them from; give one.")
        parts: list[dict[str, object]] = []
        for image in turn.images:
            assert self._images is not None
            uri = f"data:image/png;base64,{base64.b64encode(self._images.read(image)).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": uri}})
        parts += [{"type": "text", "text": text} for text in turn.texts]
        return parts

    async def _ask(self, trajectory: Trajectory) -> float:
        # With its pictures it may be large, so none is made before its turn.
        async with self._slots:
            return await self._sent(self._body(trajectory))

    async def _sent(self, body: bytes) -> float:
        last: _AttemptError | None = None

        async def attempt() -> float:
            nonlocal last
            try:
                return await self._attempt(body)
            except _AttemptError as error:
                last = error
                raise

        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            wait=self._wait_s,
            retry=retry_if_exception(lambda error: isinstance(error, _AttemptError) and error.retryable),
            reraise=True,
        )
        try:
            async with asyncio.timeout(self._patience_s):
                return await retrying(attempt)
        except TimeoutError:
            said = f"; the last attempt brought {last}" if last else ""
            raise UnavailableError(
                f"{self.name} gave no score within {self._patience_s:g} s{said}. Start again to go on from here."
            ) from None
        except _AttemptError as error:
            said = f"{self.name} gave no score: {error}"
            if error.status in _ADVICE:
                raise UnavailableError(f"{said}{_ADVICE[error.status]}.") from None
            raise RewardModelError(f"{said}.") from None

    async def _attempt(self, body: bytes) -> float:
        """Make one attempt."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", self._url, content=body) as response,
            ):
                content = await _read(response)
        except TimeoutError:
            raise _AttemptError(f"no answer within {self._timeout_s:g} s") from None
        except httpx.RequestError as error:
            if isinstance(error, httpx.ConnectError) and not self._was_there:
                # One that answered before is perhaps starting again.
                raise ConfigError(f"Nobody answers at {self.name}; start the reward model's server first.") from None
            raise _AttemptError(f"{type(error).__name__}{self._quoted(str(error))}") from None
        self._was_there = True
        status = response.status_code
        if status != httpx.codes.OK:
            said = self._quoted(server_message(content) or content.decode(errors="replace"))
            wait_s = retry_after_s(response.headers.get("Retry-After", ""))
            raise _AttemptError(f"HTTP {status}{said}", retryable=status in _RETRYABLE, status=status, wait_s=wait_s)
        score = self._score_in(content)
        self._scored += 1
        for name in self._unread:
            said = response.headers.get(name, "")
            self._unread[name] += int(said) if re.fullmatch("[0-9]{1,9}", said) else 0
        return score

    def _score_in(self, content: bytes) -> float:
        """Return the score that an answer holds."""
        data = member(decoded(content), "data")
        probs = member(data[0], "probs") if isinstance(data, list) and len(data) == 1 else None
        if not isinstance(probs, list) or not probs:
            said = self._quoted(content.decode(errors="replace"))
            raise _AttemptError(f"an answer without a score{said}", retryable=False)
        if len(probs) != 1:
            raise _AttemptError(f"{len(probs)} scores, while a reward model has one", retryable=False)
        score = probs[0]
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise _AttemptError(f"a score that is no finite number{self._quoted(repr(score))}", retryable=False)
        return float(score)

    def _wait_s(self, state: RetryCallState) -> float:
        """Return the wait before the next attempt: what the server asks for, but at least the back-off.

        Source: full jitter, Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        error = state.outcome.exception() if state.outcome else None
        return max(self._backoff(state), error.wait_s if isinstance(error, _AttemptError) else 0.0)

    def _quoted(self, text: str) -> str:
        """Return the start of a server's text in brackets, safe to print and to record, or nothing if it is empty."""
        text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        if self._token:
            text = text.replace(self._token, "[token]")
        return f" ({text[:_EXCERPT_CHARS]})" if text else ""


class _AttemptError(Exception):
    """An attempt brought no score; never leaves this module."""

    def __init__(self, what: str, *, retryable: bool = True, status: int = 0, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.retryable = retryable
        self.status = status
        self.wait_s = wait_s


def _checked(url: str) -> httpx.URL:
    root = reachable(url)
    # The address goes into records, so nothing in it may be a secret.
    if root is None or root.userinfo or root.query or root.fragment:
        raise ConfigError(
            "The address of a reward model's server must be a plain http:// or https:// one, such as "
            "http://localhost:8025; its token belongs into ARMAP_SERVE_TOKEN."
        )
    return root


def _client(token: str | None) -> httpx.AsyncClient:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        if not re.fullmatch(r"[!-~]+", token):
            raise ConfigError("The token of the reward model's server holds characters that no token has.")
        headers["Authorization"] = f"Bearer {token}"
    # A proxy named in the environment is used, except for this machine's own servers, which it cannot reach.
    local = dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]"))
    try:
        return httpx.AsyncClient(
            headers=headers,
            verify=_tls(),
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None),
            mounts=local,
        )
    except (ImportError, ValueError):
        raise ConfigError(
            "The proxy in the environment (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) cannot be used; "
            "correct it, or install httpx[socks] if it is a SOCKS proxy."
        ) from None


@cache
def _tls() -> ssl.SSLContext:
    """Return what connections are secured with; reading the certificates takes 40 ms, so models share it."""
    return httpx.create_ssl_context()


async def _read(response: httpx.Response) -> bytes:
    """Read a body until its end, or until it is too long to be an answer."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _REPLY_BYTES:
            raise _AttemptError(f"an answer of more than {_REPLY_BYTES:,} bytes", retryable=False)
    return bytes(body)
