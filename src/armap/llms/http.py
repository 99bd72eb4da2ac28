"""A language model behind any OpenAI-compatible `/chat/completions` endpoint.

Two things meet here: an attempt (one HTTP request, bounded in time and size), and the policy that decides which failed
attempts are worth repeating. What is asked, and how replies are read, is in `chat_protocol`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from random import uniform
from typing import Self

import httpx

from armap.connections import Limits, Reply, connections_to, reachable
from armap.errors import ConfigError, LLMError
from armap.llms.bought import Answers, Bought
from armap.llms.chat_protocol import (
    COMPLAINT_ABOUT_N,
    TOO_LARGE,
    Question,
    counted,
    is_thought,
    refused_field,
    status_within,
)
from armap.replies import decoded, member, retry_after_s, server_message
from armap.together import together
from armap.types import Completion, Message, SamplingParams, Usage

MAX_REPLY_BYTES = 16 * 2**20
"""Whoever sends more is no language model, and is not read further."""
MAX_ERROR_BYTES = 64 * 2**10
"""What is read of an error page."""
EXCERPT_CHARS = 200
"""What is quoted of a server's words."""
_MOST_THOUGHTS = 2
"""How often a reply is paid for that was cut short before it said anything, where no answer was short enough."""
RETRYABLE_STATUSES = frozenset({408, 409, 425})
"""Besides every 5xx, and too many requests: timeout, conflict, too early."""
UNAVAILABLE_STATUSES = frozenset({401, 402, 404, 405})
"""Besides every 3xx: the key, the address or the model's name is wrong, or the credit is used up, whatever is asked.
Any other may be about one prompt alone."""
_TOO_MANY_REQUESTS = 429
"""About one prompt only where it is too large for the limit, be it that it says so or never gets through."""
_FRESH = 100_003
"""How far a fresh seed is from one that brought a bad reply: further than there are answers to a question, and as far
for one that is gone on with as for a whole one."""
_MOST_DOUBLINGS = 99
"""A rate limit may go on for long, and floating-point numbers end."""

_ADVICE = {
    401: "; check the API key (ARMAP_API_KEY)",
    402: "; the credit of the API key is used up",
    403: "; check the API key (ARMAP_API_KEY)",
    404: "; check the base URL and the name of the model",
    405: "; check the base URL",
    # Every 3xx: the address is another one.
    300: "; check the base URL",
}


