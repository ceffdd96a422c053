"""Test-time augmentation: the masks predicted on rotated and mirrored images, fused into one set.

The masks that different augmentations give of one instance are averaged, as weighted boxes fusion
does with boxes (Solovyev, Wang and Gabruseva 2021, arXiv 1910.13302): the pixels on which most
augmentations agree stay, and the score of an instance that few of them see falls.

Shape suffixes: N candidates of all augmentations, M those that belong to an instance, G instances,
K classes, H W pixels, P pixels of all images in a row.
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

AUGMENTATIONS = 8
"""Number of symmetries of a square: four quarter turns, each plain and mirrored."""
_SAME_IOU = 0.5


@dataclass(frozen=True)
class SoftMasks:
    """Candidate instances with mask probabilities, before a threshold turns them into masks."""

    probability_NHW: Tensor
    """Float, N x H x W, 0..1: mask probability, each in its whole image."""
    score_N: Tensor
    """float32, N, 0..1."""
    class_probability_NK: Tensor
    """float32, N x K: probability of each class."""
    image_N: Tensor
    """int64, N, ascending: which image of the batch a candidate belongs to."""


def augment(images: Tensor, augmentation: int) -> Tensor:
    """Rotate and mirror images.

    Args:
        images: Any tensor whose last two axes are rows and columns.
        augmentation: 0..7; 0 is the identity, odd numbers are mirrored.

    >>> augment(torch.tensor([[1, 2], [3, 4]]), 1).tolist()
    [[2, 1], [4, 3]]
    """
    rotated = torch.rot90(images, augmentation // 2, (-2, -1))
    return rotated.flip(-1) if augmentation % 2 else rotated


def undo_augmentation(images: Tensor, augmentation: int) -> Tensor:
    """Undo ``augment``.

    >>> images = torch.arange(6).view(2, 3)
    >>> all(torch.equal(undo_augmentation(augment(images, n), n), images) for n in range(8))
    True
    """
    plain = images.flip(-1) if augmentation % 2 else images
    return torch.rot90(plain, -(augmentation // 2), (-2, -1))


def chosen_augmentations(count: int) -> tuple[int, ...]:
    """Return the augmentations to use for a count of 1..8.

    Two are the image and its half turn; from four on there are mirrored ones.

    >>> chosen_augmentations(4)
    (0, 4, 1, 5)
    """
    return (0, 4, 1, 5, 2, 6, 3, 7)[:count]


def fuse_masks(predictions: Sequence[SoftMasks], mask_threshold: float) -> SoftMasks:
    """Fuse the candidates of several augmentations into instances, image by image.

    Candidates are visited by falling score. Each one that is still free starts an instance, and
    takes from every augmentation the free mask that fits best, with an IoU above one half; other
    masks that fit are dropped. An instance is the mean of its candidates weighted by score, and its
    score is the sum of their scores over the number of augmentations.

    Args:
        predictions: The candidates of each augmentation, with the augmentation undone.
        mask_threshold: Probability from which on a pixel belongs to a candidate's mask, 0..1.
    """
    score_N = torch.cat([masks.score_N for masks in predictions])
    image_N = torch.cat([masks.image_N for masks in predictions])
    probability_NHW = torch.cat([masks.probability_NHW for masks in predictions])
    class_probability_NK = torch.cat([masks.class_probability_NK for masks in predictions])
    source_N = np.repeat(np.arange(len(predictions)), [len(masks.score_N) for masks in predictions])
    iou_NN = _iou(probability_NHW > mask_threshold, image_N)
    group_N = _groups(iou_NN, score_N.cpu().numpy(), image_N.cpu().numpy(), source_N)

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
        mean(probability_NHW), total_G / len(predictions), mean(class_probability_NK), image_G
    )


def _iou(mask_NHW: Tensor, image_N: Tensor) -> csr_array:
    """Return the IoU of every pair of masks that share pixels of one image, N x N.

    The diagonal is stored for the masks that have pixels.
    """
    from scipy.sparse import csr_array  # imported here: training needs no SciPy

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
    iou_NN: csr_array, score_N: np.ndarray, image_N: np.ndarray, source_N: np.ndarray
) -> np.ndarray:
    """Assign candidates to instances.

    Returns:
        int64, N: instance of each candidate, numbered by image and falling score; -1 = dropped.
    """
    free_N, group_N, groups = np.ones(len(score_N), bool), np.full(len(score_N), -1), 0
    for leader in np.lexsort((-score_N, image_N)):
        start, stop = iou_NN.indptr[leader : leader + 2]
        if not free_N[leader] or start == stop:  # taken already, or a mask without pixels
            continue
        other, iou = iou_NN.indices[start:stop], iou_NN.data[start:stop]
        fits = free_N[other] & (iou > _SAME_IOU)
        other, iou = other[fits], iou[fits]
        free_N[other] = False
        by_iou = other[np.lexsort((other, -iou))]
        _, first = np.unique(source_N[by_iou], return_index=True)
        group_N[by_iou[first]] = groups
        groups += 1
    return group_N
