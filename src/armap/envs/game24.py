"""The Game of 24: make a target from a few numbers, each used once, with + - * and /.

Everything is exact: values are rationals, and answers are read by a parser of our own that knows nothing but numbers,
four operators and parentheses, so a text written by a language model is never evaluated as anything else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from importlib import resources
from itertools import combinations
from typing import Annotated, ClassVar

from pydantic import Field, JsonValue

from armap.envs.play import play
from armap.envs.task_config import read_config
from armap.errors import ConfigError, EnvError
from armap.prompts import load_prompt
from armap.protocols import StepResult
from armap.types import Observation, Record, Task, Trajectory

EVALUATION_RANKS = (901, 1000)
"""First and last rank of the puzzles kept for evaluation. Source: Tree of Thoughts, section 4.1."""

_MAX_CHARS = 200
"""Longest text that is read at all; an expression over six numbers of four digits stays well below it."""
_BLANK = " \t"
_MARGIN = " \t\r\n"

_SIGNED = r"(-?(?:0|[1-9][0-9]{0,39}))(?:/([1-9][0-9]{0,39}))?"
_NUMBER = re.compile(_SIGNED)
_RESULT = re.compile(rf"Result: ({_SIGNED})\Z")
# Operands and operators in turn; whether the parentheses match is left to `_value`.
_EXPRESSION = re.compile(r"[( \t]*[0-9]+[) \t]*(?:[-+*/][( \t]*[0-9]+[) \t]*)*")
_DIGITS = re.compile(r"[0-9]+")
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_BINDS = {"(": 0, ")": 1, "+": 2, "-": 2, "*": 3, "/": 3}

_UNREADABLE = "it cannot be read as `a op b`"


class _Illegal(Exception):
    """An answer or action that breaks the rules; the message is the reason shown to the agent."""


def solves(numbers: Sequence[int], answer: str, target: Fraction | int = 24) -> bool:
    """Say whether `answer` makes `target` from exactly `numbers`, each used once.

    An answer is an expression of whole numbers, + - * / (or × ÷ −) and parentheses, at most 200 characters, with
    spaces or tabs anywhere between them. `Answer:` may stand before it, and `= 24` (the target) behind it. Anything
    else, a sign before a number or a leading zero included, is no answer. Never raises, whatever `answer` contains.
    """
    if len(answer) > _MAX_CHARS:
        return False
    expression, equals, stated = _plain(answer).removeprefix("Answer:").partition("=")
    if sorted(_DIGITS.findall(expression)) != sorted(map(str, numbers)):
        return False
    try:
        numerator, denominator = _value(expression)
    except _Illegal:
        return False
    if numerator * target.denominator != target.numerator * denominator:
        return False
    return not equals or _states(stated, target)


def _plain(text: str) -> str:
    return text.strip(_MARGIN).replace("×", "*").replace("÷", "/").replace("−", "-")


def _states(stated: str, value: Fraction | int) -> bool:
    number = _NUMBER.fullmatch(stated.strip(_BLANK))
    return number is not None and int(number[1]) * value.denominator == int(number[2] or 1) * value.numerator


def _value(expression: str) -> tuple[int, int]:
    """Return numerator and denominator, not reduced, of an expression of at most `_MAX_CHARS` characters.

    Pairs of integers and a stack instead of `Fraction` and recursion: answers are checked by the thousand, and no
    depth of parentheses can overflow anything.
    """
    if not _EXPRESSION.fullmatch(expression):
        raise _Illegal(_UNREADABLE)
    values: list[tuple[int, int]] = []
    waiting = ["("]
    for part in [*_TOKEN.findall(expression), ")"]:
        if part not in _BINDS:
            values.append((int(part), 1))
            continue
        if part != "(":
            while waiting and _BINDS[waiting[-1]] >= _BINDS[part]:
                right = values.pop()
                values.append(_combine(values.pop(), waiting.pop(), right))
        if part != ")":
            waiting.append(part)
        elif waiting:
            waiting.pop()
        else:
            raise _Illegal(_UNREADABLE)
    if waiting:
        raise _Illegal(_UNREADABLE)
    return values.pop()


def _combine(a: tuple[int, int], operator: str, b: tuple[int, int]) -> tuple[int, int]:
    if operator == "+":
        return a[0] * b[1] + b[0] * a[1], a[1] * b[1]
    if operator == "-":
        return a[0] * b[1] - b[0] * a[1], a[1] * b[1]
    if operator == "*":
        return a[0] * b[0], a[1] * b[1]
    if b[0] == 0:
        raise _Illegal("division by zero")
    return a[0] * b[1], a[1] * b[0]


class _Puzzle(Record):
    """What `Task.config` must hold."""

    numbers: list[Annotated[int, Field(strict=True, ge=0, le=9999)]] = Field(min_length=2, max_length=6)
    """The numbers to start from, in any order."""
    target: str = Field(pattern=rf"^{_SIGNED}$")
    """The number to make, such as `24` or `-8/3`."""
    step_limit: int = Field(default=6, strict=True, ge=1)
    """Actions, illegal ones included, after which the episode is cut off."""


def _puzzle(task: Task) -> _Puzzle:
    advice = 'a config looks like {"numbers": [3, 6, 7, 8], "target": "24"}'
    return read_config(task, _Puzzle, env="game24", advice=advice)


class Game24:
    """The Game of 24 as an environment in which one action combines two of the numbers left.

    `Task.config` holds `numbers` (two to six integers from 0 to 9999), `target` (a rational as text) and, where the
    default of 6 does not suit, `step_limit`.

    An action is `a op b`, with `= c` behind it or not; c must then be right. `8/3` is the number if it is among those
    left and the division otherwise. As long as the numbers left are whole and not negative, one expression over all
    of them is an action too and ends the episode. The last observation gives the result and never says whether it was
    asked for.
    """

    inline: ClassVar[bool] = True
    """A step is quick and never hangs."""
    rules: ClassVar[str] = load_prompt("act_game24")
    """What an action is, for the policy's prompt."""
    examples: ClassVar[tuple[Trajectory, ...]]
    """Solved puzzles, for the policy's prompt; none is among the evaluation puzzles."""

    def __init__(self) -> None:
        self._left: list[Fraction] = []
        self._target = Fraction()
        self._steps_left = 0

    def reset(self, task: Task) -> Observation:
        """Put the task's numbers on the table.

        Raises:
            EnvError: the config is not that of a puzzle.
        """
        puzzle = _puzzle(task)
        self._left = sorted(map(Fraction, puzzle.numbers))
        self._target = Fraction(puzzle.target)
        self._steps_left = puzzle.step_limit
        return Observation(text=self._standing(), actions=_legal_actions(self._left))

    def step(self, action: str) -> StepResult:
        """Combine two numbers, or all that are left; an illegal action changes nothing but costs a step.

        Raises:
            EnvError: the episode is over, or none was started.
        """
        if self._over():
            raise EnvError("game24 has no episode to go on with: call reset() before step()")
        self._steps_left -= 1
        try:
            said, self._left = _obey(self._left, action)
        except _Illegal as reason:
            said = f"Illegal action: {reason}"
        terminated = len(self._left) == 1
        observation = Observation(
            text=f"{said}. {self._standing()}", actions=None if self._over() else _legal_actions(self._left)
        )
        env_reward = 1.0 if self._left == [self._target] else 0.0
        return StepResult(observation, env_reward, terminated, truncated=self._over() and not terminated)

    def snapshot(self) -> tuple[tuple[Fraction, ...], Fraction, int]:
        """Return the numbers left, the target and the actions left."""
        return tuple(self._left), self._target, self._steps_left

    def restore(self, snapshot: object) -> None:
        """Put back what `snapshot` returned."""
        assert isinstance(snapshot, tuple)
        left, self._target, self._steps_left = snapshot
        self._left = [*left]

    def close(self) -> None:
        """Nothing is held."""

    def hindsight_task(self, trajectory: Trajectory) -> Task | None:
        """Return the task of making what `trajectory` made from the same numbers.

        It is None if the episode did not end with one number left. A solved ordinary task is its own hindsight task.
        """
        result = _RESULT.search(trajectory.final_observation.text)
        if result is None:
            return None
        name, instruction = _wording(_puzzle(trajectory.task).numbers, result[1])
        config = {**trajectory.task.config, "target": result[1]}
        return trajectory.task.model_copy(update={"id": name, "instruction": instruction, "config": config})

    def _over(self) -> bool:
        return self._steps_left == 0 or len(self._left) < 2

    def _standing(self) -> str:
        if len(self._left) == 1:
            return f"Result: {self._left[0]}"
        return f"Numbers left: {' '.join(map(str, self._left))}"


