"""Maps of any size: windows, workers and their order, stops, memory; and outlines."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
import zlib
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from distributed import Client
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pystac.extensions.mlm import MLMExtension
from rasterio.env import getenv

from cubes import make_cube
from mapping_weights import tiny_weights
from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.cube.season import Window, windows_over
from panoseg.errors import ConfigError, CubeError, OutputError
from panoseg.maps import MapOptions, RunOptions, cluster, inputs, mapping, outputs, predict, rasters
from panoseg.maps import outlines as sheets
from panoseg.maps.assemble import assemble, regions
from panoseg.maps.mapping import LocalWorkers, map_cube
from panoseg.maps.outlines import OutlineFiles, Sheet, SheetOutlines, rasterise, read_sheets
from panoseg.maps.outputs import map_item
from panoseg.maps.parcels import read_geoparquet
from panoseg.maps.read_parcels import read_parcels
from panoseg.maps.windows import FinishedWindow, WindowFiles, from_bytes, plan_blocks, to_bytes
from panoseg.models.model import Model
from panoseg.models.weights import save_weights
from panoseg.panoptic import Panoptic
from panoseg.panoptic.join import Tile, join_tiles
from panoseg.progress import listening
from stand_in import EndlessLandscape, StandIn, coordinates_cube, landscape

HEIGHT, WIDTH = 150, 210
OPTIONS = MapOptions(tile=48, overlap=16, simplify=0)
TINY = MapOptions(tile=16, overlap=4, tta=1, min_area_ha=0.03)


@pytest.fixture
def season(tmp_path, monkeypatch):
    """A cube whose landscape the network knows."""
    cube, segment_HW = coordinates_cube(HEIGHT, WIDTH), landscape(HEIGHT, WIDTH)
    cube["B04"][:, :30, 100:140] = 0
    cube.to_netcdf(tmp_path / "season.nc")
    monkeypatch.setattr(predict, "Model", StandIn.instead(segment_HW))
    return tmp_path / "season.nc"


def raster(path):
    with rasterio.open(path) as source:
        return source.read(1)


def files(folder):
    """All files of a map but the one into which a library writes the time."""
    paths = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".gpkg"
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# Windows


def crc(values):
    return zlib.crc32(np.ascontiguousarray(values))


@pytest.mark.parametrize("side", [512, 48, 100])
def test_a_map_in_windows_is_what_a_map_in_one_piece_was(season, tmp_path, monkeypatch, side):
    """Numbers of a time when tiles were joined, tidied and outlined in one piece."""
    monkeypatch.setattr(predict, "BLOCK_SIDE", side)
    first = map_cube(season, tiny_weights(), tmp_path / "a", OPTIONS)
    second = map_cube(
        season, tiny_weights(), tmp_path / "b", MapOptions(tile=64, overlap=40, min_area_ha=0.2)
    )
    assert crc(raster(first.out / "segments.tif")) == 1288557056
    assert crc(raster(first.out / "classes.tif")) == 3760311910
    assert crc(raster(second.out / "segments.tif")) == 2015200234
    assert crc(raster(second.out / "classes.tif")) == 4236845300
    for result, count, pixels, confidence, hectares in (
        (first, 37, 18731, 27.8015, 187.31),
        (second, 36, 18881, 26.9014, 188.795),
    ):
        parcels = result.parcels
        assert (len(parcels), parcels["pixels"].sum()) == (count, pixels)
        assert parcels["confidence"].sum() == pytest.approx(confidence, abs=1e-4)
        assert parcels["area_ha"].sum() == pytest.approx(hectares, abs=1e-3)


def real_labels(folder: Path) -> np.ndarray:
    """Four patches of PASTIS side by side; ids from 1, each region by itself."""
    paths = [
        folder / "pastis-annotations" / "ANNOTATIONS" / f"ParcelIDs_{number}.npy"
        for number in range(10000, 10004)
    ]
    first, second, third, fourth = (np.load(path) for path in paths)
    label_HW = np.block([[first, second], [third, fourth]])
    region_HW, _ = regions(label_HW)
    return np.where(label_HW > 0, region_HW + 1, 0).astype(np.int32)


def extents(size, shortest, longest, chance):
    """Intervals of any length that cover 0..size, each sharing places with the next."""
    found = [(0, chance.randint(shortest, longest))]
    while found[-1][1] < size:
        start = chance.randint(found[-1][0] + 1, found[-1][1] - 1)
        found.append((start, max(start + chance.randint(shortest, longest), found[-1][1] + 1)))
    return [(start, min(stop, size)) for start, stop in found]


def cuts(size, count, chance):
    places = [0, *sorted(chance.sample(range(1, size), count)), size]
    return list(itertools.pairwise(places))


@pytest.mark.parametrize("seed", range(4))
def test_a_real_label_image_cut_into_random_windows_comes_back(real_data, seed):
    label_HW, chance = real_labels(real_data), random.Random(seed)
    picture = Panoptic.from_maps(
        label_HW, {int(id_): 1 + int(id_) % 18 for id_ in np.unique(label_HW) if id_}, PASTIS
    )
    height, width = label_HW.shape

    def windows(rows, columns):
        return [
            Window(top, left, bottom - top, right - left)
            for top, bottom in rows
            for left, right in columns
        ]

    seen = windows(extents(height, 20, 90, chance), extents(width, 20, 90, chance))
    lands = windows(cuts(height, 3, chance), cuts(width, 4, chance))
    tiles = [
        Tile.of(own.top, own.left, picture.crop(own.rows, own.columns).relabel()) for own in seen
    ]
    joined = join_tiles(height, width, seen, tiles.__getitem__, lands)
    group_HW = np.zeros((height, width), np.int32)
    for land in chance.sample(lands, len(lands)):
        group_HW[land.rows, land.columns] = joined.draw(land)
    number_G, segments = joined.table(np.bincount(group_HW.ravel(), minlength=joined.count + 1))
    assert Panoptic(number_G[group_HW], segments).same_up_to_ids(picture)


@pytest.mark.parametrize("simplify", [0, 1])
def test_outlines_of_many_sheets_are_a_coverage(season, tmp_path, monkeypatch, simplify):
    options = MapOptions(**vars(OPTIONS) | {"simplify": simplify})
    whole = map_cube(season, tiny_weights(), tmp_path / "whole", options)
    monkeypatch.setattr(sheets, "SHEET_SIDE", 37)
    cut = map_cube(season, tiny_weights(), tmp_path / "cut", options)
    outlines = np.asarray(cut.parcels.geometry.values, dtype=object)
    assert shapely.is_valid(outlines).all()
    assert shapely.coverage_is_valid(outlines)
    assert cut.parcels["id"].tolist() == whole.parcels["id"].tolist()
    if simplify == 0:
        np.testing.assert_allclose(cut.parcels["area_ha"], whole.parcels["area_ha"])
        with rasterio.open(cut.out / "segments.tif") as source:
            drawn_HW = rasterise(
                cut.parcels["id"].astype(int), outlines, source.shape, source.transform
            )
            np.testing.assert_array_equal(drawn_HW, source.read(1))
    else:
        # Corners that stay where a border crosses into another sheet: less than a pixel for each.
        assert (cut.parcels["area_ha"] - whole.parcels["area_ha"]).abs().max() < 0.1


def test_each_outline_is_read_once_however_many_parts_are_asked_for(tmp_path, monkeypatch):
    """Sheets of a wide map: each has segments from all over the table, which is read in ten
    parts.
    """
    count, looked_at = 400, []
    square = np.array(
        [shapely.to_wkb(shapely.box(0, 0, id_, 1)) for id_ in range(1, count + 1)], dtype=object
    )
    outlines = OutlineFiles(tmp_path, np.ones(count + 1, np.int64))
    for number in range(20):
        ids = np.arange(1 + number, count + 1, 20)
        outlines.add(number, SheetOutlines(ids, np.ones(len(ids), np.int64), square[ids - 1]))
    outlines.finish()
    decode = shapely.from_wkb
    monkeypatch.setattr(
        sheets.shapely, "from_wkb", lambda rows: looked_at.append(len(rows)) or decode(rows)
    )
    monkeypatch.setattr(
        sheets.np,
        "isin",
        lambda found, ids: looked_at.append(len(found)) or np.array([True] * len(found)),
    )
    for start in range(1, count + 1, 40):
        ids = np.arange(start, start + 40)
        assert shapely.area(outlines.read(ids)).tolist() == ids.tolist()
    assert looked_at == [40] * 20
    assert len(outlines.read(np.empty(0, np.int64))) == 0


def test_outlines_of_some_segments_and_a_sheet_that_is_missing(tmp_path):
    pieces = np.array(
        [shapely.to_wkb(shapely.box(left, 0, left + 2, 1)) for left in (0, 2, 8)], dtype=object
    )
    outlines = OutlineFiles(tmp_path, np.array([0, 2, 0, 4]))
    outlines.add(1, SheetOutlines(np.array([1, 3]), np.array([2, 2]), pieces[[2, 1]]))
    with pytest.raises(RuntimeError, match="1 segments are not whole"):
        outlines.finish()
    outlines.add(0, SheetOutlines(np.array([3]), np.array([2]), pieces[[0]]))
    outlines.finish()
    assert shapely.area(outlines.read(np.array([3]))).tolist() == [4]
    assert shapely.area(outlines.read(np.array([1, 3]))).tolist() == [2, 4]


def test_a_disk_that_is_full_of_outlines(tmp_path, monkeypatch):
    def full(path):
        raise sqlite3.OperationalError("database or disk is full")

    outlines = OutlineFiles(tmp_path, np.ones(2, np.int64))
    monkeypatch.setattr(sheets.sqlite3, "connect", full)
    with pytest.raises(OutputError, match=r"outlines\.sqlite: database or disk is full"):
        outlines.add(0, SheetOutlines(np.array([1]), np.array([1]), np.array([b""], dtype=object)))


class EndlessWindows(WindowFiles):
    """Finished windows of a landscape without end, made when they are looked at."""

    def _read(self, number):
        block, network = self.blocks[number], StandIn(EndlessLandscape(), None)
        tiles = [
            Tile.of(own.top, own.left, network.at(own.top, own.left, own.height, own.width))
            for own in block.tiles
        ]
        return FinishedWindow(tiles, np.ones((block.window.height, block.window.width), bool))


def test_memory_does_not_grow_with_the_area(tmp_path):
    """Nine times the area in the same windows: what grows are tables of parcels."""
    peaks, counts = [], []
    for size in (480, 1440):
        folder = tmp_path / str(size)
        folder.mkdir()
        tracemalloc.start()
        windows = EndlessWindows(folder, plan_blocks(size, size, 128, 40, 256), kept=8)
        assembled = assemble(windows, (size, size), 5, PASTIS, folder)
        drawn, area_N = (
            np.ones(assembled.segments.ids[-1] + 1, bool),
            np.zeros(assembled.segments.ids[-1] + 1, np.int64),
        )
        area_N[assembled.segments.ids] = assembled.segments.areas
        outlines = OutlineFiles(folder, area_N)
        for number, sheet in LocalWorkers(None).draw(
            read_sheets(assembled.segment_raster, drawn, 1.0)
        ):
            outlines.add(number, sheet)
        outlines.finish()
        assert len(outlines.read(assembled.segments.ids[:100])) == 100
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        counts.append(len(assembled.segments))
    assert counts[1] > 8 * counts[0] > 8000
    assert peaks[1] < 1.5 * peaks[0], peaks


# Workers


class Shuffled(LocalWorkers):
    """Windows and sheets in another order."""

    def predict(self, windows, save, progress):
        super().predict(random.Random(1).sample(list(windows), len(windows)), save, progress)

    def draw(self, sheets):
        drawn = list(super().draw(sheets))
        yield from random.Random(2).sample(drawn, len(drawn))


def test_the_order_of_windows_does_not_matter(season, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "BLOCK_SIDE", 64)
    monkeypatch.setattr(sheets, "SHEET_SIDE", 50)
    options = MapOptions(**vars(OPTIONS) | {"pmtiles": True, "simplify": 1})
    whole = map_cube(season, tiny_weights(), tmp_path / "whole", options)

    @contextmanager
    def shuffled(_, opened):
        yield Shuffled(opened)

    monkeypatch.setattr(mapping, "workers_for", shuffled)
    again = map_cube(season, tiny_weights(), tmp_path / "again", options)
    assert files(again.out) == files(whole.out)


def test_workers_are_let_go_before_files_are_written(season, tmp_path, monkeypatch):
    """While a large map is written its workers would hold a cube and a network each for nothing."""
    happened, write = [], mapping.write_map

    @contextmanager
    def watched(_, opened):
        yield LocalWorkers(opened)
        happened.append("workers let go")

    monkeypatch.setattr(mapping, "workers_for", watched)
    monkeypatch.setattr(
        mapping, "write_map", lambda *given: happened.append("files") or write(*given)
    )
    map_cube(season, tiny_weights(), tmp_path / "map", OPTIONS)
    assert happened == ["workers let go", "files"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A cube of 9 windows and weights, on disk; a map of it that one process made."""
    monkeypatch.setattr(predict, "BLOCK_SIDE", 28)
    make_cube(64).to_netcdf(tmp_path / "season.nc")
    save_weights(tmp_path / "weights", tiny_weights())
    return files(
        map_cube(tmp_path / "season.nc", tmp_path / "weights", tmp_path / "whole", TINY).out
    )


