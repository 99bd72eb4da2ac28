import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.canonical import name_of
from armap.engines.local import each
from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.play import play
from armap.envs.toy import Toy
from armap.errors import ConfigError, EnvError, ReplayError
from armap.protocols import StepResult
from armap.types import Action, History, Observation, Task
from armap.world import LiveWorld, WorldStatistics
from processes import assert_ends, number_in
from unruly import Basket, Doors, FickleSaving, Forgetful, Impossible, Unruly


class Site:
    """Makes walks and keeps the book on them."""

    def __init__(self, step: Callable[["Walk"], StepResult] | None = None) -> None:
        self.made: list[Walk] = []
        self.executed: Counter[tuple[str, ...]] = Counter()
        self.step = step or Walk.result

    def __call__(self) -> "Walk":
        self.made.append(Walk(self))
        return self.made[-1]

    @property
    def alive(self) -> int:
        return sum(walk.closed == 0 for walk in self.made)


class Walk:
    """An environment that says where it went; it ends after four steps and breaks down in the swamp."""

    def __init__(self, site: Site) -> None:
        self.way: tuple[str, ...] = ()
        self.closed = 0
        self.site = site

    def reset(self, task: Task) -> Observation:
        if task.id == "no such place":
            raise EnvError("there is no such place")
        self.way = (task.id,)
        return Observation(text=task.id)

    def step(self, action: str) -> StepResult:
        self.way += (action,)
        self.site.executed[self.way] += 1
        if action == "swamp":
            raise EnvError("stuck in the swamp")
        return self.site.step(self)

    def result(self) -> StepResult:
        text = " > ".join(self.way)
        return StepResult(Observation(text=text), 0.5, False, len(self.way) == 5, {"steps": len(self.way) - 1})

    def close(self) -> None:
        self.closed += 1


def place(name: str = "home") -> Task:
    return Task(id=name, env="walk", instruction="Go for a walk.")


async def go(world: LiveWorld, history: History, *actions: str) -> History:
    for action in actions:
        history = await world.advance(history, Action(text=action))
    return history


async def walk(world: LiveWorld, *actions: str, task: Task | None = None) -> History:
    return await go(world, await world.start(task or place()), *actions)


# What is executed

WAYS = st.lists(st.sampled_from(["north", "east"]), max_size=4)


async def test_a_straight_walk_executes_each_step_once_in_one_environment():
    site = Site()
    world = LiveWorld(site)
    history = await walk(world, "north", "east", "north", "east")
    assert history.stop_reason == "truncated"
    assert set(site.executed.values()) == {1}
    assert (len(site.made), world.executed_steps(place())) == (1, 4)


@given(ways=st.lists(WAYS, min_size=1, max_size=12))
async def test_what_was_asked_before_is_never_executed_again_in_whatever_order_it_is_asked(ways):
    site = Site()
    world = LiveWorld(site)
    first = [await walk(world, *way) for way in ways]
    executed = site.executed.copy()
    assert [await walk(world, *way) for way in reversed(ways)] == first[::-1]
    assert site.executed == executed
    assert world.executed_steps(place()) == executed.total()


@given(ways=st.lists(WAYS, min_size=1, max_size=12))
async def test_a_state_costs_at_most_the_way_to_it_once(ways):
    site = Site()
    world = LiveWorld(site)
    for way in ways:
        history = await world.start(place())
        for action in way:
            known, before = {*site.executed}, site.executed.total()
            history = await go(world, history, action)
            new = ("home", *history.actions) not in known
            assert site.executed.total() - before <= (len(history.steps) if new else 0)


async def test_going_on_from_an_earlier_state_replays_the_way_to_it():
    site = Site()
    world = LiveWorld(site)
    fork = await walk(world, "north", "east")
    await go(world, fork, "north")
    other = await go(world, fork, "east")
    assert other.observation.text == "home > north > east > east"
    assert site.executed == {
        ("home", "north"): 2,
        ("home", "north", "east"): 2,
        ("home", "north", "east", "north"): 1,
        ("home", "north", "east", "east"): 1,
    }
    assert world.executed_steps(place()) == 6


async def test_steps_are_counted_by_task():
    world = LiveWorld(Site())
    await walk(world, "north", task=place("here"))
    await walk(world, "north", "north", task=place("there"))
    assert [world.executed_steps(place(name)) for name in ("here", "there", "elsewhere")] == [1, 2, 0]


# What a history says


