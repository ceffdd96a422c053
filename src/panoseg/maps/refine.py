"""Give each parcel one class, from a raster of classes or of class probabilities.

The hard rule takes the class with the largest share of the parcel's area, exactly by the areas of
polygons; the soft rule the class with the highest mean probability. Rules and thresholds are those
of the post-processing of Crop2Seg, with differences described in docs/mapping.md.

Shape suffixes: N parcels, K classes, H W pixels, X pairs of a parcel and a pixel or region, P
regions of equal classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

import panoseg
from panoseg.errors import ConfigError, OutputError, ParcelsError
from panoseg.files import new_folder
from panoseg.imagery import VectorOptions
from panoseg.maps import RefineOptions
from panoseg.maps.assemble import regions
from panoseg.maps.class_raster import ClassRaster, read_class_raster, read_confidence
from panoseg.maps.outlines import polygonise, rasterise, shared_areas, to_pixels, trace
from panoseg.maps.parcels import (
    SQUARE_METRES_PER_HECTARE,
    crop_columns,
    write_geopackage,
    write_geoparquet,
)
from panoseg.maps.rasters import NO_DATA_CLASS, write_class_raster
from panoseg.maps.read_parcels import left_out_notes, read_parcels, valid_outlines
from panoseg.text_files import listed

NO_CLASS = -1
_TILE = 64
_MOST_NAMED = 8
_EQUAL = 1e-9
"""Shares that differ by less count as equal: the order of summation may change them so much."""


@dataclass(frozen=True, eq=False)
class ClassChoice:
    """The class of each parcel and its runner-up."""

    class_ids: np.ndarray
    """int64, N: the class, -1 for none."""
    confidence: np.ndarray
    """float32, N: share of the area or mean probability of the class, 0-1; NaN for none."""
    runners_up: np.ndarray
    """int64, N: the class with the largest other share, -1 for none."""
    runner_up_confidence: np.ndarray
    """float32, N: share or mean probability of the runner-up, 0-1; NaN for none."""
    tied: np.ndarray
    """bool, N: whether another class has the same share as the chosen one."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """Parcels with one class each, and the raster of their classes."""

    parcels: gpd.GeoDataFrame
    """The parcels on the raster, with the columns that ``refine`` describes."""
    classes_HW: np.ndarray
    """uint8: the class of each pixel, 255 for no data."""
    left_out: int
    """Number of parcels outside of the raster."""
    notes: tuple[str, ...] = ()
    """Sentences about the parcels for the user."""


def is_table(out: Path) -> bool:
    """Return whether an output is a table alone, and no folder."""
    return out.suffix in (".parquet", ".gpkg")


def refine_file(
    source: Path | str,
    parcels: Path | str | None,
    out: Path | str,
    options: RefineOptions | None = None,
    reading: VectorOptions | None = None,
) -> Refinement:
    """Refine a file of parcels, see ``refine``, and write the result.

    Args:
        source: A raster, see ``read_class_raster``, or the folder of a map. The soft rule takes the
            confidence of a map for probabilities.
        parcels: A file of parcels; None for the connected regions of the raster.
        out: A new folder, for classes.tif and parcels.parquet; or a new file ending in .parquet or
            .gpkg, for the table alone.
        options: How classes are chosen.
        reading: What the file of parcels does not say itself.

    Raises:
        PanosegError: If an input cannot be read or used, or the output cannot be written.
    """
    source, options, out = Path(source), options or RefineOptions(), Path(out)
    table_only = is_table(out)
    if table_only and out.exists():
        raise OutputError(f"{out} already exists. Choose another name, or remove it.")
    if source.is_dir():
        raster = read_class_raster(source / "classes.tif", options.background)
        if options.rule == "soft" and (source / "confidence.tif").exists():
            raster = read_confidence(source / "confidence.tif", raster, options.background)
    else:
        raster = read_class_raster(
            source,
            options.background,
            allow_virtual=reading is not None and reading.allow_virtual,
        )
    given = None if parcels is None else read_parcels(parcels, options=reading)
    refined = refine(raster, given, options)
    refined = replace(refined, notes=left_out_notes(given) + refined.notes)
    if out.suffix == ".gpkg":
        write_geopackage([_for_geopackage(refined.parcels)], out, raster.table)
    elif table_only:
        write_geoparquet([refined.parcels], out)
    else:
        out = new_folder(out)
        write_class_raster(out / "classes.tif", refined.classes_HW, raster.grid, raster.table)
        write_geoparquet([refined.parcels], out / "parcels.parquet")
    return refined


def _for_geopackage(parcels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Rename columns of the user whose name, in any case, a GeoPackage has already."""
    taken, renamed = {"fid", "geom"}, {}
    for name in parcels.columns.drop(parcels.geometry.name):
        if name.lower() in taken:
            renamed[name] = f"given_{name}"
        taken.add(renamed.get(name, name).lower())
    return parcels.rename(columns=renamed)


