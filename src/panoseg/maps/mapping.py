"""Map the parcels of a cube, or of an area and a season, into a folder.

Also chooses what does the work: this process, or the workers of a cluster.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Protocol

import geopandas as gpd
import numpy as np
import rasterio
from shapely.geometry.base import BaseGeometry

from panoseg.cube import AreaOptions, CubeOptions, ReadOptions
from panoseg.cube.fetch import CubeRequest, fetch_cube, requested_area
from panoseg.cube.season import Season
from panoseg.errors import ConfigError, PanosegError, require
from panoseg.files import hold_folder, new_folder, output_error, remove
from panoseg.imagery.area import read_area
from panoseg.imagery.sentinel2 import season_span
from panoseg.maps import MapOptions, RunOptions
from panoseg.maps.assemble import Assembled, assemble
from panoseg.maps.compare import Comparison
from panoseg.maps.inputs import GivenWeights, open_inputs
from panoseg.maps.outlines import (
    OutlineFiles,
    Sheet,
    SheetOutlines,
    draw_sheet,
    plan_sheets,
    read_sheets,
)
from panoseg.maps.outputs import write_map
from panoseg.maps.predict import OpenJob, finished
from panoseg.maps.report import ParcelSummary
from panoseg.maps.windows import UNFINISHED, Block, Save, WindowFiles, begin, fingerprint, finish
from panoseg.models.weights import Weights
from panoseg.panoptic import Panoptic, Segments
from panoseg.progress import counting, track


class Workers(Protocol):
    """What predicts windows and draws outlines; the result does not depend on which it is."""

    def predict(
        self, windows: Sequence[tuple[int, Block]], save: Save, progress: Callable[[int], None]
    ) -> None:
        """Predict windows in any order.

        Args:
            windows: Windows with their numbers.
            save: Called with the number and the content of each window that is finished.
            progress: Called with how many more tiles are done.
        """

    def draw(self, sheets: Iterable[Sheet]) -> Iterator[tuple[int, SheetOutlines]]:
        """Yield the outlines of sheets in any order, each with its number.

        A sheet is taken from ``sheets`` when a worker is free to draw it.
        """


class LocalWorkers:
    """This process does all the work."""

    def __init__(self, opened: OpenJob) -> None:
        self.opened = opened

    def predict(
        self, windows: Sequence[tuple[int, Block]], save: Save, progress: Callable[[int], None]
    ) -> None:
        """Predict windows one after the other; arguments as in ``Workers``."""
        opened = self.opened
        for number, block in windows:
            images = opened.read(block)
            progress(len(block.tiles) - len(images.tiles))
            found = opened.model.predict_tiles(images.tiles, opened.job.days_T, progress)
            save(number, finished(block, images, found))

    def draw(self, sheets: Iterable[Sheet]) -> Iterator[tuple[int, SheetOutlines]]:
        """Yield the outlines of sheets, each with its number."""
        for number, sheet in enumerate(sheets):
            yield number, draw_sheet(sheet)


@contextmanager
def workers_for(running: RunOptions, opened: OpenJob) -> Iterator[Workers]:
    """Provide the workers that the options ask for; those of this machine end with the block.

    Raises:
        ClusterError: No scheduler answers.
    """
    if running.local:
        yield LocalWorkers(opened)
    else:
        require("cluster", "A map in several processes or on a cluster")
        from panoseg.maps.cluster import cluster_for  # imports dask.distributed, which is slow

        with cluster_for(running, opened.job) as cluster:
            yield cluster


@dataclass(frozen=True, eq=False)
class MapResult:
    """A finished map."""

    out: Path
    """Its folder.

    It holds parcels.parquet, classes.tif, segments.tif, confidence.tif, report.html, item.json and
    map.json; parcels.gpkg and parcels.pmtiles on request.
    """
    summary: ParcelSummary
    """Summary of the parcels."""
    segments: Segments
    """The table of segments.tif."""
    season: Season
    """The dates that were used."""
    notes: tuple[str, ...]
    """What the user should know, one sentence each."""
    comparison: Comparison | None
    """Comparison with the truth; None where no truth was given."""
    seconds: float
    """Duration of this start, in seconds."""
    folder: object = None
    """A temporary folder that is deleted with the result; None for a folder of the user's."""

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report.html"

    @cached_property
    def parcels(self) -> gpd.GeoDataFrame:
        """All parcels, read from parcels.parquet into memory."""
        return gpd.read_parquet(self.out / "parcels.parquet")

    @cached_property
    def classes(self) -> np.ndarray:
        """The class of each pixel, uint8 H x W, read from classes.tif into memory."""
        with rasterio.open(self.out / "classes.tif") as source:
            classes_HW: np.ndarray = source.read(1)
        return classes_HW

    @cached_property
    def picture(self) -> Panoptic:
        """The whole map, read from segments.tif into memory."""
        with rasterio.open(self.out / "segments.tif") as source:
            return Panoptic(source.read(1), self.segments)


