"""Losses by hand; the published sums are tested with the models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from panoseg.data.samples import CentreTargetsBatch
from panoseg.models.losses import PapsLoss, centre_loss, focal_loss, semantic_loss, size_loss
from panoseg.models.outputs import Candidates, MaskWindows, PapsOutput
from panoseg.training import PapsLossConfig


def test_semantic_loss_leaves_void_out():
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])
    classes = torch.tensor([[[0, 1]]])
    alone = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert semantic_loss(logits, classes, void=1).item() == pytest.approx(alone)
    assert semantic_loss(logits, classes).item() == pytest.approx((alone + math.log(2)) / 2)
    assert semantic_loss(logits, torch.ones_like(classes), void=1).item() == 0


def test_centre_loss_by_hand():
    heat, target = (
        torch.tensor([[[0.5, 0.25], [0.1, 0.2]]]),
        torch.tensor([[[1.0, 1.0], [0.5, 0.0]]]),
    )
    expected = -(math.log(0.5) + math.log(0.25) + math.log(0.9) * 0.5**4 + math.log(0.8)) / 2
    assert centre_loss(heat, target).item() == pytest.approx(expected)
    weighted = (
        -(
            math.log(0.5) * 0.5
            + math.log(0.25) * 0.75
            + math.log(0.9) * 0.1 * 0.5
            + math.log(0.8) * 0.2
        )
        / 2
    )
    assert centre_loss(heat, target, alpha=1, beta=1).item() == pytest.approx(weighted)


def test_centre_loss_without_a_centre_is_not_divided():
    heat = torch.full((1, 2, 2), 0.5)
    assert centre_loss(heat, torch.zeros(1, 2, 2)).item() == pytest.approx(4 * math.log(2))


def test_centre_loss_keeps_its_gradient_in_half_precision():
    heat = torch.tensor([[[1.0, 0.0]]], dtype=torch.bfloat16, requires_grad=True)
    loss = centre_loss(heat, torch.tensor([[[0.0, 1.0]]]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert heat.grad.isfinite().all()


def test_focal_loss_by_hand():
    logits, classes = (
        torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [5.0, 0.0]]),
        torch.tensor([1, 0, 2]),
    )
    logits = torch.cat([logits, torch.full((3, 1), -100.0)], 1)
    plain = (-math.log(0.75) + math.log(2)) / 2
    assert focal_loss(logits, classes, void=2).item() == pytest.approx(plain)
    focal = (-math.log(0.75) * 0.25**2 + math.log(2) * 0.25) / 2
    assert focal_loss(logits, classes, gamma=2, void=2).item() == pytest.approx(focal)
    assert focal_loss(logits, torch.full((3,), 2), void=2).item() == 0
    assert focal_loss(logits, classes).item() > 30


def test_size_loss_by_hand():
    sizes, true = torch.tensor([[5.0, 8.0], [1.0, 1.0]]), torch.tensor([[10.0, 10.0], [0.0, 0.0]])
    assert size_loss(sizes, true, torch.tensor([True, False])).item() == pytest.approx(0.5 + 0.2)
    assert size_loss(sizes, true, torch.tensor([False, False])).item() == 0


def two_candidates() -> tuple[PapsOutput, CentreTargetsBatch]:
    """A 4 x 4 image: parcel 1 is the upper left 2 x 2, parcel 2 the right half; one candidate
    each.
    """
    instances = torch.zeros(1, 4, 4, dtype=torch.int32)
    instances[0, :2, :2], instances[0, :, 2:] = 1, 2
    zones = torch.ones(1, 4, 4, dtype=torch.int32)
    zones[:, :, 2:] = 2
    heat = torch.zeros(1, 4, 4)
    heat[0, 0, 0] = heat[0, 2, 2] = 1
    sizes = torch.where(zones[..., None] == 1, torch.tensor([2.0, 2.0]), torch.tensor([4.0, 2.0]))
    target = CentreTargetsBatch(heat, instances, zones, sizes, zones.long())
    probability = torch.tensor(
        [[[0.9, 0.9], [0.3, 0.9]], [[0.8, 0.8], [0.0, 0.0]]], requires_grad=True
    )
    inside = torch.tensor([[[True, True], [True, True]], [[True, True], [False, False]]])
    masks = MaskWindows(torch.tensor([0, 1]), torch.tensor([[0, 0], [1, 2]]), probability, inside)
    candidates = Candidates(
        centre_N3=torch.tensor([[0, 0, 0], [0, 1, 2]]),
        confidence_N=torch.tensor([0.7, 0.6]),
        class_scores_NK=torch.zeros(2, 3),
        size_N2=torch.tensor([[2.0, 3.0], [1.0, 2.0]]),
        box_N4=torch.tensor([[0, 0, 2, 2], [1, 2, 2, 4]]),
        masks=(masks,),
    )
    return PapsOutput(torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4), candidates), target


def test_the_parts_by_hand():
    losses = PapsLoss()(*two_candidates())
    assert losses.size.item() == pytest.approx((0.5 + 0.75) / 2)
    assert losses.classification.item() == pytest.approx(math.log(3))
    softened = [math.log1p(math.exp(1 - 2 * p)) for p in (0.9, 0.9, 0.3, 0.9, 0.8, 0.8)]
    assert losses.shape.item() == pytest.approx(sum(softened) / 6)
    assert losses.iou_N.tolist() == pytest.approx([3 / 4, 2 / 8])
    assert losses.confidence_N.tolist() == pytest.approx([0.7, 0.6])
    parts = losses.centre + losses.size + losses.shape + losses.classification
    assert losses.pixel == 0
    assert losses.total.item() == pytest.approx(parts.item())


def test_plain_cross_entropy_of_masks_by_hand():
    losses = PapsLoss(PapsLossConfig(shape="cross_entropy"))(*two_candidates())
    assert losses.shape.item() == pytest.approx(
        -sum(math.log(p) for p in (0.9, 0.9, 0.3, 0.9, 0.8, 0.8)) / 6
    )


def test_pixels_of_other_parcels_count_as_background():
    output, target = two_candidates()
    instances = target.instance_BHW.clone()
    instances[0, 0, 1] = 2
    losses = PapsLoss(PapsLossConfig(shape="cross_entropy"))(
        output, replace(target, instance_BHW=instances)
    )
    expected = -(math.log(0.9) * 2 + math.log(0.1) + math.log(0.3) + math.log(0.8) * 2) / 6
    assert losses.shape.item() == pytest.approx(expected)
    assert losses.iou_N.tolist() == pytest.approx([2 / 4, 2 / 9])


@pytest.mark.parametrize("part", ["centre", "size", "shape", "class", "pixel"])
@pytest.mark.parametrize("heatmap_only", [False, True])
def test_each_weight_scales_its_part(part, heatmap_only):
    output, target = two_candidates()
    output = replace(
        output,
        pixel_scores_BKHW=torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    output = replace(output, candidates=None) if heatmap_only else output
    classes = torch.ones(1, 4, 4).long()
    heavier, plain = (
        PapsLoss(PapsLossConfig(**{f"{part}_weight": weight}))(output, target, classes)
        for weight in (3.0, 1.0)
    )
    value = getattr(plain, {"class": "classification"}.get(part, part))
    assert (value > 0) == (not heatmap_only or part in ("centre", "pixel"))
    assert heavier.total.item() == pytest.approx((plain.total + 2 * value).item())


@pytest.mark.parametrize(
    ("option", "part"), [("alpha", "centre"), ("beta", "centre"), ("gamma", "classification")]
)
def test_each_exponent_changes_its_part(option, part):
    output, target = two_candidates()
    target = replace(target, heatmap_BHW=target.heatmap_BHW.clone())
    target.heatmap_BHW[0, 3, 3] = 0.5
    plain, changed = PapsLoss(), PapsLoss(PapsLossConfig(**{option: 2.0}))
    assert getattr(plain(output, target), part) != getattr(changed(output, target), part)


def test_the_loss_of_pixels_leaves_void_out():
    output, target = two_candidates()
    scores = torch.zeros(1, 3, 4, 4)
    scores[0, 2, 0] = 5.0
    classes = torch.full((1, 4, 4), 2)
    output = replace(output, pixel_scores_BKHW=scores)
    voided = classes.clone()
    voided[0, 1:] = 0
    with_void = PapsLoss(PapsLossConfig(pixel_weight=1.0), void=0)(output, target, voided)
    assert with_void.pixel.item() == pytest.approx(math.log(1 + 2 * math.exp(-5)))
    assert (
        with_void.pixel
        < PapsLoss(PapsLossConfig(pixel_weight=1.0), void=0)(output, target, classes).pixel
    )


def test_the_threshold_changes_the_iou():
    losses = PapsLoss(PapsLossConfig(mask_threshold=0.2))(*two_candidates())
    assert losses.iou_N.tolist() == pytest.approx([4 / 4, 2 / 8])


def test_void_and_no_parcel_are_not_supervised():
    output, target = two_candidates()
    assert (
        PapsLoss(void=1)(
            output, replace(target, zone_class_BHW=torch.ones(1, 4, 4).long())
        ).classification
        == 0
    )
    nowhere = torch.zeros_like(target.zone_BHW)
    losses = PapsLoss()(
        output,
        replace(target, zone_BHW=nowhere, instance_BHW=nowhere, size_BHW2=torch.zeros(1, 4, 4, 2)),
    )
    assert losses.size == losses.shape == losses.classification == 0
    assert len(losses.iou_N) == len(losses.confidence_N) == 0


def test_only_the_heat_map():
    output, target = two_candidates()
    losses = PapsLoss()(PapsOutput(output.heatmap_BHW), target)
    assert losses.total == losses.centre == centre_loss(output.heatmap_BHW, target.heatmap_BHW)
    assert losses.size == losses.shape == losses.classification == 0


def test_gradients_reach_the_masks_of_supervised_parcels_only():
    output, target = two_candidates()
    zones = target.zone_BHW.clone()
    zones[0, 1, 2] = 0
    PapsLoss()(output, replace(target, zone_BHW=zones)).total.backward()
    gradient = output.candidates.masks[0].probability_MLL.grad
    assert (gradient[0] != 0).all()
    assert (gradient[1] == 0).all()
