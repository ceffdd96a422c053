"""Compute clear images: from the cover of units to reflectance of pixels in ten bands.

A canopy of leaf area L shows its deep-canopy reflectance and lets the ground through as exp(-k L),
a two-layer form of Beer's law with one k a band, small in the near infrared where leaves scatter.
Spectra are reflectance x 10 000, round figures from general knowledge of field spectroscopy.

Inside a unit soil, vigour and stage vary from pixel to pixel; crowns, roofs, rows and shadows add
brightness that lasts all season. Shape suffixes: T days, U units, C bands in the order of
``PASTIS_BANDS``, H W pixels, Y X cells, K effects of variation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation.acquisition import (
    COARSE_BANDS,
    FINE_BANDS,
    footprints,
    pool,
    repeat,
    sun_elevation,
)
from panoseg.simulation.draws import Style, smooth_noise
from panoseg.simulation.growth import Climate, Cover, Farming
from panoseg.simulation.landscape import CELLS, PIXEL_M, Landscape
from panoseg.simulation.options import (
    BEET,
    CORN,
    DURUM,
    FODDER,
    GRAPEVINE,
    HORTICULTURE,
    MEADOW,
    MIXED_CEREAL,
    ORCHARD,
    POTATOES,
    RAPESEED,
    SORGHUM,
    SOYBEANS,
    SPRING_BARLEY,
    SUNFLOWER,
    TRITICALE,
    WHEAT,
    WINTER_BARLEY,
    Material,
    Region,
    SimulationOptions,
)
from panoseg.simulation.phenology import Phenology, first_of_parcel
from panoseg.simulation.variation import (
    STAGE_DAYS,
    VIGOUR,
    emphasis,
    real_variation,
    variation_fields,
)


def _spectrum(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


#                       B02   B03   B04   B05   B06   B07   B08   B8A   B11   B12
_SOIL = _spectrum(800, 1150, 1560, 1820, 2000, 2180, 2380, 2570, 3600, 3050)
_REDNESS = _spectrum(-0.30, -0.14, 0.10, 0.12, 0.10, 0.08, 0.06, 0.05, 0.02, -0.02)
_WETTING = _spectrum(0.36, 0.40, 0.44, 0.46, 0.47, 0.47, 0.47, 0.47, 0.54, 0.62)
_STRAW = _spectrum(800, 1260, 1800, 2150, 2500, 2780, 3020, 3220, 3800, 2750)
_BARK = _spectrum(330, 470, 580, 800, 1050, 1200, 1330, 1450, 1750, 1150)
_LEAF = _spectrum(230, 500, 250, 980, 3350, 4450, 4750, 4900, 1720, 760)
_YELLOW = _spectrum(420, 1500, 1450, 2100, 3500, 4200, 4450, 4600, 2150, 1050)
_WHITE = _spectrum(1500, 1900, 1700, 2300, 3600, 4200, 4400, 4500, 2100, 1000)
_DEPTH = _spectrum(0.95, 0.85, 1.0, 0.75, 0.55, 0.5, 0.5, 0.48, 0.75, 0.9)

_CANOPY: dict[int, tuple[float, float, float, float]] = {
    MEADOW: (1.25, 0.98, 1.05, 0.78),
    WHEAT: (0.82, 1.05, 0.9, 1.25),
    WINTER_BARLEY: (1.0, 1.04, 1.0, 1.05),
    TRITICALE: (0.95, 0.98, 0.93, 1.05),
    DURUM: (1.0, 0.96, 0.98, 1.05),
    MIXED_CEREAL: (1.05, 0.97, 1.0, 1.0),
    RAPESEED: (1.05, 1.08, 0.95, 1.0),
    SPRING_BARLEY: (1.15, 1.05, 1.05, 1.0),
    CORN: (1.0, 0.94, 1.0, 1.05),
    SUNFLOWER: (1.2, 1.02, 1.08, 1.0),
    BEET: (1.2, 1.18, 0.9, 1.1),
    POTATOES: (1.05, 1.1, 0.9, 1.1),
    SOYBEANS: (1.2, 1.26, 1.1, 1.0),
    SORGHUM: (1.2, 0.88, 1.12, 0.9),
    FODDER: (1.05, 1.12, 1.0, 1.0),
    HORTICULTURE: (1.2, 1.05, 1.05, 1.0),
    GRAPEVINE: (1.1, 0.85, 1.0, 1.0),
    ORCHARD: (0.95, 0.9, 0.95, 0.95),
    Material.GRASS: (1.3, 0.94, 1.08, 0.8),
    Material.TRACK: (1.3, 0.85, 1.1, 0.8),
    Material.YARD: (1.3, 0.85, 1.1, 0.8),
    Material.GRAVEL: (1.3, 0.85, 1.1, 0.8),
    Material.GLASS: (1.1, 0.9, 1.0, 1.0),
    Material.LAWN: (1.2, 0.98, 1.0, 0.9),
    Material.GARDEN: (1.0, 0.85, 0.95, 0.9),
    Material.FALLOW: (1.35, 0.9, 1.12, 0.75),
    Material.SCRUB: (1.1, 0.8, 1.0, 0.85),
    Material.BROADLEAF: (0.8, 0.82, 0.85, 0.95),
    Material.HEDGE: (0.85, 0.82, 0.9, 0.95),
    Material.CONIFER: (0.6, 0.5, 0.5, 0.8),
}
"""Deep canopy of each cover, as factors on ``_LEAF``: green and red edge, near infrared, short-wave
infrared; and chlorophyll.
"""

_SEALED: dict[int, np.ndarray] = {
    Material.WATER: _spectrum(330, 370, 260, 220, 170, 160, 140, 120, 70, 45),
    Material.ASPHALT: _spectrum(850, 960, 1060, 1120, 1190, 1250, 1310, 1360, 1600, 1480),
    Material.ROOF_RED: _spectrum(760, 960, 1500, 1680, 1800, 1900, 2000, 2080, 2350, 2100),
    Material.ROOF_GREY: _spectrum(1050, 1150, 1250, 1300, 1360, 1410, 1450, 1500, 1600, 1550),
    Material.ROOF_WHITE: _spectrum(2300, 2500, 2650, 2750, 2800, 2850, 2900, 2950, 2800, 2500),
    Material.YARD: _spectrum(1050, 1300, 1560, 1700, 1800, 1880, 1960, 2050, 2500, 2250),
    Material.ROOF_DARK: _spectrum(520, 560, 610, 640, 670, 700, 730, 760, 900, 880),
    Material.GRAVEL: _spectrum(1250, 1530, 1780, 1900, 1980, 2050, 2110, 2170, 2500, 2300),
    Material.PANEL: _spectrum(560, 520, 500, 520, 560, 600, 640, 680, 760, 640),
    Material.GLASS: _spectrum(1250, 1420, 1450, 1620, 2000, 2200, 2300, 2350, 1850, 1450),
}
"""Reflectance of ground that is not soil."""


@dataclass(frozen=True)
class Surfaces:
    """Spectra of each unit; float32, reflectance x 10 000."""

    ground_UC: np.ndarray
    """Dry bare ground."""
    canopy_UC: np.ndarray
    """Deep green canopy."""
    dead_UC: np.ndarray
    """Standing dead plants, or bark."""
    flower_UC: np.ndarray
    """Canopy in full flower."""
    wetting_UC: np.ndarray
    """Share of the ground's reflectance that water takes away, 0..1."""

    def reflectance(self, cover: Cover, wet_T: np.ndarray, brightness: float = 1.0) -> np.ndarray:
        """Compute the reflectance of all units.

        Args:
            cover: Cover of the units on each day.
            wet_T: Wetness of the ground, 0 dry to 1 wet.
            brightness: Factor on soil, for derivatives.

        Returns:
            float32 T x U x C, reflectance x 10 000.
        """
        tilth_TU1 = (brightness * cover.tilth)[..., None]
        ground: np.ndarray = (
            self.ground_UC * tilth_TU1 * (1 - wet_T[:, None, None] * self.wetting_UC)
        )
        ground += np.minimum(cover.litter, 0.95)[..., None] * (
            _STRAW * (1 - 0.5 * wet_T[:, None, None] * _WETTING) - ground
        )
        ground += np.minimum(cover.brown, 0.97)[..., None] * (self.dead_UC - ground)
        canopy = self.canopy_UC + np.minimum(cover.flower, 0.9)[..., None] * (
            self.flower_UC - self.canopy_UC
        )
        ground -= canopy
        ground *= np.exp(-np.maximum(cover.leaf, 0)[..., None] * _DEPTH)
        ground += canopy
        return ground


