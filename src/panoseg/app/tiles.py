"""Web Mercator tiles for the pages: parcels, official parcels, and image layers of any date.

At high zoom levels parcels are drawn from their outlines, which are smooth; at low ones from the
raster of identifiers, whose overviews make every zoom level cost the same. Memory per map is
bounded: a few numbers per parcel, and the blocks of outlines that were used last.

Shape suffixes: C bands, H W pixels of a tile, N outlines or parcels.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from PIL import Image, ImageDraw

from panoseg.app.corrections import read_corrections, version_of
from panoseg.app.layers import read_layers
from panoseg.app.limits import BoundedCache
from panoseg.app.official import MISSED, OTHER, SAME, UNKNOWN, outlines_of
from panoseg.app.result_map import ResultMap
from panoseg.app.stages import LAYERS, REFINED
from panoseg.app.tile_sources import (
    SIZE,
    Box,
    OutlineBlock,
    make_outline_block,
    mtime_of,
    read_outlines,
    read_tile,
)
from panoseg.errors import NotFoundError
from panoseg.maps.rasters import NO_DATA_CLASS

TileKind = Literal["parcels", "official", "differences", "true-colour", "false-colour", "ndvi"]
IMAGE_BANDS: dict[str, tuple[int, ...]] = {
    "true-colour": (3, 2, 1),
    "false-colour": (4, 3, 2),
    "ndvi": (4, 3),
}
"""Bands of a date's raster, from 1, of each kind of image layer."""
DIFFERENCE_COLOURS = {SAME: "#8a8f8b", OTHER: "#c2410c", UNKNOWN: "#f2c14e", MISSED: "#a21caf"}
NDVI_STOPS = (
    (-0.2, "#5b6c7d"),
    (0.0, "#b08a5b"),
    (0.2, "#e5d3a1"),
    (0.45, "#b5cf6b"),
    (0.7, "#4b9a3c"),
    (0.95, "#0b4a22"),
)
"""NDVI values and their colours, between which colours are interpolated."""
MAX_ZOOM = 18
_OUTLINES_FROM = 14  # zoom level from which outlines are drawn
_OFFICIAL_OUTLINES_FROM = _BLOCK_ZOOM = 12
_HALF_WORLD = 20037508.342789244
_SUPERSAMPLING = 2
_SAMPLED_PIXELS, _SAMPLED_DATES = 256, 8
_MIN_OPACITY = 0.25
_NDVI_STEPS = 1000


def _box(z: int, x: int, y: int) -> Box:
    """Return the bounds of a tile in Web Mercator."""
    side = 2 * _HALF_WORLD / 2**z
    left, top = x * side - _HALF_WORLD, _HALF_WORLD - y * side
    return left, top - side, left + side, top


@dataclass(frozen=True)
class TileRequest:
    """A tile to be drawn."""

    kind: TileKind
    """What the tile shows."""
    z: int
    """Zoom level."""
    x: int
    """Column."""
    y: int
    """Row."""
    date: str | None = None
    """Date of an image layer, such as 2019-05-01."""
    hidden: frozenset[int] = frozenset()
    """Ids of classes that are not drawn."""
    by_confidence: bool = False
    """Draw parcels more transparent the lower their confidence is."""

    def __post_init__(self) -> None:
        if not (0 <= self.z <= MAX_ZOOM and 0 <= self.x < 2**self.z and 0 <= self.y < 2**self.z):
            raise NotFoundError(
                f"There is no tile {self.z}/{self.x}/{self.y}; zoom levels are 0 to {MAX_ZOOM}."
            )

    @cached_property
    def box(self) -> Box:
        """Left, bottom, right, top in metres of Web Mercator."""
        return _box(self.z, self.x, self.y)

    @property
    def block_box(self) -> Box:
        """Bounds of the tile of zoom level 12 above it, whose outlines are read together."""
        up = self.z - _BLOCK_ZOOM
        return _box(_BLOCK_ZOOM, self.x >> up, self.y >> up)


@dataclass(frozen=True)
class Tile:
    """The encoded image of a tile."""

    content: bytes
    """The bytes of the image."""
    media_type: str
    """Its media type, such as image/webp."""


def etag(result: ResultMap, request: TileRequest) -> str:
    """Return a text that changes whenever the tile may look different, without reading rasters."""
    if request.kind in IMAGE_BANDS:
        changes = [mtime_of(_layer_file(result.folder, request.date))]
    elif request.kind == "parcels":
        changes = [mtime_of(result.segments), version_of(result.folder)]
    else:
        changes = [mtime_of(result.folder / REFINED / "classes.tif")]
    return hashlib.blake2b(
        repr((request, result.folder.name, changes)).encode(), digest_size=12
    ).hexdigest()


