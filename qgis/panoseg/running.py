"""Run the program from an algorithm: which one, with what settings of QGIS, and what it reports."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsNetworkAccessManager,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsSettings,
)
from qgis.PyQt.QtCore import QThread
from qgis.PyQt.QtWidgets import QMessageBox

from . import program as programs

_STAGES = {
    "tiles": (0, 90),
    "windows joined": (90, 93),
    "windows written": (93, 95),
    "sheets outlined": (95, 99),
}
"""Share of the progress bar of the stages of a map; other stages take the whole bar."""

_SECONDS_BETWEEN_TEXTS = 10
_MAKING = threading.Lock()
_FOR_TERMINALS = ("open ", "written to ")
"""Beginnings of messages about files that may be temporary; QGIS shows the outputs itself."""


def plugin_version() -> str:
    """Return the version in metadata.txt."""
    text = (Path(__file__).parent / "metadata.txt").read_text(encoding="utf-8")
    return next(line[8:].strip() for line in text.splitlines() if line.startswith("version="))


class Runner:
    """The program for one run of an algorithm. ``prepare`` comes first, in the thread of windows.

    Attributes:
        program: Path of the program; empty if it is to be installed.
    """

    def __init__(self) -> None:
        from .provider import setting

        package = setting("PANOSEG_PACKAGE") or f"panoseg=={plugin_version()}"
        folder = Path(QgsApplication.qgisSettingsDirPath()) / "panoseg" / "environment"
        self._own = programs.Environment(folder, package)
        self._setting = setting("PANOSEG_PROGRAM")
        self._install = bool(setting("PANOSEG_INSTALL"))
        self.program = ""

    def prepare(self) -> None:
        """Find the program, or ask whether to install it.

        Raises:
            QgsProcessingException: There is none, and none may be installed.
        """
        try:
            found = programs.find_program(self._setting, os.environ.get("PATH"), self._own)
        except programs.ProgramError as error:
            raise QgsProcessingException(str(error)) from error
        self.program = found or ""
        if not found and not self._install and not self._agreed():
            raise QgsProcessingException(
                "panoseg is not installed. Install it (pip install panoseg), name it in the"
                " settings of Processing or in the variable PANOSEG_PROGRAM, or set PANOSEG_INSTALL"
                " to 1 to have it installed now."
            )

    def _agreed(self) -> bool:
        """Return whether the user wants the program installed; False where nobody can be asked."""
        from qgis.utils import iface

        application = QgsApplication.instance()
        if iface is None or QThread.currentThread() != application.thread():
            return False
        buttons = getattr(QMessageBox, "StandardButton", QMessageBox)
        answer = QMessageBox.question(
            iface.mainWindow(),
            "panoseg",
            f"The program panoseg is not installed. Install {self._own.requirement} with uv into"
            f" {self._own.folder}? It needs about 2 GB of disk and a network, once.",
            buttons.Yes | buttons.No,
        )
        return answer == buttons.Yes

    def run(self, words: Sequence[str], feedback: QgsProcessingFeedback) -> dict | None:
        """Run a command and return the values of its result; None if the user cancelled.

        Raises:
            QgsProcessingException: The command failed; the text is the program's own sentence.
        """
        environment = child_environment()
        try:
            if not self.program:
                feedback.pushInfo("panoseg is being installed, once; this takes some minutes.")
                with _MAKING:  # two algorithms may have been started at once
                    if not self._own.is_ready():
                        self._own.make(environment, feedback.pushInfo, feedback.isCanceled)
                self.program = str(self._own.program)
            feedback.pushCommandInfo(" ".join([self.program, *words]))
            return programs.run(
                [self.program, *words],
                environment,
                _Report(feedback).read,
                feedback.pushDebugInfo,
                feedback.isCanceled,
            )
        except programs.Cancelled:
            return None
        except programs.ProgramError as error:
            raise QgsProcessingException(str(error)) from error


class _Report:
    """Tells a feedback what the program reports."""

    def __init__(self, feedback: QgsProcessingFeedback) -> None:
        self._feedback = feedback
        self._told = 0.0

    def read(self, event: Mapping[str, Any]) -> None:
        """Pass an event on; unknown ones are ignored."""
        feedback, kind = self._feedback, event.get("event")
        if kind == "start":
            feedback.pushDebugInfo(f"panoseg {event.get('version')}")
            if event.get("version") != plugin_version():
                feedback.pushDebugInfo(
                    f"The plugin is of version {plugin_version()}; panoseg qgis install brings that"
                    " of the program."
                )
        elif kind == "message" and event.get("level") == "warning":
            feedback.pushWarning(str(event.get("text", "")))
        elif kind == "message" and not str(event.get("text", "")).startswith(_FOR_TERMINALS):
            feedback.pushInfo(str(event.get("text", "")))
        elif kind == "stage":
            self._show(event, 0)
        elif kind == "progress":
            self._show(event, event.get("done") or 0)

    def _show(self, event: Mapping[str, Any], done: float) -> None:
        stage, total = str(event.get("stage")), event.get("total")
        low, high = _STAGES.get(stage, (0, 99))
        if total:
            self._feedback.setProgress(low + (high - low) * done / total)
        # A text becomes a line of the log: one for each stage, and then one now and then.
        if done and time.monotonic() - self._told < _SECONDS_BETWEEN_TEXTS:
            return
        self._told = time.monotonic()
        if not done:
            self._feedback.setProgressText(stage)
            return
        left = event.get("seconds_left")
        duration = f", {_duration(left)} left" if left else ""
        of_total = f" of {total}" if total else ""
        self._feedback.setProgressText(f"{stage}: {done}{of_total}{duration}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def child_environment() -> dict[str, str]:
    """Return the variables for the program, with QGIS's proxy and authorities."""
    settings = QgsSettings()

    def text(name: str) -> str:
        return str(settings.value(f"proxy/{name}", "") or "")

    try:
        excluded = list(QgsNetworkAccessManager.instance().excludeList())
    except AttributeError:
        excluded = []
    proxies = programs.proxy_variables(
        text("proxyEnabled").lower() == "true",
        text("proxyType"),
        text("proxyHost"),
        text("proxyPort"),
        text("proxyUser"),
        text("proxyPassword"),
        excluded,
    )
    return programs.clean_environment(os.environ, proxies, _authorities())


def _authorities() -> str | None:
    """Return a file with the authorities that QGIS trusts, if the user added any there."""
    manager = QgsApplication.authManager()
    try:
        if manager.isDisabled() or not (manager.extraFileCAs() or manager.databaseCAs()):
            return None
        pem = bytes(manager.trustedCaCertsPemText())
        path = Path(QgsApplication.qgisSettingsDirPath()) / "panoseg" / "authorities.pem"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pem)
    except (AttributeError, OSError):
        return None
    return str(path)
