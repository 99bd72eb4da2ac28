import io
import itertools
import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the local extra is not installed: VILA is not tested")
sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed: VILA is not tested")

from peft import LoraConfig, get_peft_model  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch.nn import functional  # noqa: E402

from armap.errors import ConfigError, RewardModelError  # noqa: E402
from armap.images import ImageFolder  # noqa: E402
from armap.rewards import rendering  # noqa: E402
from armap.rewards.fit_settings import FitSettings  # noqa: E402
from armap.rewards.fitting import TransformerFit  # noqa: E402
from armap.rewards.transformer import TransformerRewardModel  # noqa: E402
from armap.rewards.vila import VilaRewardModel  # noqa: E402
from armap.types import Action, ImageRef, Observation, Step, Task, Trajectory  # noqa: E402
from armap.weights import Scorer  # noqa: E402
from tiny_vila import LAYERS, make_tiny_adapter, make_tiny_vila, write_projector  # noqa: E402

from .toy_pairs import toy_pairs  # noqa: E402

TASK = Task(id="task", env="toy", instruction="Leave with the red cube.")
SIZES = [(64, 48), (30, 90), (200, 200), (40, 40)]


# What is scored


def png(seed: int, size: tuple[int, int]) -> bytes:
    """Return a picture of random dots in colour."""
    file = io.BytesIO()
    Image.frombytes("RGB", size, Random(seed).randbytes(3 * size[0] * size[1])).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageFolder:
    return ImageFolder(tmp_path_factory.mktemp("images"))


def play(images: ImageFolder, shown: list[int | None], *, words: str = "red cube") -> Trajectory:
    """Return two actions and three observations, each with the numbered picture or none."""
    refs = [None if i is None else images.add(png(i, SIZES[i])) for i in shown]
    first, second, last = [*refs, None, None, None][:3]
    return Trajectory(
        id=f"{shown} {words}",
        task=TASK,
        steps=(
            Step(
                observation=Observation(text=f"On shelf: {words}.\nYou hold nothing.", image=first),
                action=Action(text="take the red cube", thought="take it"),
            ),
            Step(observation=Observation(text="You hold the red cube.", image=second), action=Action(text="leave")),
        ),
        final_observation=Observation(text="You left with the red cube.", image=last),
        stop_reason="terminated",
    )


def plays(images: ImageFolder) -> list[Trajectory]:
    """Return trajectories with no picture, one, three, and twice the same one."""
    return [play(images, shown) for shown in ([], [0], [None, None, 3], [0, 1, 2], [2, 1, 0], [1, 1, None])]


# The published formulas, one sequence at a time, from the files alone


def reference(checkpoint: Path, images: ImageFolder, trajectory: Trajectory, head: dict, adapter: Path | None = None):
    """Return what VILA with a reward head says of a trajectory."""
    top, text = (json.loads((checkpoint / name).read_text()) for name in ("config.json", "llm/config.json"))
    weights = {
        name: weight for file in (checkpoint / "llm").glob("*.safetensors") for name, weight in load_file(file).items()
    }
    if adapter:
        add_lora(weights, adapter)
    embedded = weights["model.embed_tokens.weight"]
    model = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint / "llm" / "tokenizer.model"))
    parts = [embedded[[1]]]
    for piece in rendering.pieces(trajectory):
        if isinstance(piece, str):
            parts.append(embedded[model.encode(piece)])
        else:
            parts.append(project(checkpoint, look(checkpoint, pixels(checkpoint, images, piece), top)))
    hidden = read(torch.cat(parts), weights, text)
    return float(hidden[-1] @ head["weight"][0] + head["bias"][0])


def add_lora(weights: dict, adapter: Path) -> None:
    folder = adapter / "adapter_model" / "lora_default"
    config = json.loads((folder / "adapter_config.json").read_text())
    file = folder / "adapter_model.safetensors"
    stored = load_file(file) if file.exists() else torch.load(folder / "adapter_model.bin", weights_only=True)
    for name, lower in stored.items():
        inside = name.removeprefix("base_model.model.").removeprefix("llm.").replace(".lora_A", "")
        if ".lora_A." in name and "vision_tower" not in name:
            weights[inside] += config["lora_alpha"] / config["r"] * stored[name.replace("lora_A", "lora_B")] @ lower


