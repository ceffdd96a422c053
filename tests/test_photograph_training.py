"""Trainings on photographs: the published course, the linear rule, scores of right pictures, kill
and resume, two processes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseg.cli import main
from panoseg.coco.scores import PhotographCounts, PhotographScores
from panoseg.data import AugmentationConfig, PhotographConfig
from panoseg.data.coco import CocoDataset
from panoseg.data.photographs import mask_boxes
from panoseg.data.scored_photographs import ScoredPhotographs
from panoseg.errors import ConfigError
from panoseg.models.configs import fit_to_table
from panoseg.models.network import build_network
from panoseg.models.outputs import DetectedObjects, PhotographOutput
from panoseg.models.photograph_network import Labels
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from panoseg.simulation.options import SIMULATED_PHOTOGRAPHS, SKY
from panoseg.training import DataConfig, OptimiserConfig, TrainConfig
from panoseg.training.checkpoint import load_checkpoint, read_log
from panoseg.training.experiments import EXPERIMENTS
from panoseg.training.loop import LearningRateSchedule, make_optimiser
from panoseg.training.run import resume, start
from panoseg.training.scorers import SCORERS
from photograph_runs import INSTANCES, PANOPTIC, SEMANTIC, simulate_photographs
from tiny_runs import UTAE

LABELS = Labels.of(SIMULATED_PHOTOGRAPHS)
COCO = 118_287
"""Photographs of COCO's training set."""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Drawing takes longer than such trainings."""
    for place in (
        "run.draw_curves",
        "run.draw_predictions",
        "run.draw_scores",
        "evaluate.draw_predictions",
        "evaluate.draw_scores",
    ):
        monkeypatch.setattr(f"panoseg.training.{place}", lambda *_: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve photographs of an object each to train, three to validate, in two of which most pixels
    are sky.
    """
    return simulate_photographs(tmp_path_factory.mktemp("photographs") / "data", 15, things=(1, 1))


# The course


def course_of(name, batch_size, devices=1):
    """The course of a published experiment on COCO at a batch a device."""
    config = replace(EXPERIMENTS[name].config, batch_size=batch_size)
    return LearningRateSchedule.of(config, COCO // (batch_size * devices), devices)


@pytest.mark.parametrize(("batch_size", "devices"), [(64, 1), (8, 8)])
def test_the_published_course(batch_size, devices):
    """64 photographs a step: 22,500 steps, 0.12 after 500 steps from 0.0067, a tenth of it from
    15,000 and from 20,000 on.
    """
    course = course_of("coco-panoptic-fpn-r50-1x", batch_size, devices)
    assert course.steps == 22_500
    rates = {
        0: 0.0067,
        250: (0.0067 + 0.12) / 2,
        500: 0.12,
        14_999: 0.12,
        15_000: 0.012,
        19_999: 0.012,
        20_000: 0.0012,
        22_499: 0.0012,
    }
    for step, rate in rates.items():
        assert course.rate(step) == pytest.approx(rate, rel=1e-9), step
    assert course.epochs == 13
    assert sum(course.steps_of(epoch) for epoch in range(13)) == 22_500
    config = EXPERIMENTS["coco-panoptic-fpn-r50-1x"].config
    assert config.optimiser.algorithm == "sgd"
    assert (config.optimiser.momentum, config.optimiser.weight_decay) == (0.9, 4e-5)
    assert (config.photographs.scale, config.photographs.flip) == ((0.8, 1.25), True)
    model = config.model
    assert (model.merge_score, model.mask_threshold, model.merge_overlap, model.stuff_area) == (
        0.5,
        0.5,
        0.5,
        4096,
    )
    assert (model.instance_weight, model.semantic_weight) == (1.0, 0.5)


def test_the_longer_course_is_three_times_as_long():
    course = course_of("coco-panoptic-fpn-r50-3x", 64)
    assert (course.steps, course.optimiser.milestones) == (67_500, (45_000, 60_000))
    assert course.optimiser.warm_up_steps == 500
    assert [course.rate(step) for step in (0, 500, 45_000, 60_000)] == pytest.approx(
        [0.0067, 0.12, 0.012, 0.0012]
    )


def test_fewer_devices_follow_the_linear_rule():
    """Two photographs a step: a 32nd of the rates, and 32 times as many steps."""
    course = course_of("coco-panoptic-fpn-r50-1x", 2)
    assert (course.steps, course.optimiser.milestones, course.optimiser.warm_up_steps) == (
        720_000,
        (480_000, 640_000),
        16_000,
    )
    assert course.rate(0) == pytest.approx(0.0067 / 32)
    assert course.rate(16_000) == course.rate(479_999) == pytest.approx(0.00375)
    assert course.rate(640_000) == pytest.approx(0.0000375)
    said = course.text()
    assert "options for 64 samples a step, of which there are 2" in said
    assert "learning rate 0.00375 after 16,000 steps from 0.0002094" in said
    assert "times 0.1 at 480,000 and 640,000, 720,000 steps" in said


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 16), st.floats(0, 1))
def test_any_batch_sees_the_same_samples_at_proportional_rates(batch_size, devices, share):
    course, published = (
        course_of("coco-panoptic-fpn-r50-1x", batch_size, devices),
        course_of("coco-panoptic-fpn-r50-1x", 64),
    )
    batch = batch_size * devices
    assert course.batch == batch
    assert abs(course.steps * batch - 22_500 * 64) <= batch
    step = round(share * (published.steps - 1))
    near = [published.rate(other) * batch / 64 for other in (max(step - 1, 0), step, step + 1)]
    scaled = course.rate(round(step * 64 / batch))
    wide = 2 * 0.12 / 500 * batch / 64 * max(1, batch / 64)
    assert min(near) - wide <= scaled <= max(near) + wide


def test_steps_and_reference_batch_do_nothing_unless_asked():
    optimiser = OptimiserConfig(
        learning_rate=0.1, schedule="milestones", milestones=(2,), factor=0.5, warm_up_steps=3
    )
    course = LearningRateSchedule.of(TrainConfig(optimiser=optimiser, epochs=4, batch_size=8), 10)
    assert (course.steps, course.epochs, course.optimiser.milestones, course.text()) == (
        40,
        4,
        (20,),
        "",
    )
    assert course.rate(19) == pytest.approx(0.1)
    assert course.rate(20) == pytest.approx(0.05)
    doubled = LearningRateSchedule.of(
        TrainConfig(optimiser=optimiser, epochs=4, batch_size=8, reference_batch=4), 10
    )
    assert (doubled.steps, doubled.optimiser.milestones) == (
        40,
        (20,),
    ), "epochs see the same samples anyhow"
    assert doubled.optimiser.learning_rate == pytest.approx(0.2)
    assert doubled.optimiser.warm_up_steps == 2
    fixed = LearningRateSchedule.of(TrainConfig(optimiser=optimiser, steps=25, batch_size=8), 10)
    assert (fixed.steps, fixed.epochs, fixed.optimiser.milestones) == (
        25,
        3,
        (2,),
    ), "milestones count steps"
    assert [fixed.steps_of(epoch) for epoch in range(3)] == [10, 10, 5]


def test_the_warm_up_begins_where_it_is_told():
    rates = {}
    for start_at in (0.0, 0.04):
        optimiser = OptimiserConfig(learning_rate=0.1, warm_up_steps=4, warm_up_from=start_at)
        course = LearningRateSchedule.of(TrainConfig(optimiser=optimiser), 10)
        rates[start_at] = [course.rate(step) for step in range(6)]
    assert rates[0.0] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert rates[0.04] == pytest.approx([0.04, 0.055, 0.07, 0.085, 0.1, 0.1])


# The optimiser


def descended(config, gradients):
    """A parameter that starts at 1 and is given some gradients."""
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimiser = make_optimiser([parameter], config)
    for gradient in gradients:
        parameter.grad = torch.full((1,), gradient, dtype=torch.float64)
        optimiser.step()
    return parameter.item()


def test_descent_with_momentum_is_that_of_the_textbook():
    """v = 0.9 v + (g + w p); p = p - r v."""
    config = OptimiserConfig(algorithm="sgd", learning_rate=0.1, weight_decay=0.01)
    position, velocity = 1.0, 0.0
    for gradient in (0.5, -0.2, 0.3):
        velocity = 0.9 * velocity + gradient + 0.01 * position
        position -= 0.1 * velocity
    assert descended(config, (0.5, -0.2, 0.3)) == pytest.approx(position, rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [{"algorithm": "adam"}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"learning_rate": 0.05}],
)
def test_options_of_the_optimiser_change_where_it_goes(change):
    usual = OptimiserConfig(algorithm="sgd", learning_rate=0.1, weight_decay=0.01)
    gradients = (0.5, -0.2, 0.3)
    assert descended(replace(usual, **change), gradients) != pytest.approx(
        descended(usual, gradients)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimiser": {"momentum": 1.0}},
            "--optimiser.momentum must be at least 0 and below 1, not 1.0",
        ),
        (
            {"optimiser": {"warm_up_from": 0.5, "learning_rate": 0.1}},
            "--optimiser.warm-up-from 0.5 must not exceed --optimiser.learning-rate 0.1",
        ),
        ({"steps": -1}, "--steps must be a number from 0, not -1"),
        ({"reference_batch": -1}, "--reference-batch must be a number from 0, not -1"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(
            **{
                name: OptimiserConfig(**value) if isinstance(value, dict) else value
                for name, value in options.items()
            }
        )


def test_options_of_the_other_kind_of_data_are_refused():
    with pytest.raises(ConfigError, match="Panoptic FPN does not use data: leave it out"):
        replace(PANOPTIC, data=DataConfig(augmentation=AugmentationConfig(flips=True)))
    with pytest.raises(ConfigError, match="Panoptic FPN does not use tune_threshold"):
        replace(PANOPTIC, tune_threshold=False)
    with pytest.raises(ConfigError, match="U-TAE does not use photographs"):
        TrainConfig(model=UTAE, photographs=PhotographConfig(flip=True))


# Scores of what is right


def perfect(entry, scope, score=0.9):
    """An output that says what the truth says: whole masks of things, and a class for each
    pixel.
    """
    truth = entry.truth
    things = [
        segment
        for segment in truth.segments
        if segment.kind == "thing" and segment.id not in entry.crowd_ids
    ]
    masks = torch.from_numpy(np.stack([truth.segment_HW == segment.id for segment in things]))
    drawn = type(
        "Drawn",
        (DetectedObjects,),
        {"mask_BHW": lambda self, candidate_B: self.shape_BNSS[[0], candidate_B] > 0.5},
    )
    objects = drawn(
        masks[None].float(),
        mask_boxes(masks)[None],
        torch.full((1, len(things)), score),
        torch.tensor([[LABELS.things.index(segment.class_id) + 1 for segment in things]]),
        truth.segment_HW.shape,
        0.5,
    )
    ids = LABELS.semantic_ids(scope)
    number = {class_id: label for label, class_id in enumerate(ids)}
    labels = np.vectorize(lambda class_id: number.get(class_id, 0))(truth.classes_HW(-1))
    maps = (
        torch.nn.functional.one_hot(torch.from_numpy(labels), len(ids))
        .permute(2, 0, 1)[None]
        .float()
    )
    return PhotographOutput(
        truth.segment_HW.shape, objects, maps, tuple(map(float, truth.segment_HW.shape))
    )


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Photographs with crowds and dirt, with their truth, read at a larger size than they have on
    disk.
    """
    folder = simulate_photographs(
        tmp_path_factory.mktemp("scored") / "data", 4, crowds=0.7, smudges=0.7
    )
    return ScoredPhotographs(
        CocoDataset(folder, "train", SIMULATED_PHOTOGRAPHS, PhotographConfig(min_side=48))
    )


def scores_of(network, entries, outputs):
    scorer = SCORERS[network.scorer]
    table, classes = network.table, scorer.pixel_classes(network)
    details = network.details_of(outputs)
    counts = scorer.count(PhotographCounts(), entries, details, table, classes)
    return PhotographScores.of(scorer.complete(counts, table, classes), table, classes).summary()


@pytest.mark.parametrize(
    ("config", "kind", "names"),
    [
        (
            PANOPTIC,
            "panoptic",
            ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "box_AP", "mask_AP", "OA"),
        ),
        (SEMANTIC, "semantic", ("mIoU", "OA")),
        (replace(SEMANTIC, model=replace(SEMANTIC.model, scope="all")), "semantic", ("mIoU", "OA")),
        (INSTANCES, "instances", ("box_AP", "mask_AP")),
    ],
    ids=["panoptic", "stuff", "all classes", "instances"],
)
def test_what_is_right_has_all_points_and_what_is_not_has_fewer(scored, config, kind, names):
    """Crowds are ignored; void is not counted; sizes are those on disk, for any size that the network
    sees.
    """
    model = build_network(
        fit_to_table(
            replace(config.model, **({"stuff_area": 0} if kind == "panoptic" else {})), scored.table
        ),
        scored.table,
    )
    entries = [scored[index] for index in range(len(scored))]
    assert entries[0].photograph.image_CHW.shape[1:] == (48, 48)
    assert any(entry.crowd_ids for entry in entries)
    outputs = [perfect(entry, model.scope or "stuff") for entry in entries]
    right = scores_of(model, entries, outputs)
    assert [right[name] for name in names] == pytest.approx([100.0] * len(names)), right
    wrong = scores_of(model, entries, [*outputs[1:], outputs[0]])
    for name in names:
        assert wrong[name] < 60, name
    # The order does not matter.
    assert scores_of(model, entries[::-1], outputs[::-1]) == right


