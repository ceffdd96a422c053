"""Scoring runs, our weights and the authors' folders; importing them; pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.data.samples import Sample
from panoseg.errors import OutputError, WeightsError
from panoseg.models.network import build_network
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from panoseg.panoptic import Panoptic
from panoseg.panoptic.draw import draw
from panoseg.pictures import draw_curves
from panoseg.pictures.comparison import (
    Comparison,
    clear_near_midsummer,
    draw_comparison,
    true_colour,
)
from panoseg.simulation.write_photographs import write_photographs
from panoseg.training import TrainConfig
from panoseg.training.checkpoint import read_log
from panoseg.training.run import start
from photograph_networks import TABLE, panoptic_fpn
from tiny_runs import PAPS, UTAE, write_tiny_dataset

CONFIG = TrainConfig(
    model=PAPS, epochs=1, max_steps_per_epoch=1, workers=0, accelerator="cpu", tune_threshold=False
)
QUICK = ["--workers", "0", "--accelerator", "cpu", "--pictures", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of one step, whose weights then let every pixel pass, so that it finds something."""
    folder = tmp_path_factory.mktemp("run") / "run"
    start(
        "tiny",
        replace(CONFIG, model=replace(PAPS, min_confidence=0.0, mask_threshold=0.0)),
        data,
        1,
        folder,
    )
    return folder


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    """A folder as the published programs write it, of five networks of random numbers."""
    folder = tmp_path_factory.mktemp("authors")
    options = {
        "backbone": "utae",
        "shape_size": 4,
        "encoder_widths": [16, 16],
        "decoder_widths": [8, 16],
        "out_conv": [8, 20],
        "n_head": 4,
        "d_model": 16,
        "d_k": 2,
        "ref_date": "2018-09-01",
    }
    (folder / "conf.json").write_text(json.dumps(options))
    for fold in range(1, 6):
        torch.manual_seed(fold)
        (folder / f"Fold_{fold}").mkdir()
        torch.save(
            {"epoch": 90, "state_dict": build_network(PAPS).state_dict()},
            folder / f"Fold_{fold}" / "model.pth.tar",
        )
    return folder


def test_the_score_of_a_run_is_the_one_that_training_reported(run, data, capsys):
    assert main(["test", str(run), "--data", str(data), *QUICK]) == 0
    after, before = (
        json.loads((folder / "metrics.json").read_text()) for folder in (run / "test", run)
    )
    assert after["test"] == before["test"]
    assert after["details"] == before["details"]
    assert (after["fold"], after["folds"], after["patches"]) == (1, [5], 2)
    assert (run / "test" / "metrics.md").read_text().splitlines()[0].startswith("| class")
    assert "corn" in capsys.readouterr().out


