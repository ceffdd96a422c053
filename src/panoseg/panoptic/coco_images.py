"""Many images, one after the other or over processes; what is wrong with one image leaves the others alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from panoseg.errors import ConfigError, OutputError, PanosegError

Job = TypeVar("Job")
Result = TypeVar("Result")

_LARGEST_CHUNK = 8
_AHEAD = 3
_WORTH_A_PROCESS = 64


def over_images(
    function: Callable[[Job], Result], jobs: Iterable[Job], count: int, processes: int | None = None
) -> Iterator[Result | PanosegError]:
    """What a function makes of each job, in their order; a ``PanosegError`` that it raises is the result of that job.

    The function and the jobs must be such that can be pickled. count: number of jobs. processes: by default one for every 64
    images, at most one a core. Only a few jobs a process are under way, so that memory does not grow with their number.
    """
    cores = usable_cores()
    if processes is not None and not 1 <= processes <= cores:
        raise ConfigError(f"processes {processes}", f"1 .. {cores}, the cores that may be used", "pass fewer --processes")
    processes = min(processes or -(-count // _WORTH_A_PROCESS), cores, count)
    if processes <= 1:
        for job in jobs:
            yield _attempt(function, job)
    else:
        chunk = min(_LARGEST_CHUNK, -(-count // (_AHEAD * processes)))  # few jobs are large ones: all processes have some
        yield from _in_pool(function, jobs, processes, chunk)


def usable_cores() -> int:
    """Cores that this process may use; where the system does not tell, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_pool(
    function: Callable[[Job], Result], jobs: Iterable[Job], processes: int, size: int
) -> Iterator[Result | PanosegError]:
    jobs = iter(jobs)
    # A fresh interpreter each: forking a process that holds torch's threads can hang.
    # An interrupt is for this process, which ends the others.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=signal.signal, initargs=ignore)
    waiting: deque[Future] = deque()
    try:
        while True:
            while len(waiting) < _AHEAD * processes and (chunk := list(islice(jobs, size))):
                waiting.append(pool.submit(_attempt_all, function, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OutputError("a process was ended, perhaps for memory", "all of them alive", "pass fewer --processes") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt_all(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result | PanosegError]:
    return [_attempt(function, job) for job in jobs]


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | PanosegError:
    try:
        return function(job)
    except PanosegError as error:
        return error
