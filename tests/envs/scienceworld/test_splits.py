import pytest

from armap.envs import scienceworld
from armap.envs.scienceworld import ScienceWorld
from armap.errors import ConfigError

every_split = pytest.mark.parametrize(("split", "count"), [("train", 1483), ("seen", 194), ("unseen", 211)])


@every_split
def test_the_splits_are_those_of_the_authors(split, count):
    tasks = scienceworld.tasks(split)
    assert len({task.id for task in tasks}) == len(tasks) == count
    assert len({task.config["task"] for task in tasks}) == 24
    assert all(task.env == "scienceworld" and task.split == split for task in tasks)


@every_split
def test_every_task_says_in_words_what_is_asked_for(split, count):
    for task in scienceworld.tasks(split):
        assert task.instruction.startswith(("Your task is to", "A new task"))
        assert task.config["variation"] < scienceworld.families()[task.config["task"]].variations
        assert 10 <= task.config["step_limit"] <= 120


def test_training_tasks_leave_out_those_that_are_evaluated_and_those_excluded():
    shared = scienceworld.shared_ids()
    assert len(shared) == 54
    assert shared <= {task.id for task in scienceworld.tasks("train")} & {
        task.id for task in scienceworld.tasks("seen")
    }
    everything = scienceworld.training_tasks(exclude=[])
    assert len(everything) == 1483 - 54
    fewer = scienceworld.training_tasks(exclude=everything[:7])
    assert fewer == everything[7:]
    evaluated = {task.id for split in ("seen", "unseen") for task in scienceworld.tasks(split)}
    assert not evaluated & {task.id for task in everything}


def test_a_text_selects_evaluation_tasks_by_split_and_position():
    unseen = scienceworld.tasks("unseen")
    assert scienceworld.evaluation_tasks("unseen") == unseen
    assert scienceworld.evaluation_tasks("unseen:0-49") == unseen[:50]
    assert scienceworld.evaluation_tasks("seen:193-193") == scienceworld.tasks("seen")[-1:]


@pytest.mark.parametrize("selection", ["", "test", "unseen:", "unseen:5", "unseen:5-4", "unseen:0-211", "unseen:-1-3"])
def test_a_selection_of_nothing_is_refused(selection):
    with pytest.raises(ConfigError, match="unseen"):
        scienceworld.evaluation_tasks(selection)


@pytest.mark.parametrize("text", ["boil 21", "task-1-boil 21", "1-1 21", "  boil   21 "])
def test_a_person_may_type_a_task_by_its_old_or_new_name_or_its_number(text):
    (of_split,) = (task for task in scienceworld.tasks("unseen") if task.id == "boil 21")
    assert scienceworld.parse_task(text, split="unseen") == of_split


@pytest.mark.parametrize("text", ["", "boil", "boil x", "boil -1", "boil 30", "cook 3", "7", "task-1- 3"])
def test_a_task_that_does_not_exist_is_refused(text):
    with pytest.raises(ConfigError, match="boil"):
        scienceworld.parse_task(text)


def test_old_names_with_brackets_and_numbers_of_all_families_are_known():
    for name, family in scienceworld.families().items():
        if family.unseen:
            assert scienceworld.parse_task(f"{family.number} {family.unseen[0]}").config["task"] == name
    assert scienceworld.parse_task("task-6-lifespan-(longest-lived) 96").config["task"] == "lifespan-longest-lived"


def test_rules_and_examples_are_short_and_the_examples_are_solved_training_tasks():
    training = {task.id for task in scienceworld.training_tasks(exclude=[])}
    assert len(ScienceWorld.rules) < 450
    for example in ScienceWorld.examples:
        assert example.task.id in training
        assert example.env_reward == 1
    # As a policy shows them that recalls 200 characters of each observation.
    shown = [step.observation.text[:200] + step.action.text for one in ScienceWorld.examples for step in one.steps]
    assert sum(map(len, shown)) < 5000
