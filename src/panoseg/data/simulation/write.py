"""Simulated seasons on disk in PASTIS's own layout.

    DATA_S2/S2_<id>.npy                int16 T x 10 x H x W, reflectance x 10 000
    ANNOTATIONS/TARGET_<id>.npy        uint8 3 x H x W, classes in the first layer
    ANNOTATIONS/ParcelIDs_<id>.npy     int32 H x W, 0 outside parcels
    INSTANCE_ANNOTATIONS/{HEATMAP,INSTANCES,ZONES}_<id>.npy   on request
    metadata.geojson, NORM_S2_patch.json

Layout after VSainteuf/pastis-benchmark @ 43a0ece. A patch depends only on the seed, its number and the options, so an
interrupted run continues, and a larger one keeps the patches that exist.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from panoseg.data.bands import PASTIS_BANDS
from panoseg.data.npy import map_array
from panoseg.data.pastis_metadata import read_json
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.season import Layout, Season, check_size, simulate_season
from panoseg.errors import ConfigError, DatasetError, OutputError
from panoseg.files import atomic, new_folder, write_json
from panoseg.progress import track

FIRST_ID = 10_000
FOLD_COUNT = 5
_MARK = "simulation.json"
_VERSION = 5
"""Raised whenever a seed gives other data, so that patches of two simulations are not mixed."""


@dataclass(frozen=True)
class _Job:
    """One patch to write."""

    folder: Path
    number: int
    size: tuple[int, int]
    seed: int
    options: SimulationOptions
    parcel_map: Path | None
    centres: bool

    @property
    def patch(self) -> int:
        return FIRST_ID + self.number

    def file(self, kind: str) -> Path:
        parents = {"S2": "DATA_S2", "TARGET": "ANNOTATIONS", "ParcelIDs": "ANNOTATIONS"}
        parent = parents.get(kind, "INSTANCE_ANNOTATIONS")
        return self.folder / parent / f"{kind}_{self.patch}.npy"

    @property
    def record(self) -> Path:
        return self.folder / ".simulation" / f"{self.patch}.json"


def write_pastis(
    folder: Path | str,
    patches: int,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
    options: SimulationOptions | None = None,
    workers: int | None = None,
    *,
    parcel_maps: Path | None = None,
    centres: bool = False,
) -> Path:
    """Write ``patches`` seasons in PASTIS's layout, in five folds; returns the folder.

    parcel_maps: a folder with ``ParcelIDs_*.npy`` whose parcels are used in turn, turned and mirrored. centres: write the
    targets of the panoptic head too, which readers otherwise compute. workers: processes; None takes one a core. A folder
    of an earlier run with the same seed, size and options is completed. Raises ``OutputError``, ``ConfigError``,
    ``DatasetError``.
    """
    options = options or SimulationOptions()
    if patches < 1:
        raise ConfigError(f"{patches} patches", "at least 1", "ask for more")
    check_size(size)
    maps = _parcel_maps(parcel_maps, size)
    folder = new_folder(folder, resumable=_MARK)
    _claim(
        folder,
        {"size": size, "seed": seed, "options": asdict(options), "maps": [str(path) for path in maps], "centres": centres},
    )
    jobs = [_Job(folder, n, size, seed, options, maps[n % len(maps)] if maps else None, centres) for n in range(patches)]
    todo = [job for job in jobs if not job.record.exists()]
    for _ in track(_run(todo, workers), "simulating", total=len(todo)):
        pass
    records = [read_json(job.record) for job in jobs]
    write_json(folder / "NORM_S2_patch.json", _normalisation(records))
    write_json(folder / "metadata.geojson", _metadata(records))
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


def _claim(folder: Path, contents: dict) -> None:
    """Write down what the folder holds, or refuse to mix it with something else."""
    mark = json.loads(json.dumps({"version": _VERSION, **contents}))
    path = folder / _MARK
    if path.exists():
        found = read_json(path)
        differing = [key for key in mark if not isinstance(found, dict) or found.get(key) != mark[key]]
        if differing:
            raise OutputError(
                f"{folder} holds a simulation with another {', '.join(differing)}",
                "the same seed, size and options",
                "repeat them or choose another folder",
            )
    else:
        write_json(path, mark)


def _run(jobs: list[_Job], workers: int | None) -> Iterator[int]:
    workers = min(workers or _cores(), len(jobs))
    if workers <= 1:
        yield from map(_write_patch, jobs)
        return
    # A fresh interpreter each: forking a process that holds torch's threads can hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_patch, jobs)


def _cores() -> int:
    """Cores that this process may use; where the system does not tell, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_patch(job: _Job) -> int:
    layout = None if job.parcel_map is None else _turned_map(job, job.parcel_map)
    season = simulate_season(job.size, (job.seed, job.number), job.options, layout)
    target_3HW = np.zeros((3, *season.classes_HW.shape), np.uint8)
    target_3HW[0] = season.classes_HW
    arrays = {"S2": season.images_TCHW, "TARGET": target_3HW, "ParcelIDs": season.parcels_HW}
    if job.centres:
        arrays |= _centre_maps(season)
    for kind, array in arrays.items():
        with atomic(job.file(kind)) as temporary:
            np.save(temporary, array)
    write_json(job.record, _record(job, season))
    return job.patch


