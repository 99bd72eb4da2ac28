import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.envs.webshop.analysis import terms
from armap.envs.webshop.indexing import SearchIndexWriter
from armap.envs.webshop.search import K1, B, SearchIndex

LUCENE = json.loads(Path(__file__).with_name("lucene_answers.json").read_text("utf-8"))
RARE_TO_COMMON = [f"w{i}" for i in range(30) for _ in range(i)]


def index_of(texts, folder, ranks=None, held=1000):
    writer = SearchIndexWriter(folder, held=held)
    for text in texts:
        writer.add(text)
    writer.finish()
    return SearchIndex(folder, np.array(range(len(texts)) if ranks is None else ranks, np.int32))


@pytest.fixture(scope="module")
def lucenes_documents(tmp_path_factory):
    ids, texts = zip(*LUCENE["documents"], strict=True)
    by_id = sorted(ids)
    index = index_of(texts, tmp_path_factory.mktemp("index"), [by_id.index(name) for name in ids])
    return lambda words: [ids[number] for number in index.search(words, k=20)]


@pytest.mark.parametrize(("query", "expected"), LUCENE["searches"])
def test_a_search_finds_what_lucene_finds_in_lucenes_order(lucenes_documents, query, expected):
    assert lucenes_documents(query) == expected


def bm25_ranking(texts, query, k):
    """Rank by the textbook formula, without any short cut; lengths below 24 are exact in Lucene's byte too."""
    documents = [Counter(terms(text)) for text in texts]
    lengths = [sum(document.values()) for document in documents]
    mean = sum(lengths) / max(sum(length > 0 for length in lengths), 1)
    found = []
    for number, document in enumerate(documents):
        score = 0.0
        for term, count in Counter(terms(query)).items():
            having = sum(term in other for other in documents)
            idf = math.log(1 + (sum(length > 0 for length in lengths) - having + 0.5) / (having + 0.5))
            norm = K1 * (1 - B + B * lengths[number] / mean) if mean else 1.0
            score += count * idf * document[term] / (document[term] + norm)
        if score:
            found.append((-score, number))
    found.sort()
    return found[:k]


texts_of_few_words = st.lists(
    st.lists(st.sampled_from(RARE_TO_COMMON), max_size=20).map(" ".join), min_size=1, max_size=40
)


@settings(deadline=None)
@given(texts_of_few_words, st.lists(st.sampled_from(RARE_TO_COMMON), max_size=8).map(" ".join), st.integers(1, 12))
def test_the_short_cuts_of_a_search_do_not_change_what_it_finds(tmp_path_factory, texts, query, k):
    index = index_of(texts, tmp_path_factory.mktemp("index"))
    exact = {number: -score for score, number in bm25_ranking(texts, query, len(texts))}
    found = index.search(query, k=k)
    assert len(found) == min(k, len(exact))
    # Equal but for rounding: no document left out may be clearly better than one found, nor the order be wrong.
    scores = [exact.pop(number) for number in found]
    assert all(a >= b - 1e-5 for a, b in pairwise(scores))
    assert not exact or not scores or max(exact.values()) <= scores[-1] + 1e-5


def test_an_index_written_in_many_runs_is_the_one_written_in_one(tmp_path):
    rng = Random(0)
    texts = [" ".join(rng.choices(RARE_TO_COMMON, k=rng.randrange(60))) for _ in range(300)]
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder, held in zip(folders, (10**6, 50), strict=True):
        folder.mkdir()
        index_of(texts, folder, held=held)
    one, many = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert one == many


def test_documents_with_equal_scores_come_in_the_order_of_their_ranks(tmp_path):
    index = index_of(["red lamp"] * 5, tmp_path, ranks=[3, 0, 4, 1, 2])
    assert index.search("lamp", k=4) == [1, 3, 4, 0]


@pytest.mark.parametrize("query", ["", "the of", "unknown", "?!"])
def test_a_search_for_nothing_known_finds_nothing(tmp_path, query):
    assert index_of(["red lamp", ""], tmp_path).search(query, k=5) == []


def test_documents_without_a_single_word_can_be_indexed(tmp_path):
    assert index_of(["", "the", "?"], tmp_path).search("the lamp", k=5) == []


def test_a_word_asked_for_twice_counts_twice(tmp_path):
    index = index_of(["red lamp", "blue sofa", "green sofa"], tmp_path)
    assert index.search("lamp sofa", k=1) == [0]
    assert index.search("lamp sofa sofa sofa", k=1) == [1]
