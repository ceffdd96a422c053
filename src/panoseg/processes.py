"""Work in several processes: workers that end with their parent, and images shared between them.

Workers are started without torch's threads, and interrupted and ended by their parent. Results for
many images come in order, and an error stays with its image.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TypeVar

from panoseg.errors import ConfigError, OutputError, PanosegError
from panoseg.files import hold_folder


def usable_cores() -> int:
    """Return the number of cores that this process may use; all of them if that is unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of worker processes; tasks that wait when the block ends are cancelled.

    Raises:
        OutputError: One of the processes died.
    """
    # A fresh interpreter each: forking a process that holds torch's threads can hang.
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=belong_to_parent
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise OutputError(
            "A worker process was ended, perhaps because memory ran out: use fewer processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def belong_to_parent() -> None:
    """Make a process of ``multiprocessing`` leave interrupts to its parent and end with it.

    Without this a killed command leaves processes behind that wait for work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def is_first_process() -> bool:
    """Return whether this is the process that writes, before Fabric has started the others."""
    return all(
        int(os.environ.get(name, "0")) == 0
        for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
    )


def hold_in_first_process(folder: Path | str) -> AbstractContextManager[None]:
    """Hold the output folder of work that several processes do: the first of them writes it."""
    return hold_folder(folder) if is_first_process() else nullcontext()


Job = TypeVar("Job")
Result = TypeVar("Result")

_LARGEST_CHUNK = 8
_AHEAD = 3
_WORTH_A_PROCESS = 64
_KEPT_BYTES = 2**24


def over_images(
    function: Callable[[Job], Result], jobs: Iterable[Job], count: int, processes: int | None = None
) -> Iterator[Result | PanosegError]:
    """Yield the results of a function over jobs, in their order.

    A ``PanosegError`` that the function raises is the result of that job. Only a few jobs per
    process are read ahead, so memory does not grow with their number.

    Args:
        function: Called with each job; both must be picklable.
        jobs: One per image.
        count: Number of jobs.
        processes: 1 up to the number of cores, this process included; by default one per 64 jobs.
    """
    cores = usable_cores()
    if processes is not None and not 1 <= processes <= cores:
        raise ConfigError(
            f"--processes is {processes}, but this machine lets you use {cores} cores; "
            f"pass 1 to {cores}."
        )
    processes = min(processes or -(-count // _WORTH_A_PROCESS), cores, count)
    if processes <= 1:
        _keep_freed_memory()
        for job in jobs:
            yield _attempt(function, job)
    else:
        # Few jobs are large ones (shards): small chunks give every process some.
        chunk = min(_LARGEST_CHUNK, -(-count // (_AHEAD * processes)))
        yield from _in_pool(function, jobs, processes, chunk)


def _in_pool(
    function: Callable[[Job], Result], jobs: Iterable[Job], processes: int, size: int
) -> Iterator[Result | PanosegError]:
    """Share the jobs between this process and ``processes - 1`` others.

    This process works too, because starting another one takes as long as hundreds of images.
    """
    remaining = iter(jobs)
    chunks = iter(lambda: list(islice(remaining, size)), [])
    # Fresh interpreters: forking a process that holds torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes - 1, context, initializer=_start_worker)
    waiting: deque[Future[list[Result | PanosegError]]] = deque()
    starting: list[Future[list[Result | PanosegError]]] = []
    most_waiting, most_given = 2 * _AHEAD * processes, _AHEAD * (processes - 1)
    _keep_freed_memory()
    try:
        # An empty chunk imports the function's module and shows when a process is there.
        starting += (pool.submit(_attempt_all, function, []) for _ in range(processes - 1))
        while True:
            given = sum(not each.done() for each in waiting)
            if any(each.done() for each in starting):
                while given < most_given and len(waiting) < most_waiting:
                    chunk = next(chunks, None)
                    if chunk is None:
                        break
                    waiting.append(pool.submit(_attempt_all, function, chunk))
                    given += 1
            if waiting and waiting[0].done():
                yield from waiting.popleft().result()
            elif len(waiting) < most_waiting and (chunk := next(chunks, None)) is not None:
                own: Future[list[Result | PanosegError]] = Future()
                own.set_result(_attempt_all(function, chunk))
                waiting.append(own)
            elif waiting:
                yield from waiting.popleft().result()
            else:
                return
    except BrokenProcessPool as error:
        raise OutputError(
            "A process was ended, perhaps because the memory is full; pass fewer --processes."
        ) from error
    finally:
        # Processes that are not even there yet end by themselves; nothing waits for them.
        pool.shutdown(wait=any(each.done() for each in starting), cancel_futures=True)


def _start_worker() -> None:
    """Prepare a new process: one thread each, and freed memory is kept."""
    belong_to_parent()
    # Read by torch when a job imports it: the processes share the cores already.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep freed rasters instead of returning them to the system.

    Otherwise the pages of each new raster are mapped and zeroed again, which takes up to a third of
    the time of an image. glibc raises its threshold when a large block is freed (mallopt(3),
    M_MMAP_THRESHOLD); other allocators are not affected.
    """
    import numpy as np  # here, because commands that only print --help do not need it

    np.empty(_KEPT_BYTES, np.uint8)


def _attempt_all(
    function: Callable[[Job], Result], jobs: Sequence[Job]
) -> list[Result | PanosegError]:
    return [_attempt(function, job) for job in jobs]


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | PanosegError:
    try:
        return function(job)
    except PanosegError as error:
        return error
