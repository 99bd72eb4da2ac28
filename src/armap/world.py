"""Runs environments for planners, which know only histories."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from sys import getsizeof, intern
from typing import Generic, NamedTuple, TypeVar, TypeVarTuple

from armap.errors import EnvError, ReplayError
from armap.protocols import MAX_STEPS, Environment
from armap.types import Action, History, Observation, Task
from armap.workers import Host, Inline, Reached, Worker, sendable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_INLINE_ENVIRONMENTS = 128
"""Environments alive at once in this process, where nothing else is said."""
_WORKERS = 16
"""Most environments alive at once in processes of their own, where nothing else is said; a simulator may be large."""
_ENTRY_BYTES = 1400
"""About what Python takes for an entry of `_Recent` and its objects, besides texts."""


class _State(NamedTuple):
    """What identifies a state: the same build, task and actions always lead to the same observations."""

    build: str
    task: str
    actions: tuple[str, ...]

    def after(self, steps: int) -> _State:
        """Return the state after the first `steps` actions."""
        return _State(self.build, self.task, self.actions[:steps])


class WorldStatistics(NamedTuple):
    """What a world did until now."""

    executed_steps: int
    """Steps really executed, replayed ones included."""
    replayed_steps: int
    """Steps executed again on the way back to a state."""
    restored_snapshots: int
    """Saved states that were gone back to."""
    divergences: int
    """Replays that led elsewhere."""
    replaced_environments: int
    """Environments that broke, hung, died or diverged, or whose call was cancelled, and were closed."""


class LiveWorld:
    """A world over environments that are alive. For one event loop.

    What came of an action at a state, be it an error of the environment, is the answer to everybody who asks, also to
    those who ask while it is executed. Results used longest ago are forgotten when they take too much memory, and then
    executed again when they are asked for.

    An environment goes on from where it is parked. If none is parked where one is needed, it sets out from the nearest
    state on the way there at which one is parked or of which a snapshot is kept, parked ones first, or else from the
    start, and replays the rest; every replayed observation is compared to the recorded one.

    Args:
        make_environment: makes one more environment.
        build: what identifies what it makes, such as its class, version and settings.
        workers: whether every environment runs in a process of its own, or all in this one.
        environments: how many are alive at once; by default 128 in this process, and in workers one for each processor
            core that we may use, but 16 at most.
        step_timeout_s: how long a worker may take for a step.
        reset_timeout_s: how long a worker may take to make its environment, and to start a task.
        memory_bytes: about how much the results of actions may take, and the snapshots as much again.

    Raises:
        ConfigError: `make_environment` cannot be sent to a worker process.
    """

    def __init__(
        self,
        make_environment: Callable[[], Environment],
        *,
        build: str = "",
        workers: bool = False,
        environments: int | None = None,
        step_timeout_s: float = 60.0,
        reset_timeout_s: float = 300.0,
        memory_bytes: int = 512 * 2**20,
    ) -> None:
        self._make_host: Callable[[], Host] = lambda: Inline(make_environment)
        self._threads: ThreadPoolExecutor | None = None
        self._capacity = environments or _INLINE_ENVIRONMENTS
        if workers:
            made = sendable(make_environment)
            self._make_host = lambda: Worker(made, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s)
            self._capacity = environments or min(_cores(), _WORKERS)
            self._threads = ThreadPoolExecutor(self._capacity, thread_name_prefix="armap-world")
        self._build = build
        self._texts: dict[str, tuple[Task, str]] = {}
        # Without their snapshots, which are kept, and forgotten, apart.
        self._known: _Recent[Reached | EnvError] = _Recent(memory_bytes, _size)
        self._snapshots: _Recent[bytes] = _Recent(
            memory_bytes, lambda state, snapshot: len(snapshot) + 8 * len(state.actions)
        )
        self._running: dict[_State, asyncio.Future[None] | None] = {}
        # One permit per environment in use: whoever has one finds an environment parked or room for one more. In this
        # process only one is in use at a time.
        self._permits: AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(self._capacity) if workers else nullcontext()
        )
        self._hosts: set[Host] = set()
        self._parked: OrderedDict[_State, Host] = OrderedDict()
        self._idle: list[Host] = []
        self._executed: Counter[str] = Counter()
        self._replayed = self._restored = self._diverged = self._replaced = 0

    async def start(self, task: Task) -> History:
        """Return the empty history of `task`; see `armap.protocols.World`."""
        reached = await self._once(self._state(task, ()), task, None)
        return History(task=task, observation=reached.result.observation, state_name=reached.name)

    async def advance(self, history: History, action: Action) -> History:
        """Return `history` after one more action; see `armap.protocols.World`."""
        if history.stop_reason is not None:
            raise EnvError(f"task {history.task.id!r} has ended ({history.stop_reason}) and cannot go on")
        state = self._state(history.task, (*history.actions, action.text))
        reached = await self._once(state, history.task, history)
        result = reached.result
        ended = result.truncated or len(state.actions) >= MAX_STEPS
        return history.after(
            action,
            result.observation,
            env_reward=result.env_reward,
            stop_reason="terminated" if result.terminated else "truncated" if ended else None,
            metrics=result.metrics,
            state_name=reached.name,
        )

    def executed_steps(self, task: Task) -> int:
        """Return how many steps were really executed for `task` until now, replays included."""
        return self._executed[task.id]

    @property
    def statistics(self) -> WorldStatistics:
        """What was done until now, over all tasks."""
        return WorldStatistics(self._executed.total(), self._replayed, self._restored, self._diverged, self._replaced)

    def close(self) -> None:
        """Close every environment, whatever it is doing. The world is not used afterwards."""
        for host in self._hosts.difference(self._parked.values(), self._idle):
            host.kill()
        if self._threads is None:
            for host in self._hosts:
                host.close()
        else:
            list(self._threads.map(lambda host: host.close(), self._hosts))
            self._threads.shutdown()
        self._parked.clear()
        self._idle.clear()
        self._hosts.clear()

    def _state(self, task: Task, actions: tuple[str, ...]) -> _State:
        # One text for all states of a task, however many there are.
        written, text = self._texts.get(task.id, (None, ""))
        if written is not task:
            text = intern(task.model_dump_json())
            self._texts[task.id] = task, text
        return _State(self._build, text, actions)

    async def _once(self, state: _State, task: Task, history: History | None) -> Reached:
        """Return what came of the last action of `state`, or of the start; the first who asks executes it.

        Args:
            state: the state to be reached.
            task: its task.
            history: the state before, or None at the start.
        """
        while (known := self._known.get(state)) is None and state in self._running:
            # Whoever executes it may be cancelled; then the next one does it.
            if (end := self._running[state]) is None:
                end = self._running[state] = asyncio.get_running_loop().create_future()
            await asyncio.wait([end])
        if known is None:
            self._running[state] = None
            try:
                result, _, name = await self._reach(state, task, history)
                known = Reached(result, None, name)
            except EnvError as error:
                known = (ReplayError if isinstance(error, ReplayError) else EnvError)(str(error))
            finally:
                if (end := self._running.pop(state)) is not None:
                    end.set_result(None)
            self._known.keep(state, known)
        if isinstance(known, EnvError):
            # A new one for each, as an error keeps alive the frames it went through.
            raise type(known)(str(known))
        return known

    async def _reach(self, state: _State, task: Task, history: History | None) -> Reached:
        """Execute the last action of `state`, or the start, and park the environment there."""
        async with self._permits:
            in_use: list[Host] = []
            try:
                if history is None:
                    host = await self._spare(in_use)
                else:
                    host = await self._go_back(state.after(len(history.steps)), history, in_use)
                reached = await self._execute(host, task, state)
            except BaseException:
                for broken in in_use:
                    await self._discard(broken)
                raise
            if reached.result.terminated or reached.result.truncated:
                self._idle.append(host)
            else:
                # One may be there already if its result was forgotten in the meantime.
                if (other := self._parked.pop(state, None)) is not None:
                    self._idle.append(other)
                self._parked[state] = host
        return reached

    async def _go_back(self, state: _State, history: History, in_use: list[Host]) -> Host:
        """Return an environment at `state`, which is that of `history`; it is in use from now on."""
        for depth in range(len(history.steps), -1, -1):
            known = state.after(depth) if depth < len(history.steps) else state
            if (parked := self._parked.pop(known, None)) is not None:
                if parked.alive:
                    host = parked
                    in_use.append(host)
                    break
                # One that died while nobody used it is nobody's failure.
                await self._discard(parked)
            if (snapshot := self._snapshots.get(known)) is not None:
                host = await self._spare(in_use)
                await self._call(host, host.restore, snapshot)
                self._restored += 1
                break
        else:
            depth = -1
            host = await self._spare(in_use)
        for i in range(depth + 1, len(history.steps) + 1):
            self._replayed += i > 0
            seen = history.steps[i].observation if i < len(history.steps) else history.observation
            await self._execute(host, history.task, state.after(i), expected=seen)
        return host

    async def _spare(self, in_use: list[Host]) -> Host:
        """Return an environment that stands nowhere, or a new one, or if there is no room that used longest ago."""
        host = None
        while host is None and (self._idle or len(self._hosts) >= self._capacity):
            spare = self._idle.pop() if self._idle else self._parked.popitem(last=False)[1]
            if spare.alive:
                host = spare
            else:
                await self._discard(spare)
        if host is None:
            host = self._make_host()
            self._hosts.add(host)
        in_use.append(host)
        return host

    async def _execute(self, host: Host, task: Task, state: _State, *, expected: Observation | None = None) -> Reached:
        """Do the last action of `state` at the state before it, or start the task, and save the state.

        Args:
            host: where the environment runs.
            task: the task.
            state: the state to be reached.
            expected: what was seen there before, if this is a replay.
        """
        if not state.actions:
            reached = await self._call(host, host.reset, task)
        else:
            self._executed[task.id] += 1
            action = state.actions[-1]
            # Without the detour that a free environment would feel.
            reached = host.step(action) if self._threads is None else await self._call(host, host.step, action)
        found = reached.result.observation
        if (
            expected is not None
            and found != expected
            and not await self._call(host, host.same_observation, found, expected)
        ):
            self._diverged += 1
            raise ReplayError(
                f"task {task.id!r} did not replay: after {len(state.actions)} actions the environment now "
                f"{_difference(found, expected)} before"
            )
        if reached.snapshot is not None:
            self._snapshots.keep(state, reached.snapshot)
        return reached

    async def _call(self, host: Host, method: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Have `host` do something, without blocking the event loop if it is a worker."""
        if self._threads is None:
            return method(*arguments)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, method, *arguments)
        except asyncio.CancelledError:
            # Nobody knows which state it would be in.
            host.kill()
            raise

    async def _discard(self, host: Host) -> None:
        """Close an environment that nobody may use again."""
        if host not in self._hosts:
            return  # closed with the world
        self._replaced += 1
        try:
            if self._threads is None:
                host.close()
            else:
                # Closing goes on even if nobody waits for it any more.
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, host.close))
        finally:
            self._hosts.discard(host)