def test_threads_of_a_cluster_make_the_same_map(small, tmp_path):
    with cluster.local_cluster(2, threads_per_worker=2, processes=False) as local:
        running = RunOptions(dask=local.scheduler_address)
        result = map_cube(
            tmp_path / "season.nc", tmp_path / "weights", tmp_path / "map", TINY, running=running
        )
        assert files(result.out) == small
        # What is wrong on a worker is said as if it were here.
        opened = predict.OpenJob.cube.func
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                predict.OpenJob,
                "cube",
                property(lambda own: opened(own) if own._given is not None else gone()),
            )
            with pytest.raises(CubeError, match="gone"):
                map_cube(
                    tmp_path / "season.nc",
                    tmp_path / "weights",
                    tmp_path / "broken",
                    TINY,
                    running=running,
                )
        # The same command goes on.
        result = map_cube(
            tmp_path / "season.nc", tmp_path / "weights", tmp_path / "broken", TINY, running=running
        )
        assert files(result.out) == small


def gone():
    raise CubeError("The cube has gone: bring it back.")


_UNPICKLE = """
import pickle, sys
for part in pickle.load(sys.stdin.buffer):
    assert callable(part) or isinstance(part, bytes), part
print(*sorted({name.split(".")[0] for name in sys.modules} & {"torch", "xarray", "pandas", "rasterio", "shapely", "scipy"}))
"""


