"""Tiny random models in the Hugging Face layout, so that tests of local models download nothing.

Weights are large enough that predictions depend on all that is read and are far from uniform.
"""

import json
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

# So small a model only loses by sharing its sums among threads, and loses badly where other tests keep the cores busy.
torch.set_num_threads(1)

END = "<end>"
WORDS = """
system user assistant Task Action Thought Was the task done On shelf You hold left leave Leave with take nothing
red green blue cube ball cone Illegal action write or and an object on ` . , : ?
"""
CHAT = (
    "{% for message in messages %}{{ message.role }} : {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
EYES = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.3}
IDEFICS_TOKENS = [
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
]
QWEN_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]

Vision = Literal["idefics3", "smolvlm", "llava", "qwen2_5_vl", "qwen3_vl"]


def make_tiny_model(folder: Path, *, seed: int = 0, words: str = WORDS, max_positions: int = 4096) -> str:
    """Write a two-layer Llama with one token per word, and return its folder as text."""
    ids = _write_tokenizer(folder, words)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=max_positions, **_vocabulary(ids))
    return _write(LlamaForCausalLM, config, folder, seed)


def make_tiny_turning_model(folder: Path, *, words: str = WORDS) -> str:
    """Write a Llama that ends its turns otherwise than its texts, as Gemma does, and may end both with a call."""
    control = ["<end_of_turn>", "<call>"]
    ids = _write_tokenizer(folder, words, control, CHAT.replace(" {% endfor %}", " <end_of_turn> {% endfor %}"))
    config = LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=4096, **_vocabulary(ids))
    config.eos_token_id = [ids[token] for token in (END, *control)]
    return _write(LlamaForCausalLM, config, folder, 5)


def make_tiny_positioned_model(folder: Path, *, max_positions: int) -> str:
    """Write a GPT-2, which has learned each position by itself and has nothing for those behind the last."""
    ids = _write_tokenizer(folder, WORDS)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=max_positions, **_vocabulary(ids))
    return _write(GPT2LMHeadModel, config, folder, 0)


def make_tiny_windowed_model(folder: Path, *, window: int) -> str:
    """Write a Mistral whose layers look back a few tokens only."""
    ids = _write_tokenizer(folder, WORDS)
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=window, **_vocabulary(ids))
    return _write(MistralForCausalLM, config, folder, 0)


def make_tiny_scaled_model(folder: Path) -> str:
    """Write a Granite, which divides its logits."""
    ids = _write_tokenizer(folder, WORDS)
    config = GraniteConfig(**SIZES, num_key_value_heads=2, logits_scaling=8.0, **_vocabulary(ids))
    return _write(GraniteForCausalLM, config, folder, 0)


def make_tiny_capped_model(folder: Path) -> str:
    """Write a Gemma 2, which bends its logits so that none is large."""
    ids = _write_tokenizer(folder, WORDS)
    config = Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5, **_vocabulary(ids))
    return _write(Gemma2ForCausalLM, config, folder, 0)


def make_tiny_alibi_model(folder: Path) -> str:
    """Write a Bloom, which finds out where tokens are from a mask of its own."""
    ids = _write_tokenizer(folder, WORDS)
    config = BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, **_vocabulary(ids))
    return _write(BloomForCausalLM, config, folder, 0)


