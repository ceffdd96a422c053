"""Crop2Seg's networks: the published outputs, each option, and what padding, order and dates must
or must not change.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.errors import ConfigError
from panoseg.models.configs import ModelConfig, config_from_json, to_json
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import NaiveUnetConfig, TimeUnetConfig, UtaeConfig, WtaeConfig
from panoseg.models.layers import MBConv, SeparableConv, SqueezeExcitation
from panoseg.models.ltae import DateEncoder, DayTable, Ltae, Sines, day_of_year, positional_encoding
from panoseg.models.network import build_network
from panoseg.models.outputs import SemanticOutput
from panoseg.models.published import crop2seg_config, own_names
from small_networks import SMALL_WIDTHS, padded_season, small_model

OPTIONS = (
    "",
    "_unpadded",
    "_depthwise_separable",
    "_squeeze",
    "_doy",
    "_abs_rel",
    "_linear",
    "_doy_linear",
    "_abs_rel_linear",
)
BOTH = (
    "_abs_rel_and_doy",
    "_boundary",
    "_mbconv_16_classes",
    "_mbconv_20_classes_squeeze",
    "_att_mean",
    "_mean",
    "_norm_batch",
)
CASES = [
    *(
        f"timeunet{option}"
        for option in (*OPTIONS, "_abs_rel_and_doy", "_boundary_option", "_mbconv_option")
    ),
    *(f"{network}{option}" for network in ("wtae", "utae") for option in (*OPTIONS, *BOTH)),
    "wtae_boundary_depthwise_separable_squeeze",
    "wtae_agg_mean_num_queries4",
    "seg_model_unet_temp_model_ltae",
    *(
        f"unet_naive_max_temp6{option}"
        for option in ("", "_unpadded", "_depthwise_separable", "_squeeze", "_mbconv")
    ),
]
SMALL: dict[str, UtaeConfig | WtaeConfig | TimeUnetConfig | NaiveUnetConfig] = {
    "utae": UtaeConfig(**SMALL_WIDTHS, heads=4, d_model=16),
    "wtae": WtaeConfig(**SMALL_WIDTHS, heads=4, d_model=16),
    "timeunet": TimeUnetConfig(**SMALL_WIDTHS, heads=4, d_model=16),
    "unet_naive": NaiveUnetConfig(**SMALL_WIDTHS, length=5),
}
NO_MBCONV = ("timeunet", "mbconv")
ATTENTIVE = [name for name in SMALL if name != "unet_naive"]


def scores(model: nn.Module, *images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(*images).logits_BKHW


def difference(found: Tensor, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.detach().numpy() - expected).max())


def arguments(case: dict) -> dict:
    """Arguments of the published command as its conf.json would hold them."""
    words, options = case["arguments"], {}
    for position, word in enumerate(words):
        if word.startswith("--"):
            follows = words[position + 1] if position + 1 < len(words) else "--"
            options[word[2:]] = (
                True if follows.startswith("--") else int(follows) if follows.isdigit() else follows
            )
    return options


class Golden:
    """A golden case: the network that its arguments ask for with its weights, its arrays, and the
    batch.
    """

    def __init__(self, golden, golden_state, name: str) -> None:
        folder = golden / "crop2seg"
        self.case = json.loads((folder / "cases.json").read_text())[name]
        self.config = crop2seg_config(arguments(self.case))
        self.model = build_network(self.config).eval()
        self.model.load_state_dict(
            own_names(golden_state(folder / f"{name}.params.json"), self.config)
        )
        with np.load(folder / f"{name}.npz") as arrays, np.load(folder / "inputs.npz") as inputs:
            self.arrays = dict(arrays)
            images, days = (
                torch.from_numpy(inputs[f"{self.case['data']}_{kind}"])
                for kind in ("x", "relative")
            )
        self.images = (images, days, (images != 0).flatten(2).any(2))


def test_no_case_is_left_out(golden):
    cases = json.loads((golden / "crop2seg" / "cases.json").read_text())
    networks = {name for name, case in cases.items() if "arguments" in case}
    elsewhere = {"unet3d", "uconvlstm_128", "timeunet_grad", "wtae_boundary_grad"}
    assert set(CASES) == networks - elsewhere


@pytest.mark.parametrize("name", CASES)
def test_scores_boundaries_and_attention_equal_the_published_ones(golden, golden_state, name):
    known = Golden(golden, golden_state, name)
    assert (
        sum(parameter.numel() for parameter in known.model.parameters()) == known.case["n_params"]
    )
    with torch.no_grad():
        output: SemanticOutput = known.model(*known.images)
    assert difference(output.logits_BKHW, known.arrays["y"]) < 1e-4
    assert (output.boundary_B2HW is not None) == ("y_boundary" in known.arrays)
    assert (output.attention_GBTHW is not None) == ("attention" in known.arrays)
    if output.boundary_B2HW is not None:
        assert difference(output.boundary_B2HW, known.arrays["y_boundary"]) < 1e-4
    if output.attention_GBTHW is not None:
        attention = known.arrays["attention"]
        if attention.ndim == 6:  # the published program keeps the attention of each query
            attention = attention.mean(2)
        step = 8 if isinstance(known.config, TimeUnetConfig) else 1
        assert difference(output.attention_GBTHW[..., ::step, ::step], attention) < 1e-4


@pytest.fixture
def one_thread():
    """Sums of one order: three values before a ReLU lie within 5e-6 of zero, and fall on either
    side with two threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["timeunet_grad", "wtae_boundary_grad"])
