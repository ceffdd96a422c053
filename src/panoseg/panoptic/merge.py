"""Merging of scored masks, which may overlap, into one segmentation, by three published rules.

``merge_masks`` is the rule of PaPs for parcels: Sainte Fare Garnot and Landrieu, "Panoptic
Segmentation of Satellite Image Time Series with Convolutional Temporal Attention Networks",
ICCV 2021, section 3.3, as in VSainteuf/utae-paps @ 987874e, src/panoptic/paps.py.
``merge_things_and_stuff`` is the rule for photographs, with stuff on what the things leave free:
Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 7.
``merge_queries`` is the rule for the queries of a mask transformer: Cheng et al., "Masked-attention
mask transformer for universal image segmentation", CVPR 2022, as in facebookresearch/Mask2Former @
161be51, mask2former/maskformer_model.py, ``panoptic_inference``. Queries whose class is none, or
whose score is not above a threshold, are left out. Each pixel goes to the query with the largest
product of score and mask probability. A query is dropped where the pixels that it won are fewer
than a share of its own mask. A pixel stays without a segment where the probability of its query is
too small. All queries of a class of stuff are one segment.

Shape suffixes: B images, N candidates (of all images, or of each one where B comes first), S slots
of an image (its candidates, then the classes of stuff), K classes, T classes of things, H W pixels,
P pairs of a candidate and one of its pixels; of queries: Q queries, C queries of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.errors import ConfigError
from panoseg.panoptic import Panoptic, Segments
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


NO_CLASS = -1
"""Class of a query that shows nothing."""
_CHUNK = {"cpu": 2**21, "other": 2**24}
"""Probabilities that are in memory at a time: 8 MB, which stay in the cache of a CPU, or 64 MB."""


@dataclass(frozen=True)
class QueryThresholds:
    """Which queries and which of their pixels are kept."""

    score: float = 0.8
    """Score, 0..1, above which a query is kept."""
    mask: float = 0.5
    """Smallest probability, 0..1, of a pixel that belongs to a mask."""
    overlap: float = 0.2
    """Largest share of a mask, 0..1, that other queries may win."""


def merge_queries(
    draw: Callable[[Tensor], Tensor],
    score_Q: Tensor,
    class_Q: Tensor,
    size_HW: tuple[int, int],
    stuff_classes: Sequence[int],
    thresholds: QueryThresholds = QueryThresholds(),
) -> ThingsAndStuff:
    """Merge the queries of one image.

    On a GPU all shapes are fixed, and nothing waits for the device. A CPU does not look at the
    queries that are left out.

    Args:
        draw: Returns the mask probabilities (float C x H x W, 0..1) of some queries (int64, C).
        score_Q: Float, 0..1; of equal products the earlier query wins.
        class_Q: int64, class of each query; ``NO_CLASS`` for none.
        size_HW: Height and width of the image, in pixels.
        stuff_classes: Ids of the classes of stuff.
        thresholds: What is kept.

    Returns:
        A batch of one image, whose slots are the queries. Stuff has the slot of its first query,
        and the highest score of its queries.
    """
    is_kept_Q = (class_Q != NO_CLASS) & (score_Q > thresholds.score)
    query_Q = torch.arange(len(class_Q), device=class_Q.device)
    on_cpu = _is_cpu(class_Q)
    if on_cpu:
        query_Q = query_Q[is_kept_Q]
    pixels = _Pixels(len(class_Q), size_HW, score_Q.device)
    chunk = _CHUNK["cpu" if on_cpu else "other"]
    for query_C in _chunks(query_Q, max(1, chunk // max(1, size_HW[0] * size_HW[1]))):
        is_kept_C = None if on_cpu else is_kept_Q[query_C]
        pixels.add(draw(query_C), query_C, score_Q[query_C], is_kept_C, thresholds.mask)
    is_kept_Q = is_kept_Q & pixels.remains(1 - thresholds.overlap)
    slot_Q, score_Q = _joined_stuff(class_Q, score_Q, is_kept_Q, stuff_classes)
    number_Q = torch.where(is_kept_Q, slot_Q + 1, 0).to(torch.int32)
    number_Q = torch.cat([number_Q, number_Q.new_zeros(1)])  # of pixels that no query has won
    segment_HW = torch.where(pixels.inside_HW, number_Q[pixels.winner_HW], 0)
    return ThingsAndStuff(segment_HW[None], class_Q[None], score_Q[None])


def _is_cpu(values: Tensor) -> bool:
    return values.device.type == "cpu"


def _chunks(query_Q: Tensor, size: int) -> Iterator[Tensor]:
    return iter(query_Q.split(size)) if len(query_Q) else iter(())


class _Pixels:
    """The best query of each pixel so far, and how many pixels each query has."""

    def __init__(self, queries: int, size_HW: tuple[int, int], device: torch.device) -> None:
        self.queries = queries
        self.value_HW = torch.full(size_HW, -1.0, device=device)
        self.winner_HW = torch.full(size_HW, queries, device=device)
        self.inside_HW = torch.zeros(size_HW, dtype=torch.bool, device=device)
        self.area_Q = torch.zeros(queries, dtype=torch.int64, device=device)

    def add(
        self,
        probability_CHW: Tensor,
        query_C: Tensor,
        score_C: Tensor,
        is_kept_C: Tensor | None,
        threshold: float,
    ) -> None:
        """Let some more queries win pixels; None: all of them are kept."""
        self.area_Q[query_C] = _areas(probability_CHW >= threshold)
        value_CHW = probability_CHW * score_C[:, None, None]
        if is_kept_C is not None:
            # Below every product, so that a query that is left out wins nothing.
            value_CHW = value_CHW.masked_fill(~is_kept_C[:, None, None], -2.0)
        value_HW, place_HW = value_CHW.max(0)
        is_better_HW = value_HW > self.value_HW
        inside_HW = probability_CHW.gather(0, place_HW[None])[0] >= threshold
        self.value_HW = torch.maximum(self.value_HW, value_HW)
        self.winner_HW = torch.where(is_better_HW, query_C[place_HW], self.winner_HW)
        self.inside_HW = torch.where(is_better_HW, inside_HW, self.inside_HW)

    def remains(self, share: float) -> Tensor:
        """Return of which queries at least a share of the mask remains: bool, Q."""
        # One more place for the pixels that no query has won.
        won = torch.zeros(self.queries + 1, dtype=torch.int64, device=self.area_Q.device)
        winner_P = self.winner_HW.flatten()
        won_Q = won.scatter_add_(0, winner_P, torch.ones_like(winner_P))[:-1]
        # Apple's devices have no float64.
        kind = torch.float32 if won_Q.device.type == "mps" else torch.float64
        ratio_Q = won_Q.to(kind) / self.area_Q.clamp(min=1).to(kind)
        return (self.area_Q > 0) & (ratio_Q >= share)


def _areas(mask_CHW: Tensor) -> Tensor:
    """Return the number of pixels of each mask: int64, C."""
    if _is_cpu(mask_CHW):  # NumPy counts many times faster than torch
        return torch.tensor([np.count_nonzero(mask_HW) for mask_HW in mask_CHW.numpy()])
    return mask_CHW.sum((1, 2))


def _joined_stuff(
    class_Q: Tensor, score_Q: Tensor, is_kept_Q: Tensor, stuff_classes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the slot of each query, that of the first of its class for stuff, and its score."""
    if not len(class_Q):
        return class_Q, score_Q
    stuff = torch.tensor(list(stuff_classes), dtype=class_Q.dtype, device=class_Q.device)
    is_stuff_Q = torch.isin(class_Q, stuff) & is_kept_Q
    same_QQ = (class_Q[:, None] == class_Q) & is_stuff_Q[:, None] & is_stuff_Q
    same_QQ = same_QQ | torch.eye(len(class_Q), dtype=torch.bool, device=class_Q.device)
    slot_Q = same_QQ.int().argmax(1)
    return slot_Q, torch.where(same_QQ, score_Q, 0.0).amax(1)
