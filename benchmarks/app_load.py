"""People who browse a result while jobs run: how long tiles take, and what memory the server needs.

    python benchmarks/app_load.py [--people 50] [--jobs 20] [--minutes 5] [--size 256]

Each person looks at a place (12 tiles, six at a time, as a browser asks for them), clicks a parcel,
and looks for some seconds. Browsers cache no tiles: a user who comes back to a place requests them
again. The simulated users are a program on the same machine: its processor time is printed next to
that of the server, and its own waiting for a processor counts as the server's. Ends with exit code
1 where an answer was an error, the median tile took 100 ms or more, the slowest twentieth 400 ms,
or the server's memory grew by a tenth from the first third of the time to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

LIMIT = 100  # jobs of a user
PICTURES, ZOOMS, ABREAST = ("true-colour", "false-colour", "ndvi"), (12, 13, 14, 15), 6
SECONDS_LOOKED = (2.0, 8.0)
GROWTH = 1.1  # of the memory, at most; caches are still filled in the first third


@dataclass
class Measured:
    """Seconds of tiles and of clicks, and answers that were errors."""

    tiles: list[float] = field(default_factory=list)
    clicks: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def tile_of(longitude: float, latitude: float, zoom: int) -> tuple[int, int]:
    """The tile of Web Mercator at a place."""
    north = math.asinh(math.tan(math.radians(latitude)))
    return int((longitude + 180) / 360 * 2**zoom), int((1 - north / math.pi) / 2 * 2**zoom)


class Person:
    """Looks at one result."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        id: str,
        shown: dict[str, Any],
        seed: int,
        measured: Measured,
    ) -> None:
        self.client, self.id, self.shown, self.measured = client, id, shown, measured
        self.chance, self.seen = random.Random(seed), asyncio.Semaphore(ABREAST)

    async def browse(self, end: float) -> None:
        """Until the end: look somewhere, click, wait."""
        west, south, east, north = self.shown["bounds"]
        await asyncio.sleep(self.chance.uniform(0, SECONDS_LOOKED[1]))
        while time.monotonic() < end:
            place = self.chance.uniform(west, east), self.chance.uniform(south, north)
            await asyncio.gather(*map(self._tile, self._addresses(*place)))
            await self._get(
                f"parcels?longitude={place[0]}&latitude={place[1]}",
                self.measured.clicks,
                {200, 404},
            )
            await asyncio.sleep(self.chance.uniform(*SECONDS_LOOKED))

    def _addresses(self, longitude: float, latitude: float) -> list[str]:
        """The tiles of a window at a place: half of them of a picture, half of the parcels."""
        zoom = self.chance.choice(ZOOMS)
        x, y = tile_of(longitude, latitude, zoom)
        date = self.chance.choice(self.shown["dates"])["date"]
        kind = self.chance.choice(PICTURES)
        window = [(x + right, y + down) for right in range(3) for down in range(2)]
        pictures = [f"tiles/{kind}/{zoom}/{left}/{top}?date={date}" for left, top in window]
        return [*pictures, *(f"tiles/parcels/{zoom}/{left}/{top}" for left, top in window)]

    async def _tile(self, address: str) -> None:
        async with self.seen:
            await self._get(address, self.measured.tiles, {200})

    async def _get(self, address: str, seconds: list[float], right: set[int]) -> None:
        start = time.perf_counter()
        try:
            answer = await self.client.get(f"/api/jobs/{self.id}/{address}")
        except httpx.HTTPError as error:
            self.measured.errors.append(f"{address}: {error!r}")
            return
        seconds.append(time.perf_counter() - start)
        if answer.status_code not in right:
            self.measured.errors.append(f"{address}: {answer.status_code} {answer.text[:100]}")


