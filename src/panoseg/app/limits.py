"""Limits that keep one slow request or busy user from taking the server from the others.

- ``ConcurrencyLimit``: operations at the same time, per user and in total; refuses above it.
- ``RequestQueue``: requests of one user at the same time; lets further ones wait.
- ``TILE_THREADS``, ``CLICK_THREADS``: threads for requests of the map pages.
- ``BoundedCache``: computed values within a number of bytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter
from cachetools import LRUCache

from panoseg.errors import BusyError, LimitError


class ConcurrencyLimit:
    """Limit of operations that run at the same time, per user and in total.

    >>> downloads = ConcurrencyLimit("downloads", per_user=1, total=2)
    >>> with downloads.slot("ada"), downloads.slot("bob"):
    ...     with downloads.slot("ada"):
    ...         pass
    Traceback (most recent call last):
    panoseg.errors.LimitError: You already have 1 downloads in progress; wait until one has ended.

    Args:
        what: Name of the operations in the plural, for messages.
        per_user: Most operations of one user.
        total: Most operations of all users.
    """

    def __init__(self, what: str, *, per_user: int, total: int) -> None:
        self.what, self.per_user, self.total = what, per_user, total
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    @contextmanager
    def slot(self, user: str) -> Iterator[None]:
        """Count as one operation of a user while the block runs.

        Raises:
            LimitError: The user has too many operations running.
            BusyError: All users together have too many.
        """
        with self._lock:
            if self._running[user] >= self.per_user:
                raise LimitError(
                    f"You already have {self._running[user]} {self.what} in progress; wait until"
                    " one has ended."
                )
            if self._running.total() >= self.total:
                raise BusyError(
                    f"The server is busy with {self.what} of other users; try again in a minute."
                )
            self._running[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[user] -= 1
                self._running += Counter()  # drops users whose count is 0


class RequestQueue:
    """Lets at most a number of requests of each user run at once; further ones wait.

    Without it, one user's many tiles would occupy all threads while others wait.

    Args:
        per_user: Most requests of one user that run at the same time.
    """

    def __init__(self, per_user: int) -> None:
        self._per_user = per_user
        self._semaphores: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def slot(self, user: str) -> asyncio.Semaphore:
        """Return the semaphore to hold while a request is answered.

        It is forgotten once nobody holds it or waits for it.
        """
        semaphore = self._semaphores.get(user)
        if semaphore is None:
            semaphore = self._semaphores[user] = asyncio.Semaphore(self._per_user)
        return semaphore


TILE_THREADS = CapacityLimiter(8)
"""Threads that look up and draw tiles."""
CLICK_THREADS = CapacityLimiter(4)
"""Threads that answer clicks on a map, some of which read the rasters of all dates."""

Value = TypeVar("Value")
_ENTRY_BYTES = 500
"""Memory of an entry without its value."""


class BoundedCache(Generic[Value]):
    """Least-recently-used cache whose size is counted in bytes; safe to use from many threads.

    Entries do not expire: everything that a value depends on, such as the modification time of a
    file, must be part of its key.

    Args:
        max_bytes: Most bytes of all entries together. A larger value is returned but not kept.
        size_of: Returns the size of a value in bytes.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._values: LRUCache[Hashable, Value] = LRUCache(
            max_bytes, getsizeof=lambda value: size_of(value) + _ENTRY_BYTES
        )
        self._lock = threading.Lock()
        self._key_locks: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()

    @property
    def bytes(self) -> int:
        """Bytes of all entries."""
        return int(self._values.currsize)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key; call ``make`` if it is missing.

        Requests for the same key wait for the first one instead of making the value again. Raises
        what ``make`` raises; the next request then tries again.
        """
        with self._lock:
            if key in self._values:
                return self._values[key]
            key_lock = self._key_locks.setdefault(key, threading.Lock())
        with key_lock:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            value = make()
            with self._lock:
                if self._values.getsizeof(value) <= self._values.maxsize:
                    self._values[key] = value
            return value
