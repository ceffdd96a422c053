"""The API: what each user may see and do, what is refused, what every answer carries."""

from __future__ import annotations

import json
import re
import socket
from functools import partial
from pathlib import Path

import pytest

from app_clients import LocalServer
from panoseg.app.server import housekeeping
from panoseg.app.settings import AppSettings, Limits
from panoseg.app.users import Users, add_user, read_users
from panoseg.errors import ConfigError, NotSignedInError, PanosegError

SAMPLE = {"kind": "map", "source": {"type": "sample", "size": 32}}
SQUARE = {
    "type": "Polygon",
    "coordinates": [[[3, 50], [3.01, 50], [3.01, 50.01], [3, 50.01], [3, 50]]],
}
LIMITS = Limits(area_km2=2, upload_mib=1, uploads=3, jobs=2)


@pytest.fixture
def server(tmp_path):
    server = LocalServer(tmp_path, limits=LIMITS)
    yield server
    server.service.close()


@pytest.fixture
def two(tmp_path):
    server = LocalServer(tmp_path, ("ada", "bob"), limits=LIMITS)
    yield server
    server.service.close()


def test_a_job_from_its_submission_to_its_files(server):
    client = server.client()
    job = client.post("/api/jobs", json={**SAMPLE, "name": "Mine"}).json()
    assert (job["state"], job["name"], job["owner"]) == ("queued", "Mine", "local")
    assert client.get("/api/jobs").json() == [job]
    assert client.get(f"/api/jobs/{job['id']}/files").json() == []
    assert client.post(f"/api/jobs/{job['id']}/share").status_code == 409
    server.finish(
        job["id"],
        {
            "map/areas.csv": "class",
            "map/.hidden": "no",
            "map/report.html": "<script>",
            "input/x": "no",
        },
    )
    paths = [file["path"] for file in client.get(f"/api/jobs/{job['id']}/files").json()]
    assert paths == ["map/areas.csv", "map/report.html"]
    csv = client.get(f"/api/jobs/{job['id']}/files/map/areas.csv")
    assert (csv.text, csv.headers["content-disposition"]) == (
        "class",
        'attachment; filename="areas.csv"',
    )
    report = client.get(f"/api/jobs/{job['id']}/files/map/report.html")
    assert report.headers["content-disposition"].startswith("inline")
    assert "sandbox" in report.headers["content-security-policy"]
    assert "script" not in report.headers["content-security-policy"]
    for path in (
        "request.json",
        "map/.hidden",
        "input/x",
        "map/../request.json",
        "..%2f..%2fapp.sqlite",
        "%2fetc%2fpasswd",
    ):
        assert client.get(f"/api/jobs/{job['id']}/files/{path}").status_code == 404


def test_a_result_is_shared_and_no_longer(two):
    ada, nobody = two.client("ada"), two.client()
    id = ada.post("/api/jobs", json=SAMPLE).json()["id"]
    two.finish(id, {"map/areas.csv": "class"})
    token = ada.post(f"/api/jobs/{id}/share").json()["token"]
    assert ada.post(f"/api/jobs/{id}/share").json()["token"] == token
    assert sorted(nobody.get(f"/api/shared/{token}").json()) == [
        "bytes",
        "created",
        "kind",
        "name",
    ], "no more of the owner's"
    assert nobody.get(f"/api/shared/{token}/files").json() == [
        {"path": "map/areas.csv", "bytes": 5}
    ]
    assert nobody.get(f"/api/shared/{token}/files/map/areas.csv").text == "class"
    assert nobody.get(f"/api/shared/{token}/files/request.json").status_code == 404
    assert nobody.get(f"/api/shared/{'x' * 32}").status_code == 404
    assert ada.delete(f"/api/jobs/{id}/share").status_code == 204
    assert nobody.get(f"/api/shared/{token}").status_code == 404


