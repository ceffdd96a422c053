"""The cover of units of land on each day of a season: crops, meadows, vines, trees, grass.

``Phenology`` draws the management of each unit once, from the tables and curves of its cover, and
gives its cover on any days. Shape suffixes: T days, U units, K cuts or cycles of a unit, P parcels;
``day_T1`` is a column of days, so that it combines with one value a unit.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from panoseg.simulation.annual import ANNUAL, AS_EVER, Farming, annual
from panoseg.simulation.grassland import fallow, grassland, lawn, mown
from panoseg.simulation.growth import NEVER, Climate, Cover, Growth, between, bump, rising
from panoseg.simulation.options import FODDER, GRAPEVINE, HORTICULTURE, MEADOW, ORCHARD, Material


def horticulture(count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw vegetables and flowers: one to three short crops a season."""
    cycles = 3
    start_UK = rng.uniform(170, 285, (count, 1))
    start_UK = start_UK + rng.uniform(70, 130, (count, cycles)).cumsum(1) - 100
    grown_UK = rng.random((count, cycles)) < [1.0, 0.6, 0.4]
    start_UK = np.where(grown_UK, start_UK + climate.delay, NEVER)
    autumn_U1 = np.where(rng.random((count, 1)) < 0.35, rng.uniform(-40, 40, (count, 1)), NEVER)
    start_UK = np.concatenate([start_UK, autumn_U1], 1)
    length_UK = rng.uniform(40, 95, start_UK.shape)
    peak_UK = rng.uniform(1.0, 4.5, start_UK.shape)
    cover_crop_U = np.where(rng.random(count) < 0.35, rng.uniform(0.5, 2.5, count), 0.1)
    tilth_U = rng.normal(1.05, 0.15, count)
    bloom_U = np.where(rng.random(count) < 0.15, rng.uniform(0.1, 0.4, count), 0)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
        for k in range(start_UK.shape[1]):
            start, end = start_UK[:, k], start_UK[:, k] + length_UK[:, k]
            alive = between(day_T1, start, end)
            cover.leaf += alive * peak_UK[:, k] * rising(day_T1, start + 0.4 * length_UK[:, k], 7)
            cover.flower += alive * bloom_U * bump(day_T1, end - 12, 6)
        cover.leaf += between(day_T1, 20, 165) * cover_crop_U * (cover.leaf < 0.1)
        cover.tilth += tilth_U - 1
        return cover

    return grow


