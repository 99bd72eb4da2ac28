import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from armap.cli import main

from .runs import armap, files, records, sentence

# Sittings are forked from a process that has imported everything, or torch alone would take a minute here.
_SITTINGS = multiprocessing.get_context("forkserver")
_SITTINGS.set_forkserver_preload(["armap.cli", "armap.rewards.fitting", "transformers.models.llama.modeling_llama"])

COLLECT = ("collect", "--env", "toy", "--model", "scripted", "--evaluation", 5, "--tasks", 70, "--samples", 8)
SYNTHESIZE = ("synthesize",)
EVALUATE = ("evaluate", "--n", 20, "--tasks", 5)


def _sit(args: tuple[str, ...], stderr: str) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    # multiprocessing has its children ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "torch" in sys.modules:
        # Threads that wait for each other on a busy machine take ten times as long.
        sys.modules["torch"].set_num_threads(1)
    sys.argv = ["armap", *args]
    main()


def sitting(*args: object, stderr: Path = Path(os.devnull)) -> multiprocessing.process.BaseProcess:
    process = _SITTINGS.Process(target=_sit, args=(tuple(map(str, args)), str(stderr)))
    process.start()
    return process


def killed_again_and_again(run: Path, command: tuple[object, ...], watched: str, *, kills: int, size: int) -> None:
    """Run a command and kill it whenever `watched` has grown past one of some random sizes; let it end at last."""
    rng = random.Random(0)
    for moment in sorted(rng.randrange(size * 9 // 10) for _ in range(kills)):
        process = sitting(*command, "--run", run)
        while process.is_alive() and (not (run / watched).exists() or (run / watched).stat().st_size < moment):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        process.join()
        assert process.exitcode == -9, f"a sitting of {command} was over before it could be killed"
    process = sitting(*command, "--run", run)
    process.join(60)
    assert process.exitcode == 0


def assert_same(run: Path, undisturbed: Path, name: str, *without: str) -> None:
    found = records(run, name, *without)
    assert len(found) == len(set(found)), f"{name} holds a record twice"
    assert found == records(undisturbed, name, *without)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    run = tmp_path_factory.mktemp("collected") / "run"
    armap(*COLLECT, "--run", run)
    return run


@pytest.fixture(scope="module")
def synthesized(tmp_path_factory, collected):
    run = tmp_path_factory.mktemp("synthesized") / "run"
    shutil.copytree(collected, run)
    armap(*SYNTHESIZE, "--run", run)
    return run


def test_ten_kills_while_collecting_change_no_trajectory_and_buy_nothing_twice(tmp_path, collected):
    run = tmp_path / "run"
    size = (collected / "completions.jsonl").stat().st_size
    killed_again_and_again(run, COLLECT, "completions.jsonl", kills=10, size=size)
    assert_same(run, collected, "trajectories")
    assert_same(run, collected, "tasks")
    assert_same(run, collected, "completions", "seconds")


def test_kills_while_synthesizing_change_no_pair(tmp_path, collected, synthesized):
    run = tmp_path / "run"
    shutil.copytree(collected, run)
    size = (synthesized / "pairs.jsonl").stat().st_size
    killed_again_and_again(run, SYNTHESIZE, "pairs.jsonl", kills=3, size=size)
    for name in ("pairs", "discarded"):
        assert_same(run, synthesized, name)
    assert_same(run, synthesized, "completions", "seconds")


def test_kills_while_evaluating_change_no_search(tmp_path, synthesized):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    shutil.copytree(synthesized, run)
    armap("train", "--kind", "linear", "--run", run)
    shutil.copytree(run, undisturbed)
    armap(*EVALUATE, "--run", undisturbed)
    size = (undisturbed / "completions.jsonl").stat().st_size
    killed_again_and_again(run, EVALUATE, "completions.jsonl", kills=4, size=size)
    # A planner need not step again through what another one did in the same sitting.
    assert_same(run, undisturbed, "searches", "seconds", "env_steps")
    assert_same(run, undisturbed, "completions", "seconds")


@pytest.fixture
def train(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: no interrupted fit is tested")
    from tiny_model import make_tiny_model

    options = ("--layers", 2, "--lora-rank", 4, "--pairs-per-step", 8, "--evaluate-every", 5)
    return ("train", "--backbone", make_tiny_model(tmp_path / "backbone"), "--patience", 1000, *options)


def test_ten_kills_while_training_change_no_point_no_score_and_no_weight(tmp_path, synthesized, train):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    for copy in (run, undisturbed):
        shutil.copytree(synthesized, copy)
    process = sitting(*train, "--run", undisturbed)
    process.join(60)
    assert process.exitcode == 0
    size = (undisturbed / "training.jsonl").stat().st_size
    killed_again_and_again(run, train, "training.jsonl", kills=10, size=size)
    assert_same(run, undisturbed, "training")
    assert_same(run, undisturbed, "heldout")
    assert files(run / "reward_model") == files(undisturbed / "reward_model")
    assert not (run / ".reward_model.draft").exists()


def test_ctrl_c_ends_a_fit_within_a_step_and_says_how_to_go_on(tmp_path, synthesized, train):
    run = tmp_path / "run"
    shutil.copytree(synthesized, run)
    process = sitting(*train, "--epochs", 500, "--run", run, stderr=tmp_path / "stderr")
    while not (run / "training.jsonl").exists():
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == 130
    assert sentence((tmp_path / "stderr").read_text()).endswith("Run the same command again to go on.")
