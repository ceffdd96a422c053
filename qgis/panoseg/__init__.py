"""panoseg in QGIS: algorithms of the Processing toolbox that run the program panoseg."""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:  # noqa: ANN401 (QGIS calls it)
    """Return the plugin; QGIS calls this when it loads it."""
    from .provider import Plugin

    return Plugin()
