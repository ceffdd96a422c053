"""The loss of classified pixels: cross-entropy, focal and recall loss, smoothed labels, boundaries.

Focal: Lin et al. 2017, equation 4. Recall: Tian et al. 2021 (arXiv 2106.14917). All as Many98/Crop2Seg @ aee7827 computes them
(src/learning/focal_loss.py, recall_loss.py, smooth_loss.py, utils.py), but void pixels are left out unless the published way is
asked for. In float32 whatever the surrounding precision. Shape suffixes: B batch, K classes, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.classes import PASTIS, ClassTable
from panoseg.errors import ConfigError
from panoseg.metrics.confusion import class_boundaries, classes_in_reach
from panoseg.models.outputs import SemanticOutput
from panoseg.training.loss_config import SemanticLossConfig

_NEVER = -100  # a label that no table has


@dataclass(frozen=True)
class SemanticLosses:
    """Scalars: ``total`` is ``pixel`` plus the weighted ``boundary``, which is 0 where the network does not score it."""

    total: Tensor
    pixel: Tensor
    boundary: Tensor


class SemanticLoss:
    """The loss of what a network says of pixels. table: says how many classes there are, which is void and which background.

    Raises ``ConfigError`` where weights or shares are not one a class.
    """

    def __init__(self, config: SemanticLossConfig | None = None, table: ClassTable = PASTIS) -> None:
        self.config, self.table = config or SemanticLossConfig(), table
        self.void = _NEVER if table.void is None else table.void
        for name, found, expected in (
            ("class_weights", self.config.class_weights, table.count),
            ("class_shares", self.config.class_shares, table.count - 1),
        ):
            if found and len(found) != expected:
                raise ConfigError(
                    f"semantic_loss: {len(found)} {name} for the {table.count} classes of {table.name}",
                    f"{expected}" + " (background has none)" * (name == "class_shares"),
                    "give one a class",
                )

    def __call__(self, output: SemanticOutput, classes_BHW: Tensor) -> SemanticLosses:
        """The loss of a batch. classes_BHW: int64, ids of the table."""
        pixel = self.pixel_loss(output.logits_BKHW, classes_BHW)
        if output.boundary_B2HW is None:
            return SemanticLosses(pixel, pixel, pixel.new_zeros(()))
        on_boundary_BHW = class_boundaries(classes_BHW).long()
        boundary = _focal(output.boundary_B2HW.float().log_softmax(1), on_boundary_BHW, self.config.boundary_gamma).mean()
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
            by_pixel = config.kind == "recall" or (config.smoothing > 0 and config.smoothing_by == "neighbours")
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
        """Share of each class' pixels that are predicted as another one, K; counts of zero are taken as one, as published."""
        missed_BHW = log_p_BKHW.argmax(1) != classes_BHW
        missed_K, true_K = (
            torch.bincount(labels, minlength=self.table.count).clamp(min=1)
            for labels in (classes_BHW[missed_BHW], classes_BHW.flatten())
        )
        return missed_K / true_K

    def targets(self, classes_BHW: Tensor) -> Tensor:
        """Smoothed labels: float32 B x K x H x W, 0..1, summing to 1 over the classes; void has none unless published."""
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
        kept_B1HW = kept_BKHW.sum(1, keepdim=True).clamp(min=1)  # none at void pixels, which are left out
        part_B1HW = (1 - spread * (learned_K.sum() - kept_B1HW)) / kept_B1HW
        target_BKHW = torch.where(kept_BKHW, part_B1HW, spread * learned_K[:, None, None])
        if config.background_share and self.table.background is not None:
            is_background_B1HW = (classes_BHW == self.table.background)[:, None]
            target_BKHW = torch.where(is_background_B1HW, self._background(learned_K)[:, None, None], target_BKHW)
        return target_BKHW

    def _background(self, learned_K: Tensor) -> Tensor:
        """What a pixel of background holds of each class, K; sums to 1."""
        others_K = learned_K.clone()
        others_K[self.table.background] = False
        shares_K = torch.ones(self.table.count, device=learned_K.device)
        if self.config.class_shares:
            is_other_K = torch.arange(self.table.count, device=learned_K.device) != self.table.background
            shares_K[is_other_K] = shares_K.new_tensor(self.config.class_shares)
        shares_K = shares_K * others_K
        target_K = (1 - self.config.background_share) * shares_K / shares_K.sum()
        target_K[self.table.background] = self.config.background_share
        return target_K


def _focal(log_p_BKHW: Tensor, classes_BHW: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of the class of each pixel, B x H x W; the factor passes a gradient, as published."""
    nll_BHW = F.nll_loss(log_p_BKHW, classes_BHW, reduction="none")
    if not gamma:
        return nll_BHW
    # At p = 1 the slope of a root is infinite, and times a loss of 0 no number.
    return (1 - (-nll_BHW).exp()).clamp(min=1e-8) ** gamma * nll_BHW


def _ratio(loss_BHW: Tensor, weight_BHW: Tensor) -> Tensor:
    """The mean by weight, which the loss holds already; 0 without any weight."""
    total = weight_BHW.sum()
    return loss_BHW.sum() / torch.where(total > 0, total, 1)
