"""Options of the networks for photographs, and the checks that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

from panoseg.models.configs.base import (
    NetworkConfig,
    expect,
    expect_one_of,
    expect_share,
    expect_sizes,
)

Backbone = Literal["resnet18", "resnet50"]
BackboneNorm = Literal["frozen", "batch", "group"]
IGNORED = 255
"""Label of pixels that are not trained; a network has fewer labels than this."""
STAGE_WIDTHS: dict[Backbone, tuple[int, ...]] = {
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
}
"""Channels of the maps of a residual network's four stages, at strides 4, 8, 16 and 32 (He et al.
2016, table 1).
"""


@dataclass(frozen=True)
class PhotographModelBase(NetworkConfig):
    """Options of a network for photographs."""

    bands: ClassVar[int] = 3
    """Red, green and blue."""
    inputs = "photograph"
    train_options = frozenset({"photographs"})

    things: int = 80
    """Classes of things; follows from the class table."""
    backbone: Backbone = "resnet50"
    """The residual network that computes the maps."""
    norm: BackboneNorm = "frozen"
    """Its norms: frozen batch norms, which keep the statistics of their weights; trained batch
    norms; or group norms.
    """

    def __post_init__(self) -> None:
        expect_one_of("backbone", self.backbone, get_args(Backbone))
        expect_one_of("norm", self.norm, get_args(BackboneNorm))
        expect(
            1 <= self.things < IGNORED,
            f"things must be from 1 to {IGNORED - 1}, not {self.things}.",
        )


def expect_weights(name: str, allowed: tuple[str, ...], norm: str) -> None:
    """Raise ``ConfigError`` unless the initial weights are known and the norm goes with them.

    Args:
        name: Name of the initial weights.
        allowed: Names that the network accepts.
        norm: Kind of normalisation.
    """
    expect_one_of("weights", name, allowed)
    expect(
        name != "none" or norm != "frozen",
        "weights none cannot be used with norm frozen, which needs the statistics of trained"
        " weights: choose norm batch or group.",
    )
    expect(
        name == "none" or norm != "group",
        f"weights {name} cannot be used with norm group: choose norm frozen or batch, with which"
        " they were trained.",
    )


def expect_stuff(stuff: int, classes: int) -> None:
    """Raise ``ConfigError`` unless the number of stuff classes is possible.

    Args:
        stuff: Number of stuff classes, from 0 to as many as labels allow.
        classes: Number of things and stuff together.
    """
    expect(
        stuff >= 0 and classes < IGNORED,
        f"stuff must be at least 0, and with the things at most {IGNORED - 1}, not {stuff}.",
    )


def norm_groups(width: int) -> int:
    """Return the number of groups of a group norm over ``width`` channels.

    It is 32 (Wu & He 2018), or fewer where groups would have less than 4 channels.
    """
    return max(1, min(32, width // 4))


def expect_groups(name: str, *widths: int) -> None:
    """Raise ``ConfigError`` unless the groups of a group norm divide all widths."""
    expect(
        all(width % norm_groups(width) == 0 for width in widths),
        f"{name} must be 4, 8, 16 or multiples of 32, not {widths}.",
    )


LEVELS = 5
"""Maps of the pyramid in which objects are proposed: strides 4, 8, 16, 32 and 64."""
MOST_MASK_CHANNELS = 500_000
"""Of the masks of all candidates of an image, 28 x 28 pixels each: 1.6 GB, twenty times as many as
published.
"""


@dataclass(frozen=True)
class DetectorConfig(PhotographModelBase):
    """Options of a region proposal network with heads for class, box and mask.

    The defaults are the published ones.
    """

    stride: ClassVar[int] = 32
    """Stride of the coarsest map of the backbone, in pixels of the image."""

    pyramid_width: int = 256
    """Channels of the feature pyramid."""
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Side of the anchors in pixels, one size per level of the pyramid, finest first."""
    box_width: int = 1024
    """Width of the hidden layers of the box head."""
    mask_widths: tuple[int, ...] = (256, 256, 256, 256)
    """Channels of the convolutions of the mask head; the last one is also used for its upsampling.
    """
    group_norm: bool = False
    """Use group norms in the feature pyramid and in the mask head; they help training without
    ImageNet weights.
    """
    anchors_per_image: int = 256
    """Number of anchors per image that are sampled for the loss of the proposals."""
    train_proposals: int = 2000
    """Number of proposals per image in training; also the number per level before non-maximum
    suppression.
    """
    test_proposals: int = 1000
    """The same for prediction."""
    boxes_per_image: int = 512
    """Number of proposals per image that are sampled for the losses of class, box and mask; a
    quarter of them contain objects.
    """
    detections: int = 100
    """Number of candidates per image, always the same: the best by score, padded with empty ones.
    """
    min_score: float = 0.05
    """Leave out candidates with a lower score."""
    box_overlap: float = 0.5
    """Non-maximum suppression: if the boxes of two candidates of a class have a larger IoU, only
    the better one is kept.
    """
    mask_threshold: float = 0.5
    """Minimum probability of a pixel that belongs to a mask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(
            len(self.anchor_sizes) == LEVELS,
            f"anchor_sizes must have {LEVELS} entries, one for each level, not"
            f" {len(self.anchor_sizes)}.",
        )
        expect(len(self.mask_widths) >= 1, "mask_widths must have at least one entry.")
        expect_sizes(self, leave_out=("stuff", "stuff_area"))
        channels = max(*self.mask_widths, self.things)
        expect(
            self.detections * channels <= MOST_MASK_CHANNELS,
            f"{self.detections} detections with masks of {channels} channels are too many: lower"
            f" detections, so that their product is at most {MOST_MASK_CHANNELS:,}.",
        )
        expect_share(self, "min_score", "box_overlap", "mask_threshold")
        if self.group_norm:
            expect_groups("pyramid_width and mask_widths", self.pyramid_width, *self.mask_widths)

    def adjusted(self, thresholds: Mapping[str, float]) -> Self:
        """Return the same options with other thresholds of score and mask, as far as given."""
        changed: dict[str, Any] = {}
        if "mask" in thresholds:
            changed["mask_threshold"] = thresholds["mask"]
        if "score" in thresholds:  # else requested candidates would be left out before
            changed["min_score"] = min(self.min_score, thresholds["score"])
        return replace(self, **changed)


MaskRcnnInitial = Literal["none", "imagenet", "coco"]


@dataclass(frozen=True)
class MaskRcnnConfig(DetectorConfig):
    """Mask R-CNN: objects proposed on a feature pyramid, each with a class, a box and a mask."""

    name: ClassVar[str] = "mask_rcnn"
    title: ClassVar[str] = "Mask R-CNN"
    network: ClassVar[str] = "panoseg.models.mask_rcnn:MaskRcnn"
    answers = "instances"
    scorer = "coco_instances"

    weights: MaskRcnnInitial = "imagenet"
    """Initial weights for training: ImageNet weights of the backbone, torchvision's COCO weights of
    the whole network, or random ones.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weights(self.weights, get_args(MaskRcnnInitial), self.norm)
        expect(
            self.weights != "coco" or (self.backbone == "resnet50" and not self.group_norm),
            "weights coco were trained with backbone resnet50 without group_norm, and cannot be"
            f" used with {self.backbone}{' and group_norm' if self.group_norm else ''}.",
        )

    @property
    def classes(self) -> int:
        """Classes of things; the network does not predict stuff."""
        return self.things


