import asyncio
import random

import pytest

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import BudgetError, LLMError
from armap.llms.cached import CachedLLM
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.collect import Inventor, collect
from armap.policy import PromptedPolicy
from armap.store import Ledger, RunFolder
from armap.types import Budget, SamplingParams, Task, TaskFailure, Trajectory
from armap.world import LiveWorld

TASKS = toy.tasks(12, 0, "train")
NOWHERE = Task(id="nowhere", env="toy", instruction="Leave with the moon.", config={"shelf": 1, "wanted": "moon"})


class Napping(ScriptedLLM):
    """Answers after a random while, so that requests under way finish in any order."""

    async def generate(self, messages, *, n, sampling, choices=None):
        await asyncio.sleep(random.uniform(0, 0.005))
        return await super().generate(messages, n=n, sampling=sampling, choices=choices)


async def run_collect(
    folder, *, tasks=TASKS, llm=None, samples=3, seed=0, concurrency=3, budget=None, progress=None, inventor=None
):
    world = LiveWorld(Toy)
    with RunFolder(folder) as run:
        model = CachedLLM(llm or ScriptedLLM(), Ledger(run, budget or Budget()))
        await collect(
            run,
            tasks,
            world=world,
            make_policy=lambda: PromptedPolicy(model, rules="", sampling=SamplingParams()),
            samples=samples,
            seed=seed,
            concurrency=concurrency,
            on_progress=lambda *numbers: progress.append(numbers) if progress is not None else None,
            inventor=inventor,
        )
    world.close()
    return trajectories(folder)


def trajectories(folder):
    with RunFolder(folder, writable=False) as run:
        return sorted(run.read("trajectories", Trajectory), key=lambda trajectory: trajectory.id)


def failures(folder):
    with RunFolder(folder, writable=False) as run:
        return run.read("failures", TaskFailure)


async def test_every_task_gets_as_many_trajectories_as_asked_for_each_with_an_id_of_its_own(tmp_path):
    found = await run_collect(tmp_path)
    assert {trajectory.id for trajectory in found} == {f"{task.id}#{i}" for task in TASKS for i in range(3)}
    assert len(found) == 3 * len(TASKS)
    assert {trajectory.task.id for trajectory in found} == {task.id for task in TASKS}
    with RunFolder(tmp_path, writable=False) as run:
        assert run.read("tasks", Task) == TASKS


async def test_the_seed_decides_the_trajectories_and_concurrency_does_not(tmp_path):
    alone = await run_collect(tmp_path / "alone", concurrency=1)
    together = await run_collect(tmp_path / "together", concurrency=12, llm=Napping())
    other = await run_collect(tmp_path / "other", seed=1)
    assert together == alone
    assert other != alone


async def test_attempts_at_one_task_differ(tmp_path):
    found = await run_collect(tmp_path, tasks=TASKS[:1], samples=8)
    assert len({trajectory.actions for trajectory in found}) > 4


async def test_a_second_time_nothing_is_asked_and_nothing_added(tmp_path):
    before = await run_collect(tmp_path)
    progress = []
    assert await run_collect(tmp_path, llm=ScriptedLLM.replaying([]), progress=progress) == before
    assert progress == [(0, 0)]


async def test_lost_trajectories_come_again_as_they_were(tmp_path):
    before = await run_collect(tmp_path)
    file = tmp_path / "trajectories.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[::3]))
    assert await run_collect(tmp_path) == before


async def test_progress_counts_finished_tasks(tmp_path):
    progress = []
    await run_collect(tmp_path, progress=progress)
    assert progress == [(done, len(TASKS)) for done in range(len(TASKS) + 1)]


async def test_a_task_that_cannot_be_started_is_recorded_once_and_the_others_go_on(tmp_path):
    found = await run_collect(tmp_path, tasks=[NOWHERE, *TASKS])
    assert len(found) == 3 * len(TASKS)
    await run_collect(tmp_path, tasks=[NOWHERE, *TASKS])
    (failure,) = failures(tmp_path)
    assert (failure.stage, failure.task_id, failure.failure.kind) == ("collect", "nowhere", "EnvError")
    assert "'moon' is not on shelf 1" in failure.failure.message


