"""The whole way from a cube on disk to a folder with a map: called by ``panoseg map`` and by the demo."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.cube.check import PIXEL_M, check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import Season, choose_season
from panoseg.errors import ConfigError
from panoseg.files import output_error, write_json, write_text
from panoseg.maps.compare import Comparison, compare_parcels
from panoseg.maps.options import MapOptions
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE, parcels_of, write_geopackage, write_geoparquet
from panoseg.maps.predict import Predictor, predict_cube
from panoseg.maps.rasters import write_classes, write_segments
from panoseg.maps.read_parcels import check_place, left_out_notes, read_truth
from panoseg.maps.report import ReportContent, render_report
from panoseg.maps.resume import begin, fingerprint
from panoseg.maps.tidy import tidy
from panoseg.models.weights import Weights, WeightsCard, default_weights, load_weights
from panoseg.panoptic.panoptic import Panoptic

SHIPPED_NOTE = "No weights were given: the ones in the package were used, which were trained on simulated seasons."
_FEW_DATES = 4
_OUTLINE_STEP_DEGREES = 0.01


@dataclass(frozen=True)
class MapResult:
    """A finished map.

    out: its folder, with parcels.parquet, classes.tif, segments.tif, report.html, map.json, and parcels.gpkg on request.
    parcels: as in parcels.parquet. picture: as in segments.tif. season: the dates that were used. notes: what the user should
    know, a sentence each. comparison: with the truth, where one was given. seconds: what it took, this start only.
    """

    out: Path
    parcels: gpd.GeoDataFrame
    picture: Panoptic
    season: Season
    notes: tuple[str, ...]
    comparison: Comparison | None
    seconds: float

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report.html"


def map_cube(
    cube_path: Path | str,
    weights: Weights | Path | str | None,
    out: Path | str,
    options: MapOptions | None = None,
    truth: Path | str | None = None,
    declared_only: bool = False,
    within: BaseGeometry | None = None,
) -> MapResult:
    """Map a season: parcels with classes, rasters and a report in the folder ``out``.

    weights: a folder of weights, or None for those in the package. truth: a file of true parcels to compare with in the report.
    declared_only: the truth covers part of the land, see ``compare_parcels``. within: polygons in degrees (EPSG:4326); pixels
    whose centre lies outside have no data. An unfinished map in ``out`` is continued. Every file appears whole or not at all.
    Raises ``PanosegError`` of all kinds.
    """
    start, out = time.monotonic(), Path(out)
    given = _open_inputs(Path(cube_path), weights, options or MapOptions(), truth, declared_only, within)
    predictor = Predictor(given.weights, given.options, given.season.reference)
    work = begin(out, fingerprint(given.cube_path, given.cube, given.season, given.weights, given.options, given.outline))
    picture, data_HW = predict_cube(
        given.cube, given.season.days_T, predictor, work, given.options, given.cube_path, given.outline
    )
    picture = tidy(picture, round(given.options.min_area_ha * SQUARE_METRES_PER_HECTARE / PIXEL_M**2))
    content = _content(given, picture, data_HW)
    _write(out, content, picture, data_HW)
    try:
        shutil.rmtree(work)
    except OSError as error:
        raise output_error(work, error) from error
    seconds = time.monotonic() - start
    return MapResult(out, content.parcels, picture, content.season, content.notes, content.comparison, seconds)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a map is made of, opened and checked.

    cube: its dates are those of ``season``, still lazy. weights_name: None for those in the package. truth: true parcels, or
    None. outline: what is mapped, in the cube's coordinate system, or None for all of it.
    """

    cube_path: Path
    cube: xr.Dataset
    season: Season
    weights: Weights
    weights_name: str | None
    options: MapOptions
    truth: gpd.GeoDataFrame | None
    declared_only: bool
    outline: BaseGeometry | None


def _open_inputs(
    cube_path: Path,
    weights: Weights | Path | str | None,
    options: MapOptions,
    truth: Path | str | None,
    declared_only: bool,
    within: BaseGeometry | None,
) -> _Inputs:
    """Open all that a map is made of, so that what is wrong with it is found before anything is written."""
    if declared_only and truth is None:
        raise ConfigError("--declared-only without a truth", "true parcels to score with", "add --truth, or leave it out")
    loaded = weights if isinstance(weights, Weights) else default_weights() if weights is None else load_weights(weights)
    true_parcels = None if truth is None else read_truth(truth)
    cube, season = open_season(cube_path, loaded.card, options)
    if true_parcels is not None:
        check_place(true_parcels, str(truth), _extent(cube), cube_path)
    name = "given as an object" if isinstance(weights, Weights) else str(weights)
    shown = None if weights is None else name
    outline = None if within is None else _outline_in(cube, within)
    return _Inputs(cube_path, cube, season, loaded, shown, options, true_parcels, declared_only, outline)


