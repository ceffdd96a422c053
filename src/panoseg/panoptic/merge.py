"""Merging scored masks, which may overlap, into one picture.

Source of the rule: Sainte Fare Garnot and Landrieu, "Panoptic Segmentation of Satellite Image Time
Series with Convolutional Temporal Attention Networks", ICCV 2021, section 3.3, as in
VSainteuf/utae-paps @ 987874e, src/panoptic/paps.py.

Shape suffixes: B images, N candidates of all images, K classes, H W pixels, P pairs of a candidate
and one of its pixels.
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
class ScoredMasks:
    """Candidate instances of a batch, before they are merged into one picture; any instance head
    makes them.

    mask_NHW: bool, each in its whole image. score_N: float32 0..1. class_scores_NK: float32, the
    best counts. image_N: int64, which image of the batch a candidate belongs to, ascending. logits:
    whether the class scores are logits, else probabilities.
    """

    mask_NHW: Tensor
    score_N: Tensor
    class_scores_NK: Tensor
    image_N: Tensor
    logits: bool = True

    def probabilities_NK(self, table: ClassTable) -> Tensor:
        """How likely each candidate is of each class, given that it is a thing: float32, adding up
        to 1 over the classes of things, 0 for others. It says nothing of whether there is a thing:
        that is the score.
        """
        things = list(table.ids("thing"))
        score_NT = self.class_scores_NK[:, things].float()
        probability_NK = torch.zeros_like(self.class_scores_NK, dtype=torch.float32)
        if self.logits:
            probability_NK[:, things] = score_NT.softmax(dim=1)
        else:
            probability_NK[:, things] = score_NT / score_NT.sum(dim=1, keepdim=True).clamp(
                min=torch.finfo(torch.float32).tiny
            )
        return probability_NK


def merge_masks(
    masks: ScoredMasks, batch_size: int, min_remain: float = 0.5, min_score: float = 0.0
) -> tuple[Tensor, Tensor]:
    """One picture an image: candidates by descending score, each given the pixels that no better
    one has.

    A candidate with pixels is accepted where none of them is taken, or where more than the share
    ``min_remain`` of them is free; of equal scores the earlier comes first. Candidates below
    ``min_score`` take no part.

    Returns segment_BHW (int32, number of the candidate plus one, 0 none) and accepted_N (bool), on
    the masks' device.

    Each candidate's fate depends on better ones alone, so judging all at once from the fates of the
    last round settles at least one more of them a round, and what no longer changes is what judging
    one by one gives. A few rounds do.
    """
    count, height, width = masks.mask_NHW.shape
    pixels = height * width
    candidate_P, pixel_P = _pairs(masks.mask_NHW.flatten(1))
    pixel_P = pixel_P + masks.image_N[candidate_P] * pixels
    order_N = masks.score_N.sort(descending=True, stable=True).indices
    rank_N = torch.empty_like(order_N)
    rank_N[order_N] = torch.arange(count, device=order_N.device)
    rank_P = rank_N[candidate_P]
    end_N = torch.bincount(candidate_P, minlength=count).cumsum(0)
    total_N = end_N.diff(prepend=end_N.new_zeros(1))
    eligible_N = (total_N > 0) & (masks.score_N >= min_score)

    accepted_N = eligible_N
    while True:
        taken_P = torch.where(accepted_N[candidate_P], rank_P, count)
        owner = torch.full((batch_size * pixels,), count, device=rank_P.device)
        owner.scatter_reduce_(0, pixel_P, taken_P, "amin")
        free_N = _sums((owner[pixel_P] >= rank_P), end_N)
        judged_N = eligible_N & ((free_N == total_N) | (free_N / total_N > min_remain))
        if torch.equal(judged_N, accepted_N):
            break
        accepted_N = judged_N
    number = torch.cat([order_N + 1, order_N.new_zeros(1)]).to(torch.int32)
    return number[owner].view(batch_size, height, width), accepted_N


def to_panoptics(segment_BHW: Tensor, masks: ScoredMasks, table: ClassTable) -> list[Panoptic]:
    """The pictures of ``merge_masks`` with their tables: one an image, ids from 1 in the order of
    the candidates.

    A segment's class is the best of its candidate's scores, whatever its kind; its score and its
    probabilities are the candidate's.
    """
    class_N = masks.class_scores_NK.argmax(dim=1).to(torch.int32).cpu().numpy()
    score_N = masks.score_N.float().cpu().numpy()
    probabilities_NK = masks.probabilities_NK(table).cpu().numpy()
    pictures = []
    for segment_HW in segment_BHW.cpu().numpy():
        numbers, areas = present_segments(segment_HW)
        own = numbers - 1
        ids = np.arange(1, len(own) + 1, dtype=np.int32)
        renumber = np.zeros(len(class_N) + 1, np.int32)
        renumber[numbers] = ids
        kinds = kinds_of(class_N[own], table)
        segments = Segments(ids, class_N[own], score_N[own], areas, kinds, probabilities_NK[own])
        pictures.append(Panoptic(renumber[segment_HW], segments))
    return pictures


def _pairs(mask_NP: Tensor) -> tuple[Tensor, Tensor]:
    if mask_NP.device.type == "cpu":
        # NumPy finds the set bits of a mostly empty mask several times faster than torch does.
        flat_P = torch.from_numpy(np.flatnonzero(mask_NP.numpy()))
    else:
        flat_P = mask_NP.flatten().nonzero().squeeze(1)
    return flat_P // mask_NP.shape[1], flat_P % mask_NP.shape[1]


def _sums(flag_P: Tensor, end_N: Tensor) -> Tensor:
    """Number of set flags of each candidate, whose pairs end before ``end_N``."""
    running = torch.nn.functional.pad(flag_P.cumsum(0), (1, 0))[end_N]
    return running.diff(prepend=running.new_zeros(1))


@dataclass(frozen=True)
class MergeThresholds:
    """What is kept.

    score: things from this score on, 0..1. overlap: things of which at most this share is covered
    by better ones, 0..1.
    stuff_area: stuff of which at least so many pixels are left by the things.
    """

    score: float = 0.5
    overlap: float = 0.5
    stuff_area: int = 4096

    def __post_init__(self) -> None:
        for name in ("score", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} {getattr(self, name)}", "a share 0 .. 1", f"pass e.g. --{name} 0.5"
                )
        if self.stuff_area < 0:
            raise ConfigError(
                f"stuff area {self.stuff_area}",
                "a number of pixels from 0 on",
                "pass e.g. --stuff-area 4096",
            )


@dataclass(frozen=True, eq=False)
class ThingsAndStuff:
    """Merged pictures, on the device of the masks.

    segment_BHW: int32, slot of each pixel plus one, 0 = none. class_BS: int64, class of each slot.
    score_BS: float, score of each slot, 1 for stuff. Things come first, by falling score, then the
    classes of stuff; most slots are empty.
    """

    segment_BHW: Tensor
    class_BS: Tensor
    score_BS: Tensor

    def to_panoptics(self, table: ClassTable) -> list[Panoptic]:
        """The pictures with their tables: ids from 1 in the order of the slots."""
        arrays = (
            array.cpu().numpy()
            for array in (self.segment_BHW, self.class_BS, self.score_BS.float())
        )
        return [
            _to_panoptic(segment, classes, scores, table)
            for segment, classes, scores in zip(*arrays, strict=True)
        ]


def merge_things_and_stuff(
    mask_BNHW: Tensor,
    score_BN: Tensor,
    class_BN: Tensor,
    semantic_BHW: Tensor,
    stuff_classes: Sequence[int],
    thresholds: MergeThresholds = MergeThresholds(),
) -> ThingsAndStuff:
    """Things by falling score, each given the pixels that no better one has; then stuff on what is
    left.

    mask_BNHW: bool, masks of candidates, which may overlap; pad with empty ones. score_BN: float,
    0..1; of equal scores the earlier comes first. class_BN: classes of the candidates.
    semantic_BHW: class of each pixel; classes other than ``stuff_classes`` draw nothing.
    """
    image_B = torch.arange(len(mask_BNHW), device=mask_BNHW.device)
    return merge_drawn(
        lambda n_B: mask_BNHW[image_B, n_B],
        score_BN,
        class_BN,
        semantic_BHW,
        stuff_classes,
        thresholds,
    )


def merge_drawn(
    draw: Callable[[Tensor], Tensor],
    score_BN: Tensor,
    class_BN: Tensor,
    semantic_BHW: Tensor,
    stuff_classes: Sequence[int],
    thresholds: MergeThresholds = MergeThresholds(),
) -> ThingsAndStuff:
    """``merge_things_and_stuff`` of masks that are drawn when their turn comes, so that only one is
    in memory.

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


def paint(
    empty_BHW: Tensor,
    things: Iterable[Tensor],
    stuff: Iterable[Tensor],
    thresholds: MergeThresholds,
) -> Tensor:
    """Paint masks, each bool B x H x W, onto an empty int32 picture: the first becomes 1, the next
    2, and so on.

    Things come by falling score. A thing with pixels is painted where at most the share ``overlap``
    of it is covered by things painted before; stuff is painted where at least ``stuff_area`` of its
    pixels are free. Both get their free pixels alone.
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
    """Counts as the floating-point numbers whose ratios are as exact as Python's, where the device
    has them.
    """
    return count_B.to(torch.float32 if count_B.device.type == "mps" else torch.float64)


def _to_panoptic(
    segment_HW: np.ndarray, class_S: np.ndarray, score_S: np.ndarray, table: ClassTable
) -> Panoptic:
    numbers, areas = present_segments(segment_HW)
    class_ids = class_S[numbers - 1].astype(np.int32)
    picture = Panoptic(
        segment_HW,
        Segments(numbers, class_ids, score_S[numbers - 1], areas, kinds_of(class_ids, table)),
    )
    return picture.relabel()
