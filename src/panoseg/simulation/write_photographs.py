"""Write simulated photographs in COCO's panoptic layout.

Images lie in train/ and val/; every fifth is in val, so that fewer than five are all in train. The
truth lies in annotations/: panoptic_{train,val}.json, panoptic_{train,val}/ and
instances_{train,val}.json.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoseg.coco.categories import category_rows
from panoseg.coco.format import coloured_ids, segments_info
from panoseg.coco.json import write_rows
from panoseg.coco.masks import detection_row, write_ids
from panoseg.data.pastis_files import read_json
from panoseg.data.pieces import write_pieces
from panoseg.errors import ConfigError
from panoseg.files import atomic
from panoseg.simulation.options import SIMULATED_PHOTOGRAPHS, PhotographOptions
from panoseg.simulation.photographs import (
    SimulatedPhotograph,
    check_photograph_size,
    simulate_photograph,
)

SPLITS = ("train", "val")
_VALIDATION_PERIOD = 5  # one photograph of this number is in val
_QUALITY = 92  # of JPEG
_VERSION = 1
"""Raised whenever a seed gives other data, so that photographs of two simulations are not mixed."""


def write_photographs(
    folder: Path | str,
    photographs: int,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
    options: PhotographOptions | None = None,
    workers: int | None = None,
) -> Path:
    """Write simulated photographs in COCO's panoptic layout, every fifth as val; return the folder.

    Args:
        folder: New, empty, or of an earlier run with the same seed, size and options, which is
            completed or enlarged.
        photographs: Number of photographs.
        size: Height and width in pixels.
        seed: The same seed gives the same photographs.
        options: How they are simulated.
        workers: Number of processes; None takes one per core.

    Raises:
        OutputError: The folder cannot be written, or holds something else.
        ConfigError: A number is impossible.
    """
    if photographs < 1:
        raise ConfigError(f"The number of photographs must be at least 1, not {photographs}.")
    check_photograph_size(size)
    piece = _Photographs(size, seed, options or PhotographOptions())
    contents = {
        "version": _VERSION,
        "layout": "coco",
        "size": size,
        "seed": seed,
        "options": asdict(piece.options),
    }
    names = [_name(number) for number in range(photographs)]
    records = write_pieces(folder, contents, names, piece.write, workers)
    for split in dict.fromkeys(_split(number) for number in range(photographs)):
        _write_tables(
            Path(folder),
            split,
            [path for number, path in enumerate(records) if _split(number) == split],
        )
    return Path(folder)


@dataclass(frozen=True)
class _Photographs:
    """Everything besides its number that a photograph depends on."""

    size: tuple[int, int]
    """Height and width in pixels."""
    seed: int
    """Seed of the dataset."""
    options: PhotographOptions
    """How photographs are simulated."""

    def write(self, folder: Path, number: int) -> dict[str, Any]:
        """Write image and PNG; return the rows of the JSON files."""
        from PIL import Image

        photograph = simulate_photograph(self.size, (self.seed, number), self.options)
        name, split = _name(number), _split(number)
        with atomic(folder / split / f"{name}.jpg") as path:
            Image.fromarray(photograph.image_HW3).save(path, quality=_QUALITY)
        segments, instances = _rows(
            photograph, folder / "annotations" / f"panoptic_{split}" / f"{name}.png"
        )
        height, width = self.size
        return {
            "image": {
                "id": number + 1,
                "file_name": f"{name}.jpg",
                "height": height,
                "width": width,
            },
            "annotation": {
                "image_id": number + 1,
                "file_name": f"{name}.png",
                "segments_info": segments,
            },
            "instances": [{"image_id": number + 1, **row} for row in instances],
        }


def _rows(
    photograph: SimulatedPhotograph, png: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write the PNG of ids in colours of the classes; return the rows of segments and things."""
    truth, crowds = photograph.truth, photograph.crowd_ids
    ids = coloured_ids(truth.segments.class_ids.tolist(), SIMULATED_PHOTOGRAPHS)
    write_ids(png, np.array([0, *ids], np.int32)[truth.position_HW])
    segments = []
    for row, id_ in zip(segments_info(truth, crowds), ids, strict=True):
        del row["score"]  # which only predictions have
        segments.append({**row, "id": id_})
    things = [
        detection_row(segment.class_id, truth.segment_HW == segment.id, segment.id in crowds)
        for segment in truth.segments
        if segment.kind == "thing"
    ]
    return segments, things


def _write_tables(folder: Path, split: str, records: list[Path]) -> None:
    rows = [read_json(path) for path in records]
    head = {
        "images": [row["image"] for row in rows],
        "categories": category_rows(SIMULATED_PHOTOGRAPHS),
    }
    with write_rows(folder / "annotations" / f"panoptic_{split}.json", head) as write:
        for row in rows:
            write(row["annotation"])
    things = [category for category in head["categories"] if category["isthing"]]
    with write_rows(
        folder / "annotations" / f"instances_{split}.json", {**head, "categories": things}
    ) as write:
        for number, row in enumerate((row for entry in rows for row in entry["instances"]), 1):
            write({"id": number, **row})


def _name(number: int) -> str:
    return f"{number + 1:012d}"


def _split(number: int) -> str:
    return SPLITS[number % _VALIDATION_PERIOD == _VALIDATION_PERIOD - 1]
