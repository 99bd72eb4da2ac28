"""A reward model that sees learns what only pictures tell: which of two trajectories with the same text is better."""

import importlib.util
import io
from random import Random

import pytest

torch = pytest.importorskip("torch", reason="the local extra is not installed: no vision reward model is fitted")
pytest.importorskip("PIL", reason="pillow is not installed: no vision reward model is fitted")

from PIL import Image  # noqa: E402

from armap import weights  # noqa: E402
from armap.errors import ConfigError  # noqa: E402
from armap.images import ImageFolder  # noqa: E402
from armap.reward_models import transformer_fit  # noqa: E402
from armap.rewards.fit_settings import FitSettings  # noqa: E402
from armap.rewards.fitting import TransformerFit  # noqa: E402
from armap.rewards.transformer import TransformerRewardModel  # noqa: E402
from armap.store import RunFolder  # noqa: E402
from armap.types import Action, Observation, PreferencePair, Step, Task, TrainingPoint, Trajectory  # noqa: E402
from tiny_model import make_tiny_model, make_tiny_vision_model  # noqa: E402

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}
# All weights of so small a network that nobody has trained before; what sees stays as it was drawn.
SETTINGS = FitSettings(
    lora_rank=0, learning_rate=3e-3, pairs_per_step=4, epochs=2, evaluate_every_steps=30, patience=100
)


def picture(colour: str, rng: Random) -> bytes:
    """Return a picture of a cube of this colour somewhere on a white floor."""
    floor = Image.new("RGB", (32, 32), "white")
    side = rng.randrange(12, 20)
    floor.paste(
        COLOURS[colour], (left := rng.randrange(32 - side), top := rng.randrange(32 - side), left + side, top + side)
    )
    floor.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def colour_pairs(n: int, seed: int, images: ImageFolder) -> list[PreferencePair]:
    """Return pairs of which each asks for a cube of some colour; that its sides left with other ones is only seen."""
    rng = Random(seed)

    def side(task: Task, colour: str) -> Trajectory:
        return Trajectory(
            id=f"{task.id}, {colour}",
            task=task,
            steps=(Step(observation=Observation(text="You hold nothing."), action=Action(text="leave")),),
            final_observation=Observation(text="You left.", image=images.add(picture(colour, rng))),
            stop_reason="terminated",
        )

    def pair(i: int) -> PreferencePair:
        wanted, other = rng.sample(sorted(COLOURS), 2)
        task = Task(id=f"task {i}", env="toy", instruction=f"Leave with the {wanted} cube.")
        return PreferencePair(
            id=f"pair {i}",
            task=task,
            chosen=side(task, wanted),
            rejected=side(task, other),
            source_task_id=task.id,
            origin="other_outcome",
            instruction_writer="environment",
            verified_by="execution",
        )

    return [pair(i) for i in range(n)]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageFolder:
    return ImageFolder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def pairs(images) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Pairs to learn from, and others whose pictures are none of theirs."""
    return colour_pairs(240, 0, images), colour_pairs(60, 1, images)


@pytest.fixture(params=["smolvlm", "qwen2_5_vl"])
def backbone(request, tmp_path) -> str:
    if request.param == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words: pip install num2words")
    return make_tiny_vision_model(tmp_path / "backbone", request.param)


def fit(model: TransformerRewardModel, pairs, folder, settings: FitSettings = SETTINGS) -> list[TrainingPoint]:
    points: list[TrainingPoint] = []
    TransformerFit(model, *pairs, settings, seed=0, folder=folder).run(points.append)
    return points


def accuracy(model: TransformerRewardModel, pairs: list[PreferencePair]) -> float:
    scores = torch.tensor(model.score_blocking([side for pair in pairs for side in (pair.chosen, pair.rejected)]))
    return float((1 + torch.sign(scores[0::2] - scores[1::2])).mean()) / 2


def test_it_learns_what_only_pictures_tell(backbone, images, pairs, tmp_path):
    model = TransformerRewardModel.from_backbone(backbone, images=images)
    seen = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    fit(model, pairs, tmp_path)
    assert accuracy(model, pairs[1]) >= 0.9
    moved = {name for name, weight in model.network.state_dict().items() if not torch.equal(weight, seen[name])}
    assert moved
    assert not any("vis" in name or "connector" in name for name in moved)


def test_without_pictures_there_is_nothing_to_learn(images, pairs, tmp_path):
    blind = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "blind"), images=images)
    points = fit(blind, [some[:40] for some in pairs], tmp_path)
    assert {point.heldout_accuracy for point in points} == {None, 0.5}
    assert accuracy(blind, pairs[1]) == 0.5


def test_what_sees_is_trained_where_that_is_wanted(backbone, images, pairs, tmp_path):
    model = TransformerRewardModel.from_backbone(backbone, images=images)
    heldout = [side for pair in pairs[1][:8] for side in (pair.chosen, pair.rejected)]
    untrained = model.score_blocking(heldout)
    seen = [weight.clone() for weight in weights.vision_weights(model.network)]
    some = [there[:24] for there in pairs]
    points = fit(model, some, tmp_path, SETTINGS.model_copy(update={"train_vision": True, "lora_rank": 4}))
    there = list(weights.vision_weights(model.network))
    assert sum(not torch.equal(*both) for both in zip(there, seen, strict=True)) > len(seen) / 2
    assert not any(weight.requires_grad for weight in there)
    # What was seen with other eyes is forgotten.
    trained = model.score_blocking(heldout)
    assert trained != pytest.approx(untrained, abs=1e-2)
    model.save(tmp_path / "saved")
    again = TransformerRewardModel.load(tmp_path / "saved", images=images)
    assert again.score_blocking(heldout) == pytest.approx(trained, abs=1e-5)
    assert points[-1].heldout_accuracy == pytest.approx(accuracy(again, some[1]))


def test_eyes_that_are_not_there_cannot_be_trained(tmp_path):
    backbone = make_tiny_model(tmp_path / "blind")
    with (
        RunFolder(tmp_path / "run") as run,
        pytest.raises(ConfigError, match="leave --train-vision out"),
    ):
        transformer_fit(
            FitSettings(backbone=backbone, layers=None, train_vision=True),
            run=run,
            seed=0,
            tracker=None,
            show=lambda *_: None,
        )
