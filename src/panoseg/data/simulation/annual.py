"""Crops that are sown and harvested within the season, and what stands on their land before and after.

Growth and ripening are logistic curves (the double logistic of Beck et al. 2006, Remote Sensing of Environment 100, on leaf
area instead of NDVI); harvests and tillage are events.

Shape suffixes: T days, U units, K crops in a row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from panoseg.data.simulation.cover import NEVER, Climate, Cover, Growth, between, bump, rising
from panoseg.data.simulation.crops import AnnualCrop

Addition = Callable[[np.ndarray, Cover], None]
"""Adds to a cover what belongs to the days in a column."""


def annual(crop: AnnualCrop, first_U: np.ndarray, climate: Climate, rng: np.random.Generator) -> Growth:
    """A crop sown once. The parts of a parcel share the crop; what stood there before and comes after is their own."""
    count = first_U.size
    late_U = climate.delay + rng.normal(0, crop.spread, count)
    sown_U = crop.sown + 0.6 * late_U + rng.normal(0, 0.6 * crop.spread, count)
    rise_U = crop.rise + late_U
    peak_U = crop.peak * rng.normal(1, 0.14, count).clip(0.45, 1.4) * (1 - 0.2 * climate.drought)
    ripen_U = crop.ripen + late_U - 8 * climate.drought + rng.normal(0, 0.5 * crop.spread, count)
    harvest_U = np.maximum(crop.harvest + 0.8 * late_U + rng.normal(0, 0.9 * crop.spread, count), rise_U + 40)
    if crop.ripen < crop.harvest:
        harvest_U = np.maximum(harvest_U, ripen_U + 8)
    winter_U = crop.winter * rng.lognormal(0, 0.4, count)
    width_U = crop.rise_days * rng.uniform(0.8, 1.25, count)
    ripen_days_U = crop.ripen_days * rng.uniform(0.75, 1.3, count)
    flower_U = crop.flower_strength * rng.uniform(0.6, 1.2, count)
    flower_day_U = crop.flower + late_U
    shared = (sown_U, rise_U, peak_U, ripen_U, harvest_U, winter_U, width_U, ripen_days_U, flower_U, flower_day_U)
    sown_U, rise_U, peak_U, ripen_U, harvest_U, winter_U, width_U, ripen_days_U, flower_U, flower_day_U = (
        values_U[first_U] for values_U in shared
    )
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
    """What stood on the land before it was sown: a late summer crop, stubble with volunteers, a catch crop, or nothing but
    weeds."""
    count = sown_U.size
    kind_U = rng.choice(4, count, p=[0.25, 0.4, 0.0, 0.35] if autumn else [0.2, 0.22, 0.46, 0.12])
    late_end_U = np.minimum(rng.normal(32, 14, count), sown_U - 6)
    tilled_U = np.where(kind_U == 1, rng.uniform(-15, 60, count) if autumn else rng.uniform(10, 170, count), NEVER)
    catch_start_U, catch_end_U = rng.normal(25, 9, count), np.minimum(rng.normal(150, 42, count), sown_U - 8)
    catch_U = rng.uniform(0.8, 3.8, count)
    late_U, volunteers_U = rng.uniform(1.5, 4.5, count), rng.uniform(0, 1.0, count)
    straw_U, weeds_U = rng.uniform(0.2, 0.65, count), rng.gamma(1.2, 0.22, count)
    seedbed_U, ploughed_U = rng.normal(1.08, 0.06, count), rng.normal(0.88, 0.07, count)
    plough_U = np.where(rng.random(count) < 0.5, np.minimum(sown_U - 4, rng.uniform(30, 130, count)), sown_U - 4)

    def grow(day_T1: np.ndarray, cover: Cover) -> None:
        unsown = day_T1 < sown_U
        late = (kind_U == 0) & (day_T1 < late_end_U)
        stubble = (kind_U == 1) & unsown & (day_T1 < tilled_U) & (day_T1 < sown_U - 4)
        catch = (kind_U == 2) & (day_T1 < catch_end_U)
        killed = (kind_U == 2) & unsown & (day_T1 >= catch_end_U)
        fading = 1 - 0.6 * rising(day_T1, late_end_U - 8, 9)
        cover.leaf += late * late_U * fading + stubble * volunteers_U * rising(day_T1, 20, 12)
        cover.leaf += catch * catch_U * rising(day_T1, catch_start_U, 8)
        cover.brown += late * 0.45 * (1 - fading) + killed * 0.4 * np.exp(-np.maximum(day_T1 - catch_end_U, 0) / 30)
        cover.litter += stubble * straw_U + ((kind_U == 0) & unsown & ~late) * 0.3 * straw_U
        bare = unsown & ~stubble & ~late & ~catch
        cover.leaf += bare * weeds_U * rising(np.minimum(day_T1, sown_U - 12), late_end_U + 45, 15) * (day_T1 < sown_U - 8)
        cover.tilth += bare * np.where(day_T1 >= plough_U, ploughed_U - 1, 0)
        since = np.maximum(day_T1 - sown_U, 0)
        cover.tilth += ~unsown * (seedbed_U - 1) * np.exp(-since / 40)

    return grow


def _after(harvest_U: np.ndarray, straw: float, rng: np.random.Generator) -> Addition:
    """What is left after harvest: straw, tillage after some weeks, then volunteers, a catch crop or the next crop."""
    count = harvest_U.size
    straw_U = (straw * rng.uniform(0.6, 1.3, count)).clip(0, 0.9)
    tilled_U = harvest_U + np.where(rng.random(count) < 0.3, NEVER, rng.gamma(2.0, 14.0, count))
    green_U = np.where(rng.random(count) < 0.55, rng.uniform(0.4, 3.2, count), rng.uniform(0, 0.3, count))
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
    """Vegetables and flowers: one to three short crops whenever it suits."""
    cycles = 3
    start_UK = rng.uniform(170, 285, (count, 1)) + rng.uniform(70, 130, (count, cycles)).cumsum(1) - 100
    start_UK = np.where(rng.random((count, cycles)) < [1.0, 0.6, 0.4], start_UK + climate.delay, NEVER)
    start_UK = np.concatenate([start_UK, np.where(rng.random((count, 1)) < 0.35, rng.uniform(-40, 40, (count, 1)), NEVER)], 1)
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
