"""Asks the questions in processes of their own, so that an environment that hangs or dies is a finding too."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Thread
from typing import Any, NamedTuple

from armap.envs.check.bench import Bench, Finding, Wrong, shown_text
from armap.envs.check.contract import QUESTIONS, Setting, look_at_class, play_episodes
from armap.envs.own import import_environment
from armap.errors import ConfigError
from armap.protocols import MAX_STEPS, Environment
from armap.seeds import rng_for
from armap.types import Record, Task, Trajectory

_START_TIMEOUT_S = 120.0
"""How long a process may take to start and import."""

_IS_COMPLETE = "the class has tasks, and what else the command line needs"
_PLAYS = "an episode can be played to its end"


class Checked(Record):
    """What came of one question."""

    claim: str
    """What must hold, in words."""
    finding: Finding | None = None
    """What is wrong, or None if it holds."""


class _Inquiry(NamedTuple):
    """What a process needs to know to ask; it is pickled."""

    make: Callable[[], Environment]
    tasks: Sequence[Task]
    examples: Sequence[Trajectory]
    max_steps: int
    seed: int


class _Doing(NamedTuple):
    """What is about to be done, for which question."""

    question: int
    what: str


class _Kept(NamedTuple):
    """Something to keep for later questions."""

    value: Any


class _Refused(NamedTuple):
    """The user asked for something impossible."""

    reason: str


class _Over(NamedTuple):
    """Everything was asked."""


_Message = _Doing | Checked | _Kept | _Refused | _Over
_Tell = Callable[[_Message], None]


def check_class(
    name: str, *, seed: int = 0, episodes: int = 5, max_steps: int = MAX_STEPS, timeout_s: float = 60.0
) -> Iterator[Checked]:
    """Ask the environment class that `module:Class` names; see `check_environment`.

    Its code runs in other processes only.

    Raises:
        ConfigError: there is no such class, it has no tasks, or it says that something it needs is not installed.
    """
    found: list[tuple[list[Task], tuple[Trajectory, ...]]] = []
    yield from _supervised(_look, (name,), [_IS_COMPLETE], timeout_s, found.append)
    for tasks, examples in found:
        yield from check_environment(
            partial(_make, name),
            tasks,
            examples=examples,
            seed=seed,
            episodes=episodes,
            max_steps=max_steps,
            timeout_s=timeout_s,
        )


def check_environment(
    make: Callable[[], Environment],
    tasks: Sequence[Task],
    *,
    examples: Sequence[Trajectory] = (),
    seed: int = 0,
    episodes: int = 5,
    max_steps: int = MAX_STEPS,
    timeout_s: float = 60.0,
) -> Iterator[Checked]:
    """Ask an environment everything that planners rely on.

    Episodes are played at random in one process and everything else is asked in another, so what differs from process
    to process is found. Later questions build on earlier ones: the first finding explains most of those after it.

    Args:
        make: makes an environment; what it makes must behave alike, and it must be possible to pickle it.
        tasks: tasks of the environment; a few of them are tried.
        examples: solved tasks; their actions are tried where the environment does not list any.
        seed: decides which tasks and actions are tried.
        episodes: how many tasks are tried.
        max_steps: every episode must have ended by then.
        timeout_s: how long one call may take.

    Yields:
        What came of each question that concerns this environment, as soon as it is known. Where no episode can be
        played, nothing more is asked.

    Raises:
        ConfigError: the environment says that something it needs is not installed.
    """
    chosen = rng_for(seed, "tasks").sample(list(tasks), min(episodes, len(tasks)))
    inquiry = _Inquiry(make, chosen, tuple(examples), max_steps, seed)
    if (finding := _refusal_to_travel(inquiry)) is not None:
        yield Checked(claim="it can be sent to a worker process", finding=finding)
        return
    recorded: list[list[Trajectory]] = []
    yield from _supervised(_play, (inquiry,), [_PLAYS], timeout_s, recorded.append)
    claims = [question.claim for question in QUESTIONS]
    first = 0 if recorded else None
    while first is not None:
        first = yield from _supervised(_ask, (inquiry, *recorded, first), claims, timeout_s)


def in_words(finding: Finding) -> str:
    """Return a finding as a few lines of text."""
    where = f"\nWhere:    {finding.where}" if finding.where else ""
    return (
        f"Done:     {finding.done}\nExpected: {finding.expected}\nCame:     {finding.came}{where}\n"
        f"Repair:   {finding.repair}"
    )


def _refusal_to_travel(inquiry: _Inquiry) -> Finding | None:
    try:
        pickle.dumps(inquiry)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return Finding(
            done="send what makes the environment to another process",
            expected="it can be pickled, as environments run in worker processes",
            came=shown_text(str(error)),
            repair="name a class or function that stands at the top of a module, not a lambda or an inner one",
        )
    return None


# What runs in another process


def _make(name: str) -> Environment:
    return import_environment(name).make()


def _look(tell: _Tell, name: str) -> None:
    try:
        tell(_Kept(look_at_class(name)))
        tell(Checked(claim=_IS_COMPLETE))
    except Wrong as wrong:
        tell(Checked(claim=_IS_COMPLETE, finding=wrong.finding))


def _play(tell: _Tell, inquiry: _Inquiry) -> None:
    bench = Bench(inquiry.make, partial(_announce, tell, 0))
    try:
        episodes = play_episodes(_setting(inquiry, bench, "play", ()))
        bench.close()
        tell(_Kept(episodes))
        tell(Checked(claim=_PLAYS))
    except Wrong as wrong:
        tell(Checked(claim=_PLAYS, finding=wrong.finding))


def _ask(tell: _Tell, inquiry: _Inquiry, recorded: list[Trajectory], first: int) -> None:
    for number, question in enumerate(QUESTIONS[first:], start=first):
        bench = Bench(inquiry.make, partial(_announce, tell, number))
        finding = None
        try:
            if not question.concerns(bench.environment()):
                continue
            question.ask(_setting(inquiry, bench, question.claim, recorded))
            bench.close()
        except Wrong as wrong:
            finding = wrong.finding
        tell(Checked(claim=question.claim, finding=finding))


def _announce(tell: _Tell, question: int, what: str) -> None:
    tell(_Doing(question, what))


def _setting(inquiry: _Inquiry, bench: Bench, what_for: str, recorded: Sequence[Trajectory]) -> Setting:
    return Setting(
        bench=bench,
        tasks=inquiry.tasks,
        examples=inquiry.examples,
        max_steps=inquiry.max_steps,
        rng=rng_for(inquiry.seed, what_for),
        recorded=recorded,
    )


def _run(sender: Connection, work: Callable[..., None], *arguments: object) -> None:
    # A group of its own, so that what the environment starts can be ended with it.
    os.setsid()
    Thread(target=_end_with_parent, daemon=True).start()
    # What the environment prints must not mix with what the command prints.
    os.dup2(2, 1)
    try:
        work(sender.send, *arguments)
        sender.send(_Over())
    except ConfigError as error:
        sender.send(_Refused(str(error)))


def _end_with_parent() -> None:
    """End our process group when the process that started us has ended, however it did."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


