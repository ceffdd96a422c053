"""Fields that a person drew on a season: on its grid, in pieces, and how well a network draws them.

Shape suffixes: T dates, C bands, H W pixels, N fields, R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from panoseg.classes import ClassTable, plain_code
from panoseg.cube.season import Window, read_window
from panoseg.errors import ConfigError, ParcelsError
from panoseg.maps.outlines import rasterise, to_pixels
from panoseg.maps.read_parcels import valid_outlines
from panoseg.models.fields import UNKNOWN_CLASS
from panoseg.progress import track
from panoseg.register.parcels import crs_of
from panoseg.register.plan import moved, pixel_box

PIECE = 160
"""Side in pixels of the pieces of a season."""
_MARGIN = 16
"""Pixels around a field in its piece, where there is room."""
_LARGEST_BYTES = 3 * 1024**3
FEWEST_PIXELS = 6
UNLABELLED, NO_FIELD, NO_DATA = -1, 0, -2
"""Labels of pixels without a field."""
_NAMES_OF_NONE = ("no field", "background")
"""Classes that say that there is no field."""


@dataclass(frozen=True)
class Quality:
    """How well fields are drawn, whatever their class."""

    pq: float
    """Panoptic quality, 0..1."""
    found: int
    """Fields that a drawn region matches with an IoU above one half."""
    fields: int
    """Fields in all."""
    invented: int
    """Regions without a field that lie mostly on labelled land."""

    def __str__(self) -> str:
        return (
            f"PQ {100 * self.pq:.1f}, {self.found} of {self.fields} fields found,"
            f" {self.invented} invented"
        )


@dataclass(frozen=True, eq=False)
class Piece:
    """A square of the season, or a smaller one where the season is smaller."""

    images_TCHW: np.ndarray
    """float32, reflectance x 10 000, NaN in bands that are missing."""
    number_HW: np.ndarray
    """int32: number of the field from 1, or ``NO_FIELD``, ``UNLABELLED``, ``NO_DATA``."""
    own: frozenset[int]
    """Fields that are scored in this piece; empty in a piece of land without fields."""


class Labels:
    """The fields of a person on the grid of a season, the smallest last, which hide larger ones."""

    def __init__(
        self,
        fields: gpd.GeoDataFrame,
        none: gpd.GeoDataFrame | None,
        class_column: str | None,
        grid: GeoBox,
        table: ClassTable,
    ) -> None:
        outlines, row = _on_grid(fields, grid)
        names = _class_names(fields, class_column)
        ids = {plain_code(entry.name).casefold(): entry.id for entry in table.classes}
        things = table.ids("thing")
        known = {name for name in names if ids.get(name) in things} | {"", *_NAMES_OF_NONE}
        self.unknown = sorted(set(names) - known)
        class_of = {name: ids[name] for name in known if ids.get(name) in things}
        empty = np.array([names[place] in _NAMES_OF_NONE for place in row], bool)
        classes = np.array([class_of.get(names[place], UNKNOWN_CLASS) for place in row], np.int64)
        self.rows = len({row[place] for place in np.flatnonzero(~empty)})
        bare = outlines[empty] if none is None else [*outlines[empty], *_on_grid(none, grid)[0]]
        order = np.argsort(-shapely.area(outlines[~empty]), kind="stable")
        self.outlines_N = outlines[~empty][order]
        self.classes_N = classes[~empty][order]
        self.bare = np.array([*bare], dtype=object)
        every = np.concatenate([self.bare, self.outlines_N])
        # Values of the raster are labels plus one, because 0 is what no outline covers.
        values = [
            np.full(len(self.bare), NO_FIELD - UNLABELLED),
            np.arange(1, len(self.outlines_N) + 1) - UNLABELLED,
        ]
        drawn = np.argsort(-shapely.area(every), kind="stable")
        self._outlines, self._values = every[drawn], np.concatenate(values)[drawn]

    def numbers(self, window: Window) -> np.ndarray:
        """Return ``Piece.number_HW`` of a window."""
        near = shapely.intersects(self._outlines, pixel_box(window))
        corner = Affine.translation(window.left, window.top)
        burned_HW = rasterise(
            self._values[near], self._outlines[near], (window.height, window.width), corner
        )
        return np.asarray(burned_HW + UNLABELLED, np.int32)

    def windows(self, grid: GeoBox) -> list[tuple[Window, frozenset[int]]]:
        """Return windows that hold all outlines, and the fields that each window has first."""
        count = len(self.outlines_N)
        boxes_N4 = shapely.bounds(np.concatenate([self.outlines_N, self.bare]))
        left_N, top_N, right_N, bottom_N = boxes_N4.T
        waiting = set(range(len(boxes_N4)))
        found = []
        while waiting:
            # Windows of fields first; bare land that lies in none of them gets its own.
            first = min(waiting, key=lambda n: (n >= count, top_N[n] // PIECE, left_N[n]))
            window = _window_from(boxes_N4[first], grid)
            end_row, end_column = window.top + window.height, window.left + window.width
            inside = (top_N >= window.top) & (left_N >= window.left)
            inside &= (bottom_N <= end_row) & (right_N <= end_column)
            own = waiting & {first, *np.flatnonzero(inside).tolist()}
            waiting -= own
            found.append((window, frozenset(number + 1 for number in own if number < count)))
        return found

    def groups(self, fields: frozenset[int], count: int) -> list[frozenset[int]]:
        """Part some fields into groups of about one size, each of which lies together."""
        numbers_N = np.array(sorted(fields))
        middle_N2 = shapely.get_coordinates(shapely.centroid(self.outlines_N[numbers_N - 1]))
        middle_N2 = middle_N2 - middle_N2.mean(0)
        longest_2 = np.linalg.svd(middle_N2, full_matrices=False)[2][0]
        order = np.argsort(middle_N2 @ longest_2, kind="stable")
        return [frozenset(part.tolist()) for part in np.array_split(numbers_N[order], count)]


def _on_grid(parcels: gpd.GeoDataFrame, grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of outlines on a grid, in pixels (column, row), and the row of each."""
    outlines = moved(valid_outlines(parcels), parcels.crs.to_wkt(), crs_of(grid).to_wkt())
    outlines = shapely.intersection(
        to_pixels(outlines, grid.affine), shapely.box(0, 0, grid.width, grid.height)
    )
    parts, row = shapely.get_parts(outlines, return_index=True)
    # Where an outline touches the rim, a part of the intersection may be a line.
    areas = shapely.area(parts) > 0
    return parts[areas], row[areas]


