"""Two commands with one output: the second is told so in a line, and touches nothing."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import shapely
from shapely.geometry import mapping

from cubes import make_cube
from mapping_weights import tiny_weights
from panoseg.cli import COMMANDS, main
from panoseg.cli.output import Output, outputs_of
from panoseg.cube.store import work_folder
from panoseg.models.weights import save_weights
from registers import write_inputs
from tiny_runs import tiny_options, write_tiny_dataset
from waiting import held_elsewhere, wait_until

pytestmark = pytest.mark.usefixtures("short_lock_wait")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What the commands read."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "farm.geojson").write_text(
        json.dumps(mapping(shapely.box(4.06, 50.744, 4.064, 50.747)))
    )
    save_weights(folder / "weights", tiny_weights())
    write_inputs(folder, cube=make_cube(32))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "cube --area farm.geojson --season 2019 --catalog http://127.0.0.1:9 --out OUT",
        "map cube.nc --weights weights --out OUT",
        (
            "map --area farm.geojson --season 2019 --catalog http://127.0.0.1:9 --weights weights"
            " --out OUT"
        ),
        (
            "dataset --parcels register.gpkg --class-column crop --classes table.csv --cube cube.nc"
            " --out OUT"
        ),
    ],
)
def test_a_command_is_told_that_another_writes_its_output(
    given, tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(given)
    out = tmp_path / "out"
    with held_elsewhere(work_folder(out) if command.startswith("cube") else out):
        assert main(command.replace("OUT", str(out)).split()) == 2
        assert f"Another command writes {out}: wait until it ends" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def commands():
    """Every function that the command line parses, by its words."""
    for name, command in COMMANDS.items():
        module, _, function = command.target.partition(":")
        found = importlib.import_module(f"panoseg.cli.{module}")
        verbs = getattr(found, f"{name.upper()}_VERBS", None) or getattr(found, "VERBS", None)
        if not command.parses_arguments:
            yield name, getattr(found, function)
        elif name not in ("train", "app"):  # parse their own options
            for verb, (run, _) in verbs.items():
                yield f"{name} {verb}", run


def test_every_command_says_what_it_writes():
    """So that a new one holds its folder."""
    for words, function in commands():
        named = {name for name in inspect.signature(function).parameters if name == "out"}
        assert named <= set(outputs_of(function)), f"{words}: annotate out with Output"
    found = {words for words, run in commands() if Output.FOLDER in outputs_of(run).values()}
    assert found == {
        *("demo", "simulate", "dataset", "describe", "map", "adapt", "photo", "refine"),
        *("weights import", "job fetch", "coco merge", "coco convert", "coco shards"),
    }


WRITING = [
    "demo --out OUT",
    "simulate OUT --layout coco",
    "describe nothing --out OUT",
    "photo nothing.jpg --weights nothing --out OUT",
    "adapt nothing --fields nothing --out OUT",
    "refine nothing --out OUT",
    "weights import nothing OUT",
    "coco merge --semantic nothing --instances nothing --out OUT",
    "coco convert nothing --to panoptic --out OUT",
    "coco shards --data nothing --out OUT",
]


@pytest.mark.parametrize("command", WRITING)
def test_a_command_with_a_held_folder_is_refused_before_it_reads(tmp_path, capsys, command):
    out = tmp_path / "out"
    with held_elsewhere(out):
        assert main(command.replace("OUT", str(out)).split()) == 2
    told = capsys.readouterr().err
    assert f"Another command writes {out}: wait until it ends" in told
    if Path("/proc/locks").exists() and "It is process" in told:
        assert f"It is process {os.getpid()}" in told
    assert list(tmp_path.iterdir()) == []


def test_wait_waits_until_the_other_command_ends(tmp_path, capsys):
    out, done = tmp_path / "out", []

    def work():
        done.append(main(["simulate", str(out), "--cube", "--size", "16", "--wait"]))

    thread = threading.Thread(target=work)
    with held_elsewhere(out):
        thread.start()
        wait_until(lambda: "continues when it has ended" in capsys.readouterr().err, lambda: 0)
        assert list(out.iterdir()) == []
    thread.join()
    assert done == [0]
    assert sorted(path.name for path in out.iterdir()) == ["cube.nc", "parcels.gpkg"]


def test_what_fails_leaves_no_folder_and_no_parent(tmp_path, capsys):
    assert main(["refine", str(tmp_path / "nothing.tif"), "--out", str(tmp_path / "a/b/out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["parcels.gpkg", "OUT"], ids=["a file is removed", "the folder is removed"]
)
def test_done_is_said_of_what_is_there(tmp_path, monkeypatch, capsys, name):
    from panoseg.simulation import cube

    original, out = cube.write_cube, tmp_path / "out"

    def write_then_lose(folder, *arguments):
        original(folder, *arguments)
        shutil.rmtree(folder) if name == "OUT" else (folder / name).unlink()

    monkeypatch.setattr(cube, "write_cube", write_then_lose)
    assert main(["simulate", str(out), "--cube", "--size", "16"]) == 2
    told = capsys.readouterr()
    expected = "was removed while" if name == "OUT" else "lacks 1 of the 2 files"
    assert f"{out} {expected}" in told.err
    assert told.err.count("\n") == 1


def test_runs_and_scores_are_written_by_one_at_a_time(given, tmp_path, capsys):
    """Two trainings would both write the log. A run of all folds is held as a whole."""
    data = write_tiny_dataset(tmp_path / "data")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "folds.json").write_text("{}")
    new = f"train pastis-utae --data {data} {' '.join(tiny_options('pastis-utae'))} --out OUT"
    words = {
        "run": "train --resume OUT",
        "folds": "train --resume OUT",
        "new": new,
        "all": f"{new} --fold all",
        "scores": f"test --weights {given / 'weights'} --data {data} --every-patch --workers 0"
        " --out OUT",
    }
    for name, text in words.items():
        out = tmp_path / name
        with held_elsewhere(out):
            assert main(text.replace("OUT", str(out)).split()) == 2, name
        assert f"Another command writes {out}: wait" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "run"), "--wait"]) == 2  # held no longer
    assert "Another command" not in capsys.readouterr().err
