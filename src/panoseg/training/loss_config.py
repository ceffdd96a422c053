"""Options of the losses. No torch in here, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PapsLossConfig:
    """The panoptic loss: a weighted sum of four published parts, and of a fifth that teaches the backbone classes directly."""

    centre_weight: float = 1.0
    """Weight of the heat map's loss."""
    size_weight: float = 1.0
    """Weight of the relative error of heights and widths."""
    shape_weight: float = 1.0
    """Weight of the masks' loss."""
    class_weight: float = 1.0
    """Weight of the classification loss."""
    pixel_weight: float = 0.0
    """Weight of the cross-entropy of every pixel's class, by the semantic head of the backbone; 0, as published, leaves that
    head untrained. Parcels alone teach classes slowly: a patch has fifty of them, and thousands of pixels."""
    alpha: float = 0.0
    """Heat map: exponent that weighs pixels by how wrong they are."""
    beta: float = 4.0
    """Heat map: exponent that spares pixels near a true centre."""
    gamma: float = 0.0
    """Classification: focal exponent; 0 is cross-entropy."""
    shape: Literal["published", "cross_entropy"] = "published"
    """Masks: the published loss, a softmax of probabilities that stays between 0.31 and 1.31, or plain cross-entropy."""
    mask_threshold: float = 0.4
    """Probability above which a pixel counts in the reported IoU."""
