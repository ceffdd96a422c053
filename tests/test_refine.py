"""One class for each parcel: equal to the published program's tables and rasters, and right where
that was wrong.
"""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from panoseg.classes import PASTIS, ClassTable, SegmentClass
from panoseg.cli import main
from panoseg.errors import ConfigError, ParcelsError, RasterError
from panoseg.maps import RefineOptions, class_raster
from panoseg.maps import refine as shares
from panoseg.maps.class_raster import ClassRaster, read_class_raster
from panoseg.maps.outlines import affine_of, rasterise, to_map, to_pixels
from panoseg.maps.parcels import write_geoparquet
from panoseg.maps.rasters import NO_DATA_CLASS, write_class_raster
from panoseg.maps.read_parcels import read_parcels, valid_outlines
from panoseg.maps.refine import area_shares, choose_classes, mean_probabilities, refine, refine_file

CRS = "EPSG:32633"
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_500_000)


def table_of(count):
    return ClassTable(
        "numbers",
        tuple(
            SegmentClass(id_, str(id_), "#000000", "thing" if id_ else "stuff")
            for id_ in range(count)
        ),
    )


def raster_of(classes_HW, count=6, transform=TRANSFORM):
    classes_HW = np.asarray(classes_HW, np.uint8)
    return ClassRaster(classes_HW, GeoBox(classes_HW.shape, transform, CRS), table_of(count))


def likely(probabilities_KHW):
    probabilities_KHW = np.asarray(probabilities_KHW, np.float32)
    grid = GeoBox(probabilities_KHW.shape[1:], TRANSFORM, CRS)
    return ClassRaster.from_probabilities(probabilities_KHW, grid, table_of(len(probabilities_KHW)))


def parcels_of(*outlines, transform=TRANSFORM, **columns):
    """Parcels from outlines in pixels."""
    moved = to_map(np.array(outlines, dtype=object), transform)
    return gpd.GeoDataFrame(columns, geometry=list(moved), crs=CRS)


def ids_of(names):
    return [None if pd.isna(name) else int(name) for name in names]


# --- The published program ---


class Golden:
    def __init__(self, folder):
        self.rasters = np.load(folder / "postprocess.npz")
        self.tables = json.loads((folder / "postprocess.json").read_text())
        self.parcels = read_parcels(folder / "homogenize_polygons.gpkg")
        self.grid = GeoBox((48, 48), affine_of(self.rasters["affine"]), CRS)
        self.probabilities_KHW = (self.rasters["probabilities"] / 4096).astype(np.float32)

    def raster(self, kind):
        if kind == "labels":
            return ClassRaster(self.rasters["labels"], self.grid, table_of(15))
        return ClassRaster.from_probabilities(self.probabilities_KHW, self.grid, table_of(15))


@pytest.fixture(scope="module")
def published(golden):
    return Golden(golden / "crop2seg")


@pytest.mark.parametrize("case", ["labels_hard", "probabilities_hard", "probabilities_soft"])
def test_rasters_of_parcels_equal_the_published(published, case):
    kind, rule = case.split("_")
    found = refine(published.raster(kind), published.parcels, RefineOptions(rule=rule))
    np.testing.assert_array_equal(found.classes_HW, published.rasters[f"homogenize_{case}"])
    assert found.left_out == 1


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_classes_by_area_equal_the_published(published, kind):
    found = refine(published.raster(kind), published.parcels).parcels
    rows = published.tables[f"homogenize_{kind}_hard"]
    # Where two classes have the same area the published table has a row for each, and the later one
    # is drawn.
    last = {row["wkt"]: int(row["raster_val"]) for row in rows}
    assert dict(zip(found.geometry.to_wkt(), ids_of(found["class"]), strict=True)) == last
    assert found["tied"].sum() == len(rows) - len(last) == (1 if kind == "labels" else 0)


def test_areas_of_classes_equal_the_published(published):
    rows = published.tables["homogenize_probabilities_soft"]
    raster = published.raster("probabilities")
    outlines = to_pixels(shapely.from_wkt([row["wkt"] for row in rows]), published.grid.affine)
    found_NK = (
        area_shares(outlines, raster.classes_HW, np.ones((48, 48), bool), 15)
        * shapely.area(outlines)[:, None]
        * 100
    )
    for row, found_K in zip(rows, found_NK, strict=True):
        assert found_K[int(row["raster_val"])] == pytest.approx(row["area"], rel=1e-9)


