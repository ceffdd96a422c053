"""How the cover of each unit of land goes through the season: every unit has its own days and vigour.

Shape suffixes: T days, U units, P parcels.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from panoseg.data.simulation.annual import annual, horticulture
from panoseg.data.simulation.cover import Climate, Cover, Growth
from panoseg.data.simulation.crops import ANNUAL
from panoseg.data.simulation.materials import FODDER, GRAPEVINE, HORTICULTURE, MEADOW, ORCHARD
from panoseg.data.simulation.perennial import mown, rows, uncultivated


class Phenology:
    """Draws each unit's management once, then tells its cover on any days.

    Days may be fractional or outside the season.
    """

    def __init__(self, material_U: np.ndarray, parcel_U: np.ndarray, climate: Climate, rng: np.random.Generator) -> None:
        self.units = material_U.size
        self.groups = []
        for material in np.unique(material_U):
            index_U = np.flatnonzero(material_U == material)
            first_U = np.searchsorted(index_U, first_of_parcel(parcel_U)[index_U])
            self.groups.append((index_U, _draw(int(material), first_U, climate, rng)))

    def cover(self, days_T: np.ndarray) -> Cover:
        """The cover of all units on ``days_T``."""
        cover = Cover.bare(days_T.size, self.units)
        day_T1 = days_T.astype(np.float32)[:, None]
        for index_U, grow in self.groups:
            part = grow(day_T1)
            for field in fields(Cover):
                getattr(cover, field.name)[:, index_U] = getattr(part, field.name)
        return cover


def first_of_parcel(parcel_U: np.ndarray) -> np.ndarray:
    """For each unit the first unit of its parcel; itself outside parcels."""
    first_U = np.arange(parcel_U.size)
    _, first_P, inverse_U = np.unique(parcel_U, return_index=True, return_inverse=True)
    return np.where(parcel_U > 0, first_P[inverse_U], first_U)


def _draw(material: int, first_U: np.ndarray, climate: Climate, rng: np.random.Generator) -> Growth:
    """A function from days to the cover of the units of one material. first_U: the first unit of each one's parcel."""
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
