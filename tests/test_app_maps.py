"""Results in the web application: parcels, areas, official parcels, tiles, corrections, training
data.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile

import geopandas as gpd
import numpy as np
import pytest
from PIL import Image
from shapely.geometry import shape

import app_map
from panoseg.app.corrections import (
    UNCHECKED,
    TrainingOptions,
    change_crop,
    corrected_parcels,
    merge_parcels,
    read_corrections,
    split_parcel,
    training_data,
    undo,
)
from panoseg.app.exports import NAMES, export_parcels
from panoseg.app.layers import read_layers
from panoseg.app.official import MISSED, OTHER, SAME, differences, official_at
from panoseg.app.pages.parcel_panel import share_table
from panoseg.app.parcels import areas, curve_of, outline_of, parcel_at, parcel_of
from panoseg.app.result_api import TileCache
from panoseg.app.result_map import open_result
from panoseg.app.tiles import TileRequest, draw_tile, etag
from panoseg.classes import PASTIS
from panoseg.errors import ConflictError, NotFoundError, ParcelsError
from panoseg.maps.parcels import write_geopackage, write_geoparquet


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return app_map.make_map(tmp_path_factory.mktemp("jobs") / "made")


@pytest.fixture
def folder(made, tmp_path):
    """A copy that may be corrected."""
    return shutil.copytree(made, tmp_path / "job")


def tile_at(folder, column, row, zoom):
    """Number of the tile that holds a pixel of the map, and the pixel's place in it."""
    longitude, latitude = np.radians(app_map.place(folder, column, row))
    x = (longitude / np.pi + 1) / 2 * 2**zoom
    y = (1 - np.arcsinh(np.tan(latitude)) / np.pi) / 2 * 2**zoom
    return int(x), int(y), int(x % 1 * 256), int(y % 1 * 256)


def colour_at(folder, column, row, zoom, kind="parcels", **options):
    """Red, green, blue, alpha of a place in a tile."""
    x, y, left, top = tile_at(folder, column, row, zoom)
    tile = draw_tile(open_result(folder), TileRequest(kind, zoom, x, y, **options))
    return Image.open(io.BytesIO(tile.content)).convert("RGBA").getpixel((left, top))


def rgb(class_id):
    colour = PASTIS[class_id].colour
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def test_a_parcel_at_a_place(made):
    parcel = parcel_at(open_result(made), *app_map.place(made, 36, 12))
    assert (parcel.id, parcel.crop, parcel.corrected) == ("2", "corn", False)
    assert parcel.confidence == pytest.approx(0.3)
    assert parcel.area_ha == pytest.approx(app_map.PARCEL_HA)
    assert parcel.shares_of == "probability"
    expected = (
        ("corn", 0.71),
        ("meadow", 0.22),
        ("soft winter wheat", 0.062),
        ("winter barley", 0.008),
    )
    assert parcel.shares == tuple((name, pytest.approx(share)) for name, share in expected)
    assert shape(parcel.outline).is_valid
    assert parcel_at(open_result(made), 0.0, 0.0) is None
    assert parcel_of(open_result(made), "2") == parcel


def test_shares_are_those_of_the_area_where_nobody_said_how_likely_crops_are(folder):
    parcel = parcel_of(open_result(folder), "1")
    assert (parcel.shares_of, parcel.shares) == (
        "area",
        (("soft winter wheat", pytest.approx(1.0)),),
    )
    change_crop(open_result(folder), "2", "meadow")
    corrected = parcel_of(open_result(folder), "c1")
    assert (corrected.shares_of, corrected.shares) == ("area", (("corn", pytest.approx(1.0)),))


def test_a_map_of_before_there_were_probabilities(folder):
    for path in (folder / "map" / "parcels.parquet", folder / "map" / "parcels.gpkg"):
        table = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)
        old = table[
            [name for name in table.columns if "probability" not in name and name != "second_class"]
        ]
        path.unlink()
        (
            write_geoparquet([old], path)
            if path.suffix == ".parquet"
            else write_geopackage([old], path)
        )
    result = open_result(folder)
    assert result.probabilities("2") == {}
    parcel = parcel_at(result, *app_map.place(folder, 36, 12))
    assert (parcel.shares_of, parcel.shares) == ("area", (("corn", pytest.approx(1.0)),))