def test_probabilities_of_parcels_equal_the_published(published):
    rows = published.tables["homogenize_probabilities_soft"]
    outlines = to_pixels(shapely.from_wkt([row["wkt"] for row in rows]), published.grid.affine)
    found_NK = mean_probabilities(outlines, published.probabilities_KHW, np.ones((48, 48), bool))
    np.testing.assert_allclose(
        found_NK, [[row[str(k)] for k in range(15)] for row in rows], rtol=0, atol=1e-7
    )
    table = refine(
        published.raster("probabilities"), published.parcels, RefineOptions(rule="soft")
    ).parcels
    assert ids_of(table["class"]) == [row["soft_label"] for row in rows]
    np.testing.assert_allclose(
        table["confidence"], [row[str(row["soft_label"])] for row in rows], rtol=0, atol=1e-6
    )
    # Where the background is overruled the published runner-up is the class itself; ours is the
    # background.
    assert rows[0]["soft_top2_label"] == rows[0]["soft_label"] == 6
    assert ids_of(table["runner_up"]) == [0] + [row["soft_top2_label"] for row in rows[1:]]
    assert table["runner_up_confidence"][0] == pytest.approx(rows[0]["0"], abs=1e-6)


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_regions_equal_the_published(published, kind):
    raster = published.raster(kind)
    found = refine(raster)
    np.testing.assert_array_equal(found.classes_HW, published.rasters[f"polygonize_{kind}_hard"])
    if kind == "labels":
        rows = [
            (int(row["raster_val"]), row["area"])
            for row in published.tables["polygon_layer_labels"]
        ]
        areas = (found.parcels["area_ha"] * 10_000).round(6)
        assert sorted(zip(ids_of(found.parcels["class"]), areas, strict=True)) == sorted(rows)


def test_soft_regions_have_the_best_class_where_the_published_have_the_second(published):
    raster = published.raster("probabilities")
    found = refine(raster, None, RefineOptions(rule="soft"))
    outlines = to_pixels(found.parcels.geometry.to_numpy(), published.grid.affine)
    means_NK = mean_probabilities(outlines, published.probabilities_KHW, np.ones((48, 48), bool))
    region_HW = rasterise(np.arange(len(outlines)), outlines, (48, 48), Affine.identity())
    sorted_NK = np.sort(means_NK, axis=1)
    # The published program draws the class with the second largest mean (any one of equals).
    published_HW = published.rasters["polygonize_probabilities_soft"]
    np.testing.assert_array_equal(means_NK[region_HW, published_HW], sorted_NK[region_HW, -2])
    # Ours is the class with the largest, or the second where the largest is a background that is
    # not sure.
    unsure_N = (means_NK[:, 0] == sorted_NK[:, -1]) & (means_NK[:, 0] <= 0.7)
    wanted_N = np.where(unsure_N, sorted_NK[:, -2], sorted_NK[:, -1])
    assert 0 < unsure_N.sum() < len(unsure_N)
    np.testing.assert_array_equal(means_NK[region_HW, found.classes_HW], wanted_N[region_HW])
    # The mean over a region whose pixels all prefer one class prefers it too.
    np.testing.assert_array_equal(found.classes_HW != raster.classes_HW, unsure_N[region_HW])


def test_the_soft_rule_needs_no_class_by_area():
    # 30 % of this parcel lie outside of the raster, so that its background has no majority by area.
    # The published soft rule
    # then leaves the parcel out, although its pixels are sure of the background.
    probabilities_KHW = np.zeros((2, 7, 10))
    probabilities_KHW[0], probabilities_KHW[1] = 0.8, 0.2
    raster, parcels = likely(probabilities_KHW), parcels_of(box(0, -3, 10, 7))
    assert ids_of(refine(raster, parcels).parcels["class"]) == [None]
    assert ids_of(refine(raster, parcels, RefineOptions(rule="soft")).parcels["class"]) == [0]


# --- Rules ---


def test_the_rule():
    raster = likely([[[0.1, 0.1, 0.1, 0.9]], [[0.5, 0.5, 0.5, 0.0]], [[0.4, 0.4, 0.4, 0.1]]])
    parcels = parcels_of(box(0, 0, 3, 1), box(0, 0, 4, 1))
    hard, soft = (
        refine(raster, parcels, RefineOptions(rule=rule)).parcels for rule in ("hard", "soft")
    )
    assert hard["class"].tolist() == soft["class"].tolist() == ["1", "1"]
    assert hard["confidence"].tolist() == [1.0, 0.75]
    assert soft["confidence"].tolist() == pytest.approx([0.5, 0.375])
    assert ids_of(hard["runner_up"]) == [None, 0]
    assert soft["runner_up"].tolist() == ["2", "2"]


def test_the_rules_may_differ():
    # Two pixels are slightly for class 1, one is entirely for class 2.
    raster = likely([[[0, 0, 0]], [[0.5, 0.5, 0]], [[0.4, 0.4, 1]]])
    parcels = parcels_of(box(0, 0, 3, 1))
    assert refine(raster, parcels).parcels["class"].tolist() == ["1"]
    assert refine(raster, parcels, RefineOptions(rule="soft")).parcels["class"].tolist() == ["2"]


@pytest.mark.parametrize(
    ("rule", "share", "wins"),
    [("hard", 0.75, 1), ("hard", 0.76, 0), ("soft", 0.7, 1), ("soft", 0.71, 0)],
)
def test_the_background_must_pass_its_threshold(rule, share, wins):
    shares_NK = np.array([[share, 1 - share]])
    assert choose_classes(shares_NK, RefineOptions(rule=rule)).class_ids.tolist() == [wins]
    assert choose_classes(
        shares_NK, RefineOptions(rule=rule, min_background=0.9)
    ).class_ids.tolist() == [1]
    assert choose_classes(
        shares_NK, RefineOptions(rule=rule, min_background=0.5)
    ).class_ids.tolist() == [0]


