"""What a person corrects in a map: other crops, parcels split by a line, neighbours merged; each step can be undone.

The prediction is never touched: a list of steps lies beside it, each with the parcels that go and those that come.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import shapely
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

from panoseg.app.coordinates import DEGREES
from panoseg.app.result_map import ResultMap
from panoseg.errors import ConflictError, NotFoundError, ParcelsError
from panoseg.files import write_text
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE

FOLDER = "corrections"
_STEPS = "steps.json"
_SMALLEST_HA = 0.01
_MOST_STEPS = 10_000
_LINE_STEP_DEGREES, _LONGEST_LINE_DEGREES = 0.01, 10.0
_LARGEST_STEPS = 32 * 1024**2

What = Literal["crop", "split", "merge"]


@dataclass(frozen=True)
class Corrected:
    """A parcel as a person has drawn or named it. id: c and a number. outline: GeoJSON in the map's own coordinate system."""

    id: str
    crop: str
    outline: dict[str, Any]

    @property
    def geometry(self) -> BaseGeometry:
        """Its outline."""
        return shape(self.outline)

    @property
    def area_ha(self) -> float:
        """Its area in hectares."""
        return self.geometry.area / SQUARE_METRES_PER_HECTARE


@dataclass(frozen=True)
class Step:
    """A correction. removed: ids of parcels, found or corrected, that go; made: those that come."""

    what: What
    removed: tuple[str, ...]
    made: tuple[Corrected, ...]


@dataclass(frozen=True, eq=False)
class Corrections:
    """All corrections of a map, the latest last."""

    steps: tuple[Step, ...]

    @property
    def parcels(self) -> dict[str, Corrected]:
        """The corrected parcels as they are now, by id."""
        present: dict[str, Corrected] = {}
        for step in self.steps:
            for id_ in step.removed:
                present.pop(id_, None)
            present |= {parcel.id: parcel for parcel in step.made}
        return present

    @property
    def replaced(self) -> frozenset[str]:
        """Ids of found parcels that corrected ones stand for."""
        return frozenset(id_ for step in self.steps for id_ in step.removed if not id_.startswith("c"))

    def at(self, x: float, y: float) -> Corrected | None:
        """The corrected parcel at a place in the map's own coordinate system."""
        return next((parcel for parcel in self.parcels.values() if parcel.geometry.intersects(shapely.Point(x, y))), None)

    def table(self, result: ResultMap) -> gpd.GeoDataFrame:
        """The corrected parcels: id, class, area_ha, geometry."""
        rows = list(self.parcels.values())
        columns = {
            "id": [row.id for row in rows],
            "class": [row.crop for row in rows],
            "area_ha": [row.area_ha for row in rows],
        }
        return gpd.GeoDataFrame(columns, geometry=[row.geometry for row in rows], crs=result.crs)


