from collections.abc import Sequence

from armap.envs.scienceworld.offers import Memory, in_words, offered_actions
from armap.envs.scienceworld.simulator import Possible

KITCHEN = """This room is called the kitchen. In it, you see:
\tthe agent
\ta cupboard. The cupboard door is closed.
\ta fridge. The fridge door is open. In the fridge is: a tin cup (containing orange juice).
\ta metal pot (containing a substance called water)
\ta table. On the table is: a battery, a red wire.
\ta wood cup (containing red paint)
\ta wood cup (containing blue paint)
You also see:
\tA door to the hallway (that is open)"""
"""What the agent reads."""
THINGS: dict[str, tuple[str, ...]] = {
    "agent": ("agent", "self"),
    "anode in battery": ("terminal", "anode", "anode on battery", "battery anode"),
    "battery": ("generator", "battery"),
    "cup containing blue paint": ("cup", "cup containing blue paint", "wood cup", "wood cup containing blue paint"),
    "cup containing orange juice": ("cup", "cup containing orange juice", "tin cup"),
    "cupboard": ("cupboard", "wood cupboard"),
    "door to hallway": (),
    "drain": (),
    "fridge": ("fridge",),
    "glass cup": ("cup", "glass cup", "glass cup containing nothing"),
    "hallway": ("room", "hallway"),
    "jug in cupboard": ("jug",),
    "kitchen": ("room", "kitchen"),
    "metal pot": ("pot", "metal pot", "metal pot containing water"),
    "orange juice in cup": ("substance", "orange juice"),
    "paint on wood cup": ("paint", "red paint"),
    "substance in metal pot": ("substance", "water"),
    "table": ("table", "wood table"),
    "terminal 1 in component": ("terminal", "terminal 1", "terminal 1 on red wire", "red wire terminal 1"),
    "red wire": ("component", "red wire"),
    "wood cup containing red paint": ("cup", "cup containing red paint", "wood cup", "wood cup containing red paint"),
}
"""What the simulator lists there, and how it calls that: a glass cup and a jug are shut away."""
CONTAINERS = ("cup containing blue paint", "cup containing orange juice", "fridge", "glass cup", "metal pot", "table")
CONTAINERS += ("wood cup containing red paint",)


def listed(*more: str, rooms: Sequence[str] = ("hallway", "kitchen")) -> Possible:
    actions = [f"{verb} {thing}" for verb in ("eat", "focus on", "look at") for thing in THINGS]
    actions += [f"pick up {thing}" for thing in THINGS if thing != "fridge"]
    actions += [f"{verb} {thing}" for verb in ("look in", "mix") for thing in CONTAINERS]
    actions += [f"connect {a} to {b}" for a in THINGS for b in THINGS if a != b]
    actions += [f"teleport to {room}" for room in rooms]
    actions += ["inventory", "look around", "open cupboard", "close door to hallway", "task", "wait", "wait1", *more]
    return Possible(tuple(sorted(actions)), THINGS)


def offers(*more: str) -> set[str]:
    return set(offered_actions(listed(*more), in_words(KITCHEN)))


def done_with(verb: str, actions: set[str]) -> set[str]:
    return {action.removeprefix(f"{verb} ") for action in actions if action.startswith(f"{verb} ")}


def test_things_are_called_as_they_were_read_of_and_what_is_shut_away_is_not_offered():
    assert done_with("focus on", offers()) == {
        "battery",
        "fridge",
        "metal pot",
        "orange juice",
        "red paint",
        "red wire",
        "tin cup",
        "water",
        "wood cup containing blue paint",
        "wood cup containing red paint",
    }


def test_what_has_no_use_is_not_offered():
    offered = offers()
    assert {action.split()[0] for action in offered} == {
        *("close", "connect", "focus", "inventory", "look", "mix", "open", "pick", "teleport", "wait", "wait1")
    }
    assert done_with("look", offered) == {"around"}
    assert done_with("pick up", offered) == done_with("focus on", offered) - {"fridge"}
    cups = {"tin cup", "wood cup containing blue paint", "wood cup containing red paint"}
    assert done_with("mix", offered) == {"metal pot", *cups}
    assert done_with("connect", offered) == {
        f"red wire terminal 1 to {end}" for end in ("battery", "battery anode", "orange juice", "red paint", "water")
    }