class _Recent(Generic[T]):
    """Keeps what was used last, up to a limit.

    Args:
        limit_bytes: about how much may be kept.
        size: returns about how many bytes it takes to keep something for a state.
    """

    def __init__(self, limit_bytes: int, size: Callable[[_State, T], int]) -> None:
        self._limit_bytes = limit_bytes
        self._size = size
        self._bytes = 0
        self._entries: OrderedDict[_State, T] = OrderedDict()

    def get(self, state: _State) -> T | None:
        """Return what is kept for `state`."""
        entry = self._entries.get(state)
        if entry is not None:
            self._entries.move_to_end(state)
        return entry

    def keep(self, state: _State, value: T) -> None:
        """Keep `value` for `state`, in place of what was kept for it."""
        if (old := self._entries.pop(state, None)) is not None:
            self._bytes -= self._size(state, old)
        self._entries[state] = value
        self._bytes += self._size(state, value)
        while self._bytes > self._limit_bytes:
            self._bytes -= self._size(*self._entries.popitem(last=False))


def _cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _size(state: _State, known: Reached | EnvError) -> int:
    """Return about how many bytes it takes to keep `known` for `state`."""
    size = _ENTRY_BYTES + 8 * len(state.actions)
    if isinstance(known, Reached):
        seen = known.result.observation
        size += getsizeof(seen.text)
        if seen.actions:
            size += sum(map(getsizeof, seen.actions))
    return size


def _difference(found: Observation, expected: Observation) -> str:
    if found.text == expected.text:
        return f"{'shows another picture' if found.actions == expected.actions else 'lists other actions'} than"
    pairs = zip(found.text, expected.text, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found.text), len(expected.text)))
    at = max(0, same - 40)
    return f"says {found.text[at : at + 80]!r}, and it said {expected.text[at : at + 80]!r}"
