import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.play import play
from armap.envs.toy import Toy
from armap.errors import BudgetError, EnvError, LLMError
from armap.llms.cached import CachedLLM
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.collect import collect
from armap.pipeline.evaluate import evaluate
from armap.pipeline.funnel import ablations
from armap.pipeline.negatives import ORIGINS
from armap.pipeline.synthesize import SynthesisSettings, synthesize
from armap.pipeline.verdicts import PairJudge
from armap.pipeline.writers import EnvironmentWriter, LLMWriter
from armap.policy import PromptedPolicy
from armap.store import Ledger, RunFolder
from armap.types import Budget, DiscardedPair, Observation, PreferencePair, SamplingParams, Task, Trajectory, Usage
from armap.world import LiveWorld

SAMPLES = 6


class UnpaidToy(Toy):
    def step(self, action):
        return super().step(action)._replace(env_reward=0.0)


class UnpaidGame24(Game24):
    def step(self, action):
        return super().step(action)._replace(env_reward=0.0)


def first_seen(trajectory):
    return trajectory.steps[0].observation.text


TRAINING = {
    Toy: toy.tasks(40, 0, "train"),
    Game24: [game24.parse_task(text, split="train") for text in ("1 1 4 6", "2 3 5 12", "1 2 3", "4 8", "1 1 1")],
}
# Random play on the training tasks comes to what some of these ask for, so there is something to keep out.
EVALUATION = {
    Toy: [task for task in toy.tasks(378, 0, "train")[40:] if "red" in task.instruction],
    Game24: [*game24.tasks(901, 910, split="test"), game24.parse_task("1 2 3 -> 6"), game24.parse_task("4 8 -> 12")],
}


async def run_stages(
    folder,
    environment,
    *,
    writer=None,
    judge=None,
    settings=None,
    seed=0,
    concurrency=3,
    llm=None,
    evaluation=None,
    tasks=None,
    synthesize_only=False,
):
    """Collect by random play and synthesize, and return the open run folder's pairs and discarded pairs."""
    world = LiveWorld(environment)

    def make_policy():
        return PromptedPolicy(llm or ScriptedLLM(), rules="", sampling=SamplingParams())

    shared = {"world": world, "make_policy": make_policy, "seed": seed, "concurrency": concurrency}
    kind = next(kind for kind in TRAINING if issubclass(environment, kind))
    evaluation = EVALUATION[kind] if evaluation is None else evaluation
    with RunFolder(folder) as run:
        if not synthesize_only:
            await collect(run, tasks or TRAINING[kind], samples=SAMPLES, on_progress=lambda *_: None, **shared)
        await synthesize(
            run,
            settings=settings or SynthesisSettings(),
            writer=writer or EnvironmentWriter(environment()),
            judge=judge,
            evaluation_tasks=evaluation,
            on_progress=lambda *_: None,
            **shared,
        )
    world.close()
    return results(folder)


def results(folder):
    with RunFolder(folder, writable=False) as run:
        return run.read("pairs", PreferencePair), run.read("discarded", DiscardedPair)


def collected(folder):
    with RunFolder(folder, writable=False) as run:
        return run.read("trajectories", Trajectory)


def by_id(records):
    return sorted(records, key=lambda record: record.id)


def executed(environment, side):
    return play(environment(), side.task, side.actions)


@pytest.fixture(params=[Toy, Game24], ids=["toy", "game24"])
def environment(request):
    return request.param


async def test_both_sides_really_end_under_the_pairs_own_task_as_recorded(tmp_path, environment):
    pairs, _ = await run_stages(tmp_path, environment)
    assert len(pairs) > 10
    for pair in pairs:
        assert pair.chosen.task == pair.rejected.task == pair.task
        assert pair.chosen.stop_reason == "terminated"
        assert pair.rejected.stop_reason in ("terminated", "truncated")
        for side in (pair.chosen, pair.rejected):
            again = executed(environment, side)
            assert again.steps == side.steps
            assert (again.final_observation, again.stop_reason) == (side.final_observation, side.stop_reason)


