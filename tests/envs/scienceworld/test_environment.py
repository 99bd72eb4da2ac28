import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pytest

from armap.envs import scienceworld
from armap.envs.play import play
from armap.envs.scienceworld import ScienceWorld
from armap.errors import ConfigError, EnvError
from armap.protocols import ComparesObservations, Snapshots, StepResult
from armap.types import Action, Task
from armap.world import LiveWorld

RUNS, _, REMEDY = scienceworld.check()
pytestmark = pytest.mark.skipif(not RUNS, reason=f"the ScienceWorld simulator cannot run here; type: {REMEDY}")

GOLD = json.loads(Path(__file__).with_name("gold.json").read_text("utf-8"))
"""Solutions of sixty tasks of the unseen split, two or three of each family, by the simulator's own solver. Each is
worth 100 points in the simulator's own Python wrapper. A semicolon stands between two actions."""

ODD_ACTIONS = (
    "",
    " ",
    "\0",
    "\n",
    "é" * 50,
    "\ud800",
    "行動",
    "zzz",
    "a" * 1_000_000,
    "(" * 10_000,
    "focus on",
    "%s\\",
)


@pytest.fixture(scope="module")
def environment() -> Iterator[ScienceWorld]:
    environment = ScienceWorld()
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def other() -> Iterator[ScienceWorld]:
    """Has a Java process of its own, and lists actions."""
    environment = ScienceWorld(list_actions=True)
    yield environment
    environment.close()


def task(text: str, **config: int | str) -> Task:
    task = scienceworld.parse_task(text)
    return task.model_copy(update={"config": {**task.config, **config}})


def walk(environment: ScienceWorld, start: Task, rng: Random, steps: int) -> list[str]:
    """Do valid actions drawn at random, verb first, and return them."""
    observation = environment.reset(start)
    actions: list[str] = []
    while observation.actions and len(actions) < steps:
        listed = [action for action in observation.actions if not action.startswith("focus")]
        verb = rng.choice(sorted({action.split()[0] for action in listed}))
        actions.append(rng.choice([action for action in listed if action.split()[0] == verb]))
        observation = environment.step(actions[-1]).observation
    return actions


def texts(results: list[StepResult]) -> list[tuple[str, float, bool, bool]]:
    return [(result.observation.text, *result[1:4]) for result in results]


@pytest.mark.parametrize("name", GOLD)
def test_the_solutions_of_the_simulator_are_paid_in_full(environment, name):
    environment.reset(task(name, step_limit=1000))
    paid = 0.0
    for action in GOLD[name].split("; "):
        result = environment.step(action)
        assert result.env_reward >= 0
        paid += result.env_reward
        if result.terminated:
            break
    assert paid == 1
    assert result.terminated


def test_the_examples_are_what_the_simulator_says(environment):
    for example in environment.examples:
        assert play(environment, example.task, example.actions) == example


def test_the_actions_of_the_examples_are_offered(other):
    for example in other.examples:
        listed = other.reset(example.task).actions
        for action in example.actions:
            assert action in listed
            listed = other.step(action).observation.actions


def test_what_was_done_when_the_same_was_possible_is_not_offered_again(other):
    hall = other.reset(task("find-living-thing 0")).actions
    assert "look around" not in hall
    kitchen = other.step("teleport to kitchen").observation.actions
    assert {"look around", "focus on red box"} <= set(kitchen)
    assert "pick up thermometer" not in kitchen
    saved = other.snapshot()
    seen = other.step("look around").observation.actions
    assert {"pick up thermometer", "move orange to red box"} <= set(seen)
    assert "look around" not in seen
    assert set(hall) - set(other.step("teleport to hallway").observation.actions) >= {"teleport to kitchen"}
    other.restore(saved)
    assert other.step("look around").observation.actions == seen


def test_what_is_carried_is_known_everywhere(other):
    other.reset(task("find-living-thing 0"))
    for action in ("teleport to kitchen", "look around", "pick up thermometer"):
        other.step(action)
    there = other.step("teleport to outside").observation.actions
    assert {"focus on thermometer", "put down thermometer"} <= set(there)
    assert "pick up axe" not in there


@pytest.mark.parametrize("name", ["chemistry-mix-paint-tertiary-color 30", "grow-fruit 93", "test-conductivity 679"])
def test_equal_actions_give_equal_texts_in_every_process_whether_actions_are_listed_or_not(environment, other, name):
    start = task(name, step_limit=1000)
    actions = walk(other, start, Random(0), 15)
    environment.reset(task("boil 0"))
    runs = []
    for one in (environment, environment, other):
        begin = one.reset(start).text
        runs.append((begin, texts([one.step(action) for action in actions])))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("seed", range(8))
