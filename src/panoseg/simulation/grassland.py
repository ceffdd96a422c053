"""Grass through a season: meadows and fodder, pastures, rough grass, lawns, idle land.

Shape suffixes: T days, U units, K cuts of a unit.
"""

from __future__ import annotations

import numpy as np

from panoseg.simulation.growth import NEVER, Climate, Cover, Growth, between, bump, rising

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
