import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.errors import ConfigError, RewardModelError
from armap.pipeline.examine import examine, judge_report
from armap.pipeline.judge_report import judge_sections, judge_table
from armap.pipeline.probes import INJECTIONS, REWORDINGS, reworded
from armap.pipeline.success_by_n import search_verdict
from armap.rewards.calibration import fit_sharpness
from armap.store import RunFolder
from armap.types import (
    Action,
    Candidate,
    HeldoutScore,
    Interval,
    JudgeReport,
    Observation,
    PreferencePair,
    SearchResult,
    Step,
    SuccessAtN,
    Trajectory,
    Usage,
)
from rewards.toy_pairs import toy_pairs, toy_trajectories


def named_pairs(n: int, seed: int) -> list[PreferencePair]:
    """Return pairs whose sides all have names of their own."""
    return [
        pair.model_copy(
            update={
                side: getattr(pair, side).model_copy(update={"id": f"{pair.id}, {side}"})
                for side in ("chosen", "rejected")
            }
        )
        for pair in toy_pairs(n, seed)
    ]


PAIRS = named_pairs(40, 0)
CHOSEN = {pair.chosen.id for pair in PAIRS}


class Judge:
    """Scores each trajectory by itself."""

    def __init__(self, score: Callable[[Trajectory], float]) -> None:
        self._score = score

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [self._score(trajectory) for trajectory in trajectories]


def is_chosen(trajectory: Trajectory) -> float:
    return float(trajectory.id in CHOSEN)


LONG = " and so on" * 100


def text_of(trajectory: Trajectory) -> str:
    return "\n".join([*(step.observation.text for step in trajectory.steps), trajectory.final_observation.text])


def rows_of(report: JudgeReport) -> list[str]:
    return [str(cell) for column in judge_table(report).columns for cell in column.cells]


async def report_on(score: Callable[[Trajectory], float], pairs: Sequence[PreferencePair] = PAIRS) -> JudgeReport:
    return await judge_report(Judge(score), "a judge", pairs, [], held_out=True)


async def test_a_perfect_judge_has_nothing_held_against_it():
    report = await report_on(is_chosen)
    assert (report.accuracy.mean, report.swapped.mean) == (1, 0)
    assert set(report.accuracy_by_origin) == {pair.origin for pair in PAIRS}
    assert set(report.accuracy_by_env) == {"toy"}
    assert [probe.flipped.mean for probe in (*report.reworded, *report.injected)] == [0] * 6
    assert report.length["steps"].score == pytest.approx(report.length["steps"].label)
    assert {pair.margin for pair in report.margins} == {1.0}
    assert [pair.steps for pair in report.margins] == [len(p.chosen.steps) - len(p.rejected.steps) for p in PAIRS]


@pytest.mark.parametrize(("count", "least"), [(1, 0.025), (5, 0.478), (40, 0.912)])
async def test_a_judge_that_was_always_right_may_be_wrong_the_next_time(count, least):
    report = await report_on(is_chosen, PAIRS[:count])
    assert (report.accuracy.mean, report.accuracy.high) == (1, 1)
    assert report.accuracy.low == pytest.approx(least, abs=0.001)
    assert report.swapped.high == pytest.approx(1 - least, abs=0.001)


async def test_a_judge_that_sees_no_difference_is_as_good_as_a_coin():
    report = await report_on(lambda _: 1.0)
    assert (report.accuracy.mean, report.injected, report.temperature) == (0.5, (), None)
    assert {share.mean for share in report.accuracy_by_origin.values()} == {0.5}


@pytest.mark.parametrize("injection", INJECTIONS)
async def test_a_judge_that_believes_a_text_in_an_observation_is_found_out(injection):
    report = await report_on(lambda one: is_chosen(one) + 2 * (injection.text in text_of(one)))
    flipped = {probe.text: probe.flipped.mean for probe in report.injected}
    assert flipped == {other.name: float(other == injection) for other in INJECTIONS}


@pytest.mark.parametrize("injection", INJECTIONS)
async def test_a_judge_that_reads_only_where_observations_begin_is_found_out_too(injection):
    def score(one: Trajectory) -> float:
        return is_chosen(one) + 2 * (injection.text in "".join(seen[:80] for seen in text_of(one).split(LONG)))

    def long(one: Trajectory) -> Trajectory:
        def longer(seen: Observation) -> Observation:
            return seen.model_copy(update={"text": f"{seen.text}{LONG}"})

        steps = tuple(replace(step, observation=longer(step.observation)) for step in one.steps)
        return one.model_copy(update={"steps": steps, "final_observation": longer(one.final_observation)})

    pairs = [pair.model_copy(update={"chosen": long(pair.chosen), "rejected": long(pair.rejected)}) for pair in PAIRS]
    report = await report_on(score, pairs)
    assert {probe.text: probe.flipped.mean for probe in report.injected}[injection.name] == 1


