from armap.rewards.chance import ChanceRewardModel
from rewards.toy_pairs import toy_trajectories


async def test_scores_are_fixed_by_seed_and_trajectory_and_say_nothing_of_success():
    trajectories = toy_trajectories(400, 1)
    scores = await ChanceRewardModel(seed=1).score(trajectories)
    assert await ChanceRewardModel(seed=1).score(trajectories[::-1]) == scores[::-1]
    assert await ChanceRewardModel(seed=2).score(trajectories) != scores
    solved = [score for score, one in zip(scores, trajectories, strict=True) if one.env_reward == 1]
    others = [score for score, one in zip(scores, trajectories, strict=True) if one.env_reward != 1]
    assert solved
    assert abs(sum(solved) / len(solved) - sum(others) / len(others)) < 0.2
