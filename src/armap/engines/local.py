"""Runs the tasks of a stage in this process, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def each(
    items: Sequence[T],
    work: Callable[[T], Awaitable[None]],
    *,
    concurrency: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Do `work` on every item.

    The first error stops everything that is under way and is raised as it is.

    Args:
        items: what to work on, begun in this order.
        work: what to do.
        concurrency: how many are under way at once.
        on_progress: told how many of how many items are done.
    """
    waiting = iter(items)
    done = 0
    on_progress(done, len(items))

    async def worker() -> None:
        nonlocal done
        for item in waiting:
            await work(item)
            done += 1
            on_progress(done, len(items))
            # Work that never waits, as that with a scripted model, would let nobody stop it.
            await asyncio.sleep(0)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
