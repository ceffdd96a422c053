"""The pages in a real browser: a finished map and photograph, and the way of a person from nothing
to parcels.

What each looks like is kept in out/screenshots.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

import app_huge
import app_map
from app_browser import (
    CHROMIUM,
    PATIENT_MS,
    SCREENSHOTS,
    Watched,
    chromium,
    finished_job,
    serving,
)
from catalogue_server import DAYS, LAND, RUSTAC, serve
from panoseg.app.corrections import read_corrections, undo
from panoseg.app.pages.photo import URL
from panoseg.app.settings import AppSettings
from panoseg.app.users import add_user
from waiting import QUIET_S

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed")
MAP = {"kind": "map", "name": "Four fields", "source": {"type": "sample", "size": 48}}
PHOTO = {"kind": "photo", "name": "Two halves.jpg", "upload": "0" * 32, "weights": "shapes"}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The settings of a server with two finished jobs: settings, map, photograph."""
    settings = AppSettings(folder=tmp_path_factory.mktemp("app") / "app", catalog="earth-search")
    map_ = finished_job(settings, MAP, app_map.make_map)
    return (
        settings,
        map_,
        finished_job(settings, PHOTO, make_photo),
        another(settings, map_, "Damaged"),
        huge(settings, map_),
    )


def another(
    settings: AppSettings, job: str, name: str, owner: str = "local", to: AppSettings | None = None
) -> str:
    """The same map as another job, perhaps of another server."""
    request = {**MAP, "name": name}
    return finished_job(
        to or settings,
        request,
        lambda folder: shutil.copytree(settings.jobs_folder / job, folder),
        owner,
    )


def huge(settings: AppSettings, job: str) -> str:
    """A job with 100,172 parcels."""
    small = settings.jobs_folder / job
    return finished_job(
        settings, {**MAP, "name": "A country"}, lambda folder: app_huge.make_huge_map(small, folder)
    )


@pytest.fixture(scope="module")
def address(jobs):
    with serving(
        jobs[0].folder, "--workers", "0", "--photo-weights", str(jobs[0].folder / "shapes")
    ) as found:
        yield found


@pytest.fixture
def look(browser, address):
    watched = Watched(browser, address)
    yield watched
    watched.close()


@pytest.fixture
def seen(look, jobs):
    """The page of the map, with its tiles."""
    look.goto(f"/jobs/{jobs[1]}/map")
    look.page.wait_for_selector("img.leaflet-tile-loaded")
    look.settle()
    yield look
    while read_corrections(jobs[0].jobs_folder / jobs[1]).steps:
        undo(jobs[0].jobs_folder / jobs[1])


def make_photo(folder: Path) -> None:
    """A photograph whose left half is a square and whose right half is sky."""
    from panoseg.panoptic import Panoptic
    from panoseg.photo.segment import Source, segment_photographs
    from photograph_networks import TABLE

    folder.mkdir(parents=True)
    pixels_HW3 = np.full((240, 360, 3), (180, 60, 50), np.uint8)
    pixels_HW3[:, 180:] = (120, 170, 220)
    Image.fromarray(pixels_HW3).save(folder / "given.jpg")
    ids_HW = np.ones((240, 360), np.int32)
    ids_HW[:, 180:] = 2
    segment_photographs(
        [Source(folder / "given.jpg", "photograph")],
        lambda image: Panoptic.from_maps(ids_HW, {1: 2, 2: 9}, TABLE),
        TABLE,
        folder / "photo",
    )
    (folder / "given.jpg").rename(folder / "photo" / "image.jpg")


def place_on(look, job_folder: Path, column: float, row: float) -> tuple[float, float]:
    """Where a place of the map, in its pixels, is on the screen."""
    longitude, latitude = app_map.place(job_folder, column, row)
    script = """([lat, lng]) => {
      const element = document.querySelector(".leaflet-container"), corner = element.getBoundingClientRect();
      const point = getElement(Number(element.id.slice(1))).map.latLngToContainerPoint([lat, lng]);
      return [corner.left + point.x, corner.top + point.y];
    }"""
    return tuple(look.page.evaluate(script, [latitude, longitude]))


