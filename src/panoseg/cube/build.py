"""Scenes that cannot be read while a cube is made: left out one by one, unless so many fail that it
is not the scenes.
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
from panoseg.cube.check import RECORD, CubeReport, report_of
from panoseg.cube.options import CubeOptions
from panoseg.cube.scenes import UnreadableSceneError, classification, mosaic, with_offset_seen
from panoseg.cube.season import CLEAR_CLASSES, spread_clearest
from panoseg.cube.store import DayStore, Journal, begin, discard, finish, windows_of, work_folder
from panoseg.errors import CubeError, OutputError
from panoseg.files import hold_folder, output_error
from panoseg.imagery.area import inside_mask, project_outline, solar_offset
from panoseg.imagery.bands import PASTIS_BANDS
from panoseg.imagery.remote import check_credentials
from panoseg.imagery.scenes import Scene
from panoseg.progress import track

# So many scenes in a row, of several dates, that cannot be read: it is not the scenes.
_SCENES_IN_A_ROW, _DATES_IN_A_ROW = 12, 3


class StoppedError(Exception):
    """Another date has failed for good."""


class Failures:
    """What was left out of a cube, and when to stop; for many threads, which note what they have
    done through it.

    stopped: set where the work ends, after the window that each thread is at.
    """

    def __init__(self, journal: Journal) -> None:
        self.stopped = threading.Event()
        self._journal = journal
        # An earlier start has stopped for scenes that cannot be read: those whose files are gone
        # now are gone for good.
        self._asked_before = journal.tried_again
        self._in_a_row: list[tuple[str, str]] = []
        # nothing can be read: scenes that were left out are tried again by the next start
        self._hopeless = False
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
        """Go on without a scene. Raises ``CubeError`` where so many fail that it is not the
        scenes.
        """
        with self._lock:
            if (
                self.stopped.is_set()
            ):  # by another thread, perhaps because of the same network: no word against a scene
                raise StoppedError
            print(
                f"left out: scene {error.scene} of {day}: {error.reason}",
                file=sys.stderr,
                flush=True,
            )
            self._journal.add("left out", day=day, scene=error.scene, reason=error.reason)
            if error.gone and self._asked_before:
                return
            self._in_a_row.append((day, error.scene))
            if (
                len(self._in_a_row) >= _SCENES_IN_A_ROW
                and len({day for day, _ in self._in_a_row}) >= _DATES_IN_A_ROW
            ):
                self._stop(error.reason)

    def _stop(self, reason: str) -> NoReturn:
        self._hopeless = True
        self.stopped.set()
        self._journal.add("try again", scenes=[scene for _, scene in self._in_a_row])
        raise CubeError(
            f"{len(self._in_a_row)} scenes in a row cannot be read (the last: {reason})",
            "files that can be read",
            "run the same command again later: what was fetched is kept, and scenes whose files are"
            " still gone are left out",
        )

    def nothing_left(self, found: str) -> NoReturn:
        """Raise ``CubeError``: there is no date. Scenes that could not be read are tried again by
        the next start.
        """
        left_out = self._journal.left_out
        reasons = sorted({reason for _, reason in left_out.values()})
        unread = f", {len(left_out)} scenes could not be read ({reasons[0]})" if reasons else ""
        if reasons:
            self._journal.add("try again", scenes=list(left_out))
        raise CubeError(
            f"{found}{unread}",
            "dates with a clear view",
            "take a longer season, lower --min-clear, or try again later",
        )


_WINDOW = 1024
_LOOK_SIDE = 512  # pixels a side from which the clear share is known
_WATER = 6
_MOSTLY = 0.99


class Dates:
    """The dates of a cube that is made in the folder ``work``, whose journal says what is done; see
    ``build_cube``.
    """

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
        near = project_outline(outline, str(grid.crs)).buffer(options.margin_m)
        windows = windows_of(grid, _WINDOW)
        self._windows = [w for w in windows if near.intersects(grid[w.rows, w.columns].extent.geom)]
        self._coarse = grid.zoom_out(max(1, math.ceil(max(grid.shape) / _LOOK_SIDE)))
        self._inside_HW = inside_mask(outline, self._coarse)

    def choose(self) -> tuple[list[str], dict[str, str]]:
        """The days to fetch, and why others are not; what is chosen stays so. Raises ``CubeError``
        where none is worth it.
        """
        if self._journal.chosen:
            return self._journal.chosen
        self._each(
            [day for day in self._days if day not in self._journal.looks],
            self._look,
            "dates looked at",
        )
        looks = {day: self._journal.looks[day] for day in self._days if day in self._journal.looks}
        seen = [
            day
            for day in looks
            if looks[day]["clear"] >= self._options.min_clear and looks[day]["data"] > 0
        ]
        left_out = {day: _why(look) for day, look in looks.items() if day not in seen}
        if not seen:
            self._failures.nothing_left(
                f"none of {len(self._days)} dates shows {self._options.min_clear:.0%} of the area"
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
        """Bring all windows of the chosen days to disk. Raises ``CubeError`` where nothing could be
        read.
        """
        self._each(
            [day for day in chosen if day not in self._journal.days], self._fetch, "dates fetched"
        )
        if not any(self._journal.days.get(day) for day in chosen):
            self._failures.nothing_left(f"none of {len(chosen)} dates could be fetched")

    def record(self, chosen: Sequence[str], left_out: Mapping[str, str]) -> dict[str, Any]:
        """What came of the chosen days and of those that were left out, JSON-ready: the fields of
        ``CubeReport``.
        """
        days = {day: self._journal.days[day] for day in chosen if self._journal.days[day]}
        gone = {day: "no scene could be read" for day in self._days if not self._scenes(day)}
        looks = self._journal.looks
        is_water = all(looks[day]["water"] >= _MOSTLY for day in days)
        return {
            "scenes": days,
            "clear": {day: looks[day]["clear"] for day in days},
            "left_out_dates": dict(sorted({**left_out, **gone}.items())),
            "left_out_scenes": {
                scene: reason for scene, (_, reason) in self._journal.left_out.items()
            },
            "notes": [f"{_MOSTLY:.0%} of the area is water on every date."] if is_water else [],
        }

    def _each(self, days: Sequence[str], work: Callable[[str], None], what: str) -> None:
        """Do the work of all days; what stops one stops all, after the window that each is at."""
        with ThreadPoolExecutor(self._options.threads, thread_name_prefix="cube") as pool:
            try:
                for done in track(
                    as_completed([pool.submit(self._unless_stopped, work, day) for day in days]),
                    what,
                    len(days),
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
        """Note what the scene classification of a day shows. again: of one whose bands failed, so
        that all is not well.
        """
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
        shares = {
            name: round(float(np.isin(classes, kind).mean()), 6) for name, kind in kinds.items()
        }
        return {**shares, "data": round(float((classes != 0).mean()), 6)}

    def _fetch(self, day: str) -> None:
        """Bring the windows of a day to disk; again without a scene that turns out to be
        unreadable.
        """
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
                store.write(
                    window,
                    mosaic(
                        scenes, self._bands, self._grid[window.rows, window.columns], self._options
                    ),
                )
                self._failures.note("window", day=day, window=number)
                self._failures.went_well()


def _why(look: Mapping[str, float]) -> str:
    return f"{look['clear']:.0%} clear" if look["data"] > 0 else "no data inside the area"


def _days(scenes: Sequence[Scene], grid: GeoBox) -> dict[str, list[Scene]]:
    """Scenes by the day at the grid's place; of one day first those that need no warping, then the
    newest processing.
    """
    ahead, epsg = solar_offset(grid), None if grid.crs is None else grid.crs.epsg
    days: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=lambda s: s.day(ahead)):
        days.setdefault(str(scene.day(ahead)), []).append(scene)
    return {
        day: sorted(of_day, key=lambda s: (s.epsg not in (0, epsg), -s.baseline, s.time, s.id))
        for day, of_day in days.items()
    }


_FREE_OPTIONS = ("threads",)


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
    """Make the cube of ``scenes`` on ``grid`` as the Zarr store ``out``, which appears whole or not
    at all.

    outline: in degrees; dates are chosen by what they show inside it, and nothing is fetched
    farther away than the margin.
    left_out: scenes that were no scenes, with the reason, for the report. The same call continues a
    cube that was stopped, and gives the report of one that is finished; the bytes are the same.
    Raises ``CubeError`` where too few scenes can be read and ``OutputError``.
    """
    check_credentials(asset.href for scene in scenes for asset in scene.assets.values())
    plan = _plan(scenes, grid, options, outline, bands)
    if not out.exists():
        with hold_folder(work_folder(out), output=out):
            if not out.exists():  # another command may just have finished it
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
    """Make a cube. known: of its record, before a pixel is read."""
    work = begin(out, known["plan"])
    try:
        dates = Dates(scenes, grid, work, options, outline, bands)
        with warnings.catch_warnings(
            action="ignore", category=NotGeoreferencedWarning
        ):  # an error that names its scene follows
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
    """Everything that the bytes of a cube depend on, JSON-ready."""
    given = [
        (
            scene.id,
            str(scene.time),
            sorted((b, a.href, repr(a.radiometry)) for b, a in scene.assets.items()),
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


def _finished(out: Path, plan: Mapping[str, Any]) -> CubeReport:
    """The report of a cube that is there already, if it is the one that is asked for."""
    try:
        with xr.open_dataset(out, engine="zarr", consolidated=False, chunks={}) as cube:
            report = report_of(cube, out)
            same = report is not None and json.loads(cube.attrs[RECORD])["plan"] == plan
    except Exception:  # whatever it is, it is not ours
        report, same = None, False
    if report is None or not same:
        raise OutputError(
            f"{out} exists and is another cube", "a new name", "choose another --out, or remove it"
        )
    discard(work_folder(out))
    return report
