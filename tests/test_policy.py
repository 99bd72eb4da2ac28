import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armap.envs import game24, toy
from armap.envs.game24 import Game24
from armap.envs.play import play
from armap.envs.toy import Toy
from armap.errors import LLMError, PolicyError
from armap.llms.scripted import ScriptedLLM
from armap.policy import PromptedPolicy, parse_action
from armap.types import (
    Action,
    Completion,
    History,
    Message,
    Observation,
    SamplingParams,
    Step,
    Task,
    Trajectory,
    Usage,
)
from armap.world import LiveWorld

SAMPLING = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=20, stop=("\n\n",))


class Request(NamedTuple):
    messages: Sequence[Message]
    n: int
    sampling: SamplingParams
    choices: Sequence[str] | None


class Listener:
    """A language model that writes down what it is asked and gives its replies in turn."""

    name = "listener"

    def __init__(self, *replies: str) -> None:
        self.requests: list[Request] = []
        self._replies = replies or ("leave",)

    async def generate(
        self, messages: Sequence[Message], *, n: int, sampling: SamplingParams, choices: Sequence[str] | None = None
    ) -> list[Completion]:
        self.requests.append(Request(messages, n, sampling, choices))
        usage = Usage(calls=1, prompt_tokens=10, cached_tokens=4, completion_tokens=n, cost_usd=0.25)
        return [
            Completion(text=self._replies[i % len(self._replies)], usage=usage if i == 0 else Usage()) for i in range(n)
        ]


def policy_of(llm: Listener | ScriptedLLM, **settings: object) -> PromptedPolicy:
    return PromptedPolicy(llm, **{"rules": Toy.rules, "examples": Toy.examples, "sampling": SAMPLING} | settings)


async def toy_history(*actions: Action, seed: int = 0) -> History:
    world = LiveWorld(Toy)
    history = await world.start(toy.tasks(1, seed, "train")[0])
    for action in actions:
        history = await world.advance(history, action)
    return history


async def messages_at(history: History, **settings: object) -> list[Message]:
    llm = Listener("Action: leave")
    await policy_of(llm, **settings).propose(history, n=1, rng=Random(0))
    return [*llm.requests[0].messages]


# What the model is shown


async def test_the_conversation_reads_as_documented():
    first, *_ = (await toy_history()).observation.actions
    history = await toy_history(Action(text=first))
    example, *_ = Toy.examples
    assert [(message.role, message.content) for message in await messages_at(history)] == [
        ("system", Toy.rules),
        ("user", f"{example.task.instruction}\n{example.steps[0].observation.text}"),
        ("assistant", "take green ball"),
        ("user", example.steps[1].observation.text),
        ("assistant", "leave"),
        ("user", f"{history.task.instruction}\n{history.steps[0].observation.text}"),
        ("assistant", first),
        ("user", history.observation.text),
    ]


async def test_a_strict_model_is_told_the_format_and_shown_its_own_thoughts():
    history = await toy_history(Action(text="wait", thought="Why hurry?"), Action(text="wait"))
    system, *_, first, _, second, _ = [m.content for m in await messages_at(history, strict=True, choose=False)]
    assert system.startswith(Toy.rules)
    assert "Action: " in system.removeprefix(Toy.rules)
    assert (first, second) == ("Thought: Why hurry?\nAction: wait", "Action: wait")


@pytest.mark.parametrize("strict", [False, True])
@given(data=st.data())
async def test_the_messages_of_a_state_are_a_prefix_of_those_of_its_continuation(strict, data):
    make, tasks = data.draw(
        st.sampled_from([(Game24, game24.tasks(1, 20, split="test")), (Toy, toy.tasks(20, 0, "test"))])
    )
    settings = {"rules": make.rules, "examples": make.examples, "strict": strict, "choose": False}
    world = LiveWorld(make)
    history = await world.start(data.draw(st.sampled_from(tasks)))
    shown = await messages_at(history, **settings)
    while history.stop_reason is None:
        text = data.draw(st.sampled_from([*history.observation.actions, "dance"]))
        history = await world.advance(history, Action(text=text, thought=data.draw(st.sampled_from(["", "Hm."]))))
        continued = await messages_at(history, **settings)
        assert continued[: len(shown)] == shown
        assert [message.role for message in continued[len(shown) :]] == ["assistant", "user"]
        shown = continued