def click_place(look, jobs, column: float, row: float) -> None:
    look.page.mouse.click(*place_on(look, jobs[0].jobs_folder / jobs[1], column, row))


def colour_on(look, jobs, column: float, row: float, tiles: str) -> tuple[int, ...]:
    """The colour on the screen once all parcels are drawn as an address with ``tiles`` says."""
    look.page.wait_for_function(
        """(part) => {
          const shown = [...document.querySelectorAll("img.leaflet-tile")].map((tile) => tile.src);
          const parcels = shown.filter((address) => address.includes("/tiles/parcels/"));
          return parcels.length && parcels.every((address) => address.includes(part));
        }""",
        arg=tiles,
    )
    look.settle()
    picture = Image.open(io.BytesIO(look.page.screenshot()))
    x, y = place_on(look, jobs[0].jobs_folder / jobs[1], column, row)
    return picture.convert("RGB").getpixel((round(x), round(y)))


# -- before a map


def test_the_estimate_comes_before_the_start(look):
    look.goto("/")
    look.page.wait_for_selector("text=6.6 km²")
    look.page.wait_for_selector(".clouds i")
    expect(look.page.get_by_role("button", name="Start")).to_be_enabled(timeout=PATIENT_MS)
    look.shot("start")
    look.check()
    look.page.get_by_label("Which place").fill("3")
    look.page.wait_for_selector(".clouds i")
    look.page.get_by_role("button", name="My own images").click()
    look.page.wait_for_selector("text=Choose a file with a season")
    expect(look.page.get_by_role("button", name="Start")).to_be_disabled(timeout=PATIENT_MS)


def test_a_place_is_typed_or_drawn(look):
    look.goto("/")
    look.page.get_by_role("button", name="My own place").click()
    look.page.wait_for_selector("text=Choose an area")
    look.page.wait_for_selector("[data-world] .town span:has-text('Paris')")
    look.shot("start-own-place")
    look.check()
    field = look.page.get_by_label("Coordinates")
    for text, said in (
        ("51; 3; 2", "is not understood. Write it as 51.05"),
        ("33.9 S, 18.4 W", "33.9000° S, 18.4000° W: in the sea, far from any town."),
        ("4.8, 51.05", "Exchanged: 51.0500° N, 4.8000° E, 6 km"),
        ("179.99, -17, -179.99, -16.98", "to 16.9800° S, 179.9900° W"),
        ("3, 51, 4, 52", "Draw a smaller one"),  # larger than what one may ask for
    ):
        field.fill(text)
        field.press("Enter")
        look.page.wait_for_selector(f"text={said}", state="attached")
    look.page.wait_for_selector("path.leaflet-interactive")


def test_a_town_is_found_and_its_middle_taken_by_keyboard(look):
    """No server is asked, and what has two meanings offers both."""
    look.goto("/")
    look.page.get_by_role("button", name="My own place").click()
    field = look.page.get_by_label("Coordinates")
    field.fill("paris")
    field.press("Enter")
    look.page.wait_for_selector("text=Paris, France.")
    expect(look.page.get_by_role("button", name="Paris, United States")).to_be_visible(
        timeout=PATIENT_MS
    )
    look.page.wait_for_selector(".town span:has-text('Saint-Denis')")
    look.shot("start-town")
    look.check()
    take = look.page.get_by_role("button", name="Take the middle of the map")
    take.focus()
    take.press("Enter")
    look.page.wait_for_selector("text=/48.8\\d+° N, 2.3\\d+° E: near Paris/")
    look.page.wait_for_selector("path.leaflet-interactive")