def refine(
    raster: ClassRaster,
    parcels: gpd.GeoDataFrame | None = None,
    options: RefineOptions | None = None,
) -> Refinement:
    """Give each parcel one class, and draw the parcels with it; later parcels cover earlier ones.

    Args:
        raster: Classes, with probabilities for the soft rule.
        parcels: Parcels in any coordinate system; None for the connected regions of the raster.
        options: How classes are chosen.

    Returns:
        The raster of the parcels' classes, and the table, in the coordinate system of the raster.
        Its columns are the parcels' own (renamed to ``given_...`` where they would collide) and: id
        (text); class and runner_up (names, or None); confidence and runner_up_confidence (share of
        the area or mean probability, 0-1); tied; area_ha and area (ha); crop:... and
        determination_... as fiboa defines them; and share:NAME or probability:NAME for every class
        of which any parcel has some.

    Raises:
        ParcelsError: If no parcel lies on the raster, or they have no coordinate system.
        ConfigError: If the soft rule has no probabilities.
    """
    options = options or RefineOptions()
    given = _regions_as_parcels(raster) if parcels is None else _on_raster(parcels, raster)
    outlines_N = to_pixels(given.geometry.to_numpy(), raster.grid.affine)
    data_HW = raster.classes_HW != NO_DATA_CLASS
    if options.rule == "hard":
        shares_NK = area_shares(outlines_N, raster.classes_HW, data_HW, raster.table.count)
    elif raster.probabilities is None:
        raise ConfigError(
            "The soft rule needs the probability of each class, but the raster has classes only."
            " Pass a raster with one band of probabilities for each class, or use --rule hard."
        )
    else:
        shares_NK = mean_probabilities(outlines_N, raster.probabilities, data_HW)
    choice = choose_classes(shares_NK, options)
    left_out = 0 if parcels is None else len(parcels) - len(given)
    table, notes = _refined_table(given, choice, shares_NK, raster, options)
    return Refinement(
        table, _draw_classes(given, choice.class_ids, raster, options), left_out, notes
    )


def area_shares(
    outlines_N: np.ndarray, classes_HW: np.ndarray, data_HW: np.ndarray, class_count: int
) -> np.ndarray:
    """Return the share of each parcel's area that every class covers.

    >>> half = shapely.box(0, 0, 2, 1)
    >>> area_shares(np.array([half]), np.array([[1, 2, 0]]), np.ones((1, 3), bool), 3)
    array([[0. , 0.5, 0.5]])

    Args:
        outlines_N: Outlines in pixels (column, row). They may overlap.
        classes_HW: Class of each pixel.
        data_HW: bool: where the raster has data.
        class_count: K.

    Returns:
        float64, N x K, 0-1. A row adds up to less than 1 where the parcel leaves the raster or
        lacks data.
    """
    # Regions are cut into tiles: the background would otherwise be one huge polygon that intersects
    # all parcels.
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
    """Return the mean probability of every class over the pixels of each parcel.

    >>> bands = np.array([[[0.5, 1.0, 0]]])
    >>> mean_probabilities(np.array([shapely.box(0, 0, 2, 1)]), bands, np.ones((1, 3), bool))
    array([[0.75]])

    Args:
        outlines_N: Outlines in pixels (column, row).
        bands: K probabilities of H x W, 0-1.
        data_HW: bool: where the raster has data; other pixels do not count.

    Returns:
        float64, N x K. A parcel that contains no centre of a pixel with data has zeros.
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
    """Find the pixels whose centre lies in or on each outline.

    Args:
        outlines_N: Outlines in pixels (column, row).
        shape_HW: Shape of the raster.

    Returns:
        Pairs of a parcel and a pixel (row x W + column), both int64, X; ordered by parcel.
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


def choose_classes(shares_NK: np.ndarray, options: RefineOptions) -> ClassChoice:
    """Choose the class with the largest share; the background only above its threshold.

    A class without any share is never chosen. The runner-up has the largest of the other shares,
    the background included: if it exceeds the confidence, the background was below its threshold.

    >>> shares = np.array([[0.6, 0.1, 0.3], [0.8, 0.2, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    >>> choice = choose_classes(shares, RefineOptions())
    >>> choice.class_ids.tolist(), choice.runners_up.tolist(), choice.tied.tolist()
    ([2, 0, 2, -1], [0, 1, 1, -1], [False, False, True, False])

    Args:
        shares_NK: Share of the area or mean probability of every class, 0-1.
        options: Background threshold, and which of equal shares wins.
    """
    eligible_NK = np.where(shares_NK > 0, shares_NK, -np.inf)
    others_NK = eligible_NK.copy()
    if options.background < shares_NK.shape[1]:
        too_little_N = shares_NK[:, options.background] <= options.background_threshold + _EQUAL
        eligible_NK[too_little_N, options.background] = -np.inf
    class_ids = _largest(eligible_NK, options)
    top_N1 = eligible_NK.max(axis=1, keepdims=True)
    equal_NK = np.isclose(eligible_NK, top_N1, rtol=0, atol=_EQUAL)
    chosen = class_ids != NO_CLASS
    others_NK[np.flatnonzero(chosen), class_ids[chosen]] = -np.inf
    runners_up = _largest(others_NK, options)
    return ClassChoice(
        class_ids,
        _share_of(shares_NK, class_ids),
        runners_up,
        _share_of(shares_NK, runners_up),
        (equal_NK.sum(axis=1) > 1) & chosen,
    )


