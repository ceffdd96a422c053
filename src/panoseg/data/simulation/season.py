"""A simulated season: everything put together, date by date.

The image of a date is linear in what the units reflect. Inside a parcel, vigour, soil and growth stage vary from pixel to
pixel; what each adds to a unit is multiplied by a field over pixels. So a date costs two small sparse products.

Shape suffixes: T dates, U units, C bands in the order of ``PASTIS_BANDS``, H W pixels, P = H x W, K effects, L lengths of
shadows.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from panoseg.data.bands import PASTIS_BANDS
from panoseg.data.simulation.atmosphere import Sky, apply_sky, draw_skies, sun_elevation
from panoseg.data.simulation.calendar import acquisition_days, season_start
from panoseg.data.simulation.landscape import CELLS, Landscape, make_landscape, region_of
from panoseg.data.simulation.layout import check_layout, landscape_of_parcels
from panoseg.data.simulation.materials import GRAPEVINE, ORCHARD, Material
from panoseg.data.simulation.noise import smooth_noise
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.phenology import Climate, Phenology
from panoseg.data.simulation.regions import Region
from panoseg.data.simulation.sensor import COARSE_BANDS, FINE_BANDS, RESAMPLINGS, deliver, footprints, pool, repeat, shift
from panoseg.data.simulation.spectra import Surfaces, make_surfaces
from panoseg.errors import ConfigError

PIXEL_M = 10.0
_VIGOUR = 2.2
"""Factor on leaf area between the mean of a parcel and its best or worst pixel."""
_STAGE_DAYS = 5.0
_TALL = (Material.BROADLEAF, Material.CONIFER, Material.HEDGE, Material.ROOF_RED, Material.ROOF_GREY)
_TALL_M = 11.0
_LONGEST_SHADE = 4
"""Pixels."""
_SHADE_DEPTH = 0.5
_ROUGHNESS = {
    Material.BROADLEAF: 0.13,
    Material.CONIFER: 0.14,
    Material.HEDGE: 0.12,
    Material.SCRUB: 0.1,
    ORCHARD: 0.05,
    GRAPEVINE: 0.04,
}


@dataclass(frozen=True)
class Season:
    """One simulated season of a piece of land.

    images_TCHW: int16, reflectance x 10 000, bands ``PASTIS_BANDS``. dates: ascending. classes_HW: uint8, PASTIS ids 0..19.
    parcels_HW: int32, 0 outside parcels. cloud_THW: uint8, ``atmosphere.CLEAR`` (0) and what hides or changes the land.
    region: the kind of countryside. origin: easting and northing of the upper left corner in EPSG ``epsg``, metres.
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
    """A given map of parcels. parcels_HW: integers, 0 outside parcels. classes_HW: PASTIS ids, or None to draw crops."""

    parcels_HW: np.ndarray
    classes_HW: np.ndarray | None = None


def simulate_season(
    size: tuple[int, int],
    seed: int | tuple[int, ...],
    options: SimulationOptions | None = None,
    layout: Layout | np.ndarray | None = None,
) -> Season:
    """Simulate a season over ``size`` (height, width) pixels of 10 m; the same seed gives the same season.

    layout: parcels that are kept exactly, with or without their classes. Raises ``ConfigError`` for an impossible size or
    option, ``DatasetError`` for a layout that does not fit.
    """
    options = options or SimulationOptions()
    if min(size) < 8:
        raise ConfigError(f"size {size[0]} x {size[1]}", "at least 8 x 8 pixels", "simulate a larger area")
    land_rng, time_rng, cover_rng, sky_rng, sensor_rng = np.random.default_rng(seed).spawn(5)
    region_name, region = region_of(options, land_rng)
    landscape = _landscape(size, region, options, layout, land_rng)
    days_T = acquisition_days(time_rng, int(time_rng.integers(options.dates[0], options.dates[1] + 1)))
    delay = np.clip(region.delay + time_rng.normal(0, 7), -options.shift_days, options.shift_days)
    climate = Climate(float(delay), float(time_rng.beta(1.2, 1.8)))
    scene = _Scene(landscape, region, climate, days_T, options, cover_rng)
    offset = sensor_rng.normal(0, 1.5 * options.registration, 2)
    images_TCHW = np.empty((days_T.size, len(PASTIS_BANDS), *size), np.int16)
    cloud_THW = np.empty((days_T.size, *size), np.uint8)
    for index, sky in enumerate(draw_skies(days_T, options, sky_rng)):
        image_CHW = _observe(scene, index, sky, options, offset, sky_rng, sensor_rng, cloud_THW[index])
        images_TCHW[index] = np.clip(image_CHW, 1, 20_000)
    start = season_start(options.harvest_year)
    dates = tuple(start + datetime.timedelta(days=int(day)) for day in days_T)
    origin = _origin(region, land_rng)
    return Season(images_TCHW, dates, landscape.classes_HW, landscape.parcels_HW, cloud_THW, region_name, origin)


