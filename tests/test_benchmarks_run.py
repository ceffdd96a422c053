"""Every benchmark runs at a tiny size, each in a process of its own.

A benchmark that no longer fits the code would otherwise fail only when somebody measures.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from PIL import Image
from shapely.geometry import box

from cubes import LEFT, TOP, make_cube
from panoseg.simulation import SimulationOptions, write_pastis

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
TIMEOUT_S = 900
"""So long because other processes may use the machine; one core needs a few seconds for each."""
LIBRARIES = {"networks.py", "convolutions.py"}
"""Have no command; other benchmarks import them."""
TINY = {
    # A server with workers takes too long; the tests of the application start one.
    "app_kills.py": "--help",
    "app_load.py": "--help",
    "calibration.py": "patches --patches 1 --folds 1",
    "clouds.py": "--seasons 2",
    "coco_pairs.py": "--pairs 2",
    "dataset.py": "--size 64 --dates 2 --parcels 40 --patch 16",
    # Installs everything anew.
    "first_minutes.py": "--help",
    "fuzz.py": "--cases 1 --readers log",
    "gpu.py": "",
    "hub_networks.py": "rules --scenes 2",
    "large_area.py": "--size 64",
    "loader.py": "--patches 2 --batch-size 1 --workers 0 --epochs 1",
    "mapping.py": "--size 48 --dates 3",
    "metrics.py": "--coco-pairs 2 --map-size 256 --repeats 1",
    "models.py": "--models utae --size 16 --dates 2 --threads 1",
    "notebooks.py": "--tiny score",
    "outputs.py": "--offline",
    "photo.py": "a.jpg --repeats 1 --threads 1 --sizes 'as it is' --no-hub",
    "photographs.py": (
        "simulated out --photographs 5 --unseen 2 --size 64 --epochs 1 --figures 1 --threads 1"
    ),
    "real_season.py": "season.nc truth.gpkg",
    "same_budget.py": "out --epochs 1 --patches 10 --threads 1 --names pastis-utae",
    "simulated_against_real.py": "--seasons 1 --size 48",
    "simulation.py": "1",
    "stack_frames.py": "",
    "train_fields.py": "out --pieces 1 --patches 6 --kept 2 --size 32 --epochs 1",
    # Installs everything anew.
    "wheel.py": "--help",
    "hand_drawn.py": "season.nc drawn place",
    "adapt.py": "season.nc drawn place --steps 1 --simulated-seasons 1 --groups 1 --simulated patches",
}
"""Options of each benchmark, which runs in the folder ``inputs``."""


@pytest.fixture
def inputs(tmp_path):
    """A folder with a photograph of 64 x 64 pixels, and a season of four fields with its truth."""
    pixels_HW3 = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels_HW3).save(tmp_path / "a.jpg")
    cube, side, fields = make_cube(32), 16, []
    for number, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        rows = slice(side * row, side * (row + 1))
        columns = slice(side * column, side * (column + 1))
        for band in ("B04", "B08"):
            cube[band][:, rows, columns] //= number + 1
        left, top = LEFT + 10 * side * column, TOP - 10 * side * row
        fields.append(box(left, top - 10 * side, left + 10 * side, top))
    cube.to_netcdf(tmp_path / "season.nc")
    gpd.GeoDataFrame(geometry=fields, crs="EPSG:32631").to_file(tmp_path / "truth.gpkg")
    for reader in ("one", "two"):
        (tmp_path / "drawn" / reader).mkdir(parents=True)
        drawn_HW = np.kron(np.arange(1, 17, dtype=np.int32).reshape(4, 4), np.ones((8, 8), int))
        np.save(tmp_path / "drawn" / reader / "place.npy", drawn_HW)
        kinds = json.dumps([{"kind": "field"}] * 16)
        (tmp_path / "drawn" / reader / "place.json").write_text(kinds)
    return tmp_path


def test_every_benchmark_has_a_tiny_size():
    assert set(TINY) | LIBRARIES | {"all.py"} == {path.name for path in FOLDER.glob("*.py")}


def test_all_names_benchmarks_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from all import BENCHMARKS

    assert {name for name, _ in BENCHMARKS} <= set(TINY)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_benchmark_runs(name, inputs):
    if name in ("adapt.py", "calibration.py"):
        write_pastis(inputs / "patches", 5, (32, 32), options=SimulationOptions(dates=(2, 3)))
    done = subprocess.run(
        [sys.executable, FOLDER / name, *shlex.split(TINY[name])],
        cwd=inputs,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    if name == "gpu.py":
        assert done.stdout == "No GPU here: nothing was measured.\n"
