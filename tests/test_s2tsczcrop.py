"""S2TSCzCrop's layout: against the published loader, its options, writing, and damaged datasets."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable, SegmentClass
from panoseg.data import AugmentationConfig
from panoseg.data.layouts import PASTIS_LAYOUT, S2TSCZCROP_LAYOUT, find_layout
from panoseg.data.loading import make_loader
from panoseg.data.s2tsczcrop import (
    S2TSCzCropDataset,
    compute_normalisation,
    train_normalisation,
    write_samples,
)
from panoseg.data.s2tsczcrop_files import (
    FROM_PASTIS,
    OWN_BANDS,
    TO_PASTIS,
    CzechPatch,
    parse_affine,
    read_patches,
)
from panoseg.data.samples import Normalisation, Sample, collate
from panoseg.errors import ConfigError, DatasetError, OutputError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from small_pastis import write_small_pastis
from small_s2tsczcrop import GRID, PATCHES, fields, write_small_s2tsczcrop


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_small_s2tsczcrop(tmp_path_factory.mktemp("czech") / "data")


@pytest.fixture
def damaged(small, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small, tmp_path / "damaged"))


@pytest.fixture(scope="module")
def published(golden):
    return golden / "crop2seg" / "s2tsczcrop", np.load(golden / "crop2seg" / "dataset.npz")


def statistics(golden: Path, name: str, tmp_path: Path) -> Path:
    """A folder with one of the two files of statistics."""
    shutil.copy(golden / "crop2seg" / name, tmp_path / "NORM_S2_patch.json")
    return tmp_path


def normalised(sample: Sample, normalisation: Normalisation) -> torch.Tensor:
    return normalisation(
        sample.images_TCHW[None], torch.ones(1, len(sample.days_T), dtype=torch.bool)
    )[0]


# The published loader


@pytest.mark.parametrize(
    ("file", "rotation", "values", "case"),
    [
        ("norm_train.json", 1, "train", "norm_train"),
        ("norm_folds.json", 2, "folds_fold2", "norm_folds"),
    ],
)
def test_published_statistics_and_samples(
    published, golden, tmp_path, file, rotation, values, case
):
    folder, cases = published
    normalisation = train_normalisation(statistics(golden, file, tmp_path), rotation)
    np.testing.assert_allclose(normalisation.mean, cases[f"norm_mean_from_{values}"], rtol=1e-6)
    np.testing.assert_allclose(normalisation.std, cases[f"norm_std_from_{values}"], rtol=1e-6)
    sample = S2TSCzCropDataset(folder, ("train",), target="semantic")[0]
    assert sample.images_TCHW.dtype == torch.int16
    np.testing.assert_allclose(normalised(sample, normalisation), cases[f"{case}_x"], atol=1e-5)
    np.testing.assert_array_equal(sample.days_T, cases[f"{case}_dates"])
    np.testing.assert_array_equal(sample.classes_HW, cases[f"{case}_target"])


def test_published_order_of_bands(published):
    """Own order becomes PASTIS's by name, which is the published list of positions."""
    folder, cases = published
    assert TO_PASTIS == (2, 1, 0, 4, 5, 6, 3, 7, 8, 9)
    assert [OWN_BANDS[position] for position in TO_PASTIS] == list(PASTIS_BANDS)
    assert [PASTIS_BANDS[position] for position in FROM_PASTIS] == list(OWN_BANDS)
    sample = S2TSCzCropDataset(folder, target=None)[0]
    np.testing.assert_array_equal(sample.images_TCHW[0], cases["raw_like_pastis_first_date"])


def test_published_ndvi(published, golden, tmp_path):
    """Equal here; where reflectance is negative, ours is bounded to -1..1 and the published one is
    0.
    """
    folder, cases = published
    normalisation = replace(
        train_normalisation(statistics(golden, "norm_train.json", tmp_path)), ndvi=True
    )
    sample = S2TSCzCropDataset(folder, ("train",), target="semantic")[1]
    np.testing.assert_allclose(normalised(sample, normalisation), cases["ndvi_x"], atol=1e-5)
    np.testing.assert_array_equal(sample.days_T, cases["ndvi_dates"])


