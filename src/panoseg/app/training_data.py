"""Corrections become training data: a register of the corrected land and, by ``panoseg dataset``'s own way, patches of it."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pandas as pd

from panoseg.app.corrections import FOLDER, read_corrections, version_of
from panoseg.app.result_map import ResultMap, crops, open_result
from panoseg.app.stages import MAP, cube_of
from panoseg.classes import PASTIS
from panoseg.errors import ConflictError, DatasetError
from panoseg.files import atomic, write_text
from panoseg.maps.parcels import read_geoparquet
from panoseg.register.dataset import Sources, write_dataset
from panoseg.register.options import DatasetOptions

UNCHECKED = "unchecked"
"""The code of parcels that nobody has looked at; they are void, so that no model learns its own mistakes."""
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
    """What becomes training data. everything: parcels that nobody corrected too, with the crop that was found. size: side of a
    patch in pixels of 10 m."""

    everything: bool = False
    size: int = 64


def corrected_parcels(result: ResultMap, everything: bool) -> gpd.GeoDataFrame:
    """Every parcel of a map as it is now: id, crop, corrected, geometry. everything: see ``TrainingOptions``."""
    corrections = read_corrections(result.folder)
    found = pd.concat(list(read_geoparquet(result.folder / MAP / "parcels.parquet")), ignore_index=True)
    found = found[~found["id"].isin(corrections.replaced)]
    columns = {"id": found["id"], "crop": found["class"] if everything else UNCHECKED, "corrected": False}
    kept = gpd.GeoDataFrame(columns, geometry=found.geometry.to_numpy(), crs=found.crs)
    drawn = corrections.table(result).rename(columns={"class": "crop"}).drop(columns="area_ha").assign(corrected=True)
    tables = [table for table in (kept, drawn.to_crs(found.crs)) if len(table)]
    return gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=found.crs)[["id", "crop", "corrected", "geometry"]]


def training_data(job: Path, options: TrainingOptions) -> Path:
    """A zip file with all of it in a job's folder, made once for each state of the corrections.

    Raises ``NotFoundError`` without a map, ``ConflictError`` without corrections, and ``PanosegError`` of several kinds where
    no patch can be cut.
    """
    result, folder = open_result(job), job / FOLDER
    if not read_corrections(job).steps and not options.everything:
        raise ConflictError("nothing that was corrected", "a corrected parcel at least", "correct one, or export everything")
    path = folder / f"training-{version_of(job)}-{'all' if options.everything else 'corrected'}-{options.size}.zip"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        for old in folder.glob("training-*"):  # earlier ones, and what is left of one that was ended in its middle
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="training-") as scratch, atomic(path) as temporary:
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
    sources = Sources(folder / "parcels.parquet", "crop", folder / "codes.csv", (cube_of(result.folder),))
    chosen = DatasetOptions(size=options.size, min_cover=_COVER, min_inside=_INSIDE, min_dates=_DATES)
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
            with archive.open(str(file.relative_to(folder)), "w", force_zip64=True) as target, file.open("rb") as source:
                shutil.copyfileobj(source, target)
