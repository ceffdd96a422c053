"""Outlines that anybody drew -> areas and grids; every bad one is one line."""

from __future__ import annotations

import json
import zipfile

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import CRS
from shapely.geometry import mapping

from panoseg.errors import AreaError
from panoseg.imagery.area import grid_of, inside_mask, may_intersect, read_area, utm_zone

FARM = shapely.box(4.0, 50.0, 4.02, 50.01)


def write(path, *geometries, crs=None):
    """A GeoJSON of these outlines."""
    features = [
        {"type": "Feature", "properties": {}, "geometry": mapping(geometry)}
        for geometry in geometries
    ]
    value = {"type": "FeatureCollection", "features": features}
    if crs:
        value["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(value))
    return path


KML = """<?xml version="1.0" encoding="UTF-8"?>
<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Placemark><name>farm</name><Polygon><outerBoundaryIs><LinearRing>
<coordinates>4.0,50.0,0 4.02,50.0,0 4.02,50.01,0 4.0,50.01,0 4.0,50.0,0</coordinates></LinearRing></outerBoundaryIs>
<innerBoundaryIs><LinearRing><coordinates>4.005,50.002 4.01,50.002 4.01,50.004 4.005,50.002</coordinates></LinearRing>
</innerBoundaryIs></Polygon></Placemark></Document></kml>"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same farm in every format."""
    folder = tmp_path_factory.mktemp("outlines")
    table = gpd.GeoDataFrame({"name": ["farm"]}, geometry=[FARM], crs=4326)
    write(folder / "farm.geojson", FARM)
    (folder / "bare.json").write_text(json.dumps(mapping(FARM)))
    write(
        folder / "metres.geojson",
        table.to_crs(32631).geometry.iloc[0],
        crs="urn:ogc:def:crs:EPSG::32631",
    )
    table.to_crs(3035).to_file(folder / "farm.gpkg", driver="GPKG")
    table.to_crs(2154).to_file(folder / "farm.shp")
    with zipfile.ZipFile(folder / "farm.zip", "w") as archive:
        for path in folder.glob("farm.[sdp][hbr]*"):
            archive.write(path, f"fields/{path.name}")
    (folder / "farm.kml").write_text(KML)
    with zipfile.ZipFile(folder / "farm.kmz", "w") as archive:
        archive.writestr("doc.kml", KML)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "farm.geojson",
        "bare.json",
        "metres.geojson",
        "farm.gpkg",
        "farm.shp",
        "farm.zip",
        "farm.kml",
        "farm.kmz",
    ],
)
def test_every_format_gives_the_same_land(files, name):
    area = read_area(files / name)
    hole = (
        shapely.Polygon([(4.005, 50.002), (4.01, 50.002), (4.01, 50.004)])
        if "km" in name
        else shapely.Polygon()
    )
    difference = shapely.area(area.outline.symmetric_difference(FARM.difference(hole)))
    assert difference < 1e-3 * FARM.area
    assert area.name in ("farm", "bare", "metres")
    assert area.notes == ()


def kml(*boundaries: str) -> str:
    """A KML of one polygon."""
    polygon = "".join(boundaries)
    return (
        "<kml"
        f' xmlns="http://www.opengis.net/kml/2.2"><Placemark><Polygon>{polygon}</Polygon></Placemark></kml>'
    )


def boundary(kind: str, *boxes) -> str:
    rings = (" ".join(f"{x},{y},0" for x, y in box.exterior.coords) for box in boxes)
    return f"<{kind}>{''.join(f'<LinearRing><coordinates>{ring}</coordinates></LinearRing>' for ring in rings)}</{kind}>"


def test_boundaries_of_a_kml_polygon_have_names_and_no_order(tmp_path):
    pond, yard = shapely.box(4.002, 50.002, 4.004, 50.004), shapely.box(4.01, 50.002, 4.012, 50.004)
    path = tmp_path / "farm.kml"
    path.write_text(kml(boundary("innerBoundaryIs", pond, yard), boundary("outerBoundaryIs", FARM)))
    left = read_area(path).outline.symmetric_difference(FARM.difference(pond).difference(yard))
    assert left.area < 1e-9 * FARM.area
    for boundaries, words in (
        ([boundary("innerBoundaryIs", pond)], "no outline"),
        ([boundary("outerBoundaryIs", FARM, pond)], "two outer boundaries"),
    ):
        path.write_text(kml(*boundaries))
        with pytest.raises(AreaError, match=words):
            read_area(path)


@pytest.mark.parametrize(
    ("place", "meets"),
    [
        (FARM, True),
        (shapely.box(5, 50, 6, 51), False),
        (None, True),
        (shapely.Polygon(), True),
        (shapely.box(-179.9, 50, 179.9, 51), True),  # jumps over the date line
        (
            shapely.union_all([shapely.box(179, 50, 180, 51), shapely.box(-180, 50, -179, 51)]),
            False,
        ),  # is cut there
        (shapely.Polygon([(3, 49), (5, 51), (5, 49), (3, 51)]), True),  # crosses itself
    ],
)
def test_whether_a_scene_may_show_some_land(place, meets):
    assert may_intersect(place, FARM) is meets


