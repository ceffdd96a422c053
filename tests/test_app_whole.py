"""The web application as its command starts it: jobs with their real stages, from a terminal's
client and over the API.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import httpx
import pytest
import rasterio
import shapely

from app_browser import Server
from catalogue_server import DAYS, LAND, RUSTAC, outline, serve
from cubes import LEFT, TOP, make_cube
from panoseg.app.layers import read_layers
from panoseg.cli import main
from small_networks import save_small_networks
from waiting import signs_of_jobs, wait_until


class Jobs(Server):
    """panoseg app in a process, and a client that has jobs done."""

    def __init__(self, folder: Path, *options: object) -> None:
        super().__init__(folder / "app", *map(str, options))
        assert "for this machine alone; nobody signs in" in self.first_line
        self.client = httpx.Client(base_url=self.address, timeout=60)

    def close(self) -> None:
        """End it as Ctrl-C does."""
        self.client.close()
        assert self.stop(signal.SIGINT) == 0

    def wait(self, id: str) -> dict:
        """A job that has ended."""
        wait_until(
            lambda: self.job(id)["state"] not in ("queued", "running"),
            lambda: signs_of_jobs(self.folder),
        )
        return self.job(id)

    def job(self, id: str) -> dict:
        return self.client.get(f"/api/jobs/{id}").json()

    def run(self, request: dict) -> tuple[dict, Path]:
        """A job until it is done, and its folder."""
        answer = self.client.post("/api/jobs", json=request)
        assert answer.status_code == 201, answer.text
        job = self.wait(answer.json()["id"])
        log = [line["text"] for line in self.client.get(f"/api/jobs/{job['id']}/log").json()]
        assert job["state"] == "done", log
        return job, self.folder / "jobs" / job["id"]

    def upload(self, path: Path) -> str:
        answer = self.client.post(
            "/api/uploads", params={"name": path.name}, content=path.read_bytes()
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save_small_networks(folder)
    return folder


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    stac = Path(__file__).resolve().parents[2] / "shared" / "data" / "flanders-2019" / "stac"
    with contextlib.ExitStack() as stack:
        known = RUSTAC is not None and stac.is_dir()
        yield (
            stack.enter_context(serve(stac, tmp_path_factory.mktemp("api"), DAYS))
            if known
            else None
        )


@pytest.fixture(scope="module")
def server(place, catalogue):
    known = ["--catalog", catalogue.url, "--private-addresses"] if catalogue else []
    options = ["--weights", place / "tiny", "--photo-weights", place / "boxes", *known]
    server = Jobs(place, *options)
    yield server
    server.close()
    log = [json.loads(line) for line in (place / "app.log").read_text().splitlines()]
    assert not [line for line in log if line["level"] in ("error", "critical")]
    assert log[-1]["message"] == "server stopped"


SAMPLE = {
    "kind": "map",
    "source": {"type": "sample", "size": 32},
    "weights": "tiny",
    "options": {"views": 1},
}


@pytest.fixture(scope="module")
def sample(server):
    return server.run(SAMPLE)


def test_a_sample_from_a_terminal(server, place, capsys):
    words = [
        "job",
        "submit",
        "--server",
        server.address,
        "--sample",
        "32",
        "--weights",
        "tiny",
        "--views",
        "1",
        "--name",
        "Mine",
        "--wait",
    ]
    assert main(words) == 0
    shown = capsys.readouterr()
    id = shown.out.split()[0]
    assert "Finding parcels" in shown.out
    assert "done" in shown.err
    assert main(["job", "watch", id, "--server", server.address]) == 0
    assert (
        main(["job", "fetch", id, "--server", server.address, "--out", str(place / "fetched")]) == 0
    )
    assert len(gpd.read_parquet(place / "fetched" / "map" / "parcels.parquet")) > 0
    assert (
        main(["job", "fetch", id, "--server", server.address, "--out", str(place / "fetched")]) == 2
    )
    assert "holds" in capsys.readouterr().err
    assert main(["job", "watch", "0" * 32, "--server", server.address]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sample_has_all_that_pages_need(sample):
    job, folder = sample
    assert (job["progress"], job["stage"], job["error"]) == (1.0, "", None)
    assert job["bytes"] > 0
    map_ = folder / "map"
    for name in (
        "parcels.parquet",
        "parcels.gpkg",
        "parcels.pmtiles",
        "classes.tif",
        "confidence.tif",
        "report.html",
        "areas.csv",
    ):
        assert (map_ / name).is_file(), name
    parcels = gpd.read_parquet(map_ / "parcels.parquet")
    rows = (map_ / "areas.csv").read_text().splitlines()[1:]
    assert sum(int(row.split(",")[1]) for row in rows) == len(parcels)
    assert sum(float(row.split(",")[2]) for row in rows) == pytest.approx(
        parcels["area_ha"].sum(), abs=0.01
    )
    official, refined = (
        gpd.read_parquet(folder / "register.parquet"),
        gpd.read_parquet(folder / "refined" / "parcels.parquet"),
    )
    assert len(official) == len(refined)
    layers = read_layers(folder / "layers")
    made = json.loads((map_ / "map.json").read_text())
    assert [layer.date for layer in layers if layer.used] == made["dates"]
    assert set(made["dates"]) <= {layer.date for layer in layers}
    with rasterio.open(folder / "layers" / layers[0].file) as raster:
        assert (raster.count, raster.dtypes[0], raster.shape) == (4, "uint16", (32, 32))
    assert not [
        path for path in folder.rglob("*") if ".part" in path.name or "unfinished" in path.name
    ]


def test_the_same_request_gives_the_same_result(server, sample):
    _, again = server.run(SAMPLE)
    for name in ("map/classes.tif", "map/segments.tif", "map/areas.csv"):
        assert (again / name).read_bytes() == (sample[1] / name).read_bytes()


def test_an_uploaded_season_with_official_parcels(server, place):
    make_cube(32).to_netcdf(place / "season.nc")
    squares = [
        shapely.box(LEFT + 20, TOP - 160, LEFT + 150, TOP - 20),
        shapely.box(LEFT + 160, TOP - 160, LEFT + 300, TOP - 20),
    ]
    gpd.GeoDataFrame({"crop": ["a", "b"]}, geometry=squares, crs=32631).to_file(
        place / "official.gpkg"
    )
    request = {**SAMPLE, "source": {"type": "cube", "upload": server.upload(place / "season.nc")}}
    request["register_of"] = {"upload": server.upload(place / "official.gpkg")}
    _, folder = server.run(request)
    assert (folder / "cube.nc").is_file()
    assert gpd.read_parquet(folder / "register.parquet")["crop"].tolist() == ["a", "b"]
    assert len(gpd.read_parquet(folder / "refined" / "parcels.parquet")) == 2


def test_official_parcels_with_codes_from_a_terminal(server, place, capsys):
    make_cube(32).to_netcdf(place / "own.nc")
    squares = [shapely.box(LEFT + 20 + x, TOP - 160, LEFT + 140 + x, TOP - 20) for x in (0, 150)]
    gpd.GeoDataFrame({"code": ["60", "311"]}, geometry=squares, crs=32631).to_file(
        place / "coded.gpkg"
    )
    (place / "codes.csv").write_text("code,class\n60,meadow\n311,soft winter wheat\n")
    words = [
        "job",
        "submit",
        "--server",
        server.address,
        "--cube",
        place / "own.nc",
        "--weights",
        "tiny",
        "--views",
        "1",
    ]
    words += ["--register", place / "coded.gpkg", "--codes", place / "codes.csv", "--wait"]
    assert main([str(word) for word in words]) == 0
    folder = server.folder / "jobs" / capsys.readouterr().out.split()[0]
    declared = gpd.read_parquet(folder / "register.parquet")
    assert dict(zip(declared["code"], declared["class"], strict=True)) == {
        "60": "meadow",
        "311": "soft winter wheat",
    }
    assert main(["job", "submit", "--sample", "32", "--codes", str(place / "codes.csv")]) == 2
    assert "--codes needs --register" in capsys.readouterr().err


def test_other_official_parcels_afterwards(server, sample, place):
    job, folder = sample
    own = gpd.read_parquet(folder / "register.parquet").iloc[:1]
    own.to_file(place / "one.geojson", driver="GeoJSON")
    before = (folder / "map" / "parcels.parquet").stat().st_mtime_ns
    register = {"upload": server.upload(place / "one.geojson")}
    assert server.client.put(f"/api/jobs/{job['id']}/register", json=register).status_code == 200
    assert server.wait(job["id"])["state"] == "done"
    assert len(gpd.read_parquet(folder / "refined" / "parcels.parquet")) == 1
    assert (folder / "map" / "parcels.parquet").stat().st_mtime_ns == before


def test_official_parcels_of_elsewhere_cost_the_comparison_alone(server, place):
    gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(place / "elsewhere.gpkg")
    job, folder = server.run(
        {**SAMPLE, "register_of": {"upload": server.upload(place / "elsewhere.gpkg")}}
    )
    assert "The official parcels could not be used" in job["message"]
    assert (folder / "map" / "areas.csv").is_file()
    assert not (folder / "refined").exists()


def test_a_season_of_a_catalogue(server, catalogue, place):
    if catalogue is None:
        pytest.skip("rustac or the real season is missing")
    drawn = json.loads(outline(place / "farm.geojson", LAND).read_text())
    request = {**SAMPLE, "source": {"type": "catalogue", "outline": drawn, "year": 2019}}
    estimate = server.client.post("/api/estimate", json=request).json()
    assert estimate["km2"] > 0, estimate
    assert estimate["download_bytes"] > 0
    assert {scene["date"] for scene in estimate["scenes"]} == set(DAYS)
    _, folder = server.run(request)
    assert (folder / "cube.zarr" / "zarr.json").is_file()
    assert json.loads((folder / "scenes.json").read_text())["features"]


def test_a_season_that_is_none_fails_with_one_sentence(server, place):
    make_cube(32, dates=("2019-04-01",)).to_netcdf(place / "short.nc")
    request = {**SAMPLE, "source": {"type": "cube", "upload": server.upload(place / "short.nc")}}
    job = server.wait(server.client.post("/api/jobs", json=request).json()["id"])
    assert job["state"] == "failed"
    assert "usable" in job["error"]
    assert "\n" not in job["error"]
    assert server.client.post(f"/api/jobs/{job['id']}/retry").status_code == 200
    assert server.wait(job["id"])["state"] == "failed"


def test_a_photograph(server, place):
    from PIL import Image

    Image.new("RGB", (64, 48), "green").save(place / "meadow.jpg")
    request = {"kind": "photo", "upload": server.upload(place / "meadow.jpg"), "weights": "boxes"}
    job, folder = server.run(request)
    names = {
        path.relative_to(folder / "photo").as_posix()
        for path in (folder / "photo").rglob("*")
        if path.is_file()
    }
    assert names == {
        "panoptic.json",
        "panoptic/photograph.png",
        "overlay/photograph.jpg",
        "segments.csv",
        "image.jpg",
    }
    assert {file["path"] for file in server.client.get(f"/api/jobs/{job['id']}/files").json()} == {
        f"photo/{name}" for name in names
    }


def start_dask(place: Path, *words: object) -> subprocess.Popen:
    """A part of a cluster, in a folder of its own, so that it finds what it is told by whole paths
    alone.
    """
    command = [sys.executable, "-m", *map(str, words), "--no-dashboard"]
    return subprocess.Popen(
        command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture
def cluster(tmp_path):
    """Address of a scheduler with a worker, and what ends and starts the scheduler."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = {}

    def scheduler() -> None:
        started["scheduler"] = start_dask(
            tmp_path, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port
        )
        options = ["--nthreads", 1, "--no-nanny", "--local-directory", tmp_path / "scratch"]
        started["worker"] = start_dask(
            tmp_path, "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", *options
        )

    def end() -> None:
        for process in started.values():
            process.kill()
            process.wait()

    yield f"tcp://127.0.0.1:{port}", scheduler, end
    end()


def test_maps_by_a_cluster(cluster, sample, place, tmp_path):
    """The same map as without; a cluster that is away is waited for."""
    address, start, end = cluster
    server = Jobs(tmp_path, "--weights", place / "tiny", "--dask", address)
    try:
        id = server.client.post("/api/jobs", json=SAMPLE).raise_for_status().json()["id"]
        wait_until(
            lambda: "No dask scheduler answers" in server.job(id)["message"],
            lambda: signs_of_jobs(server.folder),
        )
        assert server.job(id)["state"] == "queued"
        start()
        assert server.wait(id)["state"] == "done"
        for name in ("map/classes.tif", "map/segments.tif", "map/confidence.tif", "map/areas.csv"):
            assert (server.folder / "jobs" / id / name).read_bytes() == (
                sample[1] / name
            ).read_bytes(), name
    finally:
        end()
        server.close()


def test_a_port_in_use_is_said_in_one_line(server):
    words = [
        sys.executable,
        "-m",
        "panoseg",
        "app",
        "--port",
        str(server.client.base_url.port),
        "--folder",
        str(server.folder),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Choose another --port" in done.stderr
