"""Tiles of Web Mercator for the pages: parcels, official parcels, and pictures of any date, read from rasters by rio-tiler.

Close by, parcels are drawn from their outlines, which are smooth; from afar from the raster of identifiers, whose overviews
make every zoom level cost the same. Nothing of a map stays in memory but a few numbers a parcel.

Shape suffixes: C bands, H W pixels of a tile, I identifiers of segments.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
import shapely
from PIL import Image, ImageDraw
from pyproj import Transformer
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.io import Reader
from shapely.geometry.base import BaseGeometry

from panoseg.app.corrections import read_corrections, version_of
from panoseg.app.layers import read_layers
from panoseg.app.official import MISSED, OTHER, SAME, UNKNOWN, outlines_of
from panoseg.app.result_map import ResultMap
from panoseg.app.stages import LAYERS, REFINED
from panoseg.errors import NotFoundError
from panoseg.maps.rasters import NO_DATA_CLASS

Kind = Literal["parcels", "official", "differences", "true-colour", "false-colour", "ndvi"]
PICTURES: dict[str, tuple[int, ...]] = {"true-colour": (3, 2, 1), "false-colour": (4, 3, 2), "ndvi": (4, 3)}
"""Bands of a date's raster, from 1, that each picture is made of."""
DIFFERENCE_COLOURS = {SAME: "#8a8f8b", OTHER: "#c2410c", UNKNOWN: "#f2c14e", MISSED: "#a21caf"}
NDVI_STOPS = ((-0.2, "#5b6c7d"), (0.0, "#b08a5b"), (0.2, "#e5d3a1"), (0.45, "#b5cf6b"), (0.7, "#4b9a3c"), (0.95, "#0b4a22"))
"""NDVI and its colour; in between they are mixed."""
SIZE = 256
DEEPEST = 18
_OUTLINES_FROM = 14  # zoom level from which outlines are drawn
_OFFICIAL_FROM = 12
_HALF_WORLD = 20037508.342789244
_FINER = 2
_SAMPLED, _LIT_BY = 256, 8
_FAINTEST = 0.25


