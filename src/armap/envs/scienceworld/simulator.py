"""The simulator: one Java process, spoken to directly."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from armap.envs.scienceworld.overlay import MEMORY, write_overlay
from armap.errors import ConfigError, EnvError

if TYPE_CHECKING:
    from py4j.java_gateway import JavaGateway, JVMView

_VERSION = "1.2.3"
"""Version of the package `scienceworld` that is spoken to and altered here."""
_INSTALL = "pip install 'armap[scienceworld]'"
_JAVA = 17
"""Oldest version of Java that this is tested with."""
_INSTALL_JAVA = "apt install default-jre-headless"
_JVM_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-Xss16m")
"""A heap that is enough for every task, where a JVM would take a quarter of the machine; a collector without threads
of its own; and far more room than was ever needed for the recursion in which Java writes a state."""

_MAX_CHARS = 1000
"""Longest beginning of an action that is passed on; nothing the simulator understands is that long."""
_QUESTIONS = {"help", "objects", "task"}
"""What the simulator's Python interface answers itself, without the world noticing."""
_NOTHING_HAPPENED = (
    "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of possible object referents. "
)
"""What the simulator's Python interface says in place of an empty answer."""

_CLASSES = (
    "java.io.BufferedInputStream",
    "java.io.BufferedOutputStream",
    "java.io.ByteArrayInputStream",
    "java.io.ByteArrayOutputStream",
    "java.io.ObjectInputStream",
    "java.io.ObjectOutputStream",
    "java.util.zip.Deflater",
    "java.util.zip.DeflaterOutputStream",
    "java.util.zip.InflaterInputStream",
    "scala.Option",
)
"""What a state is written and read with."""
_BUFFER_BYTES = 2**16
"""Java writes and reads a state in pieces of a few bytes, each of which would be a call to the compressor."""

_LOOK = "look at "
"""What can be done to any thing that an action can be done to."""
_REMEMBERED_NAMES = 50_000
"""Names of things of which Java remembers the words; a task has some thousand, of half a kB each."""


class Answer(NamedTuple):
    """What the simulator answers to an action."""

    text: str
    """What is seen."""
    score: int
    """Points out of 100, negative after a mistake that ends the task."""
    completed: bool
    """Whether every goal is reached, or none can be any more."""


class Possible(NamedTuple):
    """What can be done. What is shut away is named too, although the simulator will not understand it."""

    actions: tuple[str, ...]
    """In alphabetical order; each thing has one name in all of them."""
    names: dict[str, tuple[str, ...]]
    """By that name, all others that the simulator understands; none for a door."""


