"""Trajectories and preference pairs of the toy world, each pair with the task that its chosen side fulfils."""

from random import Random

from armap.envs import toy
from armap.envs.toy import Toy
from armap.types import Action, PreferencePair, Step, Task, Trajectory


def random_play(task: Task, rng: Random, forced: tuple[str, ...] = (), name: str = "played") -> Trajectory:
    """Do the `forced` actions, then random ones to the end."""
    environment = Toy()
    observation = environment.reset(task)
    steps: list[Step] = []
    while observation.actions is not None:
        text = forced[len(steps)] if len(steps) < len(forced) else rng.choice(observation.actions)
        result = environment.step(text)
        steps.append(Step(observation=observation, action=Action(text=text), env_reward=result.env_reward))
        observation = result.observation
    return Trajectory(
        id=name,
        task=task,
        steps=tuple(steps),
        final_observation=observation,
        stop_reason="terminated" if result.terminated else "truncated",
    )


def toy_trajectories(n: int, seed: int, task: Task | None = None) -> list[Trajectory]:
    """Return random plays, all of `task` or each of a random training task."""
    rng = Random(seed)
    drawn = [task] if task else toy.tasks(100, seed, "train")
    return [random_play(rng.choice(drawn), rng, name=f"trajectory {i}") for i in range(n)]


def toy_pairs(n: int, seed: int, split: str = "train") -> list[PreferencePair]:
    """Return pairs whose sides differ in an action or in everything, and always in the outcome."""
    rng = Random(seed)
    drawn = toy.tasks(100, seed, split)
    pairs: list[PreferencePair] = []
    while len(pairs) < n:
        source = rng.choice(drawn)
        chosen = random_play(source, rng)
        altered = rng.random() < 0.5
        shared = chosen.actions[: rng.randrange(len(chosen.actions))] if altered else ()
        rejected = random_play(source, rng, shared)
        task = Toy().hindsight_task(chosen)
        if task is None or Toy().hindsight_task(rejected) == task:
            continue
        pairs.append(
            PreferencePair(
                id=f"pair {len(pairs)}",
                task=task,
                chosen=chosen.model_copy(update={"task": task}),
                rejected=rejected.model_copy(update={"task": task}),
                source_task_id=source.id,
                origin="altered_action" if altered else "other_outcome",
                instruction_writer="environment",
                verified_by="execution",
            )
        )
    return pairs
