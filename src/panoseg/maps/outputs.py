"""The files of a map: parcels, rasters, report.html, map.json and item.json.

``item.json`` is a STAC 1.1 item with the extensions Machine Learning Model 1.4, projection 2.0,
processing 1.2 and classification 2.0. Links to files are relative to the item, except that to the
weights, which is absolute.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import shapely
from odc.geo.geobox import GeoBox
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.mlm import AssetGeneralMLMExtension
from pystac.extensions.projection import ProjectionExtension
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.cube.folder import notes_of
from panoseg.cube.metadata import report_of
from panoseg.cube.season import Season
from panoseg.files import output_error, remove, write_json, write_text
from panoseg.maps import MapOptions
from panoseg.maps.assemble import Assembled
from panoseg.maps.compare import compare_parcels
from panoseg.maps.inputs import MapInputs
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
from panoseg.panoptic import Segments
from panoseg.training.publish import bands_of, classifications, describe_model

SHIPPED_NOTE = (
    "No weights were given, so the map was made with the weights in the package, which were trained"
    " on simulated seasons."
)
_MIN_GROWING_DATES = 4
ROWS_AT_ONCE = 16_384
"""Parcels in one piece of a table: each takes about 5 kB of memory while it is written."""
_PROCESSING_SCHEMA = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
_MEDIA_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".gpkg": "application/geopackage+sqlite3",
    ".pmtiles": "application/vnd.pmtiles",
    ".html": "text/html",
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
}
_TITLES = {
    "parcels.parquet": "Parcels with classes",
    "parcels.gpkg": "Parcels with classes, as a GeoPackage",
    "parcels.pmtiles": "Parcels with classes, as vector tiles",
    "segments.tif": "The parcel of each pixel",
    "classes.tif": "The class of each pixel",
    "confidence.tif": "The confidence of each pixel's parcel in percent",
    "report.html": "Report with map, charts and scores",
}


def write_map(
    out: Path, given: MapInputs, assembled: Assembled, outlines: OutlineFiles
) -> ReportContent:
    """Write all files of a map into ``out``, each atomically, and return the report's content.

    Files that only an earlier start with other options wrote are removed.
    """
    _write_parcels(out, given, assembled.segments, outlines)
    grid = given.cube.odc.geobox
    write_cog(out / "classes.tif", assembled.class_raster, grid)
    write_cog(out / "segments.tif", assembled.segment_raster, grid)
    write_cog(out / "confidence.tif", assembled.confidence_raster, grid)
    content = _report_content(given, assembled, out)
    write_text(out / "report.html", render_report(content))
    write_json(out / "map.json", _record(content))
    item = map_item(
        given.title, grid, given.season, given.weights, given.weights_name, given.options, out
    )
    write_json(out / "item.json", item)
    return content


def _write_parcels(out: Path, given: MapInputs, segments: Segments, outlines: OutlineFiles) -> None:
    """Write parcels.parquet, a file or a folder of files, and the other formats on request."""
    path, things = out / "parcels.parquet", np.flatnonzero(segments.is_thing)
    most = given.options.rows_per_file
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
    gpkg, pmtiles = out / "parcels.gpkg", out / "parcels.pmtiles"
    if given.options.gpkg:
        write_geopackage(read_geoparquet(path), gpkg, given.weights.card.classes)
    else:
        _remove(gpkg)
    if given.options.pmtiles:
        write_pmtiles(read_geoparquet(path), pmtiles, given.cube.odc.geobox.crs.to_wkt())
    else:
        _remove(pmtiles)


def _pieces(
    given: MapInputs, segments: Segments, outlines: OutlineFiles, things: np.ndarray
) -> Iterator[gpd.GeoDataFrame]:
    """Yield the table of some segments in pieces that fit in memory; at least one piece."""
    grid, card, season = given.cube.odc.geobox, given.weights.card, given.season
    details = f"panoseg {panoseg.__version__}, {card.model.title}, {len(season.days_T)} dates"
    for start in range(0, max(len(things), 1), ROWS_AT_ONCE):
        rows = segments.take(things[start : start + ROWS_AT_ONCE])
        yield parcel_table(
            rows,
            to_map(outlines.read(rows.ids), grid.affine),
            grid.crs.to_wkt(),
            card.classes,
            observed=season.dates_T[-1],
            details=details,
        )


def _remove(path: Path) -> None:
    try:
        remove(path)
    except OSError as error:
        raise output_error(path, error) from error


def _report_content(given: MapInputs, assembled: Assembled, out: Path) -> ReportContent:
    """Return what the report says of a map whose parcels and rasters lie in ``out``."""
    path, comparison, invented = out / "parcels.parquet", None, None
    if given.truth is not None:
        parcels = gpd.read_parquet(path)
        # Classes are compared only if the true parcels have our column.
        classified = "class" in given.truth.columns
        comparison = compare_parcels(
            parcels,
            given.truth,
            classes=parcels["class"] if classified else None,
            truth_classes=given.truth["class"] if classified else None,
            declared_only=given.declared_only,
        )
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
        origin=given.origin,
    )


def _notes(given: MapInputs, data_share: float, parcels: int) -> tuple[str, ...]:
    """Return what a reader should know before the numbers, a sentence each.

    Args:
        given: The map's inputs.
        data_share: Share of the mapped pixels that have data, 0-1.
        parcels: Number of parcels.
    """
    season = given.season
    notes = [SHIPPED_NOTE] if given.weights_name is None else []
    notes += given.notes
    if season.left_out:
        dates, were = (
            len(season.left_out) + len(season.days_T),
            "were" if season.left_out[1:] else "was",
        )
        notes.append(
            f"{len(season.left_out)} of {dates} dates {were} left out; the report lists them with"
            " the reasons."
        )
    spring, autumn = season.growing
    growing = int(((season.dates_T >= spring) & (season.dates_T < autumn)).sum())
    if growing < _MIN_GROWING_DATES:
        months = "October and March" if season.southern else "April and September"
        lie = "date lies" if growing == 1 else "dates lie"
        notes.append(f"Only {growing} {lie} between {months}, so classes are uncertain.")
    if data_share < 1:
        notes.append(f"{1 - data_share:.1%} of the area has no data on any date and no parcel.")
    if not parcels:
        notes.append("No parcel was found.")
    fetched = report_of(given.cube, given.cube_path)
    opened = notes_of(given.cube)
    return (*notes, *(fetched.sentences if fetched else ()), *opened, *left_out_notes(given.truth))


def _record(content: ReportContent) -> dict[str, Any]:
    """Return map.json: how the map was made."""
    season, fetched = content.season, report_of(content.cube, content.source)
    return {
        "panoseg": panoseg.__version__,
        "cube": str(content.source),
        "weights": content.weights or "those in the package",
        **({} if content.origin is None else {"weights_source": dict(content.origin)}),
        "card": content.card.to_json(),
        "options": content.options.to_json(),
        "harvest_year": season.harvest_year,
        "dates": season.dates_T.astype(str).tolist(),
        "left_out": dict(season.left_out),
        "left_out_scenes": dict(fetched.left_out_scenes) if fetched else {},
        "parcels": content.parcels.count,
        "notes": list(content.notes),
        "comparison": None if content.comparison is None else content.comparison.to_json(),
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
    """Return a STAC item of a map, as a JSON-ready dictionary.

    Args:
        title: What the map is called.
        grid: The pixels of the map.
        season: The dates that were used.
        weights: The weights.
        weights_folder: Folder of the weights; None for those in the package.
        options: How the map was made.
        out: Folder of the map's other files.
    """
    crs = grid.crs
    if crs is None:
        raise ValueError("a grid without a coordinate system")
    outline, box = _footprint(grid)
    # The extension wants the bands in the item; STAC 1.1 allows that if an asset has them too.
    bands = bands_of(weights.card)
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
            "bands": bands,
            "processing:software": {"panoseg": panoseg.__version__},
        },
        stac_extensions=[_PROCESSING_SCHEMA],
    )
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=f"EPSG:{crs.epsg}" if crs.epsg else None,
        wkt2=None if crs.epsg else crs.to_wkt(),
        shape=list(grid.shape),
        transform=list(grid.affine)[:6],
    )
    used = {"overlap": options.overlap, "views": options.tta, "dates": len(season.days_T)}
    describe_model(item, weights, options.tile, {"tile": options.tile, **used})
    for name, asset in _assets(out).items():
        item.add_asset(name, asset)
    ClassificationExtension.ext(item.assets["classes-tif"], add_if_missing=True).apply(
        classifications(weights.card.classes)
    )
    _add_model(item, weights_folder, bands)
    return item.to_dict(include_self_link=False)


def _footprint(grid: GeoBox) -> tuple[BaseGeometry, list[float]]:
    """Return the outline and the bounding box of a grid in degrees.

    A grid across the antimeridian has two polygons, and a box whose west is greater than its east
    (RFC 7946, sections 3.1.9 and 5.2).
    """
    outline = grid.extent.to_crs("EPSG:4326").geom
    west, south, east, north = outline.bounds
    if east - west <= 180:
        return outline, [west, south, east, north]
    whole = shapely.transform(outline, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
    eastern = whole.intersection(shapely.box(0, -90, 180, 90))
    western = whole.intersection(shapely.box(180, -90, 360, 90))
    western = shapely.transform(western, lambda xy: xy - (360, 0))
    box = [eastern.bounds[0], south, western.bounds[2], north]
    return shapely.union_all([eastern, western]), box


def _assets(out: Path) -> dict[str, pystac.Asset]:
    """Return the files of a map that exist, one asset each, and map.json."""
    assets = {}
    for name, title in _TITLES.items():
        path = out / name
        media = _MEDIA_TYPES[path.suffix]
        if path.is_dir():
            for part in sorted(path.iterdir()):
                assets[part.stem] = pystac.Asset(
                    f"./{name}/{part.name}", title, media_type=media, roles=["data"]
                )
        elif path.exists():
            roles = ["overview"] if path.suffix == ".html" else ["data"]
            key = name.replace(".parquet", "").replace(".", "-")
            assets[key] = pystac.Asset(f"./{name}", title, media_type=media, roles=roles)
    assets["map"] = pystac.Asset(
        "./map.json",
        "How the map was made",
        media_type=pystac.MediaType.JSON,
        roles=["metadata"],
    )
    return assets


def _add_model(item: pystac.Item, folder: str | None, bands: list[dict[str, str]]) -> None:
    """Add the weights as an asset; without a file of weights their card in map.json."""
    weights = None if folder is None else Path(folder) / "model.safetensors"
    if weights is not None and weights.is_file():
        # Absolute, because relative links are relative to the item.
        href, media, kind = str(weights.resolve()), "application/octet-stream", "safetensors"
    else:
        href, media, kind = "./map.json", pystac.MediaType.JSON, "card"
    asset = pystac.Asset(
        href, "The model", media_type=media, roles=["mlm:model"], extra_fields={"bands": bands}
    )
    item.add_asset("model", asset)
    AssetGeneralMLMExtension.ext(asset).apply(artifact_type=kind)
