"""How the pages look: one style sheet, one script, and colours that stand apart from each other at WCAG's AA contrast."""

from __future__ import annotations

from functools import cache
from importlib import resources

INK, PAPER, GREEN, RED, QUIET = "#1b2620", "#f6f7f4", "#1c6b45", "#a8261c", "#55615a"
"""Text, background, what can be pressed, what went wrong, and what matters less."""


@cache
def head() -> str:
    """What the head of every page holds."""
    folder = resources.files("panoseg.app.pages")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("panoseg.css", "panoseg.js"))
    return f"<style>{style}</style><script>{script}</script>"


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, 1 to 21, as WCAG 2.2 defines it; text needs 4.5.

    >>> round(contrast("#ffffff", "#000000"), 1)
    21.0
    """
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
