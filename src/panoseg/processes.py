"""Worker processes: started without torch's threads, interrupted and ended by their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from panoseg.errors import OutputError
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
