from pathlib import Path

import pytest

from armap.envs import toy
from armap.envs.toy import Toy
from armap.errors import BudgetError, ConfigError, LLMError, RewardModelError
from armap.llms.cached import CachedLLM
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.plan import PLANNERS as PLANNERS_BY_NAME
from armap.pipeline.plan import label, make_planner, plan
from armap.planners.best_of_n import BestOfN
from armap.planners.greedy import Greedy
from armap.planners.mcts import MCTS
from armap.planners.sampling import Sampling
from armap.policy import PromptedPolicy
from armap.store import Ledger, RunFolder
from armap.types import Budget, SamplingParams, SearchBudget, SearchResult, Task, Usage
from armap.world import LiveWorld

from .records import LikesShortOnes

TASKS = toy.tasks(8, 0, "test")
PLANNERS = (Greedy(), Sampling(n=4), BestOfN(n=4))


class UnpaidToy(Toy):
    def step(self, action):
        return super().step(action)._replace(env_reward=0.0)


async def run_plan(
    folder,
    *,
    planners=PLANNERS,
    tasks=TASKS,
    llm=None,
    judge=None,
    budget=None,
    seed=0,
    concurrency=3,
    environment=Toy,
):
    world = LiveWorld(environment)
    with RunFolder(folder) as run:
        model = CachedLLM(llm or ScriptedLLM(), Ledger(run, budget or Budget()))
        await plan(
            run,
            tasks,
            planners,
            world=world,
            make_policy=lambda: PromptedPolicy(model, rules="", sampling=SamplingParams()),
            reward_model=judge or LikesShortOnes(),
            seed=seed,
            concurrency=concurrency,
            on_progress=lambda *_: None,
        )
    world.close()
    return searches(folder)


def searches(folder):
    """Return results by task and planner."""
    with RunFolder(folder, writable=False) as run:
        found = run.read("searches", SearchResult)
    by_place = {(result.task.id, result.planner): result for result in found}
    assert len(by_place) == len(found)
    return by_place


def decisions(results):
    """Return what was decided, without what it cost and what the environment paid."""
    return {
        place: (result.answer, [(candidate.trajectory.actions, candidate.score) for candidate in result.candidates])
        for place, result in results.items()
    }


async def test_every_planner_tries_every_task_once(tmp_path):
    found = await run_plan(tmp_path)
    assert found.keys() == {(task.id, planner.name) for task in TASKS for planner in PLANNERS}
    assert {planner: len(result.candidates) for (_, planner), result in found.items()} == {
        "greedy": 1,
        "sampling": 4,
        "best_of_n": 4,
    }


async def test_sampling_and_best_of_n_draw_the_same_trajectories_which_are_bought_and_stepped_through_once(tmp_path):
    found = await run_plan(tmp_path)
    for task in TASKS:
        sampling, best = found[task.id, "sampling"], found[task.id, "best_of_n"]
        assert [c.trajectory for c in sampling.candidates] == [c.trajectory for c in best.candidates]
        assert sampling.usage == best.usage
        assert sampling.env_steps > best.env_steps == 0
    with RunFolder(tmp_path, writable=False) as run:
        bought = Ledger(run).spent
    assert bought == sum((found[task.id, name].usage for task in TASKS for name in ("greedy", "sampling")), Usage())


async def test_best_of_n_answers_with_what_the_reward_model_likes_best(tmp_path):
    for (_, planner), result in (await run_plan(tmp_path)).items():
        if planner == "best_of_n":
            scores = [-float(len(candidate.trajectory.steps)) for candidate in result.candidates]
            assert [candidate.score for candidate in result.candidates] == scores
            assert result.answer == scores.index(max(scores))


async def test_what_the_environment_pays_changes_no_decision(tmp_path):
    paid = await run_plan(tmp_path / "paid")
    unpaid = await run_plan(tmp_path / "unpaid", environment=UnpaidToy)
    assert decisions(unpaid) == decisions(paid)
    assert any(c.trajectory.env_reward for result in paid.values() for c in result.candidates)
    assert not any(c.trajectory.env_reward for result in unpaid.values() for c in result.candidates)


async def test_the_seed_decides_and_concurrency_does_not(tmp_path):
    alone = decisions(await run_plan(tmp_path / "alone", concurrency=1))
    assert decisions(await run_plan(tmp_path / "together", concurrency=8)) == alone
    assert decisions(await run_plan(tmp_path / "other", seed=1)) != alone


async def test_a_second_time_nothing_is_asked_and_a_further_planner_is_added(tmp_path):
    before = await run_plan(tmp_path, planners=[Greedy()])
    assert await run_plan(tmp_path, planners=[Greedy()], llm=ScriptedLLM.replaying([])) == before
    after = await run_plan(tmp_path, planners=[Greedy(), BestOfN(n=2)])
    assert {place: result for place, result in after.items() if place[1] == "greedy"} == before
    assert len(after) == 2 * len(TASKS)


async def test_what_goes_wrong_with_a_task_is_its_result_and_the_others_go_on(tmp_path):
    class Moody(ScriptedLLM):
        async def generate(self, messages, *, n, sampling, choices=None):
            if "red" in messages[1].content.splitlines()[0]:
                raise LLMError("the server is down")
            return await super().generate(messages, n=n, sampling=sampling, choices=choices)

    nowhere = Task(id="nowhere", env="toy", instruction="Leave.", config={"shelf": 1, "wanted": "moon"})
    found = await run_plan(tmp_path, tasks=[nowhere, *TASKS], llm=Moody())
    assert len(found) == 3 * (1 + len(TASKS))
    for (task, _), result in found.items():
        if task == "nowhere":
            assert (result.failure.kind, result.candidates, result.answer) == ("EnvError", (), None)
        elif "red" in result.task.instruction:
            assert (result.failure.message, result.answer) == ("the server is down", None)
        else:
            assert result.failure is None
            assert result.answer is not None


