"""The plugin for QGIS: the program behind it without QGIS, and with QGIS where it is installed."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib.util
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import psutil
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

import panoseg
from catalogue_server import NEEDS_RUSTAC, outline
from panoseg.classes import PASTIS
from panoseg.cli import main
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps.parcels import qgis_style, write_geopackage
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "qgis" / "panoseg"
PROGRAM = Path(sys.executable).with_name("panoseg")
# Debian's qgis_process is a script that passes an option that its program does not know.
QGIS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")


def needs_qgis(test):
    """A test that starts QGIS."""
    reason = "QGIS is not installed (qgis_process)"
    return pytest.mark.slow(pytest.mark.skipif(QGIS is None, reason=reason)(test))


def load_plugin_module():
    spec = importlib.util.spec_from_file_location("plugin_program", PLUGIN / "program.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


program = load_plugin_module()


def script(path: Path, text: str) -> Path:
    """A program of a few lines of Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{text}")
    path.chmod(0o755)
    return path


TELL = """
def tell(event, version=1, **values):
    print(json.dumps({"panoseg": version, "event": event, **values}), flush=True)
"""


# The JSON lines of the program.


def events_of(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_command_reports_as_json_lines(tmp_path, capsys):
    square = gpd.GeoDataFrame({"class": ["corn"]}, geometry=[shapely.box(0, 0, 99, 99)], crs=32631)
    square.to_file(tmp_path / "a.gpkg")
    words = ["compare", str(tmp_path / "a.gpkg"), str(tmp_path / "a.gpkg")]
    for option in (["--progress", "jsonl"], ["--progress=jsonl"]):
        assert main([*option, *words]) == 0
        first, *messages, last = events_of(capsys)
        assert {event["panoseg"] for event in (first, *messages, last)} == {1}
        assert first["event"] == "start"
        assert (first["command"], first["version"]) == ("compare", panoseg.__version__)
        assert {event["event"] for event in messages} == {"message"}
        assert any(event["text"].startswith("matched") for event in messages)
        assert (last["event"], last["command"]) == ("result", "compare")
        assert last["values"]["comparison"]["pq"] == 1
    assert main(["--progress", "jsonl", "compare", str(tmp_path / "b.gpkg"), words[1]]) == 2
    *_, error = events_of(capsys)
    assert (error["event"], error["code"]) == ("error", 2)
    assert "b.gpkg does not exist" in error["text"]
    assert main(["--progress", "jsonl", "compare", "--no-such-option"]) == 2
    assert [event["event"] for event in events_of(capsys)] == ["start", "error"]
    for words in (["--progress"], ["--progress", "xml", "demo"]):
        assert main(words) == 2
        assert "--progress before a command takes jsonl" in capsys.readouterr().err
    assert main(["--progress", "jsonl", "--version"]) == 0
    assert [event["event"] for event in events_of(capsys)] == ["start", "message", "result"]


def test_progress_and_faults_are_events(capsys, monkeypatch):
    from panoseg.cli import app
    from panoseg.cli.terminal import hand_over
    from panoseg.progress import counting

    def work(words):
        with counting("tiles", 3) as advance:
            print("note: half ", end="")
            print("a line")
            advance(3)
        hand_over(pq=float("nan"), where=(1, 2))
        if words:
            raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(app, "app", work)
    assert main(["--progress", "jsonl", "app"]) == 0
    _, stage, note, *progress, result = events_of(capsys)
    assert (stage["event"], stage["stage"], stage["total"]) == ("stage", "tiles", 3)
    assert (note["level"], note["text"]) == ("note", "half a line")
    assert progress[-1]["event"] == "progress"
    assert (progress[-1]["done"], progress[-1]["total"]) == (3, 3)
    assert result["values"] == {"pq": None, "where": [1, 2]}
    with pytest.raises(ZeroDivisionError):
        main(["--progress", "jsonl", "app", "x"])
    assert events_of(capsys)[-1]["text"].startswith("This is a fault of panoseg: ZeroDivisionError")


@pytest.mark.slow
def test_the_program_ends_with_its_input(season, tmp_path):
    words = ["--progress", "jsonl", "--end-with-input", "map", season, "--out", tmp_path / "map"]
    with subprocess.Popen(
        [PROGRAM, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert json.loads(running.stdout.readline())["event"] == "start"
        running.stdin.close()
        last = [json.loads(line) for line in running.stdout][-1]
    assert running.returncode == last["code"] == 143
    assert "the same command continues" in last["text"]
    assert not list(tmp_path.rglob("*.gpkg"))


# The part of the plugin that runs the program.


def test_examples_of_the_plugin():
    assert doctest.testmod(program).failed == 0


def test_variables_of_qgis_do_not_reach_the_program(tmp_path):
    leaks = dict.fromkeys(
        (
            "PYTHONHOME",
            "PYTHONPATH",
            "PYTHONEXECUTABLE",
            "PYTHONNOUSERSITE",
            "GDAL_DATA",
            "PROJ_LIB",
        ),
        "/usr/share/qgis",
    )
    base = {**os.environ, **leaks, "HTTPS_PROXY": "http://old", "no_proxy": "old", "KEPT": "é"}
    proxies = program.proxy_variables(
        True, "HttpProxy", "proxy", "8080", "ann", "p@ss", ["https://intern.example/x"]
    )
    clean = program.clean_environment(base, proxies, "/authorities.pem")
    stand_in = script(
        tmp_path / "Programme à part" / "panoseg",
        TELL + "tell('start'); tell('result', values={'words': sys.argv[1:],"
        " 'variables': dict(os.environ)})",
    )
    word = "Été 2024/récolte d'orge.nc"
    seen = program.run([str(stand_in), "map", word], clean)
    assert seen["words"] == ["--progress", "jsonl", "--end-with-input", "map", word]
    assert not leaks.keys() & seen["variables"].keys()
    assert seen["variables"]["KEPT"] == "é"
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        assert seen["variables"][name] == "http://ann:p%40ss@proxy:8080"
    assert seen["variables"]["NO_PROXY"] == seen["variables"]["no_proxy"] == "intern.example"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert seen["variables"][name] == "/authorities.pem"
    # A proxy of the system, or none, is left as it is.
    assert program.proxy_variables(False, "HttpProxy", "proxy", "1") is None
    assert program.proxy_variables(True, "DefaultProxy", "proxy", "1") is None
    assert program.clean_environment(base)["HTTPS_PROXY"] == "http://old"


def test_what_the_program_says_reaches_the_user(tmp_path):
    def ended(text: str) -> str:
        path = script(tmp_path / "panoseg", TELL + text)
        with pytest.raises(program.ProgramError) as error:
            program.run([str(path), "map"], os.environ, events.append, lines.append)
        return str(error.value)

    events, lines = [], []
    said = ended(
        "print('Warning: é', file=sys.stderr); print('no json'); tell('new event');"
        " tell('error', code=2, text='x.nc does not exist.'); sys.exit(2)"
    )
    assert said == "x.nc does not exist."
    assert [event["event"] for event in events] == ["new event", "error"]
    assert sorted(lines) == ["Warning: é", "no json"]
    assert "reads version 1" in ended("tell('start', version=2)")
    assert "too old" in ended("sys.exit('panoseg: no command \\'--progress\\'. The commands are')")
    assert "with code 7 and no reason. Its last line is: boom" in ended(
        "print('boom', file=sys.stderr); sys.exit(7)"
    )
    assert "the memory was full" in ended("os.kill(os.getpid(), 9)")
    assert "cannot be started" in str(refused_program(tmp_path / "absent"))
    # What keeps the streams open after the end of the program is not waited for.
    path = script(
        tmp_path / "panoseg",
        TELL + "import subprocess; held = subprocess.Popen(['sleep', '600']);"
        " tell('result', values={'held': held.pid})",
    )
    held = program.run([str(path), "map"], os.environ)["held"]
    os.kill(held, signal.SIGKILL)


def refused_program(path: Path) -> Exception:
    with pytest.raises(program.ProgramError) as error:
        program.run([str(path), "map"], os.environ)
    return error.value


def test_a_cancel_ends_the_whole_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "GRACE_S", 0.3)
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    stand_in = script(
        tmp_path / "panoseg",
        TELL + f"import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "tell('start', processes=[os.getpid(), child.pid])\nchild.wait()\n",
    )
    events = []
    with pytest.raises(program.Cancelled):
        program.run(
            [str(stand_in), "map"], os.environ, events.append, is_cancelled=lambda: bool(events)
        )
    for process in events[0]["processes"]:
        wait_until(lambda process=process: not is_running(process), lambda: None, 0.02)


def test_on_windows_no_console_opens_and_the_whole_tree_is_ended(monkeypatch):
    started, ended = [], []

    class Process:
        pid, returncode = 4711, None

        def __init__(self, words, **options):
            started.append((words, options))
            self.stdin, self.stdout, self.stderr = io.BytesIO(), io.BytesIO(), io.BytesIO()

        def poll(self):
            return None

        def wait(self, seconds):
            ended.append("waits" if self.stdin.closed else "input is open")

    monkeypatch.setattr(program, "WINDOWS", True)
    monkeypatch.setattr(program.subprocess, "Popen", Process)
    monkeypatch.setattr(program.subprocess, "run", lambda words, **options: ended.append(words))
    with pytest.raises(program.Cancelled):
        program.run(["C:/Été/panoseg.exe", "map"], {}, is_cancelled=lambda: True)
    [(words, options)] = started
    assert words[0] == "C:/Été/panoseg.exe"
    assert options["creationflags"] == 0x08000000
    assert "start_new_session" not in options
    # By itself when its input ends, else by force, with all that it started.
    assert ended == ["waits", ["taskkill", "/T", "/F", "/PID", "4711"], "waits"]
    own = program.Environment(Path("environment"), "panoseg")
    assert own.program == Path("environment/Scripts/panoseg.exe")
    # Names of variables have no case there.
    clean = program.clean_environment({"PythonHome": "x"}, {"HTTPS_PROXY": "http://proxy"})
    assert "PythonHome" not in clean
    assert "https_proxy" not in clean


def is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


UV = (
    TELL
    + """
import pathlib
log = pathlib.Path(sys.argv[0]).with_name("log")
log.write_text(log.read_text() + " ".join(sys.argv[1:3]) + "\\n" if log.exists() else sys.argv[1] + "\\n")
if sys.argv[1] == "venv":
    pathlib.Path(sys.argv[-1], "bin").mkdir(parents=True)
elif MODE == "no network" or MODE == "mirror" and "UV_TORCH_BACKEND" in os.environ:
    sys.exit("error: Failed to fetch: https://index.example/panoseg; dns error")
elif MODE == "slow":
    print("fetching", flush=True)
    import time; time.sleep(3600)
else:
    bin = pathlib.Path(sys.argv[sys.argv.index("--python") + 1]).parent
    path = bin / "panoseg"
    path.write_text(f"#!{sys.executable}\\nimport json\\nprint(json.dumps(dict(panoseg=1, event='start', version='0.1.0')))\\nprint(json.dumps(dict(panoseg=1, event='result')))")
    path.chmod(0o755)
"""
)


def test_an_environment_is_made_once_and_a_half_made_one_again(tmp_path):
    def uv(mode: str) -> None:
        script(tmp_path / "tools" / "uv", f"MODE = {mode!r}\n{UV}")

    variables = {**os.environ, "PATH": str(tmp_path / "tools")}
    folder = tmp_path / "à moi" / "environment"
    own = program.Environment(folder, "panoseg==0.1.0")
    assert program.find_program("", variables["PATH"], own) is None
    uv("no network")
    with pytest.raises(program.ProgramError, match=r"cannot be fetched\. Check the network"):
        own.make(variables)
    assert not folder.exists()
    uv("slow")
    lines = []
    with pytest.raises(program.Cancelled):
        own.make(variables, lines.append, lambda: "fetching" in lines)
    assert not folder.exists()
    # Killed half-way: the program may be there, but not what says that all of it is.
    script(own.program, "sys.exit(1)")
    (folder / "stale").touch()
    assert not own.is_ready()
    uv("mirror")
    own.make(variables, lines.append)
    assert own.is_ready()
    assert not (folder / "stale").exists()
    assert lines[-1] == "panoseg 0.1.0 is installed"
    assert program.find_program("", variables["PATH"], own) == str(own.program)
    # One of another version is not taken.
    assert not program.Environment(folder, "panoseg==0.2.0").is_ready()
    # What is set comes first, then the path.
    on_path = script(tmp_path / "tools" / "panoseg", "")
    assert program.find_program("", variables["PATH"], own) == str(on_path)
    named = script(tmp_path / "named" / "panoseg", "")
    assert program.find_program(str(named), variables["PATH"], own) == str(named)
    with pytest.raises(program.ProgramError, match="There is no program"):
        program.find_program(str(tmp_path / "absent"), variables["PATH"], own)


def test_without_uv_a_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_pythons", list)
    own = program.Environment(tmp_path / "environment", "panoseg")
    with pytest.raises(program.ProgramError, match="Install uv"):
        own.make({"PATH": str(tmp_path), "HOME": str(tmp_path)})


# The files of the plugin.


def test_the_plugin_is_for_old_and_new_qgis():
    metadata = configparser.ConfigParser()
    metadata.read(PLUGIN / "metadata.txt")
    general = metadata["general"]
    assert general["version"] == panoseg.__version__
    assert general["qgisMinimumVersion"] == "3.22"
    assert general["qgisMaximumVersion"].startswith("4")
    assert (PLUGIN / general["icon"]).is_file()
    for path in PLUGIN.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                assert top in {"qgis", "processing"} | sys.stdlib_module_names, f"{path}: {name}"
                assert "PyQt5" not in name
                assert "PyQt6" not in name
    assert "qgis" not in (PLUGIN / "program.py").read_text().split('"""', 2)[2].split("_LEAKS")[0]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["wheel"]["force-include"]
    assert included == {"qgis/panoseg": "panoseg/qgis_plugin"}


def test_the_plugin_is_installed_in_a_profile_and_replaces_an_older_copy(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("QGIS_CUSTOM_CONFIG_PATH", str(tmp_path))
    place = tmp_path / "profiles" / "default" / "python" / "plugins" / "panoseg"
    assert main(["qgis", "install"]) == 0
    assert f"The plugin is in {place}" in capsys.readouterr().out
    names = {path.name for path in place.rglob("*")}
    assert {"metadata.txt", "__init__.py", "program.py", "icon.svg", "LICENSE"} <= names
    (place / "of_an_older_version.py").touch()
    assert main(["qgis", "install"]) == 0
    assert {path.name for path in place.rglob("*")} == names
    assert [path.name for path in place.parent.iterdir()] == ["panoseg"]
    capsys.readouterr()
    assert main(["qgis", "install", "--profile", "work"]) == 2
    assert "no profile 'work'; it has default" in capsys.readouterr().err
    assert main(["qgis", "install", "--profile", "../work"]) == 2
    (tmp_path / "profiles" / "work").mkdir()
    assert main(["qgis", "install", "--profile", "work"]) == 0
    assert (tmp_path / "profiles" / "work" / "python" / "plugins" / "panoseg").is_dir()
    assert main(["qgis", "zip", "--out", str(tmp_path / "a.zip")]) == 0
    assert main(["qgis", "zip", "--out", str(tmp_path / "b.zip")]) == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert set(archive.namelist()) == {f"panoseg/{name}" for name in names}


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, ".local/share/QGIS/QGIS3/profiles"),
        ("linux", {"XDG_DATA_HOME": "{home}/data"}, "data/QGIS/QGIS3/profiles"),
        ("darwin", {}, "Library/Application Support/QGIS/QGIS3/profiles"),
        ("win32", {"APPDATA": "{home}/Roaming"}, "Roaming/QGIS/QGIS3/profiles"),
    ],
)
def test_profiles_of_each_system(tmp_path, monkeypatch, capsys, platform, variables, place):
    from panoseg.cli import qgis

    for name in ("QGIS_CUSTOM_CONFIG_PATH", "XDG_DATA_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    monkeypatch.setattr(qgis.sys, "platform", platform)
    newer = tmp_path / place.replace("QGIS3", "QGIS4")
    (tmp_path / place / "default").mkdir(parents=True)
    (newer / "default").mkdir(parents=True)
    found = qgis._roots("default")
    monkeypatch.undo()
    assert found == [tmp_path / place, newer]


# The style in the file.


def test_a_geopackage_has_its_style(tmp_path):
    table = gpd.GeoDataFrame(
        {
            "class": ["corn"],
            "confidence": [0.5],
            "area_ha": [1.0],
            "day": np.array(["2024-05-01"], "M8[ms]"),
        },
        geometry=[shapely.box(0, 0, 99, 99)],
        crs=32631,
    )
    write_geopackage([table, table], tmp_path / "plain.gpkg")
    write_geopackage([table, table], tmp_path / "styled.gpkg", PASTIS)
    assert pyogrio.list_layers(tmp_path / "plain.gpkg")[:, 0].tolist() == ["parcels"]
    assert len(gpd.read_file(tmp_path / "styled.gpkg", layer="parcels")) == 2
    with closing(sqlite3.connect(tmp_path / "styled.gpkg")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (10200,)
        [row] = database.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles"
        )
        [(kind,)] = database.execute(
            "SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'"
        )
    assert (*row[:3], kind) == ("parcels", "geom", 1, "attributes")
    assert row[3] == qgis_style(PASTIS)
    root = ElementTree.fromstring(row[3])
    values = [entry.get("value") for entry in root.iter("category")]
    assert values == [*(PASTIS[number].name for number in PASTIS.ids("thing")), ""]
    fills = [entry.get("value") for entry in root.iter("Option") if entry.get("name") == "color"]
    assert fills[values.index("corn")] == "255,187,120,255"
    opacity = [
        entry.get("value") for entry in root.iter("Option") if entry.get("name") == "expression"
    ]
    assert all('"confidence"' in expression for expression in opacity)


def test_crops_of_given_fields_as_a_geopackage(tmp_path, capsys):
    from panoseg.maps.refine import refine_file

    with rasterio.open(
        tmp_path / "classes.tif", "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8",
        crs="EPSG:32631", transform=Affine(10, 0, 0, 0, -10, 80),
    ) as target:  # fmt: skip
        target.write(np.full((1, 8, 8), 3, np.uint8))
    fields = gpd.GeoDataFrame(
        {"Class": ["x"], "fid": ["7"]}, geometry=[shapely.box(0, 0, 40, 80)], crs=32631
    )
    fields.to_parquet(tmp_path / "fields.parquet")
    out = tmp_path / "refined.gpkg"
    refine_file(tmp_path / "classes.tif", tmp_path / "fields.parquet", out)
    found = gpd.read_file(out, layer="parcels")
    assert found["class"].tolist() == ["class 3"]
    assert (found["given_Class"].tolist(), found["given_fid"].tolist()) == (["x"], ["7"])
    words = ["refine", str(tmp_path / "classes.tif"), "--out", str(out)]
    assert main(words) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "own.gpkg")]) == 0
    assert (tmp_path / "own.gpkg").is_file()


