import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.errors import BudgetError, ConfigError, LLMError, UnavailableError
from armap.llms.cached import CachedLLM
from armap.llms.http import HTTPLLM
from armap.protocols import LLM
from armap.store import Ledger, LedgerEntry, RunFolder
from armap.types import Budget, Completion, Message, SamplingParams, Usage

from .hostile_server import HostileServer, answer, refusal


class HashLLM:
    """Answers with a hash of what decides the answer; without a seed, of how many answers it has given."""

    def __init__(self, name: str = "hash") -> None:
        self.name = name
        self.requests: list[tuple[int, int | None]] = []
        self.failures: list[Exception] = []
        self.surplus = 0
        self.prefix = ""

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: SamplingParams,
        choices: Sequence[str] | None = None,
    ) -> list[Completion]:
        self.requests.append((n, sampling.seed))
        await asyncio.sleep(0.005)
        if self.failures:
            raise self.failures.pop(0)
        origin = sampling.seed if sampling.seed is not None else f"request {len(self.requests)}"
        texts = [
            self.prefix + hashlib.sha256(repr((messages, origin, index)).encode()).hexdigest()[:12]
            for index in range(n + self.surplus)
        ]
        usage = Usage(calls=1, prompt_tokens=7, completion_tokens=3 * n, cost_usd=0.25)
        return [Completion(text=text, usage=Usage() if index else usage) for index, text in enumerate(texts)]


ASK = [Message(role="user", content="What now?")]
SAMPLING = SamplingParams()


@pytest.fixture
def run(tmp_path):
    with RunFolder(tmp_path) as run:
        yield run


def answer_texts(completions: list[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def usage_of(completions: list[Completion]) -> Usage:
    return sum((completion.usage for completion in completions), Usage())


@settings(deadline=None, max_examples=25)
@given(asked=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), max_size=8), seed=st.none() | st.integers(0))
def test_answers_keep_their_index_and_only_missing_ones_are_bought(asked, seed):
    async def check(path: Path) -> None:
        sampling = SamplingParams(seed=seed)
        llm = HashLLM()
        most = {}
        with RunFolder(path) as run:
            ledger = Ledger(run)
            cached = CachedLLM(llm, ledger)
            seen: dict[int, list[str]] = {}
            for question, n in asked:
                messages = [Message(role="user", content=f"Question {question}")]
                completions = await cached.generate(messages, n=n, sampling=sampling)
                known = seen.get(question, [])
                assert len(completions) == n
                assert answer_texts(completions)[: len(known)] == known[:n]
                assert len(set(answer_texts(completions))) == n
                seen[question] = max(known, answer_texts(completions), key=len)
                most[question] = max(most.get(question, 0), n)
            assert sum(n for n, _ in llm.requests) == sum(most.values())
            assert ledger.avoided_calls == len(asked) - len(llm.requests)
            assert sum(entry.seconds >= 0 for entry in run.read("completions", LedgerEntry)) == len(llm.requests)

    with TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder)))


async def test_a_resumed_run_gets_the_same_answers_and_buys_nothing(tmp_path):
    with RunFolder(tmp_path) as run:
        first = Ledger(run)
        bought = [await CachedLLM(HashLLM(), first).generate(ASK, n=n, sampling=SAMPLING) for n in (2, 5)]
    with RunFolder(tmp_path) as run:
        llm, ledger = HashLLM(), Ledger(run, Budget(max_calls=0))
        again = [await CachedLLM(llm, ledger).generate(ASK, n=n, sampling=SAMPLING) for n in (2, 5)]
    # Usage included: what a task cost does not depend on whether its run was interrupted.
    assert again == bought
    assert llm.requests == []
    assert ledger.avoided_calls == 2
    assert ledger.spent == first.spent


async def test_later_answers_are_drawn_with_a_seed_of_their_own_that_is_always_the_same(tmp_path):
    requests = []
    for folder in ("one", "two"):
        with RunFolder(tmp_path / folder) as run:
            llm = HashLLM()
            cached = CachedLLM(llm, Ledger(run))
            for n in (2, 3, 5):
                await cached.generate(ASK, n=n, sampling=SamplingParams(seed=11))
            requests.append(llm.requests)
    assert requests[0] == requests[1]
    (_, first), (_, second), (_, third) = requests[0]
    assert first == 11
    assert len({first, second, third}) == 3
    assert 0 <= second < 2**31


async def test_everything_that_decides_an_answer_tells_requests_apart_and_n_does_not(run):
    llm, ledger = HashLLM(), Ledger(run)
    cached = CachedLLM(llm, ledger)
    other_words = [Message(role="user", content="What then?")]
    other_role = [Message(role="system", content="What now?")]
    requests = [
        (cached, ASK, SAMPLING, None),
        (cached, other_words, SAMPLING, None),
        (cached, other_role, SAMPLING, None),
        (cached, [*ASK, *ASK], SAMPLING, None),
        (cached, ASK, SamplingParams(temperature=0.5), None),
        (cached, ASK, SamplingParams(seed=1), None),
        (cached, ASK, SAMPLING, ["left", "right"]),
        (cached, ASK, SAMPLING, ["left"]),
        (CachedLLM(HashLLM("another"), ledger), ASK, SAMPLING, None),
    ]
    for n in (2, 1):
        for asked, messages, sampling, choices in requests:
            await asked.generate(messages, n=n, sampling=sampling, choices=choices)
    assert len(llm.requests) == len(requests) - 1
    assert len({entry.key for entry in run.read("completions", LedgerEntry)}) == len(requests)


