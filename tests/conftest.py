import os

import pytest
from hypothesis import settings

# How long a test may take depends on what else the machine is doing.
settings.register_profile("armap", deadline=None)
settings.load_profile("armap")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every worker begin with a share of what takes long, so that none is left with it at the end.

    xdist gives each worker an equal part of all tests, one part after the other.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    long: dict[str, list[pytest.Item]] = {}
    rest: list[pytest.Item] = []
    for item in items:
        (long.setdefault(item.path.name, []) if "e2e" in item.path.parts else rest).append(item)
    part = len(items) // workers
    items.clear()
    for worker in range(workers):
        items += [item for module in list(long.values())[worker::workers] for item in module]
        number = len(rest) if worker == workers - 1 else max(0, part * (worker + 1) - len(items))
        items += rest[:number]
        del rest[:number]