def test_an_area_is_drawn_by_mouse(look):
    look.goto("/")
    look.page.get_by_role("button", name="My own place").click()
    look.page.click(".leaflet-draw-draw-polygon")
    box = look.page.locator(".map").bounding_box()
    corners = [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6), (0.4, 0.4)]
    look.draw(
        (box["x"] + across * box["width"], box["y"] + down * box["height"])
        for across, down in corners
    )
    look.page.wait_for_selector("path.leaflet-interactive")
    look.page.wait_for_selector("text=The area has")
    look.page.wait_for_selector("text=/° N, .+° E: .+ of .+, /")  # where it lies


def test_an_outline_is_uploaded_and_one_that_is_none_refused(look, tmp_path):
    square = '{"type":"Polygon","coordinates":[[[3,51],[3.02,51],[3.02,51.01],[3,51.01],[3,51]]]}'
    (tmp_path / "farm.geojson").write_text(square)
    (tmp_path / "farm.kml").write_text("no outline at all")
    look.goto("/")
    look.page.get_by_role("button", name="My own place").click()
    look.page.wait_for_selector("text=Choose an area")
    field = look.page.locator("input[type=file]").first
    field.set_input_files(tmp_path / "farm.kml")
    look.page.wait_for_selector("text=The format of the upload is unknown")
    assert look.wrong.pop().startswith("422")
    look.shot("start-refused")
    field.evaluate("(field) => (field.dataset.most = '10')")
    field.set_input_files(tmp_path / "farm.geojson")
    look.page.wait_for_selector("text=choose a smaller one")
    field.evaluate("(field) => (field.dataset.most = '1000')")
    field.set_input_files(tmp_path / "farm.geojson")
    look.page.wait_for_selector("path.leaflet-interactive")
    look.page.wait_for_selector("text=/51.0050° N, 3.0100° E: .+ Belgium/")
    field.set_input_files(tmp_path / "farm.kml")  # what was chosen before it is not used
    look.page.wait_for_selector("text=Choose an area")
    look.page.wait_for_selector("path.leaflet-interactive", state="detached")
    expect(look.page.get_by_role("button", name="Start")).to_be_disabled(timeout=PATIENT_MS)
    assert look.wrong.pop().startswith("422")


def test_a_file_beside_its_place_leaves_the_page_alone(look):
    look.goto("/photo")
    kept = look.page.evaluate("""() => {
      const given = new DataTransfer();
      given.items.add(new File(["x"], "x.jpg"));
      const drop = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: given });
      document.querySelector("header").dispatchEvent(drop);
      return drop.defaultPrevented;
    }""")
    assert kept


# -- a finished map


def test_the_map_and_its_legend(seen, jobs):
    seen.shot("map")
    seen.check()
    before = colour_on(seen, jobs, 36, 12, "hidden=&")
    seen.page.get_by_label("corn").uncheck()
    seen.page.wait_for_selector("tr.off")
    assert colour_on(seen, jobs, 36, 12, "hidden=3&") != before
    seen.page.get_by_role("button", name="Hide all").click()
    seen.page.wait_for_function("document.querySelectorAll('tr.off').length === 4")
    seen.page.get_by_role("button", name="Show all").click()
    seen.page.wait_for_function("!document.querySelector('tr.off')")
    assert colour_on(seen, jobs, 36, 12, "hidden=&") == before
    assert seen.page.title() == "Four fields · panoseg"


def test_the_legend_by_keyboard_keeps_its_place(seen):
    box = seen.page.get_by_label("corn")
    box.focus()
    seen.page.keyboard.press("Space")
    seen.page.wait_for_selector("tr.off")
    seen.page.keyboard.press("Space")
    seen.page.wait_for_function("!document.querySelector('tr.off')")
    assert seen.page.evaluate("document.activeElement.closest('tr').textContent").startswith("corn")


