"""Synthesize: turn what the agent did into preference pairs, without labels and without the environment's reward.

Each trajectory becomes the chosen side of an instruction rewritten to fit it, and is set against trajectories that came
to something else (`negatives.py`). Both sides are executed again under the rewritten task; a judge may be asked; and at
last all pairs are looked at together (`selection.py`). What does not pass a check is kept with the reason.

Source: ARMAP, automatic data generation; the verification is ours (docs/paper_map.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from random import Random
from typing import Literal, NamedTuple

from pydantic import Field

from armap.engines.local import each
from armap.errors import LLMError, RunError
from armap.pipeline.funnel import ORACLE, UNVERIFIED
from armap.pipeline.kept_out import KeptOut
from armap.pipeline.negatives import ORIGINS, Discard, Neighbourhood, Origin, altered, execute, other_attempts
from armap.pipeline.selection import gives_away, select
from armap.pipeline.verdicts import PairJudge
from armap.pipeline.writers import InstructionWriter
from armap.protocols import Policy, World
from armap.seeds import rng_for
from armap.store import RunFolder
from armap.thoughts import CUT_SHORT
from armap.types import DiscardedPair, PreferencePair, Record, Task, Trajectory, Usage

_ORACLE_ORIGIN = "higher_reward"
_ALTERATIONS = 3
"""Changed actions tried before a pair is given up: many changes come to the same thing in the end."""


class SynthesisSettings(Record):
    """How preference pairs are made."""

    labels: Literal["hindsight", "oracle"] = "hindsight"
    """`oracle` is an ablation: of two attempts at a task the one that the environment pays more is the chosen one."""
    origins: tuple[Origin, ...] = ORIGINS
    """How rejected sides are made."""
    rejected: int = Field(default=1, gt=0)
    """Rejected sides of each origin for a chosen one."""
    verify: bool = True
    """False is an ablation: sides may come to the same thing, and pairs may be alike."""


async def synthesize(
    run: RunFolder,
    *,
    settings: SynthesisSettings,
    writer: InstructionWriter,
    judge: PairJudge | None,
    world: World,
    make_policy: Callable[[], Policy],
    evaluation_tasks: Iterable[Task],
    seed: int,
    concurrency: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Append to `pairs.jsonl` what can be made of `trajectories.jsonl`, and to `discarded.jsonl` what cannot, and why.

    Pairs that are sound for themselves are kept in `drafts.jsonl` until all can be looked at together.

    Args:
        run: the run folder.
        settings: what is made.
        writer: who writes the instructions.
        judge: who compares the sides of each pair; nobody does if None.
        world: where both sides are executed.
        make_policy: makes a policy, which changes actions and goes on after them.
        evaluation_tasks: tasks that no pair may be about.
        seed: decides what is changed, and against what a trajectory is set.
        concurrency: how many source tasks are worked on at once.
        on_progress: told how many of how many source tasks are done.

    Raises:
        BudgetError: the run may not spend more; what is finished is stored.
    """
    there = {pair.id for pair in run.read("drafts", PreferencePair)}
    there |= {pair.id for pair in run.read("discarded", DiscardedPair)}
    kept_out = KeptOut(evaluation_tasks, world)
    by_source: dict[str, list[Trajectory]] = {}
    for trajectory in sorted(run.read("trajectories", Trajectory), key=lambda trajectory: trajectory.id):
        by_source.setdefault(trajectory.task.id, []).append(trajectory)
    makers = {
        source: _PairMaker(attempts, settings, writer, judge, world, make_policy(), kept_out, seed)
        for source, attempts in by_source.items()
    }
    todo = [source for source, maker in makers.items() if not there.issuperset(maker.names)]

    async def write(source: str) -> None:
        await makers[source].write()

    async def make(source: str) -> None:
        async for made in makers[source].make(neighbourhood, there):
            run.append("drafts" if isinstance(made, PreferencePair) else "discarded", made)

    # The nearest neighbour may come from anywhere, so all are written about before any pair is made.
    writing = list(makers) if todo else []
    total = len(writing) + len(todo)
    await each(writing, write, concurrency=concurrency, on_progress=lambda done, _: on_progress(done, total))
    fulfilled = (one for maker in makers.values() for one in maker.chosen())
    neighbourhood = Neighbourhood(sorted(fulfilled, key=lambda one: one.id))
    await each(todo, make, concurrency=concurrency, on_progress=lambda done, _: on_progress(len(writing) + done, total))
    _select(run, verify=settings.verify, seed=seed)


