"""Token sequences with shared beginnings, stored and computed once.

The legal actions at one state, the candidates of one task, the two sides of a preference pair: they all start alike.
A `TokenTree` keeps every shared beginning once, and `pack` turns trees into the arrays with which a transformer
computes all of them in one pass: each token attends to its ancestors only and sits at its own depth, so it gets the
same hidden state as in a plain pass over its own sequence.

Shapes use B (trees), L (tokens of the longest tree), N (tokens of one tree).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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

    def new_tokens(self, sequence: Sequence[int]) -> int:
        """Return by how many tokens `add(sequence)` would make the tree longer."""
        node = -1
        for i, token in enumerate(sequence):
            child = self._children.get((node, token))
            if child is None:
                return len(sequence) - i
            node = child
        return 0

    def ancestors(self, start: int = 0) -> NDArray[np.bool_]:
        """Return `[N - start, N]`: row i is true at token start + i and at every token before it in its sequence."""
        mask = np.zeros((len(self) - start, len(self)), dtype=np.bool_)
        for row, i in enumerate(range(start, len(self))):
            parent = self.parents[i]
            if parent >= start:
                mask[row] = mask[parent - start]
            while 0 <= parent < start:
                mask[row, parent] = True
                parent = self.parents[parent]
            mask[row, i] = True
        return mask


class PackedTrees(NamedTuple):
    """Trees side by side, as a transformer takes them."""

    tokens: NDArray[np.int64]
    """`[B, L]` token ids, 0 where a tree is shorter."""
    positions: NDArray[np.int64]
    """`[B, L]` depth of each token."""
    mask: NDArray[np.bool_]
    """`[B, 1, L, L]` true where the row's token attends to the column's."""


def pad(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return `[B, L]` rows as an array, zeros behind the shorter ones."""
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def pack(trees: Sequence[TokenTree]) -> PackedTrees:
    """Lay trees side by side."""
    tokens = pad([tree.tokens for tree in trees])
    longest = tokens.shape[1]
    mask = np.zeros((len(trees), 1, longest, longest), dtype=np.bool_)
    for row, tree in enumerate(trees):
        size = len(tree)
        mask[row, 0, :size, :size] = tree.ancestors()
        # A row that attends to nothing would turn into NaN; padding attends to itself and nobody attends to padding.
        padding = np.arange(size, longest)
        mask[row, 0, padding, padding] = True
    return PackedTrees(tokens, pad([tree.depths for tree in trees]), mask)
