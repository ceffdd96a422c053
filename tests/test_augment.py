"""Augmentation: each option does what it says, and labels follow their pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseg.data import AugmentationConfig
from panoseg.data.augment import Movement, augment, draw_movement, kept_dates
from panoseg.data.samples import Sample, centre_targets, collate
from panoseg.errors import ConfigError

DATES, SIZE = 6, 12


def traceable(size: tuple[int, int] = (SIZE, SIZE), kind: type = np.int16) -> Sample:
    """A sample whose value tells date (thousands), band (bands 0 and 1) and pixel; classes and
    parcels follow the pixel.
    """
    pixel_HW = np.arange(size[0] * size[1]).reshape(size)
    images_TCHW = (
        1000 * np.arange(DATES)[:, None, None, None] + pixel_HW + np.array([0, 200])[:, None, None]
    ).astype(kind)
    instances_HW = ((pixel_HW // size[1]) // 4 * 3 + (pixel_HW % size[1]) // 4).astype(np.int32)
    classes_HW = (instances_HW * 2).astype(np.int64)
    instances, classes = torch.from_numpy(instances_HW), torch.from_numpy(classes_HW)
    days_T = torch.tensor([3, 10, 10, 40, 90, 91])
    return Sample(
        torch.from_numpy(images_TCHW),
        days_T,
        "a",
        classes,
        instances,
        centre_targets(instances, classes),
    )


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_labels_follow(sample: Sample, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    """Classes, parcels and centre targets belong to the pixels that the images show."""
    original = traceable(size)
    pixel_HW = sample.images_TCHW[0, 0].long() % 1000
    assert torch.equal(sample.classes_HW, original.classes_HW.flatten()[pixel_HW])
    assert torch.equal(sample.instances_HW, original.instances_HW.flatten()[pixel_HW])
    expected = centre_targets(sample.instances_HW, sample.classes_HW)
    for name, values in vars(expected).items():
        assert torch.equal(values, getattr(sample.centres, name)), name


def assert_same_labels(first: Sample, second: Sample) -> None:
    assert torch.equal(first.classes_HW, second.classes_HW)
    assert torch.equal(first.instances_HW, second.instances_HW)
    for name, values in vars(first.centres).items():
        assert torch.equal(values, getattr(second.centres, name)), name


def test_off_by_default():
    sample = traceable()
    augmented = augment(sample, AugmentationConfig(), generator())
    assert augmented.images_TCHW.data_ptr() == sample.images_TCHW.data_ptr()
    assert torch.equal(augmented.days_T, sample.days_T)
    assert augmented.centres is sample.centres


def test_crop():
    windows = set()
    for seed in range(20):
        augmented = augment(traceable(), AugmentationConfig(crop=5), generator(seed))
        assert augmented.images_TCHW.shape == (DATES, 2, 5, 5)
        corner = int(augmented.images_TCHW[0, 0, 0, 0])
        row, column = divmod(corner, SIZE)
        assert torch.equal(
            augmented.images_TCHW, traceable().images_TCHW[:, :, row : row + 5, column : column + 5]
        )
        assert_labels_follow(augmented)
        windows.add((row, column))
    assert len(windows) > 10


def test_crop_of_the_whole_patch_and_beyond():
    assert torch.equal(
        augment(traceable(), AugmentationConfig(crop=SIZE), generator()).images_TCHW,
        traceable().images_TCHW,
    )
    with pytest.raises(ConfigError, match="crop of 13 pixels exceeds the patch, which has 12 x 12"):
        augment(traceable(), AugmentationConfig(crop=13), generator())


def orientations(
    config: AugmentationConfig, size: tuple[int, int] = (SIZE, SIZE)
) -> set[tuple[int, ...]]:
    """Which original corner pixels are found in the corners."""
    found = set()
    for seed in range(60):
        augmented = augment(traceable(size), config, generator(seed))
        assert_labels_follow(augmented, size)
        found.add(tuple(augmented.images_TCHW[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist()))
    return found


def test_flips_and_turns():
    assert len(orientations(AugmentationConfig(flips=True))) == 4
    assert len(orientations(AugmentationConfig(turns=True))) == 4
    assert len(orientations(AugmentationConfig(flips=True, turns=True))) == 8


def test_turns_keep_the_shape_of_a_patch_that_is_not_square():
    assert len(orientations(AugmentationConfig(turns=True), (8, 12))) == 2
    assert len(orientations(AugmentationConfig(turns=True, crop=8), (8, 12))) > 4


@settings(max_examples=30, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(0, 3))
def test_movements_have_inverses(rows, columns, turns):
    pixels = np.arange(2 * 5 * 7).reshape(2, 5, 7)
    everything = (slice(None), slice(None))
    mirror = Movement(*everything, (rows, columns), 0)
    assert (mirror.apply(mirror.apply(pixels)) == pixels).all()
    there, back = (
        Movement(*everything, (rows, columns), turns),
        Movement(*everything, (False, False), -turns % 4),
    )
    assert (mirror.apply(back.apply(there.apply(pixels))) == pixels).all()


def test_number_of_dates():
    def counts(**options) -> set[int]:
        config = AugmentationConfig(**options)
        return {len(augment(traceable(), config, generator(seed)).days_T) for seed in range(40)}

    assert counts(min_dates=2, max_dates=4) == {2, 3, 4}
    assert counts(min_dates=4) == {4, 5, 6}
    assert counts(max_dates=3) == {3}
    assert counts(min_dates=9, max_dates=20) == {6}


def test_images_keep_their_dates():
    chosen = set()
    for seed in range(20):
        augmented = augment(traceable(), AugmentationConfig(max_dates=3), generator(seed))
        position_T = augmented.images_TCHW[:, 0, 0, 0] // 1000
        assert torch.equal(traceable().days_T[position_T.long()], augmented.days_T)
        assert (position_T.diff() > 0).all()
        chosen.add(tuple(position_T.tolist()))
    assert len(chosen) > 5


def test_date_dropout():
    """Each date is left out with the probability, by itself, together with its image; one stays
    where all would go.
    """
    kept = np.zeros((400, DATES), bool)
    for seed in range(len(kept)):
        augmented = augment(traceable(), AugmentationConfig(date_dropout=0.3), generator(seed))
        position_T = (augmented.images_TCHW[:, 0, 0, 0] // 1000).long()
        assert torch.equal(traceable().days_T[position_T], augmented.days_T)
        assert (position_T.diff() > 0).all()
        kept[seed, position_T] = True
    assert np.abs(kept.mean(axis=0) - 0.7).max() < 0.08
    assert np.abs(np.corrcoef(kept.T) - np.eye(DATES)).max() < 0.2
    lonely = {
        len(augment(traceable(), AugmentationConfig(date_dropout=0.999), generator(seed)).days_T)
        for seed in range(20)
    }
    assert lonely == {1}


def test_date_dropout_as_published(golden):
    """With the chances that torch draws from seed 3, the dates that Crop2Seg's dataset keeps."""
    cases = np.load(golden / "crop2seg" / "dataset.npz")
    chance_T = torch.rand(7, generator=torch.Generator().manual_seed(3)).numpy()
    kept = cases["relative0_dates"][kept_dates(chance_T, 0.4)]
    assert kept.tolist() == cases["temporal_dropout_seed3_dates"].tolist()


