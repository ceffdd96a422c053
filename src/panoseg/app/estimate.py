"""What a request needs of what users have given: whether it may have it, and its own copy in the
folder of its job.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from panoseg.app.confined import OUTLINE, confined
from panoseg.app.egress import AllowedUrls
from panoseg.app.limits import AtATime
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
from panoseg.app.uploads import Upload, UploadKind, Uploads
from panoseg.errors import AppError, AreaError, LimitError, NotFoundError
from panoseg.files import write_json

if TYPE_CHECKING:
    from panoseg.imagery.area import Area


PIXEL_KM2 = 1e-4
_GIB = 1024**3
_OUTLINE = "outline.geojson"


class RequestInputs:
    """The uploads and addresses that requests name, for their users."""

    def __init__(self, settings: AppSettings, uploads: Uploads) -> None:
        self.settings, self.uploads, self.allowed = settings, uploads, AllowedUrls(settings)

    def check(self, user: str, request: MapRequest | PhotoRequest) -> float | None:
        """Refuse what is wrong or too much; returns the area of a map, where it is known before its
        season is.
        """
        limits = self.settings.limits
        used = self.uploads.bytes_of(user)
        if used > limits.disk_gib * _GIB:
            found = f"{used / _GIB:.1f} GiB of uploads and results"
            raise LimitError(found, f"at most {limits.disk_gib:g}", "delete some jobs")
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
                f"an area of {km2:,.1f} km2",
                f"at most {limits.area_km2:g} km2",
                "draw a smaller one",
            )
        return km2

    def _km2(self, user: str, request: MapRequest) -> float | None:
        source = request.source
        if isinstance(source, SampleSource):
            return source.size**2 * PIXEL_KM2
        if isinstance(source, CubeSource):
            return self._upload(user, source.upload, "cube").summary.get("km2")
        self._check_catalogue(source)
        if source.upload is not None:
            return self._upload(user, source.upload, "outline").summary.get("km2")
        return self.area(user, source).km2

    def area(self, user: str, source: CatalogueSource) -> Area:
        """The area of an outline. Raises ``AppError`` for one that is none."""
        with _outline_file(
            source, None if source.upload is None else self.uploads.path(user, source.upload)
        ) as path:
            return _read_drawn(path)

    def _check_catalogue(self, source: CatalogueSource) -> None:
        from panoseg.imagery.catalogue import CATALOGUES

        catalogue = source.catalogue or self.settings.catalog
        if "://" in catalogue:
            self.allowed.check(catalogue)
        elif catalogue not in CATALOGUES:
            raise AppError(
                f"catalogue {catalogue!r}",
                f"{', '.join(CATALOGUES)}, or the URL of a STAC API",
                "choose another",
            )

    def _upload(self, user: str, id: str, *kinds: UploadKind) -> Upload:
        upload = self.uploads.get(user, id)
        if upload.kind not in kinds:
            raise AppError(
                f"an upload that is a {upload.kind}",
                f"a {' or '.join(kinds)}",
                "upload another file",
            )
        return upload

    def check_register(self, user: str, register: RegisterSource) -> None:
        """Refuse official parcels that the user does not have, or that may not be fetched."""
        if register.upload is not None:
            self._upload(user, register.upload, "outline", "register")
        elif register.url is not None:
            self.allowed.check(register.url)
        if register.codes is not None:
            self._upload(user, register.codes, "codes")

    def give(self, user: str, request: MapRequest | PhotoRequest, folder: Path) -> None:
        """Put the job's own copies of the uploads that it needs into its folder."""
        given = folder / INPUT
        given.mkdir()
        if isinstance(request, PhotoRequest):
            _give(self.uploads.path(user, request.upload), given, "photo")
            return
        if isinstance(request.source, CubeSource):
            _give(self.uploads.path(user, request.source.upload), given, "cube")
        elif isinstance(request.source, CatalogueSource):
            self._give_outline(user, request.source, given)
        if request.register_of is not None:
            self.give_register(user, request.register_of, given)

    def _give_outline(self, user: str, source: CatalogueSource, folder: Path) -> None:
        if source.upload is not None:
            _give(self.uploads.path(user, source.upload), folder, "outline")
        else:
            write_json(folder / _OUTLINE, source.outline)

    def give_register(self, user: str, register: RegisterSource, folder: Path) -> None:
        """Put its own copy of official parcels that were uploaded into the folder of a job's
        inputs.
        """
        if register.upload is not None:
            _give(self.uploads.path(user, register.upload), folder, "register")
        if register.codes is not None:
            _give(self.uploads.path(user, register.codes), folder, "codes")


