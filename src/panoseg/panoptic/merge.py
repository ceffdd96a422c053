"""Merging of scored masks, which may overlap, into one segmentation, by two published rules.

``merge_masks`` is the rule of PaPs for parcels: Sainte Fare Garnot and Landrieu, "Panoptic
Segmentation of Satellite Image Time Series with Convolutional Temporal Attention Networks",
ICCV 2021, section 3.3, as in VSainteuf/utae-paps @ 987874e, src/panoptic/paps.py.
``merge_things_and_stuff`` is the rule for photographs, with stuff on what the things leave free:
Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 7.

Shape suffixes: B images, N candidates (of all images, or of each one where B comes first), S slots
of an image (its candidates, then the classes of stuff), K classes, T classes of things, H W pixels,
P pairs of a candidate and one of its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.errors import ConfigError
from panoseg.panoptic.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import kinds_of, present_segments


@dataclass(frozen=True)
class ScoredMasks:
    """Candidate instances of a batch as an instance head predicts them, before merging."""

    mask_NHW: Tensor
    """Bool, N x H x W: each mask in its whole image."""
    score_N: Tensor
    """float32, N, 0..1."""
    class_scores_NK: Tensor
    """float32, N x K: a candidate belongs to the class with the highest score."""
    image_N: Tensor
    """int64, N, ascending: which image of the batch a candidate belongs to."""
    logits: bool = True
    """Whether the class scores are logits; otherwise they are probabilities."""

    def probabilities_NK(self, table: ClassTable) -> Tensor:
        """Return class probabilities given that a candidate is a thing: float32, N x K.

        A row sums to 1 over the classes of things and is 0 for others. Whether there is a thing at
        all is said by the score instead.
        """
        things = list(table.ids("thing"))
        score_NT = self.class_scores_NK[:, things].float()
        probability_NK = torch.zeros_like(self.class_scores_NK, dtype=torch.float32)
        if self.logits:
            probability_NK[:, things] = score_NT.softmax(dim=1)
        else:
            smallest = torch.finfo(torch.float32).tiny
            total_N1 = score_NT.sum(dim=1, keepdim=True).clamp(min=smallest)
            probability_NK[:, things] = score_NT / total_N1
        return probability_NK


def merge_masks(
    masks: ScoredMasks, batch_size: int, min_remain: float = 0.5, min_score: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Merge candidates by descending score; each gets the pixels that no better one has.

    A candidate with pixels is accepted if none of them is taken, or if more than the share
    ``min_remain`` of them is free; of equal scores the earlier candidate comes first.

    Args:
        masks: The candidates of a batch.
        batch_size: Number of images B.
        min_remain: 0..1.
        min_score: Candidates below this score are ignored.

    Returns:
        segment_BHW (int32: index of the candidate plus one, 0 = none) and accepted_N (bool), on the
        device of the masks.
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

    # A candidate depends only on better ones. Judging all at once from the decisions of the last
    # round therefore settles at least one more of them per round, and the fixed point equals
    # judging one by one. A few rounds are enough in practice.
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
    """Turn the result of ``merge_masks`` into one ``Panoptic`` per image.

    Ids start at 1, in the order of the candidates. The class of a segment is the one with its
    candidate's highest class score, of any kind; score and probabilities are the candidate's.
    """
    class_N = masks.class_scores_NK.argmax(dim=1).to(torch.int32).cpu().numpy()
    score_N = masks.score_N.float().cpu().numpy()
    probabilities_NK = masks.probabilities_NK(table).cpu().numpy()
    results = []
    for segment_HW in segment_BHW.cpu().numpy():
        numbers, areas = present_segments(segment_HW)
        own = numbers - 1
        ids = np.arange(1, len(own) + 1, dtype=np.int32)
        renumber = np.zeros(len(class_N) + 1, np.int32)
        renumber[numbers] = ids
        kinds = kinds_of(class_N[own], table)
        segments = Segments(ids, class_N[own], score_N[own], areas, kinds, probabilities_NK[own])
        results.append(Panoptic(renumber[segment_HW], segments, table))
    return results


def _pairs(mask_NP: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the set pixels of masks, ascending: int64, P each."""
    if mask_NP.device.type == "cpu":
        # NumPy finds the set bits of a mostly empty mask several times faster than torch does.
        flat_P = torch.from_numpy(np.flatnonzero(mask_NP.numpy()))
    else:
        flat_P = mask_NP.flatten().nonzero().squeeze(1)
    return flat_P // mask_NP.shape[1], flat_P % mask_NP.shape[1]


