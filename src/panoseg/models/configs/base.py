"""What the configurations of all networks share, and the options of their losses.

There is no torch in it, so that ``--help`` stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from panoseg.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Norm = Literal["group", "batch", "instance"]
Convolution = Literal["2d", "depthwise_separable"]
NORM_GROUPS = 4
"""Groups of channels that a group norm of the encoder standardises together."""
LARGEST_SIZE = 4096
"""The most channels, dates or the like that an option may ask for: far above any network here, far
below a full memory.
"""
MOST_SIZES = 12
"""The most entries of an option that is a list of sizes, for example one per level."""

Inputs = Literal["season", "photograph"]
Answers = Literal["panoptic", "semantic", "instances"]


class NetworkConfig:
    """What every configuration of a network declares; the options are fields of the subclass.

    Subclasses are frozen dataclasses. ``panoseg.models.configs.CONFIGS`` lists them by name.
    """

    name: ClassVar[str]
    """Tag in JSON and on the command line."""
    network: ClassVar[str]
    """Where the module is: "package.module:Class"."""
    inputs: ClassVar[Inputs]
    """What the network reads: satellite image time series, or photographs."""
    answers: ClassVar[Answers]
    """Things and stuff, a class for each pixel, or things alone."""
    scorer: ClassVar[str]
    """How it is scored: a key of ``panoseg.training.scorers.SCORERS``."""
    fewest_bands: ClassVar[int | None] = None
    """How many of its bands a season must have, the others being NaN; None: all of them."""
    max_tta: ClassVar[int] = 1
    """Largest number of test-time augmentations; 1: none are supported."""
    train_options: ClassVar[frozenset[str]]
    """Entries of ``TrainConfig`` that this network uses and some others do not."""
    loss_option: ClassVar[str | None] = None
    """Entry of ``TrainConfig`` with the options of its loss; None: the loss has none there."""
    backbone_prefix: ClassVar[str] = ""
    """Beginning of the names of the backbone's entries, where it is a part of the network."""
    resizes: ClassVar[bool] = False
    """Whether the network resizes photographs itself, from their size on disk."""
    large: ClassVar[bool] = False
    """Whether it may be as large as the file of its numbers, beyond the limit of other networks."""

    def fitted(self, **facts: Any) -> Self:  # noqa: ANN401
        """Return the same options with what follows from the data.

        Args:
            **facts: bands, classes, things, stuff, reference_date, as ``facts_of`` gives them;
                those that the network has no option for are left out.
        """
        known = {entry.name for entry in fields(self)}  # type: ignore[arg-type]
        chosen = {name: value for name, value in facts.items() if name in known}
        return replace(self, **chosen)  # type: ignore[type-var]

    def wider(self) -> Self:
        """Return the same network for one more class of each kind."""
        names = ("classes", "things", "stuff")
        return self.fitted(**{name: 1 + getattr(self, name, 0) for name in names})

    def adjusted(self, thresholds: Mapping[str, float]) -> Self:
        """Return the same options with other thresholds of prediction, as far as it has them.

        Args:
            thresholds: score, mask and overlap 0..1, and stuff_area in pixels; any of them.
        """
        return self


def expect(condition: bool, message: str) -> None:
    """Raise ``ConfigError`` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def expect_share(config: object, *names: str) -> None:
    """Raise ``ConfigError`` unless each of these options is from 0 to 1."""
    for name in names:
        value = getattr(config, name)
        expect(0 <= value <= 1, f"{name} must be from 0 to 1, not {value}.")


def expect_size(name: str, found: object, size: int) -> None:
    """Raise ``ConfigError`` unless the size is from 1 to ``LARGEST_SIZE``.

    Args:
        name: The option.
        found: Its value.
        size: The number to check.
    """
    expect(size >= 1, f"{name} must be at least 1, not {found}.")
    expect(size <= LARGEST_SIZE, f"{name} must be at most {LARGEST_SIZE}, not {found}.")


def expect_sizes(config: DataclassInstance, leave_out: tuple[str, ...] = ()) -> None:
    """Raise ``ConfigError`` unless all whole numbers of a configuration are sizes.

    Lists may not be long either. A file that somebody else wrote may ask for a network that fills
    the memory; it is refused before anything is built.

    Args:
        config: The configuration.
        leave_out: Options that may be 0.
    """
    for option in fields(config):
        if option.name in leave_out:
            continue
        value = getattr(config, option.name)
        sizes = value if isinstance(value, tuple) else (value,)
        expect(
            len(sizes) <= MOST_SIZES,
            f"{option.name} must have at most {MOST_SIZES} entries, not {len(sizes)}.",
        )
        for size in sizes:
            if type(size) is int:
                name = f"Each of {option.name}" if isinstance(value, tuple) else option.name
                expect_size(name, value, size)


def expect_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless the option has one of the allowed values."""
    expect(value in allowed, f"{name} must be one of {', '.join(allowed)}, not {value!r}.")


def expect_date(name: str, value: str) -> None:
    """Raise ``ConfigError`` unless the value is a date."""
    try:
        date.fromisoformat(value)
    except ValueError:
        expect(False, f"{name} must be a date YYYY-MM-DD, not {value!r}.")


def expect_one_kind_of_block(mbconv: bool, squeeze: bool) -> None:
    """Raise ``ConfigError`` for squeeze together with MBConv.

    The published program accepts both and ignores squeeze.
    """
    expect(
        not (mbconv and squeeze),
        "mbconv and squeeze exclude each other: MBConv already has squeeze and excitation.",
    )


