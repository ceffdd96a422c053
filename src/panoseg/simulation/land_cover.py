"""The land cover of each pixel: built, garden, trees, water, road, idle land or field."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from panoseg.simulation.options import Material


class LandCover(IntEnum):
    """What covers most of a pixel."""

    BUILT = 1
    """Houses, yards, greenhouses, solar parks."""
    GARDEN = 2
    """Gardens, lawns, parks, allotments and paddocks among houses."""
    TREES = 3
    """Woods, hedges, rows of trees."""
    WATER = 4
    ROAD = 5
    """Roads and tracks."""
    IDLE = 6
    """Verges, rough grass and scrub that nobody farms."""
    FIELD = 7


_OF_MATERIAL = {
    Material.GRASS: LandCover.IDLE,
    Material.SCRUB: LandCover.IDLE,
    Material.FALLOW: LandCover.IDLE,
    Material.BROADLEAF: LandCover.TREES,
    Material.CONIFER: LandCover.TREES,
    Material.HEDGE: LandCover.TREES,
    Material.WATER: LandCover.WATER,
    Material.ASPHALT: LandCover.ROAD,
    Material.TRACK: LandCover.ROAD,
    Material.LAWN: LandCover.GARDEN,
    Material.GARDEN: LandCover.GARDEN,
}


def cover_of(material: int, *, among_houses: bool = False) -> LandCover:
    """Return the land cover of a material or of a crop, whose class ids are below 100."""
    if material < Material.GRASS:
        return LandCover.FIELD
    if among_houses and material in (Material.GRASS, Material.SCRUB, Material.FALLOW):
        return LandCover.GARDEN
    return _OF_MATERIAL.get(Material(material), LandCover.BUILT)


def most_common(cover_YX: np.ndarray, cells: int) -> np.ndarray:
    """Return the most common land cover of each pixel, uint8 H x W.

    Args:
        cover_YX: ``LandCover`` of each cell.
        cells: Number of cells along the side of a pixel.
    """
    height, width = cover_YX.shape[0] // cells, cover_YX.shape[1] // cells
    pixels = cover_YX.reshape(height, cells, width, cells)
    best_HW = np.zeros((height, width), np.uint8)
    most_HW = np.zeros((height, width), np.int64)
    for cover in LandCover:
        count_HW = (pixels == cover).sum((1, 3))
        best_HW[count_HW > most_HW] = cover
        most_HW = np.maximum(most_HW, count_HW)
    return best_HW
