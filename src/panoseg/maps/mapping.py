"""The whole way from a cube on disk to a folder with a map: called by ``panoseg map`` and by the demo."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from shapely.geometry.base import BaseGeometry

from panoseg.cube.season import Season
from panoseg.files import making, output_error
from panoseg.maps.assemble import Assembled, assemble
from panoseg.maps.compare import Comparison
from panoseg.maps.inputs import open_inputs
from panoseg.maps.options import MapOptions, RunOptions
from panoseg.maps.outputs import write_map
from panoseg.maps.predict import OpenJob
from panoseg.maps.resume import begin, fingerprint, finish
from panoseg.maps.sheets import OutlineFiles, plan_sheets, read_sheets
from panoseg.maps.summary import ParcelSummary
from panoseg.maps.windows import WindowFiles
from panoseg.maps.workers import Workers, workers_for
from panoseg.models.weights import Weights
from panoseg.panoptic.panoptic import Panoptic, Segments
from panoseg.progress import track


@dataclass(frozen=True, eq=False)
class MapResult:
    """A finished map.

    out: its folder, with parcels.parquet, classes.tif, segments.tif, confidence.tif, report.html, item.json, map.json, and
    parcels.gpkg and parcels.pmtiles on request. summary: of the parcels. segments: the table of segments.tif. season: the dates
    that were used. notes: what the user should know, a sentence each. comparison: with the truth, where one was given. seconds:
    what it took, this start only.
    """

    out: Path
    summary: ParcelSummary
    segments: Segments
    season: Season
    notes: tuple[str, ...]
    comparison: Comparison | None
    seconds: float

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report.html"

    @cached_property
    def parcels(self) -> gpd.GeoDataFrame:
        """All parcels, read from parcels.parquet into memory."""
        return gpd.read_parquet(self.out / "parcels.parquet")

    @cached_property
    def picture(self) -> Panoptic:
        """The whole map, read from segments.tif into memory."""
        with rasterio.open(self.out / "segments.tif") as source:
            return Panoptic(source.read(1), self.segments)


def map_cube(
    cube_path: Path | str,
    weights: Weights | Path | str | None,
    out: Path | str,
    options: MapOptions | None = None,
    truth: Path | str | None = None,
    declared_only: bool = False,
    within: BaseGeometry | None = None,
    running: RunOptions | None = None,
) -> MapResult:
    """Map a season: parcels with classes, rasters and a report in the folder ``out``.

    weights: a folder of weights, or None for those in the package. truth: a file of true parcels to compare with in the report.
    declared_only: the truth covers part of the land, see ``compare_parcels``. within: polygons in degrees (EPSG:4326); pixels
    whose centre lies outside have no data. running: where the work is done. An unfinished map in ``out`` is continued. Every
    file appears whole or not at all. Memory is bounded by a window, not by the area. Raises ``PanosegError`` of all kinds.
    """
    start, out = time.monotonic(), Path(out)
    given = open_inputs(Path(cube_path), weights, options or MapOptions(), truth, declared_only, within)
    running = running or RunOptions()
    opened = OpenJob(given.job, given.cube)
    opened.check(running.local)
    with making(out):
        work = begin(out, fingerprint(given.cube_path, given.cube, given.season, given.weights, given.options, given.outline))
        windows = WindowFiles(work, given.plan, given.outside)
        with _scratch(work / "joined") as folder:
            with workers_for(running, opened) as workers:
                _predict(windows, workers)
                assembled = assemble(windows, given.shape_HW, given.min_pixels, given.weights.card.classes, folder)
                outlines = _outlines(assembled, given.options.simplify, workers, folder)
            content = write_map(out, given, assembled, outlines)
        finish(work)
    seconds = time.monotonic() - start
    return MapResult(out, content.parcels, assembled.segments, content.season, content.notes, content.comparison, seconds)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what is quickly made again: it goes with the block, also when a disk is full."""
    shutil.rmtree(folder, ignore_errors=True)  # of a start that was killed
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _predict(windows: WindowFiles, workers: Workers) -> None:
    """Predict the windows that are not finished yet."""
    missing = [(number, windows.blocks[number]) for number in windows.missing()]
    tiles = sum(len(block.tiles) for _, block in missing)
    for _ in track(workers.predict(missing, windows.save), "tiles", total=tiles):
        pass


def _outlines(assembled: Assembled, tolerance_pixels: float, workers: Workers, folder: Path) -> OutlineFiles:
    """The outlines of all parcels, in files."""
    raster, segments = assembled.segment_raster, assembled.segments
    drawn, area_N = (np.zeros(int(segments.ids.max(initial=0)) + 1, dtype) for dtype in (bool, np.int64))
    drawn[segments.ids], area_N[segments.ids] = segments.is_thing, segments.areas
    found = OutlineFiles(folder, area_N)
    sheets = workers.draw(read_sheets(raster, drawn, tolerance_pixels))
    for number, sheet in track(sheets, "sheets outlined", total=len(plan_sheets(*raster.shape_HW))):
        found.add(number, sheet)
    found.finish()
    return found
