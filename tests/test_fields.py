"""The network of composites, the head that draws fields, and how regions are drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cubes import make_cube
from mapping_weights import tiny_weights
from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.cube.season import Window, read_window
from panoseg.data.samples import Batch
from panoseg.errors import ConfigError, CubeError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps import MapOptions
from panoseg.maps.inputs import open_inputs
from panoseg.maps.mapping import map_cube
from panoseg.models.configs import config_from_json, to_json
from panoseg.models.configs.parcels import CompositesConfig, FieldsConfig
from panoseg.models.fields import BELOW, DISTANCE, RIGHT, FieldTargets, _best_iou, _turn_back
from panoseg.models.model import Model
from panoseg.models.network import PredictOptions, build_network
from panoseg.models.weights import Weights
from panoseg.panoptic.regions import describe_regions, draw_regions, merge_basins, without_small
from panoseg.panoptic.tta import augment
from small_networks import SMALL_UTAE, season

WIDTHS = {"encoder_widths": (8, 8), "decoder_widths": (8, 8)}
SMALL = CompositesConfig(bands=3, composites=4, **WIDTHS)


def batch_of(fields_HW: np.ndarray, classes_HW: np.ndarray | None = None) -> Batch:
    """Two seasons with the same fields."""
    images, days, valid = season(4, fields_HW.shape)
    instances = torch.from_numpy(np.stack([fields_HW, fields_HW]).astype(np.int32))
    classes = (
        (instances % 5).long()
        if classes_HW is None
        else torch.from_numpy(np.stack([classes_HW] * 2)).long()
    )
    return Batch(images, days, valid, ("a", "b"), classes, instances)


def two_fields() -> np.ndarray:
    """A field of 8 x 6 and, next to it, one of 8 x 4, in 16 x 16 pixels."""
    fields_HW = np.zeros((16, 16), np.int32)
    fields_HW[4:12, 2:8], fields_HW[4:12, 8:12] = 1, 2
    return fields_HW


def maps_of(fields_HW: np.ndarray) -> np.ndarray:
    """What a perfect head says of fields."""
    nothing = torch.zeros((1, *fields_HW.shape), dtype=torch.bool)
    return FieldTargets.of(torch.from_numpy(fields_HW[None]), nothing).maps_B5HW[0].numpy()


def features(config: CompositesConfig, *inputs: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return build_network(config).eval().features(*inputs).pyramid[-1]


def test_dates_that_are_padding_change_no_map():
    images, days, valid = season(5, lengths=(5, 3))
    rubbish = images.masked_fill(~valid[:, :, None, None, None], torch.nan)
    assert torch.equal(features(SMALL, images, days, valid), features(SMALL, rubbish, days, valid))


@pytest.mark.parametrize("dates", [1, 2, 30])
def test_any_number_of_dates_in_any_order_makes_maps(dates):
    images, days, valid = season(dates)
    maps = features(SMALL, images, days, valid)
    order = torch.randperm(dates)
    turned = features(SMALL, images[:, order], days[:, order], valid)
    assert maps.shape == (2, 8, 16, 16)
    torch.testing.assert_close(maps, turned, rtol=1e-4, atol=1e-4)


def test_a_missing_band_is_declared_and_its_values_do_not_count():
    images, days, valid = season()
    missing, zero = images.clone(), images.clone()
    missing[:, :, 1], zero[:, :, 1] = torch.nan, 0
    without = features(SMALL, missing, days, valid)
    assert without.isfinite().all()
    assert not torch.allclose(without, features(SMALL, zero, days, valid))
    assert not torch.allclose(without, features(SMALL, images, days, valid))


def test_a_pixel_without_data_on_a_date_takes_the_other_dates():
    images, days, valid = season()
    gap, other = images.clone(), images.clone()
    gap[0, 1, :, 3, 3] = torch.nan
    other[0, 1, 0, 3, 3] = torch.nan  # of one band: the pixel of that date is left out as well
    torch.testing.assert_close(
        features(SMALL, gap, days, valid), features(SMALL, other, days, valid)
    )
    fewer = build_network(SMALL).eval()
    seen = ~gap.isnan()
    present = torch.ones(2, 3)
    with torch.no_grad():
        whole = fewer.composites(gap, seen, days, present)[0, :, 3, 3]
        left = fewer.composites(gap[:, [0, 2, 3]], seen[:, [0, 2, 3]], days[:, [0, 2, 3]], present)
    torch.testing.assert_close(whole, left[0, :, 3, 3])


def test_composites_follow_the_calendar():
    images, days, valid = season()
    base = features(SMALL, images, days, valid)
    for changed in (
        features(SMALL, images, days + 100, valid),
        features(replace(SMALL, first_day=100), images, days, valid),
        features(replace(SMALL, last_day=200), images, days, valid),
    ):
        assert not torch.allclose(base, changed)


def test_bands_are_dropped_in_training_only():
    images, *_ = season()
    torch.manual_seed(1)
    network = build_network(replace(SMALL, bands=6, band_dropout=1.0))
    images = images.repeat(1, 1, 2, 1, 1)
    drawn = torch.stack(
        [network._present(torch.ones_like(images, dtype=torch.bool)) for _ in range(40)]
    ).sum(-1)
    assert drawn.min() == 3
    assert 3 < drawn.float().mean() < 6
    assert network.eval()._present(torch.ones_like(images, dtype=torch.bool)).all()
    with pytest.raises(ConfigError, match="band_dropout"):
        replace(SMALL, band_dropout=2.0)
    with pytest.raises(ConfigError, match="last_day"):
        replace(SMALL, last_day=-5)


def test_targets_say_where_fields_and_their_boundaries_are():
    extent, boundary, distance, right, below = maps_of(two_fields())
    assert extent.sum() == 80
    assert boundary[4:12, 7].all()
    assert not boundary[5:11, 4].any()
    assert right[5, 7] == 1
    assert right[5, 1] == 1
    assert right[5, 4] == 0
    assert below[11, 5] == 1
    assert below[3, 5] == 1
    assert below[6, 5] == 0
    assert distance.max() == 1
    assert distance[5:11, 9].min() == 1 > distance[5, 3] > distance[4, 2]


def test_fields_at_the_rim_go_on_beyond_it():
    fields_HW = np.ones((16, 16), np.int32)
    _, boundary, distance, right, below = maps_of(fields_HW)
    assert not boundary.any()
    assert not right.any()
    assert not below.any()
    assert distance.min() > 0.4


def test_void_is_not_learned():
    fields_HW = two_fields()
    classes_HW = np.where(fields_HW == 2, 19, fields_HW)
    batch = batch_of(fields_HW, classes_HW)
    void = FieldTargets.of(batch.instances_BHW, batch.classes_BHW == 19)
    assert not void.known_BHW[0, 5, 9]
    assert not void.pair_B2HW[0, :, 5, 8].any()
    # Void is another object than the field: a boundary is known to lie between them.
    assert void.pair_B2HW[0, 0, 5, 7] == void.maps_B5HW[0, RIGHT, 5, 7] == 1


@pytest.mark.parametrize("backbone", [SMALL, SMALL_UTAE])
def test_it_learns_two_fields_by_heart(backbone):
    fields_HW = two_fields()
    torch.manual_seed(0)
    config = FieldsConfig(replace(backbone, classes=20), min_pixels=4)
    network = build_network(config, PASTIS)
    batch = batch_of(fields_HW)
    colours = torch.tensor([0.0, 1.0, -1.0])[torch.from_numpy(fields_HW).long()]
    batch = replace(batch, images_BTCHW=batch.images_BTCHW * 0.1 + colours)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    first = None
    for _ in range(120):
        losses = network.losses(batch)
        first = first or losses["loss"].item()
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    assert set(losses) == set(network.loss_names)
    assert losses["loss"].item() < 0.3 * first
    network.eval()
    for found in network.predict(batch):
        ids = [found.segment_HW[6, 4], found.segment_HW[6, 10]]
        assert ids[0] != ids[1]
        right = [(found.segment_HW == ids[n - 1]) & (fields_HW == n) for n in (1, 2)]
        assert right[0].sum() > 40
        assert right[1].sum() > 26
        assert {entry.class_id for entry in found.segments} >= {1, 2}
        assert (found.segments.scores > 0.5).all()
        np.testing.assert_allclose(found.segments.probabilities.sum(1), 1, atol=1e-4)
        assert not found.segments.probabilities[:, [0, 19]].any()
    # Nothing was learned of turned images, so their mean is less sure.
    alone, views = (network.probabilities(batch, tta)[0] for tta in (1, 8))
    assert np.abs(views[:, 0] - 0.5).mean() < np.abs(alone[:, 0] - 0.5).mean()
    assert len(network.predict(batch, PredictOptions(8))) == 2
    network.config = replace(config, extent_threshold=0.0)
    network.tune([batch], lambda counts: counts)
    assert network.tuned_config() == network.config != replace(config, extent_threshold=0.0)
    assert len(network.config.confidence) == 5
    tuned = network.predict(batch)[0].segments.scores
    network.config = replace(network.config, confidence=(-20.0, 0.0, 0.0, 0.0, 0.0))
    assert (network.predict(batch)[0].segments.scores < 1e-6).all()
    assert (tuned > 0.5).all()
    network.config = replace(network.config, min_pixels=200)
    assert not len(network.predict(batch)[0].segments)


def test_options_go_to_json_and_back():
    config = FieldsConfig(SMALL, extent_threshold=0.6, merge_threshold=0.2, min_pixels=3)
    assert config_from_json(to_json(config)) == config
    with pytest.raises(ConfigError, match="backbone"):
        FieldsConfig(config)
    with pytest.raises(ConfigError, match="merge_threshold"):
        FieldsConfig(SMALL, merge_threshold=1.5)


def test_a_cube_that_lacks_bands_is_mapped_by_networks_that_can(tmp_path):
    config = FieldsConfig(CompositesConfig(**WIDTHS, band_dropout=0.3))
    weights = tiny_weights()
    weights = Weights(replace(weights.card, model=config), build_network(config).state_dict())
    cube = make_cube()
    cube.drop_vars(["B8A", "B05"]).to_netcdf(tmp_path / "eight.nc")
    cube[["B02", "B03"]].to_netcdf(tmp_path / "two.nc")
    inputs = open_inputs(tmp_path / "eight.nc", weights, MapOptions(), None, False, None)
    assert any("lacks B05, B8A" in note for note in inputs.notes)
    images, data = read_window(inputs.cube, PASTIS_BANDS, Window(0, 0, 32, 32))
    assert data.any()
    assert np.isnan(images[:, [3, 7]]).all()
    assert not np.isnan(images[:, [0, 1, 2, 4, 5, 6, 8, 9]]).any()
    result = map_cube(tmp_path / "eight.nc", weights, tmp_path / "map")
    assert (result.out / "parcels.parquet").exists()
    model = Model.of(weights)
    found = model.predict(images, inputs.season.dates_T)
    assert found.segment_HW.shape == (32, 32)
    with pytest.raises(CubeError, match=r"lacks B04.* at least 3 of its bands"):
        open_inputs(tmp_path / "two.nc", weights, MapOptions(), None, False, None)
    images[:, 2:] = np.nan
    with pytest.raises(CubeError, match=r"B04, .* 3 bands are needed"):
        model.predict(images, inputs.season.dates_T)
    with pytest.raises(CubeError, match="lacks B05, B8A"):
        open_inputs(tmp_path / "eight.nc", tiny_weights(), MapOptions(), None, False, None)


@pytest.mark.parametrize("view", range(8))
def test_pairs_of_pixels_turn_with_the_image(view):
    generator = np.random.default_rng(view)
    fields_HW = generator.integers(0, 3, (6, 6)).astype(np.int32)
    turned_HW = augment(torch.from_numpy(fields_HW), view).numpy()
    maps = torch.from_numpy(maps_of(turned_HW.copy()))[None]
    back, true = _turn_back(maps, view)[0].numpy(), maps_of(fields_HW)
    np.testing.assert_array_equal(back[[0, 1, RIGHT, BELOW]], true[[0, 1, RIGHT, BELOW]])
    np.testing.assert_allclose(back[DISTANCE], true[DISTANCE])


def test_perfect_maps_give_the_fields_back():
    generator = np.random.default_rng(3)
    rows = np.sort(generator.choice(np.arange(6, 58, 4), 5, replace=False))
    block_HW = np.searchsorted(rows, np.arange(64))[:, None] * 10
    fields_HW = (block_HW + np.arange(64)[None] // 13 + 1).astype(np.int32)
    fields_HW[20:30, 20:30] = 0
    maps = maps_of(fields_HW)
    region_HW = draw_regions(*maps[:3], maps[3:], 0.5, 0.5, 4)
    iou_N, _ = _best_iou(fields_HW, region_HW, np.zeros(fields_HW.shape, bool))
    areas = np.bincount(fields_HW.ravel(), minlength=len(iou_N) + 1)[1:]
    assert iou_N[areas >= 20].min() > 0.9
    assert not region_HW[fields_HW == 0].any()
    assert (draw_regions(*maps[:3], maps[3:], 0.5, 1.1, 4).max()) < region_HW.max()
    assert not draw_regions(*maps[:3], maps[3:], 0.5, 0.5, 10**6).any()
    assert not draw_regions(0 * maps[0], *maps[1:3], maps[3:], 0.5, 0.5, 1).any()


def test_the_weakest_boundary_goes_first_and_means_are_of_all_pixels():
    basin_HW = np.repeat([[1, 2, 3]], 4, axis=0)
    edge_2HW = np.zeros((2, 4, 3), np.float32)
    edge_2HW[0, :, 0], edge_2HW[0, :, 1] = (0.1, 0.1, 0.9, 0.1), 0.5  # means 0.3 and 0.5
    assert merge_basins(basin_HW, edge_2HW, 0.2).tolist()[0] == [1, 2, 3]
    assert merge_basins(basin_HW, edge_2HW, 0.4).tolist()[0] == [1, 1, 2]
    assert merge_basins(basin_HW, edge_2HW, 0.6).tolist()[0] == [1, 1, 1]


def test_a_merged_region_has_the_mean_of_both_boundaries():
    """Basins 1 and 2 are one; then both touch 3, over one weak pair and three strong ones."""
    basin_HW = np.array([[1, 3], [2, 3], [2, 3], [2, 3]])
    edge_2HW = np.zeros((2, 4, 2), np.float32)
    edge_2HW[0, :, 0] = (0.3, 0.8, 0.8, 0.8)
    assert len(np.unique(merge_basins(basin_HW, edge_2HW, 0.5))) == 2
    assert len(np.unique(merge_basins(basin_HW, edge_2HW, 0.7))) == 1


def test_regions_are_described():
    region_HW = np.array([[1, 1, 2, 0], [1, 1, 2, 0]])
    extent_HW = np.where(region_HW == 2, 0.5, 1.0)
    edge_2HW = np.zeros((2, 2, 4))
    edge_2HW[0, :, 0], edge_2HW[0, :, 1], edge_2HW[0, :, 2] = 0.2, (0.6, 0.8), 1.0
    edge_2HW[1, 0, 2] = 0.4
    first, second = describe_regions(region_HW, extent_HW, edge_2HW)
    # Inside of the first: two pairs to the right (0.2) and two below (0).
    np.testing.assert_allclose(first, [1.0, 0.7, 0.1, np.log(4)])
    np.testing.assert_allclose(second, [0.5, 0.85, 0.4, np.log(2)])
    assert describe_regions(np.zeros((2, 4), int), extent_HW, edge_2HW).shape == (0, 4)


def test_confidence_is_a_probability_that_was_fitted():
    """Of boxes with a strong outline nine in ten are fields, of the others one in ten."""
    generator = np.random.default_rng(0)
    network = build_network(FieldsConfig(replace(SMALL, classes=20), min_pixels=1), PASTIS)
    samples, right = [], []
    for _ in range(40):
        drawn_HW = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((6, 6), int))
        drawn_HW[[0, 5, 6, 11]] = drawn_HW[:, [0, 5, 6, 11]] = 0
        strong = generator.random(4) < 0.5
        real = generator.random(4) < np.where(strong, 0.9, 0.1)
        maps = maps_of(drawn_HW)
        outline = np.kron(np.array([[0, 1], [2, 3]]), np.ones((6, 6), int))
        maps[RIGHT:] = np.where(strong[outline], 0.9, 0.6) * maps[RIGHT:]
        true_HW = np.where(np.append(False, real)[drawn_HW], drawn_HW, 0)
        samples.append((maps, true_HW, np.zeros(drawn_HW.shape, bool)))
        right.append((strong, real))
    network._fit_confidence(samples, lambda sums: sums)
    found = np.concatenate([network._confidence(network.regions(m), m) for m, _, _ in samples])
    strong = np.concatenate([one for one, _ in right])
    real = np.concatenate([other for _, other in right])
    assert found[strong].mean() == pytest.approx(real[strong].mean(), abs=0.02)
    assert found[~strong].mean() == pytest.approx(real[~strong].mean(), abs=0.02)


def test_small_regions_are_left_out():
    region_HW = np.array([[1, 1, 2, 0], [1, 1, 3, 3]])
    assert without_small(region_HW, 2).tolist() == [[1, 1, 0, 0], [1, 1, 2, 2]]


@pytest.mark.parametrize("bands", [("B02", "B03", "B04", "B08"), ("B05", "B8A", "B11")])
def test_a_season_of_few_bands_is_mapped_without_naming_weights(bands, tmp_path, capsys):
    make_cube(48, bands=bands).to_netcdf(tmp_path / "few.nc")
    assert main(["map", str(tmp_path / "few.nc"), "--out", str(tmp_path / "map")]) == 0
    printed = capsys.readouterr().out
    assert "simulated-fields were used" in printed
    assert "the map does without" in printed
    content = json.loads((tmp_path / "map" / "map.json").read_text())
    assert "composites" in json.dumps(content)
    assert (tmp_path / "map" / "report.html").exists()
    page = tmp_path / "few.html"
    assert main(["inspect", str(tmp_path / "few.nc"), "--out", str(page)]) == 0
    assert "lacks" in capsys.readouterr().out
    two = tmp_path / "two.nc"
    make_cube(48, bands=bands[:2]).to_netcdf(two)
    for command in (["map", str(two), "--out", str(tmp_path / "no")], ["inspect", str(two)]):
        assert main(command) == 2
        assert "at least 3 of its bands are needed" in capsys.readouterr().err


def test_named_weights_that_need_all_bands_refuse_fewer(tmp_path, capsys):
    make_cube(48, bands=("B02", "B03", "B04", "B08")).to_netcdf(tmp_path / "few.nc")
    command = ["map", str(tmp_path / "few.nc"), "--out", str(tmp_path / "map")]
    assert main([*command, "--weights", "simulated-utae-paps"]) == 2
    assert "lacks B05, B06" in capsys.readouterr().err
    assert main([*command, "--weights", "fast"]) == 0
