from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, pairwise
from math import isclose
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.llms.cached import CachedLLM
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.evaluate import evaluate
from armap.pipeline.intervals import bootstrap_ratio, mean, mean_rate
from armap.pipeline.success_by_n import success_by_n
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.planners.sampling import Sampling
from armap.store import Ledger, LedgerEntry, RunFolder
from armap.types import (
    Candidate,
    Completion,
    DiscardedPair,
    HeldoutScore,
    Metrics,
    PreferencePair,
    Record,
    SearchResult,
    TaskFailure,
    Usage,
)

from .records import BROKEN, TASKS, broken, really_search, search, trajectory


@pytest.fixture
def run(tmp_path: Path) -> Iterable[RunFolder]:
    with RunFolder(tmp_path / "run") as folder:
        yield folder


def evaluated(run: RunFolder, **records: Iterable[Record]) -> Metrics:
    for name, group in records.items():
        for record in group:
            run.append(name, record)
    return evaluate(run)


SOLVED, UNSOLVED, FAILED = True, False, None


def test_an_empty_run_has_metrics_without_numbers(run):
    metrics = evaluated(run)
    assert (metrics.planners, metrics.gap_closed, metrics.success_by_n, metrics.failures) == ({}, None, (), ())
    assert metrics.reward_model.pairwise_accuracy is None
    assert metrics.data.chosen_steps is None
    assert metrics.policy.legal_share is None
    assert metrics.spent == Usage()


def test_metrics_are_written_and_read_back_the_same(run):
    metrics = evaluated(run, searches=[search(TASKS[0], (SOLVED, 1.0), (UNSOLVED, 0.0))])
    assert run.read_json("metrics", Metrics) == metrics


def test_best_of_n_searches_give_sampling_best_of_n_and_oracle(run):
    metrics = evaluated(
        run,
        searches=[
            search(TASKS[0], (SOLVED, 0.9), (UNSOLVED, 0.1), (UNSOLVED, 0.2), (UNSOLVED, 0.3)),
            search(TASKS[1], (SOLVED, 0.1), (SOLVED, 0.2), (UNSOLVED, 0.3), (UNSOLVED, 0.0)),
            search(TASKS[2], (UNSOLVED, 0.1), (UNSOLVED, 0.2), (UNSOLVED, 0.3), (UNSOLVED, 0.0)),
            search(TASKS[0], (SOLVED, None), planner="greedy"),
            search(TASKS[1], (UNSOLVED, None), planner="greedy"),
        ],
    )
    assert list(metrics.planners) == ["greedy", "sampling", "best_of_n", "oracle"]
    success = {name: planner.success.mean for name, planner in metrics.planners.items()}
    assert success == pytest.approx(
        {"greedy": 1 / 2, "sampling": (1 / 4 + 2 / 4) / 3, "best_of_n": 1 / 3, "oracle": 2 / 3}
    )
    assert {name: planner.tasks for name, planner in metrics.planners.items()} == {
        "greedy": 2, "sampling": 3, "best_of_n": 3, "oracle": 3
    }  # fmt: skip


def test_differences_to_sampling_are_paired_over_the_tasks_both_tried(run):
    metrics = evaluated(
        run,
        searches=[
            search(TASKS[0], (SOLVED, 0.0), (UNSOLVED, 1.0)),
            search(TASKS[1], (SOLVED, 1.0), (SOLVED, 0.0)),
            search(TASKS[1], (SOLVED, None), planner="greedy"),
            search(TASKS[2], (SOLVED, None), planner="greedy"),
        ],
    )
    assert metrics.planners["sampling"].difference_to_sampling is None
    best = metrics.planners["best_of_n"].difference_to_sampling
    assert (best.mean, best.low, best.high) == (-0.25, -0.5, 0.0)
    greedy = metrics.planners["greedy"].difference_to_sampling
    assert (greedy.mean, greedy.low, greedy.high) == (0.0, 0.0, 0.0)


