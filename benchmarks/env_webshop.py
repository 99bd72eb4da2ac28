"""WebShop steps per second on one core: a random shopper who searches, clicks and buys, in text.

Prints a line for each kind of action, and last one JSON object. The catalogue is the one that comes with the package
or, with `--data`, one of WebShop's official files. For comparison: the original, which draws web pages and parses them
again, was measured at 36 to 48 steps per second on the machine this was written on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

from armap.envs.webshop.environment import WebShop
from armap.envs.webshop.splits import tasks
from armap.types import Observation, Task

T = TypeVar("T")

SEARCH_SHARE = 0.15
"""Share of the actions that are searches, where there is anything else to do."""


def action_after(observation: Observation, task: Task, rng: Random) -> str:
    """Return a search for some words of the instruction, or a click."""
    if not observation.actions or rng.random() < SEARCH_SHARE:
        words = task.instruction.split()
        return f"search[{' '.join(rng.sample(words, min(len(words), 6)))}]"
    return rng.choice(observation.actions)


def kind_of(action: str) -> str:
    """Return what an action is counted as."""
    if action.startswith("search"):
        return "search"
    return "buy" if action == "click[buy now]" else "click"


def shopping(shop: WebShop, steps: int) -> tuple[dict[str, float], Counter[str]]:
    """Let a random shopper act for at least so many steps.

    Returns:
        By kind of action: the seconds of processor time they took, and how many there were.
    """
    rng = Random(0)
    chosen = rng.sample(tasks(shop.catalogue, "test"), 100)
    seconds: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()

    def timed(kind: str, call: Callable[[], T]) -> T:
        start = time.process_time()
        result = call()
        seconds[kind] += time.process_time() - start
        counts[kind] += 1
        return result

    while counts.total() - counts["reset"] < steps:
        task = rng.choice(chosen)
        observation = timed("reset", partial(shop.reset, task))
        over = False
        while not over:
            action = action_after(observation, task, rng)
            result = timed(kind_of(action), partial(shop.step, action))
            observation, over = result.observation, result.terminated or result.truncated
    return seconds, counts


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WebShop's official files, or of a catalogue")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--observation", choices=("text", "text_rich", "html"), default="text")
    arguments = parser.parse_args()

    began = time.perf_counter()
    shop = WebShop(arguments.data, observation=arguments.observation)
    opened_s = time.perf_counter() - began
    seconds, counts = shopping(shop, arguments.steps)
    for kind, count in sorted(counts.items()):
        print(f"{kind:<7}{count:>8} times{seconds[kind] / count * 1e3:>9.3f} ms each")
    steps = counts.total() - counts["reset"]
    print(
        json.dumps(
            {
                "catalogue": shop.catalogue.name,
                "products": len(shop.catalogue),
                "observation": arguments.observation,
                "open_s": round(opened_s, 3),
                "steps": steps,
                "steps_per_s": round(steps / sum(seconds.values())),
            }
        )
    )


if __name__ == "__main__":
    main()
