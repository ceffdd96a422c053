"""Numbers about the server for Prometheus; no name of a user or a job is in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from panoseg.app.service import Service

REGISTRY = CollectorRegistry()
REQUESTS = Counter("panoseg_requests", "Answers by method, path and status.", ("method", "path", "status"), registry=REGISTRY)
SECONDS = Histogram("panoseg_request_seconds", "Time until an answer was complete.", ("path",), registry=REGISTRY)
_STATES = ("queued", "running", "done", "failed", "cancelled")


class _Now:
    """What is read when it is asked for."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        """The numbers of this moment."""
        jobs = GaugeMetricFamily("panoseg_jobs", "Jobs by state.", labels=["state"])
        counts = self.service.all_jobs.counts()
        for state in _STATES:
            jobs.add_metric([state], counts.get(state, 0))
        yield jobs
        yield GaugeMetricFamily("panoseg_workers", "Workers that live.", value=self.service.all_jobs.workers())
        wait = self.service.all_jobs.longest_wait()
        yield GaugeMetricFamily("panoseg_longest_wait_seconds", "How long the first waiting job has waited.", value=wait)
        free = shutil.disk_usage(self.service.settings.folder).free
        yield GaugeMetricFamily("panoseg_disk_free_bytes", "Free space where results go.", value=free)


def metrics_text(service: Service) -> bytes:
    """All numbers in Prometheus' text format."""
    now = CollectorRegistry()
    now.register(_Now(service))  # type: ignore[arg-type]
    return generate_latest(REGISTRY) + generate_latest(now)
