"""Every error a caller can act on.

    ArmapError
      ConfigError            the user asked for something impossible
      DataError              a stored record is malformed
      BudgetError            the budget of the run is spent
      UnavailableError       a server that everything needs cannot be asked at all
      RunError               one task went wrong; the others go on
        LLMError             a language model gave no usable answer
        PolicyError          no action could be read from the replies
        EnvError             an environment failed
          ReplayError        the same actions led elsewhere
        RewardModelError     a score is missing or not finite

A user's mistake (`ConfigError`, `DataError`) is printed as one sentence and ends the command with exit code 2; so does
`UnavailableError`, since every task would fail alike, and for good.
A `RunError` is caught in two places only, the rollout and the per-task loop of a stage, and becomes a `Failure`
record. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path

from armap.types import Completion, Usage

_NOTHING = Usage()


class ArmapError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(ArmapError):
    """The user asked for something impossible; the message says what to type instead."""


class DataError(ArmapError):
    """A stored record is malformed; the message names file, line and field."""


class BudgetError(ArmapError):
    """A limit on calls, tokens, seconds or money is reached; raised before the call that would exceed it."""


class UnavailableError(ArmapError):
    """A model's server cannot be asked: key or address is refused, or nobody answers for long; nothing is lost."""


class RunError(ArmapError):
    """One task went wrong; the others go on."""


class LLMError(RunError):
    """A language model gave no usable answer.

    Attributes:
        retryable: whether the same request may succeed later.
        status: HTTP status, if a server answered.
        unavailable: whether every other request would fail alike.
        cut: whether the reply ended while the model was thinking.
        usage: what was spent all the same, on the answers below too.
        answers: the first of the answers that were asked for, as far as they were there, each with its own cost.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        status: int | None = None,
        unavailable: bool = False,
        cut: bool = False,
        usage: Usage = _NOTHING,
        answers: Sequence[Completion] = (),
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status
        self.unavailable = unavailable
        self.cut = cut
        self.usage = usage
        self.answers = tuple(answers)

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is made anew of its message alone, and then given its attributes.
        return LLMError, (str(self),), vars(self)

    def after(self, spent: Usage) -> LLMError:
        """Return this error for somebody who had spent something before; others may fail with the same one."""
        error = copy(self)
        error.usage = spent + self.usage
        return error


class PolicyError(RunError):
    """No action could be read from any reply of the language model."""


class EnvError(RunError):
    """An environment failed."""


class ReplayError(EnvError):
    """The same actions led to another observation than before."""


class RewardModelError(RunError):
    """A score is missing or not finite."""


def first_line(error: BaseException) -> str:
    """Return the first line that somebody else's error says, up to the end of a sentence if it only announces that."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    if not lines[0].endswith(":"):
        return lines[0]
    return " ".join(lines[: next((number for number, line in enumerate(lines, 1) if line.endswith(".")), 2)])


def raised_at(error: BaseException, *, ours: Path) -> traceback.FrameSummary | None:
    """Return the innermost frame of an error that is of the user's own code.

    That is none of Python, of a package, or of a file in `ours`; if there is none, the innermost of all but the latter.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent != ours]
    installed = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    own = [frame for frame in frames if not frame.filename.startswith((*installed, "<"))] or frames
    return own[-1] if own else None


@contextmanager
def foreign_code(tell: Callable[[BaseException], str]) -> Iterator[None]:
    """Make a `ConfigError` of whatever somebody else's code raises, but for our own errors; `tell` puts it in words."""
    try:
        yield
    except (Exception, SystemExit) as error:
        # Whoever calls exit() there does not mean the command.
        if not isinstance(error, ArmapError):
            raise ConfigError(tell(error)) from error
        raise


def told_of(call: str, error: BaseException, *, ours: Path) -> str:
    """Return in one sentence what a call of the user's code raised, and where; `ours` is as for `raised_at`."""
    frame = raised_at(error, ours=ours)
    where = f" in {frame.filename}, line {frame.lineno}" if frame else ""
    said = " ".join(str(error).split())
    return f"{call} raised {type(error).__name__}{where}" + (f": {said}" if said else "")
