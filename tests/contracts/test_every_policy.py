from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.toy import Toy
from armap.errors import PolicyError
from armap.llms.scripted import ScriptedLLM
from armap.policy import PromptedPolicy
from armap.protocols import Policy
from armap.types import Action, History, Message, SamplingParams
from armap.world import LiveWorld

WORLDS = {"game24": (Game24, game24.tasks(1, 10, split="test")), "toy": (Toy, toy.tasks(10, 0, "test"))}


def speaker(*, strict: bool, mute: float = 0.0) -> Callable[[Sequence[Message], Random], str]:
    """Acts somehow, and sometimes says nothing that can be read."""

    def reply(messages: Sequence[Message], rng: Random) -> str:
        if rng.random() < mute:
            return ""
        action = rng.choice(["leave", "take red cube", "1 + 1", "8 - 4", "dance"])
        return f"Thought: {len(messages)}\nAction: {action}" if strict else action

    return reply


def choosing(env: type[Game24 | Toy]) -> Policy:
    return PromptedPolicy(ScriptedLLM(), rules=env.rules, examples=env.examples, sampling=SamplingParams())


def free(env: type[Game24 | Toy]) -> Policy:
    llm = ScriptedLLM(speaker(strict=False, mute=0.2))
    return PromptedPolicy(llm, rules=env.rules, examples=env.examples, sampling=SamplingParams(), choose=False)


def strict(env: type[Game24 | Toy]) -> Policy:
    llm = ScriptedLLM(speaker(strict=True, mute=0.2))
    return PromptedPolicy(llm, rules=env.rules, sampling=SamplingParams(), choose=False, strict=True)


every_policy = pytest.mark.parametrize("make", [choosing, free, strict])
every_world = pytest.mark.parametrize("env", WORLDS)


async def histories(env: str) -> list[History]:
    """A start, and a state two steps later."""
    make, tasks = WORLDS[env]
    world = LiveWorld(make)
    found = []
    for task in tasks[:4]:
        found.append(await world.start(task))
        history = found[-1]
        for i in (0, 1):
            action = Action(text=history.observation.actions[i], thought="Hm." if i else "")
            history = await world.advance(history, action)
        found.append(history)
    return found


@every_policy
@every_world
@pytest.mark.parametrize("n", [1, 2, 25])
async def test_one_to_n_actions_are_proposed_and_none_is_empty(make, env, n):
    policy = make(WORLDS[env][0])
    for history in await histories(env):
        try:
            actions = await policy.propose(history, n=n, rng=Random(1))
        except PolicyError:
            assert n < 25
            continue
        assert 1 <= len(actions) <= n
        assert all(action.text.strip() for action in actions)


@every_policy
@every_world
async def test_the_generator_decides_the_draws_and_is_moved_on_by_them(make, env):
    policy, again = make(WORLDS[env][0]), make(WORLDS[env][0])
    for history in await histories(env):
        rng = Random(7)
        first = await policy.propose(history, n=12, rng=rng)
        assert await again.propose(history, n=12, rng=Random(7)) == first
        assert await policy.propose(history, n=12, rng=rng) != first


@every_policy
@every_world
async def test_what_the_environment_paid_and_measured_changes_no_action(make, env):
    policy = make(WORLDS[env][0])
    for history in await histories(env):
        steps = tuple(replace(step, env_reward=99.0) for step in history.steps)
        paid = history._replace(steps=steps, metrics={"price": 3.0})
        proposed = [await policy.propose(one, n=12, rng=Random(3)) for one in (history, paid)]
        assert proposed[0] == proposed[1]


@every_policy
@every_world
async def test_the_most_likely_action_can_be_asked_for(make, env):
    policy = make(WORLDS[env][0])
    (history, *_) = await histories(env)
    assert len(await policy.propose(history, n=20, rng=Random(1), greedy=True)) >= 1