def test_what_a_scheduler_unpickles_imports_nothing_heavy(season, monkeypatch):
    """A task is a function and its arguments; a scheduler unpickles both, and needs neither a
    network nor geometries.
    """
    sent = []

    class Listening:
        loop = None

        def submit(self, function, *arguments, **options):
            sent.extend((function, *(own for own in arguments if not isinstance(own, str))))
            raise InterruptedError

        def nthreads(self):
            return {}

    monkeypatch.setattr("panoseg.maps.cluster.as_completed", lambda **_: [])
    asked = cluster.Cluster(Listening(), "job")
    sheet = Sheet(Window(0, 0, 2, 2), np.ones((2, 2), np.int32), (0, 0, 0, 0), 1.0)
    with pytest.raises(InterruptedError):
        asked.predict([(0, plan_blocks(16, 16)[0])], None, None)
    with pytest.raises(InterruptedError):
        list(asked.draw([sheet]))
    assert len(sent) == 4
    found = subprocess.run(
        [sys.executable, "-c", _UNPICKLE], input=pickle.dumps(sent), capture_output=True, check=True
    )
    assert found.stdout.decode().split() == []
    # A plugin stays packed in the scheduler; in a worker it is bytes until the first task needs the
    # job.
    job = inputs.open_inputs(season, tiny_weights(), OPTIONS, None, False, None).job
    found = subprocess.run(
        [sys.executable, "-c", _UNPICKLE],
        input=pickle.dumps([cluster.JobPlugin("job", job).setup]),
        capture_output=True,
        check=True,
    )
    assert found.stdout.decode().split() == []


