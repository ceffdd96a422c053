"""Scenes that cannot be read while a cube is made: left out one by one, unless so many fail that it is not the scenes."""

from __future__ import annotations

import sys
import threading
from typing import Any, NoReturn

from panoseg.cube.mosaic import UnreadableSceneError
from panoseg.cube.store import Journal
from panoseg.errors import CubeError

# So many scenes in a row, of several dates, that cannot be read: it is not the scenes.
_SCENES_IN_A_ROW, _DATES_IN_A_ROW = 12, 3


class StoppedError(Exception):
    """Another date has failed for good."""


class Failures:
    """What was left out of a cube, and when to stop; for many threads, which note what they have done through it.

    stopped: set where the work ends, after the window that each thread is at.
    """

    def __init__(self, journal: Journal) -> None:
        self.stopped = threading.Event()
        self._journal = journal
        # An earlier start has stopped for scenes that cannot be read: those whose files are gone now are gone for good.
        self._asked_before = journal.tried_again
        self._in_a_row: list[tuple[str, str]] = []
        self._hopeless = False  # nothing can be read: scenes that were left out are tried again by the next start
        self._lock = threading.Lock()

    def note(self, event: str, **facts: Any) -> None:
        """Note what was done, unless the scenes that it was done with are others by now."""
        with self._lock:
            if self._hopeless:
                raise StoppedError
            self._journal.add(event, **facts)

    def went_well(self) -> None:
        """A scene was read: those that cannot be are to blame themselves."""
        with self._lock:
            self._in_a_row.clear()

    def leave_out(self, day: str, error: UnreadableSceneError) -> None:
        """Go on without a scene. Raises ``CubeError`` where so many fail that it is not the scenes."""
        with self._lock:
            if self.stopped.is_set():  # by another thread, perhaps because of the same network: no word against a scene
                raise StoppedError
            print(f"left out: scene {error.scene} of {day}: {error.reason}", file=sys.stderr, flush=True)
            self._journal.add("left out", day=day, scene=error.scene, reason=error.reason)
            if error.gone and self._asked_before:
                return
            self._in_a_row.append((day, error.scene))
            if len(self._in_a_row) >= _SCENES_IN_A_ROW and len({day for day, _ in self._in_a_row}) >= _DATES_IN_A_ROW:
                self._stop(error.reason)

    def _stop(self, reason: str) -> NoReturn:
        self._hopeless = True
        self.stopped.set()
        self._journal.add("try again", scenes=[scene for _, scene in self._in_a_row])
        raise CubeError(
            f"{len(self._in_a_row)} scenes in a row cannot be read (the last: {reason})",
            "files that can be read",
            "run the same command again later: what was fetched is kept, and scenes whose files are still gone are left out",
        )

    def nothing_left(self, found: str) -> NoReturn:
        """Raise ``CubeError``: there is no date. Scenes that could not be read are tried again by the next start."""
        left_out = self._journal.left_out
        reasons = sorted({reason for _, reason in left_out.values()})
        unread = f", {len(left_out)} scenes could not be read ({reasons[0]})" if reasons else ""
        if reasons:
            self._journal.add("try again", scenes=list(left_out))
        raise CubeError(
            f"{found}{unread}", "dates with a clear view", "take a longer season, lower --min-clear, or try again later"
        )