def test_dates_and_pictures(seen, jobs):
    day = seen.page.locator(".day")
    first = day.text_content()
    slider = seen.page.get_by_role("slider", name="Date of the image")
    slider.focus()
    with seen.page.expect_request(lambda one: "true-colour" in one.url):
        slider.press("ArrowLeft")
    seen.page.wait_for_function(
        "(before) => document.querySelector('.day').textContent !== before", arg=first
    )
    for name, kind in (("False colour", "false-colour"), ("NDVI", "ndvi")):
        with seen.page.expect_response(
            lambda one, kind=kind: kind in one.url and one.status == 200
        ):
            seen.page.get_by_label("Image below the parcels").click()
            seen.page.get_by_role("option", name=name).click()
        seen.shot(f"map-{kind}")
    seen.page.wait_for_selector("text=dense green")
    opacity = seen.page.get_by_role("slider", name="Opacity of the parcels")
    assert opacity.input_value() == "0.15", "the colours of crops would hide those of NDVI"
    with seen.page.expect_request(lambda one: "by_confidence=true" in one.url):
        seen.page.get_by_label("Fade uncertain parcels").check()
    opacity.focus()
    opacity.press("Home")
    seen.page.wait_for_function(
        "[...document.querySelectorAll('.leaflet-layer')].some((e) => e.style.opacity === '0')"
    )


def test_a_parcel_by_click_and_by_number(seen, jobs):
    click_place(seen, jobs, 36, 12)
    seen.page.wait_for_selector("h2:has-text('corn')")
    seen.page.wait_for_selector("text=5.76 ha")
    seen.page.wait_for_selector("text=30%")
    seen.page.wait_for_selector("[aria-label*='cloudy dates'] canvas")
    seen.shot("map-parcel")
    seen.check()
    number = seen.page.get_by_label("Number of a parcel")
    number.fill("3")
    number.press("Enter")
    seen.page.wait_for_selector("h2:has-text('meadow')")
    number.fill("77")
    number.press("Enter")
    seen.page.wait_for_selector("text=The map has no such parcel")


def test_official_parcels(seen, jobs):
    seen.page.get_by_role("tab", name="Official").click()
    seen.page.wait_for_selector("text=Other crop than declared")
    with seen.page.expect_response(lambda one: "tiles/differences" in one.url):
        seen.page.get_by_role("button", name="Show the differences").click()
    seen.settle()
    click_place(seen, jobs, 36, 12)
    seen.page.wait_for_selector("h2:has-text('Official parcel b')")
    seen.shot("map-official")
    seen.check()


def test_what_went_wrong_unforeseen_is_said(look, jobs):
    look.goto(f"/jobs/{jobs[3]}/map")
    look.page.wait_for_selector("img.leaflet-tile-loaded")
    look.settle()
    (jobs[0].jobs_folder / jobs[3] / "map" / "parcels.gpkg").unlink()
    click_place(look, jobs, 12, 12)
    look.page.wait_for_selector("text=That did not work")
    look.settle()
    look.check()
    look.wrong.clear()  # a tile that is asked for meanwhile lacks the file as well


def test_a_parcel_stays_chosen_for_its_correction(seen, jobs):
    """A user who finds a wrong parcel need not look for it again; neighbours are
    joined by number too.
    """
    click_place(seen, jobs, 12, 12)
    seen.page.wait_for_selector("h2:has-text('soft winter wheat')")
    seen.page.get_by_role("tab", name="Correct").click()
    seen.page.wait_for_selector("h2:has-text('Parcel 1')")
    seen.page.get_by_role("button", name="Merge with a neighbour").click()
    number = seen.page.get_by_label("Number of the neighbour")
    number.fill("2")
    number.press("Enter")
    seen.page.wait_for_selector("li:has-text('merged: soft winter wheat')")
    seen.page.get_by_role("tab", name="Parcel").click()
    seen.page.wait_for_selector("text=11.5 ha")
    seen.page.wait_for_selector("text=parcel c1, corrected")


