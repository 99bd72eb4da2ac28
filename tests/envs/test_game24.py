from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations, combinations_with_replacement

import pytest

from armap.envs import game24
from armap.envs.game24 import Game24
from armap.envs.play import play
from armap.errors import ConfigError, EnvError
from armap.types import Task


def puzzle(*numbers: int, target: str = "24", **config: object) -> Task:
    return Task(
        id="puzzle", env="game24", instruction="", config={"numbers": list(numbers), "target": target, **config}
    )


def texts(numbers: tuple[int, ...], *actions: str) -> list[str]:
    environment = Game24()
    environment.reset(puzzle(*numbers, step_limit=100))
    return [environment.step(action).observation.text for action in actions]


def test_an_episode_reads_as_documented():
    environment = Game24()
    start = environment.reset(puzzle(10, 4, 13, 6))
    assert start.text == "Numbers left: 4 6 10 13"
    results = [environment.step(action) for action in ("4 + 6", "13 - 10 = 3", "10 * 3")]
    assert [result.observation.text for result in results] == [
        "4 + 6 = 10. Numbers left: 10 10 13",
        "13 - 10 = 3. Numbers left: 3 10",
        "10 * 3 = 30. Result: 30",
    ]
    assert [result.terminated for result in results] == [False, False, True]
    assert [result.env_reward for result in results] == [0, 0, 0]
    assert results[-1].observation.actions is None
    assert not results[-1].truncated


def test_the_last_observation_is_the_same_whether_the_result_was_asked_for_or_not():
    endings = []
    for target in ("24", "17"):
        environment = Game24()
        environment.reset(puzzle(10, 14, target=target))
        endings.append(environment.step("10 + 14"))
    assert endings[0].observation == endings[1].observation
    assert [ending.env_reward for ending in endings] == [1, 0]


@pytest.mark.parametrize(
    ("numbers", "action", "text"),
    [
        ((4, 6, 10, 13), "7 + 4", "Illegal action: 7 is not among the numbers left. Numbers left: 4 6 10 13"),
        ((4, 6, 10, 13), "4 + 4", "Illegal action: 4 is only once among the numbers left. Numbers left: 4 6 10 13"),
        ((4, 6, 10, 13), "4 + 6 = 11", "Illegal action: the stated result is wrong. Numbers left: 4 6 10 13"),
        ((4, 6, 10, 13), "add them", "Illegal action: it cannot be read as `a op b`. Numbers left: 4 6 10 13"),
        ((4, 6, 10, 13), "4 + 6 = ten", "Illegal action: it cannot be read as `a op b`. Numbers left: 4 6 10 13"),
        ((4, 6, 10, 13), "", "Illegal action: it cannot be read as `a op b`. Numbers left: 4 6 10 13"),
        ((0, 5), "5 / 0", "Illegal action: division by zero. Numbers left: 0 5"),
        ((1, 2, 3), "3 / (2 - 1 - 1)", None),
        (
            (4, 6, 10, 13),
            "(4 + 6) * 10",
            "Illegal action: an expression must use every number left exactly once. Numbers left: 4 6 10 13",
        ),
        ((1, 2, 3), "1 / (3 - 2 - 1", None),
    ],
)
def test_an_illegal_action_is_answered_with_its_reason_and_changes_nothing(numbers, action, text):
    (said,) = texts(numbers, action)
    assert said.startswith("Illegal action: ")
    assert said.endswith(f"Numbers left: {' '.join(map(str, numbers))}")
    assert text in (None, said)


