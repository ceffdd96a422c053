"""The head that draws fields: extent, boundaries and distances at full resolution.

Fields may have any size. What is learned: whether a pixel belongs to a field, whether it lies on
the inner boundary of one, how far it is from that boundary (all three as in Waldner and
Diakogiannis 2020, "Deep learning on edge: extracting field boundaries from satellite images"), and
whether two neighbouring pixels belong to different fields. ``panoseg.panoptic.regions`` draws
fields from these.

Shape suffixes: B batch, K classes, H W pixels, N fields, V augmentations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F

from panoseg.data.samples import Batch
from panoseg.models.configs.parcels import FieldsConfig
from panoseg.models.layers import ConvBlock
from panoseg.models.network import (
    PLAIN,
    Backbone,
    Network,
    PredictOptions,
    build_network,
    labels_of,
)
from panoseg.models.outputs import FeatureMaps
from panoseg.panoptic import Panoptic
from panoseg.panoptic.regions import (
    basins,
    describe_regions,
    draw_regions,
    merge_basins,
    without_small,
)
from panoseg.panoptic.segments import Segments, kinds_of
from panoseg.panoptic.tta import augment, chosen_augmentations, undo_augmentation

EXTENT, BOUNDARY, DISTANCE, RIGHT, BELOW = range(5)
"""Channels of the head's maps: logits of the probabilities that ``draw_regions`` takes."""
UNKNOWN_CLASS = -100
"""Class in labels of a field whose class is not known: it is drawn, and teaches no class. Outside
of fields: pixels of which nothing is known.
"""
_WEIGHTS = {"extent": 1.0, "boundary": 1.0, "distance": 2.0, "edge": 1.0, "class": 0.5}
_BEYOND = 8
"""Pixels for which a field goes on beyond the rim of a patch, for its distances."""
_MATCH, _MOSTLY = 0.5, 0.5
"""IoU of a match, and share of void from which a region without a match is ignored."""
_NEWTON_STEPS, _RIDGE = 20, 0.01
_EXTENT_THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8)
_MERGE_THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class FieldTargets:
    """What the head learns from one batch."""

    known_BHW: Tensor
    """bool, pixels whose label is known: not void."""
    maps_B5HW: Tensor
    """float32, 0..1, by channel as ``EXTENT`` and the others say."""
    pair_B2HW: Tensor
    """bool, pairs of pixels of which at least one belongs to a field. Void is another object: a
    boundary lies between it and a field.
    """

    @classmethod
    def of(
        cls, instances_BHW: Tensor, void_BHW: Tensor, unknown_BHW: Tensor | None = None
    ) -> FieldTargets:
        """Compute the targets of a batch.

        Args:
            instances_BHW: int, number of the field, 0 for none.
            void_BHW: bool, pixels that are not trained.
            unknown_BHW: bool, those of them that may belong to a field beside them, such as
                pixels without data.
        """
        instances = np.where(void_BHW.cpu().numpy(), 0, instances_BHW.cpu().numpy())
        maps_B5HW = np.stack([_target_maps(instances_HW) for instances_HW in instances])
        inside_BHW = torch.from_numpy(instances > 0)
        pair_B2HW = torch.stack([_either(inside_BHW, axis) for axis in (2, 1)], dim=1)
        if unknown_BHW is not None:
            unknown_BHW = unknown_BHW.cpu()
            pair_B2HW &= ~torch.stack([_either(unknown_BHW, axis) for axis in (2, 1)], dim=1)
        device = instances_BHW.device
        return cls(~void_BHW, torch.from_numpy(maps_B5HW).to(device), pair_B2HW.to(device))


def _either(pixels_BHW: Tensor, axis: int) -> Tensor:
    """Return whether a pixel or the next one is True; False for the last."""
    length = pixels_BHW.shape[axis]
    either = pixels_BHW.narrow(axis, 0, length - 1) | pixels_BHW.narrow(axis, 1, length - 1)
    return torch.cat([either, torch.zeros_like(pixels_BHW.narrow(axis, 0, 1))], dim=axis)


