"""Preference pairs out to other people's trainers, and other people's pairs in to ours."""

import json
import shutil
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch", reason="the local extra is not installed: exchanged pairs are not trained on")

from PIL import Image

from armap.store import RunFolder
from armap.types import PreferencePair
from tiny_model import make_tiny_model, make_tiny_vision_model

from .runs import armap, sentence, with_pairs

OBJECTS = ("cube", "ball", "cone")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_our_pairs_train_in_trls_reward_trainer(tmp_path, monkeypatch):
    trl = pytest.importorskip("trl", reason="trl is not installed: whether our pairs train there is not tested")
    from datasets import load_dataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    armap("export", tmp_path / "pairs.jsonl", "--run", with_pairs(tmp_path / "run"))
    pairs = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    trainer = trl.RewardTrainer(
        model=make_tiny_model(tmp_path / "tiny"),
        args=trl.RewardConfig(
            output_dir=str(tmp_path / "trained"),
            max_steps=2,
            per_device_train_batch_size=4,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
        ),
        train_dataset=pairs,
    )
    with RunFolder(tmp_path / "run", writable=False) as run:
        assert len(trainer.train_dataset) == len(run.read("pairs", PreferencePair)) > 8
    trainer.train()
    assert [point["step"] for point in trainer.state.log_history if "loss" in point] == [1, 2]


def foreign_set(file: Path) -> None:
    """Write pairs as a chat assistant's users would make them: the right thing is taken, or another one."""
    rng = Random(0)
    rows = []
    for _ in range(80):
        wanted, other = rng.sample(OBJECTS, 2)
        color = rng.choice(("red", "green", "blue"))
        asked = {"role": "user", "content": f"Leave with the {color} {wanted}."}
        chosen, rejected = (f"take {color} {wanted}", f"take nothing , leave the {color} {other}")
        rows.append(
            {
                "chosen": [asked, {"role": "assistant", "content": chosen}],
                "rejected": [asked, {"role": "assistant", "content": rejected}],
            }
        )
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def test_anybodys_pairs_train_here_and_are_judged_right_when_held_out(tmp_path):
    foreign_set(tmp_path / "set.jsonl")
    armap("import", tmp_path / "set.jsonl", "--run", tmp_path / "run")
    tiny = ("--backbone", make_tiny_model(tmp_path / "tiny"), "--lora-rank", 8, "--learning-rate", 1e-2)
    refused = armap("train", "--run", tmp_path / "run", *tiny, "--max-tokens", 16, code=2)
    assert "train a reward model with a higher --max-tokens" in refused.stderr
    trained = json.loads(armap("train", "--run", tmp_path / "run", *tiny, "--epochs", 2, "--json").stdout)
    assert trained["source_tasks"] >= 2
    assert trained["pairwise_accuracy"]["mean"] > 0.95


def test_pairs_that_differ_beyond_what_is_read_are_not_trained_on(tmp_path):
    rows = [
        {"prompt": f"Leave {i}.", "chosen": "take red " * 300 + "cube", "rejected": "take red " * 300 + "ball"}
        for i in range(10)
    ]
    (tmp_path / "set.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    armap("import", tmp_path / "set.jsonl", "--run", tmp_path / "run")
    tiny = ("--backbone", make_tiny_model(tmp_path / "tiny"), "--lora-rank", 8, "--max-tokens", 64)
    refused = armap("train", "--run", tmp_path / "run", *tiny, code=2)
    assert "reads both sides of every pair alike" in refused.stderr


def test_an_imported_run_trains_and_reports_but_nothing_acts_in_it(tmp_path):
    foreign_set(tmp_path / "set.jsonl")
    run = tmp_path / "run"
    said = armap("import", tmp_path / "set.jsonl", "--run", run).stdout
    assert said == f"80 pairs are in {run / 'pairs.jsonl'}.\n"
    armap("train", "--kind", "linear", "--run", run)
    assert json.loads(armap("judge-report", "--run", run, "--json").stdout)["held_out"] is True
    armap("report", "--run", run)
    assert sentence(armap("evaluate", "--run", run, code=2).stderr).startswith("Nothing was collected in")


def test_a_reward_model_that_is_trained_again_is_examined_again(tmp_path):
    foreign_set(tmp_path / "set.jsonl")
    run = tmp_path / "run"
    armap("import", tmp_path / "set.jsonl", "--run", run)
    armap("train", "--kind", "linear", "--run", run, "--heldout-share", 0.2)
    (run / "heldout.jsonl").unlink()
    shutil.rmtree(run / "reward_model")
    armap("train", "--kind", "linear", "--run", run, "--heldout-share", 0.6)
    judged = json.loads((run / "judge.json").read_text("utf-8"))
    assert judged["pairs"] == len((run / "heldout.jsonl").read_text("utf-8").splitlines())


def pictured_set(file: Path) -> None:
    """Write pairs whose right side only the picture tells, as `datasets` writes them."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: nobody else's pictures are taken in")
    rng = Random(0)
    rows = []
    for i in range(80):
        shown, other = rng.sample(("red", "green"), 2)
        picture = Image.new("RGB", (32, 32), shown)
        rows.append({"prompt": f"cube {i % 40}", "chosen": shown, "rejected": other, "images": [picture]})
    pairs = datasets.Dataset.from_list(rows)
    pairs.cast_column("images", datasets.List(datasets.Image())).to_parquet(file)


def test_anybodys_pictures_are_learned_from(tmp_path):
    pictured_set(tmp_path / "set.parquet")
    armap("import", tmp_path / "set.parquet", "--run", tmp_path / "run")
    tiny = ("--backbone", make_tiny_vision_model(tmp_path / "tiny", "qwen2_5_vl"), "--lora-rank", 16)
    how = ("--lora-alpha", 32, "--learning-rate", 1e-2, "--epochs", 6, "--evaluate-every", 40, "--json")
    trained = json.loads(armap("train", "--run", tmp_path / "run", *tiny, *how).stdout)
    assert trained["pairwise_accuracy"]["mean"] > 0.95
