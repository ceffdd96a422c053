"""The parts of a training, each by itself; whole runs are in test_resume.py and
test_experiments.py.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable
from panoseg.data import AugmentationConfig
from panoseg.data.loading import make_loader
from panoseg.errors import ConfigError, OutputError, WeightsError
from panoseg.models.configs import from_json, to_json
from panoseg.models.losses import PapsLoss
from panoseg.models.network import Details, Network, build_network, initialise
from panoseg.models.outputs import SemanticOutput
from panoseg.models.paps import best_threshold, threshold_counts
from panoseg.panoptic import Panoptic
from panoseg.training import (
    DataConfig,
    OptimiserConfig,
    PapsLossConfig,
    RunConfig,
    SemanticLossConfig,
    TrainConfig,
)
from panoseg.training.checkpoint import (
    Progress,
    RunLog,
    RunningMean,
    load_checkpoint,
    load_model,
    random_state,
    read_log,
    restore_random_state,
    save_checkpoint,
)
from panoseg.training.experiments import EXPERIMENTS
from panoseg.training.loop import Training, learning_rate, make_fabric, seed_all
from panoseg.training.run import start
from panoseg.training.scorers import SCORERS
from panoseg.training.splits import Split, open_splits
from tiny_runs import PAPS, UTAE, write_tiny_dataset

SEMANTIC = TrainConfig(
    model=UTAE, epochs=1, batch_size=2, workers=0, accelerator="cpu", log_every=1
)
PANOPTIC = replace(SEMANTIC, model=PAPS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


def network_of(config: TrainConfig, table: ClassTable = PASTIS) -> Network:
    return build_network(config.model, table, config.loss_options)


def train(config: TrainConfig, data, folder, best=lambda epoch, scores: None) -> Training:
    """A whole training without a run's folder around it."""
    folder.mkdir(exist_ok=True)
    seed_all(config.seed)
    network = network_of(config)
    if config.initialisation == "published":
        initialise(network)
    splits = open_splits(data, 1, config)
    training = Training(
        make_fabric(config), config, network, splits.train, splits.validation, folder, best
    )
    training.run()
    return training


def first_step(config: TrainConfig, data, folder) -> dict[str, float]:
    """The numbers of the first row of the log of one step."""
    train(replace(config, max_steps_per_epoch=1, max_validation_patches=1), data, folder)
    row = read_log(folder / "log.csv")[0]
    return {name: float(value) for name, value in row.items() if value and name != "split"}


_BARE = """
import importlib, sys
ABSENT = {"safetensors", "xarray", "geopandas", "rasterio", "matplotlib", "scipy", "rich", "tyro", "tensorboard"}
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ImportError(name)
sys.meta_path.insert(0, Bare())
for name in ("training.run", "models.losses", "models.published", "metrics.panoptic_quality", "metrics.confusion"):
    importlib.import_module("panoseg." + name)
from pathlib import Path
from panoseg.training.checkpoint import RunLog
with RunLog(Path(sys.argv[1]), ["loss"]) as log:
    log.write(1, 1, "train", {"loss": 1.0})
"""


def test_training_needs_nothing_but_torch_and_numpy(tmp_path):
    """It must import, and log, on a machine that has little else."""
    subprocess.run([sys.executable, "-c", _BARE, str(tmp_path)], check=True, timeout=120)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


# Schedules


def test_constant_rate_and_warm_up():
    config = OptimiserConfig(learning_rate=0.1, warm_up_steps=4)
    assert [learning_rate(config, step, 10, 2) for step in (0, 1, 3, 4, 19)] == pytest.approx(
        [0.025, 0.05, 0.1, 0.1, 0.1]
    )


def test_published_milestones():
    """Epochs 1 to 60 at 0.01, to 80 at 0.003, to 100 at 0.0009: the steps of a MultiStepLR with
    milestones 60 and 80.
    """
    config = EXPERIMENTS["pastis-utae-paps"].config.optimiser
    rates = [learning_rate(config, epoch * 7, 7, 100) for epoch in range(100)]
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [60, 80], gamma=0.3)
    for epoch, rate in enumerate(rates):
        assert rate == pytest.approx(scheduler.get_last_lr()[0]), epoch
        optimiser.step()
        scheduler.step()


