"""Panoptic segmentation of satellite image time series and photographs.

The names in ``__all__`` are the public interface; everything else may change between releases.
Each is imported when it is first used, so that ``import panoseg`` imports neither torch nor any
other package.

>>> import panoseg
>>> model = panoseg.load()
>>> result = model.predict(images, dates)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panoseg.api import fetch, load, map, open_cube, simulate, test, train
    from panoseg.classes import ClassTable, SegmentClass
    from panoseg.data.pastis import PASTIS
    from panoseg.data.samples import collate
    from panoseg.errors import PanosegError
    from panoseg.metrics.panoptic_quality import panoptic_quality
    from panoseg.models.model import Model
    from panoseg.panoptic import Panoptic

__version__ = "0.1.0"

__all__ = [
    "PASTIS",
    "ClassTable",
    "Model",
    "Panoptic",
    "PanosegError",
    "SegmentClass",
    "__version__",
    "collate",
    "fetch",
    "load",
    "map",
    "open_cube",
    "panoptic_quality",
    "simulate",
    "test",
    "train",
]

_MODULES = {
    "PASTIS": "data.pastis",
    "ClassTable": "classes",
    "Model": "models.model",
    "Panoptic": "panoptic",
    "PanosegError": "errors",
    "SegmentClass": "classes",
    "collate": "data.samples",
    "fetch": "api",
    "load": "api",
    "map": "api",
    "open_cube": "api",
    "panoptic_quality": "metrics.panoptic_quality",
    "simulate": "api",
    "test": "api",
    "train": "api",
}
"""The module that defines each public name."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name from its module when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
