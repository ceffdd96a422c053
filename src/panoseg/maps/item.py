"""``item.json``: a map as a STAC item, with the model that made it.

Fields: STAC 1.1; Machine Learning Model extension 1.4 (stac-extensions/mlm @ 103a77a, json-schema/schema.json and examples);
projection 2.0, processing 1.2 and classification 2.0. Addresses of files are relative to the item, that of the
weights is absolute.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
import torch
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.classes import ClassTable
from panoseg.cube.season import Season
from panoseg.maps.options import MapOptions
from panoseg.models.weights import Weights

_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
]
_TASKS = ["panoptic-segmentation", "instance-segmentation"]
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_MEDIA_TYPES = {".parquet": "application/vnd.apache.parquet", ".gpkg": "application/geopackage+sqlite3"}
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
    title: str, grid: GeoBox, season: Season, weights: Weights, weights_folder: str | None, options: MapOptions, out: Path
) -> dict[str, Any]:
    """The item of a map whose files lie in ``out``, JSON-ready. weights_folder: where the weights lie, if they lie anywhere."""
    outline, box = _footprint(grid)
    first, last = (datetime.combine(day.astype(object), datetime.min.time(), UTC) for day in season.dates_T[[0, -1]])
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
    """Outline and box of a grid in degrees; over the date line two polygons, and a box whose west is greater than its east
    (RFC 7946, sections 3.1.9 and 5.2)."""
    outline = grid.extent.to_crs("EPSG:4326").geom
    west, south, east, north = outline.bounds
    if east - west <= 180:
        return outline, [west, south, east, north]
    whole = shapely.transform(outline, lambda places: np.column_stack([places[:, 0] % 360, places[:, 1]]))
    eastern, western = whole.intersection(shapely.box(0, -90, 180, 90)), whole.intersection(shapely.box(180, -90, 360, 90))
    western = shapely.transform(western, lambda places: places - (360, 0))
    return shapely.union_all([eastern, western]), [eastern.bounds[0], south, western.bounds[2], north]


def _projection(grid: GeoBox) -> dict[str, Any]:
    crs = grid.crs
    if crs is None:
        raise ValueError("a grid without a coordinate system")
    known = {"proj:code": f"EPSG:{crs.epsg}"} if crs.epsg else {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    return known | {"proj:shape": list(grid.shape), "proj:transform": list(grid.affine)[:6]}


def _model(weights: Weights, options: MapOptions, dates: int) -> dict[str, Any]:
    """What the extension says of a model. The number of dates of an input is any (-1); the map used ``dates``."""
    card = weights.card
    normalisation = card.known_normalisation()
    pairs = zip(normalisation.mean, normalisation.std, strict=True)
    scaling = [{"type": "z-score", "mean": mean, "stddev": deviation} for mean, deviation in pairs]
    seen = {"shape": [1, -1, len(card.bands), options.tile, options.tile], "data_type": "float32"}
    found = {"shape": [1, options.tile, options.tile], "dim_order": ["batch", "height", "width"], "data_type": "int32"}
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
        "mlm:output": [{"name": "parcels", "tasks": _TASKS, "result": found, "classification:classes": _classes(card.classes)}],
        "mlm:hyperparameters": {"tile": options.tile, "overlap": options.overlap, "views": options.views, "dates": dates},
    }


def _classes(table: ClassTable) -> list[dict[str, Any]]:
    return [
        {"value": entry.id, "name": entry.name, "description": entry.name, "color_hint": entry.colour[1:].upper()}
        for entry in table.classes
    ]


def _assets(out: Path, table: ClassTable) -> dict[str, pystac.Asset]:
    """The files of a map that are there; each file of parcels is one."""
    assets = {}
    for name, title in _TITLES.items():
        path = out / name
        if path.is_dir():
            for part in sorted(path.iterdir()):
                assets[part.stem] = pystac.Asset(f"./{name}/{part.name}", title, None, _MEDIA_TYPES[path.suffix], ["data"])
        elif path.exists():
            roles = ["overview"] if path.suffix == ".html" else ["data"]
            assets[name.replace(".parquet", "").replace(".", "-")] = pystac.Asset(
                f"./{name}", title, None, _MEDIA_TYPES[path.suffix], roles
            )
    assets["classes-tif"].extra_fields["classification:classes"] = _classes(table)
    assets["map"] = pystac.Asset("./map.json", "How the map was made", None, pystac.MediaType.JSON, ["metadata"])
    return assets


def _model_asset(folder: str | None) -> pystac.Asset:
    """The weights where they lie; else the card of the model, in map.json."""
    if folder is not None and (Path(folder) / "model.safetensors").is_file():
        # Absolute, because readers take other addresses for those beside the item.
        media, href, kind = "application/octet-stream", str((Path(folder) / "model.safetensors").resolve()), "safetensors"
    else:
        media, href, kind = pystac.MediaType.JSON, "./map.json", "card"
    return pystac.Asset(href, "The model", None, media, ["mlm:model"], {"mlm:artifact_type": kind})
