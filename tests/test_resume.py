"""A run that is killed at any moment and resumed equals one that never stopped, bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from panoseg.cli import main
from panoseg.data import AugmentationConfig
from panoseg.errors import ConfigError, DatasetError
from panoseg.training import DataConfig, OptimiserConfig, TrainConfig
from panoseg.training.checkpoint import load_checkpoint
from panoseg.training.run import longer, resume, start
from tiny_runs import PAPS, UTAE, write_tiny_dataset

PANOPTIC = TrainConfig(
    model=PAPS,
    data=DataConfig(
        augmentation=AugmentationConfig(flips=True, turns=True, min_dates=2, noise=30.0)
    ),
    optimiser=OptimiserConfig(
        learning_rate=0.01, schedule="cosine", warm_up_steps=2, gradient_clip=1.0
    ),
    epochs=2,
    batch_size=1,
    heatmap_only_epochs=1,
    accelerator="cpu",
    workers=0,
    log_every=2,
    checkpoint_minutes=0,
)
SEMANTIC = replace(
    PANOPTIC,
    model=UTAE,
    heatmap_only_epochs=0,
    workers=1,
    optimiser=OptimiserConfig(schedule="milestones", milestones=(1,)),
)
CONFIGS = {"panoptic": PANOPTIC, "semantic": SEMANTIC}

# Six steps an epoch, a checkpoint after each second one and after each validation.
MOMENTS = {
    "panoptic-before-any-checkpoint": ("panoptic", "_descend", 2),
    "panoptic-in-an-epoch": ("panoptic", "_descend", 10),
    "panoptic-in-a-validation": ("panoptic", "evaluate", 2),
    "panoptic-while-writing": ("panoptic", "write_bytes", 6),
    "semantic-in-an-epoch": ("semantic", "_descend", 10),
}

_KILLED = """
import json, os, signal, sys, time
from pathlib import Path
import panoseg.training.run as run
from panoseg.training import loop, scorers
from test_resume import CONFIGS

def fatal(owner, name, call):
    original, calls = getattr(owner, name), []
    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            if name == "write_bytes":
                original(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, wrapper)

data, moments = Path(sys.argv[1]), json.loads(sys.argv[2])
import lightning_fabric  # so that the children need not
for folder, (config, where, call) in moments.items():
    child = os.fork()
    if child == 0:
        owner = {"_descend": loop.Training, "evaluate": scorers.Parcels, "write_bytes": Path}[where]
        fatal(owner, where, call)
        run.start("test", CONFIGS[config], data, 1, Path(folder))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_predictions", "draw_scores"):
            patch.setattr(f"panoseg.training.run.{name}", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Runs that were never stopped, under the name of their configuration, and killed ones, under
    that of their moment.
    """
    folder = tmp_path_factory.mktemp("resume")
    data = write_tiny_dataset(folder / "data")
    for name, config in CONFIGS.items():
        start("test", config, data, 1, folder / name)
    moments = {str(folder / name): moment for name, moment in MOMENTS.items()}
    command = [sys.executable, "-c", _KILLED, str(data), json.dumps(moments)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, capture_output=True, timeout=300)
    shutil.copy(folder / "panoptic-in-an-epoch" / "last.ckpt", folder / "panoptic-killed.ckpt")
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_resumed_run_equals_the_uninterrupted_one(runs, moment):
    killed, whole = runs / moment, runs / MOMENTS[moment][0]
    assert not (killed / "metrics.json").exists()
    lines: list[str] = []
    resume(killed, report=lines.append)
    said = "\n".join(lines)
    assert ("continues in epoch " in said) == (moment != "panoptic-before-any-checkpoint"), said
    assert (killed / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    first, second = (load_checkpoint(folder / "last.ckpt") for folder in (killed, whole))
    assert first.model.keys() == second.model.keys()
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    assert first.progress == second.progress
    assert (killed / "weights/model.safetensors").read_bytes() == (
        whole / "weights/model.safetensors"
    ).read_bytes()
    assert (killed / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert not list(killed.glob(".*.part*"))


def test_checkpoints_lie_inside_epochs(runs):
    """Else the comparison above would only show that trainings repeat from their start."""
    killed = load_checkpoint(runs / "panoptic-killed.ckpt").progress
    assert (killed.epoch, killed.step, killed.total_steps) == (1, 2, 8)


def test_a_dataset_may_have_moved(runs):
    (runs / "data").rename(runs / "elsewhere")
    try:
        with pytest.raises(DatasetError, match="does not exist"):
            resume(runs / "semantic")
        resume(runs / "semantic", runs / "elsewhere")
    finally:
        (runs / "elsewhere").rename(runs / "data")


def test_weights_to_start_from_are_not_needed_again(runs):
    """A checkpoint holds all parameters, so the weights that a run has started from may be gone."""
    config = replace(SEMANTIC, start_from=str(runs / "origin"), max_steps_per_epoch=1)
    shutil.copytree(runs / "semantic" / "weights", runs / "origin")
    start("test", config, runs / "data", 1, runs / "started")
    shutil.rmtree(runs / "origin")
    (runs / "started" / "metrics.json").unlink()
    resume(runs / "started")
    assert (runs / "started" / "metrics.json").exists()


def test_resuming_a_finished_run_changes_nothing(runs):
    before = (
        (runs / "panoptic" / "log.csv").read_bytes(),
        (runs / "panoptic" / "metrics.json").read_text(),
    )
    lines: list[str] = []
    resume(runs / "panoptic", report=lines.append)
    assert "trained to the end of epoch 2 before" in "\n".join(lines)
    assert (
        (runs / "panoptic" / "log.csv").read_bytes(),
        (runs / "panoptic" / "metrics.json").read_text(),
    ) == before


def test_a_finished_run_goes_on_beyond_its_planned_epochs(runs, tmp_path, capsys):
    config = replace(SEMANTIC, workers=0)
    data = runs / "data"
    start("test", replace(config, epochs=3), data, 1, tmp_path / "planned")
    start("test", replace(config, epochs=1), data, 1, tmp_path / "run")
    (tmp_path / "run" / "metrics.md").write_text("of one epoch")
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs", "3"]) == 0
    assert "continues in epoch 2 of 3" in capsys.readouterr().out
    for name in ("weights/model.safetensors", "metrics.json", "metrics.md"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("planned", "run"))
        assert one == other, name
    one, other = (load_checkpoint(tmp_path / run / "last.ckpt") for run in ("planned", "run"))
    assert all(torch.equal(value, other.model[name]) for name, value in one.model.items())
    # It is a run of three epochs from now on.
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs", "2"]) == 2
    assert "has 3 epochs; pass --epochs 4 or more" in capsys.readouterr().err
    cosine = longer(PANOPTIC, 9)
    assert (cosine.epochs, cosine.optimiser) == (9, PANOPTIC.optimiser)
    with pytest.raises(ConfigError, match="length of this run is --steps 5"):
        longer(replace(PANOPTIC, steps=5), 9)
