"""Weights that learn a few fields of a person: labels, matching, the training and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
from shapely.geometry import box

from cubes import make_cube
from mapping_weights import tiny_weights
from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.cube.season import Window
from panoseg.errors import ConfigError, ParcelsError, WeightsError
from panoseg.models.configs.parcels import CompositesConfig, FieldsConfig
from panoseg.models.fields import UNKNOWN_CLASS
from panoseg.models.model import Model
from panoseg.models.network import build_network
from panoseg.models.weights import Weights, load_weights, save_weights
from panoseg.register import AdaptOptions
from panoseg.register.adapt import _Learning, _Trial, adapt
from panoseg.register.drawn import (
    NO_DATA,
    Labels,
    Quality,
    match_fields,
    quality_of,
    read_pieces,
)
from small_networks import SMALL_UTAE

QUICK = AdaptOptions(steps=2, simulated=1, groups=1, device="cpu")


def outlines_on(cube, *boxes, **columns) -> gpd.GeoDataFrame:
    """Rectangles in pixels (left, top, right, bottom) as polygons on a cube."""
    grid = cube.odc.geobox
    a = grid.affine
    shapes = [box(*(a * (left, bottom)), *(a * (right, top))) for left, top, right, bottom in boxes]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=grid.crs.to_wkt())


@pytest.fixture
def season(tmp_path):
    cube = make_cube()
    cube.to_netcdf(tmp_path / "season.nc")
    return tmp_path / "season.nc", cube


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    config = FieldsConfig(CompositesConfig(encoder_widths=(8, 8), decoder_widths=(8, 8)))
    card = replace(tiny_weights().card, model=config)
    return Weights(card, build_network(config).state_dict())


FOUR = ((0, 0, 8, 8), (8, 0, 16, 8), (0, 8, 8, 20), (20, 20, 30, 30))


def test_labels_of_a_person(season):
    cube = season[1]
    fields = outlines_on(
        cube,
        *FOUR,
        (2, 2, 6, 6),  # inside of the first
        (16, 0, 20, 8),
        (100, 100, 110, 110),
        (30, 30, 40, 40),  # reaches beyond the season
        kind=["corn", 5, None, "Soft Winter Wheat", "lupin", "No field", "corn", "corn"],
    )
    fields = pd.concat(
        [fields, outlines_on(cube, (22, 6, 24, 10), (26, 6, 30, 10)).dissolve()]
    )  # one field of two parts
    none = outlines_on(cube, (24, 0, 32, 4), (21, 21, 23, 23))  # the last is inside of a field
    labels = Labels(fields, none, "kind", cube.odc.geobox, PASTIS)
    number_HW = labels.numbers(Window(0, 0, 32, 32))
    assert (labels.rows, labels.unknown) == (7, ["5", "lupin"])
    assert number_HW.shape == (32, 32)
    assert (number_HW == 0).sum() == 4 * 8 + 8 * 4 + 2 * 2
    assert number_HW[0, 18] == number_HW[2, 30] == number_HW[22, 22] == 0
    assert (number_HW == number_HW[31, 31]).sum() == 4
    assert 0 < number_HW[7, 22] != number_HW[7, 27] > 0
    inner, outer = number_HW[3, 3], number_HW[0, 0]
    assert inner != outer  # the smaller one hides the larger one
    assert (number_HW == inner).sum() == 16
    assert (number_HW == outer).sum() == 64 - 16
    names = {number_HW[0, 0]: 3, number_HW[25, 25]: 2, inner: UNKNOWN_CLASS}
    assert {number: labels.classes_N[number - 1] for number in names} == names
    np.testing.assert_array_equal(labels.numbers(Window(4, 2, 9, 11)), number_HW[4:13, 2:13])
    [(window, own)] = labels.windows(cube.odc.geobox)
    assert (window, own) == (Window(0, 0, 32, 32), frozenset(range(1, 9)))
    with pytest.raises(ConfigError, match="no column 'crop'"):
        Labels(fields, none, "crop", cube.odc.geobox, PASTIS)


def test_pieces_hold_each_field_once_and_all_land_without_fields(season, monkeypatch):
    monkeypatch.setattr("panoseg.register.drawn.PIECE", 12)
    monkeypatch.setattr("panoseg.register.drawn._MARGIN", 1)
    cube = season[1]
    none = outlines_on(cube, (24, 0, 30, 6))
    labels = Labels(outlines_on(cube, *FOUR), none, None, cube.odc.geobox, PASTIS)
    windows = labels.windows(cube.odc.geobox)
    assert sorted(number for _, own in windows for number in own) == [1, 2, 3, 4]
    for window, own in windows:
        number_HW = labels.numbers(window)
        assert number_HW.shape == (12, 12)
        assert min(window.top, window.left) >= 0
        assert max(window.top, window.left) <= 20
        assert own <= set(np.unique(number_HW).tolist())
    assert max((labels.numbers(window) == 0).sum() for window, _ in windows) == 36


def test_pixels_without_data_are_of_no_field(season):
    cube = season[1]
    for band in cube.data_vars:
        cube[band][:, :8, :8] = 0
    labels = Labels(outlines_on(cube, *FOUR), None, None, cube.odc.geobox, PASTIS)
    number = labels.numbers(Window(0, 0, 32, 32))[0, 0]
    [piece] = read_pieces(cube, labels, ["B02", "B03"])
    assert (piece.number_HW[:8, :8] == NO_DATA).all()
    assert piece.own == {1, 2, 3, 4} - {number}


def test_groups_of_fields_lie_together(season):
    cube = season[1]
    row = [(4 * n, 0, 4 * n + 4, 4) for n in (3, 0, 5, 1, 4, 2, 6, 7)]
    labels = Labels(outlines_on(cube, *row), None, None, cube.odc.geobox, PASTIS)
    number_W = labels.numbers(Window(0, 0, 4, 32))[0]
    groups = labels.groups(frozenset(range(1, 9)), 2)
    columns = sorted(np.flatnonzero(np.isin(number_W, list(group))).tolist() for group in groups)
    assert columns == [list(range(16)), list(range(16, 32))]
    assert sorted(map(len, labels.groups(frozenset({2, 3, 5}), 2))) == [1, 2]


def test_regions_are_matched_with_fields_on_labelled_land_only():
    number_HW = np.full((10, 12), -1)
    number_HW[:4, :4], number_HW[:4, 4:8], number_HW[8:], number_HW[5:7, :4] = 1, 2, 0, 3
    region_HW = np.zeros((10, 12), int)
    region_HW[:4, :5] = 1  # field 1 and a column of field 2: 16 of 20
    region_HW[8:, :3] = 2  # where there is no field
    region_HW[:4, 9:] = 3  # where nobody said anything
    region_HW[4:8, :4] = 4  # field 3, and as much of unlabelled land
    total = match_fields(region_HW, number_HW, frozenset({1, 2, 3}))
    assert total.tolist() == [16 / 20, 1, 3, 1]
    quality = quality_of(total)
    assert (quality.found, quality.fields, quality.invented) == (1, 3, 1)
    assert quality.pq == pytest.approx(0.8 / (1 + 0.5 * (2 + 1)))
    assert str(quality) == "PQ 32.0, 1 of 3 fields found, 1 invented"
    assert match_fields(region_HW, number_HW, frozenset({2})).tolist() == [0, 0, 1, 1]
    assert quality_of(np.zeros(4)).pq == 0


def test_it_learns_the_fields_that_are_given_and_nothing_of_unlabelled_land(season, weights):
    path, cube = season
    fields = path.with_name("fields.gpkg")
    outlines_on(cube, *FOUR, crop=["corn", None, "corn", "no field"]).to_file(fields)
    many = replace(QUICK, steps=15, learning_rate=0.01)
    with pytest.raises(
        ParcelsError, match="has 3 fields of at least 6 pixels on the season, and 4 are needed"
    ):
        adapt(path, fields, weights, class_column="crop", options=many)
    outlines_on(cube, *FOUR, crop=["corn"] * 4).to_file(fields)
    adapted = adapt(path, fields, weights, class_column="crop", options=many)
    assert (adapted.fields, adapted.before, adapted.after) == (4, None, None)
    maps = {}
    for name, own in (("before", weights), ("after", adapted.weights)):
        model = Model.of(own, device="cpu")
        images = np.stack([cube[band].values for band in own.card.bands], 1).astype(np.float32)
        days = np.arange(len(images)) * 20
        maps[name], classes = model.network.probabilities(model.batch(images[None], days))
        maps[f"{name} corn"] = classes[0, 3]
    inside = np.s_[0, 0, 1:7, 1:15]
    assert maps["after"][inside].mean() > maps["before"][inside].mean() + 0.1
    assert maps["after corn"][1:7, 1:15].mean() > maps["before corn"][1:7, 1:15].mean() + 0.1
    again = adapt(path, fields, weights, class_column="crop", options=many)
    assert all(torch.equal(again.weights.state[n], v) for n, v in adapted.weights.state.items())
    other = adapt(path, fields, weights, class_column="crop", options=replace(many, seed=1)).weights
    assert any(not torch.equal(other.state[n], v) for n, v in adapted.weights.state.items())
    provenance = adapted.weights.card.provenance
    assert (provenance["fields"], provenance["steps"]) == (4, 15)


def test_land_without_fields_is_learned(season, weights):
    path, cube = season
    fields, none = path.with_name("fields.gpkg"), path.with_name("none.gpkg")
    outlines_on(cube, *FOUR).to_file(fields)
    outlines_on(cube, (16, 0, 32, 16)).to_file(none)
    plain, told = (
        adapt(path, fields, weights, no_fields=given, options=replace(QUICK, steps=5))
        for given in (None, none)
    )
    assert any("--no-fields" in note for note in plain.notes)
    assert not any("--no-fields" in note for note in told.notes)
    assert any(not torch.equal(told.weights.state[n], v) for n, v in plain.weights.state.items())


def test_each_group_is_drawn_by_weights_that_learned_the_others(season, weights, monkeypatch):
    path, cube = season
    fields = path.with_name("fields.gpkg")
    outlines_on(cube, *FOUR).to_file(fields)
    learned, matched = [], []
    fit, match = _Learning.fit, _Learning._matches
    monkeypatch.setattr(
        _Learning, "fit", lambda self, own, *rest: learned.append(own) or fit(self, own, *rest)
    )

    def matches(self, network, own, totals=None):
        matched.append((network is self.start, own))
        found = match(self, network, own, totals)
        if totals is not None:
            found[0.7, 0.2] += np.array([1, 1, 0, 0])  # so that it gets better
        return found

    monkeypatch.setattr(_Learning, "_matches", matches)
    adapted = adapt(path, fields, weights, options=replace(QUICK, groups=2))
    every = frozenset({1, 2, 3, 4})
    assert matched[0] == (True, every)
    assert [own for _, own in matched[1:]] == [every - learned[0], every - learned[1]]
    assert learned[2] == every
    assert (adapted.before.fields, adapted.after.fields) == (4, 4)
    config = adapted.weights.card.model
    assert (config.extent_threshold, config.merge_threshold) == (0.7, 0.2)


def test_weights_that_got_no_better_are_not_written(season, weights, monkeypatch, capsys):
    path, cube = season
    fields, out = path.with_name("fields.gpkg"), path.with_name("weights")
    outlines_on(cube, *FOUR).to_file(fields)
    save_weights(path.with_name("start"), weights)
    answers, groups = [_Trial(Quality(0.5, 1, 1, 0), Quality(0.5, 1, 1, 0), 0.4, 0.2, True)], []
    monkeypatch.setattr(_Learning, "trial", lambda self, given: groups.append(given) or answers[0])
    command = ["adapt", str(path), "--fields", str(fields), "--out", str(out)]
    command += ["--weights", str(path.with_name("start")), "--steps", "2", "--simulated", "1"]
    assert main(command) == 2
    assert "did not get better, so nothing was written" in capsys.readouterr().err
    assert not out.exists()
    answers[0] = replace(answers[0], after=Quality(0.6, 1, 1, 0), learned=False)
    assert main([*command, "--groups", "4"]) == 0
    printed = capsys.readouterr().out
    assert "fields that were held out, after:  PQ 60.0" in printed
    assert [[len(group) for group in given] for given in groups] == [[2, 2], [1, 1, 1, 1]]
    card = load_weights(out).card
    assert card.scores == {"PQ_held_out_before": 50.0, "PQ_held_out_after": 60.0}
    assert (card.provenance["groups"], card.provenance["steps"]) == (4, 0)
    assert (card.model.extent_threshold, card.model.merge_threshold) == (0.4, 0.2)
    assert "the network learned nothing" in printed
    own = load_weights(path.with_name("start")).state
    assert all(torch.equal(own[name], value) for name, value in load_weights(out).state.items())
    mapped = path.with_name("map")
    command = ["map", str(path), "--weights", str(out), "--out", str(mapped)]
    assert main([*command, "--parcels", str(path.with_name("no.gpkg"))]) == 2
    assert not mapped.exists()
    outlines_on(cube, (500, 500, 510, 510)).to_file(path.with_name("far.gpkg"))
    assert main([*command, "--parcels", str(path.with_name("far.gpkg"))]) == 2
    assert "map is finished in" in capsys.readouterr().err
    shutil.rmtree(mapped)
    assert main([*command, "--parcels", str(fields)]) == 0
    assert "4 parcels, 3.2 ha, in" in capsys.readouterr().out
    given = gpd.read_parquet(mapped / "fields" / "parcels.parquet")
    assert (len(given), "class" in given) == (4, True)
    assert json.loads((out / "card.json").read_text())["trained_on"].endswith(
        "adapted by 4 fields of season.nc"
    )


@pytest.mark.parametrize("year", [2020, 2024])
def test_seasons_of_other_years_are_learned_by_networks_that_count_days(season, year):
    path, cube = season
    dates = cube["time"].values + (np.datetime64(f"{year}-01-01") - np.datetime64("2019-01-01"))
    cube.assign_coords(time=dates).to_netcdf(path)
    config = FieldsConfig(SMALL_UTAE)
    weights = replace(tiny_weights().card, model=config.fitted(bands=10, classes=20))
    weights = Weights(weights, build_network(weights.model).state_dict())
    fields = path.with_name("fields.gpkg")
    outlines_on(cube, *FOUR).to_file(fields)
    adapted = adapt(path, fields, weights, options=QUICK)
    assert adapted.weights.card.reference_date == weights.card.reference_date


def test_a_folder_of_other_files_is_refused_before_anything_is_learned(season, weights, capsys):
    path, cube = season
    save_weights(path.with_name("start"), weights)
    outlines_on(cube, *FOUR).to_file(path.with_name("fields.gpkg"))
    out = path.with_name("out")
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    command = ["adapt", str(path), "--fields", str(path.with_name("fields.gpkg"))]
    assert main([*command, "--out", str(out), "--weights", str(path.with_name("start"))]) == 2
    said = capsys.readouterr().err
    assert "holds notes.txt" in said
    assert "learning" not in said
    assert (out / "notes.txt").read_text() == "mine"


def test_other_networks_and_other_places_are_refused(season):
    path, cube = season
    fields = path.with_name("fields.gpkg")
    outlines_on(cube, (1000, 0, 1010, 9)).to_file(fields)
    with pytest.raises(WeightsError, match="PaPs cannot be adapted"):
        adapt(path, fields, tiny_weights(), options=QUICK)
    with pytest.raises(ParcelsError, match="cover different places"):
        adapt(path, fields, options=QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"learning_rate": 2}, {"simulated": 0}, {"groups": 0}, {"seed": -1}],
)
def test_options_out_of_range_of_adapt(wrong):
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong)).replace('_', '-')} is"):
        AdaptOptions(**wrong)


def test_a_piece_smaller_than_the_network_sees(season, weights):
    path, cube = season
    small = cube.isel(x=slice(0, 17), y=slice(0, 18))
    small.to_netcdf(path)
    fields = path.with_name("fields.gpkg")
    outlines_on(small, (0, 0, 6, 6), (6, 0, 12, 6), (0, 6, 6, 12), (6, 6, 12, 14)).to_file(fields)
    assert adapt(path, fields, weights, options=QUICK).fields == 4


def test_pieces_are_bounded(season, weights, monkeypatch):
    monkeypatch.setattr("panoseg.register.drawn._LARGEST_BYTES", 10_000)
    path, cube = season
    fields = path.with_name("fields.gpkg")
    outlines_on(cube, *FOUR).to_file(fields)
    with pytest.raises(ParcelsError, match="lie nearer to each other"):
        adapt(path, fields, weights, options=QUICK)