async def test_the_chosen_side_does_what_the_instruction_asks_and_the_rejected_does_not(tmp_path, environment):
    pairs, _ = await run_stages(tmp_path, environment)
    assert {executed(environment, pair.chosen).env_reward for pair in pairs} == {1.0}
    assert {executed(environment, pair.rejected).env_reward for pair in pairs} == {0.0}


@pytest.mark.parametrize(("paid", "unpaid"), [(Toy, UnpaidToy), (Game24, UnpaidGame24)], ids=["toy", "game24"])
async def test_what_the_environment_pays_plays_no_part(tmp_path, paid, unpaid):
    def without_pay(pair):
        sides = {
            side: getattr(pair, side).model_copy(
                update={"steps": tuple(replace(step, env_reward=0.0) for step in getattr(pair, side).steps)}
            )
            for side in ("chosen", "rejected")
        }
        return pair.model_copy(update=sides)

    pairs, discarded = await run_stages(tmp_path / "paid", paid)
    found, found_discarded = await run_stages(tmp_path / "unpaid", unpaid)
    assert by_id(found) == [without_pay(pair) for pair in by_id(pairs)]
    assert by_id(found) != by_id(pairs)
    assert by_id(found_discarded) == by_id(discarded)


async def test_no_instruction_of_an_evaluation_task_enters_a_pair(tmp_path, environment):
    pairs, discarded = await run_stages(tmp_path, environment)
    forbidden = {(task.instruction, environment().reset(task).text) for task in EVALUATION[environment]}
    assert forbidden.isdisjoint((pair.task.instruction, first_seen(pair.chosen)) for pair in pairs)
    assert "the instruction is an evaluation task" in {record.reason for record in discarded}


async def test_the_same_words_somewhere_else_are_another_task(tmp_path):
    elsewhere = toy.tasks(126, 0, "test")
    pairs, discarded = await run_stages(tmp_path, Toy, evaluation=elsewhere)
    assert {task.instruction for task in elsewhere}.issuperset(pair.task.instruction for pair in pairs)
    assert len({pair.task.instruction for pair in pairs}) > 5
    assert "the instruction is an evaluation task" not in {record.reason for record in discarded}


async def test_every_attempt_gives_a_pair_or_a_reason_for_every_origin_and_no_pair_comes_twice(tmp_path, environment):
    pairs, discarded = await run_stages(tmp_path, environment)
    ids = [record.id for record in (*pairs, *discarded)]
    expected = {f"{trajectory.id}/{origin}" for trajectory in collected(tmp_path) for origin in ORIGINS}
    assert len(ids) == len(set(ids))
    assert set(ids) == expected
    assert {pair.origin for pair in pairs} == set(ORIGINS)
    contents = Counter(
        (pair.task.instruction, pair.chosen.steps[0].observation, pair.chosen.actions, pair.rejected.actions)
        for pair in pairs
    )
    assert set(contents.values()) == {1}
    assert all(record.reason and record.origin in record.id for record in discarded)


async def test_an_altered_action_differs_from_the_chosen_side_first_in_a_legal_action(tmp_path, environment):
    pairs, _ = await run_stages(tmp_path, environment)
    for pair in (pair for pair in pairs if pair.origin == "altered_action"):
        at = next(i for i, (a, b) in enumerate(zip(pair.chosen.actions, pair.rejected.actions, strict=False)) if a != b)
        assert pair.chosen.steps[:at] == pair.rejected.steps[:at]
        assert pair.rejected.actions[at] in pair.rejected.steps[at].observation.actions


async def test_the_other_outcome_is_another_attempt_at_the_source_task(tmp_path, environment):
    pairs, _ = await run_stages(tmp_path, environment)
    attempts = {(trajectory.task.id, trajectory.actions) for trajectory in collected(tmp_path)}
    for pair in pairs:
        assert (pair.source_task_id, pair.chosen.actions) in attempts
        if pair.origin == "other_outcome":
            assert (pair.source_task_id, pair.rejected.actions) in attempts


