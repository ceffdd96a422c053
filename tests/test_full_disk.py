"""A full disk, met for real: every command that writes ends in one line with code 2, and nothing
half-written is left.

Each command runs twice: where no file may grow beyond a limit, which every account may set for
itself, and on a file system of a few kilobytes, which takes the right to mount one.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cubes import make_cube
from mapping_weights import tiny_weights
from panoseg.errors import OutputError
from panoseg.files import atomic, new_folder, output_error, remove_unfinished, write_text
from panoseg.models.network import build_network
from panoseg.models.weights import save_weights
from registers import write_inputs
from small_networks import AUTHORS_CONFIG, AUTHORS_OPTIONS, authors_folder
from tiny_runs import tiny_options, write_tiny_dataset

# Arguments; the limit in bytes and the kilobytes of the file system; what is whole and may stay.
COMMANDS: dict[str, tuple[str, int, int, set[str]]] = {
    "simulate": ("simulate OUT --patches 1 --size 16 --workers 1", 40_000, 64, {"simulation.json"}),
    "simulate-cube": ("simulate OUT --cube --size 16", 100_000, 200, set()),
    "dataset": (
        (
            "dataset --parcels REGISTER --class-column crop --classes CODES --cube LAND --out OUT"
            " --size 16 --min-dates 3"
        ),
        40_000,
        64,
        {"dataset.json"},
    ),
    "train": ("train pastis-utae-paps --data DATA --out OUT --epochs 1 TINY", 9_000, 64, set()),
    "test": (
        "test --weights WEIGHTS --data DATA --every-patch --workers 0 --pictures 1 --out OUT",
        9_000,
        12,
        set(),
    ),
    "show": ("show WEIGHTS --data DATA --patch 10 --out OUT/figure.png", 9_000, 8, set()),
    "map": (
        "map CUBE --weights WEIGHTS --out OUT --tile 16 --overlap 4 --gpkg",
        60_000,
        100,
        {"parcels.parquet", "unfinished/plan.json", "unfinished/window-000000.npz"},
    ),
    "weights-import": ("weights import AUTHORS OUT --fold 1", 9_000, 16, set()),
    "weights-import-all": ("weights import AUTHORS OUT", 9_000, 80, set()),
    "compare": ("compare PARCELS PARCELS --json OUT/scores.json", 100, 0, set()),
    "demo": ("demo --weights WEIGHTS --out OUT --size 16", 100_000, 200, set()),
}

_DRIVER = """
import json, os, resource, subprocess, sys
from pathlib import Path
import panoseg.training.run, panoseg.training.evaluate, panoseg.simulation.cube, panoseg.maps.mapping, panoseg.training.transfer
import panoseg.register.dataset
import dask.array, lightning_fabric, matplotlib.figure, netCDF4, pyogrio, safetensors, tyro  # so that the children need not
from panoseg.cli import main

def run(arguments, limit):
    reader, writer = os.pipe()  # no file, which the limit would cut off
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writer, 2)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = 1
        try:
            code = main(arguments)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    error = os.fdopen(reader).read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), error

def mounted(folder, kilobytes):
    options = f"size={max(kilobytes, 4)}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        return False
    if not kilobytes:
        (folder / "filler").write_bytes(bytes(4096))
    return True

results = {"limit": {}, "tmpfs": {}}
for name, (arguments, limit, kilobytes) in json.loads(sys.argv[2]).items():
    for kind in results:
        disk = Path(sys.argv[1]) / kind / name
        disk.mkdir(parents=True)
        if kind == "tmpfs" and not mounted(disk, kilobytes):
            continue
        try:
            code, error = run([word.replace("OUT", str(disk / "out")) for word in arguments], kind == "limit" and limit)
            left = [str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file() and path.name != "filler"]
        finally:
            if kind == "tmpfs":
                subprocess.run(["umount", disk], check=True)
        results[kind][name] = {"code": code, "error": error, "left": left}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """The words of each command, their files made."""
    folder = tmp_path_factory.mktemp("full")
    make_cube(32).to_netcdf(folder / "season.nc")
    save_weights(folder / "weights", tiny_weights())
    write_tiny_dataset(folder / "data")
    for fold in range(1, 6):
        authors_folder(
            folder / "authors", AUTHORS_OPTIONS, build_network(AUTHORS_CONFIG).state_dict(), fold
        )
    box = {"type": "Polygon", "coordinates": [[[3, 50], [3.01, 50], [3.01, 50.01], [3, 50]]]}
    feature = {"type": "Feature", "properties": {"class": "corn"}, "geometry": box}
    (folder / "parcels.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature]})
    )
    names = {
        "CUBE": "season.nc",
        "WEIGHTS": "weights",
        "DATA": "data",
        "AUTHORS": "authors",
        "PARCELS": "parcels.geojson",
    }
    names |= dict(
        zip(("REGISTER", "CODES", "LAND"), write_inputs(folder / "register"), strict=True)
    )
    paths = {word: [str(folder / name)] for word, name in names.items()} | {
        "TINY": tiny_options("pastis-utae-paps")
    }
    return {
        name: (
            [part for word in text.split() for part in paths.get(word, [word])],
            limit,
            kilobytes,
        )
        for name, (text, limit, kilobytes, _) in COMMANDS.items()
    }


