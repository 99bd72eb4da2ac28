import pickle
from dataclasses import replace
from functools import partial

import pytest

from armap.browser import find_browser
from armap.envs import miniwob
from armap.envs.miniwob import MiniWoB, parse_task
from armap.envs.play import play
from armap.errors import ConfigError, EnvError
from armap.images import ImageFolder
from armap.types import Task

pytest.importorskip("miniwob", reason="MiniWoB++ is not tested: pip install miniwob selenium")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return ImageFolder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def environment(images):
    try:
        find_browser()
    except ConfigError as error:
        pytest.skip(f"MiniWoB++ is not tested: {error}")
    environment = MiniWoB(images)
    yield environment
    environment.close()


def test_the_tasks_are_there_without_a_browser_and_no_seed_is_in_both_splits():
    train, test = miniwob.tasks("train"), miniwob.tasks("test")
    assert len(train) > 500 < 3 * len(test)
    assert {task.seed for task in train}.isdisjoint({task.seed for task in test})
    assert {task.config["page"] for task in train} == {task.config["page"] for task in test}
    assert len({task.config["page"] for task in train[:40]}) == 40


def test_a_task_can_be_typed_and_a_slip_is_told_with_what_there_is():
    assert parse_task(" click-button 1000") == next(t for t in miniwob.tasks("test") if t.id == "click-button 1000")
    for text in ("click-button", "click-button 77", "fly-to-moon 0", ""):
        with pytest.raises(ConfigError, match=r"click-button 1000.*click-checkboxes"):
            parse_task(text)


def test_the_examples_succeed_and_are_about_training_tasks():
    assert {example.task.id for example in MiniWoB.examples} <= {task.id for task in miniwob.tasks("train")}
    assert [example.env_reward for example in MiniWoB.examples] == [1.0, 1.0]


def test_what_makes_it_can_be_sent_to_a_worker_process(images):
    assert pickle.loads(pickle.dumps(partial(MiniWoB, images))).args[0].path == images.path


def without_pictures(trajectory):
    steps = [
        replace(step, observation=step.observation.model_copy(update={"image": None})) for step in trajectory.steps
    ]
    final = trajectory.final_observation.model_copy(update={"image": None})
    return trajectory.model_copy(update={"steps": tuple(steps), "final_observation": final})


def test_the_examples_are_what_the_pages_do_now(environment):
    for example in MiniWoB.examples:
        assert without_pictures(play(environment, example.task, example.actions)) == example


@pytest.mark.parametrize("name", ["click-tab-2 3", "email-inbox-reply 1000", "order-food 0"])
def test_a_page_asks_for_what_was_recorded_and_is_drawn_alike_each_time(environment, name):
    task = parse_task(name)
    first = environment.reset(task)
    assert environment.instruction() == task.instruction
    actions = first.actions[:3]
    answers = [environment.step(action) for action in actions]
    assert environment.reset(task) == first
    assert [environment.step(action) for action in actions] == answers


def test_a_picture_shows_the_page_and_changes_with_it(environment, images):
    before = environment.reset(parse_task("click-checkboxes 3"))
    after = environment.step("click[2]").observation
    assert (before.image.width_px, before.image.height_px) == (320, 320)
    assert before.image != after.image
    assert len(images.read(after.image)) > 1000


def test_the_fields_take_any_printable_text_in_place_of_what_was_in_them(environment):
    environment.reset(parse_task("enter-text 0"))
    for text in ("one", "naïve 行動 ☃", "a]b[c", ""):
        assert f'holding "{text}"' in environment.step(f"type[1][{text}]").observation.text


def test_texts_the_instruction_quotes_are_listed_for_every_field(environment):
    observation = environment.reset(parse_task("login-user 1000"))
    quoted = parse_task("login-user 1000").instruction.split('"')[1::2]
    assert {f"type[2][{text}]" for text in quoted} <= set(observation.actions)
    assert {f"type[4][{text}]" for text in quoted} <= set(observation.actions)


@pytest.mark.parametrize(
    "action",
    ["", "click", "click[]", "click[0]", "click[99]", "click[1][x]", "type[1]", "type[2][x]", "click[１]", "\ud800",
     "type[1][\n]", "type[1][" + "a" * 201 + "]", "CLICK[1]"],
)  # fmt: skip
def test_an_illegal_action_is_told_and_changes_nothing(environment, action):
    before = environment.reset(parse_task("enter-text 0"))
    result = environment.step(action)
    assert result.observation.text.startswith("Illegal action: ")
    assert result.observation.text.endswith(before.text)
    assert result.observation.image == before.image
    assert (result.env_reward, result.terminated, result.truncated) == (0.0, False, False)


def test_a_wrong_answer_ends_the_episode_unpaid_and_the_last_observation_does_not_tell(environment):
    task = parse_task("enter-text 0")
    wrong = play(environment, task, ["type[1][Nobody]", "click[2]"])
    right = play(environment, task, ["type[1][Tora]", "click[2]"])
    assert (wrong.env_reward, right.env_reward) == (0.0, 1.0)
    assert wrong.final_observation.text.replace("Nobody", "Tora") == right.final_observation.text
    assert right.final_observation.actions is None
    with pytest.raises(EnvError, match="reset"):
        environment.step("click[1]")


def test_the_episode_is_cut_off_at_its_limit(environment):
    task = parse_task("enter-text 0")
    short = task.model_copy(update={"config": {**task.config, "step_limit": 2}})
    assert play(environment, short, ["click[1]", "click[9]"]).stop_reason == "truncated"


@pytest.mark.parametrize("config", [{}, {"page": "no-such-page"}, {"page": "../core/core"}, {"page": 3}])
def test_a_task_of_no_page_is_refused(environment, config):
    with pytest.raises(EnvError, match="cannot start task 'odd'"):
        environment.reset(Task(id="odd", env="miniwob", instruction="", config=config))
