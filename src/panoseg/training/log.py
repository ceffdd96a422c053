"""The log of a run: ``log.csv`` and TensorBoard events, both cut back to a checkpoint when a run is
resumed.

``log.csv`` holds nothing that depends on the clock, so the file of a resumed run equals that of an
uninterrupted one.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from torch import Tensor

from panoseg.errors import ConfigError
from panoseg.files import output_error

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LEADING = ("epoch", "step", "split", "learning_rate")
"""Columns of every log, before those of its numbers."""


class RunLog:
    """Writes rows of numbers to ``folder``/log.csv and to TensorBoard.

    columns: names of all numbers that rows may hold, in order; a row leaves out what it does not
    know. position: bytes of log.csv to keep and the step that they end with, from a checkpoint;
    None starts a new log.
    """

    def __init__(
        self, folder: Path, columns: Sequence[str], position: tuple[int, int] | None = None
    ) -> None:
        self.columns = (*LEADING, *columns)
        size, step = position or (0, 0)
        path = folder / "log.csv"
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise _damaged(path, f"has {found} bytes, the last checkpoint knows {size}")
        try:
            self._file = open(folder / "log.csv", "a+b")  # noqa: SIM115 - kept open for the whole run
            self._file.truncate(size)
            self._file.seek(size)
            self._events = _tensorboard(folder / "tensorboard", purge_step=step + 1)
        except OSError as error:
            raise output_error(folder / "log.csv", error) from error
        if not size:
            self._append(self.columns)

    @property
    def size(self) -> int:
        """Bytes of log.csv so far: what a checkpoint stores."""
        return self._file.tell()

    def write(
        self,
        epoch: int,
        step: int,
        split: str,
        numbers: Mapping[str, float],
        learning_rate: float | None = None,
    ) -> None:
        """Append a row. ``epoch`` and ``step`` count finished ones from the start of the run; NaN
        leaves its cell empty.
        """
        row = {
            "epoch": epoch,
            "step": step,
            "split": split,
            "learning_rate": learning_rate,
            **numbers,
        }
        unknown = sorted(set(row) - set(self.columns))
        if unknown:
            raise ValueError(f"{unknown} are no columns of the log: {self.columns}")
        self._append([_text(row.get(name)) for name in self.columns])
        for name, value in numbers.items():
            self._events.add_scalar(f"{split}/{name}", value, step)
        if learning_rate is not None:
            self._events.add_scalar("learning_rate", learning_rate, step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """A number for TensorBoard alone, such as a speed, which differs from run to run."""
        self._events.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()

    def _append(self, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        try:
            self._file.write(line.getvalue().encode())
            self._file.flush()
        except OSError as error:
            raise output_error(Path(self._file.name), error) from error


def _text(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


class _NoEvents:
    """Stands in for TensorBoard's writer on a machine that has nothing but torch."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _tensorboard(folder: Path, purge_step: int) -> SummaryWriter | _NoEvents:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return _NoEvents()
    return SummaryWriter(str(folder), purge_step=purge_step)


class RunningMean:
    """Means of named losses since the last reset; sums stay on the device, so that adding never
    waits for it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count one step's losses (scalars)."""
        self.count += 1
        for name, value in losses.items():
            self.sums[name] = (
                self.sums[name] + value.detach() if name in self.sums else value.detach().clone()
            )

    def take(self) -> dict[str, float]:
        """The means so far; starts again from nothing."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        self.count, self.sums = 0, {}
        return means


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv. Raises ``ConfigError``."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, f"cannot be read ({error})") from error


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} {what}", "the log that belongs to last.ckpt", "bring it back, or start a new run"
    )
