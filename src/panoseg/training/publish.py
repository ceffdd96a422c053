"""Publish weights: a folder that others can use, or a repository of the Hugging Face Hub.

model.safetensors, card.json    what panoseg reads
README.md                       the page of the model, with the header that the hub reads
item.json                       a STAC item of the extension Machine Learning Model 1.4

A network is described with that extension in the items of maps, too. Source: stac-extensions/mlm @
v1.4.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pystac
import torch
from pystac.extensions.classification import Classification
from pystac.extensions.mlm import (
    Hyperparameters,
    InputStructure,
    MLMExtension,
    ModelInput,
    ModelOutput,
    ResultStructure,
    TaskType,
    ValueScaling,
    ValueScalingType,
)
from pystac.extensions.raster import DataType

import panoseg
from panoseg.classes import ClassTable
from panoseg.errors import ConfigError, OutputError, WeightsError, require
from panoseg.files import hold_folder, new_folder, write_json, write_text
from panoseg.models.model import find_weights
from panoseg.models.weights import CARD, NUMBERS, Weights, WeightsCard, load_weights, save_weights
from panoseg.models.weights_by_name import origin_of
from panoseg.text_files import read_json, reason_of
from panoseg.training.splits import METRICS

PAGE, ITEM = "README.md", "item.json"
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,60}")
_HUB = re.compile(r"hf:([\w.-]{1,96}/[\w.-]{1,96})")
_TASKS = {"panoptic": "panoptic", "semantic": "semantic", "instances": "instance"}


def publish(run: str, to: str, licence: str, title: str | None = None) -> str:
    """Write weights for others.

    Args:
        run: A run, a folder of weights, or a name.
        to: A new folder, or hf:OWNER/NAME.
        licence: Licence of the weights, as SPDX names it.
        title: Title of the page; None takes the name of the folder or repository.

    Returns:
        What was written, and where, in a line.

    Raises:
        ConfigError: The licence or the name of the repository is none.
        WeightsError: The weights cannot be read, or the hub does not take them.
        OutputError: The folder cannot be written.
    """
    if not _LICENCE.fullmatch(licence):
        raise ConfigError(
            f"--licence {licence!r} is no licence as SPDX names them: MIT, Apache-2.0, CC-BY-4.0."
        )
    folder = find_weights(run)
    if not isinstance(folder, Path):
        raise ConfigError("These weights are torchvision's; publish those of a training.")
    weights = load_weights(folder)
    provenance = {
        **{key: _without_path(value) for key, value in weights.card.provenance.items()},
        "licence": licence,
    }
    scores = {**weights.card.scores, **_test_scores(Path(run))}
    card = replace(weights.card, provenance=provenance, scores=scores)
    published = Weights(card, weights.state)
    repository = _HUB.fullmatch(to)
    if to.startswith("hf:") and repository is None:
        raise ConfigError(f"{to!r} is no repository of the hub. Write hf:OWNER/NAME.")
    if repository is None:
        with hold_folder(to):
            out = new_folder(Path(to))
            _write(out, published, licence, title or out.resolve().name, origin_of(folder))
        return f"{', '.join((NUMBERS, CARD, PAGE, ITEM))} in {out}"
    with TemporaryDirectory(prefix="panoseg-") as scratch:
        out = Path(scratch) / "weights"
        name = title or repository[1].rpartition("/")[2]
        _write(out, published, licence, name, origin_of(folder), repository[1])
        return _upload(out, repository[1])


def _without_path(value: Any) -> Any:  # noqa: ANN401
    """Return the last part of an absolute path: others need not know where files are here."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _test_scores(run: Path) -> dict[str, Any]:
    """Return the scores of a run on its test set; none where it has not been scored."""
    path = run / METRICS
    try:
        if not path.exists():
            return {}
        found = read_json(path).get("test", {})
        return {
            f"test_{name}": round(float(value), 3)
            for name, value in found.items()
            if isinstance(value, int | float)
        }
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{path} cannot be read ({reason_of(error)}). Score the run again with panoseg test."
        ) from error


