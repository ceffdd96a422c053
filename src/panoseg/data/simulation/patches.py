"""A dataset of simulated patches, whatever its layout: seeds, processes, and what continues after a stop.

A patch depends only on the seed, its number and the options, so an interrupted run continues, and a larger one keeps the
patches that exist. What the tables of a dataset need of a patch lies in .simulation/<id>.json, written when the patch is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from panoseg.data.npy import map_array
from panoseg.data.pastis_metadata import read_json
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.season import Layout, Season, check_size, simulate_season
from panoseg.errors import ConfigError, DatasetError, OutputError
from panoseg.files import new_folder, write_json
from panoseg.processes import usable_cores, worker_pool
from panoseg.progress import track

FIRST_ID = 10_000
_MARK = "simulation.json"
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
class _Job:
    """One patch to write."""

    folder: Path
    number: int
    size: tuple[int, int]
    seed: int
    options: SimulationOptions
    parcel_map: Path | None
    form: Form

    @property
    def record(self) -> Path:
        return self.folder / ".simulation" / f"{FIRST_ID + self.number}.json"


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
    folder = new_folder(folder, resumable=_MARK)
    contents = {"size": size, "seed": seed, "options": asdict(options), "maps": [str(path) for path in maps]}
    _claim(folder, {**contents, **form.mark()})
    jobs = [_Job(folder, n, size, seed, options, maps[n % len(maps)] if maps else None, form) for n in range(patches)]
    todo = [job for job in jobs if not job.record.exists()]
    for _ in track(_run(todo, workers), "simulating", total=len(todo)):
        pass
    form.finish(folder, [read_json(job.record) for job in jobs])
    return folder


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


def _claim(folder: Path, contents: dict[str, Any]) -> None:
    """Write down what the folder holds, or refuse to mix it with something else."""
    mark = json.loads(json.dumps({"version": _VERSION, **contents}))
    path = folder / _MARK
    if path.exists():
        found = read_json(path)
        found = found if isinstance(found, dict) else {}
        differing = [key for key in {**mark, **found} if found.get(key) != mark.get(key)]
        if differing:
            raise OutputError(
                f"{folder} holds a simulation with another {', '.join(differing)}",
                "the same seed, size, options and layout",
                "repeat them or choose another folder",
            )
    else:
        write_json(path, mark)


def _run(jobs: list[_Job], workers: int | None) -> Iterator[int]:
    workers = min(workers or usable_cores(), len(jobs))
    if workers <= 1:
        yield from map(_write_patch, jobs)
        return
    with worker_pool(workers) as pool:
        yield from pool.map(_write_patch, jobs)


def _write_patch(job: _Job) -> int:
    layout = None if job.parcel_map is None else _turned_map(job, job.parcel_map)
    season = simulate_season(job.size, (job.seed, job.number), job.options, layout)
    write_json(job.record, job.form.save(job.folder, job.number, season))
    return job.number


def _turned_map(job: _Job, path: Path) -> Layout:
    """A given map of parcels, cut to size and in one of its eight positions."""
    parcels_HW = map_array(path, dimensions=2)
    rng = np.random.default_rng((job.seed, job.number, 1))
    parcels_HW = np.rot90(parcels_HW, int(rng.integers(4)))
    parcels_HW = parcels_HW[::-1] if rng.random() < 0.5 else parcels_HW
    height, width = job.size
    return Layout(np.ascontiguousarray(parcels_HW[:height, :width]))