def test_cosine_falls_from_all_to_nothing():
    config = OptimiserConfig(learning_rate=2.0, schedule="cosine")
    rates = [learning_rate(config, step, 5, 2) for step in range(11)]
    assert rates[0] == 2.0
    assert rates[5] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(0.0)
    assert all(after < before for before, after in pairwise(rates))


# Configuration


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_configurations_survive_json(name):
    run = RunConfig(name, "/data", 3, EXPERIMENTS[name].config)
    assert from_json(RunConfig, json.loads(json.dumps(to_json(run)))) == run


def test_options_left_out_of_json_have_their_defaults():
    assert from_json(TrainConfig, {"epochs": 3}) == TrainConfig(epochs=3)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epoch": 3}, "epochs"),
        ({"epochs": "3"}, "epochs '3'"),
        ({"epochs": True}, "epochs True"),
        ({"optimiser": {"schedule": "linear"}}, "schedule 'linear'"),
        ({"optimiser": {"milestones": 60}}, "milestones 60"),
        ({"optimiser": []}, "optimiser []"),
        ({"data": {"single_date": 3}}, "single_date 3"),
        ({"model": {"model": "unet"}}, "model 'unet'"),
        ([], "the configuration []"),
    ],
)
def test_wrong_json_is_named(values, named):
    with pytest.raises(ConfigError) as error:
        from_json(TrainConfig, values)
    assert named in str(error.value)


def test_a_missing_entry_is_named():
    with pytest.raises(ConfigError, match="data_folder"):
        from_json(RunConfig, {"experiment": "x", "fold": 1, "train": {}})


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_json_is_read_or_refused(values):
    with suppress(ConfigError):
        from_json(TrainConfig, values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"workers": -1},
        {"devices": 0},
        {"devices": -2},
        {"validate_every": 0},
        {"heatmap_only_epochs": 1},
        {"loss": PapsLossConfig(alpha=1.0)},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "[-_]")):
        TrainConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"warm_up_steps": -1},
        {"gradient_clip": -1.0},
        {"weight_decay": -0.1},
    ],
)
def test_impossible_options_of_the_optimiser_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"--optimiser\." + next(iter(wrong)).replace("_", "-")):
        OptimiserConfig(**wrong)


def test_validation_epochs_as_published():
    config = EXPERIMENTS["pastis-utae-paps"].config
    assert [epoch for epoch in range(1, 101) if config.validates(epoch)] == [
        70,
        75,
        80,
        85,
        90,
        95,
        100,
    ]
    assert [epoch for epoch in range(1, 4) if replace(config, epochs=3).validates(epoch)] == [3]


# Log


def test_log_is_cut_back_to_a_position(tmp_path):
    with RunLog(tmp_path, ["loss", "PQ"]) as log:
        log.write(1, 1, "train", {"loss": 0.1}, 0.5)
        size = log.size
        log.write(1, 2, "train", {"loss": 0.2})
    with RunLog(tmp_path, ["loss", "PQ"], (size, 1)) as log:
        log.write(1, 2, "validation", {"PQ": math.nan})
    assert (
        (tmp_path / "log.csv").read_text()
        == "epoch,step,split,learning_rate,loss,PQ\n1,1,train,0.5,0.1,\n1,2,validation,,,\n"
    )
    assert list((tmp_path / "tensorboard").iterdir())


def test_log_that_is_cut_back_knows_its_size(tmp_path):
    """Before anything is written: a checkpoint may follow at once."""
    with RunLog(tmp_path, ["loss"]) as log:
        size = log.size
        log.write(1, 1, "train", {"loss": 0.1})
    with RunLog(tmp_path, ["loss"], (size, 0)) as log:
        assert log.size == size


def test_log_refuses_unknown_columns(tmp_path):
    with RunLog(tmp_path, ["loss"]) as log, pytest.raises(ValueError, match="PQ"):
        log.write(1, 1, "train", {"PQ": 1.0})


def test_running_mean_by_hand():
    means = RunningMean()
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": torch.tensor(value, requires_grad=True)})
    assert means.take() == {"loss": 3.0}
    means.add({"loss": torch.tensor(5.0)})
    assert means.take() == {"loss": 5.0}


# Checkpoints


def test_random_state_is_put_back():
    def draw():
        return (
            torch.rand(3).tolist(),
            np.random.rand(3).tolist(),  # noqa: NPY002
            random.random(),
            random.gauss(0, 1),
        )

    seed_all(3)
    np.random.randn()  # noqa: NPY002 - leaves a second Gaussian for the next call
    state = random_state()
    first = draw()
    assert draw() != first
    restore_random_state(state)
    assert draw() == first