def make_surfaces(
    material_U: np.ndarray,
    parcel_U: np.ndarray,
    soil_range: tuple[float, float],
    rng: np.random.Generator,
    spread: float = 1.0,
) -> Surfaces:
    """Draw the surfaces of all units: one kind of soil, varied a little from field to field.

    Args:
        material_U: Class id of a crop or a ``Material``.
        parcel_U: Number of the parcel, 0 for none; the units of a parcel share their surface.
        soil_range: Smallest and largest brightness of soil, factors.
        rng: The generator.
        spread: Factor on the differences between canopies of one cover.
    """
    units = material_U.size
    bright = rng.uniform(*soil_range) * rng.lognormal(0, 0.1, (units, 1))
    ground_UC = (
        _SOIL * bright * (1 + (rng.normal(0, 0.5) + rng.normal(0, 0.12, (units, 1))) * _REDNESS)
    )
    wetting_UC = np.repeat(_WETTING[None], units, 0)
    canopy_UC = np.repeat(_LEAF[None], units, 0)
    dead_UC = (
        _STRAW
        * rng.normal(1, 0.1, (units, 1)).clip(0.7, 1.3)
        * (1 + rng.normal(0, 0.1, (units, 1)) * _REDNESS)
    )
    flower_UC = np.repeat(_WHITE[None], units, 0)
    for material in np.unique(material_U):
        rows = material_U == material
        count = int(rows.sum())
        if material in _SEALED:
            ground_UC[rows] = _SEALED[material] * rng.lognormal(0, 0.22 * spread, (count, 1))
            wetting_UC[rows] *= 0.35
        if material in _CANOPY:
            canopy_UC[rows] = _canopies(*_CANOPY[material], count, rng, spread)
        if material in (RAPESEED, SUNFLOWER):
            flower_UC[rows] = _YELLOW * rng.normal(1, 0.05, (count, 1))
        if material in (
            Material.BROADLEAF,
            Material.HEDGE,
            Material.SCRUB,
            Material.CONIFER,
            ORCHARD,
            GRAPEVINE,
        ):
            dead_UC[rows] = _BARK * rng.normal(1, 0.12, (count, 1)).clip(0.6, 1.4)
    _cover_with_plastic(material_U, ground_UC, rng)
    first_U = first_of_parcel(parcel_U)
    return Surfaces(
        *(
            array[first_U].astype(np.float32)
            for array in (ground_UC, canopy_UC, dead_UC, flower_UC, wetting_UC)
        )
    )