def test_a_map_of_a_hundred_thousand_parcels(look, jobs):
    """It opens, draws tiles at every depth, hides a crop, and tells of a parcel by click and by
    number.
    """
    look.goto(f"/jobs/{jobs[4]}/map")
    look.page.wait_for_selector(f"text={app_huge.COUNT:,} parcels")
    look.page.wait_for_selector("text=This map is large")
    look.page.wait_for_selector("img.leaflet-tile-loaded")
    look.shot("map-huge")
    look.check()
    with look.page.expect_response(lambda one: "hidden=3" in one.url and one.status == 200):
        look.page.get_by_label("corn", exact=True).uncheck()
    look.page.get_by_role("button", name="Show all").click()
    look.page.get_by_role("tab", name="Parcel").click()
    number = look.page.get_by_label("Number of a parcel")
    number.fill("1")
    with look.page.expect_response(
        lambda one: re.search("/tiles/parcels/1[4-8]/", one.url) and one.status == 200
    ):
        number.press("Enter")
    look.page.wait_for_selector("text=parcel 1")
    look.page.wait_for_selector("[aria-label*='cloudy dates'] canvas")
    look.settle()
    look.page.mouse.click(
        *place_on(look, jobs[0].jobs_folder / jobs[4], 1.5 * app_huge.SIDE, app_huge.SIDE / 2)
    )
    look.page.wait_for_selector("text=parcel 2")
    look.shot("map-huge-parcel")


def test_corrections(seen, jobs):
    folder = jobs[0].jobs_folder / jobs[1]
    seen.page.get_by_role("tab", name="Correct").click()
    seen.page.wait_for_selector("text=Select a parcel")
    click_place(seen, jobs, 12, 12)
    seen.page.wait_for_selector("h2:has-text('Parcel 1')")
    seen.page.get_by_label("Crop of the parcel").click()
    seen.page.get_by_role("option", name="sorghum").click()
    seen.page.wait_for_selector("h2:has-text('sorghum')")
    seen.page.get_by_role("button", name="Split along a line").click()
    seen.draw(place_on(seen, folder, *place) for place in ((-3, 12), (27, 12), (27, 12)))
    seen.page.wait_for_selector("li:has-text('split: sorghum, sorghum')")
    seen.shot("map-correct")
    seen.check()
    seen.page.wait_for_selector("text=2.88 ha")
    # The answer to the click comes after the button is pressed: it must not end the merging.
    click_place(seen, jobs, 12, 6)
    seen.page.get_by_role("button", name="Merge with a neighbour").click()
    seen.page.wait_for_selector("text=Click the neighbour")
    click_place(seen, jobs, 36, 12)
    seen.page.wait_for_selector("li:has-text('merged: sorghum')")
    assert [step.what for step in read_corrections(folder).steps] == ["crop", "split", "merge"]
    with seen.page.expect_download() as download:
        seen.page.get_by_role("button", name="Export as training data").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert "parcels.parquet" in archive.namelist()
    for left in (2, 1, 0):
        if left == 2:
            seen.page.keyboard.press("Control+z")
        else:
            seen.page.get_by_role("button", name="Undo the latest").click()
        seen.page.wait_for_function(
            "(n) => document.querySelectorAll('ol[reversed] li').length === n", arg=left
        )
    seen.page.wait_for_selector("text=None yet")


def test_take_along_and_share(seen, jobs, browser):
    seen.page.get_by_role("button", name="Download").click()
    seen.shot("map-take-along")
    with seen.page.expect_download() as download:
        seen.page.get_by_text(re.compile("^Parcels, GeoParquet$")).click()
    table = gpd.read_parquet(download.value.path())
    assert (len(table), table["corrected"].sum()) == (4, 0)
    assert (table["predicted"] == table["class"]).all()
    seen.page.get_by_role("button", name="Share").click()
    seen.page.wait_for_function(
        "document.querySelector('.share-link input')?.value.startsWith('http')"
    )
    link = seen.page.locator(".share-link input").input_value()
    other = Watched(browser, seen.address)
    other.goto(link.removeprefix(seen.address))
    other.page.wait_for_selector("img.leaflet-tile-loaded")
    assert other.page.get_by_role("tab", name="Correct").count() == 0
    assert other.page.get_by_role("button", name="Delete").count() == 0
    other.close()
    seen.page.get_by_role("button", name="Stop sharing").click()
    seen.page.wait_for_selector("text=no longer works")
    after = Watched(browser, seen.address)
    after.goto(link.removeprefix(seen.address))
    after.page.wait_for_selector("text=Not available")
    after.close()