async def test_examples_come_before_the_task_and_tasks_share_all_that_comes_before_them():
    example, *_ = Toy.examples
    one, other = await messages_at(await toy_history(seed=1)), await messages_at(await toy_history(seed=2))
    assert one[:-1] == other[:-1] != []
    assert one[-1] != other[-1]
    assert example.task.instruction in one[1].content
    without = await messages_at(await toy_history(seed=1), examples=())
    assert without == [one[0], one[-1]]


async def test_examples_come_in_their_order():
    messages = await messages_at(await toy_history(), rules=Game24.rules, examples=Game24.examples)
    shown = [message.content for message in messages if message.role == "assistant"]
    assert shown == [action for example in Game24.examples for action in example.actions]


def paid_nothing(steps: Sequence[Step]) -> tuple[Step, ...]:
    return tuple(replace(step, env_reward=0.0) for step in steps)


async def test_what_the_environment_pays_appears_in_no_message():
    task = game24.task_of((2, 4, 8, 12), split="train")
    played = play(Game24(), task, ("8 - 4", "4 * 12", "48 / 2"))
    priced = tuple(replace(step, env_reward=7.125) for step in played.steps)
    history = History(task=task, steps=priced, observation=played.final_observation, metrics={"price": 7.125})
    example: Trajectory = played.model_copy(update={"steps": priced})
    settings = {"rules": Game24.rules, "choose": False}
    messages = await messages_at(history, examples=[example], **settings)
    assert not any("7.125" in message.content for message in messages)
    zeroed = history._replace(steps=paid_nothing(history.steps), metrics={})
    free = example.model_copy(update={"steps": paid_nothing(example.steps)})
    assert await messages_at(zeroed, examples=[free], **settings) == messages


# What the model is asked


async def test_listed_actions_are_offered_as_choices_in_their_order():
    llm, history = Listener(), await toy_history()
    actions = await policy_of(llm).propose(history, n=2, rng=Random(0))
    assert llm.requests[0].choices == history.observation.actions
    assert actions == [Action(text="leave")] * 2


async def test_what_was_done_when_the_same_was_seen_is_not_offered_again_unless_nothing_else_is_left():
    here, there = (Observation(text=text, actions=("look", "go")) for text in ("Here.", "There."))
    steps = [Step(observation=seen, action=Action(text=done)) for seen, done in ((here, "look"), (there, "go"))]
    history = History(task=Task(id="t", env="e", instruction="Go."), steps=tuple(steps), observation=here)
    again = history._replace(steps=(*steps, Step(observation=here, action=Action(text="go"))))
    llm = Listener()
    for asked in (history, history._replace(observation=there), again):
        await policy_of(llm).propose(asked, n=1, rng=Random(0))
    assert [request.choices for request in llm.requests] == [("go",), ("look",), ("look", "go")]


@pytest.mark.parametrize("listed", [None, (), ("leave",)])
async def test_without_a_list_or_without_choosing_the_model_writes_freely(listed):
    llm = Listener()
    task = Task(id="t", env="e", instruction="Leave.")
    history = History(task=task, observation=Observation(text="A room.", actions=listed))
    await policy_of(llm, choose=not listed).propose(history, n=1, rng=Random(0))
    assert llm.requests[0].choices is None


async def test_sampling_is_passed_on_and_greedy_takes_the_likeliest():
    llm, history = Listener(), await toy_history()
    policy = policy_of(llm)
    await policy.propose(history, n=3, rng=Random(0))
    await policy.propose(history, n=1, rng=Random(0), greedy=True)
    drawn, greedy = llm.requests
    assert (drawn.n, greedy.n) == (3, 1)
    assert drawn.sampling.model_copy(update={"seed": None}) == SAMPLING
    assert greedy.sampling == drawn.sampling.model_copy(update={"temperature": 0.0})


async def test_every_call_has_a_seed_of_its_own_that_the_generator_repeats():
    llm, history = Listener(), await toy_history()
    policy = policy_of(llm)
    for rng in (Random(5), Random(5), Random(6)):
        for _ in range(3):
            await policy.propose(history, n=1, rng=rng)
    seeds = [request.sampling.seed for request in llm.requests]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 6
    assert None not in seeds