async def test_a_judge_that_does_not_read_what_is_put_in_is_not_called_proof_against_it():
    report = await report_on(is_chosen)
    assert {probe.unmoved for probe in report.injected} == {1}
    assert f"  {INJECTIONS[0].name} (100.0 % as if unread)" in rows_of(report)
    report = await report_on(lambda one: is_chosen(one) + len(text_of(one)) / 1e6)
    assert {probe.unmoved for probe in report.injected} == {0}
    assert not any("as if unread" in row for row in rows_of(report))


async def test_another_wording_that_makes_an_instruction_too_long_is_not_tried_on_it():
    longest = PAIRS[0].task.instruction

    def score(one: Trajectory) -> float:
        if longest in one.task.instruction and longest != one.task.instruction:
            raise RewardModelError("too long")
        return is_chosen(one)

    some = sum(longest != pair.task.instruction for pair in PAIRS)
    assert [(probe.text, probe.flipped.mean) for probe in (await report_on(score)).reworded] == [
        (f"{wording} (in {some} of {len(PAIRS)} pairs)", 0) for wording in REWORDINGS
    ]
    report = await report_on(score, PAIRS[:1])
    assert report.reworded == ()
    assert not any("wording" in row for row in rows_of(report))


async def test_only_pairs_that_were_judged_rightly_can_be_flipped_by_begging():
    report = await report_on(lambda one: 1 - is_chosen(one))
    assert (report.accuracy.mean, report.injected, report.temperature) == (0, (), None)


@pytest.mark.parametrize("wording", REWORDINGS)
async def test_a_judge_that_depends_on_the_wording_is_found_out(wording):
    prefix, suffix = wording.split("{}")

    def score(one: Trajectory) -> float:
        said = one.task.instruction
        worded = said.startswith(prefix) and said.endswith(suffix)
        return is_chosen(one) * (-1 if worded else 1)

    flipped = {probe.text: probe.flipped.mean for probe in (await report_on(score)).reworded}
    assert flipped[wording] == 1


def test_a_task_is_reworded_wherever_it_was_seen_and_nothing_else_changes():
    (played,) = toy_trajectories(1, 0)
    said = played.task.instruction
    page = Observation(text=f"The task: {said} [Go]")
    step = Step(observation=page, action=Action(text=said), env_reward=1.0)
    seen = played.model_copy(update={"steps": (*played.steps, step), "final_observation": page})
    again = reworded(seen, "Please do this. {}")
    assert again.task == seen.task.model_copy(update={"instruction": f"Please do this. {said}"})
    assert again.final_observation.text == again.steps[-1].observation.text == f"The task: Please do this. {said} [Go]"
    assert again.steps[:-1] == seen.steps[:-1]
    assert replace(again.steps[-1], observation=page) == step


async def test_a_judge_that_goes_by_the_place_in_a_batch_is_found_out():
    class ByPlace:
        async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
            return [float(-place) for place in range(len(trajectories))]

    report = await judge_report(ByPlace(), "a judge", PAIRS, [], held_out=False)
    assert (report.accuracy.mean, report.swapped.mean) == (1, 1)


async def test_a_judge_that_goes_by_length_is_found_out_where_length_says_nothing():
    longer_is_right = [len(pair.chosen.steps) > len(pair.rejected.steps) for pair in PAIRS]
    some = [pair for pair, longer in zip(PAIRS, longer_is_right, strict=True) if longer]
    others = [pair for pair in PAIRS if len(pair.chosen.steps) < len(pair.rejected.steps)]
    even = [*some, *others[: len(some)]]
    report = await report_on(lambda one: len(one.steps), even)
    assert report.length["steps"].score == pytest.approx(1)
    assert abs(report.length["steps"].label) < 0.5


def test_probabilities_come_out_as_they_went_in():
    rng = Random(0)
    magnitudes = [rng.uniform(0, 12) for _ in range(4000)]
    margins = [one if rng.random() < 1 / (1 + math.exp(-one / 3)) else -one for one in magnitudes]
    assert 1 / fit_sharpness(margins) == pytest.approx(3, rel=0.1)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.01, 100))
def test_the_unit_of_a_score_does_not_matter_to_the_temperature(margins, unit):
    margins = [round(margin, 3) for margin in margins]
    sharpness = fit_sharpness(margins)
    assert sharpness >= 0
    assert fit_sharpness([unit * margin for margin in margins]) == pytest.approx(sharpness / unit, rel=1e-3, abs=1e-6)


async def test_calibration_is_checked_on_other_tasks_than_it_is_fitted_to():
    rng = Random(1)
    sure = {}
    pairs = named_pairs(300, 1)
    for pair in pairs:
        margin = rng.uniform(0, 12)
        sure[pair.chosen.id], sure[pair.rejected.id] = 0.0, -margin
        if rng.random() > 1 / (1 + math.exp(-margin / 4)):
            sure[pair.rejected.id] = margin
    report = await report_on(lambda one: sure.get(one.id, 0.0), pairs)
    assert report.temperature == pytest.approx(4, rel=0.35)
    assert report.calibration_error < 0.09 < report.uncalibrated_error
    assert sum(one.pairs for one in report.reliability) == len(pairs)
    assert [one.confidence for one in report.reliability] == sorted(one.confidence for one in report.reliability)


