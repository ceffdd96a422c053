"""The only place that opens files of ``torch.save``.

Such files are pickles, which could run code: they are read with ``weights_only``, as tensors and
plain values alone, and never without. What they hold is checked to be plain numbers in memory.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from panoseg.errors import WeightsError


def load_tensors(path: Path, advice: str) -> Any:  # noqa: ANN401
    """Return the content of a checkpoint, on the CPU.

    Args:
        path: The file.
        advice: What the user can do where the file cannot be read: a sentence for the message.

    Raises:
        WeightsError: The file is missing or damaged, or holds code.
    """
    try:
        with warnings.catch_warnings():
            # Before torch fails it warns about other protocols of pickling.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise WeightsError(f"{path}: {error.strerror}. {advice}") from error
    # A damaged or hostile pickle can fail in any way, an OSError included.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or holds more than numbers{_culprit(error)}. {advice}"
        ) from error
    for tensor in _tensors_in(content):
        if unusual := _unusual(tensor):
            raise WeightsError(f"{path} has a tensor {unusual}. {advice}")
    return content


def _tensors_in(content: object) -> Iterator[Tensor]:
    """Yield every tensor in nested tables and lists, which may contain themselves."""
    todo, seen = [content], set[int]()
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, Mapping) else value


def _unusual(tensor: Tensor) -> str:
    """Return what distinguishes a tensor from plain numbers in memory; empty for nothing."""
    if tensor.device.type != "cpu":
        return f"without values, on the device {tensor.device.type}"
    if tensor.is_quantized:
        return "of quantised numbers"
    if tensor.layout != torch.strided:
        return f"with the layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_complex():
        return "of complex numbers"
    # A few numbers that stand for many, in memory that would have to be had.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"of shape {tuple(tensor.shape)}, which has fewer numbers in the file"
    return ""


def _culprit(error: Exception) -> str:
    """Return the object that a pickle asked for besides tensors.

    torch's own message is advice to load it nevertheless.
    """
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({asked[1]})" if asked else ""
