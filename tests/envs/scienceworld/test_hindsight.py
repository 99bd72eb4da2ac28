import pytest

from armap.envs.scienceworld.hindsight import deeds, instruction


@pytest.mark.parametrize(
    ("answers", "done"),
    [
        ([], ()),
        (["This room is called the hallway.", "No known action matches that input."], ()),
        (["You focus on the dove egg."], ("focus on the dove egg",)),
        (
            ["You focus on the axe.", "You focus on the dove.", "You focus on the axe. "],
            ("focus on the dove", "focus on the axe"),
        ),
        (
            ["You move the dove to the inventory.", "You move the dove to the red box."],
            ("move the dove to the red box",),
        ),
        (["You move the dove to the red box.", "You move the dove to the inventory."], ()),
        (
            ["You pour the contents of the wood cup into the jug."],
            ("pour the contents of the wood cup into the jug",),
        ),
        (
            ["You move the cup to the sink.", "You pour the contents of the cup into the metal pot."],
            ("move the cup to the sink", "pour the contents of the cup into the metal pot"),
        ),
    ],
)
def test_deeds_are_what_was_focused_on_and_where_things_were_left(answers, done):
    assert deeds(answers) == done


def test_the_instruction_asks_for_the_deeds_in_their_order():
    asked = instruction(("focus on the dove", "move the dove to the red box"))
    assert asked == "Your task is to focus on the dove, and then move the dove to the red box."