@dataclass(frozen=True)
class TileRequest:
    """A tile that is wanted.

    date: of a picture, as 2019-05-01. hidden: ids of classes that are left out. by_confidence: parcels are the fainter the less
    sure they are. z, x, y: zoom level, column and row.
    """

    kind: Kind
    z: int
    x: int
    y: int
    date: str | None = None
    hidden: frozenset[int] = frozenset()
    by_confidence: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.z <= DEEPEST and 0 <= self.x < 2**self.z and 0 <= self.y < 2**self.z):
            raise NotFoundError(f"tile {self.z}/{self.x}/{self.y}", f"one of zoom levels 0 to {DEEPEST}", "correct the address")

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in metres of Web Mercator."""
        side = 2 * _HALF_WORLD / 2**self.z
        left, top = self.x * side - _HALF_WORLD, _HALF_WORLD - self.y * side
        return left, top - side, left + side, top


@dataclass(frozen=True)
class Tile:
    """A picture of a tile: its bytes and their media type."""

    content: bytes
    media_type: str


def etag(result: ResultMap, request: TileRequest) -> str:
    """What changes whenever the tile may look different; costs no reading of a raster."""
    if request.kind in PICTURES:
        changes = [_stamp(_layer_file(result.folder, request.date))]
    elif request.kind == "parcels":
        changes = [_stamp(result.segments), version_of(result.folder)]
    else:
        changes = [_stamp(result.folder / REFINED / "classes.tif")]
    return hashlib.blake2b(repr((request, result.folder.name, changes)).encode(), digest_size=12).hexdigest()


def draw_tile(result: ResultMap, request: TileRequest) -> Tile:
    """A tile; see-through where there is nothing. Raises ``NotFoundError`` for a date or official parcels that it lacks."""
    if request.kind in PICTURES:
        return _picture(result.folder, request)
    if request.kind == "parcels":
        close = request.z >= _OUTLINES_FROM
        return _png(_outlined_parcels(result, request) if close else _parcels_from_afar(result, request))
    return _png(_official(result, request))


# -- parcels


def _parcels_from_afar(result: ResultMap, request: TileRequest) -> Image.Image:
    ids_HW = _read(result.segments, request)
    if ids_HW is None:
        return _empty()
    known_HW = np.where(ids_HW < len(result.class_I), ids_HW, 0)
    corrections = read_corrections(result.folder)
    picture = Image.fromarray(_colours(result, request, corrections.replaced)[known_HW])
    corrected = corrections.table(result)
    return _drawn(corrected, _fills(result, request, corrected, None), request, picture) if len(corrected) else picture


def _colours(result: ResultMap, request: TileRequest, replaced: frozenset[str]) -> np.ndarray:
    """The colour of each segment, I x 4 of uint8."""
    palette = np.zeros((result.classes.count + 1, 4), np.uint8)
    for entry in result.classes.classes:
        shown = entry.id not in request.hidden
        palette[entry.id] = (*_rgb(entry.colour), 255 if shown else 0)
    colours_I4 = palette[result.class_I]  # NO_PARCEL, -1, is the last row, which is see-through
    if request.by_confidence:
        colours_I4[:, 3] = colours_I4[:, 3] * _opacity(result.confidence_I)
    colours_I4[[int(id_) for id_ in replaced]] = 0
    return colours_I4


def _outlined_parcels(result: ResultMap, request: TileRequest) -> Image.Image:
    corrections = read_corrections(result.folder)
    found = result.within(_own_box(result, request))
    found = found[~found["id"].isin(corrections.replaced)]
    confidence_N = result.confidence_I[found["id"].astype(np.int64).to_numpy()]
    picture = _drawn(found, _fills(result, request, found, confidence_N), request, _empty(_FINER))
    corrected = corrections.table(result)
    if len(corrected):
        picture = _drawn(corrected, _fills(result, request, corrected, None), request, picture)
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


def _fills(
    result: ResultMap, request: TileRequest, parcels: gpd.GeoDataFrame, confidence_N: np.ndarray | None
) -> list[tuple[int, int, int, int]]:
    """The colour of each parcel; those that are hidden are see-through."""
    by_name = {entry.name: entry for entry in result.classes.classes}
    faint = request.by_confidence and confidence_N is not None
    opacity_N = _opacity(confidence_N) if faint and confidence_N is not None else np.ones(len(parcels))
    fills = []
    for name, opacity in zip(parcels["class"], opacity_N, strict=True):
        shown = by_name[name].id not in request.hidden
        fills.append((*_rgb(by_name[name].colour), round(255 * float(opacity)) if shown else 0))
    return fills


def _opacity(confidence_N: np.ndarray) -> np.ndarray:
    """0..1: faint below a confidence of 0.2, full from 0.8 on."""
    return np.clip(_FAINTEST + (1 - _FAINTEST) * (confidence_N - 0.2) / 0.6, _FAINTEST, 1.0)


# -- official parcels


def _official(result: ResultMap, request: TileRequest) -> Image.Image:
    path = outlines_of(result)
    if request.z < _OFFICIAL_FROM:
        return _classes_from_afar(result, request)
    official = pyogrio.read_dataframe(path, bbox=_own_box(result, request))
    if request.kind == "differences":
        fills = [(*_rgb(DIFFERENCE_COLOURS[name]), 60 if name == SAME else 215) for name in official["difference"]]
    else:
        by_name = {entry.name: entry for entry in result.classes.classes if entry.kind == "thing"}
        shown = [by_name.get(name or "") for name in official["found"]]
        fills = [(0, 0, 0, 0) if entry is None or entry.id in request.hidden else (*_rgb(entry.colour), 255) for entry in shown]
    return _drawn(official, fills, request, _empty(_FINER), always_lined=True).resize((SIZE, SIZE), Image.Resampling.BOX)


def _classes_from_afar(result: ResultMap, request: TileRequest) -> Image.Image:
    classes_HW = _read(result.folder / REFINED / "classes.tif", request, NO_DATA_CLASS)
    if classes_HW is None:
        return _empty()
    palette = np.zeros((256, 4), np.uint8)
    for entry in result.classes.classes:
        if entry.kind == "thing" and entry.id not in request.hidden:
            palette[entry.id] = (*_rgb(entry.colour), 255)
    return Image.fromarray(palette[classes_HW])


# -- pictures of a date


def _picture(folder: Path, request: TileRequest) -> Tile:
    path = _layer_file(folder, request.date)
    try:
        with Reader(str(path)) as source:
            data = source.tile(request.x, request.y, request.z, indexes=PICTURES[request.kind], resampling_method="bilinear")
    except TileOutsideBounds:
        return _png(_empty())
    values_CHW, seen_HW = data.array.data.astype(np.float32), (data.mask > 0) & (data.array.data != 0).all(axis=0)
    if request.kind == "ndvi":
        near_HW, red_HW = values_CHW
        rgb_HW3 = _ndvi_colours((near_HW - red_HW) / np.maximum(near_HW + red_HW, 1))
    else:
        low_C, high_C = _stretch(*_clearest(folder), PICTURES[request.kind])
        lit_CHW = np.clip((values_CHW - low_C[:, None, None]) / (high_C - low_C)[:, None, None], 0, 1) ** 0.75
        rgb_HW3 = (255 * lit_CHW).astype(np.uint8).transpose(1, 2, 0)
    alpha_HW = np.where(seen_HW, 255, 0).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.dstack([rgb_HW3, alpha_HW])).save(stream, "WEBP", quality=85, method=1)
    return Tile(stream.getvalue(), "image/webp")


def _clearest(folder: Path) -> tuple[tuple[Path, ...], int]:
    """The rasters of the clearest dates, by which all dates are lit alike, and when the first was written."""
    layers = sorted(read_layers(folder / LAYERS), key=lambda layer: -layer.clear)[:_LIT_BY]
    paths = tuple(folder / LAYERS / layer.file for layer in layers)
    return paths, _stamp(paths[0])


@lru_cache(64)
def _stretch(paths: tuple[Path, ...], stamp: int, indexes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What becomes black and what becomes white of each band, so that land is well lit in all seasons."""
    seen = np.concatenate([_sampled(path, indexes) for path in paths], axis=1)
    if not seen.size:
        return np.zeros(len(indexes), np.float32), np.full(len(indexes), 3000, np.float32)
    low_C, high_C = np.percentile(seen, (1, 98), axis=1)
    return 0.7 * low_C, np.maximum(1.1 * high_C, 0.7 * low_C + 1)


