"""When the satellite passes: an irregular acquisition calendar.

Days are counted from 1 September of the year before the harvest, so that a day means the same in
every year.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np

from panoseg.errors import ConfigError
from panoseg.imagery.bands import PASTIS_BANDS
from panoseg.imagery.calendar import season_span
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
_WINTER = (75, 190)


def acquisition_days(rng: np.random.Generator, count: int, season_days: int) -> np.ndarray:
    """Days of ``count`` acquisitions, int64, ascending, without repeats, below ``season_days``.

    Passes come every five days; where more are asked for than one orbit gives, a second orbit
    overlaps. Passes are lost at random, in runs, and more often in winter, because products that
    are wholly clouded are not kept.
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
    """One simulated season of a piece of land.

    images_TCHW: int16, reflectance x 10 000, bands ``PASTIS_BANDS``. dates: ascending. classes_HW:
    uint8, PASTIS ids 0..19.
    parcels_HW: int32, 0 outside parcels. cloud_THW: uint8, ``atmosphere.CLEAR`` (0) and what hides
    or changes the land.
    region: the kind of countryside. origin: easting and northing of the upper left corner in EPSG
    ``epsg``, metres.
    """

    images_TCHW: np.ndarray
    dates: tuple[datetime.date, ...]
    classes_HW: np.ndarray
    parcels_HW: np.ndarray
    cloud_THW: np.ndarray
    region: str
    origin: tuple[float, float]
    epsg: int = 32631

    def outline(self) -> list[tuple[float, float]]:
        """The corners in ``epsg``, clockwise from the upper left and back to it."""
        (left, top), (height, width) = self.origin, self.parcels_HW.shape
        right, bottom = left + width * PIXEL_M, top - height * PIXEL_M
        return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


@dataclass(frozen=True)
class Layout:
    """A given map of parcels. parcels_HW: integers, 0 outside parcels. classes_HW: PASTIS ids, or
    None to draw crops.
    """

    parcels_HW: np.ndarray
    classes_HW: np.ndarray | None = None


def simulate_season(
    size: tuple[int, int],
    seed: int | tuple[int, ...],
    options: SimulationOptions | None = None,
    layout: Layout | np.ndarray | None = None,
) -> Season:
    """Simulate a season over ``size`` (height, width) pixels of 10 m; the same seed gives the same
    season.

    layout: parcels that are kept exactly, with or without their classes. Raises ``ConfigError`` for
    an impossible size or option, ``DatasetError`` for a layout that does not fit.
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
    """The dates of the season that this seed gives, and the share of sky under cloud on each,
    without simulating it.
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
    """The days of the season on which the satellite passes; the first that is drawn from this
    generator.
    """
    first, last = season_span(options.harvest_year)
    count = int(rng.integers(options.dates[0], options.dates[1] + 1))
    return acquisition_days(rng, count, (last - first).days + 1)


def check_size(size: tuple[int, int]) -> None:
    """Refuse an area (height, width in pixels) that is too small to simulate. Raises
    ``ConfigError``.
    """
    if min(size) < 8:
        raise ConfigError(
            f"size {size[0]} x {size[1]}", "at least 8 x 8 pixels", "simulate a larger area"
        )


def _origin(region: Region, rng: np.random.Generator) -> tuple[float, float]:
    """A place for the land in UTM zone 31 north, later seasons further north; on the grid of
    Sentinel-2 (multiples of 20 m).
    """
    easting, northing = (
        rng.uniform(420_000, 580_000),
        rng.uniform(5_150_000, 5_350_000) + 15_000 * region.delay,
    )
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
    """What observes a scene: its weather, its pointing, its drift. ``offset``: the season's shift,
    pixels, down and right.
    """

    def __init__(
        self,
        options: SimulationOptions,
        sky_rng: np.random.Generator,
        sensor_rng: np.random.Generator,
    ) -> None:
        self.options, self.sky_rng, self.sensor_rng = options, sky_rng, sensor_rng
        self.resampling = options.resampling or str(sensor_rng.choice(list(RESAMPLINGS)))
        self.offset = sensor_rng.normal(0, 1.5 * options.registration, 2)

    def observe(self, scene: Scene, index: int, sky: Sky) -> tuple[np.ndarray, np.ndarray]:
        """One date as it is delivered, float32 [C, H, W], and what the sky did, uint8 [H, W]."""
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