def test_the_table_of_shares_on_the_page(made):
    parcel = parcel_of(open_result(made), "2")
    text = re.sub(r"\s*<[^>]*>\s*", " ", share_table(parcel, open_result(made)))
    expected = "Class Probability corn 71.0% meadow 22.0% soft winter wheat 6.2% other 0.8%"
    assert " ".join(text.split()) == expected
    assert "Class of the pixels inside" in share_table(
        parcel_of(open_result(made), "1"), open_result(made)
    )


@pytest.mark.parametrize("name", ["99", "c1", "1' OR '1'='1", "", "-1"])
def test_no_such_parcel(made, name):
    with pytest.raises(NotFoundError):
        parcel_of(open_result(made), name)


def test_areas_by_crop(made):
    rows = areas(open_result(made))
    assert {row.crop for row in rows} == {"soft winter wheat", "corn", "meadow", "winter barley"}
    assert all(row.parcels == 1 and row.area_ha == pytest.approx(app_map.PARCEL_HA) for row in rows)
    assert {row.crop: round(row.confidence, 3) for row in rows}["corn"] == 0.3


def test_the_curve_has_every_date_and_tells_of_clouds(made):
    curve = curve_of(made, outline_of(open_result(made), "1"))
    assert list(curve.dates) == [layer.date for layer in read_layers(made / "layers")]
    seen = [value for value in curve.mean if value is not None]
    assert seen
    assert all(-1 <= value <= 1 for value in seen)
    assert len(curve.cloudy) == len(curve.dates)
    assert all(
        low <= high for low, high in zip(curve.low, curve.high, strict=True) if low is not None
    )


def test_official_parcels_and_where_they_differ(made):
    result = open_result(made)
    found = differences(result)
    assert found.counts == {SAME: 1, OTHER: 1, "unknown": 0, MISSED: 1}
    assert set(found.invented) == {"3", "4"}
    assert found.hectares[MISSED] == pytest.approx(2 * app_map.PARCEL_HA)
    second = official_at(result, *app_map.place(made, 36, 12))
    assert (second.id, second.declared, second.found, second.difference) == (
        "b",
        "meadow",
        "corn",
        OTHER,
    )


def test_no_official_parcels(folder):
    shutil.rmtree(folder / "refined")
    with pytest.raises(NotFoundError, match="no official parcels"):
        differences(open_result(folder))


@pytest.mark.parametrize("zoom", [13, 16])
def test_tiles_of_parcels(made, zoom):
    """From the raster and from the outlines alike."""
    assert colour_at(made, 36, 12, zoom) == (*rgb(app_map.CORN), 255)
    assert colour_at(made, 36, 12, zoom, hidden=frozenset({app_map.CORN}))[3] == 0
    assert colour_at(made, 12, 12, zoom, hidden=frozenset({app_map.CORN})) == (
        *rgb(app_map.WHEAT),
        255,
    )
    sure, unsure = (
        colour_at(made, *at, zoom, by_confidence=True)[3] for at in ((12, 12), (36, 12))
    )
    assert unsure < sure == 255


@pytest.mark.parametrize("kind", ["true-colour", "false-colour", "ndvi"])
def test_pictures_of_a_date(made, kind):
    days = [layer.date for layer in read_layers(made / "layers")]
    pictures = [colour_at(made, 12, 12, 15, kind, date=day) for day in days]
    assert all(picture[3] == 255 for picture in pictures)
    assert len(set(pictures)) > 1
    assert colour_at(made, 12, 12, 12, kind, date=days[0])[3] == 255
    with pytest.raises(NotFoundError, match="date 1999"):
        colour_at(made, 12, 12, 15, kind, date="1999-01-01")


def test_false_colour_is_not_true_colour(made):
    day = max(read_layers(made / "layers"), key=lambda layer: layer.clear).date
    assert colour_at(made, 12, 12, 15, "true-colour", date=day) != colour_at(
        made, 12, 12, 15, "false-colour", date=day
    )


@pytest.mark.parametrize("zoom", [11, 15])
def test_tiles_of_official_parcels(made, zoom):
    assert colour_at(made, 36, 12, zoom, "official")[:3] == rgb(app_map.CORN)
    assert colour_at(made, 36, 12, zoom, "official", hidden=frozenset({app_map.CORN}))[3] == 0