def test_every_planner_is_compared_with_both_baselines_and_with_best_of_n_and_its_gap_is_measured(run):
    metrics = evaluated(
        run,
        searches=[
            search(TASKS[0], (UNSOLVED, 1.0), (SOLVED, 0.0)),
            search(TASKS[1], (SOLVED, 1.0), (UNSOLVED, 0.0)),
            search(TASKS[0], (SOLVED, 1.0), (UNSOLVED, 0.5), (UNSOLVED, 0.5), planner="mcts"),
            search(TASKS[1], (SOLVED, 1.0), planner="mcts"),
            search(TASKS[0], (SOLVED, 1.0), planner="mcts(leaf=both, n=1)"),
            search(TASKS[0], (SOLVED, None), planner="greedy"),
            search(TASKS[1], (UNSOLVED, None), planner="greedy"),
        ],
    ).planners
    assert list(metrics) == ["greedy", "sampling", "best_of_n", "mcts", "mcts(leaf=both, n=1)", "oracle"]
    mcts, other = metrics["mcts"], metrics["mcts(leaf=both, n=1)"]
    differences = (mcts.difference_to_sampling, mcts.difference_to_greedy, mcts.difference_to_best_of_n)
    assert [difference.mean for difference in differences] == [0.5, 0.5, 0.5]
    # One task is all that it tried: no gain over greedy there, all over Best-of-N.
    assert (other.difference_to_greedy.mean, other.difference_to_best_of_n.mean) == (0, 1)
    assert (metrics["best_of_n"].difference_to_best_of_n, metrics["greedy"].difference_to_greedy) == (None, None)
    assert {name: row.gap_closed and row.gap_closed.mean for name, row in metrics.items()} == {
        "greedy": None, "sampling": None, "best_of_n": 0, "mcts": 1, "mcts(leaf=both, n=1)": 1, "oracle": None,
    }  # fmt: skip
    assert (mcts.trajectories, metrics["best_of_n"].trajectories) == (2, 2)


def test_the_oracle_never_chooses_among_what_another_planner_than_best_of_n_found(run):
    metrics = evaluated(
        run,
        searches=[search(TASKS[0], (UNSOLVED, 1.0)), search(TASKS[0], (UNSOLVED, 1.0), (SOLVED, 0.0), planner="mcts")],
    )
    assert metrics.planners["oracle"].success.mean == 0
    only_mcts = [search(TASKS[1], (SOLVED, 1.0), planner="mcts")]
    assert "oracle" in evaluated(run, searches=only_mcts).planners


def test_without_best_of_n_and_sampling_there_is_no_ceiling(run):
    metrics = evaluated(run, searches=[search(TASKS[0], (SOLVED, 1.0), planner="mcts")])
    assert list(metrics.planners) == ["mcts"]
    assert (metrics.planners["mcts"].gap_closed, metrics.planners["mcts"].difference_to_sampling) == (None, None)


def test_a_budgeted_best_of_n_serves_where_there_is_no_other(run):
    searches = [search(TASKS[0], (SOLVED, 1.0), (UNSOLVED, 0.0), planner="best_of_n(max_calls=9, n=2)")]
    metrics = evaluated(run, searches=searches)
    assert list(metrics.planners) == ["sampling", "best_of_n(max_calls=9, n=2)", "oracle"]
    assert metrics.gap_closed.mean == 1


def test_steps_and_reported_metrics_are_averaged_over_the_answers_that_have_them(run):
    long = search(TASKS[0], (SOLVED, 1.0))
    candidate = long.candidates[0]
    sold = candidate.trajectory.model_copy(update={"metrics": {"price": 8.0}})
    long = long.model_copy(update={"candidates": (candidate.model_copy(update={"trajectory": sold}),)})
    failed = search(TASKS[2], (FAILED, None))
    planners = evaluated(run, searches=[long, search(TASKS[1], (UNSOLVED, 1.0), (SOLVED, 0.0)), failed]).planners
    assert planners["best_of_n"].answer_metrics == {"price": 8.0, "steps": 2.0}


