"""The parcels of a map as a file, with the corrections of a person and the prediction in it."""

from __future__ import annotations

import csv
import shutil
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Literal

import geopandas as gpd
import pandas as pd
import pyogrio

from panoseg.app.corrections import FOLDER, Corrections, read_corrections, version_of
from panoseg.app.parcels import areas
from panoseg.app.result_map import DEGREES, ResultMap, open_result
from panoseg.app.stages import MAP
from panoseg.files import atomic
from panoseg.maps.parcels import read_geoparquet, write_geopackage, write_geoparquet

Format = Literal["parquet", "gpkg", "geojson", "shapefile", "areas"]
NAMES: dict[Format, str] = {
    "parquet": "parcels.parquet",
    "gpkg": "parcels.gpkg",
    "geojson": "parcels.geojson",
    "shapefile": "parcels.zip",
    "areas": "areas.csv",
}
"""The name of the file in each format."""
_KEPT_S = 3600.0  # earlier states may still be sent, or be written by another process
# Names of columns in a Shapefile have at most ten characters.
_SHAPEFILE = {"id": "id", "class": "class", "confidence": "confidence", "area_ha": "area_ha"}
_SHAPEFILE |= {"corrected": "corrected", "predicted": "predicted"}


def export_parcels(job: Path, form: Format) -> Path:
    """Return a file in a job's folder, made once for each state of the corrections.

    Args:
        job: The folder of the job.
        form: The format; "areas" is a table of areas by crop.

    Raises:
        NotFoundError: The job has no map.
        OutputError: The file cannot be written.
    """
    result, folder = open_result(job), job / FOLDER
    version = version_of(job)
    path = folder / f"export-{version}" / NAMES[form]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in folder.glob("export-*"):
            if other != path.parent and _age_s(other) > _KEPT_S:
                shutil.rmtree(other, ignore_errors=True)
        _write(result, form, path)
    return path


def _age_s(folder: Path) -> float:
    """Return how long ago something was written into a folder; 0 if it is gone."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _write(result: ResultMap, form: Format, path: Path) -> None:
    if form == "areas":
        _write_areas(result, path)
        return
    table = parcels_as_corrected(result)
    if form == "parquet":
        write_geoparquet([table], path)
    elif form == "gpkg":
        write_geopackage([table], path, result.classes)
    elif form == "geojson":
        with atomic(path) as temporary:
            pyogrio.write_dataframe(
                table.to_crs(DEGREES), temporary, driver="GeoJSON", COORDINATE_PRECISION=7
            )
    else:
        _write_shapefile(table, path)


def parcels_as_corrected(result: ResultMap) -> gpd.GeoDataFrame:
    """Return the parcels of a map with its columns, after all corrections.

    The column "corrected" says whether a person has changed a parcel, "predicted" which crop the
    map had there. Corrected parcels have no confidence.
    """
    corrections = read_corrections(result.folder)
    found = gpd.GeoDataFrame(
        pd.concat(list(read_geoparquet(result.folder / MAP / "parcels.parquet")), ignore_index=True)
    )
    predicted = dict(zip(found["id"], found["class"], strict=True))
    found = found.assign(corrected=False, predicted=found["class"])
    kept = found[~found["id"].isin(corrections.replaced)]
    if not corrections.parcels:
        return kept
    drawn = corrections.table(result).to_crs(found.crs)
    origins = _origins(corrections)
    drawn["corrected"] = True
    drawn["predicted"] = [
        " + ".join(
            dict.fromkeys(predicted[origin] for origin in origins[id_] if origin in predicted)
        )
        for id_ in drawn["id"]
    ]
    if "crop:code" in found:
        drawn["crop:code"] = [result.class_id(name) for name in drawn["class"]]
    rows = pd.concat([kept, drawn], ignore_index=True)[list(found.columns)]
    for column in found.columns:
        # Text and numbers of the map keep their types; what is missing is empty.
        if column not in ("geometry", "bbox") and rows[column].dtype != found[column].dtype:
            rows[column] = rows[column].astype(found[column].dtype, errors="ignore")
    return gpd.GeoDataFrame(rows, geometry="geometry", crs=found.crs)


def _origins(corrections: Corrections) -> dict[str, tuple[str, ...]]:
    """Return the parcels of the map from which each corrected one was made."""
    origins: dict[str, tuple[str, ...]] = {}
    for step in corrections.steps:
        found = tuple(
            dict.fromkeys(origin for id_ in step.removed for origin in origins.get(id_, (id_,)))
        )
        origins |= {parcel.id: found for parcel in step.made}
    return origins


def _write_shapefile(table: gpd.GeoDataFrame, path: Path) -> None:
    columns = [name for name in _SHAPEFILE if name in table]
    plain = table[[*columns, "geometry"]].rename(columns=_SHAPEFILE)
    plain["corrected"] = plain["corrected"].astype(int)
    with tempfile.TemporaryDirectory(prefix="panoseg-") as scratch:
        pyogrio.write_dataframe(
            plain, Path(scratch) / "parcels.shp", driver="ESRI Shapefile", ENCODING="UTF-8"
        )
        with (
            atomic(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as out,
        ):
            for file in sorted(Path(scratch).iterdir()):
                out.write(file, file.name)


def _write_areas(result: ResultMap, path: Path) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("class", "parcels", "area_ha", "confidence"))
        for row in areas(result):
            sure = "" if row.confidence is None else f"{row.confidence:.3f}"
            rows.writerow((row.crop, row.parcels, f"{row.area_ha:.2f}", sure))
