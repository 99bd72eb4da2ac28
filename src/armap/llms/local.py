"""A causal language model in this process, on the CPU or a GPU.

Two things make it quick. The hidden states of every prompt are kept, so a conversation that goes on, or that starts
with the same rules and examples, pays only for what is new. And everything that branches from one prompt, be it the
choices on offer or the answers being drawn, is computed as one token tree behind that prompt.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
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
from armap.errors import ConfigError, LLMError
from armap.llms import turns
from armap.seeds import rng_for
from armap.thoughts import opened_by
from armap.tokentree import TokenTree
from armap.types import Completion, Message, SamplingParams, Usage

_KEPT_TOKENS = 32768
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
    tokens: NDArray[np.int64]
    """`[C]` tokens of each choice, the end of the turn included."""
    usage: Usage
    """What computing it took."""


class LocalLLM:
    """A causal language model from `armap.weights`.

    All work is done by one thread, one request after the other, so answers do not depend on what else is asked.

    Args:
        model: what `armap.weights.locate` accepts.

    Raises:
        ConfigError: the model cannot be loaded, is no chat model, or makes its logits in a way of its own.
    """

    def __init__(self, model: str = weights.EMBEDDED) -> None:
        local = weights.load(model)
        self.name = local.name
        self._tokenizer = local.tokenizer
        self._body: Any = local.network.base_model
        self._cache_argument = weights.cache_argument(self._body)
        self._unembed: Any = local.network.get_output_embeddings()
        self._logit_scale = _logit_scale(local)
        self._longest = _longest(local)
        self._end = turns.end_of_turn(local)
        self._stops = turns.stops(local, self._end)
        self._has_system_turn = turns.has_system_turn(local)
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

        With `choices`, each weighs what the model writing exactly it and then ending its turn weighs, were it as long
        as choices are on average: the longer a text, the less likely it is, so that otherwise a button would always be
        pressed and no product with a long number ever looked at. Temperature and top-p apply to that distribution.
        Source: length-normalised multiple choice (Brown et al., 2020, section 2.4).
        """
        loop = asyncio.get_running_loop()
        if choices is None:
            return await loop.run_in_executor(self._thread, self._write, tuple(messages), n, sampling)
        return await loop.run_in_executor(self._thread, self._choose, tuple(messages), n, sampling, tuple(choices))

    def _choose(
        self, messages: tuple[Message, ...], n: int, sampling: SamplingParams, choices: tuple[str, ...]
    ) -> list[Completion]:
        known = self._distributions.get((messages, choices))
        if known is None:
            known = self._distributions[messages, choices] = self._score_choices(
                self._encode(self._conversation(messages)), choices
            )
            usage = known.usage
            if len(self._distributions) > _KEPT_DISTRIBUTIONS:
                self._distributions.popitem(last=False)
        else:
            read = known.usage.prompt_tokens
            usage = Usage(calls=1, prompt_tokens=read, cached_tokens=read)
        probs = _tempered(known.log_probs / known.tokens * known.tokens.mean(), sampling)
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

    def _score_choices(self, ids: list[int], choices: tuple[str, ...]) -> _Choices:
        """Return the log-probability of every choice, computed together with what is new of the prompt."""
        sequences = [self._tokenizer(choice, add_special_tokens=False).input_ids for choice in choices]
        most = max(map(len, sequences))
        if len(ids) + most > self._longest:
            raise self._too_long(f"{len(ids)} tokens and a choice {most}")
        log_probs: list[float] = []
        reused, computed = None, 0
        for chunk in _chunks(sequences):
            prompt, tree, hidden = self._read(ids, chunk)
            reused = prompt.reused if reused is None else reused
            computed += len(tree)
            with torch.inference_mode():
                # Row 0 stands behind the prompt, row i + 1 behind token i of the tree.
                after = torch.log_softmax(self._logits(torch.cat([prompt.last_hidden[None], hidden])), -1)
            parents = torch.tensor(tree.parents) + 1
            token_log_probs = after[parents, torch.tensor(tree.tokens)].tolist()
            so_far: list[float] = []
            for parent, log_prob in zip(tree.parents, token_log_probs, strict=True):
                so_far.append((so_far[parent] if parent >= 0 else 0.0) + log_prob)
            ending = after[torch.tensor(tree.ends) + 1, self._end].tolist()
            log_probs += [so_far[end] + log_prob for end, log_prob in zip(tree.ends, ending, strict=True)]
        usage = Usage(calls=1, prompt_tokens=len(ids) + computed, cached_tokens=reused or 0)
        return _Choices(np.array(log_probs), np.array([len(sequence) + 1 for sequence in sequences]), usage)

    def _write(self, messages: tuple[Message, ...], n: int, sampling: SamplingParams) -> list[Completion]:
        """Draw `n` free answers, each a branch of one growing token tree behind the prompt."""
        conversation = self._conversation(messages)
        prompt_ids = self._encode(conversation)
        prompt, _, _ = self._read(prompt_ids)
        rngs = [rng_for("write", sampling.seed, i, _said(messages)) for i in range(n)]
        answers = [_Answer(sampling.stop, self._tokenizer) for _ in range(n)]
        with torch.inference_mode():
            logits = self._logits(prompt.last_hidden).expand(n, -1)
            cache, owners = prompt.cache, np.zeros(0, dtype=np.int64)
            writing = list(range(n))
            for step in range(sampling.max_tokens):
                tokens = [_draw(logits[row], sampling, rngs[i]) for row, i in enumerate(writing)]
                kept = [
                    (i, token)
                    for i, token in zip(writing, tokens, strict=True)
                    if token not in self._stops and answers[i].add(token)
                ]
                writing = [i for i, _ in kept]
                if not writing or step == sampling.max_tokens - 1:
                    break
                if len(prompt_ids) + step == self._longest:
                    raise self._too_long(f"{len(prompt_ids)} tokens and an answer more than {step}")
                owners = np.concatenate([owners, np.array(writing)])
                seen = owners[None, :] == np.array(writing)[:, None]
                positions = [len(prompt_ids) + step] * len(writing)
                hidden, cache = self._forward([token for _, token in kept], positions, seen, cache)
                logits = self._logits(hidden)
        usage = Usage(
            calls=1,
            prompt_tokens=len(prompt_ids),
            cached_tokens=prompt.reused,
            completion_tokens=sum(len(answer.tokens) for answer in answers),
        )
        # Whoever reads the answer looks for the thought that its prompt begins.
        opened = opened_by(conversation)
        return [
            Completion(text=opened + answer.text, usage=usage if i == 0 else Usage(), cut=i in writing)
            for i, answer in enumerate(answers)
        ]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._unembed(hidden)
        return logits if self._logit_scale == 1 else logits * self._logit_scale

    def _conversation(self, messages: tuple[Message, ...]) -> str:
        """Return the prompt as the chat template writes it, up to where the assistant's turn begins."""
        if not self._has_system_turn and messages[0].role == "system":
            told = "\n\n".join(message.content for message in messages[:2])
            messages = (Message(role="user", content=told), *messages[2:])
        text: str = self._tokenizer.apply_chat_template(
            [message.model_dump() for message in messages], add_generation_prompt=True, tokenize=False
        )
        return text

    def _encode(self, conversation: str) -> list[int]:
        """Return a prompt as token ids."""
        ids: list[int] = self._tokenizer(conversation, add_special_tokens=False).input_ids
        if len(ids) > self._longest:
            raise self._too_long(f"{len(ids)} tokens")
        return ids

    def _too_long(self, has: str) -> LLMError:
        return LLMError(f"The prompt has {has}, but {self.name} reads at most {self._longest}.")

    def _read(self, ids: list[int], branches: Sequence[list[int]] = ()) -> tuple[_Prompt, TokenTree, torch.Tensor]:
        """Run a prompt through the network, and in the same pass what may follow it.

        The pass goes on from the kept prompt that shares the longest beginning.

        Args:
            ids: the prompt.
            branches: token ids that may follow it.

        Returns:
            The prompt, its branches as a tree, and the `[N, D]` hidden states of that tree.
        """
        key = tuple(ids)
        tree = TokenTree(branches)
        known = self._prompts.get(key)
        if known is not None:
            self._prompts.move_to_end(key)
            known = known._replace(reused=len(key))
            if not len(tree):
                return known, tree, known.last_hidden[None, :][:0]
            shared, cache = len(key), known.cache
        else:
            common, source = max(((_common(key, other), other) for other in self._prompts), default=(0, ()))
            # At least the last token is computed, as its hidden state is needed.
            shared = min(common, len(key) - 1)
            cache = _beginning(self._prompts[source].cache, shared) if shared else DynamicCache()
        new = list(key[shared:])
        among_new = np.zeros((len(new) + len(tree),) * 2, dtype=np.bool_)
        among_new[: len(new), : len(new)] = np.tri(len(new), dtype=np.bool_)
        among_new[len(new) :, : len(new)] = True
        among_new[len(new) :, len(new) :] = tree.ancestors()
        positions = [*range(shared, len(key)), *(len(key) + depth for depth in tree.depths)]
        with torch.inference_mode():
            hidden, grown = self._forward([*new, *tree.tokens], positions, among_new, cache)
        if known is None:
            known = _Prompt(_beginning(grown, len(key)), hidden[len(new) - 1], shared)
            # A conversation that has gone on holds its beginning too.
            if common == len(key):
                self._prompts.move_to_end(source)
            else:
                if common == len(source):
                    self._prompts.pop(source, None)
                self._prompts[key] = known._replace(cache=_kept(known.cache))
                while len(self._prompts) > 1 and sum(map(len, self._prompts)) > _KEPT_TOKENS:
                    self._prompts.popitem(last=False)
        return known, tree, hidden[len(new) :]

    def _forward(
        self,
        tokens: list[int],
        positions: list[int],
        among_new: NDArray[np.bool_],
        cache: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, Any]:
        """Compute tokens behind a cache.

        Args:
            tokens: `[N]` new token ids.
            positions: `[N]` position of each.
            among_new: `[N, M]` which of the last M positions, the new ones last, each new token attends to; all
                attend to what stands before those.
            cache: keys and values of what stands before; it is not changed.

        Returns:
            `[N, D]` hidden states, and the cache with the new tokens in it.
        """
        before = cache.get_seq_length() + len(tokens) - among_new.shape[1]
        visible = np.concatenate([np.ones((len(tokens), before), dtype=np.bool_), among_new], axis=1)
        device = self._unembed.weight.device
        mask = torch.zeros(visible.shape, dtype=torch.float32)
        mask.masked_fill_(torch.from_numpy(~visible), torch.finfo(torch.float32).min)
        grown = _beginning(cache)
        output = self._body(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=mask[None, None].to(device),
            use_cache=True,
            **{self._cache_argument: grown},
        )
        return output.last_hidden_state[0], grown


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