def test_differences_are_highlighted(made):
    same, other = (colour_at(made, *at, 16, "differences") for at in ((12, 12), (36, 12)))
    assert other[3] > same[3]
    assert other[:3] != same[:3]


@pytest.mark.parametrize("place", [(-1, 0, 0), (19, 0, 0), (3, 8, 0), (3, 0, -1)])
def test_no_such_tile(place):
    with pytest.raises(NotFoundError):
        TileRequest("parcels", *place)


def test_a_tile_elsewhere_is_empty(made):
    for kind in ("parcels", "official", "ndvi"):
        day = read_layers(made / "layers")[0].date if kind == "ndvi" else None
        for zoom in (5, 16):
            tile = draw_tile(open_result(made), TileRequest(kind, zoom, 0, 0, date=day))
            assert Image.open(io.BytesIO(tile.content)).convert("RGBA").getextrema()[3] == (0, 0)


def test_the_etag_changes_with_what_is_seen(folder):
    result = open_result(folder)
    tag = etag(result, TileRequest("parcels", 15, 1, 1))
    assert tag == etag(result, TileRequest("parcels", 15, 1, 1))
    others = [
        TileRequest("parcels", 15, 1, 2),
        TileRequest("parcels", 15, 1, 1, hidden=frozenset({3})),
    ]
    others.append(TileRequest("parcels", 15, 1, 1, by_confidence=True))
    assert tag not in {etag(result, other) for other in others}
    change_crop(result, "1", "sorghum")
    assert etag(result, TileRequest("parcels", 15, 1, 1)) != tag


def test_the_cache_keeps_tiles_and_forgets_the_oldest(made, monkeypatch):
    result, drawn = open_result(made), []
    monkeypatch.setattr(
        "panoseg.app.result_api.draw_tile", lambda *of: drawn.append(of) or draw_tile(*of)
    )
    cache = TileCache(mib=1)
    request = TileRequest("parcels", 15, 0, 0)
    assert cache.get("a", result, request) is cache.get("a", result, request)
    assert len(drawn) == 1
    small = TileCache(mib=0)
    small.get("a", result, request)
    small.get("a", result, request)
    assert len(drawn) == 3
    assert small.tiles.bytes == 0


# -- corrections


def test_another_crop(folder):
    result = open_result(folder)
    before = (folder / "map" / "parcels.parquet").read_bytes()
    change_crop(result, "1", "sorghum")
    parcel = parcel_at(result, *app_map.place(folder, 12, 12))
    assert (parcel.crop, parcel.corrected, parcel.confidence) == ("sorghum", True, None)
    assert {row.crop for row in areas(result)} == {"sorghum", "corn", "meadow", "winter barley"}
    for zoom in (13, 16):
        assert colour_at(folder, 12, 12, zoom) == (*rgb(18), 255)
        assert colour_at(folder, 12, 12, zoom, hidden=frozenset({18}))[3] == 0
    assert (folder / "map" / "parcels.parquet").read_bytes() == before, "the prediction is kept"
    with pytest.raises(NotFoundError):
        change_crop(result, "1", "corn")  # it was replaced
    with pytest.raises(NotFoundError):
        change_crop(result, parcel.id, "no crop")


def test_split_merge_and_undo(folder):
    result = open_result(folder)
    across = [app_map.place(folder, -1, 12), app_map.place(folder, 25, 12)]
    upper, lower = split_parcel(result, "1", across).parcels.values()
    assert upper.area_ha + lower.area_ha == pytest.approx(app_map.PARCEL_HA)
    assert upper.crop == lower.crop == "soft winter wheat"
    merged = merge_parcels(result, upper.id, "2").parcels
    assert sorted(round(parcel.area_ha, 2) for parcel in merged.values()) == [2.88, 8.64]
    with pytest.raises(ParcelsError, match="share no border"):
        merge_parcels(result, "3", "3")
    assert undo(folder).parcels.keys() == {upper.id, lower.id}
    assert undo(folder).parcels == {}
    with pytest.raises(ConflictError):
        undo(folder)
    assert parcel_at(result, *app_map.place(folder, 12, 12)).id == "1"


