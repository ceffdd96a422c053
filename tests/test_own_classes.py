"""Own datasets in PASTIS's layout: other classes, other bands, from the table to the scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from panoseg.cli import main
from panoseg.data.pastis_files import own_bands, read_class_table
from panoseg.errors import ConfigError, DatasetError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.models.weights import load_weights
from panoseg.training import TrainConfig
from panoseg.training.run import start
from small_pastis import write_small_pastis
from tiny_runs import PAPS, UTAE

TABLE = "id,name,kind,colour\n0,water,stuff,#0000FF\n1,rice,thing,\n2,unknown,void,\n3,tea,,\n"


@pytest.fixture
def own(tmp_path) -> Path:
    """Five patches of four bands with the classes 0 to 3; statistics are missing."""
    folder = write_small_pastis(tmp_path / "own", dict.fromkeys(range(1, 6), (20181001, 20190420)))
    for path in (folder / "DATA_S2").iterdir():
        np.save(path, np.load(path)[:, :4])
    for path in (folder / "ANNOTATIONS").glob("TARGET_*"):
        target_3HW = np.load(path)
        target_3HW[target_3HW == 19] = 2
        np.save(path, target_3HW)
    (folder / "NORM_S2_patch.json").unlink()
    return folder


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "crops.csv"
    path.write_text(TABLE)
    return path


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        "\ufeff" + TABLE,
        TABLE.replace("id,name,kind,colour", "Code,Class,Type,Color").replace("\n", "\r\n"),
        "name,id\nwater,0\nrice,1\nvoid,2\ntea,3\n",
        "sep=;\nid;name\n\n0;water\n1;rice\n2;void\n3;tea;;\n",
        "id\tname\n0\twater\n1\trice\n2\tvoid\n3\ttea\n".encode("utf-16"),
    ],
)
def test_tables_of_all_programs_are_read(table, text):
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    read = read_class_table(table)
    assert read.name == "crops"
    assert [(entry.id, entry.kind) for entry in read.classes] == [
        (0, "stuff"),
        (1, "thing"),
        (2, "void"),
        (3, "thing"),
    ]
    assert [entry.name for entry in read.classes][::3] == ["water", "tea"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no columns id and name"),
        ("rice,1\n", "has no columns id and name"),
        ("id,name\n", "has no columns id and name"),
        ("id,name\n300,rice\n", "line 2: the id is '300'"),
        ("id,name\nx,rice\n", "line 2: the id is 'x'"),
        ("id,name\n1,rice\n1,tea\n", "several rows of the id 1"),
        ("id,name\n1,rice\n2,rice\n", "several rows of the name rice"),
        ("id,name,kind\n1,rice,crop\n", "line 2: the kind is 'crop'"),
        ("id,name,colour\n1,rice,green\n", "line 2: the colour is 'green'"),
        ("id,name\n1,rice\n2,fruits, nuts\n", "line 3 has 3 values, and the first line names 2"),
    ],
)
def test_tables_that_are_wrong_are_one_line(table, text, said):
    table.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_class_table(table)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_own_dataset_is_described_trained_and_scored(own, table, tmp_path, capsys):
    assert main(["describe", str(own)]) == 2
    assert main(["describe", str(own), "--classes", str(table), "--normalisation"]) == 0
    printed = capsys.readouterr().out
    assert "rice" in printed
    assert "water" in printed
    norm = json.loads((own / "NORM_S2_patch.json").read_text())
    assert len(norm["Fold_1"]["mean"]) == 4
    assert own_bands(own) == ("band 1", "band 2", "band 3", "band 4")
    config = TrainConfig(
        model=UTAE, epochs=1, batch_size=1, accelerator="cpu", workers=0, max_steps_per_epoch=1
    )
    with pytest.raises(DatasetError, match=r"pass --classes table\.csv"):
        start("test", config, own, 1, tmp_path / "none")
    for name, model in (("semantic", UTAE), ("panoptic", PAPS)):
        run = tmp_path / name
        start("test", replace(config, model=model, classes=str(table)), own, 1, run)
        weights = load_weights(run / "weights")
        assert weights.card.normalisation.bands == own_bands(own)
        assert [entry.name for entry in weights.card.classes.classes] == [
            "water",
            "rice",
            "unknown",
            "tea",
        ]
        model = weights.card.model
        assert (model.bands, model.classes) == (4, 4)
        words = ["test", str(run), "--data", str(own), "--workers", "0", "--accelerator", "cpu"]
        assert main([*words, "--out", str(tmp_path / f"{name}-test")]) == 0
        assert "rice" in capsys.readouterr().out
    words = ["show", str(run), "--data", str(own), "--patch", "3"]
    assert main([*words, "--out", str(tmp_path / "patch.png")]) == 0


def test_a_table_is_for_the_layout_of_pastis(own, table, tmp_path, capsys):
    (own / "metadata.geojson").unlink()
    assert main(["describe", str(own), "--classes", str(table)]) == 2
    assert "leave out --classes" in capsys.readouterr().err
    assert own_bands(write_small_pastis(tmp_path / "ten")) == PASTIS_BANDS


def test_a_truth_without_any_class_is_noticed(own, table, tmp_path):
    for path in (own / "ANNOTATIONS").glob("TARGET_*"):
        np.save(path, np.full((3, 16, 16), 2, np.uint8))
    assert main(["describe", str(own), "--classes", str(table), "--normalisation"]) == 0
    config = TrainConfig(
        model=UTAE, epochs=1, batch_size=1, accelerator="cpu", workers=0, max_steps_per_epoch=1
    )
    result = start("test", replace(config, classes=str(table)), own, 1, tmp_path / "run")
    assert "note: no class of the table occurs in the truth of fold 5" in result.text()
