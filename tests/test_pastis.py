"""PASTIS's layout: against the published loader, its options, and damaged datasets."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.data import AugmentationConfig
from panoseg.data.arrays import map_array
from panoseg.data.layouts import PASTIS_LAYOUT
from panoseg.data.pastis import FOLDS, PastisDataset, compute_normalisation, fold_normalisation
from panoseg.data.pastis_files import parse_date, read_metadata
from panoseg.data.samples import Sample, collate
from panoseg.errors import ConfigError, DatasetError
from small_pastis import DATES, parcels, write_small_pastis


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_small_pastis(tmp_path_factory.mktemp("pastis"))


@pytest.fixture
def damaged(small, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small, tmp_path / "damaged"))


@pytest.fixture(scope="module")
def published(golden):
    return golden / "pastis" / "PASTIS", np.load(golden / "pastis" / "golden.npz")


def normalised(sample: Sample, folder: Path, folds=(1, 2, 3, 4, 5)) -> torch.Tensor:
    return fold_normalisation(folder, folds)(
        sample.images_TCHW[None], torch.ones(1, len(sample.days_T), dtype=torch.bool)
    )[0]


def seven_channels(sample: Sample) -> np.ndarray:
    """The published form of the panoptic target."""
    centres = sample.centres
    channels = [
        centres.heatmap_HW,
        centres.instance_HW,
        centres.zone_HW,
        *centres.size_HW2.unbind(-1),
        centres.zone_class_HW,
    ]
    return torch.stack(
        [*(channel.float() for channel in channels), sample.classes_HW.float()], -1
    ).numpy()


# The published loader


def test_published_samples(published):
    folder, golden = published
    dataset = PastisDataset(folder, target="panoptic")
    assert dataset.ids == tuple(golden["ids"])
    for index in range(5):
        sample = dataset[index]
        x = normalised(sample, folder).numpy()
        assert sample.images_TCHW.dtype == torch.int16
        assert sample.name == str(golden["ids"][index])
        np.testing.assert_allclose(x.mean((2, 3)), golden[f"x_date_band_means_{index}"], atol=1e-5)
        np.testing.assert_array_equal(sample.days_T, golden[f"dates_{index}"])
        np.testing.assert_array_equal(sample.classes_HW, golden[f"semantic_{index}"])
        np.testing.assert_allclose(seven_channels(sample), golden[f"instance_{index}"], atol=1e-6)
        np.testing.assert_array_equal(sample.instances_HW, golden[f"instance_{index}"][..., 1])
    np.testing.assert_allclose(normalised(dataset[0], folder), golden["x_0"], atol=1e-5)


def test_published_targets_without_instance_annotations(published, tmp_path):
    """Instances, heat and zones that are not on disk are computed, to the same values."""
    folder, golden = published
    shutil.copytree(
        folder, tmp_path / "bare", ignore=shutil.ignore_patterns("INSTANCE_ANNOTATIONS")
    )
    dataset = PastisDataset(tmp_path / "bare", target="panoptic")
    for index in range(5):
        np.testing.assert_allclose(
            seven_channels(dataset[index]), golden[f"instance_{index}"], atol=1e-6
        )


def test_published_folds(published):
    folder, golden = published
    for name, folds in (("123", (1, 2, 3)), ("4", (4,)), ("5", (5,)), ("31", (3, 1))):
        dataset = PastisDataset(folder, folds, target=None)
        assert dataset.ids == tuple(sorted(golden[f"folds_{name}_ids"]))
        normalisation = fold_normalisation(folder, folds)
        np.testing.assert_allclose(normalisation.mean, golden[f"folds_{name}_mean"], rtol=1e-6)
        np.testing.assert_allclose(normalisation.std, golden[f"folds_{name}_std"], rtol=1e-6)
        first = dataset[dataset.ids.index(golden[f"folds_{name}_ids"][0])]
        np.testing.assert_allclose(
            normalised(first, folder, folds).mean((2, 3)),
            golden[f"folds_{name}_x0_means"],
            atol=1e-5,
        )


def test_published_mean_over_all_folds(published):
    folder, golden = published
    np.testing.assert_allclose(
        fold_normalisation(folder, (1, 2, 3, 4, 5)).mean, golden["norm_mean_all"], rtol=1e-6
    )
    np.testing.assert_allclose(
        fold_normalisation(folder, (1, 2, 3, 4, 5)).std, golden["norm_std_all"], rtol=1e-6
    )


def test_published_class_mapping(published):
    folder, golden = published
    mapping = json.loads((folder.parent / "class_mapping.json").read_text())
    sample = PastisDataset(folder, target="panoptic", class_mapping=mapping)[0]
    assert isinstance(sample.classes_HW, torch.Tensor)
    np.testing.assert_array_equal(sample.classes_HW, golden["class_mapping_semantic_0"])
    np.testing.assert_allclose(
        seven_channels(sample), golden["class_mapping_instance_0"], atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "single_date"),
    [
        ("index2", 2),
        ("index2", "2"),
        ("date", "2019-05-01"),
        ("date", "05-01-2019"),
        ("date", date(2019, 5, 1)),
        ("date_before_all", "2018-08-15"),
        ("date_after_all", "2020-01-01"),
    ],
)
def test_published_single_dates(published, name, single_date):
    folder, golden = published
    dataset = PastisDataset(folder, target="semantic", single_date=single_date)
    samples = [dataset[index] for index in range(5)]
    assert [sample.days_T.tolist() for sample in samples] == [
        [golden[f"mono_{name}_{i}_date"]] for i in range(5)
    ]
    np.testing.assert_allclose(
        normalised(samples[1], folder), golden[f"mono_{name}_1_x"], atol=1e-5
    )
    if name == "date":
        days_B1 = collate([samples[i] for i in (0, 2, 3)]).days_BT
        assert (
            days_B1.tolist() == golden["collate_mono_dates"][:, None].tolist()
        )  # published: B, not B x 1


def test_published_reference_date(published):
    folder, golden = published
    dataset = PastisDataset(folder, target=None, reference_date=date(2019, 1, 1))
    np.testing.assert_array_equal(dataset[0].days_T, golden["reference_2019_dates_0"])


def test_published_text_dates(published, tmp_path):
    folder, _ = published
    shutil.copy(folder.parent / "metadata_text_dates.geojson", tmp_path / "metadata.geojson")
    assert [patch.dates for patch in read_metadata(tmp_path)] == [
        patch.dates for patch in read_metadata(folder)
    ]


@pytest.mark.parametrize("target", ["semantic", "panoptic"])
def test_published_batches(published, target):
    folder, golden = published
    dataset = PastisDataset(folder, target=target)
    batch = collate([dataset[index] for index in (0, 2, 3)])
    name = {"semantic": "semantic", "panoptic": "instance"}[target]
    x = fold_normalisation(folder, (1, 2, 3, 4, 5))(batch.images_BTCHW, batch.valid_BT)
    np.testing.assert_array_equal(batch.days_BT, golden[f"collate_{name}_dates"])
    np.testing.assert_allclose(x[..., ::4, ::4], golden[f"collate_{name}_x_every_4"], atol=1e-5)
    assert list(x.shape) == json.loads(str(golden[f"collate_{name}_shapes"]))[0]
    total = batch.classes_BHW.double().sum()
    if target == "panoptic":
        total += sum(values.double().sum() for values in vars(batch.centres).values())
    assert total == pytest.approx(golden[f"collate_{name}_y_sum"].item(), rel=1e-6)


def test_published_normalisation_values(published):
    folder, golden = published
    table = compute_normalisation(folder)
    assert list(table) == [f"Fold_{fold}" for fold in range(1, 6)]
    for key in ("mean", "std"):
        computed = [table[f"Fold_{fold}"][key] for fold in range(1, 6)]
        np.testing.assert_allclose(computed, golden[f"compute_norm_vals_{key}"], rtol=1e-6)
    json.dumps(table, allow_nan=False)


# Options


def test_official_rotation():
    assert FOLDS[1] == ((1, 2, 3), (4,), (5,))
    for train, validate, test in FOLDS.values():
        assert sorted((*train, *validate, *test)) == [1, 2, 3, 4, 5]
    for part in range(3):
        assert sorted(fold for rotation in FOLDS.values() for fold in rotation[part]) == sorted(
            [1, 2, 3, 4, 5] * (3, 1, 1)[part]
        )


def test_targets(small):
    ids_HW, classes_HW = parcels()
    bare, semantic, panoptic = (
        PastisDataset(small, target=target)[0] for target in (None, "semantic", "panoptic")
    )
    assert bare.classes_HW is bare.instances_HW is bare.centres is None
    assert semantic.classes_HW.dtype == torch.int64
    np.testing.assert_array_equal(semantic.classes_HW, classes_HW)
    assert semantic.instances_HW is semantic.centres is None
    np.testing.assert_array_equal(
        panoptic.instances_HW, np.select([ids_HW == 7, ids_HW == 10, ids_HW == 13], [1, 2, 3])
    )
    assert panoptic.centres is not None


def test_items_ascend_and_have_their_dates(small):
    dataset = PastisDataset(small, (2, 1), target=None)
    assert dataset.ids == (10, 11)
    assert dataset.folds == (2, 1)
    assert dataset.dates(0) == (date(2018, 10, 1), date(2019, 1, 5), date(2019, 4, 20))
    assert dataset.metadata[1].geometry == {"type": "Point", "coordinates": [11, 0]}
    assert [sample.name for sample in dataset] == ["10", "11"]
    assert dataset[-1].name == "11"


def test_unsorted_and_repeated_dates(published, tmp_path):
    """Images go with their dates, and repeated dates stay; far dates are dates like others."""
    days = (20190420, 20181001, 20190105, 20181001, 20301231)
    folder = write_small_pastis(tmp_path / "unsorted", {5: days})
    stored = np.load(folder / "DATA_S2" / "S2_5.npy")
    sample = PastisDataset(folder, target=None)[0]
    assert sample.days_T.tolist() == [30, 30, 126, 231, 4504]
    np.testing.assert_array_equal(sample.images_TCHW, stored[[1, 3, 2, 0, 4]])
    _, golden = published
    assert (
        len(golden["dates_repeated_0"]) < golden["dates_repeated_T"]
    )  # the published loader loses the repeated one


def test_single_date_counts_in_order_of_dates(tmp_path):
    folder = write_small_pastis(tmp_path / "unsorted", {5: (20190420, 20181001, 20190105)})
    stored = np.load(folder / "DATA_S2" / "S2_5.npy")
    for position, on_disk in ((0, 1), (2, 0), (-1, 0), ("-2", 2)):
        sample = PastisDataset(folder, target=None, single_date=position)[0]
        np.testing.assert_array_equal(sample.images_TCHW, stored[[on_disk]])
    nearest = PastisDataset(folder, target=None, single_date="2019-04-01")[0]
    np.testing.assert_array_equal(nearest.images_TCHW, stored[[0]])


def test_single_date_that_is_none(small):
    with pytest.raises(DatasetError, match="Patch 11 has 2 dates and none at position 2"):
        PastisDataset(small, target=None, single_date=2)[1]
    for wrong in ("tomorrow", "2019-13-01", "2.5", ""):
        with pytest.raises(ConfigError, match="single date"):
            PastisDataset(small, target=None, single_date=wrong)


def test_dates_in_words():
    for text in (20190801, "20190801", "2019-08-01", "2019-8-1", "08-01-2019"):
        assert parse_date(text) == date(2019, 8, 1)


def test_class_mapping_without_a_class(small):
    with pytest.raises(ConfigError, match=r"class_mapping has no new class for class 19 \(void\)"):
        PastisDataset(small, target="semantic", class_mapping={0: 0, 1: 1, 3: 1})[0]
    for wrong in ({0: -1}, {0: 1.5}, {"a": 1}):
        with pytest.raises(ConfigError, match="class_mapping"):
            PastisDataset(small, target="semantic", class_mapping=wrong)


def test_class_table(small):
    few = type(PASTIS)("few", PASTIS.classes[:4])
    with pytest.raises(DatasetError, match="holds class 19, which is none of few"):
        PastisDataset(small, target="semantic", classes=few)[0]


def test_augmentation_is_applied_and_repeats(small):
    config = AugmentationConfig(crop=8, flips=True, max_dates=2)
    dataset = PastisDataset(small, target="panoptic", augmentation=config)
    samples = []
    for seed in (1, 1):
        torch.manual_seed(seed)
        samples.append([dataset[0] for _ in range(6)])
    (sample, *later), again = samples
    assert sample.images_TCHW.shape == (2, 10, 8, 8)
    assert sample.centres.heatmap_HW.shape == (8, 8)
    for one, other in zip([sample, *later], again, strict=True):
        assert torch.equal(one.images_TCHW, other.images_TCHW)
    assert any(not torch.equal(sample.images_TCHW, other.images_TCHW) for other in later)
    drawn, repeated = (dataset.draw(0, np.random.default_rng(3)).in_order() for _ in range(2))
    assert torch.equal(drawn.images_TCHW, repeated.images_TCHW)


def test_images_are_read_when_they_are_used(damaged):
    path = damaged / "DATA_S2" / "S2_10.npy"
    sample = PastisDataset(damaged, target=None)[0]
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write((123).to_bytes(2, "little"))
    assert sample.images_TCHW[-1, -1, -1, -1] == 123


def test_files_are_never_changed(small):
    path = small / "DATA_S2" / "S2_10.npy"
    before = path.read_bytes()
    PastisDataset(small, target=None)[0].images_TCHW.zero_()
    assert path.read_bytes() == before


def test_normalisation_policies(damaged):
    write = {f"Fold_{f}": {"mean": [float(f)] * 10, "std": [10.0 * f] * 10} for f in range(1, 6)}
    (damaged / "NORM_S2_patch.json").write_text(json.dumps(write))
    train, validate, test = PASTIS_LAYOUT.normalisations(damaged, 3, "train")
    assert train == validate == test
    assert train.mean[0] == pytest.approx(4)
    train, validate, test = PASTIS_LAYOUT.normalisations(damaged, 3, "published")
    assert [entry.mean[0] for entry in (train, validate, test)] == pytest.approx([4, 1, 2])
    assert test.std[9] == pytest.approx(20)
    with pytest.raises(ConfigError, match="--fold must be a number from 1 to 5, or all, not 6"):
        PASTIS_LAYOUT.normalisations(damaged, 6, "train")


# Damage: one line each


def replace_array(folder: Path, name: str, change) -> None:
    path = folder / name
    np.save(path, change(np.load(path)))


def remove_entry(folder: Path, key: str) -> None:
    path = folder / "metadata.geojson"
    collection = json.loads(path.read_text())
    del collection["features"][0]["properties"][key]
    path.write_text(json.dumps(collection))


DAMAGE = {
    "no metadata": (
        lambda folder: (folder / "metadata.geojson").unlink(),
        "metadata.geojson does not exist",
    ),
    "no JSON": (
        lambda folder: (folder / "metadata.geojson").write_text("{"),
        "metadata.geojson is not JSON",
    ),
    "no features": (
        lambda folder: (folder / "metadata.geojson").write_text("[]"),
        "has no list of features",
    ),
    "no dates": (lambda folder: remove_entry(folder, "dates-S2"), "Feature 0 of .* is damaged"),
    "no fold": (lambda folder: remove_entry(folder, "Fold"), "Feature 0 of .* is damaged"),
    "no images": (
        lambda folder: (folder / "DATA_S2" / "S2_10.npy").unlink(),
        "DATA_S2 lacks S2_10.npy",
    ),
    "no image folder": (
        lambda folder: shutil.rmtree(folder / "DATA_S2"),
        "DATA_S2 lacks S2_10.npy and 2 more",
    ),
    "no classes": (
        lambda folder: (folder / "ANNOTATIONS" / "TARGET_12.npy").unlink(),
        "ANNOTATIONS lacks TARGET_12.npy",
    ),
    "no parcels": (
        lambda folder: (folder / "ANNOTATIONS" / "ParcelIDs_12.npy").unlink(),
        "ANNOTATIONS lacks ParcelIDs_12.npy,",
    ),
    "a folder": (
        lambda folder: (
            (folder / "ANNOTATIONS" / "ParcelIDs_10.npy").unlink(),
            (folder / "ANNOTATIONS" / "ParcelIDs_10.npy").mkdir(),
        ),
        "ParcelIDs_10.npy cannot be read .Is a directory",
    ),
    "date missing": (
        lambda folder: replace_array(folder, "DATA_S2/S2_10.npy", lambda a: a[:2]),
        "has 2 images, but metadata.geojson lists 3",
    ),
    "no date": (
        lambda folder: replace_array(folder, "DATA_S2/S2_10.npy", lambda a: a[:0]),
        "is 0 x 10 x 16 x 16",
    ),
    "bands": (
        lambda folder: replace_array(folder, "DATA_S2/S2_10.npy", lambda a: a[:, :9]),
        "is 3 x 9 x 16 x 16 instead of T x 10",
    ),
    "kind": (
        lambda folder: replace_array(folder, "DATA_S2/S2_10.npy", lambda a: a / 1e4),
        "float64, but the array must have 4 dimensions of int16",
    ),
    "dimensions": (
        lambda folder: replace_array(folder, "DATA_S2/S2_10.npy", lambda a: a[0]),
        "10 x 16 x 16 int16, but the array must have 4 dim",
    ),
    "pickled": (
        lambda folder: replace_array(folder, "DATA_S2/S2_10.npy", lambda a: a.astype(object)),
        "pickled objects, but the array must have 4 dimensions of int16",
    ),
    "sizes": (
        lambda folder: replace_array(folder, "ANNOTATIONS/TARGET_10.npy", lambda a: a[:, 1:]),
        "covers 15 x 16 pixels",
    ),
    "no layer": (
        lambda folder: replace_array(folder, "ANNOTATIONS/TARGET_10.npy", lambda a: a[:0]),
        "covers no pixels",
    ),
    "parcel sizes": (
        lambda folder: replace_array(folder, "ANNOTATIONS/ParcelIDs_10.npy", lambda a: a[1:]),
        "covers 15 x 16",
    ),
    "class": (
        lambda folder: replace_array(folder, "ANNOTATIONS/TARGET_10.npy", lambda a: a + 1),
        "holds class 20, which is none of PASTIS",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_said_in_one_line(damaged, name):
    damage, message = DAMAGE[name]
    damage(damaged)
    with pytest.raises(DatasetError, match=message) as caught:
        PastisDataset(damaged, target="panoptic")[0]
    assert "\n" not in str(caught.value)


def with_annotations(folder: Path) -> Path:
    """Instance annotations of patch 10 in addition to the small dataset."""
    sample = PastisDataset(folder, target="panoptic")[0]
    (folder / "INSTANCE_ANNOTATIONS").mkdir()
    for kind, values in (
        ("INSTANCES", sample.instances_HW.long()),
        ("HEATMAP", sample.centres.heatmap_HW.double()),
        ("ZONES", sample.centres.zone_HW.long()),
    ):
        np.save(folder / "INSTANCE_ANNOTATIONS" / f"{kind}_10.npy", values.numpy())
    return folder


def test_annotations_on_disk_are_used(damaged):
    with_annotations(damaged)
    replace_array(damaged, "INSTANCE_ANNOTATIONS/HEATMAP_10.npy", lambda a: a * 0.5)
    replace_array(
        damaged, "INSTANCE_ANNOTATIONS/INSTANCES_10.npy", lambda a: np.where(a == 3, 0, a)
    )
    replace_array(damaged, "INSTANCE_ANNOTATIONS/ZONES_10.npy", lambda a: np.where(a == 3, 2, a))
    sample = PastisDataset(damaged, target="panoptic")[0]
    assert sample.centres.heatmap_HW.max() == 0.5
    assert sample.instances_HW.unique().tolist() == [0, 1, 2]
    moved = PastisDataset(damaged, target="panoptic", augmentation=AugmentationConfig(crop=16))[0]
    assert moved.centres.heatmap_HW.max() == 1


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("INSTANCES", lambda a: a - 1, "holds numbers from -1 to 2"),
        ("INSTANCES", lambda a: a * 2**40, "holds numbers from 0 to 3298534883328"),
        ("HEATMAP", lambda a: a + 1, "holds values outside 0..1"),
        ("HEATMAP", lambda a: a * np.nan, "holds values outside 0..1"),
        ("HEATMAP", lambda a: a[:3], "covers 3 x 16 pixels"),
        ("HEATMAP", lambda a: a.astype(int), "must have 2 dimensions of floating-point"),
        ("ZONES", lambda a: a + 1, "zone 4 has no parcel"),
    ],
)
def test_damaged_annotations(damaged, kind, change, message):
    with_annotations(damaged)
    replace_array(damaged, f"INSTANCE_ANNOTATIONS/{kind}_10.npy", change)
    with pytest.raises(DatasetError, match=message):
        PastisDataset(damaged, target="panoptic")[0]


def test_folds_that_do_not_exist(small):
    with pytest.raises(DatasetError, match="no fold 6; choose folds from 1 to 5"):
        PastisDataset(small, (1, 6), target=None)
    with pytest.raises(DatasetError, match=r"has no patch of folds \(4,\)"):
        PastisDataset(small, (4,), target=None)
    with pytest.raises(ConfigError, match=r"target must be .* not 'classes'"):
        PastisDataset(small, target="classes")


@pytest.mark.parametrize(
    "table",
    [
        {"Fold_1": {"mean": [1.0] * 10, "std": [1.0] * 10}},
        {"Fold_2": {"mean": [1.0] * 9, "std": [1.0] * 9}},
        {"Fold_2": {"mean": [1.0] * 10, "std": [0.0] * 10}},
        {"Fold_2": {"mean": [1.0] * 10, "std": [float("nan")] * 10}},
        {"Fold_2": {"mean": ["x"] * 10, "std": [1.0] * 10}},
        {"Fold_2": []},
        [],
        None,
    ],
)
def test_damaged_normalisation(tmp_path, table):
    (tmp_path / "NORM_S2_patch.json").write_text(json.dumps(table))
    with pytest.raises(DatasetError, match="lacks mean and std with 10 values for Fold_2"):
        fold_normalisation(tmp_path, (2,))


def test_missing_normalisation(tmp_path):
    with pytest.raises(DatasetError, match=r"NORM_S2_patch.json does not exist"):
        fold_normalisation(tmp_path, (2,))


def test_duplicate_patch(damaged):
    path = damaged / "metadata.geojson"
    collection = json.loads(path.read_text())
    collection["features"].append(collection["features"][0])
    path.write_text(json.dumps(collection))
    with pytest.raises(DatasetError, match="lists patch 12 twice"):
        read_metadata(damaged)


# Fuzz


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_arrays(tmp_path, data):
    """With any change of a file's bytes, it gives an array of the right form or one line."""
    path = tmp_path / "array.npy"
    np.save(path, np.arange(24, dtype=np.int16).reshape(2, 3, 2, 2))
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, 127), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    with suppress(DatasetError):
        array = map_array(path, dimensions=4, dtype="int16")
        assert array.dtype == np.int16
        assert sorted(array.ravel().tolist()) == list(range(24))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i2', 'fortran_order': False, 'shape': (99999999999, 99999999999, 2, 2), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (-2, -3, 2, 2), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3, 2, 2), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (True, 3, 2, 2), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (2L, 3L, 2L, 2L), }",
        "{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (2, 3, 2, 2), }",
        "__import__('os').abort()",
        "(" * 5000,
        "\x00",
    ],
)
def test_hostile_headers(tmp_path, header):
    path = tmp_path / "array.npy"
    text = header.encode().ljust(9000)
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(48))
    if "2L" in header:  # written by Python 2: right, and no warning
        assert map_array(path, dimensions=4, dtype="int16").shape == (2, 3, 2, 2)
        return
    with pytest.raises(DatasetError) as caught:
        map_array(path, dimensions=4, dtype="int16")
    assert "\n" not in str(caught.value)


