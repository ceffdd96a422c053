"""A catalogue for the tests: a STAC API by rustac, and files with range requests, behind one
address that can misbehave.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import geopandas as gpd
import pytest
import shapely
from shapely.geometry import mapping

from waiting import signs_of_process, wait_until

RUSTAC = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
NEEDS_RUSTAC = pytest.mark.skipif(RUSTAC is None, reason="rustac is not installed")
LAND = shapely.box(574680, 5621800, 575320, 5622440)
"""All that the scenes of ../shared/data/flanders-2019 cover, in EPSG:32631."""
DAYS = ("2019-03-22", "2019-04-16", "2019-05-11")


@dataclass
class Faults:
    """How the server misbehaves. slow_s: before each answer. statuses: of the next answers, in
    turn. dropped: number of the next answers that are cut off. retry_after: what statuses come
    with. missing, truncated: names of files. paths: which answers the first four are about.
    """

    slow_s: float = 0.0
    statuses: list[int] = field(default_factory=list)
    dropped: int = 0
    retry_after: str = "0"
    missing: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()
    paths: str = ""


@dataclass
class Server:
    """A running catalogue. url: of the API. requests: method and path of each, in order."""

    url: str
    faults: Faults
    requests: list[str]


def items_of(stac: Path, address: str, days: Sequence[str] | None = None) -> list[dict]:
    """The items of a folder of scenes, with addresses on the server; only those of ``days`` if
    given.
    """
    items = [json.loads(path.read_text()) for path in sorted(stac.glob("*/*.json"))]
    chosen = [item for item in items if days is None or item["properties"]["datetime"][:10] in days]
    for item in chosen:
        for asset in item["assets"].values():
            asset["href"] = f"{address}/files/{item['id']}/{Path(asset['href']).name}"
    return chosen


def scene(day: str) -> str:
    """The identifier of the scene of a day."""
    return f"S2_31UES_{day.replace('-', '')}_0_L2A"


def outline(path: Path, box=LAND) -> Path:
    """A box on the grid of the scenes as a file."""
    degrees = gpd.GeoSeries([box], crs=32631).to_crs(4326).iloc[0]
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": mapping(degrees)}))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(
    stac: Path, folder: Path, days: Sequence[str] | None = None, change=lambda items: items
) -> Iterator[Server]:
    """Serve the scenes of a folder; ``change``: of their items before they are served."""
    port, hidden = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    items = change(items_of(stac, address, days))
    path = folder / f"items-{port}.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    command = [
        RUSTAC,
        "serve",
        str(path),
        "--create-collections",
        "--addr",
        address,
        "--bind",
        f"127.0.0.1:{hidden}",
    ]
    api = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    faults, requests = Faults(), []
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(stac, hidden, faults, requests))
    server.daemon_threads = True
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        wait_until(lambda: _answers(hidden), lambda: signs_of_process(api.pid), 0.02)
        yield Server(address, faults, requests)
    finally:
        server.shutdown()
        server.server_close()
        api.kill()
        api.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def _handler(
    stac: Path, api: int, faults: Faults, requests: list[str]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if re.search(faults.paths, self.path):
                time.sleep(faults.slow_s)
                if faults.statuses:
                    self._send(faults.statuses.pop(0), b"no", {"Retry-After": faults.retry_after})
                    return
            if self.path.startswith("/tokens/"):
                self._send(200, b'{"token": "sig=1", "msft:expiry": "2100-01-01T00:00:00Z"}', {})
            elif self.path.startswith("/files/"):
                self._file(stac / self.path.removeprefix("/files/"))
            else:
                self._forward(body)

        def _forward(self, body: bytes) -> None:
            request = urllib.request.Request(
                f"http://127.0.0.1:{api}{self.path}", body or None, method=self.command
            )
            if body:
                request.add_header("Content-Type", "application/json")
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    self._send(
                        answer.status,
                        answer.read(),
                        {"Content-Type": answer.headers["Content-Type"]},
                    )
            except urllib.error.HTTPError as error:
                self._send(error.code, error.read(), {})

        def _file(self, path: Path) -> None:
            name = f"{path.parent.name}/{path.name}"
            if name in faults.missing or not path.is_file():
                self._send(404, b"not found", {})
                return
            whole = path.read_bytes()
            if name in faults.truncated:
                whole = whole[: len(whole) // 2]
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if span is None:
                self._send(200, whole, {"Accept-Ranges": "bytes"})
                return
            first, last = int(span[1]), min(int(span[2] or len(whole)), len(whole) - 1)
            if first > last:
                self._send(416, b"", {"Content-Range": f"bytes */{len(whole)}"})
            else:
                self._send(
                    206,
                    whole[first : last + 1],
                    {"Content-Range": f"bytes {first}-{last}/{len(whole)}"},
                )

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if faults.dropped > 0 and re.search(faults.paths, self.path):
                faults.dropped -= 1
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(body)

    return Handler