async def test_usage_adds_up_over_calls():
    llm, history = Listener(), await toy_history()
    policy = policy_of(llm)
    assert policy.usage == Usage()
    for n in (1, 5):
        await policy.propose(history, n=n, rng=Random(0))
    assert policy.usage == Usage(calls=2, prompt_tokens=20, cached_tokens=8, completion_tokens=6, cost_usd=0.5)


# What is made of its replies


async def test_replies_that_cannot_be_read_are_left_out():
    policy = policy_of(Listener("", "Action: leave", "``"), choose=False)
    assert await policy.propose(await toy_history(), n=3, rng=Random(0)) == [Action(text="leave")]


async def test_a_reply_is_taken_to_be_the_legal_action_that_it_means():
    policy = policy_of(Listener("Action: **LEAVE**"), choose=False)
    assert await policy.propose(await toy_history(), n=1, rng=Random(0)) == [Action(text="leave")]


@pytest.mark.parametrize("strict", [False, True])
async def test_nothing_readable_is_an_error_that_shows_a_reply_and_still_counts_its_cost(strict):
    policy = policy_of(Listener("\n \n"), choose=False, strict=strict)
    history = await toy_history()
    with pytest.raises(PolicyError) as caught:
        await policy.propose(history, n=3, rng=Random(0))
    (message,) = str(caught.value).splitlines()
    assert message == (
        f"none of 3 replies to task {history.task.id!r} could be read as an action; the first was '\\n \\n'"
    )
    assert policy.usage.calls == 1


@pytest.mark.parametrize("strict", [False, True])
async def test_replies_that_are_all_thought_are_an_error_that_says_what_to_do(strict):
    policy = policy_of(Listener("<think>\nI may answer\nAction: leave\n"), choose=False, strict=strict)
    with pytest.raises(PolicyError, match=r"the first was cut short while .* thinking; collect with more --reply-tok"):
        await policy.propose(await toy_history(), n=3, rng=Random(0))


@pytest.mark.parametrize(("max_tokens", "is_thought"), [(64, False), (4000, True)])
async def test_what_was_cut_short_where_there_was_room_to_think_is_taken_for_a_thought(max_tokens, is_thought):
    class Cut(Listener):
        async def generate(self, messages, *, n, sampling, choices=None):
            completions = await super().generate(messages, n=n, sampling=sampling, choices=choices)
            return [completion.model_copy(update={"cut": True}) for completion in completions]

    policy = policy_of(Cut("leave\nI may take"), sampling=SamplingParams(max_tokens=max_tokens), choose=False)
    if not is_thought:
        assert await policy.propose(await toy_history(), n=1, rng=Random(0)) == [Action(text="leave")]
        assert await policy.reflect(attempt(), rng=Random(0)) == "leave I may take"
        return
    with pytest.raises(PolicyError, match="the first was cut short while the model was thinking"):
        await policy.propose(await toy_history(), n=1, rng=Random(0))
    with pytest.raises(LLMError, match="was cut short while the model was thinking"):
        await policy.reflect(attempt(), rng=Random(0))


@pytest.mark.parametrize("strict", [False, True])
async def test_what_was_thought_before_a_reply_is_no_part_of_it_and_does_not_tell_states_apart(strict):
    thought = "<think>\nI may answer\nAction: take red ball\nno\n</think>\n\n"
    policy = policy_of(Listener(f"{thought}Action: leave", "Action: leave"), choose=False, strict=strict)
    assert await policy.propose(await toy_history(), n=2, rng=Random(0)) == [Action(text="leave")] * 2


async def test_what_the_model_spends_on_unusable_replies_is_counted():
    class Wasteful(Listener):
        async def generate(self, messages, *, n, sampling, choices=None):
            raise LLMError("unusable", usage=Usage(calls=2, prompt_tokens=9))

    policy = policy_of(Wasteful(""))
    for _ in range(2):
        with pytest.raises(LLMError, match="unusable"):
            await policy.propose(await toy_history(), n=3, rng=Random(0))
    assert policy.usage == Usage(calls=4, prompt_tokens=18)


async def test_an_error_of_the_model_is_passed_on():
    with pytest.raises(LLMError, match="has given all of its 0 recorded replies"):
        await policy_of(ScriptedLLM.replaying([])).propose(await toy_history(), n=1, rng=Random(0))


