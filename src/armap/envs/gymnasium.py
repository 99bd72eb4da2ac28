"""Environments of Gymnasium as ours, and ours as Gymnasium's.

Source: the interface of Gymnasium 1.2 and later, https://gymnasium.farama.org.
"""

from __future__ import annotations

import copy
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any, ClassVar

import numpy as np

from armap.errors import ConfigError, EnvError, first_line
from armap.images import ImageFolder
from armap.protocols import Environment, StepResult
from armap.types import ImageRef, Observation, Task

try:
    import gymnasium
    from gymnasium import spaces
except ModuleNotFoundError as error:
    raise ConfigError("Gymnasium is not installed; type: pip install 'armap[gymnasium]'") from error

_RANGES = ((9, 11), (32, 127), (160, 0x250), (0x2010, 0x2028), (0x2030, 0x2040), (0x20A0, 0x20C1), (0x2190, 0x21A0))
_CHARACTERS = frozenset("™−≤≥").union(*(map(chr, range(*ends)) for ends in _RANGES))
"""What our texts are made of for Gymnasium, whose spaces name every character: Latin letters, digits, common signs."""
_LONGEST_OBSERVATION = 100_000
_LONGEST_ACTION = 500


class FromGymnasium:
    """A Gymnasium environment with text in its observations.

    A task is started with `reset(seed=task.seed, options=task.config)`. Actions are texts where the action space is
    `Text`, and otherwise names for the numbers of a `Discrete` one. What is legal is told by the names, less those that
    `info["action_mask"]` rules out, or by `info["legal_actions"]`, names or numbers. An illegal action is not passed on
    but costs a step.

    Args:
        make: the id of a registered environment, or what makes one.
        actions: names of the actions of a `Discrete` space, in order; their numbers if left out.
        describe: makes the text of an observation out of it and `info`. Left out, the text is the observation itself,
            or the fields of it that are texts, one a line.
        metrics: entries of `info` to report.
        images: where pictures go; None for none.
        image_field: field of the observation that is a picture [height, width, 3] of bytes; left out, what `render()`
            gives is the picture, for which the environment must be made with `render_mode="rgb_array"`.
        step_limit: actions, illegal ones included, after which the episode is cut off.

    Raises:
        ConfigError: there is no such environment, or its spaces are of other kinds.
    """

    inline: ClassVar[bool] = False
    """Nobody knows what an environment does."""

    def __init__(
        self,
        make: str | Callable[[], gymnasium.Env[Any, Any]],
        *,
        actions: Sequence[str] | None = None,
        describe: Callable[[Any, Mapping[str, Any]], str] | None = None,
        metrics: Sequence[str] = (),
        images: ImageFolder | None = None,
        image_field: str | None = None,
        step_limit: int = 100,
    ) -> None:
        try:
            # Its checker warns developers of environments, who are not here.
            self._env = gymnasium.make(make, disable_env_checker=True) if isinstance(make, str) else make()
        except (gymnasium.error.Error, ModuleNotFoundError) as error:
            raise ConfigError(f"Gymnasium makes no environment {make!r}: {first_line(error)}") from error
        self._names = _action_names(self._env.action_space, actions)
        self._describe = describe or _texts_of
        self._metrics = tuple(metrics)
        self._images = images
        self._image_field = image_field
        self._step_limit = step_limit
        self._steps_left = 0
        self._seen = Observation(text="")
        self._reported: dict[str, float] = {}

    def reset(self, task: Task) -> Observation:
        """Start an episode.

        Raises:
            EnvError: Gymnasium refuses.
        """
        try:
            observation, info = self._env.reset(seed=task.seed, options=copy.deepcopy(task.config) or None)
        except (gymnasium.error.Error, KeyError) as error:
            raise EnvError(f"task {task.id!r} cannot be started: {type(error).__name__}: {error}") from error
        self._steps_left = self._step_limit
        self._reported = {}
        self._seen = self._observe(observation, info)
        return self._seen

    def step(self, action: str) -> StepResult:
        """Pass an action on, if it is one.

        Raises:
            EnvError: the episode is over, none was started, or Gymnasium refuses to go on.
        """
        if self._steps_left == 0:
            raise EnvError("there is no episode to go on with: call reset() before step()")
        self._steps_left -= 1
        passed_on = self._read(action)
        if passed_on is None:
            hint = "write one of those listed" if self._seen.actions else "the environment cannot read it"
            text = f"Illegal action: {hint}.\n{self._seen.text}"
            actions = self._seen.actions if self._steps_left else None
            refusal = self._seen.model_copy(update={"text": text, "actions": actions})
            return StepResult(refusal, 0.0, False, not self._steps_left, self._reported)
        try:
            observation, reward, terminated, truncated, info = self._env.step(passed_on)
        except gymnasium.error.Error as error:
            raise EnvError(f"{type(error).__name__}: {error}") from error
        if terminated or truncated:
            self._steps_left = 0
        self._seen = self._observe(observation, info)
        self._reported = {name: float(info[name]) for name in self._metrics if name in info}
        limited = not self._steps_left and not terminated
        return StepResult(self._seen, float(reward), bool(terminated), limited, self._reported)

    def close(self) -> None:
        """Close it."""
        self._env.close()

    def _read(self, action: str) -> str | int | None:
        """Return an action as Gymnasium wants it, or None if it is none."""
        space = self._env.action_space
        if isinstance(space, spaces.Text):
            return action if space.contains(action) else None
        if action not in (self._seen.actions or ()):
            return None
        assert isinstance(space, spaces.Discrete)
        return int(space.start) + self._names.index(action)

    def _observe(self, observation: object, info: Mapping[str, Any]) -> Observation:
        listed = self._names
        if "legal_actions" in info:
            listed = tuple(map(self._name_of, info["legal_actions"]))
        elif "action_mask" in info:
            listed = tuple(name for name, legal in zip(self._names, info["action_mask"], strict=True) if legal)
        actions = listed if listed and self._steps_left else None
        return Observation(text=self._describe(observation, info), actions=actions, image=self._picture(observation))

    def _name_of(self, listed: object) -> str:
        """Return the name of an action that `info` lists, which may be its number in the action space."""
        space = self._env.action_space
        if isinstance(space, spaces.Discrete):
            if isinstance(listed, int | np.integer) and space.contains(listed):
                return self._names[int(listed) - int(space.start)]
            if listed not in self._names:
                raise EnvError(
                    f"info['legal_actions'] lists {listed!r}, which is no action; the actions are {self._names}"
                )
        return str(listed)

    def _picture(self, observation: object) -> ImageRef | None:
        if self._images is None:
            return None
        fields = observation if isinstance(observation, Mapping) else {}
        pixels = self._env.render() if self._image_field is None else fields.get(self._image_field)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise EnvError(
                "a picture must be an array of bytes of shape [height, width, 3]; name the right image_field"
            )
        return self._images.add(_png(pixels))


