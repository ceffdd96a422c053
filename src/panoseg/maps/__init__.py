"""A cube becomes parcels: tiles, prediction, joining, polygons, files.

The options of ``panoseg map`` and ``panoseg refine`` are in this file. It imports nothing heavy, so
that ``--help`` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from panoseg.cube import ReadOptions
from panoseg.errors import ConfigError


@dataclass(frozen=True)
class MapOptions:
    """Options that change a map."""

    year: int | None = None
    """Harvest year. Default: the year to which most dates of the cube belong."""
    min_clear: float = 0.1
    """Skip dates on which less than this share of the area shows the ground, 0-1. Clouds on the
    other dates stay in, as in training.
    """
    max_dates: int = 60
    """Maximum number of dates; of dates close together, the clearest are kept."""
    min_dates: int = 2
    """Minimum number of usable dates; with fewer no map is made."""
    tile: int = 128
    """Side of the tiles in pixels: the size of image that the network sees. Best as in training."""
    overlap: int = 40
    """Minimum overlap of neighbouring tiles in pixels. Parcels are matched there, so it should be
    about the width of a parcel.
    """
    tta: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 4
    """Number of test-time augmentations (flips and rotations) per tile, 1-8. Runtime grows
    linearly.
    """
    min_area_ha: float = 0.05
    """Minimum area in hectares of a parcel and of each of its parts; smaller ones are removed."""
    simplify: float = 1.0
    """Tolerance in pixels by which outlines are simplified; 0 keeps the exact pixel edges."""
    device: str = "auto"
    """Device of the network: auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network. bfloat16 is faster on processors that support it and changes a few
    pixels.
    """
    gpkg: bool = False
    """Also write parcels.gpkg."""
    pmtiles: bool = False
    """Also write parcels.pmtiles: vector tiles for web maps."""
    rows_per_file: int = 100_000
    """Maximum number of parcels in one file; with more, parcels.parquet is a folder of files."""
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    """What the file of the season does not say about itself."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("year", 1985, 2200),
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
            if value is not None and not low <= value <= high:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} must be from {low} to {high}, not {value}.")

    def to_json(self) -> dict[str, Any]:
        """Return the options by the names that files use, in which ``tta`` is ``views``.

        How the file is read is listed where it was given.
        """
        own = {"views" if name == "tta" else name: value for name, value in vars(self).items()}
        read = own.pop("read").to_json()
        return own | {"read": read} if read else own


@dataclass(frozen=True)
class RunOptions:
    """Options that say where a map is computed; they do not change it."""

    workers: int = 1
    """Number of processes on this machine."""
    dask: str | None = None
    """Address of the scheduler of a dask cluster that computes the map, e.g. tcp://scheduler:8786.
    Its workers must find the cube under the same path.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 1024:
            raise ConfigError(f"--workers must be from 1 to 1024, not {self.workers}.")
        if self.dask is not None and self.workers != 1:
            raise ConfigError(
                "Pass either --workers or --dask, not both: a cluster has its own workers."
            )

    @property
    def local(self) -> bool:
        """Whether this process computes the whole map."""
        return self.dask is None and self.workers == 1


@dataclass(frozen=True)
class RefineOptions:
    """How each parcel gets one class."""

    rule: Literal["hard", "soft"] = "hard"
    """hard: the class with the largest share of the parcel's area. soft: the class with the highest
    mean probability.
    """
    min_background: float | None = None
    """Choose the background only above this share of the area (default 0.75) or mean probability
    (default 0.7).
    """
    ties: Literal["higher", "lower"] | None = None
    """Which class number wins between equal shares. Default: the higher with the hard rule, the
    lower with the soft rule.
    """
    outside: Literal["background", "keep"] = "background"
    """Pixels outside of all parcels, or in a parcel without a class: set to background, or keep."""
    background: int = 0
    """Number of the background class, 0-254."""

    def __post_init__(self) -> None:
        if self.min_background is not None and not 0 <= self.min_background <= 1:
            raise ConfigError(f"--min-background must be from 0 to 1, not {self.min_background}.")
        if not 0 <= self.background <= 254:
            raise ConfigError(f"--background must be a class from 0 to 254, not {self.background}.")

    @property
    def background_threshold(self) -> float:
        """Share of the area or mean probability that the background must exceed to be chosen."""
        if self.min_background is not None:
            return self.min_background
        return 0.75 if self.rule == "hard" else 0.7

    @property
    def higher_wins(self) -> bool:
        """Whether the higher class number wins between equal shares."""
        return (self.ties or ("higher" if self.rule == "hard" else "lower")) == "higher"
