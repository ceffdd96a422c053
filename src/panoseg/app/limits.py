"""How many of something may go on at a time, for a user and for all: what is slow must not take the
server from the others.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter

from panoseg.errors import BusyError, LimitError


class AtATime:
    """So many at a time of something that takes long.

    >>> downloads = AtATime("downloads", of_user=1, of_all=2)
    >>> with downloads.of("ada"), downloads.of("bob"):
    ...     with downloads.of("ada"):
    ...         pass
    Traceback (most recent call last):
    panoseg.errors.LimitError: 1 downloads of yours under way; expected at most 1 at a time; wait until one has ended
    """

    def __init__(self, what: str, *, of_user: int, of_all: int) -> None:
        self.what, self.of_user, self.of_all = what, of_user, of_all
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def of(self, user: str) -> Iterator[None]:
        """One of a user's, as long as the block lasts. Raises ``LimitError`` for the user's own,
        ``BusyError`` for others'.
        """
        with self._lock:
            if self._taken[user] >= self.of_user:
                found = f"{self._taken[user]} {self.what} of yours under way"
                raise LimitError(
                    found, f"at most {self.of_user} at a time", "wait until one has ended"
                )
            if self._taken.total() >= self.of_all:
                raise BusyError(
                    f"{self.what} of {self.of_all} others", "a free place", "try again in a minute"
                )
            self._taken[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[user] -= 1
                self._taken += Counter()  # forgets whoever has none


TILES = CapacityLimiter(8)
"""Threads that look tiles up and draw them."""
LOOKS = CapacityLimiter(4)
"""Threads that answer what a click asks, some of it from the rasters of all dates."""


class Turns:
    """At most so many requests of one person use threads at once, so that others never wait for all
    that this one asks.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, person: str) -> asyncio.Semaphore:
        """To be held while a request is answered; forgotten once nobody holds it or waits for
        it.
        """
        turn = self._turns.get(person)
        if turn is None:
            turn = self._turns[person] = asyncio.Semaphore(self._most)
        return turn


Value = TypeVar("Value")
_ENTRY = 500
"""Bytes that an entry takes beside its value."""


class BoundedCache(Generic[Value]):
    """Values by keys; those asked for longest ago are forgotten first. Safe to use from many
    threads.

    What a value is made of belongs into its key, stamps of files too: nothing else makes a value go
    out of date.
    """

    def __init__(self, most_bytes: int, size_of: Callable[[Value], int]) -> None:
        """most_bytes: of all values together, which are as large as ``size_of`` says."""
        self.bytes, self._most, self._size_of = 0, most_bytes, size_of
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._pending: dict[Hashable, Future[Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made by ``make`` where it is not there. Raises what ``make``
        raises.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            pending = self._pending.get(key)
            own = pending is None
            if pending is None:
                pending = self._pending[key] = Future()
        if own:
            self._make(key, make, pending)
        return pending.result()

    def _make(self, key: Hashable, make: Callable[[], Value], pending: Future[Value]) -> None:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            pending.set_exception(error)
            return
        with self._lock:
            del self._pending[key]
            self._values[key] = value
            self.bytes += self._size_of(value) + _ENTRY
            while self.bytes > self._most:
                self.bytes -= self._size_of(self._values.popitem(last=False)[1]) + _ENTRY
        pending.set_result(value)
