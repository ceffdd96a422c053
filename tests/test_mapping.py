"""Mapping: tiles, resumed work, whole folders of results, and every way in which a map can fail."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from cubes import DATES, make_cube, write_stac
from mapping_weights import tiny_weights
from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.cube.season import Window
from panoseg.errors import ConfigError, OutputError, WeightsError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps import MapOptions, mapping, outputs, predict
from panoseg.maps.compare import compare_parcels
from panoseg.maps.mapping import map_cube
from panoseg.maps.outlines import rasterise
from panoseg.maps.outputs import SHIPPED_NOTE
from panoseg.maps.windows import UNFINISHED, plan_blocks
from panoseg.models import ltae as date_encoding
from panoseg.models.configs.season import UtaeConfig
from panoseg.models.ltae import day_of_year
from panoseg.models.network import build_network
from panoseg.models.paps import PaPs
from panoseg.models.weights import Weights, WeightsCard, default_weights, save_weights
from panoseg.panoptic import Panoptic
from panoseg.simulation.cube import simulate_cube
from seams import seams, tile_lines
from waiting import signs_of_process, wait_until

SMALL = MapOptions(tile=32, overlap=8, tta=1, min_area_ha=0.03)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "w"
    save_weights(folder, tiny_weights())
    return folder


@pytest.fixture
def cube_path(tmp_path):
    return write(make_cube(48), tmp_path / "season.nc")


def write(cube, path):
    cube.to_netcdf(path)
    return path


# Tiles


@settings(max_examples=60, deadline=None)
@given(
    st.integers(16, 400),
    st.integers(16, 400),
    st.integers(16, 128),
    st.integers(0, 100),
    st.integers(64, 300),
)
def test_tiles_cover_everything_and_overlap(height, width, tile, overlap, block):
    overlap = min(overlap, tile - 1)
    blocks = plan_blocks(height, width, tile, overlap, block)
    covered_HW = np.zeros((height, width), int)
    for part in blocks:
        window = part.window
        assert max(window.height, window.width) <= max(block, tile)
        for own in part.tiles:
            covered_HW[own.rows, own.columns] += 1
            assert (own.height, own.width) == (min(tile, height), min(tile, width))
            assert window.top <= own.top
            assert own.top + own.height <= window.top + window.height
            assert window.left <= own.left
            assert own.left + own.width <= window.left + window.width
    assert covered_HW.min() >= 1
    tops = sorted({own.top for part in blocks for own in part.tiles})
    assert all(
        before + min(tile, height) - after >= overlap for before, after in itertools.pairwise(tops)
    )
    assert len({own for part in blocks for own in part.tiles}) == sum(
        len(part.tiles) for part in blocks
    )


def test_an_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(ConfigError):
        plan_blocks(100, 100, 32, 32)
    with pytest.raises(ConfigError, match="overlap"):
        MapOptions(tile=32, overlap=32)


# A stand-in that knows the truth shows what tiling and joining do by themselves.


class Oracle:
    """Gives each tile its part of a known picture, found by the values of the pixels."""

    def __init__(self, picture: Panoptic):
        self.picture = picture

    def predict_tiles(self, tiles, days_T, progress):
        return [self.cut(images_TCHW) for images_TCHW in tiles]

    def cut(self, images_TCHW):
        where = int(images_TCHW[0, 0, 0, 0]), int(images_TCHW[0, 1, 0, 0])
        height, width = images_TCHW.shape[-2:]
        cut = self.picture.crop(
            slice(where[0] - 1, where[0] - 1 + height), slice(where[1] - 1, where[1] - 1 + width)
        )
        return cut.relabel()


def coordinates_cube(size):
    """A cube whose first two bands hold the row and the column of each pixel, from 1."""
    cube = make_cube(size, DATES[:2])
    cube["B02"][:] = np.arange(1, size + 1)[None, :, None]
    cube["B03"][:] = np.arange(1, size + 1)[None, None, :]
    return cube.astype(np.float32)


def landscape(size, seed=0):
    _, truth = simulate_cube((size, size), seed)
    cube = coordinates_cube(size)
    local = truth.set_geometry(truth.geometry.affine_transform(_to_pixels(truth)))
    segment_HW = rasterise(
        truth["parcel"].to_numpy(),
        np.asarray(local.geometry.values, dtype=object),
        (size, size),
        rasterio.Affine.identity(),
    )
    classes = dict(zip(truth["parcel"].tolist(), truth["class_id"].tolist(), strict=True))
    return cube, Panoptic.from_maps(segment_HW, classes, PASTIS)


def _to_pixels(truth):
    left, _, _, top = truth.total_bounds
    left, top = round(left / 10) * 10, round(top / 10) * 10
    return [0.1, 0, 0, -0.1, -left / 10, top / 10]


def mapped(cube, truth, tmp_path, options) -> Panoptic:
    """What a perfect network maps."""
    tmp_path.mkdir(exist_ok=True)
    write(cube, tmp_path / "season.nc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "Model", SimpleNamespace(of=lambda *_, **__: Oracle(truth)))
        return map_cube(tmp_path / "season.nc", tiny_weights(), tmp_path / "map", options).picture


def test_tiles_of_a_perfect_network_join_to_the_truth(tmp_path):
    cube, truth = landscape(160)
    joined = mapped(cube, truth, tmp_path, MapOptions(tile=48, overlap=20, min_area_ha=0))
    agreement = joined.segment_HW[truth.segment_HW > 0] > 0
    assert agreement.mean() > 0.999
    # A border between two mapped parcels is a border of the truth, along the lines of tiles as
    # elsewhere.
    for mapped_HW, true_HW in (
        (joined.segment_HW, truth.segment_HW),
        (joined.segment_HW.T, truth.segment_HW.T),
    ):
        both = (mapped_HW[1:] > 0) & (mapped_HW[:-1] > 0) & (true_HW[1:] > 0) & (true_HW[:-1] > 0)
        invented = (mapped_HW[1:] != mapped_HW[:-1]) & (true_HW[1:] == true_HW[:-1]) & both
        assert invented.sum() <= 0.001 * both.sum()


def test_windows_do_not_matter(tmp_path, monkeypatch):
    cube, truth = landscape(128, seed=3)
    results = []
    for side in (512, 64, 100):
        monkeypatch.setattr(predict, "BLOCK_SIDE", side)
        results.append(mapped(cube, truth, tmp_path / str(side), MapOptions(tile=48, overlap=16)))
    assert all((result.segment_HW == results[0].segment_HW).all() for result in results)


# The whole way with a tiny network


def test_a_map_has_all_its_files(tmp_path, cube_path, weights):
    result = map_cube(
        cube_path,
        weights,
        tmp_path / "map",
        MapOptions(tile=32, overlap=8, tta=1, gpkg=True, simplify=0),
    )
    names = {"parcels.parquet", "parcels.gpkg", "report.html", "map.json", "item.json"}
    names |= {"classes.tif", "segments.tif", "confidence.tif"}
    assert {entry.name for entry in result.out.iterdir()} == names
    parcels = gpd.read_parquet(result.out / "parcels.parquet")
    assert len(parcels) > 2
    assert shapely.coverage_is_valid(parcels.geometry.values)
    with rasterio.open(result.out / "segments.tif") as source:
        segment_HW, transform = source.read(1), source.transform
    outlines = np.asarray(parcels.geometry.values, dtype=object)
    np.testing.assert_array_equal(
        rasterise(parcels["id"].astype(int), outlines, segment_HW.shape, transform), segment_HW
    )
    with rasterio.open(result.out / "classes.tif") as source:
        classes_HW = source.read(1)
    for _, row in parcels.iterrows():
        assert set(classes_HW[segment_HW == int(row["id"])]) == {int(row["crop:code"])}
    record = json.loads((result.out / "map.json").read_text())
    assert record["dates"] == list(DATES)
    assert record["harvest_year"] == 2019
    assert SHIPPED_NOTE not in result.notes


@pytest.mark.parametrize("tta", [1, 2])
def test_probabilities_of_a_map_are_those_of_the_network(tmp_path, weights, tta):
    """One tile: what the network says of each parcel stands in the files."""
    path = write(make_cube(32), tmp_path / "season.nc")
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        masks_of = PaPs.masks_of
        patch.setattr(PaPs, "masks_of", lambda *given: heard.append(masks_of(*given)) or heard[-1])
        result = map_cube(
            path,
            weights,
            tmp_path / "map",
            MapOptions(**vars(SMALL) | {"tta": tta, "gpkg": True}),
        )
    [masks] = heard
    things = list(PASTIS.ids("thing"))
    scores_NT = masks.class_scores_NK[:, things].double()
    said = (
        scores_NT.softmax(1) if tta == 1 else scores_NT / scores_NT.sum(1, keepdim=True)
    ).numpy()
    columns = [f"probability:{PASTIS[class_id].name}" for class_id in things]
    for table in (
        result.parcels,
        gpd.read_file(tmp_path / "map" / "parcels.gpkg", layer="parcels"),
    ):
        assert len(table) > 2
        for _, row in table.iterrows():
            found = row[columns].to_numpy(float)
            assert np.abs(said - found).max(axis=1).min() < 1e-6, "of no candidate"
            assert found.sum() == pytest.approx(1, abs=1e-6)
            assert row["class"] == PASTIS[things[int(found.argmax())]].name
            assert row["second_class"] == PASTIS[things[int(found.argsort()[-2])]].name
            assert row["second_probability"] == pytest.approx(np.sort(found)[-2])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_area_ha", 0.3),
        ("simplify", 0.0),
        ("tile", 24),
        ("overlap", 20),
        ("max_dates", 3),
        ("year", 2018),
        ("precision", "bfloat16"),
        ("tta", 3),
    ],
)
def test_every_option_does_something(tmp_path, weights, option, value):
    dates = (*DATES, "2018-03-05", "2018-06-05")
    cube_path = write(make_cube(48, dates), tmp_path / "season.nc")
    usual = map_cube(cube_path, weights, tmp_path / "usual", SMALL)
    other = map_cube(
        cube_path, weights, tmp_path / "other", MapOptions(**(vars(SMALL) | {option: value}))
    )
    same = (
        len(usual.parcels) == len(other.parcels)
        and usual.parcels.geometry.geom_equals_exact(other.parcels.geometry, 1e-6).all()
    )
    assert not (same and (usual.parcels["confidence"] == other.parcels["confidence"]).all())


def test_min_clear_and_min_dates(tmp_path, weights):
    cube = make_cube(32, scl=True)
    cube["SCL"][1, :16] = 9
    path = write(cube, tmp_path / "season.nc")
    assert len(map_cube(path, weights, tmp_path / "a", SMALL).season.days_T) == 6
    assert (
        len(
            map_cube(
                path,
                weights,
                tmp_path / "b",
                MapOptions(tile=32, overlap=8, tta=1, min_clear=0.6),
            ).season.days_T
        )
        == 5
    )
    path = write(make_cube(32, DATES[:1]), tmp_path / "one.nc")
    assert (
        len(
            map_cube(
                path, weights, tmp_path / "c", MapOptions(tile=32, overlap=8, tta=1, min_dates=1)
            ).season.days_T
        )
        == 1
    )


def test_order_and_names_of_bands_do_not_matter(tmp_path, weights):
    cube = make_cube(32)
    turned = (
        cube[list(PASTIS_BANDS[::-1])].rename(B02="blue", B8A="nir08").isel(time=[3, 0, 5, 1, 4, 2])
    )
    first = map_cube(write(cube, tmp_path / "a.nc"), weights, tmp_path / "a", SMALL)
    second = map_cube(write(turned, tmp_path / "b.nc"), weights, tmp_path / "b", SMALL)
    np.testing.assert_array_equal(first.picture.segment_HW, second.picture.segment_HW)
    assert (first.parcels["confidence"] == second.parcels["confidence"]).all()


@pytest.mark.parametrize("size", [17, 30, 45])
def test_a_cube_smaller_than_a_tile(tmp_path, weights, size):
    result = map_cube(
        write(make_cube(size), tmp_path / "season.nc"),
        weights,
        tmp_path / "map",
        MapOptions(tta=1, min_area_ha=0),
    )
    assert result.picture.segment_HW.shape == (size, size)


def test_pixels_without_data_have_no_parcel(tmp_path, weights):
    cube = make_cube(48)
    for band in PASTIS_BANDS:
        cube[band][:, :20, :30] = 0
        cube[band][2, 30:, :] = 0
    result = map_cube(write(cube, tmp_path / "season.nc"), weights, tmp_path / "map", SMALL)
    assert (result.picture.segment_HW[:20, :30] == 0).all()
    assert any("26.0% of the area has no data" in note for note in result.notes)
    with rasterio.open(result.out / "classes.tif") as source:
        assert (source.read(1)[:20, :30] == source.nodata).all()


def test_a_folder_of_scenes_and_its_cube_give_the_same_map(tmp_path, weights):
    write_stac(tmp_path / "stac", days=("2019-04-01", "2019-06-01", "2019-07-01"))
    from panoseg.cube.open import open_cube, reading

    with reading("stac"):
        cube = open_cube(tmp_path / "stac").compute()
    cube.to_netcdf(tmp_path / "season.nc")
    first = map_cube(tmp_path / "stac", weights, tmp_path / "a", SMALL)
    second = map_cube(tmp_path / "season.nc", weights, tmp_path / "b", SMALL)
    np.testing.assert_array_equal(first.picture.segment_HW, second.picture.segment_HW)


def test_the_comparison_is_in_the_report(tmp_path, cube_path, weights):
    truth = map_cube(cube_path, weights, tmp_path / "first", SMALL).out / "parcels.parquet"
    result = map_cube(cube_path, weights, tmp_path / "second", SMALL, truth)
    assert result.comparison.quality.pq == pytest.approx(1.0)
    assert result.comparison.class_agreement == 1.0
    assert "Comparison with true parcels" in result.report.read_text()
    part = tmp_path / "part.gpkg"
    gpd.read_parquet(truth).iloc[:1].to_file(part)
    everything = map_cube(cube_path, weights, tmp_path / "third", SMALL, part)
    declared = map_cube(cube_path, weights, tmp_path / "fourth", SMALL, part, declared_only=True)
    assert len(everything.comparison.invented) > len(declared.comparison.invented) == 0


def test_networks_see_the_day_of_the_year_of_any_season(tmp_path, monkeypatch):
    """A season that begins in a leap year, by weights of one that does not."""
    seen, dates = [], ("2020-09-01", "2020-12-31", "2021-01-01", "2021-06-01")
    monkeypatch.setattr(
        date_encoding, "day_of_year", lambda *given: seen.append(day_of_year(*given)) or seen[-1]
    )
    map_cube(
        write(make_cube(32, dates), tmp_path / "season.nc"),
        tiny_weights(dates="day_of_year"),
        tmp_path / "map",
        SMALL,
    )
    assert seen[0].tolist() == [[245, 366, 1, 152]]


# Stop and go on


def test_a_second_start_continues(tmp_path, cube_path, weights, monkeypatch):
    monkeypatch.setattr(predict, "BLOCK_SIDE", 32)
    whole = map_cube(cube_path, weights, tmp_path / "whole", SMALL)
    calls = []
    original = predict.Model.batch

    def stopping(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(predict.Model, "batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        map_cube(cube_path, weights, tmp_path / "map", SMALL)
    assert {entry.name for entry in (tmp_path / "map").iterdir()} == {UNFINISHED}
    again = map_cube(cube_path, weights, tmp_path / "map", SMALL)
    assert len(calls) == 3 + 2
    np.testing.assert_array_equal(again.picture.segment_HW, whole.picture.segment_HW)
    assert not (again.out / UNFINISHED).exists()


def test_a_damaged_block_is_predicted_again(tmp_path, cube_path, weights, monkeypatch):
    monkeypatch.setattr(mapping, "finish", lambda work: None)  # as a kill does
    first = map_cube(cube_path, weights, tmp_path / "map", SMALL)
    block = next((first.out / UNFINISHED).glob("window-*.npz"))
    block.write_bytes(block.read_bytes()[:200])
    again = map_cube(cube_path, weights, tmp_path / "map", SMALL)
    np.testing.assert_array_equal(again.picture.segment_HW, first.picture.segment_HW)


def test_an_unfinished_map_of_something_else_is_left_alone(
    tmp_path, cube_path, weights, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(mapping, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            map_cube(cube_path, weights, tmp_path / "map", SMALL)
    other = MapOptions(tile=24, overlap=8)
    with pytest.raises(OutputError, match="differs in its options"):
        map_cube(cube_path, weights, tmp_path / "map", other)
    with pytest.raises(OutputError, match="differs in its weights"):
        map_cube(cube_path, tiny_weights(seed=2), tmp_path / "map", SMALL)
    os.replace(write(make_cube(48, seed=2), tmp_path / "other.nc"), cube_path)
    with pytest.raises(OutputError, match="differs in its cube"):
        map_cube(cube_path, weights, tmp_path / "map", SMALL)


def test_options_of_an_earlier_start_leave_nothing(tmp_path, cube_path, weights, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            map_cube(
                cube_path, weights, tmp_path / "map", MapOptions(**vars(SMALL) | {"gpkg": True})
            )
    assert (tmp_path / "map" / "parcels.gpkg").exists()
    map_cube(cube_path, weights, tmp_path / "map", SMALL)
    assert not (tmp_path / "map" / "parcels.gpkg").exists()


def test_a_killed_map_continues(tmp_path, weights):
    path = write(make_cube(96), tmp_path / "season.nc")
    out = tmp_path / "map"
    code = (
        "import sys, time\nfrom panoseg.maps import predict\nfrom panoseg.maps.mapping import"
        " map_cube\nfrom panoseg.maps import MapOptions\npredict.BLOCK_SIDE = 32\noriginal"
        " = predict.Model.batch\ndef slow(self, *arguments):\n    time.sleep(0.2)\n    return"
        " original(self, *arguments)\npredict.Model.batch = slow\nmap_cube(sys.argv[1],"
        " sys.argv[2], sys.argv[3], MapOptions(tile=32, overlap=8, tta=1, min_area_ha=0.03))\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(weights), str(out)], stderr=subprocess.DEVNULL
    )
    wait_until(
        lambda: len(list(out.glob(f"{UNFINISHED}/window-*.npz"))) >= 2,
        lambda: signs_of_process(started.pid),
        0.05,
    )
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    finished = len(list(out.glob(f"{UNFINISHED}/window-*.npz")))
    assert finished >= 2
    assert not (out / "parcels.parquet").exists()
    again = map_cube(path, weights, out, SMALL)
    whole = map_cube(path, weights, tmp_path / "whole", SMALL)
    np.testing.assert_array_equal(again.picture.segment_HW, whole.picture.segment_HW)


# Mistakes: one line, exit code 2, nothing half-written


def fails(capsys, *arguments) -> str:
    assert main([*map(str, arguments)]) == 2
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if not line.startswith(("tiles", "windows", "sheets"))
    ]
    assert len(lines) == 1, lines
    assert lines[0].startswith("panoseg ")
    return lines[0]


def without(cube, band):
    return cube.drop_vars(band)


def no_crs(cube):
    coordinates = {dim: cube[dim].values for dim in cube.dims}
    return xr.Dataset({name: (cube[name].dims, cube[name].values) for name in cube}, coordinates)


CUBES = {
    "without a coordinate system": (no_crs, "coordinate system"),
    "with bands missing": (lambda cube: without(cube, ["B05", "B12"]), "lacks B05, B12"),
    "with bands misnamed": (lambda cube: cube.rename(B05="infra"), "lacks B05"),
    "with one date": (lambda cube: cube.isel(time=[2]), "Only 1 of the 1 dates"),
    "without data": (lambda cube: cube * 0, "only 0 and NaN"),
    "with nothing but NaN": (lambda cube: cube * np.nan, "only 0 and NaN"),
    "too small": (lambda cube: cube.isel(x=slice(0, 9)), "pixels"),
}


@pytest.mark.parametrize("name", CUBES)
def test_cubes_that_cannot_be_mapped(tmp_path, weights, capsys, name):
    change, words = CUBES[name]
    cube = change(make_cube(32))
    path = write(cube, tmp_path / "season.nc")
    assert words in fails(capsys, "map", path, "--weights", weights, "--out", tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_a_truncated_cube(tmp_path, weights, capsys):
    path = tmp_path / "season.nc"
    make_cube(64).to_netcdf(
        path, encoding={band: {"zlib": True, "chunksizes": (1, 16, 16)} for band in PASTIS_BANDS}
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read" in fails(
        capsys, "map", path, "--weights", weights, "--out", tmp_path / "map"
    )


def test_damage_found_while_mapping(tmp_path, weights, capsys):
    write_stac(tmp_path / "stac", days=("2019-04-01", "2019-06-01", "2019-07-01"), size=128)
    damaged = tmp_path / "stac" / "2019-06-01" / "B11.tif"
    damaged.write_bytes(damaged.read_bytes()[:4000])
    said = fails(capsys, "map", tmp_path / "stac", "--weights", weights, "--out", tmp_path / "map")
    assert f"{damaged} cannot be read" in said
    assert not (tmp_path / "map" / "parcels.parquet").exists()


def test_a_folder_that_is_not_empty(tmp_path, cube_path, weights, capsys):
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "mine.txt").write_text("mine")
    assert "mine.txt" in fails(
        capsys, "map", cube_path, "--weights", weights, "--out", tmp_path / "map"
    )
    assert [entry.name for entry in (tmp_path / "map").iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_written(tmp_path, cube_path, weights, capsys):
    (tmp_path / "file").write_text("")
    assert "is a file" in fails(
        capsys, "map", cube_path, "--weights", weights, "--out", tmp_path / "file" / "map"
    )


@pytest.mark.parametrize("writer", ["write_geoparquet", "write_cog", "write_text", "write_json"])
def test_a_full_disk(tmp_path, cube_path, weights, capsys, monkeypatch, writer):
    def full(*_, **__):
        raise OutputError("map: the disk is full: free some space.")

    monkeypatch.setattr(outputs, writer, full)
    arguments = (
        "map",
        cube_path,
        "--weights",
        weights,
        "--out",
        tmp_path / "map",
        "--tile",
        32,
        "--overlap",
        8,
    )
    assert "disk is full" in fails(capsys, *arguments)
    monkeypatch.undo()
    assert main([*map(str, arguments)]) == 0


def test_a_full_disk_while_tiles_are_saved(tmp_path, cube_path, weights, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "disk is full" in fails(
        capsys, "map", cube_path, "--weights", weights, "--out", tmp_path / "map"
    )
    assert [entry.name for entry in (tmp_path / "map" / UNFINISHED).iterdir()] == ["plan.json"]


def test_weights_that_know_no_parcels(tmp_path, cube_path):
    config = UtaeConfig(encoder_widths=(16, 16), decoder_widths=(16, 16), heads=4, d_model=16)
    semantic = Weights(
        WeightsCard(config, tiny_weights().card.normalisation), build_network(config).state_dict()
    )
    with pytest.raises(WeightsError, match="no parcels"):
        map_cube(cube_path, semantic, tmp_path / "map")


def test_weights_that_are_not_there(tmp_path, cube_path, capsys, monkeypatch):
    assert "absent" in fails(
        capsys, "map", cube_path, "--weights", tmp_path / "absent", "--out", tmp_path / "map"
    )
    monkeypatch.setattr("panoseg.models.model.PACKAGE_WEIGHTS", tmp_path / "weights")
    assert "weights" in fails(capsys, "map", cube_path, "--out", tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_declared_land_needs_a_truth(tmp_path, cube_path, weights, capsys):
    assert "--truth" in fails(
        capsys, "map", cube_path, "--weights", weights, "--out", tmp_path / "map", "--declared-only"
    )
    assert not (tmp_path / "map").exists()


def test_only_the_harvest_year_counts_as_growing_season(tmp_path, weights):
    """A September before harvest is no growing season of the crop."""
    dates = ("2018-09-05", "2018-09-15", "2018-09-25", "2019-05-05", "2019-07-05", "2019-09-05")
    notes = map_cube(
        write(make_cube(32, dates), tmp_path / "season.nc"), weights, tmp_path / "map", SMALL
    ).notes
    assert "Only 3 dates lie between April and September, so classes are uncertain." in notes


def test_a_device_that_is_not_there(tmp_path, cube_path, weights, capsys):
    assert "device" in fails(
        capsys,
        "map",
        cube_path,
        "--weights",
        weights,
        "--out",
        tmp_path / "map",
        "--device",
        "abacus",
    )


def test_help_names_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["map", "--help"])
    text = capsys.readouterr().out
    assert "example: panoseg map" in text
    assert "--min-area-ha" in text


# The weights in the package


def shipped() -> Weights:
    try:
        return default_weights()
    except WeightsError as error:
        pytest.skip(f"no weights in the package yet: {error}")


def test_without_weights_the_shipped_ones_are_used_and_named(tmp_path, capsys):
    shipped()
    cube, _ = simulate_cube((64, 64), 1_000_001)
    path = write(cube, tmp_path / "season.nc")
    assert main(["map", str(path), "--out", str(tmp_path / "map")]) == 0
    assert SHIPPED_NOTE in capsys.readouterr().out
    assert SHIPPED_NOTE in (tmp_path / "map" / "report.html").read_text()


def test_tiles_lose_little_against_one_piece(tmp_path):
    """512 x 512 in tiles: PQ within 2 % of one piece, and no seam; were parcels cut at a line of
    tiles, they would be found.
    """
    weights = shipped()
    cube, truth = simulate_cube((512, 512), 1_000_002)
    path = write(cube.isel(time=slice(0, None, 4)), tmp_path / "season.nc")
    tiled = map_cube(path, weights, tmp_path / "tiles", MapOptions(tta=1))
    whole = map_cube(path, weights, tmp_path / "whole", MapOptions(tile=512, overlap=0, tta=1))
    scores = [100 * compare_parcels(result.parcels, truth).quality.pq for result in (tiled, whole)]
    assert scores[0] >= 0.98 * scores[1], scores
    outlines = np.asarray(truth.geometry.values, dtype=object)
    truth_HW = rasterise(truth["parcel"].to_numpy(), outlines, (512, 512), cube.odc.geobox.affine)
    others, lines = (
        [truth_HW, whole.picture.segment_HW],
        tile_lines(512, MapOptions().tile, MapOptions().overlap),
    )
    assert not seams(tiled.picture.segment_HW, others, lines)
    tiled_HW = tiled.picture.segment_HW
    cut_HW = tiled_HW + tiled_HW.max() * (tiled_HW > 0) * (np.arange(512) // 44 % 2)
    assert seams(cut_HW, others, range(44, 512, 44))


def test_seams_are_found_where_they_are():
    """On lines of tiles alone, from six pixels on, and farther than two pixels from a border that
    something explains.
    """
    lines = tile_lines(48, 24, 8)
    assert lines == [
        16,
        20,
        24,
        32,
        40,
    ]  # tiles begin at 0, 16 and 24; the middles of their overlaps are 20 and 32
    whole_HW, cut_HW = np.ones((48, 48), np.int32), np.ones((48, 48), np.int32)
    cut_HW[9:15, 20:] = 2
    assert seams(cut_HW, [whole_HW], lines) == [("down", 20, 9, 6)]
    assert seams(cut_HW.T, [whole_HW], lines) == [("across", 20, 9, 6)]
    assert not seams(cut_HW, [whole_HW], [21])
    assert not seams(np.where(np.arange(48)[:, None] == 14, 1, cut_HW), [whole_HW], lines)
    for moved, found in ((2, False), (4, True)):
        explained_HW = np.roll(cut_HW, moved, axis=1)
        explained_HW[:, :10] = 1
        assert bool(seams(cut_HW, [whole_HW, explained_HW], lines)) is found


def test_the_real_season(tmp_path, real_data, weights):
    folder = real_data / "flanders-2019"
    options = MapOptions(max_dates=6, tta=2)
    result = map_cube(
        folder / "cube.nc", weights, tmp_path / "map", options, folder / "parcels.gpkg"
    )
    assert result.picture.segment_HW.shape == (64, 64)
    assert result.parcels.crs.to_epsg() == 32631
    assert result.parcels.total_bounds[0] >= 574_680
    assert result.comparison.true_parcels == 19


def test_windows_are_read_where_they_lie():
    assert (Window(2, 3, 4, 5).rows, Window(2, 3, 4, 5).columns) == (slice(2, 6), slice(3, 8))
