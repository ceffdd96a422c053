"""Class ids, which need not follow one another, and the labels that networks for photographs learn, which do.

Things are labelled 1, 2, .. in ascending order of their class ids (0 is the background of detectors). The classes of pixels are
labelled 0, 1, ..: those of all classes in ascending order, or 0 for all things together and 1, 2, .. for the classes of stuff
(Kirillov et al. 2019, "Panoptic feature pyramid networks", 1901.02446, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.data.photographs import VOID, Photograph
from panoseg.models.configs.photographs import IGNORED
from panoseg.models.configs.pspnet import Scope
from panoseg.models.outputs import PhotographLabels


@dataclass(frozen=True)
class Labels:
    """The labels of a class table. things, stuff: class ids in ascending order; void classes have no label.

    >>> labels = Labels((1, 3), (2, 5))
    >>> labels.semantic_ids("stuff"), labels.semantic_ids("all")
    ((-1, 2, 5), (1, 2, 3, 5))
    """

    things: tuple[int, ...]
    stuff: tuple[int, ...]

    @classmethod
    def of(cls, table: ClassTable) -> Labels:
        """The labels of a table's classes."""
        return cls(table.ids("thing"), table.ids("stuff"))

    def semantic_ids(self, scope: Scope) -> tuple[int, ...]:
        """Class id of each label of pixels; ``VOID`` for the label of all things together."""
        return (VOID, *self.stuff) if scope == "stuff" else tuple(sorted((*self.things, *self.stuff)))

    def thing_classes(self, label_N: Tensor) -> Tensor:
        """Class ids of labels of things, of any shape; ``VOID`` for 0."""
        return torch.tensor((VOID, *self.things), device=label_N.device)[label_N]

    def semantic_classes(self, label_HW: Tensor, scope: Scope) -> Tensor:
        """Class ids of labels of pixels, of any shape; ``VOID`` for all things together."""
        return torch.tensor(self.semantic_ids(scope), device=label_HW.device)[label_HW]

    def of_photograph(self, photograph: Photograph, scope: Scope | None) -> PhotographLabels:
        """What a network learns from a photograph; scope: which classes of pixels, None where it does not tell them apart.

        Raises ``ValueError`` for a photograph without labels.
        """
        objects, classes_HW = photograph.objects, photograph.classes_HW
        if objects is None or classes_HW is None:
            raise ValueError(f"{photograph.name} has no labels; open the dataset with them")
        thing = {class_id: number for number, class_id in enumerate(self.things, start=1)}
        pixel = {} if scope is None else self._semantic_labels(scope)
        semantic_HW = None if scope is None else _looked_up(classes_HW, pixel)
        return PhotographLabels(semantic_HW, objects.mask_NHW, objects.box_N4, _looked_up(objects.class_N, thing))

    def _semantic_labels(self, scope: Scope) -> dict[int, int]:
        labels = {class_id: number for number, class_id in enumerate(self.semantic_ids(scope)) if class_id != VOID}
        return {**dict.fromkeys(self.things, 0), **labels}


def _looked_up(classes: Tensor, labels: dict[int, int]) -> Tensor:
    """The label of each class id, ``IGNORED`` for those that have none, ``VOID`` among them."""
    last = max(labels, default=VOID) + 1
    table = torch.tensor([labels.get(class_id, IGNORED) for class_id in range(VOID, last + 1)], device=classes.device)
    return table[classes.clamp(min=VOID, max=last) - VOID]
