"""The operations behind the pages and the API.

Each takes the user who asks, and gives access to that user's jobs and uploads only.
"""

from __future__ import annotations

import secrets
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from panoseg.app.confined import DOWNLOAD, EXPORT, run_confined
from panoseg.app.database import Database, ShareRow, now
from panoseg.app.estimate import Estimate, Estimator, RequestInputs
from panoseg.app.geocoder import Geocoder
from panoseg.app.job_folder import REQUEST, remove_deleted, was_worked_in
from panoseg.app.job_views import ENDED, JobView, LogLine
from panoseg.app.jobs import Jobs
from panoseg.app.limits import ConcurrencyLimit
from panoseg.app.requests import (
    MapRequest,
    PhotoRequest,
    RegisterSource,
    parse_register,
    parse_request,
)
from panoseg.app.settings import PACKAGE_WEIGHTS, AppSettings
from panoseg.app.stages import INPUT, LAYERS, MAP, PHOTO, REFINED, cube_of
from panoseg.app.uploads import Upload, Uploads
from panoseg.errors import ConflictError, NotFoundError
from panoseg.files import output_error, write_json

if TYPE_CHECKING:
    from panoseg.app.corrections import TrainingOptions
    from panoseg.app.exports import Format

_STRAY_AGE_S = 3600.0
_RESULT_FOLDERS = (MAP, REFINED, PHOTO)


@dataclass(frozen=True)
class ResultFile:
    """A file of a result that can be downloaded."""

    path: str
    """Path relative to the folder of the job."""
    bytes: int
    """Size of the file."""


