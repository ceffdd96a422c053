"""The result type of every model, merging of masks, joining of tiles, drawing.

The result type is in this file: a segmentation in which every pixel belongs to one segment or to
none.

Shape suffixes: H W pixels, N segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panoseg.classes import ClassTable
from panoseg.errors import PanopticFormatError
from panoseg.panoptic.segments import (
    KINDS,
    Segment,
    Segments,
    contradiction,
    kinds_of,
    positions,
    present_segments,
)

if TYPE_CHECKING:
    from affine import Affine
    from geopandas import GeoDataFrame
    from matplotlib.axes import Axes


__all__ = ["KINDS", "Panoptic", "Segment", "Segments"]


@dataclass(frozen=True, eq=False)
class Panoptic:
    """A panoptic segmentation: a raster of segment ids and the table of these segments.

    Raises ``PanopticFormatError`` if the raster and the table contradict each other.

    >>> raster = np.array([[1, 1, 0, 0], [1, 1, 7, 7], [0, 0, 7, 7]])
    >>> for segment in Panoptic.from_maps(raster, {1: 3, 7: 2}, PASTIS).segments:
    ...     print(segment)
    Segment(id=1, class_id=3, score=1.0, area=4, kind='thing')
    Segment(id=7, class_id=2, score=1.0, area=4, kind='thing')
    """

    segment_HW: np.ndarray
    """int32, H x W: id of each pixel's segment, 0 = none."""
    segments: Segments
    """The table of exactly the ids in the raster, with their areas."""
    table: ClassTable | None = None
    """Names and colours of the classes, if known; used to draw and to export."""

    def __post_init__(self) -> None:
        if self.segment_HW.ndim != 2:
            raise PanopticFormatError(
                f"The raster of segments has shape {self.segment_HW.shape}; pass one image, H x W."
            )
        object.__setattr__(self, "segment_HW", np.ascontiguousarray(self.segment_HW, np.int32))
        ids, areas = present_segments(self.segment_HW)
        if not np.array_equal(ids, self.segments.ids):
            raise contradiction(ids, self.segments.ids)
        if not np.array_equal(areas, self.segments.areas):
            wrong = int(np.flatnonzero(areas != self.segments.areas)[0])
            raise PanopticFormatError(
                f"The table states an area of {self.segments.areas[wrong]} for segment "
                f"{ids[wrong]}, which has {areas[wrong]} pixels in the raster."
            )

    @classmethod
    def from_maps(
        cls,
        segment_HW: np.ndarray,
        classes: np.ndarray | Mapping[int, int],
        table: ClassTable,
        scores: Mapping[int, float] | None = None,
    ) -> Panoptic:
        """Build a segmentation from a raster of segments and their classes.

        Args:
            segment_HW: Integers, H x W: id of each pixel's segment, 0 = none.
            classes: Class of each id, or of each pixel (integers, H x W); a segment then takes its
                most frequent class, and pixels of a void class outside all segments become one
                additional void segment.
            table: The class table.
            scores: Score of each id, 0..1; 1 where left out.

        >>> instances = np.array([[1, 1, 0, 0], [1, 1, 2, 2], [0, 0, 2, 2]])
        >>> classes = np.array([[3, 3, 0, 19], [3, 3, 8, 8], [0, 0, 8, 8]])
        >>> result = Panoptic.from_maps(instances, classes, PASTIS)
        >>> [(row.id, row.class_id, row.kind) for row in result.segments]
        [(1, 3, 'thing'), (2, 8, 'thing'), (3, 19, 'void')]
        """
        segment_HW = np.array(segment_HW, np.int32)
        if not isinstance(classes, Mapping):
            _fill_void(segment_HW, np.asarray(classes), table)
        ids, areas = present_segments(segment_HW)
        if isinstance(classes, Mapping):
            class_ids = np.array([classes[int(id_)] for id_ in ids], np.int32)
        else:
            class_ids = _majority(positions(segment_HW, ids), np.asarray(classes), len(ids))
        scores = scores or {}
        scores_N = np.array([scores.get(int(id_), 1.0) for id_ in ids], np.float32)
        segments = Segments(ids, class_ids, scores_N, areas, kinds_of(class_ids, table))
        return cls(segment_HW, segments, table)

    @classmethod
    def empty(cls, height: int, width: int) -> Panoptic:
        """Return a segmentation without segments."""
        return cls(np.zeros((height, width), np.int32), Segments.of([]))

    @property
    def position_HW(self) -> np.ndarray:
        """int32, H x W: row of each pixel's segment in the table, from 1; 0 = none."""
        return positions(self.segment_HW, self.segments.ids)

    def relabel(self) -> Panoptic:
        """Return the same segmentation with the ids 1..N.

        >>> raster = np.array([[0, 5, 5, 5], [9, 9, 9, 5], [9, 9, 0, 0]])
        >>> Panoptic.from_maps(raster, {5: 1, 9: 1}, PASTIS).relabel().segment_HW
        array([[0, 1, 1, 1],
               [2, 2, 2, 1],
               [2, 2, 0, 0]], dtype=int32)
        """
        ids = np.arange(1, len(self.segments) + 1, dtype=np.int32)
        return Panoptic(self.position_HW, replace(self.segments, ids=ids), self.table)

    def keep(self, mask_N: np.ndarray) -> Panoptic:
        """Return only some of the segments; the pixels of the others belong to none.

        >>> result = Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS)
        >>> result.keep(result.segments.class_ids == 4).segment_HW[0]
        array([0, 0, 2, 2], dtype=int32)
        """
        kept = self.segments.take(mask_N)
        ids = np.zeros(len(self.segments) + 1, np.int32)
        ids[1:][mask_N] = kept.ids
        return Panoptic(ids[self.position_HW], kept, self.table)

    def crop(self, rows: slice, columns: slice) -> Panoptic:
        """Return a window, with the segments that reach into it; ids stay the same.

        >>> result = Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS)
        >>> result.crop(slice(0, 2), slice(1, 4)).segments.areas
        array([2, 4])
        """
        return self._with_raster(self.segment_HW[rows, columns])

    def subsample(self, step: int) -> Panoptic:
        """Keep every ``step``-th row and column, with the segments that still have pixels.

        >>> raster = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 3, 2, 2]])
        >>> Panoptic.from_maps(raster, {1: 3, 2: 4, 3: 5}, PASTIS).subsample(2).segments.areas
        array([2, 2])
        """
        return self._with_raster(self.segment_HW[::step, ::step])

    def _with_raster(self, segment_HW: np.ndarray) -> Panoptic:
        """Return the segmentation of another raster that has a part of the ids."""
        ids, areas = present_segments(segment_HW)
        kept = self.segments.take(np.searchsorted(self.segments.ids, ids))
        return Panoptic(segment_HW, replace(kept, areas=areas), self.table)

    def with_background(self, table: ClassTable) -> Panoptic:
        """Turn the pixels without a segment into one segment of the table's background class.

        COCO's definition of quality treats pixels without a true segment as void; after this call
        they are stuff.

        >>> result = Panoptic.from_maps(np.array([[1, 1, 0, 0]] * 3), {1: 3}, PASTIS)
        >>> result.with_background(PASTIS).segments.class_ids
        array([3, 0], dtype=int32)
        """
        none_HW = self.segment_HW == 0
        if table.background is None or not none_HW.any():
            return self
        id_ = int(self.segments.ids.max(initial=0)) + 1
        background = Segment(id_, table.background, 1.0, int(none_HW.sum()), "stuff")
        segments = Segments.concatenate([self.segments, Segments.of([background])])
        return Panoptic(np.where(none_HW, id_, self.segment_HW), segments, self.table or table)

    def classes_HW(self, none: int = 0) -> np.ndarray:
        """Return the class of each pixel, ``none`` where it belongs to no segment: int32, H x W.

        >>> Panoptic.from_maps(np.array([[4, 4, 0, 6]] * 3), {4: 3, 6: 1}, PASTIS).classes_HW()[0]
        array([3, 3, 0, 1], dtype=int32)
        """
        class_of_position = np.concatenate([[none], self.segments.class_ids]).astype(np.int32)
        return np.asarray(class_of_position[self.position_HW])

    def boxes_N4(self) -> np.ndarray:
        """Return bounding boxes: top, left, bottom, right, the last two exclusive: int64, N x 4.

        >>> raster = np.array([[1, 1, 0, 0], [0, 1, 2, 2], [0, 0, 0, 2]])
        >>> Panoptic.from_maps(raster, {1: 3, 2: 4}, PASTIS).boxes_N4()
        array([[0, 0, 2, 2],
               [1, 2, 3, 4]])
        """
        boxes = np.empty((len(self.segments), 4), np.int64)
        position_HW = self.position_HW
        for axis, raster in enumerate((position_HW, np.ascontiguousarray(position_HW.T))):
            lines, across = np.nonzero(raster)
            segments = raster[lines, across] - 1
            # Lines ascend, and of several values assigned to one place the last one stays.
            boxes[segments[::-1], axis] = lines[::-1]
            boxes[segments, axis + 2] = lines + 1
        return boxes

    def centroids_N2(self) -> np.ndarray:
        """Return the mean row and column of each segment's pixel centres: float64, N x 2.

        >>> raster = np.array([[1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
        >>> Panoptic.from_maps(raster, {1: 3, 2: 4}, PASTIS).centroids_N2()
        array([[0. , 0.5],
               [1.5, 2.5]])
        """
        rows, columns = np.nonzero(self.segment_HW)
        segments = self.position_HW[rows, columns] - 1
        sums = [
            np.bincount(segments, axis, minlength=len(self.segments)) for axis in (rows, columns)
        ]
        return np.asarray(np.stack(sums, axis=1) / self.segments.areas[:, None])

    def same_up_to_ids(self, other: Panoptic) -> bool:
        """Return whether both have the same regions and classes, regardless of ids and scores.

        >>> first = Panoptic.from_maps(np.array([[1, 1, 0, 2]] * 3), {1: 3, 2: 4}, PASTIS)
        >>> second = Panoptic.from_maps(np.array([[9, 9, 0, 5]] * 3), {9: 3, 5: 4}, PASTIS)
        >>> first.same_up_to_ids(second), first.same_up_to_ids(second.crop(slice(3), slice(3)))
        (True, False)
        """
        if self.segment_HW.shape != other.segment_HW.shape or len(self.segments) != len(
            other.segments
        ):
            return False
        mine, theirs = self.position_HW.ravel(), other.position_HW.ravel()
        partner = np.zeros(len(self.segments) + 1, np.int64)
        partner[mine] = theirs
        # Both have equally many segments: the map is one to one if it meets all of them and
        # agrees on every pixel.
        if (
            partner[0] != 0
            or not np.array_equal(partner[mine], theirs)
            or len(np.unique(partner)) != len(partner)
        ):
            return False
        partner_class_N = other.segments.class_ids[partner[1:] - 1]
        return bool(np.array_equal(self.segments.class_ids, partner_class_N))

    def plot(
        self,
        image: np.ndarray | None = None,
        ax: Axes | None = None,
        *,
        table: ClassTable | None = None,
        alpha: float = 0.6,
    ) -> Axes:
        """Draw the segments in the colours of their classes, with outlines and a legend.

        Args:
            image: Shown under the segments: uint8, H x W x 3, or Sentinel-2 reflectance, C x H x W
                with at least 4 bands in PASTIS's order (B02, B03, B04, ...), of which the
                contrast-stretched true colours are shown.
            ax: Matplotlib axes to draw on; by default those of a new figure.
            table: Names and colours of the classes; by default those of the segmentation.
            alpha: Opacity of the segments on the image, 0..1.

        Returns:
            The axes.
        """
        from panoseg.results import plot

        return plot(self, image, ax, table=table, alpha=alpha)

    def to_coco(self, folder: Path | str, *, table: ClassTable | None = None) -> Path:
        """Write the segmentation in COCO's panoptic format.

        Args:
            folder: A new or empty folder, which gets ``panoptic.json`` and ``panoptic/image.png``.
            table: The classes; by default those of the segmentation.

        Returns:
            The path of the JSON file.
        """
        from panoseg.results import to_coco

        return to_coco(self, folder, table=table)

    def to_geodataframe(
        self,
        transform: Affine,
        crs: object,
        *,
        table: ClassTable | None = None,
        tolerance_pixels: float = 1.0,
    ) -> GeoDataFrame:
        """Turn the things into polygons, one row each, ascending by id.

        Args:
            transform: Affine transform from columns and rows to coordinates of ``crs``.
            crs: Coordinate reference system, as anything that pyproj accepts.
            table: Names of the classes; by default those of the segmentation.
            tolerance_pixels: How far shared borders are simplified; 0 keeps the steps of pixels.

        Returns:
            A table of ``id``, ``class`` (id of the class), ``name`` (of the class), ``score``
            (0..1), ``area_ha`` and ``geometry``. The polygons are a valid coverage: none overlap,
            and neighbours share their borders.
        """
        from panoseg.results import to_geodataframe

        return to_geodataframe(self, transform, crs, table=table, tolerance_pixels=tolerance_pixels)


def _majority(position_HW: np.ndarray, classes_HW: np.ndarray, count: int) -> np.ndarray:
    """Return the most frequent class of each position 1..count; the lowest one on a tie."""
    width = int(np.max(classes_HW, initial=0)) + 1
    codes = position_HW.astype(np.int64) * width + classes_HW
    votes = np.bincount(codes.ravel(), minlength=(count + 1) * width).reshape(count + 1, width)
    return np.asarray(votes[1:].argmax(axis=1).astype(np.int32))


def _fill_void(segment_HW: np.ndarray, classes_HW: np.ndarray, table: ClassTable) -> None:
    """Give the void pixels outside all segments an id of their own, in place."""
    if segment_HW.shape != classes_HW.shape:
        raise PanopticFormatError(
            f"The segments have shape {segment_HW.shape} and the classes {classes_HW.shape}; "
            "pass arrays of equal shapes."
        )
    for class_id in table.ids("void"):
        outside_HW = (classes_HW == class_id) & (segment_HW == 0)
        if outside_HW.any():
            segment_HW[outside_HW] = segment_HW.max() + 1