def make_tiny_encoder(folder: Path, *, max_positions: int = 512) -> str:
    """Write a BERT, which has a class token before and a separator behind every text."""
    ids = _write_tokenizer(folder, WORDS, ["[CLS]", "[SEP]"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    frame = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    tokenizer.save_pretrained(folder)
    config = BertConfig(**SIZES, max_position_embeddings=max_positions, vocab_size=len(ids), pad_token_id=ids[END])
    return _write(BertForMaskedLM, config, folder, 0)


def make_tiny_vision_model(folder: Path, family: Vision, *, seed: int = 0) -> str:
    """Write a vision-language model as its family publishes them, and return its folder as text.

    A picture takes 4 to some 50 tokens.
    """
    if family == "llava":
        return _write_llava(folder, seed)
    return (_write_idefics if family in ("idefics3", "smolvlm") else _write_qwen)(folder, family, seed)


def make_tiny_gemma3(folder: Path) -> str:
    """Write a Gemma 3, whose tokens of a picture attend to each other in both directions."""
    control = ["<image_soft_token>", "<start_of_image>", "<end_of_image>"]
    ids = _write_tokenizer(folder, WORDS, control, _vision_chat("<start_of_image>"))
    file = folder / "tokenizer_config.json"
    names = dict(zip(("image_token", "boi_token", "eoi_token"), control, strict=True))
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    Gemma3ImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    processor = {"processor_class": "Gemma3Processor", "image_seq_length": 4}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    sees = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, image_size=16, patch_size=4, num_hidden_layers=2, num_attention_heads=4
    )
    config = Gemma3Config(
        text_config={**SIZES, "num_key_value_heads": 2, "head_dim": 8, **_vocabulary(ids)},
        vision_config=sees.to_dict(),
        mm_tokens_per_image=4,
        **{f"{name}_index": ids[token] for name, token in names.items()},
    )
    return _write(Gemma3ForConditionalGeneration, config, folder, 0)


def _write_idefics(folder: Path, family: Vision, seed: int) -> str:
    chat = _vision_chat("<image>")
    ids = _write_tokenizer(folder, WORDS, IDEFICS_TOKENS, chat)
    smol = family == "smolvlm"
    eyes = (SmolVLMImageProcessorPil if smol else Idefics3ImageProcessorPil)(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    eyes.save_pretrained(folder)
    processor = {"processor_class": "SmolVLMProcessor" if smol else "Idefics3Processor", "image_seq_len": 4}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    text = LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=4096, **_vocabulary(ids)).to_dict()
    config = (SmolVLMConfig if smol else Idefics3Config)(
        text_config=text,
        vision_config={**EYES, "image_size": 16, "patch_size": 4, "num_hidden_layers": 2, "num_attention_heads": 4},
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=ids[END],
    )
    network = SmolVLMForConditionalGeneration if smol else Idefics3ForConditionalGeneration
    return _write(network, config, folder, seed)


def _write_llava(folder: Path, seed: int) -> str:
    ids = _write_tokenizer(folder, WORDS, ["<image>"], _vision_chat("<image>"))
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": 4,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
    text = LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=4096, **_vocabulary(ids)).to_dict()
    # Wide enough weights, as CLIP shrinks what it is given by its own rules.
    sees = CLIPVisionConfig(
        **EYES,
        image_size=16,
        patch_size=4,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        initializer_factor=10.0,
    )
    config = LlavaConfig(text_config=text, vision_config=sees.to_dict(), image_token_index=ids["<image>"])
    return _write(LlavaForConditionalGeneration, config, folder, seed)


def _write_qwen(folder: Path, family: Vision, seed: int) -> str:
    chat = _vision_chat("<|vision_start|><|image_pad|><|vision_end|>")
    ids = _write_tokenizer(folder, WORDS, QWEN_TOKENS, chat)
    patch_size = 4
    eyes = Qwen2VLImageProcessorPil(patch_size=patch_size, min_pixels=8 * 8, max_pixels=40 * 40)
    eyes.save_pretrained(folder)
    text = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 4096, "head_dim": 8, **_vocabulary(ids)}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    sees = {**EYES, "depth": 2, "num_heads": 4, "patch_size": patch_size, "out_hidden_size": 32}
    tokens = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    if family == "qwen2_5_vl":
        sees |= {"fullatt_block_indexes": [1], "window_size": 16}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=sees, **tokens)
        return _write(Qwen2_5_VLForConditionalGeneration, config, folder, seed)
    sees |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    return _write(
        Qwen3VLForConditionalGeneration, Qwen3VLConfig(text_config=text, vision_config=sees, **tokens), folder, seed
    )


def _vision_chat(marker: str) -> str:
    """Return a chat template in the manner of vision-language models."""
    return (
        "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
        "{% if part.type == 'image' %}" + marker + "{% else %}{{ part.text }}{% endif %}{% endfor %} {% endfor %}"
    )


def _write_tokenizer(folder: Path, words: str, control: list[str] | None = None, chat: str = CHAT) -> dict[str, int]:
    """Write a tokenizer with one token per word, and return its vocabulary."""
    ids = {word: i for i, word in enumerate([END, "<unknown>", *(control or []), *words.split()])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, additional_special_tokens=control or [], chat_template=chat
    ).save_pretrained(folder)
    return ids


def _vocabulary(ids: dict[str, int]) -> dict[str, int | None]:
    return {"vocab_size": len(ids), "bos_token_id": None, "eos_token_id": ids[END]}


def _write(family: type[PreTrainedModel], config: object, folder: Path, seed: int) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        family(config).save_pretrained(folder)
    return str(folder)


@torch.inference_mode()
def plain_scores(folder: Path, texts: list[str]) -> list[float]:
    """Return what transformers alone says of texts, one pass each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return [float(network(torch.tensor([tokenizer(text).input_ids])).logits[0, 0]) for text in texts]
