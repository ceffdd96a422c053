"""A function in a process of its own that may use so much memory and time: for readers that
strangers' files can mislead.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from panoseg.errors import AppError, BusyError, PanosegError
from panoseg.processes import belong_to_parent

_GIB = 1024**3


@dataclass(frozen=True, eq=False)
class Bounds:
    """How much a process may use. what: of what it makes, for people. gib: of memory. seconds: of
    time. turns: so many at a time, whatever number of people ask.
    """

    what: str
    gib: int
    seconds: int
    turns: threading.Semaphore


UPLOAD = Bounds("an upload at which its reader", 4, 120, threading.Semaphore(2))
OUTLINE = Bounds("an outline at which its reader", 2, 20, threading.Semaphore(2))
"""Outlines are read while somebody waits, and those that people draw are small."""
SEASON = Bounds("a season whose reading", 8, 1800, threading.Semaphore(1))
REGISTER = Bounds("official parcels whose comparison", 8, 1800, threading.Semaphore(1))
EXPORT = Bounds("training data whose making", 8, 900, threading.Semaphore(2))
_PRELOADED = (
    "panoseg.app.uploads",
    "panoseg.app.confined",
    "panoseg.imagery.area",
    "panoseg.maps.read_parcels",
    "panoseg.cube.check",
    "panoseg.cube.open",
    "panoseg.data.photograph_files",
)


@cache
def prepare() -> None:
    """Load what the processes need, ahead of the first one, of whose time that takes nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    first = context.Process(target=_do_nothing, daemon=True)
    first.start()
    first.join()


def _do_nothing() -> None:
    """What the first process does, which is there to wait for."""


def confined(function: Callable[..., Any], *arguments: Any, bounds: Bounds = UPLOAD) -> Any:
    """``function(*arguments)``, computed elsewhere; it must be importable, the result and arguments
    picklable.

    Raises the ``PanosegError`` that it raises, ``AppError`` where it fails or goes beyond its
    bounds, and ``BusyError`` where others take all turns for as long.
    """
    prepare()
    if not bounds.turns.acquire(timeout=bounds.seconds):
        raise BusyError(
            "more to read than this server has hands for", "some patience", "try again in a minute"
        )
    try:
        answer = _answer_of(function, arguments, bounds)
    finally:
        bounds.turns.release()
    if answer is None:
        most = f"{bounds.seconds} s or {bounds.gib} GiB"
        raise AppError(
            f"{bounds.what} failed, or took more than {most}",
            "one that takes less",
            "make it smaller, or write it again",
        )
    if isinstance(answer, PanosegError):
        raise answer
    return answer[0]


def _answer_of(function: Callable[..., Any], arguments: tuple, bounds: Bounds) -> Any:
    """The result of a process in a tuple, the error that it raised, or None for none."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    with receiver:
        process = context.Process(
            target=_run, args=(sender, function, arguments, bounds.gib, bounds.seconds), daemon=True
        )
        process.start()
        sender.close()
        try:
            return receiver.recv() if receiver.poll(bounds.seconds) else None
        except EOFError:
            return None
        finally:
            process.kill()
            process.join()
            process.close()


def _run(
    sender: Connection, function: Callable[..., Any], arguments: tuple, gib: int, seconds: int
) -> None:
    belong_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (gib * _GIB, gib * _GIB))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer: Any = (function(*arguments),)
    except PanosegError as error:
        answer = error
    except MemoryError:
        answer = None
    sender.send(answer)