async def test_a_history_has_what_was_seen_done_paid_and_measured():
    history = await walk(LiveWorld(Site()), "north", "east")
    assert [step.observation.text for step in history.steps] == ["home", "home > north"]
    assert history.actions == ("north", "east")
    assert [step.env_reward for step in history.steps] == [0.5, 0.5]
    assert history.metrics == {"steps": 2}
    assert history.stop_reason is None


async def test_the_end_of_the_world_and_the_end_of_patience_are_told_apart():
    (task,) = toy.tasks(1, 0, "train")
    assert (await walk(LiveWorld(Toy), "leave", task=task)).stop_reason == "terminated"
    assert (await walk(LiveWorld(Toy), *["wait"] * 4, task=task)).stop_reason == "truncated"


async def test_a_task_that_has_ended_cannot_go_on():
    world = LiveWorld(Site())
    with pytest.raises(EnvError, match=r"'home' has ended \(truncated\)"):
        await walk(world, *["north"] * 5)


async def test_the_same_actions_with_other_thoughts_keep_their_own_thoughts():
    site = Site()
    world = LiveWorld(site)
    start = await world.start(place())
    ways = []
    for mood in ("gladly", "sadly"):
        history = await world.advance(start, Action(text="north", thought=f"{mood} north"))
        ways.append(await world.advance(history, Action(text="east", thought=f"{mood} east")))
    ways.append(await world.advance(history, ways[0].steps[-1].action))
    assert [[step.action.thought for step in way.steps] for way in ways] == [
        ["gladly north", "gladly east"],
        ["sadly north", "sadly east"],
        ["sadly north", "gladly east"],
    ]
    assert ways[0].observation == ways[1].observation
    assert [step.env_reward for step in ways[1].steps] == [0.5, 0.5]
    assert set(site.executed.values()) == {1}


@st.composite
def walks(draw: st.DrawFn) -> tuple[Callable[[], Game24 | Toy], list[tuple[Task, tuple[str, ...]]], list[int]]:
    """Whole episodes of a few tasks of one environment, and the order in which their steps are taken."""
    make, tasks = draw(st.sampled_from([(Game24, game24.tasks(1, 3, split="train")), (Toy, toy.tasks(3, 0, "train"))]))
    rng = draw(st.randoms(use_true_random=False))
    episodes = []
    for task in draw(st.lists(st.sampled_from(tasks), min_size=1, max_size=6)):
        environment, actions = make(), []
        observation = environment.reset(task)
        while observation.actions is not None:
            actions.append("dance" if rng.random() < 0.2 else rng.choice(observation.actions))
            observation = environment.step(actions[-1]).observation
        episodes.append((task, tuple(actions)))
    turns = [i for i, (_, actions) in enumerate(episodes) for _ in actions]
    return make, episodes, draw(st.permutations(turns))


@given(walks=walks())
async def test_interleaved_walks_have_the_histories_of_playing_straight_through(walks):
    make, episodes, turns = walks
    world = LiveWorld(make)
    histories = [await world.start(task) for task, _ in episodes]
    for turn in turns:
        action = episodes[turn][1][len(histories[turn].steps)]
        histories[turn] = await go(world, histories[turn], action)
    for history, (task, actions) in zip(histories, episodes, strict=True):
        played = play(make(), task, actions)
        assert (history.steps, history.observation) == (played.steps, played.final_observation)
        assert (history.stop_reason, history.metrics) == (played.stop_reason, played.metrics)


# Which way an environment goes back


class SavingWalk(Walk):
    """Can save where it is."""

    def snapshot(self) -> object:
        return self.way

    def restore(self, snapshot: object) -> None:
        self.way = snapshot


class SavingSite(Site):
    def __call__(self) -> SavingWalk:
        self.made.append(SavingWalk(self))
        return self.made[-1]


async def history_of(*actions: str) -> History:
    return await walk(LiveWorld(Site()), *actions)


async def test_an_environment_that_stands_where_it_is_needed_goes_on_from_there():
    world = LiveWorld(SavingSite())
    await walk(world, "north", "east")
    assert world.statistics == (2, 0, 0, 0, 0)


async def test_a_saved_state_is_restored_without_a_step():
    site = SavingSite()
    world = LiveWorld(site)
    fork = await walk(world, "north", "east")
    for action in ("north", "east", "south", "west"):
        assert (await go(world, fork, action)).observation.text == f"home > north > east > {action}"
    assert set(site.executed.values()) == {1}
    assert world.statistics == WorldStatistics(
        executed_steps=6, replayed_steps=0, restored_snapshots=3, divergences=0, replaced_environments=0
    )