def test_on_a_phone(browser, address, jobs):
    phone = Watched(browser, address, 390, 844)
    for path, name, sign in (
        ("/", "start", "text=6.6 km²"),
        (f"/jobs/{jobs[1]}/map", "map", "img.leaflet-tile-loaded"),
        ("/jobs", "jobs", "text=Four fields"),
        (f"/jobs/{jobs[2]}/photo", "photo", ".photo[data-ready]"),
    ):
        phone.goto(path)
        phone.page.wait_for_selector(sign)
        phone.shot(f"phone-{name}")
        phone.check()
    phone.goto(f"/jobs/{jobs[1]}/map")
    phone.page.wait_for_selector("img.leaflet-tile-loaded")
    phone.settle()
    click_place(phone, jobs, 36, 12)
    phone.page.wait_for_selector(".said:has-text('corn, 5.76 ha, 30% sure')")
    phone.shot("phone-parcel")
    phone.page.click(".said")
    phone.page.wait_for_function(
        "document.getElementById('details').getBoundingClientRect().top < innerHeight / 2"
    )
    phone.close()


def test_by_keyboard_alone(seen):
    """From the address to a parcel, without a mouse."""
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate("document.activeElement.getAttribute('role')") == "tab":
            break
    seen.page.keyboard.press("ArrowRight")
    seen.page.keyboard.press("Enter")
    # On a busy machine the field is there later than the next key.
    seen.page.wait_for_selector("[aria-label='Number of a parcel']", state="visible")
    for _ in range(20):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate(
            "document.activeElement.getAttribute('aria-label') === 'Number of a parcel'"
        ):
            break
    seen.page.keyboard.type("4")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("h2:has-text('winter barley')")


def test_pages_are_accessible(browser, address, jobs):
    """axe-core finds nothing, light and dark, on a desk and on a phone; focus is seen."""
    pages = (
        ("/", "text=6.6 km²"),
        (f"/jobs/{jobs[1]}/map", "img.leaflet-tile-loaded"),
        ("/jobs", "text=Four fields"),
        (f"/jobs/{jobs[2]}/photo", ".photo[data-ready]"),
    )
    found = []
    for colours, width, height in (("light", 1280, 820), ("dark", 390, 844)):
        look = Watched(browser, address, width, height, colours)
        for path, sign in pages:
            look.goto(path)
            look.page.wait_for_selector(sign)
            look.settle()
            look.check()
            for one in Axe().run(look.page).response["violations"]:
                places = [node["html"][:120] for node in one["nodes"][:3]]
                found.append((colours, path, one["id"], places))
        look.page.keyboard.press("Tab")
        look.page.keyboard.press("Tab")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert look.page.evaluate(outline) == "solid"
        look.close()
    assert found == []


# -- photographs, jobs


def test_names_on_a_photograph(look, jobs):
    look.goto(f"/jobs/{jobs[2]}/photo")
    look.page.wait_for_selector(".photo[data-ready]")
    box = look.page.locator(".photo").bounding_box()
    for across, name in ((0.25, "square"), (0.75, "sky")):
        look.page.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
        look.page.wait_for_selector(f".photo output:has-text('{name}')")
    look.shot("photo")
    look.check()
    look.page.get_by_role("button", name="Download").click()
    with look.page.expect_download() as download:
        look.page.get_by_text("Overlay, JPEG").click()
    with Image.open(download.value.path()) as overlay:
        assert overlay.width * 240 == overlay.height * 360