# Runs


def train_rows(folder):
    return [row for row in read_log(folder / "log.csv") if row["split"] == "train"]


def test_a_run_follows_its_course_to_the_step(data, tmp_path, capsys):
    """Twelve photographs by four are three steps an epoch; five steps are an epoch and two
    thirds.
    """
    optimiser = OptimiserConfig(
        algorithm="sgd",
        learning_rate=0.008,
        schedule="milestones",
        milestones=(8,),
        factor=0.1,
        warm_up_steps=4,
        warm_up_from=0.002,
    )
    config = replace(
        SEMANTIC,
        optimiser=optimiser,
        steps=10,
        batch_size=4,
        reference_batch=2,
        max_validation_patches=1,
    )
    start("test", config, data, 1, tmp_path / "run", report=print)
    said = capsys.readouterr().out
    assert (
        "linear rule: options for 2 samples a step, of which there are 4: learning rate 0.016 after"
        " 2 steps from 0.004" in said
    )
    rows = train_rows(tmp_path / "run")
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("1", "1"),
        ("1", "2"),
        ("1", "3"),
        ("2", "4"),
        ("2", "5"),
    ]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(
        [0.004, 0.01, 0.016, 0.016, 0.0016]
    )
    assert "epoch 2: mIoU" in said
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["test"]) == {"mIoU", "OA"}