def _origin(region: Region, rng: np.random.Generator) -> tuple[float, float]:
    """A place for the land in UTM zone 31 north, later seasons further north; on the grid of Sentinel-2 (multiples of 20 m)."""
    easting, northing = rng.uniform(420_000, 580_000), rng.uniform(5_150_000, 5_350_000) + 15_000 * region.delay
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


class _Scene:
    """The land through the season, seen from above a clear sky."""

    def __init__(
        self,
        landscape: Landscape,
        region: Region,
        climate: Climate,
        days_T: np.ndarray,
        options: SimulationOptions,
        rng: np.random.Generator,
    ) -> None:
        self.size, self.days_T = landscape.parcels_HW.shape, days_T
        material_U = landscape.material_U
        self.resampling = options.resampling or str(rng.choice(list(RESAMPLINGS)))
        self.footprints = footprints(landscape.units_YX, material_U.size)
        phenology = Phenology(material_U, landscape.parcel_U, climate, rng)
        surfaces = make_surfaces(material_U, landscape.parcel_U, region.soil, rng)
        self.effects_TUKC = _effects(phenology, surfaces, days_T, _wetness(days_T, climate, rng))
        self.fields_KHW = _fields(landscape, options.heterogeneity, rng)
        self.coarse_fields_KHW = pool(self.fields_KHW)
        self.relief_HW = _relief(landscape, options.heterogeneity, rng)
        self.shades_LHW = _shades(landscape)
        snowless_U = np.isin(material_U, [*_TALL, Material.WATER]).astype(np.float32)
        self.snowless_HW = (self.footprints.fine_PU @ snowless_U).reshape(self.size)

    def image(self, index: int) -> np.ndarray:
        """The clear image of a date, float32 [C, H, W]."""
        effects_UKC = self.effects_TUKC[index]
        image_CHW = np.empty((len(PASTIS_BANDS), *self.size), np.float32)
        image_CHW[list(FINE_BANDS)] = _mixed(self.footprints.fine_PU, effects_UKC[:, :, FINE_BANDS], self.fields_KHW)
        coarse_CHW = _mixed(self.footprints.coarse_QU, effects_UKC[:, :, COARSE_BANDS], self.coarse_fields_KHW)
        image_CHW[list(COARSE_BANDS)] = repeat(coarse_CHW, self.size)
        return image_CHW * (self.relief_HW * self._light(index))

    def _light(self, index: int) -> np.ndarray:
        """Share of the light that reaches each pixel past trees and houses; float32 [H, W]."""
        pixels = _TALL_M / np.tan(np.radians(sun_elevation(float(self.days_T[index])))) / PIXEL_M
        whole = min(int(pixels), _LONGEST_SHADE - 1)
        part = min(pixels - whole, 1.0)
        shade_HW = (1 - part) * self.shades_LHW[whole] + part * self.shades_LHW[whole + 1]
        return 1 - np.float32(_SHADE_DEPTH) * shade_HW.astype(np.float32)


def _mixed(seen: sparse.csr_matrix, effects_UKC: np.ndarray, fields_KHW: np.ndarray) -> np.ndarray:
    """What pixels see of the units, varied by the fields; float32 [C, H, W]."""
    mixed = seen @ effects_UKC.reshape(effects_UKC.shape[0], -1)
    mixed_KCHW = np.ascontiguousarray(mixed.T).reshape(*effects_UKC.shape[1:], *fields_KHW.shape[1:])
    image_CHW = mixed_KCHW[0]
    for field_HW, effect_CHW in zip(fields_KHW, mixed_KCHW[1:], strict=True):
        effect_CHW *= field_HW
        image_CHW += effect_CHW
    return image_CHW


