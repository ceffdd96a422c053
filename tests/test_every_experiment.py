"""Every named experiment of seasons on simulated ones: from its name alone, and stopped, resumed,
scored and tested.
"""

from __future__ import annotations

import json

import pytest

from panoseg.cli import main
from panoseg.data.loading import make_loader
from panoseg.models.weights import load_weights
from panoseg.training.checkpoint import read_log
from panoseg.training.experiments import EXPERIMENTS
from panoseg.training.loop import Training
from panoseg.training.run import read_run
from tiny_runs import simulate_tiny, tiny_options

pytestmark = pytest.mark.usefixtures("no_figures")

SEASONS = [name for name, entry in EXPERIMENTS.items() if entry.config.model.inputs == "season"]
QUICK = ["--workers", "0", "--accelerator", "cpu", "--pictures", "0"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Simulated seasons by size and layout, made when they are first asked for."""
    made = {}

    def dataset(name: str, size: int):
        layout = "S2TSCzCrop" if EXPERIMENTS[name].data == "S2TSCzCrop" else "PASTIS"
        if (layout, size) not in made:
            made[layout, size] = simulate_tiny(
                tmp_path_factory.mktemp("season") / "data", size, layout
            )
        return str(made[layout, size])

    return dataset


def stop_after(monkeypatch, steps: int) -> None:
    """Let trainings be interrupted, as by Ctrl-C, when they begin the step after ``steps``."""
    done, begin = [], Training._set_learning_rate

    def stopping(training):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(training.progress.total_steps)
        begin(training)

    monkeypatch.setattr(Training, "_set_learning_rate", stopping)


@pytest.mark.parametrize("name", SEASONS)
def test_two_steps_with_a_stop_between_them(name, datasets, tmp_path, monkeypatch, capsys):
    """Training, validation, resuming, the test fold, and a test of the run that says the same."""
    data, run = datasets(name, 32), tmp_path / "run"
    command = ["train", name, "--data", data, "--out", str(run), *tiny_options(name)]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main([*command, "--epochs", "2", "--max-steps-per-epoch", "1"]) == 130
    assert not (run / "metrics.json").exists()
    assert main(["train", "--resume", str(run)]) == 0
    rows = [(row["epoch"], row["split"]) for row in read_log(run / "log.csv")]
    assert [row for row in rows if row[1] == "train"] == [("1", "train"), ("2", "train")]
    assert ("2", "validation") in rows
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["test"]) >= (
        {"SQ", "RQ", "PQ"}
        if EXPERIMENTS[name].config.model.answers == "panoptic"
        else {"OA", "mIoU"}
    )
    assert load_weights(run / "weights").card.provenance["experiment"] == name
    assert main(["test", str(run), "--data", data, *QUICK]) == 0
    tested = json.loads((run / "test" / "metrics.json").read_text())
    assert (tested["test"], tested["details"]) == (metrics["test"], metrics["details"])


@pytest.mark.parametrize("name", SEASONS)
def test_each_starts_from_its_name_alone(name, datasets, tmp_path, monkeypatch):
    """With the published widths, and all its other options; a step is taken, and the second is
    interrupted.
    """
    monkeypatch.setattr(
        "panoseg.training.splits.make_loader",
        lambda *given, **named: make_loader(*given, **{**named, "workers": 0}),
    )
    stop_after(monkeypatch, 1)
    size = max(16, EXPERIMENTS[name].config.data.augmentation.crop)
    assert (
        main(["train", name, "--data", datasets(name, size), "--out", str(tmp_path / "run")]) == 130
    )
    resolved, config = read_run(tmp_path / "run").train, EXPERIMENTS[name].config
    assert resolved.model == config.model.fitted(
        bands=10, classes=config.model.classes, reference_date=config.data.reference_date
    )
    assert resolved.optimiser == config.optimiser
    assert (tmp_path / "run" / "last.ckpt").exists()
