"""How much of each parcel every class has: exactly by area, or as its mean probability.

Outlines are in pixels (column, row) and may overlap; each is looked at by itself.

Shape suffixes: N parcels, K classes, H W pixels, X pairs of a parcel and a pixel or piece.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

import panoseg
from panoseg.errors import ConfigError, OutputError, ParcelsError
from panoseg.files import new_folder
from panoseg.maps.assemble import regions
from panoseg.maps.class_raster import ClassRaster, read_class_raster, read_confidence
from panoseg.maps.options import RefineOptions
from panoseg.maps.outlines import polygonise, rasterise, shared_areas, to_pixels, trace
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE, crop_columns, write_geoparquet
from panoseg.maps.rasters import NO_DATA_CLASS, write_class_raster
from panoseg.maps.read_parcels import read_parcels, valid_outlines

_TILE = 64


def area_shares(
    outlines_N: np.ndarray, classes_HW: np.ndarray, data_HW: np.ndarray, class_count: int
) -> np.ndarray:
    """The share of each parcel's area that every class has, 0..1, N x K.

    Areas are those of the polygons, not of pixels by their centres. There is no class outside of
    the raster and where there are no data, so that a row may add up to less than 1.

    >>> half = shapely.box(0, 0, 2, 1)
    >>> area_shares(np.array([half]), np.array([[1, 2, 0]]), np.ones((1, 3), bool), 3)
    array([[0. , 0.5, 0.5]])
    """
    # Regions are cut into tiles: the land between parcels would otherwise be one polygon that meets
    # them all.
    row_H, column_W = (np.arange(length, dtype=np.int32) // _TILE for length in classes_HW.shape)
    tile_HW = row_H[:, None] * (column_W[-1] + 1) + column_W
    value_P, piece_P = trace(tile_HW * class_count + classes_HW, data_HW)
    parcel_X, piece_X, area_X = shared_areas(outlines_N, piece_P)
    cells = parcel_X * class_count + value_P[piece_X] % class_count
    areas_NK = np.bincount(cells, area_X, minlength=len(outlines_N) * class_count).reshape(
        -1, class_count
    )
    return areas_NK / shapely.area(outlines_N)[:, None]


def mean_probabilities(
    outlines_N: np.ndarray, bands: Iterable[np.ndarray], data_HW: np.ndarray
) -> np.ndarray:
    """The mean of every class's probability over the pixels whose centre each parcel covers,
    borders included; N x K.

    bands: K times H x W. Pixels without data do not count; a parcel that covers no other has zeros.

    >>> mean_probabilities(np.array([shapely.box(0, 0, 2, 1)]), np.array([[[0.5, 1.0, 0]]]), np.ones((1, 3), bool))
    array([[0.75]])
    """
    parcel_X, pixel_X = covered_pixels(outlines_N, data_HW.shape)
    counts = data_HW.ravel()[pixel_X]
    parcel_X, pixel_X = parcel_X[counts], pixel_X[counts]
    sums = [
        np.bincount(parcel_X, band_HW.ravel()[pixel_X], minlength=len(outlines_N))
        for band_HW in bands
    ]
    pixels_N = np.bincount(parcel_X, minlength=len(outlines_N))
    return np.stack(sums, axis=1) / np.maximum(pixels_N, 1)[:, None]


def covered_pixels(
    outlines_N: np.ndarray, shape_HW: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a parcel and a pixel (row x W + column) whose centre it covers, borders included; by
    parcel.
    """
    height, width = shape_HW
    shapely.prepare(outlines_N)
    parcels, pixels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for parcel, outline in enumerate(outlines_N):
        if outline.is_empty:
            continue
        left, top, right, bottom = outline.bounds
        rows = np.arange(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom))))
        columns = np.arange(max(0, int(np.floor(left))), min(width, int(np.ceil(right))))
        inside = shapely.intersects_xy(outline, columns + 0.5, rows[:, None] + 0.5)
        found = (rows[:, None] * width + columns)[inside]
        parcels.append(np.full(found.size, parcel))
        pixels.append(found)
    return np.concatenate(parcels), np.concatenate(pixels)


_EQUAL = 1e-9
"""Shares that differ by less are equal: so much may come from adding areas in another order."""
NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class Choice:
    """The class of each parcel, and how sure it is. All of shape N.

    class_ids, runners_up: int64, -1 for none. confidence, runner_up_confidence: share of the
    parcel's area, or mean probability, 0..1, of the two. tied: bool, another class has the same
    share.
    """

    class_ids: np.ndarray
    confidence: np.ndarray
    runners_up: np.ndarray
    runner_up_confidence: np.ndarray
    tied: np.ndarray


@dataclass(frozen=True, eq=False)
class Refinement:
    """Parcels with one class each, and their raster.

    parcels: see ``refine``. classes_HW: uint8, 255 for no data. left_out: parcels that lie outside
    of the raster.
    """

    parcels: gpd.GeoDataFrame
    classes_HW: np.ndarray
    left_out: int