def test_a_saved_state_goes_on_as_if_it_had_not_been_left(environment, other, seed):
    assert isinstance(environment, Snapshots)
    rng = Random(seed)
    name = rng.choice(sorted(scienceworld.families()))
    start = task(f"{name} {rng.randrange(scienceworld.families()[name].variations)}", step_limit=13)
    actions = walk(other, start, rng, 12)
    middle = rng.randrange(len(actions))
    environment.reset(start)
    for action in actions[:middle]:
        environment.step(action)
    saved = pickle.dumps(environment.snapshot())
    later = actions[middle:]
    went_on = texts([environment.step(action) for action in later])
    environment.reset(task("power-component 0", simplification=""))
    for one in (environment, environment, other):
        one.restore(pickle.loads(saved))
        assert texts([one.step(action) for action in later]) == went_on
        # A step more than the walk ends the episode, so the steps before the state was saved are counted.
        last = one.step("look around")
        assert last.truncated
        assert last.metrics == {"steps": 13}


def test_the_meanings_of_an_ambiguous_action_are_asked_for_and_survive_a_saved_state(environment, other):
    name, solution = next((name, text.split("; ")) for name, text in GOLD.items() if "; 0;" in text)
    other.reset(task(name))
    for action in solution[: solution.index("0")]:
        asked = other.step(action)
    assert asked.observation.text.startswith("Ambiguous request")
    assert asked.observation.actions == tuple(map(str, range(len(asked.observation.actions))))
    saved = other.snapshot()
    later = ("0", "look around", "go to outside", "look at greenhouse")
    answered = texts([other.step(action) for action in later])
    assert "the agent" in answered[1][0]
    assert "the agent" not in answered[3][0]
    environment.restore(saved)
    assert texts([environment.step(action) for action in later]) == answered


@pytest.mark.parametrize("room", ["workshop", "greenhouse", "bedroom", "art studio"])
def test_offered_actions_are_few_different_and_understood(other, room):
    other.reset(task("grow-plant 97" if room in ("greenhouse", "bedroom") else "power-component 18"))
    other.step(f"teleport to {room}")
    listed = other.step("look around").observation.actions
    assert len(set(listed)) == len(listed) <= 250
    start = other.snapshot()
    for action in Random(0).sample(listed, 15):
        other.restore(start)
        assert other.step(action).observation.text != "No known action matches that input.", action


def test_what_is_not_understood_is_said_changes_nothing_and_costs_a_step(environment):
    start = task("boil 21", step_limit=len(ODD_ACTIONS) + 1)
    environment.reset(start)
    before = environment.step("look around").observation
    environment.reset(start)
    for action in ODD_ACTIONS:
        result = environment.step(action)
        assert result.observation.text == "No known action matches that input."
        assert result[1:] == (0, False, False, {})
    last = environment.step("look around")
    assert last.observation == before
    assert last.truncated


@pytest.mark.parametrize("question", ["help", "objects", "task", " TASK "])
def test_the_questions_of_the_simulator_are_answered(environment, question):
    environment.reset(task("boil 21"))
    result = environment.step(question)
    assert result.observation.text.startswith(("Possible actions", "Possible object", "Task description"))
    assert not result.terminated


def test_a_wrong_focus_ends_the_episode_and_takes_nothing_back(environment):
    environment.reset(task("find-living-thing 0"))
    first = environment.step("teleport to outside")
    assert first.env_reward > 0
    wrong = environment.step("focus on axe")
    assert (wrong.env_reward, wrong.terminated, wrong.truncated, wrong.metrics) == (0, True, False, {"steps": 2})
    with pytest.raises(EnvError, match="reset"):
        environment.step("look around")
    with pytest.raises(EnvError, match="reset"):
        environment.snapshot()


def test_old_names_and_numbers_start_the_same_task(environment):
    names = ("lifespan-longest-lived", "task-6-lifespan-(longest-lived)", "7-1")
    starts = {environment.reset(task("lifespan-longest-lived 96", task=name)).text for name in names}
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "config.task"),
        ({"task": "cook", "variation": 1}, "no such family"),
        ({"task": "boil", "variation": 30}, "0 to 29"),
        ({"task": "boil", "variation": "1"}, "config.variation"),
        ({"task": "boil", "variation": 1, "simplification": "easier"}, "openDoors"),
        ({"task": "boil", "variation": 1, "step_limit": 0}, "config.step_limit"),
        ({"task": "boil", "variation": 1, "extra": 0}, "config.extra"),
    ],
)
def test_a_config_that_is_none_is_refused_in_words(environment, config, said):
    with pytest.raises(EnvError, match=said):
        environment.reset(Task(id="odd", env="scienceworld", instruction="?", config=config))


def test_the_order_in_which_things_are_listed_is_not_compared(environment):
    assert isinstance(environment, ComparesObservations)
    seen = environment.reset(task("boil 21"))
    head, *things, tail = seen.text.split("\n\t")
    turned = seen.model_copy(update={"text": "\n\t".join((head, *reversed(things), tail))})
    assert environment.same_observation(seen, turned)
    assert not environment.same_observation(seen, seen.model_copy(update={"text": seen.text.replace("air", "steam")}))


