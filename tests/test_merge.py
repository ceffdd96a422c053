"""Merging scored masks: against judging the candidates one by one, as the published program
does.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseg.classes import PASTIS
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.paps import PaPs
from panoseg.panoptic import Panoptic
from panoseg.panoptic.merge import ScoredMasks, merge_masks, to_panoptics

A = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
B = [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
C = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]


def scored(masks, scores, images=None, classes=None) -> ScoredMasks:
    mask_NHW = torch.tensor(np.array(masks), dtype=torch.bool)
    class_scores_NK = torch.zeros(len(scores), PASTIS.count)
    class_scores_NK[range(len(scores)), classes or [1] * len(scores)] = 1.0
    image_N = torch.tensor(images or [0] * len(scores), dtype=torch.int64)
    return ScoredMasks(
        mask_NHW, torch.tensor(scores, dtype=torch.float32), class_scores_NK, image_N
    )


def one_by_one(
    masks: ScoredMasks, batch_size: int, min_remain: float, min_score: float
) -> tuple[np.ndarray, np.ndarray]:
    """The rule as it is told: one candidate after the other, best first."""
    mask_NHW = masks.mask_NHW.numpy()
    segment_BHW = np.zeros((batch_size, *mask_NHW.shape[1:]), np.int32)
    accepted_N = np.zeros(len(mask_NHW), bool)
    for number in np.argsort(-masks.score_N.numpy(), kind="stable"):
        segment_HW = segment_BHW[masks.image_N[number]]
        free_HW = mask_NHW[number] & (segment_HW == 0)
        total, free = mask_NHW[number].sum(), free_HW.sum()
        if masks.score_N[number] < min_score or total == 0:
            continue
        if free == total or np.float32(free) / np.float32(total) > np.float32(min_remain):
            segment_HW[free_HW] = number + 1
            accepted_N[number] = True
    return segment_BHW, accepted_N


def test_a_better_mask_keeps_its_pixels_and_a_half_covered_one_is_rejected():
    segment_BHW, accepted_N = merge_masks(scored([A, B, C], [0.9, 0.8, 0.7]), 1)
    assert accepted_N.tolist() == [True, False, True]
    assert segment_BHW.dtype == torch.int32
    assert segment_BHW[0].tolist() == [[1, 1, 3, 3], [1, 1, 3, 3], [0, 0, 3, 3]]


def test_a_rejected_mask_hides_nothing():
    # B leaves A and C only half and two thirds; with B gone, C has all its pixels.
    segment_BHW, accepted_N = merge_masks(scored([A, B, C], [0.7, 0.8, 0.6]), 1)
    assert accepted_N.tolist() == [False, True, True]
    assert segment_BHW[0].tolist() == [[0, 2, 2, 3], [0, 2, 2, 3], [0, 0, 3, 3]]


def test_min_remain_decides_how_much_must_be_free():
    masks = scored([A, B], [0.9, 0.8])
    assert merge_masks(masks, 1, min_remain=0.5)[1].tolist() == [True, False]
    assert merge_masks(masks, 1, min_remain=0.49)[1].tolist() == [True, True]
    assert merge_masks(scored([A, C], [0.9, 0.8]), 1, min_remain=1.0)[1].all(), (
        "a mask that meets no other needs no share"
    )


def test_min_score_leaves_weak_candidates_out():
    masks = scored([A, C], [0.9, 0.2])
    assert merge_masks(masks, 1, min_score=0.3)[1].tolist() == [True, False]
    assert merge_masks(masks, 1, min_score=0.2)[1].tolist() == [True, True]


def test_images_do_not_touch_each_other():
    segment_BHW, accepted_N = merge_masks(scored([A, A, B], [0.5, 0.9, 0.8], [0, 1, 2]), 4)
    assert accepted_N.all()
    assert [sorted(image.unique().tolist()) for image in segment_BHW] == [
        [0, 1],
        [0, 2],
        [0, 3],
        [0],
    ]


def test_no_candidates():
    segment_BHW, accepted_N = merge_masks(scored(np.zeros((0, 3, 4)), []), 2)
    assert segment_BHW.tolist() == torch.zeros(2, 3, 4).tolist()
    assert accepted_N.shape == (0,)


@st.composite
def candidates(draw):
    batch_size, count = draw(st.integers(1, 3)), draw(st.integers(0, 25))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask_NHW = np.zeros((count, 9, 7), bool)
    for mask_HW in mask_NHW:
        top, left = random.integers(0, 8), random.integers(0, 6)
        window = mask_HW[top : top + random.integers(0, 7), left : left + random.integers(0, 7)]
        window[:] = random.random(window.shape) < random.choice([0.5, 1.0])
    scores = random.choice([0.1, 0.3, 0.5, 0.7, 0.9], count)  # few values, so that ties occur
    return scored(
        mask_NHW, scores.tolist(), sorted(random.integers(0, batch_size, count).tolist())
    ), batch_size


@settings(deadline=None, max_examples=200)
@given(candidates(), st.sampled_from([0.0, 0.3, 0.5, 2 / 3, 1.0]), st.sampled_from([0.0, 0.3]))
def test_equals_judging_one_by_one(given_masks, min_remain, min_score):
    masks, batch_size = given_masks
    segment_BHW, accepted_N = merge_masks(masks, batch_size, min_remain, min_score)
    expected_BHW, expected_N = one_by_one(masks, batch_size, min_remain, min_score)
    np.testing.assert_array_equal(segment_BHW.numpy(), expected_BHW)
    np.testing.assert_array_equal(accepted_N.numpy(), expected_N)


def test_a_long_chain_of_masks_each_overlapping_the_next():
    count = 40
    masks = np.zeros((count, 1, count + 1), bool)
    for number in range(count):
        masks[number, 0, number : number + 2] = True
    _, accepted_N = merge_masks(scored(masks, np.linspace(1, 0.1, count).tolist()), 1)
    assert accepted_N.tolist() == [number % 2 == 0 for number in range(count)]


def test_pictures_have_consecutive_ids_the_best_class_and_the_score():
    masks = scored([A, B, C, A], [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1], classes=[3, 1, 0, 5])
    pictures = to_panoptics(merge_masks(masks, 2)[0], masks, PASTIS)
    rows = [
        [
            (row.id, row.class_id, round(row.score, 4), row.area, row.kind)
            for row in picture.segments
        ]
        for picture in pictures
    ]
    assert rows == [[(1, 3, 0.9, 4, "thing"), (2, 0, 0.7, 6, "stuff")], [(1, 5, 0.6, 4, "thing")]]
    assert pictures[0].segment_HW.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 2, 2]]


def test_probabilities_are_those_of_the_things_alone():
    masks = scored([A, C], [0.9, 0.8])
    logits_NK = torch.randn(2, PASTIS.count, generator=torch.Generator().manual_seed(0))
    logits_NK[1, PASTIS.background] = (
        50.0  # more of a background than of any crop: so it is decided
    )
    masks = replace(masks, class_scores_NK=logits_NK)
    [picture] = to_panoptics(merge_masks(masks, 1)[0], masks, PASTIS)
    assert picture.segments.class_ids.tolist() == logits_NK.argmax(1).tolist()
    assert picture.segments.class_ids[1] == PASTIS.background
    things = list(PASTIS.ids("thing"))
    found = picture.segments.probabilities
    assert found.dtype == np.float32
    exponentials = np.exp(logits_NK.numpy().astype(np.float64)[:, things])
    np.testing.assert_allclose(
        found[:, things], exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-5
    )
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert not np.delete(found, things, axis=1).any()


def test_probabilities_that_are_no_logits_are_scaled_to_the_things():
    likely_NK = torch.zeros(1, PASTIS.count)
    likely_NK[0, [PASTIS.background, 2, 4]] = torch.tensor([0.5, 0.4, 0.1])
    masks = replace(scored([A], [0.9]), class_scores_NK=likely_NK, logits=False)
    [picture] = to_panoptics(merge_masks(masks, 1)[0], masks, PASTIS)
    assert picture.segments.probabilities[0, [PASTIS.background, 2, 4]].tolist() == pytest.approx(
        [0, 0.8, 0.2]
    )


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("paps", {}),
        ("paps_shape24", {"shape_size": 24}),
        ("paps_no_mask_conv", {"mask_convolution": False}),
    ],
)
def test_equals_the_published_program(golden, golden_state, case, options):
    folder = golden / "utae-paps"
    overrides = json.loads((folder / "cases.json").read_text())[case]["overrides"]
    model = PaPs(PapsConfig(**options)).eval()
    model.load_state_dict(golden_state(folder / f"{case}.params.json", overrides))
    with np.load(folder / f"{case}.npz") as arrays:
        images, days = (torch.from_numpy(arrays[name]) for name in ("x", "dates"))
        instances, classes = arrays["pano_instance"], arrays["pano_class"]
    with torch.no_grad():
        masks = model.scored_masks(model(images, days, torch.ones(days.shape, dtype=torch.bool)))
    segment_BHW, _ = merge_masks(masks, len(images))
    for picture, true_HW, class_HW in zip(
        to_panoptics(segment_BHW, masks, PASTIS), instances, classes, strict=True
    ):
        assert picture.same_up_to_ids(Panoptic.from_maps(true_HW, class_HW, PASTIS))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same():
    random = np.random.default_rng(0)
    masks = scored(
        random.random((60, 16, 16)) < 0.1,
        random.random(60).tolist(),
        sorted(random.integers(0, 3, 60).tolist()),
    )
    on_gpu = replace(
        masks,
        **{
            name: value.cuda()
            for name, value in vars(masks).items()
            if isinstance(value, torch.Tensor)
        },
    )
    for here, there in zip(merge_masks(masks, 3), merge_masks(on_gpu, 3), strict=True):
        assert torch.equal(here, there.cpu())
