"""What a person corrects in a map: other crops, parcels split by a line, neighbours merged; each
step can be undone.

The prediction is never touched: a list of steps lies beside it, each with the parcels that go and
those that come.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

from panoseg.app.result_map import DEGREES, ResultMap, crops, open_result
from panoseg.app.stages import MAP, cube_of
from panoseg.classes import PASTIS
from panoseg.errors import ConflictError, DatasetError, NotFoundError, ParcelsError
from panoseg.files import atomic, write_text
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE, read_geoparquet
from panoseg.register.dataset import Sources, write_dataset
from panoseg.register.options import DatasetOptions

FOLDER = "corrections"
_STEPS = "steps.json"
_SMALLEST_HA = 0.01
_MOST_STEPS = 10_000
_LINE_STEP_DEGREES, _LONGEST_LINE_DEGREES = 0.01, 10.0
_LARGEST_STEPS = 32 * 1024**2

What = Literal["crop", "split", "merge"]


@dataclass(frozen=True)
class Corrected:
    """A parcel as a person has drawn or named it. id: c and a number. outline: GeoJSON in the map's
    own coordinate system.
    """

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
        return frozenset(
            id_ for step in self.steps for id_ in step.removed if not id_.startswith("c")
        )

    def at(self, x: float, y: float) -> Corrected | None:
        """The corrected parcel at a place in the map's own coordinate system."""
        return next(
            (
                parcel
                for parcel in self.parcels.values()
                if parcel.geometry.intersects(shapely.Point(x, y))
            ),
            None,
        )

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
    """Cut a parcel along a line in degrees (longitude, latitude), which must cross it; all pieces
    keep its crop.

    Raises ``NotFoundError``, ``ParcelsError``.
    """
    if len(line) < 2 or not np.isfinite(line).all() or np.abs(line).max() > 180:
        raise ParcelsError(
            "a line of fewer than two places on Earth",
            "one that crosses the parcel",
            "draw it again",
        )
    drawn = shapely.LineString(line)
    if drawn.length > _LONGEST_LINE_DEGREES or not drawn.is_simple:
        raise ParcelsError(
            "a line that crosses itself, or half the globe",
            "one through the parcel",
            "draw it again",
        )
    # A straight line on the globe's grid is none in a projection.
    fine = shapely.segmentize(drawn, _LINE_STEP_DEGREES)
    cut = gpd.GeoSeries([fine], crs=DEGREES).to_crs(result.crs).iloc[0]
    with _changing(result.folder) as edit:
        before = edit.find(result, parcel)
        smallest = _SMALLEST_HA * SQUARE_METRES_PER_HECTARE
        pieces = [
            piece for part in shapely.get_parts(before.geometry) for piece in _split(part, cut)
        ]
        if (
            len(pieces) <= shapely.get_num_geometries(before.geometry)
            or min(piece.area for piece in pieces) < smallest
        ):
            raise ParcelsError(
                "a line that does not cut the parcel in two",
                "one from outside to outside",
                "draw it again",
            )
        return edit.add("split", (parcel,), [(before.crop, piece) for piece in pieces])


def merge_parcels(result: ResultMap, first: str, second: str) -> Corrections:
    """Make one parcel of two neighbours, with the crop of the first. Raises ``NotFoundError``,
    ``ParcelsError``.
    """
    with _changing(result.folder) as edit:
        one, two = edit.find(result, first), edit.find(result, second)
        # Borders of neighbours are simplified together, so they share a line, not merely a corner.
        touching = shapely.intersection(one.geometry, two.geometry)
        if first == second or shapely.length(touching) <= 0:
            raise ParcelsError(
                "two parcels that share no border", "neighbours", "choose another parcel"
            )
        return edit.add(
            "merge", (first, second), [(one.crop, shapely.union(one.geometry, two.geometry))]
        )


def undo(folder: Path) -> Corrections:
    """Take the latest step back. Raises ``ConflictError`` where there is none."""
    with _changing(folder) as edit:
        if not edit.corrections.steps:
            raise ConflictError(
                "nothing that was corrected", "a step to undo", "correct something first"
            )
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
            raise NotFoundError(
                "a parcel that was replaced", "one of the map as it is now", "choose it again"
            )
        row = result.parcels([parcel]).iloc[0]
        return Corrected(parcel, row["class"], mapping(row.geometry))

    def add(
        self, what: What, removed: tuple[str, ...], made: list[tuple[str, BaseGeometry]]
    ) -> Corrections:
        """Add a step and keep it."""
        steps = self.corrections.steps
        if len(steps) >= _MOST_STEPS:
            raise ConflictError(
                f"{len(steps)} corrections",
                f"at most {_MOST_STEPS}",
                "export them, and map with new weights",
            )
        first = 1 + sum(len(step.made) for step in steps)
        parcels = tuple(
            Corrected(f"c{number}", crop, mapping(outline))
            for number, (crop, outline) in enumerate(made, first)
        )
        return self.write((*steps, Step(what, removed, parcels)))

    def write(self, steps: tuple[Step, ...]) -> Corrections:
        """Keep these steps in place of those before. Raises ``ConflictError`` for more than pages
        can read all the time.
        """
        text = json.dumps([asdict(step) for step in steps])
        if len(text) > _LARGEST_STEPS:
            found = f"corrections of {len(text) >> 20} MiB"
            raise ConflictError(
                found, f"at most {_LARGEST_STEPS >> 20}", "export them, and map with new weights"
            )
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
    return Step(
        step["what"], tuple(step["removed"]), tuple(Corrected(**parcel) for parcel in step["made"])
    )


