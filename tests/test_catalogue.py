"""Catalogues: searched month by month with patience, saved before pixels are read; their addresses
signed and opened.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pystac.link import Link
from pystac_client.exceptions import APIError

from catalogue_server import NEEDS_RUSTAC, serve
from cubes import item
from panoseg.errors import CatalogueError
from panoseg.imagery import catalogue as module
from panoseg.imagery import remote
from panoseg.imagery.area import Area
from panoseg.imagery.catalogue import (
    CATALOGUES,
    Catalogue,
    find_catalogue,
    load_scenes,
    save_scenes,
    search,
)
from panoseg.imagery.remote import Signer, check_credentials, gdal_options, gdal_path
from panoseg.imagery.sentinel2 import PASTIS_BANDS

pytestmark = [NEEDS_RUSTAC, pytest.mark.usefixtures("short_retries")]
FARM = Area(shapely.box(4.059, 50.744, 4.067, 50.748), "farm", 0.25)
ELSEWHERE = Area(shapely.box(4.5, 50.744, 4.51, 50.748), "elsewhere", 0.25)
SPRING = date(2019, 3, 1), date(2019, 5, 31)


@pytest.fixture(scope="module")
def server(real_data, tmp_path_factory):
    """A catalogue of all 26 scenes."""
    with serve(real_data / "flanders-2019" / "stac", tmp_path_factory.mktemp("api")) as running:
        yield running


@contextmanager
def faults(server, **changes):
    for name, value in changes.items():
        setattr(server.faults, name, value)
    try:
        yield
    finally:
        server.faults.__init__()


def test_a_search_goes_month_by_month_and_page_by_page(server, monkeypatch):
    monkeypatch.setattr(module, "PAGE_SIZE", 1)
    server.requests.clear()
    found = search(FARM, *SPRING, find_catalogue(server.url))
    days = [scene["properties"]["datetime"][:10] for scene in found]
    assert days == [
        "2019-03-07",
        "2019-03-22",
        "2019-04-01",
        "2019-04-16",
        "2019-05-11",
        "2019-05-16",
    ]
    searches = [request for request in server.requests if "search" in request]
    assert len(searches) >= 6  # three months, two pages each


def test_the_first_and_the_last_day_count(server):
    found = search(FARM, date(2019, 3, 7), date(2019, 4, 1), find_catalogue(server.url))
    assert [scene["properties"]["datetime"][:10] for scene in found] == [
        "2019-03-07",
        "2019-03-22",
        "2019-04-01",
    ]


@pytest.mark.parametrize(
    ("outline", "first", "last"),
    [
        (shapely.box(179.4, -16.7, 179.5, -16.6), "2019-05-01T12:", "2019-05-03T12:"),
        (shapely.box(-179.5, -16.7, -179.4, -16.6), "2019-05-02T11:", "2019-05-04T11:"),
        (
            shapely.union_all(
                [shapely.box(179.9, -16.7, 180, -16.6), shapely.box(-180, -16.7, -179.99, -16.6)]
            ),
            "2019-05-01T12:",
            "2019-05-03T12:",
        ),
        (shapely.box(0, 50, 0.1, 50.1), "2019-05-01T23:59:", "2019-05-03T23:59:"),
    ],
    ids=["west of the date line", "east of it", "over it", "Greenwich"],
)
def test_days_are_those_of_the_place(monkeypatch, outline, first, last):
    """The morning of 2 May in Fiji is the evening of 1 May in UTC."""
    asked = []

    def answer(**question):
        asked.append([f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in question["datetime"]])
        return SimpleNamespace(items_as_dicts=lambda: iter([{"id": "a", "geometry": None}]))

    monkeypatch.setattr(module, "_open", lambda _: SimpleNamespace(search=answer))
    search(
        Area(outline, "place", 1.0),
        date(2019, 5, 2),
        date(2019, 5, 3),
        Catalogue("https://example.org", ("one",)),
    )
    [[start, end]] = asked
    assert start.startswith(first)
    assert end.startswith(last)


def test_only_scenes_that_meet_the_area_come(server):
    with pytest.raises(
        CatalogueError, match="has no scene of elsewhere from 2019-03-01 to 2019-05-31"
    ):
        search(ELSEWHERE, *SPRING, find_catalogue(server.url))
    beside = shapely.box(
        4.0, 50.7, 4.05, 50.8
    )  # the box around both parts holds the scenes, the area does not
    around = Area(beside.union(shapely.box(4.08, 50.7, 4.1, 50.8)), "around", 1.0)
    with pytest.raises(CatalogueError, match="has no scene"):
        search(around, *SPRING, find_catalogue(server.url))


def test_long_outlines_are_sent_short_and_meant_exactly(server):
    ring = shapely.Point(4.063, 50.746).buffer(0.2, quad_segs=200)
    assert len(search(Area(ring, "round", 900.0), *SPRING, find_catalogue(server.url))) == 6
    with pytest.raises(CatalogueError, match="has no scene"):  # its hull has them
        search(
            Area(ring.difference(ring.buffer(-0.1)), "ring", 900.0),
            *SPRING,
            find_catalogue(server.url),
        )


@pytest.mark.parametrize("fault", [{"statuses": [429, 500, 503]}, {"dropped": 3}, {"slow_s": 0.05}])
def test_a_catalogue_in_trouble_is_asked_again(server, fault):
    with faults(server, paths="/search", **fault):
        assert len(search(FARM, *SPRING, find_catalogue(server.url))) == 6
        assert not server.faults.statuses
        assert not server.faults.dropped


@pytest.mark.parametrize(
    "fault", [{"statuses": [500] * 50}, {"dropped": 50}, {"statuses": [404] * 3}]
)
def test_a_catalogue_that_stays_in_trouble_is_one_line(server, fault):
    with (
        faults(server, paths="/search", **fault),
        pytest.raises(CatalogueError, match="does not answer") as caught,
    ):
        search(FARM, *SPRING, find_catalogue(server.url))
    assert "\n" not in str(caught.value)


def test_a_catalogue_that_is_down_is_one_line():
    with pytest.raises(CatalogueError, match="does not answer") as caught:
        search(FARM, *SPRING, Catalogue("http://127.0.0.1:9", ("a", "b")))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_is_no_catalogue_is_one_line(server):
    with pytest.raises(CatalogueError, match="does not answer"):
        search(FARM, *SPRING, find_catalogue(f"{server.url}/files/S2_31UES_20190416_0_L2A/B02.tif"))
    with pytest.raises(
        CatalogueError, match="earth-search, planetary-computer, copernicus, or the URL"
    ):
        find_catalogue("nowhere")
    with pytest.raises(
        CatalogueError, match="has none of the collections landsat, modis, but sentinel-2-l2a"
    ):
        search(FARM, *SPRING, Catalogue(server.url, ("landsat", "modis")))


def test_collections_by_name(server):
    assert find_catalogue("earth-search") == CATALOGUES["earth-search"]
    assert find_catalogue("earth-search", "sentinel-2-c1-l2a").collections == ("sentinel-2-c1-l2a",)
    with pytest.raises(CatalogueError, match="in its collection landsat"):
        search(FARM, *SPRING, find_catalogue(server.url, "landsat"))


def features(real_data: Path) -> list[dict]:
    values = [json.loads(path.read_text()) for path in sorted((real_data / "stac-items").iterdir())]
    return [item for value in values for item in value.get("features", [value])]


def test_all_items_of_the_public_catalogues_are_scenes(real_data, tmp_path):
    items = features(real_data)
    assert len(items) == 17
    save_scenes(items, tmp_path / "scenes.json", {})
    scenes, broken = load_scenes(tmp_path / "scenes.json")
    assert not broken
    assert {scene.id for scene in scenes} == {item["id"] for item in items}
    assert [scene.time for scene in scenes] == sorted(scene.time for scene in scenes)
    for scene in scenes:
        assert set(scene.assets) >= {*PASTIS_BANDS, "SCL"}
        assert scene.epsg in (32635, 32658, 32724, 32735)
        assert all(
            gdal_path(asset.href, Unsigned()).startswith(("/vsicurl/https://", "/vsis3/eodata/"))
            for asset in scene.assets.values()
        )


class Unsigned(Signer):
    """Asks nobody."""

    def sign(self, href):
        return f"{href}?signed"


@pytest.mark.parametrize(
    ("href", "words"),
    [
        ("/etc/passwd", "not a URL"),
        ("file:///etc/passwd", "not a URL"),
        ("/vsizip//etc/x.zip/a", "not a URL"),
        ("./B02.tif", "not a URL"),
        ("https:///B02.tif", "not a URL"),
        (5, "TypeError|AttributeError"),
    ],
)
def test_a_catalogue_cannot_name_files_of_ours(tmp_path, href, words):
    save_scenes(
        [item("a", "2019-05-01T10:00:00Z", {"B02": {"href": href}})], tmp_path / "scenes.json", {}
    )
    scenes, broken = load_scenes(tmp_path / "scenes.json")
    assert scenes == []
    assert list(broken) == ["a"]
    assert any(word in broken["a"] for word in words.split("|"))


def test_a_link_in_an_answer_cannot_lead_to_our_files(tmp_path):
    (tmp_path / "secret.json").write_text('{"features": []}')
    for address in (
        str(tmp_path / "secret.json"),
        f"file://{tmp_path}/secret.json",
        Link("next", str(tmp_path / "secret.json")),
    ):
        with pytest.raises(APIError, match="not the address of a server"):
            module._RetryingIO().read_text(address)


def test_pages_that_never_end_are_ended(server, monkeypatch):
    monkeypatch.setattr(module, "MAX_ITEMS", 1)
    with pytest.raises(CatalogueError, match="more than 1 scenes of a month"):
        search(FARM, *SPRING, find_catalogue(server.url))


def test_answers_that_never_end_are_ended(server, monkeypatch):
    monkeypatch.setattr(module, "PAGE_SIZE", 1)
    monkeypatch.setattr(module, "MAX_ANSWERS", 5)
    with pytest.raises(CatalogueError, match="6 answers with"):
        search(FARM, *SPRING, find_catalogue(server.url))
    monkeypatch.setattr(module, "MAX_ANSWERS", 100)
    monkeypatch.setattr(module, "MAX_LIST_BYTES", 10_000)
    with pytest.raises(CatalogueError, match="characters, and no end"):
        search(FARM, *SPRING, find_catalogue(server.url))


@contextmanager
def answering(respond):
    """A server whose every answer is what ``respond`` does with its handler; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(ConnectionError):
                respond(self)

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(
        target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def endless(handler):
    """Spaces without end, which are JSON so far."""
    handler.send_response(302 if handler.path == "/away" else 200)
    handler.send_header("Location", "/")
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65536)


