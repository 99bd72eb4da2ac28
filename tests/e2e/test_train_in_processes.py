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

from .runs import environment, with_pairs

# What accelerate calls a launch for several GPUs is its only one that starts several processes here.
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", 2, "--main_process_port", 0)
PROGRAM = Path(__file__).with_name("in_two_processes.py")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return with_pairs(tmp_path_factory.mktemp("pairs") / "run")


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


@pytest.fixture(scope="module")
def alone(pairs, tmp_path_factory) -> tuple[list[TrainingPoint], list[HeldoutScore]]:
    return train(pairs, tmp_path_factory.mktemp("alone"), sys.executable)


@pytest.mark.parametrize(
    "how", [("--multi_gpu",), ("--use_fsdp", "--fsdp_version", 2)], ids=["whole networks", "network in shards"]
)
def test_two_processes_follow_the_curve_of_one_with_the_same_batches(pairs, alone, tmp_path, how):
    points, scores = alone
    shared_points, shared_scores = train(pairs, tmp_path, *LAUNCH, *how, program=(PROGRAM,))
    assert len(points) == len(shared_points) >= 10
    for point, shared in zip(points, shared_points, strict=True):
        assert shared.model_dump() == pytest.approx(point.model_dump(), abs=1e-4)
    assert points[4].heldout_loss is not None
    for score, shared in zip(scores, shared_scores, strict=True):
        assert (shared.chosen, shared.rejected) == pytest.approx((score.chosen, score.rejected), abs=1e-3)