def test_setbacks_are_counted_as_failures_of_their_planner_and_as_no_trajectory(run):
    result = search(TASKS[0], (SOLVED, 1.0), planner="reflexion").model_copy(update={"setbacks": (BROKEN, BROKEN)})
    metrics = evaluated(run, searches=[result])
    assert [(failure.where, failure.count) for failure in metrics.failures] == [("reflexion", 2)]
    assert metrics.planners["reflexion"].failed_candidates == 0


def test_a_planner_that_shares_no_task_with_sampling_is_not_compared(run):
    metrics = evaluated(
        run, searches=[search(TASKS[0], (SOLVED, 1.0)), search(TASKS[1], (SOLVED, None), planner="greedy")]
    )
    assert metrics.planners["greedy"].difference_to_sampling is None


def test_pairing_makes_the_interval_of_a_constant_difference_vanish(run):
    searches = [search(task, (SOLVED, 1.0), (UNSOLVED, 0.0)) for task in TASKS]
    difference = evaluated(run, searches=searches).planners["best_of_n"].difference_to_sampling
    assert (difference.low, difference.mean, difference.high) == (0.5, 0.5, 0.5)


def test_a_sampling_search_counts_only_without_best_of_n(run):
    alone = evaluated(run, searches=[search(TASKS[0], (SOLVED, None), (UNSOLVED, None), planner="sampling")])
    assert {name: row.success.mean for name, row in alone.planners.items()} == {"sampling": 0.5, "oracle": 1.0}
    assert (alone.planners["sampling"].searches, alone.gap_closed, alone.success_by_n) == ("sampling", None, ())
    both = evaluated(run, searches=[search(TASKS[0], (UNSOLVED, 0.0))])
    assert both.planners["sampling"].searches == "best_of_n"
    assert both.planners["sampling"].success.mean == 0.0


def test_failures_count_as_zero_and_are_counted(run):
    paid_then_broken = Candidate(trajectory=broken(TASKS[2], env_reward=1.0))
    metrics = evaluated(
        run,
        failures=[TaskFailure(stage="collect", task_id="a", failure=BROKEN)],
        trajectories=[broken(TASKS[0]), trajectory(TASKS[1], solved=True)],
        searches=[
            search(TASKS[0], (FAILED, None), (SOLVED, 0.5)),
            SearchResult(task=TASKS[1], planner="best_of_n", failure=BROKEN),
            SearchResult(task=TASKS[2], planner="best_of_n", candidates=(paid_then_broken,), failure=BROKEN),
        ],
    )
    assert {name: row.success.mean for name, row in metrics.planners.items()} == pytest.approx(
        {"sampling": 1 / 6, "best_of_n": 1 / 3, "oracle": 1 / 3}
    )
    best = metrics.planners["best_of_n"]
    assert (best.tasks, best.failed, best.failed_candidates) == (3, 2, 2)
    assert metrics.data.failed_trajectories == 1
    assert [(failure.where, failure.kind, failure.count) for failure in metrics.failures] == [
        ("collect", "EnvError", 2),
        ("best_of_n", "EnvError", 3),
    ]
    assert metrics.failures[0].example == BROKEN.message


def test_the_gap_is_closed_by_a_ratio_of_means_over_tasks(run):
    metrics = evaluated(
        run,
        searches=[
            search(TASKS[0], (SOLVED, 1.0), (UNSOLVED, 0.0)),
            search(TASKS[1], (SOLVED, 0.0), (UNSOLVED, 1.0)),
            search(TASKS[2], (SOLVED, 1.0), (UNSOLVED, 0.0)),
            search(TASKS[3], (SOLVED, 1.0), (SOLVED, 0.0)),
        ],
    )
    assert metrics.gap_closed.mean == pytest.approx((0.5 - 0.5 + 0.5) / 1.5)
    assert (metrics.gap_closed.low, metrics.gap_closed.high) == (-1.0, 1.0)


