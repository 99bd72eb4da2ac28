import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.protocols import CalibratedRewardModel
from armap.rewards.calibration import Calibrated, fit_calibration
from armap.rewards.linear import LinearRewardModel
from armap.types import Calibration, HeldoutScore

from .toy_pairs import toy_pairs

MODEL = LinearRewardModel.fit(toy_pairs(50, 1), seed=0)
SCORES = st.integers(-10_000, 10_000).map(lambda number: number / 100)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=20)
some_examples = settings(max_examples=30, deadline=None)


def scored(*pairs: tuple[float, float]) -> list[HeldoutScore]:
    return [
        HeldoutScore(pair_id=str(i), source_task_id=str(i), origin="other_outcome", chosen=chosen, rejected=rejected)
        for i, (chosen, rejected) in enumerate(pairs)
    ]


def probability(pairs: list[HeldoutScore], score: float) -> float:
    return Calibrated(MODEL, fit_calibration(pairs)).probability(score)


def test_probabilities_come_true():
    # Scores of good ones lie about 4, of others about 2, each a unit wide: the true curve has slope 2 and middle 3.
    rng = Random(0)
    fitted = fit_calibration(scored(*((rng.gauss(4, 1), rng.gauss(2, 1)) for _ in range(5000))))
    assert fitted.slope == pytest.approx(2, rel=0.05)
    assert -fitted.intercept / fitted.slope == pytest.approx(3, abs=0.05)
    assert fitted.pairs == 5000


def test_more_pairs_make_it_surer():
    few, many = (probability(scored(*[(1, -1)] * count), 1.0) for count in (2, 200))
    assert 0.5 < few < many < 1
    assert (few, many) == pytest.approx((3 / 4, 201 / 202), abs=1e-3)


@pytest.mark.parametrize("pairs", [[(0, 1), (0, 2)], [(5, 5), (5, 5)], [(0, 0)]])
def test_scores_that_say_nothing_give_even_chances(pairs):
    assert probability(scored(*pairs), 100.0) == pytest.approx(0.5, abs=1e-6)


@some_examples
@given(PAIRS, SCORES, SCORES)
def test_any_scores_give_probabilities_that_rise_with_the_score(pairs, a, b):
    fitted = Calibrated(MODEL, fit_calibration(scored(*pairs)))
    low, high = fitted.probability(min(a, b)), fitted.probability(max(a, b))
    assert 0 <= low <= high <= 1


@some_examples
@given(PAIRS, st.sampled_from([0.1, 3.0]), st.sampled_from([-100.0, 0.5]))
def test_the_unit_and_the_origin_of_scores_do_not_matter(pairs, unit, origin):
    moved = [(unit * chosen + origin, unit * rejected + origin) for chosen, rejected in pairs]
    ours, theirs = (Calibrated(MODEL, fit_calibration(scored(*of))) for of in (pairs, moved))
    for score in (score for pair in pairs for score in pair):
        assert ours.probability(score) == pytest.approx(theirs.probability(unit * score + origin), abs=1e-3)


async def test_it_gives_the_scores_of_the_model_it_stands_for():
    trajectories = [pair.chosen for pair in toy_pairs(5, 2)]
    calibrated = Calibrated(MODEL, Calibration(slope=1, intercept=0, pairs=1))
    assert await calibrated.score(trajectories) == await MODEL.score(trajectories)
    assert isinstance(calibrated, CalibratedRewardModel)
    assert not isinstance(MODEL, CalibratedRewardModel)
    assert calibrated.probability(0.0) == 0.5
    assert calibrated.probability(-1e9) == 0.0 < math.inf
