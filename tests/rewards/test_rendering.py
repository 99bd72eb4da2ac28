import itertools
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.rewards.rendering import CLOSING_QUESTION, Limits, pieces, render, renderings
from armap.types import Action, ImageRef, Observation, Step, Task, Trajectory

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


@pytest.mark.parametrize(
    ("instruction", "seen", "rendered"),
    [
        ("Buy me a blue hat.", "Search for: Buy me a blue hat. [Go]", "Search for: (the task) [Go]"),
        ("Go on.", "It says: Go on.", "It says: Go on."),
        ("", "Nothing.", "Nothing."),
    ],
)
def test_an_instruction_that_is_seen_again_is_not_said_again_where_that_is_shorter(instruction, seen, rendered):
    page = Observation(text=seen)
    played = trajectory("").model_copy(
        update={
            "task": Task(id="t", env="e", instruction=instruction),
            "steps": (Step(observation=page, action=Action(text="go")),),
            "final_observation": page,
        }
    )
    assert render(played).splitlines() == [
        f"Task: {instruction}", rendered, "Action: go", rendered, CLOSING_QUESTION,
    ]  # fmt: skip


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
            "steps": tuple(replace(step, env_reward=1.0) for step in played.steps),
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
    assert [len(text) for text in texts[:-3]] == sorted((len(text) for text in texts[:-3]), reverse=True)
    for text in texts:
        lines = text.splitlines()
        assert (lines[0], lines[-1]) == ("Task: Do it.", CLOSING_QUESTION)
    with_all_steps = [text for text in texts if "left out" not in text]
    for text in with_all_steps:
        assert [line for line in text.splitlines() if line.startswith("Action")] == [
            f"Action: do {i}" for i in range(3)
        ]
    a_third = len(with_all_steps) // 3
    assert all(text.splitlines()[5] == steps[2].observation.text for text in with_all_steps[:a_third])
    assert all(text.splitlines()[1::2] == ["...", "...", "...", "Done."] for text in with_all_steps[2 * a_third :][:4])
    assert with_all_steps[-1].splitlines()[1::2] == ["...", "...", "...", "..."]


def test_the_earliest_steps_are_left_out_where_nothing_else_helps_and_a_line_says_how_many():
    steps = tuple(Step(observation=Observation(text="seen"), action=Action(text=f"do {i}")) for i in range(5))
    *_, two_left, one_left, none_left = renderings(trajectory().model_copy(update={"steps": steps}), max_images=0)
    assert two_left == (
        f"Task: Do it.\n(steps left out: 3)\n...\nAction: do 3\n...\nAction: do 4\n...\n{CLOSING_QUESTION}",
    )
    assert one_left == (f"Task: Do it.\n(steps left out: 4)\n...\nAction: do 4\n...\n{CLOSING_QUESTION}",)
    assert none_left == (f"Task: Do it.\n(steps left out: 5)\n...\n{CLOSING_QUESTION}",)


# Pictures


def pictured(*there: bool) -> tuple[Trajectory, list[ImageRef]]:
    """Return a trajectory with a picture at some of its observations, and those pictures."""
    images = [ImageRef(sha256=f"{i:064x}", width_px=8, height_px=8) if shown else None for i, shown in enumerate(there)]
    plain = trajectory(*[""] * (len(there) - 1))
    seen = [step.observation for step in plain.steps] + [plain.final_observation]
    seen = [one.model_copy(update={"image": image}) for one, image in zip(seen, images, strict=True)]
    steps = [replace(step, observation=one) for step, one in zip(plain.steps, seen, strict=False)]
    return (
        plain.model_copy(update={"steps": tuple(steps), "final_observation": seen[-1]}),
        [image for image in images if image],
    )


def test_a_picture_is_a_line_of_its_own_before_the_text_of_its_observation():
    shown, (first, last) = pictured(True, False, True)
    assert pieces(shown) == (
        "Task: Do it.\n",
        first,
        "\nSeen 0.\nAction: do 0\nSeen 1.\nAction: do 1\n",
        last,
        f"\nDone.\n{CLOSING_QUESTION}",
    )


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.none() | st.integers(0, 7))
def test_the_last_pictures_are_kept_and_the_words_are_those_without_pictures(there, most):
    shown, images = pictured(*there)
    found = pieces(shown, Limits(images=most))
    kept = images if most is None else images[max(0, len(images) - most) :]
    assert [piece for piece in found if isinstance(piece, ImageRef)] == kept
    words = "".join("" if isinstance(piece, ImageRef) else piece for piece in found)
    assert words.replace("\n\n", "\n") == render(shown) == "".join(pieces(shown, Limits(images=0)))
    assert not any(isinstance(one, str) and isinstance(other, str) for one, other in itertools.pairwise(found))


def test_shorter_renderings_lose_pictures_after_words_the_earliest_first():
    shown, images = pictured(True, True, False, True)
    counts = [sum(isinstance(piece, ImageRef) for piece in found) for found in renderings(shown, max_images=2)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (2, 0)
    *_, one_left = (found for found in renderings(shown, max_images=2) if len(found) > 1)
    assert images[-1] in one_left