def expect_levels(encoder_widths: tuple[int, ...], decoder_widths: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` unless the encoder and the decoder of a U-Net fit together.

    Args:
        encoder_widths: Channels of the encoder's levels, finest first.
        decoder_widths: Channels of the decoder's levels, finest first.
    """
    expect(
        len(encoder_widths) == len(decoder_widths) >= 2,
        "encoder_widths and decoder_widths must have the same number of entries, at least two, not"
        f" {len(encoder_widths)} and {len(decoder_widths)}.",
    )
    expect(
        encoder_widths[-1] == decoder_widths[-1],
        "encoder_widths and decoder_widths must end with the same number, not with"
        f" {encoder_widths[-1]} and {decoder_widths[-1]}.",
    )


@dataclass(frozen=True)
class PapsLossConfig:
    """The panoptic loss: a weighted sum of five parts.

    Four are published; the fifth trains the classes of the backbone directly.
    """

    centre_weight: float = 1.0
    """Weight of the loss of the centre heat map."""
    size_weight: float = 1.0
    """Weight of the size loss, the relative error of heights and widths."""
    shape_weight: float = 1.0
    """Weight of the mask loss."""
    class_weight: float = 1.0
    """Weight of the classification loss."""
    pixel_weight: float = 0.0
    """Weight of the pixel loss: cross-entropy of the class of every pixel, by the semantic head of
    the backbone. 0, as published, leaves that head untrained. With it classes are learned faster,
    because a patch has fifty parcels but thousands of pixels.
    """
    alpha: float = 0.0
    """Heat map: exponent of the error by which each pixel is weighted."""
    beta: float = 4.0
    """Heat map: exponent that reduces the weight of pixels near a true centre."""
    gamma: float = 0.0
    """Classification: focal exponent; 0 is cross-entropy."""
    shape: Literal["published", "cross_entropy"] = "published"
    """Mask loss: the published one, a softmax of probabilities that stays between 0.31 and 1.31, or
    binary cross-entropy.
    """
    mask_threshold: float = 0.4
    """Probability above which a pixel counts in the reported IoU."""
    every_centre: bool = False
    """Train every local maximum of the heat map on the parcel of its zone, not only the maximum of
    each zone.
    """


@dataclass(frozen=True)
class SemanticLossConfig:
    """The loss of each pixel's class, and of the boundaries between classes.

    The boundaries count only where the network scores them.
    """

    kind: Literal["cross_entropy", "focal", "recall"] = "cross_entropy"
    """Cross-entropy; focal loss, which weights each pixel by its error; or recall loss, which
    weights each class by the share of its pixels that is missed.
    """
    gamma: float = 2.0
    """Focal loss: exponent that reduces the weight of pixels that are almost correct; 0 is
    cross-entropy.
    """
    class_weights: tuple[float, ...] = ()
    """One weight for each class of the table, from class 0; by default all classes have the same.
    The loss is the weighted mean.
    """
    smoothing: float = 0.0
    """Label smoothing: share of each label that is spread over all classes; 0 is none. For
    cross-entropy only.
    """
    smoothing_by: Literal["class", "neighbours"] = "class"
    """Which classes get the rest of a smoothed label: the class of the pixel, or in equal parts all
    classes of the pixel and its neighbours.
    """
    background_share: float = 0.0
    """Smoothing by neighbours: share of its label that a background pixel keeps, as it may have an
    undeclared crop; the rest goes to the other classes. 0.6 in Crop2Seg. 0 treats background like a
    crop.
    """
    class_shares: tuple[float, ...] = ()
    """How that rest is divided among the classes other than background, in proportion to these
    numbers; by default in equal parts.
    """
    void: Literal["left_out", "published"] = "left_out"
    """Void pixels: left out of the loss, or treated as in Crop2Seg, where they have class weight 0
    but still contribute to smoothed labels and count in the means of recall loss and of smoothing
    by neighbours.
    """
    boundary_weight: float = 1.0
    """Weight of the boundary loss (focal), for a network that scores boundaries."""
    boundary_gamma: float = 2.0
    """Exponent of the focal loss of boundaries."""

    def __post_init__(self) -> None:
        for name in ("gamma", "smoothing", "background_share", "boundary_weight", "boundary_gamma"):
            value, is_share = getattr(self, name), name in ("smoothing", "background_share")
            limit, words = (
                (1, "at least 0 and below 1") if is_share else (math.inf, "a number from 0")
            )
            _expect_loss(0 <= value < limit, f"{name} must be {words}, not {value}")
        _expect_loss(
            all(0 <= weight < math.inf for weight in self.class_weights),
            f"class_weights must be numbers from 0, not {self.class_weights}",
        )
        _expect_loss(
            all(0 < share < math.inf for share in self.class_shares),
            f"class_shares must be positive numbers, not {self.class_shares}",
        )
        for name, needs, holds in (
            ("smoothing", "kind cross_entropy", self.kind == "cross_entropy"),
            ("smoothing_by", "smoothing", self.smoothing > 0),
            ("background_share", "smoothing_by neighbours", self.smoothing_by == "neighbours"),
            ("class_shares", "background_share", self.background_share > 0),
            ("gamma", "kind focal", self.kind == "focal"),
        ):
            default = type(self).__dataclass_fields__[name].default
            _expect_loss(holds or getattr(self, name) == default, f"{name} needs {needs}")

    @property
    def changes_boundary(self) -> bool:
        """Whether the boundary's loss is another than by default."""
        return (self.boundary_weight, self.boundary_gamma) != (1.0, 2.0)


def _expect_loss(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"semantic_loss: {message}.")
