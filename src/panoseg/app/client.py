"""Client of the HTTP API, for programs and for ``panoseg job``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, cast

import httpx

from panoseg.errors import AppError
from panoseg.files import atomic, new_folder, output_error

_TIMEOUT_S = 120.0
_CHUNK = 1024**2
_POLL_S = 1.0
_RESTART_S = 120.0  # how long a server may take to be restarted
ENDED = ("done", "failed", "cancelled")


class NoAnswerError(AppError):
    """A server does not answer."""


class Client:
    """Connection to a server, to be used as a context manager.

    Every method raises ``AppError`` with the server's message if the server refuses the request,
    and ``NoAnswerError`` if it does not answer.

    Args:
        server: Address of the server, such as http://127.0.0.1:8080.
        token: Token of the user, if users must sign in.
    """

    def __init__(self, server: str, token: str | None = None) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=server, headers=headers, timeout=_TIMEOUT_S)
        except (httpx.InvalidURL, ValueError) as error:
            raise AppError(
                f"--server {server!r} is not a URL such as http://127.0.0.1:8080 ({error})."
            ) from error
        self.server = server

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a job and return it."""
        return cast(dict[str, Any], self._json("POST", "/api/jobs", json=request))

    def job(self, id: str) -> dict[str, Any]:
        """Return a job."""
        return cast(dict[str, Any], self._json("GET", f"/api/jobs/{id}"))

    def upload(self, path: Path) -> dict[str, Any]:
        """Upload a file and return the upload."""
        try:
            with path.open("rb") as file:
                chunks = iter(lambda: file.read(_CHUNK), b"")
                upload = self._json(
                    "POST", "/api/uploads", params={"name": path.name}, content=chunks
                )
        except OSError as error:
            raise AppError(f"{path} cannot be read ({error.strerror}); check the path.") from error
        return cast(dict[str, Any], upload)

    def check_season(self, id: str, read: dict[str, Any]) -> dict[str, Any]:
        """Have an uploaded season read with what its file does not say; return the upload."""
        return cast(dict[str, Any], self._json("POST", f"/api/uploads/{id}/check", json=read))

    def watch(
        self, id: str, show: Callable[[dict[str, Any]], None], log: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Wait until a job has ended and return it.

        A server that does not answer because it is being restarted is asked again for two minutes.

        Args:
            id: The job.
            show: Called with the job whenever its state, message or progress changes.
            log: Called with each line of its log.
        """
        last, seen, answered = 0, None, time.monotonic()
        while True:
            try:
                job = self.job(id)
                lines = self._json("GET", f"/api/jobs/{id}/log", params={"after": last})
                for line in cast(list[dict[str, Any]], lines):
                    last = line["number"]
                    log(line)
                answered = time.monotonic()
            except NoAnswerError:
                if time.monotonic() - answered > _RESTART_S:
                    raise
            else:
                state = job["state"], job["message"], round(job["progress"], 2)
                if state != seen:
                    show(job)
                    seen = state
                if job["state"] in ENDED:
                    return job
            time.sleep(_POLL_S)

    def fetch(self, id: str, out: Path) -> list[Path]:
        """Download the files of a result to a new or empty folder and return their paths.

        The parcels of a corrected map are in the folder "corrected", the prediction in "map".
        """
        files = cast(list[dict[str, Any]], self._json("GET", f"/api/jobs/{id}/files"))
        if not files:
            raise AppError(
                f"Job {id} is {self.job(id)['state']} and has no result. Wait for it with panoseg"
                " job watch."
            )
        new_folder(out)
        fetched = [self._fetch_file(id, PurePosixPath(file["path"]), out) for file in files]
        if any(file["path"].startswith("map/") for file in files) and self._is_corrected(id):
            for form, name in (("gpkg", "parcels.gpkg"), ("parquet", "parcels.parquet")):
                address = f"/api/jobs/{id}/corrected/{form}"
                fetched.append(self._fetch(address, out / "corrected" / name))
        return fetched

    def _is_corrected(self, id: str) -> bool:
        found = cast(dict[str, Any], self._json("GET", f"/api/jobs/{id}/corrections"))
        return bool(found["parcels"])

    def _fetch_file(self, id: str, path: PurePosixPath, out: Path) -> Path:
        if path.is_absolute() or ".." in path.parts:
            raise AppError(
                f"The server names a file outside of the result, {path}; do not trust it."
            )
        return self._fetch(f"/api/jobs/{id}/files/{path}", out / path)

    def _fetch(self, address: str, target: Path) -> Path:
        try:
            with (
                self._http.stream("GET", address) as answer,
                atomic(target) as temporary,
            ):
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                with temporary.open("wb") as file:
                    for chunk in answer.iter_bytes(_CHUNK):
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error
        except OSError as error:
            raise output_error(target, error) from error
        return target

    def _json(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, Any] | None = None,
        params: dict[str, str | int] | None = None,
        content: Iterable[bytes] | None = None,
    ) -> object:
        try:
            answer = self._http.request(method, path, json=json, params=params, content=content)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error
        if not answer.is_success:
            raise _refused(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise AppError(
                f"{self.server} does not seem to be a panoseg app; check --server."
            ) from error

    def _no_answer(self, error: httpx.HTTPError) -> NoAnswerError:
        return NoAnswerError(
            f"{self.server} does not answer ({error}). Start panoseg app, or change --server."
        )


def _refused(answer: httpx.Response) -> AppError:
    """Return the error of an answer that is not a success."""
    if answer.is_redirect:  # not followed, as the token would be sent along
        place = answer.headers.get("location", "another address")[:200]
        return AppError(
            f"{answer.url.host} redirects to {place}. If you trust that address, give it as"
            " --server."
        )
    try:
        return AppError(str(answer.json()["error"]))
    except (ValueError, KeyError, TypeError):
        return AppError(
            f"{answer.url.host} answers {answer.status_code} and does not seem to be a panoseg app;"
            " check --server."
        )
