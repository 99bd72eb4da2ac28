"""Where one environment runs: in this process, or in a worker process that can be given up.

A worker process leads a process group of its own, so that what the environment starts (a JVM, a browser) ends with it.
It ends when this process does, however that ends. What it prints goes to a file of its own, of which the last line is
quoted if it dies.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from multiprocessing import spawn
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import NamedTuple, Protocol, TypeVar, TypeVarTuple, cast

from armap.canonical import name_of
from armap.errors import ArmapError, ConfigError, EnvError, foreign_code, raised_at, told_of
from armap.protocols import ComparesObservations, Environment, Snapshots, StepResult
from armap.types import Observation, Task

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_WORKER = "armap worker"
"""Name of a worker process among Python's processes."""
_BEGIN = """
import sys
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[1]))
sys.path = pipe.recv()
from armap.workers import serve
serve(pipe)
"""
"""The program of a worker process."""
_LOOK_S = 0.2
"""How often a worker that is waited for is looked at: a child of a dead one may hold its end of the pipe open."""
_CLOSE_TIMEOUT_S = 10.0
"""How long an environment may take to close."""
_HERE = Path(__file__).parent


class Reached(NamedTuple):
    """Where an environment is after an action, or after the start of a task."""

    result: StepResult
    """What it answered; of a start, the observation that counts."""
    snapshot: bytes | None
    """The state, saved; None where the environment saves none or has come to an end."""
    name: str | None = None
    """What tells it from other states; None where none is saved, or what is saved has no name."""


class Host(Protocol):
    """Runs one environment. One call at a time, but for `kill`."""

    @property
    def alive(self) -> bool:
        """Whether the environment can still be used, as far as can be seen from here."""
        ...

    def reset(self, task: Task) -> Reached:
        """Start `task` afresh.

        Raises:
            EnvError: it cannot be started.
            ConfigError: there can be no such environment here.
        """
        ...

    def step(self, action: str) -> Reached:
        """Do one action.

        Raises:
            EnvError: the environment broke.
        """
        ...

    def restore(self, snapshot: bytes) -> None:
        """Go to a state that an environment made alike saved.

        Raises:
            EnvError: the environment broke.
            ConfigError: there can be no such environment here.
        """
        ...

    def same_observation(self, a: Observation, b: Observation) -> bool:
        """Say whether two observations describe the same state.

        Raises:
            EnvError: the environment broke.
        """
        ...

    def close(self) -> None:
        """Release whatever is held, also after an error."""
        ...

    def kill(self) -> None:
        """End the call that is under way, from another thread; only `close` may follow."""
        ...


