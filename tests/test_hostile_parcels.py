"""Parcels in files that are damaged, mislabelled or made to harm: one line, or a sensible result
where they are untidy.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from shapely import GeometryCollection, LineString, Point, Polygon, box

from cubes import LEFT, TOP, make_cube
from mapping_weights import tiny_weights
from panoseg.cli import main
from panoseg.errors import PanosegError
from panoseg.maps import MapOptions
from panoseg.maps.compare import compare_files
from panoseg.maps.mapping import map_cube
from panoseg.models.weights import save_weights

SQUARES = [box(LEFT + 100 * i, TOP - 100, LEFT + 100 * i + 90, TOP - 10) for i in range(3)]
MANY = struct.pack("<I", 2**31 - 1)


def table(*outlines, crs="EPSG:32631", **columns) -> gpd.GeoDataFrame:
    """Parcels of corn; three squares unless told."""
    outlines = outlines or SQUARES
    return gpd.GeoDataFrame(
        {"class": "corn", **columns}, geometry=list(outlines), crs=crs, index=range(len(outlines))
    )


def write(parcels: gpd.GeoDataFrame, path: Path, **options) -> None:
    if path.suffix == ".parquet":
        parcels.to_parquet(path)
    else:
        parcels.to_file(path, **options)


def of(*outlines, crs="EPSG:32631") -> Callable[[Path], None]:
    return lambda path: write(table(*outlines, crs=crs), path)


def with_corner(value: float) -> Callable[[Path], None]:
    return lambda path: write(
        table(*SQUARES[:2], Polygon([(LEFT, TOP), (LEFT + 90, value), (LEFT + 90, TOP)])), path
    )


def cut(path: Path) -> None:
    write(table().to_crs(4326) if path.suffix == ".geojson" else table(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def two_layers(path: Path) -> None:
    write(table(), path, layer="fields")
    write(table(), path, layer="declared")


def with_styles(path: Path) -> None:
    write(table(), path, layer="fields")
    pyogrio.write_dataframe(pd.DataFrame({"style": ["green"]}), path, layer="layer_styles")


def geo(**changes) -> Callable[[Path], None]:
    """GeoParquet whose metadata of the geometry column say something else."""

    def make(path: Path) -> None:
        write(table(), path)
        content = pq.read_table(path)
        about = json.loads(content.schema.metadata[b"geo"])
        about["columns"]["geometry"].update(changes)
        pq.write_table(content.replace_schema_metadata({b"geo": json.dumps(about).encode()}), path)

    return make


def many_vertices(path: Path) -> None:
    """The first outline announces two thousand million vertices and has five."""
    write(table(), path)
    if path.suffix == ".parquet":
        content = pq.read_table(path)
        outlines = content["geometry"].to_pylist()
        outlines[0] = outlines[0][:9] + MANY + outlines[0][13:]
        place = content.schema.get_field_index("geometry")
        pq.write_table(
            content.set_column(place, content.schema.field(place), pa.array(outlines, pa.binary())),
            path,
        )
        return
    change_gpkg(
        path,
        lambda blob: blob.replace(
            b"\x01\x03\x00\x00\x00\x01\x00\x00\x00\x05\x00\x00\x00", blob[40:49] + MANY
        ),
    )


def change_gpkg(path: Path, change: Callable[[bytes], bytes] | str) -> None:
    """Change the first outline, or run a statement, without the triggers that would notice."""
    with sqlite3.connect(path) as file:
        for (name,) in file.execute(
            "select name from sqlite_master where type = 'trigger'"
        ).fetchall():
            file.execute(f'drop trigger "{name}"')
        if isinstance(change, str):
            file.executescript(change)
        else:
            [blob] = file.execute(
                "select geom from [table] where fid = 1".replace("[table]", path.stem)
            ).fetchone()
            changed = change(blob)
            assert changed != blob
            file.execute(f'update "{path.stem}" set geom = ? where fid = 1', [changed])
    file.close()


def no_plane(path: Path) -> None:
    write(table(), path)
    change_gpkg(
        path, "update gpkg_geometry_columns set srs_id = -1; update gpkg_contents set srs_id = -1"
    )


def raster(path: Path) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8", crs="EPSG:32631"
    ) as file:
        file.write(np.zeros((1, 4, 4), np.uint8))


def reference(path: Path) -> None:
    write(table(), path.with_name("secret.shp"))
    source = f"<SrcDataSource>{path.with_name('secret.shp')}</SrcDataSource>"
    path.write_text(
        f'<OGRVRTDataSource><OGRVRTLayer name="secret">{source}</OGRVRTLayer></OGRVRTDataSource>'
    )


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "nothing in it, GeoPackage": ("p.gpkg", lambda path: path.touch(), "cannot be read"),
    "nothing in it, GeoParquet": ("p.parquet", lambda path: path.touch(), "cannot be read"),
    "nothing in it, GeoJSON": ("p.geojson", lambda path: path.touch(), "cannot be read"),
    "cut off, GeoPackage": ("p.gpkg", cut, "cannot be read"),
    "cut off, GeoParquet": ("p.parquet", cut, "cannot be read"),
    "cut off, GeoJSON": ("p.geojson", cut, "cannot be read"),
    "a Shapefile without its index": (
        "p.shp",
        lambda path: (cut(path), path.with_suffix(".shx").unlink()),
        "cannot be read",
    ),
    "no coordinate system, GeoParquet": ("p.parquet", of(crs=None), "has no coordinate system"),
    "no coordinate system, Shapefile": ("p.shp", of(crs=None), "has no coordinate system"),
    "a coordinate system that is nonsense": ("p.parquet", geo(crs="nonsense"), "cannot be read"),
    "a plane without a place": ("p.gpkg", no_plane, "no place in Undefined Cartesian SRS"),
    "metres called degrees": ("p.gpkg", of(crs="EPSG:4326"), "no place in WGS 84"),
    "another hemisphere": ("p.gpkg", of(crs="EPSG:32731"), "cover different places"),
    "not a number": ("p.parquet", with_corner(np.nan), "1 of 3 outlines, first in row 2"),
    "infinite": ("p.gpkg", with_corner(np.inf), "coordinates that are not finite"),
    "far outside": ("p.gpkg", with_corner(1e300), "no place in WGS 84 / UTM zone 31N"),
    "lines": (
        "p.gpkg",
        of(LineString([(LEFT, TOP), (LEFT + 9, TOP)])),
        "no polygon with an area (rows: 1, of LineString)",
    ),
    "points": ("p.parquet", of(Point(LEFT, TOP)), "of Point)"),
    "no outlines": ("p.parquet", of(None, None), "rows: 2, of nothing)"),
    "empty outlines": ("p.parquet", of(Polygon()), "of Polygon)"),
    "text": ("p.gpkg", lambda path: path.write_text("parcels"), "cannot be read"),
    "a table": ("p.csv", lambda path: path.write_text("class,area\ncorn,1\n"), "has no geometries"),
    "JSON of something else": ("p.geojson", lambda path: path.write_text("{}"), "cannot be read"),
    "JSON without a floor": (
        "p.geojson",
        lambda path: path.write_text('{"type":"FeatureCollection","features":' + "[" * 9999),
        "read",
    ),
    "a raster": ("p.tif", raster, "cannot be read"),
    "a folder": ("p", lambda path: path.mkdir(), "cannot be read"),
    "two layers": ("p.gpkg", two_layers, "has 2 layers of polygons (fields, declared)"),
    "no metadata of a geometry": (
        "p.parquet",
        lambda path: pd.DataFrame({"class": ["corn"]}).to_parquet(path),
        "not GeoParquet",
    ),
    "an unknown encoding": ("p.parquet", geo(encoding="WKT"), "cannot be read"),
    "a column twice": (
        "p.parquet",
        lambda path: (
            write(table(), path),
            pq.write_table((t := pq.read_table(path)).append_column("class", t["class"]), path),
        ),
        "cannot be read",
    ),
    "more vertices than bytes, GeoParquet": ("p.parquet", many_vertices, "cannot be read"),
    "a file that stands for another": ("p.vrt", reference, "only refers to other files"),
    "the same by another name": ("p.gpkg", reference, "only refers to other files"),
}

# What remains of three squares that are all in the other file, and whether something is said of it.
UNTIDY: dict[str, tuple[str, Callable[[Path], object], int, str]] = {
    "rows without an outline": (
        "p.gpkg",
        of(SQUARES[0], None, Polygon(), SQUARES[1]),
        2,
        "2 of 4 rows of",
    ),
    "points among polygons": ("p.gpkg", of(SQUARES[0], Point(LEFT, TOP)), 1, "1 of 2 rows of"),
    "a collection": (
        "p.gpkg",
        of(GeometryCollection([SQUARES[0], LineString([(LEFT, TOP), (LEFT + 9, TOP)])])),
        1,
        "",
    ),
    "a table of styles next to the layer": ("p.gpkg", with_styles, 3, ""),
    "a name in capitals": ("p.PARQUET", lambda path: table().to_parquet(path), 3, ""),
    "no ending": ("p", lambda path: table().to_parquet(path), 3, ""),
    "heights": ("p.gpkg", lambda path: write(table(*shapely.force_3d(SQUARES, 7)), path), 3, ""),
    "no column of classes": (
        "p.gpkg",
        lambda path: write(table().drop(columns="class"), path),
        3,
        "p.gpkg has no column of classes with a usual name. To compare them, pass --class-column"
        " A=NAME,B=class",
    ),
    "classes that are numbers": (
        "p.gpkg",
        lambda path: write(table().assign(**{"class": [1, 2, 3]}), path),
        3,
        "No class is in both files: the parcels have 1, 2, 3, the true parcels corn",
    ),
    "classes that are lists": (
        "p.parquet",
        lambda path: write(table().assign(**{"class": [["a", "b"]] * 3}), path),
        3,
        "No class is in both files",
    ),
    "an outline that crosses itself": (
        "p.gpkg",
        of(
            SQUARES[0],
            Polygon([(LEFT, TOP), (LEFT + 9, TOP + 9), (LEFT + 9, TOP), (LEFT, TOP + 9)]),
        ),
        1,
        "",
    ),
    "more vertices than bytes, GeoPackage": ("p.gpkg", many_vertices, 2, "1 of 3 rows of"),
    "more rows than bytes": (
        "p.gpkg",
        lambda path: (
            write(table(), path),
            change_gpkg(path, "update gpkg_ogr_contents set feature_count = 1000000000000"),
        ),
        3,
        "",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.gpkg"
    write(table(), path)
    return path


@pytest.fixture(scope="module")
def season(tmp_path_factory):
    """A cube around the squares and weights that map it."""
    folder = tmp_path_factory.mktemp("season")
    make_cube(32).to_netcdf(folder / "season.nc")
    save_weights(folder / "weights", tiny_weights())
    return folder


def made(make: Callable[[Path], object], path: Path) -> Path:
    """The file, whose writers may well complain."""
    with warnings.catch_warnings(action="ignore"):
        make(path)
    return path


def refused(capfd, *arguments: object) -> str:
    """The one line on standard error, where C libraries write too."""
    assert main([*map(str, arguments)]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith(f"panoseg {arguments[0]}: ")
    return error


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line(tmp_path, good, capfd, kind):
    name, make, words = REFUSED[kind]
    path = made(make, tmp_path / name)
    capfd.readouterr()
    assert words in refused(capfd, "compare", path, good)
    assert words in refused(capfd, "compare", good, path)


@pytest.mark.parametrize("kind", UNTIDY)
def test_untidy_files_are_used(tmp_path, good, capfd, kind):
    name, make, matched, note = UNTIDY[kind]
    path = made(make, tmp_path / name)
    capfd.readouterr()
    assert main(["compare", str(path), str(good)]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert f"matched                     {matched}\n" in said.out
    assert note in said.out
    assert ("note: " in said.out) == bool(note)


@pytest.mark.parametrize("ending", ["gpkg", "parquet", "geojson"])
def test_no_parcels_are_a_result_but_no_truth(tmp_path, good, capfd, ending):
    path = tmp_path / f"none.{ending}"
    if ending == "geojson":
        path.write_text('{"type": "FeatureCollection", "features": []}')
    else:
        write(table().iloc[:0], path)
    found = compare_files(path, good)
    assert (found.parcels, len(found.missed)) == (0, 3)
    assert "holds no parcel" in refused(capfd, "compare", good, path)


def test_a_class_column_that_is_not_there(good, capfd):
    assert "no column 'crop'. Set --class-column to one of class, geometry" in refused(
        capfd, "compare", good, good, "--class-column", "crop"
    )


def test_a_map_of_classes_without_a_floor(tmp_path, good, capfd):
    (tmp_path / "map.json").write_text("[" * 100_000)
    assert "map.json cannot be read" in refused(
        capfd, "compare", good, good, "--class-map", tmp_path / "map.json"
    )


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("p.gpkg", cut, "cannot be read"),
        ("p.gpkg", of(crs="EPSG:32731"), "cover different places"),
        ("p.gpkg", lambda path: write(table().iloc[:0], path), "holds no parcel"),
    ],
)
def test_a_truth_that_cannot_be_used_is_found_before_the_map(
    tmp_path, season, capfd, name, make, words
):
    path = made(make, tmp_path / name)
    capfd.readouterr()
    arguments = "--weights", season / "weights", "--out", tmp_path / "map", "--truth", path
    assert words in refused(capfd, "map", season / "season.nc", *arguments)
    assert not (tmp_path / "map").exists()


def test_a_map_says_what_its_truth_lacks(tmp_path, season):
    write(table(SQUARES[0], None), tmp_path / "truth.gpkg")
    options = MapOptions(tile=32, overlap=8, tta=1)
    result = map_cube(
        season / "season.nc", season / "weights", tmp_path / "map", options, tmp_path / "truth.gpkg"
    )
    assert any(note.startswith("1 of 2 rows of") for note in result.notes)
    assert "1 of 2 rows of" in result.report.read_text()


@pytest.mark.parametrize("ending", ["gpkg", "parquet", "geojson", "shp"])
def test_no_damage_ends_in_anything_but_a_line_or_a_result(tmp_path, good, ending):
    whole = tmp_path / f"whole.{ending}"
    write(table().to_crs(4326) if ending == "geojson" else table(), whole)
    content, path, results = whole.read_bytes(), tmp_path / f"damaged.{ending}", 0
    if ending == "shp":
        for other in (".shx", ".dbf", ".prj"):
            shutil.copy(whole.with_suffix(other), path.with_suffix(other))
    for seed in range(40):
        draw = random.Random(seed)
        damaged = bytearray(content[: draw.randrange(len(content))] if seed % 4 == 0 else content)
        for _ in range(min(len(damaged), (0, 1, 4, 30)[seed % 4])):
            damaged[draw.randrange(len(damaged))] = draw.choice(
                (0, 48, 57, 128, 255, draw.randrange(256))
            )
        path.write_bytes(damaged)
        with suppress(PanosegError):  # whose text is one line
            compare_files(path, good)
            results += 1
    assert 0 < results < 40
