"""The command that segments photographs: photo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from panoseg.cli.output import Output
from panoseg.photo import PhotoOptions

_MAX_TABLES = 5


def photo(
    image: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    weights: str | None = None,
    out: Annotated[Path, Output.FOLDER],
    instances: str | None = None,
    yes: bool = False,
    options: Annotated[PhotoOptions, tyro.conf.arg(name="")] = PhotoOptions(),  # noqa: B008
) -> None:
    """Segment photographs: panoptic.json and panoptic/ of COCO, overlays with names, segments.csv.

    JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and JPEG 2000 are read, and HEIC with the extra heif.
    Greyscale, 16-bit and CMYK images are converted to RGB, and rotated as their EXIF data say. A
    photograph that cannot be read is named and left out, and the exit code is 2.

    example: panoseg photo holiday.jpg --out SEGMENTED

    example: panoseg photo holiday.jpg --weights RUN --out SEGMENTED

    example: panoseg photo FOLDER "more/*.png" --weights PSPNET --instances MASKRCNN --out SEGMENTED

    Args:
        image: Photographs, folders of photographs, or file name patterns.
        weights: A run, or a folder of weights: Panoptic FPN, PSPNet (a class for each pixel) or
            Mask R-CNN (objects), or a checkpoint of the Hugging Face Hub (Mask2Former, EoMT, ...);
            a name of panoseg weights list, hf:OWNER/NAME, zenodo:RECORD or an https address, which
            are fetched once; "coco" is the Mask R-CNN that torchvision publishes. By default EoMT
            small, fetched after a question.
        out: Folder to write; must be new or empty.
        instances: Weights of a Mask R-CNN that finds the objects, where --weights gives the
            classes of pixels.
        yes: Fetch the default weights without a question.
        options: How photographs are segmented.
    """
    from panoseg.errors import DatasetError
    from panoseg.photo.segment import find_photographs, unread_pictures

    sources, missing = find_photographs(image)
    if not sources:
        *missing, last = missing or [
            DatasetError("No photograph is given; name at least one file or folder.")
        ]
    for error in missing:  # before the weights are loaded, so that a wrong name is reported at once
        print(error, file=sys.stderr)
    if unread := unread_pictures(image):
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        print(
            f"note: {unread[0]}{more}: not read, since photographs of this kind cannot be; convert"
            " them to JPEG or PNG",
            file=sys.stderr,
        )
    if not sources:
        raise last
    from panoseg.photo.segment import open_model, segment_photographs

    if weights is None:
        weights = str(_default_weights(yes))
    model = open_model(weights, instances, options)
    tables = _Tables()
    named = [weights] if instances is None else [weights, instances]
    done = segment_photographs(sources, model.predict, model.table, out, tables.add, named)
    print(tables.text(), end="")  # now that the results are on disk
    for error in done.failures:
        print(error, file=sys.stderr)
    summary = (
        f"{done.images} photograph{'s' * (done.images != 1)} in {out}, {done.seconds:.2f} s each"
    )
    left_out = len(missing) + len(done.failures)
    if left_out:
        raise DatasetError(f"{summary}, {left_out} left out; see the lines above for the reasons.")
    print(summary)


def _default_weights(yes: bool) -> Path:
    """Return the folder of the default weights; they are fetched once, after a question."""
    from panoseg.cli.weights import asking
    from panoseg.models.weights_by_name import locate
    from panoseg.models.weights_list import DEFAULT_FOR_PHOTOGRAPHS

    return locate(DEFAULT_FOR_PHOTOGRAPHS, ask=None if yes else asking)


class _Tables:
    """The tables of segments of the first photographs."""

    def __init__(self) -> None:
        self._tables: list[str] = []
        self._count = 0

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        from panoseg.metrics import render_table

        self._count += 1
        if self._count <= _MAX_TABLES:
            columns = ("class", "kind", "score", "area")
            table = render_table(columns, [[str(row[key]) for key in columns] for row in rows])
            self._tables.append(f"{name}\n\n{table}\n\n")

    def text(self) -> str:
        rest = "segments.csv has the segments of all photographs\n\n"
        return "".join(self._tables) + (rest if self._count > _MAX_TABLES else "")
