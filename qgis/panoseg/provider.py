"""The plugin and its provider of algorithms, with the settings of Processing."""

from __future__ import annotations

import os
from pathlib import Path

from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtCore import QObject
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS

ICON = str(Path(__file__).parent / "icon.svg")
SETTINGS = {
    "PANOSEG_PROGRAM": ("Path of the program panoseg (empty: on the PATH, or installed)", ""),
    "PANOSEG_INSTALL": ("Install panoseg without asking where it is missing", False),
    "PANOSEG_PACKAGE": ("What is installed (empty: panoseg of the plugin's version)", ""),
}
"""Settings of Processing; variables of the environment with these names come before them."""


def setting(name: str) -> str:
    """Return a setting as text; empty where it is not set or off."""
    if os.environ.get(name):
        return os.environ[name]
    try:
        from processing.core.ProcessingConfig import ProcessingConfig
    except ImportError:
        return ""
    value = ProcessingConfig.getSetting(name)
    return "" if value in (None, False, "false") else str(value).strip()


class Provider(QgsProcessingProvider):
    """The group panoseg of the Processing toolbox."""

    def id(self) -> str:
        """Return the first part of the names of the algorithms."""
        return "panoseg"

    def name(self) -> str:
        """Return the name in the toolbox."""
        return "panoseg"

    def longName(self) -> str:
        """Return the name with an explanation."""
        return "panoseg: fields and crops from seasons of images"

    def icon(self) -> QIcon:
        """Return the icon in the toolbox."""
        return QIcon(ICON)

    def svgIconPath(self) -> str:
        """Return the file of the icon."""
        return ICON

    def loadAlgorithms(self) -> None:
        """Add all algorithms."""
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())

    def defaultVectorFileExtension(self, hasGeometry: bool = True) -> str:
        """Return the format of temporary layers: the one that carries its style."""
        return "gpkg"

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        """Return the formats that the program writes."""
        return ["gpkg"]

    def load(self) -> bool:
        """Add the settings, then the algorithms."""
        try:
            from processing.core.ProcessingConfig import ProcessingConfig, Setting

            ProcessingConfig.settingIcons["panoseg"] = self.icon()
            for name, (text, default) in SETTINGS.items():
                ProcessingConfig.addSetting(Setting("panoseg", name, text, default))
            ProcessingConfig.readSettings()
        except ImportError:  # QGIS without the plugin Processing
            pass
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Remove the settings."""
        try:
            from processing.core.ProcessingConfig import ProcessingConfig

            for name in SETTINGS:
                ProcessingConfig.removeSetting(name)
        except ImportError:
            pass


class Plugin(QObject):
    """What QGIS loads and unloads."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = None

    def initProcessing(self) -> None:
        """Add the provider; qgis_process calls this alone."""
        self.provider = Provider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider to a QGIS with windows."""
        self.initProcessing()

    def unload(self) -> None:
        """Remove the provider."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
