"""The list of experiments, and runs of one fold and of all on ten patches of 16 x 16."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import tyro

from panoseg.cli import main
from panoseg.cli.training import Arguments
from panoseg.data.pastis import FOLDS
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, DatasetError
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import UtaeConfig
from panoseg.models.network import build_network
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from panoseg.training import DataConfig, OptimiserConfig, PapsLossConfig, TrainConfig
from panoseg.training.checkpoint import load_checkpoint
from panoseg.training.experiments import EXPERIMENTS, experiment
from panoseg.training.run import read_run, resume, start
from panoseg.training.splits import FoldScores, mean_of_folds, read_test_scores
from tiny_runs import UTAE, tiny_options, write_tiny_dataset

pytestmark = pytest.mark.usefixtures("no_figures")


def train(name: str, data, out, *options: str) -> int:
    return main(
        ["train", name, "--data", str(data), "--out", str(out), *tiny_options(name), *options]
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("pastis-utae", 1_087_260),
        ("pastis-unet3d", 1_553_796),
        ("pastis-uconvlstm", 1_520_540),
        ("pastis-fpn", 1_151_028),
        ("pastis-utae-paps", 1_259_673),
        ("s2tsczcrop-timeunet", 1_052_589),
        ("s2tsczcrop-wtae", 1_114_157),
        ("s2tsczcrop-utae", 1_085_805),
        ("s2tsczcrop-unet3d", 1_551_631),
    ],
)
def test_published_sizes(name, parameters):
    model = build_network(EXPERIMENTS[name].config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    "name", [name for name in EXPERIMENTS if name.startswith(("pastis", "s2ts"))]
)
def test_published_settings(name):
    config = EXPERIMENTS[name].config
    panoptic, czech = "paps" in name, name.startswith("s2tsczcrop")
    assert config.model.answers == ("panoptic" if panoptic else "semantic")
    assert (config.epochs, config.batch_size, config.seed) == (25 if czech else 100, 4, 1)
    assert config.initialisation == "published"
    assert config.data == DataConfig(
        single_date="2019-08-01" if name.endswith("single-date") else None
    )
    schedule = (
        {"learning_rate": 0.01, "schedule": "milestones", "milestones": (60, 80), "factor": 0.3}
        if panoptic
        else {}
    )
    assert config.optimiser == OptimiserConfig(**schedule)
    assert (config.optimiser.learning_rate, config.optimiser.weight_decay) == (
        0.01 if panoptic else 0.001,
        0,
    )
    assert (config.heatmap_only_epochs, config.validate_every, config.validate_after) == (
        (5, 5, 65) if panoptic else (0, 1, 0)
    )
    assert config.loss == PapsLossConfig()
    assert EXPERIMENTS[name].data == ("S2TSCzCrop" if czech else "PASTIS")


def test_rows_differ_from_their_base_in_what_their_name_says():
    models = {name: entry.config.model for name, entry in EXPERIMENTS.items()}
    assert models["pastis-utae-mean-attention"] == UtaeConfig(aggregation="att_mean")
    assert models["pastis-utae-skip-mean"] == UtaeConfig(aggregation="mean")
    assert models["pastis-utae-batch-norm"] == UtaeConfig(encoder_norm="batch")
    assert models["pastis-utae-single-date"] == models["pastis-utae"] == UtaeConfig()
    assert models["pastis-utae-paps-shape24"] == PapsConfig(shape_size=24)
    assert models["pastis-utae-paps-no-mask-conv"] == PapsConfig(mask_convolution=False)
    assert models["pastis-uconvlstm-paps"] == PapsConfig(backbone=models["pastis-uconvlstm"])
    both, one = models["pastis-buconvlstm"], models["pastis-buconvlstm-as-released"]
    assert ((both.directions, both.hidden), (one.directions, one.hidden)) == ((2, 30), (1, 30))
    assert (models["pastis-convlstm"].title, models["pastis-convlstm"].hidden) == ("ConvLSTM", 160)
    assert (models["pastis-convgru"].title, models["pastis-convgru"].hidden) == ("ConvGRU", 180)


def test_options_reach_the_run(data, tmp_path):
    run = tmp_path / "run"
    assert (
        train(
            "pastis-utae-paps",
            data,
            run,
            "--epochs",
            "1",
            "--model.shape-size",
            "6",
            "--optimiser.learning-rate",
            "0.5",
        )
        == 0
    )
    config = read_run(run).train
    assert (config.model.shape_size, config.optimiser.learning_rate, config.optimiser.schedule) == (
        6,
        0.5,
        "milestones",
    )


def test_a_run_draws_its_curves_and_predictions(data, tmp_path, monkeypatch):
    monkeypatch.undo()
    assert (
        train(
            "pastis-utae-paps",
            data,
            tmp_path / "run",
            "--epochs",
            "2",
            "--heatmap-only-epochs",
            "1",
        )
        == 0
    )
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {
        "curves.png",
        "classes.png",
        "confusion.png",
        "patch-14.png",
        "patch-19.png",
    }


def test_all_folds_and_their_mean(data, tmp_path, capsys):
    out = tmp_path / "all"
    assert (
        train(
            "pastis-utae", data, out, "--epochs", "1", "--max-steps-per-epoch", "1", "--fold", "all"
        )
        == 0
    )
    scores = {
        fold: json.loads((out / f"fold_{fold}" / "metrics.json").read_text())["test"]
        for fold in FOLDS
    }
    whole = json.loads((out / "metrics.json").read_text())
    assert whole["mean"]["mIoU"] == pytest.approx(sum(row["mIoU"] for row in scores.values()) / 5)
    table = (out / "metrics.md").read_text()
    assert capsys.readouterr().out.endswith(table)
    assert all(line in table for line in ("| mean ", "| deviation ", "| together ", "| corn "))
    assert whole["classes"]["corn"]["iou"]["folds"] == 5
    # A test of the whole says the same.
    command = [
        "test",
        str(out),
        "--data",
        str(data),
        "--workers",
        "0",
        "--accelerator",
        "cpu",
        "--pictures",
        "0",
    ]
    assert main(command) == 0
    assert json.loads((out / "test" / "metrics.json").read_text()) == whole
    assert (out / "test" / "metrics.md").read_text() == table
    # A run of all folds that stopped trains what is missing, and that alone.
    (out / "fold_4" / "metrics.json").unlink()
    before = (out / "fold_1" / "metrics.json").stat().st_mtime_ns
    resume(out)
    assert json.loads((out / "fold_4" / "metrics.json").read_text())["test"] == scores[4]
    assert (out / "fold_1" / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_all_folds_on_two_devices(data, tmp_path):
    """Fold after fold on the same processes; what is frozen stays as it was on both."""
    torch.manual_seed(0)
    state = build_network(UTAE).state_dict()
    card = WeightsCard(UTAE, Normalisation((1000.0,) * 10, (500.0,) * 10))
    save_weights(tmp_path / "origin", Weights(card, state))
    options = ["--fold", "all", "--devices", "2", "--epochs", "1", "--max-steps-per-epoch", "1"]
    options += ["--start-from", str(tmp_path / "origin"), "--freeze", "in_conv"]
    command = [
        sys.executable,
        "-m",
        "panoseg",
        "train",
        "pastis-utae",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "all"),
    ]
    done = subprocess.run(
        [*command, *tiny_options("pastis-utae"), *options],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| deviation |") == 1
    assert list(json.loads((tmp_path / "all" / "metrics.json").read_text())["folds"]) == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]
    for fold in FOLDS:
        assert (
            len(load_checkpoint(tmp_path / "all" / f"fold_{fold}" / "last.ckpt").random_states) == 2
        )
        trained = load_weights(tmp_path / "all" / f"fold_{fold}" / "weights").state
        still = {name for name in state if torch.equal(trained[name], state[name])}
        assert {name for name in state if name.startswith("in_conv.")} <= still
        assert (
            not {name for name in state if name.startswith("out_conv.") and name.endswith("weight")}
            & still
        )


def test_there_is_no_mean_of_four_folds():
    with pytest.raises(DatasetError, match="The scores of fold 3 are missing"):
        mean_of_folds({fold: FoldScores({"PQ": 1.0}) for fold in (1, 2, 4, 5)})
    with pytest.raises(DatasetError, match="The scores of fold 2, 5 are missing"):
        mean_of_folds({fold: FoldScores({"PQ": 1.0}) for fold in (1, 3, 4)})


def test_all_folds_need_all_folds(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data", patches=4)
    assert train("pastis-utae", data, tmp_path / "run", "--fold", "all") == 2
    assert "fold" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


VALUES = dict(zip(FOLDS, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))


def test_mean_and_deviation_by_hand():
    table, numbers = mean_of_folds(
        {fold: FoldScores({"PQ": value}) for fold, value in VALUES.items()}
    )
    assert numbers["mean"] == {"PQ": 3.0}
    assert numbers["deviation"]["PQ"] == pytest.approx(2.5**0.5)
    assert table.splitlines()[-2:] == ["| mean      | 3.0 |", "| deviation | 1.6 |"]
    assert "together" not in numbers


def test_mean_and_deviation_by_class_by_hand():
    """A class that three folds lack is averaged over the other two, and the table says so."""
    of_fold = {
        fold: {
            "corn": {"iou": value / 10, "f1": 0.5},
            "beet": {"iou": value / 10 if fold > 3 else None, "f1": None},
        }
        for fold, value in VALUES.items()
    }
    table, numbers = mean_of_folds(
        {fold: FoldScores({"mIoU": 1.0}, classes) for fold, classes in of_fold.items()}
    )
    assert numbers["classes"]["corn"]["iou"] == {
        "mean": 30.0,
        "deviation": pytest.approx(250**0.5),
        "folds": 5,
    }
    assert numbers["classes"]["beet"]["iou"] == {
        "mean": 45.0,
        "deviation": pytest.approx(50**0.5),
        "folds": 2,
    }
    assert numbers["classes"]["beet"]["f1"] == {"mean": None, "deviation": None, "folds": 0}
    assert table.splitlines()[-4:] == [
        "| class | folds |         IoU |         F1 |",
        "|:------|------:|------------:|-----------:|",
        "| corn  |     5 | 30.0 ± 15.8 | 50.0 ± 0.0 |",
        "| beet  |     2 |  45.0 ± 7.1 |          – |",
    ]


def test_the_folds_together_by_hand():
    """Four folds of one pixel each, all right, and one of four pixels, all wrong: half of the
    pixels, a fifth of a fold.
    """
    right, wrong = [[1, 0, 0], [0, 0, 0], [0, 0, 0]], [[0, 4, 0], [0, 0, 0], [0, 0, 0]]
    scores = {
        fold: FoldScores(
            {"OA": 0.0 if fold == 5 else 100.0, "mIoU": 0.0},
            confusion={"ignored": [2], "matrix": wrong if fold == 5 else right},
        )
        for fold in FOLDS
    }
    table, numbers = mean_of_folds(scores)
    assert numbers["mean"]["OA"] == 80.0
    assert numbers["together"] == {"OA": 50.0, "mIoU": 25.0}
    assert table.splitlines()[-1] == "| together  |  50.0 | 25.0 |"
    panoptic = {
        fold: FoldScores({"PQ": 1.0}, confusion=row.confusion) for fold, row in scores.items()
    }
    assert "together" not in mean_of_folds(panoptic)[1]  # pixels do not add up to parcels


def test_a_missing_fold_is_named(data, tmp_path, capsys):
    """By the mean, and by a test of a run of all folds."""
    config = TrainConfig(model=UTAE, epochs=1, max_steps_per_epoch=1, workers=0, accelerator="cpu")
    for fold in (1, 2, 4, 5):
        start("tiny", config, data, fold, tmp_path / f"all/fold_{fold}")
    with pytest.raises(DatasetError, match=r"fold_3.metrics\.json is missing"):
        read_test_scores(tmp_path / "all" / "fold_3")
    command = [
        "test",
        str(tmp_path / "all"),
        "--data",
        str(data),
        "--workers",
        "0",
        "--accelerator",
        "cpu",
        "--pictures",
        "0",
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "fold_3" in capsys.readouterr().err
    # A fold that is not trained to its end is missing too.
    start("tiny", config, data, 3, tmp_path / "all/fold_3")
    (tmp_path / "all/fold_3/metrics.json").unlink()
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "fold_3 has not been trained to its end" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(ConfigError) as error:
        experiment("pastis-utae-pap")
    assert all(name in str(error.value) for name in EXPERIMENTS)
    assert "Did you mean pastis-utae-paps?" in str(error.value)


def test_list_of_experiments(capsys):
    assert main(["experiments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(EXPERIMENTS)
    assert max(map(len, lines)) <= 120
    for heading in ("model", "task", "data", "published"):
        column = lines[0].index(heading)
        assert all(line[column - 1] == " " and line[column] != " " for line in lines), heading
    shown = next(line for line in lines if line.startswith("pastis-utae-paps "))
    assert shown.split("  ")[-1] == "SQ 81.5, RQ 53.2, PQ 43.8"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_options_shown_are_those_that_train_takes(name, capsys):
    """And they are all: given to another experiment of the same network, they make it this one."""
    assert main(["experiments", name]) == 0
    text = capsys.readouterr().out
    assert EXPERIMENTS[name].source in text
    words = [word for line in text.splitlines() if line.startswith("  --") for word in line.split()]
    blank = Arguments(
        tyro.MISSING, tyro.MISSING, train=TrainConfig(model=type(EXPERIMENTS[name].config.model)())
    )
    if isinstance(EXPERIMENTS[name].config.model, PapsConfig):
        blank = replace(
            blank,
            train=replace(
                blank.train, model=PapsConfig(type(EXPERIMENTS[name].config.model.backbone)())
            ),
        )
    options = ["--data", "D", "--out", "R", *words]
    parsed = tyro.cli(Arguments, args=options, default=blank, config=(tyro.conf.AvoidSubcommands,))
    assert parsed.train == EXPERIMENTS[name].config


def test_options_of_an_unknown_experiment(capsys):
    assert main(["experiments", "pastis-utea"]) == 2
    assert "Did you mean pastis-utae?" in capsys.readouterr().err