def test_a_training_step_equals_the_published_one(golden, golden_state, name):
    known = Golden(golden, golden_state, name)
    for module in known.model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    output: SemanticOutput = known.model(*known.images)
    weight = torch.tensor([1.0] * 14 + [0.0])
    target = torch.from_numpy(known.arrays["target"]).long()
    loss = F.cross_entropy(output.logits_BKHW, target, weight, label_smoothing=0.1)
    assert loss.item() == pytest.approx(float(known.arrays["loss"]), rel=1e-5)
    if output.boundary_B2HW is not None:
        entropy = F.cross_entropy(
            output.boundary_B2HW, torch.from_numpy(known.arrays["edge"]).long(), reduction="none"
        )
        boundary = ((1 - (-entropy).exp()) ** 2 * entropy).mean()
        assert boundary.item() == pytest.approx(float(known.arrays["boundary_loss"]), rel=1e-5)
        loss = loss + boundary
    loss.backward()
    published = {
        key: torch.tensor(value)
        for key, value in json.loads(str(known.arrays["grad_norms"])).items()
    }
    gradients = {key: parameter.grad for key, parameter in known.model.named_parameters()}
    norms = own_names(published, known.config)
    assert norms.keys() == gradients.keys()
    for key, norm in norms.items():
        # Biases before a norm, and what the softmax cancels, have no gradient but rounding. Without
        # AVX other values fall on either side of a ReLU, which moves a norm by up to 0.2 %.
        relative = 3e-3 if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else 1e-3
        expected = pytest.approx(norm.item(), rel=relative, abs=1e-6)
        assert gradients[key].norm().item() == expected, key


def test_sines_equal_the_published_ones(golden):
    with np.load(golden / "crop2seg" / "date_encoding.npz") as arrays:
        found = DateEncoder(16, 16)(torch.from_numpy(arrays["relative_days"]))
        assert (
            difference(
                found.expand(-1, -1, 16, -1).flatten(2), arrays["sinusoid_16_dims_repeat_16"]
            )
            < 1e-5
        )


def test_days_of_the_year_are_those_of_the_calendar(golden):
    first, last = date(1890, 1, 1), date(2110, 12, 31)
    expected = [
        (first + timedelta(day)).timetuple().tm_yday for day in range((last - first).days + 1)
    ]
    for reference in ("2018-09-01", "2000-02-29", "1999-12-31", "2020-03-01"):
        days = torch.arange(len(expected)) - (date.fromisoformat(reference) - first).days
        assert day_of_year(days, reference).tolist() == expected
    with np.load(golden / "crop2seg" / "inputs.npz") as inputs:
        days = torch.from_numpy(inputs["unpadded_relative"])
        assert np.array_equal(day_of_year(days, "2018-09-01").numpy(), inputs["unpadded_doy"])


