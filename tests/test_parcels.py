"""From segments to parcels: tidying, polygons that are a coverage, files that a mapper opens."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from scipy import ndimage
from shapely import box

from panoseg.classes import PASTIS
from panoseg.cube.season import Window
from panoseg.errors import OutputError, ParcelsError
from panoseg.maps import parcels as parcels_module
from panoseg.maps.assemble import regions, tidy
from panoseg.maps.outlines import polygonise, rasterise
from panoseg.maps.parcels import parcels_of, read_geoparquet, write_geopackage, write_geoparquet
from panoseg.maps.rasters import (
    CONFIDENCE,
    NO_DATA_CLASS,
    SEGMENTS,
    RawRaster,
    class_kind,
    write_class_raster,
    write_cog,
)
from panoseg.maps.read_parcels import read_parcels
from panoseg.panoptic import Panoptic

TRANSFORM = Affine(10, 0, 574_680, 0, -10, 5_622_440)


@st.composite
def labels(draw):
    """Label images with blobs, single pixels, holes and diagonals."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width, count = (
        draw(st.integers(1, 24)),
        draw(st.integers(1, 24)),
        draw(st.integers(0, 9)),
    )
    coarse = random.integers(0, count + 1, (height, width))
    block = draw(st.integers(1, 5))
    return np.kron(coarse, np.ones((block, block), int))[:height, :width].astype(np.int32)


def picture_of(segment_HW, score=1.0):
    ids = np.unique(segment_HW[segment_HW > 0])
    return Panoptic.from_maps(
        segment_HW, {int(i): int(i) % 18 + 1 for i in ids}, PASTIS, {int(i): score for i in ids}
    )


@settings(max_examples=120, deadline=None)
@given(labels())
def test_exact_polygons_round_trip(segment_HW):
    ids, outlines = polygonise(segment_HW, TRANSFORM)
    present, areas = np.unique(segment_HW[segment_HW > 0], return_counts=True)
    np.testing.assert_array_equal(ids, present)
    np.testing.assert_allclose(shapely.area(outlines), 100.0 * areas)
    assert shapely.is_valid(outlines).all()
    assert shapely.coverage_is_valid(outlines)
    np.testing.assert_array_equal(rasterise(ids, outlines, segment_HW.shape, TRANSFORM), segment_HW)


@settings(max_examples=80, deadline=None)
@given(labels(), st.sampled_from([0.5, 1.0, 1.5]))
def test_simplified_polygons_are_a_coverage(segment_HW, tolerance):
    _, outlines = polygonise(segment_HW, TRANSFORM, tolerance)
    assert shapely.is_valid(outlines).all()
    assert shapely.coverage_is_valid(outlines)
    assert (shapely.area(outlines) > 0).all()
    exact = polygonise(segment_HW, TRANSFORM)[1]
    assert (shapely.get_num_coordinates(outlines) <= shapely.get_num_coordinates(exact)).all()


def test_a_staircase_becomes_a_line_for_both_neighbours():
    segment_HW = np.where(np.add.outer(np.arange(12), np.arange(12)) < 11, 1, 2)
    _, outlines = polygonise(segment_HW, Affine.identity(), 1.0)
    assert shapely.get_num_coordinates(outlines).max() <= 7
    assert shapely.intersection(*outlines).geom_type in ("LineString", "MultiLineString")
    assert shapely.union_all(outlines).area == pytest.approx(144)


def test_a_long_edge_has_a_vertex_where_two_neighbours_meet():
    _, outlines = polygonise(np.array([[1, 1, 1, 1], [2, 2, 3, 3]]), Affine.identity())
    assert (2.0, 1.0) in {tuple(point) for point in shapely.get_coordinates(outlines[0]).tolist()}
    assert shapely.get_num_coordinates(outlines).tolist() == [6, 5, 5]