def rows(vine: bool, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw vines or fruit trees: rows that green up in spring over bare soil or grass."""
    share_U = rng.uniform(0.5, 1.6, count) if vine else rng.uniform(0.9, 3.2, count)
    grass_U = np.where(
        rng.random(count) < (0.5 if vine else 0.85),
        rng.uniform(0.2, 1.0 if vine else 2.0, count),
        0.05,
    )
    out_U = (255 if vine else 233) + climate.delay + rng.normal(0, 6, count)
    fall_U = (418 if vine else 425) + rng.normal(0, 7, count)
    wood_U = rng.uniform(0.03, 0.1, count) if vine else rng.uniform(0.1, 0.3, count)
    bloom_U = rng.uniform(0, 0.0 if vine else 0.25, count)
    dry_U = climate.drought * rng.uniform(0.3, 0.9, count)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
        foliage = rising(day_T1, out_U, 12) * (1 - rising(day_T1, fall_U, 8))
        foliage = foliage + 1 - rising(day_T1, fall_U - 365, 8)
        grass = grass_U * (0.7 + 0.3 * bump(day_T1, 235, 35)) * (1 - dry_U * bump(day_T1, 335, 32))
        cover.leaf += share_U * foliage + grass
        cover.brown += wood_U * (1 - 0.5 * foliage)
        cover.flower += bloom_U * bump(day_T1, out_U - 18, 6)
        return cover

    return grow


_WOODY = {
    Material.BROADLEAF: (4.8, 0.35, 0.6),
    Material.HEDGE: (3.6, 0.7, 0.5),
    Material.SCRUB: (2.4, 1.0, 0.35),
}
"""Leaf area in summer and in winter, and the share of bark in winter."""
_GRASSY = {
    Material.GRASS: 1.0,
    Material.TRACK: 0.35,
    Material.YARD: 0.15,
    Material.GRAVEL: 0.1,
    Material.GARDEN: 0.75,
}
"""Leaf area of what grows as grass does, as a share of that of grass."""


def uncultivated(material: int, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw grass, trees and built-up land, by a ``Material``."""
    if material in _GRASSY:
        scale = _GRASSY[Material(material)]
        grass = mown(False, count, climate, rng)

        def grow_grass(day_T1: np.ndarray) -> Cover:
            cover = grass(day_T1)
            cover.leaf *= scale
            cover.brown *= scale
            return cover

        return grow_grass
    summer, winter, bark = _WOODY.get(
        Material(material), (4.0, 4.0, 0.1) if material == Material.CONIFER else (0.0, 0.0, 0.0)
    )
    leaf_U, winter_U = summer * rng.uniform(0.8, 1.2, count), winter * rng.uniform(0.6, 1.4, count)
    out_U, fall_U = 232 + climate.delay + rng.normal(0, 5, count), 428 + rng.normal(0, 6, count)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
        foliage = rising(day_T1, out_U, 6) * (1 - rising(day_T1, fall_U, 8))
        foliage = foliage + 1 - rising(day_T1, fall_U - 365, 8)
        cover.leaf += winter_U + (leaf_U - winter_U) * foliage
        cover.brown += bark * (1 - foliage)
        return cover

    return grow


class Phenology:
    """The cover of all units on any days; their management is drawn once.

    Args:
        material_U: Class id of a crop or a ``Material``.
        parcel_U: Number of the parcel, 0 for none.
        climate: The season.
        rng: The generator.
        farming: How fields differ.
        field_U: Number of the part that is tilled as one; by default each unit is.
        grass_kinds: Draw meadows as grazed, mown, rough or temporary.
    """

    def __init__(
        self,
        material_U: np.ndarray,
        parcel_U: np.ndarray,
        climate: Climate,
        rng: np.random.Generator,
        farming: Farming = AS_EVER,
        *,
        field_U: np.ndarray | None = None,
        grass_kinds: bool = False,
    ) -> None:
        self.units = material_U.size
        self.groups = []
        firsts = [
            first_of_parcel(number_U)
            for number_U in (parcel_U, np.arange(self.units) + 1 if field_U is None else field_U)
        ]
        for material in np.unique(material_U):
            index_U = np.flatnonzero(material_U == material)
            first_U, together_U = (np.searchsorted(index_U, first[index_U]) for first in firsts)
            if material == MEADOW and grass_kinds:
                growth = grassland(index_U.size, climate, rng)
            elif material in ANNUAL:
                crop = farming.crop(int(material))
                growth = annual(crop, first_U, climate, rng, farming, together_U)
            else:
                growth = _draw(int(material), index_U.size, climate, rng)
            if material not in ANNUAL and (together_U != np.arange(index_U.size)).any():
                growth = _together(growth, together_U, rng)
            self.groups.append((index_U, growth))

    def cover(self, days_T: np.ndarray) -> Cover:
        """Return the cover of all units; days may be fractional or outside the season."""
        cover = Cover.bare(days_T.size, self.units)
        day_T1 = days_T.astype(np.float32)[:, None]
        for index_U, grow in self.groups:
            part = grow(day_T1)
            for field in fields(Cover):
                getattr(cover, field.name)[:, index_U] = getattr(part, field.name)
        return cover


def first_of_parcel(parcel_U: np.ndarray) -> np.ndarray:
    """Return for each unit the first unit of its parcel, or itself outside parcels."""
    first_U = np.arange(parcel_U.size)
    _, first_P, inverse_U = np.unique(parcel_U, return_index=True, return_inverse=True)
    return np.where(parcel_U > 0, first_P[inverse_U], first_U)


def _together(growth: Growth, field_U: np.ndarray, rng: np.random.Generator) -> Growth:
    """Let units that are tilled together grow alike, some days apart where they are cut."""
    delay_U = rng.choice([2, 4, 8, 12], field_U.size) * (field_U != np.arange(field_U.size))

    def grow(day_T1: np.ndarray) -> Cover:
        # The first unit of each field, asked on earlier days for those that are cut later.
        cover = growth(day_T1)
        for delay in np.unique(delay_U[delay_U > 0]):
            later = growth(day_T1 - delay)
            units = np.flatnonzero(delay_U == delay)
            for field in fields(Cover):
                getattr(cover, field.name)[:, units] = getattr(later, field.name)[:, field_U[units]]
        return cover

    return grow


def _draw(material: int, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw the growth of units of a material that is not sown and harvested once."""
    if material in (MEADOW, FODDER):
        return mown(material == FODDER, count, climate, rng)
    if material == HORTICULTURE:
        return horticulture(count, climate, rng)
    if material in (GRAPEVINE, ORCHARD):
        return rows(material == GRAPEVINE, count, climate, rng)
    if material == Material.LAWN:
        return lawn(count, climate, rng)
    if material == Material.FALLOW:
        return fallow(count, climate, rng)
    return uncultivated(material, count, climate, rng)