class Simulator:
    """A Java process with one simulated world in it. It dies with this process, however that ends.

    Raises:
        ConfigError: Java or the package is missing or not of the right version.
        EnvError: the process does not start.
    """

    def __init__(self) -> None:
        folder = _package_folder()
        with tempfile.TemporaryDirectory(prefix="armap-scienceworld-") as temporary:
            overlay = Path(temporary, "overlay.jar")
            write_overlay(folder / "scienceworld.jar", overlay)
            self._process = _start_java(folder, overlay)
            try:
                self._connect()
            except BaseException:
                self._end()
                raise
        # The overlay's file is gone now, but Java has opened it and keeps it as long as it runs.

    def _connect(self) -> None:
        self._gateway = _gateway(self._process)
        with self._java_errors():
            jvm = self._jvm = self._gateway.jvm
            _check_java(jvm.java.lang.System.getProperty("java.specification.version"))
            # The simulator prints a lot, and would wait for somebody to read it.
            silence = jvm.java.io.PrintStream(jvm.java.io.OutputStream.nullOutputStream())
            jvm.java.lang.System.setOut(silence)
            jvm.java.lang.System.setErr(silence)
            _send_at_once(self._gateway)
            self._server = jvm.scienceworld.runtime.pythonapi.PythonInterface()
            self._agent: Any = None
            # What a state consists of besides the agent's: everything else in the simulator's classes is constant.
            self._numbering = getattr(getattr(jvm.util, "UniqueIdentifier$"), "MODULE$")
            self._simplifier = getattr(getattr(jvm.main.scala.scienceworld.runtime, "SimplifierProcessor$"), "MODULE$")
            self._random = getattr(getattr(jvm.scala.util, "Random$"), "MODULE$")
            self._generator = jvm.java.lang.Class.forName("scala.util.Random").getDeclaredField("self")
            self._generator.setAccessible(True)
            self._memory = jvm.java.util.HashMap()
            jvm.java.lang.Class.forName("scienceworld.input.InputParser$").getField(MEMORY).set(None, self._memory)
            # Looked up once, as finding a class takes as long as making an object of it.
            self._java = SimpleNamespace(**{name.rpartition(".")[2]: _member(jvm, name) for name in _CLASSES})
            self._packed, self._deflater = self._java.ByteArrayOutputStream(), self._java.Deflater(1)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def load(self, task: str, variation: int, simplification: str) -> None:
        """Start a task afresh.

        Raises:
            EnvError: the simulator does not know it, or broke.
        """
        with self._java_errors():
            if self._memory.size() > _REMEMBERED_NAMES:
                self._memory.clear()
            complaint = self._server.load(task, variation, simplification, False)
            if complaint:
                raise EnvError(f"ScienceWorld cannot start {task} {variation}: {complaint}")
            self._agent = self._server.agentInterface().get()

    def instruction(self) -> str:
        """Return what the loaded task asks for, in the simulator's words."""
        with self._java_errors():
            return str(self._agent.getTaskDescription())

    def step(self, action: str) -> Answer:
        """Do one action.

        Raises:
            EnvError: the simulator broke.
        """
        # What has no UTF-8 form, such as half of a surrogate pair, cannot be sent.
        action = action[:_MAX_CHARS].encode("utf-8", "replace").decode("utf-8")
        with self._java_errors():
            if action.strip().lower() in _QUESTIONS:
                score = self._agent.task().goalSequence().score()
                return Answer(self._ask(action), round(100 * score), completed=False)
            result = self._agent.step(action)
            if self._agent.isInErrorState():
                raise EnvError(f"the ScienceWorld simulator broke: {self._agent.getErrorStateMessage()}")
            return Answer(result._1() or _NOTHING_HAPPENED, round(100 * result._2()), result._3())

    def possible(self) -> Possible:
        """Return every action the simulator lists as valid now, hundreds that are slow to find."""
        with self._java_errors():
            # It names things partly at random, which must not change what happens later.
            generator = self._generator.get(self._random)
            self._generator.set(self._random, self._jvm.java.util.Random(0))
            listed = json.loads(self._agent.getValidActionObjectCombinationsJSON())["validActions"]
            self._generator.set(self._random, generator)
            known = json.loads(self._agent.getAllObjectIdsTypesReferentsLUTJSON())
        names = {}
        for action in listed:
            if action["action"].startswith(_LOOK):
                thing = known.get(str(action["obj_ids"][0]), {"referents": ()})
                names[action["action"].removeprefix(_LOOK)] = tuple(
                    name for name in thing["referents"] if not name.startswith("ERROR")
                )
        return Possible(tuple(sorted({action["action"] for action in listed})), names)

    def save(self) -> bytes:
        """Return the state of the loaded task."""
        with self._java_errors():
            java = self._java
            self._packed.reset()
            self._deflater.reset()
            deflating = java.DeflaterOutputStream(self._packed, self._deflater, _BUFFER_BYTES)
            stream = java.ObjectOutputStream(java.BufferedOutputStream(deflating, _BUFFER_BYTES))
            stream.writeObject(self._agent)
            stream.writeObject(self._generator.get(self._random))
            stream.writeLong(self._numbering.count())
            stream.close()
            # As text, which py4j takes ten times less time to send than bytes.
            return str(self._packed.toString("ISO-8859-1")).encode("iso-8859-1")

    def restore(self, state: bytes) -> None:
        """Go to a state that this simulator, or another one, saved."""
        with self._java_errors():
            java = self._java
            inflating = java.InflaterInputStream(java.ByteArrayInputStream(state))
            stream = java.ObjectInputStream(java.BufferedInputStream(inflating, _BUFFER_BYTES))
            self._agent = stream.readObject()
            self._generator.set(self._random, stream.readObject())
            getattr(self._numbering, "count_$eq")(stream.readLong())
            stream.close()
            self._simplifier.parseSimplificationStr(self._agent.simplificationStr())

    def _ask(self, question: str) -> str:
        """Return what the simulator's Python interface answers, which may not know yet which state was restored."""
        some = self._java.Option.apply
        getattr(self._server, "agentInterface_$eq")(some(self._agent))
        getattr(self._server, "agent_$eq")(some(self._agent.agent()))
        return str(self._server.step(question))

    def close(self) -> None:
        """End the Java process."""
        from py4j.protocol import Py4JError

        with suppress(Py4JError, OSError):
            self._gateway.shutdown()
        self._end()

    def _end(self) -> None:
        with self._process:
            self._process.kill()

    @contextmanager
    def _java_errors(self) -> Iterator[None]:
        """Make EnvError of whatever goes wrong in Java or on the way there."""
        from py4j.protocol import Py4JError

        try:
            yield
        except (Py4JError, OSError) as error:
            said = " ".join(str(error).split("\n\tat ")[0].split())
            raise EnvError(f"the ScienceWorld simulator broke: {said or type(error).__name__}") from error


