import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the local extra is not installed: no curve is drawn elsewhere")

from armap.store import RunFolder
from armap.types import TrainingPoint
from tiny_model import make_tiny_model

from .runs import armap, environment, sentence, with_pairs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return with_pairs(tmp_path_factory.mktemp("pairs") / "mine")


def test_a_tracker_that_is_unknown_or_not_installed_is_one_sentence_and_binds_the_run_to_nothing(run, tmp_path):
    backbone = make_tiny_model(tmp_path / "backbone")
    train = ("train", "--run", run, "--backbone", backbone, "--tracker")
    assert sentence(armap(*train, "paper", code=2).stderr).startswith("There is no tracker 'paper'; choose from: aim, ")
    missing = [name for name in ("aim", "dvclive", "swanlab", "wandb") if importlib.util.find_spec(name) is None]
    said = sentence(armap(*train, missing[0], code=2).stderr)
    assert said == f"The tracker {missing[0]} is not installed; type: pip install {missing[0]}"
    assert "train" not in RunFolder(run, writable=False).manifest.stages


def test_trackio_is_told_the_whole_curve_on_this_machine_and_stdout_is_left_to_the_result(run, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed: nothing is tracked. Type: pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tracked"))
    backbone = make_tiny_model(tmp_path / "backbone")
    options = ("--backbone", backbone, "--lora-rank", 4, "--tracker", "trackio", "--json")
    assert json.loads(armap("train", "--run", run, *options).stdout)["pairs"] > 0
    command = ("get", "metric", "--project", "armap", "--run", "mine", "--metric", "loss", "--json")
    told = subprocess.run(
        [sys.executable, "-m", "trackio.cli", *command], capture_output=True, text=True, env=environment(), check=True
    )
    with RunFolder(run, writable=False) as there:
        points = there.read("training", TrainingPoint)
    values = json.loads(told.stdout)["values"]
    assert [(value["step"], value["value"]) for value in values] == [(point.step, point.loss) for point in points]
