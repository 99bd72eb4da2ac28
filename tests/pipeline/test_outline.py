from armap.envs import game24
from armap.envs.game24 import Game24
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.outline import outline
from armap.planners.mcts import MCTS
from armap.policy import PromptedPolicy
from armap.seeds import rng_for
from armap.types import Failure, SamplingParams, SearchTree
from armap.world import LiveWorld

from .records import LikesShortOnes

TREE = SearchTree(
    parents=(-1, 0, 0, 1, 1),
    actions=("", "take\nred cube", "leave", "leave", "dance" * 50),
    priors=(1.0, 0.25, 0.75, 0.5, 0.5),
    visits=(9, 6, 3, 5, 0),
    values=(0.5, 1.25, -1.0, 2.0, None),
    scores=(None, None, None, None, None),
    failures={4: Failure(kind="EnvError", message="gone")},
)


def test_an_outline_shows_every_node_below_its_parent_the_most_visited_first():
    assert outline(TREE).splitlines() == [
        " visits    value  prior",
        "      9      0.5   1.00  the start",
        "      6     1.25   0.25     take red cube",
        "      5        2   0.50        leave",
        f"      0        –   0.50        {('dance' * 50)[:60]} ...  failed: EnvError",
        "      3       -1   0.75     leave",
    ]


async def test_of_a_large_tree_the_most_visited_part_is_shown_and_the_rest_is_counted():
    task = game24.tasks(901, 901, split="test")[0]
    policy = PromptedPolicy(ScriptedLLM(), rules="", sampling=SamplingParams())
    planner = MCTS(num_simulations=200)
    result = await planner.plan(task, LiveWorld(Game24), policy, LikesShortOnes(), rng_for(0))
    lines = outline(result.tree).splitlines()
    assert len(lines) == 1 + 40 + 1
    assert lines[-1] == f"and {len(result.tree.parents) - 40:,} more"
    visits = [int(line.split()[0]) for line in lines[1:-1]]
    shown_least = min(visits)
    assert sum(count > shown_least for count in result.tree.visits) <= 40
