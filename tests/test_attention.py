"""When in the season a network looked: the numbers by hand, the options, the picture."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.data.samples import Sample, collate
from panoseg.errors import ConfigError
from panoseg.models.configs import SEASON_CONFIGS
from panoseg.models.network import Network, build_network
from panoseg.models.outputs import SemanticOutput
from panoseg.models.weights import load_weights, save_weights
from panoseg.pictures import BLUE, GREY
from panoseg.pictures.comparison import draw_attention
from panoseg.training import TrainConfig, attention
from panoseg.training.attention import attention_in, find_place, network_attention
from panoseg.training.run import start
from small_pastis import parcels
from tiny_runs import PAPS, UTAE

CONFIG = TrainConfig(
    model=UTAE, epochs=1, max_steps_per_epoch=1, workers=0, accelerator="cpu", tune_threshold=False
)
IDS_HW, CLASSES_HW = parcels()


def test_attention_at_a_pixel_and_in_a_parcel_by_hand():
    """Two cells of attention on four columns: bilinear resampling weighs them 1, 3/4, 1/4, 0."""
    cells = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # a head, two dates, 1 x 2
    left, right = np.zeros((1, 4), bool), np.zeros((1, 4), bool)
    left[0, 1], right[0, 2:] = True, True
    assert attention_in(cells, left).tolist() == [[0.75, 0.25]]
    assert attention_in(cells, right).tolist() == [[0.125, 0.875]]
    assert attention_in(cells, np.ones((1, 4), bool)).tolist() == [[0.5, 0.5]]


def test_attention_of_a_place_sums_to_one():
    cells = torch.rand(3, 5, 2, 2, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = attention_in(cells, np.random.default_rng(0).random((16, 16)) > 0.5)
    assert found.shape == (3, 5)
    assert found.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-6)


def batch():
    torch.manual_seed(0)
    samples = [
        Sample(torch.randn(dates, 10, 16, 16), torch.arange(dates) * 30, str(dates))
        for dates in (4, 3)
    ]
    return collate(samples)


def test_attention_of_networks_is_what_they_pay():
    torch.manual_seed(1)
    semantic, panoptic = build_network(UTAE), build_network(PAPS)
    given = batch()
    inputs = given.images_BTCHW, given.days_BT, given.valid_BT
    found = network_attention(semantic.train(), given)  # without dropout, in any mode
    assert torch.equal(found, semantic(*inputs).attention_GBTHW)
    assert found.sum(2).allclose(torch.ones(4, 2, 8, 8))
    assert not found[:, 1, 3].any()  # padding
    assert torch.equal(
        network_attention(panoptic, given), panoptic.encoder.features(*inputs).attention_GBTHW
    )


def test_networks_without_attention_are_refused_in_a_line():
    class Plain(Network):
        def forward(self, images_BTCHW, days_BT, valid_BT):
            return SemanticOutput(images_BTCHW[:, 0])

    with pytest.raises(ConfigError, match="has no attention over dates") as error:
        network_attention(Plain(replace(UTAE)), batch())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(SEASON_CONFIGS.keys() - {"paps"}))
def test_every_network_shows_its_attention_or_says_that_it_has_none(name):
    torch.manual_seed(0)
    samples = [Sample(torch.randn(5, 10, 32, 32), torch.arange(5) * 30, "1")]
    model = build_network(SEASON_CONFIGS[name]())
    if name in ("utae", "wtae", "timeunet"):
        found = network_attention(model, collate(samples))
        assert found.shape[1:3] == (1, 5)
        assert found.sum(2).allclose(torch.ones(()))
        assert attention_in(found[:, 0], np.ones((32, 32), bool)).sum(axis=1) == pytest.approx(
            1, abs=1e-5
        )
    else:
        with pytest.raises(ConfigError, match="no attention over dates"):
            network_attention(model, collate(samples))


def test_places():
    whole = find_place(CLASSES_HW, IDS_HW, PASTIS, None, None)
    assert whole.inside_HW.all()
    pixel = find_place(CLASSES_HW, IDS_HW, PASTIS, (2, 3), None)
    assert np.argwhere(pixel.inside_HW).tolist() == [[2, 3]]
    assert pixel.words == "row 2, column 3: corn, parcel 7"
    assert (
        find_place(CLASSES_HW, IDS_HW, PASTIS, (0, 15), None).words
        == "row 0, column 15: background"
    )
    parcel = find_place(CLASSES_HW, IDS_HW, PASTIS, None, 10)
    assert (parcel.inside_HW == (IDS_HW == 10)).all()
    assert parcel.words == "parcel 10: meadow, 0.28 ha"


@pytest.mark.parametrize(
    ("pixel", "parcel", "words"),
    [
        ((16, 0), None, "--pixel 16 0 lies outside of the patch: choose a row from 0 to 15"),
        ((0, -1), None, "--pixel 0 -1"),
        (None, 8, "no parcel 8 in the patch: choose one of 7, 10, 13"),
        (None, 0, "no parcel 0"),
        ((1, 1), 7, "either --pixel or --parcel, not both"),
    ],
)
def test_places_that_are_not_there(pixel, parcel, words):
    with pytest.raises(ConfigError, match=words):
        find_place(CLASSES_HW, IDS_HW, PASTIS, pixel, parcel)


@pytest.fixture(scope="module")
def semantic(data, tmp_path_factory):
    """A semantic run of one step."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_predictions", "draw_scores"):
            patch.setattr(f"panoseg.training.run.{name}", lambda *_: None)
        folder = tmp_path_factory.mktemp("run") / "run"
        start("tiny", CONFIG, data, 1, folder)
    return folder