def _select(run: RunFolder, *, verify: bool, seed: int) -> None:
    """Append the drafts that can be used together to the pairs, and the others to what was discarded.

    It depends on nothing but the drafts, so one that was interrupted goes on as if it had not been.
    """
    drafts = run.read("drafts", PreferencePair)
    pairs, refused = select(drafts, seed=seed) if verify else (sorted(drafts, key=lambda pair: pair.id), {})
    decided = {pair.id for pair in run.read("pairs", PreferencePair)}
    decided |= {pair.id for pair in run.read("discarded", DiscardedPair)}
    for draft in drafts:
        if draft.id in refused and draft.id not in decided:
            check, reason = refused[draft.id]
            run.append(
                "discarded",
                DiscardedPair(id=draft.id, origin=draft.origin, check=check, reason=reason, usage=draft.usage),
            )
    for pair in pairs:
        if pair.id not in decided:
            run.append("pairs", pair)


class _Chosen(NamedTuple):
    """An attempt under the instruction that it fulfils."""

    trajectory: Trajectory
    writer: str


class _PairMaker:
    """Makes the pairs of one source task."""

    def __init__(
        self,
        attempts: Sequence[Trajectory],
        settings: SynthesisSettings,
        writer: InstructionWriter,
        judge: PairJudge | None,
        world: World,
        policy: Policy,
        kept_out: KeptOut,
        seed: int,
    ) -> None:
        self._attempts = attempts
        self._settings = settings
        self._writer = writer
        self._judge = judge
        self._world = world
        self._policy = policy
        self._kept_out = kept_out
        self._seed = seed
        self._origins = (_ORACLE_ORIGIN,) if settings.labels == "oracle" else settings.origins
        self._written: dict[str, _Chosen | Discard] = {}
        self._writing: dict[str, Usage] = {}
        self._spent = self._acted = Usage()

    @property
    def names(self) -> list[str]:
        """Return the ids of all pairs that are to be made or discarded."""
        return [name for attempt in self._attempts for origin in self._origins for name in self._names(attempt, origin)]

    def chosen(self) -> list[Trajectory]:
        """Return the attempts under the instructions they fulfil."""
        return [one.trajectory for one in self._written.values() if isinstance(one, _Chosen)]

    async def write(self) -> None:
        """Write for every attempt the instruction it fulfils."""
        for attempt in self._attempts:
            try:
                self._written[attempt.id] = await self._write(attempt)
            except Discard as discard:
                self._written[attempt.id] = discard
            except RunError as error:
                self._written[attempt.id] = _failed(error)
                # Whatever else breaks, breaks after the instruction was written and paid for.
                if isinstance(error, LLMError):
                    self._writing[attempt.id] = error.usage

    async def make(
        self, neighbourhood: Neighbourhood, there: set[str]
    ) -> AsyncIterator[PreferencePair | DiscardedPair]:
        """Yield a pair, or why there is none, for every id that is not there.

        Args:
            neighbourhood: all trajectories of the run under the instructions they fulfil.
            there: ids that are decided.
        """
        for attempt in self._attempts:
            written = self._written[attempt.id]
            # What the instruction cost is part of what is made of the attempt first, in whichever run that was.
            begun = any(name in there for origin in self._origins for name in self._names(attempt, origin))
            self._spent = Usage() if begun else self._writing.get(attempt.id, Usage())
            for origin in self._origins:
                names = self._names(attempt, origin)
                if there.issuperset(names):
                    continue
                async for made in self._make(attempt, written, origin, names, neighbourhood):
                    if made.id not in there:
                        yield made

    def _names(self, attempt: Trajectory, origin: str) -> list[str]:
        first = f"{attempt.id}/{origin}"
        return [first, *(f"{first}/{number}" for number in range(2, self._settings.rejected + 1))]

    async def _write(self, attempt: Trajectory) -> _Chosen:
        """Return an attempt under the instruction that fits it."""
        if attempt.failure is not None:
            raise Discard("attempt", "the attempt was failed")
        if next(other for other in self._attempts if other.actions == attempt.actions).id != attempt.id:
            raise Discard("attempt", "the same attempt again")
        if self._settings.labels == "oracle":
            if await self._kept_out.holds(attempt):
                raise Discard("instruction", "the instruction is an evaluation task")
            return _Chosen(attempt, "task")
        task, self._writing[attempt.id] = await self._writer.rewrite(attempt)
        if task is None:
            raise Discard("attempt", "the attempt came to nothing")
        if self._writer.may_leak and gives_away(task.instruction, attempt.task.instruction, attempt.actions):
            raise Discard("instruction", "the instruction gives an action away")
        chosen = await execute(self._world, task, [step.action for step in attempt.steps])
        if (chosen.final_observation, chosen.stop_reason) != (attempt.final_observation, attempt.stop_reason):
            raise Discard("outcome", "the attempt did not repeat")
        if await self._kept_out.holds(chosen):
            raise Discard("instruction", "the instruction is an evaluation task")
        return _Chosen(chosen.model_copy(update={"id": attempt.id}), self._writer.name)

    async def _make(
        self,
        attempt: Trajectory,
        written: _Chosen | Discard,
        origin: str,
        names: Sequence[str],
        neighbourhood: Neighbourhood,
    ) -> AsyncIterator[PreferencePair | DiscardedPair]:
        """Yield a record for each of the names."""
        waiting = list(names)
        try:
            if isinstance(written, Discard):
                raise written
            rng = rng_for(self._seed, "synthesize", attempt.id, origin)
            async for rejected in self._rejected(attempt, written.trajectory, origin, rng, neighbourhood):
                name = waiting.pop(0)
                yield await self._judged(self._pair(name, written, rejected, origin, attempt.task.id))
                if not waiting:
                    return
            raise Discard("outcome", _NOTHING_ELSE[origin])
        except Discard as discard:
            for name in waiting:
                yield self._discarded(name, origin, discard)
        except RunError as error:
            for name in waiting:
                yield self._discarded(name, origin, _failed(error))

    async def _rejected(
        self, attempt: Trajectory, chosen: Trajectory, origin: str, rng: Random, neighbourhood: Neighbourhood
    ) -> AsyncIterator[Trajectory]:
        """Yield trajectories under the chosen one's task that came to something else, each once."""
        if origin == _ORACLE_ORIGIN:
            for other in other_attempts(chosen, self._attempts, rng):
                if other.env_reward < attempt.env_reward:
                    yield other
            return
        found: set[tuple[str, ...]] = set()
        async for one in self._tried(attempt, chosen, origin, rng, neighbourhood):
            if one.actions not in found and not (self._settings.verify and self._writer.same_outcome(one, chosen)):
                found.add(one.actions)
                yield one

    async def _tried(
        self, attempt: Trajectory, chosen: Trajectory, origin: str, rng: Random, neighbourhood: Neighbourhood
    ) -> AsyncIterator[Trajectory]:
        """Yield trajectories under the chosen one's task, whatever they came to."""
        if origin == "altered_action":
            for _ in range(_ALTERATIONS * self._settings.rejected):
                changed = await altered(self._world, self._policy, chosen, rng)
                if changed is not None:
                    yield changed
            return
        if origin == "other_outcome":
            # Those that came to the same thing as the attempt need not be executed to find that out.
            others = other_attempts(chosen, self._attempts, rng)
            others = [one for one in others if not (self._settings.verify and self._writer.same_outcome(one, attempt))]
        else:
            others = list(neighbourhood.of(chosen))
        for other in others:
            try:
                yield await execute(self._world, chosen.task, [step.action for step in other.steps])
            except Discard:
                continue

    def _pair(
        self, name: str, chosen: _Chosen, rejected: Trajectory, origin: str, source_task_id: str
    ) -> PreferencePair:
        verified_by = "execution" if self._settings.verify else UNVERIFIED
        return PreferencePair(
            id=name,
            task=chosen.trajectory.task,
            chosen=chosen.trajectory.model_copy(update={"id": f"{name}/chosen"}),
            rejected=rejected.model_copy(update={"id": f"{name}/rejected"}),
            source_task_id=source_task_id,
            origin=origin,
            instruction_writer=chosen.writer,
            verified_by=ORACLE if origin == _ORACLE_ORIGIN else verified_by,
        )

    async def _judged(self, pair: PreferencePair) -> PreferencePair | DiscardedPair:
        """Return a pair with what the judge says and what it cost, or why it is no pair."""
        if self._judge is not None:
            try:
                verdict = await self._judge.compare(pair.chosen, pair.rejected)
            except LLMError as error:
                self._spent += error.usage
                return self._discarded(pair.id, pair.origin, _failed(error))
            self._spent += verdict.usage
            if verdict.preferred != (True, True):
                says = "contradicts itself" if any(verdict.preferred) else "prefers the rejected side"
                return self._discarded(pair.id, pair.origin, Discard("judge", f"the judge {says}"))
            pair = pair.model_copy(update={"judge": self._judge.name})
        return pair.model_copy(update={"usage": self._take()})

    def _discarded(self, name: str, origin: str, discard: Discard) -> DiscardedPair:
        return DiscardedPair(id=name, origin=origin, check=discard.check, reason=discard.reason, usage=self._take())

    def _take(self) -> Usage:
        """Return what was spent since it was asked last, by whoever was asked."""
        acted = self._policy.usage
        taken, self._spent, self._acted = self._spent + (acted - self._acted), Usage(), acted
        return taken


def _failed(error: RunError) -> Discard:
    """Return why nothing was made where something broke, in words that many may have in common."""
    cut = isinstance(error, LLMError) and error.cut
    return Discard("failure", CUT_SHORT if cut else f"failed: {type(error).__name__}")


_NOTHING_ELSE = {
    "other_outcome": "no attempt came to anything else",
    "altered_action": "no changed action came to anything else",
    "near_neighbour": "nothing that fulfils a like instruction came to anything else",
    _ORACLE_ORIGIN: "no attempt was paid less",
}