PanopticFpnInitial = Literal["none", "imagenet"]


@dataclass(frozen=True)
class PanopticFpnConfig(DetectorConfig):
    """Panoptic FPN: things and stuff from one feature pyramid.

    Mask R-CNN's heads find the things, and a light head finds the stuff.
    """

    name: ClassVar[str] = "panoptic_fpn"
    title: ClassVar[str] = "Panoptic FPN"
    network: ClassVar[str] = "panoseg.models.mask_rcnn:PanopticFpn"
    answers = "panoptic"
    scorer = "coco_panoptic"

    weights: PanopticFpnInitial = "imagenet"
    """Initial weights of the backbone for training: ImageNet weights, or random ones."""
    stuff: int = 53
    """Classes of stuff; follows from the class table."""
    semantic_width: int = 128
    """Channels of the semantic head."""
    instance_weight: float = 1.0
    """Weight of the losses of proposals, classes, boxes and masks."""
    semantic_weight: float = 0.5
    """Weight of the loss of the classes of pixels."""
    merge_score: float = 0.5
    """Minimum score of a candidate that is drawn."""
    merge_overlap: float = 0.5
    """Leave out candidates if better ones cover more than this share of them."""
    stuff_area: int = 4096
    """Minimum number of pixels of a class of stuff in an image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weights(self.weights, get_args(PanopticFpnInitial), self.norm)
        expect_stuff(self.stuff, self.classes)
        expect_groups("semantic_width", self.semantic_width)
        for name in ("instance_weight", "semantic_weight"):
            expect(
                0 <= getattr(self, name) < float("inf"),
                f"{name} must be a number from 0, not {getattr(self, name)}.",
            )
        expect_share(self, "merge_score", "merge_overlap")
        expect(
            self.stuff_area >= 0,
            f"stuff_area must be a number of pixels from 0, not {self.stuff_area}.",
        )

    @property
    def classes(self) -> int:
        """Classes of things and stuff."""
        return self.things + self.stuff


PspNetInitial = Literal["none", "imagenet"]
Scope = Literal["all", "stuff"]
MOST_BINS = 64
"""The most parts a side, beyond which they are smaller than the pixels of most maps."""


@dataclass(frozen=True)
class PspNetConfig(PhotographModelBase):
    """PSPNet: the class of each pixel from a dilated residual network.

    Its map is pooled over parts of the image.
    """

    name: ClassVar[str] = "pspnet"
    title: ClassVar[str] = "PSPNet"
    network: ClassVar[str] = "panoseg.models.two_models:PspNet"
    answers = "semantic"
    scorer = "coco_pixels"
    stride: ClassVar[int] = 8
    """Stride of the last map of the backbone, in pixels of the image."""

    norm: BackboneNorm = "batch"
    """Norms of the residual network: frozen batch norms, which keep the statistics of their
    weights; trained batch norms; or group norms. The heads have trained batch norms in the first
    two cases.
    """
    weights: PspNetInitial = "imagenet"
    """Initial weights of the backbone for training: ImageNet weights, or random ones."""
    stuff: int = 53
    """Classes of stuff; follows from the class table."""
    scope: Scope = "stuff"
    """Classes of pixels that are distinguished: the classes of stuff, with all things as one more
    class; or all classes.
    """
    bins: tuple[int, ...] = (1, 2, 3, 6)
    """Number of parts per side into which the map is pooled, for each level of the pooling pyramid.
    """
    width: int = 512
    """Channels of the last hidden map."""
    auxiliary_width: int = 256
    """Channels of the head that is trained on the map before the last."""
    auxiliary_weight: float = 0.4
    """Weight of that head's loss."""
    dropout: float = 0.1
    """Dropout before the classes are scored, as a share of channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weights(self.weights, get_args(PspNetInitial), self.norm)
        expect_one_of("scope", self.scope, get_args(Scope))
        expect_stuff(self.stuff, self.classes)
        expect(len(self.bins) >= 1, "bins must have at least one entry.")
        expect_sizes(self, leave_out=("stuff",))
        expect(
            max(self.bins) <= MOST_BINS,
            f"Each of bins must be at most {MOST_BINS} parts a side, not {self.bins}.",
        )
        if self.norm == "group":
            expect_groups(
                "width, auxiliary_width and channels of a bin",
                self.width,
                self.auxiliary_width,
                self.bin_width,
            )
        expect(
            0 <= self.auxiliary_weight < float("inf"),
            f"auxiliary_weight must be a number from 0, not {self.auxiliary_weight}.",
        )
        expect(
            0 <= self.dropout < 1, f"dropout must be at least 0 and below 1, not {self.dropout}."
        )

    @property
    def bin_width(self) -> int:
        """Channels of each level of the pooling pyramid: together as many as the last map has."""
        return STAGE_WIDTHS[self.backbone][-1] // len(self.bins)

    @property
    def classes(self) -> int:
        """Classes of things and stuff."""
        return self.things + self.stuff
