import pickle
from functools import partial
from io import BytesIO
from random import Random

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="the adapters are not tested: pip install gymnasium minigrid")

import numpy as np  # noqa: E402
from gymnasium import spaces  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402
from PIL import Image  # noqa: E402

from armap.envs import game24, toy  # noqa: E402
from armap.envs.check.supervise import check_environment, in_words  # noqa: E402
from armap.envs.game24 import Game24  # noqa: E402
from armap.envs.gymnasium import CopyingGymnasium, FromGymnasium, ToGymnasium, register  # noqa: E402
from armap.envs.play import play  # noqa: E402
from armap.envs.toy import Toy  # noqa: E402
from armap.errors import ConfigError, EnvError  # noqa: E402
from armap.images import ImageFolder  # noqa: E402
from armap.protocols import Snapshots, StepResult  # noqa: E402
from armap.types import Observation, Task  # noqa: E402

GRID_ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle", "done")
GRID_TASKS = [Task(id=str(seed), env="grid", instruction="Do what is asked.", seed=seed) for seed in range(4)]
TOY_TASKS = toy.tasks(20, 0, "train")


def grid():
    wrappers = pytest.importorskip("minigrid.wrappers", reason="pip install minigrid")
    return wrappers.RGBImgObsWrapper(gymnasium.make("MiniGrid-GoToDoor-5x5-v0", max_steps=30))


def make_grid(folder=None):
    images = None if folder is None else ImageFolder(folder)
    return CopyingGymnasium(grid, actions=GRID_ACTIONS, images=images, image_field="image")


def toy_there_and_back():
    return FromGymnasium(partial(ToGymnasium, Toy, TOY_TASKS))


def chosen(task):
    return task.model_copy(update={"config": {"task_id": task.id}})


# Theirs as ours


def test_a_real_environment_keeps_our_contract(tmp_path):
    pytest.importorskip("minigrid", reason="pip install minigrid")
    answers = list(check_environment(partial(make_grid, tmp_path), GRID_TASKS, episodes=3))
    assert [in_words(checked.finding) for checked in answers if checked.finding] == []
    assert "saved states can be gone back to" in [checked.claim for checked in answers]


def test_an_observation_has_its_text_its_picture_and_the_names_of_the_actions(tmp_path):
    environment = make_grid(tmp_path)
    observation = environment.reset(GRID_TASKS[3])
    assert observation.text == "go to the blue door"
    assert observation.actions == GRID_ACTIONS
    assert (observation.image.width_px, observation.image.height_px) == (40, 40)
    pixels = decoded(ImageFolder(tmp_path).read(observation.image))
    assert (pixels == grid().reset(seed=3)[0]["image"]).all()
    environment.close()


def decoded(png):
    return np.asarray(Image.open(BytesIO(png)))


def encoded(pixels):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_what_render_draws_is_the_picture_where_no_field_is_named(tmp_path):
    pytest.importorskip("pygame", reason="pip install pygame-ce")
    make = partial(gymnasium.make, "FrozenLake-v1", render_mode="rgb_array")
    environment = FromGymnasium(make, describe=lambda square, info: f"square {square}", images=ImageFolder(tmp_path))
    assert environment.reset(GRID_TASKS[0]).image.width_px > 100
    environment.close()


def test_an_illegal_action_is_told_and_costs_a_step():
    environment = FromGymnasium("FrozenLake-v1", describe=lambda square, info: f"square {square}", step_limit=2)
    before = environment.reset(GRID_TASKS[0])
    assert before.actions == ("0", "1", "2", "3")
    first, second = environment.step("7"), environment.step("")
    assert first.observation.text == "Illegal action: write one of those listed.\nsquare 0"
    assert (first.truncated, second.truncated) == (False, True)
    assert second.observation.actions is None
    with pytest.raises(EnvError, match="reset"):
        environment.step("1")


def test_what_a_mask_rules_out_is_not_listed():
    environment = FromGymnasium(
        "Taxi-v4", actions=("south", "north", "east", "west", "pick up", "drop"), describe=lambda seen, info: str(seen)
    )
    listed = environment.reset(GRID_TASKS[1]).actions
    assert 0 < len(listed) < 6
    assert environment.step("drop").observation.text.startswith("Illegal action" if "drop" not in listed else "")


def test_chosen_entries_of_info_are_the_metrics():
    environment = FromGymnasium("FrozenLake-v1", describe=lambda square, info: str(square), metrics=("prob", "other"))
    environment.reset(GRID_TASKS[0])
    assert environment.step("1").metrics.keys() == {"prob"}


class Tank(gymnasium.Env):
    """Burns ten units of fuel with each action, and lists what is legal as it is told to."""

    action_space = gymnasium.spaces.Discrete(3, start=5)
    observation_space = gymnasium.spaces.Text(20)
    legal = ()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.fuel = 0.0
        return "full", self.told()

    def step(self, action):
        self.fuel += 10.0
        return f"{self.fuel:.0f} burnt", 0.0, False, False, self.told()

    def told(self):
        return {"fuel": self.fuel, **({"legal_actions": self.legal} if self.legal else {})}


class Listing(Tank):
    def __init__(self, legal):
        self.legal = legal


def test_an_illegal_action_leaves_the_metrics_as_they_are():
    tank = CopyingGymnasium(Tank, metrics=("fuel",), step_limit=3)
    tank.reset(GRID_TASKS[0])
    assert tank.step("no action").metrics == {}
    tank.step("5")
    saved = tank.snapshot()
    last = tank.step("no action")
    assert (last.truncated, last.metrics) == (True, {"fuel": 10.0})
    tank.reset(GRID_TASKS[0])
    tank.restore(saved)
    assert tank.step("no action") == last