def draw_tile(result: ResultMap, request: TileRequest) -> Tile:
    """Draw a tile; it is transparent where there is nothing.

    Raises:
        NotFoundError: The map does not have this date, or no official parcels.
    """
    if request.kind in IMAGE_BANDS:
        return _draw_image_layer(result.folder, request)
    if request.kind == "parcels":
        if request.z >= _OUTLINES_FROM:
            return _encode_lossless(_draw_parcel_outlines(result, request))
        return _encode_lossless(_draw_parcel_raster(result, request))
    if request.z >= _OFFICIAL_OUTLINES_FROM:
        return _encode_lossless(_draw_official_outlines(result, request))
    return _encode_lossless(_draw_official_raster(result, request))


# -- parcels


def _draw_parcel_raster(result: ResultMap, request: TileRequest) -> Image.Image | None:
    ids_CHW = read_tile(result.segments, request.box)
    if ids_CHW is None:
        return None
    corrected = _corrected(result)
    image = Image.fromarray(_colours(result, request, ids_CHW[0], corrected.replaced))
    numbers_N = corrected.block.within(request.box)
    if not len(numbers_N):
        return image
    palette = _palette(result, request.hidden)
    return _draw_outlines(
        corrected.block,
        numbers_N,
        palette[corrected.classes_N[numbers_N]],
        request,
        image.convert("RGBa"),
    )


def _draw_parcel_outlines(result: ResultMap, request: TileRequest) -> Image.Image | None:
    corrected = _corrected(result)
    found = read_outlines(result.outlines, result.crs, request.block_box, ("id",))
    found_N, corrected_N = found.within(request.box), corrected.block.within(request.box)
    if not len(found_N) and not len(corrected_N):
        return None
    ids_N = found.columns["id"][found_N].astype(np.int64)
    image = _draw_outlines(
        found,
        found_N,
        _colours(result, request, ids_N, corrected.replaced),
        request,
        _supersampled_image(),
    )
    palette = _palette(result, request.hidden)
    image = _draw_outlines(
        corrected.block, corrected_N, palette[corrected.classes_N[corrected_N]], request, image
    )
    return image.reduce(_SUPERSAMPLING)


def _palette(result: ResultMap, hidden: frozenset[int]) -> np.ndarray:
    """Return the colour of each class, classes + 1 x 4 of uint8 (RGBA).

    The last one is transparent: ``NO_PARCEL``, -1, is its index.
    """
    palette = np.zeros((result.classes.count + 1, 4), np.uint8)
    for entry in result.classes.classes:
        palette[entry.id] = (*_rgb(entry.colour), 0 if entry.id in hidden else 255)
    return palette


def _colours(
    result: ResultMap, request: TileRequest, ids: np.ndarray, replaced: np.ndarray
) -> np.ndarray:
    """Return the colours of parcels by their ids, which may have any shape: shape x 4 of uint8."""
    ids = np.where(ids < len(result.class_I), ids, 0)
    colours: np.ndarray = _palette(result, request.hidden)[result.class_I[ids]]
    if request.by_confidence:
        colours[..., 3] = colours[..., 3] * _opacity(result.confidence_I[ids])
    if len(replaced):
        colours[np.isin(ids, replaced)] = 0
    return colours


@dataclass(frozen=True, eq=False)
class _Corrected:
    """The corrections of a map, ready to be drawn."""

    block: OutlineBlock
    """Outlines of the corrected parcels."""
    classes_N: np.ndarray
    """int64, their classes."""
    replaced: np.ndarray
    """int64, ids of the map's parcels that are not drawn."""


_CORRECTED = BoundedCache[_Corrected](16 * 1024**2, lambda corrected: corrected.block.bytes)


def _corrected(result: ResultMap) -> _Corrected:
    return _CORRECTED.get(
        (result.folder, version_of(result.folder)), lambda: _read_corrected(result)
    )


def _read_corrected(result: ResultMap) -> _Corrected:
    corrections = read_corrections(result.folder)
    parcels = list(corrections.parcels.values())
    outlines_N = np.array([parcel.geometry for parcel in parcels], dtype=object)
    classes_N = np.array([result.class_id(parcel.crop) for parcel in parcels], dtype=np.int64)
    return _Corrected(
        make_outline_block(outlines_N, result.crs, {}),
        classes_N,
        np.array(sorted(map(int, corrections.replaced)), np.int64),
    )


def _opacity(confidence_N: np.ndarray) -> np.ndarray:
    """Return opacities, 0 to 1: the lowest below a confidence of 0.2, full from 0.8 on."""
    return np.clip(
        _MIN_OPACITY + (1 - _MIN_OPACITY) * (confidence_N - 0.2) / 0.6, _MIN_OPACITY, 1.0
    )