def test_published_dates(published):
    """Days from 1 September, and the day of the year of the same dates."""
    folder, cases = published
    dataset = S2TSCzCropDataset(folder, ("train",), target=None)
    for index in range(3):
        np.testing.assert_array_equal(dataset[index].days_T, cases[f"relative{index}_dates"])
        of_year = [day.timetuple().tm_yday for day in dataset.dates(index)]
        assert of_year == cases[f"doy{index}_dates"].tolist()
        for name in ("both", "both_and_doy"):
            both = np.stack([dataset[index].days_T, of_year], axis=1)
            np.testing.assert_array_equal(both, cases[f"{name}{index}_dates"])


def test_published_class_mapping(published):
    folder, cases = published
    sample = S2TSCzCropDataset(
        folder, ("train",), target="semantic", class_mapping={c: c % 4 for c in range(15)}
    )[0]
    assert isinstance(sample.classes_HW, torch.Tensor)
    np.testing.assert_array_equal(sample.classes_HW, cases["class_mapping_target"])


def test_published_grid(published):
    """Stored transposed; read upright."""
    folder, cases = published
    a, b, c, d, e, f = read_patches(folder)[0].affine
    np.testing.assert_array_equal(
        np.array([[a, b, c], [d, e, f], [0, 0, 1]]).T, cases["affine_affine"]
    )
    assert read_patches(folder)[0].epsg == 32633


@pytest.mark.parametrize(
    ("name", "dates"), [("", 7), ("_max_size8", 8), ("_max_size5", 5), ("_pad_value9", 7)]
)
def test_published_batches(published, golden, tmp_path, name, dates):
    """The published program may pad to, or cut at, a number of dates; padding is always
    zero.

    Here only networks that want a fixed number do that, on the batch.
    """
    folder, cases = published
    dataset = S2TSCzCropDataset(folder, ("train",), target="semantic")
    batch = collate([dataset[index] for index in range(3)])
    normalisation = train_normalisation(statistics(golden, "norm_train.json", tmp_path))
    x = normalisation(batch.images_BTCHW, batch.valid_BT)
    assert batch.classes_BHW.shape == tuple(cases[f"collate{name}_y_shape"])
    wanted = tuple(cases[f"collate{name}_x_shape"])
    assert (x.shape[0], *x.shape[2:]) == (wanted[0], *wanted[2:])
    assert wanted[1] == dates
    sums, days = cases[f"collate{name}_x_date_sums"], cases[f"collate{name}_dates"]
    assert not sums[:, 7:].any()
    assert not days[:, 7:].any()
    np.testing.assert_allclose(x.double().sum((2, 3, 4))[:, :dates], sums[:, :7], rtol=1e-5)
    np.testing.assert_array_equal(batch.days_BT[:, :dates], days[:, :7])


def test_published_statistics_of_the_training_set(published):
    folder, cases = published
    table = compute_normalisation(folder)
    np.testing.assert_allclose(table["train"]["mean"], cases["compute_norm_vals_mean"], rtol=1e-5)
    np.testing.assert_allclose(table["train"]["std"], cases["compute_norm_vals_std"], rtol=1e-5)
    stored = json.loads((folder / "NORM_S2_patch.json").read_text())
    np.testing.assert_allclose(table["train"]["mean"], stored["train"]["mean"], rtol=1e-5)


def test_a_published_dataset_is_written_anew_alike(published, tmp_path):
    """Reader and writer are the inverse of each other, down to the bytes of the arrays and the
    records of the patches.
    """
    folder, _ = published
    patches = read_patches(folder)
    dataset = S2TSCzCropDataset(folder, target="semantic")
    write_samples(tmp_path / "again", zip(dataset, patches, strict=True))
    for file in sorted(folder.glob("*/*")):
        np.testing.assert_array_equal(
            np.load(tmp_path / "again" / file.relative_to(folder)), np.load(file)
        )
    first, second = (
        json.loads((place / "metadata.json").read_text()) for place in (folder, tmp_path / "again")
    )
    assert second == first
    old, new = (
        json.loads((place / "NORM_S2_patch.json").read_text())["train"]
        for place in (folder, tmp_path / "again")
    )
    np.testing.assert_allclose([new["mean"], new["std"]], [old["mean"], old["std"]], rtol=1e-5)


# Options


def test_targets(small):
    bare, semantic = (S2TSCzCropDataset(small, target=target)[0] for target in (None, "semantic"))
    assert bare.classes_HW is None
    assert semantic.classes_HW.dtype == torch.int64
    np.testing.assert_array_equal(semantic.classes_HW, fields())
    assert semantic.instances_HW is semantic.centres is None
    with pytest.raises(ConfigError, match=r"not its parcel, so it has no target 'panoptic'"):
        S2TSCzCropDataset(small, target="panoptic")


