"""Trainings on simulated photographs that take seconds: a dataset of 32 x 32 pixels, and
configurations of small networks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from panoseg.data import PhotographConfig
from panoseg.simulation.options import PhotographOptions
from panoseg.simulation.write_photographs import write_photographs
from panoseg.training import OptimiserConfig, TrainConfig
from photograph_networks import mask_rcnn, panoptic_fpn, pspnet

_DETECTOR = {
    "pyramid_width": 16,
    "box_width": 32,
    "mask_widths": (16,),
    "anchors_per_image": 32,
    "boxes_per_image": 16,
}
PANOPTIC = TrainConfig(
    model=panoptic_fpn(
        **_DETECTOR, stuff_area=20, detections=10, train_proposals=50, test_proposals=20
    ),
    photographs=PhotographConfig(flip=True),
    optimiser=OptimiserConfig(
        algorithm="sgd", learning_rate=0.02, gradient_clip=5.0, weight_decay=1e-4
    ),
    initialisation="torch",
    epochs=2,
    batch_size=2,
    accelerator="cpu",
    workers=0,
    log_every=1,
    checkpoint_minutes=0,
)
SEMANTIC = replace(PANOPTIC, model=pspnet(dropout=0.3))
INSTANCES = replace(PANOPTIC, model=mask_rcnn(**_DETECTOR))


def simulate_photographs(folder: Path, photographs: int = 10, **options: Any) -> Path:
    """Photographs of a few large things without crowds and dirt, four of five to train."""
    made = PhotographOptions(
        **{"things": (2, 4), "thing_size": 1.6, "crowds": 0.0, "smudges": 0.0, **options}
    )
    return write_photographs(folder, photographs, (32, 32), seed=1, options=made, workers=1)