# -- official parcels


def _draw_official_outlines(result: ResultMap, request: TileRequest) -> Image.Image | None:
    official = read_outlines(
        outlines_of(result), result.crs, request.block_box, ("found", "difference")
    )
    numbers_N = official.within(request.box)
    if not len(numbers_N):
        return None
    if request.kind == "differences":
        colours = {
            name: (*_rgb(colour), 60 if name == SAME else 215)
            for name, colour in DIFFERENCE_COLOURS.items()
        }
        names_N = official.columns["difference"][numbers_N]
    else:
        colours = {
            name: (*_rgb(colour), 255) for name, colour in _crop_colours(result, request).items()
        }
        names_N = official.columns["found"][numbers_N]
    colours_N4 = np.array([colours.get(name, (0, 0, 0, 0)) for name in names_N], np.uint8)
    return _draw_outlines(
        official, numbers_N, colours_N4, request, _supersampled_image(), draw_hidden=True
    ).reduce(_SUPERSAMPLING)


def _crop_colours(result: ResultMap, request: TileRequest) -> dict[str, str]:
    """Return the colours of the crops that are not hidden, by their names."""
    return {
        entry.name: entry.colour
        for entry in result.classes.classes
        if entry.kind == "thing" and entry.id not in request.hidden
    }


def _draw_official_raster(result: ResultMap, request: TileRequest) -> Image.Image | None:
    outlines_of(result)
    classes_CHW = read_tile(
        result.folder / REFINED / "classes.tif", request.box, fill=NO_DATA_CLASS
    )
    if classes_CHW is None:
        return None
    palette = np.zeros((NO_DATA_CLASS + 1, 4), np.uint8)
    for name, colour in _crop_colours(result, request).items():
        palette[result.class_id(name)] = (*_rgb(colour), 255)
    return Image.fromarray(palette[classes_CHW[0]])


# -- image layers


def _draw_image_layer(folder: Path, request: TileRequest) -> Tile:
    values_CHW = read_tile(
        _layer_file(folder, request.date), request.box, IMAGE_BANDS[request.kind], smooth=True
    )
    if values_CHW is None:
        return _TRANSPARENT
    seen_HW = (values_CHW != 0).all(axis=0)
    if request.kind == "ndvi":
        rgb_HW3 = _ndvi_colours(values_CHW.astype(np.float32))
    else:
        tones = _tones(*_clearest(folder), IMAGE_BANDS[request.kind])
        rgb_HW3 = np.dstack(
            [tone[values_HW] for tone, values_HW in zip(tones, values_CHW, strict=True)]
        )
    if seen_HW.all():
        return _encode(Image.fromarray(rgb_HW3), "JPEG", quality=85)
    alpha_HW = np.where(seen_HW, 255, 0).astype(np.uint8)
    # JPEG has no transparency, but takes a tenth of the time of WebP.
    return _encode(Image.fromarray(np.dstack([rgb_HW3, alpha_HW])), "WEBP", quality=85, method=0)


def _clearest(folder: Path) -> tuple[tuple[Path, ...], int]:
    """Return the rasters of the clearest dates, and when the first of them was written.

    The brightness of all dates is scaled by these.
    """
    layers = sorted(read_layers(folder / LAYERS), key=lambda layer: -layer.clear)[:_SAMPLED_DATES]
    paths = tuple(folder / LAYERS / layer.file for layer in layers)
    return paths, mtime_of(paths[0])


@lru_cache(32)
def _tones(paths: tuple[Path, ...], mtime_ns: int, indexes: tuple[int, ...]) -> np.ndarray:
    """Return the brightness of each value of each band, C x 65536 of uint8.

    The scale is the same for all dates, so that land is neither dark nor saturated in any season.
    """
    seen = np.concatenate([_sampled(path, indexes) for path in paths], axis=1)
    if seen.size:
        low_C, high_C = np.percentile(seen, (1, 98), axis=1)
    else:
        low_C, high_C = np.zeros(len(indexes)), np.full(len(indexes), 3000.0)
    low_C, high_C = 0.7 * low_C, np.maximum(1.1 * high_C, 0.7 * low_C + 1)
    numbers = np.arange(65536, dtype=np.float32)
    lit = np.clip((numbers - low_C[:, None]) / (high_C - low_C)[:, None], 0, 1) ** 0.75
    tones: np.ndarray = (255 * lit).astype(np.uint8)
    return tones


