from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.pipeline.selection import LENGTHS, MOST_TOLD_BY_LENGTH, gives_away, length_tells, select
from armap.types import Action, Observation, PreferencePair, Step, Task, Trajectory


def side(task: Task, *actions: str, seen: str = "A shelf.") -> Trajectory:
    steps = tuple(Step(observation=Observation(text=seen), action=Action(text=text)) for text in actions)
    return Trajectory(
        id="side", task=task, steps=steps, final_observation=Observation(text="The end."), stop_reason="terminated"
    )


def pair(name: str, chosen: list[str], rejected: list[str], instruction: str = "Take the red ball.") -> PreferencePair:
    task = Task(id="t", env="toy", instruction=instruction)
    return PreferencePair(
        id=name,
        task=task,
        chosen=side(task, *chosen),
        rejected=side(task, *rejected),
        source_task_id="t",
        origin="other_outcome",
        instruction_writer="environment",
        verified_by="execution",
    )


def test_equal_pairs_and_pairs_that_differ_in_case_spacing_or_a_word_of_the_instruction_are_kept_once():
    drafts = [
        pair("a", ["take red ball"], ["take big cone"]),
        pair("b", ["take red ball"], ["take big cone"]),
        pair("c", ["Take  Red ball"], ["take big cone"]),
        pair("d", ["take red ball"], ["take big cone"], "Take the red ball!"),
        pair("e", ["take red ball"], ["take big cone"], "Please bring me something that is both round and red."),
        pair("f", ["take red ball"], ["take big cube"]),
    ]
    kept, refused = select(drafts, seed=0)
    assert [one.id for one in kept] == ["a", "e", "f"]
    assert {name: check for name, (check, _) in refused.items()} == dict.fromkeys("bcd", "duplicate")


lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=60)


@given(lengths)
def test_length_tells_at_most_what_it_may_and_nothing_goes_without_need(drawn):
    drafts = [
        pair(f"{i:03}", [f"go {i} {j}" for j in range(a)], [f"stay {i} {j}" for j in range(b)])
        for i, (a, b) in enumerate(drawn)
    ]
    kept, refused = select(drafts, seed=0)
    assert len(kept) + len(refused) == len(drafts)
    assert all(share <= MOST_TOLD_BY_LENGTH + 1e-9 for share in length_tells(kept).values())
    if all(share <= MOST_TOLD_BY_LENGTH for share in length_tells(drafts).values()):
        assert not refused


@given(lengths, st.randoms(use_true_random=False))
def test_the_order_in_which_pairs_were_made_does_not_matter(drawn, rng: Random):
    drafts = [
        pair(f"{i:03}", [f"go {i} {j}" for j in range(a)], [f"stay {i} {j}" for j in range(b)])
        for i, (a, b) in enumerate(drawn)
    ]
    mixed = list(drafts)
    rng.shuffle(mixed)
    assert select(mixed, seed=0) == select(drafts, seed=0)


def test_every_unit_of_length_counts():
    chatty = [pair(f"{i:03}", [f"say {'very ' * 20}much {i}"], [f"say {i}"]) for i in range(20)]
    assert length_tells(chatty) == {"steps": 0.5, "characters": 1.0}
    kept, _ = select(chatty, seed=0)
    assert set(LENGTHS) == {"steps", "characters"}
    assert kept == []


@pytest.mark.parametrize(
    ("instruction", "original", "actions", "told"),
    [
        ("Go and take the blue cube.", "Take something.", ["take blue cube"], False),
        ("Please: take blue cube!", "Take something.", ["take blue cube"], True),
        ("Please TAKE  blue cube", "Take something.", ["take blue cube"], True),
        ("Take blue cube again.", "Take blue cube.", ["take blue cube"], False),
        ("Leave.", "Take something.", ["leave"], False),
        ("Overtake blue cubes.", "Take something.", ["take blue cube"], False),
    ],
)
def test_an_instruction_gives_away_an_action_that_it_names_in_full(instruction, original, actions, told):
    assert gives_away(instruction, original, actions) is told
