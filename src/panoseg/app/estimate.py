"""Checks of a request before its job starts, the job's copies of uploads, and cost estimates.

``RequestInputs`` checks that a request is within the limits and uses only uploads and addresses
that its user may use. ``Estimator`` says how long a map would take and what it would download.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from panoseg.app.confined import OUTLINE, run_confined
from panoseg.app.egress import AllowedUrls
from panoseg.app.limits import ConcurrencyLimit
from panoseg.app.requests import (
    CatalogueSource,
    CubeSource,
    MapRequest,
    PhotoRequest,
    RegisterSource,
    SampleSource,
)
from panoseg.app.settings import AppSettings
from panoseg.app.stages import INPUT, sample_options
from panoseg.app.upload_content import UploadKind
from panoseg.app.uploads import Upload, Uploads
from panoseg.errors import AppError, AreaError, LimitError, NotFoundError
from panoseg.files import write_json

if TYPE_CHECKING:
    from panoseg.imagery.area import Area


PIXEL_KM2 = 1e-4
"""Area of a pixel of 10 m in square kilometres."""
_GIB = 1024**3
_OUTLINE = "outline.geojson"
_SECONDS_PER_KM2 = 3.0  # until the first map is done
_SECONDS_TO_START = 8.0
_BYTES_PER_PIXEL = 22  # ten bands and the scene classification, two bytes each


class RequestInputs:
    """Checks the uploads and addresses in requests, and copies uploads to the folders of jobs.

    Args:
        settings: The settings of the server.
        uploads: All uploads.
    """

    def __init__(self, settings: AppSettings, uploads: Uploads) -> None:
        self.settings, self.uploads, self.allowed = settings, uploads, AllowedUrls(settings)

    def check(self, user: str, request: MapRequest | PhotoRequest) -> float | None:
        """Check a request.

        Returns:
            The area of a map in square kilometres, if it is known before the season is fetched.

        Raises:
            AppError: The request cannot be fulfilled.
            LimitError: It exceeds the user's limits.
        """
        limits = self.settings.limits
        used = self.uploads.bytes_of(user)
        if used > limits.disk_gib * _GIB:
            raise LimitError(
                f"Your uploads and results take {used / _GIB:.1f} GiB, of at most"
                f" {limits.disk_gib:g}; delete some jobs."
            )
        if isinstance(request, PhotoRequest):
            self.settings.photo_weights_folder(request.weights)
            self._upload(user, request.upload, "photo")
            return None
        self.settings.weights_folder(request.weights)
        if request.register_of is not None:
            self.check_register(user, request.register_of)
        km2 = self._km2(user, request)
        if km2 is not None and km2 > limits.area_km2:
            raise LimitError(
                f"The area has {km2:,.1f} km2, of at most {limits.area_km2:g} km2; draw a smaller"
                " one."
            )
        return km2

    def _km2(self, user: str, request: MapRequest) -> float | None:
        source = request.source
        if isinstance(source, SampleSource):
            return source.size**2 * PIXEL_KM2
        if isinstance(source, CubeSource):
            return self._km2_of_season(user, source)
        self._check_catalogue(source)
        if source.upload is not None:
            return self._upload(user, source.upload, "outline").summary.get("km2")
        return self.area(user, source).km2

    def _km2_of_season(self, user: str, source: CubeSource) -> float | None:
        """Return the area of an uploaded season, None if it was not read in this way before.

        Raises:
            AppError: It could not be read in this way.
        """
        summary = self._upload(user, source.upload, "cube").summary
        checked = summary.get("read", {}) == source.read.options().to_json()
        if checked and summary.get("problem") and "km2" not in summary:
            raise AppError(summary["problem"])
        km2: float | None = summary.get("km2")
        return km2

    def area(self, user: str, source: CatalogueSource) -> Area:
        """Read the outline of a request in a separate process.

        An outline that crosses itself many times would take all memory.

        Raises:
            AppError: The outline is not valid. The message does not name the server's file.
        """
        from panoseg.imagery.area import read_area

        with tempfile.TemporaryDirectory() as folder:
            if source.upload is not None:
                path = self.uploads.path(user, source.upload)
            else:
                path = Path(folder) / _OUTLINE
                path.write_text(json.dumps(source.outline), encoding="utf-8")
            try:
                return run_confined(OUTLINE.of(user), read_area, path)
            except AreaError as error:
                message = str(error).replace(str(path), "the outline")
                raise AppError(message[:1].upper() + message[1:]) from error

    def _check_catalogue(self, source: CatalogueSource) -> None:
        from panoseg.imagery.catalogue import CATALOGUES

        catalogue = source.catalogue or self.settings.catalog
        if "://" in catalogue:
            self.allowed.check(catalogue)
        elif catalogue not in CATALOGUES:
            raise AppError(
                f"There is no catalogue {catalogue!r}; choose one of {', '.join(CATALOGUES)}, or"
                " give the URL of a STAC API."
            )

    def _upload(self, user: str, id: str, *kinds: UploadKind) -> Upload:
        upload = self.uploads.get(user, id)
        if upload.kind not in kinds:
            raise AppError(
                f"The upload is of the kind {upload.kind}, but must be of the kind"
                f" {' or '.join(kinds)}; upload another file."
            )
        return upload

    def check_register(self, user: str, register: RegisterSource) -> None:
        """Check that official parcels are an upload of the user or a URL that is allowed."""
        if register.upload is not None:
            self._upload(user, register.upload, "outline", "register")
        elif register.url is not None:
            self.allowed.check(register.url)
        if register.codes is not None:
            self._upload(user, register.codes, "codes")

    def copy_inputs(self, user: str, request: MapRequest | PhotoRequest, folder: Path) -> None:
        """Copy the uploads that a job needs into the folder of the job."""
        inputs = folder / INPUT
        inputs.mkdir()
        if isinstance(request, PhotoRequest):
            _link_or_copy(self.uploads.path(user, request.upload), inputs, "photo")
            return
        source = request.source
        if isinstance(source, CubeSource):
            _link_or_copy(self.uploads.path(user, source.upload), inputs, "cube")
        elif isinstance(source, CatalogueSource) and source.upload is not None:
            _link_or_copy(self.uploads.path(user, source.upload), inputs, "outline")
        elif isinstance(source, CatalogueSource):
            write_json(inputs / _OUTLINE, source.outline)
        if request.register_of is not None:
            self.copy_register(user, request.register_of, inputs)

    def copy_register(self, user: str, register: RegisterSource, inputs: Path) -> None:
        """Copy uploaded official parcels and their codes into the folder of a job's inputs."""
        if register.upload is not None:
            _link_or_copy(self.uploads.path(user, register.upload), inputs, "register")
        if register.codes is not None:
            _link_or_copy(self.uploads.path(user, register.codes), inputs, "codes")


