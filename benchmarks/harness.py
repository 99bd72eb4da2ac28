"""What a harness itself costs: 100 tasks of 10 calls to a language model, all under way at once; inspect_ai beside it.

    python benchmarks/harness.py

Every call takes 200 ms, so all of it could be done in 2 s. Ours is the whole of `armap collect`: the engine, rollouts
in a world, the prompted policy, the ledger that stores every answer before it is used, the cache, HTTP to a server in
another process, and the trajectories. inspect_ai runs a solver that asks ten times, with its logs as durable as they
usually are; its model is a provider in the same process that waits 200 ms, so it is spared all HTTP. Both run in turns
in this process; processor time is this process's, all threads included.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from simulated.server import serving

from armap.llms.cached import CachedLLM
from armap.llms.http import HTTPLLM
from armap.pipeline.collect import collect
from armap.policy import PromptedPolicy
from armap.protocols import StepResult
from armap.store import Ledger, RunFolder
from armap.types import Observation, SamplingParams, Task, Trajectory
from armap.world import LiveWorld

try:
    import inspect_ai
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, get_model, modelapi
    from inspect_ai.solver import Generate, Solver, TaskState, solver
except ImportError:
    sys.exit("this benchmark compares with inspect_ai, which is not installed: install the dependency group `bench`")

TASKS = 100
CALLS = 10
LATENCY_S = 0.2
ROUNDS = 3

INSTRUCTION = "Find the lamp in the old house and bring it to the gate before night falls."


class House:
    """Lets the agent act ten times and says each time where it is."""

    inline = True

    def __init__(self) -> None:
        self._actions: list[str] = []

    def reset(self, task: Task) -> Observation:
        self._actions = []
        return Observation(text="You stand at the gate. The house is dark.")

    def step(self, action: str) -> StepResult:
        self._actions.append(action)
        seen = Observation(text=f"You did {action!r}. Nothing moves in room {len(self._actions)}.")
        return StepResult(seen, 0.0, len(self._actions) == CALLS, False)

    def close(self) -> None:
        pass


async def collected(base_url: str, folder: Path) -> tuple[float, float]:
    """Collect with our harness; return the seconds of processor time and of wall time."""
    tasks = [Task(id=f"house {i}", env="house", instruction=f"{INSTRUCTION} ({i})") for i in range(TASKS)]
    gc.collect()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    with RunFolder(folder) as run:
        server = HTTPLLM(base_url=base_url, model="simulated", concurrency=TASKS)
        llm = CachedLLM(server, Ledger(run))
        await collect(
            run,
            tasks,
            world=LiveWorld(House),
            make_policy=lambda: PromptedPolicy(llm, rules="Act.", sampling=SamplingParams()),
            samples=1,
            seed=0,
            concurrency=TASKS,
            on_progress=lambda done, total: None,
        )
        await server.close()
    taken = time.process_time() - cpu_s, time.perf_counter() - wall_s
    with RunFolder(folder, writable=False) as run:
        assert sum(len(trajectory.steps) for trajectory in run.read("trajectories", Trajectory)) == TASKS * CALLS
    return taken


@modelapi(name="waiting")
class Waiting(ModelAPI):
    """Answers after a while."""

    async def generate(self, input: object, tools: object, tool_choice: object, config: GenerateConfig) -> ModelOutput:
        await asyncio.sleep(LATENCY_S)
        return ModelOutput.from_content("waiting", "open door")

    def max_connections(self) -> int:
        return TASKS


@solver
def asks() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for _ in range(CALLS):
            state = await generate(state)
            state.messages.append(inspect_ai.model.ChatMessageUser(content="You did it. Nothing moves in the room."))
        return state

    return solve


def inspected(folder: Path) -> tuple[float, float]:
    """Do the same with inspect_ai."""
    samples = [Sample(id=i, input=f"{INSTRUCTION} ({i})") for i in range(TASKS)]
    gc.collect()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    (log,) = inspect_ai.eval(
        inspect_ai.Task(dataset=samples, solver=asks(), name="house"),
        model=get_model("waiting/waiting", memoize=False),
        log_dir=str(folder),
        display="none",
        max_samples=TASKS,
        max_connections=TASKS,
    )
    taken = time.process_time() - cpu_s, time.perf_counter() - wall_s
    assert log.status == "success"
    assert log.results.completed_samples == TASKS
    return taken


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as place, serving(LATENCY_S) as base_url:
        folders = (Path(place) / str(number) for number in range(100))
        sides: dict[str, Callable[[], tuple[float, float]]] = {
            "armap": lambda: asyncio.run(collected(base_url, next(folders))),
            "inspect_ai": lambda: inspected(next(folders)),
        }
        taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(1 + ROUNDS):
            for side, run in sides.items():
                taken[side].append(run())
    print(f"{TASKS} tasks of {CALLS} calls; median of {ROUNDS} rounds, after one that is not counted")
    print(f"{'harness':<12}{'CPU ms/call':>12}{'wall s':>8}{'over ideal':>12}")
    middle = {}
    for side, figures in taken.items():
        cpu_s, wall_s = (median(column) for column in zip(*figures[1:], strict=True))
        middle[side] = 1e3 * cpu_s / (TASKS * CALLS), wall_s / (CALLS * LATENCY_S)
        print(f"{side:<12}{middle[side][0]:>12.2f}{wall_s:>8.2f}{middle[side][1]:>11.2f}x")
    ours, peer = middle["armap"], middle["inspect_ai"]
    figures = {"ours": round(ours[0], 2), "peer": round(peer[0], 2), "ratio": round(peer[0] / ours[0], 1)}
    walls = {"ours_over_ideal": round(ours[1], 2), "peer_over_ideal": round(peer[1], 2)}
    print(json.dumps({"name": "harness", **figures, "unit": "CPU ms/call", **walls}))


if __name__ == "__main__":
    main()
