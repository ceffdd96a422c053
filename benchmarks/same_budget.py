"""Every semantic network, trained to the same budget on one simulated dataset: a Markdown table of
what each has learned.

    python benchmarks/same_budget.py FOLDER

The budget is 225 steps of one size, the same windows and dates for all, far below what the
published experiments spend: the table compares how far networks come in it, not how good they
become. A stopped run goes on; FOLDER keeps data and runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from panoseg.models.configs import from_json
from panoseg.models.network import build_network
from panoseg.training import TrainConfig
from panoseg.training.experiments import EXPERIMENTS

NAMES = [
    name
    for name, entry in EXPERIMENTS.items()
    if entry.config.model.answers == "semantic" and entry.data == "PASTIS"
]
NAMES += ["s2tsczcrop-timeunet", "s2tsczcrop-wtae"]
PANOSEG = [sys.executable, "-c", "from panoseg.cli import script; script()"]


def options(arguments: argparse.Namespace) -> list[str]:
    """What all trainings share, as options of ``panoseg train``."""
    shared = {
        "epochs": arguments.epochs,
        "validate-every": arguments.epochs,
        "batch-size": 4,
        "optimiser.learning-rate": 0.002,
        "optimiser.schedule": "cosine",
        "optimiser.warm-up-steps": 20,
        "optimiser.gradient-clip": 10.0,
        "initialisation": "torch",
        "data.augmentation.crop": 32,
        "data.augmentation.max-dates": 8,
        "data.augmentation.min-dates": 8,
        "workers": 1,
        "threads": arguments.threads,
        "seed": 1,
    }
    return [text for name, value in shared.items() for text in (f"--{name}", str(value))]


def train(name: str, data: Path, run: Path, arguments: argparse.Namespace) -> float:
    """Train one experiment into ``run`` unless it is there; gives the minutes it took."""
    clock = run.with_suffix(".seconds")
    if not (run / "metrics.json").exists():
        start = time.monotonic()
        how = (
            ["--resume", run]
            if run.exists()
            else [name, "--data", data, "--fold", "1", "--out", run, *options(arguments)]
        )
        subprocess.run([*PANOSEG, "train", *map(str, how)], check=True)
        clock.write_text(str(time.monotonic() - start))
    return float(clock.read_text()) / 60


def row(name: str, run: Path, minutes: float) -> str:
    """One line of the table."""
    scores = json.loads((run / "metrics.json").read_text())["test"]
    config = from_json(TrainConfig, json.loads((run / "config.json").read_text())["train"])
    parameters = sum(parameter.numel() for parameter in build_network(config.model).parameters())
    return (
        f"| {name} | {config.model.title} | {parameters:,} | {scores['OA']:.1f} |"
        f" {scores['mIoU']:.1f} | {minutes:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--patches",
        type=int,
        default=100,
        help="three fifths of them are trained on, in batches of 4",
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--names", nargs="+", default=NAMES, choices=NAMES)
    arguments = parser.parse_args()
    data = arguments.folder / "data"
    simulate = ["simulate", data, "--patches", arguments.patches, "--size", 64, "--seed", 11]
    subprocess.run([*PANOSEG, *map(str, simulate)], check=True)
    rows = []
    for name in arguments.names:
        run = arguments.folder / name
        rows.append(row(name, run, train(name, data, run, arguments)))
        print(rows[-1], flush=True)
    print(
        "\n| experiment | network | parameters | OA | mIoU | minutes |\n|---|---|---|---|---|---|"
    )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
