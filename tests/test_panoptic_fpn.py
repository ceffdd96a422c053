"""Panoptic FPN: the structure of the paper on torchvision's parts, what it learns of pixels and
objects, and its options.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from panoseg.errors import ConfigError
from panoseg.models import initial_weights
from panoseg.models.configs import config_from_json, fit_to_table, to_json
from panoseg.models.configs.photograph import PanopticFpnConfig
from panoseg.models.initial_weights import take_initial_weights
from panoseg.models.mask_rcnn import INSTANCE_LOSSES, SemanticHead
from panoseg.models.network import build_network
from panoseg.models.photograph_network import (
    DEVIATION,
    MEAN,
    Labels,
    panoptics,
    reach,
    semantic_loss,
)
from photograph_networks import TABLE, panoptic_fpn, photograph

LABELS = Labels.of(TABLE)


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_network(panoptic_fpn(**options))


def labels_of(one):
    return LABELS.of_photograph(one, "stuff")


def losses_of(network, photographs):
    torch.manual_seed(0)  # which proposals teach is drawn
    return network.train().image_losses(
        [one.image_CHW for one in photographs], [labels_of(one) for one in photographs]
    )


def predicted(network, height=64, width=64, size_HW=None):
    return network.eval().outputs(
        [photograph(height, width).image_CHW], [size_HW or (height, width)]
    )[0]


# Structure


def test_the_published_network_is_mask_rcnn_and_seven_convolutions():
    """torchvision's Mask R-CNN has 44,401,393 parameters for COCO's 90 numbers; the rest is counted
    by hand.
    """
    network = build_network(PanopticFpnConfig(things=90, stuff=53))
    first, further, norm, scores = 256 * 128 * 9, 128 * 128 * 9, 2 * 128, 128 * 54 + 54
    head = sum(value.numel() for value in network.semantic_head.parameters())
    assert head == 4 * first + 3 * further + 7 * norm + scores
    assert sum(value.numel() for value in network.parameters()) - head == 44_401_393


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return SemanticHead(4, 16, 32, 5)


def test_each_level_is_upsampled_until_stride_four(head):
    """Figure 3 of the paper: a convolution, a group norm, a ReLU and twice the size, as often as a
    level needs it.
    """
    for steps, level in enumerate(head.levels):
        kinds = [type(layer) for layer in level]
        block = [nn.Conv2d, nn.GroupNorm, nn.ReLU]
        assert kinds == (block if steps == 0 else [*block, nn.Upsample] * steps)
        for layer in level:
            if isinstance(layer, nn.Conv2d):
                assert (layer.kernel_size, layer.padding, layer.out_channels) == (
                    (3, 3),
                    (1, 1),
                    32,
                )
            if isinstance(layer, nn.Upsample):
                assert (layer.scale_factor, layer.mode) == (2, "bilinear")
        assert level(torch.randn(1, 16, 16 // 2**steps, 24 // 2**steps)).shape == (1, 32, 16, 24)


def test_levels_are_summed_before_the_classes_are_scored(head):
    maps = [torch.randn(2, 16, 16 // 2**level, 24 // 2**level) for level in range(4)]
    summed = sum(level(entry) for level, entry in zip(head.levels, maps, strict=True))
    assert head(maps).allclose(F.conv2d(summed, head.scores.weight, head.scores.bias), atol=1e-6)
    assert head(maps).shape == (2, 5, 16, 24)


def test_groups_of_the_published_width_are_32():
    norms = [
        layer
        for layer in SemanticHead(4, 256, 128, 54).modules()
        if isinstance(layer, nn.GroupNorm)
    ]
    assert len(norms) == 7
    assert {(layer.num_groups, layer.num_channels) for layer in norms} == {(32, 128)}


def test_one_backbone_feeds_both_heads():
    """A change of one weight of the backbone reaches scores of pixels and of objects."""
    network = small(min_score=0.0)
    before = predicted(network)
    with torch.no_grad():
        network.backbone.body.conv1.weight[0] += 0.5
    after = predicted(network)
    assert not torch.equal(before.maps_BKhw, after.maps_BKhw)
    assert not torch.equal(before.objects.score_BN, after.objects.score_BN)


def test_pixels_have_a_score_for_all_things_together_and_one_for_each_stuff():
    assert predicted(small()).maps_BKhw.shape == (1, 1 + 2, 16, 16)  # at stride 4


def test_colours_are_standardised_as_imagenets():
    network, image = small(), torch.full((3, 32, 32), 255, dtype=torch.uint8)
    found = network.padded([image]).tensors[0, :, 0, 0].tolist()
    assert found == pytest.approx(
        [(1 - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)], rel=1e-5
    )
    assert (MEAN, DEVIATION) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# Learning


def test_losses_are_named_finite_and_their_gradients_reach_every_parameter():
    network = small()
    losses = losses_of(network, [photograph()])
    assert tuple(losses) == network.loss_names == ("loss", *INSTANCE_LOSSES, "semantic")
    assert all(value.isfinite() for value in losses.values())
    losses["loss"].backward()
    assert [
        name
        for name, value in network.named_parameters()
        if value.grad is None or not value.grad.any()
    ] == []
    assert all(value.grad.isfinite().all() for value in network.parameters())


def test_the_loss_is_the_published_sum():
    """Instances count once, pixels one half (Kirillov et al. 2019; the published configuration)."""
    losses = losses_of(small(), [photograph()])
    instances = sum(losses[name].item() for name in INSTANCE_LOSSES)
    assert losses["loss"].item() == pytest.approx(
        instances + 0.5 * losses["semantic"].item(), rel=1e-5
    )


def test_the_loss_of_pixels_is_their_mean_cross_entropy():
    one, stride = photograph(), 4
    labels = labels_of(one)
    maps_Khw = torch.randn(3, 16, 16)
    logits = F.interpolate(maps_Khw[None], (64, 64), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(logits, labels.semantic_HW[None], ignore_index=255)
    assert semantic_loss(maps_Khw, stride, labels).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert (labels.semantic_HW == 255).any()


def test_void_teaches_nothing():
    one = photograph()
    nothing = replace(one, classes_HW=torch.full_like(one.classes_HW, -1))
    network = small()
    losses = losses_of(network, [nothing])
    assert losses["semantic"] == 0
    losses["loss"].backward()
    assert all(
        value.grad is None or not value.grad.any() for value in network.semantic_head.parameters()
    )
    assert all(
        value.grad.isfinite().all() for value in network.parameters() if value.grad is not None
    )


def test_an_image_without_objects_teaches_its_pixels():
    losses = losses_of(small(), [photograph(squares=False)])
    assert losses["mask"] == losses["box"] == 0
    assert losses["semantic"] > 0


def test_losses_are_means_over_images():
    # As many are learned from as there are: nothing is drawn.
    network, one, two = (
        small(anchors_per_image=4096, boxes_per_image=4096),
        photograph(),
        photograph(squares=False),
    )
    alone, both = (
        [losses_of(network, [entry]) for entry in (one, two)],
        losses_of(network, [one, two]),
    )
    for name in network.loss_names:
        assert both[name].item() == pytest.approx(
            (alone[0][name] + alone[1][name]).item() / 2, rel=1e-4, abs=1e-7
        ), name


def test_a_photograph_is_learned_by_heart():
    """Some fifty steps of descent, and the picture is right: classes, objects, and what belongs to
    none.
    """
    network, one = small(min_score=0.0, stuff_area=16), photograph()
    optimiser = torch.optim.AdamW(network.parameters(), 4e-3)
    first = losses_of(network, [one])["loss"].item()
    for _ in range(55):
        optimiser.zero_grad()
        loss = losses_of(network, [one])["loss"]
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.4 * first
    [picture] = panoptics(predicted(network), LABELS, "stuff", network.thresholds, TABLE)
    labelled = one.classes_HW >= 0
    right = torch.from_numpy(picture.classes_HW(-1))[labelled] == one.classes_HW[labelled]
    assert right.float().mean() > 0.85
    assert sorted(picture.segments.class_ids[picture.segments.is_thing].tolist()) == [2, 7]


# Prediction


@pytest.mark.parametrize("size_HW", [(64, 64), (37, 91), (120, 64)])
def test_outputs_have_the_size_asked_for(size_HW):
    found = predicted(small(min_score=0.0), 50, 70, size_HW)
    assert found.size_HW == size_HW
    assert found.semantic_BKHW.shape == (1, 3, *size_HW)
    assert found.label_BHW.shape == (1, *size_HW)
    assert found.objects.mask_BNHW.shape == (1, 10, *size_HW)
    right, bottom = found.objects.box_BN4[0].amax(0)[2:].tolist()
    assert right <= size_HW[1] + 1e-3
    assert bottom <= size_HW[0] + 1e-3
    [picture] = panoptics(found, LABELS, "stuff", small().thresholds, TABLE)
    assert picture.segment_HW.shape == size_HW


def test_padding_is_cut_away():
    """An image of 50 x 70 pixels covers 12.5 rows and 17.5 columns of a map at stride 4."""
    found = predicted(small(), 50, 70)
    assert found.maps_BKhw.shape[-2:] == (16, 24)
    assert found.reach_HW == reach((50, 70), 4) == (12.5, 17.5)


def test_an_image_does_not_depend_on_its_company():
    network = small(min_score=0.0).eval()
    images = [photograph(*size).image_CHW for size in ((64, 64), (60, 90), (64, 60))]
    images.append(images[0].flip(2))
    sizes = [(64, 64), (60, 90), (32, 30), (64, 64)]
    together = network.outputs(images, sizes)
    for one, image, size in zip(together, images, sizes, strict=True):
        alone = network.outputs([image], [size])[0]
        assert alone.size_HW == one.size_HW == size
        assert one.maps_BKhw.allclose(alone.maps_BKhw, atol=1e-5)
        assert one.objects.score_BN.allclose(alone.objects.score_BN, atol=1e-5)
        assert one.objects.box_BN4.allclose(alone.objects.box_BN4, atol=1e-2)


def test_an_image_does_not_depend_on_what_came_before():
    """Of 34 pixels that are padded to 64, torchvision's layers would guess other strides, and keep
    them.
    """
    image = photograph().image_CHW
    fresh = small(min_score=0.0).eval()
    used = small(min_score=0.0).eval()
    used.outputs([image[:, :34, :34]], [(34, 34)])
    expected, found = (network.outputs([image], [(64, 64)])[0].objects for network in (fresh, used))
    assert torch.equal(found.score_BN, expected.score_BN)
    assert torch.equal(found.shape_BNSS, expected.shape_BNSS)


# Options

SHAPES = {
    "things": 3,
    "stuff": 3,
    "backbone": "resnet50",
    "norm": "batch",
    "group_norm": False,
    "pyramid_width": 64,
    "box_width": 32,
    "mask_widths": (32, 16),
    "semantic_width": 32,
}
LOSSES = {
    "anchor_sizes": (4, 8, 16, 32, 64),
    "anchors_per_image": 16,
    "train_proposals": 20,
    "boxes_per_image": 8,
    "instance_weight": 2.0,
    "semantic_weight": 1.0,
}
OBJECTS = {
    "test_proposals": 5,
    "detections": 5,
    "min_score": 0.375,
    "box_overlap": 0.1,
    "mask_threshold": 0.3,
}
MERGING = {"merge_score": 0.9, "merge_overlap": 0.1, "stuff_area": 900}


def test_every_option_is_tried():
    assert {*SHAPES, *LOSSES, *OBJECTS, *MERGING, "weights"} == {
        entry.name for entry in fields(PanopticFpnConfig)
    }


@pytest.mark.parametrize("option", SHAPES)
def test_options_of_layers_change_the_entries(option):
    shapes = [
        {name: tuple(value.shape) for name, value in small(**options).state_dict().items()}
        for options in ({}, {option: SHAPES[option]})
    ]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize("option", LOSSES)
def test_options_of_training_change_the_loss(option):
    values = [
        losses_of(small(**options), [photograph()])["loss"].item()
        for options in ({}, {option: LOSSES[option]})
    ]
    assert values[0] != values[1]


@pytest.mark.parametrize("option", OBJECTS)
def test_options_of_prediction_change_the_objects(option):
    found = []
    for options in ({}, {option: OBJECTS[option]}):
        found.append(
            predicted(
                small(**{"min_score": 0.0, "detections": 300, "test_proposals": 100, **options})
            ).objects
        )
    if option == "detections":
        assert found[1].score_BN.shape == (1, 5)
    elif option == "mask_threshold":
        assert found[1].mask_BNHW.sum() > found[0].mask_BNHW.sum()
    else:
        assert (found[1].score_BN > 0).sum() < (found[0].score_BN > 0).sum()


@pytest.mark.parametrize("option", MERGING)
def test_options_of_merging_reach_the_picture(option):
    """One candidate of score 0.8, one of 0.7 a third of which it covers, 800 pixels of grass."""
    output = predicted(small())
    box = torch.tensor([[[0.0, 0.0, 30.0, 30.0], [20.0, 0.0, 50.0, 30.0]]])
    objects = replace(
        output.objects,
        shape_BNSS=torch.ones(1, 2, 28, 28),
        box_BN4=box,
        score_BN=torch.tensor([[0.8, 0.7]]),
        label_BN=torch.tensor([[1, 2]]),
    )
    maps = torch.zeros(1, 3, 64, 64)
    maps[:, 1, 40:60, :40] = 1  # grass
    maps[:, 0, :40] = 1
    output = replace(output, objects=objects, maps_BKhw=maps, reach_HW=(64.0, 64.0))
    classes = []
    for options in ({"stuff_area": 700}, {"stuff_area": 700, option: MERGING[option]}):
        [picture] = panoptics(output, LABELS, "stuff", small(**options).thresholds, TABLE)
        classes.append(picture.segments.class_ids.tolist())
    assert classes[0] == [2, 7, 3]
    assert classes[1] == {"merge_score": [3], "merge_overlap": [2, 3], "stuff_area": [2, 7]}[option]


def test_published_thresholds_are_the_defaults():
    config = PanopticFpnConfig()
    assert (config.merge_score, config.mask_threshold, config.merge_overlap, config.stuff_area) == (
        0.5,
        0.5,
        0.5,
        4096,
    )
    assert (config.instance_weight, config.semantic_weight) == (1.0, 0.5)


def test_initial_weights_fill_the_backbone(monkeypatch):
    torch.manual_seed(5)
    given = resnet18(weights=None).state_dict()
    monkeypatch.setattr(initial_weights, "fetch_state", lambda weights: given)
    network = small(norm="batch", weights="imagenet")
    assert not torch.equal(network.backbone.body.conv1.weight, given["conv1.weight"])
    assert "ImageNet's for the resnet18" in take_initial_weights(network, TABLE)
    for name, value in network.backbone.body.state_dict().items():
        assert torch.equal(value, given[name]), name
    drawn = small(norm="batch")
    assert take_initial_weights(drawn, TABLE) == "initial weights: drawn"
    assert not torch.equal(drawn.backbone.body.conv1.weight, given["conv1.weight"])


@pytest.mark.parametrize(("norm", "learns"), [("frozen", False), ("batch", True)])
def test_frozen_norms_keep_what_they_were_given(norm, learns):
    network = small(norm=norm, weights="imagenet")
    layer = network.backbone.body.layer1[0].bn1
    mean, scale = layer.running_mean.clone(), layer.weight.clone()
    parameters = [value for value in network.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(parameters, 0.01)
    losses_of(network, [photograph(), photograph(squares=False)])["loss"].backward()
    optimiser.step()
    assert torch.equal(layer.running_mean, mean) != learns
    assert torch.equal(layer.weight, scale) != learns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"semantic_width": 33}, "semantic_width must be 4, 8, 16 or multiples of 32, not (33,)"),
        ({"instance_weight": -1.0}, "instance_weight must be a number from 0, not -1.0"),
        ({"semantic_weight": float("nan")}, "semantic_weight must be a number from 0, not nan"),
        ({"merge_score": 1.5}, "merge_score must be from 0 to 1, not 1.5"),
        ({"merge_overlap": -0.5}, "merge_overlap must be from 0 to 1, not -0.5"),
        ({"stuff_area": -1}, "stuff_area must be a number of pixels from 0, not -1"),
        ({"stuff": 253}, "at most 254, not 253"),
        ({"stuff": -1}, "stuff must be at least 0, and with the things at most 254, not -1"),
        ({"weights": "coco"}, "weights must be one of none, imagenet, not 'coco'"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ConfigError) as error:
        panoptic_fpn(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_options_come_back_and_follow_the_classes():
    config = panoptic_fpn(stuff_area=7, merge_score=0.25)
    assert config_from_json(to_json(config)) == config
    fitted = fit_to_table(PanopticFpnConfig(), TABLE)
    assert (fitted.things, fitted.stuff, fitted.classes) == (2, 2, 4)
