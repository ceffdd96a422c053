"""Fine-tuning: weights are really taken, mismatches are listed, classifiers are new, frozen parts
stay still.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from panoseg.classes import PASTIS, ClassTable
from panoseg.cli import main
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, WeightsError
from panoseg.models.configs import SEASON_CONFIGS
from panoseg.models.network import build_network
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from panoseg.training import OptimiserConfig, TrainConfig
from panoseg.training.checkpoint import load_checkpoint
from panoseg.training.loop import Training
from panoseg.training.run import resume_run, start
from panoseg.training.transfer import check_parts, classifier_entries, freeze, take_over
from tiny_runs import PAPS, UTAE, tiny_options, write_tiny_dataset

FEW = ClassTable("few", PASTIS.classes[:5])
CLASSIFIER = {f"out_conv.conv.conv.{layer}" for layer in (3, 4)}
STILL = OptimiserConfig(learning_rate=1e-30)
CONFIG = TrainConfig(
    model=UTAE,
    epochs=1,
    batch_size=2,
    workers=0,
    accelerator="cpu",
    log_every=1,
    max_steps_per_epoch=1,
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    for name in ("draw_curves", "draw_predictions", "draw_scores"):
        monkeypatch.setattr(f"panoseg.training.run.{name}", lambda *_: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


def weights_of(config, table: ClassTable = PASTIS, seed: int = 0) -> Weights:
    torch.manual_seed(seed)
    config = config.fitted(bands=10, classes=table.count, reference_date="2018-09-01")
    state = build_network(config).state_dict()
    return Weights(WeightsCard(config, Normalisation((1000.0,) * 10, (500.0,) * 10), table), state)


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A folder of weights of the tiny U-TAE."""
    folder = tmp_path_factory.mktemp("origin") / "weights"
    save_weights(folder, weights_of(UTAE))
    return folder


def owner(name: str) -> str:
    return name.rpartition(".")[0]


def differing(first: dict, second: dict) -> set[str]:
    """Weights and biases that differ by more than a training at a rate of 1e-30 moves them."""
    names = [name for name in first if name.endswith(("weight", "bias"))]
    return {name for name in names if (first[name] - second[name]).abs().max() > 1e-20}


# What is taken


def test_the_same_network_takes_everything():
    weights, model = weights_of(UTAE), build_network(UTAE, PASTIS)
    transfer = take_over(model, weights, "here")
    assert transfer.not_taken == {}
    assert list(transfer.taken) == list(model.state_dict())
    assert all(
        torch.equal(value, weights.state[name]) for name, value in model.state_dict().items()
    )