def _effects(phenology: Phenology, surfaces: Surfaces, days_T: np.ndarray, wet_T: np.ndarray) -> np.ndarray:
    """Reflectance of the units, and what full variation adds to it: brighter soil, more and less vigour, a later and an earlier
    stage; float32 [T, U, 6, C].

    More and less have an effect each, between two states that occur: one derivative for both would overshoot at a harvest.
    """
    cover = phenology.cover(days_T)
    plain = surfaces.reflectance(cover, wet_T)
    states = [plain, surfaces.reflectance(cover, wet_T, brightness=2.0)]
    for vigour in (_VIGOUR, 1 / _VIGOUR):
        states.append(surfaces.reflectance(replace(cover, leaf=cover.leaf * np.float32(vigour)), wet_T))
    for days in (_STAGE_DAYS, -_STAGE_DAYS):
        states.append(surfaces.reflectance(phenology.cover(days_T + days), wet_T))
    effects = np.stack(states, axis=2)
    effects[:, :, 1:] -= plain[:, :, None]
    return effects


def _wetness(days_T: np.ndarray, climate: Climate, rng: np.random.Generator) -> np.ndarray:
    """Wetness of the ground on each date: rain at random, drying over days, slower in winter."""
    every = 4 + 9 * climate.drought
    rain = np.cumsum(rng.exponential(every, size=int(500 / every) + 20)) - 20
    since_T = days_T - rain[np.searchsorted(rain, days_T, side="right") - 1]
    winter_T = np.exp(-0.5 * ((days_T - 130) / 60.0) ** 2)
    return np.clip(np.exp(-since_T / (2.5 + 6 * winter_T)) * 0.8 + 0.3 * winter_T, 0, 1).astype(np.float32)


