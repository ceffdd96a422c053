"""How a cube is made from scenes. No heavy import in here, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from panoseg.errors import ConfigError

DEFAULT_CATALOGUE = "earth-search"
# Classes of Sen2Cor's scene classification: what is masked by each word.
MASKED_CLASSES = {"cloud": (8, 9, 10), "shadow": (3,), "snow": (11,), "nodata": (0, 1)}


@dataclass(frozen=True)
class CubeOptions:
    """How a cube is made from scenes."""

    min_clear: float = 0.1
    """Dates that show the ground on less than this share of the area are left out."""
    max_dates: int = 60
    """At most so many dates are used, the clearest of each stretch of the season."""
    mask: tuple[Literal["cloud", "shadow", "snow", "nodata"], ...] = ()
    """What becomes no data by the scene classification; without it clouds stay in, as in what
    networks learn from.
    """
    dilate_m: float = 60.0
    """How far around masked pixels is masked as well."""
    margin_m: float = 320.0
    """Land around the outline that is fetched too, so that a network sees what parcels at its edge
    border on.
    """
    threads: int = 8
    """Dates that are fetched at the same time; each takes about 80 MB of memory."""

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
                    f"{name} {value}", f"{low} to {high}", f"change --{name.replace('_', '-')}"
                )

    @property
    def masked_classes(self) -> tuple[int, ...]:
        """The classes that become no data."""
        return tuple(sorted(number for word in set(self.mask) for number in MASKED_CLASSES[word]))


@dataclass(frozen=True)
class AreaOptions:
    """The season of an area in a catalogue, for a map without a cube."""

    area: Path | None = None
    """File with an outline, instead of a cube: its season is fetched from a catalogue, and mapped
    inside the outline.
    """
    season: int | None = None
    """With --area: the year of the harvest."""
    catalog: str = DEFAULT_CATALOGUE
    """With --area: earth-search, planetary-computer, copernicus, or the URL of a STAC API."""
    collection: str | None = None
    """With --area: a collection of the catalogue, if not its usual one with Sentinel-2 L2A."""
    yes: bool = False
    """With --area: fetch, however much it is."""
    keep_cube: bool = True
    """With --area: the fetched cube stays beside the map."""
