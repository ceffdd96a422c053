"""Networks of the hub with random weights and real options: seconds of a core for a photograph at
640 px, and the share of merging in them; and PQ of two rules of merging on simulated scenes.

    python benchmarks/hub_networks.py seconds IMAGE [--repeats 3] [--threads 1] [--sure 30]
    python benchmarks/hub_networks.py memory
    python benchmarks/hub_networks.py rules [--scenes 60]

seconds: the same number of queries of each network is made sure of its class, as many as a
photograph of COCO has segments, three times over; random weights are sure of none.
memory: by how much the largest resident memory of a process grows (Linux) when it loads a network,
in shares of the weights.
rules: masks of the true segments of simulated photographs, blurred and rough, at the size at which
networks give them, with scores of all kinds and doubtful copies of other classes, merged by the
published rule and by the library's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from panoseg.metrics import render_table
from panoseg.metrics.panoptic_quality import (
    PanopticCounts,
    coco_patch_counts,
    quality_of_counts,
)
from panoseg.models import hub_networks
from panoseg.models.model import Model
from panoseg.panoptic import Panoptic
from panoseg.panoptic.merge import merge_queries
from panoseg.simulation.options import SIMULATED_PHOTOGRAPHS as TABLE
from panoseg.simulation.options import PhotographOptions
from panoseg.simulation.photographs import simulate_photograph

LABELS = 133
CHECKPOINTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "EoMT small": (
        "Eomt",
        "EomtForUniversalSegmentation",
        {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "num_blocks": 3,
            "num_queries": 200,
        },
        {
            "image_processor_type": "EomtImageProcessor",
            "do_pad": True,
            "size": {"shortest_edge": 640, "longest_edge": 640},
        },
    ),
    "Mask2Former tiny": (
        "Mask2Former",
        "Mask2FormerForUniversalSegmentation",
        {
            "backbone_config": {
                "model_type": "swin",
                "embed_dim": 96,
                "depths": [2, 2, 6, 2],
                "num_heads": [3, 6, 12, 24],
                "window_size": 7,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            }
        },
        {
            "image_processor_type": "Mask2FormerImageProcessor",
            "size": {"shortest_edge": 640, "longest_edge": 640},
        },
    ),
}
"""Configuration and network of the library, options, and options of the image processor: those of
tue-mps/coco_panoptic_eomt_small_640_2x and facebook/mask2former-swin-tiny-coco-panoptic.
"""


def save(folder: Path, title: str) -> Path:
    """Write a checkpoint with random numbers."""
    import transformers

    config, network, options, processor = CHECKPOINTS[title]
    made = getattr(transformers, f"{config}Config")(**options, num_labels=LABELS)
    torch.manual_seed(0)
    getattr(transformers, network)(made).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("seconds")
    one.add_argument("image", type=Path)
    one.add_argument("--repeats", type=int, default=3)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--sure", type=int, default=30)
    commands.add_parser("memory")
    rules = commands.add_parser("rules")
    rules.add_argument("--scenes", type=int, default=60)
    arguments = parser.parse_args()
    hub_networks.library()
    if arguments.command == "seconds":
        torch.set_num_threads(arguments.threads)
        print_seconds(arguments.image, arguments.repeats, arguments.sure)
    elif arguments.command == "memory":
        print_memory()
    else:
        print_rules(arguments.scenes)


# Seconds


def print_seconds(image: Path, repeats: int, sure: int) -> None:
    """Print seconds of the processor for each network, and of merging in them."""
    rows = []
    for title in CHECKPOINTS:
        with tempfile.TemporaryDirectory() as folder:
            model = Model.load(save(Path(folder), title), device="cpu")
            make_sure(model, sure)
            times = [seconds(model, image) for _ in range(repeats + 1)][1:]
        whole, merging = min(times)
        rows.append([title, str(sure), f"{whole:.2f}", f"{merging:.3f}", f"{merging / whole:.1%}"])
    head = ["network", "sure queries", "seconds of a core", "of them merging", "share"]
    print(render_table(head, rows))


def make_sure(model: Model, sure: int) -> None:
    """Make the first queries sure of one class each, in turn."""
    network: Any = model.network
    queries = network._queries

    def with_sure_classes(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits, masks = queries(*given)
        logits = logits.clone()
        place = torch.arange(min(sure, logits.shape[1]))
        logits[0, place, place % LABELS] += 20.0
        return logits, masks

    network._queries = with_sure_classes


def seconds(model: Model, image: Path) -> tuple[float, float]:
    """Return seconds of the processor for a photograph, and of merging in them."""
    spent = 0.0

    def timed(*given: Any) -> Any:
        nonlocal spent
        started = time.process_time()
        found = merge_queries(*given)
        spent += time.process_time() - started
        return found

    hub_networks.merge_queries = timed
    started = time.process_time()
    model.predict(image)
    return time.process_time() - started, spent


# Memory

_CHILD = """
import re, sys
from pathlib import Path
from panoseg.models.hub_networks import library
from panoseg.models.model import Model
library()
import transformers.models.eomt.modeling_eomt, transformers.models.mask2former.modeling_mask2former
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
model = Model.load(sys.argv[1], device="cpu")
size = sum(value.nbytes for value in model.network.state_dict().values())
print((peak() - before) / size, size / 2**20)
"""


def print_memory() -> None:
    """Print the memory that loading takes, in shares of the weights."""
    rows = []
    for title in CHECKPOINTS:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-c", _CHILD, str(save(Path(folder), title))]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
        share, size = map(float, done.stdout.split())
        rows.append([title, f"{size:.0f}", f"{share:.2f}"])
    print(render_table(["network", "weights, MiB", "memory of loading, of the weights"], rows))


# Rules

SIZE = (128, 160)
"""Of a scene, in pixels."""
MAP = (32, 40)
"""Of the masks of its queries."""
EMPTY = 20
"""Queries that show nothing."""


def print_rules(scenes: int) -> None:
    """Print the PQ of both rules."""
    found: dict[str, PanopticCounts] = {}
    for number in range(scenes):
        truth, logits, masks = simulated_outputs(number)
        for name, rule in RULES.items():
            counts = coco_patch_counts(truth, rule(logits, masks), TABLE)
            found[name] = found[name] + counts if name in found else counts
    rows = []
    for name, counts in found.items():
        quality = quality_of_counts(counts)
        means = (
            quality.all.pq,
            quality.all.sq,
            quality.all.rq,
            quality.things.pq,
            quality.stuff.pq,
        )
        rows.append([name, *(f"{100 * value:.1f}" for value in means)])
    print(render_table(["merging", "PQ", "SQ", "RQ", "PQ things", "PQ stuff"], rows))


def simulated_outputs(number: int) -> tuple[Panoptic, torch.Tensor, torch.Tensor]:
    """Return the truth of a scene, and what a good network says of it: logits of classes Q x K + 1
    and of masks Q x h x w.
    """
    generator = np.random.default_rng((number, 7))
    truth = simulate_photograph(SIZE, (5, number), PhotographOptions(crowds=0.0)).truth
    labels = {entry.id: label for label, entry in enumerate(TABLE.classes)}
    shown = shown_parts(truth, generator)
    logits = torch.zeros(len(shown) + EMPTY, len(labels) + 1)
    logits[len(shown) :, -1] = 8.0
    noise = generator.normal(-3, 1.5, (len(logits), *MAP)).astype(np.float32)
    masks = torch.from_numpy(noise)
    for query, (class_id, mask_HW) in enumerate(shown):
        small = F.interpolate(torch.from_numpy(mask_HW).float()[None, None], MAP, mode="area")
        rough = torch.from_numpy(generator.normal(0, 2.0, (1, 1, *MAP))).float()
        rough = F.avg_pool2d(rough, 3, 1, 1, count_include_pad=False)
        masks[query] = (9 * (small - 0.5) + rough)[0, 0]
        sure, doubtful = (3.5, 8.0), (0.0, 3.5)
        is_copy = query > 0 and shown[query - 1][1] is mask_HW
        logits[query, labels[class_id]] = generator.uniform(*(doubtful if is_copy else sure))
    return truth, logits, masks


def shown_parts(truth: Panoptic, generator: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """Return class and mask of what each query shows, in any order: things, and stuff in one or
    two parts, as networks show it; some are followed by a copy of any class.
    """
    parts: list[list[tuple[int, np.ndarray]]] = []
    for segment in truth.segments:
        mask_HW = truth.segment_HW == segment.id
        halves = segment.kind == "stuff" and generator.random() < 0.5
        cut = SIZE[1] // 2 if halves else SIZE[1]
        for columns in (slice(0, cut), slice(cut, None)):
            part_HW = np.zeros_like(mask_HW)
            part_HW[:, columns] = mask_HW[:, columns]
            if part_HW.sum() > 40:
                parts.append([(segment.class_id, part_HW)])
                if generator.random() < 0.4:
                    parts[-1].append((int(generator.choice(TABLE.classes).id), part_HW))
    return [entry for place in generator.permutation(len(parts)) for entry in parts[place]]


def published(logits: torch.Tensor, masks: torch.Tensor) -> Panoptic:
    """Merge by the published rule, as panoseg does."""
    score_Q, label_Q = logits.softmax(-1).max(-1)
    classes = torch.tensor([*(entry.id for entry in TABLE.classes), -1])

    def draw(query_C: torch.Tensor) -> torch.Tensor:
        drawn = F.interpolate(masks[None, query_C], SIZE, mode="bilinear", align_corners=False)
        return drawn[0].sigmoid()

    merged = merge_queries(draw, score_Q, classes[label_Q], SIZE, TABLE.ids("stuff"))
    return merged.to_panoptics(TABLE)[0]


def of_library(processor: str, threshold: float) -> Callable[..., Panoptic]:
    """Return the merging of an image processor of the library, with one of its thresholds."""

    def merge(logits: torch.Tensor, masks: torch.Tensor) -> Panoptic:
        made = getattr(hub_networks.library(), processor)()
        output = SimpleNamespace(
            class_queries_logits=logits[None], masks_queries_logits=masks[None].clone()
        )
        stuff = {label for label, entry in enumerate(TABLE.classes) if entry.kind == "stuff"}
        [found] = made.post_process_panoptic_segmentation(
            output, threshold, label_ids_to_fuse=stuff, target_sizes=[SIZE]
        )
        id_HW = found["segmentation"].numpy().astype(np.int32)
        classes = {row["id"]: TABLE.classes[row["label_id"]].id for row in found["segments_info"]}
        id_HW[~np.isin(id_HW, list(classes))] = 0
        return Panoptic.from_maps(id_HW, classes, TABLE)

    return merge


RULES: dict[str, Callable[..., Panoptic]] = {
    "published rule": published,
    "library, as it is": of_library("Mask2FormerImageProcessor", 0.5),
    "library, threshold 0.8": of_library("Mask2FormerImageProcessor", 0.8),
}


if __name__ == "__main__":
    main()