async def test_what_is_one_thing_under_two_names_is_one_thing_after_going_back():
    world = LiveWorld(Doors, environments=1)
    start = await world.start(place())
    opened = [await go(world, start, action) for action in ("open", "push")]
    assert {history.observation.text for history in opened} == {"The red door is open."}
    assert world.statistics.restored_snapshots == 1


async def test_what_contains_itself_has_no_name_and_stops_nobody():
    room: dict[str, object] = {}
    room["neighbours"] = [room]
    assert name_of(room) is None
    a, b = Neighbour(), Neighbour()
    a.near, b.near = {b}, {a}
    assert name_of(a) is None
    assert name_of({"a": {1, 2}}) == name_of({"a": {2, 1}}) != name_of({"a": [1, 2]})


class Neighbour:
    near: "set[Neighbour]"


THINGS = ("a red apple", "a pear", "two plums", "figs", "a red fig")


async def names_of_the_full_basket(environments: int) -> set[str | None]:
    world = LiveWorld(Basket, environments=environments)
    return {(await walk(world, *way)).state_name for way in [*permutations(THINGS)][::7]}


@pytest.mark.parametrize("environments", [1, 64])
async def test_a_state_has_one_name_whatever_led_there_and_from_wherever_it_was_gone_on(environments):
    (name,) = await names_of_the_full_basket(environments)
    assert name is not None
    world = LiveWorld(Basket)
    assert (await walk(world, *THINGS[:4], "a lemon")).state_name != name


@pytest.mark.parametrize("hash_seed", ["0", "1", "2"])
def test_a_state_has_one_name_in_every_process(hash_seed):
    program = "import asyncio, test_world as t; print(*asyncio.run(t.names_of_the_full_basket(1)))"
    folder = Path(__file__).parent
    there = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {there.stdout.strip()} == asyncio.run(names_of_the_full_basket(64))


async def test_where_the_state_itself_is_not_saved_the_nearest_one_before_it_is_restored_and_the_rest_replayed():
    site = SavingSite()
    world = LiveWorld(site, environments=1)
    await walk(world, "north")
    await walk(world, task=place("elsewhere"))
    await go(world, await history_of("north", "east", "north"), "west")
    assert site.executed[("home", "north")] == 1
    assert (world.statistics.replayed_steps, world.statistics.restored_snapshots) == (2, 1)


async def test_an_environment_that_stands_on_the_way_goes_on_from_there():
    site = Site()
    world = LiveWorld(site)
    await walk(world, "north")
    await go(world, await history_of("north", "east", "north"), "west")
    assert set(site.executed.values()) == {1}
    assert (len(site.made), world.statistics.replayed_steps) == (1, 2)


@pytest.mark.parametrize("way", [("north",), ("north", "east"), ("north", "east", "north")])
async def test_a_snapshot_that_leads_elsewhere_is_found_out_when_what_follows_it_is_replayed(way: Sequence[str]):
    world = LiveWorld(Forgetful, environments=1)
    await walk(world, *way)
    await walk(world, task=place("elsewhere"))
    other = await walk(LiveWorld(Unruly), *way, "east")
    with pytest.raises(ReplayError, match=rf"after {len(way) + 1} actions the environment now says 'home > "):
        await go(world, other, "west")
    assert (world.statistics.divergences, world.statistics.replaced_environments) == (1, 1)


async def test_a_state_that_turned_out_to_be_another_one_is_not_saved():
    world = LiveWorld(FickleSaving)
    start = await walk(LiveWorld(Unruly))
    for action in ("north", "east"):
        with pytest.raises(ReplayError, match="after 0 actions"):
            await go(world, start, action)
    assert (world.statistics.divergences, world.statistics.restored_snapshots) == (2, 0)


async def test_a_long_observation_that_differs_is_shown_where_it_differs():
    site = Site()
    lies = count()
    site.step = lambda walk: walk.result()._replace(observation=Observation(text="a" * 500 + f" cloud {next(lies)}"))
    world = LiveWorld(site)
    fork = await walk(world, "north", "north")
    await go(world, fork, "north")
    with pytest.raises(ReplayError, match=r"now says 'a+ cloud 3', and it said 'a+ cloud 0' before$") as caught:
        await go(world, fork, "east")
    assert len(only_sentence(caught)) < 300


async def test_other_legal_actions_are_a_divergence_too():
    site = Site()
    lies = count()
    site.step = lambda walk: walk.result()._replace(observation=Observation(text="a", actions=(str(next(lies)),)))
    world = LiveWorld(site)
    fork = await walk(world, "north")
    await go(world, fork, "north")
    with pytest.raises(ReplayError, match="after 1 actions the environment now lists other actions than before"):
        await go(world, fork, "east")


