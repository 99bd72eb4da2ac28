"""A causal language model in this process, on the CPU or a GPU.

Two things make it quick. The hidden states of every prompt are kept, so a conversation that goes on, or that starts
with the same rules and examples, pays only for what is new. And everything that branches from one prompt, be it the
choices on offer or the answers being drawn, is computed as one token tree behind that prompt.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from armap import weights
from armap.errors import LLMError
from armap.seeds import rng_for
from armap.tokentree import TokenTree
from armap.types import Completion, Message, SamplingParams, Usage

_KEPT_TOKENS = 8192
"""Prompt tokens whose keys and values are kept; for a 135M model some 45 kB each."""
_KEPT_DISTRIBUTIONS = 4096
"""Distributions over choices that are kept; a few kB each."""
_TREE_TOKENS = 1024
"""Longest token tree in one pass, which bounds the memory of the attention mask and of the logits."""


class _Prompt(NamedTuple):
    """A prompt that has been read."""

    cache: Any
    """transformers cache with its keys and values."""
    last_hidden: torch.Tensor
    """`[D]` hidden state of its last token."""
    reused: int
    """How many of its tokens did not have to be computed."""


class _Choices(NamedTuple):
    """The model's own distribution over offered choices."""

    log_probs: NDArray[np.float64]
    """`[C]` log-probability, in nats, that a free answer is exactly this choice."""
    usage: Usage
    """What computing it took."""


