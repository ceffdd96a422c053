"""Photographs of a few pixels in COCO's layout, drawn by hand: flat colours that tell class and
segment.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoseg.coco.masks import detection_row, ids_to_colours

CAT, DOG, GRASS, SKY = 3, 7, 20, 21
CATEGORIES = [
    {"id": SKY, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
    {"id": CAT, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    {"id": DOG, "name": "dog", "isthing": 1, "color": [200, 100, 0]},
    {"id": GRASS, "name": "grass", "isthing": 0, "color": [0, 255, 0]},
]
HEIGHT, WIDTH = 24, 32
CAT_ID, DOG_ID, CROWD_ID, GRASS_ID, SKY_ID = 300, 70_000, 5, 9, 11
CLASS_OF = {CAT_ID: CAT, DOG_ID: DOG, CROWD_ID: DOG, GRASS_ID: GRASS, SKY_ID: SKY}


def ids() -> np.ndarray:
    """Sky above grass, a cat, a dog that hides a part of it, a crowd of dogs, and a strip that
    nobody labelled.
    """
    ids_HW = np.full((HEIGHT, WIDTH), GRASS_ID, np.int32)
    ids_HW[:10] = SKY_ID
    ids_HW[4:16, 2:14] = CAT_ID
    ids_HW[10:20, 8:22] = DOG_ID
    ids_HW[2:8, 24:31] = CROWD_ID
    ids_HW[-3:, 25:] = 0
    return ids_HW


def colours(ids_HW: np.ndarray) -> np.ndarray:
    """A flat colour for each segment, which no mixture of others is: uint8, H x W x 3."""
    palette = {0: (255, 0, 255), CAT_ID: (255, 0, 0), DOG_ID: (0, 255, 0), CROWD_ID: (0, 0, 255)}
    palette |= {GRASS_ID: (255, 255, 0), SKY_ID: (0, 255, 255)}
    image_HW3 = np.zeros((*ids_HW.shape, 3), np.uint8)
    for id_, colour in palette.items():
        image_HW3[ids_HW == id_] = colour
    return image_HW3


def encoded(
    pixels: np.ndarray, form: str = "PNG", mode: str | None = None, **options: Any
) -> bytes:
    """The bytes of a picture's file."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


@dataclass
class Scene:
    """A photograph and what the files say of it; changed values are written as they are."""

    image_id: int
    ids_HW: np.ndarray = field(default_factory=ids)
    image: bytes | None = None
    name: str = ""
    png: bytes | None = None
    segments: list[dict[str, Any]] | None = None
    instances: list[dict[str, Any]] | None = None
    annotated: bool = True

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.image_id:04d}.png"
        self.image = encoded(colours(self.ids_HW)) if self.image is None else self.image
        self.png = encoded(ids_to_colours(self.ids_HW)) if self.png is None else self.png
        if self.segments is None:
            present = [int(id_) for id_ in np.unique(self.ids_HW) if id_]
            self.segments = [
                {
                    "id": id_,
                    "category_id": CLASS_OF[id_],
                    "area": int((self.ids_HW == id_).sum()),
                    "iscrowd": int(id_ == CROWD_ID),
                }
                for id_ in present
            ]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return str(Path(self.name).with_suffix(""))


def instance(mask_HW: np.ndarray, category: int, crowd: bool = False) -> dict[str, Any]:
    """A row of an instances JSON."""
    return detection_row(category, mask_HW, crowd)


def write_split(
    folder: Path, scenes: list[Scene], name: str = "train2017", categories: list | None = None
) -> Path:
    """Write a split, with an instances JSON where any scene has instances; returns the dataset's
    folder.
    """
    annotations = folder / "annotations"
    for place in (folder / name, annotations / f"panoptic_{name}"):
        place.mkdir(parents=True)
    rows, images = [], []
    for scene in scenes:
        height, width = scene.ids_HW.shape
        images.append(
            {"id": scene.image_id, "file_name": scene.name, "height": height, "width": width}
        )
        (folder / name / Path(scene.name).name).write_bytes(scene.image or b"")
        png = f"{scene.stem}.png"
        (annotations / f"panoptic_{name}" / Path(png).name).write_bytes(scene.png or b"")
        if scene.annotated:
            rows.append(
                {"image_id": scene.image_id, "file_name": png, "segments_info": scene.segments}
            )
    head = {"images": images, "categories": CATEGORIES if categories is None else categories}
    (annotations / f"panoptic_{name}.json").write_text(json.dumps({**head, "annotations": rows}))
    if any(scene.instances is not None for scene in scenes):
        found = [
            {"image_id": scene.image_id, **row} for scene in scenes for row in scene.instances or []
        ]
        instances = [{"id": number, **row} for number, row in enumerate(found, 1)]
        (annotations / f"instances_{name}.json").write_text(
            json.dumps({**head, "annotations": instances})
        )
    return folder


def bomb() -> bytes:
    """A small PNG that says it is 60,000 x 60,000 pixels, with the right checksum."""
    import struct
    import zlib

    data = bytearray(encoded(np.zeros((4, 4, 3), np.uint8)))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)
