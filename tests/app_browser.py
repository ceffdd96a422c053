"""A server of the web application in a separate process, and a browser that reports every error on
a page.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from panoseg.app.requests import parse_request
from panoseg.app.service import Service
from panoseg.app.settings import AppSettings
from panoseg.files import write_json
from waiting import QUIET_S, signs_of_jobs, wait_until

PATIENT_MS = 60_000
"""How long a test waits for a state of an element."""
CHROMIUM = "/usr/bin/chromium"
SCREENSHOTS = Path(__file__).resolve().parents[1] / "out" / "screenshots"
_CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (c) => weights.reduce((sum, weight, at) => sum + weight * linear(c[at] / 255), 0);
  const under = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0.5) return colour;
    }
    return [255, 255, 255, 1];
  };
  const poor = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const shown = e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!own || !shown || e.closest("[disabled], .disabled, .leaflet-disabled, .q-icon")) continue;
    const style = getComputedStyle(e), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
    const [a, b] = [light(parse(style.color)), light(under(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) poor.push(`${e.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
_SETTLED = """() => {
  const still = [...document.querySelectorAll(".leaflet-container")].every((element) => {
    const map = getElement(Number(element.id.slice(1)))?.map;
    return map && !map._animatingZoom && !map._flyToFrame && !map._panAnim?._inProgress;
  });
  const failed = (tile) => tile.complete && !tile.naturalWidth;
  const drawn = [...document.querySelectorAll("img.leaflet-tile")].every(
    (tile) => (tile.classList.contains("leaflet-tile-loaded") || failed(tile)) && ["", "1"].includes(tile.style.opacity));
  const moves = (one) => one.playState === "running" && one.effect.getComputedTiming().endTime !== Infinity;
  return still && drawn && !document.getAnimations().some(moves);
}"""
_NAMELESS = """() => {
  const kinds = ["button", "a", "input", "[role=slider]", "[role=combobox]", "[tabindex='0']"].map((kind) => `main ${kind}`);
  const labelled = (e) => e.closest("label, [aria-label], [aria-labelledby]") || e.labels?.length;
  const named = (e) => e.textContent.trim() || e.title || labelled(e);
  return [...document.querySelectorAll(kinds.join())]
    .filter((e) => e.checkVisibility() && !e.closest(".leaflet-container, [aria-hidden=true]") && !named(e))
    .map((e) => e.outerHTML.slice(0, 160));
}"""


def finished_job(
    settings: AppSettings, request: dict, make: Callable[[Path], object], owner: str = "local"
) -> str:
    """A job that is done; its folder is what ``make`` makes of a path. To be called before the
    server has workers.
    """
    service = Service(settings)
    id_ = uuid.uuid4().hex
    folder = settings.jobs_folder / id_
    make(folder)
    given = parse_request(request).model_dump(mode="json")
    write_json(folder / "request.json", given)
    service.all_jobs.submit(id_, owner, given["name"], given, 20, 1.0)
    claim = service.all_jobs.claim("a test")
    assert claim is not None
    service.all_jobs.finish(claim, 1_000_000, 5.0, "done")
    service.close()
    return id_


class Server:
    """A server that runs as a person starts it. first_line: what it prints. restart: ends it and
    starts it at the same address.
    """

    def __init__(
        self, folder: Path, *options: str, environment: dict[str, str] | None = None
    ) -> None:
        self.folder, self.options, self.port = folder, options, 0
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.start()

    def start(self) -> None:
        """Start it, the second time at the same address."""
        command = [
            sys.executable,
            "-m",
            "panoseg",
            "app",
            "--folder",
            self.folder,
            "--port",
            self.port,
            *self.options,
        ]
        self._log = (self.folder.parent / f"{self.folder.name}.log").open("a")
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self.environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.first_line = line
        found = re.search(r"http://\S+:(\d+)", line)
        if found is None:
            self.stop()
            raise AssertionError(f"no address in {line!r}; {Path(self._log.name).read_text()}")
        self.address, self.port = found[0], int(found[1])

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        self._process.send_signal(by)
        code = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        return code

    def restart(self) -> None:
        """End it and start it at the same address."""
        self.stop()
        self.start()


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """The address of a server that runs as a person starts it."""
    server = Server(folder, *options, environment=environment)
    try:
        yield server.address
    finally:
        server.stop()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page of a browser. wrong: errors of scripts, answers of 400 and more, addresses outside of
    the server.
    """

    def __init__(
        self,
        browser,
        address: str,
        width: int = 1280,
        height: int = 820,
        colours: str = "light",
    ) -> None:
        self.address, self.wrong = address, []
        self.page = browser.new_page(
            viewport={"width": width, "height": height},
            accept_downloads=True,
            color_scheme=colours,
        )
        self.page.set_default_timeout(1000 * QUIET_S)
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on(
            "response",
            lambda one: one.status >= 400 and self.wrong.append(f"{one.status} {one.url}"),
        )
        outside = ("data:", "blob:", address)
        self.page.on(
            "request",
            lambda one: one.url.startswith(outside) or self.wrong.append(f"outside: {one.url}"),
        )

    def goto(self, path: str) -> None:
        """Open a page of the server and wait until it is alive."""
        self.page.goto(self.address + path)
        self.page.wait_for_function("window.did_handshake")

    def wait_for_job(self, folder: Path, wait: Callable[..., object], sign: str) -> None:
        """Wait for what a job brings to the page, by one of the page's own ways, for as long as the
        jobs of a folder move.
        """
        from playwright.sync_api import TimeoutError

        def holds() -> bool:
            try:
                wait(sign, timeout=2000)
            except TimeoutError:
                return False
            return True

        wait_until(holds, lambda: signs_of_jobs(folder))

    def shot(self, name: str) -> None:
        """Keep what is seen."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.settle()
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def settle(self) -> None:
        """Wait until maps stand still, every tile is there, and nothing fades or moves."""
        self.page.wait_for_function(_SETTLED)

    def draw(self, places: Iterable[tuple[float, float]]) -> None:
        """Click places on the screen while something is drawn, the last one twice.

        The map ignores a click for 50 ms after the one before it: a timer that is set later and
        waits longer is the sign that this has passed.
        """
        self.page.wait_for_selector(".leaflet-draw-tooltip", state="attached")
        for drawn, place in enumerate(places, 1):
            self.page.mouse.click(*place)
            self.page.wait_for_function(
                """(drawn) => !document.querySelector(".leaflet-draw-tooltip")
                  || document.querySelectorAll(".leaflet-editing-icon").length >= drawn""",
                arg=drawn,
            )
            self.page.evaluate("() => new Promise((done) => setTimeout(done, 100))")

    def check(self) -> None:
        """Text stands out from its ground, everything that can be pressed has a name, nothing is
        wider than the screen.
        """
        assert self.page.evaluate(_CONTRAST) == []
        assert self.page.evaluate(_NAMELESS) == []
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{wide} pixels too wide"

    def close(self) -> None:
        """Close it; raises where something went wrong on the way."""
        self.page.close()
        assert self.wrong == []
