"""Tiles of Web Mercator for the pages: parcels, official parcels, and pictures of any date.

Close by, parcels are drawn from their outlines, which are smooth; from afar from the raster of
identifiers, whose overviews make every zoom level cost the same. What stays in memory of a map is
bounded: a few numbers a parcel, and sheets of outlines that were looked at last.

Shape suffixes: C bands, H W pixels of a tile.
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
from panoseg.app.tile_sources import SIZE, Box, Sheet, make_sheet, read_tile, sheet_of, stamp_of
from panoseg.errors import NotFoundError
from panoseg.maps.rasters import NO_DATA_CLASS

Kind = Literal["parcels", "official", "differences", "true-colour", "false-colour", "ndvi"]
PICTURES: dict[str, tuple[int, ...]] = {
    "true-colour": (3, 2, 1),
    "false-colour": (4, 3, 2),
    "ndvi": (4, 3),
}
"""Bands of a date's raster, from 1, that each picture is made of."""
DIFFERENCE_COLOURS = {SAME: "#8a8f8b", OTHER: "#c2410c", UNKNOWN: "#f2c14e", MISSED: "#a21caf"}
NDVI_STOPS = (
    (-0.2, "#5b6c7d"),
    (0.0, "#b08a5b"),
    (0.2, "#e5d3a1"),
    (0.45, "#b5cf6b"),
    (0.7, "#4b9a3c"),
    (0.95, "#0b4a22"),
)
"""NDVI and its colour; in between they are mixed."""
DEEPEST = 18
_OUTLINES_FROM = 14  # zoom level from which outlines are drawn
_OFFICIAL_FROM = _SHEET = 12
_HALF_WORLD = 20037508.342789244
_FINER = 2
_SAMPLED, _LIT_BY = 256, 8
_FAINTEST = 0.25
_NDVI_STEPS = 1000


def _box(z: int, x: int, y: int) -> Box:
    side = 2 * _HALF_WORLD / 2**z
    left, top = x * side - _HALF_WORLD, _HALF_WORLD - y * side
    return left, top - side, left + side, top


