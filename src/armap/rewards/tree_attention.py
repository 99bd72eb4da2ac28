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

from armap.tokentree import Segment, TokenTree

NAME = "armap_trees"
"""The attention implementation, as transformers knows it."""


class Segments(NamedTuple):
    """Which parts of a row attend to which, in the order in which they lie."""

    lengths: list[int]
    """Tokens of each segment, those in a cache first."""
    before: list[tuple[int, ...]]
    """For each segment that is not in a cache those that lead to it, in order."""
    masks: list[torch.Tensor | None]
    """For each of those `[1, 1, n, p + n]` true where one of its n tokens attends to one of the p before it or of its
    own; None where that is plainly causal, as in the first, or where its only token attends to all."""


def of(trees: Sequence[TokenTree], device: torch.device) -> dict[str, Any]:
    """Return the arguments with which a network reads trees that lie end to end in one row."""
    segments: list[Segment] = []
    for tree in trees:
        first = len(segments)
        segments += [
            segment._replace(before=tuple(first + place for place in segment.before)) for segment in tree.segments()
        ]
    return _arguments(segments, 0, device)


def of_part(tree: TokenTree, begin: int, end: int, device: torch.device) -> dict[str, Any]:
    """Return the arguments with which a network reads the tokens from `begin` to `end`, those before being cached."""
    segments = [segment for segment in tree.segments((begin, end)) if segment.start < end]
    return _arguments(segments, sum(segment.start < begin for segment in segments), device)


def _arguments(segments: Sequence[Segment], cached: int, device: torch.device) -> dict[str, Any]:
    lengths = [segment.end - segment.start for segment in segments]
    masks: list[torch.Tensor | None] = []
    for segment, length in zip(segments[cached:], lengths[cached:], strict=True):
        past = sum(lengths[place] for place in segment.before)
        mask = (
            torch.ones((1, 1, length, past + length), dtype=torch.bool, device=device) if past and length > 1 else None
        )
        masks.append(mask if mask is None else mask.tril(past))
    # A mask of four dimensions keeps the network from making one, which nobody would look at.
    unused = torch.zeros((1, 1, 1, 1), device=device)
    before = [segment.before for segment in segments[cached:]]
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
        key: `[B, K, C + L, D]` of K heads, which divides H, C tokens being in a cache.
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
    cached = len(segments.lengths) - len(segments.before)
    queries = torch.split(query, segments.lengths[cached:], dim=2)
    keys, values = (torch.split(whole, segments.lengths, dim=2) for whole in (key, value))
    seen = []
    for place, (asked, before, mask) in enumerate(zip(queries, segments.before, segments.masks, strict=True), cached):
        path = (*before, place)
        its_keys, its_values = (torch.cat([parts[i] for i in path], dim=2) for parts in (keys, values))
        seen.append(sdpa_attention_forward(module, asked, its_keys, its_values, mask, **settings)[0])
    return torch.cat(seen, dim=1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