def test_areas_are_measured_on_the_ellipsoid(tmp_path):
    equator = read_area(write(tmp_path / "a.geojson", shapely.box(10, 0, 10.1, 0.1)))
    north = read_area(write(tmp_path / "b.geojson", shapely.box(10, 60, 10.1, 60.1)))
    assert equator.km2 == pytest.approx(111.32 / 10 * 110.57 / 10, rel=1e-3)
    assert north.km2 == pytest.approx(equator.km2 * 0.5, rel=2e-2)


def test_an_outline_that_crosses_itself_is_mended_and_said_so(tmp_path):
    bow = shapely.Polygon([(4, 50), (4.02, 50.02), (4.02, 50), (4, 50.02)])
    area = read_area(write(tmp_path / "bow.geojson", bow))
    assert area.outline.is_valid
    assert "cross themselves" in area.notes[0]
    assert area.outline.area == pytest.approx(0.02 * 0.02 / 2)


@pytest.mark.parametrize(
    ("outlines", "words"),
    [
        ([], "holds no outline"),
        ([shapely.Polygon()], "holds no outline"),
        ([shapely.Point(4, 50)], "holds 1 Point"),
        ([shapely.LineString([(4, 50), (5, 51)]), shapely.Point(4, 50)], "1 LineString, 1 Point"),
        ([shapely.box(4, 50, 4.0001, 50.0001)], "encloses 80 m2"),
        ([shapely.box(4, 50, 4, 51)], "encloses 0 m2"),
        ([shapely.box(400_000, 5_000_000, 410_000, 5_010_000)], "do not exist in WGS 84"),
        ([shapely.box(4, 80, 5, 86)], "reaches a pole"),
        ([shapely.Polygon([(0, 70), (120, 70), (-120, 80)])], "runs around a pole"),
    ],
)
def test_bad_outlines_are_one_line(tmp_path, outlines, words):
    with pytest.raises(AreaError, match=words) as caught:
        read_area(write(tmp_path / "bad.geojson", *outlines))
    assert "\n" not in str(caught.value)


def zipped(path, **entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def hostile(folder, kind):
    """A file that is no outline, or means harm."""
    path = folder / "outline.bin"
    bomb = '<!DOCTYPE k [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    match kind:
        case "missing":
            return folder / "gone.geojson"
        case "folder":
            return folder
        case "empty":
            path.write_bytes(b"")
        case "cut off":
            path.write_text('{"type": "FeatureCollection", "features": [')
        case "deep":
            path.write_text('{"a":' * 100_000)
        case "xml bomb":
            path.write_text(KML.replace("<kml", f"{bomb}<kml"))
        case "xml bomb in UTF-16":
            path.write_bytes(
                ("<?xml version='1.0' encoding='utf-16'?>" + bomb + "<kml/>").encode("utf-16-be")
            )
        case "other xml":
            path.write_text("<html><body/></html>")
        case "virtual":
            path.write_text("<OGRVRTDataSource><OGRVRTLayer/></OGRVRTDataSource>")
        case "climbing":
            zipped(path, **{"../../farm.kml": KML})
        case "absolute":
            zipped(path, **{"/etc/farm.kml": KML})
        case "two":
            zipped(path, **{"a.kml": KML, "b.kml": KML})
        case "none":
            zipped(path, **{"readme.txt": "hello"})
        case "zip bomb":
            zipped(path, **{"farm.kml": " " * (65 * 1024**2)})
        case "zip in zip":
            zipped(
                path,
                **{"farm.geojson": zipped(folder / "inner.zip", **{"farm.kml": KML}).read_bytes()},
            )
        case "large":
            with path.open("wb") as file:
                file.truncate(65 * 1024**2)
        case "two layers":
            table = gpd.GeoDataFrame(geometry=[FARM], crs=4326)
            path = folder / "two.gpkg"
            table.to_file(path, layer="a")
            table.to_file(path, layer="b")
        case "no coordinate system":
            gpd.GeoDataFrame({"a": [1]}, geometry=[FARM]).to_file(folder / "farm.shp")
            return folder / "farm.shp"
        case "infinite":
            path.write_text(
                '{"type": "Polygon", "coordinates": [[[1e999, 0], [1, 1], [0, 1], [1e999, 0]]]}'
            )
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("folder", "holds no file of outlines"),
        ("empty", "it is empty"),
        ("cut off", "cannot be read"),
        ("deep", "cannot be read"),
        ("xml bomb", "declares XML entities"),
        ("xml bomb in UTF-16", "declares XML entities"),
        ("other xml", "of the kind 'html'"),
        ("virtual", "only refers to other files"),
        ("climbing", "a path out of its folder"),
        ("absolute", "a path out of its folder"),
        ("two", r"holds 2 files of outlines \(a, b\).* --layer"),
        ("none", "holds no file of outlines"),
        ("zip bomb", "unpacks to more than 64 MiB"),
        ("zip in zip", "is an archive in an archive"),
        ("large", "has 65 MiB"),
        ("two layers", r"has 2 layers of polygons \(a, b\).* --layer a"),
        ("no coordinate system", "has no coordinate system.*--crs"),
        ("infinite", "not finite"),
    ],
)
def test_files_that_are_no_outline_or_mean_harm_are_one_line(tmp_path, kind, words):
    with pytest.raises(AreaError, match=words) as caught:
        read_area(hostile(tmp_path, kind))
    assert "\n" not in str(caught.value)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"{", b"<kml>", b"PK\x03\x04", b"SQLite format 3\0", b"\0\0\x27\x0a"]),
)
def test_any_bytes_are_one_line(tmp_path, content, head):
    (tmp_path / "any").write_bytes(head + content)
    with pytest.raises(AreaError):
        read_area(tmp_path / "any")


