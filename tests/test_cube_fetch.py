"""panoseg cube against a real catalogue: equal to the published cube, even if the network fails;
every option; every kill.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from catalogue_server import DAYS, LAND, NEEDS_RUSTAC, outline, scene, serve
from cubes import item
from panoseg.cli import main
from panoseg.cube import CubeOptions
from panoseg.cube import fetch as fetch_module
from panoseg.cube.build import build_cube
from panoseg.cube.check import check_cube
from panoseg.cube.metadata import report_of
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import Window
from panoseg.cube.store import DayStore
from panoseg.errors import CubeError, OutputError, PanosegError
from panoseg.imagery import remote
from panoseg.imagery.catalogue import load_scenes
from panoseg.imagery.sentinel2 import PASTIS_BANDS

pytestmark = [NEEDS_RUSTAC, pytest.mark.usefixtures("short_retries")]
SPRING = "--from 2019-03-01 --to 2019-06-01"


@pytest.fixture(scope="module")
def truth(real_data):
    with xr.open_dataset(real_data / "flanders-2019" / "cube.nc") as cube:
        return cube.load()


def fetch(server, folder: Path, *words: object, box=LAND, margin=0, code=0) -> Path:
    """Run panoseg cube; gives the store."""
    area, out = outline(folder / "farm.geojson", box), folder / "season.zarr"
    arguments = (
        f"cube --area {area} --out {out} --catalog {server.url} {SPRING} --threads 4 --margin-m"
        f" {margin}".split()
    )
    assert main([*arguments, *map(str, words)]) == code
    return out


def numbers(path: Path) -> xr.Dataset:
    cube = xr.decode_cf(open_cube(path))
    with reading(path):
        return cube.load()


def assert_equal(cube: xr.Dataset, truth: xr.Dataset) -> None:
    """The same numbers on the same pixels and dates; no data is NaN here and 0 there."""
    there = truth.sel(time=cube.time, y=cube.y, x=cube.x)
    for band in (*PASTIS_BANDS, "SCL"):
        np.testing.assert_array_equal(
            cube[band].fillna(0).values, there[band].fillna(0).values, band
        )


def test_the_cube_equals_the_published_one(server, truth, tmp_path, capsys):
    path = fetch(server, tmp_path)
    cube = numbers(path)
    assert cube.time.dt.strftime("%Y-%m-%d").values.tolist() == list(DAYS)
    assert cube.sizes == {"time": 3, "y": 64, "x": 64}
    assert_equal(cube, truth)
    checked = check_cube(open_cube(path), PASTIS_BANDS)
    assert checked.odc.geobox.crs.epsg == 32631
    said = capsys.readouterr().out
    assert "3 dates of 3 scenes" in said
    assert "2019-04-16  100% clear" in said
    # Zarr 3, a checksum a chunk
    metadata = json.loads((path / "B02" / "zarr.json").read_text())
    assert metadata["zarr_format"] == 3
    assert [codec["name"] for codec in metadata["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert not path.with_name("season.zarr.unfinished").exists()


def test_all_dates_of_a_season(stac, truth, tmp_path):
    """Every scene of the folder, clouds included, within one harvest year."""
    with serve(stac, tmp_path) as running:
        area = outline(tmp_path / "farm.geojson")
        words = (
            f"cube --area {area} --out {tmp_path / 's.zarr'} --catalog {running.url} --season 2019"
            " --margin-m 0 --min-clear 0"
        )
        assert main(words.split()) == 0
    cube = numbers(tmp_path / "s.zarr")
    assert cube.sizes["time"] == 24
    assert str(cube.time.values[0])[:10] == "2018-09-08"
    assert_equal(cube, truth)


def test_a_flipped_bit_is_found(server, tmp_path):
    path = fetch(server, tmp_path)
    chunk = path / "B04" / "c" / "1" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CubeError, match="cannot be read"):
        numbers(path)


def test_land_around_the_outline_is_fetched_as_far_as_asked(server, truth, tmp_path):
    inner = shapely.box(574800, 5622000, 575000, 5622200).buffer(
        -1
    )  # grows to 320 m, then by the margin
    cube = numbers(fetch(server, tmp_path, box=inner, margin=100))
    assert (cube.sizes["y"], cube.sizes["x"]) == (52, 52)
    assert float(cube.x[0]) == 574645
    met = cube.sel(x=slice(574680, None))
    assert_equal(met, truth)
    assert cube["B02"].sel(x=slice(None, 574680)).isnull().all()


def test_a_catalogue_without_scenes_and_seasons_that_are_none(server, tmp_path, capsys):
    fetch(server, tmp_path, box=shapely.box(574680, 5721800, 575320, 5722440), code=2)
    assert "has no scene of farm" in capsys.readouterr().err
    for words, message in (
        ("--season 2190", "is in the future"),
        ("--season 1200", "give a harvest year from 1986 to 2199"),
        ("--from 2019-05-01 --to 2019-04-01", "ends before it begins"),
        ("--from soon --to 2019-04-01", "'soon' is not a date"),
        ("--from 2019-05-01", "Pass either --season or both --from and --to"),
        (
            "--season 2019 --from 2019-05-01 --to 2019-06-01",
            "Pass either --season or both --from and --to",
        ),
        ("", "Pass either --season or both --from and --to"),
        ("--season 2019 --catalog nowhere", "Unknown catalogue 'nowhere'"),
        ("--season 2019 --max-dates 0", "--max-dates is 0"),
    ):
        arguments = [
            "cube",
            "--area",
            str(tmp_path / "farm.geojson"),
            "--out",
            str(tmp_path / "other.zarr"),
            *words.split(),
        ]
        assert main(arguments) == 2, words
        error = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in error if line.startswith("panoseg")]) == 1
        assert message in error[-1]
    assert not list(tmp_path.glob("other*"))


def test_days_that_no_calendar_has_are_one_line(tmp_path, capsys):
    outline(tmp_path / "farm.geojson")
    for words, message in (
        ("--from 2019-05-01 --to 9999-12-31", "outside of the years 1985 to 2200"),
        ("--from 0001-01-01 --to 2019-05-01", "outside of the years 1985 to 2200"),
        ("--season 9999", "give a harvest year from 1986 to 2199"),
        ("--season 1", "give a harvest year from 1986 to 2199"),
    ):
        arguments = [
            "cube",
            "--area",
            str(tmp_path / "farm.geojson"),
            "--out",
            str(tmp_path / "a.zarr"),
            *words.split(),
        ]
        assert main(arguments) == 2, words
        assert message in capsys.readouterr().err
    for season in ("10000", "0", "-5"):
        arguments = [
            "map",
            "--area",
            str(tmp_path / "farm.geojson"),
            "--out",
            str(tmp_path / "map"),
            "--season",
            season,
        ]
        assert main(arguments) == 2
        assert "give a harvest year from 1986 to 2199" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["farm.geojson"]


def test_a_season_that_goes_on_is_searched_until_today_and_days_are_those_of_the_place(
    tmp_path, monkeypatch
):
    """In Fiji a scene of 22:30 in UTC is one of the next day."""
    gpd.GeoSeries([shapely.box(179.4, -16.7, 179.41, -16.69)], crs=4326).to_file(
        tmp_path / "farm.geojson"
    )
    today = datetime.now(UTC).date()
    times = [f"{day}T22:30:00Z" for day in ("2019-04-30", "2019-05-01", "2019-05-02", today)]
    asked, made = [], []

    def search(area, first, last, catalogue):
        asked.append(last)
        return [
            item(time[:10], time, {"B02": {"href": "https://example.org/B02.tif"}})
            for time in times
        ]

    monkeypatch.setattr(fetch_module, "search", search)
    monkeypatch.setattr(
        fetch_module, "build_cube", lambda scenes, *_, **more: made.append((scenes, more))
    )
    for place, last in enumerate((date(2019, 5, 2), date(2199, 1, 1))):
        request = fetch_module.CubeRequest(
            tmp_path / "farm.geojson", date(2019, 5, 2), last, yes=True
        )
        fetch_module.fetch_cube(
            request, tmp_path / f"{place}.zarr", tmp_path / f"{place}.json", CubeOptions()
        )
    assert asked == [date(2019, 5, 2), today + timedelta(days=1)]
    assert [[scene.id for scene in scenes] for scenes, _ in made] == [
        ["2019-05-01"],
        ["2019-05-01", "2019-05-02", str(today)],
    ]
    assert "The season ends on 2199-01-01" in made[1][1]["notes"][0]


def test_names_with_dots_have_lists_of_their_own(server, tmp_path):
    for year, span in (("2018", "--from 2019-03-01 --to 2019-04-01"), ("2019", SPRING)):
        area = outline(tmp_path / "farm.geojson")
        words = (
            f"cube --area {area} --out {tmp_path}/farm.{year} --catalog {server.url} {span}"
            " --margin-m 0"
        )
        assert main(words.split()) == 0
    assert {"farm.2018.scenes.json", "farm.2019.scenes.json"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_a_continent_asks_first(tmp_path, capsys):
    gpd.GeoSeries([shapely.box(2, 45, 8, 50)], crs=4326).to_file(tmp_path / "large.geojson")
    words = [
        "cube",
        "--area",
        str(tmp_path / "large.geojson"),
        "--out",
        str(tmp_path / "s.zarr"),
        "--season",
        "2019",
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "large covers 251," in error
    assert "GB to download" in error
    assert "--yes" in error
    assert not (tmp_path / "s.scenes.json").exists()
    # The same with --yes gets as far as the catalogue.
    assert main([*words, "--yes", "--catalog", "http://127.0.0.1:9"]) == 2
    assert "does not answer" in capsys.readouterr().err


def test_parts_far_apart_ask_first(tmp_path, capsys):
    gpd.GeoSeries(
        [shapely.box(2, 45, 2.01, 45.01), shapely.box(4, 48, 4.01, 48.01)], crs=4326
    ).to_file(tmp_path / "two.geojson")
    words = [
        "cube",
        "--area",
        str(tmp_path / "two.geojson"),
        "--out",
        str(tmp_path / "s.zarr"),
        "--season",
        "2019",
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "The rectangle around two covers 5" in error
    assert "its parts only 2 km2" in error
    assert main([*words, "--yes", "--catalog", "http://127.0.0.1:9"]) == 2
    assert "does not answer" in capsys.readouterr().err


@contextmanager
def troubled(stac, folder, **faults):
    with serve(stac, folder, DAYS) as running:
        for name, value in faults.items():
            setattr(running.faults, name, value)
        yield running


@pytest.mark.parametrize(
    "faults",
    [
        {"slow_s": 0.05},
        {"dropped": 5, "paths": "/search|/$"},
        {"dropped": 5, "paths": "B0.*tif"},
        {"statuses": [429, 500, 503, 429, 500], "paths": "/files"},
        {"statuses": [429, 500, 503]},
    ],
    ids=[
        "slow",
        "dropped",
        "dropped in the middle",
        "statuses of files",
        "statuses of the catalogue",
    ],
)
def test_trouble_on_the_way_changes_nothing(stac, truth, tmp_path, faults):
    with troubled(stac, tmp_path, **faults) as running:
        path = fetch(running, tmp_path)
        assert not running.faults.statuses
        assert not running.faults.dropped
    cube = numbers(path)
    assert cube.sizes["time"] == 3
    assert_equal(cube, truth)


def test_a_missing_and_a_truncated_file_cost_their_scenes_and_are_named(
    stac, truth, tmp_path, capsys
):
    missing, truncated = f"{scene(DAYS[0])}/B05.tif", f"{scene(DAYS[1])}/B8A.tif"
    with troubled(stac, tmp_path, missing=(missing,), truncated=(truncated,)) as running:
        path = fetch(running, tmp_path)
    cube = numbers(path)
    assert cube.time.dt.strftime("%Y-%m-%d").values.tolist() == [DAYS[2]]
    assert_equal(cube, truth)
    said = capsys.readouterr()
    assert (
        f"left out: scene {scene(DAYS[0])} of {DAYS[0]}: B05 cannot be read (HTTP response code:"
        " 404)" in said.err
    )
    assert f"left out: scene {scene(DAYS[1])}: B8A cannot be read" in said.out
    report = report_of(open_cube(path), path)
    assert set(report.left_out_scenes) == {scene(DAYS[0]), scene(DAYS[1])}
    assert set(report.left_out_dates) == {DAYS[0], DAYS[1]}


def test_the_other_scene_of_the_day_steps_in(stac, truth, tmp_path):
    """Two items of one acquisition: the newer processing is read; where it is damaged, the
    older.
    """

    def twice(items):
        for original in list(items):
            again = json.loads(json.dumps(original))
            again["id"] = original["id"].replace("_0_L2A", "_1_L2A")
            again["properties"]["s2:processing_baseline"] = "02.09"
            for asset in again["assets"].values():
                asset["href"] = asset["href"].replace("B02", "B03")
            items.append(again)
        return items

    with serve(stac, tmp_path, DAYS, twice) as running:
        running.faults.missing = (f"{scene(DAYS[1])}/B03.tif",)
        path = fetch(running, tmp_path)
    cube = numbers(path)
    np.testing.assert_array_equal(cube["B02"].sel(time=DAYS[0]), truth["B03"].sel(time=DAYS[0]))
    assert DAYS[1] not in cube.time.dt.strftime("%Y-%m-%d").values  # its B03 is missing in both
    report = report_of(open_cube(path), path)
    assert report.scenes[DAYS[0]] == [scene(DAYS[0]).replace("_0_", "_1_"), scene(DAYS[0])]


def test_nothing_that_can_be_read_is_one_line_and_may_be_tried_again(stac, truth, tmp_path, capsys):
    with troubled(
        stac, tmp_path, missing=tuple(f"{scene(day)}/SCL.tif" for day in DAYS)
    ) as running:
        fetch(running, tmp_path, code=2)
        assert "3 scenes could not be read (SCL cannot be read" in capsys.readouterr().err
        for day in DAYS:
            remote.drop_cached(f"{running.url}/files/{scene(day)}/SCL.tif")
        running.faults.missing = ()
        assert_equal(numbers(fetch(running, tmp_path)), truth)


def test_an_item_without_all_bands_is_left_out(stac, tmp_path, capsys):
    def without(items):
        del items[0]["assets"]["nir08"]
        items[1]["assets"]["scl"]["href"] = "file:///etc/passwd"
        return items

    with serve(stac, tmp_path, DAYS, without) as running:
        path = fetch(running, tmp_path)
    assert numbers(path).sizes["time"] == 1
    said = capsys.readouterr().out
    assert "has no file of B8A" in said
    assert "is not a URL of http, https, s3" in said


def masked(server, folder, *words) -> np.ndarray:
    """Where a cloudy date has no data."""
    return numbers(fetch(server, folder, *words))["B11"].isnull().values


@pytest.fixture(scope="module")
def cloudy(stac, tmp_path_factory):
    """A catalogue of a date with clouds on part of the land."""
    with serve(stac, tmp_path_factory.mktemp("cloudy"), ("2019-03-07",)) as running:
        yield running


def test_masks_are_an_option_and_reach_around_what_they_mask(cloudy, truth, tmp_path):
    scl_HW = truth["SCL"].sel(time="2019-03-07").values
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    none, bare, wide, snow = (
        masked(cloudy, folder, *words.split())[0]
        for folder, words in zip(
            folders,
            ("", "--mask cloud --dilate-m 0", "--mask cloud shadow --dilate-m 20", "--mask snow"),
            strict=True,
        )
    )
    assert not none.any()
    np.testing.assert_array_equal(bare, np.isin(scl_HW, (8, 9, 10)))
    assert 0 < bare.sum() < wide.sum() < wide.size
    assert not snow.any()
    cube = numbers(folders[2] / "season.zarr")
    np.testing.assert_array_equal(cube["SCL"].values[0], scl_HW)
    assert json.loads(cube.attrs["panoseg"])["plan"]["options"]["dilate_m"] == 20


def test_dates_are_chosen_by_what_they_show(stac, tmp_path, capsys):
    with serve(stac, tmp_path) as running:
        area = outline(tmp_path / "farm.geojson")
        words = (
            f"cube --area {area} --catalog {running.url} --from 2019-07-01 --to 2019-09-01"
            " --margin-m 0"
        )
        assert main([*words.split(), "--out", str(tmp_path / "a.zarr"), "--min-clear", "0.5"]) == 0
        assert "2019-08-14  left out: 15% clear" in capsys.readouterr().out
        assert main([*words.split(), "--out", str(tmp_path / "b.zarr"), "--max-dates", "2"]) == 0
        assert "left out: clearer dates near it" in capsys.readouterr().out
        assert numbers(tmp_path / "b.zarr").sizes["time"] == 2
        assert (
            main(
                [
                    *words.split(),
                    "--out",
                    str(tmp_path / "c.zarr"),
                    "--min-clear",
                    "1",
                    "--to",
                    "2019-08-20",
                ]
            )
            == 0
        )


def test_the_same_command_again_is_done_and_another_is_refused(server, tmp_path, capsys):
    path = fetch(server, tmp_path)
    before = contents(tmp_path)
    asked = len(server.requests)
    fetch(server, tmp_path, "--threads", 2)
    assert len(server.requests) == asked
    assert contents(tmp_path) == before
    capsys.readouterr()
    fetch(server, tmp_path, "--min-clear", 0.3, code=2)
    assert "exists and is another cube" in capsys.readouterr().err
    area = tmp_path / "farm.geojson"
    words = [
        "cube",
        "--area",
        str(area),
        "--out",
        str(path),
        "--catalog",
        server.url,
        "--season",
        "2019",
    ]
    assert main(words) == 2
    assert (
        "lists the scenes of another search (it differs in its from and to)"
        in capsys.readouterr().err
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cube and its list of scenes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name.startswith("season") | ("season.zarr" in str(path))
    }


_DRIVER = """
import json, os, signal, sys, time
import dask.array, pystac_client, tyro, zarr  # so that the children need not
import panoseg.cube.fetch, panoseg.cube.store
from panoseg.cli import main
from panoseg.cube.store import Journal
from panoseg.imagery import remote
remote.GDAL_RETRIES["GDAL_HTTP_RETRY_DELAY"] = "0.02"

