"""One set of masks from several views of the same images: what is predicted of turned and mirrored
images, joined.

A network that sees a field from another side errs elsewhere. The masks that different views give of
one instance are averaged, as weighted boxes fusion does with boxes (Solovyev, Wang and Gabruseva
2021, arXiv 1910.13302): the pixels that most views agree on stay, and the score of what few views
see falls.

Shape suffixes: V views, N candidates of all views, G instances, K classes, H W pixels, P pixels of
all images in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array


VIEWS = 8
"""Views of a square: four quarter turns, each as it is and mirrored."""
_SAME_IOU = 0.5


@dataclass(frozen=True)
class SoftMasks:
    """Candidate instances whose masks are not yet decided.

    probability_NHW: float 0..1, each in its whole image. score_N: float32 0..1.
    class_probability_NK: float32, of each class.
    image_N: int64, which image of the batch a candidate belongs to, ascending.
    """

    probability_NHW: Tensor
    score_N: Tensor
    class_probability_NK: Tensor
    image_N: Tensor


def turn(images: Tensor, view: int) -> Tensor:
    """Images, or anything with rows and columns last, as view 0 .. 7 shows them; view 0 is what
    they are.

    >>> turn(torch.tensor([[1, 2], [3, 4]]), 1).tolist()
    [[2, 1], [4, 3]]
    """
    turned = torch.rot90(images, view // 2, (-2, -1))
    return turned.flip(-1) if view % 2 else turned


def turn_back(images: Tensor, view: int) -> Tensor:
    """What ``turn`` was given.

    >>> images = torch.arange(6).view(2, 3)
    >>> all(torch.equal(turn_back(turn(images, view), view), images) for view in range(VIEWS))
    True
    """
    return torch.rot90(images.flip(-1) if view % 2 else images, -(view // 2), (-2, -1))


def chosen_views(count: int) -> tuple[int, ...]:
    """``count`` of the views, 1 to 8; of two the second is upside down, of four there are mirrored
    ones.

    >>> chosen_views(4)
    (0, 4, 1, 5)
    """
    return (0, 4, 1, 5, 2, 6, 3, 7)[:count]


def fuse_views(views: Sequence[SoftMasks], mask_threshold: float) -> SoftMasks:
    """The instances that the views see, image by image, each the mean of its candidates weighted by
    their scores.

    Candidates are taken by falling score: each that no better one has claimed is an instance, and
    claims of every view the mask that fits it best, by IoU above one half; others that fit are
    dropped. The score of an instance is the sum of those of its candidates over the number of
    views. mask_threshold: what counts as the mask of a single candidate, 0..1.
    """
    score_N = torch.cat([masks.score_N for masks in views])
    image_N = torch.cat([masks.image_N for masks in views])
    probability_NHW = torch.cat([masks.probability_NHW for masks in views])
    class_probability_NK = torch.cat([masks.class_probability_NK for masks in views])
    view_N = np.repeat(np.arange(len(views)), [len(masks.score_N) for masks in views])
    iou_NN = _iou(probability_NHW > mask_threshold, image_N)
    group_N = _groups(iou_NN, score_N.cpu().numpy(), image_N.cpu().numpy(), view_N)

    chosen = torch.from_numpy(np.flatnonzero(group_N >= 0)).to(score_N.device)
    group_M = torch.from_numpy(group_N[group_N >= 0]).to(score_N.device)
    groups = int(group_N.max(initial=-1)) + 1
    weight_M = score_N[chosen]
    total_G = weight_M.new_zeros(groups).index_add_(0, group_M, weight_M)
    share_M = weight_M / total_G[group_M]

    def mean(values_N: Tensor) -> Tensor:
        shares = share_M.view(-1, *[1] * (values_N.dim() - 1))
        return values_N.new_zeros(groups, *values_N.shape[1:]).index_add_(
            0, group_M, values_N[chosen] * shares
        )

    image_G = image_N.new_zeros(groups).index_copy_(0, group_M, image_N[chosen])
    return SoftMasks(
        mean(probability_NHW), total_G / len(views), mean(class_probability_NK), image_G
    )


def _iou(mask_NHW: Tensor, image_N: Tensor) -> csr_array:
    """IoU of every pair of masks that share pixels of one image, N x N; the diagonal holds those
    that have pixels.
    """
    from scipy.sparse import csr_array  # training, which sees one view, needs no SciPy

    mask_NP = mask_NHW.flatten(1).cpu().numpy()
    row, pixel = np.nonzero(mask_NP)
    images, pixels = image_N.cpu().numpy(), mask_NP.shape[1]
    place = images[row] * pixels + pixel
    width = pixels * (int(images.max(initial=0)) + 1)
    sparse = csr_array((np.ones(len(row), np.float32), (row, place)), shape=(len(mask_NP), width))
    shared = (sparse @ sparse.T).tocoo()
    area_N = mask_NP.sum(1)
    union = area_N[shared.row] + area_N[shared.col] - shared.data
    return csr_array((shared.data / union, (shared.row, shared.col)), shape=shared.shape)


def _groups(
    iou_NN: csr_array, score_N: np.ndarray, image_N: np.ndarray, view_N: np.ndarray
) -> np.ndarray:
    """Which instance each candidate belongs to, numbered by image and falling score; -1 for those
    that are dropped.
    """
    free_N, group_N, groups = np.ones(len(score_N), bool), np.full(len(score_N), -1), 0
    for leader in np.lexsort((-score_N, image_N)):
        start, stop = iou_NN.indptr[leader : leader + 2]
        if not free_N[leader] or start == stop:  # claimed, or a mask without pixels
            continue
        other, iou = iou_NN.indices[start:stop], iou_NN.data[start:stop]
        fits = free_N[other] & (iou > _SAME_IOU)
        other, iou = other[fits], iou[fits]
        free_N[other] = False
        by_iou = other[np.lexsort((other, -iou))]
        _, first = np.unique(view_N[by_iou], return_index=True)
        group_N[by_iou[first]] = groups
        groups += 1
    return group_N