def _canopies(
    green: float,
    infrared: float,
    shortwave: float,
    chlorophyll: float,
    count: int,
    rng: np.random.Generator,
    spread: float = 1.0,
) -> np.ndarray:
    """Draw the deep canopies of ``count`` units of one cover.

    They differ in pigment, structure and water; the factors are those of ``_CANOPY``.
    """
    pigment_U = chlorophyll * rng.lognormal(0, 0.12 * spread, count)
    green_U = green * pigment_U**-0.45
    infrared_U = infrared * rng.normal(1, 0.08 * spread, count).clip(0.7, 1.3)
    shortwave_U = shortwave * rng.lognormal(0, 0.1 * spread, count)
    edge_U = infrared_U * pigment_U**-0.12
    visible = [pigment_U**-0.25, green_U, pigment_U**-0.35, green_U**0.8 * infrared_U**0.3]
    return _LEAF * np.stack([*visible, edge_U, *[infrared_U] * 3, *[shortwave_U] * 2], axis=1)


def _cover_with_plastic(
    material_U: np.ndarray, ground_UC: np.ndarray, rng: np.random.Generator
) -> None:
    """Put some vegetables under film or glass, in place."""
    rows = np.flatnonzero(material_U == HORTICULTURE)
    rows = rows[rng.random(rows.size) < 0.15]
    ground_UC[rows] += rng.uniform(0.3, 0.8, (rows.size, 1)) * (
        _SEALED[Material.ROOF_WHITE] - ground_UC[rows]
    )


TALL = (
    Material.BROADLEAF,
    Material.CONIFER,
    Material.HEDGE,
    Material.ROOF_RED,
    Material.ROOF_GREY,
    Material.ROOF_DARK,
)
"""Covers that throw shadows."""
LONGEST_SHADE = 4
"""Longest shadow in pixels."""
_TALL_M = 11.0
"""Height in metres of what throws shadows."""
_EVENT_LEAF = 1.2
"""Change of leaf area in ``STAGE_DAYS`` that is a cut or a harvest, and no growth."""
_SHADE_DEPTH = 0.5
"""Share of the light that a shadow takes away."""
_ROUGHNESS = {
    Material.BROADLEAF: 0.13,
    Material.CONIFER: 0.14,
    Material.HEDGE: 0.12,
    Material.SCRUB: 0.1,
    ORCHARD: 0.05,
    GRAPEVINE: 0.04,
}


