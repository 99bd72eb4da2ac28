"""Collect: the policy acts on training tasks and leaves diverse trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from armap.engines.local import each
from armap.errors import PolicyError, RunError
from armap.pipeline.writers import INSTRUCTION_TOKENS, instructed, instruction_in
from armap.planners.rollouts import rollouts
from armap.prompts import load_prompt
from armap.protocols import LLM, Policy, World
from armap.seeds import rng_for
from armap.store import RunFolder
from armap.types import Failure, Message, SamplingParams, Task, TaskFailure, Trajectory

_SHOWN_INSTRUCTIONS = 4


class Inventor:
    """Has a language model invent instructions from what can be done, a few examples and what is seen at first.

    An instruction need not be one that can be fulfilled: it is what makes the policy try different things, and what a
    trajectory really did is written afterwards.

    Args:
        llm: the language model.
        rules: what an action is, in words.
        examples: tasks whose instructions show the style; other ones are shown each time.
        forbidden: evaluation tasks, none of which may be invented.
        seed: decides its draws.
        reply_tokens: longest reply, where that is more than an instruction needs: a model that reasons thinks before.

    Source: ARMAP, instruction synthesis; the wording is ours.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        rules: str,
        examples: Sequence[Task],
        forbidden: Iterable[Task],
        seed: int,
        reply_tokens: int = 0,
    ) -> None:
        self._llm = llm
        self._rules = rules
        self._examples = examples
        self._forbidden = {task.instruction for task in forbidden}
        self._seed = seed
        self._reply_tokens = reply_tokens

    async def invent(self, task: Task, world: World) -> Task:
        """Return a task with the same start and another instruction.

        Raises:
            EnvError: the task cannot be started.
            LLMError: the model gave no answer, or was still thinking.
            PolicyError: it invented nothing, or an evaluation task.
        """
        start = (await world.start(task)).observation.text.replace(task.instruction, "")
        rng = rng_for(self._seed, "invent", task.id)
        shown = rng.sample(self._examples, min(_SHOWN_INSTRUCTIONS, len(self._examples)))
        examples = "\n".join(f"- {example.instruction}" for example in shown)
        asked = f"{self._rules}\n\nTasks of others:\n{examples}\n\nWhat is seen at first:\n{start}"
        messages = [
            Message(role="system", content=load_prompt("collect_invent")),
            Message(role="user", content=asked),
        ]
        thinks = self._reply_tokens > INSTRUCTION_TOKENS
        sampling = SamplingParams(
            max_tokens=max(INSTRUCTION_TOKENS, self._reply_tokens),
            # A small model would write on behind its instruction; one that has room to think does so on several lines.
            stop=() if thinks else ("\n",),
            seed=rng.getrandbits(48),
        )
        (completion,) = await self._llm.generate(messages, n=1, sampling=sampling)
        instruction = instruction_in(completion, thinks=thinks).strip(" -")
        if not instruction:
            raise PolicyError(f"no instruction was invented for task {task.id!r}")
        if instruction in self._forbidden:
            raise PolicyError(f"what was invented for task {task.id!r} is an evaluation task")
        return instructed(task, instruction)


async def collect(
    run: RunFolder,
    tasks: Sequence[Task],
    *,
    world: World,
    make_policy: Callable[[], Policy],
    samples: int,
    seed: int,
    concurrency: int,
    on_progress: Callable[[int, int], None],
    inventor: Inventor | None = None,
) -> None:
    """Append `samples` trajectories per task to `trajectories.jsonl`, those that are there already left out.

    A task that cannot be started is appended to `failures.jsonl`. Nothing here reads what the environment pays.

    Args:
        run: the run folder.
        tasks: what is tried, or what `inventor` sets out from.
        world: where it is tried.
        make_policy: makes a policy for a task.
        samples: trajectories per task.
        seed: decides every draw.
        concurrency: how many tasks are under way at once.
        on_progress: told how many of how many tasks are done.
        inventor: gives each task another instruction.

    Raises:
        BudgetError: the run may not spend more; what is finished is stored.
    """
    there = {trajectory.id for trajectory in run.read("trajectories", Trajectory)}
    failed = {failure.task_id for failure in run.read("failures", TaskFailure) if failure.stage == "collect"}
    known = {task.id for task in run.read("tasks", Task)}

    def is_done(task: Task) -> bool:
        return task.id in failed or all(f"{task.id}#{i}" in there for i in range(samples))

    async def work(given: Task) -> None:
        try:
            # A second time it invents the same: what was bought is not bought again.
            task = await inventor.invent(given, world) if inventor else given
            if is_done(task):
                return
            drawn = await rollouts(task, world, make_policy(), n=samples, rng=rng_for(seed, "collect", task.id))
        except RunError as error:
            failure = Failure(kind=type(error).__name__, message=str(error))
            run.append("failures", TaskFailure(stage="collect", task_id=given.id, failure=failure))
            return
        if task.id not in known:
            run.append("tasks", task)
        for trajectory in drawn.trajectories:
            if trajectory.id not in there:
                run.append("trajectories", trajectory)

    todo = [task for task in tasks if not is_done(task)]
    await each(todo, work, concurrency=concurrency, on_progress=on_progress)