def _logit_scale(local: weights.LocalModel) -> float:
    """Return by what the network multiplies what its last layer says to make logits of it.

    Raises:
        ConfigError: it does something else with it, or remembers something else than keys and values.
    """
    own = f"of its own; let a server such as vLLM or llama.cpp run {local.name}, and give its address with --base-url."
    body = local.network.base_model
    # Unless it is told where tokens are, the choices cannot all stand behind the same prompt.
    told = "position_ids" in inspect.signature(body.forward).parameters and not getattr(body.config, "alibi", False)
    if not told or weights.attends_to_part(body.config, 1):
        raise ConfigError(f"{local.name} attends in a way {own}")
    ids = torch.tensor([[1, 2, 3, 4]], device=local.network.device)
    with torch.inference_mode():
        plain = local.network.get_output_embeddings()(body(input_ids=ids).last_hidden_state)
        usual = local.network(input_ids=ids).logits
    scale = float((usual * plain).sum() / plain.square().sum())
    if not torch.allclose(usual, plain * scale, rtol=0.01, atol=0.001 * float(usual.abs().max())):
        raise ConfigError(f"{local.name} makes its logits in a way {own}")
    return 1.0 if math.isclose(scale, 1.0, rel_tol=0.001) else scale


def _longest(local: weights.LocalModel) -> int:
    """Return how many tokens the model reads at most."""
    config = local.network.base_model.config.get_text_config()
    limit: int = config.max_position_embeddings
    # Further back some layers would not look, but ours do.
    return min(limit, config.sliding_window) if weights.attends_to_part(config, limit) else limit