def test_a_share_at_the_threshold_is_not_above_it_with_any_rounding():
    raster = raster_of(np.repeat([[0] * 9 + [1] * 3], 12, axis=0))
    for size in (3.0, 9.9, 10.0, 1 / 3):
        transform = Affine(size, 0, 500_000.1, 0, -size, 5_500_000.7)
        moved = ClassRaster(raster.classes_HW, GeoBox((12, 12), transform, CRS), raster.table)
        assert refine(moved, parcels_of(box(0, 0, 12, 12), transform=transform)).parcels[
            "class"
        ].tolist() == ["1"]


def test_the_background_may_be_another_class():
    raster = raster_of([[0, 0, 0, 3, 3, 3, 3]])
    parcels = parcels_of(box(0, 0, 7, 1))
    assert refine(raster, parcels).parcels["class"].tolist() == ["3"]
    found = refine(raster, parcels, RefineOptions(background=3))
    assert found.parcels["class"].tolist() == ["0"]
    outside = refine(raster, parcels_of(box(0, 0, 3, 1)), RefineOptions(background=3))
    assert outside.classes_HW.tolist() == [[0, 0, 0, 3, 3, 3, 3]]


def test_ties():
    raster, parcels = raster_of([[2, 3, 4, 4]]), parcels_of(box(0, 0, 2, 1), box(1, 0, 4, 1))
    higher, lower = (
        refine(raster, parcels, RefineOptions(ties=ties)).parcels for ties in ("higher", "lower")
    )
    assert higher["class"].tolist() == ["3", "4"]
    assert lower["class"].tolist() == ["2", "4"]
    assert higher["runner_up"].tolist() == ["2", "3"]
    assert higher["tied"].tolist() == lower["tied"].tolist() == [True, False]
    assert refine(raster, parcels).parcels["class"].tolist() == ["3", "4"]
    soft = RefineOptions(rule="soft")
    assert choose_classes(np.array([[0, 0.5, 0.5]]), soft).class_ids.tolist() == [1]
    assert choose_classes(
        np.array([[0, 0.5, 0.5]]), RefineOptions(rule="soft", ties="higher")
    ).class_ids.tolist() == [2]


def test_pixels_of_no_parcel():
    raster, parcels = (
        raster_of([[1, 2, 2, 255, 0, 0]]),
        parcels_of(box(0, 0, 2, 1), box(4, 0, 4.4, 1), box(3, 0, 4, 1)),
    )
    found = refine(raster, parcels)
    assert ids_of(found.parcels["class"]) == [2, 0, None]
    assert found.classes_HW.tolist() == [[2, 2, 0, 255, 0, 0]]
    assert refine(raster, parcels, RefineOptions(outside="keep")).classes_HW.tolist() == [
        [2, 2, 2, 255, 0, 0]
    ]


def test_later_parcels_cover_earlier_ones():
    raster = raster_of([[1, 1, 2, 3, 3]])
    wide, narrow = box(0, 0, 5, 1), box(1, 0, 2, 1)
    assert refine(raster, parcels_of(narrow, wide)).classes_HW.tolist() == [[3, 3, 3, 3, 3]]
    assert refine(raster, parcels_of(wide, narrow)).classes_HW.tolist() == [[3, 1, 3, 3, 3]]


def test_pixels_without_data_do_not_count():
    values = np.full((3, 1, 4), np.nan)
    values[:, 0, 0] = 0.0, 0.6, 0.4
    raster = likely(values)
    assert raster.classes_HW.tolist() == [[1, 255, 255, 255]]
    parcels = parcels_of(box(0, 0, 4, 1), box(2, 0, 4, 1))
    soft = refine(raster, parcels, RefineOptions(rule="soft")).parcels
    assert ids_of(soft["class"]) == [1, None]
    assert soft["confidence"].tolist() == pytest.approx([0.6, np.nan], nan_ok=True)
    assert refine(raster, parcels).parcels["confidence"].tolist() == pytest.approx(
        [0.25, np.nan], nan_ok=True
    )


def test_a_parcel_between_pixel_centres():
    raster, sliver = likely([[[0.1, 0.1]], [[0.9, 0.9]]]), parcels_of(box(0.6, 0, 0.9, 1))
    assert refine(raster, sliver).parcels["class"].tolist() == ["1"]
    assert ids_of(refine(raster, sliver, RefineOptions(rule="soft")).parcels["class"]) == [None]
    assert refine(raster, parcels_of(box(0.5, 0, 0.9, 1)), RefineOptions(rule="soft")).parcels[
        "class"
    ].tolist() == ["1"]


def test_the_soft_rule_needs_probabilities():
    with pytest.raises(ConfigError, match="The soft rule"):
        refine(raster_of([[1]]), None, RefineOptions(rule="soft"))