@contextmanager
def _outline_file(source: CatalogueSource, upload: Path | None = None) -> Iterator[Path]:
    """A file with the outline: the upload, or what was drawn."""
    if upload is not None:
        yield upload
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _OUTLINE
        path.write_text(json.dumps(source.outline), encoding="utf-8")
        yield path


def _read_drawn(path: Path) -> Area:
    """The area of an outline, in a process of its own: one that crosses itself often takes all
    memory that it is given.

    Raises ``AppError`` whose message does not name the file, which is ours.
    """
    from panoseg.imagery.area import read_area

    try:
        return confined(read_area, path, bounds=OUTLINE)
    except AreaError as error:
        found = error.found.replace(str(path), "the outline")
        raise AppError(found, error.expected, error.fix) from error


def _give(upload: Path, folder: Path, name: str) -> None:
    """The file under another name in a job's folder, as a second link to the same bytes where the
    disk can.
    """
    target = folder / f"{name}{upload.suffix}"
    try:
        os.link(upload, target)
    except FileNotFoundError as error:
        raise NotFoundError(
            "an upload whose file has gone", "one that is there", "upload it again"
        ) from error
    except OSError:
        shutil.copyfile(upload, target)


_SECONDS_A_KM2 = 3.0  # before the first finished map tells better
_SECONDS_TO_START = 8.0
_BYTES_A_PIXEL = 22  # ten bands and the classification, of two bytes each


@dataclass(frozen=True)
class SceneDate:
    """A date of a season. cloud_percent: 0..100 of the sky over the whole scene."""

    date: date
    cloud_percent: float


@dataclass(frozen=True)
class Estimate:
    """What a map would cost. seconds: on this server, as finished maps tell. notes: a sentence
    each.
    """

    km2: float
    scenes: tuple[SceneDate, ...]
    seconds: float
    download_bytes: int
    notes: tuple[str, ...]


class Estimates:
    """Estimates jobs for users; few search a catalogue at a time."""

    def __init__(self, inputs: RequestInputs) -> None:
        self.inputs = inputs
        self._searches = AtATime(
            "searches", of_user=4, of_all=8
        )  # all together leave threads for pages

    def of(
        self, user: str, request: MapRequest | PhotoRequest, km2: float, pace: float | None
    ) -> Estimate:
        """What a checked request would cost. pace: seconds a km2 of finished maps. Raises
        ``AppError``, ``CatalogueError``.
        """
        if isinstance(request, PhotoRequest):
            return Estimate(0.0, (), 2 * _SECONDS_TO_START, 0, ())
        scenes, size, notes = self._scenes(user, request)
        return Estimate(
            km2, scenes, _SECONDS_TO_START + (pace or _SECONDS_A_KM2) * km2, size, notes
        )

    def _scenes(
        self, user: str, request: MapRequest
    ) -> tuple[tuple[SceneDate, ...], int, tuple[str, ...]]:
        """The dates of a season, the bytes to fetch, and notes."""
        source = request.source
        if isinstance(source, SampleSource):
            from panoseg.app.stages import SAMPLE_SEEDS
            from panoseg.simulation.season import planned_dates

            planned = planned_dates(SAMPLE_SEEDS + source.seed, sample_options(source))
            scenes = tuple(SceneDate(day, round(100 * cover, 1)) for day, cover in planned)
            return scenes, 0, ("A simulated season: nothing is fetched.",)
        if isinstance(source, CubeSource):
            return (), 0, ("The season is in the upload: nothing is fetched.",)
        area = self.inputs.area(user, source)
        with self._searches.of(user):
            return self._searched(area, source, request.options.max_dates)

    def _searched(
        self, area: Area, source: CatalogueSource, most: int
    ) -> tuple[tuple[SceneDate, ...], int, tuple[str, ...]]:
        """What a catalogue has of an area and a season."""
        from panoseg.imagery.catalogue import find_catalogue, search

        found = search(
            area, *source.season, find_catalogue(source.catalogue or self.inputs.settings.catalog)
        )
        clouds: dict[date, list[float]] = {}
        for item in found:
            properties = item.get("properties") or {}
            with suppress(ValueError, TypeError, KeyError):
                day, percent = (
                    date.fromisoformat(str(properties["datetime"])[:10]),
                    float(properties.get("eo:cloud_cover", 0)),
                )
                clouds.setdefault(day, []).append(
                    percent if 0 <= percent <= 100 else 0.0
                )  # catalogues write what they like
        scenes = tuple(
            SceneDate(day, round(sum(many) / len(many), 1)) for day, many in sorted(clouds.items())
        )
        dates = min(len(scenes), most)
        size = round(area.km2 / PIXEL_KM2 * dates * _BYTES_A_PIXEL)
        left = (
            (f"At most {most} dates are used, the clearest of each stretch of the season.",)
            if dates < len(scenes)
            else ()
        )
        return scenes, size, (*area.notes, *left)
