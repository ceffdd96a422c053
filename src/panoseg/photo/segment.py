"""Segment photographs into a folder of results, with weights or a function of the user.

Results are PNG files of segment ids with their JSON, overlays, and a table of segments. The names
of the results follow from those of the photographs.
"""

from __future__ import annotations

import csv
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from panoseg.classes import ClassTable
from panoseg.coco.categories import category_rows
from panoseg.coco.format import coloured_rows
from panoseg.coco.masks import IMAGE_SUFFIXES, write_ids
from panoseg.data import PhotographConfig
from panoseg.data.photograph_files import decode_photograph, read_bytes
from panoseg.errors import DatasetError, PanosegError
from panoseg.files import atomic, new_folder
from panoseg.models.model import PUBLISHED, Model, find_device, find_weights
from panoseg.models.photograph_network import PhotographNetwork
from panoseg.models.two_models import TwoModels
from panoseg.models.weights import load_card
from panoseg.models.weights_by_name import origin_of
from panoseg.panoptic import Panoptic
from panoseg.panoptic.draw import overlay
from panoseg.photo import PhotoOptions
from panoseg.progress import track

if TYPE_CHECKING:
    from PIL import Image


def open_model(weights: str, instances: str | None, options: PhotoOptions) -> Model:
    """Load one network, or two of which one scores pixels and the other finds objects.

    Args:
        weights: A folder of weights, a run, a name, see ``locate``, or "coco" for the published
            Mask R-CNN.
        instances: Likewise; None for one network.
        options: What is changed of the weights.

    Raises:
        WeightsError: The networks are not for photographs, or do not go together.
        ConfigError: An option would do nothing.
    """
    find_device(options.device)
    models = [_load(name, options) for name in (weights, instances) if name is not None]
    model = models[0]
    if instances is not None:
        semantic, objects = (cast(PhotographNetwork, one.network) for one in models)
        sides = cast(tuple[PhotographConfig, PhotographConfig], (model.sides, models[1].sides))
        both = TwoModels(semantic, objects, sides)
        model = replace(model, network=both.to(model.device).eval(), sides=None)
    if options.thresholds:
        model.network.use_thresholds(options.thresholds)
    return model


def _load(name: str, options: PhotoOptions) -> Model:
    if name != PUBLISHED:
        load_card(find_weights(name)).check_inputs("photograph", name)  # type: ignore[arg-type]
    model = Model.load(name, device=options.device, thresholds=options.thresholds)
    if model.network.config.resizes:
        if options.min_side is not None or options.max_side is not None:
            model.network.use_sides(options.min_side or 0, options.max_side or 0)
        return model
    trained = model.sides or PhotographConfig()
    sides = {
        side: getattr(trained, side) if getattr(options, side) is None else getattr(options, side)
        for side in ("min_side", "max_side")
    }
    return replace(model, sides=PhotographConfig(**sides))


_ODD = re.compile(r"[\x00-\x1f\x7f:\\\ud800-\udfff]")
"""What may stand in the name of a file here, but not in one on any disk, in a line, or in UTF-8."""


@dataclass(frozen=True)
class Source:
    """A photograph to segment."""

    path: Path
    """Its file."""
    name: str
    """Name of its results, with folders where several files have the same name."""

    @property
    def file_name(self) -> str:
        """The name with its file's ending."""
        ending = _ODD.sub("_", self.path.suffix)
        return self.name if self.name.endswith(ending) else f"{self.name}{ending}"


def find_photographs(arguments: Iterable[str]) -> tuple[list[Source], list[PanosegError]]:
    """Find the photographs that arguments name, each once, in their order.

    A folder stands for the images in it and in the folders below, a pattern (``"2024/*.jpg"``,
    ``**`` for any folders) for the files that match.

    Returns:
        The photographs, and an error for each argument that names none.
    """
    paths: dict[Path, Path] = {}
    failures: list[PanosegError] = []
    for argument in arguments:
        try:
            found = _expand(argument)
        except OSError as error:
            failures.append(_nothing(argument[:100], error.strerror or str(error)))
            continue
        if not found:
            failures.append(_nothing(argument))
        for path in found:
            paths.setdefault(path.resolve(), path)
    return [
        Source(path, name)
        for path, name in zip(paths.values(), unique_names([*paths]), strict=True)
    ], failures


