from html.parser import HTMLParser
from itertools import pairwise
from xml.etree.ElementTree import tostring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.pipeline.charts import Axis, Series, element, histogram, interval_mark, line_chart, linear_axis, scatter
from armap.types import Interval

finite = st.floats(-1e12, 1e12, allow_nan=False)


@given(st.lists(finite, min_size=1, max_size=5))
def test_an_axis_has_a_few_rising_ticks_that_enclose_its_values(values):
    axis = linear_axis("x", values)
    assert 2 <= len(axis.ticks) <= 9
    assert all(before < after for before, after in pairwise(axis.ticks))
    assert all(-1e-6 <= axis.share(value) <= 1 + 1e-6 for value in values)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 120], [0, 20, 40, 60, 80, 100, 120]),
        ([0, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0, 0.3], [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        ([7, 7], [6.4, 6.6, 6.8, 7, 7.2, 7.4, 7.6]),
    ],
)
def test_ticks_are_round_numbers(values, ticks):
    assert linear_axis("x", values).ticks == ticks


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis():
    axis = Axis("n", [1, 10, 100], logarithmic=True)
    assert [axis.share(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8))
def test_points_are_drawn_inside_the_chart_and_zero_where_it_is_in_sight(points):
    x, y = (linear_axis("x", values) for values in zip(*points, strict=True))
    chart = scatter("t", points, x, y)
    marks = [(float(mark.get("cx", "")), float(mark.get("cy", ""))) for mark in chart.iter("circle")]
    assert len(marks) == len(points)
    assert all(65 <= across <= 419 and 33 <= down <= 243 for across, down in marks)
    upright = [line for line in chart.iter("line") if line.get("y1") == "34.0" and line.get("y2") == "242.0"]
    assert len(upright) == (x.ticks[0] <= 0 <= x.ticks[-1])


def test_tick_labels_that_would_run_into_each_other_are_left_out():
    ticks = [1, 2, 3, 5, *range(10, 101, 10)]
    x = Axis("n", ticks, logarithmic=True)
    chart = line_chart("t", [Series("a", [(1, 0), (100, 1)])], x, linear_axis("y", [0, 1]))
    labels = [(node.text, float(node.get("x", "0"))) for node in chart.iter("text") if node.get("y") == "260"]
    shown = {text: place for text, place in labels if text in map(str, ticks)}
    assert {"1", "2", "3", "5", "10", "20", "100"} <= shown.keys()
    places = sorted(shown.values())
    assert all(after - before >= 20 for before, after in pairwise(places))


@given(st.text(st.sampled_from("<>&\"';=/ ![-]a#x3") | st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_text_and_attributes_cannot_leave_their_place(text):
    seen: list[object] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, attrs))

        def handle_data(self, data: str) -> None:
            seen.append(data)

    reader = Reader()
    reader.feed(tostring(element("p", f"{text}.", data_label=text), encoding="unicode", method="html"))
    reader.close()
    assert seen == [("p", [("data-label", text)]), f"{text}."]


def test_children_keep_their_order():
    node = element("p", "a", element("b", "c"), "d", element("i"), "e")
    assert tostring(node, encoding="unicode", method="html") == "<p>a<b>c</b>d<i></i>e</p>"


def test_the_shares_of_a_histogram_add_up_to_the_whole_group():
    chart = histogram("t", {"a": [0.0, 1.0, 1.0, 2.0], "b": [2.0]}, "x")
    a, b = chart.iter("polygon")
    floor = 242.0
    heights = [[floor - float(place.split(",")[1]) for place in line.get("points", "").split()] for line in (a, b)]
    # Each bin has two corners; b is one full bin, so its height is the unit.
    assert sum(heights[0]) == pytest.approx(sum(heights[1]), rel=0.01)


def test_an_interval_beyond_0_and_100_percent_stays_inside_its_picture():
    mark = interval_mark(Interval(mean=0.5, low=-1.0, high=3.0))
    whisker = next(node for node in mark.iter("line") if node.get("class") == "whisker")
    assert (whisker.get("x1"), whisker.get("x2")) == ("4.0", "116.0")
