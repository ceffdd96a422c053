"""What the workers of a cluster do for a map, as functions that anyone can take from a message.

A scheduler unpickles the tasks that it hands on, and neither predicts nor draws. Therefore nothing heavy is imported here, a
task's arguments are bytes to all but the worker, and what does the work is imported by a worker's first task.
"""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING

from distributed import Worker, WorkerPlugin

if TYPE_CHECKING:
    from panoseg.maps.predict import OpenJob, PredictionJob
    from panoseg.maps.sheets import Sheet, SheetOutlines
    from panoseg.maps.tiles import Block

_JOBS: dict[str, bytes] = {}
"""In a worker: the jobs that it knows, by name."""
_OPEN: dict[str, OpenJob] = {}
_LOCK = threading.Lock()


class KnowJob(WorkerPlugin):
    """Tells a job to every worker, also to those that come later."""

    def __init__(self, name: str, job: PredictionJob) -> None:
        self.name, self.job = name, pickle.dumps(job)

    def setup(self, worker: Worker) -> None:
        """Called in a worker that begins to know the job."""
        _JOBS[self.name] = self.job

    def teardown(self, worker: Worker) -> None:
        """Called in a worker that need not know it any more."""
        with _LOCK:
            _JOBS.pop(self.name, None)
            _OPEN.pop(self.name, None)


def packed(argument: Block | Sheet) -> bytes:
    """What a task is given; only a worker looks into it."""
    return pickle.dumps(argument)


def predict_window(name: str, block: bytes) -> bytes:
    """A finished window of the job ``name``, see ``panoseg.maps.windows``."""
    return _opened(name).predict(pickle.loads(block))


def draw_packed_sheet(sheet: bytes) -> SheetOutlines:
    """The outlines of a sheet."""
    from panoseg.maps.sheets import draw_sheet

    return draw_sheet(pickle.loads(sheet))


def _opened(name: str) -> OpenJob:
    """The job with its cube and network, opened by one thread for all of a process."""
    from panoseg.maps.predict import OpenJob

    with _LOCK:
        if name not in _OPEN:
            opened = OpenJob(pickle.loads(_JOBS[name]))
            _ = opened.cube, opened.predictor
            _OPEN[name] = opened
        return _OPEN[name]
