"""What networks say of a photograph becomes one picture, on the device that computed it, in fixed shapes.

The rule is that of ``panoseg.panoptic.merge``. Masks are drawn one after the other when their turn comes, so that a
large photograph needs the memory of a few masks, and nothing waits for a value: an accelerator is handed the whole way at once.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from panoseg.classes import ClassTable
from panoseg.data.photographs import VOID
from panoseg.models.configs.pspnet import Scope
from panoseg.models.labels import Labels
from panoseg.models.outputs import DetectedObjects, PhotographOutput
from panoseg.panoptic.merge import MergeThresholds, ThingsAndStuff, merge_drawn
from panoseg.panoptic.panoptic import Panoptic


def two_models(semantic: PhotographOutput, instances: PhotographOutput) -> PhotographOutput:
    """The pixels of one network's output with the objects of another's, of the same photograph.

    The recipe of Kirillov et al. 2019, "Panoptic segmentation" (1801.00868), section 7. Raises ``ValueError`` for outputs of
    different sizes, and where one lacks its part.
    """
    if semantic.size_HW != instances.size_HW or semantic.maps_BKhw is None or instances.objects is None:
        raise ValueError(f"scores of pixels at {semantic.size_HW} and objects at {instances.size_HW}: one size and both parts")
    return PhotographOutput(semantic.size_HW, instances.objects, semantic.maps_BKhw, semantic.reach_HW)


def merged(output: PhotographOutput, labels: Labels, scope: Scope | None, thresholds: MergeThresholds) -> ThingsAndStuff:
    """The candidates and the stuff of a photograph as one picture.

    labels: what the labels of the networks mean. scope: that of the network which scored the pixels; its things draw nothing.
    """
    objects, label_BHW = output.objects, output.label_BHW
    device = _device(output)
    if label_BHW is None or scope is None:
        semantic_BHW = torch.full((1, *output.size_HW), VOID, device=device)
    else:
        semantic_BHW = labels.semantic_classes(label_BHW, scope)
    if objects is None:
        nothing = torch.zeros((len(semantic_BHW), 0), device=device)
        return merge_drawn(
            lambda candidate_B: semantic_BHW > VOID, nothing, nothing.long(), semantic_BHW, labels.stuff, thresholds
        )
    classes_BN = labels.thing_classes(objects.label_BN)
    return merge_drawn(objects.mask_BHW, objects.score_BN, classes_BN, semantic_BHW, labels.stuff, thresholds)


def _device(output: PhotographOutput) -> torch.device:
    if output.objects is not None:
        return output.objects.score_BN.device
    return torch.device("cpu") if output.maps_BKhw is None else output.maps_BKhw.device


def panoptics(
    output: PhotographOutput, labels: Labels, scope: Scope | None, thresholds: MergeThresholds, table: ClassTable
) -> list[Panoptic]:
    """``merged`` as pictures with their tables, one an image; the only step that waits for the device."""
    if output.objects is not None and _device(output).type == "cpu":
        output = replace(output, objects=_drawn(output.objects, thresholds.score))
    return merged(output, labels, scope, thresholds).to_panoptics(table)


def _drawn(objects: DetectedObjects, score: float) -> DetectedObjects:
    """The candidates up to the last one of some score: a processor, which waits for nothing, need not look at the others."""
    positions = (objects.score_BN >= score).any(0).nonzero()
    count = int(positions[-1]) + 1 if len(positions) else 0
    names = ("shape_BNSS", "box_BN4", "score_BN", "label_BN")
    return replace(objects, **{name: getattr(objects, name)[:, :count] for name in names})
