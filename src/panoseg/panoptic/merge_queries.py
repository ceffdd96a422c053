"""Merging of the queries of a mask transformer into one segmentation, by the published rule.

Cheng et al., "Masked-attention mask transformer for universal image segmentation", CVPR 2022, as in
facebookresearch/Mask2Former @ 161be51, mask2former/maskformer_model.py, ``panoptic_inference``.
Queries whose class is none, or whose score is not above a threshold, are left out. Each pixel goes
to the query with the largest product of score and mask probability. A query is dropped where the
pixels that it won are fewer than a share of its own mask. A pixel stays without a segment where the
probability of its query is too small. All queries of a class of stuff are one segment.

Shape suffixes: Q queries, C queries of one chunk, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from panoseg.panoptic.merge import ThingsAndStuff

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
