"""Two commands with one output: the second is told so in a line, and touches nothing."""

from __future__ import annotations

import json

import pytest
import shapely
from shapely.geometry import mapping

from cubes import make_cube
from mapping_weights import tiny_weights
from panoseg.cli import main
from panoseg.cube.store import work_folder
from panoseg.models.weights import save_weights
from registers import write_inputs
from waiting import held_elsewhere

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
