import asyncio

import pytest

from armap.engines.local import each
from armap.errors import BudgetError


def silent(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("concurrency", [1, 3, 100])
async def test_every_item_is_worked_on_once_begun_in_order_and_no_more_at_once_than_allowed(concurrency):
    begun, finished, most = [], [], 0

    async def work(item: int) -> None:
        nonlocal most
        begun.append(item)
        most = max(most, len(begun) - len(finished))
        for _ in range(1 + item % 4):
            await asyncio.sleep(0)
        finished.append(item)

    await each(range(20), work, concurrency=concurrency, on_progress=silent)
    assert begun == list(range(20))
    assert sorted(finished) == begun
    assert most == min(concurrency, 20)


async def test_progress_counts_from_none_to_all():
    told = []

    async def work(item: str) -> None:
        await asyncio.sleep(0)

    await each("abcde", work, concurrency=2, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 5) for done in range(6)]


async def test_nothing_to_do_is_done_at_once():
    told = []

    async def work(item: str) -> None:
        raise AssertionError("there is nothing to do")

    await each([], work, concurrency=4, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 0)]


async def test_the_first_error_stops_what_is_under_way_and_is_raised_as_it_is():
    begun, stopped = [], []
    error = BudgetError("spent")

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            await asyncio.sleep(0)
            raise error
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(item)
            raise

    with pytest.raises(BudgetError) as caught:
        await asyncio.wait_for(each(range(10), work, concurrency=4, on_progress=silent), 10)
    assert caught.value is error
    assert sorted(stopped) == [0, 1, 3]
    assert begun == [0, 1, 2, 3]


async def test_being_stopped_from_outside_stops_the_work():
    stopped = []

    async def work(item: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(item)
            raise

    running = asyncio.create_task(each(range(5), work, concurrency=2, on_progress=silent))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(stopped) == [0, 1]


async def test_work_that_never_waits_can_be_stopped_from_outside():
    begun = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            asyncio.get_running_loop().call_soon(running.cancel)

    running = asyncio.create_task(each(range(1000), work, concurrency=2, on_progress=silent))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(begun) < 10
