"""Sentinel-2: names of its bands, and the season of a harvest year."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta

from panoseg.errors import ConfigError

SCENE_CLASSIFICATION = "SCL"

PASTIS_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""The bands of PASTIS, in its order: those of 10 and 20 m."""

PIXEL_M = 10.0
"""Size of the finest pixels, which are those of cubes, in metres."""

_COMMON_NAMES = {
    "coastal": "B01",
    "coastalaerosol": "B01",
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
    "nir1": "B08",
    "nir2": "B8A",
    "broadnir": "B08",
    "nirbroad": "B08",
    "nir08": "B8A",
    "narrownir": "B8A",
    "nirnarrow": "B8A",
    "nir09": "B09",
    "watervapour": "B09",
    "cirrus": "B10",
    "swir16": "B11",
    "swir1": "B11",
    "swir22": "B12",
    "swir2": "B12",
    "scl": SCENE_CLASSIFICATION,
    "sceneclassification": SCENE_CLASSIFICATION,
    "sceneclassificationmap": SCENE_CLASSIFICATION,
    "sceneclassificationlayer": SCENE_CLASSIFICATION,
    # The short names of FORCE, sen2r and eo-learn.
    "blu": "B02",
    "grn": "B03",
    "re1": "B05",
    "re2": "B06",
    "re3": "B07",
    "bnr": "B08",
    "sw1": "B11",
    "sw2": "B12",
}
# Names that mean another band where a name of their family stands next to them: the broad band of
# FORCE leaves ``nir`` to the narrow one, and Digital Earth Australia counts SWIR from 2.
_FAMILIES = (
    ({"broadnir", "nirbroad", "bnr"}, {"nir": "B8A"}),
    ({"swir3"}, {"swir2": "B11", "swir3": "B12"}),
)
_NUMBERED = re.compile(r"b(?:and)?0?(\d{1,2})(a?)")
_AFFIXES = re.compile(
    r"^(?:nbart?|s2|sr|boa|toc|refl?|reflectance)[-_. ]|[-_ ](?:\d+m|jp2|tif|cog)$"
)
_NOTHING = re.compile(r"[-_ ]")
# Centre wavelengths in nanometres (ESA, Sentinel-2A and 2B) are within 6 nm of these.
_WAVELENGTHS = {
    443: "B01", 492: "B02", 560: "B03", 665: "B04", 704: "B05", 740: "B06", 781: "B07",
    833: "B08", 842: "B08", 865: "B8A", 944: "B09", 1375: "B10", 1612: "B11", 2196: "B12",
}  # fmt: skip
_WAVELENGTH_TOLERANCE = 0.008  # of the wavelength
_MICROMETRES_BELOW = 10


def band_name(text: str) -> str | None:
    """Return the band that a name means, or None.

    Numbers in any spelling are understood (``B2``, ``b02``, ``Band_2``, ``B8a``, ``B05_20m``), and
    the unambiguous common names of STAC (``blue``, ``rededge1``, ``nir08``) and of FORCE.
    ``rededge`` alone stands for three bands, so it means none. Some names depend on their
    neighbours: see ``band_names``.

    >>> band_name("B2"), band_name("nir08"), band_name("B8a_20m"), band_name("rededge")
    ('B02', 'B8A', 'B8A', None)
    """
    plain = _plain(text)
    if plain in _COMMON_NAMES:
        return _COMMON_NAMES[plain]
    match = _NUMBERED.fullmatch(plain)
    if match is None:
        return None
    number, narrow = int(match[1]), match[2]
    if narrow:
        return "B8A" if number == 8 else None
    return f"B{number:02d}" if 1 <= number <= 12 else None


def band_names(names: Iterable[str]) -> dict[str, str]:
    """Return the band of each name that means one, where all names are of one file.

    FORCE calls B8A ``NIR`` and B08 ``BROADNIR``; Digital Earth Australia calls B11 ``nbart_swir_2``
    and B12 ``nbart_swir_3``.

    >>> band_names(["NIR"]), band_names(["BROADNIR", "NIR", "mask"])
    ({'NIR': 'B08'}, {'BROADNIR': 'B08', 'NIR': 'B8A'})
    """
    names = list(names)
    plain = {name: _plain(name) for name in names}
    own: dict[str, str] = {}
    for marks, meanings in _FAMILIES:
        if marks & set(plain.values()):
            own |= meanings
    found = {name: own.get(plain[name]) or band_name(name) for name in names}
    return {name: band for name, band in found.items() if band is not None}


def band_of_wavelength(wavelength: float) -> str | None:
    """Return the band with a centre wavelength in nanometres or micrometres, or None.

    >>> band_of_wavelength(664.6), band_of_wavelength(0.8648), band_of_wavelength(1200)
    ('B04', 'B8A', None)
    """
    nanometres = wavelength * 1000 if wavelength < _MICROMETRES_BELOW else wavelength
    nearest = min(_WAVELENGTHS, key=lambda known: abs(known - nanometres))
    near = abs(nearest - nanometres) <= _WAVELENGTH_TOLERANCE * nearest
    return _WAVELENGTHS[nearest] if near else None


def _plain(text: str) -> str:
    """Return a name in lower case without what files add to it."""
    return _NOTHING.sub("", _AFFIXES.sub("", _AFFIXES.sub("", text.strip().lower())))


# Years beyond these are mistakes in metadata; Python's calendar ends in 9999 and NumPy's in 2262.
FIRST_YEAR, LAST_YEAR = 1985, 2200

REFERENCE_DATE = "2018-09-01"
"""Day 0 of the seasons of PASTIS and of networks trained on it, unless options say otherwise."""

SEASON_START = (9, 1)
"""Month and day of day 0 of a season north of the equator, in the year before the harvest."""

# A season continues this long after the anniversary of its first day. Counted from the anniversary
# and not from day 0, so that 29 February makes a season longer and does not move its end.
_DAYS_AFTER_ANNIVERSARY = 60


def season_span(year: int, start: tuple[int, int] = SEASON_START) -> tuple[date, date]:
    """Return the first and the last day (both inclusive) of the season of a harvest year.

    A season that starts on 1 September ends on 31 October of the harvest year, in leap years too.

    >>> season_span(2020)
    (datetime.date(2019, 9, 1), datetime.date(2020, 10, 31))

    Args:
        year: Harvest year.
        start: Month and day of day 0, in the year before the harvest; not 29 February.

    Raises:
        ConfigError: There are no satellite images of that year.
    """
    if not FIRST_YEAR < year < LAST_YEAR:
        raise ConfigError(
            f"Season {year} is not possible: give a harvest year from {FIRST_YEAR + 1} to"
            f" {LAST_YEAR - 1}."
        )
    first = date(year - 1, *start)
    return first, season_end(first)


def season_end(first: date) -> date:
    """Return the last day of the season whose day 0 is ``first`` (not a 29 February)."""
    return first.replace(year=first.year + 1) + timedelta(days=_DAYS_AFTER_ANNIVERSARY)


def southern_start(start: tuple[int, int]) -> tuple[int, int]:
    """Return the month and day half a year later: where seasons start south of the equator.

    >>> southern_start((9, 1))
    (3, 1)
    """
    month, day = start
    return (month + 5) % 12 + 1, min(day, 28)
