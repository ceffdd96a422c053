"""Draw the land of the style "real": fields between villages, woods, waters, yards and idle land.

Where what lies is drawn first, as a map of uses; streams and roads cut the land; a piece is cut on
until it has one use, and is filled with that. Much of what is not a field is as finely cut as the
fields themselves. Materials outside fields come from a small stock of units, so that a village of
hundreds of houses costs no more than a few fields.

Shape suffixes: N cells of a node, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from panoseg.simulation.draws import Style, smooth_noise
from panoseg.simulation.landscape import CELL_M, CELLS, HECTARE_CELLS, Landscape
from panoseg.simulation.options import MEADOW, VOID, Material, Region, SimulationOptions
from panoseg.simulation.villages import Settlement

_MARGIN = 12
"""Pixels simulated beyond each side."""
_TINY_PIXELS = 6
"""Number of pixels below which a field in a patch is void."""
_FIELDS, _VILLAGE, _WOOD, _OPEN = range(4)
"""Uses of a piece of land."""
_MINIMUM_HA = (0.5, 0.5, 0.4)
"""Smallest piece of a village, of a wood, and of open land."""


def make_countryside(
    size: tuple[int, int],
    region: Region,
    style: Style,
    options: SimulationOptions,
    rng: np.random.Generator,
) -> Landscape:
    """Draw a landscape of ``size`` (height, width) pixels in the style real."""
    margin = _MARGIN if options.void else 0
    land = Countryside((size[0] + 2 * margin, size[1] + 2 * margin), region, style, options, rng)
    land.divide()
    land.finish()
    drawn = land.landscape(margin)
    if not options.void:
        return drawn
    # Nobody could draw so small a piece; it counts neither as a field nor as none.
    pixels = np.bincount(drawn.parcels_HW.ravel())
    tiny_HW = (pixels < _TINY_PIXELS)[drawn.parcels_HW] & (drawn.parcels_HW > 0)
    classes_HW = np.where(tiny_HW, VOID, drawn.classes_HW).astype(np.uint8)
    return replace(drawn, classes_HW=classes_HW)


@dataclass(frozen=True)
class Axes:
    """The cells of a node in coordinates along and across a direction, metres."""

    along_N: np.ndarray
    """Distance along the direction."""
    across_N: np.ndarray
    """Distance across it."""


class Countryside(Settlement):
    """A plane that is cut as real land is."""

    def __init__(
        self,
        size: tuple[int, int],
        region: Region,
        style: Style,
        options: SimulationOptions,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(size, region, style, options, rng)
        self.use_N = self._uses(size)
        self.median_ha = style.median_field / 100 * rng.lognormal(0, 0.1)
        self.ribbons = rng.uniform(0.1, 0.6) if "ribbons" in style.land else 0.0
        self.tree_rows = rng.uniform(0.1, 0.7) if "tree-rows" in style.land else 0.0
        self.strip_share = rng.choice([region.strips, rng.random()])
        self.borders = rng.dirichlet(np.array(region.borders) * 6 + 0.15)

    def _uses(self, size: tuple[int, int]) -> np.ndarray:
        """Draw the map of uses; int8 for each cell."""
        rng, style = self.rng, self.style
        use_HW = np.full(size, _FIELDS, np.int8)
        centre = rng.uniform(-0.1, 1.1, 2) * size
        stretch, turn = rng.uniform(1, 3), rng.uniform(0, np.pi)
        y_HW, x_HW = np.indices(size, np.float32)
        u_HW = (x_HW - centre[1]) * np.cos(turn) + (y_HW - centre[0]) * np.sin(turn)
        v_HW = (y_HW - centre[0]) * np.cos(turn) - (x_HW - centre[1]) * np.sin(turn)
        far_HW = np.hypot(u_HW, stretch * v_HW) + rng.uniform(3, 14) * smooth_noise(
            rng, size, min(rng.uniform(6, 20), 0.3 * min(size))
        )
        if style.village_share > 0:
            use_HW[far_HW < np.quantile(far_HW, style.village_share)] = _VILLAGE
        left = 1 - style.fields_share - style.village_share
        wood = left * rng.beta(0.8, 1.7) if left > 0.01 else 0.0
        for use, share, longest in ((_WOOD, wood, 45), (_OPEN, left - wood, 18)):
            free_HW = use_HW == _FIELDS
            if share > 0.005 and free_HW.any():
                length = min(rng.uniform(0.4, 1) * longest, 0.3 * min(size))
                where_HW = smooth_noise(rng, size, length)
                part = min(1.0, share * use_HW.size / free_HW.sum())
                use_HW[free_HW & (where_HW > np.quantile(where_HW[free_HW], 1 - part))] = use
        cells_YX: np.ndarray = use_HW.repeat(CELLS, 0).repeat(CELLS, 1)
        return cells_YX.ravel()

    def divide(self) -> None:
        """Cut the plane by waters and roads, then by use, then fill the pieces."""
        region, rng = self.region, self.rng
        nodes = [(np.arange(self.unit_N.size, dtype=np.int32), float(rng.uniform(0, np.pi)))]
        if "streams" in self.style.land:
            nodes = self._stream(*nodes[0])
        while nodes:
            cells_N, angle = nodes.pop()
            largest = rng.lognormal(np.log(region.block_ha[0] * 0.8), region.block_ha[1])
            if cells_N.size < HECTARE_CELLS * max(largest, 8 * self.median_ha):
                self._use(cells_N, angle)
                continue
            turned = angle + (rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(-0.6, 0.6))
            first_N, second_N = self._road(cells_N, turned)
            nodes += [(first_N, turned), (second_N, angle + rng.normal(0, 0.15))]

    def axes(self, cells_N: np.ndarray, angle: float) -> Axes:
        """Return the coordinates of cells; the longer extent is ``along``."""
        x_N, y_N = self.x_N[cells_N], self.y_N[cells_N]
        u_N = x_N * np.cos(angle) + y_N * np.sin(angle)
        v_N = y_N * np.cos(angle) - x_N * np.sin(angle)
        return Axes(u_N, v_N) if np.ptp(u_N) >= np.ptp(v_N) else Axes(v_N, u_N)

    def _stream(self, cells_N: np.ndarray, angle: float) -> list[tuple[np.ndarray, float]]:
        """Cut a stream or a river with its banks through the land; return both sides."""
        rng = self.rng
        axes = self.axes(cells_N, angle)
        bend_N = np.zeros_like(axes.across_N)
        for size, length in ((rng.uniform(10, 50), 40), (rng.uniform(2, 9), rng.uniform(9, 16))):
            # Bends are as wide as ``length`` pixels, none like the one before.
            line_X = smooth_noise(rng, (1, 1024), length)[0]
            place_N = (axes.along_N - axes.along_N.min()) / 10
            bend_N += size * np.interp(place_N, np.arange(1024), line_X)
        middle = axes.across_N.mean() + np.ptp(axes.across_N) * rng.uniform(-0.4, 0.4)
        side_N = axes.across_N - middle - bend_N
        width = rng.uniform(10, 35) if rng.random() < 0.12 else rng.uniform(1.5, 6)
        bank = width / 2 + rng.uniform(2, 12)
        away_N = np.abs(side_N)
        self.stock(cells_N[away_N < width / 2], Material.WATER)
        banks = (away_N >= width / 2) & (away_N < bank)
        self.rough(cells_N[banks], rng.uniform(0.0, 0.6))
        return [
            (cells_N[(away_N >= bank) & (side_N < 0)], angle),
            (cells_N[(away_N >= bank) & (side_N >= 0)], angle),
        ]

    def _road(self, cells_N: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Cut a block in two by a road, a track or a strip of green; return the halves.

        Houses stand in ribbons along some stretches of roads.
        """
        rng = self.rng
        axes = self.axes(cells_N, angle)
        low, high = axes.along_N.min(), axes.along_N.max()
        side_N = axes.along_N - low - rng.uniform(0.32, 0.68) * (high - low)
        away_N = np.abs(side_N)
        paved = rng.random() < 0.5
        width = rng.uniform(4, 9) if paved else rng.uniform(2.5, 5)
        verge = width / 2 + rng.uniform(0, 4)
        self.stock(cells_N[away_N < width / 2], Material.ASPHALT if paved else Material.TRACK)
        verge_N = cells_N[(away_N >= width / 2) & (away_N < verge)]
        if rng.random() < self.tree_rows:
            self.rough(verge_N, rng.uniform(0.2, 0.8))
        else:
            self.stock(verge_N, Material.GRASS)
        free_N = away_N >= verge
        if paved and rng.random() < self.ribbons:
            t_N = axes.across_N - axes.across_N.min()
            start = rng.uniform(-0.3, 0.8) * t_N.max()
            depth = rng.uniform(22, 60)
            houses_N = free_N & (away_N < verge + depth) & (t_N > start)
            houses_N &= t_N < start + rng.uniform(60, 500)
            if rng.random() < 0.4:
                houses_N &= side_N > 0
            self.lots(cells_N[houses_N], t_N[houses_N], away_N[houses_N] - verge, side_N[houses_N])
            free_N &= ~houses_N
        return cells_N[free_N & (side_N < 0)], cells_N[free_N & (side_N >= 0)]

    def _use(self, cells_N: np.ndarray, angle: float) -> None:
        """Cut a piece until it has one use, then fill it."""
        nodes = [cells_N]
        least_ha = (max(0.25, self.median_ha), *_MINIMUM_HA)
        while nodes:
            cells_N = nodes.pop()
            if not cells_N.size:
                continue
            count = np.bincount(self.use_N[cells_N], minlength=4)
            use = int(count.argmax())
            if count[use] < 0.8 * cells_N.size and cells_N.size > (
                2 * HECTARE_CELLS * least_ha[use]
            ):
                nodes += self.cut(cells_N, angle).halves
            elif use == _VILLAGE:
                self.houses(cells_N, angle)
            elif use == _WOOD:
                self._wood(cells_N, angle)
            elif use == _OPEN:
                self._open(cells_N, angle)
            else:
                self._fields(cells_N, angle)

    def fill(self, wide_N: np.ndarray, narrow_N: np.ndarray) -> None:
        """Fill what lies between given parcels.

        Args:
            wide_N: Cells of wide gaps.
            narrow_N: Cells of narrow ones.
        """
        rng, angle = self.rng, float(self.rng.uniform(0, np.pi))
        self.use_N[self.use_N == _FIELDS] = _OPEN
        nodes = [wide_N]
        while nodes:
            cells_N = nodes.pop()
            if cells_N.size > HECTARE_CELLS * rng.lognormal(np.log(6), 0.5):
                nodes += self._road(cells_N, angle + rng.normal(0, 0.3))
            elif cells_N.size:
                self._use(cells_N, angle)
        piece_N = self.x_N[narrow_N] // 350 * 31 + self.y_N[narrow_N] // 350 * 17
        for piece in np.unique(piece_N):
            cells_N = narrow_N[piece_N == piece]
            if rng.random() < 0.2 + 0.4 * self.tree_rows:
                self.rough(cells_N, rng.uniform(0.2, 1.0))
            else:
                kind = rng.choice(
                    [Material.GRASS, Material.TRACK, Material.ASPHALT], p=[0.6, 0.2, 0.2]
                )
                self.stock(cells_N, int(kind))

    def _wood(self, cells_N: np.ndarray, angle: float) -> None:
        """Fill a piece with stands of trees, now and then a clearing."""
        rng = self.rng
        nodes = [cells_N]
        while nodes:
            cells_N = nodes.pop()
            if cells_N.size > HECTARE_CELLS * rng.lognormal(np.log(3), 0.6):
                nodes += self.cut(cells_N, angle + rng.normal(0, 0.4)).halves
                continue
            kind = rng.random()
            tree = Material.CONIFER if kind < 0.3 else Material.BROADLEAF
            if kind > 0.93:
                self.rough(cells_N, rng.uniform(0, 0.6))
            else:
                self.mixed(
                    cells_N, [tree, tree, Material.BROADLEAF, Material.CONIFER], [6, 3, 1, 1]
                )

    def _open(self, cells_N: np.ndarray, angle: float) -> None:
        """Fill a piece that is neither field, village nor wood."""
        rng, land = self.rng, self.style.land
        nodes = [(cells_N, angle)]
        kinds = {"idle": 5.0, "rough": 4.0, "park": 2.0, "industry": 1.0, "pit": 0.4, "sport": 0.8}
        for name, weight in (
            ("solar-parks", 1.2),
            ("greenhouses", 1.2),
            ("allotments", 0.8),
            ("paddocks", 2.0),
            ("ponds", 1.0),
            ("farmyards", 1.5),
        ):
            kinds |= {name: weight} if name in land else {}
        weights = np.fromiter(kinds.values(), float) * rng.gamma(0.8, size=len(kinds))
        while nodes:
            cells_N, angle = nodes.pop()
            if cells_N.size > HECTARE_CELLS * rng.lognormal(np.log(1.5), 0.8):
                margin = rng.uniform(0, 4) * (rng.random() < 0.4)
                cut = self.cut(cells_N, angle + rng.normal(0, 0.15), margin)
                self.rough(cut.border_N, 0.5)
                nodes += [(half_N, angle) for half_N in cut.halves]
            else:
                kind = str(rng.choice(list(kinds), p=weights / weights.sum()))
                self.open_piece(kind, cells_N, angle)

    def open_piece(self, kind: str, cells_N: np.ndarray, angle: float) -> None:
        """Fill a piece with one kind of land that is neither field, village nor wood."""
        if kind == "idle":
            self.idle_grass(cells_N, angle)
        elif kind == "rough":
            self.rough(cells_N, self.rng.uniform(0.05, 0.7))
        else:
            self.grounds(kind, cells_N, angle)

    def idle_grass(self, cells_N: np.ndarray, angle: float) -> None:
        """Fill a piece with grass or weeds that nobody declares; people draw it as a field."""
        if cells_N.size < 0.2 * HECTARE_CELLS:
            self.rough(cells_N, 0.2)
            return
        self.labels += self.style.drawn
        label = self.labels if self.style.drawn else 0
        self.unit(cells_N, Material.FALLOW, 0, angle, label=label)

    def _fields(self, cells_N: np.ndarray, angle: float) -> None:
        """Cut a piece into fields."""
        region, rng, land = self.region, self.rng, self.style.land
        median_ha = self.median_ha * rng.lognormal(0, 0.3)
        favourite = int(rng.choice(self.crop_ids, p=self.crop_weights))
        if "pivots" in land and cells_N.size > 6 * HECTARE_CELLS and rng.random() < 0.15:
            cells_N = self._pivot(cells_N, angle)
        nodes = [(cells_N, angle)]
        strips = "strips" in land and rng.random() < self.strip_share
        while nodes:
            cells_N, angle = nodes.pop()
            size_ha = max(rng.lognormal(np.log(3.6 * median_ha), 0.85 * region.field_ha[1]), 0.12)
            if cells_N.size < HECTARE_CELLS * min(size_ha, 14 * median_ha):
                cornered = cells_N.size > 0.5 * HECTARE_CELLS and rng.random() < 0.2
                for part_N in self._corner_off(cells_N, angle) if cornered else (cells_N,):
                    self._field(part_N, angle, self._crop(favourite))
            elif strips and cells_N.size < HECTARE_CELLS * rng.uniform(8, 25) * median_ha:
                self._strips(cells_N, angle, favourite, median_ha)
            else:
                turn = rng.normal(0, 0.05) if rng.random() < 0.88 else rng.uniform(-0.7, 0.7)
                nodes += [(half_N, angle + turn) for half_N in self._border(cells_N, angle + turn)]

    def _border(self, cells_N: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Cut a piece in two with what lies between two fields; return the halves."""
        rng = self.rng
        kind = int(rng.choice(4, p=self.borders))
        width = rng.uniform(*((0, 0), (1, 5), (3, 8), (2.5, 4.5))[kind])
        trees = rng.random() < 0.25 * self.tree_rows
        cut = self.cut(cells_N, angle, 8.0 if trees else width)
        if trees or kind == 2:
            self.rough(cut.border_N, rng.uniform(0.3, 1.0))
        elif rng.random() < 0.15 and "streams" in self.style.land:
            self.stock(cut.border_N, Material.WATER)
        else:
            self.stock(cut.border_N, Material.TRACK if kind == 3 else Material.GRASS)
        return cut.halves

    def _strips(self, cells_N: np.ndarray, angle: float, favourite: int, median_ha: float) -> None:
        """Cut a node into parallel strips of uneven width, from ten metres."""
        rng = self.rng
        angle += 0.0 if rng.random() < 0.5 else np.pi / 2
        s_N = self.y_N[cells_N] * np.cos(angle) - self.x_N[cells_N] * np.sin(angle)
        width = np.clip(median_ha * 10_000 / rng.uniform(90, 250), 12, 120)
        widths = np.maximum(width * rng.lognormal(0, 0.5, size=200), 9)
        edges = np.cumsum(widths) + s_N.min() - width / 2
        strip_N = np.searchsorted(edges, s_N)
        margin = rng.uniform(1, 3) if rng.random() < self.borders[1] else 0.0
        border_N = s_N - np.append(-np.inf, edges)[strip_N] < margin
        self.stock(cells_N[border_N], Material.GRASS)
        for strip in np.unique(strip_N):
            self._field(cells_N[(strip_N == strip) & ~border_N], angle, self._crop(favourite))

    def _pivot(self, cells_N: np.ndarray, angle: float) -> np.ndarray:
        """Put a circular field, irrigated from its middle, into a piece; return the rest."""
        axes = self.axes(cells_N, angle)
        u_N, v_N = axes.along_N - axes.along_N.mean(), axes.across_N - axes.across_N.mean()
        radius = 0.5 * np.ptp(v_N) * self.rng.uniform(0.7, 0.98)
        inside = np.hypot(u_N, v_N) < radius
        crop = self._crop(int(self.crop_ids[0]))
        if self.rng.random() < 0.4:  # two crops, or two days of sowing, in one circle
            half = v_N > u_N * self.rng.normal()
            self._field(cells_N[inside & half], angle, crop)
            crop = self._crop(crop)
            inside_rest = inside & ~half
        else:
            inside_rest = inside
        self._field(cells_N[inside_rest], angle, crop)
        rest_N: np.ndarray = cells_N[~inside]
        return rest_N

    def _field(self, cells_N: np.ndarray, angle: float, crop: int) -> None:
        """Make one field, or two that share a crop; now and then a yard, trees or idle grass."""
        rng, land = self.rng, self.style.land
        hectares = cells_N.size / HECTARE_CELLS
        if hectares < 0.05:
            self.stock(cells_N, Material.GRASS)
            return
        other = rng.random()
        if other < 0.06 and 0.1 < hectares < 1.2:
            kind = rng.choice(["farmyards", "paddocks", "greenhouses", "idle", "idle", "rough"])
            if kind in land or kind in ("idle", "rough"):
                self.open_piece(str(kind), cells_N, angle)
                return
        self.parcels += 1
        angle += np.pi / 2 * (rng.random() < 0.2)
        parts = [cells_N]
        while rng.random() < 0.2 and parts[-1].size > 1.6 * self.median_ha * HECTARE_CELLS:
            parts += self.cut(parts.pop(), angle + np.pi / 2 * rng.integers(2)).halves
        for part_N in parts:
            self.labels += self.style.drawn or part_N is parts[0]
            label, field = self.labels, len(self.material) + 1
            staged = "staged" in self.style.growth and rng.random() < 0.12
            pieces = self.cut(part_N, angle).halves if staged else (part_N,)
            for piece_N in pieces:
                self.unit(piece_N, crop, self.parcels, angle, label=label, field=field)
        if "ponds" in land and crop == MEADOW and rng.random() < 0.12:
            self.pond(cells_N)

    def finish(self) -> None:
        """Give woods an edge of bushes and of trees that stand alone."""
        wood_YX = np.isin(
            np.array(self.material)[self.unit_N], (Material.BROADLEAF, Material.CONIFER)
        ).reshape(self.shape)
        deep_YX = ndimage.binary_erosion(wood_YX, iterations=2, border_value=1)
        large_YX = ndimage.binary_dilation(deep_YX, iterations=3) & wood_YX & ~deep_YX
        edge_N = np.flatnonzero(large_YX.ravel() & (self.speckle_N > self.rng.uniform(-0.5, 1.5)))
        self.mixed(edge_N, [Material.HEDGE, Material.SCRUB], [2, 1])


assert CELL_M < 4  # houses and roads are drawn in cells
