"""Pictures of scores and comparisons: what stands in them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from panoseg import pictures as shared
from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.cli import main
from panoseg.data.samples import Sample
from panoseg.metrics.confusion import confusion_scores
from panoseg.metrics.panoptic_quality import PanopticCounts, quality_of_counts
from panoseg.models.network import build_network
from panoseg.panoptic import Panoptic
from panoseg.panoptic.draw import draw
from panoseg.pictures import comparison as comparison_figure
from panoseg.pictures import darker, draw_curves
from panoseg.pictures import scores as score_pictures
from panoseg.pictures.comparison import Comparison, draw_comparison
from panoseg.pictures.scores import (
    draw_confusion,
    draw_panoptic_classes,
    draw_semantic_classes,
    row_shares,
)
from panoseg.training import TrainConfig
from panoseg.training.checkpoint import read_log
from panoseg.training.loop import make_fabric
from panoseg.training.run import start
from panoseg.training.scorers import SCORERS
from panoseg.training.splits import open_splits
from small_pastis import parcels
from tiny_runs import PAPS, UTAE, write_tiny_dataset


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be written."""
    found = []
    for module in (comparison_figure, shared, score_pictures):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: found.append(figure))
    return found


def matrix(**rows: dict[int, int]) -> np.ndarray:
    """A confusion matrix of PASTIS's classes: c3={1: 5} are five pixels of class 3 taken for class
    1.
    """
    matrix_KK = np.zeros((20, 20), np.int64)
    for name, cells in rows.items():
        for column, count in cells.items():
            matrix_KK[int(name[1:]), column] = count
    return matrix_KK


def test_rows_are_shares_and_stay_empty_without_pixels():
    shares = row_shares(matrix(c1={1: 3, 3: 1}, c3={3: 10}))
    assert shares[1, [1, 3, 4]].tolist() == [0.75, 0.25, 0]
    assert shares[3, 3] == 1
    assert np.isnan(shares[2]).all()


def test_the_confusion_picture_has_true_rows_and_predicted_columns(tmp_path, figures):
    draw_confusion(
        confusion_scores(matrix(c1={1: 300, 3: 100}, c3={3: 12_400}), [19]),
        PASTIS,
        tmp_path / "a.png",
    )
    axes = figures[0].axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns == [entry.name for entry in PASTIS.classes][:19]
    assert rows[:4] == [
        "background  (0)",
        "meadow  (400)",
        "soft winter wheat  (0)",
        "corn  (12 k)",
    ]
    image = axes.images[0].get_array()
    assert (image[1, 1], image[1, 3], image[3, 3], image[3, 1]) == (0.75, 0.25, 1, 0)
    texts = {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in axes.texts
    }
    assert texts == {(1, 1): "75", (1, 3): "25", (3, 3): "100"}
    assert "OA 99.2" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class (its pixels)")


def test_void_has_a_column_where_it_was_predicted(tmp_path, figures):
    draw_confusion(confusion_scores(matrix(c1={1: 1, 19: 1}), [19]), PASTIS, tmp_path / "a.png")
    assert [label.get_text() for label in figures[0].axes[0].get_xticklabels()][-1] == "void"
    assert len(figures[0].axes[0].get_yticklabels()) == 19


def test_names_in_the_confusion_picture_do_not_overlap(tmp_path, figures):
    draw_confusion(confusion_scores(matrix(c1={1: 1, 19: 1}), [19]), PASTIS, tmp_path / "a.png")
    figures[0].canvas.draw()
    axes = figures[0].axes[0]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(
        not one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[place + 1 :]
    )
    places = [
        label.get_transform().transform(label.get_position())[0] for label in axes.get_xticklabels()
    ]
    heights = [label.get_fontsize() * figures[0].dpi / 72 for label in axes.get_xticklabels()]
    assert min(np.diff(places)) > heights[0] * 2**0.5  # names at 45 degrees


