"""The tasks of the workers of a dask cluster, light enough for a scheduler to unpickle.

A scheduler unpickles the tasks that it passes on, and neither predicts nor draws. Therefore nothing
heavy is imported here, the arguments of a task are bytes to all but the worker, and the modules
that do the work are imported by a worker's first task.
"""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING

from distributed import Worker, WorkerPlugin

if TYPE_CHECKING:
    from panoseg.maps.outlines import Sheet, SheetOutlines
    from panoseg.maps.predict import OpenJob, PredictionJob
    from panoseg.maps.windows import Block

_JOBS: dict[str, bytes] = {}
"""In a worker: the jobs that it knows, by name."""
_OPEN: dict[str, OpenJob] = {}
_LOCK = threading.Lock()


class JobPlugin(WorkerPlugin):
    """Sends a job to every worker, also to those that join later."""

    def __init__(self, name: str, job: PredictionJob) -> None:
        self.name, self.job = name, pickle.dumps(job)

    def setup(self, worker: Worker) -> None:
        """Keep the job in a worker."""
        _JOBS[self.name] = self.job

    def teardown(self, worker: Worker) -> None:
        """Forget the job in a worker."""
        with _LOCK:
            _JOBS.pop(self.name, None)
            _OPEN.pop(self.name, None)


def packed(argument: Block | Sheet) -> bytes:
    """What a task is given; only a worker looks into it."""
    return pickle.dumps(argument)


def predict_window(name: str, packed_block: bytes) -> bytes:
    """Return a finished window of the job ``name``, see ``panoseg.maps.windows``."""
    from panoseg.maps.predict import finished

    opened, block = _opened(name), pickle.loads(packed_block)
    images = opened.read(block)
    found = opened.model.predict_tiles(images.tiles, opened.job.days_T)
    return finished(block, images, found)


def draw_packed_sheet(sheet: bytes) -> SheetOutlines:
    """The outlines of a sheet."""
    from panoseg.maps.outlines import draw_sheet

    return draw_sheet(pickle.loads(sheet))


def _opened(name: str) -> OpenJob:
    """The job with its cube and network, opened by one thread for all of a process."""
    from panoseg.maps.predict import OpenJob

    with _LOCK:
        if name not in _OPEN:
            opened = OpenJob(pickle.loads(_JOBS[name]))
            _ = opened.cube, opened.model
            _OPEN[name] = opened
        return _OPEN[name]
