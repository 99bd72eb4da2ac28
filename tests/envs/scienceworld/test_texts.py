import pytest

from armap.envs.scienceworld.texts import offered_actions, same_text

KITCHEN = """This room is called the kitchen. In it, you see:
	the agent
	a counter. On the counter is: a bowl (containing a red apple, a banana, an orange), a drawer.
	a glass jar (containing a substance called sodium chloride)
	a thermometer, currently reading a temperature of 10 degrees celsius
You also see:
	A door to the hallway (that is open)
	A door to the outside (that is closed)"""


@pytest.mark.parametrize(
    ("part", "elsewhere"),
    [
        ("a red apple, a banana, an orange", "an orange, a red apple, a banana"),
        (
            "a bowl (containing a red apple, a banana, an orange), a drawer",
            "a drawer, a bowl (containing an orange, a red apple, a banana)",
        ),
        ("	the agent\n	a counter.", "	a counter."),
    ],
)
def test_a_list_in_another_order_says_the_same(part, elsewhere):
    other = KITCHEN.replace(part, elsewhere)
    if "the agent" in part:
        other = other.replace("\n	a glass jar", "\n	the agent\n	a glass jar")
    assert other != KITCHEN
    assert same_text(KITCHEN, other)
    assert same_text(other, KITCHEN)


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("10 degrees", "44 degrees"),
        ("a banana, ", ""),
        ("a banana, ", "a banana, a banana, "),
        (
            "(containing a red apple, a banana, an orange), a drawer",
            "(containing a banana, an orange), a drawer, a red apple",
        ),
        ("outside (that is closed)", "outside (that is open)"),
        ("hallway (that is open)", "hallway (that is closed)"),
        ("a substance called sodium chloride", "nothing"),
        ("called the kitchen", "called the hallway"),
    ],
)
def test_another_state_does_not_say_the_same(part, instead):
    assert part in KITCHEN
    assert not same_text(KITCHEN, KITCHEN.replace(part, instead))


def test_what_is_in_one_container_is_not_in_the_other():
    assert not same_text(
        "a bowl (containing an apple), a cup (containing nothing)",
        "a bowl (containing nothing), a cup (containing an apple)",
    )
    assert not same_text(
        "	a table. On the table is: an apple.\n	a chair. On the chair is: nothing.",
        "	a table. On the table is: nothing.\n	a chair. On the chair is: an apple.",
    )


def test_the_meanings_of_an_ambiguous_action_keep_their_numbers():
    asked = "Which one?\n0:\tpour the cup into the pot\n1:\tpour the cup into the sink"
    assert not same_text(asked, "Which one?\n1:\tpour the cup into the pot\n0:\tpour the cup into the sink")


def test_numbers_that_answer_a_question_are_offered_as_they_are():
    assert offered_actions(["0", "1", "2"]) == ("0", "1", "2")


def test_offered_actions_are_valid_and_leave_out_what_has_no_use():
    things = [
        "agent",
        "air",
        "cup",
        "door to hallway",
        "kitchen",
        "hallway",
        "pot",
        "red wire terminal 1",
        "battery anode",
    ]
    valid = [f"{verb} {thing}" for verb in ("focus on", "look at", "mix", "disconnect", "eat") for thing in things]
    valid += [f"look in {thing}" for thing in ("cup", "pot", "kitchen", "inventory")]
    valid += [f"{verb} {a} {word} {b}" for verb, word in (("move", "to"), ("use", "on"), ("connect", "to"))
              for a in things for b in things if a != b]  # fmt: skip
    valid += ["close door to hallway", "inventory", "look around", "pick up pot", "put down cup", "reset task", "task"]
    valid += ["teleport to hallway", "teleport to kitchen", "wait", "wait1"]
    offered = offered_actions(valid)
    assert set(offered) < set(valid)
    assert len(offered) < len(valid) / 5
    assert {"close door to hallway", "focus on pot", "move cup to pot", "mix cup", "pick up pot", "put down cup"} <= {
        *offered
    }
    assert {"use cup on pot", "connect red wire terminal 1 to battery anode", "teleport to hallway"} <= {*offered}
    assert not {"move pot to cup", "use pot on cup", "move cup to kitchen", "focus on kitchen", "look at air"} & {
        *offered
    }
    assert not {"connect cup to pot", "connect battery anode to red wire terminal 1", "eat cup", "task"} & {*offered}


def test_who_cannot_teleport_is_offered_the_doors():
    offered = offered_actions(["go to hallway", "look at door to hallway", "open door to hallway", "look at hallway"])
    assert offered == ("go to hallway", "look at door to hallway", "open door to hallway", "look at hallway")