def test_what_is_held_can_be_moved_poured_and_used():
    held = "metal pot"
    actions = [f"put down {held}", f"move {held} to fridge", f"pour {held} into table", f"move battery to {held}"]
    actions += [f"use {held} on substance in metal pot", f"pour {held} into cup containing blue paint"]
    assert offers(*actions) - offers() == {
        "put down metal pot",
        "move metal pot to fridge",
        "pour metal pot into wood cup containing blue paint",
        "use metal pot on water",
    }


def test_things_of_one_name_are_told_apart_by_where_they_are_if_that_was_read():
    things = {"soil in flower pot 1": ("soil",), "soil in flower pot 2": ("soil",), "soil on plate": ("soil",)}
    possible = Possible(tuple(f"{verb} {thing}" for verb in ("focus on", "look at") for thing in things), things)
    read = in_words("a flower pot 1 (containing soil), a flower pot 2 (containing soil), a table")
    assert offered_actions(possible, read) == (
        "focus on soil in flower pot 1",
        "focus on soil in flower pot 2",
        "focus on soil",
    )


def test_who_cannot_teleport_is_offered_the_doors():
    possible = listed("go to hallway", "open door to hallway", rooms=())
    offered = set(offered_actions(possible, in_words(KITCHEN)))
    assert {"go to hallway", "open door to hallway", "focus on door to hallway"} <= offered


def test_numbers_that_answer_a_question_are_offered_as_they_are():
    possible = Possible(("0", "1", "2"), {})
    assert offered_actions(possible, in_words("Which one?")) == ("0", "1", "2")
    assert offered_actions(possible) == ("0", "1", "2")


HALLWAY = "This room is called the hallway. In it, you see:\n\tthe agent"


def recall(*texts: str, asked: str = "", possible: Possible | None = None) -> Memory:
    memory = Memory(lasting=in_words(asked))
    for text in texts:
        memory = memory.reading(text, possible or listed())
    return memory


def test_in_another_room_only_what_is_carried_or_asked_for_is_known_and_the_rest_is_remembered():
    memory = recall(
        KITCHEN, "You move the red wire to the inventory.", "You teleport to the hallway.", asked="Fill the tin cup."
    )
    assert done_with("focus on", {*memory.offers(listed())}) == {"red wire", "tin cup"}
    memory = memory.reading("You teleport to the kitchen.", listed())
    assert {*memory.offers(listed())} == offers() - {"teleport to kitchen"}


def test_what_was_done_when_the_same_was_possible_is_not_offered_again():
    here, changed = listed(), listed("open fridge")
    memory = recall(KITCHEN).after("focus on battery").reading("You focus on the battery.", here)
    assert offers() - {*memory.offers(here)} == {"focus on battery", "teleport to kitchen"}
    assert "focus on battery" in memory.reading("The fridge shuts.", changed).offers(changed)


def test_there_is_always_something_to_choose_however_often_the_same_question_is_asked():
    which = Possible(("0", "1"), {})
    memory = recall("Which one?", possible=which)
    for number in ("0", "1"):
        memory = memory.after(number).reading("Which one?", which)
    assert memory.offers(which) == ("0", "1")


def test_one_may_wait_until_something_has_changed_or_been_done():
    here, elsewhere, changed = listed(), listed("open door to hallway"), listed("open fridge")
    memory = recall(KITCHEN)
    for count in range(3):
        assert {"wait", "wait1"} <= {*memory.offers(here)}, count
        memory = memory.after("wait1").reading("You decide to wait for 1 iterations.", here)
    memory = memory.after("wait").reading("You decide to wait for 10 iterations.", here)
    assert not {"wait", "wait1"} & {*memory.offers(here)}
    assert {"wait", "wait1"} <= {*memory.reading("The fridge shuts.", changed).offers(changed)}
    memory = memory.after("teleport to hallway").reading(HALLWAY, elsewhere)
    assert not {"wait", "wait1"} & {*memory.offers(elsewhere)}
    memory = memory.after("close door to hallway").reading("The door shuts.", elsewhere)
    assert {"wait", "wait1"} <= {*memory.offers(elsewhere)}