async def test_a_reward_model_that_fails_costs_only_the_searches_that_ask_it(tmp_path):
    class Broken:
        async def score(self, trajectories):
            raise RewardModelError("score 0 is nan")

    for (_, planner), result in (await run_plan(tmp_path, judge=Broken())).items():
        assert (result.failure is not None) == (planner == "best_of_n")


async def test_a_spent_budget_keeps_what_is_finished_and_more_of_it_gives_what_an_undisturbed_run_gives(tmp_path):
    with pytest.raises(BudgetError, match="max_calls=40"):
        await run_plan(tmp_path / "a", budget=Budget(max_calls=40))
    kept = searches(tmp_path / "a")
    undisturbed = decisions(await run_plan(tmp_path / "b"))
    assert 0 < len(kept) < len(undisturbed)
    assert decisions(await run_plan(tmp_path / "a")) == undisturbed


# Planners by name


@pytest.mark.parametrize("name", PLANNERS_BY_NAME)
@pytest.mark.parametrize("n", [1, 10, 37])
def test_a_planner_of_usual_settings_has_its_plain_name_however_many_trajectories_it_tries(name, n):
    planner = make_planner(name, n, {}, SearchBudget())
    assert label(planner) == name
    assert label(type(planner).model_validate_json(planner.model_dump_json())) == name


@pytest.mark.parametrize(
    ("name", "settings", "budget", "expected"),
    [
        ("mcts", {"leaf": "both"}, {}, "mcts(leaf=both, n=7)"),
        ("mcts", {"widening": "none", "greedy_rollouts": "true"}, {},
         "mcts(greedy_rollouts=true, widening=none, n=7)"),
        ("mcts_paper", {"discount": "1"}, {}, "mcts_paper(discount=1.0, n=7)"),
        ("mcts", {"num_simulations": "12"}, {}, "mcts"),
        ("best_of_n", {}, {"max_calls": 50}, "best_of_n(max_calls=50, n=7)"),
        ("greedy", {}, {"max_seconds": 2}, "greedy(max_seconds=2.0)"),
        ("reflexion_paper", {"answer": "first"}, {}, "reflexion_paper(answer=first, n=7)"),
        ("reflexion", {"answer": "last", "greedy": "yes"}, {}, "reflexion_paper(memory=3, n=7)"),
    ],
)  # fmt: skip
def test_other_settings_are_part_of_the_name_told_from_the_planner_that_differs_least(name, settings, budget, expected):
    assert label(make_planner(name, 7, settings, SearchBudget(**budget))) == expected


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("oracle", {}, "There is no planner 'oracle'; choose from: greedy, sampling, best_of_n, reflexion"),
        ("mcts", {"depth": "3"}, "mcts has no setting 'depth'; it has: num_simulations, proposals"),
        ("mcts", {"name": "beam"}, "mcts has no setting 'name'"),
        ("greedy", {"n": "2"}, "greedy has no setting 'n'; it has: none"),
        ("mcts", {"exploration": "much"}, "mcts.exploration: .* not 'much'"),
        ("mcts", {"exploration": "none"}, "mcts.exploration: "),
        ("mcts", {"wave": "0"}, "mcts.wave: .* not '0'"),
        ("reflexion", {"threshold": "7.25"}, "reflexion.threshold: "),
        ("mcts", {"backup": "open"}, "^mcts: backup=open needs leaf=value"),
    ],
)
def test_a_planner_setting_or_value_that_does_not_exist_is_one_sentence(name, settings, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make_planner(name, 7, settings, SearchBudget())
    assert "\n" not in str(caught.value)


async def test_two_settings_of_one_planner_stand_side_by_side(tmp_path):
    two = [MCTS(num_simulations=3), MCTS(num_simulations=3, leaf="both")]
    found = await run_plan(tmp_path, planners=two)
    assert {name for _, name in found} == {"mcts", "mcts(leaf=both, n=3)"}
    assert len(found) == 2 * len(TASKS)
    assert await run_plan(tmp_path, planners=two[::-1], llm=ScriptedLLM.replaying([])) == found


async def test_what_fails_before_it_begins_carries_the_label_too(tmp_path):
    nowhere = Task(id="nowhere", env="toy", instruction="Leave.", config={"shelf": 1, "wanted": "moon"})
    found = await run_plan(tmp_path, tasks=[nowhere], planners=[MCTS(leaf="value")])
    assert [*found] == [("nowhere", "mcts(leaf=value, n=10)")]


def test_the_documentation_names_every_setting_of_every_planner():
    rows = {}
    for line in (Path(__file__).parents[2] / "docs" / "planning.md").read_text("utf-8").splitlines():
        if line.startswith("| `") and line.count("|") == 5:
            name, _, size, settings = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name.strip("`")] = (size.strip("`"), settings)
    assert set(rows) == {name for name in PLANNERS_BY_NAME if not name.endswith("_paper")}
    for name, (size, settings) in rows.items():
        usual = make_planner(name, 7, {}, SearchBudget()).model_dump(exclude={"name", "budget"})
        assert usual.pop(size, 7) == 7
        told = (f"`{setting}={str(value).lower()}`" for setting, value in usual.items())
        assert ", ".join(told) == settings
