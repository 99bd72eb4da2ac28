from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from armap.errors import ConfigError
from armap.pipeline.sweep import sweep
from armap.pipeline.tradeoff import sweep_table
from armap.store import RunFolder
from armap.types import Candidate, SearchResult, Sweeps, Task

from .records import BROKEN, TASKS, broken, search, trajectory


@pytest.fixture
def run(tmp_path: Path) -> Iterable[RunFolder]:
    with RunFolder(tmp_path / "run") as folder:
        yield folder


def priced(task: Task, *candidates: tuple[float | None, bool, bool, float | None]) -> SearchResult:
    """Return a search whose candidates have a score, are solved or not, take a step more or not, and have a price."""
    made = [
        Candidate(
            trajectory=trajectory(task, solved=solved, detour=detour).model_copy(
                update={"metrics": {} if price is None else {"price": price}}
            ),
            score=score,
        )
        for score, solved, detour, price in candidates
    ]
    scores = [score for score, *_ in candidates]
    return SearchResult(task=task, planner="best_of_n", candidates=tuple(made), answer=scores.index(max(scores)))


SEARCHES = [
    # The best one is long and dear, and the next one short and cheap; both are solved.
    priced(TASKS[0], (1.0, True, False, 10.0), (1.5, True, True, 40.0)),
    # A cheap failure lures from a certain weight on.
    priced(TASKS[1], (5.0, True, False, 30.0), (1.0, False, False, None)),
]


def swept(run, objective, weights, searches=SEARCHES):
    for result in searches:
        run.append("searches", result)
    return sweep(run, objective, weights)


def test_every_weight_chooses_anew_among_the_same_candidates(run):
    points = swept(run, "score - W*price/10", [0, 0.1, 1, 10]).points
    assert [point.weight for point in points] == [0, 0.1, 1, 10]
    assert [point.changed_share for point in points] == [0, 0, 0.5, 1]
    assert [point.env_reward.mean for point in points] == [1, 1, 1, 0.5]
    assert [point.difference.mean for point in points] == [0, 0, 0, -0.5]
    assert [point.answer_metrics["steps"] for point in points] == [2.5, 2.5, 2, 2]
    # The answer without a price has none; it does not count as free.
    assert [point.answer_metrics["price"] for point in points] == [35, 35, 20, 10]
    assert points[2].objective == "score - 0.1*price"


def test_at_weight_zero_it_answers_as_best_of_n_did_ties_included(run):
    ties = [priced(task, (1.0, False, True, None), (1.0, True, False, None)) for task in TASKS[:5]]
    (point,) = swept(run, "score - W*steps", [0], ties).points
    assert (point.changed_share, point.env_reward.mean) == (0, 0)


def test_a_search_that_failed_stays_without_an_answer(run):
    gone = SearchResult(task=TASKS[3], planner="best_of_n", failure=BROKEN)
    half = search(TASKS[2], (None, None), (True, 1.0))
    assert half.candidates[0].trajectory.failure == broken(TASKS[2]).failure
    (point,) = swept(run, "score - W*steps", [5], [gone, half]).points
    assert (point.env_reward.mean, point.changed_share) == (0.5, 0)
    assert point.answer_metrics["steps"] == 2


def test_weights_are_sorted_and_each_counts_once(run):
    assert [point.weight for point in swept(run, "score - W*steps", [2, 0, 2, 1e-7]).points] == [0, 1e-7, 2]


def test_sweeps_are_kept_by_objective_and_the_last_one_counts(run):
    swept(run, "score - W*steps", [1])
    sweep(run, "score - W*price", [1])
    again = sweep(run, "score - W*steps", [2, 3])
    kept = run.read_json("sweeps", Sweeps).by_objective
    assert list(kept) == ["score - W*steps", "score - W*price"]
    assert kept["score - W*steps"] == again


def test_planners_that_search_where_the_objective_leads_are_left_out_by_name(run):
    others = [
        search(TASKS[0], (True, 1.0), planner=name) for name in ("mcts(leaf=both, n=3)", "beam", "greedy", "sampling")
    ]
    assert swept(run, "score - W*steps", [1], [*SEARCHES, *others]).left_out == ("beam", "mcts(leaf=both, n=3)")


@pytest.mark.parametrize(
    ("objective", "weights", "words"),
    [
        ("score - steps", [1], "has no W for the weight; write for example: score - W\\*steps"),
        ("score - W*W", [1], "cannot be read"),
        ("score - W*steps", [-1], "The weight -1 is negative"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_sentence(run, objective, weights, words):
    with pytest.raises(ConfigError, match=words):
        swept(run, objective, weights)


def test_a_run_without_best_of_n_is_told_what_to_type(run):
    with pytest.raises(ConfigError, match=r"type: armap evaluate --run .* --planner best_of_n"):
        swept(run, "score - W*steps", [1], [search(TASKS[0], (True, 1.0), planner="mcts")])


def test_candidates_that_were_scored_under_an_objective_are_refused(run):
    run.begin_stage("evaluate", {"objective": "score - steps"})
    with pytest.raises(ConfigError, match="was evaluated under the objective score - steps"):
        swept(run, "score - W*steps", [1])


def test_the_terminal_shows_the_trade_off_in_80_columns(run):
    table = swept(run, "score - W*price", [0, 0.1, 1])
    console = Console(width=80, record=True, file=StringIO())
    console.print(sweep_table(table))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    for words in ("score - W*price", "best_of_n", "2 tasks", "price", "steps", "Changed", "50 %", "1.000"):
        assert words in shown
