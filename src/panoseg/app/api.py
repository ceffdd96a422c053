"""The HTTP API under /api: the service's methods as routes, described by OpenAPI."""

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
from starlette.requests import ClientDisconnect

from panoseg.app.requests import AnyRequest, Id, RegisterSource
from panoseg.app.security import FILE_POLICY
from panoseg.app.service import Service
from panoseg.app.users import Users
from panoseg.errors import AppError, NotFoundError

COOKIE = "panoseg_token"
_MONTH_S = 30 * 86_400
_LARGEST_NUMBER = 2**31 - 1
_REPORT = "report.html"
_LONGEST_SILENCE_S = 60


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class JobAnswer(_View):
    """A job."""

    id: Id
    kind: Literal["map", "photo"]
    owner: str
    name: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    progress: float = Field(ge=0, le=1)
    message: str
    created: datetime
    started: datetime | None
    ended: datetime | None
    request: dict[str, Any]
    error: str | None
    seconds_left: float | None
    bytes: int


class SharedAnswer(_View):
    """A job for whoever has its link: neither who owns it nor what was asked for, which may name
    other things of theirs.
    """

    kind: Literal["map", "photo"]
    name: str
    created: datetime
    bytes: int


class LogAnswer(_View):
    """A line of a job's log."""

    number: int
    time: datetime
    level: str
    text: str


class SceneAnswer(_View):
    """A date of a season."""

    date: Any
    cloud_percent: float


class EstimateAnswer(_View):
    """What a map would cost."""

    km2: float
    scenes: list[SceneAnswer]
    seconds: float
    download_bytes: int
    notes: list[str]


class UploadAnswer(_View):
    """An upload."""

    id: Id
    kind: Literal["outline", "register", "cube", "photo", "codes"]
    name: str
    bytes: int
    summary: dict[str, Any]
    created: datetime


class FileAnswer(_View):
    """A file of a result."""

    path: str
    bytes: int


class ErrorAnswer(BaseModel):
    """Why a wish was not fulfilled, in one sentence: what was found, what was expected, what to
    do.
    """

    error: str


class ShareAnswer(BaseModel):
    """The token of a link to a result."""

    token: str


class TokenBody(BaseModel):
    """A token to sign in with."""

    token: str = Field(min_length=1, max_length=200)


class UserAnswer(BaseModel):
    """Who asks. sign_in: whether people sign in at this server."""

    user: str
    sign_in: bool


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "the request cannot be read",
        401: "nobody is signed in",
        403: "the request comes from another site",
        404: "there is no such thing of yours",
        409: "the job's state does not allow it",
        413: "it is too large",
        421: "it is meant for another server",
        422: "it is wrong",
        429: "it is beyond your limits",
        503: "the database or a catalogue does not answer",
    }.items()
}


def token_of(request: Any) -> str | None:
    """The token that a request, or the handshake of a web socket, brings along."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE)


def _service(request: Request) -> Service:
    return request.app.state.service


def current_user(request: Request) -> str:
    """The user who asks. Raises ``NotSignedInError``."""
    users: Users = request.app.state.users
    request.state.user = user = users.user_of(token_of(request))
    return user


ServiceHere = Annotated[Service, Depends(_service)]
User = Annotated[str, Depends(current_user)]
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
Token = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{32}$")]
Name = Annotated[str, Path(max_length=300)]

router = APIRouter(prefix="/api", responses=ERRORS)


@router.get("/me", tags=["user"])
def me(request: Request, user: User) -> UserAnswer:
    """Who asks."""
    return UserAnswer(user=user, sign_in=request.app.state.users.sign_in)


@router.post("/sign-in", tags=["user"])
def sign_in(request: Request, response: Response, body: TokenBody) -> UserAnswer:
    """Keep a token in a cookie that scripts cannot read and other sites' pages do not send."""
    users: Users = request.app.state.users
    user = users.user_of(body.token)
    if users.sign_in:
        # A proxy that ends TLS leaves no trace in the scheme; the browser's own page does.
        secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith(
            "https://"
        )
        response.set_cookie(
            COOKIE, body.token, max_age=_MONTH_S, httponly=True, samesite="lax", secure=secure
        )
    return UserAnswer(user=user, sign_in=users.sign_in)


@router.post("/sign-out", status_code=204, tags=["user"])
def sign_out(response: Response) -> None:
    """Forget the cookie."""
    response.delete_cookie(COOKIE)


@router.get("/weights", tags=["jobs"])
def weights(service: ServiceHere, user: User, kind: Literal["map", "photo"] = "map") -> list[str]:
    """The names of the weights that jobs of a kind may use."""
    return service.weights(kind)


@router.post("/estimate", tags=["jobs"])
def estimate(service: ServiceHere, user: User, request: AnyRequest) -> EstimateAnswer:
    """What a job would cost: area, scenes with their clouds, time, download."""
    return EstimateAnswer.model_validate(service.estimate(user, request))


@router.post("/jobs", status_code=201, tags=["jobs"])
def submit(service: ServiceHere, user: User, request: AnyRequest) -> JobAnswer:
    """Start a job."""
    return JobAnswer.model_validate(service.submit(user, request))


@router.get("/jobs", tags=["jobs"])
def jobs(service: ServiceHere, user: User) -> list[JobAnswer]:
    """Your jobs, the newest first."""
    return [JobAnswer.model_validate(view) for view in service.jobs(user)]


@router.get("/jobs/{id}", tags=["jobs"])
def job(service: ServiceHere, user: User, id: JobId) -> JobAnswer:
    """A job."""
    return JobAnswer.model_validate(service.job(user, id))


