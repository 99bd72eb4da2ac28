"""How fast trajectories of one task are scored: our token trees against batches of plain transformers passes.

Both score the same trajectories with the same weights, and must agree. The peer does what one writes with transformers
alone: sorted by length, padded batches, a row for every trajectory. Ours computes shared beginnings once, in one call
and from call to call. The cases: sixteen siblings, different ways to the end from one state in the middle; sixteen
candidates for a task, drawn from its start; and the sixty-four nodes of a search tree, each the trajectory up to it,
scored all at once, and as they come in a search, eight a call.

The world is made up, so that nothing has to be installed: six steps at most, observations of some forty words, and at
every state three actions, which the policy takes with the odds 6 : 3 : 1.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from simulated.shop import WORDS

from armap.errors import ConfigError
from armap.rewards.rendering import render
from armap.rewards.transformer import TransformerRewardModel
from armap.seeds import rng_for
from armap.types import Action, Observation, Step, Task, Trajectory

_STEPS = 6
_REPEATS = 3
_BATCH_TOKENS = 4096
"""Most tokens in a batch of the peer, padding included."""

Score = Callable[[Sequence[Trajectory]], list[float]]


def observation(actions: Sequence[str]) -> Observation:
    """Return what is seen after actions, always the same."""
    rng = rng_for(0, "observation", *actions)
    return Observation(text=" ".join(rng.choices(WORDS, k=rng.randrange(30, 50))))


def trajectory(actions: Sequence[str]) -> Trajectory:
    """Return the trajectory of these actions."""
    steps = tuple(
        Step(observation=observation(actions[:i]), action=Action(text=action)) for i, action in enumerate(actions)
    )
    task = Task(id="task", env="made up", instruction="Buy a small blue cotton shirt for less than 30 dollars.")
    return Trajectory(
        id="/".join(actions),
        task=task,
        steps=steps,
        final_observation=observation(actions),
        stop_reason="truncated",
    )


def draw(actions: Sequence[str], rng: Random) -> str:
    """Return an action of the policy after others."""
    offered = rng_for(0, "actions", *actions).sample(WORDS, 3)
    return f"click[{rng.choices(offered, (6, 3, 1))[0]}]"


def candidates(count: int) -> list[Trajectory]:
    """Return trajectories drawn from the start to the end."""
    rng = Random(1)
    return [trajectory(play((), rng)) for _ in range(count)]


def siblings(count: int) -> list[Trajectory]:
    """Return different trajectories drawn to the end from one state in the middle."""
    rng = Random(1)
    start = play((), rng)[: _STEPS // 2]
    found: dict[tuple[str, ...], Trajectory] = {}
    while len(found) < count:
        actions = play(start, rng)
        found[actions] = trajectory(actions)
    return list(found.values())


def play(start: Sequence[str], rng: Random) -> tuple[str, ...]:
    """Return actions drawn to the end, after others."""
    actions = tuple(start)
    while len(actions) < _STEPS:
        actions = (*actions, draw(actions, rng))
    return actions


def search_tree(count: int) -> list[Trajectory]:
    """Return the nodes of a search tree in the order in which they were added, each under a random earlier one."""
    rng = Random(2)
    nodes: list[tuple[str, ...]] = [()]
    while len(nodes) <= count:
        parent = rng.choice(nodes)
        child = (*parent, draw(parent, rng))
        if len(child) <= _STEPS and child not in nodes:
            nodes.append(child)
    return [trajectory(actions) for actions in nodes[1:]]


class Plain:
    """What one writes with transformers alone."""

    def __init__(self, model: TransformerRewardModel, tokenizer: object) -> None:
        self.computed_tokens = 0
        self._network = model.network
        self._tokenizer = tokenizer
        self._network.config.pad_token_id = tokenizer.eos_token_id

    @torch.inference_mode()
    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Score in padded batches, the longest first."""
        rows = self._tokenizer([render(one) for one in trajectories]).input_ids
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        scores = [0.0] * len(rows)
        while order:
            longest = len(rows[order[0]])
            batch, order = order[: _BATCH_TOKENS // longest], order[_BATCH_TOKENS // longest :]
            padded = self._tokenizer.pad({"input_ids": [rows[i] for i in batch]}, return_tensors="pt")
            self.computed_tokens += sum(len(rows[i]) for i in batch)
            for i, score in zip(batch, self._network(**padded).logits[:, 0].tolist(), strict=True):
                scores[i] = score
        return scores


class Seconds(NamedTuple):
    """What something took."""

    wall: float
    """By the clock."""
    cpu: float
    """Of all cores together, which other programs on the machine disturb less."""


def timed(score: Score, calls: Sequence[Sequence[Trajectory]]) -> tuple[Seconds, list[float]]:
    """Return what calls took, and all their scores."""
    started = time.perf_counter(), time.process_time()
    scores = [found for call in calls for found in score(call)]
    return Seconds(time.perf_counter() - started[0], time.process_time() - started[1]), scores


def compare(model: TransformerRewardModel, calls: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
    """Return medians of ours and the peer's over some repeats, and the largest difference between scores."""
    taken: list[tuple[Seconds, Seconds]] = []
    difference = 0.0
    plain = Plain(model, model.reader.tokenizer)
    # The first round warms both up and is not counted.
    for round_number in range(_REPEATS + 1):
        model.forget()
        before = model.computed_tokens, plain.computed_tokens
        mine, ours = timed(model.score_blocking, calls)
        its, peers = timed(plain.score, calls)
        difference = max(difference, *(abs(one - other) for one, other in zip(ours, peers, strict=True)))
        if round_number:
            taken.append((mine, its))
    computed = model.computed_tokens - before[0], plain.computed_tokens - before[1]
    wall = [statistics.median(pair[side].wall for pair in taken) for side in (0, 1)]
    return {
        "ours_tokens": computed[0],
        "peer_tokens": computed[1],
        "token_ratio": computed[1] / computed[0],
        "ours_s": wall[0],
        "peer_s": wall[1],
        "time_ratio": statistics.median(its.wall / mine.wall for mine, its in taken),
        "cpu_time_ratio": statistics.median(its.cpu / mine.cpu for mine, its in taken),
        "max_difference": difference,
    }


def main() -> None:
    """Print a table, and as the last line one JSON object."""
    try:
        model = TransformerRewardModel.from_backbone(layers=12)
    except ConfigError as error:
        sys.exit(str(error))
    nodes = search_tree(64)
    cases = {
        "16 siblings": [siblings(16)],
        "16 candidates": [candidates(16)],
        "64 nodes, at once": [nodes],
        "64 nodes, 8 a call": [nodes[start : start + 8] for start in range(0, len(nodes), 8)],
    }
    table = Table("case", "tokens", "ours", "fewer", "seconds", "ours", "faster")
    found = {}
    for name, calls in cases.items():
        found[name] = one = compare(model, calls)
        table.add_row(
            name,
            f"{one['peer_tokens']:.0f}",
            f"{one['ours_tokens']:.0f}",
            f"{one['token_ratio']:.2f} x",
            f"{one['peer_s']:.2f}",
            f"{one['ours_s']:.2f}",
            f"{one['time_ratio']:.2f} x",
        )
    difference = max(one["max_difference"] for one in found.values())
    if difference > 1e-3:
        sys.exit(f"The scores differ by {difference:.1e}; the comparison means nothing.")
    Console().print(table)
    print(f"The scores differ by {difference:.1e} at most.")
    print(json.dumps({"name": "reward_scoring", "cases": found}))


if __name__ == "__main__":
    main()