def _sums(flag_P: Tensor, end_N: Tensor) -> Tensor:
    """Count the set flags of each candidate, whose pairs end before ``end_N``."""
    running = torch.nn.functional.pad(flag_P.cumsum(0), (1, 0))[end_N]
    return running.diff(prepend=running.new_zeros(1))


@dataclass(frozen=True)
class MergeThresholds:
    """Which things and which stuff the merging keeps."""

    score: float = 0.5
    """Smallest score of a thing, 0..1."""
    overlap: float = 0.5
    """Largest share of a thing that better things may cover, 0..1."""
    stuff_area: int = 4096
    """Smallest number of pixels of a class of stuff that the things leave free."""

    def __post_init__(self) -> None:
        for name in ("score", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"--{name} is {getattr(self, name)}; pass a share from 0 to 1, e.g. 0.5."
                )
        if self.stuff_area < 0:
            raise ConfigError(
                f"--stuff-area is {self.stuff_area}; pass a number of pixels from 0 on, e.g. 4096."
            )


@dataclass(frozen=True, eq=False)
class ThingsAndStuff:
    """Merged segmentations of a batch, on the device of the masks.

    The slots of an image are its candidates by falling score, then the classes of stuff; most slots
    have no pixels.
    """

    segment_BHW: Tensor
    """int32, B x H x W: slot of each pixel plus one, 0 = none."""
    class_BS: Tensor
    """int64, B x S: class of each slot."""
    score_BS: Tensor
    """Float, B x S: score of each slot, 0..1; 1 for stuff."""

    def to_panoptics(self, table: ClassTable) -> list[Panoptic]:
        """Return one ``Panoptic`` per image, with ids from 1 in the order of the slots."""
        segment_BHW, class_BS, score_BS = (
            array.cpu().numpy()
            for array in (self.segment_BHW, self.class_BS, self.score_BS.float())
        )
        results = []
        for segment_HW, class_S, score_S in zip(segment_BHW, class_BS, score_BS, strict=True):
            numbers, areas = present_segments(segment_HW)
            class_ids = class_S[numbers - 1].astype(np.int32)
            kinds = kinds_of(class_ids, table)
            segments = Segments(numbers, class_ids, score_S[numbers - 1], areas, kinds)
            results.append(Panoptic(segment_HW, segments, table).relabel())
        return results


def merge_things_and_stuff(
    mask_BNHW: Tensor,
    score_BN: Tensor,
    class_BN: Tensor,
    semantic_BHW: Tensor,
    stuff_classes: Sequence[int],
    thresholds: MergeThresholds = MergeThresholds(),
) -> ThingsAndStuff:
    """Merge things by falling score, then stuff on the pixels that they leave free.

    Args:
        mask_BNHW: Bool, B x N x H x W: masks of candidates, padded with empty ones.
        score_BN: Float, 0..1; of equal scores the earlier candidate comes first.
        class_BN: Integers: class of each candidate.
        semantic_BHW: Integers: class of each pixel. Only ``stuff_classes`` are used.
        stuff_classes: Ids of the classes of stuff.
        thresholds: What is kept.
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
    """Merge as ``merge_things_and_stuff`` does, with only one mask per image in memory.

    Args:
        draw: Returns the masks (bool, B x H x W) of the given candidates (int64, one per image).
        score_BN: See ``merge_things_and_stuff``, as for the other arguments.
        class_BN: Classes of the candidates.
        semantic_BHW: Class of each pixel.
        stuff_classes: Ids of the classes of stuff.
        thresholds: What is kept.
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
    """Paint masks onto an empty raster: the first becomes segment 1, the next 2, and so on.

    A thing with pixels is painted if at most the share ``overlap`` of it is covered by things
    painted before; stuff is painted if at least ``stuff_area`` of its pixels are free. Both get
    only their free pixels.

    Args:
        empty_BHW: int32 zeros.
        things: Masks by falling score, bool, B x H x W each.
        stuff: Masks of the classes of stuff, bool, B x H x W each.
        thresholds: What is kept.

    Returns:
        int32, B x H x W.
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
    """Convert counts to float64, whose ratios equal Python's; Apple's devices have float32 only."""
    return count_B.to(torch.float32 if count_B.device.type == "mps" else torch.float64)
