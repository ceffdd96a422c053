"""The cover of units of land on each day of a season: crops, meadows, vines, trees, grass.

``Phenology`` draws the management of each unit once, from the tables and curves of its cover, and
gives its cover on any days. Grass is that of meadows and fodder, pastures, rough grass, lawns and
idle land. Shape suffixes: T days, U units, K cuts or cycles of a unit, P parcels; ``day_T1`` is a
column of days, so that it combines with one value a unit.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from panoseg.simulation.growth import (
    ANNUAL,
    AS_EVER,
    NEVER,
    Climate,
    Cover,
    Farming,
    Growth,
    annual,
    between,
    bump,
    rising,
)
from panoseg.simulation.options import FODDER, GRAPEVINE, HORTICULTURE, MEADOW, ORCHARD, Material

_GRAZED, _MOWN, _ROUGH, _TEMPORARY = range(4)


def mown(fodder: bool, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw meadows or fodder: green all year, cut or grazed, low in winter and in dry summers."""
    summer_U = rng.uniform(2.8, 5.0, count) if fodder else rng.uniform(2.0, 4.6, count)
    winter_U = rng.uniform(0.5, 1.6, count) if fodder else rng.uniform(0.6, 2.8, count)
    most = 5 if fodder else 4
    grazed_U = (rng.random(count) < (0.05 if fodder else 0.45))[:, None]
    first_U = rng.normal(262, 10, count) + climate.delay
    gap_UK = rng.uniform(32, 52, (count, most)).cumsum(1) - 40
    cut_UK = first_U[:, None] + gap_UK
    times_U = rng.integers(2 if fodder else 1, most + 1, count)[:, None]
    cut_UK = np.where((np.arange(most) < times_U) & ~grazed_U, cut_UK, NEVER)
    autumn_U1 = np.where(rng.random((count, 1)) < 0.4, rng.uniform(-20, 45, (count, 1)), NEVER)
    cut_UK = np.concatenate([cut_UK, autumn_U1], 1)
    left_U, regrow_U = rng.uniform(0.08, 0.35, count), rng.uniform(14, 28, count)
    dry_U = (climate.drought * rng.uniform(0.4, 1.3, count)).clip(0, 0.95)
    thatch_U = rng.uniform(0.02, 0.22, count)
    start_U = 205 + climate.delay + rng.normal(0, 8, count)
    phase_U = rng.uniform(0, 60, count)
    renewed_U = np.where(
        rng.random(count) < (0.14 if fodder else 0.1), rng.uniform(5, 60, count), -NEVER
    )

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
        season = rising(day_T1, start_U, 12) + 1 - rising(day_T1, 62, 18)
        leaf = winter_U + np.maximum(summer_U - winter_U, 0.2) * np.minimum(season, 1)
        drought = dry_U * bump(day_T1, 335, 30)
        fresh = np.zeros_like(leaf)
        for k in range(cut_UK.shape[1]):
            since = day_T1 - cut_UK[:, k]
            recovery = 1 - np.exp(-np.square(np.maximum(since, 0) / regrow_U))
            leaf = np.where(since >= 0, leaf * (left_U + (1 - left_U) * recovery), leaf)
            fresh = np.where(
                (since >= 0) & (since < 25), 0.3 * np.exp(-np.maximum(since, 0) / 10), fresh
            )
        leaf *= 1 + 0.12 * grazed_U[:, 0] * np.sin((day_T1 + phase_U) / 9)
        sown = rising(day_T1, renewed_U + 45, 10)
        cover.leaf += leaf * (1 - 0.9 * drought) * sown
        thatch = thatch_U * (1 - 0.5 * np.minimum(season, 1))
        cover.brown += np.minimum(thatch + 0.6 * drought + fresh, 0.9) * sown
        return cover

    return grow


