"""A network that nobody has seen before trains, is scored, drawn, and used, for both kinds of input.

It is one class, one configuration and one entry: what a new network must bring.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cubes import make_cube
from panoseg.app.requests import MapChoices
from panoseg.cli import main
from panoseg.errors import ConfigError, WeightsError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps import MapOptions
from panoseg.maps.inputs import open_inputs
from panoseg.maps.mapping import LocalWorkers, map_cube
from panoseg.maps.predict import OpenJob
from panoseg.models.configs import CONFIGS
from panoseg.models.configs.base import NetworkConfig
from panoseg.models.model import Model
from panoseg.models.network import PLAIN, Network, build_network
from panoseg.models.weights import load_weights
from panoseg.panoptic import Panoptic
from panoseg.photo import PhotoOptions
from panoseg.photo.segment import open_model
from panoseg.training import OptimiserConfig, TrainConfig
from panoseg.training.checkpoint import read_log
from panoseg.training.evaluate import score_folder, show
from panoseg.training.run import start
from panoseg.training.scorers import SCORERS, scorer_of
from photograph_runs import simulate_photographs
from small_networks import save_small_networks
from tiny_runs import write_tiny_dataset


@dataclass(frozen=True)
class ConstantSeasonConfig(NetworkConfig):
    """Options of ``Constant`` for seasons."""

    name: ClassVar[str] = "constant_season"
    title: ClassVar[str] = "Constant"
    network: ClassVar[str] = f"{__name__}:Constant"
    inputs = "season"
    answers = "panoptic"
    scorer = "parcels"
    max_tta = 2
    train_options = frozenset({"data", "tune_threshold"})
    stride: ClassVar[int] = 8

    bands: int = 10
    """Channels of an image."""
    classes: int = 20
    """Classes of the table."""


@dataclass(frozen=True)
class ConstantPhotographConfig(NetworkConfig):
    """Options of ``Constant`` for photographs."""

    name: ClassVar[str] = "constant_photograph"
    title: ClassVar[str] = "Constant"
    network: ClassVar[str] = f"{__name__}:Constant"
    inputs = "photograph"
    answers = "panoptic"
    scorer = "coco_panoptic"
    train_options = frozenset({"photographs"})

    things: int = 1
    """Classes of things."""
    stuff: int = 1
    """Classes of stuff."""

    @property
    def classes(self) -> int:
        """All classes."""
        return self.things + self.stuff


class Constant(Network):
    """One rectangle in the middle of every image; its one parameter is the logarithm of its score."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.level = nn.Parameter(torch.tensor([1.0]))

    def losses(self, batch, heatmap_only=False):
        return {"loss": (self.level**2).sum()}

    @torch.no_grad()
    def predict(self, batch, options=PLAIN):
        if self.inputs == "season":
            sizes = [batch.images_BTCHW.shape[-2:]] * len(batch.names)
        else:
            sizes = [photograph.size_HW for photograph in batch.photographs]
        return [self._rectangle(*size) for size in sizes]

    def _rectangle(self, height: int, width: int) -> Panoptic:
        segment_HW = np.zeros((height, width), np.int32)
        segment_HW[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
        score = float(torch.exp(-self.level.abs()))
        return Panoptic.from_maps(
            segment_HW, {1: self.table.ids("thing")[0]}, self.table, {1: score}
        )


@pytest.fixture(autouse=True)
def _entries(monkeypatch):
    """The one entry of each."""
    monkeypatch.setitem(CONFIGS, "constant_season", ConstantSeasonConfig)
    monkeypatch.setitem(CONFIGS, "constant_photograph", ConstantPhotographConfig)


COMMON = TrainConfig(
    model=ConstantSeasonConfig(),
    optimiser=OptimiserConfig(learning_rate=0.1),
    initialisation="torch",
    epochs=2,
    batch_size=2,
    workers=0,
    accelerator="cpu",
    log_every=1,
)


def train_rows(folder) -> list[float]:
    return [float(row["loss"]) for row in read_log(folder / "log.csv") if row["split"] == "train"]


@pytest.fixture(scope="module")
def seasons(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "constant_season", ConstantSeasonConfig)
        folder = tmp_path_factory.mktemp("seasons")
        data = write_tiny_dataset(folder / "data")
        result = start("constant", COMMON, data, 1, folder / "run")
    return data, folder / "run", result


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "constant_photograph", ConstantPhotographConfig)
        folder = tmp_path_factory.mktemp("photographs")
        data = simulate_photographs(folder / "data")
        config = replace(COMMON, model=ConstantPhotographConfig())
        result = start("constant", config, data, 1, folder / "run")
    return data, folder / "run", result