def _fields(landscape: Landscape, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Variation over pixels, in the order of ``_effects``: soil, more and less vigour, later and earlier; float32 [5, H, W].

    Soil is relative, -0.5 to 0.5; the others go from 0 to 1, which is ``_VIGOUR`` and ``_STAGE_DAYS``.
    """
    size = landscape.parcels_HW.shape
    unit_HW = landscape.units_YX[1::CELLS, 1::CELLS]
    units, material_U = landscape.material_U.size, landscape.material_U
    strength = strength * rng.lognormal(0.25, 0.4)
    crop_U, sealed_U = material_U < 100, material_U >= Material.ROOF_RED
    patchy_U = np.where(crop_U, rng.gamma(2.5, 0.11, units), 0.2)
    grain_U = np.where(crop_U, rng.gamma(2, 0.03, units), np.where(sealed_U, 0.05, 0.2))
    grain_HW = smooth_noise(rng, size, 1.2)
    striped_U = np.where(crop_U & (rng.random(units) < 0.6), rng.gamma(2, 0.045, units), 0.0)
    stripes_HW = striped_U[unit_HW] * _stripes(landscape.angle_U[unit_HW], unit_HW, rng)
    vigour_HW = patchy_U[unit_HW] * smooth_noise(rng, size, rng.uniform(4, 14)) + grain_U[unit_HW] * grain_HW
    vigour_HW += stripes_HW - rng.uniform(0, 0.3, units)[unit_HW] * _headland(landscape.parcels_HW)
    soil_HW = rng.uniform(0.07, 0.2) * smooth_noise(rng, size, rng.uniform(6, 25)) + 0.04 * smooth_noise(rng, size, 3.0)
    soil_HW += 0.5 * stripes_HW + np.where(sealed_U, 0.12, 0.015)[unit_HW] * grain_HW
    stage_HW = rng.gamma(2, 1.1, units)[unit_HW] * smooth_noise(rng, size, rng.uniform(4, 12))
    vigour_HW, stage_HW = strength * vigour_HW / np.log(_VIGOUR), strength * stage_HW / _STAGE_DAYS
    ways = [part_HW.clip(0, 1) for part_HW in (vigour_HW, -vigour_HW, stage_HW, -stage_HW)]
    return np.stack([(strength * soil_HW).clip(-0.5, 0.5), *ways]).astype(np.float32)


def _relief(landscape: Landscape, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness of each pixel that lasts all season: crowns, roofs, row directions, slopes; float32 [H, W], about 1."""
    unit_HW = landscape.units_YX[1::CELLS, 1::CELLS]
    rough_U = np.full(landscape.material_U.size, 0.01)
    for material, roughness in _ROUGHNESS.items():
        rough_U[landscape.material_U == material] = roughness
    size = unit_HW.shape
    relief_HW = rough_U[unit_HW] * smooth_noise(rng, size, 1.2) + 0.02 * smooth_noise(rng, size, rng.uniform(5, 40))
    return (1 + strength * relief_HW.clip(-0.4, 0.4)).astype(np.float32)


def _shades(landscape: Landscape) -> np.ndarray:
    """Share of each pixel that tall things shade where their shadow is 0, 1, .. pixels long; float32 [lengths, H, W]."""
    tall_YX = np.isin(landscape.material_U, _TALL)[landscape.units_YX]
    height, width = landscape.parcels_HW.shape
    shaded_YX, shades = tall_YX.copy(), []
    for step in range(_LONGEST_SHADE * CELLS + 1):
        up, left = round(0.9 * step), round(0.43 * step)
        shaded_YX[: tall_YX.shape[0] - up, : tall_YX.shape[1] - left] |= tall_YX[up:, left:]
        if step % CELLS == 0:
            share_HW = (shaded_YX & ~tall_YX).reshape(height, CELLS, width, CELLS).mean((1, 3), dtype=np.float32)
            shades.append(share_HW)
    return np.stack(shades)


def _stripes(angle_HW: np.ndarray, unit_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random stripes along the rows of each unit, a pixel or a few wide."""
    y_HW, x_HW = np.indices(angle_HW.shape)
    across_HW = y_HW * np.cos(angle_HW) - x_HW * np.sin(angle_HW) + 37.0 * unit_HW
    profile = np.convolve(rng.standard_normal(4099), [0.25, 0.5, 0.25], mode="same") * 1.6
    return profile[np.round(across_HW * 1.5).astype(np.int64) % profile.size]


def _headland(parcels_HW: np.ndarray) -> np.ndarray:
    """1 in pixels that touch another parcel or open land, 0 inside."""
    edge_HW = np.zeros(parcels_HW.shape, bool)
    down, right = parcels_HW[1:] != parcels_HW[:-1], parcels_HW[:, 1:] != parcels_HW[:, :-1]
    edge_HW[1:] |= down
    edge_HW[:-1] |= down
    edge_HW[:, 1:] |= right
    edge_HW[:, :-1] |= right
    return edge_HW & (parcels_HW > 0)


def _observe(
    scene: _Scene,
    index: int,
    sky: Sky,
    options: SimulationOptions,
    offset: np.ndarray,
    sky_rng: np.random.Generator,
    sensor_rng: np.random.Generator,
    truth_HW: np.ndarray,
) -> np.ndarray:
    """One date as it is delivered, shifted by the season's ``offset`` (pixels) and its own; fills ``truth_HW`` with what
    the sky did."""
    day = float(scene.days_T[index])
    image_CHW = scene.image(index)
    drift_C = 1 + options.noise * (sensor_rng.normal(0, 0.03) + sensor_rng.normal(0, 0.012, len(PASTIS_BANDS)))
    low_sun = 1 - 0.005 * max(0.0, 42 - sun_elevation(day))
    image_CHW *= (drift_C * low_sun).astype(np.float32)[:, None, None]
    if options.registration:
        image_CHW = shift(image_CHW, *(offset + sensor_rng.normal(0, options.registration, 2)).clip(-0.9, 0.9))
    truth_HW[:] = apply_sky(image_CHW, sky, day, scene.snowless_HW, sky_rng)
    deliver(image_CHW, scene.resampling, options.noise, sensor_rng)
    return image_CHW
