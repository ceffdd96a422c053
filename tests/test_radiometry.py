"""The offset of processing baseline 04.00, as each catalogue delivers it: the truth table of
docs/radiometry.md.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from cubes import item, write_tif
from panoseg.cube.open import open_cube, reading
from panoseg.imagery.scenes import (
    Radiometry,
    offset_is_removed,
    processing_baseline,
    radiometry_of_asset,
    scene_of_item,
)

EARTH_SEARCH = {"raster:bands": [{"nodata": 0, "scale": 1e-4, "offset": -0.1}]}
APPLIED = "earthsearch:boa_offset_applied"


@pytest.mark.parametrize(
    ("asset", "properties", "name", "expected"),
    [
        # Earth Search, sentinel-2-l2a: the flag is right when it says applied, and wrong now and
        # then when it does not.
        (EARTH_SEARCH, {APPLIED: True, "s2:processing_baseline": "05.11"}, "", (1e-4, 0.0, False)),
        (EARTH_SEARCH, {APPLIED: False, "s2:processing_baseline": "04.00"}, "", (1e-4, -0.1, True)),
        (EARTH_SEARCH, {APPLIED: False, "s2:processing_baseline": "03.01"}, "", (1e-4, 0.0, False)),
        (
            {},
            {"sentinel:boa_offset_applied": True, "sentinel:processing_baseline": "04.00"},
            "",
            (1e-4, 0.0, False),
        ),
        # Earth Search, sentinel-2-c1-l2a
        (EARTH_SEARCH, {"s2:processing_baseline": "05.11"}, "", (1e-4, -0.1, False)),
        # Planetary Computer
        ({}, {"s2:processing_baseline": "02.12"}, "", (1e-4, 0.0, False)),
        ({}, {"s2:processing_baseline": "04.00"}, "", (1e-4, -0.1, False)),
        (
            {},
            {"s2:product_uri": "S2A_MSIL2A_20220301T000001_N0400_R116_T58UGE_x.SAFE"},
            "",
            (1e-4, -0.1, False),
        ),
        # Copernicus Data Space: an old acquisition that was processed again has the offset
        (
            {"raster:scale": 1e-4, "raster:offset": -0.1},
            {"processing:version": "05.00"},
            "",
            (1e-4, -0.1, False),
        ),
        (
            {"raster:scale": 1e-4},
            {},
            "S2A_MSIL2A_20200301T090901_N0500_R050_T35UPU_x",
            (1e-4, -0.1, False),
        ),
        (
            {"raster:scale": 1e-4, "raster:offset": -0.1},
            {"processing:version": "02.14"},
            "",
            (1e-4, 0.0, False),
        ),
        # Anybody's files: what they state, or the numbers as they are
        ({"raster:bands": [{"scale": 2e-4, "offset": -0.1}]}, {}, "", (2e-4, -0.1, False)),
        (
            {"raster:bands": [{"scale": 1e-4, "offset": 0}]},
            {"s2:processing_baseline": "05.09"},
            "",
            (1e-4, 0.0, False),
        ),
        ({}, {}, "", (1e-4, 0.0, False)),
    ],
)
def test_the_truth_table(asset, properties, name, expected):
    found = radiometry_of_asset(asset, properties, "B02", name)
    assert (found.scale, found.offset, found.doubtful) == expected


def test_classes_have_no_offset():
    assert radiometry_of_asset(
        EARTH_SEARCH, {"s2:processing_baseline": "05.11"}, "SCL"
    ) == Radiometry(1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("cdse_", -0.1),
        ("earth-search-v1_sentinel-2-c1", -0.1),
        ("earth-search-v1_sentinel-2-l2a", 0.0),
        ("planetary", 0.0),
    ],
)
def test_real_items_become_scenes(real_data, name, offset):
    item = json.loads(next((real_data / "stac-items").glob(f"{name}*.json")).read_text())
    scene = scene_of_item(item, str)
    assert len(scene.assets) == 13
    assert scene.assets["B08"].radiometry.offset == offset
    assert scene.outline.area > 0.01
    assert 2 < scene.baseline < 6


def test_every_item_of_a_real_search(real_data):
    path = real_data / "stac-items" / "planetary-computer_search_35MNM_2020-06_2020-07.geojson"
    scenes = [scene_of_item(item, str) for item in json.loads(path.read_text())["features"]]
    assert len(scenes) > 5
    assert {scene.baseline for scene in scenes} == {2.12}
    assert all({"B02", "B8A", "SCL"} <= set(scene.assets) for scene in scenes)


def test_baselines_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="could not convert"):
        processing_baseline({"s2:processing_baseline": "newest"})


@pytest.mark.parametrize("baseline", ["nan", "inf", "-1", float("nan"), "1e300"])
def test_baselines_that_are_no_baselines_are_refused(baseline):
    """NaN is not before 04.00, so its scene would get an offset that nobody stated."""
    with pytest.raises(ValueError, match="s2:processing_baseline"):
        radiometry_of_asset({}, {"s2:processing_baseline": baseline}, "B04")


def test_a_flag_that_the_numbers_contradict():
    flagged = radiometry_of_asset(
        EARTH_SEARCH, {APPLIED: False, "s2:processing_baseline": "05.11"}, "B04"
    )
    reflectance = np.random.default_rng(0).uniform(0.02, 0.3, 4096)
    with_offset = np.rint(reflectance * 1e4 + 1000)
    assert not offset_is_removed(with_offset, flagged)
    assert offset_is_removed(with_offset - 1000, flagged)
    # A few pixels below zero are noise, and pixels without data say nothing.
    with_offset[:40] = 990
    assert not offset_is_removed(with_offset, flagged)
    assert not offset_is_removed(np.zeros(100), flagged)


def test_the_same_place_agrees_before_and_after_january_2022(tmp_path):
    """One land, as each catalogue holds it, right and wrong metadata: once opened all are the
    same.
    """
    land_HW = np.random.default_rng(1).integers(200, 3000, (16, 16)).astype(np.uint16)
    land_HW[0, 0] = 0  # no data
    shifted_HW = np.where(land_HW > 0, land_HW + 1000, 0).astype(np.uint16)
    held = {
        "2021-12-01": (land_HW, {}, {"s2:processing_baseline": "03.01"}),
        "2022-02-01": (shifted_HW, {}, {"s2:processing_baseline": "04.00"}),
        "2022-03-01": (shifted_HW, EARTH_SEARCH, {"s2:processing_baseline": "05.11"}),
        "2022-04-01": (land_HW, EARTH_SEARCH, {APPLIED: True, "s2:processing_baseline": "05.11"}),
        "2022-05-01": (
            shifted_HW,
            EARTH_SEARCH,
            {APPLIED: False, "s2:processing_baseline": "05.11"},
        ),
        "2022-06-01": (land_HW, EARTH_SEARCH, {APPLIED: False, "s2:processing_baseline": "05.11"}),
        "2022-07-01": (shifted_HW, {"raster:offset": -0.1}, {"processing:version": "05.00"}),
    }
    for day, (numbers_HW, asset, properties) in held.items():
        write_tif(tmp_path / day / "B04.tif", numbers_HW)
        scene = item(day, f"{day}T10:00:00Z", {"B04": {"href": "B04.tif", **asset}}, properties)
        (tmp_path / day / "item.json").write_text(json.dumps(scene))
    with reading(tmp_path):
        values_THW = open_cube(tmp_path)["B04"].values
    expected_HW = np.where(land_HW > 0, land_HW.astype(np.float32), np.nan)
    for day, values_HW in zip(held, values_THW, strict=True):
        np.testing.assert_allclose(values_HW, expected_HW, atol=1e-2, err_msg=day)
