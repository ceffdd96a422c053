"""The report: one page, nothing from elsewhere, nothing unescaped, its numbers right."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from PIL import Image

from cubes import DATES, make_cube
from mapping_weights import tiny_weights
from panoseg.classes import PASTIS, ClassTable, SegmentClass
from panoseg.cube.check import check_cube
from panoseg.cube.season import Season, choose_season
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps import MapOptions
from panoseg.maps.compare import compare_parcels
from panoseg.maps.figures import clearest_date, ndvi_curve, svg_paths, true_colour
from panoseg.maps.parcels import parcels_of
from panoseg.maps.rasters import write_class_raster
from panoseg.maps.report import (
    MAX_OUTLINES,
    ReportContent,
    render_report,
    scale_bar,
    summarise,
)
from panoseg.panoptic import Panoptic

HOSTILE = '</title><script>alert("x")</script>&\'"{{ 7 * 7 }}'


def content(
    table: ClassTable = PASTIS,
    truth: bool = False,
    empty: bool = False,
    max_outlines: int = MAX_OUTLINES,
    **changes,
) -> ReportContent:
    cube = check_cube(make_cube(scl=True), PASTIS_BANDS)
    season = choose_season(cube)
    cube = cube.isel(time=season.index_T)
    segment_HW = np.kron(np.array([[0, 4], [7, 9]]), np.ones((16, 16), int))
    segmentation = (
        Panoptic.empty(32, 32)
        if empty
        else Panoptic.from_maps(segment_HW, {0: 0, 4: 1, 7: 2, 9: 2}, table)
    )
    if not empty:
        likely = np.zeros((3, table.count), np.float32)
        likely[:, 1:3] = (0.75, 0.25), (0.5, 0.5), (0.125, 0.875)
        segmentation = Panoptic(
            segmentation.segment_HW, replace(segmentation.segments, probabilities=likely)
        )
    grid = cube.odc.geobox
    parcels = parcels_of(segmentation, grid.affine, grid.crs.to_wkt(), table)
    values = {
        "title": "a season",
        "source": Path("season.nc"),
        "cube": cube,
        "season": season,
        "parcels": summarise([parcels], max_outlines),
        "classes_path": Path("classes.tif"),
        "card": tiny_weights().card,
        "weights": "weights",
        "options": MapOptions(),
        "notes": (),
    }
    if truth:
        comparison = compare_parcels(parcels, parcels.iloc[1:])
        values |= {
            "truth": parcels.iloc[1:],
            "comparison": comparison,
            "invented": parcels.iloc[list(comparison.invented)],
        }
    card = values["card"]
    object.__setattr__(card, "classes", table)
    return ReportContent(**(values | changes))


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else():
    page = Page(render_report(content(truth=True)))
    assert not any(tag in ("script", "link", "iframe", "img") for tag, _ in page.tags)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
    assert "http" not in re.sub(r"data:image[^\"]*", "", page.text)


def test_the_page_shows_every_parcel_class_and_date():
    page = Page(render_report(content()))
    paths = [
        attributes
        for tag, attributes in page.tags
        if tag == "path" and attributes.get("class") == "parcel"
    ]
    assert [attributes["fill"] for attributes in paths] == [
        PASTIS[1].colour,
        PASTIS[2].colour,
        PASTIS[2].colour,
    ]
    assert all(re.fullmatch(r"(M[\d. L-]+Z)+", attributes["d"]) for attributes in paths)
    assert "meadow" in page.text
    assert sum(attributes.get("class") == "bar" for _, attributes in page.tags) == len(DATES)
    assert sum(attributes.get("class") == "clear" for _, attributes in page.tags) == 3 * len(DATES)


@pytest.mark.parametrize(
    ("first_day", "first", "last"),
    [
        (date(2018, 9, 1), "September 2018", "October 2019"),
        (date(2018, 6, 15), "July 2018", "August 2019"),
    ],
)
def test_the_axis_names_the_months_of_the_season(first_day, first, last):
    given = content()
    changed = replace(given, season=replace(given.season, reference=first_day))
    page = render_report(changed)
    names = re.findall(r"<title>([A-Z][a-z]+ \d{4})</title>", page)
    assert (names[0], names[-1], len(names)) == (first, last, 14)


def test_numbers_of_the_classes():
    text = Page(render_report(content())).text
    wheat = text[
        text.index("soft winter wheat", text.index("mean confidence", text.index("By class"))) :
    ]
    assert re.match(r"soft winter wheat\s*2\s*5\.1\s*66\.7 %", wheat)


def test_the_most_uncertain_pairs_of_classes():
    text = Page(render_report(content())).text
    doubt = text[text.index("Most uncertain pairs of classes") :]
    # Three parcels of 2.56 ha: half and an eighth of the wheat may be meadow, a quarter of the
    # meadow wheat.
    assert re.search(
        r"may be\s*uncertain area, ha\s*soft winter wheat\s*meadow\s*1\.6\s*meadow\s*soft winter"
        r" wheat\s*0\.6",
        doubt,
    )


def test_hostile_names_are_only_text():
    table = ClassTable(
        HOSTILE,
        (
            SegmentClass(0, "land", "#000000", "stuff"),
            *(SegmentClass(i, f"{i}{HOSTILE}", "#ff0000", "thing") for i in (1, 2)),
        ),
    )
    card = tiny_weights().card
    object.__setattr__(card, "trained_on", HOSTILE)
    object.__setattr__(card, "provenance", {HOSTILE: HOSTILE})
    page = render_report(
        content(table, truth=True, title=HOSTILE, weights=HOSTILE, notes=(HOSTILE,))
    )
    assert "<script" not in page
    assert "49" not in Page(page).text.split("How this map was made")[0].split("The map")[0]
    assert HOSTILE in Page(page).text


def test_an_empty_map_has_a_page():
    text = Page(render_report(content(empty=True))).text
    assert "No parcel was found." in text
    assert "By class" not in text
    assert "uncertain pairs" not in text


def test_the_truth_is_drawn_where_there_is_one():
    with_truth, without = render_report(content(truth=True)), render_report(content())
    assert "Comparison with true parcels" in with_truth
    assert "Comparison with true parcels" not in without
    tags = Page(with_truth).tags
    assert sum(attributes.get("class") == "parcel found" for _, attributes in tags) == 2
    assert sum(attributes.get("class") == "invented" for _, attributes in tags) == 1


def test_parts_and_holes_are_drawn():
    ring = shapely.box(0, 0, 40, 40) - shapely.box(10, 10, 20, 20)
    outlines = np.array([shapely.union_all([ring, shapely.box(60, 0, 70, 10)])], dtype=object)
    assert svg_paths(outlines, Affine(10, 0, 0, 0, -10, 0))[0].count("M") == 3


def test_ndvi_of_a_parcel():
    cube = make_cube(scl=True)
    cube["B08"][:], cube["B04"][:] = 3000, 1000
    cube["B08"][2, :, 8:], cube["SCL"][2] = 1000, 9
    cube["B08"][4, 0, 0] = 0
    checked = check_cube(cube, PASTIS_BANDS)
    left, top = checked.odc.geobox.affine.c, checked.odc.geobox.affine.f
    curve = ndvi_curve(checked, shapely.box(left, top - 160, left + 160, top))
    np.testing.assert_allclose(curve.mean_T, [0.5, 0.5, 0.25, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(curve.low_T[2], 0.0)
    np.testing.assert_allclose(curve.high_T[2], 0.5)
    assert curve.cloudy_T.tolist() == [False, False, True, False, False, False]
    assert curve.dates == list(DATES)


def test_without_scene_classification_bright_blue_is_cloud():
    cube = make_cube()
    cube["B02"][:] = 500
    cube["B02"][1] = 4000
    checked = check_cube(cube, PASTIS_BANDS)
    left, top = checked.odc.geobox.affine.c, checked.odc.geobox.affine.f
    assert ndvi_curve(checked, shapely.box(left, top - 50, left + 50, top)).cloudy_T.tolist() == [
        False,
        True,
        *[False] * 4,
    ]


def test_the_scene_is_a_jpeg_even_without_data():
    cube = check_cube(make_cube(), PASTIS_BANDS)
    assert true_colour(cube, 0).startswith("data:image/jpeg;base64,/9j/")
    assert true_colour(cube * np.nan, 0).startswith("data:image/jpeg;base64,/9j/")


def test_the_clearest_date_near_midsummer():
    dates = np.array(["2018-11-01", "2019-03-01", "2019-06-20", "2019-08-01"], "datetime64[D]")
    season = Season(
        2019, None, np.arange(4), dates, np.arange(4), np.array([1.0, 1.0, 0.5, 0.98]), ()
    )
    assert clearest_date(season) == 3


def table(*rows):
    """Parcels of (class, hectares)."""
    columns = {
        "id": [str(number) for number in range(len(rows))],
        "class": [name for name, _ in rows],
    }
    columns |= {
        "area_ha": [area for _, area in rows],
        "confidence": np.linspace(0.5, 1, len(rows), dtype=np.float32),
    }
    columns["second_class"] = pd.Series(
        ["z" if number % 5 else None for number in range(len(rows))], dtype="string"
    )
    columns["second_probability"] = np.linspace(0, 0.5, len(rows), dtype=np.float32)
    return gpd.GeoDataFrame(
        columns, geometry=[shapely.box(0, 0, 1, 1)] * len(rows), crs="EPSG:32631"
    )


def test_examples_are_the_largest_of_the_largest_classes():
    summary = summarise([table(("a", 5.0), ("a", 6.0), ("b", 1.0), ("c", 4.0))])
    assert summary.choose_examples(2)["id"].tolist() == ["1", "3"]
    assert summary.choose_examples(4)["id"].tolist() == ["1", "3", "2", "0"]
    assert len(summarise([table()]).choose_examples(4)) == 0


def test_parts_are_summed_up_as_the_whole():
    random = np.random.default_rng(0)
    whole = table(
        *(
            (name, float(area))
            for name, area in zip(random.choice(list("abcd"), 40), random.random(40), strict=True)
        )
    )
    once, thrice = (
        summarise([whole], max_outlines=10),
        summarise([whole.iloc[:13], whole.iloc[13:14], whole.iloc[14:]], max_outlines=10),
    )
    assert (once.count, once.complete, len(once.largest)) == (40, False, 10)
    assert once.area_ha == pytest.approx(whole["area_ha"].sum())
    assert once.confidence == pytest.approx(whole["confidence"].mean())
    assert (
        once.largest["id"].tolist()
        == thrice.largest["id"].tolist()
        == whole.nlargest(10, "area_ha")["id"].tolist()
    )
    assert once.choose_examples(6)["id"].tolist() == thrice.choose_examples(6)["id"].tolist()
    for one, three in zip(once.classes, thrice.classes, strict=True):
        assert (one.name, one.count) == (three.name, three.count)
        assert (one.area_ha, one.confidence) == pytest.approx((three.area_ha, three.confidence))
    assert [row.name for row in once.uncertain_pairs] == [
        row.name for row in thrice.uncertain_pairs
    ]
    assert [row.area_ha for row in once.uncertain_pairs] == pytest.approx(
        [row.area_ha for row in thrice.uncertain_pairs]
    )
    named = whole[whole["second_class"].notna()]
    expected = (named["area_ha"] * named["second_probability"]).sum()
    assert sum(row.area_ha for row in once.uncertain_pairs) == pytest.approx(expected)


def test_too_many_parcels_are_drawn_as_a_raster(tmp_path):
    classes_HW = np.kron(np.array([[0, 1], [2, 255]], np.uint8), np.ones((16, 16), np.uint8))
    write_class_raster(
        tmp_path / "classes.tif",
        classes_HW,
        check_cube(make_cube(), PASTIS_BANDS).odc.geobox,
        PASTIS,
    )
    page = Page(render_report(content(classes_path=tmp_path / "classes.tif", max_outlines=2)))
    assert not [
        attributes
        for tag, attributes in page.tags
        if tag == "path" and attributes.get("class") == "parcel"
    ]
    [uri] = [
        attributes["href"] for tag, attributes in page.tags if attributes.get("class") == "classes"
    ]
    drawn_HW4 = np.array(
        Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    )
    assert drawn_HW4[[0, 0, 31, 31], [0, 31, 0, 31], 3].tolist() == [0, 255, 255, 0]
    assert "#{:02x}{:02x}{:02x}".format(*drawn_HW4[0, 31, :3]) == PASTIS[1].colour
    assert "too many to draw" in page.text


@pytest.mark.parametrize("size", [32, 96, 10_980, 100_000])
def test_scale_bar_is_inside(size):
    assert 0 < scale_bar(size)["pixels"] < size / 2
