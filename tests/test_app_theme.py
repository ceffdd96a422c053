"""Colours of the pages: those of the style sheet are the ones that are checked, and text stands
out.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from panoseg.app.pages.frame import (
    GREEN,
    INK,
    PAPER,
    QUIET,
    RED,
    contrast,
    head,
    page_words,
    sentence,
)
from panoseg.app.pages.job import _stage_list
from panoseg.errors import PanosegError


@pytest.mark.parametrize("text", [INK, GREEN, RED, QUIET])
@pytest.mark.parametrize("ground", [PAPER, "#ffffff"])
def test_text_stands_out(text, ground):
    assert contrast(text, ground) >= 4.5


@pytest.mark.parametrize("ground", [GREEN, RED])
def test_white_stands_out_on_what_can_be_pressed(ground):
    assert contrast("#ffffff", ground) >= 4.5


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


def test_the_style_sheet_has_these_colours_and_asks_nobody():
    for colour in (INK, PAPER, GREEN, RED, QUIET):
        assert colour in head()
    assert "http" not in head()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/app/uploads/ada/farm.kml is empty.", "farm.kml is empty."),
        ("https://a.org/x/y does not answer.", "https://a.org/x/y does not answer."),
        (f"{'0a' * 16}.nc is cut off: send it again.", "The file is cut off: send it again."),
        (
            "The catalogue does not answer (ProxyError: 127.0.0.1 refused): choose another --catalog.",
            "The catalogue does not answer: choose another catalogue.",
        ),
        (
            "It has no system: state it, e.g. with --crs EPSG:32631.",
            "It has no system: state it.",
        ),
    ],
)
def test_messages_of_the_core_are_in_the_words_of_a_page(text, shown):
    assert page_words(text) == shown
    assert sentence(PanosegError(text)) == shown


def test_the_comparison_is_a_stage_only_where_there_are_official_parcels():
    outline = {"type": "Polygon", "coordinates": [[[3, 51], [3.02, 51], [3.02, 51.01], [3, 51]]]}
    place = {"type": "catalogue", "catalogue": "earth-search", "year": 2024, "outline": outline}
    sample = {"type": "sample", "size": 32}
    for source, register, compared in (
        (place, None, False),
        (place, {"url": "https://example.org/a.gpkg"}, True),
        (sample, None, True),
    ):
        request = {"kind": "map", "name": "x", "source": source, "register_of": register}
        job = SimpleNamespace(request=request, state="queued", stage="", started=None, progress=0.0)
        assert ("official parcels" in _stage_list(job)) == compared