def map_cube(
    cube_path: Path | str,
    weights: GivenWeights | Weights | Path | str | None,
    out: Path | str,
    options: MapOptions | None = None,
    truth: Path | str | None = None,
    declared_only: bool = False,
    within: BaseGeometry | None = None,
    running: RunOptions | None = None,
    fold: int | None = None,
) -> MapResult:
    """Map a season: parcels with classes, rasters and a report in the folder ``out``.

    An unfinished map in ``out`` is continued. Every file appears whole or not at all. Memory is
    bounded by a window, not by the area.

    Args:
        cube_path: The cube of the season.
        weights: A folder of weights or a name, see ``locate``; None for those in the package.
        out: Folder of the map.
        options: Options of the map.
        truth: A file of true parcels to compare with in the report.
        declared_only: The truth covers only part of the land, see ``compare_parcels``.
        within: Polygons in degrees (EPSG:4326); pixels whose centre lies outside have no data.
        running: Where the work is done.
        fold: Which weights to take of a folder with several; None takes the first.

    Raises:
        PanosegError: An input is missing or does not fit, or the map cannot be written; the
            subclass says which.
    """
    start, out = time.monotonic(), Path(out)
    given = open_inputs(
        Path(cube_path), weights, options or MapOptions(), truth, declared_only, within, fold
    )
    running = running or RunOptions()
    opened = OpenJob(given.job, given.cube)
    opened.check(running.local)
    with hold_folder(out):
        work = begin(
            out,
            fingerprint(
                given.cube_path,
                given.cube,
                given.season,
                given.weights,
                given.options,
                given.outline,
            ),
        )
        windows = WindowFiles(work, given.plan, given.outside)
        with _scratch(work / "joined") as folder:
            with workers_for(running, opened) as workers:
                missing = [(number, windows.blocks[number]) for number in windows.missing()]
                tiles = sum(len(block.tiles) for _, block in missing)
                with counting("tiles", tiles) as progress:
                    workers.predict(missing, windows.save, progress)
                assembled = assemble(
                    windows, given.shape_HW, given.min_pixels, given.weights.card.classes, folder
                )
                outlines = _outlines(assembled, given.options.simplify, workers, folder)
            content = write_map(out, given, assembled, outlines)
        finish(work)
    seconds = time.monotonic() - start
    return MapResult(
        out,
        content.parcels,
        assembled.segments,
        content.season,
        content.notes,
        content.comparison,
        seconds,
    )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Provide a temporary folder, removed with the block even where a disk is full."""
    shutil.rmtree(folder, ignore_errors=True)  # of a start that was killed
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove(folder)


def _outlines(
    assembled: Assembled, tolerance_pixels: float, workers: Workers, folder: Path
) -> OutlineFiles:
    """The outlines of all parcels, in files."""
    raster, segments = assembled.segment_raster, assembled.segments
    drawn, area_N = (
        np.zeros(int(segments.ids.max(initial=0)) + 1, dtype) for dtype in (bool, np.int64)
    )
    drawn[segments.ids], area_N[segments.ids] = segments.is_thing, segments.areas
    found = OutlineFiles(folder, area_N)
    sheets = workers.draw(read_sheets(raster, drawn, tolerance_pixels))
    for number, sheet in track(sheets, "sheets outlined", total=len(plan_sheets(*raster.shape_HW))):
        found.add(number, sheet)
    found.finish()
    return found


SCENES = "scenes.json"


def map_area(
    wanted: AreaOptions,
    fetch: CubeOptions,
    weights: Weights | Path | str | None,
    out: Path | str,
    options: MapOptions | None = None,
    truth: Path | str | None = None,
    declared_only: bool = False,
    running: RunOptions | None = None,
    fold: int | None = None,
) -> MapResult:
    """Fetch the season of an area and map it in the folder ``out``.

    Writes scenes.json, NAME.zarr, and the files of ``map_cube``. Pixels outside of the outline have
    no parcel; a parcel that crosses it is cut there. A stopped map is continued. Other arguments
    and errors are those of ``map_cube`` and ``fetch_cube``.

    Args:
        wanted: The area, and the year of its season.
        fetch: Options of the cube.
        weights: Weights whose bands are fetched, for the days of their season.
        out: Folder of the map.
        options: Options of the map.
        truth: A file of true parcels to compare with in the report.
        declared_only: The truth covers only part of the land.
        running: Where the work is done.
        fold: Which weights to take of a folder with several.
    """
    options, out = options or MapOptions(), Path(out)
    if wanted.area is None or wanted.season is None:
        raise ConfigError("Pass both --area and --season, e.g. --area farm.geojson --season 2024.")
    if options.year not in (None, wanted.season):
        raise ConfigError(
            f"--season {wanted.season} and --year {options.year} name two years of harvest: leave"
            " out --year."
        )
    given = GivenWeights.of(weights, fold)
    _ = given.weights  # damaged ones are reported before a season is fetched
    request = CubeRequest(
        wanted.area,
        *_days_to_fetch(wanted.area, wanted.season, given.card.season_start, options.read),
        wanted.catalog,
        wanted.collection,
        wanted.yes,
    )
    bands = tuple(given.card.bands)
    area = requested_area(request, fetch, len(bands))
    with hold_folder(out):
        _begin(out)
        # A cube that is not kept lies where all goes when the map is finished, so that no kill
        # leaves it behind.
        cube = (out if wanted.keep_cube else out / UNFINISHED) / f"{area.name}.zarr"
        try:
            fetch_cube(request, cube, out / SCENES, fetch, bands, area)
        except PanosegError:
            _remove_empty(out)
            raise
        chosen = replace(options, year=wanted.season)
        return map_cube(
            cube, given, out, chosen, truth, declared_only, within=area.outline, running=running
        )


def _days_to_fetch(
    area: Path, year: int, start: tuple[int, int], read: ReadOptions
) -> tuple[date, date]:
    """Return the first and the last day of a season, or those that are asked for."""
    if read.start is None:
        first, last = read_area(area).season(year, start)
    else:
        first, last = season_span(year, read.start)
    return read.days[0] or first, read.days[1] or last


def _begin(out: Path) -> None:
    """Make the folder of a map, or accept that of an unfinished one.

    The mark of an unfinished map is set here, so that it is known as one while its cube is fetched.
    """
    try:
        (new_folder(out, resumable=UNFINISHED) / UNFINISHED).mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error


def _remove_empty(out: Path) -> None:
    """Remove a folder in which nothing was made."""
    with suppress(OSError):
        if [entry.name for entry in out.iterdir()] == [UNFINISHED]:
            (out / UNFINISHED).rmdir()
            out.rmdir()
