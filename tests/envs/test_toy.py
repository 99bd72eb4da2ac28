from fractions import Fraction

import pytest

from armap.envs import toy
from armap.envs.play import play
from armap.envs.toy import Toy
from armap.errors import ConfigError, EnvError
from armap.types import Task


def room(**config: object) -> Task:
    return Task(id="room", env="toy", instruction="", config={"shelf": 0, "wanted": "red cube", **config})


def test_an_episode_reads_as_documented():
    environment = Toy()
    start = environment.reset(room())
    assert start.text == (
        "On the shelf: red cube, red ball, red cone, green cube, green ball, green cone. You hold nothing."
    )
    results = [environment.step(action) for action in ("take red ball", "take red cube", "leave")]
    assert [result.observation.text for result in results] == [
        "On the shelf: red cube, red cone, green cube, green ball, green cone. You hold the red ball.",
        "On the shelf: red ball, red cone, green cube, green ball, green cone. You hold the red cube.",
        "You left with the red cube.",
    ]
    assert [result.env_reward for result in results] == [0, 0, 1]
    assert results[-1].terminated
    assert results[-1].observation.actions is None


def test_the_last_observation_is_the_same_whether_the_object_was_asked_for_or_not():
    trajectories = [play(Toy(), room(wanted=wanted), ["take red cone", "leave"]) for wanted in ("red cone", "red ball")]
    assert trajectories[0].final_observation == trajectories[1].final_observation
    assert [trajectory.env_reward for trajectory in trajectories] == [1, 0]


@pytest.mark.parametrize("action", ["take blue cone", "take", "Leave", "take red cube ", "", "dance"])
def test_an_illegal_action_says_what_may_be_written_and_changes_nothing(action):
    environment = Toy()
    start = environment.reset(room())
    answer = environment.step(action).observation
    assert answer.text == f"Illegal action: write `leave`, or `take` and an object on the shelf. {start.text}"
    assert answer.actions == start.actions


def test_the_step_limit_cuts_an_episode_off():
    environment = Toy()
    environment.reset(room())
    results = [environment.step("wait") for _ in range(4)]
    assert [result.truncated for result in results] == [False, False, False, True]
    assert results[-1].observation.actions is None
    environment.reset(room(step_limit=1))
    result = environment.step("leave")
    assert (result.terminated, result.truncated) == (True, False)


def solved_by_random_play(task: Task, actions: tuple[str, ...] = ()) -> Fraction:
    environment = Toy()
    listed = environment.reset(task).actions
    for action in actions:
        result = environment.step(action)
        listed = result.observation.actions
    if listed is None:
        return Fraction(int(result.env_reward))
    return sum(solved_by_random_play(task, (*actions, action)) for action in listed) / Fraction(len(listed))


def test_random_play_solves_a_small_but_not_a_tiny_share():
    assert solved_by_random_play(room()) == Fraction(13, 216)


def test_leaving_with_nothing_or_not_at_all_has_no_hindsight_task():
    assert Toy().hindsight_task(play(Toy(), room(), ["leave"])) is None
    assert Toy().hindsight_task(play(Toy(), room(), ["take red cube"] * 4)) is None


def test_a_solved_task_is_its_own_hindsight_task_and_another_object_gives_another_task():
    (task,) = toy.tasks(1, 0, "train")
    wanted = task.config["wanted"]
    assert Toy().hindsight_task(play(Toy(), task, [f"take {wanted}", "leave"])) == task
    (other, *_) = (action for action in Toy().reset(task).actions if action != f"take {wanted}")
    hindsight = Toy().hindsight_task(play(Toy(), task, [other, "leave"]))
    assert hindsight is not None
    assert hindsight.instruction == f"Leave with the {other.removeprefix('take ')}."
    assert hindsight.config["shelf"] == task.config["shelf"]


def test_tasks_are_drawn_by_seed_and_splits_share_no_shelf():
    assert toy.tasks(20, 3, "train") == toy.tasks(20, 3, "train") != toy.tasks(20, 4, "train")
    train, test = toy.tasks(378, 0, "train"), toy.tasks(126, 0, "test")
    assert len({task.id for task in [*train, *test]}) == 504
    assert not {task.config["shelf"] for task in train} & {task.config["shelf"] for task in test}
    assert {task.split for task in test} == {"test"}


def test_more_tasks_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="at most 126"):
        toy.tasks(127, 0, "test")


@pytest.mark.parametrize(
    "config", [{"shelf": 84}, {"shelf": "0"}, {"wanted": "blue cone"}, {"step_limit": 0}, {"a": 1}]
)
def test_a_config_that_is_no_room_is_refused_by_name(config):
    with pytest.raises(EnvError, match="cannot start task 'room'"):
        Toy().reset(room(**config))


def test_the_example_is_solved_by_listed_actions():
    for example in Toy.examples:
        assert example.env_reward == 1
        assert all(step.action.text in step.observation.actions for step in example.steps)
