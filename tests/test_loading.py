"""Loaders: the order follows from seed and epoch, for any workers; errors arrive as they
are.
"""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import panoseg.data.loading as loading
from panoseg.data import AugmentationConfig
from panoseg.data.loading import BatchOrder, make_loader
from panoseg.data.pastis import PastisDataset
from panoseg.data.samples import Sample
from panoseg.errors import ConfigError, DatasetError
from small_pastis import write_small_pastis


class Numbers(Dataset):
    """Samples that say what they are, and what was asked for."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count, self.broken, self.read = count, broken, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index == self.broken:
            raise DatasetError(f"Patch {index} is broken.")
        threads = torch.get_num_threads()
        return Sample(
            torch.full((1, 1, 1, 2), index, dtype=torch.int16), torch.tensor([threads]), str(index)
        )


class Chances(Numbers):
    def draw(self, index: int, generator: np.random.Generator) -> Sample:
        value = int(generator.integers(30000))
        return Sample(
            torch.full((1, 1, 1, 2), value, dtype=torch.int16), torch.tensor([0]), str(index)
        )


def names(loader) -> list[tuple[str, ...]]:
    return [batch.names for batch in loader]


def values(loader) -> list[int]:
    return [int(value) for batch in loader for value in batch.images_BTCHW[:, 0, 0, 0, 0]]


def test_ascending_and_complete():
    assert names(make_loader(Numbers(5), 2)) == [("0", "1"), ("2", "3"), ("4",)]
    assert names(make_loader(Numbers(5), 2, drop_last=True)) == [("0", "1"), ("2", "3")]
    assert names(make_loader(Numbers(1), 2)) == [("0",)]


@pytest.mark.parametrize("workers", [0, 2])
def test_order_follows_from_seed_and_epoch(workers):
    def order(**options) -> list[str]:
        return [
            name
            for batch in names(make_loader(Numbers(20), 3, shuffle=True, **options))
            for name in batch
        ]

    first = order(seed=1, epoch=2, workers=workers)
    assert first == order(seed=1, epoch=2)
    assert sorted(map(int, first)) == list(range(20))
    assert first != order(seed=1, epoch=3)
    assert first != order(seed=2, epoch=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_entering_an_epoch_in_its_middle(workers):
    dataset = Chances(11)
    loader = make_loader(dataset, 2, shuffle=True, seed=4, workers=workers)
    loader.enter(3)
    assert len(loader) == 6
    whole_names, whole_values = names(loader), values(loader)
    loader.enter(3, 4)
    assert len(loader) == 2
    assert names(loader) == whole_names[4:]
    assert values(loader) == whole_values[8:]
    fresh = make_loader(dataset, 2, shuffle=True, seed=4, workers=workers, epoch=3, skip=4)
    assert values(fresh) == whole_values[8:]
    loader.enter(3, 6)
    assert names(loader) == []


def test_skipped_batches_are_not_read():
    dataset = Numbers(6)
    names(make_loader(dataset, 2, skip=2))
    assert dataset.read == [4, 5]


def test_chance_follows_from_seed_epoch_and_index():
    def drawn(batch_size: int = 2, **options) -> dict[str, int]:
        loader = make_loader(Chances(9), batch_size, shuffle=True, **options)
        return dict(
            zip([name for batch in names(loader) for name in batch], values(loader), strict=True)
        )

    expected = drawn(seed=1, epoch=1)
    assert expected == drawn(seed=1, epoch=1, workers=2) == drawn(4, seed=1, epoch=1)
    assert expected != drawn(seed=1, epoch=2)
    assert expected != drawn(seed=2, epoch=1)
    assert len(set(expected.values())) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_that_is_left_early(workers):
    loader = make_loader(Numbers(40), 2, workers=workers)
    for _ in range(4):
        for batch in loader:
            assert batch.names == ("0", "1")
            break
    assert values(loader) == list(range(40))


def test_batches_that_are_kept_never_change():
    """There are six slots; all twenty batches are kept, and two epochs run over them."""
    loader = make_loader(Numbers(40), 2, workers=2)
    kept = [*loader, *loader]
    assert [int(value) for batch in kept for value in batch.images_BTCHW[:, 0, 0, 0, 1]] == [
        *range(40),
        *range(40),
    ]


def test_without_slots(monkeypatch):
    monkeypatch.setattr(loading.Slots, "for_workers", lambda *_: None)
    assert values(make_loader(Numbers(9), 2, workers=2)) == list(range(9))


def test_batches_too_large_for_a_slot(monkeypatch):
    monkeypatch.setattr(loading.Slots, "for_workers", lambda *_: loading.Slots(4, 4))
    assert values(make_loader(Numbers(9), 2, workers=2)) == list(range(9))


def test_workers_have_one_thread():
    assert all(batch.days_BT.eq(1).all() for batch in make_loader(Numbers(6), 2, workers=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_arrive_as_they_are(workers):
    loader = make_loader(Numbers(8, broken=4), 2, workers=workers)
    for _ in range(2):
        with pytest.raises(DatasetError) as caught:
            names(loader)
        assert str(caught.value) == "Patch 4 is broken."


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(DatasetError("a  b is\nbroken.")))
    assert (type(error), str(error)) == (DatasetError, "a b is broken.")
    assert str(error.with_text("a  b", "c")) == "c is broken."


def test_ranks_share_the_samples():
    shuffled = [BatchOrder(10, 2, shuffle=True, seed=0, rank=rank, ranks=3) for rank in range(3)]
    assert [len(order) for order in shuffled] == [2, 2, 2]
    counts = Counter(index for order in shuffled for index in order.indices())
    assert set(counts) == set(range(10))
    assert sum(counts.values()) == 12
    ascending = [BatchOrder(10, 2, shuffle=False, seed=0, rank=rank, ranks=3) for rank in range(3)]
    assert sorted(index for order in ascending for index in order.indices()) == list(range(10))
    assert [sum(len(draws[1]) for draws in order) for order in ascending] == [4, 3, 3]
    more_ranks_than_samples = BatchOrder(1, 1, shuffle=True, seed=0, rank=2, ranks=3)
    assert list(more_ranks_than_samples) == [(0, [0])]


def test_loaders_leave_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for workers in (0, 2):
        names(make_loader(Numbers(4), 2, shuffle=True, workers=workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_impossible_options():
    for options in (
        {"batch_size": 0},
        {"batch_size": 1, "workers": -1},
        {"batch_size": 1, "seed": -1},
    ):
        with pytest.raises(ConfigError, match="must be at least"):
            make_loader(Numbers(3), **options)


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(),
        AugmentationConfig(crop=8, flips=True, turns=True, max_dates=2, noise=9),
    ],
)
def test_pastis_through_workers(tmp_path, config):
    """Two workers give what this process gives, augmented and not."""
    folder = write_small_pastis(tmp_path / "pastis")
    dataset = PastisDataset(folder, target="panoptic", augmentation=config)
    here, there = (
        make_loader(dataset, 2, shuffle=True, seed=5, workers=workers, epoch=1)
        for workers in (0, 2)
    )
    for one, other in zip(here, there, strict=True):
        assert one.names == other.names
        for name in ("images_BTCHW", "days_BT", "valid_BT", "classes_BHW", "instances_BHW"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name, expected in vars(one.centres).items():
            assert torch.equal(expected, getattr(other.centres, name)), name


def test_damage_is_said_in_one_line_from_workers(tmp_path):
    folder = write_small_pastis(tmp_path / "pastis")
    path = folder / "DATA_S2" / "S2_11.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        DatasetError, match=r"S2_11.npy has 10361 bytes instead of 10368 for 2 x 10 x 16 x 16 int16"
    ):
        names(make_loader(PastisDataset(folder, target=None), 1, workers=2))