def test_a_worker_imports_what_it_predicts_with_alone():
    unused = {
        "geopandas",
        "pyogrio",
        "pystac",
        "requests",
        "matplotlib",
        "torchvision",
        "PIL",
        "lightning",
    }
    code = f"import sys, panoseg.maps.predict; print(*sorted(set(sys.modules) & {unused}))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, text=True
        ).stdout.split()
        == []
    )


def test_clusters_of_this_machine_do_not_meet():
    """The port that schedulers have for their pages is taken: a warning, which is an error in
    tests.
    """
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # taken already
            taken.bind(("", 8787))
            taken.listen()
        with cluster.local_cluster(0, processes=False) as local:
            assert local.scheduler.http_server.port != 8787


def test_workers_of_this_machine_keep_no_record_of_each_second():
    def recorded(dask_worker):
        return "profile" in dask_worker.periodic_callbacks

    with cluster.cluster_for(RunOptions(workers=1), "a job") as own:
        assert list(own.client.run(recorded).values()) == [False]
        own.client.restart()
        assert list(own.client.run(recorded).values()) == [False]


class Gate:
    """An array that tells when it is read, and then waits."""

    def __init__(self, values, reached, opens):
        self.values, self.reached, self.opens = values, reached, opens
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, place):
        self.reached.set()
        assert self.opens.wait(60)
        return self.values[place]