def _outline_in(cube: xr.Dataset, within: BaseGeometry) -> BaseGeometry:
    """Polygons in degrees -> the cube's coordinate system; raises ``ConfigError`` where the cube has none of their pixels."""
    # A straight line on the globe's grid is none in a projection.
    fine = gpd.GeoSeries([shapely.segmentize(within, _OUTLINE_STEP_DEGREES)], crs="EPSG:4326")
    outline = fine.to_crs(cube.odc.geobox.crs.to_wkt()).iloc[0]
    if not outline.intersects(cube.odc.geobox.extent.geom):
        raise ConfigError("an outline that lies outside of the cube", "one that meets it", "check both places")
    return outline


def open_season(cube_path: Path, card: WeightsCard, options: MapOptions) -> tuple[xr.Dataset, Season]:
    """The checked cube with the dates of its season only, still lazy, and the season."""
    cube = open_cube(cube_path)
    with reading(cube_path):
        cube = check_cube(cube, card.bands)
        season = choose_season(
            cube,
            start=card.season_start,
            year=options.year,
            min_clear=options.min_clear,
            max_dates=options.max_dates,
            min_dates=options.min_dates,
        )
    return cube.isel(time=season.index_T), season


def _extent(cube: xr.Dataset) -> gpd.GeoSeries:
    """The outline of a checked cube."""
    extent = cube.odc.geobox.extent
    return gpd.GeoSeries([extent.geom], crs=extent.crs.to_wkt())


def _content(given: _Inputs, picture: Panoptic, data_HW: np.ndarray) -> ReportContent:
    """The parcels of a picture, and all that is said of them."""
    parcels = _parcels(given, picture)
    return ReportContent(
        title=given.cube_path.stem or given.cube_path.name,
        source=given.cube_path,
        cube=given.cube,
        season=given.season,
        parcels=parcels,
        card=given.weights.card,
        weights=given.weights_name,
        options=given.options,
        notes=(*_notes(given.weights_name is None, given.season, data_HW, parcels), *left_out_notes(given.truth)),
        comparison=None if given.truth is None else _compared(parcels, given.truth, given.declared_only),
        truth=given.truth,
    )


def _parcels(given: _Inputs, picture: Panoptic) -> gpd.GeoDataFrame:
    grid, card, season = given.cube.odc.geobox, given.weights.card, given.season
    return parcels_of(
        picture,
        grid.affine,
        grid.crs.to_wkt(),
        card.classes,
        tolerance_pixels=given.options.simplify,
        observed=season.dates_T[-1],
        details=f"panoseg {panoseg.__version__}, {card.model.title}, {len(season.days_T)} dates",
    )


def _compared(parcels: gpd.GeoDataFrame, truth: gpd.GeoDataFrame, declared_only: bool) -> Comparison:
    """The comparison, of classes too where the truth speaks of them by the same column."""
    classes = (parcels["class"], truth["class"]) if "class" in truth.columns else (None, None)
    return compare_parcels(parcels, truth, classes=classes[0], truth_classes=classes[1], declared_only=declared_only)


def _notes(shipped: bool, season: Season, data_HW: np.ndarray, parcels: gpd.GeoDataFrame) -> tuple[str, ...]:
    """What a reader should know before the numbers, a sentence each."""
    notes = [SHIPPED_NOTE] if shipped else []
    if season.left_out:
        dates = len(season.left_out) + len(season.days_T)
        notes.append(f"{len(season.left_out)} of {dates} dates were left out; the report says which, and why.")
    spring, autumn = (np.datetime64(f"{season.harvest_year}-{month}-01") for month in ("04", "10"))
    growing = int(((season.dates_T >= spring) & (season.dates_T < autumn)).sum())
    if growing < _FEW_DATES:
        notes.append(f"Only {growing} dates lie between April and September: classes are uncertain.")
    if not data_HW.all():
        notes.append(f"{1 - data_HW.mean():.1%} of the area has no data on any date and no parcel.")
    if not len(parcels):
        notes.append("No parcel was found.")
    return tuple(notes)


def _write(out: Path, content: ReportContent, picture: Panoptic, data_HW: np.ndarray) -> None:
    """All files of a map; each appears whole or not at all."""
    grid, table = content.cube.odc.geobox, content.card.classes
    write_geoparquet(content.parcels, out / "parcels.parquet")
    if content.options.gpkg:
        write_geopackage(content.parcels, out / "parcels.gpkg")
    else:
        _remove(out / "parcels.gpkg")  # of an earlier start, whose other options may differ too
    write_classes(out / "classes.tif", picture, data_HW, grid, table)
    write_segments(out / "segments.tif", picture, grid)
    write_text(out / "report.html", render_report(content))
    write_json(out / "map.json", _record(content))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _record(content: ReportContent) -> dict[str, Any]:
    """How the map was made, JSON-ready."""
    season = content.season
    return {
        "panoseg": panoseg.__version__,
        "cube": str(content.source),
        "weights": content.weights or "those in the package",
        "card": content.card.to_json(),
        "options": asdict(content.options),
        "harvest_year": season.harvest_year,
        "dates": season.dates_T.astype(str).tolist(),
        "left_out": dict(season.left_out),
        "parcels": len(content.parcels),
        "notes": list(content.notes),
        "comparison": None if content.comparison is None else content.comparison.to_json(),
    }
