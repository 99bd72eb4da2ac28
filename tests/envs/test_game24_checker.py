import ast
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.envs.game24 import Game24, solves
from armap.types import Task

HOSTILE_NUMBERS = (1, 2, 3, 4)


def hostile_answers() -> list[str]:
    lines = Path(__file__).with_name("hostile_answers.txt").read_text("ascii").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith('"')]
    return [
        *answers,
        "(" * 100_000 + "1*2*3*4" + ")" * 100_000,
        "(" * 100_000,
        ")" * 100_000,
        "(1*2*3*4)" * 100_000,
        "1*2*3*4" + " " * 1_000_000,
        "1*2*3*4" + "*1" * 500_000,
        "1" * 1_000_000,
        "9" * 1_000_000 + "*1*2*3*4",
        "1*2*3*4" + "\0" * 1_000_000,
        "-" * 1_000_000 + "1*2*3*4",
        "1*2*3*4=" + "2" * 1_000_000,
        "Answer:" * 150_000 + "1*2*3*4",
        "１" * 1_000_000,
        "()" * 90 + "1*2*3*4",
        "(" * 193 + "1*2*3*4",
        "1" * 192 + "*2*3*4",
        "1*2*3*4=" + "2" * 192,
    ]


@pytest.mark.parametrize(
    "answer",
    [
        "1*2*3*4",
        "(1 + 3) * (2 + 4)",
        "Answer: (1 + 3) * (2 + 4) = 24",
        "\t( 1+3 )\t*( (2+4) ) =24 \n",
        "1 × 2 × 3 × 4",
        "4 ÷ 1 × 3 × 2",
        "(1 + 2 + 3) × 4 = 48/2",
        "(" * 90 + "1*2*3*4" + ")" * 90,
    ],
)
def test_ordinary_spellings_of_a_right_answer_are_accepted(answer):
    assert solves((1, 2, 3, 4), answer)


def test_intermediate_fractions_are_exact():
    assert solves((3, 3, 8, 8), "8 / (3 - 8 / 3)")
    assert solves((1, 5, 5, 5), "5 * (5 − 1/5)")
    assert not solves((1, 3, 3, 7), "(7 + 1/3) * 3 + 1")


def test_other_targets_and_repeated_numbers_are_checked_exactly():
    assert solves((2, 3), "2 / 3 = 2/3", Fraction(2, 3))
    assert solves((2, 3), "2 - 3 = -1", -1)
    assert solves((6, 6, 6, 6), "6 + 6 + 6 + 6")
    assert not solves((6, 6, 6, 6), "6 * 6 - 6 - 6 + 0")
    assert not solves((6, 6, 6, 6), "(6 + 6 / 6) * 6")
    assert not solves((2, 3), "2 / 3", Fraction(2, 3) + Fraction(1, 10**30))
    assert not solves((2, 3), "2 / 3 = 24", Fraction(2, 3))


def test_no_hostile_answer_is_accepted_or_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = hostile_answers()
    assert len(set(answers)) == len(answers) >= 200
    assert [answer for answer in answers if solves(HOSTILE_NUMBERS, answer)] == []
    assert list(tmp_path.iterdir()) == []


def test_hostile_answers_are_harmless_as_actions_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = Game24()
    config = {"numbers": list(HOSTILE_NUMBERS), "target": "24"}
    for answer in hostile_answers():
        environment.reset(Task(id="hostile", env="game24", instruction="", config=config))
        result = environment.step(answer)
        assert result.env_reward == 0
        assert len(result.observation.text) < 300
    assert list(tmp_path.iterdir()) == []


Tree = int | tuple["Tree", str, "Tree"]
BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}


def trees(numbers: list[int], rng: Random) -> Tree:
    if len(numbers) == 1:
        return numbers[0]
    cut = rng.randrange(1, len(numbers))
    return trees(numbers[:cut], rng), rng.choice("+-*/"), trees(numbers[cut:], rng)


def value(tree: Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    left, operator, right = value(tree[0]), tree[1], value(tree[2])
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[operator](right)


def written(tree: Tree, *, sparing: bool) -> str:
    if isinstance(tree, int):
        return str(tree)
    left, operator, right = tree
    sides = []
    for side, needs in ((left, lambda inner: inner < BINDS[operator]), (right, lambda inner: inner <= BINDS[operator])):
        text = written(side, sparing=sparing)
        needed = isinstance(side, tuple) and (not sparing or needs(BINDS[side[1]]))
        sides.append(f"({text})" if needed else text)
    return f"{sides[0]} {operator} {sides[1]}"


numbers_lists = st.lists(st.integers(1, 13), min_size=2, max_size=6)


@given(numbers_lists, st.randoms(use_true_random=False), st.booleans())
def test_every_expression_has_the_value_that_rational_arithmetic_gives(numbers, rng, sparing):
    tree = trees(numbers, rng)
    answer = written(tree, sparing=sparing)
    try:
        target = value(tree)
    except ZeroDivisionError:
        assert not any(solves(numbers, answer, target) for target in (0, 1, 24))
        return
    assert solves(numbers, answer, target)
    assert solves(sorted(numbers), f"Answer: {answer} = {target}", target)
    assert not solves(numbers, answer, target + 1)
    assert not solves([*numbers, 1], answer, target)
    assert not solves(numbers[1:], answer, target)


def judged_by_the_python_parser(numbers: list[int], answer: str, target: Fraction) -> bool:
    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            used.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp):
            left, right = walk(node.left), walk(node.right)
            operators = {
                ast.Add: left.__add__,
                ast.Sub: left.__sub__,
                ast.Mult: left.__mul__,
                ast.Div: left.__truediv__,
            }
            if type(node.op) in operators:
                return operators[type(node.op)](right)
        raise ValueError("not a legal expression")

    used: list[int] = []
    try:
        result = walk(ast.parse(answer.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return Counter(used) == Counter(numbers) and result == target


@given(numbers_lists, st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_damaged_expression_is_accepted_only_if_it_still_is_one(numbers, rng, damages):
    tree = trees(numbers, rng)
    answer = list(written(tree, sparing=rng.random() < 0.5))
    for _ in range(damages):
        at = rng.randrange(len(answer) + 1)
        if rng.random() < 0.4:
            del answer[at : at + 1]
        else:
            answer[at : at + rng.randrange(2)] = rng.choice("0123456789+-*/() .,%~!")
    text = "".join(answer)
    try:
        target = value(tree)
    except ZeroDivisionError:
        target = Fraction(24)
    assert solves(numbers, text, target) == judged_by_the_python_parser(numbers, text, target)


@given(st.text(max_size=300))
def test_arbitrary_text_is_refused_without_an_exception(answer):
    assert not solves((3, 3, 8, 8), answer)