def test_legal_actions_may_be_told_by_their_numbers():
    tank = FromGymnasium(partial(Listing, [5, np.int64(7)]), actions=("left", "stay", "right"))
    assert tank.reset(GRID_TASKS[0]).actions == ("left", "right")
    assert tank.step("right").observation.text == "10 burnt"
    for odd in ("up", 8, 1.5):
        with pytest.raises(EnvError, match="which is no action"):
            FromGymnasium(partial(Listing, [odd])).reset(GRID_TASKS[0])


def test_an_environment_whose_actions_are_no_texts_is_refused_in_one_sentence():
    for make, told in (
        (partial(gymnasium.make, "Pendulum-v1"), "ActionWrapper"),
        ("Nowhere-v0", "Nowhere"),
        ("nowhere.at_all:Foo-v0", "nowhere"),
    ):
        with pytest.raises(ConfigError, match=told):
            FromGymnasium(make)
    with pytest.raises(ConfigError, match="4 actions"):
        FromGymnasium("FrozenLake-v1", actions=("left", "right"))


def test_an_observation_without_text_says_what_to_do():
    with pytest.raises(EnvError, match="describe"):
        FromGymnasium("FrozenLake-v1").reset(GRID_TASKS[0])


def test_only_the_copying_one_promises_snapshots():
    assert isinstance(make_grid(), Snapshots)
    assert not isinstance(toy_there_and_back(), Snapshots)
    pickle.loads(pickle.dumps(make_grid().snapshot()))


# Ours as theirs


@pytest.mark.parametrize(
    ("env_id", "make", "tasks"),
    [("mine/Toy-v0", Toy, TOY_TASKS), ("mine/Game24-v0", Game24, game24.tasks(1, 100, split="train"))],
)
def test_ours_pass_the_checker_of_gymnasium_without_a_warning(env_id, make, tasks):
    register(env_id, make, tasks)
    register(env_id, make, tasks)
    environment = gymnasium.make(env_id)
    check_env(environment.unwrapped)
    observation, info = environment.reset(options={"task_id": tasks[5].id})
    assert info["instruction"] == tasks[5].instruction
    assert environment.step(info["legal_actions"][0])[0] != observation


class Painter:
    """Paints the picture it was given in one colour more at every step."""

    def __init__(self, folder):
        self._images = ImageFolder(folder)

    def reset(self, task):
        self.steps = 0
        return self._look()

    def step(self, action):
        self.steps += 1
        return StepResult(self._look(), 0.5, self.steps == 3, False, {"paint": self.steps})

    def _look(self):
        image = self._images.add(encoded(np.full((4, 6, 3), self.steps * 50, np.uint8)))
        return Observation(text=f"Painted {self.steps} → 行.", image=image)

    def close(self):
        pass


def test_pictures_become_arrays_and_come_back_as_the_same_pictures(tmp_path):
    theirs, back = ImageFolder(tmp_path / "theirs"), ImageFolder(tmp_path / "back")
    make = partial(ToGymnasium, partial(Painter, theirs.path), TOY_TASKS, images=theirs, image_size_px=(6, 4))
    register("armap/Painter-v0", *make.args)
    check_env(gymnasium.make(gymnasium.spec("armap/Painter-v0")).unwrapped)
    environment = make()
    observation, _ = environment.reset(seed=0)
    assert environment.observation_space.contains(observation)
    assert observation["text"] == "Painted 0 → ?."
    observation, reward, *_, info = environment.step("more")
    assert (reward, info["paint"], observation["image"].max()) == (0.5, 1, 50)
    again = FromGymnasium(make, images=back, image_field="image", metrics=("paint",))
    painter = Painter(theirs.path)
    task = TOY_TASKS[0].model_copy(update={"config": {}})
    assert again.reset(task).image == painter.reset(task).image
    assert again.step("more").metrics == {"paint": 1.0}


def test_a_closed_one_may_be_closed_again_but_not_used():
    environment = ToGymnasium(Toy, TOY_TASKS)
    environment.close()
    environment.close()
    with pytest.raises(EnvError, match="closed"):
        environment.reset()


def test_no_tasks_are_refused():
    with pytest.raises(ConfigError, match="at least one"):
        ToGymnasium(Toy, [])


# There and back


def test_toy_behaves_the_same_after_going_through_gymnasium():
    here, there = Toy(), toy_there_and_back()
    rng = Random(0)
    for task in TOY_TASKS:
        observation, actions = here.reset(task), []
        while observation.actions:
            actions.append(rng.choice(observation.actions))
            observation = here.step(actions[-1]).observation
        one, other = play(here, task, actions), play(there, chosen(task), actions)
        assert other.model_copy(update={"task": task}) == one


def test_an_illegal_action_reaches_an_environment_of_ours_and_is_answered_by_it():
    here, there = Toy(), toy_there_and_back()
    here.reset(TOY_TASKS[0])
    there.reset(chosen(TOY_TASKS[0]))
    assert there.step("take moon") == here.step("take moon")
    assert there.step("\ud800").observation.text.startswith("Illegal action: ")


def test_a_task_that_is_not_there_cannot_be_started():
    with pytest.raises(EnvError, match="no such shelf"):
        toy_there_and_back().reset(TOY_TASKS[0].model_copy(update={"config": {"task_id": "no such shelf"}}))


def test_the_text_space_holds_every_character_that_a_shop_writes():
    space = ToGymnasium(Toy, TOY_TASKS).observation_space
    assert isinstance(space, spaces.Text)
    assert space.contains("Café crème – “3½ × 2 m” • €4, −5 °C …\n")
