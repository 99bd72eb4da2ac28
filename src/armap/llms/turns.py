"""How the chat template of a local model writes turns."""

from __future__ import annotations

from contextlib import suppress

from armap.errors import ConfigError, first_line, foreign_code
from armap.weights import LocalModel

_SAID = "qzarmapzq"
"""What an assistant says to show what its chat template writes behind it; no template writes it by itself."""


def end_of_turn(local: LocalModel) -> int:
    """Return the token with which the model ends its turn: what its chat template writes behind what it said.

    That need not be the one that ends a text; Gemma writes `<end_of_turn>`, Phi-3 `<|end|>`. Where the template writes
    no control token there, it is that one.

    Raises:
        ConfigError: there is none, or no chat template, or it cannot write a conversation or leaves out what is said.
    """
    tokenizer = local.tokenizer
    if tokenizer.chat_template is None:
        raise ConfigError(f"The tokenizer of {local.name} has no chat template; use an instruct model.")
    turns = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": _SAID}]
    with foreign_code(lambda error: f"The chat template of {local.name} writes no conversation: {first_line(error)}"):
        written: str = tokenizer.apply_chat_template(turns, tokenize=False)
    if any(turn["content"] not in written for turn in turns):
        raise ConfigError(
            f"The chat template of {local.name} leaves out what is said; use a model whose template reads it as a text."
        )
    behind: list[int] = tokenizer(written.partition(_SAID)[2].lstrip(), add_special_tokens=False).input_ids
    if behind and behind[0] in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}:
        return behind[0]
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise ConfigError(f"The tokenizer of {local.name} has no end-of-turn token; use an instruct model.")
    return end


def stops(local: LocalModel, end: int) -> set[int | None]:
    """Return the tokens behind which the model writes nothing of use: the end of its turn, and those of texts."""
    stated: int | list[int] | None = local.network.generation_config.eos_token_id
    return {end, local.tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])}


def has_system_turn(local: LocalModel) -> bool:
    """Say whether the model knows instructions of a system; Gemma, for one, is told them by the user."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go."}]
    # A template may raise anything at a role that it does not know, or leave out what it says.
    with suppress(Exception):
        return turns[0]["content"] in local.tokenizer.apply_chat_template(turns, tokenize=False)
    return False
