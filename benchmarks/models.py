"""Speed of U-TAE and PaPs on this machine, as one table: ``python benchmarks/models.py``.

Times of the network are compared with the machine's own float32 matrix product, measured in the same run, because a ratio
means the same on any machine. Each number is the best of several: other work on the machine only adds time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from panoseg.data.samples import CentreTargets
from panoseg.models.build import build_model
from panoseg.models.configs.paps import PapsConfig
from panoseg.models.configs.utae import UtaeConfig
from panoseg.models.outputs import FeatureMaps
from panoseg.models.paps import PaPs
from panoseg.panoptic.merge import merge_masks
from panoseg.training.losses import PapsLoss

DATES, SIDE = 43, 128
FORWARD_FLOP = 131e9  # of a season of 43 dates of 10 bands and 128 x 128 pixels


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """The shortest of ``repeats`` runs, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_product_rate() -> float:
    """FLOP/s of a float32 product of 2048 x 2048 matrices."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / best_seconds(lambda: left @ right, 10)


def season() -> tuple[Tensor, Tensor, Tensor]:
    """One season of noise."""
    days_BT = torch.arange(DATES)[None] * 9
    return torch.randn(1, DATES, 10, SIDE, SIDE), days_BT, torch.ones(1, DATES, dtype=torch.bool)


def network_shares(rate: float) -> list[tuple[str, str, str]]:
    """U-TAE forward and a training step, counted as three forwards, as shares of ``rate``."""
    model, images = build_model(UtaeConfig()), season()

    def forward() -> Tensor:
        with torch.inference_mode():
            return model(*images).logits_BKHW

    def step() -> None:
        model.zero_grad()
        model(*images).logits_BKHW.square().mean().backward()

    training = best_seconds(step, 5)
    model.eval()
    evaluation = best_seconds(forward, 5)
    return [
        ("U-TAE forward, share of matrix product", f"{FORWARD_FLOP / evaluation / rate:.0%} ({evaluation:.2f} s)", "45 %"),
        ("U-TAE training step, same", f"{3 * FORWARD_FLOP / training / rate:.0%} ({training:.2f} s)", "50 %"),
    ]


def hundred_parcels() -> CentreTargets:
    """A patch of 10 x 10 parcels, of 12 or 13 pixels a side."""
    row_H = torch.arange(SIDE) * 10 // SIDE
    zone_BHW = (row_H[:, None] * 10 + row_H + 1).int()[None]
    middle_H = (torch.arange(SIDE) % 13 == 6) & (torch.arange(SIDE) < 130)
    heatmap_BHW = (middle_H[:, None] & middle_H).float()[None]
    size_BHW2 = torch.full((1, SIDE, SIDE, 2), 12.8)
    return CentreTargets(heatmap_BHW, zone_BHW, zone_BHW, size_BHW2, torch.ones(1, SIDE, SIDE, dtype=torch.int64))


def head_times() -> list[tuple[str, str, str]]:
    """PaPs after its backbone: prediction with merging, and the loss with its gradient; 100 centres of boxes near 13 pixels."""
    model = build_model(PapsConfig())
    assert isinstance(model, PaPs)
    torch.nn.init.constant_(model.size_mlp[-2].bias, 13.0)
    model.min_confidence.zero_()
    targets, loss = hundred_parcels(), PapsLoss(void=19)
    widths = reversed(PapsConfig().backbone.decoder_widths)
    levels = [torch.randn(1, width, SIDE >> 3 - i, SIDE >> 3 - i) for i, width in enumerate(widths)]
    maps = FeatureMaps(tuple(level.contiguous(memory_format=torch.channels_last) for level in levels))

    def predict() -> None:
        with torch.inference_mode():
            output = model.head(maps, targets.zone_HW)
            merge_masks(model.scored_masks(output), 1)

    def learn() -> None:
        model.zero_grad()
        loss(model.head(maps, targets.zone_HW), targets).total.backward()

    learning = best_seconds(learn, 20)
    model.eval()
    predicting = best_seconds(predict, 20)
    return [
        ("PaPs head and merging, 100 centres", f"{predicting * 1e3:.1f} ms", "10 ms"),
        ("PaPs head and loss, 100 parcels, with gradient", f"{learning * 1e3:.1f} ms", "30 ms"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    rate = matrix_product_rate()
    rows = [*network_shares(rate), *head_times()]
    print(f"float32 matrix product: {rate / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads\n")
    print("| what | measured | wanted |\n|---|---|---|")
    for what, measured, wanted in rows:
        print(f"| {what} | {measured} | {wanted} |")


if __name__ == "__main__":
    main()