@pytest.mark.parametrize(
    "wrong", [{"min_background": 1.5}, {"min_background": float("nan")}, {"background": 255}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError):
        RefineOptions(**wrong)


# --- Properties ---


@st.composite
def rasters(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    values = draw(
        st.lists(
            st.sampled_from([0, 1, 2, NO_DATA_CLASS]),
            min_size=height * width,
            max_size=height * width,
        )
    )
    return np.reshape(values, (height, width)).astype(np.uint8)


@settings(max_examples=20, deadline=None)
@given(rasters())
def test_its_own_regions_change_nothing(classes_HW):
    raster = raster_of(classes_HW)
    found = refine(raster)
    np.testing.assert_array_equal(found.classes_HW, classes_HW)
    assert (found.parcels["confidence"] == 1).all()
    assert found.parcels["runner_up"].isna().all()
    assert found.parcels["area_ha"].sum() * 100 == pytest.approx(
        (classes_HW != NO_DATA_CLASS).sum()
    )
    if len(found.parcels):
        again = refine(raster, found.parcels, RefineOptions(outside="keep"))
        np.testing.assert_array_equal(again.classes_HW, classes_HW)


corners = st.tuples(st.floats(-3, 12, width=32), st.floats(-3, 12, width=32))


@settings(max_examples=40, deadline=None)
@given(rasters(), st.lists(corners, min_size=3, max_size=6), st.integers(1, 5))
def test_areas_add_up(classes_HW, ring, tile):
    outline = shapely.union_all(shapely.make_valid(Polygon(ring)).buffer(0.05))
    data_HW = classes_HW != NO_DATA_CLASS
    before, shares._TILE = shares._TILE, tile
    try:
        (found_K,) = area_shares(np.array([outline]), classes_HW, data_HW, 3) * outline.area
    finally:
        shares._TILE = before
    wanted_K = np.zeros(3)
    for row, column in zip(*np.nonzero(data_HW), strict=True):
        wanted_K[classes_HW[row, column]] += outline.intersection(
            box(column, row, column + 1, row + 1)
        ).area
    np.testing.assert_allclose(found_K, wanted_K, atol=1e-9)
    assert found_K.sum() <= outline.area * (1 + 1e-9)
    if data_HW.all():
        height, width = classes_HW.shape
        assert found_K.sum() == pytest.approx(
            outline.intersection(box(0, 0, width, height)).area, abs=1e-9
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_means_are_those_of_the_covered_pixels(seed):
    random = np.random.default_rng(seed)
    probabilities_KHW = random.dirichlet(np.ones(4), (7, 9)).transpose(2, 0, 1)
    outlines = shapely.buffer(
        shapely.points(random.uniform(-1, 10, (5, 2))), random.uniform(0.3, 4, 5)
    )
    found_NK = mean_probabilities(outlines, probabilities_KHW, np.ones((7, 9), bool))
    for outline, found_K in zip(outlines, found_NK, strict=True):
        inside = [
            (r, c) for r in range(7) for c in range(9) if outline.covers(Point(c + 0.5, r + 0.5))
        ]
        wanted_K = (
            np.mean([probabilities_KHW[:, r, c] for r, c in inside], axis=0)
            if inside
            else np.zeros(4)
        )
        np.testing.assert_allclose(found_K, wanted_K, atol=1e-12)
        assert found_K.sum() == pytest.approx(1.0 if inside else 0.0)


# --- Parcels of any kind ---


def test_hostile_parcels():
    raster = raster_of(np.repeat([[1] * 10 + [2] * 10], 20, axis=0))
    outlines = [
        box(1, 1, 9, 9),
        Polygon([(11, 1), (19, 9), (19, 1), (11, 9)]),  # crosses itself
        Polygon(
            [(1, 11), (9, 11), (9, 19), (1, 19), (1, 15), (-2, 15), (1, 15)]
        ),  # runs back on itself
        MultiPolygon([box(11, 11, 13, 13), box(15, 15, 18, 18)]),
        box(30, 30, 40, 40),  # outside
        box(18, 18, 25, 25),  # partly outside
        box(20, 0, 25, 5),  # touches the border from outside
    ]
    parcels = parcels_of(*outlines)
    nothing = gpd.GeoDataFrame(
        geometry=[None, Polygon(), LineString([(500_000, 5_500_000), (500_100, 5_499_900)])],
        crs=CRS,
    )
    mixed = gpd.GeoDataFrame(geometry=[*nothing.geometry, *parcels.geometry], crs=CRS)
    found = refine(raster, mixed)
    assert found.parcels["class"].tolist() == ["1", "2", "1", "2", "2"]
    assert found.left_out == 5
    assert found.parcels.is_valid.all()
    assert set(found.parcels.geom_type) <= {"Polygon", "MultiPolygon"}
    assert found.parcels["area_ha"].tolist() == pytest.approx([0.64, 0.32, 0.64, 0.13, 0.49])
    assert (found.classes_HW[:, :10] <= 1).all()


def test_a_file_of_hostile_parcels(tmp_path):
    bow = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    line = LineString([(500_000, 5_500_000), (500_100, 5_499_900)])
    for crs in (CRS, "EPSG:4326"):  # degrees have areas too
        given_ = gpd.GeoDataFrame(
            geometry=[None, Polygon(), line, *parcels_of(bow).geometry], crs=CRS
        ).to_crs(crs)
        given_.to_parquet(tmp_path / "register.parquet")
        found = refine(raster_of(np.ones((10, 10))), read_parcels(tmp_path / "register.parquet"))
        assert found.parcels["class"].tolist() == ["1"]
        assert found.parcels["area_ha"].tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32632"])
def test_parcels_in_other_coordinate_systems(crs):
    raster = raster_of(np.repeat([[1] * 10 + [2] * 10], 20, axis=0))
    parcels = parcels_of(box(1, 1, 9, 9), box(12, 1, 19, 19))
    found = refine(raster, parcels.to_crs(crs))
    assert found.parcels["class"].tolist() == ["1", "2"]
    np.testing.assert_array_equal(found.classes_HW, refine(raster, parcels).classes_HW)
    assert found.parcels.crs == CRS


def test_what_a_coordinate_system_cannot_hold():
    world = gpd.GeoDataFrame(
        geometry=[box(-170, -89, 170, 95), box(14.99, 49.6, 15.02, 49.66)], crs="EPSG:4326"
    )
    moved = world.to_crs("EPSG:3857")
    assert not np.isfinite(moved.total_bounds).all()
    assert shapely.is_empty(valid_outlines(moved)).tolist() == [True, False]
    grid = GeoBox((20, 20), Affine(100, 0, 1_668_900, 0, -100, 6_385_000), "EPSG:3857")
    found = refine(ClassRaster(np.full((20, 20), 3, np.uint8), grid, table_of(4)), world)
    assert (found.left_out, found.parcels["class"].tolist()) == (1, ["3"])


def test_a_raster_in_degrees_has_areas_in_hectares():
    grid = GeoBox((20, 20), Affine(0.001, 0, 15, 0, -0.001, 50), "EPSG:4326")
    found = refine(ClassRaster(np.full((20, 20), 3, np.uint8), grid, table_of(4)))
    assert found.parcels["area_ha"].sum() == pytest.approx(319, rel=0.01)


def test_no_parcel_on_the_raster_and_no_coordinate_system():
    with pytest.raises(ParcelsError, match="None of the 1 parcels"):
        refine(raster_of([[1]]), parcels_of(box(5, 5, 6, 6)))
    with pytest.raises(ParcelsError, match="None of the 0 parcels"):
        refine(raster_of([[1]]), parcels_of(box(0, 0, 1, 1)).iloc[:0])
    with pytest.raises(ParcelsError, match="coordinate system"):
        refine(raster_of([[1]]), parcels_of(box(0, 0, 1, 1)).set_crs(None, allow_override=True))


def test_columns_of_the_register_stay(tmp_path):
    raster = raster_of([[1, 1, 2, 2]])
    register = parcels_of(
        box(0, 0, 2, 1),
        box(2, 0, 4, 1),
        **{"id": [7, 8], "farm": ["a", "b"], "class": ["corn", "beet"]},
    )
    register = register.rename_geometry("outline")
    once = refine(raster, register).parcels
    assert once["id"].tolist() == ["7", "8"]
    assert once["farm"].tolist() == ["a", "b"]
    assert once["given_class"].tolist() == ["corn", "beet"]
    assert once["class"].tolist() == ["1", "2"]
    assert "outline" not in once.columns
    twice = refine(raster, once).parcels
    assert twice.columns.is_unique
    assert twice["given_class"].tolist() == ["1", "2"]
    write_geoparquet([twice], tmp_path / "parcels.parquet")
    assert read_parcels(tmp_path / "parcels.parquet")["class"].tolist() == ["1", "2"]


# --- Rasters on disk ---


def write(path, values, *, nodata=None, scale=None, crs=CRS, transform=TRANSFORM, names=()):
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
    }
    with rasterio.open(
        path, "w", **profile, dtype=values.dtype, nodata=nodata, crs=crs, transform=transform
    ) as target:
        target.write(values)
        if scale:
            target.scales = [scale] * len(values)
        for number, name in enumerate(names, 1):
            target.set_band_description(number, name)
    return path


def test_a_raster_of_a_map_comes_back(tmp_path):
    classes_HW = np.array(
        [[0, 5, 5], [255, 8, 5]], np.uint8
    )  # two rows, three columns: neither is taken for the other
    grid = GeoBox((2, 3), TRANSFORM, CRS)
    write_class_raster(tmp_path / "classes.tif", classes_HW, grid, PASTIS)
    found = read_class_raster(tmp_path / "classes.tif")
    np.testing.assert_array_equal(found.classes_HW, classes_HW)
    assert found.grid == grid
    assert found.probabilities is None
    assert found.table.name == "PASTIS"
    assert [(entry.id, entry.name, entry.colour) for entry in found.table.classes] == [
        (entry.id, entry.name, entry.colour) for entry in PASTIS.classes
    ]
    with rasterio.open(tmp_path / "classes.tif") as source:
        assert (source.height, source.width, source.transform) == (2, 3, TRANSFORM)
        assert source.index(500_025, 5_499_995) == (0, 2)


def test_a_raster_without_names(tmp_path):
    found = read_class_raster(
        write(tmp_path / "a.tif", np.array([[0, 3], [9, 9]], np.int16), nodata=9)
    )
    assert found.classes_HW.tolist() == [[0, 3], [255, 255]]
    assert [(entry.id, entry.name, entry.kind) for entry in found.table.classes] == [
        (0, "background", "stuff"),
        (3, "class 3", "thing"),
    ]


@pytest.mark.parametrize("tag", ["255", "9999999999", "9" * 5000])
def test_names_of_impossible_classes_are_no_classes(tmp_path, tag):
    path = write(tmp_path / "a.tif", np.array([[0, 3]], np.uint8))
    with rasterio.open(path, "r+") as source:
        source.update_tags(1, **{"3": "corn", tag: "huge"})
    table = read_class_raster(path).table
    assert [(entry.id, entry.name) for entry in table.classes] == [(0, "background"), (3, "corn")]


def test_classes_are_read_in_strips(tmp_path, monkeypatch):
    """Numbers of eight bytes never lie in memory all at once; the last strip is a part of one."""
    values_HW = np.random.default_rng(0).integers(0, 9, (7, 5), np.int64)
    path = write(tmp_path / "a.tif", values_HW, nodata=4)
    windows = []
    monkeypatch.setattr(class_raster, "STRIP_PIXELS", 15)
    monkeypatch.setattr(
        class_raster, "Window", lambda *given: windows.append(given) or Window(*given)
    )
    found = read_class_raster(path)
    assert windows == [(0, 0, 5, 3), (0, 3, 5, 3), (0, 6, 5, 1)]
    np.testing.assert_array_equal(found.classes_HW, np.where(values_HW == 4, 255, values_HW))
    assert [entry.id for entry in found.table.classes] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_no_data_that_is_the_background_is_background(tmp_path):
    path = write(tmp_path / "a.tif", np.array([[0, 3]], np.uint8), nodata=0)
    assert read_class_raster(path).classes_HW.tolist() == [[0, 3]]
    assert read_class_raster(path, background=3).classes_HW.tolist() == [[255, 3]]


def test_a_raster_that_stands_for_another_is_not_opened(tmp_path):
    classes_HW = np.array([[0, 3]], np.uint8)
    write(tmp_path / "a.tif", classes_HW)
    virtual = tmp_path / "b.tif"
    with rasterio.open(tmp_path / "a.tif") as source, WarpedVRT(source) as warped:
        rasterio.shutil.copy(warped, virtual, driver="VRT")
    with pytest.raises(RasterError, match=r"only refers to other files.*--allow-virtual"):
        read_class_raster(virtual)
    found = read_class_raster(virtual, allow_virtual=True)
    np.testing.assert_array_equal(found.classes_HW, classes_HW)


def test_probabilities_on_disk(tmp_path):
    probabilities_KHW = np.array([[[0.25, 0, 0]], [[0.75, 0.5, 0]], [[0, 0.5, 0]]], np.float32)
    names = ("nothing", "corn", "beet")
    plain = read_class_raster(write(tmp_path / "a.tif", probabilities_KHW, nodata=0.0, names=names))
    whole = (probabilities_KHW * 200).astype(np.uint8)
    scaled = read_class_raster(
        write(tmp_path / "b.tif", whole, scale=1 / 200, nodata=0, names=names)
    )
    for found in (plain, scaled):
        assert found.classes_HW.tolist() == [[1, 1, 255]]
        assert [entry.name for entry in found.table.classes] == list(names)
        np.testing.assert_allclose(
            list(found.probabilities), np.where([[[0, 0, 1]]], np.nan, probabilities_KHW), atol=1e-6
        )
        np.testing.assert_allclose(
            list(found.probabilities)[1][0, 0], 0.75, atol=1e-6
        )  # read once more
        table = refine(found, parcels_of(box(0, 0, 2, 1)), RefineOptions(rule="soft")).parcels
        assert table["class"].tolist() == ["corn"]
        assert table["confidence"].tolist() == pytest.approx([0.625])


def labels(**options):
    return lambda path: write(path, np.ones((4, 4), np.uint8), **options)


def truncated(path):
    write(path, np.random.default_rng(0).integers(0, 9, (99, 99), np.uint8))
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, "is not a file"),
        (lambda path: path.write_bytes(b"II*\0 is no whole file"), "cannot be read"),
        (truncated, "cannot be read"),
        (labels(crs=None), "no coordinate system"),
        (lambda path: write(path, np.ones((4, 4), np.float32)), "one band of float32"),
        (lambda path: write(path, np.full((4, 4), 300, np.int16)), "classes 300 to 300"),
        (lambda path: write(path, np.full((4, 4), -1, np.int16)), "classes -1"),
        (lambda path: write(path, np.ones((256, 2, 2), np.uint8)), "256 bands"),
        # The published export: its first band holds classes.
        (
            lambda path: write(path, np.stack([np.full((2, 2), 7.0), np.ones((2, 2))])),
            "The band of class 0 has values from 7 to 7",
        ),
        (lambda path: write(path, np.full((2, 2, 2), -0.5, np.float32)), "-0.5"),
        (
            lambda path: write(path, np.array([[[0.5]], [[np.nan]]], np.float32)),
            "NaN in some bands only",
        ),
    ],
)
def test_rasters_that_cannot_be_used(tmp_path, make, words):
    make(tmp_path / "a.tif")
    with pytest.raises(RasterError, match=words):
        read_class_raster(tmp_path / "a.tif")


