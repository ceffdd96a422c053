"""A cube while it is made: dates as chunks on disk, a journal, and the finished Zarr store.

Every date is a separate store, with the chunks that the cube will have. When all dates are there,
their chunks are renamed to their places, and the cube to its name. A line of the journal is written
after what it reports, so that a kill at any moment costs one window.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from zarr.codecs import Crc32cCodec, ZstdCodec

from panoseg.cube.metadata import RECORD
from panoseg.cube.scenes import NO_DATA
from panoseg.cube.season import Window, windows_over
from panoseg.errors import OutputError
from panoseg.files import (
    check_held,
    output_error,
    remove,
    remove_unfinished,
    write_json,
    write_text,
)
from panoseg.imagery.sentinel2 import SCENE_CLASSIFICATION
from panoseg.platforms import move
from panoseg.text_files import read_json

CHUNK = 512
"""Pixels a side of a chunk of the store."""
_PLAN, _JOURNAL, _DAYS, _CUBE = "plan.json", "journal.jsonl", "days", "cube.zarr"


class Journal:
    """What is known and done of an unfinished cube: JSON lines in a file that only grows.

    Threads may share a journal.
    """

    def __init__(self, work: Path) -> None:
        self.path = path = work / _JOURNAL
        self.looks: dict[str, dict[str, float]] = {}
        """Day -> shares that its scene classification shows."""
        self.chosen: tuple[list[str], dict[str, str]] | None = None
        """The days to fetch, and the others with the reason; None before they are chosen."""
        self.left_out: dict[str, tuple[str, str]] = {}
        """Scene -> (day, reason)."""
        self.windows: dict[str, set[int]] = {}
        """Day -> numbers of its windows on disk."""
        self.days: dict[str, list[str]] = {}
        """Complete day -> its scenes."""
        self.tried_again = False
        """Whether an earlier start has stopped for scenes that could not be read."""
        self._lock = threading.Lock()
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        # A kill or a full disk cuts a line off; what other threads wrote after it was done without
        # that fact.
        whole = list(takewhile(lambda line: line.endswith("\n") and _is_json(line), lines))
        if len(whole) < len(lines):
            write_text(path, "".join(whole))
        for line in whole:
            self._apply(json.loads(line))

    def add(self, event: str, **facts: object) -> None:
        """Write a fact. Raises ``OSError`` if that fails; the fact is not known then."""
        line = json.dumps({"event": event, **facts}, allow_nan=False) + "\n"
        with self._lock:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
            self._apply({"event": event, **facts})

    def _apply(self, fact: Mapping[str, Any]) -> None:
        """Apply a fact to what is known."""
        match fact["event"]:
            case "look":
                self.looks[fact["day"]] = fact["shares"]
            case "chosen":
                self.chosen = fact["days"], fact["left_out"]
            case "window":
                self.windows.setdefault(fact["day"], set()).add(fact["window"])
            case "day":
                self.days[fact["day"]] = fact["scenes"]
            case "left out":
                self.left_out[fact["scene"]] = (fact["day"], fact["reason"])
                self._forget(fact["day"])
            case "try again":
                self.tried_again = True
                for scene in fact["scenes"]:
                    if scene in self.left_out:
                        self._forget(self.left_out.pop(scene)[0])

    def _forget(self, day: str) -> None:
        """Forget what is known and done of a day whose scenes have changed."""
        self.windows.pop(day, None)
        self.looks.pop(day, None)
        self.days.pop(day, None)


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def work_folder(out: Path) -> Path:
    """Return the folder in which a cube is made."""
    return out.with_name(f"{out.name}.unfinished")


def begin(out: Path, plan: Mapping[str, Any]) -> Path:
    """Prepare the folder in which ``out`` is made: empty, or unfinished with the same plan.

    The caller holds the folder (``files.hold_folder``), so it is emptied instead of created again.

    Args:
        out: The Zarr store to make.
        plan: Everything that the bytes of the cube depend on.

    Raises:
        OutputError: The folder holds a cube with another plan, or cannot be written.
    """
    work = work_folder(out)
    recorded = work / _PLAN
    try:
        remove_unfinished(work)
        if recorded.is_file():
            earlier = read_json(recorded)
            differing = [name for name in plan if earlier.get(name) != plan[name]]
            if differing:
                raise OutputError(
                    f"{work} holds an unfinished cube that differs in its"
                    f" {' and '.join(differing)}: choose another --out, or remove {work}."
                )
        else:
            # A kill in the middle of ``discard`` leaves a folder without a plan.
            for entry in work.iterdir():
                remove(entry)
            write_json(recorded, plan)
    except (OSError, ValueError) as error:
        raise output_error(work, error) from error
    return work


class DayStore:
    """The chunks of one date: ``write`` windows, then ``move`` them into the cube."""

    def __init__(self, work: Path, day: str, bands: Sequence[str], grid: GeoBox) -> None:
        self.folder = work / _DAYS / day
        self.bands, self.grid = (*bands, SCENE_CLASSIFICATION), grid

    def write(self, window: Window, values: Mapping[str, np.ndarray]) -> None:
        """Write a window that begins and ends with chunks. Raises ``OSError``."""
        for band in self.bands:
            path = self.folder / band
            array = (
                zarr.open_array(path, mode="r+")
                if (path / "zarr.json").exists()
                else new_array(path, band, 1, self.grid)
            )
            array[0, window.rows, window.columns] = values[band]

    def move(self, cube: Path, place: int) -> None:
        """Move the chunks of all bands to a place in time of the cube, unless they are there.

        A band without data has no chunks, but its array is there. Raises ``OutputError`` if not.
        """
        for band in self.bands:
            if not (self.folder / band / "zarr.json").exists():
                raise OutputError(
                    f"{self.folder / band} was removed while the cube was made. Run the command"
                    " again."
                )
            source, target = self.folder / band / "c" / "0", cube / band / "c" / str(place)
            if source.exists():
                for part in source.rglob("*.partial"):  # of a chunk, by zarr that was killed
                    part.unlink()
                target.parent.mkdir(exist_ok=True)
                move(source, target)


def new_array(path: Path, band: str, dates: int, grid: GeoBox) -> zarr.Array[Any]:
    """Create an array on disk, compressed, with a checksum for each chunk.

    Chunks without data are not written.
    """
    is_class = band == SCENE_CLASSIFICATION
    height, width = grid.shape
    attributes: dict[str, Any] = {"grid_mapping": "spatial_ref"}
    if is_class:
        attributes |= {"long_name": "scene classification of Sen2Cor, 0: no data"}
    else:
        attributes |= {"_FillValue": NO_DATA, "long_name": "surface reflectance x 10 000"}
    return zarr.create_array(
        store=str(path),
        shape=(dates, height, width),
        chunks=(1, min(CHUNK, height), min(CHUNK, width)),
        dtype="uint8" if is_class else "int16",
        fill_value=0 if is_class else NO_DATA,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        dimension_names=("time", "y", "x"),
        attributes=attributes,
        overwrite=True,
        config={"write_empty_chunks": False},
    )


def finish(
    work: Path,
    out: Path,
    days: Sequence[str],
    bands: Sequence[str],
    grid: GeoBox,
    clear: Sequence[float],
    record: dict[str, Any],
) -> None:
    """Make the cube of finished dates and give it its name. Raises ``OSError``."""
    check_held(work, out)
    cube = work / _CUBE
    if not cube.exists():
        fresh = work / f"{_CUBE}.new"
        shutil.rmtree(fresh, ignore_errors=True)  # of a start that was killed
        write_coordinates(fresh, days, grid, clear, record)
        for band in (*bands, SCENE_CLASSIFICATION):
            new_array(fresh / band, band, len(days), grid)
        move(fresh, cube)
    check_held(work, out)  # else the cube of removed dates would be one without data
    # After a kill in this loop the next start moves the dates that are left.
    for place, day in enumerate(days):
        DayStore(work, day, bands, grid).move(cube, place)
    move(cube, out)
    discard(work)


def discard(work: Path) -> None:
    """Remove the work folder of a finished cube.

    The plan goes first, so that the remains of a kill do not look like an unfinished cube.
    """
    remove(work / _PLAN)
    with suppress(OSError):
        remove(work)


def write_coordinates(
    path: Path, days: Sequence[str], grid: GeoBox, clear: Sequence[float], record: dict[str, Any]
) -> None:
    """Write a store that has the coordinates and the record of a cube, and no band yet."""
    coords = xr_coords(grid, always_yx=True)
    coords["time"] = xr.DataArray(np.array(days, "datetime64[ns]"), dims="time")
    coords["clear"] = xr.DataArray(
        np.array(clear, np.float32),
        dims="time",
        attrs={"long_name": "share of the area that shows the ground"},
    )
    attributes = {
        "title": record["title"],
        "source": "Contains modified Copernicus Sentinel data",
        RECORD: json.dumps(record),
    }
    empty = xr.Dataset(coords=coords, attrs=attributes)
    encoding = {"time": {"units": "days since 1970-01-01", "dtype": "int64"}}
    empty.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def windows_of(grid: GeoBox, side: int) -> list[Window]:
    """Return the windows of a grid, row by row; ``side`` is a multiple of a chunk's."""
    height, width = grid.shape
    return windows_over(height, width, side)