async def test_equal_requests_at_the_same_time_share_one_purchase(run):
    llm, ledger = HashLLM(), Ledger(run)
    # Two wrappers, as a policy and a judge on the same model would have.
    wrappers = [CachedLLM(llm, ledger), CachedLLM(llm, ledger)]
    answers = await asyncio.gather(
        *(wrappers[number % 2].generate(ASK, n=3, sampling=SAMPLING) for number in range(20))
    )
    assert llm.requests == [(3, None)]
    assert len({tuple(answer_texts(completions)) for completions in answers}) == 1
    assert all(usage_of(completions) == ledger.spent for completions in answers)
    assert ledger.avoided_calls == 19


async def test_a_larger_request_made_during_a_smaller_one_buys_only_the_difference(run):
    llm = HashLLM()
    cached = CachedLLM(llm, Ledger(run))
    few, many = await asyncio.gather(
        cached.generate(ASK, n=2, sampling=SAMPLING), cached.generate(ASK, n=5, sampling=SAMPLING)
    )
    assert [n for n, _ in llm.requests] == [2, 3]
    assert answer_texts(many)[:2] == answer_texts(few)


async def test_a_failed_purchase_stores_nothing_fails_all_who_wait_for_it_and_can_be_tried_again(run):
    llm, ledger = HashLLM(), Ledger(run)
    llm.failures = [LLMError("the server is down", retryable=True)]
    cached = CachedLLM(llm, ledger)
    outcomes = await asyncio.gather(
        *(cached.generate(ASK, n=2, sampling=SAMPLING) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(outcome, LLMError) and outcome.retryable for outcome in outcomes)
    assert len(llm.requests) == 1
    assert ledger.spent == Usage()
    assert len(await cached.generate(ASK, n=2, sampling=SAMPLING)) == 2


async def test_what_is_already_stored_is_answered_even_while_more_is_being_bought_in_vain(run):
    llm = HashLLM()
    cached = CachedLLM(llm, Ledger(run))
    await cached.generate(ASK, n=2, sampling=SAMPLING)
    llm.failures = [LLMError("the server is down")]
    more, stored = await asyncio.gather(
        cached.generate(ASK, n=4, sampling=SAMPLING),
        cached.generate(ASK, n=2, sampling=SAMPLING),
        return_exceptions=True,
    )
    assert isinstance(more, LLMError)
    assert len(stored) == 2


async def test_cancelling_the_one_who_buys_leaves_those_who_wait_with_an_answer(run):
    llm = HashLLM()
    cached = CachedLLM(llm, Ledger(run))
    tasks = [asyncio.create_task(cached.generate(ASK, n=2, sampling=SAMPLING)) for _ in range(5)]
    await asyncio.sleep(0.001)
    tasks[0].cancel()
    tasks[1].cancel()
    cancelled, also_cancelled, *answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(also_cancelled, asyncio.CancelledError)
    assert len({tuple(answer_texts(completions)) for completions in answers}) == 1
    assert len(llm.requests) == 2


async def test_what_a_failed_purchase_has_cost_is_counted_also_after_a_restart(tmp_path):
    budget = Budget(max_calls=4, max_cost_usd=0.01)
    usage = Usage(calls=2, prompt_tokens=5, cost_usd=0.02)
    for _ in range(2):
        with RunFolder(tmp_path) as run:
            llm, ledger = HashLLM(), Ledger(run, budget)
            llm.failures = [LLMError("all replies were unusable", usage=usage)]
            with pytest.raises(LLMError if ledger.spent == Usage() else BudgetError, match=r"unusable|max_cost_usd"):
                await CachedLLM(llm, ledger).generate(ASK, n=2, sampling=SAMPLING)
            assert ledger.spent == usage
            assert [entry.completions for entry in run.read("completions", LedgerEntry)] == [()]


@pytest.mark.parametrize("limit", [{"max_tokens": 100}, {"max_cost_usd": 1}])
async def test_unusable_replies_without_tokens_do_not_make_a_limit_one_that_cannot_hold(run, limit):
    unusable = LLMError("all replies were unusable", usage=Usage(calls=2))
    llm, ledger = HashLLM(), Ledger(run, Budget(**limit))
    llm.failures = [unusable, unusable]
    for _ in range(2):
        with pytest.raises(LLMError, match="unusable"):
            await CachedLLM(llm, ledger).generate(ASK, n=2, sampling=SAMPLING)
    assert len(await CachedLLM(llm, ledger).generate(ASK, n=2, sampling=SAMPLING)) == 2
    assert ledger.spent.calls == 5


async def test_a_limit_that_usable_answers_could_never_reach_is_refused_also_where_the_rest_is_missing(run):
    llm, ledger = HashLLM(), Ledger(run, Budget(max_tokens=100))
    first = Completion(text="first", usage=Usage(calls=1))
    llm.failures = [LLMError("the rest was unusable", usage=Usage(calls=3, prompt_tokens=9), answers=[first])]
    with pytest.raises(ConfigError, match="does not say how many tokens it takes"):
        await CachedLLM(llm, ledger).generate(ASK, n=2, sampling=SAMPLING)


async def one_at_a_time(request, writer):
    await answer(f"answer to {request['seed']}", usage={"prompt_tokens": 3, "completion_tokens": 1})(request, writer)


async def ask_for(path: Path, n: int, *, served: int, then=None, first_n: int = 0) -> tuple[list[str], Usage]:
    """Ask a server that gives one answer a request and then does something else; return the answers and the bill.

    If it then does nothing, it is no longer waited for as soon as nothing else is under way.
    """
    hung = []

    async def hang(request, writer):
        hung.append(request)
        if len(hung) == 2:
            asked.cancel()
        await asyncio.sleep(60)

    async with HostileServer([one_at_a_time] * served, otherwise=then or hang) as server:
        llm = HTTPLLM(base_url=server.base_url, model="m", concurrency=2, max_attempts=1)
        with RunFolder(path) as run:
            cached = CachedLLM(llm, Ledger(run))
            try:
                if first_n:
                    await cached.generate(ASK, n=first_n, sampling=SamplingParams(seed=7))
                asked = asyncio.create_task(cached.generate(ASK, n=n, sampling=SamplingParams(seed=7)))
                answers = await asked
            finally:
                await llm.close()
            return answer_texts(answers), usage_of(answers)


@pytest.mark.parametrize("first_n", [0, 2])
@pytest.mark.parametrize(("then", "error"), [(None, asyncio.CancelledError), (refusal(400), UnavailableError)])
async def test_a_group_that_was_cut_off_goes_on_where_it_was_and_buys_nothing_twice(tmp_path, then, error, first_n):
    undisturbed = await ask_for(tmp_path / "undisturbed", 12, served=12, first_n=first_n)
    for served in (4 + first_n, 2):
        with pytest.raises(error):
            await ask_for(tmp_path / "cut", 12, served=served, then=then, first_n=first_n)
    with RunFolder(tmp_path / "cut") as run:
        there = sum(len(entry.completions) for entry in run.read("completions", LedgerEntry))
        assert there == Ledger(run).spent.calls == 6 + first_n
    # Each time on another port: the server has moved.
    assert await ask_for(tmp_path / "cut", 12, served=12 - there, then=refusal(400)) == undisturbed


@pytest.mark.parametrize("surplus", [-1, 1])
async def test_a_model_that_gives_another_number_of_answers_is_an_error_and_nothing_is_stored(run, surplus):
    llm, ledger = HashLLM(), Ledger(run)
    llm.surplus = surplus
    with pytest.raises(LLMError, match=f"asked for 2 answers and gave {2 + surplus}"):
        await CachedLLM(llm, ledger).generate(ASK, n=2, sampling=SAMPLING)
    assert ledger.spent == Usage()


async def test_max_calls_is_exact_under_concurrency_and_stored_answers_remain_available(run):
    llm = HashLLM()
    cached = CachedLLM(llm, Ledger(run, Budget(max_calls=10)))
    questions = [[Message(role="user", content=f"Question {number}")] for number in range(50)]
    outcomes = await asyncio.gather(
        *(cached.generate(question, n=2, sampling=SAMPLING) for question in questions), return_exceptions=True
    )
    assert len(llm.requests) == 10
    assert sum(isinstance(outcome, BudgetError) for outcome in outcomes) == 40
    answered = next(i for i, outcome in enumerate(outcomes) if not isinstance(outcome, BudgetError))
    assert len(await cached.generate(questions[answered], n=2, sampling=SAMPLING)) == 2


async def test_text_that_cannot_be_stored_is_the_same_when_bought_and_when_read_again(tmp_path):
    with RunFolder(tmp_path) as run:
        llm = HashLLM()
        llm.prefix = "\ud800 "
        bought = await CachedLLM(llm, Ledger(run)).generate(ASK, n=2, sampling=SAMPLING)
    with RunFolder(tmp_path) as run:
        again = await CachedLLM(HashLLM(), Ledger(run)).generate(ASK, n=2, sampling=SAMPLING)
        odd_question = [Message(role="user", content="\ud800")]
        assert len(await CachedLLM(HashLLM(), Ledger(run)).generate(odd_question, n=1, sampling=SAMPLING)) == 1
    assert answer_texts(again) == answer_texts(bought)
    assert all(text.startswith("\N{REPLACEMENT CHARACTER} ") for text in answer_texts(bought))


def test_it_is_a_language_model_under_the_name_of_the_one_behind(run):
    cached: LLM = CachedLLM(HashLLM("tiny"), Ledger(run))
    assert cached.name == "tiny"