def test_the_last_days_of_a_year_take_the_last_of_365_vectors():
    table = DayTable(3)
    found = table(torch.tensor([[-5, 0, 1, 364, 365, 366]]))[0, :, 0]
    columns = [table.fc.weight[:, day] + table.fc.bias for day in (0, 0, 1, 364, 364, 364)]
    torch.testing.assert_close(found, torch.stack(columns))


def test_what_each_encoder_of_dates_sees():
    days = torch.tensor([[0, 100, 486]])  # the last one is 31 December
    year = day_of_year(days, "2018-09-01")
    assert year.tolist() == [[244, 344, 365]]

    def encoders(**options) -> tuple[Tensor, nn.Module, nn.Module]:
        encoder = DateEncoder(4, 2, **options)
        return encoder(days), encoder.relative, encoder.day_of_year

    sines = positional_encoding(days, 4)[:, :, None]
    found, *_ = encoders()
    torch.testing.assert_close(found, sines)
    found, relative, by_year = encoders(dates="day_of_year")
    torch.testing.assert_close(found, by_year(year))
    assert relative is None
    found, _, by_year = encoders(dates="both")
    torch.testing.assert_close(found, sines + by_year(year))
    found, relative, by_year = encoders(dates="both", relative_as_day_of_year=True)
    torch.testing.assert_close(found, relative(days) + by_year(year))
    assert isinstance(relative, DayTable)
    found, relative, _ = encoders(linear=True)
    torch.testing.assert_close(
        found.flatten(2), relative.fc(sines.expand(-1, -1, 2, -1).flatten(2))
    )
    assert found.shape == (1, 3, 2, 4)
    found, relative, by_year = encoders(dates="day_of_year", linear=True)
    torch.testing.assert_close(found, by_year(year))
    assert isinstance(by_year, Sines)
    found, relative, by_year = encoders(dates="both", linear=True)
    torch.testing.assert_close(found, relative(days) + by_year(year))


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("linear", [False, True])
def test_dates_are_seen_as_asked_for(name, linear):
    """A year later is the same day of the year, and another day since the reference date."""
    images, days, valid = padded_season()
    later = days + 365
    assert torch.equal(day_of_year(days, "2018-09-01"), day_of_year(later, "2018-09-01"))
    for dates, changes in (("relative", True), ("day_of_year", False), ("both", True)):
        model = small_model(replace(SMALL[name], dates=dates, linear_dates=linear))
        change = (
            (scores(model, images, days, valid) - scores(model, images, later, valid)).abs().max()
        )
        assert (change > 1e-6) == changes, dates
        shifted = scores(model, images, days + 50 * torch.arange(5), valid)
        assert (shifted - scores(model, images, days, valid)).abs().max() > 1e-6, dates


@pytest.mark.parametrize("name", ATTENTIVE)
def test_the_reference_date_follows_from_the_data_and_moves_the_day_of_the_year(name):
    config = replace(SMALL[name], dates="day_of_year")
    moved = config.fitted(bands=3, classes=4, reference_date="2020-03-01")
    assert moved.reference_date == "2020-03-01"
    assert (
        scores(small_model(config), *padded_season()) - scores(small_model(moved), *padded_season())
    ).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["utae", "timeunet"])
def test_relative_days_are_looked_up_as_released(name):
    images, days, valid = padded_season()
    model = small_model(replace(SMALL[name], dates="both", relative_as_day_of_year=True))
    # The calendar repeats itself after 146 097 days, and all of these days lie beyond the table,
    # whose last vector they take.
    beyond, further = (scores(model, images, days + cycles * 146_097, valid) for cycles in (1, 2))
    torch.testing.assert_close(beyond, further)
    assert (scores(model, images, days, valid) - beyond).abs().max() > 1e-6