def _target_maps(instances_HW: np.ndarray) -> np.ndarray:
    """Return the five maps of one patch, float32."""
    inside_HW = instances_HW > 0
    right_HW, below_HW = np.zeros_like(inside_HW), np.zeros_like(inside_HW)
    right_HW[:, :-1] = instances_HW[:, 1:] != instances_HW[:, :-1]
    below_HW[:-1] = instances_HW[1:] != instances_HW[:-1]
    edge_HW = right_HW | below_HW
    edge_HW[:, 1:] |= right_HW[:, :-1]
    edge_HW[1:] |= below_HW[:-1]
    boundary_HW = edge_HW & inside_HW
    # What lies beyond the rim of the patch is not known: fields go on for a few pixels there.
    wider_HW = np.pad(inside_HW & ~boundary_HW, _BEYOND, mode="edge")
    own = (slice(_BEYOND + 1, -_BEYOND - 1),) * 2
    distance_HW = ndimage.distance_transform_edt(np.pad(wider_HW, 1))[own]
    distance_HW = np.where(inside_HW, distance_HW + 0.5, 0)
    numbers, place_HW = np.unique(instances_HW, return_inverse=True)
    place_HW = place_HW.reshape(instances_HW.shape)
    farthest_N = ndimage.maximum(distance_HW, place_HW, np.arange(len(numbers)))
    relative_HW = distance_HW / np.maximum(farthest_N, 0.5)[place_HW]
    return np.stack([inside_HW, boundary_HW, relative_HW, right_HW, below_HW]).astype(np.float32)


