"""PSPNet: the structure of the paper on torchvision's residual networks, what it learns of pixels,
and its options.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.segmentation.fcn import FCNHead

from panoseg.errors import ConfigError
from panoseg.models import initial_weights
from panoseg.models.configs import config_from_json, fit_to_table, to_json
from panoseg.models.configs.photograph import PspNetConfig
from panoseg.models.initial_weights import take_initial_weights
from panoseg.models.network import build_network
from panoseg.models.photograph_network import Labels, dilated, residual_network
from panoseg.models.two_models import PyramidPooling
from photograph_networks import TABLE, photograph, pspnet

LABELS = Labels.of(TABLE)


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_network(pspnet(**options))


def losses_of(network, photographs):
    torch.manual_seed(0)  # of dropout
    labels = [LABELS.of_photograph(one, network.scope) for one in photographs]
    return network.train().image_losses([one.image_CHW for one in photographs], labels)


def predicted(network, height=64, width=64, size_HW=None):
    return network.eval().outputs(
        [photograph(height, width).image_CHW], [size_HW or (height, width)]
    )[0]


def parameters(*modules):
    return sum(value.numel() for module in modules for value in module.parameters())


# Structure


def test_parameters_of_the_published_size():
    """torchvision's ResNet-50 and its head of a fully convolutional network, which is ours beside;
    the rest by hand.
    """
    network = build_network(PspNetConfig(things=80, stuff=53))
    assert (
        parameters(network.backbone)
        == parameters(resnet50(weights=None)) - (2048 * 1000 + 1000)
        == 23_508_032
    )
    assert parameters(network.auxiliary_head) == parameters(FCNHead(1024, 54))
    assert parameters(network.pooling) == 4 * (2048 * 512 + 2 * 512)
    assert parameters(network.head) == (2048 + 4 * 512) * 512 * 9 + 2 * 512 + 512 * 54 + 54


def test_the_dilated_network_is_torchvisions():
    ours = dilated(residual_network("resnet50", "batch"))
    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    theirs.load_state_dict(ours.state_dict())
    for (name, one), (_, other) in zip(ours.named_modules(), theirs.named_modules(), strict=True):
        if isinstance(one, nn.Conv2d):
            assert (one.stride, one.padding, one.dilation) == (
                other.stride,
                other.padding,
                other.dilation,
            ), name
    reaches = [
        layer.conv2.dilation[0]
        for stage in (ours.layer2, ours.layer3, ours.layer4)
        for layer in stage
    ]
    assert reaches == [1] * 4 + [1] + [2] * 5 + [2] + [4] * 2
    image = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        for entry in (ours, theirs):
            entry.eval()
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_last_maps_are_at_stride_eight_and_of_the_same_weights(backbone):
    network = dilated(residual_network(backbone, "batch"))
    assert [(name, value.shape) for name, value in network.state_dict().items()] == [
        (name, value.shape)
        for name, value in residual_network(backbone, "batch").state_dict().items()
    ]
    with torch.no_grad():
        maps = network.conv1(torch.randn(1, 3, 64, 96))
        for part in (
            network.bn1,
            network.relu,
            network.maxpool,
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        ):
            maps = part(maps)
    assert maps.shape[-2:] == (8, 12)


def test_what_a_small_network_skipped_it_dilates():
    """Each block's first convolution reaches as far as the stage before it, as in Yu et al.
    2017.
    """
    network = dilated(resnet18(weights=None))
    reaches = [
        (block.conv1.dilation[0], block.conv2.dilation[0])
        for block in (*network.layer3, *network.layer4)
    ]
    assert reaches == [(1, 1), (2, 2), (2, 2), (4, 4)]


def test_the_map_is_pooled_over_parts_of_the_image():
    """Figure 3 of the paper: means over 1, 4, 9 and 36 parts, a fourth of the channels each, beside
    the map itself.
    """
    torch.manual_seed(0)
    pooling = PyramidPooling(16, 4, (1, 2, 3, 6), nn.BatchNorm2d).eval()
    maps = torch.randn(2, 16, 12, 18)
    result = pooling(maps)
    assert result.shape == (2, 16 + 4 * 4, 12, 18)
    assert torch.equal(result[:, :16], maps)
    for number, parts in enumerate((1, 2, 3, 6)):
        mean = torch.stack(
            [
                torch.stack([part.mean((2, 3)) for part in row.chunk(parts, dim=3)], dim=-1)
                for row in maps.chunk(parts, dim=2)
            ],
            dim=-2,
        )
        _, convolution, norm, rectify = pooling.levels[number]
        expected = F.interpolate(
            rectify(norm(convolution(mean))), (12, 18), mode="bilinear", align_corners=False
        )
        assert result[:, 16 + 4 * number : 20 + 4 * number].allclose(expected, atol=1e-5)


def test_published_sizes_are_the_defaults():
    config = PspNetConfig()
    assert (config.backbone, config.bins, config.stride) == ("resnet50", (1, 2, 3, 6), 8)
    assert (config.width, config.auxiliary_width, config.auxiliary_weight, config.dropout) == (
        512,
        256,
        0.4,
        0.1,
    )


# Learning


def test_losses_are_named_finite_and_their_gradients_reach_every_parameter():
    network = small(dropout=0.0)
    losses = losses_of(network, [photograph()])
    assert tuple(losses) == network.loss_names == ("loss", "semantic", "auxiliary")
    assert all(value.isfinite() for value in losses.values())
    losses["loss"].backward()
    assert [
        name
        for name, value in network.named_parameters()
        if value.grad is None or not value.grad.any()
    ] == []
    assert all(value.grad.isfinite().all() for value in network.parameters())


def test_the_auxiliary_head_counts_by_its_weight_and_looks_at_the_map_before_the_last():
    network = small()
    losses = losses_of(network, [photograph()])
    assert losses["loss"].item() == pytest.approx(
        (losses["semantic"] + 0.4 * losses["auxiliary"]).item(), rel=1e-6
    )
    with torch.no_grad():
        for value in network.backbone.layer4.parameters():
            value.zero_()
    after = losses_of(network, [photograph()])
    assert after["auxiliary"] == losses["auxiliary"]
    assert after["semantic"] != losses["semantic"]


def test_void_teaches_nothing():
    one = photograph()
    nothing = replace(one, classes_HW=torch.full_like(one.classes_HW, -1))
    network = small()
    losses = losses_of(network, [nothing])
    assert [value.item() for value in losses.values()] == [0, 0, 0]
    losses["loss"].backward()
    assert not any(value.grad.any() for value in network.parameters() if value.grad is not None)


def test_losses_are_means_over_images():
    network, one, two = small(dropout=0.0), photograph(), photograph(squares=False)
    alone, both = (
        [losses_of(network, [entry]) for entry in (one, two)],
        losses_of(network, [one, two]),
    )
    for name in network.loss_names:
        assert both[name].item() == pytest.approx(
            (alone[0][name] + alone[1][name]).item() / 2, rel=1e-4
        ), name


def test_one_photograph_cannot_teach_batch_norms_of_a_single_part():
    """The mean over the whole image is one number a channel, whose deviation over one image is
    zero.
    """
    network = small(norm="batch")
    with pytest.raises(
        ConfigError,
        match=r"^Batch norms need at least two photographs a step: .*norm group\.$",
    ):
        losses_of(network, [photograph()])
    losses_of(network, [photograph(), photograph()])["loss"].backward()
    assert losses_of(small(norm="batch", bins=(2, 3)), [photograph()])["loss"].isfinite()


def test_a_photograph_is_learned_by_heart():
    network, one = small(scope="all", dropout=0.0), photograph()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(20):
        optimiser.zero_grad()
        losses_of(network, [one])["loss"].backward()
        optimiser.step()
    found = LABELS.semantic_classes(predicted(network).label_BHW, "all")[0]
    assert sorted(found.unique().tolist()) == [2, 3, 7, 9]
    assert (found == one.classes_HW)[:-4].float().mean() > 0.85  # the last rows are void


# Prediction


@pytest.mark.parametrize("size_HW", [(64, 64), (37, 91), (120, 64)])
def test_outputs_have_the_size_asked_for(size_HW):
    found = predicted(small(), 50, 70, size_HW)
    assert found.size_HW == size_HW
    assert found.semantic_BKHW.shape == (1, 3, *size_HW)
    assert found.label_BHW.shape == (1, *size_HW)
    assert found.reach_HW == (6.25, 8.75)  # 50 x 70 at stride 8
    assert found.maps_BKhw.shape[-2:] == (7, 9)
    assert found.objects is None


def test_an_image_does_not_depend_on_its_company():
    """Neither on its values nor on its size; pooling over the whole image would show padding."""
    network = small(norm="batch").eval()
    images = [photograph(*size).image_CHW for size in ((64, 64), (60, 90), (64, 60))]
    images.append(images[0].flip(2))
    sizes = [(64, 64), (60, 90), (32, 30), (64, 64)]
    together = network.outputs(images, sizes)
    for one, image, size in zip(together, images, sizes, strict=True):
        alone = network.outputs([image], [size])[0]
        assert alone.size_HW == one.size_HW == size
        assert one.maps_BKhw.allclose(alone.maps_BKhw, atol=1e-5)


def test_prediction_draws_nothing():
    network = small(dropout=0.9)
    assert torch.equal(predicted(network).maps_BKhw, predicted(network).maps_BKhw)


# Options

SHAPES = {
    "things": 3,
    "stuff": 3,
    "backbone": "resnet50",
    "norm": "batch",
    "scope": "all",
    "bins": (1, 2),
    "width": 64,
    "auxiliary_width": 32,
}
LOSSES = {"auxiliary_weight": 0.8, "dropout": 0.5}


def test_every_option_is_tried():
    assert {*SHAPES, *LOSSES, "weights"} == {entry.name for entry in fields(PspNetConfig)}


@pytest.mark.parametrize("option", SHAPES)
def test_options_of_layers_change_the_entries(option):
    base = {"scope": "all"} if option == "things" else {}
    shapes = [
        {name: tuple(value.shape) for name, value in small(**base, **options).state_dict().items()}
        for options in ({}, {option: SHAPES[option]})
    ]
    assert shapes[0] != shapes[1]


def test_bins_of_the_same_number_change_the_map():
    """Entries do not tell how many parts a level has."""
    maps = [predicted(small(bins=bins)).maps_BKhw for bins in ((1, 2, 3, 6), (1, 2, 3, 4))]
    assert not torch.equal(*maps)


@pytest.mark.parametrize("option", LOSSES)
def test_options_of_training_change_the_loss(option):
    values = [
        losses_of(small(**options), [photograph()])["loss"].item()
        for options in ({}, {option: LOSSES[option]})
    ]
    assert values[0] != values[1]


def test_initial_weights_fill_the_backbone(monkeypatch):
    torch.manual_seed(5)
    given = resnet18(weights=None).state_dict()
    monkeypatch.setattr(initial_weights, "fetch_state", lambda weights: given)
    network = small(norm="batch", weights="imagenet")
    head = network.head[0].weight.clone()
    assert not torch.equal(network.backbone.conv1.weight, given["conv1.weight"])
    assert "ImageNet's for the resnet18" in take_initial_weights(network, TABLE)
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, given[name]), name
    assert torch.equal(network.head[0].weight, head)
    assert take_initial_weights(small(), TABLE) == "initial weights: drawn"


@pytest.mark.parametrize(("norm", "learns"), [("frozen", False), ("batch", True)])
def test_frozen_norms_of_the_backbone_keep_what_they_were_given(norm, learns):
    network = small(norm=norm, weights="imagenet")
    layer = network.backbone.layer1[0].bn1
    mean, scale = layer.running_mean.clone(), layer.weight.clone()
    optimiser = torch.optim.SGD(network.parameters(), 0.01)
    losses_of(network, [photograph(), photograph(squares=False)])["loss"].backward()
    optimiser.step()
    assert torch.equal(layer.running_mean, mean) != learns
    assert torch.equal(layer.weight, scale) != learns
    assert isinstance(network.head[1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "sky"}, "scope must be one of all, stuff, not 'sky'"),
        ({"bins": ()}, "bins must have at least one entry"),
        ({"bins": (1, 0)}, "Each of bins must be at least 1, not (1, 0)"),
        ({"width": 100_000}, "at most 4096"),
        ({"auxiliary_weight": -0.1}, "auxiliary_weight must be a number from 0, not -0.1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"stuff": 300}, "stuff must be at least 0, and with the things at most 254, not 300"),
        ({"weights": "imagenet"}, "weights imagenet cannot be used with norm group"),
        ({"norm": "frozen"}, "weights none cannot be used with norm frozen"),
        # Widths that layers cannot have are refused as options, not by the layers.
        ({"width": 33}, "width"),
        ({"auxiliary_width": 33}, "auxiliary_width"),
        (
            {"bins": tuple(range(1, 8))},
            "channels of a bin must be 4, 8, 16 or multiples of 32, not (32, 16, 73)",
        ),
        ({"width": 33, "norm": "batch", "weights": "imagenet", "bins": (5000,)}, "bins"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ConfigError) as error:
        build_network(pspnet(**options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_options_come_back_and_follow_the_classes():
    config = pspnet(bins=(1, 4), scope="all")
    assert config_from_json(to_json(config)) == config
    fitted = fit_to_table(PspNetConfig(), TABLE)
    assert (fitted.things, fitted.stuff, fitted.classes) == (2, 2, 4)