def _legal_actions(left: list[Fraction]) -> tuple[str, ...]:
    """Return every move over the sorted numbers `left` once; + and * with the smaller number first."""
    actions: dict[str, None] = {}
    for a, b in combinations(left, 2):
        moves = [f"{a} + {b}", f"{a} - {b}", f"{b} - {a}", f"{a} * {b}"]
        moves += [f"{x} / {y}" for x, y in ((a, b), (b, a)) if y != 0]
        actions.update(dict.fromkeys(moves))
    return tuple(actions)


def _obey(left: list[Fraction], action: str) -> tuple[str, list[Fraction]]:
    """Return what `action` did, in words, and the sorted numbers left after it."""
    if len(action) > _MAX_CHARS:
        raise _Illegal(_UNREADABLE)
    expression, equals, stated = _plain(action).partition("=")
    if equals and not _NUMBER.fullmatch(stated.strip(_BLANK)):
        raise _Illegal(_UNREADABLE)
    said, used, value = _evaluate(left, expression.strip(_BLANK))
    if equals and not _states(stated, value):
        raise _Illegal("the stated result is wrong")
    rest = (Counter(left) - Counter(used)).elements()
    return f"{said} = {value}", sorted([*rest, value])


def _evaluate(left: list[Fraction], expression: str) -> tuple[str, list[Fraction], Fraction]:
    """Return `expression` as it was understood, the numbers it uses and its value."""
    texts = Counter(map(str, left))
    readings = _readings(expression)
    for a, operator, b in readings:
        if Counter((a, b)) <= texts:
            used = [Fraction(a), Fraction(b)]
            value = Fraction(*_combine(used[0].as_integer_ratio(), operator, used[1].as_integer_ratio()))
            return f"{a} {operator} {b}", used, value
    if Counter(_DIGITS.findall(expression)) == texts:
        return expression, left, Fraction(*_value(expression))
    if readings:
        a, _, b = readings[0]
        lacking = next(iter(Counter((a, b)) - texts))
        raise _Illegal(f"{lacking} is {'only once' if lacking in texts else 'not'} among the numbers left")
    if _EXPRESSION.fullmatch(expression) and all(text.isdigit() for text in texts):
        raise _Illegal("an expression must use every number left exactly once")
    raise _Illegal(_UNREADABLE)


