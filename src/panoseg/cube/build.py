"""Make a cube from scenes: choose its dates, fetch them window by window, and finish the store.

A scene that cannot be read is left out, and its date is made of the others. If many scenes in a row
cannot be read, the cause is not the scenes, and the work stops; the same call continues it.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.cube import CubeOptions
from panoseg.cube.metadata import RECORD, CubeReport, report_of
from panoseg.cube.scenes import (
    UnreadableSceneError,
    classification,
    correct_offset_with_retries,
    mosaic,
)
from panoseg.cube.season import CLEAR_CLASSES, spread_clearest
from panoseg.cube.store import DayStore, Journal, begin, discard, finish, windows_of, work_folder
from panoseg.errors import CubeError, OutputError
from panoseg.files import hold_folder, output_error
from panoseg.imagery.area import inside_mask, project_outline, solar_offset
from panoseg.imagery.remote import check_credentials
from panoseg.imagery.scenes import Scene, SceneAsset
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.progress import print_line, track
from panoseg.text_files import json_of

# After this many unreadable scenes in a row, of several dates, the cause is not the scenes.
_SCENES_IN_A_ROW, _DATES_IN_A_ROW = 12, 3
WINDOW = 1024
"""Pixels a side of the windows that are read at once."""
_LOOK_SIDE = 512  # pixels a side from which the clear share is computed
_WATER = 6
_MOSTLY = 0.99
_FREE_OPTIONS = ("threads",)  # change no byte of a cube


class StoppedError(Exception):
    """The work has stopped, because another date failed for good."""


class Failures:
    """What is left out of a cube, and when to stop.

    Threads share it, and write to the journal through it.
    """

    def __init__(self, journal: Journal) -> None:
        self.stopped = threading.Event()
        """Set when the work ends, after the window that each thread is at."""
        self._journal = journal
        # An earlier start has stopped for scenes that cannot be read: files that are missing now
        # are missing for good.
        self._stopped_before = journal.tried_again
        self._in_a_row: list[tuple[str, str]] = []
        # Nothing can be read; the next start tries the left out scenes again.
        self._gave_up = False
        self._lock = threading.Lock()

    def note(self, event: str, **facts: object) -> None:
        """Write what was done to the journal, unless the work has been given up."""
        with self._lock:
            if self._gave_up:
                raise StoppedError
            self._journal.add(event, **facts)

    def scene_was_read(self) -> None:
        """Note that a scene was read: the unreadable ones before it are to blame themselves."""
        with self._lock:
            self._in_a_row.clear()

    def leave_out(self, day: str, error: UnreadableSceneError) -> None:
        """Go on without a scene.

        Raises:
            CubeError: So many scenes fail that the cause is not the scenes.
            StoppedError: Another thread has stopped the work.
        """
        with self._lock:
            # Stopped by another thread, perhaps because of the same network: not the scene's fault.
            if self.stopped.is_set():
                raise StoppedError
            print_line(f"left out: scene {error.scene} of {day}: {error.reason}", sys.stderr)
            self._journal.add("left out", day=day, scene=error.scene, reason=error.reason)
            if error.gone and self._stopped_before:
                return
            self._in_a_row.append((day, error.scene))
            if (
                len(self._in_a_row) >= _SCENES_IN_A_ROW
                and len({day for day, _ in self._in_a_row}) >= _DATES_IN_A_ROW
            ):
                self._stop(error.reason)

    def _stop(self, reason: str) -> NoReturn:
        self._gave_up = True
        self.stopped.set()
        self._journal.add("try again", scenes=[scene for _, scene in self._in_a_row])
        raise CubeError(
            f"{len(self._in_a_row)} scenes in a row cannot be read (the last: {reason}). Run the"
            " same command again later: what was fetched is kept, and scenes whose files are still"
            " missing are left out."
        )

    def raise_nothing_left(self, found: str) -> NoReturn:
        """Raise ``CubeError``, because there is no date.

        The next start tries again the scenes that could not be read.
        """
        left_out = self._journal.left_out
        reasons = sorted({reason for _, reason in left_out.values()})
        unread = f", {len(left_out)} scenes could not be read ({reasons[0]})" if reasons else ""
        if reasons:
            self._journal.add("try again", scenes=list(left_out))
        raise CubeError(
            f"{found}{unread}: take a longer season, lower --min-clear, or try again later."
        )


class DateBuilder:
    """The dates of a cube that is made in the folder ``work``; see ``build_cube``."""

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
        self._days = _scenes_by_day(scenes, grid)
        near = project_outline(outline, str(grid.crs)).buffer(options.margin_m)
        windows = windows_of(grid, WINDOW)
        self._windows = [w for w in windows if near.intersects(grid[w.rows, w.columns].extent.geom)]
        self._coarse = grid.zoom_out(max(1, math.ceil(max(grid.shape) / _LOOK_SIDE)))
        self._inside_HW = inside_mask(outline, self._coarse)

    def choose(self) -> tuple[list[str], dict[str, str]]:
        """Return the days to fetch, and the other days with the reason; a choice stays as it is.

        Raises:
            CubeError: No day shows enough of the area.
        """
        if self._journal.chosen:
            return self._journal.chosen
        self._each(
            [day for day in self._days if day not in self._journal.looks],
            self._look,
            "dates checked",
        )
        looks = {day: self._journal.looks[day] for day in self._days if day in self._journal.looks}
        seen = [
            day
            for day in looks
            if looks[day]["clear"] >= self._options.min_clear and looks[day]["data"] > 0
        ]
        left_out = {
            day: f"{look['clear']:.0%} clear" if look["data"] > 0 else "no data inside the area"
            for day, look in looks.items()
            if day not in seen
        }
        if not seen:
            self._failures.raise_nothing_left(
                f"None of {len(self._days)} dates shows {self._options.min_clear:.0%} of the area"
            )
        clear = np.array([looks[day]["clear"] for day in seen])
        kept = spread_clearest(np.array(seen, "datetime64[D]"), clear, self._options.max_dates)
        left_out |= {
            seen[place]: "clearer dates near it"
            for place in np.setdiff1d(np.arange(len(seen)), kept)
        }
        chosen = [seen[place] for place in kept]
        self._journal.add("chosen", days=chosen, left_out=left_out)
        return chosen, left_out

    def fetch(self, chosen: Sequence[str]) -> None:
        """Bring all windows of the chosen days to disk.

        Raises:
            CubeError: Nothing could be read.
        """
        self._each(
            [day for day in chosen if day not in self._journal.days], self._fetch, "dates fetched"
        )
        if not any(self._journal.days.get(day) for day in chosen):
            self._failures.raise_nothing_left(f"None of {len(chosen)} dates could be fetched")

    def record(self, chosen: Sequence[str], left_out: Mapping[str, str]) -> dict[str, Any]:
        """Return what came of all days, JSON-ready: fields of ``CubeReport``."""
        days = {day: self._journal.days[day] for day in chosen if self._journal.days[day]}
        unreadable = {day: "no scene could be read" for day in self._days if not self._scenes(day)}
        looks = self._journal.looks
        is_water = all(looks[day]["water"] >= _MOSTLY for day in days)
        return {
            "scenes": days,
            "clear": {day: looks[day]["clear"] for day in days},
            "left_out_dates": dict(sorted({**left_out, **unreadable}.items())),
            "left_out_scenes": {
                scene: reason for scene, (_, reason) in self._journal.left_out.items()
            },
            "notes": [f"{_MOSTLY:.0%} of the area is water on every date."] if is_water else [],
        }

    def _each(self, days: Sequence[str], work: Callable[[str], None], what: str) -> None:
        """Do the work of all days in threads.

        An error stops all of them, after the window that each is at.
        """
        with ThreadPoolExecutor(self._options.threads, thread_name_prefix="cube") as pool:
            try:
                for done in track(
                    as_completed(
                        [pool.submit(self._run_unless_stopped, work, day) for day in days]
                    ),
                    what,
                    len(days),
                ):
                    done.result()
            except BaseException:
                self._failures.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _run_unless_stopped(self, work: Callable[[str], None], day: str) -> None:
        try:
            if not self._failures.stopped.is_set():
                work(day)
        except StoppedError:
            pass
        except BaseException:
            self._failures.stopped.set()
            raise

    def _scenes(self, day: str) -> list[Scene]:
        """Return the scenes of a day that are not left out."""
        return [scene for scene in self._days[day] if scene.id not in self._journal.left_out]

    def _look(self, day: str, *, again: bool = False) -> None:
        """Note what the scene classification of a day shows.

        Args:
            day: The day.
            again: Whether its bands failed before, so that this success proves nothing.
        """
        while scenes := self._scenes(day):
            try:
                shares = self._shares(scenes)
            except UnreadableSceneError as error:
                self._failures.leave_out(day, error)
            else:
                self._failures.note("look", day=day, shares=shares)
                if not again:
                    self._failures.scene_was_read()
                return

    def _shares(self, scenes: Sequence[Scene]) -> dict[str, float]:
        """Return the shares of the area that are clear, water, and have data."""
        classes = classification(scenes, self._coarse)[self._inside_HW]
        kinds = {"clear": CLEAR_CLASSES, "water": (_WATER,)}
        shares = {
            name: round(float(np.isin(classes, kind).mean()), 6) for name, kind in kinds.items()
        }
        return {**shares, "data": round(float((classes != 0).mean()), 6)}

    def _fetch(self, day: str) -> None:
        """Bring the windows of a day to disk; start again without a scene that cannot be read."""
        store = DayStore(self._work, day, self._bands, self._grid)
        while scenes := self._scenes(day):
            if day not in self._journal.looks:  # a scene that it was chosen with is left out now
                self._look(day, again=True)
                continue
            try:
                self._fetch_windows(
                    day, store, [correct_offset_with_retries(scene) for scene in scenes]
                )
                break
            except UnreadableSceneError as error:
                self._failures.leave_out(day, error)
        self._failures.note("day", day=day, scenes=[scene.id for scene in scenes])

    def _fetch_windows(self, day: str, store: DayStore, scenes: Sequence[Scene]) -> None:
        for number, window in enumerate(self._windows):
            if self._failures.stopped.is_set():
                raise StoppedError
            if number not in self._journal.windows.get(day, ()):
                store.write(
                    window,
                    mosaic(
                        scenes, self._bands, self._grid[window.rows, window.columns], self._options
                    ),
                )
                self._failures.note("window", day=day, window=number)
                self._failures.scene_was_read()


def _scenes_by_day(scenes: Sequence[Scene], grid: GeoBox) -> dict[str, list[Scene]]:
    """Return scenes by the day in local solar time.

    Those of one day: first those that need no warping, then the newest processing.
    """
    offset, epsg = solar_offset(grid), None if grid.crs is None else grid.crs.epsg
    days: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=lambda s: s.day(offset)):
        days.setdefault(str(scene.day(offset)), []).append(scene)
    return {
        day: sorted(of_day, key=lambda s: (s.epsg not in (0, epsg), -s.baseline, s.time, s.id))
        for day, of_day in days.items()
    }


def build_cube(
    scenes: Sequence[Scene],
    grid: GeoBox,
    out: Path,
    options: CubeOptions,
    outline: BaseGeometry,
    *,
    bands: Sequence[str] = PASTIS_BANDS,
    title: str = "",
    left_out: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> CubeReport:
    """Make the cube of ``scenes`` on ``grid`` as the Zarr store ``out``.

    ``out`` appears when it is complete. The same call continues a cube that was stopped, and
    returns the report of a finished one; the bytes are the same.

    Args:
        scenes: Scenes of the area and season.
        grid: Pixels of the cube.
        out: The Zarr store to make.
        options: How the cube is made.
        outline: In degrees. Dates are chosen by what they show inside it, and nothing is fetched
            farther from it than the margin.
        bands: Bands of the cube.
        title: Title in its attributes.
        left_out: Items that are not scenes, with the reason, for the report.
        notes: Sentences for the report.

    Raises:
        CubeError: Too few scenes can be read.
        CatalogueError: Files need credentials that the environment lacks.
        OutputError: The cube cannot be written, or ``out`` is another cube.
    """
    check_credentials(asset.href for scene in scenes for asset in scene.assets.values())
    plan = _plan(scenes, grid, options, outline, bands)
    if not out.exists():
        with hold_folder(work_folder(out), output=out):
            if not out.exists():  # another command may have finished it in the meantime
                record = {
                    "title": title,
                    "plan": plan,
                    "left_out_scenes": dict(left_out or {}),
                    "notes": list(notes),
                }
                _make(scenes, grid, out, options, outline, bands, record)
    return _finished(out, plan)


def _make(
    scenes: Sequence[Scene],
    grid: GeoBox,
    out: Path,
    options: CubeOptions,
    outline: BaseGeometry,
    bands: Sequence[str],
    known: Mapping[str, Any],
) -> None:
    """Make a cube; ``known`` is what its record says before a pixel is read."""
    work = begin(out, known["plan"])
    try:
        dates = DateBuilder(scenes, grid, work, options, outline, bands)
        # An error that names the scene follows the warning.
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            chosen, left_out_dates = dates.choose()
            dates.fetch(chosen)
        found = dates.record(chosen, left_out_dates)
        record = {
            **known,
            **found,
            "left_out_scenes": dict(
                sorted({**known["left_out_scenes"], **found["left_out_scenes"]}.items())
            ),
            "notes": [*known["notes"], *found["notes"]],
        }
        finish(
            work, out, list(record["scenes"]), bands, grid, list(record["clear"].values()), record
        )
    except OSError as error:
        raise output_error(out, error) from error


def _plan(
    scenes: Sequence[Scene],
    grid: GeoBox,
    options: CubeOptions,
    outline: BaseGeometry,
    bands: Sequence[str],
) -> dict[str, Any]:
    """Return everything that the bytes of a cube depend on, JSON-ready."""
    given = [
        (
            scene.id,
            str(scene.time),
            sorted((b, _place(a), repr(a.radiometry)) for b, a in scene.assets.items()),
        )
        for scene in scenes
    ]
    return {
        "panoseg": panoseg.__version__,
        "grid": f"{grid.crs} {grid.shape[0]} x {grid.shape[1]} {tuple(grid.affine)[:6]}",
        "outline": hashlib.sha256(shapely.to_wkb(shapely.normalize(outline))).hexdigest(),
        "scenes": hashlib.sha256(json.dumps(given).encode()).hexdigest(),
        "bands": list(bands),
        "options": {
            name: value
            for name, value in json.loads(json.dumps(asdict(options))).items()
            if name not in _FREE_OPTIONS
        },
    }


def _place(asset: SceneAsset) -> str:
    """Return where a band is: its file, and which of the file's bands it is unless the first."""
    return asset.href if asset.index == 1 else f"{asset.href} band {asset.index}"


def _finished(out: Path, plan: Mapping[str, Any]) -> CubeReport:
    """Return the report of an existing cube, if it was made by the same plan."""
    try:
        with xr.open_dataset(out, engine="zarr", consolidated=False, chunks={}) as cube:
            report = report_of(cube, out)
            same = report is not None and json_of(cube.attrs[RECORD])["plan"] == plan
    except Exception:  # noqa: BLE001 - a damaged store raises errors of any kind
        report, same = None, False
    if report is None or not same:
        raise OutputError(f"{out} exists and is another cube: choose another --out, or remove it.")
    discard(work_folder(out))
    return report
