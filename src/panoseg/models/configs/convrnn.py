"""Options of ConvLSTM and ConvGRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from panoseg.models.configs.base import expect_one_of, expect_sizes

Cell = Literal["lstm", "gru"]


@dataclass(frozen=True)
class ConvRnnConfig:
    """ConvLSTM and ConvGRU: a recurrence over dates by convolutions at full size, and nothing else."""

    name: ClassVar[str] = "convrnn"
    network: ClassVar[str] = "panoseg.models.convrnn:ConvRnn"
    stride: ClassVar[int] = 1

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    cell: Cell = "lstm"
    """What happens at a date: that of ConvLSTM, or that of ConvGRU."""
    hidden: int = 160
    """Channels of the state; published 160 with lstm and 180 with gru."""
    runs_over_padding: bool = False
    """Let the recurrence run on over padded dates, as published; False ends each season at its last valid date."""

    def __post_init__(self) -> None:
        expect_one_of("cell", self.cell, get_args(Cell))
        expect_sizes(self)

    @property
    def title(self) -> str:
        """The network's name in the words of its paper."""
        return {"lstm": "ConvLSTM", "gru": "ConvGRU"}[self.cell]

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets: the state at full size alone."""
        return (self.hidden,)