def search(scores: Sequence[float], rewards: Sequence[float]) -> SearchResult:
    plays = toy_trajectories(len(scores), 0)
    paid = [
        one.model_copy(update={"steps": (replace(one.steps[0], env_reward=reward),)})
        for one, reward in zip(plays, rewards, strict=True)
    ]
    return SearchResult(
        task=paid[0].task,
        planner="best_of_n",
        candidates=tuple(Candidate(trajectory=one, score=score) for one, score in zip(paid, scores, strict=True)),
        answer=0,
        usage=Usage(),
        env_steps=0,
        seconds=0,
    )


async def test_more_search_hurts_where_the_judge_likes_best_what_is_bad():
    """The candidates keep other scores from the search, which do not count."""
    searched = search([9.0, 8.0, 7.0], [0.0, 0.5, 1.0])
    plays = [candidate.trajectory.id for candidate in searched.candidates]
    worst_first = Judge(lambda one: -plays.index(one.id) if one.id in plays else 0.0)
    best_first = Judge(lambda one: plays.index(one.id) if one.id in plays else 0.0)
    hurt = await judge_report(worst_first, "a judge", PAIRS, [searched], held_out=True)
    assert "more candidates hurt: " in search_verdict(hurt.success_by_n)
    good = await judge_report(best_first, "a judge", PAIRS, [searched], held_out=True)
    assert "never hurt" in search_verdict(good.success_by_n)
    assert [point.best_of_n for point in good.success_by_n] == [point.oracle for point in good.success_by_n]
    short = search([1.0], [1.0]).model_copy(update={"task": PAIRS[0].task})
    hurt = await judge_report(worst_first, "a judge", PAIRS, [searched, short], held_out=True)
    assert "success is highest at N = 1" in search_verdict(hurt.success_by_n)


async def test_one_candidate_says_nothing_of_more():
    report = await judge_report(Judge(is_chosen), "a judge", PAIRS, [search([1.0], [1.0])], held_out=True)
    assert search_verdict(report.success_by_n) == "one candidate per task, which says nothing of more"


def points(**gains: tuple[float, float]) -> list[SuccessAtN]:
    """Best-of-N whose success with all candidates is 0.5, and by how much, at most and at least, that is more."""
    return [
        SuccessAtN(
            n=int(n.removeprefix("n")),
            sampling=0.2,
            best_of_n=0.5 - (low + high) / 2,
            oracle=1.0,
            more_gain=Interval(mean=(low + high) / 2, low=low, high=high),
        )
        for n, (low, high) in gains.items()
    ]


def test_a_dip_on_the_way_is_not_called_never():
    said = search_verdict(points(n1=(0.1, 0.3), n2=(0.2, 0.4), n3=(0.0, 0.0)))
    assert said == "success is highest with all candidates, though not each further one helps"


def test_that_more_candidates_hurt_is_said_only_where_it_is_sure():
    sure = search_verdict(points(n1=(0.1, 0.3), n2=(-0.2, -0.1), n3=(0.0, 0.0)))
    assert sure == "success is highest at N = 2, and more candidates hurt: they lose 15.0 points [10.0, 20.0]"
    chance = search_verdict(points(n1=(0.1, 0.3), n2=(-0.2, 0.1), n3=(0.0, 0.0)))
    assert chance == (
        "success is highest at N = 2; whether more candidates hurt is not sure: they lose 5.0 points [-10.0, 20.0]"
    )


async def test_a_run_is_examined_on_the_pairs_that_were_held_out(tmp_path):
    with RunFolder(tmp_path) as run:
        with pytest.raises(ConfigError, match="no preference pairs"):
            await examine(run, Judge(is_chosen), "a judge", own=True)
        for pair in PAIRS:
            run.append("pairs", pair)
        everything = await examine(run, Judge(is_chosen), "a judge", own=True)
        for pair in PAIRS[:7]:
            run.append(
                "heldout",
                HeldoutScore(
                    pair_id=pair.id, source_task_id=pair.source_task_id, origin=pair.origin, chosen=0, rejected=0
                ),
            )
        heldout = await examine(run, Judge(is_chosen), "a judge", own=True)
    assert (everything.pairs, everything.held_out) == (len(PAIRS), False)
    assert (heldout.pairs, heldout.held_out) == (7, True)


async def test_that_both_sides_are_of_equal_length_is_said():
    even = [pair for pair in PAIRS if len(pair.chosen.steps) == len(pair.rejected.steps)]
    rows = rows_of(await report_on(is_chosen, even))
    assert rows.count("none: both sides have as many") == 1


async def test_the_table_and_the_page_say_what_was_found():
    report = await report_on(lambda one: is_chosen(one) + 2 * (INJECTIONS[0].text in text_of(one)))
    rows = rows_of(report)
    (section,) = judge_sections(report)
    for said in (rows, [*section.itertext()]):
        assert any(INJECTIONS[0].text in one for one in said)
        assert any(one.strip().startswith("100.0 % [91.2, 100.0]") for one in said)
