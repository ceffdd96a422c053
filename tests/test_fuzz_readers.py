"""Every reader of users' files meets some mutated files; benchmarks/fuzz.py runs more of them."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import panoseg
from fuzz_readers import READERS, Cases, run_case

CASES = 4
SOURCE = Path(panoseg.__file__).parent

OWN_FILES = {
    "app/corrections:read_corrections": "the application's own file",
    "app/layers:read_layers": "the application's own file",
    "app/pages/photo:read_segments": "the application's own file",
    "app/result_map:open_result": "the application's own file",
    "app/stages:read_options_of": "the application's own file",
    "app/tile_sources:read_tile": "the application's own file",
    "app/tile_sources:read_outlines": "the application's own file",
    "app/users:read_users": "of who runs the server",
    "cli/maps:inspect": "a command",
    "cli/weights:import_weights": "a command",
    "imagery/outlines:_Xml.read": "a part of read_kml",
    "data/describe:open_labelled": "PASTIS and S2TSCzCrop",
    "data/layouts:Layout.open_train": "PASTIS, S2TSCzCrop and COCO",
    "data/layouts:Layout.open_scored": "PASTIS, S2TSCzCrop and COCO",
    "data/layouts:SeasonLayout.open_train": "PASTIS and S2TSCzCrop",
    "data/layouts:SeasonLayout.open_scored": "PASTIS and S2TSCzCrop",
    "data/layouts:PhotographLayout.open_train": "COCO and shards",
    "data/layouts:PhotographLayout.open_scored": "COCO and shards",
    "maps/class_raster:read_confidence": "the map's own file",
    "maps/parcels:read_geoparquet": "the map's own file",
    "maps/inputs:open_inputs": "NetCDF, Zarr and the like",
    "maps/inputs:open_season": "NetCDF, Zarr and the like",
    "photo/segment:_Results.open": "an output",
    "platforms:open_for_lock": "a lock, whose content is not read",
    "register/patches:open_season": "NetCDF, Zarr and the like",
    "register/patches:read_unseen": "the dataset's own file",
    "register/parcels:read_register": "the formats of outlines",
    "training/splits:open_splits": "PASTIS, S2TSCzCrop and COCO",
    "training/transfer:import_folds": "published weights",
}
"""Readers of files that panoseg wrote, or that only call readers with an entry."""


def public_readers() -> set[str]:
    """Functions that read, open, load, import or inspect the path which is their first argument."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        scopes = [("", module.body)]
        scopes += [(f"{c.name}.", c.body) for c in module.body if isinstance(c, ast.ClassDef)]
        for prefix, body in scopes:
            for function in body:
                if not isinstance(function, ast.FunctionDef):
                    continue
                words = [a for a in function.args.args if a.arg not in ("self", "cls")]
                first = words[0].annotation if words else None
                if (
                    re.match(r"(read|open|load|import|inspect)(_|$)", function.name)
                    and first is not None
                    and re.search("Path|Place|bytes", ast.unparse(first))
                ):
                    place = path.relative_to(SOURCE).with_suffix("").as_posix()
                    found.add(f"{place}:{prefix}{function.name}")
    return found


def test_every_public_reader_has_an_entry():
    covered = {name for reader in READERS.values() for name in reader.covers}
    found = public_readers()
    assert not found - covered - set(OWN_FILES), "add them to READERS in tests/fuzz_readers.py"
    assert not (covered | set(OWN_FILES)) - found, "they are gone"


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, name):
    cases = Cases(name, tmp_path)
    if name != "folder of the Hub":  # whose numbers would be large
        outcome = run_case(cases.reader, cases.valid)
        assert outcome.kind == "accepted", outcome
    for seed in range(CASES):
        outcome = cases.run(seed)
        assert outcome.kind in ("clean", "accepted"), (seed, outcome)


def test_the_page_of_limits_has_the_numbers_of_the_program():
    page = SOURCE.parents[1] / "docs" / "limits.md"
    rows = re.findall(r"\| ([\d,]+)( [MG]iB)? \| `([\w.]+)\.(\w+)` \|", page.read_text())
    assert len(rows) > 25
    for number, unit, module, name in rows:
        factor = {"": 1, " MiB": 1024**2, " GiB": 1024**3}[unit]
        value = getattr(importlib.import_module(f"panoseg.{module}"), name)
        assert value == int(number.replace(",", "")) * factor, name
