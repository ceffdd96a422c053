"""The demonstration, with a tiny network and with the weights in the package."""

from __future__ import annotations

import pytest

from mapping_weights import tiny_weights
from panoseg.api import run_demo
from panoseg.cli import main
from panoseg.errors import OutputError, WeightsError
from panoseg.models.weights import default_weights, save_weights


def test_the_demo_maps_compares_and_reports(tmp_path):
    result = run_demo(tmp_path / "demo", 96, 0, tiny_weights())
    assert {entry.name for entry in (tmp_path / "demo").iterdir()} == {"season", "map"}
    assert {entry.name for entry in (tmp_path / "demo" / "season").iterdir()} == {
        "cube.nc",
        "parcels.gpkg",
    }
    assert result.comparison is not None
    assert result.comparison.true_parcels > 0
    assert "Comparison with true parcels" in result.report.read_text()


def test_a_landscape_without_parcels_is_no_mistake(tmp_path):
    assert run_demo(tmp_path / "demo", 32, 0, tiny_weights()).comparison is not None


def test_another_seed_is_another_landscape(tmp_path):
    first = run_demo(tmp_path / "a", 96, 0, tiny_weights())
    again = run_demo(tmp_path / "b", 96, 0, tiny_weights())
    other = run_demo(tmp_path / "c", 96, 1, tiny_weights())
    assert (first.picture.segment_HW == again.picture.segment_HW).all()
    assert first.picture.segment_HW.shape == other.picture.segment_HW.shape
    assert (first.picture.segment_HW != other.picture.segment_HW).any()


def test_the_command(tmp_path, capsys):
    save_weights(tmp_path / "weights", tiny_weights())
    arguments = [
        "demo",
        "--out",
        str(tmp_path / "demo"),
        "--size",
        "96",
        "--weights",
        str(tmp_path / "weights"),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "PQ" in printed
    assert f"open {tmp_path / 'demo' / 'map' / 'report.html'}" in printed
    assert main(arguments) == 2
    assert "a new or empty folder" in capsys.readouterr().err


def test_without_weights_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("panoseg.models.weights.PACKAGE_WEIGHTS", tmp_path / "weights")
    with pytest.raises(WeightsError):
        run_demo(tmp_path / "demo", 96)
    assert not (tmp_path / "demo").exists()


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        run_demo(tmp_path, 48, 0, tiny_weights())


def test_the_weights_in_the_package_find_parcels(tmp_path):
    try:
        default_weights()
    except WeightsError as error:
        pytest.skip(f"no weights in the package yet: {error}")
    result = run_demo(tmp_path / "demo", 128)
    assert result.comparison is not None
    assert result.comparison.quality.pq > 0.3
