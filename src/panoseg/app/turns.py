"""Which threads requests of results use, and whose turn it is: no tile waits for what takes long, or for whoever asks much."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from anyio import CapacityLimiter

TILES = CapacityLimiter(8)
"""Threads that look tiles up and draw them."""
LOOKS = CapacityLimiter(4)
"""Threads that answer what a click asks, some of it from the rasters of all dates."""


class Turns:
    """At most so many requests of one person use threads at once, so that others never wait for all that this one asks."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, person: str) -> asyncio.Semaphore:
        """To be held while a request is answered; forgotten once nobody holds it or waits for it."""
        turn = self._turns.get(person)
        if turn is None:
            turn = self._turns[person] = asyncio.Semaphore(self._most)
        return turn
