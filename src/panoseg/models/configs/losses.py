"""Options of the losses, without torch, so that ``--help`` stays quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from panoseg.errors import ConfigError


@dataclass(frozen=True)
class PapsLossConfig:
    """The panoptic loss: a weighted sum of five parts.

    Four are published; the fifth teaches the backbone classes directly.
    """

    centre_weight: float = 1.0
    """Weight of the heat map's loss."""
    size_weight: float = 1.0
    """Weight of the relative error of heights and widths."""
    shape_weight: float = 1.0
    """Weight of the masks' loss."""
    class_weight: float = 1.0
    """Weight of the classification loss."""
    pixel_weight: float = 0.0
    """Weight of the cross-entropy of every pixel's class, by the semantic head of the backbone; 0,
    as published, leaves that head untrained. Parcels alone teach classes slowly: a patch has fifty
    of them, and thousands of pixels.
    """
    alpha: float = 0.0
    """Heat map: exponent that weighs pixels by how wrong they are."""
    beta: float = 4.0
    """Heat map: exponent that spares pixels near a true centre."""
    gamma: float = 0.0
    """Classification: focal exponent; 0 is cross-entropy."""
    shape: Literal["published", "cross_entropy"] = "published"
    """Masks: the published loss, a softmax of probabilities that stays between 0.31 and 1.31, or
    plain cross-entropy.
    """
    mask_threshold: float = 0.4
    """Probability above which a pixel counts in the reported IoU."""
    every_centre: bool = False
    """Every local maximum of the heat learns the parcel of its zone, not only the hottest pixel of
    each zone.
    """


@dataclass(frozen=True)
class SemanticLossConfig:
    """The loss of each pixel's class, and of the boundaries between classes.

    The boundaries count only where the network scores them.
    """

    kind: Literal["cross_entropy", "focal", "recall"] = "cross_entropy"
    """Cross-entropy of pixels; focal weighs each by how wrong it is, recall weighs each class by
    the share that is missed.
    """
    gamma: float = 2.0
    """Focal: exponent that spares pixels which are almost right; 0 is cross-entropy."""
    class_weights: tuple[float, ...] = ()
    """A weight for each class of the table, from class 0; none: all alike. The loss is the mean by
    weight.
    """
    smoothing: float = 0.0
    """Label smoothing: share of a pixel that is spread over all classes; 0 is none. Cross-entropy
    only.
    """
    smoothing_by: Literal["class", "neighbours"] = "class"
    """What keeps the rest of a smoothed pixel: its class, or in equal parts all classes that it or
    a pixel beside it has.
    """
    background_share: float = 0.0
    """Smoothing by neighbours: what a background pixel keeps, as it may hold crops that nobody
    declared; the rest goes to the other classes. Crop2Seg has 0.6. 0 treats background like a crop.
    """
    class_shares: tuple[float, ...] = ()
    """How that rest is divided over the classes other than background, by any positive numbers;
    none: in equal parts.
    """
    void: Literal["left_out", "published"] = "left_out"
    """Pixels of the void class: left out of everything, or as in Crop2Seg, whose class weight of 0
    leaves them to teach what smoothing spreads over the others, and counts them in the mean of
    recall and of smoothing by neighbours.
    """
    boundary_weight: float = 1.0
    """Weight of the boundary's focal loss, for a network that scores boundaries."""
    boundary_gamma: float = 2.0
    """Exponent of the boundary's focal loss."""

    def __post_init__(self) -> None:
        for name in ("gamma", "smoothing", "background_share", "boundary_weight", "boundary_gamma"):
            value, limit = (
                getattr(self, name),
                1 if name in ("smoothing", "background_share") else math.inf,
            )
            _expect_loss(
                0 <= value < limit,
                f"{name} {value}",
                f"a number from 0{f' up to {limit}' if limit == 1 else ''}",
            )
        _expect_loss(
            all(0 <= weight < math.inf for weight in self.class_weights),
            f"class_weights {self.class_weights}",
            "from 0",
        )
        _expect_loss(
            all(0 < share < math.inf for share in self.class_shares),
            f"class_shares {self.class_shares}",
            "above 0",
        )
        for name, needs, holds in (
            ("smoothing", "kind cross_entropy", self.kind == "cross_entropy"),
            ("smoothing_by", "smoothing", self.smoothing > 0),
            ("background_share", "smoothing_by neighbours", self.smoothing_by == "neighbours"),
            ("class_shares", "background_share", self.background_share > 0),
            ("gamma", "kind focal", self.kind == "focal"),
        ):
            default = type(self).__dataclass_fields__[name].default
            _expect_loss(holds or getattr(self, name) == default, f"{name} without {needs}", needs)

    @property
    def changes_boundary(self) -> bool:
        """Whether the boundary's loss is another than by default."""
        return (self.boundary_weight, self.boundary_gamma) != (1.0, 2.0)


def _expect_loss(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise ConfigError(f"semantic_loss: {found}", expected, "change the options of the loss")
