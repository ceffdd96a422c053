"""Comparing parcels: hand-made squares whose numbers can be counted on paper."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pytest
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box

from panoseg.cli import main
from panoseg.errors import ConfigError, ParcelsError
from panoseg.maps.compare import compare_files, compare_parcels
from panoseg.maps.parcels import write_geoparquet

CRS = "EPSG:32631"


def table(*outlines, classes=None, crs=CRS):
    moved = [translate(outline, 500_000, 5_600_000) for outline in outlines]
    return gpd.GeoDataFrame({"class": classes or ["corn"] * len(moved)}, geometry=moved, crs=crs)


def classes_of(parcels, truth):
    return {"classes": parcels["class"], "truth_classes": truth["class"]}


def test_the_same_is_perfect():
    truth = table(box(0, 0, 100, 100), box(100, 0, 200, 100))
    found = compare_parcels(truth, truth, **classes_of(truth, truth))
    assert (found.quality.found, found.quality.missed, found.quality.invented) == (2, 0, 0)
    assert found.quality.pq == found.class_pq == found.class_agreement == 1.0


def test_counts_and_quality():
    truth = table(box(0, 0, 100, 100), box(200, 0, 300, 100))
    parcels = table(box(0, 0, 100, 80), box(400, 0, 500, 100), box(200, 0, 240, 100))
    found = compare_parcels(parcels, truth)
    assert found.matches == ((0, 0, pytest.approx(0.8)),)
    assert found.missed == (1,)
    assert found.invented == (1, 2)
    assert found.quality.sq == pytest.approx(0.8)
    assert found.quality.rq == pytest.approx(1 / 2.5)
    assert found.quality.pq == pytest.approx(0.8 / 2.5)
    assert found.class_agreement is None
    assert found.class_pq is None


def test_an_iou_of_one_half_is_no_match():
    truth = table(box(0, 0, 100, 100))
    assert compare_parcels(table(box(0, 0, 50, 100)), truth).quality.found == 0
    assert compare_parcels(table(box(0, 0, 51, 100)), truth).quality.found == 1


def test_no_parcels_and_no_truth():
    truth = table(box(0, 0, 100, 100))
    assert compare_parcels(truth.iloc[:0], truth).quality.pq == 0.0
    assert compare_parcels(truth, truth.iloc[:0]).invented == (0,)
    assert compare_parcels(truth.iloc[:0], truth.iloc[:0]).quality.pq == 0.0


def test_a_file_without_true_parcels(tmp_path):
    write_geoparquet([table(box(0, 0, 100, 100))], tmp_path / "parcels.parquet")
    write_geoparquet([table(box(0, 0, 100, 100)).iloc[:0]], tmp_path / "truth.parquet")
    with pytest.raises(ParcelsError, match="holds no parcel"):
        compare_files(tmp_path / "parcels.parquet", tmp_path / "truth.parquet")


def test_overlapping_outlines_match_once():
    truth = table(box(0, 0, 100, 100))
    found = compare_parcels(table(box(0, 0, 100, 90), box(0, 0, 100, 95)), truth)
    assert found.matches == ((1, 0, pytest.approx(0.95)),)
    assert found.invented == (0,)


def test_declared_only():
    truth = table(box(0, 0, 100, 100), box(100, 0, 200, 100), box(1000, 0, 1020, 20))
    parcels = table(
        box(-300, 0, 100, 100),  # found: inside declared land it is exactly the first
        box(110, 0, 140, 100),  # on declared land, matches nothing: invented
        box(190, 0, 300, 100),  # a tenth on declared land: not counted
        box(500, 0, 600, 100),  # nowhere near: not counted
        box(1000, 0, 1020, 20),  # finds a true parcel of 4 pixels: excused
    )
    everything = compare_parcels(parcels, truth)
    assert (everything.quality.found, everything.quality.missed, everything.quality.invented) == (
        1,
        2,
        4,
    )
    declared = compare_parcels(parcels, truth, declared_only=True)
    assert declared.matches == ((0, 0, pytest.approx(1.0)),)
    assert declared.missed == (1,)
    assert declared.invented == (1,)
    assert declared.left_out == 1
    assert "1 smaller" in declared.table()


def test_ten_pixels_count_nine_do_not():
    truth = table(box(0, 0, 100, 10), box(200, 0, 290, 10))
    found = compare_parcels(truth.iloc[:0], truth, declared_only=True)
    assert (found.true_parcels, found.left_out, found.missed) == (1, 1, (0,))
    assert compare_parcels(truth.iloc[:0], truth, declared_only=True, min_area_ha=0).missed == (
        0,
        1,
    )
    assert compare_parcels(truth.iloc[:0], truth, min_area_ha=0.1).missed == (0,)


def test_classes():
    truth = table(
        *(box(200 * i, 0, 200 * i + 100, 100) for i in range(4)),
        classes=["corn", "corn", "beet", None],
    )
    parcels = table(
        *(box(200 * i, 0, 200 * i + 100, 100) for i in range(4)),
        box(5000, 0, 5100, 100),
        classes=["Corn ", "beet", "beet", "corn", "sorghum"],
    )
    found = compare_parcels(parcels, truth, **classes_of(parcels, truth))
    assert found.class_agreement == pytest.approx(2 / 3)
    counts = {name: (own.found, own.missed, own.invented) for name, own in found.by_class.items()}
    assert counts == {"beet": (1, 0, 1), "corn": (1, 1, 0), "sorghum": (0, 0, 1)}
    assert found.class_pq == pytest.approx((1 / 1.5 + 1 / 1.5 + 0) / 3)


def test_classes_of_the_truth_in_other_words(tmp_path):
    truth = table(box(0, 0, 100, 100), box(200, 0, 300, 100)).rename(columns={"class": "crop_code"})
    truth["crop_code"] = [1200.0, 8100.0]
    parcels = table(box(0, 0, 100, 100), box(200, 0, 300, 100))
    truth.to_file(tmp_path / "truth.gpkg")
    parcels.to_parquet(tmp_path / "parcels.parquet")
    (tmp_path / "map.json").write_text('{"1200": "corn"}')
    paths = tmp_path / "parcels.parquet", tmp_path / "truth.gpkg"
    assert compare_files(*paths).class_agreement is None
    assert compare_files(*paths, truth_class_column="crop_code").class_agreement == 0.0
    assert compare_files(*paths, class_map=tmp_path / "map.json").class_agreement == 1.0
    with pytest.raises(ConfigError, match="no column 'crop'"):
        compare_files(*paths, class_column="crop")
    (tmp_path / "map.json").write_text("[1]")
    with pytest.raises(ConfigError, match="JSON object"):
        compare_files(*paths, class_map=tmp_path / "map.json")


def test_other_coordinate_systems():
    truth = table(box(0, 0, 300, 300), box(300, 0, 600, 300))
    for crs in ("EPSG:4326", "EPSG:3857", "EPSG:32632"):
        moved = truth.to_crs(crs)
        for parcels, true in ((moved, truth), (truth, moved), (moved, moved)):
            quality = compare_parcels(parcels, true).quality
            assert quality.found == 2
            assert quality.sq > 0.99


def test_invalid_outlines_are_mended():
    bow = Polygon([(0, 0), (100, 100), (100, 0), (0, 100)])
    truth = table(box(0, 0, 100, 100))
    assert compare_parcels(table(bow), truth).quality.found == 0
    parts = MultiPolygon([box(0, 0, 100, 40), box(0, 60, 100, 100)])
    assert compare_parcels(table(parts), truth).quality.sq == pytest.approx(0.8)


def test_symmetric_under_renaming_and_order():
    random = np.random.default_rng(3)
    corners = random.integers(0, 40, (30, 2)) * 50
    truth = table(*(box(x, y, x + 48, y + 48) for x, y in np.unique(corners, axis=0)))
    parcels = table(*(translate(outline, -500_000 + 8, -5_600_000) for outline in truth.geometry))
    shuffled = parcels.sample(frac=1, random_state=1)
    assert compare_parcels(parcels, truth).quality == compare_parcels(shuffled, truth).quality


def test_the_command(tmp_path, capsys):
    truth = table(box(0, 0, 100, 100), box(200, 0, 300, 100))
    truth.to_file(tmp_path / "truth.gpkg")
    write_geoparquet([truth.iloc[:1]], tmp_path / "parcels.parquet")
    paths = [str(tmp_path / "parcels.parquet"), str(tmp_path / "truth.gpkg")]
    assert main(["compare", *paths, "--json", str(tmp_path / "scores.json")]) == 0
    assert "PQ, ignoring the class" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["found"], scores["missed"], scores["invented"]) == (1, 1, 0)
    assert scores["pq"] == pytest.approx(1 / 1.5)
    assert main(["compare", paths[0], str(tmp_path / "absent.gpkg")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "absent.gpkg", "absent.gpkg"],
        ["coco", "evaluate", "--truth", "absent.json", "--prediction", "absent.json"],
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(
    tmp_path, capsys, command
):
    (tmp_path / "file").write_text("")
    assert main([*command, "--json", str(tmp_path / "file" / "scores.json")]) == 2
    assert "a part of the path is a file" in capsys.readouterr().err


def test_declared_only_on_the_command_line(tmp_path, capsys):
    table(box(0, 0, 100, 100)).to_file(tmp_path / "truth.gpkg")
    write_geoparquet([table(box(-300, 0, 100, 100))], tmp_path / "parcels.parquet")
    paths = [str(tmp_path / "parcels.parquet"), str(tmp_path / "truth.gpkg")]
    main(["compare", *paths])
    assert "matched                     0" in capsys.readouterr().out
    main(["compare", *paths, "--declared-only"])
    assert "matched                     1" in capsys.readouterr().out


def test_the_real_register_against_itself(real_data):
    register = real_data / "flanders-2019" / "parcels.gpkg"
    found = compare_files(register, register, declared_only=True)
    assert found.true_parcels == 17
    assert found.left_out == 2
    assert found.quality.pq == pytest.approx(1.0)


def test_ignored_land_counts_for_nothing(tmp_path, capsys):
    """A parcel mostly on unsure land is neither missed nor invented, and a match is cut by it."""
    truth = table(box(0, 0, 100, 100), box(200, 0, 300, 100), box(400, 0, 500, 100))
    found = table(box(0, 0, 100, 100), box(200, 40, 300, 140), box(600, 0, 700, 100))
    plain = compare_parcels(found, truth).quality
    assert (plain.found, plain.missed, plain.invented) == (1, 2, 2)
    unsure = table(box(190, -10, 310, 150), box(590, -10, 660, 110))
    cut = compare_parcels(found, truth, ignore=unsure)
    assert (cut.quality.found, cut.quality.missed, cut.quality.invented) == (1, 1, 0)
    assert (cut.parcels, cut.true_parcels, cut.left_out) == (1, 2, 1)
    # Less than half of a parcel is unsure: the rest of it counts.
    shifted = table(box(30, 0, 130, 100))
    assert compare_parcels(shifted, truth).quality.sq == pytest.approx(70 / 130)
    beyond = table(box(100, 0, 140, 100))
    assert compare_parcels(shifted, truth, ignore=beyond).quality.sq == pytest.approx(0.7)
    for name, one in (("found", found), ("truth", truth), ("unsure", unsure)):
        write_geoparquet([one], tmp_path / f"{name}.parquet")
    files = [str(tmp_path / f"{name}.parquet") for name in ("found", "truth", "unsure")]
    assert main(["compare", *files[:2], "--json", str(tmp_path / "plain.json")]) == 0
    assert (
        main(["compare", *files[:2], "--ignore", files[2], "--json", str(tmp_path / "cut.json")])
        == 0
    )
    scores = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "cut")]
    assert [score["missed"] for score in scores] == [2, 1]
    assert [score["invented"] for score in scores] == [2, 0]
