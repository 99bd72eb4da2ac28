"""Writes the instruction that a trajectory fulfils: hindsight, by an environment or by a language model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from armap.errors import ConfigError, LLMError, foreign_code, told_of
from armap.prompts import load_prompt
from armap.protocols import LLM, HindsightWriter
from armap.seeds import stable_hash
from armap.thoughts import CUT_SHORT, without_thought
from armap.types import Completion, Message, SamplingParams, Task, Trajectory, Usage

INSTRUCTION_TOKENS = 96
"""Longest instruction that is written or invented, unless replies may be longer."""
_MARK = " ~ "
"""Stands in the id of a task before what tells its other instruction."""
_SEEN_CHARS = 400
"""Characters of each observation but the last that a model is shown of a trajectory."""


class Written(NamedTuple):
    """What a writer made of a trajectory."""

    task: Task | None
    """The task it fulfils; None if it came to nothing."""
    usage: Usage = Usage()
    """What writing took of language models."""


class InstructionWriter(Protocol):
    """Writes the task that a trajectory fulfils."""

    @property
    def name(self) -> str:
        """Who writes, for records."""
        ...

    @property
    def may_leak(self) -> bool:
        """Whether its instructions could give away actions, and are to be looked through for them."""
        ...

    async def rewrite(self, trajectory: Trajectory) -> Written:
        """Return the task that `trajectory` fulfils.

        Raises:
            LLMError: a language model was asked and gave no answer; its usage is all that was spent.
        """
        ...

    def same_outcome(self, a: Trajectory, b: Trajectory) -> bool:
        """Say whether two trajectories came to the same thing."""
        ...


class EnvironmentWriter:
    """Lets an environment say in its own words what a trajectory achieved."""

    name = "environment"
    may_leak = False

    def __init__(self, environment: HindsightWriter) -> None:
        self._environment = environment

    async def rewrite(self, trajectory: Trajectory) -> Written:
        """Return the environment's hindsight task.

        Raises:
            ConfigError: the environment raised something, or returned something else than a task. What it says of a
                trajectory never changes, so that there is nothing to try again, and a pair that is discarded would be
                for good.
        """
        return Written(self._hindsight(trajectory))

    def same_outcome(self, a: Trajectory, b: Trajectory) -> bool:
        """Compare hindsight tasks."""
        return self._hindsight(a) == self._hindsight(b)

    def _hindsight(self, trajectory: Trajectory) -> Task | None:
        call = f"hindsight_task() of trajectory {trajectory.id!r}"
        with foreign_code(partial(told_of, call, ours=Path(__file__).parent)):
            task = self._environment.hindsight_task(trajectory)
        if not isinstance(task, Task | None):
            raise ConfigError(f"{call} must return an armap.types.Task or None, not {type(task).__name__}.")
        return task


class LLMWriter:
    """Has a language model read the trajectory and write the instruction it fulfils.

    First it restores a task from what was achieved, then it may elaborate that with what the trajectory shows to
    matter.

    Args:
        llm: the language model.
        seed: decides its draws.
        elaborate: whether the second step is taken.
        reply_tokens: longest reply, where that is more than an instruction needs: a model that reasons thinks before.

    Source: ARMAP, instruction refinement, both steps; the wording is ours.
    """

    may_leak = True

    def __init__(self, llm: LLM, *, seed: int, elaborate: bool = True, reply_tokens: int = 0) -> None:
        self.name = llm.name
        self._llm = llm
        self._seed = seed
        self._elaborate = elaborate
        self._max_tokens = max(INSTRUCTION_TOKENS, reply_tokens)

    async def rewrite(self, trajectory: Trajectory) -> Written:
        """Return the task with the instruction the model wrote, None if it wrote nothing."""
        log = as_log(trajectory)
        instruction, usage = await self._ask(
            "synthesize_restore", f"Original task: {trajectory.task.instruction}\n\n{log}", trajectory
        )
        if instruction and self._elaborate:
            try:
                elaborated, more = await self._ask("synthesize_elaborate", f"Task: {instruction}\n\n{log}", trajectory)
            except LLMError as error:
                raise error.after(usage) from error
            instruction, usage = elaborated or instruction, usage + more
        if not instruction:
            return Written(None, usage)
        return Written(instructed(trajectory.task, instruction), usage)

    def same_outcome(self, a: Trajectory, b: Trajectory) -> bool:
        """Compare the last observations."""
        return a.final_observation.text == b.final_observation.text

    async def _ask(self, prompt: str, said: str, trajectory: Trajectory) -> tuple[str, Usage]:
        messages = [Message(role="system", content=load_prompt(prompt)), Message(role="user", content=said)]
        seed = stable_hash(self._seed, trajectory.id) >> 16
        sampling = SamplingParams(temperature=0.0, max_tokens=self._max_tokens, seed=seed)
        (completion,) = await self._llm.generate(messages, n=1, sampling=sampling)
        return instruction_in(completion, thinks=self._max_tokens > INSTRUCTION_TOKENS), completion.usage


def instructed(task: Task, instruction: str) -> Task:
    """Return a task with the same start and another instruction."""
    name = f"{task.id}{_MARK}{stable_hash(instruction):016x}"
    return task.model_copy(update={"id": name, "instruction": instruction})


def begun_as(task_id: str) -> str:
    """Return the id of the task that got another instruction, or the id itself if it got none."""
    return task_id.partition(_MARK)[0]


def as_log(trajectory: Trajectory) -> str:
    """Return what was seen and done, a line or more each, for a language model to read; the task is not in it."""
    lines: list[str] = []
    for step in trajectory.steps:
        seen = step.observation.text
        lines += [seen if len(seen) <= _SEEN_CHARS else f"{seen[:_SEEN_CHARS]} ...", f"Action: {step.action.text}"]
    return "\n".join([*lines, trajectory.final_observation.text])


def instruction_in(completion: Completion, *, thinks: bool) -> str:
    """Return the instruction that a language model wrote: its first line, or nothing.

    Args:
        completion: what it wrote.
        thinks: whether it had room to think before.

    Raises:
        LLMError: it was still thinking.
    """
    said = without_thought(completion.text, cut=thinks and completion.cut)
    if said is None:
        raise LLMError(f"an instruction was {CUT_SHORT}", cut=True, usage=completion.usage)
    written = said.strip().removeprefix("Task:").strip().splitlines()
    return written[0] if written else ""