async def test_the_same_seed_gives_the_same_pairs_whatever_runs_at_the_same_time(tmp_path, environment):
    alone = await run_stages(tmp_path / "alone", environment, concurrency=1)
    together = await run_stages(tmp_path / "together", environment, concurrency=8)
    other = await run_stages(tmp_path / "other", environment, seed=1)
    assert [by_id(records) for records in together] == [by_id(records) for records in alone]
    assert by_id(other[0]) != by_id(alone[0])


async def test_a_second_time_nothing_is_added(tmp_path, environment):
    before = await run_stages(tmp_path, environment)
    assert await run_stages(tmp_path, environment, synthesize_only=True) == before


def written_by_a_reader(messages, rng):
    """Write what the toy world's log says was achieved."""
    held = re.search(r"You left with the (.*)\.$", messages[-1].content)
    return f"Task: Go out holding the {held[1]}.\nThat is all." if held else ""


async def test_a_language_model_can_write_the_instructions(tmp_path):
    writer = LLMWriter(ScriptedLLM(written_by_a_reader, name="reader"), seed=0)
    pairs, discarded = await run_stages(tmp_path, Toy, writer=writer)
    assert len(pairs) > 10
    for pair in pairs:
        held = pair.chosen.final_observation.text.removeprefix("You left with the ")
        assert pair.instruction_writer == "reader"
        assert pair.task.instruction == f"Go out holding the {held}"
        assert pair.rejected.final_observation != pair.chosen.final_observation
        assert pair.task.id != pair.source_task_id
    assert "the attempt came to nothing" in {record.reason for record in discarded}


@pytest.mark.parametrize(("room", "longest"), [(0, 96), (4000, 4000)])
async def test_what_was_thought_before_is_not_written_and_there_is_room_for_it(tmp_path, room, longest):
    asked = set()

    class Thinking(ScriptedLLM):
        async def generate(self, messages, *, n, sampling, choices=None):
            asked.add(sampling.max_tokens)
            return await super().generate(messages, n=n, sampling=sampling, choices=choices)

    def thinks(messages, rng):
        return f"<think>\nHm.\n</think>\n\n{written_by_a_reader(messages, rng)}"

    plain, _ = await run_stages(tmp_path / "plain", Toy, writer=LLMWriter(ScriptedLLM(written_by_a_reader), seed=0))
    writer = LLMWriter(Thinking(thinks), seed=0, reply_tokens=room)
    pairs, _ = await run_stages(tmp_path / "thinking", Toy, writer=writer)
    assert [pair.task for pair in by_id(pairs)] == [pair.task for pair in by_id(plain)]
    assert asked == {longest}


async def test_what_was_all_thought_is_a_failure_of_the_model_and_not_of_the_attempt(tmp_path):
    pairs, discarded = await run_stages(
        tmp_path, Toy, writer=LLMWriter(ScriptedLLM(lambda messages, rng: "<think>\nLeave with it."), seed=0)
    )
    assert pairs == []
    reasons = {record.reason for record in discarded}
    assert "cut short while the model was thinking; collect with more --reply-tokens" in reasons
    assert not reasons & {"the attempt came to nothing", "failed: LLMError"}


async def test_a_model_that_repeats_an_evaluation_instruction_is_not_listened_to(tmp_path):
    task = TRAINING[Toy][0]
    writer = LLMWriter(ScriptedLLM(lambda messages, rng: task.instruction.upper()), seed=0)
    pairs, discarded = await run_stages(tmp_path, Toy, writer=writer, evaluation=[task])
    assert Toy().reset(task).text not in {first_seen(pair.chosen) for pair in pairs}
    assert "the instruction is an evaluation task" in {record.reason for record in discarded}


async def test_a_failing_language_model_costs_its_own_pairs_with_a_reason_and_stops_nothing(tmp_path):
    def moody(messages, rng: Random):
        if rng.random() < 0.5:
            raise LLMError("the server is down")
        return written_by_a_reader(messages, rng)

    pairs, discarded = await run_stages(tmp_path, Toy, writer=LLMWriter(ScriptedLLM(moody), seed=0))
    assert pairs
    assert "failed: LLMError" in {record.reason for record in discarded}
    assert len(pairs) + len(discarded) == len(ORIGINS) * len(collected(tmp_path))


