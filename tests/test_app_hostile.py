"""Uploads and addresses that mean harm: each refused with one clear sentence, and nothing of it
kept.
"""

from __future__ import annotations

import io
import json
import socket
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import h5py
import pytest

from cubes import make_cube
from panoseg.app import egress as allowed_urls
from panoseg.app.archives import check_archive, unpack_zarr
from panoseg.app.confined import UPLOAD, run_confined
from panoseg.app.egress import AllowedUrls, RefusedAddressError, _is_address
from panoseg.app.service import Service
from panoseg.app.settings import AppSettings, Limits
from panoseg.app.uploads import clean_name
from panoseg.cube.open import open_cube
from panoseg.errors import AppError, PanosegError, TooLargeError

KML = (
    '<?xml version="1.0"?><!DOCTYPE kml [<!ENTITY a "{}">]><kml'
    ' xmlns="http://www.opengis.net/kml/2.2"><Document/></kml>'
)


def zipped(*entries: tuple[str, bytes], link: bool = False, **options) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return out.getvalue()


def encrypted() -> bytes:
    """An archive that says so; nothing of it is."""
    data = bytearray(zipped(("a.geojson", b"{}")))
    place = data.index(b"PK\x01\x02") + 8
    data[place] |= 1
    data[6] |= 1
    return bytes(data)