class HTTPLLM:
    """Asks an OpenAI-compatible server, patiently: what may succeed later is tried again, the rest is an error.

    Where a question is refused, or all attempts are in vain and nobody else is answered meanwhile, `Hello` is asked in
    its place: if that brings an answer, the error is about the question, and otherwise about the server, which is away,
    has no credit left, or does not take the settings. A rate limit is waited out for as long as others get through,
    and counts as such an error only once nobody does, all attempts long, with waits as long as the server asks for.

    Of `temperature`, `top_p` and `seed`, what a server says it does not take is left out from then on, answers are
    drawn as it pleases, and `remarks` says so; where it says that it wants `max_completion_tokens`, that is sent for
    `max_tokens`. Where it takes the field with another value, its refusal is an error.

    A call's `Usage` counts the requests that were answered, with the tokens the server reports for them, including
    answers that could not be used. Its name is the model's alone, since a server may move. Use one instance per
    endpoint, in one event loop, so that its limit holds.

    Args:
        base_url: what stands before `/chat/completions`, usually ending in `/v1`.
        model: the server's name for the model.
        api_key: sent as a bearer token; None for servers that want none.
        concurrency: most requests on their way at once.
        timeout_s: longest time one attempt may take, from the request to the last byte of the reply.
        max_attempts: how often one request is sent before it counts as failed.
        backoff_s: longest wait after the first failed attempt, four times that after a rate limit; it doubles with each
            further one.
        retry_after_cap_s: longest wait between two attempts, even if the server's Retry-After asks for more; twice that
            after a rate limit.
        price_usd_per_million: price of a million prompt tokens and of a million completion tokens; cached prompt
            tokens are charged like others.

    Raises:
        ConfigError: a setting cannot work.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 300.0,
        max_attempts: int = 8,
        backoff_s: float = 0.5,
        retry_after_cap_s: float = 30.0,
        price_usd_per_million: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        if concurrency < 1 or max_attempts < 1:
            raise ConfigError(f"concurrency ({concurrency}) and max_attempts ({max_attempts}) must be at least 1.")
        url = _checked_url(base_url)
        self.name = model
        self._at = f"{model} @ {url.copy_with(userinfo=b'', query=None, fragment=None)}"
        target = url.copy_with(path=url.path.rstrip("/") + "/chat/completions", userinfo=b"", fragment=None)
        self._secrets = [secret for secret in (api_key, url.password, *url.params.values()) if secret]
        self._connections = connections_to(target, _headers(url, api_key), Limits(MAX_REPLY_BYTES, MAX_ERROR_BYTES))
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._retry_after_cap_s = retry_after_cap_s
        self._rate_limit_cap_s = 2 * retry_after_cap_s
        self._price_usd_per_million = price_usd_per_million
        self._server_takes_n = True
        self._refused: frozenset[str] = frozenset()
        self._replies = 0
        # How many there were when `Hello` was answered last: without more, no more of a credit is used up.
        self._replies_at_hello = -1

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        base_url: str | None = None,
        model: str | None = None,
        concurrency: int = 16,
        price_usd_per_million: tuple[float, float] = (0.0, 0.0),
    ) -> Self:
        """Return the model that ARMAP_BASE_URL, ARMAP_MODEL and ARMAP_API_KEY describe; arguments come first.

        OPENAI_BASE_URL stands in for a missing base URL and OPENAI_API_KEY for a missing key, but the latter is
        sent nowhere else than to OPENAI_BASE_URL: a key meant for one server must not reach another.

        Raises:
            ConfigError: the base URL or the model is not set, or a setting cannot work.
        """
        own_url = base_url or environ.get("ARMAP_BASE_URL")
        url = own_url or environ.get("OPENAI_BASE_URL")
        model = model or environ.get("ARMAP_MODEL")
        if not url:
            raise ConfigError("No language model server is set; set ARMAP_BASE_URL, such as http://localhost:8000/v1.")
        if not model:
            raise ConfigError("No language model is set; set ARMAP_MODEL to the server's name for it.")
        api_key = environ.get("ARMAP_API_KEY") or (None if own_url else environ.get("OPENAI_API_KEY"))
        return cls(
            base_url=url,
            model=model,
            api_key=api_key,
            concurrency=concurrency,
            price_usd_per_million=price_usd_per_million,
        )

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: SamplingParams,
        choices: Sequence[str] | None = None,
    ) -> list[Completion]:
        """Draw exactly `n` answers; see `protocols.LLM`.

        Raises:
            LLMError: the server refused the request, or gave too few usable answers in all attempts. It says what was
                spent all the same, and which answers there were if they came one at a time.
            CancelledError: an LLMError that says so is its cause.
        """
        question = Question(self.name, messages, n, sampling, choices)
        bought = Bought()
        try:
            await self._buy(question, bought)
        except LLMError as error:
            error.usage, error.answers = bought.usage, bought.beginning
            raise
        except asyncio.CancelledError:
            cause = LLMError(f"{self._at} was not waited for.", usage=bought.usage, answers=bought.beginning)
            raise asyncio.CancelledError from cause
        first, *others = (answer for reply in bought.replies for answer in reply.answers)
        return [first.model_copy(update={"usage": bought.usage}), *others]

    def remarks(self) -> list[str]:
        """Return a sentence if answers were drawn otherwise than was asked for."""
        left_out = sorted(self._refused - {"max_tokens"})
        greedy = ", greedy ones too" if "temperature" in left_out else ""
        said = f"{self._at} does not take {' and '.join(left_out)}: its answers were drawn with its own{greedy}."
        return [said] if left_out else []

    async def close(self) -> None:
        """Close the connections; the model cannot be asked again."""
        await self._connections.close()

    async def _buy(self, question: Question, bought: Bought) -> None:
        """Ask for all answers at once, and one by one for those that are missing then."""
        n = question.n
        if n > 1 and self._server_takes_n:
            bought.joint = await self._ask(question, bought, n=n)
        joint = bought.joint
        got = len(joint.answers)
        # A server that took `n` has used up the first n seeds; any other answers as if it had never been asked for n.
        first = n if joint.num_choices == n else got
        bought.separate = [None] * (n - got)

        async def buy(place: int) -> None:
            bought.separate[place] = await self._ask(question, bought, index=first + place)

        await together(map(buy, range(n - got)))
        # Remembered only now: had the separate requests failed as well, `n` would not have been to blame. A server that
        # gives some at a time is asked alike every time, so that no answer depends on what was asked before.
        if n > 1 and joint.num_choices <= 1:
            self._server_takes_n = False

    async def _ask(self, question: Question, bought: Bought, *, n: int = 1, index: int = 0) -> Answers:
        """Send one request for `n` answers, until at least one is usable; a refused `n` gives an empty reply."""
        failures = rate_limits = bad_replies = thoughts = 0
        # Rate limits since anybody was answered: others come to an end, so this one is alone at last.
        unheard, replies_before = 0, self._replies
        refused: frozenset[str] = frozenset()
        while True:
            refused |= self._refused
            # A server that honours the seed would repeat a bad reply for ever, so each moves on to a fresh seed.
            body = question.body(n, seed_offset=index + bad_replies * _FRESH, refused=refused)
            try:
                content, reply = await self._post(body)
                self._replies += 1
                # Remembered only now: had it been refused all the same, the fields would not have been to blame.
                self._refused |= refused
                usage = self._usage(reply)
                choices = member(reply, "choices")
                choices = choices[:n] if isinstance(choices, list) else []
                if answers := question.answers(choices):
                    return Answers(answers, len(choices), usage)
                bought.unusable += usage
                bad_replies += 1
                raise self._unusable(content, choices, question)
            except _AttemptError as error:
                if field := refused_field(error.complaint, body):
                    refused |= {field}
                    continue
                if n > 1 and COMPLAINT_ABOUT_N.search(error.complaint):
                    return Answers([], 0, Usage())
                others_heard, replies_before = self._replies != replies_before, self._replies
                limited = error.retryable and error.status == _TOO_MANY_REQUESTS
                failures += not limited
                rate_limits += limited
                unheard = limited + (0 if others_heard else unheard)
                thoughts += error.thinking
                # Where other thoughts are short enough, this one may be too.
                too_long = error.thinking and thoughts >= _MOST_THOUGHTS and not bought.replies
                if not error.retryable or too_long or self._max_attempts in (failures, unheard):
                    # What others are answered says nothing of a limit, nor of a credit.
                    served = error.retryable and others_heard and not limited
                    if not (error.unavailable or served):
                        error.unavailable = not await self._says_hello(question, error, refused, bought)
                    raise self._failure(error, failures + rate_limits) from None
                wait_s = self._wait_s(error, failures, rate_limits)
            await asyncio.sleep(wait_s)

    async def _says_hello(
        self, question: Question, error: _AttemptError, refused: frozenset[str], bought: Bought
    ) -> bool:
        """Say whether the server answers something else that is asked as the question was, so that only that is bad."""
        if not error.retryable and self._replies == self._replies_at_hello:
            return True
        body = question.hello().body(1, seed_offset=0, refused=refused)
        wait_s, replies = 0.0, self._replies
        # Whoever came here by many attempts has waited already, and whoever was refused at once has not.
        for attempt in range(1, 2 if error.retryable else self._max_attempts + 1):
            await asyncio.sleep(wait_s)
            try:
                _, reply = await self._post(body)
            except _AttemptError as passing:
                if not passing.retryable:
                    return False
                wait_s = self._wait_s(passing, 0, attempt)
            else:
                self._replies_at_hello = replies
                bought.unusable += self._usage(reply)
                return True
        return False

    async def _post(self, body: bytes) -> tuple[bytes, object]:
        """Make one attempt and return the body of a successful reply, and what it says."""
        try:
            async with self._slots, asyncio.timeout(self._timeout_s):
                reply = await self._connections.post(body)
        except TimeoutError:
            raise _AttemptError(f"no answer within {self._timeout_s:g} s") from None
        except httpx.RequestError as error:
            nobody = isinstance(error, httpx.ConnectError)
            raise _AttemptError(f"{type(error).__name__}{self._quoted(str(error))}", unavailable=nobody) from None
        if not 200 <= reply.status < 300:
            raise self._refusal(reply)
        if not reply.whole:
            raise _AttemptError(f"a reply of more than {MAX_REPLY_BYTES:,} bytes", retryable=False)
        said = decoded(reply.content)
        if status := status_within(said):
            raise self._refusal(reply._replace(status=status))
        return reply.content, said

    def _failure(self, error: _AttemptError, attempts: int) -> LLMError:
        if error.retryable:
            message = f"{self._at} gave no usable answer in {attempts} attempts; the last one brought {error}."
        else:
            status = error.status or 0
            advice = _ADVICE.get(300 if status // 100 == 3 else status, "") if error.unavailable else ""
            message = f"{self._at} gave no usable answer and will not on asking again: {error}{advice}."
        return LLMError(
            message,
            retryable=error.retryable,
            status=error.status,
            unavailable=error.unavailable,
            cut=error.thinking,
        )

    def _unusable(self, content: bytes, choices: Sequence[object], question: Question) -> _AttemptError:
        said = "a reply without a usable answer"
        quoted = self._quoted(json.dumps(choices) if choices else content.decode(errors="replace"))
        cut = any(member(choice, "finish_reason") == "length" for choice in choices)
        if cut:
            said += f", cut short by max_tokens={question.max_tokens}"
            quoted += "; a model that thinks first needs more of them, so collect with more --reply-tokens"
        # What is on offer is sent as a schema, which not every server heeds; who was still thinking did not come to it.
        thinking = cut and all(map(is_thought, choices))
        if question.choices and not thinking:
            quoted += "; if the server knows no structured output, collect with --free"
        return _AttemptError(said + quoted, thinking=thinking)

    def _refusal(self, reply: Reply) -> _AttemptError:
        status = reply.status
        text = reply.content.decode(errors="replace")
        limited = status == _TOO_MANY_REQUESTS and not TOO_LARGE.search(text)
        asked_s = retry_after_s(reply.headers.get("retry-after", ""))
        # A limit until later than anybody waits here is not waited out, so that nobody knows whom it lets through then.
        lasting = limited and asked_s > self._rate_limit_cap_s
        return _AttemptError(
            f"HTTP {status}{self._quoted(server_message(reply.content) or text)}",
            retryable=limited or status in RETRYABLE_STATUSES or status >= 500,
            status=status,
            unavailable=status in UNAVAILABLE_STATUSES or status < 400 or lasting,
            retry_after_s=asked_s,
            complaint=text if status in (400, 422) else "",
        )

    def _wait_s(self, error: _AttemptError, failures: int, rate_limits: int) -> float:
        """Return the wait after some attempts: what the server asks for, but at least the back-off.

        Source: full and equal jitter, Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        if error.status == _TOO_MANY_REQUESTS:
            # Most limits are per minute; whoever comes back early may count against them again.
            cap_s = self._rate_limit_cap_s
            longest_s = min(4 * self._backoff_s * 2 ** min(rate_limits - 1, _MOST_DOUBLINGS), cap_s)
            shortest_s = longest_s / 2
        else:
            cap_s = self._retry_after_cap_s
            longest_s = min(self._backoff_s * 2 ** min(failures + rate_limits - 1, _MOST_DOUBLINGS), cap_s)
            shortest_s = 0.0
        return max(uniform(shortest_s, longest_s), min(error.retry_after_s, cap_s))

    def _usage(self, reply: object) -> Usage:
        counts = member(reply, "usage")
        prompt_tokens = counted(counts, "prompt_tokens")
        completion_tokens = counted(counts, "completion_tokens")
        prompt_price, completion_price = self._price_usd_per_million
        return Usage(
            calls=1,
            prompt_tokens=prompt_tokens,
            cached_tokens=counted(member(counts, "prompt_tokens_details"), "cached_tokens"),
            completion_tokens=completion_tokens,
            cost_usd=(prompt_tokens * prompt_price + completion_tokens * completion_price) / 1e6,
        )

    def _quoted(self, text: str) -> str:
        """Return the start of a server's text in brackets, safe to print and to record, or nothing if it is empty."""
        text = " ".join("".join(char if char.isprintable() else " " for char in text[:MAX_ERROR_BYTES]).split())
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return f" ({text[:EXCERPT_CHARS]})" if text else ""


