import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.envs import game24
from armap.envs.game24 import Game24
from armap.errors import ConfigError, EnvError
from armap.protocols import Environment
from armap.workers import Inline, Worker, sendable
from processes import assert_ends, number_in, runs
from unruly import Calling, Faulty, Gone, Impossible, Lost, Saving, Shuffling, Slamming, Unruly, Unwilling, Wordy, task

HERE = Path(__file__).parent


def worker(make: Callable[[], Environment] = Unruly, *, step_timeout_s: float = 30.0) -> Worker:
    return Worker(sendable(make), step_timeout_s=step_timeout_s, reset_timeout_s=30.0)


# Same answers


@pytest.fixture(scope="module")
def patient() -> Iterator[Worker]:
    with closing(worker(Saving)) as patient:
        yield patient


@settings(deadline=None)
@given(actions=st.lists(st.text(st.characters(), max_size=20), max_size=5), name=st.text(max_size=20))
def test_a_worker_answers_what_the_environment_answers_here_whatever_the_text(patient, actions, name):
    here = Inline(Saving)
    assert patient.reset(task(name)).result == here.reset(task(name)).result
    for action in actions:
        assert patient.step(action).result == here.step(action).result
    assert patient.step("north\ud800 \0").result == here.step("north\ud800 \0").result


def test_a_megabyte_goes_both_ways(patient):
    patient.reset(task())
    assert patient.step("é" * 1_000_000).result.observation.text == "home > " + "é" * 1_000_000


def test_a_snapshot_can_be_restored_in_another_process(patient):
    patient.reset(task())
    snapshot = patient.step("north").snapshot
    with closing(worker(Saving)) as other:
        other.restore(snapshot)
        assert other.step("east").result.observation.text == "home > north > east"


@pytest.mark.parametrize("make", [lambda: Inline(Saving), lambda: worker(Saving)], ids=["inline", "worker"])
def test_no_snapshot_is_taken_where_nothing_can_go_on(make):
    with closing(make()) as host:
        assert host.reset(task()).snapshot is not None
        assert host.step("north").snapshot is not None
        assert host.step("leave").snapshot is None


def test_an_environment_decides_which_observations_are_the_same():
    with closing(worker(Shuffling)) as host:
        one, other = (host.reset(task()).result.observation for _ in range(2))
        elsewhere = host.step("north").result.observation
        assert one != other
        assert host.same_observation(one, other)
        assert not host.same_observation(one, elsewhere)


def test_an_environment_with_settings_can_be_sent(tmp_path):
    with closing(worker(partial(Unruly, tmp_path))) as host:
        host.reset(task())
        assert not list(tmp_path.iterdir())
    assert [file.name for file in tmp_path.iterdir()] == ["closed"]


def test_an_environment_of_ours_can_be_sent():
    (puzzle,) = game24.tasks(1, 1, split="train")
    with closing(worker(Game24)) as host:
        assert host.reset(puzzle).result.observation == Game24().reset(puzzle)


# What goes wrong


@pytest.mark.parametrize("make", [lambda: Inline(Unruly), lambda: worker(Unruly)], ids=["inline", "worker"])
def test_what_an_environment_raises_is_an_error_of_the_environment_wherever_it_runs(make):
    with closing(make()) as host:
        host.reset(task())
        with pytest.raises(EnvError, match=r"raised ValueError: first line \(.*unruly\.py:\d+\)"):
            host.step("err")
    with closing(make()) as host:
        host.reset(task())
        with pytest.raises(EnvError, match=r"raised SystemExit: 4 \(.*unruly\.py:\d+\)"):
            host.step("exit")
    with closing(make()) as host:
        host.reset(task())
        with pytest.raises(EnvError, match=r"raised SystemExit: None \(.*unruly\.py:\d+\)"):
            host.step("leave the interpreter")
    with closing(make()) as host, pytest.raises(EnvError, match=r"^stuck in the swamp$"):
        host.reset(task(do="break down"))