def test_a_raster_too_large_to_hold_is_refused_by_its_header(tmp_path):
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": 15_000,
        "width": 15_000,
        "dtype": "uint8",
        "sparse_ok": True,
    }
    with rasterio.open(
        tmp_path / "a.tif", "w", **profile, crs=CRS, transform=TRANSFORM, tiled=True
    ):
        pass
    with pytest.raises(RasterError, match="15000 x 15000 pixels, more than 150,000,000"):
        read_class_raster(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "matrix",
    [
        [[10, 1, 500], [2, -10, 600]],
        [[10, 1, 500], [2, -10, 600], [0, 0, 1]],
        [[10, 2], [1, -10], [500, 600]],
        [[10, 2, 0], [1, -10, 0], [500, 600, 1]],
    ],
)
def test_transforms_are_read_as_written_or_transposed(matrix):
    assert affine_of(matrix) == Affine(10, 1, 500, 2, -10, 600)
    assert affine_of(np.array(matrix)) == Affine(10, 1, 500, 2, -10, 600)


@pytest.mark.parametrize(
    "matrix", [[[1, 2]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]], [1, 2, 3, 4, 5, 6]]
)
def test_matrices_that_are_no_transform(matrix):
    with pytest.raises(RasterError, match="The transform"):
        affine_of(matrix)


