"""Attention over token trees that lie end to end, without padding and without a mask over everything.

Each segment of a tree attends to the segments before it and, causally, to itself: to no key more, in as many calls of
torch's attention as there are segments. transformers calls `attend` in the networks whose attention implementation is
`NAME`; without segments it does what transformers' own does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from armap.tokentree import TokenTree

NAME = "armap_trees"
"""The attention implementation, as transformers knows it."""


class Segments(NamedTuple):
    """Which parts of a row attend to which; one entry for each segment, in the order in which they lie."""

    lengths: list[int]
    """Tokens of each."""
    before: list[tuple[int, ...]]
    """The segments that lead to each, in order."""
    masks: list[torch.Tensor | None]
    """`[1, 1, n, p + n]` true where one of its n tokens attends to one of the p before it or of its own; None where it
    is the first and so plainly causal."""


def of(trees: Sequence[TokenTree], device: torch.device) -> dict[str, Any]:
    """Return the arguments with which a network reads trees that lie end to end in one row."""
    lengths: list[int] = []
    before: list[tuple[int, ...]] = []
    masks: list[torch.Tensor | None] = []
    for tree in trees:
        first = len(lengths)
        for segment in tree.segments():
            lengths.append(segment.end - segment.start)
            before.append(tuple(first + place for place in segment.before))
            past = sum(lengths[place] for place in before[-1])
            shape = (1, 1, lengths[-1], past + lengths[-1])
            masks.append(torch.ones(shape, dtype=torch.bool, device=device).tril(past) if past else None)
    # A mask of four dimensions keeps the network from making one, which nobody would look at.
    unused = torch.zeros((1, 1, 1, 1), device=device)
    return {"attention_mask": unused, "segments": Segments(lengths, before, masks)}


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    **settings: Any,  # noqa: ANN401 - handed on as they come
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' attention functions do.

    Args:
        module: the layer.
        query: `[B, H, L, D]` of H heads; with segments B is 1.
        key: `[B, K, L, D]` of K heads, which divides H.
        value: like `key`.
        attention_mask: what transformers has made; not looked at with segments.
        segments: what attends to what.
        settings: handed on.

    Returns:
        `[B, L, H, D]`, and no weights.
    """
    if segments is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return plain
    # Split, not sliced: the gradient of a slice is as long as the row.
    queries, keys, values = (torch.split(whole, segments.lengths, dim=2) for whole in (query, key, value))
    seen = []
    for place, (before, mask) in enumerate(zip(segments.before, segments.masks, strict=True)):
        path = (*before, place)
        its_keys, its_values = (torch.cat([parts[i] for i in path], dim=2) for parts in (keys, values))
        seen.append(sdpa_attention_forward(module, queries[place], its_keys, its_values, mask, **settings)[0])
    return torch.cat(seen, dim=1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
