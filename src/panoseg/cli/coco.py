"""The command for COCO panoptic files: coco evaluate, merge, convert and shards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.cli import Verbs, run_verb
from panoseg.cli.output import Output
from panoseg.errors import PanopticFormatError, PanosegError

_MAX_FAILURES = 20


def coco(arguments: Sequence[str]) -> None:
    """Parse the verb, then its options."""
    run_verb(
        "coco",
        VERBS,
        arguments,
        "Tools for COCO panoptic files.",
        "panoseg coco evaluate --truth panoptic_val2017.json --prediction predictions.json",
    )


def evaluate(
    truth: Path,
    prediction: Path,
    truth_folder: Path | None = None,
    prediction_folder: Path | None = None,
    strict: bool = False,
    missing: Literal["leave-out", "wrong"] = "leave-out",
    json: Path | None = None,
    processes: int | None = None,
) -> None:
    """Print the panoptic quality of predictions: PQ, SQ and RQ of each class and overall.

    example: panoseg coco evaluate --truth panoptic_val2017.json --prediction predictions.json

    The scores are also given over things and over stuff, and equal those of
    cocodataset/panopticapi. An image that cannot be scored is named and left out, and the exit code
    is 2.

    Args:
        truth: Panoptic JSON of the truth; its categories are scored.
        prediction: Panoptic JSON of the predictions.
        truth_folder: Folder with the PNG files of the truth; by default the folder with the name of
            the JSON next to it.
        prediction_folder: Folder with the PNG files of the predictions; same default.
        strict: Ignore predictions on every crowd of their class, not only on the last one listed,
            and count the areas of the truth instead of reading them from the JSON.
        missing: What to do with an image without prediction: leave it out, with exit code 2, or
            score it as wrong, with all its segments missed.
        json: Write the scores to this file too.
        processes: Processes; by default up to one for each core, as the work requires.
    """
    from panoseg.coco.evaluate import evaluate_coco
    from panoseg.files import check_writable, write_json
    from panoseg.metrics import panoptic_table
    from panoseg.metrics.panoptic_quality import quality_of_counts

    if json is not None:
        check_writable(json)
    result = evaluate_coco(
        truth,
        prediction,
        truth_folder,
        prediction_folder,
        strict=strict,
        missing=missing,
        processes=processes,
    )
    if json is not None and result.images:
        write_json(json, result.to_json())
    _print_problems(result.notes, result.failures)
    if result.images:
        print(panoptic_table(quality_of_counts(result.counts)))
    _finish(result.images, result.failures, f"{result.images} images scored")


def merge(
    semantic: Path,
    instances: Path,
    out: Annotated[Path, Output.FOLDER],
    images: Path | None = None,
    categories: Path | None = None,
    score: float = 0.5,
    overlap: float = 0.5,
    stuff_area: int = 4096,
    processes: int | None = None,
) -> None:
    """Merge semantic and instance predictions into panoptic.json and panoptic/ in OUT.

    example: panoseg coco merge --semantic stuff.json --instances things.json --categories
    categories.json --out MERGED

    Instances are drawn in the order of falling score, then stuff on the remaining pixels (Kirillov
    et al., arXiv 1801.00868). Both files are lists of records with image_id, category_id and
    segmentation as run lengths; records of instances also have score.

    Args:
        semantic: Semantic predictions; their classes of things are ignored.
        instances: Instance predictions.
        out: Folder to write; must be new or empty.
        images: JSON that lists the images to write, with file names and sizes; by default all
            predicted images.
        categories: JSON with the categories; by default those of the first other file that has
            some. If none has, the classes of the instances are things and all others stuff.
        score: Leave out instances below this score.
        overlap: Leave out instances if better ones cover more than this share of their area.
        stuff_area: Leave out stuff with fewer remaining pixels in an image.
        processes: Processes; by default up to one for each core, as the work requires.
    """
    from panoseg.coco.merge import merge_coco
    from panoseg.panoptic.merge import MergeThresholds

    thresholds = MergeThresholds(score, overlap, stuff_area)
    written = merge_coco(
        semantic,
        instances,
        out,
        images_json=images,
        categories_json=categories,
        thresholds=thresholds,
        processes=processes,
    )
    _print_problems(written.notes, written.failures)
    _finish(written.images, written.failures, f"{written.images} images in {written.path}")


def convert(
    source: Annotated[Path, tyro.conf.Positional],
    to: Literal["panoptic", "two-channel", "detection", "semantic"],
    out: Annotated[Path, Output.FOLDER],
    folder: Path | None = None,
    categories: Path | None = None,
    things_only: bool = False,
    things_as: int | None = None,
    colours: bool = False,
    void: int | None = None,
    overlap: Literal["error", "first", "last", "smallest"] = "error",
    crowds: bool = True,
    processes: int | None = None,
) -> None:
    """Convert a COCO dataset between panoptic, two-channel, detection and semantic form.

    Panoptic can become any of the others; two-channel and detection can become panoptic.

    example: panoseg coco convert panoptic_val2017.json --to detection --things-only --out
    DETECTIONS

    example: panoseg coco convert images.json --folder TWO_CHANNEL_PNG --categories categories.json
    --to panoptic --out PANOPTIC

    Args:
        source: A panoptic JSON. To convert to panoptic: a JSON of detections, or a JSON of images
            only, whose PNG files have the class in the red channel and the number of
            the instance in the green one.
        to: The form to write.
        out: Folder to write, new or empty: panoptic.json, two_channel.json, detection.json or
            semantic.json, and a folder of PNG files with the same name.
        folder: Folder with the PNG files of the source; by default the folder with the name of the
            source next to it.
        categories: JSON with the categories; by default those of the source.
        things_only: Write only things as detections.
        things_as: Write all things of a semantic map as one class with this id, e.g. 183, which is
            named other.
        colours: Write semantic PNG files in the colours of the classes instead of their ids.
        void: Class that means void in two-channel files; by default 0, or the highest number that
            is not a class where a class has the id 0.
        overlap: Which of two detections that overlap gets the pixels that they share: the one that
            is first or last in the file, or the smallest; by default the image is left out.
        crowds: Keep crowds (iscrowd 1), which are neither learned nor scored; --no-crowds treats
            them as objects.
        processes: Processes; by default up to one for each core, as the work requires.
    """
    from panoseg.coco.convert import convert_coco
    from panoseg.coco.forms import ConvertOptions

    options = ConvertOptions(things_only, things_as, colours, void, overlap, crowds)
    written = convert_coco(
        source,
        to,
        out,
        folder=folder,
        categories_json=categories,
        options=options,
        processes=processes,
    )
    _print_problems(written.notes, written.failures)
    _finish(written.images, written.failures, f"{written.images} images in {written.path}")


def shards(
    data: Path,
    out: Annotated[str, Output.FOLDER],
    shards: int = 32,
    processes: int | None = None,
) -> None:
    """Write a dataset in the layout of COCO as tar shards, for panoseg train --data.

    example: panoseg coco shards --data COCO --out s3://bucket/coco --shards 32

    The shards have the format of webdataset: image, panoptic PNG and instances of a photograph are
    consecutive members. Photographs and annotations are checked first; a faulty one is named and
    left out, and the exit code is 2.

    Args:
        data: Folder of the dataset; all its splits are written.
        out: New or empty folder, or a URL of a store that fsspec can write to: s3://, gs://, ...
        shards: Number of shards of the largest split; shards of the others are about as large.
        processes: Processes, each of which writes one shard at a time; by default one for each
            core.
    """
    from panoseg.data.shards import write_shards

    written = write_shards(data, out, shards, processes)
    _print_problems((), written.failures)
    _finish(
        written.photographs,
        written.failures,
        f"{written.photographs} photographs in {written.shards} shards in {out}",
    )


VERBS: Verbs = {
    "evaluate": (evaluate, "panoptic quality of predictions"),
    "merge": (merge, "semantic and instance predictions become panoptic ones"),
    "convert": (
        convert,
        "panoptic to and from two-channel and detection form, and to semantic maps",
    ),
    "shards": (shards, "a dataset becomes tar shards, local or in the cloud"),
}


def _print_problems(notes: Sequence[str], failures: Sequence[PanosegError]) -> None:
    """Print notes and the first failures on standard error, one line each."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    for error in failures[:_MAX_FAILURES]:
        print(error, file=sys.stderr)
    if len(failures) > _MAX_FAILURES:
        print(f"and {len(failures) - _MAX_FAILURES} more", file=sys.stderr)


def _finish(done: int, failures: Sequence[PanosegError], summary: str) -> None:
    """Print the summary, or raise it as ``PanopticFormatError`` (exit code 2) after failures."""
    if failures:
        raise PanopticFormatError(
            f"{summary}, {len(failures)} left out; see the lines above for the reasons."
        )
    print(summary)
