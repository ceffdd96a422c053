"""Ids whose colours look like those of their classes, so that a PNG of ids can be looked at.

Source of the idea: IdGenerator of cocodataset/panopticapi @ 7bb4655, panopticapi/utils.py. Here ids of a picture never meet,
black stays free for void, and the same picture gets the same ids.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from panoseg.classes import ClassTable
from panoseg.panoptic.coco import segments_info
from panoseg.panoptic.coco_categories import colour_of
from panoseg.panoptic.panoptic import Panoptic

_DISTANCE = 30


def coloured_ids(class_ids: list[int], table: ClassTable) -> list[int]:
    """An id for each segment, given their classes: 1 .. 2^24 - 1, all different.

    The first segment of a class has the class's own colour, the others one near it. Colours of stuff are kept for stuff.

    >>> table = ClassTable("two", (SegmentClass(1, "person", "#dc143c", "thing"), SegmentClass(2, "sky", "#000000", "stuff")))
    >>> ids = coloured_ids([1, 2, 1], table)
    >>> ids[0] == 0xDC + 256 * 0x14 + 65536 * 0x3C, len({0, *ids})
    (True, 4)
    """
    random = Random(0)
    own = {entry.id: colour_of(entry) for entry in table.classes}
    kept = {(0, 0, 0)} | {own[id_] for id_ in table.ids("stuff")}
    taken = {(0, 0, 0)}
    ids = []
    for class_id in class_ids:
        colour = own[class_id]
        is_stuff = table[class_id].kind == "stuff"
        distance = _DISTANCE
        while colour in taken or (colour in kept and not is_stuff):
            red, green, blue = (min(255, max(0, value + random.randint(-distance, distance))) for value in own[class_id])
            colour = (red, green, blue)
            distance = min(distance + 1, 255)  # so that a colour is found, however many are taken
        taken.add(colour)
        ids.append(colour[0] + 256 * colour[1] + 65536 * colour[2])
    return ids


def coloured_rows(picture: Panoptic, table: ClassTable) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The rows of a picture's annotation and its raster (int32, H x W), both with coloured ids."""
    ids = coloured_ids(picture.segments.class_ids.tolist(), table)
    rows = [{**row, "id": id_} for row, id_ in zip(segments_info(picture), ids, strict=True)]
    return rows, np.array([0, *ids], np.int32)[picture.position_HW]
