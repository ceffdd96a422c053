"""The cover of units of land on each day of a season: crops, meadows, vines, trees, grass.

``Phenology`` draws the management of each unit once, from the tables and curves of its cover, and
gives its cover on any days. Shape suffixes: T days, U units, K cuts or cycles of a unit, P parcels;
``day_T1`` is a column of days, so that it combines with one value a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

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
)

NEVER = 10_000.0
"""A day that does not come."""


@dataclass
class Cover:
    """The state of each unit on each day; float32, T x U."""

    leaf: np.ndarray
    """Green leaf area index (LAI)."""
    brown: np.ndarray
    """Share of ground under dead standing plants, 0..1."""
    litter: np.ndarray
    """Share of bare ground under straw, 0..1."""
    flower: np.ndarray
    """Share of the canopy in flower, 0..1."""
    tilth: np.ndarray
    """Brightness of the soil's surface, 1 for a settled one."""

    @classmethod
    def bare(cls, days: int, units: int) -> Cover:
        """Return settled bare soil on all days."""
        leaf, brown, litter, flower = (np.zeros((days, units), np.float32) for _ in range(4))
        return cls(leaf, brown, litter, flower, tilth=np.ones((days, units), np.float32))


@dataclass(frozen=True)
class Climate:
    """The climate of one season."""

    delay: float
    """Days by which the season lags behind the average."""
    drought: float
    """0 for a wet summer to 1 for a dry one."""


Growth = Callable[[np.ndarray], Cover]
"""Gives the cover of a group of units on a column of days."""
Addition = Callable[[np.ndarray, Cover], None]
"""Adds to a cover what belongs to a column of days."""


def rising(
    day_T1: np.ndarray, middle_U: np.ndarray | float, width_U: np.ndarray | float
) -> np.ndarray:
    """Return a logistic curve from 0 to 1, one half on the day ``middle_U``."""
    share: np.ndarray = 1 / (1 + np.exp(-np.clip((day_T1 - middle_U) / width_U, -30, 30)))
    return share


def bump(
    day_T1: np.ndarray, middle_U: np.ndarray | float, width_U: np.ndarray | float
) -> np.ndarray:
    """Return a bell curve of height 1 on the day ``middle_U``."""
    return np.exp(-0.5 * np.square((day_T1 - middle_U) / width_U))


def between(
    day_T1: np.ndarray, start_U: np.ndarray | float, end_U: np.ndarray | float
) -> np.ndarray:
    """Return True from ``start_U`` until before ``end_U``."""
    return (day_T1 >= start_U) & (day_T1 < end_U)


@dataclass(frozen=True)
class AnnualCrop:
    """A crop that is sown and harvested once; days are counted from 1 September."""

    sown: float
    """Day of sowing."""
    rise: float
    """Day of half growth in spring."""
    rise_days: float
    """Logistic width of growth, days."""
    peak: float
    """Largest leaf area index (LAI)."""
    ripen: float
    """Day of half senescence."""
    ripen_days: float
    """Logistic width of senescence, days."""
    harvest: float
    """Day of harvest."""
    winter: float = 0.0
    """LAI in winter of autumn-sown crops; 0 for crops sown in spring."""
    flower: float = 0.0
    """Middle day of flowering."""
    flower_days: float = 1.0
    """Width of flowering, days."""
    flower_strength: float = 0.0
    """Share of the canopy that flowers, 0..1."""
    spread: float = 6.0
    """Standard deviation of a parcel's days."""
    straw: float = 0.55
    """Share of ground under straw after harvest, 0..1."""


ANNUAL: dict[int, AnnualCrop] = {
    WHEAT: AnnualCrop(52, 214, 13, 5.6, 301, 7, 328, winter=0.7),
    WINTER_BARLEY: AnnualCrop(40, 204, 12, 5.0, 283, 7, 305, winter=1.1),
    TRITICALE: AnnualCrop(45, 207, 12, 5.2, 297, 8, 325, winter=0.9),
    DURUM: AnnualCrop(62, 209, 12, 4.3, 288, 7, 311, winter=0.5),
    MIXED_CEREAL: AnnualCrop(48, 212, 15, 4.4, 295, 11, 320, winter=0.8, spread=10),
    RAPESEED: AnnualCrop(
        0, 196, 10, 4.6, 290, 9, 318, 2.2, flower=226, flower_days=12, flower_strength=0.75
    ),
    SPRING_BARLEY: AnnualCrop(188, 240, 9, 4.6, 303, 7, 330),
    CORN: AnnualCrop(242, 296, 8, 5.0, 384, 10, 397, spread=9, straw=0.45),
    SUNFLOWER: AnnualCrop(
        230, 288, 8, 3.8, 350, 8, 372, flower=317, flower_days=8, flower_strength=0.22, straw=0.3
    ),
    BEET: AnnualCrop(207, 276, 9, 5.2, 440, 18, 402, spread=14, straw=0.15),
    POTATOES: AnnualCrop(
        228,
        284,
        7,
        5.0,
        352,
        8,
        374,
        flower=305,
        flower_days=7,
        flower_strength=0.06,
        spread=11,
        straw=0.1,
    ),
    SOYBEANS: AnnualCrop(248, 303, 9, 5.2, 373, 6, 392, straw=0.35),
    SORGHUM: AnnualCrop(252, 304, 10, 4.2, 388, 12, 402, spread=9, straw=0.4),
}


