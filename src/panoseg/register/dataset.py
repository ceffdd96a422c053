"""Write a dataset from a register of parcels, a table of crop codes, and cubes.

``fetch_season`` fetches a cube of the register's land first, if there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry import mapping

from panoseg.cube import ReadOptions
from panoseg.cube.fetch import CubeRequest, fetch_cube
from panoseg.cube.metadata import CubeReport
from panoseg.data.pastis_files import read_json
from panoseg.data.pieces import write_pieces
from panoseg.errors import ConfigError
from panoseg.files import signature, write_json
from panoseg.imagery import VectorOptions
from panoseg.imagery.area import read_area
from panoseg.imagery.sentinel2 import PIXEL_M
from panoseg.maps.outlines import to_map
from panoseg.maps.read_parcels import read_truth
from panoseg.progress import track
from panoseg.register import DatasetOptions, FetchOptions
from panoseg.register.parcels import (
    CropCodes,
    Register,
    crs_of,
    parcels_crs,
    read_crop_codes,
    read_register,
    void_of,
)
from panoseg.register.patches import (
    LAYOUTS,
    FinishedPatch,
    ImageWriter,
    LayoutName,
    WrittenLayout,
    cut_into_pieces,
    open_season,
    read_unseen,
)
from panoseg.register.plan import (
    ParcelGrid,
    Plan,
    PlannedPatch,
    assign_blocks,
    assign_folds,
    main_folds,
    moved,
    pixel_box,
    plan_patches,
    too_few_blocks_error,
)
from panoseg.register.report import LabelCounts, Report, report_of

REPORT_FILE = "report.json"
# Raised whenever the same inputs give other data, so that patches of two versions do not mix.
_VERSION = 2
_EDGE_PIECES = 64


def fetch_season(
    parcels: Path,
    season: int,
    out: Path,
    options: FetchOptions,
    reading: VectorOptions | None = None,
) -> CubeReport:
    """Fetch the season of a register's land as the Zarr store ``out``, unless it is there.

    The list of its scenes is kept next to it. Without an outline in ``options`` the box around all
    parcels is fetched, and written next to the cube.

    Args:
        parcels: File of the register.
        season: Harvest year.
        out: The Zarr store to make.
        options: Where the season comes from; it names a catalogue.
        reading: What the file of the register does not say itself.

    Raises:
        ParcelsError: The register cannot be read.
        PanosegError: As ``fetch_cube``.
    """
    assert options.catalog is not None, "without a catalogue there is nothing to fetch"
    area = options.area
    if area is None:
        area = out.with_suffix(".area.geojson")
        write_json(area, _box_around(parcels, reading))
    request = CubeRequest(
        area, *read_area(area).season(season), options.catalog, options.collection, options.yes
    )
    report, _ = fetch_cube(request, out, out.with_suffix(".scenes.json"), options.fetch)
    return report


def _box_around(path: Path, reading: VectorOptions | None) -> dict[str, Any]:
    """Return the box around the parcels of a file as a GeoJSON feature in degrees.

    It is straight in their own coordinate system.
    """
    with parcels_crs():
        parcels = read_truth(path, reading)
    box = gpd.GeoSeries([shapely.box(*parcels.total_bounds)], crs=parcels.crs)
    outline = box.segmentize(max(box.length.max() / _EDGE_PIECES, 1e-9)).to_crs("EPSG:4326").iloc[0]
    return {
        "type": "Feature",
        "properties": {"box around": path.name},
        "geometry": json.loads(json.dumps(mapping(outline))),
    }


@dataclass(frozen=True)
class Sources:
    """What a dataset is made of."""

    parcels: Path
    """File of the register."""
    class_column: str
    """Its column of crop codes."""
    classes: Path
    """CSV of crop codes, see ``register.parcels``."""
    cubes: tuple[Path, ...]
    """NetCDF, Zarr or STAC folders, each with all bands of PASTIS."""
    reading: VectorOptions = field(default_factory=VectorOptions)
    """What the file of the register does not say itself."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Everything that is known before an image is read."""

    layout: WrittenLayout
    """How the dataset is written."""
    register: Register
    """The parcels."""
    grids: tuple[GeoBox, ...]
    """Grid of each cube."""
    parcel_grids: tuple[ParcelGrid, ...]
    """The parcels on the grid of each cube."""
    plan: Plan
    """The patches."""
    block_of: Mapping[int, int]
    """Id of a patch -> number of its block."""
    block_m: float
    """Side of a block in metres."""
    options: DatasetOptions
    """How patches are made."""