def test_threads_read_by_themselves_with_any_configuration_of_dask(season):
    """Dask's configuration is one for all threads: a task of a cluster that relied on it could lose
    it when another ends, ask the cluster to read for it, and wait for itself.
    """
    whole = predict.OpenJob(
        inputs.open_inputs(season, tiny_weights(), OPTIONS, None, False, None).job
    )
    first, second = whole.job.weights.card.bands[:2]
    one_reads, other_reads, one_is_done, failures = (
        threading.Event(),
        threading.Event(),
        threading.Event(),
        [],
    )

    def gated(name, reached, opens):
        cube = whole.cube.load().copy()
        gate = Gate(cube[first].values, reached, opens)
        cube[first] = (
            cube[first].dims,
            da.from_array(
                gate, chunks=gate.shape, name=name, asarray=False, meta=gate.values[:0, :0, :0]
            ),
        )
        cube[second] = cube[second].chunk()
        return predict.OpenJob(whole.job, cube)

    def read(own, done):
        try:
            own.read(plan_blocks(HEIGHT, WIDTH)[0])
        except Exception as error:
            failures.append(error)
        done.set()

    def refuse(*_, **__):
        raise AssertionError("the configuration was asked")

    one = threading.Thread(target=read, args=(gated("one", one_reads, other_reads), one_is_done))
    other = threading.Thread(
        target=read, args=(gated("other", other_reads, one_is_done), threading.Event())
    )
    with dask.config.set(scheduler=refuse):
        one.start()
        assert one_reads.wait(60)
        other.start()
        for thread in (one, other):
            thread.join(120)
    assert one_is_done.is_set()
    assert failures == []


def start_host(name: str, address: str, scratch: Path) -> subprocess.Popen:
    options = [
        "--name",
        name,
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
        "--local-directory",
        str(scratch / name),
    ]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_two_hosts_one_of_which_dies(small, tmp_path):
    """Two worker processes with folders of their own; one is killed in the middle, and the map is
    the same.
    """
    with cluster.local_cluster(0, host="127.0.0.1") as local:
        hosts = [
            start_host(name, local.scheduler_address, tmp_path / "scratch")
            for name in ("north", "south")
        ]
        try:
            running = RunOptions(dask=local.scheduler_address)
            with Client(local, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=120)
            alive = []

            def watch(step, done, total):
                if step == "tiles" and 0 < done < total and hosts[0].poll() is None:
                    hosts[0].send_signal(signal.SIGKILL)
                    hosts[0].wait()
                if step == "tiles" and done == total:
                    alive.append(len(local.scheduler.workers))

            with listening(watch):
                result = map_cube(
                    tmp_path / "season.nc",
                    tmp_path / "weights",
                    tmp_path / "map",
                    TINY,
                    running=running,
                )
        finally:
            for host in hosts:
                host.kill()
                host.wait()
    assert files(result.out) == small
    assert alive[-1:] == [1]


def test_workers_of_this_machine_make_the_same_map(small, tmp_path):
    running = RunOptions(workers=2)
    result = map_cube(
        tmp_path / "season.nc", tmp_path / "weights", tmp_path / "map", TINY, running=running
    )
    assert files(result.out) == small


