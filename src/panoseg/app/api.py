"""The HTTP API under /api: the methods of the service as routes.

Docstrings of routes, answers and their fields are the descriptions in OpenAPI.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect, HTTPConnection

from panoseg.app.requests import AnyRequest, Id, ReadChoices, RegisterSource
from panoseg.app.security import FILE_POLICY
from panoseg.app.service import Service
from panoseg.app.users import Users
from panoseg.errors import AppError, NotFoundError

COOKIE = "panoseg_token"
_MONTH_S = 30 * 86_400
_MAX_LOG_NUMBER = 2**31 - 1
_REPORT = "report.html"
_UPLOAD_TIMEOUT_S = 60


class _Answer(BaseModel):
    """An answer, made from an object with these attributes."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class JobAnswer(_Answer):
    """A job."""

    id: Id
    """32 hexadecimal digits."""
    kind: Literal["map", "photo"]
    """Kind of the job."""
    owner: str
    """Name of the user."""
    name: str
    """Name for display."""
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    """State of the job."""
    stage: str
    """Current stage; empty unless the job runs."""
    progress: float = Field(ge=0, le=1)
    """Completed share of the job."""
    message: str
    """Current status."""
    created: datetime
    """Time of submission."""
    started: datetime | None
    """Time at which a worker last took the job."""
    ended: datetime | None
    """Time at which the job was done, failed or was cancelled."""
    request: dict[str, Any]
    """The request."""
    error: str | None
    """Reason of the failure."""
    seconds_left: float | None
    """Estimated time until the job is done."""
    bytes: int
    """Size of the job's files once the job has ended."""


class SharedAnswer(_Answer):
    """A shared job, without its owner and its request, which may name private things."""

    kind: Literal["map", "photo"]
    """Kind of the job."""
    name: str
    """Name for display."""
    created: datetime
    """Time of submission."""
    bytes: int
    """Size of the job's files."""


class LogAnswer(_Answer):
    """A line of a job's log."""

    number: int
    """Ascends with time."""
    time: datetime
    """Time of the line."""
    level: str
    """One of "info", "warning" or "error"."""
    text: str
    """The line."""


class SceneAnswer(_Answer):
    """A date of a season."""

    date: Any
    """The date."""
    cloud_percent: float
    """Cloud cover of the whole scenes, 0 to 100."""


class EstimateAnswer(_Answer):
    """What a job would cost."""

    km2: float
    """Area in square kilometres."""
    scenes: list[SceneAnswer]
    """Dates of the season."""
    seconds: float
    """Expected time."""
    download_bytes: int
    """Expected download."""
    notes: list[str]
    """Remarks, a sentence each."""


class UploadAnswer(_Answer):
    """An upload."""

    id: Id
    """32 hexadecimal digits."""
    kind: Literal["outline", "register", "cube", "photo", "codes"]
    """What the file is."""
    name: str
    """Name for display."""
    bytes: int
    """Size of the file."""
    summary: dict[str, Any]
    """Description of the content."""
    created: datetime
    """Time of the upload."""


class FileAnswer(_Answer):
    """A file of a result."""

    path: str
    """Path within the result."""
    bytes: int
    """Size of the file."""


class ErrorAnswer(_Answer):
    """Why a request was refused."""

    error: str
    """What is wrong and what to do."""


class ShareAnswer(_Answer):
    """A public link to a result."""

    token: str
    """Token of the link."""


class TokenBody(BaseModel):
    """A token to sign in with."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    token: str = Field(min_length=1, max_length=200)
    """The token."""


class UserAnswer(_Answer):
    """The user who asks."""

    user: str
    """Name of the user."""
    sign_in: bool
    """Whether users sign in at this server."""


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request cannot be read",
        401: "Not signed in",
        403: "The request comes from another site",
        404: "Not found, or not yours",
        409: "The state of the job does not allow it",
        413: "Too large",
        421: "The request is meant for another server",
        422: "The request is not valid",
        429: "Above your limits",
        503: "The server is busy, or the database or a catalogue does not answer",
    }.items()
}


def token_of(request: HTTPConnection) -> str | None:
    """Return the token in a request, or in the handshake of a web socket."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def current_user(request: Request) -> str:
    """Return the user who asks, or raise ``NotSignedInError``."""
    users: Users = request.app.state.users
    request.state.user = user = users.user_of(token_of(request))
    return user


