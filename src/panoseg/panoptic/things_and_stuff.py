"""Merging masks of things and a map of stuff into one picture, with operations of fixed shape alone.

Source of the rule: Kirillov et al., "Panoptic Segmentation", CVPR 2019 (1801.00868), section 7, with the limit of the area of
stuff as in cocodataset/panopticapi @ 7bb4655, panopticapi/combine_semantic_and_instance_predictions.py. It differs from
``merge.merge_masks`` in that a thing may be covered by exactly the share allowed, and in that there are as many steps as masks,
whatever they hold: nothing waits for the device, and shapes never depend on values.

Shape suffixes: B images, N candidates an image, C stuff classes, S = N + C slots, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.errors import ConfigError
from panoseg.panoptic.panoptic import Panoptic, Segments, kinds_of, present_segments


@dataclass(frozen=True)
class MergeThresholds:
    """What is kept.

    score: things from this score on, 0..1. overlap: things of which at most this share is covered by better ones, 0..1.
    stuff_area: stuff of which at least so many pixels are left by the things.
    """

    score: float = 0.5
    overlap: float = 0.5
    stuff_area: int = 4096

    def __post_init__(self) -> None:
        for name in ("score", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}", "a share 0 .. 1", f"pass e.g. --{name} 0.5")
        if self.stuff_area < 0:
            raise ConfigError(f"stuff area {self.stuff_area}", "a number of pixels from 0 on", "pass e.g. --stuff-area 4096")


@dataclass(frozen=True, eq=False)
class ThingsAndStuff:
    """Merged pictures, on the device of the masks.

    segment_BHW: int32, slot of each pixel plus one, 0 = none. class_BS: int64, class of each slot. score_BS: float, score of
    each slot, 1 for stuff. Things come first, by falling score, then the classes of stuff; most slots are empty.
    """

    segment_BHW: Tensor
    class_BS: Tensor
    score_BS: Tensor

    def to_panoptics(self, table: ClassTable) -> list[Panoptic]:
        """The pictures with their tables: ids from 1 in the order of the slots."""
        arrays = (array.cpu().numpy() for array in (self.segment_BHW, self.class_BS, self.score_BS.float()))
        return [_to_panoptic(segment, classes, scores, table) for segment, classes, scores in zip(*arrays, strict=True)]


def merge_things_and_stuff(
    mask_BNHW: Tensor,
    score_BN: Tensor,
    class_BN: Tensor,
    semantic_BHW: Tensor,
    stuff_classes: Sequence[int],
    thresholds: MergeThresholds = MergeThresholds(),
) -> ThingsAndStuff:
    """Things by falling score, each given the pixels that no better one has; then stuff on what is left.

    mask_BNHW: bool, masks of candidates, which may overlap; pad with empty ones. score_BN: float, 0..1; of equal scores the
    earlier comes first. class_BN: classes of the candidates. semantic_BHW: class of each pixel; classes other than
    ``stuff_classes`` draw nothing.
    """
    image_B = torch.arange(len(mask_BNHW), device=mask_BNHW.device)
    return merge_drawn(lambda n_B: mask_BNHW[image_B, n_B], score_BN, class_BN, semantic_BHW, stuff_classes, thresholds)


def merge_drawn(
    draw: Callable[[Tensor], Tensor],
    score_BN: Tensor,
    class_BN: Tensor,
    semantic_BHW: Tensor,
    stuff_classes: Sequence[int],
    thresholds: MergeThresholds = MergeThresholds(),
) -> ThingsAndStuff:
    """``merge_things_and_stuff`` of masks that are drawn when their turn comes, so that only one is in memory.

    draw: from the numbers of candidates, int64, one an image, to their masks, bool B x H x W.
    """
    order_BN = score_BN.sort(dim=1, descending=True, stable=True).indices
    sorted_score_BN = score_BN.gather(1, order_BN)
    kept_BN = sorted_score_BN >= thresholds.score
    things = (draw(order_BN[:, n]) & kept_BN[:, n, None, None] for n in range(order_BN.shape[1]))
    stuff = (semantic_BHW == class_id for class_id in stuff_classes)
    empty_BHW = torch.zeros_like(semantic_BHW, dtype=torch.int32)
    stuff_BC = torch.tensor(stuff_classes, device=class_BN.device).long().expand(len(order_BN), -1)
    return ThingsAndStuff(
        paint(empty_BHW, things, stuff, thresholds),
        torch.cat([class_BN.long().gather(1, order_BN), stuff_BC], dim=1),
        torch.cat([sorted_score_BN, torch.ones_like(stuff_BC, dtype=score_BN.dtype)], dim=1),
    )


def paint(empty_BHW: Tensor, things: Iterable[Tensor], stuff: Iterable[Tensor], thresholds: MergeThresholds) -> Tensor:
    """Paint masks, each bool B x H x W, onto an empty int32 picture: the first becomes 1, the next 2, and so on.

    Things come by falling score. A thing with pixels is painted where at most the share ``overlap`` of it is covered by things
    painted before; stuff is painted where at least ``stuff_area`` of its pixels are free. Both get their free pixels alone.
    """
    segment_BHW, number = empty_BHW, 0
    for mask_BHW in things:
        number += 1
        free_BHW = mask_BHW & (segment_BHW == 0)
        area_B, free_B = mask_BHW.sum((1, 2)), free_BHW.sum((1, 2))
        covered_B = _exact(area_B - free_B) / _exact(area_B.clamp(min=1))
        painted_B = (area_B > 0) & (covered_B <= thresholds.overlap)
        segment_BHW = torch.where(free_BHW & painted_B[:, None, None], number, segment_BHW)
    for mask_BHW in stuff:
        number += 1
        free_BHW = mask_BHW & (segment_BHW == 0)
        painted_B = free_BHW.sum((1, 2)) >= thresholds.stuff_area
        segment_BHW = torch.where(free_BHW & painted_B[:, None, None], number, segment_BHW)
    return segment_BHW


def _exact(count_B: Tensor) -> Tensor:
    """Counts as the floating-point numbers whose ratios are as exact as Python's, where the device has them."""
    return count_B.to(torch.float32 if count_B.device.type == "mps" else torch.float64)


def _to_panoptic(segment_HW: np.ndarray, class_S: np.ndarray, score_S: np.ndarray, table: ClassTable) -> Panoptic:
    numbers, areas = present_segments(segment_HW)
    class_ids = class_S[numbers - 1].astype(np.int32)
    picture = Panoptic(segment_HW, Segments(numbers, class_ids, score_S[numbers - 1], areas, kinds_of(class_ids, table)))
    return picture.relabel()