def annual(
    crop: AnnualCrop, first_U: np.ndarray, climate: Climate, rng: np.random.Generator
) -> Growth:
    """Draw the growth of a crop sown once.

    The units of a parcel share the crop; each has its own cover before and after.

    Args:
        crop: The crop.
        first_U: Position of the first unit of each unit's parcel.
        climate: The season.
        rng: The generator.
    """
    count = first_U.size
    late_U = climate.delay + rng.normal(0, crop.spread, count)
    sown_U = crop.sown + 0.6 * late_U + rng.normal(0, 0.6 * crop.spread, count)
    rise_U = crop.rise + late_U
    peak_U = crop.peak * rng.normal(1, 0.14, count).clip(0.45, 1.4) * (1 - 0.2 * climate.drought)
    ripen_U = crop.ripen + late_U - 8 * climate.drought + rng.normal(0, 0.5 * crop.spread, count)
    harvest_U = np.maximum(
        crop.harvest + 0.8 * late_U + rng.normal(0, 0.9 * crop.spread, count), rise_U + 40
    )
    if crop.ripen < crop.harvest:
        harvest_U = np.maximum(harvest_U, ripen_U + 8)
    winter_U = crop.winter * rng.lognormal(0, 0.4, count)
    width_U = crop.rise_days * rng.uniform(0.8, 1.25, count)
    ripen_days_U = crop.ripen_days * rng.uniform(0.75, 1.3, count)
    flower_U = crop.flower_strength * rng.uniform(0.6, 1.2, count)
    flower_day_U = crop.flower + late_U
    sown_U, rise_U, peak_U, ripen_U, harvest_U = (
        values_U[first_U] for values_U in (sown_U, rise_U, peak_U, ripen_U, harvest_U)
    )
    winter_U, width_U, ripen_days_U = winter_U[first_U], width_U[first_U], ripen_days_U[first_U]
    flower_U, flower_day_U = flower_U[first_U], flower_day_U[first_U]
    harvest_U = harvest_U + rng.choice([0, 0, 3, 8], count) * (first_U != np.arange(count))
    peak_U = peak_U * rng.normal(1, 0.03, count)
    before = _before(sown_U, autumn=crop.winter > 0, rng=rng)
    after = _after(harvest_U, crop.straw, rng)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.size, count)
        before(day_T1, cover)
        after(day_T1, cover)
        alive = between(day_T1, sown_U, harvest_U)
        ripe = rising(day_T1, ripen_U, ripen_days_U)
        dip = 1 - 0.3 * bump(day_T1, 150.0, 30)
        young = winter_U * rising(day_T1, sown_U + 24, 7) * dip
        full = young + (peak_U - np.minimum(young, peak_U)) * rising(day_T1, rise_U, width_U)
        cover.leaf += alive * full * (1 - ripe)
        cover.brown += alive * (1 - np.exp(-0.6 * full)) * ripe
        cover.flower += alive * flower_U * bump(day_T1, flower_day_U, crop.flower_days)
        return cover

    return grow


