import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.rewards.conversation import Turn, as_trajectory, as_turns
from armap.rewards.rendering import render, renderings
from armap.types import Action, ImageRef, Observation, Step, Task, Trajectory

# Words that could be taken for the form around them, and letters of every kind.
TEXT = st.lists(
    st.sampled_from(
        ["Action: ", "Thought: ", "Task: ", "\n", "\r\n", " ", "take", "Was the task done?", "\u2028", "🧑‍🚀"]
    )
    | st.text(max_size=3),
    max_size=6,
).map("".join)
IMAGES = st.none() | st.integers(0, 3).map(lambda i: ImageRef(sha256=f"{i:064}", width_px=4, height_px=4))
OBSERVATIONS = st.builds(Observation, text=TEXT, image=IMAGES)
STEPS = st.builds(Step, observation=OBSERVATIONS, action=st.builds(Action, text=TEXT, thought=TEXT))
TRAJECTORIES = st.builds(
    Trajectory,
    id=st.just("conversation"),
    task=st.builds(Task, id=st.just("task"), env=st.just("any"), instruction=TEXT),
    steps=st.lists(STEPS, max_size=4).map(tuple),
    final_observation=OBSERVATIONS,
    stop_reason=st.just("terminated"),
)
SHELF = ImageRef(sha256="0" * 64, width_px=4, height_px=4)


@given(TRAJECTORIES)
def test_a_trajectory_comes_back_from_a_conversation_with_all_that_a_reward_model_reads(trajectory):
    again = as_trajectory(as_turns(trajectory))
    assert again.task.instruction == trajectory.task.instruction
    assert (again.steps, again.final_observation) == (trajectory.steps, trajectory.final_observation)
    assert list(renderings(again, max_images=None)) == list(renderings(trajectory, max_images=None))


@given(TRAJECTORIES)
def test_the_texts_of_a_conversation_are_the_lines_of_the_rendering(trajectory):
    said, again = trajectory.task.instruction, "(the task)"

    def rendered(turn: Turn, text: str) -> str:
        # An instruction that is observed again is not rendered again, where that is shorter.
        return text.replace(said, again) if turn.role == "user" and len(said) > len(again) else text

    lines = [rendered(turn, text) for turn in as_turns(trajectory) for text in turn.texts]
    assert render(trajectory) == "\n".join([f"Task: {lines[0]}", *lines[1:], "Was the task done?"])


def test_a_question_and_an_answer_are_a_trajectory():
    asked = as_trajectory([Turn("user", ("What is 2 + 2?",)), Turn("assistant", ("It is 4.",))])
    assert render(asked) == "Task: What is 2 + 2?\n\nAction: It is 4.\n\nWas the task done?"


def test_what_the_world_says_between_two_actions_is_one_observation():
    turns = [
        Turn("system", ("Help.",)),
        Turn("user", ("Find the cup.",)),
        Turn("tool", ("A shelf.",), (SHELF,)),
        Turn("assistant", ("Thought: Hm.\nAction: look",)),
        Turn("assistant", ("Action: take",)),
    ]
    found = as_trajectory(turns)
    assert [step.observation.text for step in found.steps] == ["Find the cup.\nA shelf.", ""]
    assert found.steps[0].observation.image == SHELF
    assert [step.action for step in found.steps] == [Action(text="look", thought="Hm."), Action(text="take")]
    assert found.final_observation == Observation(text="")


def test_a_conversation_may_begin_with_an_action():
    assert as_trajectory([Turn("assistant", ("go",))]).steps[0].action.text == "go"


def test_trajectories_of_one_task_are_of_one_task_again():
    tasks = {as_trajectory([Turn("system", (text,)), Turn("user", (f"{i}",))]).task.id for i, text in enumerate("aab")}
    assert len(tasks) == 2


def test_a_picture_beside_the_task_is_what_is_seen_first():
    found = as_trajectory([Turn("user", ("What is this?",), (SHELF,)), Turn("assistant", ("A shelf.",))])
    assert found.task.instruction == "What is this?"
    assert found.steps[0].observation == Observation(text="", image=SHELF)


def test_pictures_where_a_trajectory_has_none_are_refused():
    turns = [Turn("system", ("Find it.",)), Turn("user", ("Shelf.",)), Turn("assistant", ("take",), (SHELF,))]
    with pytest.raises(ValueError, match="no pictures"):
        as_trajectory(turns)


@given(TRAJECTORIES)
def test_messages_of_one_text_each_are_read_as_the_trajectory_they_were_written_from(trajectory):
    flat = [turn._replace(texts=("\n".join(turn.texts),)) for turn in as_turns(trajectory)]
    assert list(renderings(as_trajectory(flat), max_images=None)) == list(renderings(trajectory, max_images=None))


def test_two_pictures_in_one_observation_are_refused():
    with pytest.raises(ValueError, match="one at most"):
        as_trajectory([Turn("system", ()), Turn("user", (), (SHELF,)), Turn("user", (), (SHELF,))])