# What keeps that process


def _supervised(
    work: Callable[..., None],
    arguments: tuple[object, ...],
    claims: Sequence[str],
    timeout_s: float,
    keep: Callable[[Any], None] = lambda _: None,
) -> Generator[Checked, None, int | None]:
    """Yield what `work` finds out in another process; return the question to go on with, if it hung or died."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, work, *arguments))
    process.start()
    sender.close()
    doing, patience_s = _Doing(0, "import what makes the environment"), _START_TIMEOUT_S
    try:
        while receiver.poll(patience_s):
            message: _Message = receiver.recv()
            patience_s = timeout_s
            if isinstance(message, _Over):
                return None
            if isinstance(message, _Refused):
                raise ConfigError(message.reason)
            if isinstance(message, _Doing):
                doing = message
            elif isinstance(message, _Kept):
                keep(message.value)
            else:
                yield message
        came, repair = f"nothing for {patience_s:g} seconds", "look for an endless loop, or for input that is awaited"
    except EOFError:
        process.join()
        came = f"the process ended with exit code {process.exitcode}"
        repair = "look at what was printed before; an environment must not end its process"
    finally:
        _end(process)
        receiver.close()
    finding = Finding(done=doing.what, expected="an answer", came=came, repair=repair)
    yield Checked(claim=claims[doing.question], finding=finding)
    return doing.question + 1 if doing.question + 1 < len(claims) else None


def _end(process: SpawnProcess) -> None:
    """End a process and all it started, whatever they are doing."""
    assert process.pid is not None
    process.join(1.0)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    process.close()
