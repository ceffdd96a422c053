"""Images of a dataset of photographs that nobody annotated: left out, and their number is said."""

from __future__ import annotations

import json

from panoseg.cli import main
from panoseg.simulation.write_photographs import write_photographs
from panoseg.training import TrainConfig
from panoseg.training.run import start
from photograph_networks import panoptic_fpn


def test_training_and_testing_say_how_many_images_have_no_annotation(tmp_path, capsys):
    data = write_photographs(tmp_path / "data", 10, (32, 32), workers=1)
    for split, unannotated in (("train", 2), ("val", 1)):
        path = data / "annotations" / f"panoptic_{split}.json"
        content = json.loads(path.read_text())
        del content["annotations"][:unannotated]
        path.write_text(json.dumps(content))
    options = TrainConfig(
        model=panoptic_fpn(),
        initialisation="torch",
        epochs=1,
        max_steps_per_epoch=1,
        batch_size=1,
        workers=0,
        accelerator="cpu",
    )
    lines = []
    start("tiny", options, data, 1, tmp_path / "run", report=lines.append)
    printed = "\n".join(lines) + "\n"
    assert "6 photographs of set train to train, 1 of set val to validate" in printed
    assert "note: images without annotation are left out: 2 of set train, 1 of set val\n" in printed
    assert (
        main(
            [
                "test",
                str(tmp_path / "run"),
                "--data",
                str(data),
                "--workers",
                "0",
                "--pictures",
                "0",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        "1 photographs of set val, of the size that was trained\nnote: images without annotation"
        " are left out: 1 of set val\n" in printed
    )