def relief(
    landscape: Landscape, strength: float, rng: np.random.Generator, slopes: float = 0.02
) -> np.ndarray:
    """Draw a factor on brightness that lasts all season: crowns, roofs, slopes.

    Args:
        landscape: The land.
        strength: Factor on the variation.
        rng: The generator.
        slopes: Deviation of the part that slopes have.

    Returns:
        float32 H x W, 0.6..1.4 at strength 1.
    """
    unit_HW = landscape.units_YX[1::CELLS, 1::CELLS]
    rough_U = np.full(landscape.material_U.size, 0.01)
    for material, roughness in _ROUGHNESS.items():
        rough_U[landscape.material_U == material] = roughness
    size = unit_HW.shape
    relief_HW = rough_U[unit_HW] * smooth_noise(rng, size, 1.2) + slopes * smooth_noise(
        rng, size, rng.uniform(5, 40)
    )
    factor_HW: np.ndarray = (1 + strength * relief_HW.clip(-0.4, 0.4)).astype(np.float32)
    return factor_HW


def shades(landscape: Landscape) -> np.ndarray:
    """Compute the share of each pixel in shadow, for shadows of 0, 1, .. pixels.

    Returns:
        float32, ``LONGEST_SHADE`` + 1 x H x W, 0..1.
    """
    tall_YX = np.isin(landscape.material_U, TALL)[landscape.units_YX]
    height, width = landscape.parcels_HW.shape
    shaded_YX, lengths = tall_YX.copy(), []
    for step in range(LONGEST_SHADE * CELLS + 1):
        up, left = round(0.9 * step), round(0.43 * step)
        shaded_YX[: tall_YX.shape[0] - up, : tall_YX.shape[1] - left] |= tall_YX[up:, left:]
        if step % CELLS == 0:
            share_HW = (
                (shaded_YX & ~tall_YX)
                .reshape(height, CELLS, width, CELLS)
                .mean((1, 3), dtype=np.float32)
            )
            lengths.append(share_HW)
    return np.stack(lengths)


class Scene:
    """The clear images of a season.

    Attributes:
        effects_TUKC: See ``_effects``.
        snowless_HW: float32, share of each pixel where snow does not stay, 0..1.
    """

    def __init__(
        self,
        landscape: Landscape,
        region: Region,
        climate: Climate,
        days_T: np.ndarray,
        options: SimulationOptions,
        rng: np.random.Generator,
        style: Style,
    ) -> None:
        self.size, self.days_T = landscape.parcels_HW.shape, days_T
        material_U, real = landscape.material_U, style.real
        farming = draw_farming(style, rng) if style.growth else Farming()
        self.footprints = footprints(landscape.units_YX, material_U.size)
        phenology = Phenology(
            material_U,
            landscape.parcel_U,
            climate,
            rng,
            farming,
            field_U=landscape.field_U,
            grass_kinds="grassland" in style.growth,
        )
        owner_U = landscape.field_U if real else landscape.parcel_U
        surfaces = make_surfaces(material_U, owner_U, region.soil, rng, farming.spread)
        wet_T = _wetness(days_T, climate, rng)
        self.effects_TUKC = _effects(phenology, surfaces, days_T, wet_T, growth_only=real)
        if real:
            unevenness = style.unevenness * options.heterogeneity
            self.fields_KHW = real_variation(landscape, unevenness, style.growth, rng)
            self.effects_TUKC[:, :, 1:] *= emphasis(landscape.field_U, days_T, rng)[..., None]
        else:
            self.fields_KHW = variation_fields(landscape, options.heterogeneity, rng)
        self.coarse_fields_KHW = pool(self.fields_KHW)
        self.relief_HW = relief(landscape, options.heterogeneity, rng, 0.01 if real else 0.02)
        self.shades_LHW = shades(landscape)
        self.tall_m = rng.uniform(6, 16) if real else _TALL_M
        snowless_U = np.isin(material_U, [*TALL, Material.WATER]).astype(np.float32)
        self.snowless_HW = (self.footprints.fine_PU @ snowless_U).reshape(self.size)

    def image(self, index: int) -> np.ndarray:
        """Compute the clear image of a date, float32 C x H x W, reflectance x 10 000."""
        effects_UKC = self.effects_TUKC[index]
        image_CHW = np.empty((len(PASTIS_BANDS), *self.size), np.float32)
        image_CHW[list(FINE_BANDS)] = _mixed(
            self.footprints.fine_PU, effects_UKC[:, :, FINE_BANDS], self.fields_KHW
        )
        coarse_CHW = _mixed(
            self.footprints.coarse_QU, effects_UKC[:, :, COARSE_BANDS], self.coarse_fields_KHW
        )
        image_CHW[list(COARSE_BANDS)] = repeat(coarse_CHW, self.size)
        lit_CHW: np.ndarray = image_CHW * (self.relief_HW * self._light(index))
        return lit_CHW

    def _light(self, index: int) -> np.ndarray:
        """Compute the share of light that reaches each pixel past trees and houses, float32."""
        pixels = (
            self.tall_m / np.tan(np.radians(sun_elevation(float(self.days_T[index])))) / PIXEL_M
        )
        whole = min(int(pixels), LONGEST_SHADE - 1)
        part = min(pixels - whole, 1.0)
        shade_HW = (1 - part) * self.shades_LHW[whole] + part * self.shades_LHW[whole + 1]
        light_HW: np.ndarray = 1 - np.float32(_SHADE_DEPTH) * shade_HW.astype(np.float32)
        return light_HW


