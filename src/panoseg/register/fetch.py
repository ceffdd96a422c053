"""The cube of a register's land, fetched from a catalogue."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import shapely
from shapely.geometry import mapping

from panoseg.cube.build import CubeReport
from panoseg.cube.fetch import Request, fetch_cube
from panoseg.cube.season import season_span
from panoseg.files import write_json
from panoseg.maps.read_parcels import read_truth
from panoseg.register.options import FetchOptions

_EDGE_PIECES = 64


def fetch_season(parcels: Path, season: int, out: Path, options: FetchOptions) -> CubeReport:
    """Fetch the season of a register's land as the Zarr store ``out``, or find it there; its list of scenes is kept beside it.

    season: harvest year. Without an area the box around all parcels is taken, and written beside the cube. Raises what
    ``fetch_cube`` raises, and ``ParcelsError``.
    """
    assert options.catalog is not None, "without a catalogue there is nothing to fetch"
    area = options.area
    if area is None:
        area = out.with_suffix(".area.geojson")
        write_json(area, _box_around(parcels))
    request = Request(area, *season_span(season), options.catalog, options.collection, options.yes)
    report, _ = fetch_cube(request, out, out.with_suffix(".scenes.json"), options.fetch)
    return report


def _box_around(path: Path) -> dict:
    """The box around the parcels of a file, in their own coordinate system, as a GeoJSON feature in degrees."""
    parcels = read_truth(path)
    box = gpd.GeoSeries([shapely.box(*parcels.total_bounds)], crs=parcels.crs)
    outline = box.segmentize(max(box.length.max() / _EDGE_PIECES, 1e-9)).to_crs("EPSG:4326").iloc[0]
    return {"type": "Feature", "properties": {"box around": path.name}, "geometry": json.loads(json.dumps(mapping(outline)))}
