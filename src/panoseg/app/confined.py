"""Functions run in a separate process with bounded memory and time.

Uploads and downloads are read this way: a damaged or malicious file can make its reader use up all
memory or never return.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import ParamSpec, TypeVar, cast

from panoseg.errors import AppError, BusyError, PanosegError
from panoseg.platforms import limit_resources, start_fork_server
from panoseg.processes import belong_to_parent

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


class Slots:
    """Turns of users: how many functions run at the same time, and how many of them of one user.

    One user has all slots but one at most. Of those that wait, the users whose last turn is longest
    ago come first, each with what was asked first.

    Args:
        count: How many run at the same time.
    """

    def __init__(self, count: int) -> None:
        self._count, self._most = count, max(1, count - 1)
        self._changed = threading.Condition()
        self._running: Counter[str] = Counter()
        self._waiting: list[str] = []
        self._turns = 0
        self._last_turn: dict[str, int] = {}

    @contextmanager
    def turn(self, user: str, seconds: float) -> Iterator[None]:
        """Wait for a turn of a user, and hold it for the block.

        Args:
            user: Name of the user; empty where nobody in particular asks.
            seconds: How long to wait.

        Raises:
            BusyError: There was none for so long.
        """
        with self._changed:
            self._waiting.append(user)
            try:
                if not self._changed.wait_for(lambda: self._next() == user, seconds):
                    raise BusyError("The server is busy; try again in a minute.")
                self._turns += 1
                self._last_turn[user] = self._turns
                self._running[user] += 1
            finally:
                self._waiting.remove(user)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running[user] -= 1
                self._changed.notify_all()

    def _next(self) -> str | None:
        """Return the user whose turn it is, if there is a slot."""
        if self._running.total() >= self._count:
            return None
        free = [user for user in self._waiting if not user or self._running[user] < self._most]
        return min(free, key=lambda user: self._last_turn.get(user, 0), default=None)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Resources that a function may use."""

    task: str
    """What the function does, for messages, such as "Reading the upload"."""
    gib: int
    """Address space of the process in GiB."""
    seconds: int
    """Seconds, of the clock and of the processor."""
    slots: Slots
    """A turn is held while the function runs."""
    user: str = ""
    """Whose turn it is."""

    def of(self, user: str) -> Bounds:
        """Return the same bounds for a function that a user asks for."""
        return replace(self, user=user)


UPLOAD = Bounds("Reading the upload", 4, 120, Slots(2))
OUTLINE = Bounds("Reading the outline", 2, 20, Slots(2))
"""Somebody waits while an outline is read, and drawn outlines are small."""
SEASON = Bounds("Reading the season", 8, 1800, Slots(1))
REGISTER = Bounds("Comparing with the official parcels", 8, 1800, Slots(1))
EXPORT = Bounds("Making the training data", 8, 900, Slots(2))
DOWNLOAD = Bounds("Writing the file", 8, 900, Slots(2))
_PRELOADED = (
    "panoseg.app.upload_content",
    "panoseg.app.confined",
    "panoseg.imagery.area",
    "panoseg.maps.inspect",
    "panoseg.maps.read_parcels",
    "panoseg.cube.check",
    "panoseg.cube.open",
    "panoseg.data.photograph_files",
)


@cache
def preload() -> BaseContext:
    """Import what confined functions need, so that it takes none of the first one's time.

    Returns:
        How their processes are started.
    """
    return start_fork_server(_PRELOADED)


def run_confined(
    bounds: Bounds,
    function: Callable[_Arguments, _Result],
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Result:
    """Return ``function(*arguments, **options)``, computed in a separate process.

    Args:
        bounds: Resources that it may use.
        function: A function that can be imported.
        *arguments: Its arguments; like its result, they must be picklable.
        **options: Its keyword arguments.

    Raises:
        PanosegError: What the function raises.
        AppError: The function failed otherwise, or exceeded its bounds.
        BusyError: Others occupied all slots for ``bounds.seconds``.
    """
    context = preload()
    with bounds.slots.turn(bounds.user, bounds.seconds):
        answer = _answer_of(context, bounds, function, arguments, options)
    if answer is None:
        raise AppError(
            f"{bounds.task} failed, or took more than {bounds.seconds} s or {bounds.gib} GiB of"
            " memory. Try it with less data, or write the file again."
        )
    if isinstance(answer, PanosegError):
        raise answer
    return cast(_Result, answer[0])


def _answer_of(
    context: BaseContext,
    bounds: Bounds,
    function: Callable[..., object],
    arguments: tuple[object, ...],
    options: dict[str, object],
) -> tuple[object] | PanosegError | None:
    """Return the result in a tuple, the error that was raised, or None if there is neither."""
    receiver, sender = context.Pipe(duplex=False)
    with receiver:
        process = context.Process(  # type: ignore[attr-defined]
            target=_run,
            args=(sender, function, arguments, options, bounds.gib, bounds.seconds),
            daemon=True,
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
    sender: Connection,
    function: Callable[..., object],
    arguments: tuple[object, ...],
    options: dict[str, object],
    gib: int,
    seconds: int,
) -> None:
    belong_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    limit_resources(gib, seconds)
    answer: tuple[object] | PanosegError | None
    try:
        answer = (function(*arguments, **options),)
    except PanosegError as error:
        answer = error
    except MemoryError:
        answer = None
    sender.send(answer)