def pixels(checkpoint: Path, images: ImageFolder, ref: ImageRef) -> Any:
    """Return `[3, S, S]` numbers from -1 to 1."""
    side = json.loads((checkpoint / "vision_tower" / "config.json").read_text())["image_size"]
    image = Image.open(io.BytesIO(images.read(ref)))
    if json.loads((checkpoint / "config.json").read_text())["image_aspect_ratio"] == "pad":
        square = Image.new("RGB", (max(image.size),) * 2, (127, 127, 127))
        square.paste(image, tuple((max(image.size) - length) // 2 for length in image.size))
        image = square
    scaled = image.resize((side, side), Image.Resampling.BICUBIC)
    values = torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8).reshape(side, side, 3)
    return values.permute(2, 0, 1) / 127.5 - 1


def look(checkpoint: Path, picture: Any, top: dict) -> Any:
    """Return `[P, E]` features: SigLIP up to the layer that is asked for, without the norm after the last."""
    config = json.loads((checkpoint / "vision_tower" / "config.json").read_text())
    stored = load_file(checkpoint / "vision_tower" / "model.safetensors")
    weights = {name.removeprefix("vision_model."): weight for name, weight in stored.items()}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    patches = picture.unfold(1, config["patch_size"], config["patch_size"]).unfold(
        2, config["patch_size"], config["patch_size"]
    )
    patches = patches.permute(1, 2, 0, 3, 4).flatten(3).flatten(2).flatten(0, 1)
    kernel = weights["embeddings.patch_embedding.weight"].flatten(1)
    x = (
        patches @ kernel.T
        + weights["embeddings.patch_embedding.bias"]
        + weights["embeddings.position_embedding.weight"]
    )
    layer = top["mm_vision_select_layer"]
    for i in range(layer if layer >= 0 else config["num_hidden_layers"] + 1 + layer):
        stem = f"encoder.layers.{i}"
        y = norm(x, f"{stem}.layer_norm1")
        q, k, v = (linear(y, f"{stem}.self_attn.{name}_proj") for name in "qkv")
        x = x + linear(attend(q, k, v, config["num_attention_heads"], causal=False), f"{stem}.self_attn.out_proj")
        y = linear(norm(x, f"{stem}.layer_norm2"), f"{stem}.mlp.fc1")
        x = x + linear(functional.gelu(y, approximate="tanh"), f"{stem}.mlp.fc2")
    return x


def project(checkpoint: Path, features: Any) -> Any:
    """Return `[T, D]` embeddings of `[P, E]` features."""
    kind = json.loads((checkpoint / "mm_projector" / "config.json").read_text())["mm_projector_type"]
    weights = load_file(checkpoint / "mm_projector" / "model.safetensors")

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    if kind == "linear":
        return linear(features, "layers")
    if kind == "mlp2x_gelu":
        return linear(functional.gelu(linear(features, "layers.0")), "layers.2")
    side = math.isqrt(len(features))
    at = {place: features[place[0] * side + place[1]] for place in itertools.product(range(side), repeat=2)}
    nothing = torch.zeros_like(features[0])
    # Column after column of blocks, each from the top down.
    blocks = [
        torch.cat([at.get((row + down, column + right), nothing) for down in (0, 1) for right in (0, 1)])
        for column in range(0, side, 2)
        for row in range(0, side, 2)
    ]
    x = torch.stack(blocks)
    x = functional.layer_norm(x, x.shape[-1:], weights["layers.1.weight"], weights["layers.1.bias"])
    return linear(functional.gelu(linear(x, "layers.2")), "layers.4")


def read(x: Any, weights: dict, config: dict) -> Any:
    """Return `[L, D]` hidden states after the final norm of a Llama."""
    heads = config["num_attention_heads"]
    half = config["hidden_size"] // heads // 2
    angles = torch.arange(len(x))[:, None] * 10000.0 ** -(torch.arange(half) / half)

    def turned(y):
        left, right = y.reshape(len(y), heads, 2, half).unbind(2)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).flatten(1)

    def norm(y, name):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]

    for i in range(config["num_hidden_layers"]):
        stem = f"model.layers.{i}"
        y = norm(x, f"{stem}.input_layernorm")
        q, k, v = (y @ weights[f"{stem}.self_attn.{name}_proj.weight"].T for name in "qkv")
        x = x + attend(turned(q), turned(k), v, heads, causal=True) @ weights[f"{stem}.self_attn.o_proj.weight"].T
        y = norm(x, f"{stem}.post_attention_layernorm")
        gate, up = (y @ weights[f"{stem}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (functional.silu(gate) * up) @ weights[f"{stem}.mlp.down_proj.weight"].T
    return norm(x, "model.norm")


def attend(q: Any, k: Any, v: Any, heads: int, *, causal: bool) -> Any:
    q, k, v = (x.reshape(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[1:], dtype=torch.bool).triu(1), -math.inf)
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


# The checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """One with five patches per side, so that joining them pads."""
    return make_tiny_vila(tmp_path_factory.mktemp("tiny") / "vila")


@pytest.fixture
def model(checkpoint, images) -> VilaRewardModel:
    return VilaRewardModel.from_backbone(str(checkpoint), seed=1, images=images)


@pytest.fixture
def damaged(checkpoint, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(checkpoint, tmp_path / "damaged")


def head_of(model: VilaRewardModel) -> dict:
    return {name: weight.detach().cpu() for name, weight in model.network.score.state_dict().items()}


@pytest.mark.parametrize(
    "kind",
    [
        {"patches": 5},
        {"patches": 4},
        {"patches": 4, "projector": "mlp2x_gelu"},
        {"patches": 3, "projector": "linear"},
        {"image_aspect_ratio": "pad"},
        {"image_aspect_ratio": None},
        {"mm_vision_select_layer": -1},
        {"mm_vision_select_layer": 1},
    ],
    ids=str,
)
def test_scores_are_those_of_the_published_formulas(kind, images, tmp_path):
    checkpoint = make_tiny_vila(tmp_path, **kind)
    model = VilaRewardModel.from_backbone(str(checkpoint), images=images)
    scores = model.score_blocking(plays(images))
    assert scores == pytest.approx(
        [reference(checkpoint, images, one, head_of(model)) for one in plays(images)], abs=1e-5, rel=1e-5
    )
    assert max(scores) - min(scores) > 0.1


async def test_a_score_depends_on_neither_order_nor_company(model, images):
    all_of_them = [*plays(images), *(play(images, [i], words="blue cone " * i) for i in range(4))]
    alone = [model.score_blocking([one])[0] for one in all_of_them]
    for seed in range(4):
        order = Random(seed).choices(range(len(all_of_them)), k=12)
        model.forget()
        together = await model.score([all_of_them[i] for i in order])
        assert together == pytest.approx([alone[i] for i in order], abs=1e-5)


def test_trajectories_that_begin_alike_are_computed_once_up_to_where_they_part(model, images):
    alike = [play(images, [0, 1, last]) for last in (0, 1, 2, 3)]
    model.score_blocking(alike)
    assert model.computed_tokens + model.avoided_tokens == sum(len(model.token_ids(one)) for one in alike)
    assert model.avoided_tokens > model.computed_tokens


def test_a_picture_is_looked_at_once_however_often_it_is_seen(model, images, tmp_path):
    private = ImageFolder(tmp_path / "images")
    model = VilaRewardModel(Scorer(model.name, model.processor, model.network), private)
    trajectory = play(private, [0, 0, 1])
    (first,) = model.score_blocking([trajectory])
    shutil.rmtree(private.path)
    model.forget()
    assert model.score_blocking([trajectory]) == pytest.approx([first], abs=1e-6)


def test_half_precision_gives_nearly_the_same_scores_and_an_exact_head(checkpoint, model, images):
    half = VilaRewardModel.from_backbone(str(checkpoint), seed=1, images=images, dtype="bfloat16")
    assert half.score_blocking(plays(images)) == pytest.approx(model.score_blocking(plays(images)), abs=0.15)
    assert half.network.dtype == torch.bfloat16
    assert torch.equal(half.network.score.weight, model.network.score.weight)


def test_a_new_head_depends_on_the_seed_and_on_nothing_else(checkpoint, images):
    first, again, other = (
        VilaRewardModel.from_backbone(str(checkpoint), seed=seed, images=images).score_blocking(plays(images)[:2])
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_layers_are_kept_from_the_bottom(checkpoint, images, tmp_path):
    model = VilaRewardModel.from_backbone(str(checkpoint), layers=1, images=images)
    model.save(tmp_path)
    scores = model.score_blocking(plays(images))
    assert VilaRewardModel.load(tmp_path, images=images).score_blocking(plays(images)) == pytest.approx(
        scores, abs=1e-5
    )
    with pytest.raises(ConfigError, match=f"has {LAYERS} layers"):
        VilaRewardModel.from_backbone(str(checkpoint), layers=LAYERS + 1)


def test_no_trajectory_is_longer_than_vila_reads_and_what_is_shortened_is_counted(images, tmp_path):
    model = VilaRewardModel.from_backbone(str(make_tiny_vila(tmp_path, max_tokens=160)), images=images)
    whole, longer = play(images, [0, 1, 2]), play(images, [0, 1, 2], words="red cube " * 60)
    assert len(model.token_ids(whole)) <= 160
    with pytest.raises(RewardModelError, match="reads at most 160"):
        model.token_ids(
            play(images, [0]).model_copy(update={"task": TASK.model_copy(update={"instruction": "a " * 200})})
        )
    shortened = longer.model_copy(update={"steps": (longer.steps[0], *whole.steps)})
    assert len(model.token_ids(shortened)) <= 160
    assert (model.reader.count, model.reader.shortened) == (2, 1)


# What is refused


def test_what_is_no_vila_is_refused_with_what_is_missing(damaged, tmp_path):
    shutil.rmtree(damaged / "mm_projector")
    assert "no mm_projector/config.json" in refusal(damaged)
    assert "no folder and no repository" in refusal(tmp_path / "no where")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", {"s2": True}, "several scales"),
        ("config.json", {"mm_vision_select_feature": "pooled"}, "pooled"),
        ("config.json", {"mm_use_im_start_end": True}, "control tokens around pictures"),
        ("vision_tower/config.json", {"model_type": "clip_vision_model"}, "by a clip_vision_model"),
        ("mm_projector/config.json", {"mm_projector_type": "resampler"}, "resampler is not known"),
        ("config.json", {"mm_vision_select_feature": ["patch"]}, "uses the ['patch'] features"),
        ("config.json", {"mm_vision_select_layer": 9}, "uses layer 9 of its tower, which has 3"),
        ("config.json", {"mm_vision_select_layer": "last"}, "uses layer 'last'"),
        ("config.json", {"mm_vision_select_layer": 0}, "uses layer 0 of its tower"),
        ("config.json", {"mm_vision_select_feature": "patch"}, "leaves out one patch of a square"),
        ("llm/config.json", {"num_hidden_layers": 1}, f"have {LAYERS} layers, but its config.json says 1"),
        ("llm/config.json", {"hidden_size": 64}, "not what its config.json says; see lm_head.weight"),
    ],
)
def test_another_kind_of_vila_is_refused(damaged, file, change, said):
    path = damaged / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said in refusal(damaged)


@pytest.mark.parametrize(
    "file",
    ["llm/tokenizer.model", "llm/tokenizer_config.json", "vision_tower/preprocessor_config.json", "llm/config.json"],
)
def test_a_checkpoint_that_lacks_a_file_is_refused_by_its_name(damaged, file):
    (damaged / file).unlink()
    assert f"has no {file}" in refusal(damaged)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", b"{", "is not JSON"),
        ("vision_tower/config.json", b"[]", "holds no settings"),
        ("mm_projector/config.json", b"\xff", "is not JSON"),
        ("mm_projector/model.safetensors", b"torn", "cannot be read"),
        ("llm/tokenizer.model", b"torn", "no SentencePiece model"),
        ("vision_tower/model.safetensors", b"torn", "cannot be loaded"),
    ],
)
def test_a_torn_file_is_refused(damaged, file, content, said):
    (damaged / file).write_bytes(content)
    assert said in refusal(damaged)


def test_a_checkpoint_that_lacks_weights_is_refused_and_never_filled_up(damaged):
    tower = damaged / "vision_tower" / "model.safetensors"
    weights = load_file(tower)
    del weights["vision_model.encoder.layers.0.mlp.fc1.bias"]
    save_file(weights, tower, {"format": "pt"})
    assert "fc1.bias" in refusal(damaged)


def test_a_projector_of_another_size_is_refused(damaged):
    shutil.rmtree(damaged / "mm_projector")
    write_projector(damaged / "mm_projector", "linear")
    path = damaged / "mm_projector" / "config.json"
    path.write_text(path.read_text().replace("linear", "mlp_downsample"))
    assert "do not fit" in refusal(damaged)


def refusal(model: Path, adapter: Path | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        VilaRewardModel.from_backbone(str(model), adapter=adapter)
    said = str(error.value)
    assert "\n" not in said
    return said


# ARMAP's adapters


@pytest.mark.parametrize("kind", [{}, {"whole": True}, {"safetensors": True}], ids=str)
def test_scores_with_one_of_armaps_adapters_are_those_of_the_published_formulas(kind, checkpoint, images, tmp_path):
    adapter = make_tiny_adapter(tmp_path, **kind)
    model = VilaRewardModel.from_backbone(str(checkpoint), adapter=adapter, images=images)
    head = torch.load(adapter / "reward_head", weights_only=True)
    expected = [reference(checkpoint, images, one, head, adapter) for one in plays(images)]
    assert model.score_blocking(plays(images)) == pytest.approx(expected, abs=1e-5, rel=1e-5)
    bare = [reference(checkpoint, images, one, head) for one in plays(images)]
    assert expected != pytest.approx(bare, abs=1e-2)


@pytest.fixture
def adapter(tmp_path) -> Path:
    return make_tiny_adapter(tmp_path / "adapter")


def test_an_adapter_without_its_head_is_refused(checkpoint, adapter):
    (adapter / "reward_head").unlink()
    assert "no trained reward head" in refusal(checkpoint, adapter)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"weight": torch.ones(2, 32), "bias": torch.ones(2)}, "has 2 labels"),
        ({"weight": torch.ones(1, 16), "bias": torch.ones(1)}, "for 16 hidden numbers"),
        ({"weight": torch.ones(1, 32)}, "weight and bias"),
        ({"weight": torch.zeros(1, 32), "bias": torch.ones(1)}, "not trained"),
        ({"weight": torch.full((1, 32), math.nan), "bias": torch.ones(1)}, "not trained"),
        ([Path("code that runs on loading")], "cannot be read"),
        ({"weight": torch.ones(32), "bias": torch.ones(1)}, "no linear layer"),
        ({"weight": torch.ones(1, 32), "bias": torch.ones(2)}, "no linear layer"),
        ({"weight": "ones", "bias": "ones"}, "named tensors"),
        (torch.ones(3), "named tensors"),
    ],
)
def test_a_damaged_head_is_refused(checkpoint, adapter, head, said):
    torch.save(head, adapter / "reward_head")
    assert said in refusal(checkpoint, adapter)