def test_checkpoint_round_trip(tmp_path):
    model = torch.nn.Linear(2, 1)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    progress = Progress(epoch=2, step=3, total_steps=13, best_score=41.5, best_epoch=1, log_size=99)
    save_checkpoint(
        tmp_path / "a.ckpt", model.state_dict(), optimiser.state_dict(), progress, [random_state()]
    )
    read = load_checkpoint(tmp_path / "a.ckpt")
    assert read.progress == progress
    assert torch.equal(read.model["weight"], model.weight)
    assert torch.equal(
        read.optimiser["state"][0]["exp_avg"], optimiser.state_dict()["state"][0]["exp_avg"]
    )


class _Code:
    def __reduce__(self):
        return (print, ("run from a checkpoint",))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", "code", "list", "other"])
def test_damaged_checkpoints_are_refused(tmp_path, content, capsys):
    path = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"code": _Code(), "list": [1], "other": {"format": "other"}}[content], path)
    with pytest.raises(WeightsError, match=r"last\.ckpt"):
        load_checkpoint(path)
    assert "run from" not in capsys.readouterr().out


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_truncated_and_changed_checkpoints_never_crash(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.ckpt"
    save_checkpoint(path, {"a": torch.ones(3)}, {}, Progress(), [])
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] ^= 0xFF
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(WeightsError):
        load_checkpoint(path)


def test_another_models_checkpoint_is_refused_with_its_entries(tmp_path):
    own, other = torch.nn.Linear(2, 1), torch.nn.Sequential(torch.nn.Linear(2, 3))
    with pytest.raises(WeightsError, match=r"2 missing \(weight, bias\), 2 unexpected \(0\.weight"):
        load_model(own, other.state_dict(), tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match=r"weight \(3, 2\) instead of \(1, 2\)"):
        load_model(own, other[0].state_dict(), tmp_path / "last.ckpt")


# Tasks


def test_best_threshold_by_hand():
    """Right at 0.9 and 0.6, wrong at 0.7 and 0.3: from 0.3 on one mistake is left, from 0.6 on a
    right one is lost.
    """
    confidence, right = np.array([0.9, 0.7, 0.6, 0.3]), np.array([True, False, True, False])
    counts = threshold_counts(confidence, right)
    assert counts[0].tolist() == [2, 2, 0]
    assert counts[50].tolist() == [2, 1, 0]
    assert counts[65].tolist() == [1, 1, 1]
    assert best_threshold(counts) == 0.3
    halves = threshold_counts(confidence[:2], right[:2]) + threshold_counts(
        confidence[2:], right[2:]
    )
    assert (halves == counts).all()
    assert best_threshold(threshold_counts(confidence, np.zeros(4, bool))) == 0.0
    assert best_threshold(threshold_counts(np.zeros(0), np.zeros(0, bool))) == 0.0


def test_tuning_sets_the_threshold_of_model_and_card(data):
    network, fabric = network_of(PANOPTIC), make_fabric(PANOPTIC)
    splits = open_splits(data, 1, PANOPTIC)
    network.criterion = _Criterion()
    network.eval().tune(splits.validation.batches(fabric), lambda counts: counts)
    assert network.min_confidence.item() == pytest.approx(0.4)
    assert network.tuned_config() == replace(PAPS, min_confidence=0.4)


class _Criterion:
    """Centres hotter than 0.4 are right."""

    def __call__(self, output, targets):
        class Losses:
            confidence_N = torch.linspace(0, 1, 101)
            iou_N = (torch.linspace(0, 1, 101) > 0.405).float()

        return Losses


def test_perfect_predictions_score_one_hundred(data, monkeypatch):
    for config, names in (
        (PANOPTIC, {"SQ", "RQ", "PQ", "PQ_any_class"}),
        (SEMANTIC, {"OA", "mIoU"}),
    ):
        network, fabric = network_of(config), make_fabric(config)
        split = open_splits(data, 1, config).test
        monkeypatch.setattr(network, "details", lambda batch, options: _certain(batch))
        scores = SCORERS[network.scorer].evaluate(network, split, fabric)
        assert scores.summary() == dict.fromkeys(names, 100.0)
        json.dumps(scores.to_json(), allow_nan=False)
        assert "corn" in scores.table()


