"""From cover to reflectance in ten bands: soil, straw and canopy, mixed by how deep light reaches into the leaves.

A canopy of leaf area L shows its deep-canopy reflectance and lets the ground through as exp(-k L), a two-layer form of
Beer's law with one k a band, small in the near infrared where leaves scatter. Spectra are reflectance x 10 000, round
figures from general knowledge of field spectroscopy.

Shape suffixes: T days, U units, C bands in the order of ``PASTIS_BANDS``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoseg.data.simulation.cover import Cover
from panoseg.data.simulation.materials import (
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
)
from panoseg.data.simulation.phenology import first_of_parcel


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
    Material.SCRUB: (1.1, 0.8, 1.0, 0.85),
    Material.BROADLEAF: (0.8, 0.82, 0.85, 0.95),
    Material.HEDGE: (0.85, 0.82, 0.9, 0.95),
    Material.CONIFER: (0.6, 0.5, 0.5, 0.8),
}
"""Deep canopy of each cover as factors on ``_LEAF``: green and red edge, near infrared, short-wave infrared; and
chlorophyll."""

_SEALED: dict[int, np.ndarray] = {
    Material.WATER: _spectrum(330, 370, 260, 220, 170, 160, 140, 120, 70, 45),
    Material.ASPHALT: _spectrum(850, 960, 1060, 1120, 1190, 1250, 1310, 1360, 1600, 1480),
    Material.ROOF_RED: _spectrum(760, 960, 1500, 1680, 1800, 1900, 2000, 2080, 2350, 2100),
    Material.ROOF_GREY: _spectrum(1050, 1150, 1250, 1300, 1360, 1410, 1450, 1500, 1600, 1550),
    Material.ROOF_WHITE: _spectrum(2300, 2500, 2650, 2750, 2800, 2850, 2900, 2950, 2800, 2500),
    Material.YARD: _spectrum(1050, 1300, 1560, 1700, 1800, 1880, 1960, 2050, 2500, 2250),
}
"""Ground that is no soil."""


@dataclass(frozen=True)
class Surfaces:
    """What each unit looks like: its ground, its deep canopy, its dead plants, its flowers; float32 [U, C]."""

    ground_UC: np.ndarray
    canopy_UC: np.ndarray
    dead_UC: np.ndarray
    flower_UC: np.ndarray
    wetting_UC: np.ndarray

    def reflectance(self, cover: Cover, wet_T: np.ndarray, brightness: float = 1.0) -> np.ndarray:
        """Reflectance x 10 000, float32 [T, U, C]. wet_T: 0 dry to 1 wet ground. brightness: factor on soil, for
        derivatives."""
        tilth_TU1 = (brightness * cover.tilth)[..., None]
        ground = self.ground_UC * tilth_TU1 * (1 - wet_T[:, None, None] * self.wetting_UC)
        ground += np.minimum(cover.litter, 0.95)[..., None] * (_STRAW * (1 - 0.5 * wet_T[:, None, None] * _WETTING) - ground)
        ground += np.minimum(cover.brown, 0.97)[..., None] * (self.dead_UC - ground)
        canopy = self.canopy_UC + np.minimum(cover.flower, 0.9)[..., None] * (self.flower_UC - self.canopy_UC)
        ground -= canopy
        ground *= np.exp(-np.maximum(cover.leaf, 0)[..., None] * _DEPTH)
        ground += canopy
        return ground


def make_surfaces(
    material_U: np.ndarray, parcel_U: np.ndarray, soil_range: tuple[float, float], rng: np.random.Generator
) -> Surfaces:
    """Draw the surfaces of all units: one kind of soil a landscape, varied a little from field to field."""
    units = material_U.size
    bright = rng.uniform(*soil_range) * rng.lognormal(0, 0.1, (units, 1))
    ground_UC = _SOIL * bright * (1 + (rng.normal(0, 0.5) + rng.normal(0, 0.12, (units, 1))) * _REDNESS)
    wetting_UC = np.repeat(_WETTING[None], units, 0)
    canopy_UC = np.repeat(_LEAF[None], units, 0)
    dead_UC = _STRAW * rng.normal(1, 0.1, (units, 1)).clip(0.7, 1.3) * (1 + rng.normal(0, 0.1, (units, 1)) * _REDNESS)
    flower_UC = np.repeat(_WHITE[None], units, 0)
    for material in np.unique(material_U):
        rows = material_U == material
        count = int(rows.sum())
        if material in _SEALED:
            ground_UC[rows] = _SEALED[material] * rng.lognormal(0, 0.22, (count, 1))
            wetting_UC[rows] *= 0.35
        if material in _CANOPY:
            canopy_UC[rows] = _canopies(*_CANOPY[material], count, rng)
        if material in (RAPESEED, SUNFLOWER):
            flower_UC[rows] = _YELLOW * rng.normal(1, 0.05, (count, 1))
        if material in (Material.BROADLEAF, Material.HEDGE, Material.SCRUB, Material.CONIFER, ORCHARD, GRAPEVINE):
            dead_UC[rows] = _BARK * rng.normal(1, 0.12, (count, 1)).clip(0.6, 1.4)
    _cover_with_plastic(material_U, ground_UC, rng)
    first_U = first_of_parcel(parcel_U)
    return Surfaces(*(array[first_U].astype(np.float32) for array in (ground_UC, canopy_UC, dead_UC, flower_UC, wetting_UC)))


def _canopies(
    green: float, infrared: float, shortwave: float, chlorophyll: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Deep canopies of ``count`` units of one cover; they differ in pigment, structure and water."""
    pigment_U = chlorophyll * rng.lognormal(0, 0.12, count)
    green_U = green * pigment_U**-0.45
    infrared_U = infrared * rng.normal(1, 0.08, count).clip(0.7, 1.3)
    shortwave_U = shortwave * rng.lognormal(0, 0.1, count)
    edge_U = infrared_U * pigment_U**-0.12
    visible = [pigment_U**-0.25, green_U, pigment_U**-0.35, green_U**0.8 * infrared_U**0.3]
    return _LEAF * np.stack([*visible, edge_U, *[infrared_U] * 3, *[shortwave_U] * 2], axis=1)


def _cover_with_plastic(material_U: np.ndarray, ground_UC: np.ndarray, rng: np.random.Generator) -> None:
    """Some vegetables grow under film or glass."""
    rows = np.flatnonzero(material_U == HORTICULTURE)
    rows = rows[rng.random(rows.size) < 0.15]
    ground_UC[rows] += rng.uniform(0.3, 0.8, (rows.size, 1)) * (_SEALED[Material.ROOF_WHITE] - ground_UC[rows])