def nested(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"[" * 100_000)


@pytest.mark.parametrize("path", ["/", "/away"])
def test_an_answer_without_end_costs_no_memory(monkeypatch, path):
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1_000_000)
    with answering(endless) as url:
        with pytest.raises(CatalogueError, match="longer than 1,000,000 bytes"):
            search(FARM, *SPRING, find_catalogue(f"{url}{path}"))
        monkeypatch.setattr(remote, "MAX_TOKEN_BYTES", 100_000)
        with pytest.raises(requests.RequestException, match="longer than 100,000 bytes"):
            Signer(url).sign("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B02.tif")
        monkeypatch.setattr(remote, "MAX_ANSWER_S", 0.0)
        with pytest.raises(CatalogueError, match="an answer that does not end"):
            search(FARM, *SPRING, find_catalogue(f"{url}{path}"))


def test_an_answer_that_is_nested_too_deeply_is_one_line():
    with answering(nested) as url, pytest.raises(CatalogueError, match="nested too deeply"):
        search(FARM, *SPRING, find_catalogue(url))


def test_scenes_of_no_time_are_left_out(tmp_path):
    times = ("9999-12-31T23:00:00Z", "0001-01-01T00:30:00+02:00", "2019-05-01T10:00:00")
    save_scenes(
        [item(str(place), time, {}) for place, time in enumerate(times)],
        tmp_path / "scenes.json",
        {},
    )
    scenes, broken = load_scenes(tmp_path / "scenes.json")
    assert [scene.id for scene in scenes] == ["2"]
    assert set(broken) == {"0", "1"}
    assert scenes[0].day(timedelta(hours=-11)) == date(2019, 4, 30)


