"""VILA 1.5 as reward model, read from its published checkpoints and ARMAP's adapters without any code of theirs.

A file named as `Source:` is of VILA's code at commit d7d54bc, or of ARMAP's where it begins with RM.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlavaConfig, SiglipVisionModel

from armap import weights
from armap.errors import ConfigError, first_line
from armap.images import ImageFolder
from armap.rewards.fit_settings import PAPER_BACKBONE
from armap.rewards.transformer import Pooling, TransformerRewardModel
from armap.rewards.vila_network import IMAGE_TOKEN_ID, VilaForSequenceClassification, VilaProcessor, VilaProjector
from armap.seeds import stable_hash

_ANY_PX = 1 << 20
"""A limit on pictures that changes none: the tower has its own size, and scaling twice would not give the same."""
_FEATURES = {"cls_patch": "full", "patch": "default"}
"""VILA's words for the tokens of the tower that are used, and transformers'.
Source: llava/model/multimodal_encoder/vision_encoder.py."""
_FILES = (
    "config.json",
    "llm/config.json",
    "llm/tokenizer_config.json",
    "vision_tower/config.json",
    "vision_tower/preprocessor_config.json",
    "mm_projector/config.json",
)
"""What every checkpoint has besides weights and the words of a tokenizer."""
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
)
"""What torch and safetensors raise about files that are torn in one way or another."""


class VilaRewardModel(TransformerRewardModel):
    """Scores a trajectory by a linear head, without an activation, on VILA's final hidden state of the last token.

    Source: ARMAP, reward model; RM/RLHF/models/reward_model.py of its released code, after LLaVA-RLHF: the hidden state
    is the one after the final norm, and the head has a bias.
    """

    library = "armap"

    @classmethod
    def from_backbone(
        cls,
        model: str = PAPER_BACKBONE,
        *,
        layers: int | None = None,
        max_tokens: int | None = None,
        max_images: int | None = None,
        image_px: int = _ANY_PX,
        pooling: Pooling = "last",
        seed: int = 0,
        dtype: str = "float32",
        images: ImageFolder | None = None,
        adapter: Path | None = None,
    ) -> Self:
        """Put a head on a published VILA 1.5 checkpoint: a new, untrained one, or that of one of ARMAP's adapters.

        An adapter's scores mean what they meant to its authors only for conversations in the words of its training;
        here trajectories are rendered as everywhere in this package.

        Args:
            model: a folder with `llm`, `vision_tower` and `mm_projector`, or such a repository on the Hub.
            layers: keep this many layers of the language model, from the bottom; None keeps all.
            max_tokens: longest trajectory, image tokens included; of a longer one the earlier observations are
                shortened. None for as long as VILA reads. This and the next three are saved with the model.
            max_images: most pictures of a trajectory, the last ones; None for all.
            image_px: longest side of a picture before VILA's own scaling; VILA itself has no such limit.
            pooling: where the score is read.
            seed: decides a new head.
            dtype: precision of the weights, as torch names it; the head has 32 bits in any case.
            images: where the pictures are that trajectories name.
            adapter: a checkpoint folder of ARMAP's trainer, with a LoRA adapter, which is merged, and a reward head.

        Raises:
            ConfigError: the checkpoint or the adapter cannot be read, or is another kind of model.
        """
        folder = _folder(model)
        try:
            network = _assemble(folder, adapter, dtype)
            processor = VilaProcessor.from_checkpoint(folder, network.config)
        except (OSError, ValueError, ArithmeticError, SafetensorError, ImportError) as error:
            raise ConfigError(f"The model {model} cannot be loaded: {first_line(error)}") from error
        text = network.config.text_config
        _keep_layers(network, layers, model)
        longest = getattr(text, "tokenizer_model_max_length", None) or text.max_position_embeddings
        network.config.max_trajectory_tokens = min(max_tokens or longest, longest)
        network.config.max_trajectory_images, network.config.trajectory_image_px = max_images, image_px
        network.config.trajectory_pooling = pooling
        network.score = _read_head(adapter, text.hidden_size) if adapter else _new_head(text, seed)
        name = f"{folder.name}, {text.num_hidden_layers} layers" + (f", with {adapter.name}" if adapter else "")
        return cls(weights.Scorer(name, processor, _ready(network, dtype)), images)

    @classmethod
    def load(cls, folder: Path, *, images: ImageFolder | None = None, dtype: str | None = None) -> Self:
        """Load a model that `save` has written.

        Args:
            folder: where it was saved.
            images: where the pictures are that trajectories name.
            dtype: precision of the weights, as torch names it; None for the stored one on a GPU and 32 bits on a CPU.

        Raises:
            ConfigError: there is none, or it has no trained head.
        """
        kind = VilaForSequenceClassification.__name__
        if not (folder / "config.json").is_file() or kind not in (_settings(folder).get("architectures") or ()):
            raise ConfigError(f"There is no VILA reward model in {folder}; train one with `armap train`.")
        try:
            network, report = VilaForSequenceClassification.from_pretrained(
                folder,
                dtype=dtype or ("float32" if weights.device() == "cpu" else "auto"),
                output_loading_info=True,
                # Reported below in a sentence instead of raised.
                ignore_mismatched_sizes=True,
            )
            processor = VilaProcessor.from_saved(folder, network.config)
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"The reward model in {folder} cannot be read: {first_line(error)}") from error
        stored = {key: shape for key, shape, _ in report["mismatched_keys"]}
        if labels := next((stored[key][0] for key in ("score.weight", "score.bias") if key in stored), None):
            raise ConfigError(f"The model in {folder} has {labels} labels; a reward model has one.")
        if absent := sorted([*report["missing_keys"], *stored]):
            raise ConfigError(
                f"The model in {folder} has no trained reward head (its weights lack {absent[0]}); "
                "train one with `armap train`."
            )
        _check_head(network.score, folder)
        return cls(weights.Scorer(str(folder), processor, _ready(network, None)), images)


def _folder(model: str) -> Path:
    """Return the folder of a checkpoint, downloaded if need be, after a look at what is in it."""
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise ConfigError(f"There is no folder and no repository {model}: {first_line(error)}") from error
    lacking = [name for name in _FILES if not (folder / name).is_file()]
    # Without either transformers makes up a tokenizer that knows no word.
    if not any((folder / "llm" / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        lacking.append("llm/tokenizer.model")
    if lacking:
        raise ConfigError(f"{model} is no VILA 1.5 checkpoint: it has no {lacking[0]}.")
    return folder


def _settings(folder: Path, name: str = "config.json") -> dict[str, Any]:
    file = folder / name
    try:
        settings = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON; copy the checkpoint again.") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{file} holds no settings; copy the checkpoint again.")
    return settings


def _tensors(file: Path, what: str) -> dict[str, torch.Tensor]:
    """Read named tensors, pickled or not, without running anything that is in the file."""
    try:
        if file.suffix == ".safetensors":
            stored = load_file(file)
        else:
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ConfigError(f"{what} {file} cannot be read: {first_line(error)}") from error
    if not isinstance(stored, dict) or not all(isinstance(one, torch.Tensor) for one in stored.values()):
        raise ConfigError(f"{what} {file} should hold named tensors; copy it again.")
    return stored


def _assemble(folder: Path, adapter: Path | None, dtype: str) -> VilaForSequenceClassification:
    """Return VILA without a trained head, of parts as they are stored.

    Source: llava/model/llava_arch.py and llava/model/utils.py, for what is where; the other sources for the settings.
    """
    settings = _settings(folder)
    _check_known(folder, settings)
    # Merged in 32 bits, rounded once.
    precision = getattr(torch, "float32" if adapter else dtype)
    tower = _part(SiglipVisionModel, folder / "vision_tower", precision)
    layer, layers = settings.get("mm_vision_select_layer", -2), tower.config.num_hidden_layers
    # For transformers 0 is none.
    if not isinstance(layer, int) or not layer or not -layers - 1 <= layer <= layers:
        raise ConfigError(f"The model in {folder} uses layer {layer!r} of its tower, which has {layers}.")
    llm = _part(AutoModelForCausalLM, folder / "llm", precision)
    if adapter:
        llm = _merged(llm, adapter)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=llm.config,
        image_token_index=IMAGE_TOKEN_ID,
        vision_feature_layer=layer,
        vision_feature_select_strategy=_FEATURES[settings.get("mm_vision_select_feature", "patch")],
        mm_projector_type=_settings(folder / "mm_projector").get("mm_projector_type"),
        image_aspect_ratio=settings.get("image_aspect_ratio"),
    )
    # Only the frame: the parts are there already.
    with torch.device("meta"):
        network = VilaForSequenceClassification(config)
    network.model.vision_tower = tower
    network.model.language_model = llm.model
    network.model.multi_modal_projector = _read_projector(folder / "mm_projector", config)
    return network


def _check_known(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse what other models in the same layout do."""
    tower = _settings(folder / "vision_tower").get("model_type")
    features = str(settings.get("mm_vision_select_feature", "patch"))
    joins = _settings(folder / "mm_projector").get("mm_projector_type") == "mlp_downsample"
    unknown = {
        f"sees by a {tower}": tower != "siglip_vision_model",
        "sees at several scales": settings.get("s2"),
        f"uses the {features} features of its tower": features not in _FEATURES,
        "leaves out one patch of a square that its projector joins two by two": joins and features == "patch",
        "puts control tokens around pictures": settings.get("mm_use_im_start_end"),
    }
    for what, is_so in unknown.items():
        if is_so:
            raise ConfigError(
                f"The model in {folder} {what}, which no VILA 1.5 with a SigLIP tower does; take one of these."
            )


