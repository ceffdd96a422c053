"""Shared by the tests: where the published programs' outputs and the real samples lie."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes share the cores already; threads that wait for each other would take them away.
    # Before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(kind: str) -> Path:
    folder = SHARED / kind
    if not folder.is_dir():
        pytest.skip(f"{kind} is not at ../shared/{kind}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden cases."""
    return _shared("golden")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data samples."""
    return _shared("data")


@pytest.fixture(scope="session")
def golden_state(golden):
    """A function from (path of params.json, overrides) to the state dict of that golden case, as
    tensors.
    """
    import torch

    spec = importlib.util.spec_from_file_location("golden_weights", golden / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(params: Path, overrides: dict | None = None) -> dict:
        arrays = module.make_state_dict(params, overrides)
        return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}

    return make
