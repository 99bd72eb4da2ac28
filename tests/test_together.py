import asyncio

import pytest

from armap.errors import BudgetError
from armap.together import together


class Crowd:
    """People who come, wait as often as they are told, and leave."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def visit(self, name: str, waits: int = 0, error: Exception | None = None) -> str:
        self.log.append(f"{name} comes")
        try:
            for _ in range(waits):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.log.append(f"{name} is sent away")
            raise
        if error is not None:
            raise error
        self.log.append(f"{name} leaves")
        return name


async def test_what_does_not_wait_is_done_at_once_and_needs_no_task():
    crowd = Crowd()
    tasks = asyncio.all_tasks()
    assert await together(crowd.visit(name) for name in "abc") == ["a", "b", "c"]
    assert crowd.log == ["a comes", "a leaves", "b comes", "b leaves", "c comes", "c leaves"]
    assert asyncio.all_tasks() == tasks
    assert await together([]) == []


@pytest.mark.parametrize("waits", [(3, 1, 2), (0, 2, 1), (1, 0, 0), (0, 0, 1)])
async def test_what_waits_waits_together_and_the_order_stays(waits):
    crowd = Crowd()
    visits = [crowd.visit(name, times) for name, times in zip("abc", waits, strict=True)]
    assert await together(visits) == ["a", "b", "c"]
    first_to_wait = next(name for name, times in zip("abc", waits, strict=True) if times)
    comes = [crowd.log.index(f"{name} comes") for name in "abc"]
    assert max(comes) < crowd.log.index(f"{first_to_wait} leaves")


async def test_a_time_limit_holds_for_what_set_it():
    async def impatient() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            return "late"
        return "done"

    assert await together(impatient() for _ in range(3)) == ["late"] * 3


@pytest.mark.parametrize("who", range(3))
@pytest.mark.parametrize("waits", [0, 1])
async def test_the_first_error_is_raised_as_it_is_and_nobody_stays(who, waits):
    crowd = Crowd()
    times = [5, 5, 5]
    times[who] = waits
    errors = [BudgetError("spent") if i == who else None for i in range(3)]
    with pytest.raises(BudgetError, match="spent"):
        await together(crowd.visit(name, times[i], errors[i]) for i, name in enumerate("abc"))
    assert len(asyncio.all_tasks()) == 1
    assert not any(line.endswith("leaves") for line in crowd.log)


async def test_who_is_cancelled_cancels_all():
    crowd = Crowd()
    task = asyncio.create_task(together(crowd.visit(name, 100) for name in "abc"))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(crowd.log[-3:]) == ["a is sent away", "b is sent away", "c is sent away"]