def test_sets(small):
    names = {
        sets: S2TSCzCropDataset(small, sets, target=None).ids
        for sets in (("train",), ("val",), ("test", "val"))
    }
    assert names == {("train",): (20, 23), ("val",): (21,), ("test", "val"): (21, 22)}
    assert len(S2TSCzCropDataset(small, target=None)) == 4
    with pytest.raises(DatasetError, match="set 'validation'"):
        S2TSCzCropDataset(small, ("validation",), target=None)


def test_patches_that_were_removed_have_no_files(damaged):
    records = json.loads((damaged / "metadata.json").read_text())
    records.append({"ID_PATCH": 99, "Status": "REMOVED", "set": None, "dates-S2": None})
    (damaged / "metadata.json").write_text(json.dumps(records))
    assert S2TSCzCropDataset(damaged, target="semantic").ids == (20, 21, 22, 23)


def test_identifiers_that_pandas_made_decimal(damaged):
    records = json.loads((damaged / "metadata.json").read_text())
    (damaged / "metadata.json").write_text(
        json.dumps([{**entry, "ID_PATCH": float(entry["ID_PATCH"])} for entry in records])
    )
    assert S2TSCzCropDataset(damaged, target="semantic").ids == (20, 21, 22, 23)


def test_reference_date_and_single_date(small):
    dataset = S2TSCzCropDataset(small, target=None, reference_date=date(2019, 1, 1))
    assert dataset[0].days_T.tolist() == [-92, 4, 109]
    every = dataset[0].images_TCHW
    for single, position in ((1, 1), ("-1", 2), ("2019-04-01", 2), (date(2018, 10, 3), 0)):
        sample = S2TSCzCropDataset(small, target=None, single_date=single)[0]
        assert torch.equal(sample.images_TCHW, every[[position]])
    with pytest.raises(DatasetError, match="Patch 21 has 2 dates and none at position 2"):
        S2TSCzCropDataset(small, target=None, single_date=2)[1]


def test_unsorted_dates_go_with_their_images(tmp_path):
    days = (date(2019, 4, 20), date(2018, 10, 1), date(2018, 10, 1))
    folder = write_small_s2tsczcrop(tmp_path / "data", {5: ("train", days)})
    stored = np.load(folder / "DATA_S2" / "S2_5")[:, TO_PASTIS]
    sample = S2TSCzCropDataset(folder, target=None)[0]
    assert sample.days_T.tolist() == [30, 30, 231]
    np.testing.assert_array_equal(sample.images_TCHW, stored[[1, 2, 0]])


def test_augmentation_is_applied_and_repeats(small):
    config = AugmentationConfig(crop=8, flips=True, max_dates=2)
    dataset = S2TSCzCropDataset(small, target="semantic", augmentation=config)
    samples = []
    for seed in (1, 1):
        torch.manual_seed(seed)
        samples.append([dataset[0] for _ in range(6)])
    (sample, *later), again = samples
    assert sample.images_TCHW.shape == (2, 10, 8, 8)
    assert sample.classes_HW.shape == (8, 8)
    for one, other in zip([sample, *later], again, strict=True):
        assert torch.equal(one.images_TCHW, other.images_TCHW)
    assert any(not torch.equal(sample.images_TCHW, other.images_TCHW) for other in later)
    drawn, repeated = (dataset.draw(0, np.random.default_rng(3)).in_order() for _ in range(2))
    assert torch.equal(drawn.images_TCHW, repeated.images_TCHW)


def test_files_are_never_changed(small):
    path = small / "DATA_S2" / "S2_20"
    before = path.read_bytes()
    S2TSCzCropDataset(small, target=None)[0].images_TCHW.zero_()
    assert path.read_bytes() == before


def test_images_are_read_when_they_are_used(damaged):
    sample = S2TSCzCropDataset(damaged, target=None).draw(0, np.random.default_rng(0))
    with (damaged / "DATA_S2" / "S2_20").open("r+b") as file:
        file.seek(-2, 2)
        file.write((123).to_bytes(2, "little"))
    assert sample.images_TCHW[-1, -1, -1, -1] == 123


