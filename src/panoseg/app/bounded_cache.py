"""What was made lately, kept up to so many bytes, and made once however many ask for it at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")
_ENTRY = 500
"""Bytes that an entry takes beside its value."""


class BoundedCache(Generic[Value]):
    """Values by keys; those asked for longest ago are forgotten first. Safe to use from many threads.

    What a value is made of belongs into its key, stamps of files too: nothing else makes a value go out of date.
    """

    def __init__(self, most_bytes: int, size_of: Callable[[Value], int]) -> None:
        """most_bytes: of all values together, which are as large as ``size_of`` says."""
        self.bytes, self._most, self._size_of = 0, most_bytes, size_of
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._pending: dict[Hashable, Future[Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made by ``make`` where it is not there. Raises what ``make`` raises."""
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
