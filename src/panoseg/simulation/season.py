"""Simulate one season: land, crops, an irregular calendar of acquisitions, weather, instrument.

Days are counted from 1 September of the year before the harvest, so that a day means the same in
every year. Shape suffixes: T dates, C bands in the order of ``PASTIS_BANDS``, H W pixels.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

import numpy as np

from panoseg.errors import ConfigError
from panoseg.imagery.sentinel2 import PASTIS_BANDS, season_span
from panoseg.simulation.acquisition import (
    COARSE_BANDS,
    FINE_BANDS,
    MISSING,
    RESAMPLINGS,
    Sky,
    apply_sky,
    apply_steps,
    composite,
    deliver,
    draw_skies,
    shift,
    slide,
    sun_elevation,
)
from panoseg.simulation.countryside import make_countryside
from panoseg.simulation.draws import Style, draw_style
from panoseg.simulation.growth import Climate
from panoseg.simulation.landscape import (
    PIXEL_M,
    Landscape,
    make_landscape,
    region_of,
)
from panoseg.simulation.layout import Layout, check_layout, landscape_of_parcels
from panoseg.simulation.options import FAR_REGIONS, VOID, Region, SimulationOptions
from panoseg.simulation.scene import Scene

_REVISIT_DAYS = 5
_WINTER = (75, 190)  # days
_FAR = 0.12
"""Share of the seasons in the style real that are beyond Europe."""


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
    """int16, reflectance x 10 000, 1..20 000; 0 where a swath ends."""
    dates: tuple[datetime.date, ...]
    """Date of each image, ascending."""
    classes_HW: np.ndarray
    """uint8, PASTIS class ids 0..19."""
    parcels_HW: np.ndarray
    """int32, number of the parcel at each pixel, 0 for none."""
    cloud_THW: np.ndarray
    """uint8, ``CLEAR``, ``CLOUD``, ``SHADOW``, ``CIRRUS``, ``SNOW`` or ``MISSING`` of
    ``atmosphere``.
    """
    cover_HW: np.ndarray | None
    """uint8, ``LandCover`` of most of each pixel; None where the options do not ask for it."""
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
    rngs = np.random.default_rng(seed).spawn(6)
    land_rng, time_rng, cover_rng, sky_rng, sensor_rng, style_rng = rngs
    region_name, region = region_of(options, land_rng)
    if options.style == "real" and options.region is None and style_rng.random() < _FAR:
        region_name = str(style_rng.choice(list(FAR_REGIONS)))
        region = FAR_REGIONS[region_name]
    style = draw_style(options, region, style_rng)
    landscape = _landscape(size, region, style, options, layout, land_rng)
    if style.mislabelled or style.unlabelled:
        landscape = _declared(landscape, style, style_rng)
    days_T = _days(options, time_rng)
    delay = np.clip(region.delay + time_rng.normal(0, 7), -options.shift_days, options.shift_days)
    climate = Climate(float(delay), float(time_rng.beta(1.2, 1.8)))
    scene = Scene(landscape, region, climate, days_T, options, cover_rng, style)
    instrument = _Instrument(options, style, sky_rng, sensor_rng)
    images_TCHW = np.empty((days_T.size, len(PASTIS_BANDS), *size), np.int16)
    cloud_THW = np.empty((days_T.size, *size), np.uint8)
    for index, sky in enumerate(draw_skies(days_T, options, sky_rng)):
        image_CHW, cloud_THW[index] = instrument.observe(scene, index, sky)
        images_TCHW[index] = np.clip(image_CHW, 1, 20_000)
        if "swath-edges" in style.weather:
            images_TCHW[index][:, cloud_THW[index] == MISSING] = 0
    if style.composites != "none":
        images_TCHW, cloud_THW, days_T = composite(
            images_TCHW, cloud_THW, days_T, best=style.composites == "best"
        )
    start, _ = season_span(options.harvest_year)
    dates = tuple(start + datetime.timedelta(days=int(day)) for day in days_T)
    origin = _origin(region, land_rng)
    return Season(
        images_TCHW,
        dates,
        landscape.classes_HW,
        landscape.parcels_HW,
        cloud_THW,
        landscape.cover_HW if style.land_cover else None,
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
    style: Style,
    options: SimulationOptions,
    layout: Layout | np.ndarray | None,
    rng: np.random.Generator,
) -> Landscape:
    if layout is None and style.real:
        return make_countryside(size, region, style, options, rng)
    if layout is None:
        return make_landscape(size, region, options, rng)
    if not isinstance(layout, Layout):
        layout = Layout(layout)
    check_layout(layout.parcels_HW, layout.classes_HW, size)
    return landscape_of_parcels(layout, region, style, options, rng)


def _declared(landscape: Landscape, style: Style, rng: np.random.Generator) -> Landscape:
    """Give some fields the class of another, and leave some out, as registers do."""
    numbers, first = np.unique(landscape.parcels_HW, return_index=True)
    classes = landscape.classes_HW.ravel()[first]
    crops = (numbers > 0) & (classes > 0) & (classes != VOID)
    wrong = crops & (rng.random(numbers.size) < style.mislabelled)
    if crops.any():
        classes[wrong] = rng.choice(classes[crops], int(wrong.sum()))
    left_out = rng.random(numbers.size) < style.unlabelled
    at_HW = np.searchsorted(numbers, landscape.parcels_HW)
    return replace(
        landscape,
        classes_HW=np.where(left_out, 0, classes).astype(np.uint8)[at_HW],
        parcels_HW=np.where(left_out, 0, numbers).astype(np.int32)[at_HW],
    )


_WOBBLE = 0.4
"""Share of the shift between bands that differs from date to date."""


class _Instrument:
    """The satellite: what it delivers of a scene under weather, shifts, drift and noise."""

    def __init__(
        self,
        options: SimulationOptions,
        style: Style,
        sky_rng: np.random.Generator,
        sensor_rng: np.random.Generator,
    ) -> None:
        self.style, self.noise = style, options.noise
        self.sky_rng, self.sensor_rng = sky_rng, sensor_rng
        self.resampling = options.resampling or str(sensor_rng.choice(list(RESAMPLINGS)))
        # Shift of the whole season, pixels down and right.
        self.offset = sensor_rng.normal(0, 1.5 * style.registration, 2)
        self.gain_C = np.ones(len(PASTIS_BANDS))
        if style.gain:
            self.gain_C += sensor_rng.normal(0, style.gain, self.gain_C.size).clip(-0.5, 0.5)
        self.view = sensor_rng.uniform(0.02, 0.08) if "view-angle" in style.weather else 0.0
        # Detectors of 20 m bands lie elsewhere in the focal plane, so most of their shift stays.
        self.apart = np.zeros(2)
        if style.band_shift:
            self.apart = sensor_rng.normal(0, style.band_shift, 2)
        # Which rows and columns of 10 m begin a pixel of 20 m.
        self.phase = (0, 0)
        if style.real:
            self.phase = (int(sensor_rng.integers(2)), int(sensor_rng.integers(2)))

    def observe(self, scene: Scene, index: int, sky: Sky) -> tuple[np.ndarray, np.ndarray]:
        """Return one date as delivered, float32 C x H x W, and the truth of the sky, uint8."""
        rng, noise, weather = self.sensor_rng, self.noise, self.style.weather
        day = float(scene.days_T[index])
        image_CHW = scene.image(index)
        drift_C = 1 + noise * (rng.normal(0, 0.03) + rng.normal(0, 0.012, len(PASTIS_BANDS)))
        low_sun = 1 - 0.005 * max(0.0, 42 - sun_elevation(day))
        if self.view:  # two orbits look from two sides
            drift_C = drift_C * (1 + self.view * (-1) ** (int(day) // 5) * rng.uniform(0.5, 1))
        image_CHW *= (self.gain_C * drift_C * low_sun).astype(np.float32)[:, None, None]
        image_CHW = self._shifted(image_CHW)
        truth_HW = apply_sky(image_CHW, sky, day, scene.snowless_HW, self.sky_rng)
        if weather:
            apply_steps(image_CHW, truth_HW, weather, self.sky_rng)
        deliver(image_CHW, self.resampling, noise, rng, self.phase)
        return image_CHW, truth_HW

    def _shifted(self, image_CHW: np.ndarray) -> np.ndarray:
        """Shift a date as a whole, and its 20 m bands against its 10 m bands."""
        rng, style = self.sensor_rng, self.style
        if style.registration:
            by = self.offset + rng.normal(0, style.registration, 2)
            if not style.real:
                down, right = by.clip(-0.9, 0.9)
                image_CHW = shift(image_CHW, float(down), float(right))
        else:
            by = np.zeros(2)
        if style.far_shifts and rng.random() < style.far_shifts:
            turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(1, 1.5)
            more = far * np.array([np.sin(turn), np.cos(turn)])
            by = by + more if style.real else more
        elif not style.real:
            by = np.zeros(2)
        if style.band_shift:
            coarse, fine = list(COARSE_BANDS), list(FINE_BANDS)
            wobble = rng.normal(0, _WOBBLE * style.band_shift, 2)
            apart = (by + (self.apart + wobble).clip(-1, 1)).clip(-2, 2)
            image_CHW[coarse] = slide(image_CHW[coarse], *apart.tolist())
            if by.any():
                image_CHW[fine] = slide(image_CHW[fine], *by.clip(-2, 2).tolist())
        elif by.any():
            image_CHW = slide(image_CHW, *by.clip(-2, 2).tolist())
        return image_CHW
