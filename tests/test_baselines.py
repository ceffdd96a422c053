"""U-Net 3D, the recurrent networks, and PaPs on each: the published outputs, each option, and what
padding must not change.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from panoseg.data.samples import CentreTargetsBatch
from panoseg.errors import ConfigError
from panoseg.models.baselines import Recurrence
from panoseg.models.configs import config_from_json, to_json
from panoseg.models.configs.parcels import BackboneConfig, PapsConfig
from panoseg.models.configs.season import ConvRnnConfig, FpnConfig, UConvLstmConfig, UNet3dConfig
from panoseg.models.losses import PapsLoss, semantic_loss
from panoseg.models.network import build_network
from panoseg.panoptic.merge import merge_masks
from small_networks import padded_season, small_model

PUBLISHED = {
    "unet3d": (UNet3dConfig(), 1_553_796),
    "fpn": (FpnConfig(), 1_151_028),
    "convlstm": (ConvRnnConfig(), 1_008_660),
    "convgru": (ConvRnnConfig(cell="gru", hidden=180), 956_360),
    "uconvlstm": (UConvLstmConfig(), 1_520_540),
    "buconvlstm_as_released": (UConvLstmConfig(hidden=30), 1_209_508),
    "buconvlstm_bidirectional": (UConvLstmConfig(hidden=30, directions=2), 1_414_828),
}
_UNET = {
    "bands": 3,
    "classes": 4,
    "encoder_widths": (4, 8),
    "decoder_widths": (4, 8),
    "head_widths": (4,),
    "hidden": 3,
}
_FPN = {
    "bands": 3,
    "classes": 4,
    "input_widths": (4,),
    "pyramid_width": 4,
    "dilations": (1, 2, 4),
    "hidden": 5,
}
SMALL: dict[str, BackboneConfig] = {
    "unet3d": UNet3dConfig(bands=3, classes=4, width=4),
    "fpn": FpnConfig(**_FPN),
    "convlstm": ConvRnnConfig(bands=3, classes=4, hidden=5),
    "convgru": ConvRnnConfig(bands=3, classes=4, cell="gru", hidden=5),
    "uconvlstm": UConvLstmConfig(**_UNET),
    "buconvlstm": UConvLstmConfig(**_UNET, directions=2),
}
RECURRENT = [name for name in SMALL if name != "unet3d"]


def with_entries(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    assert list(state) == list(model.state_dict())
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("case", PUBLISHED)
def test_scores_equal_the_published_ones(golden, golden_state, case):
    path = golden / "utae-paps" / case
    model = with_entries(
        build_network(PUBLISHED[case][0]), golden_state(path.with_suffix(".params.json"))
    )
    with np.load(path.with_suffix(".npz")) as arrays, torch.no_grad():
        images = torch.from_numpy(arrays["x"])
        found = model(
            images, torch.from_numpy(arrays["dates"]), (images != 0).flatten(2).any(2)
        ).logits_BKHW
        assert np.abs(found.numpy() - arrays["y"]).max() < 1e-4


def test_maps_of_uconvlstm_equal_the_published_ones(golden, golden_state):
    path = golden / "utae-paps" / "uconvlstm_maps"
    model = with_entries(
        build_network(UConvLstmConfig()), golden_state(path.with_suffix(".params.json"))
    )
    with np.load(path.with_suffix(".npz")) as arrays, torch.no_grad():
        images = torch.from_numpy(arrays["x"])
        pyramid = model.features(
            images, torch.from_numpy(arrays["dates"]), torch.ones(2, 6, dtype=torch.bool)
        ).pyramid
        assert len(pyramid) == 4
        for level, found in enumerate(pyramid):
            assert np.abs(found.numpy() - arrays[f"map{level}"]).max() < 1e-4


def test_crop2seg_has_unet3d_with_its_classes(golden, golden_state):
    folder = golden / "crop2seg"
    model = with_entries(
        build_network(UNet3dConfig(classes=15)), golden_state(folder / "unet3d.params.json")
    )
    with (
        np.load(folder / "inputs.npz") as inputs,
        np.load(folder / "unet3d.npz") as arrays,
        torch.no_grad(),
    ):
        images = torch.from_numpy(inputs["padded_x"])
        found = model(
            images, torch.from_numpy(inputs["padded_relative"]), (images != 0).flatten(2).any(2)
        ).logits_BKHW
        assert np.abs(found.numpy() - arrays["y"]).max() < 1e-4


def test_crop2seg_has_uconvlstm_on_patches_of_128(golden, golden_state):
    folder = golden / "crop2seg"
    model = with_entries(
        build_network(UConvLstmConfig()), golden_state(folder / "uconvlstm_128.params.json")
    )
    with np.load(folder / "uconvlstm_128.npz") as arrays, torch.no_grad():
        images, days = (
            torch.from_numpy(arrays["x_tile"]).tile(1, 1, 1, 4, 4),
            torch.from_numpy(arrays["dates"]),
        )
        found = model(images, days, torch.ones_like(days, dtype=torch.bool)).logits_BKHW
        assert np.abs(found[..., ::4, ::4].numpy() - arrays["y_every_4"]).max() < 1e-4


@pytest.mark.parametrize("case", PUBLISHED)
def test_it_has_the_published_number_of_parameters(case):
    config, count = PUBLISHED[case]
    assert sum(parameter.numel() for parameter in build_network(config).parameters()) == count


def test_paps_on_uconvlstm_has_the_published_number_of_parameters():
    model = build_network(PapsConfig(backbone=UConvLstmConfig()))
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_692_953


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_those_that_the_options_say(name):
    with torch.no_grad():
        pyramid = small_model(SMALL[name]).features(*padded_season()).pyramid
    sides = [16 >> level for level in reversed(range(len(pyramid)))]
    widths = reversed(SMALL[name].map_widths)
    assert [tuple(level.shape) for level in pyramid] == [
        (2, width, side, side) for width, side in zip(widths, sides, strict=True)
    ]
    assert SMALL[name].stride == 16 // sides[0]


@pytest.mark.parametrize("name", SMALL)
def test_padded_pixels_are_never_looked_at(name):
    for options in ({}, {"runs_over_padding": True} if name != "unet3d" else {}):
        model, (images, days, valid) = (
            small_model(type(SMALL[name])(**{**vars(SMALL[name]), **options})),
            padded_season(),
        )
        rubbish = images.masked_fill(~valid[:, :, None, None, None], torch.nan)
        with torch.no_grad():
            assert torch.equal(
                model(images, days, valid).logits_BKHW, model(rubbish, days, valid).logits_BKHW
            )


@pytest.mark.parametrize("name", RECURRENT)
def test_more_padding_changes_nothing_in_a_recurrence(name):
    model, (images, days, valid) = small_model(SMALL[name]), padded_season()
    longer = nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, 3), value=7.0)
    with torch.no_grad():
        found = model(
            longer, nn.functional.pad(days, (0, 3)), nn.functional.pad(valid, (0, 3))
        ).logits_BKHW
        torch.testing.assert_close(found, model(images, days, valid).logits_BKHW, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RECURRENT)
def test_running_over_padding_reads_blank_dates_as_published(name):
    """The recurrences get every date, and zeros for the padded ones; without the option they stop
    before.
    """
    config, (images, days, valid) = SMALL[name], padded_season()
    seen = {}
    for over in (False, True):
        model = small_model(type(config)(**{**vars(config), "runs_over_padding": over}))
        steps = []
        for module in model.modules():
            if isinstance(module, Recurrence):
                module.ahead = False
                module.cell_list[0].register_forward_hook(
                    lambda cell, inputs, output, steps=steps: steps.append(inputs[0])
                )
        with torch.no_grad():
            scores = model(images, days, valid).logits_BKHW
        seen[over] = scores, steps
    directions = getattr(config, "directions", 1)
    assert [len(inputs) for inputs in seen[False][1]] == [2, 2, 2, 1, 1] * directions
    assert [len(inputs) for inputs in seen[True][1]] == [2] * 5 * directions
    blank = [not inputs[1].any() for inputs in seen[True][1]]
    assert blank == [False, False, False, True, True] + [True, True, False, False, False] * (
        directions - 1
    )
    difference = (seen[True][0] - seen[False][0]).abs().amax((1, 2, 3))
    assert difference[0] < 1e-6
    assert difference[1] > 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_the_order_of_dates_matters_and_the_days_do_not(name):
    model, (images, days, _) = small_model(SMALL[name]), padded_season()
    valid = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        scores = model(images, days, valid).logits_BKHW
        assert torch.equal(model(images, days + 100, valid).logits_BKHW, scores)
        assert (model(images.flip(1), days, valid).logits_BKHW - scores).abs().max() > 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_one_date_is_enough(name):
    model, (images, days, valid) = small_model(SMALL[name]), padded_season(dates=1)
    with torch.no_grad():
        assert model(images, days, valid).logits_BKHW.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("half", [False, True])
def test_every_entry_learns(name, half):
    model = small_model(SMALL[name]).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = model(*padded_season())
    assert output.logits_BKHW.dtype == torch.float32
    assert output.attention_GBTHW is None
    semantic_loss(output.logits_BKHW, torch.randint(4, (2, 16, 16)), void=3).backward()
    gradients = {entry: parameter.grad for entry, parameter in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() for entry, gradient in gradients.items() if entry.endswith("weight"))


@pytest.mark.parametrize("name", SMALL)
def test_paps_trains_and_predicts_on_it(name):
    torch.manual_seed(0)
    model, images = build_network(PapsConfig(SMALL[name])), padded_season()
    half = torch.arange(16) // 8
    zones = (half[:, None] * 2 + half + 1).int().repeat(2, 1, 1)
    target = CentreTargetsBatch(
        torch.rand(2, 16, 16), zones, zones, torch.full((2, 16, 16, 2), 8.0), zones.long() % 3
    )
    before = {entry: value.clone() for entry, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model.train()(*images, zones_BHW=zones, pixel_scores=True)
    assert output.pixel_scores_BKHW.shape == (2, 4, 16, 16)
    PapsLoss(void=3)(output, target).total.backward()
    optimiser.step()
    moved = [
        entry
        for entry, value in model.state_dict().items()
        if not torch.equal(value, before[entry])
    ]
    assert any(entry.startswith("encoder.") and entry.endswith("weight") for entry in moved)
    with torch.no_grad():
        masks = model.eval().scored_masks(model(*images, min_confidence=0.0))
        segment_BHW, _ = merge_masks(masks, 2)
    assert segment_BHW.shape == (2, 16, 16)


@pytest.mark.parametrize("name", SMALL)
def test_configurations_survive_json(name):
    for config in (SMALL[name], PapsConfig(SMALL[name])):
        assert config_from_json(json.loads(json.dumps(to_json(config)))) == config


def test_paps_is_no_backbone():
    values = to_json(PapsConfig())
    with pytest.raises(ConfigError, match=r"backbone must be one of utae.* not paps"):
        config_from_json({**values, "backbone": values})


@pytest.mark.parametrize(
    ("config", "entry", "shape"),
    [
        (UNet3dConfig(bands=6, classes=7, width=8), "final.weight", (7, 4, 3, 3, 3)),
        (UNet3dConfig(bands=6, classes=7, width=8), "en3.0.weight", (8, 6, 3, 3, 3)),
        (
            FpnConfig(**{**_FPN, "input_widths": (8, 12)}),
            "inconv.conv.conv.3.weight",
            (12, 8, 3, 3),
        ),
        (FpnConfig(**{**_FPN, "pyramid_width": 8}), "pyramid.convs.2.weight", (8, 8, 3, 3)),
        (FpnConfig(**{**_FPN, "dilations": (1,)}), "mid_conv.conv.conv.0.weight", (4, 8, 3, 3)),
        (FpnConfig(**{**_FPN, "hidden": 7}), "outconv.weight", (4, 7, 1, 1)),
        (
            ConvRnnConfig(bands=6, hidden=7),
            "convlstm_encoder.cell_list.0.conv.weight",
            (28, 13, 3, 3),
        ),
        (
            ConvRnnConfig(bands=6, hidden=7, cell="gru"),
            "convgru_encoder.cell_list.0.out_conv.weight",
            (7, 13, 3, 3),
        ),
        (ConvRnnConfig(classes=6, hidden=7), "classification_layer.weight", (6, 7, 3, 3)),
        (
            UConvLstmConfig(**{**_UNET, "hidden": 6}),
            "temporal_encoder.cell_list.0.conv.weight",
            (24, 14, 3, 3),
        ),
        (UConvLstmConfig(**_UNET, directions=2), "out_convlstm.weight", (8, 6, 3, 3)),
        (
            UConvLstmConfig(**{**_UNET, "encoder_widths": (12, 8)}),
            "down_blocks.0.down.conv.0.weight",
            (12, 12, 4, 4),
        ),
        (
            UConvLstmConfig(**{**_UNET, "decoder_widths": (16, 8)}),
            "up_blocks.0.up.0.weight",
            (8, 16, 4, 4),
        ),
        (
            UConvLstmConfig(**{**_UNET, "head_widths": (6, 7)}),
            "out_conv.conv.conv.6.weight",
            (4, 7, 3, 3),
        ),
        (UConvLstmConfig(**{**_UNET, "bands": 6}), "in_conv.conv.conv.0.weight", (4, 6, 3, 3)),
    ],
)
def test_sizes_follow_the_options(config, entry, shape):
    assert tuple(build_network(config).state_dict()[entry].shape) == shape


def test_dilations_are_the_reach_of_the_pyramid():
    model = build_network(FpnConfig(**{**_FPN, "dilations": (1, 3, 5)}))
    assert [conv.dilation for conv in model.pyramid.convs] == [(1, 1), (3, 3), (5, 5)]


def test_titles_name_the_networks():
    titles = [config.title for config in SMALL.values()]
    assert titles == [
        "U-Net 3D",
        "FPN + ConvLSTM",
        "ConvLSTM",
        "ConvGRU",
        "U-ConvLSTM",
        "BU-ConvLSTM",
    ]
    assert PapsConfig(SMALL["uconvlstm"]).title == "U-ConvLSTM + PaPs"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (UNet3dConfig, {"width": 5}, "width must be an even number from 2, not 5"),
        (UNet3dConfig, {"width": 2048}, "at most 4096, not 8192"),
        (FpnConfig, {"pyramid_width": 4096}, "at most 4096, not 8192"),
        (ConvRnnConfig, {"hidden": 10**9}, "hidden must be at most 4096, not 1000000000"),
        (
            UConvLstmConfig,
            {"head_widths": (4,) * 13},
            "head_widths must have at most 12 entries, not 13",
        ),
        (UNet3dConfig, {"classes": 0}, "classes must be at least 1, not 0"),
        (ConvRnnConfig, {"cell": "rnn"}, "cell must be one of lstm, gru, not 'rnn'"),
        (ConvRnnConfig, {"hidden": 0}, "hidden must be at least 1, not 0"),
        (FpnConfig, {"dilations": (1, 0)}, r"Each of dilations must be at least 1, not \(1, 0\)"),
        (FpnConfig, {"dilations": ()}, "dilations must have at least one entry"),
        (FpnConfig, {"input_widths": ()}, "input_widths must have at least one entry"),
        (FpnConfig, {"input_widths": (30, 64)}, r"input_widths .* multiples of 4, not \(30, 64\)"),
        (
            FpnConfig,
            {"pyramid_width": 5},
            "channels after the pyramid must be multiples of 4, not .* and 10",
        ),
        (UConvLstmConfig, {"directions": 3}, "directions must be 1 or 2, not 3"),
        (UConvLstmConfig, {"hidden": 0}, "hidden must be at least 1, not 0"),
        (
            UConvLstmConfig,
            {"encoder_widths": (64, 128)},
            "the same number of entries, at least two, not 2 and 4",
        ),
        (
            UConvLstmConfig,
            {"decoder_widths": (32, 32, 64, 64)},
            "the same number, not with 128 and 64",
        ),
        (UConvLstmConfig, {"decoder_widths": (30, 32, 64, 128)}, "multiples of 4"),
    ],
)
def test_impossible_options_are_refused(kind, options, words):
    with pytest.raises(ConfigError, match=words):
        kind(**options)


@pytest.mark.parametrize(
    ("name", "height", "width", "words"),
    [
        ("unet3d", 16, 18, "multiples of 4, at least 4"),
        ("uconvlstm", 15, 16, "multiples of 2, at least 2"),
        ("fpn", 16, 4, "multiples of 1, at least 5"),
    ],
)
def test_images_of_an_impossible_size_are_refused(name, height, width, words):
    _, days, valid = padded_season()
    with pytest.raises(
        ConfigError, match=rf"images have {height} x {width} pixels, but .* sides that are {words}"
    ):
        small_model(SMALL[name])(torch.zeros(2, 5, 3, height, width), days, valid)
