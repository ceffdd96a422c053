"""Cover that lasts: meadows, lucerne, vines, orchards, and the land outside parcels.

Shape suffixes: T days, U units, K cuts.
"""

from __future__ import annotations

import numpy as np

from panoseg.data.simulation.cover import NEVER, Climate, Cover, Growth, bump, rising
from panoseg.data.simulation.materials import Material


def mown(fodder: bool, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Meadows and lucerne: green all year, with cuts or grazing, a winter low and a dry summer."""
    summer_U = rng.uniform(2.8, 5.0, count) if fodder else rng.uniform(2.0, 4.6, count)
    winter_U = rng.uniform(0.5, 1.6, count) if fodder else rng.uniform(0.6, 2.8, count)
    most = 5 if fodder else 4
    grazed_U = (rng.random(count) < (0.05 if fodder else 0.45))[:, None]
    first_U = rng.normal(262, 10, count) + climate.delay
    gap_UK = rng.uniform(32, 52, (count, most)).cumsum(1) - 40
    cut_UK = first_U[:, None] + gap_UK
    times_U = rng.integers(2 if fodder else 1, most + 1, count)[:, None]
    cut_UK = np.where((np.arange(most) < times_U) & ~grazed_U, cut_UK, NEVER)
    cut_UK = np.concatenate([cut_UK, np.where(rng.random((count, 1)) < 0.4, rng.uniform(-20, 45, (count, 1)), NEVER)], 1)
    left_U, regrow_U = rng.uniform(0.08, 0.35, count), rng.uniform(14, 28, count)
    dry_U = (climate.drought * rng.uniform(0.4, 1.3, count)).clip(0, 0.95)
    thatch_U = rng.uniform(0.02, 0.22, count)
    start_U = 205 + climate.delay + rng.normal(0, 8, count)
    phase_U = rng.uniform(0, 60, count)
    renewed_U = np.where(rng.random(count) < (0.14 if fodder else 0.1), rng.uniform(5, 60, count), -NEVER)

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
            fresh = np.where((since >= 0) & (since < 25), 0.3 * np.exp(-np.maximum(since, 0) / 10), fresh)
        leaf *= 1 + 0.12 * grazed_U[:, 0] * np.sin((day_T1 + phase_U) / 9)
        sown = rising(day_T1, renewed_U + 45, 10)
        cover.leaf += leaf * (1 - 0.9 * drought) * sown
        cover.brown += np.minimum(thatch_U * (1 - 0.5 * np.minimum(season, 1)) + 0.6 * drought + fresh, 0.9) * sown
        return cover

    return grow


def rows(vine: bool, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Vines and fruit trees: rows that green up in spring over bare soil or grass."""
    share_U = rng.uniform(0.5, 1.6, count) if vine else rng.uniform(0.9, 3.2, count)
    grass_U = np.where(rng.random(count) < (0.5 if vine else 0.85), rng.uniform(0.2, 1.0 if vine else 2.0, count), 0.05)
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


_WOODY = {Material.BROADLEAF: (4.8, 0.35, 0.6), Material.HEDGE: (3.6, 0.7, 0.5), Material.SCRUB: (2.4, 1.0, 0.35)}
"""Leaf area in summer and in winter, and the share of bark in winter."""


def uncultivated(material: int, count: int, climate: Climate, rng: np.random.Generator) -> Growth:
    """Grass, trees and built-up land."""
    if material in (Material.GRASS, Material.TRACK, Material.YARD):
        scale = {Material.GRASS: 1.0, Material.TRACK: 0.35, Material.YARD: 0.15}[Material(material)]
        grass = mown(False, count, climate, rng)

        def grow_grass(day_T1: np.ndarray) -> Cover:
            cover = grass(day_T1)
            cover.leaf *= scale
            cover.brown *= scale
            return cover

        return grow_grass
    summer, winter, bark = _WOODY.get(Material(material), (4.0, 4.0, 0.1) if material == Material.CONIFER else (0.0, 0.0, 0.0))
    leaf_U, winter_U = summer * rng.uniform(0.8, 1.2, count), winter * rng.uniform(0.6, 1.4, count)
    out_U, fall_U = 232 + climate.delay + rng.normal(0, 5, count), 428 + rng.normal(0, 6, count)

    def grow(day_T1: np.ndarray) -> Cover:
        cover = Cover.bare(day_T1.size, count)
        foliage = rising(day_T1, out_U, 6) * (1 - rising(day_T1, fall_U, 8)) + 1 - rising(day_T1, fall_U - 365, 8)
        cover.leaf += winter_U + (leaf_U - winter_U) * foliage
        cover.brown += bark * (1 - foliage)
        return cover

    return grow