def test_it_learns_seasons_and_is_scored(seasons):
    _, run, result = seasons
    losses = train_rows(run)
    assert losses[-1] < losses[0]
    assert set(result.scores.summary()) == set(SCORERS["parcels"].metric_names)
    assert result.notes == ()
    assert load_weights(run / "weights").network().level.item() < 1


def test_it_learns_photographs_and_is_scored(photographs):
    _, run, result = photographs
    losses = train_rows(run)
    assert losses[-1] < losses[0]
    summary = result.scores.summary()
    assert {"PQ", "SQ", "RQ", "mIoU", "OA"} <= set(summary)
    assert "box_AP" not in summary  # it gives no candidates


def test_it_is_tested_and_shown(seasons, photographs, tmp_path, capsys):
    for number, (data, run, _) in enumerate((seasons, photographs)):
        out = tmp_path / str(number)
        quick = ["--workers", "0", "--accelerator", "cpu", "--pictures", "1"]
        assert main(["test", str(run), "--data", str(data), "--out", str(out), *quick]) == 0
        assert "PQ" in json.loads((out / "metrics.json").read_text())["test"]
        assert (out / "pictures" / "classes.png").exists()
        name = next((out / "pictures").glob("p*-*.png")).stem.partition("-")[2]
        name = name if number == 0 else name.replace("-", "/", 1)
        figure = tmp_path / f"{number}.png"
        words = ["show", str(run), "--data", str(data), "--patch", name, "--out", str(figure)]
        shown = main(words)
        assert shown == 0, capsys.readouterr().err
        assert figure.exists()


def test_it_segments_any_season(seasons):
    model = Model.load(seasons[1], device="cpu", tta=2)
    images = np.full((3, 10, 20, 13), 900.0, np.float32)
    images[1, :, :2] = np.nan
    images[:, :, 10, 6] = 0
    days = [date(2020, 5, 1), date(2019, 11, 3), date(2020, 7, 1)]
    result = model.predict(images, days)
    assert result.segment_HW.shape == (20, 13)
    assert result.segment_HW[10, 6] == 0  # never seen
    assert result.segment_HW[10, 7] == 1
    with pytest.raises(ConfigError, match=r"--tta must be from 1 to 2 for .*, not 3\."):
        Model.load(seasons[1], device="cpu", tta=3)
    with pytest.raises(ConfigError, match="a season needs dates"):
        model.predict(images)


def test_it_segments_any_photograph(photographs, tmp_path):
    model = Model.load(photographs[1], device="cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (21, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = [
        model.predict(given) for given in (pixels, Image.fromarray(pixels), tmp_path / "a.png")
    ]
    assert all(one.same_up_to_ids(found[0]) for one in found)
    assert found[0].segment_HW.shape == (21, 40)
    with pytest.raises(ConfigError, match="a photograph has no dates"):
        model.predict(pixels, [date(2020, 1, 1)])


def test_it_makes_maps_and_segments_photographs_by_command(seasons, photographs, tmp_path):
    make_cube(48).to_netcdf(tmp_path / "season.nc")
    options = MapOptions(tile=32, overlap=8, tta=1, min_area_ha=0.03, device="cpu")
    weights = seasons[1] / "weights"
    result = map_cube(tmp_path / "season.nc", weights, tmp_path / "map", options)
    assert result.summary.count >= 1
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "a.png")
    words = ["--weights", str(photographs[1]), "--out", str(tmp_path / "photo"), "--device", "cpu"]
    assert main(["photo", str(tmp_path / "a.png"), *words]) == 0
    assert (tmp_path / "photo" / "panoptic.json").exists()
    with pytest.raises(ConfigError, match="--score does nothing with Constant"):
        open_model(str(photographs[1]), None, PhotoOptions(score=0.5))


def test_weights_of_one_kind_are_refused_where_the_other_belongs(seasons, photographs, tmp_path):
    make_cube(48).to_netcdf(tmp_path / "season.nc")
    with pytest.raises(WeightsError, match="Use panoseg photo"):
        map_cube(tmp_path / "season.nc", photographs[1] / "weights", tmp_path / "map")
    with pytest.raises(WeightsError, match="Use panoseg map"):
        open_model(str(seasons[1]), None, PhotoOptions())
    config = replace(COMMON, model=ConstantPhotographConfig())
    with pytest.raises(ConfigError, match="reads photographs, but"):
        start("constant", config, seasons[0], 1, tmp_path / "run")


# What all networks declare


@pytest.mark.parametrize("name", CONFIGS)
def test_every_network_declares_what_it_is(name):
    config = CONFIGS[name]()
    scorer = scorer_of(config)
    assert config.inputs in ("season", "photograph")
    assert config.answers in ("panoptic", "semantic", "instances")
    assert scorer.score_name in scorer.metric_names
    options = {entry.name for entry in fields(TrainConfig)}
    assert config.train_options <= options
    assert config.loss_option is None or config.loss_option in config.train_options
    assert 1 <= config.max_tta <= 8