def test_the_attention_of_several_queries_is_averaged():
    torch.manual_seed(1)
    maps, days, valid = (
        torch.randn(1, 5, 8, 2, 2),
        torch.arange(5)[None] * 30,
        torch.ones(1, 5, dtype=torch.bool),
    )
    several = Ltae(channels=8, heads=2, key_width=3, d_model=8, queries=3).eval()
    single = Ltae(channels=8, heads=2, key_width=3, d_model=8).eval()
    attention = []
    for query in range(3):
        state = several.state_dict()
        state["attention_heads.Q"] = state["attention_heads.Q"][:, query]
        single.load_state_dict(state)
        with torch.no_grad():
            attention.append(single(maps, days, valid)[1])
    mean = torch.stack(attention).mean(0)
    with torch.no_grad():
        out, found = several(maps, days, valid)
        torch.testing.assert_close(found, mean)
        torch.testing.assert_close(several.attend(maps, days, valid), mean)
        average = several._average(
            several._normalise(maps.permute(0, 1, 3, 4, 2).flatten(2, 3), valid),
            several.date_encoder(days),
            mean.permute(1, 2, 3, 4, 0).flatten(2, 3),
        )
        expected = several.out_norm(several.mlp(average.flatten(0, 1)))
    assert (attention[0] - attention[1]).abs().max() > 1e-3
    torch.testing.assert_close(out.permute(0, 2, 3, 1).flatten(0, 2), expected)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_several_queries_run_with_attention(name):
    output = small_model(replace(SMALL[name], queries=4))(*padded_season())
    torch.testing.assert_close(
        output.attention_GBTHW.sum(2), torch.ones_like(output.attention_GBTHW[:, :, 0])
    )
    output.logits_BKHW.sum().backward()
    assert (
        output.logits_BKHW - scores(small_model(SMALL[name]), *padded_season())
    ).abs().max() > 1e-6


def test_a_separable_convolution_by_hand():
    layer = SeparableConv(2, 3, kernel=3, stride=1, border="zeros")
    images = torch.randn(1, 2, 5, 5)
    apart = torch.cat(
        [
            F.conv2d(images[:, i : i + 1], layer.depthwise.weight[i : i + 1], padding=1)
            for i in range(2)
        ],
        1,
    )
    torch.testing.assert_close(
        layer(images), torch.einsum("kc,nchw->nkhw", layer.pointwise.weight[..., 0, 0], apart)
    )


def test_squeeze_and_excitation_by_hand():
    layer = SqueezeExcitation(32)
    images = torch.randn(2, 32, 4, 4)
    hidden = F.relu(images.mean((2, 3)) @ layer.sae[1].weight.T)
    assert hidden.shape == (2, 2)
    torch.testing.assert_close(
        layer(images), images * (hidden @ layer.sae[3].weight.T).sigmoid()[..., None, None]
    )
    assert SqueezeExcitation(8)(torch.ones(1, 8, 2, 2)).shape == (1, 8, 2, 2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in SMALL
        for kind in ("depthwise_separable", "mbconv", "squeeze")
        if (name, kind) != NO_MBCONV
    ],
)
def test_blocks_are_made_of_what_is_asked_for(name, kind):
    module = {"depthwise_separable": SeparableConv, "mbconv": MBConv, "squeeze": SqueezeExcitation}[
        kind
    ]
    option = {"convolution": kind} if kind == "depthwise_separable" else {kind: True}

    def count(config: ModelConfig) -> int:
        parts = (getattr(build_network(config), part) for part in ("in_conv", "down_blocks"))
        return sum(isinstance(layer, module) for part in parts for layer in part.modules())

    asked = replace(SMALL[name], **option)
    assert count(SMALL[name]) == 0
    assert count(asked) >= 2
    assert (
        scores(small_model(asked), *padded_season())
        - scores(small_model(SMALL[name]), *padded_season())
    ).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["utae", "wtae", "unet_naive"])
@pytest.mark.parametrize("classes", [2, 15])
def test_mbconv_scores_any_number_of_classes(name, classes):
    """The published norm fails on numbers that four groups do not divide."""
    boundary = {} if name == "unet_naive" else {"boundary": True}
    model = build_network(replace(SMALL[name], mbconv=True, classes=classes, **boundary))
    output = model(*padded_season())
    assert output.logits_BKHW.shape == (2, classes, 16, 16)
    loss = output.logits_BKHW.square().mean()
    if boundary:
        loss = loss + output.boundary_B2HW.square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["utae", "wtae"])
def test_the_boundary_head_scores_the_finest_map(name):
    model = small_model(replace(SMALL[name], boundary=True))
    with torch.no_grad():
        output, maps = model(*padded_season()), model.features(*padded_season())
        torch.testing.assert_close(output.boundary_B2HW, model.boundary_conv(maps.pyramid[-1]))
    assert output.boundary_B2HW.shape == (2, 2, 16, 16)
    assert small_model(SMALL[name])(*padded_season()).boundary_B2HW is None


