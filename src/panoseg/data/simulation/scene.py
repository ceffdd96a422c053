"""The land through the season, seen from above a clear sky.

The image of a date is linear in what the units reflect. Inside a parcel, vigour, soil and growth stage vary from pixel to
pixel; what each adds to a unit is multiplied by a field over pixels. So a date costs two small sparse products.

Shape suffixes: T dates, U units, K effects, C bands in the order of ``PASTIS_BANDS``, H W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from panoseg.data.simulation.atmosphere import sun_elevation
from panoseg.data.simulation.cover import Climate
from panoseg.data.simulation.landscape import PIXEL_M, Landscape
from panoseg.data.simulation.materials import Material
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.phenology import Phenology
from panoseg.data.simulation.regions import Region
from panoseg.data.simulation.sensor import COARSE_BANDS, FINE_BANDS, footprints, pool, repeat
from panoseg.data.simulation.spectra import Surfaces, make_surfaces
from panoseg.data.simulation.variation import LONGEST_SHADE, STAGE_DAYS, TALL, VIGOUR, relief, shades, variation_fields
from panoseg.imagery.bands import PASTIS_BANDS

_TALL_M = 11.0
_SHADE_DEPTH = 0.5


class Scene:
    """The clear images of a season. effects_TUKC: see ``_effects``; snowless_HW: share of a pixel where snow does not stay."""

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
        self.footprints = footprints(landscape.units_YX, material_U.size)
        phenology = Phenology(material_U, landscape.parcel_U, climate, rng)
        surfaces = make_surfaces(material_U, landscape.parcel_U, region.soil, rng)
        self.effects_TUKC = _effects(phenology, surfaces, days_T, _wetness(days_T, climate, rng))
        self.fields_KHW = variation_fields(landscape, options.heterogeneity, rng)
        self.coarse_fields_KHW = pool(self.fields_KHW)
        self.relief_HW = relief(landscape, options.heterogeneity, rng)
        self.shades_LHW = shades(landscape)
        snowless_U = np.isin(material_U, [*TALL, Material.WATER]).astype(np.float32)
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
        whole = min(int(pixels), LONGEST_SHADE - 1)
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
    for vigour in (VIGOUR, 1 / VIGOUR):
        states.append(surfaces.reflectance(replace(cover, leaf=cover.leaf * np.float32(vigour)), wet_T))
    for days in (STAGE_DAYS, -STAGE_DAYS):
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
