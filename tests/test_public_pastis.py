"""The public dataset under torch's loader: batches, normalisation, new augmentation each epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from panoseg.data import AugmentationConfig
from panoseg.data.loading import make_loader
from panoseg.data.pastis import FLIPS_AND_TURNS, PASTIS, PastisDataset, fold_normalisation
from panoseg.data.samples import Batch, collate
from panoseg.errors import ConfigError, DatasetError
from small_pastis import write_small_pastis

DAYS = (20181001, 20190105, 20190420, 20190710)
EPOCHS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten patches, two a fold, with one to four dates."""
    dates = {20 + number: DAYS[: number % 4 + 1] for number in range(10)}
    return write_small_pastis(tmp_path_factory.mktemp("public") / "pastis", dates)


@pytest.mark.parametrize(
    ("fold", "split", "ids"),
    [
        (1, "train", (20, 21, 22, 25, 26, 27)),
        (1, "val", (23, 28)),
        (1, "test", (24, 29)),
        (4, "val", (21, 26)),
    ],
)
def test_splits_are_the_official_ones(root, fold, split, ids):
    data = PASTIS(root, fold, split)
    assert data.ids == ids
    assert len(data) == len(ids)
    assert data.classes.name == "PASTIS"
    assert data.dates(0)[0].isoformat() == "2018-10-01"


@pytest.mark.parametrize("options", [{}, {"collate_fn": PASTIS.collate}, {"collate_fn": collate}])
def test_a_plain_loader_gives_batches(root, options):
    batches = list(DataLoader(PASTIS(root), batch_size=4, **options))
    assert [type(batch) for batch in batches] == [Batch, Batch]
    batch = batches[0]
    assert batch.names == ("20", "21", "22", "25")
    assert batch.images_BTCHW.shape == (4, 3, 10, 16, 16)
    assert batch.images_BTCHW.dtype == torch.float32
    assert batch.valid_BT.sum(1).tolist() == [1, 2, 3, 2]
    assert not batch.images_BTCHW[~batch.valid_BT].any()
    assert batch.days_BT[2].tolist() == [30, 126, 231]
    assert batch.classes_BHW.dtype == torch.int64
    assert batch.instances_BHW.dtype == batch.centres.zone_BHW.dtype == torch.int32


def test_images_are_standardised_with_the_training_folds(root):
    raw, data = (PASTIS(root, split="test", normalise=normalise) for normalise in (False, True))
    assert raw[0].images_TCHW.dtype == torch.int16
    # Folds 1, 2, 3 have the means 1000, 2000, 3000 and the deviations 100, 200, 300.
    expected = (raw[0].images_TCHW.numpy().astype(np.float64) - 2000) / 200
    np.testing.assert_allclose(data[0].images_TCHW, expected, atol=1e-5)
    assert data.normalisation == fold_normalisation(root, (1, 2, 3))
    later = next(iter(DataLoader(raw, batch_size=2)))
    now = next(iter(DataLoader(data, batch_size=2)))
    assert torch.equal(raw.normalisation(later.images_BTCHW, later.valid_BT), now.images_BTCHW)


def test_semantic_targets_are_classes_alone(root):
    batch = next(iter(DataLoader(PASTIS(root, target="semantic"), batch_size=2)))
    assert batch.classes_BHW is not None
    assert batch.instances_BHW is batch.centres is None


def test_augmentation_is_chosen(root):
    assert PASTIS(root).patches.augmentation == AugmentationConfig()
    assert PASTIS(root, augment=False).patches.augmentation == AugmentationConfig()
    assert PASTIS(root, augment=True).patches.augmentation == FLIPS_AND_TURNS
    own = AugmentationConfig(crop=8)
    assert PASTIS(root, augment=own)[0].classes_HW.shape == (8, 8)


def epochs(dataset, workers: int, persistent: bool, seed: int) -> list[list[torch.Tensor]]:
    """The images of several epochs of torch's loader."""
    torch.manual_seed(seed)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=workers,
        persistent_workers=persistent,
        collate_fn=collate,
    )
    return [[batch.images_BTCHW.clone() for batch in loader] for _ in range(EPOCHS)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("public", [True, False])
def test_every_epoch_has_new_augmentation(root, workers, persistent, public):
    """Fault: torch's own loader once got the same augmentation in every epoch."""
    config = AugmentationConfig(flips=True, turns=True, noise=20.0)
    if public:
        dataset = PASTIS(root, augment=config)
    else:
        dataset = PastisDataset(root, target="panoptic", augmentation=config)
    first = epochs(dataset, workers, persistent, seed=3)
    assert not any(same(first[0], later) for later in first[1:])
    assert not same(first[1], first[2])
    again, other = (epochs(dataset, workers, persistent, seed) for seed in (3, 4))
    assert all(same(one, two) for one, two in zip(first, again, strict=True))
    assert not same(first[0], other[0])


def test_without_augmentation_no_random_number_is_drawn(root):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(PASTIS(root)[0].images_TCHW, PASTIS(root)[0].images_TCHW)
    assert torch.equal(before, torch.get_rng_state())


def test_our_loader_keeps_its_chance(root):
    """It is a function of (seed, epoch, index) alone, in any state of torch's generator."""
    data = PASTIS(root, augment=True, normalise=False)
    torch.manual_seed(1)
    found = [batch.images_BTCHW for batch in make_loader(data, 1, seed=7, epoch=2)]
    for index, images_BTCHW in enumerate(found):
        drawn = data.draw(index, np.random.default_rng((7, 2, index)))
        assert torch.equal(images_BTCHW[0], drawn.images_TCHW)


def test_mistakes_are_one_sentence(root, tmp_path):
    with pytest.raises(ConfigError, match="split must be train, val or test, not 'validation'"):
        PASTIS(root, split="validation")
    with pytest.raises(ConfigError, match="fold must be a number from 1 to 5, not 0"):
        PASTIS(root, fold=0)
    with pytest.raises(ConfigError, match="target must be semantic, panoptic or None, not 'boxes'"):
        PASTIS(root, target="boxes")
    with pytest.raises(DatasetError, match=r"metadata\.geojson"):
        PASTIS(tmp_path)