def test_pixels_and_map_undo_each_other():
    transform = Affine(10, 1, 500, 2, -10, 600)
    outlines = np.array([box(0, 0, 3, 4), box(-1, 2, 5.5, 7)], dtype=object)
    back = to_pixels(to_map(outlines, transform), transform)
    assert shapely.equals_exact(back, outlines, 1e-9).all()


# --- The command ---


def map_folder(folder):
    folder.mkdir()
    classes_HW = np.repeat([[5] * 6 + [8] * 6], 8, axis=0).astype(np.uint8)
    write_class_raster(folder / "classes.tif", classes_HW, GeoBox((8, 12), TRANSFORM, CRS), PASTIS)
    return folder


def test_the_command(tmp_path, capsys):
    folder = map_folder(tmp_path / "map")
    outlines = box(0, 0, 8, 4), box(2, 4, 10, 8), box(20, 20, 30, 30)
    parcels_of(*outlines, code=["x", "y", "z"]).to_file(tmp_path / "register.gpkg")
    options = ["--parcels", str(tmp_path / "register.gpkg")]
    assert main(["refine", str(folder), *options, "--out", str(tmp_path / "refined")]) == 0
    text = capsys.readouterr().out
    assert "1 parcels lie outside" in text
    assert "1 parcels have two classes" in text
    assert "2 parcels, 0.6 ha" in text
    assert sorted(path.name for path in (tmp_path / "refined").iterdir()) == [
        "classes.tif",
        "parcels.parquet",
    ]
    parcels = gpd.read_parquet(tmp_path / "refined" / "parcels.parquet")
    assert parcels["class"].tolist() == ["winter rapeseed", "grapevine"]
    assert parcels["crop:code"].tolist() == ["5", "8"]
    assert parcels["code"].tolist() == ["x", "y"]
    refined = read_class_raster(tmp_path / "refined" / "classes.tif")
    assert refined.table.name == "PASTIS"
    assert refined.classes_HW[0].tolist() == [5] * 8 + [0] * 4
    assert refined.classes_HW[7].tolist() == [0] * 2 + [8] * 8 + [0] * 2
    keep = ["--outside", "keep", "--ties", "lower", "--out", str(tmp_path / "kept")]
    assert main(["refine", str(folder / "classes.tif"), *options, *keep]) == 0
    kept_HW = read_class_raster(tmp_path / "kept" / "classes.tif").classes_HW
    assert kept_HW[0].tolist() == [5] * 8 + [8] * 4
    assert kept_HW[7].tolist() == [5] * 10 + [8] * 2


