"""Readers of users' files, a small valid input for each, and mutations that nobody would write.

``READERS`` has an entry for each reader; tests/test_fuzz_readers.py checks that no public reader
lacks one, and benchmarks/fuzz.py runs as many cases as asked.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cubes import make_cube, write_stac, write_tif
from mapping_weights import tiny_weights
from panoseg.app.places import read_place
from panoseg.app.upload_content import inspect
from panoseg.classes import PASTIS
from panoseg.coco.format import CocoAnnotations
from panoseg.coco.masks import read_colours, read_ids
from panoseg.cube import ReadOptions
from panoseg.cube.check import read_dataset
from panoseg.cube.open import open_cube, reading
from panoseg.data.pastis import PastisDataset, fold_normalisation
from panoseg.data.pastis_files import read_class_table
from panoseg.data.photograph_files import read_photograph
from panoseg.data.s2tsczcrop import S2TSCzCropDataset, train_normalisation
from panoseg.data.shards import ShardIndex, write_shards
from panoseg.errors import PanosegError
from panoseg.imagery.area import read_area
from panoseg.imagery.catalogue import load_scenes, save_scenes
from panoseg.imagery.scenes import read_scenes
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps.class_raster import read_class_raster
from panoseg.maps.read_parcels import read_parcels
from panoseg.models.hub_folders import read_hub_folder
from panoseg.models.published import import_crop2seg, import_published
from panoseg.models.weights import load_weights, save_weights
from panoseg.register.parcels import read_crop_codes
from panoseg.training import RunConfig, TrainConfig
from panoseg.training.checkpoint import (
    LEADING,
    Progress,
    load_checkpoint,
    random_state,
    read_log,
    save_checkpoint,
)
from panoseg.training.run import read_run
from panoseg.training.splits import read_test_scores
from registers import field_register, write_inputs
from small_coco import Scene, colours, encoded, ids, write_split
from small_networks import AUTHORS_OPTIONS, authors_folder
from small_pastis import write_small_pastis
from small_s2tsczcrop import write_small_s2tsczcrop
from tiny_runs import UTAE

HANG_S, MEMORY_KIB = 20.0, 1024**2
LONGEST_MESSAGE = 2200
OUTCOMES = ("clean", "accepted", "traceback", "hang", "memory")


@dataclass(frozen=True)
class Reader:
    """A reader and how its valid input is made."""

    write: Callable[[Path], Path]
    """Writes a valid input into a new folder, and returns what the reader is given."""
    read: Callable[[Path], object]
    """Reads it whole."""
    covers: tuple[str, ...] = ()
    """Public readers that it goes through, as ``module:name`` below ``panoseg``."""
    mutated: str = r".*"
    """Names of the files that are mutated."""


def _named(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# Seasons


def _season(write: Callable[[Any, Path], object], name: str) -> Callable[[Path], Path]:
    def write_it(folder: Path) -> Path:
        write(make_cube(16, scl=True), folder / name)
        return folder / name

    return write_it


def _read_season(path: Path) -> object:
    cube = open_cube(path)
    with reading(path):
        return read_dataset(cube, PASTIS_BANDS, ReadOptions())


def _write_scenes(folder: Path) -> Path:
    write_stac(folder / "stac", size=16)
    return folder / "stac"


def _read_scenes(path: Path) -> object:
    return read_scenes(path), _read_season(path)


def _write_scene_list(folder: Path) -> Path:
    write_stac(folder / "stac", size=16)
    items = [json.loads(path.read_text()) for path in sorted(folder.rglob("item.json"))]
    save_scenes(items, folder / "scenes.json", {})
    shutil.rmtree(folder / "stac")
    return folder / "scenes.json"


def _write_tifs(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for day in ("2019-04-01", "2019-06-01"):
        for band in PASTIS_BANDS:
            values_HW = generator.integers(200, 4000, (16, 16)).astype(np.uint16)
            write_tif(folder / "tifs" / f"S2_{day}_{band}.tif", values_HW)
    return folder / "tifs"


# Outlines, parcels and tables


def _outlines(name: str, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        table = field_register().to_crs(4326)
        path = folder / name
        if name.endswith(".parquet"):
            table.to_parquet(path)
        elif name.endswith(".csv"):
            rows = [f'"{row.geometry.wkt}";{row.crop}' for row in table.itertuples()]
            path.write_text("\n".join(["geometry;crop", *rows]))
        elif name.endswith(".zip"):
            table.to_file(folder / "shape.shp", **options)
            parts = sorted(folder.glob("shape.*"))
            with zipfile.ZipFile(path, "w") as archive:
                for part in parts:
                    archive.write(part, part.name)
            for part in parts:
                part.unlink()
        else:
            table.to_file(path, **options)
        return path

    return write


def _read_outlines(path: Path) -> object:
    """Read outlines as an area and as parcels; the first failure counts."""
    return read_area(path), read_parcels(path)


def _write_codes(folder: Path) -> Path:
    _, table, _ = write_inputs(folder / "register")
    return table


# Datasets and photographs


def _read_pastis(folder: Path) -> object:
    dataset = PastisDataset(folder, target="panoptic")
    return [dataset[number] for number in range(len(dataset))], fold_normalisation(folder, (1,))


def _read_czech(folder: Path) -> object:
    dataset = S2TSCzCropDataset(folder, target="semantic")
    return [dataset[number] for number in range(len(dataset))], train_normalisation(folder)


def _write_coco(folder: Path) -> Path:
    return write_split(folder / "coco", [Scene(1), Scene(2)])


def _read_coco(folder: Path) -> object:
    name = "panoptic_train2017"
    found = CocoAnnotations.open(
        folder / "annotations" / f"{name}.json", folder / "annotations" / name
    )
    return [found.read(image_id) for image_id in found.image_ids]


def _write_shards(folder: Path) -> Path:
    data = _write_coco(folder)
    write_split(data, [Scene(3)], "val2017")
    write_shards(data, str(folder / "shards"), 1, processes=1)
    return folder / "shards"


def _read_png(path: Path) -> object:
    return read_ids(path), read_colours(path)


def _photograph(form: str) -> Callable[[Path], Path]:
    name = {"JPEG": "a.jpg", "PNG": "a.png", "TIFF": "a.tif"}[form]
    return _named(name, encoded(colours(ids()), form))


def _write_classes(folder: Path) -> Path:
    write_tif(folder / "classes.tif", np.arange(64, dtype=np.uint8).reshape(8, 8) % 5)
    return folder / "classes.tif"


# Weights and runs


def _write_weights(folder: Path) -> Path:
    save_weights(folder / "w", tiny_weights())
    return folder / "w"


def _state(model: Any) -> dict[str, Any]:
    from panoseg.models.network import build_network

    return build_network(model).state_dict()


def _write_published(folder: Path) -> Path:
    from small_networks import AUTHORS_CONFIG

    return authors_folder(folder / "authors", AUTHORS_OPTIONS, _state(AUTHORS_CONFIG))


def _write_crop2seg(folder: Path) -> Path:
    place = _write_published(folder)
    shutil.move(place / "conf.json", place / "Fold_1" / "conf.json")
    return place / "Fold_1"


def _write_hub(folder: Path) -> Path:
    place = folder / "hub"
    place.mkdir()
    labels = {str(number): name for number, name in enumerate(("road", "sky", "car"))}
    options = {"model_type": "mask2former", "id2label": labels, "hidden_dim": 16}
    (place / "config.json").write_text(json.dumps(options))
    (place / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 64}})
    )
    (place / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return place


def _write_run(folder: Path) -> Path:
    from panoseg.files import write_json
    from panoseg.models.configs import to_json

    run = RunConfig("pastis-utae", "data", 1, TrainConfig(model=UTAE))
    write_json(folder / "config.json", to_json(run))
    return folder


def _write_checkpoint(folder: Path) -> Path:
    states = {"weight": torch.zeros(2, 2)}, {"state": {0: {"step": torch.ones(1)}}}
    save_checkpoint(folder / "last.ckpt", *states, Progress(), [random_state()])
    return folder / "last.ckpt"


def _write_log(folder: Path) -> Path:
    rows = [(*LEADING, "loss"), (1, 1, "train", 0.1, 0.5), (2, 2, "train", 0.1, 0.4)]
    return _named("log.csv", "\n".join(",".join(map(str, row)) for row in rows))(folder)


def _write_scores(folder: Path) -> Path:
    numbers = {"iou": 0.5, "f1": 0.6}
    content = {"test": {"mIoU": 50.0}, "details": {"classes": {"corn": numbers}}}
    _named("metrics.json", json.dumps(content))(folder)
    return folder


_VECTORS = ("imagery/vector_files:read_vector", "maps/read_parcels:read_truth")
READERS: dict[str, Reader] = {
    "NetCDF": Reader(
        _season(lambda cube, path: cube.to_netcdf(path), "c.nc"),
        _read_season,
        ("cube/open:open_cube", "api:open_cube", "maps/inspect:inspect_cube"),
    ),
    "Zarr 2": Reader(
        _season(lambda cube, path: cube.to_zarr(path, zarr_format=2), "c.zarr"), _read_season
    ),
    "Zarr 3": Reader(
        _season(lambda cube, path: cube.to_zarr(path, zarr_format=3, consolidated=False), "c.zarr"),
        _read_season,
    ),
    "STAC folder": Reader(
        _write_scenes, _read_scenes, ("imagery/scenes:read_scenes",), r".*\.json|B0[25]\.tif"
    ),
    "list of scenes": Reader(_write_scene_list, load_scenes, ("imagery/catalogue:load_scenes",)),
    "GeoTIFF folder": Reader(_write_tifs, _read_season),
    "GeoJSON": Reader(
        _outlines("a.geojson"),
        _read_outlines,
        ("imagery/area:read_area", "maps/read_parcels:read_parcels", *_VECTORS),
    ),
    "GeoPackage": Reader(_outlines("a.gpkg"), _read_outlines),
    "GeoParquet": Reader(_outlines("a.parquet"), _read_outlines),
    "FlatGeobuf": Reader(_outlines("a.fgb"), _read_outlines),
    "zipped Shapefile": Reader(_outlines("a.zip"), _read_outlines),
    "KML": Reader(_outlines("a.kml", driver="KML"), _read_outlines, ("imagery/outlines:read_kml",)),
    "GML": Reader(_outlines("a.gml", driver="GML"), _read_outlines),
    "CSV of outlines": Reader(_outlines("a.csv"), _read_outlines),
    "crop codes": Reader(
        _write_codes,
        lambda path: read_crop_codes(path, PASTIS),
        ("register/parcels:read_crop_codes", "register/parcels:read_rows"),
        r"table\.csv",
    ),
    "table of classes": Reader(
        _named("t.csv", "id,name,kind,colour\n0,nothing,stuff,#000000\n1,corn,thing,#ffcc00\n"),
        read_class_table,
        ("data/pastis_files:read_class_table", "text_files:read_text", "text_files:read_bytes"),
    ),
    "PASTIS": Reader(
        lambda folder: write_small_pastis(folder / "pastis") and folder / "pastis",
        _read_pastis,
        ("data/pastis_files:read_metadata", "data/pastis_files:read_json", "text_files:read_json"),
    ),
    "S2TSCzCrop": Reader(
        lambda folder: write_small_s2tsczcrop(folder / "czech"),
        _read_czech,
        ("data/s2tsczcrop_files:read_patches",),
    ),
    "COCO": Reader(
        _write_coco,
        _read_coco,
        ("coco/format:CocoAnnotations.open", "coco/json:CocoJson.open", "coco/json:read_row"),
        r"panoptic_.*\.json|.*\.png",
    ),
    "shards": Reader(_write_shards, ShardIndex.read, ("data/shards:ShardIndex.read",), "index.*"),
    "PNG": Reader(
        _photograph("PNG"),
        _read_png,
        ("coco/masks:read_ids", "coco/masks:read_colours", "coco/masks:open_png"),
    ),
    "photograph (JPEG)": Reader(
        _photograph("JPEG"),
        read_photograph,
        ("data/photograph_files:read_photograph", "data/photograph_files:read_bytes"),
    ),
    "photograph (TIFF)": Reader(_photograph("TIFF"), read_photograph),
    "class raster": Reader(
        _write_classes, read_class_raster, ("maps/class_raster:read_class_raster",)
    ),
    "card": Reader(
        _write_weights,
        load_weights,
        ("models/weights:load_card", "api:load", "models/model:Model.load"),
        r"card\.json",
    ),
    "safetensors": Reader(
        _write_weights, load_weights, ("models/weights:load_weights",), r".*\.safetensors"
    ),
    "published weights": Reader(
        _write_published,
        lambda folder: import_published(folder, 1),
        (
            "models/published:import_published",
            "models/published:read_checkpoint",
            "models/published:read_options",
            "models/weight_files:load_tensors",
        ),
    ),
    "published weights (Crop2Seg)": Reader(
        _write_crop2seg,
        lambda folder: import_crop2seg(folder, PASTIS),
        ("models/published:import_crop2seg",),
    ),
    "folder of the Hub": Reader(
        _write_hub, read_hub_folder, ("models/hub_folders:read_hub_folder",)
    ),
    "run": Reader(_write_run, read_run, ("training/run:read_run",)),
    "checkpoint": Reader(
        _write_checkpoint, load_checkpoint, ("training/checkpoint:load_checkpoint",)
    ),
    "log": Reader(_write_log, read_log, ("training/checkpoint:read_log",)),
    "scores": Reader(_write_scores, read_test_scores, ("training/splits:read_test_scores",)),
    "coordinates": Reader(
        _named("c.txt", "51° 3.5' N, 3° 43' 12\" E"),
        lambda path: read_place(path.read_text(encoding="utf-8", errors="replace")),
    ),
    "link of a web map": Reader(
        _named("l.txt", "https://maps.example.org/place/x/@51.05,3.72,15z?q=51.05,3.72&ll=1,2"),
        lambda path: read_place(path.read_text(encoding="utf-8", errors="replace")),
    ),
    "upload": Reader(
        _outlines("a.geojson"),
        inspect,
        ("app/upload_content:inspect", "app/upload_content:inspect_season"),
    ),
}

# Mutations

_VALUES: tuple[Any, ...] = (
    *(None, True, "", "a" * 10_000, "../../etc/passwd", "\ud800", "\0", [], {}, [[]], [None] * 999),
    *(-1, 0, 0.5, 2**31, 2**63, 2**70, 10**400, -1e308, float("nan"), float("inf"), "NaN", "1e400"),
    *("99999-12-31", "2019-02-30T25:61:61Z", "EPSG:0", "days since 99999-01-01", "<script>"),
)
_TOKENS = (b"", b"-1", b"0", b"NaN", b"1e400", b"9" * 5000, b"[" * 3000, b"\xff\xfe", b"\0" * 8)


def _mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Change some bytes: cut, flip, drop, repeat, or put a number of a bad kind for a number."""
    data, size = bytearray(content), len(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(max(1, len(data)))
        to = min(len(data), at + draw.choice((1, 2, 4, 8, 64, max(1, size // 4))))
        match draw.randrange(6):
            case 0:
                del data[at:]
            case 1:
                del data[at:to]
            case 2:
                data[at:to] = draw.randbytes(to - at)
            case 3:
                data[at:to] = bytes(to - at) if draw.random() < 0.5 else b"\xff" * (to - at)
            case 4:
                data[at:at] = bytes(data[at:to]) * draw.choice((1, 3, 100))
            case _:
                numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data[:100_000]))
                if numbers:
                    found = draw.choice(numbers)
                    data[found.start() : found.end()] = draw.choice(_TOKENS)
    return bytes(data)


def _mutated_json(content: bytes, draw: random.Random) -> bytes:
    """Replace, drop or repeat an entry anywhere in a JSON file."""
    value = json.loads(content)
    places: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        node = todo.pop()
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, entry in entries:
            places.append((node, key))
            if isinstance(entry, dict | list):
                todo.append(entry)
    if not places:
        return content
    node, key = draw.choice(places)
    match draw.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, list):
            node.extend([node[key]] * draw.choice((1, 50)))
        case 2:
            node[key] = [node[key]] if draw.random() < 0.5 else str(node[key])
        case _:
            node[key] = draw.choice(_VALUES)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def mutate(path: Path, draw: random.Random) -> None:
    """Change a file of a valid input so that it is valid no more, or just odd."""
    content = path.read_bytes()
    if content.lstrip()[:1] in (b"{", b"[") and draw.random() < 0.7:
        content = _mutated_json(content, draw)
    else:
        content = _mutated_bytes(content, draw)
    path.write_bytes(content)


# Running


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    kind: str
    """One of ``OUTCOMES``."""
    detail: str = ""
    """The message, or what was wrong."""


@contextmanager
def _caught_stderr() -> Iterator[list[str]]:
    """Collect what libraries written in C print."""
    said: list[str] = []
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said.append(file.read(2000).decode(errors="replace"))


def run_case(reader: Reader, given: Path) -> Outcome:
    """Read an input, and say what became of it."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kind, detail = "accepted", ""
    with _caught_stderr() as said:
        try:
            reader.read(given)
        except PanosegError as error:
            kind, detail = "clean", str(error)
            if "\n" in detail or len(detail) > LONGEST_MESSAGE:
                kind = "traceback"
        except MemoryError as error:
            kind, detail = "memory", repr(error)
        except Exception as error:
            kind, detail = "traceback", f"{type(error).__name__}: {str(error)[:300]}"
    if said[0].strip() and kind in ("clean", "accepted"):
        kind, detail = "traceback", f"a library printed: {said[0].strip()[:300]}"
    if time.monotonic() - begin > HANG_S:
        kind = "hang"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MEMORY_KIB:
        kind = "memory"
    return Outcome(kind, detail)


class Cases:
    """The cases of a reader: copies of its valid input, each with one file mutated.

    Args:
        name: Key of ``READERS``.
        folder: An empty folder for the files.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.reader, self.folder = name, READERS[name], folder
        (folder / "valid").mkdir(parents=True)
        self.valid = self.reader.write(folder / "valid")

    def write(self, seed: int) -> Path:
        """Write the case of a seed; returns what the reader is given."""
        draw = random.Random(f"{self.name} {seed}")
        case = self.folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(self.folder / "valid", case)
        given = case / self.valid.relative_to(self.folder / "valid")
        files = [given] if given.is_file() else sorted(filter(Path.is_file, given.rglob("*")))
        chosen = [path for path in files if re.fullmatch(self.reader.mutated, path.name)]
        mutate(draw.choice(chosen), draw)
        return given

    def run(self, seed: int) -> Outcome:
        """Write and read the case of a seed."""
        return run_case(self.reader, self.write(seed))
