"""Options of the head that draws fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, get_args

from panoseg.models.configs.base import expect, expect_share
from panoseg.models.configs.composites import CompositesConfig
from panoseg.models.configs.paps import BackboneConfig, HeadConfig


@dataclass(frozen=True)
class FieldsConfig(HeadConfig):
    """Fields: extent, boundaries and distances of fields, from which regions are drawn.

    Its head works on the maps of a backbone.
    """

    name: ClassVar[str] = "fields"
    network: ClassVar[str] = "panoseg.models.fields:Fields"
    train_options = frozenset({"data", "tune_threshold"})

    backbone: BackboneConfig = field(default_factory=CompositesConfig)
    """The network that computes the maps; its ``classes`` are those of the fields."""
    extent_threshold: float = 0.5
    """Probability from which a pixel belongs to a field; training tunes it on the validation fold.
    """
    merge_threshold: float = 0.4
    """Mean probability of a boundary below which the regions on its two sides are one field;
    training tunes it on the validation fold.
    """
    min_pixels: int = 8
    """Smaller fields are left out."""

    confidence: tuple[float, ...] = ()
    """Weights of the logistic regression that gives a field its confidence, see
    ``panoseg.models.fields.Fields``; training fits them on the validation fold. Empty: the
    confidence is the mean extent inside.
    """

    def __post_init__(self) -> None:
        names = ", ".join(kind.name for kind in get_args(BackboneConfig))
        expect(
            isinstance(self.backbone, BackboneConfig),
            f"backbone must be one of {names}, not {self.backbone.name}.",
        )
        expect_share(self, "extent_threshold", "merge_threshold")
        expect(
            len(self.confidence) in (0, 5) and all(map(math.isfinite, self.confidence)),
            f"confidence must be 5 numbers or none, not {self.confidence}.",
        )
        expect(self.min_pixels >= 1, f"min_pixels must be at least 1, not {self.min_pixels}.")

    @property
    def title(self) -> str:
        """The network's name in words."""
        return f"{self.backbone.title} + fields"
