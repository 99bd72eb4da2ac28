from random import Random

from hypothesis import given
from hypothesis import strategies as st

from armap.rewards.rendering import CLOSING_QUESTION, render, renderings
from armap.types import Action, Observation, Step, Task, Trajectory

from .toy_pairs import random_play, toy_pairs, toy_trajectories


def trajectory(*thoughts: str) -> Trajectory:
    steps = tuple(
        Step(observation=Observation(text=f"Seen {i}."), action=Action(text=f"do {i}", thought=thought))
        for i, thought in enumerate(thoughts)
    )
    return Trajectory(
        id="x",
        task=Task(id="t", env="e", instruction="Do it."),
        steps=steps,
        final_observation=Observation(text="Done."),
        stop_reason="terminated",
    )


def test_a_rendering_reads_as_documented():
    assert render(trajectory("", "I try again")).splitlines() == [
        "Task: Do it.",
        "Seen 0.",
        "Action: do 0",
        "Seen 1.",
        "Thought: I try again",
        "Action: do 1",
        "Done.",
        CLOSING_QUESTION,
    ]


def test_a_trajectory_without_steps_is_its_task_and_what_is_seen():
    assert render(trajectory()) == f"Task: Do it.\nDone.\n{CLOSING_QUESTION}"


@given(st.integers(0, 1000))
def test_trajectories_of_one_task_are_rendered_alike_up_to_where_they_part(seed):
    (pair,) = toy_pairs(1, seed)
    lines = [f"Task: {pair.task.instruction}"]
    for one, other in zip(pair.chosen.steps, pair.rejected.steps, strict=False):
        lines.append(one.observation.text)
        if one.action != other.action:
            break
        lines.append(f"Action: {one.action.text}")
    for side in (pair.chosen, pair.rejected):
        assert render(side).startswith("\n".join(lines))


def test_what_the_environment_pays_reports_or_calls_a_trajectory_is_not_shown():
    (played,) = toy_trajectories(1, 0)
    renamed = played.model_copy(
        update={
            "id": "winner",
            "stop_reason": "truncated",
            "metrics": {"price": 3.0},
            "steps": tuple(step.model_copy(update={"env_reward": 1.0}) for step in played.steps),
        }
    )
    assert render(renamed) == render(played)


@given(st.integers(0, 200), st.integers(0, 200))
def test_different_plays_of_one_task_are_rendered_differently(seed, other):
    (first,) = toy_trajectories(1, seed)
    second = random_play(first.task, Random(other))
    assert (render(first) == render(second)) == (first.actions == second.actions)


def test_shorter_renderings_lose_earlier_observations_only():
    steps = tuple(
        Step(observation=Observation(text=f"Seen {i}, {'and more ' * 300}"), action=Action(text=f"do {i}"))
        for i in range(3)
    )
    long = trajectory().model_copy(update={"steps": steps})
    texts = ["".join(pieces) for pieces in renderings(long, max_images=0)]
    assert texts[0] == render(long)
    assert [len(text) for text in texts] == sorted((len(text) for text in texts), reverse=True)
    for text in texts:
        lines = text.splitlines()
        assert lines[0] == "Task: Do it."
        assert [line for line in lines if line.startswith("Action")] == [f"Action: do {i}" for i in range(3)]
        assert lines[-4:] == [steps[2].observation.text, "Action: do 2", "Done.", CLOSING_QUESTION]
    assert texts[-1].splitlines()[1] == "..."
