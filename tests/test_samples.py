"""Batches: padding is a mask; normalisation; memory that is used again."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from panoseg.data.loading import SlotOverflow, Slots
from panoseg.data.samples import Batch, Normalisation, Sample, centre_targets, collate
from panoseg.errors import DatasetError
from panoseg.imagery.sentinel2 import PASTIS_BANDS


def sample(
    dates: int, name: str = "a", size: tuple[int, int] = (4, 5), kind: torch.dtype = torch.int16
) -> Sample:
    """Values from 1, so that none looks like padding."""
    count = dates * 10 * size[0] * size[1]
    images = (torch.arange(count) % 5000 + 1).to(kind).view(dates, 10, *size)
    instances = torch.zeros(size, dtype=torch.int32)
    instances[1:3, 1:3] = 1
    classes = instances.long() * 3
    return Sample(
        images,
        torch.arange(dates) * 7 + 1,
        name,
        classes,
        instances,
        centre_targets(instances, classes),
    )


def test_padding_is_a_mask():
    batch = collate([sample(2), sample(4, "b"), sample(1, "c")])
    assert batch.images_BTCHW.shape == (3, 4, 10, 4, 5)
    assert batch.images_BTCHW.dtype == torch.int16
    assert batch.valid_BT.tolist() == [
        [True, True, False, False],
        [True] * 4,
        [True, False, False, False],
    ]
    assert batch.days_BT.tolist() == [[1, 8, 0, 0], [1, 8, 15, 22], [1, 0, 0, 0]]
    assert batch.names == ("a", "b", "c")
    for row, dates in enumerate((2, 4, 1)):
        assert torch.equal(batch.images_BTCHW[row, :dates], sample(dates).images_TCHW)
        assert not batch.images_BTCHW[row, dates:].any()


def test_an_image_of_zeros_is_not_padding():
    dark = replace(sample(2), images_TCHW=torch.zeros(2, 10, 4, 5, dtype=torch.int16))
    assert collate([dark, sample(3)]).valid_BT.tolist() == [[True, True, False], [True, True, True]]


def test_targets_are_stacked():
    batch = collate([sample(2), sample(3)])
    assert batch.classes_BHW.shape == batch.instances_BHW.shape == (2, 4, 5)
    assert batch.centres.size_BHW2.shape == (2, 4, 5, 2)
    for name, values in vars(sample(2).centres).items():
        assert torch.equal(getattr(batch.centres, name.replace("_HW", "_BHW"))[1], values)
    bare = replace(sample(2), classes_HW=None, instances_HW=None, centres=None)
    assert collate([bare]).classes_BHW is collate([bare]).centres is None
    assert collate([bare, sample(2)]).classes_BHW is None


def test_float_images_stay_float():
    assert collate([sample(2, kind=torch.float32)]).images_BTCHW.dtype == torch.float32


def test_sizes_must_agree():
    with pytest.raises(
        DatasetError,
        match="Patches a and b cannot share a batch, because they are 10 x 4 x 5 and 10 x 5 x 5",
    ):
        collate([sample(2), sample(2, "b", (5, 5))])


def test_batches_move():
    batch = collate([sample(2)])
    moved = batch.to("meta")
    assert moved.images_BTCHW.device.type == moved.centres.zone_BHW.device.type == "meta"
    assert moved.names == batch.names


def test_normalisation_by_hand():
    normalisation = Normalisation(tuple(range(10)), tuple(range(1, 11)))
    images = torch.full((1, 2, 10, 1, 1), 21, dtype=torch.int16)
    x = normalisation(images, torch.tensor([[True, False]]))
    assert x.dtype == torch.float32
    assert x[0, 0, :, 0, 0].tolist() == pytest.approx([(21 - c) / (c + 1) for c in range(10)])
    assert not x[0, 1].any()


def test_normalisation_is_checked():
    with pytest.raises(ValueError, match="9 means and 10 deviations for 10 bands"):
        Normalisation((0.0,) * 9, (1.0,) * 10)
    with pytest.raises(ValueError, match="must be positive"):
        Normalisation((0.0,) * 10, (0.0,) * 10)


# Slots


def assert_equal(one: Batch, other: Batch) -> None:
    for name in ("images_BTCHW", "days_BT", "valid_BT", "classes_BHW", "instances_BHW"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name, values in vars(one.centres).items():
        assert torch.equal(values, getattr(other.centres, name)), name
    assert one.names == other.names


def test_a_batch_in_a_slot_is_the_batch():
    samples = [sample(2), sample(4, "b")]
    slots = Slots(1, 1 << 20)
    slot = slots.take()
    for _ in range(2):  # the second time over what the first left
        assert_equal(slots.write(slot, samples).open(), collate(samples))
        samples = samples[::-1]


def test_slots_come_back_with_the_last_tensor():
    slots = Slots(1, 1 << 20)
    stored = slots.write(slots.take(), [sample(2)])
    batch = stored.open()
    view = batch.images_BTCHW[0, 1]
    expected = view.clone()
    assert slots.take() is None
    del batch
    gc.collect()
    assert slots.take() is None
    assert torch.equal(view, expected)
    del view
    gc.collect()
    assert slots.take() == 0


def test_slots_of_lost_requests_are_reclaimed():
    slots = Slots(2, 1 << 20)
    kept = slots.write(slots.take(), [sample(2)]).open()
    assert slots.take() is not None
    assert slots.take() is None
    slots.reclaim()
    assert slots.take() is not None
    assert slots.take() is None  # that of the batch which is still in use
    assert kept.names == ("a",)


def test_a_batch_too_large_for_a_slot():
    slots = Slots(1, 1024)
    with pytest.raises(SlotOverflow):
        slots.write(slots.take(), [sample(4)])


def test_pinning_copies_out_of_the_slot(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    slots = Slots(1, 1 << 20)
    pinned = slots.write(slots.take(), [sample(2)]).pin_memory()
    gc.collect()
    assert slots.take() == 0
    assert_equal(pinned, collate([sample(2)]))


def test_slots_only_where_workers_fork(monkeypatch):
    assert Slots.for_workers(0, 2) is None
    monkeypatch.setattr("multiprocessing.get_start_method", lambda **_: "spawn")
    assert Slots.for_workers(2, 2) is None
    monkeypatch.setattr("multiprocessing.get_start_method", lambda **_: "fork")
    slots = Slots.for_workers(2, 2)
    assert sorted(slots.take() for _ in range(6)) == list(range(6))
    assert slots.take() is None


def test_tensors_in_a_slot_are_aligned():
    slots = Slots(1, 1 << 20)
    batch = slots.write(slots.take(), [sample(3, size=(3, 3))]).open()
    tensors = [
        batch.images_BTCHW,
        batch.days_BT,
        batch.valid_BT,
        batch.classes_BHW,
        batch.centres.size_BHW2,
    ]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)
    assert np.prod(batch.images_BTCHW.shape) == 3 * 10 * 9


def test_ndvi_is_one_more_channel_between_minus_one_and_one():
    normalisation = Normalisation((100.0,) * 10, (10.0,) * 10, ndvi=True)
    images = torch.zeros(1, 4, 10, 2, 2, dtype=torch.int16)
    red, infrared = PASTIS_BANDS.index("B04"), PASTIS_BANDS.index("B08")
    images[0, 0, red], images[0, 0, infrared] = 1000, 3000
    images[0, 1, red], images[0, 1, infrared] = -50, 30
    images[0, 2, red], images[0, 2, infrared] = 1000, 3000
    valid = torch.tensor([[True, True, False, True]])
    standard = normalisation(images, valid)
    assert standard.shape == (1, 4, 11, 2, 2)
    assert normalisation.channels == 11
    assert torch.allclose(standard[0, :, 10, 0, 0], torch.tensor([0.5, 0.0, 0.0, 0.0]))
    assert torch.equal(standard[:, :, :10], replace(normalisation, ndvi=False)(images, valid))


def test_ndvi_needs_its_bands():
    with pytest.raises(ValueError, match="NDVI needs B04 and B08"):
        Normalisation((0.0,), (1.0,), ("B02",), ndvi=True)
