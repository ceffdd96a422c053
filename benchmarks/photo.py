"""Seconds that ``panoseg photo`` takes for a photograph after loading, with ResNet-50 networks of
COCO's 133 classes.

    python benchmarks/photo.py IMAGE [--repeats 5] [--threads 2] [--sizes "as it is"] [--no-hub]

Weights are drawn, which changes no number of operations: proposals, candidates and the steps of
merging are of fixed number, and a score of 0 lets all 100 candidates be drawn. Reading, resizing,
network, merging, PNG, overlay and table are all inside. On a machine that does other work, look at
the seconds of the processor with --threads 1: two free cores need no more. Networks of the hub see
the photograph at 640 px, and 30 queries of theirs are sure of a class.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hub_networks import print_seconds
from panoseg.classes import ClassTable, SegmentClass
from panoseg.metrics import render_table
from panoseg.models.configs.photograph import MaskRcnnConfig, PanopticFpnConfig, PspNetConfig
from panoseg.models.model import Model
from panoseg.models.network import build_network
from panoseg.models.weights import Weights, WeightsCard, save_weights
from panoseg.photo import PhotoOptions
from panoseg.photo.segment import Source, open_model, segment_photographs

THINGS, STUFF = 80, 53
FUNCTIONS = (min, statistics.median)
SIZES = {"as it is": 0, "as trained": None}
DETECTOR, PIXELS = {"min_side": 800, "max_side": 1333}, {"min_side": 512, "max_side": 1024}
"""How coco-panoptic-fpn-r50-1x and coco-maskrcnn-r50 see photographs, and coco-pspnet-r50."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--hub", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        networks = drawn_networks(Path(folder))
        for title, (weights, instances) in networks.items():
            for size in arguments.sizes:
                side = SIZES[size]
                options = PhotoOptions(score=0.0, min_side=side, max_side=side)
                model = open_model(weights, instances, options)
                times = [seconds(model, arguments.image) for _ in range(arguments.repeats + 1)][1:]
                rows.append(
                    [
                        title,
                        size,
                        *(
                            f"{function(column):.2f}"
                            for column in zip(*times, strict=True)
                            for function in FUNCTIONS
                        ),
                    ]
                )
                print(rows[-1], flush=True)
    print(
        render_table(
            [
                "network",
                "size seen",
                "best, s",
                "median, s",
                "of the processor: best, s",
                "median, s",
            ],
            rows,
        )
    )
    if arguments.hub:
        print_seconds(arguments.image, arguments.repeats, sure=30)


def drawn_networks(folder: Path) -> dict[str, tuple[str, str | None]]:
    """Folders of weights for --weights and --instances, by the names of their networks."""
    classes = [
        SegmentClass(number, f"thing {number}", "#d62728", "thing")
        for number in range(1, THINGS + 1)
    ]
    things = ClassTable("things", tuple(classes))
    classes += [
        SegmentClass(number, f"stuff {number}", "#2ca02c", "stuff")
        for number in range(101, 101 + STUFF)
    ]
    table = ClassTable("COCO's numbers", tuple(classes))
    configs: dict[str, tuple[Any, ClassTable, dict[str, int]]] = {
        "fpn": (PanopticFpnConfig(things=THINGS, stuff=STUFF), table, DETECTOR),
        "pspnet": (PspNetConfig(things=THINGS, stuff=STUFF), table, PIXELS),
        "maskrcnn": (MaskRcnnConfig(things=THINGS), things, DETECTOR),
    }
    torch.manual_seed(0)
    for name, (config, own_table, sides) in configs.items():
        card = WeightsCard(config, None, own_table, provenance=sides)
        save_weights(folder / name, Weights(card, build_network(config).state_dict()))
    fpn, pspnet, maskrcnn = (str(folder / name) for name in configs)
    return {"Panoptic FPN": (fpn, None), "PSPNet + Mask R-CNN": (pspnet, maskrcnn)}


def seconds(model: Model, image: Path) -> tuple[float, float]:
    """From the file to all results: by the clock, and of the processor, over all threads, without
    that of other programs.
    """
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter(), time.process_time()
        segment_photographs([Source(image, "photograph")], model.predict, model.table, Path(out))
        return time.perf_counter() - started[0], time.process_time() - started[1]


if __name__ == "__main__":
    main()
