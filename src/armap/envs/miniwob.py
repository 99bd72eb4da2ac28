"""MiniWoB++: small web pages, each with a task, in a real browser. Source: the package `miniwob` of Farama.

Time stands still for the agent: the pages' own ten seconds are taken away, their reward is read before it shrinks with
time, and nothing moves by itself.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from armap.browser import Browser, browser_trouble_as_env_error
from armap.envs.task_config import read_config
from armap.errors import ConfigError, EnvError
from armap.images import ImageFolder
from armap.prompts import load_prompt
from armap.protocols import StepResult
from armap.types import ImageRef, Observation, Record, Task, Trajectory


def _shipped(name: str) -> str:
    return resources.files("armap.envs").joinpath(name).read_text("utf-8")


_ACTION = re.compile(r"(click|type)\[([0-9]{1,3})\](?:\[(.*)\])?")
_QUOTED = re.compile(r'"([^"]+)"')
_LONGEST_TEXT = 200
_FIRST_TEST_SEED = 1000
_ELEMENTS = _shipped("miniwob.js")

_COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "lime": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "pink": (255, 192, 203),
    "brown": (165, 42, 42),
}

_START = """
core.EPISODE_MAX_TIME = 2147483647;
window.alert = () => {};
if (window.jQuery) {
  jQuery.fx.off = true;
  if (jQuery.ui && jQuery.ui.autocomplete) jQuery.ui.autocomplete.prototype.options.delay = 0;
}
const style = document.createElement("style");
style.textContent = "#reward-display, #click-canvas, #sync-task-cover { visibility: hidden !important; }" +
  "* { caret-color: transparent !important; transition: none !important; animation: none !important; }";
document.head.appendChild(style);
Math.seedrandom(arguments[0]);
core.startEpisodeReal();
"""
_SETTLE = """
const done = arguments[0];
const drawn = () => requestAnimationFrame(() => requestAnimationFrame(done));
const wait = () => setTimeout(() => WOB_TASK_READY ? drawn() : wait(), 20);
wait();
"""
_CLICK = """
const element = window.armapElements[arguments[0]];
if (element.tagName === "OPTION") {
  element.selected = !element.selected || !element.parentElement.multiple;
  element.parentElement.dispatchEvent(new Event("change", {bubbles: true}));
} else if (element instanceof SVGElement) {
  for (const name of ["mousedown", "mouseup", "click"]) element.dispatchEvent(new MouseEvent(name, {bubbles: true}));
} else {
  element.click();
  element.focus();
}
"""
_FOCUS = "const element = window.armapElements[arguments[0]]; element.focus(); element.select();"
_KEY_UP = "document.activeElement.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}));"
_OUTCOME = "return [WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL];"
# The page without the instruction above it: what is asked for is the task's to say.
_PICTURE = {"x": 0, "y": 50, "width": 160, "height": 160, "scale": 2}


class _Page(Record):
    """What `Task.config` must hold."""

    page: str = Field(pattern=r"^[a-z0-9-]+$")
    """Name of the page, such as `click-button`."""
    step_limit: int = Field(default=15, strict=True, ge=1)
    """Actions, illegal ones included, after which the episode is cut off."""


class MiniWoB:
    """A page of MiniWoB++ in a headless browser.

    `Task.config` holds `page` and, where the default of 15 does not suit, `step_limit`; `Task.seed` decides what is on
    the page.

    `click[3]` clicks the third of the listed elements and `type[3][text]` puts a text in place of what is in a field.
    Typing is listed for texts the instruction quotes; any other may be typed too.

    Args:
        images: where the pictures of the page go, 320 by 320 pixels; None for none.

    Raises:
        ConfigError: the package or a browser is missing.
    """

    inline: ClassVar[bool] = False
    """A browser can hang."""
    rules: ClassVar[str] = load_prompt("act_miniwob")
    """What an action is, for the policy's prompt."""
    examples: ClassVar[tuple[Trajectory, ...]]
    """Solved tasks, recorded, for the policy's prompt."""

    def __init__(self, images: ImageFolder | None = None) -> None:
        self._pages = _pages()
        self._browser = Browser(width_px=320, height_px=240)
        self._images = images
        self._quoted: tuple[str, ...] = ()
        self._elements: list[dict[str, Any]] = []
        self._steps_left = 0

    def reset(self, task: Task) -> Observation:
        """Load the page and draw what is on it.

        Raises:
            EnvError: the config names no page, or the browser broke.
        """
        page = _page(task)
        file = self._pages / f"{page.page}.html"
        if not file.is_file():
            raise EnvError(f"miniwob cannot start task {task.id!r}: it has no page {page.page!r}")
        with browser_trouble_as_env_error():
            self._browser.driver.get(file.as_uri())
        self._run(_START, str(task.seed))
        self._settle()
        self._steps_left = page.step_limit
        self._quoted = tuple(dict.fromkeys(_QUOTED.findall(task.instruction)))
        return self._observe()

    def instruction(self) -> str:
        """Return what the page that is loaded asks for."""
        return str(self._run("const said = core.getUtterance(); return said.utterance || said;"))

    def step(self, action: str) -> StepResult:
        """Click or type; an illegal action changes nothing but costs a step.

        Raises:
            EnvError: the episode is over, none was started, or the browser broke.
        """
        if self._steps_left == 0:
            raise EnvError("miniwob has no episode to go on with: call reset() before step()")
        self._steps_left -= 1
        said = self._obey(action)
        done, raw_reward = self._run(_OUTCOME)
        if done:
            self._steps_left = 0
        env_reward = min(max(float(raw_reward), 0.0), 1.0) if done else 0.0
        return StepResult(self._observe(said), env_reward, bool(done), truncated=not self._steps_left and not done)

    def close(self) -> None:
        """End the browser."""
        self._browser.close()

    def _run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever the script returns
        with browser_trouble_as_env_error():
            return self._browser.driver.execute_script(script, *arguments)

    def _settle(self) -> None:
        """Wait until the page has answered and is drawn."""
        with browser_trouble_as_env_error():
            self._browser.driver.execute_async_script(_SETTLE)

    def _obey(self, action: str) -> str:
        """Do an action, and return what to say of it."""
        parts = _ACTION.fullmatch(action)
        if parts is None or (parts[1] == "type") == (parts[3] is None):
            return "Illegal action: write click[number] or type[number][text].\n"
        number = int(parts[2])
        if not 1 <= number <= len(self._elements):
            return f"Illegal action: there is no element {number}.\n"
        if parts[1] == "click":
            self._run(_CLICK, number - 1)
        elif self._elements[number - 1]["value"] is None:
            return f"Illegal action: element {number} is no text field.\n"
        elif len(parts[3]) > _LONGEST_TEXT or not (parts[3].isprintable() or not parts[3]):
            return f"Illegal action: a text has at most {_LONGEST_TEXT} printable characters.\n"
        else:
            self._run(_FOCUS, number - 1)
            self._browser.devtools("Input.insertText", text=parts[3])
            self._run(_KEY_UP)
        self._settle()
        return ""

    def _observe(self, said: str = "") -> Observation:
        self._elements = self._run(_ELEMENTS)
        lines = [f"[{number}] {_line(element)}" for number, element in enumerate(self._elements, start=1)]
        return Observation(
            text=said + ("\n".join(lines) or "The page is empty."),
            actions=self._legal_actions() if self._steps_left else None,
            image=self._picture(),
        )

    def _legal_actions(self) -> tuple[str, ...] | None:
        actions = []
        for number, element in enumerate(self._elements, start=1):
            actions.append(f"click[{number}]")
            if element["value"] is not None:
                actions += [f"type[{number}][{text}]" for text in self._quoted]
        return tuple(actions) or None

    def _picture(self) -> ImageRef | None:
        if self._images is None:
            return None
        shot = self._browser.devtools("Page.captureScreenshot", format="png", clip=_PICTURE)
        return self._images.add(base64.b64decode(shot["data"]))


