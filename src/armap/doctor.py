"""What is installed, what is missing, and what to type."""

from __future__ import annotations

import importlib.metadata
import sys

from armap.browser import find_browser
from armap.envs import scienceworld
from armap.errors import ConfigError
from armap.types import Record
from armap.weights import EMBEDDED, locate


class Examined(Record):
    """One thing that something needs."""

    name: str
    """What it is."""
    found: str | None
    """Its version or name; None if it is missing."""
    remedy: str
    """What to do where it is missing."""
    needed_for: str | None = None
    """What cannot be done without it; None where nothing can."""


def examine() -> list[Examined]:
    """Look at everything the product may need."""
    python = sys.version.split()[0] if sys.version_info >= (3, 11) else None
    found_simulator, simulator, remedy = scienceworld.check()
    return [
        Examined(name="python", found=python, remedy="install Python 3.11 or newer"),
        _package("torch", "local"),
        _package("transformers", "local"),
        _package("peft", "local"),
        _package("gguf", "local"),
        _embedded_model(),
        _package("pillow", "shop", "pictures of WebShop"),
        _package("starlette", "shop", "armap shop"),
        _package("uvicorn", "shop", "armap shop"),
        Examined(
            name="simulator",
            found=simulator if found_simulator else None,
            remedy=f"type: {remedy}",
            needed_for="scienceworld",
        ),
        _package("miniwob", "miniwob", "miniwob"),
        _browser(),
        _package("gymnasium", "gymnasium", "environments of Gymnasium"),
    ]


def _package(name: str, extra: str, needed_for: str | None = None) -> Examined:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = None
    return Examined(name=name, found=found, remedy=f"type: pip install 'armap[{extra}]'", needed_for=needed_for)


def _embedded_model() -> Examined:
    try:
        return Examined(name="embedded_model", found=locate(EMBEDDED).name, remedy="")
    except ConfigError as error:
        remedy = "type: " + str(error).partition("type: ")[2]
        return Examined(name="embedded_model", found=None, remedy=remedy)


def _browser() -> Examined:
    wanted_by = "miniwob, and screenshots of WebShop"
    try:
        return Examined(name="browser", found=find_browser()[0].name, remedy="", needed_for=wanted_by)
    except ConfigError as error:
        return Examined(name="browser", found=None, remedy=str(error), needed_for=wanted_by)
