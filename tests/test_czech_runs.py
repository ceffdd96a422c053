"""The whole way on S2TSCzCrop: simulate, train with the boundary loss, resume, score by region,
show; and what is refused.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from panoseg.classes import S2TSCZCROP
from panoseg.cli import main
from panoseg.data.s2tsczcrop import train_normalisation
from panoseg.errors import ConfigError
from panoseg.models.weights import load_weights
from panoseg.training import DataConfig, OptimiserConfig, TrainConfig
from panoseg.training.checkpoint import read_log
from panoseg.training.run import resume, start, start_all_folds
from panoseg.training.splits import open_splits
from small_s2tsczcrop import write_small_s2tsczcrop
from tiny_runs import PAPS, UTAE, write_tiny_dataset

CONFIG = TrainConfig(
    model=replace(UTAE, boundary=True),
    epochs=1,
    batch_size=2,
    workers=0,
    accelerator="cpu",
    log_every=1,
    max_steps_per_epoch=2,
)
QUICK = ["--workers", "0", "--accelerator", "cpu", "--pictures", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Simulated, by the command."""
    folder = tmp_path_factory.mktemp("czech") / "data"
    options = ["--size", "32", "--dates", "3", "4", "--workers", "1", "--seed", "3"]
    assert (
        main(["simulate", str(folder), "--layout", "s2tsczcrop", "--patches", "7", *options]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    start("tiny", CONFIG, data, 1, folder)
    return folder


def test_a_run_knows_its_dataset(run, data):
    card = load_weights(run / "weights").card
    assert card.classes == S2TSCZCROP
    assert (card.model.classes, card.model.boundary) == (15, True)
    assert card.normalisation == train_normalisation(data)
    assert card.trained_on == "data, set train"
    assert (
        json.loads((run / "metrics.json").read_text())["details"]["boundary_head"]["accuracy"] > 0
    )


def test_the_boundary_is_learned(run):
    row = read_log(run / "log.csv")[0]
    assert float(row["loss"]) == pytest.approx(
        float(row["pixel"]) + float(row["boundary"]), rel=1e-5
    )
    assert float(row["boundary"]) > 0


def test_scores_by_region(run, data, tmp_path, capsys):
    details = {}
    for region in ("all", "boundary", "interior"):
        out = tmp_path / region
        assert (
            main(
                [
                    "test",
                    str(run),
                    "--data",
                    str(data),
                    "--region",
                    region,
                    "--out",
                    str(out),
                    *QUICK,
                ]
            )
            == 0
        )
        metrics = json.loads((out / "metrics.json").read_text())
        details[region] = metrics["details"]
        assert (metrics["sets"], metrics["patches"]) == (["test"], 1)
        assert metrics["test"]["OA"] == pytest.approx(100 * details[region]["accuracy"])
        assert metrics["details"]["region"] == region
    matrices = {
        region: sum(map(sum, found["confusion"]["matrix"])) for region, found in details.items()
    }
    assert matrices["all"] == matrices["boundary"] + matrices["interior"]
    assert 0 < matrices["boundary"] < matrices["all"]
    assert details["all"]["regions"]["boundary"]["confusion"] == details["boundary"]["confusion"]
    assert json.loads((run / "metrics.json").read_text())["details"] == details["all"]
    assert "sugar beet" in capsys.readouterr().out


def test_a_region_has_a_folder_of_its_own(run, data):
    copy = shutil.copytree(run, run.with_name("copy"))
    for region, folder in (("all", "test"), ("boundary", "test-boundary")):
        assert main(["test", str(copy), "--data", str(data), "--region", region, *QUICK]) == 0
        assert (copy / folder / "metrics.json").exists()


def test_weights_are_scored_on_all_sets_and_shown(run, data, tmp_path):
    command = [
        "test",
        "--weights",
        str(run / "weights"),
        "--data",
        str(data),
        "--every-patch",
        "--out",
        str(tmp_path / "a"),
    ]
    assert main([*command, *QUICK]) == 0
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert (metrics["sets"], metrics["patches"]) == (["train", "val", "test"], 7)
    picture = ["--patch", "10004", "--out", str(tmp_path / "a.png")]
    assert main(["show", str(run), "--data", str(data), *picture]) == 0
    assert (tmp_path / "a.png").exists()


def test_a_run_goes_on_and_gives_the_same_scores(run, data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "metrics.json").unlink()
    assert main(["train", "--resume", str(copy)]) == 0
    assert json.loads((copy / "metrics.json").read_text()) == json.loads(
        (run / "metrics.json").read_text()
    )


def test_other_folds_are_refused_in_one_line(data, tmp_path, capsys):
    for fold in ("3", "all"):
        assert (
            main(
                [
                    "train",
                    "pastis-utae",
                    "--data",
                    str(data),
                    "--out",
                    str(tmp_path / "run"),
                    "--fold",
                    fold,
                ]
            )
            == 2
        )
        message = capsys.readouterr().err
        assert "has one official split and no fold" in message
        assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="one official split"):
        start_all_folds("tiny", CONFIG, data, tmp_path / "run")


def test_panoptic_models_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="which has the class of each pixel but not its parcel"):
        start("tiny", replace(CONFIG, model=PAPS), data, 1, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_other_classes_are_refused(run, data, tmp_path, capsys):
    pastis = write_tiny_dataset(tmp_path / "pastis")
    command = [
        "test",
        "--weights",
        str(run / "weights"),
        "--data",
        str(pastis),
        "--out",
        str(tmp_path / "out"),
        *QUICK,
    ]
    assert main([*command, "--fold", "1"]) == 2
    assert (
        "weights are for the 15 classes of S2TSCzCrop, but a dataset in PASTIS's layout has 20"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    copy = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(ConfigError, match="15 classes does not fit the 20 classes of PASTIS"):
        resume(copy, pastis)


def test_a_region_of_panoptic_weights_is_refused(tmp_path, capsys):
    pastis = write_tiny_dataset(tmp_path / "pastis")
    start("tiny", replace(CONFIG, model=PAPS, tune_threshold=False), pastis, 1, tmp_path / "run")
    assert (
        main(["test", str(tmp_path / "run"), "--data", str(pastis), "--region", "boundary", *QUICK])
        == 2
    )
    assert (
        "--region boundary is for semantic models, but these weights are of a panoptic model"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run" / "test-boundary").exists()


def test_regions_of_semantic_weights_on_pastis(tmp_path):
    pastis = write_tiny_dataset(tmp_path / "pastis")
    start("tiny", replace(CONFIG, model=UTAE), pastis, 1, tmp_path / "run")
    assert (
        main(["test", str(tmp_path / "run"), "--data", str(pastis), "--region", "interior", *QUICK])
        == 0
    )
    details = json.loads((tmp_path / "run" / "test-interior" / "metrics.json").read_text())[
        "details"
    ]
    assert "boundary_head" not in details
    assert set(details["regions"]) == {"all", "boundary"}


def test_data_options_reach_the_czech_dataset(data):
    def split(**options):
        return open_splits(data, 1, replace(CONFIG, data=DataConfig(**options)))

    plain, ndvi = split(), split(ndvi=True)
    assert (plain.train.normalisation.channels, ndvi.test.normalisation.channels) == (10, 11)
    assert plain.layout.classes == S2TSCZCROP
    assert [len(part) for part in (plain.train, plain.validation, plain.test)] == [5, 1, 1]
    assert (
        plain.test.normalisation
        == plain.train.normalisation
        == split(normalisation="published").test.normalisation
    )
    assert len(split(single_date="0").train.dataset[0].days_T) == 1
    assert (
        split(reference_date="2018-09-02").train.dataset[0].days_T
        == plain.train.dataset[0].days_T - 1
    ).all()


def test_a_network_learns_the_colours_of_czech_classes(tmp_path):
    """Colours tell the classes of these patches, so sixty steps must tell most pixels, also of a
    patch never seen.

    One class for all pixels would be right for 72 of a hundred.
    """
    data = write_small_s2tsczcrop(tmp_path / "data")
    optimiser = OptimiserConfig(learning_rate=0.02)
    config = replace(
        CONFIG,
        epochs=30,
        batch_size=1,
        max_steps_per_epoch=0,
        validate_after=29,
        optimiser=optimiser,
        seed=2,
    )
    start("colours", config, data, 1, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["OA"] > 80
