"""A dataset of simulated patches, whatever its layout: a patch depends only on the seed, its number and the options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from panoseg.data.npy import map_array
from panoseg.data.pastis_metadata import read_json
from panoseg.data.pieces import write_pieces
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.season import Layout, Season, check_size, simulate_season
from panoseg.errors import ConfigError, DatasetError

FIRST_ID = 10_000
_VERSION = 5
"""Raised whenever a seed gives other data, so that patches of two simulations are not mixed."""


class Form(Protocol):
    """How seasons become a dataset; crosses to other processes, so it holds plain values."""

    def mark(self) -> dict[str, Any]:
        """What tells this form from others in a folder's simulation.json."""

    def save(self, folder: Path, number: int, season: Season) -> dict[str, Any]:
        """Write the files of patch ``FIRST_ID`` + ``number``; returns what ``finish`` needs of it, JSON-ready."""

    def finish(self, folder: Path, records: list[dict[str, Any]]) -> None:
        """Write the tables of all patches."""


@dataclass(frozen=True)
class _Patches:
    """What a patch depends on, beside its number."""

    size: tuple[int, int]
    seed: int
    options: SimulationOptions
    maps: list[Path]
    form: Form

    def write(self, folder: Path, number: int) -> dict[str, Any]:
        layout = self._turned_map(number, self.maps[number % len(self.maps)]) if self.maps else None
        season = simulate_season(self.size, (self.seed, number), self.options, layout)
        return self.form.save(folder, number, season)

    def _turned_map(self, number: int, path: Path) -> Layout:
        """A given map of parcels, cut to size and in one of its eight positions."""
        parcels_HW = map_array(path, dimensions=2)
        rng = np.random.default_rng((self.seed, number, 1))
        parcels_HW = np.rot90(parcels_HW, int(rng.integers(4)))
        parcels_HW = parcels_HW[::-1] if rng.random() < 0.5 else parcels_HW
        height, width = self.size
        return Layout(np.ascontiguousarray(parcels_HW[:height, :width]))


def write_patches(
    folder: Path | str,
    patches: int,
    size: tuple[int, int],
    seed: int,
    options: SimulationOptions | None,
    workers: int | None,
    parcel_maps: Path | None,
    form: Form,
) -> Path:
    """Write ``patches`` seasons in a form; returns the folder. Arguments and errors as of ``write_pastis``."""
    options = options or SimulationOptions()
    if patches < 1:
        raise ConfigError(f"{patches} patches", "at least 1", "ask for more")
    check_size(size)
    maps = _parcel_maps(parcel_maps, size)
    contents = {
        "version": _VERSION,
        "size": size,
        "seed": seed,
        "options": asdict(options),
        "maps": [str(path) for path in maps],
    }
    names = [str(FIRST_ID + number) for number in range(patches)]
    patch = _Patches(size, seed, options, maps, form)
    records = write_pieces(folder, {**contents, **form.mark()}, names, patch.write, workers)
    form.finish(Path(folder), [read_json(record) for record in records])
    return Path(folder)


def _parcel_maps(folder: Path | None, size: tuple[int, int]) -> list[Path]:
    """The maps in a folder, each known to be readable and large enough, so that nothing is claimed in vain."""
    if folder is None:
        return []
    maps = sorted(Path(folder).glob("ParcelIDs_*.npy"))
    if not maps:
        raise DatasetError(f"no ParcelIDs_*.npy in {folder}", "maps of parcels", "give the ANNOTATIONS folder of a dataset")
    for path in maps:
        shape = map_array(path, dimensions=2).shape
        if min(shape) < max(size):
            raise DatasetError(f"{path} of {shape}", f"at least {max(size)} x {max(size)}", "use a smaller --size")
    return maps