def draw_farming(style: Style, rng: np.random.Generator) -> Farming:
    """Draw how fields differ in one season."""
    growth, lead = style.growth, rng.uniform(10, 15)
    return Farming(
        spread=rng.uniform(1.1, 1.9) if "neighbours" in growth else 1.0,
        catch_crops="catch-crops" in growth,
        second_crops="second-crops" in growth,
        staged="staged" in growth,
        lead=(lead, lead * rng.uniform(0.2, 0.7)) if "cereals" in growth else None,
    )


def _mixed(seen: sparse.csr_matrix, effects_UKC: np.ndarray, fields_KHW: np.ndarray) -> np.ndarray:
    """Mix the units of each pixel, varied by the fields; float32 C x H x W."""
    mixed = seen @ effects_UKC.reshape(effects_UKC.shape[0], -1)
    mixed_KCHW = np.ascontiguousarray(mixed.T).reshape(
        *effects_UKC.shape[1:], *fields_KHW.shape[1:]
    )
    image_CHW: np.ndarray = mixed_KCHW[0]
    for field_HW, effect_CHW in zip(fields_KHW, mixed_KCHW[1:], strict=True):
        effect_CHW *= field_HW
        image_CHW += effect_CHW
    return image_CHW


def _effects(
    phenology: Phenology,
    surfaces: Surfaces,
    days_T: np.ndarray,
    wet_T: np.ndarray,
    *,
    growth_only: bool = False,
) -> np.ndarray:
    """Compute the reflectance of the units, and what full variation adds to it.

    More and less have an effect each, between two states that occur: one derivative for both would
    overshoot at a harvest.

    Args:
        phenology: The cover of the units.
        surfaces: Their spectra.
        days_T: Day of each date.
        wet_T: Wetness of the ground, 0..1.
        growth_only: A stage is one of growth; sowing, cuts and harvest come to a whole field.

    Returns:
        float32 T x U x 6 x C: the plain reflectance, and the effects of brighter soil, more and
        less vigour, a later and an earlier stage.
    """
    cover = phenology.cover(days_T)
    plain = surfaces.reflectance(cover, wet_T)
    states = [plain, surfaces.reflectance(cover, wet_T, brightness=2.0)]
    for vigour in (VIGOUR, 1 / VIGOUR):
        states.append(
            surfaces.reflectance(replace(cover, leaf=cover.leaf * np.float32(vigour)), wet_T)
        )
    for days in (STAGE_DAYS, -STAGE_DAYS):
        other = phenology.cover(days_T + days)
        moved = surfaces.reflectance(other, wet_T)
        if growth_only:
            event_TU = np.abs(other.leaf - cover.leaf) > _EVENT_LEAF
            event_TU |= np.abs(other.brown + other.litter - cover.brown - cover.litter) > 0.3
            moved = np.where(event_TU[..., None], plain, moved)
        states.append(moved)
    effects = np.stack(states, axis=2)
    effects[:, :, 1:] -= plain[:, :, None]
    return effects


def _wetness(days_T: np.ndarray, climate: Climate, rng: np.random.Generator) -> np.ndarray:
    """Draw the wetness of the ground on each date, 0..1: rain, and drying, slower in winter."""
    interval = 4 + 9 * climate.drought  # mean days between rains
    rain = np.cumsum(rng.exponential(interval, size=int(500 / interval) + 20)) - 20
    since_T = days_T - rain[np.searchsorted(rain, days_T, side="right") - 1]
    winter_T = np.exp(-0.5 * ((days_T - 130) / 60.0) ** 2)
    wet_T = np.exp(-since_T / (2.5 + 6 * winter_T)) * 0.8 + 0.3 * winter_T
    return np.clip(wet_T, 0, 1).astype(np.float32)