def test_parcels_that_touch_at_a_corner_are_not_merged(folder):
    with pytest.raises(ParcelsError, match="share no border"):
        merge_parcels(open_result(folder), "1", "4")


def test_a_line_that_does_not_cut(folder):
    result = open_result(folder)
    inside = [app_map.place(folder, 4, 4), app_map.place(folder, 12, 12)]
    for line in (inside, [(0.0, 0.0), (0.1, 0.1)], [(float("nan"), 0.0), (1.0, 1.0)], inside[:1]):
        with pytest.raises(ParcelsError):
            split_parcel(result, "1", line)
    assert read_corrections(folder).steps == ()


def test_downloads_are_as_corrected_with_the_prediction_in_them(folder):
    result = open_result(folder)
    plain = export_parcels(folder, "gpkg")
    (plain.parent / "left").mkdir()  # by a process that was killed
    table = gpd.read_file(plain, layer="parcels")
    assert (len(table), table["corrected"].sum()) == (4, 0)
    assert (table["predicted"] == table["class"]).all()
    across = [app_map.place(folder, -1, 12), app_map.place(folder, 25, 12)]
    upper, _ = split_parcel(result, "1", across).parcels.values()
    merged = next(reversed(merge_parcels(result, upper.id, "2").parcels.values()))
    change_crop(result, merged.id, "sorghum")
    export_parcels(folder, "areas")
    assert plain.exists(), "it may still be sent"
    os.utime(plain.parent, (0, 0))
    for form in ("parquet", "gpkg", "geojson", "shapefile"):
        path = export_parcels(folder, form)
        assert path.name == NAMES[form]
        assert export_parcels(folder, form) == path
        layer = {"layer": "parcels"} if form == "gpkg" else {}
        table = gpd.read_parquet(path) if form == "parquet" else gpd.read_file(path, **layer)
        assert len(table) == 4
        assert table.to_crs(result.crs).area.sum() == pytest.approx(4 * 57_600, rel=1e-3)
        rows = table.set_index("id")
        assert rows.loc["3", "class"] == rows.loc["3", "predicted"] == "meadow"
        [new] = rows[rows["class"] == "sorghum"].itertuples()
        assert (new.corrected, new.predicted) == (True, "soft winter wheat + corn")
        assert np.isnan(new.confidence)
        assert new.area_ha == pytest.approx(8.64, abs=0.01)
    assert not plain.parent.exists(), "of earlier corrections"
    assert {path.name for path in path.parent.iterdir()} == {
        NAMES[form] for form in ("parquet", "gpkg", "geojson", "shapefile", "areas")
    }
    rows = export_parcels(folder, "areas").read_text().splitlines()
    assert "sorghum,1,8.64," in rows
    with pytest.raises(NotFoundError):
        export_parcels(folder / "nothing", "gpkg")


def test_corrections_are_training_data(folder):
    result = open_result(folder)
    with pytest.raises(ConflictError):
        training_data(folder, TrainingOptions())
    change_crop(result, "1", "sorghum")
    only, every = (corrected_parcels(result, everything) for everything in (False, True))
    assert sorted(only["crop"]) == ["sorghum", UNCHECKED, UNCHECKED, UNCHECKED]
    assert sorted(every["crop"]) == ["corn", "meadow", "sorghum", "winter barley"]
    with zipfile.ZipFile(training_data(folder, TrainingOptions(size=32))) as archive:
        assert not [name for name in archive.namelist() if name.startswith("dataset")], (
            "too few patches for five folds"
        )
        assert "5 folds" in archive.read("README.txt").decode()
    for parcel in "234":
        change_crop(result, parcel, "beet")
    path = training_data(folder, TrainingOptions(size=16))
    assert training_data(folder, TrainingOptions(size=16)) == path
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        labels = [name for name in names if "ANNOTATIONS/TARGET_" in name]
        assert labels
        found = {
            int(value)
            for name in labels
            for value in np.unique(np.load(io.BytesIO(archive.read(name)))[0])
        }
        assert found in ({9, 18}, {9, 18, 19})
        table = gpd.read_parquet(io.BytesIO(archive.read("parcels.parquet")))
    assert table["corrected"].sum() == 4
