"""Drawing a segmentation as an image: segments in the colours of their classes, with borders.

``draw`` makes the plain image, ``overlay`` shows a photograph under it with the names of classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panoseg.classes import ClassTable
from panoseg.panoptic import Panoptic

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

WHITE = (255, 255, 255)

_OPACITY = 0.5
_SMALLEST_SIDE = 480
"""Smaller photographs are enlarged until the longer side has this many pixels: names need room."""
_LARGEST_SCALE = 8
_LINES_PER_HEIGHT = 32
"""How many lines of text would fill the height: this sets the font size."""
_SMALLEST_FONT, _LARGEST_FONT = 11, 40
_SMALLEST_NAMED_SHARE = 0.0006
"""Segments below this share of the image get no name."""

Box = tuple[int, int, int, int]


def draw(
    segmentation: Panoptic,
    table: ClassTable,
    background_HW3: np.ndarray | None = None,
    alpha: float = 0.6,
    line: tuple[int, int, int] | None = WHITE,
    scale: int = 1,
) -> np.ndarray:
    """Draw a segmentation in the colours of its classes.

    Args:
        segmentation: H x W.
        table: The classes with their colours.
        background_HW3: uint8 image under the segments, which cover it with opacity ``alpha``;
            without it, segments are opaque on the colour of the background class.
        alpha: Opacity of the segments, 0..1.
        line: Colour of the borders (0..255), None for no borders.
        scale: Drawn pixels per pixel of the segmentation. Borders are always one drawn pixel wide,
            so that a larger scale leaves small parcels visible.

    Returns:
        uint8, (scale H) x (scale W) x 3.

    >>> result = Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS)
    >>> draw(result, PASTIS)[0].tolist()
    [[255, 187, 120], [255, 255, 255], [44, 160, 44], [44, 160, 44]]
    """
    none = "#000000" if table.background is None else table[table.background].colour
    class_ids = segmentation.segments.class_ids
    colour_of_class = {
        class_id: _rgb(table[class_id].colour) for class_id in np.unique(class_ids).tolist()
    }
    colours = np.array([_rgb(none), *(colour_of_class[each] for each in class_ids.tolist())])
    image_HW3 = colours[segmentation.position_HW].astype(np.float32)
    if background_HW3 is not None:
        opacity_HW1 = np.where(segmentation.segment_HW > 0, alpha, 0)[..., None]
        image_HW3 = opacity_HW1 * image_HW3 + (1 - opacity_HW1) * background_HW3
    image_HW3 = image_HW3.repeat(scale, axis=0).repeat(scale, axis=1)
    if line is not None:
        segment_HW = segmentation.segment_HW.repeat(scale, axis=0).repeat(scale, axis=1)
        image_HW3[borders(segment_HW)] = line
    return np.asarray(image_HW3.round().astype(np.uint8))


def boundary_colour(table: ClassTable) -> tuple[int, int, int] | None:
    """Return the colour of the line between classes, None if the table has none."""
    return None if table.boundary is None else _rgb(table.boundary.colour)


def borders(segment_HW: np.ndarray) -> np.ndarray:
    """Mark the borders of segments with a line of one pixel: bool, H x W.

    Between two segments the line is on one side only; next to no segment it is on the segment.

    >>> borders(np.array([[0, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2]])).astype(int)
    array([[0, 1, 0, 1],
           [0, 1, 1, 0],
           [0, 1, 1, 0]])
    """
    border_HW = np.zeros(segment_HW.shape, bool)
    for segments, border in ((segment_HW, border_HW), (segment_HW.T, border_HW.T)):
        before, after = segments[:-1], segments[1:]
        differ = before != after
        border[:-1] |= differ & (before > 0)
        border[1:] |= differ & (before == 0)
    return border_HW


def overlay(image_HW3: np.ndarray, segmentation: Panoptic, table: ClassTable) -> np.ndarray:
    """Draw the segments over a photograph, with outlines and the names of the classes.

    Larger segments are named first, things before stuff; a name that would hide another one is
    left out.

    Args:
        image_HW3: uint8, of the segmentation's size.
        segmentation: H x W.
        table: The classes with their names and colours.

    Returns:
        uint8, H x W x 3; small photographs are enlarged by a whole number.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = min(max(-(-_SMALLEST_SIDE // max(segmentation.segment_HW.shape)), 1), _LARGEST_SCALE)
    drawn = Image.fromarray(draw(segmentation, table, image_HW3, _OPACITY, scale=scale))
    size = min(max(round(drawn.height / _LINES_PER_HEIGHT), _SMALLEST_FONT), _LARGEST_FONT)
    pen, font = ImageDraw.Draw(drawn, "RGBA"), ImageFont.load_default(size)
    taken: list[Box] = []
    for segment_id, name in _names(segmentation, table):
        column, row = _innermost_pixel(segmentation.segment_HW == segment_id)
        centre = round(scale * (column + 0.5)), round(scale * (row + 0.5))
        _write(pen, font, name, centre, drawn.size, taken)
    return np.asarray(drawn)


def _rgb(colour: str) -> tuple[int, int, int]:
    """Convert "#rrggbb" to 0..255 each."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _names(segmentation: Panoptic, table: ClassTable) -> list[tuple[int, str]]:
    """Return ids and names of the segments that are large enough, things first, then by area."""
    least = _SMALLEST_NAMED_SHARE * segmentation.segment_HW.size
    rows = [row for row in segmentation.segments if row.area >= least and row.kind != "void"]
    rows.sort(key=lambda row: (row.kind != "thing", -row.area))
    # COCO marks by "-other-merged" which classes of another list were joined.
    return [
        (row.id, table[row.class_id].name.removesuffix("-merged").removesuffix("-other"))
        for row in rows
    ]


def _innermost_pixel(mask_HW: np.ndarray) -> tuple[int, int]:
    """Return column and row of the pixel of a mask that is farthest from its border.

    >>> _innermost_pixel(np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]], bool))
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
    """Write a name around a point, moved into the image, unless it would hide one in ``taken``."""
    left, top, right, bottom = pen.textbbox((0, 0), name, font=font)
    margin = 3
    width, height = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
    x = min(max(centre[0] - width // 2, 0), max(size[0] - width, 0))
    y = min(max(centre[1] - height // 2, 0), max(size[1] - height, 0))
    for shift in (0, height + 1, -height - 1):
        box = (x, y + shift, x + width, y + shift + height)
        free = not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
            for other in taken
        )
        if box[1] >= 0 and box[3] <= size[1] and free:
            pen.rectangle(box, fill=(0, 0, 0, 170))
            corner = x + margin - left, y + shift + margin - top
            pen.text(corner, name, font=font, fill=(255, 255, 255, 255))
            taken.append(box)
            return