# What is kept alive


async def test_far_more_tasks_than_environments_go_on_side_by_side():
    site = Site()
    world = LiveWorld(site)
    tasks = [place(f"place {i}") for i in range(300)]
    histories = [await world.start(task) for task in tasks]
    for action in ("north", "east", "north", "east"):
        histories = [await go(world, history, action) for history in histories]
    assert [history.observation.text for history in histories] == [
        f"place {i} > north > east > north > east" for i in range(300)
    ]
    assert len(site.made) == 128


async def test_no_more_environments_are_alive_than_asked_for_and_those_used_longest_ago_leave_their_place():
    site = Site()
    world = LiveWorld(site, environments=2)
    here, there, yonder = [await walk(world, task=place(name)) for name in ("here", "there", "yonder")]
    await go(world, there, "north")
    await go(world, yonder, "north")
    assert (len(site.made), world.executed_steps(place("there"))) == (2, 1)
    await go(world, await go(world, here, "north"), "north")
    assert (len(site.made), site.executed[("here", "north")]) == (2, 1)


async def test_an_environment_whose_episode_has_ended_is_used_again_before_another_one_is_made():
    site = Site()
    world = LiveWorld(site)
    waiting = await walk(world, "north", task=place("waiting"))
    for i in range(3):
        await walk(world, *["north"] * 4, task=place(f"{i}"))
    await go(world, waiting, "north")
    assert (len(site.made), site.executed[("waiting", "north")]) == (2, 1)


async def test_closing_the_world_closes_every_environment_once():
    site = Site()
    world = LiveWorld(site)
    for i in range(5):
        await walk(world, "north", task=place(str(i)))
    world.close()
    world.close()
    assert [made.closed for made in site.made] == [1] * 5


# What goes wrong


def only_sentence(caught: pytest.ExceptionInfo[EnvError]) -> str:
    (message,) = str(caught.value).splitlines()
    return message


async def test_an_environment_that_does_not_repeat_itself_is_an_error_of_one_sentence():
    site = Site()
    lies = count()
    site.step = lambda walk: walk.result()._replace(observation=Observation(text=f"cloud {next(lies)}"))
    world = LiveWorld(site)
    fork = await walk(world, "north")
    await go(world, fork, "north")
    with pytest.raises(EnvError) as caught:
        await go(world, fork, "east")
    assert only_sentence(caught) == (
        "task 'home' did not replay: after 1 actions the environment now says 'cloud 2', and it said 'cloud 0' before"
    )
    assert [walk.closed for walk in site.made] == [0, 1]


async def test_a_start_that_does_not_repeat_itself_is_an_error_too():
    class Weather(Walk):
        def reset(self, task: Task) -> Observation:
            return Observation(text=f"{super().reset(task).text}, sky {len(self.site.made)}")

    site = Site()
    world = LiveWorld(lambda: site.made.append(Weather(site)) or site.made[-1])
    start = await world.start(place())
    await go(world, start, "north")
    with pytest.raises(EnvError, match="did not replay: after 0 actions"):
        await go(world, start, "east")


@pytest.mark.parametrize("broken", [("swamp",), ("north", "swamp")])
async def test_an_environment_that_breaks_is_closed_and_the_world_goes_on(broken: Sequence[str]):
    site = Site()
    world = LiveWorld(site)
    with pytest.raises(EnvError, match="swamp"):
        await walk(world, *broken)
    assert (site.made[0].closed, site.alive) == (1, 0)
    assert (await walk(world, *broken[:-1], "east")).actions == (*broken[:-1], "east")
    assert (await walk(world, "north", task=place("elsewhere"))).observation.text == "elsewhere > north"
    world.close()
    assert [walk.closed for walk in site.made] == [1] * len(site.made)


async def test_a_task_that_cannot_start_leaves_no_environment_behind():
    site = Site()
    world = LiveWorld(site)
    for _ in range(3):
        with pytest.raises(EnvError, match="no such place"):
            await world.start(place("no such place"))
    assert site.alive == 0
    assert (await world.start(place())).observation.text == "home"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["env_reward", "price"])
async def test_a_number_that_no_record_can_hold_is_an_error_of_the_environment(name, value):
    site = Site()
    given = {"env_reward": value} if name == "env_reward" else {"metrics": {"price": value}}
    site.step = lambda walk: walk.result()._replace(**given)
    with pytest.raises(EnvError, match=f"gives {name} as {value} after 'north'; it must be a finite number") as caught:
        await walk(LiveWorld(site), "north")
    only_sentence(caught)
    assert site.alive == 0


