"""The benchmarks of networks run and measure what they say, at a tiny size."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from panoseg.models.configs import SEASON_CONFIGS

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = ["--size", "16", "--dates", "2"]


@pytest.fixture
def script(monkeypatch):
    """A function from the name of a benchmark to its module."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    yield importlib.import_module
    for name in [
        name
        for name, module in sys.modules.items()
        if str(FOLDER) in str(getattr(module, "__file__", ""))
    ]:
        del sys.modules[name]


def run(module, monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", [module.__name__, *options])
    module.main()
    return capsys.readouterr().out


def table(text):
    """The rows of the first table, as cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], cells[2:]


def test_every_kind_of_network_is_measured(script):
    networks = script("networks").NETWORKS
    assert {config.name for config in networks.values()} == set(SEASON_CONFIGS)


def test_convolutions_alone_are_those_of_the_network(script):
    convolutions = script("convolutions")
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 4, 4, stride=2)
    )
    images = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        network(images)
    with convolutions.recorded() as forward, torch.no_grad():
        network(images)
        network(images)
    assert sorted(forward.values()) == [2, 2, 2]
    flop, seconds = convolutions.alone(forward, 1)
    assert flop == 2 * counter.get_total_flops()
    assert seconds > 0
    layouts = {call.arguments[0] for call in forward}
    assert convolutions.Layout((2, 3, 16, 16), images.stride(), torch.float32) in layouts
    with convolutions.recorded() as step:
        network(images).mean().backward()
    assert sum(step.values()) == 6
    # Gradients have calls, and time, of their own; a step counts as three forwards by its caller.
    assert convolutions.alone(step, 1)[0] == counter.get_total_flops()


def test_layouts_come_back(script):
    layout = script("convolutions").Layout
    spread = torch.zeros(()).expand(2, 3)
    sliced = torch.zeros(4, 6)[::2, 1::2]
    for tensor in (spread, sliced, torch.zeros(2, 3).t()):
        found = layout(tuple(tensor.shape), tensor.stride(), tensor.dtype).tensor()
        assert (found.shape, found.stride()) == (tensor.shape, tensor.stride())


def test_parcels_of_a_patch(script):
    found = script("networks").parcels(128, 2)
    assert found.zone_BHW.shape == (2, 128, 128)
    assert found.zone_BHW.unique().tolist() == list(range(1, 101))
    centres = (found.heatmap_BHW == 1).nonzero()
    assert len(centres) == 200
    assert found.zone_BHW[tuple(centres.T)].unique(return_counts=True)[1].tolist() == [2] * 100


def test_who_falls_short(script):
    passed = script("models").Pass
    assert not passed(1.0, share=0.67, alone=1.0, mib=0, waits_for="").falls_short
    assert passed(1.0, share=0.66, alone=1.0, mib=0, waits_for="").falls_short


def test_what_takes_the_time_is_named(script):
    square = torch.randn(700, 700)
    text = script("models").slowest_operations(lambda: square @ square @ square)
    name, share = text.split(", ")[0].split()
    assert name == "mm"
    assert int(share.removesuffix("%")) > 50
    assert text.endswith("convolutions themselves 0%")
    images, kernel = torch.randn(4, 32, 64, 64), torch.randn(32, 32, 3, 3)
    text = script("models").slowest_operations(lambda: torch.conv2d(images, kernel))
    assert int(text.split()[-1].removesuffix("%")) > 50


class Inline:
    """Runs in this process what the benchmark gives to another."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        self.function, self.arguments = function, arguments
        return self

    def result(self):
        return self.function(*self.arguments)


def test_the_table_of_networks(script, monkeypatch, capsys):
    models = script("models")
    monkeypatch.setattr(models, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(models, "matrix_product_rate", lambda: 1e12)
    text = run(models, monkeypatch, capsys, "--models", "utae", "utae-paps", *TINY)
    header, rows = table(text)
    assert [row[0] for row in rows] == ["U-TAE (`utae`)", "U-TAE + PaPs (`utae-paps`)"]
    assert [row[header.index("parameters")] for row in rows] == ["1,087,260", "1,259,673"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        models.Work.of("utae", 16, 2).forward()
    assert float(rows[0][header.index("GFLOP")]) == pytest.approx(
        counter.get_total_flops() / 1e9, rel=0.01
    )
    for row in rows:
        assert all(row)
        short = [] if row[-1] == "no" else row[-1].split(", ")
        for what in ("forward", "step"):
            assert (f"{row[0].split(' (')[0]}, {what}: waits for " in text) == (what in short)
    small, large = (models.Work.of("utae", size, 2).flop() for size in (16, 32))
    assert large > 3 * small


def test_memory_is_that_of_a_process_of_its_own(script, monkeypatch):
    models = script("models")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    held = torch.ones(64 * 2**20)  # 256 MiB here are none there
    with models.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        row = processes.submit(models.measure, "utae", 16, 2, 1).result()
    assert len(held)
    assert row.parameters == 1_087_260
    assert 0 < row.forward.mib <= row.step.mib < 256


def test_without_a_gpu_there_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(script("gpu"), monkeypatch, capsys) == "No GPU here: nothing was measured.\n"


def test_the_table_of_a_gpu(script, monkeypatch, capsys):
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "WARM_UP", 0)
    options = ["--device", "cpu", "--batch", "2", "--repeats", "1", "--no-compile", *TINY]
    text = run(gpu, monkeypatch, capsys, "--models", "utae", "utae-paps", *options)
    header, rows = table(text)
    assert [row[:2] for row in rows] == [
        ["U-TAE (`utae`)", "2"],
        ["U-TAE + PaPs (`utae-paps`)", "2"],
    ]
    for row in rows:
        named = dict(zip(header, row, strict=True))
        float32, fast = float(named["float32"]), float(named["everything on"])
        assert float(named["times faster"]) == pytest.approx(float32 / fast, abs=0.06)
        assert float(named["patches/s"]) == pytest.approx(2e3 / fast, rel=0.02, abs=0.1)
    assert text.count("PaPs head and merging, 1 centres, ") == 2


def test_a_network_that_fails_costs_its_row_alone(script, monkeypatch, capsys):
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "WARM_UP", 0)
    rows = {"utae": "| fine |"}
    monkeypatch.setattr(gpu, "steps_row", lambda name, *_: rows[name])
    monkeypatch.setattr(gpu, "head_line", lambda *_: "head")
    with pytest.raises(SystemExit, match="failed: fpn"):
        run(gpu, monkeypatch, capsys, "--device", "cpu", "--models", "fpn", "utae", *TINY)
    assert "| fine |" in capsys.readouterr().out


def test_a_batch_is_halved_until_it_fits(script, monkeypatch):
    gpu = script("gpu")
    tried = []

    class Work:
        @classmethod
        def of(cls, name, size, dates, batch, device):
            tried.append(batch)
            if batch > 2:
                raise torch.OutOfMemoryError("full")
            return cls()

        def loss(self):
            return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(gpu, "Work", Work)
    arguments = type("Arguments", (), {"batch": 8, "size": 16, "dates": 2, "device": "cpu"})
    assert gpu.largest_batch("utae", arguments) == 2
    assert tried == [8, 4, 2]


def test_a_dataset_is_made_and_measured(script, monkeypatch, capsys):
    options = ["--size", "64", "--dates", "2", "--parcels", "40", "--patch", "16"]
    heads, (row,) = table(run(script("dataset"), monkeypatch, capsys, *options))
    land, dates, parcels, patches, memory, seconds, processor = row
    assert heads[4] == "largest memory"
    assert (land, dates, parcels, patches) == ("64 x 64", "2", "40", "16")
    assert (
        float(memory.removesuffix(" GiB")) > 0.1
    )  # no bound above: the system tells the largest child of this process, so far
    assert float(seconds.removesuffix(" s")) > 0
    assert float(processor.removesuffix(" s")) > 0