def refine_file(
    source: Path | str,
    parcels: Path | str | None,
    out: Path | str,
    options: RefineOptions | None = None,
) -> Refinement:
    """``refine`` of files, written to the folder ``out``: classes.tif and parcels.parquet; or the
    table alone to out.parquet.

    source: a raster (see ``read_class_raster``) or the folder of a map. parcels: a file of parcels,
    or None. Raises ``PanosegError`` of several kinds.
    """
    options, out = options or RefineOptions(), Path(out)
    alone = out.suffix == ".parquet"
    if alone and out.exists():
        raise OutputError(f"{out} exists", "a new file", "choose another name, or remove it")
    raster = _raster_of(Path(source), options)
    given = None if parcels is None else read_parcels(parcels)
    refined = refine(raster, given, options)
    if alone:
        write_geoparquet([refined.parcels], out)
    else:
        out = new_folder(out)
        write_class_raster(out / "classes.tif", refined.classes_HW, raster.grid, raster.table)
        write_geoparquet([refined.parcels], out / "parcels.parquet")
    return refined


def _raster_of(source: Path, options: RefineOptions) -> ClassRaster:
    """A raster, or that of a map's folder, whose confidence stands in for probabilities where those
    are needed.
    """
    if not source.is_dir():
        return read_class_raster(source, options.background)
    raster = read_class_raster(source / "classes.tif", options.background)
    if options.rule == "soft" and (source / "confidence.tif").exists():
        return read_confidence(source / "confidence.tif", raster, options.background)
    return raster


def refine(
    raster: ClassRaster,
    parcels: gpd.GeoDataFrame | None = None,
    options: RefineOptions | None = None,
) -> Refinement:
    """Give each parcel one class, by ``choose``, and draw the parcels with it; later parcels cover
    earlier ones.

    parcels: in any coordinate system; None: the connected regions of the raster itself. The table
    has their own columns (those of our names as ``given_...``), in the raster's coordinate system,
    and: id (text), class and runner_up (names, or None), confidence and runner_up_confidence (share
    of the parcel's area or mean probability, 0..1), tied, area_ha and area (ha), fiboa's crop:...
    and determination_..., and for every class that any parcel has some of share:NAME or
    probability:NAME (of the class). Raises ``ParcelsError`` and ``ConfigError``.
    """
    options = options or RefineOptions()
    given = _regions(raster) if parcels is None else _on_raster(parcels, raster)
    outlines_N = to_pixels(given.geometry.to_numpy(), raster.grid.affine)
    data_HW = raster.classes_HW != NO_DATA_CLASS
    if options.rule == "hard":
        shares_NK = area_shares(outlines_N, raster.classes_HW, data_HW, raster.table.count)
    elif raster.probabilities is None:
        raise ConfigError(
            "the soft rule with a raster of classes alone",
            "the probability of each class, a band each",
            "give such a raster, or use the hard rule",
        )
    else:
        shares_NK = mean_probabilities(outlines_N, raster.probabilities, data_HW)
    choice = choose(shares_NK, options)
    table = _table_of(given, choice, _of_each_class(shares_NK, raster, options), raster, options)
    left_out = 0 if parcels is None else len(parcels) - len(given)
    return Refinement(table, _drawn(given, choice.class_ids, raster, options), left_out)


def choose(shares_NK: np.ndarray, options: RefineOptions) -> Choice:
    """The class with the largest share of each parcel; the background only where its share is above
    the threshold.

    shares_NK: share of the area or mean probability, 0..1; a class without share is never chosen.
    The runner-up is the largest of the other shares, the background's included: one above the
    class's own says that the background was overruled.

    >>> choice = choose(np.array([[0.6, 0.1, 0.3], [0.8, 0.2, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]), RefineOptions())
    >>> choice.class_ids.tolist(), choice.runners_up.tolist(), choice.tied.tolist()
    ([2, 0, 2, -1], [0, 1, 1, -1], [False, False, True, False])
    """
    eligible_NK = np.where(shares_NK > 0, shares_NK, -np.inf)
    others_NK = eligible_NK.copy()
    if options.background < shares_NK.shape[1]:
        background_N = shares_NK[:, options.background]
        eligible_NK[
            background_N <= options.background_threshold + _EQUAL, options.background
        ] = -np.inf
    class_ids = _largest(eligible_NK, options)
    tied = (
        np.isclose(eligible_NK, eligible_NK.max(axis=1, keepdims=True), rtol=0, atol=_EQUAL).sum(
            axis=1
        )
        > 1
    )
    chosen = class_ids != NO_CLASS
    others_NK[np.flatnonzero(chosen), class_ids[chosen]] = -np.inf
    runners_up = _largest(others_NK, options)
    return Choice(
        class_ids,
        _share(shares_NK, class_ids),
        runners_up,
        _share(shares_NK, runners_up),
        tied & chosen,
    )


