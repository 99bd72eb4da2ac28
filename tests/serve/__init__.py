import pytest

for name in ("starlette", "uvicorn", "prometheus_client", "PIL"):
    pytest.importorskip(
        name, reason=f"{name} is not installed: serving is not tested; type: pip install 'armap[serve]'"
    )