def attempt() -> Trajectory:
    return play(Toy(), toy.tasks(1, 0, "train")[0], ["leave"])


@pytest.mark.parametrize(("max_tokens", "longest"), [(64, 150), (4000, 4000)])
async def test_a_reflection_is_what_was_said_behind_a_thought_for_which_there_is_room(max_tokens, longest):
    llm = Listener("<think>\nHm.\n</think>\n\nTake the\ncube.")
    policy = policy_of(llm, sampling=SamplingParams(max_tokens=max_tokens))
    assert await policy.reflect(attempt(), rng=Random(0)) == "Take the cube."
    assert llm.requests[0].sampling.max_tokens == longest


async def test_a_reflection_that_is_all_thought_is_an_error_that_says_what_to_do():
    policy = policy_of(Listener("<think>\nHm."))
    with pytest.raises(LLMError, match=r"reflection on .* was cut short while the model was thinking; collect with"):
        await policy.reflect(attempt(), rng=Random(0))


LENIENT = {
    # The action alone
    "take red cube": "take red cube",
    "  take red cube  ": "take red cube",
    "\n\n take red cube\nYou hold the red cube.": "take red cube",
    "`take red cube`": "take red cube",
    '"take red cube"': "take red cube",
    "**take red cube**": "take red cube",
    "- take red cube\n- leave": "take red cube",
    "* take red cube": "take red cube",
    "• take red cube": "take red cube",
    "> take red cube": "take red cube",
    "- `take red cube`": "take red cube",
    "\u00a0`\u00a0take red cube`\u2003": "take red cube",
    "```\ntake red cube\n```": "take red cube",
    "```text\ntake red cube\n```": "take red cube",
    "```take red cube```": "take red cube",
    # Behind its marker
    "Action: take red cube": "take red cube",
    "ACTION:take red cube": "take red cube",
    "action : take red cube\r\nThat is all.": "take red cube",
    "Action: `take red cube`": "take red cube",
    "**Action:** take red cube": "take red cube",
    "**Action**: take red cube": "take red cube",
    "### Action: take red cube": "take red cube",
    "> Action: take red cube": "take red cube",
    "- Action: take red cube": "take red cube",
    "* **Action:** `take red cube`": "take red cube",
    "Action:\ntake red cube": "take red cube",
    "Action:\n\n```python\ntake red cube\n```\n": "take red cube",
    "Action: leave\nNo, wait.\nAction: take red cube": "take red cube",
    "Action: take red cube\nObservation: You hold the red cube.": "take red cube",
    # In other letters or spacing
    "TAKE Red cube": "take red cube",
    "take  red\tcube": "take red cube",
    "takeredcube": "take red cube",
    # Not legal, and the environment will say so
    "take red cube.": "take red cube.",
    "take the cube": "take the cube",
    "I will take red cube": "I will take red cube",
}


@pytest.mark.parametrize(("reply", "text"), LENIENT.items())
def test_a_lenient_reading_finds_the_action(reply, text):
    action = parse_action(reply, strict=False, legal=["leave", "take red cube"])
    assert action is not None
    assert action.text == text


@pytest.mark.parametrize(
    ("reply", "thought"),
    [
        ("Thought: I want it.\nAction: leave", "I want it."),
        ("**Thought:** I want it.\n**Action:** leave", "I want it."),
        ("- Thought: I want it.\n- Action: leave", "I want it."),
        ("thought : One.\nTwo.\n\nAction:\nleave", "One.\nTwo."),
        ("I want it.\nAction: leave", "I want it."),
        ("Action: take red cube\nNo.\nAction: leave", "Action: take red cube\nNo."),
    ],
)
def test_a_lenient_reading_keeps_what_stands_before_the_action_as_the_thought(reply, thought):
    assert parse_action(reply, strict=False) == Action(text="leave", thought=thought)


@pytest.mark.parametrize("action", ['click "Buy"', '"quoted"', "run *", "> out.txt", "- 3", "`ls`"])
def test_what_looks_like_wrapping_stays_where_it_is_a_part_of_a_legal_action(action):
    legal = ["leave", action, 'click "Buy', "quoted", "run", "out.txt", "3"]
    for reply in (action, f"Action: {action}", f"Thought: Hm.\nAction: {action} "):
        assert parse_action(reply, strict=False, legal=legal) is not None
        assert parse_action(reply, strict=False, legal=legal).text == action


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "reply", ["", " ", "\n\t\r\n", "Action:", "Action: ", "Action: \n \n", "Thought: Hm.\nAction:  "]
)
def test_a_reply_without_an_action_has_none(reply, strict):
    assert parse_action(reply, strict=strict) is None


