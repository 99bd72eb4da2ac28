import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from armap.tokentree import TokenTree, pack

# Few different tokens, so that many sequences share their beginnings.
SEQUENCES = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=8)


def path(tree: TokenTree, end: int) -> list[int]:
    """Return the places of a sequence's tokens in the tree, first to last."""
    places = []
    while end >= 0:
        places.append(end)
        end = tree.parents[end]
    return places[::-1]


def prefixes(sequences: list[list[int]]) -> set[tuple[int, ...]]:
    return {tuple(sequence[:i]) for sequence in sequences for i in range(1, len(sequence) + 1)}


@given(SEQUENCES)
def test_every_sequence_can_be_read_back(sequences):
    tree = TokenTree(sequences)
    assert [[tree.tokens[i] for i in path(tree, end)] for end in tree.ends] == sequences


@given(SEQUENCES)
def test_every_beginning_is_stored_once_behind_what_it_continues(sequences):
    tree = TokenTree(sequences)
    assert len(tree) == len(prefixes(sequences))
    assert all(parent < i for i, parent in enumerate(tree.parents))
    assert [len(path(tree, i)) - 1 for i in range(len(tree))] == tree.depths


@given(SEQUENCES)
def test_a_token_attends_to_exactly_the_sequence_up_to_it(sequences):
    tree = TokenTree(sequences)
    mask = tree.ancestors()
    assert mask.shape == (len(tree), len(tree))
    for i in range(len(tree)):
        assert np.flatnonzero(mask[i]).tolist() == path(tree, i)


@given(SEQUENCES, st.integers(0, 20))
def test_what_the_later_tokens_attend_to_can_be_had_alone(sequences, start):
    tree = TokenTree(sequences)
    start = min(start, len(tree))
    assert (tree.ancestors(start) == tree.ancestors()[start:]).all()


@given(SEQUENCES, st.lists(st.integers(0, 3), max_size=6))
def test_the_growth_foretold_is_the_growth_that_comes(sequences, another):
    tree = TokenTree(sequences)
    foretold = len(tree) + tree.new_tokens(another)
    tree.add(another)
    assert len(tree) == foretold
    assert tree.new_tokens(another) == 0


@given(st.lists(SEQUENCES.filter(any), min_size=1, max_size=4))
def test_trees_side_by_side_keep_their_tokens_and_never_see_each_other_or_the_padding(families):
    trees = [TokenTree(family) for family in families]
    packed = pack(trees)
    rows, longest = len(trees), max(map(len, trees))
    assert packed.tokens.shape == packed.positions.shape == (rows, longest)
    assert packed.mask.shape == (rows, 1, longest, longest)
    for row, tree in enumerate(trees):
        size = len(tree)
        assert packed.tokens[row, :size].tolist() == tree.tokens
        assert packed.positions[row, :size].tolist() == tree.depths
        assert (packed.mask[row, 0, :size, :size] == tree.ancestors()).all()
        assert not packed.mask[row, 0, :size, size:].any()
    # A row of nothing but False would be NaN after the softmax.
    assert packed.mask.any(axis=-1).all()