def _sampled(path: Path, indexes: tuple[int, ...]) -> np.ndarray:
    """The numbers of some pixels with data, C x N."""
    with rasterio.open(path) as source:
        step = max(1.0, max(source.shape) / _SAMPLED)
        small = tuple(max(1, round(side / step)) for side in source.shape)
        values_CHW = source.read(indexes, out_shape=(len(indexes), *small)).astype(np.float32)
    return values_CHW[:, (values_CHW != 0).all(axis=0)]


def _ndvi_colours(ndvi_HW: np.ndarray) -> np.ndarray:
    """H x W x 3 of uint8."""
    levels = [level for level, _ in NDVI_STOPS]
    colours = np.array([_rgb(colour) for _, colour in NDVI_STOPS])
    return np.dstack([np.interp(ndvi_HW, levels, colours[:, channel]) for channel in range(3)]).astype(np.uint8)


# -- all of them


def _layer_file(folder: Path, date: str | None) -> Path:
    for layer in read_layers(folder / LAYERS):
        if layer.date == date:
            return folder / LAYERS / layer.file
    raise NotFoundError(f"date {date}", "one of the season's", "choose another")


def _read(path: Path, request: TileRequest, fill: int = 0) -> np.ndarray | None:
    """The numbers of a raster in a tile, H x W, never mixed; None where the raster does not reach."""
    try:
        with Reader(str(path)) as source:
            data = source.tile(
                request.x, request.y, request.z, indexes=1, resampling_method="nearest", reproject_method="nearest"
            )
    except TileOutsideBounds:
        return None
    return np.asarray(data.array.filled(fill)[0])


def _own_box(result: ResultMap, request: TileRequest) -> tuple[float, float, float, float]:
    """The box of a tile in the map's coordinate system."""
    return Transformer.from_crs("EPSG:3857", result.crs, always_xy=True).transform_bounds(*request.box)


def _drawn(
    parcels: gpd.GeoDataFrame,
    fills: list[tuple[int, int, int, int]],
    request: TileRequest,
    picture: Image.Image,
    always_lined: bool = False,
) -> Image.Image:
    """Parcels drawn into a picture of the tile, each with a darker border; holes show what lies below."""
    side = picture.width
    left, _, right, top = request.box
    scale = side / (right - left)
    moved = parcels.geometry.to_crs("EPSG:3857").to_numpy()
    pixels_N = shapely.transform(moved, lambda xy: (xy - (left, top)) * (scale, -scale))
    pen = ImageDraw.Draw(picture)
    for outline, fill in zip(pixels_N, fills, strict=True):
        if fill[3] or always_lined:
            _draw(picture, pen, outline, fill, side // SIZE)
    return picture


def _draw(picture: Image.Image, pen: ImageDraw.ImageDraw, outline: BaseGeometry, fill: tuple[int, ...], width: int) -> None:
    border = (*(round(0.55 * value) for value in fill[:3]), max(fill[3], 120))
    for part in shapely.get_parts(outline):
        rings = [[(float(x), float(y)) for x, y in ring.coords] for ring in (part.exterior, *part.interiors)]
        if len(rings) == 1:
            pen.polygon(rings[0], fill=fill if fill[3] else None)
        else:
            stencil = Image.new("L", picture.size)
            stencil_pen = ImageDraw.Draw(stencil)
            for number, ring in enumerate(rings):
                stencil_pen.polygon(ring, fill=0 if number else 255)
            picture.paste(fill, mask=stencil)
        for ring in rings:
            pen.line(ring, fill=border, width=width)


def _empty(finer: int = 1) -> Image.Image:
    return Image.new("RGBA", (SIZE * finer, SIZE * finer))


def _png(picture: Image.Image) -> Tile:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=3)
    return Tile(stream.getvalue(), "image/png")


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise NotFoundError("this layer", "one of a map that is done", "wait until it is done") from error


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
