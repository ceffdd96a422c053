"""Checks what ``panoseg map`` writes with other programs: ``python benchmarks/outputs.py [MAP]``.

The rasters with rio-cogeo, item.json against the schemas of STAC that can be had, and
parcels.parquet with fiboa's own validator (``uvx --from fiboa-cli fiboa``). Without MAP a small
season is simulated and mapped. What cannot be checked without the Internet is said to be so.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import geopandas as gpd
import pystac
import pystac.validation
from pystac.validation.stac_validator import GetSchemaError
from rio_cogeo.cogeo import cog_validate

import panoseg


def check_rasters(folder: Path) -> list[str]:
    """Problems of the cloud-optimised GeoTIFFs."""
    problems = []
    for path in sorted(folder.glob("*.tif")):
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
        print(f"{path.name}: {'valid' if valid else 'invalid'} cloud-optimised GeoTIFF")
        problems += [f"{path.name}: {each}" for each in [*errors, *warnings]]
    return problems


def check_item(path: Path, offline: bool) -> list[str]:
    """Problems of the STAC item: pystac has the core schemas, those of extensions are fetched."""
    item = pystac.Item.from_file(str(path))
    core = item.to_dict()
    core["stac_extensions"] = []
    try:
        pystac.validation.validate_dict(core)
    except pystac.STACValidationError as error:
        return [f"{path.name}: {error}"]
    print(f"{path.name}: valid STAC {core['stac_version']} item")
    for extension in [] if offline else item.stac_extensions:
        alone = {**item.to_dict(), "stac_extensions": [extension]}
        try:
            pystac.validation.validate_dict(alone)
            print(f"{path.name}: valid by {extension}")
        except GetSchemaError:
            print(f"{path.name}: not checked by {extension}, which could not be fetched")
        except pystac.STACValidationError as error:
            return [f"{path.name}, {extension}: {error}"]
    missing = [
        asset.href
        for asset in item.assets.values()
        if "://" not in asset.href and not (path.parent / asset.href).exists()
    ]
    return [f"{path.name}: no file {href}" for href in missing]


def check_parcels(path: Path, offline: bool, schemas: Path | None) -> list[str]:
    """Problems of the parcels: read by GDAL, then by the validator of fiboa."""
    frame = gpd.read_parquet(path)
    print(f"{path.name}: {len(frame)} parcels, {frame.crs.name}")
    problems = [] if frame.geometry.is_valid.all() else [f"{path.name}: invalid outlines"]
    if offline:
        return problems
    local = []
    if schemas is not None:
        local = ["-s", str(schemas / "core.yaml"), "-e", f"{CROP},{schemas / 'crop.yaml'}"]
    done = subprocess.run(
        ["uvx", "--from", FIBOA, "fiboa", "validate", "--data", *local, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stdout + done.stderr).strip()
    print(f"{path.name}: fiboa validate ends with {done.returncode}\n{said[-3000:]}")
    if "UNKNOWN" in said or "can't be loaded" in said:
        print(f"{path.name}: not checked by fiboa, whose schemas could not be fetched")
    elif done.returncode:
        problems.append(f"{path.name}: fiboa validate")
    return problems


CROP = "https://fiboa.github.io/crop-extension/v0.1.0/schema.yaml"
FIBOA = "fiboa-cli<0.11"  # the last that reads version 0.2 of the specification


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("map", nargs="?", type=Path)
    parser.add_argument(
        "--schemas", type=Path, help="folder with core.yaml and crop.yaml of fiboa, if not fetched"
    )
    parser.add_argument("--offline", action="store_true", help="only what needs no Internet")
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # pystac logs what it raises
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.map
        if folder is None:
            folder = Path(scratch) / "map"
            cube, _ = panoseg.simulate(96, seed=3, dates=(8, 8))
            panoseg.map(cube, folder, year=2019, tta=1, device="cpu")
        problems = [
            *check_rasters(folder),
            *check_item(folder / "item.json", options.offline),
            *check_parcels(folder / "parcels.parquet", options.offline, options.schemas),
        ]
        print(json.dumps(problems, indent=1))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