def png_of(width: int, height: int) -> bytes:
    """The head of a picture that would be so large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(head))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0" * 64
    )


def polygon(*corners: tuple[float, float]) -> bytes:
    return json.dumps({"type": "Polygon", "coordinates": [[*corners, corners[0]]]}).encode()


HOSTILE = {
    "empty": b"",
    "noise": bytes(range(256)) * 16,
    "html": b"<!doctype html><script>alert(1)</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "program": b"\x7fELF" + b"\0" * 4096,
    "shell": b"#!/bin/sh\nrm -rf /\n",
    "pickle": b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "vrt": (
        b'<VRTDataset rasterXSize="1"'
        b' rasterYSize="1"><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>'
    ),
    "ogr vrt": (
        b"<OGRVRTDataSource><OGRVRTLayer"
        b' name="a"><SrcDataSource>/etc/passwd</SrcDataSource></OGRVRTLayer>'
    ),
    "kml with entities": KML.format("b" * 100).encode(),
    "kml that reads files": KML.replace('"{}"', 'SYSTEM "file:///etc/passwd"').encode(),
    "deep json": b'{"type":' + b"[" * 200_000,
    "json of nothing": b"{}",
    "json of a network": (
        b'{"type": "FeatureCollection", "features": [{"geometry": {"$ref": "http://127.0.0.1/"}}]}'
    ),
    "a stac item": (
        b'{"type":"Feature","stac_version":"1.0.0","geometry":null,"assets":{"a":{"href":"/etc/passwd"}}}'
    ),
    "esri json": (
        b'{"geometryType":"esriGeometryPolygon","features":[{"geometry":{"rings":[[[0,0],[0,1],[1,1],[0,0]]]}}]}'
    ),
    "a point": b'{"type": "Point", "coordinates": [3, 50]}',
    "no number": b'{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1], [NaN, 0]]]}',
    "no place": polygon((1e9, 0), (1e9, 1e9), (0, 1e9)),
    "a pole": polygon((0, 89), (90, 89), (180, 89), (-90, 89)),
    "half a geopackage": b"SQLite format 3\0" + b"\0" * 5000,
    "geopackage that is a vrt": b"SQLite format 3\0<OGRVRTDataSource></OGRVRTDataSource>",
    "half a parquet": b"PAR1" + b"\0" * 500,
    "half a netcdf": b"\x89HDF\r\n\x1a\n" + b"\0" * 500,
    "half a classic netcdf": b"CDF\x01" + b"\xff" * 500,
    "half a jpeg": b"\xff\xd8\xff\xe0" + b"\0" * 500,
    "huge png": png_of(60_000, 60_000),
    "flat png": png_of(2**31 - 1, 1),
    "half a tiff": b"II*\0\xff\xff\xff\xff" + b"\0" * 100,
    "half a zip": zipped(("a.geojson", b"{}"))[:40],
    "zip that climbs": zipped(("../../a.geojson", polygon((3, 50), (3.1, 50), (3.1, 50.1)))),
    "zip from the root": zipped(
        ("/etc/cron.d/a.geojson", polygon((3, 50), (3.1, 50), (3.1, 50.1)))
    ),
    "zip that climbs with backslashes": zipped(("..\\..\\a.geojson", b"{}")),
    "zip of a drive": zipped(("c:/a.geojson", b"{}")),
    "zip of links": zipped(("a.geojson", b"/etc/passwd"), link=True),
    "zip bomb": zipped(("a.geojson", bytes(60 * 1024**2))),
    "zip in a zip": zipped(("a.zip", zipped(("b.geojson", b"{}")))),
    "encrypted zip": encrypted(),
    "zip of two": zipped(("a.geojson", b"{}"), ("b.geojson", b"{}")),
    "codes without lines": b"code,class\n",
    "codes of no text": b"code,class\n\0\xff\xfe,1\n",
    "zip of programs": zipped(("a.exe", b"MZ")),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "app"
    made = Service(AppSettings(folder, limits=Limits(upload_mib=2), workers=0))
    yield made
    made.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_refused(service, name):
    with pytest.raises(PanosegError) as caught:
        service.save_upload("ada", f"{name}.geojson", [HOSTILE[name]])
    text = str(caught.value)
    assert "\n" not in text
    assert 20 < len(text) < 400, text
    assert not text[0].islower(), text
    for ours in (str(service.settings.folder), ".part", "Traceback"):
        assert ours not in text
    assert not list(service.settings.uploads_folder.iterdir())
    assert service.uploads.of("ada") == []


def test_an_upload_that_never_ends_is_cut_off(service):
    def endless():
        while True:
            yield bytes(2**16)

    with pytest.raises(TooLargeError, match="2 MiB"):
        service.save_upload("ada", "a", endless())

    def broken():
        yield b"{"
        raise ConnectionResetError

    with pytest.raises((PanosegError, ConnectionResetError)):
        service.save_upload("ada", "a", broken())
    assert not list(service.settings.uploads_folder.iterdir())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("a\\b.tif", "b.tif"),
        ("a\x00\n\u202eb", "ab"),
        ("/", "upload"),
        ("x" * 999, "x" * 100),
    ],
)
def test_names_are_for_display_alone(service, name, shown):
    upload = service.save_upload("ada", name, [polygon((3, 50), (3.01, 50), (3.01, 50.01))])
    assert (upload.name, clean_name(name)) == (shown, shown)
    [path] = service.settings.uploads_folder.iterdir()
    assert path.name == f"{upload.id}.geojson"
    service.uploads.delete("ada", upload.id)


def test_a_reader_that_fails_or_eats_memory_costs_itself_alone():
    with pytest.raises(AppError, match="Reading the upload failed"):
        run_confined(UPLOAD, _crash)
    with pytest.raises(AppError, match="Reading the upload failed"):
        run_confined(UPLOAD, _eat)
    with pytest.raises(TooLargeError, match="file is too large"):
        run_confined(UPLOAD, _refuse)
    assert run_confined(UPLOAD, max, 1, 2) == 2


def _crash():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def _eat():
    return len(bytearray(64 * 1024**3))


def _refuse():
    raise TooLargeError("The file is too large.")


def test_archives(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(("s/zarr.json", b"{}"), ("s/a/c/0/0", b"chunk"), ("other", b"no")))
    unpack_zarr(path, tmp_path / "store")
    assert sorted(
        str(file.relative_to(tmp_path / "store"))
        for file in (tmp_path / "store").rglob("*")
        if file.is_file()
    ) == ["a/c/0/0", "zarr.json"]
    with pytest.raises(TooLargeError, match="unpacks to"):
        check_archive(path, max_bytes=5)
    monkeypatch.setattr("panoseg.app.archives.MAX_ENTRIES", 2)
    with pytest.raises(TooLargeError, match="3 files"):
        check_archive(path)
    monkeypatch.undo()
    path.write_bytes(zipped(("s/zarr.json", b"{}"), ("s/a", b"file"), ("s/a/c", b"folder")))
    with pytest.raises(AppError, match="both a file and a folder"):
        unpack_zarr(path, tmp_path / "clash")
    for name in ("s/" + "x" * 300, "s/" + "x/" * 600 + "y", "s/" + "é" * 200):
        path.write_bytes(zipped(("s/zarr.json", b"{}"), (name, b"x")))
        with pytest.raises(AppError, match="characters"):
            check_archive(path)
    path.write_bytes(zipped(("other", b"no")))
    with pytest.raises(AppError, match="Zarr"):
        unpack_zarr(path, tmp_path / "none")


def zarr_of(metadata: dict, name: str = ".zarray") -> bytes:
    return zipped(
        ("s/.zgroup", b'{"zarr_format": 2}'),
        (f"s/B02/{name}", json.dumps(metadata).encode()),
        ("s/B02/0", b"\x80\x04."),
    )


PICKLED = [
    zarr_of(
        {
            "zarr_format": 2,
            "dtype": "<i2",
            "filters": [{"id": "delta"}, {"id": "pickle"}],
            "compressor": None,
        }
    ),
    zarr_of({"zarr_format": 2, "dtype": "<i2", "compressor": {"id": "pickle"}}),
    zarr_of({"zarr_format": 2, "dtype": "|O", "compressor": None}),
    zarr_of({"metadata": {"B02/.zarray": {"filters": [{"id": "pickle"}]}}}, ".zmetadata"),
    zarr_of(
        {"zarr_format": 3, "codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
        "zarr.json",
    ),
    zarr_of(
        {
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {"codecs": [{"name": "x.y", "configuration": {}}]},
                }
            ]
        },
        "zarr.json",
    ),
]


@pytest.mark.parametrize("archive", PICKLED)
def test_stores_that_would_run_programs_are_refused(service, archive):
    with pytest.raises(AppError, match=r"codec|objects"):
        service.save_upload("ada", "season.zip", [archive])
    assert not list(service.settings.uploads_folder.iterdir())


@pytest.mark.parametrize("version", [2, 3])
def test_usual_stores_are_taken(service, tmp_path, version):
    make_cube(16).to_zarr(tmp_path / "season.zarr", zarr_format=version, consolidated=version == 2)
    files = [path for path in (tmp_path / "season.zarr").rglob("*") if path.is_file()]
    data = zipped(*((str(path.relative_to(tmp_path)), path.read_bytes()) for path in files))
    upload = service.save_upload("ada", "season.zip", [data])
    assert upload.kind == "cube"
    unpack_zarr(service.uploads.path("ada", upload.id), tmp_path / "again")
    assert len(open_cube(tmp_path / "again").data_vars) == 10
    service.uploads.delete("ada", upload.id)


def leads_out(path, how):
    """Make the first band of a season one whose numbers, or whose place, are another file's."""
    secret = path.with_name("secret.h5")
    secret.write_bytes(bytes(4096))
    with h5py.File(path, "r+") as file:
        shape, kind = file["B02"].shape, file["B02"].dtype
        del file["B02"]
        if how == "link":
            file["B02"] = h5py.ExternalLink(str(secret), "/B02")
        elif how == "raw":
            file.create_dataset("B02", shape, kind, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout(shape, kind)
            layout[:] = h5py.VirtualSource(str(secret), "B02", shape)
            file.create_virtual_dataset("B02", layout)


@pytest.mark.parametrize("how", ["link", "raw", "virtual"])
def test_seasons_that_read_files_of_the_server_are_refused(service, tmp_path, how):
    path = tmp_path / "season.nc"
    make_cube(16).to_netcdf(path)
    assert service.save_upload("ada", "season.nc", [path.read_bytes()]).kind == "cube"
    leads_out(path, how)
    with pytest.raises(AppError, match=r"'B02' refers to another file"):
        service.save_upload("ada", "season.nc", [path.read_bytes()])


REFUSED = [
    "file:///etc/passwd",
    "ftp://earth-search.aws.element84.com/v1",
    "gopher://earth-search.aws.element84.com/v1",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://0/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://localhost:5432/",
    "http://169.254.169.254/latest/meta-data",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://10.0.0.1/",
    "http://evil.example/",
    "http://earth-search.aws.element84.com.evil.example/",
    "http://evil.example/earth-search.aws.element84.com",
    "http://user:password@earth-search.aws.element84.com/v1",
    "http://earth-search.aws.element84.com@evil.example/",
    "http://earth-search.aws.element84.com#@evil.example/",
    "http://earth-search.aws.element84.com:99999/",
    "http://[::1",
    "http://\u2488\u2488/",
    "//earth-search.aws.element84.com/v1",
    "",
]


@pytest.fixture
def inside(monkeypatch):
    """Every name leads to this machine, as a name of an attacker may."""
    address = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(allowed_urls.socket, "getaddrinfo", lambda *_, **__: address)


@pytest.mark.parametrize("url", REFUSED)
def test_an_address_is_refused(inside, url):
    with pytest.raises(RefusedAddressError) as caught:
        AllowedUrls(AppSettings()).check(url)
    text = str(caught.value)
    assert text.endswith("."), text
    assert not text[0].islower(), text


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "::1"]
)
def test_spellings_of_addresses_are_known_to_be_addresses(host):
    """A proxy behind ours resolves names, but must get no private address."""
    assert _is_address(host)
    assert not _is_address("data.example.org")


