"""Logs and metrics of the web application.

Logs go to standard error, as lines of JSON or, on a terminal, as plain lines. Metrics are given in
Prometheus' text format: counters of requests, and gauges that are computed on request.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from panoseg.app.service import Service

_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
"""Attributes of log records that do not come from ``extra``."""


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON: time, level, logger, message, ``extra``, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """Formats a record as a line for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback below it."""
        extra = " ".join(f"{name}={value}" for name, value in _extra_of(record).items())
        line = (
            f"{datetime.fromtimestamp(record.created):%H:%M:%S} {record.levelname.lower():7}"
            f" {record.getMessage()} {extra}"
        ).rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _extra_of(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}


def set_up_logging() -> None:
    """Write panoseg's records, and the libraries' warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter() if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("panoseg").setLevel(logging.INFO)
    # rasterio warns about GDAL drivers that are to be skipped but do not exist in its GDAL.
    logging.getLogger("rasterio._env").setLevel(logging.ERROR)


REGISTRY = CollectorRegistry()
REQUESTS = Counter(
    "panoseg_requests",
    "Answers by method, path and status.",
    ("method", "path", "status"),
    registry=REGISTRY,
)
SECONDS = Histogram(
    "panoseg_request_seconds", "Time until an answer was complete.", ("path",), registry=REGISTRY
)
_STATES = ("queued", "running", "done", "failed", "cancelled")


class _ServiceCollector(Collector):
    """Gauges of the service, computed on request."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        jobs = GaugeMetricFamily("panoseg_jobs", "Jobs by state.", labels=["state"])
        counts = self.service.all_jobs.counts()
        for state in _STATES:
            jobs.add_metric([state], counts.get(state, 0))
        yield jobs
        yield GaugeMetricFamily(
            "panoseg_workers", "Live workers.", value=self.service.all_jobs.workers.count()
        )
        wait = self.service.all_jobs.longest_wait()
        yield GaugeMetricFamily(
            "panoseg_longest_wait_seconds", "How long the first queued job has waited.", value=wait
        )
        free = shutil.disk_usage(self.service.settings.folder).free
        yield GaugeMetricFamily(
            "panoseg_disk_free_bytes", "Free disk space for results.", value=free
        )


def metrics_text(service: Service) -> bytes:
    """Return all metrics in Prometheus' text format."""
    current = CollectorRegistry()
    current.register(_ServiceCollector(service))
    return generate_latest(REGISTRY) + generate_latest(current)