def test_a_job_waits_and_is_cancelled_retried_deleted(look):
    look.goto("/")
    look.page.wait_for_selector("text=6.6 km²")
    look.page.get_by_role("button", name="Start").click()
    look.page.wait_for_selector("text=no worker runs")
    look.shot("job-waiting")
    look.check()
    look.page.reload()
    look.page.get_by_role("button", name="Cancel").click()
    look.page.get_by_role("button", name="Try again").click()
    look.page.wait_for_selector(".state-queued")
    look.page.get_by_role("button", name="Delete").click()
    look.page.locator(".q-dialog").get_by_role("button", name="Delete").click()
    look.page.wait_for_selector("h1:has-text('Your results')")
    look.shot("jobs")
    look.check()


def test_what_is_not_there(look):
    for path in (
        f"/jobs/{'0' * 32}",
        f"/jobs/{'0' * 32}/map",
        f"/jobs/{'0' * 32}/photo",
        f"/shared/{'0' * 32}",
    ):
        look.goto(path)
        look.page.wait_for_selector("text=Not available")
    look.shot("not-here")
    look.check()
    look.goto("/nowhere")
    look.page.wait_for_selector("text=There is no page at this address")
    assert look.page.locator("main").count() == 1
    look.shot("nowhere")
    look.check()
    assert look.wrong.pop().startswith("404")


def test_a_photograph_is_given(look, tmp_path):
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / "holiday.png")
    look.goto("/photo")
    look.page.locator("input[type=file]").set_input_files(tmp_path / "holiday.png")
    look.page.wait_for_selector("h1:has-text('holiday.png')")
    look.page.wait_for_selector("text=Finding objects")


def test_people_sign_in_and_share(browser, tmp_path, jobs):
    token = add_user(tmp_path / "users", "ada")
    settings = AppSettings(folder=tmp_path / "app", tokens=tmp_path / "users")
    hers = another(jobs[0], jobs[1], "Hers", "ada", to=settings)
    with serving(
        tmp_path / "app", "--workers", "0", "--tokens", str(tmp_path / "users")
    ) as address:
        look = Watched(browser, address)
        look.goto("/jobs")
        look.page.wait_for_selector("h1:has-text('Sign in')")
        look.check()
        look.page.get_by_label("Token").fill("not a token")
        look.page.get_by_label("Token").press("Enter")
        look.page.wait_for_selector("text=This token is not known")
        look.shot("sign-in")
        assert look.wrong.pop().startswith("401")
        look.page.get_by_label("Token").fill(token)
        look.page.get_by_role("button", name="Sign in").click()
        look.page.wait_for_selector("h1:has-text('Your results')")
        assert look.page.locator(".user").text_content() == "ada"
        look.page.get_by_role("link", name="Hers").click()
        look.page.wait_for_selector("img.leaflet-tile-loaded")
        look.page.get_by_role("button", name="Share").click()
        expect(look.page.locator(".share-link input")).to_have_value(
            re.compile("^http"), timeout=1000 * QUIET_S
        )
        look.shot("share")
        link = look.page.locator(".share-link input").input_value().removeprefix(address)
        look.page.get_by_role("button", name="Copy").click()
        look.page.wait_for_selector("text=The link is copied")
        _open_as_a_stranger(browser, address, link, hers)
        look.goto("/sign-in?to=//elsewhere.example")
        look.page.get_by_label("Token").fill(token)
        look.page.get_by_role("button", name="Sign in").click()
        look.page.wait_for_selector("text=Which crops grow where?")
        look.page.get_by_role("button", name="Sign out").click()
        look.page.wait_for_selector("h1:has-text('Sign in')")
        look.goto("/jobs")
        look.page.wait_for_selector("h1:has-text('Sign in')")
        look.close()


