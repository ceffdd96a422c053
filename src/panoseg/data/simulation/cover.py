"""The cover of the land, and the curves by which it changes.

Shape suffixes: T days, U units; ``day_T1`` is a column of days, so that it combines with one value a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

NEVER = 10_000.0
"""A day that does not come."""


@dataclass
class Cover:
    """The state of every unit on every day; float32 [T, U].

    leaf: green leaf area index. brown: share of ground under dead standing plants. litter: share of bare ground under straw.
    flower: share of the canopy in flower. tilth: brightness of the soil's surface, 1 for a settled one.
    """

    leaf: np.ndarray
    brown: np.ndarray
    litter: np.ndarray
    flower: np.ndarray
    tilth: np.ndarray

    @classmethod
    def bare(cls, days: int, units: int) -> Cover:
        """Nothing grows."""
        return cls(*(np.full((days, units), float(field.name == "tilth"), np.float32) for field in fields(cls)))


@dataclass(frozen=True)
class Climate:
    """delay: days by which this season lags. drought: 0 wet to 1 dry summer."""

    delay: float
    drought: float


Growth = Callable[[np.ndarray], Cover]
"""From a column of days to the cover of a group of units."""


def rising(day_T1: np.ndarray, middle_U: np.ndarray | float, width_U: np.ndarray | float) -> np.ndarray:
    """A logistic from 0 to 1, one half on the day ``middle_U``."""
    return 1 / (1 + np.exp(-np.clip((day_T1 - middle_U) / width_U, -30, 30)))


def bump(day_T1: np.ndarray, middle_U: np.ndarray | float, width_U: np.ndarray | float) -> np.ndarray:
    """A bell of height 1 on the day ``middle_U``."""
    return np.exp(-0.5 * np.square((day_T1 - middle_U) / width_U))


def between(day_T1: np.ndarray, start_U: np.ndarray | float, end_U: np.ndarray | float) -> np.ndarray:
    """True from ``start_U`` until before ``end_U``."""
    return (day_T1 >= start_U) & (day_T1 < end_U)