def read_corrections(folder: Path) -> Corrections:
    """The corrections in a job's folder, none where nothing was corrected."""
    try:
        steps = json.loads((folder / FOLDER / _STEPS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Corrections(())
    return Corrections(tuple(_step(step) for step in steps))


def version_of(folder: Path) -> int:
    """A number that changes with the corrections in a job's folder, 0 for none."""
    try:
        return (folder / FOLDER / _STEPS).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def change_crop(result: ResultMap, parcel: str, crop: str) -> Corrections:
    """Give a parcel another crop. Raises ``NotFoundError``."""
    result.class_id(crop)
    with _changing(result.folder) as edit:
        before = edit.find(result, parcel)
        return edit.add("crop", (parcel,), [(crop, before.geometry)])


def split_parcel(result: ResultMap, parcel: str, line: list[tuple[float, float]]) -> Corrections:
    """Cut a parcel along a line in degrees (longitude, latitude), which must cross it; all pieces keep its crop.

    Raises ``NotFoundError``, ``ParcelsError``.
    """
    if len(line) < 2 or not np.isfinite(line).all() or np.abs(line).max() > 180:
        raise ParcelsError("a line of fewer than two places on Earth", "one that crosses the parcel", "draw it again")
    drawn = shapely.LineString(line)
    if drawn.length > _LONGEST_LINE_DEGREES or not drawn.is_simple:
        raise ParcelsError("a line that crosses itself, or half the globe", "one through the parcel", "draw it again")
    # A straight line on the globe's grid is none in a projection.
    fine = shapely.segmentize(drawn, _LINE_STEP_DEGREES)
    cut = gpd.GeoSeries([fine], crs=DEGREES).to_crs(result.crs).iloc[0]
    with _changing(result.folder) as edit:
        before = edit.find(result, parcel)
        smallest = _SMALLEST_HA * SQUARE_METRES_PER_HECTARE
        pieces = [piece for part in shapely.get_parts(before.geometry) for piece in _split(part, cut)]
        if len(pieces) <= shapely.get_num_geometries(before.geometry) or min(piece.area for piece in pieces) < smallest:
            raise ParcelsError("a line that does not cut the parcel in two", "one from outside to outside", "draw it again")
        return edit.add("split", (parcel,), [(before.crop, piece) for piece in pieces])


def merge_parcels(result: ResultMap, first: str, second: str) -> Corrections:
    """Make one parcel of two neighbours, with the crop of the first. Raises ``NotFoundError``, ``ParcelsError``."""
    with _changing(result.folder) as edit:
        one, two = edit.find(result, first), edit.find(result, second)
        # Borders of neighbours are simplified together, so they share a line, not merely a corner.
        touching = shapely.intersection(one.geometry, two.geometry)
        if first == second or shapely.length(touching) <= 0:
            raise ParcelsError("two parcels that share no border", "neighbours", "choose another parcel")
        return edit.add("merge", (first, second), [(one.crop, shapely.union(one.geometry, two.geometry))])


def undo(folder: Path) -> Corrections:
    """Take the latest step back. Raises ``ConflictError`` where there is none."""
    with _changing(folder) as edit:
        if not edit.corrections.steps:
            raise ConflictError("nothing that was corrected", "a step to undo", "correct something first")
        return edit.write(edit.corrections.steps[:-1])


class _Edit:
    """The corrections of a map, held against others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corrections = folder, read_corrections(folder)

    def find(self, result: ResultMap, parcel: str) -> Corrected:
        """A parcel as it is now. Raises ``NotFoundError``."""
        present = self.corrections.parcels
        if parcel in present:
            return present[parcel]
        if parcel.startswith("c") or parcel in self.corrections.replaced:
            raise NotFoundError("a parcel that was replaced", "one of the map as it is now", "choose it again")
        row = result.parcels([parcel]).iloc[0]
        return Corrected(parcel, row["class"], mapping(row.geometry))

    def add(self, what: What, removed: tuple[str, ...], made: list[tuple[str, BaseGeometry]]) -> Corrections:
        """Add a step and keep it."""
        steps = self.corrections.steps
        if len(steps) >= _MOST_STEPS:
            raise ConflictError(f"{len(steps)} corrections", f"at most {_MOST_STEPS}", "export them, and map with new weights")
        first = 1 + sum(len(step.made) for step in steps)
        parcels = tuple(Corrected(f"c{number}", crop, mapping(outline)) for number, (crop, outline) in enumerate(made, first))
        return self.write((*steps, Step(what, removed, parcels)))

    def write(self, steps: tuple[Step, ...]) -> Corrections:
        """Keep these steps in place of those before. Raises ``ConflictError`` for more than pages can read all the time."""
        text = json.dumps([asdict(step) for step in steps])
        if len(text) > _LARGEST_STEPS:
            found = f"corrections of {len(text) >> 20} MiB"
            raise ConflictError(found, f"at most {_LARGEST_STEPS >> 20}", "export them, and map with new weights")
        write_text(self.folder / FOLDER / _STEPS, text)
        return Corrections(steps)


@contextmanager
def _changing(folder: Path) -> Iterator[_Edit]:
    """One change after the other, whatever process makes it."""
    (folder / FOLDER).mkdir(exist_ok=True)
    with (folder / FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield _Edit(folder)


def _split(polygon: shapely.Polygon, line: shapely.LineString) -> list[Any]:
    return list(split(polygon, line).geoms)


def _step(step: dict[str, Any]) -> Step:
    return Step(step["what"], tuple(step["removed"]), tuple(Corrected(**parcel) for parcel in step["made"]))