def _before(sown_U: np.ndarray, autumn: bool, rng: np.random.Generator) -> Addition:
    """Draw the cover before sowing: a late summer crop, stubble, a catch crop, or weeds."""
    count = sown_U.size
    kind_U = rng.choice(4, count, p=[0.25, 0.4, 0.0, 0.35] if autumn else [0.2, 0.22, 0.46, 0.12])
    late_end_U = np.minimum(rng.normal(32, 14, count), sown_U - 6)
    tilled_U = np.where(
        kind_U == 1, rng.uniform(-15, 60, count) if autumn else rng.uniform(10, 170, count), NEVER
    )
    catch_start_U = rng.normal(25, 9, count)
    catch_end_U = np.minimum(rng.normal(150, 42, count), sown_U - 8)
    catch_U = rng.uniform(0.8, 3.8, count)
    late_U, volunteers_U = rng.uniform(1.5, 4.5, count), rng.uniform(0, 1.0, count)
    straw_U, weeds_U = rng.uniform(0.2, 0.65, count), rng.gamma(1.2, 0.22, count)
    seedbed_U, ploughed_U = rng.normal(1.08, 0.06, count), rng.normal(0.88, 0.07, count)
    plough_U = np.where(
        rng.random(count) < 0.5, np.minimum(sown_U - 4, rng.uniform(30, 130, count)), sown_U - 4
    )

    def grow(day_T1: np.ndarray, cover: Cover) -> None:
        unsown = day_T1 < sown_U
        late = (kind_U == 0) & (day_T1 < late_end_U)
        stubble = (kind_U == 1) & unsown & (day_T1 < tilled_U) & (day_T1 < sown_U - 4)
        catch = (kind_U == 2) & (day_T1 < catch_end_U)
        killed = (kind_U == 2) & unsown & (day_T1 >= catch_end_U)
        fading = 1 - 0.6 * rising(day_T1, late_end_U - 8, 9)
        cover.leaf += late * late_U * fading + stubble * volunteers_U * rising(day_T1, 20, 12)
        cover.leaf += catch * catch_U * rising(day_T1, catch_start_U, 8)
        cover.brown += late * 0.45 * (1 - fading) + killed * 0.4 * np.exp(
            -np.maximum(day_T1 - catch_end_U, 0) / 30
        )
        cover.litter += stubble * straw_U + ((kind_U == 0) & unsown & ~late) * 0.3 * straw_U
        bare = unsown & ~stubble & ~late & ~catch
        weeds = weeds_U * rising(np.minimum(day_T1, sown_U - 12), late_end_U + 45, 15)
        cover.leaf += bare * weeds * (day_T1 < sown_U - 8)
        cover.tilth += bare * np.where(day_T1 >= plough_U, ploughed_U - 1, 0)
        since = np.maximum(day_T1 - sown_U, 0)
        cover.tilth += ~unsown * (seedbed_U - 1) * np.exp(-since / 40)

    return grow


def _after(harvest_U: np.ndarray, straw: float, rng: np.random.Generator) -> Addition:
    """Draw the cover after harvest: straw, tillage, then volunteers or another crop."""
    count = harvest_U.size
    straw_U = (straw * rng.uniform(0.6, 1.3, count)).clip(0, 0.9)
    tilled_U = harvest_U + np.where(rng.random(count) < 0.3, NEVER, rng.gamma(2.0, 14.0, count))
    green_U = np.where(
        rng.random(count) < 0.55, rng.uniform(0.4, 3.2, count), rng.uniform(0, 0.3, count)
    )
    green_day_U = harvest_U + rng.uniform(28, 60, count)
    tilth_U = rng.normal(0.94, 0.09, count)

    def grow(day_T1: np.ndarray, cover: Cover) -> None:
        cut = day_T1 >= harvest_U
        tilled = day_T1 >= tilled_U
        since = np.maximum(day_T1 - harvest_U, 0)
        cover.litter += cut * straw_U * np.where(tilled, 0.25, 1.0) * np.exp(-since / 150)
        cover.leaf += cut * green_U * rising(day_T1, green_day_U, 7)
        cover.tilth += tilled * (tilth_U - 1)

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
        cover = Cover.bare(day_T1.size, count)
        for k in range(start_UK.shape[1]):
            start, end = start_UK[:, k], start_UK[:, k] + length_UK[:, k]
            alive = between(day_T1, start, end)
            cover.leaf += alive * peak_UK[:, k] * rising(day_T1, start + 0.4 * length_UK[:, k], 7)
            cover.flower += alive * bloom_U * bump(day_T1, end - 12, 6)
        cover.leaf += between(day_T1, 20, 165) * cover_crop_U * (cover.leaf < 0.1)
        cover.tilth += tilth_U - 1
        return cover

    return grow


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
        cover = Cover.bare(day_T1.size, count)
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
        cover = Cover.bare(day_T1.size, count)
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


def uncultivated(material: int, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw grass, trees and built-up land, by a ``Material``."""
    if material in (Material.GRASS, Material.TRACK, Material.YARD):
        scale = {Material.GRASS: 1.0, Material.TRACK: 0.35, Material.YARD: 0.15}[Material(material)]
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
        cover = Cover.bare(day_T1.size, count)
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
    """

    def __init__(
        self,
        material_U: np.ndarray,
        parcel_U: np.ndarray,
        climate: Climate,
        rng: np.random.Generator,
    ) -> None:
        self.units = material_U.size
        self.groups = []
        for material in np.unique(material_U):
            index_U = np.flatnonzero(material_U == material)
            first_U = np.searchsorted(index_U, first_of_parcel(parcel_U)[index_U])
            self.groups.append((index_U, _draw(int(material), first_U, climate, rng)))

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


def _draw(material: int, first_U: np.ndarray, climate: Climate, rng: np.random.Generator) -> Growth:
    """Draw the growth of all units of one material; ``first_U`` is as in ``annual``."""
    count = first_U.size
    if material in ANNUAL:
        return annual(ANNUAL[material], first_U, climate, rng)
    if material in (MEADOW, FODDER):
        return mown(material == FODDER, count, climate, rng)
    if material == HORTICULTURE:
        return horticulture(count, climate, rng)
    if material in (GRAPEVINE, ORCHARD):
        return rows(material == GRAPEVINE, count, climate, rng)
    return uncultivated(material, count, climate, rng)