def _write(
    out: Path,
    weights: Weights,
    licence: str,
    title: str,
    origin: Mapping[str, Any] | None,
    repository: str | None = None,
) -> None:
    """Write the files; card and numbers first, so that an unfinished folder has no page."""
    save_weights(out, weights)
    write_json(out / ITEM, model_item(weights, title, licence))
    write_text(out / PAGE, model_page(weights, title, licence, origin, repository))


def model_page(
    weights: Weights,
    title: str,
    licence: str,
    origin: Mapping[str, Any] | None = None,
    repository: str | None = None,
) -> str:
    """Return the page of a model in Markdown, with the header of the hub.

    Args:
        weights: The weights.
        title: Title of the page.
        licence: Licence of the weights.
        origin: Where they came from, if they were fetched.
        repository: OWNER/NAME on the hub; None for a folder.
    """
    card = weights.card
    command = {"season": "map season.nc", "photograph": "photo a.jpg"}[card.model.inputs]
    place = f"hf:{repository}" if repository else "FOLDER"
    kind = "satellite image time series" if card.model.inputs == "season" else "photographs"
    header = {
        "license": licence.lower(),
        "library_name": "panoseg",
        "pipeline_tag": "image-segmentation",
        "tags": [
            f"{_TASKS.get(card.model.answers, 'panoptic')}-segmentation",
            card.model.name,
            "remote-sensing" if card.model.inputs == "season" else "photographs",
        ],
    }
    # JSON is YAML, whatever the values are.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    scores = [f"| {name} | {value} |" for name, value in card.scores.items()]
    facts = {
        "Network": card.model.title,
        "Numbers": f"{sum(tensor.numel() for tensor in weights.state.values()):,}",
        "Reads": f"{kind}"
        + (f", bands {', '.join(card.bands)}" if card.model.inputs == "season" else ""),
        "Answers": card.model.answers,
        "Classes": f"{card.classes.name}: {', '.join(one.name for one in card.classes.classes)}",
        "Trained on": card.trained_on or "not stated",
        "Licence": licence,
        "Written by": f"panoseg {panoseg.__version__}",
    }
    if origin:
        facts["Came from"] = f"{origin.get('name')}, {origin.get('page')}"
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            f"# {' '.join(title.split())}",
            "",
            *[f"- **{name}**: {' '.join(str(value).split())}" for name, value in facts.items()],
            "",
            "```",
            f"panoseg {command} --weights {place} --out OUT",
            "```",
            "",
            *(["| score | value |", "|---|---|", *scores] if scores else ["No scores are known."]),
            "",
            f"`{CARD}` has every option of the network, the normalisation of its inputs, its table"
            " of classes, and how it was trained.",
            "",
        ]
    )


def model_item(weights: Weights, title: str, licence: str) -> dict[str, Any]:
    """Return a STAC item of a model, JSON-ready; the links are relative to it."""
    import pystac
    from pystac.extensions.mlm import AssetGeneralMLMExtension

    bands = bands_of(weights.card)
    item = pystac.Item(
        id=re.sub(r"[^\w.-]+", "-", title) or "model",
        geometry=None,
        bbox=None,
        datetime=datetime.now(UTC).replace(microsecond=0),
        properties={"title": title, "license": licence, "bands": bands},
    )
    describe_model(item, weights, -1, {"panoseg": panoseg.__version__})
    asset = pystac.Asset(
        f"./{NUMBERS}",
        "The numbers of the network",
        media_type="application/octet-stream",
        roles=["mlm:model", "data"],
        extra_fields={"bands": bands},
    )
    item.add_asset("model", asset)
    AssetGeneralMLMExtension.ext(asset).apply(artifact_type="safetensors")
    for key, name, words in (
        ("card", CARD, "Options, classes and provenance"),
        ("page", PAGE, "The page of the model"),
    ):
        media = "application/json" if name == CARD else "text/markdown"
        item.add_asset(key, pystac.Asset(f"./{name}", words, media_type=media, roles=["metadata"]))
    return item.to_dict(include_self_link=False)


