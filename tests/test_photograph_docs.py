"""What docs/photographs.md says of a user's own classes works, and the experiments and commands
that it names are there.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoseg.cli import COMMANDS, main
from panoseg.cli.coco import VERBS
from panoseg.data.coco import CocoDataset
from panoseg.models import weights_by_name
from panoseg.models.weights import load_weights
from panoseg.simulation.options import THINGS
from panoseg.training import TrainConfig, transfer
from panoseg.training import run as runs
from panoseg.training.experiments import EXPERIMENTS
from photograph_runs import PANOPTIC, simulate_photographs

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "photographs.md").read_text()
OWN = TEXT[TEXT.index("## Your own classes") :]
CODE = re.search(r"```python\n(.*?)```", OWN, re.DOTALL)[1]
APPLE, BASKET, GRASS, SKY = 1, 2, 3, 4


@pytest.fixture(scope="module")
def orchard(tmp_path_factory):
    """A dataset that the documented code has made, of simulated photographs under other names."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "photographs").mkdir()
    (folder / "labels").mkdir()
    simulated = simulate_photographs(folder / "simulated", 6)
    for split in ("train", "val"):
        dataset = CocoDataset(simulated, split)
        for index, file_name in enumerate(dataset.file_names):
            (folder / "photographs" / file_name).write_bytes(dataset.record(index).image)
            save_labels(folder / "labels" / f"{Path(file_name).stem}.png", dataset.truth(index)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(CODE, "docs/photographs.md", "exec"), {})
    return folder / "orchard"


def save_labels(path: Path, truth) -> None:
    """Class x 1000 + number of the object; the first thing of the simulator is an apple, all others
    are baskets.
    """
    label_HW = np.zeros(truth.segment_HW.shape, np.uint16)
    for number, segment in enumerate(truth.segments, 1):
        own = SKY if segment.class_id == 100 else GRASS
        if segment.kind == "thing":
            own = APPLE if segment.class_id == THINGS[0] else BASKET
        label_HW[truth.segment_HW == segment.id] = 1000 * own + (
            number if segment.kind == "thing" else 0
        )
    Image.fromarray(label_HW).save(path)


def test_the_documented_code_makes_a_dataset_of_own_classes(orchard):
    assert [len(CocoDataset(orchard, split)) for split in ("train", "val")] == [4, 2]
    dataset = CocoDataset(orchard, "val")
    assert [(entry.id, entry.name, entry.kind) for entry in dataset.table.classes] == [
        (1, "apple", "thing"),
        (2, "basket", "thing"),
        (3, "grass", "stuff"),
        (4, "sky", "stuff"),
    ]
    with Image.open(orchard.parent / "labels" / f"{dataset[0].name}.png") as image:
        label_HW = np.asarray(image).astype(int)
    np.testing.assert_array_equal(dataset.truth(0)[0].classes_HW(), label_HW // 1000)


def test_it_is_trained_on_tested_segmented_and_sharded(orchard, tmp_path):
    run = tmp_path / "run"
    runs.start("own", replace(PANOPTIC, epochs=1), orchard, 1, run)
    assert load_weights(run / "weights").card.model.classes == 4
    scores = json.loads((run / "metrics.json").read_text())
    assert {"PQ", "box_AP", "mask_AP", "mIoU"} <= scores["test"].keys()
    assert "basket" in json.dumps(scores["details"])
    options = ["--score", "0", "--stuff-area", "0", "--device", "cpu"]
    assert (
        main(
            [
                "photo",
                str(orchard / "val"),
                "--weights",
                str(run),
                "--out",
                str(tmp_path / "out"),
                *options,
            ]
        )
        == 0
    )
    named = (tmp_path / "out" / "segments.csv").read_text()
    assert any(name in named for name in ("apple", "basket", "grass", "sky"))
    written = tmp_path / "out" / "panoptic.json"
    truth = orchard / "annotations" / "panoptic_val.json"
    ids = {row["file_name"]: row["id"] for row in json.loads(truth.read_text())["images"]}
    renumbered = json.loads(written.read_text())
    for image, annotation in zip(renumbered["images"], renumbered["annotations"], strict=True):
        image["id"] = annotation["image_id"] = ids[image["file_name"]]
    written.write_text(json.dumps(renumbered))
    assert main(["coco", "evaluate", "--truth", str(truth), "--prediction", str(written)]) == 0
    assert (
        main(
            [
                "coco",
                "shards",
                "--data",
                str(orchard),
                "--out",
                str(tmp_path / "shards"),
                "--processes",
                "1",
            ]
        )
        == 0
    )


def test_documented_trainings_are_accepted(monkeypatch):
    started = []

    def start(name, train, *_, **__):
        started.append((name, train.steps))
        return runs.FoldsResult(Path("RUN"), "")

    def resume(*_, **__):
        started.append(("resumed", 0))
        return runs.FoldsResult(Path("RUN"), "")

    monkeypatch.setattr(runs, "start", start)
    monkeypatch.setattr(runs, "resume", resume)
    # Networks of the hub are not at hand; test_hub_networks.py fine-tunes one.
    monkeypatch.setattr(weights_by_name, "locate", Path)
    monkeypatch.setattr(transfer, "fine_tuning", lambda source: TrainConfig())
    lines = re.findall(r"^    (panoseg train .*)$", TEXT.replace("\\\n", " "), re.MULTILINE)
    for line in lines:
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    assert len(started) == len(lines) > 5
    assert ("coco-panoptic-fpn-r50-1x", 2000) in started


def test_experiments_and_commands_that_are_named_exist():
    named = re.findall(r"panoseg (\w+)(?: ([\w-]+))?", TEXT)
    assert len(named) > 20
    for command, second in named:
        assert command in COMMANDS or command == "cuda", command  # a tag of the image
        if command == "coco" and second:
            assert second in VERBS, second
        if command == "train" and second and not second.startswith("--"):
            assert second in EXPERIMENTS or second == "my-photos", second  # with --model
    assert VERBS.keys() <= {second for command, second in named if command == "coco"}