def _certain(batch):
    scores_BKHW = torch.nn.functional.one_hot(batch.classes_BHW, 20).movedim(-1, 1).float()
    panoptics = None if batch.instances_BHW is None else _truth(batch, PASTIS)
    return Details(panoptics=panoptics, pixels=SemanticOutput(scores_BKHW))


def _truth(batch, table):
    pairs = zip(batch.instances_BHW.numpy(), batch.classes_BHW.numpy(), strict=True)
    return [Panoptic.from_maps(instances, classes, table) for instances, classes in pairs]


def test_a_loader_at_its_end_is_not_begun_again(data):
    fabric, split = make_fabric(SEMANTIC), open_splits(data, 2, SEMANTIC).validation
    loader = split.loader(fabric)
    loader.enter(0, skip=len(loader))
    assert list(split.batches(fabric, loader)) == []


def test_validation_sees_each_patch_once_in_order(data):
    splits = open_splits(data, 2, replace(SEMANTIC, batch_size=3))
    names = [
        name for batch in splits.validation.batches(make_fabric(SEMANTIC)) for name in batch.names
    ]
    assert names == ["14", "19"]


def test_heatmap_only_leaves_the_other_losses_out(data):
    network, fabric = network_of(PANOPTIC), make_fabric(PANOPTIC)
    batch = next(open_splits(data, 1, PANOPTIC).train.batches(fabric))
    only, whole = network.losses(batch, heatmap_only=True), network.losses(batch)
    assert only["size"] == only["shape"] == only["class"] == 0
    assert only["loss"] == only["centre"]
    assert min(whole[name].item() for name in ("size", "shape", "class")) > 0
    assert whole["loss"].item() == pytest.approx(
        sum(whole[name].item() for name in ("centre", "size", "shape", "class"))
    )


def test_every_centre_learns_where_it_is_asked(data, monkeypatch):
    """At most one centre a true parcel (three in each of the six patches), or every local maximum
    of the heat.
    """
    centres, call = [], PapsLoss.__call__

    def counting(criterion, *given):
        losses = call(criterion, *given)
        centres.append(len(losses.confidence_N))
        return losses

    monkeypatch.setattr(PapsLoss, "__call__", counting)
    for every in (False, True):
        seed_all(0)
        config = replace(PANOPTIC, loss=PapsLossConfig(every_centre=every), batch_size=6)
        network, fabric = network_of(config), make_fabric(config)
        batch = next(open_splits(data, 1, config).train.batches(fabric))
        network.losses(batch)["loss"].backward()
    assert centres[0] <= 18 < centres[1]


# Options: each changes what it says


def test_normalisation_policies_differ(data):
    train, published = (
        open_splits(data, 1, replace(SEMANTIC, data=DataConfig(normalisation=policy)))
        for policy in ("train", "published")
    )
    assert train.train.normalisation == published.train.normalisation
    assert train.test.normalisation == train.train.normalisation
    assert published.test.normalisation.mean == (5000.0,) * 10
    batch = next(published.test.batches(make_fabric(SEMANTIC)))
    image = published.test.dataset[0].images_TCHW[0].float()
    assert torch.allclose(batch.images_BTCHW[0, 0], (image - 5000) / 500)


def test_data_options_reach_the_samples(data):
    def sample(**options):
        return open_splits(data, 1, replace(SEMANTIC, data=DataConfig(**options))).train.dataset[0]

    assert len(sample().days_T) == 3
    assert sample(single_date="2019-01-01").days_T.tolist() == [126]
    assert sample(reference_date="2018-10-01").days_T[0] == 0
    with pytest.raises(ConfigError, match="reference date"):
        sample(reference_date="1 September")
    with pytest.raises(ConfigError, match="every year has"):  # the weights could not be saved
        sample(reference_date="2020-02-29")


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"batch_size": 1},
        {"initialisation": "torch"},
        {"precision": "bf16-mixed"},
        {"data": DataConfig(augmentation=AugmentationConfig(noise=100.0))},
        {"loss": PapsLossConfig(beta=1.0)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_option_changes_the_first_loss(data, tmp_path, changed):
    before, after = (
        first_step(config, data, tmp_path / name)
        for name, config in (("a", PANOPTIC), ("b", replace(PANOPTIC, **changed)))
    )
    assert before["loss"] != after["loss"]


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "focal"},
        {"kind": "recall"},
        {"smoothing": 0.1},
        {"class_weights": (3.0, *(1.0,) * 19)},
        {"boundary_weight": 0.5},
        {"boundary_gamma": 0.0},
    ],
    ids=lambda changed: "-".join(map(str, changed.items())),
)
def test_an_option_of_the_semantic_loss_changes_the_first_loss(data, tmp_path, changed):
    model = replace(UTAE, boundary=True)
    before, after = (
        first_step(
            replace(SEMANTIC, model=model, semantic_loss=SemanticLossConfig(**options)),
            data,
            tmp_path / name,
        )
        for name, options in (("a", {}), ("b", changed))
    )
    assert before["loss"] == pytest.approx(before["pixel"] + before["boundary"], rel=1e-5)
    assert before["loss"] != after["loss"]
    assert (before["pixel"] == after["pixel"]) == next(iter(changed)).startswith("boundary")


