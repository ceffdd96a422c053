"""The public interface: what the README shows."""

from __future__ import annotations

import subprocess
import sys

import geopandas as gpd
import numpy as np
import pytest

import panoseg
from panoseg.errors import ConfigError
from small_networks import save_small_networks
from tiny_runs import write_tiny_dataset

PUBLIC = [
    "PASTIS",
    "ClassTable",
    "Model",
    "Panoptic",
    "PanosegError",
    "SegmentClass",
    "__version__",
    "collate",
    "fetch",
    "load",
    "map",
    "open_cube",
    "panoptic_quality",
    "simulate",
    "test",
    "train",
]
_FIRST = """
import sys
import panoseg
print(*sorted({name.split(".")[0] for name in sys.modules} & {"torch", "xarray", "numpy", "pandas"}))
"""


@pytest.fixture(scope="module")
def season():
    """A simulated season and its true parcels."""
    return panoseg.simulate(64, seed=5, dates=(8, 8))


@pytest.fixture(scope="module")
def images(season):
    """Reflectance x 10 000, T x C x H x W, and dates."""
    cube, _ = season
    bands = [name for name in cube.data_vars if name != "SCL"]
    return np.stack([cube[name].values for name in bands], 1), cube["time"].values


def test_the_public_names():
    assert sorted(panoseg.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(panoseg, name) is not None
    assert set(PUBLIC) <= set(dir(panoseg))
    with pytest.raises(AttributeError, match="nothing"):
        _ = panoseg.nothing


def test_importing_the_package_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", _FIRST], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_weights_of_the_package_segment_arrays(images, tmp_path):
    images_TCHW, dates = images
    model = panoseg.load(device="cpu")
    result = model.predict(images_TCHW, dates)
    assert isinstance(result, panoseg.Panoptic)
    assert result.segment_HW.shape == images_TCHW.shape[2:]
    assert len(result.segments.ids) > 0
    backwards = model.predict(images_TCHW[::-1], dates[::-1])
    np.testing.assert_array_equal(backwards.segment_HW, result.segment_HW)
    assert result.plot(images_TCHW[-1]) is not None
    result.to_coco(tmp_path / "out")
    assert (tmp_path / "out" / "panoptic.json").is_file()


def test_a_segmentation_becomes_polygons_and_scores_itself(season, images):
    cube, _ = season
    result = panoseg.load(device="cpu").predict(*images)
    frame = result.to_geodataframe(cube.odc.transform, cube.odc.crs)
    assert isinstance(frame, gpd.GeoDataFrame)
    assert len(frame) == sum(segment.kind == "thing" for segment in result.segments)
    quality = panoseg.panoptic_quality(result, result)
    assert quality.pq == pytest.approx(100)
    assert all(each.pq == pytest.approx(100) for each in quality.by_class.values())


def test_a_map_needs_no_folder(season):
    cube, parcels = season
    result = panoseg.map(cube, year=2019, tta=1, device="cpu")
    folder = result.out
    assert isinstance(result.parcels, gpd.GeoDataFrame)
    assert len(result.parcels) > 0
    assert result.parcels.crs == parcels.crs
    assert result.report.is_file()
    assert result.classes.shape == (64, 64)
    del result
    assert not folder.exists()


def test_a_map_keeps_the_folder_that_is_given(season, tmp_path):
    cube, _ = season
    cube.to_netcdf(tmp_path / "season.nc")
    result = panoseg.map(tmp_path / "season.nc", tmp_path / "map", year=2019, tta=1, device="cpu")
    assert (tmp_path / "map" / "parcels.parquet").is_file()
    assert panoseg.open_cube(tmp_path / "season.nc").sizes["time"] == cube.sizes["time"]
    del result
    assert (tmp_path / "map" / "parcels.parquet").is_file()


def test_an_option_that_does_not_exist_is_named(season):
    with pytest.raises(ConfigError, match="no option 'colour'"):
        panoseg.map(season[0], colour="red")


def test_training_and_testing_return_scores_and_print_nothing(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data")
    machine = {"batch_size": 2, "workers": 0, "accelerator": "cpu"}
    run = panoseg.train(
        "pastis-utae-paps", data=data, out=tmp_path / "run", epochs=1, threads=1, **machine
    )
    assert run.scores.summary().keys() >= {"SQ", "RQ", "PQ"}
    scores = panoseg.test(tmp_path / "run", data, tmp_path / "test", **machine)
    [found] = scores.scores.values()
    assert found.summary() == pytest.approx(run.scores.summary(), nan_ok=True)
    assert capsys.readouterr().out == ""


def test_a_network_for_photographs_segments_an_array(tmp_path):
    save_small_networks(tmp_path)
    model = panoseg.load(tmp_path / "boxes", device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    assert model.predict(image).segment_HW.shape == (40, 56)
    with pytest.raises(ConfigError, match="photograph"):
        model.predict(image, [1])
