"""Describe a network in a STAC item: the extension Machine Learning Model 1.4.

Source: stac-extensions/mlm @ v1.4.0.
"""

from __future__ import annotations

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

from panoseg.classes import ClassTable
from panoseg.models.weights import Weights, WeightsCard

_PANOPTIC = [TaskType.PANOPTIC_SEGMENTATION, TaskType.INSTANCE_SEGMENTATION]
_TASKS = {"panoptic": _PANOPTIC, "semantic": [TaskType.SEMANTIC_SEGMENTATION]}
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
    tasks = _TASKS.get(card.model.answers, [TaskType.INSTANCE_SEGMENTATION])
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
