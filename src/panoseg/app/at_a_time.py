"""How many of something may go on at a time, for a user and for all: what is slow must not take the server from the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

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
        """One of a user's, as long as the block lasts. Raises ``LimitError`` for the user's own, ``BusyError`` for others'."""
        with self._lock:
            if self._taken[user] >= self.of_user:
                found = f"{self._taken[user]} {self.what} of yours under way"
                raise LimitError(found, f"at most {self.of_user} at a time", "wait until one has ended")
            if self._taken.total() >= self.of_all:
                raise BusyError(f"{self.what} of {self.of_all} others", "a free place", "try again in a minute")
            self._taken[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[user] -= 1
                self._taken += Counter()  # forgets whoever has none