def unique_names(paths: Sequence[PurePath]) -> list[str]:
    """Return the shortest names that distinguish files, on any disk.

    Names have no ending; folders and ending are added only where needed.

    >>> paths = map(PurePath, ["/a/one.jpg", "/a/two.jpg", "/b/two.jpg", "/b/two.png"])
    >>> unique_names(list(paths))
    ['one', 'a/two', 'b/two.jpg', 'two.png']
    """
    names: dict[int, str] = {}
    deepest = max((len(path.parts) for path in paths), default=0)
    for with_ending in (False, True):
        for depth in range(1, deepest + 1):
            left = {
                position: _name(path, depth, with_ending) for position, path in enumerate(paths)
            }
            count = Counter(name.lower() for name in left.values())
            names |= {
                position: name
                for position, name in left.items()
                if position not in names and count[name.lower()] == 1
            }
    taken: set[str] = set()
    # Those of files whose paths differ in small and capital letters alone are made different at the
    # end.
    return [
        _free(names.get(position, _name(path, 1, with_ending=True)), taken)
        for position, path in enumerate(paths)
    ]


def _name(path: PurePath, depth: int, with_ending: bool) -> str:
    """Return the last ``depth`` parts of a path, problematic characters replaced."""
    parts = path.relative_to(path.anchor).parts[-depth:]
    return _ODD.sub("_", "/".join((*parts[:-1], path.name if with_ending else path.stem)))


def _free(name: str, taken: set[str]) -> str:
    """Return ``name``, or the name with underscores where it is taken, and mark it as taken.

    A file ``two.jpg.png`` may take the name ``two.jpg``.
    """
    while name.lower() in taken:
        name += "_"
    taken.add(name.lower())
    return name


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if not argument:  # an empty variable of a shell, which does not mean the folder where it is
        return []
    if path.is_dir():
        return sorted(entry for entry in path.rglob("*") if _is_picture(entry))
    if path.exists():
        return [path]
    if has_magic(argument):
        return [
            Path(entry) for entry in sorted(glob(argument, recursive=True)) if Path(entry).is_file()
        ]
    return []


_UNREAD_SUFFIXES = frozenset(
    [
        ".arw",
        ".cr2",
        ".cr3",
        ".dng",
        ".exr",
        ".hdr",
        ".ico",
        ".jxl",
        ".jxr",
        ".nef",
        ".orf",
        ".pbm",
        ".pgm",
        ".ppm",
        ".psd",
        ".raf",
        ".raw",
        ".rw2",
        ".svg",
        ".tga",
        ".xcf",
    ]
)
"""Suffixes of pictures that are not read."""


def unread_pictures(arguments: Iterable[str]) -> list[str]:
    """Return the files of folders that look like pictures, but of a kind that is not read."""
    return [
        str(entry)
        for argument in arguments
        if argument and Path(argument).is_dir()
        for entry in sorted(Path(argument).rglob("*"))
        if entry.suffix.lower() in _UNREAD_SUFFIXES and not entry.name.startswith(".")
    ]