@settings(max_examples=80, deadline=None)
@given(labels(), st.integers(1, 6))
def test_tidying(segment_HW, smallest):
    before = picture_of(segment_HW)
    after = tidy(before, smallest)
    assert (after.segments.areas >= smallest).all()
    for id_ in after.segments.ids:
        parts, count = ndimage.label(after.segment_HW == id_)
        sizes = np.bincount(parts.ravel())[1:]
        assert sizes.min() >= smallest
        assert count >= 1
    # Pixels of large parts stay.
    for id_ in after.segments.ids:
        parts, _ = ndimage.label(segment_HW == id_)
        sizes = np.bincount(parts.ravel())
        largest = parts == sizes[1:].argmax() + 1
        assert (after.segment_HW[largest] == id_).all()
    np.testing.assert_array_equal(before.segment_HW, segment_HW)


def test_a_crumb_goes_where_its_border_is_longest():
    segment_HW = np.array([[1, 1, 1, 0, 2, 2, 2], [1, 1, 1, 0, 2, 1, 2], [1, 1, 1, 0, 2, 2, 2]])
    assert (tidy(picture_of(segment_HW), 2).segment_HW[:, 4:] == 2).all()
    alone = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 0, 0]])
    assert tidy(picture_of(alone), 2).segment_HW[1, 3] == 0
    assert tidy(picture_of(alone), 1).segment_HW[1, 3] == 1


def test_regions_are_connected_through_sides_only():
    numbered, count = regions(np.array([[1, 0], [0, 1]]))
    assert count == 4
    assert len(np.unique(numbered)) == 4


def parcels_example(**options):
    segment_HW = np.kron(np.array([[0, 4], [7, 9]]), np.ones((10, 10), int))
    return parcels_of(picture_of(segment_HW, 0.75), TRANSFORM, "EPSG:32631", PASTIS, **options)


def test_columns_of_parcels():
    parcels = parcels_example(observed="2019-10-21", details="by hand")
    assert parcels["id"].tolist() == ["4", "7", "9"]
    assert parcels["class"].tolist() == [PASTIS[5].name, PASTIS[8].name, PASTIS[10].name]
    assert parcels["crop:name"].tolist() == parcels["class"].tolist()
    assert parcels["crop:code"].tolist() == ["5", "8", "10"]
    assert parcels["confidence"].tolist() == [0.75] * 3
    np.testing.assert_allclose(parcels["area_ha"], 1.0)
    np.testing.assert_allclose(parcels["area"], parcels.geometry.area / 1e4)
    assert parcels["pixels"].tolist() == [100] * 3
    assert set(parcels["determination_method"]) == {"auto-imagery"}
    assert parcels["determination_datetime"].dt.strftime("%Y-%m-%d").unique().tolist() == [
        "2019-10-21"
    ]
    assert set(parcels["determination_details"]) == {"by hand"}


def test_columns_of_probabilities():
    picture = picture_of(
        np.kron(np.array([[0, 4], [7, 9]]), np.ones((10, 10), int))
    )  # of the classes 5, 8 and 10
    likely = np.zeros((3, PASTIS.count), np.float32)
    likely[0, [5, 8]], likely[1, [5, 8, 1]] = (0.75, 0.25), (0.5, 0.25, 0.25)
    picture = Panoptic(picture.segment_HW, replace(picture.segments, probabilities=likely))
    parcels = parcels_of(picture, TRANSFORM, "EPSG:32631", PASTIS)
    # The second class is the likeliest but the parcel's own, also where it is the likeliest of all;
    # of the third nobody said.
    assert parcels["second_class"].fillna("none").tolist() == [
        PASTIS[8].name,
        PASTIS[5].name,
        "none",
    ]
    assert parcels["second_probability"].fillna(-1).tolist() == [0.25, 0.5, -1]
    columns = [f"probability:{PASTIS[class_id].name}" for class_id in PASTIS.ids("thing")]
    assert [name for name in parcels.columns if name.startswith("probability:")] == columns
    np.testing.assert_array_equal(
        parcels[columns], np.vstack([likely[:2, 1:19], np.full((1, 18), np.nan)])
    )
    assert {str(parcels[name].dtype) for name in columns} == {"float32"}