class _Ours:
    """Makes one of our errors of whatever an environment raises."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever calls exit() means the episode, not the command.
        if isinstance(error, Exception | SystemExit) and (ours := _as_ours(error)) is not error:
            raise ours from error


_OURS = _Ours()


class Inline:
    """Runs an environment in this process.

    Raises:
        ConfigError: making it raised something, which is no task's fault.
    """

    alive = True

    def __init__(self, make_environment: Callable[[], Environment]) -> None:
        with foreign_code(partial(told_of, "making the environment", ours=_HERE)):
            self.environment = make_environment()
        self._saver = self.environment if isinstance(self.environment, Snapshots) else None
        self._comparer = self.environment if isinstance(self.environment, ComparesObservations) else None

    def reset(self, task: Task) -> Reached:
        """Start `task` afresh.

        Raises:
            EnvError: the environment raised something.
        """
        with _OURS:
            return self._reached(StepResult(self.environment.reset(task), 0.0, False, False, {}))

    def step(self, action: str) -> Reached:
        """Do one action.

        Raises:
            EnvError: the environment raised something, or gives a number that no record can hold.
        """
        with _OURS:
            return self._step(action)

    def _step(self, action: str) -> Reached:
        observation, env_reward, terminated, truncated, metrics = self.environment.step(action)
        env_reward = float(env_reward)
        numbers = {str(name): float(value) for name, value in metrics.items()} if metrics else {}
        for name, value in ("env_reward", env_reward), *numbers.items():
            if not math.isfinite(value):
                raise EnvError(
                    f"the environment gives {name} as {value} after {action[:80]!r}; it must be a finite number"
                )
        return self._reached(StepResult(observation, env_reward, bool(terminated), bool(truncated), numbers))

    def restore(self, snapshot: bytes) -> None:
        """Go to a saved state."""
        assert self._saver is not None, "only an environment that saves its state is asked to restore one"
        with _OURS:
            self._saver.restore(pickle.loads(snapshot))  # noqa: S301 - written by `_reached`, in this run

    def same_observation(self, a: Observation, b: Observation) -> bool:
        """Say whether two observations describe the same state."""
        with _OURS:
            return a == b if self._comparer is None else self._comparer.same_observation(a, b)

    def close(self) -> None:
        """Close the environment; one that cannot keeps nobody from anything else."""
        with suppress(Exception, SystemExit):
            self.environment.close()

    def kill(self) -> None:
        """Nothing is ever under way elsewhere."""

    def _reached(self, result: StepResult) -> Reached:
        if not isinstance(result.observation, Observation):
            raise TypeError(f"an environment must give an Observation, not {type(result.observation).__name__}")
        if self._saver is None or result.terminated or result.truncated:
            return Reached(result, None)
        saved = self._saver.snapshot()
        # As bytes, so that no later step can change it.
        return Reached(result, pickle.dumps(saved), name_of(saved))


class Worker:
    """Runs an environment in a process of its own, which starts at once; the first call waits for it.

    Everything the environment raises that is not one of our errors is raised as `EnvError`, and so are its death and
    its silence. After any error only `close` may follow.

    Args:
        make_environment: makes the environment, from `sendable`.
        step_timeout_s: how long anything but a start may take.
        reset_timeout_s: how long the making of an environment may take, and the start of a task.

    Raises:
        ConfigError: this is a worker process itself.
        EnvError: the system gives us no further process.
    """

    def __init__(self, make_environment: bytes, *, step_timeout_s: float, reset_timeout_s: float) -> None:
        if multiprocessing.current_process().name == _WORKER:
            raise ConfigError(
                "The environment's own process is starting further ones; put what your script does "
                'below `if __name__ == "__main__":`.'
            )
        self._make_environment = make_environment
        self._step_timeout_s = step_timeout_s
        self._reset_timeout_s = reset_timeout_s
        self._ready = False
        self._closed = False
        self._turn = Lock()
        try:
            self._start()
        except OSError as error:
            raise EnvError(f"no process can be started for the environment: {error}") from error

    def _start(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-c", _BEGIN, str(theirs.fileno())],
                # Nothing is ever written to its input: the end of it tells that we are gone.
                stdin=subprocess.PIPE,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def reset(self, task: Task) -> Reached:
        """Start `task` afresh."""
        return self._ask(Inline.reset, task, timeout_s=self._reset_timeout_s)

    def step(self, action: str) -> Reached:
        """Do one action."""
        return self._ask(Inline.step, action, timeout_s=self._step_timeout_s)

    def restore(self, snapshot: bytes) -> None:
        """Go to a saved state."""
        self._ask(Inline.restore, snapshot, timeout_s=self._step_timeout_s)

    def same_observation(self, a: Observation, b: Observation) -> bool:
        """Say whether two observations describe the same state."""
        return self._ask(Inline.same_observation, a, b, timeout_s=self._step_timeout_s)

    def close(self) -> None:
        """Let the environment close, then end its process and all that it started."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            if self._ready:
                self._tell(None)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_CLOSE_TIMEOUT_S)
            self._end_group()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._pipe.close()
            self._printed.close()

    def kill(self) -> None:
        """End the process and all that it started at once, whatever it is doing."""
        if not self._closed:
            self._end_group()

    def _end_group(self) -> None:
        # The group may outlive its leader, and where it does not there is nothing left to end.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _ask(self, method: Callable[[Inline, *Ts], T], *arguments: *Ts, timeout_s: float) -> T:
        with self._turn:
            if self._closed:
                raise EnvError("the environment was closed")
            if not self._ready:
                self._tell(sys.path, _main_module(self._make_environment), self._make_environment)
                self._answer("start-up", self._reset_timeout_s)
                self._ready = True
            self._tell((method, arguments))
            said = (repr(argument[:80]) for argument in arguments if isinstance(argument, str))
            return cast(T, self._answer(" ".join([method.__name__, *said]), timeout_s))

    def _tell(self, *messages: object) -> None:
        # If it cannot be told, it is dead, and the lack of its answer will say so.
        with suppress(OSError):
            for message in messages:
                self._pipe.send(message)

    def _answer(self, what: str, timeout_s: float) -> object:
        """Return what the worker answers.

        Raises:
            ArmapError: it answers with an error, too late or not at all.
        """
        deadline = time.monotonic() + timeout_s
        while not self._pipe.poll(min(_LOOK_S, max(0.0, deadline - time.monotonic()))):
            if not self.alive and not self._pipe.poll():
                raise self._died(what)
            if time.monotonic() >= deadline:
                self.kill()
                raise EnvError(f"the environment did not finish {what} within {timeout_s:g} s; its process was ended")
        try:
            answer: object = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died(what) from error
        if isinstance(answer, ArmapError):
            raise answer
        return answer

    def _died(self, what: str) -> EnvError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.kill()
        code = self._process.wait()
        how = f"ended itself with exit code {code}"
        if code < 0:
            how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        size = os.fstat(self._printed.fileno()).st_size
        tail = os.pread(self._printed.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace")
        last = [line.strip() for line in tail.splitlines() if line.strip()][-1:]
        return EnvError(
            "; ".join([f"the environment's process {how} during {what}", *(f"it printed {x!r}" for x in last)])
        )


def sendable(make_environment: Callable[[], Environment]) -> bytes:
    """Return what makes an environment in the form in which a worker process takes it.

    Raises:
        ConfigError: it cannot be sent to another process.
    """
    try:
        pickled = pickle.dumps(make_environment)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"What makes the environment cannot be sent to a worker process ({error}); name a class or function "
            "that stands at the top of a module, or functools.partial of one."
        ) from error
    if _is_in_main(pickled) and not _main_module(pickled):
        raise ConfigError(
            "What makes the environment was typed into this session, so no worker process can find it; "
            "put it into a file and import it from there."
        )
    return pickled