def test_a_cluster_that_is_not_there(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("panoseg.maps.cluster.CONNECT_S", 0.3)
    arguments = [
        "map",
        str(tmp_path / "season.nc"),
        "--weights",
        str(tmp_path / "weights"),
        "--out",
        str(tmp_path / "map"),
    ]
    assert main([*arguments, "--dask", "tcp://127.0.0.1:9"]) == 2
    assert "No dask scheduler answers at tcp://127.0.0.1:9: start it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="either --workers or --dask"):
        RunOptions(workers=2, dask="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match="--workers must be from 1 to 1024, not 0"):
        RunOptions(workers=0)


def test_tiles_do_not_depend_on_their_company():
    """As on a GPU, where the backbone sees several tiles at once."""
    weights, days_T = tiny_weights(), np.arange(0, 120, 30)
    model = Model.of(weights, tta=2, device="cpu", reference_date=date(2018, 9, 1))
    images = np.random.default_rng(0).integers(200, 4000, (5, 4, 10, 32, 32)).astype(np.float32)
    images[3] /= 4
    alone = [model.predict_tiles([own], days_T)[0] for own in images]
    with model.computing():
        together = model.network.predict(model.batch(images, days_T), model.options)
    for one, other in zip(alone, together, strict=True):
        assert len(one.segments) > 0
        assert one.same_up_to_ids(other)


# Outputs


def test_many_parcels_lie_in_several_files(season, tmp_path, monkeypatch):
    whole = map_cube(
        season, tiny_weights(), tmp_path / "map", MapOptions(**vars(OPTIONS) | {"gpkg": True})
    )
    assert (tmp_path / "map" / "parcels.parquet").is_file()
    options = MapOptions(**vars(OPTIONS) | {"rows_per_file": 15, "gpkg": True, "pmtiles": True})
    monkeypatch.setattr(outputs, "ROWS_AT_ONCE", 6)
    parts = map_cube(season, tiny_weights(), tmp_path / "parts", options)
    pieces = list(read_geoparquet(parts.out / "parcels.parquet"))
    assert [len(piece) for piece in pieces] == [6, 6, 3, 6, 6, 3, 6, 1]
    for piece, path in zip(
        pieces[::3], sorted((parts.out / "parcels.parquet").iterdir()), strict=True
    ):
        assert_geodataframe_equal(piece, gpd.read_parquet(path).iloc[: len(piece)])
        geo = json.loads(pq.read_schema(path).metadata[b"geo"])["columns"]["geometry"]
        assert geo["bbox"] == pytest.approx(gpd.read_parquet(path).total_bounds)
        assert set(geo["geometry_types"]) == set(gpd.read_parquet(path).geom_type)
    names = [path.name for path in sorted((parts.out / "parcels.parquet").iterdir())]
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert_geodataframe_equal(parts.parcels, whole.parcels)
    assert len(read_parcels(parts.out / "parcels.parquet")) == len(whole.parcels)
    layers = [
        gpd.read_file(out / "parcels.gpkg", layer="parcels") for out in (whole.out, parts.out)
    ]
    assert_geodataframe_equal(*layers)
    assert (parts.out / "parcels.pmtiles").read_bytes()[:8] == b"PMTiles\x03"
    tiles = gpd.read_file(parts.out / "parcels.pmtiles")
    assert set(whole.parcels["id"]) == set(tiles["id"])
    assert {"class", "confidence", "area_ha", "second_class", "second_probability"} <= set(
        tiles.columns
    )
    assert not [name for name in tiles.columns if name.startswith("probability:")]
    likely = parts.parcels.filter(like="probability:")
    assert likely.shape[1] == 18
    np.testing.assert_allclose(likely.sum(axis=1), 1, atol=1e-6)
    assert (layers[1]["second_class"] == parts.parcels["second_class"]).all()
    np.testing.assert_allclose(
        tiles.total_bounds, whole.parcels.to_crs("EPSG:3857").total_bounds, atol=20
    )  # an unit of a tile of zoom level 13 is a metre


def test_a_window_comes_back_from_its_bytes():
    block = plan_blocks(24, 40, 24, 8, 64)[0]
    network = StandIn(EndlessLandscape(), None)
    pictures = [network.at(own.top, own.left, own.height, own.width) for own in block.tiles]
    pictures[0] = Panoptic.empty(24, 24)  # a tile that says nothing of classes
    tiles = [
        Tile.of(own.top, own.left, picture)
        for own, picture in zip(block.tiles, pictures, strict=True)
    ]
    again = from_bytes(to_bytes(FinishedWindow(tiles, np.ones((24, 40), bool))), block)
    for tile, other in zip(tiles, again.tiles, strict=True):
        np.testing.assert_array_equal(tile.position_hw, other.position_hw)
        for name, column in vars(tile.segments).items():
            np.testing.assert_array_equal(getattr(other.segments, name), column)
    assert again.tiles[1].segments.probabilities.shape[1] == PASTIS.count


def test_rasters_are_written_and_checked_with_a_small_cache(season, tmp_path, monkeypatch):
    """GDAL would take a twentieth of the machine's memory."""
    found, check = [], rasters._check_written
    monkeypatch.setattr(
        rasters,
        "_check_written",
        lambda *given: found.append(getenv()["GDAL_CACHEMAX"]) or check(*given),
    )
    map_cube(season, tiny_weights(), tmp_path / "map", OPTIONS)
    assert found == [64 * 1024**2] * 3


def test_the_raster_of_confidence(season, tmp_path):
    result = map_cube(season, tiny_weights(), tmp_path / "map", OPTIONS)
    confidence_HW, segment_HW = (
        raster(result.out / "confidence.tif"),
        raster(result.out / "segments.tif"),
    )
    assert (confidence_HW[segment_HW == 0] == 255).all()
    for id_, score in zip(result.parcels["id"], result.parcels["confidence"], strict=True):
        assert set(confidence_HW[segment_HW == int(id_)]) == {round(100 * score)}


def test_the_item_of_a_map(season, tmp_path, monkeypatch):
    save_weights(tmp_path / "weights", tiny_weights())
    options = MapOptions(**vars(OPTIONS) | {"pmtiles": True, "rows_per_file": 20})
    monkeypatch.chdir(tmp_path)
    result = map_cube(season, "weights", tmp_path / "map", options)
    written = json.loads((result.out / "item.json").read_text())
    item = pystac.Item.from_dict(written)
    core = {**written, "stac_extensions": []}
    pystac.Item.from_dict(
        core
    ).validate()  # the core's schemas lie in pystac; those of extensions only on the web
    model = MLMExtension.ext(item)
    assert model.mlm_name == "paps"
    assert "panoptic-segmentation" in model.tasks
    assert [band if isinstance(band, str) else band.name for band in model.input[0].bands] == list(
        tiny_weights().card.bands
    )
    assert len(written["properties"]["mlm:input"][0]["value_scaling"]) == len(
        tiny_weights().card.bands
    )
    assert model.total_parameters == sum(tensor.numel() for tensor in tiny_weights().state.values())
    [described] = [asset for asset in item.assets.values() if "mlm:model" in asset.roles]
    assert described.extra_fields["mlm:artifact_type"] == "safetensors"
    assert Path(described.href).is_absolute()
    for name, asset in item.assets.items():
        assert (result.out / asset.href).is_file(), name
    assert {
        "parcels-pmtiles",
        "classes-tif",
        "confidence-tif",
        "segments-tif",
        "part-00000",
        "part-00001",
    } <= set(item.assets)
    assert shapely.geometry.shape(item.geometry).contains(
        result.parcels.to_crs("EPSG:4326").union_all().centroid
    )


def test_the_item_of_a_map_over_the_date_line(season, tmp_path):
    given = inputs.open_inputs(season, tiny_weights(), OPTIONS, None, False, None)
    grid = GeoBox((100, 6000), Affine(10, 0, 160_000, 0, -10, 8_150_000), "EPSG:32701")  # Fiji
    (tmp_path / "classes.tif").touch()
    found = map_item("Fiji", grid, given.season, given.weights, None, OPTIONS, tmp_path)
    outline = shapely.geometry.shape(found["geometry"])
    assert outline.geom_type == "MultiPolygon"
    assert outline.is_valid
    assert sorted(round(part.bounds[2] - part.bounds[0], 2) for part in outline.geoms) == [
        0.19,
        0.37,
    ]
    west, south, east, north = found["bbox"]
    assert (round(west, 2), round(east, 2)) == (179.81, -179.63)
    assert south < -16.72 < -16.71 < north


def test_progress_as_lines_of_json(small, tmp_path, capsys):
    arguments = [
        "map",
        str(tmp_path / "season.nc"),
        "--weights",
        str(tmp_path / "weights"),
        "--out",
        str(tmp_path / "map"),
    ]
    tiny = ["--tile", "16", "--overlap", "4", "--views", "1", "--min-area-ha", "0.03"]
    assert main([*arguments, *tiny, "--progress", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tiles = [line for line in lines if line["step"] == "tiles"]
    assert (tiles[0]["done"], tiles[-1]["done"], tiles[-1]["total"], tiles[-1]["seconds_left"]) == (
        0,
        25,
        25,
        0,
    )
    assert {"windows joined", "windows written", "sheets outlined"} <= {
        line["step"] for line in lines
    }
    assert lines[-1]["step"] == "map"
    assert lines[-1]["parcels"] == len(gpd.read_parquet(tmp_path / "map" / "parcels.parquet"))


# Outlines


def test_nothing_is_mapped_outside_of_an_outline(season, tmp_path):
    corner = shapely.box(500_000, 5_600_000 - 800, 500_000 + 900, 5_600_000)
    outline = gpd.GeoSeries([corner], crs="EPSG:32631").to_crs("EPSG:4326").iloc[0]
    whole = map_cube(season, tiny_weights(), tmp_path / "whole", OPTIONS)
    part = map_cube(season, tiny_weights(), tmp_path / "part", OPTIONS, within=outline)
    classes_HW = raster(part.out / "classes.tif")
    assert (classes_HW[:79, :89] != 255).all()
    assert (classes_HW[81:] == 255).all()
    assert (classes_HW[:, 91:] == 255).all()
    assert (classes_HW[10:70, 10:70] == raster(whole.out / "classes.tif")[10:70, 10:70]).all()
    assert part.parcels.total_bounds[2] <= 500_000 + 910


def test_an_outline_elsewhere_and_another_outline_of_an_unfinished_map_are_refused(
    season, tmp_path, monkeypatch
):
    with pytest.raises(ConfigError, match="outside of the cube"):
        map_cube(
            season, tiny_weights(), tmp_path / "map", OPTIONS, within=shapely.box(20, 20, 21, 21)
        )
    monkeypatch.setattr(mapping, "finish", lambda work: None)  # as a kill does
    map_cube(season, tiny_weights(), tmp_path / "map", OPTIONS, within=shapely.box(2, 50, 4, 51))
    with pytest.raises(OutputError, match="differs in its outline"):
        map_cube(
            season, tiny_weights(), tmp_path / "map", OPTIONS, within=shapely.box(2, 49, 4, 51)
        )


CORNERS = shapely.union_all(
    [
        shapely.box(500_020, 5_599_400, 500_530, 5_599_990),
        shapely.box(501_700, 5_598_520, 502_090, 5_598_800),
    ]
)
STRIP = shapely.LineString([(500_000, 5_598_500), (502_100, 5_600_000)]).buffer(60)


@pytest.mark.parametrize("land", [CORNERS, STRIP], ids=["far apart", "strip"])
def test_windows_outside_of_an_outline_are_skipped_and_change_nothing(
    season, tmp_path, monkeypatch, land
):
    monkeypatch.setattr(predict, "BLOCK_SIDE", 48)
    outline = gpd.GeoSeries([land], crs="EPSG:32631").to_crs("EPSG:4326").iloc[0]
    read, read_window = [], predict.read_window
    monkeypatch.setattr(
        predict, "read_window", lambda *given: read.append(given[2]) or read_window(*given)
    )
    skipped = map_cube(season, tiny_weights(), tmp_path / "skipped", OPTIONS, within=outline)
    few = len(read)
    monkeypatch.setattr(inputs.MapInputs, "outside", frozenset())
    whole = map_cube(season, tiny_weights(), tmp_path / "whole", OPTIONS, within=outline)
    assert 0 < few < 0.7 * (len(read) - few)
    assert len(skipped.parcels) > 3
    assert files(skipped.out) == files(whole.out)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 25))
def test_squares_cover_a_raster_once(height, width, side):
    seen_HW = np.zeros((height, width), int)
    for window in windows_over(height, width, side):
        assert max(window.height, window.width) <= side
        seen_HW[window.rows, window.columns] += 1
    assert (seen_HW == 1).all()
