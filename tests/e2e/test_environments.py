"""Whole runs on every environment from the command line, with a model that draws among the legal actions at random."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from armap.environments import ENVIRONMENTS, environment_entry, without
from armap.errors import ConfigError
from armap.images import ImageFolder
from armap.store import RunFolder
from armap.types import Metrics, Trajectory

from .runs import armap, environment, sentence

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

SCRIPTED = ("--model", "scripted", "--concurrency", 2)


def require(env: str) -> None:
    try:
        environment_entry(env)
    except ConfigError as error:
        pytest.skip(str(error))


def collected(run: Path) -> list[Trajectory]:
    with RunFolder(run, writable=False) as folder:
        return folder.read("trajectories", Trajectory)


@pytest.mark.parametrize("env", ["scienceworld", "miniwob"])
def test_trajectories_are_collected_in_a_world_that_runs_in_processes_of_its_own(env, tmp_path):
    require(env)
    run = tmp_path / "run"
    evaluation = {"scienceworld": "unseen:0-9", "miniwob": "0-9"}[env]
    selected = ("--tasks", 1, "--samples", 2, "--evaluation", evaluation)
    told = armap("collect", "--env", env, *SCRIPTED, *selected, "--run", run).stderr
    assert ("54 of the authors' training tasks" in told) == (env == "scienceworld")
    found = collected(run)
    assert len(found) == 2
    assert [trajectory.failure for trajectory in found] == [None] * 2
    assert all(trajectory.task.env == env and trajectory.steps for trajectory in found)


def test_the_whole_loop_runs_on_the_shop(tmp_path):
    run = tmp_path / "run"
    armap("collect", "--env", "webshop", *SCRIPTED, "--tasks", 6, "--samples", 8, "--run", run)
    armap("synthesize", "--run", run)
    armap("train", "--kind", "linear", "--heldout-share", 0.5, "--run", run)
    armap("evaluate", "--n", 4, "--tasks", 3, "--run", run)
    metrics = Metrics.model_validate_json((run / "metrics.json").read_bytes())
    assert metrics.data.pairs
    assert metrics.planners["best_of_n"].failed == 0


def test_a_picture_of_every_page_is_kept_where_that_is_wanted(tmp_path):
    pytest.importorskip("PIL", reason="the shop extra is not installed")
    run = tmp_path / "run"
    armap("collect", "--env", "webshop", *SCRIPTED, "--images", "--tasks", 1, "--samples", 2, "--run", run)
    images = ImageFolder(run / "images")
    for trajectory in collected(run):
        assert trajectory.failure is None
        observations = [*(step.observation for step in trajectory.steps), trajectory.final_observation]
        assert all(images.read(observation.image) for observation in observations)


def test_an_environment_of_ones_own_is_checked_and_goes_through_the_whole_loop(tmp_path):
    shutil.copy(EXAMPLES / "own_environment.py", tmp_path)
    said = armap("check-env", "own_environment:Jugs", cwd=tmp_path).stdout
    assert said.splitlines()[-1] == "own_environment:Jugs: everything holds."
    mine = ("--env", "own_environment:Jugs", *SCRIPTED, "--run", "run")
    armap("collect", *mine, "--tasks", 20, "--samples", 8, cwd=tmp_path)
    armap("synthesize", "--run", "run", cwd=tmp_path)
    armap("train", "--kind", "linear", "--run", "run", cwd=tmp_path)
    armap("evaluate", "--n", 8, "--tasks", 10, "--run", "run", cwd=tmp_path)
    metrics = Metrics.model_validate_json((tmp_path / "run" / "metrics.json").read_bytes())
    assert metrics.reward_model.pairwise_accuracy.mean > 0.5


def test_what_is_wrong_with_an_environment_is_said_in_plain_words(tmp_path):
    source = (EXAMPLES / "own_environment.py").read_text("utf-8")
    broken = source.replace("self.litres = 0, 0\n", "pass\n").replace("def __init__(self) -> None:\n", "def __init__(self) -> None:\n        self.litres = 0, 0\n", 1)  # fmt: skip  # noqa: E501
    (tmp_path / "forgetful.py").write_text(broken, "utf-8")
    said = armap("check-env", "forgetful:Jugs", cwd=tmp_path, code=1).stdout
    assert "WRONG" in said
    assert "Expected:" in said
    assert "Repair:" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--env", "game25"), "There is no environment 'game25'; choose from: " + ", ".join(ENVIRONMENTS)),
        (("--env", "no_such_module:Class"), "There is no module 'no_such_module'"),
        (("--env", "toy", "--images"), "toy draws no pictures; leave --images out"),
        (("--env", "toy", "--data", "/"), "toy takes no data of your own; leave --data out"),
        (("--env", "webshop", "--data", "/nowhere"), "/nowhere is no items_shuffle*.json"),
        (("--env", "webshop", "--evaluation", "yesterday"), "'yesterday' selects no WebShop tasks"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence(options, said, tmp_path):
    done = armap("collect", *options, "--model", "scripted", "--run", tmp_path / "run", code=2)
    assert sentence(done.stderr).startswith(said)


def test_an_example_is_an_evaluation_task_only_if_all_of_it_is_the_same():
    toy, puzzles = environment_entry("toy"), environment_entry("game24")
    shown = [example.task for example in toy.examples]
    asked = toy.evaluation_tasks("40")
    assert {task.instruction for task in asked}.intersection(task.instruction for task in shown)
    assert without(shown, asked) == shown
    shown = [example.task for example in puzzles.examples]
    assert without(shown, puzzles.evaluation_tasks("1-100")) == shown
    # 2 4 8 12 has rank 650.
    assert without(shown, puzzles.evaluation_tasks("601-700")) == shown[1:]


def test_a_slip_in_the_tasks_of_an_environment_of_ones_own_is_one_sentence_with_its_place(tmp_path):
    (tmp_path / "slip.py").write_text(
        "from armap.types import Task\n\n\nclass Slip:\n    @staticmethod\n    def tasks(split):\n"
        "        return [Task(id='a', env='slip', instruction='Go.', sede=1)]\n",
        "utf-8",
    )
    done = armap(
        "collect", "--env", "slip:Slip", "--model", "scripted", "--run", tmp_path / "run", cwd=tmp_path, code=2
    )
    said = sentence(done.stderr)
    assert re.search(r"slip:Slip\.tasks\('test'\) raised ValidationError in \S*slip\.py, line 7: .*sede", said)
    # Whoever checks it is shown more.
    checked = armap("check-env", "slip:Slip", cwd=tmp_path, code=1).stdout
    assert re.search(r"Where: +\S*slip\.py:7\n +Repair:", checked)


ODD = """
from armap.protocols import StepResult
from armap.types import Observation, Task