def _beginning(cache: Any, length: int | None = None) -> Any:  # noqa: ANN401
    """Return a cache of the first `length` positions in the same memory; growing it leaves the original as it is."""
    fresh = copy.copy(cache)
    fresh.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in fresh.layers:
        layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    return fresh


def _kept(cache: Any) -> Any:  # noqa: ANN401
    """Return a cache in memory of its own, so that what it is the beginning of takes none."""
    fresh = _beginning(cache)
    for layer in fresh.layers:
        layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
    return fresh


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return how many leading tokens two prompts share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _chunks(sequences: list[list[int]]) -> list[list[list[int]]]:
    """Divide sequences, in order, so that each part makes a tree of at most `_TREE_TOKENS` tokens."""
    chunks: list[list[list[int]]] = [[]]
    tree = TokenTree()
    for sequence in sequences:
        if chunks[-1] and len(tree) + tree.new_tokens(sequence) > _TREE_TOKENS:
            chunks.append([])
            tree = TokenTree()
        tree.add(sequence)
        chunks[-1].append(sequence)
    return chunks


def _tempered(log_probs: NDArray[np.float64], sampling: SamplingParams) -> NDArray[np.float64]:
    """Return `[C]` probabilities after temperature and top-p."""
    probs = np.zeros(len(log_probs))
    if sampling.temperature == 0:
        probs[int(log_probs.argmax())] = 1.0
        return probs
    np.exp((log_probs - log_probs.max()) / sampling.temperature, out=probs)
    if sampling.top_p < 1:
        order = np.argsort(-probs, kind="stable")
        # The smallest set that reaches top_p: a choice stays if the mass before it is still below.
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= sampling.top_p * probs.sum()]] = 0.0
    normalised: NDArray[np.float64] = probs / probs.sum()
    return normalised


def _draw(logits: torch.Tensor, sampling: SamplingParams, rng: Random) -> int:
    """Draw one token from `[V]` logits."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probs = _tempered(logits.double().numpy(force=True), sampling)
    cumulative = np.cumsum(probs)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
