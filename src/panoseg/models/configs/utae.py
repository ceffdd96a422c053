"""Options of U-TAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from panoseg.models.configs.base import expect

Aggregation = Literal["att_group", "att_mean", "mean"]
Norm = Literal["group", "batch", "instance"]
NORM_GROUPS = 4
"""Groups of channels that the group norm of the encoder standardises together."""


@dataclass(frozen=True)
class UtaeConfig:
    """U-TAE: a convolutional encoder shared over dates, attention over time at the coarsest size, a convolutional decoder."""

    name: ClassVar[str] = "utae"
    title: ClassVar[str] = "U-TAE"
    network: ClassVar[str] = "panoseg.models.utae:UTAE"

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    encoder_widths: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 32, 64, 128)
    """Channels of the decoder, finest level first; the last equals the encoder's last."""
    head_widths: tuple[int, ...] = (32,)
    """Hidden channels of the convolutions that score the classes of pixels."""
    aggregation: Aggregation = "att_group"
    """How a level's dates become one map: attention of its group of channels, mean attention, or the mean over dates."""
    encoder_norm: Norm = "group"
    """Normalisation in the encoder."""
    heads: int = 16
    """Attention heads; divides d_model and the encoder's last width."""
    d_model: int = 256
    """Width of the values that are averaged over dates."""
    key_width: int = 4
    """Width of keys and queries of one head."""
    padding_invariant: bool = False
    """Leave padded dates out of the attention's normalisation; False as in all published weights."""

    def __post_init__(self) -> None:
        for name, allowed in (("aggregation", Aggregation), ("encoder_norm", Norm)):
            value = getattr(self, name)
            expect(value in get_args(allowed), f"{name} {value!r}", f"one of {', '.join(get_args(allowed))}")
        widths = (*self.encoder_widths, *self.decoder_widths, *self.head_widths)
        numbers = {name: getattr(self, name) for name in ("bands", "classes", "heads", "d_model", "key_width")}
        for name, value in (("widths", min(widths, default=1)), *numbers.items()):
            expect(value >= 1, f"{name} {value}", "at least 1")
        expect(
            len(self.encoder_widths) == len(self.decoder_widths) >= 2,
            f"{len(self.encoder_widths)} encoder widths and {len(self.decoder_widths)} decoder widths",
            "as many of one as of the other, at least two",
        )
        expect(
            self.encoder_widths[-1] == self.decoder_widths[-1],
            f"encoder_widths end with {self.encoder_widths[-1]}, decoder_widths with {self.decoder_widths[-1]}",
            "the same last width",
        )
        expect(
            self.encoder_norm != "group" or all(width % NORM_GROUPS == 0 for width in self.encoder_widths),
            f"encoder_widths {self.encoder_widths} with encoder_norm group",
            f"multiples of {NORM_GROUPS}",
        )
        expect(
            self.d_model % self.heads == 0 and all(width % self.heads == 0 for width in self._grouped_widths()),
            f"heads {self.heads} with d_model {self.d_model} and encoder_widths {self.encoder_widths}",
            "heads that divide d_model and the widths they group",
        )

    def _grouped_widths(self) -> tuple[int, ...]:
        return self.encoder_widths if self.aggregation == "att_group" else self.encoder_widths[-1:]

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.decoder_widths

    @property
    def stride(self) -> int:
        """Pixels of the images that one pixel of the coarsest map stands for."""
        return 2 ** (len(self.encoder_widths) - 1)
