"""Policies and judges whose ways are known, for the tests of planners."""

from collections.abc import Sequence
from random import Random

from armap.envs.toy import Toy
from armap.llms.scripted import ScriptedLLM
from armap.planners.rollouts import said
from armap.policy import PromptedPolicy
from armap.protocols import LLM, Environment, Planner, RewardModel
from armap.seeds import rng_for, stable_hash
from armap.types import Action, Completion, History, Message, SamplingParams, SearchResult, Task, Trajectory
from armap.world import LiveWorld


class Verdict:
    """Knows what the environment pays."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [trajectory.env_reward for trajectory in trajectories]


class Whim:
    """Likes trajectories for no reason, but the same one always as much."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [Random(stable_hash(list(trajectory.actions))).random() for trajectory in trajectories]


class Held:
    """Likes to hold what is asked for, and likes still more to leave with it."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [
            float(f"the {trajectory.task.config['wanted']}." in trajectory.final_observation.text)
            * (2 if trajectory.stop_reason == "terminated" else 1)
            for trajectory in trajectories
        ]


class PricedLLM(ScriptedLLM):
    """Draws among the choices, for a cent per request, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[tuple[Message, ...], int]] = []

    async def generate(
        self, messages: Sequence[Message], *, n: int, sampling: SamplingParams, choices: Sequence[str] | None = None
    ) -> list[Completion]:
        self.asked.append((tuple(messages), n))
        if not choices:
            # It was asked to reflect.
            return [Completion(text="Be quick.")]
        first, *others = await super().generate(messages, n=n, sampling=sampling, choices=choices)
        return [first.model_copy(update={"usage": first.usage.model_copy(update={"cost_usd": 0.01})}), *others]


class CountingPolicy(PromptedPolicy):
    """Remembers at which states it was asked, and for how much."""

    def __init__(self, llm: LLM | None = None) -> None:
        super().__init__(llm or ScriptedLLM(), rules="Act.", sampling=SamplingParams())
        self.asked: list[tuple[str, ...]] = []
        self.wanted: list[int] = []

    async def propose(
        self, history: History, *, n: int, rng: Random, greedy: bool = False, reflections: Sequence[str] = ()
    ) -> list[Action]:
        self.asked.append(said(history))
        self.wanted.append(n)
        return await super().propose(history, n=n, rng=rng, greedy=greedy, reflections=reflections)


async def search(
    planner: Planner,
    task: Task,
    *,
    make: type[Environment] = Toy,
    judge: RewardModel | None = None,
    policy: PromptedPolicy | None = None,
    seed: int = 0,
) -> SearchResult:
    """Let a planner try a task in a world of its own; without a judge, one that knows what the environment pays."""
    policy = policy or CountingPolicy()
    return await planner.plan(task, LiveWorld(make), policy, judge or Verdict(), rng_for(seed, task.id))


def solved(result: SearchResult) -> float:
    return 0.0 if result.answer is None else result.candidates[result.answer].trajectory.env_reward