def _is_in_main(pickled: bytes) -> bool:
    return b"__main__" in pickled


def _main_module(pickled: bytes) -> dict[str, str]:
    """Return what `multiprocessing.spawn.prepare` needs to find `pickled`, if it is in the script we were started by.

    Otherwise the script is not run again, which would cost every worker its time.
    """
    main = sys.modules["__main__"]
    if not _is_in_main(pickled) or not hasattr(main, "__file__"):
        return {}
    if main.__spec__ is not None:
        return {"init_main_from_name": main.__spec__.name}
    return {"init_main_from_path": str(Path(main.__file__).resolve())} if main.__file__ else {}


# In the worker process


def serve(pipe: Connection) -> None:
    """Run an environment for the process at the other end of `pipe`, until that closes it or the environment breaks.

    Whatever the environment raises is told and then ends this process, as an environment that broke is not used again.
    """
    multiprocessing.current_process().name = _WORKER
    Thread(target=_end_with_parent, args=[os.dup(0)], daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with _Telling(pipe):
        spawn.prepare(pipe.recv())
        host = Inline(pickle.loads(pipe.recv()))  # noqa: S301 - from the process that started us
        pipe.send(None)
    with closing(host), _Telling(pipe):
        while (call := pipe.recv()) is not None:
            method, arguments = call
            if method == Inline.reset:
                _forget_what_was_printed()
            pipe.send(method(host, *arguments))


class _Telling:
    """Tells the other end of `pipe` which error passes."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._pipe.send(_as_ours(error))


def _as_ours(error: BaseException) -> ArmapError:
    if isinstance(error, ArmapError) and type(error).__module__ == ArmapError.__module__:
        return error
    frame = raised_at(error, ours=_HERE)
    where = f" ({frame.filename}:{frame.lineno})" if frame else ""
    said = str(error).strip().partition("\n")[0][:200]
    return EnvError(f"the environment raised {type(error).__name__}: {said}{where}")


def _end_with_parent(lifeline: int) -> None:
    """End our process group when the other end of `lifeline` is closed, be it by the death of its process."""
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def _forget_what_was_printed() -> None:
    """Empty the file that takes standard output and error, so that it does not grow with the number of episodes."""
    os.ftruncate(1, 0)
    os.lseek(1, 0, os.SEEK_SET)
