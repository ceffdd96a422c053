"""Mask R-CNN: torchvision's layers by its names, its published weights in other classes, options
that change what they say.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
import torchvision
from torchvision.models.detection.image_list import ImageList

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import ConfigError, WeightsError
from panoseg.models import initial_weights
from panoseg.models.configs import config_from_json, to_json
from panoseg.models.configs.photograph import DetectorConfig, MaskRcnnConfig
from panoseg.models.initial_weights import coco_things, published_mask_rcnn, take_initial_weights
from panoseg.models.network import build_network
from panoseg.models.outputs import PhotographLabels
from panoseg.models.photograph_network import Labels
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from photograph_networks import TABLE, mask_rcnn, photograph

LABELS = Labels.of(TABLE)
THINGS = ClassTable("things", tuple(entry for entry in TABLE.classes if entry.kind == "thing"))


@pytest.fixture(scope="module")
def published():
    """torchvision's own network with drawn weights, 91 scores."""
    torch.manual_seed(0)
    make = torchvision.models.detection.maskrcnn_resnet50_fpn
    network = make(
        weights=None,
        weights_backbone=None,
        box_score_thresh=0.0,
        rpn_post_nms_top_n_test=20,
        box_detections_per_img=5,
    )
    for entry in network.modules():  # scores that differ, and norms that do something
        if isinstance(entry, torch.nn.BatchNorm2d):
            entry.running_mean.normal_(std=0.05)
            entry.running_var.uniform_(0.8, 1.2)
    return network.eval()


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_network(mask_rcnn(**options))


def labels_of(one):
    return LABELS.of_photograph(one, None)


def loss_of(network, images, labels):
    torch.manual_seed(0)  # which proposals teach is drawn
    return network.train().image_losses(images, labels)


def test_parameters_and_names_are_torchvisions(published):
    network = build_network(MaskRcnnConfig(things=90))
    assert sum(value.numel() for value in network.parameters()) == 44_401_393
    kept = {
        name: tuple(value.shape)
        for name, value in published.state_dict().items()
        if "num_batches" not in name
    }
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == kept