def test_what_fits_is_taken_and_every_mismatch_is_listed():
    weights, model = weights_of(UTAE), build_network(replace(UTAE, head_widths=(12, 8)), PASTIS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    transfer = take_over(model, weights, "here")
    for name, value in model.state_dict().items():
        assert torch.equal(
            value, weights.state[name] if name in transfer.taken else before[name]
        ), name
    assert set(transfer.taken) | set(transfer.not_taken) >= set(before) | set(weights.state)
    assert set(transfer.taken) >= {
        name for name in weights.state if not name.startswith("out_conv")
    }
    assert (
        transfer.not_taken["out_conv.conv.conv.0.weight"]
        == "12 x 8 x 3 x 3 here, 8 x 8 x 3 x 3 there"
    )
    assert transfer.not_taken["out_conv.conv.conv.6.weight"] == "20 x 8 x 3 x 3 here, missing there"
    assert len(transfer.text().splitlines()) == 1 + len(transfer.not_taken)
    back = take_over(
        build_network(UTAE, PASTIS), weights_of(replace(UTAE, head_widths=(12, 8))), "there"
    )
    assert back.not_taken["out_conv.conv.conv.6.weight"] == "20 x 8 x 3 x 3 there, unknown here"


def test_a_backbone_takes_the_weights_of_its_network_and_gives_them_back():
    utae, paps = weights_of(UTAE), build_network(PAPS, PASTIS)
    transfer = take_over(paps, utae, "here")
    assert all(
        torch.equal(paps.state_dict()[f"encoder.{name}"], value)
        for name, value in utae.state.items()
    )
    assert {name.split(".")[0] for name in transfer.not_taken} == {
        *(name.split(".")[0] for name in paps.state_dict() if not name.startswith("encoder."))
    }
    back = build_network(UTAE, PASTIS)
    take_over(back, replace(weights_of(PAPS), state=paps.state_dict()), "here")
    assert all(torch.equal(value, utae.state[name]) for name, value in back.state_dict().items())


def test_weights_of_which_nothing_fits_are_refused():
    other = replace(
        UTAE,
        encoder_widths=(24, 24),
        decoder_widths=(12, 24),
        head_widths=(12,),
        d_model=24,
        heads=8,
        classes=5,
    )
    state = {name: value[None] for name, value in weights_of(other, FEW).state.items()}
    weights = weights_of(UTAE)
    object.__setattr__(weights, "state", state)
    with pytest.raises(WeightsError, match="of which no entry fits"):
        take_over(build_network(UTAE, PASTIS), weights, "here")


# The classifier


def test_other_classes_need_a_new_classifier():
    with pytest.raises(
        WeightsError, match=r"20 classes of PASTIS.*5 classes of few.*--swap-classifier"
    ):
        take_over(build_network(replace(UTAE, classes=5), FEW), weights_of(UTAE), "here")
    renamed = ClassTable(
        "renamed", tuple(replace(entry, name=f"crop {entry.id}") for entry in PASTIS.classes)
    )
    with pytest.raises(WeightsError, match="classes of renamed"):
        take_over(build_network(UTAE, renamed), weights_of(UTAE), "here")


@pytest.mark.parametrize("table", [FEW, PASTIS], ids=lambda table: table.name)
def test_a_swapped_classifier_stays_as_drawn_and_the_rest_is_taken(table):
    weights, model = weights_of(UTAE), build_network(replace(UTAE, classes=table.count), table)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    transfer = take_over(model, weights, "here", swap_classifier=True)
    assert {owner(name) for name in transfer.not_taken} == CLASSIFIER
    assert set(transfer.not_taken.values()) == {"new classifier"}
    for name, value in model.state_dict().items():
        assert torch.equal(
            value, before[name] if owner(name) in CLASSIFIER else weights.state[name]
        ), name


@pytest.mark.parametrize("kind", SEASON_CONFIGS.values(), ids=SEASON_CONFIGS)
def test_every_network_has_a_classifier(kind):
    config = kind()
    entries = build_network(config).state_dict()
    classifier = classifier_entries(config)
    assert 2 <= len(classifier) < len(entries)
    assert all(
        config.classes in entries[name].shape for name in classifier if name.endswith("bias")
    )


def test_the_classifiers_of_a_panoptic_network():
    owners = {owner(name) for name in classifier_entries(PAPS)}
    assert {f"encoder.{name}" for name in CLASSIFIER} <= owners
    assert {name.split(".")[0] for name in owners} == {"encoder", "class_mlp"}


# Frozen parts


def test_a_wrong_part_lists_the_right_ones():
    model = build_network(UTAE)
    with pytest.raises(ConfigError) as error:
        check_parts(model, ["in_conv", "encodr"])
    assert "'encodr'" in str(error.value)
    assert "in_conv, down_blocks, up_blocks, temporal_encoder, out_conv" in str(error.value)
    with pytest.raises(ConfigError, match=r"choose from down_blocks\.0"):
        check_parts(model, ["down_blocks.7"])
    with pytest.raises(ConfigError, match="'in_con'"):  # a part is whole names
        check_parts(model, ["in_con"])
    check_parts(model, ["in_conv", "down_blocks.0", "out_conv.conv.conv.3.weight"])


def test_freezing_all_that_learns_is_refused():
    with pytest.raises(ConfigError, match="leaves nothing to train: freeze fewer parts"):
        check_parts(
            build_network(UTAE),
            ["in_conv", "down_blocks", "up_blocks", "temporal_encoder", "out_conv"],
        )


def test_frozen_parts_are_in_evaluation_mode_without_gradients():
    model = build_network(PAPS).train()
    freeze(model, ["encoder", "shape_mlp.0"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("encoder.", "shape_mlp.0."))
    }
    still = {name for name, module in model.named_modules() if not module.training}
    assert still >= {"encoder", "encoder.in_conv", "shape_mlp.0"}
    assert not still & {"", "shape_mlp", "class_mlp"}


def states(folder: Path) -> tuple[dict, dict]:
    """Parameters and statistics, and the optimiser, at the end of a run."""
    checkpoint = load_checkpoint(folder / "last.ckpt")
    return {
        name.removeprefix("model."): value for name, value in checkpoint.model.items()
    }, checkpoint.optimiser


@pytest.mark.parametrize("parts", [(), ("in_conv", "down_blocks"), ("temporal_encoder",)], ids=str)
def test_frozen_parameters_and_statistics_do_not_move_and_all_others_do(data, tmp_path, parts):
    network = replace(UTAE, encoder_norm="batch")
    weights = weights_of(network)
    save_weights(tmp_path / "origin", weights)
    config = replace(
        CONFIG,
        model=network,
        start_from=str(tmp_path / "origin"),
        freeze=parts,
        max_steps_per_epoch=0,
    )
    start("tiny", config, data, 1, tmp_path / "run")
    after, optimiser = states(tmp_path / "run")
    moved = {name for name, value in after.items() if not torch.equal(value, weights.state[name])}
    frozen = {name for name in after if name.startswith(tuple(f"{part}." for part in parts))}
    assert not moved & frozen
    assert bool(parts) == bool(frozen)
    assert {
        name for name in after if name.endswith(("running_mean", "num_batches_tracked"))
    } - frozen <= moved
    learned_names = {name for name, _ in build_network(network).named_parameters()} - frozen
    # A bias before a norm learns from rounding alone.
    assert {name for name in learned_names if name.endswith("weight")} <= moved
    assert len(optimiser["param_groups"][0]["params"]) == len(learned_names)


def test_freezing_all_that_centres_depend_on_is_refused(data, tmp_path):
    """While centres alone are learned there is nothing else to learn."""
    save_weights(tmp_path / "origin", weights_of(PAPS))
    frozen = ("encoder", "heatmap_conv")
    config = replace(
        CONFIG,
        model=PAPS,
        start_from=str(tmp_path / "origin"),
        freeze=frozen,
        heatmap_only_epochs=1,
    )
    with pytest.raises(
        ConfigError, match="--freeze encoder heatmap_conv freezes all that is learned at first"
    ):
        start("tiny", config, data, 1, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# From the command line


def train(data: Path, out: Path, *options: str) -> int:
    short = ["--epochs", "1", "--max-steps-per-epoch", "1", "--optimiser.learning-rate", "1e-30"]
    name = "pastis-utae"
    return main(
        [
            "train",
            name,
            "--data",
            str(data),
            "--out",
            str(out),
            *tiny_options(name),
            *short,
            *options,
        ]
    )


def test_start_from_a_folder_of_weights(data, origin, tmp_path, capsys):
    assert train(data, tmp_path / "run", "--start-from", str(origin)) == 0
    before, after = load_weights(origin).state, load_weights(tmp_path / "run" / "weights")
    assert not differing(before, after.state)
    assert after.card.provenance["started_from"] == str(origin)
    taken = json.loads((tmp_path / "run" / "start.json").read_text())
    assert (set(taken["taken"]), taken["not_taken"], taken["source"]) == (
        set(before),
        {},
        str(origin),
    )
    assert f"{len(before)} entries taken, 0 not" in capsys.readouterr().out


def test_swap_the_classifier_and_freeze(data, origin, tmp_path, capsys):
    options = [
        "--start-from",
        str(origin),
        "--swap-classifier",
        "--freeze",
        "in_conv",
        "down_blocks.0",
    ]
    assert train(data, tmp_path / "run", *options) == 0
    before, after = load_weights(origin).state, load_weights(tmp_path / "run" / "weights")
    assert {owner(name) for name in differing(before, after.state)} == CLASSIFIER
    assert after.card.provenance["frozen"] == ["in_conv", "down_blocks.0"]
    assert "  out_conv.conv.conv.3.weight: new classifier" in capsys.readouterr().out


def test_a_run_starts_from_a_run_and_folds_from_their_folds(data, tmp_path, capsys):
    for fold in (1, 2):
        start("tiny", replace(CONFIG, seed=fold), data, fold, tmp_path / "runs" / f"fold_{fold}")
    for source, out in (("runs", "from-folds"), ("runs/fold_2", "from-run")):
        assert (
            train(data, tmp_path / out, "--start-from", str(tmp_path / source), "--fold", "2") == 0
        )
        before, after = (
            load_weights(folder / "weights").state
            for folder in (tmp_path / "runs/fold_2", tmp_path / out)
        )
        assert not differing(before, after), source
    assert "another fold" not in capsys.readouterr().out
    assert (
        train(data, tmp_path / "leak", "--start-from", str(tmp_path / "runs/fold_1"), "--fold", "2")
        == 0
    )
    assert "weights are of another fold" in capsys.readouterr().out
    assert (
        train(data, tmp_path / "missing", "--start-from", str(tmp_path / "runs"), "--fold", "3")
        == 2
    )
    assert "fold_3" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()


def test_start_from_the_authors_folder(data, tmp_path):
    """Written as the published program does; each fold has weights of its own."""
    widths = {
        "encoder_widths": [16, 16],
        "decoder_widths": [8, 16],
        "out_conv": [8, 20],
        "n_head": 4,
        "d_model": 16,
        "d_k": 2,
    }
    folder = tmp_path / "authors"
    for fold in range(1, 6):
        (folder / f"Fold_{fold}").mkdir(parents=True)
        torch.save(
            {"state_dict": weights_of(UTAE, seed=fold).state},
            folder / f"Fold_{fold}" / "model.pth.tar",
        )
    (folder / "conf.json").write_text(json.dumps({"model": "utae", **widths}))
    assert train(data, tmp_path / "run", "--start-from", str(folder), "--fold", "4") == 0
    before, after = weights_of(UTAE, seed=4).state, load_weights(tmp_path / "run" / "weights").state
    assert not differing(before, after)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--start-from", "nowhere"], "nowhere"),
        (["--swap-classifier"], "--swap-classifier needs weights to start from: add --start-from"),
        (["--freeze", "in_conv"], "--freeze needs weights to start from: add --start-from"),
        (["--start-from", "ORIGIN", "--freeze", "decoder"], "in_conv, down_blocks"),
    ],
)
def test_mistakes_end_in_a_line_and_leave_nothing(data, origin, tmp_path, capsys, options, said):
    options = [str(origin) if word == "ORIGIN" else word for word in options]
    assert train(data, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# Resuming


def test_a_run_with_frozen_parts_resumes_to_the_same_end(data, origin, tmp_path, monkeypatch):
    """Optimiser, log, parameters and statistics equal those of a run that never stopped."""
    config = replace(
        CONFIG,
        start_from=str(origin),
        freeze=("in_conv", "temporal_encoder"),
        epochs=2,
        max_steps_per_epoch=3,
    )
    config = replace(config, optimiser=OptimiserConfig(learning_rate=0.01), checkpoint_minutes=0.0)
    start("tiny", config, data, 1, tmp_path / "whole")
    steps, begin = [], Training._set_learning_rate

    def stop_at_the_fifth(training):
        steps.append(training.progress.total_steps)
        if len(steps) == 5:
            raise KeyboardInterrupt
        begin(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_set_learning_rate", stop_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            start("tiny", config, data, 1, tmp_path / "stopped")
    assert load_checkpoint(tmp_path / "stopped" / "last.ckpt").progress.total_steps == 4
    resume_run(tmp_path / "stopped")
    (first, optimiser), (second, other) = states(tmp_path / "stopped"), states(tmp_path / "whole")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert str(optimiser) == str(other)
    assert optimiser["state"]
    assert (tmp_path / "stopped/log.csv").read_bytes() == (tmp_path / "whole/log.csv").read_bytes()
    source = load_weights(origin).state
    assert all(
        torch.equal(value, source[name])
        for name, value in first.items()
        if name.startswith("temporal_encoder")
    )
