import pytest

from armap.thoughts import without_thought


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("<think>\nHm.\n</think>\n\nleave", "leave"),
        ("<think>Hm.</think>leave", "leave"),
        (" \n<think>\n\n</think>\n\nAction: leave\n", "Action: leave\n"),
        ("<thinking>\nOne.\n\nTwo.\n</thinking>\nleave\nnow", "leave\nnow"),
        # The chat template has begun it.
        ("Hm.\n</think>\n\nleave", "leave"),
        ("<think>\nHm.\n</think>", ""),
    ],
)
def test_what_was_thought_is_no_part_of_the_reply(reply, said):
    assert without_thought(reply) == said


@pytest.mark.parametrize("reply", ["<think>", "<think>\nI may answer\nAction: leave", "\n<thinking>\nHm.\n</think"])
def test_a_thought_without_an_end_is_no_reply(reply):
    assert without_thought(reply) is None


@pytest.mark.parametrize("reply", ["", " leave ", "I think. <b>leave</b>", "Action: type[1][<think>]", "<thin"])
def test_a_reply_without_a_thought_stays_as_it_is(reply):
    assert without_thought(reply) == reply