def test_nobody_touches_what_belongs_to_somebody_else(two):
    ada, bob = two.client("ada"), two.client("bob")
    id = ada.post("/api/jobs", json=SAMPLE).json()["id"]
    upload = ada.post("/api/uploads", params={"name": "a.json"}, content=json.dumps(SQUARE)).json()[
        "id"
    ]
    two.finish(id, {"map/areas.csv": "class"})
    for method, path in (
        ("GET", ""),
        ("GET", "/log"),
        ("GET", "/files"),
        ("GET", "/files/map/areas.csv"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("POST", "/share"),
        ("DELETE", "/share"),
        ("DELETE", ""),
    ):
        answer = bob.request(method, f"/api/jobs/{id}{path}")
        assert answer.status_code == 404, (method, path)
        assert answer.json() == bob.request(method, f"/api/jobs/{'0' * 32}{path}").json() | {
            "error": answer.json()["error"]
        }
    assert bob.put(f"/api/jobs/{id}/register", json={"upload": upload}).status_code == 404
    assert bob.get("/api/jobs").json() == []
    assert bob.get("/api/uploads").json() == []
    for method in ("GET", "DELETE"):
        assert bob.request(method, f"/api/uploads/{upload}").status_code == 404
    request = {**SAMPLE, "register_of": {"upload": upload}}
    assert bob.post("/api/jobs", json=request).status_code == 404
    assert ada.get(f"/api/jobs/{id}").status_code == 200


def test_signing_in(two):
    nobody = two.client()
    assert nobody.get("/api/jobs").status_code == 401
    assert nobody.post("/api/sign-in", json={"token": "no"}).status_code == 401
    answer = nobody.post("/api/sign-in", json={"token": two.tokens["bob"]})
    assert answer.json() == {"user": "bob", "sign_in": True}
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert nobody.get("/api/me").json()["user"] == "bob"
    kept = [
        line for line in two.settings.tokens.read_text().splitlines() if not line.startswith("bob")
    ]
    two.settings.tokens.write_text("\n".join(kept))
    assert nobody.get("/api/me").status_code == 401
    nobody.post("/api/sign-out")
    assert not nobody.cookies


def test_metrics_are_for_users_and_this_machine(two):
    assert two.client().get("/metrics").status_code == 401
    text = two.client("ada").get("/metrics").text
    assert 'panoseg_jobs{state="queued"} 0.0' in text
    assert "panoseg_workers 0.0" in text


def test_health(server):
    answer = server.client().get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    server.service.database.engine.dispose()
    for path in server.settings.folder.glob("app.sqlite*"):
        path.unlink()
    server.settings.folder.joinpath("app.sqlite").write_text("no database" * 99)
    assert server.client().get("/healthz").json()["status"] == "the database does not answer"
    answer = server.client().get("/api/jobs")
    assert answer.status_code == 503
    assert "database" in answer.json()["error"]


def test_every_answer_has_the_headers(server):
    for path in ("/api/jobs", "/api/none", "/healthz", "/docs"):
        headers = server.client().get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "server" not in headers
    assert server.client().get("/api/jobs").headers["cache-control"] == "private, no-store"


def test_the_background_map_is_the_only_foreign_source(tmp_path):
    server = LocalServer(
        tmp_path, background="https://{s}.tile.example.org/{z}/{x}/{y}.png", limits=LIMITS
    )
    policy = server.client().get("/docs").headers["content-security-policy"]
    assert "img-src 'self' data: blob: https://*.tile.example.org;" in policy
    server.service.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"origin": "http://[::1"}, 403),
        ({"host": "evil.example:8080"}, 421),
        ({"host": "localhost:9"}, 201),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8080"}, 201),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 201),
        ({"content-length": "99999999"}, 413),
    ],
)
def test_requests_of_other_sites_are_refused(server, headers, status):
    assert server.client().post("/api/jobs", json=SAMPLE, headers=headers).status_code == status


def test_hosts_of_a_server_behind_a_proxy(tmp_path):
    server = LocalServer(
        tmp_path, ("ada",), host="0.0.0.0", public_host=("maps.example.org",), limits=LIMITS
    )
    for host, status in (("maps.example.org", 200), ("other.example.org", 421)):
        assert server.client("ada").get("/api/me", headers={"host": host}).status_code == status
    server.service.close()


def test_hosts_of_a_server_that_was_told_none(tmp_path):
    server = LocalServer(tmp_path, ("ada",), host="0.0.0.0", limits=LIMITS)
    for host, status in (
        ("192.0.2.7:8080", 200),
        ("[2001:db8::7]", 200),
        (socket.gethostname(), 200),
        ("other.example.org", 421),
        ("[::1", 421),
    ):
        answer = server.client("ada").get("/api/me", headers={"host": host})
        assert answer.status_code == status, host
        assert answer.headers["content-security-policy"]
    server.service.close()


