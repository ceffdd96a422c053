"""Checkpoints that continue exactly: all that a training step depends on, in one file, written
atomically.

A step depends on the parameters, the optimiser's moments, the position in the loader's order (a
function of seed, epoch and step) and the random generators, one set a process. The learning rate is
a function of the step and needs no state.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panoseg.errors import WeightsError
from panoseg.files import atomic
from panoseg.models.weights import load_tensors

_FORMAT = "panoseg checkpoint 1"


@dataclass
class Progress:
    """Where a run stands; the only thing that changes while it runs, beside model and optimiser.

    epoch: finished epochs. step: finished steps of the current epoch. total_steps: finished steps
    of the run.
    best_score: best validation score so far and best_epoch: its epoch (1 first); None before the
    first validation.
    log_size: bytes of log.csv that belong to this state.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    best_score: float | None = None
    best_epoch: int | None = None
    log_size: int = 0


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
    optimiser: dict,
    progress: Progress,
    random_states: list[dict],
) -> None:
    """Write a checkpoint atomically; ``random_states`` has one entry a process, in the order of
    their ranks.
    """
    content = {
        "format": _FORMAT,
        "model": model,
        "optimiser": optimiser,
        "progress": asdict(progress),
        "random_states": random_states,
    }
    # Through memory, because a full disk met by torch itself is no OSError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: state dicts of model and optimiser, progress, and each process' random
    state.
    """

    model: dict[str, Tensor]
    optimiser: dict[str, Any]
    progress: Progress
    random_states: list[dict[str, Any]]


_EXPECTED = "a checkpoint that panoseg train has written"
_FIX = "resume from a run's folder, or start again with another --out"


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what ``save_checkpoint`` wrote, never running code from the file. Raises
    ``WeightsError``.
    """
    content = load_tensors(path, _EXPECTED, _FIX)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise WeightsError(f"{path} is a file of another kind", _EXPECTED, _FIX)
    with applying(path):
        progress = content["progress"]
        if set(progress) != {entry.name for entry in fields(Progress)}:
            raise KeyError("progress")
        return Checkpoint(
            dict(content["model"]),
            content["optimiser"],
            Progress(**progress),
            list(content["random_states"]),
        )


@contextmanager
def applying(path: Path) -> Iterator[None]:
    """Turn what a checkpoint with impossible contents raises where it is used into one
    ``WeightsError``.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise WeightsError(
            f"{path} cannot be continued ({type(error).__name__}: {reason})", _EXPECTED, _FIX
        ) from error


def load_model(module: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a checkpoint's parameters; every entry that is missing, unexpected or of another shape
    is named on mismatch.
    """
    own = module.state_dict()
    wrong = [f"{name} missing" for name in own if name not in state]
    wrong += [f"{name} unexpected" for name in state if name not in own]
    wrong += [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{path} is of another model: {', '.join(wrong)}",
            "the run's own model",
            "resume with its own config.json",
        )
    module.load_state_dict(state)