def test_allowed_names_that_lead_inside(inside):
    url = "https://data.example.org/parcels.gpkg"
    for settings in (
        AppSettings(),
        AppSettings(allow=("*.example.org",)),
        AppSettings(allow=("data.example.org",)),
    ):
        with pytest.raises(
            RefusedAddressError, match="private" if settings.allow else "is not one of"
        ):
            AllowedUrls(settings).check(url)
    AllowedUrls(AppSettings(allow=("*.example.org",), private_addresses=True)).check(url)
    AllowedUrls(AppSettings(catalog="http://stac.intern/v1", private_addresses=True)).check(
        "http://stac.intern/v1"
    )


@pytest.fixture(scope="module")
def web():
    """A web server on this machine that redirects, and answers for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            places = {
                "/out": "http://evil.example/",
                "/round": "/round",
                "/meta": "http://169.254.169.254/",
                "/next": "/file",
            }
            if self.path in places:
                self.send_response(302)
                self.send_header("location", places[self.path])
                self.end_headers()
                return
            self.send_response(200 if self.path != "/none" else 404)
            self.end_headers()
            try:
                for _ in range(1 if self.path == "/file" else 64):
                    self.wfile.write(b"parcels" if self.path == "/file" else bytes(2**16))
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_downloads_follow_redirects_only_to_allowed_places(web, tmp_path):
    open_ = AllowedUrls(AppSettings(allow=("127.0.0.1",), private_addresses=True))
    open_.download(f"{web}/next", tmp_path / "a", 1)
    assert (tmp_path / "a").read_bytes() == b"parcels"
    for path, message in (
        ("out", "evil.example"),
        ("meta", "169.254"),
        ("round", "too often"),
        ("none", "404"),
        ("long", "1 MiB"),
    ):
        with pytest.raises(PanosegError, match=message):
            open_.download(f"{web}/{path}", tmp_path / "b", 1)
    assert not (tmp_path / "b").exists()
    with pytest.raises(RefusedAddressError, match="private"):
        AllowedUrls(AppSettings(allow=("127.0.0.1",))).download(f"{web}/file", tmp_path / "b", 1)


_GUARDED = """
import sys, urllib.request
import httpx, requests
from panoseg.app.egress import guard_process
from panoseg.app.settings import AppSettings
url, private = sys.argv[1], sys.argv[2] == "private"
guard_process(AppSettings(private_addresses=private))
print(requests.get(url + "/file").status_code, httpx.get(url + "/file").status_code, requests.get(url + "/file").text[:7])
try:
    print(urllib.request.urlopen(url + "/file").read())
