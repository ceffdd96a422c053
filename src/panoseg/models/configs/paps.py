"""Options of PaPs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, get_args

from panoseg.models.configs.base import NetworkConfig, expect, expect_share, expect_size
from panoseg.models.configs.composites import CompositesConfig
from panoseg.models.configs.season import (
    ConvRnnConfig,
    FpnConfig,
    NaiveUnetConfig,
    TimeUnetConfig,
    UConvLstmConfig,
    UNet3dConfig,
    UtaeConfig,
    WtaeConfig,
)

BackboneConfig = (
    UtaeConfig
    | WtaeConfig
    | TimeUnetConfig
    | NaiveUnetConfig
    | UNet3dConfig
    | UConvLstmConfig
    | FpnConfig
    | ConvRnnConfig
    | CompositesConfig
)
"""Networks that give maps to a head: those whose options have ``map_widths``."""


class HeadConfig(NetworkConfig):
    """What a head on the maps of a backbone declares; the backbone is an option of it."""

    inputs = "season"
    answers = "panoptic"
    scorer = "parcels"
    max_tta = 8
    backbone_prefix = "encoder."
    backbone: BackboneConfig

    def fitted(self, **facts: Any) -> Self:  # noqa: ANN401
        """Return the same options with what follows from the data; it is the backbone's."""
        return replace(self, backbone=self.backbone.fitted(**facts))  # type: ignore[type-var]

    @property
    def reference_date(self) -> str | None:
        """The date from which the backbone counts days; None for one that ignores dates."""
        return getattr(self.backbone, "reference_date", None)

    @property
    def fewest_bands(self) -> int | None:  # type: ignore[override]
        """How many of the bands a season must have."""
        return self.backbone.fewest_bands

    @property
    def bands(self) -> int:
        """Channels of an image."""
        return self.backbone.bands

    @property
    def classes(self) -> int:
        """Scores that a parcel gets."""
        return self.backbone.classes

    @property
    def stride(self) -> int:
        """Stride of the coarsest map, in pixels of the image."""
        return self.backbone.stride


@dataclass(frozen=True)
class PapsConfig(HeadConfig):
    """PaPs: parcels as centre points with a size, a class and a shape.

    Its heads work on the maps of a backbone.
    """

    name: ClassVar[str] = "paps"
    network: ClassVar[str] = "panoseg.models.paps:PaPs"
    loss_option = "loss"
    train_options = frozenset(
        {"data", "loss", "initial_heat", "heatmap_only_epochs", "tune_threshold"}
    )

    backbone: BackboneConfig = field(default_factory=UtaeConfig)
    """The network that computes the maps; its ``classes`` are those of the parcels."""
    shape_size: int = 16
    """Side of the square in which the shape of a parcel is predicted."""
    mask_convolution: bool = True
    """Refine each mask with a small convolutional network."""
    min_confidence: float = 0.2
    """Leave out parcels below this confidence; training tunes it on the validation fold."""
    min_remain: float = 0.5
    """Keep a parcel only if more than this share of its mask is not covered by parcels with a
    higher confidence.
    """
    mask_threshold: float = 0.4
    """Probability above which a pixel belongs to a mask."""
    views_threshold: float = 0.25
    """Test-time augmentation: mean probability above which a pixel belongs to a fused mask; chosen
    on simulated seasons.
    """

    def __post_init__(self) -> None:
        names = ", ".join(kind.name for kind in get_args(BackboneConfig))
        expect(
            isinstance(self.backbone, BackboneConfig),
            f"backbone must be one of {names}, not {self.backbone.name}.",
        )
        expect(self.shape_size >= 1, f"shape_size must be at least 1, not {self.shape_size}.")
        expect_size(
            "The pixels of a shape", f"{self.shape_size} x {self.shape_size}", self.shape_size**2
        )
        expect_share(self, "min_confidence", "min_remain", "mask_threshold", "views_threshold")

    @property
    def title(self) -> str:
        """The network's name in the words of its paper."""
        return f"{self.backbone.title} + PaPs"
