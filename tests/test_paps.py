"""PaPs: the published outputs, windows against boxes one by one, centres by hand, and each
option.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseg.data.samples import CentreTargetsBatch
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import UConvLstmConfig
from panoseg.models.losses import PapsLoss
from panoseg.models.network import build_network
from panoseg.models.paps import (
    PaPs,
    clipped_boxes,
    group_by_side,
    inside_windows,
    local_maxima,
    resample,
    window_index,
    zone_centres,
)
from panoseg.panoptic.merge import merge_masks
from small_networks import SMALL_UTAE, season, small_paps

GOLDEN = {
    "paps": {},
    "paps_shape24": {"shape_size": 24},
    "paps_no_mask_conv": {"mask_convolution": False},
    "paps_uconvlstm": {"backbone": UConvLstmConfig()},
}


class Golden:
    """A golden case: the network with its weights, in evaluation mode, and its arrays."""

    def __init__(self, folder, golden_state, case: str) -> None:
        overrides = json.loads((folder / "utae-paps" / "cases.json").read_text())[case]["overrides"]
        state = golden_state(folder / "utae-paps" / f"{case}.params.json", overrides)
        self.model = PaPs(PapsConfig(**GOLDEN[case]))
        assert list(state) == list(self.model.state_dict())
        self.model.load_state_dict(state)
        self.model.eval()
        with np.load(folder / "utae-paps" / f"{case}.npz") as arrays:
            self.texts = {
                name: str(value) for name, value in arrays.items() if value.dtype.kind == "U"
            }
            self.arrays = {
                name: torch.from_numpy(value)
                for name, value in arrays.items()
                if name not in self.texts
            }
        images = self.arrays["x"]
        self.images = (images, self.arrays["dates"], (images != 0).flatten(2).any(2))
        target = self.arrays["target"]
        self.target = CentreTargetsBatch(
            target[..., 0],
            target[..., 1].int(),
            target[..., 2].int(),
            target[..., 3:5].clone(),
            target[..., 5].long(),
        )

    def near(self, found: torch.Tensor, name: str, atol: float = 1e-4) -> None:
        expected = self.arrays[name]
        torch.testing.assert_close(
            found.detach(), expected.view(found.shape).to(found.dtype), rtol=0, atol=atol
        )


@pytest.fixture(scope="module", params=GOLDEN)
def known(request, golden, golden_state):
    return Golden(golden, golden_state, request.param)


def test_prediction_equals_the_published_one(known):
    with torch.no_grad():
        output = known.model(*known.images, min_confidence=0.0)
    found = output.candidates
    assert torch.equal(found.centre_N3, known.arrays["center_mask"].nonzero())
    assert torch.equal(found.box_N4[:, [1, 0, 3, 2]], known.arrays["instance_boxes"])
    known.near(output.heatmap_BHW, "heatmap")
    known.near(output.saliency_BHW, "saliency")
    known.near(found.class_scores_NK, "semantic")
    known.near(found.size_N2, "size")
    known.near(found.confidence_N, "confidence")
    sums_N = torch.zeros(len(found.centre_N3), dtype=torch.float64)
    for group in found.masks:
        sums_N[group.candidate_M] = group.probability_MLL.double().sum((1, 2))
    known.near(sums_N, "instance_mask_sums")


def test_merged_picture_equals_the_published_one(known):
    with torch.no_grad():
        masks = known.model.scored_masks(known.model(*known.images))
    segment_BHW, _ = merge_masks(masks, 2)
    classes_BHW = torch.where(
        segment_BHW > 0, masks.class_scores_NK.argmax(1)[(segment_BHW - 1).clamp(min=0)], 0
    )
    assert torch.equal(classes_BHW.int(), known.arrays["pano_class"])
    published = known.arrays["pano_instance"]
    for ours, theirs in zip(segment_BHW, published, strict=True):
        pairs = torch.stack([ours.flatten(), theirs.flatten()]).unique(dim=1)
        assert len(pairs[0].unique()) == len(pairs[1].unique()) == pairs.shape[1]
        assert torch.equal(ours == 0, theirs == 0)


def test_training_step_equals_the_published_one(known):
    known.model.zero_grad()
    output = known.model(*known.images, zones_BHW=known.target.zone_BHW)
    assert torch.equal(output.candidates.centre_N3, known.arrays["train_center_mask"].nonzero())
    losses = PapsLoss(void=19)(output, known.target)
    losses.total.backward()
    assert losses.total.item() == pytest.approx(known.arrays["train_loss"].item(), rel=1e-5)
    parts = [
        losses.centre.item(),
        losses.size.item(),
        losses.shape.item(),
        losses.classification.item(),
    ]
    assert parts == pytest.approx(
        known.arrays["train_loss_center_size_shape_class"].tolist(), rel=1e-5
    )
    centre_N3 = output.candidates.centre_N3
    order = (centre_N3[:, 0] * 1000 + known.target.zone_BHW[centre_N3.unbind(1)]).argsort()
    known.near(losses.iou_N[order], "train_ious")
    known.near(losses.confidence_N[order], "train_confidences")
    gradients = {name: parameter.grad for name, parameter in known.model.named_parameters()}
    norms = json.loads(known.texts["grad_norms"])
    assert len(norms) > 100
    for name, norm in norms.items():
        found = 0.0 if gradients[name] is None else gradients[name].norm().item()
        assert found == pytest.approx(norm, rel=1e-3, abs=1e-3), name


def test_it_has_the_published_number_of_parameters():
    model = build_network(PapsConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_259_673


def test_centres_of_zones_by_hand():
    heat = torch.tensor([[[0.1, 0.9, 0.2], [0.4, 0.4, 0.3]], [[0.5, 0.5, 0.0], [0.6, 0.1, 0.7]]])
    zones = torch.tensor([[[1, 1, 2], [3, 3, 2]], [[0, 0, 0], [0, 7, 7]]], dtype=torch.int32)
    expected = torch.tensor([[[0, 1, 0], [1, 0, 1]], [[0, 0, 0], [0, 0, 1]]], dtype=torch.bool)
    assert torch.equal(zone_centres(heat, zones), expected)
    assert not zone_centres(heat, torch.zeros_like(zones)).any()


def test_local_maxima_by_hand():
    heat = torch.tensor(
        [[[0.9, 0.1, 0.1, 0.8], [0.1, 0.1, 0.1, 0.8], [0.1, 0.1, 0.1, 0.1], [0.15, 0.1, 0.1, 0.1]]]
    )
    expected = torch.tensor(
        [[[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]], dtype=torch.bool
    )
    assert torch.equal(local_maxima(heat), expected)


def test_boxes_by_hand():
    centres = torch.tensor([[5, 5], [0, 9], [9, 1]])
    start, boxes = clipped_boxes(
        centres, torch.tensor([[3, 4], [1, 5], [40, 3]]), height=10, width=11
    )
    assert start.tolist() == [[4, 3], [0, 7], [-11, 0]]
    assert boxes.tolist() == [[4, 3, 7, 7], [0, 7, 1, 11], [0, 0, 10, 3]]


boxes_of_centres = st.lists(
    st.tuples(st.integers(0, 19), st.integers(0, 23), st.integers(1, 60), st.integers(1, 60)),
    min_size=1,
    max_size=12,
)


@given(boxes_of_centres, st.sampled_from([1, 4, 7]))
@settings(max_examples=40, deadline=None)
def test_windows_equal_boxes_one_by_one(boxes, shape_size):
    """Shapes in windows are the resized and cropped shapes; values in windows are the crops of the
    image.
    """
    height, width = 20, 24
    box = torch.tensor(boxes)
    shapes, image = torch.randn(len(boxes), shape_size, shape_size), torch.randn(1, height, width)
    start, clipped = clipped_boxes(box[:, :2], box[:, 2:], height, width)
    groups = group_by_side(clipped)
    assert torch.cat([indices for indices, _ in groups]).sort().values.tolist() == list(
        range(len(boxes))
    )
    for indices, side in groups:
        corner = clipped[indices, :2]
        stretched = resample(shapes[indices], corner - start[indices], box[indices, 2:], side)
        inside = inside_windows(clipped[indices], side)
        values = image.flatten()[
            window_index(torch.zeros_like(indices), corner, side, height, width)
        ]
        for row, n in enumerate(indices.tolist()):
            top, left, bottom, right = clipped[n].tolist()
            offset = (clipped[n, :2] - start[n]).tolist()
            whole = F.interpolate(shapes[n][None, None], size=boxes[n][2:], mode="bilinear")[0, 0]
            crop = whole[offset[0] : offset[0] + bottom - top, offset[1] : offset[1] + right - left]
            expected = torch.zeros(side, side)
            expected[: bottom - top, : right - left] = crop
            torch.testing.assert_close(stretched[row] * inside[row], expected, rtol=0, atol=1e-5)
            assert torch.equal(
                values[row, : bottom - top, : right - left], image[0, top:bottom, left:right]
            )
            assert inside[row].sum() == (bottom - top) * (right - left)


def test_groups_of_windows_are_bounded():
    boxes = torch.tensor([[0, 0, 300, 5]] * 5 + [[0, 0, 3, 3]])
    assert [(len(indices), side) for indices, side in group_by_side(boxes)] == [
        (1, 4),
        (2, 300),
        (2, 300),
        (1, 300),
    ]


def four_zones(samples: int = 2) -> torch.Tensor:
    halves = torch.arange(16) // 8
    return (halves[:, None] * 2 + halves + 1).int().repeat(samples, 1, 1)


def test_mask_convolution_sees_each_box_alone():
    model = small_paps()
    torch.manual_seed(1)
    logits, inside = torch.randn(3, 9, 9), torch.zeros(3, 9, 9, dtype=torch.bool)
    extents = [(9, 9), (4, 7), (1, 1)]
    for row, (height, width) in enumerate(extents):
        inside[row, :height, :width] = True
    with torch.no_grad():
        together = model._mask(logits, torch.zeros_like(logits), inside)
        for row, (height, width) in enumerate(extents):
            box = logits[row, :height, :width][None, None]
            alone = torch.zeros(9, 9)
            alone[:height, :width] = (box.sigmoid() * model.mask_cnn(box).sigmoid())[0, 0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


def test_mask_convolution_can_be_left_out():
    names = PaPs(PapsConfig(SMALL_UTAE, mask_convolution=False)).state_dict()
    assert not [name for name in names if name.startswith("mask_cnn")]


def test_candidates_below_the_confidence_are_left_out_in_evaluation():
    model = small_paps()
    with torch.no_grad():
        everything = model(*season(), min_confidence=0.0).candidates
        model.min_confidence.fill_(everything.confidence_N.median())
        few = model(*season())
        kept_N = everything.confidence_N >= model.min_confidence
        assert 0 < len(few.candidates.centre_N3) == kept_N.sum() < len(everything.centre_N3)
        torch.testing.assert_close(
            few.candidates.class_scores_NK, everything.class_scores_NK[kept_N]
        )
        masks = model.scored_masks(model(*season(), min_confidence=0.0))
        assert torch.equal(masks.mask_NHW, model.scored_masks(few).mask_NHW)
        assert (masks.image_N.diff() >= 0).all()
        model.train()
        assert len(model(*season()).candidates.centre_N3) > 0


def test_mask_threshold_decides_about_pixels():
    few, many = (
        small_paps(mask_threshold=threshold, min_confidence=0.0) for threshold in (0.45, 0.05)
    )
    with torch.no_grad():
        small, large = (model.scored_masks(model(*season())).mask_NHW for model in (few, many))
    assert small.sum() < large.sum()
    assert not (small & ~large).any()


def test_scored_masks_lie_in_their_boxes():
    model = small_paps(mask_threshold=0.0, min_confidence=0.0)
    with torch.no_grad():
        output = model(*season())
    masks = model.scored_masks(output)
    for mask, box in zip(masks.mask_NHW, output.candidates.box_N4.tolist(), strict=True):
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[box[0] : box[2], box[1] : box[3]] = True
        assert torch.equal(mask, expected)


def test_heatmap_only_says_nothing_else():
    model = small_paps()
    output = model(*season(), heatmap_only=True)
    assert output.candidates is None
    assert output.saliency_BHW is None
    with pytest.raises(ValueError, match="only the heat map"):
        model.scored_masks(output)
    torch.testing.assert_close(output.heatmap_BHW, model(*season()).heatmap_BHW)


def test_zones_give_one_candidate_a_parcel():
    found = small_paps()(*season(), zones_BHW=four_zones()).candidates
    assert found.centre_N3[:, 0].tolist() == [0] * 4 + [1] * 4
    zones = four_zones()[found.centre_N3.unbind(1)]
    assert zones.view(2, 4).sort().values.tolist() == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("parcels", [0, 1])
def test_batches_with_hardly_a_parcel_can_be_learned_from(parcels):
    model = small_paps().train()
    zones = torch.zeros(2, 16, 16, dtype=torch.int32)
    zones[0] = parcels
    target = CentreTargetsBatch(
        torch.zeros(2, 16, 16), zones, zones, torch.ones(2, 16, 16, 2), zones.long()
    )
    running = model.size_mlp[1].running_mean.clone()
    output = model(*season(), zones_BHW=zones)
    assert len(output.candidates.centre_N3) == parcels
    losses = PapsLoss(void=3)(output, target)
    losses.total.backward()
    assert losses.total.isfinite()
    assert len(losses.iou_N) == parcels
    assert torch.equal(model.size_mlp[1].running_mean, running)
    merge_masks(model.eval().scored_masks(output), 2)


def test_half_precision_keeps_the_heads_exact():
    model = small_paps().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*season(), zones_BHW=four_zones())
    found = output.candidates
    for tensor in (
        output.heatmap_BHW,
        output.saliency_BHW,
        found.class_scores_NK,
        found.size_N2,
        found.masks[0].probability_MLL,
    ):
        assert tensor.dtype == torch.float32
    assert len(output.heatmap_BHW.unique()) > 500


def test_centres_of_a_batch_are_those_of_its_images():
    """Apart from the mean, which is the batch's, images do not see each other."""
    model = small_paps()
    images, days, valid = season()
    with torch.no_grad():
        both = model(images, days, valid).candidates
        first = model(images[:1], days[:1], valid[:1]).candidates
    common = (both.centre_N3[both.centre_N3[:, 0] == 0][:, None] == first.centre_N3).all(2)
    assert common.any(1).sum() >= 0.8 * len(first.centre_N3)
    row, other = common.nonzero().unbind(1)
    torch.testing.assert_close(both.size_N2[row], first.size_N2[other])


def test_pixel_scores_are_those_of_the_backbone():
    torch.manual_seed(0)
    model = PaPs(PapsConfig(SMALL_UTAE)).eval()
    images, days, valid = (
        torch.randn(1, 3, 3, 16, 16),
        torch.tensor([[1, 30, 90]]),
        torch.ones(1, 3, dtype=torch.bool),
    )
    with torch.no_grad():
        asked, not_asked = model(images, days, valid, pixel_scores=True), model(images, days, valid)
        assert torch.equal(asked.pixel_scores_BKHW, model.encoder(images, days, valid).logits_BKHW)
    assert not_asked.pixel_scores_BKHW is None
