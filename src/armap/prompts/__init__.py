"""Prompt texts, one file each, named `<stage>_<purpose>.txt`."""

from importlib import resources


def load_prompt(name: str) -> str:
    """Return the prompt text `name`, without its final newline."""
    return resources.files(__name__).joinpath(f"{name}.txt").read_text("utf-8").rstrip("\n")