def _largest(values_NK: np.ndarray, options: RefineOptions) -> np.ndarray:
    """Return the class with the largest value in each row, -1 where all are minus infinity."""
    top_N = values_NK.max(axis=1)
    equal_NK = values_NK >= top_N[:, None] - _EQUAL
    first_N = equal_NK.argmax(axis=1)
    last_N = values_NK.shape[1] - 1 - equal_NK[:, ::-1].argmax(axis=1)
    return np.where(np.isneginf(top_N), NO_CLASS, last_N if options.higher_wins else first_N)


def _share_of(shares_NK: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Return the share of one class in each row, float32, NaN for no class."""
    shares = shares_NK[np.arange(len(class_ids)), class_ids]
    return np.where(class_ids == NO_CLASS, np.nan, shares).astype(np.float32)


def _regions_as_parcels(raster: ClassRaster) -> gpd.GeoDataFrame:
    """Return the connected regions of equal classes, except those without data, as parcels."""
    region_HW, _ = regions(raster.classes_HW)
    data_HW = raster.classes_HW != NO_DATA_CLASS
    ids, outlines = polygonise(np.where(data_HW, region_HW + 1, 0), raster.grid.affine)
    return gpd.GeoDataFrame(
        {"id": ids.astype(str)}, geometry=gpd.GeoSeries(outlines, crs=raster.crs_wkt)
    )


def _on_raster(parcels: gpd.GeoDataFrame, raster: ClassRaster) -> gpd.GeoDataFrame:
    """Return the parcels that meet the raster, in its coordinate system, with valid outlines."""
    if parcels.crs is None:
        raise ParcelsError(
            "The parcels have no coordinate system. Assign one, e.g. with set_crs of geopandas."
        )
    moved = parcels.to_crs(raster.crs_wkt)
    outlines = valid_outlines(moved)
    moved = gpd.GeoDataFrame(
        moved.drop(columns=moved.geometry.name), geometry=outlines, crs=moved.crs
    )
    height, width = raster.classes_HW.shape
    pixels = to_pixels(outlines, raster.grid.affine)
    shared = shapely.area(shapely.intersection(pixels, shapely.box(0, 0, width, height)))
    if not (shared > 0).any():
        raise ParcelsError(
            f"None of the {len(parcels)} parcels lies on the raster. Check the files and their"
            " coordinate systems."
        )
    return moved[shared > 0].reset_index(drop=True)


def _refined_table(
    given: gpd.GeoDataFrame,
    choice: ClassChoice,
    shares_NK: np.ndarray,
    raster: ClassRaster,
    options: RefineOptions,
) -> tuple[gpd.GeoDataFrame, tuple[str, ...]]:
    """Return the parcels with the columns that ``refine`` describes, and what became of theirs."""
    crops = crop_columns(choice.class_ids, raster.table)
    measured = given.to_crs(given.estimate_utm_crs()) if given.crs.is_geographic else given
    area_ha = measured.area / SQUARE_METRES_PER_HECTARE
    ids = given["id"] if "id" in given.columns else np.arange(1, len(given) + 1)
    prefix = "share" if options.rule == "hard" else "probability"
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
        **{
            f"{prefix}:{entry.name}": shares_NK[:, entry.id].astype(np.float32)
            for entry in raster.table.classes
            if (shares_NK[:, entry.id] > 0).any()
        },
    }
    renamed = {name: f"given_{name}" for name in found if name in given.columns and name != "id"}
    own = given.drop(
        columns=["id", given.geometry.name, *renamed.values()], errors="ignore"
    ).rename(columns=renamed)
    table = gpd.GeoDataFrame({**found, **own}, geometry=given.geometry.to_numpy(), crs=given.crs)
    replaced = [name for name in renamed.values() if name in given.columns]
    notes = [
        f"The column {name} of the parcels is called {new} in the result."
        for name, new in renamed.items()
    ][:_MOST_NAMED]
    if replaced:
        notes.append(
            f"The columns {listed(replaced, _MOST_NAMED)} of the parcels were overwritten, because"
            " the result needs their names; rename them before if you need them."
        )
    return table, tuple(notes)


def _draw_classes(
    given: gpd.GeoDataFrame, class_ids: np.ndarray, raster: ClassRaster, options: RefineOptions
) -> np.ndarray:
    """Return the raster of the parcels' classes, uint8, H x W, 255 for no data."""
    chosen = class_ids != NO_CLASS
    outlines = given.geometry.to_numpy()[chosen]
    burned_HW = rasterise(
        class_ids[chosen] + 1, outlines, raster.classes_HW.shape, raster.grid.affine
    )
    outside_HW = raster.classes_HW
    if options.outside == "background":
        outside_HW = np.where(outside_HW == NO_DATA_CLASS, NO_DATA_CLASS, options.background)
    return np.where(burned_HW > 0, burned_HW - 1, outside_HW).astype(np.uint8)