def shown(monkeypatch, run, data, *options: str, patch: str = "12"):
    """What would be drawn: sample, place, attention, words, reference date."""
    drawn = []
    monkeypatch.setattr(attention, "draw_attention", lambda *arguments: drawn.append(arguments))
    command = [
        "show",
        str(run),
        "--data",
        str(data),
        "--patch",
        patch,
        "--attention",
        "--out",
        "a.png",
        *options,
    ]
    assert main(command) == 0
    return drawn[0]


def test_options_choose_the_place(semantic, data, monkeypatch):
    whole, pixel, parcel = (
        shown(monkeypatch, semantic, data, *options)
        for options in ([], ["--pixel", "2", "3"], ["--parcel", "2"])
    )
    assert [place[1].inside_HW.sum() for place in (whole, pixel, parcel)] == [256, 1, 28]
    assert [place[0].name for place in (whole, pixel, parcel)] == ["12"] * 3
    assert len({place[2].tobytes() for place in (whole, pixel, parcel)}) == 3
    assert all(
        place[2].shape == (4, 3) and place[2].sum(axis=1) == pytest.approx(np.ones(4))
        for place in (whole, pixel)
    )
    assert whole[3] == ""
    assert pixel[3].startswith("predicted: ")
    assert "% of the pixels" in parcel[3]
    other = shown(monkeypatch, semantic, data, "--parcel", "2", patch="13")
    assert (other[0].name, other[2].shape) == ("13", (4, 4))


def test_fold_chooses_the_weights(semantic, data, tmp_path, monkeypatch):
    """Two folds: the weights of the run, and those weights with attention turned around."""
    weights = load_weights(semantic / "weights")
    save_weights(tmp_path / "fold_1", weights)
    turned = {
        name: -value if name.endswith("attention_heads.Q") else value
        for name, value in weights.state.items()
    }
    save_weights(tmp_path / "fold_2", replace(weights, state=turned))
    first, second = (shown(monkeypatch, tmp_path, data, "--fold", fold)[2] for fold in ("1", "2"))
    assert np.array_equal(first, shown(monkeypatch, semantic, data)[2])
    assert not np.allclose(first, second)


def test_a_panoptic_network_shows_its_backbones_attention(data, tmp_path, monkeypatch):
    for name in ("draw_curves", "draw_predictions", "draw_scores"):
        monkeypatch.setattr(f"panoseg.training.run.{name}", lambda *_: None)
    start("tiny", replace(CONFIG, model=PAPS), data, 1, tmp_path / "run")
    assert shown(monkeypatch, tmp_path / "run", data, "--parcel", "1")[2].shape == (4, 3)


def test_show_draws_attention(semantic, data, tmp_path):
    out = tmp_path / "a.png"
    command = ["show", str(semantic), "--data", str(data), "--patch", "12", "--out", str(out)]
    assert main([*command, "--attention", "--pixel", "2", "3"]) == 0
    with Image.open(out) as picture:
        assert picture.size == (1200, 640)