@pytest.mark.parametrize("solved", [SOLVED, UNSOLVED])
def test_without_a_gap_nothing_is_closed(run, solved):
    assert evaluated(run, searches=[search(TASKS[0], (solved, 1.0), (solved, 0.0))]).gap_closed is None


def test_costs_are_means_per_task(run):
    first, second = (
        search(task, (SOLVED, 1.0)).model_copy(
            update={
                "usage": Usage(calls=calls, prompt_tokens=10 * calls, completion_tokens=calls, cost_usd=0.5 * calls),
                "env_steps": 7 * calls,
                "seconds": 2.0 * calls,
                "merged_proposals": calls,
            }
        )
        for task, calls in ((TASKS[0], 1), (TASKS[1], 3))
    )
    row = evaluated(run, searches=[first, second]).planners["best_of_n"]
    assert (row.calls, row.prompt_tokens, row.completion_tokens, row.cost_usd) == (2, 20, 2, 1.0)
    assert (row.env_steps, row.seconds, row.merged_proposals) == (14, 4.0, 2)


def heldout(source: str, chosen: float, rejected: float, origin: str = "other_outcome") -> HeldoutScore:
    return HeldoutScore(
        pair_id=f"{source}{chosen}{rejected}{origin}",
        source_task_id=source,
        origin=origin,
        chosen=chosen,
        rejected=rejected,
    )


def test_pairwise_accuracy_counts_a_draw_as_half_and_resamples_whole_source_tasks(run):
    scores = [heldout("a", 1, 0), heldout("a", 2, 0), heldout("a", 3, 0), heldout("b", 1, 1, "altered_action")]
    model = evaluated(run, heldout=scores).reward_model
    assert (model.pairs, model.source_tasks) == (4, 2)
    # Resamples are {a, a}, {a, b} and {b, b}; over single pairs a quarter of them could not give 0.5 and 1.
    assert (model.pairwise_accuracy.mean, model.pairwise_accuracy.low, model.pairwise_accuracy.high) == (0.875, 0.5, 1)
    assert {origin: value.mean for origin, value in model.pairwise_accuracy_by_origin.items()} == {
        "altered_action": 0.5,
        "other_outcome": 1.0,
    }


def test_candidate_auc_averages_over_tasks_with_both_kinds(run):
    model = evaluated(
        run,
        searches=[
            search(TASKS[0], (SOLVED, 0.5), (UNSOLVED, 0.5), (UNSOLVED, 0.1), (FAILED, None)),
            search(TASKS[1], (SOLVED, 0.1), (UNSOLVED, 0.5)),
            search(TASKS[2], (UNSOLVED, 9.0), (UNSOLVED, 8.0)),
        ],
    ).reward_model
    assert model.candidate_auc_tasks == 2
    assert model.candidate_auc.mean == pytest.approx((0.75 + 0.0) / 2)


def test_choices_are_averaged_per_completion_not_per_request(run):
    def entry(key: str, *answers: tuple[float | None, float | None]) -> LedgerEntry:
        completions = tuple(
            Completion(text="x", choice_entropy_nats=entropy, choice_mass=mass) for entropy, mass in answers
        )
        return LedgerEntry(key=key, first_index=0, completions=completions, seconds=1.0)

    policy = evaluated(
        run,
        completions=[entry("a", (0.0, 1.0), (0.0, 0.5), (0.0, 0.0)), entry("b", (2.0, None)), entry("c", (None, None))],
    ).policy
    assert (policy.choices, policy.choice_entropy_nats, policy.choice_mass) == (4, 0.5, 0.5)


def test_only_steps_that_list_the_legal_actions_can_be_illegal(run):
    whole = trajectory(TASKS[0], solved=True)
    illegal = replace(whole.steps[0], action=whole.steps[0].action.model_copy(update={"text": "dance"}))
    unlisted = replace(illegal, observation=whole.final_observation)
    odd = whole.model_copy(update={"id": "odd", "steps": (*whole.steps, illegal, unlisted)})
    policy = evaluated(run, trajectories=[odd], searches=[search(TASKS[0], (SOLVED, 1.0))]).policy
    assert (policy.listed_steps, policy.legal_share) == (5, 4 / 5)


