"""The inputs of a map, opened and checked before anything is written.

They are the cube with its season, the weights, the outline and the true parcels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from shapely.geometry.base import BaseGeometry

from panoseg.cube.check import read_dataset
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import Season, choose_season
from panoseg.errors import ConfigError, MissingBandsError
from panoseg.imagery.sentinel2 import PIXEL_M
from panoseg.maps import MapOptions
from panoseg.maps.outlines import to_map
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE
from panoseg.maps.predict import PredictionJob, check_card, inside
from panoseg.maps.read_parcels import check_place, read_truth
from panoseg.maps.windows import Block
from panoseg.models.model import find_weights
from panoseg.models.weights import Weights, WeightsCard, load_card, load_weights
from panoseg.models.weights_by_name import expectation_of, origin_of
from panoseg.models.weights_list import FOR_FEWER_BANDS, PACKAGE_FOLDER
from panoseg.training.transfer import only_weights

_OUTLINE_STEP_DEGREES = 0.01


@dataclass(frozen=True, eq=False)
class GivenWeights:
    """Weights whose card is read, and whose numbers are loaded when they are needed, once."""

    source: Weights | Path
    """The weights, or their folder."""
    card: WeightsCard
    """Their card."""
    name: str | None
    """What the user called them; None for those in the package."""
    origin: Mapping[str, Any] | None = None
    """Where fetched weights came from; None for others."""
    notes: tuple[str, ...] = ()
    """What to know of the weights, a sentence each."""

    @classmethod
    def of(
        cls, given: GivenWeights | Weights | Path | str | None, fold: int | None = None
    ) -> GivenWeights:
        """Read the card of weights, or of those in the package for None.

        Args:
            given: A folder or a name, see ``locate``.
            fold: Which weights to take of a folder with several.

        Raises:
            ConfigError: A fold is named, but there is one network.
            WeightsError: They are not weights, or cannot make a map of parcels.
        """
        if isinstance(given, GivenWeights):
            return given
        if isinstance(given, Weights):
            found = cls(given, given.card, "given as an object")
        else:
            folder = Path(find_weights(given))  # type: ignore[arg-type]
            name = None if given is None else str(given)
            weights, note = only_weights(folder, fold)
            card = load_card(folder) if weights is None else weights.card
            origin = origin_of(folder)
            expected = expectation_of(origin)
            about = f"About the weights {name}: {expected}" if expected else ""
            notes = tuple(text for text in (note, about) if text)
            found = cls(weights or folder, card, name, origin, notes)
        check_card(found.card)
        return found

    @cached_property
    def weights(self) -> Weights:
        """The weights."""
        return self.source if isinstance(self.source, Weights) else load_weights(self.source)


@dataclass(frozen=True, eq=False)
class MapInputs:
    """What a map is made of."""

    cube_path: Path
    """The cube."""
    cube: xr.Dataset
    """The checked cube with the dates of ``season``, still lazy."""
    season: Season
    """The dates that are used."""
    weights: Weights
    """The network."""
    weights_name: str | None
    """What the user called the weights; None for those in the package."""
    options: MapOptions
    """How the map is made."""
    truth: gpd.GeoDataFrame | None
    """True parcels to compare with."""
    declared_only: bool
    """Whether the truth covers a part of the land."""
    outline: BaseGeometry | None
    """What is mapped, in the cube's coordinate system; None for all of it."""
    notes: tuple[str, ...] = ()
    """What is odd in the file of the cube, and to know of the weights, a sentence each."""
    origin: Mapping[str, Any] | None = None
    """Where fetched weights came from; None for others."""

    @property
    def title(self) -> str:
        """What the map is called."""
        return self.cube_path.stem or self.cube_path.name

    @property
    def shape_HW(self) -> tuple[int, int]:
        """Pixels of the map."""
        return self.cube.sizes["y"], self.cube.sizes["x"]

    @property
    def min_pixels(self) -> int:
        """Smaller parts of parcels are taken out."""
        return round(self.options.min_area_ha * SQUARE_METRES_PER_HECTARE / PIXEL_M**2)

    @property
    def job(self) -> PredictionJob:
        """What a worker must know."""
        season = self.season
        return PredictionJob(
            self.cube_path.resolve(),
            season.index_T,
            season.days_T,
            season.reference,
            self.weights,
            self.options,
            self.outline,
        )

    @cached_property
    def plan(self) -> list[Block]:
        """The windows of the map."""
        return self.job.plan(*self.shape_HW)

    @cached_property
    def outside(self) -> frozenset[int]:
        """Numbers of the windows outside of the outline, in which nothing is read or found."""
        if self.outline is None:
            return frozenset()
        corners = [
            (own.left, own.top, own.left + own.width, own.top + own.height)
            for own in (one.window for one in self.plan)
        ]
        left, top, right, bottom = np.array(corners, np.float64).T
        windows = to_map(
            np.asarray(shapely.box(left, top, right, bottom)), self.cube.odc.geobox.affine
        )
        shapely.prepare(self.outline)
        return frozenset(np.flatnonzero(~shapely.intersects(self.outline, windows)).tolist())

    @property
    def mapped_pixels(self) -> int:
        """Pixels inside of the outline."""
        if self.outline is None:
            return self.shape_HW[0] * self.shape_HW[1]
        grid = self.cube.odc.geobox.affine
        lands = (block.land for number, block in enumerate(self.plan) if number not in self.outside)
        return sum(int(inside(self.outline, grid, land).sum()) for land in lands)


