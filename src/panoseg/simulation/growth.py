"""What the growth of all plants is made of: the cover of land, the climate, curves over days.

Shape suffixes: T days, U units; ``day_T1`` is a column of days, so that it combines with one value
a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NEVER = 10_000.0
"""A day that does not come."""


@dataclass
class Cover:
    """The state of each unit on each day; float32, T x U."""

    leaf: np.ndarray
    """Green leaf area index (LAI)."""
    brown: np.ndarray
    """Share of ground under dead standing plants, 0..1."""
    litter: np.ndarray
    """Share of bare ground under straw, 0..1."""
    flower: np.ndarray
    """Share of the canopy in flower, 0..1."""
    tilth: np.ndarray
    """Brightness of the soil's surface, 1 for a settled one."""

    @classmethod
    def bare(cls, days: int, units: int) -> Cover:
        """Return settled bare soil on all days."""
        leaf, brown, litter, flower = (np.zeros((days, units), np.float32) for _ in range(4))
        return cls(leaf, brown, litter, flower, tilth=np.ones((days, units), np.float32))


@dataclass(frozen=True)
class Climate:
    """The climate of one season."""

    delay: float
    """Days by which the season lags behind the average."""
    drought: float
    """0 for a wet summer to 1 for a dry one."""


Growth = Callable[[np.ndarray], Cover]
"""Gives the cover of a group of units on a column of days."""
Addition = Callable[[np.ndarray, Cover], None]
"""Adds to a cover what belongs to a column of days."""


def rising(
    day_T1: np.ndarray, middle_U: np.ndarray | float, width_U: np.ndarray | float
) -> np.ndarray:
    """Return a logistic curve from 0 to 1, one half on the day ``middle_U``."""
    share: np.ndarray = 1 / (1 + np.exp(-np.clip((day_T1 - middle_U) / width_U, -30, 30)))
    return share


def bump(
    day_T1: np.ndarray, middle_U: np.ndarray | float, width_U: np.ndarray | float
) -> np.ndarray:
    """Return a bell curve of height 1 on the day ``middle_U``."""
    return np.exp(-0.5 * np.square((day_T1 - middle_U) / width_U))


def between(
    day_T1: np.ndarray, start_U: np.ndarray | float, end_U: np.ndarray | float
) -> np.ndarray:
    """Return True from ``start_U`` until before ``end_U``."""
    return (day_T1 >= start_U) & (day_T1 < end_U)
