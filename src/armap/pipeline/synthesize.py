"""Synthesize: turn what the agent did into preference pairs, without labels and without the environment's reward.

Each trajectory becomes the chosen side of an instruction rewritten to fit it. A rejected side is the same attempt with
one action changed, or another attempt that came to something else. Both sides are executed again under the rewritten
task, and a pair counts only if they came to different things.

Source: ARMAP, automatic data generation; the verification is ours (docs/paper_map.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Literal, Protocol

from armap.engines.local import each
from armap.errors import RunError
from armap.prompts import load_prompt
from armap.protocols import LLM, HindsightWriter, Policy, World
from armap.seeds import rng_for, stable_hash
from armap.store import RunFolder
from armap.types import (
    Action,
    DiscardedPair,
    History,
    Message,
    PreferencePair,
    SamplingParams,
    Task,
    Trajectory,
)

Origin = Literal["other_outcome", "altered_action"]
"""The rejected side is another attempt at the same task, or the chosen one with an action changed."""

_ATTEMPTS = 3
"""Changed actions tried before a pair is given up: many changes come to the same thing in the end."""


class InstructionWriter(Protocol):
    """Writes the task that a trajectory fulfils."""

    @property
    def name(self) -> str:
        """Who writes, for records."""
        ...

    async def rewrite(self, trajectory: Trajectory) -> Task | None:
        """Return the task that `trajectory` fulfils, or None if it came to nothing.

        Raises:
            LLMError: a language model was asked and gave no answer.
        """
        ...

    def same_outcome(self, a: Trajectory, b: Trajectory) -> bool:
        """Say whether two trajectories from the same start came to the same thing."""
        ...


class EnvironmentWriter:
    """Lets an environment say in its own words what a trajectory achieved."""

    name = "environment"

    def __init__(self, environment: HindsightWriter) -> None:
        self._environment = environment

    async def rewrite(self, trajectory: Trajectory) -> Task | None:
        """Return the environment's hindsight task."""
        return self._environment.hindsight_task(trajectory)

    def same_outcome(self, a: Trajectory, b: Trajectory) -> bool:
        """Compare hindsight tasks."""
        return self._environment.hindsight_task(a) == self._environment.hindsight_task(b)


class LLMWriter:
    """Has a language model read the trajectory and write the instruction it fulfils.

    Source: ARMAP, instruction refinement.
    """

    def __init__(self, llm: LLM, *, seed: int) -> None:
        self.name = llm.name
        self._llm = llm
        self._seed = seed

    async def rewrite(self, trajectory: Trajectory) -> Task | None:
        """Return the task with the instruction the model wrote; None if it wrote nothing."""
        lines = [line for step in trajectory.steps for line in (step.observation.text, f"Action: {step.action.text}")]
        log = "\n".join([*lines, trajectory.final_observation.text])
        messages = [
            Message(role="system", content=load_prompt("synthesize_hindsight")),
            Message(role="user", content=f"Original task: {trajectory.task.instruction}\n\n{log}"),
        ]
        sampling = SamplingParams(temperature=0.0, max_tokens=96, seed=stable_hash(self._seed, trajectory.id) >> 16)
        (completion,) = await self._llm.generate(messages, n=1, sampling=sampling)
        written = completion.text.strip().removeprefix("Task:").strip().splitlines()
        if not written:
            return None
        name = f"{trajectory.task.id} ~ {stable_hash(written[0]):016x}"
        return trajectory.task.model_copy(update={"id": name, "instruction": written[0]})

    def same_outcome(self, a: Trajectory, b: Trajectory) -> bool:
        """Compare the last observations."""
        return a.final_observation.text == b.final_observation.text


class _Discard(Exception):
    """This pair cannot be made; the message is the reason."""


