"""The cube of a register's land, fetched from a catalogue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry import mapping

from panoseg.cube.check import CubeReport
from panoseg.cube.fetch import CubeRequest, fetch_cube
from panoseg.data.pastis_files import read_json
from panoseg.data.pieces import write_pieces
from panoseg.errors import ConfigError
from panoseg.files import signature, write_json
from panoseg.imagery.bands import PIXEL_M
from panoseg.imagery.calendar import season_span
from panoseg.maps.outlines import to_map
from panoseg.maps.read_parcels import read_truth
from panoseg.progress import track
from panoseg.register.folds import blocks_of, deal, owners, too_few_blocks
from panoseg.register.forms import FORMS, FinishedPatch, Form, LayoutName
from panoseg.register.images import ImageWriter, cut_into_pieces, open_season, read_unseen
from panoseg.register.options import DatasetOptions, FetchOptions
from panoseg.register.parcels import (
    CropCodes,
    Register,
    crs_of,
    read_crop_codes,
    read_register,
    void_of,
)
from panoseg.register.plan import Canvas, Plan, PlannedPatch, moved, pixel_box, plan_patches
from panoseg.register.report import Report, Tally, report_of

_EDGE_PIECES = 64


def fetch_season(parcels: Path, season: int, out: Path, options: FetchOptions) -> CubeReport:
    """Fetch the season of a register's land as the Zarr store ``out``, or find it there; its list
    of scenes is kept beside it.

    season: harvest year. Without an area the box around all parcels is taken, and written beside
    the cube. Raises what ``fetch_cube`` raises, and ``ParcelsError``.
    """
    assert options.catalog is not None, "without a catalogue there is nothing to fetch"
    area = options.area
    if area is None:
        area = out.with_suffix(".area.geojson")
        write_json(area, _box_around(parcels))
    request = CubeRequest(
        area, *season_span(season), options.catalog, options.collection, options.yes
    )
    report, _ = fetch_cube(request, out, out.with_suffix(".scenes.json"), options.fetch)
    return report


def _box_around(path: Path) -> dict:
    """The box around the parcels of a file, in their own coordinate system, as a GeoJSON feature in
    degrees.
    """
    parcels = read_truth(path)
    box = gpd.GeoSeries([shapely.box(*parcels.total_bounds)], crs=parcels.crs)
    outline = box.segmentize(max(box.length.max() / _EDGE_PIECES, 1e-9)).to_crs("EPSG:4326").iloc[0]
    return {
        "type": "Feature",
        "properties": {"box around": path.name},
        "geometry": json.loads(json.dumps(mapping(outline))),
    }


REPORT_FILE = "report.json"
_VERSION = 2
"""Raised whenever the same inputs give other data, so that patches of two versions are not
mixed.
"""


@dataclass(frozen=True)
class Sources:
    """What a dataset is made of.

    parcels: file of the register. class_column: its column of crop codes. classes: CSV of codes,
    see ``crop_codes``. cubes: NetCDF, Zarr or STAC folders, each with all bands of PASTIS.
    """

    parcels: Path
    class_column: str
    classes: Path
    cubes: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class _Land:
    """Everything that is known before an image is read. block_of: of each patch, by id; block_m:
    side of a block.
    """

    form: Form
    register: Register
    grids: tuple[GeoBox, ...]
    canvases: tuple[Canvas, ...]
    plan: Plan
    block_of: Mapping[int, int]
    block_m: float
    options: DatasetOptions


def write_dataset(
    sources: Sources,
    out: Path | str,
    layout: LayoutName,
    options: DatasetOptions | None = None,
    workers: int = 1,
) -> Report:
    """Write a dataset in one of ``FORMS`` to a new folder, or complete an unfinished one; returns
    what was found on the way.

    workers: processes that read images; each holds a window in memory. Raises ``ParcelsError``,
    ``CubeError``, ``DatasetError``, ``ConfigError`` and ``OutputError``.
    """
    options, form, out = options or DatasetOptions(), FORMS[layout], Path(out)
    if options.centres and layout != "pastis":
        raise ConfigError(
            f"--centres with --layout {layout}", "a layout with parcels", "leave one of them out"
        )
    codes = read_crop_codes(sources.classes, form.classes)
    seasons = [open_season(path, options.season) for path in sources.cubes]
    grids = tuple(cube.odc.geobox for cube, _ in seasons)
    register = read_register(sources.parcels, sources.class_column, codes, form.classes, grids)
    canvases = tuple(Canvas(register, grid) for grid in grids)
    plan = plan_patches(register, canvases, grids, form.classes, options)
    # Before images are read: an area that is too small is refused, and what blocks have in common
    # is not read for nothing.
    block_of, side = _blocks(plan.patches, grids, register.crs, options, len(form.parts))
    plan = plan.without(block_of < 0)
    blocks = dict(
        zip((patch.id for patch in plan.patches), block_of[block_of >= 0].tolist(), strict=True)
    )
    land = _Land(
        form, register, grids, canvases, plan, blocks, side * options.size * PIXEL_M, options
    )
    pieces = cut_into_pieces(plan.patches, [cube.sizes["time"] for cube, _ in seasons], options)
    writer = ImageWriter(sources.cubes, tuple(pieces), options, form.save_images)
    mark = _mark(sources, layout, options, codes, [cube["time"].values for cube, _ in seasons])
    names = [piece.name for piece in pieces]
    files = write_pieces(
        out, mark, names, writer.write, workers, kind="dataset", verb="reading images"
    )
    records = {
        record["patch"]: record
        for file in files
        for record in read_json(file)["patches"]
        if record["dates"]
    }
    report = _finish(out, sources, land, records, [year for _, year in seasons])
    write_json(out / REPORT_FILE, report.to_json())
    return report


def _mark(
    sources: Sources,
    layout: str,
    options: DatasetOptions,
    codes: CropCodes,
    times: Sequence[np.ndarray],
) -> dict[str, Any]:
    """All that the data depend on, so that a dataset is continued with the same alone."""
    status = sources.parcels.stat()
    return {
        "version": _VERSION,
        "layout": layout,
        "parcels": [sources.parcels.name, status.st_size, status.st_mtime_ns],
        "class_column": sources.class_column,
        "classes": dict(codes.classes),
        "cubes": [
            [str(path.absolute()), *signature(path), *map(str, days.astype("datetime64[D]"))]
            for path, days in zip(sources.cubes, times, strict=True)
        ],
        "options": asdict(options),
    }


def _blocks(
    patches: Sequence[PlannedPatch],
    grids: Sequence[GeoBox],
    crs: str,
    options: DatasetOptions,
    folds: int,
) -> tuple[np.ndarray, int]:
    """The block of each patch, -1 for those that are left out, and patches on a side of a block;
    see ``blocks_of``.
    """
    outlines_N = np.empty(len(patches), dtype=object)
    for number, grid in enumerate(grids):
        rows = [row for row, patch in enumerate(patches) if patch.cube == number]
        boxes = np.array([pixel_box(patches[row].window) for row in rows], dtype=object)
        outlines_N[rows] = moved(to_map(boxes, grid.affine), crs_of(grid).to_wkt(), crs)
    corner = grids[0].affine @ (0, 0)
    return blocks_of(outlines_N, corner, options.size * PIXEL_M, options.block, folds)


def _fold_of(land: _Land, patches: Sequence[PlannedPatch]) -> np.ndarray:
    """The number of the fold of each patch."""
    blocks, block_of = np.unique(
        [land.block_of[patch.id] for patch in patches], return_inverse=True
    )
    if len(blocks) < len(land.form.parts):  # dates decide late which patches there are
        raise too_few_blocks(len(patches), len(blocks), len(land.form.parts))
    things = land.form.classes.ids("thing")
    amounts_BK = np.zeros((len(blocks), len(things) + 1))
    for patch, block in zip(patches, block_of, strict=True):
        pixels_K = np.bincount(
            land.register.classes_N[patch.parcels_P],
            patch.pixels_P,
            minlength=land.form.classes.count,
        )
        amounts_BK[block, :-1] += pixels_K[list(things)]
        amounts_BK[block, -1] += 1
    return deal(amounts_BK, land.form.weights)[block_of]


def _finish(
    out: Path,
    sources: Sources,
    land: _Land,
    records: dict[int, dict[str, Any]],
    years: Sequence[int],
) -> Report:
    """Deal out folds, write labels and tables."""
    patches = [patch for patch in land.plan.patches if patch.id in records]
    fold_of = _fold_of(land, patches)
    folds, table = len(land.form.parts), land.form.classes
    parcels, pixels = [patch.parcels_P for patch in patches], [patch.pixels_P for patch in patches]
    owner_N = owners(parcels, pixels, fold_of.tolist(), len(land.register.classes_N), folds)
    finished: list[FinishedPatch] = []
    divided: set[int] = set()
    learnt: set[tuple[int, int]] = set()
    pixels_FK = np.zeros((folds, table.count), np.int64)
    for patch, fold in zip(track(patches, "writing labels"), fold_of.tolist(), strict=True):
        foreign_P = patch.parcels_P[owner_N[patch.parcels_P] != fold]
        classes_HW, parcels_HW = _labels(out, land, patch, records[patch.id], foreign_P)
        land.form.save_labels(out, patch.id, classes_HW, parcels_HW, land.options.centres)
        crops_HW = np.isin(classes_HW, table.ids("thing"))
        learnt.update((fold, number) for number in np.unique(parcels_HW[crops_HW]).tolist())
        divided.update(foreign_P.tolist())
        pixels_FK[fold] += np.bincount(classes_HW.ravel(), minlength=table.count)
        finished.append(
            _finished(sources, land, patch, records[patch.id], fold, crops_HW, parcels_HW)
        )
    land.form.save_tables(out, finished)
    parcels_F = np.bincount([fold for fold, _ in learnt], minlength=folds)
    tally = Tally(pixels_FK, parcels_F, len(divided))
    cubes = [(str(path), year) for path, year in zip(sources.cubes, years, strict=True)]
    return report_of(land.form, land.register, land.plan, finished, tally, land.block_m, cubes)


def _labels(
    out: Path, land: _Land, patch: PlannedPatch, record: dict[str, Any], foreign_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and numbers of parcels. What belongs to another fold is void and has no number; so
    is what is never seen.
    """
    void = void_of(land.form.classes)
    drawing = land.canvases[patch.cube].draw(patch.window)
    classes_HW = drawing.classes(land.register.classes_N, void, land.options.min_inside)
    parcels_HW = np.append(land.register.numbers_N, 0)[drawing.parcel_HW].astype(np.int32)
    hidden_HW = np.isin(drawing.parcel_HW, foreign_P) | read_unseen(out, record, land.options.size)
    classes_HW[hidden_HW], parcels_HW[hidden_HW] = void, 0
    return classes_HW, parcels_HW


def _finished(
    sources: Sources,
    land: _Land,
    patch: PlannedPatch,
    record: dict[str, Any],
    fold: int,
    crops_HW: np.ndarray,
    parcels_HW: np.ndarray,
) -> FinishedPatch:
    grid = land.grids[patch.cube]
    a, b, c, d, e, f = (grid.affine * grid.affine.translation(patch.window.left, patch.window.top))[
        :6
    ]
    return FinishedPatch(
        patch.id,
        land.form.parts[fold],
        tuple(map(date.fromisoformat, record["dates"])),
        len(np.unique(parcels_HW[crops_HW])),
        float(crops_HW.mean()),
        sources.cubes[patch.cube].stem,
        crs_of(grid).to_wkt(),
        crs_of(grid).epsg,
        (a, b, c, d, e, f),
        land.options.size,
        np.array(record["moments"]),
    )