@pytest.mark.parametrize(
    "options", [{"aggregation": "att_mean"}, {"aggregation": "mean"}, {"encoder_norm": "instance"}]
)
def test_aggregation_and_norm_change_wtae(options):
    changed = scores(small_model(replace(SMALL["wtae"], **options)), *padded_season())
    assert (changed - scores(small_model(SMALL["wtae"]), *padded_season())).abs().max() > 1e-6


def test_the_mean_of_wtae_is_over_valid_dates():
    """A season twice over has the same mean, with any attention."""
    images, days, valid = padded_season()
    model = small_model(replace(SMALL["wtae"], aggregation="mean"))
    twice = [torch.cat([part, part], dim=1) for part in (images, days, valid)]
    torch.testing.assert_close(
        scores(model, *twice), scores(model, images, days, valid), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_padded_pixels_are_never_looked_at(name, norm):
    config = SMALL[name] if name == "unet_naive" else replace(SMALL[name], encoder_norm=norm)
    model, (images, days, valid) = small_model(config), padded_season()
    changed = images.masked_fill(~valid[:, :, None, None, None], 1e3)
    assert torch.equal(scores(model, images, days, valid), scores(model, changed, days, valid))


@pytest.mark.parametrize("name", ["wtae", "timeunet"])
def test_padding_invariant_means_that_padding_changes_nothing(name):
    images, days, valid = padded_season()
    longer = [F.pad(images, (0, 0) * 3 + (0, 4)), F.pad(days, (0, 4)), F.pad(valid, (0, 4))]
    for invariant in (True, False):
        model = small_model(replace(SMALL[name], padding_invariant=invariant))
        change = (scores(model, images, days, valid) - scores(model, *longer)).abs().max()
        assert (change < 1e-6) == invariant


@pytest.mark.parametrize("name", ["wtae", "timeunet"])
def test_the_order_of_dates_does_not_matter(name):
    images, days, valid = padded_season()
    order = torch.tensor([2, 0, 4, 1, 3])
    model = small_model(SMALL[name])
    shuffled = scores(model, images[:, order], days[:, order], valid[:, order])
    torch.testing.assert_close(shuffled, scores(model, images, days, valid), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("training", [False, True])
def test_pieces_change_nothing(name, training, monkeypatch):
    model = small_model(SMALL[name])
    images, days, valid = padded_season()
    with torch.set_grad_enabled(training):
        whole = model(images, days, valid).logits_BKHW
        monkeypatch.setattr("panoseg.models.layers.CACHED_ELEMENTS", 2 * 8 * 16 * 16)
        monkeypatch.setattr("panoseg.models.ltae.CACHED_ELEMENTS", 2 * 5 * 8 * 7)
        torch.testing.assert_close(model(images, days, valid).logits_BKHW, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wtae", "timeunet"])
def test_batch_norm_sees_all_frames_and_counts_a_step_once(name):
    model = small_model(replace(SMALL[name], encoder_norm="batch")).train()
    images, days, valid = padded_season()
    first = model.in_conv.conv.conv[0](images[valid])
    model(images, days, valid)
    norm = model.in_conv.conv.conv[1]
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * first.mean((0, 2, 3)))


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_trains(name):
    model = small_model(SMALL[name]).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*padded_season())
    assert output.logits_BKHW.dtype == torch.float32
    output.logits_BKHW.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_paps_works_on_their_maps(name):
    config = PapsConfig(SMALL[name], shape_size=4)
    output = small_model(config)(
        *padded_season(), zones_BHW=torch.ones(2, 16, 16, dtype=torch.int64), pixel_scores=True
    )
    assert output.heatmap_BHW.shape == (2, 16, 16)
    assert len(output.candidates.centre_N3) == 2
    assert output.pixel_scores_BKHW.shape == (2, 4, 16, 16)
    assert config_from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("height", "width"), [(15, 16), (16, 2)])
