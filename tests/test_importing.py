"""Folders of the published programs from the command line: scored, imported, started from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from panoseg.classes import S2TSCZCROP
from panoseg.cli import main
from panoseg.data.samples import Normalisation
from panoseg.models.weights import load_weights
from panoseg.training.transfer import (
    holds_one_fold,
    is_published,
    published_weights,
    weights_of_fold,
)
from small_s2tsczcrop import write_small_s2tsczcrop
from tiny_runs import write_tiny_dataset

QUICK = ["--workers", "0", "--accelerator", "cpu", "--pictures", "0"]
OPTIONS = {
    "model": "timeunet",
    "conv_type": "2d",
    "num_classes": 15,
    "out_conv": [32, 15],
    "input_dim": 10,
}


@pytest.fixture(scope="module")
def czech(tmp_path_factory) -> Path:
    return write_small_s2tsczcrop(tmp_path_factory.mktemp("czech") / "data")


@pytest.fixture
def crop2seg(tmp_path, golden, golden_state) -> Path:
    """What Crop2Seg's train.py leaves: the results of its only split, in Fold_1."""
    folder = tmp_path / "crop2seg"
    (folder / "Fold_1").mkdir(parents=True)
    (folder / "Fold_1" / "conf.json").write_text(json.dumps(OPTIONS))
    state = golden_state(golden / "crop2seg" / "timeunet.params.json")
    torch.save({"epoch": 25, "state_dict": state}, folder / "Fold_1" / "model.pth.tar")
    return folder


@pytest.mark.parametrize("place", ["", "Fold_1"])
def test_weights_of_crop2seg_are_scored_and_imported(crop2seg, czech, tmp_path, place):
    """The folder of results, or the one inside with options and weights."""
    folder = crop2seg / place
    assert is_published(folder)
    assert holds_one_fold(folder)
    assert (
        main(
            [
                "test",
                "--weights",
                str(folder),
                "--data",
                str(czech),
                "--out",
                str(tmp_path / "test"),
                *QUICK,
            ]
        )
        == 0
    )
    scores = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert (scores["patches"], set(scores["test"])) == (1, {"OA", "mIoU"})
    assert (
        main(["weights", "import", str(folder), str(tmp_path / "ours"), "--data", str(czech)]) == 0
    )
    imported = load_weights(tmp_path / "ours")
    assert imported.card.classes.same_classes(S2TSCZCROP)
    assert imported.card.model.title == "TimeUNet"
    assert (
        main(
            [
                "test",
                "--weights",
                str(tmp_path / "ours"),
                "--data",
                str(czech),
                "--fold",
                "1",
                "--out",
                str(tmp_path / "again"),
                *QUICK,
            ]
        )
        == 0
    )
    assert (
        json.loads((tmp_path / "again" / "metrics.json").read_text())["details"]
        == scores["details"]
    )


def test_a_training_starts_from_weights_of_crop2seg(crop2seg, czech, tmp_path, capsys):
    command = [
        "train",
        "s2tsczcrop-timeunet",
        "--data",
        str(czech),
        "--out",
        str(tmp_path / "run"),
        "--workers",
        "0",
    ]
    short = [
        "--epochs",
        "1",
        "--accelerator",
        "cpu",
        "--optimiser.learning-rate",
        "1e-30",
        "--start-from",
        str(crop2seg),
    ]
    assert main([*command, *short]) == 0
    before, after = (
        weights_of_fold(crop2seg, 1).state,
        load_weights(tmp_path / "run" / "weights").state,
    )
    assert all(
        (value - after[name]).abs().max() < 1e-20
        for name, value in before.items()
        if name.endswith("weight")
    )
    assert f"{len(before)} entries taken, 0 not" in capsys.readouterr().out


def test_one_folds_weights_do_not_become_a_mean_of_five(crop2seg, tmp_path, capsys):
    """Weights of one unknown split are no weights of all folds: on PASTIS the fold must be said."""
    data = write_tiny_dataset(tmp_path / "pastis")
    path = crop2seg / "Fold_1" / "conf.json"
    path.write_text(json.dumps({**OPTIONS, "num_classes": 20}))
    assert (
        main(
            [
                "test",
                "--weights",
                str(crop2seg),
                "--data",
                str(data),
                "--out",
                str(tmp_path / "test"),
                *QUICK,
            ]
        )
        == 2
    )
    assert "15 classes" in capsys.readouterr().err  # the options lie: the network says so
    path.write_text(json.dumps(OPTIONS))
    assert (
        main(
            [
                "test",
                "--weights",
                str(crop2seg),
                "--data",
                str(data),
                "--out",
                str(tmp_path / "test"),
                *QUICK,
            ]
        )
        == 2
    )
    assert "--fold" in capsys.readouterr().err


def test_ndvi_of_crop2seg_belongs_to_the_normalisation(tmp_path, golden, golden_state):
    state = golden_state(golden / "crop2seg" / "timeunet.params.json")
    name = "in_conv.conv.conv.0.weight"
    state[name] = torch.cat([state[name], state[name][:, :1]], dim=1)
    (tmp_path / "conf.json").write_text(json.dumps({**OPTIONS, "input_dim": 11, "add_ndvi": True}))
    torch.save({"state_dict": state}, tmp_path / "model.pth.tar")
    weights = published_weights(tmp_path, 1, Normalisation((1.0,) * 10, (1.0,) * 10))
    assert weights.card.normalisation.ndvi
    assert weights.card.model.bands == 11