def test_the_data_funnel_and_the_balance_of_lengths(run):
    task = TASKS[0]
    short, long = trajectory(task, solved=True), trajectory(task, solved=False, detour=True)

    def pair(name: str, chosen, rejected, origin: str) -> PreferencePair:
        return PreferencePair(
            id=name,
            task=task,
            chosen=chosen,
            rejected=rejected,
            source_task_id=task.id,
            origin=origin,
            instruction_writer="environment",
            verified_by="execution",
        )

    data = evaluated(
        run,
        trajectories=[short, long],
        pairs=[
            pair("1", short, long, "altered_action"),
            pair("2", long, short, "other_outcome"),
            pair("3", short, trajectory(task, solved=False), "other_outcome"),
            pair("4", short, long, "other_outcome"),
        ],
        discarded=[
            DiscardedPair(id=str(i), origin="altered_action", check="outcome", reason="same outcome") for i in range(3)
        ],
    ).data
    assert (data.trajectories, data.pairs) == (2, {"altered_action": 1, "other_outcome": 3})
    assert data.discarded == {"same outcome": 3}
    assert data.funnel["altered_action"] == {
        "begun": 4, "attempt": 4, "instruction": 4, "failure": 4, "outcome": 1, "judge": 1, "duplicate": 1, "length": 1,
    }  # fmt: skip
    assert data.length_tells["steps"] == 0.625
    assert (data.chosen_steps, data.rejected_steps) == (9 / 4, 10 / 4)


async def test_the_spend_is_that_of_the_ledger(run):
    ledger = Ledger(run)
    searches = await really_search(CachedLLM(ScriptedLLM(), ledger), TASKS[:3], BestOfN(n=4))
    assert ledger.spent.calls > 0
    metrics = evaluated(run, searches=searches)
    assert metrics.spent == ledger.spent
    assert metrics.policy.legal_share == 1.0
    assert metrics.policy.choice_entropy_nats == pytest.approx(1.87, abs=0.1)


async def test_sampling_and_best_of_n_of_one_seed_give_the_same_sampling_row(run, tmp_path):
    llm = ScriptedLLM()
    metrics = evaluated(run, searches=await really_search(llm, TASKS, BestOfN(n=5)))
    with RunFolder(tmp_path / "other") as other:
        again = evaluated(
            other,
            searches=[
                *await really_search(llm, TASKS, Sampling(n=5)),
                *await really_search(llm, TASKS, Greedy()),
            ],
        )
    assert again.planners["sampling"].success == metrics.planners["sampling"].success
    assert again.planners["oracle"].success == metrics.planners["oracle"].success
    assert again.planners["greedy"].tasks == len(TASKS)


def test_intervals_are_reproducible_whatever_order_the_searches_finished_in(run, tmp_path):
    searches = [search(task, *((j < i, j % 3) for j in range(17))) for i, task in enumerate(TASKS[:9])]
    with RunFolder(tmp_path / "other") as other:
        assert evaluated(other, searches=searches[::-1]) == evaluated(run, searches=searches)


def test_a_bootstrap_interval_is_as_wide_as_theory_says():
    interval = bootstrap_ratio([1.0] * 30 + [0.0] * 70, [1.0] * 100)
    half_width = 1.96 * (0.3 * 0.7 / 100) ** 0.5
    assert interval.mean == pytest.approx(0.3)
    assert interval.low == pytest.approx(0.3 - half_width, abs=0.015)
    assert interval.high == pytest.approx(0.3 + half_width, abs=0.015)


@pytest.mark.parametrize("paid", [[1.0, -1.0, 1.0, -1.0], [3.0, 4.0, 5.0, 7.0], [-8.0, -13.0], [0.25, 0.5]])
def test_only_of_rates_that_are_all_0_or_all_1_is_the_interval_the_exact_one(paid):
    assert mean_rate(paid) == mean(paid)
    assert (mean_rate([0.0] * 5).high, mean_rate([1.0] * 5).low) == pytest.approx((0.522, 0.478), abs=0.001)


