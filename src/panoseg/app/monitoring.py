"""Logs as lines of JSON, or as plain lines on a terminal."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from panoseg.app.service import Service

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonLines(logging.Formatter):
    """A record as a line of JSON: time, level, logger, message, what it was given as ``extra``, and
    a traceback's text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _USUAL},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainLines(logging.Formatter):
    """A record for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        extra = " ".join(
            f"{name}={value}" for name, value in vars(record).items() if name not in _USUAL
        )
        line = (
            f"{datetime.fromtimestamp(record.created):%H:%M:%S} {record.levelname.lower():7}"
            f" {record.getMessage()} {extra}"
        )
        return line.rstrip() + (
            f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        )


def set_up_logging() -> None:
    """Write the records of panoseg to standard error, and warnings of the libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("panoseg").setLevel(logging.INFO)
    logging.getLogger("rasterio._env").setLevel(
        logging.ERROR
    )  # it complains of formats that it lacks and is told to leave out


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
        yield GaugeMetricFamily(
            "panoseg_workers", "Workers that live.", value=self.service.all_jobs.workers()
        )
        wait = self.service.all_jobs.longest_wait()
        yield GaugeMetricFamily(
            "panoseg_longest_wait_seconds", "How long the first waiting job has waited.", value=wait
        )
        free = shutil.disk_usage(self.service.settings.folder).free
        yield GaugeMetricFamily(
            "panoseg_disk_free_bytes", "Free space where results go.", value=free
        )


def metrics_text(service: Service) -> bytes:
    """All numbers in Prometheus' text format."""
    now = CollectorRegistry()
    now.register(_Now(service))  # type: ignore[arg-type]
    return generate_latest(REGISTRY) + generate_latest(now)
