"""What a run keeps on disk while it trains: checkpoints that continue exactly, and the log.

A checkpoint is one file with everything that a training step depends on, written atomically.
``log.csv`` and TensorBoard events are cut back to the checkpoint when a run is resumed.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from panoseg.errors import ConfigError, PanosegError, WeightsError
from panoseg.files import atomic, output_error
from panoseg.models.weight_files import load_tensors
from panoseg.text_files import listed, read_text, reason_of, table_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_FORMAT = "panoseg checkpoint 1"
_LARGEST_LOG = 64 * 1024**2


@dataclass
class Progress:
    """Progress of a run: its only changing state apart from model and optimiser."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the current epoch."""
    total_steps: int = 0
    """Finished steps of the run."""
    best_score: float | None = None
    """Best validation score so far; None before the first validation."""
    best_epoch: int | None = None
    """Epoch of the best score, from 1; None before the first validation."""
    log_size: int = 0
    """Bytes of log.csv that belong to this state."""


def random_state() -> dict[str, Any]:
    """The state of every random generator of this process, as tensors and plain numbers."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the one that other people's code draws from
    version, internal, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            position,
            has_gauss,
            gauss,
        ],
        "python": [version, torch.tensor(internal, dtype=torch.int64), next_gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what ``random_state`` saw."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    kind, keys, position, has_gauss, gauss = state["numpy"]
    legacy = (kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss)
    np.random.set_state(legacy)  # noqa: NPY002
    version, internal, next_gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), next_gauss))


def save_checkpoint(
    path: Path,
    model: dict[str, Tensor],
    optimiser: dict[str, Any],
    progress: Progress,
    random_states: list[dict[str, Any]],
) -> None:
    """Write a checkpoint atomically.

    Args:
        path: File to write.
        model: State dict of the network.
        optimiser: State dict of the optimiser.
        progress: Progress of the run.
        random_states: One entry for each process, in the order of their ranks.
    """
    content = {
        "format": _FORMAT,
        "model": model,
        "optimiser": optimiser,
        "progress": asdict(progress),
        "random_states": random_states,
    }
    # Through memory, because a full disk in torch's own writer is not an OSError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read."""

    model: dict[str, Tensor]
    """State dict of the network."""
    optimiser: dict[str, Any]
    """State dict of the optimiser."""
    progress: Progress
    """Progress of the run."""
    random_states: list[dict[str, Any]]
    """Random state of each process, by rank; see ``random_state``."""


_ADVICE = "Resume from the folder of another run, or start again with another --out."


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file of ``save_checkpoint``, without running code from it.

    Raises:
        WeightsError: It is not a checkpoint.
    """
    content = load_tensors(path, _ADVICE)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise WeightsError(f"{path} is not a checkpoint of panoseg train. {_ADVICE}")
    with applying(path):
        progress = content["progress"]
        if set(progress) != {entry.name for entry in fields(Progress)}:
            raise KeyError("progress")
        _check_types(content["model"], progress)
        return Checkpoint(
            dict(content["model"]),
            content["optimiser"],
            Progress(**progress),
            list(content["random_states"]),
        )


def _check_types(model: Mapping[str, object], progress: Mapping[str, object]) -> None:
    """Raise ``ValueError`` for entries of a checkpoint that a training cannot have written."""
    for name, value in model.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"the entry {str(name)[:80]} of the network is no tensor")
    for name, value in progress.items():
        if name == "best_score":
            right = value is None or isinstance(value, float | int)
        else:
            right = type(value) is int and value >= 0
        if not (right or (name == "best_epoch" and value is None)):
            raise ValueError(f"{name} is {str(value)[:80]}")


@contextmanager
def applying(path: Path) -> Iterator[None]:
    """Turn errors from the impossible contents of a checkpoint into one ``WeightsError``.

    For the block in which the contents are used.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise WeightsError(
            f"{path} cannot be continued ({type(error).__name__}: {reason}). {_ADVICE}"
        ) from error


def load_model(module: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load the parameters of a checkpoint into a module.

    Raises:
        WeightsError: Entries are missing, unexpected or of another shape; some are named.
    """
    own = module.state_dict()
    kinds = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    wrong = [f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names]
    if wrong:
        raise WeightsError(
            f"{path} is of another model: {', '.join(wrong)}. Resume with the run's own"
            " config.json."
        )
    module.load_state_dict(state)


LEADING = ("epoch", "step", "split", "learning_rate")
"""Columns of every log, before those of its numbers."""


class RunLog:
    """Writes rows of numbers to ``folder``/log.csv and to TensorBoard.

    Args:
        folder: Folder of the run.
        columns: Names of all numbers that rows may hold, in order; a row may lack some.
        position: From a checkpoint: bytes of log.csv to keep, and the step that they end with. None
            starts a new log.
    """

    def __init__(
        self, folder: Path, columns: Sequence[str], position: tuple[int, int] | None = None
    ) -> None:
        self.columns = (*LEADING, *columns)
        size, step = position or (0, 0)
        path = folder / "log.csv"
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise _damaged(path, f"has {found} bytes, but had {size} at the last checkpoint")
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
        """Bytes of log.csv so far, for the checkpoint."""
        return self._file.tell()

    def write(
        self,
        epoch: int,
        step: int,
        split: str,
        numbers: Mapping[str, float],
        learning_rate: float | None = None,
    ) -> None:
        """Append a row; NaN leaves its cell empty.

        Args:
            epoch: Finished epochs since the start of the run.
            step: Finished steps since the start of the run.
            split: Name of the set.
            numbers: Value of each column.
            learning_rate: Learning rate of the step; None leaves it out.
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
            raise ValueError(f"{unknown} are not columns of the log: {self.columns}")
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
    """Means of named losses since the last reset.

    Sums stay on the device, so that adding never waits for it.
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
    """Read the rows of a log.csv.

    Raises:
        ConfigError: It is missing or damaged.
    """
    try:
        table = table_of(read_text(path, _LARGEST_LOG, "utf-8").text)
        if table.columns[: len(LEADING)] != LEADING:
            raise ValueError("its first line does not name the columns of a log")
        return list(table.rows)
    except (PanosegError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({reason_of(error)})") from error


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} {what}. Bring back the log that belongs to last.ckpt, or start a new run."
    )
