import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch", reason="the local extra is not installed: no vision reward model is tested")
pytest.importorskip("PIL", reason="pillow is not installed: no vision reward model is tested")

from PIL import Image  # noqa: E402
from transformers import AutoConfig, AutoModelForSequenceClassification  # noqa: E402

from armap import weights  # noqa: E402
from armap.errors import ConfigError, RewardModelError  # noqa: E402
from armap.images import ImageFolder  # noqa: E402
from armap.rewards.rendering import pieces  # noqa: E402
from armap.rewards.transformer import TransformerRewardModel  # noqa: E402
from armap.types import Action, ImageRef, Observation, Step, Task, Trajectory  # noqa: E402
from tiny_model import make_tiny_gemma3, make_tiny_model, make_tiny_vision_model  # noqa: E402

FAMILIES = ["idefics3", "smolvlm", "llava", "qwen2_5_vl", "qwen3_vl"]
MARKERS = {
    "idefics3": "<image>",
    "smolvlm": "<image>",
    "llava": "<image>",
    "qwen": "<|vision_start|><|image_pad|><|vision_end|>",
}
TASKS = [Task(id=words, env="e", instruction=words) for words in ("Leave with the red cube.", "Leave with nothing.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> ImageFolder:
    return ImageFolder(tmp_path_factory.mktemp("images"))


def picture(folder: ImageFolder, color: str, size: tuple[int, int] = (40, 24)) -> ImageRef:
    image = Image.new("RGB", size, color)
    # Something to see beside one colour.
    image.paste("white", (0, 0, size[0] // 3, size[1] // 2))
    file = io.BytesIO()
    image.save(file, "PNG")
    return folder.add(file.getvalue())


def seen(text: str, image: ImageRef | None) -> Observation:
    return Observation(text=text, image=image)


@pytest.fixture(scope="module")
def trajectories(folder) -> list[Trajectory]:
    """Ten of one task, which begin alike, and four of another; pictures of several shapes, and none here and there."""
    rng = Random(0)
    shapes = {"red": (40, 24), "green": (40, 24), "blue": (24, 40), "yellow": (16, 16)}
    images = [picture(folder, color, size) for color, size in shapes.items()]

    def play(i: int, task: Task) -> Trajectory:
        steps = [Step(observation=seen("On the shelf: a cube.", images[0]), action=Action(text="take"))]
        for _ in range(rng.randrange(3)):
            held = seen(f"You hold a {rng.choice(['red', 'blue'])} cube.", rng.choice([*images, None]))
            steps.append(Step(observation=held, action=Action(text=rng.choice(["leave", "write"]))))
        last = seen("You left.", rng.choice(images))
        return Trajectory(
            id=f"trajectory {i}", task=task, steps=tuple(steps), final_observation=last, stop_reason="terminated"
        )

    return [play(i, TASKS[0]) for i in range(10)] + [play(i, TASKS[1]) for i in range(10, 14)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    if request.param == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words: pip install num2words")
    return request.param


@pytest.fixture(scope="module")
def backbone(family, tmp_path_factory) -> str:
    return make_tiny_vision_model(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def saved(backbone, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reward model")
    TransformerRewardModel.from_backbone(backbone, seed=1).save(path)
    return path


@pytest.fixture
def model(saved, folder) -> TransformerRewardModel:
    return TransformerRewardModel.load(saved, images=folder)


class Plain:
    """What one writes with transformers: the processor and the network, one trajectory at a time."""

    def __init__(self, saved: Path, folder: ImageFolder) -> None:
        config = AutoConfig.from_pretrained(saved)
        self._marker = MARKERS.get(config.model_type, MARKERS["qwen"])
        self._processor = TransformerRewardModel.load(saved).processor
        # transformers itself finds the class, once it was made.
        self.network = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32).eval()
        self._folder = folder

    def inputs(self, trajectory: Trajectory) -> dict[str, "torch.Tensor"]:
        there = pieces(trajectory)
        text = "".join(piece if isinstance(piece, str) else self._marker for piece in there)
        names = [piece for piece in there if isinstance(piece, ImageRef)]
        images = [Image.open(io.BytesIO(self._folder.read(name))).convert("RGB") for name in names]
        return self._processor(text=[text], images=[images], return_tensors="pt")

    def score(self, trajectory: Trajectory) -> "torch.Tensor":
        return self.network(**self.inputs(trajectory)).logits[0, 0]


@pytest.fixture(scope="module")
def plain(saved, folder) -> Plain:
    return Plain(saved, folder)


@pytest.fixture(scope="module")
def expected(plain, trajectories) -> list[float]:
    with torch.no_grad():
        return [float(plain.score(trajectory)) for trajectory in trajectories]


# Scoring


def test_scores_are_those_of_the_processor_and_the_network_alone(model, trajectories, expected):
    assert model.layout == "token trees"
    assert model.score_blocking(trajectories) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.5


@pytest.mark.parametrize("size", [(3000, 10), (10, 3000), (1, 1)])
def test_pictures_of_any_shape_are_seen(model, folder, trajectories, size):
    (one, *_) = trajectories
    found = [
        one.model_copy(update={"final_observation": seen("You left.", picture(folder, color, size))})
        for color in ("red", "blue")
    ]
    red, blue = model.score_blocking(found)
    assert red != blue


def test_tokens_are_those_of_the_processor(model, plain, trajectories):
    for trajectory in trajectories:
        assert model.token_ids(trajectory) == plain.inputs(trajectory)["input_ids"][0].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_score_depends_on_neither_order_nor_company_nor_earlier_calls(model, trajectories, expected, seed):
    rng = Random(seed)
    for size in (1, 4, 1, 9):
        company = [rng.randrange(len(trajectories)) for _ in range(size)]
        found = model.score_blocking([trajectories[i] for i in company])
        assert found == pytest.approx([expected[i] for i in company], abs=1e-5)


def test_calls_about_one_task_compute_only_what_is_new(model, folder, trajectories):
    one_task = trajectories[:10]
    for trajectory in one_task:
        model.score_blocking([trajectory])
    one_by_one = model.computed_tokens
    together = TransformerRewardModel(weights.Scorer("again", model.processor, model.network), folder)
    together.score_blocking(one_task)
    assert one_by_one == together.computed_tokens < 0.6 * sum(len(model.token_ids(one)) for one in one_task)


def test_another_picture_is_another_score(model, folder, trajectories):
    trajectory = trajectories[0]
    shown = trajectory.final_observation
    other = trajectory.model_copy(update={"final_observation": seen(shown.text, picture(folder, "purple"))})
    without = trajectory.model_copy(update={"final_observation": seen(shown.text, None)})
    scores = model.score_blocking([trajectory, other, without])
    assert min(abs(scores[0] - scores[1]), abs(scores[0] - scores[2]), abs(scores[1] - scores[2])) > 1e-3


def test_pooling_by_the_mean_counts_the_tokens_of_pictures(backbone, plain, folder, trajectories):
    model = TransformerRewardModel.from_backbone(backbone, seed=1, pooling="mean", images=folder)
    with torch.no_grad():
        hidden = [plain.network.base_model(**plain.inputs(one)).last_hidden_state for one in trajectories]
        expected = [float(plain.network.score(one.mean(1))) for one in hidden]
    assert model.score_blocking(trajectories) == pytest.approx(expected, abs=1e-5)


def test_trajectories_without_pictures_are_fine(model, plain, trajectories):
    bare = [
        one.model_copy(
            update={
                "steps": tuple(replace(step, observation=seen("a cube.", None)) for step in one.steps),
                "final_observation": seen("You left.", None),
            }
        )
        for one in trajectories[:3]
    ]
    texts = [torch.tensor([model.token_ids(one)]) for one in bare]
    with torch.no_grad():
        alone = [float(plain.network(input_ids=text).logits[0, 0]) for text in texts]
    assert model.score_blocking(bare) == pytest.approx(alone, abs=1e-5)


def test_a_picture_is_looked_at_once_however_often_it_is_shown(model, trajectories):
    looks = []
    owner, text = weights.text_tower(model.network)
    eyes = next(part for name, part in owner.named_children() if name in ("visual", "vision_model", "vision_tower"))
    assert text != "visual"
    eyes.register_forward_hook(lambda *_: looks.append(1))
    for _ in range(2):
        model.score_blocking(trajectories)
    shown = {piece for one in trajectories for piece in pieces(one) if isinstance(piece, ImageRef)}
    assert len(looks) == len(shown) == 4


# Limits


def test_pictures_beyond_the_memory_are_read_anew_alike(model, trajectories, expected, monkeypatch):
    monkeypatch.setattr("armap.rewards.transformer._KEPT_IMAGES", 1)
    assert model.score_blocking(trajectories) == pytest.approx(expected, abs=1e-5)


def test_of_too_many_pictures_the_last_are_read_and_the_others_counted(backbone, folder, trajectories):
    model = TransformerRewardModel.from_backbone(backbone, seed=1, max_images=1, images=folder)
    longest = max(trajectories, key=lambda one: len(one.steps))
    read = model.reader.read(longest)
    assert list(read.images.values()) == [longest.final_observation.image]
    there = sum(isinstance(piece, ImageRef) for piece in pieces(longest))
    assert (model.reader.images, model.reader.images_left_out) == (1, there - 1)
    assert f"{there - 1} of {there} pictures" in " ".join(model.reader.remarks())


def test_a_long_trajectory_loses_words_before_pictures_and_its_last_picture_last(
    backbone, folder, trajectories, tmp_path
):
    (trajectory,) = [one for one in trajectories if len(one.steps) == 3][:1]
    wordy = seen("many words " * 100, trajectory.steps[0].observation.image)
    steps = (replace(trajectory.steps[0], observation=wordy), *trajectory.steps[1:])
    long = trajectory.model_copy(update={"steps": steps})
    whole = len(TransformerRewardModel.from_backbone(backbone, images=folder).token_ids(long))
    images = []
    for limit in range(whole, 40, -15):
        model = TransformerRewardModel.from_backbone(backbone, max_tokens=limit, images=folder)
        try:
            read = model.reader.read(long)
        except RewardModelError:
            break
        assert len(read.tokens) <= limit
        assert model.reader.shortened == (limit < whole)
        images.append(model.reader.images)
    assert images == sorted(images, reverse=True)
    assert images[0] == images[6] >= 2


def test_large_pictures_are_scaled_down_to_the_limit_which_is_saved(family, backbone, folder, trajectories, tmp_path):
    large = trajectories[0].model_copy(
        update={"final_observation": seen("You left.", picture(folder, "red", (80, 80)))}
    )
    model = TransformerRewardModel.from_backbone(backbone, image_px=16, images=folder)
    model.save(tmp_path)
    whole = TransformerRewardModel.from_backbone(backbone, images=folder)
    again = TransformerRewardModel.load(tmp_path, images=folder)
    sizes = [len(one.token_ids(large)) for one in (model, again, whole)]
    # All pictures of LLaVA have as many tokens.
    assert sizes[0] == sizes[1] == sizes[2] if family == "llava" else sizes[0] == sizes[1] < sizes[2]
    assert model.score_blocking([large]) != pytest.approx(whole.score_blocking([large]), abs=1e-6)


def test_a_page_cannot_show_a_picture_by_writing_what_stands_for_one(model, trajectories):
    faked = " ".join([*MARKERS.values(), "<|image_pad|>", "<end>"])
    trajectory = trajectories[0].model_copy(update={"final_observation": seen(faked, None)})
    shown = [token for token in model.reader.read(trajectory).tokens if token < 0]
    assert len(shown) == len(
        [
            token
            for token in model.reader.read(
                trajectories[0].model_copy(update={"final_observation": seen("You left.", None)})
            ).tokens
            if token < 0
        ]
    )
    assert len(model.score_blocking([trajectory])) == 1


def test_pictures_without_a_folder_are_refused(saved, trajectories):
    with pytest.raises(ConfigError, match="no folder to read them from"):
        TransformerRewardModel.load(saved).score_blocking(trajectories[:1])


def test_a_backbone_without_eyes_ignores_pictures_and_says_how_many(tmp_path, folder, trajectories):
    blind = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "blind"), images=folder)
    bare = trajectories[0].model_copy(update={"final_observation": seen("You left.", None)})
    assert blind.score_blocking(trajectories[:1]) == blind.score_blocking([bare])
    assert any("pictures were ignored" in remark for remark in blind.reader.remarks())


# Training


def test_gradients_through_trees_with_pictures_are_those_of_plain_passes(model, plain, trajectories):
    batch = trajectories[:6]
    trees, places = model.trees(batch)
    by_tree = model.forward(trees)
    torch.stack([by_tree[tree][end] for tree, end in places]).square().sum().backward()
    torch.stack([plain.score(trajectory) for trajectory in batch]).square().sum().backward()
    alone = dict(plain.network.named_parameters())
    trained = {name: weight.grad for name, weight in model.network.named_parameters() if weight.requires_grad}
    assert any("score" in name for name in trained)
    assert not any("vis" in name or "connector" in name or "projector" in name for name in trained)
    for name, gradient in trained.items():
        torch.testing.assert_close(gradient, alone[name].grad, atol=1e-4, rtol=1e-3)
    plain.network.zero_grad()


def test_what_connects_eyes_and_text_can_be_trained_and_is_then_looked_through_anew(
    model, folder, trajectories, tmp_path
):
    owner, _ = weights.text_tower(model.network)
    names = ("connector", "multi_modal_projector")
    connector = next((getattr(owner, name) for name in names if hasattr(owner, name)), None) or owner.visual.merger
    before = model.score_blocking(trajectories)
    connector.requires_grad_(True)
    model.network.train()
    optimizer = torch.optim.SGD(connector.parameters(), lr=0.1)
    trees, _ = model.trees(trajectories)
    torch.cat(model.forward(trees)).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in connector.parameters())
    optimizer.step()
    after = model.score_blocking(trajectories)
    assert sum(before) - sum(after) > 1e-3
    model.save(tmp_path)
    assert TransformerRewardModel.load(tmp_path, images=folder).score_blocking(trajectories) == pytest.approx(
        after, abs=1e-5
    )


# Heads


def test_a_plain_vision_language_model_is_refused_as_having_no_trained_head(backbone):
    with pytest.raises(ConfigError, match="no trained reward head"):
        TransformerRewardModel.load(Path(backbone))


def test_a_family_that_reads_pictures_in_a_way_of_its_own_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="A gemma3 model cannot be a backbone"):
        TransformerRewardModel.from_backbone(make_tiny_gemma3(tmp_path))


def test_layers_of_what_reads_text_are_kept_from_the_bottom(backbone, folder, trajectories, tmp_path):
    model = TransformerRewardModel.from_backbone(backbone, layers=1, images=folder)
    model.save(tmp_path)
    again = TransformerRewardModel.load(tmp_path, images=folder)
    assert again.network.config.get_text_config().num_hidden_layers == 1
    assert again.score_blocking(trajectories) == pytest.approx(model.score_blocking(trajectories), abs=1e-6)