def test_a_second_test_does_not_overwrite_the_first(run, data, tmp_path, capsys):
    command = ["test", str(run), "--data", str(data), "--out", str(tmp_path / "test"), *QUICK]
    assert main(command) == 0
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_fold_and_every_patch_choose_what_is_scored(run, data, tmp_path):
    assert (
        main(
            [
                "test",
                str(run),
                "--data",
                str(data),
                "--fold",
                "2",
                "--out",
                str(tmp_path / "a"),
                *QUICK,
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["folds"] == [1]
    assert (
        main(
            [
                "test",
                str(run),
                "--data",
                str(data),
                "--every-patch",
                "--out",
                str(tmp_path / "b"),
                *QUICK,
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["patches"] == 10


def test_views_change_scores_and_have_a_folder_of_their_own(run, data, capsys):
    assert main(["test", str(run), "--data", str(data), "--views", "2", *QUICK]) == 0
    assert "seen in 2 views" in capsys.readouterr().out
    once, twice = (
        json.loads((folder / "metrics.json").read_text()) for folder in (run, run / "test-2-views")
    )
    assert twice["views"] == 2
    assert twice["details"] != once["details"]


@pytest.mark.parametrize("views", ["0", "9"])
def test_a_number_of_views_that_there_is_not_is_refused(run, data, tmp_path, capsys, views):
    assert (
        main(
            [
                "test",
                str(run),
                "--data",
                str(data),
                "--views",
                views,
                "--out",
                str(tmp_path / "out"),
                *QUICK,
            ]
        )
        == 2
    )
    assert f"--tta must be between 1 and 8, not {views}." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_views_of_other_networks_are_refused(data, tmp_path, capsys):
    """Masks of parcels are joined; a semantic network has none, and photographs have an up and a
    down.
    """
    photographs = write_photographs(tmp_path / "coco", 1, (32, 32), workers=1)
    for name, named, card, dataset in (
        (
            "a",
            "U-TAE does not support test-time augmentation: leave out --tta.",
            WeightsCard(UTAE, None, PASTIS),
            data,
        ),
        (
            "b",
            "--tta has no meaning for photographs",
            WeightsCard(panoptic_fpn(), None, TABLE),
            photographs,
        ),
    ):
        save_weights(tmp_path / name, Weights(card, build_network(card.model).state_dict()))
        command = [
            "test",
            "--weights",
            str(tmp_path / name),
            "--data",
            str(dataset),
            "--fold",
            "1",
            "--views",
            "2",
            *QUICK,
        ]
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        words = capsys.readouterr().err
        assert named in words
        assert words.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_normalisation_changes_what_is_seen(run, data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "panoseg.training.evaluate.score",
        lambda weights, split, fabric, views: seen.append(split) or 1 / 0,
    )
    for policy in ("train", "published"):
        with pytest.raises(ZeroDivisionError):
            main(
                [
                    "test",
                    str(run),
                    "--data",
                    str(data),
                    "--normalisation",
                    policy,
                    "--out",
                    str(tmp_path / policy),
                    *QUICK,
                ]
            )
    assert [split.normalisation.mean[0] for split in seen] == [2000.0, 5000.0]


def test_the_authors_folder_is_scored_fold_by_fold(authors, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--weights", str(authors), "--data", str(data), *QUICK]) == 0
    out = tmp_path / f"test-{authors.name}"
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "metrics.md",
        *(f"fold_{fold}" for fold in range(1, 6)),
    }
    assert set(json.loads((out / "metrics.json").read_text())["mean"]) == {
        "SQ",
        "RQ",
        "PQ",
        "PQ_any_class",
    }
    assert "| deviation" in capsys.readouterr().out


def test_imported_weights_are_the_authors_and_score_alike(authors, data, tmp_path):
    assert (
        main(["weights", "import", str(authors), str(tmp_path / "ours"), "--data", str(data)]) == 0
    )
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        f"fold_{fold}" for fold in range(1, 6)
    ]
    weights = load_weights(tmp_path / "ours" / "fold_2")
    state = torch.load(authors / "Fold_2" / "model.pth.tar", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights.state[name]) for name, value in state.items())
    assert weights.card.normalisation.mean[0] == 3000.0
    for source in (authors, tmp_path / "ours"):
        out = tmp_path / f"test-{source.name}"
        assert (
            main(
                [
                    "test",
                    "--weights",
                    str(source),
                    "--data",
                    str(data),
                    "--fold",
                    "2",
                    "--out",
                    str(out),
                    *QUICK,
                ]
            )
            == 0
        )
    first, second = (
        json.loads((tmp_path / f"test-{name}" / "metrics.json").read_text())
        for name in (authors.name, "ours")
    )
    assert first == second


def test_one_fold_is_imported_into_the_folder_itself(authors, data, tmp_path):
    assert (
        main(
            [
                "weights",
                "import",
                str(authors),
                str(tmp_path / "ours"),
                "--data",
                str(data),
                "--fold",
                "4",
            ]
        )
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        "card.json",
        "model.safetensors",
    ]


def test_weights_imported_without_data_are_scored_like_the_authors_but_make_no_map(
    authors, data, tmp_path, capsys
):
    assert main(["weights", "import", str(authors), str(tmp_path / "ours")]) == 0
    assert load_weights(tmp_path / "ours" / "fold_3").card.normalisation is None
    for source in (authors, tmp_path / "ours"):
        out = tmp_path / f"test-{source.name}"
        assert (
            main(
                [
                    "test",
                    "--weights",
                    str(source),
                    "--data",
                    str(data),
                    "--fold",
                    "3",
                    "--out",
                    str(out),
                    *QUICK,
                ]
            )
            == 0
        )
    first, second = (
        json.loads((tmp_path / f"test-{name}" / "metrics.json").read_text())
        for name in (authors.name, "ours")
    )
    assert first == second
    with pytest.raises(WeightsError, match="Import them again"):
        load_weights(tmp_path / "ours" / "fold_3").card.known_normalisation()


def test_import_says_what_is_missing_and_writes_nothing(authors, data, tmp_path, capsys):
    (authors / "Fold_5" / "model.pth.tar").rename(authors / "Fold_5" / "away")
    assert (
        main(["weights", "import", str(authors), str(tmp_path / "ours"), "--data", str(data)]) == 2
    )
    (authors / "Fold_5" / "away").rename(authors / "Fold_5" / "model.pth.tar")
    assert "has weights of folds 1, 2, 3, 4 alone; pass --fold 1" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_weights_without_a_fold_want_one(run, data, tmp_path, capsys):
    weights = load_weights(run / "weights")
    save_weights(tmp_path / "w", replace(weights, card=replace(weights.card, provenance={})))
    assert (
        main(
            [
                "test",
                "--weights",
                str(tmp_path / "w"),
                "--data",
                str(data),
                "--out",
                str(tmp_path / "out"),
                *QUICK,
            ]
        )
        == 2
    )
    assert "--every-patch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_show_draws_any_patch(run, data, tmp_path, capsys):
    assert (
        main(
            [
                "show",
                str(run),
                "--data",
                str(data),
                "--patch",
                "12",
                "--out",
                str(tmp_path / "figure.png"),
            ]
        )
        == 0
    )
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size == (1200, 530)
    assert (
        main(
            [
                "show",
                str(run),
                "--data",
                str(data),
                "--patch",
                "1",
                "--out",
                str(tmp_path / "other.png"),
            ]
        )
        == 2
    )
    assert "is called 1;" in capsys.readouterr().err
    assert not (tmp_path / "other.png").exists()


@pytest.mark.parametrize("options", [[], ["--attention"]])
@pytest.mark.parametrize(
    ("out", "words"),
    [("file/figure.png", "a part of the path is a file"), ("folder.png", "directory")],
)
def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(
    tmp_path, capsys, options, out, words
):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    shown = [
        "show",
        str(tmp_path / "none"),
        "--data",
        str(tmp_path),
        "--patch",
        "12",
        "--out",
        str(tmp_path / out),
    ]
    assert main([*shown, *options]) == 2
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("options", [[], ["--attention"]])
def test_a_picture_of_an_unknown_kind_is_refused_before_anything_is_read(tmp_path, capsys, options):
    out = tmp_path / "figure.xyz"
    assert (
        main(
            [
                "show",
                str(tmp_path / "none"),
                "--data",
                str(tmp_path),
                "--patch",
                "12",
                "--out",
                str(out),
                *options,
            ]
        )
        == 2
    )
    assert "figure.xyz is not a name of a picture: end it with one of" in capsys.readouterr().err


def test_what_images_are_normalised_with_is_said(run, authors, data, tmp_path, capsys):
    """The authors' weights see a patch, and all patches, by the mean over all folds; ours by that
    of their training.
    """
    for weights, words in (
        (run, "as in training"),
        (authors, "by the mean over folds 1, 2, 3, 4, 5, as published"),
    ):
        assert (
            main(
                [
                    "show",
                    str(weights),
                    "--data",
                    str(data),
                    "--patch",
                    "12",
                    "--out",
                    str(tmp_path / "a.png"),
                ]
            )
            == 0
        )
        assert f"patch 12, normalised {words}\n" in capsys.readouterr().out
        options = ["--every-patch", "--fold", "1", "--out", str(tmp_path / weights.name), *QUICK]
        assert main(["test", "--weights", str(weights), "--data", str(data), *options]) == 0
        assert f" patches of folds 1, 2, 3, 4, 5, normalised {words}\n" in capsys.readouterr().out


def test_semantic_weights_are_scored_and_shown(data, tmp_path):
    start("tiny", replace(CONFIG, model=UTAE), data, 1, tmp_path / "run")
    assert main(["test", str(tmp_path / "run"), "--data", str(data), *QUICK]) == 0
    assert set(json.loads((tmp_path / "run" / "test" / "metrics.json").read_text())["test"]) == {
        "OA",
        "mIoU",
    }
    assert (
        main(
            [
                "show",
                str(tmp_path / "run"),
                "--data",
                str(data),
                "--patch",
                "12",
                "--out",
                str(tmp_path / "a.png"),
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("blue", "expected"),
    [
        ([300, 300, 4000, 4000, 310, 4000, 310, 4000], 1),
        ([300, 4000, 4000, 4000, 310, 310, 4000, 4000], 4),
        ([300, 600, 610, 4000, 4000, 4000, 4000, 4000], 1),
        ([0, 0, 4000, 0, 0, 0, 0, 0], 2),
        ([0, 0, 0, 0, 0, 0, 0, 0], 2),
    ],
)
def test_the_date_of_a_picture_is_clear_and_near_mid_june(blue, expected):
    """Mid June is day 287 after the 1 September before; blue of 0 is no data."""
    days = np.array([30, 280, 290, 300, 320, 330, 340, 400])
    images = np.zeros((8, 10, 2, 2), np.int16)
    images[:, 0] = np.array(blue)[:, None, None]
    assert clear_near_midsummer(images, days, "2018-09-01") == expected


@pytest.mark.parametrize(("reference_date", "expected"), [("2018-01-01", 0), ("2018-09-01", 1)])
def test_mid_june_is_the_first_after_the_reference_date(reference_date, expected):
    images = np.full((8, 10, 2, 2), 4000, np.int16)
    images[:2] = 300
    assert (
        clear_near_midsummer(
            images, np.array([165, 287, 300, 310, 320, 330, 340, 350]), reference_date
        )
        == expected
    )


def test_true_colour_takes_red_green_blue():
    image = np.zeros((10, 4, 4), np.int16)
    image[2] = 1000
    assert true_colour(image)[0, 0].tolist() == [255, 0, 0]


def nothing_in(size: int) -> Comparison:
    """A grey patch of one date without parcels."""
    images, none_HW = (
        torch.full((1, 10, size, size), 500, dtype=torch.int16),
        torch.zeros(size, size),
    )
    sample = Sample(images, torch.tensor([287]), "1", instances_HW=none_HW)
    return Comparison(sample, Panoptic.empty(size, size), Panoptic.empty(size, size))


def test_empty_pictures_can_be_drawn(tmp_path):
    draw_comparison(nothing_in(8), PASTIS, "2018-09-01", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_the_land_is_seen_where_there_is_no_parcel(tmp_path, monkeypatch):
    comparison, seen = nothing_in(8), []
    comparison.sample.images_TCHW[0, 2] = 2000
    monkeypatch.setattr(
        "panoseg.pictures.comparison.draw",
        lambda *given, **named: seen.append(draw(*given, **named)) or seen[-1],
    )
    draw_comparison(comparison, PASTIS, "2018-09-01", tmp_path / "a.png")
    assert [picture[0, 0].tolist() for picture in seen] == [[255, 128, 128]] * 2


@pytest.mark.parametrize("name", ["figure", "figure.docx"])
def test_pictures_of_an_unknown_kind_are_refused(tmp_path, name):
    with pytest.raises(OutputError, match=r"figure\.png"):
        draw_comparison(nothing_in(8), PASTIS, "2018-09-01", tmp_path / name)
    assert not list(tmp_path.iterdir())


def curves(tmp_path, monkeypatch, log: str):
    """The two axes that a log is drawn on."""
    figures = []
    monkeypatch.setattr("panoseg.pictures.save_figure", lambda figure, path: figures.append(figure))
    (tmp_path / "log.csv").write_text(log)
    draw_curves(read_log(tmp_path / "log.csv"), tmp_path / "curves.png")
    figures[0].canvas.draw()
    return figures[0].axes


def test_curves_have_whole_steps_plain_numbers_and_scores_from_zero(tmp_path, monkeypatch):
    rows = [
        "1,1,train,0.1,9,6,3,",
        "1,2,train,0.1,5,2,,",
        "1,2,validation,,,,,40",
        "2,4,validation,,,,,50",
    ]
    losses, scores = curves(
        tmp_path,
        monkeypatch,
        "epoch,step,split,learning_rate,loss,centre,size,PQ\n" + "\n".join(rows),
    )
    assert [line.get_label() for line in losses.lines] == ["loss", "centre", "size"]
    assert len({line.get_color() for line in losses.lines}) == 3
    assert all(tick == round(tick) for axes in (losses, scores) for tick in axes.get_xticks())
    assert {"2", "5"} <= {label.get_text() for label in losses.get_yticklabels()}
    assert not any(label.get_text() for label in losses.get_yticklabels(minor=True))
    assert scores.get_ylim()[0] == 0


def test_curves_leave_out_losses_that_are_not_learned_yet_and_scores_that_are_not_there(
    tmp_path, monkeypatch
):
    log = "epoch,step,split,learning_rate,loss,size\n1,1,train,0.1,9,0.0\n1,2,train,0.1,8,0.5\n"
    losses, scores = curves(tmp_path, monkeypatch, log)
    assert [line.get_xdata().tolist() for line in losses.lines] == [[1, 2], [2]]
    assert not scores.lines
