"""Weights by name become a model for photographs: of one network, or of two that work together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from panoseg.data.config import PhotographConfig
from panoseg.models.model import PUBLISHED, Model, find_device, find_weights
from panoseg.models.two_models import TwoModels
from panoseg.models.weights import load_card
from panoseg.photo.options import PhotoOptions


def open_model(weights: str, instances: str | None, options: PhotoOptions) -> Model:
    """Load one network, or two of which one scores pixels and the other finds objects.

    Args:
        weights: A folder of weights, a run, or "coco" for the published Mask R-CNN.
        instances: Likewise; None for one network.
        options: What is changed of the weights.

    Raises:
        WeightsError: The networks are not for photographs, or do not go together.
        ConfigError: An option would do nothing.
    """
    find_device(options.device)
    models = [_load(name, options) for name in (weights, instances) if name is not None]
    model = models[0]
    if instances is not None:
        pair: Any = [one.network for one in models]
        sides: Any = tuple(one.sides for one in models)
        model = replace(model, network=TwoModels(*pair, sides).to(model.device).eval(), sides=None)
    if options.thresholds:
        model.network.use_thresholds(options.thresholds)
    return model


def _load(name: str, options: PhotoOptions) -> Model:
    if name != PUBLISHED:
        load_card(find_weights(name)).check_inputs("photograph", name)  # type: ignore[arg-type]
    model = Model.load(name, device=options.device, thresholds=options.thresholds)
    trained = model.sides or PhotographConfig()
    sides = {
        side: getattr(trained, side) if getattr(options, side) is None else getattr(options, side)
        for side in ("min_side", "max_side")
    }
    return replace(model, sides=PhotographConfig(**sides))
