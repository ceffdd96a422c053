"""Drawing a picture of segments: colours by class, a line along every border."""

from __future__ import annotations

import numpy as np

from panoseg.classes import ClassTable
from panoseg.panoptic.panoptic import Panoptic

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

    background_HW3: uint8 image under it, which shows through the segments by 1 - ``alpha`` and is whole where there is none;
    without it segments are opaque on the colour of the table's background. line: colour of the borders, None for no borders.
    scale: pixels of the drawing a pixel of the picture, so that borders, always one wide, leave small parcels visible.

    >>> image = draw(Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS), PASTIS)
    >>> image[0].tolist()
    [[255, 187, 120], [255, 255, 255], [44, 160, 44], [44, 160, 44]]
    """
    none = "#000000" if table.background is None else table[table.background].colour
    colour_of_class = {class_id: _rgb(table[class_id].colour) for class_id in np.unique(picture.segments.class_ids).tolist()}
    colours = np.array([_rgb(none), *(colour_of_class[class_id] for class_id in picture.segments.class_ids.tolist())])
    image_HW3 = colours[picture.position_HW].astype(np.float32)
    if background_HW3 is not None:
        opacity_HW1 = np.where(picture.segment_HW > 0, alpha, 0)[..., None]
        image_HW3 = opacity_HW1 * image_HW3 + (1 - opacity_HW1) * background_HW3
    image_HW3 = image_HW3.repeat(scale, axis=0).repeat(scale, axis=1)
    if line is not None:
        image_HW3[borders(picture.segment_HW.repeat(scale, axis=0).repeat(scale, axis=1))] = line
    return image_HW3.round().astype(np.uint8)


def boundary_colour(table: ClassTable) -> tuple[int, int, int] | None:
    """The colour of the line between classes on pictures of pixels; None where the table has none."""
    return None if table.boundary is None else _rgb(table.boundary.colour)


def borders(segment_HW: np.ndarray) -> np.ndarray:
    """Pixels of a segment beside another segment or none: a line of one pixel, drawn once between two. Bool, H x W.

    >>> borders(np.array([[0, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2]])).astype(int)
    array([[0, 1, 0, 1],
           [0, 1, 1, 0],
           [0, 1, 1, 0]])
    """
    border_HW = np.zeros(segment_HW.shape, bool)
    for segments, border in ((segment_HW, border_HW), (segment_HW.T, border_HW.T)):
        before, after = segments[:-1], segments[1:]
        differ = before != after
        # Between two segments the first has the line; beside none, the segment has it on either side.
        border[:-1] |= differ & (before > 0)
        border[1:] |= differ & (before == 0)
    return border_HW


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
