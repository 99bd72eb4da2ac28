import pytest

from armap.envs.scienceworld.texts import same_text

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
