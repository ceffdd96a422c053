"""What a report says of the parcels of a map of any size: sums, and the few parcels that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd

MOST_OUTLINES = 6000
_EXAMPLES_A_CLASS = 6
_MOST_DOUBTS = 6


@dataclass(frozen=True)
class ClassSummary:
    """The parcels of a class: ``name``, their number, hectares, and mean confidence."""

    name: str
    count: int
    area_ha: float
    confidence: float


@dataclass(frozen=True)
class Doubt:
    """Two classes that the network finds hard to tell apart.

    area_ha: of parcels of the class ``name`` whose likeliest other class is ``second``, each times the probability of that: the
    hectares that are of ``second``, if the probabilities are right.
    """

    name: str
    second: str
    area_ha: float


@dataclass(frozen=True, eq=False)
class ParcelSummary:
    """The parcels of a map.

    count, area_ha, confidence (the mean, None without parcels). classes: those that occur, the one with the most land first.
    doubts: the pairs of classes with most hectares in doubt, at most 6. largest: the largest parcels, at most 6000, all of a
    small map. examples: the largest of each class.
    """

    count: int
    area_ha: float
    confidence: float | None
    classes: tuple[ClassSummary, ...]
    doubts: tuple[Doubt, ...]
    largest: gpd.GeoDataFrame
    examples: gpd.GeoDataFrame

    @property
    def complete(self) -> bool:
        """Whether ``largest`` holds every parcel."""
        return len(self.largest) == self.count

    def chosen(self, count: int) -> gpd.GeoDataFrame:
        """The largest parcel of each of the classes with the most land; then the next largest. At most ``count``."""
        by_size = self.examples.sort_values("area_ha", ascending=False, kind="stable")
        first = by_size.drop_duplicates("class").set_index("class", drop=False)
        names = [row.name for row in self.classes[:count]]
        others = by_size[~by_size["id"].isin(first.loc[names, "id"])]
        return pd.concat(
            [first.loc[names].reset_index(drop=True), others.iloc[: max(count - len(names), 0)]], ignore_index=True
        )


def summarise(parts: Iterable[gpd.GeoDataFrame]) -> ParcelSummary:
    """Sum up parcels that come part by part, at least one part; none is kept whole."""
    sums: list[pd.DataFrame] = []
    doubts: list[pd.DataFrame] = []
    largest: list[gpd.GeoDataFrame] = []
    examples: list[gpd.GeoDataFrame] = []
    for part in parts:
        confidence = part["confidence"].astype(np.float64)
        sums.append(pd.DataFrame({"class": part["class"], "count": 1, "area_ha": part["area_ha"], "confidence": confidence}))
        sums = [pd.concat(sums).groupby("class", as_index=False).sum()]
        doubt = part[["class", "second_class"]].assign(area_ha=part["area_ha"] * part["second_probability"])
        doubts = [pd.concat([*doubts, doubt]).groupby(["class", "second_class"], as_index=False).sum()]
        largest = [_largest([*largest, part], MOST_OUTLINES)]
        examples = [_largest([*examples, part], _EXAMPLES_A_CLASS, "class")]
        del part, confidence, doubt  # before the next one is read
    table = sums[0].sort_values("area_ha", ascending=False, kind="stable")
    rows = zip(table["class"], table["count"], table["area_ha"], table["confidence"], strict=True)
    classes = tuple(ClassSummary(name, int(count), float(area), float(total / count)) for name, count, area, total in rows)
    count = sum(row.count for row in classes)
    confidence = float(table["confidence"].sum() / count) if count else None
    area_ha = float(table["area_ha"].sum())
    return ParcelSummary(count, area_ha, confidence, classes, _most(doubts[0]), largest[0], examples[0])


def _most(doubts: pd.DataFrame) -> tuple[Doubt, ...]:
    """The pairs of classes with most hectares in doubt."""
    rows = doubts.sort_values("area_ha", ascending=False, kind="stable").head(_MOST_DOUBTS)
    columns = (rows["class"], rows["second_class"], rows["area_ha"])
    return tuple(Doubt(name, second, float(area)) for name, second, area in zip(*columns, strict=True))


def _largest(parts: Sequence[gpd.GeoDataFrame], count: int, of_each: str | None = None) -> gpd.GeoDataFrame:
    """The largest parcels of all parts, or of each value of a column, the largest first."""
    table = pd.concat(parts, ignore_index=True).sort_values("area_ha", ascending=False, kind="stable")
    return (table.head(count) if of_each is None else table.groupby(of_each).head(count)).reset_index(drop=True)
