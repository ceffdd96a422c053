"""Fetch the files of weights: from a record of Zenodo, the Hugging Face Hub, or an https address.

``zenodo_files``, ``hub_files`` and ``https_file`` return what there is to fetch, with checksums;
``download`` fetches a file. A file appears under its name when its checksum is right; one that was
cut off continues where it ended.

Sources: Zenodo, REST API (records); huggingface_hub, ``HfApi.model_info``; RFC 9110 (ranges).
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import requests

from panoseg.errors import WeightsError, require
from panoseg.files import output_error
from panoseg.platforms import move
from panoseg.text_files import json_of, reason_of, shortened

ZENODO = "https://zenodo.org/api"
HUB: str | None = None
"""Address of the hub; None for that of ``huggingface_hub``, which HF_ENDPOINT changes."""
WAITS_S = (1.0, 4.0, 15.0, 30.0)
"""Seconds before each further attempt; a server that cannot be reached at all is tried twice."""
MOST_BYTES = 64 * 1024**3
"""Of a file whose server does not say how large it is."""
MOST_FILES = 500
_LONGEST_WAIT_S = 120.0
_TIMEOUT_S = (20.0, 60.0)
_MOST_REDIRECTS = 6
_MOST_JSON = 16 * 1024**2
_CHUNK = 64 * 1024  # what has come of a chunk that is cut is lost
_BUSY = (429, 500, 502, 503, 504)
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_SMALL = (".json", ".txt", ".md", ".model")
_LARGEST_SMALL = 64 * 1024**2
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]{0,200}")

Result = TypeVar("Result")


class UnreachableError(WeightsError):
    """A server that does not answer; the files can be brought in another way."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch."""

    name: str
    """Its name in the folder of the weights."""
    url: str
    """Its address."""
    checksum: str
    """md5, sha256 or git (the sha1 that git gives a file), a colon, and the digits."""
    size: int | None = None
    """Its bytes; None where the source does not say."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of the request, such as the token of a private repository."""


@dataclass(frozen=True)
class Offer:
    """What a source offers."""

    files: tuple[RemoteFile, ...]
    """The files."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the source says of them, such as licence, title, revision and doi."""

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where one is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def zenodo_files(record: str) -> Offer:
    """Return the files of a record of Zenodo.

    Raises:
        UnreachableError: Zenodo does not answer.
        WeightsError: There is no such record, or it has no files that can be fetched.
    """
    values = _json(f"{ZENODO}/records/{record}", f"record {record} of Zenodo")
    try:
        files = tuple(
            RemoteFile(
                str(file["key"]),
                f"{ZENODO}/records/{record}/files/{quote(str(file['key']), safe='')}/content",
                str(file["checksum"]).lower(),
                int(file["size"]),
            )
            for file in values["files"]
        )
        metadata = values["metadata"]
        licence = (metadata.get("license") or {}).get("id")
        about = {"title": str(metadata.get("title", "")), "doi": values.get("doi")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"Zenodo describes record {record} in a form that is not known ({reason_of(error)})."
            " Update panoseg, or fetch its files yourself and pass their folder."
        ) from error
    _check_files(files, f"Record {record} of Zenodo")
    return Offer(files, {**about, "licence": licence})


def hub_files(repository: str, revision: str | None) -> Offer:
    """Return the files of a repository of the hub that make weights, at a fixed commit.

    Args:
        repository: OWNER/NAME.
        revision: A branch, tag or commit; None for the main branch.

    Raises:
        UnreachableError: The hub does not answer, or HF_HUB_OFFLINE is set.
        WeightsError: There is no such repository, or it may not be read, or has no weights.
        ConfigError: The extra ``hub`` is not installed.
    """
    require("hub", f"hf:{repository}")
    check_online()
    from huggingface_hub import HfApi, get_token, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    place = f"hf:{repository}" + (f"@{revision}" if revision else "")

    def ask() -> Any:  # noqa: ANN401
        try:
            return HfApi(endpoint=HUB).model_info(
                repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S[0]
            )
        except OfflineModeIsEnabled as error:
            raise UnreachableError("HF_HUB_OFFLINE is set") from error
        except HfHubHTTPError as error:
            response = getattr(error, "response", None)
            _raise_for_status(getattr(response, "status_code", 0), response, place)
            raise WeightsError(
                f"The hub does not give {place} ({reason_of(error)}). Check its name."
            ) from error
        except (ValueError, OSError) as error:  # a name that cannot be one; a redirection
            raise WeightsError(
                f"The hub does not give {place} ({reason_of(error)}). Check its name."
            ) from error
        except Exception as error:  # of its client, which has changed from version to version
            raise _AgainError(reason_of(error), reached=False) from error

    info = _patiently(ask)
    commit = str(info.sha)
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    siblings = {str(file.rfilename): file for file in info.siblings or ()}
    files = tuple(
        RemoteFile(
            name,
            hf_hub_url(repository, name, revision=commit, endpoint=HUB),
            f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}",
            file.size,
            headers,
        )
        for name, file in siblings.items()
        if name in wanted_of_hub(siblings)
    )
    if not files:
        raise WeightsError(
            f"{place} has no model.safetensors and no pytorch_model.bin with its config.json, so it"
            " holds no weights that can be read. Name another repository."
        )
    _check_files(files, place)
    card = info.card_data
    licence = (card.get("license_name") or card.get("license")) if card else None
    about = {"title": repository, "revision": commit, "licence": licence}
    return Offer(files, about)


