"""Processes that share work: they start without torch's threads, leave interrupts to their parent,
and end when it does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from panoseg.errors import OutputError


def usable_cores() -> int:
    """Cores that this process may use; where the system does not tell, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes; what waits for them when the block ends is given up. Raises
    ``OutputError`` where one of them died.
    """
    # A fresh interpreter each: forking a process that holds torch's threads can hang.
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=belong_to_parent
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise OutputError(
            "a process was ended, perhaps for memory", "all of them alive", "use fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def belong_to_parent() -> None:
    """Called in a process of ``multiprocessing``: leave interrupts to the parent, and end with
    it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this a killed command leaves processes behind that wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