class LocalLLM:
    """A causal language model from `armap.weights`.

    All work is done by one thread, one request after the other, so answers do not depend on what else is asked.

    Args:
        model: what `armap.weights.locate` accepts.

    Raises:
        ConfigError: the model cannot be loaded.
    """

    def __init__(self, model: str = weights.EMBEDDED) -> None:
        local = weights.load(model)
        self.name = local.name
        self._tokenizer = local.tokenizer
        self._body: Any = local.network.base_model
        self._unembed: Any = local.network.get_output_embeddings()  # type: ignore[operator]
        self._end = _end_of_turn(local.tokenizer)
        self._prompts: OrderedDict[tuple[int, ...], _Prompt] = OrderedDict()
        self._distributions: OrderedDict[tuple[object, ...], _Choices] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-llm")

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: SamplingParams,
        choices: Sequence[str] | None = None,
    ) -> list[Completion]:
        """Draw `n` answers; see `armap.protocols.LLM.generate`.

        With `choices`, the probability of each is that of the model writing exactly it and then ending its turn,
        normalised over the choices; temperature and top-p apply to that distribution.
        """
        work = self._choose if choices is not None else self._write
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, tuple(messages), n, sampling, tuple(choices or ()))

    def _choose(
        self, messages: tuple[Message, ...], n: int, sampling: SamplingParams, choices: tuple[str, ...]
    ) -> list[Completion]:
        known = self._distributions.get((messages, choices))
        if known is None:
            known = self._distributions[messages, choices] = self._score_choices(self._encode(messages), choices)
            usage = known.usage
            if len(self._distributions) > _KEPT_DISTRIBUTIONS:
                self._distributions.popitem(last=False)
        else:
            read = known.usage.prompt_tokens
            usage = Usage(calls=1, prompt_tokens=read, cached_tokens=read)
        probs = _tempered(known.log_probs, sampling)
        entropy = float(-np.sum(probs * np.log(np.maximum(probs, 1e-300))))
        mass = float(np.exp(known.log_probs).sum())
        rng = rng_for("choose", sampling.seed, _said(messages))
        cumulative = list(accumulate(probs.tolist()))
        drawn = rng.choices(range(len(choices)), cum_weights=cumulative, k=n)
        return [
            Completion(
                text=choices[c],
                usage=usage if i == 0 else Usage(),
                choice_entropy_nats=entropy,
                choice_mass=mass,
            )
            for i, c in enumerate(drawn)
        ]

    def _score_choices(self, prompt_ids: list[int], choices: tuple[str, ...]) -> _Choices:
        """Return the log-probability of every choice, all computed behind the prompt at once."""
        prompt = self._read(prompt_ids)
        sequences = [self._tokenizer(choice, add_special_tokens=False).input_ids for choice in choices]
        log_probs: list[float] = []
        computed = 0
        with torch.inference_mode():
            first = torch.log_softmax(self._unembed(prompt.last_hidden), -1)
            for tree in _split(sequences):
                computed += len(tree)
                hidden, _ = self._forward(tree.tokens, _positions(tree, len(prompt_ids)), tree.ancestors(), prompt)
                after = torch.log_softmax(self._unembed(hidden), -1)
                so_far: list[float] = []
                for token, parent in zip(tree.tokens, tree.parents, strict=True):
                    before = so_far[parent] if parent >= 0 else 0.0
                    so_far.append(before + float((after[parent] if parent >= 0 else first)[token]))
                log_probs += [so_far[end] + float(after[end, self._end]) for end in tree.ends]
        usage = Usage(
            calls=1,
            prompt_tokens=len(prompt_ids) + computed,
            cached_tokens=prompt.reused,
            completion_tokens=0,
        )
        return _Choices(np.array(log_probs), usage)

    def _write(
        self, messages: tuple[Message, ...], n: int, sampling: SamplingParams, _: tuple[str, ...]
    ) -> list[Completion]:
        """Draw `n` free answers, each a branch of one growing token tree behind the prompt."""
        prompt_ids = self._encode(messages)
        prompt = self._read(prompt_ids)
        rngs = [rng_for("write", sampling.seed, i, _said(messages)) for i in range(n)]
        answers = [_Answer(sampling.stop, self._tokenizer) for _ in range(n)]
        with torch.inference_mode():
            logits = self._unembed(prompt.last_hidden).expand(n, -1)
            cache, owners = _copy(prompt.cache), np.zeros(0, dtype=np.int64)
            writing = list(range(n))
            for step in range(sampling.max_tokens):
                tokens = [_draw(logits[row], sampling, rngs[i]) for row, i in enumerate(writing)]
                kept = [
                    (i, token)
                    for i, token in zip(writing, tokens, strict=True)
                    if token != self._end and answers[i].add(token)
                ]
                writing = [i for i, _ in kept]
                if not writing or step == sampling.max_tokens - 1:
                    break
                owners = np.concatenate([owners, np.array(writing)])
                seen = owners[None, :] == np.array(writing)[:, None]
                positions = [len(prompt_ids) + step] * len(writing)
                hidden, cache = self._forward([t for _, t in kept], positions, seen, prompt._replace(cache=cache))
                logits = self._unembed(hidden)
        usage = Usage(
            calls=1,
            prompt_tokens=len(prompt_ids),
            cached_tokens=prompt.reused,
            completion_tokens=sum(len(answer.tokens) for answer in answers),
        )
        return [Completion(text=answer.text, usage=usage if i == 0 else Usage()) for i, answer in enumerate(answers)]

    def _encode(self, messages: tuple[Message, ...]) -> list[int]:
        """Return the prompt as token ids, up to where the assistant's turn begins."""
        text = self._tokenizer.apply_chat_template(
            [message.model_dump() for message in messages], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        limit = self._body.config.max_position_embeddings
        if len(ids) > limit:
            raise LLMError(f"The prompt has {len(ids)} tokens, but {self.name} reads at most {limit}.")
        return ids

    def _read(self, ids: list[int]) -> _Prompt:
        """Run the prompt through the network, going on from the kept prompt that shares the longest beginning."""
        key = tuple(ids)
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]._replace(reused=len(key))
        shared, source = max(((_common(key, other), other) for other in self._prompts), default=(0, ()))
        # The last token is always computed, as its hidden state is needed.
        shared = min(shared, len(key) - 1)
        cache = _copy(self._prompts[source].cache, shared) if shared else DynamicCache()
        new = key[shared:]
        causal = np.tri(len(new), dtype=np.bool_)
        before = _Prompt(cache, torch.empty(0), 0)
        with torch.inference_mode():
            hidden, cache = self._forward(list(new), list(range(shared, len(key))), causal, before)
        prompt = _Prompt(cache, hidden[-1], shared)
        self._prompts[key] = prompt
        while len(self._prompts) > 1 and sum(map(len, self._prompts)) > _KEPT_TOKENS:
            self._prompts.popitem(last=False)
        return prompt

    def _forward(
        self, tokens: list[int], positions: list[int], among_new: NDArray[np.bool_], prompt: _Prompt
    ) -> tuple[torch.Tensor, Any]:
        """Compute tokens behind a prompt.

        Args:
            tokens: `[N]` new token ids.
            positions: `[N]` position of each.
            among_new: `[N, M]` which of the last M positions (those after the prompt, the new ones last) each of
                the new tokens attends to; all attend to what stands before those.
            prompt: what stands before; its cache is not changed.

        Returns:
            `[N, D]` hidden states, and the cache with the new tokens in it.
        """
        cache = _copy(prompt.cache)
        before = cache.get_seq_length() + len(tokens) - among_new.shape[1]
        visible = np.concatenate([np.ones((len(tokens), before), dtype=np.bool_), among_new], axis=1)
        device = self._unembed.weight.device
        mask = torch.zeros(visible.shape, dtype=torch.float32).masked_fill_(
            torch.from_numpy(~visible), torch.finfo(torch.float32).min
        )
        output = self._body(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=mask[None, None].to(device),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[0], output.past_key_values


class _Answer:
    """A free answer being written."""

    def __init__(self, stop: tuple[str, ...], tokenizer: Any) -> None:  # noqa: ANN401 - transformers is untyped here
        self.tokens: list[int] = []
        self.text = ""
        self._stop = stop
        self._tokenizer = tokenizer

    def add(self, token: int) -> bool:
        """Append a token; return False when a stop text ends the answer."""
        self.tokens.append(token)
        text: str = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)
        self.text = text if cut is None else text[:cut]
        return cut is None