async def test_a_failing_language_model_gives_failed_trajectories_that_say_why(tmp_path):
    class Moody(ScriptedLLM):
        async def generate(self, messages, *, n, sampling, choices=None):
            if "red" in messages[1].content.splitlines()[0]:
                raise LLMError("the server is down")
            return await super().generate(messages, n=n, sampling=sampling, choices=choices)

    found = await run_collect(tmp_path, llm=Moody())
    assert len(found) == 3 * len(TASKS)
    for trajectory in found:
        if "red" in trajectory.task.instruction:
            assert (trajectory.stop_reason, trajectory.steps) == ("failed", ())
            assert (trajectory.failure.kind, trajectory.failure.message) == ("LLMError", "the server is down")
        else:
            assert trajectory.failure is None
    assert len({trajectory.failure for trajectory in found}) == 2


async def test_a_spent_budget_keeps_what_is_finished_and_more_of_it_gives_what_an_undisturbed_run_gives(tmp_path):
    with pytest.raises(BudgetError, match="max_calls=30"):
        await run_collect(tmp_path / "a", budget=Budget(max_calls=30))
    kept = trajectories(tmp_path / "a")
    undisturbed = await run_collect(tmp_path / "b")
    assert 0 < len(kept) < len(undisturbed)
    assert await run_collect(tmp_path / "a") == undisturbed
    with RunFolder(tmp_path / "a") as a, RunFolder(tmp_path / "b") as b:
        assert Ledger(a).spent == Ledger(b).spent


def inventor_that(says, asked=None) -> Inventor:
    def answer(messages, rng):
        if asked is not None:
            asked.append(messages[-1].content)
        return says(messages, rng)

    llm = ScriptedLLM(answer, name="inventor")
    return Inventor(llm, rules="Take one thing.", examples=TASKS[:3], forbidden=toy.tasks(3, 0, "test"), seed=0)


async def test_invented_instructions_are_tried_from_the_same_start(tmp_path):
    asked = []
    inventor = inventor_that(lambda messages, rng: f"Task: Leave with thing {rng.randrange(1000)}.", asked)
    found = await run_collect(tmp_path, inventor=inventor)
    assert len(found) == 3 * len(TASKS)
    starts = {Toy().reset(task).text for task in TASKS}
    for trajectory in found:
        assert trajectory.task.instruction.startswith("Leave with thing ")
        assert trajectory.steps[0].observation.text in starts
        assert trajectory.task.id not in {task.id for task in TASKS}
    assert all("Take one thing." in question for question in asked)
    assert all(sum(task.instruction in question for task in TASKS[:3]) == 3 for question in asked)


async def test_invented_instructions_are_the_same_after_a_resumption(tmp_path):
    def inventor():
        return inventor_that(lambda messages, rng: f"Leave with thing {rng.randrange(1000)}.")

    once = await run_collect(tmp_path / "once", inventor=inventor())
    await run_collect(tmp_path / "twice", tasks=TASKS[:5], inventor=inventor())
    assert await run_collect(tmp_path / "twice", inventor=inventor()) == once


class Asked(ScriptedLLM):
    """Writes down how it is to draw."""

    def __init__(self, said):
        super().__init__(lambda messages, rng: said)
        self.sampling = []

    async def generate(self, messages, *, n, sampling, choices=None):
        self.sampling.append(sampling)
        return await super().generate(messages, n=n, sampling=sampling, choices=choices)


@pytest.mark.parametrize(("room", "longest", "stop"), [(0, 96, ("\n",)), (4000, 4000, ())])
async def test_what_was_thought_before_is_not_invented_and_whoever_has_room_to_think_is_not_stopped(
    room, longest, stop
):
    llm = Asked("<think>\nOf what?\n</think>\n\n- Leave with a cone.\nThat is all.")
    inventor = Inventor(llm, rules="", examples=TASKS[:3], forbidden=[], seed=0, reply_tokens=room)
    world = LiveWorld(Toy)
    assert (await inventor.invent(TASKS[0], world)).instruction == "Leave with a cone."
    assert [(one.max_tokens, one.stop) for one in llm.sampling] == [(longest, stop)]
    world.close()


async def test_what_was_all_thought_is_no_invention_and_it_is_said_what_to_do(tmp_path):
    assert await run_collect(tmp_path, inventor=inventor_that(lambda messages, rng: "<think>")) == []
    assert {failure.failure.kind for failure in failures(tmp_path)} == {"LLMError"}
    assert "cut short while the model was thinking; collect with more --reply-tokens" in str(failures(tmp_path)[0])


@pytest.mark.parametrize("said", ["", "Task:", toy.tasks(1, 0, "test")[0].instruction])
async def test_nothing_and_evaluation_tasks_are_no_inventions(tmp_path, said):
    assert await run_collect(tmp_path, inventor=inventor_that(lambda messages, rng: said)) == []
    assert {failure.failure.kind for failure in failures(tmp_path)} == {"PolicyError"}