@pytest.mark.parametrize(
    ("numbers", "actions", "last"),
    [
        ((2, 3, 8), ["8/3"], "8 / 3 = 8/3. Numbers left: 2 8/3"),
        ((2, 3, 8), ["8/3", "8/3 / 2"], "8/3 / 2 = 4/3. Result: 4/3"),
        ((2, 3, 8), ["8/3", "8/3/2"], "8/3 / 2 = 4/3. Result: 4/3"),
        ((2, 2, 3, 3, 8, 8), ["8/3", "3/2", "8/3/2"], "8/3 / 2 = 4/3. Numbers left: 4/3 3/2 8"),
        ((4, 3, 8), ["3/8", "4/3/8"], "4 / 3/8 = 32/3. Result: 32/3"),
        ((2, 3, 8), ["8/3/2"], "8/3/2 = 4/3. Result: 4/3"),
        ((2, 3, 8), ["2/8", "3*1/4 = 3/4"], "3 * 1/4 = 3/4. Result: 3/4"),
        ((4, 6), ["4 / 6 = 4/6"], "4 / 6 = 2/3. Result: 2/3"),
        ((3, 8, 5), ["3 - 8", "5 - -5"], "5 - -5 = 10. Result: 10"),
        ((3, 8, 5), ["3-8", "-5--5"], "Illegal action: -5 is only once among the numbers left. Numbers left: -5 5"),
        ((3, 8, 5), ["3−8", "-5×5 = −25"], "-5 * 5 = -25. Result: -25"),
    ],
)
def test_fractions_and_negative_numbers_are_read_as_the_numbers_left_suggest(numbers, actions, last):
    assert texts(numbers, *actions)[-1] == last


def test_an_expression_over_all_numbers_left_ends_the_episode():
    assert texts((4, 6, 10, 13), "(10 − 4) × 13 - 6 = 72") == ["(10 - 4) * 13 - 6 = 72. Result: 72"]
    assert texts((4, 6, 10, 13), "4 + 6", "(10 + 10) * 13") == [
        "4 + 6 = 10. Numbers left: 10 10 13",
        "(10 + 10) * 13 = 260. Result: 260",
    ]


def test_an_expression_is_refused_once_a_fraction_is_left():
    assert texts((4, 6, 10, 13), "4 / 6", "2/3 * (10 + 13)")[-1].startswith("Illegal action: it cannot be read")


def test_the_step_limit_cuts_an_episode_off_and_illegal_actions_count():
    environment = Game24()
    environment.reset(puzzle(1, 2, 3, 4))
    results = [environment.step("nonsense") for _ in range(6)]
    assert [result.truncated for result in results] == [False] * 5 + [True]
    assert results[-1].observation.actions is None
    environment.reset(puzzle(1, 2, step_limit=1))
    result = environment.step("1 + 2")
    assert (result.terminated, result.truncated) == (True, False)


def test_legal_actions_are_listed_once_without_division_by_zero():
    assert Game24().reset(puzzle(0, 4, 4)).actions == (
        *("0 + 4", "0 - 4", "4 - 0", "0 * 4", "0 / 4"),
        *("4 + 4", "4 - 4", "4 * 4", "4 / 4"),
    )


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"numbers": [1, 2, 3, 4]},
        {"numbers": [1], "target": "24"},
        {"numbers": [1, 2.5], "target": "24"},
        {"numbers": [1, True], "target": "24"},
        {"numbers": [1, -2], "target": "24"},
        {"numbers": [1, 10_000], "target": "24"},
        {"numbers": [1, 2], "target": "1/0"},
        {"numbers": [1, 2], "target": "2.4e1"},
        {"numbers": [1, 2], "target": "24", "step_limit": 0},
        {"numbers": [1, 2], "target": "24", "steplimit": 3},
    ],
)
def test_a_config_that_is_no_puzzle_is_refused_by_name(config):
    with pytest.raises(EnvError, match="cannot start task 'odd': config"):
        Game24().reset(Task(id="odd", env="game24", instruction="", config=config))


def test_a_target_is_the_same_task_however_it_is_written():
    assert game24.parse_task("4 5 6 10 -> 48/2") == game24.parse_task("10 6 5 4")
    assert game24.parse_task("4 4 -> -0").id == "4 4 -> 0"


def test_hindsight_tasks_are_equal_exactly_when_the_same_number_was_made():
    environment = Game24()
    (task,) = game24.tasks(22, 22, split="test")
    assert task.config["numbers"] == [1, 2, 3, 4]
    made_24 = [
        environment.hindsight_task(play(environment, task, actions))
        for actions in (("1 * 2", "2 * 3", "4 * 6"), ("3 + 5", "1 + 3", "2 + 4", "4 * 6"), ("1 * 2 * 3 * 4",))
    ]
    assert made_24 == [task, task, task]
    made_10 = environment.hindsight_task(play(environment, task, ("1 + 2 + 3 + 4",)))
    assert made_10 == task.model_copy(
        update={
            "id": "1 2 3 4 -> 10",
            "instruction": "Make 10 from the numbers 1 2 3 4.",
            "config": {"numbers": [1, 2, 3, 4], "target": "10"},
        }
    )


