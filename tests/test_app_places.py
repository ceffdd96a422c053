"""Places as people write them, and where they are."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import ClassVar

import pytest

from panoseg.app.egress import AllowedUrls
from panoseg.app.geocoder import Geocoder
from panoseg.app.pages.place import PlaceFinder
from panoseg.app.places import UnknownNameError, find_towns, read_place
from panoseg.app.security import Guard
from panoseg.app.settings import AppSettings
from panoseg.app.world import world
from panoseg.errors import AppError, AreaError, ConfigError

GHENT = (51.05, 3.72)
CAPE = (-33.9, 18.4)
QUITO = (-0.18, -78.47)
NOTATIONS = [
    ("51.05, 3.72", GHENT),
    ("51.05 3.72", GHENT),
    ("51.05,3.72", GHENT),
    ("51.05;3.72", GHENT),
    ("51.05 / 3.72", GHENT),
    ("(51.05, 3.72)", GHENT),
    ("+51.05 +3.72", GHENT),
    ("51,05 3,72", GHENT),
    ("51,05; 3,72", GHENT),
    ("51,05, 3,72", GHENT),
    ("51,05° N 3,72° E", GHENT),
    ("51.05 N, 3.72 E", GHENT),
    ("51.05N 3.72E", GHENT),
    ("N51.05 E3.72", GHENT),
    ("n 51.05, e 3.72", GHENT),
    ("3.72 E, 51.05 N", GHENT),
    ("E 3.72 N 51.05", GHENT),
    ("lat 51.05 lon 3.72", GHENT),
    ("lon: 3.72, lat: 51.05", GHENT),
    ("Latitude = 51.05 Longitude = 3.72", GHENT),
    ("51.05 north, 3.72 east", GHENT),
    ("51,05 Nord 3,72 Ost", GHENT),
    ("51°03'00\"N 3°43'12\"E", GHENT),
    ("51° 3' 0\" N, 3° 43' 12\" E", GHENT),
    ("51º03′N 3º43.2′E", GHENT),
    ("N 51° 03.000 E 003° 43.200", GHENT),
    ("51 03 00 N 3 43 12 E", GHENT),
    ("51 3 0 3 43 12", GHENT),
    ("51° 3' 3° 43.2'", GHENT),
    ("51:03:00 3:43:12", GHENT),
    ("51d03m00s N 3d43m12s E", GHENT),
    ("51°03'N, 3°43'12''E", GHENT),
    ("33.9 S, 18.4 E", CAPE),
    ("-33.9, 18.4", CAPE),
    ("−33,9; 18,4", CAPE),
    ("S33.9 E18.4", CAPE),
    ("S 33° 54' E 18° 24'", CAPE),
    ("33°54'S 18°24'E", CAPE),
    ("-33° 54', 18° 24'", CAPE),
    ("33.9 S 18.4", CAPE),
    ("33,9 Süd 18,4 Ost", CAPE),
    ("0.18 S, 78.47 W", QUITO),
    ("-0.18, -78.47", QUITO),
    ("-0° 10' 48\", -78° 28' 12\"", QUITO),
    ("78.47 W 0.18 S", QUITO),
    ("0,18 Sud 78,47 Ouest", QUITO),
    ("31U 550468 5655631", GHENT),
    ("31 U 550468mE 5655631mN", GHENT),
    ("UTM 31U 550468, 5655631", GHENT),
    ("31N 550468 5655631", GHENT),
    ("34H 259583 6245888", CAPE),
    ("34S 259583 6245888", CAPE),
    ("31UES 50468 55631", GHENT),
    ("31U ES 50468 55631", GHENT),
    ("31UES5046855631", GHENT),
    ("9F353P2C+2X", (51.05, 3.7224)),
    ("VPPP+MM Gent", (50.8867, 3.7367)),
    ("3P2C+2X Gent", (51.05, 3.7224)),
    ("https://www.google.com/maps/@51.05,3.72,15z", GHENT),
    ("https://www.google.com/maps?q=51.05,3.72", GHENT),
    ("https://www.google.com/maps/search/?api=1&query=51.05%2C3.72", GHENT),
    ("https://www.google.com/maps/place/x/@51,3.7,11z/data=!4m2!3d51.05!4d3.72", GHENT),
    ("https://maps.google.com/?ll=51.05,3.72&z=12", GHENT),
    ("https://www.google.com/maps/place/51%C2%B003'00%22N+3%C2%B043'12%22E/", GHENT),
    ("https://www.openstreetmap.org/#map=15/51.05/3.72", GHENT),
    ("https://www.openstreetmap.org/?mlat=51.05&mlon=3.72#map=12/51/4", GHENT),
    ("https://www.bing.com/maps?cp=51.05~3.72&lvl=12", GHENT),
    ("https://bing.com/maps/default.aspx?sp=point.51.05_3.72_x", GHENT),
    ("https://browser.dataspace.copernicus.eu/?zoom=10&lat=51.05&lng=3.72", GHENT),
    ("https://maps.apple.com/?ll=51.05,3.72", GHENT),
    ("geo:51.05,3.72?z=12", GHENT),
    ("170.5, -45.9", (-45.9, 170.5)),  # 170.5 is no latitude
]


@pytest.mark.parametrize(("text", "expected"), NOTATIONS, ids=[text for text, _ in NOTATIONS])
def test_a_notation(text, expected):
    place = read_place(text)
    assert (place.latitude, place.longitude) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Write it as"),
        ("51", "Write it as"),
        ("51.05 N, 3.72 N", "Write it as"),
        ("1 2 3", "Write it as"),
        ("51.05; drop table", "Write it as"),
        ("91, 181", "Latitudes end at 90"),
        ("88, 10", "too near a pole"),
        ("51°61'N 3°E", "below 60"),
        ("51.5°30'N 3°E", "below 60"),
        ("51,05,3,72", "decimal points"),
        ("51 N 3 O", "write E or W"),
        ("3, 51, 2, 52", "west is not left of east"),
        ("61U 500000 5650000", "zones 1 to 60"),
        ("31UES123", "same number of digits"),
        ("3P2C+2X", "write a town behind it"),
        ("https://maps.app.goo.gl/abc", "Open it"),
        ("https://example.org/", "no coordinates"),
        ("Xyzzyville", "No town is named"),
        ("9" * 3000, "too long"),
        ("1e999, 3", "Latitudes end at 90"),
        ("bbox=3,51,4,52", "Write it as"),
        ("{3,51,4,52}", "Write it as"),
        ("3,51,4,52,", "Write it as"),
        ("http://[x", "Write it as"),
        ("9" * 400 + "° 3'", "Write it as"),
        ("geo:?q=" * 280, "Write it as"),
        ("51.05 N, -3.72 E", "contradicts its letter E"),
        ("S +33.9 E 18.4", "contradicts its letter S"),
    ],
)
def test_what_is_no_place_is_refused_with_a_sentence(text, said):
    with pytest.raises(AreaError, match=said):
        read_place(text)


def test_what_was_understood_is_said():
    assert read_place("33.9 S, 18.4 W").understood == "33.9000° S, 18.4000° W"
    assert read_place("31UES").understood == "tile 31UES of MGRS"
    assert read_place("Gent, Belgium").understood == "Gent, Belgium"


def test_numbers_without_letters_may_be_exchanged():
    place = read_place("4.8, 51.05")
    assert (place.latitude, place.longitude, place.exchanged) == (4.8, 51.05, (51.05, 4.8))
    assert world().near(4.8, 51.05).startswith("in the sea")
    assert "Belgium" in world().near(51.05, 4.8)
    assert read_place("4.8 N, 51.05 E").exchanged is None


def test_boxes_tiles_and_squares():
    assert read_place("3, 51, 3.1, 51.1").box == (3, 51, 3.1, 51.1)
    assert read_place("3,51,4,52").box == (3, 51, 4, 52)
    across = read_place("179.9, -17, -179.9, -16.9")
    assert across.box == pytest.approx((179.9, -17, 180.1, -16.9))
    assert across.longitude == pytest.approx(-180)
    tile, square = read_place("T31UES"), read_place("31UES1234")
    assert tile.only_view
    assert not square.only_view
    assert tile.box[2] - tile.box[0] > 1
    assert 0.01 < square.box[2] - square.box[0] < 0.03
    assert square.box[0] < square.longitude < square.box[2]
    for at_180 in ("01KAB", "60KZF", "01WCM"):
        west, _, east, _ = read_place(at_180).box
        assert -180 <= west < east < west + 10


def test_towns_by_name():
    [first, *_] = find_towns("münchen") or find_towns("munich")
    assert "Germany" in first.understood
    assert find_towns("paris")[0].understood == "Paris, France"
    assert find_towns("Paris, US")[0].understood == "Paris, United States"
    assert find_towns("saint etienne")[0].understood == "Saint-Étienne, France"
    assert find_towns("Stellenb")[0].understood == "Stellenbosch, South Africa"
    assert find_towns("  ,") == []
    assert find_towns("gent")[0].only_view
    assert find_towns("London, UK") == find_towns("london, gb") != []
    assert find_towns("lodz")[0].understood == "Łódź, Poland"
    assert find_towns("Stellenb", whole=True) == []
    assert read_place("Stellenb").understood == "Stellenbosch, South Africa"


def test_only_names_are_for_a_server_of_names():
    for text in ("Xyzzyville", "Stellenb"):
        with pytest.raises(UnknownNameError):
            read_place(text, whole=True)
    for text in (
        "xy",
        "51.05; drop table",
        "https://example.org/?q=Xyzzyville",
        "www.a.b/?q=Xyzzy",
    ):
        with pytest.raises(AreaError) as caught:
            read_place(text, whole=True)
        assert not isinstance(caught.value, UnknownNameError)
    known, asked = {"Stellenb": [read_place("Gent")]}, []
    geocoder = SimpleNamespace(search=lambda _, text: asked.append(text) or known.get(text, []))
    visit = SimpleNamespace(user="ada", service=SimpleNamespace(geocoder=geocoder))
    finder = PlaceFinder(None, None, visit)
    found = {text: finder._places(text)[0].understood for text in ("Gent", "Stellenb", "Stellenbo")}
    assert [name.partition(",")[0] for name in found.values()] == ["Gent", "Gent", "Stellenbosch"]
    assert asked == ["Stellenb", "Stellenbo"]
    for text in ("51,05,3,72", "Xyzzyville"):
        with pytest.raises(AreaError):
            finder._places(text)
    assert asked[2:] == ["Xyzzyville"]


def test_an_answer_that_comes_late_is_not_shown():
    finder = PlaceFinder(None, None, None)
    finder.answer = SimpleNamespace(is_deleted=False)
    first, second = finder._ask(), finder._ask()
    assert finder._is_late(first)
    assert not finder._is_late(second)
    finder.answer.is_deleted = True
    assert finder._is_late(second)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (GHENT, "near Gent, Belgium"),
        ((51.3, 3.2), "Belgium"),
        ((51.7, 3.0), "in the sea"),
        ((-40.0, -120.0), "in the sea, far from any town"),
        ((60.0, 100.0), "Russia"),
        ((-16.9, 179.99), "Fiji"),
    ],
)
def test_where_a_place_is(place, said):
    assert said in world().near(*place)


class NamesServer(BaseHTTPRequestHandler):
    """A stand-in for Nominatim and Photon."""

    asked: ClassVar[list[tuple[str, str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["user-agent"], self.headers["accept-language"]))
        row = {"lat": "50.9", "lon": "3.6", "display_name": "Old Mill, Belgium"}
        answer = [row, {"lat": "x"}, {"lat": "99", "lon": "3"}, 5]
        if self.path.startswith("/api"):
            known = {"name": "Old Mill", "country": "Belgium"}
            place = {"geometry": {"coordinates": [3.6, 50.9]}, "properties": known}
            answer = {"features": [place, {"geometry": None}]}
        body = b"[1" if "broken" in self.path else json.dumps(answer).encode()
        self.send_response(500 if "down" in self.path else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def names():
    server = HTTPServer(("127.0.0.1", 0), NamesServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", ["nominatim", "photon"])
def test_a_server_for_names_is_asked_once_for_each(names, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("panoseg.app.geocoder._PAUSE_S", 0.0)
    settings = AppSettings(folder=tmp_path, geocoder=f"{kind}={names}", private_addresses=True)
    geocoder = Geocoder(settings)
    NamesServer.asked.clear()
    [place] = geocoder.search("ada", "old  mill & co")
    assert geocoder.search("bob", "old mill & co") == [place]
    [(path, agent, language)] = NamesServer.asked
    assert language == "en"
    assert "q=old%20mill%20%26%20co" in path
    assert agent.startswith("panoseg/")
    assert (place.understood, place.latitude, place.longitude, place.only_view) == (
        "Old Mill, Belgium",
        50.9,
        3.6,
        True,
    )
    for name in ("down", "broken"):
        with pytest.raises(AppError, match="does not answer"):
            geocoder.search("ada", name)
    with pytest.raises(AppError, match="private"):
        Geocoder(replace(settings, private_addresses=False)).search("ada", "mill")
    with pytest.raises(AppError, match="does not answer"):
        Geocoder(replace(settings, geocoder=f"{kind}=http://127.0.0.1:x")).search("ada", "mill")
    slow = SimpleNamespace(monotonic=itertools.count(0, 30).__next__, sleep=lambda _: None)
    monkeypatch.setattr("panoseg.app.geocoder.time", slow)
    with pytest.raises(AppError, match="does not answer"):
        geocoder.search("ada", "another mill")


def test_settings_of_maps_and_names(tmp_path):
    for given in ({"background": "moon"}, {"geocoder": "moon"}, {"geocoder": "photon=moon"}):
        with pytest.raises(ConfigError, match="must be"):
            AppSettings(folder=tmp_path, **given)
    assert AppSettings().background_map is None
    for name, host in (("osm", "openstreetmap.org"), ("sentinel2-cloudless", "maps.eox.at")):
        settings = AppSettings(background=name)
        assert settings.background_map.attribution
        guard = Guard(lambda *_: None, settings)
        assert host in guard.headers["content-security-policy"]
    assert AppSettings(background="https://a.b/{z}").background_map.url == "https://a.b/{z}"
    assert AppSettings(geocoder="nominatim").geocoder_url == "https://nominatim.openstreetmap.org"
    assert "photon.komoot.io" not in AllowedUrls(AppSettings(geocoder="photon")).patterns
