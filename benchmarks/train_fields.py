"""Trains the weights for fields that ship with panoseg, in pieces of about an hour of one core.

    python benchmarks/train_fields.py FOLDER [--pieces 8] [--from WEIGHTS --first 3]

A piece simulates fresh patches in the style real, and trains on them for a few epochs from the
weights of the piece before; its learning rate falls to zero, so that the weights of every piece can
be used. A stopped run goes on. On another machine, begin with the weights of the last piece
(``--from``) and the number of the next one (``--first``). FOLDER/weights holds the last weights in
half precision, 3 MB. The images of one piece take 20 GB and are deleted when it is done.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from panoseg.models.weights import load_weights, save_weights

PANOSEG = [sys.executable, "-c", "from panoseg.cli import script; script()"]
FIRST_SEED = 21
VALIDATION, TEST = 4, 5
TRAINED = (1, 2, 3)
READY = "ready"
"""File that marks a finished dataset with its folds."""


def simulate(folder: Path, number: int, arguments: argparse.Namespace) -> None:
    """Simulate the patches of a piece, most of them to train."""
    options = {
        "style": "real",
        "patches": arguments.patches + 2 * arguments.kept,
        "size": arguments.size,
        "seed": FIRST_SEED + number,
        "workers": arguments.workers,
    }
    command = [str(text) for name, value in options.items() for text in (f"--{name}", value)]
    subprocess.run([*PANOSEG, "simulate", str(folder), *command, "--no-void"], check=True)
    table = folder / "metadata.geojson"
    content = json.loads(table.read_text())
    for row, feature in enumerate(content["features"]):
        fold = TRAINED[row % len(TRAINED)]
        if row < 2 * arguments.kept:
            fold = VALIDATION if row < arguments.kept else TEST
        feature["properties"]["Fold"] = fold
    table.write_text(json.dumps(content))
    (folder / READY).touch()


def train(data: Path, run: Path, before: Path | None, arguments: argparse.Namespace) -> None:
    """Train a piece, or go on with it."""
    if run.exists():
        command = ["--resume", str(run)]
    else:
        options = {
            "data": data,
            "fold": 1,
            "out": run,
            "epochs": arguments.epochs,
            "validate-every": arguments.epochs,
            "workers": 1,
            "threads": arguments.threads,
        }
        command = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = ["simulated-fields", *command]
        if before is not None:
            command += ["--start-from", str(before), "--optimiser.learning-rate", "0.0015"]
    subprocess.run([*PANOSEG, "train", *command], check=True)


def main() -> None:
    """Train the pieces that are not there yet, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pieces", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="number of the first piece")
    parser.add_argument("--from", dest="before", type=Path, help="weights to begin with")
    parser.add_argument("--patches", type=int, default=1320, help="patches to train on, a piece")
    parser.add_argument("--kept", type=int, default=40, help="patches to validate on, and to test")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    before = arguments.before
    for number in range(arguments.first, arguments.first + arguments.pieces):
        data, run = (arguments.folder / f"{name}-{number}" for name in ("patches", "run"))
        if not (run / "metrics.json").exists():
            if not (data / READY).exists():
                simulate(data, number, arguments)
            train(data, run, before, arguments)
        shutil.rmtree(data, ignore_errors=True)
        before = run / "weights"
        weights = load_weights(before)
        shutil.rmtree(arguments.folder / "weights", ignore_errors=True)
        save_weights(arguments.folder / "weights", weights, half=True)
        scores = json.loads((run / "metrics.json").read_text())["test"]
        names = ("SQ", "RQ", "PQ", "PQ_any_class")
        print(f"piece {number}: " + ", ".join(f"{name} {scores[name]:.1f}" for name in names))


if __name__ == "__main__":
    main()