def test_an_adapter_that_is_missing_incomplete_or_for_another_model_is_refused(checkpoint, adapter, tmp_path):
    file = adapter / "adapter_model" / "lora_default" / "adapter_model.bin"
    stored = torch.load(file, weights_only=True)
    name = next(iter(stored))
    torch.save({key: weight for key, weight in stored.items() if key != name}, file)
    assert "does not fit" in refusal(checkpoint, adapter)
    torch.save(stored | {name.replace("layers.0", "layers.7"): stored[name]}, file)
    assert "does not fit" in refusal(checkpoint, adapter)
    torch.save(stored | {"base_model.model.vision_tower.layer.lora_B.weight": torch.ones(2, 2)}, file)
    assert "changes the vision tower" in refusal(checkpoint, adapter)
    assert "no adapter" in refusal(checkpoint, tmp_path)
    torch.save([stored], file)
    assert "named tensors" in refusal(checkpoint, adapter)
    for content in (b"torn", None):
        file.unlink() if content is None else file.write_bytes(content)
        assert "cannot be read" in refusal(checkpoint, adapter)
    config = file.with_name("adapter_config.json")
    config.write_text(config.read_text().replace("LORA", "IA3"))
    assert "of the kind IA3" in refusal(checkpoint, adapter)


# Training and keeping


