import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

API_KEY = "sk-known-only-to-this-test"


def environment() -> dict[str, str]:
    """Of a user's shell, without what would change how output looks."""
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "PY_COLORS", "NO_COLOR")}
    return kept | {"COLUMNS": "80", "ARMAP_API_KEY": API_KEY}


def armap(*args: object, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, and check how it ends."""
    command = [sys.executable, "-m", "armap.cli", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, **options)
    assert done.returncode == code, f"{args} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def with_pairs(run: Path) -> Path:
    """Make a run folder with pairs and nothing trained."""
    armap("collect", "--env", "toy", "--model", "scripted", "--tasks", 24, "--samples", 8, "--run", run)
    armap("synthesize", "--run", run)
    return run


def sentence(stderr: str) -> str:
    """Return the one line that is no progress bar."""
    (line,) = [line for line in stderr.splitlines() if line and "0:00:" not in line]
    return line


def records(run: Path, name: str, *without: str) -> list[str]:
    """Return the records of a file as text, sorted, without the fields that say how long something took or cost."""
    lines = [json.loads(line) for line in (run / f"{name}.jsonl").read_text("utf-8").splitlines()]
    kept = [{field: value for field, value in line.items() if field not in without} for line in lines]
    return sorted(json.dumps(line, sort_keys=True) for line in kept)


def files(folder: Path) -> dict[str, bytes]:
    """Return what a run folder holds, but for the lock, which names the process that held it last."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