def open_inputs(
    cube_path: Path,
    weights: GivenWeights | Weights | Path | str | None,
    options: MapOptions,
    truth: Path | str | None,
    declared_only: bool,
    within: BaseGeometry | None,
    fold: int | None = None,
) -> MapInputs:
    """Open all that a map is made of; arguments and errors as in ``map_cube``.

    The numbers of the weights come last: a cube that is refused costs no time.
    """
    if declared_only and truth is None:
        raise ConfigError("--declared-only scores inside of a truth: add --truth, or leave it out.")
    given = GivenWeights.of(weights, fold)
    true_parcels = None if truth is None else read_truth(truth)
    try:
        cube, season, notes = open_season(cube_path, given.card, options)
    except MissingBandsError:
        if weights is not None:
            raise
        given = replace(GivenWeights.of(PACKAGE_FOLDER / FOR_FEWER_BANDS), name=FOR_FEWER_BANDS)
        cube, season, notes = open_season(cube_path, given.card, options)
        notes = (*notes, f"The weights {FOR_FEWER_BANDS} were used, which need fewer bands.")
    if true_parcels is not None:
        check_place(true_parcels, str(truth), _extent(cube), cube_path)
    outline = None if within is None else _outline_in(cube, within)
    return MapInputs(
        cube_path,
        cube,
        season,
        given.weights,
        given.name,
        options,
        true_parcels,
        declared_only,
        outline,
        (*given.notes, *notes),
        given.origin,
    )


def _outline_in(cube: xr.Dataset, within: BaseGeometry) -> BaseGeometry:
    """Return polygons in degrees in the cube's coordinate system.

    Raises:
        ConfigError: The cube has no pixel inside of them.
    """
    # A straight line in degrees is not straight in a projection.
    fine = gpd.GeoSeries([shapely.segmentize(within, _OUTLINE_STEP_DEGREES)], crs="EPSG:4326")
    outline: BaseGeometry = fine.to_crs(cube.odc.geobox.crs.to_wkt()).iloc[0]
    if not outline.intersects(cube.odc.geobox.extent.geom):
        raise ConfigError("The outline lies outside of the cube: check the places of both.")
    return outline


def open_season(
    cube_path: Path, card: WeightsCard, options: MapOptions
) -> tuple[xr.Dataset, Season, tuple[str, ...]]:
    """Return the checked cube with the dates of its season only, the season, and notes."""
    cube = open_cube(cube_path)
    with reading(cube_path):
        reading_of = read_dataset(cube, card.bands, options.read, card.model.fewest_bands)
        cube = reading_of.cube
        season = choose_season(
            cube,
            start=card.season_start,
            year=options.year,
            min_clear=options.min_clear,
            max_dates=options.max_dates,
            min_dates=options.min_dates,
            options=options.read,
        )
    return cube.isel(time=season.index_T), season, (*reading_of.notes, *season.notes)


def _extent(cube: xr.Dataset) -> gpd.GeoSeries:
    """The outline of a checked cube."""
    extent = cube.odc.geobox.extent
    return gpd.GeoSeries([extent.geom], crs=extent.crs.to_wkt())
