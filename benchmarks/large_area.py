"""What a map of a large area takes: ``python benchmarks/large_area.py [--size 10240] [--dates 3]
[--hosts 2]``.

A simulated piece of land is repeated over the area, mirrored, as compressed Zarr. The map is made
by a process of its own, or by worker processes of simulated hosts, each host with a folder of its
own. In addition to wall-clock time it prints processor time, which other work on the machine
does not lengthen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation.cube import simulate_cube
from panoseg.simulation.options import SimulationOptions

_PIECE = 1280
_CHUNK = 512
_GIB = 1024**3
_NO_PROFILE = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
"""As docs/mapping.md says: the record of each second grows for an hour."""
FRANCE_KM2 = 550_000


def write_large_cube(path: Path, size: int, dates: int) -> None:
    """A Zarr store of ``size`` x ``size`` pixels, chunk by chunk; every second repetition of the
    piece is mirrored.
    """
    side = min(size, _PIECE)
    piece, _ = simulate_cube(
        (side, side), 2_000_000, SimulationOptions(dates=(dates, dates), cloudy=(0.05, 0.1))
    )
    grid = GeoBox((size, size), piece.odc.geobox.affine, piece.odc.geobox.crs)
    coords = xr_coords(grid, always_yx=True) | {"time": piece.time}
    xr.Dataset(coords=coords).to_zarr(path, consolidated=False)
    store = zarr.open_group(path, mode="r+")
    rows = np.pad(np.arange(side), (0, size - side), "symmetric")
    for band in PASTIS_BANDS:
        values = piece[band].values.astype(np.uint16)
        array = store.create_array(
            band,
            shape=(dates, size, size),
            chunks=(1, min(size, _CHUNK), min(size, _CHUNK)),
            dtype="uint16",
            dimension_names=("time", "y", "x"),
            attributes={"grid_mapping": "spatial_ref"},
        )
        for date in range(dates):
            for top in range(0, size, _CHUNK):
                own = rows[top : top + _CHUNK]
                array[date, top : top + len(own)] = values[date][own][:, rows]


def note_work(file: Path) -> None:
    """Let this process write a line a window: when it was finished, its tiles, and how long it and
    the model worked on it.
    """
    from panoseg.maps import mapping, predict
    from panoseg.models.model import Model

    model, begun = {"model_seconds": 0.0, "model_worked": 0.0}, {"worked": 0.0}
    read, predict_tiles, finished = predict.OpenJob.read, Model.predict_tiles, predict.finished

    def timed_read(self, block):
        begun["worked"] = time.process_time()
        model.update(dict.fromkeys(model, 0.0))
        return read(self, block)

    def timed_predict(self, *given, **named):
        start, worked = time.monotonic(), time.process_time()
        found = predict_tiles(self, *given, **named)
        model["model_seconds"] += time.monotonic() - start
        model["model_worked"] += time.process_time() - worked
        return found

    def timed_finished(block, images, found):
        content = finished(block, images, found)
        line = {
            "at": time.time(),
            "tiles": len(block.tiles),
            "worked": time.process_time() - begun["worked"],
            **model,
        }
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        return content

    predict.OpenJob.read, Model.predict_tiles = timed_read, timed_predict
    predict.finished = mapping.finished = timed_finished


def dask_setup(worker: Any) -> None:
    """Called by dask in each worker process, which loads this file."""
    note_work(Path(worker.local_directory).parents[2] / f"work-{os.getpid()}.jsonl")


def map_here(cube: str, weights: str | None, out: str, views: int, dask: str | None) -> None:
    """Make the map in this process; prints what it took as JSON."""
    from panoseg.maps import MapOptions, RunOptions, mapping

    if dask is None:
        note_work(Path(out).parent / "work-0.jsonl")
    worked = time.process_time()
    result = mapping.map_cube(
        cube, weights, out, MapOptions(tta=views), running=RunOptions(dask=dask)
    )
    found = {
        "parcels": result.summary.count,
        "seconds": result.seconds,
        "worked": time.process_time() - worked,
        "ended": time.time(),
    }
    print(json.dumps(found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def processor_time(roots: list[int]) -> float:
    """Seconds that processors worked for some processes and their children."""
    family = [
        own
        for root in roots
        for own in (psutil.Process(root), *psutil.Process(root).children(recursive=True))
    ]
    return sum(sum(own.cpu_times()[:2]) for own in family)


class Watch(threading.Thread):
    """Watches how much memory some processes and their children have together."""

    def __init__(self, roots: list[int]) -> None:
        super().__init__(daemon=True)
        self.roots, self.peak = roots, 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, sum(map(_held, self.roots)))
            time.sleep(2)  # looking at every page of ten processes takes a tenth of a second


def _held(root: int) -> int:
    """Bytes of a process and its children; a page that n processes share counts 1/n in each (PSS),
    so that sums are right.
    """
    held = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(root)
        for own in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                held += own.memory_full_info().pss
    return held


def start_hosts(count: int, folder: Path) -> tuple[str, list[subprocess.Popen]]:
    """A scheduler, and hosts of two workers each."""
    file = folder / "scheduler.json"
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--port",
        "0",
        "--no-dashboard",
    ]
    quiet = {"stderr": subprocess.DEVNULL, "env": os.environ | _NO_PROFILE}
    started = [subprocess.Popen([*command, "--scheduler-file", str(file)], **quiet)]
    while not file.exists():
        time.sleep(0.1)
    for host in range(count):
        options = ["--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--name", f"host-{host}"]
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            "--scheduler-file",
            str(file),
            *options,
        ]
        command += ["--local-directory", str(folder / f"scratch-{host}"), "--preload", __file__]
        started.append(subprocess.Popen(command, **quiet))
    return json.loads(file.read_text())["address"], started


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the map; gives what it took, and the most memory of all processes together."""
    others: list[subprocess.Popen] = []
    inside = [
        str(arguments.cube or folder / "season.zarr"),
        str(arguments.weights or ""),
        str(folder / "map"),
        str(arguments.views),
    ]
    try:
        if arguments.hosts:
            address, others = start_hosts(arguments.hosts, folder)
            inside.append(address)
        started = subprocess.Popen(
            [sys.executable, __file__, "--inside", *inside], stdout=subprocess.PIPE, text=True
        )
        watch = Watch([started.pid, *(other.pid for other in others)])
        watch.start()
        said, _ = started.communicate()
        if started.returncode:
            raise SystemExit(started.returncode)
        found = json.loads(said.splitlines()[-1])
        found["worked"] += processor_time([other.pid for other in others])
    finally:
        for other in others:
            other.terminate()
            other.wait()
    lines = [
        json.loads(line)
        for file in folder.glob("work-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    return found | {"together": watch.peak, "windows": sorted(lines, key=lambda line: line["at"])}


def show(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print the table, and what a country of 550,000 km2 would take at this rate."""
    km2 = (arguments.size / 100) ** 2
    where = f"{arguments.hosts} hosts of 2 workers" if arguments.hosts else "one process"
    windows = found["windows"]
    tile_s = [window["worked"] / window["tiles"] for window in windows]
    part = max(1, len(windows) // 10)
    first, last = np.mean(tile_s[:part]), np.mean(tile_s[-part:])
    model, model_worked = (
        sum(window[name] for window in windows) for name in ("model_seconds", "model_worked")
    )
    model /= 2 * arguments.hosts or 1
    print(
        f"{arguments.size} pixels a side ({km2:.0f} km2), {arguments.dates} dates,"
        f" {len(PASTIS_BANDS)} bands; {where};"
    )
    print(
        f"weights: {arguments.weights or 'those in the package'}; images of a tile that the network"
        f" sees: {arguments.views}"
    )
    print("| what | measured |\n|---|---|")
    print(f"| parcels | {found['parcels']} |")
    print(f"| memory of all processes together, at most | {found['together'] / _GIB:.2f} GiB |")
    print(f"| memory of the process that was started, at most | {found['peak'] / _GIB:.2f} GiB |")
    print(f"| time | {found['seconds']:.0f} s, {km2 / found['seconds']:.3f} km2/s |")
    print(f"| the model alone, as many at once | {model:.0f} s, {km2 / model:.3f} km2/s |")
    after = found["ended"] - windows[-1]["at"]
    print(
        f"| behind the last window: joining, outlines, files | {after:.0f} s, {after / km2:.4f} s a"
        " km2 |"
    )
    print(
        f"| {len(windows)} windows, processor time a tile: first tenth, last tenth | {first:.3f} s,"
        f" {last:.3f} s |"
    )
    print(f"| processor time: all, the model | {found['worked']:.0f} s, {model_worked:.0f} s |")
    print(
        "| everything but the model, of processor time |"
        f" {1 - model_worked / found['worked']:.1%} |"
    )
    print(
        f"| {FRANCE_KM2} km2 at this rate | {FRANCE_KM2 / km2 * found['seconds'] / 86_400:.2f}"
        " days |"
    )


def main() -> None:
    """Make the cube, map it, print the table."""
    if sys.argv[1:2] == ["--inside"]:
        cube, weights, out, views, *dask = sys.argv[2:]
        map_here(cube, weights or None, out, int(views), dask[0] if dask else None)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_240)
    parser.add_argument("--dates", type=int, default=3)
    parser.add_argument(
        "--views",
        type=int,
        default=1,
        help="images of each tile that the network sees: 1 is quickest",
    )
    parser.add_argument(
        "--hosts",
        type=int,
        default=0,
        help="simulated hosts of two dask workers each; without, one process",
    )
    parser.add_argument(
        "--weights", type=Path, help="folder of weights; those in the package without"
    )
    parser.add_argument("--cube", type=Path, help="a cube that an earlier call has kept")
    parser.add_argument("--folder", type=Path, help="for the cube; a temporary one without")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        if arguments.cube is None:
            write_large_cube(Path(name) / "season.zarr", arguments.size, arguments.dates)
        show(arguments, run(arguments, Path(name)))


if __name__ == "__main__":
    main()
