from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.environments import environment_entry
from armap.envs import game24, toy
from armap.envs.check.supervise import check_environment, in_words
from armap.envs.game24 import Game24
from armap.envs.play import play
from armap.envs.toy import Toy
from armap.errors import ConfigError, EnvError
from armap.protocols import Environment, HindsightWriter
from armap.types import Observation, Task, Trajectory

MEMBERS: dict[str, tuple[Callable[[], Game24 | Toy], Sequence[Task]]] = {
    "game24": (Game24, game24.tasks(1, 1362, split="train")),
    "toy": (Toy, toy.tasks(100, 0, "train")),
}

ODD_ACTIONS = ("", " ", "\0", "\n", "é" * 50, "\ud800", "行動", "take", "1 + ", "a" * 1_000_000, "(" * 100_000, "1 / 0")

every_environment = pytest.mark.parametrize("name", MEMBERS)


@st.composite
def games(draw: st.DrawFn, name: str) -> tuple[Game24 | Toy, Task, Random]:
    make, tasks = MEMBERS[name]
    return make(), draw(st.sampled_from(tasks)), draw(st.randoms(use_true_random=False))


def random_trajectory(environment: Environment, task: Task, rng: Random, *, odd: float = 0.0) -> Trajectory:
    observation = environment.reset(task)
    actions: list[str] = []
    while True:
        actions.append(rng.choice(ODD_ACTIONS if rng.random() < odd else observation.actions or ODD_ACTIONS))
        result = environment.step(actions[-1])
        observation = result.observation
        assert not (result.terminated and result.truncated)
        if result.terminated or result.truncated:
            return play(environment, task, actions)


def observations(trajectory: Trajectory) -> list[Observation]:
    return [*(step.observation for step in trajectory.steps), trajectory.final_observation]


@every_environment
@given(data=st.data())
def test_the_same_actions_give_the_same_observations(name, data):
    environment, task, rng = data.draw(games(name))
    first = random_trajectory(environment, task, rng, odd=0.2)
    random_trajectory(environment, data.draw(st.sampled_from(MEMBERS[name][1])), rng)
    assert play(environment, task, first.actions) == first
    assert play(MEMBERS[name][0](), task, first.actions) == first


@every_environment
@given(data=st.data())
def test_listed_actions_are_unique_and_legal(name, data):
    environment, task, rng = data.draw(games(name))
    prefix = random_trajectory(environment, task, rng).actions
    prefix = prefix[: rng.randrange(len(prefix))]

    def after_prefix() -> Observation:
        observation = environment.reset(task)
        for action in prefix:
            observation = environment.step(action).observation
        return observation

    listed = after_prefix().actions
    assert listed is not None
    assert len(set(listed)) == len(listed) > 0
    for action in listed:
        before = after_prefix()
        after = environment.step(action).observation
        assert after != before
        assert not after.text.startswith("Illegal action")


@every_environment
@given(data=st.data())
def test_an_invalid_action_is_an_observation_and_the_episode_goes_on(name, data):
    environment, task, rng = data.draw(games(name))
    before = environment.reset(task)
    answer = environment.step(data.draw(st.one_of(st.sampled_from(ODD_ACTIONS), st.text().map("?".__add__))))
    assert answer.observation.text.startswith("Illegal action: ")
    assert answer.observation.actions == before.actions
    assert len(answer.observation.text) < 1000
    assert (answer.env_reward, answer.terminated, answer.truncated) == (0, False, False)
    result = environment.step(rng.choice(before.actions))
    assert not result.observation.text.startswith("Illegal action")


@every_environment
@given(data=st.data())
def test_an_episode_ends_once_pays_at_its_end_only_and_can_be_started_again(name, data):
    environment, task, rng = data.draw(games(name))
    trajectory = random_trajectory(environment, task, rng, odd=0.1)
    assert trajectory.final_observation.actions is None
    assert all(step.observation.actions is not None for step in trajectory.steps)
    assert all(step.env_reward == 0 for step in trajectory.steps[:-1])
    assert trajectory.steps[-1].env_reward in {0, 1}
    assert trajectory.stop_reason == "terminated" or trajectory.env_reward == 0
    with pytest.raises(EnvError, match="reset"):
        environment.step(trajectory.actions[-1])
    assert environment.reset(task) == trajectory.steps[0].observation


@every_environment
def test_a_step_before_the_first_reset_is_refused(name):
    with pytest.raises(EnvError, match="reset"):
        MEMBERS[name][0]().step("leave")


@every_environment
@given(data=st.data())
def test_a_terminated_trajectory_fulfils_its_hindsight_task(name, data):
    environment, task, rng = data.draw(games(name))
    assert isinstance(environment, HindsightWriter)
    trajectory = random_trajectory(environment, task, rng, odd=0.1)
    hindsight = environment.hindsight_task(trajectory)
    if hindsight is None:
        assert trajectory.env_reward == 0
        return
    assert trajectory.stop_reason == "terminated"
    again = play(environment, hindsight, trajectory.actions)
    assert again.env_reward == 1
    assert observations(again) == observations(trajectory)
    assert (hindsight == task) == (trajectory.env_reward == 1)
    assert environment.hindsight_task(again) == hindsight


@every_environment
@given(data=st.data())
def test_two_trajectories_achieved_the_same_exactly_when_each_fulfils_the_task_of_the_other(name, data):
    environment, task, rng = data.draw(games(name))
    one, other = random_trajectory(environment, task, rng), random_trajectory(environment, task, rng)
    tasks = environment.hindsight_task(one), environment.hindsight_task(other)
    if tasks[0] is not None and tasks[1] is not None:
        assert (tasks[0] == tasks[1]) == (play(environment, tasks[0], other.actions).env_reward == 1)


@pytest.mark.parametrize("name", ["game24", "webshop", "scienceworld", "toy"])
def test_what_is_asked_of_environments_of_strangers_holds_for_ours(name):
    try:
        entry = environment_entry(name)
    except ConfigError as error:
        pytest.skip(str(error))
    tasks = entry.evaluation_tasks(entry.default_evaluation)[:3]
    episodes = 2 if name == "scienceworld" else 5
    checked = list(check_environment(entry.make, tasks, seed=0, episodes=episodes, max_steps=60, timeout_s=120.0))
    assert len(checked) > 5
    assert [in_words(one.finding) for one in checked if one.finding] == []


@every_environment
def test_rules_and_examples_are_short_and_the_examples_succeed(name):
    environment = MEMBERS[name][0]()
    assert 0 < len(environment.rules) < 400
    assert environment.examples
    assert all(example.env_reward == 1 for example in environment.examples)
    environment.close()
