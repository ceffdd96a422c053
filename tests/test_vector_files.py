"""Outlines and registers in the forms that people have, and tables of classes as programs save them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import struct
import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from shapely.geometry import mapping

from conftest import SHARED
from cubes import LEFT, TOP
from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.errors import AreaError, ConfigError, PanosegError, ParcelsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.area import read_area
from panoseg.imagery.outlines import too_many_overlaps, valid_polygons
from panoseg.imagery.vector_files import NOTES
from panoseg.maps.compare import compare_files
from panoseg.maps.read_parcels import left_out_notes, read_parcels
from panoseg.register.parcels import read_crop_codes
from registers import field_register, write_inputs

FIELDS = [shapely.box(4, 50, 4.1, 50.1), shapely.box(4.1, 50, 4.2, 50.1)]
NAMES = ["Пшеница зимна", "Царевица"]
SHAPEFILE = ("shp", "shx", "dbf", "prj", "cpg")


def fields(crs=4326, **columns) -> gpd.GeoDataFrame:
    """Two parcels side by side."""
    columns = columns or {"crop": ["0110", "0200"]}
    return gpd.GeoDataFrame(columns, geometry=FIELDS, crs=4326).to_crs(crs)


def features() -> list[dict]:
    return json.loads(fields().to_json(drop_id=True))["features"]


def collection() -> str:
    return json.dumps({"type": "FeatureCollection", "features": features()})


def ring(outline) -> list[list[float]]:
    return [list(place) for place in outline.exterior.coords]


def kml() -> str:
    def placemark(outline, code):
        places = " ".join(f"{x}, {y}, 0" for x, y in outline.exterior.coords)
        return (
            f"<Placemark><ExtendedData><Data name='crop'><value>{code}</value></Data></ExtendedData>"
            f"<Polygon><outerBoundaryIs><LinearRing><coordinates>{places}</coordinates></LinearRing>"
            "</outerBoundaryIs></Polygon></Placemark>"
        )

    marks = placemark(FIELDS[0], "0110") + placemark(FIELDS[1], "0200")
    return f"<kml xmlns='http://www.opengis.net/kml/2.2'><Document>{marks}</Document></kml>"


def shapefile(folder: Path, name: str = "farm", **options) -> Path:
    fields(32631).to_file(folder / f"{name}.shp", **options)
    return folder / f"{name}.shp"


def zipped(path: Path, entries: dict[str, bytes | str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def finder_zip(path: Path) -> None:
    source = shapefile(path.parent)
    entries = {}
    for suffix in SHAPEFILE:
        entries[f"RPG_2-0/1_DONNEES/FARM.{suffix.upper()}"] = source.with_suffix(
            f".{suffix}"
        ).read_bytes()
        entries[f"__MACOSX/RPG_2-0/1_DONNEES/._FARM.{suffix}"] = b"\0\5\x16\7\0\2\0\0Mac OS X"
        source.with_suffix(f".{suffix}").unlink()
    zipped(path, {"RPG_2-0/.DS_Store": b"x", "RPG_2-0/metadata.json": "{}", **entries})


def gdb(path: Path) -> None:
    fields().to_file(path, driver="OpenFileGDB", layer="farm")


def gdb_zip(path: Path) -> None:
    gdb(path.with_suffix(".gdb"))
    shutil.make_archive(
        str(path.with_suffix("")), "zip", path.parent, path.with_suffix(".gdb").name
    )
    shutil.rmtree(path.with_suffix(".gdb"))


def wkt_rows(separator: str, head: str) -> str:
    return head + "".join(
        f'0{code}{separator}"{outline.wkt}"\r\n'
        for code, outline in zip((110, 200), FIELDS, strict=True)
    )


ESRI = {
    "geometryType": "esriGeometryPolygon",
    "spatialReference": {"wkid": 4326},
    "fields": [{"name": "crop", "type": "esriFieldTypeString"}],
    "features": [
        {"attributes": {"crop": code}, "geometry": {"rings": [ring(outline)[::-1]]}}
        for code, outline in zip(("0110", "0200"), FIELDS, strict=True)
    ],
}
TOPOLOGY = {
    "type": "Topology",
    "arcs": [ring(outline) for outline in FIELDS],
    "objects": {
        "farm": {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "Polygon", "arcs": [[row]], "properties": {"crop": code}}
                for row, code in enumerate(("0110", "0200"))
            ],
        }
    },
}

FORMS = {
    "farm.gpkg": lambda path: fields(3035).to_file(path),
    "farm.parquet": lambda path: fields().to_parquet(path),
    "farm.fgb": lambda path: fields().to_file(path),
    "farm.shp": lambda path: shapefile(path.parent),
    "farm.geojson": lambda path: path.write_text("\ufeff" + collection(), "utf-8"),
    "utf-16.geojson": lambda path: path.write_text(collection(), "utf-16"),
    "late.geojson": lambda path: path.write_text(
        json.dumps({"about": "x" * 70_000, "features": features(), "type": "FeatureCollection"})
    ),
    "list.json": lambda path: path.write_text(json.dumps(features())),
    "lines.geojsonl": lambda path: path.write_text("\r\n".join(map(json.dumps, features()))),
    "sequence.json": lambda path: path.write_text(
        "".join(f"\x1e{json.dumps(feature)}\n" for feature in features())
    ),
    "farm.geojson.gz": lambda path: path.write_bytes(gzip.compress(collection().encode())),
    "esri.json": lambda path: path.write_text(json.dumps(ESRI)),
    "topology.json": lambda path: path.write_text(json.dumps(TOPOLOGY)),
    "farm.gml": lambda path: fields().to_file(path, driver="GML"),
    "farm.kml": lambda path: path.write_text(kml()),
    "farm.kmz": lambda path: zipped(path, {"doc.kml": kml(), "files/other.kml": kml()}),
    "farm.gdb": gdb,
    "gdb.zip": gdb_zip,
    "finder.zip": finder_zip,
    "geojson.zip": lambda path: zipped(path, {"a/b/farm.geojson": collection()}),
    "farm.csv": lambda path: path.write_text(wkt_rows(",", "crop,WKT\r\n")),
    "excel.csv": lambda path: path.write_text(wkt_rows(";", "sep=;\r\ncrop;geom\r\n"), "utf-16"),
    "postgis.csv": lambda path: path.write_text(
        "crop,geom\n"
        + "".join(
            f"0{code},{shapely.to_wkb(shapely.set_srid(outline, 4326), True, include_srid=True)}\n"
            for code, outline in zip((110, 200), FIELDS, strict=True)
        )
    ),
    "ee.csv": lambda path: path.write_text(
        "system:index,crop,.geo\n"
        + "".join(
            f'{row},0{code},"{json.dumps(mapping(outline)).replace(chr(34), chr(34) * 2)}"\n'
            for row, (code, outline) in enumerate(zip((110, 200), FIELDS, strict=True))
        )
    ),
    "folder": lambda path: (path.mkdir(), shapefile(path)),
    "parts": lambda path: (path.mkdir(), fields().to_parquet(path / "0.parquet")),
}
WITHOUT_COLUMNS = {
    "farm.wkt": lambda path: path.write_text("\n".join(outline.wkt for outline in FIELDS)),
    "farm.txt": lambda path: path.write_text(f"SRID=4326;{shapely.multipolygons(FIELDS).wkt}"),
    "bare.json": lambda path: path.write_text(json.dumps(mapping(shapely.multipolygons(FIELDS)))),
}


def made(folder: Path, name: str) -> Path:
    (FORMS | WITHOUT_COLUMNS)[name](folder / name)
    return folder / name


@pytest.mark.parametrize("name", [*FORMS, *WITHOUT_COLUMNS])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_forms_are_read_as_parcels_and_as_an_outline(tmp_path, name):
    path = made(tmp_path, name)
    before = sorted(entry.name for entry in tmp_path.rglob("*"))
    parcels = read_parcels(path)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == before, "nothing is written"
    land = parcels.to_crs(4326).union_all()
    whole = shapely.union_all(FIELDS)
    assert shapely.area(land.symmetric_difference(whole)) < 1e-3 * whole.area
    if name in FORMS:
        assert sorted(parcels["crop"]) == ["0110", "0200"], "zeros stay"
    area = read_area(path)
    assert shapely.area(area.outline.symmetric_difference(whole)) < 1e-3 * whole.area


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def blob(depth: int) -> bytes:
    """Collections in collections, as WKB."""
    return (b"\x01" + struct.pack("<II", 7, 1)) * depth + shapely.to_wkb(FIELDS[0])


def nested_parquet(path: Path) -> None:
    geo = {"encoding": "WKB", "geometry_types": []}
    about = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": geo}}
    table = pa.table({"geometry": pa.array([blob(20_000)], pa.binary())})
    pq.write_table(table.replace_schema_metadata({b"geo": json.dumps(about).encode()}), path)


def virtual_table(path: Path) -> None:
    fields().to_file(path)
    with sqlite3.connect(path) as file:
        file.execute("pragma writable_schema = on")
        file.execute(
            "insert into sqlite_master values"
            " ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING VirtualOGR(''/etc/farm.shp'')')"
        )
    file.close()


REFUSED = {
    "f.7z": (b"7z\xbc\xaf\x27\x1c rest", "is a 7z archive. Unpack it"),
    "f.zip": (b"PK\x05\x06" + bytes(18), "is an empty archive"),
    "a.tif": (b"II*\0rest", "is a raster"),
    "b.nc": (b"CDF\x01", "is a cube or raster"),
    "c.gpkg": ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "d.geojson": ("<!DOCTYPE html><html><body>sign in", "is a web page"),
    "e.gpx": ("<?xml version='1.0'?><gpx><trk/></gpx>", "XML of the kind 'gpx'"),
    "f.json": ('{"name": "panoseg"}', "is JSON, but no GeoJSON"),
    "g.dbf": (b"\x03rest", "part of a Shapefile. Pass g.shp"),
    "h.prj": ("PROJCS[1,2]", "part of a Shapefile. Pass h.shp"),
    "._i.shp": (b"\0\5\x16\7", "hidden file of macOS"),
    "j.db": (b"SQLite format 3\0" + bytes(4096), "cannot be read"),
    "k.json": ('{"type": "gdal_streamed_alg", "command_line": "x"}', "only refers to other files"),
    "l.vrt": ("<OGRVRTDataSource/>", "only refers to other files"),
    "m.kml": ("<kml>" + "<Folder>" * 20_000 + "</Folder>" * 20_000 + "</kml>", "nested more than"),
    "n.gml": (
        "<FeatureCollection xmlns='http://www.opengis.net/gml'>"
        + "<a>" * 20_000
        + "</a>" * 20_000
        + "</FeatureCollection>",
        "nested more than",
    ),
    "o.wkt": ("GEOMETRYCOLLECTION(" * 100_000, "nested deeply"),
    "p.csv": (f"geom\n{blob(20_000).hex()}\n", "nested deeply"),
    "q.geojson": (
        '{"type":"Polygon","coordinates":' + "[" * 20_000 + "]" * 20_000 + "}",
        "cannot be read",
    ),
    "r.kml": (kml().replace(", 0 ", ", "), "not places of two or three"),
    "s.kml": (kml()[:-40], "damaged or not complete"),
    "t.csv": ("crop,wkt\n1,circle\n", "'circle' is no WKT"),
    "u.zip": (b"PK\x03\x04 cut off", "archive is damaged"),
    "v.geojson.gz": (gzip.compress(b"{" * 1000)[:-9], "archive is damaged"),
    "x.qgs": ("<!DOCTYPE qgis PUBLIC 'x' 'y'>\n<qgis version='3'/>", "is a project of QGIS"),
    "y.csv": ('a,.geo\n1,"{' + "[" * 20_000 + '"\n', "nested deeply"),
    "w.geojson": (collection().replace("0110", "Пшеница").encode("cp1251"), "--encoding cp1251"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named_as_what_it_is(tmp_path, name):
    content, words = REFUSED[name]
    path = write(tmp_path / name, content)
    for read, error in ((read_parcels, ParcelsError), (read_area, AreaError)):
        with pytest.raises(error) as caught:
            read(path)
        assert words in str(caught.value)
        assert ("Copy it again" in str(caught.value)) == ("damaged" in str(caught.value))
        assert len(str(caught.value)) < 500


def test_more_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    nested_parquet(tmp_path / "deep.parquet")
    shapefile(tmp_path).with_suffix(".dbf").unlink()
    zipped(tmp_path / "two.zip", {"a.kml": kml(), "b/c.kml": kml()})
    zipped(tmp_path / "inner.zip", {"readme.txt": "", "a/farm.zip": b"PK"})
    virtual_table(tmp_path / "virtual.gpkg")
    zipped(tmp_path / "t.xlsx", {"[Content_Types].xml": "<x/>", "xl/workbook.xml": "<x/>"})
    zipped(tmp_path / "t.ods", {"mimetype": "x", "content.xml": "<x/>"})
    zipped(tmp_path / "p.qgz", {"p.qgs": "<qgis/>", "p.qgd": ""})
    fields().drop(columns="geometry").to_parquet(tmp_path / "table.parquet")
    for name, words in {
        "pipe": "no regular file",
        "/dev/zero": "no regular file",
        "nul\0byte": "does not exist",
        "deep.parquet": "nested deeply",
        "farm.shp": "cannot be read without farm.dbf",
        "two.zip": "holds 2 files of outlines (a, c). Choose one with --layer",
        "inner.zip": "holds an archive in an archive",
        "virtual.gpkg": "only refers to other files",
        "t.xlsx": "Save the table as CSV",
        "t.ods": "Save the table as CSV",
        "p.qgz": "is a project of QGIS",
        "table.parquet": "is a Parquet table, not GeoParquet",
    }.items():
        with pytest.raises(ParcelsError) as caught:
            read_parcels(tmp_path / name)
        assert words in str(caught.value)
    assert len(read_parcels(tmp_path / "two.zip", options=VectorOptions(layer="c"))) == 2


# Options


def test_layers_and_virtual_files(tmp_path):
    fields().to_file(tmp_path / "two.gpkg", layer="fields")
    fields().iloc[:1].to_file(tmp_path / "two.gpkg", layer="declared")
    with pytest.raises(ParcelsError, match=r"2 layers of polygons .* --layer fields"):
        read_parcels(tmp_path / "two.gpkg")
    assert len(read_parcels(tmp_path / "two.gpkg", options=VectorOptions(layer="declared"))) == 1
    with pytest.raises(ParcelsError, match=r"no layer 'x'. Set --layer to one of fields, declared"):
        read_parcels(tmp_path / "two.gpkg", options=VectorOptions(layer="x"))
    with pytest.raises(ParcelsError, match="no layer 'x': a KML has only one"):
        read_parcels(write(tmp_path / "a.kml", kml()), options=VectorOptions(layer="x"))
    virtual = write(
        tmp_path / "farm.vrt",
        '<OGRVRTDataSource><OGRVRTLayer name="declared"><SrcDataSource'
        ' relativeToVRT="1">two.gpkg</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>',
    )
    with pytest.raises(ParcelsError, match="--allow-virtual"):
        read_parcels(virtual)
    assert len(read_parcels(virtual, options=VectorOptions(allow_virtual=True))) == 1


def test_one_value_or_one_for_each_of_two_files():
    first, second = VectorOptions("A=x,B=y", "cp1251", "B=EPSG:4326", True).of_two()
    assert first == VectorOptions("x", "cp1251", None, True)
    assert second == VectorOptions("y", "cp1251", "EPSG:4326", True)
    with pytest.raises(ConfigError, match="A=crop,B=code"):
        VectorOptions(layer="A=,B=y").of_two()


def test_coordinate_systems_that_a_file_states_wrongly_or_not(tmp_path):
    path = shapefile(tmp_path)
    path.with_suffix(".prj").unlink()
    with pytest.raises(ParcelsError, match=r"no coordinate system.* --crs EPSG:32631"):
        read_parcels(path)
    utm = VectorOptions(crs="EPSG:32631")
    assert read_parcels(path, options=utm).crs.to_epsg() == 32631
    with pytest.raises(ConfigError, match="is no coordinate system"):
        read_parcels(path, options=VectorOptions(crs="EPSG:99999999"))
    metres = write(
        tmp_path / "m.geojson", fields(32631).set_crs(None, allow_override=True).to_json()
    )
    with pytest.raises(ParcelsError, match=r"no place in WGS 84.*--crs"):
        read_parcels(metres)
    parcels = read_parcels(metres, options=utm)
    assert parcels.crs.to_epsg() == 32631
    assert "--crs WGS 84 / UTM zone 31N was used instead" in parcels.attrs[NOTES][0]
    assert read_area(metres, utm).outline.bounds == pytest.approx((4, 50, 4.2, 50.1), abs=1e-4)
    text = read_parcels(made(tmp_path, "farm.wkt"))
    assert "were read as degrees" in text.attrs[NOTES][0]


def test_exchanged_latitude_and_longitude_are_noticed(tmp_path):
    turned = shapely.box(50, 104, 50.1, 104.1)
    path = write(tmp_path / "a.geojson", json.dumps(mapping(turned)))
    with pytest.raises(ParcelsError, match="seem to be exchanged: longitude comes first"):
        read_parcels(path)
    with pytest.raises(AreaError, match="longitude comes first"):
        read_area(path)
    outline = json.dumps(mapping(shapely.box(50, 4, 50.1, 4.2)))
    with pytest.raises(ParcelsError, match="seem to be exchanged in"):
        compare_files(made(tmp_path, "farm.gpkg"), write(tmp_path / "b.geojson", outline))


def bulgarian(folder: Path, encoding: str, language: int, cpg: str | None) -> Path:
    """A Shapefile whose table is in some encoding, and says another or none."""
    path = folder / "farm.shp"
    fields(CROP_NAME=NAMES).to_file(path, encoding=encoding)
    path.with_suffix(".cpg").unlink(missing_ok=True)
    table = bytearray(path.with_suffix(".dbf").read_bytes())
    table[29] = language
    path.with_suffix(".dbf").write_bytes(table)
    if cpg is not None:
        path.with_suffix(".cpg").write_text(cpg)
    return path


@pytest.mark.parametrize(
    ("encoding", "language", "cpg"),
    [("utf-8", 0, None), ("utf-8", 0x57, None), ("cp1251", 0xC9, None), ("cp1251", 0, "ANSI 1251")],
)
def test_text_of_a_shapefile_is_read_in_its_encoding(tmp_path, encoding, language, cpg):
    parcels = read_parcels(bulgarian(tmp_path, encoding, language, cpg))
    assert parcels["CROP_NAME"].tolist() == NAMES
    assert left_out_notes(parcels) == ()


@pytest.mark.parametrize("cpg", [None, "nonsense"])
def test_text_of_an_unknown_encoding_is_said(tmp_path, cpg):
    path = bulgarian(tmp_path, "cp1251", 0x57, cpg)
    [note] = left_out_notes(read_parcels(path))
    assert "Öàðåâèöà" in note or "Ïøåíèöà" in note
    assert "--encoding cp1251" in note
    parcels = read_parcels(path, options=VectorOptions(encoding="cp1251"))
    assert parcels["CROP_NAME"].tolist() == NAMES
    assert left_out_notes(parcels) == ()
    for wrong, words in (("utf-8", "is not in utf-8"), ("utf-99", "is not known")):
        with pytest.raises(PanosegError, match=words):
            read_parcels(path, options=VectorOptions(encoding=wrong))


# Geometries


def star(corners: int) -> shapely.Polygon:
    places = np.random.default_rng(0).random((corners, 2)) / 50 + (4, 50)
    return shapely.Polygon(places.round(6))


def needles(count: int) -> np.ndarray:
    turn = np.linspace(0, np.pi, count, endpoint=False)
    tips, centre = np.stack([np.cos(turn), np.sin(turn)], 1) / 100, np.array([4, 50])
    corners = [[centre - tip, centre + tip, centre + tip * 1.01 + 1e-6] for tip in tips]
    return shapely.polygons(np.array(corners))


def outlines_file(path: Path, outlines) -> Path:
    gpd.GeoDataFrame(
        {"class": "corn"}, geometry=list(outlines), crs=4326, index=range(len(outlines))
    ).to_file(path)
    return path


def test_outlines_that_cross_themselves_are_repaired_within_bounds(tmp_path):
    few = outlines_file(tmp_path / "200.geojson", [star(200)])
    area = read_area(outlines_file(tmp_path / "50.geojson", [star(50)]))
    assert area.outline.is_valid
    assert "cross themselves" in area.notes[0]
    assert compare_files(few, few).quality.pq == pytest.approx(1)
    many = outlines_file(tmp_path / "1000.geojson", [star(1000)])
    with pytest.raises(ParcelsError, match="cross themselves too often"):
        read_parcels(many)
    with pytest.raises(AreaError, match="more than 1,000 times"):
        read_area(many)
    mixed = read_parcels(outlines_file(tmp_path / "mixed.gpkg", [star(1000), *FIELDS]))
    assert len(mixed) == 2
    assert "1 of 3 rows of" in mixed.attrs[NOTES][0]


def test_outlines_that_cross_each_other_are_bounded(tmp_path):
    outlines = needles(700)
    path = outlines_file(tmp_path / "needles.gpkg", outlines)
    with pytest.raises(AreaError, match="each other more than 1,000 times"):
        read_area(path)
    with pytest.raises(ParcelsError, match="overlap so often"):
        compare_files(path, path)
    assert not too_many_overlaps(np.array(FIELDS), np.array(FIELDS))
    tangled = shapely.multipolygons(list(outlines))
    assert valid_polygons(np.array([tangled, FIELDS[0]]))[1].tolist() == [True, False]


def test_repair_counts_each_outline_alone():
    stars = np.array([star(30)] * 50)  # on top of each other
    repaired, tangled = valid_polygons(stars)
    assert not tangled.any()
    assert shapely.is_valid(repaired).all()


def test_geometries_of_all_kinds(tmp_path):
    hole = shapely.Polygon(FIELDS[0].exterior, [shapely.box(4.02, 50.02, 4.04, 50.04).exterior])
    kinds = [
        shapely.force_3d(hole, 7),
        shapely.GeometryCollection([shapely.GeometryCollection([FIELDS[1]]), shapely.Point(4, 50)]),
        None,
        shapely.Polygon(),
        shapely.Point(4, 50),
    ]
    path = outlines_file(tmp_path / "kinds.gpkg", kinds)
    parcels = read_parcels(path)
    assert len(parcels) == 2
    assert "3 of 5 rows" in parcels.attrs[NOTES][0]
    expected = hole.union(FIELDS[1])
    assert read_area(path).outline.symmetric_difference(expected).area < 1e-9


# Codes and classes


def classes(path: Path, codes: list, column: str = "class") -> Path:
    fields(32631, **{column: codes}).to_file(path)
    return path


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (["Blé tendre", "Maïs"], ["Ble\u0301 tendre", "Mai\u0308s "]),
        (["0110", "0200"], [110, 200]),
        ([110.0, 200.0], ["110", "200"]),
        (["110.0", "Corn"], ["0110", " corn"]),
    ],
)
def test_codes_that_look_the_same_are_the_same(tmp_path, own, other):
    first, second = classes(tmp_path / "a.gpkg", own), classes(tmp_path / "b.gpkg", other)
    found = compare_files(first, second)
    assert found.class_agreement == 1
    zeros = any(str(code).startswith("0") for code in (*own, *other))
    assert [note.startswith("Codes with and without zeros") for note in found.notes] == [
        True
    ] * zeros


def test_class_columns_of_two_files(tmp_path, capsys):
    first = classes(tmp_path / "a.gpkg", [1, 2], "crop")
    second = classes(tmp_path / "b.gpkg", [1, 2], "EC_hcat_n")
    third = classes(tmp_path / "c.gpkg", [1, 2], "crop")
    assert compare_files(first, second, class_column="A=crop,B=EC_hcat_n").class_agreement == 1
    assert compare_files(first, third, class_column="crop").class_agreement == 1
    with pytest.raises(ConfigError, match="no column 'EC'"):
        compare_files(first, second, class_column="A=crop,B=EC")
    assert main(["compare", str(first), str(second)]) == 0
    assert "note: Classes were not compared" in capsys.readouterr().out
    found = compare_files(first, classes(tmp_path / "d.gpkg", [7, 8], "crop"), class_column="crop")
    assert found.notes[0].startswith("No class is in both files: the parcels have 1, 2")


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffcode;class\r\nBlé tendre;corn\r\n".encode(),
        "code\tclass\r\nBlé tendre\tcorn\r\n".encode("utf-16"),
        "code\tclass\r\nBlé tendre\tcorn\r\n".encode("utf-16-le"),
        "code;class\r\nBlé tendre;corn\r\n".encode("cp1252"),
        'sep=;\r\n"Code";"Class"\r\n"Blé  tendre";"Corn"\r\n\r\n'.encode("cp1252"),
        '"sep=|"\ncode|class\nBle\u0301 tendre|3\n'.encode(),
    ],
)
def test_tables_of_classes_as_programs_save_them(tmp_path, content):
    path = write(tmp_path / "t.csv", content)
    codes = read_crop_codes(path, PASTIS)
    assert codes.classes_of(["Blé tendre", "x"]) == [3, None]
    guessed = b"\xe9" in content and b"\0" not in content
    assert bool(codes.notes) == guessed


def test_a_table_in_the_encoding_that_is_named(tmp_path):
    path = write(tmp_path / "t.csv", f"code,class\n{NAMES[0]},corn\n".encode("cp1251"))
    assert read_crop_codes(path, PASTIS, "cp1251").classes_of(NAMES) == [3, None]
    assert "--encoding" in read_crop_codes(path, PASTIS).notes[0]


def test_tables_that_are_none_are_one_short_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "digits.csv", f"code,class\n1,{'9' * 5000}\n")
    write(tmp_path / "field.csv", f"code,class\n{'9' * 200_000},1\n")
    write(tmp_path / "picture.csv", b"\x89PNG\r\n\0\0\0\x01")
    for name in ("pipe", "/dev/zero", "", "digits.csv", "field.csv", "picture.csv", "gone.csv"):
        with pytest.raises(ParcelsError) as caught:
            read_crop_codes(tmp_path / name, PASTIS)
        assert len(str(caught.value)) < 900


# Commands


def test_the_commands_pass_the_options_on(tmp_path, capsys):
    path = bulgarian(tmp_path, "cp1251", 0, None)
    metres = shapefile(tmp_path, "metres")
    metres.with_suffix(".prj").unlink()
    other = classes(tmp_path / "o.gpkg", NAMES, "CROP_NAME")
    named = ["--class-column", "CROP_NAME"]

    def said(*arguments) -> str:
        main([*map(str, arguments)])
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert "same class   100.0 %" in said("compare", path, other, *named, "--encoding", "A=cp1251")
    assert "--encoding cp1251" in said("compare", path, other, *named)
    assert "has no coordinate system" in said("compare", metres, other)
    assert "has no coord" not in said("compare", metres, other, "--crs", "A=EPSG:32631")
    cube = "cube", "--out", tmp_path / "x.zarr", "--safe", tmp_path / "gone", "--area"
    assert "has no coordinate system" in said(*cube, metres)
    assert "gone" in said(*cube, metres, "--crs", "EPSG:32631")
    fields().to_file(tmp_path / "two.gpkg", layer="a")
    fields().to_file(tmp_path / "two.gpkg", layer="b")
    assert "2 layers" in said(*cube, tmp_path / "two.gpkg")
    assert "gone" in said(*cube, tmp_path / "two.gpkg", "--layer", "b")


def test_unknown_codes_are_said_before_what_follows_from_them(tmp_path, capsys):
    register = field_register().assign(crop=["9110", "9200"] * 8)
    parcels, codes, cube = write_inputs(tmp_path, register)
    dataset = ["dataset", "--class-column", "crop", "--classes", str(codes), "--cube", str(cube)]
    options = ["--size", "16", "--min-dates", "3", "--out", str(tmp_path / "out")]
    assert main([*dataset, "--parcels", str(parcels), *options]) == 2
    said = capsys.readouterr().err
    assert "16 of 16 parcels have a code in crop of" in said
    assert "the register has 9110, 9200; the table has 0110, 200, MEA, 300" in said
    assert "--encoding" in said
    register["crop"] = ["110", *["mea"] * 15]
    register.to_file(tmp_path / "two.gpkg", layer="a")
    register.to_file(tmp_path / "two.gpkg", layer="b")
    chosen = ["--parcels", str(tmp_path / "two.gpkg"), "--layer", "b"]
    assert main([*dataset, *chosen, *options, "--parcels-crs", "EPSG:32632"]) == 2
    assert "No parcel of" in capsys.readouterr().err
    assert main([*dataset, *chosen, *options]) == 2, "too few blocks"
    said = capsys.readouterr()
    assert "note: 15 of 16 parcels have a code" in said.out
    assert "They differ in capital letters" in said.out
    assert "blocks" in said.err


def test_columns_that_refine_renames_are_said(tmp_path, capsys):
    import rasterio

    values = np.ones((1, 20, 20), np.uint8)
    profile = {"driver": "GTiff", "height": 20, "width": 20, "count": 1, "dtype": "uint8"}
    transform = rasterio.Affine(10, 0, LEFT, 0, -10, TOP)
    with rasterio.open(
        tmp_path / "c.tif", "w", **profile, crs="EPSG:32631", transform=transform
    ) as file:
        file.write(values)
    outline = shapely.box(LEFT, TOP - 100, LEFT + 100, TOP)
    register = gpd.GeoDataFrame(
        {"class": ["corn"], "given_class": ["old"]}, geometry=[outline], crs="EPSG:32631"
    )
    register.to_file(tmp_path / "r.gpkg", layer="a")
    register.to_file(tmp_path / "r.gpkg", layer="b")
    command = ["refine", str(tmp_path / "c.tif"), "--parcels", str(tmp_path / "r.gpkg")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert main([*command, "--out", str(tmp_path / "out"), "--layer", "a"]) == 0
    said = capsys.readouterr().out
    assert "note: The column class of the parcels is called given_class in the result." in said
    assert "note: The columns given_class of the parcels were overwritten" in said


# Cases that people reported


def case(kind: str, name: str) -> Path:
    folder = SHARED / "cases" / kind / name
    if not folder.is_dir():
        pytest.skip(f"cases are not at ../shared/cases/{kind}/{name}")
    return folder


def test_reported_archives_of_shapefiles():
    folder = case("satellite", "17-zips-of-shapefiles")
    for name in ("mac.zip", "folder.zip"):
        assert compare_files(folder / name, folder / "other.gpkg").quality.pq == 1
        assert read_area(folder / name).km2 == pytest.approx(0.1024, rel=1e-2)


def test_reported_encodings(tmp_path, capsys):
    folder = case("satellite", "19-register-in-another-encoding")
    command = ["dataset", "--class-column", "CROP_NAME", "--cube", str(folder / "season.nc")]
    command += ["--classes", str(folder / "classes.csv"), "--size", "16", "--min-dates", "3"]
    command += ["--out", str(tmp_path / "out"), "--parcels"]
    assert main([*command, str(folder / "register_cp1251.shp")]) == 2
    said = capsys.readouterr().err
    assert "8 of 8 parcels have a code" in said
    assert "Ïøåíèöà çèìíà" in said
    for name, options in (("cp1251", ["--encoding", "cp1251"]), ("utf-8", [])):
        main([*command, str(folder / f"register_{name}.shp"), *options])
        assert "parcels have a code" not in "".join(capsys.readouterr())
    for name in ("excel_latin1", "excel_utf16"):
        codes = read_crop_codes(folder / f"{name}.csv", PASTIS)
        assert codes.classes_of(["Blé tendre"]) == [2]
    assert read_crop_codes(folder / "sep_line.csv", PASTIS).classes_of([1]) == [3]


def test_reported_classes_that_look_the_same():
    folder = case("satellite", "20-classes-that-look-the-same")
    for first, second in (("decomposed", "composed"), ("number_codes", "text_codes")):
        found = compare_files(folder / f"{first}.gpkg", folder / f"{second}.gpkg")
        assert found.class_agreement == 1


def test_reported_hostile_files():
    folder = case("hostile", "star-outline")
    assert len(read_parcels(folder / "star-200.geojson")) == 1
    for name in ("star-200.geojson", "star1000.geojson"):
        with pytest.raises(AreaError, match="more than 1,000 times"):
            read_area(folder / name)
    digits = case("hostile", "crop-code-of-5000-digits") / "t.csv"
    with pytest.raises(ParcelsError) as caught:
        read_crop_codes(digits, PASTIS)
    assert len(str(caught.value)) < 900
