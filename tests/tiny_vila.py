"""A tiny random VILA 1.5 in the layout of its published checkpoints, and adapters in that of ARMAP's.

Layout: the configuration files and weight names are those of Efficient-Large-Model/VILA1.5-3b and of what its code and
ARMAP's trainer write, with smaller numbers. Weights are large enough that scores depend on all that is read.
"""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

# So small a model only loses by sharing its sums among threads, and loses badly where other tests keep the cores busy.
torch.set_num_threads(1)

SPREAD = 0.15
HIDDEN = 32
TOWER = 24
LAYERS = 2
VOCABULARY = 400
TEXT = """
Task: Leave with the red cube. On shelf: green ball, blue cone, red cube. You hold nothing. Thought: take it.
Action: take the red cube. Action: leave. You left with the red cube. Illegal action, you hold the green ball.
Was the task done? Action: take the blue cone. Action: leave the shelf. You left with nothing.
"""
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_tiny_vila(
    folder: Path,
    *,
    patches: int = 5,
    seed: int = 0,
    projector: str = "mlp_downsample",
    max_tokens: int = 4096,
    **top: Any,
) -> Path:
    """Write a checkpoint.

    Args:
        folder: where.
        patches: per side of a picture, 8 pixels each.
        seed: of the weights.
        projector: its `mm_projector_type`.
        max_tokens: longest sequence.
        top: other settings of the top configuration file.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        llm = _llm(folder / "llm", max_tokens)
        tower = _tower(folder / "vision_tower", patches)
        write_projector(folder / "mm_projector", projector)
    settings = {
        "_name_or_path": "./vlm",
        "architectures": ["LlavaLlamaModel"],
        "drop_path_rate": 0.0,
        "hidden_size": HIDDEN,
        "image_aspect_ratio": "resize",
        "interpolate_mode": "linear",
        "llm_cfg": llm,
        "mm_hidden_size": TOWER,
        "mm_projector_cfg": {"_name_or_path": "./mm_projector", "mm_projector_type": projector},
        "mm_projector_lr": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch",
        "mm_vision_select_layer": -2,
        "model_dtype": "torch.bfloat16",
        "model_type": "llava_llama",
        "num_video_frames": 8,
        "resume_path": "./vlm",
        "s2": False,
        "s2_max_split_size": 336,
        "s2_scales": "336,672,1008",
        "transformers_version": "4.36.2",
        "tune_language_model": True,
        "tune_mm_projector": True,
        "tune_vision_tower": True,
        "vision_resolution": -1,
        "vision_tower_cfg": tower,
    }
    _write(folder / "config.json", settings | top)
    return folder


def write_projector(folder: Path, kind: str) -> None:
    """Write random weights of a projector under their published names."""
    inner = 4 * TOWER if kind == "mlp_downsample" else TOWER
    shapes: dict[str, tuple[int, ...]] = {
        "linear": {"layers.weight": (HIDDEN, TOWER), "layers.bias": (HIDDEN,)},
        "mlp2x_gelu": {
            "layers.0.weight": (HIDDEN, TOWER),
            "layers.0.bias": (HIDDEN,),
            "layers.2.weight": (HIDDEN, HIDDEN),
            "layers.2.bias": (HIDDEN,),
        },
        "mlp_downsample": {
            "layers.1.weight": (inner,),
            "layers.1.bias": (inner,),
            "layers.2.weight": (HIDDEN, inner),
            "layers.2.bias": (HIDDEN,),
            "layers.4.weight": (HIDDEN, HIDDEN),
            "layers.4.bias": (HIDDEN,),
        },
    }.get(kind, {})
    folder.mkdir(parents=True)
    save_file({k: torch.randn(s) / 3 for k, s in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    config = {"architectures": ["MultimodalProjector"], "mm_projector_type": kind, "model_type": "v2l_projector"}
    _write(folder / "config.json", config | {"torch_dtype": "float32", "transformers_version": "4.36.2"})


def make_tiny_adapter(
    folder: Path, *, seed: int = 0, whole: bool = False, rank: int = 4, safetensors: bool = False
) -> Path:
    """Write a checkpoint folder as ARMAP's trainer leaves it: adapter_model/lora_default and reward_head.

    Args:
        folder: where.
        seed: of the weights.
        whole: made for the whole of VILA, with useless weights for the frozen tower, instead of for its language model.
        rank: of LoRA.
        safetensors: as newer versions of peft store it.
    """
    generator = torch.Generator().manual_seed(seed)
    inner, prefix = 2 * HIDDEN, "base_model.model." + "llm." * whole
    sizes = dict.fromkeys(LORA_TARGETS[:4], (HIDDEN, HIDDEN)) | dict.fromkeys(LORA_TARGETS[4:6], (HIDDEN, inner))
    stored = {}
    for layer in range(LAYERS):
        for name in LORA_TARGETS:
            wide, tall = {**sizes, "down_proj": (inner, HIDDEN)}[name]
            part = "self_attn" if wide == tall else "mlp"
            stem = f"{prefix}model.layers.{layer}.{part}.{name}"
            stored[f"{stem}.lora_A.weight"] = torch.randn(rank, wide, generator=generator) / 12
            stored[f"{stem}.lora_B.weight"] = torch.randn(tall, rank, generator=generator) / 12
    if whole:
        stem = "base_model.model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
        stored[f"{stem}.lora_A.weight"] = torch.randn(rank, TOWER, generator=generator)
        stored[f"{stem}.lora_B.weight"] = torch.zeros(TOWER, rank)
    inside = folder / "adapter_model" / "lora_default"
    inside.mkdir(parents=True)
    if safetensors:
        save_file(stored, inside / "adapter_model.safetensors", {"format": "pt"})
    else:
        torch.save(stored, inside / "adapter_model.bin")
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": "rm/VILA1.5-3b/llm",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": None,
        "target_modules": LORA_TARGETS,
        "task_type": "CAUSAL_LM",
    }
    _write(inside / "adapter_config.json", config)
    head = {"weight": torch.randn(1, HIDDEN, generator=generator), "bias": torch.randn(1, generator=generator)}
    torch.save(head, folder / "reward_head")
    return folder


def _llm(folder: Path, max_tokens: int) -> dict[str, Any]:
    vocabulary = _write_tokenizer(folder)
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": max_tokens,
        "rms_norm_eps": 1e-05,
    }
    network = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=SPREAD, pad_token_id=0))
    # In several files, as one of more than 5 GB is stored.
    network.save_pretrained(folder, max_shard_size="40kB")
    config = {
        "_name_or_path": "./llm",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "initializer_range": SPREAD,
        "model_max_length": max_tokens,
        "model_type": "llama",
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "tokenizer_model_max_length": max_tokens,
        "tokenizer_padding_side": "right",
        "torch_dtype": "float32",
        "transformers_version": "4.36.2",
        "use_cache": True,
        **sizes,
    }
    _write(folder / "config.json", config)
    return config


def _write_tokenizer(folder: Path) -> int:
    """Write a SentencePiece model of Llama's kind, as it is published, and return how many tokens it has."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
    )
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write(folder / "special_tokens_map.json", special | {"pad_token": "<unk>"})
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2}
    kind = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {"content": token} | kind for token, i in ids.items()},
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": 4096,
        "pad_token": "<unk>",
        "padding_side": "right",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "LlamaTokenizer",
        "use_default_system_prompt": False,
    }
    _write(folder / "tokenizer_config.json", config | special)
    return VOCABULARY


def _tower(folder: Path, patches: int) -> dict[str, Any]:
    sizes = {
        "hidden_size": TOWER,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 8 * patches,
        "patch_size": 8,
    }
    network = SiglipVisionModel(SiglipVisionConfig(**sizes))
    weights = {
        f"vision_model.{name.removeprefix('vision_model.')}": torch.randn_like(weight) * SPREAD
        + ("norm" in name and name.endswith("weight"))
        for name, weight in network.state_dict().items()
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["SiglipVisionModel"],
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-06,
        "model_type": "siglip_vision_model",
        "num_channels": 3,
        "torch_dtype": "float32",
        "transformers_version": "4.36.2",
        **sizes,
    }
    _write(folder / "config.json", config)
    preparation = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 8 * patches, "width": 8 * patches},
    }
    _write(folder / "preprocessor_config.json", preparation)
    return config


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2), "utf-8")
