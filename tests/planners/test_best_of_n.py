import math
from collections.abc import Callable, Sequence

import pytest

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import EnvError, RewardModelError
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.intervals import bootstrap_ratio
from armap.pipeline.outcomes import paid
from armap.planners.best_of_n import BestOfN
from armap.planners.sampling import Sampling
from armap.policy import PromptedPolicy
from armap.protocols import RewardModel, StepResult
from armap.rewards.linear import LinearRewardModel
from armap.seeds import rng_for
from armap.types import Interval, SamplingParams, SearchResult, Task, Trajectory
from armap.world import LiveWorld
from rewards.toy_pairs import toy_pairs

(TASK,) = toy.tasks(1, 0, "test")


class Scores:
    """A reward model that is a function, and counts what it is asked."""

    def __init__(self, score: Callable[[Trajectory], float]) -> None:
        self.batches: list[list[Trajectory]] = []
        self._score = score

    async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        self.batches.append([*trajectories])
        return [self._score(trajectory) for trajectory in trajectories]


class Trap(Toy):
    """A room whose door breaks for whoever leaves, or for everybody."""

    everybody = False

    def step(self, action: str) -> StepResult:
        result = super().step(action)
        if result.terminated or self.everybody:
            raise EnvError(f"the door broke on {action!r}")
        return result


class Trench(Trap):
    everybody = True


def random_score(trajectory: Trajectory) -> float:
    return rng_for("score", trajectory.id).random()


async def search(
    planner: BestOfN | Sampling,
    reward_model: RewardModel,
    *,
    task: Task = TASK,
    make: Callable[[], Toy] = Toy,
    seed: int = 0,
) -> SearchResult:
    policy = PromptedPolicy(ScriptedLLM(), rules=Toy.rules, sampling=SamplingParams())
    return await planner.plan(task, LiveWorld(make), policy, reward_model, rng_for(seed, task.id))


async def test_the_candidate_with_the_highest_score_is_the_answer():
    result = await search(BestOfN(n=20), Scores(random_score))
    scores = [candidate.score for candidate in result.candidates]
    assert scores == [random_score(candidate.trajectory) for candidate in result.candidates]
    assert result.answer == scores.index(max(scores)) != 0
    assert result.failure is None


async def test_the_first_of_equals_is_the_answer():
    assert (await search(BestOfN(n=20), Scores(lambda trajectory: 0.0))).answer == 0
    result = await search(BestOfN(n=20), Scores(lambda trajectory: -len(trajectory.steps)))
    steps = [len(candidate.trajectory.steps) for candidate in result.candidates]
    assert steps.count(min(steps)) > 1
    assert result.answer == steps.index(min(steps)) != 0


async def test_negative_and_huge_scores_are_scores_like_others():
    result = await search(BestOfN(n=20), Scores(lambda trajectory: -1e300 / len(trajectory.steps)))
    steps = [len(candidate.trajectory.steps) for candidate in result.candidates]
    assert result.answer == steps.index(max(steps))


async def test_all_candidates_are_scored_in_one_batch():
    reward_model = Scores(random_score)
    result = await search(BestOfN(n=20), reward_model)
    assert reward_model.batches == [[candidate.trajectory for candidate in result.candidates]]


async def test_it_draws_the_trajectories_that_sampling_draws():
    best = await search(BestOfN(n=12), Scores(random_score), seed=3)
    sampled = await search(Sampling(n=12), Scores(random_score), seed=3)
    assert [c.trajectory for c in best.candidates] == [c.trajectory for c in sampled.candidates]
    assert best.merged_proposals == sampled.merged_proposals > 0
    assert (best.planner, sampled.planner) == ("best_of_n", "sampling")


async def test_failed_candidates_are_kept_but_never_scored_nor_chosen():
    reward_model = Scores(lambda trajectory: -len(trajectory.steps))
    result = await search(BestOfN(n=20), reward_model, make=Trap)
    failed = [candidate for candidate in result.candidates if candidate.trajectory.failure]
    assert 0 < len(failed) < 20
    assert {candidate.score for candidate in failed} == {None}
    assert not any(trajectory.failure for trajectory in reward_model.batches[0])
    assert result.candidates[result.answer].trajectory.failure is None
    assert result.failure is None


async def test_if_every_candidate_failed_the_search_failed():
    result = await search(BestOfN(n=5), Scores(random_score), make=Trench)
    assert result.answer is None
    assert result.failure == result.candidates[0].trajectory.failure
    assert result.failure.kind == "EnvError"
    assert len(result.candidates) == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
async def test_a_trajectory_that_cannot_be_scored_costs_no_other_its_score(bad):
    def score(trajectory: Trajectory) -> float:
        if trajectory.id.endswith(("#0", "#3")):
            if bad is None:
                raise RewardModelError("too long")
            return bad
        return random_score(trajectory)

    result = await search(BestOfN(n=6), Scores(score))
    assert [candidate.score is None for candidate in result.candidates] == [True, False, False, True, False, False]
    assert result.answer == max((1, 2, 4, 5), key=lambda i: result.candidates[i].score)
    assert {setback.kind for setback in result.setbacks} == {"RewardModelError"}
    assert len(result.setbacks) == 2
    assert result.failure is None


async def test_if_nothing_can_be_scored_the_search_failed_and_keeps_what_it_tried():
    class OneShort:
        async def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
            return [0.0] * (len(trajectories) - 1)

    result = await search(BestOfN(n=3), OneShort())
    assert (result.answer, len(result.candidates)) == (None, 3)
    assert result.failure is not None
    assert (result.failure.kind, result.failure.message) == (
        "RewardModelError",
        "The reward model gave 0 scores to 1 trajectories.",
    )


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_trajectory_is_refused(n):
    with pytest.raises(ValueError, match="greater than 0"):
        BestOfN(n=n)


# What it is worth

TASKS = [*toy.tasks(126, 0, "test"), *toy.tasks(174, 0, "train")]


async def gain(reward_model: RewardModel, tasks: Sequence[Task]) -> Interval:
    """Estimate by how much Best-of-N succeeds more often than sampling, paired by task."""
    differences = []
    for task in tasks:
        result = await search(BestOfN(n=10), reward_model, task=task)
        successes = [paid(candidate) for candidate in result.candidates]
        differences.append(successes[result.answer] - math.fsum(successes) / len(successes))
    interval = bootstrap_ratio(differences, [1.0] * len(differences))
    assert interval is not None
    return interval


async def test_with_random_scores_it_does_as_well_as_sampling():
    interval = await gain(Scores(random_score), TASKS)
    assert interval.low < 0 < interval.high
    assert interval.high - interval.low < 0.1


async def test_with_a_reward_model_that_learned_from_hindsight_it_beats_sampling_in_rooms_it_has_not_seen():
    learned = LinearRewardModel.fit(toy_pairs(200, 1), seed=0)
    interval = await gain(learned, toy.tasks(126, 0, "test"))
    assert interval.low > 0.2