# Environments in worker processes


@pytest.fixture
def world() -> Iterator[LiveWorld]:
    world = LiveWorld(Unruly, workers=True, environments=2, step_timeout_s=60.0)
    yield world
    world.close()


async def until_executed(world: LiveWorld, steps: int) -> None:
    while world.executed_steps(place()) < steps:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)


async def test_others_go_on_while_an_environment_hangs_and_a_cancelled_one_is_never_used_again(world):
    fork = await walk(world, "say pid")
    hanging = asyncio.create_task(go(world, fork, "hang"))
    await until_executed(world, 2)
    for i in range(3):
        assert (await walk(world, "north", task=place(f"{i}"))).observation.text == f"{i} > north"
    assert not hanging.done()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert_ends(number_in(fork.observation.text))
    assert world.statistics.replaced_environments == 1
    with pytest.raises(ReplayError):
        await go(world, fork, "east")  # as it says another process
    assert (await walk(world, "east")).observation.text == "home > east"


async def test_who_waits_for_a_step_that_is_cancelled_executes_it_and_whoever_is_cancelled_while_waiting_stops_nobody(
    world,
):
    start = await walk(world)
    first, second, third = (asyncio.create_task(go(world, start, "nap")) for _ in range(3))
    await until_executed(world, 1)
    second.cancel()
    first.cancel()
    assert (await third).observation.text == "home > nap"
    assert [task.cancelled() for task in (first, second)] == [True, True]
    assert (world.executed_steps(place()), world.statistics.replaced_environments) == (2, 1)


async def test_a_process_that_died_while_nobody_used_it_fails_nobody(world):
    start = await walk(world)
    pid = number_in((await go(world, start, "say pid")).observation.text)
    os.kill(pid, signal.SIGKILL)
    assert_ends(pid)
    assert (await go(world, start, "north", "east")).observation.text == "home > north > east"


async def test_what_hung_once_is_not_tried_again():
    world = LiveWorld(Unruly, workers=True, environments=1, step_timeout_s=0.3)
    for _ in range(3):
        with pytest.raises(EnvError, match=r"did not finish step 'hang' within 0.3 s"):
            await walk(world, "hang")
    assert world.executed_steps(place()) == 1
    world.close()


async def test_closing_the_world_ends_what_hangs(world):
    fork = await walk(world, "say pid")
    hanging = asyncio.create_task(go(world, fork, "hang"))
    await until_executed(world, 2)
    world.close()
    assert_ends(number_in(fork.observation.text))
    with pytest.raises(EnvError):
        await hanging


async def test_what_the_user_has_to_repair_ends_everything_with_its_own_sentence():
    world = LiveWorld(Impossible, workers=True)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^Java is missing; install a Java runtime\.$"):
            await world.start(place())
    world.close()
    with pytest.raises(ConfigError, match="cannot be sent to a worker process"):
        LiveWorld(lambda: Unruly(), workers=True)


def held() -> tuple[int, int, int]:
    """Return how many file descriptors, threads and child processes, dead ones included, we have."""
    parents = subprocess.run(["ps", "-A", "-o", "ppid="], capture_output=True, text=True).stdout.split()
    return len(os.listdir("/dev/fd")), threading.active_count(), parents.count(str(os.getpid()))


async def test_nothing_is_left_of_a_thousand_episodes_some_of_which_hang_die_and_break():
    before = held()
    world = LiveWorld(Unruly, workers=True, environments=2, step_timeout_s=0.5)
    children: list[int] = []
    failed: Counter[str] = Counter()

    async def episode(number: int) -> None:
        trouble = ["hang", "die", "err", "break down"][number // 100 % 4] if number % 100 == 7 else "leave"
        history = await walk(world, "north", task=place(f"{number}"))
        try:
            if number % 50 == 7:
                history = await go(world, history, "have a child")
                children.append(number_in(history.observation.text))
            assert (await go(world, history, trouble)).stop_reason == "terminated"
        except EnvError:
            failed[trouble] += 1

    await each(range(1000), episode, concurrency=2, on_progress=lambda done, total: None)
    assert failed == {"hang": 3, "die": 3, "err": 2, "break down": 2}
    assert (world.statistics.replaced_environments, world.statistics.replayed_steps) == (10, 0)
    assert len(children) == 20
    world.close()
    assert_ends(*children)
    assert held() == before