async def synthesize(
    run: RunFolder,
    *,
    writer: InstructionWriter,
    world: World,
    make_policy: Callable[[], Policy],
    evaluation_tasks: Iterable[Task],
    seed: int,
    concurrency: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Append to `pairs.jsonl` what can be made of `trajectories.jsonl`, and to `discarded.jsonl` what cannot, and why.

    Args:
        run: the run folder.
        writer: who writes the instructions.
        world: where both sides are executed.
        make_policy: makes a policy, which goes on after a changed action.
        evaluation_tasks: tasks whose instruction must not occur in a pair.
        seed: decides what is changed, and against which other attempt a trajectory is set.
        concurrency: how many source tasks are worked on at once.
        on_progress: told how many of how many source tasks are done.

    Raises:
        BudgetError: the run may not spend more; what is finished is stored.
    """
    there = {pair.id for pair in run.read("pairs", PreferencePair)}
    there |= {pair.id for pair in run.read("discarded", DiscardedPair)}
    forbidden = {task.instruction for task in evaluation_tasks}
    by_source: dict[str, list[Trajectory]] = {}
    for trajectory in run.read("trajectories", Trajectory):
        by_source.setdefault(trajectory.task.id, []).append(trajectory)

    async def work(source: str) -> None:
        attempts = sorted(by_source[source], key=lambda trajectory: trajectory.id)
        maker = _PairMaker(attempts, writer, world, make_policy(), forbidden, seed)
        for trajectory in attempts:
            for origin in ("other_outcome", "altered_action"):
                name = f"{trajectory.id}/{origin}"
                if name in there:
                    continue
                try:
                    run.append("pairs", await maker.make(name, trajectory, origin))
                except _Discard as reason:
                    run.append("discarded", DiscardedPair(id=name, origin=origin, reason=str(reason)))

    await each(list(by_source), work, concurrency=concurrency, on_progress=on_progress)


class _PairMaker:
    """Makes the pairs of one source task."""

    def __init__(
        self,
        attempts: Sequence[Trajectory],
        writer: InstructionWriter,
        world: World,
        policy: Policy,
        forbidden: set[str],
        seed: int,
    ) -> None:
        self._attempts = attempts
        self._writer = writer
        self._world = world
        self._policy = policy
        self._forbidden = forbidden
        self._seed = seed

    async def make(self, name: str, trajectory: Trajectory, origin: Origin) -> PreferencePair:
        rng = rng_for(self._seed, "synthesize", name)
        try:
            chosen = await self._chosen(trajectory)
            if origin == "other_outcome":
                rejected = await self._other_outcome(chosen, trajectory, rng)
            else:
                rejected = await self._altered_action(chosen, rng)
        except RunError as error:
            raise _Discard(f"failed: {type(error).__name__}") from error
        return PreferencePair(
            id=name,
            task=chosen.task,
            chosen=chosen.model_copy(update={"id": f"{name}/chosen"}),
            rejected=rejected.model_copy(update={"id": f"{name}/rejected"}),
            source_task_id=trajectory.task.id,
            origin=origin,
            instruction_writer=self._writer.name,
            verified_by="execution",
        )

    async def _chosen(self, trajectory: Trajectory) -> Trajectory:
        """Return the attempt under the instruction that fits it."""
        if trajectory.stop_reason != "terminated":
            raise _Discard(f"the attempt was {trajectory.stop_reason}")
        first = next(other for other in self._attempts if other.actions == trajectory.actions)
        if first.id != trajectory.id:
            raise _Discard("the same attempt again")
        task = await self._writer.rewrite(trajectory)
        if task is None:
            raise _Discard("the attempt came to nothing")
        if task.instruction in self._forbidden:
            raise _Discard("the instruction is an evaluation task")
        chosen = await self._execute(task, [step.action for step in trajectory.steps])
        if chosen.final_observation != trajectory.final_observation or chosen.stop_reason != "terminated":
            raise _Discard("the attempt did not repeat")
        return chosen

    async def _other_outcome(self, chosen: Trajectory, trajectory: Trajectory, rng: Random) -> Trajectory:
        """Return another attempt at the source task that came to something else, under the chosen one's task."""
        others = [
            other
            for other in self._attempts
            if other.failure is None and not self._writer.same_outcome(other, trajectory)
        ]
        if not others:
            raise _Discard("no attempt came to anything else")
        rejected = await self._execute(chosen.task, [step.action for step in rng.choice(others).steps])
        if self._writer.same_outcome(chosen, rejected):
            raise _Discard("both sides came to the same thing")
        return rejected

    async def _altered_action(self, chosen: Trajectory, rng: Random) -> Trajectory:
        """Return the chosen attempt with one action changed and whatever the policy does after it."""
        for _ in range(_ATTEMPTS):
            at = rng.randrange(len(chosen.steps))
            action = await self._another_action(chosen, at, rng)
            if action is None:
                continue
            altered = await self._execute(
                chosen.task, [*(step.action for step in chosen.steps[:at]), action], continue_rng=rng
            )
            if not self._writer.same_outcome(altered, chosen):
                return altered
        raise _Discard("no changed action came to anything else")

    async def _another_action(self, chosen: Trajectory, at: int, rng: Random) -> Action | None:
        """Return an action other than the one taken at step `at`: a legal one, or else one the policy proposes."""
        step = chosen.steps[at]
        legal = step.observation.actions
        if legal is None:
            history = History(task=chosen.task, steps=chosen.steps[:at], observation=step.observation)
            legal = tuple(action.text for action in await self._policy.propose(history, n=4, rng=rng))
        others = [text for text in legal if text != step.action.text]
        return Action(text=rng.choice(others)) if others else None

    async def _execute(
        self, task: Task, actions: Sequence[Action], *, continue_rng: Random | None = None
    ) -> Trajectory:
        """Do `actions` under `task`, then let the policy go on if it may, until the world ends the trajectory."""
        history = await self._world.start(task)
        for action in actions:
            if history.stop_reason is None:
                history = await self._world.advance(history, action)
        while history.stop_reason is None:
            if continue_rng is None:
                raise _Discard("the attempt did not repeat")
            (action, *_) = await self._policy.propose(history, n=1, rng=continue_rng)
            history = await self._world.advance(history, action)
        return Trajectory(
            id=task.id,
            task=task,
            steps=history.steps,
            final_observation=history.observation,
            stop_reason=history.stop_reason,
            metrics=history.metrics,
        )