def test_days_move_and_stay_in_order():
    shuffled = 0
    for seed in range(20):
        augmented = augment(traceable(), AugmentationConfig(day_jitter=30), generator(seed))
        assert (augmented.days_T.diff() >= 0).all()
        position_T = (augmented.images_TCHW[:, 0, 0, 0] // 1000).long()
        moved_T = augmented.days_T - traceable().days_T[position_T]
        assert moved_T.abs().max() <= 30
        assert len(moved_T.unique()) > 1
        shuffled += bool((position_T.diff() < 0).any())
    assert shuffled


def test_season_shift_moves_all_days_alike():
    shifts = set()
    for seed in range(20):
        augmented = augment(traceable(), AugmentationConfig(season_shift=10), generator(seed))
        (shift,) = (augmented.days_T - traceable().days_T).unique().tolist()
        shifts.add(shift)
    assert len(shifts) > 5
    assert max(map(abs, shifts)) <= 10


def flat(value: float, kind: type) -> Sample:
    return Sample(
        torch.from_numpy(np.full((40, 10, 8, 8), value, dtype=kind)), torch.arange(40), "a"
    )


@pytest.mark.parametrize(
    ("option", "varies_over"),
    [
        ("band_gain", (False, True, False)),
        ("band_offset", (False, True, False)),
        ("date_gain", (True, False, False)),
    ],
)
def test_gains_and_offsets(option, varies_over):
    """Each changes what it names, and nothing along the other axes."""
    amount = 30.0 if option == "band_offset" else 0.1
    images = augment(
        flat(1000.0, np.float32), AugmentationConfig(**{option: amount}), generator()
    ).images_TCHW
    for axes, varies in zip(((0,), (1,), (2, 3)), varies_over, strict=True):
        assert bool(images.std(axes).max() > 1e-2) == varies, axes
    change = torch.log(images / 1000) if "gain" in option else images - 1000
    assert 0.5 * amount < change.std() < 1.7 * amount
    twice = augment(
        flat(2000.0, np.float32), AugmentationConfig(**{option: amount}), generator()
    ).images_TCHW
    expected = 2 * images if "gain" in option else images + 1000
    np.testing.assert_allclose(twice, expected, rtol=1e-5, atol=1e-3)


def test_noise():
    images = augment(
        flat(1000.0, np.float32), AugmentationConfig(noise=20), generator()
    ).images_TCHW
    assert (images - 1000).mean().abs() < 1
    assert (images - 1000).std() == pytest.approx(20, rel=0.05)
    assert len(images.unique()) > images.numel() / 2


def test_whole_numbers_are_rounded_and_bounded():
    config = AugmentationConfig(noise=3000)
    images = augment(flat(32000, np.int16), config, generator()).images_TCHW
    exact = augment(flat(32000, np.float32), config, generator()).images_TCHW
    assert images.dtype == torch.int16
    assert torch.equal(images.float(), exact.round().clamp(-32768, 32767))
    assert images.max() == 32767


EVERYTHING = AugmentationConfig(
    crop=6,
    flips=True,
    turns=True,
    min_dates=2,
    max_dates=5,
    date_dropout=0.2,
    day_jitter=3,
    season_shift=20,
    band_gain=0.1,
    noise=5,
)


def test_same_generator_same_sample():
    one, same, other = (augment(traceable(), EVERYTHING, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.images_TCHW, same.images_TCHW)
    assert torch.equal(one.days_T, same.days_T)
    assert one.images_TCHW.shape != other.images_TCHW.shape or not torch.equal(
        one.images_TCHW, other.images_TCHW
    )


SEEDS = st.integers(0, 2**32)
COMBINATIONS = st.builds(
    AugmentationConfig,
    crop=st.integers(0, SIZE),
    flips=st.booleans(),
    turns=st.booleans(),
    min_dates=st.integers(0, 3),
    max_dates=st.sampled_from([0, 3, 5, 9]),
    date_dropout=st.sampled_from([0.0, 0.3, 0.95]),
    day_jitter=st.sampled_from([0, 2, 40]),
    season_shift=st.sampled_from([0, 25]),
)
"""Every combination of what moves pixels and dates, and leaves values as they are."""


@settings(max_examples=60, deadline=None)
@given(SEEDS, COMBINATIONS)
def test_pixels_labels_and_centre_targets_move_together(seed, config):
    sample = traceable()
    augmented = augment(sample, config, generator(seed))
    assert_labels_follow(augmented)
    assert (
        augmented.classes_HW.shape == augmented.images_TCHW.shape[2:] == (config.crop or SIZE,) * 2
    )
    pixel_TCHW = augmented.images_TCHW % 1000 - torch.tensor([0, 200])[:, None, None]
    assert (pixel_TCHW == pixel_TCHW[0, 0]).all()  # the same movement for all dates and bands
    assert len(pixel_TCHW[0, 0].unique()) == pixel_TCHW[0, 0].numel()
    assert augmented.images_TCHW.is_contiguous() or not (
        config.changes_geometry or config.changes_dates
    )


@settings(max_examples=60, deadline=None)
@given(SEEDS, COMBINATIONS)
def test_dates_move_with_their_images(seed, config):
    augmented = augment(traceable(), config, generator(seed))
    date_TCHW = augmented.images_TCHW // 1000
    position_T = date_TCHW[:, 0, 0, 0].long()
    assert (date_TCHW == date_TCHW[:, :1, :1, :1]).all()
    assert len(position_T.unique()) == len(position_T) >= 1
    assert (augmented.days_T.diff() >= 0).all()
    moved_T = augmented.days_T - traceable().days_T[position_T]
    assert moved_T.abs().max() <= config.day_jitter + config.season_shift
    assert moved_T.max() - moved_T.min() <= 2 * config.day_jitter
    assert len(position_T) <= (config.max_dates or DATES)
    assert config.date_dropout or len(position_T) >= min(
        config.min_dates or config.max_dates or DATES, DATES
    )


@settings(max_examples=30, deadline=None)
@given(SEEDS, COMBINATIONS, st.sampled_from(["band_gain", "band_offset", "date_gain", "noise"]))
def test_radiometric_changes_change_nothing_else(seed, config, option):
    amount = 0.1 if "gain" in option else 30.0
    plain, changed = (
        augment(traceable(), chosen, generator(seed))
        for chosen in (config, replace(config, **{option: amount}))
    )
    assert not torch.equal(changed.images_TCHW, plain.images_TCHW)
    assert changed.images_TCHW.shape == plain.images_TCHW.shape
    assert changed.images_TCHW.dtype == plain.images_TCHW.dtype
    assert torch.equal(changed.days_T, plain.days_T)
    assert_same_labels(changed, plain)


@settings(max_examples=20, deadline=None)
@given(SEEDS, COMBINATIONS)
def test_the_sample_itself_is_not_changed(seed, config):
    sample = traceable()
    augmented = augment(sample, replace(config, band_gain=0.1, noise=5.0), generator(seed))
    assert torch.equal(sample.images_TCHW, traceable().images_TCHW)
    assert torch.equal(sample.days_T, traceable().days_T)
    assert_same_labels(sample, traceable())
    assert augmented.name == sample.name


@settings(max_examples=20, deadline=None)
@given(SEEDS, COMBINATIONS)
def test_a_batch_says_which_dates_are_left(seed, config):
    """The mask of a batch of augmented samples counts their dates, and all that it leaves out is
    zero.
    """
    samples = [augment(traceable(), config, generator(seed + number)) for number in range(2)]
    batch = collate(samples)
    assert batch.valid_BT.sum(1).tolist() == [len(sample.days_T) for sample in samples]
    assert (batch.valid_BT.int().diff(dim=1) <= 0).all()
    assert not batch.images_BTCHW[~batch.valid_BT].any()
    assert not batch.days_BT[~batch.valid_BT].any()
    for row, sample in enumerate(samples):
        assert torch.equal(batch.images_BTCHW[row, batch.valid_BT[row]], sample.images_TCHW)
        assert torch.equal(batch.days_BT[row, batch.valid_BT[row]], sample.days_T)


def test_without_labels():
    bare = replace(traceable(), classes_HW=None, instances_HW=None, centres=None)
    augmented = augment(bare, EVERYTHING, generator())
    assert augmented.classes_HW is None
    assert augmented.centres is None
    semantic = augment(replace(bare, classes_HW=traceable().classes_HW), EVERYTHING, generator())
    assert semantic.classes_HW.shape == (6, 6)
    assert semantic.centres is None


def test_only_the_window_is_read(tmp_path):
    """What lies outside the chosen dates and window is not needed: a sparse file far larger than
    memory is augmented.
    """
    path = tmp_path / "images.bin"
    shape = (40, 10, 16000, 16000)
    with path.open("wb") as file:
        file.truncate(int(np.prod(shape, dtype=np.int64)) * 2)
    images = np.memmap(path, np.int16, "r+", 0, shape)
    sample = Sample(torch.from_numpy(images), torch.arange(40), "a")
    augmented = augment(
        sample, AugmentationConfig(crop=8, flips=True, turns=True, max_dates=3), generator()
    )
    assert augmented.images_TCHW.shape == (3, 10, 8, 8)


def test_impossible_options():
    with pytest.raises(ConfigError, match="Augmentation noise must be a number from 0, not -1"):
        AugmentationConfig(noise=-1)
    with pytest.raises(
        ConfigError, match="Augmentation band_gain must be a number from 0, not nan"
    ):
        AugmentationConfig(band_gain=float("nan"))
    with pytest.raises(ConfigError, match="date_dropout must be at least 0 and below 1"):
        AugmentationConfig(date_dropout=1.0)
    with pytest.raises(ConfigError, match="min_dates 5 must not exceed max_dates 3"):
        AugmentationConfig(min_dates=5, max_dates=3)


def test_movement_is_uniform():
    corners = [
        draw_movement((4, 4), AugmentationConfig(crop=2), generator(seed)).rows.start
        for seed in range(300)
    ]
    assert np.bincount(corners, minlength=3).min() > 70