class Odd:
    inline = True

    @staticmethod
    def tasks(split):
        return [Task(id=f"{split} {i}", env="odd", instruction=f"Do {i} {split}.") for i in range(3)]

    def reset(self, task):
        return Observation(text="Go.", actions=("a", "b"))

    def step(self, action):
        return StepResult(Observation(text=action), 0.0, True, False)

    def close(self):
        pass

    def hindsight_task(self, trajectory):
        return {}[trajectory.actions[0]]


class Dicts(Odd):
    @staticmethod
    def tasks(split):
        return [{"id": "x"}]


class NoRules(Odd):
    rules = None


class OneExample(Odd):
    examples = 3


class Words(Odd):
    examples = ["take a"]


class Nowhere(Exception):
    pass


class NoTasks(Odd):
    @staticmethod
    def tasks(split):
        raise Nowhere("no house")


class Unmade(Odd):
    def __init__(self):
        raise RuntimeError("no display")


class Unclosed(Odd):
    def close(self):
        raise RuntimeError("no door")


class UnclosedWorker(Unclosed):
    inline = False


class Lost(Odd):
    def hindsight_task(self, trajectory):
        raise Nowhere("no words")


class Leaving(Odd):
    def hindsight_task(self, trajectory):
        exit()


class Saying(Odd):
    def hindsight_task(self, trajectory):
        return "Do it."