def test_mistakes_end_in_one_line(semantic, data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a.png"
    for options, words in (
        (["--patch", "12", "--pixel", "2", "3"], "--attention"),
        (["--patch", "12", "--parcel", "2"], "--attention"),
        (["--patch", "12", "--attention", "--parcel", "99"], "no parcel 99"),
        (["--patch", "1", "--attention"], "is called 1;"),
        (["--patch", "120", "--attention"], "did you mean 12?"),
    ):
        assert main(["show", str(semantic), "--data", str(data), "--out", str(out), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert words in error
    monkeypatch.setattr(attention, "network_attention", lambda *_: attention_missing())
    command = [
        "show",
        str(semantic),
        "--data",
        str(data),
        "--patch",
        "12",
        "--attention",
        "--out",
        str(out),
    ]
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def attention_missing():
    raise ConfigError("The network has no attention over dates: leave --attention out.")


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be written."""
    found = []
    monkeypatch.setattr(
        "panoseg.pictures.comparison.save_figure", lambda figure, path: found.append(figure)
    )
    return found


@pytest.fixture
def figure(figures):
    """The figure of a parcel of four pixels on five dates, two of one day, of which the third is in
    cloud.
    """
    images = torch.full((5, 10, 4, 4), 400)
    images[:, 6] = torch.tensor([1000, 2000, 400, 3000, 3600])[:, None, None]
    images[2, 0] = 5000
    sample = Sample(images.short(), torch.tensor([10, 20, 30, 40, 40]), "7")
    inside_HW = np.zeros((4, 4), bool)
    inside_HW[1:3, 1:3] = True
    weights_GT = np.array([[0.5, 0.2, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.2, 0.2]])
    draw_attention(
        sample,
        attention.Place(inside_HW, "the middle"),
        weights_GT,
        "predicted: corn",
        "2018-09-01",
        "a.png",
    )
    return figures[0]


def test_the_picture_shows_ndvi_and_marks_clouds(figure):
    curve = figure.subfigs[1].axes[0]
    clear, cloudy = curve.lines
    assert clear.get_ydata() == pytest.approx([3 / 7, 2 / 3, 13 / 17, 0.8], abs=1e-6)
    assert cloudy.get_xdata().astype(str).tolist() == ["2018-10-01"]
    assert cloudy.get_markerfacecolor() == "white"
    assert [text.get_text() for text in curve.get_legend().get_texts()] == ["clear", "in cloud"]


def test_the_picture_shows_the_mean_of_the_heads_a_day(figure):
    mean = figure.subfigs[1].axes[1]
    assert [bar.get_height() for bar in mean.patches] == pytest.approx([30, 20, 20, 30])
    assert [to_hex(bar.get_facecolor()) for bar in mean.patches] == [BLUE, BLUE, GREY, BLUE]
    legend = mean.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "if all dates had the same weight",
        "clear",
        "in cloud",
    ]
    assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == [BLUE, GREY]
    assert mean.lines[0].get_ydata() == pytest.approx([25, 25])  # four days
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in mean.patches)
    assert all(left[1] <= right[0] for left, right in pairwise(edges))


def test_the_picture_shows_each_head(figure):
    cells = figure.subfigs[1].axes[2].collections[0].get_array()
    assert cells.shape == (2, 7)
    assert cells[:, ::2].tolist() == pytest.approx(np.array([[50, 20, 10, 20], [10, 20, 30, 40]]))
    assert cells[:, 1::2].mask.all()


def test_the_picture_says_where(figure):
    land = figure.subfigs[0].axes[0]
    assert land.get_title().startswith("patch 7 on 2018-")
    assert land.texts[0].get_text() == "the middle\npredicted: corn"
    corners = np.concatenate([path.vertices for path in land.collections[0].get_paths()])
    assert corners.min(axis=0) == pytest.approx([0.5, 0.5], abs=0.07)
    assert corners.max(axis=0) == pytest.approx([2.5, 2.5], abs=0.07)


def test_a_single_date_has_an_axis_of_months(figures):
    sample = Sample(torch.full((1, 10, 4, 4), 400).short(), torch.tensor([300]), "7")
    place = attention.Place(np.ones((4, 4), bool), "the whole patch")
    draw_attention(sample, place, np.ones((2, 1)), "", "2018-09-01", "a.png")
    figures[0].canvas.draw()
    heads = figures[0].subfigs[1].axes[2]
    assert [label.get_text() for label in heads.get_xticklabels()] == ["May", "Jul"]
    assert heads.collections[0].get_array().tolist() == [[100], [100]]
