"""Losses: cross-entropy of pixels, and the parts of the panoptic loss.

Garnot & Landrieu 2021, section 3.2, as utae-paps @ 987874e computes them
(src/panoptic/paps_loss.py, FocalLoss.py). All in float32, also under mixed precision,
because logarithms of half-precision probabilities lose their tails. Shape suffixes: B batch, H W
pixels, K classes, N centres, M centres of one group of windows, L side of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.classes import PASTIS, ClassTable
from panoseg.data.samples import CentreTargetsBatch
from panoseg.errors import ConfigError
from panoseg.metrics.confusion import class_boundaries, classes_in_reach
from panoseg.models.configs.base import PapsLossConfig, SemanticLossConfig
from panoseg.models.outputs import Candidates, PapsOutput, SemanticOutput, window_index

_EPSILON = 1e-8


def semantic_loss(logits_BKHW: Tensor, classes_BHW: Tensor, void: int | None = None) -> Tensor:
    """Mean cross-entropy of the pixels whose class is not void; 0 where all are."""
    ignored = -100 if void is None else void
    total = F.cross_entropy(logits_BKHW.float(), classes_BHW, ignore_index=ignored, reduction="sum")
    return total / (classes_BHW != ignored).sum().clamp(min=1)


def focal_loss(
    logits_NK: Tensor, class_N: Tensor, gamma: float = 0.0, void: int | None = None
) -> Tensor:
    """Return the mean focal loss of the centres whose class is not void; 0 without any.

    The loss of a centre is -(1 - p)^gamma log p, where p is the probability of its class. The
    factor (1 - p)^gamma passes no gradient, as published.
    """
    log_p_N = logits_NK.float().log_softmax(1).gather(1, class_N[:, None])[:, 0]
    loss_N = -((1 - log_p_N.detach().exp()) ** gamma) * log_p_N
    counted_N = torch.ones_like(class_N, dtype=torch.bool) if void is None else class_N != void
    return _mean(loss_N, counted_N)


def centre_loss(
    heatmap_BHW: Tensor, target_BHW: Tensor, alpha: float = 0.0, beta: float = 4.0
) -> Tensor:
    """Return the loss of a heat map, divided by its number of centres.

    It has logarithms at true centres and elsewhere; the latter count less near a centre. CornerNet
    (Law & Deng 2018, equation 1).

    Args:
        heatmap_BHW: float32, 0..1.
        target_BHW: float32, 0..1; centres are where it is 1.
        alpha: Exponent of the focal factors.
        beta: Exponent by which pixels near a centre count less.
    """
    heat, target = heatmap_BHW.float(), target_BHW.float()
    positive = target == 1
    at_centres = torch.log(heat + _EPSILON) * (1 - heat) ** alpha
    elsewhere = torch.log(1 - heat + _EPSILON) * heat**alpha * (1 - target) ** beta
    return -torch.where(positive, at_centres, elsewhere).sum() / positive.sum().clamp(min=1)


def size_loss(size_N2: Tensor, true_N2: Tensor, counted_N: Tensor) -> Tensor:
    """Mean over the counted centres of the relative errors of height and width, added."""
    return _mean(((true_N2 - size_N2.float()).abs() / (true_N2 + _EPSILON)).sum(1), counted_N)


@dataclass(frozen=True)
class PapsLosses:
    """The panoptic loss of a batch and its parts."""

    total: Tensor
    """Weighted sum of the five parts, a scalar."""
    centre: Tensor
    """Loss of the heat map, a scalar."""
    size: Tensor
    """Loss of the heights and widths, a scalar."""
    shape: Tensor
    """Loss of the masks, a scalar."""
    classification: Tensor
    """Loss of the parcels' classes, a scalar."""
    pixel: Tensor
    """Loss of the backbone's class scores, a scalar."""
    iou_N: Tensor
    """IoU of each supervised centre's mask with its parcel, float32 0..1, without gradient."""
    confidence_N: Tensor
    """Heat of each supervised centre, float32 0..1, without gradient; with ``iou_N`` it tunes the
    confidence threshold.
    """