# With QGIS.


@pytest.fixture(scope="module")
def season(tmp_path_factory) -> Path:
    """A small season in a folder with spaces and accents, with its true fields."""
    folder = tmp_path_factory.mktemp("season") / "Été à la ferme"
    folder.mkdir()
    cube, parcels = panoseg.simulate(48, seed=5, dates=(6, 6))
    cube.to_netcdf(folder / "saison.nc")
    parcels.to_file(folder / "vrais champs.gpkg", layer="champs")
    return folder / "saison.nc"


@pytest.fixture(scope="module")
def geotiffs(season) -> Path:
    """The same season as one GeoTIFF for each date."""
    import xarray as xr

    folder = season.with_name("images")
    folder.mkdir()
    with xr.open_dataset(season) as cube:
        days = cube["time"].values.astype("M8[D]").astype(str)
        values = np.stack([cube[band].values for band in PASTIS_BANDS], 1).astype(np.uint16)
        left, top = float(cube.x[0]) - 5, float(cube.y[0]) + 5
    for day, bands in zip(days, values, strict=True):
        with rasterio.open(
            folder / f"S2_{day}.tif", "w", driver="GTiff", width=48, height=48, count=10,
            dtype="uint16", crs="EPSG:32631", transform=Affine(10, 0, left, 0, -10, top), nodata=0,
        ) as target:  # fmt: skip
            target.write(bands)
            target.descriptions = PASTIS_BANDS
    return folder


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """QGIS of a user of its own, with the plugin: run it with words, or start it."""
    home = tmp_path_factory.mktemp("home")
    variables = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",  # QGIS takes the Python that it finds first
        "LANG": "C.UTF-8",
        "QT_QPA_PLATFORM": "offscreen",
        "QGIS_CUSTOM_CONFIG_PATH": str(home),
        "PANOSEG_PROGRAM": str(PROGRAM),
        "PYTHONPATH": "/usr/share/qgis/python",
        "GDAL_DATA": "/usr/share/gdal",
        "PROJ_LIB": "/usr/share/proj",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGIS_CUSTOM_CONFIG_PATH", str(home))
        assert main(["qgis", "install"]) == 0

    def run(*words: object, **more: str) -> tuple[int, str]:
        done = subprocess.run(
            [QGIS, *map(str, words)],
            env={**variables, **more},
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout + done.stderr

    run.variables = variables
    if QGIS is not None:
        assert "panoseg" in run("plugins", "enable", "panoseg")[1]
    return run


@pytest.fixture(scope="module")
def mapped(desk, season) -> Path:
    """The folder of a map that qgis_process made; fields.gpkg is beside it."""
    folder = season.with_name("carte")
    words = [f"CUBE={season}", "VIEWS=1", "YEAR=2019", "MIN_AREA=0.1", "EXTRA=--max-dates 5"]
    code, said = desk(
        *("run", "panoseg:map", "--", *words),
        *(f"OUTPUT={season.with_name('champs.gpkg')}", f"FOLDER={folder}"),
    )
    assert code == 0, said
    assert "PARCELS:" in said
    return folder


@needs_qgis
def test_qgis_process_maps_a_season(mapped, season):
    assert (mapped / "report.html").is_file()
    fields = gpd.read_file(season.with_name("champs.gpkg"), layer="parcels")
    kept = gpd.read_parquet(mapped / "parcels.parquet")
    assert fields["class"].tolist() == kept["class"].tolist()
    record = json.loads((mapped / "map.json").read_text())
    assert (record["options"]["views"], record["options"]["max_dates"]) == (1, 5)
    assert (record["options"]["year"], record["options"]["min_area_ha"]) == (2019, 0.1)
    assert {path.name for path in season.parent.iterdir() if path.name.startswith(".")} == set()


@needs_qgis
def test_qgis_process_gives_crops_to_fields_and_compares(desk, mapped, season):
    truth, out = season.with_name("vrais champs.gpkg"), season.with_name("cultures.gpkg")
    code, said = desk(
        *("run", "panoseg:refine", "--", f"FIELDS={truth}", f"MAP={mapped}", f"OUTPUT={out}")
    )
    assert code == 0, said
    fields = gpd.read_file(out, layer="parcels")
    assert {"class", "confidence", "given_class"} <= set(fields.columns)
    code, said = desk(
        *("run", "panoseg:compare", "--", f"FIELDS={out}", f"TRUTH={truth}", "DECLARED_ONLY=true"),
        *("CLASS=class", "TRUTH_CLASS=class", f"OUTPUT={season.with_name('scores.json')}"),
    )
    assert code == 0, said
    assert "MISSED:\t0" in said
    assert json.loads(season.with_name("scores.json").read_text())["declared_only"] is True


@needs_qgis
def test_qgis_process_maps_a_folder_before_it_gives_crops(desk, geotiffs, season):
    truth, out = season.with_name("vrais champs.gpkg"), season.with_name("molles.gpkg")
    code, said = desk(
        *("run", "panoseg:refine", "--", f"FIELDS={truth}|layername=champs", "RULE=1"),
        *(f"CUBE_FOLDER={geotiffs}", "WEIGHTS=fast", f"OUTPUT={out}"),
    )
    assert code == 0, said
    assert f"map {geotiffs} " in said
    assert "--weights fast" in said
    fields = gpd.read_file(out, layer="parcels")
    assert fields["determination_details"].str.contains("soft rule").all()


@needs_qgis
def test_qgis_process_inspects_a_folder_and_says_why_a_file_is_refused(desk, geotiffs, tmp_path):
    page = tmp_path / "page.html"
    code, said = desk(
        *("run", "panoseg:inspect", "--", f"CUBE_FOLDER={geotiffs}", f"OUTPUT={page}"),
        "EXTRA=--nodata 65000",
    )
    assert code == 0, said
    assert "DATES:\t6" in said
    assert "65000" in page.read_text()
    refused = tmp_path / "season.nc"
    refused.write_text("no season")
    out = tmp_path / "fields.gpkg"
    code, said = desk("run", "panoseg:map", "--", f"CUBE={refused}", f"OUTPUT={out}")
    assert code != 0
    assert "season.nc" in said
    assert "Traceback" not in said
    code, said = desk(
        *("run", "panoseg:map", "--", f"CUBE={refused}", f"OUTPUT={out}"),
        PANOSEG_PROGRAM=str(tmp_path / "absent"),
    )
    assert code != 0
    assert "There is no program" in said
    code, said = desk(
        *("run", "panoseg:map", "--", f"CUBE={refused}", f"OUTPUT={out}"), PANOSEG_PROGRAM=""
    )
    assert code != 0
    assert "panoseg is not installed" in said
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "season.nc"}