@pytest.mark.parametrize("make", [lambda: Inline(Lost), lambda: worker(Lost)], ids=["inline", "worker"])
def test_so_is_what_it_raises_when_it_goes_back_or_compares(make):
    with closing(make()) as host:
        reached = host.reset(task())
        with pytest.raises(EnvError, match=r"raised KeyError: 'way' \(.*unruly\.py:\d+\)"):
            host.restore(reached.snapshot)
    with closing(make()) as host:
        seen = host.reset(task()).result.observation
        with pytest.raises(EnvError, match=r"raised KeyError: 'seen' \(.*unruly\.py:\d+\)"):
            host.same_observation(seen, seen)


TROUBLE = {
    "hang": r"did not finish step 'hang' within 0.3 s; its process was ended",
    "spin": r"did not finish step 'spin' within 0.3 s; its process was ended",
    "die": r"process ended itself with exit code 3 during step 'die'",
    "be killed": r"process was ended by signal 9 \(.+\) during step 'be killed'",
    "exit": r"raised SystemExit: 4 \(.*unruly\.py:\d+\)",
    "err": r"raised ValueError: first line \(.*unruly\.py:\d+\)",
    "break down": r"^stuck in the swamp$",
}


@pytest.mark.parametrize(
    ("deed", "company"),
    [*((deed, "north") for deed in TROUBLE), *product(["hang", "die", "break down"], ["have a child", "fork"])],
)
def test_trouble_is_an_error_of_one_sentence_and_ends_the_process_and_its_children(deed, company):
    with closing(worker(step_timeout_s=0.3)) as host:
        host.reset(task())
        pids = [number_in(host.step("say pid").result.observation.text)]
        told = host.step(company).result.observation.text
        if company == "have a child":
            pids.append(number_in(told))
        with pytest.raises(EnvError, match=TROUBLE[deed]) as caught:
            host.step(deed)
        assert len(str(caught.value).splitlines()) == 1
    assert_ends(*pids)
    assert not host.alive


def test_what_a_dying_process_printed_last_is_quoted():
    with closing(worker()) as host:
        host.reset(task())
        host.step("shout")
        with pytest.raises(EnvError, match=r"; it printed 'raw words'$"):
            host.step("die")


@pytest.mark.parametrize("deed", ["die", "err", "break down"])
def test_trouble_at_the_start_of_a_task_is_an_error_too(deed):
    with closing(worker()) as host, pytest.raises(EnvError):
        host.reset(task(do=deed))


def test_what_an_environment_cannot_be_made_without_is_asked_for_in_its_own_sentence():
    with closing(worker(Impossible)) as host, pytest.raises(ConfigError, match=r"^Java is missing; install a Java"):
        host.reset(task())


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (Faulty, "KeyError", "'settings'"),
        (Unwilling, "NoKitchen", "burnt down"),
        (Calling, "CalledProcessError", r"Command '\['false'\]' returned .*"),
        (Gone, "SystemExit", "not me"),
    ],
)
def test_a_bug_in_making_an_environment_is_no_task_s_fault_and_told_with_its_place(make, kind, said):
    told = rf"making the environment raised {kind} in .*unruly\.py, line \d+: {said}$"
    with closing(worker(make)) as host, pytest.raises(ConfigError, match=told):
        host.reset(task())
    with pytest.raises(ConfigError, match=told):
        Inline(make)


def test_an_environment_that_ends_the_process_that_closes_it_ends_nothing():
    Inline(Slamming).close()


def test_an_answer_that_is_no_observation_is_refused():
    with closing(worker(Wordy)) as host, pytest.raises(EnvError, match="must give an Observation, not str"):
        host.reset(task())


def test_a_process_that_died_while_nobody_used_it_is_seen_to_be_dead():
    with closing(worker()) as host:
        host.reset(task())
        pid = number_in(host.step("say pid").result.observation.text)
        assert host.alive
        os.kill(pid, signal.SIGKILL)
        assert_ends(pid)
        assert not host.alive


def test_a_call_that_is_under_way_can_be_ended_from_another_thread():
    with closing(worker()) as host:
        host.reset(task())
        pid = number_in(host.step("say pid").result.observation.text)
        threading.Timer(0.1, host.kill).start()
        with pytest.raises(EnvError, match="ended by signal 9"):
            host.step("hang")
    assert_ends(pid)


