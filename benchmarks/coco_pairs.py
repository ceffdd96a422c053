"""Throughput of scoring COCO's files, compared with a plain program based on ``np.unique``.

PNG decoding and the start of processes are included. The pairs of truth and prediction are
simulated.

python benchmarks/coco_pairs.py --pairs 1000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from panoseg.coco.evaluate import evaluate_coco
from panoseg.metrics.panoptic_quality import quality_of_counts
from panoseg.processes import usable_cores

HEIGHT, WIDTH, SEGMENTS, CLASSES = 480, 640, 20, 30


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw truth and prediction: cells with wavy borders, and the same cells a few pixels off.

    Returns:
        Integers 1..20, H x W each.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    points = random.random((SEGMENTS, 2), np.float32) * (HEIGHT, WIDTH)

    def cells(off: float) -> np.ndarray:
        waves = 6 * np.sin(columns / 23 + off), 6 * np.sin(rows / 17 + off)
        squared = [
            (rows + waves[0] - row) ** 2 + (columns + waves[1] - column) ** 2
            for row, column in points
        ]
        return np.argmin(squared, axis=0) + 1

    return cells(0.0), cells(random.random() * 2)


def write_pairs(folder: Path, count: int) -> tuple[Path, Path]:
    """Write two panoptic JSON files with their PNG files, and return the paths of the JSON."""
    random = np.random.default_rng(0)
    annotations: dict[str, list[dict[str, object]]] = {"truth": [], "prediction": []}
    categories = [
        {"id": id_, "name": f"class {id_}", "isthing": int(id_ % 3 > 0)}
        for id_ in range(1, CLASSES + 1)
    ]
    for image_id in range(1, count + 1):
        classes = random.integers(1, CLASSES + 1, SEGMENTS)
        for name, numbers in zip(annotations, scene(random), strict=True):
            ids = np.concatenate([[0], random.choice(2**24 - 1, SEGMENTS, replace=False) + 1])
            segment_HW = ids[numbers]
            colours = np.stack([segment_HW >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(
                np.uint8
            )
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(colours).save(folder / name / f"{image_id:06d}.png")
            areas = np.bincount(numbers.ravel(), minlength=SEGMENTS + 1)
            rows = [
                {
                    "id": int(ids[n]),
                    "category_id": int(classes[n - 1]),
                    "area": int(areas[n]),
                    "iscrowd": 0,
                }
                for n in range(1, SEGMENTS + 1)
                if areas[n]
            ]
            annotations[name].append(
                {"image_id": image_id, "file_name": f"{image_id:06d}.png", "segments_info": rows}
            )
    paths = tuple(folder / f"{name}.json" for name in annotations)
    for path, rows in zip(paths, annotations.values(), strict=True):
        path.write_text(json.dumps({"annotations": rows, "categories": categories}))
    return paths[0], paths[1]


def plain(true_json: Path, predicted_json: Path) -> float:
    """Compute PQ by ``np.unique`` over the ids of each pair, as a short program would."""
    true, predicted = (json.loads(path.read_text()) for path in (true_json, predicted_json))
    prediction_of = {row["image_id"]: row for row in predicted["annotations"]}
    counts = {row["id"]: np.zeros(4) for row in true["categories"]}  # sum of IoU, TP, FP, FN
    for annotation in true["annotations"]:
        pair = (true_json, annotation), (predicted_json, prediction_of[annotation["image_id"]])
        rasters, tables = [], []
        for path, row in pair:
            colours = np.array(Image.open(path.with_suffix("") / row["file_name"]), dtype=np.uint32)
            rasters.append(colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2])
            rows = row["segments_info"]
            tables.append({segment["id"]: segment["category_id"] for segment in rows})
        area = [
            dict(zip(*np.unique(raster, return_counts=True), strict=True)) for raster in rasters
        ]
        codes, pixels = np.unique(
            rasters[0].astype(np.uint64) << 24 | rasters[1], return_counts=True
        )
        found: tuple[set[int], set[int]] = (set(), set())
        for one, other, shared in zip(codes >> 24, codes & 0xFFFFFF, pixels, strict=True):
            iou = shared / (area[0][one] + area[1][other] - shared)
            if (
                one in tables[0]
                and other in tables[1]
                and tables[0][one] == tables[1][other]
                and iou > 0.5
            ):
                counts[tables[0][one]] += (iou, 1, 0, 0)
                found[0].add(one)
                found[1].add(other)
        for table, matched, column in ((tables[1], found[1], 2), (tables[0], found[0], 3)):
            for segment in table.keys() - matched:
                counts[table[segment]][column] += 1
    return float(
        np.mean([iou / (tp + (fp + fn) / 2) for iou, tp, fp, fn in counts.values() if tp + fp + fn])
    )


def rows(count: int) -> list[list[str]]:
    """Measure, and return the rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pairs(Path(folder), count)

        def ours(processes: int) -> float:
            return quality_of_counts(evaluate_coco(*paths, processes=processes).counts).all.pq

        def seconds(function: Callable[[], float]) -> float:
            start = time.perf_counter()
            quality = function()
            assert abs(quality - expected) < 1e-9, "the programs differ"
            return time.perf_counter() - start

        expected = plain(*paths)  # also reads the files into the page cache
        cores = usable_cores()
        base = seconds(lambda: plain(*paths))
        measured = [
            ("np.unique over ids, 1 process", base, 1),
            ("panoseg, 1 process", seconds(lambda: ours(1)), 1),
        ]
        if cores > 1:
            measured.append((f"panoseg, {cores} processes", seconds(lambda: ours(cores)), cores))
    return [
        [name, f"{count / wall:.0f}", f"{1000 * wall * used / count:.2f}", f"{base / wall:.1f}"]
        for name, wall, used in measured
    ]


def table(count: int) -> str:
    """Measure, and return the table in Markdown."""
    # Imported here, because it imports torch, which the worker processes do not need.
    from panoseg.metrics import render_table

    title = f"{count} pairs of {HEIGHT} x {WIDTH}, {SEGMENTS} segments"
    return render_table([title, "pairs a second", "ms a pair and core", "times"], rows(count))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60)
    print(table(parser.parse_args().pairs))
