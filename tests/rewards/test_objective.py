import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.errors import ConfigError, RewardModelError
from armap.rewards.objective import Objective, ObjectiveRewardModel, Term

from .toy_pairs import toy_trajectories

NUMBERS = st.floats(1e-6, 1e6) | st.integers(1, 1000).map(float)
WEIGHTS = st.builds(lambda number, sign: number * sign, NUMBERS, st.sampled_from([1, -1]))
OBJECTIVES = st.builds(
    lambda score, terms: Objective(
        score_weight=score, terms=tuple(Term(metric=name, weight=weight) for name, weight in terms.items())
    ),
    WEIGHTS,
    st.dictionaries(st.sampled_from(["steps", "price", "cost_usd", "x2", "Fuel", "TimeLimit.truncated"]), WEIGHTS),
)
(TRAJECTORY,) = toy_trajectories(1, 0)
SOLD = TRAJECTORY.model_copy(update={"metrics": {"price": 30.0, "steps": 99.0}})
STEPS = len(SOLD.steps)


class Constant:
    """A reward model that likes everything alike."""

    def __init__(self, score: float) -> None:
        self.value = score

    async def score(self, trajectories):
        return [self.value] * len(trajectories)


@given(OBJECTIVES)
def test_an_objective_is_read_as_it_is_written(objective):
    assert Objective.parse(str(objective)) == objective


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("score", 2.0),
        ("score - 0.5*steps - 0.02*price", 2 - 0.5 * STEPS - 0.6),
        ("-steps", -STEPS),
        ("  3 * score+price / 60 ", 6.5),
        (".5*score", 1.0),
        ("score - 7*never_reported", 2.0),
    ],
)
def test_a_value_is_the_score_and_the_weighted_metrics_and_steps_are_counted_not_reported(text, value):
    assert Objective.parse(text).value(2.0, SOLD) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    ["", " ", "score score", "score +", "score - - steps", "score*2", "2 steps", "score - steps/0",
     "score - steps - steps", "__import__('os')", "score ** 2", "(score)", "score - 1e3*steps", "score; steps",
     "score - é", "Score", "Score - 0.5*steps", "score - 0.5*Steps", "score - STEPS/2"],
)  # fmt: skip
def test_what_is_no_objective_is_refused_in_one_sentence_with_an_example(text):
    with pytest.raises(ConfigError, match=r"The objective .*; write for example: score - 0\.5\*steps - price/50\.$"):
        Objective.parse(text)


@pytest.mark.parametrize(("text", "said"), [("2*Score - steps", "Score"), ("score - STEPS", "STEPS")])
def test_a_score_or_steps_in_capital_letters_are_refused_with_how_they_are_spelt(text, said):
    with pytest.raises(ConfigError, match=f"names {said}, which is spelt {said.lower()}; write for example"):
        Objective.parse(text)


@pytest.mark.parametrize("text", ["score - {}*steps", "{}*score", "score - steps/{}", "score - {}*steps/.1"])
def test_a_number_that_no_float_holds_is_refused_in_one_sentence_that_does_not_repeat_it(text):
    number = "9" * (308 if "/.1" in text else 400)
    with pytest.raises(ConfigError, match=r"^The objective has a number at (score|steps) that is too large") as caught:
        Objective.parse(text.format(number))
    assert len(str(caught.value)) < 150


@given(st.text(alphabet="score -+*/0123.pie_\n(", max_size=30))
def test_any_text_is_either_read_or_refused(text):
    try:
        objective = Objective.parse(text)
    except ConfigError:
        return
    assert math.isfinite(objective.value(1.0, SOLD))


async def test_an_objective_changes_the_order_of_trajectories_of_equal_score():
    short = SOLD.model_copy(update={"steps": SOLD.steps[:1]})
    judged = ObjectiveRewardModel(Constant(1.0), Objective.parse("score - 0.1*steps"))
    assert await judged.score([SOLD, short]) == pytest.approx([1 - 0.1 * STEPS, 0.9])


async def test_a_value_that_is_no_number_is_an_error():
    judged = ObjectiveRewardModel(Constant(1e308), Objective.parse("1000000*score"))
    with pytest.raises(RewardModelError, match=r"1000000\*score gives trajectory"):
        await judged.score([SOLD])


def test_metrics_nobody_reports_are_named_and_steps_need_no_report():
    objective = Objective.parse("score - steps - 0.1*price + speed")
    assert objective.unknown({"price"}) == ["speed"]
    assert objective.unknown(()) == ["price", "speed"]
    assert Objective.parse("score").unknown(()) == []