def test_the_losses_of_semantic_and_panoptic_models_are_not_mixed():
    with pytest.raises(
        ConfigError, match=r"U-TAE \+ PaPs does not use semantic_loss: leave it out"
    ):
        replace(PANOPTIC, semantic_loss=SemanticLossConfig(smoothing=0.1))
    with pytest.raises(ConfigError, match=r"does not score boundaries: add --model\.boundary"):
        replace(SEMANTIC, semantic_loss=SemanticLossConfig(boundary_weight=2.0))


def test_a_network_has_the_classes_of_its_table():
    with pytest.raises(ConfigError, match="20 classes does not fit the 15 classes of S2TSCzCrop"):
        network_of(SEMANTIC, S2TSCZCROP)


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 0.02},
        {"gradient_clip": 1e-6},
        {"weight_decay": 0.5},
        {"schedule": "cosine"},
        {"warm_up_steps": 9},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_option_of_the_optimiser_changes_the_weights(data, tmp_path, changed):
    before, after = (
        train(
            replace(SEMANTIC, optimiser=OptimiserConfig(**options)), data, tmp_path / name
        ).network.state_dict()
        for name, options in (("a", {}), ("b", changed))
    )
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_training_repeats_itself(data, tmp_path):
    first, second = (train(PANOPTIC, data, tmp_path / name).network.state_dict() for name in "ab")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_steps_validations_and_rows(data, tmp_path):
    config = replace(
        SEMANTIC,
        epochs=5,
        batch_size=1,
        max_steps_per_epoch=4,
        log_every=3,
        validate_every=2,
        validate_after=2,
    )
    best = []
    train(config, data, tmp_path / "run", lambda epoch, scores: best.append((epoch, scores)))
    rows = [
        (row["epoch"], row["step"], row["split"]) for row in read_log(tmp_path / "run" / "log.csv")
    ]
    assert [row for row in rows if row[2] == "validation"] == [
        ("4", "16", "validation"),
        ("5", "20", "validation"),
    ]
    assert [row[1] for row in rows if row[2] == "train"] == [
        "3",
        "4",
        "7",
        "8",
        "11",
        "12",
        "15",
        "16",
        "19",
        "20",
    ]
    assert best[0][0] == 4
    assert set(best[0][1]) == {"OA", "mIoU"}


def test_the_speed_counts_the_patches_of_all_batches(data, tmp_path, monkeypatch):
    """Six patches in batches of four and of two, a second later."""
    speeds, clock = [], SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr(Split, "loader", lambda split, fabric: make_loader(split.dataset, 4))
    monkeypatch.setattr("panoseg.training.loop.time", clock)
    monkeypatch.setattr(RunLog, "scalar", lambda log, name, value, step: speeds.append(value))
    train(replace(SEMANTIC, batch_size=4, log_every=10), data, tmp_path)
    assert speeds == [6]


def test_threads(data):
    threads = torch.get_num_threads()
    make_fabric(replace(SEMANTIC, threads=threads + 1))
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


def test_devices_and_precision_are_fabrics(monkeypatch):
    import lightning_fabric

    made = []

    class Recorder:
        def __init__(self, **options):
            made.append(options)

        def launch(self):
            made.append("launched")

    monkeypatch.setattr(lightning_fabric, "Fabric", Recorder)
    make_fabric(replace(SEMANTIC, accelerator="cuda", devices=4, nodes=2, precision="bf16-mixed"))
    make_fabric(SEMANTIC)
    several, one = made[0], made[2]
    assert made[1] == "launched"
    assert several.pop("strategy") == "ddp_find_unused_parameters_true"
    assert several == {
        "accelerator": "cuda",
        "devices": 4,
        "num_nodes": 2,
        "precision": "bf16-mixed",
    }
    assert one == {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "precision": "32-true",
        "strategy": "auto",
    }