def _class_names(fields: gpd.GeoDataFrame, column: str | None) -> list[str]:
    """Return the class of each field in small letters, empty where it is not given.

    Raises:
        ConfigError: There is no such column.
    """
    if column is not None and column not in fields.columns:
        names = ", ".join(map(str, fields.columns))
        raise ConfigError(f"The fields have no column {column!r}. Choose one of {names}.")
    column = column or ("class" if "class" in fields.columns else None)
    if column is None:
        return [""] * len(fields)
    return [plain_code(value).casefold() for value in fields[column]]


def _window_from(box_4: np.ndarray, grid: GeoBox) -> Window:
    """Return a window that begins a little before a field, or is centred on it if it is large."""
    starts, sides = [], []
    for low, high, length in (
        (box_4[1], box_4[3], grid.height),
        (box_4[0], box_4[2], grid.width),
    ):
        side = min(PIECE, length)
        start = low - _MARGIN if high - low <= side - 2 * _MARGIN else (low + high - side) / 2
        starts.append(int(np.clip(start, 0, length - side)))
        sides.append(side)
    return Window(*starts, *sides)


def read_pieces(cube: xr.Dataset, labels: Labels, bands: Sequence[str]) -> list[Piece]:
    """Read the pieces of a season that hold fields."""
    windows = labels.windows(cube.odc.geobox)
    size = 4 * cube.sizes["time"] * len(bands)
    total = size * sum(window.height * window.width for window, _ in windows)
    if total > _LARGEST_BYTES:
        raise ParcelsError(
            f"The fields lie in {len(windows)} places, whose images take {total / 1024**3:.0f} GiB."
            " Give fewer, or such that lie nearer to each other."
        )
    pieces = []
    for window, own in track(windows, "reading"):
        images_TCHW, data_HW = read_window(cube, bands, window)
        number_HW = np.where(data_HW, labels.numbers(window), NO_DATA)
        numbers, areas = np.unique(number_HW, return_counts=True)
        seen = frozenset(numbers[areas >= FEWEST_PIXELS].tolist())
        pieces.append(Piece(images_TCHW, number_HW, own & seen))
    return pieces


def match_fields(
    region_HW: np.ndarray, number_HW: np.ndarray, fields: frozenset[int]
) -> np.ndarray:
    """Return the sum of IoU of found fields, found fields, fields, and invented regions."""
    area_R = np.bincount(region_HW.ravel())
    matched, total = set(), np.array([0.0, 0.0, len(fields), 0.0])
    for number in sorted(fields):
        inside_HW = number_HW == number
        both_R = np.bincount(region_HW[inside_HW], minlength=len(area_R))
        both_R[0] = 0
        iou_R = both_R / np.maximum(area_R + inside_HW.sum() - both_R, 1)
        if iou_R.max() > 0.5:
            matched.add(int(iou_R.argmax()))
            total[:2] += iou_R.max(), 1
    counted_HW = np.isin(number_HW, [NO_FIELD, *fields])
    on_R = np.bincount(region_HW[counted_HW], minlength=len(area_R))
    mostly = set(np.flatnonzero(on_R > 0.5 * area_R).tolist()) - {0}
    total[3] = len(mostly - matched)
    return total


def quality_of(total: np.ndarray) -> Quality:
    """Return the quality of sums of ``match_fields``."""
    iou, found, fields, invented = total.tolist()
    missed = fields - found
    return Quality(
        iou / max(found + 0.5 * (missed + invented), 1), int(found), int(fields), int(invented)
    )
