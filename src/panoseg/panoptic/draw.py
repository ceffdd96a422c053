"""Drawing a picture of segments: colours by class, a line along every border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from panoseg.classes import ClassTable
from panoseg.panoptic.panoptic import Panoptic, present_segments

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont


WHITE = (255, 255, 255)


def draw(
    picture: Panoptic,
    table: ClassTable,
    background_HW3: np.ndarray | None = None,
    alpha: float = 0.6,
    line: tuple[int, int, int] | None = WHITE,
    scale: int = 1,
) -> np.ndarray:
    """A coloured image of a picture: uint8, H x W x 3, times ``scale``.

    background_HW3: uint8 image under it, which shows through the segments by 1 - ``alpha`` and is
    whole where there is none; without it segments are opaque on the colour of the table's
    background. line: colour of the borders, None for no borders.
    scale: pixels of the drawing a pixel of the picture, so that borders, always one wide, leave
    small parcels visible.

    >>> image = draw(Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS), PASTIS)
    >>> image[0].tolist()
    [[255, 187, 120], [255, 255, 255], [44, 160, 44], [44, 160, 44]]
    """
    none = "#000000" if table.background is None else table[table.background].colour
    colour_of_class = {
        class_id: _rgb(table[class_id].colour)
        for class_id in np.unique(picture.segments.class_ids).tolist()
    }
    colours = np.array(
        [
            _rgb(none),
            *(colour_of_class[class_id] for class_id in picture.segments.class_ids.tolist()),
        ]
    )
    image_HW3 = colours[picture.position_HW].astype(np.float32)
    if background_HW3 is not None:
        opacity_HW1 = np.where(picture.segment_HW > 0, alpha, 0)[..., None]
        image_HW3 = opacity_HW1 * image_HW3 + (1 - opacity_HW1) * background_HW3
    image_HW3 = image_HW3.repeat(scale, axis=0).repeat(scale, axis=1)
    if line is not None:
        image_HW3[borders(picture.segment_HW.repeat(scale, axis=0).repeat(scale, axis=1))] = line
    return image_HW3.round().astype(np.uint8)


def boundary_colour(table: ClassTable) -> tuple[int, int, int] | None:
    """The colour of the line between classes on pictures of pixels; None where the table has
    none.
    """
    return None if table.boundary is None else _rgb(table.boundary.colour)


def borders(segment_HW: np.ndarray) -> np.ndarray:
    """Pixels of a segment beside another segment or none: a line of one pixel, drawn once between
    two. Bool, H x W.

    >>> borders(np.array([[0, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2]])).astype(int)
    array([[0, 1, 0, 1],
           [0, 1, 1, 0],
           [0, 1, 1, 0]])
    """
    border_HW = np.zeros(segment_HW.shape, bool)
    for segments, border in ((segment_HW, border_HW), (segment_HW.T, border_HW.T)):
        before, after = segments[:-1], segments[1:]
        differ = before != after
        # Between two segments the first has the line; beside none, the segment has it on either
        # side.
        border[:-1] |= differ & (before > 0)
        border[1:] |= differ & (before == 0)
    return border_HW


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


_OPACITY = 0.5
_SMALLEST_SIDE = 480
"""Drawn pixels of the longer side, at least: smaller photographs are enlarged, so that names have
room.
"""
_LARGEST_SCALE = 8
_NAMES_A_LINE = 32
"""Lines of text that would fill the height: the size of the letters."""
_LEAST_LETTERS, _MOST_LETTERS = 11, 40
_LEAST_SHARE = 0.0006
"""Share of the picture below which a segment has no name written on it."""

Box = tuple[int, int, int, int]


def overlay(image_HW3: np.ndarray, picture: Panoptic, table: ClassTable) -> np.ndarray:
    """A photograph under its segments, in the colours of their classes, with outlines and names:
    uint8, H x W x 3.

    image_HW3: uint8, of the picture's size. Small photographs come out enlarged by a whole number.
    Larger segments are named first, things before stuff; a name that would hide another one is left
    out.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = min(max(-(-_SMALLEST_SIDE // max(picture.segment_HW.shape)), 1), _LARGEST_SCALE)
    drawn = Image.fromarray(draw(picture, table, image_HW3, _OPACITY, scale=scale))
    letters = min(max(round(drawn.height / _NAMES_A_LINE), _LEAST_LETTERS), _MOST_LETTERS)
    pen, font = ImageDraw.Draw(drawn, "RGBA"), ImageFont.load_default(letters)
    taken: list[Box] = []
    for segment_id, name in _names(picture, table):
        column, row = _inside(picture.segment_HW == segment_id)
        _write(
            pen,
            font,
            name,
            (round(scale * (column + 0.5)), round(scale * (row + 0.5))),
            drawn.size,
            taken,
        )
    return np.asarray(drawn)


def every(picture: Panoptic, step: int) -> Panoptic:
    """Every so many rows and columns of a picture, with the segments that are left.

    >>> picture = Panoptic.from_maps(np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 3, 2, 2]]), {1: 3, 2: 4, 3: 5}, PASTIS)
    >>> every(picture, 2).segments.areas
    array([2, 2])
    """
    segment_HW = np.ascontiguousarray(picture.segment_HW[::step, ::step])
    ids, areas = present_segments(segment_HW)
    kept = picture.segments.take(np.searchsorted(picture.segments.ids, ids))
    return Panoptic(segment_HW, replace(kept, areas=areas))


def _names(picture: Panoptic, table: ClassTable) -> list[tuple[int, str]]:
    """Ids and names of the segments that are large enough, things first, then by area."""
    least = _LEAST_SHARE * picture.segment_HW.size
    rows = [row for row in picture.segments if row.area >= least and row.kind != "void"]
    rows.sort(key=lambda row: (row.kind != "thing", -row.area))
    # COCO marks by "-other-merged" which classes of another list were joined.
    return [
        (row.id, table[row.class_id].name.removesuffix("-merged").removesuffix("-other"))
        for row in rows
    ]


def _inside(mask_HW: np.ndarray) -> tuple[int, int]:
    """Column and row of the pixel of a mask that is farthest from its border.

    >>> _inside(np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]], bool))
    (1, 1)
    """
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    top, left = rows[0], columns[0]
    window_HW = np.pad(mask_HW[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    row, column = np.unravel_index(distance_transform_edt(window_HW).argmax(), window_HW.shape)
    return int(left + column - 1), int(top + row - 1)


def _write(
    pen: ImageDraw,
    font: FreeTypeFont | ImageFont,
    name: str,
    centre: tuple[int, int],
    size: tuple[int, int],
    taken: list[Box],
) -> None:
    """Write a name around a place, moved into the picture, unless it would hide one of those
    ``taken``.
    """
    left, top, right, bottom = pen.textbbox((0, 0), name, font=font)
    margin = 3
    width, height = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
    x = min(max(centre[0] - width // 2, 0), max(size[0] - width, 0))
    y = min(max(centre[1] - height // 2, 0), max(size[1] - height, 0))
    for shift in (0, height + 1, -height - 1):
        box = (x, y + shift, x + width, y + shift + height)
        if box[1] >= 0 and box[3] <= size[1] and not _meets(box, taken):
            pen.rectangle(box, fill=(0, 0, 0, 170))
            pen.text(
                (x + margin - left, y + shift + margin - top),
                name,
                font=font,
                fill=(255, 255, 255, 255),
            )
            taken.append(box)
            return


def _meets(box: Box, others: Sequence[Box]) -> bool:
    return any(
        box[0] < right and left < box[2] and box[1] < bottom and top < box[3]
        for left, top, right, bottom in others
    )
