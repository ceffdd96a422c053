"""What Panoptic FPN learns on a processor alone, printed as Markdown: of simulated photographs, or
of a few by heart.

    python benchmarks/photographs.py simulated FOLDER
    python benchmarks/photographs.py overfit FOLDER --images DIR --truth panoptic.json

``simulated`` trains the experiment simulated-photographs-panoptic-fpn-r18 from drawn weights and
scores it on photographs that no training has seen. ``overfit`` learns a few annotated photographs
and scores the same ones: whether a loss that falls means a picture that is right. FOLDER keeps
data, run and pictures; a stopped run goes on, and a finished one is only scored.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EXPERIMENT = "simulated-photographs-panoptic-fpn-r18"
PANOSEG = [sys.executable, "-c", "from panoseg.cli import script; script()"]
FIGURES = 6
# of each photograph that is learned by heart: an epoch, and its checkpoint, is then more than one
# step
COPIES = 20
# By heart: no chance, and group norms, since the statistics of a batch of two images are no
# estimate.
BY_HEART = {
    "batch-size": 2,
    "model.norm": "group",
    "model.anchor-sizes": (16, 32, 64, 128, 256),
    "model.stuff-area": 64,
    "model.boxes-per-image": 128,
    "model.detections": 100,
    "photographs.scale": (1, 1),
    "optimiser.warm-up-steps": 20,
}


def panoseg(*words: object) -> None:
    """Run one command of panoseg."""
    subprocess.run([*PANOSEG, *map(str, words)], check=True)


def as_words(options: dict[str, object]) -> list[object]:
    """Options as words of a command line."""
    words: list[object] = []
    for name, value in options.items():
        words += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
    return words


def train(data: Path, run: Path, words: list[object]) -> None:
    """Train into ``run`` unless it is finished; prints what it took, summed over starts."""
    clock = run.with_suffix(".json")
    spent = (
        json.loads(clock.read_text()) if clock.exists() else {"minutes": 0.0, "core minutes": 0.0}
    )
    if not (run / "metrics.json").exists():
        start, before = time.monotonic(), os.times()
        how = (
            ["--resume", run]
            if run.exists()
            else [EXPERIMENT, "--data", data, "--out", run, *words]
        )
        panoseg("train", *how)
        after = os.times()
        cores = (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        spent = {
            "minutes": spent["minutes"] + (time.monotonic() - start) / 60,
            "core minutes": spent["core minutes"] + cores / 60,
        }
        clock.write_text(json.dumps(spent))
    print(
        f"training: {spent['minutes']:.1f} minutes, {spent['core minutes']:.1f} minutes of one"
        " core",
        flush=True,
    )


def draw(run: Path, data: Path, folder: Path, names: list[str]) -> None:
    """Photograph, truth and prediction side by side, to be looked at."""
    folder.mkdir(exist_ok=True)
    for name in names:
        panoseg("show", run, "--data", data, "--patch", name, "--out", folder / f"{name}.png")


def simulated(arguments: argparse.Namespace) -> None:
    """Train on simulated photographs, score on others."""
    data, unseen, run = (arguments.folder / name for name in ("data", "unseen", "run"))
    panoseg(
        "simulate",
        data,
        "--layout",
        "coco",
        "--patches",
        arguments.photographs,
        "--size",
        arguments.size,
        "--seed",
        1,
    )
    panoseg(
        "simulate",
        unseen,
        "--layout",
        "coco",
        "--patches",
        arguments.unseen,
        "--size",
        arguments.size,
        "--seed",
        7000,
    )
    options = {"threads": arguments.threads}
    if arguments.epochs is not None:
        options |= {"epochs": arguments.epochs, "validate-every": arguments.epochs}
    train(data, run, as_words(options))
    panoseg("test", run, "--data", unseen)
    draw(
        run,
        unseen,
        arguments.folder / "pictures",
        [path.stem for path in sorted((unseen / "val").glob("*.jpg"))][: arguments.figures],
    )


def overfit(arguments: argparse.Namespace) -> None:
    """Learn photographs by heart, score the same ones."""
    data, run = arguments.folder / "data", arguments.folder / "run"
    truth = json.loads(arguments.truth.read_text())
    if not data.exists():
        lay_out(data, arguments.images, arguments.truth.with_suffix(""), truth)
    learning = {
        "epochs": arguments.epochs,
        "validate-every": arguments.epochs,
        "threads": arguments.threads,
    }
    train(data, run, as_words(BY_HEART | learning))
    panoseg("test", run, "--data", data)
    draw(
        run,
        data,
        arguments.folder / "pictures",
        [Path(entry["file_name"]).stem for entry in truth["images"]][: arguments.figures],
    )


def lay_out(data: Path, images: Path, pictures: Path, truth: dict[str, Any]) -> None:
    """Photographs and their truth in COCO's layout: once to be scored, and many times over to be
    learned.
    """
    for name, copies in (("val", 1), ("train", COPIES)):
        annotated = data / "annotations" / f"panoptic_{name}"
        annotated.mkdir(parents=True)
        (data / name).mkdir()
        repeated: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        for entry in (entry for entry in truth["annotations"] for _ in range(copies)):
            number = len(repeated["images"])
            image = next(image for image in truth["images"] if image["id"] == entry["image_id"])
            stem = Path(image["file_name"]).stem if copies == 1 else f"{number:04d}"
            shutil.copy(images / image["file_name"], data / name / f"{stem}.jpg")
            shutil.copy(pictures / entry["file_name"], annotated / f"{stem}.png")
            repeated["images"].append(image | {"id": number, "file_name": f"{stem}.jpg"})
            repeated["annotations"].append(entry | {"image_id": number, "file_name": f"{stem}.png"})
        annotated.with_suffix(".json").write_text(
            json.dumps(repeated | {"categories": truth["categories"]})
        )


def main() -> None:
    """Read the command line and do one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("simulated")
    first.add_argument(
        "--photographs", type=int, default=1000, help="four fifths of them are trained on"
    )
    first.add_argument("--unseen", type=int, default=250, help="photographs to score on")
    first.add_argument("--size", type=int, default=128, help="pixels a side")
    first.add_argument("--epochs", type=int, help="default: as in the experiment")
    first.set_defaults(do=simulated)
    second = commands.add_parser("overfit")
    second.add_argument("--images", type=Path, required=True, help="folder of the photographs")
    second.add_argument(
        "--truth", type=Path, required=True, help="panoptic JSON, next to its folder of PNG files"
    )
    second.add_argument("--epochs", type=int, default=20, help="of ten steps a photograph")
    second.set_defaults(do=overfit)
    for command in (first, second):
        command.add_argument("folder", type=Path)
        command.add_argument("--figures", type=int, default=FIGURES, help="photographs to draw")
        command.add_argument("--threads", type=int, default=0, help="0 leaves it to torch")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.do(arguments)


if __name__ == "__main__":
    main()
