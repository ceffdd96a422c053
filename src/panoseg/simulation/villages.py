"""Draw what people build: villages with streets, houses and gardens, farmyards, parks, grounds.

None of it is a field. A village is cut by streets; a block between streets holds lots in two rows,
each with a house near the street and a garden behind it. Shape suffixes: N cells of a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from panoseg.simulation.draws import Style, smooth_noise
from panoseg.simulation.landscape import CELL_M, HECTARE_CELLS, Plan
from panoseg.simulation.options import Material, Region, SimulationOptions

_STOCK = 7
"""Units of each material outside fields, which differ in colour and growth."""
_ROOFS = (Material.ROOF_RED, Material.ROOF_GREY, Material.ROOF_DARK, Material.ROOF_WHITE)
_GROUNDS = (Material.LAWN, Material.GARDEN, Material.GRASS, Material.YARD, Material.GRAVEL)


class Settlement(Plan):
    """A plane with what people build; ``Countryside`` says where."""

    def __init__(
        self,
        size: tuple[int, int],
        region: Region,
        style: Style,
        options: SimulationOptions,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(size, region, options, rng)
        self.style = style
        self._stocked: dict[tuple[int, bool], np.ndarray] = {}
        # Borders of fields are straighter than the bends that roads and blocks may have.
        bend = np.float32(rng.beta(1, 1.8) - 1)
        y_YX, x_YX = self.y_N.reshape(self.shape), self.x_N.reshape(self.shape)
        y_YX += bend * (y_YX - np.arange(self.shape[0], dtype=np.float32)[:, None] * CELL_M)
        x_YX += bend * (x_YX - np.arange(self.shape[1], dtype=np.float32) * CELL_M)
        # What is usual in this place: red or dark roofs, lawns or vegetable gardens.
        self.roofs = rng.dirichlet(np.array([3, 3, 2.2, 0.25]))
        self.gardens = rng.dirichlet(np.array([4, 4, 2, 0.7, 0.15]))
        self.trees = rng.uniform(0.05, 0.4)
        self.lot_m = rng.lognormal(np.log(19), 0.25)

    @cached_property
    def speckle_N(self) -> np.ndarray:
        """Noise as fine as the crown of a tree, unit deviation, for each cell."""
        return smooth_noise(self.rng, self.shape, 2.2).ravel()

    @cached_property
    def patches_N(self) -> np.ndarray:
        """Noise as coarse as groups of trees, unit deviation, for each cell."""
        return smooth_noise(self.rng, self.shape, 7.0).ravel()

    def units_of(self, material: int) -> np.ndarray:
        """Return the numbers of the units of a material in stock."""
        key = int(material), self.among_houses
        if key not in self._stocked:
            self._stocked[key] = np.arange(len(self.material), len(self.material) + _STOCK)
            for _ in range(_STOCK):
                self.unit(self.unit_N[:0], material, stock=True)
        return self._stocked[key]

    def stock(self, cells_N: np.ndarray, material: int) -> None:
        """Cover cells with one unit of a material in stock."""
        self.unit_N[cells_N] = self.rng.choice(self.units_of(material))

    def mixed(
        self, cells_N: np.ndarray, materials: Sequence[int], weights: Sequence[float] | np.ndarray
    ) -> None:
        """Cover cells with a mixture of materials, as fine as crowns of trees."""
        if not cells_N.size:
            return
        share = np.cumsum(np.array(weights, float) / sum(weights))
        level = np.quantile(self.speckle_N[cells_N], share[:-1]) if cells_N.size > 3 else []
        kind_N = np.searchsorted(level, self.speckle_N[cells_N])
        units = [self.rng.choice(self.units_of(material)) for material in materials]
        self.unit_N[cells_N] = np.array(units)[kind_N]

    def rough(self, cells_N: np.ndarray, trees: float) -> None:
        """Cover cells with rough grass, bushes and trees.

        Args:
            cells_N: The cells.
            trees: Share of trees and bushes, 0..1.
        """
        if not cells_N.size:
            return
        noise_N = self.speckle_N[cells_N] + self.patches_N[cells_N]
        self.stock(cells_N, Material.GRASS)
        level = np.quantile(noise_N, [max(0.0, 1 - 1.5 * trees), 1 - trees, 1 - 0.6 * trees])
        for low, kind in zip(
            level, (Material.SCRUB, Material.HEDGE, Material.BROADLEAF), strict=True
        ):
            if trees > 0.01:
                self.stock(cells_N[noise_N >= low], kind)

    def houses(self, cells_N: np.ndarray, angle: float) -> None:
        """Fill a piece of a village: streets, rows of lots, and grounds between them."""
        rng = self.rng
        self.among_houses = True
        nodes = [(cells_N, angle)]
        while nodes:
            cells_N, angle = nodes.pop()
            if cells_N.size > HECTARE_CELLS * rng.lognormal(np.log(0.9), 0.4):
                street = rng.uniform(4, 8) if cells_N.size > 0.6 * HECTARE_CELLS else 0.0
                cut = self.cut(cells_N, angle + rng.normal(0, 0.08), street)
                self.stock(cut.border_N, Material.ASPHALT)
                nodes += [(half_N, angle) for half_N in cut.halves]
            elif rng.random() < 0.78:
                x_N, y_N = self.x_N[cells_N], self.y_N[cells_N]
                u_N = x_N * np.cos(angle) + y_N * np.sin(angle)
                v_N = y_N * np.cos(angle) - x_N * np.sin(angle)
                if np.ptp(u_N) < np.ptp(v_N):
                    u_N, v_N = v_N, u_N
                v_N = v_N - v_N.min()
                side_N = v_N - v_N.max() / 2
                self.lots(cells_N, u_N, v_N.max() / 2 - np.abs(side_N), side_N)
            else:
                kinds = ["park", "sport", "industry", "yard", "paddocks", "allotments"]
                weights = np.array([3, 1.5, 2, 2, 2, 1.5])
                weights[4:] *= ["paddocks" in self.style.land, "allotments" in self.style.land]
                self.grounds(str(rng.choice(kinds, p=weights / weights.sum())), cells_N, angle)
        self.among_houses = False

    def lots(
        self, cells_N: np.ndarray, along_N: np.ndarray, depth_N: np.ndarray, side_N: np.ndarray
    ) -> None:
        """Fill rows of lots: a house near the street, a drive, a garden, trees, a hedge.

        Args:
            cells_N: The cells.
            along_N: Metres along the street.
            depth_N: Metres from the street.
            side_N: Below and above 0 on the two sides.
        """
        if cells_N.size < 12:
            self.stock(cells_N, Material.GRASS)
            return
        rng, outside = self.rng, self.among_houses
        self.among_houses = True
        along_N = along_N - along_N.min()
        widths = np.maximum(self.lot_m * rng.lognormal(0, 0.4, int(along_N.max() / 8) + 2), 8)
        edges = np.cumsum(widths)
        lot_N = np.searchsorted(edges, along_N)
        within_N = along_N - (edges - widths)[lot_N]
        lot_N = lot_N * 2 + (side_N > 0)
        lots = 2 * widths.size
        width_N = np.repeat(widths, 2)[lot_N]
        set_back_L, long_L = rng.gamma(2, 3, lots), rng.uniform(7, 15, lots)
        gap_L, built_L = rng.uniform(0, 5, lots), rng.random(lots) < rng.uniform(0.6, 1.0)
        ground_L, roof_L = (
            self._drawn(_GROUNDS, self.gardens, lots),
            self._drawn(_ROOFS, self.roofs, lots),
        )
        front_L = self._drawn(_GROUNDS, np.roll(self.gardens, 3), lots)
        unit_N = ground_L[lot_N]
        front_N = depth_N < set_back_L[lot_N]
        unit_N[front_N] = front_L[lot_N][front_N]
        speckle_N = self.speckle_N[cells_N]
        tall_N = speckle_N > (1.6 - 2.5 * self.trees * rng.uniform(0, 2, lots))[lot_N]
        unit_N[tall_N] = rng.choice(self.units_of(Material.BROADLEAF))
        hedge_N = (within_N < CELL_M / 2) & (rng.random(lots) < 0.35)[lot_N]
        unit_N[hedge_N] = rng.choice(self.units_of(Material.HEDGE))
        behind_N = depth_N - set_back_L[lot_N]
        house_N = (behind_N >= 0) & (behind_N < long_L[lot_N]) & built_L[lot_N]
        house_N &= (within_N > gap_L[lot_N]) & (within_N < width_N - gap_L[lot_N])
        shed_N = (behind_N > 22) & (behind_N < 27) & (within_N < 6) & (lot_N % 5 < 2)
        house_N |= shed_N & built_L[lot_N]
        unit_N[house_N] = roof_L[lot_N][house_N]
        self.unit_N[cells_N] = unit_N
        self.among_houses = outside

    def _drawn(self, materials: Sequence[int], weights: np.ndarray, count: int) -> np.ndarray:
        """Draw units in stock of several materials."""
        kind = self.rng.choice(len(materials), count, p=weights)
        table = np.stack([self.units_of(material) for material in materials])
        drawn: np.ndarray = table[kind, self.rng.integers(_STOCK, size=count)]
        return drawn

    def grounds(self, kind: str, cells_N: np.ndarray, angle: float) -> None:
        """Fill a piece with one of the kinds of land that are neither fields nor houses."""
        if not cells_N.size:
            return
        rng, outside = self.rng, self.among_houses
        self.among_houses = True
        x_N, y_N = self.x_N[cells_N], self.y_N[cells_N]
        u_N = x_N * np.cos(angle) + y_N * np.sin(angle)
        v_N = y_N * np.cos(angle) - x_N * np.sin(angle)
        if kind == "park":
            self.mixed(
                cells_N,
                [Material.LAWN, Material.GRASS, Material.HEDGE, Material.BROADLEAF],
                rng.gamma([4, 2, 0.7, 2.5]) + 0.05,
            )
        elif kind == "sport":
            self.stock(cells_N, Material.LAWN)
            edge_N = np.minimum(u_N - u_N.min(), v_N - v_N.min()) < rng.uniform(3, 8)
            self.mixed(
                cells_N[edge_N], [Material.GRAVEL, Material.HEDGE, Material.GRASS], [1, 1, 1]
            )
        elif kind in ("farmyards", "industry", "yard"):
            self._yard(kind, cells_N, u_N, v_N)
        elif kind == "pit":
            self.mixed(cells_N, [Material.GRAVEL, Material.YARD, Material.GRASS], [3, 2, 1])
            self.pond(cells_N)
        elif kind == "ponds":
            self.rough(cells_N, rng.uniform(0.1, 0.6))
            self.pond(cells_N)
        elif kind == "solar-parks":
            self._rows(cells_N, v_N, (Material.PANEL, Material.GRASS), rng.uniform(6, 12))
        elif kind == "greenhouses":
            self._rows(cells_N, v_N, (Material.GLASS, Material.YARD), rng.uniform(25, 60), 0.88)
        elif kind == "allotments":
            plot_N = (u_N // rng.uniform(7, 14) * 31 + v_N // rng.uniform(12, 25) * 17).astype(int)
            kinds = [Material.GARDEN, Material.LAWN, Material.YARD, Material.ROOF_DARK]
            table = self._drawn([*kinds, Material.HEDGE], np.array([0.5, 0.2, 0.1, 0.1, 0.1]), 97)
            self.unit_N[cells_N] = table[plot_N % 97]
        elif kind == "paddocks":
            self._paddocks(cells_N, u_N, v_N)
        self.among_houses = outside

    def _rows(
        self,
        cells_N: np.ndarray,
        v_N: np.ndarray,
        materials: tuple[int, int],
        period: float,
        share: float = 0.55,
    ) -> None:
        """Cover cells with rows of one material over another, with an edge of grass."""
        self.stock(cells_N, materials[1])
        row_N = v_N % period < share * period
        self.stock(cells_N[row_N], materials[0])
        edge_N = v_N - v_N.min() < self.rng.uniform(2, 8)
        self.stock(cells_N[edge_N], Material.GRASS)

    def _yard(self, kind: str, cells_N: np.ndarray, u_N: np.ndarray, v_N: np.ndarray) -> None:
        """Cover cells with large roofs in a yard; a farm has trees, grass and heaps around it."""
        rng = self.rng
        farm = kind == "farmyards"
        weights = [3, 0.5, 2, 2, 1.2] if farm else [4, 0.7, 1, 0.7, 2.5]
        around = [Material.YARD, Material.GRAVEL, Material.GRASS, Material.BROADLEAF]
        self.mixed(cells_N, [*around, Material.ASPHALT], rng.gamma(weights) + 0.05)
        roofs = int(np.clip(cells_N.size / HECTARE_CELLS * rng.uniform(3, 7), 1, 14))
        for _ in range(roofs):
            at = int(rng.integers(cells_N.size))
            half = rng.uniform([8, 4], [28, 11] if farm else [40, 25])
            half = half[:: rng.choice([1, -1])]
            inside_N = (np.abs(u_N - u_N[at]) < half[0]) & (np.abs(v_N - v_N[at]) < half[1])
            roof = rng.choice([*_ROOFS, Material.ROOF_GREY, Material.ROOF_GREY, Material.GRAVEL])
            self.stock(cells_N[inside_N], int(roof))

    def _paddocks(self, cells_N: np.ndarray, u_N: np.ndarray, v_N: np.ndarray) -> None:
        """Cover cells with small meadows for horses, with fences or hedges between them."""
        rng = self.rng
        wide, deep = rng.uniform(20, 60, 2)
        plot_N = (u_N // wide * 31 + v_N // deep * 17).astype(int)
        table = self._drawn(
            [Material.GRASS, Material.LAWN, Material.FALLOW], np.array([0.6, 0.3, 0.1]), 97
        )
        self.unit_N[cells_N] = table[plot_N % 97]
        fence_N = np.minimum(u_N % wide, v_N % deep) < 1.4 * CELL_M
        self.rough(cells_N[fence_N], rng.uniform(0.2, 1.0))

    def pond(self, cells_N: np.ndarray) -> None:
        """Put a pond with bushes around it into a piece."""
        rng = self.rng
        if not cells_N.size:
            return
        middle = rng.choice(cells_N)
        away_N = np.hypot(
            self.x_N[cells_N] - self.x_N[middle], self.y_N[cells_N] - self.y_N[middle]
        )
        away_N = away_N * (1 + 0.2 * self.patches_N[cells_N])
        radius = rng.uniform(6, 0.4 * (cells_N.size * CELL_M**2) ** 0.5 + 7)
        self.rough(cells_N[away_N < radius + rng.uniform(0, 8)], 0.7)
        self.stock(cells_N[away_N < radius], Material.WATER)
