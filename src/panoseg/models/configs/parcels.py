"""Options of the heads that find parcels, PaPs and fields, and of the backbone of composites."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, get_args

from panoseg.imagery.sentinel2 import REFERENCE_DATE
from panoseg.models.configs.base import (
    NORM_GROUPS,
    NetworkConfig,
    expect,
    expect_date,
    expect_levels,
    expect_share,
    expect_size,
    expect_sizes,
)
from panoseg.models.configs.season import (
    ConvRnnConfig,
    FpnConfig,
    NaiveUnetConfig,
    SeasonConfig,
    TimeUnetConfig,
    UConvLstmConfig,
    UNet3dConfig,
    UtaeConfig,
    WtaeConfig,
)

FEWEST_BANDS = 3
"""How many bands training with ``band_dropout`` leaves at least."""


@dataclass(frozen=True)
class CompositesConfig(SeasonConfig):
    """Composites: a U-Net on a few composites of the season, several times as fast as attention."""

    name: ClassVar[str] = "composites"
    title: ClassVar[str] = "composites"
    network: ClassVar[str] = "panoseg.models.utae:Composites"

    bands: int = 10
    """Number of channels of an image; follows from the data."""
    classes: int = 20
    """Number of classes; follows from the class table."""
    composites: int = 12
    """Number of composites, evenly spread over the season."""
    first_day: int = 0
    """First day of the composites, counted from the reference date."""
    last_day: int = 425
    """Last day of the composites; the default is the end of October of the next year."""
    encoder_widths: tuple[int, ...] = (48, 64, 96, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 64, 96, 128)
    """Channels of the decoder, finest level first; the last must equal the last of the encoder."""
    band_dropout: float = 0.0
    """Probability in training that a season lacks some of its bands; at least three stay."""
    reference_date: str = REFERENCE_DATE
    """Days are counted from this date, YYYY-MM-DD; follows from the data."""

    def __post_init__(self) -> None:
        expect_sizes(self, leave_out=("first_day",))
        expect_levels(self.encoder_widths, self.decoder_widths)
        expect_share(self, "band_dropout")
        expect(
            self.first_day < self.last_day,
            f"last_day must be after first_day, {self.first_day}, not {self.last_day}.",
        )
        expect(
            all(width % NORM_GROUPS == 0 for width in self.encoder_widths),
            f"encoder_widths must be multiples of {NORM_GROUPS}, not {self.encoder_widths}.",
        )
        expect_date("reference_date", self.reference_date)

    @property
    def fewest_bands(self) -> int | None:  # type: ignore[override]
        """How many bands a season must have: a few if training dropped bands, or else all."""
        return min(FEWEST_BANDS, self.bands) if self.band_dropout else None

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.decoder_widths

    @property
    def stride(self) -> int:
        """Stride of the coarsest map, in pixels of the image."""
        return 1 << (len(self.encoder_widths) - 1)


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