def test_probabilities_of_which_nobody_said_are_empty_columns(tmp_path):
    """So that all files of a folder have the same columns."""
    known = parcels_example()
    empty = parcels_of(Panoptic.empty(20, 20), TRANSFORM, "EPSG:32631", PASTIS)
    assert empty.columns.tolist() == known.columns.tolist()
    assert known["second_class"].isna().all()
    assert known["second_probability"].isna().all()
    assert known.filter(like="probability:").isna().all(axis=None)
    write_geoparquet([known], tmp_path / "parcels.parquet")
    kinds = pq.read_schema(tmp_path / "parcels.parquet")
    assert {str(kinds.field("second_class").type)} <= {"string", "large_string"}


def test_stuff_is_no_parcel():
    picture = picture_of(
        np.kron(np.array([[0, 4], [7, 9]]), np.ones((10, 10), int))
    ).with_background(PASTIS)
    assert len(parcels_of(picture, TRANSFORM, "EPSG:32631", PASTIS)) == 3


@pytest.mark.parametrize("name", ["p.parquet", "p.gpkg"])
@pytest.mark.parametrize("empty", [False, True])
def test_files_of_parcels(tmp_path, name, empty):
    parcels = parcels_example(observed="2019-10-21")
    if empty:
        parcels = parcels_of(Panoptic.empty(20, 20), TRANSFORM, "EPSG:32631", PASTIS)
    path = tmp_path / name
    if path.suffix == ".gpkg":
        write_geopackage([parcels], path)
    else:
        write_geoparquet([parcels], path)
    again = read_parcels(path)
    assert again.crs.to_epsg() == 32631
    assert (
        again.drop(columns="geometry").columns.tolist()
        == parcels.drop(columns="geometry").columns.tolist()
    )
    assert again["class"].tolist() == parcels["class"].tolist()
    assert shapely.coverage_is_valid(again.geometry.values)


