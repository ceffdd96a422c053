"""``panoseg photo``: photographs become panoptic pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from panoseg.photo.options import PhotoOptions

_MOST_TABLES = 5


def photo(
    image: Annotated[tuple[str, ...], tyro.conf.Positional],
    weights: str,
    out: Path,
    instances: str | None = None,
    options: Annotated[PhotoOptions, tyro.conf.arg(name="")] = PhotoOptions(),  # noqa: B008
) -> None:
    """Segment photographs: panoptic.json and panoptic/ in COCO's form, overlays with names,
    segments.csv.

    Pictures of any camera or program are read: grey, of sixteen bits, of print, turned by their
    EXIF. One that cannot be read is named, the others are done, and the exit code is 2.

    example: panoseg photo holiday.jpg --weights RUN --out SEGMENTED

    example: panoseg photo FOLDER "more/*.png" --weights PSPNET --instances MASKRCNN --out SEGMENTED

    Args:
        image: Photographs, folders of them, or patterns.
        weights: A run, or a folder of weights: Panoptic FPN, or PSPNet for pixels, or Mask R-CNN
            for objects; "coco" is the Mask R-CNN that torchvision publishes.
        out: Folder to write; new or empty.
        instances: Weights that find the objects, where those of --weights score pixels: the
            two-model recipe.
        options: How photographs are segmented.
    """
    _segment(image, weights, out, instances, options)


def _segment(
    image: tuple[str, ...], weights: str, out: Path, instances: str | None, options: PhotoOptions
) -> None:
    from panoseg.errors import DatasetError
    from panoseg.photo.segment import find_photographs

    sources, missing = find_photographs(image)
    if not sources:
        *missing, last = missing or [
            DatasetError("no photograph", "at least one", "name a file or a folder")
        ]
    for error in missing:  # before the long work, so that a wrong name is told at once
        print(error, file=sys.stderr)
    if not sources:
        raise last
    from panoseg.photo.predict import Predictor
    from panoseg.photo.segment import segment_photographs

    predictor = Predictor.open(weights, instances, options)
    done = segment_photographs(sources, predictor, predictor.table, out, _Tables())
    for error in done.failures:
        print(error, file=sys.stderr)
    left_out = len(missing) + len(done.failures)
    summary = (
        f"{done.images} photograph{'s' * (done.images != 1)} in {out}, {done.seconds:.2f} s each"
    )
    if left_out:
        raise DatasetError(
            f"{summary}, {left_out} left out", "every photograph", "mend what the lines above name"
        )
    print(summary)


class _Tables:
    """Prints the segments of the first photographs."""

    def __init__(self) -> None:
        self._shown = 0

    def __call__(self, name: str, rows: list[dict[str, Any]]) -> None:
        from panoseg.metrics.tables import render_table

        self._shown += 1
        if self._shown <= _MOST_TABLES:
            columns = ("class", "kind", "score", "area")
            table = render_table(columns, [[str(row[key]) for key in columns] for row in rows])
            print(f"{name}\n\n{table}\n")
        elif self._shown == _MOST_TABLES + 1:
            print("segments.csv has the segments of all photographs\n")
