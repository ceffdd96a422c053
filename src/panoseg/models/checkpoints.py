"""Files that ``torch.save`` wrote, read as tensors and plain values alone; the only place that opens them.

Such files are pickles, which could run code: they are read with ``weights_only`` and never without.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from panoseg.errors import WeightsError


def load_tensors(path: Path, expected: str, fix: str) -> Any:
    """The content of a checkpoint on the CPU. Raises ``WeightsError`` that says what was ``expected`` and how to ``fix`` it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about other protocols of pickling, before it fails
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise WeightsError(f"{path}: {error.strerror}", expected, fix) from error
    except Exception as error:  # a damaged or hostile pickle can fail in any way, an OSError included
        raise WeightsError(f"{path} is damaged or holds more than numbers{_culprit(error)}", expected, fix) from error


def _culprit(error: Exception) -> str:
    """The object that a pickle asked for beside tensors; torch's own message is advice to load it nevertheless."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({asked[1]})" if asked else ""
