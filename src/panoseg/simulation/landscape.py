"""Draw a landscape: parcels, and the roads, woods and villages between them.

Roads cut the land into blocks; a block is farmed, wooded, built up or idle; a farmed block is cut
further into fields, along one direction, into halves or into strips, with a margin, a hedge, a
track or nothing between two fields. All cuts are straight in a plane that is smoothly warped, so
that borders bend. Cells are a third of a pixel, so that a road of five metres takes its share of a
pixel. The land cover of a pixel is that of most of its cells.

Shape suffixes: Y X cells (three to a pixel), H W pixels, N cells of a node, U units.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from panoseg.simulation.draws import smooth_noise
from panoseg.simulation.options import (
    FAR_REGIONS,
    MEADOW,
    ORCHARD,
    REGIONS,
    VOID,
    Material,
    Region,
    SimulationOptions,
)


class LandCover(IntEnum):
    """What covers most of a pixel."""

    BUILT = 1
    """Houses, yards, greenhouses, solar parks."""
    GARDEN = 2
    """Gardens, lawns, parks, allotments and paddocks among houses."""
    TREES = 3
    """Woods, hedges, rows of trees."""
    WATER = 4
    ROAD = 5
    """Roads and tracks."""
    IDLE = 6
    """Verges, rough grass and scrub that nobody farms."""
    FIELD = 7


_OF_MATERIAL = {
    Material.GRASS: LandCover.IDLE,
    Material.SCRUB: LandCover.IDLE,
    Material.FALLOW: LandCover.IDLE,
    Material.BROADLEAF: LandCover.TREES,
    Material.CONIFER: LandCover.TREES,
    Material.HEDGE: LandCover.TREES,
    Material.WATER: LandCover.WATER,
    Material.ASPHALT: LandCover.ROAD,
    Material.TRACK: LandCover.ROAD,
    Material.LAWN: LandCover.GARDEN,
    Material.GARDEN: LandCover.GARDEN,
}


def cover_of(material: int, *, among_houses: bool = False) -> LandCover:
    """Return the land cover of a material or of a crop, whose class ids are below 100."""
    if material < Material.GRASS:
        return LandCover.FIELD
    if among_houses and material in (Material.GRASS, Material.SCRUB, Material.FALLOW):
        return LandCover.GARDEN
    return _OF_MATERIAL.get(Material(material), LandCover.BUILT)


def most_common(cover_YX: np.ndarray, cells: int) -> np.ndarray:
    """Return the most common land cover of each pixel, uint8 H x W.

    Args:
        cover_YX: ``LandCover`` of each cell.
        cells: Number of cells along the side of a pixel.
    """
    height, width = cover_YX.shape[0] // cells, cover_YX.shape[1] // cells
    pixels = cover_YX.reshape(height, cells, width, cells)
    best_HW = np.zeros((height, width), np.uint8)
    most_HW = np.zeros((height, width), np.int64)
    for cover in LandCover:
        count_HW = (pixels == cover).sum((1, 3))
        best_HW[count_HW > most_HW] = cover
        most_HW = np.maximum(most_HW, count_HW)
    return best_HW


CELLS = 3
"""Number of cells along the side of a pixel."""
PIXEL_M = 10.0
"""Side of a pixel in metres."""
CELL_M = PIXEL_M / CELLS
"""Side of a cell in metres."""
HECTARE_CELLS = 10_000 / CELL_M**2
"""Number of cells in a hectare."""
_MARGIN = 12
"""Pixels simulated beyond each side, to know how much of a parcel lies outside."""
_VOID_BELOW = 0.35
"""Share of a parcel inside the patch below which it is void. PASTIS says one half, of the whole
parcel; the margin here cuts it.
"""
_BORDERS = (Material.GRASS, Material.GRASS, Material.HEDGE, Material.TRACK)
_BORDER_WIDTHS_M = ((0, 0), (2, 5), (4, 9), (2.5, 4.5))


@dataclass(frozen=True)
class Landscape:
    """Land divided into units, each of one cover and one management."""

    units_YX: np.ndarray
    """int32, unit of each cell."""
    material_U: np.ndarray
    """int16, class id of a crop or a ``Material``."""
    parcel_U: np.ndarray
    """int32, number of the unit's parcel, 0 for none; a parcel may have several units, which share
    its crop.
    """
    field_U: np.ndarray
    """int32, number of the part of a parcel that is tilled as one, 0 outside parcels; the units of
    a part differ only in the day of harvest.
    """
    angle_U: np.ndarray
    """float32, direction of the rows, radians."""
    parcels_HW: np.ndarray
    """int32, number of the parcel at each pixel, 0 for none."""
    classes_HW: np.ndarray
    """uint8, PASTIS class ids 0..19."""
    cover_HW: np.ndarray
    """uint8, ``LandCover`` of most of each pixel."""


@dataclass(frozen=True)
class Cut:
    """A node cut in two."""

    halves: tuple[np.ndarray, np.ndarray]
    """Cells of both halves."""
    border_N: np.ndarray
    """Cells of the border between them."""
    distance_N: np.ndarray
    """Distance of the border's cells to its middle, metres."""