def _said(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def _end_of_turn(tokenizer: Any) -> int:  # noqa: ANN401
    """Return the token with which the model ends its turn."""
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise LLMError("This model's tokenizer names no end-of-turn token; use an instruct model.")
    return end


def _copy(cache: Any, length: int | None = None) -> Any:  # noqa: ANN401
    """Return a cache with the first `length` positions; growing it leaves the original as it is."""
    fresh = DynamicCache()
    for i, layer in enumerate(cache.layers):
        fresh.update(layer.keys[:, :, :length], layer.values[:, :, :length], i)
    return fresh


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return how many leading tokens two prompts share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _split(sequences: list[list[int]]) -> list[TokenTree]:
    """Merge sequences, in order, into trees of at most `_TREE_TOKENS` tokens."""
    trees = [TokenTree()]
    for sequence in sequences:
        if len(trees[-1]) and len(trees[-1]) + trees[-1].new_tokens(sequence) > _TREE_TOKENS:
            trees.append(TokenTree())
        trees[-1].add(sequence)
    return trees


def _positions(tree: TokenTree, start: int) -> list[int]:
    return [start + depth for depth in tree.depths]


def _tempered(log_probs: NDArray[np.float64], sampling: SamplingParams) -> NDArray[np.float64]:
    """Return `[C]` probabilities after temperature and top-p."""
    if sampling.temperature == 0:
        probs = np.zeros(len(log_probs))
        probs[int(log_probs.argmax())] = 1.0
        return probs
    scaled = log_probs / sampling.temperature
    probs: NDArray[np.float64] = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    if sampling.top_p < 1:
        order = np.argsort(-probs, kind="stable")
        # The smallest set that reaches top_p: a choice stays if the mass before it is still below.
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= sampling.top_p]] = 0.0
        probs /= probs.sum()
    return probs


def _draw(logits: torch.Tensor, sampling: SamplingParams, rng: Random) -> int:
    """Draw one token from `[V]` logits."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probs = _tempered(logits.double().numpy(force=True), sampling)
    at = int(np.searchsorted(np.cumsum(probs), rng.random() * math.fsum(probs), side="right"))
    return min(at, len(probs) - 1)