def test_an_episode_that_was_cut_off_has_no_hindsight_task():
    environment = Game24()
    (task,) = game24.tasks(22, 22, split="test")
    assert environment.hindsight_task(play(environment, task, ["Result: 24"] * 6)) is None


def test_a_hindsight_task_keeps_the_step_limit_of_its_start():
    environment = Game24()
    trajectory = play(environment, puzzle(1, 2, step_limit=9), [*["nonsense"] * 8, "1 - 2"])
    task = environment.hindsight_task(trajectory)
    assert task is not None
    assert task.config == {"numbers": [1, 2], "target": "-1", "step_limit": 9}


# The tasks


@cache
def reachable(numbers: tuple[int, ...]) -> frozenset[Fraction]:
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0])})
    return frozenset(
        made
        for left, right in splits(numbers)
        for a in reachable(left)
        for b in reachable(right)
        for made in pairs(a, b)
    )


def splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    places = range(len(numbers))
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in combinations(places, size):
            yield tuple(numbers[i] for i in chosen), tuple(numbers[i] for i in places if i not in chosen)


def pairs(a: Fraction, b: Fraction) -> Iterator[Fraction]:
    yield from (a + b, a - b, b - a, a * b)
    if b:
        yield a / b
    if a:
        yield b / a


def can_make_24(numbers: tuple[int, ...]) -> bool:
    def partners(a: Fraction) -> Iterator[Fraction]:
        yield from (24 - a, a - 24, a + 24)
        if a:
            yield from (24 / a, a / 24, a * 24)

    return any(not reachable(right).isdisjoint(partners(a)) for left, right in splits(numbers) for a in reachable(left))


def test_the_ranked_puzzles_are_exactly_those_that_can_make_24():
    ranked = game24.ranked_puzzles()
    solvable = {numbers for numbers in combinations_with_replacement(range(1, 14), 4) if can_make_24(numbers)}
    assert len(ranked) == 1362
    assert set(ranked) == solvable


def test_ranks_are_those_published():
    ranked = game24.ranked_puzzles()
    published = {1: (1, 1, 4, 6), 22: (1, 2, 3, 4), 901: (4, 5, 6, 10), 1000: (4, 9, 10, 13), 1362: (2, 3, 5, 12)}
    assert {rank: ranked[rank - 1] for rank in published} == published


def test_evaluation_tasks_are_one_hundred_with_unique_ids():
    tasks = game24.tasks(*game24.EVALUATION_RANKS, split="test")
    assert len({task.id for task in tasks}) == 100
    assert {task.split for task in tasks} == {"test"}
    assert tasks[0].instruction == "Make 24 from the numbers 4 5 6 10."


@pytest.mark.parametrize("ranks", [(0, 10), (5, 4), (1, 1363)])
def test_ranks_that_do_not_exist_are_refused(ranks):
    with pytest.raises(ConfigError, match="from 1 to 1362"):
        game24.tasks(*ranks, split="train")


def test_training_tasks_share_no_numbers_with_evaluation_or_excluded_tasks():
    excluded = [puzzle(4, 3, 2, 1, target="10"), *game24.tasks(100, 150, split="validation")]
    training = game24.training_tasks(exclude=excluded)
    kept_out = [*excluded, *game24.tasks(*game24.EVALUATION_RANKS, split="test")]
    contents = [tuple(sorted(task.config["numbers"])) for task in training]
    assert not set(contents) & {tuple(sorted(task.config["numbers"])) for task in kept_out}
    assert len(contents) == len(set(contents)) == len({task.id for task in training}) == 1362 - 100 - 52


def test_example_puzzles_are_solved_by_listed_actions_and_are_no_easy_or_evaluation_puzzles():
    withheld = {*game24.ranked_puzzles()[:100], *game24.ranked_puzzles()[900:1000]}
    assert {example.task.config["target"] == "24" for example in Game24.examples} == {True, False}
    for example in Game24.examples:
        assert tuple(example.task.config["numbers"]) not in withheld
        assert example.env_reward == 1
        assert all(step.action.text in step.observation.actions for step in example.steps)
