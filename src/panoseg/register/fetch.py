"""The cube of a register's land, fetched from a catalogue."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import shapely
from shapely.geometry import mapping

from panoseg.cube.build import CubeReport
from panoseg.cube.fetch import Request, fetch_cube
from panoseg.cube.options import CubeOptions
from panoseg.cube.season import season_span
from panoseg.files import write_json
from panoseg.maps.read_parcels import read_truth

_EDGE_PIECES = 64


def fetch_season(
    parcels: Path,
    area: Path | None,
    season: int,
    catalogue: str,
    collection: str | None,
    out: Path,
    options: CubeOptions,
    *,
    yes: bool = False,
) -> CubeReport:
    """Fetch the season of an outline as the Zarr store ``out``, or find it there; the list of its scenes is kept beside it.

    area: file with the outline; without it the box around all parcels, which is written beside the cube. season: harvest year.
    yes: fetch, however much it is. Raises what ``fetch_cube`` raises, and ``ParcelsError``.
    """
    if area is None:
        area = out.with_suffix(".area.geojson")
        write_json(area, _box_around(parcels))
    report, _ = fetch_cube(
        Request(area, *season_span(season), catalogue, collection, yes), out, out.with_suffix(".scenes.json"), options
    )
    return report


def _box_around(path: Path) -> dict:
    """The box around the parcels of a file, in their own coordinate system, as a GeoJSON feature in degrees."""
    parcels = read_truth(path)
    box = gpd.GeoSeries([shapely.box(*parcels.total_bounds)], crs=parcels.crs)
    outline = box.segmentize(max(box.length.max() / _EDGE_PIECES, 1e-9)).to_crs("EPSG:4326").iloc[0]
    return {"type": "Feature", "properties": {"box around": path.name}, "geometry": json.loads(json.dumps(mapping(outline)))}
