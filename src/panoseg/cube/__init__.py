"""Cubes: open, check and make them; choose the season and read the windows of a network.

The options of cubes and of their source are in this file. It imports nothing heavy, so that
``--help`` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from panoseg.errors import ConfigError

DEFAULT_CATALOGUE = "earth-search"
"""The catalogue that is searched if none is named; a key of ``imagery.catalogue.CATALOGUES``."""

# Classes of Sen2Cor's scene classification by kind of pixel.
MASKED_CLASSES = {"cloud": (8, 9, 10), "shadow": (3,), "snow": (11,), "nodata": (0, 1)}


@dataclass(frozen=True)
class ValueOptions:
    """What a file does not say about its bands and numbers."""

    bands: str | None = None
    """Names of bands in the file, where they are not recognised: B08=NIR,B8A=BROADNIR. Bands that
    are not listed are recognised as before.
    """
    nodata: float | None = None
    """Number in the file that stands for no data, in addition to what the file says."""
    scale: float | None = None
    """Factor from the numbers in the file to reflectance 0-1, e.g. 0.0001, in place of the scale
    that the file states or that its values suggest.
    """
    offset: str | None = None
    """Number added to the numbers in the file before they are scaled, e.g. -1000; with a date, to
    images from that date on: -1000@2022-01-25.
    """

    def __post_init__(self) -> None:
        for name in ("nodata", "scale"):
            value = getattr(self, name)
            if value is not None and not abs(value) < float("inf"):
                raise ConfigError(f"--{name} must be a finite number, not {value}.")
        if self.scale is not None and self.scale <= 0:
            raise ConfigError(f"--scale must be above 0, not {self.scale:g}.")
        # Parsed here, so that a wrong one is refused before anything is read.
        _ = (self.band_of, self.stored_offset)

    @cached_property
    def band_of(self) -> dict[str, str]:
        """Name in the file -> band."""
        if self.bands is None:
            return {}
        from panoseg.imagery.sentinel2 import band_name

        pairs = [pair.partition("=") for pair in self.bands.replace(";", ",").split(",")]
        named = {name.strip(): band_name(band) for band, _, name in pairs}
        if not all(named) or None in named.values() or len(set(named.values())) < len(pairs):
            raise ConfigError(
                f"--bands {self.bands} is not understood; write each band once, with its name in"
                " the file: B08=NIR,B8A=BROADNIR."
            )
        return {name: str(band) for name, band in named.items()}

    @cached_property
    def stored_offset(self) -> tuple[float, date | None] | None:
        """The offset in numbers of the file, and the first day that has it (None for all)."""
        if self.offset is None:
            return None
        number, _, day = self.offset.partition("@")
        try:
            value = float(number)
            if abs(value) < float("inf"):
                return value, date.fromisoformat(day) if day else None
        except ValueError:
            pass
        raise ConfigError(
            f"--offset {self.offset} is not understood; write a number, or a number with a day:"
            " -1000 or -1000@2022-01-25."
        )


@dataclass(frozen=True)
class ReadOptions(ValueOptions):
    """What a file does not say about itself; everything else is read from the file."""

    crs: str | None = None
    """Coordinate system of x and y, e.g. EPSG:32631, in place of the one that the file states."""
    season_start: str | None = None
    """Month and day that start a season, e.g. 05-01. Default: that of the weights (09-01); half a
    year later south of the equator.
    """
    first: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """First day to use, e.g. 2019-05-01, in place of the season's."""
    last: Annotated[str | None, tyro.conf.arg(name="to")] = None
    """Last day to use, e.g. 2020-01-31, in place of the season's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = (self.start, self.days, self.crs_wkt)

    @cached_property
    def crs_wkt(self) -> str | None:
        """The coordinate system as WKT."""
        if self.crs is None:
            return None
        from panoseg.cube.metadata import crs_of

        found = crs_of(self.crs)
        if found is None:
            raise ConfigError(
                f"--crs {self.crs} is no coordinate system; write its number: EPSG:32631."
            )
        return found.to_wkt()

    @cached_property
    def start(self) -> tuple[int, int] | None:
        """Month and day of day 0; None where none is given."""
        if self.season_start is None:
            return None
        try:  # not in a leap year, because a season may start in any year
            day = date.fromisoformat(f"2001-{self.season_start}")
        except ValueError as error:
            raise ConfigError(
                f"--season-start {self.season_start} is not a month and a day; write it as in"
                " 05-01."
            ) from error
        return day.month, day.day

    @cached_property
    def days(self) -> tuple[date | None, date | None]:
        """First and last day to use; None where none is given."""
        first, last = (_day(name, getattr(self, name)) for name in ("first", "last"))
        if first is not None and last is not None and first > last:
            raise ConfigError(f"--from {first} lies after --to {last}; exchange them.")
        return first, last

    def to_json(self) -> dict[str, Any]:
        """Return the options that are given."""
        fields = ReadOptions.__dataclass_fields__
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


def _day(name: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        option = {"first": "from", "last": "to"}[name]
        raise ConfigError(f"--{option} {text} is not a date; write it as in 2019-05-01.") from error


@dataclass(frozen=True)
class CubeOptions:
    """How a cube is made from scenes."""

    min_clear: float = 0.1
    """Leave out dates that show the ground on less than this share of the area."""
    max_dates: int = 60
    """Largest number of dates; the clearest of each stretch of the season are used."""
    mask: tuple[Literal["cloud", "shadow", "snow", "nodata"], ...] = ()
    """Kinds of pixels in the scene classification that become no data; without it clouds stay in,
    as in the training data of the networks.
    """
    dilate_m: float = 60.0
    """Distance around masked pixels that is masked, too, in metres."""
    margin_m: float = 320.0
    """Land around the outline that is fetched, too, in metres, so that a network sees what borders
    on parcels at its edge.
    """
    threads: int = 8
    """Number of dates fetched at the same time; each takes about 80 MB of memory."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("min_clear", 0, 1),
            ("max_dates", 1, 10_000),
            ("dilate_m", 0, 2000),
            ("margin_m", 0, 10_000),
            ("threads", 1, 128),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {value}, and must be from {low} to {high}."
                )

    @property
    def masked_classes(self) -> tuple[int, ...]:
        """Classes of the scene classification that become no data, ascending."""
        return tuple(sorted(number for word in set(self.mask) for number in MASKED_CLASSES[word]))


@dataclass(frozen=True)
class AreaOptions:
    """The season of an area in a catalogue, for a map without a cube."""

    area: Path | None = None
    """File with an outline, instead of a cube: its season is fetched from a catalogue and mapped
    inside the outline.
    """
    season: int | None = None
    """With --area: the harvest year."""
    catalog: str = DEFAULT_CATALOGUE
    """With --area: earth-search, planetary-computer, copernicus, or the URL of a STAC API."""
    collection: str | None = None
    """With --area: a collection of the catalogue, if not its usual one with Sentinel-2 L2A."""
    yes: bool = False
    """With --area: fetch, no matter how large the download is."""
    keep_cube: bool = True
    """With --area: keep the fetched cube in the folder of the map."""
