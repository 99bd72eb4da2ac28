"""A reward model as an HTTP service, with the routes on which vLLM answers for one."""

from __future__ import annotations

import importlib.util

from armap.errors import ConfigError


def require_extra() -> None:
    """Check that what the service needs is installed.

    Raises:
        ConfigError: something is missing; the message says what to type.
    """
    wanted = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client", "PIL": "pillow"}
    missing = [name for module, name in wanted.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"Serving needs {' and '.join(missing)}; type: pip install 'armap[serve]'")
