import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the local extra is not installed: training in two processes is not tested")

from armap.store import RunFolder
from armap.types import HeldoutScore, TrainingPoint
from tiny_model import make_tiny_model

from .runs import armap, environment, with_pairs

# What accelerate calls a launch for several GPUs is its only one that starts several processes here.
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", 2, "--main_process_port", 0)
SHARED = {"whole networks": ("--multi_gpu",), "network in shards": ("--use_fsdp", "--fsdp_version", 2)}
PROGRAM = Path(__file__).with_name("in_two_processes.py")


def train(
    pairs: Path, folder: Path, *launch: object, program: Sequence[object] = ("-m", "armap.cli")
) -> tuple[list[TrainingPoint], list[HeldoutScore]]:
    """Train a copy of the run folder, and return the curve and the held-out scores."""
    run = folder / "run"
    shutil.copytree(pairs, run)
    backbone = make_tiny_model(folder / "backbone")
    # Seven pairs are shared unevenly by two processes, and take a different number of passes in each.
    options = ("--layers", 0, "--pairs-per-step", 7, "--evaluate-every", 5, "--lora-rank", 4, "--pass-tokens", 200)
    words = (*program, "train", "--run", run, "--backbone", backbone, *options, "--json")
    # So small a model only loses by sharing its sums among threads.
    env = environment() | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*map(str, launch), *map(str, words)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    # One process speaks, whoever else computes.
    assert 0 <= json.loads(done.stdout)["pairwise_accuracy"]["mean"] <= 1
    assert not (run / "checkpoints").exists()
    with RunFolder(run, writable=False) as there:
        return there.read("training", TrainingPoint), there.read("heldout", HeldoutScore)


def test_two_processes_follow_the_curve_of_one_with_the_same_batches(tmp_path, subtests):
    pairs = with_pairs(tmp_path / "pairs")
    points, scores = train(pairs, tmp_path / "alone", sys.executable)
    assert len(points) >= 10
    assert points[4].heldout_loss is not None
    for name, how in SHARED.items():
        with subtests.test(name):
            shared_points, shared_scores = train(pairs, tmp_path / name, *LAUNCH, *how, program=(PROGRAM,))
            for point, shared in zip(points, shared_points, strict=True):
                assert shared.model_dump() == pytest.approx(point.model_dump(), abs=1e-4)
            for score, shared in zip(scores, shared_scores, strict=True):
                assert (shared.chosen, shared.rejected) == pytest.approx((score.chosen, score.rejected), abs=1e-3)


def test_a_process_that_is_alone_writes_whatever_number_its_shell_has_left_over(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run = with_pairs(tmp_path / "run")
    armap("train", "--kind", "linear", "--run", run)
    assert (run / "reward_model").is_dir()
