"""U-TAE: the published outputs, each option, and what padding, order and dates must or must not
change.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from panoseg.errors import ConfigError
from panoseg.models.configs import config_from_json, to_json
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import UtaeConfig
from panoseg.models.layers import cut_frames
from panoseg.models.losses import semantic_loss
from panoseg.models.ltae import Ltae, positional_encoding
from panoseg.models.network import build_network, initialise
from panoseg.models.utae import UTAE, weighted_sum
from small_networks import SMALL_UTAE, season, small_model


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


class Golden:
    """A golden case: the network with its weights, and its arrays."""

    def __init__(self, folder, golden_state, case: str, config: UtaeConfig) -> None:
        self.model = UTAE(config)
        state = golden_state(folder / "utae-paps" / f"{case}.params.json")
        assert list(state) == list(self.model.state_dict())
        self.model.load_state_dict(state)
        self.arrays = dict(np.load(folder / "utae-paps" / f"{case}.npz"))
        images, days = torch.from_numpy(self.arrays["x"]), torch.from_numpy(self.arrays["dates"])
        self.images = (images, days, (images != 0).flatten(2).any(2))

    def difference(self, found: torch.Tensor, name: str) -> float:
        return np.abs(found.detach().numpy() - self.arrays[name]).max()


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("utae_att_group", {}),
        ("utae_att_mean", {"aggregation": "att_mean"}),
        ("utae_mean", {"aggregation": "mean"}),
        ("utae_norm_batch", {"encoder_norm": "batch"}),
        ("utae_norm_instance", {"encoder_norm": "instance"}),
        ("utae_unpadded", {}),
    ],
)
def test_scores_equal_the_published_ones(golden, golden_state, case, options):
    known = Golden(golden, golden_state, case, UtaeConfig(**options))
    with torch.no_grad():
        assert known.difference(known.model.eval()(*known.images).logits_BKHW, "y") < 1e-4


def test_maps_equal_the_published_ones(golden, golden_state):
    known = Golden(golden, golden_state, "utae_maps", UtaeConfig())
    with torch.no_grad():
        pyramid = known.model.eval().features(*known.images).pyramid
    assert len(pyramid) == 4
    assert max(known.difference(level, f"map{i}") for i, level in enumerate(pyramid)) < 1e-4


def test_a_training_step_equals_the_published_one(golden, golden_state):
    known = Golden(golden, golden_state, "utae_grad", UtaeConfig())
    scores = without_dropout(known.model.train())(*known.images).logits_BKHW
    loss = semantic_loss(scores, torch.from_numpy(known.arrays["target"]), void=19)
    loss.backward()
    assert loss.item() == pytest.approx(float(known.arrays["loss"]), rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in known.model.named_parameters()}
    for name, norm in json.loads(str(known.arrays["grad_norms"])).items():
        # Biases before a norm have no gradient but rounding.
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), name
    for key in known.arrays:
        if key.startswith("grad:"):
            assert known.difference(gradients[key.removeprefix("grad:")], key) < 1e-4, key


def test_it_has_the_published_number_of_parameters():
    model = build_network(UtaeConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_087_260


@pytest.mark.parametrize("aggregation", ["att_group", "att_mean", "mean"])
@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
def test_padded_pixels_are_never_looked_at(aggregation, norm):
    model = small_model(
        UtaeConfig(**{**vars(SMALL_UTAE), "aggregation": aggregation, "encoder_norm": norm})
    )
    images, days, valid = season()
    valid[1, 2:] = False
    changed = images.clone()
    changed[1, 2:] = 1e3
    with torch.no_grad():
        assert torch.equal(
            model(images, days, valid).logits_BKHW, model(changed, days, valid).logits_BKHW
        )


def test_padding_invariant_means_that_padding_changes_nothing():
    images, days, valid = season(dates=3)
    longer = [
        nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, 5)),
        nn.functional.pad(days, (0, 5)),
        nn.functional.pad(valid, (0, 5)),
    ]
    for invariant in (True, False):
        model = small_model(UtaeConfig(**{**vars(SMALL_UTAE), "padding_invariant": invariant}))
        with torch.no_grad():
            difference = (
                (model(images, days, valid).logits_BKHW - model(*longer).logits_BKHW).abs().max()
            )
        assert (difference < 1e-5) == invariant


def test_dates_matter_and_their_order_does_not():
    model = small_model()
    images, days, valid = season()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        scores = model(images, days, valid).logits_BKHW
        torch.testing.assert_close(
            model(images[:, order], days[:, order], valid).logits_BKHW, scores, rtol=0, atol=1e-5
        )
        assert (model(images, days[:, order], valid).logits_BKHW - scores).abs().max() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation": "att_mean"},
        {"aggregation": "mean"},
        {"encoder_norm": "instance"},
        {"encoder_norm": "batch"},
    ],
)
def test_each_option_changes_the_scores(options):
    config = UtaeConfig(**{**vars(SMALL_UTAE), **options})
    images = season()
    with torch.no_grad():
        assert (
            small_model()(*images).logits_BKHW - small_model(config)(*images).logits_BKHW
        ).abs().max() > 1e-4


def test_sizes_follow_the_options():
    config = UtaeConfig(
        bands=3,
        classes=5,
        encoder_widths=(8, 16, 24),
        decoder_widths=(4, 8, 24),
        head_widths=(6, 7),
        heads=2,
        d_model=8,
        key_width=3,
    )
    config = UtaeConfig(**{**vars(config), "aggregation": "att_mean"})
    entries = UTAE(config).state_dict()
    assert entries["out_conv.conv.conv.6.weight"].shape == (5, 7, 3, 3)
    assert entries["temporal_encoder.attention_heads.Q"].shape == (2, 3)
    with torch.no_grad():
        maps = small_model(config).features(*season())
    assert [tuple(level.shape[1:]) for level in maps.pyramid] == [
        (24, 4, 4),
        (8, 8, 8),
        (4, 16, 16),
    ]
    assert maps.attention_GBTHW.shape == (2, 2, 4, 4, 4)


def test_attention_sums_to_one_over_valid_dates():
    images, days, valid = season()
    valid[1, 1:] = False
    with torch.no_grad():
        attention = small_model()(images, days, valid).attention_GBTHW
    torch.testing.assert_close(attention.sum(2), torch.ones_like(attention[:, :, 0]))
    assert attention[:, 1, 1:].max() == 0


def test_attention_equals_the_textbook_form():
    """Values and keys of every date made one by one, as the paper writes it."""
    torch.manual_seed(1)
    ltae = Ltae(channels=8, heads=2, key_width=3, d_model=8).eval()
    maps, days, valid = (
        torch.randn(1, 5, 8, 1, 1),
        torch.arange(5)[None] * 30,
        torch.ones(1, 5, dtype=torch.bool),
    )
    with torch.no_grad():
        out, attention = ltae(maps, days, valid)
        series_CT = ltae.in_norm(maps[0, :, :, 0, 0].T[None])
        values_TM = ltae.inconv(series_CT)[0].T + positional_encoding(days, 4)[0].repeat(1, 2)
        keys_TGK = ltae.attention_heads.fc1_k(values_TM).view(5, 2, 3)
        for head in range(2):
            score_T = keys_TGK[:, head] @ ltae.attention_heads.Q[head] / math.sqrt(3)
            torch.testing.assert_close(attention[head, 0, :, 0, 0], score_T.softmax(0))
        weights_GT = attention[:, 0, :, 0, 0]
        average_M = torch.cat(
            [weights_GT[head] @ values_TM[:, 4 * head : 4 * head + 4] for head in range(2)]
        )
        expected = ltae.out_norm(ltae.mlp(average_M[None]))[0]
    torch.testing.assert_close(out[0, :, 0, 0], expected)


def test_positional_encoding_by_hand():
    encoding = positional_encoding(torch.tensor([[0, 100]]), 4)
    slow = 100 / 1000**0.5
    torch.testing.assert_close(
        encoding,
        torch.tensor(
            [[[0, 1, 0, 1], [math.sin(100), math.cos(100), math.sin(slow), math.cos(slow)]]]
        ),
    )


def test_weighted_sum_by_hand():
    """Two frames of two channels and 2 x 2 pixels; one head a channel; attention has one value a
    frame and head.
    """
    level = torch.tensor(
        [[[[1.0, 2], [3, 4]], [[1, 1], [1, 1]]], [[[10, 20], [30, 40]], [[2, 2], [2, 2]]]]
    )
    attention = torch.tensor([[0.25, 1.0], [0.5, 0.0]])[:, :, None, None]
    by_head = weighted_sum(level, attention, "att_group")
    torch.testing.assert_close(
        by_head, torch.tensor([[[5.25, 10.5], [15.75, 21]], [[1, 1], [1, 1]]])
    )
    torch.testing.assert_close(weighted_sum(level, attention, "mean")[1], torch.full((2, 2), 3.0))
    torch.testing.assert_close(
        weighted_sum(level, attention, "att_mean")[1], torch.full((2, 2), 0.625 + 2 * 0.25)
    )


def test_pieces_change_nothing(monkeypatch):
    images, days, valid = season(dates=5)
    valid[0, 3:] = False
    model = small_model()
    with torch.no_grad():
        whole = model(images, days, valid).logits_BKHW
        monkeypatch.setattr("panoseg.models.layers.CACHED_ELEMENTS", 2 * 8 * 16 * 16)
        assert [size for _, size in cut_frames(images, valid, width=8)] == [2, 1, 2, 2, 1]
        torch.testing.assert_close(model(images, days, valid).logits_BKHW, whole, rtol=0, atol=1e-5)


def test_batch_norm_sees_all_frames_and_counts_a_step_once():
    model = small_model(UtaeConfig(**{**vars(SMALL_UTAE), "encoder_norm": "batch"})).train()
    images, days, valid = season()
    norm = model.in_conv.conv.conv[1]
    first = model.in_conv.conv.conv[0](images.flatten(0, 1))
    model(images, days, valid)
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * first.mean((0, 2, 3)))


def test_half_precision_trains():
    model = small_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*season())
    assert output.logits_BKHW.dtype == output.attention_GBTHW.dtype == torch.float32
    output.logits_BKHW.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    with torch.no_grad():
        precise = small_model()(*season()).logits_BKHW
        with torch.autocast("cpu", torch.bfloat16):
            rough = small_model()(*season()).logits_BKHW
    assert 0 < (rough - precise).abs().max() < 0.1


@pytest.mark.parametrize(("height", "width"), [(15, 16), (16, 2), (2, 16)])
def test_images_of_an_impossible_size_are_refused(height, width):
    images, days, valid = season()
    images = images[..., :1, :1].expand(-1, -1, -1, height, width)
    with pytest.raises(
        ConfigError,
        match=rf"images have {height} x {width} pixels, but .* sides that are multiples of 2",
    ):
        small_model()(images, days, valid)


def test_initialise_draws_the_published_distributions():
    model = initialise(build_network(UtaeConfig()))
    conv, norm = model.in_conv.conv.conv[3], model.up_blocks[0].up[1]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (2 * 64 * 9)), rel=0.05)
    assert conv.bias.std().item() == pytest.approx(1, rel=0.4)
    assert norm.weight.std().item() == pytest.approx(1, rel=0.4)
    assert norm.bias.abs().max() == 0
    assert model.temporal_encoder.inconv.weight.std().item() == pytest.approx(1, rel=0.05)
    assert model.in_conv.conv.conv[1].weight.std() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"aggregation": "median"},
            "aggregation must be one of att_group, att_mean, mean, not 'median'",
        ),
        (
            {"encoder_norm": "layer"},
            "encoder_norm must be one of group, batch, instance, not 'layer'",
        ),
        ({"heads": 7}, "heads must divide .* 7 heads"),
        ({"encoder_widths": (64, 128)}, "the same number of entries, at least two, not 2 and 4"),
        ({"decoder_widths": (32, 32, 64, 64)}, "the same number, not with 128 and 64"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        UtaeConfig(**options)


@pytest.mark.parametrize(
    "config",
    [SMALL_UTAE, PapsConfig(SMALL_UTAE, shape_size=8, mask_convolution=False, min_confidence=0.5)],
)
def test_configurations_survive_json(config):
    assert config_from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "unet"}, "model 'unet'.*utae, paps"),
        (["utae"], "model"),
        ({"model": "utae", "depth": 3}, "depth"),
        ({"model": "utae", "bands": "ten"}, "bands 'ten'"),
        ({"model": "utae", "encoder_widths": [8, "x"]}, "encoder_widths"),
        ({"model": "paps", "backbone": 3}, "model 3"),
        ({"model": "paps", "min_confidence": 2}, "min_confidence must be from 0 to 1, not 2"),
    ],
)
def test_foreign_configurations_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        config_from_json(values)
