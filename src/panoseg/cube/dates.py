"""The dates of a cube: chosen by what they show, brought to disk by threads, window by window.

A scene that cannot be read is left out: its date is made again of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from panoseg.cube.failures import Failures, StoppedError
from panoseg.cube.mosaic import UnreadableSceneError, classification, mosaic, with_offset_seen
from panoseg.cube.options import CubeOptions
from panoseg.cube.season import CLEAR_CLASSES, spread_clearest
from panoseg.cube.store import DayStore, Journal, windows_of
from panoseg.imagery.area import inside, on_plane, sun_ahead
from panoseg.imagery.scenes import Scene
from panoseg.progress import track

_WINDOW = 1024
_LOOK_SIDE = 512  # pixels a side from which the clear share is known
_WATER = 6
_MOSTLY = 0.99


class Dates:
    """The dates of a cube that is made in the folder ``work``, whose journal says what is done; see ``build_cube``."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        grid: GeoBox,
        work: Path,
        options: CubeOptions,
        outline: BaseGeometry,
        bands: Sequence[str],
    ) -> None:
        self._grid, self._work, self._options, self._bands = grid, work, options, bands
        self._journal = Journal(work)
        self._failures = Failures(self._journal)
        self._days = _days(scenes, grid)
        near = on_plane(outline, str(grid.crs)).buffer(options.margin_m)
        windows = windows_of(grid, _WINDOW)
        self._windows = [w for w in windows if near.intersects(grid[w.rows, w.columns].extent.geom)]
        self._coarse = grid.zoom_out(max(1, math.ceil(max(grid.shape) / _LOOK_SIDE)))
        self._inside_HW = inside(outline, self._coarse)

    def choose(self) -> tuple[list[str], dict[str, str]]:
        """The days to fetch, and why others are not; what is chosen stays so. Raises ``CubeError`` where none is worth it."""
        if self._journal.chosen:
            return self._journal.chosen
        self._each([day for day in self._days if day not in self._journal.looks], self._look, "dates looked at")
        looks = {day: self._journal.looks[day] for day in self._days if day in self._journal.looks}
        seen = [day for day in looks if looks[day]["clear"] >= self._options.min_clear and looks[day]["data"] > 0]
        left_out = {day: _why(look) for day, look in looks.items() if day not in seen}
        if not seen:
            self._failures.nothing_left(f"none of {len(self._days)} dates shows {self._options.min_clear:.0%} of the area")
        clear = np.array([looks[day]["clear"] for day in seen])
        kept = spread_clearest(np.array(seen, "datetime64[D]"), clear, self._options.max_dates)
        left_out |= {seen[place]: "clearer dates near it" for place in np.setdiff1d(np.arange(len(seen)), kept)}
        chosen = [seen[place] for place in kept]
        self._journal.add("chosen", days=chosen, left_out=left_out)
        return chosen, left_out

    def fetch(self, chosen: Sequence[str]) -> None:
        """Bring all windows of the chosen days to disk. Raises ``CubeError`` where nothing could be read."""
        self._each([day for day in chosen if day not in self._journal.days], self._fetch, "dates fetched")
        if not any(self._journal.days.get(day) for day in chosen):
            self._failures.nothing_left(f"none of {len(chosen)} dates could be fetched")

    def record(self, chosen: Sequence[str], left_out: Mapping[str, str]) -> dict[str, Any]:
        """What came of the chosen days and of those that were left out, JSON-ready: the fields of ``CubeReport``."""
        days = {day: self._journal.days[day] for day in chosen if self._journal.days[day]}
        gone = {day: "no scene could be read" for day in self._days if not self._scenes(day)}
        looks = self._journal.looks
        is_water = all(looks[day]["water"] >= _MOSTLY for day in days)
        return {
            "scenes": days,
            "clear": {day: looks[day]["clear"] for day in days},
            "left_out_dates": dict(sorted({**left_out, **gone}.items())),
            "left_out_scenes": {scene: reason for scene, (_, reason) in self._journal.left_out.items()},
            "notes": [f"{_MOSTLY:.0%} of the area is water on every date."] if is_water else [],
        }

    def _each(self, days: Sequence[str], work: Callable[[str], None], what: str) -> None:
        """Do the work of all days; what stops one stops all, after the window that each is at."""
        with ThreadPoolExecutor(self._options.threads, thread_name_prefix="cube") as pool:
            try:
                for done in track(
                    as_completed([pool.submit(self._unless_stopped, work, day) for day in days]), what, len(days)
                ):
                    done.result()
            except BaseException:
                self._failures.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _unless_stopped(self, work: Callable[[str], None], day: str) -> None:
        try:
            if not self._failures.stopped.is_set():
                work(day)
        except StoppedError:
            pass
        except BaseException:
            self._failures.stopped.set()
            raise

    def _scenes(self, day: str) -> list[Scene]:
        return [scene for scene in self._days[day] if scene.id not in self._journal.left_out]

    def _look(self, day: str, *, again: bool = False) -> None:
        """Note what the scene classification of a day shows. again: of one whose bands failed, so that all is not well."""
        while scenes := self._scenes(day):
            try:
                shares = self._shares(scenes)
            except UnreadableSceneError as error:
                self._failures.leave_out(day, error)
            else:
                self._failures.note("look", day=day, shares=shares)
                if not again:
                    self._failures.went_well()
                return

    def _shares(self, scenes: Sequence[Scene]) -> dict[str, float]:
        classes = classification(scenes, self._coarse)[self._inside_HW]
        kinds = {"clear": CLEAR_CLASSES, "water": (_WATER,)}
        shares = {name: round(float(np.isin(classes, kind).mean()), 6) for name, kind in kinds.items()}
        return {**shares, "data": round(float((classes != 0).mean()), 6)}

    def _fetch(self, day: str) -> None:
        """Bring the windows of a day to disk; again without a scene that turns out to be unreadable."""
        store = DayStore(self._work, day, self._bands, self._grid)
        while scenes := self._scenes(day):
            if day not in self._journal.looks:  # without a scene that it was chosen with
                self._look(day, again=True)
                continue
            try:
                self._fetch_windows(day, store, [with_offset_seen(scene) for scene in scenes])
                break
            except UnreadableSceneError as error:
                self._failures.leave_out(day, error)
        self._failures.note("day", day=day, scenes=[scene.id for scene in scenes])

    def _fetch_windows(self, day: str, store: DayStore, scenes: Sequence[Scene]) -> None:
        for number, window in enumerate(self._windows):
            if self._failures.stopped.is_set():
                raise StoppedError
            if number not in self._journal.windows.get(day, ()):
                store.write(window, mosaic(scenes, self._bands, self._grid[window.rows, window.columns], self._options))
                self._failures.note("window", day=day, window=number)
                self._failures.went_well()


def _why(look: Mapping[str, float]) -> str:
    return f"{look['clear']:.0%} clear" if look["data"] > 0 else "no data inside the area"


def _days(scenes: Sequence[Scene], grid: GeoBox) -> dict[str, list[Scene]]:
    """Scenes by the day at the grid's place; of one day first those that need no warping, then the newest processing."""
    ahead, epsg = sun_ahead(grid), None if grid.crs is None else grid.crs.epsg
    days: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=lambda s: s.day(ahead)):
        days.setdefault(str(scene.day(ahead)), []).append(scene)
    return {
        day: sorted(of_day, key=lambda s: (s.epsg not in (0, epsg), -s.baseline, s.time, s.id)) for day, of_day in days.items()
    }