def _largest(values_NK: np.ndarray, options: RefineOptions) -> np.ndarray:
    """The class of the largest value in each row, the higher or the lower of equals; -1 where all
    are minus infinity.
    """
    top_N = values_NK.max(axis=1)
    equal_NK = values_NK >= top_N[:, None] - _EQUAL
    first_N = equal_NK.argmax(axis=1)
    last_N = values_NK.shape[1] - 1 - equal_NK[:, ::-1].argmax(axis=1)
    return np.where(np.isneginf(top_N), NO_CLASS, last_N if options.higher_wins else first_N)


def _share(shares_NK: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """The share of one class in each row, float32, NaN for no class."""
    shares = shares_NK[np.arange(len(class_ids)), class_ids]
    return np.where(class_ids == NO_CLASS, np.nan, shares).astype(np.float32)


def _regions(raster: ClassRaster) -> gpd.GeoDataFrame:
    """The connected regions of equal classes as parcels; regions without data are none."""
    region_HW, _ = regions(raster.classes_HW)
    data_HW = raster.classes_HW != NO_DATA_CLASS
    ids, outlines = polygonise(np.where(data_HW, region_HW + 1, 0), raster.grid.affine)
    return gpd.GeoDataFrame(
        {"id": ids.astype(str)}, geometry=gpd.GeoSeries(outlines, crs=raster.crs_wkt)
    )


def _on_raster(parcels: gpd.GeoDataFrame, raster: ClassRaster) -> gpd.GeoDataFrame:
    """The parcels that meet the raster, in its coordinate system, with valid outlines."""
    if parcels.crs is None:
        raise ParcelsError(
            "parcels without a coordinate system",
            "one",
            "assign it: parcels.set_crs(...) in geopandas",
        )
    moved = parcels.to_crs(raster.crs_wkt)
    outlines = valid_outlines(moved)
    moved = gpd.GeoDataFrame(
        moved.drop(columns=moved.geometry.name), geometry=outlines, crs=moved.crs
    )
    height, width = raster.classes_HW.shape
    shared = shapely.area(
        shapely.intersection(
            to_pixels(outlines, raster.grid.affine), shapely.box(0, 0, width, height)
        )
    )
    if not (shared > 0).any():
        raise ParcelsError(
            f"none of {len(parcels)} parcels lies on the raster",
            "some that do",
            "check the area and the coordinate systems",
        )
    return moved[shared > 0].reset_index(drop=True)


def _of_each_class(
    shares_NK: np.ndarray, raster: ClassRaster, options: RefineOptions
) -> dict[str, np.ndarray]:
    """A column for each class that some parcel has a share of, by its name; float32, 0..1."""
    word = "share" if options.rule == "hard" else "probability"
    return {
        f"{word}:{entry.name}": shares_NK[:, entry.id].astype(np.float32)
        for entry in raster.table.classes
        if (shares_NK[:, entry.id] > 0).any()
    }


def _table_of(
    given: gpd.GeoDataFrame,
    choice: Choice,
    of_each: dict[str, np.ndarray],
    raster: ClassRaster,
    options: RefineOptions,
) -> gpd.GeoDataFrame:
    """The parcels with what was found about them. of_each: the columns of all classes."""
    crops = crop_columns(choice.class_ids, raster.table)
    measured = given.to_crs(given.estimate_utm_crs()) if given.crs.is_geographic else given
    area_ha = measured.area / SQUARE_METRES_PER_HECTARE
    ids = given["id"] if "id" in given.columns else np.arange(1, len(given) + 1)
    found = {
        "id": np.asarray(ids).astype(str),
        "class": crops["crop:name"],
        "confidence": choice.confidence,
        "runner_up": crop_columns(choice.runners_up, raster.table)["crop:name"],
        "runner_up_confidence": choice.runner_up_confidence,
        "tied": choice.tied,
        "area_ha": area_ha,
        "area": area_ha.astype(np.float32),
        **crops,
        "determination_method": "auto-imagery",
        "determination_details": f"panoseg {panoseg.__version__}, {options.rule} rule on parcels",
        **of_each,
    }
    renamed = {name: f"given_{name}" for name in found if name in given.columns and name != "id"}
    own = given.drop(
        columns=["id", given.geometry.name, *renamed.values()], errors="ignore"
    ).rename(columns=renamed)
    return gpd.GeoDataFrame({**found, **own}, geometry=given.geometry.to_numpy(), crs=given.crs)


def _drawn(
    given: gpd.GeoDataFrame, class_ids: np.ndarray, raster: ClassRaster, options: RefineOptions
) -> np.ndarray:
    """The raster of the parcels' classes; pixels of no parcel, or of one without a class, by the
    options.
    """
    chosen = class_ids != NO_CLASS
    outlines = given.geometry.to_numpy()[chosen]
    burned_HW = rasterise(
        class_ids[chosen] + 1, outlines, raster.classes_HW.shape, raster.grid.affine
    )
    outside_HW = raster.classes_HW
    if options.outside == "background":
        outside_HW = np.where(outside_HW == NO_DATA_CLASS, NO_DATA_CLASS, options.background)
    return np.where(burned_HW > 0, burned_HW - 1, outside_HW).astype(np.uint8)
