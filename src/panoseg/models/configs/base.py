"""What the configurations of all networks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from panoseg.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Norm = Literal["group", "batch", "instance"]
Convolution = Literal["2d", "depthwise_separable"]
NORM_GROUPS = 4
"""Groups of channels that a group norm of the encoder standardises together."""
LARGEST_SIZE = 4096
"""The most channels, dates or the like that an option may ask for: far above any network here, far
below a full memory.
"""
MOST_SIZES = 12
"""The most entries of an option that is a list of sizes, for example one a level."""

Inputs = Literal["season", "photograph"]
Answers = Literal["panoptic", "semantic", "instances"]


class NetworkConfig:
    """What every configuration of a network declares; the options are fields of the subclass.

    Subclasses are frozen dataclasses. ``panoseg.models.config.CONFIGS`` lists them by name.
    """

    name: ClassVar[str]
    """Tag in JSON and on the command line."""
    network: ClassVar[str]
    """Where the module is: "package.module:Class"."""
    inputs: ClassVar[Inputs]
    """What the network reads: satellite image time series, or photographs."""
    answers: ClassVar[Answers]
    """Things and stuff, a class for each pixel, or things alone."""
    scorer: ClassVar[str]
    """How it is scored: a key of ``panoseg.training.scorers.SCORERS``."""
    max_tta: ClassVar[int] = 1
    """Largest number of test-time augmentations; 1: none are supported."""
    train_options: ClassVar[frozenset[str]]
    """Entries of ``TrainConfig`` that this network uses and some others do not."""
    loss_option: ClassVar[str | None] = None
    """Entry of ``TrainConfig`` with the options of its loss; None: the loss has none there."""
    backbone_prefix: ClassVar[str] = ""
    """Beginning of the names of the backbone's entries, where it is a part of the network."""

    def fitted(self, **facts: Any) -> Self:  # noqa: ANN401
        """Return the same options with what follows from the data.

        Args:
            **facts: bands, classes, things, stuff, reference_date, as ``facts_of`` gives them;
                those that the network has no option for are left out.
        """
        known = {entry.name for entry in fields(self)}  # type: ignore[arg-type]
        chosen = {name: value for name, value in facts.items() if name in known}
        return replace(self, **chosen)  # type: ignore[type-var]

    def wider(self) -> Self:
        """Return the same network for one more class of each kind."""
        names = ("classes", "things", "stuff")
        return self.fitted(**{name: 1 + getattr(self, name, 0) for name in names})

    def adjusted(self, thresholds: Mapping[str, float]) -> Self:
        """Return the same options with other thresholds of prediction, as far as it has them.

        Args:
            thresholds: score, mask and overlap 0..1, and stuff_area in pixels; any of them.
        """
        return self


def expect(condition: bool, found: str, expected: str) -> None:
    """Raise ``ConfigError`` unless the condition holds."""
    if not condition:
        raise ConfigError(found, expected, "change the model's options")


def expect_size(name: str, found: object, size: int) -> None:
    """Raise ``ConfigError`` unless the size is from 1 to ``LARGEST_SIZE``.

    Args:
        name: The option.
        found: Its value.
        size: The number to check.
    """
    expect(size >= 1, f"{name} {found}", "at least 1")
    expect(size <= LARGEST_SIZE, f"{name} {found}", f"at most {LARGEST_SIZE}")


def expect_sizes(config: DataclassInstance, leave_out: tuple[str, ...] = ()) -> None:
    """Raise ``ConfigError`` unless all whole numbers of a configuration are sizes.

    Lists may not be long either. A file that somebody else wrote may ask for a network that fills
    the memory; it is refused before anything is built.

    Args:
        config: The configuration.
        leave_out: Options that may be 0.
    """
    for option in fields(config):
        if option.name in leave_out:
            continue
        value = getattr(config, option.name)
        sizes = value if isinstance(value, tuple) else (value,)
        expect(
            len(sizes) <= MOST_SIZES,
            f"{option.name} with {len(sizes)} entries",
            f"at most {MOST_SIZES}",
        )
        for size in sizes:
            if type(size) is int:
                expect_size(option.name, value, size)


def expect_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless the option has one of the allowed values."""
    expect(value in allowed, f"{name} {value!r}", f"one of {', '.join(allowed)}")


def expect_one_kind_of_block(mbconv: bool, squeeze: bool) -> None:
    """Raise ``ConfigError`` for squeeze together with MBConv.

    The published program accepts both and ignores squeeze.
    """
    expect(
        not (mbconv and squeeze),
        "mbconv with squeeze",
        "one of them: MBConv has squeeze and excitation of its own",
    )


def expect_levels(encoder_widths: tuple[int, ...], decoder_widths: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` unless the encoder and the decoder of a U-Net fit together.

    Args:
        encoder_widths: Channels of the encoder's levels, finest first.
        decoder_widths: Channels of the decoder's levels, finest first.
    """
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
