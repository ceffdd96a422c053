"""How a map is made. No heavy import in here, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from panoseg.errors import ConfigError


@dataclass(frozen=True)
class MapOptions:
    """How a map is made."""

    year: int | None = None
    """Harvest year; without it the one that most dates of the cube belong to."""
    min_clear: float = 0.1
    """Dates that show the ground on less than this share of the area are left out; other clouds stay in, as in training."""
    max_dates: int = 60
    """At most so many dates are used, the clearest of each stretch of the season."""
    min_dates: int = 2
    """With fewer usable dates there is no map."""
    tile: int = 128
    """Side of the tiles in pixels: what the network sees at once; best as in training."""
    overlap: int = 40
    """Pixels that neighbouring tiles share at least; parcels are recognised in them, so they should hold one."""
    min_area_ha: float = 0.05
    """Smaller parcels, and smaller crumbs beside a parcel, are taken out."""
    simplify: float = 1.0
    """How far borders are simplified, in pixels; 0 keeps the steps of the pixels."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network: bfloat16 is faster where the processor has it, and moves a few pixels."""
    gpkg: bool = False
    """Write parcels.gpkg as well."""

    def __post_init__(self) -> None:
        if self.year is not None and not 1985 <= self.year <= 2200:
            raise ConfigError(f"year {self.year}", "the year of a harvest, 1985 to 2200", "change --year")
        for name, low, high in (
            ("min_clear", 0, 1),
            ("max_dates", 1, 10_000),
            ("min_dates", 1, 10_000),
            ("tile", 16, 4096),
            ("overlap", 0, self.tile - 1),
            ("min_area_ha", 0, 10_000),
            ("simplify", 0, 10),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} {value}", f"{low} to {high}", f"change --{name.replace('_', '-')}")
