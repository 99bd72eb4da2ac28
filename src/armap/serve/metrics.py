"""What the service counts about itself."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from armap.serve.batching import Batcher

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Media type of the metrics."""

_ROUTES = frozenset({"/classify", "/pooling", "/health", "/v1/models", "/metrics", "/openapi.json"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Meters:
    """The metrics of one service.

    Args:
        batcher: what scores.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("armap_requests", "Requests answered.", ("route", "status"), registry=self._registry)
        self._seconds = Histogram(
            "armap_request_seconds", "Time to the answer.", ("route",), buckets=_SECONDS, registry=self._registry
        )
        for name, what, read in (
            ("armap_waiting", "Trajectories that wait or are being scored.", lambda: batcher.held),
            ("armap_batches", "Calls to the reward model until now.", lambda: batcher.batches),
            ("armap_scored", "Trajectories and texts scored until now.", lambda: batcher.scored),
            ("armap_read_tokens", "Tokens of those until now.", lambda: batcher.tokens),
        ):
            Gauge(name, what, registry=self._registry).set_function(read)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request; paths that are none of the service's are counted together."""
        route = path if path in _ROUTES else "other"
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)
