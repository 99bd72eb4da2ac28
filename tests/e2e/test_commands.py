import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest

from armap.store import RunFolder
from armap.types import Metrics, SearchResult

from .runs import armap, environment, files, records, sentence

COLLECT = ("collect", "--env", "toy", "--model", "scripted", "--tasks", 120, "--samples", 8)
STAGES = (
    COLLECT,
    ("synthesize",),
    ("train", "--kind", "linear"),
    ("evaluate", "--n", 10, "--tasks", 40),
    ("plan", "1 -> red cube", "--n", 5),
    ("sweep", "--weights", "0,0.5,2"),
    ("judge-report",),
    ("report",),
)
SMALL = ("collect", "--env", "toy", "--model", "scripted", "--tasks", 10, "--samples", 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    for name, *options in STAGES:
        armap(name, *options, "--run", run)
    return run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    run = tmp_path_factory.mktemp("small") / "run"
    armap(*SMALL, "--run", run)
    return run


def test_planning_with_the_learned_reward_model_clearly_beats_acting_without_it(finished):
    metrics = Metrics.model_validate_json((finished / "metrics.json").read_bytes())
    assert set(metrics.planners) == {"greedy", "sampling", "best_of_n", "oracle"}
    success = {name: planner.success for name, planner in metrics.planners.items()}
    assert success["best_of_n"].low > success["sampling"].high
    assert success["best_of_n"].low > success["greedy"].high
    assert success["best_of_n"].mean <= success["oracle"].mean
    assert all(interval.low <= interval.mean <= interval.high for interval in success.values())
    assert metrics.reward_model.pairwise_accuracy.low > 0.5


def test_the_report_is_one_page_that_needs_nothing_else(finished):
    class Links(HTMLParser):
        found: list[str] = []  # noqa: RUF012 - one page is parsed

        def handle_starttag(self, tag, attrs):
            self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]

    page = (finished / "report.html").read_text("utf-8")
    Links().feed(page)
    assert all(link.startswith(("#", "data:")) for link in Links.found)
    assert not re.search(r"@import|url\((?!\s*['\"]?data:)", page)


def test_a_second_time_every_command_changes_nothing_and_prints_one_json_object(finished):
    before = files(finished)
    printed = {name: json.loads(armap(name, *rest, "--run", finished, "--json").stdout) for name, *rest in STAGES}
    after = files(finished)
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == []
    assert printed["evaluate"] == json.loads(after["metrics.json"])
    assert all(isinstance(value, dict) for value in printed.values())


def test_the_report_says_how_far_the_reward_model_can_be_trusted_and_so_does_one_about_another(tmp_path, finished):
    assert "How far the reward model can be trusted" in (finished / "report.html").read_text("utf-8")
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    own = json.loads((copy / "judge.json").read_bytes())
    assert own["success_by_n"][-1]["n"] == 10
    other = shutil.copytree(copy / "reward_model", tmp_path / "other")
    said = json.loads(armap("judge-report", "--run", copy, "--reward-model", other, "--json").stdout)
    # Of another one nobody here knows what it learned from.
    assert said == {**own, "reward_model": str(other), "held_out": False}
    assert json.loads((copy / "judge.json").read_bytes()) == own
    assert str(other) in (copy / "judge_report.html").read_text("utf-8")