@pytest.mark.parametrize("reply", ["``", "```", "```python\n```", "**", "Action: **", "Action: ``"])
def test_wrapping_without_anything_inside_has_no_action(reply):
    assert parse_action(reply, strict=False) is None


@pytest.mark.parametrize("reply", ["8 - 4", "-4 + 8", "8/3 - 1/3", "(8 - 4) * 6", "4*6", "- 8 - 4"])
def test_signs_operators_and_parentheses_of_sums_stay(reply):
    assert parse_action(reply, strict=False) == Action(text=reply.removeprefix("- "))


def test_an_exact_action_is_never_taken_for_one_that_only_reads_alike():
    alike = ["8/3 / 2", "8 / 3/2"]
    for legal in (alike, alike[::-1]):
        assert [parse_action(text, strict=False, legal=legal) for text in alike] == [Action(text=t) for t in alike]


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("Action: leave", Action(text="leave")),
        ("Action: leave\n", Action(text="leave")),
        ("Action:  leave ", Action(text="leave")),
        ("Thought: Why not?\nAction: leave", Action(text="leave", thought="Why not?")),
        ("Thought: One.\nTwo.\nAction: leave", Action(text="leave", thought="One.\nTwo.")),
        ("Thought: \nAction: leave", Action(text="leave")),
        ("Action: LEAVE", Action(text="LEAVE")),
    ],
)
def test_a_strict_reading_takes_the_documented_format(reply, action):
    assert parse_action(reply, strict=True, legal=["leave"]) == action


@pytest.mark.parametrize(
    "reply",
    [
        "leave",
        "action: leave",
        "Action:leave",
        " Action: leave",
        "**Action:** leave",
        "Action:\nleave",
        "Action: leave\n\n",
        "Action: leave\nThat is all.",
        "Action: leave\nThought: Why not?",
        "I think.\nAction: leave",
        "thought: Why not?\nAction: leave",
        "Thought: Why not? Action: leave",
        "```\nAction: leave\n```",
    ],
)
def test_a_strict_reading_takes_nothing_else(reply):
    assert parse_action(reply, strict=True, legal=["leave"]) is None


MEGABYTE = 2**20


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "unit",
    [
        "x",
        " ",
        "\n",
        "*",
        "`",
        "- ",
        "Action: ",
        "Action: x\n",
        "\nAction:",
        "Thought: ",
        "Thought: x\n",
        "```\n",
        "é\0",
    ],
)
@pytest.mark.parametrize("start", ["", "Thought: "])
def test_a_megabyte_of_anything_is_read_without_backtracking_for_ever(start, unit, strict):
    parse_action(start + unit * (MEGABYTE // len(unit)) + "\n\n", strict=strict, legal=["leave"])


@given(reply=st.text(st.characters(exclude_categories=())), strict=st.booleans())
def test_whatever_is_read_is_an_action_on_one_line_without_margins(reply, strict):
    action = parse_action(reply, strict=strict)
    assert action is None or (action.text and action.text == action.text.strip() and "\n" not in action.text)


async def test_actions_are_drawn_as_the_model_draws_them():
    history = await toy_history()
    actions = await policy_of(ScriptedLLM()).propose(history, n=6000, rng=Random(1))
    texts = [action.text for action in actions]
    for action in history.observation.actions:
        assert texts.count(action) == pytest.approx(6000 / 7, abs=4.5 * math.sqrt(6000 / 7))


async def test_earlier_observations_are_cut_to_what_is_to_be_recalled_and_the_last_one_is_whole():
    task = Task(id="t", env="queue", instruction="Stand in line.")
    seen = Observation(text="a long line of people")
    history = History(task=task, steps=(Step(observation=seen, action=Action(text="wait")),), observation=seen)
    messages = await messages_at(history, recall_chars=5)
    assert [message.content for message in messages[-3:]] == [
        "Stand in line.\na lon ...",
        "wait",
        "a long line of people",
    ]
