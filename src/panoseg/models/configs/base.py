"""What the configurations of all networks share."""

from __future__ import annotations

from typing import Literal

from panoseg.errors import ConfigError

Norm = Literal["group", "batch", "instance"]
Convolution = Literal["2d", "depthwise_separable"]
NORM_GROUPS = 4
"""Groups of channels that a group norm of the encoder standardises together."""


def expect(condition: bool, found: str, expected: str) -> None:
    """Raise ``ConfigError`` unless the condition holds."""
    if not condition:
        raise ConfigError(found, expected, "change the model's options")


def expect_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless the option has one of the allowed values."""
    expect(value in allowed, f"{name} {value!r}", f"one of {', '.join(allowed)}")


def expect_one_kind_of_block(mbconv: bool, squeeze: bool) -> None:
    """Raise ``ConfigError`` for squeeze with MBConv, which the published program accepts and ignores."""
    expect(not (mbconv and squeeze), "mbconv with squeeze", "one of them: MBConv has squeeze and excitation of its own")


def expect_levels(encoder_widths: tuple[int, ...], decoder_widths: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` unless the encoder and the decoder of a U-Net, each finest first, fit together."""
    expect(
        len(encoder_widths) == len(decoder_widths) >= 2,
        f"{len(encoder_widths)} encoder widths and {len(decoder_widths)} decoder widths",
        "as many of one as of the other, at least two",
    )
    expect(
        encoder_widths[-1] == decoder_widths[-1],
        f"encoder_widths end with {encoder_widths[-1]}, decoder_widths with {decoder_widths[-1]}",
        "the same last width",
    )
