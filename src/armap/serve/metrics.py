"""What the service counts about itself."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

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
        self._batcher = batcher
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Return what the queue has counted, as the registry asks for it."""
        queue = self._batcher
        yield GaugeMetricFamily("armap_waiting", "Trajectories that wait or are being scored.", queue.held)
        yield CounterMetricFamily("armap_batches", "Calls to the reward model.", queue.batches)
        yield CounterMetricFamily("armap_scored", "Trajectories and texts scored.", queue.scored)
        yield CounterMetricFamily("armap_read_tokens", "Tokens of those.", queue.tokens)
        yield CounterMetricFamily("armap_shortened", "Those longer than the reward model reads.", queue.shortened)
        told = "Those of the latter of which whole steps were left out."
        yield CounterMetricFamily("armap_without_steps", told, queue.without_steps)
        yield CounterMetricFamily("armap_unread_pictures", "Pictures that were not read.", queue.unread_images)
        if queue.computed_tokens is not None:
            told = "Tokens computed; the others are of beginnings that trajectories share, which are computed once."
            yield CounterMetricFamily("armap_computed_tokens", told, queue.computed_tokens)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request; paths that are none of the service's are counted together."""
        route = path if path in _ROUTES else "other"
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)