def fatal(owner, name, call, after):
    original, calls = getattr(owner, name), []
    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = original(*args, **kwargs)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    setattr(owner, name, wrapper)

def run(arguments, moment):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
        try:
            if moment and moment[0] == "seconds":
                signal.setitimer(signal.ITIMER_REAL, moment[1])  # SIGALRM ends a process as abruptly as SIGKILL
            elif moment:
                fatal(Journal if moment[0] == "add" else panoseg.cube.store, *moment)
            code = main(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for arguments, moments in json.loads(sys.argv[1]):
    for moment in moments:
        code = run(arguments, moment)
        assert code in ((-signal.SIGALRM, 0) if moment[0] == "seconds" else (-signal.SIGKILL,)), (arguments, moment, code)
    assert run(arguments, None) == 0, (arguments, moments)
"""

_RANDOM = random.Random(5)
# A function that is counted, at which call a process is killed, before or after it; or after how
# many seconds.
MOMENTS = {
    "never": [],
    "first looks": [("add", 1, False), ("add", 2, True)],
    "choice": [("add", 4, False)],
    "windows": [("add", 5, False), ("add", 3, True)],
    "renaming": [("move", 2, False), ("move", 5, True)],
    "last renaming": [
        ("move", 24, False),
        ("move", 1, True),
    ],  # of 11 bands of 2 dates, and of the cube before and after
    "anywhere": [("seconds", _RANDOM.uniform(0.02, 1.2)) for _ in range(10)],
}


@pytest.fixture(scope="module")
def killed(stac, tmp_path_factory):
    """Folders of cubes whose making was killed at all moments, and made on."""
    folder = tmp_path_factory.mktemp("killed")
    with serve(stac, folder, DAYS) as running:
        running.faults.truncated = (f"{scene(DAYS[1])}/B8A.tif",)
        runs = []
        for name, moments in MOMENTS.items():
            (folder / name).mkdir()
            area, out = outline(folder / "farm.geojson"), folder / name / "season.zarr"
            words = [
                "cube",
                "--area",
                area,
                "--out",
                out,
                "--catalog",
                running.url,
                *SPRING.split(),
                "--margin-m",
                0,
            ]
            runs.append(([str(word) for word in [*words, "--threads", 2]], moments))
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, json.dumps(runs)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", [name for name in MOMENTS if name != "never"])
def test_killed_and_made_on_gives_the_same_bytes(killed, name):
    whole = contents(killed / "never")
    assert len(whole) > 2 * 11
    assert contents(killed / name) == whole
    assert sorted(path.name for path in (killed / name).iterdir()) == [
        "season.scenes.json",
        "season.zarr",
    ]


def test_a_disk_that_fills_is_one_line_and_nothing_is_lost(
    server, truth, tmp_path, monkeypatch, capsys
):
    from panoseg.cube import store

    original, calls = store.DayStore.write, []

    def write(self, window, values):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(self, window, values)

    monkeypatch.setattr(store.DayStore, "write", write)
    fetch(server, tmp_path, "--threads", 1, code=2)
    error = capsys.readouterr().err
    assert "the disk is full" in error
    assert "Traceback" not in error
    assert not (tmp_path / "season.zarr").exists()
    assert len(calls) == 2
    assert_equal(numbers(fetch(server, tmp_path)), truth)
    assert len(calls) == 4  # what was written before the disk was full stays


def test_an_unfinished_cube_of_other_options_is_refused(server, tmp_path, monkeypatch):
    area = outline(tmp_path / "farm.geojson")
    fetch(server, tmp_path)
    scenes, _ = load_scenes(tmp_path / "season.scenes.json")
    from panoseg.imagery.area import grid_of, read_area

    farm = read_area(area)
    monkeypatch.setattr(
        "panoseg.cube.build.DateBuilder.fetch",
        lambda *_: (_ for _ in ()).throw(CubeError("The cube is broken.")),
    )
    out = tmp_path / "new.zarr"
    with pytest.raises(CubeError):
        build_cube(scenes, grid_of(farm), out, CubeOptions(), farm.outline)
    with pytest.raises(OutputError, match=r"unfinished cube that differs in its bands and options"):
        build_cube(
            scenes, grid_of(farm), out, CubeOptions(max_dates=2), farm.outline, bands=("B02",)
        )


def test_options_are_checked():
    for wrong in (
        {"min_clear": 2},
        {"max_dates": 0},
        {"dilate_m": -1},
        {"margin_m": -1},
        {"threads": 0},
    ):
        with pytest.raises(PanosegError):
            CubeOptions(**wrong)


def test_parts_of_chunks_that_a_kill_left_do_not_reach_the_cube(tmp_path):
    grid = GeoBox((4, 4), Affine(10, 0, 500_000, 0, -10, 5_600_000), "EPSG:32631")
    day = DayStore(tmp_path, "2019-05-01", ("B02",), grid)
    values = {band: np.full((4, 4), 7) for band in day.bands}
    day.write(Window(0, 0, 4, 4), values)
    part = day.folder / "B02" / "c" / "0" / "0" / "0.abc.partial"
    part.write_bytes(b"")
    for band in day.bands:
        (tmp_path / "cube" / band).mkdir(parents=True)
    day.move(tmp_path / "cube", 3)
    files = [path.name for path in (tmp_path / "cube").rglob("*") if path.is_file()]
    assert files == ["0", "0"]