@needs_qgis
@NEEDS_RUSTAC
def test_qgis_process_fetches_a_season(desk, server, tmp_path):
    words = [f"AREA={outline(tmp_path / 'farm.geojson')}", "YEAR=2019", f"CATALOG={server.url}"]
    code, said = desk(
        *("run", "panoseg:fetch", "--", *words, f"OUTPUT={tmp_path}", "EXTRA=--margin-m 0")
    )
    assert code == 0, said
    assert (tmp_path / "season-2019.zarr" / "zarr.json").is_file()


CANCEL = """
import sys, time
sys.path.insert(0, sys.argv[1])
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsProject
application = QgsApplication([], False)
application.initQgis()
from panoseg.provider import Provider
provider = Provider()
QgsApplication.processingRegistry().addProvider(provider)

class Feedback(QgsProcessingFeedback):
    polls = 0
    def isCanceled(self):
        self.polls += 1
        return self.polls > self.most

for most in map(int, sys.argv[4:]):
    feedback = Feedback()
    feedback.most = most
    algorithm = QgsApplication.processingRegistry().algorithmById("panoseg:map").create()
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    found, good = algorithm.run({"CUBE": sys.argv[2], "OUTPUT": sys.argv[3]}, context, feedback)
    assert good and not found, (found, good)
print("cancelled")
"""


