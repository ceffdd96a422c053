"""Results over HTTP: what an owner, another user, and a user with a link may read and change."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import app_map
from app_browser import finished_job
from app_clients import LocalServer
from panoseg.app import result_api

MAP = {"kind": "map", "name": "Four fields", "source": {"type": "sample", "size": 48}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    server = LocalServer(folder, ("ada", "bob"))
    job = finished_job(server.settings, MAP, app_map.make_map, owner="ada")
    yield server.client, job, server.service
    server.service.close()


@pytest.fixture
def ada(server):
    return server[0]("ada")


@pytest.fixture
def place(server):
    longitude, latitude = app_map.place(server[2].folder("ada", server[1]), 36, 12)
    return {"longitude": longitude, "latitude": latitude}


def test_description_areas_parcel_and_curve(server, ada, place):
    root = f"/api/jobs/{server[1]}"
    description = ada.get(f"{root}/description").json()
    assert description["parcels"] == 4
    assert description["official"]
    assert {row["crop"] for row in ada.get(f"{root}/areas").json()} >= {"corn", "meadow"}
    found = ada.get(f"{root}/parcels", params=place).json()
    assert found["parcel"]["crop"] == "corn"
    assert found["official"]["difference"] == "other crop"
    assert ada.get(f"{root}/parcels/2").json() == found["parcel"]
    curve = ada.get(f"{root}/parcels/2/ndvi").json()
    assert curve["dates"] == [layer["date"] for layer in description["dates"]]
    assert ada.get(f"{root}/differences").json()["counts"]["same"] == 1


def test_a_tile_is_sent_once(server, ada):
    root = f"/api/jobs/{server[1]}/tiles/parcels/0/0/0"
    first = ada.get(root)
    assert first.status_code == 200
    assert Image.open(io.BytesIO(first.content)).size == (256, 256)
    again = ada.get(root, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert ada.get(root, params={"hidden": "3"}).headers["etag"] != first.headers["etag"]


def test_tiles_do_not_wait_for_clicks(server, ada, place, monkeypatch):
    """However many people ask what takes long: more than the server has threads for all other
    requests.
    """
    root, go = f"/api/jobs/{server[1]}", threading.Event()
    monkeypatch.setattr(result_api, "parcel_at", lambda *of: go.wait(60) and None)
    with ada, ThreadPoolExecutor(60) as pool:
        clicks = [pool.submit(ada.get, f"{root}/parcels", params=place) for _ in range(50)]
        try:
            assert pool.submit(ada.get, f"{root}/tiles/parcels/2/0/0").result(30).status_code == 200
            assert pool.submit(ada.get, f"{root}/description").result(30).status_code == 200
        finally:
            go.set()
        assert len([click.result(60) for click in clicks]) == 50


def test_nothing_is_drawn_for_a_client_that_has_gone(server, ada, monkeypatch):
    async def gone(request):
        return True

    monkeypatch.setattr("starlette.requests.Request.is_disconnected", gone)
    monkeypatch.setattr(result_api, "_tile", lambda *of: pytest.fail("drawn"))
    assert ada.get(f"/api/jobs/{server[1]}/tiles/parcels/0/0/0").status_code == 499


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("tiles/parcels/3/9/0", 404),
        ("tiles/parcels/99/0/0", 404),
        ("tiles/parcels/1/x/0", 422),
        ("tiles/secrets/1/0/0", 422),
        ("tiles/ndvi/1/0/0?date=../../../x", 422),
        ("tiles/ndvi/1/0/0?date=2000-01-01", 404),
        ("tiles/parcels/1/0/0?hidden=1;2", 422),
        ("parcels/999", 404),
        ("parcels/1%20OR%201", 422),
        ("parcels?longitude=999&latitude=0", 422),
        ("parcels?longitude=nan&latitude=0", 422),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(server, ada, path, status):
    answer = ada.get(f"/api/jobs/{server[1]}/{path}")
    assert answer.status_code == status
    assert answer.json()["error"]


def test_nobody_else_sees_it(server, place):
    client, job, _ = server
    for path in (
        "description",
        "areas",
        "tiles/parcels/0/0/0",
        "parcels/1",
        "corrections",
        "differences",
        "corrected/gpkg",
    ):
        assert client("bob").get(f"/api/jobs/{job}/{path}").status_code == 404
        assert client(None).get(f"/api/jobs/{job}/{path}").status_code == 401
    body = {"what": "crop", "parcel": "1", "crop": "beet"}
    assert client("bob").post(f"/api/jobs/{job}/corrections", json=body).status_code == 404
    assert client("bob").get(f"/api/jobs/{job}/training").status_code == 404


def test_a_link_reads_and_cannot_change(server, ada):
    client, job, service = server
    token = service.share("ada", job)
    guest = client(None)
    for path in (
        "description",
        "areas",
        "tiles/parcels/0/0/0",
        "parcels/1",
        "corrections",
        "corrected/areas",
    ):
        assert guest.get(f"/api/shared/{token}/{path}").status_code == 200
    body = {"what": "crop", "parcel": "1", "crop": "beet"}
    assert guest.post(f"/api/shared/{token}/corrections", json=body).status_code in (404, 405)
    service.unshare("ada", job)
    assert guest.get(f"/api/shared/{token}/description").status_code == 404


def test_corrections(server, ada, place):
    root = f"/api/jobs/{server[1]}/corrections"
    assert ada.get(root).json() == {"steps": [], "parcels": []}
    changed = ada.post(root, json={"what": "crop", "parcel": "2", "crop": "beet"}).json()
    assert [parcel["crop"] for parcel in changed["parcels"]] == ["beet"]
    own = changed["parcels"][0]["id"]
    merged = ada.post(root, json={"what": "merge", "first": own, "second": "4"})
    assert merged.status_code == 200
    line = [
        [place["longitude"] - 1, place["latitude"]],
        [place["longitude"] + 1, place["latitude"]],
    ]
    [joined] = merged.json()["parcels"]
    cut = ada.post(root, json={"what": "split", "parcel": joined["id"], "line": line}).json()
    assert len(cut["parcels"]) == 2
    download = ada.get(f"/api/jobs/{server[1]}/corrected/geojson")
    assert "parcels.geojson" in download.headers["content-disposition"]
    rows = [feature["properties"] for feature in download.json()["features"]]
    assert sorted(row["corrected"] for row in rows) == [False, False, True, True]
    assert {row["predicted"] for row in rows if row["corrected"]} == {"corn + winter barley"}
    assert ada.get(f"/api/jobs/{server[1]}/corrected/pdf").status_code == 422
    for body in (
        {"what": "crop", "parcel": "2", "crop": "beet"},
        {"what": "crop", "parcel": "1", "crop": "moon dust"},
        {"what": "burn", "parcel": "1"},
        {"what": "split", "parcel": "1", "line": [[0, 0]]},
        {"what": "split", "parcel": "1", "line": [[0, 0], [1e300, 0]]},
        {"what": "merge", "first": "1", "second": "1"},
    ):
        answer = ada.post(root, json=body)
        assert answer.status_code in (404, 422), answer.text
        assert answer.json()["error"]
    for _ in range(3):
        assert ada.delete(f"{root}/last").status_code == 200
    assert ada.delete(f"{root}/last").status_code == 409


def test_training_data(server, ada):
    job = server[1]
    assert ada.get(f"/api/jobs/{job}/training").status_code == 409
    answer = ada.get(f"/api/jobs/{job}/training", params={"everything": "true", "size": 16})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert ada.get(f"/api/jobs/{job}/training", params={"size": 17}).status_code == 422
