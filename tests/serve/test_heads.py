"""What is served has a trained head, or is not served."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the local extra is not installed: no transformer reward model is served")

from safetensors.torch import load_file, save_file

from armap.rewards.transformer import TransformerRewardModel
from e2e.runs import armap, sentence
from tiny_model import make_tiny_model


def lose(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    del stored["score.weight"]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def double(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["score.weight"] = stored["score.weight"].repeat(2, 1)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    labels = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    (folder / "config.json").write_text(json.dumps(config | labels))


def adapt(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [(lose, "has no trained reward head"), (double, "has 2 labels"), (adapt, "holds a LoRA adapter")],
)
def test_a_model_without_a_trained_head_is_refused_in_one_sentence(tmp_path, damage, words):
    TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "backbone"), seed=1).save(tmp_path / "judge")
    damage(tmp_path / "judge")
    said = sentence(armap("serve", "--reward-model", tmp_path / "judge", "--port", 0, code=2).stderr)
    assert words in said
    assert str(tmp_path / "judge") in said
