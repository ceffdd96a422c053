"""Coordinate systems of the pages: degrees, Web Mercator, and the way from one to another."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
import shapely
from pyproj import Transformer

DEGREES = "EPSG:4326"
MERCATOR = "EPSG:3857"
Outlines = TypeVar("Outlines")


@lru_cache(64)
def transformer(source: str, target: str) -> Transformer:
    """From one coordinate system to another, x before y; making one takes longer than a tile."""
    return Transformer.from_crs(source, target, always_xy=True)


def moved(outlines: Outlines, source: str, target: str) -> Outlines:
    """Outlines (one, or an array of them) from one coordinate system to another."""
    way = transformer(source, target)
    return shapely.transform(outlines, lambda xy_N2: np.column_stack(way.transform(*xy_N2.T)))  # type: ignore[call-overload]
