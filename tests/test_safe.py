"""SAFE archives become scenes and a cube: real metadata, bands and offsets, and archives that are
damaged or mean harm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
import warnings
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow
from shapely.geometry import mapping

from panoseg.cli import main
from panoseg.errors import CubeError
from panoseg.imagery import safe as safe_module
from panoseg.imagery.safe import safe_scenes
from panoseg.imagery.sentinel2 import band_name
from safes import PRODUCT, another_granule, copy_metadata, write_images, zip_product

BASELINES = {"N0212": 0.0, "N0400": -0.1, "N0509": -0.1}


@pytest.fixture
def products(real_data) -> dict[str, Path]:
    """The real metadata by processing baseline."""
    folders = sorted((real_data / "safe-metadata").iterdir())
    return {re.search(r"_(N\d{4})_", path.name)[1]: path for path in folders}


@pytest.fixture
def product(products, tmp_path) -> Path:
    """A complete product of baseline 04.00 in tmp_path/in, with images of 32 x 32 pixels."""
    (tmp_path / "in").mkdir()
    target = copy_metadata(products["N0400"], tmp_path / "in")
    write_images(target, 32)
    return target


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(folder: Path) -> str:
    """Why the only archive of a folder is not used; one line."""
    with pytest.raises(CubeError) as caught:
        safe_scenes(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is read


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_bands_and_offsets_of_each_baseline(products, tmp_path, baseline, form):
    safe = copy_metadata(products[baseline], tmp_path)
    write_images(safe, 16)
    if form == "zip":
        zip_product(safe, tmp_path / "product.zip")
        shutil.rmtree(safe)
    (scene,), broken = safe_scenes(tmp_path)
    assert not broken
    assert scene.id == products[baseline].name.removesuffix(".SAFE")
    assert scene.baseline == float(f"{baseline[1:3]}.{baseline[3:]}")
    ten = {"B02", "B03", "B04", "B08"}
    twenty = {"B05", "B06", "B07", "B8A", "B11", "B12", "SCL"}
    assert {band: scene.assets[band].resolution_m for band in ten | twenty} == {
        **dict.fromkeys(ten, 10.0),
        **dict.fromkeys(twenty, 20.0),
    }
    for band, asset in scene.assets.items():
        expected = (1.0, 0.0) if band == "SCL" else (1e-4, BASELINES[baseline])
        assert (asset.radiometry.scale, asset.radiometry.offset, asset.radiometry.nodata) == (
            *expected,
            0.0,
        )


@pytest.mark.parametrize("baseline", BASELINES)
def test_scenes_are_what_the_driver_of_gdal_sees(products, tmp_path, baseline):
    """Numbers, places and offsets of each band, by GDAL's own reader of these products."""
    safe = copy_metadata(products[baseline], tmp_path)
    write_images(safe, 32)
    (scene,), _ = safe_scenes(safe)
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.open(safe / PRODUCT, driver="SENTINEL2") as product,
    ):
        of_10_m, of_20_m = product.subdatasets[:2]
    compared = set()
    for subdataset, pixel in ((of_10_m, 10), (of_20_m, 20)):
        with rasterio.open(subdataset, driver="SENTINEL2") as seen:
            for number in seen.indexes:
                tags = seen.tags(number)
                band = band_name(tags["BANDNAME"])
                if band not in scene.assets or scene.assets[band].resolution_m != pixel:
                    continue
                with rasterio.open(scene.assets[band].href) as source:
                    assert (source.crs, source.transform) == (seen.crs, seen.transform)
                    assert source.crs.to_epsg() == scene.epsg
                    window = RasterWindow(0, 0, source.width, source.height)
                    assert np.array_equal(source.read(1), seen.read(number, window=window))
                if band != "SCL":
                    assert scene.assets[band].radiometry.offset * 1e4 == pytest.approx(
                        float(tags.get("BOA_ADD_OFFSET", 0))
                    )
                compared.add(band)
    assert compared == {"B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "SCL"}


def test_a_product_without_its_list_of_offsets_has_them_by_its_baseline(product):
    text = (product / PRODUCT).read_text()
    (product / PRODUCT).write_text(
        re.sub(
            r"<BOA_ADD_OFFSET_VALUES_LIST>.*?</BOA_ADD_OFFSET_VALUES_LIST>", "", text, flags=re.S
        )
    )
    (scene,), _ = safe_scenes(product)
    assert scene.assets["B02"].radiometry.offset == -0.1


def test_an_offset_stated_in_an_old_product_is_not_believed(products, tmp_path):
    safe = copy_metadata(products["N0212"], tmp_path)
    write_images(safe, 16)
    offset = (
        "<BOA_ADD_OFFSET_VALUES_LIST><BOA_ADD_OFFSET"
        ' band_id="1">-1000</BOA_ADD_OFFSET></BOA_ADD_OFFSET_VALUES_LIST>'
    )
    replace_in(
        safe / PRODUCT, "</QUANTIFICATION_VALUES_LIST>", f"</QUANTIFICATION_VALUES_LIST>{offset}"
    )
    assert safe_scenes(safe)[0][0].assets["B02"].radiometry.offset == 0


def test_each_band_has_its_own_offset_and_scale(product):
    replace_in(
        product / PRODUCT, '<BOA_ADD_OFFSET band_id="8">-1000', '<BOA_ADD_OFFSET band_id="8">-500'
    )
    replace_in(product / PRODUCT, '"none">10000</BOA_Q', '"none">20000</BOA_Q')
    assets = safe_scenes(product)[0][0].assets
    assert [assets[band].radiometry.offset for band in ("B08", "B8A")] == [-0.05, -0.025]
    assert assets["B8A"].radiometry.scale == 5e-5


def test_geotiff_products_are_read_too(products, tmp_path):
    safe = copy_metadata(products["N0400"], tmp_path)
    write_images(safe, 16, ending=".tif")
    assert safe_scenes(tmp_path)[0][0].assets["B02"].href.endswith("_B02_10m.tif")


def test_a_product_with_several_granules_is_several_scenes(product):
    another_granule(product)
    scenes, _ = safe_scenes(product)
    assert len({scene.id for scene in scenes}) == 2
    west, east = sorted(scene.outline.bounds[0] for scene in scenes)
    assert east - west > 1
    assert scenes[0].assets["B02"].href != scenes[1].assets["B02"].href


def test_one_product_in_two_forms_is_one_scene(product):
    zip_product(product, product.with_name("again.zip"))
    scenes, broken = safe_scenes(product.parent)
    assert (len(scenes), broken) == (1, {})


def test_archives_in_order_of_time_wherever_they_lie(products, tmp_path):
    for number, path in enumerate(products.values()):
        safe = copy_metadata(path, tmp_path / "years" / str(number))
        write_images(safe, 16)
    scenes, _ = safe_scenes(tmp_path)
    assert [scene.time.year for scene in scenes] == [2019, 2022, 2023]


def test_bands_that_are_not_there_are_not_named(product):
    next(product.rglob("*_B05_20m.jp2")).unlink()
    assert "B05" not in safe_scenes(product)[0][0].assets
    next(product.rglob("*_B02_10m.jp2")).unlink()
    assert safe_scenes(product)[0][0].assets["B02"].resolution_m == 20


# What is refused


def test_what_is_no_product_of_l2a_is_one_clear_line(products, product, tmp_path):
    assert "holds no SAFE archive" in refused(_empty(tmp_path / "empty"))
    assert "does not exist" in refused(tmp_path / "none")
    l1c = _empty(
        tmp_path / "l1c" / "S2A_MSIL1C_20190212T192651_N0207_R013_T07HFE_20190212T223712.SAFE"
    )
    (l1c / "MTD_MSIL1C.xml").write_text("<a/>")
    assert "is L1C, top of the atmosphere; L2A is needed" in refused(l1c.parent)
    bare = copy_metadata(products["N0400"], tmp_path / "bare")
    assert "lacks the images" in refused(bare)
    replace_in(product / PRODUCT, "Level-2A</PROCESSING", "Level-1C</PROCESSING")
    assert "is Level-1C" in refused(product)


def _empty(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_one_bad_archive_costs_itself_alone(product):
    (product.with_name("broken.zip")).write_bytes(b"PK\x03\x04 and no more")
    whole = zip_product(product, product.with_name("whole.zip"))
    cut = product.with_name("cut.zip")
    cut.write_bytes(whole.read_bytes()[:-200])
    scenes, broken = safe_scenes(product.parent)
    assert len(scenes) == 1
    assert set(broken) == {"broken.zip", "cut.zip"}
    assert all("zip" in reason for reason in broken.values())


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (PRODUCT, "no XML at all", "is not XML"),
        (PRODUCT, "<a><b></a>", "is not XML"),
        (PRODUCT, "<a/>", "lack PROCESSING_LEVEL"),
        (
            PRODUCT,
            '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
            "declares a document type",
        ),
        (PRODUCT, '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "declares a document type"),
        ("GRANULE/*/MTD_TL.xml", "<a/>", "lack SENSING_TIME"),
    ],
)
def test_metadata_that_are_damaged_or_mean_harm(product, file, text, said):
    next(product.glob(file)).write_text(text)
    assert said in refused(product)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<NROWS>10980", "<NROWS>1098000000", "states a tile of"),
        ("<ULX>499980", "<ULX>1e300", "tile"),
        ("EPSG:32633", "EPSG:999999", ""),
        ("2022-04-13T15:08:07.846358Z", "yesterday", "yesterday"),
        ("2022-04-13T15:08:07.846358Z", "9999-12-31T23:59:59Z", "time 9999-12-31"),
        ("2022-04-13T15:08:07.846358Z", "0001-01-01T00:00:00Z", "time 0001-01-01"),
    ],
)
def test_tiles_that_are_no_place(product, old, new, said):
    replace_in(next(product.glob("GRANULE/*/MTD_TL.xml")), old, new)
    assert said in refused(product)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10000</BOA_Q", "0</BOA_Q"),
        ("04.00</PROCESSING_B", "x</PROCESSING_B"),
        ("04.00</PROCESSING_B", "nan</PROCESSING_B"),
        ('band_id="1"', 'band_id="77"'),
    ],
)
def test_numbers_that_are_none(product, old, new):
    replace_in(product / PRODUCT, old, new)
    assert "None of 1 archives" in refused(product)