def write_dataset(
    sources: Sources,
    out: Path | str,
    layout: LayoutName,
    options: DatasetOptions | None = None,
    workers: int = 1,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Write a dataset to a new folder, or complete an unfinished one.

    Args:
        sources: Register, crop codes and cubes.
        out: Folder of the dataset.
        layout: A key of ``LAYOUTS``.
        options: How patches are made.
        workers: Processes that read images; each holds a window in memory.
        say: Is called with each sentence about the register as soon as it is known, before a
            failure that it may explain.

    Returns:
        Counts of what was found on the way; also written to ``REPORT_FILE``.

    Raises:
        ParcelsError: The register or the table of crop codes cannot be used.
        CubeError: A cube cannot be used.
        DatasetError: There are too few patches for the folds.
        ConfigError: Options contradict each other.
        OutputError: The folder cannot be written, or holds another dataset.
    """
    options, target, out = options or DatasetOptions(), LAYOUTS[layout], Path(out)
    if options.centres and layout != "pastis":
        raise ConfigError(
            f"--centres needs a layout with parcels, and {layout} has none: leave out one of"
            " --centres and --layout."
        )
    codes = read_crop_codes(sources.classes, target.classes, sources.reading.encoding)
    _say(codes.notes, say)
    seasons = [open_season(path, options.season, options.read) for path in sources.cubes]
    grids = tuple(cube.odc.geobox for cube, _ in seasons)
    register = read_register(
        sources.parcels, sources.class_column, codes, target.classes, grids, sources.reading
    )
    _say(register.notes, say)
    parcel_grids = tuple(ParcelGrid(register, grid) for grid in grids)
    plan = plan_patches(register, parcel_grids, grids, target.classes, options)
    # Before images are read, so that an area that is too small is refused early, and no image is
    # read for patches that are left out.
    block_of, side = _blocks(plan.patches, grids, register.crs, options, len(target.parts))
    plan = plan.without(block_of < 0)
    blocks = dict(
        zip((patch.id for patch in plan.patches), block_of[block_of >= 0].tolist(), strict=True)
    )
    prepared = _Prepared(
        target, register, grids, parcel_grids, plan, blocks, side * options.size * PIXEL_M, options
    )
    pieces = cut_into_pieces(plan.patches, [cube.sizes["time"] for cube, _ in seasons], options)
    writer = ImageWriter(sources.cubes, tuple(pieces), options, target.save_images)
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
    report = _finish(out, sources, prepared, records, [year for _, year in seasons])
    write_json(out / REPORT_FILE, report.to_json())
    return report


def _say(notes: Sequence[str], say: Callable[[str], None] | None) -> None:
    if say is not None:
        for note in notes:
            say(note)


def _mark(
    sources: Sources,
    layout: str,
    options: DatasetOptions,
    codes: CropCodes,
    times: Sequence[np.ndarray],
) -> dict[str, Any]:
    """Return everything that the data depend on; a dataset is continued only with the same."""
    status, reading = sources.parcels.stat(), asdict(sources.reading)
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
        "options": asdict(replace(options, read=ReadOptions())) | {"read": options.read.to_json()},
        **({"reading": reading} if any(reading.values()) else {}),
    }


def _blocks(
    patches: Sequence[PlannedPatch],
    grids: Sequence[GeoBox],
    crs: str,
    options: DatasetOptions,
    folds: int,
) -> tuple[np.ndarray, int]:
    """Return the block of each patch, -1 for those that are left out, and the side of a block.

    The side is in patches; see ``assign_blocks``.
    """
    outlines_N = np.empty(len(patches), dtype=object)
    for number, grid in enumerate(grids):
        rows = [row for row, patch in enumerate(patches) if patch.cube == number]
        boxes = np.array([pixel_box(patches[row].window) for row in rows], dtype=object)
        outlines_N[rows] = moved(to_map(boxes, grid.affine), crs_of(grid).to_wkt(), crs)
    corner = grids[0].affine @ (0, 0)
    return assign_blocks(outlines_N, corner, options.size * PIXEL_M, options.block, folds)


def _fold_of(prepared: _Prepared, patches: Sequence[PlannedPatch]) -> np.ndarray:
    """Return the number of the fold of each patch."""
    blocks, block_of = np.unique(
        [prepared.block_of[patch.id] for patch in patches], return_inverse=True
    )
    if len(blocks) < len(prepared.layout.parts):  # patches may have lost too many dates
        raise too_few_blocks_error(len(patches), len(blocks), len(prepared.layout.parts))
    things = prepared.layout.classes.ids("thing")
    amounts_BK = np.zeros((len(blocks), len(things) + 1))
    for patch, block in zip(patches, block_of, strict=True):
        pixels_K = np.bincount(
            prepared.register.classes_N[patch.parcels_P],
            patch.pixels_P,
            minlength=prepared.layout.classes.count,
        )
        amounts_BK[block, :-1] += pixels_K[list(things)]
        amounts_BK[block, -1] += 1
    return assign_folds(amounts_BK, prepared.layout.weights)[block_of]


def _finish(
    out: Path,
    sources: Sources,
    prepared: _Prepared,
    records: dict[int, dict[str, Any]],
    years: Sequence[int],
) -> Report:
    """Assign folds, and write labels and tables."""
    patches = [patch for patch in prepared.plan.patches if patch.id in records]
    fold_of = _fold_of(prepared, patches)
    folds, table = len(prepared.layout.parts), prepared.layout.classes
    parcels, pixels = [patch.parcels_P for patch in patches], [patch.pixels_P for patch in patches]
    owner_N = main_folds(parcels, pixels, fold_of.tolist(), len(prepared.register.classes_N), folds)
    finished: list[FinishedPatch] = []
    divided: set[int] = set()
    learnt: set[tuple[int, int]] = set()
    pixels_FK = np.zeros((folds, table.count), np.int64)
    for patch, fold in zip(track(patches, "writing labels"), fold_of.tolist(), strict=True):
        foreign_P = patch.parcels_P[owner_N[patch.parcels_P] != fold]
        classes_HW, parcels_HW = _labels(out, prepared, patch, records[patch.id], foreign_P)
        prepared.layout.save_labels(out, patch.id, classes_HW, parcels_HW, prepared.options.centres)
        crops_HW = np.isin(classes_HW, table.ids("thing"))
        learnt.update((fold, number) for number in np.unique(parcels_HW[crops_HW]).tolist())
        divided.update(foreign_P.tolist())
        pixels_FK[fold] += np.bincount(classes_HW.ravel(), minlength=table.count)
        finished.append(
            _finished(sources, prepared, patch, records[patch.id], fold, crops_HW, parcels_HW)
        )
    prepared.layout.save_tables(out, finished)
    parcels_F = np.bincount([fold for fold, _ in learnt], minlength=folds)
    counts = LabelCounts(pixels_FK, parcels_F, len(divided))
    cubes = [(str(path), year) for path, year in zip(sources.cubes, years, strict=True)]
    return report_of(
        prepared.layout, prepared.register, prepared.plan, finished, counts, prepared.block_m, cubes
    )


def _labels(
    out: Path,
    prepared: _Prepared,
    patch: PlannedPatch,
    record: dict[str, Any],
    foreign_P: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and numbers of parcels of a patch.

    What belongs to another fold, or is never seen, is void and has the number 0.
    """
    void = void_of(prepared.layout.classes)
    window_parcels = prepared.parcel_grids[patch.cube].rasterize(patch.window)
    classes_HW = window_parcels.classes(
        prepared.register.classes_N, void, prepared.options.min_inside
    )
    parcels_HW = np.append(prepared.register.numbers_N, 0)[window_parcels.parcel_HW].astype(
        np.int32
    )
    hidden_HW = np.isin(window_parcels.parcel_HW, foreign_P) | read_unseen(
        out, record, prepared.options.size
    )
    classes_HW[hidden_HW], parcels_HW[hidden_HW] = void, 0
    return classes_HW, parcels_HW


def _finished(
    sources: Sources,
    prepared: _Prepared,
    patch: PlannedPatch,
    record: dict[str, Any],
    fold: int,
    crops_HW: np.ndarray,
    parcels_HW: np.ndarray,
) -> FinishedPatch:
    """Return a patch as the tables describe it."""
    grid = prepared.grids[patch.cube]
    a, b, c, d, e, f = (grid.affine * grid.affine.translation(patch.window.left, patch.window.top))[
        :6
    ]
    return FinishedPatch(
        patch.id,
        prepared.layout.parts[fold],
        tuple(map(date.fromisoformat, record["dates"])),
        len(np.unique(parcels_HW[crops_HW])),
        float(crops_HW.mean()),
        sources.cubes[patch.cube].stem,
        crs_of(grid).to_wkt(),
        crs_of(grid).epsg,
        (a, b, c, d, e, f),
        prepared.options.size,
        np.array(record["moments"]),
    )
