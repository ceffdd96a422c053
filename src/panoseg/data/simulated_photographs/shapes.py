"""The outlines of things, as signed distances from them.

Coordinates are those of the object: across (u) and down (v), about 1 at its outline. Shape suffixes: H W pixels.
"""

from __future__ import annotations

import numpy as np

from panoseg.data.simulated_photographs.classes import BALL, CRATE, KITE, LEAF, RING, STAR

_POINTS = 5


def distance(class_id: int, u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    """Signed distance from the outline of a thing, negative inside, in units of its size; near the outline it is right.

    >>> distance(BALL, np.array([[0.0, 1.0, 3.0]]), np.zeros((1, 3)))
    array([[-1.,  0.,  2.]])
    """
    return _SHAPES[class_id](u_HW, v_HW)


def _ball(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    return np.hypot(u_HW, v_HW) - 1


def _crate(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u_HW), np.abs(v_HW)) - 0.85


def _star(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    # The distance from the line between a point and the notch beside it, all points folded onto one.
    angle_HW = np.abs((np.arctan2(u_HW, -v_HW) * _POINTS / (2 * np.pi) + 0.5) % 1 - 0.5) * 2 * np.pi / _POINTS
    radius_HW = np.hypot(u_HW, v_HW)
    across_HW, along_HW = radius_HW * np.sin(angle_HW), radius_HW * np.cos(angle_HW)
    point, notch = np.array([0.0, 1.15]), 0.55 * np.array([np.sin(np.pi / _POINTS), np.cos(np.pi / _POINTS)])
    edge = (notch - point) / np.hypot(*(notch - point))
    return (along_HW - point[1]) * edge[0] - (across_HW - point[0]) * edge[1]


def _leaf(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    # What two circles share.
    return np.maximum(np.hypot(u_HW, v_HW + 1.0), np.hypot(u_HW, v_HW - 1.0)) - 1.55


def _ring(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u_HW, v_HW) - 0.78) - 0.27


def _kite(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    down_HW = np.where(v_HW < -0.3, (-0.3 - v_HW) / 0.7, (v_HW + 0.3) / 1.5)
    return (np.abs(u_HW) / 0.75 + down_HW - 1) * 0.55


_SHAPES = {BALL: _ball, CRATE: _crate, STAR: _star, LEAF: _leaf, RING: _ring, KITE: _kite}
