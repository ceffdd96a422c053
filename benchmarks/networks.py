"""What the benchmarks of networks share: every network with a batch of noise, and the time that
work takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from panoseg.data.samples import CentreTargetsBatch
from panoseg.models.configs import ModelConfig
from panoseg.models.configs.parcels import CompositesConfig, FieldsConfig, PapsConfig
from panoseg.models.configs.season import (
    ConvRnnConfig,
    FpnConfig,
    NaiveUnetConfig,
    TimeUnetConfig,
    UConvLstmConfig,
    UNet3dConfig,
    UtaeConfig,
    WtaeConfig,
)
from panoseg.models.losses import PapsLoss
from panoseg.models.network import build_network
from panoseg.models.outputs import PapsOutput, SemanticOutput
from panoseg.models.paps import PaPs

BANDS = 10
NETWORKS: dict[str, ModelConfig] = {
    "utae": UtaeConfig(),
    "unet3d": UNet3dConfig(),
    "uconvlstm": UConvLstmConfig(),
    "buconvlstm": UConvLstmConfig(hidden=30, directions=2),
    "fpn": FpnConfig(),
    "convlstm": ConvRnnConfig(),
    "convgru": ConvRnnConfig(cell="gru", hidden=180),
    "wtae": WtaeConfig(),
    "timeunet": TimeUnetConfig(),
    "unet_naive": NaiveUnetConfig(),
    "utae-paps": PapsConfig(),
    "uconvlstm-paps": PapsConfig(backbone=UConvLstmConfig()),
    "composites": CompositesConfig(),
    "composites-fields": FieldsConfig(),
}
"""The published networks, at their published sizes, and ours."""


@dataclass(frozen=True, eq=False)
class Work:
    """A network and a batch of seasons of noise, on one device. PaPs is given the zones of parcels,
    so that it always has as many centres.
    """

    model: nn.Module
    images_BTCHW: Tensor
    days_BT: Tensor
    valid_BT: Tensor
    targets: CentreTargetsBatch

    @classmethod
    def of(cls, name: str, size: int, dates: int, batch: int = 1, device: str = "cpu") -> Work:
        """The network of that name with random numbers."""
        torch.manual_seed(0)
        model = build_network(NETWORKS[name])
        if isinstance(model, PaPs):
            nn.init.constant_(
                model.size_mlp[-2].bias, 13.0
            )  # pixels: about as large as the parcels
        images_BTCHW = torch.randn(batch, dates, BANDS, size, size, device=device)
        days_BT = (torch.arange(dates, device=device) * 9).expand(batch, dates)
        valid_BT = torch.ones(batch, dates, dtype=torch.bool, device=device)
        return cls(model.to(device), images_BTCHW, days_BT, valid_BT, parcels(size, batch, device))

    def forward(self) -> PapsOutput | SemanticOutput | tuple[Tensor, Tensor]:
        """What the network says; gradients only where the surroundings want them."""
        zones = (self.targets.zone_BHW,) if isinstance(self.model, PaPs) else ()
        return self.model(self.images_BTCHW, self.days_BT, self.valid_BT, *zones)

    def loss(self) -> Tensor:
        """PaPs's own loss; of class scores, which have no targets here, the mean square."""
        output = self.forward()
        if isinstance(output, PapsOutput):
            return PapsLoss(void=19)(output, self.targets).total
        if isinstance(output, tuple):  # maps and class scores of fields
            return output[0].square().mean() + output[1].square().mean()
        return output.logits_BKHW.float().square().mean()

    def step(self) -> None:
        """Loss and gradients."""
        self.model.zero_grad()
        self.loss().backward()

    def flop(self) -> int:
        """Of one forward: additions and multiplications of convolutions and matrix products."""
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.forward()
        return counter.get_total_flops()


def parcels(size: int, batch: int = 1, device: str = "cpu") -> CentreTargetsBatch:
    """Patches of square parcels of 12 or 13 pixels a side: 10 x 10 of them on 128 x 128 pixels."""
    count = max(1, size * 10 // 128)
    row_H = torch.arange(size) * count // size
    zone_HW = (row_H[:, None] * count + row_H + 1).int()
    middles = ((torch.arange(count) + 0.5) * size / count).long()
    heatmap_HW = torch.zeros(size, size)
    heatmap_HW[middles[:, None], middles] = 1.0
    size_HW2 = torch.full((size, size, 2), size / count)
    maps = (heatmap_HW, zone_HW, zone_HW, size_HW2, torch.ones(size, size, dtype=torch.int64))
    return CentreTargetsBatch(
        *(values.expand(batch, *values.shape).contiguous().to(device) for values in maps)
    )


def best_seconds(work: Callable[[], object], repeats: int, longest_s: float = 10.0) -> float:
    """The shortest of ``repeats`` runs, after one that does not count; none is begun after
    ``longest_s`` seconds of them.
    """
    work()
    times: list[float] = []
    while not times or (len(times) < repeats and sum(times) < longest_s):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_product_rate(
    side: int = 2048, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> float:
    """FLOP/s of a product of square matrices."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: left @ right, 10)