class PapsLoss:
    """The panoptic loss: heat map, and size, class and mask of the parcel of each centre.

    A centre belongs to the parcel in whose zone it lies. A centre in no parcel's zone, which only a
    patch without parcels has, is not supervised.

    Args:
        void: The class that does not count in the classification loss.
    """

    def __init__(self, config: PapsLossConfig | None = None, void: int | None = None) -> None:
        self.config, self.void = config or PapsLossConfig(), void

    def __call__(
        self, output: PapsOutput, target: CentreTargetsBatch, classes_BHW: Tensor | None = None
    ) -> PapsLosses:
        """Return the loss of the output for a batch, of the heat map alone if it has nothing else.

        Args:
            output: What the network predicts.
            target: The true centres.
            classes_BHW: Class of each pixel, needed where the output scores pixels.
        """
        config = self.config
        centre = centre_loss(output.heatmap_BHW, target.heatmap_BHW, config.alpha, config.beta)
        pixel = centre.new_zeros(())
        if output.pixel_scores_BKHW is not None and classes_BHW is not None:
            pixel = semantic_loss(output.pixel_scores_BKHW, classes_BHW, self.void)
        if output.candidates is None or not len(output.candidates.centre_N3):
            none, empty = centre.new_zeros(()), centre.new_zeros(0)
            return PapsLosses(
                config.centre_weight * centre + config.pixel_weight * pixel,
                centre,
                none,
                none,
                none,
                pixel,
                empty,
                empty,
            )
        found = output.candidates
        at = found.centre_N3.unbind(1)
        zone_N = target.zone_BHW[at].long()
        counted_N = zone_N > 0
        size = size_loss(found.size_N2, target.size_BHW2[at], counted_N)
        classification = _zoned_class_loss(found, target, counted_N, config.gamma, self.void)
        shape, iou_N = self._masks(found, target.instance_BHW, zone_N)
        total = (
            config.centre_weight * centre
            + config.size_weight * size
            + config.shape_weight * shape
            + config.class_weight * classification
            + config.pixel_weight * pixel
        )
        confidence_N = found.confidence_N.detach()[counted_N]
        return PapsLosses(
            total, centre, size, shape, classification, pixel, iou_N[counted_N], confidence_N
        )

    def _masks(
        self, found: Candidates, instances_BHW: Tensor, zone_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of all pixels of all boxes, and the IoU of each candidate N."""
        image_N = found.centre_N3[:, 0]
        iou_N = found.confidence_N.new_zeros(len(zone_N))
        true_area_N = _areas(instances_BHW, image_N, zone_N)
        total, pixels = found.confidence_N.new_zeros(()), zone_N.new_zeros(())
        for group in found.masks:
            of_M = group.candidate_M
            side = group.inside_MLL.shape[-1]
            index_MLL = window_index(image_N[of_M], group.corner_M2, side, *instances_BHW.shape[1:])
            true_MLL = (
                instances_BHW.flatten()[index_MLL] == zone_N[of_M, None, None]
            ) & group.inside_MLL
            counted_MLL = group.inside_MLL & (zone_N[of_M] > 0)[:, None, None]
            total = total + (self._pixel_loss(group.probability_MLL, true_MLL) * counted_MLL).sum()
            pixels = pixels + counted_MLL.sum()
            predicted_MLL = group.probability_MLL > self.config.mask_threshold
            common_M = (predicted_MLL & true_MLL).sum((1, 2))
            iou_N[of_M] = common_M / (
                predicted_MLL.sum((1, 2)) + true_area_N[of_M] - common_M
            ).clamp(min=1)
        return total / pixels.clamp(min=1), iou_N

    def _pixel_loss(self, probability_MLL: Tensor, true_MLL: Tensor) -> Tensor:
        probability_MLL = probability_MLL.float()
        if self.config.shape == "published":
            # A softmax of the two numbers 1 - p and p.
            return F.softplus(
                torch.where(true_MLL, 1 - 2 * probability_MLL, 2 * probability_MLL - 1)
            )
        return F.binary_cross_entropy(probability_MLL, true_MLL.float(), reduction="none")


def _zoned_class_loss(
    found: Candidates, target: CentreTargetsBatch, counted_N: Tensor, gamma: float, void: int | None
) -> Tensor:
    class_N = target.zone_class_BHW[found.centre_N3.unbind(1)].long()
    return focal_loss(found.class_scores_NK[counted_N], class_N[counted_N], gamma, void)


def _areas(instances_BHW: Tensor, image_N: Tensor, instance_N: Tensor) -> Tensor:
    """Pixels of each instance in its image."""
    count = int(instances_BHW.amax()) + 1
    offset_B = count * torch.arange(len(instances_BHW), device=instances_BHW.device)
    areas = (
        (instances_BHW + offset_B[:, None, None])
        .flatten()
        .bincount(minlength=count * len(instances_BHW))
    )
    return areas[instance_N + offset_B[image_N]]


def _mean(values_N: Tensor, counted_N: Tensor) -> Tensor:
    return values_N.where(counted_N, 0).sum() / counted_N.sum().clamp(min=1)


_NEVER = -100  # a label that no table has


@dataclass(frozen=True)
class SemanticLosses:
    """The loss of the pixels' classes and its parts."""

    total: Tensor
    """``pixel`` plus the weighted ``boundary``, a scalar."""
    pixel: Tensor
    """Loss of the pixels' classes, a scalar."""
    boundary: Tensor
    """Loss of the boundaries, a scalar; 0 where the network does not score them."""


class SemanticLoss:
    """The loss of the class scores of pixels.

    Args:
        table: Says how many classes there are, which is void and which background.

    Raises:
        ConfigError: Weights or shares are not one per class.
    """

    def __init__(
        self, config: SemanticLossConfig | None = None, table: ClassTable = PASTIS
    ) -> None:
        self.config, self.table = config or SemanticLossConfig(), table
        self.void = _NEVER if table.void is None else table.void
        for name, found, expected in (
            ("class_weights", self.config.class_weights, table.count),
            ("class_shares", self.config.class_shares, table.count - 1),
        ):
            if found and len(found) != expected:
                raise ConfigError(
                    f"semantic_loss: {name} must have {expected} entries, one for each class of"
                    f" {table.name}{' but background' * (name == 'class_shares')}, not"
                    f" {len(found)}."
                )

    def __call__(self, output: SemanticOutput, classes_BHW: Tensor) -> SemanticLosses:
        """Return the loss of a batch.

        Args:
            output: Class scores of the pixels.
            classes_BHW: int64, ids of the table.
        """
        pixel = self.pixel_loss(output.logits_BKHW, classes_BHW)
        if output.boundary_B2HW is None:
            return SemanticLosses(pixel, pixel, pixel.new_zeros(()))
        on_boundary_BHW = class_boundaries(classes_BHW).long()
        boundary = _focal(
            output.boundary_B2HW.float().log_softmax(1), on_boundary_BHW, self.config.boundary_gamma
        ).mean()
        return SemanticLosses(pixel + self.config.boundary_weight * boundary, pixel, boundary)

    def pixel_loss(self, logits_BKHW: Tensor, classes_BHW: Tensor) -> Tensor:
        """The mean by weight over the pixels that are not void; 0 where all are."""
        config = self.config
        log_p_BKHW = logits_BKHW.float().log_softmax(1)
        weight_K = self._weights(log_p_BKHW)
        weight_BHW = weight_K[classes_BHW]
        if config.smoothing:
            target_BKHW = self.targets(classes_BHW)
            loss_BHW = -(weight_K[:, None, None] * target_BKHW * log_p_BKHW).sum(1)
        else:
            gamma = config.gamma if config.kind == "focal" else 0.0
            loss_BHW = weight_BHW * _focal(log_p_BKHW, classes_BHW, gamma)
        if config.kind == "recall":
            loss_BHW = loss_BHW * self._missed_shares(log_p_BKHW, classes_BHW)[classes_BHW]
        if config.void == "published":
            by_pixel = config.kind == "recall" or (
                config.smoothing > 0 and config.smoothing_by == "neighbours"
            )
            return loss_BHW.mean() if by_pixel else _ratio(loss_BHW, weight_BHW)
        return _ratio(loss_BHW.where(classes_BHW != self.void, 0), weight_BHW)

    def _weights(self, like: Tensor) -> Tensor:
        """A weight for each class, 0 for void."""
        given = self.config.class_weights
        weight_K = like.new_tensor(given) if given else like.new_ones(self.table.count)
        if self.table.void is not None:
            weight_K[self.table.void] = 0
        return weight_K

    def _missed_shares(self, log_p_BKHW: Tensor, classes_BHW: Tensor) -> Tensor:
        """Return the share of each class' pixels that are predicted as another one, K.

        Counts of zero are taken as one, as published.
        """
        missed_BHW = log_p_BKHW.argmax(1) != classes_BHW
        missed_K, true_K = (
            torch.bincount(labels, minlength=self.table.count).clamp(min=1)
            for labels in (classes_BHW[missed_BHW], classes_BHW.flatten())
        )
        return missed_K / true_K

    def targets(self, classes_BHW: Tensor) -> Tensor:
        """Return smoothed labels: float32 B x K x H x W, 0..1, summing to 1 over the classes.

        Void has none unless published.
        """
        config, count = self.config, self.table.count
        learned_K = torch.ones(count, dtype=torch.bool, device=classes_BHW.device)
        if config.void == "left_out" and self.table.void is not None:
            learned_K[self.table.void] = False
        if config.smoothing_by == "neighbours":
            kept_BKHW = classes_in_reach(classes_BHW, count)
        else:
            kept_BKHW = F.one_hot(classes_BHW, count).movedim(-1, 1).bool()
        kept_BKHW &= learned_K[:, None, None]
        spread = config.smoothing / int(learned_K.sum())
        kept_B1HW = kept_BKHW.sum(1, keepdim=True).clamp(
            min=1
        )  # none at void pixels, which are left out
        part_B1HW = (1 - spread * (learned_K.sum() - kept_B1HW)) / kept_B1HW
        target_BKHW = torch.where(kept_BKHW, part_B1HW, spread * learned_K[:, None, None])
        if config.background_share and self.table.background is not None:
            is_background_B1HW = (classes_BHW == self.table.background)[:, None]
            target_BKHW = torch.where(
                is_background_B1HW, self._background(learned_K)[:, None, None], target_BKHW
            )
        return target_BKHW

    def _background(self, learned_K: Tensor) -> Tensor:
        """What a pixel of background holds of each class, K; sums to 1."""
        others_K = learned_K.clone()
        others_K[self.table.background] = False
        shares_K = torch.ones(self.table.count, device=learned_K.device)
        if self.config.class_shares:
            is_other_K = (
                torch.arange(self.table.count, device=learned_K.device) != self.table.background
            )
            shares_K[is_other_K] = shares_K.new_tensor(self.config.class_shares)
        shares_K = shares_K * others_K
        target_K = (1 - self.config.background_share) * shares_K / shares_K.sum()
        target_K[self.table.background] = self.config.background_share
        return target_K


def _focal(log_p_BKHW: Tensor, classes_BHW: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)^gamma log p of the class of each pixel, B x H x W.

    The factor passes a gradient, as published.
    """
    nll_BHW = F.nll_loss(log_p_BKHW, classes_BHW, reduction="none")
    if not gamma:
        return nll_BHW
    # At p = 1 the slope of a root is infinite, and times a loss of 0 no number.
    return (1 - (-nll_BHW).exp()).clamp(min=1e-8) ** gamma * nll_BHW


def _ratio(loss_BHW: Tensor, weight_BHW: Tensor) -> Tensor:
    """The mean by weight, which the loss holds already; 0 without any weight."""
    total = weight_BHW.sum()
    return loss_BHW.sum() / torch.where(total > 0, total, 1)