def test_the_soft_command(tmp_path, capsys):
    probabilities_KHW = np.array([[[0.5, 0.5]], [[0.1, 0.3]], [[0.4, 0.2]]], np.float32)
    write(tmp_path / "p.tif", probabilities_KHW, names=("nothing", "corn", "beet"))
    arguments = ["refine", str(tmp_path / "p.tif"), "--rule", "soft", "--out"]
    parcels_of(box(0, 0, 2, 1)).to_file(tmp_path / "register.geojson", driver="GeoJSON")
    register = ["--parcels", str(tmp_path / "register.geojson")]
    assert main([*arguments, str(tmp_path / "a"), *register]) == 0
    assert gpd.read_parquet(tmp_path / "a" / "parcels.parquet")["class"].tolist() == ["beet"]
    assert main([*arguments, str(tmp_path / "b"), "--min-background", "0.4"]) == 0
    assert gpd.read_parquet(tmp_path / "b" / "parcels.parquet")["class"].tolist() == ["nothing"]
    assert read_class_raster(tmp_path / "b" / "classes.tif").classes_HW.tolist() == [[0, 0]]
    assert "no class" not in capsys.readouterr().out


def test_shares_of_each_class_add_up_to_the_data():
    raster = raster_of([[1, 1, 2, 255], [1, 3, 2, 255]])
    parcels = refine(raster, parcels_of(box(0, 0, 2, 2), box(1, 0, 4, 2), box(2, 0, 3, 2))).parcels
    columns = [name for name in parcels.columns if name.startswith("share:")]
    assert columns == ["share:1", "share:2", "share:3"]
    expected = [[3 / 4, 0, 1 / 4], [1 / 6, 2 / 6, 1 / 6], [0, 1, 0]]
    assert parcels[columns].to_numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert parcels["confidence"].tolist() == pytest.approx([3 / 4, 2 / 6, 1])