class Fields(Network):
    """Fields of a season, by a head on the maps of any network for seasons.

    The confidence of a field is the probability that a true field matches it with an IoU above one
    half: a logistic regression on a constant and what ``describe_regions`` returns.
    """

    loss_names = ("loss", *_WEIGHTS)

    def __init__(self, config: FieldsConfig) -> None:
        super().__init__(config)
        encoder = build_network(config.backbone)
        assert isinstance(encoder, Backbone), "a network that gives maps"
        self.encoder: Backbone = encoder
        width = config.backbone.map_widths[0]
        self.maps_conv = nn.Sequential(ConvBlock((width, width)), nn.Conv2d(width, 5, 1))

    def maps(self, features: FeatureMaps) -> tuple[Tensor, Tensor]:
        """Return logits of the five maps, B x 5 x H x W, and of the classes, B x K x H x W."""
        return self.maps_conv(features.pyramid[-1]).float(), self.encoder.scores(features)

    def forward(
        self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what ``maps`` returns; arguments as in ``Backbone``."""
        return self.maps(self.encoder.features(images_BTCHW, days_BT, valid_BT))

    def losses(self, batch: Batch, heatmap_only: bool = False) -> dict[str, Tensor]:
        """Return the weighted sum of the losses, and each of them."""
        classes_BHW = labels_of(batch.classes_BHW)
        void_BHW = torch.isin(classes_BHW, classes_BHW.new_tensor(self.table.ids("void")))
        instances_BHW = labels_of(batch.instances_BHW)
        unknown_BHW = (classes_BHW == UNKNOWN_CLASS) & (instances_BHW == 0)
        targets = FieldTargets.of(instances_BHW, void_BHW | unknown_BHW, unknown_BHW)
        logits_B5HW, scores_BKHW = self(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
        known_BHW, true_B5HW = targets.known_BHW.float(), targets.maps_B5HW
        inside_BHW = true_B5HW[:, EXTENT]
        classed_BHW = (classes_BHW != UNKNOWN_CLASS) * known_BHW * inside_BHW
        parts = {
            "extent": _overlap_loss(logits_B5HW[:, EXTENT], inside_BHW, known_BHW),
            "boundary": _overlap_loss(logits_B5HW[:, BOUNDARY], true_B5HW[:, BOUNDARY], known_BHW),
            "distance": _mean(
                (logits_B5HW[:, DISTANCE].sigmoid() - true_B5HW[:, DISTANCE]) ** 2, known_BHW
            ),
            "edge": _overlap_loss(
                logits_B5HW[:, RIGHT:], true_B5HW[:, RIGHT:], targets.pair_B2HW.float()
            ),
            "class": _mean(
                F.cross_entropy(
                    scores_BKHW, classes_BHW, reduction="none", ignore_index=UNKNOWN_CLASS
                ),
                classed_BHW,
            ),
        }
        total = torch.stack([_WEIGHTS[name] * loss for name, loss in parts.items()]).sum()
        return {"loss": total, **parts}

    @torch.no_grad()
    def predict(self, batch: Batch, options: PredictOptions = PLAIN) -> list[Panoptic]:
        """Return one segmentation a season; maps of augmentations are averaged."""
        maps_B5HW, class_BKHW = self.probabilities(batch, options.tta)
        return [
            self._panoptic(self.regions(maps_5HW), maps_5HW, class_KHW)
            for maps_5HW, class_KHW in zip(maps_B5HW, class_BKHW, strict=True)
        ]

    @torch.no_grad()
    def probabilities(self, batch: Batch, tta: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of the five maps and of the classes of things, float32."""
        maps_V, class_V = [], []
        for view in chosen_augmentations(tta):
            logits_B5HW, scores_BKHW = self(
                augment(batch.images_BTCHW, view), batch.days_BT, batch.valid_BT
            )
            maps_V.append(_turn_back(logits_B5HW.sigmoid(), view))
            class_V.append(undo_augmentation(self._of_things(scores_BKHW), view))
        return (
            torch.stack(maps_V).mean(0).cpu().numpy(),
            torch.stack(class_V).mean(0).cpu().numpy(),
        )

    def _of_things(self, scores_BKHW: Tensor) -> Tensor:
        """Return the probability of each class, given that a pixel is of a thing."""
        thing_K = torch.zeros(scores_BKHW.shape[1], dtype=torch.bool, device=scores_BKHW.device)
        thing_K[list(self.table.ids("thing"))] = True
        return scores_BKHW.masked_fill(~thing_K[:, None, None], -torch.inf).softmax(1)

    def _panoptic(
        self, region_HW: np.ndarray, maps_5HW: np.ndarray, class_KHW: np.ndarray
    ) -> Panoptic:
        count = int(region_HW.max())
        if not count:
            return Panoptic(region_HW, Segments.of([]), self.table)
        ids = np.arange(1, count + 1, dtype=np.int32)
        areas = np.bincount(region_HW.ravel(), minlength=count + 1)[1:]
        probabilities = np.stack(
            [
                np.bincount(region_HW.ravel(), value_HW.ravel(), count + 1)[1:] / areas
                for value_HW in class_KHW
            ],
            axis=1,
        ).astype(np.float32)
        class_ids = probabilities.argmax(1).astype(np.int32)
        kinds = kinds_of(class_ids, self.table)
        scores = self._confidence(region_HW, maps_5HW).astype(np.float32)
        segments = Segments(ids, class_ids, scores, areas, kinds, probabilities)
        return Panoptic(region_HW, segments, self.table)

    def _confidence(self, region_HW: np.ndarray, maps_5HW: np.ndarray) -> np.ndarray:
        """Return the confidence of each region, 0..1."""
        facts_N4 = describe_regions(region_HW, maps_5HW[EXTENT], maps_5HW[RIGHT:])
        if not self.config.confidence:
            return np.asarray(facts_N4[:, 0])
        constant, *weights = self.config.confidence
        return np.asarray(expit(constant + facts_N4 @ np.array(weights)))

    @torch.no_grad()
    def tune(self, batches: Iterable[Batch], add_up: Callable[[np.ndarray], np.ndarray]) -> None:
        """Set both thresholds to those of the best panoptic quality, any class, on a set.

        Then fit the weights of the confidence on the same set.
        """
        samples = [sample for batch in batches for sample in self._samples(batch)]
        counts = np.zeros((len(_EXTENT_THRESHOLDS), len(_MERGE_THRESHOLDS), 4))
        for maps_5HW, true_HW, void_HW in samples:
            counts += self._counts(maps_5HW, true_HW, void_HW)
        iou, _, true, drawn = np.moveaxis(add_up(counts), -1, 0)
        quality = 2 * iou / np.maximum(true + drawn, 1)
        extent, merge = np.unravel_index(quality.argmax(), quality.shape)
        self.config = replace(
            self.config,
            extent_threshold=_EXTENT_THRESHOLDS[extent],
            merge_threshold=_MERGE_THRESHOLDS[merge],
        )
        self._fit_confidence(samples, add_up)

    def _samples(self, batch: Batch) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield maps, true fields without void, and void pixels of each season of a batch."""
        classes_BHW = labels_of(batch.classes_BHW)
        void_BHW = torch.isin(classes_BHW, classes_BHW.new_tensor(self.table.ids("void")))
        true_BHW = labels_of(batch.instances_BHW).masked_fill(void_BHW, 0)
        yield from zip(
            self.probabilities(batch)[0],
            true_BHW.cpu().numpy(),
            void_BHW.cpu().numpy(),
            strict=True,
        )

    def _fit_confidence(
        self,
        samples: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
        add_up: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Fit the logistic regression of the confidence, by Newton's method."""
        rows, right = [np.zeros((0, 5))], [np.zeros(0)]
        for maps_5HW, true_HW, void_HW in samples:
            region_HW = self.regions(maps_5HW)
            facts_N4 = describe_regions(region_HW, maps_5HW[EXTENT], maps_5HW[RIGHT:])
            iou_N, ignored_N = _best_iou(region_HW, true_HW, void_HW)
            matched_N = iou_N > _MATCH
            counted_N = matched_N | ~ignored_N
            rows.append(np.insert(facts_N4, 0, 1.0, axis=1)[counted_N])
            right.append(matched_N[counted_N].astype(np.float64))
        facts_N5, right_N = np.concatenate(rows), np.concatenate(right)
        weights_5 = np.zeros(5)
        for _ in range(_NEWTON_STEPS):
            sure_N = expit(facts_N5 @ weights_5)
            slope_5 = facts_N5.T @ (right_N - sure_N)
            curve_55 = (facts_N5 * (sure_N * (1 - sure_N))[:, None]).T @ facts_N5
            sums = add_up(np.vstack([slope_5, curve_55]))
            weights_5 = weights_5 + np.linalg.solve(
                sums[1:] + _RIDGE * np.eye(5), sums[0] - _RIDGE * weights_5
            )
        self.config = replace(
            self.config, confidence=tuple(round(float(weight), 6) for weight in weights_5)
        )

    def regions(self, maps_5HW: np.ndarray) -> np.ndarray:
        """Draw the regions of a season of what ``probabilities`` returns: int32 H x W."""
        config = self.config
        return draw_regions(
            maps_5HW[EXTENT],
            maps_5HW[BOUNDARY],
            maps_5HW[DISTANCE],
            maps_5HW[RIGHT:],
            config.extent_threshold,
            config.merge_threshold,
            config.min_pixels,
        )

    def _counts(self, maps_5HW: np.ndarray, true_HW: np.ndarray, void_HW: np.ndarray) -> np.ndarray:
        """Return sum of IoU, matches, true and drawn fields for each pair of thresholds."""
        counts = [
            _match_counts(region_HW, true_HW, void_HW)
            for _, _, region_HW in self.regions_by_threshold(maps_5HW)
        ]
        return np.reshape(counts, (len(_EXTENT_THRESHOLDS), len(_MERGE_THRESHOLDS), 4))

    def regions_by_threshold(
        self, maps_5HW: np.ndarray
    ) -> Iterator[tuple[float, float, np.ndarray]]:
        """Yield extent and merge threshold, and the regions that both give: int32 H x W.

        Args:
            maps_5HW: A season of what ``probabilities`` returns.
        """
        for extent in _EXTENT_THRESHOLDS:
            basin_HW = basins(maps_5HW[EXTENT] >= extent, maps_5HW[BOUNDARY], maps_5HW[DISTANCE])
            for merge in _MERGE_THRESHOLDS:
                region_HW = merge_basins(basin_HW, maps_5HW[RIGHT:], merge)
                yield extent, merge, without_small(region_HW, self.config.min_pixels)

    def attention(self, batch: Batch) -> Tensor | None:
        """Return the attention of the backbone over dates."""
        return self.encoder.attention(batch)

    def compile_features(self) -> None:
        """Compile the backbone; what follows is small."""
        self.encoder.compile_features()


def _turn_back(maps_B5HW: Tensor, view: int) -> Tensor:
    """Undo an augmentation of the maps; pairs of pixels change their directions with it.

    A pair is stored at its left or upper pixel, so pairs are spread to both pixels' positions
    before and read again after the turn.
    """
    if view == 0:
        return maps_B5HW
    height, width = maps_B5HW.shape[-2:]
    fine = maps_B5HW.new_zeros((len(maps_B5HW), 1, 2 * height - 1, 2 * width - 1))
    fine[:, 0, ::2, 1::2] = maps_B5HW[:, RIGHT, :, :-1]
    fine[:, 0, 1::2, ::2] = maps_B5HW[:, BELOW, :-1]
    fine = undo_augmentation(fine, view)
    pixels_B3HW = undo_augmentation(maps_B5HW[:, :RIGHT], view)
    right_B1HW = F.pad(fine[..., ::2, 1::2], (0, 1))
    below_B1HW = F.pad(fine[..., 1::2, ::2], (0, 0, 0, 1))
    return torch.cat([pixels_B3HW, right_B1HW, below_B1HW], dim=1)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1)


