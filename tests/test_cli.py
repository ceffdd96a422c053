"""The command line: help without heavy imports, and mistakes that end in one line, code 2 and
nothing half-written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from panoseg.cli import COMMANDS, main
from panoseg.models.configs import to_json
from panoseg.models.network import build_network
from panoseg.training import RunConfig, TrainConfig
from panoseg.training.checkpoint import Progress, random_state, save_checkpoint
from tiny_runs import PAPS, UTAE, tiny_options, write_tiny_dataset

_HEAVY = ("torch", "lightning", "xarray", "geopandas", "matplotlib", "scipy", "rasterio")

_HELP = """
import sys
from pathlib import Path
from panoseg.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", [name for name in {heavy} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "words",
    [[], *([name] for name in COMMANDS), ["train", "pastis-utae-paps"], ["weights", "import"]],
    ids=lambda words: "-".join(words) or "panoseg",
)
def test_help_is_light_and_has_an_example(words):
    code = _HELP.format(heavy=_HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "example: panoseg" in " ".join(done.stdout.split())
    assert done.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize(
    ("name", "positional"),
    [
        ("map", "CUBE"),
        ("compare", "PARCELS TRUTH"),
        ("show", "RUN"),
        ("test", "[RUN]"),
        ("simulate", "DIR"),
    ],
)
def test_help_calls_things_as_its_text_does(name, positional, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{positional} " in text.split("positional arguments")[0]
    assert "{None}" not in text


def test_usage_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def refused(capsys, arguments: list[str], *words: str) -> None:
    """The command ends with code 2 and one line on standard error that holds ``words``."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("panoseg")
    assert all(word in error for word in words), error


def train_arguments(data, out, *options: str) -> list[str]:
    experiment = "pastis-utae-paps"
    return [
        "train",
        experiment,
        "--data",
        str(data),
        "--out",
        str(out),
        *tiny_options(experiment),
        "--epochs",
        "1",
        *options,
    ]


def test_unknown_commands_and_experiments(capsys, tmp_path):
    refused(capsys, ["trian"], "'trian'", "train")
    refused(capsys, ["weights", "export"], "import")
    refused(
        capsys,
        ["train", "pastis-utea", "--data", "x", "--out", "y"],
        "pastis-utae-paps",
        "Did you mean pastis-utae?",
    )
    refused(capsys, ["train", "--data", "x"], "--data", "--resume")
    refused(capsys, ["test", "--data", "x"], "either RUN or --weights")
    refused(capsys, ["test", "run", "--weights", "w", "--data", "x"], "either RUN or --weights")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("metadata.geojson", ["metadata.geojson"]),
        ("NORM_S2_patch.json", ["NORM_S2_patch.json"]),
        ("DATA_S2/S2_10.npy", ["S2_10.npy"]),
        ("ANNOTATIONS/TARGET_14.npy", ["TARGET_14.npy"]),
    ],
)
def test_damaged_datasets_leave_nothing_behind(capsys, tmp_path, broken, words):
    data = write_tiny_dataset(tmp_path / "data")
    (data / broken).write_bytes((data / broken).read_bytes()[:50])
    refused(capsys, train_arguments(data, tmp_path / "run"), *words)
    (data / broken).unlink()
    refused(capsys, train_arguments(data, tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_a_mistake_found_in_the_first_epoch_leaves_nothing_behind(capsys, tmp_path):
    """Patch 15 is of a training fold, but not its first patch."""
    data = write_tiny_dataset(tmp_path / "data")
    (data / "DATA_S2" / "S2_15.npy").write_bytes(b"")
    refused(capsys, train_arguments(data, tmp_path / "run"), "S2_15.npy")
    assert not (tmp_path / "run").exists()


def test_impossible_options(capsys, data, tmp_path):
    out = tmp_path / "run"
    refused(
        capsys,
        train_arguments(data, out, "--batch-size", "0"),
        "--batch-size must be a number from 1, not 0",
    )
    refused(
        capsys,
        train_arguments(data, out, "--data.reference-date", "autumn"),
        "autumn",
        "YYYY-MM-DD",
    )
    refused(capsys, train_arguments(data, out, "--data.augmentation.crop", "17"), "crop of 17")
    refused(
        capsys,
        train_arguments(data, out, "--model.backbone.heads", "3"),
        "heads must divide",
        "3 heads",
    )
    assert not out.exists()


def test_an_output_folder_in_use_is_left_alone(capsys, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    refused(capsys, train_arguments(data, tmp_path / "run"), "thesis.tex", "new or empty folder")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    refused(capsys, train_arguments(data, tmp_path / "file"), "file")
    refused(capsys, train_arguments(data, tmp_path / "file" / "run"), "file")


def test_resuming_what_is_no_run(capsys, tmp_path):
    refused(capsys, ["train", "--resume", str(tmp_path / "none")], "config.json")
    (tmp_path / "config.json").write_text("{")
    refused(capsys, ["train", "--resume", str(tmp_path)], "not JSON")
    (tmp_path / "config.json").write_text('{"experiment": "x"}')
    refused(capsys, ["train", "--resume", str(tmp_path)], "data_folder")
    (tmp_path / "folds.json").write_text("[]")
    refused(capsys, ["train", "--resume", str(tmp_path)], "folds.json")


def test_resuming_another_models_checkpoint(capsys, data, tmp_path):
    config = TrainConfig(model=UTAE, workers=0, accelerator="cpu")
    (tmp_path / "config.json").write_text(json.dumps(to_json(RunConfig("x", str(data), 1, config))))
    save_checkpoint(
        tmp_path / "last.ckpt", build_network(PAPS).state_dict(), {}, Progress(), [random_state()]
    )
    before = (tmp_path / "last.ckpt").read_bytes()
    refused(
        capsys,
        ["train", "--resume", str(tmp_path)],
        "last.ckpt",
        "another model",
        "missing",
        "unexpected",
    )
    assert (tmp_path / "last.ckpt").read_bytes() == before
    save_checkpoint(
        tmp_path / "last.ckpt",
        build_network(UTAE).state_dict(),
        {},
        Progress(),
        [random_state()] * 2,
    )
    refused(capsys, ["train", "--resume", str(tmp_path)], "of 2 processes", "but 1 resume it")


def test_weights_that_are_none(capsys, data, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    refused(
        capsys,
        ["test", "--weights", str(tmp_path / "none"), "--data", str(data), *out],
        "no weights",
    )
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "card.json").write_text("{}")
    refused(
        capsys, ["test", "--weights", str(tmp_path / "w"), "--data", str(data), *out], "card.json"
    )
    (tmp_path / "a" / "Fold_1").mkdir(parents=True)
    (tmp_path / "a" / "conf.json").write_text("{}")
    torch.save({"state_dict": print}, tmp_path / "a" / "Fold_1" / "model.pth.tar")
    refused(
        capsys,
        ["test", "--weights", str(tmp_path / "a"), "--data", str(data), *out],
        "model.pth.tar",
        "more than numbers",
    )
    assert not (tmp_path / "out").exists()


def test_a_pipe_that_closes_early_ends_without_a_traceback():
    command = (
        f"{sys.executable} -c 'from panoseg.cli import script; script()' experiments pastis-utae |"
        " head -1"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    closed = f"{sys.executable} -c 'from panoseg.cli import script; script()' experiments | true"
    assert (
        subprocess.run(closed, shell=True, capture_output=True, text=True, timeout=120).stderr == ""
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_what_cannot_be_printed_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", "from panoseg.cli import script; script()", "experiments"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == (
        "panoseg: The output cannot be printed: the disk is full. Free some space and try again.\n"
    )


@pytest.mark.parametrize("option", ["--tta", "--views"])
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("map cube.nc --out map", "--tta must be from 1 to 8, not 9"),
        ("test run --data PASTIS --out scores", "--tta must be between 1 and 8, not 9"),
        ("job submit --photo photo.jpg", "--photo cannot be combined with --register or --tta"),
    ],
)
def test_test_time_augmentation_has_two_names(capsys, command, message, option):
    refused(capsys, [*command.split(), option, "9"], message)