def test_plan_reads_the_steps_aloud_and_names_who_chose(finished):
    said = armap("plan", "1 -> red cube", "--n", 5, "--run", finished).stdout
    assert said.startswith("Leave with the red cube.")
    assert re.search(r"^1\. (take|leave)", said, re.MULTILINE)
    assert re.search(r"best_of_n: candidate \d+ of 5, score -?\d+\.\d\d; \d+ calls", said)


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ((*COLLECT[:-1], 9), "samples was 8 and is now 9"),
        ((*COLLECT, "--evaluation", 3), 'agent.evaluation was "40" and is now "3"'),
        (("synthesize", "--writer", "model", "--judge", "none"), 'writer was "environment" and is now "model"'),
        (("train", "--kind", "linear", "--heldout-share", 0.5), "heldout_share was 0.2 and is now 0.5"),
        (("evaluate", "--n", 11, "--tasks", 40), "Stage 'evaluate best_of_n'"),
        (
            ("evaluate", "--n", 10, "--tasks", 40, "--objective", "score - steps"),
            'objective was null and is now "score',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stage_refuses_to_go_on_with_other_settings_and_names_them(finished, command, setting):
    before = files(finished)
    said = sentence(armap(*command, "--run", finished, code=2).stderr)
    assert setting in said
    assert said.endswith("use the old ones or another run folder.")
    assert files(finished) == before


def test_a_run_folder_in_use_is_refused_with_the_process_that_uses_it(small):
    with RunFolder(small):
        said = sentence(armap("synthesize", "--run", small, code=2).stderr)
    assert f"{small} is in use by process" in said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("collect", "--env", "chess"), "There is no environment 'chess'; choose from: game24, "),
        (("collect", "--env", "toy", "--model", "gone.gguf"), "There is no model file gone.gguf"),
        (("collect", "--model", "scripted", "--evaluation", "5-2000"), "1 to 1362"),
        (("collect", "--env", "toy", "--model", "scripted", "--tasks", 5000), "There are 378 training tasks"),
        (("collect", "--model", "scripted", "--strict"), "--strict"),
        (("collect", "--env", "toy", "--base-url", "http://me:secret@localhost/v1"), "ARMAP_API_KEY"),
        (("collect", "--env", "toy", "--base-url", "localhost"), "localhost"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_before_the_first_trajectory_is_one_sentence_and_binds_the_folder_to_nothing(
    tmp_path, command, words
):
    run = tmp_path / "run"
    said = sentence(armap(*command, "--run", run, code=2).stderr)
    assert words in said
    assert "secret" not in said
    assert not (run / "manifest.json").exists() or "secret" not in (run / "manifest.json").read_text()
    armap("collect", "--env", "toy", "--model", "scripted", "--tasks", 2, "--samples", 1, "--run", run)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("evaluate", "--planner", "oracle"), "There is no planner 'oracle'; choose from: greedy"),
        (("evaluate", "--planner", "mcts", "--set", "mcts.depth=2"), "mcts has no setting 'depth'; it has: "),
        (("evaluate", "--planner", "mcts", "--set", "beam.width=2"), "add --planner beam"),
        (("evaluate", "--planner", "mcts", "--set", "mcts=2"), "write PLANNER.SETTING=VALUE"),
        (("evaluate", "--objective", "score -"), "cannot be read"),
        (("sweep",), "--planner best_of_n"),
        (("sweep", "--weights", "0,a"), "--weights 0,a: write numbers"),
        (("plan", "1 -> red cube", "--reward-model", "gone"), "There is no reward model in"),
        (("plan", "the moon"), "'the moon' is no toy task"),
        (("evaluate", "--tasks", 10), "train one with `armap train`"),
        (("evaluate", "--tasks", 41), "There are 40 evaluation tasks"),
        (("train", "--kind", "linear"), "collect and synthesize more first"),
        (("train", "--kind", "linear", "--epochs", 2), "leave out --epochs"),
        (("train", "--kind", "linear", "--tracker", "trackio"), "leave out --tracker"),
        (("evaluate", "--reward-model", "chance", "--task-max-usd", 1), "No price of scripted is known"),
        (("synthesize", "--origin", "typo"), "--origin: Input should be"),
        (("evaluate", "--reward-model", "prompted", "--task-max-calls", 9), "is not counted by task"),
        (("plan", "1 -> red cube", "--reward-model", "prompted", "--task-max-tokens", 9), "is not counted by task"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_after_it_is_one_sentence_and_changes_nothing(small, command, words):
    before = files(small)
    assert words in sentence(armap(*command, "--run", small, code=2).stderr)
    assert files(small) == before


def test_an_export_does_not_write_over_the_records_of_the_run(finished):
    before = files(finished)
    said = sentence(armap("export", finished / "pairs.jsonl", "--run", finished, code=2).stderr)
    assert "would lie among the records" in said
    assert files(finished) == before


def test_a_model_that_is_nowhere_may_be_that_of_a_server(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: no local model is looked for")
    offline = environment() | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "armap.cli", "collect", "--model", "no-such-model", "--run", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=300, check=False)
    assert done.returncode == 2
    assert sentence(done.stderr).endswith("If a server has this model, name its address with --base-url.")


def test_a_model_in_a_folder_is_found_again_from_another_one(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed")
    from tiny_model import make_tiny_model

    make_tiny_model(tmp_path / "model")
    run = tmp_path / "run"
    armap("collect", "--env", "toy", "--model", "model", "--tasks", 1, "--samples", 1, "--run", run, cwd=tmp_path)
    options = ("--reward-model", "chance", "--planner", "greedy", "--tasks", 1)
    assert "No failures." in armap("evaluate", "--run", run, *options, cwd=tmp_path / "model").stdout


def test_a_demonstration_that_cannot_end_does_not_begin(tmp_path):
    run = tmp_path / "run"
    said = armap("demo", "--env", "toy", "--model", "scripted", "--evaluation", 3, "--run", run, code=2).stderr
    assert "There are 3 evaluation tasks" in said
    assert not (run / "trajectories.jsonl").exists()


def test_fewer_tasks_than_usual_are_all_tried_and_it_is_said_who_chose(tmp_path):
    run = tmp_path / "run"
    armap(
        "collect", "--env", "toy", "--model", "scripted", "--evaluation", 3, "--tasks", 2, "--samples", 1, "--run", run
    )
    said = armap("evaluate", "--run", run, "--reward-model", "chance", "--objective", "score - steps", "--n", 2).stdout
    assert "Chosen by score - steps, with the score of chance." in said
    assert "Pair accuracy" not in said
    assert {
        planner.tasks for planner in Metrics.model_validate_json((run / "metrics.json").read_bytes()).planners.values()
    } == {3}
    armap("report", "--run", run)
    assert "Chosen by score - steps, with the score of chance." in (run / "report.html").read_text("utf-8")


def test_a_damaged_reward_model_is_never_called_done(tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "reward_model" / "linear.npy").write_bytes(b"torn")
    for command in (("train", "--kind", "linear"), ("plan", "1 -> red cube")):
        said = sentence(armap(*command, "--run", run, code=2).stderr)
        assert f"delete {run / 'reward_model'} and train again" in said
    shutil.rmtree(run / "reward_model")
    armap("train", "--kind", "linear", "--run", run)
    assert files(run)["reward_model/linear.npy"] == files(finished)["reward_model/linear.npy"]


@pytest.mark.parametrize("command", [("synthesize",), ("report",)])
def test_a_missing_run_folder_is_named_and_not_made(tmp_path, command):
    run = tmp_path / "typo"
    assert f"begin with `armap collect --run {run}`" in sentence(armap(*command, "--run", run, code=2).stderr)
    assert not run.exists()


@pytest.mark.parametrize("command", [("collect", "--temperature", "nan"), ("fly",)])
def test_a_value_that_no_option_takes_ends_with_2(tmp_path, command):
    said = armap(*command, "--run", tmp_path / "run", code=2).stderr
    assert "Error" in said


def test_a_spent_budget_ends_with_3_and_a_larger_one_completes_the_run(tmp_path, small):
    run = tmp_path / "run"
    said = sentence(armap(*SMALL, "--run", run, "--max-calls", 20, code=3).stderr)
    assert "max_calls=20 (used: 20)" in said
    assert len(records(run, "completions")) == 20
    done = armap(*SMALL, "--run", run, "--max-calls", 1000, "--json")
    assert json.loads(done.stdout) | {"trajectories": 40, "failed": 0} == json.loads(done.stdout)
    assert records(run, "trajectories") == records(small, "trajectories")
    assert records(run, "completions", "seconds") == records(small, "completions", "seconds")


def test_a_full_disk_is_one_sentence_and_with_room_the_run_completes(tmp_path, small):
    run = tmp_path / "run"

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    said = sentence(armap(*SMALL, "--run", run, code=2, preexec_fn=small_files).stderr)
    assert ".jsonl: " in said
    assert "every record before it was" in said
    armap(*SMALL, "--run", run)
    assert records(run, "trajectories") == records(small, "trajectories")


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_being_told_to_end_end_with_130_and_say_how_to_go_on(told, in_background, tmp_path):
    run = tmp_path / "run"

    def as_shell_scripts_do():
        if in_background:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    collect = (*COLLECT[:5], "--tasks", 300, "--samples", 20, "--run", run)
    process = subprocess.Popen(
        [sys.executable, "-m", "armap.cli", *map(str, collect)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=as_shell_scripts_do,
    )
    while not (run / "trajectories.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(told)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert sentence(stderr) == "Interrupted; what was finished is stored. Run the same command again to go on."


def test_searches_of_two_reward_models_do_not_mix(tmp_path, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    calibration = run / "reward_model" / "calibration.json"
    fitted = json.loads(calibration.read_text())
    calibration.write_text(json.dumps(fitted | {"slope": fitted["slope"] / 2}))
    said = sentence(armap("evaluate", "--n", 10, "--tasks", 40, "--run", run, code=2).stderr)
    assert "'evaluate'" in said
    assert "began with other settings (calibration" in said


def test_a_run_folder_can_be_moved_and_goes_on_at_its_new_place(tmp_path, finished):
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(finished, moved)
    before = files(moved)
    armap("evaluate", "--n", 10, "--tasks", 40, "--run", "run", cwd=moved.parent)
    assert files(moved) == before


def test_planners_and_settings_are_added_to_an_evaluation_one_after_another(tmp_path, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    few = ("evaluate", "--n", 10, "--tasks", 40, "--run", run)
    armap(*few, "--planner", "mcts", "--planner", "beam", "--task-max-calls", 30)
    printed = armap(*few, "--planner", "mcts_paper", "--planner", "mcts", "--set", "mcts.leaf=both", "--json").stdout
    planners = Metrics.model_validate_json(printed).planners
    assert list(planners) == [
        "greedy", "sampling", "beam(max_calls=30, n=10)", "best_of_n", "mcts(leaf=both, n=10)",
        "mcts(max_calls=30, n=10)", "mcts_paper", "oracle",
    ]  # fmt: skip
    assert planners["mcts(max_calls=30, n=10)"].calls <= 30
    assert planners["mcts(leaf=both, n=10)"].difference_to_greedy.low > 0
    said = sentence(armap("sweep", "--run", run).stderr)
    assert said.startswith("Left out: beam(max_calls=30, n=10), mcts(leaf=both, n=10)")


def test_an_evaluation_is_enlarged_without_doing_again_what_is_there(tmp_path, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for left_over in ("searches.jsonl", "metrics.json", "judge_report.html"):
        (run / left_over).unlink()
    few = json.loads(armap("evaluate", "--n", 10, "--tasks", 15, "--run", run, "--json").stdout)
    begun = (run / "searches.jsonl").read_bytes()
    armap("evaluate", "--n", 10, "--tasks", 40, "--run", run)
    assert few["planners"]["best_of_n"]["tasks"] == 15
    assert (run / "searches.jsonl").read_bytes().startswith(begun)
    assert records(run, "searches", "seconds", "usage") == records(finished, "searches", "seconds", "usage")


def test_a_search_keeps_to_its_trajectories(tmp_path, finished):
    more = ("--planner", "mcts", "--set", "mcts.leaf=value", "--n", 200, "--task-max-trajectories", 5)
    result = SearchResult.model_validate_json(armap("plan", "1 -> red cube", "--run", finished, *more, "--json").stdout)
    assert len(result.candidates) <= 5


def test_an_objective_shortens_what_is_done_and_a_metric_nobody_reports_is_said_once(finished):
    plan = ("plan", "1 -> red cube", "--n", 20, "--run", finished, "--json")
    usual, short = (
        SearchResult.model_validate_json(armap(*plan, *more).stdout) for more in ((), ("--objective", "-steps"))
    )
    steps = [len(result.candidates[result.answer].trajectory.steps) for result in (usual, short)]
    assert steps[1] == min(len(candidate.trajectory.steps) for candidate in short.candidates)
    assert steps[1] <= steps[0]
    said = sentence(armap(*plan, "--objective", "score - price").stderr)
    assert said == "No trajectory reports price, so score - price counts it as 0; reported are: steps."


def test_reflexion_stops_at_a_probability(finished):
    plan = ("plan", "1 -> red cube", "--planner", "reflexion", "--n", 3, "--run", finished, "--json")
    tried = [
        len(json.loads(armap(*plan, "--set", f"reflexion.threshold={threshold}").stdout)["candidates"])
        for threshold in ("1e-9", "1")
    ]
    assert tried == [1, 3]


def test_a_planner_asked_for_twice_tries_every_task_once(tmp_path, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "searches.jsonl").unlink()
    manifest = json.loads((run / "manifest.json").read_bytes())
    for stage in [stage for stage in manifest["stages"] if stage.startswith("evaluate")]:
        del manifest["stages"][stage]
    (run / "manifest.json").write_text(json.dumps(manifest))
    twice = ("--planner", "greedy", "--planner", "sampling", "--planner", "greedy")
    armap("evaluate", *twice, "--n", 2, "--tasks", 3, "--run", run)
    with RunFolder(run) as folder:
        tried = [(result.task.id, result.planner) for result in folder.read("searches", SearchResult)]
    assert len(tried) == len(set(tried)) == 6


def test_nothing_but_the_result_goes_to_stdout_and_progress_is_one_line_in_a_log(tmp_path):
    done = armap(*SMALL, "--run", tmp_path / "run")
    assert done.stdout == f"40 trajectories are in {tmp_path / 'run' / 'trajectories.jsonl'}; none failed\n"
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr


def test_the_version_is_that_of_the_package():
    assert armap("--version").stdout.split() == ["armap", "0.1.0"]


@pytest.mark.parametrize("command", ["", "demo", "train"])
def test_help_fits_80_columns_and_cuts_no_option_short(command):
    said = armap(*command.split(), "--help").stdout
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said


def test_doctor_says_what_is_there_and_what_to_type_for_the_rest():
    command = [sys.executable, "-m", "armap.cli", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    lines = done.stdout.splitlines()[1:]
    missing = [line for line in lines if line.startswith("missing")]
    assert all("type: pip install" in line for line in missing)
    assert done.returncode == bool(missing)
    assert any(line.split()[:2] == ["ok", "python"] for line in lines)
