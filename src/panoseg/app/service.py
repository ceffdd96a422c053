"""All that the pages and the API do, each method for a user: nobody sees or touches what is not
theirs.
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

from panoseg.app.confined import EXPORT, confined
from panoseg.app.database import Database, ShareRow, now
from panoseg.app.estimate import Estimate, Estimates, RequestInputs
from panoseg.app.job_folder import REQUEST, remove_deleted, was_worked_in
from panoseg.app.jobs import ENDED, Jobs, JobView, LogLine
from panoseg.app.limits import AtATime
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

_STRAY_S = 3600.0
_RESULTS = (MAP, REFINED, PHOTO)


@dataclass(frozen=True)
class ResultFile:
    """A file of a result that can be taken along. path: relative to the job's folder."""

    path: str
    bytes: int


class Service:
    """The web application without its pages. Every method may be called from any thread."""

    def __init__(self, settings: AppSettings) -> None:
        """Make folder and tables where they are missing. Raises ``AppError``, ``OutputError``."""
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
        self.estimates = Estimates(self.inputs)
        self._exports = AtATime("exports of training data", of_user=1, of_all=4)

    # -- jobs

    def submit(self, user: str, request: MapRequest | PhotoRequest | dict[str, Any]) -> JobView:
        """Start a job. Raises ``AppError`` of all kinds for a request that is wrong or beyond the
        user's limits.
        """
        checked = parse_request(request)
        km2 = self.inputs.check(user, checked)
        id = uuid.uuid4().hex
        folder = self.settings.jobs_folder / id
        try:
            folder.mkdir(parents=True)
            self.inputs.give(user, checked, folder)
            given = checked.model_dump(mode="json")
            write_json(folder / REQUEST, given)
            return self.all_jobs.submit(
                id, user, checked.name, given, self.settings.limits.jobs, km2
            )
        except OSError as error:
            _remove(folder)
            raise output_error(folder, error) from error
        except Exception:
            _remove(folder)
            raise

    def job(self, user: str, id: str) -> JobView:
        """A job of the user. Raises ``NotFoundError``, also for one of somebody else."""
        view = self.all_jobs.get(id)
        if view.owner != user:
            raise NotFoundError(f"job {id}", "a job of yours", "look at the list of jobs")
        return view

    def jobs(self, user: str) -> list[JobView]:
        """The jobs of the user, the newest first."""
        return self.all_jobs.of(user)

    def log(self, user: str, id: str, after: int = 0) -> list[LogLine]:
        """The lines of a job's log behind the line of that number. Raises ``NotFoundError``."""
        return self.all_jobs.log(self.job(user, id).id, after)

    def position(self, user: str, id: str) -> int:
        """How many jobs wait before this one, at most. Raises ``NotFoundError``."""
        return self.all_jobs.position(self.job(user, id).id)

    def cancel(self, user: str, id: str) -> JobView:
        """Stop a job. Raises ``NotFoundError``, ``ConflictError`` for one that has ended."""
        view = self.job(user, id)
        if view.state in ENDED:
            raise ConflictError(
                f"a job that is {view.state}",
                "one that waits or runs",
                "delete it, if it is not wanted",
            )
        return self.all_jobs.cancel(id)

    def retry(self, user: str, id: str) -> JobView:
        """Start a failed or cancelled job again; what is done stays. Raises ``NotFoundError``,
        ``ConflictError``.
        """
        view = self.job(user, id)
        if view.state not in ("failed", "cancelled"):
            raise ConflictError(
                f"a job that is {view.state}",
                "one that failed or was cancelled",
                "wait until it ends",
            )
        return self.all_jobs.requeue(id, self.settings.limits.jobs)

    def delete(self, user: str, id: str) -> None:
        """Forget a job and its files; one that runs is stopped first. Raises ``NotFoundError``."""
        self.all_jobs.mark_deleted(self.job(user, id).id)
        self.remove_deleted()

    def set_register(
        self, user: str, id: str, register: RegisterSource | dict[str, Any]
    ) -> JobView:
        """Compare a finished map with official parcels, in place of those before; the job runs once
        more for that.

        Raises ``NotFoundError``, ``ConflictError`` for a map that is not done, ``AppError``.
        """
        view = self.job(user, id)
        if view.kind != "map" or view.state not in ENDED or not self.has_result(view):
            raise ConflictError(
                f"a {view.kind} that is {view.state}", "a map that is done", "wait until it is done"
            )
        source = parse_register(register)
        request = parse_request({**view.request, "register_of": source.model_dump()})
        self.inputs.check_register(user, source)
        folder, given = self.settings.jobs_folder / id, request.model_dump(mode="json")

        def prepare() -> None:
            try:
                for old in (*(folder / INPUT).glob("register*"), *(folder / INPUT).glob("codes*")):
                    old.unlink(missing_ok=True)
                self.inputs.give_register(user, source, folder / INPUT)
                write_json(folder / REQUEST, given)
            except OSError as error:
                raise output_error(folder, error) from error

        return self.all_jobs.requeue(id, self.settings.limits.jobs, given, prepare)

    # -- before a job

    def estimate(self, user: str, request: MapRequest | PhotoRequest | dict[str, Any]) -> Estimate:
        """What a map would cost, found out without starting it. Raises ``AppError`` of all kinds,
        ``CatalogueError``.
        """
        checked = parse_request(request)
        km2 = self.inputs.check(user, checked) or 0.0
        return self.estimates.of(user, checked, km2, self.all_jobs.pace())

    def weights(self, kind: str) -> list[str]:
        """The names of the weights that jobs of a kind may use."""
        settings = self.settings
        return (
            [PACKAGE_WEIGHTS, *(path.name for path in settings.weights)]
            if kind == "map"
            else [p.name for p in settings.photo_weights]
        )

    # -- results

    def folder(self, user: str, id: str) -> Path:
        """The folder of a job of the user, see ``panoseg.app.stages`` for what lies there. Raises
        ``NotFoundError``.
        """
        return self.settings.jobs_folder / self.job(user, id).id

    def has_result(self, job: JobView) -> bool:
        """Whether there is a result to look at: the job is done, or was before other official
        parcels were asked for.
        """
        return (
            job.state == "done"
            or (self.settings.jobs_folder / job.id / LAYERS / "layers.json").is_file()
        )

    def training_data(self, user: str, id: str, options: TrainingOptions) -> Path:
        """The corrected map of a job as training data, a zip file, made in a process of its own.

        Raises ``NotFoundError``, ``LimitError`` where the user waits for one already,
        ``BusyError``, ``PanosegError``.
        """
        from panoseg.app.corrections import training_data

        folder = self.folder(user, id)
        with self._exports.of(user):
            return confined(training_data, folder, options, bounds=EXPORT)

    def cube(self, user: str, id: str) -> Path:
        """The season of a job of the user. Raises ``NotFoundError``."""
        return cube_of(self.folder(user, id))

    def files(self, user: str, id: str) -> list[ResultFile]:
        """The files of a result that can be taken along, by name. Raises ``NotFoundError``."""
        return self._files(self.job(user, id))

    def file(self, user: str, id: str, path: str) -> Path:
        """A file of ``files``. Raises ``NotFoundError``."""
        return self._file(self.job(user, id), path)

    def share(self, user: str, id: str) -> str:
        """The token of the link to a result, the same every time. Raises ``NotFoundError``,
        ``ConflictError``.
        """
        view = self.job(user, id)
        if not self.has_result(view):
            raise ConflictError(
                f"a job that is {view.state}", "one that is done", "wait until it is done"
            )
        with self.database.writing() as session:
            token = session.scalar(select(ShareRow.token).where(ShareRow.job == id))
            if token is None:
                token = secrets.token_urlsafe(24)
                session.add(ShareRow(token=token, job=id, created=now(session)))
            return token

    def unshare(self, user: str, id: str) -> None:
        """Let the link to a result lead nowhere. Raises ``NotFoundError``."""
        view = self.job(user, id)
        with self.database.writing() as session:
            session.execute(delete(ShareRow).where(ShareRow.job == view.id))

    def shared(self, token: str) -> JobView:
        """The job that a link leads to, with a result; whoever has the token may read its results.
        Raises ``NotFoundError``.
        """
        with self.database.reading() as session:
            id = session.scalar(select(ShareRow.job).where(ShareRow.token == token))
        view = None if id is None else self.all_jobs.get(id)
        if view is None or not self.has_result(view):
            raise NotFoundError(
                "this link", "one that leads to a result", "ask whoever sent it for a new one"
            )
        return view

    def shared_files(self, token: str) -> list[ResultFile]:
        """``files`` of a shared job. Raises ``NotFoundError``."""
        return self._files(self.shared(token))

    def shared_file(self, token: str, path: str) -> Path:
        """``file`` of a shared job. Raises ``NotFoundError``."""
        return self._file(self.shared(token), path)

    # -- uploads

    def save_upload(self, user: str, name: str, pieces: Iterable[bytes]) -> Upload:
        """Keep a file that arrives in pieces. Raises ``AppError`` of all kinds for what is of no
        use or too much.
        """
        return self.uploads.save(user, name, pieces)

    # -- operation

    def remove_deleted(self) -> int:
        """Remove the files of deleted jobs that no worker holds, and their rows; returns how
        many.
        """
        return remove_deleted(self.all_jobs, self.settings.jobs_folder)

    def remove_strays(self) -> None:
        """Remove folders and files that no job and no upload knows of: what a server that was
        killed was just making.

        Folders with results stay: a database that does not know them may be another one, or an
        older copy.
        """
        before = time.time() - _STRAY_S
        for folder in self.settings.jobs_folder.iterdir():
            if (
                folder.stat().st_mtime < before
                and not was_worked_in(folder)
                and not self.all_jobs.known(folder.name)
            ):
                _remove(folder)
        known = self.uploads.files()
        for file in self.settings.uploads_folder.iterdir():
            if file.stat().st_mtime < before and file.name not in known:
                if file.is_dir():
                    _remove(file)  # of an archive whose reader was ended
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
            path for name in _RESULTS for path in (root / name).rglob("*") if _is_result(path)
        )
        files = []
        for path in found:
            with suppress(FileNotFoundError):  # official parcels are just being replaced
                files.append(ResultFile(path.relative_to(root).as_posix(), path.stat().st_size))
        return files

    def _file(self, view: JobView, path: str) -> Path:
        if path not in {file.path for file in self._files(view)}:
            raise NotFoundError("this file", "one of the result's", "look at the list of files")
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