class Service:
    """The web application without its pages; safe to use from many threads.

    Args:
        settings: The settings; missing folders and tables are created.

    Raises:
        AppError: The database cannot be used.
        OutputError: The folder cannot be written.
    """

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings
        try:
            for folder in (settings.jobs_folder, settings.uploads_folder):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(settings.folder, error) from error
        self.database = Database(settings.database_url)
        self.all_jobs = Jobs(self.database, settings.lease_seconds)
        self.uploads = Uploads(settings, self.database)
        self.inputs = RequestInputs(settings, self.uploads)
        self.estimator = Estimator(self.inputs)
        self.geocoder = Geocoder(settings) if settings.geocoder else None
        self._exports = ConcurrencyLimit("downloads that are being made", per_user=2, total=6)

    # -- jobs

    def submit(self, user: str, request: MapRequest | PhotoRequest | dict[str, Any]) -> JobView:
        """Start a job.

        Raises:
            AppError: The request is not valid, or exceeds the user's limits.
            OutputError: The folder of the job cannot be written.
        """
        checked = parse_request(request)
        km2 = self.inputs.check(user, checked)
        id = uuid.uuid4().hex
        folder = self.settings.jobs_folder / id
        try:
            folder.mkdir(parents=True)
            self.inputs.copy_inputs(user, checked, folder)
            as_json = checked.model_dump(mode="json")
            write_json(folder / REQUEST, as_json)
            return self.all_jobs.submit(
                id, user, checked.name, as_json, self.settings.limits.jobs, km2
            )
        except OSError as error:
            _remove(folder)
            raise output_error(folder, error) from error
        except Exception:
            _remove(folder)
            raise

    def job(self, user: str, id: str) -> JobView:
        """Return a job of the user; ``NotFoundError`` also if it belongs to somebody else."""
        view = self.all_jobs.get(id)
        if view.owner != user:
            raise NotFoundError(f"There is no job {id}; look at the list of your jobs.")
        return view

    def jobs(self, user: str) -> list[JobView]:
        """Return the jobs of the user, newest first."""
        return self.all_jobs.of(user)

    def log(self, user: str, id: str, after: int = 0) -> list[LogLine]:
        """Return the lines of a job's log with numbers above ``after``."""
        return self.all_jobs.log(self.job(user, id).id, after)

    def position(self, user: str, id: str) -> int:
        """Return how many queued jobs are older than this one."""
        return self.all_jobs.position(self.job(user, id).id)

    def cancel(self, user: str, id: str) -> JobView:
        """Stop a job, or raise ``ConflictError`` if it has ended."""
        view = self.job(user, id)
        if view.state in ENDED:
            raise ConflictError(f"The job is {view.state} and cannot be cancelled; delete it.")
        return self.all_jobs.cancel(id)

    def retry(self, user: str, id: str) -> JobView:
        """Start a failed or cancelled job again; stages that are done are not repeated.

        Raises:
            ConflictError: The job is neither failed nor cancelled.
            LimitError: The user has too many jobs.
        """
        view = self.job(user, id)
        if view.state not in ("failed", "cancelled"):
            raise ConflictError(
                f"The job is {view.state}; only failed and cancelled jobs can be started again."
            )
        return self.all_jobs.requeue(id, self.settings.limits.jobs)

    def delete(self, user: str, id: str) -> None:
        """Delete a job and its files; a running job is stopped first."""
        self.all_jobs.mark_deleted(self.job(user, id).id)
        self.remove_deleted()

    def set_register(
        self, user: str, id: str, register: RegisterSource | dict[str, Any]
    ) -> JobView:
        """Compare a finished map with official parcels, which replace earlier ones.

        The job is queued again for that.

        Raises:
            ConflictError: The job is not a map, or is not done.
            AppError: The official parcels are not valid or not allowed.
        """
        view = self.job(user, id)
        if view.kind != "map" or view.state not in ENDED or not self.has_result(view):
            raise ConflictError(
                f"Official parcels can be added to maps that are done; this {view.kind} is"
                f" {view.state}."
            )
        source = parse_register(register)
        request = parse_request({**view.request, "register_of": source.model_dump()})
        self.inputs.check_register(user, source)
        folder, as_json = self.settings.jobs_folder / id, request.model_dump(mode="json")

        def prepare() -> None:
            try:
                for old in (*(folder / INPUT).glob("register*"), *(folder / INPUT).glob("codes*")):
                    old.unlink(missing_ok=True)
                self.inputs.copy_register(user, source, folder / INPUT)
                write_json(folder / REQUEST, as_json)
            except OSError as error:
                raise output_error(folder, error) from error

        return self.all_jobs.requeue(id, self.settings.limits.jobs, as_json, prepare)

    # -- before a job

    def estimate(self, user: str, request: MapRequest | PhotoRequest | dict[str, Any]) -> Estimate:
        """Return what a job would cost, without starting it.

        Raises:
            AppError: The request is not valid, or exceeds the user's limits.
            CatalogueError: The catalogue does not answer, or has no scenes.
        """
        checked = parse_request(request)
        km2 = self.inputs.check(user, checked) or 0.0
        return self.estimator.estimate(user, checked, km2, self.all_jobs.seconds_per_km2())

    def weights(self, kind: str) -> list[str]:
        """Return the names of the weights that jobs of a kind, map or photo, may use."""
        if kind == "map":
            return [PACKAGE_WEIGHTS, *(Path(place).name for place in self.settings.weights)]
        return [Path(place).name for place in self.settings.photo_weights]

    # -- results

    def folder(self, user: str, id: str) -> Path:
        """Return the folder of a job of the user; ``panoseg.app.stages`` lists its files."""
        return self.settings.jobs_folder / self.job(user, id).id

    def has_result(self, job: JobView) -> bool:
        """Return whether a job has a result.

        It is done, or was done before it was queued again for other official parcels.
        """
        layers = self.settings.jobs_folder / job.id / LAYERS / "layers.json"
        return job.state == "done" or layers.is_file()

    def training_data(self, user: str, id: str, options: TrainingOptions) -> Path:
        """Return a zip file with the corrected map of a job as training data.

        Raises:
            LimitError: The user already waits for one.
            BusyError: Other users wait for too many.
            PanosegError: The training data cannot be made.
        """
        from panoseg.app.corrections import training_data

        folder = self.folder(user, id)
        with self._exports.slot(user):
            return run_confined(EXPORT.of(user), training_data, folder, options)

    def export(self, user: str, id: str, form: Format) -> Path:
        """Return the parcels of a job's map as corrected, in a format.

        Args:
            user: Who asks: the user, or a link to the result.
            id: The job, which the caller may read.
            form: The format.

        Raises:
            LimitError: The user already waits for one.
            BusyError: Other users wait for too many.
            NotFoundError: The job has no map.
        """
        from panoseg.app.exports import export_parcels

        with self._exports.slot(user):
            return run_confined(
                DOWNLOAD.of(user), export_parcels, self.settings.jobs_folder / id, form
            )

    def cube(self, user: str, id: str) -> Path:
        """Return the path of the season of a job of the user."""
        return cube_of(self.folder(user, id))

    def files(self, user: str, id: str) -> list[ResultFile]:
        """Return the files of a result in order of their paths."""
        return self._files(self.job(user, id))

    def file(self, user: str, id: str, path: str) -> Path:
        """Return the full path of one of ``files``, or raise ``NotFoundError``."""
        return self._file(self.job(user, id), path)

    def share(self, user: str, id: str) -> str:
        """Return the token of the public link to a result, creating the link if there is none.

        Raises:
            ConflictError: The job has no result.
        """
        view = self.job(user, id)
        if not self.has_result(view):
            raise ConflictError(f"The job is {view.state}; wait until it is done.")
        with self.database.writing() as session:
            token = session.scalar(select(ShareRow.token).where(ShareRow.job == id))
            if token is None:
                token = secrets.token_urlsafe(24)
                session.add(ShareRow(token=token, job=id, created=now(session)))
            return token

    def unshare(self, user: str, id: str) -> None:
        """Remove the public link to a result."""
        view = self.job(user, id)
        with self.database.writing() as session:
            session.execute(delete(ShareRow).where(ShareRow.job == view.id))

    def shared(self, token: str) -> JobView:
        """Return the job of a public link, or raise ``NotFoundError`` if it has no result."""
        with self.database.reading() as session:
            id = session.scalar(select(ShareRow.job).where(ShareRow.token == token))
        view = None if id is None else self.all_jobs.get(id)
        if view is None or not self.has_result(view):
            raise NotFoundError("This link leads to no result; ask its sender for a new one.")
        return view

    def shared_files(self, token: str) -> list[ResultFile]:
        """Return the files of a shared result."""
        return self._files(self.shared(token))

    def shared_file(self, token: str, path: str) -> Path:
        """Return the full path of one of ``shared_files``, or raise ``NotFoundError``."""
        return self._file(self.shared(token), path)

    # -- uploads

    def save_upload(self, user: str, name: str, chunks: Iterable[bytes]) -> Upload:
        """Save an upload that arrives in chunks, or raise ``AppError`` if it is not acceptable."""
        return self.uploads.save(user, name, chunks)

    # -- operation

    def remove_deleted(self) -> int:
        """Remove the files and rows of deleted jobs that no worker holds; return how many."""
        return remove_deleted(self.all_jobs, self.settings.jobs_folder)

    def remove_strays(self) -> None:
        """Remove folders and files without a row, which a killed server was just creating.

        Folders in which a worker has worked are kept: if the database does not know them, it may be
        another database or an older copy.
        """
        before = time.time() - _STRAY_AGE_S
        for folder in self.settings.jobs_folder.iterdir():
            if (
                folder.stat().st_mtime < before
                and not was_worked_in(folder)
                and not self.all_jobs.exists(folder.name)
            ):
                _remove(folder)
        known = self.uploads.files()
        for file in self.settings.uploads_folder.iterdir():
            if file.stat().st_mtime < before and file.name not in known:
                if file.is_dir():
                    _remove(file)  # an archive was unpacked there, and its reader was ended
                else:
                    file.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _files(self, view: JobView) -> list[ResultFile]:
        if not self.has_result(view):
            return []
        root = self.settings.jobs_folder / view.id
        found = sorted(
            path
            for name in _RESULT_FOLDERS
            for path in (root / name).rglob("*")
            if _is_result(path)
        )
        files = []
        for path in found:
            with suppress(FileNotFoundError):  # official parcels may just be being replaced
                files.append(ResultFile(path.relative_to(root).as_posix(), path.stat().st_size))
        return files

    def _file(self, view: JobView, path: str) -> Path:
        if path not in {file.path for file in self._files(view)}:
            raise NotFoundError("The result has no such file; look at the list of its files.")
        return self.settings.jobs_folder / view.id / path


def _is_result(path: Path) -> bool:
    return (
        path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in path.parts[-3:])
    )


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
