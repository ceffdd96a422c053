"""Masks in COCO's files: run lengths down the columns, compressed or not, and polygons.

Run lengths are decoded here, because pycocotools 2.0.11 reads beyond the end of truncated ones and
leaves pixels that they do not reach uninitialised. pycocotools draws polygons, after their
coordinates have been checked, and compresses run lengths.

Source: the format as ppwwyyxx/cocoapi's common/maskApi.c defines it.

Shape suffixes: H W pixels, R runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from panoseg.coco.json import shown
from panoseg.errors import PanopticFormatError

MOST_PIXELS = 2**26
"""Largest number of pixels of an image, 8192 x 8192."""

# A character holds five bits of a number and, from "P" on, says that more follow; seven characters
# hold a number of 32 bits.
_COMPRESSED = re.compile(rb"(?:[P-o]{0,6}[0-O])*")
_LONGEST_OUTLINE = 2**22


def check_size(height: object, width: object) -> tuple[int, int]:
    """Return the size of an image.

    Raises:
        PanopticFormatError: A side is not a positive integer, or there are over 67 million pixels.
    """
    if (
        type(height) is not int
        or type(width) is not int
        or height < 1
        or width < 1
        or height * width > MOST_PIXELS
    ):
        raise PanopticFormatError(
            f"an image of {shown(height)} x {shown(width)} pixels is not possible; an image has"
            f" whole numbers of rows and columns and 1 to {MOST_PIXELS} pixels."
        )
    return height, width


def decode_mask(segmentation: object, height: int, width: int) -> np.ndarray:
    """Decode the mask of an annotation: bool, H x W.

    Args:
        segmentation: {"size": [height, width], "counts": compressed text or list of run lengths},
            or polygons as lists of alternating x and y.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        PanopticFormatError: The segmentation has another form or another size.

    >>> decode_mask({"size": [2, 3], "counts": [1, 3, 2]}, 2, 3)
    array([[False,  True, False],
           [ True,  True, False]])
    """
    if isinstance(segmentation, Mapping):
        counts_R = run_lengths(segmentation, height, width)
        flat = np.repeat(np.arange(len(counts_R)) % 2 == 1, counts_R)
        return flat.reshape(width, height).T
    if isinstance(segmentation, list):
        return _draw_polygons(segmentation, height, width)
    raise PanopticFormatError(
        f"segmentation {shown(segmentation)} is neither run lengths nor polygons."
    )


def run_lengths(segmentation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Decode the lengths of the runs down the columns, the first outside the mask: int64, R.

    Raises ``PanopticFormatError``.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise PanopticFormatError(
            f"run lengths of size {shown(size)} do not fit the image, which has the size "
            f"[{height}, {width}]."
        )
    if isinstance(counts, str):
        counts_R = _decompress(counts.encode("utf-8", "surrogatepass"))
    elif isinstance(counts, list) and all(
        type(count) is int and 0 <= count <= MOST_PIXELS for count in counts
    ):
        counts_R = np.array(counts, np.int64)
    else:
        raise PanopticFormatError("counts are not run lengths: neither text nor whole numbers.")
    if (counts_R < 0).any() or counts_R.sum() != height * width:
        raise PanopticFormatError(
            f"run lengths of {counts_R[counts_R > 0].sum()} pixels do not fit the image, which has "
            f"{height * width}."
        )
    return counts_R


def encode_mask(mask_HW: np.ndarray) -> dict[str, Any]:
    """Encode a mask as compressed run lengths.

    >>> encode_mask(np.array([[False, True, False], [True, True, False]]))
    {'size': [2, 3], 'counts': '132'}
    """
    from pycocotools import mask as library

    encoded = library.encode(np.asfortranarray(mask_HW, np.uint8))
    return {
        "size": [int(side) for side in encoded["size"]],
        "counts": encoded["counts"].decode("ascii"),
    }


def mask_box(mask_HW: np.ndarray) -> list[int]:
    """Return the bounding box: left, top, width, height; zeros for an empty mask.

    >>> mask_box(np.array([[False, True, True], [False, True, False]]))
    [1, 0, 2, 2]
    """
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not rows.size:
        return [0, 0, 0, 0]
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    return [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]


def detection_row(class_id: int, mask_HW: np.ndarray, is_crowd: bool) -> dict[str, Any]:
    """Return a row in COCO's form of detections for a mask."""
    return {
        "category_id": int(class_id),
        "segmentation": encode_mask(mask_HW),
        "bbox": mask_box(mask_HW),
        "area": int(mask_HW.sum()),
        "iscrowd": int(is_crowd),
    }


def _decompress(text: bytes) -> np.ndarray:
    """Decompress run lengths; from the third on they are stored as differences to the last but one.

    Shape suffix: S characters.
    """
    if not _COMPRESSED.fullmatch(text):
        raise PanopticFormatError("counts are not compressed run lengths.")
    value_S = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last_S = value_S < 32
    first_R = np.flatnonzero(np.concatenate([[True], last_S[:-1]]))[: last_S.sum()]
    place_S = np.arange(len(value_S)) - np.repeat(
        first_R, np.diff(np.append(first_R, len(value_S)))
    )
    counts_R = (
        np.add.reduceat((value_S & 31) << 5 * place_S, first_R)
        if len(first_R)
        else np.zeros(0, np.int64)
    )
    is_negative_R = value_S[last_S] & 16 > 0
    counts_R -= is_negative_R * (32 << 5 * place_S[last_S])
    for parity in (1, 2):
        counts_R[parity::2] = counts_R[parity::2].cumsum()
    return counts_R


def _draw_polygons(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Draw the union of polygons: bool, H x W."""
    from pycocotools import mask as library

    for polygon in polygons:
        _check_polygon(polygon, height, width)
    if not polygons:
        return np.zeros((height, width), bool)
    mask = library.decode(library.merge(library.frPyObjects(polygons, height, width)))
    return np.asarray(mask.astype(bool))


def _check_polygon(polygon: object, height: int, width: int) -> None:
    """Refuse a polygon that pycocotools cannot draw safely. Raises ``PanopticFormatError``."""
    if (
        not isinstance(polygon, list)
        or len(polygon) < 6
        or len(polygon) % 2
        or any(type(value) not in (int, float) for value in polygon)
    ):
        raise PanopticFormatError(
            f"a polygon is not a list of x and y of three or more points, but {shown(polygon)}."
        )
    points = np.array(polygon, np.float64).reshape(-1, 2)
    # The library follows the outline in steps of a fifth of a pixel and keeps them all.
    inside = np.isfinite(points).all() and (np.abs(points) <= 2 * max(height, width)).all()
    if (
        not inside
        or np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum() > _LONGEST_OUTLINE
    ):
        raise PanopticFormatError(
            f"a polygon leaves its image of {width} x {height} pixels, or is too long."
        )
