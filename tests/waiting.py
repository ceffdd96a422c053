"""Waiting in tests: for as long as something moves, however slowly, rather than until a time on a
clock.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from panoseg.files import hold_folder

QUIET_S = 300
"""Nothing has moved for so long: nothing will come."""
HANGS_S = 3600
"""It moves and gets nowhere."""
_SIGNS = (
    "SELECT id, state, stage, progress, message, claim, lease_until FROM jobs ORDER BY id",
    "SELECT MAX(number) FROM log_lines",
    (
        "SELECT id, seen FROM workers WHERE EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued',"
        " 'running')) ORDER BY id"
    ),
)
_T = TypeVar("_T")


def wait_until(holds: Callable[[], _T], signs: Callable[[], object], pause: float = 0.1) -> _T:
    """What ``holds`` gives as soon as that is true.

    signs: what changes while there is progress. Raises ``AssertionError`` where it stays the same
    for ``QUIET_S``.
    """
    began = moved = time.monotonic()
    last = signs()
    while not (found := holds()):
        now, current = time.monotonic(), signs()
        if current != last:
            last, moved = current, now
        assert now - moved < QUIET_S, f"nothing has moved for {QUIET_S} s: {last}"
        assert now - began < HANGS_S, f"it moves and gets nowhere: {last}"
        time.sleep(pause)
    return found


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[None]:
    """Another thread holds a folder."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with hold_folder(folder):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        yield
    finally:
        done.set()
        thread.join()


def signs_by(rows: Callable[[str], list]) -> tuple:
    """What changes while the jobs of a server move, and the heartbeats of workers where a job is
    left to do.

    rows: asks the database of the server.
    """
    return tuple(tuple(map(tuple, rows(query))) for query in _SIGNS)


def signs_of_jobs(folder: Path) -> tuple:
    """The same of a server's folder with its database in it; nothing where that does not answer."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{folder / 'app.sqlite'}?mode=ro", uri=True)) as database,
    ):
        return signs_by(lambda query: database.execute(query).fetchall())
    return ()


def signs_of_process(process: int) -> float:
    """The seconds that a process and its children have computed; nothing where it has ended."""
    with suppress(psutil.Error):
        parent = psutil.Process(process)
        return sum(sum(one.cpu_times()[:2]) for one in (parent, *parent.children(recursive=True)))
    return 0.0
