"""A stand-in of Zenodo, of the Hugging Face Hub and of any other server of files, which can
misbehave.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Server:
    """A running server. records: files of each record of Zenodo. models: files of each repository.
    files: by path. requests: method, path and range of each. statuses: of the next answers with
    content, in turn. cuts: after how many bytes the next answers end. redirects: where paths lead.
    """

    url: str = ""
    records: dict[str, dict[str, bytes]] = field(default_factory=dict)
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    slow_s: float = 0.0
    damage: bool = False
    licence: str = "cc-by-4.0"
    uploaded: dict[str, bytes] = field(default_factory=dict)

    def sent(self) -> list[str]:
        """The requests for content, not for descriptions."""
        return [
            line
            for line in self.requests
            if "/content" in line or "/resolve/" in line or "/files/" in line
        ]


def _record(server: Server, number: str) -> dict:
    return {
        "id": int(number),
        "doi": f"10.5281/zenodo.{number}",
        "metadata": {"title": f"Weights {number}", "license": {"id": server.licence}},
        "files": [
            {"key": name, "size": len(data), "checksum": f"md5:{hashlib.md5(data).hexdigest()}"}
            for name, data in server.records[number].items()
        ],
    }


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _model(server: Server, name: str) -> dict:
    siblings = []
    for path, data in server.models[name].items():
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = {"rfilename": path, "size": len(data), "blobId": blob}
        if path.endswith((".safetensors", ".bin")):
            entry["lfs"] = {
                "sha256": hashlib.sha256(data).hexdigest(),
                "size": len(data),
                "pointerSize": 130,
            }
        siblings.append(entry)
    return {
        "id": name,
        "modelId": name,
        "sha": COMMIT,
        "private": False,
        "tags": [],
        "siblings": siblings,
        "cardData": {"license": "mit"},
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        state, path = self.server_, unquote(urlsplit(self.path).path)
        state.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if path in state.redirects:
            return self._answer(302, b"", {"Location": state.redirects[path]})
        if state.statuses:
            return self._answer(state.statuses.pop(0), b"", {"Retry-After": "0"})
        if found := re.fullmatch(r"/api/records/(\d+)", path):
            known = found[1] in state.records
            return self._json(_record(state, found[1])) if known else self._answer(404, b"")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.*)?", path):
            known = found[1] in state.models
            return self._json(_model(state, found[1])) if known else self._answer(404, b"{}")
        return self._content(state, self._data(state, path))

    def _data(self, state: Server, path: str) -> bytes | None:
        if found := re.fullmatch(r"/api/records/(\d+)/files/(.+)/content", path):
            return state.records.get(found[1], {}).get(found[2])
        if found := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path):
            return state.models.get(found[1], {}).get(found[2])
        return state.files.get(path)

    def _content(self, state: Server, data: bytes | None) -> None:
        if data is None:
            return self._answer(404, b"")
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(start[1]) if start else 0
        if state.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if first else {}
        rest = data[first:]
        cut = state.cuts.pop(0) if state.cuts else None
        self._head(206 if first else 200, len(rest), headers)
        for at in range(0, len(rest) if cut is None else cut, 65_536):
            self.wfile.write(rest[at : min(at + 65_536, cut or len(rest))])
            time.sleep(state.slow_s)
        if cut is not None:
            self.close_connection = True
            self.connection.shutdown(2)
        return None

    def do_POST(self):
        state, path = self.server_, urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state.requests.append(f"POST {path}")
        if "/commit/" in path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    import base64

                    state.uploaded[entry["value"]["path"]] = base64.b64decode(
                        entry["value"]["content"]
                    )
            return self._json(
                {"commitUrl": f"{state.url}/me/fields/commit/{COMMIT}", "commitOid": COMMIT}
            )
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self._json(
                {
                    "files": [
                        {"path": name, "uploadMode": "regular", "shouldIgnore": False}
                        for name in names
                    ]
                }
            )
        return self._json({"url": f"{state.url}/me/fields", "name": "me/fields", "id": "me/fields"})

    def _json(self, value: dict) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(data), headers or {})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the block ends."""
    state = Server()
    handler = type("Handler", (_Handler,), {"server_": state})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