def test_a_time_without_a_zone_is_in_utc(product, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        replace_in(
            next(product.glob("GRANULE/*/MTD_TL.xml")), "15:08:07.846358Z", "15:08:07.846358"
        )
        [scene], _ = safe_scenes(product)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert scene.time == datetime(2022, 4, 13, 15, 8, 7, 846358)


def test_long_metadata_are_not_read(product, monkeypatch):
    monkeypatch.setattr(safe_module, "MAX_XML_BYTES", 1000)
    assert "longer than 1000 bytes" in refused(product)
    zip_product(product, product.with_name("a.zip"))
    shutil.rmtree(product)
    assert "longer than 1000 bytes" in refused(product.parent)


def test_paths_and_links_that_climb_out_of_a_folder(product, tmp_path):
    secret = tmp_path / "secret_B02_10m.jp2"
    secret.write_bytes(b"secret")
    image = re.search(r"<IMAGE_FILE>(.*_B02_10m)<", (product / PRODUCT).read_text())[1]
    text = (product / PRODUCT).read_text()
    (product / PRODUCT).write_text(text.replace(image, "GRANULE/../../../secret_B02_10m"))
    assert "outside of the product" in refused(product)
    (product / PRODUCT).write_text(text.replace(image, str(secret.with_suffix(""))))
    assert "outside of the product" in refused(product)
    (product / PRODUCT).write_text(text)
    link = product / f"{image}.jp2"
    link.unlink()
    os.symlink(secret, link)
    assert "outside of the product" in refused(product)


def zip_with(product: Path, name: str, content: bytes = b"x", mode: int = 0) -> Path:
    """A zip of a product with one entry more; the product is gone."""
    path = zip_product(product, product.with_name("product.zip"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, content)
    shutil.rmtree(product)
    return path


@pytest.mark.parametrize(
    "name",
    ["../../outside.txt", "/etc/outside", "a.SAFE/../../outside", "..\\outside", "C:/outside"],
)
def test_zip_files_that_climb_out(product, name):
    assert "a path out of the archive" in refused(zip_with(product, name))


def test_zip_files_with_links_and_bombs(product):
    keep = shutil.copytree(product, product.parent.parent / "keep" / product.name)
    assert "holds the link" in refused(
        zip_with(product, "a.SAFE/link", b"/etc/passwd", stat.S_IFLNK | 0o777)
    )
    shutil.copytree(keep, product)
    assert "as no product does" in refused(
        zip_with(product, f"{product.name}/zeros.jp2", bytes(8 * 1024**2))
    )


def test_images_that_would_fill_memory(product):
    image = next(product.rglob("*_B03_10m.jp2"))
    content, side, huge = image.read_bytes(), (32).to_bytes(4, "big"), (100_000).to_bytes(4, "big")
    header, size = content.index(b"ihdr") + 4, content.index(b"\xff\x51") + 6
    for place in (
        header,
        size,
        size + 16,
    ):  # the sides in the header's box, and in the code stream with those of its tile
        assert content[place : place + 8] in (side + side, (1024).to_bytes(4, "big") * 2)
        content = content[:place] + huge + huge + content[place + 8 :]
    image.write_bytes(content)
    assert "100000 x 100000 pixels" in refused(product)


def test_a_zip_with_too_many_files_or_none_of_a_product(product, monkeypatch):
    path = zip_product(product, product.with_name("product.zip"))
    monkeypatch.setattr(safe_module, "MAX_ENTRIES", 5)
    assert "more than any product" in refused(path)
    monkeypatch.undo()
    with zipfile.ZipFile(product.with_name("letters.zip"), "w") as archive:
        archive.writestr("letter.txt", "hello")
    assert "holds no .SAFE folder" in refused(product.with_name("letters.zip"))


def test_names_in_the_metadata_that_climb_out_of_a_zip(product):
    replace_in(product / PRODUCT, "GRANULE/L2A_T33XWJ", "../GRANULE/L2A_T33XWJ")
    path = zip_product(product, product.with_name("product.zip"))
    assert "MTD_TL.xml" in refused(path) or "outside of the product" in refused(path)


# The cube


def season(products, folder: Path, size: int = 48) -> dict[str, dict[str, np.ndarray]]:
    """Two dates over one place: the product of 2022, and a copy a year earlier by baseline 02.12,
    as a zip; numbers by date.
    """
    numbers = {}
    first = copy_metadata(products["N0400"], folder)
    numbers["2022-04-13"] = write_images(first, size, seed=1)
    older = copy_metadata(products["N0400"], folder / "work")
    for path in (older / PRODUCT, next(older.glob("GRANULE/*/MTD_TL.xml"))):
        text = (
            path.read_text()
            .replace("2022-04-13T", "2021-04-20T")
            .replace("20220413T150759_N0400", "20210420T150759_N0212")
        )
        path.write_text(text.replace("<PROCESSING_BASELINE>04.00", "<PROCESSING_BASELINE>02.12"))
    numbers["2021-04-20"] = write_images(older, size, seed=2)
    older = older.rename(
        older.with_name(older.name.replace("20220413T150759_N0400", "20210420T150759_N0212"))
    )
    zip_product(older, folder / "older.zip")
    shutil.rmtree(folder / "work")
    return numbers


def write_area(path: Path, size: int) -> Path:
    """An outline over the middle of the images."""
    box = shapely.box(
        499_980 + 100, 8_900_040 - 10 * size + 100, 499_980 + 10 * size - 100, 8_900_040 - 100
    )
    grid = GeoBox.from_bbox(box.bounds, crs="EPSG:32633", resolution=10)
    outline = mapping(grid.extent.to_crs("EPSG:4326").geom)
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": outline}))
    return path


def test_a_cube_of_archives_equals_the_numbers_in_them(products, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    numbers = season(products, tmp_path / "in")
    (tmp_path / "in" / "bad.zip").write_bytes(b"bad")
    area = write_area(tmp_path / "area.geojson", 48)
    words = [
        "cube",
        "--safe",
        str(tmp_path / "in"),
        "--area",
        str(area),
        "--margin-m",
        "0",
        "--min-clear",
        "0",
    ]
    assert main([*words, "--out", str(tmp_path / "season.zarr")]) == 0
    assert "left out: scene bad.zip" in capsys.readouterr().out
    cube = xr.open_zarr(tmp_path / "season.zarr", consolidated=False)
    assert [str(day)[:10] for day in cube.time.values] == sorted(numbers)
    left, top = (
        round((float(cube.x[0]) - 5 - 499_980) / 10),
        round((8_900_040 - float(cube.y[0]) - 5) / 10),
    )
    rows, columns = slice(top, top + cube.sizes["y"]), slice(left, left + cube.sizes["x"])
    assert min(cube.sizes["y"], cube.sizes["x"]) >= 28
    for date, offset in (("2021-04-20", 0), ("2022-04-13", -1000)):
        for band in ("B02", "B08", "B05", "B12"):
            given_HW = numbers[date][band]
            given_HW = given_HW.repeat(48 // len(given_HW), 0).repeat(48 // len(given_HW), 1)[
                rows, columns
            ]
            assert np.array_equal(
                cube[band].sel(time=date).values.squeeze(), given_HW.astype(float) + offset
            )
    assert (cube["SCL"].values == 9).any()


def test_days_and_area_choose_the_archives(products, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    season(products, tmp_path / "in")
    area = write_area(tmp_path / "area.geojson", 48)
    words = [
        "cube",
        "--safe",
        str(tmp_path / "in"),
        "--area",
        str(area),
        "--margin-m",
        "0",
        "--min-clear",
        "0",
    ]
    assert main([*words, "--season", "2022", "--out", str(tmp_path / "2022.zarr")]) == 0
    assert "1 dates" in capsys.readouterr().out
    assert main([*words, "--season", "2020", "--out", str(tmp_path / "2020.zarr")]) == 2
    assert "None of 2 scenes" in capsys.readouterr().err
    far = tmp_path / "far.geojson"
    far.write_text(json.dumps(mapping(shapely.box(5, 50, 5.01, 50.01))))
    assert main([*words[:3], "--area", str(far), "--out", str(tmp_path / "far.zarr")]) == 2
    assert "shows far" in capsys.readouterr().err
    for other in (["--catalog", "copernicus"], ["--collection", "sentinel-2-l2a"], ["--yes"]):
        assert main([*words, *other, "--out", str(tmp_path / "two.zarr")]) == 2
        assert "--safe cannot be combined with --catalog" in capsys.readouterr().err
    assert (
        not list(tmp_path.glob("*20.zarr*"))
        + list(tmp_path.glob("far.zarr*"))
        + list(tmp_path.glob("two.zarr*"))
    )


def test_a_truncated_image_costs_its_scene_alone(products, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    season(products, tmp_path / "in")
    image = next((tmp_path / "in").rglob("*_B03_10m.jp2"))
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    area = write_area(tmp_path / "area.geojson", 48)
    words = [
        "cube",
        "--safe",
        str(tmp_path / "in"),
        "--area",
        str(area),
        "--margin-m",
        "0",
        "--min-clear",
        "0",
    ]
    assert main([*words, "--out", str(tmp_path / "season.zarr")]) == 0
    said = capsys.readouterr()
    assert "left out: scene S2B_MSIL2A_20220413T150759" in said.out
    cube = xr.open_zarr(tmp_path / "season.zarr", consolidated=False)
    assert [str(day)[:10] for day in cube.time.values] == ["2021-04-20"]
