"""PaPs: parcels as centre points with a size, a class and a shape, on the maps of a backbone.

Garnot & Landrieu 2021, section 3.2; utae-paps @ 987874e, src/panoptic/paps.py. Shape suffixes:
B batch, T dates, C channels, H W pixels, V test-time augmentations, N candidates, K classes, M
candidates of one group of windows, L side of a window, S side of a shape, R thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.classes import ClassTable
from panoseg.data.samples import Batch
from panoseg.models.configs.base import PapsLossConfig
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.layers import ConvLayer
from panoseg.models.losses import PapsLoss
from panoseg.models.network import (
    PLAIN,
    Backbone,
    Network,
    PredictOptions,
    build_network,
    labels_of,
)
from panoseg.models.outputs import (
    Candidates,
    FeatureMaps,
    MaskWindows,
    PapsOutput,
    clipped_boxes,
    group_by_side,
    inside_windows,
    paste_windows,
    resample,
    window_index,
)
from panoseg.panoptic import Panoptic
from panoseg.panoptic.merge import ScoredMasks, merge_masks, to_panoptics
from panoseg.panoptic.tta import (
    SoftMasks,
    augment,
    chosen_augmentations,
    fuse_masks,
    undo_augmentation,
)


class PaPs(Network):
    """Parcels of a season as scored masks, on the maps of a backbone.

    The heads always compute in float32, also under mixed precision: centres are found by comparing
    neighbouring heat, and in half precision neighbours tie.
    """

    loss_names = ("loss", "centre", "size", "shape", "class", "pixel")
    config: PapsConfig

    def __init__(self, config: PapsConfig) -> None:
        super().__init__(config)
        self.encoder: Backbone = build_network(config.backbone)  # type: ignore[assignment]
        fine, stacked = config.backbone.map_widths[0], sum(config.backbone.map_widths)
        classes = config.backbone.classes
        self.register_buffer("min_confidence", torch.tensor([config.min_confidence]))
        self.min_confidence: Tensor
        self.heatmap_conv = nn.Sequential(ConvLayer((fine, 32, 1), last_relu=False), nn.Sigmoid())
        self.saliency_conv = ConvLayer((fine, 32, 1), last_relu=False)
        self.shape_mlp = nn.Sequential(
            *_hidden(stacked, stacked // 2), nn.Linear(stacked // 2, config.shape_size**2)
        )
        self.size_mlp = nn.Sequential(
            *_hidden(stacked, stacked // 2),
            *_hidden(stacked // 2, stacked // 4),
            nn.Linear(stacked // 4, 2),
            nn.Softplus(),
        )
        self.class_mlp = nn.Sequential(
            *_hidden(stacked, stacked // 2),
            nn.Linear(stacked // 2, stacked // 4),
            nn.Linear(stacked // 4, classes),
        )
        self.mask_cnn = _mask_cnn() if config.mask_convolution else None

    def prepare(self, table: ClassTable, loss: PapsLossConfig | None = None) -> Self:
        """Say what the classes mean; loss: ``PapsLossConfig``, None for the defaults."""
        self.criterion = PapsLoss(loss, void=table.void)
        return super().prepare(table)

    def losses(self, batch: Batch, heatmap_only: bool = False) -> dict[str, Tensor]:
        """Return the panoptic loss and its parts.

        The best centre of the zone of each parcel is trained, or every one (``every_centre``).
        """
        targets, options = labels_of(batch.centres), self.criterion.config
        maps = self.encoder.features(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
        output = self.head(maps, None if options.every_centre else targets.zone_BHW, heatmap_only)
        if options.pixel_weight > 0:
            output = replace(output, pixel_scores_BKHW=self.encoder.scores(maps))
        losses = self.criterion(output, targets, batch.classes_BHW)
        return {
            "loss": losses.total,
            "centre": losses.centre,
            "size": losses.size,
            "shape": losses.shape,
            "class": losses.classification,
            "pixel": losses.pixel,
        }

    @torch.no_grad()
    def predict(self, batch: Batch, options: PredictOptions = PLAIN) -> list[Panoptic]:
        """Return candidates by descending confidence, each with the pixels that no better one has.

        Centres are found against the mean heat of a batch. With ``options.independent`` the
        backbone still sees all samples at once, but the head one at a time.
        """
        maps_V = []
        for view in chosen_augmentations(options.tta):
            images_BTCHW = augment(batch.images_BTCHW, view)
            maps_V.append(self.encoder.features(images_BTCHW, batch.days_BT, batch.valid_BT))
        samples = len(batch.images_BTCHW)
        if not options.independent:
            return self._merged(self.masks_of(maps_V), samples)
        panoptics = []
        for place in range(samples):
            masks = self.masks_of([_sample(maps, place) for maps in maps_V])
            panoptics += self._merged(masks, 1)
        return panoptics

    def _merged(self, masks: ScoredMasks, samples: int) -> list[Panoptic]:
        segment_BHW, _ = merge_masks(masks, samples, self.config.min_remain)
        return to_panoptics(segment_BHW, masks, self.table)

    @torch.no_grad()
    def tune(self, batches: Iterable[Batch], add_up: Callable[[np.ndarray], np.ndarray]) -> None:
        """Set the confidence threshold to the best on a set.

        utae-paps @ 987874e, train_panoptic.py, ``tune_threshold``. There only the last batch of the
        validation counts; here all of it does.
        """
        counts = np.zeros((len(THRESHOLDS), 3))
        for batch in batches:
            maps = self.encoder.features(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
            output = self.head(maps, min_confidence=0.0)
            with torch.autocast(output.heatmap_BHW.device.type, enabled=False):
                losses = self.criterion(output, labels_of(batch.centres))
            right_N = losses.iou_N.cpu().numpy() > 0.5
            counts += threshold_counts(losses.confidence_N.cpu().numpy(), right_N)
        self.min_confidence.fill_(best_threshold(add_up(counts)))

    def tuned_config(self) -> PapsConfig:
        """Return the configuration with the tuned confidence threshold."""
        return replace(self.config, min_confidence=round(self.min_confidence.item(), 6))

    def attention(self, batch: Batch) -> Tensor | None:
        """Return the attention of the backbone over dates."""
        return self.encoder.attention(batch)

    def draw_weights(
        self,
        scheme: Literal["published", "torch"],
        heat: float = 0.0,
        taken: Mapping[str, Tensor] | None = None,
    ) -> str:
        """Draw the initial weights, and let the heat start at ``heat``, unless it is 0."""
        line = super().draw_weights(scheme)
        if heat:
            self.expect_heat(heat)
        return line

    def compile_features(self) -> None:
        """Compile the backbone; the shapes of the head depend on the data."""
        self.encoder.compile_features()

    def forward(
        self,
        images_BTCHW: Tensor,
        days_BT: Tensor,
        valid_BT: Tensor,
        zones_BHW: Tensor | None = None,
        heatmap_only: bool = False,
        min_confidence: float | None = None,
        pixel_scores: bool = False,
    ) -> PapsOutput:
        """Return the heat map, saliency and candidates of a batch of seasons.

        Args:
            images_BTCHW: As in ``Backbone``.
            days_BT: As in ``Backbone``.
            valid_BT: As in ``Backbone``.
            zones_BHW: int, the parcel each pixel is nearest to, 0 where there is none. Then the
                hottest pixel of each parcel's zone is its only candidate, else every local maximum
                is one.
            heatmap_only: Return nothing but the heat map.
            min_confidence: Local maxima below it are left out; None: none in training, else the
                model's own threshold.
            pixel_scores: Let the backbone score the class of each pixel too.
        """
        maps = self.encoder.features(images_BTCHW, days_BT, valid_BT)
        output = self.head(maps, zones_BHW, heatmap_only, min_confidence)
        return (
            replace(output, pixel_scores_BKHW=self.encoder.scores(maps)) if pixel_scores else output
        )

    def head(
        self,
        maps: FeatureMaps,
        zones_BHW: Tensor | None = None,
        heatmap_only: bool = False,
        min_confidence: float | None = None,
    ) -> PapsOutput:
        """Return the output from the maps of the backbone; arguments as in ``forward``."""
        with torch.autocast(maps.pyramid[-1].device.type, enabled=False):
            maps = FeatureMaps(tuple(level.float() for level in maps.pyramid))
            heatmap_BHW = self.heatmap_conv(maps.pyramid[-1])[:, 0]
            if heatmap_only:
                return PapsOutput(heatmap_BHW)
            saliency_BHW = self.saliency_conv(maps.pyramid[-1])[:, 0]
            if zones_BHW is not None:
                centre_BHW = zone_centres(heatmap_BHW.detach(), zones_BHW)
            else:
                centre_BHW = local_maxima(heatmap_BHW.detach()) & (
                    heatmap_BHW >= self._lowest(min_confidence)
                )
            centre_N3 = centre_BHW.nonzero()
            return PapsOutput(
                heatmap_BHW,
                saliency_BHW,
                self._candidates(maps, heatmap_BHW, saliency_BHW, centre_N3),
            )

    def expect_heat(self, share: float) -> None:
        """Let the heat start at ``share``, between 0 and 1, of every pixel.

        Drawn weights begin near one half, and the many pixels without a centre then outweigh all
        other losses for a thousand steps (Lin et al. 2017, "Focal loss for dense object detection",
        section 3.3).
        """
        nn.init.constant_(
            self.heatmap_conv.get_parameter("0.conv.4.bias"), math.log(share / (1 - share))
        )

    def masks(
        self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor, tta: int = 1
    ) -> ScoredMasks:
        """Return the masks whose confidence is at least ``min_confidence``.

        Args:
            images_BTCHW: As in ``forward``.
            days_BT: As in ``forward``.
            valid_BT: As in ``forward``.
            tta: Number of test-time augmentations, 1 to 8, whose masks are joined.
        """
        shown = [augment(images_BTCHW, view) for view in chosen_augmentations(tta)]
        return self.masks_of(
            [self.encoder.features(seen_BTCHW, days_BT, valid_BT) for seen_BTCHW in shown]
        )

    def masks_of(self, maps_V: Sequence[FeatureMaps]) -> ScoredMasks:
        """Return ``masks`` from the maps of the backbone, one entry an augmentation."""
        if len(maps_V) == 1:
            return self.scored_masks(self.head(maps_V[0]))
        # Joined, the scores of what few views see fall: half the confidence is enough to take part.
        lowest = float(self.min_confidence) / 2
        seen = []
        for maps, view in zip(maps_V, chosen_augmentations(len(maps_V)), strict=True):
            masks = self.soft_masks(self.head(maps, min_confidence=lowest))
            seen.append(
                replace(masks, probability_NHW=undo_augmentation(masks.probability_NHW, view))
            )
        joined = fuse_masks(seen, self.config.mask_threshold)
        kept_N = joined.score_N >= self.min_confidence
        return ScoredMasks(
            joined.probability_NHW[kept_N] > self.config.views_threshold,
            joined.score_N[kept_N],
            joined.class_probability_NK[kept_N],
            joined.image_N[kept_N],
            logits=False,
        )

    def scored_masks(self, output: PapsOutput) -> ScoredMasks:
        """Return the candidates of at least the model's confidence as masks in their images.

        Raises:
            ValueError: The output holds only the heat map.
        """
        found = _present(output)
        size, threshold = output.heatmap_BHW.shape[-2:], self.config.mask_threshold
        mask_NHW = paste_windows(
            found, size, lambda group: group.probability_MLL > threshold
        ).bool()
        kept_N = found.confidence_N >= self.min_confidence
        return ScoredMasks(
            mask_NHW[kept_N],
            found.confidence_N[kept_N],
            found.class_scores_NK[kept_N],
            found.centre_N3[kept_N, 0],
        )

    def soft_masks(self, output: PapsOutput) -> SoftMasks:
        """Return all candidates with the probability of each pixel of their images.

        Raises:
            ValueError: The output holds only the heat map.
        """
        found = _present(output)
        probability_NHW = paste_windows(
            found, output.heatmap_BHW.shape[-2:], lambda group: group.probability_MLL
        )
        return SoftMasks(
            probability_NHW,
            found.confidence_N,
            found.class_scores_NK.softmax(1),
            found.centre_N3[:, 0],
        )

    def _lowest(self, min_confidence: float | None) -> Tensor | float:
        if min_confidence is not None:
            return min_confidence
        return 0.0 if self.training else self.min_confidence

    def _candidates(
        self, maps: FeatureMaps, heatmap_BHW: Tensor, saliency_BHW: Tensor, centre_N3: Tensor
    ) -> Candidates:
        image_N, row_N, column_N = centre_N3.unbind(1)
        stack_NC = _stack_at(maps, centre_N3)
        size_N2 = self.size_mlp(stack_NC)
        shape_NSS = self.shape_mlp(stack_NC).unflatten(1, (self.config.shape_size, -1))
        pixels_N2 = size_N2.detach().round().long().clamp(min=1)
        start_N2, box_N4 = clipped_boxes(centre_N3[:, 1:], pixels_N2, *heatmap_BHW.shape[-2:])
        masks = []
        for candidate_M, side in group_by_side(box_N4) if len(centre_N3) else ():
            box_M4 = box_N4[candidate_M]
            offset_M2 = box_M4[:, :2] - start_N2[candidate_M]
            shape_MLL = resample(shape_NSS[candidate_M], offset_M2, pixels_N2[candidate_M], side)
            index_MLL = window_index(
                image_N[candidate_M], box_M4[:, :2], side, *heatmap_BHW.shape[-2:]
            )
            inside_MLL = inside_windows(box_M4, side)
            probability_MLL = self._mask(shape_MLL, saliency_BHW.flatten()[index_MLL], inside_MLL)
            masks.append(MaskWindows(candidate_M, box_M4[:, :2], probability_MLL, inside_MLL))
        confidence_N = heatmap_BHW[image_N, row_N, column_N]
        return Candidates(
            centre_N3, confidence_N, self.class_mlp(stack_NC), size_N2, box_N4, tuple(masks)
        )

    def _mask(self, shape_MLL: Tensor, saliency_MLL: Tensor, inside_MLL: Tensor) -> Tensor:
        """Return the probability of each pixel of the windows, 0 outside the boxes."""
        if self.mask_cnn is None:
            probability_MLL = shape_MLL.sigmoid() * saliency_MLL.sigmoid()
        else:
            logits_MLL = shape_MLL + saliency_MLL
            refined_MLL = _inside_boxes(self.mask_cnn, logits_MLL[:, None], inside_MLL[:, None])[
                :, 0
            ]
            probability_MLL = logits_MLL.sigmoid() * refined_MLL.sigmoid()
        return probability_MLL * inside_MLL


def _sample(maps: FeatureMaps, place: int) -> FeatureMaps:
    """Return the maps of one sample of a batch."""
    return FeatureMaps(tuple(level_BCHW[place : place + 1] for level_BCHW in maps.pyramid))


def _present(output: PapsOutput) -> Candidates:
    if output.candidates is None:
        raise ValueError("the output holds only the heat map")
    return output.candidates


def local_maxima(heatmap_BHW: Tensor) -> Tensor:
    """Return the local maxima above the batch's mean heat: bool B x H x W.

    A maximum is as hot as its eight neighbours or hotter, as published.
    """
    return (heatmap_BHW == F.max_pool2d(heatmap_BHW, 3, stride=1, padding=1)) & (
        heatmap_BHW > heatmap_BHW.mean()
    )


def zone_centres(heatmap_BHW: Tensor, zones_BHW: Tensor) -> Tensor:
    """Return the hottest pixel of each zone, the first in reading order of equals: bool B x H x W.

    Zone 0 has none.
    """
    images, zones = len(zones_BHW), int(zones_BHW.amax()) + 1
    zone_P = (
        zones_BHW.long() + zones * torch.arange(images, device=zones_BHW.device)[:, None, None]
    ).flatten()
    heat_P = heatmap_BHW.flatten()
    hottest_Z = heat_P.new_full((images * zones,), -1.0).scatter_reduce(0, zone_P, heat_P, "amax")
    hot_P = (heat_P == hottest_Z[zone_P]) & (zones_BHW.flatten() > 0)
    pixel_P = torch.arange(len(heat_P), device=heat_P.device).where(hot_P, len(heat_P))
    first_Z = pixel_P.new_full(hottest_Z.shape, len(heat_P)).scatter_reduce(
        0, zone_P, pixel_P, "amin"
    )
    return (pixel_P == first_Z[zone_P]).logical_and(hot_P).view_as(zones_BHW)


def _stack_at(maps: FeatureMaps, centre_N3: Tensor) -> Tensor:
    """Return all levels' features at the centres, coarsest first: N x (sum of channels)."""
    image_N, row_N, column_N = centre_N3.unbind(1)
    height = maps.pyramid[-1].shape[-2]
    columns = []
    for level_BCHW in maps.pyramid:
        stride = height // level_BCHW.shape[-2]
        columns.append(level_BCHW.permute(0, 2, 3, 1)[image_N, row_N // stride, column_N // stride])
    return torch.cat(columns, dim=1)


def _inside_boxes(layers: nn.Sequential, values_MCLL: Tensor, inside_M1LL: Tensor) -> Tensor:
    """Return what the layers give on each box alone, as if it were cut out.

    Outside counts as zero, and norms see only the inside.
    """
    inside_M1LL = inside_M1LL.to(values_MCLL.dtype)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            values_MCLL = layer(values_MCLL * inside_M1LL)
        elif isinstance(layer, nn.GroupNorm):
            values_MCLL = _norm_inside(layer, values_MCLL, inside_M1LL)
        else:
            values_MCLL = layer(values_MCLL)
    return values_MCLL


def _norm_inside(norm: nn.GroupNorm, values_MCLL: Tensor, inside_M1LL: Tensor) -> Tensor:
    """Normalise all channels together over the pixels inside."""
    count_M = inside_M1LL.sum((1, 2, 3), keepdim=True) * values_MCLL.shape[1]
    mean_M = (values_MCLL * inside_M1LL).sum((1, 2, 3), keepdim=True) / count_M
    centred_MCLL = (values_MCLL - mean_M) * inside_M1LL
    variance_M = centred_MCLL.square().sum((1, 2, 3), keepdim=True) / count_M
    standard_MCLL = centred_MCLL * (variance_M + norm.eps).rsqrt()
    return standard_MCLL * norm.weight[:, None, None] + norm.bias[:, None, None]


class _CentreNorm(nn.BatchNorm1d):
    """Batch normalisation over centres, by running statistics if a batch has fewer than two."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) < 2:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def _hidden(before: int, after: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Linear(before, after), _CentreNorm(after), nn.ReLU(inplace=True)


def _mask_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(1, 16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 1, 3, padding=1),
    )


THRESHOLDS = np.arange(100) / 100


def threshold_counts(confidence_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """Count true positives, false positives and false negatives at each of ``THRESHOLDS``.

    Args:
        confidence_N: float, 0..1.
        right_N: bool, whether the centre's mask has an IoU above 0.5 with its parcel.

    Returns:
        int64, R x 3; the counts of several batches add up.
    """
    kept_RN = confidence_N[None] > THRESHOLDS[:, None]
    return np.stack(
        [(kept_RN & right_N).sum(1), (kept_RN & ~right_N).sum(1), (~kept_RN & right_N).sum(1)],
        axis=1,
    )


def best_threshold(counts: np.ndarray) -> float:
    """Return the threshold with the best F-score, the lowest of equals; 0 if nothing is right."""
    positives, invented, missed = counts.T
    score = positives / np.maximum(positives + 0.5 * (invented + missed), 1)
    return float(THRESHOLDS[score.argmax()])