def _overlap_loss(logits: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Return cross entropy plus log-cosh dice, of pixels with a weight.

    Jadon 2020, "A survey of loss functions for semantic segmentation", equation 13.
    """
    entropy = _mean(F.binary_cross_entropy_with_logits(logits, true, reduction="none"), weight)
    probability = logits.sigmoid()
    both = (probability * true * weight).sum()
    dice = 1 - (2 * both + 1) / ((probability * weight).sum() + (true * weight).sum() + 1)
    return entropy + torch.log(torch.cosh(dice))


def _match_counts(drawn_HW: np.ndarray, true_HW: np.ndarray, void_HW: np.ndarray) -> np.ndarray:
    """Return the sum of IoU over matches, their number, and those of true and drawn fields."""
    iou_N, ignored_N = _best_iou(drawn_HW, true_HW, void_HW)
    matched_N = iou_N > _MATCH
    true = len(np.unique(true_HW[true_HW > 0]))
    counted_N = matched_N | ~ignored_N
    return np.array([iou_N[matched_N].sum(), matched_N.sum(), true, counted_N.sum()])


def _best_iou(
    drawn_HW: np.ndarray, true_HW: np.ndarray, void_HW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best IoU of each drawn field with a true one, and which lie mostly on void."""
    drawn = int(drawn_HW.max()) + 1
    on_void_N = np.bincount(drawn_HW[void_HW], minlength=drawn)
    area_N = np.bincount(drawn_HW.ravel(), minlength=drawn)
    true_area = np.bincount(true_HW.ravel())
    key = true_HW.astype(np.int64) * drawn + np.where(void_HW, 0, drawn_HW)
    keys, both = np.unique(key, return_counts=True)
    true, other = keys // drawn, keys % drawn
    real = (true > 0) & (other > 0)
    true, other, both = true[real], other[real], both[real]
    iou = both / (true_area[true] + (area_N - on_void_N)[other] - both)
    best_N = np.zeros(drawn)
    np.maximum.at(best_N, other, iou)
    return best_N[1:], (on_void_N > _MOSTLY * area_N)[1:]
