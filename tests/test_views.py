"""Several views of one image: what turns comes back, what views agree on stays, and scores say how
many agreed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import ConfigError
from panoseg.maps import MapOptions
from panoseg.panoptic.merge import ScoredMasks
from panoseg.panoptic.tta import (
    AUGMENTATIONS,
    SoftMasks,
    augment,
    chosen_augmentations,
    fuse_masks,
    undo_augmentation,
)
from small_networks import season, small_paps


def soft(
    *masks: tuple[slice, slice, float], score: float = 0.8, probability: float = 0.9, image: int = 0
) -> SoftMasks:
    """Rectangles of an 8 x 8 image, each with its own score added to ``score``."""
    canvas = torch.zeros(len(masks), 8, 8)
    for number, (rows, columns, _) in enumerate(masks):
        canvas[number, rows, columns] = probability
    scores = torch.tensor([score + more for _, _, more in masks])
    classes = torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(masks), 1)
    return SoftMasks(canvas, scores, classes, torch.full((len(masks),), image))


LEFT, RIGHT = (slice(0, 8), slice(0, 4)), (slice(0, 8), slice(4, 8))


def test_the_views_are_eight_different_ones_and_come_back():
    images = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    views = [augment(images, view) for view in range(AUGMENTATIONS)]
    assert len({tuple(view.flatten().tolist()) for view in views}) == AUGMENTATIONS
    for number, view in enumerate(views):
        assert torch.equal(undo_augmentation(view, number), images)
    assert sorted(chosen_augmentations(AUGMENTATIONS)) == list(range(AUGMENTATIONS))


def test_equal_views_change_nothing():
    one = soft((*LEFT, 0.1), (*RIGHT, 0.0))
    joined = fuse_masks([one] * 4, 0.4)
    torch.testing.assert_close(joined.probability_NHW, one.probability_NHW)
    torch.testing.assert_close(joined.score_N, one.score_N)
    torch.testing.assert_close(joined.class_probability_NK, one.class_probability_NK)


def test_what_few_views_see_loses_score():
    both, one = soft((*LEFT, 0.1), (*RIGHT, 0.0)), soft((*LEFT, 0.1))
    joined = fuse_masks([both, one, one, one], 0.4)
    torch.testing.assert_close(joined.score_N, torch.tensor([0.9, 0.2]))


def test_masks_are_means_weighted_by_scores():
    narrow, wide = soft((slice(0, 8), slice(0, 4), 0.1)), soft((slice(0, 8), slice(0, 5), -0.5))
    joined = fuse_masks([narrow, wide], 0.4)
    assert len(joined.score_N) == 1
    assert joined.probability_NHW[0, 0, 3].item() == pytest.approx(0.9)
    assert joined.probability_NHW[0, 0, 4].item() == pytest.approx(0.9 * 0.3 / 1.2)


def test_what_views_say_of_classes_is_a_mean_weighted_by_scores():
    one, other = soft((*LEFT, 0.1)), soft((*LEFT, -0.5))
    other = replace(other, class_probability_NK=torch.tensor([[0.2, 0.2, 0.6]]))
    joined = fuse_masks([one, other], 0.4)
    torch.testing.assert_close(joined.class_probability_NK, torch.tensor([[0.05, 0.80, 0.15]]))
    masks = ScoredMasks(
        joined.probability_NHW > 0.25,
        joined.score_N,
        joined.class_probability_NK,
        joined.image_N,
        logits=False,
    )
    table = ClassTable(
        "three",
        tuple(
            SegmentClass(i, str(i), "#000000", kind)
            for i, kind in enumerate(("stuff", "thing", "thing"))
        ),
    )
    torch.testing.assert_close(
        masks.probabilities_NK(table), torch.tensor([[0.0, 0.80 / 0.95, 0.15 / 0.95]])
    )


def test_a_view_counts_once_for_an_instance():
    twice = soft((*LEFT, 0.0), (slice(0, 8), slice(0, 3), -0.1))
    joined = fuse_masks([twice, soft((*LEFT, 0.0))], 0.4)
    torch.testing.assert_close(joined.score_N, torch.tensor([0.8]))
    assert joined.probability_NHW[0, 0, 3].item() == pytest.approx(0.9)


def test_images_of_a_batch_do_not_mix_and_stay_in_their_order():
    first, second = soft((*LEFT, 0.0)), soft((*LEFT, 0.1), image=1)
    both = SoftMasks(
        *(
            torch.cat([getattr(part, name) for part in (first, second)])
            for name in ("probability_NHW", "score_N", "class_probability_NK", "image_N")
        )
    )
    joined = fuse_masks([both, both], 0.4)
    assert joined.image_N.tolist() == [0, 1]
    torch.testing.assert_close(joined.score_N, torch.tensor([0.8, 0.9]))
    torch.testing.assert_close(joined.probability_NHW, both.probability_NHW)


def test_masks_without_pixels_and_views_without_masks_are_left_out():
    empty = soft(probability=0.0)
    nothing = soft((*LEFT, 0.0), probability=0.1)
    assert len(fuse_masks([empty, nothing], 0.4).score_N) == 0
    assert len(fuse_masks([empty, soft((*LEFT, 0.0))], 0.4).score_N) == 1


@torch.no_grad()
def test_all_eight_views_do_not_care_how_the_image_is_turned():
    model = small_paps(min_confidence=0.0, mask_threshold=0.1)
    images, days, valid = season(size_hw=(16, 24))
    straight = model.masks(images, days, valid, tta=AUGMENTATIONS)
    turned = model.masks(augment(images, 3), days, valid, tta=AUGMENTATIONS)
    assert len(straight.score_N) == len(turned.score_N) > 0
    torch.testing.assert_close(
        straight.score_N.sort().values, turned.score_N.sort().values, rtol=1e-4, atol=1e-5
    )
    covered, covered_turned = straight.mask_NHW.any(0), undo_augmentation(turned.mask_NHW.any(0), 3)
    assert (covered == covered_turned).float().mean() > 0.99


@torch.no_grad()
def test_option_views_threshold_changes_joined_masks_alone():
    images, days, valid = season(size_hw=(16, 24))
    low, high = (
        small_paps(min_confidence=0.0, mask_threshold=0.1, views_threshold=0.05),
        small_paps(min_confidence=0.0, mask_threshold=0.1, views_threshold=0.6),
    )
    assert (
        low.masks(images, days, valid, 8).mask_NHW.sum()
        > high.masks(images, days, valid, 8).mask_NHW.sum()
    )
    assert torch.equal(
        low.masks(images, days, valid).mask_NHW, high.masks(images, days, valid).mask_NHW
    )


@torch.no_grad()
def test_one_view_gives_logits_and_several_give_probabilities():
    model = small_paps(min_confidence=0.0, mask_threshold=0.1)
    images, days, valid = season(size_hw=(16, 24))
    one, several = model.masks(images, days, valid), model.masks(images, days, valid, tta=2)
    assert (one.logits, several.logits) == (True, False)
    torch.testing.assert_close(several.class_scores_NK.sum(1), torch.ones(len(several.score_N)))
    assert not torch.allclose(one.class_scores_NK.sum(1), torch.ones(len(one.score_N)))


@pytest.mark.parametrize("views", [0, 9])
def test_a_number_of_views_that_there_is_not_is_refused(views):
    with pytest.raises(ConfigError, match="--tta must be from 1 to 8"):
        MapOptions(tta=views)