def test_a_scorer_that_is_not_there_is_told():
    @dataclass(frozen=True)
    class Odd(ConstantSeasonConfig):
        scorer = "luck"

    with pytest.raises(ConfigError, match="declares the scorer 'luck'"):
        scorer_of(Odd())


def test_a_network_without_a_table_says_so():
    with pytest.raises(ValueError, match="without a table"):
        _ = build_network(ConstantSeasonConfig()).table


# Faults that were there


def test_a_test_on_the_validation_set_is_told(photographs):
    """Photographs have no test set; a dataset of one set is tested on what it learned from."""
    _, run, result = photographs
    [note] = result.notes
    assert "no test set" in note
    assert f"note: {note}" in result.text()
    assert json.loads((run / "metrics.json").read_text())["notes"] == [note]


def test_a_refused_cube_costs_no_weights(seasons, tmp_path, monkeypatch):
    """The cube is looked at before the numbers of the weights are read."""
    cube = make_cube(48).drop_vars(PASTIS_BANDS[3])
    cube.to_netcdf(tmp_path / "season.nc")

    def loaded(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("panoseg.maps.inputs.load_weights", loaded)
    code = main(
        [
            "map",
            str(tmp_path / "season.nc"),
            "--weights",
            str(seasons[1] / "weights"),
            "--out",
            str(tmp_path / "map"),
        ]
    )
    assert code == 2


def test_a_network_is_built_once(seasons, monkeypatch):
    """Loading checks the shapes with a network, which is the one that is used."""
    built, build = [], build_network
    monkeypatch.setattr(
        "panoseg.models.weights.build_network", lambda *given: built.append(1) or build(*given)
    )
    images = np.full((2, 10, 16, 16), 900.0, np.float32)
    days = [date(2020, 5, 1), date(2020, 5, 1) + timedelta(days=9)]
    Model.load(seasons[1], device="cpu").predict(images, days)
    assert len(built) == 1


def test_a_season_network_that_is_not_paps_is_scored_by_what_it_declares(seasons):
    """It is panoptic, so parcels are scored; no network falls back to the scores of pixels."""
    model = load_weights(seasons[1] / "weights").card.model
    assert scorer_of(model) is SCORERS["parcels"]
    assert {"SQ", "RQ", "PQ"} <= seasons[2].scores.summary().keys()


_IMPORTED_BY = """
import sys
from panoseg.cli import main
assert main(sys.argv[1:]) == 0
unused = ("xarray", "rasterio", "dask", "geopandas", "panoseg.training", "panoseg.maps")
print("unused:", [name for name in unused if name in sys.modules])
"""


def test_photo_imports_no_package_of_cubes_maps_and_trainings(tmp_path):
    save_small_networks(tmp_path)
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "a.png")
    words = ["photo", str(tmp_path / "a.png"), "--weights", str(tmp_path / "boxes")]
    words += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED_BY, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("unused: []\n"), done.stdout


def test_tiles_are_counted_while_their_window_is_predicted(seasons, tmp_path):
    cube = make_cube(48)
    cube[PASTIS_BANDS[0]][:, :32, :32] = 0
    cube.to_netcdf(tmp_path / "season.nc")
    options = MapOptions(tile=32, overlap=16, tta=1, device="cpu")
    weights = seasons[1] / "weights"
    given = open_inputs(tmp_path / "season.nc", weights, options, None, False, None)
    events: list[object] = []
    LocalWorkers(OpenJob(given.job, given.cube)).predict(
        list(enumerate(given.plan)),
        lambda number, _: events.append(f"window {number}"),
        events.append,
    )
    assert events == [1, 1, 1, 1, "window 0"]  # the first for the tile without data


def test_the_web_application_takes_its_defaults_from_the_options_of_a_map():
    """Their values stand in one place: the source names them."""
    shared = MapChoices.model_fields.keys() & {entry.name for entry in fields(MapOptions)}
    assert shared == {"min_clear", "max_dates", "min_area_ha", "simplify"}
    source = inspect.getsource(MapChoices)
    assert [name for name in shared if f"default=MapOptions.{name}," not in source] == []


def test_trainings_scores_and_figures_are_returned_and_not_printed(seasons, tmp_path, capsys):
    data, run, _ = seasons
    capsys.readouterr()
    started = start("constant", COMMON, data, 1, tmp_path / "run")
    scored = score_folder(run, data, tmp_path / "scores", COMMON, pictures=0)
    drawn = show(run, data, "12", tmp_path / "a.png")
    assert capsys.readouterr().out == ""
    [scores] = scored.scores.values()
    assert scores.summary() == pytest.approx(started.scores.summary(), nan_ok=True)
    assert (drawn.path, drawn.path.exists()) == (tmp_path / "a.png", True)
    assert drawn.words.startswith("patch 12, ")
