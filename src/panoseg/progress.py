"""Progress of long work: a bar on a terminal, lines elsewhere, or calls of a listener."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TextIO, TypeVar

Item = TypeVar("Item")

Listener = Callable[[str, int, int | None], None]
"""Called with a description, the number of items done, and their total number if it is known."""

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_JSON = 1.0
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report the progress inside of the block to ``listener`` instead of showing it.

    An exception of the listener ends the work.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield ``items`` and show on standard error how many are done and the time left.

    Args:
        items: The work.
        description: What is counted, such as "tiles".
        total: Number of items, if ``items`` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    listener = _LISTENER.get()
    if listener is not None:
        yield from _reported(items, description, total, listener)
    elif sys.stderr.isatty():
        yield from _bar(items, description, total)
    else:
        yield from _lines(items, description, total)


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress as ``track`` does, of work that reports it with a callback.

    Yields a function that is called with how many more of ``total`` items are done.
    """
    steps = track(range(total), description, total)
    next(steps, None)

    def advance(more: int) -> None:
        for _ in range(more):
            next(steps, None)

    try:
        yield advance
    finally:
        steps.close()  # type: ignore[attr-defined]


def _reported(
    items: Iterable[Item], description: str, total: int | None, listener: Listener
) -> Iterator[Item]:
    listener(description, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        listener(description, done, total)


def _bar(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=description)


def _lines(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    first = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == 1:
            # The first item includes the cost of starting; the pace is that of the others.
            first = now
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (
                f", {_duration((now - first) / (done - 1) * (total - done))} left"
                if total and done > 1
                else ""
            )
            print_line(f"{description}: {done}{f' of {total}' if total else ''}{left}", sys.stderr)


def print_line(line: str, stream: TextIO) -> None:
    """Print a line; the work goes on if it cannot be printed (a closed pipe, a full disk)."""
    with suppress(OSError):
        print(line, file=stream, flush=True)


def _duration(seconds: float) -> str:
    """Return a duration as text.

    >>> [_duration(40), _duration(400), _duration(40_000)]
    ['40 s', '7 min', '11 h 7 min']
    """
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def json_lines(stream: TextIO) -> Listener:
    """Return a listener that writes JSON lines: at most one a second, and the ends of a step.

    The keys are step, done, total (null if unknown), seconds (since the step began) and
    seconds_left (null if unknown).
    """
    start: dict[str, float] = {}
    last: dict[str, float] = {}

    def write_line(step: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done == 0:
            start[step] = now
        elif now - last[step] < _SECONDS_BETWEEN_JSON and done != total:
            return
        last[step] = now
        seconds = now - start[step]
        left = round(seconds / done * (total - done), 1) if total is not None and done else None
        line = {
            "step": step,
            "done": done,
            "total": total,
            "seconds": round(seconds, 1),
            "seconds_left": left,
        }
        print_line(json.dumps(line), stream)

    return write_line