def test_compile_compiles_the_network(data, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda way: compiled.append(type(way.__self__).__name__) or way
    )
    train(replace(SEMANTIC, max_steps_per_epoch=1), data, tmp_path / "a")
    assert compiled == []
    train(replace(SEMANTIC, max_steps_per_epoch=1, compile=True), data, tmp_path / "b")
    assert compiled == ["UTAE"]


def test_workers_reach_the_loaders(data):
    splits = open_splits(data, 1, replace(SEMANTIC, workers=1))
    assert all(
        split.loader(make_fabric(SEMANTIC)).num_workers == 1
        for split in (splits.train, splits.validation, splits.test)
    )


def test_minutes_between_checkpoints(data, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "panoseg.training.loop.save_checkpoint",
        lambda path, model, optimiser, progress, states: written.append(progress.step),
    )
    for minutes, steps in ((0.0, [1, 2, 3, 0]), (10.0, [3, 0])):
        train(replace(SEMANTIC, checkpoint_minutes=minutes), data, tmp_path / str(minutes))
        assert written == steps
        written.clear()


def test_validation_may_be_of_fewer_patches(data):
    assert len(open_splits(data, 1, SEMANTIC).validation) == 2
    assert len(open_splits(data, 1, replace(SEMANTIC, max_validation_patches=1)).validation) == 1
    assert len(open_splits(data, 1, replace(SEMANTIC, max_validation_patches=9)).validation) == 2


def test_tuning_can_be_left_out(data, tmp_path):
    config = replace(PANOPTIC, model=replace(PAPS, min_confidence=0.123), max_steps_per_epoch=1)
    left, tuned = (
        train(replace(config, tune_threshold=tune), data, tmp_path / str(tune)).network
        for tune in (False, True)
    )
    assert left.min_confidence.item() == pytest.approx(0.123)
    assert tuned.min_confidence.item() != pytest.approx(0.123)


def test_a_training_that_diverges_says_so(data, tmp_path):
    config = replace(SEMANTIC, epochs=4, optimiser=OptimiserConfig(learning_rate=1e30))
    with pytest.raises(ConfigError, match=r"loss is nan at step \d.*learning-rate"):
        train(config, data, tmp_path / "run")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last.ckpt", {}, {}, Progress(step=1), [])

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_checkpoint(tmp_path / "last.ckpt", {}, {}, Progress(step=2), [])
    assert load_checkpoint(tmp_path / "last.ckpt").progress.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_network_learns_the_colours_of_classes(data, tmp_path):
    """Colours tell the classes of these patches, so 150 steps must tell most pixels, also of
    patches never seen.

    One class for all pixels would be right for 72 of a hundred.
    """
    config = replace(
        SEMANTIC,
        epochs=25,
        batch_size=1,
        validate_after=24,
        optimiser=OptimiserConfig(learning_rate=0.02),
    )
    scores = {}
    train(config, data, tmp_path / "run", lambda epoch, found: scores.update(found))
    assert scores["OA"] > 80


# Where a training starts


def test_initial_heat_is_the_heat_of_the_first_step(data, tmp_path):
    losses = []
    for name, heat in (("drawn", 0.0), ("prior", 0.03)):
        start(
            name,
            replace(PANOPTIC, initial_heat=heat, max_steps_per_epoch=1),
            data,
            1,
            tmp_path / name,
        )
        losses.append(float(read_log(tmp_path / name / "log.csv")[0]["centre"]))
    assert losses[1] < losses[0]
    with pytest.raises(ConfigError, match="--initial-heat must be at least 0 and below 1"):
        replace(PANOPTIC, initial_heat=1.0)


def test_a_panoptic_network_learns(data, tmp_path):
    config = replace(
        PANOPTIC,
        epochs=30,
        validate_every=30,
        precision="bf16-mixed",
        optimiser=OptimiserConfig(learning_rate=0.01),
    )
    train(config, data, tmp_path / "run")
    first, *_, last = [
        row for row in read_log(tmp_path / "run" / "log.csv") if row["split"] == "train"
    ]
    for name, part in (("centre", 0.7), ("size", 0.9), ("class", 0.2)):
        assert float(last[name]) < part * float(first[name]), name
