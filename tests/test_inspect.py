"""``panoseg inspect`` says how a season is understood, and a map says the same."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cubes import DATES, make_cube
from panoseg.cli import main
from panoseg.cube import ReadOptions
from panoseg.maps.inspect import inspect_cube


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A season with a cloudy date, one beyond the season, and numbers that are no reflectance."""
    cube = make_cube(32, (*DATES, "2020-03-01"), scl=True)
    cube["SCL"][1] = 9
    for band in ("B02", "B03", "B04"):
        cube[band].values[3, :8] = 65535
    cube["B8A"].values[:, :, :4] = 0
    names = {"B08": "BROADNIR", "B8A": "NIR"}
    path = tmp_path_factory.mktemp("inspect") / "season.nc"
    cube.rename(names).to_netcdf(path)
    return path


def test_what_is_found(odd, capsys):
    assert main(["inspect", str(odd)]) == 0
    text = capsys.readouterr().out
    for line in (
        r"Format +NetCDF",
        r"Bands +B02, .*B08 = BROADNIR, B8A = NIR",
        r"Scene classification +yes",
        r"Values +reflectance x 10 000, from its values",
        r"Coordinate system +EPSG:32631, from ",
        r"Grid +32 x 32 pixels of 10 m, 0\.10 km2",
        r"Place +50\.5\d\d N, 3\.00\d E; upper left corner 500000, 5600000",
        r"Season +2019 \(2018-09-01 to 2019-10-31\)",
        r"Dates +5 of 7 used, 2018-10-05 to 2019-09-10",
        r"  2018-12-14  not used: 0% clear",
        r"  2020-03-01  not used: outside of the season",
        r"  2019-05-18  used, 75% clear",
        r"warning: .*such as 65535\) and count as no data",
        r"warning: 1 date of the cube lies outside of the season",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line


def test_json_has_the_same(odd, capsys):
    assert main(["inspect", str(odd), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bands"]["B8A"] == "NIR"
    assert (found["height"], found["width"], found["corner"]) == (32, 32, [500000.0, 5600000.0])
    assert [day["date"] for day in found["dates"] if not day["used"]] == [DATES[1], "2020-03-01"]
    assert len(found["warnings"]) == 2
    # On one of five used dates B02 has no data in a quarter of the pixels.
    assert found["data_share"] == pytest.approx(1 - 0.25 / 5)


def test_the_page_has_pictures_of_clear_dates(odd, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["inspect", str(odd), "--out", str(page)]) == 0
    assert f"open {page}" in capsys.readouterr().out
    text = page.read_text()
    pictures = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', text)
    assert len(pictures) >= 4
    assert {kind for kind, _ in pictures} == {"jpeg", "png"}
    for _, content in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(content)))
        assert min(image.size) >= 320
        assert np.asarray(image.convert("RGB")).std() > 5
    assert "65535" in text
    assert "2018-12-14" in text


def test_ndvi_goes_from_brown_to_green(tmp_path):
    cube = make_cube(16)
    cube["B04"].values[:], cube["B08"].values[:] = 400, 4000
    cube["B08"].values[:, :, 8:] = 440
    cube.to_netcdf(tmp_path / "season.nc")
    found = inspect_cube(tmp_path / "season.nc")
    uri = found._pictures()[0]["ndvi"]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
    green, brown = image[300, 100].astype(int), image[300, 600].astype(int)
    assert green[1] > green[0] + 30
    assert brown[0] > brown[2] + 30


def test_options_put_right_what_is_wrong(odd, capsys):
    assert main(["inspect", str(odd), "--bands", "B08=NIR,B8A=BROADNIR", "--nodata", "65535"]) == 0
    text = capsys.readouterr().out
    assert "B08 = NIR, B8A = BROADNIR" in text
    assert "No data               0, NaN, 65535" in text
    assert "such as 65535" not in text
    assert main(["inspect", str(odd), "--from", "2020-01-01", "--crs", "EPSG:32632"]) == 0
    text = capsys.readouterr().out
    assert "EPSG:32632, from --crs" in text
    assert "1 of 7 used" in text
    assert "warning: Only one date is usable" in text


def test_what_is_refused_is_described_first(tmp_path, capsys):
    make_cube(32)[["B11", "B12"]].to_netcdf(tmp_path / "season.nc")
    assert main(["inspect", str(tmp_path / "season.nc")]) == 2
    printed = capsys.readouterr()
    assert "NetCDF with the dimensions" in printed.out
    assert "B12 (time, y, x) uint16" in printed.out
    assert "The cube lacks B02" in printed.err
    assert main(["inspect", str(tmp_path / "none.nc")]) == 2


def test_a_map_tells_the_same_notes(odd, tmp_path, capsys):
    assert main(["map", str(odd), "--out", str(tmp_path / "map"), "--tta", "1"]) == 0
    printed = capsys.readouterr().out
    for warning in inspect_cube(odd).inspection.warnings:
        assert f"note: {warning}" in printed
    assert "read" not in json.loads((tmp_path / "map" / "map.json").read_text())["options"]
    swapped = ["--bands", "B08=NIR,B8A=BROADNIR"]
    assert main(["map", str(odd), "--out", str(tmp_path / "b"), "--tta", "1", *swapped]) == 0
    record = json.loads((tmp_path / "b" / "map.json").read_text())
    assert record["options"]["read"] == {"bands": swapped[1]}
    one, other = ((tmp_path / name / "confidence.tif").read_bytes() for name in ("map", "b"))
    assert one != other


def test_a_refused_season_loads_no_network(tmp_path):
    make_cube(32)[["B11", "B12"]].to_netcdf(tmp_path / "season.nc")
    program = (
        "import sys; from panoseg.cli import main;"
        f"code = main(['map', {str(tmp_path / 'season.nc')!r}, '--out', {str(tmp_path / 'm')!r}]);"
        "print(code, 'torch' in sys.modules, 'geopandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "2 False False"
    assert "lacks B02" in done.stderr
    assert not (tmp_path / "m").exists()


def test_a_season_is_written_as_it_is_understood(odd, tmp_path, capsys):
    out = tmp_path / "season.zarr"
    options = ["--bands", "B08=NIR,B8A=BROADNIR", "--nodata", "65535", "--crs", "EPSG:32632"]
    assert main(["cube", "--from", str(odd), "--out", str(out), *options]) == 0
    written, asked = (
        inspect_cube(out),
        inspect_cube(odd, ReadOptions(bands=options[1], nodata=65535)),
    )
    assert written.inspection.crs == "EPSG:32632"
    for band in ("B08", "B8A", "B02"):
        expected = asked.cube[band].values
        np.testing.assert_array_equal(
            written.cube[band].values, np.where(expected == 0, np.nan, expected)
        )
    assert main(["cube", "--area", str(odd), "--out", str(out), "--nodata", "1"]) == 2
    assert "--from FOLDER" in capsys.readouterr().err
