"""A function in a process of its own that may use so much memory and time: for readers that strangers' files can mislead."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from panoseg.errors import AppError, PanosegError
from panoseg.processes import belong_to_parent

_MEMORY = 4 * 1024**3
_SECONDS = 120
_MOST = threading.Semaphore(2)
"""So many at a time, whatever number of people upload."""
_PRELOADED = (
    "panoseg.app.uploads",
    "panoseg.app.confined",
    "panoseg.imagery.area",
    "panoseg.maps.read_parcels",
    "panoseg.cube.check",
    "panoseg.cube.open",
    "panoseg.data.photograph_files",
)


def prepare() -> None:
    """Load what the processes need, ahead of the first one."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))
    forkserver.ensure_running()


def confined(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, computed elsewhere; both must be importable, and the result and arguments picklable.

    Raises the ``PanosegError`` that it raises, or ``AppError`` where it fails, takes more than 120 s, or more than 4 GiB.
    """
    prepare()
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    with _MOST, receiver:
        process = context.Process(target=_run, args=(sender, function, arguments), daemon=True)
        process.start()
        sender.close()
        try:
            answer = receiver.recv() if receiver.poll(_SECONDS) else None
        except EOFError:
            answer = None
        finally:
            process.kill()
            process.join()
            process.close()
    if answer is None:
        raise AppError("an upload at which its reader failed, or took too long", "a smaller, whole file", "write it again")
    if isinstance(answer, PanosegError):
        raise answer
    return answer[0]


def _run(sender: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    belong_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer: Any = (function(*arguments),)
    except PanosegError as error:
        answer = error
    except MemoryError:
        answer = None
    sender.send(answer)