UNCHECKED = "unchecked"
"""The code of parcels that nobody has looked at; they are void, so that no model learns its own
mistakes.
"""
_COVER, _INSIDE, _DATES = 0.001, 0.1, 2  # of few corrections none is to be lost
_README = """Corrected parcels as training data.

parcels.parquet  every parcel of the map as it is now; crop is its class where a person has corrected it, else "{unchecked}"
codes.csv        the class of each crop; what is not in it is void
dataset/         patches in PASTIS's layout, where such parcels cover some of them{missing}

    panoseg train pastis-utae-paps --data dataset --fold 1 --start-from WEIGHTS --out RUN
    panoseg dataset --parcels parcels.parquet --class-column crop --classes codes.csv ...     makes others
"""


@dataclass(frozen=True)
class TrainingOptions:
    """What becomes training data. everything: parcels that nobody corrected too, with the crop that
    was found. size: side of a patch in pixels of 10 m.
    """

    everything: bool = False
    size: int = 64


def corrected_parcels(result: ResultMap, everything: bool) -> gpd.GeoDataFrame:
    """Every parcel of a map as it is now: id, crop, corrected, geometry. everything: see
    ``TrainingOptions``.
    """
    corrections = read_corrections(result.folder)
    found = pd.concat(
        list(read_geoparquet(result.folder / MAP / "parcels.parquet")), ignore_index=True
    )
    found = found[~found["id"].isin(corrections.replaced)]
    columns = {
        "id": found["id"],
        "crop": found["class"] if everything else UNCHECKED,
        "corrected": False,
    }
    kept = gpd.GeoDataFrame(columns, geometry=found.geometry.to_numpy(), crs=found.crs)
    drawn = (
        corrections.table(result)
        .rename(columns={"class": "crop"})
        .drop(columns="area_ha")
        .assign(corrected=True)
    )
    tables = [table for table in (kept, drawn.to_crs(found.crs)) if len(table)]
    return gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=found.crs)[
        ["id", "crop", "corrected", "geometry"]
    ]


def training_data(job: Path, options: TrainingOptions) -> Path:
    """A zip file with all of it in a job's folder, made once for each state of the corrections.

    Raises ``NotFoundError`` without a map, ``ConflictError`` without corrections, and
    ``PanosegError`` of several kinds where no patch can be cut.
    """
    result, folder = open_result(job), job / FOLDER
    if not read_corrections(job).steps and not options.everything:
        raise ConflictError(
            "nothing that was corrected",
            "a corrected parcel at least",
            "correct one, or export everything",
        )
    path = (
        folder
        / f"training-{version_of(job)}-{'all' if options.everything else 'corrected'}-{options.size}.zip"
    )
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        for old in folder.glob(
            "training-*"
        ):  # earlier ones, and what is left of one that was ended in its middle
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix="training-") as scratch,
            atomic(path) as temporary,
        ):
            _write(result, options, Path(scratch))
            _zip(Path(scratch), temporary)
    return path


def _write(result: ResultMap, options: TrainingOptions, folder: Path) -> None:
    parcels = corrected_parcels(result, options.everything)
    parcels.to_parquet(folder / "parcels.parquet")
    write_text(folder / "codes.csv", _codes(result))
    missing = _write_patches(result, options, folder)
    write_text(folder / "README.txt", _README.format(unchecked=UNCHECKED, missing=missing))


def _write_patches(result: ResultMap, options: TrainingOptions, folder: Path) -> str:
    """Write the patches; returns why there are none, where that is so."""
    if not result.classes.same_classes(PASTIS):
        return ": not here, for that layout has no classes but PASTIS's"
    sources = Sources(
        folder / "parcels.parquet", "crop", folder / "codes.csv", (cube_of(result.folder),)
    )
    chosen = DatasetOptions(
        size=options.size, min_cover=_COVER, min_inside=_INSIDE, min_dates=_DATES
    )
    try:
        write_dataset(sources, folder / "dataset", "pastis", chosen)
    except DatasetError as error:
        shutil.rmtree(folder / "dataset", ignore_errors=True)
        return f": not here ({error.found}; expected {error.expected})"
    return ""


def _codes(result: ResultMap) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("code", "class"))
    rows.writerows((name, name) for name in crops(result.classes))
    return text.getvalue()


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            with (
                archive.open(str(file.relative_to(folder)), "w", force_zip64=True) as target,
                file.open("rb") as source,
            ):
                shutil.copyfileobj(source, target)
