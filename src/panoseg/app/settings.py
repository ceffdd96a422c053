"""How the web application runs: where its files and its database lie, who may use it, and how much
of it.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from panoseg.cube.options import DEFAULT_CATALOGUE
from panoseg.errors import ConfigError

PACKAGE_WEIGHTS = "package"
"""The name under which the weights in the package are offered."""


@dataclass(frozen=True)
class Limits:
    """How much one user may ask for."""

    area_km2: float = 400.0
    """Largest area of a map, square kilometres."""
    upload_mib: int = 512
    """Largest upload, MiB."""
    uploads: int = 50
    """Most uploads that are kept for a user."""
    jobs: int = 20
    """Most jobs of a user that wait or run."""
    disk_gib: float = 20.0
    """Most disk space of a user's uploads and results, GiB; beyond it nothing new is taken."""
    keep_days: int = 30
    """Days for which an ended job, and an upload that no job needs, are kept; 0 keeps them for
    ever.
    """

    def __post_init__(self) -> None:
        for name in ("area_km2", "upload_mib", "uploads", "jobs", "disk_gib"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name} {getattr(self, name)}",
                    "more than 0",
                    f"change --{name.replace('_', '-')}",
                )
        if self.keep_days < 0:
            raise ConfigError(
                f"keep_days {self.keep_days}", "days, from 0 on", "change --keep-days"
            )


