"""The pages while jobs run: a season and official parcels of the user's own, failure, cancelling, a
restart.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import geopandas as gpd
import pytest
import shapely
from PIL import Image

from app_browser import CHROMIUM, Server, Watched, chromium
from cubes import LEFT, TOP, make_cube
from small_networks import save_small_networks

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed")
SIDE = 48


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with networks that are small and know nothing."""
    folder = tmp_path_factory.mktemp("live")
    save_small_networks(folder)
    return folder


@pytest.fixture(scope="module")
def server(place):
    options = ("--weights", place / "tiny", "--photo-weights", place / "boxes")
    running = Server(place / "app", *map(str, options))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def look(browser, server):
    watched = Watched(browser, server.address)
    yield watched
    watched.close()


def squares(*corners: tuple[int, int], side: int = 150) -> list[shapely.Polygon]:
    """Squares of metres from the corner of the season."""
    return [shapely.box(LEFT + x, TOP - y - side, LEFT + x + side, TOP - y) for x, y in corners]


def choose_tiny_weights(look: Watched) -> None:
    look.page.get_by_text("More choices").click()
    look.page.get_by_label("Weights").click()
    look.page.get_by_role("option", name="tiny").click()


def start_sample(look: Watched, weights: str) -> None:
    """The smallest sample, as a person starts it."""
    look.goto("/")
    look.page.get_by_label("Side of the square").click()
    look.page.get_by_role("option", name="1.3 km").click()
    if weights == "tiny":
        choose_tiny_weights(look)
    look.page.wait_for_selector("text=1.6 km²")
    look.page.get_by_role("button", name="Start").click()
    look.page.wait_for_url("**/jobs/*")


def test_a_season_and_official_parcels_of_ones_own(look, place):
    make_cube(SIDE).to_netcdf(place / "farm.nc")
    two = squares((20, 20), (250, 20))
    gpd.GeoDataFrame({"crop": ["a", "b"]}, geometry=two, crs=32631).to_file(place / "declared.gpkg")
    look.goto("/")
    look.page.get_by_role("button", name="My own images").click()
    look.page.wait_for_selector("text=Choose a file with a season")
    files = look.page.locator("input[type=file]")
    files.first.set_input_files(place / "farm.nc")
    look.page.wait_for_selector("text=farm.nc,")
    choose_tiny_weights(look)
    files.last.set_input_files(place / "declared.gpkg")
    look.page.wait_for_selector("text=declared.gpkg,")
    look.page.wait_for_selector("text=0.2 km²")
    look.shot("start-own-images")
    look.check()
    look.page.get_by_role("button", name="Start").click()
    look.wait_for_job(place / "app", look.page.wait_for_url, "**/map")
    look.page.wait_for_selector("img.leaflet-tile-loaded")
    look.page.get_by_role("tab", name="Official").click()
    look.page.wait_for_selector("tr:has-text('Parcels') >> text=Area")
    assert official_parcels(look) == 2


def official_parcels(look: Watched) -> int:
    """How many the page counts."""
    look.page.wait_for_selector("text=match no official parcel")
    cells = look.page.locator(
        "[role=tabpanel]:visible table.plain tr td:nth-child(2)"
    ).all_text_contents()
    return sum(int(cell.replace(",", "")) for cell in cells)


def test_other_official_parcels_for_a_finished_map(look, place):
    """By the list of results to the map of the test before; its job runs once more, for the
    comparison alone.
    """
    three = squares((20, 20), (200, 200), (20, 300))
    gpd.GeoDataFrame({"crop": ["a", "b", "c"]}, geometry=three, crs=32631).to_crs(4326).to_file(
        place / "later.geojson"
    )
    look.goto("/jobs")
    look.page.get_by_role("link", name="farm.nc").click()
    look.page.get_by_role("tab", name="Official").click()
    look.page.get_by_text("Use other official parcels").click()
    (place / "codes.csv").write_text("code,class\na,meadow\nb,soft winter wheat\nc,meadow\n")
    look.page.locator("[role=tabpanel]:visible input[type=file]").last.set_input_files(
        place / "codes.csv"
    )
    look.page.wait_for_selector("text=3 codes from codes.csv")
    look.page.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(
        place / "later.geojson"
    )
    look.wait_for_job(place / "app", look.page.wait_for_selector, "li.now")
    look.wait_for_job(place / "app", look.page.wait_for_url, "**/map")
    look.page.get_by_role("tab", name="Official").click()
    assert official_parcels(look) == 3
    [declared] = (place / "app").rglob("register.parquet")
    assert gpd.read_parquet(declared)["class"].tolist() == ["meadow", "soft winter wheat", "meadow"]
    with look.page.expect_response(
        lambda one: "tiles/differences" in one.url and one.status == 200
    ):
        look.page.get_by_role("button", name="Show the differences").click()


def test_what_fails_says_why_and_can_be_tried_again(look, place):
    """The network is not where the server was told that it is; then it is there again."""
    Image.new("RGB", (64, 48), (60, 140, 40)).save(place / "meadow.png")
    (place / "boxes").rename(place / "gone")
    look.goto("/photo")
    look.page.locator("input[type=file]").set_input_files(place / "meadow.png")
    look.wait_for_job(place / "app", look.page.wait_for_selector, ".state-failed")
    assert "boxes" in look.page.locator(".wrong").first.text_content()
    look.page.wait_for_selector("li.stopped:has-text('Finding objects')")
    look.shot("job-failed")
    look.check()
    (place / "gone").rename(place / "boxes")
    look.page.get_by_role("button", name="Try again").click()
    look.wait_for_job(place / "app", look.page.wait_for_url, "**/photo")
    look.page.wait_for_selector(".photo[data-ready]")


def test_a_job_outlives_its_tab_and_its_server(browser, look, server):
    """A tab that is closed finds the job again; one that stays open goes on by itself when the
    server is back.
    """
    start_sample(look, "tiny")
    look.wait_for_job(server.folder, look.page.wait_for_selector, "li.now")
    path = look.page.url.removeprefix(server.address)
    look.close()
    again = Watched(browser, server.address)
    again.goto(path)
    again.wait_for_job(server.folder, again.page.wait_for_selector, "li.now")
    server.restart()
    again.wait_for_job(server.folder, again.page.wait_for_url, "**/map")
    again.page.wait_for_selector("img.leaflet-tile-loaded")
    again.page.wait_for_selector("text=parcels, ")
    again.close()


def test_a_job_that_runs_is_cancelled_tried_again_and_deleted(look, place):
    start_sample(look, "package")
    look.wait_for_job(place / "app", look.page.wait_for_selector, "li.now")
    look.page.get_by_role("button", name="Cancel").click()
    look.wait_for_job(place / "app", look.page.wait_for_selector, ".state-cancelled")
    look.shot("job-cancelled")
    look.check()
    look.page.get_by_role("button", name="Try again").click()
    look.wait_for_job(place / "app", look.page.wait_for_selector, "li.now")
    path = urlsplit(look.page.url).path
    look.page.get_by_role("button", name="Delete").click()
    look.page.locator(".q-dialog").get_by_role("button", name="Delete").click()
    look.page.wait_for_selector("h1:has-text('Your results')")
    assert path not in look.page.content()
