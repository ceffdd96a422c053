"""What of a photograph is seen, and how large: resizing, a window, mirrored or not; labels and masks follow.

Shape suffixes: H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panoseg.data.photograph_config import PhotographConfig

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class View:
    """A window of a resized picture.

    size_HW: of the picture as it lies on disk. resized_HW: of the picture after resizing. corner: row and column of the first
    pixel of the window there; window_HW: its size. mirrored: whether left and right are exchanged, last of all.
    """

    size_HW: Size
    resized_HW: Size
    corner: tuple[int, int]
    window_HW: Size
    mirrored: bool

    def image(self, picture: Image.Image) -> np.ndarray:
        """The picture as this view shows it: uint8, H x W x 3; each pixel a mean of those that it covers."""
        from PIL.Image import Resampling

        (top, left), (height, width) = self.corner, self.window_HW
        down, across = (old / new for old, new in zip(self.size_HW, self.resized_HW, strict=True))
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        # Rounding must not reach beyond the picture.
        inside = (box[0], box[1], min(box[2], self.size_HW[1]), min(box[3], self.size_HW[0]))
        pixels = np.asarray(picture.resize((width, height), Resampling.BILINEAR, box=inside))
        return pixels[:, ::-1] if self.mirrored else pixels

    def labels(self, labels_HW: np.ndarray) -> np.ndarray:
        """Labels or a mask, of the picture's size on disk, as this view shows them: each pixel has the label of its centre."""
        rows, columns = (
            ((np.arange(first, first + count) + 0.5) * (old / new)).astype(np.int64).clip(max=old - 1)
            for first, count, old, new in zip(self.corner, self.window_HW, self.size_HW, self.resized_HW, strict=True)
        )
        return labels_HW[np.ix_(rows, columns[::-1] if self.mirrored else columns)]


def choose_view(size_HW: Size, config: PhotographConfig, generator: np.random.Generator | None = None) -> View:
    """The view of a picture of a size: the whole in the size asked for, or, given a generator, one by chance."""
    factor = _factor(size_HW, config)
    if generator is not None:
        factor *= generator.uniform(*config.scale)
    resized_HW = (max(1, round(size_HW[0] * factor)), max(1, round(size_HW[1] * factor)))
    if generator is None:
        return View(size_HW, resized_HW, (0, 0), resized_HW, mirrored=False)
    window_HW = (min(resized_HW[0], config.crop or resized_HW[0]), min(resized_HW[1], config.crop or resized_HW[1]))
    top, left = (int(generator.integers(side - part + 1)) for side, part in zip(resized_HW, window_HW, strict=True))
    return View(size_HW, resized_HW, (top, left), window_HW, mirrored=config.flip and bool(generator.random() < 0.5))


def _factor(size_HW: Size, config: PhotographConfig) -> float:
    factor = config.min_side / min(size_HW) if config.min_side else 1.0
    return min(factor, config.max_side / max(size_HW)) if config.max_side else factor
