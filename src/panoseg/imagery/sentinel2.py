"""Sentinel-2: names of its bands, and the season of a harvest year."""

from __future__ import annotations

import re
from datetime import date, timedelta

from panoseg.errors import ConfigError

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


# Years beyond these are mistakes in metadata; Python's calendar ends in 9999 and NumPy's in 2262.
FIRST_YEAR, LAST_YEAR = 1985, 2200

REFERENCE_DATE = "2018-09-01"
"""Day 0 of the seasons of PASTIS and of networks trained on it, unless options say otherwise."""

SEASON_START = (9, 1)
"""Month and day of day 0 of a season, in the year before the harvest."""

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