def test_resamples_that_say_nothing_are_left_out():
    interval = bootstrap_ratio([1.0, 0.0, 0.0], [2.0, 0.0, 0.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert bootstrap_ratio([0.0, 0.0], [0.0, 0.0]) is None
    assert bootstrap_ratio([], []) is None


@st.composite
def searches(draw: st.DrawFn) -> SearchResult:
    score = st.integers(0, 3).map(float)
    whole = st.tuples(st.booleans(), score)
    unscored = st.tuples(st.booleans(), st.none())
    outcomes = draw(st.lists(whole | unscored | st.just((FAILED, None)), min_size=1, max_size=6))
    return search(TASKS[0], *outcomes)


def by_brute_force(result: SearchResult, n: int) -> tuple[float, float, float]:
    def reward(candidate: Candidate) -> float:
        return 0.0 if candidate.trajectory.failure else candidate.trajectory.env_reward

    subsets = list(combinations(result.candidates, n))
    best: list[float] = []
    for subset in subsets:
        scored = [candidate for candidate in subset if candidate.score is not None]
        # `max` returns the first of equals, as the planner does.
        best.append(reward(max(scored, key=lambda candidate: candidate.score or 0.0)) if scored else 0.0)
    sampling = fmean(reward(candidate) for subset in subsets for candidate in subset)
    return sampling, fmean(best), fmean(max(map(reward, subset)) for subset in subsets)


@given(searches())
def test_success_by_n_is_the_mean_over_all_subsets(result):
    points = success_by_n([result])
    assert [point.n for point in points] == sorted(
        {n for n in (1, 2, 3, 5, len(result.candidates)) if n <= len(result.candidates)}
    )
    for point in points:
        found = (point.sampling, point.best_of_n, point.oracle)
        assert found == pytest.approx(by_brute_force(result, point.n), abs=1e-12)
        assert point.more_gain.mean == pytest.approx(points[-1].best_of_n - point.best_of_n, abs=1e-12)


@given(st.lists(searches(), min_size=1, max_size=4))
def test_success_by_n_lies_between_bounds_and_the_oracle_only_rises(results):
    points = success_by_n(results)
    tolerance = 1e-12
    assert all(0 <= point.best_of_n <= point.oracle + tolerance for point in points)
    assert all(point.sampling == points[0].sampling <= point.oracle + tolerance for point in points)
    assert all(before.oracle <= after.oracle + tolerance for before, after in pairwise(points))
    assert points[0].best_of_n <= points[0].sampling + tolerance
    if all(one.score is not None or one.trajectory.failure for result in results for one in result.candidates):
        assert isclose(points[0].best_of_n, points[0].sampling, abs_tol=tolerance)


def test_success_at_the_full_n_is_that_of_the_searches(run):
    metrics = evaluated(
        run, searches=[search(task, *((i == n, n % 7) for n in range(23))) for i, task in enumerate(TASKS)]
    )
    assert [point.n for point in metrics.success_by_n] == [1, 2, 3, 5, 10, 20, 23]
    last = metrics.success_by_n[-1]
    assert last.best_of_n == pytest.approx(metrics.planners["best_of_n"].success.mean)
    assert last.oracle == pytest.approx(metrics.planners["oracle"].success.mean)
    assert last.sampling == pytest.approx(metrics.planners["sampling"].success.mean)


def test_a_search_without_candidates_is_a_zero_at_every_n():
    nothing = SearchResult(task=TASKS[1], planner="best_of_n", failure=BROKEN)
    points = success_by_n([search(TASKS[0], (SOLVED, 1.0), (SOLVED, 0.0)), nothing])
    assert [(point.n, point.sampling, point.best_of_n, point.oracle) for point in points] == [
        (1, 0.5, 0.5, 0.5),
        (2, 0.5, 0.5, 0.5),
    ]
    assert success_by_n([nothing]) == ()
