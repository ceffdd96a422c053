"""Files of the code before the redesign are read as they were: weights, runs to resume, and
options. See their README.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panoseg.cli import main
from panoseg.models.configs import CONFIGS, config_from_json, from_json
from panoseg.models.model import Model
from panoseg.models.weights import load_weights
from panoseg.panoptic import Panoptic
from panoseg.photo import PhotoOptions
from panoseg.photo.segment import open_model
from panoseg.training import TrainConfig
from panoseg.training.experiments import EXPERIMENTS
from photograph_networks import photograph
from photograph_runs import simulate_photographs
from tiny_runs import write_tiny_dataset

FOLDER = Path(__file__).parent / "fixtures" / "before_redesign"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
CONFIG_FILES = json.loads((FOLDER / "configs.json").read_text())
TOLERANCE = {"rel": 1e-4, "abs": 1e-4}


def machine() -> str:
    """As make.py says it: only on the same processor, with the same torch, are sums the same to the
    last bit.
    """
    try:
        information = Path("/proc/cpuinfo").read_text()
    except OSError:
        information = ""
    lines = {line for line in information.splitlines() if line.startswith(("model name", "flags"))}
    found = (
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        *sorted(lines),
    )
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


SAME_MACHINE = machine() == EXPECTED["made"]["machine"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As the files were made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """The old folders."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FOLDER / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """The dataset of each old run, made anew."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "season-run": write_tiny_dataset(folder / "seasons"),
        "photograph-run": simulate_photographs(folder / "photographs"),
    }


# Weights


def compare_picture(picture: Panoptic, expected: dict[str, Any]) -> None:
    segments = picture.segments
    assert segments.class_ids.tolist() == expected["classes"]
    assert segments.areas.tolist() == pytest.approx(expected["areas"], abs=3)
    assert segments.scores.tolist() == pytest.approx(expected["scores"], **TOLERANCE)
    if SAME_MACHINE:
        assert hashlib.sha256(picture.segment_HW.tobytes()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("views", [1, 4])
def test_weights_for_seasons(old, data, views):
    images_TCHW = np.load(data["season-run"] / "DATA_S2" / "S2_11.npy").astype(np.float32)
    weights = load_weights(old / "season-weights")
    model = Model.of(weights, device="cpu", tta=views, reference_date=date(2018, 9, 1))
    [picture] = model.predict_tiles([images_TCHW], np.array([30, 126, 231, 312]))
    compare_picture(picture, EXPECTED["pictures"][f"season, {views} views"])


def test_weights_for_photographs(old):
    model = open_model(str(old / "photograph-weights"), None, PhotoOptions(device="cpu"))
    picture = model.predict(Image.fromarray(photograph().image_CHW.permute(1, 2, 0).numpy()))
    compare_picture(picture, EXPECTED["pictures"]["photograph"])


# Runs


def compare_logs(found: list[str], expected: list[str]) -> None:
    """Losses to the tolerance; scores jump where a pixel changes its segment."""
    assert len(found) == len(expected)
    for row, other in zip(csv.DictReader(found), csv.DictReader(expected), strict=True):
        assert {name for name, cell in row.items() if cell} == {
            name for name, cell in other.items() if cell
        }
        split = row.pop("split")
        assert split == other.pop("split")
        tolerance = TOLERANCE if split == "train" else {"abs": 2.0}
        numbers, wanted = (
            {name: float(cell or 0) for name, cell in cells.items()} for cells in (row, other)
        )
        assert numbers == pytest.approx(wanted, **tolerance)


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_runs_go_on(old, data, name, capsys):
    """To the end that they came to with the old code."""
    run, expected = old / name, EXPECTED["runs"][name]
    before = (run / "log.csv").read_bytes()
    assert main(["train", "--resume", str(run), "--data", str(data[name])]) == 0
    assert "continues in epoch " in capsys.readouterr().out
    log = (run / "log.csv").read_bytes()
    assert log.startswith(before)
    compare_logs(log.decode().splitlines(), expected["log"])
    assert json.loads((run / "metrics.json").read_text())["test"] == pytest.approx(
        expected["test"], abs=2.0
    )
    if SAME_MACHINE:
        assert log.decode().splitlines() == expected["log"]
        assert (
            hashlib.sha256((run / "weights" / "model.safetensors").read_bytes()).hexdigest()
            == expected["sha256"]
        )


# Options


@pytest.mark.parametrize("name", CONFIG_FILES["networks"])
def test_options_of_networks(name):
    assert config_from_json(CONFIG_FILES["networks"][name]) == CONFIGS[name]()


@pytest.mark.parametrize("name", CONFIG_FILES["experiments"])
def test_options_of_experiments(name):
    assert from_json(TrainConfig, CONFIG_FILES["experiments"][name]) == EXPERIMENTS[name].config