def grassland(count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw meadows of four kinds.

    Pastures are never bare; meadows are mown two to six times, each on days of its own; rough
    grass is brown until June; temporary grass is sown in autumn or spring, or ploughed in autumn.
    """
    kind_U = rng.choice(4, count, p=rng.dirichlet([3, 4, 1, 1.5]))
    mown_U = (kind_U == _MOWN) | ((kind_U == _TEMPORARY) & (rng.random(count) < 0.8))
    rough_U, grazed_U = kind_U == _ROUGH, kind_U == _GRAZED
    summer_U = np.where(mown_U, rng.uniform(2.6, 5.2, count), rng.uniform(1.4, 3.4, count))
    winter_U = np.minimum(rng.uniform(0.7, 2.6, count), summer_U)
    most = 6
    first_U = rng.normal(255, 13, count) + climate.delay
    cut_UK = first_U[:, None] + np.pad(rng.uniform(26, 52, (count, most - 1)), ((0, 0), (1, 0)))
    cut_UK = first_U[:, None] + (cut_UK - first_U[:, None]).cumsum(1)
    cuts_U = rng.integers(2, most + 1, count)
    cut_UK = np.where((np.arange(most) < cuts_U[:, None]) & mown_U[:, None], cut_UK, NEVER)
    topped_U = np.where((grazed_U | rough_U) & (rng.random(count) < 0.4), 1.0, 0.0)
    cut_UK[:, 0] = np.where(topped_U > 0, rng.uniform(285, 350, count), cut_UK[:, 0])
    left_U, regrow_U = rng.uniform(0.08, 0.4, count), rng.uniform(12, 30, count)
    dry_U = (climate.drought * rng.uniform(0.3, 1.3, count)).clip(0, 0.95)
    start_U = 203 + climate.delay + rng.normal(0, 9, count)
    thatch_U = np.where(rough_U, rng.uniform(0.3, 0.7, count), rng.uniform(0.02, 0.2, count))
    phase_U, depth_U = rng.uniform(0, 60, count), np.where(grazed_U, rng.uniform(0, 0.25, count), 0)
    sown_U = np.where(kind_U == _TEMPORARY, rng.choice([20.0, 215.0], count), -NEVER)
    sown_U = sown_U + rng.normal(0, 12, count)
    ended_U = np.where((kind_U == _TEMPORARY) & (rng.random(count) < 0.3), 385.0, NEVER)
    ended_U = ended_U + rng.normal(0, 12, count)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
        season = np.minimum(rising(day_T1, start_U, 12) + 1 - rising(day_T1, 62, 18), 1)
        leaf = winter_U + (summer_U - winter_U) * season
        fresh = np.zeros_like(leaf)
        for k in range(most):
            since = day_T1 - cut_UK[:, k]
            recovery = 1 - np.exp(-np.square(np.maximum(since, 0) / regrow_U))
            leaf = np.where(since >= 0, leaf * (left_U + (1 - left_U) * recovery), leaf)
            fresh = np.where(between(since, 0, 25), 0.35 * np.exp(-np.maximum(since, 0) / 9), fresh)
        leaf = leaf * (1 + depth_U * np.sin((day_T1 + phase_U) / 11))
        drought = dry_U * bump(day_T1, 335, 30)
        stands = rising(day_T1, sown_U + 40, 9) * (1 - rising(day_T1, ended_U, 2))
        # Old grass hides the young until June.
        thatch = thatch_U * (1 - 0.75 * bump(day_T1, 290, 50))
        cover.leaf += leaf * (1 - 0.85 * drought) * stands
        cover.brown += np.minimum(thatch + 0.6 * drought + fresh, 0.92) * stands
        return cover

    return grow


def lawn(count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw lawns: short and green all year, yellow in a drought where nobody waters them."""
    leaf_U = rng.uniform(1.0, 3.0, count)
    dry_U = climate.drought * rng.uniform(0.0, 1.2, count)
    thatch_U = rng.uniform(0.02, 0.25, count)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
        drought = dry_U.clip(0, 0.95) * bump(day_T1, 335, 28)
        cover.leaf += leaf_U * (1 - 0.35 * bump(day_T1, 140, 40)) * (1 - 0.8 * drought)
        cover.brown += np.minimum(thatch_U + 0.7 * drought, 0.9)
        return cover

    return grow


def fallow(count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw idle land: old grass, or weeds after tillage, mulched once or not at all."""
    weeds_U = rng.random(count) < 0.35
    leaf_U = rng.uniform(1.0, 3.6, count)
    winter_U = np.where(weeds_U, rng.uniform(0.1, 0.8, count), rng.uniform(0.5, 2.0, count))
    start_U = np.where(weeds_U, 228, 206) + climate.delay + rng.normal(0, 12, count)
    brown_U = rng.uniform(0.1, 0.65, count)
    mulched_U = np.where(rng.random(count) < 0.55, rng.uniform(280, 370, count), NEVER)
    dry_U = (climate.drought * rng.uniform(0.3, 1.3, count)).clip(0, 0.95)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
        season = np.minimum(rising(day_T1, start_U, 14) + 1 - rising(day_T1, 62, 18), 1)
        since = np.maximum(day_T1 - mulched_U, 0)
        kept = np.where(since > 0, 1 - 0.75 * np.exp(-since / 30), 1.0)
        drought = dry_U * bump(day_T1, 335, 35)
        cover.leaf += (winter_U + np.maximum(leaf_U - winter_U, 0) * season) * kept * (1 - drought)
        old = brown_U * (1 - 0.7 * bump(day_T1, 285, 40))
        cover.brown += np.minimum(old + 0.6 * drought, 0.9)
        return cover

    return grow


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