def test_batches_put_bands_in_order(small):
    """With the copy that they make anyway; with samples of another order in the batch, and shorter
    series.
    """
    dataset = S2TSCzCropDataset(small, target="semantic")
    drawn = [dataset.draw(index, np.random.default_rng(0)) for index in range(2)]
    assert [sample.order for sample in drawn] == [TO_PASTIS] * 2
    expected = [dataset[index].images_TCHW for index in range(2)]
    assert not torch.equal(drawn[0].images_TCHW, expected[0])
    for samples in (drawn, [drawn[0], dataset[1]]):
        images_BTCHW = collate(samples).images_BTCHW
        assert torch.equal(images_BTCHW[0], expected[0])
        assert torch.equal(images_BTCHW[1, :2], expected[1])
        assert not images_BTCHW[1, 2:].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_put_bands_in_order(small, workers):
    dataset = S2TSCzCropDataset(small, target="semantic")
    batches = list(make_loader(dataset, 2, workers=workers))
    assert torch.equal(batches[0].images_BTCHW[0], dataset[0].images_TCHW)
    assert torch.equal(batches[1].images_BTCHW[1], dataset[3].images_TCHW)


def test_a_grid_may_stand_upright():
    assert parse_affine([[10, 0, 500], [0, -10, 700], [0, 0, 1]]) == (10, 0, 500, 0, -10, 700)
    assert parse_affine([[10, 0, 0], [0, -10, 0], [500, 700, 1]]) == (10, 0, 500, 0, -10, 700)
    for wrong in ([[1, 2], [3, 4]], [[1, 2, 3]] * 3, "x", [[None] * 3] * 3):
        with pytest.raises((ValueError, TypeError)):
            parse_affine(wrong)


# The class table


def test_the_class_table():
    assert (S2TSCZCROP.count, S2TSCZCROP.background, S2TSCZCROP.void) == (15, 0, 14)
    assert S2TSCZCROP.ids("thing") == tuple(range(1, 14))
    assert (S2TSCZCROP[6].name, S2TSCZCROP[6].colour) == ("maize", "#f0a274")
    assert S2TSCZCROP.boundary == SegmentClass(15, "boundary", "#ffffff", "void")
    assert ClassTable.from_json(json.loads(json.dumps(S2TSCZCROP.to_json()))) == S2TSCZCROP
    assert "boundary" not in PASTIS.to_json()
    with pytest.raises(ValueError, match="the id of class 6"):
        replace(S2TSCZCROP, boundary=S2TSCZCROP[6])


# Layouts


def test_a_folder_tells_its_layout(small, tmp_path):
    assert find_layout(small) is S2TSCZCROP_LAYOUT
    assert find_layout(write_small_pastis(tmp_path / "pastis")) is PASTIS_LAYOUT
    with pytest.raises(
        DatasetError,
        match=r"is no dataset: it has no metadata.geojson .*, metadata",
    ):
        find_layout(tmp_path)
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        find_layout(tmp_path / "nowhere")


def test_rotations_of_layouts():
    assert S2TSCZCROP_LAYOUT.rotation(1) == (("train",), ("val",), ("test",))
    assert (S2TSCZCROP_LAYOUT.parts, PASTIS_LAYOUT.parts) == (
        ("train", "val", "test"),
        (1, 2, 3, 4, 5),
    )
    with pytest.raises(
        ConfigError,
        match="A dataset in S2TSCzCrop's layout has one official split and no fold 3",
    ):
        S2TSCZCROP_LAYOUT.rotation(3)
    with pytest.raises(ConfigError, match="must be a number from 1 to 5, or all, not 6"):
        PASTIS_LAYOUT.rotation(6)
    assert PASTIS_LAYOUT.words((1, 2)) == "folds 1, 2"
    assert S2TSCZCROP_LAYOUT.words(("test",)) == "set test"


# Writing


def test_bands_are_written_in_their_own_order(tmp_path):
    images = (
        torch.arange(10, dtype=torch.int16)[None, :, None, None].expand(1, 10, 8, 8).contiguous()
    )
    sample = Sample(images, torch.tensor([0]), "7", torch.zeros(8, 8, dtype=torch.int64))
    folder = write_samples(
        tmp_path / "data", [(sample, CzechPatch(7, "train", (date(2018, 9, 1),)))]
    )
    assert np.load(folder / "DATA_S2" / "S2_7")[0, :, 0, 0].tolist() == [
        2,
        1,
        0,
        6,
        3,
        4,
        5,
        7,
        8,
        9,
    ]
    assert torch.equal(S2TSCzCropDataset(folder, target=None)[0].images_TCHW, images)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "metadata.json",
        "NORM_S2_patch.json",
        "S2_7",
        "TARGET_7",
    }