def check() -> tuple[bool, str, str]:
    """Say whether the simulator can run here: whether it can, what was found, and what to type if it cannot."""
    try:
        _package_folder()
        command = [_java(), "-version"]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stderr  # noqa: S603 - Java
        found = re.search(r'version "(\d+)', output)
        _check_java(found[1] if found else "")
    except ConfigError as error:
        return False, "", str(error).partition("type: ")[2]
    return True, f"{_VERSION}, Java {found[1] if found else ''}", ""


def _package_folder() -> Path:
    """Return where the package `scienceworld` is, without importing it."""
    spec = importlib.util.find_spec("scienceworld")
    if spec is None or spec.origin is None or importlib.util.find_spec("py4j") is None:
        raise ConfigError(f"ScienceWorld is not installed; type: {_INSTALL}")
    version = importlib.metadata.version("scienceworld")
    if version != _VERSION:
        raise ConfigError(f"ScienceWorld {version} is installed, and {_VERSION} is needed; type: {_INSTALL}")
    return Path(spec.origin).parent


def _java() -> str:
    """Return the command that runs Java."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=Path(home, "bin")) if home else shutil.which("java")
    if java is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise ConfigError(f"ScienceWorld needs Java {_JAVA} or newer, and there is none {where}; type: {_INSTALL_JAVA}")
    return java


def _member(jvm: JVMView, name: str) -> Any:  # noqa: ANN401
    return reduce(getattr, name.split("."), jvm)


def _check_java(version: str) -> None:
    """Refuse a Java that is too old, by its version such as `17` or, of old ones, `1.8`."""
    major = version.removeprefix("1.")
    if not major.isdecimal() or int(major) < _JAVA:
        raise ConfigError(f"ScienceWorld needs Java {_JAVA} or newer, and {version} is found; type: {_INSTALL_JAVA}")


def _start_java(folder: Path, overlay: Path) -> subprocess.Popen[str]:
    """Start a Java process that waits for calls, and ends when its standard input does."""
    from py4j.java_gateway import find_jar_path

    class_path = os.pathsep.join((find_jar_path(), str(overlay), str(folder / "scienceworld.jar")))
    command = [_java(), *_JVM_OPTIONS, "-classpath", class_path, "py4j.GatewayServer"]
    return subprocess.Popen(  # noqa: S603 - Java
        [*command, "--die-on-broken-pipe", "--enable-auth", "0"],
        # A table of numbers of classes is read from the working directory.
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _gateway(process: subprocess.Popen[str]) -> JavaGateway:
    """Return a connection to a Java process, which prints its port and its password when it is ready."""
    from py4j.java_gateway import GatewayParameters, JavaGateway

    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        if line.strip().isdecimal():
            password = process.stdout.readline().strip()
            return JavaGateway(gateway_parameters=GatewayParameters(port=int(line), auth_token=password))
        said = said or line.strip()
    raise EnvError(f"Java does not start: {said or 'it says nothing'}")


def _send_at_once(gateway: JavaGateway) -> None:
    """Have Java send every part of a long answer at once.

    It writes parts of 8 kB, and TCP waits 40 ms for us to acknowledge the first unless told otherwise, for which py4j
    has no switch.
    """
    server = gateway.java_gateway_server
    connections = server.getClass().getDeclaredField("connections")
    connections.setAccessible(True)
    for connection in connections.get(server):
        connection.getSocket().setTcpNoDelay(True)