def _readings(expression: str) -> list[tuple[str, str, str]]:
    """Return every way to read `a op b` with numbers on both sides, the longest `a` first, so that 8/3/2 is 8/3 / 2."""
    splits = [
        (expression[:i].rstrip(_BLANK), expression[i], expression[i + 1 :].lstrip(_BLANK))
        for i in reversed(range(1, len(expression)))
        if expression[i] in "+-*/"
    ]
    return [(a, operator, b) for a, operator, b in splits if _NUMBER.fullmatch(a) and _NUMBER.fullmatch(b)]


@cache
def ranked_puzzles() -> tuple[tuple[int, ...], ...]:
    """Return the 1,362 puzzles of four numbers from 1 to 13 that can make 24, easiest first; the first has rank 1."""
    lines = resources.files("armap.envs").joinpath("game24_ranks.txt").read_text("utf-8").splitlines()
    return tuple(tuple(map(int, line.split())) for line in lines if not line.startswith("#"))


def tasks(first_rank: int, last_rank: int, *, split: str) -> list[Task]:
    """Return the tasks of making 24 from the puzzles of these ranks, both ends included, easiest first.

    Raises:
        ConfigError: there are no such ranks.
    """
    puzzles = ranked_puzzles()
    if not 1 <= first_rank <= last_rank <= len(puzzles):
        raise ConfigError(f"there are no ranks {first_rank} to {last_rank}; choose them from 1 to {len(puzzles)}")
    return [task_of(puzzle, split=split) for puzzle in puzzles[first_rank - 1 : last_rank]]


def training_tasks(*, exclude: Sequence[Task]) -> list[Task]:
    """Return all ranked tasks but the evaluation puzzles and those whose numbers, in any order, `exclude` uses.

    Raises:
        EnvError: an excluded task is not a puzzle.
    """
    first, last = EVALUATION_RANKS
    kept_out = {tuple(sorted(_puzzle(task).numbers)) for task in exclude}
    kept_out.update(ranked_puzzles()[first - 1 : last])
    return [task_of(puzzle, split="train") for puzzle in ranked_puzzles() if puzzle not in kept_out]


def parse_task(text: str, *, split: str = "test") -> Task:
    """Read `4 5 6 10` or `4 5 6 10 -> 17` as a task; the target is 24 where none is given.

    Raises:
        ConfigError: it cannot be read.
    """
    listed, _, target = text.partition("->")
    parts = listed.replace(",", " ").split()
    target = target.strip() or "24"
    if not 2 <= len(parts) <= 6 or not all(_DIGITS.fullmatch(p) and len(p) <= 4 for p in parts):
        raise ConfigError(f"{text!r} is no Game of 24 puzzle; write two to six whole numbers, such as: 4 5 6 10")
    if not _NUMBER.fullmatch(target):
        raise ConfigError(f"{target!r} is no target; write a number, such as: 4 5 6 10 -> 24")
    # 48/2 asks for the same as 24.
    return task_of(tuple(map(int, parts)), str(Fraction(target)), split=split)


def task_of(numbers: Sequence[int], target: str = "24", *, split: str) -> Task:
    """Return the task of making `target` from `numbers`.

    Its rank is not in it: what is asked for is all there is to a task, as `hindsight_task` needs.
    """
    name, instruction = _wording(numbers, target)
    config: dict[str, JsonValue] = {"numbers": [*sorted(numbers)], "target": target}
    return Task(id=name, env="game24", instruction=instruction, split=split, config=config)


def _wording(numbers: Sequence[int], target: str) -> tuple[str, str]:
    listed = " ".join(map(str, sorted(numbers)))
    return f"{listed} -> {target}", f"Make {target} from the numbers {listed}."


Game24.examples = (
    play(Game24(), task_of((2, 4, 8, 12), split="train"), ("8 - 4", "4 * 12", "48 / 2")),
    play(Game24(), task_of((3, 6, 7, 8), "17", split="train"), ("6 / 3", "2 + 7", "8 + 9")),
)