async def test_failed_attempts_are_on_neither_side(tmp_path):
    def sometimes(messages, rng):
        if rng.random() < 0.2:
            raise LLMError("the server is down")
        return rng.choice(["take red cube", "take blue cone", "take green ball", "take red ball", "leave", "leave"])

    class Free(ScriptedLLM):
        async def generate(self, messages, *, n, sampling, choices=None):
            return await super().generate(messages, n=n, sampling=sampling)

    pairs, discarded = await run_stages(tmp_path, Toy, llm=Free(sometimes), evaluation=[])
    failed = {trajectory.id for trajectory in collected(tmp_path) if trajectory.failure}
    assert pairs
    assert failed
    assert {record.reason for record in discarded if record.id.split("/")[0] in failed} == {"the attempt was failed"}
    assert all(pair.chosen.failure is None and pair.rejected.failure is None for pair in pairs)


async def test_a_spent_budget_stops_the_stage_and_more_of_it_gives_what_an_undisturbed_run_gives(tmp_path):
    async def attempt(folder, max_calls):
        with RunFolder(folder) as run:
            llm = CachedLLM(ScriptedLLM(written_by_a_reader, name="reader"), Ledger(run, Budget(max_calls=max_calls)))
            await synthesize(
                run,
                settings=SynthesisSettings(),
                writer=LLMWriter(llm, seed=0, elaborate=False),
                judge=None,
                world=LiveWorld(Toy),
                make_policy=lambda: PromptedPolicy(ScriptedLLM(), rules="", sampling=SamplingParams()),
                evaluation_tasks=[],
                seed=0,
                concurrency=1,
                on_progress=lambda *_: None,
            )

    for folder in (tmp_path / "a", tmp_path / "b"):
        await run_stages(folder, Toy)
        for name in ("pairs", "discarded"):
            (folder / f"{name}.jsonl").unlink()
    with pytest.raises(BudgetError, match="max_calls=5"):
        await attempt(tmp_path / "a", 5)
    await attempt(tmp_path / "a", None)
    await attempt(tmp_path / "b", None)
    assert results(tmp_path / "a") == results(tmp_path / "b")


def a_judge_that(prefers) -> PairJudge:
    """Return a judge that is told, of the attempts A and B, what each left with and which task they have."""

    def answer(messages, rng):
        asked = messages[-1].content
        wanted = re.search(r"Task: .*the (\w+ \w+)", asked)[1]
        left = [part.strip().endswith(f"You left with the {wanted}.") for part in asked.split("Attempt ")[1:3]]
        return prefers(*left)

    class Free(ScriptedLLM):
        async def generate(self, messages, *, n, sampling, choices=None):
            return await super().generate(messages, n=n, sampling=sampling)

    return PairJudge(Free(answer, name="judge"), seed=0)


async def test_a_pair_needs_a_judge_who_agrees_in_both_orders(tmp_path):
    async def judged(name, prefers):
        return await run_stages(tmp_path / name, Toy, judge=a_judge_that(prefers))

    without, _ = await run_stages(tmp_path / "none", Toy)
    fair, _ = await judged("fair", lambda a, b: "A" if a else "B")
    assert {pair.id for pair in fair} == {pair.id for pair in without}
    assert {pair.judge for pair in fair} == {"judge"}
    assert {pair.judge for pair in without} == {None}
    for name, prefers, reason in (
        ("first", lambda a, b: "A", "the judge contradicts itself"),
        ("wrong", lambda a, b: "B" if a else "A", "the judge prefers the rejected side"),
    ):
        pairs, discarded = await judged(name, prefers)
        assert pairs == []
        assert {record.reason for record in discarded if record.check == "judge"} == {reason}


async def test_a_judge_who_cannot_be_understood_costs_the_pair_and_is_never_guessed_at(tmp_path):
    def mute(messages, rng):
        raise LLMError("the answer is none of the choices")

    pairs, discarded = await run_stages(tmp_path, Toy, judge=PairJudge(ScriptedLLM(mute, name="mute"), seed=0))
    assert pairs == []
    assert "failed: LLMError" in {record.reason for record in discarded if record.check == "failure"}


