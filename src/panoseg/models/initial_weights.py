"""Published weights by name: ImageNet's for backbones, COCO's for Mask R-CNN.

torchvision fetches them once and keeps them: ``ResNet18_Weights.IMAGENET1K_V1``,
``ResNet50_Weights.IMAGENET1K_V1`` and ``MaskRCNN_ResNet50_FPN_Weights.COCO_V1`` (box AP 37.9, mask
AP 34.6 on val2017).
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor
from torchvision.models import ResNet18_Weights, ResNet50_Weights, WeightsEnum
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import WeightsError
from panoseg.models.configs.photograph import Backbone, MaskRcnnConfig
from panoseg.models.weights import Weights, WeightsCard

_IMAGENET: dict[Backbone, WeightsEnum] = {
    "resnet18": ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": ResNet50_Weights.IMAGENET1K_V1,
}
_COCO = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
_ROWS_A_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
"""Layers whose outputs are those of classes, and how many outputs a class has."""


def take_initial_weights(model: Any, table: ClassTable) -> str:  # noqa: ANN401
    """Give a network the initial weights that its options name.

    Args:
        model: The network; it keeps its random weights if its options name none.
        table: What the network's classes mean; weights of COCO's classes of the same name are
            taken.

    Returns:
        A line that says what was taken.

    Raises:
        WeightsError: The weights are not kept on this machine and cannot be fetched.
    """
    name = model.config.weights
    if name == "none":
        return "initial weights: drawn"
    if name == "imagenet":
        body: Any = getattr(model.backbone, "body", model.backbone)
        state = fetch_state(_IMAGENET[model.config.backbone])
        body.load_state_dict(
            {entry: value for entry, value in state.items() if not entry.startswith("fc.")}
        )
        return f"initial weights: ImageNet's for the {model.config.backbone}, the rest drawn"
    rows, known = _rows_of_classes([entry.name for entry in table.classes if entry.kind == "thing"])
    drawn = model.state_dict()
    model.load_state_dict(_converted(fetch_state(_COCO), rows, drawn), strict=False)
    return (
        f"initial weights: COCO's; {known} of {len(rows)} things are among its classes, the others"
        " drawn"
    )


def published_mask_rcnn(thresholds: Mapping[str, float] | None = None) -> Weights:
    """Return Mask R-CNN as torchvision trained it on COCO, to predict with.

    Args:
        thresholds: Other thresholds than the published ones, see ``NetworkConfig.adjusted``.

    Raises:
        WeightsError: As ``take_initial_weights``.
    """
    table = coco_things()
    rows, _ = _rows_of_classes([entry.name for entry in table.classes])
    card = WeightsCard(
        MaskRcnnConfig(things=len(table.classes), weights="coco").adjusted(thresholds or {}),
        None,
        table,
        trained_on="COCO train2017",
        provenance={
            "imported_from": f"torchvision, {type(_COCO).__name__}.{_COCO.name}",
            "min_side": 800,
            "max_side": 1333,  # what torchvision's own detector resizes to
        },
        scores={"box_AP": 37.9, "mask_AP": 34.6},
    )
    return Weights(card, _converted(fetch_state(_COCO), rows, {}))


def coco_things() -> ClassTable:
    """Return COCO's 80 classes of things, with the ids of its files.

    Their colours are spread over the circle of hues.
    """
    names = _COCO.meta["categories"]
    rows = [(number, name) for number, name in enumerate(names) if number and name != "N/A"]
    classes = (
        SegmentClass(number, name, _hue(position / len(rows)), "thing")
        for position, (number, name) in enumerate(rows)
    )
    return ClassTable("COCO", tuple(classes))


def _hue(share: float) -> str:
    return "#" + "".join(
        f"{round(255 * value):02x}" for value in colorsys.hsv_to_rgb(share, 0.75, 0.95)
    )


def _rows_of_classes(names: Sequence[str]) -> tuple[list[int | None], int]:
    """Return COCO's label of each class by name, and how many classes have one.

    The label is None where COCO has no such class.
    """
    labels = {name: number for number, name in enumerate(_COCO.meta["categories"]) if name != "N/A"}
    rows = [labels.get(name) for name in names]
    return rows, sum(row is not None for row in rows)


def _converted(
    state: Mapping[str, Tensor], rows: Sequence[int | None], drawn: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return COCO's weights with outputs for other classes.

    Args:
        state: COCO's weights.
        rows: COCO's label of each class, whose outputs follow the background's; None for a class
            that COCO does not have.
        drawn: Randomly drawn weights, which give the outputs of classes that COCO does not have.
    """
    converted = {
        name: value for name, value in state.items() if not name.endswith("num_batches_tracked")
    }
    for layer, count in _ROWS_A_CLASS.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            given = state[name].unflatten(0, (-1, count))
            own = drawn[name].unflatten(0, (-1, count)) if drawn else None
            parts = [
                given[row] if row is not None else own[number]  # type: ignore[index]
                for number, row in enumerate((0, *rows))
            ]
            converted[name] = torch.stack(parts).flatten(0, 1)
    return converted


def fetch_state(weights: WeightsEnum) -> Mapping[str, Tensor]:
    """Return the state of weights that torchvision publishes, fetched or kept on this machine.

    Raises:
        WeightsError: They are neither here nor to be fetched, or damaged.
    """
    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())[:100]
        what = (
            "is damaged"
            if kept.exists()
            else f"is not here and could not be fetched from {weights.url}"
        )
        raise WeightsError(
            f"{kept} {what} ({reason}). Connect to the internet once, put torchvision's published"
            " weights there, or train without them: --model.weights none --model.norm group."
        ) from error
    return state
