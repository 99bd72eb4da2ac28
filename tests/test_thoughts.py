import pytest

from armap.thoughts import opened_by, without_thought


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
        ("<thought>\nHm.\n</thought>leave", "leave"),
        ("[THINK]Hm.[/THINK]leave", "leave"),
        # Some think more than once.
        ("<think>Hm.</think>\nAction: take\n<think>No.</think>\nleave", "leave"),
        ("Ends it </think> here?\n</think>\nleave", "leave"),
    ],
)
def test_what_was_thought_is_no_part_of_the_reply(reply, said):
    assert without_thought(reply) == said
    # Its thought had an end before it was cut short.
    assert without_thought(reply, cut=True) == said


@pytest.mark.parametrize(
    "reply",
    [
        "<think>",
        "<think>\nI may answer\nAction: leave",
        "\n<thinking>\nHm.\n</think",
        "[THINK]Hm.",
        "<think>Hm.</think>\n<think>Or",
    ],
)
def test_a_thought_without_an_end_is_no_reply(reply):
    assert without_thought(reply) is None


@pytest.mark.parametrize("reply", ["", " leave ", "I think. <b>leave</b>", "Action: type[1][<think>]", "<thin"])
def test_a_reply_without_a_thought_stays_as_it_is(reply):
    assert without_thought(reply) == reply


def test_what_was_cut_short_in_a_thought_that_the_prompt_began_is_no_reply():
    assert without_thought("Okay, let me see.\nThe red cube", cut=True) is None


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [("user: Go.\nassistant: <think>\n", "<think>"), ("assistant: <think>\n\n</think>\n\n", ""), ("assistant:", "")],
)
def test_a_prompt_may_begin_the_thought_of_who_answers_it(prompt, opened):
    assert opened_by(prompt) == opened