@router.get("/jobs/{id}/log", tags=["jobs"])
def log(
    service: ServiceHere,
    user: User,
    id: JobId,
    after: Annotated[int, Query(ge=0, le=_LARGEST_NUMBER)] = 0,
) -> list[LogAnswer]:
    """The lines of a job's log behind the line of that number, at most 2000."""
    return [LogAnswer.model_validate(line) for line in service.log(user, id, after)]


@router.post("/jobs/{id}/cancel", tags=["jobs"])
def cancel(service: ServiceHere, user: User, id: JobId) -> JobAnswer:
    """Stop a job."""
    return JobAnswer.model_validate(service.cancel(user, id))


@router.post("/jobs/{id}/retry", tags=["jobs"])
def retry(service: ServiceHere, user: User, id: JobId) -> JobAnswer:
    """Start a job again that failed or was cancelled; what is done stays done."""
    return JobAnswer.model_validate(service.retry(user, id))


@router.delete("/jobs/{id}", status_code=204, tags=["jobs"])
def delete_job(service: ServiceHere, user: User, id: JobId) -> None:
    """Stop and forget a job with all its files."""
    service.delete(user, id)


@router.put("/jobs/{id}/register", tags=["jobs"])
def set_register(
    service: ServiceHere, user: User, id: JobId, register: RegisterSource
) -> JobAnswer:
    """Compare a finished map with official parcels."""
    return JobAnswer.model_validate(service.set_register(user, id, register))


@router.get("/jobs/{id}/files", tags=["results"])
def files(service: ServiceHere, user: User, id: JobId) -> list[FileAnswer]:
    """The files of a result."""
    return [FileAnswer.model_validate(file) for file in service.files(user, id)]


@router.get("/jobs/{id}/files/{path:path}", tags=["results"], response_class=FileResponse)
def file(service: ServiceHere, user: User, id: JobId, path: Name) -> FileResponse:
    """A file of a result."""
    return _file(service.file(user, id, path))


@router.post("/jobs/{id}/share", tags=["results"])
def share(service: ServiceHere, user: User, id: JobId) -> ShareAnswer:
    """The token by which anybody may read a result."""
    return ShareAnswer(token=service.share(user, id))


@router.delete("/jobs/{id}/share", status_code=204, tags=["results"])
def unshare(service: ServiceHere, user: User, id: JobId) -> None:
    """Let that token be worth nothing."""
    service.unshare(user, id)


@router.get("/shared/{token}", tags=["results"])
def shared(service: ServiceHere, token: Token) -> SharedAnswer:
    """What a shared result is called."""
    return SharedAnswer.model_validate(service.shared(token))


@router.get("/shared/{token}/files", tags=["results"])
def shared_files(service: ServiceHere, token: Token) -> list[FileAnswer]:
    """The files of a shared result."""
    return [FileAnswer.model_validate(file) for file in service.shared_files(token)]


@router.get("/shared/{token}/files/{path:path}", tags=["results"], response_class=FileResponse)
def shared_file(service: ServiceHere, token: Token, path: Name) -> FileResponse:
    """A file of a shared result."""
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
    service: ServiceHere,
    user: User,
    name: Annotated[str, Query(max_length=300)] = "upload",
) -> UploadAnswer:
    """Upload a file as the body of the request: an outline, parcels, a season or a picture."""
    # Threads are for what has arrived: those who send slowly, or nothing, must not take them from
    # the others.
    arriving = service.uploads.arriving(user)
    arrival = await to_thread.run_sync(arriving.__enter__)
    try:
        async for piece in _pieces(request):
            await to_thread.run_sync(arrival.write, piece)
        return UploadAnswer.model_validate(
            await to_thread.run_sync(service.uploads.keep, user, name, arrival)
        )
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(arriving.__exit__, None, None, None)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The pieces of a body. Raises ``AppError`` for one that does not go on, or whose sender has
    gone.
    """
    stream = request.stream()
    while True:
        try:
            with anyio.fail_after(_LONGEST_SILENCE_S):
                piece = await anext(stream, None)
        except TimeoutError as error:
            found = f"an upload of which nothing came for {_LONGEST_SILENCE_S} s"
            raise AppError(found, "one that goes on", "send it again") from error
        except ClientDisconnect as error:
            raise AppError("an upload that broke off", "a whole one", "send it again") from error
        if piece is None:
            return
        if piece:
            yield piece


@router.get("/uploads", tags=["uploads"])
def uploads(service: ServiceHere, user: User) -> list[UploadAnswer]:
    """Your uploads, the newest first."""
    return [UploadAnswer.model_validate(upload) for upload in service.uploads.of(user)]


@router.get("/uploads/{id}", tags=["uploads"])
def get_upload(service: ServiceHere, user: User, id: JobId) -> UploadAnswer:
    """An upload."""
    return UploadAnswer.model_validate(service.uploads.get(user, id))


@router.delete("/uploads/{id}", status_code=204, tags=["uploads"])
def delete_upload(service: ServiceHere, user: User, id: JobId) -> None:
    """Forget an upload; jobs that were given it keep their own."""
    service.uploads.delete(user, id)


def _file(path: FilePath) -> FileResponse:
    """A file to keep; the report opens in the browser, where it may run nothing."""
    if not path.is_file():
        raise NotFoundError("this file", "one of the result's", "look at the list of files")
    shown = path.name == _REPORT
    headers = {"content-security-policy": FILE_POLICY}
    media = "text/html; charset=utf-8" if shown else "application/octet-stream"
    place: Literal["inline", "attachment"] = "inline" if shown else "attachment"
    return FileResponse(
        path, headers=headers, filename=path.name, media_type=media, content_disposition_type=place
    )  # type: ignore[arg-type]