def test_gradients_reach_lora_and_the_head_and_not_what_sees(model, images):
    owner = model.network.model
    owner.language_model = get_peft_model(
        owner.language_model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    trees, _ = model.trees(plays(images))
    torch.cat(model.forward(trees)).sum().backward()
    reached = {
        name for name, weight in model.network.named_parameters() if weight.grad is not None and weight.grad.any()
    }
    assert {"score.weight", "score.bias"} < reached
    assert sum("lora_" in name for name in reached) == len(reached) - 2 == 2 * 7 * LAYERS


def test_a_fit_is_saved_and_gives_the_same_scores_when_loaded(model, images, tmp_path):
    untrained = model.score_blocking(plays(images))
    settings = FitSettings(pairs_per_step=4, evaluate_every_steps=2, lora_rank=4, learning_rate=3e-3)
    TransformerFit(model, toy_pairs(8, 1), toy_pairs(4, 2), settings, seed=0, folder=tmp_path).run(lambda _: None)
    trained = model.score_blocking(plays(images))
    assert trained != pytest.approx(untrained, abs=1e-3)
    model.save(tmp_path / "saved")
    again = VilaRewardModel.load(tmp_path / "saved", images=images)
    assert again.score_blocking(plays(images)) == pytest.approx(trained, abs=1e-5)


def test_an_adapter_is_saved_merged_with_the_limits_it_was_given(checkpoint, adapter, images, tmp_path):
    model = VilaRewardModel.from_backbone(
        str(checkpoint), adapter=adapter, images=images, max_images=1, max_tokens=150, dtype="bfloat16"
    )
    model.save(tmp_path / "saved")
    again = VilaRewardModel.load(tmp_path / "saved", images=images, dtype="bfloat16")
    assert again.score_blocking(plays(images)) == pytest.approx(model.score_blocking(plays(images)), abs=1e-5)
    assert torch.equal(
        again.network.score.weight.cpu(), torch.load(adapter / "reward_head", weights_only=True)["weight"]
    )
    assert again.reader.images_left_out == model.reader.images_left_out > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score.weight": None}, "lack score.weight"),
        ({"score.bias": None}, "lack score.bias"),
        ({"model.language_model.model.norm.weight": None}, "norm.weight"),
        ({"score.weight": torch.ones(2, 32), "score.bias": torch.ones(2)}, "2 labels"),
        ({"score.weight": torch.zeros(1, 32)}, "not trained"),
    ],
)
def test_a_saved_model_without_a_trained_head_is_refused(model, tmp_path, change, said):
    model.save(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file) | change
    save_file({name: weight for name, weight in weights.items() if weight is not None}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=said):
        VilaRewardModel.load(tmp_path)


def test_what_was_never_a_vila_reward_model_is_refused(checkpoint, tmp_path):
    for folder in (checkpoint, tmp_path):
        with pytest.raises(ConfigError, match="no VILA reward model"):
            VilaRewardModel.load(folder)


def test_a_saved_vila_is_not_taken_for_another_kind_of_model(model, tmp_path):
    model.save(tmp_path)
    with pytest.raises(ConfigError):
        TransformerRewardModel.load(tmp_path)
