"""Settings of the web application, limits for its users, and the GDAL drivers that it keeps.

``AppSettings`` is given to ``panoseg app`` as options; the docstrings of its fields are the text of
``--help``. ``limit_drivers`` is called before GDAL is loaded, because GDAL reads its settings then.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from panoseg.cube import DEFAULT_CATALOGUE
from panoseg.errors import ConfigError

PACKAGE_WEIGHTS = "package"
"""Name under which the weights in the package are offered."""


@dataclass(frozen=True)
class Background:
    """A background map of tiles."""

    url: str
    """URL template of its tiles."""
    attribution: str = ""
    """Who made it and under which terms, shown on the map."""


BACKGROUNDS = {
    "osm": Background(
        "https://tile.openstreetmap.org/{z}/{x}/{y}.png",
        "© OpenStreetMap contributors (ODbL); light use only, see its tile usage policy",
    ),
    "sentinel2-cloudless": Background(
        "https://tiles.maps.eox.at/wmts/1.0.0/s2cloudless-2020_3857/default/g/{z}/{y}/{x}.jpg",
        "Sentinel-2 cloudless 2020 by EOX (modified Copernicus data), CC BY-NC-SA 4.0: not for"
        " commercial use",
    ),
}
"""Background maps by name."""
GEOCODERS = {
    "nominatim": "https://nominatim.openstreetmap.org",
    "photon": "https://photon.komoot.io",
}
"""Public servers for names of places."""


@dataclass(frozen=True)
class Limits:
    """Limits for each user."""

    area_km2: float = 400.0
    """Largest area of a map in square kilometres."""
    upload_mib: int = 512
    """Largest upload in MiB."""
    uploads: int = 50
    """Largest number of uploads that are kept for a user."""
    jobs: int = 20
    """Largest number of jobs of a user that are queued or running."""
    disk_gib: float = 20.0
    """Disk space for a user's uploads and results in GiB; above it, new jobs and uploads are
    refused.
    """
    keep_days: int = 30
    """Number of days for which ended jobs and uploads are kept; 0 keeps them without a limit."""

    def __post_init__(self) -> None:
        for name in ("area_km2", "upload_mib", "uploads", "jobs", "disk_gib"):
            if not getattr(self, name) > 0:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} must be greater than 0, not {getattr(self, name)}.")
        if self.keep_days < 0:
            raise ConfigError(f"--keep-days must be 0 or more, not {self.keep_days}.")


@dataclass(frozen=True)
class AppSettings:
    """Settings that the server and its workers share."""

    folder: Path = Path("panoseg-app")
    """Folder of jobs, uploads and the embedded database; created if it does not exist."""
    host: str = "127.0.0.1"
    """Address to listen on. Any address other than this machine's own needs --tokens."""
    port: int = 8080
    """Port to listen on; 0 takes a free one."""
    public_host: tuple[str, ...] = ()
    """Host names under which the server is reached, if these are neither this machine nor --host:
    behind a proxy, for example.
    """
    database: str | None = None
    """URL of a PostgreSQL database (postgresql+psycopg://user@host/name). Without it, SQLite in
    --folder is used. The environment variable PANOSEG_DATABASE sets it too, so that a password
    need not appear on the command line.
    """
    dask: str | None = None
    """Scheduler of the Dask cluster on which maps are computed, such as tcp://scheduler:8786."""
    catalog: str = DEFAULT_CATALOGUE
    """Default catalogue of scenes: earth-search, planetary-computer, copernicus, or the URL of a
    STAC API.
    """
    tokens: Path | None = None
    """File of users (panoseg app token NAME --tokens FILE adds one); with it everybody must sign
    in.
    """
    weights: tuple[str | Path, ...] = ()
    """Folders of weights that maps may use in addition to those in the package, or names of panoseg
    weights list, which are fetched when the server starts; each is offered under the name of its
    folder.
    """
    photo_weights: tuple[str | Path, ...] = ("coco",)
    """Folders of weights, runs, or names that photographs may use, likewise; "coco" is
    torchvision's Mask R-CNN, downloaded once.
    """
    allow: tuple[str, ...] = ()
    """Hosts, such as data.example.org or *.example.org, from which catalogues and registers may be
    fetched in addition to the hosts of the known catalogues.
    """
    private_addresses: bool = False
    """Allow hosts whose address is private or this machine's own."""
    background: str | None = None
    """Background map: osm, sentinel2-cloudless (not for commercial use), or a tile URL template
    such as https://tile.example.org/{z}/{x}/{y}.png. The browsers of users fetch its tiles. Without
    it, the map shows coasts, borders and towns.
    """
    geocoder: str | None = None
    """Server for names of places other than larger towns: nominatim, photon, or one of your own,
    such as photon=https://photon.example.org. Without it, no server is asked.
    """
    workers: int = 1
    """Number of worker processes that the server starts; 0 if workers are started by panoseg app
    worker.
    """
    lease_seconds: float = 30.0
    """Time in seconds after which the job of a worker that gives no sign of life is taken over by
    another.
    """
    limits: Limits = field(default_factory=Limits)
    """Limits for each user."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be 0 to 65535, not {self.port}.")
        if self.background and "://" not in self.background and self.background not in BACKGROUNDS:
            raise ConfigError(
                f"--background must be {', '.join(BACKGROUNDS)} or a URL template, not"
                f" {self.background!r}."
            )
        kind, _, url = (self.geocoder or "").partition("=")
        if self.geocoder and (kind not in GEOCODERS or (url and "://" not in url)):
            raise ConfigError(
                f"--geocoder must be {', '.join(GEOCODERS)} or one of them with a URL, such as"
                f" photon=https://photon.example.org, not {self.geocoder!r}."
            )
        if not 0 <= self.workers <= 256:
            raise ConfigError(f"--workers must be 0 to 256, not {self.workers}.")
        if not 1 <= self.lease_seconds <= 3600:
            raise ConfigError(f"--lease-seconds must be 1 to 3600, not {self.lease_seconds}.")
        if self.tokens is None and not is_loopback(self.host):
            raise ConfigError(
                f"Listening on --host {self.host} without users would let anybody in. Add --tokens"
                " FILE, or leave out --host."
            )
        dialect = "sqlite" if self.database is None else self.database.partition(":")[0]
        if dialect not in ("sqlite", "postgresql+psycopg"):
            raise ConfigError(
                f"--database must begin with postgresql+psycopg:// or sqlite:///, not {dialect!r}."
            )
        names = [PACKAGE_WEIGHTS, *(Path(place).name for place in self.weights)]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"The folders of --weights need different names, other than {PACKAGE_WEIGHTS!r}:"
                f" {', '.join(names[1:])}. Rename one."
            )

    @property
    def database_url(self) -> str:
        """The URL of the database."""
        return self.database or f"sqlite:///{(self.folder / 'app.sqlite').absolute()}"

    @property
    def background_map(self) -> Background | None:
        """The background map, if there is one."""
        if not self.background:
            return None
        return BACKGROUNDS.get(self.background) or Background(self.background)

    @property
    def geocoder_url(self) -> str:
        """The address of the server for names; empty if there is none."""
        kind, _, url = (self.geocoder or "").partition("=")
        return (url or GEOCODERS.get(kind, "")).rstrip("/")

    @property
    def jobs_folder(self) -> Path:
        """The folder that holds one folder per job."""
        return self.folder / "jobs"

    @property
    def uploads_folder(self) -> Path:
        """The folder of uploads."""
        return self.folder / "uploads"

    def weights_folder(self, name: str) -> Path | None:
        """Return the folder of weights for maps by its name, None for those in the package.

        Raises:
            ConfigError: No weights of this name are offered.
        """
        if name == PACKAGE_WEIGHTS:
            return None
        return _folder_named(name, self.weights, [PACKAGE_WEIGHTS])

    def photo_weights_folder(self, name: str) -> Path:
        """Return the folder of weights for photographs by its name.

        Raises:
            ConfigError: No weights of this name are offered.
        """
        return _folder_named(name, self.photo_weights, [])


def _folder_named(name: str, places: tuple[str | Path, ...], others: list[str]) -> Path:
    folders = [Path(place) for place in places]
    for folder in folders:
        if folder.name == name:
            return folder
    known = ", ".join([*others, *(folder.name for folder in folders)])
    fix = f"Choose one of: {known}." if known else "This server was started without any."
    raise ConfigError(f"There are no weights called {name!r}. {fix}")


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


GDAL_DRIVERS = (
    "COG",
    "ESRI Shapefile",
    "ESRIJSON",
    "FlatGeobuf",
    "GML",
    "GPKG",
    "GTiff",
    "GeoJSON",
    "GeoJSONSeq",
    "JP2OpenJPEG",
    "JPEG",
    "MBTiles",  # PMTiles are written through this driver
    "MEM",
    "Memory",
    "MVT",
    "OpenFileGDB",
    "PMTiles",
    "PNG",
    "TopoJSON",
    # rasterio describes warped rasters as VRT; uploads are only opened with other, named drivers
    "VRT",
    "WEBP",
)
"""GDAL drivers that stay enabled."""

# All other drivers of GDAL 3.12 as shipped by rasterio and pyogrio: GDAL_SKIP names the drivers to
# leave out, not those to keep.
_OTHER_DRIVERS = (
    "AAIGrid,ACE2,ADBC,ADRG,AIG,AIVector,AVCBin,AVCE00,AirSAR,AmigoCloud,BAG,BIGGIF,BLX,BMP,BSB,BT,"
    "BYN,CALS,CEOS,COASP,COSAR,CPG,CSV,CSW,CTG,CTable2,Carto,DAAS,DERIVED,DGN,DIMAP,DIPEx,DOQ1,"
    "DOQ2,DTED,DXF,ECRGTOC,EDIGEO,EEDA,EEDAI,EHdr,EIR,ELAS,ENVI,ERS,ESAT,ESRIC,"
    "Elasticsearch,FAST,FIT,GDALG,GFF,GIF,GNMDatabase,GNMFile,GPSBabel,GPX,"
    "GRASSASCIIGrid,GRIB,GS7BG,GSAG,GSBG,GSC,GTFS,GTI,GTX,GXF,GenBin,GeoRSS,HDF5,"
    "HDF5Image,HF2,HFA,HTTP,ILWIS,IRIS,ISCE,ISG,ISIS2,ISIS3,Idrisi,JAXAPALSAR,JDEM,JML,JSONFG,KML,"
    "KMLSUPEROVERLAY,KRO,L1B,LAN,LCP,LIBKML,LOSLAS,LVBAG,Leveller,MAP,MFF,MFF2,MRF,MSGN,MapML,"
    "MiraMonVector,NDF,NGSGEOID,NGW,NITF,NOAA_B,NSIDCbin,NTv2,NWT_GRC,NWT_GRD,OAPIF,ODS,OGCAPI,"
    "OGR_GMT,OGR_PDS,OGR_VRT,OSM,OZI,PAux,PCIDSK,PCRaster,PDF,PDS,PDS4,PGDUMP,PLMOSAIC,"
    "PLSCENES,PNM,PRF,R,RIK,RMF,ROI_PAC,RPFTOC,RRASTER,RS2,RST,Rasterlite,S102,S104,S111,S57,SAFE,"
    "SAGA,SAR_CEOS,SDTS,SENTINEL2,SGI,SIGDEM,SNAP_TIFF,SNODAS,SRP,SRTMHGT,STACIT,STACTA,SXF,"
    "Selafin,TGA,TIL,TSX,Terragen,USGSDEM,VDV,VFK,VICAR,WAsP,WCS,WFS,WMS,WMTS,XLSX,"
    "XPM,XYZ,ZMap,Zarr,netCDF,MapInfo File"
)


def limit_drivers(writing: bool) -> None:
    """Enable only ``GDAL_DRIVERS`` in this process and its children; call it before GDAL is loaded.

    Args:
        writing: Keep SQLite too, through which PMTiles are written. The server reads uploads and
            leaves it out.
    """
    # rasterio and pyogrio each bring a GDAL, and each warns about skipped drivers that it lacks.
    os.environ.setdefault("CPL_LOG", os.devnull)
    # MiB of each process for blocks that were read; GDAL's default is 5 % of the machine's memory.
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    os.environ["GDAL_SKIP"] = _OTHER_DRIVERS if writing else f"{_OTHER_DRIVERS},SQLite"