def _line(element: dict[str, Any]) -> str:
    """Return an element in words: what it is and says and, where that is what matters, how it looks."""
    parts = [element["kind"]]
    if element["text"]:
        parts.append(f'"{element["text"]}"')
    if element["value"] is not None:
        parts.append(f'holding "{element["value"]}"')
    elif element["drawn"] or not element["text"]:
        looks = "{} px wide at {},{}".format(element["width"], *element["at"])
        parts += [element["classes"], _colour_name(element["colour"]), looks]
    return " ".join(filter(None, [*parts, *element["states"]]))


def _colour_name(channels: Sequence[str] | None) -> str:
    """Return the name nearest to red, green and blue from 0 to 255; none for what is transparent."""
    if channels is None or (len(channels) == 4 and float(channels[3]) == 0):
        return ""
    colour = [float(channel) for channel in channels[:3]]
    return min(_COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(_COLOURS[name], colour, strict=True)))


def _page(task: Task) -> _Page:
    return read_config(task, _Page, env="miniwob", advice='a config looks like {"page": "click-button"}')


@cache
def _pages() -> Path:
    try:
        found = resources.files("miniwob")
    except ModuleNotFoundError as error:
        raise ConfigError("MiniWoB++ is not installed; type: pip install 'armap[miniwob]'") from error
    return Path(str(found)) / "html" / "miniwob"


@cache
def _recorded() -> dict[tuple[str, int], str]:
    """Return what is asked for, by page and seed: only the page itself knows, and a task must be known without it."""
    lines = [line.split("\t") for line in _shipped("miniwob_tasks.tsv").splitlines() if not line.startswith("#")]
    return {(page, int(seed)): instruction for page, seed, instruction in lines}


def tasks(split: str) -> list[Task]:
    """Return all recorded tasks of `train` or `test`: the same pages, with other seeds.

    One seed of every page comes first, then the next seed, so that the first tasks are all different.
    """
    wanted = [key for key in _recorded() if (key[1] >= _FIRST_TEST_SEED) == (split == "test")]
    return [_task(page, seed, split) for page, seed in sorted(wanted, key=lambda key: key[1])]


def parse_task(text: str, *, split: str = "test") -> Task:
    """Read `click-button 1000`, a page and a seed, as a task.

    Raises:
        ConfigError: it is not among the recorded tasks.
    """
    page, _, seed = text.strip().partition(" ")
    if not seed.isdecimal() or (page, int(seed)) not in _recorded():
        pages = ", ".join(dict.fromkeys(page for page, _ in _recorded()))
        raise ConfigError(
            f"{text!r} is no MiniWoB++ task; write a page and a seed, such as: click-button 1000. "
            f"The seeds are 0 to 9 and 1000 to 1003, and the pages {pages}."
        )
    return _task(page, int(seed), split)


def _task(page: str, seed: int, split: str) -> Task:
    instruction = _recorded()[page, seed]
    return Task(
        id=f"{page} {seed}", env="miniwob", instruction=instruction, split=split, seed=seed, config={"page": page}
    )


MiniWoB.examples = tuple(map(Trajectory.model_validate_json, _shipped("miniwob_examples.jsonl").splitlines()))
