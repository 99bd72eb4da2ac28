import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.envs.webshop.analysis import STOP_WORDS, stem, terms, words

LUCENE = json.loads(Path(__file__).with_name("lucene_answers.json").read_text("utf-8"))


@pytest.mark.parametrize(("text", "expected"), LUCENE["terms"])
def test_terms_are_those_that_lucene_makes(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.5mm usb-c o'neill's", ["3.5mm", "usb", "c", "o'neill's"]),
        ("a:b 1:2 1,000 a,b x_1 __", ["a:b", "1", "2", "1,000", "a", "b", "x_1"]),
        ("★ 100% wool™", ["★", "100", "wool", "™"]),
        ("日本 カメラ 한국어", ["日", "本", "カメラ", "한국어"]),
        ("👩‍👩‍👧👍🏽!", ["👩‍👩‍👧", "👍🏽"]),
    ],
)
def test_words_end_where_unicode_says(text, expected):
    assert words(text) == expected


def test_all_33_stop_words_are_dropped_whatever_their_case():
    assert len(STOP_WORDS) == 33
    assert terms(" ".join(STOP_WORDS).upper()) == []


def test_a_possessive_ending_does_not_matter():
    assert terms("women's women’s WOMEN'S") == terms("women women women")


def test_a_word_of_more_than_255_characters_is_cut():
    assert [len(word) for word in words("x" * 600)] == [255, 255, 90]


def test_a_character_outside_the_first_plane_counts_twice_towards_255():
    assert [len(word) for word in words("𝐱" * 130)] == [127, 3]


def test_short_words_keep_their_ending():
    assert [stem(word) for word in ("as", "is", "s", "")] == ["as", "is", "s", ""]


@given(st.text(), st.text())
def test_a_space_never_stands_inside_a_word(left, right):
    assert words(f"{left} {right}") == words(left) + words(right)


@given(st.text())
def test_every_word_stands_in_the_text_in_its_place(text):
    at = 0
    for word in words(text):
        at = text.index(word, at) + len(word)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_text_of_plain_characters_is_read_as_any_other(text):
    marked = words(f"{text} é")
    assert words(text) == marked[:-1]