def test_arrays_in_fortran_order(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.save(tmp_path / "array.npy", np.asfortranarray(array))
    np.testing.assert_array_equal(map_array(tmp_path / "array.npy", dimensions=3), array)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([20190801, "20190801", 3]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "1", "ID_PATCH", "Fold"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    properties=st.fixed_dictionaries({"ID_PATCH": JSON, "Fold": JSON, "dates-S2": JSON}),
    feature=JSON,
    norm=JSON,
)
def test_metadata_of_any_form(tmp_path, properties, feature, norm):
    for content in ({"features": [feature]}, {"features": [{"properties": properties}]}, feature):
        (tmp_path / "metadata.geojson").write_text(json.dumps(content))
        with suppress(DatasetError):
            for patch in read_metadata(tmp_path):
                assert type(patch.id) is int
                assert 1 <= patch.fold <= 5
                assert all(type(day) is date for day in patch.dates)
    (tmp_path / "NORM_S2_patch.json").write_text(
        json.dumps({"Fold_1": {"mean": norm, "std": [1.0] * 10}})
    )
    with suppress(DatasetError):
        assert len(fold_normalisation(tmp_path, (1,)).mean) == 10


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_metadata(small, tmp_path, data):
    content = bytearray((small / "metadata.geojson").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    (tmp_path / "metadata.geojson").write_bytes(
        content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    )
    with suppress(DatasetError):
        assert len(read_metadata(tmp_path)) == len(DATES)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_labels(small, tmp_path, data):
    """Any damage to any array of a patch gives a sample of the right form, or one line."""
    folder = tmp_path / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    with_annotations(Path(shutil.copytree(small, folder)))
    path = data.draw(st.sampled_from(sorted(folder.glob("*/*_10.npy"))))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 127) | st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(content)
    with suppress(DatasetError):
        sample = PastisDataset(folder, target="panoptic")[0]
        assert sample.images_TCHW.shape == (3, 10, 16, 16)
        assert set(sample.classes_HW.unique().tolist()) <= set(range(20))
        assert sample.instances_HW.min() >= 0
        assert set(sample.centres.zone_HW.unique().tolist()) <= set(
            sample.instances_HW.unique().tolist()
        )
        assert 0 <= sample.centres.heatmap_HW.min() <= sample.centres.heatmap_HW.max() <= 1


# Tables of patches that other programs wrote


@pytest.mark.parametrize(
    "change",
    [
        {"dates-S2": json.dumps({"0": 20181001, "1": 20190105, "2": 20190420})},
        {"dates-S2": "[20181001, 20190105, 20190420]"},
        {"dates-S2": ["2018-10-01T00:00:00", "2019-01-05 10:30", 20190420.0]},
        {"ID_PATCH": "10"},
        {"ID_PATCH": 10.0, "Fold": 1.0},
    ],
)
def test_a_table_that_another_program_wrote_is_read(damaged, change):
    patches = edited(damaged, change)
    assert [(patch.id, type(patch.id)) for patch in patches] == [(id_, int) for id_ in DATES]
    assert [patch.fold for patch in patches] == [1, 2, 3]
    assert [patch.dates for patch in patches] == [
        tuple(parse_date(day) for day in days) for days in DATES.values()
    ]


def edited(folder: Path, change: dict) -> list:
    """Read a table whose patch 10 has other values."""
    path = folder / "metadata.geojson"
    collection = json.loads(path.read_text())
    for feature in collection["features"]:
        if feature["properties"]["ID_PATCH"] == 10:
            feature["properties"].update(change)
    path.write_text(json.dumps(collection))
    return read_metadata(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Fold": 0}, "Fold is 0, not a whole number 1 .. 5"),
        ({"Fold": "1"}, 'Fold is "1", not'),
        ({"Fold": None}, "Fold is null, not"),
        ({"Fold": 1.5}, "Fold is 1.5, not"),
        ({"ID_PATCH": "ten"}, 'ID_PATCH is "ten", not'),
        ({"dates-S2": "2018"}, 'dates-S2 is "2018", not a list'),
        ({"dates-S2": "{"}, 'dates-S2 is "{", which is no JSON'),
        ({"dates-S2": {"1": 20181001}}, "1 dates but no number 0"),
        ({"dates-S2": [20181001, "May"]}, 'date 1 of dates-S2 is "May"'),
        ({"dates-S2": [20189901]}, "date 0 of dates-S2 is 20189901"),
    ],
)
def test_a_wrong_value_of_a_table_is_shown_with_its_key(damaged, change, said):
    with pytest.raises(DatasetError) as error:
        edited(damaged, change)
    assert said in str(error.value)
    assert "Feature 2 of" in str(error.value)


def test_missing_statistics_are_made_by_the_command_that_is_named(damaged, capsys):
    path = damaged / "NORM_S2_patch.json"
    path.unlink()
    with pytest.raises(DatasetError, match=f"panoseg describe {damaged} --normalisation"):
        fold_normalisation(damaged, (1,))
    assert main(["describe", str(damaged), "--normalisation"]) == 0
    assert f"{path} is written" in capsys.readouterr().out
    expected = compute_normalisation(damaged)["Fold_1"]
    assert fold_normalisation(damaged, (1,)).mean == tuple(expected["mean"])
    assert main(["describe", str(damaged), "--normalisation"]) == 2
    assert "exists; remove it first" in capsys.readouterr().err