def test_images_of_an_impossible_size_are_refused(name, height, width):
    images, days, valid = padded_season()
    images = images[..., :1, :1].expand(-1, -1, -1, height, width)
    with pytest.raises(
        ConfigError,
        match=rf"images have {height} x {width} pixels, but .* sides that are multiples of 2",
    ):
        small_model(SMALL[name])(images, days, valid)


def test_the_naive_unet_fills_short_seasons_with_zeros_and_refuses_long_ones():
    model = small_model(SMALL["unet_naive"])
    images, days, valid = padded_season()
    valid[:, 3:] = False
    torch.testing.assert_close(
        scores(model, images[:, :3], days[:, :3], valid[:, :3]), scores(model, images, days, valid)
    )
    assert not torch.equal(
        scores(model, images.flip(1), days, valid.flip(1)), scores(model, images, days, valid)
    )
    with pytest.raises(
        ConfigError, match="season has 6 dates, but this naive U-Net takes at most 5"
    ):
        model(*padded_season(6))
    longer = build_network(replace(SMALL["unet_naive"], length=8))
    assert longer.in_conv.conv.conv[0].weight.shape == (32, 24, 3, 3)
    assert longer(*padded_season(6)).logits_BKHW.shape == (2, 4, 16, 16)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (
            UtaeConfig,
            {"mbconv": True, "squeeze": True},
            "mbconv and squeeze exclude each other",
        ),
        (NaiveUnetConfig, {"mbconv": True, "squeeze": True}, "mbconv and squeeze"),
        (
            WtaeConfig,
            {"convolution": "3d"},
            "convolution must be one of 2d, depthwise_separable, not '3d'",
        ),
        (NaiveUnetConfig, {"convolution": "3d"}, "convolution .* not '3d'"),
        (
            TimeUnetConfig,
            {"dates": "weekly"},
            "dates must be one of relative, day_of_year, both, not 'weekly'",
        ),
        (WtaeConfig, {"aggregation": "median"}, "aggregation .* not 'median'"),
        (WtaeConfig, {"queries": 0}, "queries must be at least 1, not 0"),
        (
            TimeUnetConfig,
            {"reference_date": "1 September"},
            "reference_date must be a date YYYY-MM-DD, not '1 September'",
        ),
        (UtaeConfig, {"relative_as_day_of_year": True}, "needs dates both .* not dates relative"),
        (
            TimeUnetConfig,
            {"relative_as_day_of_year": True, "dates": "both", "linear_dates": True},
            "dates both without linear_dates, not dates both and linear_dates",
        ),
        (TimeUnetConfig, {"encoder_widths": (40, 64, 64, 128)}, "heads must divide .* 16 heads"),
        (WtaeConfig, {"encoder_widths": (40, 64, 64, 128)}, "heads must divide .* 16 heads"),
        (NaiveUnetConfig, {"length": 0}, "length must be at least 1, not 0"),
        (
            NaiveUnetConfig,
            {"length": 4000},
            "times dates, over two, must be at most 4096, not 16000",
        ),
        (
            NaiveUnetConfig,
            {"length": 500, "bands": 13},
            "bands x dates must be at most 4096, not 6500",
        ),
        (NaiveUnetConfig, {"length": 1, "head_widths": (1,)}, "at least 1"),
        (NaiveUnetConfig, {"decoder_widths": (4, 4, 8, 8)}, "the same number, not with .* and 8"),
    ],
)
def test_impossible_options_are_refused(kind, options, words):
    with pytest.raises(ConfigError, match=words):
        kind(**options)


@pytest.mark.parametrize("option", ["boundary", "mbconv", "aggregation"])
def test_options_that_timeunet_would_ignore_are_refused(option):
    with pytest.raises(ConfigError, match=f"timeunet has no options \\['{option}'\\]"):
        config_from_json({"model": "timeunet", option: True})


@pytest.mark.parametrize("name", SMALL)
def test_configurations_survive_json(name):
    assert config_from_json(json.loads(json.dumps(to_json(SMALL[name])))) == SMALL[name]


def test_heads_divide_the_first_width_only_where_they_weigh_it_in_groups():
    WtaeConfig(encoder_widths=(40, 64, 64, 128), aggregation="att_mean")
    UtaeConfig(encoder_widths=(40, 64, 64, 128), aggregation="att_mean")
