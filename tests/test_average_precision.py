"""Average precision, matched image by image, equals pycocotools on whole files; crowds, sizes and
absent classes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoseg.coco.masks import encode_mask, mask_box
from panoseg.coco.scores import SIZES, DetectionMatches, average_precision, match_image

CLASSES = [2, 5, 9]
SIDE = 120


def random_mask(generator: np.random.Generator) -> np.ndarray:
    top, left = generator.integers(0, 60, 2)
    height, width = generator.integers(4, 60, 2)
    mask_HW = np.zeros((SIDE, SIDE), bool)
    mask_HW[top : top + height, left : left + width] = True
    return mask_HW


def row(mask_HW: np.ndarray, class_id: int, **more) -> dict:
    return {
        "category_id": class_id,
        "bbox": mask_box(mask_HW),
        "segmentation": encode_mask(mask_HW),
        **more,
    }


def random_images(
    images: int = 12, seed: int = 3, ties: bool = False
) -> dict[int, tuple[list[dict], list[dict]]]:
    """Truth and predictions of some images: shifted truth, wrong classes, inventions, and
    crowds. ties: scores of one digit, and objects that are there twice.
    """
    generator = np.random.default_rng(seed)
    made = {}
    for image in range(images):
        truth, predicted = [], []
        for _ in range(generator.integers(0, 6)):
            mask_HW = random_mask(generator)
            class_id = int(generator.choice(CLASSES[:2]))
            truth.append(
                row(
                    mask_HW,
                    class_id,
                    area=float(mask_HW.sum()),
                    iscrowd=int(generator.random() < 0.15),
                )
            )
            moved_HW = np.roll(mask_HW, int(generator.integers(0, 4)), axis=1)
            other = int(generator.choice(CLASSES[:2])) if generator.random() < 0.3 else class_id
            predicted.append(row(moved_HW, other, score=float(generator.random())))
        if generator.random() < 0.5:
            predicted.append(row(random_mask(generator), 5, score=float(generator.random())))
        if ties:
            for entry in predicted:
                entry["score"] = round(entry["score"], 1)
            truth += [dict(entry) for entry in truth if generator.random() < 0.3]
            predicted += [dict(entry) for entry in predicted if generator.random() < 0.3]
        made[image] = truth, predicted
    return made


def library(images: dict, kind: str) -> COCOeval:
    """The whole way of pycocotools: a file of truth, a file of results."""
    truth, results = COCO(), []
    truth.dataset = {
        "images": [{"id": image, "height": SIDE, "width": SIDE} for image in images],
        "categories": [{"id": class_id} for class_id in CLASSES],
        "annotations": [],
    }
    for image, (true, predicted) in images.items():
        for entry in true:
            annotation = {
                **copy.deepcopy(entry),
                "image_id": image,
                "id": len(truth.dataset["annotations"]) + 1,
            }
            truth.dataset["annotations"].append(annotation)
        # With boxes, the library would give masks the areas of their boxes.
        wanted = "bbox" if kind == "box" else "segmentation"
        results += [
            {
                "image_id": image,
                "category_id": entry["category_id"],
                "score": entry["score"],
                wanted: copy.deepcopy(entry[wanted]),
            }
            for entry in predicted
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox" if kind == "box" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def matched(images: dict, kind: str, order=None) -> DetectionMatches:
    total = DetectionMatches(kind, {})
    for image in order or images:
        total += match_image(image, *images[image], kind)
    return total


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_equals_the_library_on_whole_files(kind):
    images = random_images()
    scores, expected = (
        average_precision(matched(images, kind), CLASSES),
        library(images, kind).stats,
    )
    found = [
        scores.ap,
        scores.ap50,
        scores.ap75,
        *(scores.by_size[size] for size in ("small", "medium", "large")),
    ]
    wanted = [value if value > -1 else math.nan for value in expected[:6]]
    assert found == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert 0.2 < scores.ap < 0.9
    assert scores.by_size["medium"] != pytest.approx(scores.ap)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_library_on_random_files(kind, seed):
    """With equal scores, equal overlaps, more than 100 detections a class, and empty images."""
    images = random_images(8, seed=100 + seed, ties=True)
    if seed % 4 == 0:
        truth, predicted = images[0]
        images[0] = truth, predicted * (1 + 120 // max(len(predicted), 1))
    evaluation = library(images, kind)
    scores = average_precision(matched(images, kind), CLASSES)
    precision = evaluation.eval["precision"]  # -1 where there is no true object

    def mean(values: np.ndarray) -> float:
        return np.mean(values[values > -1]) if (values > -1).any() else np.nan

    for size, name in enumerate(SIZES):
        np.testing.assert_array_equal(scores.by_size[name], mean(precision[..., size, -1]))
    for row_, class_id in enumerate(CLASSES):
        expected = mean(precision[:, :, row_, 0, -1])
        np.testing.assert_array_equal(scores.by_class[class_id], expected)


def test_the_order_of_images_and_the_process_do_not_matter():
    images = random_images()
    halves = [
        matched(images, "mask", [image for image in images if image % 2 == rest]) for rest in (1, 0)
    ]
    one, two = (
        average_precision(matches, CLASSES)
        for matches in (matched(images, "mask"), halves[0] + halves[1])
    )
    assert one.ap == two.ap
    assert one.by_class == pytest.approx(two.by_class, nan_ok=True)


def test_classes_without_truth_and_no_images_at_all():
    scores = average_precision(matched(random_images(), "mask"), CLASSES)
    assert math.isnan(scores.by_class[9])
    assert not math.isnan(scores.by_class[2])
    assert math.isnan(average_precision(DetectionMatches("box", {}), CLASSES).ap)


def test_crowds_excuse_detections_and_are_never_missed():
    mask_HW = np.zeros((SIDE, SIDE), bool)
    mask_HW[10:40, 10:40] = True
    thing = row(mask_HW, 2, area=900.0)
    crowd_HW = np.zeros_like(mask_HW)
    crowd_HW[60:110, 60:110] = True
    crowd = row(crowd_HW, 2, area=2500.0)
    inside_HW = np.zeros_like(mask_HW)
    inside_HW[70:90, 70:90] = True
    found = [row(inside_HW, 2, score=0.9), row(mask_HW, 2, score=0.8)]
    with_crowd = average_precision(
        match_image(0, [thing, {**crowd, "iscrowd": 1}], found, "mask"), [2]
    )
    without = average_precision(match_image(0, [thing, crowd], found, "mask"), [2])
    assert with_crowd.ap == pytest.approx(1.0)
    assert without.ap < 0.6


def test_kinds_cannot_be_mixed():
    with pytest.raises(ValueError, match="cannot be added"):
        DetectionMatches("box", {}) + DetectionMatches("mask", {})