def test_predictions_are_torchvisions(published):
    config = MaskRcnnConfig(
        things=90, test_proposals=20, detections=5, min_score=0.0, weights="imagenet"
    )
    network = build_network(config).eval()
    network.load_state_dict(
        {name: value for name, value in published.state_dict().items() if "num_batches" not in name}
    )
    published.rpn._pre_nms_top_n["testing"] = 20
    image = torch.randint(
        0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    batch = network.padded([image])
    with torch.no_grad():
        features = published.backbone(batch.tensors)
        boxes, _ = published.rpn(ImageList(batch.tensors, [(64, 96)]), features)
        expected = published.roi_heads(features, boxes, [(64, 96)])[0][0]
    found = network.outputs([image], [(128, 192)])[0].objects
    assert found.score_BN[0].allclose(expected["scores"], atol=1e-5)
    assert torch.equal(found.label_BN[0], expected["labels"])
    torch.testing.assert_close(
        found.box_BN4[0], expected["boxes"] * 2, rtol=0, atol=0.05
    )  # pixels, of logits of some tens
    assert found.shape_BNSS[0].allclose(
        expected["masks"][:, 0], atol=1e-3
    )  # drawn weights make logits of some tens


def test_candidates_are_fixed_in_number_and_padded():
    network = small(detections=7, min_score=0.0).eval()
    one = photograph()
    found = network.outputs([one.image_CHW], [(50, 70)])[0].objects
    assert found.score_BN.shape == (1, 7)
    assert found.mask_BNHW.shape == (1, 7, 50, 70)
    assert (found.score_BN.diff() <= 0).all()
    assert (found.label_BN[found.score_BN > 0] >= 1).all()
    none = small(min_score=1.0).eval().outputs([one.image_CHW], [(64, 64)])[0].objects
    assert none.score_BN.shape == (1, 10)
    assert not none.score_BN.any()
    assert not none.label_BN.any()
    assert not none.mask_BNHW.any()


def test_losses_are_named_and_gradients_reach_every_part():
    network, one = small(), photograph()
    losses = loss_of(network, [one.image_CHW], [labels_of(one)])
    assert tuple(losses) == network.loss_names
    assert losses["loss"].item() == pytest.approx(
        sum(losses[name].item() for name in network.loss_names[1:]), abs=1e-5
    )
    losses["loss"].backward()
    assert [
        name
        for name, value in network.named_parameters()
        if value.grad is None or not value.grad.any()
    ] == []


def test_an_image_without_objects_teaches_too():
    network, empty = small(), photograph(squares=False)
    losses = loss_of(network, [empty.image_CHW], [labels_of(empty)])
    assert losses["mask"] == losses["box"] == 0
    assert losses["class"] > 0
    losses["loss"].backward()
    assert all(
        value.grad is not None and value.grad.isfinite().all() for value in network.parameters()
    )


def test_losses_are_means_over_images():
    # As many are learned from as there are: nothing is drawn.
    network, one, two = (
        small(anchors_per_image=4096, boxes_per_image=4096),
        photograph(),
        photograph(squares=False),
    )
    parts = [loss_of(network, [entry.image_CHW], [labels_of(entry)]) for entry in (one, two)]
    both = loss_of(network, [one.image_CHW, two.image_CHW], [labels_of(one), labels_of(two)])
    for name in network.loss_names:
        assert both[name].item() == pytest.approx(
            (parts[0][name] + parts[1][name]).item() / 2, rel=1e-4
        ), name


def test_two_images_are_predicted_as_each_alone():
    network = small(min_score=0.0).eval()
    images = [
        photograph(64, 64).image_CHW,
        photograph(60, 90).image_CHW,
        photograph(64, 60).image_CHW,
    ]
    sizes = [(64, 64), (60, 90), (32, 30)]
    together = network.outputs(images, sizes)
    for one, image, size in zip(together, images, sizes, strict=True):
        alone = network.outputs([image], [size])[0]
        assert alone.size_HW == one.size_HW == size
        assert one.objects.score_BN.allclose(alone.objects.score_BN, atol=1e-5)
        assert one.objects.box_BN4.allclose(alone.objects.box_BN4, atol=1e-2)


CHANGES = {
    "things": 3,
    "backbone": "resnet50",
    "norm": "batch",
    "pyramid_width": 64,
    "anchor_sizes": (4, 8, 16, 32, 64),
    "box_width": 32,
    "mask_widths": (32, 16),
    "group_norm": False,
    "anchors_per_image": 16,
    "train_proposals": 20,
    "boxes_per_image": 8,
    "test_proposals": 5,
    "detections": 5,
    "min_score": 0.375,
    "box_overlap": 0.1,
    "mask_threshold": 0.3,
}


def test_every_option_is_tried():
    assert set(CHANGES) == {entry.name for entry in fields(DetectorConfig)}


@pytest.mark.parametrize(
    "option",
    ["things", "backbone", "pyramid_width", "box_width", "mask_widths", "group_norm", "norm"],
)
def test_options_of_layers_change_the_entries(option):
    shapes = [
        {name: tuple(value.shape) for name, value in small(**options).state_dict().items()}
        for options in ({}, {option: CHANGES[option]})
    ]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize(
    "option", ["anchor_sizes", "anchors_per_image", "train_proposals", "boxes_per_image"]
)
def test_options_of_training_change_the_loss(option):
    one = photograph()
    values = [
        loss_of(small(**options), [one.image_CHW], [labels_of(one)])["loss"].item()
        for options in ({}, {option: CHANGES[option]})
    ]
    assert values[0] != values[1]


@pytest.mark.parametrize(
    "option", ["test_proposals", "detections", "min_score", "box_overlap", "mask_threshold"]
)
def test_options_of_prediction_change_the_objects(option):
    one = photograph()
    found = []
    for options in ({}, {option: CHANGES[option]}):
        network = small(
            **{
                "min_score": 0.0,
                "train_proposals": 2000,
                "detections": 300,
                "test_proposals": 100,
                **options,
            }
        )
        found.append(network.eval().outputs([one.image_CHW], [(64, 64)])[0].objects)
    if option == "detections":
        assert found[1].score_BN.shape == (1, 5)
    elif option == "mask_threshold":
        assert found[1].mask_BNHW.sum() > found[0].mask_BNHW.sum()
    else:
        assert (found[1].score_BN > 0).sum() < (found[0].score_BN > 0).sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet9"}, "backbone must be one of resnet18, resnet50, not 'resnet9'"),
        ({"norm": "layer"}, "norm must be one of frozen, batch, group, not 'layer'"),
        ({"norm": "frozen"}, "weights none cannot be used with norm frozen"),
        ({"weights": "imagenet"}, "weights imagenet cannot be used with norm group"),
        ({"weights": "moon"}, "weights must be one of none, imagenet, coco, not 'moon'"),
        ({"weights": "coco", "norm": "frozen"}, "cannot be used with resnet18 and group_norm"),
        ({"things": 0}, "things must be from 1 to 254, not 0"),
        ({"things": 300}, "from 1 to 254"),
        ({"anchor_sizes": (8, 16)}, "anchor_sizes must have 5 entries, one for each level, not 2"),
        ({"mask_widths": ()}, "mask_widths must have at least one entry"),
        ({"pyramid_width": 100000}, "at most 4096"),
        ({"pyramid_width": 33}, "multiples of"),
        (
            {"detections": 4096, "mask_widths": (1024,)},
            "4096 detections with masks of 1024 channels are too many",
        ),
        (
            {"detections": 4096, "things": 200},
            "masks of 200 channels are too many: lower detections, so that their product is at most 500,000",
        ),
        ({"min_score": 1.5}, "from 0 to 1"),
        ({"mask_threshold": -0.1}, "from 0 to 1"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ConfigError) as error:
        mask_rcnn(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_options_and_weights_come_back_from_disk(tmp_path):
    config = mask_rcnn(detections=3, mask_widths=(16, 32))
    assert config_from_json(to_json(config)) == config
    network = build_network(config).eval()
    save_weights(tmp_path / "w", Weights(WeightsCard(config, None, THINGS), network.state_dict()))
    again = load_weights(tmp_path / "w")
    assert again.card.classes == THINGS
    image = photograph().image_CHW
    one, other = (
        entry.outputs([image], [(64, 64)])[0].objects for entry in (network, again.network())
    )
    assert torch.equal(one.score_BN, other.score_BN)


# Published weights, without the network that would fetch them


@pytest.fixture
def kept(published, monkeypatch):
    """torchvision's files, as if they were here."""
    state = published.state_dict()
    body = {
        name.removeprefix("backbone.body."): value
        for name, value in state.items()
        if name.startswith("backbone.body.")
    }
    files = {
        "coco": state,
        "imagenet": {**body, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)},
    }
    monkeypatch.setattr(
        initial_weights,
        "fetch_state",
        lambda weights: files["coco" if "COCO" in weights.name else "imagenet"],
        raising=True,
    )
    return state


def test_cocos_things_have_the_ids_of_its_files():
    table = coco_things()
    assert len(table.classes) == 80
    assert (table[1].name, table[18].name, table[90].name) == ("person", "dog", "toothbrush")
    assert table.ids("thing")[11] == 13  # 12 is not used
    assert len({entry.colour for entry in table.classes}) == 80


def test_published_weights_score_our_labels(kept):
    weights = published_mask_rcnn()
    assert weights.card.classes.count == 91
    network = weights.network()
    assert sum(value.numel() for value in network.parameters()) < 44_401_393
    ids = (0, *weights.card.classes.ids("thing"))
    for name, rows in (("cls_score", 1), ("bbox_pred", 4)):
        entry = f"roi_heads.box_predictor.{name}.weight"
        expected = torch.cat(
            [kept[entry][rows * class_id : rows * (class_id + 1)] for class_id in ids]
        )
        assert torch.equal(weights.state[entry], expected)
    assert {
        layer.eps for layer in network.modules() if type(layer).__name__ == "FrozenBatchNorm2d"
    } == {0.0}


def test_classes_that_coco_knows_by_name_are_taken(kept):
    table = ClassTable(
        "pets",
        (SegmentClass(3, "dog", "#000000", "thing"), SegmentClass(5, "dragon", "#000000", "thing")),
    )
    network = build_network(MaskRcnnConfig(things=2, weights="coco"))
    drawn = network.roi_heads.box_predictor.cls_score.weight.clone()
    line = take_initial_weights(network, table)
    assert line == "initial weights: COCO's; 1 of 2 things are among its classes, the others drawn"
    scores = network.roi_heads.box_predictor.cls_score.weight
    given = kept["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(scores[0], given[0])
    assert torch.equal(scores[1], given[18])
    assert torch.equal(scores[2], drawn[2])
    assert torch.equal(network.rpn.head.cls_logits.weight, kept["rpn.head.cls_logits.weight"])


def test_imagenet_fills_the_backbone_alone(kept):
    network = build_network(MaskRcnnConfig(things=2))
    before = network.rpn.head.cls_logits.weight.clone()
    assert "ImageNet's for the resnet50" in take_initial_weights(network, THINGS)
    assert torch.equal(
        network.backbone.body.layer4[2].conv3.weight, kept["backbone.body.layer4.2.conv3.weight"]
    )
    assert torch.equal(network.rpn.head.cls_logits.weight, before)
    assert take_initial_weights(small(), THINGS) == "initial weights: drawn"


@pytest.mark.parametrize("damaged", [False, True])
def test_weights_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch, damaged):
    def offline(*args, **kwargs):
        raise OSError("no way out")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    if damaged:
        file = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError) as error:
        take_initial_weights(build_network(MaskRcnnConfig(things=2)), THINGS)
    text = str(error.value)
    assert "\n" not in text
    assert "--model.weights none" in text
    assert ("is damaged" in text) == damaged
    assert ("no way out" in text) == (not damaged)


def test_masks_are_learned_inside_their_boxes_only():
    """A mask that is moved away from its box teaches another shape: labels are looked at."""
    one = photograph()
    labels = labels_of(one)
    moved = PhotographLabels(None, labels.mask_NHW.roll(10, dims=2), labels.box_N4, labels.label_N)
    values = [
        loss_of(small(), [one.image_CHW], [entry])["mask"].item() for entry in (labels, moved)
    ]
    assert values[0] != values[1]
