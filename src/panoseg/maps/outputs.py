"""``item.json``: a map as a STAC item, with the model that made it.

Fields: STAC 1.1; Machine Learning Model extension 1.4 (stac-extensions/mlm @ 103a77a,
json-schema/schema.json and examples); projection 2.0, processing 1.2 and classification 2.0.
Addresses of files are relative to the item, that of the weights is absolute.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import shapely
import torch
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.classes import ClassTable
from panoseg.cube.check import report_of
from panoseg.cube.season import Season
from panoseg.files import output_error, write_json, write_text
from panoseg.maps.assemble import Assembled
from panoseg.maps.compare import Comparison, compare_parcels
from panoseg.maps.inputs import MapInputs
from panoseg.maps.options import MapOptions
from panoseg.maps.outlines import OutlineFiles, to_map
from panoseg.maps.parcels import (
    parcel_table,
    read_geoparquet,
    write_geopackage,
    write_geoparquet,
    write_partitions,
    write_pmtiles,
)
from panoseg.maps.rasters import write_cog
from panoseg.maps.read_parcels import left_out_notes
from panoseg.maps.report import ReportContent, render_report, summarise
from panoseg.models.weights import Weights
from panoseg.panoptic.panoptic import Segments

_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
]
_TASKS = ["panoptic-segmentation", "instance-segmentation"]
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_MEDIA_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".gpkg": "application/geopackage+sqlite3",
}
_MEDIA_TYPES |= {".pmtiles": "application/vnd.pmtiles", ".html": "text/html", ".tif": _COG}
_TITLES = {
    "parcels.parquet": "Parcels with classes",
    "parcels.gpkg": "Parcels with classes, as a GeoPackage",
    "parcels.pmtiles": "Parcels with classes, as vector tiles",
    "segments.tif": "The parcel of each pixel",
    "classes.tif": "The class of each pixel",
    "confidence.tif": "The confidence of each pixel's parcel in percent",
    "report.html": "The map to look at",
}


def map_item(
    title: str,
    grid: GeoBox,
    season: Season,
    weights: Weights,
    weights_folder: str | None,
    options: MapOptions,
    out: Path,
) -> dict[str, Any]:
    """The item of a map whose files lie in ``out``, JSON-ready. weights_folder: where the weights
    lie, if they lie anywhere.
    """
    outline, box = _footprint(grid)
    first, last = (
        datetime.combine(day.astype(object), datetime.min.time(), UTC)
        for day in season.dates_T[[0, -1]]
    )
    item = pystac.Item(
        id=f"{title}-{season.harvest_year}",
        geometry=shapely.geometry.mapping(outline),
        bbox=box,
        datetime=None,
        start_datetime=first,
        end_datetime=last,
        properties={
            "title": f"Parcels of the {season.harvest_year} harvest, {title}",
            **_projection(grid),
            "processing:software": {"panoseg": panoseg.__version__},
            **_model(weights, options, len(season.days_T)),
        },
        stac_extensions=_EXTENSIONS,
    )
    for name, asset in _assets(out, weights.card.classes).items():
        item.add_asset(name, asset)
    item.add_asset("model", _model_asset(weights_folder))
    return item.to_dict(include_self_link=False)


def _footprint(grid: GeoBox) -> tuple[BaseGeometry, list[float]]:
    """Outline and box of a grid in degrees; over the date line two polygons, and a box whose west
    is greater than its east (RFC 7946, sections 3.1.9 and 5.2).
    """
    outline = grid.extent.to_crs("EPSG:4326").geom
    west, south, east, north = outline.bounds
    if east - west <= 180:
        return outline, [west, south, east, north]
    whole = shapely.transform(
        outline, lambda places: np.column_stack([places[:, 0] % 360, places[:, 1]])
    )
    eastern, western = (
        whole.intersection(shapely.box(0, -90, 180, 90)),
        whole.intersection(shapely.box(180, -90, 360, 90)),
    )
    western = shapely.transform(western, lambda places: places - (360, 0))
    return shapely.union_all([eastern, western]), [
        eastern.bounds[0],
        south,
        western.bounds[2],
        north,
    ]


def _projection(grid: GeoBox) -> dict[str, Any]:
    crs = grid.crs
    if crs is None:
        raise ValueError("a grid without a coordinate system")
    known = (
        {"proj:code": f"EPSG:{crs.epsg}"}
        if crs.epsg
        else {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    )
    return known | {"proj:shape": list(grid.shape), "proj:transform": list(grid.affine)[:6]}


def _model(weights: Weights, options: MapOptions, dates: int) -> dict[str, Any]:
    """What the extension says of a model. The number of dates of an input is any (-1); the map used
    ``dates``.
    """
    card = weights.card
    normalisation = card.known_normalisation()
    pairs = zip(normalisation.mean, normalisation.std, strict=True)
    scaling = [{"type": "z-score", "mean": mean, "stddev": deviation} for mean, deviation in pairs]
    seen = {"shape": [1, -1, len(card.bands), options.tile, options.tile], "data_type": "float32"}
    found = {
        "shape": [1, options.tile, options.tile],
        "dim_order": ["batch", "height", "width"],
        "data_type": "int32",
    }
    return {
        "mlm:name": card.model.name,
        "mlm:architecture": card.model.title,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__.split("+")[0],
        "mlm:tasks": _TASKS,
        "mlm:total_parameters": sum(tensor.numel() for tensor in weights.state.values()),
        "mlm:pretrained": True,
        "mlm:pretrained_source": card.trained_on or "not stated",
        "mlm:input": [
            {
                "name": "a season of Sentinel-2, reflectance x 10 000",
                "bands": list(card.bands),
                "input": {**seen, "dim_order": ["batch", "time", "channel", "height", "width"]},
                "value_scaling": scaling,
            }
        ],
        "mlm:output": [
            {
                "name": "parcels",
                "tasks": _TASKS,
                "result": found,
                "classification:classes": _classes(card.classes),
            }
        ],
        "mlm:hyperparameters": {
            "tile": options.tile,
            "overlap": options.overlap,
            "views": options.tta,
            "dates": dates,
        },
    }


def _classes(table: ClassTable) -> list[dict[str, Any]]:
    return [
        {
            "value": entry.id,
            "name": entry.name,
            "description": entry.name,
            "color_hint": entry.colour[1:].upper(),
        }
        for entry in table.classes
    ]


def _assets(out: Path, table: ClassTable) -> dict[str, pystac.Asset]:
    """The files of a map that are there; each file of parcels is one."""
    assets = {}
    for name, title in _TITLES.items():
        path = out / name
        if path.is_dir():
            for part in sorted(path.iterdir()):
                assets[part.stem] = pystac.Asset(
                    f"./{name}/{part.name}", title, None, _MEDIA_TYPES[path.suffix], ["data"]
                )
        elif path.exists():
            roles = ["overview"] if path.suffix == ".html" else ["data"]
            assets[name.replace(".parquet", "").replace(".", "-")] = pystac.Asset(
                f"./{name}", title, None, _MEDIA_TYPES[path.suffix], roles
            )
    assets["classes-tif"].extra_fields["classification:classes"] = _classes(table)
    assets["map"] = pystac.Asset(
        "./map.json", "How the map was made", None, pystac.MediaType.JSON, ["metadata"]
    )
    return assets


def _model_asset(folder: str | None) -> pystac.Asset:
    """The weights where they lie; else the card of the model, in map.json."""
    if folder is not None and (Path(folder) / "model.safetensors").is_file():
        # Absolute, because readers take other addresses for those beside the item.
        media, href, kind = (
            "application/octet-stream",
            str((Path(folder) / "model.safetensors").resolve()),
            "safetensors",
        )
    else:
        media, href, kind = pystac.MediaType.JSON, "./map.json", "card"
    return pystac.Asset(href, "The model", None, media, ["mlm:model"], {"mlm:artifact_type": kind})


SHIPPED_NOTE = (
    "No weights were given: the ones in the package were used, which were trained on simulated"
    " seasons."
)
_FEW_DATES = 4
_ROWS_AT_ONCE = 16_384
"""A parcel takes about five thousand bytes while it is written."""


def write_map(
    out: Path, given: MapInputs, assembled: Assembled, outlines: OutlineFiles
) -> ReportContent:
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
        out / "item.json",
        map_item(
            given.title, grid, given.season, given.weights, given.weights_name, given.options, out
        ),
    )
    return content


def _write_parcels(out: Path, given: MapInputs, segments: Segments, outlines: OutlineFiles) -> None:
    """parcels.parquet, a file or a folder, and its other forms where they are asked for."""
    path, things, most = (
        out / "parcels.parquet",
        np.flatnonzero(segments.is_thing),
        given.options.rows_per_file,
    )
    parts = (
        _pieces(given, segments, outlines, things[start : start + most])
        for start in range(0, max(len(things), 1), most)
    )
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
        write_pmtiles(
            read_geoparquet(path), out / "parcels.pmtiles", given.cube.odc.geobox.crs.to_wkt()
        )
    else:
        _remove(out / "parcels.pmtiles")


def _pieces(
    given: MapInputs, segments: Segments, outlines: OutlineFiles, things: np.ndarray
) -> Iterator[gpd.GeoDataFrame]:
    """The parcels of some rows of the table, so many at a time as are held in memory; at least one
    piece.
    """
    grid, card, season = given.cube.odc.geobox, given.weights.card, given.season
    for start in range(0, max(len(things), 1), _ROWS_AT_ONCE):
        rows = segments.take(things[start : start + _ROWS_AT_ONCE])
        yield parcel_table(
            rows,
            to_map(outlines.read(rows.ids), grid.affine),
            grid.crs.to_wkt(),
            card.classes,
            observed=season.dates_T[-1],
            details=(
                f"panoseg {panoseg.__version__}, {card.model.title}, {len(season.days_T)} dates"
            ),
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


def _compared(
    parcels: gpd.GeoDataFrame, truth: gpd.GeoDataFrame, declared_only: bool
) -> Comparison:
    """The comparison, of classes too where the truth speaks of them by the same column."""
    classes = (parcels["class"], truth["class"]) if "class" in truth.columns else (None, None)
    return compare_parcels(
        parcels, truth, classes=classes[0], truth_classes=classes[1], declared_only=declared_only
    )


def _notes(given: MapInputs, data_share: float, parcels: int) -> tuple[str, ...]:
    """What a reader should know before the numbers, a sentence each. data_share: of the land that
    is mapped, 0..1.
    """
    season = given.season
    notes = [SHIPPED_NOTE] if given.weights_name is None else []
    if season.left_out:
        dates = len(season.left_out) + len(season.days_T)
        notes.append(
            f"{len(season.left_out)} of {dates} dates were left out; the report says which, and"
            " why."
        )
    spring, autumn = (np.datetime64(f"{season.harvest_year}-{month}-01") for month in ("04", "10"))
    growing = int(((season.dates_T >= spring) & (season.dates_T < autumn)).sum())
    if growing < _FEW_DATES:
        notes.append(
            f"Only {growing} dates lie between April and September: classes are uncertain."
        )
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