AppService = Annotated[Service, Depends(_service)]
User = Annotated[str, Depends(current_user)]
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
Token = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{32}$")]
Name = Annotated[str, Path(max_length=300)]

router = APIRouter(prefix="/api", responses=ERRORS)


@router.get("/me", tags=["user"])
def me(request: Request, user: User) -> UserAnswer:
    """Return the user who asks."""
    return UserAnswer(user=user, sign_in=request.app.state.users.sign_in)


@router.post("/sign-in", tags=["user"])
def sign_in(request: Request, response: Response, body: TokenBody) -> UserAnswer:
    """Store a token in a cookie that scripts cannot read and pages of other sites do not send."""
    users: Users = request.app.state.users
    user = users.user_of(body.token)
    if users.sign_in:
        # Behind a proxy that ends TLS the scheme is http; the origin of the page shows it.
        secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith(
            "https://"
        )
        response.set_cookie(
            COOKIE, body.token, max_age=_MONTH_S, httponly=True, samesite="lax", secure=secure
        )
    return UserAnswer(user=user, sign_in=users.sign_in)


@router.post("/sign-out", status_code=204, tags=["user"])
def sign_out(response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(COOKIE)


@router.get("/weights", tags=["jobs"])
def weights(service: AppService, user: User, kind: Literal["map", "photo"] = "map") -> list[str]:
    """List the names of the weights that jobs of a kind may use."""
    return service.weights(kind)


@router.post("/estimate", tags=["jobs"])
def estimate(service: AppService, user: User, request: AnyRequest) -> EstimateAnswer:
    """Estimate what a job would cost: area, dates with their clouds, time, download."""
    return EstimateAnswer.model_validate(service.estimate(user, request))


@router.post("/jobs", status_code=201, tags=["jobs"])
def submit(service: AppService, user: User, request: AnyRequest) -> JobAnswer:
    """Start a job."""
    return JobAnswer.model_validate(service.submit(user, request))


@router.get("/jobs", tags=["jobs"])
def jobs(service: AppService, user: User) -> list[JobAnswer]:
    """List your jobs, newest first."""
    return [JobAnswer.model_validate(view) for view in service.jobs(user)]


@router.get("/jobs/{id}", tags=["jobs"])
def job(service: AppService, user: User, id: JobId) -> JobAnswer:
    """Get a job."""
    return JobAnswer.model_validate(service.job(user, id))


@router.get("/jobs/{id}/log", tags=["jobs"])
def log(
    service: AppService,
    user: User,
    id: JobId,
    after: Annotated[int, Query(ge=0, le=_MAX_LOG_NUMBER)] = 0,
) -> list[LogAnswer]:
    """List up to 2000 lines of a job's log with numbers above ``after``."""
    return [LogAnswer.model_validate(line) for line in service.log(user, id, after)]


@router.post("/jobs/{id}/cancel", tags=["jobs"])
def cancel(service: AppService, user: User, id: JobId) -> JobAnswer:
    """Stop a job."""
    return JobAnswer.model_validate(service.cancel(user, id))


@router.post("/jobs/{id}/retry", tags=["jobs"])
def retry(service: AppService, user: User, id: JobId) -> JobAnswer:
    """Start a failed or cancelled job again; stages that are done are not repeated."""
    return JobAnswer.model_validate(service.retry(user, id))


@router.delete("/jobs/{id}", status_code=204, tags=["jobs"])
def delete_job(service: AppService, user: User, id: JobId) -> None:
    """Stop a job and delete it with all its files."""
    service.delete(user, id)


@router.put("/jobs/{id}/register", tags=["jobs"])
def set_register(service: AppService, user: User, id: JobId, register: RegisterSource) -> JobAnswer:
    """Compare a finished map with official parcels."""
    return JobAnswer.model_validate(service.set_register(user, id, register))


@router.get("/jobs/{id}/files", tags=["results"])
def files(service: AppService, user: User, id: JobId) -> list[FileAnswer]:
    """List the files of a result."""
    return [FileAnswer.model_validate(file) for file in service.files(user, id)]


@router.get("/jobs/{id}/files/{path:path}", tags=["results"], response_class=FileResponse)
def file(service: AppService, user: User, id: JobId, path: Name) -> FileResponse:
    """Download a file of a result."""
    return _file(service.file(user, id, path))


@router.post("/jobs/{id}/share", tags=["results"])
def share(service: AppService, user: User, id: JobId) -> ShareAnswer:
    """Create a public link to a result and return its token."""
    return ShareAnswer(token=service.share(user, id))


@router.delete("/jobs/{id}/share", status_code=204, tags=["results"])
def unshare(service: AppService, user: User, id: JobId) -> None:
    """Remove the public link to a result."""
    service.unshare(user, id)


@router.get("/shared/{token}", tags=["results"])
def shared(service: AppService, token: Token) -> SharedAnswer:
    """Get a shared result."""
    return SharedAnswer.model_validate(service.shared(token))


@router.get("/shared/{token}/files", tags=["results"])
def shared_files(service: AppService, token: Token) -> list[FileAnswer]:
    """List the files of a shared result."""
    return [FileAnswer.model_validate(file) for file in service.shared_files(token)]


@router.get("/shared/{token}/files/{path:path}", tags=["results"], response_class=FileResponse)
def shared_file(service: AppService, token: Token, path: Name) -> FileResponse:
    """Download a file of a shared result."""
    return _file(service.shared_file(token, path))


_BINARY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/uploads", status_code=201, tags=["uploads"], openapi_extra=_BINARY)
async def upload(
    request: Request,
    service: AppService,
    user: User,
    name: Annotated[str, Query(max_length=300)] = "upload",
) -> UploadAnswer:
    """Upload a file as the body of the request: an outline, parcels, a season, a photograph."""
    # A thread is used per chunk that has arrived, not per upload: slow senders must not occupy
    # the threads.
    receiving = service.uploads.receiving(user)
    incoming = await to_thread.run_sync(receiving.__enter__)
    try:
        async for chunk in _chunks(request):
            await to_thread.run_sync(incoming.write, chunk)
        return UploadAnswer.model_validate(
            await to_thread.run_sync(service.uploads.keep, user, name, incoming)
        )
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(receiving.__exit__, None, None, None)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the chunks of a body, or raise ``AppError`` if it stops or breaks off."""
    stream = request.stream()
    while True:
        try:
            with anyio.fail_after(_UPLOAD_TIMEOUT_S):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise AppError(
                f"Nothing of the upload arrived for {_UPLOAD_TIMEOUT_S} s; send it again."
            ) from error
        except ClientDisconnect as error:
            raise AppError("The upload broke off; send it again.") from error
        if chunk is None:
            return
        if chunk:
            yield chunk


@router.get("/uploads", tags=["uploads"])
def uploads(service: AppService, user: User) -> list[UploadAnswer]:
    """List your uploads, newest first."""
    return [UploadAnswer.model_validate(upload) for upload in service.uploads.of(user)]


@router.get("/uploads/{id}", tags=["uploads"])
def get_upload(service: AppService, user: User, id: JobId) -> UploadAnswer:
    """Get an upload."""
    return UploadAnswer.model_validate(service.uploads.get(user, id))


@router.post("/uploads/{id}/check", tags=["uploads"])
def check_season(service: AppService, user: User, id: JobId, read: ReadChoices) -> UploadAnswer:
    """Read an uploaded season again, with what its file does not say; its summary changes."""
    return UploadAnswer.model_validate(service.uploads.check_season(user, id, read))


@router.delete("/uploads/{id}", status_code=204, tags=["uploads"])
def delete_upload(service: AppService, user: User, id: JobId) -> None:
    """Delete an upload; jobs that use it have their own copies."""
    service.uploads.delete(user, id)


def _file(path: FilePath) -> FileResponse:
    """Return a file as a download, or the report as a page that may not run scripts."""
    if not path.is_file():
        raise NotFoundError("The result has no such file; look at the list of its files.")
    is_page = path.name == _REPORT
    return FileResponse(
        path,
        headers={"content-security-policy": FILE_POLICY},
        filename=path.name,
        media_type="text/html; charset=utf-8" if is_page else "application/octet-stream",
        content_disposition_type="inline" if is_page else "attachment",
    )