class _AttemptError(Exception):
    """An attempt brought no usable answer; never leaves this module."""

    def __init__(
        self,
        what: str,
        *,
        retryable: bool = True,
        status: int | None = None,
        unavailable: bool = False,
        retry_after_s: float = 0.0,
        complaint: str = "",
        thinking: bool = False,
    ) -> None:
        super().__init__(what)
        self.retryable = retryable
        self.status = status
        self.unavailable = unavailable
        self.retry_after_s = retry_after_s
        self.complaint = complaint
        self.thinking = thinking


def _checked_url(base_url: str) -> httpx.URL:
    url = reachable(base_url)
    if url is None:
        # The address itself is not shown, because it may carry a password.
        raise ConfigError(
            "The base URL of the language model server must be a complete http:// or https:// address, with a name and "
            "a port that there can be, such as http://localhost:8000/v1."
        )
    return url


def _headers(url: httpx.URL, api_key: str | None) -> list[tuple[str, str]]:
    # Some firewalls refuse whoever does not say what it is.
    headers = [("Content-Type", "application/json"), ("User-Agent", f"armap/{version('armap')}")]
    if api_key:
        if url.userinfo:
            raise ConfigError("The base URL carries a user name, so an API key cannot be sent as well; remove one.")
        if not re.fullmatch(r"[!-~]+", api_key):
            raise ConfigError("The API key holds characters no key has; look for blanks or line breaks around it.")
        headers.append(("Authorization", f"Bearer {api_key}"))
    elif url.userinfo:
        name_and_password = b64encode(f"{url.username}:{url.password}".encode()).decode()
        headers.append(("Authorization", f"Basic {name_and_password}"))
    return headers
