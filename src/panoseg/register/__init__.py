"""Make training data from a register of parcels and seasons of images.

The options are in this file. It imports nothing heavy, so that ``--help`` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from panoseg.cube import CubeOptions, ReadOptions
from panoseg.errors import ConfigError
from panoseg.imagery import VectorOptions


@dataclass(frozen=True)
class RegisterOptions(VectorOptions):
    """How the file of a register is read, where it does not say it itself."""

    crs: Annotated[str | None, tyro.conf.arg(name="parcels-crs")] = None
    """Coordinate system of the parcels where their file states none or a wrong one, e.g. EPSG:4326;
    --crs is that of the cube.
    """


@dataclass(frozen=True)
class DatasetOptions:
    """How a register and cubes become a dataset."""

    size: int = 128
    """Side of a patch in pixels of 10 m."""
    season: int | None = None
    """Harvest year; without it the one with the most dates of a cube."""
    min_clear: float = 0.1
    """Leave out a date of a patch if less than this share of the patch shows the ground; other
    clouds stay in.
    """
    min_dates: int = 10
    """Leave out patches with fewer dates."""
    max_dates: int = 61
    """Largest number of dates of a patch; the clearest of each stretch of its season are used."""
    min_cover: float = 0.1
    """Leave out patches if parcels with a known crop cover less than this share."""
    min_inside: float = 0.5
    """A parcel of which less than this share lies in a patch is void there, as in PASTIS."""
    block: int | None = None
    """Patches on a side of the blocks of land that are assigned to folds or sets; without it 8, 4,
    2 or 1, by the number of patches.
    """
    centres: bool = False
    """Write INSTANCE_ANNOTATIONS, too (PASTIS's layout); without them readers compute them."""
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    """What the file of the season does not say about itself."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 16, 1024),
            ("season", 1985, 2200),
            ("min_clear", 0, 1),
            ("min_dates", 1, 10_000),
            ("max_dates", self.min_dates, 10_000),
            ("min_cover", 0, 1),
            ("min_inside", 0, 1),
            ("block", 1, 10_000),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {value}, and must be from {low} to {high}."
                )
        if self.size % 16:
            raise ConfigError(
                f"--size is {self.size}, and must be a multiple of 16, because networks halve"
                " images four times."
            )


@dataclass(frozen=True)
class FetchOptions:
    """Where a season comes from that is not on disk yet."""

    catalog: str | None = None
    """Fetch the season to OUT.zarr from earth-search, planetary-computer, copernicus, or the URL of
    a STAC API.
    """
    collection: str | None = None
    """A collection of the catalogue, if not its usual one with Sentinel-2 L2A."""
    area: Path | None = None
    """File with the outline of the land to fetch; without it the box around all parcels."""
    yes: bool = False
    """Fetch, no matter how large the download is."""
    fetch: CubeOptions = field(default_factory=CubeOptions)
    """How the cube is made."""

    def __post_init__(self) -> None:
        if self.catalog is None and (
            self.collection is not None
            or self.area is not None
            or self.yes
            or self.fetch != CubeOptions()
        ):
            raise ConfigError(
                "--area, --collection, --yes and --fetch options need --catalog: add it, or leave"
                " them out."
            )


@dataclass(frozen=True)
class AdaptOptions:
    """How weights are adapted to a season."""

    steps: int = 200
    """Steps of a training. Each takes a piece of the season and a simulated one, about a second on
    two cores; with two groups there are three trainings.
    """
    learning_rate: float = 0.002
    """Largest learning rate; it rises in the first tenth of the steps and falls to zero."""
    simulated: int = 40
    """Number of simulated seasons that are repeated, so that nothing is forgotten."""
    groups: int = 2
    """Number of groups, 1-4, of fields that lie together. Each is held out once, to tell whether
    weights that learn the others get better. With 1 the weights are written unmeasured.
    """
    seed: int = 0
    """Seed of the order in which pieces are drawn."""
    year: int | None = None
    """Harvest year. Default: the year to which most dates of the cube belong."""
    min_clear: float = 0.1
    """Skip dates on which less than this share of the area shows the ground, 0-1."""
    max_dates: int = 60
    """Maximum number of dates; of dates close together, the clearest are kept."""
    device: str = "auto"
    """Device of the network: auto, cpu, cuda, cuda:1 or mps."""
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    """What the file of the season does not say about itself."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 100_000),
            ("learning_rate", 1e-7, 1),
            ("simulated", 1, 10_000),
            ("groups", 1, 4),
            ("seed", 0, 2**31),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {value}, and must be from {low:g} to {high:g}."
                )