def memory_mib(process: int) -> float:
    """Memory that a process has to itself and shares."""
    [line] = [
        line
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024


def processor_seconds(process: int) -> float:
    """Processor time that a process has used, without that of its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def crowd(
    address: str, id: str, chosen: argparse.Namespace, process: int
) -> tuple[Measured, list[float]]:
    """All people at once; returns what they measured, and the server's memory now and then."""
    measured, memory = Measured(), []
    end = time.monotonic() + 60 * chosen.minutes
    async with httpx.AsyncClient(
        base_url=address, timeout=60, limits=httpx.Limits(max_connections=None)
    ) as client:
        shown = (await client.get(f"/api/jobs/{id}/description")).json()
        people = [
            Person(client, id, shown, seed, measured).browse(end) for seed in range(chosen.people)
        ]
        browsing = asyncio.gather(*people)
        while not browsing.done():
            memory.append(memory_mib(process))
            await asyncio.sleep(5)
        await browsing
    return measured, memory


def submit(client: httpx.Client, size: int, seed: int) -> str:
    """A job of a sample."""
    source = {"type": "sample", "size": size, "seed": seed}
    answer = client.post(
        "/api/jobs", json={"kind": "map", "source": source, "options": {"views": 1}}
    )
    return str(answer.raise_for_status().json()["id"])


def report(measured: Measured, memory: list[float], done: int, jobs: int) -> bool:
    """Print what was measured; returns whether it is good enough."""
    if not measured.tiles or not measured.clicks:
        print(f"nothing was answered; {measured.errors[:5]}")
        return False
    print(
        "| what | count | median, ms | 95th percentile, ms | slowest, ms |\n|---|---|---|---|---|"
    )
    for name, seconds in (("tiles", measured.tiles), ("clicks", measured.clicks)):
        ms = [1000 * float(np.quantile(seconds, share)) for share in (0.5, 0.95, 1.0)]
        print(f"| {name} | {len(seconds)} | {ms[0]:.0f} | {ms[1]:.0f} | {ms[2]:.0f} |")
    third = max(len(memory) // 3, 1)
    first, last = np.mean(memory[:third]), np.mean(memory[-third:])
    print(f"\nmemory of the server: {first:.0f} MiB in the first third, {last:.0f} in the last")
    print(f"{done} of {jobs} jobs were done meanwhile; {len(measured.errors)} errors")
    for error in measured.errors[:5]:
        print(error)
    median, slow = np.quantile(measured.tiles, (0.5, 0.95))
    return bool(not measured.errors and median < 0.1 and slow < 0.4 and last < GROWTH * first)


def report_processors(seconds: float, server: float, crowd: float, answers: int) -> None:
    """Print what server and crowd needed of the processors. answers: tiles and clicks."""
    share = (
        f"the server {server / seconds:.2f} of a processor, the crowd itself {crowd / seconds:.2f}"
    )
    print(
        f"{answers / seconds:.0f} answers/s; {share}; {1000 * server / max(answers, 1):.1f} ms of"
        " the server's an answer"
    )


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("people", 50), ("jobs", 20), ("minutes", 5.0), ("size", 256)):
        parser.add_argument(f"--{name}", type=type(value), default=value)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-m",
            "panoseg",
            "app",
            "--folder",
            f"{folder}/app",
            "--port",
            "0",
            "--jobs",
            str(LIMIT),
        ]
        with Path(f"{folder}/log").open("w") as log:
            server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        address = server.stdout.readline().split()[2]
        with httpx.Client(base_url=address, timeout=60) as client:
            id = submit(client, chosen.size, 0)
            while client.get(f"/api/jobs/{id}").json()["state"] in ("queued", "running"):
                time.sleep(1)
            queued = [submit(client, 64, seed) for seed in range(1, chosen.jobs + 1)]
            before = time.monotonic(), processor_seconds(server.pid), time.process_time()
            measured, memory = asyncio.run(crowd(address, id, chosen, server.pid))
            after = time.monotonic(), processor_seconds(server.pid), time.process_time()
            states = [client.get(f"/api/jobs/{id}").json()["state"] for id in queued]
        server.terminate()
        server.wait()
    seconds, served, asked = (late - early for early, late in zip(before, after, strict=True))
    report_processors(seconds, served, asked, len(measured.tiles) + len(measured.clicks))
    return 0 if report(measured, memory, states.count("done"), len(states)) else 1


if __name__ == "__main__":
    sys.exit(main())