@pytest.mark.parametrize("properties", [["datetime"], "datetime", 3, None, {}])
def test_an_item_that_says_nothing_of_itself_costs_itself(monkeypatch, properties):
    """It is saved with the others, and left out where the list is read."""
    strange = {
        "type": "Feature",
        "id": "a",
        "properties": properties,
        "geometry": None,
        "assets": {},
    }
    answer = SimpleNamespace(
        search=lambda **_: SimpleNamespace(items_as_dicts=lambda: iter([strange]))
    )
    monkeypatch.setattr(module, "_open", lambda _: answer)
    assert search(FARM, *SPRING, Catalogue("https://example.org", ("one",))) == [strange]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "coordinates", "href"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(
        ["id", "properties", "assets", "geometry", "links", "href", "raster:bands", "gsd"]
    ),
    json_values,
)
def test_items_may_hold_anything(tmp_path, key, value):
    scene = item("a", "2019-05-01T10:00:00Z", {"B02": {"href": "https://example.org/B02.tif"}})
    (
        scene
        if key in ("id", "properties", "assets", "geometry", "links")
        else scene["assets"]["B02"]
    )[key] = value
    save_scenes([scene, value], tmp_path / "scenes.json", {})
    scenes, broken = load_scenes(tmp_path / "scenes.json")
    assert len(scenes) + len(broken) >= 1
    if isinstance(value, dict):
        assert module._meets(scene, FARM.outline) in (True, False)