async def test_an_instruction_that_gives_an_action_away_is_not_used(tmp_path):
    def blunt(messages, rng):
        taken = re.findall(r"Action: (take .*)", messages[-1].content)
        return f"First {taken[-1]}, then go." if taken else "Do something."

    pairs, discarded = await run_stages(tmp_path, Toy, writer=LLMWriter(ScriptedLLM(blunt), seed=0))
    given_away = {record.id.split("/")[0] for record in discarded if record.check == "instruction"}
    acted = {trajectory.id for trajectory in collected(tmp_path) if any("take" in text for text in trajectory.actions)}
    assert given_away
    assert given_away <= acted
    assert not any(action in pair.task.instruction for pair in pairs for action in pair.chosen.actions if " " in action)


async def test_a_restored_instruction_is_elaborated_by_the_same_model_and_both_answers_are_counted(tmp_path):
    def reader(messages, rng):
        task = re.match(r"Task: (.*)\n", messages[-1].content)
        return f"{task[1]} Mind the shelf." if task else written_by_a_reader(messages, rng)

    writer = LLMWriter(ScriptedLLM(reader, name="reader"), seed=0)
    pairs, _ = await run_stages(tmp_path, Toy, writer=writer)
    assert pairs
    assert all(re.fullmatch(r"Go out holding the .* Mind the shelf\.", pair.task.instruction) for pair in pairs)
    first = {pair.chosen.actions: pair for pair in sorted(pairs, key=lambda pair: pair.id, reverse=True)}
    assert max(pair.usage.calls for pair in first.values()) >= 2


async def test_what_pairs_and_discarded_ones_cost_is_all_that_was_bought(tmp_path):
    with RunFolder(tmp_path) as run:
        ledger = Ledger(run)
        world = LiveWorld(Toy)
        acting = CachedLLM(ScriptedLLM(), ledger)
        shared = {
            "world": world,
            "make_policy": lambda: PromptedPolicy(acting, rules="", sampling=SamplingParams()),
            "seed": 0,
            "concurrency": 2,
            "on_progress": lambda *_: None,
        }
        await collect(run, TRAINING[Toy], samples=SAMPLES, **shared)
        before = ledger.spent
        await synthesize(
            run,
            settings=SynthesisSettings(),
            writer=LLMWriter(CachedLLM(ScriptedLLM(written_by_a_reader, name="reader"), ledger), seed=0),
            judge=PairJudge(CachedLLM(ScriptedLLM(name="judge"), ledger), seed=0),
            evaluation_tasks=[],
            **shared,
        )
        bought = ledger.spent - before
        told = evaluate(run).data.spent
    # Attempts that were written about and gave no pair cost something too, and the same answer is bought once only.
    assert told.calls > 0.5 * bought.calls
    assert told.tokens > 0


class Counting(ScriptedLLM):
    """Counts the calls that it answers."""

    calls = 0

    async def generate(self, messages, *, n, sampling, choices=None):
        self.calls += 1
        return await super().generate(messages, n=n, sampling=sampling)


async def test_what_a_writer_or_a_judge_took_in_vain_is_part_of_what_pairs_cost(tmp_path):
    def restores(messages, rng):
        return "<think>" if messages[-1].content.startswith("Task:") else written_by_a_reader(messages, rng)

    def says_a(messages, rng):
        if rng.random() < 0.5:
            raise LLMError("the reply was no letter", usage=Usage(calls=1))
        return "A"

    reader, judge = Counting(restores), Counting(says_a)
    _, discarded = await run_stages(tmp_path / "writer", Toy, writer=LLMWriter(reader, seed=0))
    assert reader.calls > 0
    assert sum(record.usage.calls for record in discarded) == reader.calls

    class Fragile(Toy):
        def reset(self, task: Task) -> Observation:
            if "~" in task.id:
                raise EnvError("it fell over")
            return super().reset(task)

    reader = Counting(written_by_a_reader)
    _, discarded = await run_stages(tmp_path / "fragile", Fragile, writer=LLMWriter(reader, seed=0, elaborate=False))
    assert "failed: EnvError" in {record.reason for record in discarded}
    assert sum(record.usage.calls for record in discarded) == reader.calls
    judged = await run_stages(tmp_path / "judge", Toy, judge=PairJudge(judge, seed=0))
    unjudged = await run_stages(tmp_path / "none", Toy)
    spent, without = (sum(one.usage.calls for part in made for one in part) for made in (judged, unjudged))
    assert judge.calls > 0
    assert spent - without == judge.calls


