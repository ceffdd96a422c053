"""Options of cubes and of their source. No heavy import here, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from panoseg.errors import ConfigError

DEFAULT_CATALOGUE = "earth-search"
"""The catalogue that is searched if none is named; a key of ``imagery.catalogue.CATALOGUES``."""

# Classes of Sen2Cor's scene classification by kind of pixel.
MASKED_CLASSES = {"cloud": (8, 9, 10), "shadow": (3,), "snow": (11,), "nodata": (0, 1)}


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
