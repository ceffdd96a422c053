"""Describing a dataset: NDVI of parcels, clouds, counts, the text and the pictures."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.cli import main
from panoseg.data.arrays import NdviCounts, Profiles, find_clouds, parcel_profiles
from panoseg.data.describe import choose_patches, open_labelled, parcels_of, summarise
from panoseg.data.samples import Sample
from panoseg.errors import ConfigError
from panoseg.pictures import dataset as dataset_pictures
from panoseg.pictures.dataset import (
    dates_by_month,
    draw_calendar,
    draw_classes,
    draw_ndvi,
    draw_patches,
    summary_text,
)
from panoseg.simulation.write_photographs import write_photographs
from small_pastis import DATES, parcels, write_small_pastis
from small_s2tsczcrop import write_small_s2tsczcrop
from tiny_runs import write_tiny_dataset

BLUE, RED, INFRARED = 0, 2, 6


@pytest.mark.parametrize(
    "command", ["describe DATA --out OUT", "show NONE --data DATA --patch 1 --attention --out OUT"]
)
def test_photographs_are_refused_in_one_line(tmp_path, capsys, command):
    places = {
        "DATA": str(write_photographs(tmp_path / "coco", 1, (32, 32), workers=1)),
        "OUT": str(tmp_path / "out.png"),
        "NONE": str(tmp_path / "none"),
    }
    assert main([places.get(word, word) for word in command.split()]) == 2
    words = capsys.readouterr().err
    assert "holds photographs, in COCO's layout, but satellite image time series" in words
    assert words.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def one_parcel(
    ndvi: list[float], blue: list[float] | None = None, days: list[int] | None = None
) -> np.ndarray:
    """Which dates of a parcel's series are cloudy."""
    series_T1 = np.array(ndvi, np.float32)[:, None]
    blue_T1 = np.full_like(series_T1, 400) if blue is None else np.array(blue, np.float32)[:, None]
    days_T = np.arange(len(ndvi)) * 10 if days is None else np.array(days)
    return find_clouds(blue_T1, series_T1, days_T)[:, 0]


def test_bright_dates_and_missing_ones_are_cloudy():
    assert one_parcel([0.5, 0.5, 0.5], blue=[400, 1601, 1600]).tolist() == [False, True, False]
    assert one_parcel([0.5, np.nan, 0.5]).tolist() == [False, True, False]


def test_dips_are_cloudy_and_what_lasts_is_not():
    assert one_parcel([0.8, 0.69, 0.8]).tolist() == [False, True, False]
    assert one_parcel([0.8, 0.71, 0.8]).tolist() == [False, False, False]
    # The line between 0.9 and 0.3 lies at 0.6: harvest is no dip, although 0.3 would be far below
    # 0.9.
    assert one_parcel([0.9, 0.3, 0.3]).tolist() == [False, False, False]
    assert one_parcel([0.9, 0.45, 0.3]).tolist() == [False, False, False]
    # Two low dates in a row are a meadow that was cut; with a cloud between dip and neighbour, the
    # neighbour is the next one.
    assert one_parcel([0.8, 0.4, 0.4, 0.8]).tolist() == [False, False, False, False]
    assert one_parcel([0.8, 0.1, 0.5, 0.8], blue=[400, 2000, 400, 400]).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_a_dip_needs_neighbours_in_time():
    assert one_parcel([0.8, 0.4, 0.8], days=[0, 30, 60]).tolist() == [False, True, False]
    assert one_parcel([0.8, 0.4, 0.8], days=[0, 30, 61]).tolist() == [False, False, False]
    assert one_parcel([0.4, 0.8, 0.4]).tolist() == [False, False, False]
    assert one_parcel([0.5]).tolist() == [False]
    assert one_parcel([0.5, 0.2, 0.5], days=[7, 7, 7]).tolist() == [False, True, False]


def test_a_dip_beside_a_deeper_one_is_found_when_that_is_gone():
    assert one_parcel([0.8, 0.6, 0.2, 0.8]).tolist() == [False, True, True, False]


