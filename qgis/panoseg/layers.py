"""Results on the canvas: a group for each map. The style of fields is in their file."""

from __future__ import annotations

import json
from pathlib import Path

from qgis.core import (
    QgsMapLayer,
    QgsPalettedRasterRenderer,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsRasterLayer,
    QgsVectorLayer,
)

_KEPT: list[Grouping] = []
"""QGIS holds no reference to what runs after a layer is loaded."""
_RASTERS = {"classes.tif": "Crops of pixels", "confidence.tif": "Confidence in percent"}


class Grouping(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer that was loaded its style, and moves it into the group of its map."""

    def __init__(self, group: str, context: QgsProcessingContext, *, shown: bool) -> None:
        super().__init__()
        self._group, self._project, self._shown = group, context.project(), shown

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Style and move the layer; QGIS calls this in the thread of windows."""
        if isinstance(layer, QgsVectorLayer):
            layer.loadDefaultStyle()  # which Processing of QGIS 3.22 does not
        elif isinstance(layer, QgsRasterLayer):
            _name_classes(layer)
        root = self._project.layerTreeRoot()
        node = root.findLayer(layer.id())
        if node is None:
            return
        group = root.findGroup(self._group) or root.insertGroup(0, self._group)
        copy = node.clone()
        # QGIS may have put it into the group already, because that is the current one.
        group.insertChildNode(0 if self._shown else len(group.children()), copy)
        node.parent().removeChildNode(node)
        copy.setItemVisibilityChecked(self._shown)
        copy.setExpanded(self._shown)


def _name_classes(layer: QgsRasterLayer) -> None:
    """Write the names of classes, which map.json has, into the legend of a raster of classes."""
    renderer = layer.renderer()
    if not isinstance(renderer, QgsPalettedRasterRenderer):
        return
    try:
        record = json.loads(Path(layer.source()).with_name("map.json").read_text(encoding="utf-8"))
        names = {entry["id"]: entry["name"] for entry in record["card"]["classes"]["classes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    classes = [entry for entry in renderer.classes() if int(entry.value) in names]
    for entry in classes:
        entry.label = names[int(entry.value)]
    layer.setRenderer(QgsPalettedRasterRenderer(layer.dataProvider(), 1, classes))


def load_in_group(
    context: QgsProcessingContext, fields: str, name: str, folder: Path | None = None
) -> None:
    """Have the results of a map loaded into one group, if the user wants the fields loaded.

    Args:
        context: Of the algorithm.
        fields: The file with the fields.
        name: What was mapped.
        folder: Folder of the whole map, whose rasters are loaded too, hidden.
    """
    if not context.willLoadLayerOnCompletion(fields):
        return
    group = f"panoseg: {name}"
    wanted = {fields: "Fields"}
    if folder is not None:
        wanted.update({str(folder / file): text for file, text in _RASTERS.items()})
    del _KEPT[:-16]
    for path, text in wanted.items():
        if path != fields:
            context.addLayerToLoadOnCompletion(
                path, QgsProcessingContext.LayerDetails(text, context.project(), text)
            )
        details = context.layerToLoadOnCompletionDetails(path)
        details.name = text
        step = Grouping(group, context, shown=path == fields)
        _KEPT.append(step)
        details.setPostProcessor(step)