@dataclass(frozen=True)
class AppSettings:
    """How the web application runs. The server and its workers have the same."""

    folder: Path = Path("panoseg-app")
    """Folder of jobs, uploads and the embedded database; made where it is not there."""
    host: str = "127.0.0.1"
    """Address to listen at; any other than this machine's own needs --tokens."""
    port: int = 8080
    """Port to listen at; 0 takes a free one."""
    public_host: tuple[str, ...] = ()
    """Names under which the page is reached, where that is neither this machine nor --host: behind
    a proxy, for example.
    """
    database: str | None = None
    """URL of a PostgreSQL database (postgresql+psycopg://user@host/name); without it SQLite in the
    folder. The variable PANOSEG_DATABASE stands for it, so that a password needs no place on a
    command line.
    """
    dask: str | None = None
    """Scheduler of a Dask cluster on which maps are computed, as tcp://scheduler:8786."""
    catalog: str = DEFAULT_CATALOGUE
    """Catalogue of scenes that is chosen first: earth-search, planetary-computer, copernicus, or
    the URL of a STAC API.
    """
    tokens: Path | None = None
    """File of users (panoseg app token NAME --tokens FILE adds one); with it everybody signs in."""
    weights: tuple[Path, ...] = ()
    """Folders of weights that maps may use beside those in the package; they are offered by the
    name of their folder.
    """
    photo_weights: tuple[Path, ...] = (Path("coco"),)
    """Folders of weights, or runs, that photographs may use; "coco" is torchvision's Mask R-CNN,
    fetched once.
    """
    allow: tuple[str, ...] = ()
    """Hosts, as data.example.org or *.example.org, from which catalogues and registers may be
    fetched beside those of the known catalogues.
    """
    private_addresses: bool = False
    """Allow hosts whose address is private or this machine's own."""
    background: str | None = None
    """Template of the tiles of a background map, as https://tile.example.org/{z}/{x}/{y}.png;
    without it there is none.
    """
    workers: int = 1
    """Processes that work on jobs beside the server; 0 leaves them to panoseg app worker."""
    lease_seconds: float = 30.0
    """A job whose worker has been silent for so long is taken over by another."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port}", "0 to 65535", "change --port")
        if not 0 <= self.workers <= 256:
            raise ConfigError(f"{self.workers} workers", "0 to 256", "change --workers")
        if not 1 <= self.lease_seconds <= 3600:
            raise ConfigError(
                f"a lease of {self.lease_seconds} s", "1 to 3600 s", "change --lease-seconds"
            )
        if self.tokens is None and not is_loopback(self.host):
            raise ConfigError(
                f"host {self.host} without users",
                "127.0.0.1, where nobody signs in",
                "add --tokens FILE, or leave --host out",
            )
        if self.database is not None and self.database.partition(":")[0] not in (
            "sqlite",
            "postgresql+psycopg",
        ):
            raise ConfigError(
                f"a database of {self.database.partition(':')[0]!r}",
                "postgresql+psycopg:// or sqlite:///",
                "change --database",
            )
        names = [PACKAGE_WEIGHTS, *(path.name for path in self.weights)]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"weights called {', '.join(names[1:])}", "folders of different names", "rename one"
            )

    @property
    def database_url(self) -> str:
        """The URL of the database."""
        return self.database or f"sqlite:///{(self.folder / 'app.sqlite').absolute()}"

    @property
    def jobs_folder(self) -> Path:
        """Where the folders of jobs lie."""
        return self.folder / "jobs"

    @property
    def uploads_folder(self) -> Path:
        """Where uploads lie."""
        return self.folder / "uploads"

    def weights_folder(self, name: str) -> Path | None:
        """The folder of weights of a name, None for those in the package. Raises ``ConfigError``
        for an unknown name.
        """
        if name == PACKAGE_WEIGHTS:
            return None
        return _named(name, self.weights, [PACKAGE_WEIGHTS])

    def photo_weights_folder(self, name: str) -> Path:
        """The folder of weights for photographs of a name. Raises ``ConfigError`` for a name that
        is not offered.
        """
        return _named(name, self.photo_weights, [])


def _named(name: str, folders: tuple[Path, ...], others: list[str]) -> Path:
    for folder in folders:
        if folder.name == name:
            return folder
    known = (
        ", ".join([*others, *(folder.name for folder in folders)])
        or "none, the server was started without"
    )
    raise ConfigError(f"weights {name!r}", f"one of: {known}", "choose another name")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen at."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


NEEDED = (
    "COG",
    "ESRI Shapefile",
    "GPKG",
    "GTiff",
    "GeoJSON",
    "JP2OpenJPEG",
    "JPEG",
    "MBTiles",  # PMTiles are written through this one
    "MEM",
    "Memory",
    "MVT",
    "PMTiles",
    "PNG",
    # in which rasterio describes what it warps; files of strangers are opened as named formats
    # alone
    "VRT",
    "WEBP",
)
"""Formats that are left."""

# All others of GDAL 3.12 as rasterio and pyogrio bring it; its setting names what is left out, not
# what is left.
_OTHERS = (
    "AAIGrid,ACE2,ADBC,ADRG,AIG,AIVector,AVCBin,AVCE00,AirSAR,AmigoCloud,BAG,BIGGIF,BLX,BMP,BSB,BT,"
    "BYN,CALS,CEOS,COASP,COSAR,CPG,CSV,CSW,CTG,CTable2,Carto,DAAS,DERIVED,DGN,DIMAP,DIPEx,DOQ1,"
    "DOQ2,DTED,DXF,ECRGTOC,EDIGEO,EEDA,EEDAI,EHdr,EIR,ELAS,ENVI,ERS,ESAT,ESRIC,ESRIJSON,"
    "Elasticsearch,FAST,FIT,FlatGeobuf,GDALG,GFF,GIF,GML,GNMDatabase,GNMFile,GPSBabel,GPX,"
    "GRASSASCIIGrid,GRIB,GS7BG,GSAG,GSBG,GSC,GTFS,GTI,GTX,GXF,GenBin,GeoJSONSeq,GeoRSS,HDF5,"
    "HDF5Image,HF2,HFA,HTTP,ILWIS,IRIS,ISCE,ISG,ISIS2,ISIS3,Idrisi,JAXAPALSAR,JDEM,JML,JSONFG,KML,"
    "KMLSUPEROVERLAY,KRO,L1B,LAN,LCP,LIBKML,LOSLAS,LVBAG,Leveller,MAP,MFF,MFF2,MRF,MSGN,MapML,"
    "MiraMonVector,NDF,NGSGEOID,NGW,NITF,NOAA_B,NSIDCbin,NTv2,NWT_GRC,NWT_GRD,OAPIF,ODS,OGCAPI,"
    "OGR_GMT,OGR_PDS,OGR_VRT,OSM,OZI,OpenFileGDB,PAux,PCIDSK,PCRaster,PDF,PDS,PDS4,PGDUMP,PLMOSAIC,"
    "PLSCENES,PNM,PRF,R,RIK,RMF,ROI_PAC,RPFTOC,RRASTER,RS2,RST,Rasterlite,S102,S104,S111,S57,SAFE,"
    "SAGA,SAR_CEOS,SDTS,SENTINEL2,SGI,SIGDEM,SNAP_TIFF,SNODAS,SRP,SRTMHGT,STACIT,STACTA,SXF,"
    "Selafin,TGA,TIL,TSX,Terragen,TopoJSON,USGSDEM,VDV,VFK,VICAR,WAsP,WCS,WFS,WMS,WMTS,XLSX,"
    "XPM,XYZ,ZMap,Zarr,netCDF,MapInfo File"
)


def limit_drivers(writing: bool) -> None:
    """From now on GDAL knows ``NEEDED`` alone, in this process and its children; to be called
    before GDAL is loaded.

    writing: leave SQLite as well, through which PMTiles are written; where strangers' files are
    read first it is left out.
    """
    os.environ.setdefault(
        "CPL_LOG", os.devnull
    )  # or each of its two copies would complain of what it lacks anyway
    # Megabytes of each process for blocks that were read; GDAL would take a twentieth of the
    # machine.
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    os.environ["GDAL_SKIP"] = _OTHERS if writing else f"{_OTHERS},SQLite"