@pytest.mark.parametrize(
    ("outline", "epsg"),
    [
        (shapely.box(4, 50, 4.1, 50.1), 32631),
        (shapely.box(5.9, 50, 6.05, 50.1), 32631),  # over two zones: the larger share decides
        (shapely.box(5.95, 50, 6.1, 50.1), 32632),
        (shapely.box(4, -0.02, 4.1, 0.01), 32731),  # and over the equator
        (shapely.box(5.0, 60, 5.1, 60.1), 32632),  # Norway's exception
        (shapely.box(8.0, 78, 8.1, 78.1), 32631),  # Svalbard's
        (shapely.box(10.0, 78, 10.1, 78.1), 32633),
    ],
)
def test_the_zone_of_an_area(outline, epsg):
    assert utm_zone(outline).to_epsg() == epsg


@pytest.mark.parametrize(
    "outline",
    [
        shapely.box(179.9, -17, 180.05, -16.9),  # goes on beyond 180
        shapely.Polygon([(179.9, -17), (-179.95, -17), (-179.95, -16.9), (179.9, -16.9)]),  # jumps
        shapely.MultiPolygon(
            [shapely.box(179.9, -17, 180, -16.9), shapely.box(-180, -17, -179.95, -16.9)]
        ),  # is cut there
    ],
)
def test_an_area_over_the_date_line_is_one_grid(tmp_path, outline):
    area = read_area(write(tmp_path / "fiji.geojson", outline))
    assert area.km2 == pytest.approx(11.06 * 15.96, rel=1e-2)
    assert area.outline.bounds[0] == -180
    grid = grid_of(area)
    assert str(grid.crs) == "EPSG:32760"
    assert grid.shape[0] * grid.shape[1] / 1e4 == pytest.approx(area.km2, rel=0.05)
    assert inside_mask(area.outline, grid).sum() / 1e4 == pytest.approx(area.km2, rel=0.01)


def test_grids_nest_with_those_of_the_scenes_and_cover_the_area(tmp_path):
    scene = GeoBox.from_bbox((574680, 5621800, 575320, 5622440), "EPSG:32631", resolution=10)
    area = read_area(write(tmp_path / "a.geojson", scene.extent.to_crs("EPSG:4326").geom))
    assert grid_of(area) == scene  # a box on the grid stays that box, for any edges on the globe
    wide = grid_of(area, margin_m=50)
    assert [float(side) % 20 for side in wide.boundingbox] == [0] * 4
    assert wide.shape == (64 + 12, 64 + 12)
    assert inside_mask(area.outline, wide).sum() == 64 * 64


def test_a_tiny_outline_gets_land_around_it(tmp_path):
    area = read_area(write(tmp_path / "a.geojson", shapely.box(4, 50, 4.0004, 50.0003)))
    grid = grid_of(area)
    assert min(grid.shape) >= 32
    assert 0 < inside_mask(area.outline, grid).sum() < 20


def test_an_area_too_wide_for_a_zone_is_refused(tmp_path):
    with pytest.raises(AreaError, match="from the middle of its UTM zone"):
        grid_of(read_area(write(tmp_path / "europe.geojson", shapely.box(-10, 40, 30, 60))))


@settings(max_examples=50, deadline=None)
@given(st.floats(-179, 179), st.floats(-75, 80), st.floats(0.001, 0.3), st.floats(0.001, 0.3))
def test_every_area_lies_inside_its_grid(tmp_path_factory, west, south, width, height):
    outline = shapely.box(west, south, west + width, south + height)
    area = read_area(write(tmp_path_factory.mktemp("area") / "a.geojson", outline))
    grid = grid_of(area)
    assert np.allclose([grid.resolution.x, grid.resolution.y], [10, -10])
    back = gpd.GeoSeries([grid.extent.geom], crs=CRS.from_wkt(grid.crs.to_wkt())).to_crs(4326)
    assert abs(back.iloc[0].centroid.y - outline.centroid.y) < 0.01
    inside_HW = inside_mask(area.outline, grid)
    half_a_pixel_around_km2 = 2 * (width + height) * 111 * 0.006
    assert inside_HW.sum() / 1e4 == pytest.approx(area.km2, rel=0.02, abs=half_a_pixel_around_km2)