class Endless(Odd):
    def step(self, action):
        return StepResult(Observation(text="On.", actions=("a", "b")), 0.0, False, False)
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Dicts", r"odd:Dicts.tasks('test') must return objects of armap.types.Task; one is of type dict."),
        ("NoRules", "odd:NoRules.rules must be a text, and is of type NoneType; or leave it out."),
        ("OneExample", "odd:OneExample.examples must be a list of what armap.envs.play.play returns; or leave it out."),
        ("Words", "odd:Words.examples must be a list of what armap.envs.play.play returns; or leave it out."),
        ("NoTasks", "odd:NoTasks.tasks('test') raised Nowhere in {folder}/odd.py, line 51: no house"),
        ("Unmade", "making the environment raised RuntimeError in {folder}/odd.py, line 56: no display"),
    ],
)
def test_an_odd_environment_of_ones_own_is_refused_in_one_sentence(name, said, tmp_path):
    (tmp_path / "odd.py").write_text(ODD, "utf-8")
    done = armap(
        "collect", "--env", f"odd:{name}", "--model", "scripted", "--run", tmp_path / "run", cwd=tmp_path, code=2
    )
    assert sentence(done.stderr) == said.format(folder=tmp_path)


@pytest.mark.parametrize("name", ["OneExample", "Words"])
def test_examples_that_are_none_are_said_by_who_checks_an_environment_too(name, tmp_path):
    (tmp_path / "odd.py").write_text(ODD, "utf-8")
    done = armap("check-env", f"odd:{name}", cwd=tmp_path, code=2)
    assert sentence(done.stderr).startswith(f"odd:{name}.examples must be a list")


@pytest.mark.parametrize("name", ["Unclosed", "UnclosedWorker"])
def test_an_environment_that_cannot_close_keeps_nobody_from_what_it_did(name, tmp_path):
    (tmp_path / "odd.py").write_text(ODD, "utf-8")
    collected = armap("collect", "--env", f"odd:{name}", "--model", "scripted", "--run", tmp_path / "run", cwd=tmp_path)
    assert "; none failed" in collected.stdout


def test_an_episode_without_an_end_is_cut_off(tmp_path):
    (tmp_path / "odd.py").write_text(ODD, "utf-8")
    run = tmp_path / "run"
    options = ("--tasks", 1, "--samples", 1, "--model", "scripted")
    armap("collect", "--env", "odd:Endless", *options, "--run", run, cwd=tmp_path)
    with RunFolder(run, writable=False) as opened:
        (attempt,) = opened.read("trajectories", Trajectory)
    assert (len(attempt.steps), attempt.stop_reason) == (1000, "truncated")


@pytest.mark.parametrize(
    ("name", "slip", "said"),
    [
        ("Odd", "return {}[trajectory.actions[0]]", r"raised KeyError in \S*odd\.py, line \d+: '[ab]'"),
        ("Lost", 'raise Nowhere("no words")', r"raised Nowhere in \S*odd\.py, line \d+: no words"),
        ("Leaving", "exit()", r"raised SystemExit in \S*odd\.py, line \d+: None"),
        ("Saying", 'return "Do it."', r"must return an armap\.types\.Task or None, not str\."),
    ],
)
def test_a_slip_in_what_was_achieved_ends_the_command_in_one_sentence_and_can_be_mended(name, slip, said, tmp_path):
    (tmp_path / "odd.py").write_text(ODD, "utf-8")
    run = tmp_path / "run"
    armap("collect", "--env", f"odd:{name}", "--model", "scripted", "--run", run, cwd=tmp_path)
    done = armap("synthesize", "--run", run, cwd=tmp_path, code=2)
    assert re.fullmatch(rf"hindsight_task\(\) of trajectory '.*' {said}", sentence(done.stderr))
    achieved = 'return Task(id=trajectory.actions[0], env="odd", instruction=f"Do {trajectory.actions[0]}.")'
    (tmp_path / "odd.py").write_text(ODD.replace(slip, achieved), "utf-8")
    assert "Pairs made: 2" in armap("synthesize", "--run", run, cwd=tmp_path).stdout


def test_where_the_shop_s_own_data_are_to_be_had_is_explained():
    assert "items_shuffle_1000.json" in armap("data", "webshop").stdout


def test_the_shop_opens_to_people_and_closes_on_interruption(tmp_path):
    pytest.importorskip("starlette", reason="the shop extra is not installed")
    command = [sys.executable, "-m", "armap.cli", "shop", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as shop:
        assert shop.stderr is not None
        address = shop.stderr.readline().partition(" open at ")[2].partition(";")[0]
        assert "WebShop" in httpx.get(address, trust_env=False).text
        shop.send_signal(signal.SIGINT)
        assert shop.wait(timeout=30) == 0