@pytest.fixture(scope="module")
def results(arguments, tmp_path_factory):
    """Of each command: its code, what it said, and the files that it left."""
    words = [
        sys.executable,
        "-c",
        _DRIVER,
        str(tmp_path_factory.mktemp("disks")),
        json.dumps(arguments),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(result: dict, words: str, may_stay: set[str]) -> None:
    lines = [
        line
        for line in result["error"].splitlines()
        if line.startswith(("panoseg", "Traceback")) or "rror" in line
    ]
    assert len(lines) == 1, result["error"]
    assert words in lines[0]
    assert "Cannot write" in lines[0]
    assert result["code"] == 2
    assert ".part" not in lines[0]
    assert set(result["left"]) <= {f"out/{name}" for name in may_stay}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_cannot_grow(results, name):
    check(results["limit"][name], "the file is larger than may be written", COMMANDS[name][3])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_file_system(results, name):
    if not results["tmpfs"]:
        pytest.skip("no right to mount a file system")
    check(results["tmpfs"][name], "the disk is full", COMMANDS[name][3])


def stopped_while_writing(
    path: Path, error: Exception, failures: tuple[type[Exception], ...] = ()
) -> None:
    with atomic(path, failures) as temporary:
        temporary.write_text("half")
        raise error


def test_an_error_inside_a_temporary_folder_names_the_folder(tmp_path):
    def write_folder() -> None:
        with atomic(tmp_path / "all") as temporary:
            temporary.mkdir()
            write_text(temporary / "file", "")
            write_text(temporary / "file" / "below", "")

    with pytest.raises(OutputError) as caught:
        write_folder()
    assert str(tmp_path / "all" / "file" / "below") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_library_does_not_tell_is_found_out(tmp_path):
    (tmp_path / "file").write_text("")
    error = output_error(tmp_path / "file" / "cube.nc", RuntimeError("NetCDF: HDF error"))
    assert "a part of the path is a file" in str(error)
    error = output_error(tmp_path / "cube.nc", RuntimeError("NetCDF: HDF error\nmore"))
    assert str(error).startswith(f"Cannot write {tmp_path / 'cube.nc'}: NetCDF: HDF error.")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_exceptions_that_nobody_named_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        stopped_while_writing(tmp_path / "file", RuntimeError("a bug"))
    with pytest.raises(OutputError, match="a library"):
        stopped_while_writing(
            tmp_path / "file", RuntimeError("a library"), failures=(RuntimeError,)
        )
    assert list(tmp_path.iterdir()) == []


def killed_while_writing(folder: Path) -> list[Path]:
    """Temporaries as they are while they are written, which nobody takes away."""
    left = []
    for name in ("cube.nc", "block-000001.npz", "weights"):
        with suppress(OutputError), atomic(folder / name) as temporary:
            left.append(temporary)
            raise OSError(errno.EIO, "stop")
    left[0].write_text("half")
    left[1].write_text("half")
    left[2].mkdir()
    (left[2] / "model.safetensors").write_text("half")
    return left


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "below").mkdir()
    left = killed_while_writing(tmp_path) + killed_while_writing(tmp_path / "below")
    kept = [
        tmp_path / ".my.part",
        tmp_path / "notes.part.txt",
        tmp_path / ".cube.part.nc",
        tmp_path / ".cube.1234567g.part.nc",
    ]
    for path in kept:
        path.write_text("mine")
    remove_unfinished(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_an_output_folder_with_nothing_but_what_a_killed_process_left_is_new(tmp_path):
    left = killed_while_writing(tmp_path)
    assert new_folder(tmp_path) == tmp_path
    assert not any(path.exists() for path in left)


def test_a_folder_that_is_refused_is_not_touched(tmp_path):
    left = killed_while_writing(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds 1 file \(thesis\.tex\)"):
        new_folder(tmp_path)
    assert all(path.exists() for path in left)
