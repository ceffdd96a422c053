"""Corrections of a map by a person, and their export as training data.

A correction gives a parcel another crop, splits it along a line, or merges two neighbours; each can
be undone. The map itself never changes: corrections are a list of steps in a file of their own,
each with the parcels that it removes and those that it adds.
"""

from __future__ import annotations

import csv
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
from filelock import FileLock
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

from panoseg.app.result_map import DEGREES, ResultMap, crops, open_result
from panoseg.app.stages import MAP, cube_of
from panoseg.classes import PASTIS
from panoseg.errors import ConflictError, DatasetError, NotFoundError, ParcelsError
from panoseg.files import atomic, write_text
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE, read_geoparquet
from panoseg.register import DatasetOptions
from panoseg.register.dataset import Sources, write_dataset

FOLDER = "corrections"
_STEPS = "steps.json"
_MIN_PIECE_HA = 0.01
_MAX_STEPS = 10_000
_LINE_STEP_DEGREES, _MAX_LINE_DEGREES = 0.01, 10.0
MAX_STEPS_BYTES = 32 * 1024**2
"""Of the file with the steps of a map."""

CorrectionKind = Literal["crop", "split", "merge"]


@dataclass(frozen=True)
class CorrectedParcel:
    """A parcel that a correction has made."""

    id: str
    """The letter c and a number."""
    crop: str
    """Name of the crop."""
    outline: dict[str, Any]
    """GeoJSON in the map's own coordinate system."""

    @property
    def geometry(self) -> BaseGeometry:
        """The outline."""
        return shape(self.outline)

    @property
    def area_ha(self) -> float:
        """The area in hectares."""
        return float(self.geometry.area) / SQUARE_METRES_PER_HECTARE


@dataclass(frozen=True)
class Step:
    """A correction."""

    what: CorrectionKind
    """What the correction does."""
    removed: tuple[str, ...]
    """Ids of the parcels, of the map or corrected, that it removes."""
    made: tuple[CorrectedParcel, ...]
    """Parcels that it adds."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """All corrections of a map."""

    steps: tuple[Step, ...]
    """The corrections, latest last."""

    @property
    def parcels(self) -> dict[str, CorrectedParcel]:
        """The corrected parcels after all steps, by id."""
        present: dict[str, CorrectedParcel] = {}
        for step in self.steps:
            for id_ in step.removed:
                present.pop(id_, None)
            present |= {parcel.id: parcel for parcel in step.made}
        return present

    @property
    def replaced(self) -> frozenset[str]:
        """Ids of the map's parcels that corrected ones replace."""
        return frozenset(
            id_ for step in self.steps for id_ in step.removed if not id_.startswith("c")
        )

    def at(self, x: float, y: float) -> CorrectedParcel | None:
        """Return the corrected parcel at a place in the map's own coordinate system, or None."""
        place = shapely.Point(x, y)
        for parcel in self.parcels.values():
            if parcel.geometry.intersects(place):
                return parcel
        return None

    def table(self, result: ResultMap) -> gpd.GeoDataFrame:
        """Return the corrected parcels as a table: id, class, area_ha, geometry."""
        rows = list(self.parcels.values())
        columns = {
            "id": [row.id for row in rows],
            "class": [row.crop for row in rows],
            "area_ha": [row.area_ha for row in rows],
        }
        return gpd.GeoDataFrame(columns, geometry=[row.geometry for row in rows], crs=result.crs)


