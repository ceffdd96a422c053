"""The algorithms of the toolbox. Each runs one or two commands of the program panoseg."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgis.core import (
    Qgis,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProcessingUtils,
)
from qgis.PyQt.QtGui import QIcon

from .layers import load_in_group
from .running import Runner

Values = dict
# Newer versions of QGIS keep enumerations elsewhere.
_POLYGONS = (
    QgsProcessing.TypeVectorPolygon
    if hasattr(QgsProcessing, "TypeVectorPolygon")
    else Qgis.ProcessingSourceType.VectorPolygon
)
_FORMATS = ["gpkg", "geojson", "json", "shp", "fgb", "parquet", "kml", "gml"]
_RULES = ("hard", "soft")
_SEASON_HELP = (
    "A season is a NetCDF file, a Zarr store (a folder, or zipped), or a folder of GeoTIFFs, with"
    " at least three bands and two dates of Sentinel-2."
)


class PanosegAlgorithm(QgsProcessingAlgorithm):
    """What all algorithms share: icon, help, the program, and a folder that is removed."""

    NAME = TITLE = HELP = ""
    TAGS = ("sentinel-2", "crops", "fields", "segmentation", "time series")

    def __init__(self) -> None:
        super().__init__()
        self.runner: Runner | None = None

    def createInstance(self) -> PanosegAlgorithm:
        """Return a new algorithm of this kind."""
        return type(self)()

    def name(self) -> str:
        """Return the second part of the name, as in panoseg:map."""
        return self.NAME

    def displayName(self) -> str:
        """Return the name in the toolbox."""
        return self.TITLE

    def shortHelpString(self) -> str:
        """Return the text beside the parameters."""
        return self.HELP

    def tags(self) -> list[str]:
        """Return words by which the toolbox is searched."""
        return list(self.TAGS)

    def icon(self) -> QIcon:
        """Return the icon in the toolbox."""
        return QIcon(str(Path(__file__).parent / "icon.svg"))

    def prepareAlgorithm(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> bool:
        """Find the program, or ask whether to install it: this runs in the thread of windows."""
        self.runner = Runner()
        self.runner.prepare()
        return True

    def processAlgorithm(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> Values:
        """Do the work in a folder of its own, and return the outputs; none after a cancel."""
        base = QgsProcessingUtils.tempFolder()
        scratch = Path(tempfile.mkdtemp(prefix="panoseg-", dir=base))
        try:
            return self.work(parameters, context, feedback, scratch) or {}
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def work(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        scratch: Path,
    ) -> Values | None:
        """Return the outputs; None after a cancel. scratch: a folder that is removed."""
        raise NotImplementedError

    def add(self, parameter: QgsProcessingParameterDefinition, *, advanced: bool = False) -> None:
        """Add a parameter."""
        if advanced:
            flags = getattr(QgsProcessingParameterDefinition, "Flag", None)
            advanced_flag = getattr(flags, "FlagAdvanced", None) or getattr(
                QgsProcessingParameterDefinition, "FlagAdvanced", None
            )
            if advanced_flag is not None:
                parameter.setFlags(parameter.flags() | advanced_flag)
        self.addParameter(parameter)

    def add_season(self, *, optional: bool = False) -> None:
        """Add the two parameters of a season: a file, or a folder."""
        self.add(
            QgsProcessingParameterFile("CUBE", "Season: file (NetCDF, zipped Zarr)", optional=True)
        )
        self.add(folder_parameter("CUBE_FOLDER", "Or season: folder (GeoTIFFs, Zarr store)"))
        self.season_is_optional = optional

    def season(self, parameters: Mapping[str, Any], context: QgsProcessingContext) -> str | None:
        """Return the path of the season; None where it may be left out, and is.

        Raises:
            QgsProcessingException: There is none, or two.
        """
        given = [
            path
            for name in ("CUBE", "CUBE_FOLDER")
            for path in [self.parameterAsString(parameters, name, context)]
            if path
        ]
        if len(given) > 1 or not (given or self.season_is_optional):
            raise QgsProcessingException("Choose the season: either a file or a folder.")
        return given[0] if given else None

    def vector_words(
        self,
        parameters: Mapping[str, Any],
        name: str,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> tuple[str, str]:
        """Return the file of a layer, and the layer in it (empty if it is the only one)."""
        path, layer = self.parameterAsCompatibleSourceLayerPathAndLayerName(
            parameters, name, context, _FORMATS, "gpkg", feedback
        )
        if not path:
            raise QgsProcessingException(self.invalidSourceError(parameters, name))
        return path, layer

    def output_file(self, parameters: Mapping[str, Any], context: QgsProcessingContext) -> Path:
        """Return the GeoPackage to write.

        Raises:
            QgsProcessingException: It has another ending.
        """
        path = Path(self.parameterAsOutputLayer(parameters, "OUTPUT", context))
        if path.suffix.lower() != ".gpkg":
            raise QgsProcessingException(
                f"{path.name} is no GeoPackage: choose a name that ends in .gpkg."
            )
        return path


def folder_parameter(name: str, text: str) -> QgsProcessingParameterFile:
    """Return an optional parameter that is a folder."""
    behaviours = getattr(QgsProcessingParameterFile, "Behavior", QgsProcessingParameterFile)
    folder = getattr(behaviours, "Folder", None)
    if folder is None:
        folder = QgsProcessingParameterFile.Folder
    return QgsProcessingParameterFile(name, text, behavior=folder, optional=True)


def number_parameter(
    name: str, text: str, default: float | None, low: float, high: float, *, whole: bool = True
) -> QgsProcessingParameterNumber:
    """Return an optional parameter that is a number."""
    types = getattr(QgsProcessingParameterNumber, "Type", QgsProcessingParameterNumber)
    kind = getattr(types, "Integer" if whole else "Double", None)
    if kind is None:
        kind = getattr(QgsProcessingParameterNumber, "Integer" if whole else "Double")
    return QgsProcessingParameterNumber(
        name, text, kind, defaultValue=default, optional=True, minValue=low, maxValue=high
    )


def polygons_parameter(name: str, text: str) -> QgsProcessingParameterFeatureSource:
    """Return a parameter that is a layer of polygons."""
    return QgsProcessingParameterFeatureSource(name, text, [_POLYGONS])


def fields_output(name: str, text: str) -> QgsProcessingParameterVectorDestination:
    """Return the parameter of a layer of fields that is written."""
    return QgsProcessingParameterVectorDestination(name, text, _POLYGONS)


def publish(source: Path, target: Path) -> None:
    """Put a finished file in its place, whole.

    Raises:
        QgsProcessingException: It cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, part)
        os.replace(part, target)
        for suffix in ("-wal", "-shm"):  # of the file that was there before
            target.with_name(target.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise QgsProcessingException(
            f"{target} cannot be written: {error.strerror}. Close what has it open, or choose"
            " another name."
        ) from error


def split_words(text: str) -> list[str]:
    """Return the words of a command line.

    Raises:
        QgsProcessingException: A quote is not closed.
    """
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters = True, ""
    words.escape = ""  # paths of Windows keep their backslashes
    try:
        return list(words)
    except ValueError as error:
        raise QgsProcessingException(f"Further options: {error}.") from error


class Map(PanosegAlgorithm):
    """panoseg map."""

    NAME, TITLE = "map", "Map fields and crops of a season"
    HELP = (
        "Finds the fields of a season of Sentinel-2 images, and the crop of each. "
        + _SEASON_HELP
        + "\n\nEach field has its crop, a confidence from 0 to 1, the second most probable crop and"
        " the probability of every crop. The colour is that of the crop; the paler, the less"
        " certain.\n\nWithout weights the map is made with those that come with panoseg, which"
        " were trained on simulated seasons: crops are often wrong on real land.\n\nFolder keeps"
        " the whole map: report.html, rasters of crops and confidence, GeoParquet. A map that was"
        " cancelled continues when it is started again with the same folder.\n\nFurther options:"
        " those of panoseg map, as on the command line, e.g. --bands B08=NIR --crs EPSG:32631."
    )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Add the parameters."""
        self.add_season()
        self.add(
            QgsProcessingParameterString(
                "WEIGHTS", "Weights: a name or a folder (empty: those of panoseg)", "", False, True
            )
        )
        self.add(
            number_parameter(
                "YEAR", "Year of the harvest (empty: from the dates)", None, 1985, 2200
            )
        )
        self.add(
            number_parameter("VIEWS", "Views of each tile: more is better and slower", 4, 1, 8)
        )
        self.add(
            number_parameter(
                "MIN_AREA", "Smallest field in hectares", 0.05, 0, 10_000, whole=False
            ),
            advanced=True,
        )
        self.add(
            QgsProcessingParameterString("EXTRA", "Further options", "", False, True), advanced=True
        )
        self.add(fields_output("OUTPUT", "Fields"))
        self.add(
            QgsProcessingParameterFolderDestination(
                "FOLDER", "Folder for the whole map", optional=True, createByDefault=False
            )
        )
        self.addOutput(QgsProcessingOutputNumber("PARCELS", "Number of fields"))
        self.addOutput(QgsProcessingOutputNumber("HECTARES", "Area of all fields in hectares"))

    def words(
        self, parameters: Mapping[str, Any], context: QgsProcessingContext, season: str, out: Path
    ) -> list[str]:
        """Return the words of the command."""
        words = ["map", season, "--out", str(out), "--gpkg"]
        weights = self.parameterAsString(parameters, "WEIGHTS", context).strip()
        if weights:
            words += ["--weights", weights]
        if parameters.get("YEAR") not in (None, ""):
            words += ["--year", str(self.parameterAsInt(parameters, "YEAR", context))]
        words += ["--tta", str(self.parameterAsInt(parameters, "VIEWS", context))]
        words += ["--min-area-ha", str(self.parameterAsDouble(parameters, "MIN_AREA", context))]
        return words + split_words(self.parameterAsString(parameters, "EXTRA", context))

    def work(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        scratch: Path,
    ) -> Values | None:
        """Map the season, then put the fields in their place."""
        season, output = self.season(parameters, context), self.output_file(parameters, context)
        kept = self.parameterAsString(parameters, "FOLDER", context)
        out = Path(kept) if kept else scratch / "map"
        found = self.runner.run(self.words(parameters, context, season, out), feedback)
        if found is None:
            return None
        publish(out / "parcels.gpkg", output)
        load_in_group(context, str(output), Path(season).stem, out if kept else None)
        return {
            "OUTPUT": str(output),
            **({"FOLDER": kept} if kept else {}),
            "PARCELS": found.get("parcels"),
            "HECTARES": found.get("hectares"),
        }


class Refine(PanosegAlgorithm):
    """panoseg refine, of a map or of a season that is mapped first."""

    NAME, TITLE = "refine", "Crops on given fields"
    HELP = (
        "Gives each field that you have the crop that covers most of it. Choose the folder of a"
        " finished map, or a season, which is mapped first. "
        + _SEASON_HELP
        + "\n\nFields outside of the map are left out. The result has the columns of your fields"
        " too; those with names that the result needs are called given_NAME. The rule hard takes"
        " the crop with the largest share of the area, soft the one with the highest mean"
        " probability."
    )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Add the parameters."""
        self.add(polygons_parameter("FIELDS", "Fields"))
        self.add(folder_parameter("MAP", "Folder of a map"))
        self.add_season(optional=True)
        self.add(
            QgsProcessingParameterString(
                "WEIGHTS", "Weights for a season (empty: those of panoseg)", "", False, True
            )
        )
        self.add(QgsProcessingParameterEnum("RULE", "Rule", list(_RULES), False, 0))
        self.add(fields_output("OUTPUT", "Fields with crops"))
        self.addOutput(QgsProcessingOutputNumber("PARCELS", "Number of fields"))

    def work(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        scratch: Path,
    ) -> Values | None:
        """Map the season if there is no map, then give crops to the fields."""
        season, output = self.season(parameters, context), self.output_file(parameters, context)
        folder = self.parameterAsString(parameters, "MAP", context)
        if bool(season) == bool(folder):
            raise QgsProcessingException("Choose either the folder of a map or a season.")
        path, layer = self.vector_words(parameters, "FIELDS", context, feedback)
        if season:
            folder = str(scratch / "map")
            words = ["map", season, "--out", folder]
            weights = self.parameterAsString(parameters, "WEIGHTS", context).strip()
            words += ["--weights", weights] if weights else []
            if self.runner.run(words, feedback) is None:
                return None
        result = scratch / "fields.gpkg"
        rule = _RULES[self.parameterAsEnum(parameters, "RULE", context)]
        words = ["refine", folder, "--parcels", path, "--out", str(result), "--rule", rule]
        found = self.runner.run(words + (["--layer", layer] if layer else []), feedback)
        if found is None:
            return None
        publish(result, output)
        load_in_group(context, str(output), Path(season or folder).stem)
        return {"OUTPUT": str(output), "PARCELS": found.get("parcels")}


class Inspect(PanosegAlgorithm):
    """panoseg inspect."""

    NAME, TITLE = "inspect", "Inspect a season"
    HELP = (
        "Says how a season is understood, before it is mapped: format, bands, scale, no data,"
        " coordinate system, grid, and which dates are used. "
        + _SEASON_HELP
        + "\n\nThe page has pictures in true colour and of NDVI, and a warning for everything odd."
        " Further options put right what is understood wrongly, e.g. --bands B08=NIR --nodata -1;"
        " give the same ones to the map."
    )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Add the parameters."""
        self.add_season()
        self.add(
            QgsProcessingParameterString("EXTRA", "Further options", "", False, True), advanced=True
        )
        self.add(QgsProcessingParameterFileDestination("OUTPUT", "Page", "HTML files (*.html)"))
        self.addOutput(QgsProcessingOutputNumber("DATES", "Number of dates that are used"))
        self.addOutput(QgsProcessingOutputString("WARNINGS", "Warnings"))

    def work(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        scratch: Path,
    ) -> Values | None:
        """Write the page."""
        season = self.season(parameters, context)
        output = self.parameterAsFileOutput(parameters, "OUTPUT", context)
        words = ["inspect", season, "--out", output]
        words += split_words(self.parameterAsString(parameters, "EXTRA", context))
        found = self.runner.run(words, feedback)
        if found is None:
            return None
        known = found.get("season") or {}
        return {
            "OUTPUT": output,
            "DATES": sum(bool(day.get("used")) for day in known.get("dates", [])),
            "WARNINGS": "\n".join(known.get("warnings", [])),
        }


class Compare(PanosegAlgorithm):
    """panoseg compare."""

    NAME, TITLE = "compare", "Compare two maps"
    HELP = (
        "Scores fields against true fields: how many were found, missed and invented, how well"
        " outlines agree, and how often the crop is the same. Two fields match if more than half"
        " of their joint area is common.\n\nPQ is the panoptic quality in percent: the share of"
        ' fields that were found times how well their outlines agree. Choose "only declared land"'
        " where the true fields cover part of the land, as registers do."
    )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Add the parameters."""
        self.add(polygons_parameter("FIELDS", "Fields"))
        self.add(polygons_parameter("TRUTH", "True fields"))
        for name, text in (("CLASS", "fields"), ("TRUTH_CLASS", "true fields")):
            label = f"Column with the crops of the {text} (empty: its usual name)"
            self.add(QgsProcessingParameterString(name, label, "", False, True))
        self.add(QgsProcessingParameterBoolean("DECLARED_ONLY", "Only declared land", False))
        self.add(
            QgsProcessingParameterFileDestination(
                "OUTPUT", "All numbers", "JSON files (*.json)", None, True, False
            )
        )
        for name, text in (
            ("PQ", "Panoptic quality in percent"),
            ("FOUND", "Fields found"),
            ("MISSED", "Fields missed"),
            ("INVENTED", "Fields invented"),
        ):
            self.addOutput(QgsProcessingOutputNumber(name, text))

    def work(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        scratch: Path,
    ) -> Values | None:
        """Compare the files of both layers."""
        files = [
            self.vector_words(parameters, name, context, feedback) for name in ("FIELDS", "TRUTH")
        ]
        words = ["compare", *(path for path, _ in files)]
        layers = [f"{key}={layer}" for key, (_, layer) in zip("AB", files) if layer]
        words += ["--layer", ",".join(layers)] if layers else []
        columns = [
            f"{key}={column}"
            for key, name in (("A", "CLASS"), ("B", "TRUTH_CLASS"))
            for column in [self.parameterAsString(parameters, name, context).strip()]
            if column
        ]
        words += ["--class-column", ",".join(columns)] if columns else []
        if self.parameterAsBool(parameters, "DECLARED_ONLY", context):
            words.append("--declared-only")
        output = self.parameterAsFileOutput(parameters, "OUTPUT", context)
        words += ["--json", output] if output else []
        found = self.runner.run(words, feedback)
        if found is None:
            return None
        scores = found.get("comparison") or {}
        return {
            **({"OUTPUT": output} if output else {}),
            "PQ": 100 * (scores.get("pq") or 0),
            **{name.upper(): scores.get(name) for name in ("found", "missed", "invented")},
        }


class Fetch(PanosegAlgorithm):
    """panoseg cube."""

    NAME, TITLE = "fetch", "Fetch a season"
    HELP = (
        "Fetches the season of an area from a catalogue of Sentinel-2 images into a Zarr store,"
        ' which "Map fields and crops of a season" takes. A fetch that was cancelled continues when'
        " it is started again.\n\nThe season of a year is the one that is harvested in it: from"
        " September of the year before to October; south of the equator from March to April.\n\n"
        "Catalogues: earth-search, planetary-computer, copernicus, or the address of a STAC API."
        " The proxy and the authorities that are set in QGIS are used."
    )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Add the parameters."""
        self.add(polygons_parameter("AREA", "Area"))
        self.add(number_parameter("YEAR", "Year of the harvest", 2024, 2015, 2200))
        self.add(QgsProcessingParameterString("CATALOG", "Catalogue", "earth-search"))
        self.add(
            QgsProcessingParameterString("EXTRA", "Further options", "", False, True), advanced=True
        )
        self.add(
            QgsProcessingParameterFolderDestination(
                "OUTPUT", "Folder for the season, or a name that ends in .zarr"
            )
        )

    def work(
        self,
        parameters: Mapping[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        scratch: Path,
    ) -> Values | None:
        """Fetch the season."""
        path, layer = self.vector_words(parameters, "AREA", context, feedback)
        year = self.parameterAsInt(parameters, "YEAR", context)
        out = Path(self.parameterAsString(parameters, "OUTPUT", context))
        if out.suffix != ".zarr":
            out = out / f"season-{year}.zarr"
        words = ["cube", "--area", path, "--season", str(year), "--out", str(out)]
        words += ["--catalog", self.parameterAsString(parameters, "CATALOG", context).strip()]
        words += ["--layer", layer] if layer else []
        words += split_words(self.parameterAsString(parameters, "EXTRA", context))
        if self.runner.run(words, feedback) is None:
            return None
        return {"OUTPUT": str(out)}


ALGORITHMS = (Map, Refine, Inspect, Compare, Fetch)