def _sampled(path: Path, indexes: tuple[int, ...]) -> np.ndarray:
    """Return the values of a sample of the pixels with data, float32, C x N."""
    with rasterio.open(path) as source:
        step = max(1.0, max(source.shape) / _SAMPLED_PIXELS)
        small = tuple(max(1, round(side / step)) for side in source.shape)
        values_CHW = source.read(indexes, out_shape=(len(indexes), *small)).astype(np.float32)
    sample: np.ndarray = values_CHW[:, (values_CHW != 0).all(axis=0)]
    return sample


def _ndvi_colours(values_CHW: np.ndarray) -> np.ndarray:
    """Return the colours of NDVI, H x W x 3 of uint8, from near infrared and red, float32."""
    near_HW, red_HW = values_CHW
    ndvi_HW = (near_HW - red_HW) / np.maximum(near_HW + red_HW, 1)
    colours: np.ndarray = _ndvi_palette()[((ndvi_HW + 1) * (_NDVI_STEPS / 2)).astype(np.int32)]
    return colours


@lru_cache(1)
def _ndvi_palette() -> np.ndarray:
    """Return the colours of NDVI from -1 to 1, 1001 x 3 of uint8."""
    levels = [level for level, _ in NDVI_STOPS]
    colours = np.array([_rgb(colour) for _, colour in NDVI_STOPS])
    ndvi = np.linspace(-1, 1, _NDVI_STEPS + 1)
    return np.stack(
        [np.interp(ndvi, levels, colours[:, channel]) for channel in range(3)], axis=1
    ).astype(np.uint8)


# -- drawing and encoding


def _layer_file(folder: Path, date: str | None) -> Path:
    for layer in read_layers(folder / LAYERS):
        if layer.date == date:
            return folder / LAYERS / layer.file
    raise NotFoundError(f"The season has no date {date}; choose another.")


def _supersampled_image() -> Image.Image:
    """Return an empty image (RGBa: premultiplied alpha) of twice the size of a tile.

    Outlines are drawn in it and then reduced, which makes their edges smooth.
    """
    return Image.new("RGBa", (SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING))


def _draw_outlines(
    block: OutlineBlock,
    numbers_N: np.ndarray,
    colours_N4: np.ndarray,
    request: TileRequest,
    image: Image.Image,
    draw_hidden: bool = False,
) -> Image.Image:
    """Draw outlines into an image of the tile, each with a darker border; holes stay transparent.

    Args:
        block: The outlines.
        numbers_N: Indices of the outlines to draw.
        colours_N4: uint8, their colours (RGBA).
        request: The tile.
        image: The image (RGBa: premultiplied alpha), which is changed.
        draw_hidden: Draw the borders of outlines whose colour is transparent, too.
    """
    left, _, right, top = request.box
    scale = image.width / (right - left)
    corner, factors = np.array([left, top]), np.array([scale, -scale])
    pen = ImageDraw.Draw(image)
    for number, colour in zip(numbers_N.tolist(), colours_N4.tolist(), strict=True):
        if colour[3] or draw_hidden:
            for polygon in block.polygons(number):
                rings = [((ring - corner) * factors).ravel().tolist() for ring in polygon]
                _draw_polygon(image, pen, rings, colour)
    return image


def _draw_polygon(
    image: Image.Image, pen: ImageDraw.ImageDraw, rings: list[list[float]], colour: list[int]
) -> None:
    """Draw a polygon; its rings are alternating x and y in pixels, the outer ring first."""
    fill = _premultiplied(colour[:3], colour[3])
    border = _premultiplied([round(0.55 * value) for value in colour[:3]], max(colour[3], 120))
    if len(rings) == 1:
        pen.polygon(rings[0], fill=fill if colour[3] else None)
    else:
        stencil = Image.new("L", image.size)
        stencil_pen = ImageDraw.Draw(stencil)
        for number, ring in enumerate(rings):
            stencil_pen.polygon(ring, fill=0 if number else 255)
        image.paste(fill, mask=stencil)
    for ring in rings:
        pen.line(ring, fill=border, width=image.width // SIZE)


def _premultiplied(rgb: list[int], alpha: int) -> tuple[int, int, int, int]:
    red, green, blue = (round(value * alpha / 255) for value in rgb)
    return red, green, blue, alpha


def _encode_lossless(image: Image.Image | None) -> Tile:
    """Encode an image as WebP; None gives a transparent tile."""
    if image is None:
        return _TRANSPARENT
    return _encode(image.convert("RGBA"), "WEBP", lossless=True, quality=0, method=0)


def _encode(image: Image.Image, kind: Literal["JPEG", "WEBP"], **options: float) -> Tile:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Tile(stream.getvalue(), f"image/{kind.lower()}")


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


_TRANSPARENT = _encode_lossless(Image.new("RGBA", (SIZE, SIZE)))
