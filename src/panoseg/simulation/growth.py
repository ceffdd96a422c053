"""The growth of plants: cover, climate and curves over days, and crops that are sown once a year.

Shape suffixes: T days, U units; ``day_T1`` is a column of days, so that it combines with one value
a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from panoseg.simulation.options import (
    BEET,
    CORN,
    DURUM,
    MIXED_CEREAL,
    POTATOES,
    RAPESEED,
    SORGHUM,
    SOYBEANS,
    SPRING_BARLEY,
    SUNFLOWER,
    TRITICALE,
    WHEAT,
    WINTER_BARLEY,
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


_EARLY_HARVEST = 337.0
"""Day of harvest before which there is time for a catch crop."""

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


@dataclass(frozen=True)
class Farming:
    """How much fields of a crop differ in one season."""

    spread: float = 1.0
    """Factor on the differences between parcels in days, vigour and colour."""
    catch_crops: bool = False
    """Sow catch crops by rule: after most early harvests, after few late ones."""
    second_crops: bool = False
    """Grow and harvest a second crop after most early harvests."""
    staged: bool = False
    """Harvest the units of a field days apart."""
    lead: tuple[float, float] | None = None
    """Days by which barley and triticale are ahead of wheat; None as in ``ANNUAL``."""

    def crop(self, crop_id: int) -> AnnualCrop:
        """Return an annual crop as it grows in this season."""
        crop, wheat = ANNUAL[crop_id], ANNUAL[WHEAT]
        if self.lead is None or crop_id not in (WHEAT, WINTER_BARLEY, TRITICALE):
            return crop
        ahead = {WINTER_BARLEY: self.lead[0], TRITICALE: self.lead[1]}.get(crop_id, 0.0)
        return replace(
            crop,
            rise=wheat.rise - ahead,
            ripen=wheat.ripen - 1.1 * ahead,
            harvest=wheat.harvest - 1.3 * ahead,
            spread=4.5,
        )


AS_EVER = Farming()


def annual(
    crop: AnnualCrop,
    first_U: np.ndarray,
    climate: Climate,
    rng: np.random.Generator,
    farming: Farming = AS_EVER,
    field_U: np.ndarray | None = None,
) -> Growth:
    """Draw the growth of a crop sown once.

    The units of a parcel share the crop; each has its own cover before and after.

    Args:
        crop: The crop.
        first_U: Position of the first unit of each unit's parcel.
        climate: The season.
        rng: The generator.
        farming: How fields differ.
        field_U: Position of the first unit that is tilled together with each; by default itself.
    """
    count = first_U.size
    field_U = np.arange(count) if field_U is None else field_U
    crop = replace(crop, spread=crop.spread * farming.spread)
    late_U = climate.delay + rng.normal(0, crop.spread, count)
    sown_U = crop.sown + 0.6 * late_U + rng.normal(0, 0.6 * crop.spread, count)
    rise_U = crop.rise + late_U
    peak_U = (
        crop.peak
        * rng.normal(1, 0.14 * farming.spread, count).clip(0.45, 1.4)
        * (1 - 0.2 * climate.drought)
    )
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
    harvest_U = harvest_U + rng.choice([0, 0, 3, 8], count)[field_U] * (first_U != field_U)
    peak_U = peak_U * rng.normal(1, 0.03, count)[field_U]
    if farming.staged:
        harvest_U = harvest_U + rng.choice([2, 5, 10, 15], count) * (field_U != np.arange(count))
    before = _before(sown_U, crop.winter > 0, rng, field_U)
    after = _after(harvest_U, crop.straw, rng, field_U, farming)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.shape[0], count)
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


def _before(
    sown_U: np.ndarray, autumn: bool, rng: np.random.Generator, field_U: np.ndarray
) -> Addition:
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
    kind_U, late_end_U, tilled_U = kind_U[field_U], late_end_U[field_U], tilled_U[field_U]
    catch_start_U, catch_end_U, catch_U = (
        values_U[field_U] for values_U in (catch_start_U, catch_end_U, catch_U)
    )
    late_U, volunteers_U, straw_U = late_U[field_U], volunteers_U[field_U], straw_U[field_U]
    weeds_U, seedbed_U, ploughed_U, plough_U = (
        values_U[field_U] for values_U in (weeds_U, seedbed_U, ploughed_U, plough_U)
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


def _after(
    harvest_U: np.ndarray,
    straw: float,
    rng: np.random.Generator,
    field_U: np.ndarray,
    farming: Farming,
) -> Addition:
    """Draw the cover after harvest: straw, tillage, then volunteers or another crop."""
    count = harvest_U.size
    straw_U = (straw * rng.uniform(0.6, 1.3, count)).clip(0, 0.9)
    tilled_U = harvest_U + np.where(rng.random(count) < 0.3, NEVER, rng.gamma(2.0, 14.0, count))
    green_U = np.where(
        rng.random(count) < 0.55, rng.uniform(0.4, 3.2, count), rng.uniform(0, 0.3, count)
    )
    green_day_U = harvest_U + rng.uniform(28, 60, count)
    tilth_U = rng.normal(0.94, 0.09, count)
    if farming.catch_crops:
        early_U = harvest_U < _EARLY_HARVEST
        green_U = np.where(
            rng.random(count) < np.where(early_U, 0.7, 0.1), rng.uniform(1.2, 4, count), 0.1
        )
    end_U = np.full(count, NEVER)
    if farming.second_crops:
        second_U = (harvest_U < _EARLY_HARVEST) & (rng.random(count) < 0.8)
        green_U = np.where(second_U, rng.uniform(2.5, 5, count), green_U)
        green_day_U = np.where(second_U, harvest_U + rng.uniform(28, 45, count), green_day_U)
        end_U = np.where(second_U, harvest_U + rng.uniform(85, 120, count), NEVER)
    straw_U, green_U, tilth_U = straw_U[field_U], green_U[field_U], tilth_U[field_U]
    end_U = end_U[field_U]
    green_day_U, tilled_U = (
        harvest_U + (day_U - harvest_U)[field_U] for day_U in (green_day_U, tilled_U)
    )

    def grow(day_T1: np.ndarray, cover: Cover) -> None:
        cut = day_T1 >= harvest_U
        tilled = day_T1 >= tilled_U
        since = np.maximum(day_T1 - harvest_U, 0)
        cover.litter += cut * straw_U * np.where(tilled, 0.25, 1.0) * np.exp(-since / 150)
        cover.leaf += cut * green_U * rising(day_T1, green_day_U, 7) * (day_T1 < end_U)
        cover.tilth += tilled * (tilth_U - 1)

    return grow