def _link_or_copy(upload: Path, folder: Path, name: str) -> None:
    """Put a file into a folder under another name, as a hard link if the file system has them."""
    target = folder / f"{name}{upload.suffix}"
    try:
        os.link(upload, target)
    except FileNotFoundError as error:
        raise NotFoundError("The uploaded file is gone; upload it again.") from error
    except OSError:
        shutil.copyfile(upload, target)


# -- estimates


@dataclass(frozen=True)
class SceneDate:
    """A date of a season."""

    date: date
    """The date."""
    cloud_percent: float
    """Cloud cover of the whole scenes, 0 to 100."""


@dataclass(frozen=True)
class Estimate:
    """What a job would cost."""

    km2: float
    """Area in square kilometres."""
    scenes: tuple[SceneDate, ...]
    """The dates that the catalogue has."""
    seconds: float
    """Expected time on this server, by the pace of its latest maps."""
    download_bytes: int
    """Expected download in bytes."""
    notes: tuple[str, ...]
    """Remarks, a sentence each."""


class Estimator:
    """Estimates the cost of jobs.

    Args:
        inputs: Checks and reads the inputs of requests.
    """

    def __init__(self, inputs: RequestInputs) -> None:
        self.inputs = inputs
        # Few searches at a time, so that slow catalogues leave threads for the pages.
        self._searches = ConcurrencyLimit("searches", per_user=4, total=8)

    def estimate(
        self,
        user: str,
        request: MapRequest | PhotoRequest,
        km2: float,
        seconds_per_km2: float | None,
    ) -> Estimate:
        """Return what a checked request would cost.

        Args:
            user: The user.
            request: The checked request.
            km2: Area of the map in square kilometres.
            seconds_per_km2: Pace of the latest maps, if there are any.

        Raises:
            AppError: The outline is not valid.
            CatalogueError: The catalogue does not answer, or has no scenes.
        """
        if isinstance(request, PhotoRequest):
            return Estimate(0.0, (), 2 * _SECONDS_TO_START, 0, ())
        scenes, size, notes = self._scenes(user, request)
        seconds = _SECONDS_TO_START + (seconds_per_km2 or _SECONDS_PER_KM2) * km2
        return Estimate(km2, scenes, seconds, size, notes)

    def _scenes(
        self, user: str, request: MapRequest
    ) -> tuple[tuple[SceneDate, ...], int, tuple[str, ...]]:
        """Return the dates of a season, the bytes to download, and notes."""
        source = request.source
        if isinstance(source, SampleSource):
            from panoseg.app.stages import SAMPLE_SEEDS
            from panoseg.simulation.season import planned_dates

            planned = planned_dates(SAMPLE_SEEDS + source.seed, sample_options(source))
            scenes = tuple(SceneDate(day, round(100 * cover, 1)) for day, cover in planned)
            return scenes, 0, ("The season is simulated: nothing is downloaded.",)
        if isinstance(source, CubeSource):
            return (), 0, ("The season is in the upload: nothing is downloaded.",)
        area = self.inputs.area(user, source)
        with self._searches.slot(user):
            return self._search(area, source, request.options.max_dates)

    def _search(
        self, area: Area, source: CatalogueSource, max_dates: int
    ) -> tuple[tuple[SceneDate, ...], int, tuple[str, ...]]:
        """Search the catalogue; return as ``_scenes``."""
        from panoseg.imagery.catalogue import find_catalogue, search

        found = search(
            area,
            *source.season(area),
            find_catalogue(source.catalogue or self.inputs.settings.catalog),
        )
        clouds: dict[date, list[float]] = {}
        for item in found:
            properties = item.get("properties") or {}
            # Catalogues may have items without a date or with impossible values.
            with suppress(ValueError, TypeError, KeyError):
                day = date.fromisoformat(str(properties["datetime"])[:10])
                percent = float(properties.get("eo:cloud_cover", 0))
                clouds.setdefault(day, []).append(percent if 0 <= percent <= 100 else 0.0)
        scenes = tuple(
            SceneDate(day, round(sum(many) / len(many), 1)) for day, many in sorted(clouds.items())
        )
        dates = min(len(scenes), max_dates)
        size = round(area.km2 / PIXEL_KM2 * dates * _BYTES_PER_PIXEL)
        notes = list(area.notes)
        if dates < len(scenes):
            notes.append(
                f"At most {max_dates} dates are used, the clearest of each part of the season."
            )
        return scenes, size, tuple(notes)
