"""What the options of all networks for photographs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from panoseg.models.configs.base import expect, expect_one_of

Backbone = Literal["resnet18", "resnet50"]
BackboneNorm = Literal["frozen", "batch", "group"]
IGNORED = 255
"""Label of pixels that teach nothing; also why a network has at most so many labels."""
STAGE_WIDTHS: dict[Backbone, tuple[int, ...]] = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048)}
"""Channels of the maps of a residual network's four stages, at strides 4, 8, 16 and 32 (He et al. 2016, table 1)."""


@dataclass(frozen=True)
class PhotographModelBase:
    """Options of a network that looks at photographs."""

    bands: ClassVar[int] = 3
    """Red, green and blue."""

    things: int = 80
    """Classes of things; follows from the class table."""
    backbone: Backbone = "resnet50"
    """The residual network that makes the maps."""
    norm: BackboneNorm = "frozen"
    """Its norms: batch norms that keep the statistics of their weights, batch norms that learn, or group norms."""

    def __post_init__(self) -> None:
        expect_one_of("backbone", self.backbone, get_args(Backbone))
        expect_one_of("norm", self.norm, get_args(BackboneNorm))
        expect(1 <= self.things < IGNORED, f"things {self.things}", f"from 1 to {IGNORED - 1}")


def expect_weights(name: str, allowed: tuple[str, ...], norm: str) -> None:
    """Raise ``ConfigError`` unless the name of initial weights is one of those allowed, and the norm goes with them."""
    expect_one_of("weights", name, allowed)
    expect(
        name != "none" or norm != "frozen", "weights none with norm frozen", "norm batch or group: there are no statistics yet"
    )
    expect(name == "none" or norm != "group", f"weights {name} with norm group", "norm frozen or batch, which they have")


def expect_stuff(stuff: int, classes: int) -> None:
    """Raise ``ConfigError`` unless there are from no classes of stuff to as many as labels allow. classes: of both kinds."""
    expect(stuff >= 0 and classes < IGNORED, f"stuff {stuff}", f"from 0 on, and with the things at most {IGNORED - 1}")


def norm_groups(width: int) -> int:
    """Groups of a group norm over ``width`` channels: 32 (Wu & He 2018), fewer where they would have less than 4 channels."""
    return max(1, min(32, width // 4))


def expect_groups(name: str, *widths: int) -> None:
    """Raise ``ConfigError`` unless the groups of a group norm divide all widths."""
    expect(all(width % norm_groups(width) == 0 for width in widths), f"{name} {widths}", "multiples of 32, or 4, 8, 16")