class CopyingGymnasium(FromGymnasium):
    """The same for environments that `copy.deepcopy` can copy whole: their states can be saved and gone back to."""

    def snapshot(self) -> object:
        """Return a copy of everything."""
        return copy.deepcopy((self._env, self._seen, self._reported, self._steps_left))

    def restore(self, snapshot: object) -> None:
        """Go on from a copy of the copy."""
        assert isinstance(snapshot, tuple)
        self._env, self._seen, self._reported, self._steps_left = copy.deepcopy(snapshot)


def _action_names(space: spaces.Space[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(space, spaces.Text):
        return ()
    if not isinstance(space, spaces.Discrete):
        raise ConfigError(f"The action space must be Text or Discrete and is {space}; wrap it in an ActionWrapper.")
    names = tuple(names or map(str, range(space.start, space.start + space.n)))
    if len(names) != space.n or len(set(names)) != len(names):
        raise ConfigError(f"There are {space.n} actions; give as many names, each another one.")
    return names


def _texts_of(observation: object, info: Mapping[str, Any]) -> str:
    fields = observation.values() if isinstance(observation, Mapping) else [observation]
    texts = [field for field in fields if isinstance(field, str)]
    if not texts:
        raise EnvError("there is no text in the observation; say with `describe` how to put it into words")
    return "\n".join(texts)


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Return pixels [height, width, 3] as a PNG file. Source: PNG specification, third edition, chapter 5."""
    height, width, _ = pixels.shape
    # Every row begins with the number of its filter: none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes()),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class ToGymnasium(gymnasium.Env[Any, str]):
    """One of our environments for Gymnasium.

    An observation is a text, or `{"text": ..., "image": ...}` where `images` is given; the reward is `env_reward`.
    `info` holds the task's `instruction`, `legal_actions` where they are listed, and the metrics by their names.
    `reset` draws the task by its seed; `reset(options={"task_id": ...})` chooses it.

    Args:
        make: makes the environment.
        tasks: the tasks.
        images: where the environment puts its pictures; None for text alone.
        image_size_px: width and height of `image`; pictures are cut or filled up with black to it.

    Raises:
        ConfigError: there is no task.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        make: Callable[[], Environment],
        tasks: Sequence[Task],
        *,
        images: ImageFolder | None = None,
        image_size_px: tuple[int, int] = (320, 320),
    ) -> None:
        if not tasks:
            raise ConfigError("There are no tasks; give at least one.")
        self._environment: Environment | None = make()
        self._tasks = {task.id: task for task in tasks}
        self._images = images
        self._size_px = image_size_px
        self._instruction = ""
        text = spaces.Text(_LONGEST_OBSERVATION, min_length=0, charset=_CHARACTERS)
        self.action_space = spaces.Text(_LONGEST_ACTION, min_length=0, charset=_CHARACTERS)
        self.observation_space = text
        if images is not None:
            pixels = spaces.Box(0, 255, (image_size_px[1], image_size_px[0], 3), np.uint8)
            self.observation_space = spaces.Dict({"text": text, "image": pixels})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a task.

        Raises:
            KeyError: there is no task of the id in `options`.
            EnvError: it cannot be started.
        """
        super().reset(seed=seed)
        names = list(self._tasks)
        name = (options or {}).get("task_id") or names[int(self.np_random.integers(len(names)))]
        task = self._tasks[name]
        self._instruction = task.instruction
        observation = self._live().reset(task)
        return self._shown(observation), self._info(observation, {})

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do an action.

        Raises:
            EnvError: the episode is over, none was started, or the environment broke.
        """
        observation, env_reward, terminated, truncated, metrics = self._live().step(action)
        return self._shown(observation), float(env_reward), terminated, truncated, self._info(observation, metrics)

    def close(self) -> None:
        """Close it; Gymnasium allows this any number of times."""
        if self._environment is not None:
            self._environment.close()
        self._environment = None

    def _live(self) -> Environment:
        if self._environment is None:
            raise EnvError("the environment is closed; make another one")
        return self._environment

    def _info(self, observation: Observation, metrics: Mapping[str, float]) -> dict[str, Any]:
        listed = {} if observation.actions is None else {"legal_actions": observation.actions}
        return {"instruction": self._instruction, **listed, **metrics}

    def _shown(self, observation: Observation) -> str | dict[str, Any]:
        text = "".join(character if character in _CHARACTERS else "?" for character in observation.text)
        text = text[:_LONGEST_OBSERVATION]
        return text if self._images is None else {"text": text, "image": self._pixels(observation.image)}

    def _pixels(self, image: ImageRef | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        from PIL import Image

        canvas = Image.new("RGB", self._size_px)
        if image is not None and self._images is not None:
            canvas.paste(Image.open(BytesIO(self._images.read(image))))
        return np.asarray(canvas)


def register(env_id: str, make: Callable[[], Environment], tasks: Sequence[Task]) -> None:
    """Make an environment of ours known to `gymnasium.make` under an id such as `armap/Toy-v0`."""
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=partial(ToGymnasium, make, tasks))