def test_statistics_are_those_of_the_training_set_alone(small):
    expected = compute_normalisation(small)
    stored = json.loads((small / "NORM_S2_patch.json").read_text())
    np.testing.assert_allclose(
        [stored["train"]["mean"], stored["train"]["std"]],
        [expected["train"]["mean"], expected["train"]["std"]],
        rtol=1e-9,
    )
    images = [np.load(small / "DATA_S2" / f"S2_{patch}").astype(float) for patch in (20, 23)]
    by_hand = np.mean([image.mean((0, 2, 3)) for image in images], axis=0)
    np.testing.assert_allclose(stored["train"]["mean"], by_hand)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes_HW": None}, "lacks classes of S2TSCzCrop"),
        ({"classes_HW": torch.full((16, 16), 15)}, "lacks classes of S2TSCzCrop"),
        ({"images_TCHW": torch.zeros(3, 10, 16, 16)}, "3 images of torch.float32 and 3 dates"),
        (
            {"images_TCHW": torch.zeros(2, 10, 16, 16, dtype=torch.int16)},
            "2 images of torch.int16 and 3 dates",
        ),
    ],
)
def test_samples_that_cannot_be_written(small, tmp_path, change, words):
    sample = replace(S2TSCzCropDataset(small, target="semantic")[0], **change)
    with pytest.raises(DatasetError, match=words):
        write_samples(tmp_path / "data", [(sample, CzechPatch(20, *PATCHES[20]))])
    assert not (tmp_path / "data" / "metadata.json").exists()


def test_a_dataset_is_not_written_over_another(small):
    with pytest.raises(OutputError, match="choose a new or empty folder"):
        write_small_s2tsczcrop(small)


def test_a_dataset_without_training_patches_has_no_statistics(tmp_path):
    with pytest.raises(DatasetError, match="No sample is of the set train"):
        write_small_s2tsczcrop(tmp_path / "data", {5: ("val", PATCHES[21][1])})


# Damage: one line each


def replace_array(folder: Path, name: str, change) -> None:
    path = folder / name
    changed = change(np.load(path))
    with path.open("wb") as file:
        np.save(file, changed)


def change_record(folder: Path, **changes) -> None:
    path = folder / "metadata.json"
    records = json.loads(path.read_text())
    records[0] = {
        key: value for key, value in {**records[0], **changes}.items() if value is not KeyError
    }
    path.write_text(json.dumps(records))


