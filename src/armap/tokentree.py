"""Token sequences with shared beginnings, stored and computed once.

The legal actions at one state, the candidates of one task, the two sides of a preference pair: they all start alike.
A `TokenTree` keeps every shared beginning once. A transformer computes all of it in one pass: each token attends to its
ancestors only and sits at its own depth, so it gets the same hidden state as in a plain pass over its own sequence. Who
attends to whom is said by `ancestors` token by token, and by `segments` run by run.

Shapes use N (tokens of one tree), L (tokens of the longest row), B (rows).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Segment(NamedTuple):
    """A run of tokens in which each follows the one before and only the last may have several tokens after it."""

    start: int
    """Its first token."""
    end: int
    """One past its last token."""
    before: tuple[int, ...]
    """The segments that lead to it, the first one first, as their places in the list of segments."""


class TokenTree:
    """Sequences of token ids merged by their common prefixes."""

    def __init__(self, sequences: Iterable[Sequence[int]] = ()) -> None:
        self.tokens: list[int] = []
        """`[N]` token ids; parents come before their children."""
        self.parents: list[int] = []
        """`[N]` index of the token before; -1 for a first token."""
        self.depths: list[int] = []
        """`[N]` position in the sequence, from 0."""
        self.ends: list[int] = []
        """Index of the last token of each sequence, in the order added; -1 for an empty one."""
        self._children: dict[tuple[int, int], int] = {}
        for sequence in sequences:
            self.add(sequence)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence[int]) -> None:
        """Merge one more sequence in."""
        node = -1
        for token in sequence:
            child = self._children.get((node, token))
            if child is None:
                child = self._children[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(self.depths[node] + 1 if node >= 0 else 0)
            node = child
        self.ends.append(node)

    def path(self, end: int) -> list[int]:
        """Return the tokens of the sequence that ends at a token, the first one first."""
        found = []
        while end >= 0:
            found.append(end)
            end = self.parents[end]
        return found[::-1]

    def new_tokens(self, sequence: Sequence[int]) -> int:
        """Return by how many tokens `add(sequence)` would make the tree longer."""
        node = -1
        for i, token in enumerate(sequence):
            child = self._children.get((node, token))
            if child is None:
                return len(sequence) - i
            node = child
        return 0

    def ancestors(self) -> NDArray[np.bool_]:
        """Return `[N, N]`: row i is true at token i and at every token before it in its sequence."""
        mask = np.zeros((len(self), len(self)), dtype=np.bool_)
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                mask[i] = mask[parent]
            mask[i, i] = True
        return mask

    def segments(self, cuts: Collection[int] = ()) -> list[Segment]:
        """Cut the tree where it branches.

        Args:
            cuts: tokens before which it is cut as well.

        Returns:
            Segments in the order of their tokens. A token attends to its own up to itself, and to all those before it.
        """
        followers = Counter(self.parents)
        starts = [
            i for i, parent in enumerate(self.parents) if not i or parent != i - 1 or followers[parent] > 1 or i in cuts
        ]
        segments: list[Segment] = []
        last_token_of: dict[int, int] = {}
        for place, (start, end) in enumerate(itertools.pairwise([*starts, len(self)])):
            parent = last_token_of.get(self.parents[start])
            before = () if parent is None else (*segments[parent].before, parent)
            segments.append(Segment(start, end, before))
            last_token_of[end - 1] = place
        return segments


def pad(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return `[B, L]` rows as an array, zeros behind the shorter ones."""
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded
