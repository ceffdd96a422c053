"""A client of the API, for programs and the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from panoseg.errors import AppError
from panoseg.files import atomic, new_folder, output_error

_TIMEOUT_S = 120.0
_PIECE = 1024**2
_POLL_S = 1.0
_PATIENCE_S = 120.0  # for a server that is being restarted
ENDED = ("done", "failed", "cancelled")


class Client:
    """Speaks to a server until its block ends. Every method raises ``AppError`` with the server's
    sentence of refusal.
    """

    def __init__(self, server: str, token: str | None = None) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=server, headers=headers, timeout=_TIMEOUT_S)
        except (httpx.InvalidURL, ValueError) as error:
            raise AppError(
                f"server {server!r} ({error})", "a URL as http://127.0.0.1:8080", "change --server"
            ) from error
        self.server = server

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a job."""
        return self._json("POST", "/api/jobs", json=request)

    def job(self, id: str) -> dict[str, Any]:
        """A job."""
        return self._json("GET", f"/api/jobs/{id}")

    def upload(self, path: Path) -> dict[str, Any]:
        """Upload a file."""
        try:
            with path.open("rb") as file:
                return self._json(
                    "POST", "/api/uploads", params={"name": path.name}, content=_pieces(file)
                )
        except OSError as error:
            raise AppError(
                f"{path} ({error.strerror})", "a file that can be read", "check the path"
            ) from error

    def watch(
        self, id: str, show: Callable[[dict[str, Any]], None], log: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Wait until a job has ended; returns it. show: called with each new state. log: called
        with each line of its log.

        A server that does not answer for a while, because it is restarted, is asked again.
        """
        last, seen, silent = 0, None, time.monotonic()
        while True:
            try:
                job = self.job(id)
                for line in self._json("GET", f"/api/jobs/{id}/log", params={"after": last}):
                    last = line["number"]
                    log(line)
                silent = time.monotonic()
            except NoAnswerError:
                if time.monotonic() - silent > _PATIENCE_S:
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
        """Write the files of a result to a new or empty folder; returns them."""
        files = self._json("GET", f"/api/jobs/{id}/files")
        if not files:
            raise AppError(
                f"job {id} is {self.job(id)['state']}",
                "one that is done",
                "wait for it by panoseg job watch",
            )
        new_folder(out)
        return [self._fetch_file(id, PurePosixPath(file["path"]), out) for file in files]

    def _fetch_file(self, id: str, path: PurePosixPath, out: Path) -> Path:
        if path.is_absolute() or ".." in path.parts:
            raise AppError(
                f"a file called {path}", "one inside of the result", "do not trust this server"
            )
        target = out / path
        try:
            with (
                self._http.stream("GET", f"/api/jobs/{id}/files/{path}") as answer,
                atomic(target) as temporary,
            ):
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                with temporary.open("wb") as file:
                    for piece in answer.iter_bytes(_PIECE):
                        file.write(piece)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error
        except OSError as error:
            raise output_error(target, error) from error
        return target

    def _json(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error
        if not answer.is_success:
            raise _refused(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise AppError(
                f"{self.server} answers without JSON", "a running panoseg app", "check --server"
            ) from error

    def _no_answer(self, error: httpx.HTTPError) -> NoAnswerError:
        return NoAnswerError(
            f"{self.server} does not answer ({error})",
            "a running panoseg app",
            "start it, or change --server",
        )


class NoAnswerError(AppError):
    """A server that does not answer."""


def _refused(answer: httpx.Response) -> AppError:
    if answer.is_redirect:  # not followed, for the token would go along
        place = answer.headers.get("location", "elsewhere")[:200]
        return AppError(
            f"{answer.url.host} sends on to {place}",
            "a panoseg app",
            "give --server that address, if you trust it",
        )
    try:
        parts = str(answer.json()["error"]).split("; ")
    except (ValueError, KeyError, TypeError):
        parts = [f"{answer.url.host} answers {answer.status_code}"]
    found, expected, fix = (
        [*parts, "expected a panoseg app", "check --server"][:3] if len(parts) < 3 else parts[:3]
    )
    return AppError(found, expected.removeprefix("expected "), fix)


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