def test_long_bodies_are_cut_off(server):
    def endless():
        for _ in range(6):
            yield b" " * 1024**2

    answer = server.client().post(
        "/api/jobs", content=endless(), headers={"content-type": "application/json"}
    )
    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"kind": "map"},
        {"kind": "film", "source": {}},
        {**SAMPLE, "more": 1},
        {**SAMPLE, "name": ""},
        {**SAMPLE, "name": "a\nb"},
        {**SAMPLE, "weights": "../../weights"},
        {**SAMPLE, "options": {"views": 99}},
        {"kind": "map", "source": {"type": "sample", "size": 9}},
        {"kind": "map", "source": {"type": "cube", "upload": "../etc/passwd"}},
        {"kind": "map", "source": {"type": "cube", "upload": "0" * 32}},
        {"kind": "map", "source": {"type": "catalogue", "year": 2020}},
        {
            "kind": "map",
            "source": {
                "type": "catalogue",
                "year": 2020,
                "outline": {"type": "Point", "coordinates": [1, 2]},
            },
        },
        {
            "kind": "map",
            "source": {"type": "catalogue", "year": 2020, "outline": SQUARE, "catalogue": "nobody"},
        },
        {
            "kind": "map",
            "source": {
                "type": "catalogue",
                "year": 2020,
                "outline": SQUARE,
                "catalogue": "http://127.0.0.1/",
            },
        },
        {
            "kind": "map",
            "source": {"type": "catalogue", "year": 2020, "outline": SQUARE, "first": "2021-01-01"},
        },
        {"kind": "photo", "upload": "0" * 32, "weights": "none"},
        {**SAMPLE, "register_of": {"url": "file:///etc/passwd"}},
        {**SAMPLE, "register_of": {"url": "http://169.254.169.254/latest"}},
        {**SAMPLE, "register_of": {}},
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(server, request_):
    for path in ("/api/jobs", "/api/estimate"):
        answer = server.client().post(path, json=request_)
        assert 400 <= answer.status_code < 500
        assert "\n" not in answer.json()["error"]
        assert str(server.settings.folder) not in answer.json()["error"]
    assert not list(server.settings.jobs_folder.iterdir())


def test_estimates(server):
    sample = server.client().post("/api/estimate", json=SAMPLE).json()
    assert sample["km2"] == pytest.approx(0.1024)
    assert sample["download_bytes"] == 0
    assert 38 <= len(sample["scenes"]) <= 61
    assert all(0 <= scene["cloud_percent"] <= 100 for scene in sample["scenes"])
    larger = (
        server.client()
        .post("/api/estimate", json={"kind": "map", "source": {"type": "sample", "size": 128}})
        .json()
    )
    assert larger["seconds"] > sample["seconds"]


def test_limits(server):
    client = server.client()
    large = {"kind": "map", "source": {"type": "sample", "size": 160}}
    assert client.post("/api/jobs", json=large).status_code == 429
    assert [client.post("/api/jobs", json=SAMPLE).status_code for _ in range(3)] == [201, 201, 429]
    sent = [client.post("/api/uploads", content=json.dumps(SQUARE)).status_code for _ in range(4)]
    assert sent == [201, 201, 201, 429]
    assert (
        client.delete(f"/api/uploads/{client.get('/api/uploads').json()[0]['id']}").status_code
        == 204
    )
    assert client.post("/api/uploads", content=b"{" * 2 * 1024**2).status_code == 413
    claim = server.service.all_jobs.claim("w")
    server.service.all_jobs.finish(claim, 30 * 1024**3, 1.0, "done")
    assert client.post("/api/jobs", json=SAMPLE).status_code == 429
    assert client.post("/api/uploads", content=json.dumps(SQUARE)).status_code == 429


def test_official_parcels_for_a_finished_map(server):
    client = server.client()
    id = client.post("/api/jobs", json=SAMPLE).json()["id"]
    upload = client.post("/api/uploads", content=json.dumps(SQUARE)).json()
    assert (upload["kind"], upload["summary"]["km2"]) == (
        "outline",
        pytest.approx(0.797, abs=0.001),
    )
    assert client.put(f"/api/jobs/{id}/register", json={"upload": upload["id"]}).status_code == 409
    server.finish(id, {})
    assert (
        client.put(f"/api/jobs/{id}/register", json={"url": "http://10.0.0.1/x"}).status_code == 422
    )
    again = client.put(f"/api/jobs/{id}/register", json={"upload": upload["id"]}).json()
    assert (again["state"], again["request"]["register_of"]["upload"]) == ("queued", upload["id"])
    assert (
        json.loads((server.settings.jobs_folder / id / "input" / "register.geojson").read_text())
        == SQUARE
    )


