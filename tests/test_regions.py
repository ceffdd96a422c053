"""Scores by region: against the published test loop, and by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from panoseg.classes import S2TSCZCROP
from panoseg.data.samples import Normalisation, Sample
from panoseg.errors import DatasetError
from panoseg.metrics.confusion import REGIONS, PixelCounts, pixel_counts
from panoseg.models.losses import SemanticLoss
from panoseg.models.network import Backbone, Details
from panoseg.models.outputs import SemanticOutput
from panoseg.training import TrainConfig
from panoseg.training.loop import make_fabric
from panoseg.training.scorers import SCORERS
from panoseg.training.splits import Split

BATCHES = range(3)


@pytest.fixture(scope="module")
def cases(golden):
    folder = golden / "crop2seg"
    with np.load(folder / "metrics.npz") as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return tensors, json.loads((folder / "metrics.json").read_text())


def counts_of(cases, boundary: bool = False) -> PixelCounts:
    tensors, _ = cases
    parts = [
        pixel_counts(
            tensors[f"scores{i}"] / 16,
            tensors[f"boundary_scores{i}"] / 16 if boundary else None,
            tensors[f"target{i}"].long(),
        )
        for i in BATCHES
    ]
    return sum(parts, PixelCounts.zero(15))


@pytest.mark.parametrize("ignored", [14, 0])
@pytest.mark.parametrize("region", REGIONS)
def test_published_scores(cases, region, ignored):
    """Matrices, means, and the numbers of each class, by the published meter."""
    tensors, reported = cases
    counts = counts_of(cases)
    found, known = counts.scores(region, (ignored,)), reported[f"{region}_ignore{ignored}"]
    np.testing.assert_array_equal(
        found.published.matrix_KK, tensors[f"confusion_{region}_ignore{ignored}"]
    )
    assert 100 * found.published.accuracy == pytest.approx(
        known["metrics"]["test_accuracy"], abs=1e-6
    )
    assert 100 * found.published.mean_iou == pytest.approx(known["metrics"]["test_IoU"], abs=1e-6)
    overall, scores = known["overall"], found.published
    assert scores.accuracy / (2 - scores.accuracy) == pytest.approx(overall["micro_IoU"], abs=1e-6)
    assert scores.accuracy == pytest.approx(overall["micro_F1-score"], abs=1e-6)
    assert np.nanmean(scores.precision_K) == pytest.approx(overall["MACRO_Precision"], abs=1e-6)
    assert np.nanmean(scores.recall_K) == pytest.approx(overall["MACRO_Recall"], abs=1e-6)
    assert scores.mean_f1 == pytest.approx(overall["MACRO_F1-score"], abs=1e-6)
    columns = {
        "IoU": scores.iou_K,
        "Precision": scores.precision_K,
        "Recall": scores.recall_K,
        "F1-score": scores.f1_K,
    }
    kept = [class_id for class_id in range(15) if class_id != ignored]
    for position, class_id in enumerate(kept):
        for name, values in columns.items():
            value = known["per_class"][str(position)][name]
            assert values[class_id] == pytest.approx(
                np.nan if value is None else value, abs=1e-6, nan_ok=True
            )


@pytest.mark.parametrize("ignored", [14, 0])
@pytest.mark.parametrize("region", REGIONS)
def test_published_second_chance(cases, region, ignored):
    """The published meter on what a second chance makes of the predictions."""
    tensors, reported = cases
    known = reported[f"{region}_ignore{ignored}"]["metrics"]
    best_KK, two_KK = (
        counts_of(cases)
        .matrix_RCKK[{"all": [0, 1], "boundary": [0], "interior": [1]}[region]]
        .sum(0)
    )
    second = PixelCounts(
        torch.stack([two_KK, best_KK]).repeat(2, 1, 1, 1), torch.zeros(2, 2)
    ).scores("boundary", (ignored,))
    np.testing.assert_array_equal(
        second.published.matrix_KK, tensors[f"confusion_top2_{region}_ignore{ignored}"]
    )
    assert 100 * second.published.mean_iou == pytest.approx(known["test_IoU_top2"], abs=1e-6)
    assert 100 * second.published.accuracy == pytest.approx(known["test_accuracy_top2"], abs=1e-6)


def test_published_boundary_head(cases):
    tensors, reported = cases
    known = reported["boundary_all_ignore-1"]["metrics"]
    counts = counts_of(cases, boundary=True)
    np.testing.assert_array_equal(
        counts.edge_22, tensors["confusion_boundary_boundary_all_ignore-1"][:2, :2]
    )
    assert 100 * counts.edge_scores().accuracy == pytest.approx(known["test_accuracy_b"], abs=1e-6)
    assert 100 * counts.edge_scores().mean_iou == pytest.approx(known["test_IoU_b"], abs=1e-6)
    assert counts_of(cases).edge_scores() is None


def test_published_mean_loss(cases):
    """The mean over batches of a loss without smoothing; the last class is void."""
    tensors, reported = cases
    criterion = SemanticLoss(table=S2TSCZCROP)
    losses = [
        criterion.pixel_loss(tensors[f"scores{i}"] / 16, tensors[f"target{i}"].long()).item()
        for i in BATCHES
    ]
    assert np.mean(losses) == pytest.approx(
        reported["all_ignore14"]["metrics"]["test_loss"], rel=1e-5
    )


class Recorded(Backbone):
    """A network that says of each patch, whose number is the value of its images, what the golden
    case says.
    """

    def __init__(self, tensors: dict) -> None:
        super().__init__(SimpleNamespace(classes=15, boundary=True))
        self.prepare(S2TSCZCROP)
        self.scores, self.edges = (
            torch.cat([tensors[f"{kind}{i}"] for i in BATCHES]) / 16
            for kind in ("scores", "boundary_scores")
        )

    def details(self, batch, options):
        patches = batch.images_BTCHW[:, 0, 0, 0, 0].long()
        return Details(pixels=SemanticOutput(self.scores[patches], None, self.edges[patches]))


@pytest.fixture(scope="module")
def evaluated(cases):
    tensors, _ = cases
    targets = torch.cat([tensors[f"target{i}"] for i in BATCHES]).long()
    images = [
        torch.full((1, 10, 40, 40), number, dtype=torch.int16) for number in range(len(targets))
    ]
    samples = [
        Sample(image, torch.tensor([0]), str(i), classes)
        for i, (image, classes) in enumerate(zip(images, targets, strict=True))
    ]
    split = Split(samples, Normalisation((0.0,) * 10, (1.0,) * 10), batch_size=4)
    return SCORERS["pixels"].evaluate(
        Recorded(tensors), split, make_fabric(TrainConfig(accelerator="cpu"))
    )


@pytest.mark.parametrize("region", REGIONS)
def test_an_evaluation_reports_the_published_numbers(cases, evaluated, region):
    _, reported = cases
    known = reported[f"{region}_ignore14"]["metrics"]
    details = evaluated.to_json()
    found = details if region == "all" else details["regions"][region]
    assert 100 * found["published_meter"]["accuracy"] == pytest.approx(
        known["test_accuracy"], abs=1e-6
    )
    assert 100 * found["published_meter"]["mean_iou"] == pytest.approx(known["test_IoU"], abs=1e-6)
    assert found["accuracy"] <= found["published_meter"]["accuracy"]
    assert found["accuracy"] < found["best_two"]["accuracy"]
    of_boundaries = reported["boundary_all_ignore-1"]["metrics"]["test_accuracy_b"]
    assert 100 * details["boundary_head"]["accuracy"] == pytest.approx(of_boundaries, abs=1e-6)
    json.dumps(details, allow_nan=False)


def test_tables_name_all_regions(evaluated):
    lines = evaluated.table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[-4:]] == [
        "all",
        "boundary",
        "interior",
        "boundary head",
    ]
    assert "not classified" not in evaluated.table()


def test_the_strict_meter_counts_predictions_of_void_as_missed():
    logits = torch.full((1, 3, 1, 2), 0.0)
    logits[0, 2] = 1
    scores = pixel_counts(logits, None, torch.zeros(1, 1, 2, dtype=torch.int64)).scores("all", (2,))
    assert (scores.scores.accuracy, scores.scores.pixels_K[0]) == (0, 2)
    assert scores.published.pixels_K[0] == 0


def test_a_region_without_pixels_scores_zero():
    logits, classes = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    assert pixel_counts(logits, None, classes).scores("boundary", ()).scores.accuracy == 0
    assert pixel_counts(logits, None, classes).scores("interior", ()).scores.accuracy == 1


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_class_outside_of_the_table_is_refused(label):
    with pytest.raises(DatasetError, match="classes 0 to 2"):
        pixel_counts(torch.zeros(1, 3, 4, 4), None, torch.full((1, 4, 4), label))
