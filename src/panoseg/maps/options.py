"""How a map is made and refined. No heavy import in here, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from panoseg.errors import ConfigError


@dataclass(frozen=True)
class MapOptions:
    """How a map is made."""

    year: int | None = None
    """Harvest year; without it the one that most dates of the cube belong to."""
    min_clear: float = 0.1
    """Dates that show the ground on less than this share of the area are left out; other clouds
    stay in, as in training.
    """
    max_dates: int = 60
    """At most so many dates are used, the clearest of each stretch of the season."""
    min_dates: int = 2
    """With fewer usable dates there is no map."""
    tile: int = 128
    """Side of the tiles in pixels: what the network sees at once; best as in training."""
    overlap: int = 40
    """Pixels that neighbouring tiles share at least; parcels are recognised in them, so they should
    hold one.
    """
    tta: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 4
    """Number of test-time augmentations (flips and rotations) per tile, 1-8. Runtime grows
    linearly.
    """
    min_area_ha: float = 0.05
    """Smaller parcels, and smaller crumbs beside a parcel, are taken out."""
    simplify: float = 1.0
    """How far borders are simplified, in pixels; 0 keeps the steps of the pixels."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network: bfloat16 is faster where the processor has it, and moves a few
    pixels.
    """
    gpkg: bool = False
    """Write parcels.gpkg as well."""
    pmtiles: bool = False
    """Write parcels.pmtiles as well: vector tiles for maps on web pages."""
    rows_per_file: int = 100_000
    """With more parcels, parcels.parquet is a folder of files of so many."""

    def __post_init__(self) -> None:
        if self.year is not None and not 1985 <= self.year <= 2200:
            raise ConfigError(
                f"year {self.year}", "the year of a harvest, 1985 to 2200", "change --year"
            )
        for name, low, high in (
            ("min_clear", 0, 1),
            ("max_dates", 1, 10_000),
            ("min_dates", 1, 10_000),
            ("tile", 16, 4096),
            ("overlap", 0, self.tile - 1),
            ("tta", 1, 8),
            ("min_area_ha", 0, 10_000),
            ("simplify", 0, 10),
            ("rows_per_file", 1, 10_000_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"{name} {value}", f"{low} to {high}", f"change --{name.replace('_', '-')}"
                )


@dataclass(frozen=True)
class RunOptions:
    """Where a map is made, which does not change it."""

    workers: int = 1
    """So many processes on this machine share the work; 1: this one alone."""
    dask: str | None = None
    """Address of the scheduler of a dask cluster that does the work, e.g. tcp://scheduler:8786; its
    workers must find the cube under the same path.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 1024:
            raise ConfigError(f"workers {self.workers}", "1 to 1024", "change --workers")
        if self.dask is not None and self.workers != 1:
            raise ConfigError(
                "--workers with --dask",
                "one of both",
                "leave out --workers: the cluster has its own",
            )

    @property
    def local(self) -> bool:
        """Whether this process does all of it."""
        return self.dask is None and self.workers == 1


@dataclass(frozen=True)
class RefineOptions:
    """How parcels get one class each."""

    rule: Literal["hard", "soft"] = "hard"
    """hard: the class with the largest share of the parcel's area; soft: the class with the largest
    mean probability.
    """
    min_background: float | None = None
    """The background is chosen only above this share (without it 0.75) or mean probability
    (0.7).
    """
    ties: Literal["higher", "lower"] | None = None
    """Of classes with equal shares, the one with this number; without it the higher by the hard
    rule, the lower by the soft.
    """
    outside: Literal["background", "keep"] = "background"
    """Pixels of no parcel, or of one without a class: background, or what they were."""
    background: int = 0
    """The number of the background class."""

    def __post_init__(self) -> None:
        if self.min_background is not None and not 0 <= self.min_background <= 1:
            raise ConfigError(
                f"min_background {self.min_background}", "0 to 1", "change --min-background"
            )
        if not 0 <= self.background <= 254:
            raise ConfigError(
                f"background {self.background}", "a class from 0 to 254", "change --background"
            )

    @property
    def background_threshold(self) -> float:
        """What the background's share must exceed."""
        return (
            self.min_background
            if self.min_background is not None
            else 0.75
            if self.rule == "hard"
            else 0.7
        )

    @property
    def higher_wins(self) -> bool:
        """Whether the higher of two classes with equal shares is chosen."""
        return (self.ties or ("higher" if self.rule == "hard" else "lower")) == "higher"