def read_corrections(folder: Path) -> Corrections:
    """Return the corrections in a job's folder; without a file there are none."""
    try:
        steps = json.loads((folder / FOLDER / _STEPS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Corrections(())
    return Corrections(
        tuple(
            Step(
                step["what"],
                tuple(step["removed"]),
                tuple(CorrectedParcel(**parcel) for parcel in step["made"]),
            )
            for step in steps
        )
    )


def version_of(folder: Path) -> int:
    """Return a number that changes with the corrections in a job's folder, 0 without any."""
    try:
        return (folder / FOLDER / _STEPS).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def change_crop(result: ResultMap, parcel: str, crop: str) -> Corrections:
    """Give a parcel another crop.

    Raises:
        NotFoundError: The map has no such parcel or crop.
    """
    result.class_id(crop)
    with _changing(result.folder) as edit:
        before = edit.find(result, parcel)
        return edit.add("crop", (parcel,), [(crop, before.geometry)])


def split_parcel(result: ResultMap, parcel: str, line: list[tuple[float, float]]) -> Corrections:
    """Split a parcel along a line; all pieces keep its crop.

    Args:
        result: The map.
        parcel: Id of the parcel.
        line: Longitude and latitude of each point of the line, which must cross the parcel.

    Raises:
        NotFoundError: The map has no such parcel.
        ParcelsError: The line is not valid, or does not split the parcel.
    """
    if len(set(map(tuple, line))) < 2 or not np.isfinite(line).all() or np.abs(line).max() > 180:
        raise ParcelsError(
            "The line has fewer than two different points; draw one that crosses the parcel."
        )
    drawn = shapely.LineString(line)
    if drawn.length > _MAX_LINE_DEGREES or not drawn.is_simple:
        raise ParcelsError(
            "The line crosses itself or is too long; draw one that crosses the parcel."
        )
    # A straight line in degrees is curved in the map's projection.
    fine = shapely.segmentize(drawn, _LINE_STEP_DEGREES)
    cut = gpd.GeoSeries([fine], crs=DEGREES).to_crs(result.crs).iloc[0]
    with _changing(result.folder) as edit:
        before = edit.find(result, parcel)
        smallest = _MIN_PIECE_HA * SQUARE_METRES_PER_HECTARE
        pieces = [
            piece for part in shapely.get_parts(before.geometry) for piece in split(part, cut).geoms
        ]
        if (
            len(pieces) <= shapely.get_num_geometries(before.geometry)
            or min(piece.area for piece in pieces) < smallest
        ):
            raise ParcelsError(
                "The line does not split the parcel; draw it from one side of the parcel to the"
                " other."
            )
        return edit.add("split", (parcel,), [(before.crop, piece) for piece in pieces])


def merge_parcels(result: ResultMap, first: str, second: str) -> Corrections:
    """Merge two neighbours to one parcel with the crop of the first.

    Raises:
        NotFoundError: The map does not have both parcels.
        ParcelsError: The parcels are not neighbours.
    """
    with _changing(result.folder) as edit:
        one, two = edit.find(result, first), edit.find(result, second)
        # Borders of neighbours are simplified together, so that they share a line and not only a
        # corner.
        touching = shapely.intersection(one.geometry, two.geometry)
        if first == second or shapely.length(touching) <= 0:
            raise ParcelsError("The two parcels share no border; choose neighbours.")
        return edit.add(
            "merge", (first, second), [(one.crop, shapely.union(one.geometry, two.geometry))]
        )


def undo(folder: Path) -> Corrections:
    """Undo the latest correction, or raise ``ConflictError`` if there is none."""
    with _changing(folder) as edit:
        if not edit.corrections.steps:
            raise ConflictError("There is no correction to undo.")
        return edit.write(edit.corrections.steps[:-1])


class _Edit:
    """A change of the corrections of a map while no other process changes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corrections = folder, read_corrections(folder)

    def find(self, result: ResultMap, parcel: str) -> CorrectedParcel:
        """Return a parcel after all corrections, or raise ``NotFoundError``."""
        present = self.corrections.parcels
        if parcel in present:
            return present[parcel]
        if parcel.startswith("c") or parcel in self.corrections.replaced:
            raise NotFoundError("This parcel was replaced by a correction; choose it again.")
        row = result.parcels([parcel]).iloc[0]
        return CorrectedParcel(parcel, row["class"], mapping(row.geometry))

    def add(
        self, what: CorrectionKind, removed: tuple[str, ...], made: list[tuple[str, BaseGeometry]]
    ) -> Corrections:
        """Add a step and save it; ``made`` are crops and outlines of new parcels."""
        steps = self.corrections.steps
        if len(steps) >= _MAX_STEPS:
            raise ConflictError(
                f"A map has at most {_MAX_STEPS} corrections. Export them as training data, and map"
                " again with new weights."
            )
        first = 1 + sum(len(step.made) for step in steps)
        parcels = tuple(
            CorrectedParcel(f"c{number}", crop, mapping(outline))
            for number, (crop, outline) in enumerate(made, first)
        )
        return self.write((*steps, Step(what, removed, parcels)))

    def write(self, steps: tuple[Step, ...]) -> Corrections:
        """Save these steps in place of the earlier ones.

        Raises:
            ConflictError: The file would become too large to be read for every tile.
        """
        text = json.dumps([asdict(step) for step in steps])
        if len(text) > MAX_STEPS_BYTES:
            raise ConflictError(
                f"The corrections of a map take at most {MAX_STEPS_BYTES >> 20} MiB. Export them"
                " as training data, and map again with new weights."
            )
        write_text(self.folder / FOLDER / _STEPS, text)
        return Corrections(steps)


@contextmanager
def _changing(folder: Path) -> Iterator[_Edit]:
    """Let one process after the other change the corrections of a map."""
    (folder / FOLDER).mkdir(exist_ok=True)
    with FileLock(folder / FOLDER / ".lock"):
        yield _Edit(folder)


# -- training data

UNCHECKED = "unchecked"
"""Crop code of parcels that nobody has corrected.

They are void in the patches, so that no network learns its own errors.
"""
# Low thresholds, as there are few corrections and none should be lost.
_MIN_COVER, _MIN_INSIDE, _MIN_DATES = 0.001, 0.1, 2
_README = """Corrected parcels as training data.

parcels.parquet  every parcel of the map with corrections; crop is its class if a person has
                 corrected it, else "{unchecked}"
codes.csv        the class of each crop; other crops are void
dataset/         patches in PASTIS's layout that corrected parcels cover in part{missing}

    panoseg train pastis-utae-paps --data dataset --fold 1 --start-from WEIGHTS --out RUN
or make other patches:

    panoseg dataset --parcels parcels.parquet --class-column crop --classes codes.csv ...
"""


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the export."""

    everything: bool = False
    """Include parcels that nobody has corrected, with the crop of the map."""
    size: int = 64
    """Side of a patch in pixels of 10 m."""


def corrected_parcels(result: ResultMap, everything: bool) -> gpd.GeoDataFrame:
    """Return every parcel of a map after all corrections: id, crop, corrected, geometry.

    Args:
        result: The map.
        everything: See ``TrainingOptions``.
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
    """Return a zip file in a job's folder, made once for each state of the corrections.

    Args:
        job: The folder of the job.
        options: Options of the export.

    Raises:
        NotFoundError: The job has no map.
        ConflictError: The map has no corrections.
        PanosegError: The patches cannot be made.
    """
    result, folder = open_result(job), job / FOLDER
    if not read_corrections(job).steps and not options.everything:
        raise ConflictError(
            "This map has no corrections; correct a parcel first, or export everything."
        )
    which = "all" if options.everything else "corrected"
    path = folder / f"training-{version_of(job)}-{which}-{options.size}.zip"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        for old in folder.glob("training-*"):  # earlier files, and leftovers of a killed process
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
    """Write the patches; return the reason if there are none."""
    if not result.classes.same_classes(PASTIS):
        return ": missing, as that layout has only PASTIS's classes"
    sources = Sources(
        folder / "parcels.parquet", "crop", folder / "codes.csv", (cube_of(result.folder),)
    )
    chosen = DatasetOptions(
        size=options.size, min_cover=_MIN_COVER, min_inside=_MIN_INSIDE, min_dates=_MIN_DATES
    )
    try:
        write_dataset(sources, folder / "dataset", "pastis", chosen)
    except DatasetError as error:
        shutil.rmtree(folder / "dataset", ignore_errors=True)
        return f": missing ({error})"
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