def season(ndvi_TP: list[list[float]], size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Images in which column p has the NDVI of parcel p + 1, with red and infrared adding up to
    4000, and the parcels.
    """
    parcels_HW = np.tile(np.arange(1, len(ndvi_TP[0]) + 1), (size, 1))
    images_TCHW = np.full((len(ndvi_TP), 10, *parcels_HW.shape), 400, np.int16)
    ndvi_T1P = np.array(ndvi_TP)[:, None]
    images_TCHW[:, RED], images_TCHW[:, INFRARED] = 2000 * (1 - ndvi_T1P), 2000 * (1 + ndvi_T1P)
    return images_TCHW, parcels_HW


def test_profiles_are_medians_of_the_parcels_pixels():
    images, parcels_HW = season([[0.8, 0.2], [0.6, 0.4]])
    images[0, RED, 0, 0] = images[0, INFRARED, 0, 0] = 9000  # one cloudy pixel of four
    images[1, :, 1:3, 1] = 0  # no data in two pixels of four
    parcels_HW[3, 0] = 0
    profiles = parcel_profiles(images, np.array([0, 5]), parcels_HW * 7)
    assert profiles.parcel_P.tolist() == [7, 14]
    assert profiles.ndvi_TP == pytest.approx(np.array([[0.8, 0.2], [0.6, 0.4]]), abs=1e-3)
    assert not profiles.cloudy_TP.any()


def test_profiles_without_data_or_parcels():
    images, parcels_HW = season([[0.8, 0.2], [0.6, 0.4]])
    images[1, :, :, 1] = 0
    profiles = parcel_profiles(images, np.array([0, 5]), parcels_HW)
    assert np.isnan(profiles.ndvi_TP).tolist() == [[False, False], [False, True]]
    assert profiles.cloudy_TP.tolist() == [[False, False], [False, True]]
    assert parcel_profiles(images, np.array([0, 5]), parcels_HW * 0).ndvi_TP.shape == (2, 0)
    whole = parcel_profiles(
        images, np.array([0, 5]), parcels_HW * 0 + 3
    )  # no pixel is without a parcel
    assert whole.parcel_P.tolist() == [3]


def test_clouds_of_parcels_follow_their_blue():
    images, parcels_HW = season([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2]])
    images[1, BLUE, :, 1] = 3000
    assert parcel_profiles(images, np.array([0, 5, 9]), parcels_HW).cloudy_TP.tolist() == [
        [False] * 2,
        [False, True],
        [False] * 2,
    ]


def profiles_of(
    days: list[int], ndvi_TP: list[list[float]], cloudy_TP: list[list[bool]] | None = None
) -> Profiles:
    ndvi = np.array(ndvi_TP, np.float32)
    cloudy = np.zeros(ndvi.shape, bool) if cloudy_TP is None else np.array(cloudy_TP)
    return Profiles(np.arange(ndvi.shape[1]) + 1, np.array(days), ndvi, cloudy)


def test_quantiles_by_hand():
    counts = NdviCounts()
    counts.add(profiles_of([3, 25], [[0.1, 0.2, 0.3], [0.9, 0.9, 0.9]]), np.array([1, 1, 2]))
    counts.add(profiles_of([8], [[0.4, 0.5]]), np.array([1, 1]))
    days, values = counts.quantiles([1], (0.25, 0.5, 0.75, 1))
    assert days.tolist() == [5, 25]
    assert values == pytest.approx(np.array([[0.1, 0.9], [0.2, 0.9], [0.4, 0.9], [0.5, 0.9]]))
    assert counts.quantiles([1], (0, 0.01))[1] == pytest.approx(np.array([[0.1, 0.9], [0.1, 0.9]]))
    assert counts.quantiles([1, 2], [0.5])[1] == pytest.approx(np.array([[0.3, 0.9]]))
    assert counts.quantiles([3], [0.5])[1].shape == (1, 0)


def test_a_parcel_counts_once_a_period_with_its_clear_dates():
    counts = NdviCounts()
    cloudy = [[False, True], [False, False], [True, True]]
    counts.add(
        profiles_of([0, 4, 9], [[0.2, 0.1], [0.4, 0.8], [0.0, np.nan]], cloudy), np.array([1, 1])
    )
    assert counts.quantiles([1], (0.5, 1))[1] == pytest.approx(np.array([[0.3], [0.8]]))


def test_quantiles_equal_those_of_all_parcels():
    generator = np.random.default_rng(4)
    values = generator.uniform(-1, 1, 999)
    counts = NdviCounts()
    for chunk in np.split(values, 9):
        counts.add(profiles_of([300], [chunk.tolist()]), np.full(len(chunk), 5))
    found = counts.quantiles([5], (0.25, 0.5, 0.75))[1][:, 0]
    assert found == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]), abs=0.0075)


def test_days_before_the_reference_date_have_their_own_periods():
    counts = NdviCounts()
    counts.add(profiles_of([-3, 3], [[0.2], [0.6]]), np.array([1]))
    days, values = counts.quantiles([1], [0.5])
    assert (days.tolist(), values.round(2).tolist()) == ([-5, 5], [[0.2, 0.6]])


@pytest.fixture(scope="module")
def pastis(tmp_path_factory):
    return write_small_pastis(tmp_path_factory.mktemp("pastis") / "data")


@pytest.fixture(scope="module")
def czech(tmp_path_factory):
    return write_small_s2tsczcrop(tmp_path_factory.mktemp("czech") / "data")


def summary_of(folder, chosen=None, look=True):
    dataset = open_labelled(folder)
    return summarise(dataset, range(len(dataset.names)) if chosen is None else chosen, look=look)


def test_counts_of_a_dataset_in_pastis_layout(pastis):
    """Three patches of one map each: 35 pixels of maize, 28 of meadow, 30 of void, in 256."""
    summary = summary_of(pastis)
    assert summary.dataset.classes == PASTIS
    assert [(patch.name, patch.part, patch.size) for patch in summary.patches] == [
        ("10", "fold 1", (16, 16)),
        ("11", "fold 2", (16, 16)),
        ("12", "fold 3", (16, 16)),
    ]
    assert summary.parts == {"fold 1": 1, "fold 2": 1, "fold 3": 1}
    pixels_K = summary.pixels_K()
    assert pixels_K[[0, 1, 3, 19]].tolist() == [3 * 163, 3 * 28, 3 * 35, 3 * 30]
    assert pixels_K.sum() == 3 * 256
    assert summary.pixels_K("fold 2")[3] == 35
    assert summary.parcel_pixels(3).tolist() == [35] * 3
    assert summary.parcel_pixels(4).tolist() == []
    assert [len(patch.days_T) for patch in summary.patches] == [
        len(days) for days in DATES.values()
    ]
    assert summary.numbered


def test_counts_of_a_dataset_in_s2tsczcrops_layout(czech):
    summary = summary_of(czech)
    assert summary.dataset.classes == S2TSCZCROP
    assert summary.parts == {"set train": 2, "set val": 1, "set test": 1}
    assert summary.parcel_pixels(6).tolist() == [35] * 4
    assert summary.parcel_pixels(14).tolist() == []  # not classified is no parcel
    assert not summary.numbered


def test_images_are_read_only_when_they_are_looked_at(pastis, monkeypatch):
    monkeypatch.setattr("panoseg.data.describe.parcel_profiles", None)
    summary = summary_of(pastis, look=False)
    assert summary.ndvi is None
    assert all(patch.cloudy_T is None for patch in summary.patches)


def test_parcels_are_numbered_ones_or_connected_areas():
    classes = torch.tensor([[3, 3, 0, 3]])
    days, images = torch.tensor([0]), torch.zeros(1, 10, 1, 4)
    assert parcels_of(Sample(images, days, "1", classes), PASTIS).tolist() == [[1, 1, 0, 2]]
    assert parcels_of(
        Sample(images, days, "1", classes, torch.tensor([[7, 8, 0, 7]])), PASTIS
    ).tolist() == [[7, 8, 0, 7]]


def test_patches_are_drawn_by_their_seed():
    assert choose_patches(5, None, 0) == (0, 1, 2, 3, 4) == choose_patches(5, 9, 1)
    some = choose_patches(100, 10, 0)
    assert len(set(some)) == 10
    assert some == choose_patches(100, 10, 0) == tuple(sorted(some))
    assert some != choose_patches(100, 10, 1)
    for wanted, seed in ((0, 0), (3, -1)):
        with pytest.raises(ConfigError):
            choose_patches(5, wanted, seed)


def test_the_text_by_hand(pastis):
    lines = summary_text(summary_of(pastis, look=False)).splitlines()
    assert lines[:4] == [
        "patches  3; 16 x 16 pixels of 10 m, 0.08 km² in all",
        "parts    1 in fold 1, 1 in fold 2, 1 in fold 3",
        "dates    2 to 4 a patch, median 3; 2018-09-15 to 2019-08-01",
        "parcels  6 of 2 classes; 0.28 to 0.35 ha, median 0.32 ha",
    ]
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in lines[5:]
    }
    assert rows["class"] == ["pixels", "share, %", "parcels", "median ha", "largest ha"]
    assert rows["corn"] == ["105", "13.7", "3", "0.35", "0.35"]
    assert rows["sorghum"] == ["0", "0.0", "–", "–", "–"]
    assert len({len(line) for line in lines[5:]}) == 1


def test_the_text_says_what_is_not_whole(pastis, czech):
    assert "2 of 3, drawn at random" in summary_text(summary_of(pastis, [0, 2], look=False))
    assert "does not number its parcels" in summary_text(summary_of(czech, look=False))
    assert "hide a parcel on" in summary_text(summary_of(czech))


def test_describe_prints_and_writes_nothing(pastis, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["describe", str(pastis)]) == 0
    assert capsys.readouterr().out.startswith("patches  3;")
    assert not list(tmp_path.iterdir())


def test_patches_and_seed_reach_the_count(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data")
    printed = []
    for options in ([], ["--seed", "1"], ["--seed", "2"]):
        assert main(["describe", str(data), "--patches", "3", *options]) == 0
        printed.append(capsys.readouterr().out)
    assert all("3 of 10" in text for text in printed)
    assert len(set(printed)) > 1


@pytest.mark.parametrize("layout", ["pastis", "czech"])
def test_describe_writes_its_text_and_pictures(layout, tmp_path, request, capsys):
    data = request.getfixturevalue(layout)
    assert main(["describe", str(data), "--out", str(tmp_path / "out")]) == 0
    names = {"dataset.md", "classes.png", "ndvi.png", "calendar.png", "patches.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out" / "dataset.md").read_text() == capsys.readouterr().out


def test_mistakes_end_in_one_line_and_leave_nothing(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data", 2)
    (data / "DATA_S2" / "S2_11.npy").write_bytes(b"no array")
    out = ["--out", str(tmp_path / "out")]
    for arguments, word in (
        ([str(data), *out], "S2_11.npy"),
        ([str(tmp_path / "none"), *out], "does not exist"),
        ([str(tmp_path), *out], "metadata.geojson"),
        ([str(data), *out, "--patches", "0"], "--patches must be at least 1, not 0"),
        ([str(data), *out, "--seed", "-1"], "--seed must be at least 0, not -1"),
        ([str(data), "--out", str(data)], "new or empty folder"),
    ):
        assert main(["describe", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert word in error
        assert not (tmp_path / "out").exists()


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be written."""
    found = []
    monkeypatch.setattr(dataset_pictures, "save_figure", lambda figure, path: found.append(figure))
    return found


def test_bars_are_shares_and_counts_in_the_classes_colours(pastis, tmp_path, figures):
    draw_classes(summary_of(pastis), tmp_path / "a.png")
    pixels, counts = figures[0].axes
    names = [label.get_text() for label in pixels.get_yticklabels()]
    assert names == ["meadow", "void", "corn", "background"]
    assert [bar.get_width() for bar in pixels.patches] == pytest.approx(
        [100 * n / 256 for n in (28, 30, 35, 163)]
    )
    assert [bar.get_width() for bar in counts.patches] == [3, 3, 3, 0]
    assert [to_hex(bar.get_facecolor()) for bar in pixels.patches] == [
        "#aec7e8",
        "#ffffff",
        "#ffbb78",
        "#000000",
    ]
    assert len(pixels.lines) == 3  # a tick a fold


def test_lines_of_ndvi_are_the_medians(tmp_path, figures):
    data = write_tiny_dataset(tmp_path / "data")
    for path in (data / "DATA_S2").iterdir():
        images = np.load(path)
        images[:, BLUE] = 300
        np.save(path, images)
    summary = summary_of(data)
    draw_ndvi(summary, tmp_path / "a.png")
    meadow, corn = (axes for axes in figures[0].axes if axes.get_title(loc="left"))
    assert [axes.get_title(loc="left") for axes in (meadow, corn)] == ["meadow (10)", "corn (10)"]
    days, (_, median, _) = summary.ndvi.quantiles([3], (0.25, 0.5, 0.75))
    drawn = corn.lines[-1]
    assert len(days) == 4
    assert drawn.get_ydata().tolist() == median.tolist()
    assert (drawn.get_xdata() == np.datetime64("2018-09-01") + days).all()


def test_no_parcel_at_all_is_drawn_too(tmp_path, figures):
    data = write_tiny_dataset(tmp_path / "data", 2)
    for path in (data / "ANNOTATIONS").iterdir():
        np.save(path, np.load(path) * 0)
    summary = summary_of(data)
    assert "parcels  none" in summary_text(summary)
    for function in (draw_classes, draw_ndvi, draw_calendar, draw_patches):
        function(summary, tmp_path / "a.png")
    assert len(figures) == 4


def test_the_calendar_by_hand(pastis):
    """2018-10-01 and 2019-01-05 of patch 10, of which half of the parcels are in cloud on the
    second one.
    """
    first, second, _ = summary_of(pastis).patches
    first = replace(first, days_T=np.array([30, 126]), cloudy_T=np.array([0.0, 0.5]))
    second = replace(second, days_T=np.array([31, 32]), cloudy_T=None)
    months, clear, cloudy = dates_by_month([first, second], date(2018, 9, 1))
    assert months.astype(str).tolist() == ["2018-10-01", "2018-11-01", "2018-12-01", "2019-01-01"]
    assert clear.tolist() == [1.5, 0, 0, 0.25]
    assert cloudy.tolist() == [0, 0, 0, 0.25]


def test_the_calendar_shows_every_date_of_its_patches(pastis, tmp_path, figures):
    summary = summary_of(pastis)
    draw_calendar(summary, tmp_path / "a.png")
    dates = figures[0].axes[1]
    assert [label.get_text() for label in dates.get_yticklabels()] == [
        "10 (fold 1)",
        "11 (fold 2)",
        "12 (fold 3)",
    ]
    assert sum(len(line.get_xdata()) for line in dates.lines) == 9


def test_patches_are_drawn_with_their_truth(pastis, tmp_path, figures):
    draw_patches(summary_of(pastis), tmp_path / "a.png")
    assert [axes.get_title().split("\n")[0] for axes in figures[0].axes[:3]] == [
        "10 (fold 1)",
        "11 (fold 2)",
        "12 (fold 3)",
    ]
    assert {text.get_text() for text in figures[0].legends[0].get_texts()} == {
        "meadow",
        "corn",
        "void",
    }
    truth = figures[0].axes[3].images[0].get_array()
    ids_HW, _ = parcels()
    assert truth.shape[0] == 4 * len(ids_HW)
