from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.errors import ConfigError
from armap.rewards.linear import LinearRewardModel
from armap.types import Action, Observation, PreferencePair, Step, Task, Trajectory

from .toy_pairs import toy_pairs, toy_trajectories


async def accuracy(model: LinearRewardModel, pairs: list[PreferencePair]) -> float:
    chosen = await model.score([pair.chosen for pair in pairs])
    rejected = await model.score([pair.rejected for pair in pairs])
    return float(np.mean(np.array(chosen) > np.array(rejected)))


async def test_two_hundred_pairs_of_the_toy_world_teach_it_to_judge_rooms_it_has_not_seen():
    model = LinearRewardModel.fit(toy_pairs(200, 1), seed=0)
    assert await accuracy(model, toy_pairs(200, 2, "test")) >= 0.95


async def test_it_judges_an_object_that_no_training_instruction_asked_for():
    unseen = "blue cone"
    pairs = [pair for pair in toy_pairs(300, 1) if unseen not in pair.task.instruction]
    asked = [pair for pair in toy_pairs(600, 2, "test") if unseen in pair.task.instruction]
    assert len(asked) > 30
    assert await accuracy(LinearRewardModel.fit(pairs, seed=0), asked) >= 0.9


async def test_the_same_pairs_and_seed_give_the_same_scores():
    pairs, trajectories = toy_pairs(50, 1), toy_trajectories(20, 3)
    first, again = (LinearRewardModel.fit(pairs, seed=5) for _ in range(2))
    assert await first.score(trajectories) == await again.score(trajectories)


async def test_swapping_chosen_and_rejected_turns_every_preference_round():
    pairs, heldout = toy_pairs(100, 1), toy_pairs(50, 2)
    swapped = [pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}) for pair in pairs]
    assert await accuracy(LinearRewardModel.fit(swapped, seed=0), heldout) <= 0.1


@given(order=st.permutations(range(12)))
async def test_a_score_depends_on_neither_order_nor_company(order):
    model, trajectories = LinearRewardModel.fit(toy_pairs(20, 1), seed=0), toy_trajectories(12, 3)
    alone = [(await model.score([trajectory]))[0] for trajectory in trajectories]
    assert await model.score([trajectories[i] for i in order]) == [alone[i] for i in order]


async def test_a_saved_model_scores_as_before(tmp_path):
    model, trajectories = LinearRewardModel.fit(toy_pairs(50, 1), seed=0), toy_trajectories(20, 3)
    model.save(tmp_path / "new" / "folder")
    loaded = LinearRewardModel.load(tmp_path / "new" / "folder")
    assert await loaded.score(trajectories) == await model.score(trajectories)


def test_a_folder_says_whether_it_holds_one(tmp_path):
    assert not LinearRewardModel.is_in(tmp_path)
    LinearRewardModel.fit(toy_pairs(5, 1), seed=0).save(tmp_path)
    assert LinearRewardModel.is_in(tmp_path)


async def test_a_trajectory_without_words_or_steps_has_a_score():
    task = Task(id="t", env="toy", instruction="")
    trajectory = Trajectory(
        id="x", task=task, steps=(), final_observation=Observation(text="!"), stop_reason="truncated"
    )
    assert np.isfinite(await LinearRewardModel.fit(toy_pairs(10, 1), seed=0).score([trajectory])).all()


async def test_what_the_environment_pays_and_reports_is_not_looked_at():
    model, (trajectory, *_) = LinearRewardModel.fit(toy_pairs(50, 1), seed=0), toy_trajectories(1, 3)
    paid = trajectory.model_copy(
        update={
            "steps": tuple(replace(step, env_reward=9.0) for step in trajectory.steps),
            "metrics": {"price": 3.0},
        }
    )
    assert await model.score([paid]) == await model.score([trajectory])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"junk"),
        lambda file: file.write_bytes(file.read_bytes()[:1000]),
        lambda file: np.save(file, np.zeros(3)),
        lambda file: np.save(file, np.full(2**14, np.nan)),
        lambda file: np.save(file, np.array([{}]), allow_pickle=True),
    ],
)
def test_a_missing_or_damaged_model_is_refused_in_one_sentence(tmp_path, damage):
    LinearRewardModel.fit(toy_pairs(5, 1), seed=0).save(tmp_path)
    damage(tmp_path / "linear.npy")
    with pytest.raises(ConfigError, match="train") as caught:
        LinearRewardModel.load(tmp_path)
    assert "\n" not in str(caught.value)


async def test_an_illegal_action_text_does_not_count_as_the_thing_done():
    model = LinearRewardModel.fit(toy_pairs(200, 1), seed=0)
    good, *_ = (pair.chosen for pair in toy_pairs(1, 2, "test"))
    stuck = good.model_copy(
        update={
            "steps": tuple(
                Step(observation=good.steps[0].observation, action=Action(text=good.task.instruction)) for _ in range(4)
            ),
            "final_observation": good.steps[0].observation,
            "stop_reason": "truncated",
        }
    )
    better, worse = await model.score([good, stuck])
    assert better > worse


async def test_what_was_met_on_the_way_counts_also_where_all_trajectories_end_alike():
    def walk(asked: str, met: str) -> Trajectory:
        task = Task(id=asked, env="house", instruction=f"Find the {asked}, and come home.")
        home, found = Observation(text="You are home."), Observation(text=f"You found the {met}.")
        steps = tuple(Step(observation=seen, action=Action(text="go")) for seen in (home, found))
        return Trajectory(id=met, task=task, steps=steps, final_observation=home, stop_reason="truncated")

    def pairs(things: str) -> list[PreferencePair]:
        return [
            PreferencePair(
                id=f"{asked} {other}",
                task=walk(asked, asked).task,
                chosen=walk(asked, asked),
                rejected=walk(asked, other),
                source_task_id=asked,
                origin="other_outcome",
                instruction_writer="environment",
                verified_by="execution",
            )
            for asked in things.split()
            for other in things.split()
            if other != asked
        ]

    model = LinearRewardModel.fit(pairs("apple ball cup dog"), seed=0)
    assert await accuracy(model, pairs("egg fork goat hat")) == 1