def test_relative_addresses_are_those_of_the_item(tmp_path):
    scene = item("a", "2019-05-01T10:00:00Z", {"B02": {"href": "../x/B02.tif"}})
    scene["links"] = [{"rel": "self", "href": "https://example.org/items/a/item.json"}]
    save_scenes([scene], tmp_path / "scenes.json", {})
    assert (
        load_scenes(tmp_path / "scenes.json")[0][0].assets["B02"].href
        == "https://example.org/items/x/B02.tif"
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"features": 3}', "[" * 100_000])
def test_a_list_of_scenes_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "scenes.json").write_text(content)
    with pytest.raises(CatalogueError, match=r"scenes\.json cannot be read"):
        load_scenes(tmp_path / "scenes.json")


BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/58/U/GE/B02.tif"


class Tokens:
    """Counts what a service of tokens is asked, and gives tokens that last so long."""

    def __init__(self, lasting: timedelta) -> None:
        self.lasting, self.asked = lasting, []

    def __call__(self, place):
        self.asked.append(place)
        return f"token{len(self.asked)}", datetime.now(UTC) + self.lasting


def test_planetary_computer_is_signed_once_an_hour(monkeypatch):
    signer, tokens = Signer(), Tokens(timedelta(hours=1))
    monkeypatch.setattr(signer, "fetch_token", tokens)
    assert gdal_path(BLOB, signer) == f"/vsicurl/{BLOB}?token1"
    assert gdal_path(BLOB.replace("B02", "B03"), signer).endswith("B03.tif?token1")
    assert tokens.asked == ["sentinel2l2a01/sentinel2-l2"]
    for other in (
        "https://someone.blob.core.windows.net/x/B02.tif",
        "https://example.org/B02.tif",
        f"{BLOB}?signed=1",
    ):
        assert gdal_path(other, signer) == f"/vsicurl/{other}"
    assert len(tokens.asked) == 1


def test_a_token_that_ends_soon_is_fetched_again(monkeypatch):
    signer = Signer()
    monkeypatch.setattr(signer, "fetch_token", Tokens(timedelta(minutes=2)))
    assert [signer.sign(BLOB)[-6:] for _ in range(2)] == ["token1", "token2"]


def test_tokens_come_from_the_service(server):
    server.requests.clear()
    with faults(server, paths="/tokens", statuses=[500, 429]):
        assert Signer(f"{server.url}/tokens").sign(BLOB) == f"{BLOB}?sig=1"
    assert server.requests[-1] == "GET /tokens/sentinel2l2a01/sentinel2-l2"
    with pytest.raises(ValueError, match="returned no token"):
        Signer(f"{server.url}/collections?").sign(BLOB)


def test_the_copernicus_data_space_needs_keys(monkeypatch):
    for name in remote._KEYS:
        monkeypatch.delenv(name, raising=False)
    href = "s3://eodata/Sentinel-2/B02.jp2"
    with pytest.raises(CatalogueError, match="AWS_ACCESS_KEY_ID"):
        check_credentials(iter([BLOB, href]))
    check_credentials(iter([BLOB, "s3://other/B02.tif"]))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    check_credentials(iter([href]))
    assert gdal_path(href) == "/vsis3/eodata/Sentinel-2/B02.jp2"
    assert gdal_options(href)["AWS_S3_ENDPOINT"] == "eodata.dataspace.copernicus.eu"
    assert gdal_options(href)["AWS_VIRTUAL_HOSTING"] == "FALSE"


def test_public_buckets_are_read_without_keys(monkeypatch):
    for name in remote._KEYS:
        monkeypatch.delenv(name, raising=False)
    assert gdal_options("s3://sentinel-cogs/B02.tif")["AWS_NO_SIGN_REQUEST"] == "YES"
    assert "AWS_NO_SIGN_REQUEST" not in gdal_options("https://example.org/B02.tif")


def test_a_catalogue_says_when_to_ask_again(server):
    start = time.monotonic()
    with faults(server, paths="/search", statuses=[429], retry_after="1"):
        search(FARM, *SPRING, find_catalogue(server.url))
    assert time.monotonic() - start > 1
