"""Run the tasks of a map on a dask cluster, of this machine or one that is running already.

A scheduler unpickles the tasks that it passes on, and neither predicts nor draws. Therefore nothing
heavy is imported here, the arguments of a task are bytes to all but the worker, and the modules
that do the work are imported by a worker's first task.
"""

from __future__ import annotations

import logging
import pickle
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from distributed import (
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    Worker,
    WorkerPlugin,
    as_completed,
)

from panoseg.errors import ClusterError, OutputError

if TYPE_CHECKING:
    from panoseg.maps import RunOptions
    from panoseg.maps.outlines import Sheet, SheetOutlines
    from panoseg.maps.predict import OpenJob, PredictionJob
    from panoseg.maps.windows import Block, Save


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


_IN_FLIGHT = 2
"""Tasks for each thread of the cluster: one that it does and one that waits for it."""
_RETRIES = 2
CONNECT_S = 20
"""Seconds in which a scheduler must answer."""
_NO_RECORD = {"distributed.worker.profile.enabled": False}
"""Of a worker process: what it did in each second is for a page that nobody opens, and grows for an
hour.
"""


def local_cluster(workers: int, **options: Any) -> LocalCluster:  # noqa: ANN401
    """Return a cluster of workers on this machine, without dashboard.

    The scheduler always has a server for pages. By default it takes port 8787, and warns
    where another cluster has it; here it takes any free port.

    Args:
        workers: Number of worker processes.
        **options: Further options of dask's ``LocalCluster``.
    """
    return LocalCluster(
        n_workers=workers,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        **options,
    )


@contextmanager
def cluster_for(running: RunOptions, job: PredictionJob) -> Iterator[Cluster]:
    """Return the cluster that the options ask for.

    Raises:
        ClusterError: No scheduler answers.
    """
    logging.getLogger("distributed").setLevel(
        logging.CRITICAL
    )  # an error reports what matters of it
    with ExitStack() as stack:
        address: Any = running.dask
        if address is None:
            quiet = {
                "threads_per_worker": 1,
                "silence_logs": logging.CRITICAL,
                "config": _NO_RECORD,
            }
            address = stack.enter_context(local_cluster(running.workers, **quiet))
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_S, set_as_default=False))
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(
                f"No dask scheduler answers at {address}: start it, or correct --dask."
            ) from error
        name = f"panoseg-{uuid.uuid4().hex}"
        client.register_plugin(JobPlugin(name, job))
        stack.callback(client.unregister_worker_plugin, name)
        yield Cluster(client, name)


class Cluster:
    """The workers of a cluster; see ``panoseg.maps.mapping.Workers``.

    Args:
        client: The connection to the scheduler.
        name: Name of the job that the workers know.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name

    def predict(
        self, windows: Sequence[tuple[int, Block]], save: Save, progress: Callable[[int], None]
    ) -> None:
        """Predict windows in any order, and give each to ``save`` when it is finished."""
        tiles = {number: len(block.tiles) for number, block in windows}
        for number, content in self._run(
            predict_window, ((number, (self.name, packed(block))) for number, block in windows)
        ):
            save(number, content)
            progress(tiles[number])

    def draw(self, sheets: Iterable[Sheet]) -> Iterator[tuple[int, SheetOutlines]]:
        """The outlines of sheets in any order, each with its number."""
        yield from self._run(
            draw_packed_sheet, ((number, (packed(sheet),)) for number, sheet in enumerate(sheets))
        )

    def _run(
        self, function: Callable[..., Any], tasks: Iterable[tuple[int, tuple[Any, ...]]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the results of tasks in any order, each with the number of its task.

        No more tasks are submitted than the workers can soon do.
        """
        numbers: dict[Any, int] = {}
        waiting, flying = iter(tasks), as_completed(loop=self.client.loop)

        def take() -> None:
            most = _IN_FLIGHT * max(1, sum(self.client.nthreads().values()))
            while len(numbers) < most and (task := next(waiting, None)) is not None:
                future = self.client.submit(
                    function, *task[1], key=f"{self.name}-{uuid.uuid4().hex}", retries=_RETRIES
                )
                numbers[future.key] = task[0]
                flying.add(future)

        take()
        for future in flying:
            yield numbers.pop(future.key), _result(future)
            take()


def _result(future: Future[Any]) -> Any:  # noqa: ANN401
    """Return the result of a task, or raise its error.

    Raises:
        ClusterError: The cluster has gone.
        OutputError: No worker could finish the task.
    """
    if future.cancelled():
        raise ClusterError(
            "The cluster has gone. Start it and run the same command again: the map continues."
        )
    try:
        return future.result()
    except KilledWorker as error:
        raise OutputError(
            "A task ended several workers, perhaps for want of memory. Give them more memory or"
            " fewer threads and run the same command again: the map continues."
        ) from error