async def test_several_rejected_sides_of_an_origin_are_different_and_share_the_chosen_one(tmp_path):
    pairs, discarded = await run_stages(tmp_path, Game24, settings=SynthesisSettings(rejected=3))
    by_chosen = {}
    for pair in pairs:
        by_chosen.setdefault((pair.task.instruction, pair.chosen.actions, pair.origin), []).append(
            pair.rejected.actions
        )
    assert max(map(len, by_chosen.values())) > 1
    assert all(len(rejected) == len(set(rejected)) for rejected in by_chosen.values())
    assert len(pairs) + len(discarded) == 3 * len(ORIGINS) * len(collected(tmp_path))


async def test_only_the_origins_asked_for_are_made(tmp_path):
    pairs, discarded = await run_stages(tmp_path, Toy, settings=SynthesisSettings(origins=("near_neighbour",)))
    assert {record.origin for record in (*pairs, *discarded)} == {"near_neighbour"}


async def test_a_near_neighbour_is_what_fulfils_a_like_instruction(tmp_path):
    pairs, _ = await run_stages(tmp_path, Game24, settings=SynthesisSettings(origins=("near_neighbour",)))
    attempts = {trajectory.actions for trajectory in collected(tmp_path)}
    assert pairs
    assert {pair.rejected.actions for pair in pairs} <= attempts
    # The same numbers and another target are nearer than other numbers.
    assert all(pair.rejected.steps[0].observation == pair.chosen.steps[0].observation for pair in pairs)


async def test_oracle_labels_prefer_what_is_paid_more_and_say_so_everywhere(tmp_path):
    easy = [
        game24.parse_task(f"{a} {b}", split="train") for a, b in ((2, 12), (3, 8), (4, 6), (11, 13), (1, 24), (2, 48))
    ]
    pairs, _ = await run_stages(tmp_path, Game24, settings=SynthesisSettings(labels="oracle"), tasks=easy)
    assert pairs
    for pair in pairs:
        assert pair.chosen.env_reward > pair.rejected.env_reward
        assert pair.task.id == pair.source_task_id
        assert (pair.origin, pair.verified_by, pair.instruction_writer) == (
            "higher_reward",
            "environment reward",
            "task",
        )
    with RunFolder(tmp_path) as run:
        metrics = evaluate(run)
    assert "ORACLE LABELS" in "".join(ablations(metrics.data.labelled_by))


async def test_without_verification_sides_may_come_to_the_same_thing(tmp_path):
    pairs, discarded = await run_stages(tmp_path, Toy, settings=SynthesisSettings(verify=False))
    same = [pair for pair in pairs if pair.chosen.final_observation == pair.rejected.final_observation]
    assert same
    assert {pair.verified_by for pair in pairs} == {"nothing"}
    assert not {"duplicate", "length"} & {record.check for record in discarded}


async def test_the_funnel_counts_every_pair_that_was_begun(tmp_path):
    pairs, discarded = await run_stages(tmp_path, Toy)
    with RunFolder(tmp_path) as run:
        data = evaluate(run).data
    assert set(data.funnel) == set(ORIGINS)
    for origin, left in data.funnel.items():
        counts = list(left.values())
        assert counts == sorted(counts, reverse=True)
        assert counts[0] == len(collected(tmp_path))
        assert counts[-1] == sum(pair.origin == origin for pair in pairs)
    assert sum(data.discarded.values()) == len(discarded)
    assert all(share <= 0.55 + 1e-9 for share in data.length_tells.values())
