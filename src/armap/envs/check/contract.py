"""The questions every environment is asked, one function each; a function that returns has found nothing wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from random import Random
from typing import NamedTuple

from armap.envs.check.bench import Bench, Log, Watched, Wrong, shown
from armap.envs.own import import_environment
from armap.protocols import StepResult
from armap.types import Action, Observation, Step, StopReason, Task, Trajectory

_NONSENSE = "no such action 7391"
_ROUNDING = 1e-6
"""What sums of payments may be beside 0 to 1."""
_ODD_TEXTS = ("", " ", "\n", "\0\x07\x1b[2J", "行動 ☃ é", "{}%s\\", "\ud800", "1e309", "(" * 10_000, "a" * 100_000)
_LONGEST_ANSWER_CHARS = 50_000
_LONGEST_RULES_CHARS = 2000
_SAMPLED_LISTED_ACTIONS = 24


class Question(NamedTuple):
    """Something that must hold."""

    claim: str
    """What must hold, in words."""
    ask: Callable[[Setting], None]
    """Tries it; raises `armap.envs.check.bench.Wrong` if it does not hold."""
    concerns: Callable[[Watched], bool] = lambda _: True
    """Whether it concerns this environment."""


class Setting(NamedTuple):
    """What a question works with."""

    bench: Bench
    """Makes environments."""
    tasks: Sequence[Task]
    """Tasks to try."""
    examples: Sequence[Trajectory]
    """Solved tasks; their actions are tried where none are listed."""
    max_steps: int
    """Every episode must have ended by then."""
    rng: Random
    """Decides every draw."""
    recorded: Sequence[Trajectory] = ()
    """Episodes that were played in another process, at least one."""


class _Answer(NamedTuple):
    """What must be the same whenever the same actions are done."""

    observation: Observation
    env_reward: float
    end: StopReason | None


def look_at_class(name: str) -> tuple[list[Task], tuple[Trajectory, ...]]:
    """Import the environment class that `module:Class` names, and return its tasks and examples.

    Raises:
        ConfigError: there is no such class, or it has no tasks, or `rules` or `examples` of another type.
        Wrong: what it has is not as it should be.
    """
    log = Log(lambda _: None)
    own = log.call(f"import {name}", import_environment, name)
    log.require(
        isinstance(own.rules, str) and 0 < len(own.rules.strip()) < _LONGEST_RULES_CHARS,
        expected=f"rules is a text of at most {_LONGEST_RULES_CHARS} characters",
        came=f"it is {shown(own.rules)}",
        repair="say in a few sentences what an action is and what it looks like; every request carries this text",
    )
    split_of: dict[str, str] = {}
    tasks: list[Task] = []
    for split in ("train", "test"):
        for task in log.call(f"tasks({split!r})", lambda split=split: list(own.tasks(split))):
            log.require(
                isinstance(task, Task) and task.id not in split_of,
                expected="tasks(split) returns armap.types.Task records, each with an id of its own",
                came=f"it returned {shown(task)}",
                repair="give every task of both splits another id; no task may be in both",
            )
            split_of[task.id] = split
            tasks.append(task)
    log.require(
        {"train", "test"} <= set(split_of.values()),
        expected='there are tasks for the splits "train" and "test"',
        came=f"there are {len(tasks)}, all in {sorted(set(split_of.values()))}",
        repair="return at least one task for each split; tasks of split test measure what was learned on train",
    )
    return tasks, own.examples


def play_episodes(setting: Setting) -> list[Trajectory]:
    """Play one episode of each task at random, mostly with actions that make sense."""
    watched = setting.bench.environment()
    watched.require(
        len({task.id for task in setting.tasks}) == len(setting.tasks) > 0,
        expected="there are tasks, each with an id of its own",
        came=f"the ids are {shown([task.id for task in setting.tasks])}",
        repair="let tasks() return at least one task, and make the ids differ",
    )
    return [_play(watched, setting, task) for task in setting.tasks]


def _play(watched: Watched, setting: Setting, task: Task) -> Trajectory:
    known = [action for example in setting.examples for action in example.actions] or ["look"]
    observation = watched.reset(task)
    steps: list[Step] = []
    while True:
        text = setting.rng.choice(observation.actions or known) if setting.rng.random() < 0.9 else _NONSENSE
        result = watched.step(text)
        steps.append(Step(observation=observation, action=Action(text=text), env_reward=result.env_reward))
        observation = result.observation
        if end := _end(result):
            paid = sum(step.env_reward for step in steps)
            watched.require(
                -_ROUNDING <= paid <= 1 + _ROUNDING,
                expected="an episode is paid from 0 to 1 in all, as success is shown in percent",
                came=f"it is paid {paid:g}",
                repair="divide env_reward by the most that an episode can pay, and pay no less than 0 in all",
            )
            return Trajectory(
                id=task.id,
                task=task,
                steps=tuple(steps),
                final_observation=observation,
                stop_reason=end,
                metrics=dict(result.metrics),
            )
        watched.require(
            len(steps) < setting.max_steps,
            expected=f"every episode ends, also one of random actions, within {setting.max_steps} steps",
            came="it goes on",
            repair="count the steps and return truncated=True at a limit",
        )


def _end(result: StepResult) -> StopReason | None:
    return "terminated" if result.terminated else "truncated" if result.truncated else None


def _answers(watched: Watched, task: Task, actions: Sequence[str]) -> Iterator[_Answer]:
    """Yield what the environment says to a reset and to each action, until the episode ends."""
    yield _Answer(watched.reset(task), 0.0, None)
    yield from _continued(watched, actions)


def _continued(watched: Watched, actions: Sequence[str]) -> Iterator[_Answer]:
    for action in actions:
        result = watched.step(action)
        yield _Answer(result.observation, float(result.env_reward), _end(result))
        if result.terminated or result.truncated:
            return


def _recorded_answers(episode: Trajectory) -> list[_Answer]:
    later = [*(step.observation for step in episode.steps[1:]), episode.final_observation]
    ends = [None] * (len(later) - 1) + [episode.stop_reason]
    paid = (step.env_reward for step in episode.steps)
    return [_Answer(episode.steps[0].observation, 0.0, None), *map(_Answer, later, paid, ends)]


def _require_same(
    watched: Watched, found: Iterator[_Answer], before: Sequence[_Answer], expected: str, repair: str
) -> list[_Answer]:
    """Return what the environment answers now, if it is what it answered before."""
    answers: list[_Answer] = []
    try:
        answers.extend(found)
    except Wrong as wrong:
        # It raised nothing before, so what has been done since is the cause.
        raise Wrong(wrong.finding.model_copy(update={"expected": expected, "repair": repair})) from wrong
    for step, (now, then) in enumerate(zip(answers, before, strict=False)):
        pairs = {
            "end": (now.end, then.end),
            "env_reward": (now.env_reward, then.env_reward),
            "observation": (now.observation, then.observation),
        }
        if watched.same(now.observation, then.observation):
            del pairs["observation"]
        for name, (this, that) in pairs.items():
            watched.require(
                this == that,
                expected=expected,
                came=f"after {step} actions the {name} is {_told(this, that)}",
                repair=repair,
            )
    return answers


def _told(this: object, that: object) -> str:
    """Return both of two things that differ, where they begin to."""
    if isinstance(this, Observation) and isinstance(that, Observation):
        if this.text == that.text:
            name = "actions" if this.actions != that.actions else "image"
            return f"other {name}: {shown(getattr(this, name))}, and before {shown(getattr(that, name))}"
        same = next((i for i, (a, b) in enumerate(zip(this.text, that.text, strict=False)) if a != b), 0)
        start = max(0, same - 20)
        this, that = this.text[start:], that.text[start:]
    return f"{shown(this)}, and before it was {shown(that)}"


def _repeats(setting: Setting) -> None:
    for episode in setting.recorded:
        one, other = setting.bench.environment(), setting.bench.environment()
        first = list(_answers(one, episode.task, episode.actions))
        _require_same(
            other,
            _answers(other, episode.task, episode.actions),
            first,
            "the same task and actions give the same in every environment that is made",
            "draw every random number from random.Random(task.seed) made in reset(), and keep nothing in the class, "
            "the module or files",
        )
        _require_same(
            one,
            iter(first),
            _recorded_answers(episode),
            "the same task and actions give the same in another process",
            "do not let the order of a set, hash(), id(), the time or what ran before decide anything; sort sets",
        )
        setting.bench.close()


def _stands_alone(setting: Setting) -> None:
    episode, neighbour = setting.recorded[0], setting.recorded[-1]
    one, other = setting.bench.environment(), setting.bench.environment()
    beside = _answers(other, neighbour.task, neighbour.actions)
    in_turn = (answer for answer, _ in zip_longest(_answers(one, episode.task, episode.actions), beside) if answer)
    _require_same(
        one,
        in_turn,
        _recorded_answers(episode),
        "two environments used in turn behave as each alone",
        "keep the state in self and random numbers in a random.Random of its own, not in the class or the module",
    )


def _starts_again(setting: Setting) -> None:
    watched = setting.bench.environment()
    for before, episode in zip(setting.recorded, reversed(setting.recorded), strict=True):
        for name, length in (("after", len(before.actions)), ("in the middle of", len(before.actions) // 2)):
            list(_answers(watched, before.task, before.actions[:length]))
            _require_same(
                watched,
                _answers(watched, episode.task, episode.actions),
                _recorded_answers(episode),
                f"reset() {name} an episode starts a task as in a new environment",
                "set every attribute anew in reset(), also those that step() changes",
            )


def _refuses_out_of_turn(setting: Setting) -> None:
    repair = "raise armap.errors.EnvError in step() where no episode is under way"
    watched, episode = setting.bench.environment(), setting.recorded[0]
    watched.require(
        watched.refuses(episode.actions[0]),
        expected="step() before the first reset() raises EnvError",
        came="it gave an answer",
        repair=repair,
    )
    list(_answers(watched, episode.task, episode.actions))
    watched.require(
        watched.refuses(episode.actions[-1]),
        expected="step() after the end of an episode raises EnvError",
        came="it gave an answer",
        repair=repair,
    )
    watched.reset(episode.task)


def _answers_odd_texts(setting: Setting) -> None:
    watched, task = setting.bench.environment(), setting.recorded[0].task
    for text in _ODD_TEXTS:
        watched.reset(task)
        answer = watched.step(text).observation.text
        watched.require(
            len(answer) < _LONGEST_ANSWER_CHARS,
            expected="a very long action is not repeated in the observation",
            came=f"the observation has {len(answer):,} characters",
            repair="cut what you repeat of an action",
        )


def _says_what_is_invalid(setting: Setting) -> None:
    watched, task = setting.bench.environment(), setting.recorded[0].task
    before = watched.reset(task)
    if before.actions is None:
        return
    result = watched.step(_NONSENSE)
    watched.require(
        result.observation != before,
        expected=f"the observation after {shown(_NONSENSE)} says that there is no such action",
        came="it is the same observation as before, so an agent cannot learn what went wrong",
        repair="begin the observation with a sentence such as: Illegal action: write one of those listed.",
    )


def _obeys_what_it_lists(setting: Setting) -> None:
    watched, left = setting.bench.environment(), _SAMPLED_LISTED_ACTIONS
    for episode in setting.recorded:
        at = setting.rng.randrange(len(episode.steps))
        listed = episode.steps[at].observation.actions or ()
        for action in setting.rng.sample(listed, min(left, len(listed), 8)):
            left -= 1
            refusal, answer = (
                list(_answers(watched, episode.task, [*episode.actions[:at], text]))[-1] for text in (_NONSENSE, action)
            )
            plain = refusal.observation.text.replace(_NONSENSE, action)
            watched.require(
                answer.end is not None or answer.observation.text not in (plain, refusal.observation.text),
                expected="a listed action is obeyed",
                came=f"it is answered like {shown(_NONSENSE)}, with {shown(answer.observation.text)}",
                repair="list only actions that can be done now, and let the observation say what they did",
            )


def _goes_back(setting: Setting) -> None:
    other = setting.recorded[-1]
    for episode in setting.recorded[:3]:
        watched, fresh = setting.bench.environment(), setting.bench.environment()
        at = len(episode.actions) // 2
        list(_answers(watched, episode.task, episode.actions[:at]))
        saved = watched.snapshot()
        copied = _through_pickle(watched, saved)
        expected = _recorded_answers(episode)[at + 1 :]
        for name, to, state in (
            ("restore() leads back to the state that was saved", watched, saved),
            ("steps taken later do not change a snapshot", watched, saved),
            ("a snapshot survives being pickled", watched, copied),
            ("another environment, fresh from its class, can go to a saved state", fresh, copied),
        ):
            to.restore(state)
            _require_same(
                to,
                _continued(to, episode.actions[at:]),
                expected,
                name,
                "let snapshot() return a deep copy of everything that reset() and step() set, and let restore() copy "
                "it again",
            )
            list(_answers(watched, other.task, other.actions))


def _through_pickle(watched: Watched, saved: object) -> object:
    return watched.call("pickle the snapshot", lambda: pickle.loads(pickle.dumps(saved)))  # noqa: S301 - our own


def _compares_fairly(setting: Setting) -> None:
    watched = setting.bench.environment()
    seen = [answer.observation for episode in setting.recorded for answer in _recorded_answers(episode)][:60]
    pairs = [(setting.rng.choice(seen), setting.rng.choice(seen)) for _ in range(200)]
    watched.require(
        all(watched.same(observation, observation) for observation in seen),
        expected="same_observation(a, a) is True",
        came="it is False",
        repair="compare only what both observations say, not when or where they were made",
    )
    watched.require(
        all(watched.same(a, b) == watched.same(b, a) for a, b in pairs),
        expected="same_observation(a, b) equals same_observation(b, a)",
        came="it does not",
        repair="compare both ways alike, for example by comparing sets of lines",
    )
    watched.require(
        all(a.text == b.text for a, b in pairs) or not all(watched.same(a, b) for a, b in pairs),
        expected="same_observation() tells observations of different states apart",
        came=f"it is True for all {len(pairs)} pairs tried",
        repair="return True only for two descriptions of one state; replay is checked with it",
    )


def _repeats_examples(setting: Setting) -> None:
    watched = setting.bench.environment()
    for example in setting.examples:
        _require_same(
            watched,
            _answers(watched, example.task, example.actions),
            _recorded_answers(example),
            f"example {shown(example.id)} can be played again as it is recorded",
            "record the examples anew, for example with armap.envs.play.play",
        )


def _judges_by_hindsight(setting: Setting) -> None:
    watched = setting.bench.environment()
    for episode in setting.recorded:
        task = watched.hindsight_task(episode) if episode.stop_reason == "terminated" else None
        if task is None:
            continue
        answers = list(_answers(watched, task, episode.actions))
        paid = sum(answer.env_reward for answer in answers)
        watched.require(
            answers[-1][::2] == (episode.final_observation, "terminated"),
            expected="under the task that a trajectory fulfils, its actions lead to the same end",
            came=f"they lead to {shown(answers[-1].observation.text)}",
            repair="change only what is asked for in hindsight_task(), and do not let observations tell whether it was "
            "reached",
        )
        watched.require(
            paid > 0,
            expected="the task that a trajectory fulfils pays it",
            came=f"it pays {paid}",
            repair="let hindsight_task() return a task whose config asks for exactly what was achieved, or None",
        )
        again = watched.hindsight_task(_under(task, episode, answers))
        watched.require(
            again == task,
            expected="a trajectory that fulfils its task has that same task as hindsight_task()",
            came=f"it is {shown(again and again.instruction)} instead of {shown(task.instruction)}",
            repair="make id, instruction and config depend on nothing but start and outcome",
        )


def _under(task: Task, episode: Trajectory, answers: Sequence[_Answer]) -> Trajectory:
    steps = tuple(
        Step(observation=before.observation, action=Action(text=text), env_reward=after.env_reward)
        for before, text, after in zip(answers, episode.actions, answers[1:], strict=False)
    )
    return episode.model_copy(update={"task": task, "steps": steps, "final_observation": answers[-1].observation})


QUESTIONS = (
    Question("the same actions give the same observations", _repeats),
    Question("environments do not disturb each other", _stands_alone),
    Question("an episode can be given up and a task started again", _starts_again),
    Question("a step out of turn is refused", _refuses_out_of_turn),
    Question("any text is answered with an observation", _answers_odd_texts),
    Question("an invalid action is called invalid", _says_what_is_invalid),
    Question("listed actions are obeyed", _obeys_what_it_lists),
    Question("saved states can be gone back to", _goes_back, lambda watched: watched.saves),
    Question("same_observation() is fair", _compares_fairly, lambda watched: watched.compares),
    Question("the examples are what the environment does", _repeats_examples),
    Question("hindsight_task() asks for what was achieved", _judges_by_hindsight, lambda w: w.writes_hindsight),
)
"""Asked in this order, after `play_episodes`."""
