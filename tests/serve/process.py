"""Runs a server in a process of its own."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Served(NamedTuple):
    process: subprocess.Popen[str]
    address: str


@contextmanager
def served(*command: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """Start a Python program that prints `served at ADDRESS;`, and stop it in the end."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"served at (http://\S+);", line):
                yield Served(process, found[1])
                return
        raise AssertionError(f"the server did not start: {said}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def odd_server(**settings: Any) -> Any:
    """Serve the odd reward model with the given arguments of `make_app`."""
    return served(str(Path(__file__).with_name("odd_model.py")), json.dumps(settings))
