"""Features whose packages are not installed say in one line what to install."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from panoseg import errors as extras
from panoseg.app.database import Database
from panoseg.cli import main
from panoseg.errors import ConfigError, is_installed, require
from panoseg.maps import RunOptions
from panoseg.maps.mapping import workers_for
from panoseg.training import run as runs

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


@pytest.fixture
def without(monkeypatch):
    """Make modules look as if they were not installed."""

    def hide(*modules: str) -> None:
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)

    return hide


@pytest.mark.parametrize("extra", extras._MODULES)
def test_the_modules_of_an_extra_are_those_of_its_packages(extra):
    """Otherwise an incomplete installation would end in a traceback."""
    distributions = packages_distributions()
    names = {distributions[module][0] for module in extras._MODULES[extra]}
    requirements = map(Requirement, PROJECT["optional-dependencies"][extra])
    assert {name.lower().replace("_", "-") for name in names} == {
        requirement.name for requirement in requirements
    } - {"panoseg"}


def test_an_extra_is_installed_with_all_of_its_packages(without):
    assert is_installed("app")
    without("uvicorn")
    assert not is_installed("app")
    with pytest.raises(ConfigError, match=r"^A page needs the extra 'app': pip install 'panoseg"):
        require("app", "A page")


@pytest.mark.parametrize(
    ("words", "module", "message"),
    [
        ("app", "nicegui", "panoseg app needs the extra 'app': pip install 'panoseg[app]'."),
        ("app worker", "sqlalchemy", "panoseg app needs the extra 'app'"),
        ("app --dask tcp://127.0.0.1:9", "distributed", "--dask needs the extra 'cluster'"),
        ("job submit --sample 64", "httpx", "panoseg job needs the extra 'app'"),
        ("map cube.nc --out map --workers 2", "distributed", "--workers needs the extra 'cluster'"),
        ("map cube.nc --out map --dask tcp://h:1", "distributed", "--dask needs the extra"),
        (
            "train pastis-utae --data s3://bucket/data --out run",
            "s3fs",
            "pip install 'panoseg[s3]'",
        ),
        (
            "train pastis-utae --data gs://bucket/data --out run",
            "gcsfs",
            "pip install 'panoseg[gs]'",
        ),
    ],
)
def test_a_command_without_its_packages_is_refused_in_one_line(
    words, module, message, without, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    without(module)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_extra(without, capsys):
    without("nicegui", "sqlalchemy", "httpx", "distributed")
    for words in (["app", "--help"], ["map", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "example: panoseg" in capsys.readouterr().out


def test_a_map_in_processes_needs_the_cluster_extra(without):
    without("distributed")
    with pytest.raises(ConfigError, match="cluster"), workers_for(RunOptions(workers=2), None):
        pass


def test_a_postgres_database_needs_its_extra(without):
    without("psycopg")
    with pytest.raises(ConfigError, match=r"pip install 'panoseg\[postgres\]'"):
        Database("postgresql+psycopg://panoseg@127.0.0.1:9/panoseg")


def test_a_training_without_tensorboard_says_so_once_and_logs_to_csv(
    without, tmp_path, monkeypatch, capsys
):
    started = []

    def start(*arguments, **options):
        started.append(arguments)
        return SimpleNamespace(text=lambda: "trained")

    monkeypatch.setattr(runs, "start", start)
    command = ["train", "pastis-utae", "--data", "PASTIS", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert "note" not in capsys.readouterr().out
    without("tensorboard")
    assert main(command) == 0
    assert capsys.readouterr().out == (
        "note: TensorBoard events are not written, which needs the extra 'tensorboard': pip install"
        " 'panoseg[tensorboard]'. log.csv has all numbers.\ntrained\n"
    )
    assert len(started) == 2
    from panoseg.training.checkpoint import RunLog

    without("torch.utils.tensorboard")
    with RunLog(tmp_path, ["loss"]) as log:
        log.write(1, 1, "train", {"loss": 0.5})
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