DAMAGE = {
    "no metadata": (
        lambda folder: (folder / "metadata.json").unlink(),
        "metadata.json does not exist",
    ),
    "no JSON": (
        lambda folder: (folder / "metadata.json").write_text("{"),
        "metadata.json is not JSON",
    ),
    "no list": (
        lambda folder: (folder / "metadata.json").write_text("{}"),
        "is not a list of records",
    ),
    "no dates": (
        lambda folder: change_record(folder, **{"dates-S2": KeyError}),
        "Record 0 of .* is damaged",
    ),
    "no such set": (
        lambda folder: change_record(folder, set="validation"),
        "Record 0 of .* is damaged",
    ),
    "no set": (
        lambda folder: change_record(folder, set=KeyError),
        r"Record 0 of .* is damaged \('set'\)",
    ),
    "path climbing": (
        lambda folder: change_record(folder, ID_PATCH="../../20"),
        "is damaged .*not a whole number",
    ),
    "half a patch": (
        lambda folder: change_record(folder, ID_PATCH=20.5),
        "20.5 is not a whole number",
    ),
    "endless": (
        lambda folder: change_record(folder, ID_PATCH=float("inf")),
        "Record 0 of .* is damaged",
    ),
    "less than none": (
        lambda folder: change_record(folder, ID_PATCH=-1),
        "-1 is not a whole number",
    ),
    "grid": (
        lambda folder: change_record(folder, affine=[[1, 0], [0, 1]]),
        r"affine of shape \(2, 2\)",
    ),
    "twice": (lambda folder: change_record(folder, ID_PATCH=21), "lists patch 21 twice"),
    "no images": (lambda folder: (folder / "DATA_S2" / "S2_20").unlink(), "DATA_S2 lacks S2_20,"),
    "no image folder": (
        lambda folder: shutil.rmtree(folder / "DATA_S2"),
        "DATA_S2 lacks S2_20 and 3 more",
    ),
    "no classes": (
        lambda folder: (folder / "ANNOTATIONS" / "TARGET_22").unlink(),
        "ANNOTATIONS lacks TARGET_22",
    ),
    "date missing": (
        lambda folder: replace_array(folder, "DATA_S2/S2_20", lambda a: a[:2]),
        "has 2 images, but metadata.json lists 3",
    ),
    "bands": (
        lambda folder: replace_array(folder, "DATA_S2/S2_20", lambda a: a[:, :9]),
        "3 x 9 x 16 x 16 instead of T x 10",
    ),
    "kind": (
        lambda folder: replace_array(folder, "DATA_S2/S2_20", lambda a: a / 1e4),
        "float64, but the array must have 4 dim",
    ),
    "pickled": (
        lambda folder: replace_array(folder, "DATA_S2/S2_20", lambda a: a.astype(object)),
        "pickled objects",
    ),
    "truncated": (
        lambda folder: (folder / "DATA_S2" / "S2_20").write_bytes(
            (folder / "DATA_S2" / "S2_20").read_bytes()[:-1]
        ),
        "S2_20 has 15487 bytes instead of 15488",
    ),
    "sizes": (
        lambda folder: replace_array(folder, "ANNOTATIONS/TARGET_20", lambda a: a[1:]),
        "covers 15 x 16 pixels",
    ),
    "layers": (
        lambda folder: replace_array(folder, "ANNOTATIONS/TARGET_20", lambda a: a[None]),
        "1 x 16 x 16 uint8",
    ),
    "class": (
        lambda folder: replace_array(folder, "ANNOTATIONS/TARGET_20", lambda a: a + 1),
        "holds class 15, which is none of S2TSCzCrop",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_said_in_one_line(damaged, name):
    damage, message = DAMAGE[name]
    damage(damaged)
    with pytest.raises(DatasetError, match=message) as caught:
        S2TSCzCropDataset(damaged, target="semantic")[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        {"train": {"mean": [1.0] * 9, "std": [1.0] * 9}},
        {"train": {"mean": [1.0] * 10, "std": [0.0] * 10}},
        {"train": {"mean": [1.0] * 10, "std": [float("nan")] * 10}},
        {"train": {"mean": [10**400] * 10, "std": [1.0] * 10}},
        {"train": []},
        {"Fold_1": {"mean": [1.0] * 10, "std": [1.0] * 10}},
        {},
        [],
        None,
        3,
    ],
)
def test_damaged_statistics(tmp_path, table):
    (tmp_path / "NORM_S2_patch.json").write_text(json.dumps(table))
    with pytest.raises(
        DatasetError, match=r"lacks mean and std with 10 values for train|is too large"
    ):
        train_normalisation(tmp_path)


# Fuzz


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_tables(small, tmp_path, data):
    content = bytearray((small / "metadata.json").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    (tmp_path / "metadata.json").write_bytes(
        content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    )
    with suppress(DatasetError):
        assert len(read_patches(tmp_path)) <= len(PATCHES)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([20190801, "train", "OK"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "1", "train"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    record=st.fixed_dictionaries(
        {"ID_PATCH": JSON, "set": JSON, "dates-S2": JSON, "affine": JSON, "crs": JSON}
    ),
    other=JSON,
)
def test_tables_of_any_form(tmp_path, record, other):
    for content in ([{"Status": "OK", **record}], [other], other):
        (tmp_path / "metadata.json").write_text(json.dumps(content))
        with suppress(DatasetError):
            for patch in read_patches(tmp_path):
                assert type(patch.id) is int
                assert patch.set in ("train", "val", "test")
                assert all(type(day) is date for day in patch.dates)
    (tmp_path / "NORM_S2_patch.json").write_text(
        json.dumps({"train": {"mean": other, "std": [1.0] * 10}})
    )
    with suppress(DatasetError):
        assert len(train_normalisation(tmp_path).mean) == 10


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_arrays(small, tmp_path, data):
    """Any damage to any array of a patch gives a sample of the right form, or one line."""
    folder = tmp_path / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(small, folder)
    path = data.draw(st.sampled_from(sorted(folder.glob("*/*_20"))))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 127) | st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(content)
    with suppress(DatasetError):
        sample = S2TSCzCropDataset(folder, target="semantic")[0]
        assert sample.images_TCHW.shape == (3, 10, 16, 16)
        assert set(sample.classes_HW.unique().tolist()) <= set(range(15))


def test_what_is_known_of_a_patch(small):
    patch = read_patches(small)[0]
    assert (patch.id, patch.set, patch.dates, patch.epsg, patch.affine) == (
        20,
        *PATCHES[20],
        32633,
        GRID,
    )
    assert patch.properties["time-series_length"] == 3