def test_closing_ends_the_process_and_its_children_and_may_be_done_twice():
    host = worker()
    host.reset(task())
    pids = [number_in(host.step(action).result.observation.text) for action in ("say pid", "have a child")]
    host.close()
    host.close()
    host.kill()
    assert_ends(*pids)
    with pytest.raises(EnvError, match="was closed"):
        host.step("north")


def test_a_worker_that_was_never_asked_for_anything_can_be_closed():
    worker().close()
    worker(Impossible).close()


def test_what_an_environment_prints_is_not_mixed_with_what_we_print_and_it_reads_nothing_of_ours(capfd):
    with closing(worker()) as host:
        host.reset(task())
        host.step("shout")
        assert host.step("listen").result.observation.text == "home > shout > listen: "
    assert capfd.readouterr() == ("", "")


# What can be sent


@pytest.mark.parametrize("make", [lambda: Unruly(), partial(lambda: Unruly())])
def test_what_cannot_be_sent_is_refused_with_a_sentence_that_says_what_to_do(make):
    with pytest.raises(ConfigError, match=r"cannot be sent to a worker process .* top of a module") as caught:
        sendable(make)
    assert len(str(caught.value).splitlines()) == 1


SCRIPT = """
import asyncio
import sys

from armap.envs.toy import Toy, tasks
from armap.errors import ConfigError
from armap.world import LiveWorld


class Mine(Toy):
    pass


async def main():
    world = LiveWorld(Mine, workers=True)
    try:
        print((await world.start(*tasks(1, 0, "train"))).observation.actions[-1])
    finally:
        world.close()


try:
    ENDING
except ConfigError as error:
    sys.exit(f"refused: {error}")
"""
GUARDED = 'if __name__ == "__main__": asyncio.run(main())'
UNGUARDED = "asyncio.run(main())"


def ran(*arguments: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    return done.stdout, done.stderr


def test_an_environment_can_be_defined_in_the_script_that_is_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SCRIPT.replace("ENDING", GUARDED))
    assert ran(str(file)) == ("leave\n", "")


def test_a_script_that_would_start_itself_over_and_over_is_stopped_by_a_sentence(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SCRIPT.replace("ENDING", UNGUARDED))
    printed, error = ran(str(file))
    assert printed == ""
    assert re.search(r'put what your script does below `if __name__ == "__main__":`', error)


def test_an_environment_that_was_typed_in_is_refused_with_a_sentence():
    printed, error = ran("-c", SCRIPT.replace("ENDING", GUARDED))
    assert printed == ""
    assert re.fullmatch(r"refused: .* typed into this session, .* put it into a file .*\n", error)


# The end of our own process

PARENT = """
import asyncio
import signal
import sys

sys.path.insert(0, sys.argv[1])
from armap.types import Action
from armap.world import LiveWorld
from processes import assert_ends, number_in, runs
from unruly import Unruly, task


async def main():
    world = LiveWorld(Unruly, workers=True, environments=2)
    try:
        busy = await world.start(task("busy"))
        for action in ("say pid", "have a child"):
            busy = await world.advance(busy, Action(text=action))
            print(busy.observation.text, flush=True)
        idle = await world.advance(await world.start(task("idle")), Action(text="say pid"))
        print(idle.observation.text, flush=True)
        await world.advance(busy, Action(text=sys.argv[2]))
    finally:
        world.close()


if __name__ == "__main__":
    # In the background of a shell script it would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("ending", "deed"),
    [(signal.SIGKILL, "hang"), (signal.SIGKILL, "spin"), (signal.SIGTERM, "hang"), (signal.SIGINT, "hang")],
)
def test_no_worker_and_no_child_of_one_outlives_us_however_we_end(tmp_path, ending, deed):
    (tmp_path / "parent.py").write_text(PARENT)
    program = [sys.executable, str(tmp_path / "parent.py"), str(HERE), deed]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        pids = [number_in(parent.stdout.readline()) for _ in range(3)]
        assert all(map(runs, pids))
        parent.send_signal(ending)
        assert parent.wait(30) != 0
        assert_ends(*pids)


def test_workers_are_not_among_the_children_that_multiprocessing_waits_for():
    with closing(worker()):
        assert multiprocessing.active_children() == []
