"""A bounded queue in front of a reward model: what arrives together is scored together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar, cast, runtime_checkable

from armap.errors import RewardModelError
from armap.protocols import RewardModel
from armap.rewards.rendering import ReadTrajectory, images_in
from armap.types import Trajectory

T = TypeVar("T")

_GATHER_S = 0.002
"""How long the first request of a batch waits for company: less than any model takes for one trajectory."""
_LONGEST_WAIT_S = 60
"""Nobody is told to come back later than this."""


@runtime_checkable
class ReadsTexts(Protocol):
    """A reward model that reads tokens, and scores texts as they stand as well as trajectories."""

    def read(self, trajectory: Trajectory | str, /) -> ReadTrajectory:
        """Return what is read of it.

        Raises:
            RewardModelError: it is too long.
        """
        ...

    async def score_read(
        self, trajectories: Sequence[Trajectory | str], read: Sequence[ReadTrajectory], /
    ) -> list[float]:
        """Return one score per trajectory or text, of what was read of each."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A reward model that computes what trajectories begin alike with only once, and counts."""

    computed_tokens: int
    """Tokens computed until now."""


class Scored(NamedTuple):
    """What became of one trajectory or text."""

    score: float
    """What the reward model says."""
    read: ReadTrajectory
    """What it read; a single token where it does not read tokens."""


class BusyError(Exception):
    """The queue is full.

    Attributes:
        retry_after_s: when there may be room.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


class TooLongError(Exception):
    """The reward model cannot read so many tokens."""


class NothingToReadError(Exception):
    """A text has no tokens."""


class NoScoreError(Exception):
    """The reward model gave no finite score; why not is its cause."""


class _Asked(NamedTuple):
    what: Trajectory | str
    answer: asyncio.Future[Scored]


class Batcher:
    """Scores trajectories and texts, as many together as are there, in the order in which they came.

    A reward model may refuse a batch because of one member; the members are then scored one by one, so that everyone
    gets an answer of their own.

    Args:
        model: the reward model; only one call to it is under way at a time.
        waiting: most trajectories that wait or are being scored.
        batch: most trajectories scored together.

    Attributes:
        batches: calls to the reward model until now.
        scored: trajectories and texts that got a score until now.
        tokens: tokens of those.
        shortened: those that were longer than the reward model reads.
        without_steps: those of the latter of which whole steps were left out.
        unread_images: pictures that were not read.
    """

    def __init__(self, model: RewardModel, *, waiting: int, batch: int) -> None:
        self.batches = self.scored = self.tokens = 0
        self.shortened = self.without_steps = self.unread_images = 0
        self._model = model
        self._limit = waiting
        self._batch = batch
        self._queue: dict[int, _Asked] = {}
        self._arrived = asyncio.Event()
        self._count = 0
        self._held = 0
        self._seconds_each = 0.0

    @property
    def held(self) -> int:
        """Trajectories and texts that wait or are being scored."""
        return self._held

    @property
    def retry_after_s(self) -> int:
        """In how many seconds what waits now is likely to be done."""
        return min(_LONGEST_WAIT_S, max(1, math.ceil(self._held * self._seconds_each)))

    @property
    def computed_tokens(self) -> int | None:
        """Tokens that the reward model computed until now; None where it does not count them."""
        return self._model.computed_tokens if isinstance(self._model, CountsTokens) else None

    @property
    def reads_texts(self) -> bool:
        """Whether texts can be scored as they stand."""
        return isinstance(self._model, ReadsTexts)

    async def score(self, asked: Sequence[Trajectory | str]) -> list[Scored]:
        """Return what the reward model says, in order; when cancelled, what still waits is never scored.

        Raises:
            BusyError: there is no room for all of them.
            TooLongError: one of them cannot be read.
            NothingToReadError: one of them is empty.
            NoScoreError: the reward model failed on one of them.
        """
        if self._held + len(asked) > self._limit:
            raise BusyError(self.retry_after_s)
        answers: list[asyncio.Future[Scored]] = []
        first = self._count
        for what in asked:
            answers.append(asyncio.get_running_loop().create_future())
            self._queue[self._count] = _Asked(what, answers[-1])
            self._count += 1
        self._held += len(asked)
        self._arrived.set()
        try:
            found = await asyncio.gather(*answers, return_exceptions=True)
        finally:
            self._held -= len(asked)
            for key in range(first, first + len(asked)):
                self._queue.pop(key, None)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return cast(list[Scored], found)

    async def run(self) -> None:
        """Answer for ever."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_GATHER_S)
            while batch := self._next():
                await self._answer(batch)
            self._arrived.clear()

    def _next(self) -> list[_Asked]:
        keys = list(self._queue)[: self._batch]
        return [self._queue.pop(key) for key in keys]

    async def _answer(self, batch: Sequence[_Asked]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        readable: list[_Asked] = []
        read: list[ReadTrajectory] = []
        for one in batch:
            if one.answer.done():
                # Whoever asked has gone, and the pictures with them.
                continue
            reading = asyncio.create_task(asyncio.to_thread(self._read, one.what))
            await asyncio.wait([reading])
            if (failure := reading.exception()) is not None:
                _settle(one.answer, TooLongError() if isinstance(failure, RewardModelError) else _no_score(failure))
            elif not reading.result().tokens:
                _settle(one.answer, NothingToReadError())
            else:
                readable.append(one)
                read.append(reading.result())
        if readable:
            await self._score(readable, read)
        each = (loop.time() - started) / len(batch)
        self._seconds_each += 0.2 * (each - self._seconds_each) if self._seconds_each else each

    async def _score(self, batch: Sequence[_Asked], read: Sequence[ReadTrajectory]) -> None:
        self.batches += 1
        work = asyncio.create_task(self._scores([one.what for one in batch], read))
        await asyncio.wait([work])
        failure = work.exception()
        if failure is None:
            self.scored += len(batch)
            for one, score, of_it in zip(batch, work.result(), read, strict=True):
                self.tokens += len(of_it.tokens)
                self.shortened += of_it.shortened
                self.without_steps += of_it.without_steps
                self.unread_images += of_it.unread_images
                _settle(one.answer, Scored(score, of_it))
        elif len(batch) == 1:
            _settle(batch[0].answer, _no_score(failure))
        else:
            for one, of_it in zip(batch, read, strict=True):
                if not one.answer.done():
                    await self._score([one], [of_it])

    async def _scores(self, asked: Sequence[Trajectory | str], read: Sequence[ReadTrajectory]) -> list[float]:
        if isinstance(self._model, ReadsTexts):
            scores = await self._model.score_read(asked, read)
        else:
            # Nobody asks for a text who has not looked at `reads_texts`.
            scores = await self._model.score(cast(Sequence[Trajectory], asked))
        if len(scores) != len(asked) or not all(map(math.isfinite, scores)):
            raise RewardModelError(f"{len(asked)} trajectories have the scores {scores}")
        return scores

    def _read(self, what: Trajectory | str) -> ReadTrajectory:
        if isinstance(self._model, ReadsTexts):
            return self._model.read(what)
        # Whatever reads no tokens reads words, and no pictures.
        return ReadTrajectory((0,), {}, [], unread_images=images_in(what))


def _no_score(failure: BaseException) -> NoScoreError:
    nothing = NoScoreError()
    nothing.__cause__ = failure
    return nothing


def _settle(answer: asyncio.Future[T], found: T | BaseException) -> None:
    """Give an answer to whoever still waits for it."""
    if answer.done():
        return
    if isinstance(found, BaseException):
        answer.set_exception(found)
    else:
        answer.set_result(found)
