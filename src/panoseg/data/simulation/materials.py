"""What a unit of land is covered with: a crop (PASTIS class ids 1..18) or a material that is no parcel (ids from 100)."""

from __future__ import annotations

from enum import IntEnum


class Material(IntEnum):
    """Land cover outside parcels. Their numbers do not collide with class ids."""

    GRASS = 100
    """Verges, gardens, pastures that nobody declares."""
    SCRUB = 101
    BROADLEAF = 102
    CONIFER = 103
    HEDGE = 104
    WATER = 105
    ASPHALT = 106
    TRACK = 107
    ROOF_RED = 108
    ROOF_GREY = 109
    ROOF_WHITE = 110
    YARD = 111


MEADOW, WHEAT, CORN, WINTER_BARLEY, RAPESEED, SPRING_BARLEY, SUNFLOWER, GRAPEVINE, BEET = range(1, 10)
TRITICALE, DURUM, HORTICULTURE, POTATOES, FODDER, SOYBEANS, ORCHARD, MIXED_CEREAL, SORGHUM = range(10, 19)
VOID = 19
"""PASTIS's class ids by name; ``HORTICULTURE`` is "fruits, vegetables, flowers", ``FODDER`` is "leguminous fodder"."""