def _centre_maps(season: Season) -> dict[str, np.ndarray]:
    from panoseg.data.centres import centre_targets, number_parcels  # torch, which workers do without

    instances_HW = number_parcels(season.parcels_HW, season.classes_HW)
    targets = centre_targets(instances_HW, season.classes_HW)
    return {
        "HEATMAP": targets.heatmap_HW.numpy().astype(np.float64),
        "INSTANCES": instances_HW,
        "ZONES": targets.zone_HW.numpy(),
    }


def _turned_map(job: _Job, path: Path) -> Layout:
    """A given map of parcels, cut to size and in one of its eight positions."""
    parcels_HW = map_array(path, dimensions=2)
    rng = np.random.default_rng((job.seed, job.number, 1))
    parcels_HW = np.rot90(parcels_HW, int(rng.integers(4)))
    parcels_HW = parcels_HW[::-1] if rng.random() < 0.5 else parcels_HW
    height, width = job.size
    return Layout(np.ascontiguousarray(parcels_HW[:height, :width]))


def _record(job: _Job, season: Season) -> dict:
    """What the dataset's metadata and normalisation need to know of one patch."""
    # The sums are exact integers; float64 holds them.
    flat_CN = season.images_TCHW.transpose(1, 0, 2, 3).reshape(len(PASTIS_BANDS), -1).astype(np.float64)
    return {
        "patch": job.patch,
        "fold": job.number % FOLD_COUNT + 1,
        "dates": [int(date.strftime("%Y%m%d")) for date in season.dates],
        "parcels": int(np.unique(season.parcels_HW[season.parcels_HW > 0]).size),
        "cover": float((season.parcels_HW > 0).mean()),
        "region": season.region,
        "epsg": season.epsg,
        "outline": season.outline(),
        "count": flat_CN.shape[1],
        "sum": flat_CN.sum(1).tolist(),
        "squares": np.einsum("cn,cn->c", flat_CN, flat_CN).tolist(),
    }


def _normalisation(records: list[dict]) -> dict:
    """Mean and standard deviation of each band in each fold that has patches."""
    folds = {}
    for fold in sorted({record["fold"] for record in records}):
        members = [record for record in records if record["fold"] == fold]
        count = sum(record["count"] for record in members)
        mean_C = np.sum([record["sum"] for record in members], axis=0) / count
        variance_C = np.sum([record["squares"] for record in members], axis=0) / count - mean_C**2
        folds[f"Fold_{fold}"] = {"mean": mean_C.tolist(), "std": np.sqrt(variance_C).tolist()}
    return folds


def _metadata(records: list[dict]) -> dict:
    """The GeoJSON collection of patches in Lambert-93, one feature each, as the genuine dataset has it."""
    from pyproj import Transformer

    features = []
    for index, record in enumerate(records):
        to_lambert = Transformer.from_crs(record["epsg"], 2154, always_xy=True)
        ring = [list(to_lambert.transform(*corner)) for corner in record["outline"]]
        properties = {
            "Fold": record["fold"],
            "ID_PATCH": record["patch"],
            "N_Parcel": record["parcels"],
            "Parcel_Cover": record["cover"],
            "TILE": record["region"],
            "dates-S2": {str(position): date for position, date in enumerate(record["dates"])},
            "id": str(record["patch"]),
        }
        geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
        features.append({"id": str(index), "type": "Feature", "properties": properties, "geometry": geometry})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    return {"type": "FeatureCollection", "features": features, "crs": crs}