@needs_qgis
def test_a_cancel_leaves_no_process_and_no_file(desk, season, tmp_path):
    """After one question whether it is cancelled, after nine and after thirty, ten a second."""
    (tmp_path / "tmp").mkdir()
    plugins = Path(desk.variables["HOME"]) / "profiles" / "default" / "python" / "plugins"
    words = [plugins, season, tmp_path / "fields.gpkg", 1, 9, 30]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", CANCEL, *map(str, words)],
        env={**desk.variables, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout.endswith("cancelled\n"), done.stdout + done.stderr
    assert running_with(str(season)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert not list((tmp_path / "tmp").rglob("*panoseg*"))


def running_with(word: str) -> list[int]:
    """Processes of panoseg, on whose command line a word is."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if word in words and process.pid != os.getpid() and "--progress" in words:
            found.append(process.pid)
    return found


@needs_qgis
def test_a_killed_qgis_leaves_no_process(desk, season, tmp_path):
    """The program ends with the process that started it."""
    copy = tmp_path / "season.nc"
    shutil.copy(season, copy)
    words = ["run", "panoseg:map", "--", f"CUBE={copy}", f"OUTPUT={tmp_path / 'fields.gpkg'}"]
    with subprocess.Popen(
        [QGIS, *words], env=desk.variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        wait_until(lambda: running_with(str(copy)), running.poll, 0.05)
        running.kill()
    wait_until(lambda: not running_with(str(copy)), lambda: None, 0.05)
    assert not (tmp_path / "fields.gpkg").exists()


DRAW = """
import sys
sys.path.insert(0, sys.argv[1])
from qgis.core import (QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings,
    QgsProcessingContext, QgsProcessingFeedback, QgsProject, QgsRasterLayer, QgsVectorLayer)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
fields, folder, picture = sys.argv[2:]
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(fields, "fields", "ogr")
assert layer.isValid() and layer.labelsEnabled()
settings = QgsMapSettings()
settings.setLayers([layer])
settings.setDestinationCrs(layer.crs())
settings.setExtent(layer.extent())
settings.setOutputSize(QSize(480, 480))
settings.setBackgroundColor(QColor("white"))
job = QgsMapRendererSequentialJob(settings)
job.start()
job.waitForFinished()
job.renderedImage().save(picture)
print(type(layer.renderer()).__name__, len(layer.renderer().categories()))

# As Processing loads results.
from pathlib import Path
from panoseg.layers import load_in_group
project, context = QgsProject.instance(), QgsProcessingContext()
context.setProject(project)
context.addLayerToLoadOnCompletion(
    fields, QgsProcessingContext.LayerDetails("Fields", project, "OUTPUT"))
load_in_group(context, fields, "season", Path(folder))
plain = QgsVectorLayer.LayerOptions(False, False)
for path, details in context.layersToLoadOnCompletion().items():
    loaded = (QgsVectorLayer(path, details.name, "ogr", plain) if path == fields
        else QgsRasterLayer(path, details.name))
    project.addMapLayer(loaded)
    details.postProcessor().postProcessLayer(loaded, context, QgsProcessingFeedback())
[group] = project.layerTreeRoot().children()
print(group.name(), [(node.name(), node.isVisible()) for node in group.children()])
print(type(group.children()[0].layer().renderer()).__name__)
print(*(entry.label for entry in group.children()[1].layer().renderer().classes()[:3]), sep=", ")

# What is set in QGIS reaches the program.
import os
sys.path.insert(1, "/usr/share/qgis/python/plugins")
from processing.core.ProcessingConfig import ProcessingConfig
from panoseg.provider import Provider, setting
from panoseg.running import child_environment
from qgis.core import QgsSettings
for name, value in (("Enabled", True), ("Type", "HttpProxy"), ("Host", "proxy"), ("Port", "8080")):
    QgsSettings().setValue("proxy/proxy" + name, value)
print(child_environment()["HTTPS_PROXY"], "PYTHONPATH" in child_environment())
del os.environ["PANOSEG_PROGRAM"]
provider = Provider()
QgsApplication.processingRegistry().addProvider(provider)
print(repr(setting("PANOSEG_PROGRAM")), repr(setting("PANOSEG_INSTALL")))
ProcessingConfig.setSettingValue("PANOSEG_PROGRAM", "/opt/panoseg")
ProcessingConfig.setSettingValue("PANOSEG_INSTALL", True)
print(setting("PANOSEG_PROGRAM"), setting("PANOSEG_INSTALL"))
from panoseg.algorithms import split_words
print(*split_words("--truth 'C:" + chr(92) + "a b' --tta 1"), sep="|")
"""


@needs_qgis
def test_qgis_draws_fields_with_the_colours_of_their_crops(desk, mapped, season, tmp_path):
    from PIL import Image

    path = season.with_name("champs.gpkg")
    plugins = Path(desk.variables["HOME"]) / "profiles" / "default" / "python" / "plugins"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", DRAW, plugins, path, mapped, tmp_path / "drawn.png"],
        env=desk.variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == [
        "QgsCategorizedSymbolRenderer 19",
        "panoseg: season [('Fields', True), ('Crops of pixels', False), ('Confidence in percent',"
        " False)]",
        "QgsCategorizedSymbolRenderer",
        "background, meadow, soft winter wheat",
        "http://proxy:8080 False",
        "'' ''",
        "/opt/panoseg True",
        "--truth|C:\\a b|--tta|1",
    ], done.stderr
    assert "GeoPackage" not in done.stderr  # of a version that is only partially supported
    assert "Non-conformant" not in done.stderr
    kept = ROOT / "out" / "screenshots"
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "drawn.png", kept / "qgis-fields.png")
    image = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB"), float)
    fields = gpd.read_file(path, layer="parcels")
    largest = fields.loc[fields.area.idxmax()]
    left, bottom, right, top = fields.total_bounds
    side = max(right - left, top - bottom)
    inside = largest.geometry.buffer(-10).representative_point()
    # The extent is centred in a square picture.
    column = 240 + (inside.x - (left + right) / 2) / side * 480
    row = 240 - (inside.y - (bottom + top) / 2) / side * 480
    around = image[int(row) - 3 : int(row) + 4, int(column) - 3 : int(column) + 4].reshape(-1, 3)
    [entry] = [entry for entry in PASTIS.classes if entry.name == largest["class"]]
    colour = np.array([int(entry.colour[start : start + 2], 16) for start in (1, 3, 5)])
    opacity = (60 + 180 * largest["confidence"]) / 255
    expected = opacity * colour + (1 - opacity) * 255
    assert np.abs(around - expected).max(1).min() < 4, (around, expected)