def _is_picture(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _nothing(argument: str, reason: str = "") -> DatasetError:
    if argument and not reason and Path(argument).is_dir():
        return DatasetError(
            f"{argument}: no picture in this folder. Name another one, with files"
            f" {', '.join(IMAGE_SUFFIXES)}."
        )
    found = reason or ("no file matches" if has_magic(argument) else "no such file or folder")
    return DatasetError(
        f"{argument or repr(argument)}: {found.rstrip('.')}. Name a photograph, a folder or a"
        " pattern."
    )


PANOPTIC, OVERLAY, SEGMENTS = "panoptic", "overlay", "segments.csv"
COLUMNS = ("class", "kind", "score", "area", "left", "top", "width", "height", "id")
"""Of the table of segments, behind the name of the photograph; pixels, but for the score 0..1 and
the id.
"""
_QUALITY = 92  # of JPEG

Predict = Callable[["Image.Image"], Panoptic]
Row = dict[str, Any]


@dataclass(frozen=True)
class Segmented:
    """The outcome for a set of photographs."""

    images: int
    """Number of photographs with results."""
    failures: tuple[DatasetError, ...]
    """The error of each photograph that was left out."""
    seconds: float
    """Mean duration of one photograph, in seconds."""


def segment_photographs(
    sources: Sequence[Source],
    predict: Predict,
    table: ClassTable,
    out: Path,
    show: Callable[[str, list[Row]], None] = lambda name, rows: None,
    weights: Sequence[str] = (),
) -> Segmented:
    """Write the results of photographs into a new or empty folder.

    A photograph that cannot be read, or is too large, is left out; where none remains, the first
    failure is raised. After any other error nothing is written.

    Args:
        sources: The photographs.
        predict: Returns the segmentation of an image, with the classes of ``table``.
        table: The classes.
        out: Folder of the results.
        show: Called with the name of each photograph and its segments.
        weights: What the user called the weights; panoptic.json says where fetched ones came from.

    Raises:
        DatasetError: No photograph could be read.
        OutputError: The folder cannot be written.
    """
    new_folder(out)
    failures: list[DatasetError] = []
    done, seconds = 0, 0.0
    with _Results.open(out, table, _info(weights)) as results:
        for source, image_id in zip(
            track(sources, "photographs"), _image_ids(sources), strict=True
        ):
            started = time.perf_counter()
            try:
                image = decode_photograph(read_bytes(source.path), source.path)
            except DatasetError as error:
                failures.append(error)
                continue
            try:
                picture = predict(image)
            except DatasetError as error:
                failures.append(DatasetError(f"{source.path}: {error}"))
                continue
            rows = results.write(source, image_id, image, picture)
            done, seconds = done + 1, seconds + time.perf_counter() - started
            show(source.name, rows)
        if failures and not done:
            first, others = failures[0], len(failures) - 1
            count = f" Photographs that cannot be used: {len(failures)}." if others else ""
            raise DatasetError(f"{first}{count}")
    return Segmented(done, tuple(failures), seconds / max(done, 1))


def _info(weights: Sequence[str]) -> Row:
    """Return what panoptic.json says of weights that were fetched."""
    found = [find_weights(name) for name in weights]
    origins = [origin_of(place) for place in found if isinstance(place, Path)]
    fetched = [origin for origin in origins if origin is not None]
    return {"info": {"weights": fetched}} if fetched else {}


class _Results:
    """The files of some photographs, which appear together."""

    def __init__(
        self, table: ClassTable, info: Row, pictures: Path, overlays: Path, segments: Path
    ) -> None:
        self.info = info
        self.table, self.pictures, self.overlays = table, pictures, overlays
        self._file = segments.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file)
        self._csv.writerow(("image", *COLUMNS))
        self.images: list[Row] = []
        self.annotations: list[Row] = []

    @classmethod
    @contextmanager
    def open(cls, out: Path, table: ClassTable, info: Row) -> Iterator[_Results]:
        with ExitStack() as stack:
            path = stack.enter_context(
                atomic(out / f"{PANOPTIC}.json")
            )  # first in, so that it appears last
            pictures, overlays = (
                stack.enter_context(atomic(out / name)) for name in (PANOPTIC, OVERLAY)
            )
            pictures.mkdir()
            overlays.mkdir()
            results = cls(
                table, info, pictures, overlays, stack.enter_context(atomic(out / SEGMENTS))
            )
            with results._file:
                yield results
            path.write_text(json.dumps(results._json(), allow_nan=False), encoding="utf-8")

    def write(
        self, source: Source, image_id: int, image: Image.Image, picture: Panoptic
    ) -> list[Row]:
        """Write the results of one photograph; returns its segments, as ``COLUMNS``."""
        info, id_HW = coloured_rows(picture, self.table)
        write_ids(self.pictures / f"{source.name}.png", id_HW)
        _write_jpeg(
            self.overlays / f"{source.name}.jpg", overlay(np.asarray(image), picture, self.table)
        )
        self.images.append(
            {
                "id": image_id,
                "file_name": source.file_name,
                "height": image.height,
                "width": image.width,
            }
        )
        self.annotations.append(
            {"image_id": image_id, "file_name": f"{source.name}.png", "segments_info": info}
        )
        rows = segment_rows(info, self.table)
        self._csv.writerows([source.name, *row.values()] for row in rows)
        return rows

    def _json(self) -> Row:
        return {
            **self.info,
            "images": self.images,
            "annotations": self.annotations,
            "categories": category_rows(self.table),
        }


def segment_rows(info: Sequence[Row], table: ClassTable) -> list[Row]:
    """Rows of an annotation for people, the largest first: values by the names of ``COLUMNS``."""
    rows = []
    for segment in sorted(info, key=lambda segment: -segment["area"]):
        entry = table[segment["category_id"]]
        values = (
            entry.name,
            entry.kind,
            round(segment["score"], 3),
            segment["area"],
            *segment["bbox"],
            segment["id"],
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _image_ids(sources: Sequence[Source]) -> list[int]:
    """Return the ids of the images.

    They are the numbers in the file names, as in COCO, where all names are different numbers; else
    1, 2, 3 ...
    """
    names = [source.path.stem for source in sources]
    numbers = {int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= 15}
    return (
        [int(name) for name in names]
        if len(numbers) == len(names)
        else list(range(1, len(names) + 1))
    )


def _write_jpeg(path: Path, pixels_HW3: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HW3).save(
        path, quality=_QUALITY, subsampling=0
    )  # or thin lines would lose their colour