def wanted_of_hub(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return which files of a repository make its weights; empty where there are none.

    Numbers as safetensors where there are some, else as pickles, which are converted when they have
    been fetched. Files in folders are copies for other programs.

    >>> wanted_of_hub(["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"])
    ['config.json', 'model.safetensors']
    """
    small = [name for name in names if "/" not in name and name.endswith(_SMALL)]
    if "model.safetensors" in names:
        numbers = ["model.safetensors"]
        small = [name for name in small if not name.endswith(".index.json")]
    else:
        numbers = [name for name in names if _SHARD.fullmatch(name)]
        if not numbers and "pytorch_model.bin" in names:
            numbers = ["pytorch_model.bin"]
    described = {"config.json", "card.json"} & set(small)
    return [*small, *numbers] if numbers and described else []


def https_file(url: str, sha256: str | None) -> Offer:
    """Return the file at an https address.

    Raises:
        WeightsError: The address is not one, or the checksum is missing or not one.
    """
    parts = urlsplit(url)
    if not _is_safe(url):
        raise WeightsError(f"{shortened(url)} is no https address. Use one, or fetch it yourself.")
    stated = sha256 or dict(piece.partition("=")[::2] for piece in parts.fragment.split("&")).get(
        "sha256", ""
    )
    if not re.fullmatch(r"[0-9a-fA-F]{64}", stated):
        raise WeightsError(
            f"State the checksum of {shortened(parts._replace(fragment='').geturl())}, so that the"
            " right file is taken: add #sha256= and its 64 digits to the address."
        )
    name = unquote(parts.path).rpartition("/")[2]
    file = RemoteFile(name, parts._replace(fragment="").geturl(), f"sha256:{stated.lower()}")
    _check_files((file,), file.url)
    return Offer((file,), {"title": name, "licence": None})


def check_online() -> None:
    """Raise ``UnreachableError`` where the environment forbids requests to the hub."""
    for name in _OFFLINE:
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise UnreachableError(f"{name} is set")


def _check_files(files: Sequence[RemoteFile], place: str) -> None:
    """Refuse names that are no plain names, checksums that are none, and too many files."""
    if not files or len(files) > MOST_FILES:
        raise WeightsError(f"{place} has {len(files)} files. Fetch those you need yourself.")
    names = {file.name.casefold() for file in files}
    for file in files:
        if not _FILE_NAME.fullmatch(file.name) or len(names) < len(files):
            raise WeightsError(
                f"{place} has a file {shortened(repr(file.name), 40)}, whose name is not allowed."
                " Fetch the files yourself, and pass their folder."
            )
        _hash_of(file.checksum, 0)
        if file.name.endswith(_SMALL) and (file.size or 0) > _LARGEST_SMALL:
            raise WeightsError(f"{place}: {file.name} has {file.size:,} bytes, too many for it.")


def _hash_of(checksum: str, size: int) -> tuple[Any, str]:
    """Return an empty hash of the kind that a checksum is, and the digits expected of it."""
    kind, _, digits = checksum.partition(":")
    lengths = {"md5": 32, "sha256": 64, "git": 40}
    if len(digits) != lengths.get(kind) or not re.fullmatch("[0-9a-f]+", digits):
        raise WeightsError(
            f"The checksum {shortened(repr(checksum), 40)} is of no known kind (md5, sha256)."
            " Fetch the files yourself, and pass their folder."
        )
    if kind == "git":
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False), digits
    if kind == "md5":
        return hashlib.md5(usedforsecurity=False), digits
    return hashlib.sha256(), digits


def download(file: RemoteFile, folder: Path, advance: Callable[[int], None]) -> Path:
    """Fetch a file into a folder, under its name when its checksum is right.

    Args:
        file: The file.
        folder: Where to put it; ``NAME.part`` there is continued.
        advance: Called with how many more bytes have come.

    Raises:
        UnreachableError: The server cannot be reached.
        WeightsError: The server does not give the file, or another one.
        OutputError: The disk is full, and the like.
    """
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.exists() and not is_damaged(file.checksum, path):
        advance(path.stat().st_size)
        return path
    continued = part.exists() and part.stat().st_size > 0

    def attempt() -> None:
        before = part.stat().st_size if part.exists() else 0
        try:
            _receive(file, part, advance)
        except _AgainError as error:
            error.progressed = part.exists() and part.stat().st_size > before
            raise

    while True:
        _patiently(attempt)
        try:
            wrong = is_damaged(file.checksum, part)
            if not wrong:
                move(part, path)
                return path
            part.unlink()
        except OSError as error:
            raise output_error(path, error) from error
        if not continued:
            raise WeightsError(
                f"{file.url} was damaged on the way, or is another file: {wrong}. Nothing of it was"
                " kept; try again, and if that does not help, tell those who publish it."
            )
        continued = False


def is_damaged(checksum: str, path: Path) -> str:
    """Return what is wrong with the checksum of a file, empty where it is right."""
    hasher, expected = _hash_of(checksum, path.stat().st_size)
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            hasher.update(chunk)
    kind, found = checksum.partition(":")[0], hasher.hexdigest()
    return "" if found == expected else f"its {kind} is {found}, not {expected}"


class _AgainError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, wait_s: float = 0.0, reached: bool = True) -> None:
        super().__init__(reason)
        self.wait_s, self.reached, self.progressed = wait_s, reached, False


def _patiently(attempt: Callable[[], Result]) -> Result:
    """Call a function again, after a while, where it fails in a way that may pass."""
    failed = 0
    while True:
        try:
            return attempt()
        except _AgainError as error:
            failed = 0 if error.progressed else failed
            if failed == len(WAITS_S) or (failed and not error.reached):
                raise UnreachableError(str(error)) from error
            time.sleep(min(max(WAITS_S[failed], error.wait_s), _LONGEST_WAIT_S))
            failed += 1


def _receive(file: RemoteFile, part: Path, advance: Callable[[int], None]) -> None:
    """Append to ``part`` what is missing of a file."""
    have = part.stat().st_size if part.exists() else 0
    if file.size is not None and have >= file.size:
        if have == file.size:
            return
        part.unlink()
        have = 0
    range_of = {"Range": f"bytes={have}-"} if have else {}
    with _answer(file.url, {**file.headers, "Accept-Encoding": "identity", **range_of}) as answer:
        if answer.status_code == 416:
            part.unlink(missing_ok=True)
            raise _AgainError("the file has become shorter")
        _raise_for_status(answer.status_code, answer, file.url)
        begins = answer.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
        more = answer.status_code == 206 and begins == str(have)
        have = have if more else 0
        length = answer.headers.get("content-length", "")
        stated = have + int(length) if length.isdigit() else None
        most = file.size if file.size is not None else (stated or MOST_BYTES)
        for chunk in _written(answer, part, "ab" if more else "wb"):
            have += chunk
            advance(chunk)
            if have > most:
                part.unlink()
                raise WeightsError(
                    f"{file.url} is longer than the {most:,} bytes it should have. Tell those who"
                    " publish it."
                )
    expected = file.size if file.size is not None else stated
    if expected is not None and have < expected:
        raise _AgainError(f"{expected - have:,} bytes of {file.url} did not come")


def _written(answer: requests.Response, part: Path, mode: str) -> Iterator[int]:
    """Write the chunks of an answer to a file, and yield their sizes."""
    chunks, host = answer.iter_content(_CHUNK), urlsplit(answer.url).hostname
    try:
        with part.open(mode) as out:
            while True:
                try:
                    chunk = next(chunks, b"")
                except requests.RequestException as error:
                    raise _AgainError(f"the connection to {host} was cut") from error
                if not chunk:
                    return
                out.write(chunk)
                yield len(chunk)
    except OSError as error:
        raise output_error(part.with_suffix(""), error) from error


def _answer(url: str, headers: Mapping[str, str]) -> requests.Response:
    """Return the answer to a request, its body unread; every redirection is to https.

    Raises:
        WeightsError: A redirection leads elsewhere, or the address is none.
        _AgainError: No answer came.
    """
    session = requests.Session()
    session.max_redirects = _MOST_REDIRECTS
    session.headers.update(headers)

    def check(answer: requests.Response, *_: object, **__: object) -> None:
        target = answer.headers.get("location") if answer.is_redirect else None
        if target and not _is_safe(requests.compat.urljoin(answer.url, target)):
            answer.close()
            raise WeightsError(
                f"{url} is redirected to {shortened(target, 60)}, which is no https address. Tell"
                " those who publish it."
            )

    session.hooks["response"].append(check)
    try:
        return session.get(url, stream=True, timeout=_TIMEOUT_S)
    except requests.exceptions.SSLError as error:
        raise WeightsError(
            f"{url}: the certificate of the server is not valid ({reason_of(error)}). Check the"
            " address, and the clock of this machine."
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _AgainError(_connection_reason(error), reached=False) from error
    except requests.RequestException as error:
        raise WeightsError(
            f"{url} cannot be fetched ({reason_of(error)}). Check the address."
        ) from error


def _connection_reason(error: requests.RequestException) -> str:
    """Return why there is no connection, without the objects that urllib3 names."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    text = str(error)
    host = re.search(r"host='([^']+)'", text)
    reason = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    words = reason[1] if reason else "no connection"
    return f"{host[1]}: {words}" if host else words


def _is_safe(url: str) -> bool:
    """Return whether an address is of https, or of this machine, where tests have servers."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and host in ("127.0.0.1", "::1"))
    )


def _raise_for_status(status: int, answer: Any, place: str) -> None:  # noqa: ANN401
    """Raise what a status of HTTP means."""
    if status in _BUSY:
        after = str(answer.headers.get("retry-after", "")) if answer is not None else ""
        wait_s = float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0
        what = "is asked too often" if status == 429 else "does not work"
        raise _AgainError(f"the server of {place} {what}: {status}", wait_s)
    if status in (404, 410):
        raise WeightsError(f"There is nothing at {place} ({status}). Check its name.")
    if status in (401, 403):
        raise WeightsError(
            f"{place} does not exist, or may be read by some alone ({status}). Check its name; on"
            " the hub accept its terms, and sign in with: hf auth login."
        )
    if status >= 400:
        raise WeightsError(f"{place} cannot be fetched ({status}). Check its name.")


def _json(url: str, place: str) -> dict[str, Any]:
    """Return a JSON object that an interface answers.

    Raises:
        UnreachableError: The server does not answer.
        WeightsError: The answer is an error, or no JSON object.
    """
    from panoseg.imagery.remote import limit_answers  # imports GDAL

    def ask() -> Any:  # noqa: ANN401
        with requests.Session() as session:
            limit_answers(session, _MOST_JSON)
            try:
                answer = session.get(url, timeout=_TIMEOUT_S)
                _raise_for_status(answer.status_code, answer, place)
                return json_of(answer.content)
            except (requests.ConnectionError, requests.Timeout) as error:
                raise _AgainError(_connection_reason(error), reached=False) from error
            except (requests.RequestException, ValueError) as error:
                raise WeightsError(
                    f"{url} gives no description ({reason_of(error)}). Try again later."
                ) from error

    values = _patiently(ask)
    if isinstance(values, dict):
        return values
    raise WeightsError(f"{url} gives no description. Try again later.")
