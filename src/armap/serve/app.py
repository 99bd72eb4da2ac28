"""The routes: reads requests within limits, has them scored, and answers in the forms of vLLM."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from armap.images import ImageFolder
from armap.protocols import RewardModel
from armap.rewards.conversation import Turn, as_trajectory
from armap.rewards.http import SHORTENED, UNREAD_PICTURES, WITHOUT_STEPS
from armap.serve.batching import Batcher, BusyError, NoScoreError, NothingToReadError, Scored, TooLongError
from armap.serve.bodies import (
    ChatMessage,
    ChatRequest,
    ClassificationChatRequest,
    ClassificationCompletionRequest,
    ClassificationData,
    ClassificationResponse,
    ImagePart,
    ModelCard,
    ModelList,
    PoolingChatRequest,
    PoolingCompletionRequest,
    PoolingResponse,
    PoolingResponseData,
    Refusal,
    TextPart,
    TextRequest,
    UsageInfo,
    openapi,
    text_or_chat,
)
from armap.serve.guard import Guard, error_response
from armap.serve.limits import Limits
from armap.serve.metrics import CONTENT_TYPE, Meters
from armap.serve.pictures import Pictures, fetch, from_data_uri
from armap.types import ImageRef, Trajectory

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LABEL = "LABEL_0"
"""What transformers, and so vLLM, calls the only label of a model whose labels have no names."""


class _Service:
    """What the routes do.

    Args:
        name: the reward model's id.
        batcher: scores.
        pictures: keeps the pictures of requests under way.
        limits: what is taken on.
        remote_images: fetch pictures that requests point to.
        meters: counts.
    """

    def __init__(
        self,
        name: str,
        batcher: Batcher,
        pictures: Pictures,
        limits: Limits,
        remote_images: bool,
        meters: Meters,
    ) -> None:
        self._name = name
        self._batcher = batcher
        self._pictures = pictures
        self._limits = limits
        self._remote_images = remote_images
        self._meters = meters
        self._started = int(time.time())
        self._held_bytes = 0
        self._document = openapi()

    async def health(self, request: Request) -> Response:
        """Say that the service is well."""
        return Response()

    async def models(self, request: Request) -> Response:
        """Name the reward model."""
        card = ModelCard(id=self._name, created=self._started, root=self._name)
        return JSONResponse(ModelList(data=[card]).model_dump())

    async def metrics(self, request: Request) -> Response:
        """Return metrics as Prometheus reads them."""
        return Response(self._meters.text(), headers={"Content-Type": CONTENT_TYPE})

    async def document(self, request: Request) -> Response:
        """Return the OpenAPI document."""
        return JSONResponse(self._document)

    async def classify(self, request: Request) -> Response:
        """Answer `/classify`."""
        kinds = (ClassificationCompletionRequest, ClassificationChatRequest)
        asked, found = await self._scored(request, kinds)
        data = [
            ClassificationData(index=index, label=_LABEL, probs=[_value(asked, one)]) for index, one in enumerate(found)
        ]
        return JSONResponse(
            ClassificationResponse(
                id=f"classify-{asked.request_id or uuid4().hex}",
                created=int(time.time()),
                model=self._name,
                data=data,
                usage=_usage(found),
            ).model_dump(),
            headers=_unread(found),
        )

    async def pooling(self, request: Request) -> Response:
        """Answer `/pooling`."""
        asked, found = await self._scored(request, (PoolingCompletionRequest, PoolingChatRequest))
        data = [PoolingResponseData(index=index, data=[_value(asked, one)]) for index, one in enumerate(found)]
        return JSONResponse(
            PoolingResponse(
                id=f"pooling-{asked.request_id or uuid4().hex}",
                created=int(time.time()),
                model=self._name,
                data=data,
                usage=_usage(found),
            ).model_dump(),
            headers=_unread(found),
        )

    async def _scored(
        self, request: Request, kinds: tuple[type[TextRequest], type[ChatRequest]]
    ) -> tuple[TextRequest | ChatRequest, list[Scored]]:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(HTTPStatus.BAD_REQUEST, "The body must be JSON, and its Content-Type application/json.")
        if self._batcher.held >= self._limits.waiting:
            raise _busy(self._batcher.retry_after_s)
        with self._room() as hold:
            body = await self._body(request, hold)
            asked = await asyncio.to_thread(text_or_chat, body, kinds)
            del body
            if asked.model and asked.model != self._name:
                raise Refusal(
                    HTTPStatus.NOT_FOUND, "There is no such model; /v1/models names the one there is.", param="model"
                )
            images: list[ImageRef] = []
            try:
                return asked, await _unless_gone(request, self._answer(asked, images))
            finally:
                self._pictures.let_go(images)

    @contextmanager
    def _room(self) -> Iterator[Callable[[int], None]]:
        """Give a function that makes room for more bytes, all of which are given back in the end."""
        taken = 0

        def hold(count: int) -> None:
            nonlocal taken
            if self._held_bytes + count > self._limits.held_bytes:
                raise _busy(self._batcher.retry_after_s)
            taken += count
            self._held_bytes += count

        try:
            yield hold
        finally:
            self._held_bytes -= taken

    async def _body(self, request: Request, hold: Callable[[int], None]) -> bytes:
        too_long = Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is longer than {self._limits.body_bytes:,} bytes."
        )
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > self._limits.body_bytes:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._limits.body_bytes:
                        raise too_long
                    hold(len(chunk))
        except TimeoutError:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time.") from None
        return bytes(body)

    async def _answer(self, asked: TextRequest | ChatRequest, images: list[ImageRef]) -> list[Scored]:
        try:
            return await self._batcher.score(await self._read(asked, images))
        except BusyError as error:
            raise _busy(error.retry_after_s) from None
        except TooLongError:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "This is longer than the reward model can read, even with nothing but its instruction; "
                "shorten the task, the actions or the last observations.",
            ) from None
        except NothingToReadError:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "There is nothing to read in this.") from None
        except NoScoreError as error:
            _log.error("The reward model gave no score.", exc_info=error.__cause__)
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "The reward model gave no finite score.") from None

    async def _read(self, asked: TextRequest | ChatRequest, images: list[ImageRef]) -> list[Trajectory | str]:
        if isinstance(asked, ChatRequest):
            return [await self._trajectory(asked, images)]
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not self._batcher.reads_texts:
            raise Refusal(
                HTTPStatus.BAD_REQUEST, "This reward model reads conversations only; send `messages`.", param="input"
            )
        # More than may ever wait would be told to come back for ever.
        most = min(self._limits.inputs, self._limits.waiting)
        if len(texts) > most:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"There are more than {most} texts.", param="input")
        return list(texts)

    async def _trajectory(self, asked: ChatRequest, images: list[ImageRef]) -> Trajectory:
        messages = asked.messages
        shown = sum(isinstance(part, ImagePart) for message in messages for part in _parts(message))
        for count, limit, what in (
            (len(messages), self._limits.messages, "messages"),
            (shown, self._limits.images, "pictures"),
        ):
            if count > limit:
                raise Refusal(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"There are more than {limit} {what}.", param="messages"
                )
        turns: list[Turn] = []
        for message in messages:
            own = [await self._kept(part, images) for part in _parts(message) if isinstance(part, ImagePart)]
            texts = tuple(part.text for part in _parts(message) if isinstance(part, TextPart))
            turns.append(Turn(message.role, texts, tuple(own)))
        try:
            return as_trajectory(turns)
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"This is no trajectory: {error}.", param="messages") from None

    async def _kept(self, part: ImagePart, images: list[ImageRef]) -> ImageRef:
        """Return a picture, put into `images` as well, from where it is to be let go."""
        url = part.image_url.url
        if url[:8].lower().startswith(("http://", "https://")):
            if not self._remote_images:
                raise Refusal(
                    HTTPStatus.BAD_REQUEST,
                    "Pictures are not fetched from elsewhere here; send them along as data URIs.",
                    param="messages",
                )
            png = await fetch(url, self._limits)
        else:
            png = await asyncio.to_thread(from_data_uri, url, self._limits)
        image = self._pictures.keep(png)
        images.append(image)
        return image


def make_app(
    model: RewardModel,
    *,
    name: str,
    images: ImageFolder,
    token: str | None = None,
    remote_images: bool = False,
    limits: Limits,
) -> ASGIApp:
    """Return a reward model as a web application.

    Args:
        model: what scores. It reads the pictures of trajectories in `images`.
        name: its id.
        images: where pictures of requests are put as long as they are needed.
        token: what everyone has to show as a bearer token; None to let in everyone on this machine.
        remote_images: fetch pictures that requests point to.
        limits: what is taken on.
    """
    batcher = Batcher(model, waiting=limits.waiting, batch=limits.batch)
    meters = Meters(batcher)
    service = _Service(name, batcher, Pictures(images), limits, remote_images, meters)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        work = asyncio.create_task(batcher.run())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    app = Starlette(
        routes=[
            Route("/classify", service.classify, methods=["POST"]),
            Route("/pooling", service.pooling, methods=["POST"]),
            Route("/health", service.health),
            Route("/v1/models", service.models),
            Route("/metrics", service.metrics),
            Route("/openapi.json", service.document),
        ],
        exception_handlers={
            Refusal: _refused,
            HTTPException: _not_routed,
            ClientDisconnect: _gone,
            HTTPStatus.INTERNAL_SERVER_ERROR: _failed,
        },
        lifespan=lifespan,
    )
    # A redirect would lead to wherever the request's Host header says.
    app.router.redirect_slashes = False
    return Guard(app, token=token, meters=meters)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, unless the client leaves before it is done.

    Raises:
        ClientDisconnect: it left.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    response = error_response(error.status, str(error), error.param)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = error_response(error.status_code, f"{error.detail}.")
    response.headers.update(error.headers or {})
    return response


async def _gone(request: Request, error: Exception) -> Response:
    # Nobody reads it; the status, which web servers use for this, is counted.
    return PlainTextResponse("", 499)


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "The service failed; its log says why.")


def _busy(retry_after_s: int) -> Refusal:
    message = f"Too much is waiting to be scored; come back in {retry_after_s} s."
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after_s=retry_after_s)


def _parts(message: ChatMessage) -> list[TextPart | ImagePart]:
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return message.content


def _value(asked: TextRequest | ChatRequest, scored: Scored) -> float:
    if not asked.activated:
        return scored.score
    # In this form neither side overflows.
    return 0.5 * (1 + math.tanh(scored.score / 2))


def _usage(found: Iterable[Scored]) -> UsageInfo:
    tokens = sum(len(one.read.tokens) for one in found)
    return UsageInfo(prompt_tokens=tokens, total_tokens=tokens)


def _unread(found: Sequence[Scored]) -> dict[str, str]:
    """Return the headers that say what was not read."""
    counts = {
        SHORTENED: sum(one.read.shortened for one in found),
        WITHOUT_STEPS: sum(one.read.without_steps for one in found),
        UNREAD_PICTURES: sum(one.read.unread_images for one in found),
    }
    return {name: str(count) for name, count in counts.items()}
