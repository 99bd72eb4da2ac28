"""A tiny random causal language model in the Hugging Face layout, so that tests of local models download nothing."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
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


def make_tiny_model(folder: Path, *, seed: int = 0, words: str = WORDS, max_positions: int = 4096) -> str:
    """Write a two-layer Llama with one token per word, and return its folder as text.

    Weights are large enough that its predictions depend on all it reads and are far from uniform.
    """
    ids = {word: i for i, word in enumerate([END, "<unknown>", *words.split()])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, chat_template=CHAT).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_positions,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=ids[END],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@torch.inference_mode()
def plain_scores(folder: Path, texts: list[str]) -> list[float]:
    """Return what transformers alone says of texts, one pass each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return [float(network(torch.tensor([tokenizer(text).input_ids])).logits[0, 0]) for text in texts]
