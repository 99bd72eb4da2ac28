"""Several things at a time, without tasks where nothing has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do everything at the same time and return what comes of it, in the order of `work`.

    What does not have to wait is done at once, one after the other. Only when something waits does the rest become
    tasks, beside which it waits then: a task takes longer than a step in a quick world.

    Raises:
        Exception: what the first to fail raises; the others are cancelled.
    """
    rest = iter(work)
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            done = [await _Noticed(one, lambda: tasks.extend(map(group.create_task, rest))) for one in rest]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return done + [task.result() for task in tasks]


class _Noticed(Generator[Any, Any, T]):
    """Awaits something, in the same task, and calls `on_wait` whenever it waits."""

    __slots__ = ("_on_wait", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], on_wait: Callable[[], None]) -> None:
        self._work = work
        self._on_wait = on_wait

    def __await__(self) -> Generator[Any, Any, T]:
        return self

    def send(self, value: Any) -> Any:  # noqa: ANN401 - as Generator has it
        """Go on; see `Generator`."""
        waits_for = self._work.send(value)
        self._on_wait()
        return waits_for

    def throw(self, *error: Any) -> Any:  # noqa: ANN401 - as Generator has it
        """Go on with an error; see `Generator`."""
        return self._work.throw(*error)
