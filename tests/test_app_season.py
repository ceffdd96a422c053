"""A season of one's own in the web application: how it is understood, and what its file lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import shapely
from playwright.sync_api import expect

from app_browser import CHROMIUM, PATIENT_MS, Watched, chromium, serving
from app_clients import LocalServer
from cubes import LEFT, TOP, make_cube
from panoseg.app.layers import read_layers
from panoseg.app.parcels import curve_of
from panoseg.app.requests import FIELD_LABELS, in_field_words, parse_request
from panoseg.app.stages import JobContext, run_stages
from panoseg.cli.app import JobOptions, _request
from panoseg.cube import ReadOptions
from panoseg.errors import ConfigError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from small_networks import save_small_networks

LAYERS = {band: f"layer{index}" for index, band in enumerate(PASTIS_BANDS)}
BANDS = ",".join(f"{band}={name}" for band, name in LAYERS.items())


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory):
    """A season whose bands are layer0 to layer9."""
    path = tmp_path_factory.mktemp("season") / "unnamed.nc"
    make_cube(32).rename(LAYERS).to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    save_small_networks(folder)
    server = LocalServer(folder, ("ada", "bob"), weights=(folder / "tiny",))
    yield server
    server.service.close()


@pytest.fixture(scope="module")
def upload(server, unnamed):
    """The season as ada uploads it, before anything is stated."""
    answer = server.client("ada").post(
        "/api/uploads", params={"name": "unnamed.nc"}, content=unnamed.read_bytes()
    )
    assert answer.status_code == 201
    return answer.json()


def job_of(upload: dict, **read: object) -> dict:
    source = {"type": "cube", "upload": upload["id"], "read": read}
    return {"kind": "map", "weights": "tiny", "source": source, "options": {"views": 1}}


def test_a_season_whose_bands_have_no_names_is_mapped_once_they_are_stated(server, upload):
    ada = server.client("ada")
    summary = upload["summary"]
    assert upload["kind"] == "cube"
    assert summary["problem"].startswith("The cube lacks B02, B03,")
    assert summary["problem"].endswith("say which is which in the field Bands, e.g. B02=NAME.")
    assert (summary["rows"], summary["days"], summary["read"]) == ([], [], {})
    assert "layer9 (time, y, x) uint16" in " ".join(summary["content"])
    assert str(server.settings.folder) not in json.dumps(upload)
    for path in ("/api/jobs", "/api/estimate"):
        refused = ada.post(path, json=job_of(upload))
        assert (refused.status_code, refused.json()["error"]) == (422, summary["problem"])
    fields = {"bands": BANDS, "first": "2018-11-01", "season_start": "08-15", "crs": "EPSG:32631"}
    checked = ada.post(f"/api/uploads/{upload['id']}/check", json=fields).json()
    assert ada.get(f"/api/uploads/{upload['id']}").json() == checked
    summary = checked["summary"]
    assert (summary["problem"], summary["read"]) == (None, fields)
    assert (summary["format"], summary["dates"], summary["used"]) == ("NetCDF", 6, 5)
    assert (summary["first"], summary["last"]) == ("2018-10-05", "2019-09-10")
    assert summary["km2"] == pytest.approx(0.1024)
    rows = dict(summary["rows"])
    assert rows["Bands"].startswith("B02 = layer0, B03 = layer1")
    assert rows["Coordinate system"] == "EPSG:32631, from the field Coordinate system"
    assert [day["used"] for day in summary["days"]] == [False] + [True] * 5
    assert ada.post("/api/estimate", json=job_of(upload, **fields)).json()["km2"] > 0
    job = ada.post("/api/jobs", json=job_of(upload, **fields)).json()
    assert job["request"]["source"]["read"]["bands"] == BANDS
    folder = server.settings.jobs_folder / job["id"]
    request = parse_request(json.loads((folder / "request.json").read_text()))
    context = JobContext(server.settings, folder, request, lambda text: None)
    run_stages(context, lambda stage, before: lambda share, text: None)
    assert json.loads((folder / "map" / "map.json").read_text())["options"]["read"] == fields
    assert [layer.used for layer in read_layers(folder / "layers")] == [False] + [True] * 5
    square = shapely.box(LEFT + 20, TOP - 120, LEFT + 120, TOP - 20)
    assert len(curve_of(folder, square).dates) == 6


def test_a_zipped_store_without_coordinate_system_and_days_that_leave_nothing(server, tmp_path):
    cube = make_cube(16).drop_vars("spatial_ref")
    for name in cube.variables:
        cube[name].attrs.clear()
    cube.to_zarr(tmp_path / "season.zarr", zarr_format=3, consolidated=False)
    data = Path(shutil.make_archive(tmp_path / "a", "zip", tmp_path, "season.zarr")).read_bytes()
    ada = server.client("ada")
    upload = ada.post("/api/uploads", content=data).json()
    assert (
        "in the field Coordinate system, in most cases a UTM zone" in upload["summary"]["problem"]
    )
    check = f"/api/uploads/{upload['id']}/check"
    summary = ada.post(check, json={"crs": "32631", "nodata": 9, "offset": "0"}).json()["summary"]
    assert (summary["format"], summary["problem"]) == ("Zarr", None)
    assert dict(summary["rows"])["No data"] == "0, NaN, 9"
    summary = ada.post(check, json={"crs": "EPSG:4326"}).json()["summary"]
    assert summary["problem"]
    assert summary["rows"] == []
    summary = ada.post(check, json={"crs": "32631", "first": "2019-08-01"}).json()["summary"]
    assert summary["problem"].startswith("Only 1 of the 6 dates can be used")
    assert summary["km2"] > 0
    assert summary["warnings"] == [text for text in summary["warnings"] if "--" not in text]


@pytest.mark.parametrize(
    "read",
    [
        {"more": 1},
        {"bands": "B02=" + "x" * 1000},
        {"bands": "B02=a\x00"},
        {"bands": "B02"},
        {"nodata": "none"},
        {"nodata": 10**400},
        {"scale": 0},
        {"scale": -1},
        {"scale": [1]},
        {"offset": "1e999"},
        {"offset": "-1000@yesterday"},
        {"crs": "+init=/etc/passwd:x"},
        {"crs": "EPSG:99999"},
        {"crs": "EPSG:1\n"},
        {"season_start": "02-30"},
        {"first": "0001-01-01"},
        {"first": "2019-05-02", "last": "2019-05-01"},
    ],
)
def test_fields_that_mean_nothing_are_refused(server, upload, read):
    ada = server.client("ada")
    for path, body in (
        (f"/api/uploads/{upload['id']}/check", read),
        ("/api/jobs", job_of(upload, **read)),
    ):
        answer = ada.post(path, content=json.dumps(body))
        assert answer.status_code == 422, answer.json()
        assert "\n" not in answer.json()["error"]
        assert "--" not in answer.json()["error"]


def test_only_ones_own_seasons_are_checked(server, upload):
    ada, bob = server.client("ada"), server.client("bob")
    check = f"/api/uploads/{upload['id']}/check"
    assert bob.post(check, json={}).status_code == 404
    assert server.client().post(check, json={}).status_code == 401
    square = '{"type":"Polygon","coordinates":[[[3,51],[3.02,51],[3.02,51.01],[3,51]]]}'
    outline = ada.post("/api/uploads", content=square).json()["id"]
    assert ada.post(f"/api/uploads/{outline}/check", json={}).status_code == 422
    with server.service.uploads._checking.slot("ada"), server.service.uploads._checking.slot("ada"):
        assert ada.post(check, json={}).status_code == 429


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "B04 and red are both band B04: choose one with --bands B04=red.",
            "B04 and red are both band B04: choose one with B04=red in the field Bands.",
        ),
        (
            "It is no number: correct it, or pass --scale and --offset.",
            "It is no number: correct it, or fill in the field Scale and the field Offset.",
        ),
        (
            "1 date lies outside: --season-start, --year, or --from and --to choose another.",
            "1 date lies outside: the field Season start, the field First day and the field Last"
            " day choose another.",
        ),
        (
            "--from 2020-01-01 lies after --to 2019-01-01; exchange them.",
            '"2020-01-01" in the field First day lies after 2019-01-01 in the field Last day;'
            " exchange them.",
        ),
        ("--bands names x, which it lacks.", "The field Bands names x, which it lacks."),
        ("--scale must be above 0, not -1.", "The field Scale must be above 0, not -1."),
    ],
)
def test_messages_name_the_fields_of_the_page(text, shown):
    assert in_field_words(text) == shown


def test_the_command_passes_the_fields(tmp_path):
    class Client:
        calls = ()

        def upload(self, path):
            return {"id": "0" * 32}

        def check_season(self, id, read):
            self.calls = (*self.calls, (id, read))

    client = Client()
    read = ReadOptions(bands=BANDS, nodata=-1.0)
    request = _request(client, JobOptions(cube=tmp_path, read=read))
    assert request["source"]["read"] == {"bands": BANDS, "nodata": -1.0}
    assert client.calls == (("0" * 32, request["source"]["read"]),)
    assert _request(client, JobOptions(cube=tmp_path))["source"]["read"] == {}
    assert len(client.calls) == 1
    with pytest.raises(ConfigError, match="need --cube"):
        JobOptions(sample=64, read=read)


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed")
def test_a_season_is_put_right_on_the_page(unnamed, tmp_path):
    with (
        serving(tmp_path / "app", "--workers", "0") as address,
        chromium() as browser,
    ):
        look = Watched(browser, address)
        page = look.page
        look.goto("/")
        page.get_by_role("button", name="My own images").click()
        page.wait_for_selector("text=Choose a file with a season")
        page.locator("input[type=file]").first.set_input_files(unnamed)
        page.wait_for_selector("text=say which is which in the field Bands")
        page.wait_for_selector("text=The season cannot be mapped like this")
        expect(page.get_by_role("button", name="Start")).to_be_disabled(timeout=PATIENT_MS)
        look.shot("start-season-refused")
        for label in FIELD_LABELS.values():
            expect(page.get_by_label(label, exact=True)).to_be_visible(timeout=PATIENT_MS)
        page.get_by_label("Coordinate system", exact=True).fill("moon")
        page.get_by_role("button", name="Check again").click()
        page.wait_for_selector("text=Write the coordinate system as its number")
        page.get_by_label("Coordinate system", exact=True).fill("")
        page.get_by_label("Bands", exact=True).fill(BANDS)
        page.wait_for_selector("text=the fields have changed")
        page.get_by_role("button", name="Check again").click()
        page.wait_for_selector("text=/B02.=.layer0/")
        expect(page.get_by_label("Bands", exact=True)).to_be_hidden(timeout=PATIENT_MS)
        page.get_by_role("button", name="Close").click()
        page.wait_for_selector("text=0.1 km²")
        expect(page.get_by_role("button", name="Start")).to_be_enabled(timeout=PATIENT_MS)
        page.get_by_text("Dates, 6 of 6 used").click()
        page.wait_for_selector("text=2019-09-10 used")
        look.shot("start-season")
        look.check()
        page.get_by_text("State what the file does not say").click()
        page.set_viewport_size({"width": 390, "height": 1700})
        look.shot("start-season-phone")
        look.check()
        look.close()