@pytest.mark.parametrize(
    ("name", "options", "scores"),
    [
        (
            "simulated-photographs-panoptic-fpn-r18",
            ["--model.detections", "5"],
            {"PQ", "PQ_things", "PQ_stuff", "box_AP", "mask_AP", "mIoU"},
        ),
        (
            "coco-pspnet-r50",
            ["--model.width", "32", "--model.auxiliary-width", "16"],
            {"mIoU", "OA"},
        ),
        (
            "coco-maskrcnn-r50",
            ["--model.box-width", "16", "--model.pyramid-width", "16", "--model.mask-widths", "16"],
            {"box_AP", "mask_AP"},
        ),
    ],
)
def test_experiments_train_and_are_tested_by_their_names(
    data, tmp_path, capsys, name, options, scores
):
    small = [
        "--model.backbone",
        "resnet18",
        "--model.norm",
        "group",
        "--model.weights",
        "none",
        "--steps",
        "1",
        "--epochs",
        "1",
    ]
    small += [
        "--photographs.min-side",
        "32",
        "--photographs.max-side",
        "32",
        "--photographs.crop",
        "32",
        "--batch-size",
        "2",
    ]
    small += [
        "--reference-batch",
        "0",
        "--max-validation-patches",
        "1",
        "--workers",
        "0",
        "--accelerator",
        "cpu",
    ]
    run = tmp_path / "run"
    assert main(["train", name, "--data", str(data), "--out", str(run), *small, *options]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["test"]) >= scores
    card = load_weights(run / "weights").card
    assert (card.provenance["min_side"], card.provenance["experiment"]) == (32, name)
    capsys.readouterr()
    if name != "simulated-photographs-panoptic-fpn-r18":
        return
    assert (
        main(
            [
                "test",
                str(run),
                "--data",
                str(data),
                "--workers",
                "0",
                "--accelerator",
                "cpu",
                "--pictures",
                "0",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "3 photographs of set val" in said
    assert all(score.replace("_", " ") in said for score in scores)
    tested = json.loads((run / "test" / "metrics.json").read_text())
    assert (tested["test"], tested["details"]) == (metrics["test"], metrics["details"])


def test_imagenet_is_not_fetched_where_the_backbone_is_taken_over(
    data, tmp_path, capsys, monkeypatch
):
    """Without a network a training starts from a run all the same."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("fetched"))
    model = fit_to_table(
        replace(PANOPTIC.model, norm="frozen", weights="imagenet"), SIMULATED_PHOTOGRAPHS
    )
    torch.manual_seed(3)
    save_weights(
        tmp_path / "weights",
        Weights(WeightsCard(model, None, SIMULATED_PHOTOGRAPHS), build_network(model).state_dict()),
    )
    config = replace(
        PANOPTIC, model=model, start_from=str(tmp_path / "weights"), swap_classifier=True, steps=1
    )
    start(
        "test", replace(config, max_validation_patches=1), data, 1, tmp_path / "run", report=print
    )
    said = capsys.readouterr().out
    assert "start from" in said
    assert "ImageNet" not in said
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_network_of_seasons_does_not_look_at_photographs(data, tmp_path, capsys):
    assert main(["train", "pastis-utae", "--data", str(data), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "U-TAE reads seasons, but a dataset in COCO's layout holds photographs" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# Killed, and in two processes

# A checkpoint after the second of three steps, inside the only epoch.
RESUMED = replace(
    PANOPTIC,
    steps=3,
    log_every=2,
    max_validation_patches=1,
    photographs=PhotographConfig(flip=True, scale=(0.8, 1.25)),
)


def shared_batch(devices, weights):
    """Four photographs a step by one or two processes; all anchors and proposals teach, so that
    nothing is drawn.
    """
    model = replace(PANOPTIC.model, anchors_per_image=4096, boxes_per_image=4096, min_score=0.0)
    return replace(
        PANOPTIC,
        model=model,
        devices=devices,
        batch_size=4 // devices,
        steps=2,
        start_from=weights,
        checkpoint_minutes=10,
    )


def half_right(batch):
    """What is right for the first photograph, moved for the second, and unsure for the third."""
    outputs = []
    for entry in batch.entries:
        output, moved = (
            perfect(entry, "stuff", score=0.6 if entry.index == 2 else 0.9),
            2 * (entry.index == 1),
        )
        shape, maps = (
            tensor.roll(moved, -1) for tensor in (output.objects.shape_BNSS, output.maps_BKhw)
        )
        objects = replace(output.objects, shape_BNSS=shape, box_BN4=output.objects.box_BN4 + moved)
        outputs.append(replace(output, objects=objects, maps_BKhw=maps))
    return outputs


def score_half_right(weights, split, fabric):
    """``score`` whose network says what is half right, so that there is something to score after
    two steps.
    """
    network = weights.network()
    network.details = lambda batch, options: network.details_of(half_right(batch))
    return network, SCORERS[network.scorer].evaluate(network, split, fabric)


# One process imports what takes long; its children are killed, or share a training.
_APART = """
import json, os, signal, sys, traceback
import lightning_fabric, torch.utils.tensorboard
from pathlib import Path
from panoseg.training import loop, run
from test_photograph_training import RESUMED, score_half_right, shared_batch

for name in ("draw_curves", "draw_predictions", "draw_scores"):
    setattr(run, name, lambda *_: None)
data, folder, weights, port = sys.argv[1:]

def killed():
    step, calls = loop.Training._descend, []
    def fatal(training, loss):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(training, loss)
    loop.Training._descend = fatal
    run.start("test", RESUMED, Path(data), 1, Path(folder) / "killed")

def one_of_two(rank):
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    run.score = score_half_right
    run.start("test", shared_batch(2, weights), Path(data), 1, Path(folder) / "two")

def child(work, *arguments):
    number = os.fork()
    if number == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return number

codes = [os.waitstatus_to_exitcode(os.waitpid(child(killed), 0)[1])]
codes += [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in [child(one_of_two, rank) for rank in (0, 1)]]
assert codes == [-signal.SIGKILL, 0, 0], codes
"""


@pytest.fixture(scope="module")
def starting_weights(tmp_path_factory):
    """Weights that call most pixels sky, so that there is a score."""
    torch.manual_seed(0)
    config = fit_to_table(shared_batch(1, "").model, SIMULATED_PHOTOGRAPHS)
    network = build_network(config)
    with torch.no_grad():
        network.semantic_head.scores.bias[LABELS.semantic_ids("stuff").index(SKY)] = 9.0
    folder = tmp_path_factory.mktemp("weights") / "sky"
    save_weights(
        folder, Weights(WeightsCard(config, None, SIMULATED_PHOTOGRAPHS), network.state_dict())
    )
    return str(folder)


@pytest.fixture(scope="module")
def apart(data, starting_weights, tmp_path_factory):
    """A folder with the run that was killed, and the run of two processes."""
    folder = tmp_path_factory.mktemp("apart")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", _APART, str(data), str(folder), starting_weights, port]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return folder


two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")


@two_cores
def test_a_killed_run_is_resumed_to_the_same_weights(data, apart, tmp_path, capsys):
    """Proposals that teach are drawn by chance, and momentum remembers: both come back."""
    whole, killed = tmp_path / "whole", apart / "killed"
    start("test", RESUMED, data, 1, whole)
    assert load_checkpoint(killed / "last.ckpt").progress.total_steps == 2
    assert not (killed / "metrics.json").exists()
    capsys.readouterr()
    resume(killed, report=print)
    assert "continues in epoch 1 of 1, after step 2" in capsys.readouterr().out
    first, second = (load_checkpoint(folder / "last.ckpt") for folder in (whole, killed))
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    momentum, again = (checkpoint.optimiser["state"] for checkpoint in (first, second))
    assert all(
        torch.equal(entry["momentum_buffer"], again[key]["momentum_buffer"])
        for key, entry in momentum.items()
    )
    assert first.progress == second.progress
    for name in ("log.csv", "metrics.json", "weights/model.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


@two_cores
def test_two_processes_train_and_score_as_one(data, apart, starting_weights, tmp_path, monkeypatch):
    """The same losses at each of two steps of the same four photographs, and the same scores of
    three photographs.
    """
    monkeypatch.setattr("panoseg.training.run.score", score_half_right)
    start("test", shared_batch(1, starting_weights), data, 1, tmp_path / "one")
    folders = (tmp_path / "one", apart / "two")
    one, two = (read_log(folder / "log.csv") for folder in folders)
    assert (
        [row["split"] for row in one]
        == [row["split"] for row in two]
        == ["train", "train", "validation"]
    )
    for row, other in zip(one, two, strict=True):
        numbers = {name: float(value) for name, value in row.items() if value and name != "split"}
        assert {
            name: float(value) for name, value in other.items() if value and name != "split"
        } == pytest.approx(numbers, rel=1e-4, abs=1e-5)
    assert float(one[-1]["PQ"]) > 1
    tests = [json.loads((folder / "metrics.json").read_text())["test"] for folder in folders]
    assert tests[0] == pytest.approx(tests[1])
    assert all(
        5 < tests[0][name] < 99
        for name in ("PQ", "PQ_things", "PQ_stuff", "box_AP", "mask_AP", "mIoU")
    ), tests[0]
