"""Sentinel-2's bands and their many names; the pixels of cubes.

panoseg's names are B01 .. B12, B8A, and SCL for the scene classification.
"""

from __future__ import annotations

import re

SCENE_CLASSIFICATION = "SCL"

PASTIS_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""The bands of PASTIS, in its order: those of 10 and 20 m."""

PIXEL_M = 10.0
"""Size of the finest pixels, which are those of cubes, in metres."""

_COMMON_NAMES = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "rededge071": "B05",
    "rededge075": "B06",
    "rededge078": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "narrownir": "B8A",
    "nirnarrow": "B8A",
    "nir09": "B09",
    "cirrus": "B10",
    "swir16": "B11",
    "swir1": "B11",
    "swir22": "B12",
    "swir2": "B12",
    "scl": SCENE_CLASSIFICATION,
}
_NUMBERED = re.compile(r"b(?:and)?0?(\d{1,2})(a?)")
_SUFFIX = re.compile(r"[-_ ](?:\d+m|jp2|tif|cog)$")


def band_name(text: str) -> str | None:
    """Return the band that a name means, or None.

    Numbers in any spelling are understood (``B2``, ``b02``, ``Band_2``, ``B8a``, ``B05_20m``), and
    the unambiguous common names of STAC (``blue``, ``rededge1``, ``nir08``). ``rededge`` alone
    stands for three bands, so it means none.

    >>> band_name("B2"), band_name("nir08"), band_name("B8a_20m"), band_name("rededge")
    ('B02', 'B8A', 'B8A', None)
    """
    plain = _SUFFIX.sub("", text.strip().lower())
    plain = re.sub(r"[-_ ]", "", plain)
    if plain in _COMMON_NAMES:
        return _COMMON_NAMES[plain]
    match = _NUMBERED.fullmatch(plain)
    if match is None:
        return None
    number, narrow = int(match[1]), match[2]
    if narrow:
        return "B8A" if number == 8 else None
    return f"B{number:02d}" if 1 <= number <= 12 else None
