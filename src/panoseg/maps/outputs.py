"""The files of a finished map: parcels, rasters, report, and what describes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

import panoseg
from panoseg.cube.check import report_of
from panoseg.files import output_error, write_json, write_text
from panoseg.maps.assemble import Assembled
from panoseg.maps.compare import Comparison, compare_parcels
from panoseg.maps.inputs import MapInputs
from panoseg.maps.item import map_item
from panoseg.maps.parcels import (
    parcel_table,
    read_geoparquet,
    write_geopackage,
    write_geoparquet,
    write_partitions,
    write_pmtiles,
)
from panoseg.maps.polygons import to_map
from panoseg.maps.rasters import write_cog
from panoseg.maps.read_parcels import left_out_notes
from panoseg.maps.report import ReportContent, render_report
from panoseg.maps.sheets import OutlineFiles
from panoseg.maps.summary import summarise
from panoseg.panoptic.panoptic import Segments

SHIPPED_NOTE = "No weights were given: the ones in the package were used, which were trained on simulated seasons."
_FEW_DATES = 4
_ROWS_AT_ONCE = 16_384
"""A parcel takes about five thousand bytes while it is written."""


def write_map(out: Path, given: MapInputs, assembled: Assembled, outlines: OutlineFiles) -> ReportContent:
    """Write all files of a map into ``out``; each appears whole or not at all.

    What an earlier start with other options wrote goes. Gives what the report says.
    """
    _write_parcels(out, given, assembled.segments, outlines)
    rasters = {
        "classes": assembled.class_raster,
        "segments": assembled.segment_raster,
        "confidence": assembled.confidence_raster,
    }
    for name, raster in rasters.items():
        write_cog(out / f"{name}.tif", raster, given.cube.odc.geobox)
    content = _content(given, assembled, out)
    write_text(out / "report.html", render_report(content))
    write_json(out / "map.json", _record(content))
    grid = given.cube.odc.geobox
    write_json(
        out / "item.json", map_item(given.title, grid, given.season, given.weights, given.weights_name, given.options, out)
    )
    return content


def _write_parcels(out: Path, given: MapInputs, segments: Segments, outlines: OutlineFiles) -> None:
    """parcels.parquet, a file or a folder, and its other forms where they are asked for."""
    path, things, most = out / "parcels.parquet", np.flatnonzero(segments.is_thing), given.options.rows_per_file
    parts = (_pieces(given, segments, outlines, things[start : start + most]) for start in range(0, max(len(things), 1), most))
    several = len(things) > most
    if path.is_dir() != several:
        _remove(path)
    if several:
        write_partitions(parts, path)
    else:
        write_geoparquet(next(parts), path)
    if given.options.gpkg:
        write_geopackage(read_geoparquet(path), out / "parcels.gpkg")
    else:
        _remove(out / "parcels.gpkg")
    if given.options.pmtiles:
        write_pmtiles(read_geoparquet(path), out / "parcels.pmtiles", given.cube.odc.geobox.crs.to_wkt())
    else:
        _remove(out / "parcels.pmtiles")


def _pieces(given: MapInputs, segments: Segments, outlines: OutlineFiles, things: np.ndarray) -> Iterator[gpd.GeoDataFrame]:
    """The parcels of some rows of the table, so many at a time as are held in memory; at least one piece."""
    grid, card, season = given.cube.odc.geobox, given.weights.card, given.season
    for start in range(0, max(len(things), 1), _ROWS_AT_ONCE):
        rows = segments.take(things[start : start + _ROWS_AT_ONCE])
        yield parcel_table(
            rows,
            to_map(outlines.read(rows.ids), grid.affine),
            grid.crs.to_wkt(),
            card.classes,
            observed=season.dates_T[-1],
            details=f"panoseg {panoseg.__version__}, {card.model.title}, {len(season.days_T)} dates",
        )


def _content(given: MapInputs, assembled: Assembled, out: Path) -> ReportContent:
    """All that is said of a map whose parcels and rasters lie in ``out``."""
    path, comparison, invented = out / "parcels.parquet", None, None
    if given.truth is not None:
        parcels = gpd.read_parquet(path)
        comparison = _compared(parcels, given.truth, given.declared_only)
        invented = parcels.iloc[list(comparison.invented)]
    summary = summarise(read_geoparquet(path))
    return ReportContent(
        title=given.title,
        source=given.cube_path,
        cube=given.cube,
        season=given.season,
        parcels=summary,
        classes_path=out / "classes.tif",
        card=given.weights.card,
        weights=given.weights_name,
        options=given.options,
        notes=_notes(given, assembled.data_pixels / max(given.mapped_pixels, 1), summary.count),
        comparison=comparison,
        truth=given.truth,
        invented=invented,
    )


def _compared(parcels: gpd.GeoDataFrame, truth: gpd.GeoDataFrame, declared_only: bool) -> Comparison:
    """The comparison, of classes too where the truth speaks of them by the same column."""
    classes = (parcels["class"], truth["class"]) if "class" in truth.columns else (None, None)
    return compare_parcels(parcels, truth, classes=classes[0], truth_classes=classes[1], declared_only=declared_only)


def _notes(given: MapInputs, data_share: float, parcels: int) -> tuple[str, ...]:
    """What a reader should know before the numbers, a sentence each. data_share: of the land that is mapped, 0..1."""
    season = given.season
    notes = [SHIPPED_NOTE] if given.weights_name is None else []
    if season.left_out:
        dates = len(season.left_out) + len(season.days_T)
        notes.append(f"{len(season.left_out)} of {dates} dates were left out; the report says which, and why.")
    spring, autumn = (np.datetime64(f"{season.harvest_year}-{month}-01") for month in ("04", "10"))
    growing = int(((season.dates_T >= spring) & (season.dates_T < autumn)).sum())
    if growing < _FEW_DATES:
        notes.append(f"Only {growing} dates lie between April and September: classes are uncertain.")
    if data_share < 1:
        notes.append(f"{1 - data_share:.1%} of the area has no data on any date and no parcel.")
    if not parcels:
        notes.append("No parcel was found.")
    fetched = report_of(given.cube, given.cube_path)
    return (*notes, *(fetched.sentences if fetched else ()), *left_out_notes(given.truth))


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _record(content: ReportContent) -> dict[str, Any]:
    """How the map was made, JSON-ready."""
    season, fetched = content.season, report_of(content.cube, content.source)
    return {
        "panoseg": panoseg.__version__,
        "cube": str(content.source),
        "weights": content.weights or "those in the package",
        "card": content.card.to_json(),
        "options": asdict(content.options),
        "harvest_year": season.harvest_year,
        "dates": season.dates_T.astype(str).tolist(),
        "left_out": dict(season.left_out),
        "left_out_scenes": dict(fetched.left_out_scenes) if fetched else {},
        "parcels": content.parcels.count,
        "notes": list(content.notes),
        "comparison": None if content.comparison is None else content.comparison.to_json(),
    }
