"""Folders of GeoTIFFs with STAC items: assets found by what the items say, loaded on one grid."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubes import TOP, item, write_stac, write_tif
from panoseg.cube.check import check_cube
from panoseg.cube.folder import notes_of
from panoseg.cube.open import open_cube, reading
from panoseg.errors import CubeError
from panoseg.imagery.scenes import best_assets, read_scenes, resolution
from panoseg.imagery.sentinel2 import PASTIS_BANDS, band_name


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("B02", "B02"),
        ("b2", "B02"),
        ("Band_11", "B11"),
        ("B8A", "B8A"),
        ("b08a", "B8A"),
        ("B05_20m", "B05"),
        ("blue-jp2", "B02"),
        ("rededge078", "B07"),
        ("NIR08", "B8A"),
        ("SCL", "SCL"),
        ("rededge", None),
        ("visual", None),
        ("B13", None),
        ("B02A", None),
        ("", None),
    ],
)
def test_names_of_bands(text, band):
    assert band_name(text) == band


def test_a_folder_becomes_a_lazy_cube_with_coarse_bands_repeated(tmp_path):
    stored = write_stac(tmp_path)
    cube = open_cube(tmp_path)
    assert cube["B02"].chunks is not None
    with reading(tmp_path):
        checked = check_cube(cube, PASTIS_BANDS)
        assert checked.time.dt.strftime("%Y-%m-%d").values.tolist() == ["2019-04-01", "2019-06-01"]
        np.testing.assert_array_equal(checked["B04"].values, stored["B04"])
        np.testing.assert_array_equal(
            checked["B11"].values, stored["B11"].repeat(2, axis=1).repeat(2, axis=2)
        )


def test_the_real_folder_equals_the_real_cube(real_data):
    with reading("stac"):
        folder = check_cube(open_cube(real_data / "flanders-2019" / "stac"), PASTIS_BANDS)
        cube = check_cube(open_cube(real_data / "flanders-2019" / "cube.nc"), PASTIS_BANDS).sel(
            time=folder.time
        )
        assert folder.odc.geobox == cube.odc.geobox
        for band in (*PASTIS_BANDS, "SCL"):
            np.testing.assert_array_equal(folder[band].values, cube[band].values)


@pytest.mark.parametrize(
    "name",
    [
        "cdse_S2A_MSIL2A_20200301T090901_N0500_R050_T35UPU.json",
        "earth-search-v1_sentinel-2-c1-l2a_S2B_T24MXV_20250731T130245_L2A.json",
        "earth-search-v1_sentinel-2-l2a_S2B_24MXV_20250731_0_L2A.json",
        "planetary-computer_sentinel-2-l2a_S2A_MSIL2A_20190101T000001_R116_T58UGE_20201007T214656.json",
    ],
)
def test_assets_of_the_public_catalogues(real_data, name):
    found = best_assets(json.loads((real_data / "stac-items" / name).read_text())["assets"])
    assert set(found) >= {*PASTIS_BANDS, "SCL"}
    for band in PASTIS_BANDS:
        assert resolution(found[band]) == (10 if band in ("B02", "B03", "B04", "B08") else 20)
        assert "jp2" not in found[band].get("type", "") or "cdse" in name
    # Planetary Computer calls B8A "rededge" like three others: its name decides.
    assert (
        "8A" in found["B8A"]["href"]
        or "nir08" in found["B8A"]["href"]
        or "B8A" in found["B8A"]["title"]
    )


def test_each_scene_has_its_own_offset(tmp_path):
    values_HW = np.full((16, 16), 1500, np.uint16)
    values_HW[0, 0] = 0
    for day, baseline in (("2021-12-30", "03.01"), ("2022-02-01", "04.00")):
        write_tif(tmp_path / day / "B02.tif", values_HW)
        scene = item(
            day,
            f"{day}T10:00:00Z",
            {"blue": {"href": "B02.tif"}},
            {"s2:processing_baseline": baseline},
        )
        (tmp_path / day / "item.json").write_text(json.dumps(scene))
    cube = open_cube(tmp_path)
    with reading(tmp_path):
        np.testing.assert_allclose(cube["B02"].values[:, 5, 5], [1500, 500], atol=1e-2)
        assert np.isnan(cube["B02"].values[:, 0, 0]).all()


def test_scenes_of_a_day_are_merged_and_the_grid_covers_them(tmp_path):
    for name, left, hour in (("west", 500_000, 10), ("east", 500_160, 11)):
        write_tif(tmp_path / f"{name}.tif", np.full((16, 32), 700 + hour, np.uint16), left=left)
        scene = item(
            name, f"2019-05-01T{hour}:00:00Z", {"B02": {"href": f"./{name}.tif", "gsd": 10}}
        )
        (tmp_path / f"{name}.json").write_text(json.dumps(scene))
    with reading(tmp_path):
        cube = check_cube(open_cube(tmp_path), ("B02",))
        assert dict(cube.sizes) == {"time": 1, "y": 16, "x": 48}
        assert cube.odc.geobox.affine.f == TOP
        row = cube["B02"].values[0, 3]
    assert row[:32].tolist() == [710] * 32
    assert row[32:].tolist() == [711] * 16


def write_item(folder, **changes):
    write_tif(folder / "B02.tif", np.full((16, 16), 900, np.uint16))
    scene = item("scene", "2019-05-01T10:00:00Z", {"B02": {"href": "B02.tif"}}) | changes
    (folder / "item.json").write_text(json.dumps(scene))


def test_times_without_zone_and_in_other_zones(tmp_path):
    for text in ("2019-05-01T12:30:00+02:00", "2019-05-01T10:30:00Z", "2019-05-01T10:30:00"):
        write_item(tmp_path, properties={"datetime": text})
        assert read_scenes(tmp_path)[0].time == datetime(2019, 5, 1, 10, 30)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"assets": {"B02": {"href": "../../etc/hosts"}}}, "outside of"),
        ({"assets": {"B02": {"href": "/etc/hosts"}}}, "outside of"),
        ({"assets": {"B02": {"href": "%2e%2e/secret.tif"}}}, "outside of"),
        ({"assets": {"B02": {"href": "https://example.org/B02.tif"}}}, "https://example.org"),
        ({"assets": {"B02": {"href": "gone.tif"}}}, "missing"),
        ({"assets": {"B02": {}}}, "not a complete STAC item"),
        ({"assets": []}, "not a complete STAC item"),
        ({"properties": {"datetime": "yesterday"}}, "not a complete STAC item"),
        ({"properties": {}}, "not a complete STAC item"),
    ],
)
def test_what_is_wrong_with_an_item_is_said_in_one_line(tmp_path, changes, words):
    folder = tmp_path / "stac"
    folder.mkdir()
    write_item(folder, **changes)
    with pytest.raises(CubeError, match=words) as caught:
        open_cube(folder)
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "stac"
    folder.mkdir()
    write_item(folder)
    os.replace(folder / "B02.tif", tmp_path / "elsewhere.tif")
    (folder / "B02.tif").symlink_to(tmp_path / "elsewhere.tif")
    with pytest.raises(CubeError, match="outside of"):
        open_cube(folder)


def test_a_raster_that_stands_for_a_file_elsewhere_is_refused(tmp_path):
    """GDAL knows formats by their content, under any name."""
    write_stac(tmp_path / "season")
    image = next((tmp_path / "season").rglob("*.tif"))
    image.rename(tmp_path / "secret.tif")
    with rasterio.open(tmp_path / "secret.tif") as source:
        rasterio.shutil.copy(source, image, driver="VRT")
    with rasterio.open(image) as virtual:
        assert virtual.driver == "VRT"
        assert str(tmp_path / "secret.tif") in virtual.files
    with pytest.raises(CubeError, match="not readable as a GeoTIFF"):
        open_cube(tmp_path / "season")


def test_a_scene_that_lacks_a_band_costs_its_date_alone(tmp_path):
    stored = write_stac(tmp_path, bands=("B02", "B03"))
    path = tmp_path / "2019-06-01" / "item.json"
    scene = json.loads(path.read_text())
    del scene["assets"]["B03"]
    path.write_text(json.dumps(scene))
    cube = open_cube(tmp_path)
    assert notes_of(cube) == ("Scene scene-2019-06-01 was left out: it lacks B03.",)
    np.testing.assert_array_equal(cube["B02"].values, stored["B02"][:1])
    del scene["assets"]["B02"]
    path.write_text(json.dumps(scene))
    assert notes_of(open_cube(tmp_path)) == (
        "Scene scene-2019-06-01 was left out: it names no band.",
    )
    path = tmp_path / "2019-04-01" / "item.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"assets": {}}))
    with pytest.raises(CubeError, match="scene-2019-04-01 has no file whose bands are named"):
        open_cube(tmp_path)


def test_broken_json_is_named(tmp_path):
    write_item(tmp_path)
    (tmp_path / "item.json").write_text('{"type": "Feature", ')
    with pytest.raises(CubeError, match=r"item\.json is not readable as JSON"):
        open_cube(tmp_path)


@pytest.mark.parametrize("keep", [0, 30, 0.5])
def test_a_truncated_tif_is_one_line(tmp_path, keep):
    write_stac(tmp_path, days=("2019-04-01",), bands=("B02",), size=64)
    path = tmp_path / "2019-04-01" / "B02.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(CubeError) as caught, reading(tmp_path):
        open_cube(tmp_path).compute()
    assert "\n" not in str(caught.value)


def test_a_tif_without_coordinate_system(tmp_path):
    write_item(tmp_path)
    write_tif(tmp_path / "B02.tif", np.full((16, 16), 900, np.uint16), crs=None)
    with pytest.raises(CubeError, match="no coordinate system"):
        open_cube(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(
        ["id", "properties", "assets", "href", "raster:bands", "eo:bands", "gsd", "type"]
    ),
    json_values,
)
def test_items_may_hold_anything(tmp_path, key, value):
    write_item(tmp_path)
    scene = json.loads((tmp_path / "item.json").read_text())
    (scene if key in ("id", "properties", "assets") else scene["assets"]["B02"])[key] = value
    (tmp_path / "item.json").write_text(json.dumps(scene))
    with suppress(CubeError):
        read_scenes(tmp_path)
