import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from armap.errors import EnvError, ReplayError
from armap.types import Action, History, Observation, Task
from armap.world import LiveWorld
from unruly import Fickle, Saving, Shuffling, Unruly, task

WORLDS: dict[str, Callable[..., LiveWorld]] = {
    "inline": lambda make=Unruly, **how: LiveWorld(make, **how),
    "inline with snapshots": lambda make=Saving, **how: LiveWorld(make, **how),
    "workers": lambda make=Unruly, **how: LiveWorld(make, workers=True, **{"environments": 2, **how}),
    "workers with snapshots": lambda make=Saving, **how: LiveWorld(make, workers=True, **{"environments": 2, **how}),
}

WAYS = st.lists(st.lists(st.sampled_from(["north", "east", "leave", "err\ud800"]), max_size=5), min_size=1, max_size=6)
NUMBER = count()
"""Makes the tasks of examples different, which share a world because workers are dear."""

every_world = pytest.mark.parametrize("name", WORLDS)
shared_world = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def world(name: str) -> Iterator[LiveWorld]:
    world = WORLDS[name]()
    yield world
    world.close()


def alone(start: Task, way: Sequence[str]) -> list[tuple[Observation, str | None, float]]:
    """Return what an environment that does nothing else says, and which way it ends, until it ends."""
    environment = Unruly()
    said: list[tuple[Observation, str | None, float]] = [(environment.reset(start), None, 0.0)]
    for action in way:
        result = environment.step(action)
        reason = "terminated" if result.terminated else "truncated" if result.truncated else None
        said.append((result.observation, reason, result.env_reward))
        if reason:
            break
    return said


def as_alone(history: History) -> list[tuple[Observation, str | None, float]]:
    observations = [*(step.observation for step in history.steps), history.observation]
    rewards = [0.0, *(step.env_reward for step in history.steps)]
    reasons = [*(None for _ in history.steps), history.stop_reason]
    return list(zip(observations, reasons, rewards, strict=True))


async def go(world: LiveWorld, history: History, *actions: str) -> History:
    for action in actions:
        if history.stop_reason is None:
            history = await world.advance(history, Action(text=action))
    return history


async def walk(world: LiveWorld, start: Task, *actions: str) -> History:
    return await go(world, await world.start(start), *actions)


# The same histories, whatever else goes on


@every_world
@shared_world
@given(ways=WAYS, data=st.data())
async def test_interleaved_walks_have_the_histories_of_walking_alone(name, world, ways, data):
    start = task(f"{next(NUMBER)}")
    histories = [await world.start(start) for _ in ways]
    for turn in data.draw(st.permutations([i for i, way in enumerate(ways) for _ in way])):
        done = len(histories[turn].steps)
        histories[turn] = await go(world, histories[turn], *ways[turn][done : done + 1])
    assert [as_alone(history) for history in histories] == [alone(start, way) for way in ways]


@every_world
@shared_world
@given(ways=WAYS)
async def test_walks_at_the_same_time_have_the_histories_of_walking_alone_and_execute_each_step_once(name, world, ways):
    start, before = task(f"{next(NUMBER)}"), world.statistics
    histories = await asyncio.gather(*(walk(world, start, *way) for way in ways))
    assert [as_alone(history) for history in histories] == [alone(start, way) for way in ways]
    executed = world.statistics.executed_steps - before.executed_steps
    replayed = world.statistics.replayed_steps - before.replayed_steps
    steps = {history.actions[:i] for history in histories for i in range(1, len(history.steps) + 1)}
    assert executed - replayed == len(steps)
    assert executed == world.executed_steps(start)
    if "snapshots" in name:
        assert replayed == 0


@every_world
@shared_world
@given(ways=WAYS, more=WAYS)
async def test_going_on_from_a_history_that_another_world_made_gives_the_same(name, world, ways, more):
    start, other = task(f"{next(NUMBER)}"), LiveWorld(Unruly)
    for way, further in zip(ways, more, strict=False):
        history = await go(world, await walk(other, start, *way), *further)
        assert as_alone(history) == alone(start, [*way, *further])


@every_world
@pytest.mark.parametrize("memory_bytes", [0, 4000])
async def test_a_world_that_forgets_executes_again_and_says_the_same(name, memory_bytes):
    world = WORLDS[name](memory_bytes=memory_bytes, environments=1)
    ways = [
        ("north", "east", "north"),
        ("north", "north"),
        (),
        ("north", "east", "east"),
        ("leave",),
        ("north", "east"),
    ]
    starts = [task("here"), task("there")]
    for _ in range(2):
        for way in ways:
            histories = await asyncio.gather(*(walk(world, start, *way) for start in starts))
            assert [as_alone(history) for history in histories] == [alone(start, way) for start in starts]
    world.close()


@every_world
async def test_far_more_tasks_than_environments_go_on_at_the_same_time(name, world):
    starts = [task(f"place {i}") for i in range(40)]
    way = ("north", "east", "north")
    histories = await asyncio.gather(*(walk(world, start, *way) for start in starts))
    assert [as_alone(history) for history in histories] == [alone(start, way) for start in starts]


# What goes wrong


@every_world
async def test_an_error_is_the_answer_to_everybody_who_asks_and_costs_one_environment(name, world):
    start = await world.start(task())
    answers = await asyncio.gather(*[go(world, start, "break down") for _ in range(5)], return_exceptions=True)
    with pytest.raises(EnvError) as later:
        await go(world, start, "break down")
    assert {(type(answer), str(answer)) for answer in (*answers, later.value)} == {(EnvError, "stuck in the swamp")}
    assert (world.executed_steps(task()), world.statistics.replaced_environments) == (1, 1)
    assert (await go(world, start, "east")).observation.text == "home > east"


@every_world
async def test_a_task_that_cannot_be_started_leaves_the_others_alone(name, world):
    starts = [task("good"), task("bad", do="break down"), task("fine")]
    good, bad, fine = await asyncio.gather(*(walk(world, start, "north") for start in starts), return_exceptions=True)
    assert (good.observation.text, fine.observation.text) == ("good > north", "fine > north")
    assert isinstance(bad, EnvError)


@pytest.mark.parametrize("name", ["inline", "workers"])
async def test_an_environment_that_does_not_repeat_itself_is_found_out(name):
    world = WORLDS[name](Fickle)
    start = await world.start(task())
    await go(world, start, "north")
    with pytest.raises(ReplayError, match=r"'home' did not replay: after 0 actions the environment now says"):
        await go(world, start, "east")
    assert (world.statistics.divergences, world.statistics.replaced_environments) == (1, 1)
    world.close()


@pytest.mark.parametrize("name", ["inline", "workers"])
async def test_an_environment_may_describe_one_state_in_several_ways(name):
    world = WORLDS[name](Shuffling)
    fork = await walk(world, task(), "north", "east", "east")
    for action in ("north", "east", "north again", "east again"):
        history = await go(world, fork, action)
        assert history.steps[:-1] == fork.steps
        assert history.observation.text.startswith(f"home > north > east > east > {action}: a ")
    assert world.statistics.replayed_steps == 9
    assert world.statistics.divergences == 0
    world.close()
