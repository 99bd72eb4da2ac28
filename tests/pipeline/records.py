from collections.abc import Iterable, Sequence
from itertools import count
from random import Random

from armap.envs import toy
from armap.envs.play import play
from armap.envs.toy import Toy
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.planners.sampling import Sampling
from armap.policy import PromptedPolicy
from armap.protocols import LLM
from armap.types import Candidate, Failure, Record, SamplingParams, SearchResult, Step, Task, Trajectory
from armap.world import LiveWorld

BROKEN = Failure(kind="EnvError", message="the room is gone")
TASKS = toy.tasks(20, 0, "test")

_numbers = count()


def trajectory(task: Task, *, solved: bool, detour: bool = False) -> Trajectory:
    """Leave with what is wanted or with something else, after a look at a third object or at once."""
    others = [action for action in Toy().reset(task).actions or () if task.config["wanted"] not in action]
    first = [others[1]] if detour else []
    last = f"take {task.config['wanted']}" if solved else others[0]
    return play(Toy(), task, [*first, last, "leave"]).model_copy(update={"id": f"t{next(_numbers)}"})


def broken(task: Task, *, env_reward: float = 0.0) -> Trajectory:
    whole = trajectory(task, solved=False)
    steps = (Step(observation=whole.steps[0].observation, action=whole.steps[0].action, env_reward=env_reward),)
    return Trajectory(
        id=whole.id,
        task=task,
        steps=steps,
        final_observation=whole.steps[1].observation,
        stop_reason="failed",
        failure=BROKEN,
    )


def search(task: Task, *outcomes: tuple[bool | None, float | None], planner: str = "best_of_n") -> SearchResult:
    """Return a search whose candidates are solved, unsolved or (None) failed, each with its score."""
    candidates = tuple(
        Candidate(trajectory=broken(task) if solved is None else trajectory(task, solved=solved), score=score)
        for solved, score in outcomes
    )
    whole = [index for index, (solved, _) in enumerate(outcomes) if solved is not None]
    return SearchResult(
        task=task,
        planner=planner,
        candidates=candidates,
        answer=max(whole, key=lambda index: (outcomes[index][1] or 0.0, -index), default=None),
        failure=None if whole else BROKEN,
    )


class LikesShortOnes:
    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [-float(len(trajectory.steps)) for trajectory in trajectories]


async def really_search(llm: LLM, tasks: Iterable[Task], planner: BestOfN | Greedy | Sampling) -> list[Record]:
    world = LiveWorld(Toy)
    policy = PromptedPolicy(llm, rules=Toy.rules, examples=Toy.examples, sampling=SamplingParams())
    return [await planner.plan(task, world, policy, LikesShortOnes(), Random(0)) for task in tasks]
