"""Whether processes run; for tests of those we start."""

import subprocess
import time


def runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def assert_ends(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, f"one of {pids} goes on"
        time.sleep(0.02)


def number_in(text: str) -> int:
    """Return the number that `text` ends with, such as what an environment says of a process."""
    return int(text.rpartition(" ")[2])
