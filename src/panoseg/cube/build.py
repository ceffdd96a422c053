"""Scenes + a grid -> a cube on disk: dates chosen by what they show, fetched by threads window by window, resumed after a stop.

A scene that cannot be read is left out: its date is made again of the others, the log and the cube's record name it.
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
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.cube.mosaic import UnreadableSceneError, classification, mosaic
from panoseg.cube.options import TEN_BANDS, CubeOptions
from panoseg.cube.record import RECORD, CubeReport, report_of
from panoseg.cube.scenes import with_true_offset
from panoseg.cube.season import CLEAR_CLASSES, spread_clearest
from panoseg.cube.store import DayStore, Journal, begin, discard, finish, windows_of, work_folder
from panoseg.errors import CubeError, OutputError
from panoseg.files import output_error
from panoseg.imagery.area import inside, on_plane
from panoseg.imagery.assets import Scene
from panoseg.imagery.remote import check_keys
from panoseg.progress import track

_WINDOW = 1024
_LOOK_SIDE = 512  # pixels a side from which the clear share is known
_WATER = 6
_MOSTLY = 0.99
# So many scenes in a row, of several dates, that cannot be read: it is not the scenes.
_SCENES_IN_A_ROW, _DATES_IN_A_ROW = 12, 3
_FREE_OPTIONS = ("threads",)


def build_cube(
    scenes: Sequence[Scene],
    grid: GeoBox,
    out: Path,
    options: CubeOptions,
    outline: BaseGeometry,
    *,
    bands: Sequence[str] = TEN_BANDS,
    title: str = "",
    left_out: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> CubeReport:
    """Make the cube of ``scenes`` on ``grid`` as the Zarr store ``out``, which appears whole or not at all.

    outline: in degrees; dates are chosen by what they show inside it, and nothing is fetched farther away than the margin.
    left_out: scenes that were no scenes, with the reason, for the report. The same call continues a cube that was stopped, and
    gives the report of one that is finished; the bytes are the same. Raises ``CubeError`` where too few scenes can be read and
    ``OutputError``.
    """
    check_keys(asset.href for scene in scenes for asset in scene.assets.values())
    plan = _plan(scenes, grid, options, outline, bands)
    if out.exists():
        return _finished(out, plan)
    work = begin(out, plan)
    try:
        maker = _Maker(scenes, grid, work, options, outline, bands)
        with warnings.catch_warnings(
            action="ignore", category=NotGeoreferencedWarning
        ):  # an error that names its scene follows
            chosen, left_out_dates = maker.choose()
            maker.fetch(chosen)
        record = {"title": title, "plan": plan, **maker.record(chosen, left_out_dates, left_out or {}, notes)}
        finish(work, out, list(record["scenes"]), bands, grid, list(record["clear"].values()), record)
    except OSError as error:
        raise output_error(out, error) from error
    with xr.open_dataset(out, engine="zarr", consolidated=False, chunks={}) as cube:
        report = report_of(cube, out)
    assert report is not None
    return report


def _plan(
    scenes: Sequence[Scene], grid: GeoBox, options: CubeOptions, outline: BaseGeometry, bands: Sequence[str]
) -> dict[str, Any]:
    """Everything that the bytes of a cube depend on, JSON-ready."""
    given = [
        (scene.id, str(scene.time), sorted((b, a.href, repr(a.meaning)) for b, a in scene.assets.items())) for scene in scenes
    ]
    return {
        "panoseg": panoseg.__version__,
        "grid": f"{grid.crs} {grid.shape[0]} x {grid.shape[1]} {tuple(grid.affine)[:6]}",
        "outline": hashlib.sha256(shapely.to_wkb(shapely.normalize(outline))).hexdigest(),
        "scenes": hashlib.sha256(json.dumps(given).encode()).hexdigest(),
        "bands": list(bands),
        "options": {
            name: value for name, value in json.loads(json.dumps(asdict(options))).items() if name not in _FREE_OPTIONS
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
        raise OutputError(f"{out} exists and is another cube", "a new name", "choose another --out, or remove it")
    discard(work_folder(out))
    return report


class _StoppedError(Exception):
    """Another date has failed for good."""


class _Maker:
    """Looks at days and fetches them, by threads; what is done stands in the journal."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        grid: GeoBox,
        work: Path,
        options: CubeOptions,
        outline: BaseGeometry,
        bands: Sequence[str],
    ) -> None:
        self.grid, self.work, self.options, self.bands = grid, work, options, bands
        self.journal = Journal(work / "journal.jsonl")
        self.days = _days(scenes, grid)
        near = on_plane(outline, str(grid.crs)).buffer(options.margin_m)
        windows = windows_of(grid, _WINDOW)
        self.windows = [w for w in windows if near.intersects(grid[w.rows, w.columns].extent.geom)]
        self.coarse = grid.zoom_out(max(1, math.ceil(max(grid.shape) / _LOOK_SIDE)))
        self.inside_HW = inside(outline, self.coarse)
        self.in_a_row: list[tuple[str, str]] = []
        self.stopped = threading.Event()
        self.hopeless = False  # nothing can be read: scenes that were left out are tried again by the next start
        self.lock = threading.Lock()

    def choose(self) -> tuple[list[str], dict[str, str]]:
        """The days to fetch, and why others are not; what is chosen stays so. Raises ``CubeError`` where none is worth it."""
        if self.journal.chosen:
            return self.journal.chosen
        self._each([day for day in self.days if day not in self.journal.looks], self._look, "dates looked at")
        looks = {day: self.journal.looks[day] for day in self.days if day in self.journal.looks}
        seen = [day for day in looks if looks[day]["clear"] >= self.options.min_clear and looks[day]["data"] > 0]
        left_out = {day: _why(look) for day, look in looks.items() if day not in seen}
        if not seen:
            self._fail(f"none of {len(self.days)} dates shows {self.options.min_clear:.0%} of the area")
        clear = np.array([looks[day]["clear"] for day in seen])
        kept = spread_clearest(np.array(seen, "datetime64[D]"), clear, self.options.max_dates)
        left_out |= {seen[place]: "clearer dates near it" for place in np.setdiff1d(np.arange(len(seen)), kept)}
        chosen = [seen[place] for place in kept]
        self.journal.add("chosen", days=chosen, left_out=left_out)
        return chosen, left_out

    def _fail(self, found: str) -> None:
        reasons = sorted({reason for _, reason in self.journal.left_out.values()})
        unread = f", {len(self.journal.left_out)} scenes could not be read ({reasons[0]})" if reasons else ""
        if reasons:
            self.journal.add("try again", scenes=list(self.journal.left_out))
        raise CubeError(
            f"{found}{unread}", "dates with a clear view", "take a longer season, lower --min-clear, or try again later"
        )

    def fetch(self, chosen: Sequence[str]) -> None:
        """Bring all windows of the chosen days to disk. Raises ``CubeError`` where nothing could be read."""
        self._each([day for day in chosen if day not in self.journal.days], self._fetch, "dates fetched")
        if not any(self.journal.days.get(day) for day in chosen):
            self._fail(f"none of {len(chosen)} dates could be fetched")

    def _each(self, days: Sequence[str], work: Callable[[str], None], what: str) -> None:
        """Do the work of all days; what stops one stops all, after the window that each is at."""
        with ThreadPoolExecutor(self.options.threads, thread_name_prefix="cube") as pool:
            try:
                for done in track(
                    as_completed([pool.submit(self._unless_stopped, work, day) for day in days]), what, len(days)
                ):
                    done.result()
            except BaseException:
                self.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _unless_stopped(self, work: Callable[[str], None], day: str) -> None:
        try:
            if not self.stopped.is_set():
                work(day)
        except _StoppedError:
            pass
        except BaseException:
            self.stopped.set()
            raise

    def _scenes(self, day: str) -> list[Scene]:
        return [scene for scene in self.days[day] if scene.id not in self.journal.left_out]

    def _look(self, day: str, *, again: bool = False) -> None:
        """Note what the scene classification of a day shows. again: of one whose bands failed, so that all is not well."""
        while scenes := self._scenes(day):
            try:
                shares = self._shares(scenes)
            except UnreadableSceneError as error:
                self._leave_out(day, error)
            else:
                self._note("look", day=day, shares=shares)
                if not again:
                    self._went_well()
                return

    def _shares(self, scenes: Sequence[Scene]) -> dict[str, float]:
        classes = classification(scenes, self.coarse)[self.inside_HW]
        kinds = {"clear": CLEAR_CLASSES, "water": (_WATER,)}
        shares = {name: round(float(np.isin(classes, kind).mean()), 6) for name, kind in kinds.items()}
        return {**shares, "data": round(float((classes != 0).mean()), 6)}

    def _fetch(self, day: str) -> None:
        """Bring the windows of a day to disk; again without a scene that turns out to be unreadable."""
        store = DayStore(self.work, day, self.bands, self.grid)
        while scenes := self._scenes(day):
            if day not in self.journal.looks:  # without a scene that it was chosen with
                self._look(day, again=True)
                continue
            try:
                self._fetch_windows(day, store, [_with_true_offset(scene) for scene in scenes])
                break
            except UnreadableSceneError as error:
                self._leave_out(day, error)
        self._note("day", day=day, scenes=[scene.id for scene in scenes])

    def _fetch_windows(self, day: str, store: DayStore, scenes: Sequence[Scene]) -> None:
        for number, window in enumerate(self.windows):
            if self.stopped.is_set():
                raise _StoppedError
            if number not in self.journal.windows.get(day, ()):
                store.write(window, mosaic(scenes, self.bands, self.grid[window.rows, window.columns], self.options))
                self._note("window", day=day, window=number)
                self._went_well()

    def _note(self, event: str, **facts: Any) -> None:
        """Note what was done, unless the scenes that it was done with are others by now."""
        with self.lock:
            if self.hopeless:
                raise _StoppedError
            self.journal.add(event, **facts)

    def _went_well(self) -> None:
        with self.lock:
            self.in_a_row.clear()

    def _leave_out(self, day: str, error: UnreadableSceneError) -> None:
        """Go on without a scene, unless so many fail that it is not the scenes. Raises ``CubeError``."""
        with self.lock:
            if self.stopped.is_set():  # by another thread, perhaps because of the same network: no word against a scene
                raise _StoppedError
            print(f"left out: scene {error.scene} of {day}: {error.reason}", file=sys.stderr, flush=True)
            self.journal.add("left out", day=day, scene=error.scene, reason=error.reason)
            self.in_a_row.append((day, error.scene))
            if len(self.in_a_row) >= _SCENES_IN_A_ROW and len({day for day, _ in self.in_a_row}) >= _DATES_IN_A_ROW:
                self.hopeless = True
                self.stopped.set()
                self.journal.add("try again", scenes=[scene for _, scene in self.in_a_row])
                raise CubeError(
                    f"{len(self.in_a_row)} scenes in a row cannot be read (the last: {error.reason})",
                    "files that can be read",
                    "run the same command again later: what was fetched is kept",
                )

    def record(
        self, chosen: Sequence[str], left_out_dates: Mapping[str, str], broken: Mapping[str, str], notes: Sequence[str]
    ) -> dict[str, Any]:
        """What the cube was made of, JSON-ready."""
        days = {day: self.journal.days[day] for day in chosen if self.journal.days[day]}
        gone = {day: "no scene could be read" for day in self.days if not self._scenes(day)}
        looks = self.journal.looks
        water = (
            [f"{_MOSTLY:.0%} of the area is water on every date."] if all(looks[d]["water"] >= _MOSTLY for d in days) else []
        )
        return {
            "scenes": days,
            "clear": {day: looks[day]["clear"] for day in days},
            "left_out_dates": dict(sorted({**left_out_dates, **gone}.items())),
            "left_out_scenes": dict(
                sorted({**broken, **{s: reason for s, (_, reason) in self.journal.left_out.items()}}.items())
            ),
            "notes": [*notes, *water],
        }


def _why(look: Mapping[str, float]) -> str:
    return f"{look['clear']:.0%} clear" if look["data"] > 0 else "no data inside the area"


def _with_true_offset(scene: Scene) -> Scene:
    try:
        return with_true_offset(scene)
    except (RasterioError, OSError) as error:
        raise UnreadableSceneError(scene.id, f"cannot be read ({str(error).splitlines()[0][:200]})") from error


def _days(scenes: Sequence[Scene], grid: GeoBox) -> dict[str, list[Scene]]:
    """Scenes by the day at the grid's place, in order; of one day first those that need no warping, then the newest processing.

    The satellite passes in the middle of the morning: by the sun's time no pass falls on two days, near the date line either.
    """
    hours = grid.extent.centroid.to_crs("EPSG:4326").coords[0][0] / 15
    epsg = None if grid.crs is None else grid.crs.epsg
    days: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=lambda s: (s.time + timedelta(hours=hours)).date()):
        days.setdefault(str((scene.time + timedelta(hours=hours)).date()), []).append(scene)
    return {
        day: sorted(of_day, key=lambda s: (s.epsg not in (0, epsg), -s.baseline, s.time, s.id)) for day, of_day in days.items()
    }
