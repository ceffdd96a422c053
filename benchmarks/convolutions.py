"""The convolutions of a network alone: each call that it makes, in the same shapes and layouts, and
nothing between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from networks import best_seconds

_FORWARD, _BACKWARD = (
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
)


class Layout(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """Noise in this layout."""
        reach = 1 + sum(
            (length - 1) * stride for length, stride in zip(self.shape, self.stride, strict=True)
        )
        return torch.randn(reach).to(self.dtype).as_strided(self.shape, self.stride)


class Call(NamedTuple):
    """A convolution, or the gradients of one: all that its time depends on."""

    operation: Callable
    arguments: tuple

    def prepared(self) -> Callable[[], object]:
        """The call with arguments of its own."""
        arguments = [
            value.tensor() if isinstance(value, Layout) else value for value in self.arguments
        ]
        return lambda: self.operation(*arguments)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Call] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if function in (_FORWARD, _BACKWARD):
            self.calls[Call(function, tuple(_described(value) for value in args))] += 1
        return function(*args, **(kwargs or {}))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Layout(tuple(value.shape), value.stride(), value.dtype)
    return tuple(value) if isinstance(value, list) else value


@contextmanager
def recorded() -> Iterator[Counter[Call]]:
    """How often each convolution is called inside the block. Not under ``inference_mode``, which
    calls them otherwise.
    """
    with _Recorder() as recorder:
        yield recorder.calls


@torch.no_grad()
def alone(calls: Counter[Call], repeats: int) -> tuple[int, float]:
    """FLOP of the convolutions forward, and the seconds that all calls take one after the other,
    each at its best.
    """
    flop, seconds = 0, 0.0
    for call, times in calls.items():
        work = call.prepared()
        if call.operation is _FORWARD:
            with FlopCounterMode(display=False) as counter:
                work()
            flop += times * counter.get_total_flops()
        seconds += times * best_seconds(work, repeats, longest_s=1.0)
    return flop, seconds