@dataclass(frozen=True)
class TileRequest:
    """A tile that is wanted.

    date: of a picture, as 2019-05-01. hidden: ids of classes that are left out. by_confidence:
    parcels are the fainter the less sure they are. z, x, y: zoom level, column and row.
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
            raise NotFoundError(
                f"tile {self.z}/{self.x}/{self.y}",
                f"one of zoom levels 0 to {DEEPEST}",
                "correct the address",
            )

    @cached_property
    def box(self) -> Box:
        """Left, bottom, right, top in metres of Web Mercator."""
        return _box(self.z, self.x, self.y)

    @property
    def sheet(self) -> Box:
        """The box of the tile far above it, whose outlines are read together."""
        up = self.z - _SHEET
        return _box(_SHEET, self.x >> up, self.y >> up)


@dataclass(frozen=True)
class Tile:
    """A picture of a tile: its bytes and their media type."""

    content: bytes
    media_type: str


def etag(result: ResultMap, request: TileRequest) -> str:
    """What changes whenever the tile may look different; costs no reading of a raster."""
    if request.kind in PICTURES:
        changes = [stamp_of(_layer_file(result.folder, request.date))]
    elif request.kind == "parcels":
        changes = [stamp_of(result.segments), version_of(result.folder)]
    else:
        changes = [stamp_of(result.folder / REFINED / "classes.tif")]
    return hashlib.blake2b(
        repr((request, result.folder.name, changes)).encode(), digest_size=12
    ).hexdigest()


def draw_tile(result: ResultMap, request: TileRequest) -> Tile:
    """A tile; see-through where there is nothing. Raises ``NotFoundError`` for a date or official
    parcels that it lacks.
    """
    if request.kind in PICTURES:
        return _picture(result.folder, request)
    if request.kind == "parcels":
        close = request.z >= _OUTLINES_FROM
        return _exactly(
            _outlined_parcels(result, request) if close else _parcels_from_afar(result, request)
        )
    close = request.z >= _OFFICIAL_FROM
    return _exactly(_official(result, request) if close else _classes_from_afar(result, request))


# -- parcels


def _parcels_from_afar(result: ResultMap, request: TileRequest) -> Image.Image | None:
    ids_CHW = read_tile(result.segments, request.box)
    if ids_CHW is None:
        return None
    corrected = _corrected(result)
    picture = Image.fromarray(_colours(result, request, ids_CHW[0], corrected.replaced))
    numbers_N = corrected.sheet.within(request.box)
    if not len(numbers_N):
        return picture
    palette = _palette(result, request.hidden)
    return _drawn(
        corrected.sheet,
        numbers_N,
        palette[corrected.classes_N[numbers_N]],
        request,
        picture.convert("RGBa"),
    )


def _outlined_parcels(result: ResultMap, request: TileRequest) -> Image.Image | None:
    corrected = _corrected(result)
    found = sheet_of(result.outlines, result.crs, request.sheet, ("id",))
    found_N, corrected_N = found.within(request.box), corrected.sheet.within(request.box)
    if not len(found_N) and not len(corrected_N):
        return None
    ids_N = found.columns["id"][found_N].astype(np.int64)
    picture = _drawn(
        found, found_N, _colours(result, request, ids_N, corrected.replaced), request, _fine()
    )
    palette = _palette(result, request.hidden)
    picture = _drawn(
        corrected.sheet, corrected_N, palette[corrected.classes_N[corrected_N]], request, picture
    )
    return picture.reduce(_FINER)


def _palette(result: ResultMap, hidden: frozenset[int]) -> np.ndarray:
    """The colour of each class, uint8, and at last one that is see-through, which ``NO_PARCEL``,
    -1, finds.
    """
    palette = np.zeros((result.classes.count + 1, 4), np.uint8)
    for entry in result.classes.classes:
        palette[entry.id] = (*_rgb(entry.colour), 0 if entry.id in hidden else 255)
    return palette


def _colours(
    result: ResultMap, request: TileRequest, ids: np.ndarray, replaced: np.ndarray
) -> np.ndarray:
    """The colours of segments by their ids, which may have any shape: that shape x 4 of uint8."""
    ids = np.where(ids < len(result.class_I), ids, 0)
    colours = _palette(result, request.hidden)[result.class_I[ids]]
    if request.by_confidence:
        colours[..., 3] = colours[..., 3] * _opacity(result.confidence_I[ids])
    if len(replaced):
        colours[np.isin(ids, replaced)] = 0
    return colours


@dataclass(frozen=True, eq=False)
class _Corrected:
    """What corrections change of a map: outlines that come with their classes, and ids of found
    parcels that go.
    """

    sheet: Sheet
    classes_N: np.ndarray
    replaced: np.ndarray


_CORRECTED = BoundedCache[_Corrected](16 * 1024**2, lambda corrected: corrected.sheet.bytes)


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
        make_sheet(outlines_N, result.crs, {}),
        classes_N,
        np.array(sorted(map(int, corrections.replaced)), np.int64),
    )


def _opacity(confidence_N: np.ndarray) -> np.ndarray:
    """0..1: faint below a confidence of 0.2, full from 0.8 on."""
    return np.clip(_FAINTEST + (1 - _FAINTEST) * (confidence_N - 0.2) / 0.6, _FAINTEST, 1.0)


# -- official parcels


def _official(result: ResultMap, request: TileRequest) -> Image.Image | None:
    official = sheet_of(outlines_of(result), result.crs, request.sheet, ("found", "difference"))
    numbers_N = official.within(request.box)
    if not len(numbers_N):
        return None
    if request.kind == "differences":
        shown = {
            name: (*_rgb(colour), 60 if name == SAME else 215)
            for name, colour in DIFFERENCE_COLOURS.items()
        }
        names_N = official.columns["difference"][numbers_N]
    else:
        shown = {
            name: (*_rgb(colour), 255) for name, colour in _crop_colours(result, request).items()
        }
        names_N = official.columns["found"][numbers_N]
    colours_N4 = np.array([shown.get(name, (0, 0, 0, 0)) for name in names_N], np.uint8)
    return _drawn(official, numbers_N, colours_N4, request, _fine(), always_lined=True).reduce(
        _FINER
    )


def _crop_colours(result: ResultMap, request: TileRequest) -> dict[str, str]:
    """The colours of the crops that are not hidden, by their names."""
    shown = (
        entry
        for entry in result.classes.classes
        if entry.kind == "thing" and entry.id not in request.hidden
    )
    return {entry.name: entry.colour for entry in shown}


def _classes_from_afar(result: ResultMap, request: TileRequest) -> Image.Image | None:
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


# -- pictures of a date


def _picture(folder: Path, request: TileRequest) -> Tile:
    values_CHW = read_tile(
        _layer_file(folder, request.date), request.box, PICTURES[request.kind], smooth=True
    )
    if values_CHW is None:
        return _NOTHING
    seen_HW = (values_CHW != 0).all(axis=0)
    if request.kind == "ndvi":
        rgb_HW3 = _ndvi_colours(values_CHW.astype(np.float32))
    else:
        tones = _tones(*_clearest(folder), PICTURES[request.kind])
        rgb_HW3 = np.dstack(
            [tone[values_HW] for tone, values_HW in zip(tones, values_CHW, strict=True)]
        )
    if seen_HW.all():
        return _encoded(Image.fromarray(rgb_HW3), "JPEG", quality=85)
    alpha_HW = np.where(seen_HW, 255, 0).astype(np.uint8)
    # JPEG knows nothing of what is see-through; it takes a tenth of the time.
    return _encoded(Image.fromarray(np.dstack([rgb_HW3, alpha_HW])), "WEBP", quality=85, method=0)


def _clearest(folder: Path) -> tuple[tuple[Path, ...], int]:
    """The rasters of the clearest dates, by which all dates are lit alike, and when the first was
    written.
    """
    layers = sorted(read_layers(folder / LAYERS), key=lambda layer: -layer.clear)[:_LIT_BY]
    paths = tuple(folder / LAYERS / layer.file for layer in layers)
    return paths, stamp_of(paths[0])


@lru_cache(32)
def _tones(paths: tuple[Path, ...], stamp: int, indexes: tuple[int, ...]) -> np.ndarray:
    """How bright each number of each band is, C x 65536 of uint8, so that land is well lit in all
    seasons.
    """
    seen = np.concatenate([_sampled(path, indexes) for path in paths], axis=1)
    if seen.size:
        low_C, high_C = np.percentile(seen, (1, 98), axis=1)
    else:
        low_C, high_C = np.zeros(len(indexes)), np.full(len(indexes), 3000.0)
    low_C, high_C = 0.7 * low_C, np.maximum(1.1 * high_C, 0.7 * low_C + 1)
    numbers = np.arange(65536, dtype=np.float32)
    lit = np.clip((numbers - low_C[:, None]) / (high_C - low_C)[:, None], 0, 1) ** 0.75
    return (255 * lit).astype(np.uint8)


def _sampled(path: Path, indexes: tuple[int, ...]) -> np.ndarray:
    """The numbers of some pixels with data, C x N."""
    with rasterio.open(path) as source:
        step = max(1.0, max(source.shape) / _SAMPLED)
        small = tuple(max(1, round(side / step)) for side in source.shape)
        values_CHW = source.read(indexes, out_shape=(len(indexes), *small)).astype(np.float32)
    return values_CHW[:, (values_CHW != 0).all(axis=0)]


def _ndvi_colours(values_CHW: np.ndarray) -> np.ndarray:
    """H x W x 3 of uint8. values_CHW: float32, near infrared and red."""
    near_HW, red_HW = values_CHW
    ndvi_HW = (near_HW - red_HW) / np.maximum(near_HW + red_HW, 1)
    return _ndvi_palette()[((ndvi_HW + 1) * (_NDVI_STEPS / 2)).astype(np.int32)]


@lru_cache(1)
def _ndvi_palette() -> np.ndarray:
    """The colours of NDVI from -1 to 1."""
    levels = [level for level, _ in NDVI_STOPS]
    colours = np.array([_rgb(colour) for _, colour in NDVI_STOPS])
    ndvi = np.linspace(-1, 1, _NDVI_STEPS + 1)
    return np.stack(
        [np.interp(ndvi, levels, colours[:, channel]) for channel in range(3)], axis=1
    ).astype(np.uint8)


# -- all of them


def _layer_file(folder: Path, date: str | None) -> Path:
    for layer in read_layers(folder / LAYERS):
        if layer.date == date:
            return folder / LAYERS / layer.file
    raise NotFoundError(f"date {date}", "one of the season's", "choose another")


def _fine() -> Image.Image:
    """A picture in which outlines are drawn, finer than a tile, with colours that are multiplied by
    their alpha already.
    """
    return Image.new("RGBa", (SIZE * _FINER, SIZE * _FINER))


def _drawn(
    sheet: Sheet,
    numbers_N: np.ndarray,
    colours_N4: np.ndarray,
    request: TileRequest,
    picture: Image.Image,
    always_lined: bool = False,
) -> Image.Image:
    """Outlines drawn into a picture (RGBa) of the tile, each with a darker border; holes show what
    lies below.
    """
    left, _, right, top = request.box
    scale = picture.width / (right - left)
    corner, factors = np.array([left, top]), np.array([scale, -scale])
    pen = ImageDraw.Draw(picture)
    for number, colour in zip(numbers_N.tolist(), colours_N4.tolist(), strict=True):
        if colour[3] or always_lined:
            for polygon in sheet.polygons(number):
                rings = [((ring - corner) * factors).ravel().tolist() for ring in polygon]
                _draw(picture, pen, rings, colour)
    return picture


def _draw(
    picture: Image.Image, pen: ImageDraw.ImageDraw, rings: list[list[float]], colour: list[int]
) -> None:
    """rings: x and y of each corner in turn, the outer ring first."""
    fill = _premultiplied(colour[:3], colour[3])
    border = _premultiplied([round(0.55 * value) for value in colour[:3]], max(colour[3], 120))
    if len(rings) == 1:
        pen.polygon(rings[0], fill=fill if colour[3] else None)
    else:
        stencil = Image.new("L", picture.size)
        stencil_pen = ImageDraw.Draw(stencil)
        for number, ring in enumerate(rings):
            stencil_pen.polygon(ring, fill=0 if number else 255)
        picture.paste(fill, mask=stencil)
    for ring in rings:
        pen.line(ring, fill=border, width=picture.width // SIZE)


def _premultiplied(rgb: list[int], alpha: int) -> tuple[int, int, int, int]:
    red, green, blue = (round(value * alpha / 255) for value in rgb)
    return red, green, blue, alpha


def _exactly(picture: Image.Image | None) -> Tile:
    """A picture without loss; None: one that shows nothing."""
    return (
        _NOTHING
        if picture is None
        else _encoded(picture.convert("RGBA"), "WEBP", lossless=True, quality=0, method=0)
    )


def _encoded(picture: Image.Image, kind: Literal["JPEG", "WEBP"], **options: float) -> Tile:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return Tile(stream.getvalue(), f"image/{kind.lower()}")


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


_NOTHING = _exactly(Image.new("RGBA", (SIZE, SIZE)))
