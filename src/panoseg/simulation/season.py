"""Simulate one season: land, crops, an irregular calendar of acquisitions, weather, instrument.

Days are counted from 1 September of the year before the harvest, so that a day means the same in
every year. Shape suffixes: T dates, C bands in the order of ``PASTIS_BANDS``, H W pixels.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np

from panoseg.errors import ConfigError
from panoseg.imagery.sentinel2 import PASTIS_BANDS, season_span
from panoseg.simulation.atmosphere import Sky, apply_sky, draw_skies, sun_elevation
from panoseg.simulation.landscape import (
    PIXEL_M,
    Landscape,
    check_layout,
    landscape_of_parcels,
    make_landscape,
    region_of,
)
from panoseg.simulation.options import Region, SimulationOptions
from panoseg.simulation.phenology import Climate
from panoseg.simulation.scene import Scene
from panoseg.simulation.sensor import RESAMPLINGS, deliver, shift

_REVISIT_DAYS = 5
_WINTER = (75, 190)  # days


def acquisition_days(rng: np.random.Generator, count: int, season_days: int) -> np.ndarray:
    """Draw the days of ``count`` acquisitions, int64, ascending, distinct, below ``season_days``.

    Passes come every five days; if more are requested than one orbit gives, a second orbit
    overlaps. Passes are lost at random, in runs, and more often in winter, because products that
    are completely cloudy are not published.
    """
    phase = int(rng.integers(_REVISIT_DAYS))
    passes = np.arange(phase, season_days, _REVISIT_DAYS)
    if count > 0.75 * passes.size or rng.random() < 0.25:
        second = np.arange((phase + rng.choice([2, 3])) % _REVISIT_DAYS, season_days, _REVISIT_DAYS)
        passes = np.unique(np.concatenate([passes, second]))
    winter = (passes > _WINTER[0]) & (passes < _WINTER[1])
    weather = np.convolve(rng.standard_normal(passes.size + 2), [0.4, 0.6, 0.4], mode="valid")
    loss = weather + rng.uniform(0.2, 1.0) * winter + 0.5 * rng.standard_normal(passes.size)
    return np.sort(passes[np.argsort(loss)[:count]])


@dataclass(frozen=True)
class Season:
    """One simulated season of a piece of land."""

    images_TCHW: np.ndarray
    """int16, reflectance x 10 000, 1..20 000."""
    dates: tuple[datetime.date, ...]
    """Date of each image, ascending."""
    classes_HW: np.ndarray
    """uint8, PASTIS class ids 0..19."""
    parcels_HW: np.ndarray
    """int32, number of the parcel at each pixel, 0 for none."""
    cloud_THW: np.ndarray
    """uint8, ``CLEAR``, ``CLOUD``, ``SHADOW``, ``CIRRUS`` or ``SNOW`` of ``atmosphere``."""
    region: str
    """Kind of countryside."""
    origin: tuple[float, float]
    """Easting and northing of the upper left corner in ``epsg``, metres."""
    epsg: int = 32631
    """EPSG code of the coordinate system."""

    def outline(self) -> list[tuple[float, float]]:
        """Return the corners in ``epsg``, clockwise from the upper left and back to it."""
        (left, top), (height, width) = self.origin, self.parcels_HW.shape
        right, bottom = left + width * PIXEL_M, top - height * PIXEL_M
        return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


@dataclass(frozen=True)
class Layout:
    """A given map of parcels."""

    parcels_HW: np.ndarray
    """Integers, number of the parcel at each pixel, 0 for none."""
    classes_HW: np.ndarray | None = None
    """Integers, PASTIS class ids 0..19; None to draw crops."""


def simulate_season(
    size: tuple[int, int],
    seed: int | tuple[int, ...],
    options: SimulationOptions | None = None,
    layout: Layout | np.ndarray | None = None,
) -> Season:
    """Simulate a season.

    Args:
        size: Height and width in pixels of 10 m, from 8.
        seed: The same seed gives the same season.
        options: How it is simulated.
        layout: Parcels to keep exactly, with or without their classes.

    Raises:
        ConfigError: The size is impossible.
        DatasetError: The layout does not fit.
    """
    options = options or SimulationOptions()
    check_size(size)
    land_rng, time_rng, cover_rng, sky_rng, sensor_rng = np.random.default_rng(seed).spawn(5)
    region_name, region = region_of(options, land_rng)
    landscape = _landscape(size, region, options, layout, land_rng)
    days_T = _days(options, time_rng)
    delay = np.clip(region.delay + time_rng.normal(0, 7), -options.shift_days, options.shift_days)
    climate = Climate(float(delay), float(time_rng.beta(1.2, 1.8)))
    scene = Scene(landscape, region, climate, days_T, options, cover_rng)
    instrument = _Instrument(options, sky_rng, sensor_rng)
    images_TCHW = np.empty((days_T.size, len(PASTIS_BANDS), *size), np.int16)
    cloud_THW = np.empty((days_T.size, *size), np.uint8)
    for index, sky in enumerate(draw_skies(days_T, options, sky_rng)):
        image_CHW, cloud_THW[index] = instrument.observe(scene, index, sky)
        images_TCHW[index] = np.clip(image_CHW, 1, 20_000)
    start, _ = season_span(options.harvest_year)
    dates = tuple(start + datetime.timedelta(days=int(day)) for day in days_T)
    origin = _origin(region, land_rng)
    return Season(
        images_TCHW,
        dates,
        landscape.classes_HW,
        landscape.parcels_HW,
        cloud_THW,
        region_name,
        origin,
    )


def planned_dates(
    seed: int | tuple[int, ...], options: SimulationOptions
) -> list[tuple[datetime.date, float]]:
    """Return the dates of the season of a seed, and the share of sky under cloud on each.

    The season itself is not simulated.
    """
    _, time_rng, _, sky_rng, _ = np.random.default_rng(seed).spawn(5)
    days_T = _days(options, time_rng)
    start, _ = season_span(options.harvest_year)
    skies = draw_skies(days_T, options, sky_rng)
    return [
        (start + datetime.timedelta(days=int(day)), sky.cover)
        for day, sky in zip(days_T, skies, strict=True)
    ]


def _days(options: SimulationOptions, rng: np.random.Generator) -> np.ndarray:
    """Draw the days of acquisitions; they come first from the generator of time."""
    first, last = season_span(options.harvest_year)
    count = int(rng.integers(options.dates[0], options.dates[1] + 1))
    return acquisition_days(rng, count, (last - first).days + 1)


def check_size(size: tuple[int, int]) -> None:
    """Raise ``ConfigError`` for a size (height, width in pixels) too small to simulate."""
    if min(size) < 8:
        raise ConfigError(
            f"The size {size[0]} x {size[1]} is too small; simulate at least 8 x 8 pixels."
        )


def _origin(region: Region, rng: np.random.Generator) -> tuple[float, float]:
    """Draw easting and northing in UTM zone 31 north, on Sentinel-2's grid (multiples of 20 m).

    Regions with later seasons lie further north.
    """
    easting = rng.uniform(420_000, 580_000)
    northing = rng.uniform(5_150_000, 5_350_000) + 15_000 * region.delay
    return float(easting // 20 * 20), float(northing // 20 * 20)


def _landscape(
    size: tuple[int, int],
    region: Region,
    options: SimulationOptions,
    layout: Layout | np.ndarray | None,
    rng: np.random.Generator,
) -> Landscape:
    if layout is None:
        return make_landscape(size, region, options, rng)
    if not isinstance(layout, Layout):
        layout = Layout(layout)
    check_layout(layout.parcels_HW, layout.classes_HW, size)
    return landscape_of_parcels(layout.parcels_HW, layout.classes_HW, region, options, rng)


class _Instrument:
    """The satellite: what it delivers of a scene under weather, shifts, drift and noise."""

    def __init__(
        self,
        options: SimulationOptions,
        sky_rng: np.random.Generator,
        sensor_rng: np.random.Generator,
    ) -> None:
        self.options, self.sky_rng, self.sensor_rng = options, sky_rng, sensor_rng
        self.resampling = options.resampling or str(sensor_rng.choice(list(RESAMPLINGS)))
        # Shift of the whole season, pixels down and right.
        self.offset = sensor_rng.normal(0, 1.5 * options.registration, 2)

    def observe(self, scene: Scene, index: int, sky: Sky) -> tuple[np.ndarray, np.ndarray]:
        """Return one date as delivered, float32 C x H x W, and the truth of the sky, uint8."""
        rng, noise, registration = self.sensor_rng, self.options.noise, self.options.registration
        day = float(scene.days_T[index])
        image_CHW = scene.image(index)
        drift_C = 1 + noise * (rng.normal(0, 0.03) + rng.normal(0, 0.012, len(PASTIS_BANDS)))
        low_sun = 1 - 0.005 * max(0.0, 42 - sun_elevation(day))
        image_CHW *= (drift_C * low_sun).astype(np.float32)[:, None, None]
        if registration:
            down, right = (self.offset + rng.normal(0, registration, 2)).clip(-0.9, 0.9)
            image_CHW = shift(image_CHW, float(down), float(right))
        truth_HW = apply_sky(image_CHW, sky, day, scene.snowless_HW, self.sky_rng)
        deliver(image_CHW, self.resampling, noise, rng)
        return image_CHW, truth_HW