def test_old_things_are_removed(server):
    client, service = server.client(), server.service
    id = client.post("/api/jobs", json=SAMPLE).json()["id"]
    upload = client.post("/api/uploads", content=json.dumps(SQUARE)).json()["id"]
    server.finish(id, {"map/areas.csv": "class"})
    stray = server.settings.jobs_folder / ("f" * 32)
    stray.mkdir()
    housekeeping(service)
    assert (server.settings.jobs_folder / id).exists()
    from sqlalchemy import text

    with service.database.writing() as session:
        for table, column in (("jobs", "ended"), ("uploads", "created")):
            session.execute(text(f"UPDATE {table} SET {column} = {column} - 31 * 86400"))
    import os

    os.utime(stray, (0, 0))
    housekeeping(service)
    assert not list(server.settings.jobs_folder.iterdir())
    assert not list(server.settings.uploads_folder.iterdir())
    assert client.get("/api/jobs").json() == []
    assert client.get(f"/api/uploads/{upload}").status_code == 404


def test_the_description_names_every_route_and_asks_nobody(server):
    client = server.client()
    description = client.get("/openapi.json").json()
    page = client.get("/docs").text
    assert all(path in page for path in description["paths"])
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": "0.0.0.0"}, "without users"),
        ({"host": "192.168.1.2"}, "without users"),
        ({"port": 99999}, "port"),
        ({"workers": -1}, "workers"),
        ({"lease_seconds": 0}, "lease"),
        ({"database": "mysql://x"}, "mysql"),
        ({"weights": (Path("a/x"), Path("b/x"))}, "weights"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(ConfigError, match=message):
        AppSettings(**change)
    with pytest.raises(ConfigError, match="keep-days"):
        Limits(keep_days=-1)
    with pytest.raises(ConfigError, match="uploads"):
        Limits(uploads=0)


def test_a_cookie_that_a_page_behind_tls_asks_for_goes_over_tls_alone(tmp_path):
    server = LocalServer(
        tmp_path, ("ada",), host="0.0.0.0", public_host=("maps.example.org",), limits=LIMITS
    )
    for scheme in ("http", "https"):
        headers = {"host": "maps.example.org", "origin": f"{scheme}://maps.example.org"}
        answer = server.client().post(
            "/api/sign-in", json={"token": server.tokens["ada"]}, headers=headers
        )
        cookie = answer.headers["set-cookie"].lower()
        assert ("secure" in cookie) == (scheme == "https")
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
    server.service.close()


def test_metrics_are_not_for_clients_of_a_proxy_on_this_machine(tmp_path):
    server = LocalServer(
        tmp_path, ("ada",), host="0.0.0.0", public_host=("maps.example.org",), limits=LIMITS
    )
    client = partial(server.client, client=("127.0.0.1", 50_000))
    assert client().get("/metrics").status_code == 200
    assert client().get("/metrics", headers={"host": "maps.example.org"}).status_code == 401
    assert client("ada").get("/metrics", headers={"host": "maps.example.org"}).status_code == 200
    server.service.close()


def test_a_file_of_users_that_is_of_no_use_lets_nobody_in_and_names_nothing(tmp_path):
    token = add_user(tmp_path / "users", "ada")
    users = Users(tmp_path / "users")
    good = (tmp_path / "users").read_text()
    for spoil in (
        lambda: (tmp_path / "users").write_text("ada secret\n"),
        (tmp_path / "users").unlink,
    ):
        spoil()
        with pytest.raises(PanosegError) as caught:
            users.user_of(token)
        assert caught.value.status == 503
        assert str(tmp_path) not in str(caught.value)
    (tmp_path / "users").write_text(good)
    assert users.user_of(token) == "ada"


def test_files_of_users(tmp_path):
    path = tmp_path / "users"
    for wrong in ("", "local", "a b", "a/../b", "x" * 70):
        with pytest.raises(ConfigError):
            add_user(path, wrong)
    first, second = add_user(path, "ada"), add_user(path, "ada")
    assert first not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    users = Users(path)
    assert users.user_of(first) == users.user_of(second) == "ada"
    for wrong in (None, "", "no", "\ud800"):
        with pytest.raises(NotSignedInError):
            users.user_of(wrong)
    path.write_text("ada secret\n")
    with pytest.raises(ConfigError, match="Line 1"):
        read_users(path)
    for content in ("", "# nobody\n"):
        path.write_text(content)
        with pytest.raises(PanosegError, match="contains no users"):
            Users(path)
    with pytest.raises(PanosegError):
        Users(tmp_path / "none")