def _part(family: Any, folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - transformers is untyped here
    part, report = family.from_pretrained(
        folder,
        dtype=dtype,
        output_loading_info=True,
        # Reported below in a sentence instead of raised.
        ignore_mismatched_sizes=True,
    )
    if lacking := sorted(report["missing_keys"]):
        raise ConfigError(f"The weights in {folder} lack {lacking[0]}; copy the checkpoint again.")
    if other := sorted(key for key, *_ in report["mismatched_keys"]):
        raise ConfigError(f"The weights in {folder} are not what its config.json says; see {other[0]}.")
    layers = [int(number) for key in report["unexpected_keys"] for number in re.findall(r"\blayers\.(\d+)\.", key)]
    if max(layers, default=0) >= part.config.num_hidden_layers:
        raise ConfigError(
            f"The weights in {folder} have {max(layers) + 1} layers, but its config.json says "
            f"{part.config.num_hidden_layers}; copy the checkpoint again."
        )
    return part


def _read_projector(folder: Path, config: LlavaConfig) -> VilaProjector:
    files = sorted(folder.glob("*.safetensors"))
    stored = {name: weight for file in files for name, weight in _tensors(file, "The projector").items()}
    projector = VilaProjector(config)
    wanted = {name: weight.shape for name, weight in projector.state_dict().items()}
    found = {name: weight.shape for name, weight in stored.items()}
    if other := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
        raise ConfigError(f"The weights in {folder} do not fit the projector of config.json; see {other[0]}.")
    projector.load_state_dict(stored)
    return projector


def _keep_layers(network: VilaForSequenceClassification, layers: int | None, name: str) -> None:
    text, tower = network.config.text_config, network.model.language_model
    if layers is not None and not 1 <= layers <= text.num_hidden_layers:
        raise ConfigError(f"{name} has {text.num_hidden_layers} layers; keep 1 to that many, not {layers}.")
    text.num_hidden_layers = tower.config.num_hidden_layers = layers or text.num_hidden_layers
    tower.layers = tower.layers[: text.num_hidden_layers]


def _merged(llm: Any, adapter: Path) -> Any:  # noqa: ANN401
    """Return a language model with the LoRA adapter of one of ARMAP's checkpoints put into its weights.

    Source: RM/RLHF/lora_utils.py and RM/RLHF/models/qlora_model.py of the released code, for what is where.
    """
    folder = adapter / "adapter_model"
    folder = folder / "lora_default" if (folder / "lora_default").is_dir() else folder
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"There is no adapter in {adapter}; it should be in {folder}.")
    if (kind := _settings(folder, "adapter_config.json").get("peft_type")) != "LORA":
        raise ConfigError(f"The adapter in {folder} is of the kind {kind}; it should be LORA.")
    stored_as = [folder / f"adapter_model.{suffix}" for suffix in ("safetensors", "bin")]
    file = next((file for file in stored_as if file.is_file()), stored_as[-1])
    stored = _of_llm(_tensors(file, "The adapter"), folder)
    try:
        adapted = PeftModel(llm, LoraConfig.from_pretrained(folder))
        report = set_peft_model_state_dict(adapted, stored)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"The adapter in {folder} does not fit the language model: {first_line(error)}") from error
    strange = [*report.unexpected_keys, *(key for key in report.missing_keys if "lora_" in key)]
    if strange:
        raise ConfigError(f"The adapter in {folder} does not fit the language model; see {strange[0]}.")
    return adapted.merge_and_unload()


