"""Colours of the pages: those of the style sheet are the ones that are checked, and text stands
out.
"""

from __future__ import annotations

import pytest

from panoseg.app.pages.frame import GREEN, INK, PAPER, QUIET, RED, contrast, head


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
