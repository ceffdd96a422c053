"""What Linux, macOS and Windows do differently with processes and files; docs/limits.md lists it.

Modules that only some systems have are imported where they are used.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path

OPEN_WAIT_S = 5.0
"""Seconds to wait on Windows until nobody has a file open that is to be renamed or removed."""


def start_fork_server(modules: Sequence[str]) -> BaseContext:
    """Start the server that processes are forked from, with modules that it imports once.

    On Linux alone: Windows cannot fork, and macOS ends forked processes that use its frameworks.
    There each process is a fresh interpreter, which imports the modules again.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    # The server starts, and imports, with the first process.
    first = context.Process(target=_do_nothing, daemon=True)
    first.start()
    first.join()
    return context


def _do_nothing() -> None:
    pass


def reader_context() -> BaseContext:
    """Return how processes that read training data are started.

    They are forked on Linux, where that is quick and shares memory, also with a Python that does
    not fork by default, and spawned elsewhere.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    return multiprocessing.get_context(method or ("fork" if sys.platform == "linux" else "spawn"))


def limit_resources(gib: int, seconds: int) -> None:
    """Limit the address space and the processor time of this process, and write no core dumps.

    Windows has no such limits, and macOS does not keep that of the address space; the time is
    bounded by the process that started this one as well.
    """
    try:
        import resource
    except ImportError:
        return
    for limit, value in (
        (resource.RLIMIT_AS, gib * 1024**3),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            if sys.platform == "linux":
                raise


def lower_priority(by: int) -> None:
    """Leave the processor to other processes; does nothing on Windows."""
    if hasattr(os, "nice"):
        os.nice(by)


def end_with_starter() -> None:
    """Let the system end this process when the one that started it ends, by SIGIO of their pipe.

    ``belong_to_parent`` needs the interpreter for that, which a library may hold for minutes. The
    parent process does not help: it is the fork server, which lives as long as its children. On
    Linux alone, where SIGIO ends a process; elsewhere ``belong_to_parent`` has to do.
    """
    starter = multiprocessing.parent_process()
    if starter is not None and sys.platform == "linux":
        import fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(starter.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(starter.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(starter.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def after_fork(call: Callable[[], None]) -> None:
    """Have a function called in each forked process, where there are any."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=call)


def move(source: Path, target: Path) -> None:
    """Rename a file or a folder, also over a file or an empty folder. Raises ``OSError``."""

    def rename() -> None:
        if sys.platform == "win32" and source.is_dir() and target.is_dir():
            target.rmdir()
        os.replace(source, target)

    persist(rename)


def persist(change: Callable[[], None]) -> None:
    """Make a change of files, on Windows again for a few seconds if it is refused.

    Windows refuses it while any program has the file open, such as a virus scanner that looks at
    each new one.
    """
    end = time.monotonic() + OPEN_WAIT_S
    while True:
        try:
            return change()
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > end:
                raise
            time.sleep(OPEN_WAIT_S / 100)


def open_for_lock(place: Path) -> tuple[int, Path]:
    """Open what is locked to hold a folder; return its descriptor and path."""
    path = locked(place)
    if sys.platform == "win32":  # the file goes when it is closed
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TEMPORARY), path
    return os.open(path, os.O_RDONLY), path


def locked(place: Path) -> Path:
    """Return what is locked to hold a folder: itself, or a file where folders cannot be opened."""
    return place.with_name(f".{place.name}.lock") if sys.platform == "win32" else place


def lock(descriptor: int) -> bool:
    """Lock a descriptor; False if another process holds it, True where there are no locks."""
    from filelock import lock_descriptor  # few commands hold a folder, and the import takes 50 ms

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:  # a file system without locks, or without locks of folders
        return True