def _of_llm(stored: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of an adapter that are for the language model, by their names there.

    An adapter that was made for the whole of VILA also has some for the tower, which was frozen: they change nothing.
    """
    found = {}
    for name, weight in stored.items():
        if ".vision_tower." not in name:
            found[name.replace("base_model.model.llm.", "base_model.model.")] = weight
        elif ".lora_B." in name and bool(weight.any()):
            raise ConfigError(
                f"The adapter in {folder} changes the vision tower ({name}); only the language model can be."
            )
    return found


def _new_head(text: Any, seed: int) -> nn.Linear:  # noqa: ANN401
    head = nn.Linear(text.hidden_size, 1)
    with torch.random.fork_rng():
        torch.manual_seed(stable_hash("head", seed))
        nn.init.normal_(head.weight, std=text.initializer_range)
    nn.init.zeros_(head.bias)
    return head


def _read_head(adapter: Path, hidden_size: int) -> nn.Linear:
    """Read the head of one of ARMAP's checkpoints: a pickled state of a linear layer, read as tensors only."""
    file = adapter / "reward_head"
    if not file.is_file():
        raise ConfigError(f"There is no trained reward head in {adapter}; it should be in {file}.")
    stored = _tensors(file, "The reward head")
    if set(stored) != {"weight", "bias"}:
        raise ConfigError(f"The reward head {file} should hold weight and bias, not {', '.join(sorted(stored))}.")
    if stored["weight"].dim() != 2 or stored["bias"].shape != stored["weight"].shape[:1]:
        raise ConfigError(f"The reward head {file} is no linear layer; copy it again.")
    labels, size = stored["weight"].shape
    if labels != 1:
        raise ConfigError(f"The reward head {file} has {labels} labels; a reward model has one.")
    if size != hidden_size:
        raise ConfigError(
            f"The reward head {file} is for {size} hidden numbers; this language model has {hidden_size}."
        )
    head = nn.Linear(size, 1)
    head.load_state_dict(stored)
    _check_head(head, file)
    return head


def _check_head(head: nn.Linear, where: Path) -> None:
    if not bool(head.weight.isfinite().all() & head.bias.isfinite().all() & head.weight.any()):
        raise ConfigError(f"The reward head in {where} is not trained: it is zero or not finite.")


def _ready(network: VilaForSequenceClassification, dtype: str | None) -> VilaForSequenceClassification:
    """Put the network where it runs, and freeze what sees, as ARMAP's trainer does."""
    if dtype:
        # Not the head: with 8 bits after the point a score would hardly tell good from better. And not the buffers, in
        # which the language model keeps what turns by positions.
        for weight in network.model.parameters():
            weight.data = weight.data.to(getattr(torch, dtype))
    network = network.to(weights.device()).eval()
    for weight in weights.vision_weights(network):
        weight.requires_grad_(False)
    return network