def _open_as_a_stranger(browser, address: str, link: str, job: str) -> None:
    """A user with a link sees that result, and nothing else of the server."""
    stranger = Watched(browser, address)
    stranger.goto(link)
    stranger.page.wait_for_selector("h1:has-text('Hers')")
    stranger.page.wait_for_selector("img.leaflet-tile-loaded")
    stranger.shot("shared")
    stranger.check()
    assert stranger.page.get_by_role("tab", name="Correct").count() == 0
    assert stranger.page.get_by_role("button", name="Delete").count() == 0
    stranger.goto(f"/jobs/{job}/map")
    stranger.page.wait_for_selector("h1:has-text('Sign in')")
    stranger.close()


# -- from nothing to parcels


def test_the_first_result_of_a_person(browser, tmp_path):
    """From the command to parcels on the screen; how long it took is kept with the pictures."""
    began = time.monotonic()
    with serving(tmp_path / "app") as address:
        look = Watched(browser, address)
        look.goto("/")
        look.page.wait_for_selector("text=6.6 km²")
        look.page.get_by_role("button", name="Start").click()
        look.wait_for_job(tmp_path / "app", look.page.wait_for_selector, "li.now")
        look.shot("job-running")
        look.wait_for_job(tmp_path / "app", look.page.wait_for_url, "**/map")
        look.page.wait_for_selector("img.leaflet-tile-loaded")
        seconds = time.monotonic() - began
        look.shot("sample")
        look.close()
    crowd = max(1.0, os.getloadavg()[1] / (os.cpu_count() or 1))
    SCREENSHOTS.joinpath("first-result.txt").write_text(
        f"{seconds:.0f} s; {crowd:.1f} processes waited for each core\n"
    )


def test_an_empty_server(browser, tmp_path):
    nowhere = {
        "TORCH_HOME": str(tmp_path),
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }  # a machine without a network
    with serving(tmp_path / "app", "--workers", "0", **nowhere) as address:
        look = Watched(browser, address)
        look.goto("/jobs")
        look.page.wait_for_selector("text=Nothing here yet")
        look.shot("jobs-empty")
        look.check()
        look.goto("/photo")
        look.page.wait_for_selector("text=Connect the server to the Internet once")
        assert look.page.locator("input[type=file]").count() == 0
        look.shot("photo-no-network")
        look.check()
        kept = tmp_path / "hub" / "checkpoints" / URL.rsplit("/", 1)[-1]
        kept.parent.mkdir(parents=True)
        kept.touch()
        look.goto("/photo")
        look.page.wait_for_selector("text=Drop a photograph here")
        look.shot("photo-empty")
        look.check()
        look.close()


def test_a_real_season_from_a_catalogue(browser, tmp_path):
    """A place in Flanders by its coordinates, its scenes and their clouds before the start, and its
    parcels.
    """
    stac = Path(__file__).resolve().parents[2] / "shared" / "data" / "flanders-2019" / "stac"
    if RUSTAC is None or not stac.is_dir():
        pytest.skip("rustac or the real season is missing")
    west, south, east, north = (
        gpd.GeoSeries([LAND], crs="EPSG:32631").to_crs("EPSG:4326").total_bounds
    )
    (tmp_path / "api").mkdir()
    with serve(stac, tmp_path / "api", DAYS) as catalogue:
        options = ("--catalog", catalogue.url, "--private-addresses")
        with serving(tmp_path / "app", *options) as address:
            look = Watched(browser, address)
            look.goto("/")
            look.page.get_by_role("button", name="My own place").click()
            look.page.wait_for_selector("text=Choose an area")
            look.page.get_by_label("Season").click()
            look.page.get_by_role("option", name="Harvest of 2019").click()
            field = look.page.get_by_label("Coordinates")
            field.fill(f"{west:.5f}, {south:.5f}, {east:.5f}, {north:.5f}")
            field.press("Enter")
            look.page.wait_for_selector(f"text={len(DAYS)} dates")
            look.shot("flanders-start")
            look.page.get_by_role("button", name="Start").click()
            look.wait_for_job(tmp_path / "app", look.page.wait_for_url, "**/map")
            look.page.wait_for_selector("img.leaflet-tile-loaded")
            look.shot("flanders-map")
            look.close()
