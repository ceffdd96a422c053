"""Read dates and bands of Sentinel-2 from the names of files, folders and bands.

Sources: Earth Engine's system:index and ``toBands``; FORCE, naming convention of level 2 and of
time series; sits, local cubes; openEO, batch results; ESA, names in SAFE archives; HLS user guide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from panoseg.imagery.sentinel2 import (
    FIRST_YEAR,
    LAST_YEAR,
    PASTIS_BANDS,
    SCENE_CLASSIFICATION,
    band_name,
)

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
_NUMBERED = re.compile(r"b(?:and)?_?0?\d{1,2}a?", re.IGNORECASE)
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
    numbered = _bands([w for w in [*words, *pairs] if _NUMBERED.fullmatch(w)], force=False)
    if len(numbered) != 1:
        words = [w for w in words if not _NUMBERED.fullmatch(w)] if not numbered else []
        found = _bands(words, force) | (
            _bands([pair for pair in pairs if not _NUMBERED.fullmatch(pair)], force=force)
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
