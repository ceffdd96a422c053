"""The commands of the plugin for QGIS: install it in a profile, or write it as a zip file.

The plugin is not part of this program: it runs in the Python of QGIS and starts panoseg as a
process of its own. Its files are copied as they are.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import panoseg
from panoseg.cli import Verbs, run_verb
from panoseg.cli.output import Output
from panoseg.cli.terminal import hand_over
from panoseg.errors import ConfigError, OutputError
from panoseg.files import atomic

NAME = "panoseg"
"""Name of the plugin, which is that of its folder."""
_OLDEST_IN_ZIP = (1980, 1, 1, 0, 0, 0)
_VERSIONS = ("QGIS3", "QGIS4")


def qgis(arguments: Sequence[str]) -> None:
    """Run ``panoseg qgis VERB``."""
    run_verb(
        "qgis",
        VERBS,
        arguments,
        "The plugin for QGIS 3.22 or newer: panoseg in the Processing toolbox.",
        "panoseg qgis install",
    )


def install(profile: str = "default") -> None:
    """Copy the plugin into a profile of QGIS, and replace an older copy.

    Then enable it in QGIS under Plugins > Manage and Install Plugins > Installed, or with
    qgis_process plugins enable panoseg.

    example: panoseg qgis install

    example: panoseg qgis install --profile work

    Args:
        profile: Name of the profile.
    """
    places = [root / profile / "python" / "plugins" / NAME for root in _roots(profile)]
    for place in places:
        _copy_plugin(place)
        print(f"The plugin is in {place}")
    print(
        "Enable it in QGIS: Plugins > Manage and Install Plugins > Installed > panoseg; without a"
        " window: qgis_process plugins enable panoseg"
    )
    hand_over(folders=[str(place) for place in places])


def write_zip(out: Annotated[Path, Output.FILE]) -> None:
    """Write the plugin as a zip file, which the plugin manager of QGIS installs.

    In QGIS: Plugins > Manage and Install Plugins > Install from ZIP.

    example: panoseg qgis zip --out panoseg-qgis.zip

    Args:
        out: The file.
    """
    source = plugin_folder()
    with atomic(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as target:
        for path in _plugin_files(source):
            name = f"{NAME}/{path.relative_to(source).as_posix()}"
            entry = zipfile.ZipInfo(name, _OLDEST_IN_ZIP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            target.writestr(entry, path.read_bytes())
    print(f"{out} is ready: in QGIS, Plugins > Manage and Install Plugins > Install from ZIP")
    hand_over(out=str(out))


VERBS: Verbs = {
    "install": (install, "copy the plugin into a profile of QGIS"),
    "zip": (write_zip, "write the file for QGIS's plugin manager"),
}


def plugin_folder() -> Path:
    """Return the folder with the files of the plugin: in the wheel, or in a checkout.

    Raises:
        ConfigError: It is in neither.
    """
    package = Path(panoseg.__file__).parent
    for folder in (package / "qgis_plugin", package.parents[1] / "qgis" / NAME):
        if (folder / "metadata.txt").is_file():
            return folder
    raise ConfigError(
        "This installation of panoseg has no plugin for QGIS. Install panoseg again from its wheel."
    )


def _plugin_files(source: Path) -> list[Path]:
    return sorted(
        path for path in source.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyo")
    )


def _copy_plugin(place: Path) -> None:
    if place.is_symlink():
        raise OutputError(f"{place} is a link. Remove it, then install the plugin again.")
    source = plugin_folder()
    with atomic(place) as temporary:
        for path in _plugin_files(source):
            target = temporary / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _roots(profile: str) -> list[Path]:
    """Return the folders of profiles that have a profile; QGIS 3's for a first default profile.

    Raises:
        ConfigError: The name is no name, or no QGIS has such a profile.
    """
    if not profile or profile.startswith(".") or set(profile) & set("/\\:"):
        raise ConfigError(f"{profile!r} is not the name of a profile of QGIS.")
    places = _profile_places()
    found = [root for root in places if (root / profile).is_dir()]
    if found or profile == "default":
        return found or places[:1]
    known = sorted(
        {
            entry.name
            for root in places
            if root.is_dir()
            for entry in root.iterdir()
            if entry.is_dir()
        }
    )
    raise ConfigError(
        f"QGIS has no profile {profile!r}; it has {', '.join(known) or 'none yet'}. Choose one, or"
        " create it in QGIS under Settings > User Profiles."
    )


def _profile_places() -> list[Path]:
    """Return where QGIS keeps profiles on this system, the most usual place first."""
    own = os.environ.get("QGIS_CUSTOM_CONFIG_PATH")
    if own:
        return [Path(own) / "profiles"]
    home = Path.home()
    if sys.platform == "win32":
        bases = [Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")]
    elif sys.platform == "darwin":
        bases = [home / "Library" / "Application Support"]
    else:
        bases = [
            Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"),
            home / ".var" / "app" / "org.qgis.qgis" / "data",  # Flatpak
        ]
    return [base / "QGIS" / version / "profiles" for base in bases for version in _VERSIONS]