def make_landscape(
    size: tuple[int, int], region: Region, options: SimulationOptions, rng: np.random.Generator
) -> Landscape:
    """Draw a landscape of ``size`` (height, width) pixels."""
    margin = _MARGIN if options.void else 0
    plan = Plan((size[0] + 2 * margin, size[1] + 2 * margin), region, options, rng)
    plan.divide()
    return plan.landscape(margin)


class Plan:
    """A plane that is being cut: cells are assigned to units node by node."""

    def __init__(
        self,
        size: tuple[int, int],
        region: Region,
        options: SimulationOptions,
        rng: np.random.Generator,
    ) -> None:
        self.region, self.options, self.rng = region, options, rng
        self.shape = (size[0] * CELLS, size[1] * CELLS)
        y_YX, x_YX = np.mgrid[: self.shape[0], : self.shape[1]].astype(np.float32) * CELL_M
        bend = rng.uniform(2, 16)
        self.x_N = (x_YX + bend * smooth_noise(rng, self.shape, rng.uniform(40, 110))).ravel()
        self.y_N = (y_YX + bend * smooth_noise(rng, self.shape, rng.uniform(40, 110))).ravel()
        self.unit_N = np.zeros(self.shape[0] * self.shape[1], np.int32)
        self.material: list[int] = []
        self.parcel: list[int] = []
        self.angle: list[float] = []
        self.label: list[int] = []
        self.field: list[int] = []
        self.cover: list[int] = []
        self.parcels = self.labels = 0
        self.among_houses = False
        weights = blended_crop_weights(region, options, rng)
        self.crop_ids, self.crop_weights = (
            np.fromiter(weights, int),
            np.fromiter(weights.values(), float),
        )

    def divide(self) -> None:
        """Cut the plane by roads, then cut each block."""
        region, rng = self.region, self.rng
        nodes = [(np.arange(self.unit_N.size, dtype=np.int32), float(rng.uniform(0, np.pi)))]
        while nodes:
            cells_N, angle = nodes.pop()
            if cells_N.size < HECTARE_CELLS * rng.lognormal(
                np.log(region.block_ha[0]), region.block_ha[1]
            ):
                self._use_block(cells_N, angle)
                continue
            turned = angle + (rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(-0.6, 0.6))
            first_N, second_N = self._road(cells_N, turned)
            nodes += [(first_N, turned), (second_N, angle + rng.normal(0, 0.15))]

    def cut(self, cells_N: np.ndarray, angle: float, width: float = 0.0) -> Cut:
        """Cut a node in two across its longer extent.

        Args:
            cells_N: Cells of the node.
            angle: Direction of the cut, radians, up to a right angle.
            width: Metres of the border between the halves.
        """
        x_N, y_N = self.x_N[cells_N], self.y_N[cells_N]
        u_N = x_N * np.cos(angle) + y_N * np.sin(angle)
        v_N = y_N * np.cos(angle) - x_N * np.sin(angle)
        along_N = v_N if np.ptp(u_N) < np.ptp(v_N) else u_N
        low, high = along_N.min(), along_N.max()
        along_N -= low + self.rng.uniform(0.32, 0.68) * (high - low)
        border_N = np.abs(along_N) < width / 2
        below_N = along_N < 0
        halves = cells_N[below_N & ~border_N], cells_N[~below_N & ~border_N]
        return Cut(halves, cells_N[border_N], np.abs(along_N[border_N]))

    def _road(self, cells_N: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Cut a block in two by a road, a track or a strip of green; return the halves.

        Most have verges, some are lined with trees.
        """
        rng = self.rng
        kind = rng.choice(
            [Material.ASPHALT, Material.TRACK, Material.GRASS, Material.HEDGE],
            p=[0.4, 0.3, 0.2, 0.1],
        )
        width = rng.uniform(4, 8) if kind == Material.ASPHALT else rng.uniform(3, 7)
        cut = self.cut(cells_N, angle, width + 2 * rng.uniform(0, 5))
        verge_N = cut.distance_N >= width / 2
        self.unit(cut.border_N[verge_N], Material.HEDGE if rng.random() < 0.15 else Material.GRASS)
        self.unit(cut.border_N[~verge_N], kind)
        return cut.halves

    def _use_block(self, cells_N: np.ndarray, angle: float) -> None:
        """Draw the use of a block and fill it."""
        region, rng = self.region, self.rng
        shares = [region.wood, region.village, region.water, region.idle]
        use = rng.choice(5, p=[*shares, 1 - sum(shares)])
        if use == 0:
            self.unit(cells_N, Material.CONIFER if rng.random() < 0.3 else Material.BROADLEAF)
        elif use == 1:
            self.village(cells_N, angle)
        elif use == 2 and cells_N.size < 6 * HECTARE_CELLS:
            self.unit(cells_N, Material.WATER)
        elif use == 3:
            self.idle(cells_N, angle)
        else:
            self._fields(cells_N, angle)

    def _fields(self, cells_N: np.ndarray, angle: float) -> None:
        """Cut a block into parcels."""
        region, rng = self.region, self.rng
        median_ha = region.field_ha[0] * self.options.field_size * rng.lognormal(0, 0.35)
        favourite = int(rng.choice(self.crop_ids, p=self.crop_weights))
        nodes = [(cells_N, angle)]
        strips = rng.random() < region.strips
        while nodes:
            cells_N, angle = nodes.pop()
            if cells_N.size < HECTARE_CELLS * max(
                rng.lognormal(np.log(1.45 * median_ha), region.field_ha[1]), 0.05
            ):
                cornered = cells_N.size > 0.5 * HECTARE_CELLS and rng.random() < 0.18
                for part_N in self._corner_off(cells_N, angle) if cornered else (cells_N,):
                    self._field(part_N, angle, self._crop(favourite))
            elif strips and cells_N.size < HECTARE_CELLS * rng.uniform(3, 14) * median_ha:
                self._strips(cells_N, angle, favourite, median_ha)
            else:
                kind = int(rng.choice(4, p=region.borders))
                turn = rng.normal(0, 0.06) if rng.random() < 0.85 else rng.uniform(-0.7, 0.7)
                cut = self.cut(cells_N, angle + turn, rng.uniform(*_BORDER_WIDTHS_M[kind]))
                self.unit(cut.border_N, _BORDERS[kind])
                nodes += [(half_N, angle + turn) for half_N in cut.halves]

    def _corner_off(self, cells_N: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Cut a corner off a field, so that not all fields are convex; return both."""
        half_N, rest_N = self.cut(cells_N, angle).halves
        corner_N, other_N = self.cut(half_N, angle).halves
        return np.concatenate([rest_N, other_N]), corner_N

    def _strips(self, cells_N: np.ndarray, angle: float, favourite: int, median_ha: float) -> None:
        """Cut a node into parallel strips of uneven width."""
        angle += 0.0 if self.rng.random() < 0.5 else np.pi / 2
        s_N = self.y_N[cells_N] * np.cos(angle) - self.x_N[cells_N] * np.sin(angle)
        width = np.clip(median_ha * 10_000 / self.rng.uniform(150, 350), 20, 120)
        edges = np.cumsum(width * self.rng.lognormal(0, 0.45, size=200)) + s_N.min() - width / 2
        strip_N = np.searchsorted(edges, s_N)
        margin = self.rng.uniform(1, 3) if self.rng.random() < self.region.borders[1] else 0.0
        border_N = s_N - np.append(-np.inf, edges)[strip_N] < margin
        self.unit(cells_N[border_N], Material.GRASS)
        for strip in np.unique(strip_N):
            self._field(cells_N[(strip_N == strip) & ~border_N], angle, self._crop(favourite))

    def _crop(self, favourite: int) -> int:
        """Draw a crop; now and then it is the block's favourite, so that neighbours agree."""
        if self.rng.random() < 0.15:
            return favourite
        return int(self.rng.choice(self.crop_ids, p=self.crop_weights))

    def _field(self, cells_N: np.ndarray, angle: float, crop: int) -> None:
        """Make one parcel; a large one may have had several crops last year.

        Now and then it is a farmyard, or idle land.
        """
        rng = self.rng
        if cells_N.size == 0:
            return
        if rng.random() < 0.03:
            self.idle(cells_N, angle)
            return
        if 0.2 < cells_N.size / HECTARE_CELLS < 1.5 and rng.random() < 0.4 * self.region.village:
            self.village(cells_N, angle, declared=0.0)
            return
        self.parcels += 1
        angle += np.pi / 2 * (rng.random() < 0.2)
        parts = [cells_N]
        while rng.random() < 0.3 and parts[-1].size > 0.8 * HECTARE_CELLS:
            parts += self.cut(parts.pop(), angle + np.pi / 2 * rng.integers(2)).halves
        for part_N in parts:
            self.unit(part_N, crop, self.parcels, angle)

    def village(self, cells_N: np.ndarray, angle: float, declared: float = 0.04) -> None:
        """Fill a block with houses, gardens, trees and streets.

        Args:
            cells_N: Cells of the block.
            angle: Direction of the streets, radians.
            declared: Probability that a lot of suitable size is a meadow or orchard, a parcel.
        """
        rng = self.rng
        kinds = [
            Material.ROOF_RED,
            Material.ROOF_GREY,
            Material.ROOF_WHITE,
            Material.YARD,
            Material.ASPHALT,
        ]
        kinds += [Material.GRASS, Material.BROADLEAF, Material.HEDGE]
        nodes = [(cells_N, angle)]
        self.among_houses = True
        while nodes:
            cells_N, angle = nodes.pop()
            if 0.15 < cells_N.size / HECTARE_CELLS < 0.6 and rng.random() < declared:
                crop = int(rng.choice([MEADOW, MEADOW, ORCHARD]))
                self._field(
                    cells_N,
                    angle,
                    crop if crop in self.crop_ids else self._crop(int(self.crop_ids[0])),
                )
            elif cells_N.size < HECTARE_CELLS * rng.lognormal(np.log(0.05), 0.7):
                self.unit(
                    cells_N,
                    int(rng.choice(kinds, p=[0.13, 0.11, 0.02, 0.09, 0.07, 0.32, 0.19, 0.07])),
                )
            else:
                street = rng.uniform(3, 6) if cells_N.size > HECTARE_CELLS else 0.0
                cut = self.cut(cells_N, angle + rng.normal(0, 0.1), street)
                self.unit(cut.border_N, Material.ASPHALT)
                nodes += [(half_N, angle) for half_N in cut.halves]
        self.among_houses = False

    def idle(self, cells_N: np.ndarray, angle: float) -> None:
        """Fill a block with grass, scrub and trees that belong to no parcel."""
        nodes = [cells_N]
        while nodes:
            cells_N = nodes.pop()
            if cells_N.size < HECTARE_CELLS * self.rng.lognormal(np.log(0.5), 0.7):
                kinds = [Material.GRASS, Material.SCRUB, Material.BROADLEAF, Material.YARD]
                self.unit(cells_N, int(self.rng.choice(kinds, p=[0.48, 0.3, 0.17, 0.05])))
            else:
                nodes += self.cut(cells_N, angle + self.rng.uniform(-0.5, 0.5)).halves

    def unit(
        self,
        cells_N: np.ndarray,
        material: int,
        parcel: int = 0,
        angle: float = 0.0,
        *,
        label: int | None = None,
        field: int = 0,
        stock: bool = False,
    ) -> None:
        """Make the cells one unit, unless there is none.

        Args:
            cells_N: The cells.
            material: Class id of a crop or a ``Material``.
            parcel: Number of the parcel whose crop it shares, 0 for none.
            angle: Direction of the rows, radians.
            label: Number of the field in the labels; by default the parcel.
            field: Number of the part of a parcel that is tilled as one; by default its own.
            stock: Make the unit without cells, for those that follow.
        """
        if cells_N.size or stock:
            self.unit_N[cells_N] = len(self.material)
            self.material.append(int(material))
            self.parcel.append(parcel)
            self.angle.append(angle)
            self.label.append(parcel if label is None else label)
            self.field.append(field or len(self.material))
            self.labels = max(self.labels, self.label[-1])
            self.cover.append(cover_of(material, among_houses=self.among_houses))

    def landscape(self, margin: int) -> Landscape:
        """Return the landscape without a margin, in pixels."""
        units_YX = self.unit_N.reshape(self.shape)
        material_U, label_U = np.array(self.material, np.int16), np.array(self.label, np.int32)
        whole_HW = label_U[units_YX[1::CELLS, 1::CELLS]]
        inside = np.s_[margin : whole_HW.shape[0] - margin, margin : whole_HW.shape[1] - margin]
        parcels_HW = np.ascontiguousarray(whole_HW[inside])
        count = self.labels + 1
        class_P = np.zeros(count, np.uint8)
        crop_U = np.where(material_U == Material.FALLOW, MEADOW, material_U)
        class_P[label_U] = np.where(label_U > 0, crop_U, 0)
        within_P = np.bincount(parcels_HW.ravel(), minlength=count) / np.maximum(
            np.bincount(whole_HW.ravel(), minlength=count), 1
        )
        class_P[(within_P < _VOID_BELOW) & (class_P > 0)] = VOID
        cells = np.s_[
            margin * CELLS : self.shape[0] - margin * CELLS,
            margin * CELLS : self.shape[1] - margin * CELLS,
        ]
        return Landscape(
            np.ascontiguousarray(units_YX[cells]),
            material_U,
            np.array(self.parcel, np.int32),
            np.array(self.field, np.int32),
            np.array(self.angle, np.float32),
            parcels_HW,
            class_P[parcels_HW],
            most_common(np.array(self.cover, np.uint8)[units_YX[cells]], CELLS),
        )


def blended_crop_weights(
    region: Region, options: SimulationOptions, rng: np.random.Generator
) -> dict[int, float]:
    """Draw the weights of crops in one landscape, which add up to 1.

    They are the region's, varied, with some of every class so that a dataset lacks none.
    """
    ids = np.array(options.crops if options.crops is not None else range(1, 19))
    regional = np.array([region.crops.get(int(i), 0.0) for i in ids]) * rng.lognormal(
        0, 0.6, ids.size
    )
    uniform = rng.gamma(0.5, size=ids.size) + 1e-6
    regional = regional / regional.sum() if regional.sum() > 0 else uniform / uniform.sum()
    blend = rng.uniform(0.05, 0.5)
    weights = (1 - blend) * regional + blend * uniform / uniform.sum()
    return dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))


def region_of(options: SimulationOptions, rng: np.random.Generator) -> tuple[str, Region]:
    """Return name and description of the region of the options, or of one drawn."""
    name = options.region or str(rng.choice(list(REGIONS)))
    return name, (REGIONS | FAR_REGIONS)[name]
