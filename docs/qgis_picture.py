"""Draw the picture of docs/qgis.md: a window of QGIS after "Map fields and crops of a season".

python docs/qgis_picture.py        (needs QGIS and Xvfb)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import panoseg
from panoseg.cli import main

PICTURE = Path(__file__).parent / "images" / "qgis.png"
SETTINGS = """[PythonPlugins]
panoseg=true
processing=true
[qgis]
checkVersion=false
showTips=false
"""
IN_QGIS = """
import os
from qgis.core import QgsApplication
from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import QDockWidget, QLineEdit
from qgis.utils import iface
import processing

FOLDER = {folder!r}


def run():
    window = iface.mainWindow()
    for name in ("Browser", "ProcessingToolbox"):
        window.findChild(QDockWidget, name).setVisible(name != "Browser")
    for line in window.findChild(QDockWidget, "ProcessingToolbox").findChildren(QLineEdit):
        line.setText("panoseg")
    output = {{"CUBE": FOLDER + "/season.nc", "OUTPUT": FOLDER + "/fields.gpkg"}}
    processing.runAndLoadResults("panoseg:map", output)
    window.showNormal()
    window.resize(1180, 620)
    iface.messageBar().clearWidgets()
    iface.zoomFull()
    iface.mapCanvas().mapCanvasRefreshed.connect(lambda: QTimer.singleShot(0, save))


def save():
    iface.mainWindow().grab().save(FOLDER + "/window.png")
    os._exit(0)


QTimer.singleShot(3000, run)
"""


def draw() -> None:
    """Simulate a season, map it in a window of QGIS that nobody sees, and save the window."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        panoseg.simulate(64, seed=3)[0].to_netcdf(folder / "season.nc")
        os.environ["QGIS_CUSTOM_CONFIG_PATH"] = name
        main(["qgis", "install"])
        settings = folder / "profiles" / "default" / "QGIS" / "QGIS3.ini"
        settings.parent.mkdir()
        settings.write_text(SETTINGS)
        (folder / "in_qgis.py").write_text(IN_QGIS.format(folder=name))
        with subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-screen", "0", "1400x900x24"], stdout=subprocess.PIPE
        ) as screen:
            variables = {
                "DISPLAY": f":{screen.stdout.readline().decode().strip()}",
                "HOME": name,
                "LANG": "C.UTF-8",
                "PATH": "/usr/bin:/bin",
                "PANOSEG_PROGRAM": str(Path(sys.executable).with_name("panoseg")),
                "QGIS_CUSTOM_CONFIG_PATH": name,
            }
            words = ["qgis", "--nologo", "--code", str(folder / "in_qgis.py")]
            subprocess.run(words, env=variables, check=False, timeout=900)
            screen.terminate()
        window = Image.open(folder / "window.png").convert("RGB")
        # The most frequent colours stay as they are, those of the legend among them.
        frequent = sorted(window.getcolors(window.width * window.height), reverse=True)[:256]
        palette = Image.new("P", (1, 1))
        palette.putpalette([part for _, colour in frequent for part in colour])
        few = window.quantize(palette=palette, dither=Image.Dither.NONE)
        few.save(PICTURE, optimize=True)


if __name__ == "__main__":
    draw()