def test_classes_by_iou_with_precision_and_recall(tmp_path, figures):
    scores = confusion_scores(matrix(c1={1: 30, 3: 10}, c3={3: 40}), [19])
    draw_semantic_classes(scores, PASTIS, tmp_path / "a.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["meadow", "corn"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([75, 80])
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == ["#aec7e8", "#ffbb78"]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["precision"].get_xdata() == pytest.approx([100, 80])
    assert lines["recall"].get_xdata() == pytest.approx([75, 100])
    assert lines["mean IoU 77.5"].get_xdata() == pytest.approx([77.5, 77.5])
    assert [text.get_text() for text in axes.texts] == ["75.0", "80.0", "IoU", "40", "40", "pixels"]


def test_classes_by_pq_with_sq_and_rq(tmp_path, figures):
    counts = PanopticCounts.zero(PASTIS)
    array = np.zeros((18, 4))
    array[0], array[2] = (2, 0, 2, 1.5), (1, 1, 0, 0.9)  # meadow, corn: TP, FP, FN, sum of IoU
    draw_panoptic_classes(quality_of_counts(counts.from_array(array)), PASTIS, tmp_path / "a.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["meadow", "corn"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([50, 60])
    lines = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert lines["SQ"] == pytest.approx([75, 90])
    assert lines["RQ"] == pytest.approx([200 / 3, 200 / 3])
    assert [text.get_text() for text in axes.texts] == ["50.0", "60.0", "PQ", "4", "1", "parcels"]


def test_scores_without_any_class_are_drawn_too(tmp_path, figures):
    draw_semantic_classes(confusion_scores(matrix(), [19]), PASTIS, tmp_path / "a.png")
    draw_confusion(confusion_scores(matrix(), [19]), PASTIS, tmp_path / "a.png")
    draw_panoptic_classes(
        quality_of_counts(PanopticCounts.zero(PASTIS)), PASTIS, tmp_path / "a.png"
    )
    assert len(figures) == 3


def comparison(instances_HW: torch.Tensor | None) -> Comparison:
    """Two rows of meadow, of which one is taken for corn, and one of void."""
    sample = Sample(
        torch.full((1, 10, 3, 3), 500, dtype=torch.int16),
        torch.tensor([287]),
        "1",
        None,
        instances_HW,
    )
    truth = Panoptic.from_maps(np.repeat([[1], [1], [2]], 3, axis=1), {1: 1, 2: 19}, PASTIS)
    prediction = Panoptic.from_maps(np.repeat([[1], [2], [2]], 3, axis=1), {1: 1, 2: 3}, PASTIS)
    return Comparison(sample, truth, prediction)


def test_comparisons_of_pixels_have_no_borders_and_say_how_many_are_right(tmp_path, figures):
    draw_comparison(comparison(None), PASTIS, "2018-09-01", tmp_path / "a.png")
    _, truth, prediction = figures[0].axes
    assert (truth.get_title(), prediction.get_title()) == (
        "truth",
        "prediction: 50 % of the pixels right",
    )
    assert prediction.images[0].get_array()[:, 0].tolist() == [
        [174, 199, 232],
        [255, 187, 120],
        [255, 187, 120],
    ]


def test_classes_have_a_line_between_them_where_the_table_names_it(tmp_path, figures):
    """S2TSCzCrop's colour 15, here red, on pictures of pixels and in their legend."""
    table = replace(S2TSCZCROP, boundary=replace(S2TSCZCROP.boundary, colour="#ff0000"))
    for chosen, red in ((table, 12), (replace(table, boundary=None), 0)):
        pictures = [Panoptic.from_maps(np.array([[1, 1, 2]] * 3), {1: 1, 2: 3}, chosen)] * 2
        draw_comparison(
            Comparison(comparison(None).sample, *pictures), chosen, "2018-09-01", tmp_path / "a.png"
        )
        image = figures[-1].axes[1].images[0].get_array()
        assert (image == [255, 0, 0]).all(axis=2).sum() == red
        names = [text.get_text() for text in figures[-1].legends[0].get_texts()]
        assert names == ["permanent grassland", "summer cereals"] + ["boundary"] * bool(red)


def test_comparisons_of_parcels_count_them(tmp_path, figures):
    draw_comparison(comparison(torch.ones(3, 3)), PASTIS, "2018-09-01", tmp_path / "a.png")
    _, truth, prediction = figures[0].axes
    assert (truth.get_title(), prediction.get_title()) == (
        "truth: 1 parcel",
        "prediction: 2 parcels",
    )
    assert (prediction.images[0].get_array() == 255).all(axis=2).any()  # borders


def test_borders_are_drawn_unless_there_is_no_line():
    picture = Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS)
    assert (
        draw(picture, PASTIS, line=None)[0].tolist() == [[255, 187, 120]] * 2 + [[44, 160, 44]] * 2
    )
    assert draw(picture, PASTIS)[0, 1].tolist() == [255, 255, 255]


def test_lines_in_class_colours_are_dark_enough_to_see():
    for entry in PASTIS.classes:
        colour = darker(entry.colour)
        luminance = sum(
            int(colour[place : place + 2], 16) * share
            for place, share in ((1, 0.299), (3, 0.587), (5, 0.114))
        )
        assert luminance <= 87


def test_pixels_outside_of_predicted_parcels_are_background(tmp_path, monkeypatch):
    """Two patches of 35 pixels of corn, taken for meadow, 28 of meadow, which are missed, and 30 of
    void.
    """
    _, classes_HW = parcels()
    found = Panoptic.from_maps((classes_HW == 3).astype(np.int32), {1: 1}, PASTIS)
    config = TrainConfig(model=PAPS, workers=0, accelerator="cpu")
    network = build_network(config.model, PASTIS)
    monkeypatch.setattr(network, "predict", lambda batch, options: [found] * len(batch.names))
    test = open_splits(write_tiny_dataset(tmp_path / "data"), 1, config).test
    matrix_KK = SCORERS["parcels"].evaluate(network, test, make_fabric(config)).pixels.matrix_KK
    assert (matrix_KK[3, 1], matrix_KK[1, 0], matrix_KK[0, 0]) == (2 * 35, 2 * 28, 2 * 163)
    assert matrix_KK.sum() == 2 * (256 - 30)


def test_train_and_test_write_the_pictures_of_their_scores(tmp_path):
    data = write_tiny_dataset(tmp_path / "data")
    config = TrainConfig(
        model=UTAE,
        epochs=1,
        max_steps_per_epoch=1,
        workers=0,
        accelerator="cpu",
        tune_threshold=False,
    )
    start("tiny", config, data, 1, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert {"curves.png", "confusion.png", "classes.png"} <= names
    command = [
        "test",
        str(tmp_path / "run"),
        "--data",
        str(data),
        "--workers",
        "0",
        "--accelerator",
        "cpu",
    ]
    assert main([*command, "--pictures", "1", "--out", str(tmp_path / "a")]) == 0
    assert {path.name for path in (tmp_path / "a" / "pictures").iterdir()} == {
        "confusion.png",
        "classes.png",
        "patch-14.png",
    }
    assert main([*command, "--pictures", "0", "--out", str(tmp_path / "b")]) == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"metrics.json", "metrics.md"}
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == json.loads(
        (tmp_path / "b" / "metrics.json").read_text()
    )


def test_losses_and_scores_share_their_steps(tmp_path, figures):
    rows = ["1,1000,train,0.1,9,", "1,4000,train,0.1,5,", "2,4000,validation,,,50"]
    (tmp_path / "log.csv").write_text(
        "epoch,step,split,learning_rate,loss,mIoU\n" + "\n".join(rows)
    )
    draw_curves(read_log(tmp_path / "log.csv"), tmp_path / "a.png")
    figures[0].canvas.draw()
    losses, scores = figures[0].axes
    assert losses.get_xlim() == scores.get_xlim()
    assert "2,000" in [label.get_text() for label in scores.get_xticklabels()]