@pytest.mark.parametrize("pieces", [1, 2])
def test_columns_of_a_register_keep_their_types(tmp_path, pieces):
    """Whole numbers with a gap, true or false, categories, times of a place, lengths of time; for
    all who read Arrow.
    """
    count = 4
    parcels = gpd.GeoDataFrame(
        {
            "code": pd.array([60, None, 311, 2**60 + 1], dtype="Int64"),
            "organic": pd.array([True, None, False, True], dtype="boolean"),
            "kind": pd.Categorical(["a", "b", "a", "b"]),
            "declared": pd.date_range("2024-05-01", periods=count, tz="Europe/Paris", unit="us"),
            "grown": pd.to_timedelta(np.arange(count), unit="D").astype("timedelta64[us]"),
            "name": pd.array(["x", None, "y", "z"], dtype="string"),
        },
        geometry=[box(0, 0, 1 + side, 1) for side in range(count)],
        crs="EPSG:32631",
    )
    step = count // pieces
    write_geoparquet(
        [parcels.iloc[start : start + step] for start in range(0, count, step)],
        tmp_path / "p.parquet",
    )
    again = gpd.read_parquet(tmp_path / "p.parquet")
    assert_geodataframe_equal(again, parcels)
    assert_geodataframe_equal(
        pd.concat(read_geoparquet(tmp_path / "p.parquet"), ignore_index=True), parcels
    )
    assert gpd.GeoDataFrame.from_arrow(pq.read_table(tmp_path / "p.parquet")).crs == parcels.crs
    geo = json.loads(pq.read_schema(tmp_path / "p.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["bbox"] == [0, 0, 4, 1]


def test_geoparquet_says_that_it_is_fiboa(tmp_path):
    write_geoparquet([parcels_example()], tmp_path / "parcels.parquet")
    metadata = pq.read_schema(tmp_path / "parcels.parquet").metadata
    fiboa, geo = json.loads(metadata[b"fiboa"]), json.loads(metadata[b"geo"])
    assert fiboa["fiboa_version"] == "0.2.0"
    assert any("crop-extension" in uri for uri in fiboa["fiboa_extensions"])
    assert geo["version"] == "1.1.0"


def test_rasters(tmp_path):
    segment_HW = np.kron(np.array([[0, 4], [7, 9]]), np.ones((10, 10), int))
    classes_HW, grid = segment_HW + 1, GeoBox((20, 20), TRANSFORM, "EPSG:32631")
    for name, kind, values_HW in (
        ("classes", class_kind(PASTIS), classes_HW),
        ("segments", SEGMENTS, segment_HW * 100_000),
        ("confidence", CONFIDENCE, np.where(segment_HW, 80, 255)),
    ):
        plain = RawRaster(tmp_path / "plain", (20, 20), kind)
        for top, left, height, width in ((7, 0, 13, 20), (0, 0, 7, 3), (0, 3, 7, 17)):
            window = Window(top, left, height, width)
            plain.write(window, values_HW[window.rows, window.columns])
        np.testing.assert_array_equal(plain.read(Window(5, 2, 4, 6)), values_HW[5:9, 2:8])
        write_cog(tmp_path / f"{name}.tif", plain, grid)
        plain.remove()
        with rasterio.open(tmp_path / f"{name}.tif") as source:
            np.testing.assert_array_equal(source.read(1), values_HW)
            assert source.nodata == kind.nodata
            assert source.dtypes == (kind.dtype,)
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert source.crs.to_epsg() == 32631
            assert source.transform == TRANSFORM
            assert kind.tags.items() <= source.tags(1).items()
    write_class_raster(tmp_path / "again.tif", classes_HW.astype(np.uint8), grid, PASTIS)
    for name in ("classes", "again"):
        with rasterio.open(tmp_path / f"{name}.tif") as source:
            assert source.nodata == NO_DATA_CLASS
            assert source.colormap(1)[5] == (0x98, 0xDF, 0x8A, 255)
            assert source.colormap(1)[NO_DATA_CLASS][3] == 0
            assert source.tags(1)["5"] == "winter rapeseed"
            np.testing.assert_array_equal(source.read(1), classes_HW)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_raster_that_was_cut_off_is_found_out(tmp_path, monkeypatch):
    plain = RawRaster(tmp_path / "plain", (20, 20), SEGMENTS)
    plain.write(Window(0, 0, 20, 20), np.arange(400).reshape(20, 20))
    copy = rasterio.shutil.copy

    def short(source, target, **options):
        with plain.path.open("r+b") as file:
            file.seek(500)
            file.write(bytes(4))
            copy(source, target, **options)
            file.seek(500)
            file.write(bytes([1, 2, 3, 4]))

    monkeypatch.setattr(rasterio.shutil, "copy", short)
    with pytest.raises(OutputError, match="cut off"):
        write_cog(tmp_path / "segments.tif", plain, GeoBox((20, 20), TRANSFORM, "EPSG:32631"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["plain"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    grid = GeoBox((20, 20), TRANSFORM, "EPSG:32631")
    monkeypatch.setattr(parcels_module.pq, "write_table", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(os, "write", full)
    for write in (
        lambda: write_geoparquet([parcels_example()], tmp_path / "parcels.parquet"),
        lambda: write_class_raster(
            tmp_path / "classes.tif", np.zeros((20, 20), np.uint8), grid, PASTIS
        ),
    ):
        with pytest.raises(OutputError, match="disk is full"):
            write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["p.parquet", "p.gpkg", "p.geojson", "p.shp"])
def test_files_that_are_no_parcels(tmp_path, name):
    with pytest.raises(ParcelsError, match="does not exist"):
        read_parcels(tmp_path / name)
    (tmp_path / name).write_bytes(b"PAR1 is no whole file")
    with pytest.raises(ParcelsError, match="cannot be read"):
        read_parcels(tmp_path / name)


def test_parcels_without_geometry_or_coordinate_system(tmp_path):
    parcels_example().drop(columns="geometry").to_parquet(tmp_path / "table.parquet")
    with pytest.raises(ParcelsError):
        read_parcels(tmp_path / "table.parquet")
    parcels = parcels_example()
    parcels.set_crs(None, allow_override=True).to_parquet(tmp_path / "nowhere.parquet")
    with pytest.raises(ParcelsError, match="no coordinate system"):
        read_parcels(tmp_path / "nowhere.parquet")
