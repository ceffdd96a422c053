"""What a user's hands can break, and the one line that says so: options, checkpoints, logs, files
of other origins.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cubes import item, make_cube, write_stac
from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.data.pastis import fold_normalisation
from panoseg.errors import ConfigError, CubeError, DatasetError, PanosegError, WeightsError
from panoseg.imagery.scenes import read_scenes
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps import MapOptions
from panoseg.models.configs.season import UtaeConfig
from panoseg.models.published import read_options
from panoseg.text_files import LARGEST_JSON, read_json
from panoseg.training import OptimiserConfig, TrainConfig
from panoseg.training.checkpoint import (
    Progress,
    RunLog,
    applying,
    load_checkpoint,
    random_state,
    read_log,
    save_checkpoint,
)
from panoseg.training.loop import make_fabric
from tiny_runs import UTAE, write_tiny_dataset

TINY = TrainConfig(model=UTAE, workers=0, accelerator="cpu")


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_more_processes_than_cores_are_never_started(accelerator, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(ConfigError, match="at most 2, the cores"):
        make_fabric(replace(TINY, accelerator=accelerator, devices=3))


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="the machine has this kind of device")
def test_a_kind_of_device_that_is_absent_is_one_line():
    with pytest.raises(ConfigError, match="accelerator mps") as caught:
        make_fabric(replace(TINY, accelerator="mps"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**40}, {"checkpoint_minutes": float("nan")}]
)
def test_numbers_that_no_training_can_use(wrong):
    with pytest.raises(ConfigError, match="--" + next(iter(wrong)).replace("_", "-")):
        TrainConfig(**wrong)


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_learning_rates_are_finite(rate):
    with pytest.raises(ConfigError, match=r"--optimiser\.learning-rate must be a positive number"):
        OptimiserConfig(learning_rate=rate)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"encoder_widths": (0, 64, 64, 128)},
            r"encoder_widths must be at least 1, not \(0, 64, 64, 128\)",
        ),
        ({"head_widths": (-4,)}, r"head_widths must be at least 1, not \(-4,\)"),
        ({"encoder_widths": (6, 64, 64, 128), "aggregation": "mean"}, "multiples of 4"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"key_width": 0}, "key_width must be at least 1, not 0"),
        ({"encoder_widths": (64, 64, 64, 10**12)}, "at most 4096, not .* 1000000000000"),
        ({"d_model": 10**9}, "d_model must be at most 4096, not 1000000000"),
        ({"key_width": 1024}, "must be at most 4096, not 16 x 1 x 1024"),
        ({"classes": 0}, "classes must be at least 1, not 0"),
    ],
)
def test_networks_that_cannot_be_built(wrong, words):
    with pytest.raises(ConfigError, match=words):
        UtaeConfig(**wrong)


def _continue(path, optimiser):
    checkpoint = load_checkpoint(path)
    with applying(path):
        optimiser.load_state_dict(checkpoint.optimiser)


@pytest.mark.parametrize("name", ["model", "optimiser", "progress", "random_states"])
@pytest.mark.parametrize("value", [None, -1, "absent"])
def test_checkpoints_with_a_part_gone_or_replaced(tmp_path, name, value):
    path = tmp_path / "last.ckpt"
    model = torch.nn.Linear(2, 1)
    optimiser = torch.optim.Adam(model.parameters())
    save_checkpoint(path, model.state_dict(), optimiser.state_dict(), Progress(), [random_state()])
    content = torch.load(path, weights_only=True)
    content = {key: entry for key, entry in content.items() if key != name} | (
        {} if value == "absent" else {name: value}
    )
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"last\.ckpt cannot be continued"):
        _continue(path, optimiser)


def test_progress_that_is_not_whole_is_no_beginning(tmp_path):
    save_checkpoint(tmp_path / "last.ckpt", {}, {}, Progress(), [random_state()])
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save(content | {"progress": {}}, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match="progress"):
        load_checkpoint(tmp_path / "last.ckpt")
    for entry, value in (("epoch", -1), ("step", 0.5), ("best_score", "high"), ("best_epoch", -1)):
        wrong = {**content["progress"], entry: value}
        torch.save(content | {"progress": wrong}, tmp_path / "last.ckpt")
        with pytest.raises(WeightsError, match=f"{entry} is {value}"):
            load_checkpoint(tmp_path / "last.ckpt")
    torch.save(content | {"model": {"weight": [1.0]}}, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match="weight of the network is no tensor"):
        load_checkpoint(tmp_path / "last.ckpt")
    states = [{"torch": torch.zeros(1, dtype=torch.uint8).expand(2**33)}]
    torch.save(content | {"random_states": states}, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match="fewer numbers in the file"):
        load_checkpoint(tmp_path / "last.ckpt")


class _Code:
    def __reduce__(self):
        return os.system, ("true",)


def test_the_code_that_a_checkpoint_asks_for_is_named(tmp_path):
    torch.save({"model": _Code()}, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match=r"more than numbers \(\w+\.system\)"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_a_log_that_was_lost_or_cut_is_not_filled_with_nothing(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,step\n")
    with pytest.raises(ConfigError, match="has 11 bytes, but had 99 at the last checkpoint"):
        RunLog(tmp_path, ["loss"], (99, 5))
    assert (tmp_path / "log.csv").read_text() == "epoch,step\n"


def test_a_log_of_other_bytes_is_one_line(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe,\n")
    with pytest.raises(ConfigError, match=r"log\.csv cannot be read"):
        read_log(tmp_path / "log.csv")


def test_deviations_are_positive(tmp_path):
    data = write_tiny_dataset(tmp_path / "data", patches=5)
    text = (data / "NORM_S2_patch.json").read_text()
    (data / "NORM_S2_patch.json").write_text(text.replace('"std": [', '"std": [-', 1))
    with pytest.raises(DatasetError, match="not positive"):
        fold_normalisation(data, (1, 2, 3))


@pytest.mark.parametrize("year", [1, 99999])
def test_years_of_no_harvest(year):
    with pytest.raises(ConfigError, match=f"--year must be from 1985 to 2200, not {year}"):
        MapOptions(year=year)


def test_degrees_are_named_briefly():
    cube = make_cube().astype(np.float32)
    cube = cube.assign_coords(
        x=3 + np.arange(32) * 1e-4, y=50 - np.arange(32) * 1e-4
    ).odc.assign_crs(4326)
    with pytest.raises(CubeError, match=r"in degrees \(EPSG:4326\)"):
        check_cube(cube, PASTIS_BANDS)


def test_scales_that_are_no_numbers(tmp_path):
    write_stac(tmp_path, days=("2019-04-01",), bands=("B02",))
    asset = {"href": "./B02.tif", "raster:bands": [{"scale": float("nan")}]}
    path = tmp_path / "2019-04-01" / "item.json"
    path.write_text(json.dumps(item("scene", "2019-04-01T10:50:00Z", {"B02": asset})))
    with pytest.raises(CubeError, match="scale nan"):
        read_scenes(tmp_path)


def test_a_damaged_picture_says_nothing_beside_its_line(tmp_path, caplog):
    write_stac(tmp_path, days=("2019-04-01",), bands=("B02",), size=64)
    path = tmp_path / "2019-04-01" / "B02.tif"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(CubeError, match=r"2019-04-01/B02\.tif cannot be read"), reading(tmp_path):
        open_cube(tmp_path).compute()
    assert not caplog.records


@pytest.mark.parametrize(
    ("size", "words"), [(0, "not readable as a GeoTIFF"), (300, "no coordinate system")]
)
def test_a_raster_with_half_a_header_is_named(tmp_path, size, words):
    write_stac(tmp_path, days=("2019-04-01", "2019-06-01"), size=64)
    path = tmp_path / "2019-06-01" / "B11.tif"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CubeError, match=rf"2019-06-01/B11\.tif .*{words}"):
        open_cube(tmp_path)


def test_of_many_rasters_the_damaged_one_is_named(tmp_path):
    write_stac(tmp_path, days=("2019-04-01", "2019-06-01"), size=64)
    open_cube(tmp_path).compute()
    path = tmp_path / "2019-06-01" / "B11.tif"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CubeError, match=r"2019-06-01/B11\.tif cannot be read"), reading(tmp_path):
        open_cube(tmp_path).compute()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "99… is too large"),
        ('{"a": -1e400}', "-1e400 is too large"),
        ("\\ud800", "Expecting value"),
        (b"\xff\xfe{", "truncated data|Expecting"),
        ("[1]" + " " * 100, "103 bytes, too many"),
        (None, "it is a folder"),
    ],
)
def test_json_of_any_kind_fails_in_one_way(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words) as caught:
        read_json(path, 100 if "bytes" in words else LARGEST_JSON)
    assert len(str(caught.value)) < 200


@pytest.mark.skipif(os.name == "nt", reason="devices and pipes have no path on Windows")
def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for endless in (Path("/dev/zero"), tmp_path / "pipe"):
        for read in (read_json, read_log, read_options):
            with pytest.raises((ValueError, PanosegError), match="no regular file"):
                read(endless)


def test_a_message_is_one_short_line_for_any_value():
    code = str(PanosegError(f"The code {'9' * 5000} is not known.\nCorrect it."))
    assert code == f"The code {'9' * 79}… is not known. Correct it."
    name = str(PanosegError(f"The class '{'a b ' * 900}' of PASTIS's table is not 'c d'."))
    assert name == f"The class '{('a b ' * 20)[:79]}…' of PASTIS's table is not 'c d'."
    path = f"/data/{'x' * 200}/season.nc is damaged."
    assert str(PanosegError(path)) == path
    assert len(str(PanosegError("a b " * 10**6))) == 2000