def test_the_soft_rule_gives_mean_probabilities_of_each_class():
    parcels = refine(
        likely([[[0.5, 0.3]], [[0.5, 0.1]], [[0.0, 0.6]]]), None, RefineOptions(rule="soft")
    ).parcels
    found = refine(
        likely([[[0.5, 0.3]], [[0.5, 0.1]], [[0.0, 0.6]]]),
        parcels_of(box(0, 0, 2, 1)),
        RefineOptions(rule="soft"),
    ).parcels
    assert found[["probability:0", "probability:1", "probability:2"]].to_numpy() == pytest.approx(
        np.array([[0.4, 0.3, 0.3]])
    )
    assert not [name for name in parcels.columns if name.startswith("share:")]


def test_the_soft_rule_on_a_map_goes_by_its_confidence(tmp_path):
    """Four pixels of rapeseed at 30 %, two of grapevine at 80 %: the majority is of one, the
    probability of the other.
    """
    folder = tmp_path / "map"
    folder.mkdir()
    classes_HW = np.array([[5, 5, 5, 5, 8, 8, 0, 255]], np.uint8)
    write_class_raster(folder / "classes.tif", classes_HW, GeoBox((1, 8), TRANSFORM, CRS), PASTIS)
    write(
        folder / "confidence.tif", np.array([[30] * 4 + [80] * 2 + [255] * 2], np.uint8), nodata=255
    )
    parcels_of(box(0, 0, 6, 1), box(5, 0, 8, 1)).to_file(tmp_path / "register.gpkg")
    for rule, names in (
        ("hard", ["winter rapeseed", "grapevine"]),
        ("soft", ["grapevine", "grapevine"]),
    ):
        options = [
            "--rule",
            rule,
            "--parcels",
            str(tmp_path / "register.gpkg"),
            "--out",
            str(tmp_path / f"{rule}.parquet"),
        ]
        assert main(["refine", str(folder), *options]) == 0
        assert gpd.read_parquet(tmp_path / f"{rule}.parquet")["class"].tolist() == names
    soft = gpd.read_parquet(tmp_path / "soft.parquet")
    of_each = [[(4 * 0.7 + 2 * 0.2) / 6, 4 * 0.3 / 6, 2 * 0.8 / 6], [(0.2 + 1) / 2, 0, 0.4]]
    names = ["background", "winter rapeseed", "grapevine"]
    assert soft[[f"probability:{name}" for name in names]].to_numpy() == pytest.approx(
        np.array(of_each), abs=1e-6
    )
    write(folder / "confidence.tif", np.array([[30]], np.uint8))
    with pytest.raises(RasterError, match="does not have the same pixels"):
        refine_file(folder, None, tmp_path / "out", RefineOptions(rule="soft"))


def test_the_table_alone(tmp_path, capsys):
    folder, out = map_folder(tmp_path / "map"), tmp_path / "new" / "parcels.parquet"
    assert main(["refine", str(folder), "--out", str(out)]) == 0
    assert f"in {out}" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["parcels.parquet"]
    assert gpd.read_parquet(out)["share:grapevine"].tolist() == [0, 1]
    before = out.read_bytes()
    assert main(["refine", str(folder), "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rule", "soft"], "the raster has classes only"),
        (["--parcels", "absent.gpkg"], "does not exist"),
        (["--min-background", "7"], "--min-background must be from 0 to 1, not 7"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(tmp_path, capsys, options, words):
    folder = map_folder(tmp_path / "map")
    assert main(["refine", str(folder), *options, "--out", str(tmp_path / "refined")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "refined").exists()


def test_a_folder_in_use_is_left_alone(tmp_path, capsys):
    folder = map_folder(tmp_path / "map")
    before = (folder / "classes.tif").read_bytes()
    assert main(["refine", str(folder), "--out", str(folder)]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["classes.tif"]
    assert (folder / "classes.tif").read_bytes() == before


def test_a_real_register_on_a_real_raster(real_data):
    # Majority over a pixelwise crop map; the register's own columns are kept.
    flanders = real_data / "flanders-2019"
    found = refine(
        read_class_raster(flanders / "land_cover.tif"), read_parcels(flanders / "parcels.gpkg")
    )
    assert len(found.parcels) + found.left_out == 19
    assert found.parcels["class"].notna().sum() > 10
    assert "crop_code" in found.parcels.columns
    assert found.parcels["given_area_ha"].tolist() == pytest.approx(
        found.parcels["area_ha"].tolist(), abs=0.011
    )


def test_refining_from_python(tmp_path):
    folder = map_folder(tmp_path / "map")
    found = refine_file(folder, None, tmp_path / "out")
    assert len(found.parcels) == 2
    assert found.left_out == 0
