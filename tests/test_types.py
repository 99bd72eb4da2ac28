import inspect
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from armap import types
from armap.envs import toy
from armap.planners.best_of_n import BestOfN
from armap.rewards.fit_settings import FitSettings
from armap.types import (
    Action,
    Budget,
    Candidate,
    Failure,
    History,
    Observation,
    PreferencePair,
    Record,
    SamplingParams,
    SearchResult,
    Step,
    Trajectory,
    Usage,
)
from rewards.toy_pairs import random_play, toy_pairs

RECORDS = [
    cls for _, cls in inspect.getmembers(types, inspect.isclass) if issubclass(cls, Record) and cls is not Record
]
TRAJECTORY = random_play(toy.tasks(1, 0, "train")[0], Random(0))
FAILURE = Failure(kind="EnvError", message="it broke")
(PAIR,) = toy_pairs(1, 0)


@pytest.mark.parametrize("record", [PAIR, TRAJECTORY, TRAJECTORY.task, Usage(), SamplingParams(), Budget(), BestOfN()])
def test_a_record_survives_the_round_trip_to_text(record):
    assert type(record).model_validate_json(record.model_dump_json()) == record
    assert type(record).model_validate_json(record.model_dump_json(exclude_defaults=True)) == record


@pytest.mark.parametrize("cls", RECORDS)
def test_a_record_is_frozen_and_refuses_what_it_does_not_know(cls):
    assert cls.model_config["frozen"]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls.model_validate({"something": 1})


@pytest.mark.parametrize("cls", [*RECORDS, FitSettings, BestOfN])
def test_every_field_of_a_record_says_what_it_is(cls):
    body = inspect.getsource(cls)
    for field in cls.__annotations__:
        assert re.search(rf'^    {field}: (?:[^\n]|\n(?!    \w+:))*?\n    """[^"]', body, re.MULTILINE), field


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TRAJECTORY.task.instruction = "Leave with everything."


def test_a_history_goes_on_as_a_new_one():
    first = History(task=TRAJECTORY.task, observation=Observation(text="a shelf"))
    last = first.after(Action(text="leave"), Observation(text="a door"), env_reward=0.5, stop_reason="terminated")
    assert first.steps == ()
    assert last.steps == (Step(observation=first.observation, action=Action(text="leave"), env_reward=0.5),)
    assert (last.task, last.observation.text, last.stop_reason) == (first.task, "a door", "terminated")
    assert last.actions == ("leave",)


def test_a_trajectory_adds_up_what_was_paid_and_names_what_was_done():
    steps = tuple(
        Step(observation=Observation(text="o"), action=Action(text=text), env_reward=paid)
        for text, paid in (("a", 0.25), ("b", -1.0), ("c", 2.0))
    )
    trajectory = TRAJECTORY.model_copy(update={"steps": steps})
    assert (trajectory.env_reward, trajectory.actions) == (1.25, ("a", "b", "c"))
    assert History(task=TRAJECTORY.task, steps=steps, observation=Observation(text="o")).actions == ("a", "b", "c")


@pytest.mark.parametrize("broken", [{"failure": FAILURE}, {"stop_reason": "failed"}])
def test_a_trajectory_is_failed_exactly_when_it_says_why(broken):
    with pytest.raises(ValidationError, match="exactly when its stop_reason is 'failed'"):
        Trajectory.model_validate({**dict(TRAJECTORY), **broken})
    Trajectory.model_validate({**dict(TRAJECTORY), "failure": FAILURE, "stop_reason": "failed"})


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_both_sides_of_a_pair_attempt_its_task_and_neither_failed(side):
    other = PAIR.task.model_copy(update={"instruction": "Stay."})
    failed = {"stop_reason": "failed", "failure": FAILURE}
    for change, message in (({"task": other}, "pair's own task"), (failed, "must not enter a pair")):
        with pytest.raises(ValidationError, match=message):
            PreferencePair.model_validate({**dict(PAIR), side: getattr(PAIR, side).model_copy(update=change)})


counts = st.integers(0, 10**9)
usages = st.builds(
    Usage, calls=counts, prompt_tokens=counts, cached_tokens=counts, completion_tokens=counts, cost_usd=counts
)


@given(one=usages, other=usages)
def test_usage_adds_up_field_by_field(one, other):
    for field in Usage.model_fields:
        assert getattr(one + other, field) == getattr(one, field) + getattr(other, field)
    assert (one + other).tokens == one.tokens + other.tokens
    assert one + Usage() == one


@pytest.mark.parametrize(
    "make",
    [
        lambda: SamplingParams(temperature=-0.1),
        lambda: SamplingParams(top_p=0),
        lambda: SamplingParams(top_p=1.1),
        lambda: SamplingParams(max_tokens=0),
        lambda: Budget(max_calls=-1),
        lambda: SearchResult(task=TRAJECTORY.task, planner="p", env_steps=-1),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ValidationError):
        make()


def test_a_candidate_without_a_score_is_told_apart_from_one_with_score_zero():
    assert Candidate(trajectory=TRAJECTORY) != Candidate(trajectory=TRAJECTORY, score=0.0)
