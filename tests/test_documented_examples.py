"""The examples in docstrings: every one in the package runs."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import panoseg
from panoseg.classes import PASTIS, ClassTable, SegmentClass
from panoseg.panoptic import Panoptic

ROOT = Path(panoseg.__file__).parent
KNOWN = {
    "PASTIS": PASTIS,
    "ClassTable": ClassTable,
    "SegmentClass": SegmentClass,
    "Panoptic": Panoptic,
}
"""What examples use without importing it."""
MODULES = sorted(
    ".".join(("panoseg", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    result = doctest.testmod(importlib.import_module(name), extraglobs=KNOWN)
    assert result.attempted > 0
    assert result.failed == 0
