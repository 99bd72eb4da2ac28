"""Tree search with a language model that takes 300 ms to answer: ours, 16 requests at a time, and llm-reasoners'.

    python benchmarks/search_latency.py

Both play the Game of 24 with the same environment, the same proposals (ten samples of every state's legal moves, in one
request, from a server in another process that answers by a hash of the conversation), the same judge (how near the last
number is to 24) and the same number of simulations. llm-reasoners is used as its own examples use it: a world model, a
search configuration, the shares of the proposals as fast rewards, and requests over a connection that is kept open.

Time is measured on a few puzzles in turns. How many puzzles are solved does not depend on the latency, so that is
counted on many more with a server that answers at once; llm-reasoners visits an end again where ours has closed it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from statistics import fmean
from typing import NamedTuple

import httpx
from simulated.server import serving

from armap.envs import game24
from armap.envs.game24 import Game24
from armap.llms.http import HTTPLLM
from armap.planners.mcts import MCTS
from armap.policy import PromptedPolicy
from armap.types import Observation, SamplingParams, Task, Trajectory
from armap.world import LiveWorld

try:
    from reasoners import SearchConfig, WorldModel
    from reasoners.algorithm import MCTS as PeerMCTS
except ImportError:
    sys.exit(
        "this benchmark compares with llm-reasoners, which is not installed: pip install --no-deps llm-reasoners==1.0.2"
    )

LATENCY_S = 0.3
AT_ONCE = 16
SIMULATIONS = 48
PROPOSALS = 10
TIMED = 2
"""Puzzles on which time is measured."""
COUNTED = 60
"""Puzzles on which success is."""


class Outcome(NamedTuple):
    """What came of a search."""

    seconds: float
    solved: bool
    requests: int


def nearness(observation: Observation) -> float:
    """Return from 0 to 1 how near the result is to 24; 1 is 24 itself."""
    found = re.search(r"Result: (\S+)", observation.text)
    return 1 / (1 + abs(float(Fraction(found[1]) - 24))) if found else 0.0


class Nearness:
    """The same as a reward model."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [nearness(trajectory.final_observation) for trajectory in trajectories]


async def ours(base_url: str, task: Task) -> Outcome:
    llm = HTTPLLM(base_url=base_url, model="simulated", concurrency=AT_ONCE)
    policy = PromptedPolicy(llm, rules="Combine two of the numbers left.", sampling=SamplingParams())
    planner = MCTS(num_simulations=SIMULATIONS, proposals=PROPOSALS, wave=AT_ONCE)
    started = time.perf_counter()
    result = await planner.plan(task, LiveWorld(Game24), policy, Nearness(), Random(0))
    seconds = time.perf_counter() - started
    await llm.close()
    assert result.answer is not None
    best = result.candidates[result.answer].trajectory
    return Outcome(seconds, best.env_reward == 1, policy.usage.calls)


class State(NamedTuple):
    """A state of llm-reasoners' search."""

    snapshot: object
    observation: Observation
    conversation: tuple[tuple[str, str], ...]
    over: bool


class PeerWorld(WorldModel):  # type: ignore[misc]
    """The Game of 24."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self._environment = Game24()

    def init_state(self) -> State:
        seen = self._environment.reset(self._task)
        opening = (("system", "Combine two of the numbers left."), ("user", f"{self._task.instruction}\n{seen.text}"))
        return State(self._environment.snapshot(), seen, opening, False)

    def step(self, state: State, action: str) -> tuple[State, dict[str, object]]:
        self._environment.restore(state.snapshot)
        result = self._environment.step(action)
        conversation = (*state.conversation, ("assistant", action), ("user", result.observation.text))
        over = result.terminated or result.truncated
        after = State(self._environment.snapshot(), result.observation, conversation, over)
        return after, {"nearness": nearness(result.observation) if over else 0.0}

    def is_terminal(self, state: State) -> bool:
        return state.over


class PeerConfig(SearchConfig):  # type: ignore[misc]
    """Moves from the server, and the same judge."""

    def __init__(self, client: httpx.Client, base_url: str) -> None:
        super().__init__()
        self._client = client
        self._url = f"{base_url}/chat/completions"
        self._shares: dict[int, Counter[str]] = {}
        self.requests = 0

    def get_actions(self, state: State) -> list[str]:
        schema = {"properties": {"action": {"enum": state.observation.actions}}}
        request = {
            "model": "simulated",
            "messages": [{"role": role, "content": content} for role, content in state.conversation],
            "n": PROPOSALS,
            "response_format": {"type": "json_schema", "json_schema": {"name": "action", "schema": schema}},
        }
        self.requests += 1
        choices = self._client.post(self._url, json=request).json()["choices"]
        drawn = Counter(json.loads(choice["message"]["content"])["action"] for choice in choices)
        self._shares[id(state)] = drawn
        return list(drawn)

    def fast_reward(self, state: State, action: str) -> tuple[float, dict[str, object]]:
        return self._shares[id(state)][action] / PROPOSALS, {}

    def reward(self, state: State, action: str, *, nearness: float) -> tuple[float, dict[str, object]]:
        return nearness, {}


def peers(client: httpx.Client, base_url: str, task: Task) -> Outcome:
    config = PeerConfig(client, base_url)
    search = PeerMCTS(n_iters=SIMULATIONS, depth_limit=6, output_strategy="max_reward")
    started = time.perf_counter()
    result = search(PeerWorld(task), config)
    seconds = time.perf_counter() - started
    solved = result.terminal_state is not None and nearness(result.terminal_state.observation) == 1
    return Outcome(seconds, solved, config.requests)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a mean with its 95 % bootstrap interval."""
    rng = Random(0)
    means = sorted(fmean(rng.choices(values, k=len(values))) for _ in range(2000))
    return fmean(values), means[50], means[1949]


def main() -> None:
    puzzles = game24.tasks(1, TIMED + COUNTED, split="test")
    timed, counted = puzzles[:TIMED], puzzles[TIMED:]
    with httpx.Client(timeout=60) as client:
        with serving(LATENCY_S) as url:
            times = [(asyncio.run(ours(url, task)), peers(client, url, task)) for task in timed]
        with serving(0.0) as url:
            counts = [(asyncio.run(ours(url, task)), peers(client, url, task)) for task in counted]
    print(f"{SIMULATIONS} simulations; {LATENCY_S:g} s on {TIMED} puzzles, and success on {COUNTED}")
    print(f"{'search':<16}{'s/puzzle':>9}{'requests':>10}{'solved':>9}{'95 % interval':>18}")
    seconds = []
    for side, name in enumerate(("armap", "llm-reasoners")):
        seconds.append(fmean(pair[side].seconds for pair in times))
        requests = fmean(pair[side].requests for pair in times)
        mean, low, high = interval([float(pair[side].solved) for pair in counts])
        print(f"{name:<16}{seconds[side]:>9.2f}{requests:>10.0f}{mean:>9.1%}{low:>10.1%} to {high:.1%}")
    mean, low, high = interval([float(our.solved) - float(their.solved) for our, their in counts])
    print(f"difference, paired by puzzle: {mean:+.1%} ({low:+.1%} to {high:+.1%})")
    ours_s, peer_s = seconds
    figures = {"ours": round(ours_s, 2), "peer": round(peer_s, 2), "ratio": round(peer_s / ours_s, 1)}
    print(json.dumps({"name": "search_latency", **figures, "unit": "s/puzzle", "solved_gain": round(mean, 3)}))


if __name__ == "__main__":
    main()
