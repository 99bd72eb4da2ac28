import importlib.util
import re
from pathlib import Path
from random import Random

import pytest

from armap.envs.check.supervise import check_class, in_words
from armap.envs.own import import_environment
from armap.envs.play import play
from armap.protocols import HindsightWriter, Snapshots

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def jugs(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_environment("own_environment:Jugs")


def test_the_environment_of_the_readme_has_no_findings(jugs):
    answers = list(check_class("own_environment:Jugs"))
    assert len(answers) == 12
    assert [in_words(checked.finding) for checked in answers if checked.finding] == []


def test_the_gymnasium_environment_of_the_readme_has_no_findings(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(from armap.envs.gymnasium .*?)```", readme, re.DOTALL)
    (tmp_path / "lake.py").write_text(code, "utf-8")
    monkeypatch.chdir(tmp_path)
    assert [in_words(checked.finding) for checked in check_class("lake:Lake") if checked.finding] == []


def test_planning_from_python_is_done_as_the_documentation_says(capsys):
    told = (EXAMPLES.parent / "docs" / "planning.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", told, re.DOTALL)
    exec(compile(code, "planning.md", "exec"), {})
    assert "leave" in capsys.readouterr().out


def test_it_shows_all_that_an_environment_may_have_in_a_file_one_reads_at_once(jugs):
    assert isinstance(jugs.make(), HindsightWriter)
    assert isinstance(jugs.make(), Snapshots)
    assert jugs.rules
    assert jugs.examples[0].env_reward == 1
    assert jugs.inline
    assert len((EXAMPLES / "own_environment.py").read_text("utf-8").splitlines()) <= 120


def test_training_and_test_tasks_have_no_jugs_in_common(jugs):
    train, test = (
        {(task.config["small"], task.config["big"]) for task in jugs.tasks(split)} for split in ("train", "test")
    )
    assert train
    assert test
    assert train.isdisjoint(test)


def test_every_task_can_be_solved_but_is_seldom_solved_by_chance(jugs):
    environment, rng = jugs.make(), Random(0)
    tasks = [*jugs.tasks("train"), *jugs.tasks("test")]
    assert all(solution(environment, task) for task in tasks)
    rewards = [random_reward(environment, task, rng) for task in tasks for _ in range(10)]
    assert 0.03 < sum(rewards) / len(rewards) < 0.2


def solution(environment, task):
    plans = [()]
    for _ in range(5):
        longer = []
        for plan in plans:
            listed = environment.reset(task).actions
            for action in plan:
                listed = environment.step(action).observation.actions
            if environment.step("stop").env_reward == 1:
                return play(environment, task, (*plan, "stop"))
            longer += [(*plan, action) for action in listed if action != "stop"]
        plans = longer
    return None


def random_reward(environment, task, rng):
    observation, paid = environment.reset(task), 0.0
    while observation.actions:
        result = environment.step(rng.choice(observation.actions))
        observation, paid = result.observation, paid + result.env_reward
    return paid


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_can_be_imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
