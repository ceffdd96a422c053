"""Shared by the tests: where the published programs' outputs and the real samples lie."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes share the cores already; threads that wait for each other would take them away.
    # Before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

QUICK_ONE_OF = 10
SLOW_FIXTURES = {"browser", "look", "mapped", "run", "runs", "sample", "trained"}
"""Fixtures that train, map, or start a browser."""
SLOW_FILES = {
    "test_app_killed.py",
    "test_app_live.py",
    "test_app_pages.py",
    "test_app_season.py",
    "test_app_whole.py",
    "test_app_worker.py",
    "test_benchmarks.py",
    "test_benchmarks_run.py",
    "test_every_experiment.py",
    "test_experiments.py",
    "test_full_disk.py",
    "test_killed.py",
    "test_large_maps.py",
    "test_map_area.py",
    "test_photograph_training.py",
    "test_resume.py",
    "test_two_commands.py",
    "test_two_processes.py",
}
"""Files whose cheapest test trains, maps or starts a server."""
LONG_FILES = (
    "test_app_pages.py",
    "test_killed.py",
    "test_benchmarks_run.py",
    "test_large_maps.py",
    "test_mapping.py",
    "test_app_worker.py",
    "test_qgis.py",
    "test_app_killed.py",
    "test_app_live.py",
    "test_app_whole.py",
    "test_cube_fetch.py",
    "test_other_systems.py",
    "test_full_disk.py",
    "test_experiments.py",
    "test_every_experiment.py",
    "test_photograph_training.py",
    "test_resume.py",
    "test_training.py",
    "test_register.py",
    "test_shards.py",
    "test_map_area.py",
    "test_cubes_as_people_have_them.py",
    "test_geotiff_folders.py",
)
"""Files that take longest, the longest first."""
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that all processes end together, and mark the tests of
    ``pytest -m quick``: the first of each file and every tenth after it, and the first case of each
    test that compares with golden numbers. Tests that are marked ``slow``, that use one of
    ``SLOW_FIXTURES`` or lie in ``SLOW_FILES`` do not count and are not chosen.
    """
    order = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))  # stable
    place: Counter[str] = Counter()
    golden: set[tuple[str, str]] = set()
    for item in items:
        file, function = item.path.name, item.originalname
        fixtures = set(item.fixturenames)
        if file in SLOW_FILES or fixtures & SLOW_FIXTURES or item.get_closest_marker("slow"):
            continue
        first = "golden" in fixtures and (file, function) not in golden
        golden.add((file, function))
        if first or place[file] % QUICK_ONE_OF == 0:
            item.add_marker("quick")
        place[file] += 1


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
def cases() -> Path:
    """The folder of situations of real people."""
    return _shared("cases")


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


@pytest.fixture(scope="session")
def stac(real_data) -> Path:
    """The folder of the 26 real scenes."""
    return real_data / "flanders-2019" / "stac"


@pytest.fixture(scope="session")
def server(stac, tmp_path_factory):
    """A catalogue of three scenes that works; GDAL asks for a file once, so a test of faults starts
    a server of its own.
    """
    from catalogue_server import DAYS, serve

    with serve(stac, tmp_path_factory.mktemp("api"), DAYS) as running:
        yield running


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """PASTIS's layout with ten patches for trainings of seconds; not to be changed."""
    from tiny_runs import write_tiny_dataset

    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture
def short_retries(monkeypatch) -> None:
    """The waits between tries are for real networks; on this machine they are short."""
    from panoseg.cube import scenes
    from panoseg.imagery import catalogue, remote

    monkeypatch.setattr(catalogue, "RETRIES", catalogue.RETRIES.new(backoff_factor=0.01))
    monkeypatch.setattr(catalogue, "RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(scenes, "RETRY_WAIT_S", 0.01)
    monkeypatch.setitem(remote.GDAL_RETRIES, "GDAL_HTTP_RETRY_DELAY", "0.02")


@pytest.fixture
def short_lock_wait(monkeypatch) -> None:
    """A folder that somebody holds is given up soon."""
    from panoseg import files

    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.2)


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Trainings draw nothing: drawing takes longer than trainings of seconds."""
    for name in ("run.draw_curves", "run.draw_predictions", "run.draw_scores"):
        monkeypatch.setattr(f"panoseg.training.{name}", lambda *_: None)
    for name in ("evaluate.draw_predictions", "evaluate.draw_scores"):
        monkeypatch.setattr(f"panoseg.training.{name}", lambda *_: None)
