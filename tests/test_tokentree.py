import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from armap.tokentree import TokenTree, pad

# Few different tokens, so that many sequences share their beginnings.
SEQUENCES = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=8)


def prefixes(sequences: list[list[int]]) -> set[tuple[int, ...]]:
    return {tuple(sequence[:i]) for sequence in sequences for i in range(1, len(sequence) + 1)}


@given(SEQUENCES)
def test_every_sequence_can_be_read_back(sequences):
    tree = TokenTree(sequences)
    assert [[tree.tokens[i] for i in tree.path(end)] for end in tree.ends] == sequences


@given(SEQUENCES)
def test_every_beginning_is_stored_once_behind_what_it_continues(sequences):
    tree = TokenTree(sequences)
    assert len(tree) == len(prefixes(sequences))
    assert all(parent < i for i, parent in enumerate(tree.parents))
    assert [len(tree.path(i)) - 1 for i in range(len(tree))] == tree.depths


@given(SEQUENCES)
def test_a_token_attends_to_exactly_the_sequence_up_to_it(sequences):
    tree = TokenTree(sequences)
    mask = tree.ancestors()
    assert mask.shape == (len(tree), len(tree))
    for i in range(len(tree)):
        assert np.flatnonzero(mask[i]).tolist() == tree.path(i)


@given(SEQUENCES, st.lists(st.integers(0, 3), max_size=6))
def test_the_growth_foretold_is_the_growth_that_comes(sequences, another):
    tree = TokenTree(sequences)
    foretold = len(tree) + tree.new_tokens(another)
    tree.add(another)
    assert len(tree) == foretold
    assert tree.new_tokens(another) == 0


@given(SEQUENCES, st.sets(st.integers(0, 20), max_size=2))
def test_segments_hold_every_token_once_and_attend_to_exactly_the_ancestors(sequences, cuts):
    tree = TokenTree(sequences)
    segments = tree.segments(cuts)
    assert {segment.start for segment in segments} >= {cut for cut in cuts if cut < len(tree)}
    assert [i for segment in segments for i in range(segment.start, segment.end)] == list(range(len(tree)))
    for segment in segments:
        before = [i for place in segment.before for i in range(segments[place].start, segments[place].end)]
        for i in range(segment.start, segment.end):
            assert [*before, *range(segment.start, i + 1)] == tree.path(i)


def test_a_tree_is_cut_only_where_it_branches():
    shared, ends = list(range(50)), ([60, 61], [70], [80, 81, 82])
    tree = TokenTree([*([*shared, *end] for end in ends), shared[:20]])
    assert [(one.end - one.start, one.before) for one in tree.segments()] == [(50, ()), (2, (0,)), (1, (0,)), (3, (0,))]


def test_shorter_rows_are_filled_with_zeros():
    assert pad([[1, 2, 3], [], [4]]).tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
