"""Sentinel-2: its bands, the season of a harvest year, and dates and bands in names of files.

Sources of names: Earth Engine's system:index and ``toBands``; FORCE, naming convention of level 2
and of time series; sits, local cubes; openEO, batch results; ESA, names in SAFE archives; HLS user
guide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise

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


_DAY = re.compile(
    r"(?<!\d)(?P<year>\d{4})(?P<mark>[-_.]?)(?P<month>\d\d)(?P=mark)(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d)[-_:.]?(?P<minute>\d\d)(?:[-_:.]?(?P<second>\d\d))?)?(?!\d)"
)
# Year and day of the year. Seven digits may be any number, so only years of Sentinel-2 count.
_ORDINAL = re.compile(r"(?<!\d)(?P<year>20[12]\d)-?(?P<day>[0-3]\d\d)(?!\d)")
_FIRST_SENTINEL_2 = 2015
# Months and days without a leading zero, between two equal marks.
_SHORT_DAY = re.compile(
    r"(?<!\d)(?P<year>20[12]\d)(?P<mark>[-_])(?P<month>\d\d?)(?P=mark)(?P<day>\d\d?)(?!\d)"
)

# FORCE calls B8A, which Landsat has too, the near infrared, and B08 the broad near infrared.
_FORCE_BANDS = {
    "blu": "B02",
    "blue": "B02",
    "grn": "B03",
    "green": "B03",
    "red": "B04",
    "re1": "B05",
    "re2": "B06",
    "re3": "B07",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "bnr": "B08",
    "broadnir": "B08",
    "nir": "B8A",
    "sw1": "B11",
    "swir1": "B11",
    "sw2": "B12",
    "swir2": "B12",
}
_RED_EDGES = {"re1": "B05", "re2": "B06", "re3": "B07"}
_FORCE_NAME = re.compile(r"_LEVEL[23]_|_HL_(TSA|CSO|LSP|BAP|SMP)_|_SEN2[ABCDLH]_")
_FORCE_ONLY = re.compile(r"(?<![a-z])(bnr|broad[-_ ]?nir)(?![a-z])", re.IGNORECASE)
# The ten bands of a file of level 2 lie in the order of PASTIS.
_FORCE_LEVEL_2 = re.compile(r"_LEVEL2_SEN2[A-D]_BOA$")
_SITS_CLASSES = re.compile(r"^SENTINEL-2_MSI_\w+_CLOUD(_|$)")  # holds SCL
_OTHER_SATELLITE = re.compile(
    r"(?<![A-Za-z0-9])(L[COTEM]0[4-9]|LND0[4-9]|LANDSAT|L30|S1[AB]|SENTINEL-?1|MOD09\w*|MCD43\w*)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_TWO_WORDS = re.compile(r"(red)[-_ ]?(edge)[-_ ]?|(narrow|broad)[-_ ]?(nir)", re.IGNORECASE)
_WORDS = re.compile(r"[^0-9A-Za-z]+")
_NUMBERED_WORD = re.compile(r"b(?:and)?_?0?\d{1,2}a?", re.IGNORECASE)
_RESOLUTION = re.compile(r"R?\d{2}m|\(?Raw\)?", re.IGNORECASE)
_COUNTED = re.compile(r"(?:band|layer|lyr)[-_. ]?(\d+)", re.IGNORECASE)
_OTHER_PRODUCT = re.compile(
    r"(?<![A-Za-z0-9])(NDVI|EVI2?|SAVI|NDWI|NDMI|NBR|LAI|FAPAR|FCOVER|TCI|PVI|AOT|WVP)(?![A-Za-z])"
)


def dates_in(text: str) -> list[datetime]:
    """Return the dates in a name, in order, with the time of day where it is given.

    A year with the day of the year (2019091) counts only in a name without another date.

    >>> dates_in("S2_2019_04_01_B02"), dates_in("20190401T105031_20190402T000000_T31UES_B2")[0]
    ([datetime.datetime(2019, 4, 1, 0, 0)], datetime.datetime(2019, 4, 1, 10, 50, 31))
    >>> dates_in("HLS.S30.T31UES.2019091T105031.v2.0.B02")
    [datetime.datetime(2019, 4, 1, 0, 0)]
    >>> dates_in("T31UES_B02_10m"), dates_in("20191305"), dates_in("120190401")
    ([], [], [])
    """
    for form, read in ((_DAY, _day), (_SHORT_DAY, _day), (_ORDINAL, _ordinal)):
        found = [day for match in form.finditer(text) if (day := read(match)) is not None]
        if found:
            return found
    return []


def _day(match: re.Match[str]) -> datetime | None:
    given = {name: int(text) for name, text in match.groupdict().items() if text and name != "mark"}
    year, month, day = given["year"], given["month"], given["day"]
    hour, minute, second = (given.get(name, 0) for name in ("hour", "minute", "second"))
    if not FIRST_YEAR <= year <= LAST_YEAR:
        return None
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        try:
            return datetime(year, month, day)
        except ValueError:
            return None


def _ordinal(match: re.Match[str]) -> datetime | None:
    year, day = int(match["year"]), int(match["day"])
    date = datetime(year, 1, 1) + timedelta(days=day - 1)
    return date if day and date.year == year >= _FIRST_SENTINEL_2 else None


def without_dates(text: str) -> str:
    """Return a name without its dates."""
    form = next((form for form in (_DAY, _SHORT_DAY) if form.search(text)), _ORDINAL)
    return form.sub("", text)


def is_force(texts: Sequence[str]) -> bool:
    """Return whether names are those of FORCE, where NIR is B8A."""
    return any(_FORCE_NAME.search(text) or _FORCE_ONLY.search(text) for text in texts)


def is_other_satellite(name: str) -> bool:
    """Return whether a file is named as one of another satellite, whose B2 is not Sentinel-2's.

    >>> is_other_satellite("HLS.L30.T31UES.2019091.B05"), is_other_satellite("L2A_B05")
    (True, False)
    """
    return _OTHER_SATELLITE.search(name) is not None


def band_in(text: str, *, force: bool = False) -> str | None:
    """Return the band that a name names; None for none, or for several different ones.

    Numbers count before colours, because places may be called red or green.

    >>> band_in("SENTINEL-2_MSI_20LKP_B02_2018-07-12"), band_in("T31UES_20190401T105031_B8A_20m")
    ('B02', 'B8A')
    >>> band_in("red_edge_1"), band_in("B2, Blue (492 nm)"), band_in("B04_B08_ratio")
    ('B05', 'B02', None)
    >>> band_in("NIR"), band_in("NIR", force=True), band_in("2018_HL_TSA_SEN2L_BNR_TSI", force=True)
    ('B08', 'B8A', 'B08')
    """
    if _SITS_CLASSES.match(text):
        return SCENE_CLASSIFICATION
    if _OTHER_PRODUCT.search(text):
        return None
    joined = _TWO_WORDS.sub(lambda match: "".join(part for part in match.groups() if part), text)
    words = [word for word in _WORDS.split(without_dates(joined)) if word]
    pairs = [f"{first}{second}" for first, second in pairwise(words)]
    numbered = _bands([w for w in [*words, *pairs] if _NUMBERED_WORD.fullmatch(w)], force=False)
    if len(numbered) != 1:
        words = [w for w in words if not _NUMBERED_WORD.fullmatch(w)] if not numbered else []
        found = _bands(words, force) | (
            _bands([pair for pair in pairs if not _NUMBERED_WORD.fullmatch(pair)], force=force)
            if words
            else set()
        )
        return found.pop() if len(found) == 1 else None
    return numbered.pop()


def _bands(words: Sequence[str], force: bool) -> set[str]:
    table = _FORCE_BANDS if force else _RED_EDGES
    return {band for w in words if (band := table.get(w.lower()) or band_name(w))}


def bands_of_names(descriptions: Sequence[str], name: str) -> list[str | None]:
    """Return the band of each band of a file.

    Bands that are merely counted ("Band 1", "Band 2", ..) have no name. A file of one band, or
    whose bands are dates, may name its band itself.

    >>> bands_of_names(["B2", "B3"], "20190401"), bands_of_names(["Band 1", "Band 2"], "20190401")
    (['B02', 'B03'], [None, None])
    >>> bands_of_names(["20190401", "20190411"], "farm_B02")
    ['B02', 'B02']

    Args:
        descriptions: A description for each band, possibly empty.
        name: The file's name without its suffix, after those of its folders.
    """
    force = is_force([*descriptions, name])
    counted = [_COUNTED.fullmatch(text.strip()) for text in descriptions]
    numbers = [int(match[1]) for match in counted if match]
    if len(descriptions) > 1 and numbers == list(range(1, len(descriptions) + 1)):
        descriptions = [""] * len(descriptions)
    found = [band_in(text, force=force) for text in descriptions]
    if any(found):
        return found
    if len(descriptions) == len(PASTIS_BANDS) and _FORCE_LEVEL_2.search(name):
        return list(PASTIS_BANDS)
    if len(descriptions) == 1 or all(dates_in(text) for text in descriptions):
        return [band_of_path(name.split("/"), force=force)] * len(descriptions)
    return found


def band_of_path(parts: Sequence[str], *, force: bool = False) -> str | None:
    """Return the band that a file's name names, else that of the folder nearest to it."""
    return next((band for part in reversed(parts) if (band := band_in(part, force=force))), None)


def without_band(text: str, *, force: bool = False) -> str:
    """Return a name without its band and the size of pixels.

    Files of different bands of one scene have the same.

    >>> without_band("T31UES_20190401T105031_B02_10m"), without_band("R20m")
    ('T31UES_20190401T105031', '')
    """
    words = [word for word in re.split(r"[-_. ()]+", text) if word]
    kept = [
        word
        for word in words
        if not _RESOLUTION.fullmatch(word) and band_in(word, force=force) is None
    ]
    return "_".join(kept)