except Exception as error:
    print(error)
try:
    requests.get(url.replace("http:", "https:"), timeout=5)
except Exception as error:
    print("403" in str(error))
import rasterio
from rasterio.errors import RasterioIOError
try:
    rasterio.open("/vsicurl/" + url + "/file")
except RasterioIOError as error:
    print(error)
"""


def test_a_guarded_process_reaches_nothing_inside(web):
    def run(word: str) -> list[str]:
        words = [sys.executable, "-c", _GUARDED, web, word]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    requests_, urllib_, tls, gdal = run("public")
    assert requests_.startswith("403 403 The add")
    assert "403" in urllib_
    assert tls == "True"
    assert "403" in gdal
    requests_, urllib_, _, gdal = run("private")
    assert requests_ == "200 200 parcels"
    assert urllib_ == "b'parcels'"
    assert "403" not in gdal


def test_gdal_knows_what_it_needs_and_no_more():
    program = """
import json
from panoseg.app.settings import limit_drivers
limit_drivers(writing=False)
import pyogrio, rasterio
with rasterio.Env() as env:
    print(json.dumps(sorted({*env.drivers(), *pyogrio.list_drivers()})))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    from panoseg.app.settings import GDAL_DRIVERS

    assert set(json.loads(done.stdout)) <= set(GDAL_DRIVERS)
    assert {"GTiff", "COG", "GPKG", "GeoJSON", "ESRI Shapefile"} <= set(json.loads(done.stdout))
    assert not done.stderr


def test_settings_of_the_folder_hold_no_secret(tmp_path):
    """No default secret: a new server's folder has nothing that signs or opens anything."""
    service = Service(AppSettings(tmp_path / "app", workers=0))
    service.close()
    assert sorted(path.name for path in Path(tmp_path / "app").iterdir()) == [
        "app.sqlite",
        "jobs",
        "uploads",
    ]
