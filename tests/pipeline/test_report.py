import re
from collections.abc import Iterable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from armap.llms.scripted import ScriptedLLM
from armap.pipeline.evaluate import evaluate
from armap.pipeline.report import metrics_table, write_report
from armap.pipeline.sweep import sweep
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.store import RunFolder
from armap.types import (
    DiscardedPair,
    Failure,
    HeldoutScore,
    Metrics,
    Record,
    SearchResult,
    SearchTree,
    Step,
    Task,
    TaskFailure,
    TrainingPoint,
    Trajectory,
)

from .records import BROKEN, TASKS, really_search, search, trajectory

HOSTILE = "<script>alert('x')</script>\"'&amp;<img src=x onerror=y> $title ${content} {0} %s [red]"
VOID = {"meta", "br", "hr", "img", "input", "link"}


@pytest.fixture
def run(tmp_path: Path) -> Iterable[RunFolder]:
    with RunFolder(tmp_path / "run") as folder:
        yield folder


class Page(HTMLParser):
    """Checks that what is opened is closed, and collects what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def reported(run: RunFolder, **records: Iterable[Record]) -> Page:
    for name, group in records.items():
        for record in group:
            run.append(name, record)
    evaluate(run)
    return Page(write_report(run).read_text(encoding="utf-8"))


def write_page(run: RunFolder, records: dict[str, list[Record]]) -> str:
    reported(run, **records)
    return (run.path / "report.html").read_text(encoding="utf-8")


def terminal(metrics: Metrics, width: int = 80) -> str:
    console = Console(width=width, file=StringIO())
    console.print(metrics_table(metrics))
    return console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


async def full_run() -> dict[str, list[Record]]:
    """Return the records of a run in which something is solved, missed, unsolvable and broken."""
    missed = search(TASKS[0], (True, 0.0), (False, 1.0))
    solved = [search(task, (True, 2.0), (False, 1.0)) for task in TASKS[1:4]]
    unsolvable = search(TASKS[4], (False, 0.5), (False, 0.25))
    gone = SearchResult(task=TASKS[5], planner="best_of_n", failure=BROKEN)
    greedy = await really_search(ScriptedLLM(), TASKS[:5], Greedy())
    return {
        "trajectories": [trajectory(task, solved=True) for task in TASKS],
        "discarded": [
            DiscardedPair(id="1", origin="altered_action", check="outcome", reason="the outcome is the same")
        ],
        "failures": [TaskFailure(stage="collect", task_id="x", failure=BROKEN)],
        "searches": [missed, *solved, unsolvable, gone, *greedy],
        "training": [
            TrainingPoint(step=1, loss=0.7, accuracy=0.5),
            TrainingPoint(step=2, loss=0.6, accuracy=0.75, heldout_loss=0.65, heldout_accuracy=0.6),
            TrainingPoint(step=2, loss=0.6, accuracy=0.75, heldout_loss=0.65, heldout_accuracy=0.6),
            TrainingPoint(step=3, loss=0.5, accuracy=1.0, heldout_loss=0.55, heldout_accuracy=0.7),
        ],
        "heldout": [
            HeldoutScore(pair_id=str(i), source_task_id=str(i), origin="other_outcome", chosen=i, rejected=1)
            for i in range(4)
        ],
    }


async def test_a_full_run_is_a_well_formed_page_with_every_part(run):
    run.begin_stage("plan", {"n": 2, "planners": ["greedy", "best_of_n"]})
    page = reported(run, **await full_run())
    for part in (
        "Failures", "Gap closed", "Pairwise accuracy", "Separation", "Results", "Figures", "Data", "Policy",
        "Trajectories to read", "How it was run", "the outcome is the same", "Greedy", "Oracle (ceiling)",
    ):  # fmt: skip
        assert part in page.text
    assert len(page.named("h1")) == 1
    charts = [attributes for attributes in page.named("svg") if attributes.get("role") == "img"]
    assert [chart["aria-label"] for chart in charts] == [
        "Success against the number of candidates",
        "Loss during training",
        "Accuracy during training",
        "Scores of solved and unsolved candidates",
    ]
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.named("th"))
    assert page.text.index("the room is gone") < page.text.index("Gap closed")


async def test_the_page_loads_nothing_and_runs_nothing(run):
    text = write_page(run, await full_run())
    assert not re.search(r"https?:|//|url\(|@import|javascript:", text)
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "img", "base", "form"} & {tag for tag, _ in page.tags}
    assert not [attributes for _, attributes in page.tags if {"src", "href", "srcset", "style"} & set(attributes)]
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


async def test_a_solved_a_missed_and_an_unsolvable_task_can_be_read(run):
    page = reported(run, **await full_run())
    assert len(page.named("article")) == 5
    reasons = [text for text in page.texts if text.startswith(("Solved", "Missed"))]
    assert reasons == [
        "Solved",
        "Solved",
        "Missed: the answer",
        "Missed: a candidate that solves the task and was passed over",
        "Solved by none of 2 candidates: the answer",
    ]
    assert "score 1.000; the environment paid 0; terminated" in page.text
    assert "score 0.000; the environment paid 1; terminated" in page.text


def hostile(result: SearchResult) -> SearchResult:
    """Return the search with hostile text wherever a record may hold text."""
    task = Task(id=HOSTILE, env=HOSTILE, instruction=HOSTILE)
    candidates = []
    for candidate in result.candidates:
        steps = tuple(
            Step(
                observation=step.observation.model_copy(update={"text": HOSTILE}),
                action=step.action.model_copy(update={"text": HOSTILE, "thought": HOSTILE}),
                env_reward=step.env_reward,
            )
            for step in candidate.trajectory.steps
        )
        attempt = Trajectory(
            id=HOSTILE,
            task=task,
            steps=steps,
            final_observation=candidate.trajectory.final_observation.model_copy(update={"text": HOSTILE}),
            stop_reason="terminated",
        )
        candidates.append(candidate.model_copy(update={"trajectory": attempt}))
    return result.model_copy(update={"task": task, "candidates": tuple(candidates)})


def test_text_of_records_is_shown_and_never_obeyed(tmp_path):
    with RunFolder(tmp_path / "<i>run & co") as run:
        run.begin_stage(HOSTILE, {HOSTILE: HOSTILE})
        failure = Failure(kind=HOSTILE, message=HOSTILE)
        text = write_page(
            run,
            {
                "searches": [
                    hostile(search(TASKS[0], (True, 1.0), (False, 0.0))),
                    search(TASKS[1], (True, None), planner=HOSTILE),
                ],
                "failures": [TaskFailure(stage=HOSTILE, task_id=HOSTILE, failure=failure)],
                "discarded": [DiscardedPair(id=HOSTILE, origin=HOSTILE, check="judge", reason=HOSTILE)],
                "heldout": [
                    HeldoutScore(pair_id=HOSTILE, source_task_id=HOSTILE, origin=HOSTILE, chosen=1, rejected=0)
                ],
            },
        )
        page = Page(text)
        assert "script" not in {tag for tag, _ in page.tags}
        assert not page.named("img")
        assert not page.named("i")
        # Instruction, id, two observations, actions and thoughts, planner, failure, reason, origin.
        assert page.text.count(" ".join(HOSTILE.split())) >= 12
        assert "Run <i>run & co" in page.text
        metrics = run.read_json("metrics", Metrics)
        assert metrics is not None
        # Stage and kind of the failure in the title, and the planner in its row.
        assert terminal(metrics, width=400).count("[red]") == 3


def test_an_empty_run_and_one_that_was_not_evaluated_give_a_page(run):
    assert "has not been evaluated" in Page(write_report(run).read_text()).text
    page = reported(run)
    assert "No failures" in page.text
    assert not page.named("table")
    assert not page.named("svg")


FILES = ("trajectories", "discarded", "failures", "searches", "training", "heldout")


@pytest.mark.parametrize("missing", FILES)
async def test_any_file_may_be_missing(run, missing):
    records = await full_run()
    del records[missing]
    page = reported(run, **records)
    assert ("Results" in page.text) == (missing != "searches")
    assert ("Loss during training" in page.text) == (missing != "training")


@pytest.mark.parametrize("only", FILES)
async def test_one_file_is_enough_for_a_page(run, only):
    assert reported(run, **{only: (await full_run())[only]}).named("h1")


@pytest.mark.parametrize(
    "point",
    [
        TrainingPoint(step=1, loss=0.0, accuracy=0.0),
        TrainingPoint(step=1, loss=1e9, accuracy=1.0, heldout_loss=1e-12, heldout_accuracy=0.5),
    ],
)
def test_a_single_point_of_training_can_be_drawn(run, point):
    assert "Loss during training" in reported(run, training=[point]).text


@pytest.mark.parametrize("scores", [(0.0, 0.0), (1e9, -1e9), (1e-9, 2e-9), (1e9 + 1e-6, 1e9)])
def test_any_scores_can_be_drawn_inside_the_chart(run, scores):
    page = reported(run, searches=[search(TASKS[0], (True, scores[0]), (False, scores[1]))])
    (first, second) = [attributes["points"] for attributes in page.named("polygon")]
    places = [tuple(map(float, place.split(","))) for place in f"{first} {second}".split()]
    assert all(0 <= left <= 440 and 0 <= top <= 290 for left, top in places)


def test_scores_are_drawn_relative_to_their_task(tmp_path):
    drawn = []
    for offset in (0.0, 100.0):
        with RunFolder(tmp_path / str(offset)) as run:
            searches = [
                search(task, (True, 2.0 + shift), (False, shift))
                for task, shift in ((TASKS[0], 0.0), (TASKS[1], offset))
            ]
            drawn.append([attributes["points"] for attributes in reported(run, searches=searches).named("polygon")])
    assert drawn[0] == drawn[1]


async def test_a_step_that_was_told_again_after_a_resumption_is_drawn_once(run):
    page = reported(run, training=(await full_run())["training"])
    lines = [attributes["points"] for attributes in page.named("polyline")]
    assert [len((line or "").split()) for line in lines] == [3, 2, 3, 2]


async def test_what_is_shown_to_read_does_not_depend_on_who_finished_first(run, tmp_path):
    searches = (await full_run())["searches"]
    with RunFolder(tmp_path / "other") as other:
        backwards = reported(other, searches=searches[::-1]).text
    forwards = reported(run, searches=searches).text
    part = "Trajectories to read"
    assert (
        forwards.partition(part)[2].partition("How it")[0] == backwards.partition(part)[2].partition("How it")[0] != ""
    )


def test_a_new_page_replaces_the_old_one_and_leaves_no_draft(run):
    first = write_report(run)
    evaluate(run)
    assert write_report(run) == first
    assert "has not been evaluated" not in first.read_text()
    assert not list(run.path.glob(".report*"))


async def test_the_same_run_gives_the_same_page(run):
    text = write_page(run, await full_run())
    assert write_report(run).read_text(encoding="utf-8") == text


async def test_the_terminal_shows_failures_first_and_fits_80_columns(run):
    records = await full_run()
    for name, group in records.items():
        for record in group:
            run.append(name, record)
    lines = terminal(evaluate(run)).splitlines()
    assert lines[0].strip() == "Failures: 1 × EnvError in collect, 1 × EnvError in best_of_n."
    shown = "\n".join(lines)
    best = next(line for line in lines if "Best-of-N" in line)
    assert "50.0 %" in best
    assert "failed: 1 of 6" in lines[lines.index(best) + 1]
    assert max(map(len, lines)) <= 80
    for label in ("Greedy", "Sampling", "Oracle", "Gap closed", "Pair accuracy"):
        assert label in shown
    assert shown.index("Oracle") < shown.index("Gap closed")


async def test_the_terminal_says_when_nothing_failed(run):
    for record in await really_search(ScriptedLLM(), TASKS[:4], BestOfN(n=3)):
        run.append("searches", record)
    assert "No failures." in terminal(evaluate(run))


def test_several_planners_stand_side_by_side_each_with_its_settings_and_what_it_gains(run):
    names = (
        "greedy",
        "best_of_n",
        "mcts",
        "mcts(leaf=both, wave=1, n=30)",
        "mcts_paper",
        "reflexion(memory=none, n=9)",
    )
    searches = [search(task, (i % 2 == 0, 1.0), planner=name) for i, task in enumerate(TASKS[:6]) for name in names]
    for record in searches:
        run.append("searches", record)
    metrics = evaluate(run)
    lines = terminal(metrics).splitlines()
    assert max(map(len, lines)) <= 80
    shown = " ".join("\n".join(lines).split())
    assert "Over Best-of-N" in shown
    page = Page(write_report(run).read_text(encoding="utf-8")).text
    for label in ("Greedy", "MCTS (leaf=both, wave=1, n=30)", "MCTS, paper", "Reflexion (memory=none, n=9)"):
        assert label in page
    for heading in ("Over sampling", "Over greedy", "Over Best-of-N", "Trajectories"):
        assert heading in page


def test_the_search_tree_of_one_task_can_be_read(run):
    tree = SearchTree(
        parents=(-1, 0),
        actions=("", HOSTILE),
        priors=(1.0, 1.0),
        visits=(2, 2),
        values=(0.25, 0.25),
        scores=(None, None),
    )
    searches = [search(task, (True, 1.0), planner="mcts").model_copy(update={"tree": tree}) for task in TASKS[:3]]
    page = reported(run, searches=searches)
    assert "Search trees" in page.text
    assert page.text.count("the start") == 1
    assert not page.named("img")


def test_sweeps_are_drawn_with_a_table_and_a_chart_for_each_quantity(run):
    run.append("searches", search(TASKS[0], (True, 1.0), (False, 0.5)))
    sweep(run, "score - W*steps", [0, 1, 2])
    page = reported(run)
    assert "score - W*steps" in page.text
    charts = [
        chart["aria-label"] for chart in page.named("svg") if "against the weight" in (chart.get("aria-label") or "")
    ]
    assert charts == [
        "environment reward against the weight in score - W*steps",
        "steps against the weight in score - W*steps",
    ]
