"""Game of 24 answers checked per second: ours against the symbolic check that the literature uses.

Both checkers judge the same ordinary answers, half of them right, in the same process, in turns. The last line printed
is one JSON object; a ratio above 1 means that ours is ahead.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from random import Random
from statistics import median

from armap.envs.game24 import ranked_puzzles, solves

PER_VERDICT = 150
"""Right answers, and as many wrong ones."""
ROUNDS = 5

Answer = tuple[tuple[int, ...], str]
Checker = Callable[[tuple[int, ...], str], bool]


def symbolic_checker() -> Checker:
    """Return the check of the Tree of Thoughts repository: the right digits, then sympy's `simplify`."""
    try:
        import sympy
    except ImportError:
        sys.exit("this benchmark compares with sympy, which is not installed: install the dependency group `bench`")

    def check(numbers: tuple[int, ...], answer: str) -> bool:
        expression = answer.removeprefix("Answer: ").partition("=")[0]
        if sorted(re.findall(r"\d+", expression)) != sorted(map(str, numbers)):
            return False
        return bool(sympy.simplify(expression) == 24)

    return check


def ordinary_answers(rng: Random) -> list[Answer]:
    """Write expressions at random until there are enough right and wrong ones, all over exactly the numbers given."""
    right: list[Answer] = []
    wrong: list[Answer] = []
    while min(len(right), len(wrong)) < PER_VERDICT:
        numbers = rng.choice(ranked_puzzles())
        a, b, c, d = rng.sample(numbers, 4)
        p, q, r = rng.choices("+-*/", k=3)
        shape = rng.choice(
            ("(({a} {p} {b}) {q} {c}) {r} {d}", "({a} {p} {b}) {q} ({c} {r} {d})", "{a} {p} {b} {q} {c} {r} {d}")
        )
        answer = numbers, f"Answer: {shape.format(a=a, b=b, c=c, d=d, p=p, q=q, r=r)} = 24"
        (right if solves(*answer) else wrong).append(answer)
    answers = right[:PER_VERDICT] + wrong[:PER_VERDICT]
    rng.shuffle(answers)
    return answers


def checks_per_s(checker: Checker, answers: list[Answer], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        for numbers, answer in answers:
            checker(numbers, answer)
    return repeats * len(answers) / (time.perf_counter() - start)


def main() -> None:
    peer_check = symbolic_checker()
    rng = Random(24)
    rates = []
    for _ in range(1 + ROUNDS):
        # New answers in every round: the peer remembers what it has simplified, and must not meet an answer twice.
        answers = ordinary_answers(rng)
        rates.append((checks_per_s(solves, answers, 50), checks_per_s(peer_check, answers, 1)))
        disagreements = [answer for answer in answers if solves(*answer) != peer_check(*answer)]
        if disagreements:
            sys.exit(f"the checkers disagree on {len(disagreements)} answers, such as {disagreements[0]}")
    ours, peer = (median(checker) for checker in zip(*rates[1:], strict=True))
    print(f"median of {ROUNDS} rounds of {2 * PER_VERDICT} answers, after one that is not counted")
    print(f"{'checker':<24}{'checks/s':>12}")
    print(f"{'armap solves':<24}{ours:>12,.0f}")
    print(f"{'sympy simplify':<24}{peer:>12,.0f}")
    figures = {"ours": round(ours), "peer": round(peer), "ratio": round(ours / peer, 1)}
    print(json.dumps({"name": "game24_checker", **figures, "unit": "checks/s"}))


if __name__ == "__main__":
    main()
