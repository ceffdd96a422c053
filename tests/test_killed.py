"""Commands that are killed at any moment and started again give what they would have given, and
leave nothing next to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr

from cubes import make_cube
from mapping_weights import tiny_weights
from panoseg.maps.read_parcels import read_parcels
from panoseg.models.weights import save_weights
from registers import write_inputs
from waiting import signs_of_process, wait_until

MAP = "map CUBE --weights WEIGHTS --out OUT --tile 16 --overlap 4 --gpkg --min-area-ha 0.03"
SIMULATE = "simulate OUT --patches 2 --size 16 --workers 1 --centres"
CUBE = "simulate OUT --cube --size 16"
DATASET = (
    "dataset --parcels REGISTER --class-column crop --classes CODES --cube LAND --out OUT --size 16"
    " --min-dates 3"
)

# A command, what is counted, and the calls at which it is killed: just before a finished file gets
# its name, while the windows
# of a finished map are taken away.
MOMENTS = {
    "map": (MAP, "replace", (2, 4, 5, 7, 9, 10, 12, 14, 16, 17)),  # of 18, drawn by chance
    "map-at-its-end": (MAP, "unlink", (2,)),
    "simulate": (SIMULATE, "replace", (1, 8, 15)),
    "simulate-cube": (CUBE, "replace", (1,)),
    "dataset": (DATASET, "replace", (3, 18, 30, 52, 53)),
}

_DRIVER = """
import json, os, signal, sys
import dask.array, netCDF4, pyogrio, safetensors, tyro  # so that the children need not
import panoseg.simulation.cube, panoseg.simulation.write, panoseg.maps.mapping, panoseg.register.dataset
from panoseg.cli import main
from panoseg.maps import predict

predict.BLOCK_SIDE = 28  # four windows

def fatal(name, call):
    original, calls = getattr(os, name), []
    def wrapper(*args, **kwargs):
        calls.extend([1] * (name == "replace" or "dir_fd" in kwargs))  # shutil.rmtree says in which folder
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(os, name, wrapper)

def run(arguments, name=None, call=0):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
        try:
            if name:
                fatal(name, call)
            code = main(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for arguments, name, call in json.loads(sys.argv[1]):
    assert run(arguments, name, call) == (-signal.SIGKILL if name else 0), (arguments, name, call)
    assert run(arguments) == 0 if name else True, (arguments, name, call)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A season and weights; whole/NAME, made at one go; NAME-CALL, killed and started again."""
    folder = tmp_path_factory.mktemp("killed")
    make_cube(44).to_netcdf(folder / "season.nc")
    save_weights(folder / "weights", tiny_weights())
    register, codes, land = map(str, write_inputs(folder / "register"))
    runs = []
    for name, (text, function, calls) in MOMENTS.items():
        for call in (0, *calls):
            out = str(folder / (f"{name}-{call}" if call else f"whole/{name}"))
            words = {
                "OUT": out,
                "CUBE": str(folder / "season.nc"),
                "WEIGHTS": str(folder / "weights"),
            }
            words |= {"REGISTER": register, "CODES": codes, "LAND": land}
            runs.append(
                ([words.get(word, word) for word in text.split()], function if call else None, call)
            )
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, json.dumps(runs)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def content(path: Path) -> object:
    """What a file says; libraries write the time of writing into some."""
    if path.suffix in (".parquet", ".gpkg"):
        return read_parcels(path).to_csv()
    if path.suffix == ".tif":
        with rasterio.open(path) as source:
            return source.profile, source.tags(1), source.read().tobytes()
    if path.suffix == ".nc":
        with xr.open_dataset(path) as cube:
            return cube.load().to_dict()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "call"), [(name, call) for name, (*_, calls) in MOMENTS.items() for call in calls]
)
def test_killed_and_started_again(folder, name, call):
    whole, again = folder / "whole" / name, folder / f"{name}-{call}"
    assert files(again) == files(whole)
    assert not any(".part" in path or "unfinished" in path for path in files(whole))
    for path in files(whole):
        if (whole / path).is_file():
            np.testing.assert_equal(content(again / path), content(whole / path), path)


def start(*arguments: object) -> subprocess.Popen:
    words = [sys.executable, "-m", "panoseg", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(),
    reason="the system does not tell the children of a process",
)
def test_a_killed_simulation_takes_its_processes_with_it(tmp_path):
    options = "--size", 16, "--patches", 40
    started = start("simulate", tmp_path / "data", *options, "--workers", 2)
    wait_until(
        lambda: list((tmp_path / "data" / "DATA_S2").glob("S2_*")),
        lambda: signs_of_process(started.pid),
        0.02,
    )
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    assert len(children) >= 2
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    wait_until(
        lambda: not [child for child in children if Path(f"/proc/{child}").exists()],
        lambda: None,
        0.02,
    )
    assert not (tmp_path / "data" / "metadata.geojson").exists()
    assert start("simulate", tmp_path / "data", *options, "--workers", 2).wait() == 0
    assert start("simulate", tmp_path / "whole", *options, "--workers", 1).wait() == 0
    assert files(tmp_path / "data") == files(tmp_path / "whole")
    for path in filter(Path.is_file, (tmp_path / "whole").rglob("*")):
        assert (
            tmp_path / "data" / path.relative_to(tmp_path / "whole")
        ).read_bytes() == path.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_command_that_is_told_to_end_lets_go_and_says_how_to_go_on(tmp_path):
    command = ("simulate", tmp_path / "data", "--size", 16, "--patches", 60, "--workers", 1)
    words = [sys.executable, "-m", "panoseg", *map(str, command)]
    started = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    wait_until(
        lambda: list((tmp_path / "data" / "DATA_S2").glob("S2_*")),
        lambda: signs_of_process(started.pid),
        0.02,
    )
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate()
    assert started.returncode == 143, said
    assert said.splitlines()[-1] == "panoseg simulate: stopped; the same command continues"
    assert "Traceback" not in said
    assert not [name for name in files(tmp_path / "data") if ".part" in name]
    assert start(*command).wait() == 0