def processes() -> set[int]:
    """Return the Java processes below this one that run."""
    below = psutil.Process().children(recursive=True)
    return {one.pid for one in below if one.name() == "java" and one.status() != psutil.STATUS_ZOMBIE}


def running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_simulator_that_dies_is_an_error_and_the_next_reset_starts_another():
    environment = ScienceWorld()
    before = processes()
    begin = environment.reset(task("boil 21"))
    (java,) = processes() - before
    os.kill(java, signal.SIGKILL)
    with pytest.raises(EnvError, match="broke"):
        environment.step("look around")
    assert environment.reset(task("boil 21")) == begin
    environment.close()
    assert processes() == before


def test_a_simulator_that_died_while_nobody_used_it_fails_nobody(environment):
    environment.reset(task("boil 21"))
    saved = environment.snapshot()
    expected = environment.step("look around")
    for go_on in (lambda: environment.reset(task("boil 21")), lambda: environment.restore(saved)):
        environment.reset(task("find-living-thing 0"))
        environment.step("teleport to outside")
        assert environment.step("focus on axe").terminated
        java = environment._simulator._process
        java.kill()
        java.wait()
        go_on()
        assert environment.step("look around") == expected


async def test_nothing_is_left_of_episodes_in_workers_two_of_which_lose_their_java():
    before = processes(), len(os.listdir("/dev/fd")), threading.active_count()
    world = LiveWorld(ScienceWorld, workers=True, environments=2)
    tasks = Random(0).sample(scienceworld.training_tasks(exclude=[]), 20)

    async def episode(number: int) -> None:
        history = await world.start(tasks[number])
        for action in ("teleport to kitchen", "open cupboard", "inventory"):
            if number in (7, 13) and action == "inventory":
                for java in processes() - before[0]:
                    os.kill(java, signal.SIGKILL)
            history = await world.advance(history, Action(text=action))

    failed: list[int] = []
    for number in range(len(tasks)):
        try:
            await episode(number)
        except EnvError:
            failed.append(number)
    assert failed == [7, 13]
    assert len(processes() - before[0]) <= 2
    world.close()
    assert (processes(), len(os.listdir("/dev/fd")), threading.active_count()) == before


@pytest.mark.parametrize("ending", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_java_ends_with_the_process_that_started_it(ending):
    script = f"""
import subprocess
from armap.envs import scienceworld
environment = scienceworld.ScienceWorld()
environment.reset(scienceworld.parse_task("boil 21"))
print(environment._simulator._process.pid, flush=True)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    java = int(done.stdout)
    for _ in range(200):
        if not running(java):
            return
        time.sleep(0.05)
    pytest.fail("Java still runs")


def test_java_that_is_missing_is_said_with_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    fine, _, remedy = scienceworld.check()
    assert not fine
    assert "install" in remedy
    with pytest.raises(ConfigError, match=r"Java 17 or newer.*; type: .*install"):
        ScienceWorld().reset(task("boil 21"))


def test_java_that_is_too_old_is_said_with_what_to_type(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    fine, _, remedy = scienceworld.check()
    assert not fine
    assert "install" in remedy


@pytest.mark.parametrize("family", ["boil", "use-thermometer", "find-plant", "chemistry-mix-paint-tertiary-color"])
def test_a_trajectory_fulfils_its_hindsight_task_which_pays_at_the_end_only(environment, family):
    name = next(name for name in GOLD if name.startswith(family))
    gold = play(environment, task(name), GOLD[name].split("; "))
    hindsight = environment.hindsight_task(gold)
    again = play(environment, hindsight, gold.actions)
    assert [step.env_reward for step in again.steps] == [0.0] * (len(gold.steps) - 1) + [1.0]
    assert [step.observation for step in again.steps] == [step.observation for step in gold.steps]
    assert environment.hindsight_task(again) == hindsight
    assert "focus on the" in hindsight.instruction


def test_another_end_does_not_fulfil_a_hindsight_task(environment):
    name = next(name for name in GOLD if name.startswith("boil"))
    hindsight = environment.hindsight_task(play(environment, task(name), GOLD[name].split("; ")))
    wrong = play(environment, hindsight, ["focus on picture"])
    assert wrong.env_reward == 0
    assert environment.hindsight_task(wrong).instruction == "Your task is to focus on the picture."


def test_what_a_hindsight_task_pays_survives_a_saved_state(environment, other):
    name = next(name for name in GOLD if name.startswith("find-animal"))
    gold = play(environment, task(name), GOLD[name].split("; "))
    hindsight = environment.hindsight_task(gold)
    half = len(gold.actions) // 2
    environment.reset(hindsight)
    for action in gold.actions[:half]:
        environment.step(action)
    other.restore(pickle.loads(pickle.dumps(environment.snapshot())))
    paid = [other.step(action).env_reward for action in gold.actions[half:]]
    assert sum(paid) == 1