def _upload(folder: Path, repository: str) -> str:
    """Upload a folder to the hub, as the user who has signed in; returns a line."""
    require("hub", f"hf:{repository}")
    from panoseg.models.fetching import HUB, check_online

    check_online()
    from huggingface_hub import HfApi

    api = HfApi(endpoint=HUB)
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Weights by panoseg {panoseg.__version__}",
        )
    except Exception as error:  # of its client, which has changed from version to version
        raise OutputError(
            f"The hub does not take hf:{repository} ({reason_of(error)}). Sign in with hf auth"
            " login, as somebody who may write there."
        ) from error
    return f"{', '.join((NUMBERS, CARD, PAGE, ITEM))} in hf:{repository}"


_PANOPTIC = [TaskType.PANOPTIC_SEGMENTATION, TaskType.INSTANCE_SEGMENTATION]
_MLM_TASKS = {"panoptic": _PANOPTIC, "semantic": [TaskType.SEMANTIC_SEGMENTATION]}
COLOURS = ("red", "green", "blue")
"""The bands of photographs."""


def classifications(table: ClassTable) -> list[Classification]:
    """Return the classes in the form of the classification extension."""
    return [
        Classification.create(
            value=entry.id,
            name=entry.name,
            description=entry.name,
            color_hint=entry.colour[1:].upper(),
        )
        for entry in table.classes
    ]


def bands_of(card: WeightsCard) -> list[dict[str, str]]:
    """Return what a network sees, in the form of STAC 1.1."""
    names = card.bands if card.model.inputs == "season" else COLOURS
    return [{"name": name} for name in names]


def describe_model(
    item: pystac.Item, weights: Weights, tile: int, hyperparameters: dict[str, Any]
) -> None:
    """Add the fields of the extension to an item.

    Args:
        item: The item; its properties have the bands.
        weights: The network.
        tile: Pixels on a side that it sees at once; -1 for any.
        hyperparameters: How it is used.
    """
    card = weights.card
    tasks = _MLM_TASKS.get(card.model.answers, [TaskType.INSTANCE_SEGMENTATION])
    found = ModelOutput.create(
        name="parcels" if card.model.inputs == "season" else "segments",
        tasks=tasks,
        result=ResultStructure.create(
            shape=[1, tile, tile],
            dim_order=["batch", "height", "width"],
            data_type=DataType.INT32,
        ),
        classes=classifications(card.classes),
    )
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=card.model.name,
        architecture=card.model.title,
        framework="PyTorch",
        framework_version=torch.__version__.split("+")[0],
        tasks=tasks,
        total_parameters=sum(tensor.numel() for tensor in weights.state.values()),
        pretrained=True,
        pretrained_source=card.trained_on or "not stated",
        input=[_seen(card, tile)],
        output=[found],
        hyperparameters=Hyperparameters.create(**hyperparameters),
    )


def _seen(card: WeightsCard, tile: int) -> ModelInput:
    """Return the input of a network."""
    if card.model.inputs == "photograph":
        return ModelInput.create(
            name="a photograph, RGB of 8 bits",
            bands=list(COLOURS),
            input=InputStructure.create(
                shape=[1, 3, tile, tile],
                dim_order=["batch", "channel", "height", "width"],
                data_type=DataType.UINT8,
            ),
        )
    seen = ModelInput.create(
        name="a season of Sentinel-2, reflectance x 10 000",
        bands=list(card.bands),
        input=InputStructure.create(
            # Any number of dates is possible; how many were used is among the hyperparameters.
            shape=[1, -1, len(card.bands), tile, tile],
            dim_order=["batch", "time", "channel", "height", "width"],
            data_type=DataType.FLOAT32,
        ),
    )
    if card.normalisation is not None:
        # pystac sets a single scaling, but the extension wants one for each band.
        seen.properties["value_scaling"] = [
            ValueScaling.create(
                type=ValueScalingType.Z_SCORE, mean=mean, stddev=deviation
            ).to_dict()
            for mean, deviation in zip(card.normalisation.mean, card.normalisation.std, strict=True)
        ]
    return seen
